//! `lbx-env`: creates, starts, stops, repairs and deletes environments. The only tool that changes
//! accounts, mounts and cgroups.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use lbx::failure::{Tool, status};
use lbx::snapshot::Tag;
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
        if !expand_operands(&mut cli.verb, &place)? {
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

/// Standard input is read once, here: the step to root or to another place carries words. Whether there is
/// anything to do.
fn expand_operands(verb: &mut Verb, place: &Place) -> Result<bool> {
    let (operands, null) = match verb {
        Verb::Create { options, .. } if options.from.is_some() => return Ok(true),
        Verb::Create { count: Some(_), .. } => {
            let message = "'--count' is for forks, and there is nothing to fork";
            return Err(lbx::Failure::new(message).hint("--from ENV").status(status::USAGE).into());
        }
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
        // none at all are all, but not where a list of them is empty
        Verb::Discard { paths, .. } if paths.is_empty() => return Ok(true),
        Verb::Save { .. } | Verb::Restore { .. } | Verb::Forget { .. } => return Ok(true),
        Verb::Discard { paths, null, .. } => (paths, *null),
        Verb::Set { envs, .. }
        | Verb::Start { envs }
        | Verb::Stop { envs }
        | Verb::Repair { envs }
        | Verb::Delete { envs, .. } => (&mut envs.envs, envs.null),
    };
    *operands = operand::expand(std::mem::take(operands), null)?;
    Ok(!operands.is_empty())
}

/// This command line again, for the tool at `place`, with every path as it is known there.
fn call(cli: &Cli, place: &Place) -> Result<Call> {
    let mut words = cli.common.words(&Place::Local);
    if cli.dry_run {
        words.push("--dry-run".into());
    }
    let (verb, operands) = match &cli.verb {
        Verb::Create { options, exclusive, json, count, paths, .. } => {
            words.push("create".into());
            words.extend(options.words(place)?);
            words.extend(count.map(|count| format!("--count={count}").into()));
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
        Verb::Discard { env, paths, .. } => {
            words.extend(["discard".into(), "--".into(), env_word(env, place)?]);
            // what is called '-' is not to be read for
            words.extend(paths.iter().map(|path| if path == "-" { "./-".into() } else { path.clone() }));
            return Ok(Call { words, vars: Vec::new() });
        }
        Verb::Save { env, tag } => return of_snapshots(words, "save", env, std::slice::from_ref(tag), place),
        Verb::Restore { env, tag } => return of_snapshots(words, "restore", env, std::slice::from_ref(tag), place),
        Verb::Forget { env, tags } => return of_snapshots(words, "forget", env, tags, place),
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
        words.push(if is_create { path_word(operand, place)? } else { env_word(operand, place)? });
    }
    Ok(Call { words, vars: Vec::new() })
}

/// The call of a verb that acts on snapshots.
fn of_snapshots(mut words: Vec<OsString>, verb: &str, env: &OsStr, tags: &[Tag], place: &Place) -> Result<Call> {
    words.extend([verb.into(), "--".into(), env_word(env, place)?]);
    words.extend(tags.iter().map(|tag| tag.as_str().into()));
    Ok(Call { words, vars: Vec::new() })
}

/// A name, or a path as it is known at `place`.
fn env_word(operand: &OsStr, place: &Place) -> Result<OsString> {
    match lbx::Name::parse(operand) {
        Some(_) => Ok(operand.to_owned()),
        None => path_word(operand, place),
    }
}

fn path_word(operand: &OsStr, place: &Place) -> Result<OsString> {
    Ok(match place {
        Place::Ssh(_) => place.path(operand.as_ref())?.into(),
        // one that cannot be resolved is refused there, alone
        _ => lbx::path::canonical(operand.as_ref()).map_or_else(|_| operand.to_owned(), Into::into),
    })
}
