//! Applying at the place `local`.

mod act;
mod applied;
mod aside;
mod change;
mod content;
mod dirs;
mod facts;
mod files;
mod journal;
mod merge;
mod plan;
mod sides;
mod source;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use lbx::caller::Caller;
use lbx::failure::{Failure, Result, Tool, fail, printable, say, status};
use lbx::layer::{self, Base};
use lbx::record::{self, Project, Record};
use lbx::sys::Looks;
use lbx::{Name, cli, selection};
use lbx_apply::Cli;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, ResolveFlags, flock, fstat, openat2};
use rustix::io::Errno;

use act::Outcome;
use applied::{Judge, Stamp, TICK};
use change::Change;
use journal::Journal;
use merge::Person;
use plan::{Conflicts, Left, Plan, Request, Step, Why};
use sides::{Layer, Sides};

/// After so many files the list of what was applied goes on.
const MANY: usize = 4096;

/// Applies what `cli` asks for.
pub(crate) fn apply(tool: Tool, cli: &Cli) -> Result<u8> {
    let begun = now();
    let record = record::open(&cli.selection.env)?;
    let caller = Caller::current();
    record.require_caller(caller)?;
    if record.options.project != Project::Cow {
        return fail(
            Failure::new(format!("environment '{}' writes its project itself: there is nothing to apply", record.name))
                .hint("lbx-env set --project cow, while it is stopped, gives it a layer of its own"),
        );
    }
    let project = record.project();
    let request = request(cli, &project)?;
    if request.wanted.as_ref().is_some_and(Vec::is_empty) {
        return Ok(status::DONE);
    }
    if cli.dry_run {
        let plan = plan::plan(&changes(&record.name)?, &request, &project);
        return show(tool, cli, &plan);
    }
    let person = person(caller, &record)?;
    let _alone = lock(&record.name)?;
    let base = Base::load(&record.name)?;
    let merge = |path: &Path, ours: &[u8], theirs: &[u8]| merge::merge(&person, &project, base, path, [ours, theirs]);
    let sides = sides(&record, &person, base, begun, &merge)?;
    if let Some(kept) = sides.recover().context("cannot end what a killed run left")? {
        let kept = printable(&kept.display().to_string());
        say(&format!("{}: a killed run was outrun: what was written meanwhile is kept as '{kept}'\n", tool.name));
    }
    // a time before which nothing changes any more
    std::thread::sleep(TICK);
    let changes = changes(&record.name)?;
    // what lay in the layer that is open may be in another by now
    if Record::load(&record.name).map_err(|why| why.failure(&record.name))?.layers != record.layers {
        return fail(
            Failure::new(format!("a snapshot of '{}' was made or restored meanwhile", record.name)).hint("once more"),
        );
    }
    let plan = plan::plan(&changes, &request, &project);
    note_unmatched(tool, cli, &request, &changes);
    if request.wanted.is_none() && !cli.selection.yes && !plan.steps.is_empty() && !agreed(&plan, &project)? {
        return Ok(status::FAILED);
    }
    carry_out(tool, cli, &sides, &plan, &request)
}

/// What the command line asks for.
fn request(cli: &Cli, project: &Path) -> Result<Request> {
    let conflicts = match (cli.force, cli.merge) {
        (true, _) => Conflicts::Force,
        (_, true) => Conflicts::Merge,
        _ => Conflicts::Leave,
    };
    let mut request = Request { conflicts, wanted: cli.selection.wanted(project)?, ..Request::default() };
    if !cli.selection.is_listed()? {
        request.named = request.wanted.iter().flatten().map(|wanted| wanted.path().to_owned()).collect();
    }
    Ok(request)
}

/// What `lbx-diff` tells of environment `name`.
fn changes(name: &Name) -> Result<Vec<Change>> {
    change::parse(&selection::changes(name)?)
}

/// As whom the project is written: the caller; root acts as the project's owner, whose the files are to be.
fn person(caller: Caller, record: &Record) -> Result<Person> {
    let owner = Caller { uid: record.owner.uid, gid: record.owner.gid };
    let caller = if caller.is_root() { owner } else { caller };
    let groups = match caller.is_root() {
        true => Vec::new(),
        false => caller.groups()?,
    };
    Ok(Person { caller, groups })
}

/// One at a time; until it is dropped.
fn lock(name: &Name) -> Result<File> {
    let path = layer::root(name);
    let dir = File::open(&path).with_context(|| format!("cannot open '{}'", path.display()))?;
    match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(dir),
        Err(Errno::WOULDBLOCK) => fail(Failure::new(format!("another lbx-apply is at work on environment '{name}'"))),
        Err(e) => Err(e).with_context(|| format!("cannot lock '{}'", path.display())),
    }
}

fn sides<'a>(
    record: &Record,
    person: &Person,
    base: Base,
    since: (i64, i64),
    merge: &'a sides::Merge<'a>,
) -> Result<Sides<'a>> {
    let name = &record.name;
    let looks = Looks::of(person.caller.uid, person.caller.gid, &person.groups)
        .with_context(|| format!("cannot act as uid {}", person.caller.uid))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let open = |path: &Path| {
        openat2(CWD, path, flags, Mode::empty(), resolve).with_context(|| format!("cannot open '{}'", path.display()))
    };
    let upper = Layer { dir: open(&layer::upper(name))?, uid: record.uid, gid: record.gid };
    let mut frozen = HashMap::new();
    for layer in &record.layers.project {
        let dir = open(&layer.upper()).map_err(|error| error.context(absent(name)))?;
        frozen.insert(layer.id.clone(), Layer { dir, uid: layer.uid, gid: layer.gid });
    }
    let path = record.project();
    let project = looks.take(|| open(&path)).context("cannot act as the caller")??;
    let stat = fstat(&project).with_context(|| format!("cannot look at '{}'", path.display()))?;
    if (stat.st_uid, stat.st_gid) != (record.owner.uid, record.owner.gid) {
        return fail(
            Failure::new(format!("owner of '{}' has changed", path.display()))
                .hint("lbx-env repair takes the new owner"),
        );
    }
    let open = |path: PathBuf| {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        options.open(&path).with_context(|| format!("cannot open '{}'", path.display()))
    };
    let list = open(layer::applied_file(name))?;
    let mut applied = Vec::new();
    (&list).read_to_end(&mut applied).context("cannot read the list of what was applied")?;
    if !applied.is_empty() && !applied.ends_with(b"\n") {
        // what a killed run was writing is no line, and no part of the next
        (&list).write_all(b"\n").context("cannot write the list of what was applied")?;
    }
    let journal = open(layer::root(name).join("applying"))?;
    // modes are what they are called for, from the start
    rustix::process::umask(Mode::empty());
    Ok(Sides {
        upper,
        frozen,
        project,
        path,
        person: looks,
        judge: Judge::new(base, &applied),
        since,
        known: RefCell::new(HashMap::new()),
        entered: RefCell::new(BTreeSet::new()),
        way: RefCell::default(),
        group: record.owner.gid,
        list,
        aside: format!(".lbx-apply.{name}"),
        journal: Journal::of(journal),
        merge,
    })
}

fn absent(name: &Name) -> Failure {
    Failure::new(format!("a frozen layer of '{name}' is missing")).hint(format!("lbx-env repair {name}"))
}

fn now() -> (i64, i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_secs().try_into().unwrap_or(i64::MAX), now.subsec_nanos().into())
}

/// Does the steps of `plan`, and goes on past those that fail.
fn carry_out(tool: Tool, cli: &Cli, sides: &Sides<'_>, plan: &Plan, request: &Request) -> Result<u8> {
    let mut status = status::DONE;
    let mut left = plan.left.clone();
    let mut applied: Vec<(PathBuf, Stamp)> = Vec::new();
    for step in &plan.steps {
        cli.common.note(tool, || step.to_string());
        match sides.act(step, request.named.contains(&step.path)) {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Applied(stamp)) => applied.push((step.path.clone(), stamp)),
            Ok(Outcome::Left(why)) => left.push(Left { path: step.path.clone(), why }),
            Ok(Outcome::NotEmpty) => left.push(Left { path: step.path.clone(), why: Why::NotEmpty }),
            Err(error) => {
                status = status.max(tool.report(&error));
                if is_hopeless(&error) {
                    break;
                }
            }
        }
        if applied.len() >= MANY {
            sides.remember(&sides.settled(&std::mem::take(&mut applied))?)?;
        }
    }
    sides.remember(&sides.settled(&applied)?)?;
    sides.remember(&sides.settled_directories()?)?;
    sides.journal.forget()?;
    Ok(status.max(tell_left(tool, cli, &left)))
}

/// Whether no further step can do better.
fn is_hopeless(error: &anyhow::Error) -> bool {
    let numbers = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO].map(Errno::raw_os_error);
    let number = |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<std::io::Error>()?.raw_os_error();
    error.chain().filter_map(number).any(|number| numbers.contains(&number))
}

/// Says what was left alone, and what can be done about it. The exit status.
fn tell_left(tool: Tool, cli: &Cli, left: &[Left]) -> u8 {
    for left in left {
        say(&format!("{}: {}\n", tool.name, printable(&left.to_string())));
    }
    let any = |is: fn(&Why) -> bool| left.iter().any(|left| is(&left.why));
    if any(|why| matches!(why, Why::Conflict(_))) && !cli.force {
        let merge = if cli.merge { "" } else { ", --merge merges files" };
        say(&format!("hint: --force takes the environment's{merge}, lbx-discard drops it\n"));
    }
    if any(|why| matches!(why, Why::LeadsOut(_) | Why::Special(_))) {
        say("hint: what is named itself on the command line is applied\n");
    }
    if left.is_empty() { status::DONE } else { status::FAILED }
}

/// Prints `plan`, and says what would be left alone.
fn show(tool: Tool, cli: &Cli, plan: &Plan) -> Result<u8> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut print = || -> std::io::Result<()> {
        for step in &plan.steps {
            writeln!(out, "{}", printable(&step.to_string()))?;
        }
        out.flush()
    };
    print().context("cannot write to stdout")?;
    Ok(tell_left(tool, cli, &plan.left))
}

/// A path that was typed and means no change may be a slip; one that is applied already is none.
fn note_unmatched(tool: Tool, cli: &Cli, request: &Request, changes: &[Change]) {
    for path in &request.named {
        if !cli.common.quiet && !changes.iter().any(|change| change.path.starts_with(path)) {
            let path = printable(&path.display().to_string());
            say(&format!("{}: nothing was changed: '{path}'\n", tool.name));
        }
    }
}

fn agreed(plan: &Plan, project: &Path) -> Result<bool> {
    let paths: BTreeSet<&Path> = plan.steps.iter().map(|step: &Step| step.path.as_path()).collect();
    let count = match paths.len() {
        1 => "1 change".to_owned(),
        many => format!("{many} changes"),
    };
    cli::agreed(&format!("Apply {count} to {}?", printable(&project.display().to_string())))
}
