//! Namespaces: made anew, joined, or those of the machine.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use libc::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS, SIGCHLD,
};

use super::{Attack, Called, attack, not_readable, refused};
use crate::linux::inside::Inside;
use crate::linux::line::Answer;
use crate::linux::raw::call;

const CLONE_NEWTIME: i32 = 0x80;

pub(super) const ATTACKS: &[Attack] = &[
    attack("unshare-user", "user_namespaces(7), CVE-2022-0185", "makes a namespace where it is root", |_| {
        unshare("user", CLONE_NEWUSER)
    })
    .given_up_by_nest(),
    attack("unshare-mount", "mount_namespaces(7)", "makes mounts of its own", |_| unshare("mount", CLONE_NEWNS)),
    attack("unshare-network", "network_namespaces(7)", "makes a network of its own", |_| {
        unshare("network", CLONE_NEWNET)
    }),
    attack("unshare-pid", "pid_namespaces(7)", "hides its processes", |_| unshare("pid", CLONE_NEWPID)),
    attack("unshare-ipc", "ipc_namespaces(7)", "makes System V objects of its own", |_| unshare("ipc", CLONE_NEWIPC)),
    attack("unshare-uts", "uts_namespaces(7)", "makes a host name of its own", |_| unshare("uts", CLONE_NEWUTS)),
    attack("unshare-cgroup", "cgroup_namespaces(7)", "hides its cgroup", |_| unshare("cgroup", CLONE_NEWCGROUP)),
    attack("unshare-time", "time_namespaces(7)", "makes clocks of its own", |_| unshare("time", CLONE_NEWTIME)),
    attack("clone-user", "clone(2), CLONE_NEWUSER", "starts a process that is root of its namespace", |_| {
        refused("clone CLONE_NEWUSER", child(call!(libc::SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0)))
    })
    .given_up_by_nest(),
    attack("clone3", "clone3(2)", "passes flags where no filter looks", |_| {
        let arguments = [CLONE_NEWUSER as u64, 0, 0, 0, SIGCHLD as u64, 0, 0, 0];
        refused("clone3", child(call!(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments))))
    }),
    attack("setns-own", "setns(2)", "joins a namespace", |_| {
        let fd = call!(libc::SYS_openat, libc::AT_FDCWD, c"/proc/self/ns/uts".as_ptr(), libc::O_RDONLY);
        refused("setns own uts", fd.and_then(|fd| call!(libc::SYS_setns, fd, 0)))
    }),
    attack("setns-first", "setns(2), pidfd_open(2)", "joins the namespaces of the first process", |_| {
        let fd = call!(libc::SYS_pidfd_open, 1, 0);
        refused("setns pidfd of 1", fd.and_then(|fd| call!(libc::SYS_setns, fd, CLONE_NEWUSER | CLONE_NEWNS)))
    }),
    attack("namespaces-first", "proc_pid_ns(5)", "opens the namespaces of the first process", |_| {
        not_readable(["mnt", "pid", "net", "ipc", "user", "cgroup"].map(|kind| format!("/proc/1/ns/{kind}")))
    }),
    attack("set-host-name", "sethostname(2)", "renames the environment", |inside| {
        let name = &inside.told.name;
        refused("sethostname", call!(libc::SYS_sethostname, name.as_ptr(), name.len()))
    }),
    attack("set-domain-name", "setdomainname(2)", "renames its domain", |_| {
        let names = rustix::system::uname();
        let name = names.domainname();
        refused("setdomainname", call!(libc::SYS_setdomainname, name.as_ptr(), name.to_bytes().len()))
    }),
    attack("namespace-mount", "mount_namespaces(7)", "sees the machine's mounts", |inside| own(inside, "mnt")),
    attack("namespace-pid", "pid_namespaces(7)", "sees the machine's processes", |inside| own(inside, "pid")),
    attack("namespace-ipc", "ipc_namespaces(7)", "sees the machine's System V objects", |inside| own(inside, "ipc")),
    attack("namespace-uts", "uts_namespaces(7)", "has the machine's name", |inside| own(inside, "uts")),
    attack("namespace-cgroup", "cgroup_namespaces(7)", "sees the machine's cgroups", |inside| own(inside, "cgroup")),
    attack("namespace-network", "network_namespaces(7)", "has the machine's network", |inside| {
        match inside.told.own_network {
            true => own(inside, "net"),
            false => Answer::skipped("compare network namespaces", "shared as documented"),
        }
    }),
];

fn unshare(kind: &str, flags: i32) -> Answer {
    refused(&format!("unshare {kind}"), call!(libc::SYS_unshare, flags))
}

/// Ends the new process at once, on its side.
fn child(called: Called) -> Called {
    if called == Ok(0) {
        lbx::sys::exit_now(0)
    }
    called
}

/// Held when this process's namespace is another than that outside.
fn own(inside: &Inside, kind: &str) -> Answer {
    let tried = format!("compare {kind} namespaces");
    let Some(outside) = inside.told.outside.namespaces.get(kind) else {
        return Answer::skipped(tried, "there are none of this kind");
    };
    match std::fs::metadata(Path::new("/proc/self/ns").join(kind)) {
        Ok(ns) if ns.ino() == *outside => Answer::through(tried, "it is the machine's"),
        Ok(_) => Answer::held(tried, "it is its own"),
        Err(e) => Answer::through(tried, super::errno(&e).to_string()),
    }
}
