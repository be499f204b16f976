//! Drops what was changed inside a copy-on-write project: a path reads as the project's again.
//!
//! In the upper layer a whiteout hides one name of the project, an opaque directory all of its own
//! (overlayfs.rst, "whiteouts and opaque directories"). Where such a one covers a path, whiteouts of
//! all else that it covers come in its place, so that nothing but the path is uncovered. What frozen
//! layers have changed cannot be uncovered ([`upon`]).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use lbx::layer::{self, Frozen};
use lbx::{Failure, Record, Result};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, XattrFlags, fchmod, fchown, fgetxattr,
    flistxattr, fremovexattr, fsetxattr, fstat, mkdirat, mknodat, openat, openat2, renameat, renameat_with, statat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::{home, layers};

mod upon;

/// Where something is made before it is put into the upper layer.
const ASIDE: &str = "discard.new";
/// Where it is when it is whole.
const WHOLE: &str = "discard.whole";
const OPAQUE: &str = "trusted.overlay.opaque";
/// What overlayfs keeps for itself.
const MARKS: &[u8] = b"trusted.overlay.";
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// In neither layer a name leads anywhere else.
const WALK: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// `path` as it is below the project; nothing of it is the project itself.
pub(crate) fn below(path: &OsStr, project: &Path) -> Result<PathBuf> {
    let path = Path::new(path);
    let relative = path.strip_prefix(project).unwrap_or(path);
    let mut clean = PathBuf::new();
    for component in relative.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => return Err(Failure::new(format!("path is not in the project: {}", path.display())).into()),
        }
    }
    Ok(clean)
}

/// The layers of an environment that does not run.
#[derive(Debug)]
pub(crate) struct Layers<'a> {
    record: &'a Record,
    root: OwnedFd,
    upper: OwnedFd,
    /// Between the two, the newest first.
    frozen: Vec<OwnedFd>,
    lower: OwnedFd,
}

/// One directory in both layers.
struct Level {
    upper: OwnedFd,
    /// The project's, where it has that directory too.
    lower: Option<OwnedFd>,
}

impl Layers<'_> {
    /// Opens the layers of `record`, whose project is `project`.
    pub(crate) fn open<'a>(record: &'a Record, project: BorrowedFd<'_>) -> Result<Layers<'a>> {
        let path = layer::root(&record.name);
        let open = || -> io::Result<Layers<'a>> {
            let root = openat(CWD, &path, DIRECTORY, Mode::empty())?;
            let upper = openat2(&root, "upper", DIRECTORY, Mode::empty(), WALK)?;
            let open = |layer: &Frozen| Ok(openat(CWD, layer.upper(), DIRECTORY, Mode::empty())?);
            let frozen = record.layers.project.iter().map(open).collect::<io::Result<_>>()?;
            let lower = openat(project, ".", DIRECTORY, Mode::empty())?;
            // what a run that was killed has left
            for left in [layers::DROPPED, ASIDE, WHOLE] {
                clear(&root, left)?;
            }
            Ok(Layers { record, root, upper, frozen, lower })
        };
        open().with_context(|| format!("cannot open layers '{}'", path.display()))
    }

    /// Drops what was changed at and below `path`. That nothing was is no failure.
    pub(crate) fn discard(&self, path: &Path, progress: &mut dyn FnMut()) -> Result<()> {
        let mut discard = || match self.is_frozen(path)? {
            true => self.present(path, progress),
            false => self.uncover(path, progress),
        };
        discard().with_context(|| format!("cannot discard '{}'", path.display()))
    }

    fn uncover(&self, path: &Path, progress: &mut dyn FnMut()) -> Result<()> {
        let names: Vec<&OsStr> = path.iter().collect();
        let Some((target, above)) = names.split_last() else { return Ok(()) };
        let mut levels = vec![Level { upper: self.upper.try_clone()?, lower: Some(self.lower.try_clone()?) }];
        for (depth, name) in above.iter().enumerate() {
            let Some(level) = levels.last() else { return Ok(()) };
            let keep = (depth + 1 == above.len()).then_some(*target);
            match self.descend(level, name, keep)? {
                Some(next) => levels.push(next),
                None => return Ok(()),
            }
        }
        if let Some(level) = levels.last() {
            self.drop_from(&level.upper, target, progress)?;
        }
        // directories that were in the layer for what they held
        for (index, name) in above.iter().enumerate().rev() {
            let (Some(parent), Some(level)) = (levels.get(index), levels.get(index + 1)) else { break };
            if !self.is_bare(level)? || unlinkat(&parent.upper, *name, AtFlags::REMOVEDIR).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Opens directory `name` of `level`, so that it covers nothing of the project's but by name, and not
    /// `keep`. `None`: it is not in the layer, and all below is the project's already.
    fn descend(&self, level: &Level, name: &OsStr, keep: Option<&OsStr>) -> Result<Option<Level>> {
        let lower = match &level.lower {
            Some(lower) => open_dir(lower, name)?,
            None => None,
        };
        match look(&level.upper, name)? {
            None => return Ok(None),
            Some(stat) if is_dir(&stat) => {}
            Some(stat) if is_whiteout(&stat) => match &lower {
                None => return Ok(None),
                Some(lower) => self.replace_whiteout(level, name, lower)?,
            },
            Some(_) => {
                return Err(Failure::new(format!("'{}' is no directory inside", name.display()))
                    .hint("discard that, and with it what it covers")
                    .into());
            }
        }
        let upper = openat2(&level.upper, name, DIRECTORY, Mode::empty(), WALK)?;
        match &lower {
            Some(lower) if is_opaque(&upper)? => {
                for entry in home::entries(lower.as_fd(), usize::MAX)? {
                    if Some(entry.as_os_str()) != keep {
                        cover(&upper, lower, &entry)?;
                    }
                }
                fremovexattr(&upper, OPAQUE)?;
            }
            _ => {}
        }
        Ok(Some(Level { upper, lower }))
    }

    /// Makes of the whiteout `name` an opaque directory, which hides as much.
    fn replace_whiteout(&self, level: &Level, name: &OsStr, lower: &OwnedFd) -> Result<()> {
        clear(&self.root, ASIDE)?;
        mkdirat(&self.root, ASIDE, Mode::RWXU)?;
        let dir = openat(&self.root, ASIDE, DIRECTORY, Mode::empty())?;
        let theirs = fstat(lower)?;
        let (uid, gid) = self.shown(&theirs);
        fchown(&dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        fchmod(&dir, mode(&theirs))?;
        fsetxattr(&dir, OPAQUE, b"y", XattrFlags::empty())?;
        renameat_with(&self.root, ASIDE, &level.upper, name, RenameFlags::EXCHANGE)?;
        Ok(gone(&self.root, ASIDE)?)
    }

    /// Removes what the directory `upper` of the layer has of `name`, whatever that is.
    fn drop_from(&self, upper: &OwnedFd, name: &OsStr, progress: &mut dyn FnMut()) -> io::Result<()> {
        match look(upper, name)? {
            None => Ok(()),
            // out of the layer in one instant: half of it would be a change that nobody made
            Some(stat) if is_dir(&stat) => {
                renameat(upper, name, &self.root, layers::DROPPED)?;
                home::remove_tree(self.root.as_fd(), Path::new(layers::DROPPED), progress)
            }
            Some(_) => Ok(unlinkat(upper, name, AtFlags::empty())?),
        }
    }

    /// Whether the directory of `level` says nothing that the project's does not.
    fn is_bare(&self, level: &Level) -> io::Result<bool> {
        let Some(lower) = &level.lower else { return Ok(false) };
        let (own, theirs) = (fstat(&level.upper)?, fstat(lower)?);
        Ok(home::entries(level.upper.as_fd(), 1)?.is_empty()
            && (own.st_uid, own.st_gid) == self.shown(&theirs)
            && mode(&own) == mode(&theirs)
            && !has_attributes(&level.upper)?)
    }

    /// Whose what is the project's shows as inside.
    fn shown(&self, theirs: &Stat) -> (u32, u32) {
        let record = self.record;
        if record.ownership == lbx::record::Ownership::SharedUid {
            return (theirs.st_uid, theirs.st_gid);
        }
        let or = |theirs, owner, ours| if theirs == owner { ours } else { theirs };
        (or(theirs.st_uid, record.owner.uid, record.uid), or(theirs.st_gid, record.owner.gid, record.gid))
    }
}

/// Hides `name` of directory `lower` in `upper`, which has hidden it as a whole.
fn cover(upper: &OwnedFd, lower: &OwnedFd, name: &OsStr) -> Result<()> {
    match look(upper, name)? {
        None => Ok(mknodat(upper, name, FileType::CharacterDevice, Mode::empty(), 0)?),
        Some(stat) if is_dir(&stat) && look(lower, name)?.is_some_and(|theirs| is_dir(&theirs)) => {
            let dir = openat2(upper, name, DIRECTORY, Mode::empty(), WALK)?;
            Ok(fsetxattr(&dir, OPAQUE, b"y", XattrFlags::empty())?)
        }
        Some(_) => Ok(()),
    }
}

fn look(dir: &OwnedFd, name: &OsStr) -> io::Result<Option<Stat>> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Directory `name` of `dir`; `None` where there is no such directory.
fn open_dir(dir: &OwnedFd, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    match openat2(dir, name, DIRECTORY, Mode::empty(), WALK) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Removes `name` in `dir`, whatever that is.
fn clear(dir: &OwnedFd, name: &str) -> io::Result<()> {
    home::remove_tree(dir.as_fd(), Path::new(name), &mut || ()).or_else(|_| gone(dir, name))
}

fn gone(dir: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_dir()
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

fn is_opaque(dir: &OwnedFd) -> io::Result<bool> {
    let mut value = [0; 1];
    match fgetxattr(dir, OPAQUE, &mut value) {
        Ok(_) => Ok(value == *b"y"),
        Err(Errno::NODATA) => Ok(false),
        // more than one byte
        Err(Errno::RANGE) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Whether `dir` has attributes of its own.
fn has_attributes(dir: &OwnedFd) -> io::Result<bool> {
    let mut names = vec![0; 65536];
    let length = flistxattr(dir, &mut names[..])?;
    Ok(names[..length].split(|byte| *byte == 0).any(|name| !name.is_empty() && !name.starts_with(MARKS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_below_the_project() {
        let project = Path::new("/srv/p");
        for (path, below_it) in [("src/a", "src/a"), ("./-", "-"), ("/srv/p/x/", "x"), (".", ""), ("/srv/p", "")] {
            assert_eq!(below(path.as_ref(), project).unwrap(), Path::new(below_it), "{path}");
        }
        for path in ["..", "a/../b", "/srv/q", "/"] {
            assert!(below(path.as_ref(), project).is_err(), "{path}");
        }
    }
}
