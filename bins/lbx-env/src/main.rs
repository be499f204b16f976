//! `lbx-env`: creates, starts, stops, repairs and deletes environments. The only tool that changes
//! accounts, mounts and cgroups.

use std::ffi::OsString;
use std::process::ExitCode;

use lbx::failure::{Tool, status};
use lbx::step::{self, Call};
use lbx::{Place, Result, cli, operand};
use lbx_env::{Cli, Verb};

#[cfg(target_os = "linux")]
mod linux;

const TOOL: Tool = Tool::new("lbx-env");

fn main() -> ExitCode {
    TOOL.run(|| {
        let mut cli: Cli = cli::parse()?;
        let place = Place::resolve(cli.common.on.as_ref())?;
        if expand_operands(&mut cli.verb, &place)?.is_empty() {
            return Ok(status::DONE);
        }
        if place != Place::Local {
            match step::to_place(&place, TOOL.name, call(&cli, &place)?)? {}
        }
        if !cli.dry_run {
            step::to_root(|| call(&cli, &place), false)?;
        }
        act(&cli)
    })
}

#[cfg(target_os = "linux")]
fn act(cli: &Cli) -> Result<u8> {
    linux::act(TOOL, cli)
}

#[cfg(not(target_os = "linux"))]
fn act(_: &Cli) -> Result<u8> {
    let failure = lbx::Failure::new("place 'local' needs Linux").hint("--on lima works on this system");
    Err(failure.into())
}

/// Standard input is read once, here: the step to root or to another place carries words.
fn expand_operands<'a>(verb: &'a mut Verb, place: &Place) -> Result<&'a [OsString]> {
    let (operands, null) = match verb {
        Verb::Create { paths, null, .. } => {
            if let (true, Place::Ssh(_)) = (paths.is_empty(), place) {
                let message = format!("no path given: the files of '{place}' are its own");
                return Err(lbx::Failure::new(message).status(status::USAGE).into());
            }
            if paths.is_empty() {
                paths.push(".".into());
            }
            (paths, *null)
        }
        Verb::Set { envs, .. }
        | Verb::Start { envs }
        | Verb::Stop { envs }
        | Verb::Repair { envs }
        | Verb::Delete { envs, .. } => (&mut envs.envs, envs.null),
    };
    *operands = operand::expand(std::mem::take(operands), null)?;
    Ok(operands)
}

/// This command line again, for the tool at `place`, with every path as it is known there.
fn call(cli: &Cli, place: &Place) -> Result<Call> {
    let mut words = cli.common.words(&Place::Local);
    if cli.dry_run {
        words.push("--dry-run".into());
    }
    let (verb, operands) = match &cli.verb {
        Verb::Create { options, exclusive, json, paths, .. } => {
            words.push("create".into());
            if let Some(name) = &options.name {
                let mut word = OsString::from("--name=");
                word.push(name);
                words.push(word);
            }
            words.extend(options.settings.words(place)?);
            words.extend(exclusive.then(|| "--exclusive".into()));
            words.extend(json.then(|| "--json".into()));
            (None, paths)
        }
        Verb::Set { options, envs } => {
            words.push("set".into());
            words.extend(options.words(place)?);
            (None, &envs.envs)
        }
        Verb::Start { envs } => (Some("start"), &envs.envs),
        Verb::Stop { envs } => (Some("stop"), &envs.envs),
        Verb::Repair { envs } => (Some("repair"), &envs.envs),
        Verb::Delete { force, envs } => {
            words.push("delete".into());
            words.extend(force.then(|| "--force".into()));
            (None, &envs.envs)
        }
    };
    words.extend(verb.map(OsString::from));
    words.push("--".into());
    let is_create = matches!(cli.verb, Verb::Create { .. });
    for operand in operands {
        words.push(match lbx::Name::parse(operand) {
            Some(_) if !is_create => operand.clone(),
            _ if matches!(place, Place::Ssh(_)) => place.path(operand.as_ref())?.into(),
            // one that cannot be resolved is refused there, alone
            _ => lbx::path::canonical(operand.as_ref()).map_or_else(|_| operand.clone(), Into::into),
        });
    }
    Ok(Call { words, vars: Vec::new() })
}
