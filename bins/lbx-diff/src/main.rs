//! Tells what an environment changed of its project.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use lbx::failure::{Result, Tool, status};
use lbx::step::{self, Call};
use lbx::{Place, operand};
use lbx_diff::{Cli, When};

mod pager;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod linux {
    use lbx::failure::{Failure, Result, fail};

    pub(crate) fn diff(_: &lbx_diff::Cli, _: &[std::ffi::OsString]) -> Result<u8> {
        fail(Failure::new("place 'local' needs Linux").hint("--on lima works on this system"))
    }
}

/// As with diff(1): 1 is an answer, and what could not be told is 2.
const TOOL: Tool = Tool { name: "lbx-diff", failed: 2, usage: status::USAGE };

fn main() -> ExitCode {
    TOOL.run(run)
}

fn run() -> Result<u8> {
    let mut cli: Cli = lbx::cli::parse()?;
    let place = Place::resolve(cli.common.on.as_ref())?;
    let paths = operand::expand(cli.paths.clone(), cli.null)?;
    if paths.is_empty() && !cli.paths.is_empty() {
        // no path was asked for
        return Ok(status::DONE);
    }
    // asked here, where the person is
    cli.shown |= std::io::stdout().is_terminal();
    if cli.color == When::Auto {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        cli.color = if cli.shown && !no_color { When::Always } else { When::Never };
    }
    let pager =
        if std::io::stdout().is_terminal() && !cli.no_pager && !cli.null { pager::chosen() } else { Vec::new() };
    if !pager.is_empty() {
        return pager::run(&pager, words(&cli, &paths, &place, &place)?);
    }
    if place != Place::Local {
        match step::to_place(&place, TOOL.name, call(&cli, &paths, &place)?)? {}
    }
    // what an environment made is root's to read
    step::to_root(|| call(&cli, &paths, &place), true)?;
    linux::diff(&cli, &paths)
}

/// This command line again, for the tool at `place`.
fn call(cli: &Cli, paths: &[OsString], place: &Place) -> Result<Call> {
    Ok(Call { words: words(cli, paths, place, &Place::Local)?, vars: Vec::new() })
}

/// This command line again, its paths as `place` has them, for a tool that is told `on`; what stdin held is
/// among the words.
fn words(cli: &Cli, paths: &[OsString], place: &Place, on: &Place) -> Result<Vec<OsString>> {
    let mut words = cli.common.words(on);
    let given = [
        (cli.form.json, "--json"),
        (cli.form.patch, "--patch"),
        (cli.form.stat, "--stat"),
        (cli.form.name_only, "--name-only"),
        (cli.null, "--null"),
        (cli.digest, "--digest"),
        (cli.color == When::Always, "--color=always"),
        (cli.color == When::Never, "--color=never"),
        (cli.shown, "--shown"),
        // there is one already, or none is wanted
        (true, "--no-pager"),
    ];
    words.extend(given.iter().filter(|(given, _)| *given).map(|(_, word)| OsString::from(word)));
    if let Some(other) = &cli.against {
        let mut word = OsString::from("--against=");
        word.push(place.env(other)?);
        words.push(word);
    }
    words.push("--".into());
    words.push(place.env(&cli.env)?);
    words.extend(paths.iter().cloned());
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn a_call_is_the_same_at_its_place() {
        let place = Place::Ssh("host".into());
        let words = [
            "lbx-diff",
            "-q",
            "-z",
            "--name-only",
            "--color=never",
            "--no-pager",
            "--against=/-o",
            "--",
            "/p",
            "-x",
            "y z",
        ];
        let cli = Cli::try_parse_from(words).unwrap();
        let far = call(&cli, &cli.paths, &place).unwrap().words;
        assert_eq!(far[..2], ["--on", "local"]);
        let again = Cli::try_parse_from(std::iter::once("lbx-diff".into()).chain(far.clone())).unwrap();
        assert_eq!(call(&again, &again.paths, &place).unwrap().words, far);
        assert_eq!(far[far.len() - 4..], ["--", "/p", "-x", "y z"]);
        assert!(call(&Cli::try_parse_from(["lbx-diff", "p"]).unwrap(), &[], &place).is_err());
    }

    #[test]
    fn forms_exclude_each_other() {
        for words in [&["--json", "--patch"][..], &["--stat", "--name-only"], &["-z", "--json"], &["--digest"]] {
            assert!(Cli::try_parse_from([&["lbx-diff", "p"], words].concat()).is_err(), "{words:?}");
        }
        assert!(Cli::try_parse_from(["lbx-diff", "-z", "--name-only", "p"]).is_ok());
        assert!(Cli::try_parse_from(["lbx-diff", "--json", "--digest", "p"]).is_ok());
    }
}
