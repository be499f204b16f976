//! Snapshots: what was frozen comes back as it was, and nothing that anybody needs is lost on the way.

use lbx_tests::machine::{exists, read, traces, write};
use lbx_tests::{Command, Place, Project, errors, host, installed, near, only_at, place, text};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;

/// All that a home or a project shows inside, to the last bit; of directories' sizes file systems make what
/// they like.
const SEEN: &str = "{ find . -printf '%p %y %m %U %G %T@ %l\\n'; find . ! -type d -printf '%p %s\\n'
    find . -type f -exec sha256sum {} +; } | sort";
/// Makes of everything that a home may hold something.
const FILL: &str = "cd; mkdir -p a/b empty; echo one >a/file; ln a/file hard; ln -s a/file link; ln -s nowhere broken
    printf '#!/bin/sh\\n' >a/b/run; chmod 751 a/b/run; chmod 700 a; truncate -s 3M sparse; printf x >>sparse
    mkfifo pipe; : >'na
me'; touch -d 2001-02-03T04:05:06.789 a/file; chmod 1777 empty; touch -d 1999-01-01 a/b";
/// Changes all of it.
const CHANGE: &str = "cd; echo two >>a/file; rm link; mkdir link; echo in >link/in; mv a/b a/c; mv a moved; rm -r empty
    mkdir empty; echo new >empty/new; chmod 600 sparse; rm 'na
me' pipe; chmod 755 .";

/// `lbx-env VERB` of `project`, with `tags` behind it.
fn env(verb: &str, project: &Project, tags: &[&str]) -> Command {
    let mut command = project.env_tool(verb);
    command.arg("--").arg(project.path()).args(tags);
    command
}

/// As [`env`], of an environment that is stopped before; it must succeed and print nothing.
fn snap(verb: &str, project: &Project, tags: &[&str]) {
    project.must("stop");
    env(verb, project, tags).assert().success().stdout("");
}

/// What the home shows inside.
fn home(project: &Project) -> String {
    project.sh(&format!("cd; {SEEN}"))
}

fn snapshots(name: &str) -> Vec<String> {
    let dir = format!("/var/lib/llima-box/envs/{name}/snapshots");
    lbx_tests::machine::entries(dir).iter().map(|file| file.trim_end_matches(".json").to_owned()).collect()
}

fn snapshot(name: &str, tag: &str) -> Value {
    let text = read(format!("/var/lib/llima-box/envs/{name}/snapshots/{tag}.json"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{tag}: {e}: {text}"))
}

/// The layers that there are of `name`, by what the machine keeps.
fn held(name: &str) -> Vec<String> {
    let script = format!("ls -d /var/lib/llima-box/layers/*/users/{name} 2>/dev/null || :");
    host(&script).lines().map(|line| line.split('/').nth(5).unwrap_or_default().to_owned()).collect()
}

#[test]
fn what_was_saved_of_a_home_comes_back_bit_for_bit() {
    let project = Project::new();
    let name = project.create(&[]);
    project.sh(FILL);
    let saved = home(&project);
    snap("save", &project, &["one"]);
    assert_eq!(home(&project), saved, "a save changes nothing that is seen");
    project.sh(CHANGE);
    let changed = home(&project);
    assert_ne!(changed, saved);
    assert!(changed.contains("./moved/c/run f 751") && !changed.contains("./a "), "{changed}");
    snap("restore", &project, &["one"]);
    assert_eq!(home(&project), saved);
    // and so does what it replaced
    let tags = snapshots(&name);
    let before = tags.iter().find(|tag| tag.starts_with("before-one-")).unwrap();
    assert_eq!((tags.len(), &snapshot(&name, before)["safety"]), (2, &Value::from(true)), "{tags:?}");
    snap("restore", &project, &[before]);
    assert_eq!(home(&project), changed);
    // which was a snapshot already
    assert_eq!(snapshots(&name), tags);
    snap("restore", &project, &["one"]);
    project.must("delete");
    assert_eq!(held(&name), Vec::<String>::new());
    assert_eq!(traces(&name), Vec::<String>::new());
}

/// The conflicts among what was changed of `project`.
fn conflicts(project: &Project) -> Vec<String> {
    let told = lbx_tests::tool("lbx-diff").args(["--json", "--"]).arg(project.path()).assert().code(1);
    let changes: Vec<Value> = text(told).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let theirs = changes.iter().filter(|change| change["conflict"] == true);
    theirs.map(|change| change["path"].as_str().expect("a path").to_owned()).collect()
}

#[test]
fn what_the_person_changed_before_a_restore_is_a_conflict_whatever_was_discarded_between() {
    let project = Project::new();
    for file in ["a", "b", "c"] {
        near(&format!("echo one >'{}/{file}'", project.str()));
    }
    std::thread::sleep(std::time::Duration::from_secs(1));
    project.create(&["--project", "cow"]);
    project.sh("for file in a b c; do echo agent >>$file; done");
    snap("save", &project, &["one"]);
    assert_eq!(conflicts(&project), Vec::<String>::new());
    std::thread::sleep(std::time::Duration::from_secs(1));
    near(&format!("echo person >>'{}/b'", project.str()));
    assert_eq!(conflicts(&project), ["b"]);
    std::thread::sleep(std::time::Duration::from_secs(1));
    snap("discard", &project, &[]);
    project.sh("echo again >>c");
    assert_eq!(conflicts(&project), Vec::<String>::new(), "the new layer began after the change");
    snap("restore", &project, &["one"]);
    let told = conflicts(&project);
    // on 9p the time of the project itself is the base, and the discard has moved that: then all may be theirs
    assert!(told == ["b"] || (place() == Place::Lima && told.contains(&"b".to_owned())), "{told:?}");
    // and what is newer comes back as it was
    let tags = snapshots(&project.name());
    let newer = tags.iter().find(|tag| tag.starts_with("before-one-")).unwrap();
    snap("restore", &project, &[newer]);
    assert_eq!(conflicts(&project), Vec::<String>::new());
    let fork = text(env_of_fork(&project, "one").assert().success());
    let told = lbx_tests::tool("lbx-diff").args(["--json", "--", fork.trim()]).assert().code(1);
    let told = text(told).matches("\"conflict\":true").count();
    assert!(told == 1 || (place() == Place::Lima && told > 1), "{told} in a fork");
}

/// `lbx-env create --from PROJECT@TAG`
fn env_of_fork(project: &Project, tag: &str) -> Command {
    let mut command = lbx_tests::tool("lbx-env");
    command.args(["create", "--from", &format!("{}@{tag}", project.name())]);
    command
}

#[test]
fn a_copy_on_write_project_comes_back_with_the_home() {
    let project = Project::new();
    project.write("src/a", "one\n");
    project.write("src/b", "two\n");
    project.write("dir/deep/c", "three\n");
    let name = project.create(&["--project", "cow"]);
    project.sh("echo in >>src/a; rm -r dir; mkdir dir; echo d >dir/d; echo home >~/file; chmod 700 .");
    let both = |project: &Project| project.sh(SEEN) + &home(project);
    let saved = both(&project);
    snap("save", &project, &["one"]);
    assert_eq!(both(&project), saved);
    project.sh("rm src/a; echo more >src/b; rm -r dir; rm ~/file; echo x >new; chmod 755 .");
    let changed = both(&project);
    snap("save", &project, &["two"]);
    assert_eq!(both(&project), changed, "over two layers");
    let layers = project.record()["layers"].clone();
    assert_eq!((layers["home"].as_array().unwrap().len(), layers["project"].as_array().unwrap().len()), (2, 2));
    assert_eq!(project.record()["schema"], 3);
    for (tag, seen) in [("one", &saved), ("two", &changed), ("one", &saved)] {
        snap("restore", &project, &[tag]);
        assert_eq!(&both(&project), seen, "{tag}");
    }
    // nothing was to lose
    assert_eq!(snapshots(&name), ["one", "two"]);
    assert_eq!(project.read("src/a") + &project.read("src/b") + &project.read("dir/deep/c"), "one\ntwo\nthree\n");
    // what the project has outside is still seen where the inside left it
    project.write("src/b", "outside\n");
    assert_eq!(project.sh("cat src/b"), "outside\n");
}

#[test]
fn what_nothing_needs_any_more_is_removed_and_nothing_else() {
    let project = Project::new();
    let name = project.create(&["--project", "cow"]);
    project.sh("echo 1 >~/file; echo 1 >file");
    snap("save", &project, &["one"]);
    project.sh("echo 2 >~/file");
    snap("save", &project, &["two"]);
    assert_eq!(held(&name).len(), 2);
    // the newer lies over the older
    env("forget", &project, &["one"]).assert().success();
    assert_eq!(held(&name).len(), 2);
    assert_eq!(project.sh("cat ~/file file"), "2\n1\n");
    env("forget", &project, &["two", "three"])
        .assert()
        .code(1)
        .stderr(contains("no such snapshot").and(contains("three")));
    assert_eq!(
        (held(&name).len(), project.sh("cat ~/file file")),
        (2, "2\n1\n".to_owned()),
        "they are the environment's"
    );
    snap("save", &project, &["three"]);
    project.sh("rm ~/file");
    snap("save", &project, &["four"]);
    snap("restore", &project, &["three"]);
    assert_eq!((held(&name).len(), project.sh("cat ~/file")), (3, "2\n".to_owned()));
    env("forget", &project, &["four"]).assert().success();
    assert_eq!(held(&name).len(), 2);
    let ids = held(&name);
    project.must("delete");
    for id in ids {
        assert!(!exists(format!("/var/lib/llima-box/layers/{id}")) && !exists(format!("/home/.llima-box/{id}")));
    }
}

#[test]
fn a_snapshot_is_of_what_does_not_run_and_has_a_name_of_its_own() {
    let project = Project::new();
    let name = project.create(&[]);
    project.sh("echo 1 >~/file");
    for verb in ["save", "restore"] {
        let told = errors(env(verb, &project, &["one"]).assert().code(1));
        assert!(told.contains("is running") && told.contains(&format!("lbx-env stop {name}")), "{told}");
    }
    snap("save", &project, &["one"]);
    let told = errors(env("save", &project, &["one"]).assert().code(1));
    assert!(told.contains("has a snapshot 'one' already"), "{told}");
    for tag in ["", "..", "a/b", "-x", ".x", "a b", "a\nb", "\u{e4}", &"x".repeat(65)] {
        for verb in ["save", "restore", "forget"] {
            env(verb, &project, &[tag]).assert().code(2).stderr(contains("tag"));
        }
    }
    for verb in ["restore", "forget"] {
        let told = errors(env(verb, &project, &["other"]).assert().code(1));
        assert!(told.contains("no such snapshot") && told.contains("other") && told.contains("one"), "{told}");
    }
    assert_eq!(snapshots(&name), ["one"]);
    assert_eq!(project.sh("cat ~/file"), "1\n");
}

#[test]
fn the_plan_tells_of_snapshots_and_changes_nothing() {
    let project = Project::new();
    let name = project.create(&["--project", "cow"]);
    project.sh("echo 1 >~/file; echo 1 >file");
    project.must("stop");
    let dry = |verb: &str, tags: &[&str]| {
        let mut command = project.env_tool(verb);
        text(command.arg("--dry-run").arg("--").arg(project.path()).args(tags).assert().success())
    };
    let plan =
        format!("freeze home of {name}\nfreeze changes of the project of {name}\nwrite snapshot one of {name}\n");
    assert_eq!(dry("save", &["one"]), plan);
    assert!(held(&name).is_empty() && snapshots(&name).is_empty());
    snap("save", &project, &["one"]);
    assert!(dry("restore", &["one"]).contains(&format!("restore snapshot one of {name}")));
    assert_eq!(dry("forget", &["one"]), format!("remove snapshot one of {name}\n"));
    assert!(dry("delete", &[]).contains(&format!("remove snapshot one of {name}")));
    let start = dry("start", &[]);
    assert!(start.contains(&format!("overlay rw /home/{name} over 1 frozen layer\n")), "{start}");
    assert!(start.contains("over 1 frozen layer and the"), "{start}");
    assert_eq!(snapshots(&name), ["one"]);
}

#[test]
fn frozen_layers_are_roots_alone_and_do_not_show_inside() {
    let project = Project::new();
    let name = project.create(&["--project", "cow"]);
    project.sh("echo 1 >~/file; echo 1 >file");
    snap("save", &project, &["one"]);
    assert_eq!(host("stat -c '%u %g %a' /var/lib/llima-box/layers /home/.llima-box"), "0 0 700\n0 0 700\n");
    let mounts = project.sh("cat /proc/self/mountinfo");
    for at in [project.str().to_owned(), format!("/home/{name}")] {
        let overlay = mounts.lines().find(|line| line.contains(&format!(" {at} "))).unwrap();
        assert!(overlay.contains(" overlay ") && overlay.contains("nosuid,nodev"), "{overlay}");
        for told in ["/var/lib/llima-box", ".llima-box", "/proc/", "/run/llima-box", &held(&name)[0]] {
            assert!(!overlay.contains(told), "{told}: {overlay}");
        }
    }
    let inside = "[ ! -e /var/lib/llima-box ] && [ ! -e /home/.llima-box ]";
    project.sh(inside);
    // what is frozen stays as it is
    let frozen =
        format!("cd /home/.llima-box/{0}/home; {SEEN}; cd /var/lib/llima-box/layers/{0}/upper; {SEEN}", held(&name)[0]);
    let before = host(&frozen);
    project.sh("echo 2 >>~/file; rm file; mkdir file; mv ~/file ~/other; chmod 700 ~; touch ~/.profile");
    assert_eq!(host(&frozen), before);
}

#[test]
fn a_snapshot_of_changes_is_not_put_over_a_project_that_is_written_itself() {
    let project = Project::new();
    project.write("file", "theirs\n");
    let name = project.create(&["--project", "cow"]);
    project.sh("echo in >file; echo 1 >~/file");
    snap("save", &project, &["one"]);
    // frozen changes are changes
    let set = |asked: &str| project.env_tool("set").args(["--project", asked, &name]).assert();
    for asked in ["rw", "ro"] {
        set(asked).code(1).stderr(contains("has changes"));
    }
    project.must("stop");
    let mut discard = project.env_tool("discard");
    discard.arg(&name).assert().success();
    assert_eq!(project.sh("cat file ~/file"), "theirs\n1\n");
    assert_eq!(project.record()["layers"]["project"], Value::Array(Vec::new()));
    project.must("stop");
    set("rw").success();
    assert_eq!(project.sh("cat file ~/file"), "theirs\n1\n");
    project.must("stop");
    let told = errors(env("restore", &project, &["one"]).assert().code(1));
    assert!(told.contains("has changes of the project") && told.contains("lbx-env set --project cow"), "{told}");
    set("cow").success();
    snap("restore", &project, &["one"]);
    assert_eq!(project.sh("cat file"), "in\n");
    assert_eq!(project.read("file"), "theirs\n");
}

#[test]
fn a_damaged_snapshot_is_named_and_breaks_nothing_else() {
    let project = Project::new();
    let name = project.create(&[]);
    project.sh("echo 1 >~/file");
    snap("save", &project, &["one"]);
    project.sh("echo 2 >~/file");
    snap("save", &project, &["two"]);
    let file = format!("/var/lib/llima-box/envs/{name}/snapshots/one.json");
    write(&file, b"{\"schema\":1");
    let told = errors(env("restore", &project, &["one"]).assert().code(1));
    assert!(told.contains(&file) && told.contains("damaged") && told.contains("lbx-env forget"), "{told}");
    snap("restore", &project, &["two"]);
    assert_eq!(project.sh("cat ~/file; echo 3 >~/file"), "2\n");
    // nobody knows what it needs: nothing goes, and that is told
    snap("save", &project, &["three"]);
    let told = errors(env("restore", &project, &["two"]).assert().success());
    assert!(told.contains("no room was freed") && told.contains(&file), "{told}");
    assert_eq!(held(&name).len(), 3);
    env("forget", &project, &["one", "three"]).assert().success().stderr("");
    assert_eq!((held(&name).len(), project.sh("cat ~/file")), (2, "2\n".to_owned()));
}

#[test]
fn a_damaged_record_forgets_no_frozen_layer() {
    let project = Project::new();
    let name = project.create(&["--project", "cow"]);
    project.sh("echo 1 >~/file; echo 1 >file");
    snap("save", &project, &["one"]);
    let file = format!("/var/lib/llima-box/envs/{name}/record.json");
    for damaged in [read(&file).replace("\"schema\":3", "\"schema\":9"), "{".to_owned()] {
        write(&file, damaged.as_bytes());
        assert_eq!(project.state(), "broken");
        project.must("repair");
        assert_eq!(project.sh("cat ~/file file"), "1\n1\n", "{damaged}");
        project.must("stop");
    }
}

/// Lets the environment `to` have the layers of `from`, as they are recorded.
fn share(from: &str, to: &str) {
    let file = |name: &str| format!("/var/lib/llima-box/envs/{name}/record.json");
    let json = |name: &str| -> Value { serde_json::from_str(&read(file(name))).unwrap() };
    let mut record = json(to);
    record["layers"] = json(from)["layers"].clone();
    record["schema"] = 3.into();
    for layer in record["layers"].as_object().unwrap().values().flat_map(|list| list.as_array().unwrap()) {
        host(&format!("touch /var/lib/llima-box/layers/{}/users/{to}", layer["id"].as_str().unwrap()));
    }
    host(&format!("find /home/{to} -mindepth 1 -delete"));
    write(file(to), (record.to_string() + "\n").as_bytes());
}

#[test]
fn a_layer_that_two_need_is_each_ones_own_and_outlives_one() {
    let (project, other) = (Project::new(), Project::new());
    let name = project.create(&["--project", "cow"]);
    let second = other.create(&["--project", "cow"]);
    project.sh(&format!("{FILL}; mkdir private; chmod 700 private; echo p >private/file"));
    project.sh("mkdir dir; echo in >dir/file; chmod 700 dir");
    snap("save", &project, &["one"]);
    let owned = |project: &Project| project.sh("find ~ . -printf '%p %u %g %m %T@\\n' | sort");
    let as_second = |text: &str| text.replace(&name, &second).replace(project.str(), other.str());
    let (seen, shown) = (owned(&project), home(&project));
    project.must("stop");
    share(&name, &second);
    // whose uids the files have on the disk is not seen
    let theirs = other.sh("find ~ . -printf '%p %u %g %m %T@\\n' | sort");
    // the tops were not made as those of a fork are
    let tops = format!("/home/{second} ");
    let own = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with(&tops) && !line.starts_with(". ")).map(str::to_owned).collect()
    };
    if !project.shares_uid() {
        assert_eq!(own(&theirs), own(&as_second(&seen)));
    }
    assert_eq!(other.sh("cat ~/private/file dir/file ~/hard"), "p\nin\none\n");
    // what one does the other does not see
    other.sh("echo theirs >~/a/file; rm -r ~/private dir; mv ~/a ~/b; echo x >new");
    assert_eq!(home(&project), shown);
    assert_eq!(project.sh("cat dir/file; ls"), "in\ndir\n");
    let id = held(&name)[0].clone();
    project.must("delete");
    assert_eq!(held(&second), std::slice::from_ref(&id));
    other.must("stop");
    assert_eq!(other.sh("cat ~/b/file ~/hard new"), "theirs\none\nx\n");
    // nor does a save or a restore of what is another's first
    snap("save", &other, &["two"]);
    other.sh("rm -r ~/b; rm new");
    snap("restore", &other, &["two"]);
    assert_eq!(other.sh("cat ~/b/file ~/hard new"), "theirs\none\nx\n");
    other.must("delete");
    assert!(!exists(format!("/var/lib/llima-box/layers/{id}")) && !exists(format!("/home/.llima-box/{id}")));
}

#[test]
fn attributes_of_files_are_saved_and_marks_of_overlays_do_not_show() {
    if !installed(&["python3"]) {
        return;
    }
    let project = Project::new();
    project.create(&[]);
    let list = "import os
for top, dirs, files in os.walk(os.environ['HOME']):
    for path in [top] + [os.path.join(top, file) for file in files]:
        for name in os.listxattr(path): print(path, name, os.getxattr(path, name))";
    project
        .enter([
            "python3",
            "-c",
            "import os; os.chdir(os.environ['HOME']); os.mkdir('dir'); open('dir/file', 'w').close()
os.setxattr('dir/file', 'user.one', b'1'); os.setxattr('dir', 'user.two', b'2'); os.setxattr('.', 'user.three', b'3')",
        ])
        .assert()
        .success();
    let seen = text(project.enter(["python3", "-c", list]).assert().success());
    assert_eq!(seen.lines().count(), 3, "{seen}");
    snap("save", &project, &["one"]);
    assert_eq!(text(project.enter(["python3", "-c", list]).assert().success()), seen);
    project.sh("mv ~/dir ~/other; rm ~/other/file; mkdir ~/dir");
    assert_eq!(text(project.enter(["python3", "-c", list]).assert().success()).lines().count(), 2);
    snap("restore", &project, &["one"]);
    assert_eq!(text(project.enter(["python3", "-c", list]).assert().success()), seen);
}

#[test]
fn a_frozen_layer_that_is_gone_is_named() {
    let project = Project::new();
    let name = project.create(&[]);
    project.sh("echo 1 >~/file");
    snap("save", &project, &["one"]);
    project.sh("echo 2 >~/file");
    snap("save", &project, &["two"]);
    let layers = project.record()["layers"]["home"].clone();
    let id = layers[1]["id"].as_str().unwrap();
    host(&format!("mv /home/.llima-box/{id} /home/.llima-box/kept"));
    let told = errors(project.enter(["true"]).assert().code(125));
    assert!(told.contains("a frozen layer is missing") && told.contains(id), "{told}");
    for tag in ["one", "two"] {
        let told = errors(env("restore", &project, &[tag]).assert().code(1));
        assert!(told.contains("a frozen layer is missing") && told.contains(id), "{told}");
    }
    host(&format!("mv /home/.llima-box/kept /home/.llima-box/{id}"));
    assert_eq!(project.sh("cat ~/file"), "2\n");
    assert_eq!(snapshots(&name), ["one", "two"]);
}

#[test]
fn a_home_that_cannot_be_moved_is_not_frozen_and_stays_as_it_is() {
    if !only_at(&[Place::Local], "a mount there is seen by nobody else") {
        return;
    }
    let project = Project::new();
    let name = project.create(&[]);
    project.sh("echo 1 >~/file");
    project.must("stop");
    host(&format!("mount --bind /home/{name} /home/{name}"));
    let told = errors(env("save", &project, &["one"]).assert().code(1));
    host(&format!("umount /home/{name}"));
    assert!(told.contains(&format!("/home/{name}")) && told.contains("mount of its own"), "{told}");
    assert!(held(&name).is_empty() && snapshots(&name).is_empty() && project.record().get("layers").is_none());
    assert!(!exists(format!("/home/.llima-box/work/{name}")));
    assert_eq!(project.sh("cat ~/file"), "1\n");
}

#[test]
fn many_snapshots_are_merged_and_each_comes_back() {
    let project = Project::new();
    near(&format!(
        "cd '{}'; mkdir -p kept/deep gone; echo p >kept/deep/file; echo p >gone/file; echo p >file",
        project.str()
    ));
    let name = project.create(&["--project", "cow"]);
    project.sh(&format!("{FILL}; mkdir -p own/below; echo o >own/below/file; ln own/below/file own/second"));
    // of what a layer does to those below it, all that there is, and a merged layer has to do it still
    let change = |number: usize| match number {
        0 => "rm -r gone; echo in >kept/deep/new; mkdir new; echo in >new/file".to_owned(),
        1 => "rm -r kept; mkdir kept; echo in >kept/other; mkdir gone; echo in >gone/again".to_owned(),
        2 => "rm file; mkdir file; echo in >file/in; rm new/file; ln -s in new/file; mv ~/own ~/moved".to_owned(),
        3 => "chmod 700 kept; rm -r file; echo in >file; mv ~/moved/below ~/under; rm -r ~/empty; mkdir ~/empty"
            .to_owned(),
        4 => "mkdir -p kept/deep; echo in >kept/deep/third; echo more >>~/under/file; mv ~/under ~/moved/third"
            .to_owned(),
        number => format!("echo {number} >~/file; echo {number} >number; rm -f ~/n{}; touch ~/n{number}", number - 1),
    };
    let both = |project: &Project| project.sh(SEEN) + &home(project);
    let mut seen = Vec::new();
    for number in 0..36 {
        project.sh(&change(number));
        seen.push(both(&project));
        snap("save", &project, &[&format!("s{number}")]);
        assert_eq!(both(&project), seen[number], "{number}");
    }
    let layers = project.record()["layers"].clone();
    let depth = |what: &str| layers[what].as_array().unwrap().len();
    assert_eq!((depth("home"), depth("project")), (4, 5), "{layers}");
    for number in [0, 4, 31, 32, 35] {
        snap("restore", &project, &[&format!("s{number}")]);
        assert_eq!(both(&project), seen[number], "{number}");
    }
    // the merged ones are all that is left
    let tags: Vec<String> = snapshots(&name).into_iter().filter(|tag| tag != "s35").collect();
    env("forget", &project, &tags.iter().map(String::as_str).collect::<Vec<_>>()).assert().success();
    assert_eq!(held(&name).len(), 6, "three of both, three of one");
    assert_eq!(both(&project), seen[35]);
    // below all of them lies the project
    near(&format!("echo outside >'{}/late'", project.str()));
    assert_eq!(project.sh("cat late; ls kept gone"), "outside\ngone:\nagain\n\nkept:\ndeep\nother\n");
}
