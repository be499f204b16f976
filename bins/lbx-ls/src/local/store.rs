//! The files of environments, read by way of one descriptor and one buffer: of thousands of
//! records, each costs its share of every list.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use lbx::Name;
use lbx::failure::Result;
use lbx::record::ENVS;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};

/// The directory of environments.
pub(crate) struct Store {
    dir: OwnedFd,
}

impl Store {
    /// Opens it.
    pub(crate) fn open() -> Result<Store> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, ENVS, flags, Mode::empty()).with_context(|| format!("cannot read directory: {ENVS}"))?;
        Ok(Store { dir })
    }

    /// The text of the record of `name`, which lies in `buffer`.
    pub(crate) fn record<'b>(&self, name: &Name, buffer: &'b mut Buffer) -> io::Result<&'b [u8]> {
        let Buffer { path, text } = buffer;
        let path = file_of(name, "record.json", path);
        let file = openat(&self.dir, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
        let mut length = 0;
        loop {
            length += rustix::io::read(&file, &mut text[length..])?;
            // a regular file is read short at its end only
            if length < text.len() {
                return Ok(&text[..length]);
            }
            text.resize(2 * length, 0);
        }
    }

    /// When `name` was last used.
    pub(crate) fn last_used(&self, name: &Name) -> io::Result<SystemTime> {
        let stat = statat(&self.dir, file_of(name, "last_used", &mut String::with_capacity(64)), AtFlags::empty())?;
        Ok(UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0)))
    }
}

/// What records are read into, one after the other.
pub(crate) struct Buffer {
    path: String,
    text: Vec<u8>,
}

impl Buffer {
    pub(crate) fn new() -> Buffer {
        // a record is far smaller; one that is not takes several reads
        Buffer { path: String::new(), text: vec![0; 1 << 14] }
    }
}

/// The path of `file` of `name`, written to `path`.
fn file_of<'p>(name: &Name, file: &str, path: &'p mut String) -> &'p str {
    path.clear();
    path.extend([name.as_str(), "/", file]);
    path
}
