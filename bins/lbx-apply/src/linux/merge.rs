//! Merging a file that both sides have changed, by git: as the person, outside, in their repository.
//!
//! With a project that is copied on write the repository was never the agent's. Still, what is run reads
//! one object and one log and obeys no hook, filter or setting that could start anything.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::Context;
use lbx::caller::Caller;
use lbx::layer::Base;
use lbx::user::as_user;
use lbx::{Result, step};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::Gid;

/// What git holds no version of that both sides began with.
const UNKNOWN: &str = "git does not hold what it was";

/// Whoever runs git.
pub(crate) struct Person {
    pub(crate) caller: Caller,
    pub(crate) groups: Vec<Gid>,
}

/// What the child's answer begins with.
const MERGED: u8 = b'+';
const UNMERGED: [(u8, &str); 3] =
    [(b'b', UNKNOWN), (b'c', "both changed the same lines"), (b'g', "git cannot merge it")];

/// The text of `path` in `project` in which the changes of `ours` and `theirs` are both; `Err`: why there
/// is none. What both began with is what git's HEAD had when the layers began, at `base`.
pub(crate) fn merge(
    person: &Person,
    project: &Path,
    base: Base,
    path: &Path,
    [ours, theirs]: [&[u8]; 2],
) -> Result<std::result::Result<Vec<u8>, &'static str>> {
    let look = || -> Result<Vec<u8>> {
        let Some(old) = version(project, base, path)? else { return Ok(vec![b'b']) };
        three_way(ours, &old, theirs)
    };
    let answer = as_person(person, look)?;
    match answer.split_first() {
        Some((&MERGED, text)) => Ok(Ok(text.to_vec())),
        Some((kind, _)) => {
            let why = UNMERGED.iter().find(|(letter, _)| letter == kind).map_or(UNKNOWN, |(_, why)| *why);
            Ok(Err(why))
        }
        None => Ok(Err(UNKNOWN)),
    }
}

/// git, with nothing of anybody's settings but the repository's own.
fn git() -> Command {
    let mut git = Command::new("git");
    git.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C");
    for (variable, value) in [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_NO_LAZY_FETCH", "1"),
        ("GIT_OPTIONAL_LOCKS", "0"),
        ("GIT_TERMINAL_PROMPT", "0"),
    ] {
        git.env(variable, value);
    }
    git.stdin(Stdio::null());
    git
}

fn output(git: &mut Command) -> Result<Output> {
    step::trace(git);
    git.output().context("cannot run 'git'")
}

/// `path` as HEAD had it at `base`; `None` where git does not know.
fn version(project: &Path, base: Base, path: &Path) -> Result<Option<Vec<u8>>> {
    let in_project = || {
        let mut git = git();
        git.arg("-C").arg(project);
        git.args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]);
        git
    };
    // of the second before: in that of the base itself it may have been committed after it
    let revision = format!("HEAD@{{{}}}", base.sec - 1);
    if base == Base::UNKNOWN {
        return Ok(None);
    }
    let commit = output(in_project().args(["rev-parse", "--verify", "--end-of-options", &revision]))?;
    // a log that does not go back so far is a warning to git
    if !commit.status.success() || !commit.stderr.is_empty() {
        return Ok(None);
    }
    let mut object = std::ffi::OsString::from(String::from_utf8_lossy(&commit.stdout).trim());
    object.push(":./");
    object.push(path);
    let blob = output(in_project().args(["cat-file", "blob"]).arg(object))?;
    Ok(blob.status.success().then_some(blob.stdout))
}

/// git merge-file(1) on three files that are nowhere.
fn three_way(ours: &[u8], old: &[u8], theirs: &[u8]) -> Result<Vec<u8>> {
    let mut files = Vec::new();
    for text in [ours, old, theirs] {
        // open over exec
        let mut file = std::fs::File::from(memfd_create("lbx-apply", MemfdFlags::empty())?);
        file.write_all(text)?;
        files.push(file);
    }
    let mut git = git();
    git.current_dir("/").args(["merge-file", "-p", "-q", "--"]);
    git.args(files.iter().map(|file| format!("/proc/self/fd/{}", file.as_raw_fd())));
    let merged = output(&mut git)?;
    match merged.status.code() {
        Some(0) => Ok([&[MERGED], &merged.stdout[..]].concat()),
        Some(1..=127) => Ok(vec![b'c']),
        _ => Ok(vec![b'g']),
    }
}

/// Runs `look` as the person.
fn as_person(person: &Person, look: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    if person.caller.uid == rustix::process::geteuid().as_raw() {
        return look();
    }
    as_user(person.caller.uid, person.caller.gid, &person.groups, look)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    fn root() -> Person {
        Person { caller: Caller { uid: rustix::process::geteuid().as_raw(), gid: 0 }, groups: Vec::new() }
    }

    fn at(seconds: i64) -> Base {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Base { sec: now.as_secs() as i64 + seconds, nsec: 0 }
    }

    fn run(dir: &Path, words: &[&str]) {
        let mut command = Command::new("git");
        command.arg("-C").arg(dir).args(["-c", "user.name=x", "-c", "user.email=x@x"]).args(words);
        assert!(command.output().unwrap().status.success(), "{words:?}");
    }

    #[test]
    fn what_both_changed_apart_is_merged() {
        let merge = |ours: &str, theirs: &str| three_way(ours.as_bytes(), b"a\nb\nc\nd\n", theirs.as_bytes()).unwrap();
        assert_eq!(merge("A\nb\nc\nd\n", "a\nb\nc\nD\n"), b"+A\nb\nc\nD\n");
        assert_eq!(merge("A\nb\nc\nd\n", "x\nb\nc\nd\n"), b"c");
        assert_eq!(merge("A\nb\nc\nd\n", "a\0b\n"), b"g");
    }

    #[test]
    fn the_version_that_both_began_with_is_the_one_of_then() {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), &["init", "-q"]);
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/f"), "a\nb\nc\nd\n").unwrap();
        run(dir.path(), &["add", "."]);
        run(dir.path(), &["commit", "-qm", "x"]);
        let merged = |project: &Path, base, path: &str| {
            merge(&root(), project, base, Path::new(path), [b"A\nb\nc\nd\n", b"a\nb\nc\nD\n"]).unwrap()
        };
        assert_eq!(merged(dir.path(), at(2), "sub/f").unwrap(), b"A\nb\nc\nD\n");
        assert_eq!(merged(&dir.path().join("sub"), at(2), "f").unwrap(), b"A\nb\nc\nD\n", "below the top as well");
        // what was committed after the base may be the person's own change: it would be undone
        assert_eq!(merged(dir.path(), at(-10), "sub/f"), Err(UNKNOWN));
        assert_eq!(merged(dir.path(), Base::UNKNOWN, "sub/f"), Err(UNKNOWN));
        assert_eq!(merged(dir.path(), at(2), "other"), Err(UNKNOWN));
        let none = tempfile::tempdir().unwrap();
        assert_eq!(merged(none.path(), at(2), "f"), Err(UNKNOWN));
    }
}
