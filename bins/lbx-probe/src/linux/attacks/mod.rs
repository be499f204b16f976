//! The attacks: a table for each part of the machine that is attacked.
//!
//! None does harm where it gets through: files are opened and not written, signals are number 0, calls
//! have arguments that fail behind the check of privilege.

use std::path::{Path, PathBuf};

use libc::c_long;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::inside::Inside;
use super::line::{Answer, name_of};

mod abi;
mod calls;
mod cgroup;
mod credentials;
mod descriptors;
mod devices;
mod files;
mod ipc;
mod kernel;
mod keys;
mod layers;
mod mounts;
mod namespaces;
mod network;
mod processes;
mod set_id;
mod terminals;

pub(crate) use keys::SESSION_KEYRING;

/// An attack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// What it tries, in one line.
    pub(crate) about: &'static str,
    /// The CVE, or the feature of the kernel.
    pub(crate) source: &'static str,
    /// Whether `--nest` gives up what keeps it off.
    pub(crate) nest: bool,
    pub(crate) run: fn(&Inside) -> Answer,
}

/// An attack that `--nest` changes nothing for.
const fn attack(name: &'static str, source: &'static str, about: &'static str, run: fn(&Inside) -> Answer) -> Attack {
    Attack { name, about, source, nest: false, run }
}

impl Attack {
    const fn given_up_by_nest(self) -> Attack {
        Attack { nest: true, ..self }
    }
}

/// The attack on the session keyring is last: it is judged when everything else has ended.
const TABLES: [&[Attack]; 17] = [
    files::ATTACKS,
    mounts::VIEW,
    layers::ATTACKS,
    kernel::ATTACKS,
    devices::ATTACKS,
    credentials::ATTACKS,
    set_id::ATTACKS,
    namespaces::ATTACKS,
    mounts::ATTACKS,
    calls::ATTACKS,
    abi::ATTACKS,
    network::ATTACKS,
    processes::ATTACKS,
    descriptors::ATTACKS,
    terminals::ATTACKS,
    ipc::ATTACKS,
    cgroup::ATTACKS,
];

/// Every attack, in the order in which they are made.
pub(crate) fn all() -> impl Iterator<Item = &'static Attack> {
    TABLES.iter().copied().flatten().chain(keys::ATTACKS)
}

/// Errors by which the kernel refuses. Any other comes from behind the check of privilege.
const REFUSALS: [Errno; 7] = [
    Errno::EPERM,
    Errno::EACCES,
    Errno::ENOSYS,
    Errno::EAFNOSUPPORT,
    Errno::EOPNOTSUPP,
    Errno::EPROTONOSUPPORT,
    Errno::EROFS,
];

type Called = Result<c_long, Errno>;

/// Held when the kernel refused the call; an error of another kind has got past that.
fn refused(tried: &str, called: Called) -> Answer {
    refused_or(&[], tried, called)
}

/// As [`refused`], where `others` tell as well that there is nothing to attack.
fn refused_or(others: &[Errno], tried: &str, called: Called) -> Answer {
    match called {
        Err(e) if REFUSALS.contains(&e) || others.contains(&e) => Answer::held(tried, name_of(e)),
        Err(e) => Answer::through(tried, format!("{}, not refused", name_of(e))),
        Ok(result) => Answer::through(tried, format!("done, {result}")),
    }
}

/// Makes `calls` in turn: the first that is not refused has got through.
fn all_refused<T: AsRef<str>>(tried: &str, calls: impl IntoIterator<Item = (T, Called)>) -> Answer {
    let mut answers = Vec::new();
    for (what, called) in calls {
        let answer = refused(what.as_ref(), called);
        if answer.verdict != super::line::Verdict::Held {
            return Answer {
                answer: format!("{}: {}", what.as_ref(), answer.answer),
                tried: tried.to_owned(),
                ..answer
            };
        }
        answers.push(answer.answer);
    }
    Answer::held(tried, distinct(answers))
}

fn distinct(mut answers: Vec<String>) -> String {
    answers.sort_unstable();
    answers.dedup();
    answers.join(", ")
}

/// Held when nothing is at any of `paths`, be it a link that leads nowhere.
fn absent<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Answer {
    one_by_one("look at", paths, |path| path.symlink_metadata().map(|_| "it is there").map_err(|e| errno(&e)))
}

/// Held when none of `paths` can be opened for writing.
fn not_writable<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Answer {
    one_by_one("open to write", paths, |path| {
        open(path, OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty()).map(|_| "opened")
    })
}

/// Held when none of `paths` can be opened for reading.
fn not_readable<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Answer {
    one_by_one("open", paths, |path| {
        open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty()).map(|_| "opened")
    })
}

fn one_by_one<P: AsRef<Path>>(
    verb: &str,
    paths: impl IntoIterator<Item = P>,
    attack: impl Fn(&Path) -> Result<&'static str, Errno>,
) -> Answer {
    let (mut tried, mut answers) = (verb.to_owned(), Vec::new());
    for path in paths {
        let path = path.as_ref();
        match attack(path) {
            Ok(done) => return Answer::through(format!("{verb} {}", path.display()), done),
            Err(e) => answers.push(name_of(e)),
        }
        tried.push_str(&format!(" {}", path.display()));
    }
    Answer::held(tried, distinct(answers))
}

fn errno(e: &std::io::Error) -> Errno {
    e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// What is in directory `dir`; nothing where it cannot be read.
fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The names in directory `dir`, for those that the kernel or the system chose.
fn names(dir: &Path) -> Vec<String> {
    let name = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    entries(dir).into_iter().filter_map(name).collect()
}

/// Held when directory `dir` has nothing but `known`.
fn only(dir: &str, known: &[&str]) -> Answer {
    let strange: Vec<String> = names(Path::new(dir)).into_iter().filter(|name| !known.contains(&&**name)).collect();
    let tried = format!("list {dir}");
    match strange.first() {
        None => Answer::held(tried, if known.is_empty() { "nothing is there" } else { "nothing else is there" }),
        Some(first) => Answer::through(tried, format!("{} more: {first} …", strange.len())),
    }
}

/// The processes that show in /proc, but for this one.
fn processes() -> Vec<i32> {
    let own = std::process::id().cast_signed();
    names(Path::new("/proc")).iter().filter_map(|name| name.parse().ok()).filter(|pid| *pid != own).collect()
}

/// The value of `key` in /proc/PID/status.
fn status(pid: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Where one comes to from directory `dir` by `..` alone.
fn top_of(dir: &Path) -> Result<(u64, u64), Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut here = open(dir, flags, Mode::empty())?;
    let id = |dir: &std::os::fd::OwnedFd| nix::sys::stat::fstat(dir).map(|stat| (stat.st_dev, stat.st_ino));
    loop {
        let above = nix::fcntl::openat(&here, "..", flags, Mode::empty())?;
        if id(&above)? == id(&here)? {
            return id(&here);
        }
        here = above;
    }
}

/// Held when `..` leads from none of `dirs` to another root than one's own.
fn leads_nowhere(tried: &str, dirs: impl IntoIterator<Item = PathBuf>) -> Answer {
    let own = top_of(Path::new("/"));
    let mut count = 0;
    for dir in dirs {
        match top_of(&dir) {
            Ok(top) if Ok(top) != own => {
                return Answer::through(tried, format!("{} leads to another root", dir.display()));
            }
            _ => count += 1,
        }
    }
    Answer::held(tried, format!("{count} looked at, none leads out"))
}

/// `path` for a system call.
fn c_path(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attack_has_a_name_of_its_own_and_says_what_it_is() {
        let mut names: Vec<&str> = all().map(|attack| attack.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        for Attack { name, about, source, .. } in all() {
            assert!(name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')), "{name}");
            assert!(!about.is_empty() && !source.is_empty() && !about.ends_with('.'), "{name}");
            assert!(!about.contains(['\t', '\n']) && !source.contains(['\t', '\n']), "{name}");
        }
        assert_eq!(all().last().map(|attack| attack.name), Some(SESSION_KEYRING));
    }

    #[test]
    fn a_call_that_fails_otherwise_is_not_refused() {
        use crate::linux::line::Verdict;
        for (called, verdict) in [
            (Err(Errno::EPERM), Verdict::Held),
            (Err(Errno::ENOSYS), Verdict::Held),
            (Err(Errno::EINVAL), Verdict::Through),
            (Err(Errno::EFAULT), Verdict::Through),
            (Ok(0), Verdict::Through),
        ] {
            assert_eq!(refused("call", called).verdict, verdict, "{called:?}");
            assert_eq!(all_refused("calls", [("one", Err(Errno::EPERM)), ("two", called)]).verdict, verdict);
        }
        assert_eq!(refused_or(&[Errno::EINVAL], "call", Err(Errno::EINVAL)).verdict, Verdict::Held);
    }
}
