//! The frames of the stream between the two ends, and the line that comes before them.
//!
//! A frame is one byte for its kind, four for the length of what follows (big-endian), and that.
//! Whoever sends on a stream keeps to its window, so that a frame is always read at once and
//! neither end waits for a reader behind the other.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// As much as one [`Frame::Data`] carries.
pub const DATA_MAX: usize = 64 * 1024;
/// As much as a [`Frame::Call`] may hold: more than any argument list that Linux executes.
pub const CALL_MAX: usize = 8 * 1024 * 1024;
/// As much as any other frame may hold: a request to an ssh agent is the largest.
pub const FRAME_MAX: usize = 256 * 1024 + 64;
/// As much of each stream may be under way.
pub const WINDOW: u32 = 2 * 1024 * 1024;
const HEADER: usize = 5;
/// As much as is read at first of what may be little: more costs a short call more than all else.
pub const DATA_FEW: usize = 4096;
/// Whoever reads or writes as much at once has more to come: ssh passes on half as much as a frame holds.
pub const DATA_MUCH: usize = DATA_MAX / 2;

/// What flows beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// To the command.
    Stdin,
    /// From the command.
    Stdout,
    /// From the command.
    Stderr,
    /// From the command's terminal, where neither stdout nor stderr is one.
    Terminal,
}

/// A signal, by meaning: numbers differ between systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Signal {
    Hangup,
    Interrupt,
    Quit,
    Terminate,
    User1,
    User2,
    Alarm,
    /// Stop, as ^Z does.
    Stop,
    Continue,
}

/// One call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The tool's name.
    pub tool: OsString,
    /// The words behind it.
    pub words: Vec<OsString>,
    /// Where it runs, when that can be entered.
    pub directory: OsString,
    /// Variables that it carries.
    pub variables: Vec<(OsString, OsString)>,
    /// Which of the streams 0, 1 and 2 are terminals near.
    pub terminals: [bool; 3],
    /// Whether 1 and 2 lead to one file: what is written in turn arrives in turn.
    pub joined: bool,
    /// Whether what is typed or piped in near is for it.
    pub stdin: bool,
    /// Whether it gets at the caller's ssh agent.
    pub agent: bool,
    /// Whether far execs are told on stderr.
    pub trace: bool,
    /// The time near, in milliseconds since 1970.
    pub now: u64,
    /// The terminal's size.
    pub size: Size,
    /// The terminal's special characters and modes, where stdin is one.
    pub modes: Vec<u8>,
}

/// The size of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Size {
    pub rows: u16,
    pub columns: u16,
}

/// A message of one end to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first of the near end, and never again.
    Call(Box<Call>),
    /// The near end hears the far one, and will not repeat the call: what it is for may begin.
    Go,
    /// The tool runs.
    Started,
    /// What flows.
    Data(Stream, Vec<u8>),
    /// Nothing more flows.
    End(Stream),
    /// Nothing more is taken.
    Closed(Stream),
    /// So much was taken, and may be sent again.
    Window(Stream, u32),
    /// For the tool and what it started.
    Signal(Signal),
    /// The terminal has another size.
    Size(Size),
    /// The tool has stopped, as by ^Z.
    Stopped,
    /// The tool has ended with that status.
    Exit(u8),
    /// The tool was ended by the signal of that number.
    Killed(u8),
    /// The call cannot be carried out.
    Failed(String),
    /// A request to the caller's ssh agent, on that connection.
    Ask(u32, Vec<u8>),
    /// The agent's reply there.
    Reply(u32, Vec<u8>),
    /// Is anybody there?
    Ping,
    /// Yes.
    Pong,
}

/// What came is no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Longer than that kind may be.
    TooLong(u8, usize),
    /// Of no known kind.
    Unknown(u8),
    /// Its content is not what its kind has.
    Malformed(u8),
    /// The stream ended within it.
    Truncated,
    /// It may not come now.
    OutOfOrder(&'static str),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::TooLong(kind, length) => write!(f, "frame of kind {kind} is too long: {length} bytes"),
            Broken::Unknown(kind) => write!(f, "frame of unknown kind {kind}"),
            Broken::Malformed(kind) => write!(f, "frame of kind {kind} is malformed"),
            Broken::Truncated => f.write_str("stream ended within a frame"),
            Broken::OutOfOrder(what) => write!(f, "frame out of order: {what}"),
        }
    }
}

impl std::error::Error for Broken {}

mod kind {
    pub(super) const CALL: u8 = 1;
    pub(super) const STARTED: u8 = 2;
    pub(super) const DATA: u8 = 3;
    pub(super) const END: u8 = 4;
    pub(super) const CLOSED: u8 = 5;
    pub(super) const WINDOW: u8 = 6;
    pub(super) const SIGNAL: u8 = 7;
    pub(super) const SIZE: u8 = 8;
    pub(super) const STOPPED: u8 = 9;
    pub(super) const EXIT: u8 = 10;
    pub(super) const KILLED: u8 = 11;
    pub(super) const FAILED: u8 = 12;
    pub(super) const ASK: u8 = 13;
    pub(super) const REPLY: u8 = 14;
    pub(super) const PING: u8 = 15;
    pub(super) const PONG: u8 = 16;
    pub(super) const GO: u8 = 17;
}

const STREAMS: [Stream; 4] = [Stream::Stdin, Stream::Stdout, Stream::Stderr, Stream::Terminal];
const SIGNALS: [Signal; 9] = [
    Signal::Hangup,
    Signal::Interrupt,
    Signal::Quit,
    Signal::Terminate,
    Signal::User1,
    Signal::User2,
    Signal::Alarm,
    Signal::Stop,
    Signal::Continue,
];

impl Frame {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, start) = (self.kind(), out.len());
        out.extend([kind, 0, 0, 0, 0]);
        match self {
            Frame::Call(call) => call.encode(out),
            Frame::Data(stream, bytes) => {
                out.push(*stream as u8);
                out.extend_from_slice(bytes);
            }
            Frame::End(stream) | Frame::Closed(stream) => out.push(*stream as u8),
            Frame::Window(stream, count) => {
                out.push(*stream as u8);
                out.extend(count.to_be_bytes());
            }
            Frame::Signal(signal) => out.push(*signal as u8),
            Frame::Size(size) => size.encode(out),
            Frame::Exit(number) | Frame::Killed(number) => out.push(*number),
            Frame::Failed(message) => {
                let mut end = message.len().min(FRAME_MAX);
                while !message.is_char_boundary(end) {
                    end -= 1;
                }
                out.extend_from_slice(&message.as_bytes()[..end]);
            }
            Frame::Ask(id, bytes) | Frame::Reply(id, bytes) => {
                out.extend(id.to_be_bytes());
                out.extend_from_slice(bytes);
            }
            Frame::Go | Frame::Started | Frame::Stopped | Frame::Ping | Frame::Pong => {}
        }
        let length = (out.len() - start - HEADER) as u32;
        out[start + 1..start + HEADER].copy_from_slice(&length.to_be_bytes());
    }

    /// Appends a [`Frame::Data`] of `stream` to `out` with what `read` puts into the `most` bytes that it is
    /// given, where it lies; nothing where that is nothing. Returns how much it is.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn encode_data<E>(
        stream: Stream,
        most: usize,
        out: &mut Vec<u8>,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let (start, head) = (out.len(), HEADER + 1);
        out.resize(start + head + most, 0);
        let read = read(&mut out[start + head..]);
        let length = *read.as_ref().unwrap_or(&0);
        if length == 0 {
            out.truncate(start);
            return read;
        }
        out.truncate(start + head + length);
        let [a, b, c, d] = (length as u32 + 1).to_be_bytes();
        out[start..start + head].copy_from_slice(&[kind::DATA, a, b, c, d, stream as u8]);
        read
    }

    /// The frame as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        bytes
    }

    fn kind(&self) -> u8 {
        match self {
            Frame::Call(_) => kind::CALL,
            Frame::Go => kind::GO,
            Frame::Started => kind::STARTED,
            Frame::Data(..) => kind::DATA,
            Frame::End(_) => kind::END,
            Frame::Closed(_) => kind::CLOSED,
            Frame::Window(..) => kind::WINDOW,
            Frame::Signal(_) => kind::SIGNAL,
            Frame::Size(_) => kind::SIZE,
            Frame::Stopped => kind::STOPPED,
            Frame::Exit(_) => kind::EXIT,
            Frame::Killed(_) => kind::KILLED,
            Frame::Failed(_) => kind::FAILED,
            Frame::Ask(..) => kind::ASK,
            Frame::Reply(..) => kind::REPLY,
            Frame::Ping => kind::PING,
            Frame::Pong => kind::PONG,
        }
    }

    fn decode(kind: u8, bytes: &[u8]) -> Option<Frame> {
        let stream = |byte: &u8| STREAMS.get(usize::from(*byte)).copied();
        Some(match (kind, bytes) {
            (kind::CALL, bytes) => Frame::Call(Box::new(Call::decode(bytes)?)),
            (kind::GO, []) => Frame::Go,
            (kind::STARTED, []) => Frame::Started,
            (kind::DATA, [number, data @ ..]) if !data.is_empty() => Frame::Data(stream(number)?, data.to_vec()),
            (kind::END, [number]) => Frame::End(stream(number)?),
            (kind::CLOSED, [number]) => Frame::Closed(stream(number)?),
            (kind::WINDOW, [number, count @ ..]) => {
                Frame::Window(stream(number)?, u32::from_be_bytes(count.try_into().ok()?))
            }
            (kind::SIGNAL, [number]) => Frame::Signal(*SIGNALS.get(usize::from(*number))?),
            (kind::SIZE, bytes) => Frame::Size(Size::decode(bytes)?),
            (kind::STOPPED, []) => Frame::Stopped,
            (kind::EXIT, [status]) => Frame::Exit(*status),
            (kind::KILLED, [signal]) => Frame::Killed(*signal),
            (kind::FAILED, text) => Frame::Failed(String::from_utf8_lossy(text).into_owned()),
            (kind::ASK | kind::REPLY, [a, b, c, d, message @ ..]) => {
                let id = u32::from_be_bytes([*a, *b, *c, *d]);
                match kind {
                    kind::ASK => Frame::Ask(id, message.to_vec()),
                    _ => Frame::Reply(id, message.to_vec()),
                }
            }
            (kind::PING, []) => Frame::Ping,
            (kind::PONG, []) => Frame::Pong,
            _ => return None,
        })
    }

    /// The largest content of that kind; `None`: there is no such kind.
    fn longest(kind: u8) -> Option<usize> {
        Some(match kind {
            kind::CALL => CALL_MAX,
            kind::DATA => DATA_MAX + 1,
            kind::FAILED | kind::ASK | kind::REPLY => FRAME_MAX,
            kind::GO | kind::STARTED | kind::STOPPED | kind::PING | kind::PONG => 0,
            kind::END | kind::CLOSED | kind::SIGNAL | kind::EXIT | kind::KILLED => 1,
            kind::WINDOW => 5,
            kind::SIZE => 4,
            _ => return None,
        })
    }
}

impl Size {
    fn encode(self, out: &mut Vec<u8>) {
        out.extend(self.rows.to_be_bytes());
        out.extend(self.columns.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Size> {
        let [a, b, c, d] = bytes else { return None };
        Some(Size { rows: u16::from_be_bytes([*a, *b]), columns: u16::from_be_bytes([*c, *d]) })
    }
}

impl Call {
    fn encode(&self, out: &mut Vec<u8>) {
        let flags =
            [self.terminals[0], self.terminals[1], self.terminals[2], self.joined, self.stdin, self.agent, self.trace];
        out.push(flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag)));
        out.extend(self.now.to_be_bytes());
        self.size.encode(out);
        put(out, &self.modes);
        put(out, self.tool.as_bytes());
        put(out, self.directory.as_bytes());
        out.extend((self.words.len() as u32).to_be_bytes());
        self.words.iter().for_each(|word| put(out, word.as_bytes()));
        for (name, value) in &self.variables {
            put(out, name.as_bytes());
            put(out, value.as_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Option<Call> {
        let rest = &mut &*bytes;
        let [flags] = take(rest)?;
        let flag = |bit: u8| flags & 1 << bit != 0;
        if flags >= 1 << 7 {
            return None;
        }
        let mut call = Call {
            terminals: [flag(0), flag(1), flag(2)],
            joined: flag(3),
            stdin: flag(4),
            agent: flag(5),
            trace: flag(6),
            now: u64::from_be_bytes(take(rest)?),
            size: Size::decode(&take::<4>(rest)?)?,
            modes: get(rest)?.into_vec(),
            tool: word(rest)?,
            directory: word(rest)?,
            ..Call::default()
        };
        for _ in 0..u32::from_be_bytes(take(rest)?) {
            call.words.push(word(rest)?);
        }
        while !rest.is_empty() {
            call.variables.push((word(rest)?, word(rest)?));
        }
        Some(call)
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_at_checked(N)?;
    *rest = tail;
    head.try_into().ok()
}

fn get(rest: &mut &[u8]) -> Option<OsString> {
    let length = u32::from_be_bytes(take(rest)?) as usize;
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(OsString::from_vec(head.to_vec()))
}

/// What the kernel takes as a word ends at its first NUL.
fn word(rest: &mut &[u8]) -> Option<OsString> {
    get(rest).filter(|word| !word.as_bytes().contains(&0))
}

/// Makes frames of bytes as they come.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    at: usize,
}

impl Decoder {
    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer().extend_from_slice(bytes);
    }

    /// Where what comes is to be appended.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
        &mut self.bytes
    }

    /// The next frame, when it is whole.
    ///
    /// # Errors
    /// What came is no frame; nothing behind it can be understood.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Frame>, Broken> {
        let rest = &self.bytes[self.at..];
        let [kind, a, b, c, d, rest @ ..] = rest else { return Ok(None) };
        let longest = Frame::longest(*kind).ok_or(Broken::Unknown(*kind))?;
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if length > longest {
            return Err(Broken::TooLong(*kind, length));
        }
        let Some(content) = rest.get(..length) else {
            // what was taken is given back before the buffer grows
            self.bytes.drain(..self.at);
            self.at = 0;
            return Ok(None);
        };
        let frame = Frame::decode(*kind, content).ok_or(Broken::Malformed(*kind))?;
        self.at += HEADER + length;
        Ok(Some(frame))
    }

    /// The end of the stream has come.
    ///
    /// # Errors
    /// It came within a frame.
    pub fn finish(&self) -> Result<(), Broken> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(Broken::Truncated) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        Call {
            tool: "lbx-enter".into(),
            words: vec!["-n".into(), "".into(), OsString::from_vec(vec![0xff, b'\n'])],
            directory: "/a b".into(),
            variables: vec![("A".into(), "b=c".into()), ("E".into(), "".into())],
            terminals: [true, false, true],
            joined: true,
            stdin: true,
            agent: false,
            trace: true,
            now: 1 << 40,
            size: Size { rows: 24, columns: 80 },
            modes: vec![0, 3, 0x7f],
        }
    }

    fn frames() -> Vec<Frame> {
        let mut frames = vec![
            Frame::Call(Box::new(call())),
            Frame::Call(Box::default()),
            Frame::Go,
            Frame::Started,
            Frame::Data(Stream::Stdin, vec![0]),
            Frame::Data(Stream::Stderr, vec![7; DATA_MAX]),
            Frame::Window(Stream::Stdout, u32::MAX),
            Frame::Size(Size { rows: 1, columns: u16::MAX }),
            Frame::Stopped,
            Frame::Exit(255),
            Frame::Killed(9),
            Frame::Failed("why ä".into()),
            Frame::Ask(3, vec![11]),
            Frame::Reply(u32::MAX, vec![]),
            Frame::Ping,
            Frame::Pong,
        ];
        frames.extend(STREAMS.map(Frame::End));
        frames.extend(STREAMS.map(Frame::Closed));
        frames.extend(SIGNALS.map(Frame::Signal));
        frames
    }

    fn decoded(chunks: &[&[u8]]) -> Result<Vec<Frame>, Broken> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for chunk in chunks {
            decoder.push(chunk);
            while let Some(frame) = decoder.next()? {
                frames.push(frame);
            }
        }
        decoder.finish()?;
        Ok(frames)
    }

    #[test]
    fn frames_arrive_as_they_were_sent_however_they_are_cut() {
        let frames = frames();
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        assert_eq!(decoded(&[&bytes]).unwrap(), frames);
        for size in [1, 2, 3, 5, 7, 4096] {
            let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(decoded(&chunks).unwrap(), frames, "in pieces of {size}");
        }
    }

    #[test]
    fn data_that_is_read_into_its_frame_arrives_as_other_data_does() {
        let mut out = Frame::Ping.bytes();
        for length in [0, 1, 300, DATA_MAX] {
            let read = |room: &mut [u8]| {
                room[..length].fill(7);
                Ok::<_, ()>(length)
            };
            let start = out.len();
            assert_eq!(Frame::encode_data(Stream::Stderr, DATA_MAX, &mut out, read), Ok(length));
            let frame = Frame::Data(Stream::Stderr, vec![7; length]).bytes();
            assert_eq!(out[start..], if length == 0 { Vec::new() } else { frame });
        }
        let sent = out.clone();
        assert_eq!(Frame::encode_data(Stream::Stderr, 1, &mut out, |_| Err("why")), Err("why"));
        assert_eq!(out, sent);
    }

    #[test]
    fn what_is_no_frame_is_said_to_be_none() {
        let broken = |bytes: &[u8]| decoded(&[bytes]).unwrap_err();
        assert_eq!(broken(&[0, 0, 0, 0, 0]), Broken::Unknown(0));
        assert_eq!(broken(&[99, 0, 0, 0, 0]), Broken::Unknown(99));
        assert_eq!(broken(&[kind::PING, 0, 0, 0, 1]), Broken::TooLong(kind::PING, 1));
        assert_eq!(broken(&[kind::DATA, 0xff, 0xff, 0xff, 0xff]), Broken::TooLong(kind::DATA, u32::MAX as usize));
        assert_eq!(broken(&[kind::DATA, 0, 0, 0, 1, 0]), Broken::Malformed(kind::DATA));
        assert_eq!(broken(&[kind::DATA, 0, 0, 0, 2, 4, 0]), Broken::Malformed(kind::DATA));
        assert_eq!(broken(&[kind::SIGNAL, 0, 0, 0, 1, 200]), Broken::Malformed(kind::SIGNAL));
        assert_eq!(broken(&[kind::EXIT, 0, 0, 0, 1]), Broken::Truncated);
        assert_eq!(broken(&[kind::EXIT, 0]), Broken::Truncated);
    }

    #[test]
    fn a_call_that_claims_more_than_it_has_is_malformed() {
        let whole = Frame::Call(Box::new(call())).bytes();
        for cut in HEADER..whole.len() {
            let mut bytes = whole[..cut].to_vec();
            bytes[1..HEADER].copy_from_slice(&((cut - HEADER) as u32).to_be_bytes());
            // a call may end behind any variable
            if let Ok(frames) = decoded(&[&bytes]) {
                let [Frame::Call(short)] = frames.as_slice() else { panic!("{frames:?}") };
                assert!(short.variables.len() < 2, "{short:?}");
            }
        }
        let nul = Call { words: vec!["a\0b".into()], ..Call::default() };
        assert!(decoded(&[&Frame::Call(Box::new(nul)).bytes()]).is_err());
    }

    /// Seconds that the test below takes, where nobody says otherwise.
    const FUZZ_SECONDS: u64 = 5;

    /// xorshift64: the same numbers for the same seed, everywhere.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % end as u64) as usize
        }
    }

    /// A stream of frames, damaged in a few places.
    fn damaged(random: &mut Random, frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..1 + random.below(4) {
            bytes.extend_from_slice(&frames[random.below(frames.len())]);
        }
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len().max(1));
            match random.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, random.below(256) as u8),
                2 => drop(bytes.drain(at..(at + random.below(16)).min(bytes.len()))),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.below(256) as u8),
            }
        }
        bytes
    }

    #[test]
    fn no_stream_makes_the_decoder_panic_or_hang_or_change_what_it_read() {
        let seconds = std::env::var("LBX_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(FUZZ_SECONDS);
        let until = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
        // all but the largest: what matters is their heads
        let frames: Vec<Vec<u8>> = frames().iter().map(Frame::bytes).filter(|bytes| bytes.len() < 4096).collect();
        let mut seed = 0;
        while std::time::Instant::now() < until {
            seed += 1;
            let mut random = Random(seed);
            let bytes = damaged(&mut random, &frames);
            let whole = decoded(&[&bytes]);
            let cut = random.below(bytes.len() + 1);
            assert_eq!(decoded(&[&bytes[..cut], &bytes[cut..]]), whole, "seed {seed}");
            if let Ok(frames) = whole {
                let again: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
                assert_eq!(decoded(&[&again]).unwrap(), frames, "seed {seed}");
            }
        }
        eprintln!("{seed} streams");
    }

    #[test]
    fn a_message_that_is_too_long_is_cut_between_characters() {
        let frame = Frame::Failed("ä".repeat(FRAME_MAX));
        assert!(decoded(&[&frame.bytes()]).is_ok());
    }
}
