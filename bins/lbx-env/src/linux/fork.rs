//! Forks: new environments that begin with what another one has written, and share it. Nothing is copied
//! but what tells since when the layers of a project count.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;
use lbx::caller::Caller;
use lbx::layer::{self, Base, Stack};
use lbx::record::{self, Origin, Ownership, Project, Record, Source};
use lbx::snapshot::Snapshot;
use lbx::{Failure, Name, Result, operand};
use lbx_env::Settings;

use super::accounts::{self, Ids, Wanted};
use super::frozen::Freeze;
use super::project::{self, Opened, Right};
use super::store::{self, Aside, Lock};
use super::{Creation, Held, Session, Turn, apply, create_plan, frozen, home, layers, require_writable, view};

/// What forks are made from, and what they are to be.
struct Parent {
    record: Record,
    project: Opened,
    /// The options that differ from the parent's, and what the project is to be.
    settings: Settings,
}

/// What a fork starts with.
#[derive(Default)]
struct Start {
    layers: Stack,
    /// What its parent has written, and is frozen when all accounts are there.
    freeze: Cell<Option<Freeze>>,
    /// [`layer::base_file`] and [`layer::applied_file`], where the project is as the parent has it.
    base: Option<(Vec<u8>, Vec<u8>)>,
}

/// A fork that is about to be made: its lock is held.
struct New {
    name: Name,
    lock: Lock,
}

impl Session<'_> {
    /// Makes `count` forks of what `from` means, or one; those that are there already stay as they are.
    ///
    /// The parent's lock is held until each of them keeps the layers for itself. Whoever holds it may wait
    /// for that of a fork: a parent has a record for as long as its lock is held, and who waits for a
    /// fork's has seen, after taking the parent's, that the fork has none. So in any row of forks that wait
    /// for each other the parents were taken one after the other, and no row is a ring.
    pub(super) fn fork(&self, from: &OsStr, count: Option<u32>, creation: &Creation<'_>) -> Result<u8> {
        let (env, tag) = operand::tagged(from)?;
        let from = Source { name: record::require(&env)?, tag };
        let load = || -> Result<Record> {
            let record = Record::load(&from.name).map_err(|why| why.failure(&from.name))?;
            record.require_caller(self.caller)?;
            Ok(record)
        };
        let before = load()?;
        let path = before.project();
        let names = names(&from.name, creation.options.name.as_deref(), count, &path);
        let existing = |name: &Name| self.existing_fork(name, &path, &from, creation);
        let is_missing = names.iter().any(|name| matches!(existing(name), Ok(None)));
        let lock = match is_missing && !self.cli.dry_run {
            true => Some(Lock::of_existing(&from.name)?),
            false => None,
        };
        let parent = self.parent(load()?, creation)?;
        if parent.record.project() != path {
            return Err(Failure::new(format!("environment '{}' was made anew meanwhile", from.name)).into());
        }
        let start = match lock {
            Some(_) => start(&parent, &from)?,
            None => Start::default(),
        };
        if is_missing && from.tag.is_none() {
            self.planned(|| frozen::describe(&parent.record))?;
        }
        let operands: Vec<OsString> = names.iter().map(|name| name.as_str().into()).collect();
        let by_name = |name: &OsStr| names.iter().find(|known| known.as_str() == name).context("no such fork");
        self.together(
            &operands,
            |name, held| self.begin_fork(by_name(name)?, &parent, &existing, creation, held),
            |made| {
                let names: Vec<&Name> = made.iter().map(|new| &new.name).collect();
                let wanted: Vec<_> = names.iter().map(|name| (*name, &parent.project, Wanted::Fresh)).collect();
                let accounts = names.iter().zip(self.accounts(&wanted));
                let records: Vec<Result<(Record, Aside)>> = accounts
                    .map(|(name, account)| {
                        let record = forked(name, &parent, &from, &start, account?, &self.caller);
                        let aside = Aside::record(&record)?;
                        Ok((record, aside))
                    })
                    .collect();
                match start.settle(&names, &records) {
                    Ok(()) => records,
                    Err(e) => names.iter().map(|_| Err(Failure::again(&e).into())).collect(),
                }
            },
            |New { name, lock }, record| match record
                .and_then(|(record, aside)| self.make_fork(record, aside, &parent, &from, &start))
            {
                Ok(record) => creation.answer(&record),
                Err(e) => Err(self.undo(&name, lock, e)),
            },
        )
    }

    /// The environment of `record` as it is to be forked.
    fn parent(&self, record: Record, creation: &Creation<'_>) -> Result<Parent> {
        let path = record.project();
        let mut settings = self.checked(&creation.options.settings, &path, &accounts::others()?)?;
        let shown = *settings.project.get_or_insert(record.options.project);
        let project = project::open_for(self.caller, &path, Right::to_show(shown))?;
        require_writable(&project, &path, &settings)?;
        Ok(Parent { record, project, settings })
    }

    /// The fork `name` of `from`, when it is there and is as it was asked for.
    fn existing_fork(
        &self,
        name: &Name,
        path: &Path,
        from: &Source,
        creation: &Creation<'_>,
    ) -> Result<Option<Record>> {
        if let Ok(record) = Record::load(name)
            && record.project() == path
            && record.from.as_ref() != Some(from)
        {
            return Err(Failure::new(format!("environment exists: {name}"))
                .hint("--name WORD makes another name")
                .into());
        }
        self.existing(name, path, &creation.options.settings, creation.exclusive)
    }

    /// All of a fork that comes before its account.
    fn begin_fork(
        &self,
        name: &Name,
        parent: &Parent,
        existing: &dyn Fn(&Name) -> Result<Option<Record>>,
        creation: &Creation<'_>,
        held: &mut Held,
    ) -> Result<Turn<New>> {
        if let Some(record) = existing(name)? {
            return Ok(Turn::Over(creation.answer(&record)?));
        }
        if self.planned(|| create_plan(name, &parent.record.project(), &parent.settings))? {
            return Ok(Turn::Over(String::new()));
        }
        // the directory is the first that there is of an environment
        let was_begun = record::dir(name).exists();
        let Some(lock) = held.lock(name)? else { return Ok(Turn::Later) };
        if let Some(record) = existing(name)? {
            return Ok(Turn::Over(creation.answer(&record)?));
        }
        let lock = self.make_way(name, lock)?;
        // as another environment, it may be, with other layers, or a skeleton in its home that would hide them
        if was_begun || fs::symlink_metadata(home::path(name)).is_ok() {
            self.remove(name, None)?;
        }
        held.0.insert(name.clone());
        Ok(Turn::Begun(New { name: name.clone(), lock }))
    }

    /// Makes what the fork of `record`, whose lock is held, has beside its account; what is written `aside` is
    /// put in force last.
    fn make_fork(&self, record: Record, aside: Aside, parent: &Parent, from: &Source, start: &Start) -> Result<Record> {
        let name = &record.name;
        frozen::renew_home(&record, record.layers.home.first())?;
        view::make_private(&record)?;
        if let Some((base, applied)) = &start.base {
            copy_base(name, base, applied)?;
        }
        layers::make(&record, &parent.project)?;
        store::touch(&record::last_used_file(name))?;
        aside.place()?;
        self.note(|| format!("created environment '{name}' from '{from}'"));
        Ok(record)
    }
}

impl Start {
    /// Has the layers there for the forks of `names`, and all their records on the disk; nothing where there
    /// is none.
    fn settle(&self, names: &[&Name], records: &[Result<(Record, Aside)>]) -> Result<()> {
        if records.iter().all(Result::is_err) {
            return Ok(());
        }
        let freeze = self.freeze.take();
        let asides = records.iter().flatten().map(|(_, aside)| aside);
        store::sync(&asides.chain(freeze.as_ref().and_then(Freeze::aside)).collect::<Vec<_>>())?;
        // how much of this power leaves does not matter: a record of a fork comes to the disk after it
        freeze.map_or(Ok(()), |freeze| freeze.act().map(drop))?;
        frozen::hold(&self.layers, names)
    }
}

/// The names of `count` forks of `parent`, or of one.
fn names(parent: &Name, word: Option<&OsStr>, count: Option<u32>, path: &Path) -> Vec<Name> {
    let numbered = |number| Name::numbered(word.unwrap_or(parent.word().as_ref()), number, path);
    match (word, count) {
        (_, Some(count)) => (1..=count).map(numbered).collect(),
        (None, None) => vec![numbered(1)],
        (Some(word), None) => vec![Name::with_word(word, path)],
    }
}

/// The record of the fork `name`: its parent's options, with those that were asked for over them.
fn forked(
    name: &Name,
    parent: &Parent,
    from: &Source,
    start: &Start,
    (ids, ownership): (Ids, Ownership),
    caller: &Caller,
) -> Record {
    let of = &parent.record;
    let origin = Origin {
        name: name.clone(),
        path: of.project(),
        owner: parent.project.owner,
        ownership,
        // who has files of the further paths mapped is who was asked whether they may have them; root may
        creator: if caller.uid == 0 { of.creator } else { caller.uid },
    };
    let mut record = Record::new(origin, ids.uid, ids.gid, of.shell.clone(), of.options.clone());
    record.labels.clone_from(&of.labels);
    record.worktree.clone_from(&of.worktree);
    record.from = Some(from.clone());
    record.layers = start.layers.clone();
    apply(&mut record, &parent.settings);
    record
}

/// What forks of `parent`, whose lock is held, start with: what it has written, about to be frozen, or a
/// snapshot.
fn start(parent: &Parent, from: &Source) -> Result<Start> {
    let Parent { record, settings, .. } = parent;
    let is_cow = settings.project == Some(Project::Cow);
    let require_shown = |has_changes: bool| match has_changes && !is_cow {
        true => Err(Failure::new(format!("'{from}' has changes that are not in its project"))
            .hint("forks show them with --project cow")),
        false => Ok(()),
    };
    let (layers, freeze, base) = match &from.tag {
        None => {
            if lbx::holder::find(&from.name)?.is_some() {
                return Err(Failure::new(format!("environment '{}' is running", from.name))
                    .hint(format!("lbx-env stop {0}, or --from {0}@TAG, a snapshot", from.name))
                    .into());
            }
            let is_changed = record.options.project == Project::Cow
                && !(layers::is_empty(&from.name)? && record.layers.project.is_empty());
            require_shown(is_changed)?;
            let freeze = Freeze::prepare(record)?;
            (freeze.layers().clone(), Some(freeze), base_of(&from.name)?)
        }
        Some(tag) => {
            let snapshot = Snapshot::load(&from.name, tag)?.with_context(|| format!("no such snapshot: {from}"))?;
            require_shown(!snapshot.layers.project.is_empty())?;
            // what was applied since may be newer than what it holds
            let base = snapshot.base.unwrap_or(Base::UNKNOWN).text()?;
            (snapshot.layers, None, (base, Vec::new()))
        }
    };
    let has_base = is_cow && record.options.project == Project::Cow;
    Ok(Start { layers, freeze: Cell::new(freeze), base: has_base.then_some(base) })
}

/// When the layers of `name` began, and what was applied of them.
fn base_of(name: &Name) -> Result<(Vec<u8>, Vec<u8>)> {
    let applied = read(&layer::applied_file(name))?.unwrap_or_default();
    Ok((Base::load(name)?.text()?, applied))
}

fn read(file: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some).with_context(|| format!("cannot read '{}'", file.display())),
    }
}

/// Gives `name` the `base` of its parent, and the list of what was `applied`. Nothing of it is synced: where
/// it is lost, all counts as changed outside.
fn copy_base(name: &Name, base: &[u8], applied: &[u8]) -> Result<()> {
    store::make_dir(&layer::root(name), 0o700)?;
    for (file, text) in [(layer::applied_file(name), applied), (layer::base_file(name), base)] {
        if !text.is_empty() {
            store::write_new(&file, text).with_context(|| format!("cannot write '{}'", file.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_are_numbered_unless_one_has_a_word_of_its_own() {
        let path = Path::new("/srv/app");
        let parent = Name::of(path).unwrap();
        let digits = &parent.as_str()[3..];
        let names = |word: Option<&str>, count| -> Vec<String> {
            let names = super::names(&parent, word.map(OsStr::new), count, path);
            names.iter().map(|name| name.as_str().strip_suffix(digits).unwrap().to_owned()).collect()
        };
        assert_eq!(names(None, None), ["app-1"]);
        assert_eq!(names(None, Some(2)), ["app-1", "app-2"]);
        assert_eq!(names(Some("try"), None), ["try"]);
        assert_eq!(names(Some("try"), Some(2)), ["try-1", "try-2"]);
    }
}
