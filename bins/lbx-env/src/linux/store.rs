//! What is kept on disk: records, written so that a crash leaves the old one or the new one, and
//! the locks that keep two tools from changing one environment at once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use lbx::record::{self, Record};
use lbx::{Failure, Name, Result, holder};
use nix::fcntl::{FcntlArg, fcntl};

/// A lock that is held until it is dropped; a process that dies drops it too.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Waits for the lock of `name`; its directory is made when there is none.
    pub(crate) fn of(name: &Name) -> Result<Lock> {
        Lock::make(name, true)?.with_context(|| format!("cannot lock environment '{name}'"))
    }

    /// The lock of `name`, as by [`Lock::of`], unless another process has it.
    pub(crate) fn try_of(name: &Name) -> Result<Option<Lock>> {
        Lock::make(name, false)
    }

    fn make(name: &Name, wait: bool) -> Result<Option<Lock>> {
        let dir = record::dir(name);
        loop {
            make_dir(Path::new(record::ENVS), 0o755)?;
            // the directory is the first thing that a create makes and the last that a delete removes
            match fs::DirBuilder::new().mode(0o755).create(&dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(e).with_context(|| format!("cannot make directory '{}'", dir.display()));
                }
                _ => {}
            }
            match Lock::take_file(record::lock_file(name), true, wait) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) if !wait && e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                lock => return lock.map(Some).with_context(|| format!("cannot lock environment '{name}'")),
            }
        }
    }

    /// Waits for the lock of `name`, which must be there when it comes.
    pub(crate) fn of_existing(name: &Name) -> Result<Lock> {
        match Lock::take_file(record::lock_file(name), false, true) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && !record::dir(name).exists() => {
                Err(Failure::new(format!("no such environment: {name}")).into())
            }
            // one whose lock was lost
            Err(e) if e.kind() == io::ErrorKind::NotFound => Lock::of(name),
            lock => lock.with_context(|| format!("cannot lock environment '{name}'")),
        }
    }

    /// Waits for the lock on the file `path`, which is made when there is none.
    pub(crate) fn take(path: PathBuf) -> io::Result<Lock> {
        Lock::take_file(path, true, true)
    }

    fn take_file(path: PathBuf, make: bool, wait: bool) -> io::Result<Lock> {
        loop {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(make).truncate(false).mode(0o600).open(&path)?;
            let lock = holder::lock();
            let how = || if wait { FcntlArg::F_SETLKW(&lock) } else { FcntlArg::F_SETLK(&lock) };
            while let Err(e) = fcntl(&file, how()) {
                if e != nix::errno::Errno::EINTR {
                    return Err(e.into());
                }
            }
            // whoever had it may have removed the file: then a newer one is the lock
            match fs::metadata(&path) {
                Ok(now) if now.ino() == file.metadata()?.ino() => return Ok(Lock { file, path }),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Removes the lock with the thing that it guarded.
    pub(crate) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        drop(self.file);
        Ok(())
    }
}

/// Makes the directory `path` and its parents, with `mode` whatever the umask.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let make = || {
        fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    make().with_context(|| format!("cannot make directory '{}'", path.display()))
}

/// A file that is written beside the one whose place it takes, and neither synced nor in force. Dropped, it
/// is gone.
#[derive(Debug)]
pub(crate) struct Aside {
    file: File,
    path: PathBuf,
    is_placed: bool,
}

impl Aside {
    /// Writes `record` aside.
    pub(crate) fn record(record: &Record) -> Result<Aside> {
        make_findable(record)?;
        let mut text = serde_json::to_vec(record)?;
        text.push(b'\n');
        Aside::write(&record::file(&record.name), &text, 0o644)
    }

    fn write(path: &Path, text: &[u8], mode: u32) -> Result<Aside> {
        let write = || -> io::Result<Aside> {
            let beside = beside(path);
            remove_file(&beside)?;
            let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(beside)?;
            let mut aside = Aside { file, path: path.to_owned(), is_placed: false };
            aside.file.set_permissions(fs::Permissions::from_mode(mode))?;
            aside.file.write_all(text)?;
            Ok(aside)
        };
        write().with_context(|| format!("cannot write '{}'", path.display()))
    }

    /// What is in it outlives a loss of power.
    fn sync(&self) -> Result<()> {
        self.file.sync_all().with_context(|| format!("cannot write '{}'", self.path.display()))
    }

    /// Puts it, which is synced, in its place: a reader, and a crash at any instant, sees the old one or the
    /// new one.
    pub(crate) fn place(mut self) -> Result<()> {
        fs::rename(beside(&self.path), &self.path)
            .with_context(|| format!("cannot write '{}'", self.path.display()))?;
        self.is_placed = true;
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.is_placed {
            let _ = remove_file(&beside(&self.path));
        }
    }
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Replaces the record in force by `record`.
pub(crate) fn save(record: &Record) -> Result<()> {
    let aside = Aside::record(record)?;
    aside.sync()?;
    aside.place()
}

/// Makes what leads from the path of `record` to its name, where that is another than the path gives.
pub(crate) fn make_findable(record: &Record) -> Result<()> {
    if Name::of(&record.project())? == record.name {
        return Ok(());
    }
    make_dir(Path::new(record::NAMED), 0o755)?;
    touch(&record::named_file(&record.name))
}

/// Makes the empty file `path`; one that is there stays.
pub(crate) fn touch(path: &Path) -> Result<()> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map(drop)
        .with_context(|| format!("cannot make '{}'", path.display()))
}

/// What was made or renamed in `dirs` outlives a loss of power.
pub(crate) fn sync_dirs(dirs: &[PathBuf]) -> Result<()> {
    let sync = |dir: &PathBuf| {
        File::open(dir).and_then(|dir| dir.sync_all()).with_context(|| format!("cannot sync '{}'", dir.display()))
    };
    at_once(dirs, sync)
}

/// What is in `asides` outlives a loss of power.
pub(crate) fn sync(asides: &[&Aside]) -> Result<()> {
    at_once(asides, |aside| aside.sync())
}

/// Syncs each of `all` by `sync`, some at once, which takes the time of one. The threads have ended when this
/// returns: nothing is forked beside them.
pub(crate) fn at_once<T: Sync>(all: &[T], sync: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    const AT_ONCE: usize = 32;
    let sync = &sync;
    for some in all.chunks(AT_ONCE) {
        let (first, others) = some.split_first().context("a chunk has something")?;
        std::thread::scope(|scope| -> Result<()> {
            let start = |one| (one, std::thread::Builder::new().spawn_scoped(scope, move || sync(one)));
            let threads: Vec<_> = others.iter().map(start).collect();
            let mut synced = vec![sync(first)];
            // out of processes, or one that ended otherwise: once more, then
            let again = |(one, thread): (&T, io::Result<std::thread::ScopedJoinHandle<'_, Result<()>>>)| {
                thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(|| sync(one))
            };
            synced.extend(threads.into_iter().map(again));
            synced.into_iter().collect()
        })?;
    }
    Ok(())
}

/// Writes the file `path`, root's alone, in place of one that is there; where it is on the disk does not matter.
pub(crate) fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    remove_file(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)
}

/// Replaces the file `path`: written aside, synced, renamed.
pub(crate) fn replace(path: &Path, text: &[u8], mode: u32) -> Result<()> {
    let aside = Aside::write(path, text, mode)?;
    aside.sync()?;
    aside.place()
}

/// Removes the file `path`; that there is none is no failure.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    gone(fs::remove_file(path))
}

/// Removes the empty directory `path`; that there is none is no failure.
pub(crate) fn remove_dir(path: &Path) -> io::Result<()> {
    gone(fs::remove_dir(path))
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Begins the deletion of `name`: from now on it is only ever finished. Whoever asks for its path
/// still finds it.
pub(crate) fn mark_deleted(name: &Name) -> Result<()> {
    gone(fs::rename(record::file(name), record::deleted_file(name)))
        .with_context(|| format!("cannot mark environment '{name}' as deleted"))
}

/// Whether the deletion of `name` was begun.
pub(crate) fn is_marked_deleted(name: &Name) -> bool {
    record::deleted_file(name).exists()
}

/// Takes back that `name` is deleted: what it had is gone, and it is about to be made anew.
pub(crate) fn unmark_deleted(name: &Name) -> Result<()> {
    remove_file(&record::deleted_file(name)).with_context(|| format!("cannot make environment '{name}' anew"))
}

/// Ends the deletion of `name`: nothing of it is left afterwards.
pub(crate) fn forget(name: &Name, lock: Lock) -> Result<()> {
    let dir = record::dir(name);
    let forget = || -> io::Result<()> {
        remove_file(&record::last_used_file(name))?;
        remove_file(&record::file(name).with_extension("new"))?;
        remove_file(&record::file(name))?;
        remove_file(&record::deleted_file(name))?;
        remove_file(&record::named_file(name))?;
        lock.remove()?;
        match remove_dir(&dir) {
            // another tool waits for the lock, and has made the file anew: its create goes on
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            result => result,
        }
    };
    forget().with_context(|| format!("cannot remove '{}'", dir.display()))
}
