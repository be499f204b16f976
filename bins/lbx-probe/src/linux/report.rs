//! What is printed: TAP version 14, or a line of JSON for each attack.

use std::io::{self, IsTerminal, Write};

use lbx::failure::printable;
use lbx::record::json_line;
use lbx::{Place, Result};
use serde::Serialize;

use super::attacks::{self, Attack};
use super::line::{Answer, Verdict};

/// A report that is being printed.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    /// Whether each line says which environment it is of.
    several: bool,
    place: String,
    count: usize,
}

#[derive(Serialize)]
struct Told<'a> {
    env: &'a str,
    place: &'a str,
    name: &'a str,
    about: &'a str,
    tried: &'a str,
    answer: &'a str,
    verdict: &'a str,
}

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    about: &'a str,
    source: &'a str,
}

impl Report {
    /// Prints what comes first.
    pub(crate) fn begin(json: bool, several: bool) -> Result<Report> {
        let place = Place::called().unwrap_or(Place::Local).to_string();
        let report = Report { json, several, place, count: 0 };
        if !json {
            report.write("TAP version 14\n")?;
        }
        Ok(report)
    }

    /// Prints how `attack` on environment `env` ended.
    pub(crate) fn point(&mut self, env: &str, attack: &Attack, answer: &Answer) -> Result<()> {
        self.count += 1;
        if !self.json {
            return self.write(&self.tap(env, attack.name, answer));
        }
        let told = Told {
            env,
            place: &self.place,
            name: attack.name,
            about: attack.about,
            tried: &answer.tried,
            answer: &answer.answer,
            verdict: answer.verdict.word(),
        };
        self.write(&json_line(&told)?)
    }

    fn tap(&self, env: &str, name: &str, Answer { verdict, tried, answer }: &Answer) -> String {
        let number = self.count;
        let env = if self.several { format!("{env}: ") } else { String::new() };
        let (tried, answer) = (plain(tried), plain(answer));
        match verdict {
            Verdict::Skipped => format!("ok {number} - {env}{name}: {tried} # SKIP {answer}\n"),
            Verdict::Held => format!("ok {number} - {env}{name}: {tried}: {answer}\n"),
            _ => format!("not ok {number} - {env}{name}: {tried}: {answer}\n"),
        }
    }

    /// Prints what comes last.
    pub(crate) fn end(&self) -> Result<()> {
        match self.json {
            true => Ok(()),
            false => self.write(&format!("1..{}\n", self.count)),
        }
    }

    fn write(&self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }
}

/// `text` as it stands in a test point, where `#` begins a directive.
fn plain(text: &str) -> String {
    printable(text).replace('\\', "\\\\").replace('#', "\\#")
}

/// Prints the table of attacks: in columns on a terminal, else with tabs, or as JSON.
pub(crate) fn list(json: bool) -> Result<()> {
    let mut out = io::stdout().lock();
    let columns = out.is_terminal();
    let width = |of: fn(&Attack) -> &str| attacks::all().map(|attack| of(attack).len()).max().unwrap_or(0);
    let (names, sources) = (width(|attack| attack.name), width(|attack| attack.source));
    for &Attack { name, about, source, .. } in attacks::all() {
        let line = match (json, columns) {
            (true, _) => json_line(&Listed { name, about, source })?,
            (false, true) => format!("{name:names$}  {source:sources$}  {about}\n"),
            (false, false) => format!("{name}\t{source}\t{about}\n"),
        };
        out.write_all(line.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_has_no_directive_that_is_not_ours() {
        let report = Report { json: false, several: true, place: "local".into(), count: 3 };
        assert_eq!(
            report.tap("a-1a2b", "x", &Answer::through("open", "# SKIP \\ \n")),
            "not ok 3 - a-1a2b: x: open: \\# SKIP \\\\ \\\\n\n"
        );
        let alone = Report { several: false, ..report };
        assert_eq!(alone.tap("a-1a2b", "x", &Answer::skipped("open", "why")), "ok 3 - x: open # SKIP why\n");
        assert_eq!(alone.tap("a-1a2b", "x", &Answer::held("open", "EPERM")), "ok 3 - x: open: EPERM\n");
    }
}
