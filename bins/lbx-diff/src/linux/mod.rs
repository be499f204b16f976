//! What an environment of this machine changed of its project.

mod base;
mod blob;
mod content;
mod layers;
mod patch;
mod print;
mod quote;
mod stat;
mod walk;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use anyhow::Context;
use lbx::caller::Caller;
use lbx::failure::status;
use lbx::record::{self, Project, Record};
use lbx::sys::Looks;
use lbx::{Failure, Result, layer, step};
use lbx_diff::Cli;
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use crate::TOOL;
use base::Base;
use layers::Layer;
use print::Troubles;
use walk::{Walk, Wanted};

/// The status where something was changed.
const CHANGED: u8 = 1;

/// Prints what was changed at or below `paths`, all where there are none.
pub(crate) fn diff(cli: &Cli, paths: &[OsString]) -> Result<u8> {
    let record = record::open(&cli.env)?;
    let caller = Caller::current();
    record.require_caller(caller)?;
    step::require_program_out_of_reach(&record)?;
    let wanted = wanted(paths, &record.project())?;
    let looks = match caller.is_root() {
        true => Looks::of(caller.uid, caller.gid, &[]),
        false => Looks::of(caller.uid, caller.gid, &caller.groups()?),
    }
    .with_context(|| format!("cannot look as uid {}", caller.uid))?;
    let (upper, lower) = open(&record, looks)?;
    let base = Base::load(&record.name)?;
    let mut troubles = Troubles::new(TOOL);
    let layers = [&upper, &lower];
    let changes = Walk::new(&mut troubles, layers, &base, &wanted, cli.digest)?.changes()?;

    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    print::print(cli, &changes, layers, &mut troubles, &mut out)
        .and_then(|()| Ok(out.flush()?))
        .context("cannot write to stdout")?;
    Ok(match (troubles.are_none, changes.is_empty()) {
        (false, _) => TOOL.failed,
        (true, false) => CHANGED,
        (true, true) => status::DONE,
    })
}

/// The layers of the project of `record`: what was changed, and what the person has.
fn open(record: &Record, looks: Looks) -> Result<(Layer, Layer)> {
    if record.options.project != Project::Cow {
        return Err(Failure::new(format!("environment '{}' has no layer over its project", record.name))
            .hint(format!("lbx-env set --project cow {}, while it is stopped, gives it one", record.name))
            .into());
    }
    let path = layer::upper(&record.name);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let upper =
        openat(CWD, &path, flags, Mode::empty()).with_context(|| format!("cannot open '{}'", path.display()))?;
    let project = record.project();
    let lower = Layer::open_top(&project, looks).with_context(|| format!("cannot open path: {}", project.display()))?;
    let stat = fstat(&lower).with_context(|| format!("cannot look at path: {}", project.display()))?;
    if (stat.st_uid, stat.st_gid) != (record.owner.uid, record.owner.gid) {
        let message = format!(
            "owner of '{}' has changed: recorded {}:{}, now {}:{}",
            project.display(),
            record.owner.uid,
            record.owner.gid,
            stat.st_uid,
            stat.st_gid
        );
        return Err(Failure::new(message).hint("lbx-env repair takes the new owner").into());
    }
    Ok((Layer::upper(upper, looks, record.uid), Layer::lower(lower, looks)))
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
