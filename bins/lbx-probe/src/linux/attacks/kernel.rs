//! The kernel's files: what tells of the machine in /proc and /sys, and what changes it.

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::{Attack, attack, names, not_writable};
use crate::linux::line::{Answer, name_of};

pub(super) const ATTACKS: &[Attack] = &[
    attack("proc-kcore", "proc_kcore(5)", "reads the kernel's memory", |_| masked("kcore")).given_up_by_nest(),
    attack("proc-kmsg", "proc_kmsg(5)", "reads the kernel's log", |_| masked("kmsg")).given_up_by_nest(),
    attack("proc-keys", "proc_keys(5)", "reads which keys there are", |_| masked("keys")).given_up_by_nest(),
    attack("proc-timer-list", "proc_timer_list(5), CVE-2017-5967", "reads timers of all processes", |_| {
        masked("timer_list")
    })
    .given_up_by_nest(),
    attack("proc-sysrq", "proc_sysrq-trigger(5)", "opens what reboots the machine", |_| {
        let path = "/proc/sysrq-trigger";
        let tried = format!("open to write {path}");
        match open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            Err(e) => Answer::held(tried, name_of(e)),
            Ok(_) if is_proc(path) => Answer::through(tried, "opened"),
            Ok(_) => Answer::held(tried, "masked"),
        }
    })
    .given_up_by_nest(),
    attack("proc-mem", "proc_kcore(5), mem(4)", "opens memory and maps of the kernel", |_| {
        super::not_readable(["/proc/kpagecount", "/proc/kpageflags", "/proc/vmallocinfo", "/proc/slabinfo"])
    }),
    attack("proc-sys-read-only", "mount(2), MS_RDONLY", "finds settings of the kernel not read-only", |_| {
        read_only("/proc/sys")
    })
    .given_up_by_nest(),
    attack("core-pattern", "core(5)", "names a program that the kernel runs as root", |_| {
        not_writable(["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/core_pipe_limit"])
    }),
    attack("modprobe-path", "proc_sys_kernel(5), modprobe", "names a program that loads modules", |_| {
        not_writable(["/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/proc/sys/kernel/poweroff_cmd"])
    }),
    attack("uevent-helper", "uevent_helper", "names a program for events of devices", |_| {
        not_writable(["/sys/kernel/uevent_helper", "/sys/kernel/uevent_seqnum", "/sys/class/mem/null/uevent"])
    }),
    attack("binfmt-misc", "binfmt_misc", "names a program that runs others' files", |_| {
        not_writable(["/proc/sys/fs/binfmt_misc/register", "/proc/sys/fs/binfmt_misc/status"])
    }),
    attack("sysctl", "proc_sys(5)", "changes how the kernel behaves", |_| {
        not_writable([
            "/proc/sys/kernel/sysrq",
            "/proc/sys/kernel/randomize_va_space",
            "/proc/sys/kernel/yama/ptrace_scope",
            "/proc/sys/vm/overcommit_memory",
            "/proc/sys/vm/drop_caches",
            "/proc/sys/fs/suid_dumpable",
            "/proc/sys/user/max_user_namespaces",
        ])
    }),
    attack("proc-irq", "proc(5)", "changes interrupts and other drivers' settings", |_| {
        not_writable(["/proc/irq/default_smp_affinity", "/proc/mtrr", "/proc/scsi/scsi", "/proc/acpi/wakeup"])
    }),
    attack("sys-read-only", "sysfs(5), MS_RDONLY", "finds devices' settings not read-only", |_| read_only("/sys")),
    attack("sys-write", "sysfs(5)", "changes devices and power", |_| {
        not_writable([
            "/sys/power/state",
            "/sys/power/disk",
            "/sys/bus/pci/rescan",
            "/sys/module/kernel/parameters/panic",
            "/sys/kernel/mm/ksm/run",
            "/sys/kernel/kexec_crash_size",
        ])
    }),
    attack("sys-firmware", "sysfs(5)", "reads tables and variables of the firmware", |_| empty("/sys/firmware")),
    attack("sys-security", "securityfs", "reads or loads rules of security modules", |_| empty("/sys/kernel/security")),
    attack("sys-debug", "debugfs", "reads what drivers tell their authors", |_| empty("/sys/kernel/debug")),
    attack("sys-tracing", "tracefs", "traces the kernel", |_| empty("/sys/kernel/tracing")),
    attack("sys-bpf", "bpffs", "finds programs and maps of others", |_| empty("/sys/fs/bpf")),
    attack("kernel-addresses", "proc_sys_kernel(5), kptr_restrict", "reads where the kernel lies", |_| {
        let text = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
        let zeros = text.lines().take(100).all(|line| line.starts_with("0000000000000000 "));
        Answer::when(zeros, "read /proc/kallsyms", if zeros { "no address is told" } else { "addresses are told" })
    }),
];

fn is_proc(path: &str) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == PROC_SUPER_MAGIC)
}

/// Held when /proc/NAME is hidden, or cannot be opened.
fn masked(name: &str) -> Answer {
    let path = format!("/proc/{name}");
    let tried = format!("open {path}");
    match open(path.as_str(), OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty()) {
        Err(e) => Answer::held(tried, name_of(e)),
        Ok(_) if is_proc(&path) => Answer::through(tried, "opened"),
        Ok(_) => Answer::held(tried, "masked"),
    }
}

/// Held when directory `dir` shows nothing.
fn empty(dir: &str) -> Answer {
    let tried = format!("list {dir}");
    match (std::fs::read_dir(dir), names(dir.as_ref()).first()) {
        (Err(e), _) => Answer::held(tried, name_of(super::errno(&e))),
        (Ok(_), None) => Answer::held(tried, "nothing is there"),
        (Ok(_), Some(first)) => Answer::through(tried, format!("{first} is there")),
    }
}

fn read_only(dir: &str) -> Answer {
    let flags = statvfs(dir).map(|fs| fs.flags().contains(FsFlags::ST_RDONLY));
    let tried = format!("look at the mount of {dir}");
    match flags {
        Ok(true) => Answer::held(tried, "read-only"),
        Ok(false) => Answer::through(tried, "it is not read-only"),
        Err(e) => Answer::held(tried, name_of(e)),
    }
}
