//! Other processes: the first one, which holds the environment, and those outside.

use libc::{PRIO_PROCESS, PTRACE_SEIZE, RLIMIT_NPROC};
use nix::errno::Errno;

use super::{Attack, Called, all_refused, attack, names, not_readable, processes, status};
use crate::linux::inside::Inside;
use crate::linux::line::{Answer, name_of};
use crate::linux::raw::call;

const FIRST: i32 = 1;
/// Names of processes that every machine has, and no environment.
const OF_MACHINES: [&str; 6] = ["systemd", "kthreadd", "init", "sshd", "dbus-daemon", "launchd"];

pub(super) const ATTACKS: &[Attack] = &[
    attack("first-kill", "kill(2), pid_namespaces(7)", "signals the first process", |_| {
        all_refused(
            "kill, tgkill, pidfd_send_signal 1 0",
            [
                ("kill", call!(libc::SYS_kill, FIRST, 0)),
                ("tgkill", call!(libc::SYS_tgkill, FIRST, FIRST, 0)),
                ("pidfd", first().and_then(|fd| call!(libc::SYS_pidfd_send_signal, fd, 0, 0, 0))),
            ],
        )
    }),
    attack("first-ptrace", "ptrace(2), CVE-2019-13272", "traces the first process", |_| on_process(FIRST, &PTRACE)),
    attack("first-memory", "process_vm_readv(2)", "reads memory of the first process", |_| on_process(FIRST, &MEMORY)),
    attack("first-descriptors", "pidfd_getfd(2)", "takes descriptors of the first process", |_| {
        let took = |fd: i64| call!(libc::SYS_pidfd_getfd, fd, 3, 0);
        all_refused("pidfd_getfd 1", [("pidfd_getfd", first().and_then(took))])
    }),
    attack("descriptor-take", "pidfd_getfd(2)", "takes descriptors of a process that it may trace", |_| {
        // its own, which nothing but a filter forbids
        let own = call!(libc::SYS_pidfd_open, std::process::id(), 0);
        let took = |fd: i64| call!(libc::SYS_pidfd_getfd, fd, 1, 0);
        all_refused("pidfd_getfd of itself", [("pidfd_getfd", own.and_then(took))])
    }),
    attack("first-limits", "prlimit(2)", "changes limits of the first process", |_| {
        // changes nothing: the limit is read
        let mut limit = [0u64; 2];
        let called = call!(libc::SYS_prlimit64, FIRST, RLIMIT_NPROC, 0, &raw mut limit);
        all_refused("prlimit 1", [("prlimit", called)])
    }),
    attack("first-priority", "setpriority(2)", "slows the first process down", |_| {
        all_refused("setpriority 1 0", [("setpriority", call!(libc::SYS_setpriority, PRIO_PROCESS, FIRST, 0))])
    }),
    attack("first-root", "CVE-2019-5736, proc_pid_root(5)", "goes through the first process's root", |_| {
        not_readable(["/proc/1/root", "/proc/1/root/etc", "/proc/1/cwd", "/proc/1/task/1/root"])
    }),
    attack("first-exe", "CVE-2019-5736, proc_pid_exe(5)", "opens the first process's program", |_| {
        not_readable(["/proc/1/exe", "/proc/1/map_files"])
    }),
    attack("first-fd", "CVE-2016-9962, proc_pid_fd(5)", "opens what the first process has open", |_| {
        not_readable(["/proc/1/fd", "/proc/1/fd/0", "/proc/1/fd/3", "/proc/1/fdinfo"])
    }),
    attack("first-memory-file", "CVE-2012-0056, proc_pid_mem(5)", "opens memory and variables of the first", |_| {
        not_readable(["/proc/1/mem", "/proc/1/environ", "/proc/1/maps", "/proc/1/auxv", "/proc/1/pagemap"])
    }),
    attack("first-rights", "capabilities(7)", "finds the first process with rights", |inside| {
        let rights = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| status("1", set).unwrap_or_default());
        let uid = status("1", "Uid").unwrap_or_default();
        let uid = uid.split_whitespace().next().unwrap_or_default();
        let none = rights.iter().all(|set| !set.is_empty() && set.bytes().all(|digit| digit == b'0'));
        let other = uid != "0" && uid != inside.told.uid.to_string();
        Answer::when(none && other, "read /proc/1/status", format!("uid {uid}, capabilities {}", rights[3]))
    }),
    attack("outside-visible", "pid_namespaces(7)", "sees processes of the machine", |inside| {
        let token = &inside.told.outside.token;
        let seen = processes().into_iter().filter_map(|pid| {
            let name = status(&pid.to_string(), "Name")?;
            // a process inside may have any name, but is never root's
            let is_roots = status(&pid.to_string(), "Uid")?.starts_with("0 ");
            (name == *token || (is_roots && OF_MACHINES.contains(&&*name))).then_some(name)
        });
        match seen.into_iter().next() {
            Some(name) if name == *token => Answer::through("list /proc", "the process laid outside is there"),
            Some(name) => Answer::through("list /proc", format!("'{name}' is there")),
            None => Answer::held("list /proc", "none of the machine"),
        }
    }),
    attack("outside-kill", "kill(2), pid_namespaces(7)", "signals a process outside", |inside| {
        on_outside(inside, "kill 0", |pid| call!(libc::SYS_kill, pid, 0))
    }),
    attack("outside-ptrace", "ptrace(2)", "traces a process outside", |inside| on_outside(inside, PTRACE.0, PTRACE.1)),
    attack("outside-memory", "process_vm_readv(2)", "reads memory of a process outside", |inside| {
        on_outside(inside, MEMORY.0, MEMORY.1)
    }),
    attack("outside-pidfd", "pidfd_open(2)", "holds a process outside", |inside| {
        on_outside(inside, "pidfd_open", |pid| call!(libc::SYS_pidfd_open, pid, 0))
    }),
    attack("outside-priority", "setpriority(2)", "slows a process outside down", |inside| {
        on_outside(inside, "getpriority", |pid| call!(libc::SYS_getpriority, PRIO_PROCESS, pid))
    }),
    attack("outside-root", "proc_pid_root(5)", "goes through the root of a process outside", |inside| {
        match is_inner(inside) {
            true => Answer::skipped("open /proc/PID/root", "the number is a process's inside"),
            false => {
                let pid = inside.told.outside.pid;
                not_readable(["root", "cwd", "exe", "fd", "mem", "ns"].map(|what| format!("/proc/{pid}/{what}")))
            }
        }
    }),
    attack("names-in-proc", "proc_pid_cmdline(5)", "reads names of other environments in /proc", |_| {
        let mut files: Vec<String> =
            ["/proc/cmdline", "/proc/locks", "/proc/keys", "/proc/swaps"].map(Into::into).into();
        for pid in processes().into_iter().take(50) {
            files.extend(["cmdline", "cgroup", "mountinfo", "status"].map(|file| format!("/proc/{pid}/{file}")));
        }
        let text: String = files
            .iter()
            .filter_map(|file| std::fs::read(file).ok())
            .flat_map(|bytes| [String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]).into_owned(), "\n".into()])
            .collect();
        Answer::found("read cmdline, cgroup, mountinfo of every process", &text)
    }),
    attack("threads-outside", "proc_pid_task(5)", "sees threads that the list leaves out", |inside| {
        let pid = inside.told.outside.pid;
        let named =
            |path: String| std::fs::read_to_string(path).is_ok_and(|name| name.trim() == inside.told.outside.token);
        let seen = named(format!("/proc/{pid}/task/{pid}/comm")) || named(format!("/proc/self/task/{pid}/comm"));
        Answer::when(!seen, format!("read /proc/{pid}/task"), if seen { "it is there" } else { "it is not there" })
    }),
    attack("own-number", "proc_pid_status(5)", "learns its number outside", |_| {
        let numbers = status("self", "NSpid").unwrap_or_default();
        let one = numbers.split_whitespace().count() == 1;
        Answer::when(one, "read NSpid of /proc/self/status", format!("{} known", numbers.split_whitespace().count()))
    }),
    attack("machine-processes", "proc(5)", "reads schedules of all processes", |_| {
        let dirs = names("/proc".as_ref());
        match dirs.iter().find(|name| ["sched_debug", "vmcore"].contains(&&***name)) {
            Some(name) => not_readable([format!("/proc/{name}")]),
            None => Answer::held("look for /proc/sched_debug /proc/vmcore", "they are not there"),
        }
    }),
];

type OnProcess = (&'static str, fn(i32) -> Called);

const PTRACE: OnProcess = ("ptrace PTRACE_SEIZE", |pid| call!(libc::SYS_ptrace, PTRACE_SEIZE, pid, 0, 0));
const MEMORY: OnProcess = ("process_vm_readv", |pid| {
    let mut byte = 0u8;
    let piece = [(&raw mut byte) as u64, 1];
    // where nothing is: what fails is the address, behind the check
    let there = [0u64, 1];
    call!(libc::SYS_process_vm_readv, pid, &raw const piece, 1, &raw const there, 1, 0)
});

/// The first process, as a descriptor.
fn first() -> Called {
    call!(libc::SYS_pidfd_open, FIRST, 0)
}

fn on_process(pid: i32, (what, attack): &OnProcess) -> Answer {
    all_refused(&format!("{what} {pid}"), [(*what, attack(pid))])
}

/// Whether the number of the process laid outside is that of another inside.
fn is_inner(inside: &Inside) -> bool {
    let name = status(&inside.told.outside.pid.to_string(), "Name");
    name.is_some_and(|name| name != inside.told.outside.token)
}

fn on_outside(inside: &Inside, what: &str, attack: fn(i32) -> Called) -> Answer {
    let pid = inside.told.outside.pid;
    let tried = format!("{what} of the process laid outside");
    match is_inner(inside) {
        true => Answer::skipped(tried, "the number is a process's inside"),
        // a refusal would tell that it is there
        false => match attack(pid) {
            Err(Errno::ESRCH) => Answer::held(tried, "ESRCH"),
            Err(e) => Answer::through(tried, format!("{}: it is there", name_of(e))),
            Ok(_) => Answer::through(tried, "done"),
        },
    }
}
