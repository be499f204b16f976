//! A further VM beside the suite's, for the tests that kill, freeze or delete one.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tempfile::TempDir;

use crate::{Command, Place, command, home, only_at, std_command, text, tool, tool_file};

/// The name of the instance.
pub const INSTANCE: &str = "further";
/// The place that it is.
pub const PLACE: &str = "lima:further";

/// The instance, for one test at a time, and a project that may get an environment in it.
#[derive(Debug)]
pub struct Vm {
    dir: PathBuf,
    /// Gone before the next test begins.
    base: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Vm {
    /// The instance, whatever it is like; `None`: there are no VMs here.
    pub fn own() -> Option<Vm> {
        static ALONE: Mutex<()> = Mutex::new(());
        if !only_at(&[Place::Lima], "no VM is here") {
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        delete_at_the_end();
        let lima = std::env::var_os("LIMA_HOME").map_or_else(|| home().join(".lima"), PathBuf::from);
        let base = tempfile::Builder::new().prefix(INSTANCE).tempdir_in(home()).expect("a home can be written");
        let vm = Vm { dir: lima.join(INSTANCE), base, _alone: alone };
        let settings = format!("vm: {{template: {}, memory: 1GiB}}\n", vm.template().display());
        std::fs::create_dir_all(vm.project()).expect("a home can be written");
        std::fs::create_dir_all(vm.config().join("llima-box")).expect("a home can be written");
        std::fs::write(vm.config().join("llima-box/config.yaml"), settings).expect("a home can be written");
        std::fs::write(vm.template(), overlay()).expect("a home can be written");
        Some(vm)
    }

    /// The instance as it runs: no test has to answer for the one before it.
    pub fn running() -> Option<Vm> {
        let vm = Vm::own()?;
        if !vm.start().output().expect("lbx-vm can be run").status.success() {
            vm.must(&["restart"]);
        }
        Some(vm)
    }

    /// Lima's own directory of the instance.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of the project.
    pub fn project(&self) -> PathBuf {
        self.base.path().join("project")
    }

    fn config(&self) -> PathBuf {
        self.base.path().join("config")
    }

    fn template(&self) -> PathBuf {
        self.base.path().join("template.yaml")
    }

    /// `lbx-vm --on PLACE WORDS`, where another place is the usual one.
    pub fn command(&self, words: &[&str]) -> std::process::Command {
        let mut vm = std_command(tool_file("lbx-vm"));
        vm.args(["--on", PLACE]).args(words).stdin(Stdio::null());
        vm
    }

    /// As [`Vm::command`], which must succeed. Returns what it printed.
    pub fn must(&self, words: &[&str]) -> String {
        let output = self.command(words).output().expect("lbx-vm can be run");
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// What has it run, made where there is none: as the suite's own VM, but smaller.
    pub fn start(&self) -> std::process::Command {
        let mut start = self.command(&["start", "--memory", "1GiB", "--template"]);
        start.arg(self.template());
        start
    }

    /// Has it run.
    pub fn runs(&self) {
        let output = self.start().output().expect("lbx-vm can be run");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(self.state(), "running");
    }

    /// The word of `lbx-vm status`.
    pub fn state(&self) -> String {
        let output = self.command(&["status"]).output().expect("lbx-vm can be run");
        let word = String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned();
        assert_eq!(output.status.code(), Some(if word == "running" { 0 } else { 3 }), "{word}");
        word
    }

    /// How often `limactl create` has been run for it.
    pub fn creations(&self) -> usize {
        let log = home().join(format!(".local/state/llima-box/vm-{INSTANCE}.log"));
        std::fs::read_to_string(log).unwrap_or_default().matches(" create --name ").count()
    }

    /// Sends `signal` to the process whose number is in `file`.
    pub fn signal(&self, signal: &str, file: &str) {
        assert!(self.try_signal(signal, file), "{signal} {file}");
    }

    fn try_signal(&self, signal: &str, file: &str) -> bool {
        let Ok(pid) = std::fs::read_to_string(self.dir.join(file)) else { return false };
        std_command("kill").args([signal, pid.trim()]).status().is_ok_and(|status| status.success())
    }

    /// Runs `limactl WORDS`, behind the tools' back.
    pub fn limactl(&self, words: &[&str]) {
        command("limactl").args(["--tty=false"]).args(words).assert().success();
    }

    /// `words` as the command of the person's account in the guest.
    pub fn ssh(&self, words: &[&str]) -> Command {
        let mut ssh = command("ssh");
        ssh.arg("-F").arg(self.dir.join("ssh.config")).arg(format!("lima-{INSTANCE}")).arg(shell_words::join(words));
        ssh
    }

    /// `script` as the guest's root.
    pub fn guest(&self, script: &str) -> Command {
        self.ssh(&["sudo", "-n", "sh", "-euc", script])
    }

    /// The tool `name` in the project, with this place as the usual one.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = tool(name);
        command.env("LBX_ON", PLACE).env("XDG_CONFIG_HOME", self.config()).current_dir(self.project());
        command
    }

    /// As [`Vm::tool`], for tests that spawn and wait themselves.
    pub fn std_tool(&self, name: &str) -> std::process::Command {
        let mut tool = std_command(tool_file(name));
        tool.env("LBX_ON", PLACE).env("XDG_CONFIG_HOME", self.config()).current_dir(self.project());
        tool.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        tool
    }

    /// `lbx-enter . -- sh -c SCRIPT`
    pub fn enter(&self, script: &str) -> Command {
        let mut enter = self.tool("lbx-enter");
        enter.args([".", "--", "sh", "-c", script]);
        enter
    }

    /// As [`Vm::enter`], begun.
    pub fn begin(&self, script: &str) -> Child {
        let mut enter = self.std_tool("lbx-enter");
        enter.args([".", "--", "sh", "-c", script]).spawn().expect("lbx-enter can be run")
    }

    /// An environment whose home and project hold a file each.
    pub fn create(&self) -> String {
        let name = text(self.tool("lbx-env").args(["create", "."]).assert().success()).trim().to_owned();
        // what no disk has yet is nobody's promise
        self.enter("echo in the home >~/kept; echo in the project >kept; sync").assert().success();
        name
    }

    /// The next call is as if nothing had been.
    pub fn is_back(&self) {
        self.enter("cat ~/kept kept; pwd")
            .assert()
            .success()
            .stdout(format!("in the home\nin the project\n{}\n", self.project().display()));
    }

    /// A call that runs until it is ended.
    pub fn long_call(&self) -> Child {
        let mut call = self.begin("echo ready; sleep 10000");
        let mut line = String::new();
        let stdout = call.stdout.as_mut().expect("stdout is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        call
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.try_signal("-CONT", "qemu.pid");
        let _ = self.tool("lbx-env").args(["delete", "-f", "."]).output();
    }
}

/// Has the instance go with this program, however that ends.
fn delete_at_the_end() {
    static WATCH: OnceLock<Child> = OnceLock::new();
    WATCH.get_or_init(|| {
        let mut watch = std_command("sh");
        // its standard input ends when this program does
        watch.args(["-c", "cat; exec \"$@\"", "sh"]).arg(tool_file("lbx-vm")).args(["--on", PLACE, "delete", "--yes"]);
        // what ends the whole group of this program does not end it
        watch.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        watch.spawn().expect("sh can be run")
    });
}

/// What is laid over the template: as for the suite's own VM, but the size is for options and the
/// config file to say, and files are shared as this run wants.
fn overlay() -> String {
    let file = std::env::var_os("LBX_TEST_TEMPLATE").expect("scripts/place names the template of VMs");
    let whole = std::fs::read_to_string(file).expect("the template of VMs can be read");
    let mut overlay: String = whole.split_inclusive('\n').filter(|line| !line.starts_with("memory:")).collect();
    if std::env::var("LBX_TEST_VIRTIOFS").as_deref() == Ok("1") {
        overlay.push_str("mountType: virtiofs\n");
    }
    overlay
}
