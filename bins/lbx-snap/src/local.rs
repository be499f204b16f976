//! The verbs at the place `local`: `lbx-env` does what there is to do, here is in what order.

mod keep;
mod list;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::Context;
use lbx::failure::{Failure, Result, fail, status};
use lbx::snapshot::{self, Snapshot, Tag};
use lbx::{Name, Place, record, step};
use lbx_snap::{Cli, Verb};

use crate::{TOOL, parsed};

/// Does what `cli` asks for.
pub(crate) fn run(cli: &Cli) -> Result<u8> {
    let session = Session { cli, name: record::require(cli.verb.env())? };
    match &cli.verb {
        Verb::Save { stop, keep, tag, .. } => session.save(*stop, keep.map(usize::from), tag.as_ref()),
        Verb::List { json, tags, .. } => list::list(&session.name, *json, *tags),
        Verb::Restore { stop, tag, .. } => Ok(session.act(*stop, "restore", tag)?.status),
        Verb::Delete { tags, .. } => {
            let tags = tags.iter().map(parsed).collect::<Result<Vec<_>>>()?;
            match step::replace(session.env(Mode::Asked, "forget", &tags)?)? {}
        }
    }
}

/// A call about one environment.
struct Session<'a> {
    cli: &'a Cli,
    name: Name,
}

/// Whether `lbx-env` is to do something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// As this tool was asked.
    Asked,
    /// It is to say whether it would be refused, and nothing else.
    Look,
}

/// What came of something.
struct Outcome {
    /// Whether it was done, whatever came after.
    done: bool,
    status: u8,
}

impl Session<'_> {
    fn save(&self, stop: bool, keep: Option<usize>, tag: Option<&Tag>) -> Result<u8> {
        let tag = match tag {
            Some(tag) => tag.clone(),
            None => self.time()?,
        };
        let saved = self.act(stop, "save", &tag)?;
        if !saved.done {
            return Ok(saved.status);
        }
        let printed = match self.cli.dry_run {
            true => Ok(()),
            false => writeln!(std::io::stdout().lock(), "{tag}"),
        };
        let mut status = saved.status;
        if let Some(count) = keep {
            let surplus = keep::surplus(&snapshots(&self.name)?.0, &tag, count);
            if !surplus.is_empty() {
                status = status.max(wait(self.env(Mode::Asked, "forget", &surplus)?)?);
            }
        }
        // one who has stopped reading wanted the rest no less
        printed.context("cannot write to stdout")?;
        Ok(status)
    }

    /// A tag that is the time, and free.
    fn time(&self) -> Result<Tag> {
        let time = snapshot::compact(SystemTime::now());
        let mut tags =
            (1..100).map(|number| if number == 1 { format!("{time}Z") } else { format!("{time}Z-{number}") });
        let free = tags.find_map(|tag| Tag::parse(&tag).filter(|tag| !snapshot::file(&self.name, tag).exists()));
        free.map_or_else(|| fail(Failure::new(format!("no tag is free: {time}Z")).hint("give the snapshot a TAG")), Ok)
    }

    /// Has `lbx-env` do `verb` with `tag`; with `stop`, what runs is stopped for it, and started again.
    fn act(&self, stop: bool, verb: &str, tag: &Tag) -> Result<Outcome> {
        let tags = std::slice::from_ref(tag);
        if !self.is_running()? {
            let status = wait(self.env(Mode::Asked, verb, tags)?)?;
            return Ok(Outcome { done: status == status::DONE, status });
        }
        if !stop {
            return fail(Failure::new(format!("environment '{}' is running", self.name)).hint("--stop"));
        }
        // nothing is stopped for what would be refused
        let refused = wait(self.env(Mode::Look, verb, tags)?)?;
        if refused != status::DONE {
            return Ok(Outcome { done: false, status: refused });
        }
        let mut status = wait(self.env(Mode::Asked, "stop", &[])?)?;
        if status == status::DONE {
            status = wait(self.env(Mode::Asked, verb, tags)?)?;
        }
        // whatever failed: it ran before
        let done = status == status::DONE;
        Ok(Outcome { done, status: status.max(wait(self.env(Mode::Asked, "start", &[])?)?) })
    }

    fn is_running(&self) -> Result<bool> {
        let mut ls = step::sibling("lbx-ls")?;
        ls.args(["--on", "local", "--state", "running", "--names", "--", self.name.as_str()]);
        Ok(!step::output(ls)?.is_empty())
    }

    /// `lbx-env VERB` of this environment.
    fn env(&self, mode: Mode, verb: &str, tags: &[Tag]) -> Result<Command> {
        let mut command = step::sibling("lbx-env")?;
        command.args(self.cli.common.words(&Place::Local));
        if self.cli.dry_run || mode == Mode::Look {
            command.arg("--dry-run");
        }
        if mode == Mode::Look {
            command.stdout(Stdio::null());
        }
        command.args([verb, "--", self.name.as_str()]).args(tags.iter().map(Tag::as_str));
        Ok(command)
    }
}

/// Runs `command`, which says why when it fails, and returns its status.
fn wait(mut command: Command) -> Result<u8> {
    step::trace(&command);
    let program = command.get_program().to_owned();
    let ended = command.status().with_context(|| format!("cannot run '{}'", program.display()))?;
    match ended.code().map(u8::try_from) {
        Some(Ok(status)) => Ok(status),
        _ => fail(Failure::new(format!("'{}' did not end by itself: {ended}", program.display()))),
    }
}

/// All snapshots of `name`, the oldest first, and why others cannot be read.
fn snapshots(name: &Name) -> Result<(Vec<Snapshot>, Vec<anyhow::Error>)> {
    let (mut read, mut damaged) = (Vec::new(), Vec::new());
    for tag in snapshot::tags(name)? {
        match Snapshot::load(name, &tag) {
            Ok(snapshot) => read.extend(snapshot),
            Err(error) => damaged.push(error),
        }
    }
    read.sort_unstable_by(|a, b| (a.made(), &a.tag).cmp(&(b.made(), &b.tag)));
    Ok((read, damaged))
}
