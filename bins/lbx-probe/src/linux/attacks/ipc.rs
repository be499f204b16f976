//! Objects of System V and POSIX that were laid outside.

use libc::c_long;
use nix::errno::Errno;

use super::{Attack, Called, attack, refused_or};
use crate::linux::line::Answer;
use crate::linux::raw::call;

const SHM_STAT: i32 = 13;

pub(super) const ATTACKS: &[Attack] = &[
    attack("sysv-shm", "ipc_namespaces(7), shmat(2)", "attaches memory shared outside", |inside| {
        let attach = |id: c_long| call!(libc::SYS_shmat, id, 0, libc::SHM_RDONLY);
        on_bait("shmat", inside.told.outside.shm, attach)
    }),
    attack("sysv-sem", "ipc_namespaces(7), semctl(2)", "reads a semaphore laid outside", |inside| {
        let value = |id: c_long| call!(libc::SYS_semctl, id, 0, libc::GETVAL);
        on_bait("semctl GETVAL", inside.told.outside.sem, value)
    }),
    attack("sysv-msg", "ipc_namespaces(7), msgrcv(2)", "reads a queue laid outside", |inside| {
        // an empty queue that can be read says so
        let mut buffer = [0u64; 2];
        let receive = |id: c_long| call!(libc::SYS_msgrcv, id, &raw mut buffer, 8, 0, libc::IPC_NOWAIT);
        on_bait("msgrcv", inside.told.outside.msg, receive)
    }),
    attack("sysv-list", "proc_sysvipc(5)", "lists objects laid outside", |inside| {
        let ids = [inside.told.outside.shm, inside.told.outside.sem, inside.told.outside.msg];
        let listed = ["shm", "sem", "msg"].iter().zip(ids).find(|(kind, id)| {
            let text = std::fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
            let of = |line: &str| line.split_whitespace().nth(1).and_then(|id| id.parse::<i64>().ok());
            // made by root, whom nobody inside is
            let by_root = |line: &str| line.split_whitespace().any(|word| word == "0666" || word == "666");
            id.is_some() && text.lines().skip(1).any(|line| of(line) == *id && by_root(line) && is_roots(line, kind))
        });
        match listed {
            None => Answer::held("read /proc/sysvipc", "none of them"),
            Some((kind, _)) => Answer::through("read /proc/sysvipc", format!("{kind} is there")),
        }
    }),
    attack("sysv-by-index", "shmctl(2), SHM_STAT", "goes through the machine's segments by index", |inside| {
        let Some(bait) = inside.told.outside.shm else {
            return Answer::skipped("shmctl SHM_STAT", "none could be laid");
        };
        let mut buffer = [0u64; 32];
        let found = (0..1024).filter_map(|index| call!(libc::SYS_shmctl, index, SHM_STAT, buffer.as_mut_ptr()).ok());
        match found.into_iter().find(|id| *id == bait) {
            // its owner is root, whom nobody inside is
            Some(_) if buffer[0] >> 32 == 0 => Answer::through("shmctl SHM_STAT", "the one laid outside is there"),
            _ => Answer::held("shmctl SHM_STAT", "the one laid outside is not there"),
        }
    }),
    attack("posix-queue", "mq_overview(7)", "opens a message queue laid outside", |inside| {
        if !inside.told.outside.queue {
            return Answer::skipped("mq_open", "none could be laid");
        }
        let name = super::c_path(inside.told.outside.token.as_ref());
        let called = call!(libc::SYS_mq_open, name.as_ptr(), libc::O_RDONLY, 0, 0);
        refused_or(&[Errno::ENOENT], "mq_open", called)
    }),
];

/// Whether the object in a line of /proc/sysvipc is root's: uid, gid, cuid and cgid.
fn is_roots(line: &str, kind: &&str) -> bool {
    let at = match *kind {
        "shm" => 7,
        "sem" => 4,
        _ => 7,
    };
    line.split_whitespace().skip(at).take(4).all(|id| id == "0")
}

fn on_bait(tried: &str, id: Option<c_long>, attack: impl FnOnce(c_long) -> Called) -> Answer {
    match id {
        Some(id) => refused_or(&[Errno::EINVAL, Errno::EIDRM], tried, attack(id)),
        None => Answer::skipped(tried, "none could be laid"),
    }
}
