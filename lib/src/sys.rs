//! The system calls that no crate wraps, each with its source; the one module with `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::unistd::Pid;

/// Which side of a [`clone`] this is.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child,
    /// The caller: the new process's pid as the caller sees it, and a descriptor of it.
    Parent(Pid, OwnedFd),
}

/// `clone3(2)` without a stack, as fork(2) does: into new namespaces (`CLONE_NEW*` of `flags`) and,
/// where `cgroup` is given, straight into that cgroup (`CLONE_INTO_CGROUP`, Linux 5.7), which
/// costs nothing where a write to `cgroup.procs` costs milliseconds.
///
/// The calling process must have one thread, as these tools have: the child has only that one.
///
/// # Errors
/// Those of clone3(2): ENOSPC from a limit of namespaces, EAGAIN from one of processes.
pub fn clone(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    // the libc crate's constant does not hold its 34 bits
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all fields of clone_args are integers, for which zero means "not given".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (flags | libc::CLONE_PIDFD) as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = &cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and without a stack this behaves as fork(2); args lives across the
    // call, and pidfd is written by the kernel in the parent alone.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel has just made this descriptor for the caller.
        1.. => Ok(Cloned::Parent(Pid::from_raw(pid as i32), unsafe { OwnedFd::from_raw_fd(pidfd) })),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `fork(2)`: `None` in the child. The calling process must have one thread.
///
/// # Errors
/// EAGAIN at a limit of processes.
pub fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: with one thread the child may do whatever the parent may.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        pid @ 1.. => Ok(Some(Pid::from_raw(pid))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets variable `name` of this process, which must have one thread.
pub fn set_variable(name: &std::ffi::OsStr, value: &std::ffi::OsStr) {
    // SAFETY: nobody reads the environment meanwhile.
    unsafe { std::env::set_var(name, value) }
}

/// When a process runs (sched(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// As all do (`SCHED_OTHER`).
    Ordinary,
    /// After others that wake up (`SCHED_BATCH`).
    Batch,
    /// When no other wants to (`SCHED_IDLE`).
    Idle,
}

/// Has process `pid`, or this one, run so: `sched_setscheduler(2)`, for which musl's function does nothing.
///
/// # Errors
/// EPERM where a filter refuses it; ESRCH when the process has gone.
pub fn schedule(pid: Option<Pid>, schedule: Schedule) -> io::Result<()> {
    let policy = match schedule {
        Schedule::Ordinary => libc::SCHED_OTHER,
        Schedule::Batch => libc::SCHED_BATCH,
        Schedule::Idle => libc::SCHED_IDLE,
    };
    let pid = pid.map_or(0, Pid::as_raw);
    // struct sched_param of the kernel: a priority, which is 0 for all of them
    let priority: libc::c_int = 0;
    // SAFETY: the kernel reads the one field, which lives across the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setscheduler, pid, policy, &raw const priority) })
}

/// Ends the process at once, without what `exit(3)` runs: for a child of [`clone`], whose
/// buffers and handlers are its parent's.
pub fn exit_now(status: u8) -> ! {
    // SAFETY: _exit(2) has no precondition.
    unsafe { libc::_exit(i32::from(status)) }
}

/// Marks every descriptor from `first` on to be closed by exec: `close_range(2)`, Linux 5.11.
///
/// # Errors
/// EINVAL before Linux 5.11.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: marks descriptors, frees none.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
}

/// Closes every descriptor from `first` to `last`: `close_range(2)`.
///
/// # Errors
/// None on a kernel that has the call.
pub fn close_between(first: u32, last: u32) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: only for a process that is about to wait for ever or to exec, and uses no descriptor
    // of that range any more.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
}

/// Has the kernel begin to write what of `file` is not on the disk, while more is done: `sync_file_range(2)` with
/// `SYNC_FILE_RANGE_WRITE`. It promises nothing: what waits for the disk is fsync(2), which then finds less to
/// do, and tells of what failed here.
pub fn start_writing(file: BorrowedFd<'_>) {
    // SAFETY: changes no memory.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// What [`mount_setattr`] changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct MountChange<'fd> {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// The user namespace of an id-mapped mount.
    pub userns: Option<BorrowedFd<'fd>>,
    /// Takes the mount out of its peer group: what is mounted below it shows nowhere else.
    pub private: bool,
    /// With all mounts below.
    pub recursive: bool,
}

/// `mount_setattr(2)` on the mount that `mount` is open on; Linux 5.12.
///
/// # Errors
/// EINVAL where the file system carries no id mapping.
pub fn mount_setattr(mount: BorrowedFd<'_>, change: MountChange<'_>) -> io::Result<()> {
    // SAFETY: all fields of mount_attr are integers.
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = change.set;
    attr.attr_clr = change.clear;
    if change.private {
        attr.propagation = libc::MS_PRIVATE;
    }
    if let Some(userns) = &change.userns {
        attr.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attr.userns_fd = userns.as_raw_fd() as u64;
    }
    let flags = libc::AT_EMPTY_PATH | if change.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, attr lives across the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })
}

/// Whether this process, with its effective IDs, may do to what `fd` is open on all that `wanted`
/// (`R_OK`, `W_OK`, `X_OK`) says: `faccessat2(2)`, Linux 5.8, with an empty path, which libc's
/// function of that name refuses.
///
/// # Errors
/// EACCES and its like: it may not.
pub fn require_access(fd: BorrowedFd<'_>, wanted: i32) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_EACCESS;
    // SAFETY: the path is a C string, nothing is written.
    check(unsafe { libc::syscall(libc::SYS_faccessat2, fd.as_raw_fd(), c"".as_ptr(), wanted, flags) })
}

/// Gives the process a new, empty session keyring: `keyctl(2)` with `KEYCTL_JOIN_SESSION_KEYRING`.
/// A kernel without keyrings has nothing to hide.
///
/// # Errors
/// EDQUOT at the quota of keys.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    match check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0) }) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        result => result,
    }
}

/// Installs `program` as a seccomp filter of this thread: `seccomp(2)`. It needs
/// `no_new_privs`, or root.
///
/// # Errors
/// EINVAL for a program that the kernel cannot verify.
pub fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions at `filter`, and writes none.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const fprog) })
}

/// What a signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// What the kernel does by default.
    Default,
    /// Nothing.
    Ignore,
}

/// Sets what `signal` does: `sigaction(2)`, without a handler.
///
/// # Errors
/// EINVAL for SIGKILL and SIGSTOP.
pub fn dispose(signal: nix::sys::signal::Signal, disposition: Disposition) -> io::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
    let handler = match disposition {
        Disposition::Default => SigHandler::SigDfl,
        Disposition::Ignore => SigHandler::SigIgn,
    };
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler of ours runs.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// The descriptor `number` as a borrowed one, for calls that take no number.
///
/// It must be open for as long as the result is used.
pub fn borrow<'fd>(number: i32) -> BorrowedFd<'fd> {
    // SAFETY: a number that is not open makes calls fail with EBADF; none of ours closes it.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// The descriptor `number` as a file that closes it. Nothing else in the process may own it.
pub fn adopt(number: i32) -> std::fs::File {
    // SAFETY: the caller has put it at this number itself.
    unsafe { std::fs::File::from_raw_fd(number) }
}

/// Makes `to` a copy of descriptor `from`: `dup2(2)`. It stays open over exec.
///
/// # Errors
/// EBADF when `from` is not open.
pub fn duplicate(from: i32, to: i32) -> io::Result<()> {
    // SAFETY: changes a descriptor that only this process's code knows by number.
    check(libc::c_long::from(unsafe { libc::dup2(from, to) }))
}

/// Takes every capability out of the bounding set: `prctl(2)` with `PR_CAPBSET_DROP`, up to the
/// last that the kernel has. It needs privilege, and so comes before the uid changes.
///
/// # Errors
/// EPERM without CAP_SETPCAP.
pub fn drop_bounding_set() -> io::Result<()> {
    if cfg!(feature = "broken-capabilities") {
        return keep_capabilities();
    }
    for capability in 0..=63 {
        // SAFETY: changes a set of this thread alone.
        match check(libc::c_long::from(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

/// Keeps what the process may over a change of uid and over exec: what no build for use does.
fn keep_capabilities() -> io::Result<()> {
    use rustix::thread::{
        CapabilitiesSecureBits, CapabilitySets, capabilities, configure_capability_in_ambient_set, set_capabilities,
        set_capabilities_secure_bits,
    };
    let sets = capabilities(None)?;
    set_capabilities(None, CapabilitySets { inheritable: sets.permitted, ..sets })?;
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    sets.permitted.iter().try_for_each(|capability| Ok(configure_capability_in_ambient_set(capability, true)?))
}

/// Empties the ambient, permitted, effective and inheritable sets: `capset(2)`.
///
/// # Errors
/// None on Linux.
fn drop_capabilities() -> io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities};
    let none = CapabilitySet::empty();
    clear_ambient_capability_set()?;
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// Becomes the user `uid`, `gid` for good: no further group, no capability, no way to gain one, and
/// nobody of that user may look into the process until it executes something. The order is
/// forced: each step needs the privilege that the next gives up.
///
/// # Errors
/// EPERM without privilege; the process must then end.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    use rustix::process::Gid;
    become_member(uid, gid, if cfg!(feature = "broken-groups") { &[Gid::ROOT] } else { &[] })
}

/// As [`become_user`], with further `groups`.
///
/// # Errors
/// EPERM without privilege; the process must then end.
pub fn become_member(uid: u32, gid: u32, groups: &[rustix::process::Gid]) -> io::Result<()> {
    use rustix::process::{DumpableBehavior, Gid, Uid, set_dumpable_behavior};
    use rustix::thread::{
        set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    };
    set_thread_groups(groups)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_res_gid(gid, gid, gid)?;
    // a change of uid makes the process as dumpable as fs.suid_dumpable says: until that is mended, nobody
    // looks into one that may have a capability which they have not (capabilities(7), ptrace(2))
    set_keep_capabilities(true)?;
    set_thread_res_uid(uid, uid, uid)?;
    if cfg!(feature = "broken-window") {
        // as with fs.suid_dumpable=1, and slow
        set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    set_dumpable_behavior(match cfg!(feature = "broken-dumpable") {
        true => DumpableBehavior::Dumpable,
        false => DumpableBehavior::NotDumpable,
    })?;
    if !cfg!(feature = "broken-capabilities") {
        drop_capabilities()?;
    }
    if !cfg!(feature = "broken-no-new-privs") {
        set_no_new_privs(true)?;
    }
    Ok(())
}

/// Raises `lo` in this network namespace: `netdevice(7)`, SIOCSIFFLAGS.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over the namespace.
pub fn raise_loopback() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: zero is a valid ifreq; its name is ended by NUL.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads the request, which lives across the call.
    check(libc::c_long::from(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }))
}

/// Lets the directory `dir` be changed where it is a read-only subvolume (btrfs(5)), which anybody may
/// make of what is theirs, and nobody may change: `BTRFS_IOC_SUBVOL_SETFLAGS`.
///
/// # Errors
/// EPERM without privilege.
pub fn open_subvolume(dir: BorrowedFd<'_>) -> io::Result<()> {
    /// The inode of every subvolume's top.
    const TOP: u64 = 256;
    const SUBVOL_SETFLAGS: u32 = 0x4008_941a;
    // the two sides have one type or another, by libc and architecture
    let is_btrfs = |kind| u64::try_from(kind).ok() == u64::try_from(libc::BTRFS_SUPER_MAGIC).ok();
    if rustix::fs::fstat(dir)?.st_ino != TOP || !is_btrfs(rustix::fs::fstatfs(dir)?.f_type) {
        return Ok(());
    }
    let flags = 0u64;
    // SAFETY: the kernel reads the flags, which live across the call.
    check(libc::c_long::from(unsafe { libc::ioctl(dir.as_raw_fd(), SUBVOL_SETFLAGS as _, &raw const flags) }))
}

/// The right to look at files as somebody else does, for this thread alone: `setfsuid(2)`.
///
/// The thread's groups become theirs for good; root, who it is between the looks, needs none.
#[derive(Clone, Copy, Debug)]
pub struct Looks {
    /// `None`: they are who this thread is.
    uid: Option<nix::unistd::Uid>,
}

impl Looks {
    /// As the user `uid`, `gid`, a member of `groups`.
    ///
    /// # Errors
    /// EPERM without privilege.
    pub fn of(uid: u32, gid: u32, groups: &[rustix::process::Gid]) -> io::Result<Looks> {
        use nix::unistd::{Gid, Uid, setfsgid};
        if rustix::process::geteuid().as_raw() == uid {
            return Ok(Looks { uid: None });
        }
        rustix::thread::set_thread_groups(groups)?;
        let gid = Gid::from_raw(gid);
        setfsgid(gid);
        // it tells of a failure by having changed nothing
        if setfsgid(Gid::from_raw(u32::MAX)) != gid {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        Ok(Looks { uid: Some(Uid::from_raw(uid)) })
    }

    /// Runs `look` as that user: what they may not see, it does not see either. Root's rights over
    /// files are gone meanwhile (capabilities(7), "Effect of user ID changes").
    ///
    /// # Errors
    /// The thread could not become that user, or itself again; no other of its looks must follow.
    pub fn take<T>(&self, look: impl FnOnce() -> T) -> io::Result<T> {
        use nix::unistd::{Uid, setfsuid};
        let Some(uid) = self.uid else { return Ok(look()) };
        let become_one = |uid: Uid| {
            let before = setfsuid(uid);
            match setfsuid(Uid::from_raw(u32::MAX)) == uid {
                true => Ok(before),
                false => Err(io::Error::from_raw_os_error(libc::EPERM)),
            }
        };
        let own = become_one(uid)?;
        let seen = look();
        become_one(own)?;
        Ok(seen)
    }
}

/// What a file system knows a file by, whatever its name: `name_to_handle_at(2)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    /// The file system's own kind of handle.
    pub kind: i32,
    /// The handle.
    pub bytes: Vec<u8>,
}

/// The handle of what `name` is in `dir`, of a symbolic link itself; of `dir` for an empty name.
///
/// # Errors
/// EOPNOTSUPP where the file system has none.
pub fn handle(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<Handle> {
    // struct file_handle, with as much room behind it as any file system needs (MAX_HANDLE_SZ)
    #[repr(C)]
    struct Buffer {
        size: u32,
        kind: i32,
        bytes: [u8; 128],
    }
    let mut buffer = Buffer { size: 128, kind: 0, bytes: [0; 128] };
    let mut mount: libc::c_int = 0;
    let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    // SAFETY: the name is a C string; the kernel writes the mount's number and at most `size` bytes.
    check(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_raw_fd(),
            name.as_ptr(),
            &raw mut buffer,
            &raw mut mount,
            flags,
        )
    })?;
    let size = usize::try_from(buffer.size).unwrap_or(0).min(buffer.bytes.len());
    Ok(Handle { kind: buffer.kind, bytes: buffer.bytes[..size].to_vec() })
}

fn check(result: libc::c_long) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_is_a_child() {
        match fork().unwrap() {
            None => exit_now(7),
            Some(pid) => {
                let status = nix::sys::wait::waitpid(pid, None).unwrap();
                assert_eq!(status, nix::sys::wait::WaitStatus::Exited(pid, 7));
            }
        }
    }

    #[test]
    fn a_look_is_of_one_user_and_ends() {
        let own = nix::unistd::geteuid();
        assert_eq!(Looks::of(own.as_raw(), 0, &[]).unwrap().take(|| 7).unwrap(), 7);
        if !own.is_root() {
            assert!(Looks::of(own.as_raw() + 1, 1, &[]).is_err());
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        // a thread of its own: it keeps the groups
        let seen = std::thread::spawn(move || {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
            let other = Looks::of(65534, 65534, &[]).unwrap();
            let read = || std::fs::read(&file).is_ok();
            let open = other.take(read).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            (open, other.take(read).unwrap(), read())
        });
        assert_eq!(seen.join().unwrap(), (true, false, true));
    }

    #[test]
    fn a_file_is_known_by_its_handle() {
        use std::os::fd::AsFd;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "").unwrap();
        std::fs::write(dir.path().join("b"), "").unwrap();
        let open = std::fs::File::open(dir.path()).unwrap();
        let Ok(a) = handle(open.as_fd(), c"a") else { return };
        assert_ne!(a, handle(open.as_fd(), c"b").unwrap());
        assert_ne!(a, handle(open.as_fd(), c"").unwrap());
        std::fs::rename(dir.path().join("a"), dir.path().join("c")).unwrap();
        assert_eq!(a, handle(open.as_fd(), c"c").unwrap());
    }

    #[test]
    fn a_filter_that_the_kernel_cannot_verify_is_refused() {
        assert!(install_filter(&[]).is_err());
    }
}
