//! What lies about where the tools look with privilege: in homes, in projects and on the way to them.
//! Nothing outside is read, changed, removed or waited for.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use lbx_tests::machine::{exists, traces};
use lbx_tests::place::{HERE, place};
use lbx_tests::{Command, Place, Project, User, command, errors, host, installed, near, only_at, scaled, skip, tool};
use predicates::str::{contains, is_match};

/// No tool takes longer, whatever it meets.
const SOON: Duration = Duration::from_secs(30);
/// What programs of persons and of the machine read in a home.
const READ: &str = ".bash_login .bash_logout .bash_profile .bashrc .cache .cargo .config .forward .git .gitconfig \
                    .gnupg .hushlogin .inputrc .k5login .llima-box.0 .llima-box.1 .local .netrc .npmrc \
                    .pam_environment .plan .profile .rhosts .ssh .zshenv .zshrc";
/// How each of them is planted: `$f`, where `$v` is what must not be touched.
const KINDS: [(&str, &str); 7] = [
    ("link to a directory", "ln -s $v/dir $f"),
    ("link to a file", "ln -s $v/file $f"),
    ("link to the root", "ln -s / $f"),
    ("pipe", "mkfifo -m 666 $f"),
    ("socket", "perl -MSocket -e 'socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, pack_sockaddr_un(shift)) or die' $f"),
    ("closed directory", "mkdir -p $f/x/y; ln -s $v/dir $f/x/y/link; chmod 0 $f/x/y $f/x $f"),
    (
        "program",
        "mkdir $f; for p in lbx-env lbx-enter git ssh sudo id du sh config rc environment; do \
      printf '#!/bin/sh\\ntouch $v/dir/run\\n' >$f/$p; chmod 755 $f/$p; done",
    ),
];

/// What lies on the whole machine, for one test at a time; the others go on beside each other.
static MACHINE: RwLock<()> = RwLock::new(());

fn beside() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Something of the machine's that must stay as it is.
struct Victim(String);

impl Victim {
    fn new() -> Victim {
        let dir = host(
            "v=$(mktemp -d /srv/lbx-victim.XXXXXX); cd $v; mkdir -p dir/below; echo precious >file; \
             echo precious >dir/file; echo precious >dir/below/file; chmod 4711 file; chmod 700 dir; echo $v",
        );
        Victim(dir.trim_end().to_owned())
    }

    /// All that a change would change.
    fn picture(&self) -> String {
        host(&format!(
            "cd {}; find . -printf '%p %y %m %U %G %n %s %T@ %C@ %l\\n' | sort; cat file dir/file dir/below/file",
            self.0
        ))
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        host(&format!("rm -rf {}", self.0));
    }
}

fn soon(mut command: Command) -> Command {
    command.timeout(scaled(SOON));
    command
}

#[test]
fn what_is_planted_in_a_home_touches_nothing_outside() {
    let _beside = beside();
    if !installed(&["perl"]) {
        return;
    }
    let victim = Victim::new();
    let before = victim.picture();
    for (kind, plant) in KINDS {
        let project = Project::new();
        let name = project.create(&["--private", "target"]);
        project.sh(&format!(
            "cd; v={}; for f in {READ}; do rm -rf $f; {plant}; done; mkdir -p /tmp/x; cd /tmp/x; \
             for f in a b; do {plant}; done",
            victim.0
        ));
        for verb in ["stop", "start", "repair", "stop", "repair", "create"] {
            soon(project.env_tool(verb)).arg(project.path()).assert().success().stderr("");
        }
        soon(tool("lbx-ls")).assert().success();
        soon(tool("llima-box")).arg("list").assert().success();
        soon(project.enter(["true"])).assert().success();
        soon(tool("llima-box")).args(["delete", "-y", &name]).assert().success();
        assert_eq!(traces(&name), [""; 0], "{kind}");
        assert_eq!(victim.picture(), before, "{kind}");
    }
}

#[test]
fn what_is_planted_in_a_project_touches_nothing_outside() {
    let _beside = beside();
    if !installed(&["perl"]) {
        return;
    }
    let victim = Victim::new();
    let before = victim.picture();
    // a share need not have pipes and sockets
    let kinds = if HERE.contains(&place()) { &KINDS[..] } else { &KINDS[..3] };
    for (kind, plant) in kinds {
        let project = Project::new();
        let path = project.str();
        let plant = |names: &str| {
            near(&format!("cd '{}'; v={}; for f in {names}; do rm -rf $f; {plant}; done", project.str(), victim.0))
        };
        plant(&format!("{READ} .envrc Makefile package.json"));
        let name = soon(project.env_tool("create")).arg(project.path()).current_dir(project.path()).assert().success();
        let name = lbx_tests::text(name).trim_end().to_owned();
        let run = |words: &[&str]| {
            let mut command = soon(tool(words[0]));
            command.args(&words[1..]).current_dir(project.path());
            command
        };
        for verb in ["start", "stop", "repair"] {
            run(&["lbx-env", verb, path]).assert().success();
        }
        run(&["llima-box", "shell", path, "--", "true"]).assert().success();
        run(&["lbx-ls", path]).assert().success();
        run(&["lbx-env", "stop", path]).assert().success();
        // where the private directory is to lie
        run(&["lbx-env", "set", "--private", "target/deep", path]).assert().success();
        plant("target");
        let started = run(&["lbx-env", "start", path]).output().unwrap();
        assert!(started.status.success() || started.status.code() == Some(1), "{kind}: {started:?}");
        run(&["llima-box", "delete", "-y", path]).assert().success();
        assert_eq!(traces(&name), [""; 0], "{kind}");
        assert_eq!(victim.picture(), before, "{kind}");
    }
}

#[test]
fn a_git_directory_of_the_agents_is_run_by_no_tool() {
    let _beside = beside();
    let victim = Victim::new();
    let before = victim.picture();
    let project = Project::new();
    let plant = format!(
        "cd '{}'; mkdir -p .git/hooks .git/objects .git/refs bin; echo 'ref: refs/heads/main' >.git/HEAD; \
         printf '#!/bin/sh\\ntouch {v}/dir/run\\n' >bin/evil; chmod 755 bin/evil; \
         for h in post-checkout pre-commit fsmonitor-watchman reference-transaction; do cp bin/evil .git/hooks/$h; done; \
         for p in git ssh sudo id du; do cp bin/evil bin/$p; done; \
         printf '[core]\\nfsmonitor = %s\\nsshCommand = %s\\npager = %s\\n[user]\\nname = planted\\n' \
           $PWD/bin/evil $PWD/bin/evil $PWD/bin/evil >.git/config",
        project.str(),
        v = victim.0
    );
    near(&plant);
    let path = project.str();
    // each in turn creates: by llima-box with what git says of the caller
    for create in [&["llima-box", "shell", path, "--", "true"][..], &["lbx-env", "create", path]] {
        for words in [create, &["lbx-env", "stop", path], &["lbx-env", "repair", path], &["lbx-ls", path]] {
            soon(tool(words[0])).args(&words[1..]).current_dir(project.path()).assert().success();
        }
        assert_ne!(project.sh("git config --system user.name || :"), "planted\n", "its user is not the caller");
        project.must("delete");
    }
    assert_eq!(victim.picture(), before);
}

#[test]
fn variables_that_make_programs_run_others_pass_no_tool() {
    if !only_at(&[Place::Local], "the way to another place is programs of the caller's") {
        return;
    }
    let _beside = beside();
    let victim = Victim::new();
    let before = victim.picture();
    let user = User::sudoer();
    let project = Project::owned_by(&user);
    let script = project.base().join("script");
    lbx_tests::script(&format!("#!/bin/sh\ntouch {}/dir/run\n", victim.0), &script);
    let file = script.to_str().unwrap();
    for program in ["id", "sh", "mount", "git", "sudo"] {
        symlink(&script, project.base().join(program)).unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", project.base().display());
    let planted = [
        ("PATH", &*path),
        // a program that is told of it says on stderr that there is no such file
        ("LD_PRELOAD", "/lbx-planted.so"),
        ("LD_AUDIT", "/lbx-planted.so"),
        ("LD_LIBRARY_PATH", "/lbx-planted"),
        ("BASH_ENV", file),
        ("ENV", file),
        ("BASH_FUNC_id%%", "() { echo 0; }"),
        ("GIT_DIR", "/lbx-planted"),
        ("GIT_EXEC_PATH", "/lbx-planted"),
        ("GIT_SSH_COMMAND", file),
        ("PERL5OPT", "-Mplanted"),
        ("PYTHONPATH", "/lbx-planted"),
        ("NODE_OPTIONS", "--require=/lbx-planted"),
        ("TMPDIR", "/lbx-planted"),
        ("IFS", "/"),
    ];
    let tools = |program: &str, words: &[&str]| {
        let mut command = command(lbx_tests::tool_file(program));
        command.args(words).arg(project.path()).envs(planted);
        command
    };
    // as the project's owner, so that the groups of a person are asked for
    tools("lbx-env", &["create"])
        .envs([("SUDO_UID", user.uid), ("SUDO_GID", user.gid)].map(|(k, v)| (k, v.to_string())))
        .assert()
        .success()
        .stderr("");
    for verb in ["start", "stop", "repair"] {
        tools("lbx-env", &[verb]).assert().success().stdout("").stderr("");
    }
    let inside = lbx_tests::text(tools("lbx-enter", &[]).args(["--", "env"]).assert().success().stderr(""));
    for (name, value) in planted {
        let passed = |line: &str| {
            line.split_once('=').is_some_and(|(own, text)| own == name && (name != "PATH" || text.contains(value)))
        };
        assert!(!inside.lines().any(passed), "{name}: {inside}");
    }
    tools("lbx-env", &["delete"]).assert().success().stderr("");
    assert_eq!(victim.picture(), before);
}

#[test]
fn a_mount_that_came_over_a_parent_is_another_project() {
    if !only_at(&HERE, "what is mounted is mounted on this machine") {
        return;
    }
    let _beside = beside();
    let project = Project::new();
    let base = project.base().display().to_string();
    let name = project.create(&["--private", "target"]);
    project.sh("echo mine >file");
    project.must("stop");
    let other = Project::named("app");
    near(&format!("echo secret >'{0}/file'; chown 4321 '{0}'", other.str()));
    host(&format!("mount --bind '{}' '{base}'", other.base().display()));
    let start = |said: &'static str| {
        project.env_tool("start").arg(&name).assert().code(1).stderr(contains(said));
        soon(tool("lbx-enter")).args([&name, "--", "cat", "file"]).assert().code(125).stdout("");
    };
    start("owner of");
    host(&format!("umount '{base}'; mount -t tmpfs tmpfs '{base}'"));
    start("does not exist");
    // what a mount hides is not needed to stop, and not touched by it
    project.env_tool("stop").arg(&name).assert().success();
    host(&format!("umount '{base}'"));
    assert_eq!(project.sh("cat file"), "mine\n");
    assert_eq!(other.read("file"), "secret\n");
}

#[test]
fn links_to_files_of_the_machine_stay_the_machines() {
    if !only_at(&HERE, "a share has its own idea of links") {
        return;
    }
    let _beside = beside();
    let (victim, ada) = (Victim::new(), User::new());
    // on the file system of the victim
    let project = Project::new();
    near(&format!("mkdir '{}/target'; chown -R {}:{} '{}'", project.str(), ada.uid, ada.gid, project.base().display()));
    // inside, each of these is another mount, so that nothing is linked from one to the other
    project.create(&["--private", "target"]);
    for script in [
        "ln /usr/bin/env ~/hard",
        "ln /usr/bin/env ./hard",
        "ln /etc/hostname /tmp/hard",
        "touch ~/f; ln ~/f ./hard",
        "touch f; ln f ~/hard",
        "touch target/f; ln target/f ./hard",
        "ln /proc/self/exe /tmp/hard",
    ] {
        let refused = is_match("ross-device|not permitted").unwrap();
        project.enter(["sh", "-ec", script]).assert().failure().stderr(refused);
    }
    // an ordinary person may not link what is not theirs; root may
    let dir = project.base().join("linked");
    let refused = ada.command("ln").arg(format!("{}/file", victim.0)).arg(&dir).output().unwrap();
    assert!(!refused.status.success() || host("cat /proc/sys/fs/protected_hardlinks") == "0\n", "{refused:?}");
    host(&format!("ln {0}/dir/file '{1}/hard'; ln {0}/file '{1}/setuid'", victim.0, project.str()));
    let before = victim.picture();
    project.enter(["sh", "-c", "echo x >>hard || chmod 666 hard || chown $(id -u) hard"]).assert().failure();
    for verb in ["stop", "repair", "start", "stop", "delete"] {
        project.must(verb);
    }
    assert_eq!(victim.picture(), before);
}

#[test]
fn what_cannot_be_removed_is_said_and_goes_later() {
    if !only_at(&HERE, "what is immutable is so on this machine") || !installed(&["chattr"]) {
        return;
    }
    let _beside = beside();
    let victim = Victim::new();
    let project = Project::new();
    let name = project.create(&[]);
    project.sh("cd; mkdir -p 'a\u{1b}[31m\n'/b/c; echo 1 >'a\u{1b}[31m\n'/b/f; echo 1 >log");
    // an agent cannot make it so
    project.enter(["chattr", "+i", &format!("/home/{name}/log")]).assert().failure();
    project.enter(["chattr", "+a", &format!("/home/{name}/log")]).assert().failure();
    let odd = format!("/home/{name}/a\u{1b}[31m\n");
    for (make, unmake) in [
        (format!("chattr +i '{odd}/b/f'"), format!("chattr -i '{odd}/b/f' 2>/dev/null || chattr -R -i /home/{name}")),
        (format!("chattr +a '{odd}'"), format!("chattr -a '{odd}'")),
        (format!("mount -t tmpfs tmpfs '{odd}'; touch '{odd}/kept'"), format!("ls '{odd}/kept'; umount '{odd}'")),
        (
            format!("mount --bind {}/dir '{odd}'", victim.0),
            format!("ls '{odd}/file' '{odd}/below/file'; umount '{odd}'"),
        ),
    ] {
        host(&make);
        let failed = soon(project.env_tool("delete")).arg(&name).assert().code(1).stdout("");
        let said = errors(failed);
        assert!(said.contains(&name) && said.lines().count() <= 2 && !said.contains('\u{1b}'), "{said:?}");
        host(&format!("{unmake}; mkdir -p '{odd}'"));
    }
    project.env_tool("delete").arg(&name).assert().success();
    assert_eq!(traces(&name), [""; 0]);
}

#[test]
fn names_reach_no_terminal_as_they_are() {
    if !only_at(&HERE, "a share need not carry such names") {
        return;
    }
    let _beside = beside();
    let odd = "a\u{1b}]0;b\u{7}\n\r\u{7f}\u{9b}31m";
    let project = Project::named(odd);
    let name = project.create(&["--private", &format!("{odd}/{odd}")]);
    let path = project.str();
    std::fs::create_dir(project.path().join("elsewhere")).unwrap();
    symlink("elsewhere", project.path().join(odd)).unwrap();
    let mut said = String::new();
    for words in [
        &["lbx-ls", path][..],
        &["lbx-ls", "--containing", path],
        &["llima-box", "list"],
        &["llima-box", "list", "--json"],
        &["lbx-env", "create", "--json", path],
        &["lbx-env", "create", "--label", "a=b", path],
        &["lbx-env", "create", "--dry-run", "--name", "other", path],
        &["lbx-env", "start", "--dry-run", path],
        // where a private directory is to lie there is a link
        &["lbx-env", "-v", "start", path],
        &["lbx-enter", path, "--", "true"],
        &["llima-box", "shell", path, "--", "true"],
        &["lbx-env", "-v", "repair", path],
        &["lbx-env", "delete", "--dry-run", path],
        &["llima-box", "delete", path],
        &["lbx-env", "start", &format!("{path}/no{odd}")],
        &["lbx-env", "-v", "delete", path],
    ] {
        let output = soon(tool(words[0])).args(&words[1..]).output().unwrap();
        for stream in [output.stdout, output.stderr] {
            let text = String::from_utf8_lossy(&stream).into_owned();
            assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{words:?}: {text:?}");
            said += &text;
        }
    }
    assert!(said.contains("\\u001b]0;b") && said.contains("\\u{1b}]0;b"), "{said}");
    assert_eq!(traces(&name), [""; 0]);
}

#[test]
fn a_directory_of_a_hundred_thousand_files_is_deleted() {
    let _beside = beside();
    let project = Project::new();
    let name = project.create(&["--private", "target"]);
    let many = if place() == Place::Lima { 20_000 } else { 100_000 };
    project.sh(&format!("mkdir ~/many; cd ~/many; seq {many} | xargs touch; cd -; cd target; seq 5000 | xargs mkdir"));
    soon(project.env_tool("delete")).arg(&name).assert().success();
    assert_eq!(traces(&name), [""; 0]);
}

/// A file system of kind `kind` over /home, for one test alone.
struct Homes(tempfile::NamedTempFile);

impl Homes {
    fn of(kind: &str) -> Option<Homes> {
        if !installed(&[&format!("mkfs.{kind}")]) {
            return None;
        }
        let image = tempfile::NamedTempFile::new_in("/srv").unwrap();
        image.as_file().set_len(1 << 30).unwrap();
        command(format!("mkfs.{kind}")).arg("-q").arg(image.path()).assert().success();
        let mounted = command("mount").args(["-o", "loop"]).arg(image.path()).arg("/home").output().unwrap();
        if !mounted.status.success() {
            skip(&format!("this kernel has no {kind}: {mounted:?}"));
            return None;
        }
        Some(Homes(image))
    }
}

impl Drop for Homes {
    fn drop(&mut self) {
        command("umount").arg("-l").arg("/home").assert().success();
        let _ = self.0.as_file().sync_all();
    }
}

#[test]
fn a_home_of_many_subvolumes_is_deleted() {
    if !only_at(&[Place::Local], "the file system is made on this machine") {
        return;
    }
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let Some(_homes) = Homes::of("btrfs") else { return };
    let project = Project::new();
    let name = project.create(&[]);
    // anybody makes them of what is theirs, and of a read-only one not even root removes a file
    project.sh(
        "cd; mkdir -p in/deep; btrfs subvolume create sub; mkdir -p sub/a/b/c; echo 1 >sub/a/b/c/f; \
         btrfs subvolume create sub/a/sub; mkdir -p sub/a/sub/x/y/z; btrfs subvolume create in/deep/sub; \
         mkdir -p in/deep/sub/x/y/z; btrfs subvolume snapshot -r sub in/deep/closed; btrfs subvolume snapshot -r sub closed",
    );
    soon(project.env_tool("delete")).arg(&name).assert().success().stderr("");
    assert_eq!(traces(&name), [""; 0]);
}

#[test]
fn a_home_from_which_nothing_can_be_moved_is_deleted() {
    if !only_at(&[Place::Local], "the file system is made on this machine") {
        return;
    }
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let Some(_homes) = Homes::of("xfs") else { return };
    let project = Project::new();
    let name = project.create(&[]);
    // a project ID (xfs_quota(8)) that is inherited keeps out what has another
    project.sh("cd; mkdir -p a/b/c wide deep; cd wide; seq 200 | while read n; do mkdir -p $n/x/y; done; cd ../deep; \
         p=$(printf 'd/%.0s' $(seq 600)); for _ in 1 2; do mkdir -p $p; cd -P $p; done; echo deep >file; \
         chattr -p 7 ~; chattr +P ~");
    soon(project.env_tool("delete")).arg(&name).assert().success().stderr("");
    assert_eq!(traces(&name), [""; 0]);
    assert!(!exists(Path::new("/home").join(&name)));
}
