//! What the inside tells: one line an attack, of four fields. It comes from where an agent is: lines
//! are bounded, in the order of the table, and nothing in them is believed beyond its form.

use nix::errno::Errno;

/// No line is longer.
pub(crate) const LONGEST: usize = 1 << 20;
/// What a line begins with, so that it is told from what lbx-enter says.
const MARK: char = '@';
/// The line behind the last one.
pub(crate) const END: &str = "@end";

/// How an attack ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was refused, or there was nothing to attack.
    Held,
    /// It succeeded, or nobody knows.
    Through,
    /// It could not be tried.
    Skipped,
    /// What was found is to be judged where the machine can be seen.
    Found,
}

const WORDS: [(Verdict, &str); 4] =
    [(Verdict::Held, "held"), (Verdict::Through, "through"), (Verdict::Skipped, "skipped"), (Verdict::Found, "found")];

impl Verdict {
    pub(crate) fn word(self) -> &'static str {
        WORDS.iter().find(|(verdict, _)| *verdict == self).map_or("", |(_, word)| word)
    }
}

/// What was tried, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    pub(crate) tried: String,
    pub(crate) answer: String,
}

impl Answer {
    pub(crate) fn held(tried: impl Into<String>, answer: impl Into<String>) -> Answer {
        Answer { verdict: Verdict::Held, tried: tried.into(), answer: answer.into() }
    }

    pub(crate) fn through(tried: impl Into<String>, answer: impl Into<String>) -> Answer {
        Answer { verdict: Verdict::Through, ..Answer::held(tried, answer) }
    }

    pub(crate) fn skipped(tried: impl Into<String>, why: impl Into<String>) -> Answer {
        Answer { verdict: Verdict::Skipped, ..Answer::held(tried, why) }
    }

    /// With so much of `what` as a line may hold, whatever is in it.
    pub(crate) fn found(tried: impl Into<String>, what: &str) -> Answer {
        let what = String::from_utf8_lossy(&what.as_bytes()[..what.len().min(LONGEST / 4)]);
        Answer { verdict: Verdict::Found, ..Answer::held(tried, what) }
    }

    /// Held where `held`, else through.
    pub(crate) fn when(held: bool, tried: impl Into<String>, answer: impl Into<String>) -> Answer {
        let verdict = if held { Verdict::Held } else { Verdict::Through };
        Answer { verdict, ..Answer::held(tried, answer) }
    }

    /// This as the line of attack `name`.
    pub(crate) fn line(&self, name: &str) -> String {
        format!("{MARK}{name}\t{}\t{}\t{}\n", self.verdict.word(), escaped(&self.tried), escaped(&self.answer))
    }

    /// The answer of attack `name`, from its `line` without the newline.
    pub(crate) fn read(line: &[u8], name: &str) -> Option<Answer> {
        let line = std::str::from_utf8(line).ok().filter(|line| line.is_ascii())?;
        let mut fields = line.strip_prefix(MARK)?.strip_prefix(name)?.strip_prefix('\t')?.split('\t');
        let (word, tried, answer) = (fields.next()?, fields.next()?, fields.next()?);
        let (verdict, _) = WORDS.iter().find(|(_, known)| *known == word)?;
        if fields.next().is_some() {
            return None;
        }
        Some(Answer { verdict: *verdict, tried: unescaped(tried)?, answer: unescaped(answer)? })
    }
}

/// The name of an error, as manuals have it.
pub(crate) fn name_of(e: Errno) -> String {
    format!("{e:?}")
}

/// Whether a line is one of the inside's.
pub(crate) fn is_marked(line: &[u8]) -> bool {
    line.first() == Some(&(MARK as u8))
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'\\' => out.push(byte as char),
            byte => out.push_str(&format!("\\{byte:02x}")),
        }
    }
    out
}

fn unescaped(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                let (high, low) = (bytes.next()?, bytes.next()?);
                let digit = |byte: u8| (byte as char).to_digit(16);
                out.push((digit(high)? * 16 + digit(low)?) as u8);
            }
            b' '..=b'~' => out.push(byte),
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_survives_its_line() {
        let answer = Answer::through("open '/a\tb\\'", "\u{1b}[2J\n\u{e4}");
        let line = answer.line("name");
        assert!(line.is_ascii() && line.matches('\n').count() == 1 && line.matches('\t').count() == 3, "{line:?}");
        assert_eq!(Answer::read(line.trim_end().as_bytes(), "name"), Some(answer));
    }

    #[test]
    fn what_has_another_form_is_no_answer() {
        for line in [
            "",
            "@",
            "@name",
            "name\theld\ta\tb",
            "@other\theld\ta\tb",
            "@names\theld\ta\tb",
            "@name\tHELD\ta\tb",
            "@name\theld\ta",
            "@name\theld\ta\tb\tc",
            "@name\theld\ta\t\\",
            "@name\theld\ta\t\\zz",
            "@name\theld\ta\t\x1b",
            "@name\theld\ta\t\u{e4}",
        ] {
            assert_eq!(Answer::read(line.as_bytes(), "name"), None, "{line:?}");
        }
        assert_eq!(Answer::read(b"@name\theld\t\xff\t", "name"), None);
    }
}
