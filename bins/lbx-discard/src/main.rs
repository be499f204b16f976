//! Drops what was changed in an environment: asks, then `lbx-env discard`.

use std::process::ExitCode;

use lbx::failure::{Failure, Result, Tool, fail};
use lbx::step::{self, Call};
use lbx::{Place, cli};
use lbx_discard::Cli;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod linux {
    pub(crate) fn discard(_: &lbx_discard::Cli) -> lbx::Result<u8> {
        lbx::failure::fail(lbx::Failure::new("place 'local' needs Linux").hint("--on lima works on this system"))
    }
}

const TOOL: Tool = Tool::new("lbx-discard");

fn main() -> ExitCode {
    TOOL.run(|| {
        let cli: Cli = cli::parse()?;
        cli.selection.is_listed()?;
        let place = Place::resolve(cli.common.on.as_ref())?;
        if !cli.selection.yes && !cli::can_ask() {
            return fail(Failure::new("will not discard without asking, and this is no terminal").hint("-y"));
        }
        if place != Place::Local {
            match step::to_place(&place, TOOL.name, call(&cli, &place)?)? {}
        }
        // what an environment changed is root's to see
        step::to_root(|| call(&cli, &place), false)?;
        linux::discard(&cli)
    })
}

/// This command line again, for the tool at `place`.
fn call(cli: &Cli, place: &Place) -> Result<Call> {
    let mut words = cli.common.words(&Place::Local);
    words.extend(cli.selection.words(place)?);
    Ok(Call { words, vars: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn a_call_is_the_same_at_its_place() {
        let cli = Cli::try_parse_from(["lbx-discard", "-y", "-0", "app-1a2b", "--", "-x", "src"]).unwrap();
        let words = call(&cli, &Place::Ssh("host".into())).unwrap().words;
        assert_eq!(words, ["--on", "local", "--yes", "--null", "--", "app-1a2b", "-x", "src"]);
        let again = Cli::try_parse_from(std::iter::once("lbx-discard".into()).chain(words.clone())).unwrap();
        assert_eq!(call(&again, &Place::Ssh("host".into())).unwrap().words, words);
    }
}
