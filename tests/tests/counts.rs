//! What takes time whatever the machine's mood: calls, processes, syncs. What raises a limit here says why.

use std::ffi::OsString;

use lbx_tests::machine::read;
use lbx_tests::{Place, Project, command, installed, only_at, tool_file};

/// Calls of `words`, each in a line, of all its processes.
fn calls(words: &[OsString]) -> Option<Vec<String>> {
    if !only_at(&[Place::Local], "the calls of the far tool are not strace's to count") || !installed(&["strace"]) {
        return None;
    }
    let base = Project::new();
    let log = base.base().join("strace");
    command("strace").args(["-f", "-qq", "-o"]).arg(&log).arg("--").args(words).assert().success();
    let text = read(&log);
    // "PID call(…", where a second line tells the end of one that was interrupted
    let calls = text.lines().filter_map(|line| Some(line.split_once(' ')?.1.trim_start()));
    Some(calls.filter(|call| !call.starts_with(['<', '+', '-'])).map(str::to_owned).collect())
}

fn count(calls: &[String], names: &[&str]) -> usize {
    calls.iter().filter(|call| call.split_once('(').is_some_and(|(name, _)| names.contains(&name))).count()
}

fn words(tool: &str, words: &[&str], project: &Project) -> Vec<OsString> {
    let head = [tool_file(tool).into_os_string()];
    head.into_iter().chain(words.iter().map(OsString::from)).chain([project.path().into()]).collect()
}

#[test]
fn a_command_takes_one_process_and_no_look_at_other_environments() {
    let (project, others) = (Project::new(), [Project::new(), Project::new()]);
    project.create(&[]);
    let others = others.each_ref().map(|other| other.create(&[]));
    project.must("start");
    let Some(calls) = calls(&project.enter_words(&["true"])) else { return };
    assert_eq!(count(&calls, &["clone", "clone3", "fork", "vfork"]), 1);
    assert_eq!(count(&calls, &["execve"]), 2, "the tool and the command");
    assert_eq!(count(&calls, &["getdents64", "fsync", "fdatasync", "sync_file_range", "syncfs"]), 0);
    assert!(!calls.iter().any(|call| others.iter().any(|other| call.contains(other.as_str()))));
    // a read and an open that the join does not need show here; true's own 30 come behind its exec
    assert!(calls.len() <= 240, "{} calls", calls.len());
    let dropped = count(&calls, &["prctl"]);
    assert!(calls.len() - dropped <= 190, "{} calls and {dropped} of prctl", calls.len());
}

#[test]
fn a_create_syncs_each_file_once() {
    let project = Project::new();
    let Some(calls) = calls(&words("lbx-env", &["create"], &project)) else { return };
    let syncs = count(&calls, &["fsync", "fdatasync"]);
    assert!(syncs <= 5, "{syncs} syncs");
    assert_eq!(count(&calls, &["execve"]), 1, "no other program");
    assert!(calls.len() <= 380, "{} calls", calls.len());
    project.must("delete");
}

#[test]
fn a_delete_syncs_each_file_once() {
    let project = Project::new();
    project.create(&[]);
    let Some(calls) = calls(&words("lbx-env", &["delete"], &project)) else { return };
    let syncs = count(&calls, &["fsync", "fdatasync"]);
    assert!(syncs <= 4, "{syncs} syncs");
    assert_eq!(count(&calls, &["execve"]), 1, "no other program");
    assert!(calls.len() <= 310, "{} calls", calls.len());
}
