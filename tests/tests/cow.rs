//! Projects that are not to be changed: read-only ones, and those that the inside changes in a layer of
//! its own.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;
use std::time::{Duration, Instant};

use lbx_tests::machine::{account, exists, read, traces, write};
use lbx_tests::place::HERE;
use lbx_tests::{Killing, Project, User, errors, host, installed, near, only_at, scaled, tool, tool_file};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;

/// Everything about the project, but for when it was read, and when a change was last made of its mode.
fn picture(project: &Project) -> String {
    near(&format!(
        "cd '{}'; find . -printf '%p %y %m %U %G %n %i %s %T@ %l\\n' | sort; find . -mindepth 1 -printf '%p %C@\\n' | sort
         find . -type f -print0 | sort -z | xargs -0r sha256sum",
        project.str()
    ))
}

/// A project with something of everything that a person may have there.
fn project() -> Project {
    let project = Project::new();
    near(&format!(
        "cd '{}'; mkdir -p src/deep empty; echo one >src/a; echo two >src/b; echo three >src/deep/c; ln src/b hard
         ln -s src/a link; ln -s nowhere broken; printf '#!/bin/sh\\n' >run; chmod 750 run; umask 077; echo s >secret",
        project.str()
    ));
    project
}

fn layers(name: &str) -> String {
    format!("/var/lib/llima-box/envs/{name}/project")
}

/// All that a session may do to a project.
const SESSION: &str = "echo more >>src/a; echo new >made; mkdir -p dir/below; echo x >dir/below/file; rm src/deep/c
    mv src/b src/moved; chmod 600 run; rm link; ln -s made link; rm -r empty; mkdir empty; echo in >empty/now
    mv src/deep src/renamed; rm secret; mkdir secret; rm -r src/renamed; touch -d 2001-01-01 hard; rm broken; echo f >broken";
/// What it then sees.
const SEEN: &str = "find . -printf '%p %y %m %n %s %l\\n' | grep -v '^\\. ' | sort; cat src/a made dir/below/file hard src/moved broken";

#[test]
fn what_is_done_inside_leaves_a_copy_on_write_project_as_it_was() {
    let project = project();
    let before = picture(&project);
    let name = project.create(&["--project", "cow"]);
    assert_eq!(picture(&project), before, "create");
    project.sh(SESSION);
    assert_eq!(picture(&project), before, "a session");
    let seen = project.sh(SEEN);
    for line in ["./src/moved f 644", "./run f 600", "./empty/now f", "./link l", "./secret d"] {
        assert!(seen.contains(line), "{line}: {seen}");
    }
    assert!(!seen.contains("./src/b ") && !seen.contains("deep") && !seen.contains("renamed"), "{seen}");
    assert!(seen.ends_with("one\nmore\nnew\nx\ntwo\ntwo\nf\n"), "{seen}");

    project.must("stop");
    assert_eq!(project.sh(SEEN), seen, "after a stop");
    project.must("delete");
    assert_eq!(picture(&project), before, "delete");
    assert!(!exists(layers(&name)));
    assert_eq!(traces(&name), Vec::<String>::new());
}

#[test]
fn what_a_person_changes_outside_shows_inside_until_the_inside_changes_it() {
    let project = project();
    project.create(&["--project", "cow"]);
    assert_eq!(project.sh("cat src/a src/b"), "one\ntwo\n");
    project.write("src/a", "outside\n");
    project.write("src/later", "later\n");
    assert_eq!(project.sh("cat src/a src/later"), "outside\nlater\n");
    project.sh("echo inside >>src/a; echo inside >src/later");
    project.write("src/a", "again\n");
    project.write("src/later", "again\n");
    project.write("src/b", "again\n");
    let seen = "outside\ninside\ninside\nagain\n";
    assert_eq!(project.sh("cat src/a src/later src/b"), seen);
    project.must("stop");
    assert_eq!(project.sh("cat src/a src/later src/b"), seen);
    assert_eq!(project.read("src/a") + &project.read("src/later"), "again\nagain\n");
}

#[test]
fn files_in_the_layer_are_the_environments_and_the_layer_is_roots() {
    let ada = User::owner();
    let project = Project::owned_by(&ada);
    ada.sh(&format!("cd '{}'; umask 077; mkdir dir; echo one >dir/file", project.str()));
    let name = project.create(&["--project", "cow"]);
    assert_eq!(project.sh("stat -c %U . dir dir/file | sort -u").trim(), name);
    project.sh("echo two >>dir/file; chmod 644 dir/file; echo new >made");
    assert_eq!(project.sh("stat -c %U . dir dir/file made | sort -u").trim(), name);
    let uid = account(&name).unwrap().uid;
    let layers = layers(&name);
    assert_eq!(host(&format!("stat -c '%u %a' {layers}")), "0 700\n");
    assert_eq!(host(&format!("cd {layers}/upper; stat -c %u . dir dir/file made | sort -u")), format!("{uid}\n"));
    let meta = project.path().join("dir/file").metadata().unwrap();
    assert_eq!((meta.uid(), meta.permissions().mode() & 0o777), (ada.uid, 0o600));
    assert!(!project.path().join("made").exists());
}

#[test]
fn git_works_in_a_copy_on_write_project_and_the_repository_stays_as_it_was() {
    if !installed(&["git"]) {
        return;
    }
    let project = Project::new();
    let git = "git -c user.name=n -c user.email=e -c init.defaultBranch=main";
    near(&format!(
        "cd '{}'; mkdir src; for n in 1 2 3; do echo $n >src/$n; done; {git} init -q; {git} add .; {git} commit -qm first",
        project.str()
    ));
    let before = picture(&project);
    project.create(&["--project", "cow"]);
    assert_eq!(project.sh("git status --short; git log --format=%s"), "first\n");
    project.sh(&format!(
        "echo more >>src/1; {git} mv src/2 src/two; {git} rm -q src/3; {git} add .; {git} commit -qm second
         {git} checkout -qb other; mkdir new; echo x >new/y; {git} add .; {git} commit -qm third; {git} gc -q; {git} checkout -q main"
    ));
    assert_eq!(
        project.sh("git status --short; git log --topo-order --format=%s --all; ls src"),
        "third\nsecond\nfirst\n1\ntwo\n"
    );
    assert_eq!(picture(&project), before);
    project.must("stop");
    assert_eq!(project.sh("git fsck --no-progress 2>&1; git status --short"), "");
}

#[test]
fn a_read_only_project_cannot_be_written() {
    let project = project();
    // nobody need be able to write what is only read
    near(&format!("chmod 555 '{}'", project.str()));
    let before = picture(&project);
    let name = project.create(&["--project", "ro"]);
    assert_eq!(project.sh("cat src/a secret"), "one\ns\n");
    for attempt in ["echo x >src/a", "touch new", "rm src/b", "chmod 777 run", "mkdir src/x", "mv src/a src/z"] {
        project.enter(["sh", "-c", attempt]).assert().failure().stderr(contains("Read-only file system"));
    }
    assert_eq!(picture(&project), before);
    let record = project.record();
    assert_eq!((&record["schema"], &record["options"]["project"]), (&Value::from(2), &"ro".into()), "{record}");
    project.must("stop");
    // what would not be writable is refused, as ever
    for asked in ["rw", "cow"] {
        let set = project.env_tool("set").args(["--project", asked, &name]).assert().code(1);
        assert!(errors(set).contains("would not be writable"), "{asked}");
    }
    near(&format!("chmod 755 '{}'", project.str()));
    project.env_tool("set").args(["--project", "rw", &name]).assert().success();
    assert_eq!(project.record()["schema"], 1);
    project.sh("echo x >src/a");
    assert_eq!(project.read("src/a"), "x\n");
}

#[test]
fn set_changes_what_a_project_is_when_nothing_runs_and_nothing_would_be_lost() {
    let project = project();
    let name = project.create(&[]);
    let set = |asked: &str| project.env_tool("set").args(["--project", asked, &name]).assert();
    assert_eq!(project.record()["options"].get("project"), None);
    project.sh("true");
    let told = errors(set("cow").code(1));
    assert!(told.contains("--project can be set when it is stopped") && told.contains("lbx-env stop"), "{told}");
    project.must("stop");
    set("cow").success();
    let record = project.record();
    assert_eq!((&record["schema"], &record["options"]["project"]), (&Value::from(2), &"cow".into()), "{record}");
    // nothing was changed: nothing is lost
    project.sh("cat src/a");
    project.must("stop");
    set("ro").success();
    set("cow").success();
    assert_eq!(project.create(&["--project", "cow"]), name);
    let other = project.env_tool("create").args(["--project", "rw"]).arg(project.path()).assert().code(1);
    assert!(errors(other).contains("--project"));

    project.sh("echo inside >src/a");
    project.must("stop");
    for asked in ["rw", "ro"] {
        set(asked).code(1).stderr(contains("has changes").and(contains("lbx-apply")).and(contains("lbx-discard")));
    }
    set("cow").success();
    assert_eq!(project.sh("cat src/a"), "inside\n", "they are still there");
    assert_eq!(project.read("src/a"), "one\n");
    project.must("stop");
    host(&format!("rm {}/upper/src/a; rmdir {0}/upper/src", layers(&name)));
    set("rw").success();
    assert!(!exists(layers(&name)));
    project.sh("echo inside >src/a");
    assert_eq!(project.read("src/a"), "inside\n");
}

#[test]
fn the_plan_tells_of_the_layers() {
    let project = project();
    let dry = |verb: &str, options: &[&str]| {
        let mut command = project.env_tool(verb);
        lbx_tests::text(command.arg("--dry-run").args(options).arg("--").arg(project.path()).assert().success())
    };
    assert!(dry("create", &["--project", "cow"]).contains("create layers of"));
    project.create(&["--project", "cow"]);
    let plan = dry("start", &[]);
    assert!(plan.lines().any(|line| line.starts_with(&format!("overlay rw {}", project.str()))), "{plan}");
    assert!(!plan.contains(&format!("bind rw {}", project.str())), "{plan}");
    assert_eq!(dry("set", &["--project", "ro"]), format!("set --project of {}\n", project.name()));
    assert!(dry("delete", &[]).contains("remove layers of"));
}

#[test]
fn repair_makes_layers_anew_and_forgets_no_change() {
    let project = project();
    let name = project.create(&["--project", "cow"]);
    let layers = layers(&name);
    let base = |file: &str| -> Value { serde_json::from_str(&read(file)).unwrap() };
    let first = base(&format!("{layers}/base.json"));
    assert!(first["base"]["sec"].as_u64() > Some(1_700_000_000), "{first}");
    project.sh("echo inside >src/a");
    project.must("stop");

    host(&format!("rm -r {layers}/work {layers}/lower {layers}/base.json"));
    let told = errors(project.enter(["true"]).assert().code(125));
    assert!(told.contains("layers") && told.contains("lbx-env repair"), "{told}");
    project.must("repair");
    assert_eq!(project.sh("cat src/a"), "inside\n");
    // nobody knows any more since when: everything may have been changed since
    assert_eq!(base(&format!("{layers}/base.json"))["base"]["sec"], 0);
    project.must("stop");

    host(&format!("rm -r {layers}"));
    project.must("repair");
    assert_eq!(project.sh("cat src/a; echo x >src/a"), "one\n");
    assert!(base(&format!("{layers}/base.json"))["base"]["sec"].as_u64() >= first["base"]["sec"].as_u64());
    assert_eq!(project.read("src/a"), "one\n");
}

#[test]
fn a_damaged_record_does_not_open_a_project() {
    for asked in ["ro", "cow"] {
        let project = project();
        let name = project.create(&["--project", asked]);
        let file = format!("/var/lib/llima-box/envs/{name}/record.json");
        // as a newer tool may write it
        write(&file, read(&file).replace("\"schema\":2", "\"schema\":9").as_bytes());
        assert_eq!(project.state(), "broken");
        project.must("repair");
        assert_eq!(project.record()["options"]["project"], asked);
        let _ = project.enter(["sh", "-c", "echo x >src/a"]).output();
        assert_eq!(project.read("src/a"), "one\n");
    }
}

#[test]
fn what_marks_a_layer_cannot_be_made_inside_and_its_place_does_not_show() {
    let project = project();
    let name = project.create(&["--project", "cow"]);
    // a whiteout is such a device, and on other file systems anybody may make one
    project.enter(["mknod", "src/whiteout", "c", "0", "0"]).assert().failure();
    let mounts = project.sh("cat /proc/self/mountinfo");
    let overlay = mounts.lines().find(|line| line.contains(&format!(" {} ", project.str()))).unwrap();
    assert!(overlay.contains("overlay") && overlay.contains("nosuid,nodev"), "{overlay}");
    for told in ["/var/lib/llima-box", "envs", "/proc/", "/run/llima-box"] {
        assert!(!overlay.contains(told), "{told}: {overlay}");
    }
    project.sh(&format!("[ ! -e /var/lib/llima-box ]; [ ! -e {} ]; [ ! -e /lower ]; [ ! -e /upper ]", layers(&name)));
}

#[test]
fn private_and_further_paths_lie_over_the_layer() {
    let (project, other) = (project(), Project::new());
    project.write("target/old", "theirs\n");
    project.write("src/given", "theirs\n");
    other.write("more", "more\n");
    let given = format!("{}/src/given", project.str());
    let before = near(&format!("cd '{}'; find . | sort", project.str()));
    project.create(&[
        "--project",
        "cow",
        "--private",
        "target",
        "--private",
        "new/dir",
        "--rw",
        &given,
        "--ro",
        other.str(),
    ]);
    assert_eq!(project.sh(&format!("ls target new/dir; cat {}/more", other.str())), "new/dir:\n\ntarget:\nmore\n");
    project.sh("echo own >target/new; echo own >new/dir/new; echo ours >src/given; echo ours >src/a");
    // what was given to be written is, and nothing else
    assert_eq!(project.read("src/given") + &project.read("src/a"), "ours\none\n");
    assert_eq!(near(&format!("cd '{}'; find . | sort", project.str())), before);
}

#[test]
fn a_worktree_that_is_not_to_be_changed_closes_its_repository() {
    if !installed(&["git"]) {
        return;
    }
    let (main, project) = (Project::new(), Project::new());
    let git = "git -c user.name=n -c user.email=e -c init.defaultBranch=main";
    near(&format!(
        "cd '{}'; echo one >file; {git} init -q; {git} add .; {git} commit -qm first; {git} worktree add -q '{}' 2>&1",
        main.str(),
        project.str()
    ));
    project.create(&["--project", "cow"]);
    let seen = project.sh("git log --format=%s; git status --short; echo two >file; git diff --shortstat");
    assert!(seen.starts_with("first\n 1 file changed"), "{seen}");
    project.enter(["sh", "-c", &format!("{git} commit -qam second")]).assert().failure();
    assert_eq!(near(&format!("cd '{}'; git status --short; cat file", project.str())), "one\n");
}

/// `lbx-env discard` of `paths`.
fn discard(project: &Project, paths: &[&str]) -> lbx_tests::Command {
    let mut command = project.env_tool("discard");
    command.arg("--").arg(project.path()).args(paths);
    command
}

#[test]
fn what_is_discarded_is_as_the_project_has_it_and_the_rest_stays() {
    let project = project();
    let name = project.create(&["--project", "cow"]);
    let theirs = project.sh(SEEN_ANYHOW);
    project.sh(
        "echo in >>src/a; rm src/b; echo in >made; mkdir -p new/dir; echo in >new/dir/file; chmod 700 run; rm -r empty",
    );
    let told = errors(discard(&project, &[]).assert().code(1));
    assert!(told.contains("is running") && told.contains("lbx-env stop"), "{told}");
    project.must("stop");

    discard(&project, &["src/a", "./src//b", &format!("{}/new/dir", project.str()), "never/there"])
        .assert()
        .success()
        .stdout("");
    assert_eq!(
        project.sh("cat src/a src/b made; stat -c %a run; ls -d new/dir empty 2>&1 | grep -c 'No such'"),
        "one\ntwo\nin\n700\n2\n"
    );
    project.must("stop");
    // a list from a pipe; an empty one is not all
    discard(&project, &["-"]).write_stdin("").assert().success();
    assert_eq!(project.sh("cat made"), "in\n");
    project.must("stop");
    let mut from_pipe = project.env_tool("discard");
    from_pipe.args(["-0", "--"]).arg(project.path()).arg("-").write_stdin("made\0new\0run\0empty\0").assert().success();
    assert_eq!(project.sh(SEEN_ANYHOW), theirs);
    project.must("stop");
    // directories that were in the layer for what they held are gone from it as well
    project.env_tool("set").args(["--project", "rw", &name]).assert().success();
    let told = errors(discard(&project, &["made"]).assert().code(1));
    assert!(told.contains("no changes of its own"), "{told}");
}

/// What is seen, but for times and inodes.
const SEEN_ANYHOW: &str = "find . -printf '%p %y %m %U %G %l\\n' | sort; cat src/a src/b hard link run secret";

#[test]
fn all_is_discarded_where_no_path_is_given() {
    let project = project();
    project.create(&["--project", "cow"]);
    let before = picture(&project);
    let theirs = project.sh(SEEN_ANYHOW);
    project.sh(SESSION);
    project.must("stop");
    let plan = project.env_tool("discard").arg("--dry-run").arg("--").arg(project.path()).assert().success();
    assert_eq!(lbx_tests::text(plan), format!("discard all changes of {}\n", project.name()));
    discard(&project, &[]).assert().success().stdout("");
    assert_eq!(project.sh(SEEN_ANYHOW), theirs);
    assert_eq!(picture(&project), before);
}

#[test]
fn below_what_was_removed_or_made_anew_one_path_alone_comes_back() {
    let project = Project::new();
    near(&format!(
        "cd '{}'; mkdir -p d/e/f d/other; for n in d/1 d/2 d/e/3 d/e/4 d/e/f/5 d/e/f/6 d/other/7; do echo $n >$n; done; chmod 750 d/e",
        project.str()
    ));
    project.create(&["--project", "cow"]);
    let seen = |script: &str| {
        let seen = project.sh(&format!("{script}; find . -type f | sort"));
        project.must("stop");
        seen.split_whitespace().map(|path| path.trim_start_matches("./").to_owned()).collect::<Vec<_>>()
    };
    let drop = |path: &str| drop(discard(&project, &[path]).assert().success());
    // removed as a whole
    assert_eq!(seen("rm -r d"), Vec::<String>::new());
    drop("d/e/f/5");
    assert_eq!(seen("cat d/e/f/5 >/dev/null"), ["d/e/f/5"]);
    assert_eq!(project.sh("stat -c '%a %U' d/e"), format!("750 {}\n", project.name()));
    project.must("stop");
    drop("d/2");
    drop("d/e/f");
    assert_eq!(seen("true"), ["d/2", "d/e/f/5", "d/e/f/6"]);
    drop("d");
    assert_eq!(seen("true").len(), 7);

    // made anew: what is the inside's stays, of directories of both names, too
    assert_eq!(
        seen("rm -r d; mkdir -p d/e d/other; echo in >d/1; echo in >d/e/3; echo in >d/other/8"),
        ["d/1", "d/e/3", "d/other/8"]
    );
    drop("d/e/4");
    assert_eq!(seen("true"), ["d/1", "d/e/3", "d/e/4", "d/other/8"]);
    drop("d/other/8");
    assert_eq!(seen("[ \"$(cat d/1 d/e/3)\" = \"$(echo in; echo in)\" ]"), ["d/1", "d/e/3", "d/e/4"]);
    drop("d/1");
    drop("d/e/3");
    assert_eq!(seen("[ \"$(cat d/1 d/e/3)\" = \"$(echo d/1; echo d/e/3)\" ]"), ["d/1", "d/e/3", "d/e/4"]);

    // a file in the place of a directory is not dropped for what it covers
    project.sh("rm -r d/e; echo file >d/e");
    project.must("stop");
    let told = errors(discard(&project, &["d/e/3"]).assert().code(1));
    assert!(told.contains("'e' is no directory inside"), "{told}");
    assert_eq!(project.sh("cat d/e"), "file\n");
}

#[test]
fn discarding_does_not_leave_the_layers() {
    let project = project();
    let other = Project::new();
    other.write("kept", "kept\n");
    let name = project.create(&["--project", "cow"]);
    project.sh(&format!("rm -r src; ln -s '{}' src; ln -s .. up; echo in >made", other.str()));
    project.must("stop");
    for path in ["../record.json", "/etc/passwd", "src/../../x", other.str(), ".", ""] {
        discard(&project, &[path]).assert().code(1);
    }
    let told = errors(discard(&project, &["src/kept"]).assert().code(1));
    assert!(told.contains("no directory inside"), "{told}");
    discard(&project, &["up/made"]).assert().code(1);
    assert_eq!(other.read("kept"), "kept\n");
    assert_eq!(project.sh("cat made"), "in\n");
    assert!(exists(format!("/var/lib/llima-box/envs/{name}/record.json")));
}

#[test]
fn a_discard_that_is_killed_at_any_instant_leaves_no_change_that_nobody_made() {
    if !only_at(&HERE, "what is killed is here") {
        return;
    }
    let mut killing = Killing::default();
    let limit = Instant::now() + scaled(Duration::from_secs(20));
    for round in 0..60 {
        let project = project();
        near(&format!(
            "cd '{}'; mkdir -p old/sub mod; for n in $(seq 60); do echo $n >old/$n; echo $n >old/sub/$n; echo $n >mod/$n; done",
            project.str()
        ));
        let before = picture(&project);
        project.create(&["--project", "cow"]);
        // hidden as a whole, and made anew: without what is in it, it says that all of it is gone
        project.sh(
            "rm -r old; mkdir -p old/sub new/sub; for n in $(seq 60); do echo x >old/$n; echo x >old/sub/$n; echo x >new/sub/$n
             done; for n in $(seq 60); do echo x >mod/$n; done; rm -r src; rm secret; mkdir secret",
        );
        project.must("stop");
        let lines = |options: &[&str]| {
            let output = tool("lbx-diff").args(options).arg("--").arg(project.path()).output().expect("it runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.code() != Some(2)).then(|| text.lines().map(str::to_owned).collect::<BTreeSet<_>>())
        };
        let made = lines(&[]).expect("lbx-diff tells");
        let words: &[&str] = match round % 3 {
            0 => &[],
            1 => &["old", "new", "mod", "src", "secret"],
            _ => &["old/sub", "src/deep/c", "src", "old", "new", "mod", "secret"],
        };
        let mut command = lbx_tests::std_command(tool_file("lbx-env"));
        command.arg("discard").arg("--").arg(project.path()).args(words).stdout(Stdio::null()).stderr(Stdio::null());
        while killing.kill(&mut command) {
            if let Some(left) = lines(&[]) {
                // of a part alone, what covers the rest comes apart into what it covers
                assert!(left.is_subset(&made), "{killing:?}: {:#?}", left.difference(&made));
            }
            assert_eq!(picture(&project), before);
        }
        discard(&project, words).assert().success();
        assert_eq!(lines(&[]), Some(BTreeSet::new()), "{killing:?}, {words:?}");
        assert_eq!(picture(&project), before);
        project.must("repair");
        let all = "find . | sort; find . -type f -print0 | sort -z | xargs -0 cat";
        assert_eq!(project.sh(all), near(&format!("cd '{}'; {all}", project.str())));
        let left = host(&format!("ls {}", layers(&project.name())));
        assert!(!left.contains("dropped") && !left.contains("new"), "{left}");
        if killing.killed > 10 && Instant::now() > limit {
            break;
        }
    }
    assert!(killing.killed > 10, "{killing:?}");
}
