//! The project: which directories may be one, whose it is, and how its files show inside.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use lbx::caller::{Account, Caller, accounts};
use lbx::path::JsonPath;
use lbx::record::{self, Owner, Ownership, Project, Worktree};
use lbx::sys::{self, Cloned, MountChange};
use lbx::user::as_user;
use lbx::{Failure, Name, Result};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::accounts::Ids;

/// Directories that are the system's: no project, and nothing to bind.
const SYSTEM: [&str; 20] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/media", "/mnt", "/opt", "/proc",
    "/root", "/run", "/sbin", "/srv", "/sys", "/usr", "/var",
];
/// Directories that environments have of their own: a project may lie below them.
const PRIVATE: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];
/// As much as a file that points elsewhere may hold.
const SMALL: u64 = 64 * 1024;
/// Nothing below these is a project either.
const CLOSED: [&str; 17] = [
    "/boot",
    "/dev",
    "/etc",
    "/proc",
    "/sys",
    "/usr/bin",
    "/usr/include",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/libx32",
    "/usr/sbin",
    "/usr/share",
    "/usr/local/libexec/llima-box",
    "/run/llima-box",
    "/run/llima-box-agents",
];
/// What these tools keep: neither it nor what holds it.
const STATE: [&str; 3] = ["/var/lib/llima-box", "/run/llima-box", lbx::layer::FROZEN_HOMES];

/// Whether `path`, canonical, may be seen inside at all; `Err` says why not.
pub(crate) fn refuse_system(path: &Path, passwd: &str) -> Result<()> {
    let refuse = |why: &str| Err(Failure::new(format!("path is refused: {}: {why}", path.display())).into());
    if SYSTEM.iter().any(|dir| path == Path::new(dir)) {
        return refuse("it is a directory of the system");
    }
    if PRIVATE.iter().any(|dir| path == Path::new(dir)) {
        return refuse("every environment has one of its own");
    }
    if CLOSED.iter().any(|dir| path.starts_with(dir)) {
        return refuse("it lies in a directory of the system");
    }
    if STATE.iter().any(|dir| path.starts_with(dir) || Path::new(dir).starts_with(path)) {
        return refuse("it holds llima-box's own state");
    }
    if let Some(home) = path.strip_prefix("/home").ok().and_then(|path| path.components().next())
        && let Some(name) = Name::parse(home.as_os_str())
        && record::dir(&name).exists()
    {
        return refuse(&format!("it is the home of environment '{name}'"));
    }
    if let Some(Account { name, .. }) = accounts(passwd).find(|account| account.home == path) {
        return refuse(&format!("it is the home of account '{name}'"));
    }
    Ok(())
}

/// Refuses what lies in another account's home; accounts of services have theirs anywhere, and
/// do not count.
pub(crate) fn refuse_foreign_home(path: &Path, caller: Caller, passwd: &str) -> Result<()> {
    let foreign = accounts(passwd).find(|account| {
        let person = account.uid == 0 || account.uid >= 1000;
        person
            && account.uid != caller.uid
            && account.home.components().filter(|c| matches!(c, Component::Normal(_))).count() > 0
            && account.home.is_dir()
            && path.starts_with(account.home)
    });
    match foreign {
        None => Ok(()),
        Some(account) => Err(Failure::new(format!(
            "path is refused: {}: it lies in the home of account '{}'",
            path.display(),
            account.name
        ))
        .into()),
    }
}

/// A path, open: what is done later is done to what was looked at now.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) fd: OwnedFd,
    pub(crate) owner: Owner,
    pub(crate) is_dir: bool,
    pub(crate) is_socket: bool,
    pub(crate) mode: u32,
    pub(crate) inode: u64,
}

/// Opens `path`, which is canonical, following no link.
pub(crate) fn open(path: &Path) -> Result<Opened> {
    linger();
    let mut flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if cfg!(feature = "broken-links") {
        (flags, resolve) = (flags - OFlags::NOFOLLOW, ResolveFlags::empty());
    }
    let fd = match openat2(CWD, path, flags, Mode::empty(), resolve) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
            return Err(Failure::new(format!("path does not exist: {}", path.display())).into());
        }
        Err(rustix::io::Errno::LOOP) => {
            return Err(Failure::new(format!("path has become a symbolic link: {}", path.display())).into());
        }
        fd => fd.with_context(|| format!("cannot open path: {}", path.display()))?,
    };
    let stat = fstat(&fd).with_context(|| format!("cannot look at path: {}", path.display()))?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    Ok(Opened {
        fd,
        owner: Owner { uid: stat.st_uid, gid: stat.st_gid, device: stat.st_dev },
        is_dir: kind.is_dir(),
        is_socket: kind.is_socket(),
        mode: stat.st_mode,
        inode: stat.st_ino,
    })
}

/// Between a look and a use, for the tests: who swaps what lies there has all the time.
pub(crate) fn linger() {
    if cfg!(feature = "broken-pace") {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Fails when `path` is not what was recorded: another owner means that somebody else put it there.
pub(crate) fn open_recorded(path: &Path, recorded: Owner) -> Result<Opened> {
    let opened = open(path)?;
    if !opened.is_dir {
        return Err(Failure::new(format!("path is not a directory: {}", path.display())).into());
    }
    if (opened.owner.uid, opened.owner.gid) != (recorded.uid, recorded.gid) {
        return Err(Failure::new(format!(
            "owner of '{}' has changed: recorded {}:{}, now {}:{}",
            path.display(),
            recorded.uid,
            recorded.gid,
            opened.owner.uid,
            opened.owner.gid
        ))
        .hint("lbx-env repair takes the new owner")
        .into());
    }
    Ok(opened)
}

/// Runs `look` as `caller` and returns the bytes that it made: what the caller may not see, it does
/// not see either.
pub(crate) fn as_caller(caller: Caller, look: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    if caller.is_root() || caller.uid == rustix::process::geteuid().as_raw() {
        return look();
    }
    let groups = caller.groups()?;
    as_user(caller.uid, caller.gid, &groups, look)
}

/// What a caller must be able to do with a path before it is shown inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// Read it.
    Read,
    /// Write it: nobody gets by an environment what is not theirs.
    Write,
    /// Write it, and own it: inside, its owner's files are the agent's, and another person's are not
    /// the caller's to give. Root may give anybody's.
    Own,
    /// Read it, and own it: nothing in it is written.
    OwnToRead,
}

impl Right {
    /// What a project must be to its caller that is shown in this way.
    pub(crate) fn to_show(project: Project) -> Right {
        if project == Project::Ro { Right::OwnToRead } else { Right::Own }
    }
}

/// Opens `path`, which is canonical, where `caller` has the `right` to it: the very thing that they
/// reach there themselves.
pub(crate) fn open_for(caller: Caller, path: &Path, right: Right) -> Result<Opened> {
    let opened = if cfg!(feature = "broken-links") { None } else { Some(open(path)?) };
    let seen = as_caller(caller, || {
        let own = open(path)?;
        let (access, word) = match right {
            Right::Read | Right::OwnToRead => (libc::R_OK, "read"),
            Right::Write | Right::Own => (libc::W_OK, "write"),
        };
        let access = if own.is_dir { access | libc::X_OK } else { access };
        sys::require_access(own.fd.as_fd(), access)
            .with_context(|| format!("uid {} may not {word} path: {}", caller.uid, path.display()))?;
        // as the caller sees it: there are file systems on which everybody is the owner
        if matches!(right, Right::Own | Right::OwnToRead) && !caller.is_root() && own.owner.uid != caller.uid {
            let message = format!("path belongs to uid {}, not to you: {}", own.owner.uid, path.display());
            return Err(Failure::new(message).into());
        }
        Ok(format!("{} {}", own.owner.device, own.inode).into_bytes())
    })?;
    // the order that loses: what was looked at is not what is taken
    let Some(opened) = opened else { return open(path) };
    if seen != format!("{} {}", opened.owner.device, opened.inode).into_bytes() {
        return Err(Failure::new(format!("path changed while it was looked at: {}", path.display())).into());
    }
    Ok(opened)
}

/// Fails when even the owner could not write `project`, as it stands now.
pub(crate) fn require_owner_can_write(project: &Opened, path: &Path) -> Result<()> {
    let why = if project.mode & 0o300 != 0o300 {
        format!("its mode is {:04o}", project.mode & 0o7777)
    } else if rustix::fs::fstatvfs(&project.fd)?.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        "its file system is read-only".to_owned()
    } else {
        return Ok(());
    };
    Err(Failure::new(format!("project would not be writable inside: {}: {why}", path.display())).into())
}

/// A user namespace that maps `owner` to `ids` and every other group to itself.
///
/// Other users' files are nobody's inside, and cannot be written; other groups' files are the
/// owner's own in a group that they share with somebody, and would else be closed.
pub(crate) fn id_map(owner: Ids, ids: Ids) -> Result<OwnedFd> {
    let (wait, go) = io::pipe()?;
    match sys::clone(libc::CLONE_NEWUSER, None)
        .context("cannot make a user namespace (sysctl user.max_user_namespaces limits their number)")?
    {
        Cloned::Child => {
            drop(go);
            // ends with its parent, however that ends
            let _ = (&wait).read(&mut [0]);
            sys::exit_now(0)
        }
        Cloned::Parent(pid, _pidfd) => {
            drop(wait);
            let map = || -> io::Result<OwnedFd> {
                fs::write(format!("/proc/{pid}/uid_map"), format!("{} {} 1\n", owner.uid, ids.uid))?;
                fs::write(format!("/proc/{pid}/gid_map"), gid_map(owner.gid, ids.gid))?;
                Ok(fs::File::open(format!("/proc/{pid}/ns/user"))?.into())
            };
            let namespace = map();
            drop(go);
            nix::sys::wait::waitpid(pid, None).context("cannot wait for a process")?;
            namespace.context("cannot map user IDs")
        }
    }
}

/// `owner` to `env`, every other gid to itself: extents that overlap on neither side.
fn gid_map(owner: u32, env: u32) -> String {
    let mut map = format!("{owner} {env} 1\n");
    let mut from = 0;
    let mut holes = [owner, env];
    holes.sort_unstable();
    for hole in holes {
        if hole > from {
            map.push_str(&format!("{from} {from} {}\n", hole - from));
        }
        from = from.max(hole + 1);
    }
    map.push_str(&format!("{from} {from} {}\n", u32::MAX - from));
    map
}

/// A copy of the mount under `source` that nobody sees yet, with `map` laid over it; with the
/// mounts below it when `recursive`.
///
/// # Errors
/// EINVAL where a file system carries no id mapping.
pub(crate) fn mapped_copy(source: BorrowedFd<'_>, map: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let copy = copy(source, recursive)?;
    sys::mount_setattr(copy.as_fd(), MountChange { userns: Some(map), recursive, ..MountChange::default() })?;
    Ok(copy)
}

/// A copy of the mount under `source` that nobody sees yet.
pub(crate) fn copy(source: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let copy = open_tree(source, "", flags)?;
    // a copy is its original's peer: on a machine whose mounts are shared, as systemd makes them, what
    // is mounted below it would show on the machine as well
    sys::mount_setattr(copy.as_fd(), MountChange { private: true, recursive, ..MountChange::default() })?;
    Ok(copy)
}

/// Whose the files that `ids` makes in `project` would be, by trying (`llima-box(7)`, OWNERSHIP).
/// `None`: neither an id-mapped mount nor the file system helps, the owner's uid must be shared.
pub(crate) fn observe_ownership(project: &Opened, ids: Ids) -> Result<Option<Ownership>> {
    let map = id_map(Ids { uid: project.owner.uid, gid: project.owner.gid }, ids)?;
    if mapped_copy(project.fd.as_fd(), map.as_fd(), false).is_ok() {
        return Ok(Some(Ownership::Idmap));
    }
    // by the descriptor: the path may lead through what this user may not search
    let may_write = as_user(ids.uid, ids.gid, &[], || {
        sys::require_access(project.fd.as_fd(), libc::W_OK | libc::X_OK)?;
        Ok(Vec::new())
    });
    Ok(may_write.is_ok().then_some(Ownership::Native))
}

/// The git directories of the worktree at `project`, looked for as `caller`. `None`: its `.git` is no
/// file, or it is not a worktree's, or the common directory does not know this worktree.
pub(crate) fn worktree(caller: Caller, project: &Path) -> Result<Option<Worktree>> {
    let found = as_caller(caller, || {
        let Some((common, own)) = git_directories(project) else { return Ok(Vec::new()) };
        // git makes it at the first commit; inside, the common directory is closed for that
        match fs::create_dir(common.join("logs")) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Ok(Vec::new()),
            _ => {}
        }
        Ok([common.as_os_str().as_bytes(), own.as_os_str().as_bytes()].join(&0))
    })?;
    let mut paths = found.split(|byte| *byte == 0).map(|path| JsonPath(PathBuf::from(OsStr::from_bytes(path))));
    Ok(match (paths.next(), paths.next()) {
        (Some(common), Some(own)) => Some(Worktree { common, own }),
        _ => None,
    })
}

/// A small regular file; nothing else that may lie there in its place keeps anybody waiting.
fn read_small(path: &Path) -> Option<Vec<u8>> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(SMALL).read_to_end(&mut text).ok()?;
    ((text.len() as u64) < SMALL).then_some(text)
}

/// gitrepository-layout(5): `.git` holds `gitdir: DIR`, DIR/commondir leads to the common directory,
/// and DIR/gitdir leads back. The common directory, and DIR below it.
fn git_directories(project: &Path) -> Option<(PathBuf, PathBuf)> {
    let line = |file: &Path| -> Option<PathBuf> {
        let text = read_small(file)?;
        let text = text.strip_suffix(b"\n").unwrap_or(&text);
        Some(PathBuf::from(OsStr::from_bytes(text.strip_prefix(b"gitdir: ").unwrap_or(text))))
    };
    let dot_git = project.join(".git");
    if !fs::symlink_metadata(&dot_git).ok()?.is_file() {
        return None;
    }
    let git_dir = fs::canonicalize(project.join(line(&dot_git)?)).ok()?;
    let common = fs::canonicalize(git_dir.join(line(&git_dir.join("commondir"))?)).ok()?;
    let back = fs::canonicalize(git_dir.join(line(&git_dir.join("gitdir"))?)).ok()?;
    let own = git_dir.strip_prefix(&common).ok()?.to_owned();
    let knows = back == dot_git && own.parent() == Some(Path::new("worktrees"));
    // a planted file must not make what lies around the project a part of it
    let apart = !project.starts_with(&common) && !git_dir.starts_with(project);
    let is_git = common.join("config").is_file() && common.join("HEAD").is_file() && common.join("objects").is_dir();
    (knows && apart && is_git).then_some((common, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/var/www:/x\nalice:x:1000:1000::/home/alice:/bin/sh\nbin:x:2:2::/bin:/x\n";

    #[test]
    fn directories_of_the_system_are_no_projects() {
        for path in [
            "/",
            "/etc",
            "/usr",
            "/home",
            "/root",
            "/proc/1",
            "/sys/fs",
            "/dev/shm",
            "/tmp",
            "/run",
            "/boot/x",
            "/etc/ssh",
            "/home/alice",
            "/var/www",
            "/var/lib",
            "/var/lib/llima-box/envs/x",
            "/run/llima-box",
            "/home/.llima-box/work",
            "/var",
        ] {
            assert!(refuse_system(Path::new(path), PASSWD).is_err(), "{path}");
        }
        for path in
            ["/home/alice/p", "/data/p", "/tmp/p", "/run/media/alice/usb", "/usr/src/p", "/root/p", "/var/www/site"]
        {
            refuse_system(Path::new(path), PASSWD).unwrap();
        }
    }

    #[test]
    fn what_lies_in_anothers_home_is_foreign() {
        let root = Caller { uid: 0, gid: 0 };
        let alice = Caller { uid: 1000, gid: 1000 };
        assert!(refuse_foreign_home(Path::new("/root/.cargo"), alice, PASSWD).is_err());
        refuse_foreign_home(Path::new("/root/.cargo"), root, PASSWD).unwrap();
        refuse_foreign_home(Path::new("/var/www/x"), alice, PASSWD).unwrap();
    }

    #[test]
    fn a_gid_map_names_every_gid_but_two_once() {
        for (owner, env) in [(1000, 65536), (65536, 1000), (0, 65536), (65535, 65536), (65537, 65536)] {
            let extents: Vec<Vec<u64>> =
                gid_map(owner, env).lines().map(|l| l.split(' ').map(|n| n.parse().unwrap()).collect()).collect();
            for side in [0, 1] {
                let mut seen: Vec<(u64, u64)> = extents.iter().map(|e| (e[side], e[side] + e[2])).collect();
                seen.sort_unstable();
                assert!(seen.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{owner} {env} {seen:?}");
            }
            assert_eq!(extents.iter().map(|e| e[2]).sum::<u64>(), u64::from(u32::MAX) - 1, "{owner} {env}");
        }
    }

    #[test]
    fn a_worktree_is_believed_when_the_common_directory_knows_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (work, git) = (root.join("work"), root.join("main/.git"));
        fs::create_dir_all(git.join("worktrees/work")).unwrap();
        fs::create_dir(&work).unwrap();
        fs::create_dir(git.join("objects")).unwrap();
        fs::write(git.join("config"), "").unwrap();
        fs::write(git.join("HEAD"), "").unwrap();
        fs::write(work.join(".git"), format!("gitdir: {}\n", git.join("worktrees/work").display())).unwrap();
        fs::write(git.join("worktrees/work/commondir"), "../..\n").unwrap();
        fs::write(git.join("worktrees/work/gitdir"), format!("{}\n", work.join(".git").display())).unwrap();
        assert_eq!(git_directories(&work), Some((git.clone(), "worktrees/work".into())));
        // somebody else's worktree, pointed at by a planted file
        let planted = root.join("planted");
        fs::create_dir(&planted).unwrap();
        fs::copy(work.join(".git"), planted.join(".git")).unwrap();
        assert_eq!(git_directories(&planted), None);
        // an ordinary repository
        assert_eq!(git_directories(&root.join("main")), None);
    }
}
