//! Which changes of an environment are to be acted on: what `lbx-apply` and `lbx-discard` share of their
//! command lines.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use clap::Args;

use crate::failure::{Failure, Result, fail, status};
use crate::operand::Wanted;
use crate::place::Place;
use crate::{Name, step};

/// An environment, some of its changes or all, and whether that may be acted on without asking.
#[derive(Args, Clone, Debug)]
pub struct Selection {
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Paths on standard input end with NUL, not newline
    #[arg(short = '0', long)]
    pub null: bool,
    /// Name, or path of the project
    #[arg(value_name = "ENV")]
    pub env: OsString,
    /// Changed paths, relative to the project [default: all]; '-' reads them from standard input
    #[arg(value_name = "PATH|-")]
    pub paths: Vec<OsString>,
}

impl Selection {
    /// Whether the paths are on standard input.
    ///
    /// # Errors
    /// `-` beside other paths.
    pub fn is_listed(&self) -> Result<bool> {
        match self.paths.iter().any(|path| path == "-") {
            true if self.paths.len() > 1 => fail(
                Failure::new("'-' reads all paths from standard input: no other may stand beside it")
                    .status(status::USAGE),
            ),
            is_listed => Ok(is_listed),
        }
    }

    /// These words again, behind the other options of the tool at `place`. Standard input goes along: a list
    /// of changes may be longer than a command line.
    ///
    /// # Errors
    /// As [`Place::env`].
    pub fn words(&self, place: &Place) -> Result<Vec<OsString>> {
        let mut words = Vec::new();
        for (given, word) in [(self.yes, "--yes"), (self.null, "--null"), (true, "--")] {
            words.extend(given.then(|| OsString::from(word)));
        }
        words.push(place.env(&self.env)?);
        words.extend(self.paths.iter().cloned());
        Ok(words)
    }

    /// What the paths mean in `project`; `None`: everything.
    ///
    /// # Errors
    /// As [`Wanted::word`] and [`Wanted::list`]; standard input cannot be read.
    pub fn wanted(&self, project: &Path) -> Result<Option<Vec<Wanted>>> {
        if self.is_listed()? {
            let mut text = Vec::new();
            std::io::stdin().lock().read_to_end(&mut text).context("cannot read paths from standard input")?;
            return Wanted::list(&text, self.null, project).map(Some);
        }
        let words = self.paths.iter().map(|word| Wanted::word(word, project));
        Ok(Some(words.collect::<Result<Vec<_>>>()?).filter(|words| !words.is_empty()))
    }
}

/// All changes of environment `name` of this machine, as `lbx-diff --json` prints them.
///
/// # Errors
/// `lbx-diff` cannot be run, or failed, and has said why.
pub fn changes(name: &Name) -> Result<Vec<u8>> {
    let mut command = step::sibling("lbx-diff")?;
    command.args(["--on", "local", "--json", "--", name.as_str()]);
    step::trace(&command);
    let output = command.stderr(Stdio::inherit()).output().context("cannot run 'lbx-diff'")?;
    match output.status.code() {
        Some(0 | 1) => Ok(output.stdout),
        _ => fail(Failure::new("lbx-diff failed")),
    }
}
