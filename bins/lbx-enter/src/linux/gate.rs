//! The socket to the far end that runs this tool for a caller elsewhere ([`step::GATE`]).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use anyhow::Context;
use lbx::failure::{Failure, Result, fail};
use lbx::{step, sys};
use rustix::io::{fcntl_dupfd_cloexec, retry_on_intr};

/// This end of the socket.
#[derive(Debug)]
pub(crate) struct Gate(OwnedFd);

impl Gate {
    /// The one that this process was given.
    pub(crate) fn inherited() -> Option<Gate> {
        let number: i32 = std::env::var(step::GATE).ok()?.parse().ok().filter(|number| *number > 2)?;
        // a number alone would be closed by nobody
        Some(Gate(fcntl_dupfd_cloexec(sys::borrow(number), 3).ok()?))
    }

    /// What this process is to run, which was made before anybody knew: the words of its command line.
    /// Its variables, its directory and its standard streams are set. `None`: nothing any more.
    pub(crate) fn call(&self) -> Result<Option<Vec<OsString>>> {
        let mut gate = File::from(self.0.try_clone()?);
        let mut length = [0; 4];
        match gate.read_exact(&mut length) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read.context("cannot read what to run")?,
        }
        let mut call = vec![0; u32::from_be_bytes(length) as usize];
        gate.read_exact(&mut call).context("cannot read what to run")?;
        let mut fields = call.split(|byte| *byte == 0).map(OsStr::from_bytes);
        let directory = fields.next().unwrap_or_default();
        if fields.next().is_some_and(|word| word == "joined") {
            rustix::stdio::dup2_stderr(rustix::stdio::stdout()).context("cannot join stderr and stdout")?;
        }
        let count = fields.next().and_then(|count| count.to_str()?.parse().ok());
        let Some(count) = count else { return fail(Failure::new("what is to be run cannot be read")) };
        let words = fields.by_ref().take(count).map(OsStr::to_owned).collect();
        for variable in fields.filter(|field| !field.is_empty()) {
            let (name, value) = lbx::operand::assignment(variable);
            sys::set_variable(&name, &value.unwrap_or_default());
        }
        if std::env::set_current_dir(directory).is_err() {
            let _ = std::env::set_current_dir("/");
        }
        Ok(Some(words))
    }

    /// Waits for the byte that lets COMMAND begin.
    pub(crate) fn wait(&self) -> io::Result<()> {
        match retry_on_intr(|| rustix::io::read(&self.0, &mut [0]))? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the caller is gone")),
            _ => Ok(()),
        }
    }

    /// Tells how COMMAND has ended: this process has still to end, and that takes its time.
    pub(crate) fn tell(&self, status: u8) {
        let _ = rustix::net::send(&self.0, &[status], rustix::net::SendFlags::NOSIGNAL);
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
