//! The layers of a copy-on-write project (`lbx-env(1)`, THE PROJECT) and of a home: where they lie on the
//! place's own disk, and since when they count.
//!
//! A snapshot freezes what an environment has written: its home and the upper layer of its project are
//! moved aside under an ID, never to be changed again, and new, empty ones are laid over them. So a
//! snapshot copies nothing, and any number of environments may share what is frozen.

use std::io;
use std::path::PathBuf;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::failure::Result;
use crate::{Name, record};

/// The directory of all that is kept of the project of `name`; root's alone.
pub fn root(name: &Name) -> PathBuf {
    record::dir(name).join("project")
}

/// What was changed inside: the upper layer of an overlay (overlayfs.rst).
pub fn upper(name: &Name) -> PathBuf {
    root(name).join("upper")
}

/// When the layers began, see [`Base`].
pub fn base_file(name: &Name) -> PathBuf {
    root(name).join("base.json")
}

/// What of the layers was applied to the project: lines of JSON.
pub fn applied_file(name: &Name) -> PathBuf {
    root(name).join("applied")
}

/// Where the frozen upper layers of projects are, a directory for each ID; root's alone.
pub const FROZEN: &str = "/var/lib/llima-box/layers";
/// Where the frozen homes are, a directory for each ID; on the file system of the homes, root's alone.
pub const FROZEN_HOMES: &str = "/home/.llima-box";

/// A layer that is not changed any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// What it is called: 16 hex digits.
    pub id: String,
    /// The uid of the account that wrote it, which its files have on the disk.
    pub uid: u32,
    /// The gid that its files have on the disk.
    pub gid: u32,
}

/// The frozen layers below what an environment writes, the newest, which covers the others, first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stack {
    /// Those of the home.
    pub home: Vec<Frozen>,
    /// Those of a copy-on-write project, below which the project itself is.
    pub project: Vec<Frozen>,
}

impl Stack {
    /// Whether nothing was frozen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.home.is_empty() && self.project.is_empty()
    }

    /// The layers of both; one that is in both comes twice.
    pub fn iter(&self) -> impl Iterator<Item = &Frozen> {
        self.home.iter().chain(&self.project)
    }
}

impl Frozen {
    /// Whether this can be the name of a directory of [`FROZEN`], and of no other.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.id.len() == 16 && self.id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    }

    /// The directory that keeps what is known of it, and has a file in `users` for each environment whose
    /// record or snapshots name it.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(FROZEN).join(&self.id)
    }

    /// The frozen upper layer of a project.
    pub fn upper(&self) -> PathBuf {
        self.root().join("upper")
    }

    /// The frozen home.
    pub fn home(&self) -> PathBuf {
        PathBuf::from(FROZEN_HOMES).join(&self.id).join("home")
    }
}

/// An instant in the own clock of the project's file system, from before the first change inside: what
/// has a ctime of then or later was changed outside since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Base {
    /// Seconds since 1970.
    pub sec: i64,
    /// Nanoseconds after that.
    pub nsec: i64,
}

/// What [`base_file`] holds.
#[derive(Serialize, Deserialize)]
struct Kept {
    schema: u32,
    base: Base,
}

/// The schema of [`base_file`].
const SCHEMA: u32 = 1;

impl Base {
    /// Before all that there is: everything was changed since.
    pub const UNKNOWN: Base = Base { sec: 0, nsec: 0 };

    /// The base of `name`'s layers. Where it is not to be had, everything was changed since: what seems
    /// to be in conflict does no harm, what is and does not seem so would.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn load(name: &Name) -> Result<Base> {
        let file = base_file(name);
        match std::fs::read(&file) {
            Ok(text) => Ok(Base::parse(&text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Base::UNKNOWN),
            Err(e) => Err(e).with_context(|| format!("cannot read '{}'", file.display())),
        }
    }

    fn parse(text: &[u8]) -> Base {
        match serde_json::from_slice::<Kept>(text) {
            Ok(kept) if kept.schema == SCHEMA => kept.base,
            _ => Base::UNKNOWN,
        }
    }

    /// This as [`base_file`] holds it.
    ///
    /// # Errors
    /// None for numbers.
    pub fn text(self) -> serde_json::Result<Vec<u8>> {
        let mut text = serde_json::to_vec(&Kept { schema: SCHEMA, base: self })?;
        text.push(b'\n');
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_that_cannot_be_relied_on_is_older_than_everything() {
        let base = Base { sec: 1_700_000_000, nsec: 5 };
        let text = base.text().unwrap();
        assert_eq!(text, b"{\"schema\":1,\"base\":{\"sec\":1700000000,\"nsec\":5}}\n");
        assert_eq!(Base::parse(&text), base);
        for text in [&b""[..], b"{}", b"{\"schema\":2,\"base\":{\"sec\":9,\"nsec\":9}}"] {
            assert_eq!(Base::parse(text), Base::UNKNOWN);
        }
        assert!(Base::UNKNOWN < base);
    }
}
