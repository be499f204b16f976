//! Files, links and the like: put into the project, changed in their places, merged with what the person
//! wrote, removed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use lbx::Result;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, fchown, fstat, futimens, mknodat, openat,
    renameat_with, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::act::Outcome;
use super::applied::Stamp;
use super::change::Kind;
use super::content::{attributes, chmod, copy, give_group, have_same_text, set_attributes, small};
use super::facts::{Facts, is_same};
use super::plan::{Clash, MODES, Step, Take, What, Why, leads_out};
use super::sides::{FILE, Sides};
use super::source::Source;

impl Sides<'_> {
    pub(crate) fn put(&self, step: &Step, kind: Kind, named: bool) -> Result<Outcome> {
        let source = self.source(step, kind)?;
        if let Source::Link(target) = &source
            && !named
            && leads_out(&step.path, Path::new(target), &self.path)
        {
            return Ok(Outcome::Left(Why::LeadsOut(target.clone())));
        }
        let found = self.as_person(|| {
            let (parent, name) = self.parent(&step.path)?;
            let present = Self::present(parent.as_fd(), name)?;
            Ok((parent, name, present))
        })?;
        let (parent, name, present) = found;
        // that it is a directory is what this step is for
        let present = match step.what {
            What::PutForDir(_) if present.as_ref().is_none_or(|stat| Kind::of(stat.st_mode) == Kind::Dir) => None,
            _ => present,
        };
        let is_for_dir = matches!(step.what, What::PutForDir(_));
        if !(is_for_dir && present.is_none())
            && let Some(why) = self.objection(step, present.as_ref())
        {
            return Ok(Outcome::Left(why));
        }
        let merged = match (&source, step.take, &present) {
            (Source::File(theirs, ..), Take::Merged, Some(stat)) => {
                match self.merged(&step.path, theirs, parent.as_fd(), name, stat)? {
                    Ok(Some(merged)) => Some(merged),
                    Ok(None) => return Ok(Outcome::Done),
                    Err(why) => return Ok(Outcome::Left(why)),
                }
            }
            _ => None,
        };
        if merged.is_none()
            && let (Source::File(file, stat, _), Some(present)) = (&source, &present)
            && let Some(stamp) = self.change_in_place(file, stat, parent.as_fd(), name, present)?
        {
            return Ok(Outcome::Applied(stamp));
        }
        let aside = self.free_name(parent.as_fd(), name)?;
        self.journal.note(&step.path, &aside, 0, None)?;
        let put = || {
            self.make_aside(&source, merged.as_ref(), parent.as_fd(), &aside)?;
            if is_for_dir && present.is_none() {
                return self.place_for_dir(step, parent.as_fd(), &aside, name);
            }
            let left = self.place(step, parent.as_fd(), &aside, name, present.as_ref(), kind)?;
            Ok(left.map_or(Outcome::Done, Outcome::Left))
        };
        let done = self.or_undo(put())?;
        if done != Outcome::Done || merged.is_some() {
            return Ok(done);
        }
        let stat = self.as_person(|| Self::present(parent.as_fd(), name))?;
        Ok(stat.map_or(Outcome::Done, |stat| Outcome::Applied(Stamp::of(&stat))))
    }

    /// Both sides of a file in one: its text and its mode; `None`: it is so already.
    #[allow(clippy::type_complexity)]
    fn merged(
        &self,
        path: &Path,
        theirs: &File,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        present: &Stat,
    ) -> Result<std::result::Result<Option<(Vec<u8>, u32)>, Why>> {
        let ours = self.as_person(|| Ok(File::from(openat(parent, name, FILE, Mode::empty())?)))?;
        let (our_stat, their_stat) = (fstat(&ours)?, fstat(theirs)?);
        if !is_same(&our_stat, present) || Kind::of(our_stat.st_mode) != Kind::File {
            return Ok(Err(Why::Conflict(Clash::Changed)));
        }
        let (Some(our_text), Some(their_text)) = (small(&ours)?, small(theirs)?) else {
            return Ok(Err(Why::Conflict(Clash::Unmerged("it is too large"))));
        };
        let text = match (self.merge)(path, &our_text, &their_text)? {
            Ok(text) => text,
            Err(why) => return Ok(Err(Why::Conflict(Clash::Unmerged(why)))),
        };
        // whether it may be executed, as git knows a mode
        let executable = (our_stat.st_mode | their_stat.st_mode) & 0o111;
        let mode = (our_stat.st_mode & MODES) | (executable & ((our_stat.st_mode & 0o444) >> 2));
        Ok(Ok((text != our_text || mode != our_stat.st_mode & MODES).then_some((text, mode))))
    }

    /// Changes mode and attributes alone, where the text is the same. Not of a file with several names: the
    /// others may be of files that nobody named, outside of the project as well, and inside it has become one
    /// with a single name.
    fn change_in_place(
        &self,
        source: &File,
        stat: &Stat,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        present: &Stat,
    ) -> Result<Option<Stamp>> {
        if Kind::of(present.st_mode) != Kind::File || present.st_size != stat.st_size || present.st_nlink > 1 {
            return Ok(None);
        }
        // one that the person cannot read is written anew
        let Ok(own) = self.as_person(|| Ok(File::from(openat(parent, name, FILE, Mode::empty())?))) else {
            return Ok(None);
        };
        if !is_same(&fstat(&own)?, present) || !have_same_text(source, &own)? {
            return Ok(None);
        }
        let theirs = attributes(source.as_fd())?;
        self.as_person(|| {
            set_attributes(own.as_fd(), &theirs)?;
            chmod(own.as_fd(), stat.st_mode & MODES)
        })?;
        Ok(Some(Stamp::of(&fstat(&own)?)))
    }

    /// Makes what is to be put, under the name `aside`.
    fn make_aside(
        &self,
        source: &Source,
        merged: Option<&(Vec<u8>, u32)>,
        parent: BorrowedFd<'_>,
        aside: &str,
    ) -> Result<()> {
        match source {
            Source::Link(target) => self.as_person(|| Ok(symlinkat(target, parent, aside)?))?,
            Source::Node(stat) => {
                let mode = Mode::from_raw_mode(stat.st_mode & MODES);
                let kind = FileType::from_raw_mode(stat.st_mode);
                self.as_person(|| Ok(mknodat(parent, aside, kind, mode, stat.st_rdev)?))?;
            }
            Source::File(file, stat, gid) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let own =
                    self.as_person(|| Ok(File::from(openat(parent, aside, flags, Mode::from_raw_mode(0o600))?)))?;
                match merged {
                    Some((text, _)) => (&own).write_all(text)?,
                    None => copy(file, &own)?,
                }
                let theirs = attributes(file.as_fd())?;
                let mode = merged.map_or(stat.st_mode & MODES, |(_, mode)| *mode);
                self.as_person(|| {
                    give_group(&fstat(&own)?, *gid, |gid| fchown(&own, None, Some(gid)))?;
                    set_attributes(own.as_fd(), &theirs)?;
                    chmod(own.as_fd(), mode)?;
                    // finer than the clock of any write: who writes it next has another time
                    Ok(futimens(&own, &now())?)
                })?;
            }
        }
        Ok(())
    }

    pub(crate) fn remove(&self, step: &Step) -> Result<Outcome> {
        let found = self.as_person(|| {
            let (parent, name) = match self.parent(&step.path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                parent => parent?,
            };
            Ok(Self::present(parent.as_fd(), name)?.map(|present| (parent, name, present)))
        })?;
        let Some((parent, name, present)) = found else { return Ok(Outcome::Done) };
        if let Some(why) = self.objection(step, Some(&present)) {
            return Ok(Outcome::Left(why));
        }
        let aside = self.free_name(parent.as_fd(), name)?;
        self.journal.note(&step.path, &aside, 0, Some(Facts::of(&present)))?;
        let remove = || {
            match renameat_with(&parent, name, &parent, &aside, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(Errno::NOENT) => return Ok(None),
                // a file system that knows no such rename
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    unlinkat(&parent, name, AtFlags::empty())?;
                    return Ok(None);
                }
                Err(e) => return Err(e.into()),
            }
            if Facts::of(&statat(&parent, &aside, AtFlags::SYMLINK_NOFOLLOW)?) == Facts::of(&present) {
                self.drop_taken_out(step, parent.as_fd(), &aside, &present)?;
                return Ok(None);
            }
            renameat_with(&parent, &aside, &parent, name, RenameFlags::NOREPLACE)?;
            Ok(Some(Why::Conflict(Clash::Changed)))
        };
        let left = self.or_undo(self.as_person(remove).map_err(Into::into))?;
        Ok(left.map_or(Outcome::Done, Outcome::Left))
    }
}

fn now() -> Timestamps {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = Timespec { tv_sec: now.as_secs() as _, tv_nsec: now.subsec_nanos().into() };
    Timestamps { last_access: now, last_modification: now }
}
