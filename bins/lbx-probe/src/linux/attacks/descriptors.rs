//! Descriptors, the working directory and programs as ways out.

use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::{Attack, attack, leads_nowhere, names, processes};
use crate::linux::line::{Answer, name_of};

pub(super) const ATTACKS: &[Attack] = &[
    attack("descriptors", "CVE-2024-21626, close_range(2)", "finds descriptors that were left open", |inside| {
        match inside.descriptors.first() {
            None => Answer::held("list /proc/self/fd", "0, 1 and 2 alone"),
            Some((number, to)) => Answer::through("list /proc/self/fd", format!("{number} is {}", to.display())),
        }
    }),
    attack("descriptors-lead-out", "CVE-2024-21626", "goes out by descriptors that are directories", |inside| {
        let opened = inside.descriptors.iter().map(|(number, _)| *number).chain(0..=2);
        leads_nowhere("go up from every descriptor", opened.map(|fd| PathBuf::from(format!("/proc/self/fd/{fd}"))))
    }),
    attack("descriptors-kind", "open(2), O_PATH", "finds a directory among 0, 1 and 2", |_| {
        let is_way = |fd: &i32| {
            let kind = fstat(lbx::sys::borrow(*fd)).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
            kind == Ok(SFlag::S_IFDIR)
        };
        match (0..=2).find(is_way) {
            None => Answer::held("fstat 0, 1, 2", "none is a directory"),
            Some(fd) => Answer::through("fstat 0, 1, 2", format!("{fd} is a directory")),
        }
    }),
    attack("working-directory", "CVE-2024-21626", "goes out by the working directory", |inside| {
        let tried = "go up from the working directory";
        match std::env::current_dir() {
            Ok(dir) if dir.starts_with(inside.project()) => leads_nowhere(tried, [PathBuf::from("/proc/self/cwd")]),
            Ok(dir) => Answer::through(tried, format!("it is {}", dir.display())),
            Err(e) => Answer::through(tried, format!("it has no path: {}", name_of(super::errno(&e)))),
        }
    }),
    attack("root-above", "chroot(2)", "goes up from the root", |_| {
        leads_nowhere("go up from /", ["/", "/proc/self/root", "/proc/self/task/../root"].map(PathBuf::from))
    }),
    attack("others-lead-out", "CVE-2016-9962, proc_pid_fd(5)", "goes out by what processes here have open", |_| {
        let mut dirs = Vec::new();
        for pid in processes() {
            dirs.extend(["cwd", "root"].map(|link| PathBuf::from(format!("/proc/{pid}/{link}"))));
            let fds = names(Path::new(&format!("/proc/{pid}/fd")));
            dirs.extend(fds.into_iter().map(|fd| PathBuf::from(format!("/proc/{pid}/fd/{fd}"))));
        }
        leads_nowhere("go up from every directory of every process", dirs)
    }),
    attack("program-write", "CVE-2019-5736", "writes to the program that entered", |_| {
        let own = std::fs::read_link("/proc/self/exe").unwrap_or_default();
        let programs = processes().into_iter().map(|pid| PathBuf::from(format!("/proc/{pid}/exe")));
        let entered = |path: &PathBuf| {
            let name = std::fs::read_link(path).unwrap_or_default();
            let file = name.file_name().unwrap_or_default();
            (name != own && (file == "lbx-enter" || file == "lbx-probe")).then_some(name)
        };
        match programs
            .filter(|path| open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).is_ok())
            .find_map(|path| entered(&path))
        {
            Some(name) => Answer::through("open /proc/PID/exe", format!("{} can be opened", name.display())),
            None => Answer::held("open /proc/PID/exe", "none of the machine's"),
        }
    }),
    attack("parent", "ptrace(2), proc_pid_root(5)", "goes out by who started it", |_| {
        let parent = std::os::unix::process::parent_id();
        // the attacker's own process is between
        let above = super::status(&parent.to_string(), "PPid").unwrap_or_default();
        match &*above {
            "0" => Answer::held("look for the parent's parent", "it is not there"),
            pid => super::not_readable(["root", "fd", "mem", "exe"].map(|what| format!("/proc/{pid}/{what}"))),
        }
    }),
];
