//! What this tool keeps of a VM: its log, a lock, and a mark while it is being created.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lbx::failure::{Failure, Result, fail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, FdFlags};

use crate::limactl::Log;
use crate::phase::Phase;

/// The files of one VM.
pub(crate) struct Store {
    dir: PathBuf,
    name: String,
}

/// Held by the one tool that changes the VM.
pub(crate) struct Lock(File);

impl Store {
    /// # Errors
    /// Nothing says where such files belong.
    pub(crate) fn of(name: &str) -> Result<Store> {
        match lbx_vm::state_dir() {
            Some(dir) => Ok(Store { dir, name: name.to_owned() }),
            None => fail(Failure::new("HOME is not set")),
        }
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.dir.join(format!("vm-{}.{kind}", self.name))
    }

    /// Where all of it lies: the caller's alone, once something is locked.
    pub(crate) fn directory(&self) -> &Path {
        &self.dir
    }

    fn make_dir(&self) -> Result<()> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.with_context(|| format!("cannot create directory '{}'", self.dir.display()))
    }

    /// Waits until no other tool changes the VM; `waiting` is called when it must.
    ///
    /// # Errors
    /// The file of the lock cannot be made.
    pub(crate) fn lock(&self, waiting: impl FnOnce()) -> Result<Lock> {
        self.make_dir()?;
        let path = self.file("lock");
        let file = File::options().append(true).create(true).open(&path);
        let file = file.with_context(|| format!("cannot open '{}'", path.display()))?;
        let locked = match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                waiting();
                rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
            }
            other => other,
        };
        locked.with_context(|| format!("cannot lock '{}'", path.display()))?;
        Ok(Lock(file))
    }

    /// # Errors
    /// It cannot be written.
    pub(crate) fn log(&self, phase: Phase) -> Result<Log> {
        self.make_dir()?;
        Log::open(self.file("log"), phase)
    }

    /// Whether a creation was begun that never ended.
    pub(crate) fn is_creating(&self) -> bool {
        self.file("creating").exists()
    }

    /// # Errors
    /// The mark cannot be made.
    pub(crate) fn mark_creating(&self) -> Result<()> {
        let path = self.file("creating");
        File::create(&path).map(drop).with_context(|| format!("cannot create '{}'", path.display()))
    }

    /// # Errors
    /// The mark is there and cannot be removed.
    pub(crate) fn unmark_creating(&self) -> Result<()> {
        let path = self.file("creating");
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot remove '{}'", path.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Lock {
    /// Has the programs that `run` starts hold the lock as well, so that they are waited for
    /// though this tool is killed.
    pub(crate) fn shared<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        rustix::io::fcntl_setfd(&self.0, FdFlags::empty())?;
        let result = run();
        rustix::io::fcntl_setfd(&self.0, FdFlags::CLOEXEC)?;
        result
    }
}
