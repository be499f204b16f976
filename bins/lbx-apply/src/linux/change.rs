//! Changes, as `lbx-diff --json` prints them.

use std::ffi::OsString;
use std::path::{Component, PathBuf};

use anyhow::Context;
use lbx::Result;
use lbx::path::JsonPath;
use serde::Deserialize;

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Status {
    /// It is new.
    #[serde(rename = "A")]
    Added,
    /// Its content, mode or link changed.
    #[serde(rename = "M")]
    Modified,
    /// It is gone.
    #[serde(rename = "D")]
    Deleted,
    /// It is something else.
    #[serde(rename = "T")]
    Turned,
}

/// What lies at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    Device,
}

impl Kind {
    /// The kind in a mode of `stat(2)`.
    pub(crate) fn of(mode: u32) -> Kind {
        match rustix::fs::FileType::from_raw_mode(mode) {
            rustix::fs::FileType::RegularFile => Kind::File,
            rustix::fs::FileType::Directory => Kind::Dir,
            rustix::fs::FileType::Symlink => Kind::Symlink,
            rustix::fs::FileType::Fifo => Kind::Fifo,
            rustix::fs::FileType::Socket => Kind::Socket,
            _ => Kind::Device,
        }
    }

    /// The word for people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Dir => "directory",
            Kind::Symlink => "link",
            Kind::Fifo => "FIFO",
            Kind::Socket => "socket",
            Kind::Device => "device",
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) path: PathBuf,
    pub(crate) status: Status,
    /// What the environment has there; `None`: nothing.
    pub(crate) new: Option<Kind>,
    /// What the project had there.
    pub(crate) old: Option<Kind>,
    pub(crate) mode: u32,
    /// The target of a link.
    pub(crate) target: Option<OsString>,
    /// The frozen layer that has it; `None`: what the environment writes.
    pub(crate) layer: Option<String>,
    /// The person changed it as well.
    pub(crate) conflict: bool,
}

#[derive(Deserialize)]
struct Line {
    status: Status,
    path: String,
    path_bytes: Option<String>,
    kind: Option<Kind>,
    mode: Option<String>,
    target: Option<String>,
    target_bytes: Option<String>,
    layer: Option<String>,
    old: Option<Old>,
    conflict: bool,
}

#[derive(Deserialize)]
struct Old {
    kind: Option<Kind>,
}

/// The changes in `text`, a JSON object each line, sorted by path as `lbx-diff` sorts them.
pub(crate) fn parse(text: &[u8]) -> Result<Vec<Change>> {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut changes = lines
        .map(|line| change(line).context("cannot understand what lbx-diff printed"))
        .collect::<Result<Vec<Change>>>()?;
    changes.sort_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
    Ok(changes)
}

fn change(line: &[u8]) -> Result<Change> {
    let line: Line = serde_json::from_slice(line)?;
    let path = JsonPath::decode(line.path, line.path_bytes.as_deref())?;
    let target = match line.target {
        Some(target) => Some(JsonPath::decode(target, line.target_bytes.as_deref())?.into_os_string()),
        None => None,
    };
    let mode = line.mode.as_deref().map_or(Ok(0), |mode| u32::from_str_radix(mode, 8))?;
    let new = line.kind.filter(|_| line.status != Status::Deleted);
    // of the project itself, nothing
    let path: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    Ok(Change {
        path,
        status: line.status,
        new,
        old: line.old.and_then(|old| old.kind),
        mode,
        target,
        layer: line.layer,
        conflict: line.conflict,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_changes_are_read() {
        let text = br#"{"status":"D","path":"z","old":{"kind":"file","mode":"0644","size":3},"conflict":true}
{"status":"A","path":"\ufffd","path_bytes":"/w==","kind":"symlink","mode":"0777","target":"x","conflict":false,"later":1}
{"status":"M","path":"d/","kind":"dir","mode":"0750","layer":"f1","old":{"kind":"dir","mode":"0755"},"conflict":false}
"#;
        let changes = parse(text).unwrap();
        assert_eq!(
            changes.iter().map(|c| c.path.as_os_str().as_encoded_bytes()).collect::<Vec<_>>(),
            [&b"d"[..], b"z", b"\xff"]
        );
        assert_eq!((changes[0].mode, changes[0].new, changes[0].old), (0o750, Some(Kind::Dir), Some(Kind::Dir)));
        assert_eq!((changes[1].new, changes[1].conflict), (None, true));
        assert_eq!((changes[0].layer.as_deref(), &changes[1].layer), (Some("f1"), &None));
        assert_eq!(changes[2].target.as_deref(), Some("x".as_ref()));
        assert!(parse(b"{\"status\":\"X\",\"path\":\"a\",\"conflict\":false}").is_err());
        assert!(parse(b"nonsense").is_err());
    }
}
