//! Both sides of a run, open: the layers, which root reads, and the project, which the person writes.
//!
//! Every name is reached from a descriptor of the project, beneath it, through no link and into no other
//! mount.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use lbx::Result;
use lbx::sys::Looks;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat, fstat, openat2, statat};
use rustix::io::Errno;

use super::applied::Judge;
use super::facts::times;
use super::journal::Journal;

/// Nothing but what lies beneath.
pub(crate) const BENEATH: ResolveFlags = match cfg!(feature = "broken-apply-links") {
    true => ResolveFlags::empty(),
    false => ResolveFlags::BENEATH
        .union(ResolveFlags::NO_SYMLINKS)
        .union(ResolveFlags::NO_MAGICLINKS)
        .union(ResolveFlags::NO_XDEV),
};
const NOFOLLOW: OFlags = match cfg!(feature = "broken-apply-links") {
    true => OFlags::empty(),
    false => OFlags::NOFOLLOW,
};
/// A directory to work in, which may be one that cannot be read.
pub(crate) const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(NOFOLLOW).union(OFlags::CLOEXEC);
/// A file, or nothing: what lies there must not keep anybody waiting.
pub(crate) const FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Merges `theirs` into `ours`, both of the path; the `Err` inside says why not.
pub(crate) type Merge<'a> = dyn Fn(&Path, &[u8], &[u8]) -> Result<std::result::Result<Vec<u8>, &'static str>> + 'a;

/// A layer, and who wrote it: their files have these ids on the disk.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) dir: OwnedFd,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Both sides, open.
pub(crate) struct Sides<'a> {
    /// What the environment writes.
    pub(crate) upper: Layer,
    /// What snapshots froze of that, by what it is called.
    pub(crate) frozen: HashMap<String, Layer>,
    /// The project.
    pub(crate) project: OwnedFd,
    /// Where the project is.
    pub(crate) path: PathBuf,
    /// Who writes the project.
    pub(crate) person: Looks,
    pub(crate) judge: Judge,
    /// Before the changes were looked for, by the clock that times of files have.
    pub(crate) since: (i64, i64),
    /// The directories of the project that were entered since, by their inodes.
    pub(crate) known: RefCell<HashMap<PathBuf, u64>>,
    /// Those of them that were found as they were.
    pub(crate) entered: RefCell<BTreeSet<PathBuf>>,
    /// The directory that was entered last with all that it lies in.
    pub(crate) way: RefCell<PathBuf>,
    /// The group of the project's owner, which stands for the environment's.
    pub(crate) group: u32,
    /// The list of what was applied, open for appending.
    pub(crate) list: File,
    /// The name of what is made aside.
    pub(crate) aside: String,
    /// Where it is written down what is aside, for whoever goes on after this process is killed.
    pub(crate) journal: Journal,
    pub(crate) merge: &'a Merge<'a>,
}

impl Sides<'_> {
    /// Runs `look` as the person.
    pub(crate) fn as_person<T>(&self, look: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if cfg!(feature = "broken-apply-person") {
            return look();
        }
        self.person.take(look)?
    }

    /// The directory that holds `path` in the project, and the name of `path` there.
    pub(crate) fn parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        Ok((self.directory(path.parent().unwrap_or(Path::new("")))?, name))
    }

    /// A directory of the project, by nothing but its own name beneath it: the one that it was when the
    /// changes were looked for. As the person.
    pub(crate) fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let dir = openat2(&self.project, not_empty(path), DIRECTORY, Mode::empty(), BENEATH)?;
        let stat = fstat(&dir)?;
        let known = self.known.borrow().get(path).copied();
        match known {
            _ if cfg!(feature = "broken-apply-way") => return Ok(dir),
            Some(inode) if inode == stat.st_ino => return Ok(dir),
            // what was moved into its place has another time
            None if times(&stat).0 <= self.since => {}
            _ => {
                let message = format!("directory was changed meanwhile: '{}'", not_empty(path).display());
                return Err(io::Error::other(message));
            }
        }
        if let Some(above) = path.parent() {
            drop(self.directory(above)?);
        }
        self.know(path, &stat);
        Ok(dir)
    }

    /// That the directory `path` is this one, from now on.
    pub(crate) fn know(&self, path: &Path, stat: &Stat) {
        self.known.borrow_mut().insert(path.to_owned(), stat.st_ino);
    }

    /// What lies at `name`; `None`: nothing.
    pub(crate) fn present(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Stat>> {
        match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            stat => Ok(Some(stat?)),
        }
    }
}

/// The project itself has no name beneath it.
pub(crate) fn not_empty(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}
