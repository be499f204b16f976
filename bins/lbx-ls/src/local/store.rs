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

/// A record is far smaller; one that is not takes several reads.
const USUAL: usize = 1 << 14;

/// The directory of environments.
pub(crate) struct Store {
    dir: OwnedFd,
    text: Vec<u8>,
}

impl Store {
    /// Opens it.
    pub(crate) fn open() -> Result<Store> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, ENVS, flags, Mode::empty()).with_context(|| format!("cannot read directory: {ENVS}"))?;
        Ok(Store { dir, text: vec![0; USUAL] })
    }

    /// The text of the record of `name`.
    pub(crate) fn record(&mut self, name: &Name) -> io::Result<&[u8]> {
        let path = format!("{name}/record.json");
        let file = openat(&self.dir, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
        let mut length = 0;
        loop {
            length += rustix::io::read(&file, &mut self.text[length..])?;
            // a regular file is read short at its end only
            if length < self.text.len() {
                return Ok(&self.text[..length]);
            }
            self.text.resize(2 * length, 0);
        }
    }

    /// When `name` was last used.
    pub(crate) fn last_used(&self, name: &Name) -> io::Result<SystemTime> {
        let stat = statat(&self.dir, format!("{name}/last_used"), AtFlags::empty())?;
        Ok(UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0)))
    }
}
