//! The VM of a place: made once, started again whatever was done to it, and never taken for another.
//!
//! At `lima` the tests share a further instance.

use std::path::Path;
use std::process::{Output, Stdio};

use lbx_tests::vm::{INSTANCE, PLACE, Vm};
use lbx_tests::{
    Command, Place, Project, User, errors, eventually, home, host, installed, near, only_at, place, script, skip,
    std_command, text, tool,
};
use serde_json::Value;

#[path = "vm/outage.rs"]
mod outage;

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

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Its name has it go first: what is not there yet need not be deleted.
#[test]
fn a_creation_that_was_killed_and_two_starts_at_once_make_one_vm() {
    let Some(vm) = Vm::own() else { return };
    vm.must(&["delete", "--yes"]);
    let before = vm.creations();
    let mut killed = vm.start().spawn().unwrap();
    eventually("a VM is being created", || vm.creations() == before + 1);
    killed.kill().and_then(|()| killed.wait()).unwrap();
    let starts =
        [vm.start(), vm.start()].map(|mut start| start.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    for start in starts {
        let output = start.wait_with_output().unwrap();
        assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    }
    assert_eq!(vm.creations(), before + 2);
    assert_eq!(vm.state(), "running");
    let status: Value = serde_json::from_str(&vm.must(&["status", "--json"])).unwrap();
    assert_eq!((status["name"].as_str(), status["state"].as_str()), (Some(INSTANCE), Some("running")));
    assert_eq!((status["cpus"].as_u64(), status["memory_bytes"].as_u64()), (Some(2), Some(1 << 30)));
    assert_eq!(status["mounts"][0]["path"].as_str(), home().to_str());

    // a start of what runs asks Lima once, and starts nothing
    let traced = vm.command(&["start", "--existing"]).env("LBX_TRACE", "1").output().unwrap();
    let limactl: Vec<String> = said(&traced).lines().filter(|l| l.contains("limactl")).map(str::to_owned).collect();
    assert!(traced.status.success() && limactl.len() == 1 && limactl[0].contains(" list "), "{traced:?}");

    // what would need another VM, or a restart, is said to
    let other = vm.command(&["start", "--cpus", "1", "--mount", "/srv"]).output().unwrap();
    let expected = format!(
        "runs with other options: --cpus 1 --mount /srv\nhint: lbx-vm --on {PLACE} restart --cpus 1 --mount /srv\n"
    );
    assert!(other.status.code() == Some(1) && said(&other).ends_with(&expected), "{other:?}");
    let other = vm.command(&["start", "--template", "/dev/null"]).output().unwrap();
    assert!(other.status.code() == Some(1) && said(&other).contains("made with another template"), "{other:?}");
}

/// With the variable `1` the further VM shares files by virtiofs; with another value it is the
/// suite's own way of sharing that is looked at.
#[test]
fn files_on_virtiofs_are_the_owner_s_on_both_sides() {
    let variable = std::env::var("LBX_TEST_VIRTIOFS").ok();
    if place() == Place::Lima && variable.is_none() {
        return skip("LBX_TEST_VIRTIOFS is not set: no virtiofsd is here");
    }
    let Some(vm) = Vm::running() else { return };
    if !installed(&["git"]) {
        return;
    }
    let is_virtiofs = variable.as_deref() == Some("1");
    let (me, project) = (User::owner(), vm.project());
    let here = |script: &str| near(&format!("cd '{}'; {script}", project.display()));
    let inside = |script: &str| text(vm.enter(&format!("set -eu; {script}")).assert().success());
    here("umask 077; echo outside >closed; echo target >.gitignore");
    let name = text(vm.tool("lbx-env").args(["create", "--private", "target", "."]).assert().success());
    let name = name.trim();
    let list = text(vm.tool("lbx-ls").assert().success());
    let records: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let record = records.iter().find(|record| record["name"] == name).unwrap();
    assert_eq!((&record["ownership"], &record["owner"]["uid"]), (&"shared-uid".into(), &me.uid.into()), "{record}");
    if is_virtiofs {
        assert_eq!(inside("findmnt -no FSTYPE -T .").trim(), "virtiofs");
    }

    inside("umask 077; echo inside >made; mkdir dir; echo deep >dir/file; chmod 640 dir/file");
    inside("echo moved >old; mv old new; echo x >gone; rm gone; echo more >>closed; echo x >target/x");
    if is_virtiofs {
        // 9p carries no pipe
        inside("mkfifo pipe");
        assert_eq!(here("stat -c %F pipe"), "fifo\n");
    }
    assert_eq!(here("cat closed made dir/file new"), "outside\nmore\ninside\ndeep\nmoved\n");
    let modes = "stat -c %a closed made dir dir/file";
    assert_eq!((here(modes), inside(modes)), ("600\n600\n700\n640\n".into(), "600\n600\n700\n640\n".into()));
    for gone in ["old", "gone", "target/x"] {
        assert!(!project.join(gone).exists(), "{gone}");
    }
    here("echo answer >>made; echo late >dir/late");
    eventually("what is written here is seen inside", || {
        inside("cat made dir/late 2>/dev/null || :") == "inside\nanswer\nlate\n"
    });
    assert_eq!(inside("stat -c '%U %G' . closed made dir/late target"), format!("{name} {name}\n").repeat(5));

    inside("git init -q; git add .; git -c user.name=n -c user.email=e commit -qm first");
    assert_eq!((here("git status --short"), inside("git status --short")), (String::new(), String::new()));
    assert_eq!(here(&format!("find . ! -user {} -o ! -group {}", me.uid, me.gid)), "");

    // a layer over it, too
    text(vm.tool("lbx-env").args(["stop", name]).assert().success());
    text(vm.tool("lbx-env").args(["set", "--project", "cow", name]).assert().success());
    inside("echo layered >>made; rm new; mkdir layer; echo x >layer/file");
    assert_eq!((here("tail -n 1 made; cat new"), project.join("layer").exists()), ("answer\nmoved\n".into(), false));
    assert_eq!(text(vm.tool("lbx-diff").arg(name).assert().code(1)), "A\tlayer/\nA\tlayer/file\nM\tmade\nD\tnew\n");
    // its clock and the VM's differ a little
    std::thread::sleep(std::time::Duration::from_secs(1));
    vm.tool("lbx-apply").args(["-y", name]).assert().success();
    assert_eq!(here("tail -n 1 made; cat layer/file; git status --short"), "layered\nx\n M made\n D new\n?? layer/\n");
    assert_eq!(here(&format!("find . ! -user {} -o ! -group {}", me.uid, me.gid)), "");
    vm.tool("lbx-diff").arg(name).assert().code(0);
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
