//! What the verbs do at the place `local`. Every step may be repeated: a tool that was killed at any
//! instant leaves what the same command finishes.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lbx::caller::Caller;
use lbx::failure::{Tool, status};
use lbx::layer::Stack;
use lbx::path::{JsonPath, shell_quoted};
use lbx::record::{self, Options, Origin, Ownership, Project, Record, Unreadable};
use lbx::{Failure, Name, Result, step};
use lbx_env::{Cli, Create, Settings, Verb};
use rustix::process::{Resource, getrlimit, setrlimit};

mod accounts;
mod discard;
mod etc;
mod fork;
mod frozen;
mod holder;
mod home;
mod layers;
mod merge;
mod mounts;
mod plan;
mod project;
mod snapshots;
mod store;
mod view;

use accounts::{Accounts, Ids, Order, Wanted};
use project::{Opened, Right};
use store::Lock;

/// As many environments as are created or deleted together, at most.
const TOGETHER: u64 = 1000;
/// The descriptors that each of them has open meanwhile: its lock and its project.
const OPEN_EACH: u64 = 2;
/// Those that all else may have open.
const OPEN_BESIDE: u64 = 64;

/// Does what `cli` says, to each operand in turn; goes on past failures.
pub(crate) fn act(tool: Tool, cli: &Cli) -> Result<u8> {
    // what is made here has the mode that is asked for
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let session = Session { tool, cli, caller: Caller::current() };
    match &cli.verb {
        Verb::Create { options, exclusive, json, count, paths, .. } => {
            let creation = Creation { options, exclusive: *exclusive, json: *json, passwd: OnceCell::new() };
            if let Some(from) = &options.from {
                return session.fork(from, *count, &creation);
            }
            session.together(
                paths,
                |path, held| session.begin_create(Path::new(path), &creation, held),
                |made| {
                    session
                        .accounts(&made.iter().map(|new| (&new.name, &new.project, Wanted::Fresh)).collect::<Vec<_>>())
                },
                |new, account| session.finish_create(new, account, &creation),
            )
        }
        Verb::Set { options, envs } => session.each(&envs.envs, |env| session.set(env, options)),
        Verb::Start { envs } => session.each(&envs.envs, |env| session.start(env)),
        Verb::Stop { envs } => session.each(&envs.envs, |env| session.stop(env)),
        Verb::Repair { envs } => session.each(&envs.envs, |env| session.repair(env)),
        Verb::Discard { env, paths, .. } => session.discard(env, paths),
        Verb::Save { env, tag } => session.save(env, tag),
        Verb::Restore { env, tag } => session.restore(env, tag),
        Verb::Forget { env, tags } => session.forget(env, tags),
        Verb::Delete { force, envs } => session.together(
            &envs.envs,
            |env, held| session.begin_delete(env, *force, held),
            |going| remove_accounts(&going.iter().map(|going| &going.name).collect::<Vec<_>>()),
            |going, uid| session.finish_delete(going, uid),
        ),
    }
}

/// What is the same for everything that one command creates.
struct Creation<'a> {
    options: &'a Create,
    exclusive: bool,
    json: bool,
    passwd: OnceCell<String>,
}

/// An environment that is about to be made: all is looked at, its lock is held.
struct New {
    name: Name,
    path: PathBuf,
    project: Opened,
    settings: Settings,
    lock: Lock,
}

/// An environment that is about to go: nothing in it runs any more, its lock is held.
struct Going {
    name: Name,
    uid: Option<u32>,
    lock: Lock,
}

/// How an operand's turn begins, among others whose account files are written together.
enum Turn<T> {
    /// It is over: this is its answer.
    Over(String),
    /// The environment is this one's to change.
    Begun(T),
    /// The environment is another's by now, who may be this process: it has to wait until nothing is held.
    Later,
}

/// What the operands before have begun and not finished.
#[derive(Default)]
struct Held(BTreeSet<Name>);

impl Held {
    /// The lock of `name`. Who holds one waits for no other, so that two who name the same environments
    /// in another order never wait for each other.
    fn lock(&mut self, name: &Name) -> Result<Option<Lock>> {
        // another descriptor of a file that is locked, once closed, would take the lock with it
        if self.0.contains(name) {
            return Ok(None);
        }
        let lock = if self.0.is_empty() { Some(Lock::of(name)?) } else { Lock::try_of(name)? };
        Ok(lock)
    }
}

struct Session<'a> {
    tool: Tool,
    cli: &'a Cli,
    caller: Caller,
}

impl Session<'_> {
    fn each(&self, operands: &[OsString], mut verb: impl FnMut(&OsStr) -> Result<()>) -> Result<u8> {
        let mut ended = status::DONE;
        for operand in operands {
            if let Err(e) = verb(operand) {
                // nobody reads any more: the others need not be told
                if is_broken_pipe(&e) {
                    return Err(e);
                }
                ended = ended.max(self.tool.report(&e));
            }
        }
        Ok(ended)
    }

    /// Acts on all `operands`, whose order the answers have, by few rewrites of the account files: `begin`
    /// is called for as many as can be, then `share` for these at once, then `finish` for each. What is
    /// left at any instant is what each by itself would have left.
    fn together<T, S>(
        &self,
        operands: &[OsString],
        begin: impl Fn(&OsStr, &mut Held) -> Result<Turn<T>>,
        share: impl Fn(&[T]) -> Vec<Result<S>>,
        finish: impl Fn(T, Result<S>) -> Result<String>,
    ) -> Result<u8> {
        let most = if operands.len() > 1 { together_at_most() } else { 1 };
        let mut ended = status::DONE;
        let mut operands = operands.iter().peekable();
        while operands.peek().is_some() {
            let (mut held, mut begun, mut turns) = (Held::default(), Vec::new(), Vec::new());
            while begun.len() < most
                && let Some(operand) = operands.peek()
            {
                let over = match begin(operand, &mut held) {
                    Ok(Turn::Later) => break,
                    Ok(Turn::Begun(one)) => {
                        begun.push(one);
                        None
                    }
                    Ok(Turn::Over(answer)) => Some(Ok(answer)),
                    Err(e) => Some(Err(e)),
                };
                turns.push(over);
                operands.next();
            }
            let shared = if begun.is_empty() { Vec::new() } else { share(&begun) };
            let mut begun = begun.into_iter().zip(shared);
            let mut unread = None;
            for over in turns {
                let answer = over.or_else(|| begun.next().map(|(one, shared)| finish(one, shared)));
                match answer.unwrap_or_else(|| Ok(String::new())).and_then(print) {
                    Ok(()) => {}
                    // nobody reads any more: what is begun is finished, and the others need not be told
                    Err(e) if is_broken_pipe(&e) => unread = Some(e),
                    Err(e) => ended = ended.max(self.tool.report(&e)),
                }
            }
            if let Some(e) = unread {
                return Err(e);
            }
        }
        Ok(ended)
    }

    fn note(&self, text: impl FnOnce() -> String) {
        self.cli.common.note(self.tool, text);
    }

    fn warn(&self, text: &str) {
        if !self.cli.common.quiet {
            lbx::failure::say(&format!("{}: warning: {}\n", self.tool.name, lbx::failure::printable(text)));
        }
    }

    /// Fails when `name` is another person's, as far as its record still tells.
    fn require_mine(&self, name: &Name) -> Result<()> {
        let kept = |path: PathBuf| std::fs::read(path).ok().and_then(|text| Record::parse(&text, name).ok());
        match kept(record::file(name)).or_else(|| kept(record::deleted_file(name))) {
            Some(record) => record.require_caller(self.caller),
            None => Ok(()),
        }
    }

    /// Prints the plan in place of acting; `true` when that was asked for.
    fn planned(&self, lines: impl FnOnce() -> Vec<String>) -> Result<bool> {
        if self.cli.dry_run {
            print(lines().iter().map(|line| lbx::failure::printable(line) + "\n").collect())?;
        }
        Ok(self.cli.dry_run)
    }

    /// All of a create that comes before its account; an answer where there is nothing to make.
    fn begin_create(&self, path: &Path, creation: &Creation<'_>, held: &mut Held) -> Result<Turn<New>> {
        let path = project_at(path)?;
        let passwd = match creation.passwd.get() {
            Some(passwd) => passwd,
            None => {
                let passwd = accounts::others()?;
                creation.passwd.get_or_init(|| passwd)
            }
        };
        project::refuse_system(&path, passwd)?;
        let name = match &creation.options.name {
            Some(word) => Name::with_word(word, &path),
            None => record::find(path.as_os_str())?.map_or_else(|| Name::of(&path), Ok)?,
        };
        let asked = &creation.options.settings;
        let existing = || self.existing(&name, &path, asked, creation.exclusive);
        if let Some(record) = existing()? {
            return Ok(Turn::Over(creation.answer(&record)?));
        }
        let right = Right::to_show(asked.project.unwrap_or_default());
        let project = project::open_for(self.caller, &path, right)?;
        require_writable(&project, &path, asked)?;
        let settings = self.checked(asked, &path, passwd)?;
        if self.cli.dry_run {
            home::refuse_foreign(&name)?;
        }
        if self.planned(|| create_plan(&name, &path, &settings))? {
            return Ok(Turn::Over(String::new()));
        }
        let Some(lock) = held.lock(&name)? else { return Ok(Turn::Later) };
        if let Some(record) = existing()? {
            return Ok(Turn::Over(creation.answer(&record)?));
        }
        let lock = self.make_way(&name, lock)?;
        if let Err(e) = require_writable(&project, &path, &settings) {
            return Err(self.undo(&name, lock, e));
        }
        held.0.insert(name.clone());
        Ok(Turn::Begun(New { name, path, project, settings, lock }))
    }

    /// Makes way for a new environment `name`, whose `lock` is held: of one that was deleted nothing is left.
    fn make_way(&self, name: &Name, lock: Lock) -> Result<Lock> {
        if let Err(e) = home::refuse_foreign(name) {
            // nothing of it was ever made, but the directory of its lock
            let is_new = accounts::passwd().is_ok_and(|passwd| accounts::ours(&passwd, name).is_none());
            if is_new && !store::is_marked_deleted(name) {
                let _ = store::forget(name, lock);
            }
            return Err(e);
        }
        if store::is_marked_deleted(name) {
            self.remove(name, None)?;
            store::unmark_deleted(name)?;
        }
        Ok(lock)
    }

    fn finish_create(&self, new: New, account: Result<(Ids, Ownership)>, creation: &Creation<'_>) -> Result<String> {
        let New { name, path, project, settings, lock } = new;
        match account.and_then(|account| self.make(&name, &path, &project, account, settings, Stack::default())) {
            Ok(record) => creation.answer(&record),
            Err(e) => Err(self.undo(&name, lock, e)),
        }
    }

    /// Leaves nothing half-made of `name`, whose creation failed with `error`; what cannot be undone now,
    /// the next run undoes.
    fn undo(&self, name: &Name, lock: Lock, error: anyhow::Error) -> anyhow::Error {
        let _ = self.remove(name, None).and_then(|()| store::forget(name, lock));
        error.context(format!("cannot create environment '{name}'"))
    }

    /// The environment `name` of `path`, when it is there and is as it was asked for.
    fn existing(&self, name: &Name, path: &Path, asked: &Settings, exclusive: bool) -> Result<Option<Record>> {
        let record = match Record::load(name) {
            Ok(record) => record,
            Err(Unreadable::Missing(_)) => return Ok(None),
            Err(Unreadable::Broken(why)) => {
                return Err(Failure::new(format!("environment '{name}' is broken: {why}"))
                    .hint(format!("lbx-env repair {}", shell_quoted(path.as_os_str())))
                    .into());
            }
        };
        if record.project() != path {
            return Err(Failure::new(format!(
                "name '{name}' of path '{}' is taken by path '{}'",
                path.display(),
                record.project().display()
            ))
            .hint("--name WORD makes another name")
            .into());
        }
        if exclusive {
            return Err(Failure::new(format!("environment exists: {name}")).into());
        }
        let mut wanted = record.clone();
        apply(&mut wanted, &resolved(asked, path)?);
        let differing = differences(&record, &wanted);
        if !differing.is_empty() {
            return Err(Failure::new(format!(
                "environment '{name}' exists with other options: {}",
                differing.join(" ")
            ))
            .hint(format!("lbx-env set OPTION… {name} changes them"))
            .into());
        }
        Ok(Some(record))
    }

    /// `settings` with absolute paths, refused where the caller may not have what they name. What is
    /// looked at here is what is recorded.
    fn checked(&self, settings: &Settings, path: &Path, passwd: &str) -> Result<Settings> {
        let settings = resolved(settings, path)?;
        for (list, right) in [(&settings.ro, Right::Read), (&settings.rw, Right::Write)] {
            for shown in list.iter().filter(|shown| !shown.as_os_str().is_empty()) {
                mounts::require_shared(shown)?;
                project::refuse_system(shown, passwd)?;
                project::refuse_foreign_home(shown, self.caller, passwd)?;
                if project::open_for(self.caller, shown, right)?.is_socket {
                    return Err(Failure::new(format!("path is a socket: {}", shown.display())).into());
                }
                if path == shown {
                    return Err(Failure::new(format!("path is the project itself: {}", shown.display())).into());
                }
                if path.starts_with(shown) && right == Right::Write {
                    return Err(Failure::new(format!("path holds the project: {}", shown.display())).into());
                }
            }
        }
        if let Some(shell) = &settings.shell
            && !is_program(shell)
        {
            return Err(Failure::new(format!("shell is not an executable file: {}", shell.display()))
                .hint("name it by its absolute path, as in /etc/shells")
                .into());
        }
        Ok(settings)
    }

    /// Makes what the environment `name`, whose lock is held, has beside its account: home, private
    /// directories, and the record last.
    fn make(
        &self,
        name: &Name,
        path: &Path,
        project: &Opened,
        (ids, ownership): (Ids, Ownership),
        settings: Settings,
        layers: Stack,
    ) -> Result<Record> {
        let owner = project.owner;
        let origin = Origin { name: name.clone(), path: path.to_owned(), owner, ownership, creator: self.caller.uid };
        let mut record = Record::new(origin, ids.uid, ids.gid, login_shell(), Options::default());
        record.layers = layers;
        apply(&mut record, &settings);
        record.worktree = project::worktree(self.caller, path)?;
        frozen::complete(&record)?;
        home::make(name, ids)?;
        view::make_private(&record)?;
        layers::make(&record, project)?;
        store::touch(&record::last_used_file(name))?;
        store::save(&record)?;
        self.note(|| format!("created environment '{name}' of path '{}'", path.display()));
        Ok(record)
    }

    /// The account of `name`, with the uid that the project's file system asks for.
    fn account(&self, name: &Name, project: &Opened, wanted: Wanted) -> Result<(Ids, Ownership)> {
        let mut accounts = self.accounts(&[(name, project, wanted)]);
        accounts.pop().with_context(|| format!("cannot create account '{name}'"))?
    }

    /// The accounts of several, in their order: by one rewrite of the account files, and another for those
    /// whose file systems ask for the owner's uid.
    fn accounts(&self, wanted: &[(&Name, &Opened, Wanted)]) -> Vec<Result<(Ids, Ownership)>> {
        let fresh = add_accounts(&wanted.iter().map(|(name, _, wanted)| (*name, *wanted)).collect::<Vec<_>>());
        let mut made: Vec<Result<(Ids, Option<Ownership>)>> = fresh
            .into_iter()
            .zip(wanted)
            .map(|(ids, (_, project, _))| {
                let ids = ids?;
                let ownership = project::observe_ownership(project, ids)?;
                if ownership.is_none() && project.owner.uid == 0 {
                    return Err(Failure::new(
                        "project is root's, on a file system without id-mapped mounts: its uid cannot be shared",
                    )
                    .hint("give the project to an ordinary user, or move it")
                    .into());
                }
                Ok((ids, ownership))
            })
            .collect();
        let (sharing, shared): (Vec<_>, Vec<_>) = made
            .iter_mut()
            .zip(wanted)
            .filter(|(made, _)| matches!(made, Ok((_, None))))
            .map(|(made, (name, project, _))| {
                (made, (*name, Wanted::Shared(Ids { uid: project.owner.uid, gid: project.owner.gid })))
            })
            .unzip();
        if !shared.is_empty() {
            for (made, ids) in sharing.into_iter().zip(add_accounts(&shared)) {
                *made = ids.map(|ids| (ids, Some(Ownership::SharedUid)));
            }
        }
        made.into_iter()
            .map(|made| made.map(|(ids, ownership)| (ids, ownership.unwrap_or(Ownership::SharedUid))))
            .collect()
    }

    fn set(&self, env: &OsStr, asked: &Settings) -> Result<()> {
        let name = record::require(env)?;
        let read = || Record::load(&name).map_err(|why| why.failure(&name));
        let passwd = accounts::others()?;
        let before = read()?;
        before.require_caller(self.caller)?;
        let settings = self.checked(asked, &before.project(), &passwd)?;
        let change = |record: &Record| {
            let mut wanted = record.clone();
            apply(&mut wanted, &settings);
            wanted
        };
        if self.planned(|| {
            let wanted = change(&before);
            differences(&before, &wanted).iter().map(|option| format!("set {option} of {name}")).collect()
        })? {
            return Ok(());
        }
        let _lock = Lock::of_existing(&name)?;
        let record = read()?;
        let wanted = change(&record);
        if record == wanted {
            return Ok(());
        }
        let at_start: Vec<&str> = differences(&record, &wanted)
            .into_iter()
            .filter(|option| !["--label", "--shell"].contains(option))
            .collect();
        if !at_start.is_empty() && lbx::holder::find(&name)?.is_some() {
            return Err(Failure::new(format!(
                "environment '{name}' is running: {} can be set when it is stopped",
                at_start.join(" ")
            ))
            .hint(format!("lbx-env stop {name}"))
            .into());
        }
        frozen::complete(&record)?;
        let before = record.options.project;
        if before != wanted.options.project {
            require_no_changes(&record)?;
            change_project(&wanted)?;
        }
        view::make_private(&wanted)?;
        store::save(&wanted)?;
        match before == Project::Cow && wanted.options.project != before {
            true => layers::remove(&name, &mut || ()),
            false => Ok(()),
        }
    }

    fn start(&self, env: &OsStr) -> Result<()> {
        let name = record::require(env)?;
        if self.planned(|| match Record::load(&name) {
            Ok(record) => plan::describe(&record, &holder::machine()),
            Err(why) => vec![format!("nothing: {why}")],
        })? {
            return Ok(());
        }
        let _lock = Lock::of_existing(&name)?;
        let record = Record::load(&name).map_err(|why| why.failure(&name))?;
        record.require_caller(self.caller)?;
        step::require_program_out_of_reach(&record)?;
        if lbx::holder::find(&name)?.is_some() {
            return Ok(());
        }
        frozen::complete(&record)?;
        let warnings = holder::start(&record).with_context(|| format!("cannot start environment '{name}'"))?;
        warnings.iter().for_each(|warning| self.warn(warning));
        self.note(|| format!("started environment '{name}'"));
        Ok(())
    }

    fn stop(&self, env: &OsStr) -> Result<()> {
        let name = record::require(env)?;
        if self.planned(|| vec![format!("end every process of {name}")])? {
            return Ok(());
        }
        self.require_mine(&name)?;
        let _lock = Lock::of_existing(&name)?;
        holder::stop(&name)?;
        self.note(|| format!("stopped environment '{name}'"));
        Ok(())
    }

    /// Finishes or undoes: a deletion that was begun is finished, a creation that was interrupted is
    /// undone, a record is written anew where the path is known, and what it asks for is made.
    fn repair(&self, env: &OsStr) -> Result<()> {
        let name = record::require(env)?;
        let found = Record::load(&name);
        if self.planned(|| match &found {
            Ok(_) => vec![format!("make sure of the account, the home and the private directories of {name}")],
            Err(Unreadable::Missing(_)) => vec![format!("remove what is left of {name}")],
            Err(Unreadable::Broken(_)) => vec![format!("write the record of {name} anew")],
        })? {
            return Ok(());
        }
        self.require_mine(&name)?;
        let lock = Lock::of(&name)?;
        match Record::load(&name) {
            Ok(record) => self.mend(record),
            Err(Unreadable::Missing(_)) => {
                self.remove(&name, None)?;
                store::forget(&name, lock)
            }
            Err(Unreadable::Broken(why)) => {
                let Some(path) = salvaged_path(&name, env) else {
                    return Err(Failure::new(format!(
                        "cannot repair environment '{name}': {why}: its path is not known"
                    ))
                    .hint(format!("lbx-env repair PATH, or lbx-env delete {name}"))
                    .into());
                };
                lbx::path::directory(&path)?;
                project::refuse_system(&path, &accounts::others()?)?;
                let settings = Settings { project: salvaged_project(&name), ..Settings::default() };
                let right = Right::to_show(settings.project.unwrap_or_default());
                let project = project::open_for(self.caller, &path, right)?;
                holder::stop(&name)?;
                require_writable(&project, &path, &settings)?;
                let account = self.account(&name, &project, Wanted::Fresh)?;
                let layers = snapshots::salvaged(&name)?;
                self.make(&name, &path, &project, account, settings, layers)?;
                self.warn(&format!("options and labels of '{name}' were lost with its record"));
                Ok(())
            }
        }
        .with_context(|| format!("cannot repair environment '{name}'"))
    }

    /// Makes what the record asks for, and takes the project's owner as it is now.
    fn mend(&self, mut record: Record) -> Result<()> {
        let running = lbx::holder::find(&record.name)?.is_some();
        if !running {
            // the cgroup and the run-time directory of a holder that was killed
            holder::stop(&record.name)?;
        }
        let mut opened = project::open(&record.project())?;
        if (opened.owner.uid, opened.owner.gid) != (record.owner.uid, record.owner.gid) {
            opened = project::open_for(self.caller, &record.project(), Right::to_show(record.options.project))?;
        }
        let kept = Accounts::lock(&[&record.name])?.of(&record.name);
        let shared = Wanted::Shared(Ids { uid: opened.owner.uid, gid: opened.owner.gid });
        let (ids, ownership) = match (kept, record.ownership) {
            (Some(ids), Ownership::SharedUid) if shared.allows(ids) => (ids, Ownership::SharedUid),
            _ => self.account(&record.name, &opened, Wanted::Again(Ids { uid: record.uid, gid: record.gid }))?,
        };
        let before = record.clone();
        (record.uid, record.gid, record.ownership, record.owner) = (ids.uid, ids.gid, ownership, opened.owner);
        if record != before {
            // another device number is nothing but a reboot's
            let mut moved = before;
            moved.owner = record.owner;
            if running && record != moved {
                return Err(Failure::new(format!("environment '{}' is running", record.name))
                    .hint(format!("lbx-env stop {}", record.name))
                    .into());
            }
            store::save(&record)?;
        }
        store::make_findable(&record)?;
        frozen::complete(&record)?;
        home::make(&record.name, ids)?;
        view::make_private(&record)?;
        layers::make(&record, &opened)?;
        frozen::require(&record.layers)?;
        frozen::hold(&record.layers, &[&record.name])?;
        self.release(&record.name, &mut || ());
        store::touch(&record::last_used_file(&record.name))
    }

    /// Drops what was changed at each of `paths`, or all, and goes on past what cannot be dropped.
    fn discard(&self, env: &OsStr, paths: &[std::ffi::OsString]) -> Result<u8> {
        let name = record::require(env)?;
        let read = || -> Result<Record> {
            let record = Record::load(&name).map_err(|why| why.failure(&name))?;
            record.require_caller(self.caller)?;
            match record.options.project {
                Project::Cow => Ok(record),
                _ => Err(Failure::new(format!("environment '{name}' has no changes of its own"))
                    .hint("--project cow is for that")
                    .into()),
            }
        };
        let record = read()?;
        let below = |path: &std::ffi::OsString| discard::below(path, &record.project());
        if self.planned(|| match paths {
            [] => vec![format!("discard all changes of {name}")],
            paths => paths.iter().map(|path| format!("discard {}", shell_quoted(path))).collect(),
        })? {
            return Ok(status::DONE);
        }
        let _lock = Lock::of_existing(&name)?;
        let record = read()?;
        if lbx::holder::find(&name)?.is_some() {
            return Err(Failure::new(format!("environment '{name}' is running"))
                .hint(format!("lbx-env stop {name}"))
                .into());
        }
        let project = project::open_recorded(&record.project(), record.owner)?;
        let bar = self.progress(&format!("discarding changes of {name}"));
        let mut tick = || bar.inc(1);
        let whole = || -> Result<()> {
            project::require_owner_can_write(&project, &record.project())?;
            layers::remove(&name, &mut || bar.inc(1))?;
            layers::make(&record, &project)?;
            // last: what is above the frozen layers tells of no others
            let mut bare = record.clone();
            bare.layers.project.clear();
            bare.renew_schema();
            if bare != record {
                store::save(&bare)?;
                // what is begun now, over nothing, counts from now
                let base = lbx::layer::base_file(&name);
                store::remove_file(&base).with_context(|| format!("cannot remove '{}'", base.display()))?;
                layers::make(&bare, &project)?;
                self.release(&name, &mut || bar.inc(1));
            }
            Ok(())
        };
        frozen::complete(&record)?;
        if paths.is_empty() {
            whole()?;
            bar.finish_and_clear();
            return Ok(status::DONE);
        }
        layers::require(&name)?;
        let layers = discard::Layers::open(&record, project.fd.as_fd())?;
        let ended = self.each(paths, |path| {
            let path = below(&path.to_owned())?;
            match path.as_os_str().is_empty() {
                true => Err(Failure::new("path is the project itself").hint("without PATH all is discarded").into()),
                false => layers.discard(&path, &mut tick),
            }
        });
        bar.finish_and_clear();
        ended
    }

    /// All of a delete that comes before its account goes.
    fn begin_delete(&self, env: &OsStr, force: bool, held: &mut Held) -> Result<Turn<Going>> {
        let name = match record::find(env)? {
            Some(name) => name,
            None if force => return Ok(Turn::Over(String::new())),
            None => record::require(env)?,
        };
        if self.planned(|| {
            let mut lines = vec![
                format!("end every process of {name}"),
                format!("remove account {name}"),
                format!("remove home {}", home::path(&name).display()),
            ];
            if Record::load(&name).is_ok_and(|record| record.options.project == Project::Cow) {
                lines.push(format!("remove layers of {name}, and with them what it changed"));
            }
            let tags = lbx::snapshot::tags(&name).unwrap_or_default();
            lines.extend(tags.iter().map(|tag| format!("remove snapshot {tag} of {name}")));
            lines.push(format!("remove record of {name}"));
            lines
        })? {
            return Ok(Turn::Over(String::new()));
        }
        self.require_mine(&name)?;
        let Some(lock) = held.lock(&name)? else { return Ok(Turn::Later) };
        let uid = Record::load(&name).ok().map(|record| record.uid);
        end(&name)?;
        held.0.insert(name.clone());
        Ok(Turn::Begun(Going { name, uid, lock }))
    }

    fn finish_delete(&self, going: Going, account: Result<Option<u32>>) -> Result<String> {
        let Going { name, uid, lock } = going;
        self.remove_files(&name, uid.or(account?))?;
        store::forget(&name, lock)?;
        self.note(|| format!("deleted environment '{name}'"));
        Ok(String::new())
    }

    /// Removes what `name` has, all but its directory of records. Repeatable; nothing has to be there.
    fn remove(&self, name: &Name, uid: Option<u32>) -> Result<()> {
        end(name)?;
        let account = remove_accounts(&[name]).pop().transpose()?.flatten();
        self.remove_files(name, uid.or(account))
    }

    /// Removes the home and the private directories of `name`, whose account had `uid` where that is known.
    fn remove_files(&self, name: &Name, uid: Option<u32>) -> Result<()> {
        let uid = uid.or_else(|| deleted_uid(name));
        let bar = self.progress(&format!("removing the home of {name}"));
        let mut tick = || bar.inc(1);
        home::remove(name, uid, &mut tick)?;
        let private = view::private_root(name);
        home::remove_tree(rustix::fs::CWD, &private, &mut tick)
            .with_context(|| format!("cannot remove '{}'", private.display()))?;
        layers::remove(name, &mut tick)?;
        frozen::release_all(name, &mut tick)?;
        bar.finish_and_clear();
        Ok(())
    }

    /// A counter on a terminal, once it takes long enough to be read; nothing elsewhere.
    fn progress(&self, what: &str) -> ProgressBar {
        let target = match !self.cli.common.quiet && std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target).with_message(what.to_owned());
        match ProgressStyle::with_template("{spinner} {msg}: {pos} files, {elapsed}") {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }
}

impl Creation<'_> {
    /// What `create` prints of an environment, made now or before.
    fn answer(&self, record: &Record) -> Result<String> {
        Ok(if self.json { record::json_line(record)? } else { format!("{}\n", record.name) })
    }
}

/// Begins the deletion of `name`, and ends every process of it.
fn end(name: &Name) -> Result<()> {
    store::mark_deleted(name)?;
    holder::stop(name)
}

/// Adds the accounts of all who are `wanted`, by one rewrite of the account files.
fn add_accounts(wanted: &[(&Name, Wanted)]) -> Vec<Result<Ids>> {
    let names: Vec<&Name> = wanted.iter().map(|(name, _)| *name).collect();
    let add = || -> Result<Vec<Result<Ids>>> {
        let mut accounts = Accounts::lock(&names)?;
        let ids = wanted.iter().map(|(name, wanted)| accounts.add(name, *wanted)).collect();
        accounts.write(Order::PasswdLast)?;
        Ok(ids)
    };
    for_each(&names, add(), "cannot create account")
}

/// Removes the accounts of `names`, by one rewrite of the account files; returns what uids they had.
fn remove_accounts(names: &[&Name]) -> Vec<Result<Option<u32>>> {
    let remove = || -> Result<Vec<Result<Option<u32>>>> {
        if !accounts::mention(names) {
            return Ok(names.iter().map(|_| Ok(None)).collect());
        }
        let mut accounts = Accounts::lock(names)?;
        let uids = names.iter().map(|name| Ok(accounts.of(name).map(|ids| ids.uid))).collect();
        names.iter().for_each(|name| accounts.remove(name));
        accounts.write(Order::PasswdFirst)?;
        Ok(uids)
    };
    for_each(names, remove(), "cannot remove account")
}

/// `done` as the result of each of `names`: what failed for all of them is each one's failure, with `what`
/// in front.
fn for_each<T>(names: &[&Name], done: Result<Vec<Result<T>>>, what: &str) -> Vec<Result<T>> {
    let results = done.unwrap_or_else(|e| names.iter().map(|_| Err(Failure::again(&e).into())).collect());
    results.into_iter().zip(names).map(|(result, name)| result.with_context(|| format!("{what} '{name}'"))).collect()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// How many environments are created or deleted together, as far as descriptors go.
fn together_at_most() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = OPEN_BESIDE + OPEN_EACH * TOGETHER;
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
        let _ = setrlimit(Resource::Nofile, limit);
    }
    let open = getrlimit(Resource::Nofile).current.unwrap_or(wanted).min(wanted);
    usize::try_from(open.saturating_sub(OPEN_BESIDE) / OPEN_EACH).unwrap_or(1).max(1)
}

/// Writes data on standard output; a reader that is gone is an error that ends the tool quietly.
fn print(text: String) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to stdout")
}

fn create_plan(name: &Name, path: &Path, settings: &Settings) -> Vec<String> {
    let mut lines = vec![
        format!("create account {name}"),
        format!("create home {}", home::path(name).display()),
        format!("create record of {name} for path {}", shell_quoted(path.as_os_str())),
    ];
    lines.extend(
        settings.private.iter().map(|dir| format!("create private directory for {}", shell_quoted(dir.as_os_str()))),
    );
    if settings.project == Some(Project::Cow) {
        lines.push(format!("create layers of {name} over its project"));
    }
    lines
}

/// `settings` with further paths canonical and private directories relative to the project at `path`;
/// an empty value stays one.
fn resolved(settings: &Settings, path: &Path) -> Result<Settings> {
    let mut settings = settings.clone();
    let set = |list: &mut Vec<PathBuf>, resolve: &dyn Fn(&Path) -> Result<PathBuf>| -> Result<()> {
        list.iter_mut().filter(|item| !item.as_os_str().is_empty()).try_for_each(|item| {
            *item = resolve(item)?;
            Ok(())
        })
    };
    set(&mut settings.ro, &lbx::path::canonical)?;
    set(&mut settings.rw, &lbx::path::canonical)?;
    set(&mut settings.private, &|dir| below_project(dir, path))?;
    Ok(settings)
}

/// Changes `record` as `asked`, whose paths are resolved: a repeated option replaces the whole list, an
/// empty value clears it.
fn apply(record: &mut Record, asked: &Settings) {
    let paths = |list: &[PathBuf], old: &mut Vec<JsonPath>| {
        if !list.is_empty() {
            *old = list.iter().filter(|path| !path.as_os_str().is_empty()).cloned().map(JsonPath).collect();
            old.sort();
            old.dedup();
        }
    };
    paths(&asked.ro, &mut record.options.ro);
    paths(&asked.rw, &mut record.options.rw);
    paths(&asked.private, &mut record.options.private);
    let pairs = |list: &[(String, String)], old: &mut std::collections::BTreeMap<String, String>| {
        if !list.is_empty() {
            *old = list.iter().filter(|(key, _)| !key.is_empty()).cloned().collect();
        }
    };
    pairs(&asked.label, &mut record.labels);
    pairs(&asked.git, &mut record.options.git);
    record.options.project = asked.project.unwrap_or(record.options.project);
    record.renew_schema();
    record.options.net = asked.net.unwrap_or(record.options.net);
    record.options.nest = asked.nest.unwrap_or(record.options.nest);
    if let Some(shell) = &asked.shell {
        record.shell.clone_from(shell);
    }
}

/// The options in which two records differ.
fn differences(a: &Record, b: &Record) -> Vec<&'static str> {
    let (x, y) = (&a.options, &b.options);
    [
        ("--project", x.project != y.project),
        ("--ro", x.ro != y.ro),
        ("--rw", x.rw != y.rw),
        ("--private", x.private != y.private),
        ("--net", x.net != y.net),
        ("--nest", x.nest != y.nest),
        ("--git", x.git != y.git),
        ("--label", a.labels != b.labels),
        ("--shell", a.shell != b.shell),
    ]
    .into_iter()
    .filter_map(|(option, differs)| differs.then_some(option))
    .collect()
}

/// `dir` relative to the project, without `.` and `..`.
fn below_project(dir: &Path, project: &Path) -> Result<PathBuf> {
    let refuse = |why: &str| Err(Failure::new(format!("private directory '{}' {why}", dir.display())).into());
    let relative = match dir.strip_prefix(project) {
        Ok(relative) => relative,
        Err(_) if dir.is_absolute() => return refuse("is not in the project"),
        Err(_) => dir,
    };
    let mut clean = PathBuf::new();
    for component in relative.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => return refuse("leads out of the project"),
        }
    }
    if clean.as_os_str().is_empty() {
        return refuse("is the project itself");
    }
    Ok(clean)
}

/// Whether `path` is a file that anyone may execute.
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.is_absolute()
        && std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 == 0o111)
}

/// zsh where it is installed, else bash, else sh.
fn login_shell() -> PathBuf {
    let installed =
        ["/usr/bin/zsh", "/bin/zsh", "/usr/bin/bash", "/bin/bash"].into_iter().find(|path| Path::new(path).exists());
    installed.unwrap_or("/bin/sh").into()
}

/// Fails when the inside is to write `project` and could not; what is only read need not be writable.
fn require_writable(project: &Opened, path: &Path, settings: &Settings) -> Result<()> {
    match settings.project {
        Some(Project::Ro) => Ok(()),
        _ => project::require_owner_can_write(project, path),
    }
}

/// Makes what `wanted` needs for what its project is to be from now on.
fn change_project(wanted: &Record) -> Result<()> {
    if wanted.options.project == Project::Ro {
        return Ok(());
    }
    let path = wanted.project();
    let project = project::open_recorded(&path, wanted.owner)?;
    project::require_owner_can_write(&project, &path)?;
    // what an interrupted change left
    layers::remove(&wanted.name, &mut || ())?;
    layers::make(wanted, &project)
}

/// Fails when the inside has changed what nobody has looked at yet.
fn require_no_changes(record: &Record) -> Result<()> {
    let name = &record.name;
    if record.options.project != Project::Cow || (layers::is_empty(name)? && record.layers.project.is_empty()) {
        return Ok(());
    }
    Err(Failure::new(format!("environment '{name}' has changes that are not in its project"))
        .hint(format!("lbx-apply {name} puts them there, lbx-discard {name} drops them"))
        .into())
}

/// The uid of an environment whose deletion was begun.
fn deleted_uid(name: &Name) -> Option<u32> {
    let text = std::fs::read(record::deleted_file(name)).ok()?;
    Record::parse(&text, name).ok().map(|record| record.uid)
}

/// The directory `path`, which the caller means.
fn project_at(path: &Path) -> Result<PathBuf> {
    // first: a VM may well lack what its caller has
    let canonical = lbx::path::canonical(path)?;
    mounts::refuse_callers_home(&canonical)?;
    mounts::require_shared(&canonical)?;
    lbx::path::directory(path)
}

/// What a damaged record still says of the project, or its layers do: one that was not to be written is not
/// to become writable by a repair.
fn salvaged_project(name: &Name) -> Option<Project> {
    let said = || -> Option<Project> {
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(record::file(name)).ok()?).ok()?;
        serde_json::from_value(json.get("options")?.get("project")?.clone()).ok()
    };
    if lbx::layer::root(name).exists() { Some(Project::Cow) } else { said() }
}

/// The path of a damaged environment: what the operand says, else what the record still does.
fn salvaged_path(name: &Name, operand: &OsStr) -> Option<PathBuf> {
    if Name::parse(operand).is_none() {
        return lbx::path::canonical(Path::new(operand)).ok().filter(|path| name.fits(path));
    }
    let text = std::fs::read(record::file(name)).ok()?;
    let json: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let path = PathBuf::from(json.get("path")?.as_str()?);
    (path.is_absolute() && name.fits(&path)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_directory_lies_in_the_project() {
        let project = Path::new("/srv/p");
        assert_eq!(below_project(Path::new("target"), project).unwrap(), Path::new("target"));
        assert_eq!(below_project(Path::new("/srv/p/a/./b/"), project).unwrap(), Path::new("a/b"));
        for dir in [".", "", "/srv/p", "../x", "a/../../x", "/srv/q", "/"] {
            assert!(below_project(Path::new(dir), project).is_err(), "{dir}");
        }
    }

    #[test]
    fn a_repeated_option_replaces_the_list_and_an_empty_value_clears_it() {
        let path = PathBuf::from("/srv/p");
        let origin = Origin {
            name: Name::of(&path).unwrap(),
            path,
            owner: record::Owner { uid: 1, gid: 1, device: 1 },
            ownership: Ownership::Idmap,
            creator: 1000,
        };
        let mut record = Record::new(origin, 65536, 65536, "/bin/sh".into(), Options::default());
        apply(&mut record, &Settings { label: vec![("a".into(), "1".into())], ..Settings::default() });
        apply(
            &mut record,
            &Settings { label: vec![("b".into(), "2".into())], nest: Some(true), ..Settings::default() },
        );
        assert_eq!(record.labels.keys().collect::<Vec<_>>(), ["b"]);
        assert!(record.options.nest);
        apply(&mut record, &Settings { label: vec![(String::new(), String::new())], ..Settings::default() });
        assert!(record.labels.is_empty());
        assert!(record.options.nest, "what is not named stays");
    }
}
