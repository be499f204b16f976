//! The VM of a place: made once, started again whatever was done to it, and never taken for another.
//!
//! At `lima` the tests share an instance of their own beside the suite's, and each leaves it so that
//! the next can start it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Mutex, MutexGuard};

use lbx_tests::{
    Command, Place, Project, errors, eventually, host, only_at, place, script, std_command, text, tool, tool_file,
};
use serde_json::Value;

const OWN: &str = "own";

/// `lbx-vm` where no VM is, nor any file of its own.
fn nowhere(dir: &tempfile::TempDir) -> Command {
    let mut vm = tool("lbx-vm");
    vm.env_remove("LBX_ON").env("LIMA_HOME", dir.path().join("lima")).env("XDG_STATE_HOME", dir.path().join("state"));
    vm
}

fn empty() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn where_no_vm_is_nothing_is_asked_and_nothing_is_made() {
    let dir = empty();
    // no limactl either
    let bare = |words: &[&str]| nowhere(&dir).env("PATH", "/nonexistent").args(words).assert();
    assert_eq!(text(bare(&["status"]).code(3)), "absent\n");
    let status: Value = serde_json::from_str(&text(bare(&["status", "--json", "--on", "lima:x"]).code(3))).unwrap();
    assert_eq!((status["name"].as_str(), status["state"].as_str()), (Some("x"), Some("absent")));
    assert!(status["cpus"].is_null());
    for words in [&["start", "--existing"][..], &["stop"], &["restart"]] {
        let said = errors(bare(words).code(3));
        assert!(said.contains("there is no VM 'agents'\nhint: lbx-vm start"), "{words:?}: {said}");
    }
    bare(&["delete", "--yes"]).success().stdout("").stderr("");
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_place_that_is_no_vm_is_named() {
    let dir = empty();
    for (words, named) in [
        (["--on", "local", "status"], "place 'local' is no VM"),
        (["--on", "ssh:host", "status"], "place 'ssh:host' is no VM"),
        (["--on", "lima:../x", "status"], "no VM can have the name '../x'"),
        (["--on", "lima:-x", "status"], "-x"),
        (["--on", "lima:x", "delete"], "--yes"),
    ] {
        let said = errors(nowhere(&dir).args(words).assert().code(2));
        assert!(said.contains(named), "{words:?}: {said}");
    }
}

#[test]
fn a_dry_run_prints_the_template_and_does_nothing() {
    let dir = empty();
    let (mounted, file) = (dir.path().join("a b"), dir.path().join("mine.yaml"));
    std::fs::create_dir_all(mounted.join("inner")).unwrap();
    std::fs::write(&file, "memory: 3GiB\nportForwards: [{guestPort: 3000}]\n").unwrap();
    let mut run = nowhere(&dir);
    run.args(["start", "--dry-run", "--cpus", "3", "--mount"]).arg(&mounted).arg("--mount").arg(mounted.join("inner"));
    let yaml = text(run.arg("--template").arg(&file).assert().success());
    for line in [
        "# limactl create --name agents -",
        "# limactl start --timeout 30m agents",
        "cpus: 3",
        "memory: 3GiB",
        "- guestPort: 3000",
        "disk: 100GiB",
        "mountType: 9p",
        "minimumLimaVersion: 2.1.3",
    ] {
        assert!(yaml.lines().any(|l| l == line), "no line {line:?} in:\n{yaml}");
    }
    let location = format!("- location: {}\n  writable: true\n", mounted.canonicalize().unwrap().display());
    assert!(yaml.contains(&location) && yaml.matches("writable").count() == 1, "{yaml}");
    assert!(!dir.path().join("lima").exists() && !dir.path().join("state").exists());
}

#[test]
fn what_is_no_template_and_no_directory_is_named() {
    let dir = empty();
    let (list, gone) = (dir.path().join("list.yaml"), dir.path().join("gone"));
    std::fs::write(&list, "- a\n").unwrap();
    let refused = |option: &str, value: &Path| {
        let status = if option == "--memory" { 2 } else { 1 };
        let said = errors(nowhere(&dir).args(["start", "--dry-run", option]).arg(value).assert().code(status));
        assert!(said.contains(&*value.display().to_string()), "{said}");
        said
    };
    assert!(refused("--template", &list).contains("no mapping"));
    refused("--template", &gone);
    assert!(refused("--mount", &gone).contains("path does not exist"));
    assert!(refused("--mount", &list).contains("not a directory"));
    assert!(refused("--memory", Path::new("8")).contains("as in 8GiB"));
}

#[test]
fn a_limactl_that_is_missing_or_too_old_is_said_to_be() {
    if !only_at(&[Place::Lima], "limactl does not run as root") {
        return;
    }
    let dir = empty();
    let start = |path: &Path| errors(nowhere(&dir).args(["start"]).env("PATH", path).assert().code(1));
    let said = start(Path::new("/nonexistent"));
    assert!(said.contains("limactl is not installed\nhint: https://lima-vm.io/"), "{said}");
    script("#!/bin/sh\necho limactl version 2.1.2\n", dir.path().join("bin/limactl"));
    let said = start(&dir.path().join("bin"));
    assert!(said.contains("Lima is older than 2.1.3") && said.contains("limactl version 2.1.2\nhint: "), "{said}");
    assert!(!dir.path().join("lima").exists());
}

#[test]
fn a_failure_is_told_in_lima_s_own_words() {
    if !only_at(&[Place::Lima], "limactl does not run as root") {
        return;
    }
    let dir = empty();
    let file = dir.path().join("mine.yaml");
    std::fs::write(&file, "images: [{location: /nonexistent/disk.qcow2, arch: x86_64}]\n").unwrap();
    let said = errors(nowhere(&dir).arg("start").arg("--template").arg(&file).assert().code(1));
    assert!(said.contains("cannot create VM 'agents': ") && said.contains("/nonexistent/disk.qcow2"), "{said}");
    let log = dir.path().join("state/llima-box/vm-agents.log");
    assert!(said.ends_with(&format!("hint: the whole log: {}\n", log.display())), "{said}");
    assert!(std::fs::read_to_string(log).unwrap().contains("limactl"));
    assert_eq!(text(nowhere(&dir).arg("status").assert().code(3)), "absent\n");
}

#[test]
fn an_instance_that_is_not_ours_is_refused() {
    if !only_at(&[Place::Lima], "limactl does not run as root") {
        return;
    }
    let dir = empty();
    let theirs = dir.path().join("lima/agents");
    std::fs::create_dir_all(&theirs).unwrap();
    std::fs::write(theirs.join("lima.yaml"), "images: [{location: /x, arch: x86_64}]\n").unwrap();
    for words in [&["start"][..], &["stop"], &["restart"], &["delete", "--yes"], &["status"]] {
        let said = errors(nowhere(&dir).args(words).assert().code(1));
        assert!(said.contains("VM 'agents' was not made by llima-box\nhint: --on lima:NAME"), "{words:?}: {said}");
    }
    assert!(theirs.join("lima.yaml").exists());
}

#[test]
fn a_process_that_has_the_number_of_a_vm_s_is_not_killed_for_it() {
    if !only_at(&[Place::Lima], "limactl does not run as root") {
        return;
    }
    let dir = empty();
    let half = dir.path().join("lima/agents");
    std::fs::create_dir_all(&half).unwrap();
    std::fs::create_dir_all(dir.path().join("state/llima-box")).unwrap();
    std::fs::write(dir.path().join("state/llima-box/vm-agents.creating"), "").unwrap();
    std::fs::write(half.join("lima.yaml"), "param:\n  llimaBox: \"1\"\nimages: [{location: /x, arch: x86_64}]\n")
        .unwrap();
    let mut other = std_command("sleep").arg("600").spawn().unwrap();
    for file in ["ha.pid", "qemu.pid"] {
        std::fs::write(half.join(file), other.id().to_string()).unwrap();
    }
    assert_eq!(text(nowhere(&dir).arg("status").assert().code(3)), "broken\n");
    nowhere(&dir).args(["delete", "--yes"]).assert().success();
    assert!(!half.exists() && other.try_wait().unwrap().is_none());
    other.kill().and_then(|()| other.wait()).unwrap();
}

/// The instance of these tests, for one of them at a time.
struct Vm {
    dir: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Vm {
    /// `None`: there are no VMs here.
    fn own() -> Option<Vm> {
        static ALONE: Mutex<()> = Mutex::new(());
        if !only_at(&[Place::Lima], "no VM is here") {
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Some(Vm { dir: lima_home().join(OWN), _alone: alone })
    }

    fn command(&self, words: &[&str]) -> std::process::Command {
        let mut vm = std_command(tool_file("lbx-vm"));
        vm.args(["--on", &format!("lima:{OWN}")]).args(words).stdin(Stdio::null());
        vm
    }

    /// As the suite's own VM, but smaller.
    fn start(&self) -> std::process::Command {
        let template = std::env::var_os("LBX_TEST_TEMPLATE").expect("scripts/place names the template of VMs");
        let mut start = self.command(&["start", "--memory", "1GiB", "--template"]);
        start.arg(template);
        start
    }

    fn must(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn runs(&self) {
        let output = self.start().output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(self.state(), "running");
    }

    fn state(&self) -> String {
        let output = self.command(&["status"]).output().unwrap();
        let word = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        assert_eq!(output.status.code(), Some(if word == "running" { 0 } else { 3 }), "{word}");
        word
    }

    fn signal(&self, signal: &str, file: &str) {
        let pid = std::fs::read_to_string(self.dir.join(file)).unwrap();
        let sent = std_command("kill").args([signal, pid.trim()]).status().unwrap();
        assert!(sent.success());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(lbx_tests::home().join(format!(".local/state/llima-box/vm-{OWN}.log")))
            .unwrap_or_default()
    }
}

fn lima_home() -> PathBuf {
    std::env::var_os("LIMA_HOME").map_or_else(|| lbx_tests::home().join(".lima"), PathBuf::from)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn two_starts_at_once_make_one_vm() {
    let Some(vm) = Vm::own() else { return };
    vm.must(&["delete", "--yes"]);
    let creations = || vm.log().matches(" create --name ").count();
    let before = creations();
    // one more, that was killed in the middle of it
    let mut killed = vm.start().spawn().unwrap();
    eventually("a VM is being created", || creations() == before + 1);
    killed.kill().and_then(|()| killed.wait()).unwrap();
    let starts =
        [vm.start(), vm.start()].map(|mut start| start.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    for start in starts {
        let output = start.wait_with_output().unwrap();
        assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    }
    assert_eq!(creations(), before + 2);
    assert_eq!(vm.state(), "running");
    let status: Value = serde_json::from_str(&vm.must(&["status", "--json"])).unwrap();
    assert_eq!((status["name"].as_str(), status["state"].as_str()), (Some(OWN), Some("running")));
    assert_eq!((status["cpus"].as_u64(), status["memory_bytes"].as_u64()), (Some(2), Some(1 << 30)));
    assert_eq!(status["mounts"][0]["path"].as_str(), lbx_tests::home().to_str());

    // a start of what runs asks Lima once, and starts nothing
    let traced = vm.command(&["start", "--existing"]).env("LBX_TRACE", "1").output().unwrap();
    let limactl: Vec<String> = said(&traced).lines().filter(|l| l.contains("limactl")).map(str::to_owned).collect();
    assert!(traced.status.success() && limactl.len() == 1 && limactl[0].contains(" list "), "{traced:?}");

    // what would need another VM, or a restart, is said to
    let other = vm.command(&["start", "--cpus", "1", "--mount", "/srv"]).output().unwrap();
    let expected = format!(
        "runs with other options: --cpus 1 --mount /srv\nhint: lbx-vm --on lima:{OWN} restart --cpus 1 --mount /srv\n"
    );
    assert!(other.status.code() == Some(1) && said(&other).ends_with(&expected), "{other:?}");
    let other = vm.command(&["start", "--template", "/dev/null"]).output().unwrap();
    assert!(other.status.code() == Some(1) && said(&other).contains("made with another template"), "{other:?}");
}

#[test]
fn a_vm_or_host_agent_that_was_killed_starts_again() {
    let Some(vm) = Vm::own() else { return };
    vm.runs();
    vm.signal("-KILL", "qemu.pid");
    assert_ne!(vm.state(), "running");
    vm.runs();
    vm.signal("-KILL", "ha.pid");
    assert_eq!(vm.state(), "broken");
    vm.runs();
    let connected = lbx_tests::command("ssh")
        .args(["-F"])
        .arg(vm.dir.join("ssh.config"))
        .args([&format!("lima-{OWN}"), "true"])
        .assert();
    connected.success();
}

#[test]
fn a_vm_that_hangs_is_said_to_and_restart_ends_it() {
    let Some(vm) = Vm::own() else { return };
    vm.runs();
    vm.signal("-STOP", "qemu.pid");
    assert_eq!(vm.state(), "broken");
    let start = vm.start().output().unwrap();
    assert!(start.status.code() == Some(1) && said(&start).contains("runs, but does not answer"), "{start:?}");
    assert!(said(&start).ends_with(&format!("hint: lbx-vm --on lima:{OWN} restart\n")), "{start:?}");
    let shown = tempfile::Builder::new().prefix("shown by a VM ").tempdir_in("/var/tmp").unwrap();
    std::fs::write(shown.path().join("file"), "text").unwrap();
    vm.must(&["restart", "--mount", shown.path().to_str().unwrap()]);
    assert_eq!(vm.state(), "running");
    let status: Value = serde_json::from_str(&vm.must(&["status", "--json"])).unwrap();
    let points: Vec<_> = status["mounts"].as_array().unwrap().iter().map(|mount| mount["path"].clone()).collect();
    assert_eq!(points.len(), 2, "{status}");
    let seen = lbx_tests::command("ssh")
        .arg("-F")
        .arg(vm.dir.join("ssh.config"))
        .args([&format!("lima-{OWN}"), "cat"])
        .arg(shell_words::quote(shown.path().join("file").to_str().unwrap()).into_owned())
        .assert();
    assert_eq!(text(seen.success()), "text");
}

#[test]
fn a_vm_that_was_stopped_or_deleted_behind_our_back_is_no_mystery() {
    let Some(vm) = Vm::own() else { return };
    vm.runs();
    let limactl = |words: &[&str]| lbx_tests::command("limactl").args(words).assert().success();
    limactl(&["--tty=false", "stop", OWN]);
    assert_eq!(vm.state(), "stopped");
    vm.must(&["stop"]);
    vm.must(&["start", "--existing", "--dry-run"]);
    assert_eq!(vm.state(), "stopped");
    limactl(&["--tty=false", "delete", OWN]);
    assert_eq!(vm.state(), "absent");
    let start = vm.command(&["start", "--existing"]).output().unwrap();
    assert_eq!(start.status.code(), Some(3), "{start:?}");

    // a creation that was cut off, at its first step and at its last
    let mark = lbx_tests::home().join(format!(".local/state/llima-box/vm-{OWN}.creating"));
    for yaml in [None, Some("")] {
        std::fs::write(&mark, "").unwrap();
        std::fs::create_dir(&vm.dir).unwrap();
        if let Some(yaml) = yaml {
            std::fs::write(vm.dir.join("lima.yaml"), yaml).unwrap();
        }
        assert_eq!(vm.state(), "broken");
        let plan = vm.must(&["start", "--dry-run"]);
        assert!(plan.starts_with(&format!("# limactl delete --force {OWN}\n# limactl create ")), "{plan}");
        vm.must(&["delete", "--yes"]);
        assert!(!vm.dir.exists() && !mark.exists());
    }
}

#[test]
fn an_environment_does_not_reach_what_listens_for_this_machine_alone() {
    if !only_at(&[Place::Lima], "no VM is here") {
        return;
    }
    let project = Project::new();
    project.create(&[]);
    let four = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = four.local_addr().unwrap().port();
    let six = std::net::TcpListener::bind(("::1", port)).ok();
    for listener in [Some(four), six].into_iter().flatten() {
        std::thread::spawn(move || listener.incoming().for_each(drop));
    }
    let connect =
        |address: &str| format!("timeout 10 bash -c 'exec 3<>/dev/tcp/{address}/{port}' 2>&1 && echo connected");
    let inside =
        |script: &str| text(project.enter(["bash", "-c", &format!("{{ {script}; }} || true")]).assert().success());
    assert!(host(&connect("192.168.5.2")).contains("connected"), "the VM itself gets there");
    for address in ["192.168.5.2", "192.168.5.3", "fec0::2"] {
        let said = inside(&connect(address));
        assert!(!said.contains("connected") && said.contains("refused"), "{address}: {said}");
    }
    assert!(inside("getent hosts host.lima.internal").contains("192.168.5.2"), "names are looked up");

    // the cgroup that the rule means stays, though the last environment stops
    project.must("stop");
    assert!(!inside(&connect("192.168.5.2")).contains("connected"));
    assert_eq!(place(), Place::Lima);
}
