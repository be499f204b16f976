//! Starts and stops: the holder, its namespaces and its cgroup.
//!
//! The holder is PID 1 of the environment's PID namespace. It reaps orphans, keeps the lock by which
//! the other tools find it, and can do nothing else: an account of its own, no capability, no
//! descriptor but its lock. Killing it ends every process inside.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, fchown};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use lbx::holder::Holder;
use lbx::record::{Net, RUN};
use lbx::sys::{self, Cloned, Disposition};
use lbx::{Failure, Name, Record, Result, cgroup, holder};
use nix::sys::signal::SigSet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use super::plan::{self, Machine};
use super::{accounts, etc, store, view};

/// How often a cgroup is made anew that others take away.
const TRIES: u32 = 10;
/// How long the holder leaves the others to end by themselves when it is told to: whoever takes the
/// machine down tells all of them.
const LAST_ORDERS: Duration = Duration::from_secs(5);
/// How long a stop waits for killed processes to be gone.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// The descriptors that a holder keeps while it starts.
const LOCK_FD: i32 = 3;
const REPORT_FD: i32 = 4;

/// Starts the environment of `record`, which is not running. Returns warnings.
pub(crate) fn start(record: &Record) -> Result<Vec<String>> {
    let passwd = accounts::passwd()?;
    let ids = accounts::ours(&passwd, &record.name).filter(|ids| ids.uid == record.uid);
    let (Some(_), Some(holder_id)) = (ids, accounts::holder_id(&passwd)) else {
        return Err(Failure::new(format!("account '{}' is missing", record.name))
            .hint("lbx-env repair makes it anew")
            .into());
    };
    // what a holder that was killed left behind
    clear(&record.name, None)?;
    let steps = plan::plan(record, &machine());
    let run = holder::dir(&record.name);
    store::make_dir(&run, 0o755)?;
    // the mounts and the holder would keep that of whoever calls
    sys::new_session_keyring().context("cannot make a session keyring")?;
    let started = view::gather(record, &steps, &passwd).and_then(|materials| {
        let warnings = materials.warnings.clone();
        let lock = make_lock(&record.name, holder_id)?;
        let cgroup = make_cgroup(&record.name)?;
        launch(record, &lock, cgroup, holder_id, || view::enter(record, &steps, materials))?;
        Ok(warnings)
    });
    if started.is_err() {
        let _ = clear(&record.name, None).and_then(|()| etc::release());
    }
    started
}

/// What this machine has.
pub(crate) fn machine() -> Machine {
    Machine {
        top: plan::TOP
            .iter()
            .filter(|path| fs::symlink_metadata(path).is_ok())
            .map(|path| (path.into(), fs::read_link(path).ok()))
            .collect(),
        present: plan::OPTIONAL.iter().map(PathBuf::from).filter(|path| path.exists()).collect(),
        sockets: listening_sockets(&String::from_utf8_lossy(&fs::read("/proc/net/unix").unwrap_or_default()))
            .into_iter()
            .filter(|path| fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()))
            .collect(),
        cgroups: cgroup::root().is_ok(),
    }
}

/// The paths of `/proc/net/unix`: sockets that a name in the file system leads to. Anybody chooses
/// such names, so that a path counts only at its place in a line, and where a socket lies there.
fn listening_sockets(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let mut rest = line;
        for _ in 0..7 {
            rest = rest.trim_start_matches(' ').split_once(' ')?.1;
        }
        Some(rest).filter(|path| path.starts_with('/')).map(PathBuf::from)
    };
    let mut sockets: Vec<_> = text.lines().filter_map(path).collect();
    sockets.sort();
    sockets.dedup();
    sockets
}

/// The lock file, root's alone; its group tells who a holder is.
fn make_lock(name: &Name, holder_id: u32) -> Result<File> {
    let path = holder::lock_file(name);
    let make = || -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        fchown(&file, Some(0), Some(holder_id))?;
        Ok(file)
    };
    make().with_context(|| format!("cannot make '{}'", path.display()))
}

/// The cgroup of `name`, outside of any login session's. `None` on a kernel without cgroups of
/// version 2.
fn make_cgroup(name: &Name) -> Result<Option<OwnedFd>> {
    let Ok(root) = cgroup::root() else { return Ok(None) };
    let make = || -> io::Result<OwnedFd> {
        let parent = make_group(&root, cgroup::PARENT)?;
        // only where this hierarchy has the controllers, and they may already be on
        for (dir, of) in [(&root, "root"), (&parent, "parent")] {
            if let Err(e) = write(dir, "cgroup.subtree_control", "+pids +memory")
                && !matches!(
                    e.raw_os_error(),
                    Some(libc::EINVAL | libc::EBUSY | libc::ENOENT | libc::EOPNOTSUPP | libc::EACCES | libc::EROFS)
                )
            {
                // whoever tries again goes by the number
                return Err(if cgroup::is_gone(&e) { e } else { io::Error::new(e.kind(), format!("{of}: {e}")) });
            }
        }
        let own = make_group(&parent, name.as_str())?;
        match write(&own, "pids.max", &cgroup::PROCESSES.to_string()) {
            // no such controller here: lbx-enter sets RLIMIT_NPROC too
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
        Ok(own)
    };
    let mut made = make();
    for _ in 0..TRIES {
        match &made {
            // the last environment has just stopped, and took the common cgroup away
            Err(e) if cgroup::is_gone(e) => made = make(),
            _ => break,
        }
    }
    made.map(Some).with_context(|| format!("cannot make cgroup '{}/{name}'", cgroup::PARENT))
}

fn make_group(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    Ok(openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn write(dir: &OwnedFd, file: &str, text: &str) -> io::Result<()> {
    let file = openat(dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    File::from(file).write_all(text.as_bytes())
}

/// Starts the holder, and waits until it holds.
fn launch(
    record: &Record,
    lock: &File,
    cgroup: Option<OwnedFd>,
    holder_id: u32,
    enter: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if record.options.net == Net::None {
        namespaces |= libc::CLONE_NEWNET;
    }
    let (mut report, tell) = io::pipe().context("cannot make a pipe")?;
    let cloned = sys::clone(namespaces, cgroup.as_ref().map(AsFd::as_fd))
        .context("cannot make namespaces (sysctl user.max_*_namespaces limit their number)")?;
    match cloned {
        Cloned::Child => {
            drop(report);
            let assembled = assemble(record, enter)
                .and_then(|()| settle(lock.as_raw_fd(), tell.as_raw_fd()).context("cannot settle descriptors"));
            if let Err(e) = assembled {
                let _ = (&tell).write_all(format!("{e:#}").as_bytes());
                sys::exit_now(1)
            }
            hold(holder_id)
        }
        Cloned::Parent(pid, pidfd) => {
            drop(tell);
            let mut told = String::new();
            report.read_to_string(&mut told).context("cannot read from the holder")?;
            if told == HELD {
                return Ok(());
            }
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = nix::sys::wait::waitpid(pid, None);
            let why = if told.is_empty() { "it was killed".to_owned() } else { told };
            Err(Failure::new(why).into())
        }
    }
}

/// What a holder says once it holds.
const HELD: &str = "\0held";

/// Makes what the environment has, in a process that is PID 1 of it.
fn assemble(record: &Record, enter: impl FnOnce() -> Result<()>) -> Result<()> {
    rustix::process::setsid().context("cannot make a session")?;
    // by unshare, not by clone: a cgroup namespace is rooted where its maker stands, and only the
    // child stands in the environment's cgroup
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).context("cannot make a cgroup namespace")?;
    rustix::system::sethostname(record.name.as_str().as_bytes()).context("cannot set the host name")?;
    if record.options.net == Net::None {
        sys::raise_loopback().context("cannot raise the loopback interface")?;
    }
    enter()
}

/// Leaves /dev/null on 0 to 2, the lock on 3, the report on 4, and nothing else.
fn settle(lock: i32, report: i32) -> io::Result<()> {
    use std::os::fd::IntoRawFd;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?.into_raw_fd();
    // high first: a descriptor may lie where another is about to go. From here on they are numbers:
    // an owner that went away later would close what has taken its number
    let high = |fd: i32| nix::fcntl::fcntl(sys::borrow(fd), nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(100));
    let (lock, report, null) = (high(lock)?, high(report)?, high(null)?);
    for to in 0..=2 {
        sys::duplicate(null, to)?;
    }
    sys::duplicate(lock, LOCK_FD)?;
    sys::duplicate(report, REPORT_FD)?;
    sys::close_between(REPORT_FD as u32 + 1, u32::MAX)
}

/// Holds until it is killed, or told to end as the machine goes down.
fn hold(holder_id: u32) -> ! {
    let report = sys::adopt(REPORT_FD);
    let lock = sys::adopt(LOCK_FD);
    let held = drop_privilege(holder_id)
        .context("cannot give up privilege")
        .and_then(|()| holder::take(&lock).context("cannot take the holder's lock"));
    if let Err(e) = held {
        let _ = (&report).write_all(format!("{e:#}").as_bytes());
        sys::exit_now(1)
    }
    let _ = (&report).write_all(HELD.as_bytes());
    drop(report);
    // blocked by now: all else that is sent to a first process is ignored
    while !matches!(ending().wait(), Ok(signal) if signal == nix::sys::signal::Signal::SIGTERM) {}
    let end = Instant::now() + LAST_ORDERS;
    while Instant::now() < end && is_anyone_here() {
        std::thread::sleep(Duration::from_millis(20));
    }
    sys::exit_now(0)
}

fn ending() -> SigSet {
    [nix::sys::signal::Signal::SIGTERM].into_iter().collect()
}

/// Whether another process is in this namespace; one may not be signalled, but that is told.
fn is_anyone_here() -> bool {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), None) != Err(nix::errno::Errno::ESRCH)
}

fn drop_privilege(holder_id: u32) -> io::Result<()> {
    ending().thread_block()?;
    sys::dispose(nix::sys::signal::Signal::SIGCHLD, Disposition::Ignore)?; // the kernel reaps orphans then
    rustix::thread::set_name(c"lbx-holder")?;
    sys::drop_bounding_set()?;
    sys::become_user(holder_id, holder_id)
}

/// Ends every process of `name`, and removes what a running environment has.
pub(crate) fn stop(name: &Name) -> Result<()> {
    let stop = || -> Result<()> {
        let holder = holder::find(name)?;
        if let Some(holder) = &holder {
            match pidfd_send_signal(&holder.pidfd, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(e) => return Err(e.into()),
            }
        }
        clear(name, holder.as_ref())?;
        etc::release()
    };
    stop().with_context(|| format!("cannot stop environment '{name}'"))
}

/// Removes the cgroup, with what is in it, and the run-time directory of `name`; its holder is dead
/// or dying.
fn clear(name: &Name, holder: Option<&Holder>) -> Result<()> {
    if let Some(dir) = cgroup::find(name).with_context(|| format!("cannot open cgroup of '{name}'"))? {
        kill_group(&dir, holder)?;
        let parent = openat(&dir, "..", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        match unlinkat(&parent, name.as_str(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e).with_context(|| format!("cannot remove cgroup of '{name}'")),
        }
        // the last environment takes the common one with it; a start that lost it makes it anew
        let grandparent = openat(&parent, "..", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let _ = unlinkat(&grandparent, cgroup::PARENT, AtFlags::REMOVEDIR);
    }
    let remove = || -> io::Result<()> {
        store::remove_file(&holder::lock_file(name))?;
        store::remove_dir(&holder::dir(name))
    };
    remove().with_context(|| format!("cannot remove '{RUN}/{name}'"))
}

/// Kills what is in the cgroup, and waits until nothing is. The holder's exit may come sooner or
/// much later, since a stopped lbx-enter holds it up: it only says when to look again (the
/// cgroup's own event may come 10 ms late).
fn kill_group(dir: &OwnedFd, holder: Option<&Holder>) -> Result<()> {
    const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
    match write(dir, "cgroup.kill", "1") {
        // before Linux 5.14 the holder's death alone ends the others
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        result => result?,
    }
    let deadline = Instant::now() + STOP_WAIT;
    let mut exit = holder.map(|holder| &holder.pidfd);
    while !cgroup::read(dir, "cgroup.events")?.lines().any(|line| line == "populated 0") {
        if Instant::now() > deadline {
            return Err(Failure::new(format!("its processes did not end within {} s", STOP_WAIT.as_secs())).into());
        }
        let mut fds: Vec<PollFd<'_>> = exit.iter().map(|pidfd| PollFd::new(*pidfd, PollFlags::IN)).collect();
        if poll(&mut fds, Some(&LOOK_AGAIN)).is_ok_and(|ready| ready > 0) {
            exit = None;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn sockets_with_a_path_are_found() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01   123 /opt/a b
0000000000000000: 00000002 00000000 00010000 0001 01 12345 @x /usr/bin/git
0000000000000000: 00000002 00000000 00010000 0001 01 12346 y /usr/lib/git-core
0000000000000000: 00000002 00000000 00010000 0001 01 12347
";
        assert_eq!(listening_sockets(text), [Path::new("/opt/a b")]);
    }
}
