//! The near end of a call: what is typed and piped in goes far, what the tool prints comes back, and
//! so does its status.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use lbx::failure::{Failure, Result, fail, status};
use lbx::{Place, step};
use lbx_on::frame::{Broken, Call, DATA_FEW, DATA_MAX, Decoder, Frame, Signal, Stream, WINDOW};
use nix::sys::signal::Signal as Native;
use rustix::fs::{FileType, OFlags};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::isatty;

use crate::agent::Agent;
use crate::link::{Event, Link, SILENCE, Silence};
use crate::{keyboard, signals};

/// The variable that says where the caller's ssh agent is, when it is to be forwarded.
const AGENT: &str = "SSH_AUTH_SOCK";
/// A pause between looks at a terminal whose keys are somebody else's for now.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Seconds of silence after which the far end is asked whether it is there.
const ASK_AFTER: u32 = 2;

/// The call of `tool` with `words` at `place`, with this process's streams, variables and directory.
///
/// `forwards`: it gets at the caller's ssh agent.
pub(crate) fn call(place: &Place, tool: &OsStr, words: &[OsString], wants_stdin: bool, forwards: bool) -> Result<Call> {
    refuse_directories()?;
    let mut variables = step::all_carried();
    let agent = forwards && variables.iter().any(|(name, _)| name == AGENT);
    if agent {
        variables.retain(|(name, _)| name != AGENT);
    }
    variables.push(place.call_it());
    let home = std::env::var_os("HOME").filter(|_| !variables.iter().any(|(name, _)| name == "HOME"));
    variables.extend(home.map(|home| ("HOME".into(), home)));
    if let Place::Lima(_) = place {
        variables.extend(lbx_vm::lima_home().map(|dir| ("LIMA_HOME".into(), dir.into())));
    }
    // behind ssh the files are another machine's
    let directory = match place {
        Place::Ssh(_) => None,
        _ => std::env::current_dir().ok(),
    };
    let keys = wants_stdin && isatty(stdin());
    Ok(Call {
        tool: tool.to_owned(),
        words: words.to_vec(),
        directory: directory.map(PathBuf::into_os_string).unwrap_or_default(),
        variables,
        terminals: [keys, isatty(stdout()), isatty(stderr())],
        joined: are_one(stdout(), stderr()),
        stdin: wants_stdin,
        agent,
        trace: std::env::var_os("LBX_TRACE").is_some_and(|value| value == "1"),
        now: 0,
        size: if keys { keyboard::size() } else { Default::default() },
        modes: if keys { keyboard::modes() } else { Vec::new() },
    })
}

/// `call` as it goes over a link, with the time of now: a VM may have had to start since it was made.
pub(crate) fn first_frame(call: &Call) -> Vec<u8> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or_default();
    Frame::Call(Box::new(Call { now, ..call.clone() })).bytes()
}

/// Whether two descriptors are open on one file.
fn are_one(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let file = |fd| rustix::fs::fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino));
    file(one).is_some() && file(one) == file(other)
}

/// A directory is no stream, and is refused as it is near; nor is what was opened as a mere path.
fn refuse_directories() -> Result<()> {
    // O_PATH of Linux, which other systems have not
    let path = OFlags::from_bits_retain(if cfg!(target_os = "linux") { 0o10_000_000 } else { 0 });
    for (fd, stream) in [stdin(), stdout(), stderr()].into_iter().enumerate() {
        let is_dir = rustix::fs::fstat(stream).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
        let is_path = rustix::fs::fcntl_getfl(stream).is_ok_and(|flags| flags.intersects(path));
        if is_dir || is_path {
            return fail(
                Failure::new(format!("descriptor {fd} is a directory or a path: it leads nowhere at another place"))
                    .hint("redirect files, not directories"),
            );
        }
    }
    Ok(())
}

/// How a call has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With the tool's own status.
    Exit(u8),
    /// By the signal of that number on Linux.
    Killed(u8),
}

/// Relays `call`, which went over `link` first, until it has ended. Once it is confirmed it is never
/// repeated: of a stream that ends nobody knows what came through.
pub(crate) fn relay(mut link: Link, call: &Call) -> Result<Ended> {
    let agent = call.agent.then(|| step::carried(AGENT.as_ref())).flatten().map(|path| Agent::at(path.into()));
    let mut near = Near {
        out: link.out.clone(),
        tell: link.tell.clone(),
        credit: Arc::new(Credit::new(WINDOW)),
        screens: [
            Screen::new(Stream::Stdout, stdout(), link.out.clone()),
            Screen::new(Stream::Stderr, stderr(), link.out.clone()),
            Screen::new(Stream::Terminal, stdin(), link.out.clone()),
        ],
        agent,
        stdin: call.stdin,
        keys: call.terminals[0],
        started: false,
    };
    signals::tell(Some(link.tell.clone()));
    near.say(&Frame::Go);
    let ended = near.until_ended(&mut link);
    // what has come is printed in any case; a signal, or a key, may end that
    signals::tell(None);
    if ended.is_err() || !isatty(stdout()) {
        keyboard::restore();
    }
    let [stdout, stderr, terminal] = near.screens.map(Screen::finish);
    keyboard::restore();
    let ended = ended?;
    stdout.and(stderr).and(terminal).map(|()| ended)
}

struct Near {
    out: Sender<Vec<u8>>,
    tell: Sender<Event>,
    credit: Arc<Credit>,
    screens: [Screen; 3],
    agent: Option<Agent>,
    stdin: bool,
    keys: bool,
    started: bool,
}

impl Near {
    fn say(&self, frame: &Frame) {
        // when nobody writes any more, the reader tells why
        let _ = self.out.send(frame.bytes());
    }

    fn until_ended(&mut self, link: &mut Link) -> Result<Ended> {
        let mut decoder = Decoder::default();
        let mut silence = Silence::default();
        decoder.push(&link.take_rest());
        loop {
            while let Some(frame) = decoder.next()? {
                if let Some(ended) = self.take(frame)? {
                    return Ok(ended);
                }
            }
            match link.events.recv_timeout(silence.left()) {
                Ok(Event::Bytes(bytes)) => {
                    silence.broken();
                    decoder.push(&bytes);
                }
                Ok(Event::Signal(signal)) => self.take_signal(signal),
                Ok(Event::Gone(error)) => {
                    decoder.finish()?;
                    return Err(self.lost(error));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.lost(None)),
                Err(RecvTimeoutError::Timeout) => match silence.tick() {
                    SILENCE.. => return Err(link.does_not_answer(SILENCE)),
                    ASK_AFTER.. => self.say(&Frame::Ping),
                    _ => {}
                },
            }
        }
    }

    fn lost(&self, error: Option<io::Error>) -> anyhow::Error {
        let lost = "the connection was lost while the command ran";
        match error {
            Some(e) => anyhow::Error::from(e).context(lost),
            None => Failure::new(lost).into(),
        }
    }

    /// Does what `frame` says; how the call has ended, if that is it.
    fn take(&mut self, frame: Frame) -> Result<Option<Ended>> {
        match frame {
            Frame::Started if !self.started => {
                self.started = true;
                self.begin_to_read();
            }
            Frame::Failed(why) => return fail(Failure::new(why)),
            Frame::Pong => {}
            _ if !self.started => return Err(Broken::OutOfOrder("the call has not started").into()),
            Frame::Data(stream, bytes) => self.screen(stream)?.print(bytes)?,
            Frame::End(stream) => self.screen(stream)?.end(),
            Frame::Window(Stream::Stdin, count) => self.credit.grant(count),
            Frame::Closed(Stream::Stdin) => self.credit.close(),
            Frame::Stopped => self.stop_and_go_on(),
            Frame::Exit(status) => return Ok(Some(Ended::Exit(status))),
            Frame::Killed(signal) => return Ok(Some(Ended::Killed(signal))),
            Frame::Ask(id, request) => match &self.agent {
                Some(agent) if agent.ask(id, request, &self.out) => {}
                Some(_) => return Err(Broken::OutOfOrder("more is asked of the ssh agent at once than may be").into()),
                None => return Err(Broken::OutOfOrder("no ssh agent was offered").into()),
            },
            _ => return Err(Broken::OutOfOrder("the far end sent what only the near end sends").into()),
        }
        Ok(None)
    }

    fn screen(&mut self, stream: Stream) -> Result<&mut Screen, Broken> {
        let screen = self.screens.iter_mut().find(|screen| screen.stream == stream);
        screen.ok_or(Broken::OutOfOrder("the far end sent what only the near end sends"))
    }

    fn begin_to_read(&mut self) {
        if !self.stdin {
            return self.say(&Frame::End(Stream::Stdin));
        }
        let (out, credit) = (self.out.clone(), Arc::clone(&self.credit));
        if self.keys {
            keyboard::make_raw();
            let tell = self.tell.clone();
            std::thread::spawn(move || type_in(&out, &credit, &tell));
        } else {
            std::thread::spawn(move || pour_in(&out, &credit));
        }
    }

    fn take_signal(&mut self, signal: Native) {
        let far = match signal {
            Native::SIGWINCH => return self.say(&Frame::Size(keyboard::size())),
            // brought back to the foreground, perhaps
            Native::SIGCONT => return self.make_raw_again(),
            Native::SIGINT => Signal::Interrupt,
            Native::SIGQUIT => Signal::Quit,
            Native::SIGTERM => Signal::Terminate,
            Native::SIGUSR1 => Signal::User1,
            Native::SIGUSR2 => Signal::User2,
            Native::SIGALRM => Signal::Alarm,
            Native::SIGTSTP => Signal::Stop,
            _ => Signal::Hangup,
        };
        self.say(&Frame::Signal(far));
    }

    /// The tool has stopped: so does this process, with the terminal as the caller's shell left it.
    fn stop_and_go_on(&mut self) {
        signals::obey(Native::SIGTSTP);
        self.make_raw_again();
        self.say(&Frame::Signal(Signal::Continue));
    }

    fn make_raw_again(&self) {
        if self.keys && self.started && keyboard::make_raw() {
            self.say(&Frame::Size(keyboard::size()));
        }
    }
}

/// How much may be sent, for the thread that sends it.
struct Credit {
    left: Mutex<Option<u32>>,
    changed: Condvar,
}

impl Credit {
    fn new(count: u32) -> Credit {
        Credit { left: Mutex::new(Some(count)), changed: Condvar::new() }
    }

    fn grant(&self, count: u32) {
        if let Ok(mut left) = self.left.lock() {
            // never more than a window, whatever the far end says
            *left = left.map(|left| left.saturating_add(count).min(WINDOW));
            self.changed.notify_all();
        }
    }

    fn close(&self) {
        if let Ok(mut left) = self.left.lock() {
            *left = None;
            self.changed.notify_all();
        }
    }

    /// Waits until something may be sent, and returns how much, `most` at most; `None`: nothing is taken any more.
    fn wait(&self, most: usize) -> Option<usize> {
        let left = self.left.lock().ok()?;
        let left = self.changed.wait_while(left, |left| *left == Some(0)).ok()?;
        left.map(|left| (left as usize).min(most))
    }

    fn spend(&self, count: usize) {
        if let Ok(mut left) = self.left.lock() {
            *left = left.map(|left| left.saturating_sub(count as u32));
        }
    }
}

/// Sends what is piped in, to its end.
fn pour_in(out: &Sender<Vec<u8>>, credit: &Credit) {
    let mut most = DATA_FEW;
    while let Some(room) = credit.wait(most) {
        let mut frame = Vec::new();
        match Frame::encode_data(Stream::Stdin, room, &mut frame, |bytes| rustix::io::read(stdin(), bytes)) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::AGAIN) => {
                wait_for_input(None);
                continue;
            }
            Ok(0) | Err(_) => {
                let _ = out.send(Frame::End(Stream::Stdin).bytes());
                return;
            }
            Ok(length) => {
                credit.spend(length);
                if length == most {
                    most = DATA_MAX;
                }
            }
        }
        if out.send(frame).is_err() {
            return;
        }
    }
    // who writes there learns that nobody reads any more
    if let Ok(null) = std::fs::File::open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(null);
    }
}

/// Sends what is typed, as long as keys are this job's. A terminal that is gone is a hang-up.
fn type_in(out: &Sender<Vec<u8>>, credit: &Credit, tell: &Sender<Event>) {
    while let Some(room) = credit.wait(DATA_FEW) {
        // a read that waits would be a background job's read when the job is sent there
        if !keyboard::is_raw() {
            std::thread::sleep(LOOK_AGAIN);
            let _ = tell.send(Event::Signal(Native::SIGCONT));
            continue;
        }
        if !wait_for_input(Some(LOOK_AGAIN)) || !keyboard::is_raw() {
            continue;
        }
        let mut frame = Vec::new();
        match Frame::encode_data(Stream::Stdin, room, &mut frame, |bytes| rustix::io::read(stdin(), bytes)) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Ok(0) | Err(_) => {
                let _ = tell.send(Event::Signal(Native::SIGHUP));
                return;
            }
            Ok(length) => {
                credit.spend(length);
                if out.send(frame).is_err() {
                    return;
                }
            }
        }
    }
}

/// Waits until there is something to read at 0. By select(2): poll(2) of macOS knows no terminals.
fn wait_for_input(limit: Option<Duration>) -> bool {
    use nix::sys::select::{FdSet, select};
    use nix::sys::time::{TimeVal, TimeValLike};
    let mut fds = FdSet::new();
    fds.insert(stdin());
    let mut limit = limit.map(|limit| TimeVal::milliseconds(i64::try_from(limit.as_millis()).unwrap_or(0)));
    select(None, &mut fds, None, None, limit.as_mut()).is_ok_and(|ready| ready > 0)
}

/// A stream of the tool's, printed by a thread: a reader that dawdles holds up nothing else.
struct Screen {
    stream: Stream,
    /// So much may still come.
    window: Arc<Mutex<u32>>,
    queue: Option<Sender<Vec<u8>>>,
    printer: JoinHandle<io::Result<()>>,
}

impl Screen {
    fn new(stream: Stream, to: BorrowedFd<'static>, out: Sender<Vec<u8>>) -> Screen {
        let (queue, queued) = channel();
        let window = Arc::new(Mutex::new(WINDOW));
        let grants = Arc::clone(&window);
        let printer = std::thread::spawn(move || print_all(stream, to, &queued, &grants, &out));
        Screen { stream, window, queue: Some(queue), printer }
    }

    fn print(&mut self, bytes: Vec<u8>) -> Result<()> {
        if let Ok(mut window) = self.window.lock() {
            let length = bytes.len() as u32;
            *window = window.checked_sub(length).ok_or(Broken::OutOfOrder("more than the window lets through"))?;
        }
        let Some(queue) = &self.queue else {
            return Err(Broken::OutOfOrder(match self.stream {
                Stream::Stdout => "data behind the end of stdout",
                Stream::Stderr => "data behind the end of stderr",
                _ => "data behind the end of the terminal",
            })
            .into());
        };
        // a printer that has ended has said so to the far end
        let _ = queue.send(bytes);
        Ok(())
    }

    /// Nothing more comes: whoever reads here sees it, too.
    fn end(&mut self) {
        self.queue = None;
    }

    /// Waits until all is printed.
    fn finish(mut self) -> Result<()> {
        self.queue = None;
        let name = match self.stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            _ => "the terminal",
        };
        match self.printer.join() {
            // the reader has had enough
            Ok(Err(e)) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Ok(printed) => printed.with_context(|| format!("cannot write to {name}")),
            Err(_) => fail(Failure::new(format!("cannot write to {name}"))),
        }
    }
}

/// Prints what is queued, and lets the far end send as much again.
fn print_all(
    stream: Stream,
    to: BorrowedFd<'_>,
    queued: &Receiver<Vec<u8>>,
    window: &Mutex<u32>,
    out: &Sender<Vec<u8>>,
) -> io::Result<()> {
    let mut taken = 0;
    for bytes in queued {
        if let Err(e) = write_all(to, &bytes) {
            let _ = out.send(Frame::Closed(stream).bytes());
            return Err(e);
        }
        taken += bytes.len() as u32;
        if taken >= WINDOW / 8 {
            if let Ok(mut window) = window.lock() {
                *window = window.saturating_add(taken);
            }
            let _ = out.send(Frame::Window(stream, taken).bytes());
            taken = 0;
        }
    }
    // who reads there sees the end as soon as the tool has closed it; stderr stays, for messages
    if stream == Stream::Stdout
        && let Ok(null) = std::fs::File::options().write(true).open("/dev/null")
    {
        let _ = rustix::stdio::dup2_stdout(null);
    }
    Ok(())
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(rustix::io::Errno::INTR) => {}
            // somebody has made it so; it is not ours to change
            Err(rustix::io::Errno::AGAIN) => std::thread::sleep(Duration::from_millis(1)),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// The exit status that tells of `ended`; where the tool was killed, this process follows it.
pub(crate) fn status(ended: Ended) -> u8 {
    match ended {
        Ended::Exit(status) => status,
        Ended::Killed(number) => {
            let follows = [(1, Native::SIGHUP), (2, Native::SIGINT), (3, Native::SIGQUIT), (15, Native::SIGTERM)];
            if let Some((_, signal)) = follows.iter().find(|(of, _)| *of == number) {
                signals::obey(*signal);
            }
            128u8.checked_add(number).unwrap_or(status::TOOL_FAILED)
        }
    }
}
