//! Snapshots: saved, restored, forgotten.

use std::ffi::OsStr;
use std::time::SystemTime;

use anyhow::Context;
use lbx::failure::status;
use lbx::layer::{Base, FROZEN, Frozen, Stack};
use lbx::record::{self, Project, Record};
use lbx::snapshot::{self, Snapshot, TAG_MAX, Tag};
use lbx::{Failure, Name, Result};

use super::store::{self, Lock};
use super::{Session, frozen, layers};

impl Session<'_> {
    pub(super) fn save(&self, env: &OsStr, tag: &Tag) -> Result<u8> {
        let name = record::require(env)?;
        let is_free = || match snapshot::file(&name, tag).exists() {
            true => Err(Failure::new(format!("environment '{name}' has a snapshot '{tag}' already"))
                .hint(format!("lbx-env forget {name} {tag}"))),
            false => Ok(()),
        };
        if self.cli.dry_run {
            let record = self.mine(&name)?;
            is_free()?;
            self.planned(|| {
                let mut lines = frozen::describe(&record);
                lines.push(format!("write snapshot {tag} of {name}"));
                lines
            })?;
            return Ok(status::DONE);
        }
        let _lock = Lock::of_existing(&name)?;
        let mut record = self.mine(&name)?;
        require_stopped(&name)?;
        is_free()?;
        record.layers = self.freeze(&record)?;
        write(&Snapshot::new(&record, tag.clone(), false)?)?;
        self.release(&name, &mut || ());
        self.note(|| format!("saved snapshot '{tag}' of environment '{name}'"));
        Ok(status::DONE)
    }

    /// Freezes what `record`'s environment has written: its layers as they are recorded then.
    fn freeze(&self, record: &Record) -> Result<Stack> {
        let freeze = || -> Result<Stack> {
            let bar = self.progress(&format!("merging frozen layers of {}", record.name));
            let mut record = record.clone();
            record.layers = frozen::make_room(&record, &mut || bar.inc(1))?;
            bar.finish_and_clear();
            frozen::freeze(&record)
        };
        freeze().with_context(|| format!("cannot freeze environment '{}'", record.name))
    }

    pub(super) fn restore(&self, env: &OsStr, tag: &Tag) -> Result<u8> {
        let name = record::require(env)?;
        if self.cli.dry_run {
            let record = self.mine(&name)?;
            restored(&record, &load(&name, tag)?)?;
            self.planned(|| {
                let mut lines = frozen::describe(&record);
                lines.push(format!("keep what {name} has now as a snapshot, unless it is one"));
                lines.push(format!("restore snapshot {tag} of {name}"));
                lines
            })?;
            return Ok(status::DONE);
        }
        let _lock = Lock::of_existing(&name)?;
        let mut record = self.mine(&name)?;
        require_stopped(&name)?;
        let snapshot = load(&name, tag)?;
        restored(&record, &snapshot)?;
        frozen::require(&snapshot.layers)?;
        record.layers = self.freeze(&record)?;
        // what was frozen of a part that the snapshot does not have stays
        let wanted = restored(&record, &snapshot)?;
        if record.layers == wanted {
            return Ok(status::DONE);
        }
        let kept = match is_kept(&record)? {
            true => None,
            false => Some(self.keep(&record, tag)?),
        };
        // both are empty: how their tops show inside is all that they say
        frozen::renew_home(&record, wanted.home.first())?;
        if record.options.project == Project::Cow && snapshot.project == Project::Cow {
            frozen::renew_upper(&record, wanted.project.first())?;
        }
        // what the person changed since the snapshot's layers began, and before those of now did, counts again;
        // for as long as nobody knows which of them the record names, the older base is the safe one
        let renewed = record.layers.project != wanted.project;
        let (before, base) = (Base::load(&name)?, snapshot.base.unwrap_or(Base::UNKNOWN));
        if renewed && base < before {
            layers::keep_base(&name, base)?;
        }
        record.layers = wanted;
        record.renew_schema();
        store::save(&record)?;
        if renewed && base > before {
            layers::keep_base(&name, base)?;
        }
        frozen::complete(&record)?;
        self.release(&name, &mut || ());
        self.note(|| match &kept {
            Some(kept) => format!("restored snapshot '{tag}' of environment '{name}'; it was as '{kept}' is now"),
            None => format!("restored snapshot '{tag}' of environment '{name}'"),
        });
        Ok(status::DONE)
    }

    /// Makes a snapshot of what `record` names before `tag` comes in its place.
    fn keep(&self, record: &Record, tag: &Tag) -> Result<Tag> {
        let time = snapshot::compact(SystemTime::now());
        let room = TAG_MAX - "before--".len() - time.len() - "-99".len();
        let word = &tag.as_str()[..tag.as_str().len().min(room)];
        for number in 1..100 {
            let number = if number == 1 { String::new() } else { format!("-{number}") };
            if let Some(kept) = Tag::parse(&format!("before-{word}-{time}{number}"))
                && !snapshot::file(&record.name, &kept).exists()
            {
                write(&Snapshot::new(record, kept.clone(), true)?)?;
                return Ok(kept);
            }
        }
        Err(Failure::new(format!("no tag is free for what environment '{}' has now", record.name)).into())
    }

    pub(super) fn forget(&self, env: &OsStr, tags: &[Tag]) -> Result<u8> {
        let name = record::require(env)?;
        self.require_mine(&name)?;
        if self.planned(|| tags.iter().map(|tag| format!("remove snapshot {tag} of {name}")).collect())? {
            return Ok(status::DONE);
        }
        let _lock = Lock::of_existing(&name)?;
        self.require_mine(&name)?;
        let mut ended = status::DONE;
        for tag in tags {
            let file = snapshot::file(&name, tag);
            let gone = std::fs::remove_file(&file).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => no_such(&name, tag),
                _ => anyhow::Error::from(e).context(format!("cannot remove '{}'", file.display())),
            });
            if let Err(e) = gone {
                ended = ended.max(self.tool.report(&e));
            }
        }
        // one that is not empty stays
        let _ = std::fs::remove_dir(snapshot::dir(&name));
        let bar = self.progress(&format!("removing what {name} needs no more"));
        self.release(&name, &mut || bar.inc(1));
        bar.finish_and_clear();
        Ok(ended)
    }

    /// Frees what nothing needs any more of `name`. What cannot be freed is no failure of what was done.
    pub(super) fn release(&self, name: &Name, progress: &mut dyn FnMut()) {
        if let Err(e) = frozen::release(name, progress) {
            self.warn(&format!("no room was freed: {e:#}"));
        }
    }

    /// The record of `name`, which is the caller's.
    fn mine(&self, name: &Name) -> Result<Record> {
        let record = Record::load(name).map_err(|why| why.failure(name))?;
        record.require_caller(self.caller)?;
        Ok(record)
    }
}

fn require_stopped(name: &Name) -> Result<()> {
    match lbx::holder::find(name)? {
        None => Ok(()),
        Some(_) => {
            Err(Failure::new(format!("environment '{name}' is running")).hint(format!("lbx-env stop {name}")).into())
        }
    }
}

fn no_such(name: &Name, tag: &Tag) -> anyhow::Error {
    let tags = snapshot::tags(name).unwrap_or_default();
    let there: Vec<&str> = tags.iter().map(Tag::as_str).collect();
    let missing = Failure::new(format!("no such snapshot of environment '{name}': {tag}"));
    match there.is_empty() {
        true => missing.into(),
        false => missing.hint(format!("there are: {}", there.join(" "))).into(),
    }
}

fn load(name: &Name, tag: &Tag) -> Result<Snapshot> {
    Snapshot::load(name, tag)?.ok_or_else(|| no_such(name, tag))
}

/// The layers of `record` with those of `snapshot` in their place.
fn restored(record: &Record, snapshot: &Snapshot) -> Result<Stack> {
    let (name, tag) = (&record.name, &snapshot.tag);
    let is_cow = record.options.project == Project::Cow;
    if !is_cow && !snapshot.layers.project.is_empty() {
        let message = format!("snapshot '{tag}' has changes of the project, which environment '{name}' does not keep");
        return Err(Failure::new(message).hint(format!("lbx-env set --project cow {name}")).into());
    }
    let project = match is_cow && snapshot.project == Project::Cow {
        true => snapshot.layers.project.clone(),
        false => record.layers.project.clone(),
    };
    Ok(Stack { home: snapshot.layers.home.clone(), project })
}

/// Whether what `record` names is a snapshot.
fn is_kept(record: &Record) -> Result<bool> {
    if record.layers.is_empty() {
        return Ok(true);
    }
    let kept = |tag: &Tag| Snapshot::load(&record.name, tag).ok().flatten().is_some_and(|s| s.layers == record.layers);
    Ok(snapshot::tags(&record.name)?.iter().any(kept))
}

fn write(snapshot: &Snapshot) -> Result<()> {
    store::make_dir(&snapshot::dir(&snapshot.name), 0o755)?;
    let mut text = serde_json::to_vec(snapshot)?;
    text.push(b'\n');
    store::replace(&snapshot::file(&snapshot.name, &snapshot.tag), &text, 0o644)
}

/// The layers of `name`, whose record is damaged: those that it still names, else those of the newest
/// snapshot. That a layer is needed and nobody knows where is no reason to go on without it.
pub(super) fn salvaged(name: &Name) -> Result<Stack> {
    let said = || -> Option<Option<Stack>> {
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(record::file(name)).ok()?).ok()?;
        match json.get("layers") {
            None => Some(None),
            Some(layers) => serde_json::from_value(layers.clone()).ok().map(Some),
        }
    };
    if let Some(said) = said() {
        let said = said.unwrap_or_default();
        if said.iter().all(Frozen::is_valid) {
            return Ok(said);
        }
    }
    let snapshots = snapshot::tags(name)?.into_iter().filter_map(|tag| Snapshot::load(name, &tag).ok().flatten());
    if let Some(newest) = snapshots.max_by(|a, b| a.made().cmp(b.made())) {
        return Ok(newest.layers);
    }
    match frozen::is_user(name) {
        false => Ok(Stack::default()),
        true => Err(Failure::new(format!("layers of it in '{FROZEN}' are known no more by its record")).into()),
    }
}
