//! What lies aside, in the directory where it is to be put: it is exchanged with what lies in its place, and
//! what came out is looked at before it goes, so that nothing is replaced that was written meanwhile.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use anyhow::Context;
use lbx::Result;
use lbx::path::JsonPath;
use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, Stat, fstat, linkat, openat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::act::Outcome;
use super::change::Kind;
use super::content::chmod;
use super::facts::{Facts, is_same};
use super::journal::Note;
use super::plan::{Clash, MODES, Step, Why};
use super::sides::Sides;

impl Sides<'_> {
    /// A name in `parent` that is free for what is made aside, and not the one that is to be given to it.
    pub(crate) fn free_name(&self, parent: BorrowedFd<'_>, taken: &OsStr) -> io::Result<String> {
        self.as_person(|| {
            for number in 0..100 {
                let name = if number == 0 { self.aside.clone() } else { format!("{}.{number}", self.aside) };
                if taken != name.as_str() && Self::present(parent, OsStr::new(&name))?.is_none() {
                    return Ok(name);
                }
            }
            Err(io::Error::other(format!("'{}' and others of that name are in the way", self.aside)))
        })
    }

    /// Gives what lies `aside`, which is of `kind`, its name, in the place of what is `present`. `Some`:
    /// the person was faster, and what they wrote has its name again.
    pub(crate) fn place(
        &self,
        step: &Step,
        parent: BorrowedFd<'_>,
        aside: &str,
        name: &OsStr,
        present: Option<&Stat>,
        kind: Kind,
    ) -> Result<Option<Why>> {
        let faster = || Some(Why::Conflict(Clash::Changed));
        let Some(present) = present else {
            return Ok(self.as_person(|| match put_new(parent, aside, name) {
                Ok(()) => Ok(None),
                Err(Errno::EXIST) => {
                    self.drop_aside(parent, aside)?;
                    Ok(faster())
                }
                Err(e) => Err(e.into()),
            })?);
        };
        let ours = self.as_person(|| Ok(statat(parent, aside, AtFlags::SYMLINK_NOFOLLOW)?.st_ino))?;
        self.journal.note(&step.path, aside, ours, Some(Facts::of(present)))?;
        Ok(self.as_person(|| {
            // once more, and for good when it has been taken out
            let still = || Ok::<_, io::Error>(Self::present(parent, name)?.is_some_and(|now| is_same(&now, present)));
            if !still()? {
                self.drop_aside(parent, aside)?;
                return Ok(faster());
            }
            match renameat_with(parent, aside, parent, name, RenameFlags::EXCHANGE) {
                Ok(()) => {}
                Err(Errno::NOENT) => {
                    self.drop_aside(parent, aside)?;
                    return Ok(faster());
                }
                // a file system that cannot exchange
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    if kind == Kind::Dir {
                        unlinkat(parent, name, AtFlags::empty())?;
                    }
                    renameat(parent, aside, parent, name)?;
                    return Ok(None);
                }
                Err(e) => return Err(e.into()),
            }
            let taken_out = statat(parent, aside, AtFlags::SYMLINK_NOFOLLOW)?;
            if Facts::of(&taken_out) != Facts::of(present) {
                renameat_with(parent, aside, parent, name, RenameFlags::EXCHANGE)?;
                if statat(parent, aside, AtFlags::SYMLINK_NOFOLLOW)?.st_ino != ours {
                    return Err(io::Error::other("it is written again and again"));
                }
                self.drop_aside(parent, aside)?;
                return Ok(faster());
            }
            self.drop_taken_out(step, parent, aside, present)?;
            Ok(None)
        })?)
    }

    /// Removes what lies `aside` and was `present` at the path of `step`: its other names are as they were.
    pub(crate) fn drop_taken_out(
        &self,
        step: &Step,
        parent: BorrowedFd<'_>,
        aside: &str,
        present: &Stat,
    ) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let has_more = Kind::of(present.st_mode) != Kind::Dir && present.st_nlink > 1;
        let file = if has_more { openat(parent, aside, flags, Mode::empty()).ok() } else { None };
        unlinkat(parent, aside, AtFlags::empty())?;
        if let Some(after) = file.and_then(|file| fstat(file).ok()) {
            self.judge.parted(&step.path, present, &after);
        }
        Ok(())
    }

    /// Gives what lies `aside` its name, in the place of a directory that is empty.
    pub(crate) fn place_for_dir(
        &self,
        step: &Step,
        parent: BorrowedFd<'_>,
        aside: &str,
        name: &OsStr,
    ) -> Result<Outcome> {
        let removed = self.remove_dir(&step.path)?;
        if removed != Outcome::Done {
            self.as_person(|| self.drop_aside(parent, aside))?;
            return Ok(removed);
        }
        Ok(self.as_person(|| match put_new(parent, aside, name) {
            Ok(()) => Ok(Outcome::Done),
            Err(Errno::EXIST) => {
                self.drop_aside(parent, aside)?;
                Ok(Outcome::Left(Why::Conflict(Clash::Changed)))
            }
            Err(e) => Err(e.into()),
        })?)
    }

    /// Removes what is ours aside.
    fn drop_aside(&self, parent: BorrowedFd<'_>, aside: &str) -> io::Result<()> {
        match unlinkat(parent, aside, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => Ok(unlinkat(parent, aside, AtFlags::REMOVEDIR)?),
            Err(Errno::NOENT) => Ok(()),
            result => Ok(result?),
        }
    }

    /// What was `done` with something aside; where it failed, what lies there goes, or goes back.
    pub(crate) fn or_undo<T>(&self, done: Result<T>) -> Result<T> {
        let note = self.journal.noted();
        let kept = match (&done, note) {
            (Err(_), Some(note)) => self.put_back(&note)?,
            _ => None,
        };
        self.journal.end_note()?;
        match kept {
            None => done,
            Some(kept) => done.with_context(|| format!("what was there meanwhile is kept as '{}'", kept.display())),
        }
    }

    /// Finishes or undoes what a killed run left, by its journal, and begins a new one. Where the person
    /// was faster than that run and what they wrote cannot have its name again, the name that it has.
    pub(crate) fn recover(&self) -> Result<Option<PathBuf>> {
        let (note, opened) = self.journal.read()?;
        let mut kept = None;
        if let Some(note) = note {
            kept = self.put_back(&note)?;
            self.remember_placed(&note)?;
        }
        for dir in opened.into_iter().rev() {
            let Ok(path) = JsonPath::decode(dir.path.0, dir.path.1.as_deref()) else { continue };
            let Ok(open) = self.as_person(|| self.directory(&path)) else { continue };
            let mode = fstat(&open)?.st_mode & 0o7777;
            if mode & MODES == dir.open {
                self.as_person(|| chmod(open.as_fd(), (mode & !MODES) | dir.mode))?;
                let mut text = Vec::new();
                self.tell_applied(&path, &fstat(&open)?, &mut text)?;
                self.remember(&text)?;
            }
        }
        self.journal.forget()?;
        Ok(kept)
    }

    /// Adds the directory of `note` to the list of what was applied, if it came as far as its place.
    fn remember_placed(&self, note: &Note) -> Result<()> {
        let path = JsonPath::decode(note.path.0.clone(), note.path.1.as_deref())?;
        let Ok(dir) = self.as_person(|| self.directory(&path)) else { return Ok(()) };
        let stat = fstat(&dir)?;
        let mut text = Vec::new();
        if stat.st_ino == note.ours {
            self.tell_applied(&path, &stat, &mut text)?;
        }
        self.remember(&text)
    }

    /// Ends what `note` tells of.
    fn put_back(&self, note: &Note) -> Result<Option<PathBuf>> {
        let path = JsonPath::decode(note.path.0.clone(), note.path.1.as_deref())?;
        let outcome = self.as_person(|| {
            let Ok((parent, name)) = self.parent(&path) else { return Ok(None) };
            let parent = parent.as_fd();
            let facts = |name: &OsStr| Ok::<_, io::Error>(Self::present(parent, name)?.map(|stat| Facts::of(&stat)));
            let Some(aside) = facts(OsStr::new(&note.aside))? else { return Ok(None) };
            let there = facts(name)?;
            // what the person wrote, in place of what was to go
            if let Some(goes) = note.goes
                && aside.inode != note.ours
                && aside != goes
            {
                let kept = Some(path.with_file_name(&note.aside));
                let back = |flags| renameat_with(parent, &note.aside, parent, name, flags);
                match there {
                    None => return Ok(if back(RenameFlags::NOREPLACE).is_ok() { None } else { kept }),
                    Some(there) if there.inode == note.ours && back(RenameFlags::EXCHANGE).is_ok() => {}
                    Some(_) => return Ok(kept),
                }
                if facts(OsStr::new(&note.aside))?.is_none_or(|aside| aside.inode != note.ours) {
                    return Ok(kept);
                }
            }
            self.drop_aside(parent, &note.aside)?;
            Ok(None)
        });
        Ok(outcome?)
    }
}

/// Gives `aside` the name `name`, unless something has it: by a rename that replaces nothing, or by a
/// second name where a file system knows no such rename.
fn put_new(parent: BorrowedFd<'_>, aside: &str, name: &OsStr) -> rustix::io::Result<()> {
    match renameat_with(parent, aside, parent, name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        result => return result,
    }
    match linkat(parent, aside, parent, name, AtFlags::empty()) {
        Ok(()) => unlinkat(parent, aside, AtFlags::empty()),
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
            match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => renameat(parent, aside, parent, name),
                Ok(_) => Err(Errno::EXIST),
                Err(e) => Err(e),
            }
        }
        Err(e) => Err(e),
    }
}
