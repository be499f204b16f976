//! What was changed: one side against another, each of them layers upon the project. What lies in no
//! layer that only one of the sides has is not looked at.
//!
//! The topmost layer that has a name decides what it is (overlayfs.rst). Directories of one name make up
//! one, down to a layer that hides the rest: by a whiteout, by what is no directory, or by an opaque one.

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
use super::stack::Layers;

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

/// What both sides have of one name, the new one first.
type Entries<'e> = [Option<&'e Entry>; 2];

/// A directory, of one side or of both, that is yet to be read.
struct Pending {
    /// Relative to the project, and empty for it.
    path: Vec<u8>,
    entries: [Option<Entry>; 2],
    /// The layers whose directories make up that of each side, the top first.
    parts: [Vec<usize>; 2],
    /// Of that one which is a file.
    digests: [Option<String>; 2],
    /// The person put another in its place.
    suspect: bool,
}

/// A directory, open in the layers that have it.
struct Open {
    parts: Vec<Part>,
    /// Of which of them each side is made, the top first.
    sides: [Vec<usize>; 2],
    suspect: bool,
    /// The person has neither put anything into it nor taken anything out of it.
    is_settled: bool,
}

/// A directory in one layer.
struct Part {
    layer: usize,
    dir: OwnedFd,
    /// Whether nothing below shows through, and whether files stand for whiteouts in it (overlayfs.rst,
    /// "whiteouts and opaque directories").
    mark: Vec<u8>,
}

impl Open {
    fn part(&self, layer: usize) -> Option<&Part> {
        self.parts.iter().find(|part| part.layer == layer)
    }

    /// The directory that `entry` lies in.
    fn dir(&self, entry: Option<&Entry>) -> Option<&OwnedFd> {
        Some(&self.part(entry?.layer)?.dir)
    }

    /// The uppermost directory of a side.
    fn top(&self, side: usize) -> Option<&Part> {
        self.part(*self.sides[side].first()?)
    }

    /// What shows through on both sides: as many of their last layers are the same.
    fn shared(&self) -> usize {
        let [new, old] = &self.sides;
        new.iter().rev().zip(old.iter().rev()).take_while(|(new, old)| new == old).count()
    }

    /// The directories of those layers that one of the sides has alone.
    fn differing(&self) -> impl Iterator<Item = &Part> {
        let shared = self.shared();
        self.sides.iter().flat_map(move |side| &side[..side.len() - shared]).filter_map(|layer| self.part(*layer))
    }

    /// Whether what no layer of the new side has shows through from the old one.
    fn is_through(&self) -> bool {
        self.shared() == self.sides[1].len()
    }
}

/// Whether the person changed something meanwhile, too.
enum Conflict {
    No,
    Yes,
    /// Unless this is a file of theirs that was moved inside.
    UnlessMoved(Handle),
}

/// Reads both sides.
pub(crate) struct Walk<'a> {
    troubles: &'a mut Troubles,
    layers: &'a Layers,
    /// Since when the person may have changed what is below; `None`: the other side is no project of theirs.
    base: Option<&'a Base>,
    wanted: &'a Wanted,
    /// With the digests of files.
    digest: bool,
    /// Handles of the project tell files apart.
    handles: bool,
    changes: Vec<Change>,
    pending: Vec<Pending>,
    /// Changes that are conflicts unless such a file was moved.
    doubtful: Vec<(usize, Handle)>,
    /// Files of lower layers that were changed or hidden inside.
    touched: HashSet<Handle>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(
        troubles: &'a mut Troubles,
        layers: &'a Layers,
        base: Option<&'a Base>,
        wanted: &'a Wanted,
        digest: bool,
    ) -> Result<Walk<'a>> {
        Ok(Walk {
            troubles,
            layers,
            base,
            wanted,
            digest,
            handles: match layers.all.last() {
                Some(project) => project.has_lasting_handles()?,
                None => false,
            },
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
            let mut other = Walk::new(self.troubles, self.layers, self.base, &everything, false)?;
            other.walk()?;
            self.touched = other.touched;
        }
        for (at, origin) in self.doubtful {
            self.changes[at].conflict = !self.touched.contains(&origin);
        }
        self.changes.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(self.changes)
    }

    fn layer(&self, layer: usize) -> &'a Layer {
        &self.layers.all[layer]
    }

    fn walk(&mut self) -> Result<()> {
        let top = |side: &Vec<usize>| -> Result<Option<Entry>> {
            let Some(layer) = side.first() else { return Ok(None) };
            let entry = self.layer(*layer).top().context("cannot look at the project")?;
            Ok(Some(Entry { layer: *layer, ..entry }))
        };
        let [new, old] = &self.layers.sides;
        let entries = [top(new)?, top(old)?];
        let (path, digests) = (Vec::new(), [None, None]);
        self.pending.push(Pending { path, entries, parts: self.layers.sides.clone(), digests, suspect: false });
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

    /// Opens the directory `dir` in all layers that make it up, as far down as they show.
    fn open(&self, dir: &Pending, open: &mut Open) -> io::Result<()> {
        for (side, layers) in dir.parts.iter().enumerate() {
            for &layer in layers {
                if open.part(layer).is_none() {
                    match self.open_part(layer, &dir.path) {
                        Ok(part) => open.parts.push(part),
                        // inside and outside it goes on meanwhile
                        Err(e) if is_gone(&e) => continue,
                        Err(e) => return Err(e),
                    }
                }
                open.sides[side].push(layer);
                if open.part(layer).is_some_and(|part| part.mark == b"y") {
                    break;
                }
            }
        }
        Ok(())
    }

    fn open_part(&self, layer: usize, path: &[u8]) -> io::Result<Part> {
        let itself = self.layer(layer);
        let dir = itself.open_dir(path)?;
        let mark = match itself.is_project() {
            true => None,
            false => itself.attribute(&dir, b"", OPAQUE)?,
        };
        Ok(Part { layer, dir, mark: mark.unwrap_or_default() })
    }

    /// Reads a directory: what became of it itself, and of what is in it.
    fn read(&mut self, dir: Pending) -> io::Result<()> {
        let sides = [Vec::new(), Vec::new()];
        let mut open = Open { parts: Vec::new(), sides, suspect: dir.suspect, is_settled: true };
        if let Err(e) = self.open(&dir, &mut open) {
            self.trouble(&dir.path, e);
            return self.record_dir(dir, &open);
        }
        if is_dir(dir.entries[0].as_ref()) && open.sides[0].is_empty() {
            return Ok(());
        }
        if let (Some(base), Some(old)) = (self.base, &dir.entries[1]) {
            open.is_settled = open.sides[1].is_empty() || base.is_older(old);
            open.suspect |= self.is_replaced(base, &dir.path, old, &open)?;
        }
        let path = dir.path.clone();
        self.record_dir(Pending { suspect: open.suspect, ..dir }, &open)?;

        let mut names = BTreeSet::new();
        for part in open.differing() {
            names.extend(self.layer(part.layer).names(&part.dir)?);
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

    /// What `side` has of the name `name` of `dir`, and the layers that make it up where it is a directory.
    fn find(&self, dir: &Open, side: usize, name: &[u8], seen: &mut Seen) -> io::Result<(Option<Entry>, Vec<usize>)> {
        let (mut found, mut parts) = (None, Vec::new());
        for part in dir.sides[side].iter().filter_map(|layer| dir.part(*layer)) {
            let entry = match seen.iter().find(|(layer, _)| *layer == part.layer) {
                Some((_, entry)) => entry.clone(),
                None => {
                    let entry = self.shown(part, name)?;
                    seen.push((part.layer, entry.clone()));
                    entry
                }
            };
            match entry {
                Shown::Through => {}
                Shown::Hidden => break,
                Shown::Entry(entry) if entry.kind == Kind::Dir => {
                    parts.push(part.layer);
                    found.get_or_insert(entry);
                }
                Shown::Entry(entry) => {
                    // it ends a directory above it
                    found.get_or_insert(entry);
                    break;
                }
            }
        }
        Ok((found, parts))
    }

    /// What one layer has of the name `name`.
    fn shown(&self, part: &Part, name: &[u8]) -> io::Result<Shown> {
        let layer = self.layer(part.layer);
        let Some(entry) = layer.entry(&part.dir, name)? else { return Ok(Shown::Through) };
        let is_marked = || match part.mark == b"x" && entry.kind == Kind::File && entry.size == 0 {
            true => Ok::<_, io::Error>(layer.attribute(&part.dir, name, WHITEOUT)?.is_some()),
            false => Ok(false),
        };
        Ok(match !layer.is_project() && (entry.is_whiteout() || is_marked()?) {
            true => Shown::Hidden,
            false => Shown::Entry(Entry { layer: part.layer, ..entry }),
        })
    }

    /// Reads the name `name` of the directory `dir`, which is `path` of the project.
    fn read_name(&mut self, dir: &Open, path: &[u8], name: &[u8]) -> io::Result<()> {
        let mut seen = Seen::new();
        let (new, new_parts) = self.find(dir, 0, name, &mut seen)?;
        let (old, old_parts) = self.find(dir, 1, name, &mut seen)?;
        let entries = [new.as_ref(), old.as_ref()];
        let [new_layer, old_layer] = entries.map(|entry| entry.map(|entry| entry.layer));
        let is_one = new_layer == old_layer && new_parts == old_parts;
        if is_one && new.is_some() {
            return Ok(());
        }
        if self.base.is_some() && !entries.iter().all(|entry| is_dir(*entry)) {
            self.touch(dir, name, &seen)?;
        }
        if is_one {
            // of neither side; what was made before a snapshot, and removed since
            return Ok(());
        }
        let is_wanted = self.wanted.has(path);
        if entries.iter().any(|entry| is_dir(*entry)) {
            let suspect = dir.suspect || self.is_lost(dir, name, &new_parts, &old_parts)?;
            let digests = if is_wanted { self.digests(dir, path, name, entries) } else { [None, None] };
            let (path, entries, parts) = (path.to_vec(), [new, old], [new_parts, old_parts]);
            self.pending.push(Pending { path, entries, parts, digests, suspect });
            return Ok(());
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

    /// Remembers what the layers below the uppermost have at `name`: it was changed or hidden inside.
    fn touch(&mut self, dir: &Open, name: &[u8], seen: &Seen) -> io::Result<()> {
        let below = dir.sides[0].iter().skip(1).chain(&dir.sides[1]);
        for part in below.filter_map(|layer| dir.part(*layer)) {
            let is_none = seen.iter().any(|(layer, what)| *layer == part.layer && matches!(what, Shown::Through));
            let layer = self.layer(part.layer);
            if !is_none && (self.handles || !layer.is_project()) {
                self.touched.extend(layer.handle(&part.dir, name)?);
            }
        }
        Ok(())
    }

    /// Whether there was a directory of the person's for which there is none any more.
    fn is_lost(&self, dir: &Open, name: &[u8], new: &[usize], old: &[usize]) -> io::Result<bool> {
        // that of the lowest is the project's, if it is one's that was copied up
        match new.last().and_then(|layer| dir.part(*layer)) {
            Some(part) if self.base.is_some() && old.is_empty() => {
                Ok(self.layer(part.layer).attribute(&part.dir, name, ORIGIN)?.is_some())
            }
            _ => Ok(false),
        }
    }

    /// Records what became of a directory itself: it came, went, was made of something else or into it, or
    /// has another mode.
    fn record_dir(&mut self, dir: Pending, open: &Open) -> io::Result<()> {
        let Pending { path, entries: [new, old], digests, suspect, .. } = dir;
        if !self.wanted.has(&path) {
            return Ok(());
        }
        let attributes = |part: &Part| self.layer(part.layer).user_attributes(part.dir.as_fd());
        let is_changed = match (&new, &old, open.top(0), open.top(1)) {
            (Some(new), Some(old), ..) if new.kind != old.kind || new.mode != old.mode => true,
            (Some(_), Some(_), Some(new), Some(old)) => new.layer != old.layer && attributes(new)? != attributes(old)?,
            (Some(_), Some(_), ..) | (None, None, ..) => false,
            _ => true,
        };
        if is_changed {
            let is_others = |base: &Base| suspect || old.as_ref().is_some_and(|old| base.is_changed(&path, old));
            let conflict = self.base.is_some_and(is_others);
            let path = if path.is_empty() { b".".to_vec() } else { path };
            self.changes.push(Change { path, new, old, conflict, digests });
        }
        Ok(())
    }

    /// Whether what is no directory became another than it was.
    fn is_changed(&mut self, dir: &Open, path: &[u8], name: &[u8], [new, old]: Entries<'_>) -> io::Result<bool> {
        for entry in [new, old].into_iter().flatten().filter(|entry| entry.kind == Kind::File) {
            let (layer, Some(part)) = (self.layer(entry.layer), dir.part(entry.layer)) else { continue };
            for reference in REFERENCES.iter().filter(|_| !layer.is_project()) {
                if layer.attribute(&part.dir, name, reference)?.is_some() {
                    return Err(io::Error::other(format!("its contents are elsewhere: {reference}")));
                }
            }
        }
        let (Some(new), Some(old)) = (new, old) else { return Ok(new.is_some() || old.is_some()) };
        if new.kind != old.kind {
            return Ok(true);
        }
        Ok(match new.kind {
            Kind::Symlink => new.target != old.target,
            Kind::Device => new.device != old.device || new.mode != old.mode,
            Kind::File if (new.mode, new.size) == (old.mode, old.size) => match self.is_same(dir, name, [new, old]) {
                Ok(same) => !same,
                Err(e) => {
                    // it may have been changed
                    self.trouble(path, e);
                    true
                }
            },
            Kind::File => true,
            _ => new.mode != old.mode,
        })
    }

    fn is_same(&self, dir: &Open, name: &[u8], [new, old]: [&Entry; 2]) -> io::Result<bool> {
        let ([ours, theirs], size) = ([self.open_file(dir, name, new)?, self.open_file(dir, name, old)?], new.size);
        let attributes = |entry: &Entry, file: &File| self.layer(entry.layer).user_attributes(file.as_fd());
        Ok(content::is_same(&ours, &theirs, size)? && attributes(new, &ours)? == attributes(old, &theirs)?)
    }

    /// Opens the file `name` of `dir` in the layer that `entry` is of.
    fn open_file(&self, dir: &Open, name: &[u8], entry: &Entry) -> io::Result<File> {
        let dir = dir.dir(Some(entry)).ok_or(io::ErrorKind::NotFound)?;
        self.layer(entry.layer).open_file(dir, name)
    }

    fn digests(&mut self, dir: &Open, path: &[u8], name: &[u8], entries: Entries<'_>) -> [Option<String>; 2] {
        entries.map(|entry| {
            let entry = entry.filter(|entry| self.digest && entry.kind == Kind::File)?;
            match self.open_file(dir, name, entry).and_then(|file| content::digest(&file, entry.size)) {
                Ok(digest) => Some(digest),
                Err(e) => {
                    self.trouble(path, e);
                    None
                }
            }
        })
    }

    /// Whether the person changed, meanwhile, what was changed inside. One that is none does no harm;
    /// one that is and is not seen would.
    fn conflict(&self, dir: &Open, path: &[u8], name: &[u8], [new, old]: Entries<'_>) -> io::Result<Conflict> {
        let Some(base) = self.base else { return Ok(Conflict::No) };
        if dir.suspect {
            return Ok(Conflict::Yes);
        }
        if let Some(old) = old {
            if base.is_applied(path, old) {
                return Ok(Conflict::No);
            }
            if base.is_changed(path, old) {
                return Ok(Conflict::Yes);
            }
        }
        let (Some(new), false) = (new, dir.is_settled) else { return Ok(Conflict::No) };
        let Some(origin) = self.origin(dir, name, new)? else { return Ok(Conflict::No) };
        let now = match dir.dir(old) {
            Some(lower) if self.handles => old.map_or(Ok(None), |old| self.layer(old.layer).handle(lower, name))?,
            _ => None,
        };
        Ok(match (copied(&origin), old) {
            (Some(origin), Some(_)) if self.handles => match now == Some(origin.clone()) {
                true => Conflict::No,
                false => Conflict::UnlessMoved(origin),
            },
            (Some(origin), None) => Conflict::UnlessMoved(origin),
            // nothing tells whether it is the same
            (_, Some(_)) => Conflict::No,
            (None, None) => Conflict::Yes,
        })
    }

    /// What `new` was copied up from, in the end: what was copied up knows of what; but it may have been
    /// moved since, or linked. Where that was in a layer that is frozen by now, it may have been copied up
    /// itself.
    fn origin(&self, dir: &Open, name: &[u8], new: &Entry) -> io::Result<Option<Vec<u8>>> {
        let mut layers = dir.sides[0].iter().skip_while(|layer| **layer != new.layer).filter_map(|l| dir.part(*l));
        let Some(mut part) = layers.next() else { return Ok(None) };
        loop {
            let Some(origin) = self.layer(part.layer).attribute(&part.dir, name, ORIGIN)? else { return Ok(None) };
            let below = loop {
                match layers.next().filter(|part| !self.layer(part.layer).is_project()) {
                    None => return Ok(Some(origin)),
                    Some(below) => match self.shown(below, name)? {
                        Shown::Through => {}
                        Shown::Hidden => return Ok(Some(origin)),
                        Shown::Entry(_) => break below,
                    },
                }
            };
            let now = self.layer(below.layer).handle(&below.dir, name)?;
            match copied(&origin) {
                Some(origin) if now.is_some_and(|now| now == origin) => part = below,
                _ => return Ok(Some(origin)),
            }
        }
    }

    /// Whether the person put another directory at `path`, so that nothing in it is what was changed
    /// inside.
    fn is_replaced(&self, base: &Base, path: &[u8], old: &Entry, dir: &Open) -> io::Result<bool> {
        let Some(lower) = dir.top(1) else { return Ok(false) };
        let is_own = path.is_empty() && base.is_its_own(old);
        if is_own || base.is_known(if path.is_empty() { b"." } else { path }, old) {
            return Ok(false);
        }
        let through = dir.is_through();
        // the lowest of those above it was copied up from it
        let above = match dir.sides[0].as_slice() {
            [.., above, _] if through && self.handles => dir.part(*above),
            _ => None,
        };
        let origin = match above {
            Some(above) => self.layer(above.layer).attribute(&above.dir, b"", ORIGIN)?,
            None => None,
        };
        if let Some(origin) = origin.as_deref().and_then(copied)
            && let Some(now) = self.layer(lower.layer).handle(&lower.dir, b"")?
        {
            return Ok(now != origin);
        }
        // of one that is hidden nothing else tells; what came or went in one changes its mtime, too
        Ok(base.is_changed(path, old) && (!through || old.ctime != old.mtime))
    }
}

/// What a layer has of a name.
#[derive(Clone)]
enum Shown {
    /// Nothing: what is below shows through.
    Through,
    /// A whiteout.
    Hidden,
    Entry(Entry),
}

/// What layers have of one name, as far as they were asked.
type Seen = Vec<(usize, Shown)>;

fn is_dir(entry: Option<&Entry>) -> bool {
    entry.is_some_and(|entry| entry.kind == Kind::Dir)
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

    /// Layers made by hand, in one directory.
    struct World(tempfile::TempDir);

    impl World {
        /// A directory for each word of `layers`, filled by what follows it: `NAME/` is a directory, `-NAME`
        /// a whiteout, `!NAME` an opaque directory, `NAME=TEXT` a file, `NAME@TARGET` a link.
        fn new(layers: &[(&str, &str)]) -> World {
            let dir = tempfile::tempdir().unwrap();
            for (layer, what) in layers {
                let top = dir.path().join(layer);
                std::fs::create_dir(&top).unwrap();
                for word in what.split_whitespace() {
                    if let Some(name) = word.strip_prefix('-') {
                        let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::empty());
                        rustix::fs::mknodat(rustix::fs::CWD, top.join(name), kind, mode, 0).unwrap();
                    } else if let Some(name) = word.strip_prefix('!') {
                        std::fs::create_dir_all(top.join(name)).unwrap();
                        let flags = rustix::fs::XattrFlags::empty();
                        rustix::fs::setxattr(top.join(name), OPAQUE, b"y", flags).unwrap();
                    } else if let Some((name, text)) = word.split_once('=') {
                        std::fs::write(top.join(name), text).unwrap();
                    } else if let Some((name, target)) = word.split_once('@') {
                        std::os::unix::fs::symlink(target, top.join(name)).unwrap();
                    } else {
                        std::fs::create_dir_all(top.join(word)).unwrap();
                    }
                }
            }
            World(dir)
        }

        fn layers(&self, names: &[&str]) -> Vec<Layer> {
            let looks = lbx::sys::Looks::of(0, 0, &[]).unwrap();
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
            let open = |name: &str| {
                let top = rustix::fs::open(self.0.path().join(name), flags, rustix::fs::Mode::empty()).unwrap();
                match name {
                    "p" => Layer::project(top, looks),
                    _ => Layer::written(top, looks, 0, name.starts_with('f').then(|| name.to_owned())),
                }
            };
            names.iter().map(|name| open(name)).collect()
        }

        /// `new` against `old`, both without the project: a letter, a path and the layer of what is new there.
        fn against(&self, new: &[&str], old: Option<&[&str]>) -> Vec<String> {
            let project = self.layers(&["p"]).remove(0);
            let layers = match old {
                Some(old) => Layers::against(self.layers(new), self.layers(old), project),
                None => Layers::of(self.layers(new), project),
            };
            let base = Base::at((i64::MAX, 0));
            let mut troubles = Troubles::new(crate::TOOL);
            let wanted = Wanted(Vec::new());
            let base = old.is_none().then_some(&base);
            let changes = Walk::new(&mut troubles, &layers, base, &wanted, false).unwrap().changes().unwrap();
            assert!(troubles.are_none && changes.iter().all(|change| !change.conflict), "{changes:#?}");
            let line = |change: &Change| {
                let id = change.new.as_ref().and_then(|entry| layers.all[entry.layer].id()).unwrap_or_default();
                let path = String::from_utf8_lossy(&change.path).into_owned();
                format!("{}{path} {id}", change.status().letter()).trim_end().to_owned()
            };
            changes.iter().map(line).collect()
        }
    }

    /// Only root makes whiteouts.
    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn the_topmost_layer_that_has_a_name_decides() {
        if !is_root() {
            return;
        }
        let world = World::new(&[
            ("p", "a=1 b=1 c=1 d/ d/x=1 d/y=1 e/ e/x=1 f=1 g/ g/x=1 g/deep/ g/deep/z=1 h/ h/x=1 same=1 l@a"),
            ("f1", "a=2 -b d/ d/x=2 d/n=2 -e f/ f/n=2 -g h/ -h/x same=2 new=1 gone=1 newdir/ newdir/x=1 l@b"),
            ("f2", "a=3 !e e/x=3 e/n=3 d/ -d/x !g g/x=1 h/ h/x=4 -new -gone newdir/ newdir/y=1"),
            ("u", "c=9 d/ -d/n -f !h h/q=1 same=1 new=2 -newdir"),
        ]);
        let f1 = world.against(&["f1"], None);
        let of_f1 = "Ma f1,Db,Ad/n f1,Md/x f1,De,De/x,Tf f1,Af/n f1,Dg,Dg/deep,Dg/deep/z,Dg/x,Agone f1,Dh/x,Ml f1,\
                     Anew f1,Anewdir f1,Anewdir/x f1,Msame f1";
        assert_eq!(f1, of_f1.split(',').map(str::trim).collect::<Vec<_>>());
        let f2 = world.against(&["f2", "f1"], None);
        let of_f2 = "Ma f2,Db,Ad/n f1,Dd/x,Ae/n f2,Me/x f2,Tf f1,Af/n f1,Dg/deep,Dg/deep/z,Mh/x f2,Ml f1,Anewdir f2,\
                     Anewdir/x f1,Anewdir/y f2,Msame f1";
        assert_eq!(f2, of_f2.split(',').map(str::trim).collect::<Vec<_>>());
        let u = world.against(&["u", "f2", "f1"], None);
        let of_u = "Ma f2,Db,Mc,Dd/x,Ae/n f2,Me/x f2,Df,Dg/deep,Dg/deep/z,Ah/q,Dh/x,Ml f1,Anew";
        assert_eq!(u, of_u.split(',').map(str::trim).collect::<Vec<_>>());
    }

    #[test]
    fn environments_are_compared_by_what_they_do_not_share() {
        if !is_root() {
            return;
        }
        let world = World::new(&[
            ("p", "a=1 d/ d/x=1 d/y=1 e/ e/x=1 g=1"),
            ("f1", "a=2 d/ -d/x d/n=1 both=1"),
            ("f2", "a=1 e/ e/n=1"),
            ("u", "d/ -d/n !e e/x=1 both=1"),
            ("v", "-a d/ d/x=1 -g"),
        ]);
        assert_eq!(world.against(&["u", "f1"], Some(&["u", "f1"])), [""; 0]);
        assert_eq!(world.against(&["u", "f1"], Some(&["v", "f1"])), ["Aa f1", "Dd/n", "Dd/x", "Ag"]);
        assert_eq!(world.against(&["v", "f1"], Some(&["u", "f1"])), ["Da", "Ad/n f1", "Ad/x", "Dg"]);
        assert_eq!(world.against(&["u", "f2", "f1"], Some(&["v", "f1"])), ["Aa f2", "Dd/n", "Dd/x", "Ag"]);
        assert_eq!(world.against(&["v", "f2", "f1"], Some(&["f1"])), ["Da", "Ad/x", "Ae/n f2", "Dg"]);
        // an environment that writes the project itself, or has none of the layers
        assert_eq!(world.against(&["f1"], Some(&[])), world.against(&["f1"], None));
        assert_eq!(world.against(&[], Some(&["f1"])), ["Ma", "Dboth", "Dd/n", "Ad/x"]);
        assert_eq!(world.against(&["v"], Some(&["u"])), ["Da", "Dboth", "Dg"]);
        // what is called the same is the same, and not read
        let [mut new, old] = [world.layers(&["u", "f1"]), world.layers(&["u", "f1"])];
        new[1] = Layer::named(world.layers(&["f2"]).remove(0), "f1");
        let layers = Layers::against(new, old, world.layers(&["p"]).remove(0));
        let mut troubles = Troubles::new(crate::TOOL);
        let wanted = Wanted(Vec::new());
        let changes = Walk::new(&mut troubles, &layers, None, &wanted, false).unwrap().changes().unwrap();
        assert!(changes.is_empty(), "{changes:?}");
    }

    #[test]
    fn what_was_copied_up_from_a_frozen_layer_is_no_other_file() {
        if !is_root() {
            return;
        }
        // by handles, as overlayfs notes them
        let world = World::new(&[("p", "a=1 b=1 c=1 left=1"), ("f1", "a=2 new=1 b=2 c=2"), ("u", "a=3 new=2 b=3 c=3")]);
        let (p, f1) = (world.layers(&["p"]).remove(0), world.layers(&["f1"]).remove(0));
        let handle = |layer: &Layer, name: &str| {
            let handle = layer.handle(&layer.open_dir(b"").unwrap(), name.as_bytes()).unwrap().unwrap();
            let mut origin = vec![0; 21];
            origin[..2].copy_from_slice(&[0, 0xfb]);
            origin[4] = handle.kind.try_into().unwrap();
            origin.extend(handle.bytes);
            origin
        };
        let set = |layer: &str, name: &str, origin: &[u8]| {
            let file = world.0.path().join(layer).join(name);
            rustix::fs::setxattr(file, ORIGIN, origin, rustix::fs::XattrFlags::empty()).unwrap();
        };
        for name in ["a", "b"] {
            set("u", name, &handle(&f1, name));
            set("f1", name, &handle(&p, name));
        }
        set("u", "new", &handle(&f1, "new"));
        // of another layer's file, and of the project's as it was before
        set("u", "c", &handle(&f1, "c"));
        set("f1", "c", &handle(&p, "left"));
        // longer than a file system's clock stands still
        let tick = std::time::Duration::from_millis(20);
        std::thread::sleep(tick);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        std::thread::sleep(tick);
        std::fs::remove_file(world.0.path().join("p/b")).unwrap();
        let layers = Layers::of(world.layers(&["u", "f1"]), p);
        let base = Base::at((now.as_secs().try_into().unwrap(), now.subsec_nanos().into()));
        let mut troubles = Troubles::new(crate::TOOL);
        let wanted = Wanted(Vec::new());
        let changes = Walk::new(&mut troubles, &layers, Some(&base), &wanted, false).unwrap().changes().unwrap();
        let paths = |conflict| changes.iter().filter(move |c| c.conflict == conflict).map(|c| c.path.as_slice());
        assert_eq!(paths(true).collect::<Vec<_>>(), [b"b", b"c"]);
        assert_eq!(paths(false).collect::<Vec<_>>(), [&b"a"[..], b"new"]);
    }

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
