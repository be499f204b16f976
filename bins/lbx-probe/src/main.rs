//! Attacks environments from inside, and tells what the kernel answered.

use std::ffi::OsString;
use std::process::ExitCode;

use lbx::failure::{Result, Tool};
use lbx::step::{self, Call};
use lbx::{Place, operand};
use lbx_probe::Cli;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod linux {
    use lbx::failure::{Failure, Result, fail};

    pub(crate) fn list(_: &lbx_probe::Cli) -> Result<u8> {
        fail(Failure::new("place 'local' needs Linux").hint("--on lima works on this system"))
    }

    pub(crate) fn probe(cli: &lbx_probe::Cli, _: &[std::ffi::OsString]) -> Result<u8> {
        list(cli)
    }

    pub(crate) fn is_inside() -> bool {
        false
    }

    pub(crate) fn attack() -> Result<u8> {
        Ok(lbx::failure::status::FAILED)
    }
}

const TOOL: Tool = Tool::new("lbx-probe");

fn main() -> ExitCode {
    if linux::is_inside() {
        return TOOL.run(linux::attack);
    }
    TOOL.run(run)
}

fn run() -> Result<u8> {
    let cli: Cli = lbx::cli::parse()?;
    let place = Place::resolve(cli.common.on.as_ref())?;
    let envs = operand::expand(cli.envs.clone(), cli.null)?;
    if place != Place::Local {
        match step::to_place(&place, TOOL.name, call(&cli, &envs, &place)?)? {}
    }
    if cli.list {
        return linux::list(&cli);
    }
    // what is laid outside is root's, and root alone enters
    step::to_root(|| call(&cli, &envs, &place), false)?;
    linux::probe(&cli, &envs)
}

/// This command line again, for the tool at `place`; what stdin held is among the words.
fn call(cli: &Cli, envs: &[OsString], place: &Place) -> Result<Call> {
    let mut words = cli.common.words(&Place::Local);
    for (given, word) in [(cli.list, "--list"), (cli.json, "--json")] {
        words.extend(given.then(|| word.into()));
    }
    if cli.list {
        return Ok(Call { words, vars: Vec::new() });
    }
    words.push("--".into());
    if envs.is_empty() {
        // nothing is left of stdin either
        words.push("-".into());
    }
    for env in envs {
        words.push(place.env(env)?);
    }
    Ok(Call { words, vars: Vec::new() })
}
