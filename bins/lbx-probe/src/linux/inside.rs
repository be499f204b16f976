//! The attacker: this program again, inside the environment, from a file that is no other's.
//!
//! Each attack is made in a process of its own with a limit of time, so that one which is killed or
//! hangs is told of as what it is.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lbx::failure::{Failure, Result, fail, status};
use lbx::path::JsonPath;
use lbx::record::Project;
use lbx::sys;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use super::attacks::{self, Attack};
use super::line::{self, Answer};

/// The first word of the attacker's command line.
pub(crate) const WORD: &str = "--inside";
/// How long an attack may take.
const LIMIT: Duration = Duration::from_secs(2);

/// What the attacker is told of the environment and of what was laid outside. Everybody inside may
/// read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nest: bool,
    pub(crate) own_network: bool,
    /// What may be done with the project.
    pub(crate) project: Project,
    /// The project, first, and what else of the machine is shown.
    pub(crate) shown: Vec<JsonPath>,
    pub(crate) outside: Outside,
}

/// What is outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outside {
    /// What all baits are called.
    pub(crate) token: String,
    /// A process.
    pub(crate) pid: i32,
    /// The namespaces, by their kind.
    pub(crate) namespaces: BTreeMap<String, u64>,
    /// The device of /dev/pts.
    pub(crate) terminals: u64,
    /// Files that everybody may read.
    pub(crate) files: Vec<PathBuf>,
    /// A socket that everybody may connect to.
    pub(crate) socket: Option<PathBuf>,
    /// A port of loopback.
    pub(crate) port: Option<u16>,
    pub(crate) shm: Option<i64>,
    pub(crate) sem: Option<i64>,
    pub(crate) msg: Option<i64>,
    pub(crate) queue: bool,
    /// A key in a keyring.
    pub(crate) key: Option<i64>,
    pub(crate) host: Host,
}

/// The machine that this one is a VM of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    /// Why its loopback is not promised to be out of reach; empty where it is.
    pub(crate) open: String,
    /// What leads to its loopback.
    pub(crate) addresses: Vec<IpAddr>,
    /// Where something is known to listen there.
    pub(crate) port: Option<u16>,
}

/// What attacks know.
#[derive(Debug)]
pub(crate) struct Inside {
    pub(crate) told: Told,
    /// What was open when the attacker began, but for 0 to 2.
    pub(crate) descriptors: Vec<(i32, PathBuf)>,
}

impl Inside {
    pub(crate) fn project(&self) -> &Path {
        self.told.shown.first().map_or(Path::new("/"), |path| &path.0)
    }

    /// The environment's home.
    pub(crate) fn home(&self) -> PathBuf {
        Path::new("/home").join(&self.told.name)
    }
}

/// Whether this process is the attacker.
pub(crate) fn is_inside() -> bool {
    std::env::args_os().nth(1).is_some_and(|word| word == WORD)
}

/// Makes all attacks, and tells of each on stdout.
pub(crate) fn attack() -> Result<u8> {
    let Some(told) = std::env::args().nth(2) else { return fail(Failure::new("nothing is told of the environment")) };
    let told: Told = serde_json::from_str(&told).context("cannot read what is told of the environment")?;
    let inside = Inside { told, descriptors: descriptors() };
    let mut out = std::io::stdout().lock();
    for attack in attacks::all() {
        out.write_all(&attempt(attack, &inside)?)?;
        out.flush()?;
    }
    writeln!(out, "{}", line::END)?;
    Ok(status::DONE)
}

fn descriptors() -> Vec<(i32, PathBuf)> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let numbers: Vec<i32> = numbers.filter(|number| *number > 2).collect();
    // the one of the directory that was read is closed by now
    numbers
        .into_iter()
        .filter_map(|number| Some((number, std::fs::read_link(format!("/proc/self/fd/{number}")).ok()?)))
        .collect()
}

/// Makes `attack` in a process of its own, and returns its line.
fn attempt(attack: &Attack, inside: &Inside) -> Result<Vec<u8>> {
    let (mut read, write) = std::io::pipe().context("cannot make a pipe")?;
    let Some(pid) = sys::fork().context("cannot start a process")? else {
        drop(read);
        let line = (attack.run)(inside).line(attack.name);
        let told = (&write).write_all(line.as_bytes());
        sys::exit_now(u8::from(told.is_err()))
    };
    drop(write);
    let told = within(&mut read, LIMIT);
    if told.is_none() {
        kill(pid, Signal::SIGKILL).context("cannot end a process")?;
    }
    let ended = ended(pid);
    Ok(match (told, ended) {
        (Some(line), _) if line.ends_with(b"\n") => line,
        (_, Some(WaitStatus::Signaled(_, Signal::SIGSYS, _))) => {
            Answer::held(attack.about, "killed by SIGSYS").line(attack.name).into()
        }
        (None, _) => Answer::through(attack.about, "no answer in 2 s").line(attack.name).into(),
        (_, ended) => Answer::through(attack.about, format!("no answer: {ended:?}")).line(attack.name).into(),
    })
}

fn ended(pid: Pid) -> Option<WaitStatus> {
    loop {
        match waitpid(pid, None) {
            Err(nix::errno::Errno::EINTR) => {}
            ended => return ended.ok(),
        }
    }
}

/// What comes from `pipe` until it is closed or a line is there; `None`: too late.
fn within(pipe: &mut (impl Read + AsFd), limit: Duration) -> Option<Vec<u8>> {
    let deadline = Instant::now() + limit;
    let (mut told, mut buffer) = (Vec::new(), [0; 4096]);
    while !told.ends_with(b"\n") {
        if !readable(pipe, deadline) {
            return None;
        }
        match pipe.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => told.extend(&buffer[..count]),
        }
    }
    Some(told)
}

/// Waits until `fd` can be read, or has been closed; not beyond `deadline`.
pub(crate) fn readable(fd: &impl AsFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return ready.is_ok_and(|count| count > 0),
        }
    }
}

/// Waits until nobody reads what is written to stdout; not beyond `limit`.
pub(crate) fn until_unread(limit: Duration) {
    let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: 0 };
    let _ = poll(&mut [PollFd::from_borrowed_fd(sys::borrow(1), PollFlags::empty())], Some(&limit));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(run: fn(&Inside) -> Answer) -> Answer {
        let attack = Attack { name: "x", about: "about", source: "source", nest: false, run };
        let inside = Inside { told: Told::default(), descriptors: Vec::new() };
        let line = attempt(&attack, &inside).unwrap();
        Answer::read(line.strip_suffix(b"\n").unwrap(), "x").unwrap()
    }

    #[test]
    fn an_attack_is_told_of_as_what_it_is() {
        use crate::linux::line::Verdict;
        assert_eq!(answer(|_| Answer::held("t", "a")), Answer::held("t", "a"));
        let long = answer(|_| Answer::found("t", &"\n".repeat(300_000)));
        assert_eq!((long.verdict, long.answer.len()), (Verdict::Found, line::LONGEST / 4));
        fn raised(signal: Signal) -> Answer {
            let _ = nix::sys::signal::raise(signal);
            Answer::held("", "")
        }
        assert_eq!(answer(|_| raised(Signal::SIGSYS)), Answer::held("about", "killed by SIGSYS"));
        assert_eq!(answer(|_| raised(Signal::SIGKILL)).verdict, Verdict::Through);
        assert_eq!(answer(|_| sys::exit_now(0)).verdict, Verdict::Through);
    }

    #[test]
    fn an_attack_that_hangs_is_ended() {
        let begun = Instant::now();
        let answer = answer(|_| {
            loop {
                nix::unistd::pause();
            }
        });
        assert_eq!(answer, Answer::through("about", "no answer in 2 s"));
        assert!(begun.elapsed() < LIMIT * 4);
    }
}
