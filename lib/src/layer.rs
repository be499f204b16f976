//! The layers of a copy-on-write project (`lbx-env(1)`, THE PROJECT): where they lie on the place's own
//! disk, and since when they count.

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
