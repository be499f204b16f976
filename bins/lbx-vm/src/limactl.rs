//! `limactl`: which one, what it lists, and how it is run: its words are kept in a log.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use lbx::failure::{Failure, Result, fail};
use lbx::step;
use serde::Deserialize;

use crate::phase::Phase;

/// Before it, any user of a guest of QEMU became root.
const OLDEST: [u32; 3] = [2, 1, 3];
/// How often a running command is looked after.
const TICK: Duration = Duration::from_millis(20);

/// The program, found on PATH.
pub(crate) struct Limactl(PathBuf);

/// An instance as `limactl list --json` prints it, as far as it matters here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) vm_type: Option<String>,
    pub(crate) arch: Option<String>,
    pub(crate) cpus: Option<u32>,
    /// Bytes.
    pub(crate) memory: Option<u64>,
    /// Bytes.
    pub(crate) disk: Option<u64>,
    pub(crate) lima_version: Option<String>,
    pub(crate) param: BTreeMap<String, String>,
    pub(crate) config: Option<Config>,
    /// Texts, or objects without content.
    pub(crate) errors: Vec<serde_json::Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    pub(crate) mounts: Vec<Mount>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Mount {
    pub(crate) location: PathBuf,
    pub(crate) mount_point: Option<PathBuf>,
    pub(crate) writable: bool,
}

impl Mount {
    pub(crate) fn point(&self) -> &Path {
        self.mount_point.as_deref().unwrap_or(&self.location)
    }
}

impl Limactl {
    /// # Errors
    /// There is none, or this is root.
    pub(crate) fn find() -> Result<Limactl> {
        if rustix::process::geteuid().is_root() {
            return fail(Failure::new("limactl does not run as root").hint("run it as an ordinary user"));
        }
        let path = which::which("limactl").map_err(|_| missing("limactl is not installed"))?;
        Ok(Limactl(path))
    }

    /// # Errors
    /// It is older than what llima-box is safe with.
    pub(crate) fn require_version(&self) -> Result<()> {
        let mut command = self.command(["--version"]);
        step::trace(&command);
        let output = command.output().with_context(|| format!("cannot run '{}'", self.0.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        // one that was built by hand tells a commit in place of a version
        match version(&text) {
            Some(version) if version < OLDEST => {
                let [a, b, c] = OLDEST;
                fail(missing(&format!("Lima is older than {a}.{b}.{c}: '{}': {text}", self.0.display())))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn command<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(&self.0);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// The instance `name`; `None`: limactl knows none of that name.
    ///
    /// # Errors
    /// limactl failed, or printed what is no instance.
    pub(crate) fn list(&self, name: &str) -> Result<Option<Instance>> {
        let mut command = self.command(["--tty=false", "list", "--json", name]);
        step::trace(&command);
        let output = command.output().with_context(|| format!("cannot run '{}'", self.0.display()))?;
        let instance = instances(&output.stdout)?.into_iter().find(|instance| instance.name == name);
        let words = String::from_utf8_lossy(&output.stderr);
        if instance.is_none() && !output.status.success() && !words.contains("No instance matching") {
            let told = crate::log::telling(&words);
            return fail(Failure::new(format!("cannot list VMs: {}", told.last().map_or("limactl failed", |l| l))));
        }
        Ok(instance)
    }
}

/// What `limactl list --json` prints: one object a line.
fn instances(text: &[u8]) -> Result<Vec<Instance>> {
    let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    lines.map(|line| serde_json::from_slice(line).context("cannot understand what limactl lists")).collect()
}

/// The numbers in `limactl version 2.1.3-12-gabcdef`.
fn version(text: &str) -> Option<[u32; 3]> {
    let word = text.split_whitespace().last()?;
    let word = word.strip_prefix('v').unwrap_or(word);
    let mut numbers = word.split(['.', '-', '+']).map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

fn missing(what: &str) -> Failure {
    let hint = match cfg!(target_os = "macos") {
        true => "brew install lima",
        false => "https://lima-vm.io/docs/installation/ has the line for this system",
    };
    Failure::new(what).hint(hint)
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Done,
    Failed,
    /// It went on past its time limit, and was killed.
    Late,
}

/// A file that keeps what commands say.
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    file: File,
    /// Where this run began to write.
    begin: u64,
    pub(crate) phase: Phase,
}

impl Log {
    /// A log that is too large to be read is begun anew, the last one kept beside it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn open(path: PathBuf, phase: Phase) -> Result<Log> {
        const LARGE: u64 = 1 << 20;
        if path.metadata().is_ok_and(|metadata| metadata.len() > LARGE) {
            let _ = std::fs::rename(&path, path.with_extension("log.1"));
        }
        let file = File::options().append(true).create(true).read(true).open(&path);
        let file = file.with_context(|| format!("cannot write '{}'", path.display()))?;
        let begin = file.metadata().map_or(0, |metadata| metadata.len());
        Ok(Log { path, file, begin, phase })
    }

    /// Runs `command` with `input` on its standard input, its words appended here; kills it after
    /// `limit`.
    ///
    /// # Errors
    /// It cannot be run.
    pub(crate) fn run(&mut self, mut command: Command, input: Stdio, limit: Duration) -> Result<Ended> {
        step::trace(&command);
        let words: Vec<String> =
            std::iter::once(command.get_program()).chain(command.get_args()).map(lbx::path::shell_quoted).collect();
        writeln!(self.file, "+ {}", lbx::failure::printable(&words.join(" "))).context("cannot write the log")?;
        let mut seen = self.file.metadata().context("cannot read the log")?.len();
        command.stdin(input).stdout(self.file.try_clone()?).stderr(self.file.try_clone()?);
        let program = command.get_program().to_owned();
        let mut child = command.spawn().with_context(|| format!("cannot run '{}'", program.display()))?;
        let begin = Instant::now();
        // the log itself is watched, no pipe: what the command leaves running would keep one open
        let ended = loop {
            if let Some(status) = child.try_wait().context("cannot wait for limactl")? {
                break if status.success() { Ended::Done } else { Ended::Failed };
            }
            if begin.elapsed() > limit {
                let _ = child.kill();
                let _ = child.wait();
                break Ended::Late;
            }
            let text = self.read_from(seen);
            if let Some(end) = text.rfind('\n') {
                text[..end].lines().for_each(|line| self.phase.read(line));
                seen += end as u64 + 1;
            }
            self.phase.tick();
            std::thread::sleep(TICK);
        };
        Ok(ended)
    }

    /// What this run has written so far.
    pub(crate) fn text(&self) -> String {
        self.read_from(self.begin)
    }

    fn read_from(&self, offset: u64) -> String {
        let mut text = Vec::new();
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(_) => return String::new(),
        };
        let _ = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert_eq!(version("limactl version 2.2.0"), Some([2, 2, 0]));
        assert_eq!(version("limactl version v2.1.10-12-gabcdef.m"), Some([2, 1, 10]));
        assert_eq!(version("limactl version 2.1.3-rc.1"), Some([2, 1, 3]));
        assert_eq!(version("limactl version abcdef0"), None);
        assert_eq!(version(""), None);
        assert!(version("limactl version 1.9.9").is_some_and(|version| version < OLDEST));
        assert!(version("limactl version 2.1.10").is_some_and(|version| version > OLDEST));
    }

    #[test]
    fn a_list_is_read_line_by_line() {
        let text = br#"{"name":"a","status":"Running","cpus":2,"memory":2147483648,"param":{"llimaBox":"1"},"config":{"mounts":[{"location":"/h","writable":true}]},"new":[1]}
{"name":"b","status":"Broken","errors":[{}],"protected":false}
"#;
        let listed = instances(text).unwrap();
        assert_eq!(listed.len(), 2);
        assert_eq!((listed[0].cpus, listed[0].memory), (Some(2), Some(2 << 30)));
        assert_eq!(listed[0].config.as_ref().unwrap().mounts[0].point(), Path::new("/h"));
        assert!(listed[1].config.is_none() && listed[1].param.is_empty());
        assert!(instances(b"").unwrap().is_empty());
        assert!(instances(b"oh").is_err());
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed_and_its_words_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path().join("x.log"), Phase::silent()).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exec sleep 60"]);
        let ended = log.run(command, Stdio::null(), Duration::from_millis(300)).unwrap();
        assert_eq!(ended, Ended::Late);
        assert!(log.text().ends_with("one\ntwo\n"), "{}", log.text());
        let mut again = Log::open(log.path.clone(), Phase::silent()).unwrap();
        let ended = again.run(Command::new("false"), Stdio::null(), Duration::from_secs(60)).unwrap();
        assert_eq!((ended, again.text().as_str()), (Ended::Failed, "+ false\n"));
    }
}
