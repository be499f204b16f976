//! The caller's ssh agent, for one call: a socket in the environment, and a process that answers
//! there as the caller, outside, by asking the caller's agent. What [`lbx::agent`] stops is refused.

use std::hash::{BuildHasher, Hasher};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use lbx::Result;
use lbx::agent::{may_pass, read_message, refusal, write_message};
use lbx::caller::Caller;
use lbx::failure::Tool;
use lbx::step;
use lbx::sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Gid, Pid, PidfdFlags, Uid, getpid, pidfd_open};

use super::place;

/// Where sockets of agents lie inside; the directory is the environment's.
const DIRECTORY: &str = "/run/lbx";
/// Connections at once: an agent inside cannot use up the caller's processes.
const CONNECTIONS: usize = 32;

/// How long the end of the relay is waited for.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The process that asks the caller's agent; it waits for a socket to answer at.
#[derive(Debug)]
pub(super) struct Relay {
    channel: OwnedFd,
    process: OwnedFd,
}

/// A socket inside. When this is dropped it goes, and nobody answers any more, be it whom a link led
/// there, or who has been connected all the time.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    relay: Relay,
}

/// Starts the relay, before the environment is joined: it stays outside. `None`: the caller has no
/// agent.
pub(super) fn relay(tool: Tool, quiet: bool) -> Result<Option<Relay>> {
    let Some(agent) = step::carried("SSH_AUTH_SOCK".as_ref()).filter(|path| !path.is_empty()) else {
        warn(tool, quiet, "SSH_AUTH_SOCK is not set");
        return Ok(None);
    };
    let caller = Caller::current();
    // by descriptor: the death signal of a process that has changed its uid does not reach another's
    let parent = pidfd_open(getpid(), PidfdFlags::empty()).context("cannot open this process")?;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context("cannot make a socket pair")?;
    match sys::fork().context("cannot start a process")? {
        None => {
            drop(near);
            let served = become_caller(caller).and_then(|()| serve(&far, &parent, Path::new(&agent)));
            sys::exit_now(if served.is_ok() { 0 } else { 1 })
        }
        Some(pid) => {
            let pid = Pid::from_raw(pid.as_raw()).context("a process has a number")?;
            let process = pidfd_open(pid, PidfdFlags::empty()).context("cannot open a process")?;
            Ok(Some(Relay { channel: near, process }))
        }
    }
}

/// COMMAND goes on without an agent.
pub(super) fn warn(tool: Tool, quiet: bool, why: &str) {
    if !quiet {
        lbx::failure::say(&format!("{}: warning: no ssh agent is forwarded: {why}\n", tool.name));
    }
}

/// The relay touches the caller's agent with the caller's rights, and ends with lbx-enter.
fn become_caller(caller: Caller) -> io::Result<()> {
    // ^C is for COMMAND
    rustix::process::setsid()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    (0..=2).try_for_each(|fd| place(&null, fd))?;
    sys::drop_bounding_set()?;
    sys::become_user(caller.uid, caller.gid)
}

impl Relay {
    /// Makes the socket inside, which the environment's account owns, and lets the relay answer there.
    pub(super) fn serve(self, uid: u32, gid: u32) -> io::Result<Socket> {
        let random = std::hash::RandomState::new().build_hasher().finish();
        let path = Path::new(DIRECTORY).join(format!("agent.{random:016x}"));
        let (root_uid, root_gid) = (rustix::process::geteuid(), rustix::process::getegid());
        rustix::thread::set_thread_res_gid(None, Gid::from_raw(gid), None)?;
        rustix::thread::set_thread_res_uid(None, Uid::from_raw(uid), None)?;
        let listener = UnixListener::bind(&path);
        rustix::thread::set_thread_res_uid(None, root_uid, None)?;
        rustix::thread::set_thread_res_gid(None, root_gid, None)?;
        let listener = listener?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [listener.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&self.channel, &[IoSlice::new(b"l")], &mut control, SendFlags::NOSIGNAL)?;
        Ok(Socket { path, relay: self })
    }
}

impl Socket {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = rustix::net::shutdown(&self.relay.channel, Shutdown::Both);
        let _ = poll(&mut [PollFd::new(&self.relay.process, PollFlags::IN)], Some(&PATIENCE));
    }
}

/// Answers at the socket that comes over `channel`, for as long as that is open and `parent` lives.
fn serve(channel: &OwnedFd, parent: &OwnedFd, agent: &Path) -> io::Result<()> {
    static CONNECTED: AtomicUsize = AtomicUsize::new(0);
    let listener = receive_listener(channel)?;
    loop {
        let mut fds = [
            PollFd::new(&listener, PollFlags::IN),
            PollFd::new(parent, PollFlags::IN),
            PollFd::new(channel, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        if fds[1..].iter().any(|fd| !fd.revents().is_empty()) {
            return Ok(());
        }
        let Ok((client, _)) = listener.accept() else {
            // too many open files, for one: that passes
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        if CONNECTED.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS {
            CONNECTED.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let agent = agent.to_owned();
        let spawned = std::thread::Builder::new().spawn(move || {
            let _ = answer(client, &agent);
            CONNECTED.fetch_sub(1, Ordering::SeqCst);
        });
        if spawned.is_err() {
            CONNECTED.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn receive_listener(channel: &OwnedFd) -> io::Result<UnixListener> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(channel, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.map(UnixListener::from).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
}

/// Passes the requests of one client that may pass.
fn answer(mut client: UnixStream, agent: &Path) -> io::Result<()> {
    let mut upstream = None;
    while let Some(request) = read_message(&mut client)? {
        let reply = match may_pass(&request) {
            true => ask(&mut upstream, agent, &request).unwrap_or_else(|_| {
                upstream = None;
                refusal()
            }),
            false => refusal(),
        };
        write_message(&mut client, &reply)?;
    }
    Ok(())
}

fn ask(upstream: &mut Option<UnixStream>, agent: &Path, request: &[u8]) -> io::Result<Vec<u8>> {
    let stream = match upstream {
        Some(stream) => stream,
        None => upstream.insert(UnixStream::connect(agent)?),
    };
    write_message(stream, request)?;
    read_message(stream)?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// What a client gets for `requests`, from an agent that says yes to whatever reaches it.
    fn replies(requests: &[u8]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        let agent = UnixListener::bind(&path).unwrap();
        let yes = std::thread::spawn(move || {
            let Ok((mut stream, _)) = agent.accept() else { return };
            while let Ok(Some(_)) = read_message(&mut stream) {
                write_message(&mut stream, &[6]).unwrap();
            }
        });
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(requests).unwrap();
        near.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = answer(far, &path);
        let mut bytes = Vec::new();
        near.read_to_end(&mut bytes).unwrap();
        drop(UnixStream::connect(&path));
        yes.join().unwrap();
        bytes
    }

    #[test]
    fn keys_are_listed_and_used_and_nothing_else() {
        assert_eq!(replies(&[0, 0, 0, 1, 11]), [0, 0, 0, 1, 6]);
        assert_eq!(replies(&[0, 0, 0, 2, 13, 0]), [0, 0, 0, 1, 6]);
        // add, remove, remove all, lock, unlock, add smartcard, extension
        for kind in [17, 18, 19, 22, 23, 20, 27, 0, 255] {
            assert_eq!(replies(&[0, 0, 0, 1, kind]), [0, 0, 0, 1, 5], "{kind}");
        }
    }

    #[test]
    fn a_message_of_no_length_or_of_too_much_ends_the_connection() {
        assert!(replies(&[0, 0, 0, 0]).is_empty());
        assert!(replies(&[0xff, 0, 0, 0]).is_empty());
        assert!(replies(&[0, 0, 0, 9, 11]).is_empty());
    }
}
