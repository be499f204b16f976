//! Carries out a plan, step by step: from the layers to the project, as far as nothing of the person's is lost.

use std::io;

use anyhow::Context;
use lbx::Result;
use rustix::fs::Stat;
use rustix::io::Errno;

use super::applied::Stamp;
use super::change::Kind;
use super::plan::{Clash, Step, Take, What, Why};
use super::sides::Sides;

/// As long as a path is that the kernel takes, with its end.
const PATH_MAX: usize = 4096;

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is done.
    Done,
    /// It is done; this is there now.
    Applied(Stamp),
    /// It was left alone.
    Left(Why),
    /// A directory is not empty: it holds what is to stay.
    NotEmpty,
}

impl Sides<'_> {
    /// Does `step`.
    ///
    /// # Errors
    /// A system call failed; nothing of the person's is lost.
    pub(crate) fn act(&self, step: &Step, named: bool) -> Result<Outcome> {
        let path = &step.path;
        let context = || format!("cannot apply '{}'", path.display());
        if path.as_os_str().len() >= PATH_MAX {
            return Err(io::Error::from(Errno::NAMETOOLONG)).with_context(context);
        }
        // what is taken whatever it is says nothing of the directory that it is in
        if step.take == Take::Checked {
            self.enter_above(path)?;
        }
        let done = match step.what {
            What::Open => self.open(path),
            What::MakeDir(mode) => self.make_dir(step, mode),
            What::TurnIntoDir(mode) => self.turn_into_dir(step, mode),
            What::PutNew(kind) | What::Put(kind) | What::PutForDir(kind) => self.put(step, kind, named),
            What::Remove => self.remove(step),
            What::RemoveDir => self.remove_dir(path),
            What::Mode(mode) => self.set_mode(step, mode),
        };
        let done = done.with_context(context)?;
        if done == Outcome::Done && matches!(step.what, What::MakeDir(_) | What::TurnIntoDir(_)) {
            self.enter(path)?;
        }
        Ok(done)
    }

    /// Why what is `present` at the path of `step` must stay, if it must.
    pub(crate) fn objection(&self, step: &Step, present: Option<&Stat>) -> Option<Why> {
        let is_new = matches!(step.what, What::PutNew(_));
        match (step.take, present) {
            (_, Some(stat)) if Kind::of(stat.st_mode) == Kind::Dir => Some(Why::Conflict(Clash::Changed)),
            (Take::Forced, _) | (Take::Merged, Some(_)) => None,
            (Take::Checked, None) if is_new => None,
            (_, None) => Some(Why::Conflict(Clash::Gone)),
            (Take::Checked, Some(_)) if is_new => Some(Why::Conflict(Clash::Changed)),
            (Take::Checked, Some(stat)) if self.judge.unchanged(&step.path, stat) => None,
            (Take::Checked, Some(_)) => Some(Why::Conflict(Clash::Changed)),
        }
    }
}
