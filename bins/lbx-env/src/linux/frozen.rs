//! Frozen layers: what an environment has written is moved aside, never to be changed again, and new,
//! empty directories come in its place. Any number of records and snapshots may name one.
//!
//! The record names a layer before there is one: whoever has the lock next completes what a tool that was
//! killed has begun. Who needs a layer has a file in its `users`; a layer without that directory is being
//! removed, and nobody takes it up again.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use lbx::layer::{self, FROZEN, FROZEN_HOMES, Frozen, Stack};
use lbx::record::{Ownership, Project, Record};
use lbx::snapshot::{self, Snapshot};
use lbx::{Failure, Name, Result};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, fchmod, fchown, flock, futimens, openat, syncfs};
use rustix::process::{Gid, Uid};

use super::accounts::Ids;
use super::project;
use super::store::Aside;
use super::{home, layers, merge, store, view};

/// The directory of [`FROZEN_HOMES`] that is no layer's.
const WORK: &str = "work";
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// As many layers as a home or a project has at most: their names must fit into 256 bytes.
pub(crate) const DEEPEST: usize = 32;
/// The directory of a layer that has a file for each environment that needs it.
const USERS: &str = "users";
/// How often a directory is made anew that whoever emptied it takes away.
const TRIES: u32 = 100;

/// Where overlayfs prepares what it puts into the home of `name`.
pub(crate) fn home_work(name: &Name) -> PathBuf {
    Path::new(FROZEN_HOMES).join(WORK).join(name)
}

/// The ids of files that `record`'s environment makes in a layer over its project.
pub(crate) fn project_ids(record: &Record) -> Ids {
    match record.ownership {
        Ownership::Idmap | Ownership::Native => Ids { uid: record.uid, gid: record.gid },
        Ownership::SharedUid => Ids { uid: record.owner.uid, gid: record.owner.gid },
    }
}

/// What there is to freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    home: bool,
    project: bool,
}

impl Parts {
    fn of(record: &Record) -> Result<Parts> {
        let home = home::path(&record.name);
        let meta = fs::symlink_metadata(&home).with_context(|| format!("cannot look at home '{}'", home.display()))?;
        if !meta.is_dir() || meta.uid() != record.uid {
            return Err(Failure::new(format!("home '{}' is not the environment's", home.display()))
                .hint("lbx-env repair tells more")
                .into());
        }
        // the mode of an empty one may be all that was changed of it
        let top = record.layers.home.first().map(|top| fs::symlink_metadata(top.home())).transpose();
        let mode = top.with_context(|| format!("cannot look at what is below '{}'", home.display()))?;
        Ok(Parts {
            home: !is_empty(&home)? || mode.is_some_and(|top| top.mode() != meta.mode()),
            project: record.options.project == Project::Cow && !layers::is_empty(&record.name)?,
        })
    }
}

fn is_empty(dir: &Path) -> Result<bool> {
    let mut entries = fs::read_dir(dir).with_context(|| format!("cannot read directory: {}", dir.display()))?;
    Ok(entries.next().is_none())
}

/// What a freeze of `record` would move aside, in words.
pub(crate) fn describe(record: &Record) -> Vec<String> {
    let parts = Parts::of(record).unwrap_or(Parts { home: true, project: record.options.project == Project::Cow });
    let line = |is: bool, what: &str| is.then(|| format!("freeze {what} of {}", record.name));
    [line(parts.home, "home"), line(parts.project, "changes of the project")].into_iter().flatten().collect()
}

/// Freezes what the environment of `record` has written, and returns its layers as they are recorded now.
/// It does not run, and its lock is held. Where nothing was written since the last time, nothing is done.
pub(crate) fn freeze(record: &Record) -> Result<Stack> {
    let freeze = Freeze::prepare(record)?;
    store::sync(freeze.aside().as_slice())?;
    let (stack, changed) = freeze.act()?;
    store::sync_dirs(&changed).map(|()| stack)
}

/// A freeze that is prepared: all that needs room is there, and nothing is changed. Dropped, it is gone.
pub(crate) struct Freeze {
    before: Record,
    wanted: Record,
    /// The record that is wanted; none where there is nothing to freeze.
    aside: Option<Aside>,
}

impl Freeze {
    /// Prepares to freeze what the environment of `record` has written. It does not run, and its lock is held
    /// until this is acted on or dropped.
    pub(crate) fn prepare(record: &Record) -> Result<Freeze> {
        let mut before = record.clone();
        before.layers = make_room(record, &mut || ())?;
        let mut freeze = Freeze { wanted: before.clone(), before, aside: None };
        let parts = Parts::of(&freeze.before)?;
        if parts != (Parts { home: false, project: false }) {
            let prepared = freeze.make(parts);
            if let Err(e) = prepared {
                let _ = release(&freeze.before.name, &mut || ());
                return Err(e.context("nothing was frozen"));
            }
        }
        Ok(freeze)
    }

    fn make(&mut self, parts: Parts) -> Result<()> {
        let record = &self.before;
        let id = new_id()?;
        let frozen = |ids: Ids| Frozen { id: id.clone(), uid: ids.uid, gid: ids.gid };
        for (is, list, ids) in [
            (parts.home, &mut self.wanted.layers.home, Ids { uid: record.uid, gid: record.gid }),
            (parts.project, &mut self.wanted.layers.project, project_ids(record)),
        ] {
            if is {
                list.insert(0, frozen(ids));
            }
        }
        self.wanted.renew_schema();
        if parts.home && record.layers.home.is_empty() {
            require_layers(&record.name)?;
        }
        make(&id, &record.name)?;
        if parts.home {
            make_homes(&id)?;
        }
        self.aside = Some(Aside::record(&self.wanted)?);
        Ok(())
    }

    /// The layers as they are to be recorded.
    pub(crate) fn layers(&self) -> &Stack {
        &self.wanted.layers
    }

    /// What is to be synced before this is acted on.
    pub(crate) fn aside(&self) -> Option<&Aside> {
        self.aside.as_ref()
    }

    /// Freezes. Returns the layers, which may be named now, and the directories that are to be synced for all
    /// this to outlive a loss of power.
    pub(crate) fn act(mut self) -> Result<(Stack, Vec<PathBuf>)> {
        let Some(aside) = self.aside.take() else { return Ok((self.wanted.layers.clone(), Vec::new())) };
        let name = &self.before.name;
        let acted = aside.place().and_then(|()| complete_but_sync(&self.wanted));
        let mut changed = acted.inspect_err(|_| {
            // nothing was moved: it may be as if it had not been tried
            let is_old = |layer: &Frozen| self.before.layers.iter().any(|old| old.id == layer.id);
            let moved = |layer: &Frozen| layer.home().exists() || layer.upper().exists();
            let has_moved = self.wanted.layers.iter().any(|layer| !is_old(layer) && moved(layer));
            if !has_moved && store::save(&self.before).is_ok() {
                let _ = release(name, &mut || ());
            }
        })?;
        changed.push(lbx::record::dir(name));
        Ok((self.wanted.layers.clone(), changed))
    }
}

impl Drop for Freeze {
    fn drop(&mut self) {
        if self.aside.take().is_some() {
            let _ = release(&self.before.name, &mut || ());
        }
    }
}

/// Where a freeze of `record` would make more layers than there may be, copies them into one, and returns the
/// layers as they are recorded now. Its lock is held.
pub(crate) fn make_room(record: &Record, progress: &mut dyn FnMut()) -> Result<Stack> {
    complete(record)?;
    let parts = Parts::of(record)?;
    let (home, project) = (&record.layers.home, &record.layers.project);
    let merged =
        Parts { home: parts.home && home.len() >= DEEPEST, project: parts.project && project.len() >= DEEPEST };
    if merged == (Parts { home: false, project: false }) {
        return Ok(record.layers.clone());
    }
    let name = &record.name;
    let id = new_id()?;
    let mut wanted = record.clone();
    let mut merge = || -> Result<()> {
        make(&id, name)?;
        if merged.home {
            let layer = Frozen { id: id.clone(), uid: record.uid, gid: record.gid };
            make_homes(&id)?;
            merge_homes(record, &layer.home(), progress)
                .with_context(|| format!("cannot merge frozen layers of home '{}'", home::path(name).display()))?;
            wanted.layers.home = vec![layer];
        }
        if merged.project {
            let ids = project_ids(record);
            let layer = Frozen { id: id.clone(), uid: ids.uid, gid: ids.gid };
            merge_uppers(record, &layer.upper(), progress)
                .with_context(|| format!("cannot merge frozen layers of '{}'", layer::root(name).display()))?;
            wanted.layers.project = vec![layer];
        }
        store::save(&wanted)?;
        sync(&lbx::record::dir(name))
    };
    let merged = merge();
    // those that nothing needs now, or the copy
    let _ = release(name, progress);
    merged.map_err(|e| e.context("nothing was frozen"))?;
    Ok(wanted.layers)
}

/// Makes `to` of all that the frozen homes of `record` show together.
fn merge_homes(record: &Record, to: &Path, progress: &mut dyn FnMut()) -> Result<()> {
    let lowers = view::frozen_homes(record)?;
    // lowers are taken only where they are mounted, and nobody else is to see them there
    let shown = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || layers::view_of(&lowers))?;
        thread.join().map_err(|_| io::Error::other("a thread failed"))?
    });
    let shown = shown.context("cannot make an overlay")?;
    mkdir(to)?;
    let top = openat(CWD, to, DIRECTORY, Mode::empty())?;
    merge::lay(shown.as_fd(), top.as_fd(), progress)?;
    Ok(syncfs(&top)?)
}

/// Makes `to` of the frozen layers over `record`'s project: as much covers the project as before.
fn merge_uppers(record: &Record, to: &Path, progress: &mut dyn FnMut()) -> Result<()> {
    mkdir(to)?;
    let top = openat(CWD, to, DIRECTORY, Mode::empty())?;
    for layer in view::frozen_uppers(record)?.iter().rev() {
        merge::lay(layer.as_fd(), top.as_fd(), progress)?;
    }
    Ok(syncfs(&top)?)
}

/// Completes a freeze that was begun, so that all that `record` names is there. Its lock is held.
pub(crate) fn complete(record: &Record) -> Result<()> {
    store::sync_dirs(&complete_but_sync(record)?)
}

/// As [`complete`]; returns the directories that are to be synced.
fn complete_but_sync(record: &Record) -> Result<Vec<PathBuf>> {
    let name = &record.name;
    let mut moved = Vec::new();
    if let Some(top) = record.layers.home.first() {
        let (home, frozen) = (home::path(name), top.home());
        let to_move = !is_there(&frozen)?;
        let is_apart = to_move && is_apart()?;
        if to_move {
            require_own(record, top, record.uid)?;
            make(&top.id, name)?;
            make_homes(&top.id)?;
            if is_apart {
                store::sync_dirs(&[lbx::record::dir(name), top.root()])?;
            }
            move_aside(&home, &frozen)?;
        }
        if !is_there(&home)? {
            renew_home(record, Some(top))?;
        }
        if to_move {
            let homes = [&frozen, &home].map(|dir| dir.parent().unwrap_or(dir).to_owned());
            if is_apart {
                store::sync_dirs(&homes)?;
            }
            moved.extend(homes);
        }
        make_dir(&home_work(name))?;
    }
    if let Some(top) = record.layers.project.first() {
        let (upper, frozen) = (layer::upper(name), top.upper());
        let to_move = !is_there(&frozen)?;
        if to_move {
            require_own(record, top, project_ids(record).uid)?;
            make(&top.id, name)?;
            move_aside(&upper, &frozen)?;
        }
        if record.options.project == Project::Cow && !is_there(&upper)? && is_there(&layer::root(name))? {
            renew_upper(record, Some(top))?;
        }
        if to_move {
            moved.extend([top.root(), layer::root(name)]);
        }
    }
    Ok(moved)
}

/// Whether homes and records are of two file systems, whose changes come to the disk in any order. Those of one
/// come in the order in which they were made, or at once: ext4, XFS and btrfs have a log or trees of them.
fn is_apart() -> Result<bool> {
    let device = |path: &'static str| {
        let meta = fs::metadata(path).with_context(|| format!("cannot look at '{path}'"))?;
        Ok::<_, anyhow::Error>(meta.dev())
    };
    Ok(device(FROZEN_HOMES)? != device(FROZEN)?)
}

/// Fails unless the layer `top`, which is not there, can be one that `record`'s environment has begun to
/// freeze: nobody else needs it yet, and it wrote it itself.
fn require_own(record: &Record, top: &Frozen, uid: u32) -> Result<()> {
    let users = top.root().join(USERS);
    let others = match fs::read_dir(&users) {
        Ok(mut users) => users.any(|user| !user.is_ok_and(|user| user.file_name() == record.name.as_str())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => return Err(e).with_context(|| format!("cannot read directory: {}", users.display())),
    };
    if others || top.uid != uid { Err(missing(top)) } else { Ok(()) }
}

fn missing(layer: &Frozen) -> anyhow::Error {
    Failure::new(format!("a frozen layer is missing: {}", layer.root().display())).into()
}

/// Fails when a layer of `stack` is not there.
pub(crate) fn require(stack: &Stack) -> Result<()> {
    let homes = stack.home.iter().map(|layer| (layer, layer.home()));
    let uppers = stack.project.iter().map(|layer| (layer, layer.upper()));
    for (layer, dir) in homes.chain(uppers) {
        if !is_there(&dir)? {
            return Err(missing(layer));
        }
    }
    Ok(())
}

/// Puts an empty home in the place of an empty one or none, that shows inside as that of `like` did.
pub(crate) fn renew_home(record: &Record, like: Option<&Frozen>) -> Result<()> {
    let (path, aside) = (home::path(&record.name), home::aside(&record.name));
    let ids = Ids { uid: record.uid, gid: record.gid };
    make_alike(&aside, like.map(Frozen::home).as_deref(), ids)
        .and_then(|()| fs::rename(&aside, &path))
        .with_context(|| format!("cannot make home '{}'", path.display()))
}

/// As [`renew_home`], the upper layer of `record`'s project; without `like` it is as the project is.
pub(crate) fn renew_upper(record: &Record, like: Option<&Frozen>) -> Result<()> {
    let upper = layer::upper(&record.name);
    let make = || -> Result<()> {
        let Some(like) = like else {
            let project = project::open_recorded(&record.project(), record.owner)?;
            return Ok(layers::make_upper(&upper, record, &project)?);
        };
        let aside = upper.with_extension("new");
        make_alike(&aside, Some(&like.upper()), project_ids(record))?;
        Ok(fs::rename(&aside, &upper)?)
    };
    make().with_context(|| format!("cannot make '{}'", upper.display()))
}

/// Makes the empty directory `path`, of `ids`, with the mode, the times and the attributes of `like`.
fn make_alike(path: &Path, like: Option<&Path>, ids: Ids) -> io::Result<()> {
    home::remove_tree(CWD, path, &mut || ())?;
    fs::create_dir(path)?;
    let dir = openat(CWD, path, DIRECTORY, Mode::empty())?;
    fchown(&dir, Some(Uid::from_raw(ids.uid)), Some(Gid::from_raw(ids.gid)))?;
    let Some(like) = like else { return Ok(fchmod(&dir, Mode::RWXU)?) };
    let like = openat(CWD, like, DIRECTORY, Mode::empty())?;
    let stat = rustix::fs::fstat(&like)?;
    fchmod(&dir, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_attributes(like.as_fd(), dir.as_fd())?;
    Ok(futimens(&dir, &merge::times(&stat))?)
}

/// Copies the attributes that people and programs give.
pub(crate) fn copy_attributes(from: std::os::fd::BorrowedFd<'_>, to: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    let mut names = vec![0; 65536];
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        length => length?,
    };
    for name in names[..length].split(|byte| *byte == 0) {
        if name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_") {
            let mut value = vec![0; 65536];
            let length = rustix::fs::fgetxattr(from, name, &mut value[..])?;
            rustix::fs::fsetxattr(to, name, &value[..length], rustix::fs::XattrFlags::empty())?;
        }
    }
    Ok(())
}

/// Marks that the environments of `names` need all layers of `stack`, which nobody removes meanwhile: the
/// lock of another that needs them is held.
pub(crate) fn hold(stack: &Stack, names: &[&Name]) -> Result<()> {
    let layers: BTreeSet<PathBuf> = stack.iter().map(Frozen::root).collect();
    for layer in layers {
        for name in names {
            let file = layer.join(USERS).join(name);
            match File::create(&file) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(Failure::new(format!("a frozen layer is missing: {}", layer.display())).into());
                }
                made => drop(made.with_context(|| format!("cannot make '{}'", file.display()))?),
            }
        }
    }
    Ok(())
}

/// Removes what no environment needs any more, now that what `name` needs has changed. Its lock is held.
///
/// # Errors
/// Also where a snapshot is damaged: nobody knows what it needs, and nothing is removed.
pub(crate) fn release(name: &Name, progress: &mut dyn FnMut()) -> Result<()> {
    if !is_there(Path::new(FROZEN))? {
        return Ok(());
    }
    let record = Record::load(name).map_err(|why| why.failure(name))?;
    release_all_but(name, &needed(&record)?, progress)?;
    match record.layers.home.is_empty() {
        true => remove(&home_work(name), progress).map(|()| remove_empty()),
        false => Ok(()),
    }
}

/// The layers that `record` and the snapshots of its environment name.
fn needed(record: &Record) -> Result<BTreeSet<String>> {
    let mut ids: BTreeSet<String> = record.layers.iter().map(|layer| layer.id.clone()).collect();
    for tag in snapshot::tags(&record.name)? {
        let snapshot = Snapshot::load(&record.name, &tag)?;
        ids.extend(snapshot.iter().flat_map(|snapshot| snapshot.layers.iter()).map(|layer| layer.id.clone()));
    }
    Ok(ids)
}

/// Removes the snapshots of `name`, which is being deleted, and all frozen layers that nobody else needs.
pub(crate) fn release_all(name: &Name, progress: &mut dyn FnMut()) -> Result<()> {
    remove(&snapshot::dir(name), progress)?;
    if is_there(Path::new(FROZEN))? {
        release_all_but(name, &BTreeSet::new(), progress)?;
    }
    if is_there(Path::new(FROZEN_HOMES))? {
        remove(&home_work(name), progress)?;
    }
    remove_empty();
    Ok(())
}

fn release_all_but(name: &Name, needed: &BTreeSet<String>, progress: &mut dyn FnMut()) -> Result<()> {
    remove(&aside(name), progress)?;
    let cannot = || format!("cannot read directory: {FROZEN}");
    let ids: Vec<String> = match fs::read_dir(FROZEN) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries
            .with_context(cannot)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()
            .with_context(cannot)?,
    };
    for id in ids {
        let layer = Frozen { id, uid: 0, gid: 0 };
        if !layer.is_valid() || needed.contains(&layer.id) {
            continue;
        }
        let users = layer.root().join(USERS);
        store::remove_file(&users.join(name)).with_context(|| format!("cannot release '{}'", users.display()))?;
        let wait = match fs::remove_dir(&users) {
            Ok(()) => true,
            // its removal was begun: whoever is at it is left alone
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => continue,
            Err(e) => return Err(e).with_context(|| format!("cannot release '{}'", users.display())),
        };
        remove_layer(&layer, wait, progress)?;
    }
    remove_empty();
    Ok(())
}

/// Whether a layer is there that `name` needs.
pub(crate) fn is_user(name: &Name) -> bool {
    let layers = fs::read_dir(FROZEN).into_iter().flatten().flatten();
    layers.map(|layer| layer.path().join(USERS).join(name)).any(|user| user.exists())
}

/// Removes `layer`, which nobody needs.
fn remove_layer(layer: &Frozen, wait: bool, progress: &mut dyn FnMut()) -> Result<()> {
    let root = layer.root();
    let dir = match openat(CWD, &root, DIRECTORY, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        dir => dir.with_context(|| format!("cannot open '{}'", root.display()))?,
    };
    let how = if wait { FlockOperation::LockExclusive } else { FlockOperation::NonBlockingLockExclusive };
    match flock(&dir, how) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
        locked => locked.with_context(|| format!("cannot lock '{}'", root.display()))?,
    }
    remove(&Path::new(FROZEN_HOMES).join(&layer.id), progress)?;
    remove(&root, progress)
}

fn remove(path: &Path, progress: &mut dyn FnMut()) -> Result<()> {
    home::remove_tree(CWD, path, progress).with_context(|| format!("cannot remove '{}'", path.display()))
}

/// Removes the directories of all layers, where they are empty: who needs them makes them anew.
fn remove_empty() {
    for dir in [&*Path::new(FROZEN_HOMES).join(WORK), Path::new(FROZEN_HOMES), Path::new(FROZEN)] {
        let _ = fs::remove_dir(dir);
    }
}

/// Where a layer of `name` is made until it has its first user.
fn aside(name: &Name) -> PathBuf {
    Path::new(FROZEN).join(format!("{name}.new"))
}

/// Makes the layer `id`, for `name`; one that is there stays.
fn make(id: &str, name: &Name) -> Result<()> {
    let root = Path::new(FROZEN).join(id);
    let make = || -> io::Result<()> {
        if root.exists() {
            return File::create(root.join(USERS).join(name)).map(drop);
        }
        let aside = aside(name);
        home::remove_tree(CWD, &aside, &mut || ())?;
        mkdir(&aside)?;
        mkdir(&aside.join(USERS))?;
        File::create(aside.join(USERS).join(name))?;
        fs::rename(&aside, &root)
    };
    again(|| {
        store::make_dir(Path::new(FROZEN), 0o700)?;
        make().with_context(|| format!("cannot make '{}'", root.display()))
    })
}

/// Makes the place of the frozen home of layer `id`.
fn make_homes(id: &str) -> Result<()> {
    make_dir(&Path::new(FROZEN_HOMES).join(id))
}

/// Makes a directory below [`FROZEN_HOMES`].
fn make_dir(path: &Path) -> Result<()> {
    if is_there(path)? {
        return Ok(());
    }
    again(|| {
        store::make_dir(Path::new(FROZEN_HOMES), 0o700)?;
        store::make_dir(path.parent().unwrap_or(path), 0o700)?;
        mkdir(path).with_context(|| format!("cannot make directory '{}'", path.display()))
    })
}

fn mkdir(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Runs `make` until nobody removes below it what it has just made: see [`remove_empty`].
fn again(make: impl Fn() -> Result<()>) -> Result<()> {
    let mut made = make();
    for _ in 0..TRIES {
        let gone = made.as_ref().err().and_then(|e| e.downcast_ref::<io::Error>());
        match gone.is_some_and(|e| e.kind() == io::ErrorKind::NotFound) {
            true => made = make(),
            false => break,
        }
    }
    made
}

fn move_aside(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("cannot move '{}' to '{}'", from.display(), to.display()))
}

/// Whether `path` is a directory. What cannot be looked at may be there.
fn is_there(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(meta.is_dir()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).with_context(|| format!("cannot look at '{}'", path.display())),
    }
}

/// What was renamed in `dir` outlives a loss of power.
fn sync(dir: &Path) -> Result<()> {
    store::sync_dirs(&[dir.to_owned()])
}

/// 16 hex digits that nobody has drawn before.
fn new_id() -> Result<String> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).context("cannot draw a number")?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

/// Fails where the home of `name` could not be a layer: on another file system than those beside it, or on
/// one that has no upper layers. That is tried unless there are frozen homes; nothing is left of the try.
fn require_layers(name: &Name) -> Result<()> {
    let home = home::path(name);
    let refuse = |why: &str| {
        Failure::new(format!("home '{}' cannot be frozen: {why}", home.display()))
            .hint("/home needs to be a local file system with extended attributes, as ext4, xfs and btrfs are")
    };
    let mount = |path: &Path| -> Result<u64> {
        let mask = rustix::fs::StatxFlags::from_bits_retain(libc::STATX_MNT_ID);
        let stat = rustix::fs::statx(CWD, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW, mask)
            .with_context(|| format!("cannot look at '{}'", path.display()))?;
        Ok(stat.stx_mnt_id)
    };
    let dir = home_work(name);
    // what a try that was killed has left cannot be taken again
    remove(&dir, &mut || ())?;
    make_dir(&dir)?;
    let tried = || -> Result<()> {
        if mount(&home)? != mount(&dir)? {
            return Err(refuse("it is a mount of its own").into());
        }
        if has_frozen_homes()? {
            return Ok(());
        }
        for part in ["lower", "upper", "work"] {
            mkdir(&dir.join(part)).with_context(|| format!("cannot make '{}'", dir.join(part).display()))?;
        }
        layers::try_overlay(&dir)
            .map_err(|e| anyhow::Error::from(e).context(refuse("its file system cannot be a layer of an overlay")))
    };
    let done = tried();
    remove(&dir, &mut || ())?;
    done
}

/// Whether a home was frozen here before.
fn has_frozen_homes() -> Result<bool> {
    let cannot = || format!("cannot read directory: {FROZEN_HOMES}");
    for entry in fs::read_dir(FROZEN_HOMES).with_context(cannot)? {
        if entry.with_context(cannot)?.file_name() != WORK {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_id_is_that_of_a_layer_and_no_other() {
        let (one, other) = (new_id().unwrap(), new_id().unwrap());
        assert_ne!(one, other);
        assert!(Frozen { id: one, uid: 0, gid: 0 }.is_valid());
    }

    #[test]
    fn an_empty_directory_is_made_as_another_is() {
        let dir = tempfile::tempdir().unwrap();
        let (like, made) = (dir.path().join("like"), dir.path().join("made"));
        fs::create_dir(&like).unwrap();
        fs::write(like.join("file"), "").unwrap();
        fs::set_permissions(&like, fs::Permissions::from_mode(0o2751)).unwrap();
        let meta = fs::metadata(&like).unwrap();
        for _ in 0..2 {
            make_alike(&made, Some(&like), Ids { uid: meta.uid(), gid: meta.gid() }).unwrap();
            let made = fs::metadata(&made).unwrap();
            assert_eq!((made.mode(), made.modified().unwrap()), (meta.mode(), meta.modified().unwrap()));
            assert!(is_empty(&dir.path().join("made")).unwrap());
        }
    }
}
