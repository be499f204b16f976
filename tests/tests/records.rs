//! Records that cannot be relied on: broken, listed, never entered, and no harm to the others.

use std::path::PathBuf;

use lbx_tests::machine::{list, listed, read, traces, write};
use lbx_tests::place::on;
use lbx_tests::{Place, Project, eventually, host, only_at, text, tool};
use predicates::str::contains;

fn record_file(name: &str) -> PathBuf {
    format!("/var/lib/llima-box/envs/{name}/record.json").into()
}

/// What can become of a record's text, and what is then said of it.
fn damages(text: &str, name: &str) -> Vec<(&'static str, Vec<u8>)> {
    let replaced = |from: &str, to: &str| {
        let new = text.replacen(from, to, 1);
        assert_ne!(new, text, "{from} is in the record");
        new.into_bytes()
    };
    vec![
        ("empty", Vec::new()),
        ("truncated", text.as_bytes()[..text.len() / 2].to_vec()),
        ("no JSON", b"{]".to_vec()),
        ("null", b"null".to_vec()),
        ("binary", vec![0xff; 4096]),
        ("of a newer schema", replaced("\"schema\":1", "\"schema\":9")),
        ("of another path", replaced("/app\"", "/other\"")),
        ("of another name", replaced(&format!("\"name\":\"{name}\""), "\"name\":\"other-0000\"")),
        ("of root", replaced("\"uid\":", "\"uid\":0,\"was\":")),
        ("with a home elsewhere", replaced(&format!("\"home\":\"/home/{name}\""), "\"home\":\"/etc\"")),
        ("nested too deeply", "[".repeat(100_000).into_bytes()),
    ]
}

#[test]
fn a_record_that_is_damaged_foreign_or_future_is_broken_and_never_entered() {
    let (project, other) = (Project::new(), Project::new());
    let name = project.create(&[]);
    let healthy = other.create(&[]);
    let text = read(record_file(&name));
    project.must("start");
    for (what, bytes) in damages(&text, &name) {
        write(record_file(&name), &bytes);
        let object = listed(&name).unwrap_or_else(|| panic!("not listed: {what}"));
        assert_eq!(object["state"], "broken", "{what}");
        for operand in [name.as_str(), project.str()] {
            tool("lbx-enter").args([operand, "--", "echo", "inside"]).assert().code(125).stdout("");
        }
        project.env_tool("start").arg(&name).assert().code(1).stdout("").stderr(contains(&name));
        assert_eq!(other.sh("echo fine"), "fine\n", "{what}");
        assert!(list(&["--state", "broken"]).iter().any(|o| o["name"] == *name));
        assert!(list(&["--state", "running"]).iter().all(|o| o["name"] != *name));
        tool("lbx-ls").arg("--names").assert().success().stdout(contains(&healthy));
    }
    write(record_file(&name), text.as_bytes());
    project.sh("true");
}

#[test]
fn what_is_broken_is_deleted_by_its_name() {
    let project = Project::new();
    let name = project.create(&[]);
    let text = read(record_file(&name));
    for (what, bytes) in damages(&text, &name) {
        project.create(&[]);
        project.sh("echo x >~/file; (sleep 4000 >/dev/null 2>&1 </dev/null &)");
        write(record_file(&name), &bytes);
        project.env_tool("delete").arg(&name).assert().success().stdout("");
        assert_eq!(traces(&name), [""; 0], "{what}");
        assert_eq!(host("ps -eo args | grep -c '^sleep 4000$' || true").trim(), "0", "{what}");
    }
    assert_ne!(read("/etc/passwd"), "");
}

#[test]
fn what_is_broken_is_repaired_or_says_why_not() {
    let project = Project::new();
    let name = project.create(&["--label", "a=b"]);
    let text = read(record_file(&name));
    for (what, bytes) in damages(&text, &name) {
        write(record_file(&name), &bytes);
        let output = project.env_tool("repair").arg(&name).output().unwrap();
        if output.status.success() {
            let state = listed(&name).map(|o| o["state"].clone());
            assert_ne!(state, Some("broken".into()), "repair said that it succeeded: {what}");
        } else {
            assert!(String::from_utf8_lossy(&output.stderr).contains(&name), "{what}: {output:?}");
        }
        project.env_tool("delete").args(["-f", &name]).assert().success();
        assert_eq!(traces(&name), [""; 0], "{what}");
        project.create(&["--label", "a=b"]);
    }
}

#[test]
fn a_missing_record_is_a_half_made_environment() {
    let project = Project::new();
    let name = project.create(&[]);
    let remove = || host(&format!("rm {}", record_file(&name).display()));
    remove();
    assert_eq!(listed(&name).expect("listed")["state"], "broken");
    tool("lbx-enter").args([&name, "--", "true"]).assert().code(125);
    assert_eq!(project.create(&[]), name, "create finishes it");
    project.sh("true");
    remove();
    project.env_tool("repair").arg(&name).assert().success();
    if let Some(object) = listed(&name) {
        assert_ne!(object["state"], "broken");
    }
    project.env_tool("delete").args(["-f", &name]).assert().success();
    assert_eq!(traces(&name), [""; 0]);
}

#[test]
fn a_missing_account_or_home_is_repaired() {
    let project = Project::new();
    let name = project.create(&[]);
    project.sh("echo kept >~/file");
    project.must("stop");
    // with the account files locked: other tests change them too; a uid that is shared is in use
    host(&format!("userdel -f {name}"));
    project.enter(["true"]).assert().code(125);
    project.must("repair");
    assert_eq!(project.sh("cat ~/file; id -un"), format!("kept\n{name}\n"));

    project.must("stop");
    host(&format!("rm -r /home/{name}"));
    project.must("repair");
    project.sh("echo new >~/file");
    project.must("delete");
    assert_eq!(traces(&name), [""; 0]);
}

#[test]
fn what_is_no_environment_among_the_records_is_passed_over() {
    let project = Project::new();
    let name = project.create(&[]);
    host("cd /var/lib/llima-box/envs; mkdir lost+found; touch README");
    let names = text(tool("lbx-ls").arg("--names").assert().success());
    host("cd /var/lib/llima-box/envs; rmdir lost+found; rm README");
    assert!(names.lines().any(|n| n == name) && !names.contains("lost") && !names.contains("README"), "{names}");
}

#[test]
fn records_are_readable_by_everyone_and_writable_by_root_alone() {
    if !only_at(&[Place::Local], "everyone else is this machine's") {
        return;
    }
    let project = Project::new();
    let name = project.create(&["--label", "who=everyone"]);
    project.must("start");
    let user = lbx_tests::User::new();
    let line = lbx_tests::text(user.tool("lbx-ls").arg(&name).assert().success());
    let object: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(object["labels"]["who"], "everyone");
    assert_eq!(object["state"], "running", "the state needs no root");
    let closed = user.sh("find /var/lib/llima-box/envs /run/llima-box -writable ! -type l 2>/dev/null || true");
    assert_eq!(closed, "");
    user.command("cat").arg(format!("/run/llima-box/{name}/holder")).assert().failure();
    user.command("ls").arg(format!("/home/{name}")).assert().failure();
}

#[test]
fn the_list_is_sorted_and_has_every_field() {
    let projects: Vec<Project> = ["m", "a", "z"].iter().map(Project::named).collect();
    projects.iter().for_each(|p| {
        p.create(&[]);
    });
    projects[0].must("start");
    let objects = list(&[]);
    let names: Vec<&str> = objects.iter().map(|o| o["name"].as_str().unwrap()).collect();
    assert!(names.is_sorted(), "{names:?}");
    let fields = [
        "schema",
        "name",
        "path",
        "uid",
        "home",
        "shell",
        "created",
        "last_used",
        "ownership",
        "options",
        "labels",
        "state",
        "procs",
        "memory_bytes",
        "place",
    ];
    for object in objects.iter().filter(|o| projects.iter().any(|p| o["path"] == p.str())) {
        for field in fields {
            assert!(object.get(field).is_some(), "{field} is missing: {object}");
        }
        assert_eq!(object["place"], on());
        for time in ["created", "last_used"] {
            let text = object[time].as_str().unwrap_or_else(|| panic!("{time}: {object}"));
            assert!(text.ends_with('Z') && text.contains('T'), "{text}");
        }
    }
    let containing = |path: &str| list(&["--containing", path]);
    assert_eq!(containing(projects[1].path().join("sub/none").to_str().unwrap()).len(), 1);
    assert!(containing(projects[1].base().to_str().unwrap()).is_empty());
}

#[test]
fn the_last_use_is_that_of_the_last_command() {
    let project = Project::new();
    let name = project.create(&[]);
    project.must("start");
    let file = format!("/var/lib/llima-box/envs/{name}/last_used");
    host(&format!("touch -d 2020-01-01 {file}"));
    let before = project.record()["last_used"].clone();
    project.sh("true");
    eventually("the command counts as a use", || project.record()["last_used"] != before);
}
