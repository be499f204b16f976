//! A patch in git's own format, which `git apply` takes anywhere: binary files as a whole, links by where
//! they lead, and what became of another kind as one that went and one that came.

use std::io::{self, Write};
use std::ops::Range;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use imara_diff::Hunk;

use super::blob::{self, Blob};
use super::print::{Paint, Troubles, shown_text};
use super::quote;
use super::walk::Change;

/// Lines around a change.
const CONTEXT: u32 = 3;
/// As many bytes stand in a line of a binary patch.
const LINE: usize = 52;
const DIGITS: &[u8; 85] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
/// git apply takes no patch that is longer, and reads it as a whole.
const LARGEST: u64 = 1 << 30;
/// The name of what is not there.
const NO_ID: &str = "0000000000000000000000000000000000000000";

/// A patch as it is printed.
pub(crate) struct Patch<'a, W> {
    pub(crate) out: &'a mut W,
    pub(crate) paint: Paint,
}

impl<W: Write> Patch<'_, W> {
    /// Prints what became of one path, whose two sides are `sides`.
    pub(crate) fn print(
        &mut self,
        change: &Change,
        sides: [Option<Blob>; 2],
        troubles: &mut Troubles,
    ) -> io::Result<()> {
        let [new, old] = sides;
        match (old, new) {
            (None, None) => Ok(()),
            (Some(old), Some(new)) if (old.mode == blob::Mode::Link) != (new.mode == blob::Mode::Link) => {
                self.file(&change.path, [Some(&old), None], troubles)?;
                self.file(&change.path, [None, Some(&new)], troubles)
            }
            (old, new) => self.file(&change.path, [old.as_ref(), new.as_ref()], troubles),
        }
    }

    fn file(&mut self, path: &[u8], [old, new]: [Option<&Blob>; 2], troubles: &mut Troubles) -> io::Result<()> {
        if [old, new].into_iter().flatten().any(|blob| blob.size > LARGEST) {
            troubles.cannot("show", path, io::Error::other("it is larger than any patch that git applies"));
            return Ok(());
        }
        let id = |side: Option<&Blob>| side.map_or_else(|| Ok(NO_ID.to_owned()), Blob::id);
        let (before, after) = match id(old).and_then(|before| Ok((before, id(new)?))) {
            Ok(ids) => ids,
            Err(e) => {
                troubles.cannot("show", path, e);
                return Ok(());
            }
        };
        let (is_same, modes) = (before == after, [old, new].map(|side| side.map(|blob| blob.mode.as_str())));
        let mut head = vec![format!("diff --git {} {}", name("a", path), name("b", path))];
        match modes {
            [Some(old), Some(new)] if old == new && is_same => return Ok(()),
            [Some(old), Some(new)] if old != new => {
                head.push(format!("old mode {old}"));
                head.push(format!("new mode {new}"));
            }
            [None, Some(new)] => head.push(format!("new file mode {new}")),
            [Some(old), None] => head.push(format!("deleted file mode {old}")),
            _ => {}
        }
        if !is_same {
            let mode = match modes {
                [Some(old), Some(new)] if old == new => format!(" {old}"),
                _ => String::new(),
            };
            head.push(format!("index {before}..{after}{mode}"));
        }
        for line in &head {
            self.line(Paint::bold, line)?;
        }
        let text = |side: Option<&Blob>| side.map_or(Some(Vec::new()), |blob| blob.text().map(<[u8]>::to_vec));
        match (text(old), text(new)) {
            _ if is_same => Ok(()),
            (Some(before), Some(after)) if before.is_empty() && after.is_empty() => Ok(()),
            (Some(before), Some(after)) => {
                // a name with a blank in it ends with a tab, as git writes it for patch(1)
                let end = if path.contains(&b' ') { "\t" } else { "" };
                let title = |side: Option<&Blob>, letter| match side {
                    Some(_) => name(letter, path) + end,
                    None => "/dev/null".to_owned(),
                };
                self.line(Paint::bold, &format!("--- {}", title(old, "a")))?;
                self.line(Paint::bold, &format!("+++ {}", title(new, "b")))?;
                self.text(&before, &after)
            }
            _ => {
                self.out.write_all(b"GIT binary patch\n")?;
                self.literal(path, new, troubles)?;
                self.literal(path, old, troubles)
            }
        }
    }

    fn line(&mut self, paint: fn(Paint) -> &'static str, text: &str) -> io::Result<()> {
        let (begin, end) = (paint(self.paint), self.paint.plain());
        writeln!(self.out, "{begin}{text}{end}")
    }

    fn text(&mut self, before: &[u8], after: &[u8]) -> io::Result<()> {
        let hunks = blob::hunks(before, after);
        let (old, new) = (blob::lines(before), blob::lines(after));
        let (old_end, new_end) = (length(&old), length(&new));
        for group in grouped(&hunks) {
            let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
            let from = first.before.start.saturating_sub(CONTEXT);
            let to = (last.before.end + CONTEXT).min(old_end);
            // as many lines of context on both sides
            let new_from = first.after.start - (first.before.start - from);
            let new_to = (last.after.end + (to - last.before.end)).min(new_end);
            self.line(Paint::hunk, &format!("@@ -{} +{} @@", span(from, to), span(new_from, new_to)))?;
            let mut at = from;
            for hunk in group {
                self.lines(b' ', &old, at..hunk.before.start)?;
                self.lines(b'-', &old, hunk.before.clone())?;
                self.lines(b'+', &new, hunk.after.clone())?;
                at = hunk.before.end;
            }
            self.lines(b' ', &old, at..to)?;
        }
        Ok(())
    }

    fn lines(&mut self, sign: u8, lines: &[&[u8]], range: Range<u32>) -> io::Result<()> {
        let begin = match sign {
            b'-' => self.paint.removed(),
            b'+' => self.paint.added(),
            _ => "",
        };
        let end = if begin.is_empty() { "" } else { self.paint.plain() };
        for line in &lines[range.start as usize..range.end as usize] {
            let (text, is_ended) = match line.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (*line, false),
            };
            self.out.write_all(begin.as_bytes())?;
            self.out.write_all(&[sign])?;
            match self.paint.is_shown {
                true => self.out.write_all(shown_text(text).as_bytes())?,
                false => self.out.write_all(text)?,
            }
            self.out.write_all(end.as_bytes())?;
            self.out.write_all(b"\n")?;
            if !is_ended {
                self.out.write_all(b"\\ No newline at end of file\n")?;
            }
        }
        Ok(())
    }

    /// All of a side, compressed, in digits of base 85.
    fn literal(&mut self, path: &[u8], side: Option<&Blob>, troubles: &mut Troubles) -> io::Result<()> {
        writeln!(self.out, "literal {}", side.map_or(0, |blob| blob.size))?;
        let mut zlib = ZlibEncoder::new(Digits { out: &mut *self.out, line: Vec::new() }, Compression::default());
        let mut written = Ok(());
        let read = side.map_or(Ok(()), |blob| {
            blob.for_each_block(|block| {
                written = zlib.write_all(block);
                // what that was is told below
                if written.is_err() { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
            })
        });
        written?;
        if let Err(e) = read {
            // git takes no part of a patch that ends here
            troubles.cannot("show", path, e);
        }
        zlib.finish()?.end()?;
        self.out.write_all(b"\n")
    }
}

/// `a/PATH` as git quotes it.
fn name(letter: &str, path: &[u8]) -> String {
    quote::quoted(&[letter.as_bytes(), b"/", path].concat())
}

fn length(lines: &[&[u8]]) -> u32 {
    u32::try_from(lines.len()).unwrap_or(u32::MAX)
}

/// Lines from `from` up to `to`, counted from 0, as a hunk's head has them.
fn span(from: u32, to: u32) -> String {
    match to - from {
        0 => format!("{from},0"),
        1 => format!("{}", from + 1),
        length => format!("{},{length}", from + 1),
    }
}

/// Hunks whose context would meet, together.
fn grouped(hunks: &[Hunk]) -> Vec<&[Hunk]> {
    hunks.chunk_by(|one, next| next.before.start - one.before.end <= 2 * CONTEXT).collect()
}

/// Writes bytes as lines of digits to the base 85, with their length in front.
struct Digits<'a, W: Write> {
    out: &'a mut W,
    line: Vec<u8>,
}

impl<W: Write> Digits<'_, W> {
    fn end(mut self) -> io::Result<()> {
        self.write_line()
    }

    fn write_line(&mut self) -> io::Result<()> {
        let Ok(length) = u8::try_from(self.line.len()) else { return Ok(()) };
        let letter = match length {
            0 => return Ok(()),
            1..=26 => b'A' + length - 1,
            _ => b'a' + length - 27,
        };
        let mut text = vec![letter];
        for group in self.line.chunks(4) {
            let mut bytes = [0; 4];
            bytes[..group.len()].copy_from_slice(group);
            let mut number = u32::from_be_bytes(bytes);
            let mut digits = [0; 5];
            for digit in digits.iter_mut().rev() {
                *digit = DIGITS[(number % 85) as usize];
                number /= 85;
            }
            text.extend_from_slice(&digits);
        }
        text.push(b'\n');
        self.line.clear();
        self.out.write_all(&text)
    }
}

impl<W: Write> Write for Digits<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let more = bytes.len().min(LINE - self.line.len());
        self.line.extend_from_slice(&bytes[..more]);
        if self.line.len() == LINE {
            self.write_line()?;
        }
        Ok(more)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(before: &str, after: &str) -> String {
        let mut out = Vec::new();
        let mut patch = Patch { out: &mut out, paint: Paint { is_coloured: false, is_shown: false } };
        patch.text(before.as_bytes(), after.as_bytes()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_hunk_has_three_lines_around_it() {
        let lines = |range: Range<u32>| range.map(|n| format!("{n}\n")).collect::<String>();
        let before = lines(0..30);
        let after = before.replace("\n10\n", "\nten\n").replace("\n25\n", "\n");
        assert_eq!(
            text(&before, &after),
            "@@ -8,7 +8,7 @@\n 7\n 8\n 9\n-10\n+ten\n 11\n 12\n 13\n@@ -23,7 +23,6 @@\n 22\n 23\n 24\n-25\n 26\n 27\n 28\n"
        );
        let near = before.replace("\n10\n", "\nten\n").replace("\n16\n", "\nsixteen\n");
        assert_eq!(text(&before, &near).matches("@@ -").count(), 1);
        assert_eq!(text("", "a\nb\n"), "@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(text("a\n", ""), "@@ -1 +0,0 @@\n-a\n");
        assert_eq!(text("a", "a\n"), "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n");
    }

    #[test]
    fn bytes_are_digits_as_git_writes_them() {
        let digits = |bytes: &[u8]| {
            let mut out = Vec::new();
            let mut digits = Digits { out: &mut out, line: Vec::new() };
            digits.write_all(bytes).unwrap();
            digits.end().unwrap();
            String::from_utf8(out).unwrap()
        };
        // what git diff --binary has for an empty file
        assert_eq!(digits(b"\x78\x01\x03\x00\x00\x00\x00\x01"), "HcmV?d00001\n");
        let lines = digits(&[0; 60]);
        assert_eq!(lines, format!("z{}\nH{}\n", "0".repeat(65), "0".repeat(10)));
        assert_eq!(digits(b""), "");
    }
}
