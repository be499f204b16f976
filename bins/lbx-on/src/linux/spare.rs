//! An lbx-enter that was started before anybody asked for it, and waits to be told what to run: most calls
//! are of it, and starting it is half of what it takes.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use lbx::failure::status;
use lbx::step;
use lbx::sys::{self, Schedule};
use nix::unistd::{Pid, setpgid};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};

use super::tools;

/// The process, and our ends of what it has.
pub(super) struct Spare {
    pub(super) pid: Pid,
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) gate: OwnedFd,
}

impl Spare {
    /// Starts one of this program's own version, if that can be; nothing depends on it. It gets ready when
    /// nobody else has anything to do: the call before it, mostly.
    pub(super) fn start() -> Option<Spare> {
        let program = tools::beside_own("lbx-enter")?;
        let start = || -> io::Result<Spare> {
            let (gate, inner) = gate()?;
            let (in_read, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
            let (stdout, out_write) = pipe_with(PipeFlags::CLOEXEC)?;
            let (stderr, err_write) = pipe_with(PipeFlags::CLOEXEC)?;
            let mut command = Command::new(program);
            command.env_clear().env(step::GATE, inner.as_raw_fd().to_string());
            command.stdin(in_read).stdout(out_write).stderr(err_write).process_group(0);
            let Some(pid) = sys::fork()? else {
                let error = command.exec();
                lbx::failure::say(&format!("{}: cannot run lbx-enter: {error}\n", crate::TOOL.name));
                sys::exit_now(status::TOOL_FAILED)
            };
            // both sides, so that it holds whoever is first
            let _ = setpgid(pid, pid);
            // by this process, which takes it back: the other might do it after that
            let _ = sys::schedule(Some(pid), Schedule::Idle);
            Ok(Spare { pid, stdin, stdout, stderr, gate })
        };
        start().ok()
    }

    /// Has it run what `command` would, in the directory `directory`; its stderr goes where its stdout does
    /// when they are `joined`.
    pub(super) fn run(&self, command: &Command, directory: &OsStr, joined: bool) -> io::Result<()> {
        let words: Vec<&OsStr> = command.get_args().collect();
        let mut call = vec![0; 4];
        let mut put = |parts: &[&[u8]]| {
            parts.iter().for_each(|part| call.extend_from_slice(part));
            call.push(0);
        };
        put(&[directory.as_bytes()]);
        put(&[if joined { b"joined" } else { b"" }]);
        put(&[words.len().to_string().as_bytes()]);
        words.iter().for_each(|word| put(&[word.as_bytes()]));
        for (name, value) in command.get_envs() {
            put(&[name.as_bytes(), b"=", value.unwrap_or_default().as_bytes()]);
        }
        let length = (call.len() - 4) as u32;
        call[..4].copy_from_slice(&length.to_be_bytes());
        sys::schedule(Some(self.pid), Schedule::Ordinary)?;
        File::from(self.gate.try_clone()?).write_all(&call)
    }
}

/// A socket to lbx-enter: this end, and the one that it inherits.
pub(super) fn gate() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, inner) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    fcntl_setfd(&inner, FdFlags::empty())?;
    Ok((ours, inner))
}
