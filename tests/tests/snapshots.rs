//! `lbx-snap`: snapshots of what runs, their list, and how many are kept.

use lbx_tests::machine::{entries, exists, write};
use lbx_tests::{Command, Project, errors, host, std_command, text, tool, tool_file};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;

/// `lbx-snap VERB WORDS` of `project`, with `tags` behind it.
fn snap(verb: &str, words: &[&str], project: &Project, tags: &[&str]) -> Command {
    let mut command = tool("lbx-snap");
    command.arg(verb).args(words).arg("--").arg(project.path()).args(tags);
    command
}

/// What `lbx-snap list` prints with `words`.
fn list(project: &Project, words: &[&str]) -> String {
    text(snap("list", words, project, &[]).assert().success().stderr(""))
}

fn tags(project: &Project) -> Vec<String> {
    list(project, &["--tags"]).lines().map(str::to_owned).collect()
}

#[test]
fn a_snapshot_is_saved_listed_restored_and_deleted() {
    let project = Project::new();
    let name = project.create(&["--project", "cow"]);
    project.sh("echo 1 >~/file; echo 1 >file");
    project.must("stop");
    for words in [&[][..], &["--json"], &["--tags"]] {
        assert_eq!(list(&project, words), "", "of none nothing");
    }
    snap("save", &[], &project, &["one"]).assert().success().stdout("one\n").stderr("");
    project.sh("echo 2 >~/file; rm file");
    project.must("stop");
    snap("restore", &[], &project, &["one"]).assert().success().stdout("").stderr("");
    assert_eq!(project.sh("cat ~/file file"), "1\n1\n");
    let all = tags(&project);
    assert!(all.len() == 2 && all[0] == "one" && all[1].starts_with("before-one-"), "{all:?}");

    let table = list(&project, &[]);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["TAG", "CREATED", "MADE", "BY", "HOLDS"]);
    assert_eq!((lines[1][0], &lines[1][2..]), ("one", &["save", "home,", "project"][..]), "{table}");
    assert_eq!((lines[2][0], lines[2][2]), (all[1].as_str(), "restore"), "{table}");
    let json: Vec<Value> =
        list(&project, &["--json"]).lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    let on = lbx_tests::place::on();
    for (line, tag) in json.iter().zip(&all) {
        assert_eq!(
            (&line["name"], &line["tag"], &line["place"]),
            (&name.clone().into(), &tag.clone().into(), &on.clone().into())
        );
        assert_eq!((&line["project"], &line["schema"]), (&"cow".into(), &1.into()));
    }
    assert_eq!((&json[0]["safety"], &json[1]["safety"]), (&Value::Null, &Value::from(true)));

    // from a pipe
    let mut delete = snap("delete", &[], &project, &["-"]);
    delete.write_stdin(all[1].clone() + "\n").assert().success().stdout("").stderr("");
    assert_eq!(tags(&project), ["one"]);
    snap("delete", &[], &project, &["-"]).write_stdin("").assert().success().stdout("");
    snap("delete", &[], &project, &["two", "one"]).assert().code(1).stderr(contains("no such snapshot"));
    assert_eq!(list(&project, &[]), "");
    assert_eq!(project.sh("cat ~/file file"), "1\n1\n");
}

#[test]
fn what_runs_is_stopped_for_a_snapshot_and_started_again() {
    let project = Project::new();
    let name = project.create(&[]);
    project.sh("echo 1 >~/file; sleep 1000 </dev/null >/dev/null 2>&1 & echo x >/tmp/gone");
    for (verb, tag) in [("save", "one"), ("restore", "one")] {
        let told = errors(snap(verb, &[], &project, &[tag]).assert().code(1).stdout(""));
        assert_eq!(told, format!("lbx-snap: environment '{name}' is running\nhint: --stop\n"));
    }
    assert_eq!(project.sh("cat /tmp/gone"), "x\n", "nothing was stopped");
    snap("save", &["--stop"], &project, &["one"]).assert().success().stdout("one\n").stderr("");
    assert_eq!(project.state(), "running");
    assert_eq!(project.sh("cat ~/file; ls /tmp; echo 2 >~/file; echo x >/tmp/gone"), "1\n");

    // what cannot be stops nothing
    snap("save", &["--stop"], &project, &["one"]).assert().code(1).stderr(contains("already"));
    snap("restore", &["--stop"], &project, &["none"]).assert().code(1).stderr(contains("no such snapshot"));
    assert_eq!(project.sh("cat /tmp/gone"), "x\n");
    snap("restore", &["--stop"], &project, &["one"]).assert().success().stdout("");
    assert_eq!(project.state(), "running");
    assert_eq!(project.sh("cat ~/file; ls /tmp"), "1\n");

    // what does not run is not started
    project.must("stop");
    snap("save", &["--stop"], &project, &["two"]).assert().success();
    snap("restore", &["--stop"], &project, &["one"]).assert().success();
    assert_eq!(project.state(), "stopped");
}

#[test]
fn what_ran_runs_again_after_a_save_that_failed() {
    let project = Project::new();
    let name = project.create(&[]);
    project.sh("echo 1 >~/file");
    // nothing can be written there, and nobody sees that before
    let dir = format!("/var/lib/llima-box/envs/{name}/snapshots");
    write(&dir, b"");
    snap("save", &["--stop"], &project, &["one"]).assert().code(1).stdout("").stderr(contains("snapshots"));
    assert_eq!(project.state(), "running");
    assert_eq!(project.sh("cat ~/file"), "1\n");
    host(&format!("rm {dir}"));
    snap("save", &["--stop"], &project, &["one"]).assert().success().stdout("one\n");
    assert_eq!((project.state().as_str(), project.sh("cat ~/file").as_str()), ("running", "1\n"));
}

#[test]
fn the_newest_snapshots_are_kept() {
    let project = Project::new();
    project.create(&[]);
    let save = |keep: &str, tag: &str| {
        project.sh(&format!("echo {tag} >~/file"));
        snap("save", &["--stop", "--keep", keep], &project, &[tag]).assert().success().stdout(format!("{tag}\n"));
    };
    save("9", "c");
    save("9", "b");
    project.sh("echo other >~/file");
    snap("restore", &["--stop"], &project, &["b"]).assert().success();
    save("2", "a");
    let all = tags(&project);
    assert!(all.len() == 3 && all[0] == "b" && all[1].starts_with("before-b-") && all[2] == "a", "{all:?}");
    save("1", "d");
    assert_eq!(tags(&project), ["d"]);
    for keep in ["0", "-1", "x"] {
        snap("save", &["--stop", &format!("--keep={keep}")], &project, &["e"]).assert().code(2);
    }
    // a plan deletes nothing
    let plan = text(snap("save", &["--stop", "--keep=1", "--dry-run"], &project, &["e"]).assert().success());
    assert!(plan.contains("write snapshot e of ") && plan.contains("remove snapshot d of "), "{plan}");
    assert_eq!(tags(&project), ["d"]);
}

#[test]
fn a_snapshot_without_a_tag_has_the_time_for_one() {
    let project = Project::new();
    project.create(&[]);
    project.sh("echo 1 >~/file");
    project.must("stop");
    let saved: Vec<String> = (0..3)
        .map(|_| text(snap("save", &[], &project, &[]).assert().success().stderr("")).trim_end().to_owned())
        .collect();
    for tag in &saved {
        let (day, time) = tag.split_once('T').unwrap_or_else(|| panic!("{tag}"));
        let (time, _) = time.split_once('Z').unwrap_or_else(|| panic!("{tag}"));
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        assert!(day.len() == 8 && time.len() == 6 && is_digits(day) && is_digits(time), "{tag}");
    }
    assert_eq!(tags(&project), saved, "each has one of its own");
}

#[test]
fn what_is_no_tag_is_a_usage_error_and_touches_nothing() {
    let project = Project::new();
    let name = project.create(&[]);
    project.sh("echo 1 >~/file");
    project.must("stop");
    snap("save", &[], &project, &["one"]).assert().success();
    let before = entries(format!("/var/lib/llima-box/envs/{name}"));
    for tag in
        ["", "..", "../record", "a/b", "-x", ".x", "a b", "a\nb", "\u{1b}[2J", "$(id)", "\u{e4}", &"x".repeat(65)]
    {
        for verb in ["save", "restore", "delete"] {
            let told = errors(snap(verb, &[], &project, &[tag]).assert().code(2).stdout(""));
            assert!(!told.contains('\u{1b}') && told.starts_with("lbx-snap: "), "{verb} {tag:?}: {told:?}");
        }
        snap("delete", &[], &project, &["-"]).write_stdin(format!("one\n{tag}x/\n")).assert().code(2);
    }
    assert_eq!(entries(format!("/var/lib/llima-box/envs/{name}")), before);
    assert_eq!(tags(&project), ["one"], "of a list that is wrong, nothing is deleted");
    tool("lbx-snap").assert().code(2);
    tool("lbx-snap").args(["list", "no-such-1a2b"]).assert().code(1).stderr(contains("no-such-1a2b"));
}

#[test]
fn what_lies_among_snapshots_and_is_none_is_told_and_harms_no_other() {
    let project = Project::new();
    let name = project.create(&[]);
    project.sh("echo 1 >~/file");
    project.must("stop");
    snap("save", &[], &project, &["one"]).assert().success();
    let dir = format!("/var/lib/llima-box/envs/{name}/snapshots");
    write(format!("{dir}/-x.json"), b"{}");
    write(format!("{dir}/two.txt"), b"{}");
    host(&format!("printf x >'{dir}/a\u{1b}[2J\nb.json'"));
    assert_eq!(tags(&project), ["one"], "these are no tags");
    // one that says that it is another
    host(&format!("sed s/one/other/ {dir}/one.json >{dir}/two.json"));
    for words in [&[][..], &["--json"], &["--tags"]] {
        let assert = snap("list", words, &project, &[]).assert().code(1);
        let told = errors(assert.stdout(contains("one").and(contains("other").not())));
        assert!(told.contains("snapshot 'two'") && told.contains("damaged"), "{told}");
    }
    snap("delete", &[], &project, &["two"]).assert().success();
    assert_eq!(tags(&project), ["one"]);
    assert!(exists(format!("{dir}/two.txt")));
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let project = Project::new();
    project.create(&[]);
    project.sh("echo 1 >~/file");
    project.must("stop");
    snap("save", &[], &project, &["one"]).assert().success();
    let tool = tool_file("lbx-snap");
    let path = project.path();
    let run = |words: &[&str], tags: &[&str]| {
        // the reader is gone before a word is written
        let script = "trap '' PIPE; { sleep 0.2; \"$@\"; echo $? >&2; } | :";
        let mut sh = std_command("bash");
        sh.args(["-c", script, "bash"]).arg(&tool).args(words).arg("--").arg(path).args(tags);
        String::from_utf8_lossy(&sh.output().expect("bash runs").stderr).into_owned()
    };
    for words in [&["list"][..], &["list", "--json"], &["list", "--tags"]] {
        assert_eq!(run(words, &[]), "0\n", "{words:?}");
    }
    // what was asked for is done all the same
    assert_eq!(run(&["save", "--keep=1"], &["two"]), "0\n");
    assert_eq!(tags(&project), ["two"]);
}
