//! The layers of a copy-on-write project: made before the first change, mounted at each start, removed
//! with the environment.
//!
//! Below is the project, which overlayfs reads and never writes; above it, on the place's own disk,
//! what the inside changed. Both are root's to reach: inside there is the overlay alone. Of what was frozen
//! ([`super::frozen`]) there are more layers between the two, and such a home is an overlay as well.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

use anyhow::Context;
use lbx::layer::{self, Base};
use lbx::record::{Ownership, Project, Record};
use lbx::user::as_user;
use lbx::{Failure, Name, Result};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, openat, openat2, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, getegid, geteuid};
use rustix::thread::{capabilities, set_capabilities, set_thread_res_gid, set_thread_res_uid};

use super::accounts::Ids;
use super::project::{self, Opened};
use super::{frozen, home, store, view};

const HANDLE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Where overlayfs prepares what it puts into the upper layer.
const WORK: &str = "work";
/// Where the project is attached for the overlay to take it.
const LOWER: &str = "lower";
/// Where what is dropped lies until it is removed.
pub(crate) const DROPPED: &str = "dropped";
/// Renames of the project's directories fail (EXDEV), so that programs copy; what is copied up is whole.
/// Then every layer can be read without the others.
const APART: &str = "nofollow";
/// In a home programs rename what they like.
const TOGETHER: &str = "on";
/// What was renamed there is found.
const FOLLOWED: &str = "follow";

/// Nothing is synced at the end: else the whole file system would be that holds the upper layer.
const VOLATILE: &str = "volatile";

/// What `lower`, whose parts are apart by colons, and `upper` and `work` make, by names from where this
/// process stands.
fn new_overlay((lower, upper, work): (&str, &str, &str), redirect: &str, attributes: u32) -> io::Result<OwnedFd> {
    let options = [
        ("lowerdir", lower),
        ("upperdir", upper),
        ("workdir", work),
        ("redirect_dir", redirect),
        ("metacopy", "off"),
        ("index", "off"),
    ];
    view::new_mount("overlay", &options, attributes)
}

/// Makes what is missing of the layers that `record` asks for, over `project`.
pub(crate) fn make(record: &Record, project: &Opened) -> Result<()> {
    if record.options.project != Project::Cow {
        return Ok(());
    }
    let path = record.project();
    project::require_owner_can_write(project, &path)?;
    let root = layer::root(&record.name);
    store::make_dir(&root, 0o700)?;
    for dir in [WORK, LOWER] {
        store::make_dir(&root.join(dir), 0o700)?;
    }
    let (upper, base) = (layer::upper(&record.name), layer::base_file(&record.name));
    if !base.exists() {
        // what is changed already was changed after a base that nobody knows any more
        let is_unchanged = is_empty(&record.name)? && record.layers.project.is_empty();
        let kept = if is_unchanged { now(project, &path)? } else { Base::UNKNOWN };
        keep_base(&record.name, kept)?;
    }
    if !upper.exists() {
        make_upper(&upper, record, project).with_context(|| format!("cannot make '{}'", upper.display()))?;
    }
    Ok(())
}

/// Keeps since when the layers of `name` count.
pub(crate) fn keep_base(name: &Name, base: Base) -> Result<()> {
    store::replace(&layer::base_file(name), &base.text()?, 0o600)
}

/// The top of the upper layer is what the project itself shows as inside: of its owner and mode. It is
/// put in place when it is whole.
pub(crate) fn make_upper(upper: &Path, record: &Record, project: &Opened) -> io::Result<()> {
    let aside = upper.with_extension("new");
    home::remove_tree(CWD, &aside, &mut || ())?;
    fs::create_dir(&aside)?;
    let ids = match record.ownership {
        Ownership::Idmap | Ownership::Native => Ids { uid: record.uid, gid: record.gid },
        Ownership::SharedUid => Ids { uid: project.owner.uid, gid: project.owner.gid },
    };
    lchown(&aside, Some(ids.uid), Some(ids.gid))?;
    fs::set_permissions(&aside, fs::Permissions::from_mode(project.mode & 0o7777))?;
    fs::rename(&aside, upper)
}

/// Whether nothing was changed inside.
pub(crate) fn is_empty(name: &Name) -> Result<bool> {
    let upper = layer::upper(name);
    match fs::read_dir(&upper) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e).with_context(|| format!("cannot read directory: {}", upper.display())),
    }
}

/// Removes all layers of `name`; nothing has to be there.
pub(crate) fn remove(name: &Name, progress: &mut dyn FnMut()) -> Result<()> {
    let root = layer::root(name);
    let dropped = root.join(DROPPED);
    // whatever ends this, no half of it is left to be seen, or applied
    let mut drop_upper = || -> io::Result<()> {
        home::remove_tree(CWD, &dropped, progress)?;
        match fs::rename(layer::upper(name), &dropped) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed,
        }
    };
    drop_upper().with_context(|| format!("cannot remove '{}'", root.display()))?;
    home::remove_tree(CWD, &root, progress).with_context(|| format!("cannot remove '{}'", root.display()))
}

/// The present instant in the clock of `project`'s file system, which may be another machine's: that of
/// a file made there, as its owner, which never has a name. Where files must have one, that of the
/// project's own directory when it is given the mode that it has, which changes no other of its times.
fn now(project: &Opened, path: &Path) -> Result<Base> {
    let look = || -> Result<Vec<u8>> {
        let failed = || format!("cannot make a file in '{}'", path.display());
        let dir = openat(&project.fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .with_context(failed)?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let stat = match openat(&dir, ".", flags | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR) {
            Ok(file) => touched(&file),
            // not every file system has files without a name
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                let before = fstat(&dir).with_context(failed)?;
                let changed = fchmod(&dir, Mode::from_raw_mode(before.st_mode & 0o7777)).and_then(|()| fstat(&dir));
                if let Ok(after) = changed
                    && (after.st_ctime, after.st_ctime_nsec) != (before.st_ctime, before.st_ctime_nsec)
                {
                    return Ok(format!("{} {}", after.st_ctime, after.st_ctime_nsec).into_bytes());
                }
                let name = format!(".llima-box.{}", std::process::id());
                let file = openat(&dir, &*name, flags | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR)
                    .with_context(failed)?;
                let stat = touched(&file);
                unlinkat(&dir, &*name, AtFlags::empty()).with_context(failed)?;
                stat
            }
            Err(e) => return Err(e).with_context(failed),
        };
        let stat = stat.with_context(failed)?;
        Ok(format!("{} {}", stat.st_ctime, stat.st_ctime_nsec).into_bytes())
    };
    let told = as_user(project.owner.uid, project.owner.gid, &[], look)?;
    let told = String::from_utf8_lossy(&told);
    let base = told.split_once(' ').and_then(|(sec, nsec)| Some((sec.parse().ok()?, nsec.parse().ok()?)));
    let (sec, nsec) = base.with_context(|| format!("not a time: {told}"))?;
    Ok(Base { sec, nsec })
}

/// A change gives a file its time where making it does not.
fn touched(file: &OwnedFd) -> Result<rustix::fs::Stat, Errno> {
    fchmod(file, Mode::RUSR)?;
    fstat(file)
}

/// Fails when `name` lacks what [`overlay`] takes.
pub(crate) fn require(name: &Name) -> Result<()> {
    let root = layer::root(name);
    let is_there = |dir: &str| fs::symlink_metadata(root.join(dir)).is_ok_and(|meta| meta.is_dir());
    if ["upper", WORK, LOWER].into_iter().all(is_there) {
        return Ok(());
    }
    Err(Failure::new(format!("layers of the project are missing: {}", root.display()))
        .hint("lbx-env repair makes them anew")
        .into())
}

/// The overlay of `record`'s project over `lowers`, the project the last, not attached yet. For a process in
/// a mount namespace of its own: overlayfs takes only layers that are mounted in the one of whoever mounts it.
pub(crate) fn overlay(record: &Record, lowers: &[OwnedFd], attributes: u32) -> Result<OwnedFd> {
    let path = layer::root(&record.name);
    let mount = || -> io::Result<OwnedFd> {
        let root = open(&path)?;
        let own = |make: &dyn Fn() -> io::Result<OwnedFd>| match record.ownership {
            // overlayfs looks at the project as whoever mounts it, and each caller sees themselves as the owner
            Ownership::Native => as_environment(record, make),
            Ownership::Idmap | Ownership::SharedUid => make(),
        };
        let [project] = lowers else {
            let (upper, work) =
                (openat(&root, "upper", HANDLE, Mode::empty())?, openat(&root, WORK, HANDLE, Mode::empty())?);
            let names = lay_out(Some((&upper, &work)), lowers)?;
            return own(&|| new_overlay((&names, "upper", WORK), APART, attributes));
        };
        // it goes with the old root
        view::move_to(project, &openat(&root, LOWER, HANDLE, Mode::empty())?)?;
        // the names of layers show in proc_pid_mountinfo(5): relative ones tell nothing
        rustix::process::fchdir(&root)?;
        own(&|| new_overlay((LOWER, "upper", WORK), APART, attributes))
    };
    mount().with_context(|| format!("cannot make an overlay of the project and '{}'", path.display()))
}

/// As [`overlay`], of the home over the frozen ones `lowers`.
pub(crate) fn home_overlay(record: &Record, lowers: &[OwnedFd], attributes: u32) -> Result<OwnedFd> {
    let path = home::path(&record.name);
    let mount = || -> io::Result<OwnedFd> {
        let (upper, work) = (open(&path)?, open(&frozen::home_work(&record.name))?);
        let names = lay_out(Some((&upper, &work)), lowers)?;
        new_overlay((&names, "upper", WORK), TOGETHER, attributes)
    };
    mount().with_context(|| format!("cannot make an overlay of home '{}'", path.display()))
}

/// What `lowers` show together, to be read alone. For a thread of its own: it leaves its mount namespace.
pub(crate) fn view_of(lowers: &[OwnedFd]) -> io::Result<OwnedFd> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )?;
    let names = lay_out(None, lowers)?;
    let options = [("lowerdir", &*names), ("redirect_dir", FOLLOWED), ("metacopy", "off"), ("index", "off")];
    view::new_mount("overlay", &options, libc::MOUNT_ATTR_RDONLY as u32)
}

/// Puts all layers of an overlay where short names lead to them from where this process then stands: of
/// names longer than 256 bytes the kernel takes none, and those that are told inside tell nothing. Returns
/// the names of `lowers`.
fn lay_out(written: Option<(&OwnedFd, &OwnedFd)>, lowers: &[OwnedFd]) -> io::Result<String> {
    let desk = view::new_mount("tmpfs", &[("mode", "0700")], 0)?;
    // what it lies over goes with the old root
    view::move_to(&desk, &open(Path::new(layer::FROZEN))?)?;
    let mut names = Vec::with_capacity(lowers.len());
    for (number, lower) in lowers.iter().enumerate() {
        let name = (number + 1).to_string();
        mkdirat(&desk, &*name, Mode::RWXU)?;
        view::move_to(lower, &openat(&desk, &*name, HANDLE, Mode::empty())?)?;
        names.push(name);
    }
    // upper and work must lie in one mount, as they do where they are
    for (name, dir) in written.into_iter().flat_map(|(upper, work)| [("upper", upper), (WORK, work)]) {
        symlinkat(format!("/proc/self/fd/{}", dir.as_raw_fd()), &desk, name)?;
    }
    rustix::process::fchdir(&desk)?;
    Ok(names.join(":"))
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(CWD, path, HANDLE, Mode::empty(), resolve)?)
}

/// Makes an overlay of the directories `lower`, `upper` and `work` in `dir`, and lets go of it.
pub(crate) fn try_overlay(dir: &Path) -> io::Result<()> {
    let name = |part: &str| dir.join(part).to_string_lossy().into_owned();
    let (lower, upper, work) = (name("lower"), name("upper"), name(WORK));
    let options = [
        ("lowerdir", lower.as_str()),
        ("upperdir", &upper),
        ("workdir", &work),
        ("redirect_dir", TOGETHER),
        ("metacopy", "off"),
        ("index", "off"),
        (VOLATILE, ""),
    ];
    view::new_mount("overlay", &options, 0).map(drop)
}

/// Runs `make` as the environment's user, with all that root may do.
fn as_environment<T>(record: &Record, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let (uid, gid) = (Uid::from_raw(record.uid), Gid::from_raw(record.gid));
    let (keep_uid, keep_gid, capabilities) = (geteuid(), getegid(), capabilities(None)?);
    set_thread_res_gid(None, gid, None)?;
    set_thread_res_uid(None, uid, None)?;
    // they went with root's number
    let made = set_capabilities(None, capabilities).map_err(Into::into).and_then(|()| make());
    set_thread_res_uid(None, keep_uid, None)?;
    set_thread_res_gid(None, keep_gid, None)?;
    made
}
