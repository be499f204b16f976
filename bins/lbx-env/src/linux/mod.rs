//! What the verbs do at the place `local`. Every step may be repeated: a tool that was killed at any
//! instant leaves what the same command finishes.

use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lbx::caller::Caller;
use lbx::failure::{Tool, status};
use lbx::path::{JsonPath, shell_quoted};
use lbx::record::{self, Options, Origin, Ownership, Record, Unreadable};
use lbx::{Failure, Name, Result, step};
use lbx_env::{Cli, Create, Settings, Verb};

mod accounts;
mod etc;
mod holder;
mod home;
mod mounts;
mod plan;
mod project;
mod store;
mod view;

use accounts::{Accounts, Ids, Order, Wanted};
use project::{Opened, Right};
use store::Lock;

/// Does what `cli` says, to each operand in turn; goes on past failures.
pub(crate) fn act(tool: Tool, cli: &Cli) -> Result<u8> {
    // what is made here has the mode that is asked for
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let session = Session { tool, cli, caller: Caller::current() };
    match &cli.verb {
        Verb::Create { options, exclusive, json, paths, .. } => {
            session.each(paths, |path| session.create(Path::new(path), options, *exclusive, *json))
        }
        Verb::Set { options, envs } => session.each(&envs.envs, |env| session.set(env, options)),
        Verb::Start { envs } => session.each(&envs.envs, |env| session.start(env)),
        Verb::Stop { envs } => session.each(&envs.envs, |env| session.stop(env)),
        Verb::Repair { envs } => session.each(&envs.envs, |env| session.repair(env)),
        Verb::Delete { force, envs } => session.each(&envs.envs, |env| session.delete(env, *force)),
    }
}

struct Session<'a> {
    tool: Tool,
    cli: &'a Cli,
    caller: Caller,
}

impl Session<'_> {
    fn each(&self, operands: &[std::ffi::OsString], mut verb: impl FnMut(&OsStr) -> Result<()>) -> Result<u8> {
        let mut ended = status::DONE;
        for operand in operands {
            if let Err(e) = verb(operand) {
                // nobody reads any more: the others need not be told
                if e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
                    return Err(e);
                }
                ended = ended.max(self.tool.report(&e));
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
            print(lines().iter().map(|line| lbx::failure::printable(line) + "\n"))?;
        }
        Ok(self.cli.dry_run)
    }

    fn create(&self, path: &Path, options: &Create, exclusive: bool, json: bool) -> Result<()> {
        let path = project_at(path)?;
        let passwd = accounts::passwd()?;
        project::refuse_system(&path, &passwd)?;
        let name = match &options.name {
            Some(word) => Name::with_word(word, &path),
            None => record::find(path.as_os_str())?.map_or_else(|| Name::of(&path), Ok)?,
        };
        let answer = |record: &Record| match json {
            true => print([record::json_line(record)?]),
            false => print([format!("{name}\n")]),
        };
        if let Some(record) = self.existing(&name, &path, &options.settings, exclusive)? {
            return answer(&record);
        }
        let project = project::open_for(self.caller, &path, Right::Own)?;
        project::require_owner_can_write(&project, &path)?;
        let settings = self.checked(&options.settings, &path, &passwd)?;
        if self.cli.dry_run {
            home::refuse_foreign(&name)?;
        }
        if self.planned(|| create_plan(&name, &path, &settings))? {
            return Ok(());
        }
        let lock = Lock::of(&name)?;
        if let Some(record) = self.existing(&name, &path, &options.settings, exclusive)? {
            return answer(&record);
        }
        if let Err(e) = home::refuse_foreign(&name) {
            // nothing of it was ever made, but the directory of its lock
            let is_new = accounts::passwd().is_ok_and(|passwd| accounts::ours(&passwd, &name).is_none());
            if is_new && !store::is_marked_deleted(&name) {
                let _ = store::forget(&name, lock);
            }
            return Err(e);
        }
        if store::is_marked_deleted(&name) {
            self.remove(&name, None)?;
            store::unmark_deleted(&name)?;
        }
        match self.make(&name, &path, &project, settings) {
            Ok(record) => answer(&record),
            Err(e) => {
                // nothing half-made remains; what cannot be undone now, the next run undoes
                let _ = self.remove(&name, None).and_then(|()| store::forget(&name, lock));
                Err(e.context(format!("cannot create environment '{name}'")))
            }
        }
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

    /// Makes the environment `name`, whose lock is held: account, home, private directories, and
    /// the record last.
    fn make(&self, name: &Name, path: &Path, project: &Opened, settings: Settings) -> Result<Record> {
        project::require_owner_can_write(project, path)?;
        let (ids, ownership) = self.account(name, project, Wanted::Fresh)?;
        let owner = project.owner;
        let origin = Origin { name: name.clone(), path: path.to_owned(), owner, ownership, creator: self.caller.uid };
        let mut record = Record::new(origin, ids.uid, ids.gid, login_shell(), Options::default());
        apply(&mut record, &settings);
        record.worktree = project::worktree(self.caller, path)?;
        home::make(name, ids)?;
        view::make_private(&record)?;
        store::touch(&record::last_used_file(name))?;
        store::save(&record)?;
        self.note(|| format!("created environment '{name}' of path '{}'", path.display()));
        Ok(record)
    }

    /// The account of `name`, with the uid that the project's file system asks for.
    fn account(&self, name: &Name, project: &Opened, wanted: Wanted) -> Result<(Ids, Ownership)> {
        let add = |wanted| -> Result<Ids> {
            let mut accounts = Accounts::lock()?;
            let ids = accounts.add(name, wanted)?;
            accounts.write(Order::PasswdLast)?;
            Ok(ids)
        };
        let add = |wanted| add(wanted).with_context(|| format!("cannot create account '{name}'"));
        let ids = add(wanted)?;
        if let Some(ownership) = project::observe_ownership(project, ids)? {
            return Ok((ids, ownership));
        }
        let owner = Ids { uid: project.owner.uid, gid: project.owner.gid };
        if owner.uid == 0 {
            return Err(Failure::new(
                "project is root's, on a file system without id-mapped mounts: its uid cannot be shared",
            )
            .hint("give the project to an ordinary user, or move it")
            .into());
        }
        Ok((add(Wanted::Shared(owner))?, Ownership::SharedUid))
    }

    fn set(&self, env: &OsStr, asked: &Settings) -> Result<()> {
        let name = record::require(env)?;
        let read = || Record::load(&name).map_err(|why| why.failure(&name));
        let passwd = accounts::passwd()?;
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
        view::make_private(&wanted)?;
        store::save(&wanted)
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
                project::refuse_system(&path, &accounts::passwd()?)?;
                let project = project::open_for(self.caller, &path, Right::Own)?;
                holder::stop(&name)?;
                self.make(&name, &path, &project, Settings::default())?;
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
            opened = project::open_for(self.caller, &record.project(), Right::Own)?;
        }
        let kept = Accounts::lock()?.of(&record.name);
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
        home::make(&record.name, ids)?;
        view::make_private(&record)?;
        store::touch(&record::last_used_file(&record.name))
    }

    fn delete(&self, env: &OsStr, force: bool) -> Result<()> {
        let name = match record::find(env)? {
            Some(name) => name,
            None if force => return Ok(()),
            None => record::require(env)?,
        };
        if self.planned(|| {
            let home = home::path(&name);
            ["end every process of", "remove account", "remove home", "remove record of"]
                .iter()
                .map(|step| match *step {
                    "remove home" => format!("{step} {}", home.display()),
                    step => format!("{step} {name}"),
                })
                .collect()
        })? {
            return Ok(());
        }
        self.require_mine(&name)?;
        let lock = Lock::of(&name)?;
        let uid = Record::load(&name).ok().map(|record| record.uid);
        self.remove(&name, uid)?;
        store::forget(&name, lock)?;
        self.note(|| format!("deleted environment '{name}'"));
        Ok(())
    }

    /// Removes what `name` has, all but its directory of records. Repeatable; nothing has to be there.
    fn remove(&self, name: &Name, uid: Option<u32>) -> Result<()> {
        store::mark_deleted(name)?;
        holder::stop(name)?;
        let uid = if !accounts::mention(name) {
            uid
        } else {
            let mut accounts = Accounts::lock()?;
            let ids = accounts.of(name);
            accounts.remove(name);
            accounts.write(Order::PasswdFirst).with_context(|| format!("cannot remove account '{name}'"))?;
            uid.or(ids.map(|ids| ids.uid))
        }
        .or_else(|| deleted_uid(name));
        let bar = self.progress(&format!("removing the home of {name}"));
        let mut tick = || bar.inc(1);
        home::remove(name, uid, &mut tick)?;
        let private = view::private_root(name);
        home::remove_tree(rustix::fs::CWD, &private, &mut tick)
            .with_context(|| format!("cannot remove '{}'", private.display()))?;
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

/// Writes data on standard output; a reader that is gone is an error that ends the tool quietly.
fn print(lines: impl IntoIterator<Item = String>) -> Result<()> {
    let text: String = lines.into_iter().collect();
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
