//! From create to delete, with what an environment keeps and what it forgets between.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use lbx_tests::machine::{account, entries, exists, group, list, listed, read, traces};
use lbx_tests::place::HERE;
use lbx_tests::{
    Place, Project, User, bin_dir, command, errors, eventually, executable, host, installed, near, only_at, place,
    scaled, script, std_command, text, tool, tool_file,
};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::json;

fn in_group(user: &str, group: &str) -> bool {
    let groups = read("/etc/group");
    let line = groups.lines().find(|l| l.split(':').next() == Some(group)).unwrap_or("");
    line.rsplit(':').next().unwrap().split(',').any(|member| member == user)
}

#[test]
fn create_makes_an_account_a_home_and_a_record_and_prints_the_name() {
    let project = Project::new();
    let name = project.create(&[]);
    assert_eq!(name, project.name());

    let account = account(&name).expect("the account exists");
    let group = group(&name);
    assert!((65536..=99999).contains(&group), "{group}");
    let owner = project.path().metadata().unwrap();
    let ids = if project.shares_uid() { (owner.uid(), owner.gid()) } else { (group, group) };
    assert_eq!((account.uid, account.gid), ids, "the owner's where they are shared, else its own");
    assert_eq!(account.gecos, "llima-box");
    assert_eq!(account.home, "/nonexistent");
    assert_eq!(account.shell, "/usr/sbin/nologin");
    assert!(in_group(&name, "lbx-env"));
    let shadow = read("/etc/shadow");
    let shadow: Vec<&str> = shadow.lines().find(|l| l.starts_with(&format!("{name}:"))).unwrap().split(':').collect();
    assert!(shadow[1].starts_with(['!', '*']), "no password opens it: {shadow:?}");
    assert!(!shadow[7].is_empty(), "it has expired: {shadow:?}");
    for file in ["/etc/subuid", "/etc/subgid"] {
        assert!(!read(file).contains(&name), "{file}");
    }

    let home = host(&format!("stat -c '%u %g %a' /home/{name}"));
    assert_eq!(home, format!("{} {} 700\n", account.uid, account.gid));
    assert_eq!(project.state(), "stopped", "create does not start");
}

#[test]
fn what_create_leaves_in_the_account_files_is_what_the_system_reads() {
    let project = Project::new();
    let name = project.create(&[]);
    let (uid, gid) = (account(&name).unwrap().uid, group(&name));
    // a uid that is shared is its owner's first
    let first = if project.shares_uid() { User::owner().name.clone() } else { name.clone() };
    assert_eq!(host(&format!("getent passwd {uid} | cut -d: -f1")).trim(), first);
    assert_eq!(host(&format!("getent passwd {name} | cut -d: -f3")).trim(), uid.to_string());
    assert_eq!(host(&format!("getent group {gid} | cut -d: -f1")).trim(), name);
    for check in ["pwck -rq", "grpck -r"] {
        assert!(!host(&format!("{check} 2>&1 || true")).contains(&name), "{check}");
    }
    let modes = host("cd /etc; stat -c '%n %a' passwd group shadow gshadow");
    assert_eq!(modes, "passwd 644\ngroup 644\nshadow 640\ngshadow 640\n");
    let aside: Vec<String> =
        entries("/etc").into_iter().filter(|f| f.starts_with("passwd") || f.starts_with("shadow")).collect();
    assert!(aside.iter().all(|f| ["passwd", "passwd-", "shadow", "shadow-"].contains(&f.as_str())), "{aside:?}");
}

#[test]
fn create_again_is_done_and_prints_the_same() {
    let project = Project::new();
    let name = project.create(&["--net", "none", "--label", "a=b"]);
    let before = project.record();
    assert_eq!(project.create(&["--net", "none", "--label", "a=b"]), name);
    assert_eq!(project.create(&[]), name, "no options are no other options");
    assert_eq!(project.record(), before);
}

#[test]
fn create_with_other_options_is_refused_and_changes_nothing() {
    let project = Project::new();
    project.create(&["--net", "none"]);
    let before = project.record();
    project
        .env_tool("create")
        .args(["--net", "shared"])
        .arg(project.path())
        .assert()
        .code(1)
        .stdout("")
        .stderr(contains("--net").and(contains("hint: lbx-env set")));
    project
        .env_tool("create")
        .args(["--label", "new=1"])
        .arg(project.path())
        .assert()
        .code(1)
        .stderr(contains("--label").and(contains("hint: lbx-env set")));
    assert_eq!(project.record(), before);
}

#[test]
fn exclusive_create_refuses_an_existing_environment() {
    let project = Project::new();
    let exclusive = || {
        let mut command = project.env_tool("create");
        command.arg("--exclusive").arg(project.path());
        command
    };
    let name = text(exclusive().assert().success());
    exclusive().assert().code(1).stdout("").stderr(contains(name.trim()));
    assert_eq!(project.state(), "stopped");
}

#[test]
fn create_prints_the_record_as_json_when_asked() {
    let project = Project::new();
    for _ in 0..2 {
        let output = text(project.env_tool("create").arg("--json").arg(project.path()).assert().success());
        let record: serde_json::Value = serde_json::from_str(&output).unwrap();
        assert_eq!(output.lines().count(), 1);
        assert_eq!(record["name"], project.name());
        assert_eq!(record["path"], project.str());
        assert_eq!(record["schema"], 1);
        let file = format!("/var/lib/llima-box/envs/{}/record.json", project.name());
        let kept: serde_json::Value = serde_json::from_str(&read(file)).unwrap();
        for (field, value) in kept.as_object().unwrap() {
            assert_eq!(&record[field], value, "{field}");
        }
    }
}

#[test]
fn several_projects_are_created_in_their_order_past_a_failure() {
    let (first, second) = (Project::named("zzz"), Project::named("aaa"));
    let missing = first.base().join("missing");
    tool("lbx-env")
        .arg("create")
        .args([first.path(), &missing, second.path()])
        .assert()
        .code(1)
        .stdout(format!("{}\n{}\n", first.name(), second.name()))
        .stderr(contains(format!("path does not exist: {}", missing.display())));
}

#[test]
fn operands_come_from_standard_input_too() {
    let (first, second) = (Project::named("one"), Project::named("two\nlines"));
    let names = format!("{}\n{}\n", first.name(), second.name());
    let operands = format!("{}\0{}\0", first.str(), second.str());
    tool("lbx-env").args(["create", "-0", "-"]).write_stdin(operands.clone()).assert().success().stdout(names.clone());
    tool("lbx-env").args(["start", "-"]).write_stdin(names.clone()).assert().success().stdout("");
    assert_eq!([first.state(), second.state()], ["running", "running"]);
    tool("lbx-env").args(["stop", "-0", "-"]).write_stdin(operands).assert().success().stdout("");
    assert_eq!([first.state(), second.state()], ["stopped", "stopped"]);
    tool("lbx-env").args(["delete", "-"]).write_stdin(names).assert().success().stdout("");
    tool("lbx-env").args(["delete", "-"]).write_stdin("").assert().success();
    tool("lbx-env").args(["create", "-"]).write_stdin("").assert().success().stdout("");
}

#[test]
fn one_that_fails_among_many_leaves_the_others_as_they_were_asked_for() {
    let projects: Vec<Project> = (0..4).map(|n| Project::named(format!("app{n}"))).collect();
    let names: Vec<String> = projects.iter().map(Project::name).collect();
    // found out when its lock is held, and when its account is there
    host(&format!("mkdir /home/{}; groupadd -g 64999 {}", names[1], names[2]));
    let paths: String = projects.iter().map(|project| format!("{}\n", project.str())).collect();
    let output = tool("lbx-env").args(["create", "-"]).write_stdin(paths.clone()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}\n{}\n", names[0], names[3]));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let told: Vec<&str> = told.lines().filter(|line| !line.starts_with("hint: ")).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains(&format!("home '/home/{}' exists", names[1])), "{told:?}");
    assert!(told[1].contains(&format!("cannot create account '{}': group", names[2])), "{told:?}");
    for name in &names[1..3] {
        assert_eq!(listed(name), None, "{name}");
        assert!(!host("cat /etc/passwd").contains(name.as_str()), "{name}");
    }
    host(&format!("rmdir /home/{}; groupdel {}", names[1], names[2]));
    projects[0].must("start");
    // one that is no more, one twice
    let output = tool("lbx-env").args(["delete", &names[3], &names[1], &names[0], &names[3]]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let told: Vec<&str> = told.lines().filter(|line| !line.starts_with("hint: ")).collect();
    let missing = [&names[1], &names[3]].map(|name| format!("lbx-env: no such environment: {name}"));
    assert_eq!(told, missing);
    names.iter().for_each(|name| assert_eq!(traces(name), [""; 0], "{name}"));
}

#[test]
fn many_that_nobody_reads_of_are_whole_all_the_same() {
    if !only_at(&[Place::Local], "the far tool may well be at work when this one has ended") {
        return;
    }
    let projects: Vec<Project> = (0..5).map(|n| Project::named(format!("app{n}"))).collect();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let paths = projects.iter().map(Project::path);
    let output = std_command(tool_file("lbx-env")).arg("create").args(paths).stdout(writer).output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    for project in &projects {
        if listed(&project.name()).is_some() {
            assert_eq!(project.state(), "stopped");
        }
        project.create(&[]);
    }
}

#[test]
fn start_stop_and_repair_are_silent_and_may_be_repeated() {
    let project = Project::new();
    project.create(&[]);
    for (verb, state) in [
        ("stop", "stopped"),
        ("start", "running"),
        ("start", "running"),
        ("repair", "running"),
        ("stop", "stopped"),
        ("stop", "stopped"),
        ("repair", "stopped"),
        ("start", "running"),
    ] {
        project.env_tool(verb).arg(project.path()).assert().success().stdout("").stderr("");
        assert_eq!(project.state(), state, "after {verb}");
    }
    project.sh("true");
}

#[test]
fn delete_leaves_nothing() {
    let project = Project::new();
    project.write("kept", "project");
    let name = project.create(&["--private", "target"]);
    project.sh("echo x >~/file; mkdir -p ~/a/b; echo y >target/z; (setsid sleep 1000 >/dev/null 2>&1 &)");
    assert!(!traces(&name).is_empty(), "the test looks where there is something to see");

    project.env_tool("delete").arg(&name).assert().success().stdout("").stderr("");
    assert_eq!(traces(&name), [""; 0]);
    assert!(listed(&name).is_none());
    assert_eq!(project.read("kept"), "project", "the project stays");
    assert_eq!(host("ps -eo args | grep -c '^sleep 1000$' || true").trim(), "0");
}

#[test]
fn deleting_what_is_not_there_fails_unless_forced() {
    let project = Project::new();
    project.env_tool("delete").arg(project.path()).assert().code(1).stderr(contains(project.str()));
    project.env_tool("delete").arg("never-made-0000").assert().code(1).stderr(contains("never-made-0000"));
    project.env_tool("delete").args(["-f", "never-made-0000"]).arg(project.path()).assert().success().stderr("");
    for verb in ["start", "stop", "repair", "set"] {
        project.env_tool(verb).arg("never-made-0000").assert().code(1).stderr(contains("never-made-0000"));
    }
}

#[test]
fn a_home_of_three_thousand_levels_is_deleted() {
    let project = Project::new();
    let name = project.create(&[]);
    // relative paths: an absolute one would be too long
    project.sh("cd; p=$(printf 'd/%.0s' $(seq 1000)); for _ in 1 2 3; do mkdir -p $p; cd -P $p; done; echo deep >file");
    // with few descriptors: not one a level
    let mut delete = command("sh");
    delete.args(["-c", "ulimit -n 64; exec \"$@\"", "sh"]).arg(tool_file("lbx-env")).arg("delete").arg(project.path());
    delete.assert().success().stdout("");
    assert_eq!(traces(&name), [""; 0]);
}

#[test]
fn delete_follows_no_link_out_of_the_home() {
    let project = Project::new();
    let name = project.create(&[]);
    let outside = project.base().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("precious"), "1").unwrap();
    // links that lead outside from where root removes, and one in place of the home itself
    project.sh(&format!("ln -s {0} ~/link; ln -s {0}/precious ~/file; ln -s / ~/root", outside.display()));
    project.must("stop");
    host(&format!("mv /home/{name} /home/{name}.aside; ln -s {} /home/{name}", outside.display()));
    let _ = project.env_tool("delete").arg(&name).assert();
    assert!(outside.join("precious").exists(), "what the link names was deleted");
    host(&format!("rm -f /home/{name}; rm -rf /home/{name}.aside"));
}

#[test]
fn a_dry_run_prints_its_plan_and_does_nothing() {
    let user = User::owner();
    let project = Project::owned_by(&user);
    // the way to a place by ssh is root's
    let callers =
        if place() == Place::Ssh { vec![tool("lbx-env")] } else { vec![tool("lbx-env"), user.tool("lbx-env")] };
    for mut dry in callers {
        let plan = text(dry.args(["--dry-run", "create"]).arg(project.path()).assert().success());
        assert!(plan.lines().count() > 1, "{plan}");
        assert!(plan.contains(&project.name()), "{plan}");
        assert_eq!(traces(&project.name()), [""; 0]);
    }
    let name = project.create(&[]);
    for verb in ["start", "stop", "repair", "delete"] {
        let before = project.record();
        project.env_tool(verb).arg("--dry-run").arg(&name).assert().success();
        assert_eq!(project.record(), before, "{verb}");
    }
}

#[test]
fn set_replaces_lists_and_an_empty_value_clears_them() {
    let project = Project::new();
    project.create(&["--label", "a=1", "--label", "b=2"]);
    assert_eq!(project.record()["labels"], json!({"a": "1", "b": "2"}));
    let set = |options: &[&str]| {
        project.env_tool("set").args(options).arg(project.path()).assert().success().stdout("");
        project.record()
    };
    assert_eq!(set(&["--label", "c=3"])["labels"], json!({"c": "3"}));
    assert_eq!(set(&["--net", "none"])["options"]["net"], "none");
    assert_eq!(project.record()["labels"], json!({"c": "3"}), "what is not named stays");
    assert_eq!(set(&["--label", ""])["labels"], json!({}));
    assert_eq!(set(&["--private", "a", "--private", "b"])["options"]["private"], json!(["a", "b"]));
    assert_eq!(set(&["--private", ""])["options"]["private"], json!([]));
    assert_eq!(set(&["--shell", "/bin/sh"])["shell"], "/bin/sh");
}

#[test]
fn set_says_what_needs_a_stop() {
    let project = Project::new();
    project.create(&[]);
    project.must("start");
    let set = |options: &[&str]| project.env_tool("set").args(options).arg(project.path()).assert();
    set(&["--label", "quiet=1"]).success().stderr("");
    let needs = errors(set(&["--net", "none"]));
    assert!(needs.contains("stop"), "{needs}");
    assert_eq!(project.state(), "running", "set stops nothing by itself");
}

#[test]
fn shells_of_one_project_share_its_processes_and_its_tmp() {
    let project = Project::new();
    project.create(&[]);
    let mut first = project_shell(&project);
    let mut first = first.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    project.sh("echo shared >/tmp/note");
    eventually("the second shell sees the first one's process", || {
        project.sh("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '").contains("the-first-shell")
    });
    assert_eq!(project.sh("cat /tmp/note"), "shared\n");
    drop(first.stdin.take());
    assert!(first.wait().unwrap().success());
}

fn project_shell(project: &Project) -> std::process::Command {
    let words = project.enter_words(&["sh", "-c", "read wait; :", "the-first-shell"]);
    let mut shell = lbx_tests::std_command(&words[0]);
    shell.args(&words[1..]);
    // an end of input is the end of the shell
    shell
}

#[test]
fn what_runs_in_the_background_lives_until_stop() {
    let project = Project::new();
    project.create(&[]);
    project.sh("(while :; do date +%s%N >beat; sleep 0.1; done) >/dev/null 2>&1 </dev/null &");
    let beats = |project: &Project| {
        let before = std::fs::read_to_string(project.path().join("beat")).unwrap_or_default();
        std::thread::sleep(scaled(Duration::from_millis(500)));
        std::fs::read_to_string(project.path().join("beat")).unwrap_or_default() != before
    };
    eventually("it beats after its shell has ended", || beats(&project));
    assert!(project.record()["procs"].as_u64().unwrap() >= 1);
    project.must("stop");
    assert!(!beats(&project), "a process outlived stop");
    assert!(project.sh("ls /tmp").is_empty());
}

#[test]
fn stop_ends_what_does_not_want_to_end() {
    let project = Project::new();
    project.create(&[]);
    project.sh("(trap '' TERM HUP INT; exec sleep 2000) >/dev/null 2>&1 </dev/null &");
    project.sh("(setsid sh -c 'kill -STOP $$') >/dev/null 2>&1 </dev/null &");
    let start = std::time::Instant::now();
    project.must("stop");
    assert!(start.elapsed() < scaled(Duration::from_secs(10)), "stop took {:?}", start.elapsed());
    assert_eq!(host("ps -eo args | grep -c '^sleep 2000$' || true").trim(), "0");
    assert_eq!(project.state(), "stopped");
}

#[test]
fn the_home_outlives_a_stop_and_tmp_does_not() {
    let project = Project::new();
    let name = project.create(&[]);
    project.sh("echo home >~/kept; echo tmp >/tmp/gone; echo tmp >/var/tmp/gone; echo shm >/dev/shm/gone");
    assert_eq!(project.sh("cat /tmp/gone ~/kept"), "tmp\nhome\n");
    project.must("stop");
    assert_eq!(project.sh("cat ~/kept; ls /tmp /dev/shm"), "home\n/dev/shm:\n\n/tmp:\n");
    assert_eq!(project.sh("echo $HOME").trim(), format!("/home/{name}"));
}

#[test]
fn a_killed_holder_ends_everything_and_entering_starts_again() {
    let project = Project::new();
    let name = project.create(&[]);
    project.sh("echo home >~/kept; (sleep 3000 >/dev/null 2>&1 </dev/null &)");
    project.sh("echo gone >/tmp/file");
    signal_holder("KILL", &name);
    eventually("it is stopped", || project.state() == "stopped");
    eventually("its processes ended", || host("ps -eo args | grep -c '^sleep 3000$' || true").trim() == "0");
    assert_eq!(project.sh("cat ~/kept"), "home\n");
    assert_eq!(project.sh("ls /tmp"), "", "what was in memory is gone");
}

#[test]
fn a_machine_that_goes_down_need_not_wait_for_an_environment() {
    let project = Project::new();
    let name = project.create(&[]);
    // every process is told to end: one that is alone does at once, and one that others keep does soon
    for script in [":", "(sleep 3001 >/dev/null 2>&1 </dev/null &)"] {
        project.sh(script);
        signal_holder("TERM", &name);
        eventually("it has ended", || project.state() == "stopped");
    }
    eventually("its processes ended", || host("ps -eo args | grep -c '^sleep 3001$' || true").trim() == "0");
    assert_eq!(project.sh("echo on"), "on\n");
    // nobody inside is one that may tell it
    let refused = project.enter(["sh", "-c", "kill -TERM 1"]).output().unwrap();
    assert!(!refused.status.success(), "{refused:?}");
    assert_eq!(project.state(), "running");
}

fn signal_holder(signal: &str, name: &str) {
    let inode = host(&format!("stat -c %i /run/llima-box/{name}/holder"));
    let (inode, locks) = (inode.trim(), read("/proc/locks"));
    let line = locks.lines().find(|l| l.contains(&format!(":{inode} "))).expect("the holder has its lock");
    host(&format!("kill -{signal} {}", line.split_whitespace().nth(4).unwrap()));
}

#[test]
fn the_command_starts_where_its_caller_stands_in_the_project() {
    let project = Project::new();
    project.write("sub/dir/file", "");
    project.create(&[]);
    let at = |dir: &Path| text(project.enter(["pwd"]).current_dir(dir).assert().success());
    // behind ssh the caller stands on another machine
    let there = if place() == Place::Ssh { "" } else { "/sub/dir" };
    assert_eq!(at(&project.path().join("sub/dir")), format!("{}{there}\n", project.str()));
    assert_eq!(at(Path::new("/")), format!("{}\n", project.str()));
    let mut chdir = tool("lbx-enter");
    chdir.args(["--chdir", "sub"]).arg(project.path()).args(["--", "pwd"]);
    chdir.assert().success().stdout(format!("{}/sub\n", project.str()));
    let mut chdir = tool("lbx-enter");
    chdir.args(["--chdir", "nowhere"]).arg(project.path()).args(["--", "pwd"]);
    chdir.assert().code(125).stdout("").stderr(contains("nowhere"));
}

#[test]
fn path_holds_mine_then_everyones_then_the_systems() {
    let project = Project::new();
    let name = project.create(&[]);
    let home = format!("/home/{name}");
    assert_eq!(
        project.sh("echo $PATH").trim(),
        format!(
            "{home}/.local/bin:{home}/.cargo/bin:{home}/go/bin:/opt/llima-box/bin:\
             /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        )
    );
    project
        .sh("mkdir -p ~/.local/bin; printf '#!/bin/sh\\necho mine\\n' >~/.local/bin/true; chmod +x ~/.local/bin/true");
    assert_eq!(text(project.enter(["true"]).assert().success()), "mine\n");
    project.must("stop");
    assert_eq!(text(project.enter(["true"]).assert().success()), "mine\n", "what is installed stays");
    for dir in ["/usr/local/bin", "/usr/bin", "/opt", "/etc"] {
        project.enter(["touch", &format!("{dir}/lbx-was-here")]).assert().failure();
        assert!(!exists(Path::new(dir).join("lbx-was-here")));
    }
}

#[test]
fn labels_select() {
    let (web, other) = (Project::named("web"), Project::named("other"));
    let (web_name, other_name) =
        (web.create(&["--label", "team=lc-web", "--label", "x="]), other.create(&["--label", "team=lc-db"]));
    let names = |args: &[&str]| list(args).iter().map(|o| o["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&["--label", "team=lc-web"]), std::slice::from_ref(&web_name));
    assert!(names(&["--label", "team"]).contains(&other_name));
    assert!(names(&["--label", "team=lc-web", "--label", "team=lc-db"]).is_empty());
    assert_eq!(
        text(tool("lbx-ls").args(["--names", "-0", "--label", "team=lc-web"]).assert()),
        format!("{web_name}\0")
    );
    web.env_tool("set").args(["--label", "=x"]).arg(web.path()).assert().code(2);
}

#[test]
fn two_paths_with_one_name_never_share_an_environment() {
    let base = Project::new();
    // four digits collide soon
    let mut seen = std::collections::HashMap::new();
    let (first, second) = (0..100_000)
        .find_map(|n| {
            let path = base.path().join(n.to_string()).join("app");
            let name = lbx::Name::of(&path).unwrap().to_string();
            seen.insert(name, path.clone()).map(|earlier| (earlier, path))
        })
        .expect("two of so many collide");
    for path in [&first, &second] {
        std::fs::create_dir_all(path).unwrap();
    }
    let name = text(tool("lbx-env").arg("create").arg(&first).assert().success());
    tool("lbx-env")
        .arg("create")
        .arg(&second)
        .assert()
        .code(1)
        .stdout("")
        .stderr(contains(first.to_str().unwrap()).and(contains(second.to_str().unwrap())).and(contains("--name")));
    tool("lbx-enter").arg(&second).args(["--", "true"]).assert().code(125).stdout("");
    let other = text(tool("lbx-env").args(["create", "--name", "other"]).arg(&second).assert().success());
    assert_ne!(name, other);
    assert!(other.starts_with("other-"));
    tool("lbx-enter").arg(&second).args(["--", "pwd"]).assert().success().stdout(format!("{}\n", second.display()));
    tool("lbx-enter").arg(&first).args(["--", "pwd"]).assert().success().stdout(format!("{}\n", first.display()));
    for name in [name, other] {
        tool("lbx-env").args(["delete", name.trim()]).assert().success();
    }
}

#[test]
fn a_path_with_several_environments_must_be_named() {
    let project = Project::new();
    let (one, two) = (project.create(&["--name", "one"]), project.create(&["--name", "two"]));
    assert_ne!(one, two);
    tool("lbx-enter")
        .arg(project.path())
        .args(["--", "true"])
        .assert()
        .code(125)
        .stderr(contains(&one).and(contains(&two)));
    tool("lbx-enter").arg(&two).args(["--", "sh", "-c", "echo $LBX_ENV"]).assert().success().stdout(format!("{two}\n"));
    project
        .env_tool("create")
        .arg(project.path())
        .assert()
        .code(1)
        .stdout("")
        .stderr(contains(&one).and(contains(&two)));
    let default = project.create(&["--name", "app"]);
    assert_eq!(default, project.name());
    tool("lbx-enter")
        .arg(project.path())
        .args(["--", "sh", "-c", "echo $LBX_ENV"])
        .assert()
        .success()
        .stdout(format!("{default}\n"));
    for name in [&one, &two, &default] {
        project.env_tool("delete").arg(name).assert().success();
        assert_eq!(traces(name), [""; 0]);
    }
}

#[test]
fn an_environment_of_another_name_is_found_by_its_path_as_long_as_it_is_there() {
    let project = Project::new();
    let name = project.create(&["--name", "other"]);
    assert_eq!(project.create(&[]), name);
    assert_eq!(project.sh("id -un"), format!("{name}\n"));
    // what leads to it, lost
    host(&format!("rm /var/lib/llima-box/named/{name}"));
    project.env_tool("stop").arg(project.path()).assert().code(1).stderr(contains("no environment of path"));
    tool("lbx-env").args(["repair", &name]).assert().success();
    project.must("stop");
    project.must("delete");
    assert_eq!(traces(&name), [""; 0]);
}

#[test]
fn an_operand_of_a_names_form_is_a_name_and_a_slash_makes_it_a_path() {
    let base = Project::new();
    if place() == Place::Ssh {
        let relative = tool("lbx-env").current_dir(base.base()).args(["create", "./app"]).output().unwrap();
        assert_eq!(relative.status.code(), Some(2), "{relative:?}");
        assert!(String::from_utf8_lossy(&relative.stderr).contains("path is not absolute: ./app"), "{relative:?}");
        return;
    }
    let dir = base.path().join("thing-12ab");
    std::fs::create_dir(&dir).unwrap();
    let start = |operand: &str| {
        let mut command = tool("lbx-env");
        command.current_dir(base.path()).args(["start", operand]);
        command
    };
    let name = text(tool("lbx-env").current_dir(base.path()).args(["create", "./thing-12ab"]).assert().success());
    start("thing-12ab").assert().code(1).stderr(contains("thing-12ab"));
    start("./thing-12ab").assert().success();
    tool("lbx-env").args(["delete", name.trim()]).assert().success();
}

#[test]
fn ro_shows_and_rw_changes() {
    let project = Project::new();
    let (ro, rw) = (project.base().join("ro dir"), project.base().join("rw"));
    for dir in [&ro, &rw] {
        std::fs::create_dir(dir).unwrap();
        std::fs::write(dir.join("file"), "outside\n").unwrap();
    }
    std::fs::create_dir(project.base().join("hidden")).unwrap();
    project.create(&["--ro", ro.to_str().unwrap(), "--rw", rw.to_str().unwrap()]);
    project.sh(&format!(
        "cat '{0}/file' && echo inside >{1}/new && ! echo x 2>/dev/null >'{0}/new'",
        ro.display(),
        rw.display()
    ));
    let owner = rw.metadata().unwrap().uid();
    assert_eq!(rw.join("new").metadata().unwrap().uid(), owner, "what is made in --rw is its owner's outside");
    assert_eq!(entries(&ro), ["file"]);
    let around = project.sh(&format!("ls {}", project.base().display()));
    assert_eq!(around, "app\nro dir\nrw\n", "and nothing else of that directory is seen");
}

#[test]
fn ro_and_rw_of_what_is_not_the_callers_to_give_are_refused() {
    let (project, someone) = (Project::new(), User::new());
    let socket = project.base().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let missing = project.base().join("missing");
    let home = someone.home();
    let secret = someone.home().join("sub");
    host(&format!("mkdir {}", secret.display()));
    for option in ["--ro", "--rw"] {
        for path in [
            Path::new("/etc"),
            Path::new("/"),
            Path::new("/usr"),
            Path::new("/proc"),
            Path::new("/dev"),
            Path::new("/var/lib/llima-box"),
            Path::new("/run"),
            Path::new("/home"),
            &socket,
            &missing,
            home,
            &secret,
        ] {
            project
                .env_tool("create")
                .arg(option)
                .arg(path)
                .arg(project.path())
                .assert()
                .code(1)
                .stdout("")
                .stderr(contains(path.to_str().unwrap()));
            assert_eq!(traces(&project.name()), [""; 0], "{option} {}", path.display());
        }
    }
}

#[test]
fn a_private_directory_covers_the_projects_own() {
    let project = Project::new();
    project.write("target/host", "host's");
    let name = project.create(&["--private", "target", "--private", "sub/made"]);
    project.sh("[ ! -e target/host ]; echo inside >target/built; echo m >sub/made/x");
    assert!(!project.path().join("target/built").exists());
    assert_eq!(project.read("target/host"), "host's");
    project.must("stop");
    assert_eq!(project.sh("cat target/built sub/made/x"), "inside\nm\n");
    project.sh("rm target/built");
    project.must("delete");
    assert_eq!(traces(&name), [""; 0]);
    assert_eq!(project.read("target/host"), "host's");
}

#[test]
fn private_directories_outside_the_project_are_refused() {
    let project = Project::new();
    for dir in ["..", "../x", "/etc", "a/../../x", "."] {
        let mut create = project.env_tool("create");
        create.args(["--private", dir]).arg(project.path());
        let output = create.output().unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{dir}: {output:?}");
        assert_eq!(traces(&project.name()), [""; 0], "{dir}");
    }
}

#[test]
fn a_private_directory_follows_no_link_that_the_agent_planted() {
    let project = Project::new();
    let outside = project.base().join("outside");
    std::fs::create_dir(&outside).unwrap();
    project.create(&["--private", "target"]);
    project.sh("true");
    project.must("stop");
    near(&format!("rm -rf '{0}/target'; ln -s {1} '{0}/target'", project.str(), outside.display()));
    // refused or made anew: only never outside the project
    let _ = project.enter(["sh", "-c", "echo x >target/planted"]).output().unwrap();
    assert_eq!(entries(&outside), [""; 0]);
}

#[test]
fn without_network_there_is_loopback_alone() {
    if !only_at(&HERE, "the listener is this machine's") {
        return;
    }
    let project = Project::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let reach = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
    project.create(&["--net", "none"]);
    assert_eq!(
        project.sh("ls /sys/class/net 2>/dev/null || cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' '").trim(),
        "lo"
    );
    project.enter(["bash", "-c", &reach]).assert().failure();
    // its own loopback works
    if installed(&["python3"]) {
        project.sh("python3 -c 'import socket; s = socket.create_server((\"127.0.0.1\", 0)); socket.create_connection(s.getsockname())'");
    }
    project.must("stop");
    project.env_tool("set").args(["--net", "shared"]).arg(project.path()).assert().success();
    project.enter(["bash", "-c", &reach]).assert().success();
}

#[test]
fn git_finds_the_callers_identity_and_nothing_else() {
    let project = Project::new();
    project.create(&[
        "--git",
        "user.name=Ada L",
        "--git",
        "user.email=ada@example.org",
        "--git",
        "init.defaultBranch=trunk",
    ]);
    let get = |key: &str| project.sh(&format!("git config --system {key}")).trim().to_owned();
    assert_eq!(get("user.name"), "Ada L");
    assert_eq!(get("user.email"), "ada@example.org");
    assert_eq!(get("init.defaultBranch"), "trunk");
    project.sh("git init -q; git commit -q --allow-empty -m first; [ \"$(git log -1 --format=%an/%ae)\" = 'Ada L/ada@example.org' ]; [ \"$(git branch --show-current)\" = trunk ]");
    project
        .env_tool("set")
        .args(["--git", "core.pager=evil"])
        .arg(project.path())
        .assert()
        .code(2)
        .stderr(contains("core.pager"));
}

#[test]
fn a_git_identity_cannot_bring_other_settings() {
    let project = Project::new();
    for value in ["user.name=x\"\n[core]\n\tpager = evil", "user.name=x]\\\"; # [core]"] {
        let mut create = project.env_tool("create");
        let output = create.args(["--git", value]).arg(project.path()).output().unwrap();
        if output.status.success() {
            project.enter(["git", "config", "core.pager"]).assert().failure();
            let name = value.strip_prefix("user.name=").unwrap();
            assert_eq!(project.sh("git config user.name").strip_suffix('\n').unwrap(), name);
        }
        project.env_tool("delete").arg("-f").arg(project.path()).assert().success();
    }
}

#[test]
fn a_commit_made_inside_is_the_persons_outside_and_clean() {
    let ada = User::owner();
    let project = Project::owned_by(&ada);
    ada.sh(&format!("cd '{}'; git init -q; git config user.name A; git config user.email a@b; umask 077; echo one >file; git add file; git commit -qm one", project.str()));
    project.create(&["--git", "user.name=Agent", "--git", "user.email=agent@example.org"]);
    project.sh("echo two >>file; mkdir dir; echo new >dir/new; git add .; git commit -qm two");
    let status = ada.sh(&format!("cd '{}'; git status --porcelain; git log --format=%s; git fsck 2>&1", project.str()));
    assert_eq!(status, "two\none\n");
    let strangers = near(&format!("find '{}' ! -user {} -o ! -group {}", project.str(), ada.uid, ada.gid));
    assert_eq!(strangers, "");
    assert_eq!(project.sh("git status --porcelain"), "");
}

/// A repository at `base/repo` with a worktree at the project, both of `user`.
fn worktree(user: &User, options: &str) -> Project {
    let project = Project::owned_by(user);
    let script = format!(
        "cd '{}'; rmdir app; git init -q repo; cd repo; git config user.name A; git config user.email a@b; \
         git commit -q --allow-empty -m one; git worktree add -q ../app; {options}",
        project.base().display()
    );
    user.sh(&script);
    project
}

#[test]
fn a_commit_works_in_a_worktree_and_the_repositorys_hooks_stay_closed() {
    let ada = User::owner();
    let project = worktree(
        &ada,
        "git worktree add -q ../other; printf '#!/bin/sh\\ntouch /tmp/hooked\\n' >.git/hooks/post-commit",
    );
    project.create(&[]);
    project.sh("echo x >file; git add file; git commit -qm two");
    let repo = project.base().join("repo");
    assert_eq!(ada.sh(&format!("cd '{}'; git status --porcelain; git log -1 --format=%s", project.str())), "two\n");
    assert_eq!(near(&format!("find '{}' ! -user {}", repo.display(), ada.uid)), "");

    let git = repo.join(".git");
    for script in [
        "echo x >hooks/evil",
        "echo x >>config",
        "mv config c",
        "mv hooks h",
        "rm -rf hooks",
        "rm config",
        "ln -sf /x config",
    ] {
        project.enter(["sh", "-ec", &format!("cd {}; {script}", git.display())]).assert().failure();
    }
    assert_eq!(project.sh(&format!("ls {}", repo.display())), "", "the repository's own files are not shown");
    project.enter(["ls", project.base().join("other").to_str().unwrap()]).assert().failure();
    assert!(!entries(git.join("hooks")).contains(&"evil".to_owned()));
}

#[test]
fn a_worktree_pointer_without_its_back_pointer_is_not_followed() {
    if !only_at(&HERE, "two persons have projects") {
        return;
    }
    let (ada, bob) = (User::new(), User::new());
    let victim = worktree(&bob, "");
    let secret = victim.base().join("repo/.git");
    host(&format!("chmod -R go+rX {}", bob.home().display()));
    // a plain directory whose .git names another's repository
    for pointer in [secret.clone(), secret.join("worktrees/app"), "/etc".into(), "/root".into()] {
        let project = Project::owned_by(&ada);
        project.write(".git", &format!("gitdir: {}\n", pointer.display()));
        let created = project.env_tool("create").arg(project.path()).output().unwrap();
        if created.status.success() {
            project.enter(["ls", secret.to_str().unwrap()]).assert().failure();
            assert!(project.record().get("worktree").is_none_or(serde_json::Value::is_null));
        }
    }
}

#[test]
fn a_worktree_pointer_that_changes_later_is_not_read_again() {
    let ada = User::owner();
    let project = worktree(&ada, "");
    let other = project.base().join("other");
    ada.sh(&format!("git init -q '{}'", other.display()));
    project.create(&[]);
    project.must("start");
    project.sh(&format!("echo 'gitdir: {}/.git/worktrees/app' >.git", other.display()));
    project.must("stop");
    project.enter(["ls", other.join(".git").to_str().unwrap()]).assert().failure();
    project.sh(&format!("ls {}/.git/objects", project.base().join("repo").display()));
}

#[test]
fn a_tools_sibling_is_looked_for_beside_it_and_not_on_path() {
    if !only_at(&[Place::Local], "what the tools at a place run is beside themselves, there") {
        return;
    }
    let project = Project::new();
    project.create(&[]);
    let planted = project.base().join("bin");
    std::fs::create_dir(&planted).unwrap();
    let evil = planted.join("lbx-env");
    script(&format!("#!/bin/sh\ntouch {}/ran\n", planted.display()), &evil);
    let path = format!("{}:/usr/bin:/bin", planted.display());
    project.enter(["true"]).env("PATH", &path).assert().success();
    // without its sibling it fails, whatever PATH holds
    let lone = project.base().join("lbx-enter");
    executable(bin_dir().join("lbx-enter"), &lone);
    project.must("stop");
    command(&lone).arg(project.path()).args(["--", "true"]).env("PATH", &path).current_dir("/").assert().code(125);
    std::fs::remove_file(&evil).unwrap();
    assert!(!planted.join("ran").exists());
}
