//! Makes the system calls that an attacker would make inside an environment, and says what the
//! kernel answered: `attempt WORD…` prints `WORD ANSWER` lines, where the answer is `ok`, the
//! name of the error, or that of the signal that ended the process. The tests copy it into a
//! project and run it there.
//!
//! `attempt keyring NAME COMMAND…` runs COMMAND with a session keyring called NAME.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::unix::process::CommandExt;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use libc::c_long;

/// An attempt: what its words on the command line are called, and the call.
type Attempt = (&'static str, fn() -> c_long);

/// A system call with arguments as wide as registers: the filter sees no less.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: made in a process of its own that ends with it; what pointers there are live.
        unsafe { libc::syscall($number as c_long $(, $argument as c_long)*) }
    };
}

const HERE: c_long = libc::AT_FDCWD as c_long;
/// Bits that the kernel drops from a 32-bit argument, and a filter must not be blinded by.
const HIGH: c_long = 0x5a5a_5a5a_0000_0000;
const OPEN_TREE_CLONE: c_long = 1;
const KEY_SPEC_PROCESS_KEYRING: c_long = -2;
const KEYCTL_JOIN_SESSION_KEYRING: c_long = 1;
const KEYCTL_GET_KEYRING_ID: c_long = 0;
const UFFD_USER_MODE_ONLY: c_long = 1;
const SYS_FCHMODAT2: c_long = 452;
/// linux/net.h; the libc crate has not the one, and calls the other deprecated.
const SOCK_DCCP: i32 = 6;
const SOCK_PACKET: i32 = 10;
const PERF_COUNT_SW_DUMMY: u64 = 9;

const ATTEMPTS: &[Attempt] = &[
    // namespaces
    ("unshare-user", || call!(libc::SYS_unshare, libc::CLONE_NEWUSER)),
    ("unshare-mount", || call!(libc::SYS_unshare, libc::CLONE_NEWNS)),
    ("unshare-net", || call!(libc::SYS_unshare, libc::CLONE_NEWNET)),
    ("unshare-pid", || call!(libc::SYS_unshare, libc::CLONE_NEWPID)),
    ("unshare-ipc", || call!(libc::SYS_unshare, libc::CLONE_NEWIPC)),
    ("unshare-uts", || call!(libc::SYS_unshare, libc::CLONE_NEWUTS)),
    ("unshare-cgroup", || call!(libc::SYS_unshare, libc::CLONE_NEWCGROUP)),
    ("clone-user", || call!(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0)),
    ("clone-plain", || call!(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)),
    ("clone3", || {
        let arguments = [0u64, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
        call!(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments))
    }),
    ("setns", || call!(libc::SYS_setns, open(c"/proc/self/ns/uts"), 0)),
    // mounts
    ("mount", || call!(libc::SYS_mount, c"none".as_ptr(), c"/tmp".as_ptr(), c"tmpfs".as_ptr(), 0, 0)),
    ("bind", || call!(libc::SYS_mount, c"/usr".as_ptr(), c"/tmp".as_ptr(), 0, libc::MS_BIND, 0)),
    ("umount", || call!(libc::SYS_umount2, c"/tmp".as_ptr(), libc::MNT_DETACH)),
    ("pivot_root", || call!(libc::SYS_pivot_root, c"/tmp".as_ptr(), c"/tmp".as_ptr())),
    ("chroot", || call!(libc::SYS_chroot, c"/tmp".as_ptr())),
    ("open_tree", || call!(libc::SYS_open_tree, HERE, c"/".as_ptr(), OPEN_TREE_CLONE)),
    ("move_mount", || call!(libc::SYS_move_mount, HERE, c"/usr".as_ptr(), HERE, c"/tmp".as_ptr(), 0)),
    ("fsopen", || call!(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0)),
    ("fspick", || call!(libc::SYS_fspick, HERE, c"/tmp".as_ptr(), 0)),
    ("mount_setattr", || {
        let nothing = [0u64; 4];
        call!(libc::SYS_mount_setattr, HERE, c"/tmp".as_ptr(), 0, &raw const nothing, size_of_val(&nothing))
    }),
    // what has no business inside
    ("openat2", || {
        let how = [libc::O_RDONLY as u64, 0, 0];
        call!(libc::SYS_openat2, HERE, c"/".as_ptr(), &raw const how, size_of_val(&how))
    }),
    ("io_uring_setup", || {
        let parameters = [0u64; 15];
        call!(libc::SYS_io_uring_setup, 1, &raw const parameters)
    }),
    ("io_uring_enter", || call!(libc::SYS_io_uring_enter, -1, 0, 0, 0, 0, 0)),
    ("io_uring_register", || call!(libc::SYS_io_uring_register, -1, 0, 0, 0)),
    ("bpf", || {
        // an array map
        let attributes = [2u32, 4, 4, 1, 0, 0, 0, 0];
        call!(libc::SYS_bpf, 0, &raw const attributes, size_of_val(&attributes))
    }),
    ("perf_event_open", || {
        // a counter of nothing, of this process alone, without the kernel: type 1, exclude_kernel and _hv
        let mut attributes = [0u64; 16];
        attributes[0] = 1 | (size_of_val(&attributes) as u64) << 32;
        attributes[1] = PERF_COUNT_SW_DUMMY;
        attributes[5] = 0b110_0001;
        call!(libc::SYS_perf_event_open, &raw const attributes, 0, -1, -1, 0)
    }),
    ("file-capability", || {
        // VFS_CAP_REVISION_2, effective: CAP_SETUID and CAP_SETGID
        let capability = [0x0200_0001u32, 0xc0, 0, 0, 0];
        let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_CLOEXEC;
        call!(libc::SYS_openat, libc::AT_FDCWD, c"capable".as_ptr(), flags, 0o755);
        let name = c"security.capability".as_ptr();
        call!(libc::SYS_setxattr, c"capable".as_ptr(), name, &raw const capability, size_of_val(&capability), 0)
    }),
    ("userfaultfd", || call!(libc::SYS_userfaultfd, UFFD_USER_MODE_ONLY)),
    ("keyctl", || call!(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 1)),
    ("add_key", || {
        let name = c"lbx-test".as_ptr();
        call!(libc::SYS_add_key, c"user".as_ptr(), name, name, 1, KEY_SPEC_PROCESS_KEYRING)
    }),
    ("request_key", || call!(libc::SYS_request_key, c"user".as_ptr(), c"lbx-test".as_ptr(), 0, 0)),
    // the terminal
    ("tiocsti", || call!(libc::SYS_ioctl, 0, libc::TIOCSTI, c"x".as_ptr())),
    ("tiocsti-high", || call!(libc::SYS_ioctl, 0, HIGH | libc::TIOCSTI as c_long, c"x".as_ptr())),
    ("tioclinux", || call!(libc::SYS_ioctl, 0, libc::TIOCLINUX, c"\x0c".as_ptr())),
    ("tioclinux-high", || call!(libc::SYS_ioctl, 0, HIGH | libc::TIOCLINUX as c_long, c"\x0c".as_ptr())),
    // set-id modes
    ("chmod-setuid", || chmod(0o4755)),
    ("chmod-setgid", || chmod(0o2755)),
    ("chmod-setgid-noexec", || chmod(0o2644)),
    ("chmod-setuid-high", || chmod(HIGH | 0o4755)),
    ("chmod-setuid-wide", || chmod(0x10000 | 0o4755)),
    ("chmod-sticky", || chmod(0o1755)),
    ("fchmod-setuid", || call!(libc::SYS_fchmod, open(file()), 0o4755)),
    ("fchmodat-setuid", || call!(libc::SYS_fchmodat, HERE, file().as_ptr(), 0o4755)),
    ("fchmodat2-setuid", || call!(SYS_FCHMODAT2, HERE, file().as_ptr(), 0o4755, 0)),
    ("openat-setuid", || {
        call!(libc::SYS_openat, HERE, c"attempt.openat".as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o4755)
    }),
    ("openat-setgid", || {
        call!(libc::SYS_openat, HERE, c"attempt.openat".as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o2755)
    }),
    ("tmpfile-setuid", || call!(libc::SYS_openat, HERE, c".".as_ptr(), libc::O_TMPFILE | libc::O_WRONLY, 0o4755)),
    ("mknodat-setuid", || call!(libc::SYS_mknodat, HERE, c"attempt.mknodat".as_ptr(), libc::S_IFREG | 0o4755, 0)),
    ("mkdirat-setgid", || call!(libc::SYS_mkdirat, HERE, c"attempt.mkdirat".as_ptr(), 0o2755)),
    ("mknodat-device", || {
        call!(libc::SYS_mknodat, HERE, c"attempt.null".as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 3))
    }),
    ("mknodat-fifo", || call!(libc::SYS_mknodat, HERE, c"attempt.fifo".as_ptr(), libc::S_IFIFO | 0o600, 0)),
    ("file-capability", || {
        // version 2, cap_setuid effective and permitted
        let value: [u32; 5] = [0x0200_0001, 1 << 7, 0, 0, 0];
        let name = c"security.capability".as_ptr();
        call!(libc::SYS_setxattr, file().as_ptr(), name, &raw const value, size_of_val(&value), 0)
    }),
    // sockets
    ("socket-unix", || socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)),
    ("socket-inet", || socket(libc::AF_INET, libc::SOCK_STREAM, 0)),
    ("socket-inet6", || socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)),
    ("socket-netlink-route", || socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)),
    ("socket-netlink-generic", || socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_GENERIC)),
    ("socket-netlink-uevent", || socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT)),
    ("socket-netlink-audit", || socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT)),
    ("socket-packet", || socket(libc::AF_PACKET, libc::SOCK_RAW, 0)),
    ("socket-inet-packet", || socket(libc::AF_INET, SOCK_PACKET, 0)),
    ("socket-inet-packet-high", || call!(libc::SYS_socket, libc::AF_INET, HIGH | c_long::from(SOCK_PACKET), 0)),
    ("socket-inet-raw", || socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)),
    ("socket-udp", || socket(libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP)),
    ("socket-udplite", || socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)),
    ("socket-udplite-high", || call!(libc::SYS_socket, libc::AF_INET6, libc::SOCK_DGRAM, HIGH | 136)),
    ("socket-sctp", || socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP)),
    ("socket-dccp", || socket(libc::AF_INET6, SOCK_DCCP, libc::IPPROTO_DCCP)),
    ("socket-raw", || socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
    ("socket-vsock", || socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    ("socket-vsock-high", || call!(libc::SYS_socket, HIGH | libc::AF_VSOCK as c_long, libc::SOCK_STREAM, 0)),
    ("socket-alg", || socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
    ("socketpair-unix", || {
        let pair = [0i32; 2];
        call!(libc::SYS_socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, &raw const pair)
    }),
    ("socket-peer-process", || {
        // SO_PEERPIDFD
        let (pair, pidfd, length) = ([0i32; 2], 0i32, 4u32);
        call!(libc::SYS_socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, &raw const pair);
        call!(libc::SYS_getsockopt, pair[0], libc::SOL_SOCKET, 77, &raw const pidfd, &raw const length)
    }),
    // other processes, and the first one
    ("kill-1", || call!(libc::SYS_kill, 1, libc::SIGKILL)),
    ("tgkill-1", || call!(libc::SYS_tgkill, 1, 1, libc::SIGKILL)),
    ("pidfd-kill-1", || call!(libc::SYS_pidfd_send_signal, first(), libc::SIGKILL, 0, 0)),
    ("pidfd-getfd-1", || call!(libc::SYS_pidfd_getfd, first(), 0, 0)),
    ("ptrace-1", || call!(libc::SYS_ptrace, libc::PTRACE_SEIZE, 1, 0, 0)),
    ("read-memory-1", || {
        let byte = 0u8;
        let piece = [(&raw const byte) as u64, 1];
        call!(libc::SYS_process_vm_readv, 1, &raw const piece, 1, &raw const piece, 1, 0)
    }),
    ("prlimit-1", || {
        let limit = [0u64; 2];
        call!(libc::SYS_prlimit64, 1, libc::RLIMIT_NPROC, &raw const limit, 0)
    }),
    ("setns-1", || call!(libc::SYS_setns, first(), libc::CLONE_NEWUTS)),
    // rights of root
    ("setuid-0", || call!(libc::SYS_setresuid, 0, 0, 0)),
    ("setgid-0", || call!(libc::SYS_setresgid, 0, 0, 0)),
    ("setgroups", || call!(libc::SYS_setgroups, 0, 0)),
    ("sethostname", || call!(libc::SYS_sethostname, c"x".as_ptr(), 1)),
    ("init_module", || call!(libc::SYS_init_module, c"".as_ptr(), 0, c"".as_ptr())),
    ("open_by_handle_at", || {
        let handle = [8u32, 1, 0, 0];
        call!(libc::SYS_open_by_handle_at, open(c"/tmp"), &raw const handle, libc::O_RDONLY)
    }),
    ("syslog", || {
        const SYSLOG_ACTION_CLEAR: c_long = 5;
        call!(libc::SYS_syslog, SYSLOG_ACTION_CLEAR, 0, 0)
    }),
    ("raise-capabilities", || {
        const VERSION_3: u32 = 0x2008_0522;
        let header = [VERSION_3, 0];
        let all = [u32::MAX; 6];
        call!(libc::SYS_capset, &raw const header, &raw const all)
    }),
    // foreign ABIs
    #[cfg(target_arch = "x86_64")]
    ("x32-getpid", || call!(0x4000_0000 | libc::SYS_getpid)),
    #[cfg(target_arch = "x86_64")]
    ("i386-getpid", || i386(20, 0)),
    #[cfg(target_arch = "x86_64")]
    ("i386-unshare", || i386(310, libc::CLONE_NEWUSER)),
    #[cfg(target_arch = "x86_64")]
    ("open-setuid", || call!(libc::SYS_open, c"attempt.open".as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o4755)),
    #[cfg(target_arch = "x86_64")]
    ("creat-setuid", || call!(libc::SYS_creat, c"attempt.creat".as_ptr(), 0o4755)),
    #[cfg(target_arch = "x86_64")]
    ("mknod-setuid", || call!(libc::SYS_mknod, c"attempt.mknod".as_ptr(), libc::S_IFREG | 0o4755, 0)),
    #[cfg(target_arch = "x86_64")]
    ("mkdir-setgid", || call!(libc::SYS_mkdir, c"attempt.mkdir".as_ptr(), 0o2755)),
    #[cfg(target_arch = "x86_64")]
    ("fork", || call!(libc::SYS_fork)),
];

/// The first process, as a descriptor.
fn first() -> c_long {
    call!(libc::SYS_pidfd_open, 1, 0)
}

/// A file of this user's own.
fn file() -> &'static CStr {
    let name = c"attempt.file";
    call!(libc::SYS_openat, HERE, name.as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o644);
    name
}

fn chmod(mode: c_long) -> c_long {
    call!(libc::SYS_fchmodat, HERE, file().as_ptr(), mode)
}

fn open(path: &CStr) -> c_long {
    call!(libc::SYS_openat, HERE, path.as_ptr(), libc::O_RDONLY)
}

fn socket(family: i32, kind: i32, protocol: i32) -> c_long {
    call!(libc::SYS_socket, family, kind, protocol)
}

/// A system call by its 32-bit number, through the door of 32-bit programs.
#[cfg(target_arch = "x86_64")]
fn i386(number: c_long, argument: i32) -> c_long {
    let result: c_long;
    // SAFETY: a call without pointers; rbx, which the compiler keeps to itself, is given back.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {argument}", "int 0x80", "xchg rbx, {argument}",
            argument = inout(reg) c_long::from(argument) => _, inlateout("rax") number => result,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    match result as i32 {
        error @ -4095..=-1 => {
            Errno::from_raw(-error).set();
            -1
        }
        _ => result,
    }
}

/// What the kernel answers to `attempt`, made in a process of its own.
fn answer(attempt: fn() -> c_long) -> String {
    // SAFETY: this program has one thread.
    match unsafe { fork() }.expect("there is room for a process") {
        ForkResult::Child => {
            let errno = match attempt() {
                -1 => Errno::last_raw(),
                _ => 0,
            };
            // SAFETY: no buffer of this process is to be written.
            unsafe { libc::_exit(errno) }
        }
        ForkResult::Parent { child } => match waitpid(child, None).expect("a child can be waited for") {
            WaitStatus::Exited(_, 0) => "ok".to_owned(),
            WaitStatus::Exited(_, errno) => format!("{:?}", Errno::from_raw(errno)),
            WaitStatus::Signaled(_, signal, _) => Signal::as_str(signal).to_owned(),
            other => panic!("a child that did not end: {other:?}"),
        },
    }
}

fn main() {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "keyring") {
        let name = CString::new(words[1].clone()).expect("a name without NUL");
        assert!(call!(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) > 0, "keyctl failed");
        panic!("{}", std::process::Command::new(&words[2]).args(&words[3..]).exec());
    }
    if words.is_empty() {
        words = ATTEMPTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    }
    for word in words {
        let found = ATTEMPTS.iter().find(|(name, _)| *name == word);
        let (_, attempt) = found.unwrap_or_else(|| panic!("no such attempt: {word}"));
        println!("{word} {}", answer(*attempt));
    }
}
