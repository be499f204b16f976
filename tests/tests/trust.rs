//! Whose an environment is, and that nobody gets by one what is not theirs: neither its creator, nor
//! the agent inside by what it leaves lying for the tools.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::time::Duration;

use lbx_tests::machine::{exists, listed, traces};
use lbx_tests::place::HERE;
use lbx_tests::{Place, Project, User, bin_dir, host, near, only_at, project, scaled, text};
use predicates::str::contains;

/// Why what several persons do is not tried at another place.
const SUDO: &str = "sudo is a step of this machine";

/// A sudoer, a project of theirs, and its name; the environment is created by them.
fn persons(options: &[&str]) -> (User, Project, String) {
    let user = User::sudoer();
    let project = Project::owned_by(&user);
    let name = text(user.tool("lbx-env").arg("create").args(options).arg(project.path()).assert().success());
    (user, project, name.trim_end().to_owned())
}

#[test]
fn an_environment_is_not_another_persons_to_use() {
    if !only_at(&[Place::Local], SUDO) {
        return;
    }
    let (_ada, project, name) = persons(&[]);
    let bob = User::sudoer();
    bob.tool("lbx-enter").args([&name, "--", "true"]).assert().code(125).stderr(contains("belongs to uid"));
    for words in [&["start"][..], &["stop"], &["set", "--label", "a=b"], &["repair"], &["delete", "-f"]] {
        bob.tool("lbx-env").args(words).arg(&name).assert().code(1).stderr(contains("belongs to uid"));
    }
    assert!(listed(&name).is_some(), "it is still there");
    // root may
    project.enter(["true"]).assert().success();
}

#[test]
fn a_directory_of_another_is_no_project_even_where_it_may_be_written() {
    if !only_at(&[Place::Local], SUDO) {
        return;
    }
    let (ada, bob) = (User::sudoer(), User::new());
    let project = Project::named("team");
    host(&format!("chown {}:{} '{}'; chmod 2777 '{}'", bob.uid, bob.gid, project.str(), project.str()));
    ada.tool("lbx-env").arg("create").arg(project.path()).assert().code(1).stdout("").stderr(contains("not to you"));
    assert_eq!(traces(&project.name()), [""; 0]);
    // its owner's files are the owner's, or root's to give
    project.create(&[]);
    project.sh("touch made");
    assert_eq!(host(&format!("stat -c %u '{}/made'", project.str())), format!("{}\n", bob.uid));
}

#[test]
fn a_further_path_shows_no_more_than_its_creator_sees() {
    if !only_at(&[Place::Local], SUDO) {
        return;
    }
    let shared = Project::named("shared");
    let dir = shared.str();
    host(&format!("cd '{dir}'; umask 077; echo root >closed; echo all >open; chmod 644 open; chmod 1777 ."));
    let (ada, project, name) = persons(&["--rw", dir]);
    ada.sh(&format!("umask 077; echo mine >'{dir}/mine'"));
    let enter = |script: &str| {
        let mut command = ada.tool("lbx-enter");
        command.args([&name, "--", "sh", "-c", script]);
        command
    };
    enter(&format!("cat '{dir}/open'")).assert().success().stdout("all\n");
    enter(&format!("cat '{dir}/closed'")).assert().failure().stdout("");
    enter(&format!("echo x >>'{dir}/closed' || echo x >>'{dir}/open'")).assert().failure();
    // what is made there is not root's
    enter(&format!("touch '{dir}/made'")).assert().success();
    assert_ne!(host(&format!("stat -c %u '{dir}/made'")), "0\n");
    drop(project);

    // a directory of the creator's own is as it is for them
    let (ada, project, name) = persons(&[]);
    let own = project.base().join("own");
    ada.sh(&format!("umask 077; mkdir '{0}'; echo mine >'{0}/f'", own.display()));
    ada.tool("lbx-env").args(["set", "--ro"]).arg(&own).arg(&name).assert().success();
    ada.tool("lbx-enter").args([&name, "--", "cat"]).arg(own.join("f")).assert().success().stdout("mine\n");
    ada.tool("lbx-enter").args([&name, "--", "touch"]).arg(own.join("g")).assert().failure();
}

#[test]
fn a_further_path_that_is_swapped_later_shows_nothing_of_roots() {
    if !only_at(&[Place::Local], SUDO) {
        return;
    }
    let user = User::sudoer();
    let project = Project::owned_by(&user);
    let base = project.base().display();
    user.sh(&format!("mkdir '{base}/inner'"));
    host(&format!("mkdir -m 700 '{base}/volume'; echo secret >'{base}/volume/f'"));
    user.tool("lbx-env")
        .arg("create")
        .arg("--rw")
        .arg(project.base().join("inner"))
        .arg(project.path())
        .assert()
        .success();
    user.sh(&format!("cd '{base}'; mv inner old; mv volume inner"));
    let script = format!("cat '{base}/inner/f'; echo x >'{base}/inner/f'");
    user.tool("lbx-enter").arg(project.path()).args(["--", "sh", "-c", &script]).assert().failure().stdout("");
    assert_eq!(host(&format!("cat '{base}/inner/f'")), "secret\n");
}

#[test]
fn a_worktree_cannot_lead_the_persons_git_astray() {
    let user = User::owner();
    let project = Project::owned_by(&user);
    let base = project.base().display().to_string();
    user.sh(&format!(
        "cd '{base}'; rmdir app; git init -q repo; cd repo; git config user.name a; git config user.email a@b; \
         git commit -q --allow-empty -m one; git worktree add -q ../app; git worktree add -q ../other"
    ));
    project.create(&[]);
    let git = format!("{base}/repo/.git");
    for script in [
        "echo /x >commondir",
        "echo /x >worktrees/other/commondir",
        "echo /x >worktrees/app/commondir",
        "rm worktrees/app/commondir",
        "echo /x >worktrees/app/gitdir",
        "touch worktrees/other/config.worktree",
        "mkdir modules",
        "touch index",
        "mv worktrees w",
    ] {
        project.enter(["sh", "-ec", &format!("cd '{git}'; {script}")]).assert().failure();
    }
    project.sh("echo x >file; git add file; git commit -qm two; git log --format=%s");
    assert_eq!(user.sh(&format!("cd '{base}/repo'; git status --porcelain; git log -1 --format=%s app")), "two\n");
}

#[test]
fn the_names_of_sockets_are_not_believed() {
    if !only_at(&HERE, "the sockets are this machine's") {
        return;
    }
    let abstract_name = SocketAddr::from_abstract_name("x /usr/bin/env").unwrap();
    let _hostile = UnixListener::bind_addr(&abstract_name).unwrap();
    let _usr = UnixListener::bind_addr(&SocketAddr::from_abstract_name("y /usr").unwrap()).unwrap();
    let shared = Project::named("shared");
    let _real = UnixListener::bind(shared.path().join("sock")).unwrap();
    host(&format!("chmod 777 '{}/sock'", shared.str()));
    let project = Project::new();
    project.create(&["--ro", shared.str()]);
    project.sh("test -f /usr/bin/env; /usr/bin/env true; ls /usr/lib >/dev/null");
    assert_eq!(project.sh(&format!("[ -S '{}/sock' ] || echo masked", shared.str())), "masked\n");
}

#[test]
fn a_tool_that_the_inside_could_replace_is_not_run() {
    if !only_at(&[Place::Local], "which tools run at another place is not the caller's to say") {
        return;
    }
    let project = Project::new();
    let tools = project.path().join("tools");
    host(&format!("cp -r '{}' '{}'", bin_dir().display(), tools.display()));
    project.create(&[]);
    let run = |tool: &str| lbx_tests::command(tools.join(tool));
    run("lbx-enter").arg(project.path()).args(["--", "true"]).assert().code(125).stderr(contains("could replace"));
    run("lbx-env").arg("start").arg(project.path()).assert().code(1).stderr(contains("could replace"));
    // out of the inside's reach they may lie there
    project.env_tool("set").args(["--private", "tools"]).arg(project.path()).assert().success();
    run("lbx-enter").arg(project.path()).args(["--", "true"]).assert().success();
}

#[test]
fn a_planted_git_file_keeps_nobody_waiting_and_opens_nothing() {
    let project = Project::new();
    let path = project.str();
    near(&format!("cd '{path}'; mkdir g; mkfifo g/commondir; ln -s /dev/zero g/gitdir; echo 'gitdir: {path}/g' >.git"));
    project.env_tool("create").timeout(scaled(Duration::from_secs(20))).arg(path).assert().success();

    // what lies around the project is not made a part of it
    let project = Project::inside(&project::root(), "worktrees/p".as_ref());
    let base = project.base().display();
    near(&format!(
        "cd '{base}'; echo secret >secret; touch config HEAD; mkdir objects; cd worktrees/p; mkdir g; \
         echo 'gitdir: {base}/worktrees/p/g' >.git; echo '{base}' >g/commondir; echo '{base}/worktrees/p/.git' >g/gitdir"
    ));
    project.create(&[]);
    project.enter(["cat", &format!("{base}/secret")]).assert().failure();
}

#[test]
fn sudo_does_not_make_a_trace_a_file_of_roots() {
    if !only_at(&[Place::Local], SUDO) {
        return;
    }
    let user = User::sudoer();
    let project = Project::owned_by(&user);
    let trace = project.base().join("trace");
    let mut create = user.command("sudo");
    create.arg("-n").arg(format!("LBX_TRACE={}", trace.display())).arg(bin_dir().join("lbx-env"));
    create.arg("create").arg(project.path()).assert().success();
    assert!(!trace.exists());
    // their own they may have
    user.tool("llima-box")
        .env("LBX_TRACE", &trace)
        .args(["shell"])
        .arg(project.path())
        .args(["--", "true"])
        .assert()
        .success();
    assert!(trace.metadata().unwrap().permissions().mode() & 0o777 != 0);
}

#[test]
fn a_group_that_is_not_ours_is_left_alone() {
    let project = Project::new();
    let name = project.name();
    host(&format!("groupadd -g 4999 {name}"));
    project.env_tool("create").arg(project.path()).assert().code(1).stdout("").stderr(contains(&*name));
    project.env_tool("delete").arg("-f").arg(project.path()).assert().success();
    assert_eq!(host(&format!("getent group {name}")), format!("{name}:x:4999:\n"));
    host(&format!("groupdel {name}"));
}

#[test]
fn a_home_that_is_not_ours_is_neither_taken_nor_removed() {
    let project = Project::new();
    let name = project.name();
    for owner in [0, 70001, 1] {
        host(&format!("mkdir -m 700 /home/{name}; echo kept >/home/{name}/f; chown {owner} /home/{name}"));
        project.env_tool("create").arg(project.path()).assert().code(1).stdout("").stderr(contains("belongs to uid"));
        assert!(lbx_tests::machine::account(&name).is_none());
        assert!(listed(&name).is_none());
        project.env_tool("delete").arg("-f").arg(project.path()).assert().success();
        assert_eq!(host(&format!("cat /home/{name}/f; rm -r /home/{name}")), "kept\n");
    }
    project.create(&[]);
}

#[test]
fn a_stray_deleted_record_does_not_take_a_new_environment_with_it() {
    let project = Project::new();
    let name = project.create(&[]);
    project.sh("echo kept >~/f");
    // as a delete leaves it that is killed, and then a create
    host(&format!("cd /var/lib/llima-box/envs/{name}; cp record.json deleted.json"));
    project.create(&[]);
    assert_eq!(project.sh("cat ~/f"), "kept\n");
    host(&format!("cd /var/lib/llima-box/envs/{name}; mv record.json deleted.json"));
    project.create(&[]);
    assert_eq!(project.sh("cat ~/f 2>/dev/null || echo new"), "new\n");
    assert!(!exists(Path::new("/var/lib/llima-box/envs").join(&name).join("deleted.json")));
}

#[test]
fn what_comes_too_late_for_an_environment_leaves_no_trace() {
    let project = Project::new();
    for _ in 0..20 {
        project.create(&[]);
        let mut children: Vec<_> = ["start", "stop", "delete", "start", "stop"]
            .map(|verb| {
                let mut tool = lbx_tests::std_command(lbx_tests::tool_file("lbx-env"));
                tool.arg(verb).arg(project.path()).stderr(std::process::Stdio::null()).spawn().unwrap()
            })
            .into();
        children.iter_mut().for_each(|child| drop(child.wait()));
        project.env_tool("delete").arg("-f").arg(project.path()).assert().success();
        assert_eq!(traces(&project.name()), [""; 0]);
    }
}
