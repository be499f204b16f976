//! Carries out a plan: gathers copies of mounts where the machine can be seen, then puts them
//! together in a mount namespace of the environment's own.
//!
//! Every path in the new view is walked by descriptor, and no link in it is followed: below the
//! project, names are the agent's to choose.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Context;
use lbx::layer::Frozen;
use lbx::record::Project;
use lbx::sys::{self, MountChange};
use lbx::{Failure, Name, Record, Result, record};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fchmod, fchown, fstat, mkdirat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::process::{Gid, Uid};

use super::accounts::Ids;
use super::plan::{Access, Source, Step, Whose};
use super::project::{self, Opened};
use super::{etc, frozen, home, layers, mounts};

const NOSUID: u64 = if cfg!(feature = "broken-nosuid") { 0 } else { libc::MOUNT_ATTR_NOSUID };
const NODEV: u64 = if cfg!(feature = "broken-nodev") { 0 } else { libc::MOUNT_ATTR_NODEV };
/// Restrictions of every mount but devices.
const CONFINED: u64 = NOSUID | NODEV;
/// A quarter of memory and a million inodes for all that is private.
const TMPFS: [(&str, &str); 3] = [("size", "25%"), ("nr_inodes", "1000000"), ("mode", "0755")];
const WALK: ResolveFlags = match cfg!(feature = "broken-links") {
    true => ResolveFlags::IN_ROOT,
    false => ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS),
};
const HANDLE: OFlags = match cfg!(feature = "broken-links") {
    true => OFlags::PATH.union(OFlags::CLOEXEC),
    false => OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC),
};

/// What a plan is carried out with: per step the mounts that it attaches, each at a path below
/// the step's own.
#[derive(Debug)]
pub(crate) struct Materials {
    mounts: Vec<Vec<(PathBuf, OwnedFd)>>,
    etc: OwnedFd,
    own_files: Vec<(&'static str, Vec<u8>)>,
    /// What could not be shown as it should be.
    pub(crate) warnings: Vec<String>,
}

/// Opens and copies, in the machine's own view, all that `steps` bind.
pub(crate) fn gather(record: &Record, steps: &[Step], passwd: &str) -> Result<Materials> {
    let mut gathering = Gathering { record, maps: HashMap::new(), warnings: Vec::new() };
    let mounts = steps.iter().map(|step| gathering.mounts_of(step)).collect::<Result<_>>()?;
    Ok(Materials {
        mounts,
        etc: etc::shared()?,
        own_files: etc::own_files(record, passwd),
        warnings: gathering.warnings,
    })
}

/// The frozen homes of `record`, as its environment has them.
pub(crate) fn frozen_homes(record: &Record) -> Result<Vec<OwnedFd>> {
    Gathering { record, maps: HashMap::new(), warnings: Vec::new() }.frozen_homes()
}

/// The frozen layers over the project of `record`, as its environment has them.
pub(crate) fn frozen_uppers(record: &Record) -> Result<Vec<OwnedFd>> {
    Gathering { record, maps: HashMap::new(), warnings: Vec::new() }.frozen_uppers()
}

struct Gathering<'a> {
    record: &'a Record,
    /// User namespaces by what they map, and to what.
    maps: HashMap<(Ids, Ids), OwnedFd>,
    warnings: Vec<String>,
}

impl Gathering<'_> {
    fn mounts_of(&mut self, step: &Step) -> Result<Vec<(PathBuf, OwnedFd)>> {
        let (path, source, access, mapped) = match step {
            Step::Bind { path, source, access, mapped } => (path, source, access, mapped),
            Step::Overlay { path, mapped, .. } => {
                let mut lowers = self.frozen_uppers()?;
                lowers.push(self.lower_layer(path, *mapped)?);
                return Ok(lowers.into_iter().map(|lower| (PathBuf::new(), lower)).collect());
            }
            Step::HomeOverlay { path, .. } => {
                self.open(path, &Source::Home)?;
                return Ok(self.frozen_homes()?.into_iter().map(|lower| (PathBuf::new(), lower)).collect());
            }
            _ => return Ok(Vec::new()),
        };
        let Some(opened) = self.open(path, source)? else { return Ok(Vec::new()) };
        let show = || format!("cannot show '{}'", path.display());
        let mounts = match mapped {
            // of what else the caller named, the caller's own: the agent is to have no more than they
            true if !matches!(source, Source::Named(_)) || opened.owner.uid == self.record.creator => {
                self.mapped(path, &opened, *source == Source::Project)?
            }
            _ => vec![(PathBuf::new(), project::copy(opened.fd.as_fd(), true).with_context(show)?)],
        };
        let set = match access {
            Access::ReadOnly if cfg!(feature = "broken-read-only") => CONFINED,
            Access::ReadOnly => CONFINED | libc::MOUNT_ATTR_RDONLY,
            Access::ReadWrite => CONFINED,
            Access::Device => libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC,
        };
        for (_, mount) in &mounts {
            let change = MountChange { set, recursive: true, ..MountChange::default() };
            sys::mount_setattr(mount.as_fd(), change).with_context(show)?;
        }
        Ok(mounts)
    }

    /// What `source` is; `None` where there is nothing to show.
    fn open(&self, path: &Path, source: &Source) -> Result<Option<Opened>> {
        let record = self.record;
        let opened = match source {
            Source::System(path) => match std::fs::canonicalize(path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                real => project::open(&real.with_context(|| format!("cannot open '{}'", path.display()))?)?,
            },
            Source::Project => {
                let opened = project::open_recorded(&record.project(), record.owner)?;
                if record.options.project == Project::Rw {
                    project::require_owner_can_write(&opened, path)?;
                }
                opened
            }
            Source::Named(path) => project::open(path)
                .map_err(|e| e.context(Failure::new("a path of --ro or --rw").hint("lbx-env set changes the list")))?,
            Source::Git(at) => {
                let Some(worktree) = &record.worktree else { return Ok(None) };
                let common = project::open(&worktree.common.0)?;
                if common.owner.uid != record.owner.uid {
                    let message =
                        format!("owner of git directory '{}' is not the project's", worktree.common.0.display());
                    return Err(Failure::new(message).into());
                }
                if at.as_os_str().is_empty() {
                    common
                } else {
                    match openat2(&common.fd, at, HANDLE, Mode::empty(), WALK) {
                        Err(Errno::NOENT) => return Ok(None),
                        fd => Opened { fd: fd.with_context(|| format!("cannot open '{}'", path.display()))?, ..common },
                    }
                }
            }
            Source::Home => {
                let opened = project::open(&home::path(&record.name))
                    .map_err(|e| e.context(Failure::new("home is missing").hint("lbx-env repair makes it anew")))?;
                if opened.owner.uid != record.uid {
                    return Err(Failure::new(format!(
                        "home '{}' belongs to uid {}, not {}",
                        record.home.display(),
                        opened.owner.uid,
                        record.uid
                    ))
                    .hint("lbx-env repair tells more")
                    .into());
                }
                opened
            }
            Source::Private(dir) => project::open(&private_dir(record, dir)).map_err(|e| {
                e.context(Failure::new("a private directory is missing").hint("lbx-env repair makes it anew"))
            })?,
        };
        if opened.is_socket {
            return Err(Failure::new(format!("path is a socket: {}", path.display())).into());
        }
        Ok(Some(opened))
    }

    /// The project as an overlay takes it. What is mounted below it is no part of a layer.
    fn lower_layer(&mut self, path: &Path, mapped: bool) -> Result<OwnedFd> {
        layers::require(&self.record.name)?;
        let opened = project::open_recorded(path, self.record.owner)?;
        let ids = Ids { uid: self.record.uid, gid: self.record.gid };
        if !mapped || opened.owner.uid == ids.uid {
            return Ok(project::copy(opened.fd.as_fd(), false)?);
        }
        let map = map(&mut self.maps, Ids { uid: opened.owner.uid, gid: opened.owner.gid }, ids)?;
        project::mapped_copy(opened.fd.as_fd(), map, false).map_err(|e| unmapped(path, e))
    }

    fn frozen_homes(&mut self) -> Result<Vec<OwnedFd>> {
        let record = self.record;
        self.frozen(&record.layers.home, Frozen::home, Ids { uid: record.uid, gid: record.gid })
    }

    fn frozen_uppers(&mut self) -> Result<Vec<OwnedFd>> {
        let record = self.record;
        self.frozen(&record.layers.project, Frozen::upper, frozen::project_ids(record))
    }

    /// The frozen `layers` as an overlay takes them: each is at `path`, and its files show as those of `ids`.
    fn frozen(&mut self, layers: &[Frozen], path: impl Fn(&Frozen) -> PathBuf, ids: Ids) -> Result<Vec<OwnedFd>> {
        let mut copies = Vec::with_capacity(layers.len());
        for layer in layers {
            let path = path(layer);
            let opened = project::open(&path).map_err(|e| e.context("a frozen layer is missing"))?;
            if !opened.is_dir || opened.owner.uid != layer.uid {
                let message = format!("frozen layer '{}' is not uid {}'s directory", path.display(), layer.uid);
                return Err(Failure::new(message).into());
            }
            copies.push(if (layer.uid, layer.gid) == (ids.uid, ids.gid) {
                project::copy(opened.fd.as_fd(), false)?
            } else {
                let map = map(&mut self.maps, Ids { uid: layer.uid, gid: layer.gid }, ids)?;
                project::mapped_copy(opened.fd.as_fd(), map, false)
                    .with_context(|| format!("cannot id-map '{}'", path.display()))?
            });
        }
        Ok(copies)
    }

    /// Copies with the owner's files shown as the environment's, mount by mount where a file system
    /// below cannot be mapped. What is the environment's `own` project must be mapped.
    fn mapped(&mut self, path: &Path, opened: &Opened, own: bool) -> Result<Vec<(PathBuf, OwnedFd)>> {
        let ids = Ids { uid: self.record.uid, gid: self.record.gid };
        if opened.owner.uid == ids.uid {
            return Ok(vec![(PathBuf::new(), project::copy(opened.fd.as_fd(), true)?)]);
        }
        let map = map(&mut self.maps, Ids { uid: opened.owner.uid, gid: opened.owner.gid }, ids)?;
        if let Ok(mount) = project::mapped_copy(opened.fd.as_fd(), map, true) {
            return Ok(vec![(PathBuf::new(), mount)]);
        }
        let mut mounts = Vec::new();
        match project::mapped_copy(opened.fd.as_fd(), map, false) {
            Err(e) if own => return Err(unmapped(path, e)),
            copied => mounts.push((PathBuf::new(), or_plain(path, opened.fd.as_fd(), copied, &mut self.warnings)?)),
        }
        for mount_point in mounts::below(path)? {
            // another user's FUSE mount, for one, is closed to root
            let submount = match project::open(&mount_point) {
                Ok(submount) => submount,
                Err(e) => {
                    self.warnings.push(format!("'{}' is not shown: {e:#}", mount_point.display()));
                    continue;
                }
            };
            let copied = project::mapped_copy(submount.fd.as_fd(), map, false);
            let at = mount_point.strip_prefix(path).map(Path::to_owned).unwrap_or_default();
            mounts.push((at, or_plain(&mount_point, submount.fd.as_fd(), copied, &mut self.warnings)?));
        }
        Ok(mounts)
    }
}

/// The user namespace that maps `owner` to `ids`, made once.
fn map(maps: &mut HashMap<(Ids, Ids), OwnedFd>, owner: Ids, ids: Ids) -> Result<BorrowedFd<'_>> {
    let map: &OwnedFd = match maps.entry((owner, ids)) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => entry.insert(project::id_map(owner, ids)?),
    };
    Ok(map.as_fd())
}

fn unmapped(path: &Path, why: io::Error) -> anyhow::Error {
    let failure = Failure::new(format!("cannot id-map '{}'", path.display())).hint("lbx-env repair finds another way");
    anyhow::Error::from(why).context(failure)
}

/// The mapped copy, or with a warning one that is not mapped.
fn or_plain(
    path: &Path,
    fd: BorrowedFd<'_>,
    copied: io::Result<OwnedFd>,
    warnings: &mut Vec<String>,
) -> Result<OwnedFd> {
    copied.or_else(|e| {
        warnings.push(format!("files of '{}' show as their owner's: cannot id-map: {e}", path.display()));
        Ok(project::copy(fd, false)?)
    })
}

/// Where what is private of `dir` lies on the place's own disk: one directory each, the path's
/// slashes spelt out.
pub(crate) fn private_dir(record: &Record, dir: &Path) -> PathBuf {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut name = Vec::new();
    for byte in dir.as_os_str().as_bytes() {
        match byte {
            b'/' => name.extend(b"%2F"),
            b'%' => name.extend(b"%25"),
            byte => name.push(*byte),
        }
    }
    private_root(&record.name).join(std::ffi::OsString::from_vec(name))
}

/// The directory of all that is private; only root may search it.
pub(crate) fn private_root(name: &Name) -> PathBuf {
    record::dir(name).join("private")
}

/// Puts the view together and makes it this process's root. The process is alone in a new mount
/// namespace, and has all other namespaces of the environment.
pub(crate) fn enter(record: &Record, steps: &[Step], materials: Materials) -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("cannot make mounts private")?;
    let root = new_mount("tmpfs", &TMPFS, CONFINED as u32).context("cannot mount tmpfs")?;
    move_mount(&root, "", CWD, record::RUN, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .context("cannot attach the new root")?;
    let building = Building { record, root: root.as_fd(), project_at: record.project() };
    for (step, mounts) in steps.iter().zip(materials.mounts) {
        let done = match step {
            Step::Etc => building.etc(&materials.etc, &materials.own_files),
            step => building.carry_out(step, mounts),
        };
        done.with_context(|| format!("cannot do '{step}'"))?;
    }
    rustix::process::fchdir(&root)?;
    // the old root comes to lie over the new one, and is taken off (pivot_root(2), NOTES)
    rustix::process::pivot_root(".", ".").context("cannot change the root")?;
    unmount(".", UnmountFlags::DETACH).context("cannot leave the old root")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("cannot make mounts private")?;
    rustix::process::chdir("/").context("cannot enter the new root")
}

/// A mount of a new instance of file system `kind` that is not attached yet.
pub(super) fn new_mount(kind: &str, options: &[(&str, &str)], attributes: u32) -> io::Result<OwnedFd> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        match *value {
            "" => fsconfig_set_flag(&fs, *key)?,
            value => fsconfig_set_string(&fs, *key, value)?,
        }
    }
    fsconfig_create(&fs)?;
    Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(attributes))?)
}

struct Building<'a> {
    record: &'a Record,
    root: BorrowedFd<'a>,
    project_at: PathBuf,
}

impl Building<'_> {
    fn carry_out(&self, step: &Step, mounts: Vec<(PathBuf, OwnedFd)>) -> Result<()> {
        match step {
            Step::Directory { path, mode, whose } => {
                let dir = self.directory(path)?;
                let dir = openat(&dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
                if *whose == Whose::Environment {
                    fchown(&dir, Some(Uid::from_raw(self.record.uid)), Some(Gid::from_raw(self.record.gid)))?;
                }
                Ok(fchmod(&dir, Mode::from_raw_mode(*mode))?)
            }
            Step::Link { path, target } => {
                let dir = self.directory(path.parent().unwrap_or(Path::new("/")))?;
                Ok(rustix::fs::symlinkat(target, &dir, path.file_name().unwrap_or_default())?)
            }
            Step::Writable { path } => {
                let mount = project::copy(self.target(path)?.as_fd(), false)?;
                self.attach(&mount, path)
            }
            Step::Bind { path, .. } => mounts.iter().try_for_each(|(at, mount)| self.attach(mount, &path.join(at))),
            Step::Overlay { path, .. } => {
                let lowers: Vec<OwnedFd> = mounts.into_iter().map(|(_, lower)| lower).collect();
                self.attach(&layers::overlay(self.record, &lowers, CONFINED as u32)?, path)
            }
            Step::HomeOverlay { path, .. } => {
                let lowers: Vec<OwnedFd> = mounts.into_iter().map(|(_, lower)| lower).collect();
                self.attach(&layers::home_overlay(self.record, &lowers, CONFINED as u32)?, path)
            }
            Step::Etc => Ok(()),
            Step::Proc => self.mount("proc", &[], (CONFINED | libc::MOUNT_ATTR_NOEXEC) as u32, "/proc"),
            Step::Sys => {
                let read_only = if cfg!(feature = "broken-sys") { 0 } else { libc::MOUNT_ATTR_RDONLY };
                self.mount("sysfs", &[], (CONFINED | libc::MOUNT_ATTR_NOEXEC | read_only) as u32, "/sys")
            }
            Step::Cgroup => self.mount(
                "cgroup2",
                &[],
                (CONFINED | libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_RDONLY) as u32,
                "/sys/fs/cgroup",
            ),
            Step::Terminals => {
                let (uid, gid) = (self.record.uid.to_string(), self.record.gid.to_string());
                let options = [("mode", "0600"), ("ptmxmode", "0666"), ("max", "256"), ("uid", &*uid), ("gid", &*gid)];
                self.mount("devpts", &options, (libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC) as u32, "/dev/pts")
            }
            Step::Mask { path } => self.hide(path, |_| true),
            Step::MaskSocket { path } => self.hide(path, FileType::is_socket),
            Step::Close { path } if path == Path::new("/") => {
                let change = MountChange { set: CONFINED | libc::MOUNT_ATTR_RDONLY, ..MountChange::default() };
                Ok(sys::mount_setattr(self.root, change)?)
            }
            Step::Close { path } => {
                let mount = project::copy(self.target(path)?.as_fd(), false)?;
                let change = MountChange { set: CONFINED | libc::MOUNT_ATTR_RDONLY, ..MountChange::default() };
                sys::mount_setattr(mount.as_fd(), change)?;
                self.attach(&mount, path)
            }
        }
    }

    /// The shared /etc, and over its placeholders the own files, which lie on the view's own tmpfs
    /// below it.
    fn etc(&self, shared: &OwnedFd, own_files: &[(&'static str, Vec<u8>)]) -> Result<()> {
        let dir = self.directory(Path::new("/etc"))?;
        let mut own = Vec::with_capacity(own_files.len());
        for (name, text) in own_files {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = File::from(openat(&dir, *name, flags, Mode::from_raw_mode(0o644))?);
            (&file).write_all(text)?;
            fchmod(&file, Mode::from_raw_mode(0o644))?;
            let mount = project::copy(openat(&dir, *name, HANDLE, Mode::empty())?.as_fd(), false)?;
            let change = MountChange { set: CONFINED | libc::MOUNT_ATTR_RDONLY, ..MountChange::default() };
            sys::mount_setattr(mount.as_fd(), change)?;
            own.push((Path::new("/etc").join(name), mount));
        }
        self.attach(shared, Path::new("/etc"))?;
        own.iter().try_for_each(|(path, mount)| self.attach(mount, path))
    }

    fn mount(&self, kind: &str, options: &[(&str, &str)], attributes: u32, path: &str) -> Result<()> {
        self.attach(&new_mount(kind, options, attributes)?, Path::new(path))
    }

    /// Lays nothing over what is at `path`, if it is such a thing; where there is nothing, nothing is
    /// hidden.
    fn hide(&self, path: &Path, is_such: impl Fn(FileType) -> bool) -> Result<()> {
        let target = match self.target(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            target => target?,
        };
        let kind = FileType::from_raw_mode(fstat(&target)?.st_mode);
        if !is_such(kind) {
            return Ok(());
        }
        let nothing = match kind.is_dir() {
            true => self.directory(Path::new("/var/empty"))?,
            false => openat(CWD, "/dev/null", HANDLE, Mode::empty())?,
        };
        let mount = project::copy(nothing.as_fd(), false)?;
        let change = MountChange { set: CONFINED | libc::MOUNT_ATTR_RDONLY, ..MountChange::default() };
        sys::mount_setattr(mount.as_fd(), change)?;
        Ok(move_to(&mount, &target)?)
    }

    /// Attaches `mount` at `path`, which is made when there is nothing.
    fn attach(&self, mount: &OwnedFd, path: &Path) -> Result<()> {
        let target = match self.target(path) {
            Err(Errno::NOENT) => {
                if FileType::from_raw_mode(fstat(mount)?.st_mode).is_dir() {
                    self.directory(path)?
                } else {
                    self.file(path)?
                }
            }
            target => target?,
        };
        Ok(move_to(mount, &target)?)
    }

    fn target(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        openat2(self.root, path, HANDLE, Mode::empty(), WALK)
    }

    /// The directory `path`, made with its parents where there is none.
    fn directory(&self, path: &Path) -> Result<OwnedFd> {
        let failed = || format!("cannot open directory '{}'", path.display());
        match self.target(path) {
            Ok(dir) if FileType::from_raw_mode(fstat(&dir)?.st_mode).is_dir() => Ok(dir),
            Ok(_) => Err(Failure::new(format!("path is not a directory: {}", path.display())).into()),
            Err(Errno::LOOP) => Err(Failure::new(format!("path is a symbolic link: {}", path.display())).into()),
            Err(Errno::NOENT) => {
                let parent = self.directory(path.parent().unwrap_or(Path::new("/")))?;
                let name = path.file_name().unwrap_or_default();
                self.as_owner(path, || mkdirat(&parent, name, Mode::from_raw_mode(0o755)))
                    .with_context(|| format!("cannot make directory '{}'", path.display()))?;
                openat2(&parent, name, HANDLE | OFlags::DIRECTORY, Mode::empty(), WALK).with_context(failed)
            }
            Err(e) => Err(e).with_context(failed),
        }
    }

    /// An empty file at `path`, to mount over.
    fn file(&self, path: &Path) -> Result<OwnedFd> {
        let dir = self.directory(path.parent().unwrap_or(Path::new("/")))?;
        let name: &OsStr = path.file_name().unwrap_or_default();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        self.as_owner(path, || openat(&dir, name, flags, Mode::from_raw_mode(0o644)))
            .with_context(|| format!("cannot make file '{}'", path.display()))?;
        Ok(openat2(&dir, name, HANDLE, Mode::empty(), WALK)?)
    }

    /// What is made in the project is its owner's; elsewhere it is root's.
    fn as_owner<T>(&self, path: &Path, make: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let in_project = path.starts_with(&self.project_at) && path != self.project_at;
        if !in_project {
            return make();
        }
        let (uid, gid) = (Uid::from_raw(self.record.uid), Gid::from_raw(self.record.gid));
        let keep_gid = rustix::process::getegid();
        let keep_uid = rustix::process::geteuid();
        rustix::thread::set_thread_res_gid(None, gid, None)?;
        rustix::thread::set_thread_res_uid(None, uid, None)?;
        let made = make();
        rustix::thread::set_thread_res_uid(None, keep_uid, None)?;
        rustix::thread::set_thread_res_gid(None, keep_gid, None)?;
        made
    }
}

pub(super) fn move_to(mount: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// Makes the directories that `record` keeps for itself of its project, the environment's own.
pub(crate) fn make_private(record: &Record) -> Result<()> {
    if record.options.private.is_empty() {
        return Ok(());
    }
    super::store::make_dir(&private_root(&record.name), 0o700)?;
    for dir in &record.options.private {
        let path = private_dir(record, &dir.0);
        super::store::make_dir(&path, 0o755)?;
        std::os::unix::fs::lchown(&path, Some(record.uid), Some(record.gid))
            .with_context(|| format!("cannot give '{}' to uid {}", path.display(), record.uid))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_directories_never_nest_or_meet() {
        let path = PathBuf::from("/srv/p");
        let origin = record::Origin {
            name: lbx::Name::of(&path).unwrap(),
            path,
            owner: record::Owner { uid: 1, gid: 1, device: 1 },
            ownership: record::Ownership::Idmap,
            creator: 1000,
        };
        let record = Record::new(origin, 65536, 65536, "/bin/sh".into(), record::Options::default());
        let dirs: Vec<PathBuf> =
            ["a", "a/b", "a%2Fb", "a%b"].iter().map(|d| private_dir(&record, Path::new(d))).collect();
        for (i, dir) in dirs.iter().enumerate() {
            assert_eq!(dir.parent().unwrap(), private_root(&record.name));
            assert!(!dirs[..i].contains(dir));
        }
    }
}
