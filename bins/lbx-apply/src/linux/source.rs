//! What the layers have to be put into the project: opened as root, and taken for what it was when it was
//! looked for, or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;
use lbx::record::IDS;
use lbx::{Failure, Result, sys};
use rustix::fs::{AtFlags, Mode, OFlags, Stat, fstat, openat, openat2, readlinkat, statat};
use rustix::io::Errno;

use super::change::Kind;
use super::plan::Step;
use super::sides::{BENEATH, DIRECTORY, FILE, Layer, Sides, not_empty};

/// What is to be put.
pub(crate) enum Source {
    /// With the group that it has in the project.
    File(File, Stat, u32),
    Link(OsString),
    Node(Stat),
}

impl Sides<'_> {
    /// The layer that `step` takes from.
    fn layer(&self, step: &Step) -> Result<&Layer> {
        match &step.layer {
            None => Ok(&self.upper),
            Some(id) => self.frozen.get(id).ok_or_else(|| changed().into()),
        }
    }

    /// What the layer has at the path of `step`, which must be of `kind`. As root.
    pub(crate) fn source(&self, step: &Step, kind: Kind) -> Result<Source> {
        let layer = self.layer(step)?;
        let parent = step.path.parent().unwrap_or(Path::new(""));
        let dir = openat2(&layer.dir, not_empty(parent), DIRECTORY, Mode::empty(), BENEATH).map_err(|_| changed())?;
        let name = step.path.file_name().ok_or(Errno::INVAL)?;
        let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| changed())?;
        if Kind::of(stat.st_mode) != kind {
            return Err(changed().into());
        }
        Ok(match kind {
            Kind::File => {
                let file = File::from(openat(&dir, name, FILE, Mode::empty()).map_err(|_| changed())?);
                let stat = fstat(&file)?;
                if Kind::of(stat.st_mode) != Kind::File {
                    return Err(changed().into());
                }
                // another's was in the project before, and is nothing that the person may not read there
                if stat.st_uid != layer.uid {
                    let may_read = || sys::require_access(file.as_fd(), libc::R_OK);
                    self.as_person(may_read).context("it is another's, which may not be read")?;
                }
                Source::File(file, stat, self.group_of(layer, &stat))
            }
            Kind::Symlink => {
                let target = readlinkat(&dir, name, Vec::new()).map_err(|_| changed())?;
                Source::Link(OsStr::from_bytes(target.as_bytes()).to_owned())
            }
            _ => Source::Node(stat),
        })
    }

    /// The directory that the layer has at the path of `step`, and its group in the project.
    pub(crate) fn source_dir(&self, step: &Step) -> Result<(OwnedFd, u32)> {
        let layer = self.layer(step)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = openat2(&layer.dir, not_empty(&step.path), flags, Mode::empty(), BENEATH).map_err(|_| changed())?;
        let gid = self.group_of(layer, &fstat(&dir)?);
        Ok((dir, gid))
    }

    /// The group that a file of `layer` has in the project.
    fn group_of(&self, layer: &Layer, stat: &Stat) -> u32 {
        // with the owner's uid, each environment has a group of its own still
        let is_inside = stat.st_gid == layer.gid || IDS.contains(&stat.st_gid);
        if is_inside { self.group } else { stat.st_gid }
    }
}

fn changed() -> Failure {
    Failure::new("it was changed inside while it was applied").hint("once more")
}
