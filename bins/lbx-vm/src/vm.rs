//! One VM, and what the verbs do to it. Every step may be repeated: a tool that was killed at any
//! instant leaves what the same command finishes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use lbx::Place;
use lbx::config::{self, Config};
use lbx::failure::{Failure, Result, Tool, fail, printable, say, status};
use lbx::path::shell_quoted;
use lbx::place::VARIABLE;
use lbx_vm::{Cli, Options};
use serde_json::json;

use crate::limactl::{Ended, Instance, Limactl, Log};
use crate::log::{console, telling};
use crate::machine::Machine;
use crate::phase::Phase;
use crate::store::{Lock, Store};
use crate::template::{self, Overlay};

mod changes;
mod mend;
mod way;

use changes::{canonical, changes};

/// A first boot installs packages over the network; limactl gives up itself a minute before.
const BOOT: Duration = Duration::from_secs(31 * 60);
/// Images are large, and networks slow.
const DOWNLOAD: Duration = Duration::from_secs(2 * 60 * 60);
/// A guest that shuts down as it should.
const SHUTDOWN: Duration = Duration::from_secs(150);

/// The VM that a place names.
pub(crate) struct Vm<'a> {
    tool: Tool,
    cli: &'a Cli,
    config: Config,
    place: Place,
    /// Whether this is the place where nothing names one.
    is_meant: bool,
    name: String,
    /// Lima's own directory of it.
    dir: PathBuf,
    store: Store,
}

impl<'a> Vm<'a> {
    /// # Errors
    /// The place has no VM; its instance has no name that Lima takes.
    pub(crate) fn at(tool: Tool, cli: &'a Cli) -> Result<Vm<'a>> {
        let config = config::load()?;
        // unlike the others, this tool has nothing to do at the place of this machine
        let unnamed = match config.on.is_none() && std::env::var_os(VARIABLE).is_none_or(|value| value.is_empty()) {
            true => "lima".parse()?,
            false => Place::resolve(None)?,
        };
        let place = cli.common.on.clone().unwrap_or_else(|| unnamed.clone());
        let Place::Lima(name) = &place else {
            return fail(
                Failure::new(format!("place '{place}' is no VM")).hint("--on lima names one").status(status::USAGE),
            );
        };
        let name = name.clone();
        let is_name = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if name.len() > 76 || !name.split(['-', '_', '.']).all(is_name) {
            return fail(
                Failure::new(format!("no VM can have the name '{name}'"))
                    .hint("letters and digits, and between them single '-', '_' or '.'")
                    .status(status::USAGE),
            );
        }
        let Some(home) = lbx_vm::lima_home() else { return fail(Failure::new("HOME is not set")) };
        let is_meant = unnamed == place;
        Ok(Vm { tool, cli, config, dir: home.join(&name), store: Store::of(&name)?, place, is_meant, name })
    }

    pub(crate) fn start(&self, existing: bool, template: Option<&Path>, options: &Options) -> Result<u8> {
        let options = canonical(options)?;
        let own = template.map(Overlay::read).transpose()?;
        if self.cli.dry_run {
            return self.plan_start(existing, own, &options);
        }
        if existing && !self.dir.exists() {
            return self.absent();
        }
        let phase = self.phase("starting");
        let lock = self.lock(&phase)?;
        let mut log = self.store.log(phase)?;
        match self.find()? {
            None if existing => return self.absent(),
            None => self.create(&lock, own, &options, &mut log)?,
            Some(instance) => {
                self.require_ours(&instance)?;
                if existing && self.is_half_made() {
                    return self.absent();
                }
                self.require_template(&instance, own.as_ref())?;
                self.ensure(&lock, instance, own, &options, &mut log)?;
            }
        }
        Ok(status::DONE)
    }

    pub(crate) fn stop(&self) -> Result<u8> {
        let Some(instance) = self.ours()? else { return self.absent() };
        if self.cli.dry_run {
            let running = instance.status != "Stopped" && !self.is_half_made();
            return self.print(running.then(|| self.line(&["stop", &self.name])));
        }
        let phase = self.phase("stopping");
        let _lock = self.lock(&phase)?;
        if let Some(instance) = self.ours()? {
            self.halt(&instance, &mut self.store.log(phase)?)?;
        }
        Ok(status::DONE)
    }

    pub(crate) fn restart(&self, options: &Options) -> Result<u8> {
        let options = canonical(options)?;
        let Some(instance) = self.ours()? else { return self.absent() };
        if self.cli.dry_run {
            let stop = (instance.status != "Stopped").then(|| self.line(&["stop", &self.name]));
            let edit =
                changes(&instance, &options)?.edit().map(|edit| self.line(&["edit", "--set", &edit, &self.name]));
            return self.print(stop.into_iter().chain(edit).chain([self.line(&self.start_words()), self.probe_line()]));
        }
        let phase = self.phase("restarting");
        let lock = self.lock(&phase)?;
        let mut log = self.store.log(phase)?;
        let Some(instance) = self.ours()? else { return self.absent() };
        // before anything is stopped for them
        changes(&instance, &options)?;
        self.halt(&instance, &mut log)?;
        let Some(instance) = self.ours()? else { return self.absent() };
        self.ensure(&lock, instance, None, &options, &mut log)?;
        Ok(status::DONE)
    }

    pub(crate) fn delete(&self) -> Result<u8> {
        if self.ours()?.is_none() {
            return Ok(status::DONE);
        }
        if self.cli.dry_run {
            return self.print([self.line(&["delete", "--force", &self.name])]);
        }
        let phase = self.phase("deleting");
        let _lock = self.lock(&phase)?;
        if self.ours()?.is_some() {
            self.remove(&mut self.store.log(phase)?)?;
        }
        Ok(status::DONE)
    }

    pub(crate) fn status(&self, json: bool) -> Result<u8> {
        let instance = self.ours()?;
        let state = match &instance {
            None => "absent",
            Some(_) if self.is_half_made() => "broken",
            Some(instance) => match instance.status.as_str() {
                "Stopped" => "stopped",
                "Running" if self.answers()? => "running",
                "Running" if self.booting().is_some() => "stopped",
                _ => "broken",
            },
        };
        let line = match json {
            true => self.json(state, instance.as_ref()).to_string(),
            false => state.to_owned(),
        };
        self.print([line])?;
        Ok(if state == "running" { status::DONE } else { status::NOT_RUNNING })
    }

    fn json(&self, state: &str, instance: Option<&Instance>) -> serde_json::Value {
        let mounts = instance.and_then(|instance| instance.config.as_ref()).map(|config| {
            let mount = |mount: &crate::limactl::Mount| json!({ "path": mount.point(), "writable": mount.writable });
            config.mounts.iter().map(mount).collect::<Vec<_>>()
        });
        json!({
            "name": self.name,
            "place": self.place.to_string(),
            "state": state,
            "arch": instance.and_then(|instance| instance.arch.as_ref()),
            "cpus": instance.and_then(|instance| instance.cpus),
            "memory_bytes": instance.and_then(|instance| instance.memory),
            "disk_bytes": instance.and_then(|instance| instance.disk),
            "mounts": mounts,
            "vm_type": instance.and_then(|instance| instance.vm_type.as_ref()),
            "lima_version": instance.and_then(|instance| instance.lima_version.as_ref()),
        })
    }

    /// What Lima knows of the VM; `None`: there is none, and limactl was not even asked.
    fn find(&self) -> Result<Option<Instance>> {
        if !self.dir.exists() {
            return Ok(None);
        }
        let listed = Limactl::find()?.list(&self.name)?;
        // gone meanwhile, or a directory that Lima passes over
        let unknown = || Instance { name: self.name.clone(), ..Instance::default() };
        Ok(listed.or_else(|| self.dir.exists().then(unknown)))
    }

    fn ours(&self) -> Result<Option<Instance>> {
        let found = self.find()?;
        if let Some(instance) = &found {
            self.require_ours(instance)?;
        }
        Ok(found)
    }

    fn require_ours(&self, instance: &Instance) -> Result<()> {
        if instance.param.contains_key(template::OURS) || self.is_half_made() || self.says_ours() {
            return Ok(());
        }
        fail(
            Failure::new(format!("VM '{}' was not made by llima-box", self.name))
                .hint("--on lima:NAME names another, and makes it"),
        )
    }

    fn require_template(&self, instance: &Instance, own: Option<&Overlay>) -> Result<()> {
        let Some(own) = own else { return Ok(()) };
        if self.is_half_made() || instance.param.get(template::FILE).is_some_and(|digest| digest == own.digest()) {
            return Ok(());
        }
        fail(
            Failure::new(format!("VM '{}' was made with another template", self.name))
                .hint(format!("a template counts when a VM is created: {} first", self.command("delete --yes"))),
        )
    }

    /// Whether a creation was cut off: one that came as far as a start was not, nor is one that somebody
    /// else has made meanwhile.
    fn is_half_made(&self) -> bool {
        let is_foreign = || self.dir.join("lima.yaml").metadata().is_ok_and(|yaml| yaml.len() > 0) && !self.says_ours();
        self.store.is_creating() && !self.dir.join("ha.stderr.log").exists() && !is_foreign()
    }

    /// Whether its file says that it is ours: what Lima cannot read may still be.
    fn says_ours(&self) -> bool {
        let yaml = std::fs::read_to_string(self.dir.join("lima.yaml")).unwrap_or_default();
        yaml.lines().any(|line| line.trim_start().starts_with(&format!("{}:", template::OURS)))
    }

    fn create(&self, lock: &Lock, own: Option<Overlay>, options: &Options, log: &mut Log) -> Result<()> {
        let limactl = Limactl::find()?;
        limactl.require_version()?;
        let yaml = self.template(own, options)?;
        let (read, mut write) = std::io::pipe().context("cannot make a pipe")?;
        log.phase.say("creating");
        self.store.mark_creating()?;
        let ended = lock.shared(|| {
            std::thread::scope(|scope| {
                // limactl may end without having read it all, and says why
                std::thread::Builder::new()
                    .spawn_scoped(scope, move || drop(write.write_all(yaml.as_bytes())))
                    .context("cannot start a thread")?;
                log.run(limactl.command(self.create_words()), read.into(), DOWNLOAD)
            })
        })?;
        if ended != Ended::Done {
            let failure = self.failure("cannot create", ended, log, false);
            if self.dir.exists() {
                self.remove(log)?;
            }
            self.store.unmark_creating()?;
            return Err(failure);
        }
        self.store.unmark_creating()?;
        let Some(instance) = self.find()? else {
            return fail(Failure::new(format!("VM '{}' is gone again", self.name)));
        };
        self.boot(&limactl, log)?;
        self.open_the_way(&instance, true, log)?;
        log.phase.end();
        if log.text().lines().any(|line| line == "packages are missing") && !self.cli.common.quiet {
            say(&format!(
                "{}: warning: the VM has no network to install packages from: its next start tries again\n",
                self.tool.name
            ));
        }
        Ok(())
    }

    fn template(&self, own: Option<Overlay>, options: &Options) -> Result<String> {
        let own = match (own, &self.config.vm.template) {
            (None, Some(path)) => Some(Overlay::read(path)?),
            (own, _) => own,
        };
        template::build(&Machine::look()?, &self.config.vm, own.as_ref(), options)
    }

    /// Has an instance that is there run; one that is there by halves is made first.
    fn ensure(
        &self,
        lock: &Lock,
        instance: Instance,
        own: Option<Overlay>,
        options: &Options,
        log: &mut Log,
    ) -> Result<()> {
        if !self.is_half_made() {
            return self.run(&instance, options, log);
        }
        self.note(|| format!("VM '{}' was left half created: creating it anew", self.name));
        self.remove(log)?;
        self.create(lock, own, options, log)
    }

    /// Has an instance that is there run, with `options`, and its way in open.
    fn run(&self, instance: &Instance, options: &Options, log: &mut Log) -> Result<()> {
        if instance.config.is_none() {
            let why = instance.errors.iter().find_map(|error| error.as_str()).unwrap_or("Lima cannot read it");
            return fail(Failure::new(format!("VM '{}' is damaged: {why}", self.name)).hint(format!(
                "limactl edit {} mends what it is; {} gives it up",
                self.name,
                self.command("delete --yes")
            )));
        }
        let changes = changes(instance, options)?;
        let mut status = instance.status.clone();
        if status == "Running" {
            if changes.is_empty() {
                return self.open_the_way(instance, false, log);
            }
            return fail(
                Failure::new(format!("VM '{}' runs with other options: {}", self.name, changes.words()))
                    .hint(self.command(&format!("restart {}", changes.words()))),
            );
        }
        let limactl = Limactl::find()?;
        limactl.require_version()?;
        if status != "Stopped" {
            status = self.settled(status)?;
        }
        match status.as_str() {
            "Running" => return self.open_the_way(instance, false, log),
            "Stopped" => {}
            _ => self.force(&limactl, log)?,
        }
        self.forget_connections();
        if let Some(edit) = changes.edit() {
            let words = ["--tty=false", "edit", "--set", &edit, &self.name];
            // limactl leaves a rejected file where it runs
            let mut command = limactl.command(words);
            command.current_dir(self.store.directory());
            let ended = log.run(command, Stdio::null(), SHUTDOWN)?;
            if ended != Ended::Done {
                return Err(self.failure("cannot change", ended, log, false));
            }
        }
        self.boot(&limactl, log)?;
        self.open_the_way(instance, false, log)
    }

    fn boot(&self, limactl: &Limactl, log: &mut Log) -> Result<()> {
        log.phase.say("booting");
        let begin = Instant::now();
        let mut ended = log.run(limactl.command(self.start_words()), Stdio::null(), BOOT)?;
        // whatever lay in its way: once more from a clean state
        let quick = begin.elapsed() < Duration::from_secs(60);
        let status = |vm: &Vm| Ok::<_, anyhow::Error>(vm.find()?.unwrap_or_default().status);
        if ended == Ended::Failed && quick && !matches!(status(self)?.as_str(), "Stopped" | "Running") {
            self.force(limactl, log)?;
            ended = log.run(limactl.command(self.start_words()), Stdio::null(), BOOT)?;
        }
        // Lima calls a VM degraded for less than what is needed here: the way in decides
        if ended == Ended::Done || status(self)? == "Running" {
            return Ok(());
        }
        Err(self.failure("cannot start", ended, log, true))
    }

    fn create_words(&self) -> [&str; 5] {
        ["--tty=false", "create", "--name", &self.name, "-"]
    }

    fn start_words(&self) -> [&str; 5] {
        ["--tty=false", "start", "--timeout", "30m", &self.name]
    }

    /// What would be done; where a VM would be created, as comments of its template.
    fn plan_start(&self, existing: bool, own: Option<Overlay>, options: &Options) -> Result<u8> {
        let found = self.ours()?;
        let start = self.line(&self.start_words());
        match found {
            None if existing => self.absent(),
            Some(_) if existing && self.is_half_made() => self.absent(),
            Some(instance) if !self.is_half_made() => {
                self.require_template(&instance, own.as_ref())?;
                let edit =
                    changes(&instance, options)?.edit().map(|edit| self.line(&["edit", "--set", &edit, &self.name]));
                let stop = (!matches!(instance.status.as_str(), "Running" | "Stopped"))
                    .then(|| self.line(&["stop", "--force", &self.name]));
                let start = (instance.status != "Running").then_some(start);
                self.print(stop.into_iter().chain(edit).chain(start).chain([self.probe_line()]))
            }
            found => {
                let delete = found.map(|_| self.line(&["delete", "--force", &self.name]));
                let steps = [self.line(&self.create_words()), start, self.probe_line()];
                let steps = delete.into_iter().chain(steps).map(|step| format!("# {step}"));
                self.print(steps.chain([self.template(own, options)?.trim_end().to_owned()]))
            }
        }
    }

    fn line(&self, words: &[&str]) -> String {
        let words = words.iter().filter(|word| **word != "--tty=false").map(|word| shell_quoted(word.as_ref()));
        ["limactl".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
    }

    fn probe_line(&self) -> String {
        let words: Vec<String> = self.probe_words().iter().map(|word| shell_quoted(word)).collect();
        format!("lbx-on {}", words.join(" "))
    }

    fn print(&self, lines: impl IntoIterator<Item = String>) -> Result<u8> {
        let text: String = lines.into_iter().map(|line| line + "\n").collect();
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to stdout")?;
        Ok(status::DONE)
    }

    fn phase(&self, what: &str) -> Phase {
        Phase::new(format!("{what} VM '{}'", self.name), self.cli.common.quiet || self.cli.common.verbose)
    }

    fn lock(&self, phase: &Phase) -> Result<Lock> {
        self.store.lock(|| {
            phase.say("another lbx-vm is at it");
            phase.tick();
            self.note(|| format!("waiting for another lbx-vm that changes VM '{}'", self.name));
        })
    }

    fn note(&self, text: impl FnOnce() -> String) {
        self.cli.common.note(self.tool, text);
    }

    fn absent(&self) -> Result<u8> {
        fail(
            Failure::new(format!("there is no VM '{}'", self.name))
                .hint(self.command("start"))
                .status(status::NOT_RUNNING),
        )
    }

    /// A command line of this tool for this VM, as a person would type it.
    fn command(&self, words: &str) -> String {
        match self.is_meant {
            true => format!("lbx-vm {words}"),
            false => format!("lbx-vm --on {} {words}", self.place),
        }
    }

    /// What the log tells of a failure: its last word in the message, those before it on lines of
    /// their own.
    fn failure(&self, what: &str, ended: Ended, log: &Log, with_console: bool) -> anyhow::Error {
        log.phase.end();
        let mut told = telling(&log.text());
        if with_console {
            let console_log = std::fs::read(self.dir.join("serial.log")).unwrap_or_default();
            let agent_log = std::fs::read_to_string(self.dir.join("ha.stderr.log")).unwrap_or_default();
            let agent = telling(&agent_log).into_iter().filter(|line| !told.contains(line)).collect::<Vec<_>>();
            told = [console(&String::from_utf8_lossy(&console_log)), agent, told].concat();
        }
        let last = match ended {
            Ended::Late => Some("it took too long".to_owned()),
            _ => told.pop(),
        };
        for line in told {
            say(&format!("{}: {}\n", self.tool.name, printable(&line)));
        }
        let cause = last.unwrap_or_else(|| "limactl failed".to_owned());
        let hint = format!("the whole log: {}", log.path.display());
        Failure::new(format!("{what} VM '{}': {cause}", self.name)).hint(hint).into()
    }
}
