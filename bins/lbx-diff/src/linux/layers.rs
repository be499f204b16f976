//! A layer of the project, looked at by descriptors alone: every step is taken beneath its top,
//! through no link and into no mount.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use lbx::sys::{self, Looks};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxAttributes, StatxFlags, fgetxattr, flistxattr,
    fstat, fstatfs, openat2, readlinkat, statx,
};
use rustix::io::Errno;

/// As much of a path as one call takes (PATH_MAX, less its end).
const LONGEST: usize = 4000;
const BENEATH: ResolveFlags = match cfg!(feature = "broken-diff-links") {
    true => ResolveFlags::empty(),
    false => ResolveFlags::BENEATH
        .union(ResolveFlags::NO_SYMLINKS)
        .union(ResolveFlags::NO_MAGICLINKS)
        .union(ResolveFlags::NO_XDEV),
};
const NOFOLLOW: OFlags = match cfg!(feature = "broken-diff-links") {
    true => OFlags::empty(),
    false => OFlags::NOFOLLOW,
};
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(NOFOLLOW).union(OFlags::CLOEXEC);
/// The file system of FUSE, virtiofs too, which numbers files anew whenever it has forgotten them.
const FUSE: u64 = 0x6573_5546;

/// Whose eyes a layer is seen with.
enum Eyes {
    /// The person's project: the caller's.
    Caller,
    /// What the environment made: root's. What belongs to another than this uid, its account's, was
    /// copied up from the person's files, and is read only if the caller may.
    Root(u32),
}

/// One layer: the person's project, or what an environment changed, now or before it was frozen.
pub(crate) struct Layer {
    /// What a frozen one is called.
    id: Option<String>,
    top: OwnedFd,
    eyes: Eyes,
    looks: Looks,
}

/// What something is: nothing but its kind is told of what is neither file, directory nor link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    Device,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Dir => "dir",
            Kind::Symlink => "symlink",
            Kind::Fifo => "fifo",
            Kind::Socket => "socket",
            Kind::Device => "device",
        }
    }
}

/// What a name stands for in a layer.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The layer that it lies in, by its place among all.
    pub(crate) layer: usize,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) size: u64,
    /// Where a symbolic link leads.
    pub(crate) target: Option<Vec<u8>>,
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
    pub(crate) ctime: (i64, i64),
    pub(crate) mtime: (i64, i64),
}

impl Entry {
    /// What overlayfs puts where a name of the lower layer is to be hidden.
    pub(crate) fn is_whiteout(&self) -> bool {
        self.kind == Kind::Device && self.device == (0, 0)
    }
}

impl Layer {
    /// The person's project, whose top is open, seen as the caller.
    pub(crate) fn project(top: OwnedFd, looks: Looks) -> Layer {
        Layer { id: None, top, eyes: Eyes::Caller, looks }
    }

    /// What the account `uid` of an environment changed; `id`: what that is called since it was frozen.
    pub(crate) fn written(top: OwnedFd, looks: Looks, uid: u32, id: Option<String>) -> Layer {
        Layer { id, top, eyes: Eyes::Root(uid), looks }
    }

    /// As if `layer` was called `id`.
    #[cfg(test)]
    pub(crate) fn named(layer: Layer, id: &str) -> Layer {
        Layer { id: Some(id.to_owned()), ..layer }
    }

    /// What it is called, if it is frozen.
    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether it is the person's project, below all others.
    pub(crate) fn is_project(&self) -> bool {
        matches!(self.eyes, Eyes::Caller)
    }

    /// Opens the top of the project, an absolute path without links.
    pub(crate) fn open_top(path: &std::path::Path, looks: Looks) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(looks.take(|| openat2(CWD, path, DIRECTORY, Mode::empty(), resolve))??)
    }

    fn look<T>(&self, look: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.eyes {
            Eyes::Caller if cfg!(feature = "broken-diff-looks") => look(),
            Eyes::Caller => self.looks.take(look)?,
            Eyes::Root(_) => look(),
        }
    }

    /// The layer's top as an entry.
    pub(crate) fn top(&self) -> io::Result<Entry> {
        self.look(|| Ok(entry(&statx(&self.top, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?, None)))
    }

    /// Whether a file keeps its handle for as long as it exists.
    pub(crate) fn has_lasting_handles(&self) -> io::Result<bool> {
        Ok(u64::try_from(fstatfs(&self.top)?.f_type).ok() != Some(FUSE))
    }

    /// Opens the directory `path`, which is relative to the top; the top itself for an empty one.
    pub(crate) fn open_dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        self.look(|| {
            let mut dir = None;
            let mut rest = path;
            while rest.len() > LONGEST {
                let Some(at) = rest[..LONGEST].iter().rposition(|byte| *byte == b'/') else {
                    return Err(Errno::NAMETOOLONG.into());
                };
                let above = dir.as_ref().unwrap_or(&self.top);
                dir = Some(openat2(above, &rest[..at], DIRECTORY | OFlags::PATH, Mode::empty(), BENEATH)?);
                rest = &rest[at + 1..];
            }
            let last: &[u8] = if rest.is_empty() { b"." } else { rest };
            Ok(openat2(dir.as_ref().unwrap_or(&self.top), last, DIRECTORY, Mode::empty(), BENEATH)?)
        })
    }

    /// The names in `dir`.
    pub(crate) fn names(&self, dir: &OwnedFd) -> io::Result<Vec<OsString>> {
        self.look(|| {
            let mut names = Vec::new();
            for entry in Dir::read_from(dir)? {
                let name = entry?.file_name().to_bytes().to_vec();
                if name != b"." && name != b".." {
                    names.push(OsString::from_vec(name));
                }
            }
            Ok(names)
        })
    }

    /// What `name` is in `dir`; `None` where there is nothing.
    pub(crate) fn entry(&self, dir: &OwnedFd, name: &[u8]) -> io::Result<Option<Entry>> {
        self.look(|| {
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
            let stat = match statx(dir, name, flags, StatxFlags::BASIC_STATS) {
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                stat => stat?,
            };
            if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
                return Err(io::Error::other("another file system is mounted there"));
            }
            let target = match FileType::from_raw_mode(stat.stx_mode.into()) {
                FileType::Symlink => Some(readlinkat(dir, name, Vec::new())?.into_bytes()),
                _ => None,
            };
            Ok(Some(entry(&stat, target)))
        })
    }

    /// Opens the file `name` of `dir` to be read. That it was one before does not mean that it is.
    pub(crate) fn open_file(&self, dir: &OwnedFd, name: &[u8]) -> io::Result<File> {
        let flags = OFlags::RDONLY | NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = self.look(|| Ok(openat2(dir, name, flags, Mode::empty(), BENEATH)?))?;
        let stat = fstat(&file)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(io::Error::other("it is no file any more"));
        }
        match self.eyes {
            Eyes::Root(agent) if stat.st_uid != agent => {
                self.looks.take(|| sys::require_access(file.as_fd(), libc::R_OK))??;
            }
            _ => {}
        }
        Ok(File::from(file))
    }

    /// As [`Layer::open_file`], for the file `path`, which is relative to the top.
    pub(crate) fn open_file_at(&self, path: &[u8]) -> io::Result<File> {
        let (dir, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&[][..], path),
        };
        self.open_file(&self.open_dir(dir)?, name)
    }

    /// The attributes `user.*` of what `file` is open on, sorted.
    pub(crate) fn user_attributes(&self, file: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.look(|| {
            let list = match whole(|buffer| flistxattr(file, buffer)) {
                Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
                list => list?,
            };
            let mut attributes = Vec::new();
            for name in list.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
                match whole(|buffer| fgetxattr(file, name, buffer)) {
                    // gone meanwhile
                    Err(Errno::NODATA) => {}
                    value => attributes.push((name.to_vec(), value?)),
                }
            }
            attributes.sort_unstable();
            Ok(attributes)
        })
    }

    /// The value of `attribute` of `name` in `dir`, of a link itself; of `dir` for an empty name.
    pub(crate) fn attribute(&self, dir: &OwnedFd, name: &[u8], attribute: &str) -> io::Result<Option<Vec<u8>>> {
        let value = if name.is_empty() {
            whole(|buffer| fgetxattr(dir, attribute, buffer))
        } else {
            let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
            path.extend_from_slice(name);
            whole(|buffer| rustix::fs::lgetxattr(&path[..], attribute, buffer))
        };
        match value {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The handle of `name` in `dir`; of `dir` for an empty name. `None` where there is none.
    pub(crate) fn handle(&self, dir: &OwnedFd, name: &[u8]) -> io::Result<Option<sys::Handle>> {
        let name = std::ffi::CString::new(name)?;
        match self.look(|| sys::handle(dir.as_fd(), &name)) {
            Ok(handle) => Ok(Some(handle)),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOENT | libc::ENOTDIR)) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn entry(stat: &Statx, target: Option<Vec<u8>>) -> Entry {
    let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        _ => Kind::Device,
    };
    Entry {
        layer: 0,
        kind,
        mode: u32::from(stat.stx_mode) & 0o7777,
        size: stat.stx_size,
        target,
        device: (stat.stx_rdev_major, stat.stx_rdev_minor),
        inode: stat.stx_ino,
        ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec.into()),
        mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec.into()),
    }
}

/// All that `read` has to give, in a buffer that grows until it is enough.
fn whole(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            // XATTR_SIZE_MAX and XATTR_LIST_MAX
            Err(Errno::RANGE) if buffer.len() < 1 << 16 => buffer.resize(1 << 16, 0),
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FileType, mknodat, open};
    use std::os::unix::fs::symlink;

    fn layer(dir: &std::path::Path) -> Layer {
        let own = rustix::process::geteuid().as_raw();
        Layer::project(open(dir, DIRECTORY, Mode::empty()).unwrap(), Looks::of(own, own, &[]).unwrap())
    }

    #[test]
    fn nothing_that_is_no_file_is_opened_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        mknodat(CWD, dir.path().join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        std::fs::create_dir_all(dir.path().join("dir/below")).unwrap();
        symlink("file", dir.path().join("link")).unwrap();
        symlink("dir", dir.path().join("dirlink")).unwrap();
        symlink("/etc", dir.path().join("out")).unwrap();
        let layer = layer(dir.path());
        assert!(layer.open_file_at(b"file").is_ok());
        // with nobody at its other end it would wait
        for path in [&b"fifo"[..], b"link", b"dir", b"out/passwd", b"../file", b"dirlink/x", b"none"] {
            assert!(layer.open_file_at(path).is_err(), "{}", String::from_utf8_lossy(path));
        }
        assert!(layer.open_dir(b"dir/below").is_ok());
        for path in [&b"dirlink"[..], b"dirlink/below", b"out", b"..", b"/etc", b"file"] {
            assert!(layer.open_dir(path).is_err(), "{}", String::from_utf8_lossy(path));
        }
        let top = layer.open_dir(b"").unwrap();
        assert_eq!(layer.entry(&top, b"link").unwrap().unwrap().target.unwrap(), b"file");
        assert_eq!(layer.entry(&top, b"fifo").unwrap().unwrap().kind, Kind::Fifo);
        assert!(layer.entry(&top, b"none").unwrap().is_none());
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let mut below = open(dir.path(), DIRECTORY, Mode::empty()).unwrap();
        let name = "n".repeat(200);
        for _ in 0..60 {
            rustix::fs::mkdirat(&below, &name, Mode::RWXU).unwrap();
            below = openat2(&below, &name, DIRECTORY, Mode::empty(), BENEATH).unwrap();
        }
        openat2(&below, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU, BENEATH).unwrap();
        let path = vec![name; 60].join("/");
        let layer = layer(dir.path());
        assert_eq!(layer.names(&layer.open_dir(path.as_bytes()).unwrap()).unwrap(), ["file"]);
        assert!(layer.open_file_at(format!("{path}/file").as_bytes()).is_ok());
    }
}
