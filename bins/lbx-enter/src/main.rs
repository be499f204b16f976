//! `lbx-enter`: runs one command inside an environment. The only tool that joins namespaces.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::CommandFactory;
use lbx::failure::{Tool, status};
use lbx::step::{self, Call};
use lbx::{Failure, Place, Result, cli, operand};
use lbx_enter::{AGENT, Cli, INHERITED};

#[cfg(target_os = "linux")]
mod linux;

const TOOL: Tool = Tool::wrapper("lbx-enter");

fn main() -> ExitCode {
    TOOL.run(|| {
        let mut words: Vec<OsString> = std::env::args_os().collect();
        let mut command = Cli::command();
        let gate = linux::Gate::inherited();
        if let (Some(gate), 1) = (&gate, words.len()) {
            // as much as can be done before anybody waits for it
            command.build();
            let Some(call) = gate.call()? else { return Ok(status::DONE) };
            words.extend(call);
        }
        let nothing = words.last().is_some_and(|word| word == "--");
        let cli: Cli = cli::parse_words(command, words)?;
        if cli.command.is_empty() && nothing {
            return Err(Failure::new("no command specified after '--'").into());
        }
        let variables = variables(&cli.options.env)?;
        let place = Place::resolve(cli.common.on.as_ref())?;
        if place != Place::Local {
            match step::to_place(&place, TOOL.name, call(&cli, &place, &variables)?)? {}
        }
        step::to_root(|| call(&cli, &place, &variables), true)?;
        linux::run(TOOL, &cli, variables, gate.as_ref())
    })
}

#[cfg(not(target_os = "linux"))]
mod linux {
    use std::ffi::OsString;

    use lbx::failure::{Failure, Result, Tool, fail};
    use lbx_enter::Cli;

    /// No far end runs on such a machine.
    pub(crate) enum Gate {}

    impl Gate {
        pub(crate) fn inherited() -> Option<Gate> {
            None
        }

        pub(crate) fn call(&self) -> Result<Option<Vec<OsString>>> {
            match *self {}
        }
    }

    pub(crate) fn run(_: Tool, _: &Cli, _: Vec<(OsString, OsString)>, _: Option<&Gate>) -> Result<u8> {
        fail(Failure::new("place 'local' needs Linux").hint("--on lima works on this system"))
    }
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
    words.push(place.env(&cli.env)?);
    words.extend(cli.command.iter().cloned());
    Ok(Call { words, vars })
}
