//! What was applied, and so is no change of the person's: the list of it, and the judge who reads it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use lbx::Result;
use lbx::layer::Base;
use lbx::path::JsonPath;
use rustix::fs::{Stat, fstat};
use serde::{Deserialize, Serialize};

use super::change::Kind;
use super::facts::{Facts, times};
use super::sides::Sides;

/// Longer than a file system's clock stands still.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// When and as what a file was last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    changed: (i64, i64),
    written: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(stat: &Stat) -> Stamp {
        Stamp { inode: stat.st_ino, changed: times(stat).0, written: times(stat).1 }
    }
}

/// A line of the list of what was applied.
#[derive(Deserialize, Serialize)]
struct Applied {
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    ino: u64,
    ctime: (i64, i64),
    /// Of a directory: when something comes or goes in it, that is no change of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
}

/// All that there is to tell of a file without a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Whole {
    device: u64,
    changed: (i64, i64),
    facts: Facts,
}

impl Whole {
    fn of(stat: &Stat) -> Whole {
        Whole { device: stat.st_dev, changed: times(stat).0, facts: Facts::of(stat) }
    }
}

/// What tells whether the person has changed a file since the layers began.
#[derive(Clone, Debug)]
pub(crate) struct Judge {
    base: (i64, i64),
    applied: HashMap<PathBuf, (u64, (i64, i64))>,
    /// Files from which this run took a name and which have others still, by their inodes.
    parted: RefCell<HashMap<u64, Whole>>,
}

impl Judge {
    /// By the layers' `base`, and `text`, the list of what was applied since.
    pub(crate) fn new(base: Base, text: &[u8]) -> Judge {
        let mut applied = HashMap::new();
        for line in text.split(|byte| *byte == b'\n') {
            // one that a killed run left half-written is none
            let Ok(line) = serde_json::from_slice::<Applied>(line) else { continue };
            let Ok(path) = JsonPath::decode(line.path, line.path_bytes.as_deref()) else { continue };
            applied.insert(path, (line.ino, line.ctime));
        }
        Judge { base: (base.sec, base.nsec), applied, parted: RefCell::default() }
    }

    /// Whether what `stat` tells of `path` is as it was, or as it was applied, or but for its other names.
    pub(crate) fn unchanged(&self, path: &Path, stat: &Stat) -> bool {
        let (changed, _) = times(stat);
        changed < self.base
            || self.applied.get(path) == Some(&(stat.st_ino, changed))
            || self.parted.borrow().get(&stat.st_ino) == Some(&Whole::of(stat))
    }

    /// That the file which was as `before` at `path` has lost this name, and is as `after`. The time is this
    /// run's doing, unless somebody has written it as well.
    pub(crate) fn parted(&self, path: &Path, before: &Stat, after: &Stat) {
        if self.unchanged(path, before) && Facts::of(before) == Facts::of(after) {
            self.parted.borrow_mut().insert(after.st_ino, Whole::of(after));
        }
    }
}

impl Sides<'_> {
    /// Enters all directories that `path` lies in, those of the step before but once.
    pub(crate) fn enter_above(&self, path: &Path) -> Result<()> {
        let Some(parent) = path.parent() else { return Ok(()) };
        let before = self.way.borrow().clone();
        let is_new = |above: &&Path| !above.as_os_str().is_empty() && !before.starts_with(above);
        let above: Vec<&Path> = parent.ancestors().take_while(is_new).collect();
        above.into_iter().rev().try_for_each(|above| self.enter(above))?;
        if parent.as_os_str().is_empty() || self.entered.borrow().contains(parent) {
            self.way.replace(parent.to_owned());
        }
        Ok(())
    }

    /// Remembers that the directory `path` is what it was, before anything comes or goes in it: a run that
    /// is killed then leaves no doubt.
    pub(crate) fn enter(&self, path: &Path) -> Result<()> {
        if self.entered.borrow().contains(path) {
            return Ok(());
        }
        // the step will say why
        let Ok(dir) = self.as_person(|| self.directory(path)) else { return Ok(()) };
        let mut text = Vec::new();
        self.tell_applied(path, &fstat(&dir)?, &mut text)?;
        self.remember(&text)?;
        self.entered.borrow_mut().insert(path.to_owned());
        Ok(())
    }

    /// Adds to the list of what was applied.
    pub(crate) fn remember(&self, lines: &[u8]) -> Result<()> {
        (&self.list).write_all(lines).context("cannot write the list of what was applied")
    }

    /// The lines for the list of what was applied: of those that nobody has touched since. The clock has
    /// gone on then, so that whoever touches one later is seen to.
    pub(crate) fn settled(&self, applied: &[(PathBuf, Stamp)]) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        if applied.is_empty() {
            return Ok(text);
        }
        std::thread::sleep(TICK);
        for (path, stamp) in applied {
            let now = self.as_person(|| {
                let (parent, name) = self.parent(path)?;
                Self::present(parent.as_fd(), name)
            });
            if let Ok(Some(now)) = now
                && Stamp::of(&now) == *stamp
            {
                self.tell_applied(path, &now, &mut text)?;
            }
        }
        Ok(text)
    }

    /// As [`Sides::settled`], the lines for the directories that are as they were but for what was applied.
    pub(crate) fn settled_directories(&self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        for path in &*self.entered.borrow() {
            if let Ok(dir) = self.as_person(|| self.directory(path)) {
                self.tell_applied(path, &fstat(&dir)?, &mut text)?;
            }
        }
        Ok(text)
    }

    pub(crate) fn tell_applied(&self, path: &Path, stat: &Stat, text: &mut Vec<u8>) -> Result<()> {
        let (ino, ctime) = (stat.st_ino, times(stat).0);
        if self.judge.applied.get(path) == Some(&(ino, ctime)) {
            return Ok(());
        }
        let (path, path_bytes) = JsonPath::encode(path);
        let mode = (Kind::of(stat.st_mode) == Kind::Dir).then_some(stat.st_mode & 0o7777);
        text.extend(serde_json::to_vec(&Applied { path, path_bytes, ino, ctime, mode })?);
        text.push(b'\n');
        Ok(())
    }
}
