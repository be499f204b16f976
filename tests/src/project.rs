//! A project directory whose environment goes with it.

use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::{Command, Place, User, command, home, machine, near, place, text, tool, tool_file};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Where projects lie that belong to whoever calls the tools: a VM has their home alone.
pub fn root() -> PathBuf {
    match place() {
        Place::Lima => home(),
        _ => "/srv".into(),
    }
}

/// A directory that is a project, in a directory of its own. When it is dropped, its environment
/// and the directory go.
#[derive(Debug)]
pub struct Project {
    base: PathBuf,
    path: PathBuf,
}

impl Project {
    /// A project of whoever calls the tools.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Project {
        Project::named(OsStr::new("app"))
    }

    /// As [`Project::new`], whose last component is `name`.
    pub fn named(name: impl AsRef<OsStr>) -> Project {
        Project::inside(&root(), name.as_ref())
    }

    /// A project with `script` done in it outside, and with a copy-on-write environment.
    pub fn cow(script: &str) -> Project {
        let project = Project::new();
        project.outside(script);
        project.create(&["--project", "cow"]);
        project
    }

    /// A project in `user`'s home that belongs to them.
    pub fn owned_by(user: &User) -> Project {
        let project = Project::inside(user.home(), OsStr::new("app"));
        for dir in [&project.base, &project.path] {
            chown(dir, Some(user.uid), Some(user.gid)).expect("root may chown, and it is the caller's in a VM");
        }
        project
    }

    /// A project called `name` in a new directory below `parent`.
    pub fn inside(parent: &Path, name: &OsStr) -> Project {
        let base = parent.join(format!("lbx-test.{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let path = base.join(name);
        std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
        Project { base, path }
    }

    /// The project's directory, canonical.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that holds the project's, and that is its alone.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The project's directory as text, where the test made it of UTF-8.
    pub fn str(&self) -> &str {
        self.path.to_str().expect("a path of UTF-8")
    }

    /// The name that `lbx-name` gives.
    pub fn name(&self) -> String {
        let output = text(tool("lbx-name").arg("--").arg(&self.path).assert().success());
        output.trim_end_matches('\n').to_owned()
    }

    /// Creates the environment with `options`, and returns its name.
    pub fn create(&self, options: &[&str]) -> String {
        let output = text(self.env_tool("create").args(options).arg("--").arg(&self.path).assert().success());
        output.trim_end_matches('\n').to_owned()
    }

    /// `lbx-env VERB`, without operand.
    pub fn env_tool(&self, verb: &str) -> Command {
        let mut command = tool("lbx-env");
        command.arg(verb);
        command
    }

    /// Runs `lbx-env VERB PATH`, which must succeed and be silent on stdout.
    pub fn must(&self, verb: &str) {
        self.env_tool(verb).arg("--").arg(&self.path).assert().success().stdout("");
    }

    /// `lbx-enter PATH -- WORDS`
    pub fn enter<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = tool("lbx-enter");
        // an absolute path never looks like an option
        command.arg(&self.path).arg("--").args(words);
        command
    }

    /// Runs `script` by sh inside; it must succeed. Returns what it printed.
    pub fn sh(&self, script: &str) -> String {
        text(self.enter(["sh", "-euc", script]).assert().success())
    }

    /// Runs `script` by sh in the project, outside; it must succeed. Returns what it printed.
    pub fn outside(&self, script: &str) -> String {
        near(&format!("cd '{}'; {script}", self.str()))
    }

    /// The words of [`Project::enter`], for a terminal or another program to run.
    pub fn enter_words(&self, words: &[&str]) -> Vec<std::ffi::OsString> {
        let mut all = vec![tool_file("lbx-enter").into(), self.path.clone().into(), "--".into()];
        all.extend(words.iter().map(Into::into));
        all
    }

    /// What `lbx-ls` says of the environment.
    pub fn record(&self) -> Value {
        let name = self.name();
        machine::listed(&name).unwrap_or_else(|| panic!("lbx-ls does not list {name}"))
    }

    /// The state that `lbx-ls` shows.
    pub fn state(&self) -> String {
        self.record()["state"].as_str().expect("state is a string").to_owned()
    }

    /// Whether the environment has the uid of the project's owner, as no ids can be mapped there.
    pub fn shares_uid(&self) -> bool {
        self.record()["ownership"] == "shared-uid"
    }

    /// Writes a file of the project, with its parents, from outside.
    pub fn write(&self, file: &str, content: &str) {
        let file = self.path.join(file);
        std::fs::create_dir_all(file.parent().expect("a file has a parent")).expect("parents can be made");
        std::fs::write(&file, content).unwrap_or_else(|e| panic!("cannot write {}: {e}", file.display()));
    }

    /// Reads a file of the project from outside.
    pub fn read(&self, file: &str) -> String {
        let file = self.path.join(file);
        std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("cannot read {}: {e}", file.display()))
    }
}

impl AsRef<OsStr> for Project {
    fn as_ref(&self) -> &OsStr {
        self.path.as_os_str()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // every environment of it, also those of other names; a half-made one is found by its path alone
        let names = tool("lbx-ls").args(["--names", "--containing"]).arg(&self.path).output();
        let names = names.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        for operand in names.lines().map(OsStr::new).chain([self.path.as_os_str()]) {
            let deleted = tool("lbx-env").args(["delete", "-f", "--"]).arg(operand).output();
            if let Ok(output) = deleted
                && !output.status.success()
            {
                eprintln!("cannot delete the environment {}: {output:?}", operand.display());
            }
        }
        // a test may have left files that only a loop of rm removes, or mounts
        let _ = command("umount").args(["-R", "-q"]).arg(&self.path).output();
        let _ = command("rm").args(["-rf", "--one-file-system", "--"]).arg(&self.base).output();
    }
}
