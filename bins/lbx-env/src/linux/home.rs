//! Homes: made from `/etc/skel`, removed by a walk over descriptors that follows nothing.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lbx::{Failure, Name, Result};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Uid, chownat, fchown, fstat, mkdirat, openat,
    openat2, readlinkat, renameat, renameat_with, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::accounts::Ids;

const HOMES: &str = "/home";
const SKELETON: &str = "/etc/skel";
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// As many names as are read at once: of a directory that is read again for each that is removed, few.
const MANY: usize = 4096;
const FEW: usize = 64;
/// `npm install -g` then writes below the home, where PATH looks first.
const NPMRC: &str = "prefix=${HOME}/.local\n";
/// Without one, zsh asks a newcomer about its set-up.
const ZSHRC: &str = "PROMPT='%n:%~%# '\n";

/// Where the home of `name` is, on the place and inside.
pub(crate) fn path(name: &Name) -> PathBuf {
    Path::new(HOMES).join(name)
}

/// Where a home is made until it is whole; what a killed tool left there is thrown away.
pub(crate) fn aside(name: &Name) -> PathBuf {
    Path::new(HOMES).join(format!(".{name}.llima-box"))
}

/// Makes the home of `name`, aside, and puts it in its place when it is whole. One that is there and
/// belongs to the account stays as it is; another's is refused.
pub(crate) fn make(name: &Name, ids: Ids) -> Result<()> {
    let path = path(name);
    let make = || -> Result<()> {
        super::store::make_dir(Path::new(HOMES), 0o755)?;
        match rustix::fs::lstat(&path) {
            Ok(stat) if stat.st_uid == ids.uid => return Ok(()),
            Ok(stat) => return Err(Failure::new(format!("it exists and belongs to uid {}", stat.st_uid)).into()),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        let aside = aside(name);
        remove_tree(CWD, &aside, &mut || ())?;
        mkdirat(CWD, &aside, Mode::from_raw_mode(0o700))?;
        let home = openat(CWD, &aside, DIRECTORY, Mode::empty())?;
        if let Ok(skeleton) = openat(CWD, SKELETON, DIRECTORY, Mode::empty()) {
            copy_dir(skeleton.as_fd(), home.as_fd(), ids)?;
        }
        for (file, text) in [(".npmrc", NPMRC), (".zshrc", ZSHRC)] {
            write_new(home.as_fd(), OsStr::new(file), text.as_bytes(), 0o644, ids)?;
        }
        chown(home.as_fd(), ids)?;
        Ok(renameat_with(CWD, &aside, CWD, &path, RenameFlags::NOREPLACE)?)
    };
    make().with_context(|| format!("cannot make home '{}'", path.display()))
}

/// Fails when a home of `name` is there that is not the environment's: it is neither taken nor, when
/// something else fails, removed. Only under the environment's lock is the answer more than a guess.
pub(crate) fn refuse_foreign(name: &Name) -> Result<()> {
    let path = path(name);
    let owner = match rustix::fs::lstat(&path) {
        Err(Errno::NOENT) => return Ok(()),
        stat => stat.with_context(|| format!("cannot look at home '{}'", path.display()))?.st_uid,
    };
    // the account is older than its home, so it is looked for after it
    let account = super::accounts::ours(&super::accounts::passwd()?, name).map(|ids| ids.uid);
    if [account, super::deleted_uid(name)].contains(&Some(owner)) {
        return Ok(());
    }
    Err(Failure::new(format!("home '{}' exists and belongs to uid {owner}", path.display()))
        .hint("move it away, or make another name with --name WORD")
        .into())
}

fn chown(file: BorrowedFd<'_>, ids: Ids) -> io::Result<()> {
    Ok(fchown(file, Some(Uid::from_raw(ids.uid)), Some(rustix::fs::Gid::from_raw(ids.gid)))?)
}

/// Writes a file that is not there yet; what is there stays.
fn write_new(dir: BorrowedFd<'_>, name: &OsStr, text: &[u8], mode: u32, ids: Ids) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = match openat(dir, name, flags, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => return Ok(()),
        file => File::from(file?),
    };
    (&file).write_all(text)?;
    chown(file.as_fd(), ids)
}

/// Copies the files, directories and links of `from`, which is root's.
fn copy_dir(from: BorrowedFd<'_>, to: BorrowedFd<'_>, ids: Ids) -> io::Result<()> {
    for name in entries(from, usize::MAX)? {
        let stat = statat(from, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut text = Vec::new();
                File::from(openat(from, name.as_os_str(), flags, Mode::empty())?).read_to_end(&mut text)?;
                write_new(to, &name, &text, mode.as_raw_mode(), ids)?;
            }
            FileType::Directory => {
                match mkdirat(to, name.as_os_str(), mode) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
                let below = openat(to, name.as_os_str(), DIRECTORY, Mode::empty())?;
                copy_dir(openat(from, name.as_os_str(), DIRECTORY, Mode::empty())?.as_fd(), below.as_fd(), ids)?;
                chown(below.as_fd(), ids)?;
            }
            FileType::Symlink => {
                let target = readlinkat(from, name.as_os_str(), Vec::new())?;
                match symlinkat(target, to, name.as_os_str()) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
                let owner = (Some(Uid::from_raw(ids.uid)), Some(rustix::fs::Gid::from_raw(ids.gid)));
                chownat(to, name.as_os_str(), owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes the home of `name`, whose account had `uid` where that is known.
pub(crate) fn remove(name: &Name, uid: Option<u32>, progress: &mut dyn FnMut()) -> Result<()> {
    remove_tree(CWD, &aside(name), &mut || ()).with_context(|| format!("cannot remove '{}'", aside(name).display()))?;
    let path = path(name);
    let owner = match rustix::fs::lstat(&path) {
        Err(Errno::NOENT) => return Ok(()),
        stat => stat.with_context(|| format!("cannot look at home '{}'", path.display()))?.st_uid,
    };
    if Some(owner) != uid {
        return Err(Failure::new(format!("home '{}' belongs to uid {owner}: not removed", path.display()))
            .hint("move it away, then delete again")
            .into());
    }
    remove_tree(CWD, &path, progress).with_context(|| format!("cannot remove home '{}'", path.display()))
}

/// Removes the tree at `path` below `parent`, following no link and entering no mount.
///
/// Every directory that is not empty is moved up beside the first ones, so that a tree of any
/// depth needs three descriptors; a walk that was interrupted goes on where it was.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, path: &Path, progress: &mut dyn FnMut()) -> io::Result<()> {
    let top = match open_dir(parent, path.as_os_str()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        top => top?,
    };
    let mut moved: u64 = 0;
    loop {
        let names = entries(top.as_fd(), MANY)?;
        if names.is_empty() {
            break;
        }
        for name in names {
            progress();
            if remove_leaf(top.as_fd(), &name)? {
                continue;
            }
            let dir = open_below(top.as_fd(), &name)?;
            loop {
                let below = entries(dir.as_fd(), MANY)?;
                if below.is_empty() {
                    break;
                }
                for name in below {
                    progress();
                    // a subvolume, a project ID or a full disk keeps it where it is
                    if !remove_leaf(dir.as_fd(), &name)?
                        && move_up(dir.as_fd(), &name, top.as_fd(), &mut moved).is_err()
                    {
                        remove_in_place(open_below(dir.as_fd(), &name)?, progress)?;
                    }
                }
            }
            unlinkat(&top, name.as_os_str(), AtFlags::REMOVEDIR)?;
        }
    }
    Ok(unlinkat(parent, path, AtFlags::REMOVEDIR)?)
}

/// Removes what is in `dir`, down and up again: slower than moving, but no file system refuses it. Up
/// is where it came from, or nothing more is removed.
fn remove_in_place(mut dir: OwnedFd, progress: &mut dyn FnMut()) -> io::Result<()> {
    let id = |dir: &OwnedFd| -> io::Result<(u64, u64)> {
        let stat = fstat(dir)?;
        Ok((stat.st_dev, stat.st_ino))
    };
    let mut above = Vec::new();
    loop {
        let names = entries(dir.as_fd(), FEW)?;
        let mut full = None;
        for name in &names {
            progress();
            if !remove_leaf(dir.as_fd(), name)? {
                full = Some(name);
                break;
            }
        }
        if let Some(name) = full {
            above.push(id(&dir)?);
            dir = open_below(dir.as_fd(), name)?;
        } else if names.is_empty() {
            let Some(came_from) = above.pop() else { return Ok(()) };
            dir = open_dir(dir.as_fd(), OsStr::new(".."))?;
            if id(&dir)? != came_from {
                return Err(io::Error::other("a directory was moved while it was removed"));
            }
        }
    }
}

/// Moves the directory `name` of `dir` to `top`, under a name that is free there.
fn move_up(dir: BorrowedFd<'_>, name: &OsStr, top: BorrowedFd<'_>, moved: &mut u64) -> io::Result<()> {
    loop {
        let up = format!(".llima-box.{moved}");
        *moved += 1;
        match statat(top, up.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(renameat(dir, name, top, up.as_str())?),
            taken => drop(taken?),
        }
    }
}

fn open_dir(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(openat(parent, name, DIRECTORY, Mode::empty())?)
}

/// Opens the directory `name` of `parent`, which is not empty and no mount, to be emptied.
fn open_below(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    super::project::linger();
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let dir = match openat2(parent, name, DIRECTORY, Mode::empty(), resolve) {
        _ if cfg!(feature = "broken-links") => openat(parent, name, DIRECTORY - OFlags::NOFOLLOW, Mode::empty())?,
        // of a device number of its own is a subvolume of btrfs, too, and anybody may make one
        Err(Errno::XDEV) => return Err(io::Error::other(format!("'{}' is a mount", name.display()))),
        dir => dir?,
    };
    lbx::sys::open_subvolume(dir.as_fd())?;
    Ok(dir)
}

/// Removes what is no directory, or an empty one. `false`: it is a directory with entries.
fn remove_leaf(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        // what Linux says of a directory, and what POSIX does
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The names in `dir`, `.` and `..` left out; at most `bound` of them, since most are removed.
pub(super) fn entries(dir: BorrowedFd<'_>, bound: usize) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
        if names.len() == bound {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_of_any_depth_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "").unwrap();
        std::fs::create_dir(dir.path().join("tree")).unwrap();
        symlink(&outside, dir.path().join("tree/link")).unwrap();
        let mut fd = openat(CWD, dir.path().join("tree"), DIRECTORY, Mode::empty()).unwrap();
        for depth in 0..3000 {
            mkdirat(&fd, "d", Mode::RWXU).unwrap();
            if depth % 100 == 0 {
                symlinkat("/", &fd, "link").ok();
                mkdirat(&fd, ".llima-box.0", Mode::RWXU).unwrap();
            }
            fd = openat(&fd, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        drop(fd);
        let mut steps = 0;
        remove_tree(CWD, &dir.path().join("tree"), &mut || steps += 1).unwrap();
        assert!(!dir.path().join("tree").exists());
        assert!(outside.join("kept").exists());
        assert!(steps >= 3000);
        remove_tree(CWD, &dir.path().join("tree"), &mut || ()).unwrap();
    }

    #[test]
    fn what_cannot_be_moved_is_removed_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir_all(dir.path().join("tree/wide")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "").unwrap();
        let mut fd = openat(CWD, dir.path().join("tree"), DIRECTORY, Mode::empty()).unwrap();
        for n in 0..200 {
            std::fs::create_dir_all(dir.path().join(format!("tree/wide/{n}/x"))).unwrap();
        }
        for _ in 0..3000 {
            mkdirat(&fd, "d", Mode::RWXU).unwrap();
            symlinkat(&outside, &fd, "link").unwrap();
            fd = openat(&fd, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        drop(fd);
        remove_in_place(open_dir(CWD, dir.path().join("tree").as_os_str()).unwrap(), &mut || ()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("tree")).unwrap().count(), 0);
        assert!(outside.join("kept").exists());
    }

    #[test]
    fn a_directory_with_very_many_files_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("many")).unwrap();
        for n in 0..9000 {
            std::fs::write(tree.join(format!("many/{n}")), "").unwrap();
        }
        remove_tree(CWD, &tree, &mut || ()).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn a_link_in_the_place_of_a_home_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("victim")).unwrap();
        std::fs::write(dir.path().join("victim/file"), "").unwrap();
        symlink("victim", dir.path().join("home")).unwrap();
        assert!(remove_tree(CWD, &dir.path().join("home"), &mut || ()).is_err());
        assert!(dir.path().join("victim/file").exists());
    }
}
