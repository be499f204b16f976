//! System calls for those who run a machine, and parts of the kernel that were broken before.

use libc::{c_int, c_long};
use nix::errno::Errno;

use super::{Attack, all_refused, attack, refused, refused_or};
use crate::linux::raw::call;

const PERF_COUNT_SW_DUMMY: u64 = 9;
const UFFD_USER_MODE_ONLY: c_int = 1;
const SYS_QUOTACTL_FD: c_long = 443;
#[cfg(target_arch = "x86_64")]
const SYS_KEXEC_FILE_LOAD: c_long = 320;
#[cfg(target_arch = "aarch64")]
const SYS_KEXEC_FILE_LOAD: c_long = 294;
const SYSLOG_ACTION_SIZE_BUFFER: c_int = 10;
const NOWHERE: &std::ffi::CStr = c"/nonexistent/lbx-probe";
/// Flags that no call knows: it fails behind the check of privilege.
const NO_FLAGS: c_long = 0x7fff_0000;

pub(super) const ATTACKS: &[Attack] = &[
    attack("bpf", "bpf(2), CVE-2020-8835, CVE-2021-3490", "loads programs into the kernel", |_| {
        // an array map of one element
        let attributes = [2u32, 4, 4, 1, 0, 0, 0, 0];
        refused("bpf BPF_MAP_CREATE", call!(libc::SYS_bpf, 0, &raw const attributes, size_of_val(&attributes)))
    }),
    attack("perf", "perf_event_open(2), CVE-2013-2094", "counts what the processors do", |_| {
        // a counter of nothing, of this process alone, without the kernel
        let mut attributes = [0u64; 16];
        attributes[0] = 1 | (size_of_val(&attributes) as u64) << 32;
        attributes[1] = PERF_COUNT_SW_DUMMY;
        attributes[5] = 0b110_0001;
        refused("perf_event_open", call!(libc::SYS_perf_event_open, &raw const attributes, 0, -1, -1, 0))
    }),
    attack("userfaultfd", "userfaultfd(2)", "stops the kernel in the midst of a copy", |_| {
        refused("userfaultfd", call!(libc::SYS_userfaultfd, UFFD_USER_MODE_ONLY))
    }),
    attack("io-uring", "io_uring(7), CVE-2022-29582, CVE-2023-2598", "makes calls that no filter sees", |_| {
        let mut parameters = [0u64; 15];
        all_refused(
            "io_uring_setup, io_uring_enter, io_uring_register",
            [
                ("io_uring_setup", call!(libc::SYS_io_uring_setup, 1, &raw mut parameters)),
                ("io_uring_enter", call!(libc::SYS_io_uring_enter, -1, 0, 0, 0, 0, 0)),
                ("io_uring_register", call!(libc::SYS_io_uring_register, -1, 0, 0, 0)),
            ],
        )
    }),
    attack("openat2", "openat2(2)", "passes a mode where no filter looks", |_| {
        let how = [libc::O_RDONLY as u64, 0, 0];
        let called = call!(libc::SYS_openat2, libc::AT_FDCWD, c"/".as_ptr(), &raw const how, size_of_val(&how));
        refused("openat2 /", called)
    }),
    attack("module-load", "init_module(2)", "loads a module of the kernel", |_| {
        all_refused(
            "init_module, finit_module",
            [
                ("init_module", call!(libc::SYS_init_module, 0, 0, c"".as_ptr())),
                ("finit_module", call!(libc::SYS_finit_module, -1, c"".as_ptr(), 0)),
            ],
        )
    }),
    attack("module-unload", "delete_module(2)", "takes a module out of the kernel", |_| {
        let flags = libc::O_NONBLOCK;
        refused("delete_module", call!(libc::SYS_delete_module, c"lbx-no-such-module".as_ptr(), flags))
    }),
    attack("kexec", "kexec_load(2)", "starts another kernel", |_| {
        all_refused(
            "kexec_load, kexec_file_load",
            [
                ("kexec_load", call!(libc::SYS_kexec_load, 0, 0, 0, NO_FLAGS)),
                ("kexec_file_load", call!(SYS_KEXEC_FILE_LOAD, -1, -1, 0, 0, NO_FLAGS)),
            ],
        )
    }),
    attack("reboot", "reboot(2)", "reboots the machine", |_| {
        // without the magic numbers it would not
        refused("reboot, wrong magic", call!(libc::SYS_reboot, 0, 0, 0, 0))
    }),
    attack("swap", "swapon(2)", "swaps to a file of its own", |_| {
        all_refused(
            "swapon, swapoff of what is not there",
            [
                ("swapon", call!(libc::SYS_swapon, NOWHERE.as_ptr(), 0)),
                ("swapoff", call!(libc::SYS_swapoff, NOWHERE.as_ptr())),
            ],
        )
    }),
    attack("accounting", "acct(2)", "has the kernel write to a file", |_| {
        refused("acct of what is not there", call!(libc::SYS_acct, NOWHERE.as_ptr()))
    }),
    attack("clock", "clock_settime(2)", "sets the clock", |_| {
        // no second has so many nanoseconds
        let time = [0u64, 2_000_000_000];
        all_refused(
            "clock_settime, settimeofday, impossible times",
            [
                ("clock_settime", call!(libc::SYS_clock_settime, libc::CLOCK_REALTIME, &raw const time)),
                ("settimeofday", call!(libc::SYS_settimeofday, &raw const time, 0)),
            ],
        )
    }),
    attack("clock-speed", "adjtimex(2)", "lets the clock go faster", |_| {
        // ADJ_TICK, and a tick that is impossible
        let mut wanted = [0u64; 64];
        wanted[0] = 0x4000;
        all_refused(
            "adjtimex, clock_adjtime, impossible ticks",
            [
                ("adjtimex", call!(libc::SYS_adjtimex, &raw mut wanted)),
                ("clock_adjtime", call!(libc::SYS_clock_adjtime, libc::CLOCK_REALTIME, &raw mut wanted)),
            ],
        )
    }),
    attack("kernel-log", "syslog(2)", "reads the kernel's log", |_| {
        refused("syslog", call!(libc::SYS_syslog, SYSLOG_ACTION_SIZE_BUFFER, 0, 0))
    }),
    attack("quota", "quotactl(2)", "changes quotas", |_| {
        all_refused(
            "quotactl, quotactl_fd",
            [
                ("quotactl", call!(libc::SYS_quotactl, NO_FLAGS, 0, 0, 0)),
                ("quotactl_fd", call!(SYS_QUOTACTL_FD, -1, NO_FLAGS, 0, 0)),
            ],
        )
    }),
    attack("hang-up", "vhangup(2)", "hangs up the terminal", |_| refused("vhangup", call!(libc::SYS_vhangup))),
    attack("profile", "lookup_dcookie(2)", "asks for paths by number", |_| {
        refused("lookup_dcookie", call!(libc::SYS_lookup_dcookie, 0, 0, 0))
    }),
    attack("file-watch", "fanotify(7)", "watches and holds up what others open", |_| {
        const FAN_CLASS_CONTENT: c_int = 4;
        refused("fanotify_init FAN_CLASS_CONTENT", call!(libc::SYS_fanotify_init, FAN_CLASS_CONTENT, 0))
    }),
    attack("memory-move", "migrate_pages(2)", "moves memory of the first process", |_| {
        let nodes = [1u64];
        let called = call!(libc::SYS_migrate_pages, 1, 64, &raw const nodes, &raw const nodes);
        refused_or(&[Errno::EINVAL, Errno::ESRCH], "migrate_pages of 1", called)
    }),
    #[cfg(target_arch = "x86_64")]
    attack("io-ports", "iopl(2), ioperm(2)", "talks to devices by ports", |_| {
        all_refused(
            "iopl 3, ioperm",
            [("iopl", call!(libc::SYS_iopl, 3)), ("ioperm", call!(libc::SYS_ioperm, 0x80, 1, 1))],
        )
    }),
];
