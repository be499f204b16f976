//! The cgroup of an environment: every process in it, and nothing else, is inside.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::Name;

/// Where the version 2 hierarchy is mounted: alone, or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// As many processes and threads as an environment may have.
pub const PROCESSES: u64 = 8192;
/// The cgroup of all environments.
pub const PARENT: &str = "llima-box";

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The root of the version 2 hierarchy; where it is not mounted, a mount of its own that nobody
/// else sees.
///
/// # Errors
/// The kernel has no cgroups of version 2, or this process may not mount.
pub fn root() -> io::Result<OwnedFd> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
    for mount in MOUNTS {
        let Ok(dir) = openat(CWD, mount, DIRECTORY, Mode::empty()) else { continue };
        if is_cgroup2(&dir)? {
            return Ok(dir);
        }
    }
    let fs = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&fs)?;
    let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(openat(&mount, ".", DIRECTORY, Mode::empty())?)
}

fn is_cgroup2(dir: &OwnedFd) -> io::Result<bool> {
    // the two sides have one type or another, by libc and architecture
    let magic = u64::try_from(libc::CGROUP2_SUPER_MAGIC).ok();
    Ok(u64::try_from(rustix::fs::fstatfs(dir)?.f_type).ok() == magic)
}

/// The cgroup of `name`, which is running.
///
/// # Errors
/// There is none: the environment is not running.
pub fn open(name: &Name) -> io::Result<OwnedFd> {
    // the two paths first: no statfs on the way of every command
    for mount in MOUNTS {
        let path = Path::new(mount).join(PARENT).join(name);
        if let Ok(dir) = openat(CWD, &path, DIRECTORY, Mode::empty()) {
            return Ok(dir);
        }
    }
    Ok(openat(root()?, Path::new(PARENT).join(name), DIRECTORY, Mode::empty())?)
}

/// The cgroup of `name`; `None`: it is not running, or the kernel has no cgroups of version 2.
///
/// # Errors
/// Whether there is one cannot be told.
pub fn find(name: &Name) -> io::Result<Option<OwnedFd>> {
    match open(name) {
        Ok(dir) => Ok(Some(dir)),
        Err(e) if is_gone(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether `e` says that there is no such cgroup, or none at all.
pub fn is_gone(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// Whether the cgroup `dir` bounds the number of its processes.
pub fn counts_processes(dir: &OwnedFd) -> bool {
    rustix::fs::accessat(dir, "pids.max", rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty()).is_ok()
}

/// The small file `file` of the cgroup `dir`, as text.
///
/// # Errors
/// There is no such file, or it may not be read.
pub fn read(dir: &OwnedFd, file: &str) -> io::Result<String> {
    let file = openat(dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    io::Read::read_to_string(&mut std::fs::File::from(file), &mut text)?;
    Ok(text)
}
