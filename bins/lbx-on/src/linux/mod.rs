//! The far end: answers at a socket that systemd passes, or on its own standard streams.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use lbx::failure::{Failure, Result, fail, status};
use lbx::sys::{Disposition, Schedule};
use lbx::{step, sys};
use nix::sys::signal::Signal;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;

use crate::greeting::{Answer, Request, read_line};

mod agent;
mod call;
mod spare;
mod tools;

use spare::Spare;
use tools::Version;

/// Set when another version's far end has greeted the near one already.
const GREETED: &str = "LBX_SERVE_VERSION";
/// Set with it when the call came by the socket of a VM, whose host it comes from.
const IN_VM: &str = "LBX_SERVE_VM";
/// The pause after a process that could not be made, or could not take a connection.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// The first descriptor that systemd passes (sd_listen_fds(3)).
const PASSED: i32 = 3;

/// Who is on the other end of a socket: the invoking user of the tools that run for them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    uid: u32,
    gid: u32,
}

/// Serves one stream, or every connection of a socket.
pub(crate) fn serve() -> Result<u8> {
    if !lbx::caller::is_root() {
        return fail(Failure::new("must be root to serve").hint("sudo -n must work without a password"));
    }
    // what is made here has the mode that is asked for, whoever called
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    match listens() {
        true => answer_all(),
        false => converse(None, None),
    }
}

/// Whether systemd passes a socket.
fn listens() -> bool {
    let number = |variable| std::env::var(variable).ok()?.parse::<u32>().ok();
    number("LISTEN_PID") == Some(std::process::id()) && number("LISTEN_FDS") == Some(1)
}

/// Answers every connection in a process of its own, which is there before the connection is: nobody
/// waits for it to be made.
fn answer_all() -> Result<u8> {
    // a connection that comes is served before the next process is made
    let _ = sys::schedule(None, Schedule::Batch);
    // nobody asks how they ended
    sys::dispose(Signal::SIGCHLD, Disposition::Ignore).context("cannot set up signals")?;
    loop {
        let (taken, take) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
        let this = rustix::process::getpid();
        if let Ok(None) = sys::fork() {
            drop(taken);
            let status = answer_one(this, take).unwrap_or_else(|error| crate::TOOL.report(&error));
            sys::exit_now(status)
        }
        // the other end is the new process's alone: where there is none, nothing comes
        drop(take);
        if !matches!(File::from(taken).read(&mut [0]), Ok(1)) {
            std::thread::sleep(AGAIN_AFTER);
        }
        // newer tools have come over one of the connections
        if tools::entry().is_some_and(|entry| Some(entry) != tools::own()) {
            let _ = sys::schedule(None, Schedule::Ordinary);
            sys::dispose(Signal::SIGCHLD, Disposition::Default).context("cannot set up signals")?;
            let mut command = Command::new(tools::ENTRY);
            command.arg("--serve");
            match step::replace(command)? {}
        }
    }
}

/// Waits for a connection, tells `parent` by a byte to `take` that it is taken, and serves it.
fn answer_one(parent: Pid, take: OwnedFd) -> Result<u8> {
    let _ = sys::schedule(None, Schedule::Ordinary);
    sys::dispose(Signal::SIGCHLD, Disposition::Default).context("cannot set up signals")?;
    // who waits for a connection ends with the service; who serves one does not
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("cannot tie this process to the service")?;
    if rustix::process::getppid() != Some(parent) {
        return Ok(status::DONE);
    }
    // the socket is for this process alone
    rustix::io::fcntl_setfd(sys::borrow(PASSED), rustix::io::FdFlags::CLOEXEC).context("cannot set up the socket")?;
    let spare = Spare::start();
    let stream = loop {
        match rustix::net::accept_with(sys::borrow(PASSED), rustix::net::SocketFlags::CLOEXEC) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            stream => break stream.context("cannot accept a connection")?,
        }
    };
    let _ = rustix::process::set_parent_process_death_signal(None);
    let _ = rustix::io::write(&take, &[0]);
    drop(take);
    answer(stream, spare)
}

/// Serves `stream` in a process of its own.
fn answer(stream: OwnedFd, spare: Option<Spare>) -> Result<u8> {
    let peer = rustix::net::sockopt::socket_peercred(&stream).context("cannot tell who is there")?;
    let peer = Peer { uid: peer.uid.as_raw(), gid: peer.gid.as_raw() };
    for fd in [0, 1] {
        sys::duplicate(stream.as_raw_fd(), fd).context("cannot place a stream")?;
    }
    drop(stream);
    sys::close_between(PASSED as u32, PASSED as u32).context("cannot close the socket")?;
    converse(Some(peer), spare)
}

/// One conversation on 0 and 1.
fn converse(peer: Option<Peer>, spare: Option<Spare>) -> Result<u8> {
    if let Some((version, in_vm)) = greeted() {
        return call::run(&version, peer, in_vm, String::new(), None);
    }
    let mut near = Streams;
    let line = match read_line(&mut near) {
        Ok(Some(line)) => line,
        Ok(None) => return Ok(status::DONE),
        Err(e) => return refuse(&e.to_string()),
    };
    match Request::parse(&line) {
        Some(Request::Call(versions)) => {
            let arch = rustix::system::uname().machine().to_string_lossy().into_owned();
            let version = versions.into_iter().find(|(of, _)| *of == arch).map(|(_, version)| version);
            let version = match version.map(Version::installed) {
                Some(Some(version)) => version,
                _ => return say(&Answer::Missing(arch)),
            };
            version.touch();
            if version.is_this() {
                return call::run(&version, peer, peer.is_some(), Answer::Ready.line(), spare);
            }
            say(&Answer::Ready)?;
            let mut command = Command::new(version.tool("lbx-on"));
            command.arg("--serve").env(GREETED, version.name());
            if let Some(peer) = peer {
                peer.tell(&mut command);
                command.env(IN_VM, "1");
            }
            match step::replace(command)? {}
        }
        Some(Request::Tools(version)) => {
            say(&Answer::Ready)?;
            match tools::receive(&version, &mut near) {
                Ok(()) => say(&Answer::Done),
                Err(error) => say(&Answer::Failed(format!("{error:#}"))),
            }
        }
        _ => refuse("the first line is not one of llima-box's"),
    }
}

fn greeted() -> Option<(Version, bool)> {
    Some((Version::installed(std::env::var(GREETED).ok()?)?, std::env::var_os(IN_VM).is_some()))
}

fn refuse(why: &str) -> Result<u8> {
    say(&Answer::Failed(why.to_owned()))?;
    Ok(status::FAILED)
}

fn say(answer: &Answer) -> Result<u8> {
    Streams.write_all(answer.line().as_bytes()).context("cannot answer")?;
    Ok(status::DONE)
}

impl Peer {
    /// Lets `command` know whom it runs for, in the way that sudo does.
    pub(crate) fn tell(self, command: &mut Command) {
        command.env("SUDO_UID", self.uid.to_string()).env("SUDO_GID", self.gid.to_string());
    }
}

/// 0 and 1, without a buffer: what follows a line is somebody else's.
struct Streams;

impl Read for Streams {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(sys::borrow(0), bytes)?)
    }
}

impl Write for Streams {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(sys::borrow(1), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
