//! `lbx-apply` and `lbx-discard`: what was changed inside a copy-on-write project comes out as far as the
//! person wants it, and nothing of theirs is lost.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lbx_tests::place::HERE;
use lbx_tests::review::{PICTURE, of_changes};
use lbx_tests::{
    Command, Killing, Place, Project, Pty, User, errors, eventually, installed, near, only_at, place, scaled, text,
    tool, tool_file,
};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Everything about the project, but for when it was read.
const WHOLE: &str = "find . -printf '%p %y %m %U %G %n %i %s %C@ %T@ %l\\n' | sort; find . -type f -print0 | sort -z |
    xargs -0r sha256sum";

/// `lbx-apply OPTIONS ENV PATHS`
fn apply(env: impl AsRef<OsStr>, options: &[&str], paths: &[&str]) -> Command {
    of_changes("lbx-apply", env, options, paths)
}

/// What `lbx-diff` prints with `options`.
fn diff(env: impl AsRef<OsStr>, options: &[&str]) -> Vec<u8> {
    let mut command = tool("lbx-diff");
    command.args(options).arg("--").arg(env).output().expect("lbx-diff runs").stdout
}

fn lines(project: &Project) -> String {
    String::from_utf8_lossy(&diff(project, &[])).replace('\t', " ")
}

const LAID_OUT: &str =
    "mkdir -p src/deep empty gone/sub; for f in src/a src/b src/deep/c src/run gone/x gone/sub/y same todir; do
    echo $f >$f; done; chmod 750 src/run; ln -s src/a link; ln src/b hard; mkdir tofile; echo x >tofile/x";
const SESSION: &str = "echo more >>src/a; echo new >made; mkdir -p dir/below; echo x >dir/below/file; rm src/deep/c
    mv src/b src/moved; chmod 600 src/run; rm link; ln -s made link; rm -r empty; mkdir empty; echo in >empty/now
    rm -r gone; rm -r tofile; echo f >tofile; rm todir; mkdir todir; echo t >todir/t; chmod 700 src; ln made made2
    mkdir shut; echo s >shut/s; chmod 555 shut; ln -s ../made dir/up; touch same; truncate -s 9M sparse; echo e >>sparse";

#[test]
fn what_was_changed_inside_comes_out_whole_and_nothing_before_that() {
    let project = Project::cow(LAID_OUT);
    let before = project.outside(WHOLE);
    project.sh(SESSION);
    let seen = project.sh(PICTURE);
    assert_eq!(project.outside(WHOLE), before, "a session");
    let plan = text(apply(&project, &["--dry-run"], &[]).assert().success().stderr(""));
    assert_eq!(project.outside(WHOLE), before, "a plan");
    assert!(plan.contains("make directory 0755 dir/below\n") && plan.contains("set mode 0700 src\n"), "{plan}");
    apply(&project, &["-y"], &[]).assert().success().stdout("").stderr("");
    assert_eq!(project.outside(PICTURE), seen);
    assert_eq!(lines(&project), "");
    assert_eq!(project.sh(PICTURE), seen, "inside it is as it was");
    let applied = project.outside(WHOLE);
    apply(&project, &["-y"], &[]).assert().success().stderr("");
    assert_eq!(project.outside(WHOLE), applied, "once is enough");
    project.must("stop");
    assert_eq!(project.sh(PICTURE), seen, "after a stop");
}

#[test]
fn a_part_comes_out_and_no_more_than_that_however_it_is_named() {
    let session = "echo more >>src/a; rm src/deep/c; mkdir -p new/dir; echo x >new/dir/x; echo y >new/y; echo z >z";
    let part = "A new/\nA new/dir/\nA new/dir/x\nA new/y\nA z\n";
    for (options, input) in [
        (&[][..], &[][..]),
        (&[], &["-z"][..]),
        (&[], &["--json"]),
        (&[], &[""]),
        (&[], &["--name-only"]),
        (&["-0"], &["-z", "--name-only"]),
    ] {
        let project = Project::cow(LAID_OUT);
        project.sh(session);
        let mut command = match input {
            [] => apply(&project, options, &["src/deep/", "./src/a"]),
            _ => {
                let input: Vec<&str> = input.iter().copied().filter(|word| !word.is_empty()).collect();
                let mut list = tool("lbx-diff");
                list.args(&input).arg("--").arg(project.path()).arg("src");
                let mut command = apply(&project, options, &["-"]);
                command.write_stdin(list.output().unwrap().stdout);
                command
            }
        };
        command.assert().success().stderr("");
        assert_eq!(lines(&project), part, "{options:?} {input:?}");
        apply(&project, &[], &["new/dir/x"]).assert().success();
        assert_eq!(lines(&project), "A new/y\nA z\n", "with the directories on the way");
        apply(&project, &[], &["-"]).write_stdin("").assert().success();
        apply(&project, &[], &["nothing"]).assert().success().stderr(contains("nothing was changed: 'nothing'"));
        apply(&project, &[], &["../x"]).assert().code(2).stderr(contains("not in the project"));
        apply(&project, &[], &["-", "x"]).assert().code(2);
        apply(&project, &[], &["-"])
            .write_stdin("{\"nonsense\n")
            .assert()
            .code(1)
            .stderr(contains("cannot understand"));
        assert_eq!(lines(&project), "A new/y\nA z\n");
        // what was left out of a list stays out, though its directory is in it
        project.sh("mkdir more; echo 1 >more/1; echo 2 >more/2");
        let list: Vec<u8> = diff(&project, &[])
            .split_inclusive(|b| *b == b'\n')
            .filter(|l| !l.ends_with(b"2\n"))
            .collect::<Vec<_>>()
            .concat();
        apply(&project, &[], &["-"]).write_stdin(list).assert().success();
        assert_eq!(lines(&project), "A more/2\n");
    }
}

#[test]
fn what_both_sides_changed_is_named_and_left_alone() {
    let project = Project::cow(LAID_OUT);
    project.sh("for f in src/a same src/run; do echo inside >>$f; done; rm gone/x; echo inside >new; echo inside >mine; ln -s a l");
    project.outside("for f in src/a gone/x new l; do echo outside >>$f; done; rm same");
    let before = project.outside("cat src/a gone/x new l; ! ls same 2>/dev/null");
    let assert = apply(&project, &["-y"], &[]).assert().code(1).stdout("");
    let said = errors(assert);
    for path in ["gone/x", "l", "new", "src/a"] {
        assert!(said.contains(&format!("lbx-apply: conflict: '{path}': changed in the project, too\n")), "{said}");
    }
    assert!(said.contains("lbx-apply: conflict: 'same': gone from the project\n"), "{said}");
    assert!(
        said.ends_with("hint: --force takes the environment's, --merge merges files, lbx-discard drops it\n"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 6, "{said}");
    assert_eq!(project.outside("cat src/a gone/x new l; ! ls same 2>/dev/null"), before);
    assert_eq!(project.outside("cat mine; tail -n 1 src/run"), "inside\ninside\n", "the rest is applied");
    // what was applied is no conflict with what is changed later
    project.sh("echo again >mine");
    apply(&project, &[], &["mine"]).assert().success();
    project.outside("echo outside >mine");
    project.sh("echo once more >mine");
    apply(&project, &[], &["mine"]).assert().code(1);
    if place() == Place::Lima {
        // what its host removes, 9p takes for something that is in the way
        project.outside("echo outside >same");
    }
    apply(&project, &["--force", "-y"], &[]).assert().success().stderr("");
    assert_eq!(project.outside(PICTURE), project.sh(PICTURE));
}

#[test]
fn a_directory_in_which_the_person_made_something_is_not_removed() {
    let project = Project::cow(LAID_OUT);
    project.sh("rm -r gone tofile; echo f >tofile");
    project.outside("echo mine >gone/sub/mine; echo mine >tofile/mine");
    apply(&project, &["-y"], &[]).assert().code(1).stderr(contains("'gone/sub'").and(contains("'tofile'")));
    assert_eq!(project.outside("cat gone/sub/mine tofile/mine"), "mine\nmine\n");
    apply(&project, &["-y", "--force"], &[]).assert().success();
    assert_eq!(project.outside(PICTURE), project.sh(PICTURE));
}

#[test]
fn files_that_both_sides_changed_are_merged_where_git_holds_what_they_were() {
    if !installed(&["git"]) {
        return;
    }
    let project = Project::new();
    let commit = "git -c user.name=x -c user.email=x@x commit -qm x";
    project.outside(&format!("git init -q .; seq 9 >f; seq 9 >g; git add .; {commit}; seq 9 >untracked; sleep 2"));
    project.create(&["--project", "cow"]);
    project.sh("for f in f g untracked; do sed -i 's/^2$/inside/' $f; done");
    project.outside(&format!(
            "sed -i 's/^8$/outside/' f untracked; sed -i 's/^2$/outside/' g; git commit -q -a -m y --author 'x <x@x>' -c x 2>/dev/null || {commit} -a"
        ),
    );
    let said = errors(apply(&project, &["-y", "--merge"], &[]).assert().code(1));
    assert!(
        said.contains("conflict: 'g': changed in the project, too, and cannot be merged: both changed the same lines"),
        "{said}"
    );
    assert!(
        said.contains("conflict: 'untracked': changed in the project, too, and cannot be merged: git does not hold"),
        "{said}"
    );
    assert_eq!(project.read("f"), "1\ninside\n3\n4\n5\n6\n7\noutside\n9\n");
    assert!(project.read("g").contains("outside") && project.read("untracked").contains("outside"));
    // that it is there is no leave to overwrite the person's part
    apply(&project, &["-y"], &["f"]).assert().code(1);
    apply(&project, &["-y", "--merge"], &["f"]).assert().success();
    assert_eq!(project.read("f"), "1\ninside\n3\n4\n5\n6\n7\noutside\n9\n");
}

#[test]
fn all_is_applied_after_a_question_and_elsewhere_with_a_word() {
    let project = Project::cow(LAID_OUT);
    project.sh("echo 1 >one; echo 2 >two");
    apply(&project, &[], &[]).assert().code(1).stderr(contains("no terminal").and(contains("hint: -y")));
    let words = |name: &str| [tool_file(name).into_os_string(), project.path().into()];
    let mut pty = Pty::run(&words("lbx-apply"));
    pty.expect("Apply 2 changes to");
    pty.send("\r");
    assert_eq!(pty.wait().code(), Some(1));
    assert_eq!(lines(&project), "A one\nA two\n");
    let mut pty = Pty::run(&words("lbx-apply"));
    pty.expect("[y/N]");
    pty.send("y\r");
    assert_eq!(pty.wait().code(), Some(0));
    assert_eq!(lines(&project), "");
    project.sh("echo 3 >three");
    of_changes("lbx-discard", &project, &[], &["three"]).assert().code(1).stderr(contains("hint: -y"));
    project.must("stop");
    let mut pty = Pty::run(&words("lbx-discard"));
    pty.expect("Discard 1 change of");
    pty.send("y\r");
    assert_eq!(pty.wait().code(), Some(0));
    assert_eq!(lines(&project), "");
}

#[test]
fn what_is_discarded_is_as_the_project_has_it() {
    let project = Project::cow(LAID_OUT);
    let seen = project.sh(PICTURE);
    project.sh(SESSION);
    let discard = |paths: &[&str]| of_changes("lbx-discard", &project, &["-y"], paths);
    discard(&[]).assert().code(1).stderr(contains("hint: lbx-env stop"));
    project.must("stop");
    let count = lines(&project).lines().count();
    discard(&["made", "src/a"]).assert().success();
    assert_eq!(lines(&project).lines().count(), count - 2);
    discard(&["-"]).write_stdin("").assert().success();
    assert_eq!(lines(&project).lines().count(), count - 2);
    // a directory of a list goes when all in it does
    let list = lines(&project).replace(' ', "\t");
    let of_dir: String = list.split_inclusive('\n').filter(|l| l.contains("\tdir/") && !l.contains("up")).collect();
    discard(&["-"]).write_stdin(of_dir).assert().success();
    assert!(lines(&project).contains("A dir/\nA dir/up\n"), "{}", lines(&project));
    discard(&["-"]).write_stdin(diff(&project, &["--json"])).assert().success();
    assert_eq!(lines(&project), "");
    assert_eq!(project.sh(PICTURE), seen);
}

#[test]
fn names_of_one_file_that_were_all_changed_are_no_conflict() {
    if !only_at(&HERE, "9p knows no file by its names") {
        return;
    }
    let project = Project::cow("for f in a c e; do echo $f >$f; done; ln a b; ln c d; ln e f");
    project.sh("echo x >>a; echo y >>b; rm c d; chmod 600 e; rm f");
    let seen = project.sh(PICTURE);
    apply(&project, &["-y"], &[]).assert().success().stderr("");
    assert_eq!(project.outside(PICTURE), seen);
    assert_eq!(lines(&project), "");
}

#[test]
fn what_leads_out_and_what_is_no_file_must_be_named() {
    let project = Project::cow("mkdir d");
    project.sh("ln -s /etc/passwd out; ln -s ../../x d/up; ln -s ../x d/in; mkfifo fifo; ln -s \"$PWD/d\" own");
    let said = errors(apply(&project, &["-y"], &[]).assert().code(1));
    for path in ["out", "d/up", "fifo"] {
        assert!(said.contains(&format!("refused: '{path}'")), "{said}");
    }
    assert_eq!(lines(&project), "A d/up\nA fifo\nA out\n");
    apply(&project, &[], &["-"]).write_stdin(diff(&project, &["-z"])).assert().code(1);
    assert_eq!(lines(&project), "A d/up\nA fifo\nA out\n", "a list is no name on the command line");
    apply(&project, &[], &["out", "d/up"]).assert().success().stderr("");
    let fifo = apply(&project, &[], &["fifo"]).assert();
    if place() == Place::Lima {
        // 9p makes none
        fifo.code(1).stderr(contains("cannot apply 'fifo'"));
        assert_eq!(lines(&project), "A fifo\n");
    } else {
        fifo.success().stderr("");
        assert_eq!(lines(&project), "");
    }
    assert_eq!(std::fs::read_link(project.path().join("out")).unwrap(), Path::new("/etc/passwd"));
}

#[test]
fn a_hostile_name_is_shown_escaped_and_applied_as_it_is() {
    let project = Project::cow("mkdir d");
    project.sh("touch -- \"d/$(printf 'a\\n\\033[2Jb')\" \"$(printf '\\377')\" '-y' \"$(printf 'A\\tx')\" '\"q\"' '{j}'; echo x >x");
    project.outside("echo mine >\"d/$(printf 'a\\n\\033[2Jb')\"");
    let said = errors(apply(&project, &["-y", "-v"], &[]).assert().code(1));
    assert!(said.contains("conflict: 'd/a\\n\\u{1b}[2Jb'"), "{said}");
    assert!(!said.contains('\u{1b}'), "{said}");
    apply(&project, &["--force"], &["-"]).write_stdin(diff(&project, &[])).assert().success();
    assert_eq!(lines(&project), "");
    for options in [&[][..], &["--json"], &["-z"], &["--name-only"]] {
        project.sh("for f in ./* d/*; do [ -d \"$f\" ] || echo more >>\"$f\"; done");
        apply(&project, &[], &["-"]).write_stdin(diff(&project, options)).assert().success().stderr("");
        assert_eq!(lines(&project), "", "{options:?}");
        assert_eq!(project.outside(PICTURE), project.sh(PICTURE));
    }
}

#[test]
fn what_is_applied_belongs_to_the_person_and_nobody_else_applies_it() {
    if !only_at(&[Place::Local], "sudo says who calls where it is run") {
        return;
    }
    let (ada, bob) = (User::sudoer(), User::sudoer());
    let project = Project::owned_by(&ada);
    std::fs::write(project.path().join("set-id"), "x").unwrap();
    std::os::unix::fs::chown(project.path().join("set-id"), Some(ada.uid), Some(ada.gid)).unwrap();
    std::fs::set_permissions(project.path().join("set-id"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    let as_sudo = |user: &User, tool_name: &str| {
        let mut command = tool(tool_name);
        // as sudo says who calls
        command.env("SUDO_UID", user.uid.to_string()).env("SUDO_GID", user.gid.to_string());
        command
    };
    let mut create = as_sudo(&ada, "lbx-env");
    create.args(["create", "--project", "cow", "--"]).arg(project.path()).assert().success();
    project.sh("mkdir d; echo x >d/f; ln -s f d/l; mkfifo d/p; echo y >>set-id; chmod 640 d/f");
    as_sudo(&bob, "lbx-apply").arg("-y").arg(project.path()).assert().code(1).stderr(contains("not to you"));
    assert!(!project.path().join("d").exists());
    as_sudo(&ada, "lbx-apply").arg("-y").arg(project.path()).assert().code(1);
    as_sudo(&ada, "lbx-apply").arg(project.path()).arg("d/p").assert().success();
    for file in ["d", "d/f", "d/l", "d/p", "set-id"] {
        let meta = project.path().join(file).symlink_metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), (ada.uid, ada.gid), "{file}");
        assert_eq!(meta.mode() & 0o7000, 0, "{file}");
    }
    // root applies for the owner
    project.sh("echo z >z");
    apply(&project, &["-y"], &[]).assert().success();
    assert_eq!(project.path().join("z").metadata().unwrap().uid(), ada.uid);
}

#[test]
fn an_environment_without_a_layer_has_nothing_to_apply() {
    let project = Project::new();
    project.create(&[]);
    let hint = "hint: lbx-env set --project cow";
    apply(&project, &["-y"], &[]).assert().code(1).stderr(contains("nothing to apply").and(contains(hint)));
}

#[test]
fn a_run_that_is_killed_at_any_instant_is_ended_by_the_next() {
    if !only_at(&HERE, "what is killed is here") {
        return;
    }
    let limit = Instant::now() + scaled(Duration::from_secs(20));
    let mut killing = Killing::default();
    for _ in 0..60 {
        let project = Project::cow(
            "mkdir -p old/sub mod; for n in $(seq 150); do echo $n >old/$n; echo $n >old/sub/$n; echo $n >mod/$n; done",
        );
        project.sh(
            "rm -r old; mkdir -p new/sub; for n in $(seq 150); do echo x$n >new/$n; echo x$n >new/sub/$n; echo x$n >mod/$n; done
             chmod 555 new/sub; rm mod/1; mkdir mod/1; echo x >mod/1/x; ln -s 2 mod/l",
        );
        let seen = project.sh(PICTURE);
        let mut command = lbx_tests::std_command(tool_file("lbx-apply"));
        command.args(["-y", "--"]).arg(project.path()).stderr(Stdio::null());
        while killing.kill(&mut command) {}
        // a program that it was about to run has its lock for a moment longer
        eventually("nobody is at work any more", || {
            let again = apply(&project, &["-y"], &[]).output().expect("it runs");
            let said = String::from_utf8_lossy(&again.stderr).into_owned();
            assert!(said.is_empty() || said.contains("is at work"), "{said}");
            again.status.success()
        });
        assert_eq!(project.outside(PICTURE), seen, "{killing:?}");
        assert_eq!(lines(&project), "");
        if killing.killed > 10 && Instant::now() > limit {
            break;
        }
    }
    assert!(killing.killed > 10, "{killing:?}");
}

#[test]
fn a_run_that_is_killed_before_any_change_is_ended_by_the_next() {
    if !only_at(&[Place::Local], "strace kills here") || !installed(&["strace"]) {
        return;
    }
    for call in ["mkdirat", "renameat2", "unlinkat", "write", "ftruncate", "fchmodat"] {
        for when in 1..100 {
            let project = Project::cow("echo 1 >file; mkdir dir; echo 1 >dir/x; echo 1 >changed");
            project.sh(
                "rm file; mkdir -p file/sub; echo 2 >file/x; rm -r dir; echo 2 >dir; echo 2 >changed; echo 2 >made",
            );
            let seen = project.sh(PICTURE);
            let inject = format!("inject={call}:signal=KILL:when={when}");
            let mut strace = lbx_tests::command("strace");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &inject]).arg(tool_file("lbx-apply")).arg("-y");
            let killed = !strace.arg("--").arg(project.path()).output().expect("it runs").status.success();
            assert_eq!(errors(apply(&project, &["-y"], &[]).assert().success()), "", "{inject}");
            assert_eq!(project.outside(PICTURE), seen, "{inject}");
            assert_eq!(lines(&project), "", "{inject}");
            if !killed {
                break;
            }
        }
    }
}

#[test]
fn a_directory_that_is_swapped_for_a_link_meanwhile_is_not_followed() {
    if !only_at(&[Place::Local], "the race is run here") {
        return;
    }
    let victim = Project::named("victim");
    victim.write("precious", "kept");
    let project = Project::cow("mkdir d; for n in $(seq 50); do echo $n >d/$n; done");
    project.sh("rm d/?; for n in $(seq 10 90); do echo x >d/$n; done; echo x >d/precious");
    symlink(victim.path(), project.path().join("link")).unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let (dir, link, told) = (project.path().join("d"), project.path().join("link"), ended.clone());
    let swapping = std::thread::spawn(move || {
        while !told.load(Ordering::Relaxed) {
            renameat_with(CWD, &dir, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            std::thread::sleep(Duration::from_micros(150));
        }
    });
    for _ in 0..40 {
        let _ = apply(&project, &["-y", "--force"], &[]).output().unwrap();
    }
    ended.store(true, Ordering::Relaxed);
    swapping.join().unwrap();
    assert_eq!(near(&format!("ls -A '{}'", victim.str())), "precious\n");
    assert_eq!(victim.read("precious"), "kept");
}

#[test]
fn one_at_a_time_applies() {
    if !only_at(&HERE, "the lock is held here") {
        return;
    }
    let project = Project::cow("");
    project.sh("echo x >x");
    let dir = std::fs::File::open(Path::new("/var/lib/llima-box/envs").join(project.name()).join("project")).unwrap();
    rustix::fs::flock(&dir, rustix::fs::FlockOperation::LockExclusive).unwrap();
    apply(&project, &["-y"], &[]).assert().code(1).stderr(contains("another lbx-apply"));
    drop(dir);
    apply(&project, &["-y"], &[]).assert().success();
}

/// A shell inside that stays.
struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    fn of(env: impl AsRef<OsStr>) -> Session {
        let mut child = lbx_tests::std_command(tool_file("lbx-enter"))
            .arg(env)
            .args(["--", "sh"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Session { child, input, output }
    }

    /// Runs `script`, whatever comes of it, and returns what it prints.
    fn run(&mut self, script: &str) -> String {
        writeln!(self.input, "cd \"$LBX_PROJECT\"\n{script}\necho '=end'").unwrap();
        let mut text = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the session ended: {script}");
            if line == "=end\n" {
                return text;
            }
            text.push_str(&line);
        }
    }

    fn end(self) {
        let Session { mut child, input, .. } = self;
        drop(input);
        child.wait().unwrap();
    }
}

/// What lies at each path: its kind, mode, and content or target.
type Tree = BTreeMap<String, String>;

/// A line each: what lies at a path, and below `./` what is in a file.
const TREE: &str =
    "find . -mindepth 1 -type l -printf '%P l %l\\n' -o -mindepth 1 -printf '%P %y %m\\n'; grep -rs '' . || :";

fn tree(text: &str) -> Tree {
    let mut tree = Tree::new();
    for line in text.lines() {
        match line.strip_prefix("./").and_then(|line| line.split_once(':')) {
            Some((path, content)) => *tree.entry(path.to_owned()).or_default() += &format!(" {content}"),
            None => {
                let (path, what) = line.split_once(' ').expect("a path, and what it is");
                tree.insert(path.to_owned(), what.to_owned());
            }
        }
    }
    tree
}

/// What `lbx-diff --json` printed, but for where it lies.
fn unlayered(text: &[u8]) -> Vec<serde_json::Value> {
    let text = String::from_utf8_lossy(text);
    let objects = text.lines().map(|line| serde_json::from_str(line).unwrap());
    objects
        .map(|mut object: serde_json::Value| {
            object.as_object_mut().unwrap().remove("layer");
            object
        })
        .collect()
}

/// Numbers that come again with the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }
}

const PATHS: [&str; 12] = ["a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a", "d/e/b", "f", "f/a", "f/g/a"];

/// Something that an agent does; it may fail, as it may in life.
fn deed(random: &mut Random, count: usize) -> String {
    let (one, other) = (random.of(&PATHS), random.of(&PATHS));
    match random.below(12) {
        0..=2 => format!("echo agent{count} >{one}"),
        3 => format!("rm -rf {one}; mkdir -p $(dirname {one}); echo agent{count} >{one}"),
        4 => format!("rm -rf {one}"),
        5 => format!("rm -rf {one}; mkdir -p {one}"),
        6 => format!("mkdir -p {one}; echo agent{count} >{one}/a"),
        7 => format!("mv {one} {other}"),
        8 => format!("rm -f {one}; ln -s {} {one}", random.of(&["a", "b", "e/a", "../a", "/etc/passwd"])),
        // of a directory that is shut, the shell that looks sees nothing
        9 => format!(
            "[ -d {one} ] && chmod {} {one} || chmod {} {one}",
            random.of(&["700", "750"]),
            random.of(&["600", "755"])
        ),
        10 => format!("ln {one} {other}"),
        _ => format!("echo agent{count} >.new; mv .new {one}"),
    }
}

/// Something that the person does outside.
fn persons_deed(random: &mut Random, count: usize) -> String {
    let one = random.of(&PATHS);
    match random.below(6) {
        0..=1 => format!("[ ! -f {one} ] || echo person{count} >{one}"),
        2 => format!("mkdir -p $(dirname {one}) && echo person{count} >.mine && mv -T .mine {one}; rm -f .mine"),
        3 => format!("rm -f {one}"),
        4 => format!("mkdir -p {one}; echo person{count} >{one}/mine{count}"),
        _ => format!("mv {one} moved{count}"),
    }
}

/// What was seen when a snapshot was made: a fork or a restored environment shows it again, over the same project.
struct Kept {
    tag: String,
    inside: Tree,
    outside: Tree,
}

/// What came of all sequences.
#[derive(Debug, Default)]
struct Counts {
    sequences: u64,
    deeds: usize,
    applied: usize,
    left: usize,
    saved: usize,
    restored: usize,
    forked: usize,
}

/// Deeds on both sides of one project.
struct Sequence {
    random: Random,
    project: Project,
    session: Option<Session>,
    /// What the person wrote and nobody has taken from them.
    persons_files: Tree,
    /// Whether the project was changed other than by what the environment shows: a file that was changed inside
    /// and then renamed outside, overlayfs takes for one file of two names, even where it is mounted anew.
    is_disturbed: bool,
    kept: Vec<Kept>,
}

impl Sequence {
    fn new(seed: u64) -> Sequence {
        let project = Project::cow("mkdir -p d/e f; for p in a b d/a d/e/a f/a; do echo old >$p; done; ln -s a c");
        Sequence {
            random: Random(seed | 1),
            session: Some(Session::of(&project)),
            project,
            persons_files: Tree::new(),
            is_disturbed: false,
            kept: Vec::new(),
        }
    }

    fn stop(&mut self) {
        if let Some(session) = self.session.take() {
            session.end();
        }
        self.project.must("stop");
    }

    fn outside(&self) -> Tree {
        tree(&self.project.outside(TREE))
    }

    fn inside(&mut self) -> Tree {
        tree(&self.session.get_or_insert_with(|| Session::of(&self.project)).run(TREE))
    }

    /// `lbx-env VERB`, of the environment while it does not run.
    fn stopped(&mut self, verb: &[&str]) {
        self.stop();
        let mut command = self.project.env_tool(verb[0]);
        command.arg("--").arg(self.project.path()).args(&verb[1..]).assert().success();
    }

    /// Between one and eight deeds of an agent, as a script.
    fn deeds(&mut self, counts: &mut Counts) -> String {
        let number = self.random.below(8) + 1;
        let first = counts.deeds;
        counts.deeds += number;
        let deeds: Vec<String> = (first..counts.deeds).map(|count| deed(&mut self.random, count)).collect();
        format!("umask 022\n{}", deeds.join("\n"))
    }

    /// What the person does outside.
    fn persons_deeds(&mut self, deeds: &[String]) {
        let script = format!("umask 022; cd '{}'\n{}\n:", self.project.str(), deeds.join("\n"));
        let was = self.outside();
        lbx_tests::command("sh").args(["-c", &script]).assert().success();
        let is = self.outside();
        self.persons_files.retain(|path, what| is.get(path) == Some(what));
        let written = |(path, what): &(&String, &String)| what.contains(" person") && was.get(*path) != Some(what);
        self.persons_files.extend(is.iter().filter(written).map(|(path, what)| (path.clone(), what.clone())));
    }

    /// Deeds on both sides and, `with_snapshots`, what may be done between; then an apply.
    fn round(&mut self, with_snapshots: bool, counts: &mut Counts, told: &str) {
        let script = self.deeds(counts);
        let before = self.random.below(2) == 0;
        let mut persons = Vec::new();
        for _ in 0..self.random.below(4) {
            counts.deeds += 1;
            self.is_disturbed = true;
            persons.push(persons_deed(&mut self.random, counts.deeds));
        }
        let told =
            &format!("{told}\n inside: {script}\n outside ({}): {persons:#?}", if before { "first" } else { "then" });
        if before {
            self.persons_deeds(&persons);
        }
        self.session.get_or_insert_with(|| Session::of(&self.project)).run(&script);
        if !before {
            self.persons_deeds(&persons);
        }
        if with_snapshots && self.random.below(3) > 0 {
            self.save(counts, told);
        }
        if with_snapshots && self.random.below(4) == 0 {
            self.restore(counts, told);
        }
        let inside = self.inside();
        self.apply(&self.project.name(), &inside, counts, told);
        if with_snapshots && self.random.below(4) == 0 {
            self.fork(counts, told);
        }
    }

    fn save(&mut self, counts: &mut Counts, told: &str) {
        let tag = format!("t{}", self.kept.len());
        let (seen, changes) = (self.inside(), unlayered(&diff(&self.project, &["--json"])));
        self.stopped(&["save", &tag]);
        counts.saved += 1;
        assert_eq!(unlayered(&diff(&self.project, &["--json"])), changes, "snapshot {tag}\n{told}");
        // what was done below an overlay may show when it is mounted anew alone
        let inside = self.inside();
        assert!(self.is_disturbed || inside == seen, "after snapshot {tag}\n{told}\n{seen:#?}\n{inside:#?}");
        let outside = self.outside();
        self.kept.push(Kept { tag, inside, outside });
    }

    fn restore(&mut self, counts: &mut Counts, told: &str) {
        let number = self.random.below(self.kept.len().max(1));
        let Some(tag) = self.kept.get(number).map(|kept| kept.tag.clone()) else { return };
        self.stopped(&["restore", &tag]);
        counts.restored += 1;
        let (inside, outside) = (self.inside(), self.outside());
        let kept = &self.kept[number];
        let same = self.is_disturbed || outside != kept.outside || inside == kept.inside;
        assert!(same, "restored {tag}\n{told}\n{:#?}\n{inside:#?}", kept.inside);
    }

    /// Forks the environment, or a snapshot of it, and applies what is done in the fork.
    fn fork(&mut self, counts: &mut Counts, told: &str) {
        let number = self.random.below(self.kept.len() + 1);
        let (from, seen, lay) = match self.kept.get(number) {
            Some(Kept { tag, inside, outside }) => {
                (format!("{}@{tag}", self.project.name()), inside.clone(), outside.clone())
            }
            None => {
                self.stop();
                // as it is where it is mounted anew
                let (inside, outside) = (self.inside(), self.outside());
                self.stop();
                (self.project.name(), inside, outside)
            }
        };
        let create = self.project.env_tool("create").args(["--name", "fork", "--from", &from]).assert().success();
        counts.forked += 1;
        let name = text(create).trim_end().to_owned();
        let mut session = Session::of(&name);
        let inside = tree(&session.run(TREE));
        let same = self.is_disturbed || self.outside() != lay || inside == seen;
        assert!(same, "fork of {from}\n{told}\n{seen:#?}\n{inside:#?}");
        let script = self.deeds(counts);
        session.run(&script);
        let inside = tree(&session.run(TREE));
        self.apply(&name, &inside, counts, &format!("{told}\n fork of {from}: {script}"));
        self.is_disturbed = true;
        session.end();
        self.project.env_tool("delete").arg(&name).assert().success();
    }

    /// Applies all of environment `name`, whose `inside` is this: what was applied is as it is there, what the person wrote
    /// is there, and all else as it was.
    fn apply(&self, name: &str, inside: &Tree, counts: &mut Counts, told: &str) {
        let was = self.outside();
        let changes: Vec<serde_json::Value> = String::from_utf8_lossy(&diff(name, &["--json"]))
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let output = apply(name, &["-y"], &[]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let is = self.outside();
        let mut left = 0;
        for change in &changes {
            let path = change["path"].as_str().unwrap();
            let (conflict, named) = (change["conflict"] == true, said.contains(&format!("'{path}'")));
            if conflict || named {
                left += 1;
                let kept = is.get(path) == was.get(path);
                assert!(kept, "{path} was left, but is another\n{told}\n{said}\n{was:#?}\n{is:#?}");
                assert!(named, "{path} is in conflict, and nobody says so\n{told}\n{said}");
            } else {
                counts.applied += 1;
                let same = is.get(path) == inside.get(path)
                    || self.is_disturbed && is.get(path) == in_layer(name, change).get(path);
                assert!(same, "{path} is not what it is inside\n{told}\n{said}\n{inside:#?}\n{is:#?}");
            }
        }
        counts.left += left;
        for (path, what) in &was {
            let is_change = changes.iter().any(|change| change["path"] == path.as_str());
            if !is_change || self.persons_files.get(path) == Some(what) {
                assert_eq!(is.get(path), Some(what), "{path}\n{told}\n{said}\n{changes:#?}");
            }
        }
        for path in is.keys().filter(|path| !was.contains_key(*path)) {
            assert!(inside.contains_key(path), "{path} came from nowhere\n{told}\n{said}");
        }
        assert_eq!(output.status.code(), Some(i32::from(left > 0 || !said.is_empty())), "{told}\n{said}");
    }
}

/// The layer of environment `name` that holds `change`.
fn in_layer(name: &str, change: &serde_json::Value) -> Tree {
    let dir = match change["layer"].as_str() {
        Some(frozen) => format!("layers/{frozen}"),
        None => format!("envs/{name}/project"),
    };
    tree(&lbx_tests::host(&format!("cd /var/lib/llima-box/{dir}/upper; {TREE}")))
}

/// Sequences of deeds on both sides, as many as fit into the time: what the person wrote is there after
/// an apply, what was applied is as it is inside, and all else as it was. Every other sequence is one with
/// snapshots, and with forks.
#[test]
fn whatever_both_sides_do_nothing_of_the_persons_is_lost() {
    if !only_at(&[Place::Local], "it is about files, wherever they are") {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("LBX_TEST_SEED").unwrap_or(0x1b0c_5eed);
    let most = number("LBX_TEST_SEQUENCES");
    let limit = Instant::now() + Duration::from_secs(if most.is_some() { 86400 } else { 25 });
    let mut counts = Counts::default();
    while Instant::now() < limit && most.is_none_or(|most| counts.sequences < most) {
        let number = counts.sequences;
        let mut sequence = Sequence::new(seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        for round in 0..4 {
            let told = format!("seed {seed}, sequence {number}, round {round}");
            sequence.round(number % 2 == 1, &mut counts, &told);
        }
        sequence.stop();
        counts.sequences += 1;
    }
    eprintln!("{counts:?}");
    let Counts { sequences, applied, left, saved, restored, forked, .. } = counts;
    assert!(sequences > 3 && applied > 20 && left > 5 && saved > 2 && restored + forked > 1, "{counts:?}");
}
