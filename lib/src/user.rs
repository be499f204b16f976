//! What a user sees and does: by a child that is them and nothing more.

use std::io::{self, Read, Write};

use anyhow::Context;
use nix::sys::wait::{WaitStatus, waitpid};
use rustix::process::Gid;

use crate::failure::{Failure, Result};
use crate::sys;

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
