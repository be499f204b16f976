//! The lines before the frames. They stay as they are for ever: ends of different versions
//! understand each other by them.
//!
//! The near end says `LBX1 call ARCH=VERSION…`, behind which its first frame may follow at once, the far
//! one `ready`, and frames follow; or `missing ARCH`, and the near end sends its tools on another
//! connection, `LBX1 tools VERSION`.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};

/// What every line starts with.
const MARK: &str = "LBX1 ";
/// As long as a line may be, its end included.
pub(crate) const LINE_MAX: usize = 1024;

/// A line of the near end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// A call follows, for the tools of that version, by architecture.
    Call(Vec<(String, String)>),
    /// The tools of that version follow.
    Tools(String),
    /// A tool of that name and size follows.
    File(String, u64),
    /// No further tool follows.
    End,
}

/// A line of the far end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Frames, or tools, may follow.
    Ready,
    /// The tools of the version asked for are not there; that architecture is.
    Missing(String),
    /// No far end is there at all.
    Absent(String),
    /// The tools are in their place.
    Done,
    /// It cannot be done.
    Failed(String),
}

impl Request {
    pub(crate) fn line(&self) -> String {
        match self {
            Request::Call(versions) => {
                let versions: Vec<String> =
                    versions.iter().map(|(arch, version)| format!("{arch}={version}")).collect();
                format!("{MARK}call {}\n", versions.join(" "))
            }
            Request::Tools(version) => format!("{MARK}tools {version}\n"),
            Request::File(name, size) => format!("{MARK}file {name} {size}\n"),
            Request::End => format!("{MARK}end\n"),
        }
    }

    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) fn parse(line: &str) -> Option<Request> {
        let mut words = line.strip_prefix(MARK)?.split(' ');
        Some(match (words.next()?, words.next(), words.next()) {
            ("call", Some(_), _) => {
                let versions = line.strip_prefix(MARK)?.split(' ').skip(1).map(|word| {
                    let (arch, version) = word.split_once('=')?;
                    is_version(version).then(|| (arch.to_owned(), version.to_owned()))
                });
                Request::Call(versions.collect::<Option<_>>()?)
            }
            ("tools", Some(version), None) if is_version(version) => Request::Tools(version.to_owned()),
            ("file", Some(name), Some(size)) if is_tool(name) => Request::File(name.to_owned(), size.parse().ok()?),
            ("end", None, None) => Request::End,
            _ => return None,
        })
    }
}

impl Answer {
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) fn line(&self) -> String {
        match self {
            Answer::Ready => format!("{MARK}ready\n"),
            Answer::Missing(arch) => format!("{MARK}missing {arch}\n"),
            Answer::Absent(arch) => format!("{MARK}absent {arch}\n"),
            Answer::Done => format!("{MARK}done\n"),
            Answer::Failed(why) => {
                let mut why = lbx::failure::printable(why);
                why.truncate((0..=LINE_MAX / 2).rev().find(|end| why.is_char_boundary(*end)).unwrap_or(0));
                format!("{MARK}failed {why}\n")
            }
        }
    }

    pub(crate) fn parse(line: &str) -> Option<Answer> {
        let line = line.strip_prefix(MARK)?;
        Some(match line.split_once(' ') {
            None if line == "ready" => Answer::Ready,
            None if line == "done" => Answer::Done,
            Some(("missing", arch)) => Answer::Missing(arch.to_owned()),
            Some(("absent", arch)) => Answer::Absent(arch.to_owned()),
            Some(("failed", why)) => Answer::Failed(why.to_owned()),
            _ => return None,
        })
    }
}

/// Whether `word` is a version: it becomes the name of a directory.
pub(crate) fn is_version(word: &str) -> bool {
    word.len() == 16 && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `word` is the name of a tool: it becomes the name of a file.
pub(crate) fn is_tool(word: &str) -> bool {
    let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    word.bytes().all(is_plain)
        && (word == "llima-box" || word.strip_prefix("lbx-").is_some_and(|rest| !rest.is_empty()))
}

/// Whether `tool` with `words` runs a command: its own failures must not be taken for the command's, and
/// that begins when the call is confirmed and not before.
pub(crate) fn is_wrapper(tool: &OsStr, words: &[OsString]) -> bool {
    tool == "lbx-enter" || (tool == "llima-box" && words.first().is_some_and(|word| word == "shell"))
}

/// Reads one line, and not a byte behind it. `None`: the stream ended before.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(crate) fn read_line(stream: &mut impl Read) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) if byte == *b"\n" => break,
            Ok(_) if line.len() < LINE_MAX => line.push(byte[0]),
            Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "line is too long")),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    String::from_utf8(line).map(Some).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "line is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let version = "0123456789abcdef".to_owned();
        for request in [
            Request::Call(vec![("x86_64".into(), version.clone()), ("aarch64".into(), version.clone())]),
            Request::Tools(version),
            Request::File("lbx-env".into(), 7),
            Request::End,
        ] {
            assert_eq!(Request::parse(request.line().trim_end_matches('\n')), Some(request));
        }
        for answer in [
            Answer::Ready,
            Answer::Missing("x86_64".into()),
            Answer::Absent("riscv64".into()),
            Answer::Done,
            Answer::Failed("why, then".into()),
        ] {
            assert_eq!(Answer::parse(answer.line().trim_end_matches('\n')), Some(answer));
        }
    }

    #[test]
    fn nothing_else_is_understood() {
        for line in [
            "",
            "LBX1",
            "LBX1 ",
            "LBX2 end",
            "LBX1 tools ../../../etc",
            "LBX1 tools 0123456789ABCDEF",
            "LBX1 file ../x 1",
            "LBX1 file lbx- 1",
            "LBX1 file lbx-env -1",
            "LBX1 call",
            "LBX1 call x86_64=/",
            "Welcome to Debian",
        ] {
            assert_eq!(Request::parse(line), None, "{line:?}");
            assert_eq!(Answer::parse(line), None, "{line:?}");
        }
        let failed = Answer::Failed("ä\n".repeat(LINE_MAX)).line();
        assert!(failed.len() < LINE_MAX && failed.matches('\n').count() == 1);
    }

    #[test]
    fn no_byte_behind_a_line_is_taken() {
        let mut stream = &b"LBX1 end\nrest"[..];
        assert_eq!(read_line(&mut stream).unwrap().as_deref(), Some("LBX1 end"));
        assert_eq!(stream, b"rest");
        assert_eq!(read_line(&mut stream).unwrap(), None);
        assert!(read_line(&mut &vec![b'x'; LINE_MAX + 1][..]).is_err());
    }
}
