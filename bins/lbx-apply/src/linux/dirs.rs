//! Directories of the project: opened to work in, made, put in the place of something else, given their
//! modes, removed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use lbx::Result;
use rustix::fs::{AtFlags, Mode, fstat, mkdirat, openat2, unlinkat};
use rustix::io::Errno;

use super::act::Outcome;
use super::applied::Stamp;
use super::change::Kind;
use super::content::{attributes, chmod, give_group, proc_path, set_attributes};
use super::plan::{Clash, MODES, Step, Take, Why};
use super::sides::{BENEATH, DIRECTORY, Sides};

impl Sides<'_> {
    pub(crate) fn open(&self, path: &Path) -> Result<Outcome> {
        let dir = self.as_person(|| self.directory(path))?;
        let stat = fstat(&dir)?;
        let mode = stat.st_mode & 0o7777;
        if mode & 0o700 != 0o700 {
            self.journal.opened(path, mode | 0o700, mode)?;
            self.as_person(|| chmod(dir.as_fd(), mode | 0o700))?;
        }
        Ok(Outcome::Done)
    }

    pub(crate) fn make_dir(&self, step: &Step, mode: u32) -> Result<Outcome> {
        let path = &step.path;
        let (source, gid) = self.source_dir(step)?;
        let open = mode | 0o700;
        if open != mode {
            self.journal.opened(path, open, mode)?;
        }
        let made = self.as_person(|| {
            let (parent, name) = self.parent(path)?;
            match mkdirat(&parent, name, Mode::from_raw_mode(open)) {
                Ok(()) => Ok(Some(openat2(&parent, name, DIRECTORY, Mode::empty(), BENEATH)?)),
                Err(Errno::EXIST) => Ok(None),
                Err(e) => Err(e.into()),
            }
        })?;
        if let Some(made) = made {
            self.know(path, &fstat(&made)?);
            self.dress_dir(source.as_fd(), gid, made.as_fd())?;
            return Ok(Outcome::Done);
        }
        // as good as made, where it is one
        let present = self.as_person(|| Ok(self.directory(path).ok()))?;
        let Some(present) = present else { return Ok(Outcome::Left(Why::Conflict(Clash::Changed))) };
        match (fstat(&present)?.st_mode & MODES, step.take) {
            (own, _) if own == open => Ok(Outcome::Done),
            (_, Take::Forced) => self.set_mode(step, open),
            _ => Ok(Outcome::Left(Why::Conflict(Clash::Changed))),
        }
    }

    /// Gives a directory of ours the group `gid` and the attributes that `source` has.
    fn dress_dir(&self, source: BorrowedFd<'_>, gid: u32, made: BorrowedFd<'_>) -> Result<()> {
        let theirs = attributes(source)?;
        let itself = proc_path(made);
        Ok(self.as_person(|| {
            give_group(&fstat(made)?, gid, |gid| rustix::fs::chown(itself.as_path(), None, Some(gid)))?;
            set_attributes(made, &theirs)
        })?)
    }

    pub(crate) fn turn_into_dir(&self, step: &Step, mode: u32) -> Result<Outcome> {
        let (source, gid) = self.source_dir(step)?;
        let open = mode | 0o700;
        let turned = self.as_person(|| {
            let (parent, name) = self.parent(&step.path)?;
            let present = Self::present(parent.as_fd(), name)?;
            if let Some(why) = self.objection(step, present.as_ref()) {
                return Ok(Err(Outcome::Left(why)));
            }
            Ok(Ok((parent, name, present)))
        })?;
        let (parent, name, present) = match turned {
            Ok(open) => open,
            Err(outcome) => return Ok(outcome),
        };
        if open != mode {
            self.journal.opened(&step.path, open, mode)?;
        }
        let aside = self.free_name(parent.as_fd(), name)?;
        self.journal.note(&step.path, &aside, 0, None)?;
        let make = || {
            let made = self.as_person(|| {
                mkdirat(&parent, &aside, Mode::from_raw_mode(open))?;
                Ok(openat2(&parent, &aside, DIRECTORY, Mode::empty(), BENEATH)?)
            })?;
            self.dress_dir(source.as_fd(), gid, made.as_fd())?;
            self.journal.note(&step.path, &aside, fstat(&made)?.st_ino, None)?;
            let left = self.place(step, parent.as_fd(), &aside, name, present.as_ref(), Kind::Dir)?;
            if left.is_none() {
                self.know(&step.path, &fstat(&made)?);
                // before the note ends: of a directory that is in nobody's list, all counts as the person's
                self.enter(&step.path)?;
            }
            Ok(left)
        };
        Ok(self.or_undo(make())?.map_or(Outcome::Done, Outcome::Left))
    }

    pub(crate) fn remove_dir(&self, path: &Path) -> Result<Outcome> {
        Ok(self.as_person(|| {
            let (parent, name) = match self.parent(path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Done),
                parent => parent?,
            };
            match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => Ok(Outcome::Done),
                Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(Outcome::NotEmpty),
                Err(Errno::NOTDIR) => Ok(Outcome::Left(Why::Conflict(Clash::Changed))),
                Err(e) => Err(e.into()),
            }
        })?)
    }

    pub(crate) fn set_mode(&self, step: &Step, mode: u32) -> Result<Outcome> {
        let (source, _) = self.source_dir(step)?;
        let theirs = attributes(source.as_fd())?;
        let dir = self.as_person(|| self.directory(&step.path))?;
        // the bits that directories hand on are the person's to give
        let own = fstat(&dir)?.st_mode & 0o7777 & !MODES;
        self.as_person(|| {
            set_attributes(dir.as_fd(), &theirs)?;
            chmod(dir.as_fd(), own | mode)
        })?;
        Ok(Outcome::Applied(Stamp::of(&fstat(&dir)?)))
    }
}
