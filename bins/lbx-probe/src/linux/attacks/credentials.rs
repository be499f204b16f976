//! What a process may: capabilities, ids, limits.

use libc::{PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_SET_SECUREBITS};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{Attack, all_refused, attack, refused, status};
use crate::linux::line::{Answer, name_of};
use crate::linux::raw::call;

const CAP_SYS_ADMIN: u64 = 21;
/// CAP_CHECKPOINT_RESTORE, of Linux 5.9: a kernel drops those that it does not know, without a word.
const LAST_CAPABILITY: usize = 40;
/// More processes and threads than this are no limit.
const MANY: u64 = 1 << 16;

pub(super) const ATTACKS: &[Attack] = &[
    attack("cap-inheritable", "capabilities(7)", "has capabilities to pass on", |_| no_capability("CapInh")),
    attack("cap-permitted", "capabilities(7)", "has capabilities to take", |_| no_capability("CapPrm")),
    attack("cap-effective", "capabilities(7)", "has capabilities", |_| no_capability("CapEff")),
    attack("cap-bounding", "capabilities(7)", "may gain capabilities by exec", |_| no_capability("CapBnd")),
    attack("cap-ambient", "capabilities(7)", "keeps capabilities over exec", |_| no_capability("CapAmb")),
    attack("cap-raise", "capset(2)", "takes capabilities, one after the other", |_| {
        let header = [0x2008_0522u32, 0];
        let capset = |capability: usize| {
            // effective, permitted and inheritable; the upper halves come behind
            let mut sets = [0u32; 6];
            sets[capability / 32 * 3..][..3].fill(1 << (capability % 32));
            (format!("capability {capability}"), call!(libc::SYS_capset, &raw const header, &raw const sets))
        };
        all_refused("capset of 0 to 40", (0..=LAST_CAPABILITY).map(capset))
    }),
    attack("cap-raise-ambient", "prctl(2), PR_CAP_AMBIENT", "raises an ambient capability", |_| {
        let called = call!(libc::SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0);
        refused("prctl PR_CAP_AMBIENT_RAISE", called)
    }),
    attack("no-new-privs", "prctl(2), PR_SET_NO_NEW_PRIVS", "may gain privilege by exec", |_| {
        expected("NoNewPrivs", |value| value == "1")
    }),
    attack("no-new-privs-undo", "prctl(2), PR_SET_NO_NEW_PRIVS", "clears the mark", |_| {
        let called = call!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0);
        super::refused_or(&[nix::errno::Errno::EINVAL], "prctl PR_SET_NO_NEW_PRIVS 0", called)
    }),
    attack("seccomp", "seccomp(2)", "has no filter", |_| expected("Seccomp", |value| value == "2")),
    attack("securebits", "capabilities(7), securebits", "finds being root to mean something else", |_| {
        let bits = call!(libc::SYS_prctl, libc::PR_GET_SECUREBITS, 0, 0, 0, 0);
        Answer::when(bits == Ok(0), "prctl PR_GET_SECUREBITS", format!("{}", bits.unwrap_or(-1)))
    }),
    attack("securebits-set", "capabilities(7), securebits", "changes what being root means", |_| {
        refused("prctl PR_SET_SECUREBITS", call!(libc::SYS_prctl, PR_SET_SECUREBITS, 1, 0, 0, 0))
    }),
    attack("uid", "credentials(7)", "is another user", |inside| ids("Uid", inside.told.uid)),
    attack("gid", "credentials(7)", "is in another group", |inside| ids("Gid", inside.told.gid)),
    attack("groups", "credentials(7), CVE-2022-2995", "is in further groups", |inside| {
        let own = inside.told.gid.to_string();
        expected("Groups", |value| value.split_whitespace().all(|group| group == own))
    }),
    attack("groups-drop", "setgroups(2), CVE-2014-8989", "drops a group that denies", |_| {
        refused("setgroups", call!(libc::SYS_setgroups, 0, 0))
    }),
    attack("become-root", "setresuid(2)", "becomes root", |_| {
        all_refused(
            "setresuid and setresgid 0",
            [
                ("setresgid", call!(libc::SYS_setresgid, 0, 0, 0)),
                ("setresuid", call!(libc::SYS_setresuid, 0, 0, 0)),
                ("setuid", call!(libc::SYS_setuid, 0)),
            ],
        )
    }),
    attack("become-root-of-files", "setfsuid(2)", "opens files as root", |inside| {
        let _ = call!(libc::SYS_setfsuid, 0);
        // it tells of no failure, but of who it was before
        let now = call!(libc::SYS_setfsuid, -1).unwrap_or(-1);
        Answer::when(now == i64::from(inside.told.uid), "setfsuid 0", format!("it is {now}"))
    }),
    attack("core-limit", "core(5), RLIMIT_CORE", "leaves a core dump to a program of the machine", |_| {
        limited(Resource::RLIMIT_CORE, "RLIMIT_CORE", 1)
    }),
    attack("core-limit-raise", "setrlimit(2)", "raises the limit of core dumps", |_| {
        match setrlimit(Resource::RLIMIT_CORE, u64::MAX, u64::MAX) {
            Err(e) => Answer::held("setrlimit RLIMIT_CORE", name_of(e)),
            Ok(()) => Answer::through("setrlimit RLIMIT_CORE", "raised"),
        }
    }),
    attack("process-limit", "pids.max, RLIMIT_NPROC", "makes as many processes as it likes", |_| {
        let by_cgroup: Option<u64> =
            std::fs::read_to_string("/sys/fs/cgroup/pids.max").ok().and_then(|max| max.trim().parse().ok());
        match by_cgroup {
            Some(max) => Answer::when(max <= MANY, "read pids.max", format!("{max}")),
            None => limited(Resource::RLIMIT_NPROC, "RLIMIT_NPROC", MANY),
        }
    }),
    attack("memory-files-limit", "tmpfs(5)", "fills memory with files", |_| {
        let fs = nix::sys::statvfs::statvfs("/tmp");
        let memory = rustix::system::sysinfo();
        let total = memory.totalram as u64 * u64::from(memory.mem_unit);
        let Ok(fs) = fs else { return Answer::skipped("statvfs /tmp", "there is no /tmp") };
        let size = fs.blocks() * fs.fragment_size();
        Answer::when(size > 0 && size <= total / 2, "statvfs /tmp", format!("{} MiB at most", size >> 20))
    }),
    attack("priority", "setpriority(2), sched(7)", "takes the processors from others", |_| {
        let parameter = 1i32;
        all_refused(
            "setpriority -20, SCHED_FIFO",
            [
                ("setpriority", call!(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, -20)),
                ("SCHED_FIFO", call!(libc::SYS_sched_setscheduler, 0, libc::SCHED_FIFO, &raw const parameter)),
            ],
        )
    }),
    attack("out-of-memory", "proc_pid_oom_score_adj(5)", "lets others be killed when memory is short", |_| {
        match std::fs::write("/proc/self/oom_score_adj", "-1000") {
            Err(e) => Answer::held("write oom_score_adj -1000", name_of(super::errno(&e))),
            Ok(()) => Answer::through("write oom_score_adj -1000", "written"),
        }
    }),
];

fn expected(key: &str, holds: impl Fn(&str) -> bool) -> Answer {
    let tried = format!("read {key} of /proc/self/status");
    match status("self", key) {
        Some(value) if holds(&value) => Answer::held(tried, if value.is_empty() { "none" } else { &value }),
        Some(value) => Answer::through(tried, format!("it is {value}")),
        None => Answer::through(tried, "it cannot be read"),
    }
}

fn no_capability(set: &str) -> Answer {
    expected(set, |value| value.bytes().all(|digit| digit == b'0'))
}

fn ids(key: &str, own: u32) -> Answer {
    let own = own.to_string();
    expected(key, |value| own != "0" && value.split_whitespace().all(|id| id == own))
}

fn limited(resource: Resource, name: &str, most: u64) -> Answer {
    match getrlimit(resource) {
        Ok((_, hard)) => Answer::when(hard <= most, format!("getrlimit {name}"), limit(hard)),
        Err(e) => Answer::through(format!("getrlimit {name}"), name_of(e)),
    }
}

fn limit(hard: u64) -> String {
    if hard == u64::MAX { "there is none".to_owned() } else { format!("{hard} at most") }
}
