//! One call at the far end: runs the tool, and relays between it and the stream.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use lbx::caller::Caller;
use lbx::failure::{Result, status};
use lbx::step;
use lbx::sys::{self, Disposition};
use lbx_on::frame::{Broken, Call, DATA_FEW, DATA_MAX, DATA_MUCH, Decoder, Frame, Signal, Size, Stream, WINDOW};
use nix::sys::signal::{SigSet, SigmaskHow, Signal as Native, killpg, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, setpgid};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::net::SendFlags;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetpgrp, tcsetwinsize};

use super::Peer;
use super::agent::Agent;
use super::spare::{self, Spare};
use super::tools::Version;
use crate::greeting::{is_tool, is_wrapper};
use crate::pipe::Width;
use crate::terminal;

/// As much as waits to be written to the near end.
const OUT_MAX: usize = 512 * 1024;
/// How long a tool may go on after the near end is gone.
const AFTER_HANGUP: Duration = Duration::from_secs(3);
/// How long what the tool wrote last may take through a pty that others still hold.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long the end of a stream waits for that of the tool, with which it mostly comes.
const TOGETHER: Duration = Duration::from_millis(20);
/// A clock that differs by more has stood still, as that of a VM whose host slept.
const DRIFT: Duration = Duration::from_secs(10);
/// What tools find at this end.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Serves the call that comes on 0, with answers on 1, for the tools of `version`. Behind `greeting`, that
/// is, which goes together with the first of them.
///
/// A `spare` is used where it can run the call.
pub(super) fn run(
    version: &Version,
    peer: Option<Peer>,
    in_vm: bool,
    greeting: String,
    spare: Option<Spare>,
) -> Result<u8> {
    for fd in [0, 1] {
        fcntl_setfl(sys::borrow(fd), OFlags::NONBLOCK).context("cannot set up the stream")?;
    }
    let mut near = Near::new(greeting);
    let Some(call) = near.call() else { return Ok(status::FAILED) };
    // what runs a command makes ready for it meanwhile
    if !is_wrapper(&call.tool, &call.words) && !near.confirms() {
        return Ok(status::FAILED);
    }
    if in_vm {
        set_clock(call.now);
    }
    let (signals, before) = child_signals()?;
    match Far::start(*call, version, peer, &before, spare) {
        Ok(far) => {
            near.say(&Frame::Started);
            far.relay(near, &signals)
        }
        Err(error) => {
            near.say(&Frame::Failed(format!("{error:#}")));
            near.flush();
            Ok(status::FAILED)
        }
    }
}

/// The stream to the near end.
struct Near {
    decoder: Decoder,
    out: Vec<u8>,
    /// So much of it is written already.
    written: usize,
    gone: bool,
    /// Of 0 and of 1.
    widths: [Width; 2],
}

impl Near {
    /// What it is told first is `greeting`.
    fn new(greeting: String) -> Near {
        let (decoder, out) = (Decoder::default(), greeting.into_bytes());
        Near { decoder, out, written: 0, gone: false, widths: Default::default() }
    }

    /// The first frame; `None`: it is no call, and that is said.
    fn call(&mut self) -> Option<Box<Call>> {
        let why = match self.next()? {
            Frame::Call(call) if call.tool.to_str().is_some_and(is_tool) => return Some(call),
            Frame::Call(call) => format!("not a tool of llima-box: '{}'", call.tool.display()),
            _ => Broken::OutOfOrder("no call came first").to_string(),
        };
        self.refuse(&why);
        None
    }

    /// Whether the next frame is the word to start; that it is not is said.
    fn confirms(&mut self) -> bool {
        match self.next() {
            Some(Frame::Go) => true,
            Some(_) => {
                self.refuse(&Broken::OutOfOrder("the call was not confirmed").to_string());
                false
            }
            None => false,
        }
    }

    /// The next frame; `None`: there is none, which is said where anybody may hear it.
    fn next(&mut self) -> Option<Frame> {
        loop {
            match self.decoder.next() {
                Ok(Some(frame)) => return Some(frame),
                Ok(None) => {}
                Err(broken) => {
                    self.refuse(&broken.to_string());
                    return None;
                }
            }
            if !self.read() && !self.gone {
                // it does not follow at once: what it answers has to go first
                self.flush();
                let mut fds = [PollFd::from_borrowed_fd(sys::borrow(0), PollFlags::IN)];
                let _ = poll(&mut fds, None);
            }
            if self.gone {
                return None;
            }
        }
    }

    fn refuse(&mut self, why: &str) {
        self.say(&Frame::Failed(why.to_owned()));
        self.flush();
    }

    fn say(&mut self, frame: &Frame) {
        frame.encode(&mut self.out);
    }

    /// Takes what is there, if anything is.
    fn read(&mut self) -> bool {
        let bytes = self.decoder.buffer();
        bytes.reserve(DATA_MAX);
        match rustix::io::read(sys::borrow(0), spare_capacity(bytes)) {
            Ok(0) => self.gone = true,
            Ok(length) => {
                if length >= DATA_MUCH {
                    self.widths[0].widen(sys::borrow(0));
                }
                return true;
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.gone = true,
        }
        false
    }

    /// How much waits to be written.
    fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    fn write(&mut self) {
        match rustix::io::write(sys::borrow(1), &self.out[self.written..]) {
            Ok(length) => {
                self.written += length;
                if self.waiting() > 0 {
                    self.widths[1].widen(sys::borrow(1));
                }
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.gone = true,
        }
        // to move what is left costs as much as to write it: seldom, or when nothing is
        if self.waiting() == 0 || self.written >= OUT_MAX {
            self.out.drain(..self.written);
            self.written = 0;
        }
    }

    /// Writes all, as long as anybody takes it.
    fn flush(&mut self) {
        while self.waiting() > 0 && !self.gone {
            let mut fds = [
                PollFd::from_borrowed_fd(sys::borrow(1), PollFlags::OUT),
                PollFd::from_borrowed_fd(sys::borrow(0), PollFlags::IN),
            ];
            let _ = poll(&mut fds, None);
            let (writable, readable) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            if readable {
                self.read();
            }
            if writable {
                self.write();
            }
        }
    }
}

/// What flows to the tool.
struct Sink {
    fd: OwnedFd,
    queue: Queue,
    /// Taken since the near end was told.
    taken: u32,
    width: Width,
}

/// What waits for the tool, in the pieces in which it came.
#[derive(Default)]
struct Queue {
    pieces: VecDeque<Vec<u8>>,
    /// So much of the first is taken already.
    taken: usize,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn push(&mut self, piece: Vec<u8>) {
        match self.pieces.back_mut() {
            // thousands of small ones would be more than they hold
            Some(last) if last.len() + piece.len() <= DATA_MAX => last.extend(piece),
            _ => self.pieces.push_back(piece),
        }
    }

    fn bytes(&self) -> impl Iterator<Item = &u8> {
        self.pieces.iter().flatten().skip(self.taken)
    }

    /// The first of what waits.
    fn first(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| &piece[self.taken..])
    }

    /// Drops the first `count` bytes.
    fn take(&mut self, mut count: usize) {
        while let Some(piece) = self.pieces.front() {
            let left = piece.len() - self.taken;
            if count < left {
                self.taken += count;
                return;
            }
            count -= left;
            self.taken = 0;
            self.pieces.pop_front();
        }
    }
}

/// What flows from the tool.
struct Source {
    fd: OwnedFd,
    stream: Stream,
    window: u32,
    /// As much is read at once.
    most: usize,
    width: Width,
    /// It is the pty: what the tool wrote last may come a little later.
    is_terminal: bool,
    /// Nothing is there for now, and the tool has ended.
    dry: bool,
    /// Nothing comes from it any more, or nobody wants it.
    gone: bool,
}

/// A running tool.
struct Far {
    /// The tool, and its process group.
    pid: Pid,
    ended: Option<Frame>,
    /// When something was last heard of the tool.
    heard: Instant,
    terminal: Option<OwnedFd>,
    /// The tool makes its terminal raw: what is typed before is held back, since the terminal would
    /// echo it, and take ^D for the end of what nobody has read yet.
    wants_raw: bool,
    /// What makes signals of keys while they are held back: its special characters, by the signal.
    interrupts: Vec<(u8, Native)>,
    sink: Option<Sink>,
    /// Nothing more may come for the tool.
    stdin_ended: bool,
    /// So much may still come for the tool.
    window: u32,
    sources: Vec<Source>,
    agent: Option<Agent>,
    hung_up: Option<Instant>,
    /// Lets COMMAND begin, and tells how it ended ([`step::GATE`]).
    gate: Option<OwnedFd>,
    /// The near end has confirmed the call.
    confirmed: bool,
    /// When a stream has ended, as long as the near end has not been told.
    untold: Option<Instant>,
}

/// What the tool gets as 0, 1 and 2.
struct Inner {
    streams: [OwnedFd; 3],
    terminal: bool,
}

impl Far {
    fn start(
        mut call: Call,
        version: &Version,
        peer: Option<Peer>,
        mask: &SigSet,
        spare: Option<Spare>,
    ) -> Result<Far> {
        let caller = peer.map_or_else(Caller::current, |peer| Caller { uid: peer.uid, gid: peer.gid });
        let agent = match call.agent {
            true => Some(Agent::listen(caller).context("cannot make a socket for the ssh agent")?),
            false => None,
        };
        if let Some(agent) = &agent {
            call.variables.push(("SSH_AUTH_SOCK".into(), agent.path().into()));
        }
        let mut command = command(&call, version, peer);
        if let Some(spare) = spare.filter(|_| is_spares(&call)) {
            // one that has gone is no loss
            if spare.run(&command, &call.directory, call.joined).is_ok() {
                return Far::of_spare(&call, spare, agent).context("cannot set up the streams of the tool");
            }
        }
        let (mut far, inner) = Far::streams(&call).context("cannot set up the streams of the tool")?;
        far.agent = agent;
        let mut gate = None;
        if is_wrapper(&call.tool, &call.words) {
            let (ours, inner) = spare::gate().context("cannot make a socket pair")?;
            command.env(step::GATE, inner.as_raw_fd().to_string());
            (gate, far.gate) = (Some(inner), Some(ours));
        }
        // where the caller stands, if that is here, too; this process keeps no directory in use
        if call.directory.is_empty() || std::env::set_current_dir(&call.directory).is_err() {
            let _ = std::env::set_current_dir("/");
        }
        let started = match inner.terminal || call.trace {
            true => fork_tool(command, &inner, mask),
            false => spawn_tool(command, inner, mask),
        };
        drop(gate);
        let _ = std::env::set_current_dir("/");
        far.pid = started.with_context(|| format!("cannot run '{}'", call.tool.display()))?;
        Ok(far)
    }

    fn of_spare(call: &Call, spare: Spare, agent: Option<Agent>) -> io::Result<Far> {
        let mut far = Far::new(call);
        far.sink = call.stdin.then(|| Sink::new(spare.stdin)).transpose()?;
        far.source(spare.stdout, Stream::Stdout, false)?;
        // of joined streams it ends when the tool has heard so
        far.source(spare.stderr, Stream::Stderr, false)?;
        far.pid = spare.pid;
        (far.agent, far.gate) = (agent, Some(spare.gate));
        Ok(far)
    }

    fn new(call: &Call) -> Far {
        Far {
            pid: getpid(),
            ended: None,
            heard: Instant::now(),
            terminal: None,
            wants_raw: is_wrapper(&call.tool, &call.words),
            interrupts: terminal::interrupts(&call.modes),
            sink: None,
            stdin_ended: false,
            window: WINDOW,
            sources: Vec::new(),
            agent: None,
            hung_up: None,
            gate: None,
            confirmed: !is_wrapper(&call.tool, &call.words),
            untold: None,
        }
    }

    /// A pty where the caller has a terminal, else pipes.
    fn streams(call: &Call) -> io::Result<(Far, Inner)> {
        let mut far = Far::new(call);
        let null = || rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty());
        let [keys, out, err] = call.terminals;
        if keys {
            let (master, slave) = open_terminal(call)?;
            // the session's leader, so that stops reach a job whose parent can let it go on; a hang-up of
            // its terminal is for the tool
            sys::dispose(Native::SIGHUP, Disposition::Ignore)?;
            let _ = rustix::process::setsid();
            rustix::process::ioctl_tiocsctty(&slave)?;
            let screen = match (out, err) {
                (true, _) => Stream::Stdout,
                (false, true) => Stream::Stderr,
                (false, false) => Stream::Terminal,
            };
            far.source(master.try_clone()?, screen, true)?;
            far.sink = Some(Sink::new(master.try_clone()?)?);
            far.terminal = Some(master);
            let stdout = if out { slave.try_clone()? } else { far.pipe(Stream::Stdout)? };
            let stderr = match err {
                true => slave.try_clone()?,
                false if call.joined => stdout.try_clone()?,
                false => far.pipe(Stream::Stderr)?,
            };
            let streams = [slave, stdout, stderr];
            return Ok((far, Inner { streams, terminal: true }));
        }
        let stdin = match call.stdin {
            true => {
                let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
                far.sink = Some(Sink::new(write)?);
                read
            }
            false => null()?,
        };
        let stdout = far.pipe(Stream::Stdout)?;
        let stderr = if call.joined { stdout.try_clone()? } else { far.pipe(Stream::Stderr)? };
        Ok((far, Inner { streams: [stdin, stdout, stderr], terminal: false }))
    }

    fn pipe(&mut self, stream: Stream) -> io::Result<OwnedFd> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        self.source(read, stream, false)?;
        Ok(write)
    }

    fn source(&mut self, fd: OwnedFd, stream: Stream, is_terminal: bool) -> io::Result<()> {
        fcntl_setfl(&fd, OFlags::NONBLOCK)?;
        let (most, width) = (DATA_FEW, Width::default());
        self.sources.push(Source { fd, stream, window: WINDOW, most, width, is_terminal, dry: false, gone: false });
        Ok(())
    }

    fn relay(mut self, mut near: Near, signals: &SignalFd) -> Result<u8> {
        // what came together with the call
        self.take_frames(&mut near);
        loop {
            if near.gone {
                self.hang_up();
            }
            self.reap(&mut near);
            if self.is_over(&mut near) {
                near.flush();
                return Ok(status::DONE);
            }
            self.wait(&mut near, signals)?;
        }
    }

    /// Whether the tool has ended and all that it said is on its way.
    fn is_over(&mut self, near: &mut Near) -> bool {
        let Some(frame) = &self.ended else { return false };
        let late = self.heard.elapsed() > LAST_WORDS;
        self.sources.retain(|source| !source.gone && !(source.dry && (late || !source.is_terminal)));
        if self.sources.is_empty() || near.gone {
            near.say(frame);
            return true;
        }
        false
    }

    fn reap(&mut self, near: &mut Near) {
        while self.ended.is_none() {
            let frame = match waitpid(self.pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::Exited(_, code)) => Frame::Exit(code as u8),
                Ok(WaitStatus::Signaled(_, signal, _)) => Frame::Killed(signal as i32 as u8),
                Ok(WaitStatus::Stopped(..)) => {
                    near.say(&Frame::Stopped);
                    continue;
                }
                Ok(_) | Err(nix::errno::Errno::EINTR) => return,
                Err(_) => Frame::Killed(Native::SIGKILL as i32 as u8),
            };
            (self.ended, self.heard) = (Some(frame), Instant::now());
        }
    }

    /// What the tool tells of its COMMAND; without that word its own end tells.
    fn take_status(&mut self) {
        let mut status = [0];
        match self.gate.as_ref().map(|gate| rustix::io::read(gate, &mut status)) {
            Some(Ok(1)) => (self.ended, self.heard) = (Some(Frame::Exit(status[0])), Instant::now()),
            _ => self.gate = None,
        }
    }

    /// The near end is gone: so is its terminal, and what the tool runs is hung up.
    fn hang_up(&mut self) {
        match self.hung_up {
            None => {
                self.signal(Native::SIGHUP);
                self.signal(Native::SIGCONT);
                (self.terminal, self.sink, self.agent, self.gate) = (None, None, None, None);
                self.sources.iter_mut().for_each(|source| source.gone = true);
                self.hung_up = Some(Instant::now());
            }
            Some(since) if since.elapsed() > AFTER_HANGUP => self.signal(Native::SIGKILL),
            Some(_) => {}
        }
    }

    fn signal(&self, signal: Native) {
        if self.ended.is_none() {
            let _ = killpg(self.pid, signal);
        }
    }

    fn wait(&mut self, near: &mut Near, signals: &SignalFd) -> Result<()> {
        let mut fds = vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        if !near.gone {
            fds.push(PollFd::from_borrowed_fd(sys::borrow(0), PollFlags::IN));
            if near.waiting() > 0 && !self.has_time() {
                fds.push(PollFd::from_borrowed_fd(sys::borrow(1), PollFlags::OUT));
            }
        }
        let at_sink = fds.len();
        let is_held = self.holds_keys();
        let sink = self.sink.as_ref().filter(|sink| !sink.queue.is_empty() && !is_held);
        fds.extend(sink.map(|sink| PollFd::from_borrowed_fd(sink.fd.as_fd(), PollFlags::OUT)));
        let at_sources = fds.len();
        let is_full = near.waiting() >= OUT_MAX;
        let open: Vec<usize> = (0..self.sources.len()).filter(|at| !is_full && self.sources[*at].window > 0).collect();
        fds.extend(open.iter().map(|at| PollFd::from_borrowed_fd(self.sources[*at].fd.as_fd(), PollFlags::IN)));
        let at_gate = fds.len();
        // a terminal has to be given back first
        let gate = self.gate.as_ref().filter(|_| self.ended.is_none() && self.terminal.is_none());
        fds.extend(gate.map(|gate| PollFd::from_borrowed_fd(gate.as_fd(), PollFlags::IN)));
        let at_agent = fds.len();
        fds.extend(self.agent.iter().flat_map(Agent::wanted));
        // for what nothing tells of
        let limit = match (&self.ended, self.hung_up) {
            (Some(_), _) => Some(2),
            (None, Some(_)) => Some(100),
            (None, None) if is_held => Some(5),
            (None, None) if self.has_time() => Some(20),
            (None, None) => None,
        };
        let limit = limit.map(|milliseconds| Timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 });
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(e) => return Err(e).context("cannot wait for the tool"),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);

        while let Ok(Some(_)) = signals.read_signal() {}
        if !near.gone && !ready[1].is_empty() {
            near.read();
            self.take_frames(near);
        }
        if at_sink < at_sources && !ready[at_sink].is_empty() {
            self.feed(near);
        }
        let is_told = at_gate < at_agent && !ready[at_gate].is_empty();
        if is_told {
            self.take_status();
        }
        for (at, ready) in open.iter().zip(&ready[at_sources..at_gate]) {
            if (!ready.is_empty() || self.ended.is_some()) && !self.sources[*at].gone {
                self.drain(*at, near);
            }
        }
        self.sources.retain(|source| !source.gone);
        if let Some(agent) = &mut self.agent {
            for request in agent.work(&ready[at_agent..]) {
                near.say(&request);
            }
        }
        // what there is to say of the tool's end goes with it
        if near.waiting() > 0 && !near.gone && ready[0].is_empty() && !is_told && !self.has_time() {
            near.write();
            self.untold = None;
        }
        Ok(())
    }

    /// Whether nothing is to be told but the end of a stream, which need not be told at once.
    fn has_time(&self) -> bool {
        self.untold.is_some_and(|since| since.elapsed() < TOGETHER)
    }

    fn take_frames(&mut self, near: &mut Near) {
        loop {
            let taken = match near.decoder.next() {
                Ok(Some(frame)) => self.take(frame, near),
                Ok(None) => break,
                Err(broken) => Err(broken),
            };
            if let Err(broken) = taken {
                near.refuse(&broken.to_string());
                near.gone = true;
                return;
            }
        }
    }

    fn take(&mut self, frame: Frame, near: &mut Near) -> Result<(), Broken> {
        match frame {
            Frame::Data(Stream::Stdin, bytes) => {
                let length = bytes.len() as u32;
                self.window =
                    self.window.checked_sub(length).ok_or(Broken::OutOfOrder("more than the window lets through"))?;
                if self.stdin_ended {
                    return Err(Broken::OutOfOrder("data behind the end of stdin"));
                }
                // closed: what was under way is lost, as in a pipe
                if let Some(sink) = &mut self.sink {
                    sink.queue.push(bytes);
                }
                self.feed(near);
            }
            Frame::End(Stream::Stdin) => {
                self.stdin_ended = true;
                self.feed(near);
            }
            Frame::Window(stream @ (Stream::Stdout | Stream::Stderr | Stream::Terminal), count) => {
                for source in self.sources.iter_mut().filter(|source| source.stream == stream) {
                    source.window = source.window.saturating_add(count).min(WINDOW);
                }
            }
            Frame::Closed(stream @ (Stream::Stdout | Stream::Stderr | Stream::Terminal)) => {
                // a terminal that is gone has no keys either
                if self.sources.iter().any(|source| source.stream == stream && source.is_terminal) {
                    self.hang_up();
                }
                for source in self.sources.iter_mut().filter(|source| source.stream == stream) {
                    source.gone = true;
                }
            }
            Frame::Go if !self.confirmed => {
                self.confirmed = true;
                if let Some(gate) = &self.gate {
                    let _ = rustix::net::send(gate, &[0], SendFlags::NOSIGNAL);
                }
            }
            Frame::Go => return Err(Broken::OutOfOrder("the call was confirmed already")),
            Frame::Signal(signal) => self.signal(native(signal)),
            Frame::Size(size) => {
                if let Some(terminal) = &self.terminal {
                    let _ = tcsetwinsize(terminal, winsize(size));
                }
            }
            Frame::Reply(id, reply) => match &mut self.agent {
                Some(agent) => agent.reply(id, reply),
                None => return Err(Broken::OutOfOrder("no ssh agent was asked")),
            },
            Frame::Ping => near.say(&Frame::Pong),
            Frame::Call(_) => return Err(Broken::OutOfOrder("a second call")),
            _ => return Err(Broken::OutOfOrder("the near end sent what only the far end sends")),
        }
        Ok(())
    }

    /// Whether what is typed waits until the tool has made its terminal raw.
    fn holds_keys(&self) -> bool {
        let has_keys = self.sink.as_ref().is_some_and(|sink| !sink.queue.is_empty());
        let is_raw = |terminal| tcgetattr(terminal).is_ok_and(|modes| !modes.local_modes.contains(LocalModes::ICANON));
        self.wants_raw && has_keys && self.terminal.as_ref().is_some_and(|terminal| !is_raw(terminal))
    }

    /// Makes signals of keys that are held back, as the terminal will when the tool has it.
    fn obey_keys(&mut self) {
        let Some(sink) = &mut self.sink else { return };
        let found = sink.queue.bytes().enumerate().find_map(|(at, byte)| {
            self.interrupts.iter().find(|(key, _)| key == byte).map(|(_, signal)| (at, *signal))
        });
        if let Some((at, signal)) = found {
            sink.taken += (at + 1) as u32;
            sink.queue.take(at + 1);
            self.signal(signal);
        }
    }

    /// Gives the tool what waits for it.
    fn feed(&mut self, near: &mut Near) {
        if self.holds_keys() {
            return self.obey_keys();
        }
        let Some(sink) = &mut self.sink else { return };
        while !sink.queue.is_empty() {
            match rustix::io::write(&sink.fd, sink.queue.first()) {
                Ok(length) => {
                    sink.queue.take(length);
                    sink.taken += length as u32;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    sink.width.widen(&sink.fd);
                    break;
                }
                Err(_) => {
                    near.say(&Frame::Closed(Stream::Stdin));
                    self.sink = None;
                    return;
                }
            }
        }
        if sink.taken >= WINDOW / 8 {
            near.say(&Frame::Window(Stream::Stdin, sink.taken));
            self.window += sink.taken;
            sink.taken = 0;
        }
        // a terminal has no end of its own
        if self.stdin_ended && sink.queue.is_empty() && self.terminal.is_none() {
            self.sink = None;
        }
    }

    /// Passes on what the tool has written at source `at`.
    fn drain(&mut self, at: usize, near: &mut Near) {
        let has_ended = self.ended.is_some();
        let source = &mut self.sources[at];
        let most = source.most.min(source.window as usize);
        let read = Frame::encode_data(source.stream, most, &mut near.out, |bytes| rustix::io::read(&source.fd, bytes));
        match read {
            Ok(length @ 1..) => {
                source.window -= length as u32;
                source.most = if length < DATA_FEW { DATA_FEW } else { DATA_MAX };
                if length >= DATA_MUCH {
                    source.width.widen(&source.fd);
                }
                (source.dry, self.heard) = (false, Instant::now());
                self.untold = None;
            }
            Err(rustix::io::Errno::INTR) => {}
            // what others may still write is not waited for
            Err(rustix::io::Errno::AGAIN) if has_ended => source.dry = true,
            Err(rustix::io::Errno::AGAIN) => {}
            // a pty whose inner ends are all closed: the tool is about to end
            Err(rustix::io::Errno::IO) if !has_ended => std::thread::sleep(Duration::from_millis(20)),
            Ok(_) | Err(_) => {
                let stream = source.stream;
                source.gone = true;
                if !self.sources.iter().any(|source| source.stream == stream && !source.gone) {
                    if near.waiting() == 0 {
                        self.untold = Some(Instant::now());
                    }
                    near.say(&Frame::End(stream));
                }
            }
        }
    }
}

/// Whether a spare may run it: one has pipes, and no terminal.
fn is_spares(call: &Call) -> bool {
    call.tool == "lbx-enter" && !call.terminals[0] && !call.trace
}

impl Sink {
    fn new(fd: OwnedFd) -> io::Result<Sink> {
        fcntl_setfl(&fd, OFlags::NONBLOCK)?;
        Ok(Sink { fd, queue: Queue::default(), taken: 0, width: Width::default() })
    }
}

/// A pty that behaves as the caller's terminal does.
fn open_terminal(call: &Call) -> io::Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    let mut modes = tcgetattr(&slave)?;
    terminal::decode(&call.modes, &mut modes);
    tcsetattr(&slave, OptionalActions::Now, &modes)?;
    tcsetwinsize(&master, winsize(call.size))?;
    Ok((master, slave))
}

fn winsize(size: Size) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// The tool of `call`, with a clean environment.
fn command(call: &Call, version: &Version, peer: Option<Peer>) -> Command {
    let mut command = Command::new(version.tool(&call.tool));
    command.args(&call.words).env_clear().env("PATH", PATH);
    for variable in ["SUDO_UID", "SUDO_GID"] {
        command.envs(std::env::var_os(variable).map(|value| (variable, value)));
    }
    if let Some(peer) = peer {
        peer.tell(&mut command);
    }
    if call.trace {
        command.env("LBX_TRACE", "1");
    }
    step::carry(&mut command, &call.variables);
    command
}

/// Runs the tool as the leader of a process group. This is the quick way: nothing is copied.
fn spawn_tool(mut command: Command, inner: Inner, mask: &SigSet) -> io::Result<Pid> {
    let [stdin, stdout, stderr] = inner.streams;
    command.stdin(stdin).stdout(stdout).stderr(stderr).process_group(0);
    // it inherits the mask; a tool that ends before this one's is back is found by the first look
    let own = mask.thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let child = command.spawn();
    own.thread_set_mask()?;
    Ok(Pid::from_raw(child?.id() as i32))
}

/// As [`spawn_tool`], with what there is to do in the new process.
fn fork_tool(mut command: Command, inner: &Inner, mask: &SigSet) -> io::Result<Pid> {
    match sys::fork()? {
        None => {
            let ready = become_tool(inner, mask);
            // on the tool's own stderr, which is the caller's
            step::trace(&command);
            let error = match ready {
                Ok(()) => command.exec(),
                Err(e) => e,
            };
            let program = command.get_program().display();
            lbx::failure::say(&format!("{}: cannot run '{program}': {error}\n", crate::TOOL.name));
            sys::exit_now(status::TOOL_FAILED)
        }
        Some(pid) => {
            // both sides, so that it holds whoever is first
            let _ = setpgid(pid, pid);
            Ok(pid)
        }
    }
}

/// In the child: takes its streams, and the foreground of the terminal where there is one.
fn become_tool(inner: &Inner, mask: &SigSet) -> io::Result<()> {
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    sys::dispose(Native::SIGHUP, Disposition::Default)?;
    if inner.terminal {
        // who asks from the background is stopped by default
        let ttou: SigSet = [Native::SIGTTOU].into_iter().collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ttou), None)?;
        tcsetpgrp(&inner.streams[0], rustix::process::getpid())?;
    }
    for (fd, to) in inner.streams.iter().zip(0..) {
        sys::duplicate(fd.as_raw_fd(), to)?;
    }
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(mask), None)?)
}

/// Tells of children that end or stop; and the mask that was before.
fn child_signals() -> Result<(SignalFd, SigSet)> {
    let child: SigSet = [Native::SIGCHLD].into_iter().collect();
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&child), Some(&mut before)).context("cannot block signals")?;
    let signals = SignalFd::with_flags(&child, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
    Ok((signals.context("cannot take signals")?, before))
}

fn native(signal: Signal) -> Native {
    match signal {
        Signal::Hangup => Native::SIGHUP,
        Signal::Interrupt => Native::SIGINT,
        Signal::Quit => Native::SIGQUIT,
        Signal::Terminate => Native::SIGTERM,
        Signal::User1 => Native::SIGUSR1,
        Signal::User2 => Native::SIGUSR2,
        Signal::Alarm => Native::SIGALRM,
        Signal::Stop => Native::SIGTSTP,
        Signal::Continue => Native::SIGCONT,
    }
}

/// Sets this machine's clock by the near one's, when it is far off: the VM of a host that slept has
/// slept longer.
fn set_clock(near: u64) {
    let near = Duration::from_millis(near);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    if near.abs_diff(now) > DRIFT {
        let time = nix::sys::time::TimeSpec::from_duration(near);
        let _ = nix::time::clock_settime(nix::time::ClockId::CLOCK_REALTIME, time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(queue: &Queue) -> Vec<u8> {
        queue.bytes().copied().collect()
    }

    #[test]
    fn what_waits_is_taken_in_the_order_in_which_it_came() {
        let mut queue = Queue::default();
        let large = |byte| vec![byte; DATA_MAX];
        for piece in [large(1), vec![2, 3], vec![4], large(5)] {
            queue.push(piece);
        }
        let mut left = [large(1), vec![2, 3, 4], large(5)].concat();
        assert_eq!(all(&queue), left);
        for count in [0, 1, DATA_MAX - 2, 2, 1, DATA_MAX] {
            queue.take(count);
            left.drain(..count);
            assert_eq!(all(&queue), left);
            assert!(left.starts_with(queue.first()) && queue.first().is_empty() == left.is_empty());
        }
        queue.take(left.len());
        assert!(queue.is_empty() && queue.first().is_empty());
    }

    #[test]
    fn many_small_pieces_take_no_more_than_they_hold() {
        let mut queue = Queue::default();
        (0..WINDOW).for_each(|_| queue.push(vec![0]));
        assert_eq!(queue.pieces.len(), WINDOW as usize / DATA_MAX);
    }
}
