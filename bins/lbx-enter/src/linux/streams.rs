//! The standard streams of COMMAND: no terminal of the caller's gets in.
//!
//! Where stdin is a terminal, the environment's own pty takes the place of every stream that is
//! one; else a relayed pipe does. What is no terminal passes untouched.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lbx::sys;
use rustix::fs::{Mode, OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::{null, place};

/// The streams of a command that is about to start.
#[derive(Debug)]
pub(super) struct Streams {
    /// What lies inside on 0, 1 and 2; `None`: what the caller has there.
    inside: [Option<OwnedFd>; 3],
    outside: Outside,
}

/// What stays with lbx-enter.
#[derive(Debug, Default)]
pub(super) struct Outside {
    pub(super) terminal: Option<Terminal>,
    /// The end of a pipe whose other end takes the place of a terminal, and that terminal.
    pub(super) pipe: Option<(OwnedFd, i32)>,
}

/// The caller's terminal and the pty that stands for it inside.
#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    /// Where the caller reads: 1, 2 or, when neither is a terminal, 0.
    pub(super) screen: i32,
    saved: Termios,
    raw: bool,
}

/// The descriptor that the caller types at.
pub(super) const KEYBOARD: i32 = 0;

impl Streams {
    /// Decides for each stream; the process has joined the environment, whose pty is opened.
    pub(super) fn plan(no_stdin: bool) -> io::Result<Streams> {
        let is_terminal = |fd: i32| isatty(sys::borrow(fd));
        let screens: Vec<i32> = [1, 2].into_iter().filter(|fd| is_terminal(*fd)).collect();
        let mut streams = Streams { inside: [None, None, None], outside: Outside::default() };
        if !no_stdin && is_terminal(KEYBOARD) {
            let (terminal, slave) = Terminal::open(screens.first().copied().unwrap_or(KEYBOARD))?;
            for fd in &screens {
                streams.inside[*fd as usize] = Some(slave.try_clone()?);
            }
            streams.inside[0] = Some(slave);
            streams.outside.terminal = Some(terminal);
            return Ok(streams);
        }
        if no_stdin {
            streams.inside[0] = Some(null()?);
        }
        if let Some(screen) = screens.first() {
            // one pipe for both: what is written in turn is read in turn
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            fcntl_setfl(&read, OFlags::NONBLOCK)?;
            for fd in &screens {
                streams.inside[*fd as usize] = Some(write.try_clone()?);
            }
            streams.outside.pipe = Some((read, *screen));
        }
        Ok(streams)
    }

    /// In the child: lets go of what is outside, and takes the pty, where there is one, as the
    /// terminal of this session. Returns whether there is one.
    pub(super) fn take_terminal(&mut self) -> io::Result<bool> {
        let outside = std::mem::take(&mut self.outside);
        if outside.terminal.is_none() {
            return Ok(false);
        }
        rustix::process::ioctl_tiocsctty(self.slave()?)?;
        Ok(true)
    }

    /// In lbx-enter: lets go of what is inside, so that whoever is at the other end sees it closed
    /// when COMMAND closes it. stderr stays, for messages.
    pub(super) fn into_outside(self) -> io::Result<Outside> {
        for fd in [0, 1] {
            if self.inside[fd as usize].is_none() {
                place(&null()?, fd)?;
            }
        }
        Ok(self.outside)
    }

    /// What is to lie inside and is the caller's nowhere.
    pub(super) fn inside(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.inside.iter().flatten().map(AsFd::as_fd)
    }

    /// The pty's inner end.
    pub(super) fn slave(&self) -> io::Result<&OwnedFd> {
        self.inside[0].as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
    }

    /// Puts the streams where COMMAND looks for them.
    pub(super) fn settle(&self) -> io::Result<()> {
        self.inside.iter().zip(0..).filter_map(|(fd, to)| fd.as_ref().map(|fd| place(fd, to))).collect()
    }
}

impl Terminal {
    fn open(screen: i32) -> io::Result<(Terminal, OwnedFd)> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let master = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty())?;
        unlockpt(&master)?;
        // by the master, not by a name: /dev/pts is the environment's
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        let saved = tcgetattr(sys::borrow(KEYBOARD))?;
        tcsetattr(&slave, OptionalActions::Now, &saved)?;
        let terminal = Terminal { master, screen, saved, raw: false };
        terminal.resize()?;
        Ok((terminal, slave))
    }

    /// Gives the pty the size of the caller's terminal.
    pub(super) fn resize(&self) -> io::Result<()> {
        Ok(tcsetwinsize(&self.master, tcgetwinsize(sys::borrow(KEYBOARD))?)?)
    }

    /// Every key goes to the pty, whose own discipline makes signals of them. In the background the
    /// terminal is another's, and is left alone.
    pub(super) fn make_raw(&mut self) -> io::Result<()> {
        if !in_foreground() {
            self.raw = false;
            return Ok(());
        }
        let mut raw = tcgetattr(sys::borrow(KEYBOARD))?;
        if !self.raw {
            self.saved = raw.clone();
        }
        raw.make_raw();
        tcsetattr(sys::borrow(KEYBOARD), OptionalActions::Drain, &raw)?;
        self.raw = true;
        Ok(())
    }

    /// Whether keys are this command's.
    pub(super) fn is_raw(&self) -> bool {
        self.raw
    }

    /// Leaves the terminal as it was found.
    pub(super) fn restore(&mut self) {
        if self.raw && in_foreground() {
            let _ = tcsetattr(sys::borrow(KEYBOARD), OptionalActions::Drain, &self.saved);
        }
        self.raw = false;
    }
}

/// Whether the terminal is this job's; one that asks from the background is stopped.
fn in_foreground() -> bool {
    tcgetpgrp(sys::borrow(KEYBOARD)).is_ok_and(|group| group == rustix::process::getpgrp())
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.restore();
    }
}
