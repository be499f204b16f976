//! A connected stream to the far end of a place: the one thing that a further kind of place needs.
//!
//! Two threads read and write it, so that whoever holds the link never waits for a stream that
//! hangs: the host's sleep leaves sockets behind that answer nothing, for ever.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use lbx::failure::{Failure, Result, fail, printable, say};
use lbx::{Place, step};
use lbx_on::frame::{DATA_FEW, DATA_MUCH};
use rustix::buffer::spare_capacity;
use rustix::termios::isatty;

use crate::greeting::{Answer, LINE_MAX, Request};
use crate::guest::{self, Guest};
use crate::pipe::Width;

/// Seconds without a sign of life after which a place is taken for dead; one that was only away for
/// less goes on.
pub(crate) const SILENCE: u32 = 12;
/// Seconds in which ssh is connected, and has something to say.
const CONNECTING: u32 = 30;
const CHUNK: usize = 128 * 1024;

/// What comes to whoever holds a link.
#[derive(Debug)]
pub(crate) enum Event {
    /// Bytes of the stream.
    Bytes(Vec<u8>),
    /// The stream has ended.
    Gone(Option<io::Error>),
    /// A signal for this process.
    Signal(nix::sys::signal::Signal),
}

/// A connected stream.
pub(crate) struct Link {
    pub(crate) events: Receiver<Event>,
    /// What other threads have to say to whoever holds the link.
    pub(crate) tell: Sender<Event>,
    /// Bytes to be written.
    pub(crate) out: Sender<Vec<u8>>,
    /// What came behind the line that was read last.
    rest: Vec<u8>,
    place: Place,
    ssh: Option<Ssh>,
}

/// An ssh process, and what it has said so far.
struct Ssh {
    child: Child,
    said: Arc<Mutex<Said>>,
}

#[derive(Default)]
struct Said {
    text: Vec<u8>,
    /// From here on what it says is said at once.
    aloud: bool,
}

/// Why there is no link.
#[derive(Debug)]
pub(crate) enum NoLink {
    /// Nothing listens there: it may have to be started.
    Down(anyhow::Error),
    /// Something is there that does not answer, or answers that it cannot.
    Failed(anyhow::Error),
}

impl Link {
    /// Connects to `place` and asks for a call; its tools are sent when they are not there.
    ///
    /// The bytes of `call` follow at once, which saves a round trip: an end that cannot take them has
    /// read none of them.
    pub(crate) fn open(place: &Place, call: impl Fn() -> Vec<u8>) -> Result<Link, NoLink> {
        for _ in 0..3 {
            let guests = guest::all().map_err(NoLink::Failed)?;
            let versions = guests.into_iter().map(|guest| (guest.arch, guest.version)).collect();
            let mut link = Link::connect(place)?;
            let mut first = Request::Call(versions).line().into_bytes();
            first.extend(call());
            let _ = link.out.send(first);
            match link.first_answer()? {
                Answer::Ready => {
                    link.speak_aloud();
                    return Ok(link);
                }
                Answer::Missing(arch) => {
                    drop(link);
                    send_tools(place, &guest::of(&arch).map_err(NoLink::Failed)?)?;
                }
                Answer::Absent(arch) => {
                    drop(link);
                    guest::of(&arch).and_then(|guest| send_entry(place, &guest)).map_err(NoLink::Failed)?;
                }
                answer => return Err(NoLink::Failed(unexpected(place, answer))),
            }
        }
        Err(NoLink::Failed(Failure::new(format!("the tools cannot be put at '{place}'")).into()))
    }

    fn connect(place: &Place) -> Result<Link, NoLink> {
        match place {
            Place::Lima(instance) => {
                let socket = lbx_vm::socket(instance)
                    .ok_or_else(|| NoLink::Failed(Failure::new("HOME is not set: where is Lima?").into()))?;
                let down = |e| NoLink::Down(anyhow::Error::from(e).context(format!("cannot reach '{place}'")));
                let stream = UnixStream::connect(&socket).map_err(down)?;
                let read = stream.try_clone().map_err(down)?;
                Ok(Link::of(place, read, Closing(stream), None))
            }
            Place::Ssh(destination) => {
                let start = || {
                    make_master(destination)?;
                    let mut ssh = ssh(destination, &[])?;
                    // keys of this terminal are for the far side, by way of this process
                    ssh.arg(far_command(SERVE)).process_group(0);
                    ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
                    step::trace(&ssh);
                    ssh.spawn().context("cannot run ssh")
                };
                let mut child = start().map_err(NoLink::Failed)?;
                let (Some(write), Some(read), Some(stderr)) =
                    (child.stdin.take(), child.stdout.take(), child.stderr.take())
                else {
                    return Err(NoLink::Failed(Failure::new("ssh has no streams").into()));
                };
                let said = Arc::new(Mutex::new(Said::default()));
                let listener = Arc::clone(&said);
                std::thread::spawn(move || listen(stderr, &listener));
                Ok(Link::of(place, read, write, Some(Ssh { child, said })))
            }
            Place::Local => Err(NoLink::Failed(Failure::new("there is no way to 'local': it is here").into())),
        }
    }

    fn of(
        place: &Place,
        read: impl AsFd + Send + 'static,
        mut write: impl Write + AsFd + Send + 'static,
        ssh: Option<Ssh>,
    ) -> Link {
        let (tell, events) = channel();
        let (out, to_write) = channel::<Vec<u8>>();
        let incoming = tell.clone();
        std::thread::spawn(move || {
            let (mut bytes, mut width) = (Vec::with_capacity(DATA_FEW), Width::default());
            loop {
                let event = match rustix::io::read(&read, spare_capacity(&mut bytes)) {
                    Ok(0) => Event::Gone(None),
                    // so much memory costs a short call more than all else, and a long one less than copies do
                    Ok(length) if length >= DATA_MUCH || length == bytes.capacity() => {
                        if length >= DATA_MUCH {
                            width.widen(&read);
                        }
                        Event::Bytes(std::mem::replace(&mut bytes, Vec::with_capacity(CHUNK)))
                    }
                    Ok(_) => {
                        let event = Event::Bytes(bytes.clone());
                        bytes.clear();
                        event
                    }
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(e) => Event::Gone(Some(e.into())),
                };
                let gone = matches!(event, Event::Gone(_));
                if incoming.send(event).is_err() || gone {
                    return;
                }
            }
        });
        std::thread::spawn(move || {
            let mut width = Width::default();
            for bytes in to_write {
                if bytes.len() >= DATA_MUCH {
                    width.widen(&write);
                }
                // the reader sees the end
                if write.write_all(&bytes).is_err() {
                    return;
                }
            }
        });
        Link { events, tell, out, rest: Vec::new(), place: place.clone(), ssh }
    }

    fn say(&self, request: &Request) {
        // when nobody writes any more, the reader tells why
        let _ = self.out.send(request.line().into_bytes());
    }

    /// Waits for the line that answers the first request.
    fn first_answer(&mut self) -> Result<Answer, NoLink> {
        // ssh has a connection to make first
        let limit = if self.ssh.is_some() { CONNECTING } else { SILENCE };
        self.answer(limit)
    }

    /// The next line, for which the far end has `limit` seconds.
    fn answer(&mut self, limit: u32) -> Result<Answer, NoLink> {
        let mut silence = Silence::default();
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let text = &line[..end];
                let answer = std::str::from_utf8(text).ok().and_then(Answer::parse);
                return answer.ok_or_else(|| NoLink::Failed(self.nonsense(text)));
            }
            if self.rest.len() > LINE_MAX {
                return Err(NoLink::Failed(self.nonsense(&self.rest)));
            }
            match self.events.recv_timeout(silence.left()) {
                Ok(Event::Bytes(bytes)) => self.rest.extend(bytes),
                Ok(Event::Gone(error)) => return Err(self.ended(error)),
                // nobody is told of signals yet: they have done what they do
                Ok(Event::Signal(_)) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended(None)),
                Err(RecvTimeoutError::Timeout) => {
                    if silence.tick() >= limit {
                        return Err(NoLink::Failed(self.does_not_answer(limit)));
                    }
                }
            }
        }
    }

    /// What came behind the answers: the first frames.
    pub(crate) fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }

    /// What a place is said to be that was silent for `seconds`.
    pub(crate) fn does_not_answer(&self, seconds: u32) -> anyhow::Error {
        let failure = Failure::new(format!("'{}' does not answer: nothing came for {seconds} seconds", self.place));
        match &self.place {
            Place::Lima(_) => {
                failure.hint(format!("if it does not wake up by itself: lbx-vm --on {} restart", self.place)).into()
            }
            _ => failure.into(),
        }
    }

    fn nonsense(&self, text: &[u8]) -> anyhow::Error {
        let text = String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned();
        Failure::new(format!("'{}' does not speak as llima-box does: '{}'", self.place, printable(&text)))
            .hint("a login script that prints something there is in the way")
            .into()
    }

    /// The stream ended before anything was answered.
    fn ended(&mut self, error: Option<io::Error>) -> NoLink {
        let Some(ssh) = &mut self.ssh else {
            let error = error.map_or_else(|| anyhow::anyhow!("the connection was closed"), anyhow::Error::from);
            return NoLink::Down(error.context(format!("cannot reach '{}'", self.place)));
        };
        let _ = ssh.child.wait();
        // what it said last is on its way
        std::thread::sleep(Duration::from_millis(50));
        let said = ssh.said.lock().map(|said| String::from_utf8_lossy(&said.text).into_owned()).unwrap_or_default();
        let why: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let message = match why.as_slice() {
            [] => format!("cannot reach '{}': ssh ended", self.place),
            why => format!("cannot reach '{}': {}", self.place, why.join("; ")),
        };
        let failure = Failure::new(message);
        NoLink::Failed(match said.contains("sudo:") {
            true => failure.hint("`sudo -n true` must work there, without a password").into(),
            false => failure.into(),
        })
    }

    fn speak_aloud(&self) {
        if let Some(mut said) = self.ssh.as_ref().and_then(|ssh| ssh.said.lock().ok()) {
            said.aloud = true;
        }
    }
}

/// Counts seconds without a word. Time in which this process itself stood still, because it was
/// stopped or the machine slept, is not held against the other end.
#[derive(Debug)]
pub(crate) struct Silence {
    seconds: u32,
    next: Instant,
}

impl Default for Silence {
    fn default() -> Self {
        Silence { seconds: 0, next: Instant::now() + Duration::from_secs(1) }
    }
}

impl Silence {
    /// How long to wait until [`Silence::tick`] is due.
    pub(crate) fn left(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// A second has passed, if one has.
    pub(crate) fn tick(&mut self) -> u32 {
        if self.left().is_zero() {
            self.seconds += 1;
            self.next = Instant::now() + Duration::from_secs(1);
        }
        self.seconds
    }

    /// Something was heard.
    pub(crate) fn broken(&mut self) {
        self.seconds = 0;
    }
}

/// A socket whose other end sees when it is no longer held, whoever else has a copy.
struct Closing(UnixStream);

impl Write for Closing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl AsFd for Closing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Keeps what ssh says until it is known whether it matters.
fn listen(mut stderr: impl Read, said: &Mutex<Said>) {
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = stderr.read(&mut bytes) {
        let Ok(mut said) = said.lock() else { return };
        match said.aloud {
            true => say(&String::from_utf8_lossy(&bytes[..length])),
            false if said.text.len() < 64 * 1024 => said.text.extend_from_slice(&bytes[..length]),
            false => {}
        }
    }
}

/// Whether somebody could answer a question of ssh's.
fn has_person() -> bool {
    isatty(rustix::stdio::stderr())
}

/// ssh with `words` to `destination`, over a connection that is kept for the next call.
fn ssh(destination: &str, words: &[&str]) -> Result<Command> {
    let dir = connections()?;
    let mut path = OsString::from("ControlPath=");
    path.push(dir.join("%C"));
    let mut ssh = Command::new("ssh");
    // the agent goes another way, each call's its own
    ssh.args(words).args(["-T", "-a", "-x", "-o"]).arg(path);
    let options = [
        "ControlMaster=auto",
        "ControlPersist=600",
        "ServerAliveInterval=5",
        "ServerAliveCountMax=3",
        "ConnectTimeout=10",
        // what the caller's configuration has for a person who logs in
        "ClearAllForwardings=yes",
        "RemoteCommand=none",
    ];
    for option in options {
        ssh.args(["-o", option]);
    }
    if !has_person() {
        ssh.args(["-o", "BatchMode=yes"]);
    }
    step::keep_values_from(&mut ssh);
    ssh.args(["--", destination]);
    Ok(ssh)
}

/// Makes the connection that is kept, where ssh may have to ask a person: it asks in the foreground
/// alone, and for as long as that takes.
fn make_master(destination: &str) -> Result<()> {
    if !has_person() {
        return Ok(());
    }
    let mut check = ssh(destination, &["-O", "check"])?;
    check.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut make = ssh(destination, &["-f", "-N"])?;
    make.stdin(Stdio::null()).stdout(Stdio::null());
    for mut command in [check, make] {
        step::trace(&command);
        if command.status().context("cannot run ssh")?.success() {
            return Ok(());
        }
    }
    fail(Failure::new(format!("cannot reach 'ssh:{destination}': ssh has said why")))
}

/// Where the sockets of kept connections lie: a directory that is this user's alone.
fn connections() -> Result<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let set = |variable| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = match (set("XDG_RUNTIME_DIR"), set("HOME")) {
        (Some(dir), _) => dir.join("llima-box"),
        (None, Some(home)) => home.join(".cache/llima-box"),
        (None, None) => return fail(Failure::new("HOME is not set")),
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot make '{}'", dir.display()))?;
    let meta = std::fs::symlink_metadata(&dir).with_context(|| format!("cannot look at '{}'", dir.display()))?;
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        return fail(Failure::new(format!("directory is not yours alone: {}", dir.display())).hint("chmod 700"));
    }
    Ok(dir)
}

/// Becomes the far end, or says that none is there.
const SERVE: &str = "x=/usr/local/libexec/llima-box/lbx-on; \
    if [ \"$(uname -s)\" != Linux ]; then echo \"LBX1 failed it runs $(uname -s), not Linux\"; \
    elif [ ! -x $x ]; then echo \"LBX1 absent $(uname -m)\"; \
    elif [ \"$(id -u)\" = 0 ]; then exec $x --serve; \
    else exec sudo -n -- $x --serve; fi";
/// Puts what comes where the far end's program belongs.
const PUT: &str = "sudo='sudo -n --'; [ \"$(id -u)\" != 0 ] || sudo=; \
    exec $sudo sh -c 'umask 022 && d=/usr/local/libexec/llima-box && mkdir -p $d && \
    cat >$d/.lbx-on.$$ && chmod 755 $d/.lbx-on.$$ && mv -f $d/.lbx-on.$$ $d/lbx-on'";

/// `script` as a command that any login shell passes to sh.
fn far_command(script: &str) -> String {
    format!("exec {}", shell_words::join(["sh", "-c", script]))
}

/// Puts the far end's program at `place`, where nothing of ours is yet.
fn send_entry(place: &Place, guest: &Guest) -> Result<()> {
    let Place::Ssh(destination) = place else {
        let hint = format!("lbx-vm --on {place} start");
        return fail(Failure::new(format!("the far end is missing at '{place}'")).hint(hint));
    };
    let mut ssh = ssh(destination, &[])?;
    let entry = guest.entry();
    let file = std::fs::File::open(&entry).with_context(|| format!("cannot open '{}'", entry.display()))?;
    ssh.arg(far_command(PUT)).stdin(file).stdout(Stdio::null());
    step::trace(&ssh);
    let status = ssh.status().context("cannot run ssh")?;
    match status.success() {
        true => Ok(()),
        false => fail(Failure::new(format!("cannot put the far end's program at '{place}'"))),
    }
}

/// Sends the tools of `guest`, whose version is missing at `place`.
fn send_tools(place: &Place, guest: &Guest) -> Result<(), NoLink> {
    let mut link = Link::connect(place)?;
    link.say(&Request::Tools(guest.version.clone()));
    match link.first_answer()? {
        Answer::Ready => {}
        answer => return Err(NoLink::Failed(unexpected(place, answer))),
    }
    let send = |bytes: Vec<u8>| drop(link.out.send(bytes));
    for (name, file) in guest.programs().map_err(NoLink::Failed)? {
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read '{}'", file.display()));
        let bytes = bytes.map_err(NoLink::Failed)?;
        send(Request::File(name, bytes.len() as u64).line().into_bytes());
        send(bytes);
    }
    send(Request::End.line().into_bytes());
    match link.answer(20 * SILENCE)? {
        Answer::Done => Ok(()),
        answer => Err(NoLink::Failed(unexpected(place, answer))),
    }
}

fn unexpected(place: &Place, answer: Answer) -> anyhow::Error {
    match answer {
        Answer::Failed(why) => Failure::new(format!("'{place}' refuses: {why}")).into(),
        answer => Failure::new(format!("'{place}' gives an answer that was not asked for: {answer:?}")).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_of_this_process_is_no_silence_of_the_other() {
        let mut silence = Silence::default();
        assert_eq!(silence.tick(), 0, "no second has passed");
        silence.next = Instant::now() - Duration::from_secs(100);
        assert_eq!(silence.tick(), 1, "a hundred seconds in one step are one");
        silence.broken();
        silence.next = Instant::now();
        assert_eq!(silence.tick(), 1);
    }

    #[test]
    fn a_script_reaches_sh_through_any_shell() {
        assert_eq!(far_command("a \"$b\""), "exec sh -c 'a \"$b\"'");
    }
}
