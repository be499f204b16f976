//! The caller's ssh agent, near: asked to list keys and to sign, and nothing else, whatever the
//! far side may want of it.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use lbx::agent::{may_pass, read_message, refusal, write_message};
use lbx_on::frame::Frame;

/// Requests at once.
const AT_ONCE: usize = 32;

/// Where the caller's agent listens.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    socket: Arc<PathBuf>,
    asked: Arc<AtomicUsize>,
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
        write_message(&mut stream, request)?;
        read_message(&mut stream)?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
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
                let request = read_message(&mut stream).unwrap().unwrap();
                write_message(&mut stream, &[6, request[0]]).unwrap();
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
    }
}
