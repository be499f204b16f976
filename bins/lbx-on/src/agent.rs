//! The caller's ssh agent, near: asked to list keys and to sign, and nothing else, whatever the
//! far side may want of it.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use lbx_on::frame::Frame;

/// The requests of the protocol (draft-ietf-sshm-ssh-agent) that pass.
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
/// SSH_AGENT_FAILURE.
const FAILURE: u8 = 5;
/// As much as OpenSSH's agent takes, and gives.
pub(crate) const MESSAGE_MAX: usize = 256 * 1024;
/// Requests at once.
const AT_ONCE: usize = 32;

/// Where the caller's agent listens.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    socket: Arc<PathBuf>,
    asked: Arc<AtomicUsize>,
}

/// Whether `request` may reach an agent.
pub(crate) fn may_pass(request: &[u8]) -> bool {
    matches!(request.first(), Some(&REQUEST_IDENTITIES | &SIGN_REQUEST)) && request.len() <= MESSAGE_MAX
}

/// What a request gets that may not pass.
pub(crate) fn refusal() -> Vec<u8> {
    vec![FAILURE]
}

impl Agent {
    pub(crate) fn at(socket: PathBuf) -> Agent {
        Agent { socket: Arc::new(socket), asked: Arc::default() }
    }

    /// Asks the agent, and sends its reply on connection `id` to `out`: a person may have to agree,
    /// so that nobody waits here. False: more is asked at once than any far end of ours asks.
    pub(crate) fn ask(&self, id: u32, request: Vec<u8>, out: &Sender<Vec<u8>>) -> bool {
        if self.asked.fetch_add(1, Ordering::SeqCst) >= AT_ONCE {
            return false;
        }
        let (agent, to) = (self.clone(), out.clone());
        let answer = move || {
            let reply = match may_pass(&request) {
                true => agent.reply(&request).unwrap_or_else(|_| refusal()),
                false => refusal(),
            };
            let _ = to.send(Frame::Reply(id, reply).bytes());
            agent.asked.fetch_sub(1, Ordering::SeqCst);
        };
        if std::thread::Builder::new().spawn(answer).is_err() {
            let _ = out.send(Frame::Reply(id, refusal()).bytes());
            self.asked.fetch_sub(1, Ordering::SeqCst);
        }
        true
    }

    fn reply(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(self.socket.as_path())?;
        let mut message = (request.len() as u32).to_be_bytes().to_vec();
        message.extend_from_slice(request);
        stream.write_all(&message)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 || length > MESSAGE_MAX {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let mut reply = vec![0; length];
        stream.read_exact(&mut reply)?;
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn keys_are_listed_and_used_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut request = [0; 5];
                stream.read_exact(&mut request).unwrap();
                stream.write_all(&[0, 0, 0, 2, 6, request[4]]).unwrap();
            }
        });
        let agent = Agent::at(path);
        let (out, replies) = std::sync::mpsc::channel();
        let reply = |kind| {
            assert!(agent.ask(7, vec![kind], &out));
            replies.recv().unwrap()
        };
        for kind in [11, 13] {
            assert_eq!(reply(kind), Frame::Reply(7, vec![6, kind]).bytes());
        }
        for kind in [17, 18, 19, 22, 23, 20, 27, 0, 255] {
            assert_eq!(reply(kind), Frame::Reply(7, vec![5]).bytes(), "{kind}");
        }
        assert!(!may_pass(&[]) && !may_pass(&vec![11; MESSAGE_MAX + 1]));
    }
}
