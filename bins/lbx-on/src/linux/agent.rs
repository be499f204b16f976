//! A socket at this end that stands for the ssh agent of the caller at the other.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use lbx::caller::Caller;
use lbx_on::frame::Frame;
use rustix::event::{PollFd, PollFlags};

use lbx::agent::{MESSAGE_MAX, may_pass, refusal};

/// Where the directories of sockets lie: one for each call, called by its process.
const ROOT: &str = "/run/llima-box-agents";
/// Connections at once.
const AT_ONCE: usize = 32;

/// A socket, and who is connected to it. It goes when this is dropped.
#[derive(Debug)]
pub(super) struct Agent {
    dir: PathBuf,
    listener: UnixListener,
    clients: BTreeMap<u32, Client>,
    next: u32,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    received: Vec<u8>,
    to_send: Vec<u8>,
    /// A request is on its way: the next one is read when it is answered.
    asked: bool,
}

impl Agent {
    /// Makes a socket that `caller` alone, and root, may connect to.
    pub(super) fn listen(caller: Caller) -> io::Result<Agent> {
        let root = Path::new(ROOT);
        fs::DirBuilder::new().recursive(true).mode(0o711).create(root)?;
        remove_abandoned(root);
        let dir = root.join(std::process::id().to_string());
        // of a call that was killed when it had this number
        let _ = fs::remove_dir_all(&dir);
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let listen = || {
            let listener = UnixListener::bind(dir.join("socket"))?;
            listener.set_nonblocking(true)?;
            chown(dir.join("socket"), Some(caller.uid), Some(caller.gid))?;
            chown(&dir, Some(caller.uid), Some(caller.gid))?;
            Ok(listener)
        };
        match listen() {
            Ok(listener) => Ok(Agent { dir, listener, clients: BTreeMap::new(), next: 0 }),
            Err(e) => {
                let _ = fs::remove_dir_all(&dir);
                Err(e)
            }
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.join("socket")
    }

    /// What to wait for: in the order in which [`Agent::work`] takes the answers.
    pub(super) fn wanted(&self) -> Vec<PollFd<'_>> {
        let listener = if self.clients.len() < AT_ONCE { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = vec![PollFd::from_borrowed_fd(self.listener.as_fd(), listener)];
        for client in self.clients.values() {
            // one that does not take its replies is not read either
            let is_idle = !client.asked && client.to_send.is_empty();
            let mut flags = if is_idle { PollFlags::IN } else { PollFlags::empty() };
            if !client.to_send.is_empty() {
                flags |= PollFlags::OUT;
            }
            fds.push(PollFd::from_borrowed_fd(client.stream.as_fd(), flags));
        }
        fds
    }

    /// Accepts, reads and writes what is `ready`, and returns the requests to be asked near.
    pub(super) fn work(&mut self, ready: &[PollFlags]) -> Vec<Frame> {
        let mut requests = Vec::new();
        let mut gone = Vec::new();
        for ((id, client), ready) in self.clients.iter_mut().zip(&ready[1..]) {
            if ready.is_empty() {
                continue;
            }
            match client.work(*ready) {
                Ok(Some(request)) => requests.push(Frame::Ask(*id, request)),
                Ok(None) => {}
                Err(_) => gone.push(*id),
            }
        }
        for id in gone {
            self.clients.remove(&id);
        }
        if ready[0].contains(PollFlags::IN)
            && let Ok((stream, _)) = self.listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            let client = Client { stream, received: Vec::new(), to_send: Vec::new(), asked: false };
            self.clients.insert(self.next, client);
            self.next = self.next.wrapping_add(1);
        }
        requests
    }

    /// Passes the agent's `reply` on; its client may have gone.
    pub(super) fn reply(&mut self, id: u32, reply: Vec<u8>) {
        if let Some(client) = self.clients.get_mut(&id).filter(|client| client.asked) {
            client.asked = false;
            client.answer(&reply);
        }
    }
}

impl Client {
    /// The next request that may pass; an error when the client is to be hung up.
    fn work(&mut self, ready: PollFlags) -> io::Result<Option<Vec<u8>>> {
        if ready.contains(PollFlags::OUT) {
            let length = self.stream.write(&self.to_send)?;
            self.to_send.drain(..length);
        }
        if self.asked {
            // what else it says, or that it has gone, is heard after the answer
            return match ready.intersects(PollFlags::HUP | PollFlags::ERR) {
                true => Err(io::Error::from(ErrorKind::UnexpectedEof)),
                false => Ok(None),
            };
        }
        if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            let mut bytes = [0; 16 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::Error::from(ErrorKind::UnexpectedEof)),
                Ok(length) => self.received.extend_from_slice(&bytes[..length]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        while let Some(request) = self.request()? {
            if may_pass(&request) {
                self.asked = true;
                return Ok(Some(request));
            }
            self.answer(&refusal());
        }
        Ok(None)
    }

    fn request(&mut self) -> io::Result<Option<Vec<u8>>> {
        let [a, b, c, d, rest @ ..] = self.received.as_slice() else { return Ok(None) };
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if length == 0 || length > MESSAGE_MAX {
            return Err(io::Error::from(ErrorKind::InvalidData));
        }
        let Some(request) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
        self.received.drain(..4 + length);
        Ok(Some(request))
    }

    fn answer(&mut self, reply: &[u8]) {
        self.to_send.extend((reply.len() as u32).to_be_bytes());
        self.to_send.extend_from_slice(reply);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Directories of calls that were killed.
fn remove_abandoned(root: &Path) {
    let Ok(entries) = root.read_dir() else { return };
    for entry in entries.flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
