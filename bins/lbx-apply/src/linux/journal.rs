//! The journal of a run: what a run that is killed leaves for the next one to end.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use anyhow::Context;
use lbx::Result;
use lbx::path::JsonPath;
use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::plan::MODES;

/// The journal, and what of it still counts.
pub(crate) struct Journal {
    file: File,
    note: RefCell<Option<Note>>,
    has_opened: Cell<bool>,
}

impl Journal {
    /// The journal in `file`, which is open for reading and for appending.
    pub(crate) fn of(file: File) -> Journal {
        Journal { file, note: RefCell::new(None), has_opened: Cell::new(false) }
    }

    /// Lines are appended, since what a killed run has written of its last one is no line.
    fn write(&self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        (&self.file).write_all(&text).context("cannot write the journal")
    }

    /// What lies aside, before it does.
    pub(crate) fn note(&self, path: &Path, aside: &str, ours: u64, goes: Option<Facts>) -> Result<()> {
        let note = Note { path: JsonPath::encode(path), aside: aside.to_owned(), ours, goes };
        self.write(&note)?;
        self.note.replace(Some(note));
        Ok(())
    }

    /// Nothing lies aside any more.
    pub(crate) fn end_note(&self) -> Result<()> {
        self.note.replace(None);
        match self.has_opened.get() {
            true => self.write(&()),
            false => self.forget(),
        }
    }

    /// That a directory will be open.
    pub(crate) fn opened(&self, path: &Path, open: u32, mode: u32) -> Result<()> {
        self.has_opened.set(true);
        self.write(&Opened { path: JsonPath::encode(path), open: open & MODES, mode: mode & MODES })
    }

    /// What a killed run wrote.
    pub(crate) fn read(&self) -> Result<(Option<Note>, Vec<Opened>)> {
        let (mut text, mut file) = (Vec::new(), &self.file);
        file.rewind()?;
        file.read_to_end(&mut text)?;
        let (mut note, mut opened) = (None, Vec::new());
        for line in text.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n")) {
            if line == b"null" {
                note = None;
            } else if let Ok(line) = serde_json::from_slice(line) {
                opened.push(line);
            } else if let Ok(line) = serde_json::from_slice(line) {
                note = Some(line);
            }
        }
        Ok((note, opened))
    }

    /// What lies aside now.
    pub(crate) fn noted(&self) -> Option<Note> {
        self.note.borrow().clone()
    }

    /// Ends it.
    pub(crate) fn forget(&self) -> Result<()> {
        self.file.set_len(0).context("cannot write the journal")
    }
}

/// What the journal says of what lies aside: what a killed run may have left.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Note {
    /// The path that is put or removed.
    pub(crate) path: (String, Option<String>),
    /// The name, in the same directory, of what lies aside.
    pub(crate) aside: String,
    /// The inode of what was made aside; 0: nothing was.
    pub(crate) ours: u64,
    /// What comes aside in exchange, to be removed; `None`: nothing does.
    pub(crate) goes: Option<Facts>,
}

/// What the journal says of a directory that is open to its owner for as long as a run takes.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Opened {
    pub(crate) path: (String, Option<String>),
    pub(crate) open: u32,
    pub(crate) mode: u32,
}
