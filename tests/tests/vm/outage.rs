//! A VM that is killed, frozen, stopped, rebooted or deleted while it is in use: calls end soon and
//! say why, and the next one brings everything back.
//!
//! Times are the promised ones, whatever the machine.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use lbx_tests::vm::{INSTANCE, PLACE, Vm};
use lbx_tests::{Place, bin_dir, command, eventually, home, near, place, repository, text};
use predicates::str::contains;
use serde_json::Value;

use super::said;

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
    let Some(vm) = Vm::running() else { return };
    let name = vm.create();
    let call = vm.long_call();
    let start = Instant::now();
    vm.signal("-KILL", "qemu.pid");
    let why = fails_within(call, start, Duration::from_secs(5));
    assert!(why.starts_with("lbx-on: the connection was lost while the command ran"), "{why}");
    assert_ne!(vm.state(), "running");
    vm.is_back();
    let names = text(vm.tool("lbx-ls").arg("--names").assert().success());
    assert!(names.lines().any(|line| line == name), "{names}");
    vm.runs();
}

#[test]
fn a_host_agent_that_was_killed_and_then_a_reboot_of_this_machine_are_recovered_from() {
    let Some(vm) = Vm::running() else { return };
    vm.create();
    vm.signal("-KILL", "ha.pid");
    assert_eq!(vm.state(), "broken");
    vm.runs();
    vm.ssh(&["true"]).assert().success();

    // everything of it goes at once, and its files stay
    near(&format!(
        "master=$(ssh -F {0}/ssh.config -O check lima-{INSTANCE} 2>&1 | sed -n 's/.*pid=\\([0-9]*\\).*/\\1/p')
         for pid in $(cat {0}/*.pid) $master; do kill -9 $pid; done",
        vm.dir().display()
    ));
    eventually("it is seen", || vm.state() != "running");
    vm.is_back();
}

#[test]
fn a_frozen_vm_ends_calls_in_time_and_works_when_it_wakes_or_is_ended_by_restart() {
    let Some(vm) = Vm::running() else { return };
    vm.create();
    let call = vm.long_call();
    let start = Instant::now();
    vm.signal("-STOP", "qemu.pid");
    // others that begin meanwhile
    let second = vm.begin("true");
    let list = vm.std_tool("lbx-ls").spawn().unwrap();
    let other = vm.start().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let limit = Duration::from_secs(15);
    for call in [call, second] {
        let why = fails_within(call, start, limit);
        assert!(
            why.starts_with(&format!("lbx-on: '{PLACE}' does not answer: nothing came for 12 seconds\nhint: ")),
            "{why}"
        );
    }
    let list = list.wait_with_output().unwrap();
    assert!(start.elapsed() < limit && list.status.code() == Some(1), "{list:?}");
    assert_eq!(vm.state(), "broken");
    let other = other.wait_with_output().unwrap();
    assert!(other.status.code() == Some(1) && said(&other).contains("runs, but does not answer"), "{other:?}");
    assert!(said(&other).ends_with(&format!("hint: lbx-vm --on {PLACE} restart\n")), "{other:?}");
    vm.signal("-CONT", "qemu.pid");
    vm.is_back();
    // what the call had started is no longer there
    let left = || text(vm.enter("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '").assert().success());
    eventually("the command has ended", || !left().contains("sleep 10000"));

    vm.signal("-STOP", "qemu.pid");
    let shown = tempfile::Builder::new().prefix("shown by a VM ").tempdir().unwrap();
    std::fs::write(shown.path().join("file"), "text").unwrap();
    vm.must(&["restart", "--mount", shown.path().to_str().unwrap()]);
    assert_eq!(vm.state(), "running");
    let status: Value = serde_json::from_str(&vm.must(&["status", "--json"])).unwrap();
    let points: Vec<_> = status["mounts"].as_array().unwrap().iter().map(|mount| mount["path"].clone()).collect();
    assert_eq!(points.len(), 2, "{status}");
    let seen = vm.ssh(&["cat", shown.path().join("file").to_str().unwrap()]).assert();
    assert_eq!(text(seen.success()), "text");
}

#[test]
fn a_short_freeze_breaks_nothing() {
    let Some(vm) = Vm::running() else { return };
    vm.create();
    let mut call = vm.begin("for n in 1 2 3 4 5 6 7 8 9; do echo $n; sleep 1; done; exit 7");
    let mut printed = BufReader::new(call.stdout.take().unwrap());
    let mut text = String::new();
    printed.read_line(&mut text).unwrap();
    vm.signal("-STOP", "qemu.pid");
    let begun = vm.begin("echo hello");
    std::thread::sleep(Duration::from_secs(6));
    vm.signal("-CONT", "qemu.pid");
    let begun = begun.wait_with_output().unwrap();
    assert!(begun.status.success() && begun.stdout == b"hello\n", "{begun:?}");
    printed.read_to_string(&mut text).unwrap();
    let output = call.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text.as_str()), (Some(7), "1\n2\n3\n4\n5\n6\n7\n8\n9\n"), "{output:?}");
}

#[test]
fn a_vm_stopped_behind_our_back_is_started_by_a_change_and_by_no_look() {
    let Some(vm) = Vm::running() else { return };
    vm.create();
    vm.limactl(&["stop", INSTANCE]);
    assert_eq!(vm.state(), "stopped");
    vm.must(&["stop"]);
    vm.must(&["start", "--existing", "--dry-run"]);
    assert_eq!(vm.state(), "stopped");

    // each look says how it is started
    let hint = format!("hint: lbx-vm --on {PLACE} start\n");
    for words in [&["lbx-ls"][..], &["lbx-ls", "--names"], &["llima-box", "list"]] {
        let output = vm.std_tool(words[0]).args(&words[1..]).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{words:?}: {output:?}");
        assert!(output.stdout.is_empty() && said(&output).ends_with(&hint), "{words:?}: {output:?}");
    }
    vm.tool("llima-box").arg("shel").assert().failure();
    // and TAB
    let complete = r#"compopt() { :; }; . "$1"; COMP_WORDS=(lbx-enter ""); COMP_CWORD=1; COMP_LINE="lbx-enter "; COMP_POINT=10; _lbx; echo "${COMPREPLY[@]}""#;
    let mut bash = command("bash");
    bash.args(["--norc", "-c", complete, "bash"]).arg(repository().join("completions/bash/llima-box"));
    bash.env("LBX_ON", PLACE).env("PATH", format!("{}:/usr/bin:/bin", bin_dir().display()));
    bash.assert().success().stderr("");
    assert_eq!(vm.state(), "stopped");

    vm.is_back();
    assert_eq!(vm.state(), "running");
}

#[test]
fn a_reboot_of_the_guest_is_recovered_from() {
    let Some(vm) = Vm::running() else { return };
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
fn the_clock_of_a_vm_that_stood_still_is_set_by_the_next_call() {
    let Some(vm) = Vm::running() else { return };
    vm.create();
    for away in ["1 hour ago", "3 minutes ago", "1 hour"] {
        vm.guest(&format!("date -s '{away}'")).assert().success();
        let inside: u64 = text(vm.enter("date +%s").assert().success()).trim().parse().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(now.abs_diff(inside) < 15, "{away}: {now} {inside}");
    }
}

#[test]
fn a_vm_deleted_behind_our_back_is_an_empty_list_and_is_made_anew_by_a_shell() {
    let Some(vm) = Vm::running() else { return };
    vm.create();
    vm.limactl(&["delete", "--force", INSTANCE]);
    assert_eq!(vm.state(), "absent");
    for words in [&["lbx-ls"][..], &["lbx-ls", "--names"], &["llima-box", "list"]] {
        vm.tool(words[0]).args(&words[1..]).assert().success().stdout("");
    }
    let start = vm.command(&["start", "--existing"]).output().unwrap();
    assert_eq!(start.status.code(), Some(3), "{start:?}");
    let what = format!("there is no VM '{INSTANCE}'");
    // LBX_ON names it for this one, too
    let hint = "hint: lbx-vm start\n";
    vm.enter("true").assert().code(125).stdout("").stderr(contains(&*what)).stderr(contains(hint));
    vm.tool("lbx-env").args(["stop", "."]).assert().code(3).stdout("").stderr(contains(&*what)).stderr(contains(hint));
    assert!(!vm.dir().exists());

    // a creation that was cut off, at its first step and at its last
    let mark = home().join(format!(".local/state/llima-box/vm-{INSTANCE}.creating"));
    for yaml in [None, Some("")] {
        std::fs::write(&mark, "").unwrap();
        std::fs::create_dir(vm.dir()).unwrap();
        if let Some(yaml) = yaml {
            std::fs::write(vm.dir().join("lima.yaml"), yaml).unwrap();
        }
        assert_eq!(vm.state(), "broken");
        let plan = vm.must(&["start", "--dry-run"]);
        assert!(plan.starts_with(&format!("# limactl delete --force {INSTANCE}\n# limactl create ")), "{plan}");
        vm.must(&["delete", "--yes"]);
        assert!(!vm.dir().exists() && !mark.exists());
    }

    // the project is the person's, and is where it was
    let kept = "cat kept; test ! -e ~/kept; echo new";
    let mut shell = vm.tool("llima-box");
    shell.timeout(Duration::from_secs(600)).args(["shell", "--", "sh", "-c", kept]);
    assert_eq!(text(shell.assert().success()), "in the project\nnew\n");
    assert_eq!(place(), Place::Lima);
}
