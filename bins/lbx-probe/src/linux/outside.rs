//! One probe, seen from outside: sends the attacker in by lbx-enter, reads what it tells, and judges
//! what only the machine can tell.

use std::io::{PipeReader, PipeWriter, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use lbx::failure::{Failure, Result, fail};
use lbx::path::JsonPath;
use lbx::record::{self, Net};
use lbx::{Name, Record, step};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::attacks::{self, Attack};
use super::bait::Baits;
use super::inside::{self, Told};
use super::line::{self, Answer, Verdict};
use super::report::Report;

/// How long all attacks may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long each may; the attacker gives it less.
const PAUSE: Duration = Duration::from_secs(10);
/// How long the attacker may take to end.
const PATIENCE: Duration = Duration::from_secs(2);
/// So much is kept of what lbx-enter says.
const SAID: usize = 4096;

/// Attacks the environment of `record`. Whether all was held.
pub(crate) fn probe(record: &Record, report: &mut Report) -> Result<bool> {
    // by itself: with its program, which was opened as the caller, a holder keeps the caller's keyring
    let mut start = step::sibling("lbx-env")?;
    start.args(["--on", "local", "start", record.name.as_str()]).stdin(Stdio::null());
    step::output(start).with_context(|| format!("cannot start environment '{}'", record.name))?;
    let mut baits = Baits::lay()?;
    let attacker = attacker().context("cannot copy this program")?;
    let told = Told {
        name: record.name.to_string(),
        uid: record.uid,
        gid: record.gid,
        nest: record.options.nest,
        own_network: record.options.net == Net::None,
        project: record.options.project,
        shown: shown(record),
        ..Told::default()
    };
    // what is opened with a keyring keeps it
    let (pipe, write) = std::io::pipe().context("cannot make a pipe")?;
    let mut entered = baits.with_keyring(|outside| {
        let told = Told { outside: outside.clone(), ..told.clone() };
        enter(record, attacker, write, &serde_json::to_string(&told)?)
    })?;
    let secrets = Secrets::of_others(record, &told.shown)?;
    let mut stream = Stream { pipe, deadline: Instant::now() + LIMIT, buffer: Vec::new(), said: Vec::new() };
    let mut all_held = true;
    let mut broken = None;
    for attack in attacks::all() {
        let answer = if broken.is_some() { Err(None) } else { stream.answer(attack.name).map_err(Some) };
        let answer = match answer {
            Ok(answer) if attack.name == attacks::SESSION_KEYRING => {
                let _ = ended(&mut entered);
                judge_keyring(answer, &baits)
            }
            Ok(answer) => judge(attack, answer, record.options.nest, &secrets),
            Err(why) => {
                broken = broken.or(why);
                // a probe that does not even begin is no finding
                if attacks::all().next().is_some_and(|first| first.name == attack.name) {
                    let _ = ended(&mut entered);
                    return stream.failure(record);
                }
                Answer::through(attack.about, broken.clone().unwrap_or_default())
            }
        };
        all_held &= matches!(answer.verdict, Verdict::Held | Verdict::Skipped);
        report.point(record.name.as_str(), attack, &answer)?;
    }
    ended(&mut entered).context("cannot wait for lbx-enter")?;
    Ok(all_held)
}

/// Waits for lbx-enter, and ends it where the attacker has been stopped inside.
fn ended(entered: &mut Child) -> std::io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while entered.try_wait()?.is_none() {
        if Instant::now() > deadline {
            entered.kill()?;
            return entered.wait().map(|_| ());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// A copy of this program that nobody can change, and nobody can find the original by.
fn attacker() -> Result<OwnedFd> {
    // not in every libc
    const MFD_EXEC: u32 = 0x10;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let copy = memfd_create(c"lbx-probe", flags | MFdFlags::from_bits_retain(MFD_EXEC))
        // before Linux 6.3
        .or_else(|_| memfd_create(c"lbx-probe", flags))?;
    let mut program = std::fs::File::open("/proc/self/exe")?;
    let mut copy = std::fs::File::from(copy);
    std::io::copy(&mut program, &mut copy)?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    let for_reading = std::fs::File::open(format!("/proc/self/fd/{}", copy.as_raw_fd()))?;
    Ok(for_reading.into())
}

/// Starts the attacker inside; what it and lbx-enter say comes by one pipe.
fn enter(record: &Record, attacker: OwnedFd, out: PipeWriter, told: &str) -> Result<Child> {
    let mut enter: Command = step::sibling("lbx-enter")?;
    enter.args(["--on", "local", "--", record.name.as_str(), "/proc/self/fd/0", inside::WORD, told]);
    // the project, wherever the caller stands
    enter.current_dir("/").stdin(attacker).stderr(out.try_clone()?).stdout(out);
    step::trace(&enter);
    enter.spawn().context("cannot run lbx-enter")
}

/// What of the machine is shown inside at its own path; the project first.
fn shown(record: &Record) -> Vec<JsonPath> {
    let mut shown = vec![record.project(), record.home.clone(), PathBuf::from("/home/linuxbrew")];
    shown.extend(record.options.ro.iter().chain(&record.options.rw).map(|path| path.0.clone()));
    shown.extend(record.worktree.iter().map(|worktree| worktree.common.0.clone()));
    shown.into_iter().map(JsonPath).collect()
}

/// What comes from inside.
struct Stream {
    pipe: PipeReader,
    deadline: Instant,
    buffer: Vec<u8>,
    /// What was said beside answers.
    said: Vec<u8>,
}

impl Stream {
    /// The answer of attack `name`, which is the next; else why there is none.
    fn answer(&mut self, name: &str) -> Result<Answer, String> {
        loop {
            let line = self.line()?;
            if line::is_marked(&line) {
                return Answer::read(&line, name).ok_or_else(|| "no answer: the attacker was tampered with".to_owned());
            }
            let left = SAID.saturating_sub(self.said.len());
            self.said.extend(line.iter().chain(b"\n").take(left));
        }
    }

    fn line(&mut self) -> Result<Vec<u8>, String> {
        let deadline = self.deadline.min(Instant::now() + PAUSE);
        let mut seen = 0;
        loop {
            if let Some(at) = self.buffer[seen..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(seen + at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(line);
            }
            seen = self.buffer.len();
            if seen > line::LONGEST {
                return Err("no answer: a line without an end".to_owned());
            }
            if !inside::readable(&self.pipe, deadline) {
                return Err("no answer in time".to_owned());
            }
            let mut buffer = [0; 4096];
            match self.pipe.read(&mut buffer) {
                Ok(0) | Err(_) => {
                    let rest = std::mem::take(&mut self.buffer);
                    self.said.extend(rest.iter().take(SAID.saturating_sub(self.said.len())));
                    return Err("no answer: the attacker has ended".to_owned());
                }
                Ok(count) => self.buffer.extend(&buffer[..count]),
            }
        }
    }

    /// That nothing was tried, with what lbx-enter said.
    fn failure<T>(&self, record: &Record) -> Result<T> {
        let said = String::from_utf8_lossy(&self.said);
        let said = if said.trim().is_empty() { "it said nothing" } else { said.trim() };
        fail(Failure::new(format!("environment '{}' cannot be probed: {said}", record.name)))
    }
}

/// What must not be known inside.
struct Secrets(Vec<String>);

impl Secrets {
    /// The names of the other environments and their projects, but for what is shown.
    fn of_others(record: &Record, shown: &[JsonPath]) -> Result<Secrets> {
        let mut secrets = Vec::new();
        for name in record::names()?.into_iter().filter(|name| *name != record.name) {
            let project = project_of(&name)
                .filter(|path| !shown.iter().any(|JsonPath(shown)| shown.starts_with(path) || path.starts_with(shown)));
            secrets.push(name.to_string());
            secrets.extend(project.and_then(|path| path.to_str().map(str::to_owned)));
        }
        Ok(Secrets(secrets))
    }

    /// The first that stands in `text`, as a word of its own.
    fn in_text(&self, text: &str) -> Option<&str> {
        let ends = |c: Option<char>| !c.is_some_and(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let stands = |secret: &&String| {
            text.match_indices(secret.as_str())
                .any(|(at, _)| ends(text[..at].chars().next_back()) && ends(text[at + secret.len()..].chars().next()))
        };
        self.0.iter().find(stands).map(String::as_str)
    }
}

fn project_of(name: &Name) -> Option<PathBuf> {
    Record::load(name).ok().map(|record| record.project()).filter(|path| path != Path::new("/"))
}

/// `answer` as it is printed.
fn judge(attack: &Attack, answer: Answer, nest: bool, secrets: &Secrets) -> Answer {
    match answer.verdict {
        Verdict::Through if nest && attack.nest => {
            Answer::skipped(answer.tried, format!("given up by --nest: {}", answer.answer))
        }
        Verdict::Found => match secrets.in_text(&answer.answer) {
            Some(secret) => Answer::through(answer.tried, format!("tells of '{secret}'")),
            None => Answer::held(answer.tried, "nothing of another environment"),
        },
        _ => answer,
    }
}

fn judge_keyring(answer: Answer, baits: &Baits) -> Answer {
    match (answer.verdict, baits.outside.key) {
        (Verdict::Found, None) => Answer::skipped(answer.tried, "there are no keyrings here"),
        (Verdict::Found, Some(_)) => match baits.keyring_is_used() {
            true => Answer::through(answer.tried, "it has the caller's"),
            false => Answer::held(answer.tried, "it has its own"),
        },
        _ => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_as_a_word_alone() {
        let secrets = Secrets(vec!["app-1a2b".into(), "/srv/a".into()]);
        assert_eq!(secrets.in_text("x /home/app-1a2b y"), Some("app-1a2b"));
        assert_eq!(secrets.in_text("12 /srv/a /x"), Some("/srv/a"));
        for text in ["", "my-app-1a2b", "app-1a2b-0000", "/srv/ab", "/srv/a.b"] {
            assert_eq!(secrets.in_text(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_not_expected_next_is_no_answer() {
        let stream = |text: &str| {
            let (read, mut write) = std::io::pipe().unwrap();
            std::io::Write::write_all(&mut write, text.as_bytes()).unwrap();
            let deadline = Instant::now() + Duration::from_millis(50);
            Stream { pipe: read, deadline, buffer: Vec::new(), said: Vec::new() }
        };
        let line = Answer::held("t", "a").line("one");
        assert!(stream(&format!("noise\n{line}")).answer("one").is_ok());
        for text in ["", "noise\n", "@end\n", &line.replace("one", "two"), &line[..5], "@one\theld\n"] {
            assert!(stream(text).answer("one").is_err(), "{text:?}");
        }
    }
}
