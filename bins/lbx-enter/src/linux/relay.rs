//! What happens while COMMAND runs: signals and keys go in, output and stops come out.
//!
//! Two processes without privilege share the work. lbx-enter stands outside, and has the caller's
//! terminal. Where COMMAND has a pty, a monitor leads its session inside: it gives COMMAND the
//! foreground, and sees it stop (a session leader itself would ignore ^Z).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use lbx::Result;
use lbx::sys;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpgrp, getpid, setpgid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::tcsetpgrp;

use super::report::{Ended, Report, Tell, Word};
use super::streams::{KEYBOARD, Outside, Streams, Terminal};
use super::{null, place};

/// How long a command may go on after its terminal is gone.
const AFTER_HANGUP: Duration = Duration::from_secs(2);
/// How long what COMMAND wrote last may take through the pty, where others still hold it.
const LAST_WORDS: Duration = Duration::from_millis(100);
const CHUNK: usize = 16 * 1024;

/// The signals that lbx-enter takes: those it passes on, and those that tell it something.
pub(super) fn signals() -> SigSet {
    use Signal::*;
    [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGWINCH, SIGCHLD, SIGTSTP, SIGCONT]
        .into_iter()
        .collect()
}

/// Relays for the child `pid` until COMMAND has ended, and leaves the terminal as it was. The child is
/// still to be [reaped](reap).
pub(super) fn relay(outside: Outside, report: Report, pid: Pid) -> Result<Ended> {
    let signals = SignalFd::with_flags(&signals(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("cannot take signals")?;
    let has_monitor = outside.terminal.is_some();
    let mut relay =
        Relay { outside, report, pid, has_monitor, typed: Vec::new(), hung_up: None, terms: 0, unsent: Vec::new() };
    relay.raw();
    loop {
        if let Some(ended) = relay.ended() {
            relay.last_words();
            return Ok(ended);
        }
        relay.wait(&signals).context("cannot wait for the command")?;
        std::mem::take(&mut relay.unsent).into_iter().for_each(|signal| relay.signal(signal));
        while let Ok(Some(info)) = signals.read_signal() {
            if let Ok(signal) = Signal::try_from(info.ssi_signo as i32) {
                relay.take_signal(signal);
            }
        }
    }
}

/// Lets the kernel forget the child `pid`, if that has ended.
pub(super) fn reap(pid: Pid) {
    let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
}

struct Relay {
    outside: Outside,
    report: Report,
    pid: Pid,
    has_monitor: bool,
    /// Keys that the pty has not taken yet.
    typed: Vec<u8>,
    /// When the terminal went away.
    hung_up: Option<Instant>,
    /// How often SIGTERM has come.
    terms: u32,
    /// Signals that the child may not be sent yet.
    unsent: Vec<Signal>,
}

impl Relay {
    /// How COMMAND has ended, if it has; what it says of stopping is done on the way.
    fn ended(&mut self) -> Option<Ended> {
        while let Some(word) = self.report.next() {
            match word {
                Word::Ended(ended) => return Some(ended),
                Word::Stopped => self.stop_and_go_on(),
                Word::Continue | Word::Signal(_) => {}
            }
        }
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let status = waitid(Id::Pid(self.pid), look);
        let Some(ended) = status.map_or(Some(Ended::Signaled(Signal::SIGKILL as u8)), Ended::from_wait) else {
            // the monitor, or what has still to become COMMAND: only another process inside stops these
            let is_ours = self.has_monitor || self.report.open_socket().is_some();
            if is_ours && matches!(status, Ok(WaitStatus::Stopped(..))) {
                let _ = kill(self.pid, Signal::SIGCONT);
            }
            return self.given_up();
        };
        // a failure that was told just before
        match self.report.next() {
            Some(Word::Ended(told)) => Some(told),
            _ => Some(ended),
        }
    }

    /// A command that outlives its terminal is left to itself, and so is one whose monitor does not
    /// pass on what ends it.
    fn given_up(&self) -> Option<Ended> {
        let late = self.hung_up.is_some_and(|since| since.elapsed() > AFTER_HANGUP);
        match (late, self.terms) {
            (true, _) => Some(Ended::Signaled(Signal::SIGHUP as u8)),
            (_, 2..) if self.has_monitor => Some(Ended::Signaled(Signal::SIGTERM as u8)),
            _ => None,
        }
    }

    fn wait(&mut self, signals: &SignalFd) -> io::Result<()> {
        let mut fds = vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        fds.extend(self.report.open_socket().map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)));
        let (mut output, mut keys) = (None, None);
        match (&self.outside.terminal, &self.outside.pipe) {
            (Some(terminal), _) => {
                let wants = if self.typed.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
                output = Some(fds.len());
                fds.push(PollFd::new(&terminal.master, wants));
                if self.typed.is_empty() && terminal.is_raw() {
                    keys = Some(fds.len());
                    fds.push(PollFd::from_borrowed_fd(sys::borrow(KEYBOARD), PollFlags::IN));
                }
            }
            (None, Some((pipe, _))) => {
                output = Some(fds.len());
                fds.push(PollFd::new(pipe, PollFlags::IN));
            }
            (None, None) => {}
        }
        // nothing tells that the job was brought to the foreground while it ran
        let in_background = self.outside.terminal.as_ref().is_some_and(|terminal| !terminal.is_raw());
        let look_again = in_background || self.hung_up.is_some();
        let limit = match self.unsent.is_empty() {
            true => look_again.then_some(Timespec { tv_sec: 0, tv_nsec: 200_000_000 }),
            false => Some(Timespec { tv_sec: 0, tv_nsec: 2_000_000 }),
        };
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        let is_ready = |index: Option<usize>| index.is_some_and(|index| !fds[index].revents().is_empty());
        let (output, keys) = (is_ready(output), is_ready(keys));
        if in_background {
            self.raw();
        }
        if output {
            self.pass_out();
            self.pass_typed();
        }
        if keys {
            self.take_keys();
        }
        Ok(())
    }

    /// What COMMAND wrote, to the caller's terminal. A pipe that is closed is not asked again.
    fn pass_out(&mut self) {
        let mut bytes = [0; CHUNK];
        let (from, screen) = match &self.outside {
            Outside { terminal: Some(terminal), .. } => (terminal.master.as_fd(), terminal.screen),
            Outside { pipe: Some((pipe, screen)), .. } => (pipe.as_fd(), *screen),
            _ => return,
        };
        match rustix::io::read(from, &mut bytes) {
            Ok(0) => self.outside.pipe = None,
            Ok(length) => write_all(sys::borrow(screen), &bytes[..length]),
            // every inner end is closed: COMMAND is about to end
            Err(rustix::io::Errno::IO) => std::thread::sleep(Duration::from_millis(1)),
            Err(_) => {}
        }
    }

    fn take_keys(&mut self) {
        let mut bytes = [0; CHUNK];
        match rustix::io::read(sys::borrow(KEYBOARD), &mut bytes) {
            Ok(0) | Err(rustix::io::Errno::IO) => self.hang_up(),
            Ok(length) => {
                self.typed.extend_from_slice(&bytes[..length]);
                self.pass_typed();
            }
            Err(_) => {}
        }
    }

    fn pass_typed(&mut self) {
        if let (Some(terminal), false) = (&self.outside.terminal, self.typed.is_empty()) {
            match rustix::io::write(&terminal.master, &self.typed) {
                Ok(length) => drop(self.typed.drain(..length)),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(_) => self.typed.clear(),
            }
        }
    }

    fn take_signal(&mut self, signal: Signal) {
        match signal {
            Signal::SIGCHLD => {}
            Signal::SIGCONT => self.raw(),
            Signal::SIGWINCH => {
                if let Some(terminal) = &self.outside.terminal {
                    let _ = terminal.resize();
                }
            }
            Signal::SIGTSTP if !self.has_monitor => {
                // its session has no terminal to stop it
                self.signal(Signal::SIGSTOP);
                self.stop_self();
                self.signal(Signal::SIGCONT);
            }
            Signal::SIGHUP if self.has_monitor => self.hang_up(),
            signal => {
                self.terms += u32::from(signal == Signal::SIGTERM);
                self.signal(signal);
            }
        }
    }

    /// Passes `signal` to COMMAND and what it started in its process group.
    fn signal(&mut self, signal: Signal) {
        if self.has_monitor {
            self.report.say(&Word::Signal(signal as i32));
            return;
        }
        let send = |signal| match killpg(self.pid, signal) {
            // it has no session yet: then the signal waits for exec
            Err(Errno::ESRCH) => kill(self.pid, signal),
            sent => sent,
        };
        match send(signal) {
            // it is still root's, and this process no more
            Err(Errno::EPERM) => self.unsent.push(signal),
            // one that is stopped takes it only then; timeout(1) does so, too
            _ if matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP) => drop(send(Signal::SIGCONT)),
            _ => {}
        }
    }

    /// Closing the pty makes the kernel hang up the session inside.
    fn hang_up(&mut self) {
        if self.hung_up.is_none() {
            self.signal(Signal::SIGHUP);
            self.signal(Signal::SIGCONT);
            self.outside.terminal = None;
            self.hung_up = Some(Instant::now());
        }
    }

    /// COMMAND has stopped: so does lbx-enter, with the terminal as the caller's shell left it.
    fn stop_and_go_on(&mut self) {
        self.pass_out();
        if let Some(terminal) = &mut self.outside.terminal {
            terminal.restore();
        }
        self.stop_self();
        // first: a key that comes now must find COMMAND in the foreground
        self.report.say(&Word::Continue);
        self.raw();
    }

    /// Stops this process, as shells and sudo see it, by SIGTSTP, which the kernel ignores where no
    /// shell could let it go on. Returns when it goes on.
    fn stop_self(&self) {
        let stop: SigSet = [Signal::SIGTSTP].into_iter().collect();
        let _ = kill(getpid(), Signal::SIGTSTP);
        let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&stop), None);
        let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&stop), None);
    }

    fn raw(&mut self) {
        if let Some(terminal) = &mut self.outside.terminal {
            let _ = terminal.make_raw();
            let _ = terminal.resize();
        }
    }

    /// Passes on what COMMAND wrote before it ended; what others write later is not waited for.
    fn last_words(&mut self) {
        let (from, screen, is_pty) = match &self.outside {
            Outside { terminal: Some(Terminal { master, screen, .. }), .. } => (master.as_fd(), *screen, true),
            Outside { pipe: Some((pipe, screen)), .. } => (pipe.as_fd(), *screen, false),
            _ => return,
        };
        let until = Instant::now() + LAST_WORDS;
        // a pipe's data is there; the pty's comes by a worker of the kernel
        let mut left = if is_pty { u64::MAX } else { rustix::io::ioctl_fionread(from).unwrap_or(0) };
        let mut bytes = [0; CHUNK];
        while left > 0 && (!is_pty || Instant::now() < until) {
            match rustix::io::read(from, &mut bytes) {
                Ok(length @ 1..) => {
                    write_all(sys::borrow(screen), &bytes[..length]);
                    left = left.saturating_sub(length as u64);
                }
                Err(rustix::io::Errno::AGAIN) if is_pty => {
                    let pause = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
                    let _ = poll(&mut [PollFd::from_borrowed_fd(from, PollFlags::IN)], Some(&pause));
                }
                _ => return,
            }
        }
    }
}

/// Writes to a terminal, waiting where it takes no more; one that is gone takes everything.
fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(rustix::io::Errno::AGAIN) => drop(poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None)),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Leads the session of a pty. Returns in the process that becomes COMMAND, and there alone.
pub(super) fn monitor(streams: &Streams, tell: &Tell) -> io::Result<()> {
    let slave = streams.slave()?;
    let Some(pid) = sys::fork()? else {
        // both sides, so that it holds whoever is first
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        foreground(slave, getpid());
        return Ok(());
    };
    let _ = setpgid(pid, pid);
    let watched = null().and_then(|null| {
        (0..=2).try_for_each(|fd| place(&null, fd))?;
        watch(slave, tell, pid)
    });
    sys::exit_now(if watched.is_ok() { 0 } else { 1 })
}

/// Tells of COMMAND's stops and its end, until that.
fn watch(slave: &OwnedFd, tell: &Tell, pid: Pid) -> io::Result<()> {
    let child: SigSet = [Signal::SIGCHLD].into_iter().collect();
    let signals = SignalFd::with_flags(&child, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    loop {
        while let Ok(Some(_)) = signals.read_signal() {}
        match waitpid(pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED))? {
            WaitStatus::Stopped(..) => {
                foreground(slave, getpgrp());
                tell.say(&Word::Stopped);
            }
            status => {
                if let Some(ended) = Ended::from_wait(status) {
                    tell.say(&Word::Ended(ended));
                    return Ok(());
                }
            }
        }
        let mut fds = [
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(tell.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        // lbx-enter is gone, and with it the terminal
        if fds[1].revents().contains(PollFlags::HUP) {
            let _ = killpg(pid, Signal::SIGHUP);
            let _ = killpg(pid, Signal::SIGCONT);
            return Ok(());
        }
        while let Some(word) = tell.next() {
            match word {
                Word::Continue => {
                    foreground(slave, pid);
                    let _ = killpg(pid, Signal::SIGCONT);
                }
                Word::Signal(signal) => {
                    if let Ok(signal) = Signal::try_from(signal) {
                        let _ = killpg(pid, signal);
                    }
                }
                Word::Stopped | Word::Ended(_) => {}
            }
        }
    }
}

/// Gives the pty to `group`; one that is gone does not take it.
fn foreground(slave: &OwnedFd, group: Pid) {
    // a background process that asks is stopped by default; COMMAND's mask is restored before its exec
    let ttou: SigSet = [Signal::SIGTTOU].into_iter().collect();
    let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ttou), None);
    if let Some(group) = rustix::process::Pid::from_raw(group.as_raw()) {
        let _ = tcsetpgrp(slave, group);
    }
}
