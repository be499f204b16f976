//! `lbx-env create --from`: environments that begin with what another one has written, and go their own
//! way from there.

use std::path::Path;

use lbx_tests::machine::{account, entries, exists, listed, traces};
use lbx_tests::{Place, Project, User, errors, host, near, only_at, text, tool};
use predicates::str::contains;

/// Where frozen layers are: nothing of it is left when the last environment is gone.
const LAYERS: [&str; 2] = ["/var/lib/llima-box/layers", "/home/.llima-box"];

/// A project of three files.
fn project() -> Project {
    let project = Project::new();
    near(&format!(
        "cd '{}'; mkdir -p src/deep; echo one >src/a; echo two >src/b; echo three >src/deep/c",
        project.str()
    ));
    project
}

/// What a parent has written before it is forked: all kinds of changes, in its home and in its project.
const WRITTEN: &str = "echo changed >src/a; rm src/b; mkdir made; echo new >made/file; ln -s made/file link; chmod 750 made
    mkdir -p ~/.cache/deep; echo home >~/.cache/deep/file; ln ~/.cache/deep/file ~/hard; chmod 600 ~/hard; rm -f ~/.npmrc; mkdir ~/dir";
/// What it then sees of it.
const SEEN: &str = "find . ~ -printf '%P %y %m %U %l\\n' | sort | sed \"s/ $(id -u) / own /\"; find ~ -type f -printf '%P %n\\n' | sort; cat src/a made/file ~/hard; ls src";

/// `lbx-env create --from PARENT OPTIONS`: the names that it prints.
fn fork(parent: &str, options: &[&str]) -> Vec<String> {
    let output = text(tool("lbx-env").args(["create", "--from", parent]).args(options).assert().success());
    output.lines().map(str::to_owned).collect()
}

fn refused(parent: &str, options: &[&str]) -> String {
    errors(tool("lbx-env").args(["create", "--from", parent]).args(options).assert().code(1).stdout(""))
}

/// What `script` prints in environment `name`.
fn sh(name: &str, script: &str) -> String {
    text(tool("lbx-enter").args([name, "--", "sh", "-euc", script]).assert().success())
}

fn stop(name: &str) {
    tool("lbx-env").args(["stop", name]).assert().success();
}

fn delete(name: &str) {
    tool("lbx-env").args(["delete", name]).assert().success();
    assert_eq!(traces(name), Vec::<String>::new());
}

/// The layers that somebody keeps, in whichever test.
fn layers_of(name: &str) -> Vec<String> {
    host(&format!("cd {} 2>/dev/null || exit 0; find . -path '*/users/{name}' | sort", LAYERS[0]))
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_fork_begins_with_the_home_and_the_changed_project_of_its_parent() {
    let project = project();
    let parent = project.create(&["--project", "cow", "--label", "team=web"]);
    project.sh(WRITTEN);
    let seen = project.sh(SEEN);
    project.must("stop");
    let names = fork(&parent, &[]);
    assert_eq!(names, [format!("app-1-{}", &parent[parent.len() - 4..])]);
    let name = &names[0];
    assert_eq!(sh(name, "pwd; id -un; echo $HOME"), format!("{}\n{name}\n/home/{name}\n", project.str()));
    assert_eq!(sh(name, SEEN), seen);
    // nothing of it reached the project, and the parent has what it had
    assert_eq!((project.read("src/a"), project.read("src/b")), ("one\n".into(), "two\n".into()));
    assert_eq!(project.sh(SEEN), seen);
    let record = listed(name).unwrap();
    assert_eq!(record["from"]["name"], parent.as_str());
    assert_eq!((&record["options"]["project"], &record["labels"]["team"]), (&"cow".into(), &"web".into()), "{record}");
    assert_eq!(record["schema"], 3, "{record}");
    if record["ownership"] != "shared-uid" {
        assert_ne!(record["uid"], listed(&parent).unwrap()["uid"]);
    }
}

#[test]
fn what_one_writes_is_seen_by_no_other() {
    let project = project();
    let parent = project.create(&["--project", "cow"]);
    project.sh(WRITTEN);
    project.must("stop");
    let names = fork(&parent, &["--count", "2"]);
    let all = [parent.as_str(), &names[0], &names[1]];
    for name in all {
        let write = format!(
            "echo {name} >>src/a; echo {name} >made/file; echo {name} >own-{name}; echo {name} >>~/hard; echo {name} >~/own-{name}
             rm src/deep/c; mv ~/dir ~/dir-{name}; chmod 700 ~/.cache/deep"
        );
        sh(name, &write);
    }
    for name in all {
        let seen = format!("changed\n{name}\n{name}\nhome\n{name}\nown-{name}\ndir-{name}\nown-{name}\n");
        assert_eq!(sh(name, "cat src/a made/file ~/hard; ls -d own-*; ls -d ~/dir* ~/own-* | sed 's|.*/||'"), seen);
        stop(name);
        assert_eq!(sh(name, "cat src/a made/file ~/hard; ls -d own-*; ls -d ~/dir* ~/own-* | sed 's|.*/||'"), seen);
    }
    assert_eq!(project.read("src/a") + &project.read("src/deep/c"), "one\nthree\n");
}

#[test]
fn forks_outlive_their_parent_and_the_last_one_leaves_nothing() {
    let project = project();
    let parent = project.create(&["--project", "cow"]);
    project.sh(WRITTEN);
    let seen = project.sh(SEEN);
    project.must("stop");
    let names = fork(&parent, &["--count", "2"]);
    // and a fork of a fork, with a layer of its own in between
    sh(&names[0], "echo more >more; echo more >~/more");
    stop(&names[0]);
    let deeper = fork(&names[0], &["--name", "deeper"]).remove(0);
    let kept = layers_of(&deeper);
    assert_eq!(kept.len(), 2, "{kept:?}");
    delete(&parent);
    delete(&names[0]);
    assert_eq!(layers_of(&deeper), kept);
    assert_eq!(sh(&names[1], SEEN), seen);
    assert_eq!(sh(&deeper, "cat src/a more ~/more ~/hard"), "changed\nmore\nmore\nhome\n");
    delete(&names[1]);
    assert_eq!(sh(&deeper, "cat src/a more ~/more ~/hard"), "changed\nmore\nmore\nhome\n");
    // by their ids: other tests have layers, too
    let ids: Vec<String> = kept.iter().filter_map(|file| Some(file.split('/').nth(1)?.to_owned())).collect();
    let are_there =
        || -> Vec<bool> { ids.iter().flat_map(|id| LAYERS.map(|dir| exists(Path::new(dir).join(id)))).collect() };
    assert_eq!(are_there(), [true; 4]);
    delete(&deeper);
    assert_eq!(are_there(), [false; 4]);
}

#[test]
fn files_of_the_parent_are_the_forks_own() {
    let ada = User::owner();
    let project = Project::owned_by(&ada);
    ada.sh(&format!("cd '{}'; echo one >file", project.str()));
    let parent = project.create(&["--project", "cow"]);
    project.sh("umask 077; echo inside >>file; mkdir dir; echo x >dir/file; mkdir ~/dir; echo y >~/dir/file");
    project.must("stop");
    let name = fork(&parent, &[]).remove(0);
    let whose = "stat -c %U:%G . file dir dir/file ~ ~/dir ~/dir/file | sort -u";
    assert_eq!(sh(&name, whose), format!("{name}:{name}\n"));
    sh(
        &name,
        "echo more >>file; echo more >>dir/file; echo more >>~/dir/file; chmod 644 ~/dir/file; rm dir/file; touch dir/new ~/dir/new",
    );
    assert_eq!(
        sh(&name, &format!("{whose}; cat file ~/dir/file")),
        format!("{name}:{name}\none\ninside\nmore\ny\nmore\n")
    );
    if !project.shares_uid() {
        let (of_fork, of_parent) = (account(&name).unwrap().uid, account(&parent).unwrap().uid);
        assert_ne!(of_fork, of_parent);
        assert_eq!(
            host(&format!("stat -c %u /home/{name}/dir/file /home/{name}/dir/new | sort -u")),
            format!("{of_fork}\n")
        );
    }
    project.must("start");
    assert_eq!(project.sh(&format!("{whose}; cat file ~/dir/file")), format!("{parent}:{parent}\none\ninside\ny\n"));
}

#[test]
fn a_project_that_is_written_itself_is_shared_by_its_forks() {
    let project = project();
    let parent = project.create(&[]);
    project.sh("echo home >~/file; echo shared >src/a");
    project.must("stop");
    let name = fork(&parent, &[]).remove(0);
    assert_eq!(sh(&name, "cat ~/file src/a; echo fork >src/a; echo fork >~/file"), "home\nshared\n");
    assert_eq!(project.read("src/a"), "fork\n");
    assert_eq!(project.sh("cat ~/file src/a"), "home\nfork\n");
    // one that is to leave it alone
    project.must("stop");
    let careful = fork(&parent, &["--name", "careful", "--project", "cow"]).remove(0);
    sh(&careful, "echo careful >src/a");
    assert_eq!(project.read("src/a"), "fork\n");
    assert_eq!(listed(&careful).unwrap()["options"]["project"], "cow");
}

#[test]
fn options_of_the_command_line_lie_over_those_of_the_parent() {
    let project = project();
    let parent = project.create(&["--label", "a=1", "--git", "user.name=Ada", "--net", "none", "--private", "target"]);
    let name = fork(&parent, &["--label", "b=2", "--net=shared"]).remove(0);
    let record = listed(&name).unwrap();
    assert_eq!(record["labels"], serde_json::json!({"b": "2"}), "{record}");
    assert_eq!((&record["options"]["net"], &record["options"]["git"]["user.name"]), (&"shared".into(), &"Ada".into()));
    assert_eq!(record["options"]["private"], serde_json::json!(["target"]));
    // the same again, and nothing else
    assert_eq!(fork(&parent, &["--net=shared"]), [name.as_str()]);
    let told = refused(&parent, &["--net=none"]);
    assert!(told.contains("exists with other options: --net"), "{told}");
    tool("lbx-env")
        .args(["create", "--exclusive", "--from", &parent])
        .assert()
        .code(1)
        .stderr(contains("environment exists"));
}

#[test]
fn what_was_changed_is_not_hidden_by_a_fork() {
    let project = project();
    let parent = project.create(&["--project", "cow"]);
    project.sh("echo changed >src/a");
    project.must("stop");
    for mode in ["rw", "ro"] {
        let told = refused(&parent, &["--project", mode]);
        assert!(told.contains("has changes that are not in its project") && told.contains("--project cow"), "{told}");
    }
    assert_eq!(listed(&format!("app-1-{}", &parent[parent.len() - 4..])), None);
}

#[test]
fn a_running_parent_is_not_forked() {
    let project = project();
    let parent = project.create(&[]);
    project.sh("echo home >~/file; (sleep 8000 >/dev/null 2>&1 </dev/null &)");
    let told = refused(&parent, &["--count", "2"]);
    assert!(told.contains(&format!("environment '{parent}' is running")) && told.contains("lbx-env stop"), "{told}");
    project.must("stop");
    let names = fork(&parent, &["--count", "2"]);
    assert_eq!(project.sh("cat ~/file"), "home\n");
    // those that are there need nothing of it
    assert_eq!(fork(&parent, &["--count", "2"]), names);
}

#[test]
fn a_snapshot_is_forked_while_its_environment_runs() {
    let project = project();
    let parent = project.create(&["--project", "cow"]);
    let save = |tag: &str| tool("lbx-env").args(["save", &parent, tag]).assert().success();
    project.sh("echo first >~/file; echo first >src/a");
    project.must("stop");
    save("v1");
    project.sh("echo second >~/file; echo second >src/a");
    let tagged = |tag: &str| format!("{parent}@{tag}");
    assert!(refused(&parent, &[]).contains("is running"));
    let old = fork(&tagged("v1"), &["--name", "old"]).remove(0);
    assert_eq!(sh(&old, "cat ~/file src/a"), "first\nfirst\n");
    assert_eq!(project.sh("cat ~/file src/a"), "second\nsecond\n");
    assert_eq!(listed(&old).unwrap()["from"], serde_json::json!({"name": parent, "tag": "v1"}));
    let table = text(tool("llima-box").arg("list").assert().success());
    assert!(table.contains(&tagged("v1")), "{table}");
    // of another snapshot it is another
    project.must("stop");
    save("v2");
    assert!(refused(&tagged("v2"), &["--name", "old"]).contains("environment exists"));
    assert_eq!(fork(&tagged("v1"), &["--name", "old"]), [old.as_str()]);
    // it needs the snapshot no more
    tool("lbx-env").args(["forget", &parent, "v1", "v2"]).assert().success();
    assert!(refused(&tagged("v1"), &["--name", "older"]).contains("no such snapshot"));
    stop(&old);
    delete(&parent);
    assert_eq!(sh(&old, "cat ~/file src/a"), "first\nfirst\n");
}

#[test]
fn a_fork_counts_what_the_person_changes_from_when_its_parent_began() {
    let project = project();
    let parent = project.create(&["--project", "cow"]);
    let base = |name: &str| host(&format!("cat /var/lib/llima-box/envs/{name}/project/base.json"));
    project.sh("echo inside >src/a; echo inside >src/b");
    project.must("stop");
    tool("lbx-env").args(["save", &parent, "v1"]).assert().success();
    let name = fork(&parent, &[]).remove(0);
    assert_eq!(base(&name), base(&parent));
    // those of a snapshot began when they did, whatever was begun anew since
    let began = base(&parent);
    tool("lbx-env").args(["discard", &parent]).assert().success();
    assert_ne!(base(&parent), began);
    let old = fork(&format!("{parent}@v1"), &["--name", "old"]).remove(0);
    assert_eq!(base(&old), began);
}

#[test]
fn an_environment_of_another_origin_is_never_taken_for_a_fork() {
    let project = project();
    let parent = project.create(&[]);
    project.create(&["--name", "app-1"]);
    let told = refused(&parent, &[]);
    assert!(told.contains("environment exists: app-1-") && told.contains("--name"), "{told}");
    let told = refused(&parent, &["--name", "app"]);
    assert!(told.contains(&format!("environment exists: {parent}")), "{told}");
    // those that can be made are made
    let output = tool("lbx-env").args(["create", "--from", &parent, "--count", "2"]).assert().code(1);
    assert_eq!(text(output), format!("app-2-{}\n", &parent[parent.len() - 4..]));
    // the fork of another
    let other = fork(&parent, &["--name", "other"]).remove(0);
    let told = refused(&other, &["--name", "app-2"]);
    assert!(told.contains("environment exists: app-2-"), "{told}");
}

#[test]
fn a_person_forks_what_is_theirs_alone() {
    if !only_at(&[Place::Local], "at other places everybody who gets there is the caller") {
        return;
    }
    let (ada, bob) = (User::sudoer(), User::sudoer());
    let project = Project::owned_by(&ada);
    let parent = text(ada.tool("lbx-env").arg("create").arg(project.path()).assert().success()).trim_end().to_owned();
    for words in [&["--from", &parent][..], &["--count", "2", "--from", &parent]] {
        bob.tool("lbx-env").arg("create").args(words).assert().code(1).stdout("").stderr(contains("belongs to uid"));
    }
    assert_eq!(entries("/var/lib/llima-box/envs").iter().filter(|name| name.ends_with(&parent[3..])).count(), 1);
    let name = text(ada.tool("lbx-env").args(["create", "--from", &parent]).assert().success()).trim_end().to_owned();
    assert_eq!(listed(&name).unwrap()["creator"], ada.uid);
    // root's fork is as much theirs
    let name = fork(&parent, &["--name", "roots"]).remove(0);
    ada.tool("lbx-enter").args([&name, "--", "true"]).assert().success();
}

#[test]
fn the_command_line_is_understood_or_refused() {
    let project = project();
    let parent = project.create(&[]);
    let create = |words: &[&str]| errors(tool("lbx-env").arg("create").args(words).assert().code(2).stdout(""));
    assert!(create(&["--from", &parent, project.str()]).contains("cannot be used with"));
    assert!(create(&["--count", "2", project.str()]).contains("--from ENV"));
    assert!(create(&["--from", &parent, "--count", "0"]).contains("--count"));
    assert!(create(&["--from", &format!("{parent}@../x")]).contains("not the tag of a snapshot"));
    assert!(refused(&format!("{parent}@none"), &[]).contains("no such snapshot"));
    assert!(refused("nothing-0000", &[]).contains("no such environment"));
    let plan =
        text(tool("lbx-env").args(["create", "--dry-run", "--from", &parent, "--count", "2"]).assert().success());
    for line in ["freeze home of", "create account app-1-", "create account app-2-", "create home /home/app-2-"] {
        assert!(plan.contains(line), "{line}: {plan}");
    }
    // by its path, too
    assert_eq!(fork(project.str(), &["--name", "by-path"]).len(), 1);
    assert_eq!(listed(&format!("app-1-{}", &parent[parent.len() - 4..])), None);
}

#[test]
fn neither_forks_nor_frozen_files_can_be_reached_from_inside() {
    let project = project();
    let parent = project.create(&["--project", "cow"]);
    project.sh("echo secret >~/secret; echo secret >secret");
    project.must("stop");
    let names = fork(&parent, &["--count", "2"]);
    for name in [&parent, &names[0], &names[1]] {
        let script = format!(
            "cat ~/secret; ls -d /home/app*; ls -d {} /var/lib/llima-box 2>&1 | grep -vc 'No such file' || :",
            LAYERS.join(" ")
        );
        assert_eq!(sh(name, &script), format!("secret\n/home/{name}\n0\n"));
        // names of layers tell nothing of others
        let mounts = sh(name, "cat /proc/self/mountinfo");
        for other in [&parent, &names[0], &names[1]].into_iter().filter(|other| *other != name) {
            assert!(!mounts.contains(other.as_str()), "{name} sees {other}: {mounts}");
        }
    }
    for dir in LAYERS {
        assert_eq!(host(&format!("stat -c '%u %a' {dir}")), "0 700\n", "{dir}");
    }
}

#[test]
fn shell_and_list_tell_which_environments_a_path_has() {
    let project = project();
    let parent = project.create(&[]);
    let shell = |words: &[&str]| tool("llima-box").arg("shell").args(words).args(["--", "hostname"]).assert().success();
    assert_eq!(errors(shell(&[project.str()])), "");
    project.must("stop");
    let names = fork(&parent, &["--count", "2"]);
    let output = shell(&[project.str()]);
    assert_eq!(text(shell(&[project.str()])), format!("{parent}\n"));
    let told = errors(output);
    assert!(told.contains(&format!("has others: {}", names.join(" "))), "{told}");
    assert_eq!(errors(shell(&["-q", project.str()])), "");
    // who names one means it
    for name in [&parent, &names[0]] {
        let output = shell(&[name]);
        assert_eq!((text(shell(&[name])), errors(output)), (format!("{name}\n"), String::new()));
    }
    let table = text(tool("llima-box").arg("list").assert().success());
    let line = |name: &str| table.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap().to_owned();
    assert!(line(&names[1]).contains(&format!(" {parent} ")), "{table}");
    delete(&parent);
    let told = errors(tool("llima-box").args(["shell", project.str(), "--", "true"]).assert().code(125));
    assert!(told.contains("several environments") && names.iter().all(|name| told.contains(name)), "{told}");
}

#[test]
fn shell_makes_a_fork_and_enters_it() {
    let project = project();
    let parent = project.create(&[]);
    project.sh("echo home >~/file");
    project.must("stop");
    let shell = |words: &[&str]| {
        text(
            tool("llima-box")
                .arg("shell")
                .args(words)
                .args(["--", "sh", "-c", "hostname; cat ~/file; echo x >>~/file"])
                .assert()
                .success(),
        )
    };
    let digits = &parent[parent.len() - 4..];
    assert_eq!(shell(&["--from", &parent]), format!("app-1-{digits}\nhome\n"));
    assert_eq!(shell(&["--from", &parent]), format!("app-1-{digits}\nhome\nx\n"), "the same again");
    assert_eq!(shell(&["--from", &parent, "--name", "try"]), format!("try-{digits}\nhome\n"));
    let both = tool("llima-box").args(["shell", "--from", &parent, project.str(), "--", "true"]).assert().code(125);
    assert!(errors(both).contains("cannot be used with"));
}
