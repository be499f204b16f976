//! Control groups.

use std::path::{Path, PathBuf};

use super::{Attack, all_refused, attack, entries, names, not_writable};
use crate::linux::line::{Answer, name_of};
use crate::linux::raw::call;

const MOUNT: &str = "/sys/fs/cgroup";

pub(super) const ATTACKS: &[Attack] = &[
    attack("cgroup-release-agent", "CVE-2022-0492", "names a program that the kernel runs as root", |_| {
        let mut files = vec![PathBuf::from(MOUNT).join("release_agent")];
        files.extend(
            entries(Path::new(MOUNT)).into_iter().filter(|dir| dir.is_dir()).map(|dir| dir.join("release_agent")),
        );
        not_writable(files)
    }),
    attack("cgroup-mount", "CVE-2022-0492, cgroups(7)", "mounts the machine's cgroups", |_| {
        // behind the check of privilege: no such option
        let mount = |kind: &std::ffi::CStr, options: &std::ffi::CStr| {
            call!(libc::SYS_mount, c"none".as_ptr(), c"/tmp".as_ptr(), kind.as_ptr(), 0, options.as_ptr())
        };
        all_refused(
            "mount cgroup, cgroup2 on /tmp",
            [("cgroup", mount(c"cgroup", c"lbx-probe")), ("cgroup2", mount(c"cgroup2", c"lbx-probe"))],
        )
    }),
    attack("cgroup-write", "cgroups(7)", "lifts its limits, or kills by its cgroup", |_| {
        not_writable(
            [
                "cgroup.procs",
                "cgroup.threads",
                "cgroup.kill",
                "cgroup.freeze",
                "pids.max",
                "memory.max",
                "cgroup.subtree_control",
            ]
            .map(|file| Path::new(MOUNT).join(file)),
        )
    }),
    attack("cgroup-make", "cgroups(7)", "makes a cgroup", |_| {
        match std::fs::create_dir(Path::new(MOUNT).join("lbx-probe")) {
            Err(e) => Answer::held("mkdir in /sys/fs/cgroup", name_of(super::errno(&e))),
            Ok(()) => {
                let _ = std::fs::remove_dir(Path::new(MOUNT).join("lbx-probe"));
                Answer::through("mkdir in /sys/fs/cgroup", "made")
            }
        }
    }),
    attack("cgroup-path", "cgroup_namespaces(7)", "reads the path of its cgroup", |_| {
        let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        match text.lines().find(|line| line.starts_with("0::") && !line.ends_with(":/")) {
            None => Answer::held("read /proc/self/cgroup", "/"),
            Some(line) => Answer::through("read /proc/self/cgroup", line),
        }
    }),
    attack("cgroup-others", "cgroup_namespaces(7)", "sees cgroups of the machine", |_| {
        let known = ["llima-box", "system.slice", "user.slice", "init.scope", "machine.slice", "docker"];
        match names(Path::new(MOUNT)).into_iter().find(|name| known.contains(&&**name)) {
            None => Answer::held("list /sys/fs/cgroup", "its own alone"),
            Some(name) => Answer::through("list /sys/fs/cgroup", format!("{name} is there")),
        }
    }),
];
