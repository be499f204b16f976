//! What files are: their data, with its holes, their attributes, modes and groups.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use lbx::{Failure, Result, data};
use rustix::fs::{Gid, Mode, SeekFrom, Stat, fstat, seek};
use rustix::io::Errno;

use super::facts::is_same;

/// How often a file is copied that is written meanwhile.
const PATIENCE: usize = 3;

/// As much as is read at once.
const BLOCK: usize = 64 << 10;

/// As much as is merged.
const MERGED_MAX: u64 = 64 << 20;

/// What `file` holds; `None` where that is much.
pub(crate) fn small(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    file.take(MERGED_MAX + 1).read_to_end(&mut text)?;
    Ok((text.len() as u64 <= MERGED_MAX).then_some(text))
}

/// Whether both hold the same; where neither has data nothing is read.
pub(crate) fn have_same_text(a: &File, b: &File) -> io::Result<bool> {
    let size = fstat(a)?.st_size;
    if size != fstat(b)?.st_size {
        return Ok(false);
    }
    let size = u64::try_from(size).unwrap_or(0);
    let (mut one, mut other) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut at = 0;
    while at < size {
        let want = usize::try_from(size - at).unwrap_or(BLOCK).min(BLOCK);
        let (one, other) = (&mut one[..want], &mut other[..want]);
        for (file, part) in [(a, &mut *one), (b, &mut *other)] {
            match file.read_exact_at(part, at) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                read => read?,
            }
        }
        if one != other {
            return Ok(false);
        }
        at += want as u64;
        // a question each, but not for what has no holes
        if at < size && one.iter().all(|byte| *byte == 0) {
            at = data(a, at, size).min(data(b, at, size));
        }
    }
    Ok(true)
}

/// Where data begin at or behind `at`, as far as the file system tells; `size` where none do.
fn data(file: &File, at: u64, size: u64) -> u64 {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => data.clamp(at, size),
        Err(Errno::NXIO) => size,
        Err(_) => at,
    }
}

/// Copies `from`, holes and all; once more where it is written meanwhile.
pub(crate) fn copy(from: &File, to: &File) -> Result<()> {
    for _ in 0..PATIENCE {
        let before = fstat(from)?;
        to.set_len(0)?;
        data::copy(from, to, before.st_size.try_into().unwrap_or(0))?;
        if is_same(&fstat(from)?, &before) {
            return Ok(());
        }
    }
    Err(Failure::new("it is written inside all the while").hint("once more, when it is at rest").into())
}

/// The name of what `fd` is open on, for calls that take no descriptor of its kind.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The `user.*` attributes of what `fd` is open on, which may be open for nothing but its name.
pub(crate) fn attributes(fd: BorrowedFd<'_>) -> io::Result<Vec<(CString, Vec<u8>)>> {
    let itself = proc_path(fd);
    let mut names = match rustix::fs::listxattr_query(itself.as_path()) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        size => vec![0; size?],
    };
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let size = rustix::fs::listxattr(itself.as_path(), &mut names[..])?;
    names.truncate(size);
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
        let name = CString::new(name).map_err(io::Error::other)?;
        let mut value = vec![0; rustix::fs::getxattr_query(itself.as_path(), name.as_c_str())?];
        let size = rustix::fs::getxattr(itself.as_path(), name.as_c_str(), &mut value[..])?;
        value.truncate(size);
        found.push((name, value));
    }
    Ok(found)
}

/// Gives what `fd` is open on the attributes `wanted`, and no others. A file system without any has none
/// to set.
pub(crate) fn set_attributes(fd: BorrowedFd<'_>, wanted: &[(CString, Vec<u8>)]) -> io::Result<()> {
    let own = attributes(fd)?;
    let itself = proc_path(fd);
    let done = |result| match result {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NODATA) => Ok(()),
        Err(e) => Err(io::Error::from(e)),
    };
    for (name, _) in own.iter().filter(|(name, _)| !wanted.iter().any(|(other, _)| other == name)) {
        done(rustix::fs::removexattr(itself.as_path(), name.as_c_str()))?;
    }
    for (name, value) in wanted.iter().filter(|attribute| !own.contains(attribute)) {
        done(rustix::fs::setxattr(itself.as_path(), name.as_c_str(), value, rustix::fs::XattrFlags::empty()))?;
    }
    Ok(())
}

/// `fchmod(2)` takes no descriptor that was opened with O_PATH.
///
/// As the owner, who alone may: on a share that is whoever has looked last.
pub(crate) fn chmod(file: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    fstat(file)?;
    Ok(rustix::fs::chmod(proc_path(file).as_path(), Mode::from_raw_mode(mode))?)
}

/// Gives a file its group, where the person may.
pub(crate) fn give_group(stat: &Stat, gid: u32, give: impl FnOnce(Gid) -> rustix::io::Result<()>) -> io::Result<()> {
    if stat.st_gid == gid {
        return Ok(());
    }
    match give(Gid::from_raw(gid)) {
        Ok(()) | Err(Errno::PERM | Errno::INVAL) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
