//! Carries out a plan: from the layers, which root reads, to the project, which the person writes.
//!
//! Every name is reached from a descriptor of the project, beneath it, through no link and into no other
//! mount. What is put in the place of something is made aside, in the same directory, and exchanged with
//! it; what came out is looked at before it goes, so that nothing is replaced that was written meanwhile.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use lbx::layer::Base;
use lbx::path::JsonPath;
use lbx::record::IDS;
use lbx::sys::{self, Looks};
use lbx::{Failure, Result};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Timespec, Timestamps, fchown, fstat,
    futimens, linkat, mkdirat, mknodat, openat, openat2, readlinkat, renameat, renameat_with, statat, symlinkat,
    unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::change::Kind;
use super::content::{attributes, copy, have_same_text, proc_path, set_attributes, small};
use super::facts::{Facts, is_same, times};
use super::journal::{Journal, Note};
use super::plan::{Clash, MODES, Step, Take, What, Why, leads_out};

/// Nothing but what lies beneath.
const BENEATH: ResolveFlags = match cfg!(feature = "broken-apply-links") {
    true => ResolveFlags::empty(),
    false => ResolveFlags::BENEATH
        .union(ResolveFlags::NO_SYMLINKS)
        .union(ResolveFlags::NO_MAGICLINKS)
        .union(ResolveFlags::NO_XDEV),
};
const NOFOLLOW: OFlags = match cfg!(feature = "broken-apply-links") {
    true => OFlags::empty(),
    false => OFlags::NOFOLLOW,
};
/// A directory to work in, which may be one that cannot be read.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(NOFOLLOW).union(OFlags::CLOEXEC);
/// A file, or nothing: what lies there must not keep anybody waiting.
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
/// As long as a path is that the kernel takes, with its end.
const PATH_MAX: usize = 4096;
/// Longer than a file system's clock stands still.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// When and as what a file was last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    changed: (i64, i64),
    written: (i64, i64),
}

impl Stamp {
    fn of(stat: &Stat) -> Stamp {
        Stamp { inode: stat.st_ino, changed: times(stat).0, written: times(stat).1 }
    }
}

/// A line of the list of what was applied.
#[derive(Deserialize, Serialize)]
struct Applied {
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    ino: u64,
    ctime: (i64, i64),
    /// Of a directory: when something comes or goes in it, that is no change of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
}

/// What tells whether the person has changed a file since the layers began.
#[derive(Clone, Debug)]
pub(crate) struct Judge {
    base: (i64, i64),
    applied: HashMap<PathBuf, (u64, (i64, i64))>,
}

impl Judge {
    /// By the layers' `base`, and `text`, the list of what was applied since.
    pub(crate) fn new(base: Base, text: &[u8]) -> Judge {
        let mut applied = HashMap::new();
        for line in text.split(|byte| *byte == b'\n') {
            // one that a killed run left half-written is none
            let Ok(line) = serde_json::from_slice::<Applied>(line) else { continue };
            let Ok(path) = JsonPath::decode(line.path, line.path_bytes.as_deref()) else { continue };
            applied.insert(path, (line.ino, line.ctime));
        }
        Judge { base: (base.sec, base.nsec), applied }
    }

    /// Whether what `stat` tells of `path` is as it was, or as it was applied.
    fn unchanged(&self, path: &Path, stat: &Stat) -> bool {
        let (changed, _) = times(stat);
        changed < self.base || self.applied.get(path) == Some(&(stat.st_ino, changed))
    }
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is done.
    Done,
    /// It is done; this is there now.
    Applied(Stamp),
    /// It was left alone.
    Left(Why),
    /// A directory is not empty: it holds what is to stay.
    NotEmpty,
}

/// Merges `theirs` into `ours`, both of the path; the `Err` inside says why not.
pub(crate) type Merge<'a> = dyn Fn(&Path, &[u8], &[u8]) -> Result<std::result::Result<Vec<u8>, &'static str>> + 'a;

/// A layer, and who wrote it: their files have these ids on the disk.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) dir: OwnedFd,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Both sides, open.
pub(crate) struct Sides<'a> {
    /// What the environment writes.
    pub(crate) upper: Layer,
    /// What snapshots froze of that, by what it is called.
    pub(crate) frozen: HashMap<String, Layer>,
    /// The project.
    pub(crate) project: OwnedFd,
    /// Where the project is.
    pub(crate) path: PathBuf,
    /// Who writes the project.
    pub(crate) person: Looks,
    pub(crate) judge: Judge,
    /// Before the changes were looked for, by the clock that times of files have.
    pub(crate) since: (i64, i64),
    /// The directories of the project that were entered since, by their inodes.
    pub(crate) known: RefCell<HashMap<PathBuf, u64>>,
    /// Those of them that were found as they were.
    pub(crate) entered: RefCell<BTreeSet<PathBuf>>,
    /// The directory that was entered last with all that it lies in.
    pub(crate) way: RefCell<PathBuf>,
    /// The group of the project's owner, which stands for the environment's.
    pub(crate) group: u32,
    /// The list of what was applied, open for appending.
    pub(crate) list: File,
    /// The name of what is made aside.
    pub(crate) aside: String,
    /// Where it is written down what is aside, for whoever goes on after this process is killed.
    pub(crate) journal: Journal,
    pub(crate) merge: &'a Merge<'a>,
}

impl Sides<'_> {
    /// Does `step`.
    ///
    /// # Errors
    /// A system call failed; nothing of the person's is lost.
    pub(crate) fn act(&self, step: &Step, named: bool) -> Result<Outcome> {
        let path = &step.path;
        let context = || format!("cannot apply '{}'", path.display());
        if path.as_os_str().len() >= PATH_MAX {
            return Err(io::Error::from(Errno::NAMETOOLONG)).with_context(context);
        }
        // what is taken whatever it is says nothing of the directory that it is in
        if step.take == Take::Checked {
            self.enter_above(path)?;
        }
        let done = match step.what {
            What::Open => self.open(path),
            What::MakeDir(mode) => self.make_dir(step, mode),
            What::TurnIntoDir(mode) => self.turn_into_dir(step, mode),
            What::PutNew(kind) | What::Put(kind) | What::PutForDir(kind) => self.put(step, kind, named),
            What::Remove => self.remove(step),
            What::RemoveDir => self.remove_dir(path),
            What::Mode(mode) => self.set_mode(step, mode),
        };
        let done = done.with_context(context)?;
        if done == Outcome::Done && matches!(step.what, What::MakeDir(_) | What::TurnIntoDir(_)) {
            self.enter(path)?;
        }
        Ok(done)
    }

    /// Enters all directories that `path` lies in, those of the step before but once.
    fn enter_above(&self, path: &Path) -> Result<()> {
        let Some(parent) = path.parent() else { return Ok(()) };
        let before = self.way.borrow().clone();
        let is_new = |above: &&Path| !above.as_os_str().is_empty() && !before.starts_with(above);
        let above: Vec<&Path> = parent.ancestors().take_while(is_new).collect();
        above.into_iter().rev().try_for_each(|above| self.enter(above))?;
        if parent.as_os_str().is_empty() || self.entered.borrow().contains(parent) {
            self.way.replace(parent.to_owned());
        }
        Ok(())
    }

    /// Remembers that the directory `path` is what it was, before anything comes or goes in it: a run that
    /// is killed then leaves no doubt.
    fn enter(&self, path: &Path) -> Result<()> {
        if self.entered.borrow().contains(path) {
            return Ok(());
        }
        // the step will say why
        let Ok(dir) = self.as_person(|| self.directory(path)) else { return Ok(()) };
        let mut text = Vec::new();
        self.tell_applied(path, &fstat(&dir)?, &mut text)?;
        self.remember(&text)?;
        self.entered.borrow_mut().insert(path.to_owned());
        Ok(())
    }

    /// Adds to the list of what was applied.
    pub(crate) fn remember(&self, lines: &[u8]) -> Result<()> {
        (&self.list).write_all(lines).context("cannot write the list of what was applied")
    }

    /// Runs `look` as the person.
    fn as_person<T>(&self, look: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if cfg!(feature = "broken-apply-person") {
            return look();
        }
        self.person.take(look)?
    }

    /// The directory that holds `path` in the project, and the name of `path` there.
    fn parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        Ok((self.directory(path.parent().unwrap_or(Path::new("")))?, name))
    }

    /// A directory of the project, by nothing but its own name beneath it: the one that it was when the
    /// changes were looked for. As the person.
    fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let dir = openat2(&self.project, not_empty(path), DIRECTORY, Mode::empty(), BENEATH)?;
        let stat = fstat(&dir)?;
        let known = self.known.borrow().get(path).copied();
        match known {
            _ if cfg!(feature = "broken-apply-way") => return Ok(dir),
            Some(inode) if inode == stat.st_ino => return Ok(dir),
            // what was moved into its place has another time
            None if times(&stat).0 <= self.since => {}
            _ => {
                let message = format!("directory was changed meanwhile: '{}'", not_empty(path).display());
                return Err(io::Error::other(message));
            }
        }
        if let Some(above) = path.parent() {
            drop(self.directory(above)?);
        }
        self.know(path, &stat);
        Ok(dir)
    }

    /// That the directory `path` is this one, from now on.
    fn know(&self, path: &Path, stat: &Stat) {
        self.known.borrow_mut().insert(path.to_owned(), stat.st_ino);
    }

    /// What lies at `name`; `None`: nothing.
    fn present(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Stat>> {
        match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            stat => Ok(Some(stat?)),
        }
    }

    /// Why what is `present` at the path of `step` must stay, if it must.
    fn objection(&self, step: &Step, present: Option<&Stat>) -> Option<Why> {
        let is_new = matches!(step.what, What::PutNew(_));
        match (step.take, present) {
            (_, Some(stat)) if Kind::of(stat.st_mode) == Kind::Dir => Some(Why::Conflict(Clash::Changed)),
            (Take::Forced, _) | (Take::Merged, Some(_)) => None,
            (Take::Checked, None) if is_new => None,
            (_, None) => Some(Why::Conflict(Clash::Gone)),
            (Take::Checked, Some(_)) if is_new => Some(Why::Conflict(Clash::Changed)),
            (Take::Checked, Some(stat)) if self.judge.unchanged(&step.path, stat) => None,
            (Take::Checked, Some(_)) => Some(Why::Conflict(Clash::Changed)),
        }
    }

    // directories

    fn open(&self, path: &Path) -> Result<Outcome> {
        let dir = self.as_person(|| self.directory(path))?;
        let stat = fstat(&dir)?;
        let mode = stat.st_mode & 0o7777;
        if mode & 0o700 != 0o700 {
            self.journal.opened(path, mode | 0o700, mode)?;
            self.as_person(|| chmod(dir.as_fd(), mode | 0o700))?;
        }
        Ok(Outcome::Done)
    }

    fn make_dir(&self, step: &Step, mode: u32) -> Result<Outcome> {
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

    fn turn_into_dir(&self, step: &Step, mode: u32) -> Result<Outcome> {
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
            let left = self.place(step, parent.as_fd(), &aside, name, present.as_ref(), Kind::Dir)?;
            if left.is_none() {
                self.know(&step.path, &fstat(&made)?);
            }
            Ok(left)
        };
        Ok(self.or_undo(make())?.map_or(Outcome::Done, Outcome::Left))
    }

    fn remove_dir(&self, path: &Path) -> Result<Outcome> {
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

    fn set_mode(&self, step: &Step, mode: u32) -> Result<Outcome> {
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

    // files, links and the like

    fn put(&self, step: &Step, kind: Kind, named: bool) -> Result<Outcome> {
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

    /// The layer that `step` takes from.
    fn layer(&self, step: &Step) -> Result<&Layer> {
        match &step.layer {
            None => Ok(&self.upper),
            Some(id) => self.frozen.get(id).ok_or_else(|| changed().into()),
        }
    }

    /// What the layer has at the path of `step`, which must be of `kind`. As root.
    fn source(&self, step: &Step, kind: Kind) -> Result<Source> {
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
    fn source_dir(&self, step: &Step) -> Result<(OwnedFd, u32)> {
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

    /// What was `done` with something aside; where it failed, what lies there goes, or goes back.
    fn or_undo<T>(&self, done: Result<T>) -> Result<T> {
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

    /// Gives what lies `aside`, which is of `kind`, its name, in the place of what is `present`. `Some`:
    /// the person was faster, and what they wrote has its name again.
    fn place(
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
            unlinkat(parent, aside, AtFlags::empty())?;
            Ok(None)
        })?)
    }

    /// Gives what lies `aside` its name, in the place of a directory that is empty.
    fn place_for_dir(&self, step: &Step, parent: BorrowedFd<'_>, aside: &str, name: &OsStr) -> Result<Outcome> {
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

    fn remove(&self, step: &Step) -> Result<Outcome> {
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
                unlinkat(&parent, &aside, AtFlags::empty())?;
                return Ok(None);
            }
            renameat_with(&parent, &aside, &parent, name, RenameFlags::NOREPLACE)?;
            Ok(Some(Why::Conflict(Clash::Changed)))
        };
        let left = self.or_undo(self.as_person(remove).map_err(Into::into))?;
        Ok(left.map_or(Outcome::Done, Outcome::Left))
    }

    /// Removes what is ours aside.
    fn drop_aside(&self, parent: BorrowedFd<'_>, aside: &str) -> io::Result<()> {
        match unlinkat(parent, aside, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => Ok(unlinkat(parent, aside, AtFlags::REMOVEDIR)?),
            Err(Errno::NOENT) => Ok(()),
            result => Ok(result?),
        }
    }

    // what a killed run leaves

    /// A name in `parent` that is free for what is made aside, and not the one that is to be given to it.
    fn free_name(&self, parent: BorrowedFd<'_>, taken: &OsStr) -> io::Result<String> {
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

    /// Finishes or undoes what a killed run left, by its journal, and begins a new one. Where the person
    /// was faster than that run and what they wrote cannot have its name again, the name that it has.
    pub(crate) fn recover(&self) -> Result<Option<PathBuf>> {
        let (note, opened) = self.journal.read()?;
        let kept = note.map_or(Ok(None), |note| self.put_back(&note))?;
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

    /// The lines for the list of what was applied: of those that nobody has touched since. The clock has
    /// gone on then, so that whoever touches one later is seen to.
    pub(crate) fn settled(&self, applied: &[(PathBuf, Stamp)]) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        if applied.is_empty() {
            return Ok(text);
        }
        std::thread::sleep(TICK);
        for (path, stamp) in applied {
            let now = self.as_person(|| {
                let (parent, name) = self.parent(path)?;
                Self::present(parent.as_fd(), name)
            });
            if let Ok(Some(now)) = now
                && Stamp::of(&now) == *stamp
            {
                self.tell_applied(path, &now, &mut text)?;
            }
        }
        Ok(text)
    }

    /// As [`Sides::settled`], the lines for the directories that are as they were but for what was applied.
    pub(crate) fn settled_directories(&self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        for path in &*self.entered.borrow() {
            if let Ok(dir) = self.as_person(|| self.directory(path)) {
                self.tell_applied(path, &fstat(&dir)?, &mut text)?;
            }
        }
        Ok(text)
    }

    fn tell_applied(&self, path: &Path, stat: &Stat, text: &mut Vec<u8>) -> Result<()> {
        let (ino, ctime) = (stat.st_ino, times(stat).0);
        if self.judge.applied.get(path) == Some(&(ino, ctime)) {
            return Ok(());
        }
        let (path, path_bytes) = JsonPath::encode(path);
        let mode = (Kind::of(stat.st_mode) == Kind::Dir).then_some(stat.st_mode & 0o7777);
        text.extend(serde_json::to_vec(&Applied { path, path_bytes, ino, ctime, mode })?);
        text.push(b'\n');
        Ok(())
    }
}

/// What is to be put.
enum Source {
    /// With the group that it has in the project.
    File(File, Stat, u32),
    Link(std::ffi::OsString),
    Node(Stat),
}

fn changed() -> Failure {
    Failure::new("it was changed inside while it was applied").hint("once more")
}

/// The project itself has no name beneath it.
fn not_empty(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// `fchmod(2)` takes no descriptor that was opened with O_PATH.
///
/// As the owner, who alone may: on a share that is whoever has looked last.
fn chmod(file: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    fstat(file)?;
    Ok(rustix::fs::chmod(proc_path(file).as_path(), Mode::from_raw_mode(mode))?)
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

/// Gives a file its group, where the person may.
fn give_group(stat: &Stat, gid: u32, give: impl FnOnce(Gid) -> rustix::io::Result<()>) -> io::Result<()> {
    if stat.st_gid == gid {
        return Ok(());
    }
    match give(Gid::from_raw(gid)) {
        Ok(()) | Err(Errno::PERM | Errno::INVAL) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn now() -> Timestamps {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = Timespec { tv_sec: now.as_secs() as _, tv_nsec: now.subsec_nanos().into() };
    Timestamps { last_access: now, last_modification: now }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::change::{Change, Status};
    use crate::linux::plan::{Conflicts, Request, plan};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{SystemTime, UNIX_EPOCH};

    /// An upper layer, a frozen one and a project, which lie in one directory.
    struct World {
        dir: tempfile::TempDir,
        base: Base,
        merge: Box<Merge<'static>>,
    }

    impl World {
        /// `make` makes what the project has before the base.
        fn new(make: impl Fn(&Path)) -> World {
            rustix::process::umask(Mode::empty());
            let dir = tempfile::tempdir().unwrap();
            for side in ["upper", "frozen", "project", "outside"] {
                std::fs::create_dir(dir.path().join(side)).unwrap();
            }
            make(&dir.path().join("project"));
            std::thread::sleep(TICK);
            let world = World { dir, base: Base { sec: now_pair().0, nsec: now_pair().1 }, merge: Box::new(concat) };
            std::thread::sleep(TICK);
            world
        }

        fn upper(&self, path: &str) -> PathBuf {
            self.dir.path().join("upper").join(path)
        }

        fn project(&self, path: &str) -> PathBuf {
            self.dir.path().join("project").join(path)
        }

        fn sides(&self) -> Sides<'_> {
            let open = |path: &Path| openat(rustix::fs::CWD, path, DIRECTORY, Mode::empty()).unwrap();
            let file = |name: &str| self.dir.path().join(name);
            let mut journal = File::options();
            journal.read(true).append(true).create(true);
            let since = now_pair();
            std::thread::sleep(TICK);
            Sides {
                upper: Layer { dir: open(&file("upper")), uid: 0, gid: 65536 },
                frozen: [("f1".to_owned(), Layer { dir: open(&file("frozen")), uid: 65537, gid: 65537 })].into(),
                project: open(&file("project")),
                path: file("project"),
                person: Looks::of(rustix::process::geteuid().as_raw(), 0, &[]).unwrap(),
                judge: Judge::new(self.base, &std::fs::read(file("applied")).unwrap_or_default()),
                since,
                known: RefCell::default(),
                entered: RefCell::default(),
                way: RefCell::default(),
                group: rustix::process::getegid().as_raw(),
                list: File::options().append(true).create(true).open(file("applied")).unwrap(),
                aside: ".lbx-apply.app-1a2b".to_owned(),
                journal: Journal::of(journal.open(file("journal")).unwrap()),
                merge: &*self.merge,
            }
        }

        /// Applies `changes` as a run does.
        fn apply(&self, changes: &[Change], request: &Request) -> Vec<(String, Result<Outcome>)> {
            self.run(&self.sides(), changes, request)
        }

        fn run(&self, sides: &Sides<'_>, changes: &[Change], request: &Request) -> Vec<(String, Result<Outcome>)> {
            let plan = plan(changes, request, &sides.path);
            let mut applied = Vec::new();
            let mut outcomes = Vec::new();
            for step in &plan.steps {
                let outcome = sides.act(step, request.named.contains(&step.path));
                if let Ok(Outcome::Applied(stamp)) = &outcome {
                    applied.push((step.path.clone(), *stamp));
                }
                outcomes.push((step.path.display().to_string(), outcome));
            }
            sides.remember(&sides.settled(&applied).unwrap()).unwrap();
            sides.remember(&sides.settled_directories().unwrap()).unwrap();
            sides.journal.forget().unwrap();
            outcomes
        }
    }

    fn concat(_: &Path, ours: &[u8], theirs: &[u8]) -> Result<std::result::Result<Vec<u8>, &'static str>> {
        Ok(if ours == b"no" { Err("no") } else { Ok([ours, theirs].concat()) })
    }

    fn now_pair() -> (i64, i64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        (now.as_secs() as i64, i64::from(now.subsec_nanos()))
    }

    fn change(status: Status, path: &str, new: Option<Kind>, old: Option<Kind>, mode: u32) -> Change {
        Change { path: path.into(), status, new, old, mode, target: None, layer: None, conflict: false }
    }

    fn modified(path: &str) -> Change {
        change(Status::Modified, path, Some(Kind::File), Some(Kind::File), 0o644)
    }

    fn added(path: &str) -> Change {
        change(Status::Added, path, Some(Kind::File), None, 0o644)
    }

    fn deleted(path: &str) -> Change {
        change(Status::Deleted, path, None, Some(Kind::File), 0)
    }

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn clash() -> Outcome {
        Outcome::Left(Why::Conflict(Clash::Changed))
    }

    #[test]
    fn what_was_changed_inside_is_in_the_project_then() {
        let world = World::new(|project| {
            for file in ["edited", "gone", "turned", "program", "alone", "long"] {
                std::fs::write(project.join(file), "old").unwrap();
                set_mode(&project.join(file), 0o600);
            }
            std::fs::hard_link(project.join("program"), project.join("again")).unwrap();
            std::fs::create_dir_all(project.join("dir/below")).unwrap();
            std::fs::create_dir_all(project.join("shut")).unwrap();
            std::fs::write(project.join("dir/below/x"), "").unwrap();
            symlink("edited", project.join("link")).unwrap();
        });
        std::fs::write(world.upper("edited"), "new").unwrap();
        set_mode(&world.upper("edited"), 0o4751);
        for file in ["program", "alone"] {
            std::fs::write(world.upper(file), "old").unwrap();
            set_mode(&world.upper(file), 0o755);
        }
        let inode = |path: &Path| std::fs::symlink_metadata(path).unwrap().ino();
        let (first, alone) = (inode(&world.project("program")), inode(&world.project("alone")));
        std::fs::create_dir(world.upper("turned")).unwrap();
        std::fs::write(world.upper("turned/in"), "in").unwrap();
        std::fs::write(world.upper("dir"), "was a directory").unwrap();
        symlink("program", world.upper("link")).unwrap();
        std::fs::create_dir(world.upper("new")).unwrap();
        std::fs::write(world.upper("new/a\n\u{1b}[2J"), "odd").unwrap();
        set_mode(&world.upper("new"), 0o555);
        std::fs::create_dir(world.upper("shut")).unwrap();
        set_mode(&world.upper("shut"), 0o500);
        mknodat(
            openat(rustix::fs::CWD, world.upper("").as_path(), DIRECTORY, Mode::empty()).unwrap(),
            "fifo",
            FileType::Fifo,
            Mode::from_raw_mode(0o640),
            0,
        )
        .unwrap();
        let sparse = File::create(world.upper("long")).unwrap();
        sparse.set_len(32 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (16 << 20) + 1).unwrap();
        let has_attributes = rustix::fs::fsetxattr(&sparse, c"user.x", b"y", rustix::fs::XattrFlags::empty()).is_ok();
        let mut changes = vec![
            change(Status::Turned, "dir", Some(Kind::File), Some(Kind::Dir), 0o644),
            change(Status::Deleted, "dir/below", None, Some(Kind::Dir), 0),
            deleted("dir/below/x"),
            modified("edited"),
            modified("alone"),
            change(Status::Added, "fifo", Some(Kind::Fifo), None, 0o640),
            deleted("gone"),
            change(Status::Modified, "link", Some(Kind::Symlink), Some(Kind::Symlink), 0o777),
            modified("long"),
            change(Status::Added, "new", Some(Kind::Dir), None, 0o555),
            added("new/a\n\u{1b}[2J"),
            modified("program"),
            change(Status::Modified, "shut", Some(Kind::Dir), Some(Kind::Dir), 0o500),
            change(Status::Turned, "turned", Some(Kind::Dir), Some(Kind::File), 0o755),
            added("turned/in"),
        ];
        changes.sort_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
        let request = Request { named: ["fifo".into()].into(), ..Request::default() };
        for (path, outcome) in world.apply(&changes, &request) {
            assert!(matches!(outcome, Ok(Outcome::Done | Outcome::Applied(_))), "{path}: {outcome:?}");
        }
        let read = |path: &str| std::fs::read_to_string(world.project(path)).unwrap();
        let own = ["again", "alone", "dir", "edited", "fifo", "link", "long", "new", "program", "shut", "turned"];
        assert_eq!(names(&world.project("")), own);
        assert_eq!((read("edited"), mode(&world.project("edited"))), ("new".to_owned(), 0o751), "no set-id bit");
        assert_eq!(read("dir"), "was a directory");
        assert_eq!(read("turned/in"), "in");
        assert_eq!((read("new/a\n\u{1b}[2J"), mode(&world.project("new"))), ("odd".to_owned(), 0o555));
        assert_eq!(mode(&world.project("shut")), 0o500);
        assert_eq!(mode(&world.project("fifo")), 0o640);
        assert_eq!(std::fs::read_link(world.project("link")).unwrap(), Path::new("program"));
        // only its mode changed, and not that of the other
        let modes = ["program", "again", "alone"].map(|file| mode(&world.project(file)));
        assert_eq!(modes, [0o755, 0o600, 0o755]);
        assert_eq!((inode(&world.project("program")) == first, inode(&world.project("alone")) == alone), (false, true));
        let long = File::open(world.project("long")).unwrap();
        assert!(have_same_text(&sparse, &long).unwrap_or(true));
        let meta = long.metadata().unwrap();
        assert_eq!(meta.len(), 32 << 20);
        assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
        if has_attributes {
            assert_eq!(attributes(long.as_fd()).unwrap(), [(c"user.x".to_owned(), b"y".to_vec())]);
        }
        assert_eq!(std::fs::metadata(world.dir.path().join("journal")).unwrap().len(), 0);
    }

    #[test]
    fn what_a_snapshot_froze_is_taken_from_its_layer() {
        let world = World::new(|project| {
            for file in ["old", "both"] {
                std::fs::write(project.join(file), "old").unwrap();
            }
            std::fs::create_dir(project.join("kept")).unwrap();
        });
        let frozen = |path: &str| world.dir.path().join("frozen").join(path);
        for dir in ["d", "kept"] {
            std::fs::create_dir(frozen(dir)).unwrap();
            std::fs::create_dir(world.upper(dir)).unwrap();
        }
        for file in ["old", "both", "d/frozen", "d/both"] {
            std::fs::write(frozen(file), "frozen").unwrap();
        }
        for file in ["both", "d/new", "d/both"] {
            std::fs::write(world.upper(file), "newer").unwrap();
        }
        std::fs::write(world.upper("unknown"), "of another layer").unwrap();
        symlink("d", frozen("link")).unwrap();
        set_mode(&frozen("kept"), 0o700);
        std::os::unix::fs::chown(frozen("d/frozen"), Some(65537), Some(65537)).unwrap();
        let of = |id: &str, change: Change| Change { layer: Some(id.to_owned()), ..change };
        let changes = [
            modified("both"),
            change(Status::Added, "d", Some(Kind::Dir), None, 0o755),
            added("d/both"),
            of("f1", added("d/frozen")),
            added("d/new"),
            of("f1", change(Status::Modified, "kept", Some(Kind::Dir), Some(Kind::Dir), 0o700)),
            of("f1", change(Status::Added, "link", Some(Kind::Symlink), None, 0o777)),
            of("f1", modified("old")),
            // one that was frozen since the layers were opened, or never
            of("f2", added("unknown")),
        ];
        for (path, outcome) in world.apply(&changes, &Request::default()) {
            match path.as_str() {
                "unknown" => assert!(outcome.is_err()),
                _ => assert!(matches!(outcome, Ok(Outcome::Done | Outcome::Applied(_))), "{path}: {outcome:?}"),
            }
        }
        let read = |path: &str| std::fs::read_to_string(world.project(path)).unwrap();
        for (file, text) in [("old", "frozen"), ("d/frozen", "frozen")] {
            assert_eq!(read(file), text, "{file}");
        }
        for file in ["both", "d/both", "d/new"] {
            assert_eq!(read(file), "newer", "{file}");
        }
        assert_eq!(mode(&world.project("kept")), 0o700);
        assert_eq!(std::fs::read_link(world.project("link")).unwrap(), Path::new("d"));
        let gid = std::fs::metadata(world.project("d/frozen")).unwrap().gid();
        assert_eq!(gid, rustix::process::getegid().as_raw(), "the group of that layer's account is no one's outside");
        assert!(!world.project("unknown").exists());
    }

    #[test]
    fn what_the_person_may_not_read_does_not_come_out_by_another_name() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let apply = || {
            let world = World::new(|_| {});
            let frozen = |path: &str| world.dir.path().join("frozen").join(path);
            for (file, mode, owner) in [("secret", 0o600, 12), ("open", 0o644, 12), ("own", 0o600, 65537)] {
                std::fs::write(frozen(file), "text").unwrap();
                set_mode(&frozen(file), mode);
                std::os::unix::fs::chown(frozen(file), Some(owner), Some(owner)).unwrap();
            }
            set_mode(world.dir.path(), 0o755);
            std::os::unix::fs::chown(world.project(""), Some(65534), Some(65534)).unwrap();
            let changes = ["open", "own", "secret"].map(|file| Change { layer: Some("f1".to_owned()), ..added(file) });
            let sides = Sides { person: Looks::of(65534, 65534, &[]).unwrap(), ..world.sides() };
            let outcomes = world.run(&sides, &changes, &Request::default());
            assert_eq!(names(&world.project("")), ["open", "own"], "{outcomes:?}");
            outcomes.iter().map(|(_, outcome)| outcome.is_ok()).collect::<Vec<_>>()
        };
        // a thread of its own: it keeps the groups
        assert_eq!(std::thread::spawn(apply).join().unwrap(), [true, true, false]);
    }

    #[test]
    fn what_the_person_wrote_since_stays() {
        let world = World::new(|project| {
            for file in ["edited", "gone", "removed", "kept"] {
                std::fs::write(project.join(file), "old").unwrap();
            }
            std::fs::create_dir(project.join("dir")).unwrap();
        });
        for file in ["edited", "gone", "new"] {
            std::fs::write(world.upper(file), "agent's").unwrap();
        }
        for file in ["edited", "removed", "new", "dir/new"] {
            std::fs::write(world.project(file), "person's").unwrap();
        }
        std::fs::remove_file(world.project("gone")).unwrap();
        let changes = [
            change(Status::Deleted, "dir", None, Some(Kind::Dir), 0),
            modified("edited"),
            modified("gone"),
            deleted("kept"),
            added("new"),
            deleted("removed"),
        ];
        let outcomes = world.apply(&changes, &Request::default());
        let outcomes: HashMap<_, _> = outcomes.into_iter().map(|(path, outcome)| (path, outcome.unwrap())).collect();
        assert_eq!(outcomes["edited"], clash());
        assert_eq!(outcomes["gone"], Outcome::Left(Why::Conflict(Clash::Gone)));
        assert_eq!(outcomes["new"], clash());
        assert_eq!(outcomes["removed"], clash());
        assert_eq!(outcomes["dir"], Outcome::NotEmpty);
        assert_eq!(outcomes["kept"], Outcome::Done);
        assert_eq!(names(&world.project("")), ["dir", "edited", "new", "removed"]);
        for file in ["edited", "removed", "new", "dir/new"] {
            assert_eq!(std::fs::read_to_string(world.project(file)).unwrap(), "person's", "{file}");
        }
        let conflicting: Vec<Change> = changes.iter().cloned().map(|c| Change { conflict: true, ..c }).collect();
        let force = Request { conflicts: Conflicts::Force, ..Request::default() };
        world.apply(&conflicting, &force);
        assert_eq!(
            names(&world.project("")),
            ["dir", "edited", "gone", "new"],
            "a directory with files is no conflict"
        );
        assert_eq!(std::fs::read_to_string(world.project("edited")).unwrap(), "agent's");
    }

    #[test]
    fn what_was_applied_is_no_conflict_until_the_person_writes_it() {
        let world = World::new(|project| std::fs::write(project.join("f"), "old").unwrap());
        for text in ["one", "two", "three"] {
            std::fs::write(world.upper("f"), text).unwrap();
            let outcome = world.apply(&[modified("f")], &Request::default()).remove(0).1.unwrap();
            assert!(matches!(outcome, Outcome::Applied(_)), "{text}: {outcome:?}");
            assert_eq!(std::fs::read_to_string(world.project("f")).unwrap(), text);
        }
        std::fs::write(world.project("f"), "mine").unwrap();
        std::fs::write(world.upper("f"), "four").unwrap();
        assert_eq!(world.apply(&[modified("f")], &Request::default()).remove(0).1.unwrap(), clash());
        // what was merged differs from the environment's: that it is there is no leave to overwrite it
        let both = [Change { conflict: true, ..modified("f") }];
        let merge = Request { conflicts: Conflicts::Merge, ..Request::default() };
        assert_eq!(world.apply(&both, &merge).remove(0).1.unwrap(), Outcome::Done);
        assert_eq!(std::fs::read_to_string(world.project("f")).unwrap(), "minefour");
        assert_eq!(world.apply(&[modified("f")], &Request::default()).remove(0).1.unwrap(), clash());
        std::fs::write(world.project("f"), "no").unwrap();
        let why = Why::Conflict(Clash::Unmerged("no"));
        assert_eq!(world.apply(&both, &merge).remove(0).1.unwrap(), Outcome::Left(why));
    }

    #[test]
    fn a_link_in_the_place_of_a_directory_is_not_followed() {
        let world = World::new(|project| std::fs::create_dir(project.join("d")).unwrap());
        let outside = world.dir.path().join("outside");
        std::fs::write(outside.join("precious"), "").unwrap();
        std::fs::create_dir(world.upper("d")).unwrap();
        std::fs::write(world.upper("d/x"), "").unwrap();
        std::fs::remove_dir(world.project("d")).unwrap();
        symlink(&outside, world.project("d")).unwrap();
        let changes = [added("d/x"), deleted("d/precious")];
        assert!(world.apply(&changes, &Request::default()).iter().all(|(_, outcome)| outcome.is_err()));
        // nor on the other side
        std::fs::remove_file(world.project("d")).unwrap();
        std::fs::create_dir(world.project("d")).unwrap();
        std::fs::remove_dir_all(world.upper("d")).unwrap();
        symlink(&outside, world.upper("d")).unwrap();
        assert!(world.apply(&[added("d/precious")], &Request::default())[0].1.is_err());
        std::fs::remove_file(world.upper("d")).unwrap();
        std::fs::create_dir(world.upper("d")).unwrap();
        symlink(outside.join("precious"), world.upper("d/x")).unwrap();
        assert!(world.apply(&[added("d/x")], &Request::default())[0].1.is_err(), "it was a file when it was looked at");
        let link = change(Status::Added, "d/x", Some(Kind::Symlink), None, 0o777);
        assert!(matches!(
            world.apply(&[link], &Request::default()).remove(0).1.unwrap(),
            Outcome::Left(Why::LeadsOut(_))
        ));
        assert_eq!((names(&outside), names(&world.project("d"))), (vec!["precious".to_owned()], vec![]));
    }

    /// Runs `work` again and again in another thread until it is dropped.
    struct Busy {
        ended: Arc<AtomicBool>,
        thread: Option<std::thread::JoinHandle<()>>,
    }

    impl Busy {
        fn with(mut work: impl FnMut() + Send + 'static) -> Busy {
            let ended = Arc::new(AtomicBool::new(false));
            let told = ended.clone();
            let thread = std::thread::spawn(move || {
                while !told.load(Ordering::Relaxed) {
                    work();
                }
            });
            Busy { ended, thread: Some(thread) }
        }
    }

    impl Drop for Busy {
        fn drop(&mut self) {
            self.ended.store(true, Ordering::Relaxed);
            if let Some(thread) = self.thread.take() {
                thread.join().unwrap();
            }
        }
    }

    #[test]
    fn a_directory_that_is_swapped_all_the_while_is_itself_or_nothing() {
        let world = World::new(|project| std::fs::create_dir(project.join("d")).unwrap());
        let (outside, link, dir) = (world.dir.path().join("outside"), world.project("link"), world.project("d"));
        std::fs::write(outside.join("precious"), "kept").unwrap();
        symlink(&outside, &link).unwrap();
        std::fs::create_dir(world.upper("d")).unwrap();
        std::fs::write(world.upper("d/x"), "").unwrap();
        std::fs::write(world.upper("d/precious"), "overwritten").unwrap();
        let swap = Busy::with(move || {
            renameat_with(rustix::fs::CWD, &dir, rustix::fs::CWD, &link, RenameFlags::EXCHANGE).unwrap();
        });
        let changes = [deleted("d/precious"), added("d/x"), added("d/y")];
        let force = Request { conflicts: Conflicts::Force, ..Request::default() };
        let mut done = 0;
        // a directory that is swapped is not the one that it was, which is not what is to be seen here
        let sides = Sides { since: (i64::MAX, 0), ..world.sides() };
        for _ in 0..3000 {
            let outcomes = changes.iter().map(|change| {
                sides.known.borrow_mut().clear();
                let changes = [Change { conflict: true, ..change.clone() }];
                let step = plan(&changes, &force, &sides.path).steps.remove(0);
                sides.act(&step, false)
            });
            done += outcomes.filter(Result::is_ok).count();
        }
        drop(swap);
        assert_eq!(names(&outside), ["precious"]);
        assert_eq!(std::fs::read_to_string(outside.join("precious")).unwrap(), "kept");
        assert!(done > 0, "it was never there when it was looked for");
    }

    #[test]
    fn a_directory_that_is_replaced_by_another_is_not_written() {
        let world = World::new(|project| {
            for dir in ["d/e", "other/e"] {
                std::fs::create_dir_all(project.join(dir)).unwrap();
                std::fs::write(project.join(dir).join("x"), "old").unwrap();
            }
        });
        std::fs::create_dir_all(world.upper("d/e")).unwrap();
        std::fs::write(world.upper("d/e/x"), "new").unwrap();
        let sides = world.sides();
        // after the changes were looked for
        std::fs::rename(world.project("d"), world.project("moved")).unwrap();
        std::fs::rename(world.project("other"), world.project("d")).unwrap();
        assert!(world.run(&sides, &[modified("d/e/x")], &Request::default())[0].1.is_err());
        assert_eq!(std::fs::read_to_string(world.project("d/e/x")).unwrap(), "old");
    }

    #[test]
    fn what_the_person_writes_meanwhile_is_never_lost() {
        let world = World::new(|project| {
            for file in ["edited", "gone", "idle"] {
                std::fs::write(project.join(file), "old").unwrap();
            }
        });
        std::fs::write(world.upper("edited"), "agent's").unwrap();
        std::fs::write(world.upper("new"), "agent's").unwrap();
        let dir = world.project("");
        for round in 0..100u64 {
            let mut sides = Sides { since: (i64::MAX, 0), ..world.sides() };
            for file in ["edited", "gone"] {
                std::fs::write(dir.join(file), "old").unwrap();
            }
            let _ = std::fs::remove_file(dir.join("new"));
            std::thread::sleep(TICK);
            sides.judge.base = now_pair();
            std::thread::sleep(TICK);
            let files = dir.clone();
            // as editors do: aside, and renamed; at another instant of the step each time
            let (begun, wait) = (std::time::Instant::now(), Duration::from_micros(round * 37 % 400));
            let person = std::thread::spawn(move || {
                while begun.elapsed() < wait {
                    std::hint::spin_loop();
                }
                for count in 0..=round % 3 {
                    for file in ["edited", "gone", "new"] {
                        std::fs::write(files.join(".editor"), format!("person's {count}")).unwrap();
                        std::fs::rename(files.join(".editor"), files.join(file)).unwrap();
                    }
                }
            });
            let outcomes = [modified("edited"), deleted("gone"), added("new")].map(|change| {
                let step = plan(&[change], &Request::default(), &sides.path).steps.remove(0);
                sides.act(&step, false)
            });
            person.join().unwrap();
            for file in ["edited", "gone", "new"] {
                let text = std::fs::read_to_string(dir.join(file)).unwrap_or_default();
                assert_eq!(text, format!("person's {}", round % 3), "{file}: {outcomes:?}");
            }
            // who writes twice in an instant is told where the first is kept
            for name in names(&dir).iter().filter(|name| name.starts_with(".lbx-apply")) {
                let told = outcomes.iter().any(|outcome| {
                    outcome.as_ref().is_err_and(|e| format!("{e:#}").contains(&format!("is kept as '{name}'")))
                });
                assert!(told, "{name}: {outcomes:?}");
                std::fs::remove_file(dir.join(name)).unwrap();
            }
        }
    }

    #[test]
    fn what_a_killed_run_left_is_ended() {
        let world = World::new(|project| {
            std::fs::write(project.join("f"), "old").unwrap();
            std::fs::create_dir(project.join("d")).unwrap();
        });
        let aside = ".lbx-apply.app-1a2b";
        let (f, left) = (world.project("f"), world.project(aside));
        let facts = |path: &Path| Facts::of(&rustix::fs::lstat(path).unwrap());
        let recovered = |note: &dyn Fn(&Journal)| {
            note(&world.sides().journal);
            let kept = world.sides().recover().unwrap();
            let left = names(&world.project(""));
            (kept, left, std::fs::read_to_string(&f).ok())
        };
        let whole = |text: &str| (None, vec!["d".to_owned(), "f".to_owned()], Some(text.to_owned()));
        // half-written
        std::fs::write(&left, "ne").unwrap();
        assert_eq!(recovered(&|journal| journal.note(Path::new("f"), aside, 0, None).unwrap()), whole("old"));
        // whole, and not yet in its place
        std::fs::write(&left, "new").unwrap();
        let (ours, goes) = (facts(&left), facts(&f));
        let exchange = |journal: &Journal| journal.note(Path::new("f"), aside, ours.inode, Some(goes)).unwrap();
        assert_eq!(recovered(&exchange), whole("old"));
        // in its place, and the other not yet gone
        std::fs::write(&left, "new").unwrap();
        let (ours, goes) = (facts(&left), facts(&f));
        renameat_with(rustix::fs::CWD, &left, rustix::fs::CWD, &f, RenameFlags::EXCHANGE).unwrap();
        let exchange = |journal: &Journal| journal.note(Path::new("f"), aside, ours.inode, Some(goes)).unwrap();
        assert_eq!(recovered(&exchange), whole("new"));
        // in its place, in exchange for what the person had just written
        let goes = facts(&f);
        std::fs::write(&left, "newer").unwrap();
        let ours = facts(&left);
        std::fs::write(world.project("editor"), "person's").unwrap();
        std::fs::rename(world.project("editor"), &f).unwrap();
        renameat_with(rustix::fs::CWD, &left, rustix::fs::CWD, &f, RenameFlags::EXCHANGE).unwrap();
        let exchange = |journal: &Journal| journal.note(Path::new("f"), aside, ours.inode, Some(goes)).unwrap();
        assert_eq!(recovered(&exchange), whole("person's"));
        // taken out to be removed: what it was, and what the person had just written
        let goes = facts(&f);
        std::fs::rename(&f, &left).unwrap();
        let removal = |journal: &Journal| journal.note(Path::new("f"), aside, 0, Some(goes)).unwrap();
        assert_eq!(recovered(&removal), (None, vec!["d".to_owned()], None));
        std::fs::write(&left, "person's").unwrap();
        assert_eq!(recovered(&removal), whole("person's"));
        // and written again meanwhile: both stay
        std::fs::write(&left, "person's").unwrap();
        std::fs::write(&f, "and again").unwrap();
        let kept =
            (Some(aside.into()), vec![aside.to_owned(), "d".to_owned(), "f".to_owned()], Some("and again".into()));
        assert_eq!(recovered(&removal), kept);
        std::fs::remove_file(&left).unwrap();
        // a directory that was open; a line that was torn
        set_mode(&world.project("d"), 0o755);
        let opened = |journal: &Journal| {
            journal.opened(Path::new("d"), 0o755, 0o555).unwrap();
            let mut file = File::options().append(true).open(world.dir.path().join("journal")).unwrap();
            file.write_all(b"{\"path\":[\"f\",nu").unwrap();
        };
        assert_eq!(recovered(&opened), whole("and again"));
        assert_eq!(mode(&world.project("d")), 0o555);
    }
}
