//! What an environment of this machine changed of its project, or has otherwise than another one.

mod base;
mod blob;
mod content;
mod layers;
mod patch;
mod print;
mod quote;
mod stack;
mod stat;
mod walk;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use anyhow::Context;
use lbx::caller::Caller;
use lbx::failure::{Failure, Result, fail, status};
use lbx::record::Project;
use lbx::sys::Looks;
use lbx_diff::Cli;

use crate::TOOL;
use base::Base;
use print::Troubles;
use stack::Layers;
use walk::{Walk, Wanted};

/// The status where something was changed.
const CHANGED: u8 = 1;

/// Prints what was changed at or below `paths`, all where there are none.
pub(crate) fn diff(cli: &Cli, paths: &[OsString]) -> Result<u8> {
    let caller = Caller::current();
    let looks = match caller.is_root() {
        true => Looks::of(caller.uid, caller.gid, &[]),
        false => Looks::of(caller.uid, caller.gid, &caller.groups()?),
    }
    .with_context(|| format!("cannot look as uid {}", caller.uid))?;
    let (record, written) = stack::open(&cli.env, caller, looks)?;
    let wanted = wanted(paths, &record.project())?;
    let (layers, base) = match &cli.against {
        Some(other) => {
            let (other, theirs) = stack::open(other, caller, looks)?;
            if other.project() != record.project() {
                let message = format!("'{}' and '{}' have different projects", record.name, other.name);
                return fail(Failure::new(message).hint("--against compares environments of one path"));
            }
            (Layers::against(written, theirs, stack::project(&record, looks)?), None)
        }
        None => {
            if record.options.project != Project::Cow {
                return fail(
                    Failure::new(format!("environment '{}' has no layer over its project", record.name))
                        .hint(format!("lbx-env set --project cow {}, while it is stopped, gives it one", record.name)),
                );
            }
            (Layers::of(written, stack::project(&record, looks)?), Some(Base::load(&record.name)?))
        }
    };
    let mut troubles = Troubles::new(TOOL);
    let changes = Walk::new(&mut troubles, &layers, base.as_ref(), &wanted, cli.digest)?.changes()?;

    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    print::print(cli, &changes, &layers, &mut troubles, &mut out)
        .and_then(|()| Ok(out.flush()?))
        .context("cannot write to stdout")?;
    Ok(match (troubles.are_none, changes.is_empty()) {
        (false, _) => TOOL.failed,
        (true, false) => CHANGED,
        (true, true) => status::DONE,
    })
}

/// The paths that are asked for, relative to `project` and without what means nothing.
fn wanted(paths: &[OsString], project: &Path) -> Result<Wanted> {
    let normal = |path: &OsString| -> Result<Vec<u8>> {
        let refuse = |why| {
            let message = format!("path {why}: {}", Path::new(path).display());
            Failure::new(message).hint("a path is relative to the project").status(status::USAGE)
        };
        let relative = match Path::new(path).is_absolute() {
            true => Path::new(path).strip_prefix(project).map_err(|_| refuse("is outside the project"))?,
            false => Path::new(path),
        };
        let mut normal = Vec::new();
        for part in relative.components() {
            match part {
                Component::Normal(name) => {
                    normal.extend_from_slice(if normal.is_empty() { b"" } else { b"/" });
                    normal.extend_from_slice(name.as_bytes());
                }
                Component::CurDir => {}
                _ => return Err(refuse("leads up").into()),
            }
        }
        Ok(normal)
    };
    Ok(Wanted(paths.iter().map(normal).collect::<Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_project() {
        let wanted =
            |path: &str| super::wanted(&[path.into()], Path::new("/p/app")).map(|mut wanted| wanted.0.remove(0));
        for (path, normal) in [("src//a/./b/", "src/a/b"), ("./x", "x"), (".", ""), ("/p/app/x", "x"), ("/p/app", "")] {
            assert_eq!(wanted(path).unwrap(), normal.as_bytes(), "{path}");
        }
        for path in ["..", "src/../x", "/p/ap", "/etc"] {
            assert!(wanted(path).is_err(), "{path}");
        }
    }
}
