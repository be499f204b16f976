//! `lbx-enter`: runs one command inside an environment. The only tool that joins namespaces.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use lbx::failure::Tool;
use lbx::step::{self, Call};
use lbx::{Failure, Place, Result, cli, operand};
use lbx_enter::{AGENT, Cli, INHERITED};

#[cfg(target_os = "linux")]
mod linux;

const TOOL: Tool = Tool::wrapper("lbx-enter");

fn main() -> ExitCode {
    TOOL.run(|| {
        let cli: Cli = cli::parse()?;
        if cli.command.is_empty() && std::env::args_os().next_back().is_some_and(|word| word == "--") {
            return Err(Failure::new("no command specified after '--'").into());
        }
        let variables = variables(&cli.options.env)?;
        let place = Place::resolve(cli.common.on.as_ref())?;
        if place != Place::Local {
            match step::to_place(&place, TOOL.name, call(&cli, &place, &variables)?)? {}
        }
        step::to_root(|| call(&cli, &place, &variables), true)?;
        run(&cli, variables)
    })
}

#[cfg(target_os = "linux")]
fn run(cli: &Cli, variables: Vec<(OsString, OsString)>) -> Result<u8> {
    linux::run(TOOL, cli, variables)
}

#[cfg(not(target_os = "linux"))]
fn run(_: &Cli, _: Vec<(OsString, OsString)>) -> Result<u8> {
    Err(Failure::new("place 'local' needs Linux").hint("--on lima works on this system").into())
}

/// The variables that COMMAND gets of its caller: the few that pass by themselves, then the named.
fn variables(named: &[OsString]) -> Result<Vec<(OsString, OsString)>> {
    let mut variables = Vec::new();
    for name in INHERITED.map(OsString::from) {
        variables.extend(step::carried(&name).map(|value| (name, value)));
    }
    for word in named {
        let (name, value) = operand::assignment(word);
        if name.is_empty() {
            return Err(Failure::new(format!("variable has no name: --env '{}'", word.display())).into());
        }
        if let Some(value) = value.or_else(|| step::carried(&name)) {
            variables.retain(|(other, _)| *other != name);
            variables.push((name, value));
        }
    }
    Ok(variables)
}

/// An option and its value in one word, whatever that begins with.
fn with_value(option: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(option);
    word.push(value);
    word
}

/// This command line again, for the tool at `place`; values are in no word.
fn call(cli: &Cli, place: &Place, variables: &[(OsString, OsString)]) -> Result<Call> {
    let mut words = cli.common.words(&Place::Local);
    let mut vars = variables.to_vec();
    words.extend(cli.options.no_stdin.then(|| "--no-stdin".into()));
    if cli.options.agent {
        words.push("--agent".into());
        vars.extend(step::carried(OsStr::new(AGENT)).map(|socket| (AGENT.into(), socket)));
    }
    if let Some(dir) = &cli.options.chdir {
        words.push(with_value("--chdir=", dir.as_os_str()));
    }
    for word in &cli.options.env {
        words.push(with_value("--env=", &operand::assignment(word).0));
    }
    words.push("--".into());
    words.push(match lbx::Name::parse(&cli.env) {
        Some(_) => cli.env.clone(),
        None => place.path(cli.env.as_ref())?.into_os_string(),
    });
    words.extend(cli.command.iter().cloned());
    Ok(Call { words, vars })
}
