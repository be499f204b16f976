//! As whom a tool looks: a user's groups, and a child that is this user and nothing more.

use std::io::{self, Read, Write};
use std::process::Command;

use anyhow::Context;
use nix::sys::wait::{WaitStatus, waitpid};
use rustix::process::Gid;

use crate::caller::Caller;
use crate::failure::{Failure, Result};
use crate::{step, sys};

impl Caller {
    /// Their groups, as the system's name services know them.
    ///
    /// # Errors
    /// `id(1)` cannot be run, or knows nothing of them.
    pub fn groups(self) -> Result<Vec<Gid>> {
        let mut id = Command::new("id");
        // with nothing of the caller's: this runs as root
        id.args(["-G", "--", &self.uid.to_string()]).env_clear().env("PATH", "/usr/bin:/bin");
        let text = step::output(id).with_context(|| format!("cannot tell the groups of uid {}", self.uid))?;
        let numbers = String::from_utf8_lossy(&text);
        let numbers = numbers.split_whitespace().filter_map(|gid| gid.parse().ok());
        Ok(numbers.map(Gid::from_raw).collect())
    }
}

/// Runs `look` in a child that has given up its privilege, and returns what it returned there.
///
/// # Errors
/// `look` failed, which has the same text here, or there can be no such child.
pub fn as_user(uid: u32, gid: u32, groups: &[Gid], look: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let (mut answer, tell) = io::pipe()?;
    match sys::fork().context("cannot start a process")? {
        None => {
            drop(answer);
            let become_user = sys::become_member(uid, gid, groups);
            let (status, bytes) = match become_user.map_err(Into::into).and_then(|()| look()) {
                Ok(bytes) => (0, bytes),
                Err(e) => (1, format!("{e:#}").into_bytes()),
            };
            let told = (&tell).write_all(&bytes);
            sys::exit_now(if told.is_ok() { status } else { 2 })
        }
        Some(pid) => {
            drop(tell);
            let mut bytes = Vec::new();
            let read = answer.read_to_end(&mut bytes);
            let status = waitpid(pid, None).context("cannot wait for a process")?;
            read.context("cannot read from a process")?;
            match status {
                WaitStatus::Exited(_, 0) => Ok(bytes),
                WaitStatus::Exited(_, 1) => Err(Failure::new(String::from_utf8_lossy(&bytes).into_owned()).into()),
                other => Err(Failure::new(format!("a process that looked as uid {uid} failed: {other:?}")).into()),
            }
        }
    }
}
