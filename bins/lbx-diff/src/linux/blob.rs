//! Files and links as git has them: a mode that says little, and contents.

use std::fs::File;
use std::io;

use imara_diff::{Algorithm, Diff, Hunk, InternedInput};
use sha1::{Digest, Sha1};

use super::content::for_each_block;
use super::layers::{Entry, Kind, Layer};

/// What is larger is no text.
const LARGEST: u64 = 32 << 20;
/// As far as git looks for a NUL, which no text has.
const HEAD: usize = 8000;

/// One side of a file's or a link's change.
pub(crate) struct Blob {
    pub(crate) mode: Mode,
    pub(crate) size: u64,
    contents: Contents,
}

/// The modes that git knows of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Plain,
    Executable,
    Link,
}

impl Mode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Mode::Plain => "100644",
            Mode::Executable => "100755",
            Mode::Link => "120000",
        }
    }
}

enum Contents {
    Whole(Vec<u8>),
    /// Too large to be held.
    File(File),
}

impl Blob {
    /// What is at `path` in `layer`; `None` for what git has no notion of.
    pub(crate) fn read(layer: &Layer, path: &[u8], entry: &Entry) -> io::Result<Option<Blob>> {
        let (mode, contents) = match entry.kind {
            Kind::Symlink => (Mode::Link, Contents::Whole(entry.target.clone().unwrap_or_default())),
            Kind::File => {
                let file = layer.open_file_at(path)?;
                let mode = if entry.mode & 0o100 == 0 { Mode::Plain } else { Mode::Executable };
                if entry.size > LARGEST {
                    (mode, Contents::File(file))
                } else {
                    let mut whole = Vec::new();
                    for_each_block(&file, entry.size, |block| {
                        whole.extend_from_slice(block);
                        Ok(())
                    })?;
                    (mode, Contents::Whole(whole))
                }
            }
            _ => return Ok(None),
        };
        let size = match &contents {
            Contents::Whole(whole) => whole.len() as u64,
            Contents::File(_) => entry.size,
        };
        Ok(Some(Blob { mode, size, contents }))
    }

    /// Its contents, where they are text.
    pub(crate) fn text(&self) -> Option<&[u8]> {
        match &self.contents {
            Contents::Whole(whole) if !whole[..whole.len().min(HEAD)].contains(&0) => Some(whole),
            _ => None,
        }
    }

    /// Hands on the contents.
    pub(crate) fn for_each_block(&self, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        match &self.contents {
            Contents::Whole(whole) => each(whole),
            Contents::File(file) => for_each_block(file, self.size, each),
        }
    }

    /// What git calls it by, in hexadecimal.
    pub(crate) fn id(&self) -> io::Result<String> {
        let mut hash = Sha1::new();
        hash.update(format!("blob {}\0", self.size));
        self.for_each_block(|block| {
            hash.update(block);
            Ok(())
        })?;
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Where the lines of two texts differ.
pub(crate) fn hunks(old: &[u8], new: &[u8]) -> Vec<Hunk> {
    let input = InternedInput::new(old, new);
    let mut diff = Diff::compute(Algorithm::Histogram, &input);
    diff.postprocess_lines(&input);
    diff.hunks().collect()
}

/// The lines of a text, each with its end.
pub(crate) fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}
