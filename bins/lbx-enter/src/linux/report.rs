//! What the inside tells: that COMMAND could not be started, and what the monitor sees of it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lbx::failure::status;
use lbx::{Failure, Result};
use nix::errno::Errno;
use nix::sys::wait::WaitStatus;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

/// Why COMMAND did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// The step that failed; empty for exec itself.
    stage: String,
    errno: i32,
    message: String,
}

impl Failed {
    pub(super) fn new(stage: &str, e: &io::Error) -> Failed {
        Failed { stage: stage.to_owned(), errno: e.raw_os_error().unwrap_or(0), message: e.to_string() }
    }

    pub(super) fn exec(e: Errno) -> Failed {
        Failed { stage: String::new(), errno: e as i32, message: io::Error::from(e).to_string() }
    }
}

/// How COMMAND ended, or that it never began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Exited(u8),
    Signaled(u8),
    Failed(Failed),
}

impl Ended {
    pub(super) fn from_wait(status: WaitStatus) -> Option<Ended> {
        match status {
            WaitStatus::Exited(_, code) => Some(Ended::Exited(code as u8)),
            WaitStatus::Signaled(_, signal, _) => Some(Ended::Signaled(signal as i32 as u8)),
            _ => None,
        }
    }

    /// The exit status that says so, as a shell would.
    pub(super) fn into_status(self, command: &OsStr) -> Result<u8> {
        match self {
            Ended::Exited(code) => Ok(code),
            Ended::Signaled(signal) => Ok(128 + signal),
            Ended::Failed(Failed { stage, errno, message }) if stage.is_empty() => {
                let (status, what) = match Errno::from_raw(errno) {
                    Errno::ENOENT | Errno::ENOTDIR => (status::NOT_FOUND, "not found"),
                    _ => (status::NOT_EXECUTABLE, "cannot execute"),
                };
                let name = command.display();
                let message = match status {
                    status::NOT_FOUND => format!("command {what}: {name}"),
                    _ => format!("{what} '{name}': {message}"),
                };
                Err(Failure::new(message).status(status).into())
            }
            Ended::Failed(Failed { stage, message, .. }) => Err(Failure::new(format!("{stage}: {message}")).into()),
        }
    }
}

/// A word between the monitor and the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// COMMAND has stopped.
    Stopped,
    /// COMMAND has ended.
    Ended(Ended),
    /// COMMAND is to go on.
    Continue,
    /// A signal for COMMAND's process group.
    Signal(i32),
}

impl Word {
    fn encode(&self) -> Vec<u8> {
        match self {
            Word::Stopped => vec![b's'],
            Word::Continue => vec![b'c'],
            Word::Signal(signal) => vec![b'k', *signal as u8],
            Word::Ended(Ended::Exited(code)) => vec![b'x', *code],
            Word::Ended(Ended::Signaled(signal)) => vec![b'd', *signal],
            Word::Ended(Ended::Failed(Failed { stage, errno, message })) => {
                let mut bytes = vec![b'f'];
                bytes.extend(errno.to_le_bytes());
                bytes.extend(stage.as_bytes());
                bytes.push(0);
                bytes.extend(message.as_bytes());
                bytes
            }
        }
    }

    /// What comes from inside is not believed beyond its form.
    fn decode(bytes: &[u8]) -> Option<Word> {
        Some(match bytes {
            [b's'] => Word::Stopped,
            [b'c'] => Word::Continue,
            [b'k', signal] => Word::Signal(i32::from(*signal)),
            [b'x', code] => Word::Ended(Ended::Exited(*code)),
            [b'd', signal @ 1..=64] => Word::Ended(Ended::Signaled(*signal)),
            [b'f', a, b, c, d, text @ ..] => {
                let text = String::from_utf8_lossy(text);
                let (stage, message) = text.split_once('\0')?;
                Word::Ended(Ended::Failed(Failed {
                    stage: stage.to_owned(),
                    errno: i32::from_le_bytes([*a, *b, *c, *d]),
                    message: message.to_owned(),
                }))
            }
            _ => return None,
        })
    }
}

/// The outer end: with lbx-enter.
#[derive(Debug)]
pub(super) struct Report {
    socket: OwnedFd,
    /// Whether somebody inside may still say something: COMMAND's exec closes the other end.
    open: bool,
}

/// The inner end: with COMMAND until its exec, and with the monitor.
#[derive(Debug)]
pub(super) struct Tell(OwnedFd);

impl Report {
    pub(super) fn pair() -> io::Result<(Report, Tell)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (outer, inner) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Report { socket: outer, open: true }, Tell(inner)))
    }

    /// The next word, if there is one.
    pub(super) fn next(&mut self) -> Option<Word> {
        let received = receive(self.socket.as_fd());
        self.open &= received != Some(None);
        received?
    }

    /// What to wait for, as long as a word may come.
    pub(super) fn open_socket(&self) -> Option<BorrowedFd<'_>> {
        self.open.then(|| self.socket.as_fd())
    }

    pub(super) fn say(&self, word: &Word) {
        let _ = send(&self.socket, &word.encode(), SendFlags::NOSIGNAL);
    }
}

impl Tell {
    pub(super) fn next(&self) -> Option<Word> {
        receive(self.0.as_fd())?
    }

    pub(super) fn say(&self, word: &Word) {
        let _ = send(&self.0, &word.encode(), SendFlags::NOSIGNAL);
    }

    pub(super) fn failed(&self, failed: &Failed) {
        self.say(&Word::Ended(Ended::Failed(failed.clone())));
    }
}

impl AsFd for Tell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The next message, if there is one; `Some(None)` for the end, and for what is no word.
fn receive(socket: BorrowedFd<'_>) -> Option<Option<Word>> {
    let mut bytes = [0; 4096];
    let (length, _) = recv(socket, &mut bytes, RecvFlags::DONTWAIT).ok()?;
    Some(bytes.get(..length).and_then(Word::decode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_arrive_as_they_were_said() {
        let failed = Failed { stage: "cannot x".into(), errno: 13, message: "no\nway".into() };
        let (mut report, tell) = Report::pair().unwrap();
        for word in [
            Word::Stopped,
            Word::Continue,
            Word::Signal(15),
            Word::Ended(Ended::Exited(255)),
            Word::Ended(Ended::Signaled(9)),
            Word::Ended(Ended::Failed(failed)),
        ] {
            tell.say(&word);
            assert_eq!(report.next(), Some(word));
        }
        assert_eq!(report.next(), None);
        assert!(report.open_socket().is_some());
        drop(tell);
        assert_eq!(report.next(), None);
        assert!(report.open_socket().is_none(), "an end is not waited for");
    }

    #[test]
    fn nonsense_is_no_word() {
        for bytes in [&b""[..], b"q", b"x", b"d\0", b"d\xff", b"f", b"f\0\0\0\0no end"] {
            assert_eq!(Word::decode(bytes), None, "{bytes:?}");
        }
    }
}
