//! What was changed: the upper layer against the lower one. Directories that the upper layer does not
//! have are not looked at.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use anyhow::Context;
use lbx::Result;
use lbx::sys::Handle;

use super::base::Base;
use super::content;
use super::layers::{Entry, Kind, Layer};
use super::print::Troubles;

const OPAQUE: &str = "trusted.overlay.opaque";
const WHITEOUT: &str = "trusted.overlay.whiteout";
const ORIGIN: &str = "trusted.overlay.origin";
/// What stands in a file's stead where overlayfs was told to copy or to move no contents.
const REFERENCES: [&str; 2] = ["trusted.overlay.metacopy", "trusted.overlay.redirect"];

/// The letter of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Added,
    Modified,
    Deleted,
    Type,
}

impl Status {
    pub(crate) fn letter(self) -> &'static str {
        match self {
            Status::Added => "A",
            Status::Modified => "M",
            Status::Deleted => "D",
            Status::Type => "T",
        }
    }
}

/// What became of one path of the project.
#[derive(Debug)]
pub(crate) struct Change {
    /// Relative to the project; the project itself is `.`.
    pub(crate) path: Vec<u8>,
    pub(crate) new: Option<Entry>,
    pub(crate) old: Option<Entry>,
    /// The person changed it, too.
    pub(crate) conflict: bool,
    /// The SHA-256 of the new and the old file, where that is asked for.
    pub(crate) digests: [Option<String>; 2],
}

impl Change {
    pub(crate) fn status(&self) -> Status {
        match (&self.new, &self.old) {
            (_, None) => Status::Added,
            (None, _) => Status::Deleted,
            (Some(new), Some(old)) if new.kind == old.kind => Status::Modified,
            _ => Status::Type,
        }
    }

    /// Whether it is a directory, or was one where there is nothing any more.
    pub(crate) fn is_dir(&self) -> bool {
        self.new.as_ref().or(self.old.as_ref()).is_some_and(|entry| entry.kind == Kind::Dir)
    }
}

/// Paths that are asked for, relative to the project and normal; all where there are none.
pub(crate) struct Wanted(pub(crate) Vec<Vec<u8>>);

impl Wanted {
    /// Whether `path` itself is asked for.
    fn has(&self, path: &[u8]) -> bool {
        self.0.is_empty() || self.0.iter().any(|wanted| is_at_or_below(path, wanted))
    }

    /// Whether anything below `path` is.
    fn reaches_below(&self, path: &[u8]) -> bool {
        self.has(path) || self.0.iter().any(|wanted| is_at_or_below(wanted, path))
    }
}

fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    above.is_empty() || path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// A directory, in one layer or in both, that is yet to be read.
struct Pending {
    /// Relative to the project, and empty for it.
    path: Vec<u8>,
    new: Option<Entry>,
    old: Option<Entry>,
    /// Of that one which is a file.
    digests: [Option<String>; 2],
    /// What the upper layer does not have shows through from the lower.
    through: bool,
    /// The person put another in its place.
    suspect: bool,
}

/// A directory, open in the layers that have it.
struct Open {
    upper: Option<OwnedFd>,
    lower: Option<OwnedFd>,
    through: bool,
    suspect: bool,
    /// Files stand for whiteouts in it.
    has_marks: bool,
    /// The person has neither put anything into it nor taken anything out of it.
    is_settled: bool,
}

/// Whether the person changed something meanwhile, too.
enum Conflict {
    No,
    Yes,
    /// Unless this is a file of theirs that was moved inside.
    UnlessMoved(Handle),
}

/// Reads both layers.
pub(crate) struct Walk<'a> {
    troubles: &'a mut Troubles,
    upper: &'a Layer,
    lower: &'a Layer,
    base: &'a Base,
    wanted: &'a Wanted,
    /// With the digests of files.
    digest: bool,
    /// Handles of the lower layer tell files apart.
    handles: bool,
    changes: Vec<Change>,
    pending: Vec<Pending>,
    /// Changes that are conflicts unless such a file was moved.
    doubtful: Vec<(usize, Handle)>,
    /// Files of the lower layer that were changed or hidden inside.
    touched: HashSet<Handle>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(
        troubles: &'a mut Troubles,
        [upper, lower]: [&'a Layer; 2],
        base: &'a Base,
        wanted: &'a Wanted,
        digest: bool,
    ) -> Result<Walk<'a>> {
        Ok(Walk {
            troubles,
            upper,
            lower,
            base,
            wanted,
            digest,
            handles: lower.has_lasting_handles()?,
            changes: Vec::new(),
            pending: Vec::new(),
            doubtful: Vec::new(),
            touched: HashSet::new(),
        })
    }

    /// All changes, sorted by path.
    pub(crate) fn changes(mut self) -> Result<Vec<Change>> {
        self.walk()?;
        if !self.doubtful.is_empty() && !self.wanted.0.is_empty() {
            // it may have been moved from where nobody asked
            let everything = Wanted(Vec::new());
            let layers = [self.upper, self.lower];
            let mut other = Walk::new(self.troubles, layers, self.base, &everything, false)?;
            other.walk()?;
            self.touched = other.touched;
        }
        for (at, origin) in self.doubtful {
            self.changes[at].conflict = !self.touched.contains(&origin);
        }
        self.changes.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(self.changes)
    }

    fn walk(&mut self) -> Result<()> {
        let top = |layer: &Layer| layer.top().context("cannot look at the project");
        let (new, old) = (Some(top(self.upper)?), Some(top(self.lower)?));
        let (path, digests) = (Vec::new(), [None, None]);
        self.pending.push(Pending { path, new, old, digests, through: true, suspect: false });
        while let Some(dir) = self.pending.pop() {
            let path = dir.path.clone();
            if let Err(error) = self.read(dir) {
                self.trouble(&path, error);
            }
        }
        Ok(())
    }

    fn trouble(&mut self, path: &[u8], error: io::Error) {
        self.troubles.cannot("compare", path, error);
    }

    /// Reads a directory: what became of it itself, and of what is in it.
    fn read(&mut self, dir: Pending) -> io::Result<()> {
        let is_dir = |entry: &Option<Entry>| entry.as_ref().is_some_and(|entry| entry.kind == Kind::Dir);
        let upper = match is_dir(&dir.new) {
            true => match self.upper.open_dir(&dir.path) {
                // inside it goes on meanwhile
                Err(e) if is_gone(&e) => return Ok(()),
                upper => Some(upper?),
            },
            false => None,
        };
        let lower = match is_dir(&dir.old) {
            true => match self.lower.open_dir(&dir.path) {
                Err(e) if is_gone(&e) => None,
                Err(e) => {
                    self.trouble(&dir.path, e);
                    return self.record_dir(dir, [upper.as_ref(), None]);
                }
                lower => Some(lower?),
            },
            false => None,
        };
        let mark = match &upper {
            Some(upper) => self.upper.attribute(upper, b"", OPAQUE)?.unwrap_or_default(),
            None => Vec::new(),
        };
        let mut open = Open {
            through: dir.through && upper.is_some() && lower.is_some() && mark != b"y",
            suspect: dir.suspect,
            has_marks: mark == b"x",
            is_settled: lower.is_none() || dir.old.as_ref().is_none_or(|old| self.base.is_older(old)),
            upper,
            lower,
        };
        if let Some(old) = &dir.old {
            open.suspect |= self.is_replaced(&dir.path, old, &open)?;
        }
        let path = dir.path.clone();
        self.record_dir(Pending { suspect: open.suspect, ..dir }, [open.upper.as_ref(), open.lower.as_ref()])?;

        let mut names = BTreeSet::new();
        if let Some(upper) = &open.upper {
            names.extend(self.upper.names(upper)?);
        }
        if let (Some(lower), false) = (&open.lower, open.through) {
            names.extend(self.lower.names(lower)?);
        }
        for name in names {
            let name = name.into_vec();
            let below = if path.is_empty() { name.clone() } else { [&path[..], b"/", &name].concat() };
            if self.wanted.reaches_below(&below)
                && let Err(e) = self.read_name(&open, &below, &name)
            {
                self.trouble(&below, e);
            }
        }
        Ok(())
    }

    /// Reads the name `name` of the directory `dir`, which is `path` of the project.
    fn read_name(&mut self, dir: &Open, path: &[u8], name: &[u8]) -> io::Result<()> {
        let found = match &dir.upper {
            Some(upper) => self.upper.entry(upper, name)?,
            None => None,
        };
        if found.is_none() && dir.through {
            // it was there a moment ago
            return Ok(());
        }
        let new = match found {
            Some(entry) if entry.is_whiteout() || self.is_marked(dir, name, &entry)? => None,
            found => found,
        };
        let old = match &dir.lower {
            Some(lower) => self.lower.entry(lower, name)?,
            None => None,
        };
        let entries = [new.as_ref(), old.as_ref()];
        let is_wanted = self.wanted.has(path);
        if entries.iter().flatten().any(|entry| entry.kind == Kind::Dir) {
            let suspect = dir.suspect || self.is_lost(dir, name, entries)?;
            let digests = if is_wanted { self.digests(dir, path, name, entries) } else { [None, None] };
            let (path, through) = (path.to_vec(), dir.through);
            self.pending.push(Pending { path, new, old, digests, through, suspect });
            return Ok(());
        }
        if let (Some(lower), Some(_), true) = (&dir.lower, &old, self.handles) {
            self.touched.extend(self.lower.handle(lower, name)?);
        }
        if !is_wanted || !self.is_changed(dir, path, name, entries)? {
            return Ok(());
        }
        let conflict = match self.conflict(dir, path, name, entries)? {
            Conflict::UnlessMoved(origin) => {
                self.doubtful.push((self.changes.len(), origin));
                true
            }
            sure => matches!(sure, Conflict::Yes),
        };
        let digests = self.digests(dir, path, name, entries);
        self.changes.push(Change { path: path.to_vec(), new, old, conflict, digests });
        Ok(())
    }

    /// Whether `entry` is a file that stands for a whiteout (overlayfs.rst, "whiteouts and opaque
    /// directories").
    fn is_marked(&self, dir: &Open, name: &[u8], entry: &Entry) -> io::Result<bool> {
        match &dir.upper {
            Some(upper) if dir.has_marks && entry.kind == Kind::File && entry.size == 0 => {
                Ok(self.upper.attribute(upper, name, WHITEOUT)?.is_some())
            }
            _ => Ok(false),
        }
    }

    /// Whether there was a directory of the person's for which there is none any more.
    fn is_lost(&self, dir: &Open, name: &[u8], [new, old]: [Option<&Entry>; 2]) -> io::Result<bool> {
        match (&dir.upper, new, old) {
            (_, _, Some(old)) if old.kind == Kind::Dir => Ok(false),
            (Some(upper), Some(new), _) if new.kind == Kind::Dir => {
                Ok(self.upper.attribute(upper, name, ORIGIN)?.is_some())
            }
            _ => Ok(false),
        }
    }

    /// Records what became of a directory itself, which is open in the layers `open`: it came, went, was
    /// made of something else or into it, or has another mode.
    fn record_dir(&mut self, dir: Pending, open: [Option<&OwnedFd>; 2]) -> io::Result<()> {
        let Pending { path, new, old, digests, suspect, .. } = dir;
        if !self.wanted.has(&path) {
            return Ok(());
        }
        let is_changed = match (&new, &old, open) {
            (Some(new), Some(old), _) if new.kind != old.kind || new.mode != old.mode => true,
            (Some(_), Some(_), [Some(upper), Some(lower)]) => {
                self.upper.user_attributes(upper.as_fd())? != self.lower.user_attributes(lower.as_fd())?
            }
            (Some(_), Some(_), _) | (None, None, _) => false,
            _ => true,
        };
        if is_changed {
            let conflict = suspect || old.as_ref().is_some_and(|old| self.base.is_changed(&path, old));
            let path = if path.is_empty() { b".".to_vec() } else { path };
            self.changes.push(Change { path, new, old, conflict, digests });
        }
        Ok(())
    }

    /// Whether what is no directory became another than it was.
    fn is_changed(
        &mut self,
        dir: &Open,
        path: &[u8],
        name: &[u8],
        [new, old]: [Option<&Entry>; 2],
    ) -> io::Result<bool> {
        if let (Some(upper), Some(new)) = (&dir.upper, new)
            && new.kind == Kind::File
        {
            for reference in REFERENCES {
                if self.upper.attribute(upper, name, reference)?.is_some() {
                    return Err(io::Error::other(format!("its contents are elsewhere: {reference}")));
                }
            }
        }
        let (Some(upper), Some(lower), Some(new), Some(old)) = (&dir.upper, &dir.lower, new, old) else {
            return Ok(new.is_some() || old.is_some());
        };
        if new.kind != old.kind {
            return Ok(true);
        }
        Ok(match new.kind {
            Kind::Symlink => new.target != old.target,
            Kind::Device => new.device != old.device || new.mode != old.mode,
            Kind::File if (new.mode, new.size) == (old.mode, old.size) => {
                let open = || Ok([self.upper.open_file(upper, name)?, self.lower.open_file(lower, name)?]);
                match open().and_then(|files| self.is_same(files, new.size)) {
                    Ok(same) => !same,
                    Err(e) => {
                        // it may have been changed
                        self.trouble(path, e);
                        true
                    }
                }
            }
            Kind::File => true,
            _ => new.mode != old.mode,
        })
    }

    fn is_same(&self, [new, old]: [File; 2], size: u64) -> io::Result<bool> {
        Ok(content::is_same(&new, &old, size)?
            && self.upper.user_attributes(new.as_fd())? == self.lower.user_attributes(old.as_fd())?)
    }

    fn digests(
        &mut self,
        dir: &Open,
        path: &[u8],
        name: &[u8],
        [new, old]: [Option<&Entry>; 2],
    ) -> [Option<String>; 2] {
        let (upper, lower) = (self.upper, self.lower);
        let mut digest = |layer: &Layer, open: &Option<OwnedFd>, entry: Option<&Entry>| {
            let entry = entry.filter(|entry| self.digest && entry.kind == Kind::File)?;
            let file = layer.open_file(open.as_ref()?, name);
            match file.and_then(|file| content::digest(&file, entry.size)) {
                Ok(digest) => Some(digest),
                Err(e) => {
                    self.trouble(path, e);
                    None
                }
            }
        };
        [digest(upper, &dir.upper, new), digest(lower, &dir.lower, old)]
    }

    /// Whether the person changed, meanwhile, what was changed inside. One that is none does no harm;
    /// one that is and is not seen would.
    fn conflict(&self, dir: &Open, path: &[u8], name: &[u8], [new, old]: [Option<&Entry>; 2]) -> io::Result<Conflict> {
        if dir.suspect {
            return Ok(Conflict::Yes);
        }
        if let Some(old) = old {
            if self.base.is_applied(path, old) {
                return Ok(Conflict::No);
            }
            if self.base.is_changed(path, old) {
                return Ok(Conflict::Yes);
            }
        }
        // what was copied up knows of what; but it may have been moved since, or linked
        let (Some(upper), Some(_), false) = (&dir.upper, new, dir.is_settled) else { return Ok(Conflict::No) };
        let Some(origin) = self.upper.attribute(upper, name, ORIGIN)? else { return Ok(Conflict::No) };
        let origin = if self.handles { copied(&origin) } else { None };
        let now = match (&dir.lower, old) {
            (Some(lower), Some(_)) => self.lower.handle(lower, name)?,
            _ => None,
        };
        Ok(match (origin, old) {
            (Some(origin), Some(_)) if now.as_ref() == Some(&origin) => Conflict::No,
            (Some(origin), _) => Conflict::UnlessMoved(origin),
            // nothing tells whether it is the same
            (None, Some(_)) => Conflict::No,
            (None, None) => Conflict::Yes,
        })
    }

    /// Whether the person put another directory at `path`, so that nothing in it is what was changed
    /// inside.
    fn is_replaced(&self, path: &[u8], old: &Entry, dir: &Open) -> io::Result<bool> {
        let Some(lower) = &dir.lower else { return Ok(false) };
        let is_own = path.is_empty() && self.base.is_its_own(old);
        if is_own || self.base.is_known(if path.is_empty() { b"." } else { path }, old) {
            return Ok(false);
        }
        let origin = match &dir.upper {
            Some(upper) if dir.through && self.handles => self.upper.attribute(upper, b"", ORIGIN)?,
            _ => None,
        };
        if let Some(origin) = origin.as_deref().and_then(copied)
            && let Some(now) = self.lower.handle(lower, b"")?
        {
            return Ok(now != origin);
        }
        // of one that is hidden nothing else tells; what came or went in one changes its mtime, too
        Ok(self.base.is_changed(path, old) && (!dir.through || old.ctime != old.mtime))
    }
}

/// What the attribute `origin` says a file was copied up from (`struct ovl_fb`: version, magic, length,
/// flags, type, UUID, handle); `None` where the lower file system has no handles.
fn copied(origin: &[u8]) -> Option<Handle> {
    const BEGIN: [u8; 2] = [0, 0xfb];
    const HANDLE: usize = 21;
    (origin.len() > HANDLE && origin[..2] == BEGIN)
        .then(|| Handle { kind: origin[4].into(), bytes: origin[HANDLE..].to_vec() })
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_wanted_with_all_below() {
        let wanted = Wanted(vec![b"src/a".to_vec(), b"b".to_vec()]);
        for path in [&b"src/a"[..], b"src/a/x/y", b"b"] {
            assert!(wanted.has(path) && wanted.reaches_below(path));
        }
        assert!(!wanted.has(b"src") && wanted.reaches_below(b"src"));
        assert!(!wanted.has(b"") && wanted.reaches_below(b""));
        for path in [&b"src/ab"[..], b"sr", b"c", b"src/b"] {
            assert!(!wanted.reaches_below(path));
        }
        assert!(Wanted(Vec::new()).has(b"x"));
    }
}
