//! Prints one JSON line per environment, sorted by name.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context;
use lbx::failure::{Result, Tool, status};
use lbx::step::{self, Call};
use lbx::{Place, operand};
use lbx_ls::Cli;

#[cfg(target_os = "linux")]
mod local;
#[cfg(not(target_os = "linux"))]
mod local {
    pub(crate) fn list(_: lbx_ls::Cli) -> lbx::Result<u8> {
        lbx::failure::fail(lbx::Failure::new("place 'local' is a Linux machine, which this is not"))
    }
}

const TOOL: Tool = Tool::new("lbx-ls");

fn main() -> ExitCode {
    TOOL.run(run)
}

fn run() -> Result<u8> {
    let cli: Cli = lbx::cli::parse()?;
    let place = match cli.on.as_slice() {
        [] => Place::resolve(None)?,
        [place] => place.clone(),
        _ => return at_each_place(cli),
    };
    if place == Place::Local {
        return local::list(cli);
    }
    let call = Call { words: words(&cli, &place)?, vars: Vec::new() };
    match step::to_place(&place, TOOL.name, call)? {}
}

/// Runs this tool once for each place, and goes on past those that cannot be reached.
fn at_each_place(mut cli: Cli) -> Result<u8> {
    let places = std::mem::take(&mut cli.on);
    let given = !cli.envs.is_empty();
    cli.envs = operand::expand(cli.envs, cli.null)?;
    if given && cli.envs.is_empty() {
        return Ok(status::DONE);
    }
    let mut status = status::DONE;
    for place in &places {
        let mut command = step::sibling(TOOL.name)?;
        // the words begin with --on local, as they do at the place itself
        command.args(["--on".into(), OsString::from(place.to_string())]).args(&words(&cli, place)?[2..]);
        step::trace(&command);
        if !command.status().context("cannot run lbx-ls")?.success() {
            status = status::FAILED;
        }
    }
    Ok(status)
}

/// The same call as words for the tool at `place`, paths absolute.
fn words(cli: &Cli, place: &Place) -> Result<Vec<OsString>> {
    let mut words: Vec<OsString> = vec!["--on".into(), "local".into()];
    for (given, word) in
        [(cli.names, "--names"), (cli.null, "--null"), (cli.quiet, "--quiet"), (cli.verbose, "--verbose")]
    {
        if given {
            words.push(word.into());
        }
    }
    words.extend(cli.state.iter().map(|state| format!("--state={}", state.as_str()).into()));
    words.extend(cli.label.iter().map(|label| format!("--label={label}").into()));
    if let Some(path) = &cli.containing {
        let mut word = OsString::from("--containing=");
        word.push(place.path(path)?);
        words.push(word);
    }
    words.push("--".into());
    for env in &cli.envs {
        words.push(if env == "-" { env.clone() } else { place.env(env)? });
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn words_at(place: &str, words_here: &[&str]) -> Result<Vec<OsString>> {
        words(&Cli::try_parse_from([&["lbx-ls"], words_here].concat())?, &place.parse()?)
    }

    #[test]
    fn a_call_is_the_same_at_its_place() {
        let words = ["--names", "-0", "--state=running", "--label=-a=b", "--containing=/x y", "--", "app-1a2b", "/p"];
        let far = words_at("ssh:host", &words).unwrap();
        assert_eq!(far[..2], ["--on", "local"]);
        let again = Cli::try_parse_from(std::iter::once("lbx-ls".into()).chain(far.clone())).unwrap();
        assert_eq!(self::words(&again, &Place::Ssh("host".into())).unwrap(), far);
        assert_eq!(far.last().unwrap(), "/p");
    }

    #[test]
    fn a_relative_path_means_nothing_behind_ssh() {
        assert!(words_at("ssh:host", &["p"]).is_err());
        assert!(words_at("ssh:host", &["--containing", "."]).is_err());
        assert!(words_at("ssh:host", &["-"]).is_ok());
        assert!(words_at("lima", &["p"]).unwrap().iter().any(|word| std::path::Path::new(word).is_absolute()));
    }
}
