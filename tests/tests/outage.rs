//! A VM that is killed, frozen, stopped, rebooted or deleted while it is in use: calls end soon and
//! say why, and the next one brings everything back.
//!
//! The tests share an instance of their own beside the suite's. Times are the promised ones, whatever
//! the machine.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lbx_tests::{
    Command, Place, bin_dir, command, eventually, home, near, only_at, place, repository, std_command, text, tool,
    tool_file,
};
use predicates::str::contains;
use tempfile::TempDir;

const INSTANCE: &str = "outage";
const PLACE: &str = "lima:outage";

/// The instance, for one test at a time, and a project in it.
struct Vm {
    dir: PathBuf,
    /// Gone before the next test begins.
    project: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Vm {
    /// `None`: there are no VMs here.
    fn own() -> Option<Vm> {
        static ALONE: Mutex<()> = Mutex::new(());
        if !only_at(&[Place::Lima], "no VM is here") {
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let lima = std::env::var_os("LIMA_HOME").map_or_else(|| home().join(".lima"), PathBuf::from);
        let project = tempfile::Builder::new().prefix("outage").tempdir_in(home()).unwrap();
        let vm = Vm { dir: lima.join(INSTANCE), project, _alone: alone };
        // whatever a test that failed has left
        if vm.dir.join("qemu.pid").exists() {
            let _ = vm.try_signal("-CONT");
        }
        std::fs::create_dir_all(vm.config().join("llima-box")).unwrap();
        std::fs::write(vm.config().join("llima-box/config.yaml"), "vm: {template: ~/outage.yaml, memory: 1GiB}\n")
            .unwrap();
        std::fs::write(home().join("outage.yaml"), overlay(&lima)).unwrap();
        // nor has a test to answer for the one before it
        if !vm.tool("lbx-vm").arg("start").output().unwrap().status.success() {
            vm.tool("lbx-vm").arg("restart").assert().success();
        }
        Some(vm)
    }

    fn config(&self) -> PathBuf {
        self.project.path().join(".config")
    }

    fn std_tool(&self, name: &str) -> std::process::Command {
        let mut tool = std_command(tool_file(name));
        tool.env("LBX_ON", PLACE).env("XDG_CONFIG_HOME", self.config()).stdin(Stdio::null());
        tool.current_dir(self.project.path());
        tool
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = tool(name);
        command.env("LBX_ON", PLACE).env("XDG_CONFIG_HOME", self.config()).current_dir(self.project.path());
        command
    }

    /// `lbx-enter . -- sh -c SCRIPT`
    fn enter(&self, script: &str) -> Command {
        let mut enter = self.tool("lbx-enter");
        enter.args([".", "--", "sh", "-c", script]);
        enter
    }

    /// An environment whose home and project hold a file each.
    fn create(&self) -> String {
        let name = text(self.tool("lbx-env").args(["create", "."]).assert().success()).trim().to_owned();
        // what no disk has yet is nobody's promise
        self.enter("echo in the home >~/kept; echo in the project >kept; sync").assert().success();
        name
    }

    /// The next call is as if nothing had been.
    fn is_back(&self) {
        self.enter("cat ~/kept kept; pwd")
            .assert()
            .success()
            .stdout(format!("in the home\nin the project\n{}\n", self.project.path().display()));
    }

    /// A call that runs until it is ended.
    fn long_call(&self) -> Child {
        let mut enter = self.std_tool("lbx-enter");
        enter.args([".", "--", "sh", "-c", "echo ready; sleep 10000"]);
        let mut call = enter.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(call.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        call
    }

    fn try_signal(&self, signal: &str) -> bool {
        let pid = std::fs::read_to_string(self.dir.join("qemu.pid")).unwrap_or_default();
        std_command("kill").args([signal, pid.trim()]).status().unwrap().success()
    }

    fn signal(&self, signal: &str) {
        assert!(self.try_signal(signal));
    }

    fn state(&self) -> String {
        let output = self.std_tool("lbx-vm").arg("status").output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn limactl(&self, words: &[&str]) {
        command("limactl").args(["--tty=false"]).args(words).assert().success();
    }

    /// `script` as the guest's root.
    fn guest(&self, script: &str) -> Command {
        let mut ssh = command("ssh");
        ssh.arg("-F").arg(self.dir.join("ssh.config")).arg(format!("lima-{INSTANCE}"));
        ssh.arg(shell_words::join(["sudo", "-n", "sh", "-euc", script]));
        ssh
    }

    /// No look starts the VM, and each says how it is started.
    fn looks_leave_it_stopped(&self) {
        let hint = format!("hint: lbx-vm --on {PLACE} start\n");
        for words in [&["lbx-ls"][..], &["lbx-ls", "--names"], &["llima-box", "list"]] {
            let output = self.std_tool(words[0]).args(&words[1..]).output().unwrap();
            assert_eq!(output.status.code(), Some(3), "{words:?}: {output:?}");
            assert!(output.stdout.is_empty() && said(&output).ends_with(&hint), "{words:?}: {output:?}");
        }
        self.tool("llima-box").arg("shel").assert().failure();
        // and TAB
        let complete = r#"compopt() { :; }; . "$1"; COMP_WORDS=(lbx-enter ""); COMP_CWORD=1; COMP_LINE="lbx-enter "; COMP_POINT=10; _lbx; echo "${COMPREPLY[@]}""#;
        let mut bash = command("bash");
        bash.args(["--norc", "-c", complete, "bash"]).arg(repository().join("completions/bash/llima-box"));
        bash.env("LBX_ON", PLACE).env("PATH", format!("{}:/usr/bin:/bin", bin_dir().display()));
        bash.assert().success().stderr("");
        assert_eq!(self.state(), "stopped");
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.try_signal("-CONT");
        let _ = self.tool("lbx-env").args(["delete", "-f", "."]).output();
    }
}

/// tests/lima/override.yaml with the image that the suite's own VM was made of.
fn overlay(lima: &std::path::Path) -> String {
    let on = lbx_tests::place::on();
    let instance = on.split_once(':').map_or("agents", |(_, instance)| instance);
    let yaml = std::fs::read_to_string(lima.join(instance).join("lima.yaml")).unwrap();
    let image = yaml.lines().find_map(|line| line.split_once("location: ")?.1.strip_suffix("/disk.qcow2")).unwrap();
    let overlay = std::fs::read_to_string(repository().join("tests/lima/override.yaml")).unwrap();
    overlay.replace("@IMAGE@", image.trim_start_matches('"'))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// That `call` ends as a failure of the tool's own within `limit` from `start`; what it says.
fn fails_within(mut call: Child, start: Instant, limit: Duration) -> String {
    let status = loop {
        if let Some(status) = call.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < limit * 4, "it hangs");
        std::thread::sleep(Duration::from_millis(10));
    };
    let took = start.elapsed();
    let mut said = String::new();
    call.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(125), "{said}");
    assert!(took < limit, "{took:?}: {said}");
    said
}

#[test]
fn a_vm_killed_in_mid_call_ends_the_call_and_the_next_one_brings_it_back() {
    let Some(vm) = Vm::own() else { return };
    let name = vm.create();
    let call = vm.long_call();
    let start = Instant::now();
    vm.signal("-KILL");
    let why = fails_within(call, start, Duration::from_secs(5));
    assert!(why.starts_with("lbx-on: the connection was lost while the command ran"), "{why}");
    vm.is_back();
    let names = text(vm.tool("lbx-ls").arg("--names").assert().success());
    assert!(names.lines().any(|line| line == name), "{names}");
}

#[test]
fn a_frozen_vm_ends_calls_in_time_and_works_when_it_wakes() {
    let Some(vm) = Vm::own() else { return };
    vm.create();
    let call = vm.long_call();
    let start = Instant::now();
    vm.signal("-STOP");
    // others that begin meanwhile
    let begin = |tool: &str, words: &[&str]| {
        vm.std_tool(tool).args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let second = begin("lbx-enter", &[".", "--", "true"]);
    let list = begin("lbx-ls", &[]);
    let limit = Duration::from_secs(15);
    for call in [call, second] {
        let why = fails_within(call, start, limit);
        assert!(why.starts_with("lbx-on: 'lima:outage' does not answer: nothing came for 12 seconds\nhint: "), "{why}");
    }
    let list = list.wait_with_output().unwrap();
    assert!(start.elapsed() < limit && list.status.code() == Some(1), "{list:?}");
    vm.signal("-CONT");
    vm.is_back();
    // what the call had started is no longer there
    let left = || text(vm.enter("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '").assert().success());
    eventually("the command has ended", || !left().contains("sleep 10000"));
}

#[test]
fn a_short_freeze_breaks_nothing() {
    let Some(vm) = Vm::own() else { return };
    vm.create();
    let mut enter = vm.std_tool("lbx-enter");
    enter.args([".", "--", "sh", "-c", "for n in 1 2 3 4 5 6 7 8 9; do echo $n; sleep 1; done; exit 7"]);
    let mut call = enter.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut printed = BufReader::new(call.stdout.take().unwrap());
    let mut text = String::new();
    printed.read_line(&mut text).unwrap();
    vm.signal("-STOP");
    let mut begun = vm.std_tool("lbx-enter");
    let begun = begun.args([".", "--", "echo", "hello"]).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(6));
    vm.signal("-CONT");
    let begun = begun.wait_with_output().unwrap();
    assert!(begun.status.success() && begun.stdout == b"hello\n", "{begun:?}");
    printed.read_to_string(&mut text).unwrap();
    let output = call.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text.as_str()), (Some(7), "1\n2\n3\n4\n5\n6\n7\n8\n9\n"), "{output:?}");
}

#[test]
fn a_vm_that_is_stopped_is_started_by_a_change_and_by_no_look() {
    let Some(vm) = Vm::own() else { return };
    vm.create();
    vm.limactl(&["stop", INSTANCE]);
    vm.looks_leave_it_stopped();
    vm.is_back();
    assert_eq!(vm.state(), "running");
}

#[test]
fn a_reboot_of_this_machine_is_recovered_from() {
    let Some(vm) = Vm::own() else { return };
    vm.create();
    // everything of it goes at once, and its files stay
    near(&format!(
        "master=$(ssh -F {0}/ssh.config -O check lima-{INSTANCE} 2>&1 | sed -n 's/.*pid=\\([0-9]*\\).*/\\1/p')
         for pid in $(cat {0}/*.pid) $master; do kill -9 $pid; done",
        vm.dir.display()
    ));
    eventually("it is seen", || vm.state() != "running");
    vm.is_back();
}

#[test]
fn a_reboot_of_the_guest_is_recovered_from() {
    let Some(vm) = Vm::own() else { return };
    vm.create();
    let call = vm.long_call();
    let _ = vm.guest("systemctl reboot").output();
    let start = Instant::now();
    fails_within(call, start, Duration::from_secs(60));
    // until it is back a call may say that it is not
    let start = Instant::now();
    while !vm.enter("true").output().unwrap().status.success() {
        assert!(start.elapsed() < Duration::from_secs(600), "it never came back");
        std::thread::sleep(Duration::from_secs(2));
    }
    vm.is_back();
}

#[test]
fn a_clock_that_stood_still_is_set_by_the_next_call() {
    let Some(vm) = Vm::own() else { return };
    vm.create();
    for away in ["1 hour ago", "3 minutes ago", "1 hour"] {
        vm.guest(&format!("date -s '{away}'")).assert().success();
        let inside: u64 = text(vm.enter("date +%s").assert().success()).trim().parse().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(now.abs_diff(inside) < 15, "{away}: {now} {inside}");
    }
}

#[test]
fn a_vm_that_was_deleted_is_an_empty_list_and_is_made_anew_by_a_shell() {
    let Some(vm) = Vm::own() else { return };
    vm.create();
    vm.limactl(&["delete", "--force", INSTANCE]);
    for words in [&["lbx-ls"][..], &["lbx-ls", "--names"], &["llima-box", "list"]] {
        vm.tool(words[0]).args(&words[1..]).assert().success().stdout("");
    }
    let what = format!("there is no VM '{INSTANCE}'");
    // LBX_ON names it for this one, too
    let hint = "hint: lbx-vm start\n";
    vm.enter("true").assert().code(125).stdout("").stderr(contains(&*what)).stderr(contains(hint));
    vm.tool("lbx-env").args(["stop", "."]).assert().code(3).stdout("").stderr(contains(&*what)).stderr(contains(hint));
    assert!(!vm.dir.exists());
    // the project is the person's, and is where it was
    let kept = "cat kept; test ! -e ~/kept; echo new";
    let mut shell = vm.tool("llima-box");
    shell.timeout(Duration::from_secs(600)).args(["shell", "--", "sh", "-c", kept]);
    assert_eq!(text(shell.assert().success()), "in the project\nnew\n");
    assert_eq!(place(), Place::Lima);
}
