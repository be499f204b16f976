//! Joining an environment.
//!
//! The order, written once here and followed in [`join`] and [`confine`] alone: open what must be
//! opened; one setns by pidfd; clone into the cgroup, and from there into the cgroup namespace; a session
//! of its own; close what was opened; then, in [`confine`], limits, a new session keyring, the bounding
//! set, groups, gid, uid, capabilities, `no_new_privs`, the filter; last, as nobody in particular, the
//! directory, the signals, exec.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use lbx::caller::Caller;
use lbx::failure::{Tool, status};
use lbx::holder::{self, Holder};
use lbx::record::{self, Net, Ownership, Record};
use lbx::sys::{self, Cloned, Disposition};
use lbx::{Failure, Name, Result, cgroup, step};
use lbx_enter::Cli;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use rustix::fs::{FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fstat, futimens};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

mod agent;
mod command;
mod filter;
mod gate;
mod relay;
mod report;
mod streams;

use command::Command;
pub(crate) use gate::Gate;
use report::{Failed, Report, Tell};
use streams::Streams;

/// How often an environment that stops under our hands is started again.
const TRIES: u32 = 5;

/// From 0, as any process, to 1000, which is killed before all others (proc_pid_oom_score_adj(5)).
const OOM_SCORE: &str = "500";

/// Runs the command of `cli` and returns its exit status.
pub(crate) fn run(tool: Tool, cli: &Cli, variables: Vec<(OsString, OsString)>, gate: Option<&Gate>) -> Result<u8> {
    sys::close_on_exec_from(3).context("cannot close inherited descriptors")?;
    look_at_streams()?;
    if cfg!(feature = "broken-descriptors") {
        std::mem::forget(rustix::fs::open("/", OFlags::RDONLY, Mode::empty()));
    }
    let record = record::open(&cli.env)?;
    let name = record.name.clone();
    record.require_caller(Caller::current())?;
    step::require_program_out_of_reach(&record)?;
    if record.ownership == Ownership::SharedUid {
        refuse_writable_self(&record)?;
    }
    let directory = directory(&record, cli.options.chdir.as_deref());
    for _ in 0..TRIES {
        let holder = match holder::find(&name).with_context(|| format!("cannot find environment '{name}'"))? {
            Some(holder) => holder,
            None => {
                start(&name)?;
                continue;
            }
        };
        let call = Joining { tool, cli, record: &record, directory: &directory, variables: &variables, gate };
        if let Some(status) = call.join(&holder)? {
            return Ok(status);
        }
    }
    Err(Failure::new(format!("environment '{name}' stops as often as it starts")).into())
}

/// Refuses a directory among the standard streams: it is a way out of any root (`< /` gave the
/// machine's). Lets COMMAND open by name, as /dev/stdin, a pipe that has none elsewhere: whoever
/// has the descriptor may read or write it anyway.
fn look_at_streams() -> Result<()> {
    for fd in 0..=2 {
        let Ok(stat) = fstat(sys::borrow(fd)) else { continue };
        let flags = rustix::fs::fcntl_getfl(sys::borrow(fd)).unwrap_or(OFlags::empty());
        if FileType::from_raw_mode(stat.st_mode).is_dir() || flags.contains(OFlags::PATH) {
            return Err(Failure::new(format!(
                "descriptor {fd} is a directory or a path: it would lead out of the environment"
            ))
            .hint("redirect files, not directories")
            .into());
        }
        if FileType::from_raw_mode(stat.st_mode).is_fifo() && is_anonymous(fd) {
            let _ = rustix::fs::fchmod(sys::borrow(fd), Mode::from_raw_mode(0o666));
        }
    }
    Ok(())
}

fn is_anonymous(fd: i32) -> bool {
    const PIPEFS_MAGIC: u64 = 0x5049_5045;
    rustix::fs::fstatfs(sys::borrow(fd)).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(PIPEFS_MAGIC))
}

/// With the owner's own uid and group inside, a binary that they can write could be replaced from there.
fn refuse_writable_self(record: &Record) -> Result<()> {
    let Record { uid, gid, .. } = *record;
    let program = std::env::current_exe().context("cannot tell this program's own path")?;
    for path in program.ancestors() {
        let meta = fs::metadata(path).with_context(|| format!("cannot look at '{}'", path.display()))?;
        let open_to = if meta.gid() == gid { 0o022 } else { 0o002 };
        let is_open = meta.mode() & open_to != 0 && meta.mode() & 0o1000 == 0;
        if meta.uid() == uid || is_open {
            return Err(Failure::new(format!("uid {uid} of the environment could write '{}'", path.display()))
                .hint("install the tools where root alone can write: scripts/install")
                .into());
        }
    }
    Ok(())
}

fn start(name: &Name) -> Result<()> {
    let mut command = step::sibling("lbx-env")?;
    command.args(["--on", "local", "start", name.as_str()]).stdin(Stdio::null());
    step::output(command).with_context(|| format!("cannot start environment '{name}'"))?;
    Ok(())
}

/// The last use, for people: never synced, and not worth a failure. By descriptor: after the join a path
/// is the environment's.
fn touch(last_used: OwnedFd) {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: omit, last_modification: now };
    let _ = futimens(last_used, &times);
}

/// Where COMMAND starts.
struct Directory {
    path: PathBuf,
    /// What is entered in its place when it cannot be; `None` when it was asked for.
    otherwise: Option<PathBuf>,
}

/// `asked`, relative to the project, else where the caller stands in the project, else the project.
fn directory(record: &Record, asked: Option<&Path>) -> Directory {
    let project = record.project();
    if let Some(asked) = asked {
        return Directory { path: project.join(asked), otherwise: None };
    }
    let here = std::env::current_dir().ok().filter(|here| here.starts_with(&project));
    Directory { path: here.unwrap_or_else(|| project.clone()), otherwise: Some(project) }
}

struct Joining<'a> {
    tool: Tool,
    cli: &'a Cli,
    record: &'a Record,
    directory: &'a Directory,
    variables: &'a [(OsString, OsString)],
    gate: Option<&'a Gate>,
}

impl Joining<'_> {
    /// Joins the environment of `holder`. `None`: it stopped before it could be joined.
    fn join(&self, holder: &Holder) -> Result<Option<u8>> {
        let record = self.record;
        let cgroup = cgroup::find(&record.name).context("cannot open the environment's cgroup")?;
        let caller_agent = match self.cli.options.agent {
            true => agent::relay(self.tool, self.cli.common.quiet)?,
            false => None,
        };
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let last_used = rustix::fs::open(record::last_used_file(&record.name), flags, Mode::empty()).ok();
        if let Err(e) = move_into_thread_name_spaces(holder.pidfd.as_fd(), namespaces(record)) {
            return match e {
                rustix::io::Errno::SRCH => Ok(None),
                e => Err(e).with_context(|| format!("cannot join environment '{}'", record.name)),
            };
        }
        let signals = blocked_signals()?;
        let mut variables = self.own_variables();
        let agent = caller_agent.and_then(|relay| match relay.serve(record.uid, record.gid) {
            Ok(socket) => {
                variables.push(("SSH_AUTH_SOCK".into(), socket.path().as_os_str().to_owned()));
                Some(socket)
            }
            Err(e) => {
                agent::warn(self.tool, self.cli.common.quiet, &e.to_string());
                None
            }
        });
        variables.extend(self.variables.iter().cloned());
        let command = Command::new(&self.cli.command, &record.shell, variables)?;
        let streams = Streams::plan(self.cli.options.no_stdin).context("cannot set up the terminal")?;
        let (report, tell) = Report::pair().context("cannot make a socket pair")?;
        match sys::clone(0, cgroup.as_ref().map(AsFd::as_fd)).context("cannot start a process")? {
            Cloned::Child => {
                drop(report);
                let counted = cgroup.as_ref().is_some_and(cgroup::counts_processes);
                let Err(failed) = self.become_command(holder, streams, &command, &signals, &tell, counted);
                tell.failed(&failed);
                sys::exit_now(status::TOOL_FAILED)
            }
            Cloned::Parent(pid, _pidfd) => {
                drop(tell);
                // nobody waits for this any more
                last_used.into_iter().for_each(touch);
                // what is relayed is the agent's: no privilege is needed for it, and none is kept
                sys::become_user(record.uid, record.gid).context("cannot give up privilege")?;
                let outside = streams.into_outside().context("cannot let go of standard streams")?;
                let ended = relay::relay(outside, report, pid)?;
                drop(agent);
                let status = ended.into_status(command.name());
                if let (Some(gate), Ok(status)) = (self.gate, &status) {
                    gate.tell(*status);
                }
                // last: with the process goes its filter, and freeing that takes longer than all the rest
                relay::reap(pid);
                status.map(Some)
            }
        }
    }

    /// What every command inside finds.
    fn own_variables(&self) -> Vec<(OsString, OsString)> {
        let record = self.record;
        let home = record.home.display();
        let path = format!(
            "{home}/.local/bin:{home}/.cargo/bin:{home}/go/bin:/opt/llima-box/bin:\
             /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        );
        let name = OsString::from(record.name.as_str());
        vec![
            ("HOME".into(), record.home.clone().into()),
            ("USER".into(), name.clone()),
            ("LOGNAME".into(), name.clone()),
            ("SHELL".into(), record.shell.clone().into()),
            ("PATH".into(), path.into()),
            ("LBX_ENV".into(), name),
            ("LBX_PROJECT".into(), record.project().into()),
        ]
    }

    /// The child: becomes the command, or its monitor where there is a terminal. Returns only why not.
    fn become_command(
        &self,
        holder: &Holder,
        mut streams: Streams,
        command: &Command,
        signals: &SigSet,
        tell: &Tell,
        counted: bool,
    ) -> Result<Infallible, Failed> {
        let failed = |stage: &'static str| move |e: io::Error| Failed::new(stage, &e);
        if !cfg!(feature = "broken-cgroup") {
            // from inside the cgroup alone: where cgroups are delegated to namespaces (nsdelegate), nothing
            // is cloned into one from outside
            move_into_thread_name_spaces(holder.pidfd.as_fd(), ThreadNameSpaceType::CONTROL_GROUP)
                .map_err(io::Error::from)
                .map_err(failed("cannot join the cgroup namespace"))?;
        }
        rustix::process::setsid().map_err(io::Error::from).map_err(failed("cannot make a session"))?;
        let is_monitor = streams.take_terminal().map_err(failed("cannot take the terminal"))?;
        if !cfg!(feature = "broken-closing") {
            let kept = streams.inside().chain([tell.as_fd()]).chain(self.gate.map(AsFd::as_fd));
            close_but(kept).map_err(failed("cannot close descriptors"))?;
        }
        confine(self.record, counted).map_err(failed("cannot confine the command"))?;
        if is_monitor {
            relay::monitor(&streams, tell).map_err(failed("cannot start a process"))?;
        } else {
            // whoever relays for it is its life line
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::HUP))
                .map_err(io::Error::from)
                .map_err(failed("cannot tie the command to its caller"))?;
        }
        streams.settle().map_err(failed("cannot set up standard streams"))?;
        self.enter_directory().map_err(failed("cannot enter directory"))?;
        restore_signals(signals).map_err(failed("cannot restore signals"))?;
        if let Some(gate) = self.gate {
            gate.wait().map_err(failed("cannot begin"))?;
        }
        Err(command.exec())
    }

    fn enter_directory(&self) -> io::Result<()> {
        let Directory { path, otherwise } = self.directory;
        match (enter(path), otherwise) {
            (Err(_), Some(otherwise)) => enter(otherwise),
            (entered, _) => entered,
        }
    }
}

/// Closes, for good, every descriptor from 3 on that is not `kept`. Exec does so too late: the directory
/// and COMMAND are looked up before, perhaps by a link to `/proc/self/fd/3/..` that lies in the project
/// (CVE-2024-21626).
fn close_but<'fd>(kept: impl Iterator<Item = BorrowedFd<'fd>>) -> io::Result<()> {
    let mut kept: Vec<u32> = kept.map(|fd| fd.as_raw_fd().cast_unsigned()).filter(|fd| *fd > 2).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept {
        sys::close_between(first, fd - 1)?;
        first = fd + 1;
    }
    sys::close_between(first, u32::MAX)
}

fn enter(path: &Path) -> io::Result<()> {
    rustix::process::chdir(path).map_err(|e| {
        let e = io::Error::from(e);
        io::Error::new(e.kind(), format!("'{}': {e}", path.display()))
    })
}

fn namespaces(record: &Record) -> ThreadNameSpaceType {
    let mut namespaces = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
    if record.options.net == Net::None && !cfg!(feature = "broken-network") {
        namespaces |= ThreadNameSpaceType::NETWORK;
    }
    if cfg!(feature = "broken-ipc") {
        namespaces -= ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION;
    }
    if cfg!(feature = "broken-host-name") {
        namespaces -= ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
    }
    if cfg!(feature = "broken-view") {
        namespaces -= ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::PROCESS_ID;
    }
    namespaces
}

/// Gives up everything that an environment's process does not have. The order is this module's.
///
/// The environment's cgroup may have its processes `counted`: a limit counts all of the uid, which
/// another environment may have, too.
fn confine(record: &Record, counted: bool) -> io::Result<()> {
    if !cfg!(feature = "broken-limits") {
        limit(Resource::Nproc, (!counted).then_some(cgroup::PROCESSES))?;
        // 1, not 0: a core pattern that is a pipe ignores 0 (core(5))
        limit(Resource::Core, Some(1))?;
    }
    // what an agent runs goes first where memory runs out; without privilege it cannot lower that again
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    if !cfg!(feature = "broken-keyring") {
        sys::new_session_keyring()?;
    }
    sys::drop_bounding_set()?;
    let program = filter::program(record.options.nest);
    if cfg!(feature = "broken-no-new-privs") {
        // root alone needs none for a filter
        sys::install_filter(&program)?;
        return sys::become_user(record.uid, record.gid);
    }
    sys::become_user(record.uid, record.gid)?;
    if cfg!(feature = "broken-filter") {
        return Ok(());
    }
    sys::install_filter(&program)
}

/// Sets a limit, or takes it off; one that is lower already stays where raising it is not allowed.
fn limit(resource: Resource, to: Option<u64>) -> io::Result<()> {
    match rustix::process::setrlimit(resource, Rlimit { current: to, maximum: to }) {
        Err(rustix::io::Errno::PERM) => Ok(()),
        set => Ok(set?),
    }
}

/// Blocks the signals that are passed on, and returns the mask that COMMAND is to have.
fn blocked_signals() -> Result<SigSet> {
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&relay::signals()), Some(&mut before)).context("cannot block signals")?;
    Ok(before)
}

fn restore_signals(mask: &SigSet) -> io::Result<()> {
    // Rust's runtime ignores it
    sys::dispose(Signal::SIGPIPE, Disposition::Default)?;
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(mask), None)?)
}

/// `bytes` as a C string; no word of a command line can hold NUL.
fn c_string(bytes: &OsStr) -> Result<CString> {
    CString::new(bytes.as_bytes()).with_context(|| format!("word holds NUL: {}", bytes.display()))
}

fn c_variable((name, value): (OsString, OsString)) -> Result<CString> {
    let mut bytes = name.into_vec();
    bytes.push(b'=');
    bytes.extend(value.into_vec());
    c_string(OsStr::from_bytes(&bytes))
}

/// Opens /dev/null of the environment.
fn null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// Copies descriptor `from` to `to`, which stays open over exec.
fn place(from: &OwnedFd, to: i32) -> io::Result<()> {
    sys::duplicate(from.as_raw_fd(), to)
}
