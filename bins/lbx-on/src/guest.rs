//! The tools for the other end: static Linux programs beside this one, for each architecture.

use std::path::{Path, PathBuf};

use anyhow::Context;
use lbx::failure::{Failure, Result, fail};
use lbx::step;

use crate::greeting::{is_tool, is_version};

/// What holds the version of a directory: a digest of its programs.
const VERSION: &str = "version";

/// The tools of one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    /// As `uname -m` says it.
    pub(crate) arch: String,
    pub(crate) version: String,
    dir: PathBuf,
}

/// The tools that are there.
///
/// # Errors
/// There are none.
pub(crate) fn all() -> Result<Vec<Guest>> {
    let dirs = step::guest_directories()?;
    if let Some(guests) = dirs.iter().map(|dir| within(dir)).find(|guests| !guests.is_empty()) {
        return Ok(guests);
    }
    fail(
        Failure::new(format!("the tools for other places are not installed: {}", dirs[0].display()))
            .hint("scripts/build-guest makes them"),
    )
}

fn within(dir: &Path) -> Vec<Guest> {
    let Ok(entries) = dir.read_dir() else { return Vec::new() };
    let mut guests: Vec<Guest> = entries.flatten().filter_map(|entry| guest(&entry.path())).collect();
    guests.sort_by(|a, b| a.arch.cmp(&b.arch));
    guests
}

fn guest(dir: &Path) -> Option<Guest> {
    let arch = dir.file_name()?.to_str().filter(|arch| !arch.contains([' ', '=', '.']))?.to_owned();
    let version = std::fs::read_to_string(dir.join(VERSION)).ok()?.trim_end().to_owned();
    is_version(&version).then(|| Guest { arch, version, dir: dir.to_owned() })
}

/// The tools for `arch`.
///
/// # Errors
/// There are none for it.
pub(crate) fn of(arch: &str) -> Result<Guest> {
    let guest = all()?.into_iter().find(|guest| guest.arch == arch);
    guest.ok_or_else(|| {
        Failure::new(format!("there are no tools for a machine of architecture '{arch}'"))
            .hint("scripts/build-guest makes those of x86_64 and aarch64")
            .into()
    })
}

impl Guest {
    /// The programs: name and file.
    pub(crate) fn programs(&self) -> Result<Vec<(String, PathBuf)>> {
        let entries = self.dir.read_dir().with_context(|| format!("cannot read '{}'", self.dir.display()))?;
        let name = |path: PathBuf| {
            let name = path.file_name()?.to_str().filter(|name| is_tool(name))?.to_owned();
            Some((name, path))
        };
        let mut programs: Vec<_> = entries.flatten().filter_map(|entry| name(entry.path())).collect();
        programs.sort();
        Ok(programs)
    }

    /// The program that is the far end.
    pub(crate) fn entry(&self) -> PathBuf {
        self.dir.join("lbx-on")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_version_holds_no_tools() {
        let dir = tempfile::tempdir().unwrap();
        for (arch, version) in [("x86_64", "0123456789abcdef\n"), ("aarch64", "fedcba9876543210\n"), ("bad", "../..")] {
            std::fs::create_dir(dir.path().join(arch)).unwrap();
            std::fs::write(dir.path().join(arch).join(VERSION), version).unwrap();
        }
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        let found = within(dir.path());
        let found: Vec<_> = found.iter().map(|guest| (guest.arch.as_str(), guest.version.as_str())).collect();
        assert_eq!(found, [("aarch64", "fedcba9876543210"), ("x86_64", "0123456789abcdef")]);
        assert!(within(&dir.path().join("none")).is_empty());
    }

    #[test]
    fn only_tools_are_sent() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["lbx-on", "llima-box", "version", ".lbx-env.new", "lbx-env"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let guest = Guest { arch: "x".into(), version: "0".into(), dir: dir.path().to_owned() };
        let names: Vec<String> = guest.programs().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["lbx-env", "lbx-on", "llima-box"]);
    }
}
