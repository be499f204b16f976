//! Discarding at the place `local`: which changes are meant, the question, and `lbx-env discard`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use lbx::caller::Caller;
use lbx::failure::{Result, printable, status};
use lbx::operand::Wanted;
use lbx::path::JsonPath;
use lbx::{Name, cli, record, selection, step};
use lbx_discard::Cli;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::Deserialize;

/// Discards what `cli` asks for.
pub(crate) fn discard(cli: &Cli) -> Result<u8> {
    let record = record::open(&cli.selection.env)?;
    record.require_caller(Caller::current())?;
    let wanted = cli.selection.wanted(&record.project())?;
    if wanted.as_ref().is_some_and(Vec::is_empty) {
        return Ok(status::DONE);
    }
    let chosen = match &wanted {
        // one tells nothing of what the other covers
        Some(wanted) if cli.selection.yes && !wanted.iter().any(|wanted| matches!(wanted, Wanted::Alone(_))) => {
            wanted.iter().map(|wanted| wanted.path().to_owned()).collect()
        }
        None if cli.selection.yes => Vec::new(),
        _ => {
            let (chosen, count) = choose(&changes(&record.name)?, wanted.as_deref());
            if count == 0 {
                return Ok(status::DONE);
            }
            if !cli.selection.yes && !agreed(count, &record.name)? {
                return Ok(status::FAILED);
            }
            chosen
        }
    };
    let mut command = step::sibling("lbx-env")?;
    command.arg("discard").args(cli.common.words(&lbx::Place::Local));
    match wanted {
        None => command.arg("--").arg(record.name.as_str()),
        Some(_) => command.args(["--null", "--", record.name.as_str(), "-"]).stdin(Stdio::from(list(&chosen)?)),
    };
    match step::replace(command)? {}
}

/// A list of paths that is nowhere, for a tool to read.
fn list(paths: &[PathBuf]) -> Result<File> {
    let mut file = File::from(memfd_create("paths", MemfdFlags::CLOEXEC).context("cannot make a list")?);
    for path in paths {
        // the project itself has no name in it
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        file.write_all(path.as_os_str().as_bytes())?;
        file.write_all(b"\0")?;
    }
    file.rewind()?;
    Ok(file)
}

/// The paths of all changes of environment `name`, as `lbx-diff` tells them.
fn changes(name: &Name) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Line {
        path: String,
        path_bytes: Option<String>,
    }
    let path = |line: &[u8]| -> Result<PathBuf> {
        let line: Line = serde_json::from_slice(line)?;
        Ok(JsonPath::decode(line.path, line.path_bytes.as_deref())?)
    };
    let text = selection::changes(name)?;
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| path(line).context("cannot understand what lbx-diff printed")).collect()
}

/// Which of `changes` to drop, and how many these are. A directory that was named alone goes when all that
/// was changed in it goes as well: else that would go with it.
fn choose(changes: &[PathBuf], wanted: Option<&[Wanted]>) -> (Vec<PathBuf>, usize) {
    let Some(wanted) = wanted else { return (Vec::new(), changes.len()) };
    let (mut alone, mut below) = (BTreeSet::new(), BTreeSet::new());
    for wanted in wanted {
        match wanted {
            Wanted::Alone(path) => alone.insert(path.as_path()),
            Wanted::Below(path) => below.insert(path.as_path()),
        };
    }
    let is_chosen = |path: &Path| alone.contains(path) || path.ancestors().any(|above| below.contains(above));
    let mut kept_in = BTreeSet::new();
    for path in changes.iter().filter(|path| !is_chosen(path)) {
        kept_in.extend(path.ancestors().skip(1));
    }
    let chosen: Vec<PathBuf> =
        changes.iter().filter(|path| is_chosen(path) && !kept_in.contains(path.as_path())).cloned().collect();
    let count = chosen.len();
    (chosen, count)
}

fn agreed(count: usize, name: &Name) -> Result<bool> {
    let count = if count == 1 { "1 change".to_owned() } else { format!("{count} changes") };
    cli::agreed(&format!("Discard {count} of {}?", printable(name.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_directory_goes_alone_when_nothing_is_kept_in_it() {
        let changes: Vec<PathBuf> = ["a", "a/x", "a/y", "b", "b/z"].map(PathBuf::from).into();
        let chosen = |wanted: &[Wanted]| choose(&changes, Some(wanted)).0;
        let alone = |path: &str| Wanted::Alone(path.into());
        assert_eq!(chosen(&[alone("a"), alone("a/x")]), [Path::new("a/x")]);
        assert_eq!(chosen(&[alone("a"), alone("a/x"), alone("a/y")]).len(), 3);
        assert_eq!(chosen(&[Wanted::Below("b".into())]), [Path::new("b"), Path::new("b/z")]);
        assert_eq!(chosen(&[Wanted::Below("".into())]).len(), 5);
        assert_eq!(choose(&changes, None), (vec![], 5));
        assert!(chosen(&[alone("c")]).is_empty());
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let mut text = String::new();
        list(&["a\nb".into(), "".into()]).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "a\nb\0.\0");
    }
}
