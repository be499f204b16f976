//! What `lbx-ls` prints, and how this program runs the other tools.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::Context;
use lbx::failure::{Failure, Result, fail};
use lbx::record::Source;
use lbx::step;
use serde::Deserialize;

/// A line of `lbx-ls`: what is of interest here. Unknown states are shown as they are.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Environment {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) path: Option<String>,
    pub(crate) home: Option<PathBuf>,
    pub(crate) procs: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) last_used: Option<String>,
    pub(crate) from: Option<Source>,
    pub(crate) error: Option<String>,
}

/// What a tool did: printed this, or failed with this status and said why.
pub(crate) type Outcome<T> = std::result::Result<T, u8>;

/// The environments that `lbx-ls` prints for `words`.
pub(crate) fn environments(words: Vec<OsString>) -> Result<Outcome<Vec<Environment>>> {
    let mut command = step::sibling("lbx-ls")?;
    command.args(words);
    Ok(match output(command)? {
        Ok(text) => Ok(parse(&text)?),
        Err(status) => Err(status),
    })
}

fn parse(text: &[u8]) -> Result<Vec<Environment>> {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).context("cannot understand what lbx-ls printed")).collect()
}

/// Runs `command` for what it prints.
pub(crate) fn output(mut command: Command) -> Result<Outcome<Vec<u8>>> {
    step::trace(&command);
    let output = command
        .stdin(Stdio::inherit())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run '{}'", command.get_program().display()))?;
    Ok(match status(&command, output.status)? {
        0 => Ok(output.stdout),
        status => Err(status),
    })
}

/// Runs `command` and returns its status.
pub(crate) fn run(mut command: Command) -> Result<u8> {
    step::trace(&command);
    let ended = command.status().with_context(|| format!("cannot run '{}'", command.get_program().display()))?;
    status(&command, ended)
}

fn status(command: &Command, ended: ExitStatus) -> Result<u8> {
    match ended.code().map(u8::try_from) {
        Some(Ok(status)) => Ok(status),
        _ => fail(Failure::new(format!("'{}' did not end by itself: {ended}", command.get_program().display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_environments_are_read() {
        let text = br#"{"schema":1,"name":"a-1a2b","state":"running","path":"/a","procs":2,"later":[]}
{"schema":1,"name":"b-1a2b","state":"broken","path":null,"uid":null,"error":"why","procs":null}
"#;
        let read = parse(text).unwrap();
        assert_eq!((read[0].name.as_str(), read[0].procs, read[0].error.as_deref()), ("a-1a2b", Some(2), None));
        assert_eq!((read[1].path.as_deref(), read[1].error.as_deref()), (None, Some("why")));
        assert!(parse(b"").unwrap().is_empty());
        assert!(parse(b"nonsense\n").is_err());
    }
}
