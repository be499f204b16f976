//! As an ordinary user, through sudo.

use std::os::unix::fs::PermissionsExt;

use lbx_tests::machine::{entries, listed, traces};
use lbx_tests::{Place, Project, User, command, eventually, host, installed, only_at, std_command, text, tool_file};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

/// Whether sudo is a step on the way: at another place whoever answers there is root already.
fn is_a_step() -> bool {
    only_at(&[Place::Local], "sudo is a step of this machine")
}

#[test]
fn a_person_does_everything_through_sudo() {
    if !is_a_step() {
        return;
    }
    let ada = User::sudoer();
    let project = Project::owned_by(&ada);
    let path = project.str();
    let name = text(ada.tool("lbx-env").args(["create", "--label", "by=ada", path]).assert().success().stderr(""));
    let name = name.trim();
    assert_eq!(name, project.name());
    ada.tool("lbx-env").args(["start", name]).assert().success().stdout("").stderr("");
    ada.tool("lbx-enter")
        .args([name, "--", "sh", "-c", "echo inside >file; id -un"])
        .assert()
        .success()
        .stdout(format!("{name}\n"));
    assert_eq!(ada.sh(&format!("cat {path}/file; stat -c %U {path}/file")), format!("inside\n{}\n", ada.name));
    ada.tool("lbx-ls").args(["--names", "--label", "by=ada"]).assert().success().stdout(format!("{name}\n"));
    ada.tool("lbx-env").args(["set", "--label", "", name]).assert().success();
    ada.tool("lbx-env").args(["stop", name]).assert().success();
    ada.tool("lbx-env").args(["repair", name]).assert().success();
    ada.tool("llima-box").args(["delete", "-y", name]).assert().success();
    assert_eq!(traces(name), [""; 0]);
}

#[test]
fn shell_creates_and_enters_through_sudo_from_where_the_person_stands() {
    if !is_a_step() {
        return;
    }
    let ada = User::sudoer();
    let project = Project::owned_by(&ada);
    ada.sh(&format!("cd {}; git init -q; mkdir -p a/b; git config --global user.name Ada; git config --global user.email ada@example.org; git config --global core.pager evil", project.str()));
    let mut shell = ada.tool("llima-box");
    shell.current_dir(project.path().join("a/b")).args([
        "shell",
        "--",
        "sh",
        "-c",
        "pwd; git config user.name; git config core.pager",
    ]);
    shell.assert().code(1).stdout(format!("{}/a/b\nAda\n", project.str()));
    assert_eq!(listed(&project.name()).unwrap()["owner"]["uid"], ada.uid);
    let mut shell = ada.tool("llima-box");
    shell.current_dir(project.path()).args(["shell", ".", "--", "sh", "-c", "exit 42"]);
    shell.assert().code(42);
}

#[test]
fn what_an_agent_changed_is_reviewed_and_applied_through_sudo() {
    if !is_a_step() {
        return;
    }
    let ada = User::sudoer();
    let project = Project::owned_by(&ada);
    let path = project.str();
    ada.sh(&format!("cd {path}; umask 077; echo one >kept; echo two >gone; mkdir dir"));
    ada.tool("lbx-env").args(["create", "--project", "cow", path]).assert().success();
    let script = "echo more >>kept; rm gone; echo new >dir/made; echo drop >dropped; chmod 4755 dir/made 2>/dev/null";
    ada.tool("lbx-enter").args([path, "--", "sh", "-c", script]).assert().code(1);
    let diff = |code| text(ada.tool("lbx-diff").arg(path).assert().code(code));
    assert_eq!(diff(1), "A\tdir/made\nA\tdropped\nD\tgone\nM\tkept\n");
    assert_eq!(ada.sh(&format!("cd {path}; cat kept gone; ls dir")), "one\ntwo\n");

    // what is Ada's to decide is nobody else's
    let eve = User::sudoer();
    for name in ["lbx-diff", "lbx-apply", "lbx-discard"] {
        let mut command = eve.tool(name);
        if name != "lbx-diff" {
            command.arg("-y");
        }
        command.arg(path).assert().failure().stdout("").stderr(contains("not to you"));
    }
    ada.tool("lbx-env").args(["stop", path]).assert().success();
    ada.tool("lbx-discard").args(["-y", path, "dropped"]).assert().success();
    ada.tool("lbx-apply").args(["-y", path]).assert().success();
    let look = "cat kept dir/made; ls; stat -c '%U %G %a' kept dir/made";
    let me = &ada.name;
    assert_eq!(
        ada.sh(&format!("cd {path}; {look}")),
        format!("one\nmore\nnew\ndir\nkept\n{me} {me} 600\n{me} {me} 644\n")
    );
    assert_eq!(diff(0), "");
}

#[test]
fn snapshots_are_their_owners_through_sudo() {
    if !is_a_step() {
        return;
    }
    let ada = User::sudoer();
    let project = Project::owned_by(&ada);
    let path = project.str();
    ada.tool("lbx-env").args(["create", path]).assert().success();
    ada.tool("lbx-enter").args([path, "--", "sh", "-c", "echo 1 >~/file"]).assert().success();
    ada.tool("lbx-snap").args(["save", "--stop", path, "one"]).assert().success().stdout("one\n").stderr("");
    let eve = User::sudoer();
    for words in [&["save", "--stop", path, "two"][..], &["restore", "--stop", path, "one"], &["delete", path, "one"]] {
        eve.tool("lbx-snap").args(words).assert().code(1).stdout("").stderr(contains("not to you"));
    }
    assert_eq!(listed(&project.name()).unwrap()["state"], "running", "nobody else stops it");
    ada.tool("lbx-snap").args(["restore", "--stop", path, "one"]).assert().success().stdout("");
    // a look takes no sudo
    eve.tool("lbx-snap").args(["list", "--tags", path]).assert().success().stdout("one\n");
    ada.tool("lbx-snap").args(["delete", path, "one"]).assert().success();
}

#[test]
fn streams_and_statuses_pass_through_sudo() {
    if !is_a_step() {
        return;
    }
    let ada = User::sudoer();
    let project = Project::owned_by(&ada);
    project.create(&[]);
    let enter = |script: &str| {
        let mut enter = ada.tool("lbx-enter");
        enter.arg(project.path()).args(["--", "sh", "-c", script]);
        enter
    };
    enter("cat; echo err >&2")
        .write_stdin(&b"through\0all\xff"[..])
        .assert()
        .success()
        .stdout(&b"through\0all\xff"[..])
        .stderr("err\n");
    for status in [0, 1, 2, 3, 124, 125, 126, 127, 128, 255] {
        enter(&format!("exit {status}")).assert().code(status);
    }
    enter("kill -TERM $$").assert().code(143);
    let mut missing = ada.tool("lbx-enter");
    missing
        .arg(project.path())
        .args(["--", "no-such-command"])
        .assert()
        .code(127)
        .stdout("")
        .stderr(contains("no-such-command"));
    let mut closed = ada.tool("lbx-enter");
    closed.arg(project.path()).args(["--", "/etc/passwd"]).assert().code(126);
}

#[test]
fn without_sudo_rights_the_message_says_what_is_needed() {
    if !is_a_step() {
        return;
    }
    let bob = User::new();
    let project = Project::owned_by(&bob);
    let needs = || contains("root").or(contains("sudo"));
    bob.tool("lbx-env").arg("create").arg(project.path()).assert().code(1).stdout("").stderr(needs());
    bob.tool("llima-box")
        .arg("shell")
        .arg(project.path())
        .args(["--", "true"])
        .assert()
        .code(125)
        .stdout("")
        .stderr(needs());
    assert_eq!(traces(&project.name()), [""; 0]);
    project.create(&[]);
    // sudo's own failure is 125 and never the command's 1
    bob.tool("lbx-enter").arg(project.path()).args(["--", "false"]).assert().code(125).stdout("").stderr(needs());
    bob.tool("lbx-env").arg("start").arg(project.path()).assert().code(1).stdout("").stderr(needs());
    for verb in ["stop", "delete"] {
        bob.tool("lbx-env").arg(verb).arg(project.path()).assert().failure();
    }
    assert_eq!(project.state(), "stopped");
    bob.tool("lbx-ls").args(["--names", &project.name()]).assert().success();
    bob.tool("lbx-name").arg(project.path()).assert().success();
}

#[test]
fn without_sudo_at_all_the_message_says_what_is_needed() {
    if !is_a_step() {
        return;
    }
    let bob = User::new();
    let project = Project::owned_by(&bob);
    project.create(&[]);
    let layers = project.base().join("layers");
    // a machine that has no sudo: its /usr/bin with a whiteout
    let without_sudo = |words: &str| {
        let script = format!(
            "mkdir -p {0}/upper {0}/work; mount -t overlay -o lowerdir=/usr/bin,upperdir={0}/upper,workdir={0}/work o /usr/bin; \
             rm -f /usr/bin/sudo; exec {1} env PATH=/nonexistent {words}",
            layers.display(),
            bob.words().join(" "),
        );
        let mut command = command("unshare");
        command.args(["--mount", "sh", "-ec", &script]);
        command
    };
    let needs = || contains("root").and(contains("sudo"));
    without_sudo(&format!("{} start {}", tool_file("lbx-env").display(), project.str()))
        .assert()
        .code(1)
        .stderr(needs());
    let enter = format!("{} {} -- true", tool_file("lbx-enter").display(), project.str());
    without_sudo(&enter).assert().code(125).stderr(needs());
}

#[test]
fn variables_pass_through_sudo_and_their_values_are_in_no_argv() {
    if !is_a_step() {
        return;
    }
    const SECRET: &str = "s3cret-value-of-this-test";
    let ada = User::sudoer();
    let project = Project::owned_by(&ada);
    project.create(&[]);
    let trace = ada.home().join("trace");
    ada.sh(&format!(": >{}", trace.display()));
    let script = "printf '%s|%s|%s\\n' \"$TOKEN\" \"$GIVEN\" \"$PATH\"; tr '\\0' ' ' </proc/$PPID/cmdline; tr '\\0' ' ' </proc/self/cmdline";
    for tool in ["lbx-enter", "llima-box"] {
        let mut enter = ada.tool(tool);
        if tool == "llima-box" {
            enter.arg("shell");
        }
        enter.env("TOKEN", SECRET).env("LBX_TRACE", &trace).env("PATH", "/usr/bin:/bin:/caller/s/path");
        enter.args(["--env", "TOKEN", "--env", &format!("GIVEN={SECRET}"), "--env", "PATH"]);
        enter.arg(project.path()).args(["--", "sh", "-c", script]);
        let output = text(enter.assert().success());
        let (first, argvs) = output.split_once('\n').unwrap();
        assert_eq!(first, format!("{SECRET}|{SECRET}|/usr/bin:/bin:/caller/s/path"), "{tool}");
        assert!(!argvs.contains(SECRET), "{tool}: {argvs}");
    }
    let traced = host(&format!("cat {}", trace.display()));
    assert!(traced.contains("sudo"), "the trace shows the step: {traced}");
    // the one argv that has the value is the person's own
    assert!(!traced.contains(SECRET), "{traced}");
    assert!(!host("cat /var/lib/llima-box/envs/*/record.json 2>/dev/null || :").contains(SECRET));
}

#[test]
fn no_running_process_shows_a_secret() {
    if !is_a_step() {
        return;
    }
    const SECRET: &str = "an0ther-secret-of-this-test";
    let ada = User::sudoer();
    let project = Project::owned_by(&ada);
    project.create(&[]);
    let words = ada.words();
    let mut enter = std_command(&words[0]);
    enter.args(&words[1..]).arg(tool_file("lbx-enter")).env("TOKEN", SECRET).env("HOME", ada.home());
    enter.args(["--env", "TOKEN"]).arg(project.path()).args(["--", "sh", "-c", "touch ready; read line"]);
    let mut child = enter.stdin(std::process::Stdio::piped()).spawn().unwrap();
    eventually("it runs", || project.path().join("ready").exists());
    let shown: Vec<String> = entries("/proc")
        .into_iter()
        .filter_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok())
        .map(|argv| String::from_utf8_lossy(&argv).into_owned())
        .filter(|argv| argv.contains(SECRET))
        .collect();
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(shown, [""; 0]);
}

#[test]
fn what_the_person_may_not_read_or_write_is_not_given_through_sudo() {
    if !is_a_step() {
        return;
    }
    let (ada, bob) = (User::sudoer(), User::new());
    let project = Project::owned_by(&ada);
    let bobs = Project::owned_by(&bob);
    host(&format!("chmod 755 {} {}", bob.home().display(), bobs.base().display()));
    bobs.write("closed/secret", "bob's");
    host(&format!("chown -R {0}: '{1}/closed'; chmod 700 '{1}/closed'", bob.name, bobs.str()));
    let closed = format!("{}/closed", bobs.str());
    // a project that the person can read but not write
    ada.tool("lbx-env").arg("create").arg(bobs.path()).assert().code(1).stdout("").stderr(contains(bobs.str()));
    assert_eq!(traces(&bobs.name()), [""; 0]);
    for option in ["--ro", "--rw"] {
        ada.tool("lbx-env")
            .args(["create", option, &closed])
            .arg(project.path())
            .assert()
            .code(1)
            .stdout("")
            .stderr(contains(&closed));
        assert_eq!(traces(&project.name()), [""; 0]);
    }
    // read-write needs more than reading
    let open = project.base().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).unwrap();
    ada.tool("lbx-env").arg("create").arg("--rw").arg(&open).arg(project.path()).assert().code(1).stdout("");
    ada.tool("lbx-env").arg("create").arg("--ro").arg(&open).arg(project.path()).assert().success();
}

#[test]
fn a_terminal_works_through_sudo() {
    if !is_a_step() {
        return;
    }
    if !installed(&["setsid"]) {
        return;
    }
    let ada = User::sudoer();
    let project = Project::owned_by(&ada);
    project.create(&[]);
    let mut words: Vec<String> = ada.words().to_vec();
    words.extend([tool_file("lbx-enter").display().to_string(), project.str().to_owned(), "--".into()]);
    words.extend(["sh", "-c", "tty; stty size; read word; echo got-$word"].map(String::from));
    let mut pty = lbx_tests::Pty::sized(&words, 33, 111);
    let seen = pty.expect("33 111");
    assert!(seen.contains("/dev/pts/"), "{seen}");
    pty.send("typed\n");
    pty.expect("got-typed");
    assert!(pty.wait().success());
}

#[test]
fn the_config_of_the_person_is_read_and_not_roots() {
    if !is_a_step() {
        return;
    }
    let ada = User::sudoer();
    let project = Project::owned_by(&ada);
    ada.sh("mkdir -p ~/.config/llima-box; printf 'net: none\\nenv: [FROM_CONFIG]\\n' >~/.config/llima-box/config.yaml");
    let mut shell = ada.tool("llima-box");
    shell.env("FROM_CONFIG", "passed").arg("shell").arg(project.path()).args(["--", "sh", "-c", "echo $FROM_CONFIG"]);
    shell.assert().success().stdout("passed\n");
    assert_eq!(project.record()["options"]["net"], "none");
}
