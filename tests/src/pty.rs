//! A terminal to drive: a program leads a session on it, the test types and reads the screen.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::{scaled, std_command};

/// How long [`Pty::expect`] and [`Pty::wait`] wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal with a program on it.
#[derive(Debug)]
pub struct Pty {
    master: OwnedFd,
    slave: OwnedFd,
    child: Child,
    seen: Arc<(Mutex<Seen>, Condvar)>,
}

struct Seen {
    raw: Vec<u8>,
    screen: vt100::Parser,
    /// Up to where `expect` has read.
    taken: usize,
    ended: bool,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.raw))
    }
}

impl Pty {
    /// Runs `words` as the leader of a session on a new terminal of 24 rows and 80 columns.
    pub fn run<S: AsRef<OsStr>>(words: &[S]) -> Pty {
        Pty::sized(words, 24, 80)
    }

    /// As [`Pty::run`], on a terminal of `rows` and `cols`.
    pub fn sized<S: AsRef<OsStr>>(words: &[S], rows: u16, cols: u16) -> Pty {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("ptsname");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = openat(CWD, name.as_c_str(), flags, Mode::empty()).expect("the terminal's other end");
        tcsetwinsize(&master, winsize(rows, cols)).expect("a terminal has a size");

        let end = || Stdio::from(slave.try_clone().expect("dup"));
        let mut command = std_command("setsid");
        command.arg("--ctty").args(words).stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().expect("setsid is installed");

        let seen = Seen { raw: Vec::new(), screen: vt100::Parser::new(rows, cols, 0), taken: 0, ended: false };
        let seen = Arc::new((Mutex::new(seen), Condvar::new()));
        let reader = File::from(master.try_clone().expect("dup"));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || read(reader, &shared));
        Pty { master, slave, child, seen }
    }

    /// The process that leads the session.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types `text`.
    pub fn send(&self, text: impl AsRef<[u8]>) {
        let mut master = File::from(self.master.try_clone().expect("dup"));
        master.write_all(text.as_ref()).expect("a terminal takes input");
    }

    /// Changes the terminal's size, which sends SIGWINCH to the foreground.
    pub fn resize(&self, rows: u16, cols: u16) {
        self.lock().screen.screen_mut().set_size(rows, cols);
        tcsetwinsize(&self.master, winsize(rows, cols)).expect("a terminal has a size");
    }

    /// Waits for `text` in the output behind what earlier calls have found, and returns all up to
    /// its end.
    pub fn expect(&self, text: &str) -> String {
        let deadline = Instant::now() + scaled(PATIENCE);
        let mut seen = self.lock();
        loop {
            let rest = &seen.raw[seen.taken..];
            if let Some(at) = rest.windows(text.len()).position(|window| window == text.as_bytes()) {
                let end = at + text.len();
                let found = String::from_utf8_lossy(&rest[..end]).into_owned();
                seen.taken += end;
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero() && !seen.ended, "{text:?} was never printed; ended: {}; {seen:?}", seen.ended);
            seen = self.seen.1.wait_timeout(seen, left).expect("the reader lives").0;
        }
    }

    /// Waits until `condition` holds of the screen's text.
    pub fn until(&self, what: &str, condition: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + scaled(PATIENCE);
        let mut seen = self.lock();
        loop {
            let text = seen.screen.screen().contents();
            if condition(&text) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the screen never showed {what}:\n{text}");
            let step = left.min(Duration::from_millis(100));
            seen = self.seen.1.wait_timeout(seen, step).expect("the reader lives").0;
        }
    }

    /// The screen as a person sees it now.
    pub fn screen(&self) -> vt100::Screen {
        self.lock().screen.screen().clone()
    }

    /// Everything printed so far, byte by byte.
    pub fn raw(&self) -> Vec<u8> {
        self.lock().raw.clone()
    }

    /// The terminal's modes.
    pub fn modes(&self) -> Termios {
        tcgetattr(self.slave.as_fd()).expect("a terminal has modes")
    }

    /// Sends `signal` to the process that leads the session, and to it alone.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, signal).expect("it lives");
    }

    /// Waits for the end of the process that leads the session.
    pub fn wait(&mut self) -> ExitStatus {
        let ended = self.wait_for(scaled(PATIENCE));
        ended.unwrap_or_else(|| panic!("it never ended; {:?}", self.lock()))
    }

    /// As [`Pty::wait`], for as long as `limit`.
    pub fn wait_for(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.child.try_wait().expect("a child can be waited for");
            if ended.is_some() || Instant::now() > deadline {
                return ended;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.0.lock().expect("the reader lives")
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `words` as one line for a shell on the terminal.
pub fn line(words: &[OsString]) -> String {
    let words: Vec<String> = words.iter().map(|w| String::from_utf8_lossy(w.as_bytes()).into_owned()).collect();
    shell_words::join(&words)
}

fn winsize(rows: u16, cols: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}

fn read(mut master: File, shared: &(Mutex<Seen>, Condvar)) {
    let mut bytes = [0; 4096];
    loop {
        let count = master.read(&mut bytes).unwrap_or(0);
        let mut seen = shared.0.lock().expect("no test panics with the lock");
        seen.raw.extend_from_slice(&bytes[..count]);
        seen.screen.process(&bytes[..count]);
        seen.ended = count == 0;
        shared.1.notify_all();
        if count == 0 {
            return;
        }
    }
}
