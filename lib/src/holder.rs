//! The holder of a running environment: PID 1 of its PID namespace, known by a POSIX lock.
//!
//! A pid may be reused between reading and using it, a lock may not be held by two: so a tool asks
//! who holds the lock, opens that process, and asks again. The lock file is root's, mode 0600: who
//! may not open it cannot hold it, and so cannot lead root into a process of theirs.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::Name;
use crate::record::{self, RUN};

/// A process that is the holder of a running environment.
#[derive(Debug)]
pub struct Holder {
    /// Its pid, as this process sees it.
    pub pid: i32,
    /// A descriptor of it, which no other process can take over.
    pub pidfd: OwnedFd,
}

/// The directory of a running environment; it is gone after a reboot.
pub fn dir(name: &Name) -> PathBuf {
    Path::new(RUN).join(name)
}

/// The file that the holder of `name` keeps locked. Its group is the holder's uid.
pub fn lock_file(name: &Name) -> PathBuf {
    dir(name).join("holder")
}

/// The lock that a holder takes: the whole file, for writing.
pub fn lock() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// The holder of `name`; `None` when it is not running.
///
/// # Errors
/// The lock cannot be asked for (it is root's alone), or it is held by what is no holder.
pub fn find(name: &Name) -> io::Result<Option<Holder>> {
    let file = match File::open(lock_file(name)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    loop {
        let Some(pid) = owner(&file)? else { return Ok(None) };
        let Some(process) = Pid::from_raw(pid) else {
            return Err(io::Error::other("the holder's lock is held outside this PID namespace"));
        };
        let pidfd = match pidfd_open(process, PidfdFlags::empty()) {
            // it has ended since
            Err(rustix::io::Errno::SRCH) => continue,
            pidfd => pidfd?,
        };
        if owner(&file)? != Some(pid) {
            continue;
        }
        let holder_uid = file.metadata()?.gid();
        return match std::fs::read_to_string(format!("/proc/{pid}/status")) {
            Ok(status) if is_holder(&status, holder_uid) => Ok(Some(Holder { pid, pidfd })),
            Ok(_) => Err(io::Error::other(format!("the holder's lock is held by process {pid}, which is no holder"))),
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => continue,
            Err(e) => Err(e),
        };
    }
}

fn owner(file: &File) -> io::Result<Option<i32>> {
    let mut lock = lock();
    fcntl(file, FcntlArg::F_GETLK(&mut lock))?;
    Ok((lock.l_type != libc::F_UNLCK as libc::c_short).then_some(lock.l_pid))
}

/// Whether `/proc/PID/status` tells of a process of `uid` that is 1 in a PID namespace of its own.
fn is_holder(status: &str, uid: u32) -> bool {
    let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
    let uids_agree = field("Uid:").is_some_and(|uids| uids.split_whitespace().all(|u| u == uid.to_string()));
    let pids: Vec<&str> = field("NSpid:").map(|pids| pids.split_whitespace().collect()).unwrap_or_default();
    uids_agree && pids.len() > 1 && pids.last() == Some(&"1")
}

/// Who holds a lock on which file of this machine, by device and inode.
pub type Locks = HashMap<(u32, u32, u64), i32>;

/// The locks of this machine, from one read of `/proc/locks`: how a user without rights tells
/// which environments are running.
///
/// # Errors
/// `/proc/locks` cannot be read.
pub fn locks() -> io::Result<Locks> {
    Ok(std::fs::read_to_string("/proc/locks")?.lines().filter_map(locked_file).collect())
}

/// `1: POSIX  ADVISORY  WRITE 1234 00:1b:567 0 EOF` as (major, minor, inode) and pid.
fn locked_file(line: &str) -> Option<((u32, u32, u64), i32)> {
    let mut words = line.split_whitespace();
    let kind = words.nth(1)?;
    let pid = words.nth(2)?.parse().ok()?;
    let mut id = words.next()?.split(':');
    if kind != "POSIX" {
        return None;
    }
    let major = u32::from_str_radix(id.next()?, 16).ok()?;
    let minor = u32::from_str_radix(id.next()?, 16).ok()?;
    Some(((major, minor, id.next()?.parse().ok()?), pid))
}

/// The pid of the holder of `name`, by [`locks`]; good for showing, not for acting on.
pub fn pid(name: &Name, locks: &Locks) -> Option<i32> {
    locker(|| lock_file(name), locks)
}

/// The pid of whoever is changing the environment `name`, by [`locks`].
pub fn changer(name: &Name, locks: &Locks) -> Option<i32> {
    locker(|| record::lock_file(name), locks)
}

fn locker(file: impl FnOnce() -> PathBuf, locks: &Locks) -> Option<i32> {
    if locks.is_empty() {
        return None;
    }
    let meta = std::fs::metadata(file()).ok()?;
    let device = meta.dev();
    locks.get(&(libc::major(device), libc::minor(device), meta.ino())).copied()
}

/// Takes the lock on `file` for this process: it is the holder from now on.
///
/// # Errors
/// EAGAIN: another process holds it.
pub fn take(file: &File) -> io::Result<()> {
    fcntl(file, FcntlArg::F_SETLK(&lock()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_told_from_another_process() {
        let status = "Name:\tx\nUid:\t991\t991\t991\t991\nNSpid:\t4321\t1\n";
        assert!(is_holder(status, 991));
        assert!(!is_holder(status, 0));
        assert!(!is_holder(&status.replace("\t1\n", "\t2\n"), 991));
        assert!(!is_holder(&status.replace("4321\t", ""), 991));
        assert!(!is_holder(&status.replacen("991", "0", 1), 991));
        assert!(!is_holder("", 991));
    }

    #[test]
    fn posix_locks_are_read() {
        assert_eq!(locked_file("1: POSIX  ADVISORY  WRITE 1234 00:1b:567 0 EOF"), Some(((0, 27, 567), 1234)));
        assert_eq!(locked_file("2: FLOCK  ADVISORY  WRITE 1234 00:1b:567 0 EOF"), None);
        assert_eq!(locked_file("2: -> POSIX"), None);
    }
}
