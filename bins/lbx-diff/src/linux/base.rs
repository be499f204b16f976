//! What the person did to the project meanwhile: since the layers began, by the clock of the
//! project's own file system.

use std::collections::HashMap;
use std::io;

use anyhow::Context;
use lbx::path::JsonPath;
use lbx::{Name, Result, layer};
use serde::Deserialize;

use super::layers::{Entry, Kind};

/// Since when what is outside was changed by the person, but for what `lbx-apply` put there.
pub(crate) struct Base {
    since: (i64, i64),
    applied: HashMap<Vec<u8>, Mark>,
}

/// What tells a file from every other, and from itself when it has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct Mark {
    ino: u64,
    ctime: (i64, i64),
    /// A directory's: what comes and goes in it changes its ctime, too.
    #[serde(default)]
    mode: Option<u32>,
}

/// A line that `lbx-apply` left.
#[derive(Deserialize)]
struct Line {
    path: String,
    path_bytes: Option<String>,
    #[serde(flatten)]
    mark: Mark,
}

impl Base {
    /// Reads what is kept of `name`.
    pub(crate) fn load(name: &Name) -> Result<Base> {
        let base = layer::Base::load(name)?;
        let file = layer::applied_file(name);
        let lines = match std::fs::read(&file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            lines => lines.with_context(|| format!("cannot read '{}'", file.display()))?,
        };
        Ok(Base { since: (base.sec, base.nsec), applied: applied(&lines) })
    }

    /// One after which nothing was applied.
    #[cfg(test)]
    pub(crate) fn at(since: (i64, i64)) -> Base {
        Base { since, applied: HashMap::new() }
    }

    /// Whether nothing has changed `entry` since.
    pub(crate) fn is_older(&self, entry: &Entry) -> bool {
        entry.ctime < self.since
    }

    /// Whether the person changed what is at `path` outside since, or put it there.
    pub(crate) fn is_changed(&self, path: &[u8], entry: &Entry) -> bool {
        !cfg!(feature = "broken-diff-conflicts") && !self.is_older(entry) && !self.is_applied(path, entry)
    }

    /// Whether `project` itself is as the base found it: where a file system has no files without a name,
    /// its own time is the base.
    pub(crate) fn is_its_own(&self, project: &Entry) -> bool {
        project.ctime == self.since
    }

    /// Whether what is at `path` outside is what `lbx-apply` put there.
    pub(crate) fn is_applied(&self, path: &[u8], entry: &Entry) -> bool {
        let is_dir = entry.kind == Kind::Dir;
        self.applied.get(path).is_some_and(|mark| {
            let is_of_entry = mark.ctime == entry.ctime || (is_dir && mark.mode == Some(entry.mode));
            mark.ino == entry.inode && is_of_entry
        })
    }

    /// Whether the directory at `path` outside is the one that `lbx-apply` saw or made there: what came
    /// and went in it since tells of itself.
    pub(crate) fn is_known(&self, path: &[u8], entry: &Entry) -> bool {
        self.applied.get(path).is_some_and(|mark| mark.ino == entry.inode)
    }
}

/// The last line of each path; one that is torn was not followed by anything.
fn applied(lines: &[u8]) -> HashMap<Vec<u8>, Mark> {
    use std::os::unix::ffi::OsStrExt;
    let lines = lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    lines
        .filter_map(|line| {
            let path = JsonPath::decode(line.path, line.path_bytes.as_deref()).ok()?;
            Some((path.as_os_str().as_bytes().to_vec(), line.mark))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::layers::Kind;

    fn entry(inode: u64, ctime: (i64, i64)) -> Entry {
        Entry {
            layer: 0,
            kind: Kind::File,
            mode: 0o644,
            size: 0,
            target: None,
            device: (0, 0),
            inode,
            ctime,
            mtime: ctime,
        }
    }

    #[test]
    fn a_directory_is_what_was_applied_whatever_came_and_went_in_it() {
        let base = Base { since: (9, 5), applied: applied(br#"{"path":"d","ino":1,"ctime":[9,9],"mode":493}"#) };
        let dir = |inode, mode| Entry { kind: Kind::Dir, mode, ..entry(inode, (9, 10)) };
        assert!(!base.is_changed(b"d", &dir(1, 0o755)));
        assert!(base.is_changed(b"d", &dir(1, 0o700)), "its mode is its own");
        assert!(base.is_changed(b"d", &dir(2, 0o755)));
        assert!(base.is_changed(b"d", &entry(1, (9, 10))), "a file");
    }

    #[test]
    fn what_is_as_old_as_the_base_is_changed_and_what_was_applied_is_not() {
        let lines = br#"{"path":"a","ino":1,"ctime":[9,9]}
{"path":"a","ino":2,"ctime":[9,9]}
{"path":"?","path_bytes":"/w==","ino":3,"ctime":[9,9]}
not a line
{"path":"b","ino":4,"#;
        let base = Base { since: (9, 5), applied: applied(lines) };
        assert!(!base.is_changed(b"a", &entry(7, (9, 4))));
        assert!(base.is_changed(b"a", &entry(7, (9, 5))));
        assert!(base.is_changed(b"a", &entry(1, (9, 9))), "the latest line counts");
        assert!(!base.is_changed(b"a", &entry(2, (9, 9))));
        assert!(base.is_changed(b"a", &entry(2, (9, 10))));
        assert!(base.is_changed(b"x", &entry(2, (9, 9))));
        assert!(!base.is_changed(b"\xff", &entry(3, (9, 9))));
        assert_eq!(base.applied.len(), 2);
    }
}
