//! What concerns all environments of a place at once, so that no other test may run beside.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use lbx_tests::machine::{accounts, entries, group, listed, traces};
use lbx_tests::place::HERE;
use lbx_tests::{
    Place, Project, Pty, command, eventually, host, only_at, repository, skip, std_command, text, tool, tool_file,
};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn without_environments_the_list_is_empty_and_that_is_no_failure() {
    let _alone = alone();
    for _ in 0..2 {
        tool("lbx-ls").assert().success().stdout("").stderr("");
        tool("lbx-ls").args(["--names", "-0"]).assert().success().stdout("");
        tool("llima-box").args(["list", "--json"]).assert().success().stdout("");
        tool("llima-box").args(["delete-all", "-y"]).assert().success().stdout("");
        host("rm -rf /var/lib/llima-box/*");
    }
}

#[test]
fn a_list_that_cannot_be_made_is_a_failure() {
    let _alone = alone();
    host("rm -rf /var/lib/llima-box/envs; echo >/var/lib/llima-box/envs");
    let listed = tool("lbx-ls").output().unwrap();
    host("rm /var/lib/llima-box/envs");
    assert_eq!(listed.status.code(), Some(1), "{listed:?}");
    assert!(
        listed.stdout.is_empty() && String::from_utf8_lossy(&listed.stderr).contains("/var/lib/llima-box/envs"),
        "{listed:?}"
    );
}

#[test]
fn delete_all_asks_and_then_leaves_nothing() {
    let _alone = alone();
    let projects: Vec<Project> = ["one", "two\nlines", "-three"].iter().map(Project::named).collect();
    let names: Vec<String> = projects.iter().map(|p| p.create(&[])).collect();
    projects[0].sh("(sleep 9000 >/dev/null 2>&1 </dev/null &)");
    host(&format!("echo damaged >/var/lib/llima-box/envs/{}/record.json", names[1]));
    tool("llima-box").arg("delete-all").assert().failure().stderr(contains("-y"));
    assert!(names.iter().all(|name| listed(name).is_some()));
    tool("llima-box").args(["delete-all", "-y"]).assert().success();
    tool("lbx-ls").assert().success().stdout("");
    let left: Vec<String> = names.iter().flat_map(|name| traces(name)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(projects.iter().all(|p| p.path().is_dir()));
}

#[test]
fn after_the_last_delete_only_the_group_the_holder_and_empty_directories_are_left() {
    let _alone = alone();
    let before: Vec<String> = accounts().into_iter().map(|a| a.name).collect();
    let (mounts, etc) = (mounts(), entries("/etc"));
    let project = Project::new();
    project.create(&[]);
    project.sh("true");
    project.must("delete");
    let mut after: Vec<String> = accounts().into_iter().map(|a| a.name).collect();
    after.retain(|name| !before.contains(name) && name != "lbx-holder");
    assert_eq!(after, [""; 0]);
    assert_eq!(host("find /var/lib/llima-box /run/llima-box ! -type d"), "");
    assert_eq!(entries("/run/llima-box"), [""; 0]);
    assert_eq!(self::mounts(), mounts, "no mount stays, the shared /etc neither");
    let mut aside = entries("/etc");
    aside.retain(|e| {
        !etc.contains(e) && !["passwd-", "group-", "shadow-", "gshadow-", ".pwd.lock"].contains(&e.as_str())
    });
    assert_eq!(aside, [""; 0]);
    assert_eq!(host("grep '^lbx-env:' /etc/group | cut -d: -f4"), "\n", "the group has no members");
}

/// Mount points and their types.
fn mounts() -> String {
    host("cut -d' ' -f4,5 /proc/self/mountinfo")
}

#[test]
fn after_a_reboot_entering_works_and_the_home_is_kept() {
    if !only_at(&HERE, "the processes that are ended are this machine's") {
        return;
    }
    let _alone = alone();
    let projects = [Project::new(), Project::new()];
    for project in &projects {
        project.create(&["--private", "target"]);
        project.sh("echo kept >~/file; echo kept >target/file; echo gone >/tmp/file");
    }
    reboot();
    for project in &projects {
        assert_eq!(project.state(), "stopped");
        assert_eq!(project.sh("cat ~/file target/file; ls /tmp"), "kept\nkept\n");
        assert_eq!(project.state(), "running");
    }
    // stop, delete and repair need nothing of /run either
    reboot();
    projects[0].must("stop");
    projects[0].must("repair");
    projects[0].must("delete");
    projects[1].must("delete");
    assert_eq!(traces(&projects[0].name()), [""; 0]);
    assert_eq!(traces(&projects[1].name()), [""; 0]);
}

/// Ends what a reboot ends: every process and mount of environments, their cgroups and /run.
fn reboot() {
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    for pid in entries("/proc").into_iter().filter(|e| e.parse::<u32>().is_ok()) {
        if std::fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|ns| ns != own) {
            let _ = std_command("kill").args(["-9", &pid]).stderr(Stdio::null()).status();
        }
    }
    host(
        "for d in /sys/fs/cgroup/llima-box /sys/fs/cgroup/unified/llima-box; do
            [ ! -d $d ] || for _ in 1 2 3 4 5 6 7 8 9; do find $d -depth -type d -exec rmdir {} + 2>/dev/null && break; sleep 0.1; done
        done
        while read -r _ _ _ _ at _; do case $at in /run/llima-box*) umount -l $at;; esac; done </proc/self/mountinfo
        rm -rf /run/llima-box",
    );
}

#[test]
fn a_locked_account_database_is_waited_for_and_then_said() {
    if !only_at(&HERE, "the lock is this machine's") {
        return;
    }
    let _alone = alone();
    let project = Project::new();
    // the lock of lckpwdf(3), as a slow adduser holds it
    let lock = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open("/etc/.pwd.lock").unwrap();
    nix::fcntl::fcntl(&lock, nix::fcntl::FcntlArg::F_SETLK(&lbx::holder::lock())).unwrap();
    let start = Instant::now();
    let refused = project.env_tool("create").arg(project.path()).assert().code(1).stdout("");
    assert!((Duration::from_secs(10)..Duration::from_secs(25)).contains(&start.elapsed()), "{:?}", start.elapsed());
    refused.stderr(contains("lock").and(contains("/etc/.pwd.lock").or(contains("account"))));

    let waiting =
        std_command(tool_file("lbx-env")).arg("create").arg(project.path()).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    drop(lock);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    project.must("delete");
    assert_eq!(traces(&project.name()), [""; 0]);
}

/// `create` while `full` holds; afterwards all is well again.
fn create_when(full: &str, undo: &str) {
    let project = Project::new();
    host(full);
    let output = project.env_tool("create").arg(project.path()).output();
    host(undo);
    let output = output.unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{full}: {output:?}");
    assert!(told.contains("No space left") || told.contains("no space"), "{full}: {told}");
    assert!(output.stdout.is_empty());
    assert_eq!(host("awk -F: 'NF != 7' /etc/passwd; awk -F: 'NF != 9' /etc/shadow"), "", "account files are whole");
    // the next run finishes or undoes
    assert_eq!(project.create(&[]), project.name());
    project.sh("true");
    project.must("delete");
    assert_eq!(traces(&project.name()), [""; 0]);
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing_half_made() {
    if !only_at(&HERE, "a VM has no disk for a test to fill") {
        return;
    }
    let _alone = alone();
    // so that directories of state exist
    let other = Project::new();
    other.create(&[]);
    for (mount, size) in
        [("/var/lib/llima-box", "size=16k"), ("/var/lib/llima-box", "nr_inodes=2"), ("/home", "nr_inodes=1")]
    {
        create_when(
            &format!("mount -t tmpfs -o {size} tmpfs {mount}; head -c 1M /dev/zero >{mount}/fill 2>/dev/null || true"),
            &format!("umount {mount}"),
        );
    }
    // /etc is a tmpfs of the sandbox, which can be made full
    create_when(
        "mount -o remount,size=$(df -B1 --output=used /etc | tail -1) /etc; head -c 1M /dev/zero >/etc/fill 2>/dev/null || true",
        "mount -o remount,size=50% /etc; rm -f /etc/fill",
    );
    assert_eq!(other.sh("echo fine"), "fine\n");
}

#[test]
fn everyones_tools_are_found_inside_and_are_read_only() {
    let _alone = alone();
    let project = Project::new();
    // over the machine's own /opt, in the sandbox's mounts alone
    host(
        "mount -t tmpfs tmpfs /opt; mkdir -p /opt/llima-box/bin; cd /opt/llima-box/bin
        printf '#!/bin/sh\\necho everyone\\n' >lbx-t; chmod +x lbx-t",
    );
    project.create(&[]);
    let seen = project.enter(["lbx-t"]).output();
    let written = project.enter(["sh", "-c", "echo >/opt/llima-box/bin/lbx-t"]).output();
    project.must("delete");
    host("umount /opt");
    assert_eq!(String::from_utf8_lossy(&seen.unwrap().stdout), "everyone\n");
    assert!(!written.unwrap().status.success());
}

#[test]
fn uids_are_reused_last() {
    let _alone = alone();
    // its group's, as the account may have the owner's IDs
    let id = |project: &Project| {
        let name = project.create(&[]);
        let id = group(&name);
        project.must("delete");
        id
    };
    let project = Project::new();
    assert_ne!(id(&project), id(&project), "what the first one left is not the second one's");
}

#[test]
fn the_table_of_list_is_for_people() {
    let _alone = alone();
    let project = Project::named("esc\x1b[31m");
    let name = project.create(&[]);
    project.must("start");
    let words = [tool_file("llima-box").display().to_string(), "list".to_owned()];
    let mut pty = Pty::run(&words);
    pty.until("the environment", |screen| screen.contains(&name) && screen.contains("running"));
    assert!(pty.wait().success());
    assert!(!pty.raw().windows(5).any(|w| w == b"\x1b[31m"), "a path drove the terminal");
    // in a pipe too, each environment is one line
    let table = text(tool("llima-box").arg("list").assert().success());
    assert_eq!(table.lines().filter(|l| l.contains(&name)).count(), 1);
}

#[test]
fn delete_asks_on_a_terminal_and_says_what_goes_and_what_stays() {
    let _alone = alone();
    let project = Project::new();
    let name = project.create(&[]);
    project.sh("(sleep 9100 >/dev/null 2>&1 </dev/null &) ; head -c 3M /dev/zero >~/big");
    let words = [tool_file("llima-box").display().to_string(), "delete".to_owned(), name.clone()];
    let mut pty = Pty::run(&words);
    pty.until("a question", |s| s.contains(&format!("/home/{name}")) && s.contains(project.str()) && s.contains('?'));
    pty.send("n\n");
    assert!(!pty.wait().success());
    assert!(listed(&name).is_some());
    let mut pty = Pty::run(&words);
    pty.until("a question", |s| s.contains('?'));
    pty.send("y\n");
    assert!(pty.wait().success());
    assert_eq!(traces(&name), [""; 0]);
}

/// Why the sandbox is not tried at every place.
const SANDBOX: &str = "the sandbox is the same for every place";

/// What the sandbox must leave as it found it.
fn machine() -> String {
    host(
        "cat /etc/passwd /etc/group /etc/shadow
        ls -A /home /srv /run /tmp /var/lib /etc
        losetup -ln -O BACK-FILE || true
        cut -d' ' -f4,5 /proc/self/mountinfo
        find /sys/fs/cgroup -maxdepth 3 -name 'lbx*' -o -maxdepth 3 -name llima-box",
    )
}

fn sandbox() -> std::process::Command {
    let mut sandbox = std_command(repository().join("scripts/sandbox"));
    sandbox.env("LBX_BIN_DIR", lbx_tests::bin_dir()).stdin(Stdio::null());
    sandbox
}

const BUSY: &str =
    "useradd -m lbxgone; mkdir -p /srv/x /run/y /var/lib/llima-box/z /var/lib/lbx-w; mount -t tmpfs tmpfs /srv/x
    for d in /sys/fs/cgroup /sys/fs/cgroup/unified; do [ ! -e $d/cgroup.procs ] || mkdir -p $d/llima-box/deep; done
    (setsid sleep 9200 &)";

#[test]
fn the_sandbox_leaves_the_machine_as_it_was() {
    if !only_at(&[Place::Local], SANDBOX) {
        return;
    }
    let _alone = alone();
    if !repository().join("scripts/sandbox").exists() {
        skip("the repository is not here");
        return;
    }
    let before = machine();
    let output = sandbox().args(["sh", "-euc", &format!("{BUSY}; id -u; exit 42")]).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).trim()), (Some(42), "0"), "{output:?}");
    assert_eq!(machine(), before);
    assert_eq!(host("ps -eo args | grep -c '^sleep 9200$' || true").trim(), "0");
}

#[test]
fn a_sandbox_that_is_killed_leaves_nothing_either() {
    if !only_at(&[Place::Local], SANDBOX) {
        return;
    }
    let _alone = alone();
    let before = machine();
    for whole_group in [false, true] {
        let mut command = sandbox();
        command.args(["sh", "-euc", &format!("{BUSY}; echo ready; exec sleep 9200")]).stdout(Stdio::piped());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let target = if whole_group { format!("-{}", child.id()) } else { child.id().to_string() };
        lbx_tests::command("kill").args(["-9", "--", &target]).assert().success();
        child.wait().unwrap();
        eventually("nothing of it is left", || machine() == before);
        assert_eq!(host("ps -eo args | grep -c '^sleep 9200$' || true").trim(), "0");
    }
}

#[test]
fn the_sandbox_has_its_own_accounts_and_disk() {
    if !only_at(&[Place::Local], SANDBOX) {
        return;
    }
    let _alone = alone();
    let output =
        sandbox().args(["sh", "-c", "stat -c %d /home /srv /tmp /etc /run; ls /var/lib/llima-box"]).output().unwrap();
    let devices = String::from_utf8_lossy(&output.stdout).into_owned();
    for (line, dir) in devices.lines().zip(["/home", "/srv", "/tmp", "/etc", "/run"]) {
        assert_ne!(line, Path::new(dir).metadata().unwrap().dev().to_string(), "{dir}");
    }
    assert_eq!(devices.lines().count(), 5, "{output:?}");
    let without = command(repository().join("scripts/sandbox")).assert().code(2);
    without.stderr(contains("Usage"));
}
