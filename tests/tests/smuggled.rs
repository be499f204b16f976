//! Attacks by way of a review: what an agent leaves in its layer to be applied, shown or discarded, so that more
//! happens than the person agreed to, or nothing ever ends.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;
use std::time::{Duration, Instant};

use lbx_tests::place::HERE;
use lbx_tests::review::of_changes;
use lbx_tests::{Place, Project, User, errors, installed, near, only_at, scaled, text};
use predicates::str::contains;

fn changes(project: &Project) -> String {
    text(of_changes("lbx-diff", project, &[], &[]).assert().stderr("")).replace('\t', " ")
}

/// Runs `what`, which may take as long as `limit` on a machine that has nothing else to do.
fn within(limit: Duration, what: impl FnOnce()) {
    let start = Instant::now();
    what();
    assert!(start.elapsed() < scaled(limit), "{:?}", start.elapsed());
}

#[test]
fn a_mode_reaches_no_further_name_of_a_file() {
    if !only_at(&HERE, "9p knows no file by its names") {
        return;
    }
    let project = Project::cow("echo key >../key; chmod 600 ../key; ln ../key here; ln here there");
    let key = project.base().join("key");
    // the same text, and more who may read it
    project.sh("chmod 666 here");
    let seen = project.sh("stat -c '%a %n' here there");
    assert_eq!(seen, "666 here\n600 there\n");
    of_changes("lbx-apply", &project, &["-y"], &[]).assert().success().stderr("");
    assert_eq!(project.outside("stat -c '%a %n' here there"), seen);
    assert_eq!(key.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
    // new text has no way there, either; that its other name went has touched what was there
    project.sh("echo mine >there");
    of_changes("lbx-apply", &project, &["-y", "--force"], &[]).assert().success().stderr("");
    assert_eq!(near(&format!("cat '{}'", key.display())), "key\n");
}

#[test]
fn nobody_reads_by_a_detour_through_the_layer_what_they_may_not_read() {
    if !only_at(&[Place::Local], "an ordinary user calls") {
        return;
    }
    let ada = User::sudoer();
    let project = Project::owned_by(&ada);
    near(&format!("cd '{}'; echo secret >secret; chmod 600 secret", project.str()));
    ada.sh(&format!("cd '{}'; echo open >open", project.str()));
    ada.tool("lbx-env").args(["create", "--project", "cow"]).arg(project.path()).assert().success();
    let session = "mv open opened; echo new >new; mv secret moved 2>/dev/null || echo secret >moved";
    ada.tool("lbx-enter").arg(project.path()).args(["--", "sh", "-euc", session]).assert().success();
    // to move a file takes no right to read it, where its owner has a number inside
    near(&format!(
        "cd /var/lib/llima-box/envs/{}/project/upper; chown root:root moved; chmod 600 moved",
        project.name()
    ));
    let apply = ada.tool("lbx-apply").arg("-y").arg(project.path()).assert().code(1);
    assert!(errors(apply).contains("cannot apply 'moved': it is another's, which may not be read"));
    assert_eq!(near(&format!("cd '{}'; ls", project.str())), "new\nopened\nsecret\n");
    ada.command("cat").arg(project.path().join("opened")).assert().success().stdout("open\n");
}

#[test]
fn a_file_of_a_tebibyte_of_nothing_takes_no_time() {
    if !only_at(&HERE, "9p has no holes to show") {
        return;
    }
    let project = Project::cow("echo a >a");
    project.sh("truncate -s 1T huge; echo end >>huge; echo b >a");
    within(Duration::from_secs(20), || {
        assert_eq!(changes(&project), "M a\nA huge\n");
        let stat = text(of_changes("lbx-diff", &project, &["--stat"], &[]).assert().code(1));
        assert!(stat.contains(" huge | Bin 0 -> 1099511627780 bytes\n"), "{stat}");
        // git apply takes no patch of it, whatever it holds
        let patch = of_changes("lbx-diff", &project, &["--patch"], &[]).assert().code(2);
        let patch = patch.stderr(contains("cannot show 'huge': ")).stdout(contains("-a\n+b\n"));
        assert!(!text(patch).contains("huge"));
        of_changes("lbx-apply", &project, &["-y"], &[]).assert().success().stderr("");
        let meta = project.path().join("huge").metadata().expect("it is there");
        assert!(meta.len() > 1 << 40 && meta.blocks() * 512 < 1 << 20, "{meta:?}");
        // the same on both sides, but for its mode
        project.sh("chmod 600 huge");
        of_changes("lbx-apply", &project, &["-y"], &[]).assert().success().stderr("");
        project.sh("touch huge");
        assert_eq!(changes(&project), "");
    });
}

#[test]
fn the_name_that_is_used_aside_is_a_name_as_any_other() {
    let project = Project::cow("mkdir d; echo 1 >d/f; echo 1 >d/gone");
    let aside = format!(".lbx-apply.{}", project.name());
    project.sh(&format!(
        "for n in '' .1 .2; do echo agent >d/{aside}$n; done; echo agent >{aside}; echo 2 >d/f; rm d/gone; mkdir d/{aside}.3"
    ));
    of_changes("lbx-apply", &project, &["-y"], &[]).assert().success().stderr("");
    assert_eq!(changes(&project), "");
    assert_eq!(project.outside(&format!("cat d/f d/{aside} d/{aside}.2 {aside}")), "2\nagent\nagent\nagent\n");
    // and what the person has there is theirs
    project.outside("echo mine >.lbx-apply.mine");
    project.sh(&format!("rm {aside}; echo 3 >d/f; rm d/{aside}.1"));
    of_changes("lbx-apply", &project, &["-y"], &[]).assert().success().stderr("");
    assert_eq!(project.outside(&format!("cat .lbx-apply.mine d/f; ls -A . d | grep -c {aside}")), "mine\n3\n3\n");
}

#[test]
fn what_keeps_a_reader_waiting_keeps_nobody_waiting() {
    let project = Project::cow("for n in 1 2 3; do echo $n >$n; done; mkdir d");
    // where there was a file: a FIFO that nobody writes, a socket, a link to a FIFO, a loop of links
    project.sh("rm 1; mkfifo 1; rm 2; mkfifo d/fifo; ln -s d/fifo 2; rm 3; ln -s loop 3; ln -s 3 loop
         perl -e 'use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un(\"sock\")) or die'");
    within(Duration::from_secs(20), || {
        for form in [&["--patch"][..], &["--stat"], &["--json", "--digest"]] {
            of_changes("lbx-diff", &project, form, &[]).assert().code(1).stderr("");
        }
        let said = errors(of_changes("lbx-apply", &project, &["-y"], &[]).assert().code(1));
        for path in ["1", "d/fifo", "sock"] {
            assert!(said.contains(&format!("refused: '{path}': a ")), "{said}");
        }
    });
    assert_eq!(project.outside("cat 1; readlink 2 3 loop"), "1\nd/fifo\nloop\n3\n");
}

#[test]
fn a_tree_deeper_than_any_path_keeps_nothing_else_back() {
    if !only_at(&HERE, "far more calls than 9p under emulation makes in a while") {
        return;
    }
    let project = Project::cow("echo a >a; mkdir z");
    // as deep as one path reaches, and far deeper
    let deep = "import os\nfor top, count in (('deep', 1000), ('deeper', 3000)):\n  os.chdir(os.environ['LBX_PROJECT'])\n  \
        os.mkdir(top); os.chdir(top)\n  for n in range(count):\n    os.mkdir('d'); os.chdir('d')\n  open('f', 'w').close()";
    if !installed(&["python3"]) {
        return;
    }
    project.enter(["python3", "-c", deep]).assert().success();
    project.sh("echo b >a; echo b >z/b");
    within(Duration::from_secs(40), || {
        let lines = text(of_changes("lbx-diff", &project, &["--name-only"], &[]).assert().code(1).stderr(""));
        assert_eq!(lines.lines().count(), 4006);
        // what the kernel takes no path for is named, and the rest is done
        let apply = of_changes("lbx-apply", &project, &["-y"], &[]).assert().code(1);
        assert!(errors(apply).contains("too long"));
    });
    assert_eq!(project.outside("cat a z/b; find deep | wc -l"), "b\nb\n1002\n");
    assert!(!changes(&project).contains(" deep/"));
    project.must("stop");
    within(Duration::from_secs(20), || drop(of_changes("lbx-discard", &project, &["-y"], &[]).assert().success()));
    assert_eq!(changes(&project), "");
}

#[test]
fn a_hundred_thousand_entries_are_shown_applied_and_discarded() {
    if !only_at(&[Place::Local], "it is about how much, which is the same elsewhere") {
        return;
    }
    let project = Project::cow("mkdir old; cd old; seq 20000 | xargs touch");
    project.sh("rm -r old; mkdir -p new/dir; cd new; seq 40000 | xargs touch; cd dir; seq 40000 | xargs touch");
    within(Duration::from_secs(200), || {
        let count = |project: &Project| {
            let lines = of_changes("lbx-diff", project, &["--name-only"], &[]).assert().stderr("");
            lines.get_output().stdout.iter().filter(|byte| **byte == b'\n').count()
        };
        assert_eq!(count(&project), 100_003);
        of_changes("lbx-apply", &project, &["-y"], &["new/dir", "old"]).assert().success().stderr("");
        assert_eq!(project.outside("find . | wc -l; ls"), "40003\nnew\n");
        assert_eq!(count(&project), 40_000);
        project.must("stop");
        of_changes("lbx-discard", &project, &["-y"], &["new"]).assert().success().stderr("");
        assert_eq!(count(&project), 0);
    });
}

#[test]
fn what_is_swapped_all_the_while_leads_nowhere() {
    if !only_at(&HERE, "what writes is here") {
        return;
    }
    let project = Project::cow("echo 0 >log; echo 0 >turns; mkdir d; echo 0 >d/f; echo 0 >swapped");
    let script = "while :; do echo line >>log; head -c 3000000 /dev/zero >grows; rm grows; mkfifo grows; rm grows; ln -s \
        /etc/passwd grows; rm grows; rm -rf d; ln -s /etc d; rm d; mkdir d; echo 1 >d/f; ln -s /etc/shadow x; mv x swapped
        echo agent >y; mv y swapped; done";
    let words = project.enter_words(&["sh", "-c", script]);
    let mut writer = lbx_tests::std_command(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("lbx-enter runs");
    std::thread::sleep(Duration::from_millis(300));
    for round in 0..40 {
        let options: &[&str] = if round % 2 == 0 { &["-y"] } else { &["-y", "--force"] };
        let all = of_changes("lbx-apply", &project, options, &[]).output().expect("it runs");
        assert!(all.status.code().is_some_and(|code| code <= 1), "{all:?}");
        let seen = project.outside("find . -type l; cat swapped; [ ! -e d/f ] || cat d/f");
        for line in seen.lines() {
            assert!(["0", "1", "agent"].contains(&line), "{seen}");
        }
        let form = [&["--patch"][..], &["--json", "--digest"], &["--stat"]][round % 3];
        let shown = of_changes("lbx-diff", &project, form, &[]).output().expect("it runs");
        assert!(!String::from_utf8_lossy(&shown.stdout).contains("root:"), "{shown:?}");
    }
    writer.kill().expect("it is a child");
    writer.wait().expect("it is a child");
    assert_eq!(project.outside("ls -A | grep -c lbx-apply || :"), "0\n");
}

#[test]
fn a_commit_is_no_part_of_a_patch_that_git_takes() {
    if !installed(&["git"]) {
        return;
    }
    let project = Project::new();
    let git = "git -c user.name=n -c user.email=e@e -c init.defaultBranch=main";
    project.outside(&format!("{git} init -q .; echo 1 >f; {git} add .; {git} commit -qm first"));
    project.create(&["--project", "cow"]);
    project.sh(&format!("echo 2 >f; echo new >g; {git} add .; {git} commit -qm second"));
    let patch = of_changes("lbx-diff", &project, &["--patch"], &[]).assert().code(1);
    let patch = patch.stderr("lbx-diff: left out: what is in .git, of which git applies nothing\n");
    let patch = patch.get_output().stdout.clone();
    let mut apply = lbx_tests::command("git");
    apply.arg("apply").current_dir(project.path()).write_stdin(patch).assert().success();
    assert_eq!(project.outside("cat f g; git log --format=%s"), "2\nnew\nfirst\n");
}
