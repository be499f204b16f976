//! The system calls that no environment needs and that have led out of one, as a BPF program
//! (`seccomp(2)`). It is compiled into instructions here because several answers are wanted, and
//! because the x32 ABI shares its architecture's number with x86-64.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter,
};

const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = refusal(libc::EPERM);
const ENOSYS: u32 = refusal(libc::ENOSYS);
const EOPNOTSUPP: u32 = refusal(libc::EOPNOTSUPP);
const EAFNOSUPPORT: u32 = refusal(libc::EAFNOSUPPORT);
const EPROTONOSUPPORT: u32 = refusal(libc::EPROTONOSUPPORT);
const ENOPROTOOPT: u32 = refusal(libc::ENOPROTOOPT);
const EINVAL: u32 = refusal(libc::EINVAL);

const fn refusal(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

/// `AUDIT_ARCH_*` of this build.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;

/// Numbers from here on are the x32 ABI's.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

// From Linux's unistd tables; the same on every architecture since 5.0 (syscalls(2)).
const IO_URING_SETUP: i64 = 425;
const IO_URING_ENTER: i64 = 426;
const IO_URING_REGISTER: i64 = 427;
const OPEN_TREE: i64 = 428;
const MOVE_MOUNT: i64 = 429;
const FSOPEN: i64 = 430;
const FSCONFIG: i64 = 431;
const FSMOUNT: i64 = 432;
const FSPICK: i64 = 433;
const CLONE3: i64 = 435;
const OPENAT2: i64 = 437;
const MOUNT_SETATTR: i64 = 442;
const QUOTACTL_FD: i64 = 443;
const FCHMODAT2: i64 = 452;
const SETXATTRAT: i64 = 463;
const OPEN_TREE_ATTR: i64 = 467;
/// The newest call that was looked at, file_setattr of Linux 6.17.
const NEWEST: i64 = 469;

#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: i64 = libc::SYS_kexec_file_load;
/// From Linux's unistd table: the libc crate has none with musl.
#[cfg(target_arch = "aarch64")]
const KEXEC_FILE_LOAD: i64 = 294;

/// Not even with `--nest`.
const NEVER: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    KEXEC_FILE_LOAD,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_quotactl,
    QUOTACTL_FD,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
];

/// What makes namespaces and mounts: with `--nest` a user namespace may.
const NESTING: &[i64] = &[
    FSCONFIG,
    FSMOUNT,
    FSOPEN,
    FSPICK,
    MOUNT_SETATTR,
    MOVE_MOUNT,
    OPEN_TREE,
    OPEN_TREE_ATTR,
    libc::SYS_chroot,
    libc::SYS_mount,
    libc::SYS_pivot_root,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_umount2,
];

/// Root of a user namespace may give a file capabilities that count in it; through an id-mapped mount
/// of root's files they would count on the machine. So with `--nest` files have no attributes.
const ATTRIBUTES: &[i64] = &[libc::SYS_fsetxattr, libc::SYS_lsetxattr, libc::SYS_setxattr, SETXATTRAT];

/// Programs do without, and know how: clone3's flags lie in memory, where no filter sees them;
/// openat2 makes files with a mode there; io_uring does it all without system calls.
const ABSENT: &[i64] = &[CLONE3, OPENAT2, IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER];

/// `CLONE_NEWNS` and all others, as far as clone(2) takes them.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;
// asm-generic/ioctls.h; the libc crate has them in one type or another.
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541C;
/// For unshare(2) alone: clone(2) has a signal's number in these bits.
const NEWTIME: u32 = 0x80;
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;
/// The bit that both kinds of devices have, and nothing else that mknod(2) makes.
const DEVICE: u32 = libc::S_IFCHR & libc::S_IFBLK;
/// `O_CREAT` or `__O_TMPFILE`: only then does open(2) have a mode.
const MAKES_FILE: u32 = libc::O_CREAT as u32 | (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
/// Options of Linux 6.5 that give a descriptor of the process at a socket's other end: it may be outside,
/// and of this uid, and then its own descriptors and namespaces can be had by that.
const PIDFDS: [u32; 2] = [76, 77];
/// The protocols of IP that programs use; 0 is the usual one of a type. UDP-Lite, DCCP, SCTP and others
/// would have the kernel load a module that hardly anybody has tried.
const PROTOCOLS: [i32; 6] = [
    libc::IPPROTO_IP,
    libc::IPPROTO_ICMP,
    libc::IPPROTO_TCP,
    libc::IPPROTO_UDP,
    libc::IPPROTO_ICMPV6,
    libc::IPPROTO_MPTCP,
];
/// A socket of AF_INET and this type is one of AF_PACKET.
const SOCK_PACKET: u32 = 10;
/// What of a socket's type is not a flag.
const SOCK_TYPE_MASK: u32 = 0xf;

/// Calls whose argument of that index is a mode.
const MODES: &[(i64, u32)] = &[
    (FCHMODAT2, 2),
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (libc::SYS_mkdirat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, 1),
];

/// As [`MODES`], where the mode says what is made as well.
const NODES: &[(i64, u32)] = &[
    (libc::SYS_mknodat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1),
];

/// Calls with flags at one index and a mode at the next.
const OPENS: &[(i64, u32)] = &[
    (libc::SYS_openat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1),
];

/// The filter of an environment, with or without namespaces of its own making.
pub(super) fn program(nest: bool) -> Vec<sock_filter> {
    let mut code = Code(Vec::with_capacity(512));
    code.load(offset::ARCH);
    code.unless(BPF_JEQ, ARCH, KILL);
    code.load(offset::NR);
    #[cfg(target_arch = "x86_64")]
    code.when(BPF_JGE, X32, KILL);
    // what a later kernel brings is to be looked at first; programs know kernels that have it not
    code.when(BPF_JGE, NEWEST as u32 + 1, ENOSYS);
    code.0.extend(choice(&segments(rules(nest))).0);
    code.0
}

/// What becomes of all calls, by the first number of those that are treated alike.
fn segments(mut rules: Vec<(u32, Code)>) -> Vec<(u32, Code)> {
    rules.sort_by_key(|(nr, _)| *nr);
    let mut segments: Vec<(u32, Code)> = Vec::with_capacity(2 * rules.len() + 1);
    let mut next = 0;
    let mut add = |nr, code: Code| {
        if segments.last().is_none_or(|(_, last)| *last != code) {
            segments.push((nr, code));
        }
    };
    for (nr, rule) in rules {
        if next < nr {
            add(next, Code::answering(ALLOW));
        }
        add(nr, rule);
        next = nr + 1;
    }
    add(next, Code::answering(ALLOW));
    segments
}

/// What becomes of the calls that are not simply allowed, by their numbers.
fn rules(nest: bool) -> Vec<(u32, Code)> {
    let mut rules = Vec::with_capacity(96);
    let mut always = |calls: &[i64], answer| rules.extend(calls.iter().map(|nr| (*nr as u32, Code::answering(answer))));
    always(ABSENT, ENOSYS);
    always(NEVER, EPERM);
    if nest {
        always(ATTRIBUTES, EOPNOTSUPP);
    } else {
        always(NESTING, EPERM);
    }
    let mut call = |nr: i64, write: &dyn Fn(&mut Code)| {
        let mut code = Code(Vec::with_capacity(16));
        write(&mut code);
        code.answer(ALLOW);
        rules.push((nr as u32, code));
    };
    if !nest {
        for (nr, namespaces) in [(libc::SYS_clone, NAMESPACES), (libc::SYS_unshare, NAMESPACES | NEWTIME)] {
            call(nr, &|code| {
                code.load(offset::argument(0));
                code.when(BPF_JSET, namespaces, EPERM);
            });
        }
    }
    for (nr, mode) in MODES {
        call(*nr, &|code| {
            code.load(offset::argument(*mode));
            code.when(BPF_JSET, SET_ID, EPERM);
        });
    }
    // the kernel refuses devices but one, which is a whiteout: in the layers of an overlay it hides a name
    // of those below, and who makes layers is the tools
    for (nr, mode) in NODES {
        call(*nr, &|code| {
            code.load(offset::argument(*mode));
            code.when(BPF_JSET, SET_ID | DEVICE, EPERM);
        });
    }
    call(libc::SYS_renameat2, &|code| {
        code.load(offset::argument(4));
        // as of a file system that knows no such flag
        code.when(BPF_JSET, libc::RENAME_WHITEOUT, EINVAL);
    });
    for (nr, flags) in OPENS {
        call(*nr, &|code| {
            code.load(offset::argument(*flags));
            code.unless(BPF_JSET, MAKES_FILE, ALLOW);
            code.load(offset::argument(flags + 1));
            code.when(BPF_JSET, SET_ID, EPERM);
        });
    }
    call(libc::SYS_ioctl, &|code| {
        // the kernel takes 32 bits of it; so does the filter
        code.load(offset::argument(1));
        code.when(BPF_JEQ, TIOCSTI, EPERM);
        code.when(BPF_JEQ, TIOCLINUX, EPERM);
    });
    // one is set and the other is read; with the same rule, as neighbours, they are one
    for nr in [libc::SYS_setsockopt, libc::SYS_getsockopt] {
        call(nr, &|code| {
            code.load(offset::argument(1));
            code.unless(BPF_JEQ, libc::SOL_SOCKET as u32, ALLOW);
            code.load(offset::argument(2));
            for option in PIDFDS {
                code.when(BPF_JEQ, option, ENOPROTOOPT);
            }
        });
    }
    call(libc::SYS_socket, &|code| {
        code.load(offset::argument(0));
        code.when(BPF_JEQ, libc::AF_UNIX as u32, ALLOW);
        code.within(libc::AF_NETLINK as u32, |code| {
            code.load(offset::argument(2));
            code.unless(BPF_JEQ, libc::NETLINK_ROUTE as u32, EAFNOSUPPORT);
            code.answer(ALLOW);
        });
        code.unless_one_of(&[libc::AF_INET, libc::AF_INET6], EAFNOSUPPORT);
        code.load(offset::argument(1));
        code.push(BPF_ALU | BPF_AND | BPF_K, 0, 0, SOCK_TYPE_MASK);
        code.when(BPF_JEQ, SOCK_PACKET, EAFNOSUPPORT);
        code.load(offset::argument(2));
        code.unless_one_of(&PROTOCOLS, EPROTONOSUPPORT);
    });
    // no other family that is allowed has pairs
    call(libc::SYS_socketpair, &|code| {
        code.load(offset::argument(0));
        code.unless(BPF_JEQ, libc::AF_UNIX as u32, EAFNOSUPPORT);
    });
    rules
}

/// Finds the call's segment by halves: the kernel runs the program for every number there is when it is
/// installed, and compiles it; and what it is for many calls later.
fn choice(segments: &[(u32, Code)]) -> Code {
    if let [(_, code)] = segments {
        return code.clone();
    }
    let (below, from) = segments.split_at(segments.len() / 2);
    let (first, below) = (from[0].0, choice(below));
    let mut code = Code(Vec::with_capacity(256));
    match u8::try_from(below.0.len()) {
        Ok(length) => code.push(BPF_JMP | BPF_JGE | BPF_K, length, 0, first),
        // a conditional jump is too short for that
        Err(_) => {
            code.push(BPF_JMP | BPF_JGE | BPF_K, 0, 1, first);
            code.push(BPF_JMP | BPF_JA, 0, 0, below.0.len() as u32);
        }
    }
    code.0.extend(below.0);
    code.0.extend(choice(from).0);
    code
}

/// Offsets in `struct seccomp_data`.
mod offset {
    pub(super) const NR: u32 = 0;
    pub(super) const ARCH: u32 = 4;

    /// The low half of an argument, on a little-endian machine.
    pub(super) const fn argument(index: u32) -> u32 {
        16 + 8 * index
    }
}

/// Instructions.
#[derive(Clone, PartialEq)]
struct Code(Vec<sock_filter>);

impl Code {
    fn answering(answer: u32) -> Code {
        let mut code = Code(Vec::with_capacity(1));
        code.answer(answer);
        code
    }

    fn push(&mut self, code: u32, jt: u8, jf: u8, k: u32) {
        self.0.push(sock_filter { code: code as u16, jt, jf, k });
    }

    fn load(&mut self, offset: u32) {
        self.push(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset);
    }

    fn answer(&mut self, answer: u32) {
        self.push(BPF_RET | BPF_K, 0, 0, answer);
    }

    /// Answers when the test holds, else goes on.
    fn when(&mut self, test: u32, k: u32, answer: u32) {
        self.push(BPF_JMP | test | BPF_K, 0, 1, k);
        self.answer(answer);
    }

    /// Answers when the test does not hold, else goes on.
    fn unless(&mut self, test: u32, k: u32, answer: u32) {
        self.push(BPF_JMP | test | BPF_K, 1, 0, k);
        self.answer(answer);
    }

    /// Answers when it is none of `values`, else goes on.
    fn unless_one_of(&mut self, values: &[i32], answer: u32) {
        for (value, behind) in values.iter().zip((1..=values.len() as u8).rev()) {
            self.push(BPF_JMP | BPF_JEQ | BPF_K, behind, 0, *value as u32);
        }
        self.answer(answer);
    }

    /// When it is `value`, goes on with what `write` writes, which must answer.
    fn within(&mut self, value: u32, write: impl Fn(&mut Code)) {
        let mut code = Code(Vec::with_capacity(4));
        write(&mut code);
        self.push(BPF_JMP | BPF_JEQ | BPF_K, 0, code.0.len() as u8, value);
        self.0.extend(code.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `program` as the kernel would, on a call with these arguments.
    fn verdict(program: &[sock_filter], arch: u32, nr: i64, arguments: &[u64]) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let holds = match u32::from(code) & !(BPF_JMP | BPF_K) {
                _ if u32::from(code) == BPF_RET | BPF_K => return k,
                _ if u32::from(code) == BPF_LD | BPF_W | BPF_ABS => {
                    value = match k {
                        offset::NR => nr as u32,
                        offset::ARCH => arch,
                        k => arguments.get((k as usize - 16) / 8).map_or(0, |a| *a as u32),
                    };
                    continue;
                }
                _ if u32::from(code) == BPF_ALU | BPF_AND | BPF_K => {
                    value &= k;
                    continue;
                }
                BPF_JEQ => value == k,
                BPF_JA => {
                    at += k as usize;
                    continue;
                }
                BPF_JGE => value >= k,
                BPF_JSET => value & k != 0,
                test => panic!("{test}"),
            };
            at += usize::from(if holds { jt } else { jf });
        }
    }

    fn answer(nest: bool, nr: i64, arguments: &[u64]) -> u32 {
        verdict(&program(nest), ARCH, nr, arguments)
    }

    #[test]
    fn what_leads_out_is_refused_and_what_programs_need_is_not() {
        let set_id = [0, 0o4755, 0o4755, 0o4755];
        for (nr, arguments, expected) in [
            (libc::SYS_unshare, &[libc::CLONE_NEWNS as u64][..], EPERM),
            (libc::SYS_unshare, &[u64::from(NEWTIME)], EPERM),
            (libc::SYS_unshare, &[libc::CLONE_FILES as u64], ALLOW),
            (libc::SYS_mount, &[], EPERM),
            (libc::SYS_clone, &[libc::CLONE_NEWUSER as u64], EPERM),
            (libc::SYS_clone, &[libc::SIGCHLD as u64], ALLOW),
            (CLONE3, &[], ENOSYS),
            (OPENAT2, &[], ENOSYS),
            (IO_URING_SETUP, &[], ENOSYS),
            (libc::SYS_ioctl, &[0, u64::from(TIOCSTI)], EPERM),
            (libc::SYS_ioctl, &[0, u64::from(TIOCSTI) | 1 << 32], EPERM),
            (libc::SYS_ioctl, &[0, 0x5413], ALLOW),
            (libc::SYS_fchmodat, &set_id, EPERM),
            (libc::SYS_fchmodat, &[0, 0, 0o755], ALLOW),
            (libc::SYS_mknodat, &set_id, EPERM),
            (libc::SYS_mknodat, &[0, 0, u64::from(libc::S_IFCHR)], EPERM),
            (libc::SYS_mknodat, &[0, 0, u64::from(libc::S_IFBLK) | 0o600], EPERM),
            (libc::SYS_mknodat, &[0, 0, u64::from(libc::S_IFIFO) | 0o600], ALLOW),
            (libc::SYS_mknodat, &[0, 0, u64::from(libc::S_IFREG) | 0o600], ALLOW),
            (libc::SYS_mknodat, &[0, 0, u64::from(libc::S_IFSOCK) | 0o600], ALLOW),
            (libc::SYS_renameat2, &[0, 0, 0, 0, u64::from(libc::RENAME_WHITEOUT)], EINVAL),
            (libc::SYS_renameat2, &[0, 0, 0, 0, u64::from(libc::RENAME_EXCHANGE)], ALLOW),
            (libc::SYS_openat, &[0, 0, libc::O_CREAT as u64, 0o2755], EPERM),
            (libc::SYS_openat, &[0, 0, libc::O_TMPFILE as u64, 0o2755], EPERM),
            (libc::SYS_openat, &[0, 0, libc::O_DIRECTORY as u64, 0o2755], ALLOW),
            (libc::SYS_openat, &[0, 0, libc::O_CREAT as u64, 0o644], ALLOW),
            (libc::SYS_socket, &[libc::AF_VSOCK as u64, 1, 0], EAFNOSUPPORT),
            (libc::SYS_socket, &[libc::AF_PACKET as u64, 1, 0], EAFNOSUPPORT),
            (libc::SYS_socket, &[libc::AF_NETLINK as u64, 3, libc::NETLINK_AUDIT as u64], EAFNOSUPPORT),
            (libc::SYS_socket, &[libc::AF_NETLINK as u64, 3, 0], ALLOW),
            (libc::SYS_socket, &[libc::AF_INET6 as u64, 1, 0], ALLOW),
            (libc::SYS_socket, &[libc::AF_INET as u64, 10, 0], EAFNOSUPPORT),
            (libc::SYS_socket, &[libc::AF_INET as u64, 10 | libc::SOCK_CLOEXEC as u64, 6], EAFNOSUPPORT),
            (libc::SYS_socketpair, &[libc::AF_UNIX as u64, 1, 0], ALLOW),
            (libc::SYS_socketpair, &[libc::AF_INET as u64, 2, 136], EAFNOSUPPORT),
            (libc::SYS_getsockopt, &[3, libc::SOL_SOCKET as u64, 77], ENOPROTOOPT),
            (libc::SYS_getsockopt, &[3, libc::SOL_SOCKET as u64, libc::SO_PEERCRED as u64], ALLOW),
            (libc::SYS_getsockopt, &[3, libc::IPPROTO_TCP as u64, 77], ALLOW),
            (libc::SYS_setsockopt, &[3, libc::SOL_SOCKET as u64, 76], ENOPROTOOPT),
            (libc::SYS_pidfd_getfd, &[], EPERM),
            (libc::SYS_keyctl, &[], EPERM),
            (libc::SYS_bpf, &[], EPERM),
            (libc::SYS_fanotify_init, &[], EPERM),
            (NEWEST, &[], ALLOW),
            (NEWEST + 1, &[], ENOSYS),
            (libc::SYS_read, &[], ALLOW),
            (libc::SYS_ptrace, &[], ALLOW),
        ] {
            assert_eq!(answer(false, nr, arguments), expected, "call {nr} {arguments:x?}");
        }
    }

    #[test]
    fn of_ip_only_what_programs_use_is_allowed() {
        for (family, nest) in [(libc::AF_INET, false), (libc::AF_INET6, true)] {
            for protocol in 0..600 {
                let expected = match protocol {
                    0 | 1 | 6 | 17 | 58 | 262 => ALLOW,
                    _ => EPROTONOSUPPORT,
                };
                let arguments = [family as u64, libc::SOCK_DGRAM as u64, protocol];
                assert_eq!(answer(nest, libc::SYS_socket, &arguments), expected, "protocol {protocol}");
            }
        }
        assert_eq!(answer(false, libc::SYS_socket, &[libc::AF_UNIX as u64, 1, 136]), ALLOW);
    }

    #[test]
    fn each_call_has_its_own_rule_and_what_has_none_is_allowed() {
        for nest in [false, true] {
            let mut rules = rules(nest);
            rules.sort_by_key(|(nr, _)| *nr);
            assert!(rules.windows(2).all(|pair| pair[0].0 < pair[1].0), "two rules for one call");
            for nr in 0..600 {
                // by itself, as the whole program must answer, too
                let alone = rules.iter().find(|(of, _)| i64::from(*of) == nr);
                let otherwise = if nr > NEWEST { ENOSYS } else { ALLOW };
                let expected = alone.map_or(otherwise, |(_, rule)| verdict(&rule.0, ARCH, nr, &[0; 6]));
                assert_eq!(answer(nest, nr, &[0; 6]), expected, "call {nr}");
            }
        }
    }

    #[test]
    fn nesting_gives_up_namespaces_and_nothing_else() {
        for nr in NESTING {
            assert_eq!(answer(true, *nr, &[]), ALLOW);
        }
        assert_eq!(answer(true, libc::SYS_clone, &[libc::CLONE_NEWUSER as u64]), ALLOW);
        for nr in NEVER {
            assert_eq!(answer(true, *nr, &[]), EPERM);
        }
        for nr in ATTRIBUTES {
            assert_eq!((answer(true, *nr, &[]), answer(false, *nr, &[])), (EOPNOTSUPP, ALLOW));
        }
        assert_eq!(answer(true, CLONE3, &[]), ENOSYS);
        assert_eq!(answer(true, libc::SYS_ioctl, &[0, u64::from(TIOCSTI)]), EPERM);
    }

    #[test]
    fn it_is_short() {
        // the kernel compiles it for every command
        assert!(program(false).len() <= 250, "{} instructions", program(false).len());
    }

    #[test]
    fn foreign_abis_are_killed() {
        let i386 = 0x4000_0003;
        assert_eq!(verdict(&program(false), i386, libc::SYS_read, &[]), KILL);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(answer(false, libc::SYS_read | i64::from(X32), &[]), KILL);
    }
}
