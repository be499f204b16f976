//! Discards what frozen layers have changed: they stay as they are, for others need them. So the upper
//! layer is made to show what the project has at this time: a copy of it, or a whiteout.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use lbx::layer::Frozen;
use lbx::{Failure, Result, data};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, XattrFlags, chmodat, chownat, fchmod, fchown, fsetxattr, fstat,
    futimens, mkdirat, mknodat, openat, openat2, readlinkat, renameat_with, symlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::super::merge::times;
use super::super::{frozen, home};
use super::{
    ASIDE, DIRECTORY, Layers, OPAQUE, WALK, WHOLE, clear, is_dir, is_opaque, is_whiteout, look, mode, open_dir,
};

/// As deep as a directory is copied: each level has two descriptors open.
const DEEPEST: u32 = 400;

/// One directory in all layers.
struct Level {
    name: OsString,
    /// `None`: it is not there yet.
    upper: Option<OwnedFd>,
    /// In the frozen layers that show below that, by their places in the record, the newest first.
    frozen: Vec<(usize, OwnedFd)>,
    /// The project's, whether it shows below them or not.
    project: Option<OwnedFd>,
    shows: bool,
}

/// What the frozen layers of one directory have of a name.
struct Frozens {
    dirs: Vec<(usize, OwnedFd)>,
    /// It is something else than a directory.
    is_other: bool,
    /// What the project has shows below.
    through: bool,
}

impl Frozens {
    fn of(level: &Level, name: &OsStr) -> io::Result<Frozens> {
        let mut found = Frozens { dirs: Vec::new(), is_other: false, through: level.shows };
        for (place, dir) in &level.frozen {
            match look(dir, name)? {
                None => continue,
                Some(stat) if is_dir(&stat) => {
                    let dir = openat2(dir, name, DIRECTORY, Mode::empty(), WALK)?;
                    let ends = is_opaque(&dir)?;
                    found.dirs.push((*place, dir));
                    if !ends {
                        continue;
                    }
                }
                Some(stat) => found.is_other = found.dirs.is_empty() && !is_whiteout(&stat),
            }
            found.through = false;
            break;
        }
        Ok(found)
    }

    fn is_nothing(&self) -> bool {
        self.dirs.is_empty() && !self.is_other
    }
}

impl Layers<'_> {
    /// Whether frozen layers have anything of the first name of `path`.
    pub(super) fn is_frozen(&self, path: &Path) -> io::Result<bool> {
        let Some(first) = path.iter().next() else { return Ok(false) };
        for layer in &self.frozen {
            if look(layer, first)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes `path` read as what the project has.
    pub(super) fn present(&self, path: &Path, progress: &mut dyn FnMut()) -> Result<()> {
        let names: Vec<&OsStr> = path.iter().collect();
        let Some((target, above)) = names.split_last() else { return Ok(()) };
        let mut frozen = Vec::new();
        for layer in &self.frozen {
            frozen.push((frozen.len(), layer.try_clone()?));
        }
        let (upper, project) = (Some(self.upper.try_clone()?), Some(self.lower.try_clone()?));
        let mut levels = vec![Level { name: OsString::new(), upper, frozen, project, shows: true }];
        for name in above {
            let Some(level) = levels.last() else { return Ok(()) };
            match self.enter(level, name)? {
                Some(level) => levels.push(level),
                // the project's, or nothing as in the project
                None => return Ok(()),
            }
        }
        let Some(level) = levels.last() else { return Ok(()) };
        let theirs = match &level.project {
            Some(project) => look(project, target)?,
            None => None,
        };
        let below = Frozens::of(level, target)?;
        if below.is_nothing() && (below.through || theirs.is_none()) {
            return match &level.upper {
                Some(upper) => Ok(self.drop_from(upper, target, progress)?),
                None => Ok(()),
            };
        }
        clear(&self.root, ASIDE)?;
        match (&level.project, theirs) {
            (Some(project), Some(_)) => {
                self.copy(project, target, &self.root, OsStr::new(ASIDE), 0, progress)?;
                if let Some(dir) = open_dir(&self.root, OsStr::new(ASIDE))? {
                    fsetxattr(&dir, OPAQUE, b"y", XattrFlags::empty())?;
                }
            }
            _ => mknodat(&self.root, ASIDE, FileType::CharacterDevice, Mode::empty(), 0)?,
        }
        // after that, nothing is in its way
        self.drop_from(&self.root, OsStr::new(WHOLE), progress)?;
        renameat_with(&self.root, ASIDE, &self.root, WHOLE, RenameFlags::NOREPLACE)?;
        let upper = self.make_way(&mut levels)?;
        self.place(WHOLE, &upper, target, progress)
    }

    /// Directory `name` of `level`; `None`: nothing of it was changed, or nobody has it. One that has no
    /// upper directory is made when it is known to be needed.
    fn enter(&self, level: &Level, name: &OsStr) -> Result<Option<Level>> {
        let project = match &level.project {
            Some(project) => open_dir(project, name)?,
            None => None,
        };
        let below = Frozens::of(level, name)?;
        let own = match &level.upper {
            Some(upper) => look(upper, name)?.map(|stat| (upper, stat)),
            None => None,
        };
        let name = name.to_owned();
        Ok(Some(match own {
            Some((upper, stat)) if is_dir(&stat) => {
                let upper = openat2(upper, &name, DIRECTORY, Mode::empty(), WALK)?;
                let ends = is_opaque(&upper)?;
                let shows = !ends && below.through && project.is_some();
                Level { name, upper: Some(upper), frozen: if ends { Vec::new() } else { below.dirs }, project, shows }
            }
            Some((_, stat)) if !is_whiteout(&stat) => return Err(no_directory(&name).into()),
            None if below.is_other => return Err(no_directory(&name).into()),
            None if !below.dirs.is_empty() => {
                let shows = below.through && project.is_some();
                Level { name, upper: None, frozen: below.dirs, project, shows }
            }
            None if below.through => return Ok(None),
            // it is hidden
            _ if project.is_none() => return Ok(None),
            _ => Level { name, upper: None, frozen: Vec::new(), project, shows: false },
        }))
    }

    /// Makes the directories of the upper layer that are missing on the way; the last one.
    fn make_way(&self, levels: &mut [Level]) -> Result<OwnedFd> {
        let mut above = self.upper.try_clone()?;
        for level in levels.iter_mut().skip(1) {
            if level.upper.is_none() {
                clear(&self.root, ASIDE)?;
                mkdirat(&self.root, ASIDE, Mode::RWXU)?;
                let dir = openat(&self.root, ASIDE, DIRECTORY, Mode::empty())?;
                match (level.frozen.first(), &level.project) {
                    (Some((place, like)), _) => {
                        let stat = fstat(like)?;
                        self.dress(&dir, like, &stat, self.ids_of(*place, &stat))?;
                    }
                    (None, Some(like)) => {
                        let stat = fstat(like)?;
                        self.dress(&dir, like, &stat, self.shown(&stat))?;
                        fsetxattr(&dir, OPAQUE, b"y", XattrFlags::empty())?;
                    }
                    (None, None) => {}
                }
                self.place(ASIDE, &above, &level.name, &mut || ())?;
                level.upper = Some(openat2(&above, &level.name, DIRECTORY, Mode::empty(), WALK)?);
            }
            if let Some(upper) = &level.upper {
                above = upper.try_clone()?;
            }
        }
        Ok(above)
    }

    /// Whose in the upper layer is what belongs to these in a frozen one.
    fn ids_of(&self, place: usize, stat: &Stat) -> (u32, u32) {
        let own = frozen::project_ids(self.record);
        match self.record.layers.project.get(place) {
            Some(Frozen { uid, gid, .. }) => (
                if stat.st_uid == *uid { own.uid } else { stat.st_uid },
                if stat.st_gid == *gid { own.gid } else { stat.st_gid },
            ),
            None => (stat.st_uid, stat.st_gid),
        }
    }

    /// Puts what lies aside as `aside` at `name` of the directory `upper`; what was there goes.
    fn place(&self, aside: &str, upper: &OwnedFd, name: &OsStr, progress: &mut dyn FnMut()) -> Result<()> {
        match renameat_with(&self.root, aside, upper, name, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {
                renameat_with(&self.root, aside, upper, name, RenameFlags::EXCHANGE)?;
                Ok(self.drop_from(&self.root, OsStr::new(aside), progress)?)
            }
            placed => Ok(placed?),
        }
    }

    /// Copies what the project has as `name` in its directory `from`, all of it, as it shows inside.
    fn copy(
        &self,
        from: &OwnedFd,
        name: &OsStr,
        to: &OwnedFd,
        as_name: &OsStr,
        depth: u32,
        progress: &mut dyn FnMut(),
    ) -> Result<()> {
        progress();
        let Some(stat) = look(from, name)? else { return Ok(()) };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                if depth > DEEPEST {
                    return Err(Failure::new("its directories are too deep in each other to be copied").into());
                }
                let from = openat2(from, name, DIRECTORY, Mode::empty(), WALK)?;
                mkdirat(to, as_name, Mode::RWXU)?;
                let to = openat2(to, as_name, DIRECTORY, Mode::empty(), WALK)?;
                for entry in home::entries(from.as_fd(), usize::MAX)? {
                    self.copy(&from, &entry, &to, &entry, depth + 1, progress)?;
                }
                let stat = fstat(&from)?;
                self.dress(&to, &from, &stat, self.shown(&stat))
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                let from = openat2(from, name, flags, Mode::empty(), WALK)?;
                let stat = fstat(&from)?;
                if !FileType::from_raw_mode(stat.st_mode).is_file() {
                    return Err(Failure::new("the project is changed meanwhile").hint("once more").into());
                }
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let own = openat(to, as_name, flags, Mode::RUSR | Mode::WUSR)?;
                let (from, own) = (File::from(from), File::from(own));
                data::copy(&from, &own, stat.st_size.try_into().unwrap_or(0))?;
                self.dress(&own, &from, &stat, self.shown(&stat))
            }
            FileType::Symlink => {
                symlinkat(readlinkat(from, name, Vec::new())?, to, as_name)?;
                self.give(to, as_name, &stat)
            }
            kind => {
                mknodat(to, as_name, kind, mode(&stat), stat.st_rdev)?;
                self.give(to, as_name, &stat)?;
                Ok(chmodat(to, as_name, mode(&stat), AtFlags::empty())?)
            }
        }
    }

    /// Gives `made` owner, mode, attributes and times of `like`, whose owner shows as `ids`.
    #[allow(clippy::unused_self)]
    fn dress(&self, made: &impl AsFd, like: &impl AsFd, stat: &Stat, ids: (u32, u32)) -> Result<()> {
        frozen::copy_attributes(like.as_fd(), made.as_fd())?;
        fchown(made, Some(Uid::from_raw(ids.0)), Some(Gid::from_raw(ids.1)))?;
        // a change of owner takes set-id bits away
        fchmod(made, mode(stat))?;
        Ok(futimens(made, &times(stat))?)
    }

    /// Gives what can be opened by nobody its owner and its times.
    fn give(&self, dir: &OwnedFd, name: &OsStr, stat: &Stat) -> Result<()> {
        let (uid, gid) = self.shown(stat);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        chownat(dir, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)?;
        Ok(utimensat(dir, name, &times(stat), flags)?)
    }
}

fn no_directory(name: &OsStr) -> Failure {
    Failure::new(format!("'{}' is no directory inside", name.display()))
        .hint("discard that, and with it what it covers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lbx::record::{Options, Origin, Owner, Ownership, Record};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    /// The layers of an environment 65536 over a project of uid 1000, in one directory; of `f`, 65537 wrote.
    struct World {
        dir: tempfile::TempDir,
        record: Record,
    }

    impl World {
        fn new() -> World {
            let dir = tempfile::tempdir().unwrap();
            for part in ["upper", "f", "g", "project"] {
                fs::create_dir(dir.path().join(part)).unwrap();
            }
            let name = lbx::Name::parse("app-1a2b".as_ref()).unwrap();
            let owner = Owner { uid: 1000, gid: 1000, device: 0 };
            let path = dir.path().join("project");
            let origin = Origin { name, path, owner, ownership: Ownership::Idmap, creator: 1000 };
            let mut record = Record::new(origin, 65536, 65536, "/bin/sh".into(), Options::default());
            record.layers.project = ["f", "g"].map(|id| Frozen { id: id.to_owned(), uid: 65537, gid: 65537 }).into();
            World { dir, record }
        }

        fn at(&self, path: &str) -> std::path::PathBuf {
            self.dir.path().join(path)
        }

        fn file(&self, path: &str, text: &str, owner: u32) {
            fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
            fs::write(self.at(path), text).unwrap();
            chown(self.at(path), Some(owner), Some(owner)).unwrap();
        }

        fn whiteout(&self, path: &str) {
            fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
            let (kind, none) = (FileType::CharacterDevice, Mode::empty());
            mknodat(rustix::fs::CWD, self.at(path), kind, none, 0).unwrap();
        }

        fn discard(&self, path: &str) -> Result<()> {
            let open = |path: &str| openat(rustix::fs::CWD, self.at(path), DIRECTORY, Mode::empty()).unwrap();
            let layers = Layers {
                record: &self.record,
                root: open("."),
                upper: open("upper"),
                frozen: vec![open("f"), open("g")],
                lower: open("project"),
            };
            let done = layers.discard(Path::new(path), &mut || ());
            for aside in [ASIDE, WHOLE] {
                assert!(!self.at(aside).exists());
            }
            done
        }

        /// What the upper layer has: `-` for a whiteout, `!` for an opaque directory.
        fn upper(&self, path: &str) -> String {
            let path = self.at("upper").join(path);
            let Ok(meta) = fs::symlink_metadata(&path) else { return String::new() };
            if meta.is_dir() {
                let dir = openat(rustix::fs::CWD, &path, DIRECTORY, Mode::empty()).unwrap();
                let opaque = if is_opaque(&dir).unwrap() { "!" } else { "" };
                return format!("{opaque}{:o} {}", meta.mode() & 0o7777, meta.uid());
            }
            match fs::read_link(&path) {
                Ok(target) => return format!("@{}", target.display()),
                Err(_) if meta.is_file() => {}
                Err(_) => return "-".to_owned(),
            }
            format!("{} {}", fs::read_to_string(&path).unwrap(), meta.uid())
        }
    }

    #[test]
    fn what_is_frozen_is_covered_by_what_the_project_has() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let world = World::new();
        for file in ["edited", "gone", "dir/x", "dir/y", "dropped/x", "hidden/a/x", "hidden/b", "deep/a/b", "plain"] {
            world.file(&format!("project/{file}"), "old", 1000);
        }
        world.file("project/foreign", "old", 0);
        symlink("edited", world.at("project/link")).unwrap();
        for file in ["edited", "new", "dir/x", "dir/n", "foreign", "link", "deep/a/n"] {
            world.file(&format!("f/{file}"), "new", 65537);
        }
        for dir in ["f/dir", "f/deep", "f/deep/a"] {
            fs::set_permissions(world.at(dir), fs::Permissions::from_mode(0o700)).unwrap();
            chown(world.at(dir), Some(65537), Some(65537)).unwrap();
        }
        world.whiteout("f/gone");
        world.whiteout("f/dropped");
        world.whiteout("g/hidden");
        world.file("g/edited", "older", 65537);
        world.file("upper/edited", "newer", 65536);
        world.file("upper/plain", "newer", 65536);
        for path in ["edited", "gone", "new", "foreign", "link", "plain", "nothing"] {
            world.discard(path).unwrap();
        }
        assert_eq!(world.upper("edited"), "old 65536");
        assert_eq!(world.upper("gone"), "old 65536");
        assert_eq!(world.upper("new"), "-");
        assert_eq!(world.upper("foreign"), "old 0", "another's stays theirs");
        assert_eq!(world.upper("link"), "@edited");
        assert_eq!((world.upper("plain"), world.upper("nothing")), (String::new(), String::new()));
        // a directory that is there: as it was frozen, and only what is named is another
        for path in ["dir/n", "dir/y", "deep/a/n", "deep/a/b"] {
            world.discard(path).unwrap();
        }
        assert_eq!((world.upper("dir"), world.upper("dir/n")), ("700 65536".to_owned(), "-".to_owned()));
        assert_eq!((world.upper("dir/y"), world.upper("dir/x")), (String::new(), String::new()));
        assert_eq!((world.upper("deep/a"), world.upper("deep/a/n")), ("700 65536".to_owned(), "-".to_owned()));
        assert_eq!(world.upper("deep/a/b"), "");
        // as a whole
        world.discard("dir").unwrap();
        assert_eq!(world.upper("dir"), "!755 0");
        assert_eq!((world.upper("dir/x"), world.upper("dir/n")), ("old 65536".to_owned(), String::new()));
        // one of what was hidden with its directory, which hides the rest still
        for path in ["hidden/a/x", "dropped", "dropped/x", "hidden/none"] {
            world.discard(path).unwrap();
        }
        assert_eq!((world.upper("hidden"), world.upper("hidden/b")), ("!755 0".to_owned(), String::new()));
        assert_eq!((world.upper("hidden/a"), world.upper("hidden/a/x")), ("!755 0".to_owned(), "old 65536".to_owned()));
        assert_eq!((world.upper("dropped"), world.upper("dropped/x")), ("!755 0".to_owned(), "old 65536".to_owned()));
        assert!(format!("{:#}", world.discard("link/x").unwrap_err()).contains("no directory inside"));
        // frozen layers are never changed
        assert_eq!(fs::read_to_string(world.at("f/edited")).unwrap(), "new");
    }

    #[test]
    fn links_in_layers_lead_nowhere() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let world = World::new();
        world.file("outside/x", "precious", 0);
        world.file("project/d/x", "old", 1000);
        world.file("f/d/x", "new", 65537);
        for link in ["upper/d", "f/e", "upper/g"] {
            symlink(world.at("outside"), world.at(link)).unwrap();
        }
        world.file("g/g/x", "new", 65537);
        for path in ["d/x", "e/x", "g/x"] {
            assert!(world.discard(path).is_err(), "{path}");
        }
        fs::remove_file(world.at("upper/d")).unwrap();
        fs::remove_dir_all(world.at("project/d")).unwrap();
        symlink(world.at("outside"), world.at("project/d")).unwrap();
        // the project has no such directory: nothing is what it has at that place
        world.discard("d/x").unwrap();
        assert_eq!(world.upper("d/x"), "-");
        world.discard("d").unwrap();
        assert_eq!(world.upper("d"), format!("@{}", world.at("outside").display()));
        assert_eq!(fs::read_to_string(world.at("outside/x")).unwrap(), "precious");
        assert_eq!(fs::read_dir(world.at("outside")).unwrap().count(), 1);
    }
}
