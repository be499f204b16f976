//! What the kernel shows everybody of running environments: locks, cgroups, processes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::Context;
use lbx::Name;
use lbx::cgroup;
use lbx::failure::Result;
use lbx::holder::{self, Locks};
use lbx::record::RUN;
use rustix::fs::{CWD, Mode, OFlags, openat};

/// This machine at one moment.
pub(crate) struct Machine {
    locks: Locks,
    cgroups: Option<OwnedFd>,
    proc: OwnedFd,
}

/// What an environment takes of the machine.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// Its processes, without the holder, which is the tools' own.
    pub(crate) procs: u64,
    /// Their memory.
    pub(crate) memory_bytes: Option<u64>,
}

impl Load {
    /// What one takes that is stopped.
    pub(crate) const NONE: Load = Load { procs: 0, memory_bytes: Some(0) };
}

impl Machine {
    /// Looks at the machine.
    pub(crate) fn look() -> Result<Machine> {
        // the kernel answers only after an RCU grace period: not asked where nothing can be running
        let locks = match Path::new(RUN).exists() {
            true => holder::locks().context("cannot read '/proc/locks'")?,
            false => Locks::new(),
        };
        // where cgroups of version 2 are not mounted, root alone can look into them
        let cgroups = if locks.is_empty() { None } else { open_cgroups().ok() };
        let proc = openat(CWD, "/proc", DIRECTORY, Mode::empty()).context("cannot open '/proc'")?;
        Ok(Machine { locks, cgroups, proc })
    }

    /// The holder of `name`, where it is running.
    pub(crate) fn holder(&self, name: &Name) -> Option<i32> {
        holder::pid(name, &self.locks)
    }

    /// Whether a tool is making or deleting `name` right now. Asked anew: it is seldom asked.
    pub(crate) fn is_changing(&self, name: &Name) -> bool {
        holder::locks().is_ok_and(|locks| holder::changer(name, &locks).is_some())
    }

    /// What the running environment `name` takes; `None` where this user may not know.
    pub(crate) fn load(&self, name: &Name, holder: i32) -> Option<Load> {
        let read = |file| read(self.cgroups.as_ref()?, &format!("{name}/{file}"));
        let text = read("cgroup.procs")?;
        let pids: Vec<i32> = text.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != holder).collect();
        let counted = read("memory.current").and_then(|text| text.trim().parse().ok());
        Some(Load {
            procs: pids.len() as u64,
            memory_bytes: counted.or_else(|| Some(pids.iter().filter_map(|pid| resident(&self.proc, *pid)).sum())),
        })
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn open_cgroups() -> io::Result<OwnedFd> {
    Ok(openat(cgroup::root()?, cgroup::PARENT, DIRECTORY, Mode::empty())?)
}

/// The text of `file`, which the kernel makes up as it is read; `None` where it may not be read.
fn read(dir: &OwnedFd, file: &str) -> Option<String> {
    let file = openat(dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = vec![0; 256];
    let mut length = 0;
    loop {
        match rustix::io::read(&file, &mut text[length..]).ok()? {
            0 => break,
            more => length += more,
        }
        if length == text.len() {
            text.resize(4 * length, 0);
        }
    }
    text.truncate(length);
    String::from_utf8(text).ok()
}

/// The resident memory of process `pid`; `None` when it is gone.
fn resident(proc: &OwnedFd, pid: i32) -> Option<u64> {
    let text = read(proc, &format!("{pid}/statm"))?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
