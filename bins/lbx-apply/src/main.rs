//! Puts what was changed in an environment into the project, as the invoking user.

use std::ffi::OsString;
use std::process::ExitCode;

use lbx::failure::{Failure, Result, Tool, fail};
use lbx::step::{self, Call};
use lbx::{Place, cli};
use lbx_apply::Cli;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod linux {
    pub(crate) fn apply(_: lbx::failure::Tool, _: &lbx_apply::Cli) -> lbx::Result<u8> {
        lbx::failure::fail(lbx::Failure::new("place 'local' needs Linux").hint("--on lima works on this system"))
    }
}

const TOOL: Tool = Tool::new("lbx-apply");

fn main() -> ExitCode {
    TOOL.run(|| {
        let cli: Cli = cli::parse()?;
        cli.selection.is_listed()?;
        let place = Place::resolve(cli.common.on.as_ref())?;
        may_ask(&cli)?;
        if place != Place::Local {
            match step::to_place(&place, TOOL.name, call(&cli, &place)?)? {}
        }
        // what an environment changed is root's to read
        step::to_root(|| call(&cli, &place), false)?;
        linux::apply(TOOL, &cli)
    })
}

/// Fails where the question could reach nobody.
fn may_ask(cli: &Cli) -> Result<()> {
    let asks = cli.selection.paths.is_empty() && !cli.selection.yes && !cli.dry_run;
    if !asks || cli::can_ask() {
        return Ok(());
    }
    fail(Failure::new("will not apply everything without asking, and this is no terminal").hint("-y"))
}

/// This command line again, for the tool at `place`.
fn call(cli: &Cli, place: &Place) -> Result<Call> {
    let mut words = cli.common.words(&Place::Local);
    for (given, word) in [(cli.dry_run, "--dry-run"), (cli.force, "--force"), (cli.merge, "--merge")] {
        words.extend(given.then(|| OsString::from(word)));
    }
    words.extend(cli.selection.words(place)?);
    Ok(Call { words, vars: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn a_call_is_the_same_at_its_place() {
        let cli = Cli::try_parse_from(["lbx-apply", "--merge", "-0", "app-1a2b", "--", "-x", "src"]).unwrap();
        let words = call(&cli, &Place::Ssh("host".into())).unwrap().words;
        assert_eq!(words, ["--on", "local", "--merge", "--null", "--", "app-1a2b", "-x", "src"]);
        let again = Cli::try_parse_from(std::iter::once("lbx-apply".into()).chain(words.clone())).unwrap();
        assert_eq!(call(&again, &Place::Ssh("host".into())).unwrap().words, words);
        assert!(call(&Cli::try_parse_from(["lbx-apply", "p"]).unwrap(), &Place::Ssh("host".into())).is_err());
    }

    #[test]
    fn one_of_two_wins() {
        assert!(Cli::try_parse_from(["lbx-apply", "--merge", "--force", "."]).is_err());
    }
}
