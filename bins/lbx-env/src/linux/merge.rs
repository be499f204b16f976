//! Lays one tree upon another by copying: of many frozen layers one is made.
//!
//! What a layer hides of those below it, it still hides: whiteouts and opaque directories (overlayfs.rst)
//! are kept. Trees of any depth need two descriptors: the way up is `..`, since nobody else changes them.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use lbx::data;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod,
    fchown, fgetxattr, fsetxattr, fstat, futimens, ioctl_ficlone, linkat, mkdirat, mknodat, openat, readlinkat, statat,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::frozen::copy_attributes;
use super::home;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const OPAQUE: &CStr = c"trusted.overlay.opaque";

/// A directory that is being laid upon another: what is left of it, and how it is in the end.
struct Level {
    name: OsString,
    names: std::vec::IntoIter<OsString>,
    opaque: bool,
}

/// Lays what is below `layer` upon what is below `to`, the layers below it, and gives its top the attributes
/// of that of `layer`. What fails leaves a part.
pub(crate) fn lay(layer: BorrowedFd<'_>, to: BorrowedFd<'_>, progress: &mut dyn FnMut()) -> io::Result<()> {
    let top = openat(to, ".", DIRECTORY, Mode::empty())?;
    let mut laying = Laying { top: top.as_fd(), links: HashMap::new(), progress };
    let mut from = openat(layer, ".", DIRECTORY, Mode::empty())?;
    let mut to = openat(to, ".", DIRECTORY, Mode::empty())?;
    let mut levels = vec![Level {
        name: OsString::new(),
        names: home::entries(from.as_fd(), usize::MAX)?.into_iter(),
        opaque: false,
    }];
    let mut path = PathBuf::new();
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.names.next() {
            (laying.progress)();
            let Some(opaque) = laying.entry(&from, &to, &name, &path)? else { continue };
            from = openat(&from, &*name, DIRECTORY, Mode::empty())?;
            to = openat(&to, &*name, DIRECTORY, Mode::empty())?;
            path.push(&name);
            levels.push(Level { names: home::entries(from.as_fd(), usize::MAX)?.into_iter(), name, opaque });
            continue;
        }
        copy_attributes(from.as_fd(), to.as_fd())?;
        if level.opaque {
            fsetxattr(&to, OPAQUE, b"y", XattrFlags::empty())?;
        }
        settle(&to, &fstat(&from)?)?;
        let done = levels.pop();
        if !levels.is_empty() {
            from = openat(&from, "..", DIRECTORY, Mode::empty())?;
            to = openat(&to, "..", DIRECTORY, Mode::empty())?;
            path.pop();
        }
        drop(done.map(|done| done.name));
    }
    Ok(())
}

struct Laying<'a> {
    /// The top of what is laid upon.
    top: BorrowedFd<'a>,
    /// Where files of several names have come to lie, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    progress: &'a mut dyn FnMut(),
}

impl Laying<'_> {
    /// Lays entry `name` of `from` upon `to`, which lies at `path`; of a directory only itself. `Some`: it is
    /// one that is entered now, and is to be opaque or not.
    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<Option<bool>> {
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let below = match statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => None,
            below => Some(FileType::from_raw_mode(below?.st_mode)),
        };
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            let is_opaque = is_opaque(&openat(from, name, DIRECTORY, Mode::empty())?)?;
            match below {
                Some(FileType::Directory) if !is_opaque => {
                    // what is below it keeps its mark
                    return Ok(Some(self::is_opaque(&openat(to, name, DIRECTORY, Mode::empty())?)?));
                }
                Some(FileType::Directory) => home::remove_tree(to.as_fd(), Path::new(name), self.progress)?,
                Some(_) => unlinkat(to, name, AtFlags::empty())?,
                None => {}
            }
            mkdirat(to, name, Mode::RWXU)?;
            return Ok(Some(is_opaque || below.is_some()));
        }
        match below {
            Some(FileType::Directory) => home::remove_tree(to.as_fd(), Path::new(name), self.progress)?,
            Some(_) => unlinkat(to, name, AtFlags::empty())?,
            None => {}
        }
        let key = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            // a path that is too long, or a file of too many names, is copied
            if let Some(first) = self.links.get(&key)
                && linkat(self.top, first, to, name, AtFlags::empty()).is_ok()
            {
                return Ok(None);
            }
            self.links.insert(key, path.join(name));
        }
        Laying::leaf(from, to, name, &stat)?;
        Ok(None)
    }

    /// Copies what is no directory.
    fn leaf(from: &OwnedFd, to: &OwnedFd, name: &OsStr, stat: &Stat) -> io::Result<()> {
        let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = openat(from, name, flags, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let target = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
                let (source, target) = (File::from(source), File::from(target));
                if ioctl_ficlone(&target, &source).is_err() {
                    data::copy(&source, &target, stat.st_size.try_into().unwrap_or(0))?;
                }
                copy_attributes(source.as_fd(), target.as_fd())?;
                return settle(&target, stat);
            }
            FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, name)?,
            // whiteouts are such devices
            kind => mknodat(to, name, kind, Mode::empty(), stat.st_rdev)?,
        }
        chownat(to, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        if !FileType::from_raw_mode(stat.st_mode).is_symlink() {
            // a new one has what the umask leaves of its mode
            chmodat(to, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
        }
        Ok(utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Gives `to` the owner, the mode and the times of `stat`.
fn settle(to: &impl AsFd, stat: &Stat) -> io::Result<()> {
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(futimens(to, &times(stat))?)
}

#[allow(clippy::unnecessary_cast)] // another type on another architecture
pub(crate) fn times(stat: &Stat) -> Timestamps {
    let time = |sec, nsec| Timespec { tv_sec: sec as _, tv_nsec: nsec as _ };
    Timestamps {
        last_access: time(stat.st_atime as i64, stat.st_atime_nsec as i64),
        last_modification: time(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
    }
}

fn is_opaque(dir: &OwnedFd) -> io::Result<bool> {
    let mut value = [0; 1];
    match fgetxattr(dir, OPAQUE, &mut value) {
        Ok(_) => Ok(value == *b"y"),
        Err(Errno::NODATA | Errno::RANGE | Errno::OPNOTSUPP) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn lay_dirs(from: &Path, to: &Path) {
        let (from, to) = (File::open(from).unwrap(), File::open(to).unwrap());
        lay(from.as_fd(), to.as_fd(), &mut || ()).unwrap();
    }

    #[test]
    fn a_tree_is_copied_with_all_that_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a/file"), "text").unwrap();
        fs::hard_link(from.join("a/file"), from.join("hard")).unwrap();
        symlink("nowhere", from.join("link")).unwrap();
        mknodat(rustix::fs::CWD, from.join("fifo"), FileType::Fifo, Mode::empty(), 0).unwrap();
        fs::set_permissions(from.join("fifo"), fs::Permissions::from_mode(0o666)).unwrap();
        let sparse = File::create(from.join("sparse")).unwrap();
        sparse.set_len(8 << 20).unwrap();
        std::os::unix::fs::FileExt::write_at(&sparse, b"x", 5 << 20).unwrap();
        drop(sparse);
        fs::set_permissions(from.join("a"), fs::Permissions::from_mode(0o751)).unwrap();
        lay_dirs(&from, &to);
        for path in [".", "a", "a/b", "a/file", "link", "fifo", "sparse"] {
            let (one, other) = (from.join(path).symlink_metadata().unwrap(), to.join(path).symlink_metadata().unwrap());
            assert_eq!((one.mode(), one.modified().unwrap()), (other.mode(), other.modified().unwrap()), "{path}");
            assert!(one.is_dir() || one.len() == other.len(), "{path}");
        }
        assert!(fs::read(from.join("sparse")).unwrap() == fs::read(to.join("sparse")).unwrap());
        assert!(to.join("sparse").metadata().unwrap().blocks() < 2048);
        let ino = |path: &str| to.join(path).metadata().unwrap().ino();
        assert_eq!(ino("hard"), ino("a/file"));
    }

    #[test]
    fn what_lies_above_covers_and_what_it_does_not_name_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (above, below) = (dir.path().join("above"), dir.path().join("below"));
        for path in ["both", "dir-to-file"] {
            fs::create_dir_all(below.join(path)).unwrap();
            fs::write(below.join(path).join("old"), "below").unwrap();
        }
        fs::write(below.join("file"), "below").unwrap();
        fs::create_dir_all(above.join("both")).unwrap();
        fs::write(above.join("both/new"), "above").unwrap();
        for path in ["file", "dir-to-file"] {
            fs::write(above.join(path), "above").unwrap();
        }
        lay_dirs(&above, &below);
        for (path, text) in [("both/old", "below"), ("both/new", "above"), ("file", "above"), ("dir-to-file", "above")]
        {
            assert_eq!(fs::read_to_string(below.join(path)).unwrap(), text, "{path}");
        }
    }

    #[test]
    fn a_tree_of_any_depth_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        let mut fd = openat(rustix::fs::CWD, &from, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            mkdirat(&fd, "d", Mode::RWXU).unwrap();
            fd = openat(&fd, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        drop(fd);
        let mut steps = 0;
        let (one, other) = (File::open(&from).unwrap(), File::open(&to).unwrap());
        lay(one.as_fd(), other.as_fd(), &mut || steps += 1).unwrap();
        assert_eq!(steps, 3000);
        for tree in [from, to] {
            home::remove_tree(rustix::fs::CWD, &tree, &mut || ()).unwrap();
        }
    }
}
