//! `lbx-diff`: what was changed inside a copy-on-write project, and what was changed outside meanwhile.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use lbx_tests::machine::write;
use lbx_tests::place::HERE;
use lbx_tests::{
    Command, Place, Project, Pty, User, command, errors, host, installed, near, only_at, place, std_command, text,
    tool, tool_file,
};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::{Value, json};

/// `lbx-diff WORDS PROJECT`
fn diff(project: &Project, words: &[&str]) -> Command {
    let mut command = tool("lbx-diff");
    command.args(words).arg("--").arg(project.path());
    command
}

/// What differs, as lines, of which there are some.
fn changes(project: &Project, words: &[&str]) -> String {
    text(diff(project, words).assert().code(1).stderr(""))
}

/// What differs, as objects.
fn objects(project: &Project, words: &[&str]) -> Vec<Value> {
    let lines = changes(project, &[&["--json"], words].concat());
    lines.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The paths that are in conflict.
fn conflicts(project: &Project) -> Vec<String> {
    let of = |object: &Value| object["path"].as_str().expect("a path").to_owned();
    objects(project, &[]).iter().filter(|object| object["conflict"] == true).map(of).collect()
}

#[test]
fn every_kind_of_change_has_its_letter() {
    let project = Project::cow(
        "mkdir -p src/deep gone/sub opaque kept emptied; for f in mod del mode src/deep/f gone/g gone/sub/h same opaque/o \
         opaque/o2 tofile/x kept/k emptied/e; do mkdir -p $(dirname $f); echo $f >$f; done; echo x >todir; ln -s mod link
         ln -s mod kept/link; echo hard >hard1; ln hard1 hard2; truncate -s 1M sparse; mkfifo fifo",
    );
    diff(&project, &[]).assert().success().stdout("").stderr("");
    project.sh(
        "echo more >>mod; rm del; chmod 755 mode; echo new >new; mkdir -p dir/below; rm -r gone; rm -r opaque; mkdir opaque
         echo opaque/o >opaque/o; echo n >opaque/n; rm -r tofile; echo f >tofile; rm todir; mkdir todir; echo t >todir/t
         rm link; ln -s new link; ln mod hard; echo x >>hard1; mkfifo pipe; rm emptied/e; chmod 700 kept; rm fifo; echo f >fifo
         printf z | dd of=sparse bs=1 seek=500k conv=notrunc status=none; mv src/deep/f src/deep/g
         touch -d 2001-01-01 same; echo same >other; cat other >same; rm other
         perl -e 'use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un(\"sock\")) or die'",
    );
    let expected = "D del\nA dir/\nA dir/below/\nD emptied/e\nT fifo\nD gone/\nD gone/g\nD gone/sub/\nD gone/sub/h\nA hard\n\
        M hard1\nM kept/\nM link\nM mod\nM mode\nA new\nA opaque/n\nD opaque/o2\nA pipe\nA sock\nM sparse\nD src/deep/f\n\
        A src/deep/g\nT todir/\nA todir/t\nT tofile\nD tofile/x\n";
    let lines = expected.replace(' ', "\t");
    assert_eq!(changes(&project, &[]), lines);
    let names: String = expected.lines().map(|line| format!("{}\n", &line[2..])).collect();
    assert_eq!(changes(&project, &["--name-only"]), names);
    let ended = expected.replace("/\n", "\n").replace([' ', '\n'], "\0");
    assert_eq!(changes(&project, &["-z"]), ended);
    // of a file with two names nothing tells there that it was not moved
    let doubtful: &[&str] = if place() == Place::Lima { &["hard"] } else { &[] };
    assert_eq!(conflicts(&project), doubtful);
    project.must("stop");
    assert_eq!(changes(&project, &[]), lines, "of a stopped one");
}

#[test]
fn what_was_only_touched_is_no_change() {
    let project = Project::cow("mkdir d; echo a >a; echo b >d/b; ln -s a l; printf '' >empty; truncate -s 8M hole");
    project.sh(
        "touch a d d/b empty hole; cp a x; cat x >a; rm x; mv d/b d/c; mv d/c d/b; rm l; ln -s a l; chmod 600 a; chmod 644 a
         rm -r d; mkdir d; echo b >d/b; dd if=/dev/zero of=hole bs=1M count=8 status=none",
    );
    diff(&project, &[]).assert().success().stdout("").stderr("");
    for form in [&["--json"][..], &["-z"]] {
        diff(&project, form).assert().success().stdout("");
    }
}

#[test]
fn a_hostile_name_is_escaped_for_a_person_and_whole_for_a_program() {
    let project = Project::cow("true");
    // a newline, an escape code, a quote, C1, what is no UTF-8; a tab and a backslash; spaces
    project.sh(
        r#"touch "$(printf 'a\nb\033[2J"\302\233\377')" "$(printf 't\t\\x')" ' sp ace ' ./-dash; mkdir "$(printf 'd\nx')""#,
    );
    assert_eq!(
        changes(&project, &[]),
        "A\t sp ace \nA\t-dash\nA\t\"a\\nb\\033[2J\\\"\\302\\233\\377\"\nA\t\"d\\nx/\"\nA\t\"t\\t\\\\x\"\n"
    );
    let raw = diff(&project, &["-z", "--name-only"]).assert().code(1);
    let names: Vec<&[u8]> = raw.get_output().stdout.split(|byte| *byte == 0).collect();
    let hostile = b"a\nb\x1b[2J\"\xc2\x9b\xff";
    assert_eq!(names, [&b" sp ace "[..], b"-dash", hostile, b"d\nx", b"t\t\\x", b""]);
    let json = changes(&project, &["--json"]);
    assert!(!json.chars().any(|c| c.is_control() && c != '\n'), "{json:?}");
    let objects = objects(&project, &[]);
    assert_eq!(objects[2]["path_bytes"], "YQpiG1sySiLCm/8=");
    assert_eq!(objects[0]["path"], " sp ace ");
    assert!(objects[0].get("path_bytes").is_none());
    // what it prints it also takes
    let mut again = tool("lbx-diff");
    again.args(["-z", "--name-only", "--"]).arg(project.path()).arg("-").write_stdin(raw.get_output().stdout.clone());
    assert_eq!(again.assert().code(1).get_output().stdout, raw.get_output().stdout);
    let mut one = tool("lbx-diff");
    one.arg("-z").arg("--").arg(project.path()).arg(OsStr::from_bytes(hostile));
    assert_eq!(one.assert().code(1).get_output().stdout, [b"A\0", &hostile[..], b"\0"].concat());
}

#[test]
fn json_tells_what_it_was_and_what_it_is() {
    let project = Project::cow("printf old >m; chmod 644 m; ln -s m l; echo d >d; mkdir dir; chmod 755 dir");
    project.sh("printf newer >m; chmod 755 m; rm l; ln -s x l; rm d; chmod 700 dir; mkfifo p; rm -f t; ln -s /etc t");
    let objects = objects(&project, &["--digest"]);
    let digest = |text: &str| near(&format!("printf %s {text} | sha256sum"))[..64].to_owned();
    assert_eq!(
        objects,
        [
            json!({"status": "D", "path": "d", "conflict": false,
                "old": {"kind": "file", "mode": "0644", "size": 2, "sha256": near("echo d | sha256sum")[..64]}}),
            json!({"status": "M", "path": "dir", "kind": "dir", "mode": "0700", "conflict": false,
                "old": {"kind": "dir", "mode": "0755"}}),
            json!({"status": "M", "path": "l", "kind": "symlink", "mode": "0777", "target": "x", "conflict": false,
                "old": {"kind": "symlink", "mode": "0777", "target": "m"}}),
            json!({"status": "M", "path": "m", "kind": "file", "mode": "0755", "size": 5, "sha256": digest("newer"),
                "conflict": false, "old": {"kind": "file", "mode": "0644", "size": 3, "sha256": digest("old")}}),
            json!({"status": "A", "path": "p", "kind": "fifo", "mode": "0644", "conflict": false}),
            json!({"status": "A", "path": "t", "kind": "symlink", "mode": "0777", "target": "/etc", "conflict": false}),
        ]
    );
    assert!(changes(&project, &["--json"]).lines().all(|line| !line.contains("sha256")));
}

#[test]
fn attributes_of_files_are_compared() {
    if !only_at(&HERE, "the file system of the suite's projects in a VM carries no attributes") {
        return;
    }
    let project = Project::cow("echo a >a; echo b >b; mkdir d");
    let set = "import os, sys; os.setxattr(sys.argv[1], sys.argv[2], sys.argv[3].encode())";
    near(&format!("cd '{}'; python3 -c '{set}' b user.k v", project.str()));
    for path in ["a", "d", "b"] {
        project.enter(["python3", "-c", set, path, "user.k", if path == "b" { "v" } else { "w" }]).assert().success();
    }
    project.sh("chmod 600 b; chmod 644 b");
    assert_eq!(changes(&project, &[]), "M\ta\nM\td/\n");
}

#[test]
fn paths_choose_what_is_compared() {
    let project = Project::cow("mkdir -p src/a; echo 1 >src/a/x; echo 1 >src/b; echo 1 >srcs");
    project.sh("echo 2 >src/a/x; echo 2 >src/b; echo 2 >srcs; chmod 700 src");
    let of = |words: &[&str]| text(diff(&project, &["--name-only"]).args(words).assert());
    assert_eq!(of(&["src"]), "src/\nsrc/a/x\nsrc/b\n");
    assert_eq!(of(&["./src//a/", "srcs"]), "src/a/x\nsrcs\n");
    assert_eq!(of(&["."]), "src/\nsrc/a/x\nsrc/b\nsrcs\n");
    assert_eq!(of(&[&format!("{}/src/b", project.str())]), "src/b\n");
    diff(&project, &[]).arg("sr").assert().success().stdout("");
    for path in ["../x", "src/../..", "/etc/passwd"] {
        diff(&project, &[]).arg(path).assert().code(2).stdout("").stderr(contains("a path is relative to the project"));
    }
    let stdin = |text: &str| diff(&project, &["--name-only"]).arg("-").write_stdin(text).assert();
    stdin("srcs\nsrc/b\n").code(1).stdout("src/b\nsrcs\n");
    stdin("").success().stdout("");
}

#[test]
fn what_cannot_be_told_is_status_2() {
    let project = Project::new();
    let name = project.create(&[]);
    diff(&project, &[]).assert().code(2).stdout("").stderr(contains("has no layer").and(contains("--project cow")));
    diff(&project, &["--json", "--patch"]).assert().code(2);
    tool("lbx-diff").arg("no-such-0000").assert().code(2).stderr(contains("no such environment"));
    project.must("stop");
    project.env_tool("set").args(["--project", "cow", &name]).assert().success();
    diff(&project, &[]).assert().success().stdout("").stderr("");
}

#[test]
fn what_both_sides_changed_is_a_conflict() {
    let project = Project::cow("mkdir d; for f in both mine theirs gone d/x; do echo $f >$f; done");
    project.sh("echo in >>both; echo in >>mine; rm gone; echo in >new; echo in >d/new; chmod 700 d; echo in >touched");
    assert_eq!(conflicts(&project), Vec::<String>::new());
    // (a): its ctime tells
    project.outside("echo out >>both; echo out >>gone; echo out >>theirs");
    assert_eq!(conflicts(&project), ["both", "gone"]);
    // (c): what came outside in the place of what was made inside
    project.outside("echo out >new; chmod 755 d");
    let mut all = vec!["both", "d", "gone", "new"];
    if place() == Place::Lima {
        // where no handle tells a directory from another, what is in one whose mode was changed is in doubt
        all.insert(2, "d/new");
    }
    assert_eq!(conflicts(&project), all);
    // the same on both sides is none, and no change
    project.outside("echo in >touched");
    assert!(!changes(&project, &[]).contains("touched"));
    // a change of mode alone counts as well
    project.outside("chmod 600 mine");
    assert!(conflicts(&project).contains(&"mine".to_owned()));
}

#[test]
fn a_file_in_whose_place_there_is_another_or_none_is_a_conflict() {
    let project = Project::cow("mkdir d; for f in a b c old d/x; do echo $f >$f; done");
    project.sh("echo in >>a; echo in >>b; rm c; echo in >>d/x; echo in >plain");
    assert_eq!(conflicts(&project), Vec::<String>::new());
    // (b), by the time of the rename or by the handle; (d)
    project.outside("mv old a; rm b");
    assert_eq!(conflicts(&project), ["a", "b"]);
    assert!(changes(&project, &[]).contains("A\tb\n"));
    // both removed it: nothing is left to say
    project.outside("rm c");
    assert!(!changes(&project, &[]).contains("c\n"));
    assert_eq!(conflicts(&project), ["a", "b"]);
}

#[test]
fn everything_in_a_directory_that_was_replaced_is_a_conflict() {
    let project = Project::cow(
        "for d in d e f other/d other/e; do mkdir -p $d/sub; for f in x y sub/z; do echo 1 >$d/$f; done; done",
    );
    project.sh("echo in >>d/x; echo in >>d/sub/z; echo in >d/new; rm d/y; rm -r e; echo in >>f/x");
    assert_eq!(conflicts(&project), Vec::<String>::new());
    // (e): nothing of what is in it has a new ctime
    project.outside("mv d away; mv other/d d; mv e away2; mv other/e e");
    assert_eq!(conflicts(&project), ["d/new", "d/sub/z", "d/x", "d/y", "e", "e/sub", "e/sub/z", "e/x", "e/y"]);
    project.outside("rm -r f");
    assert!(conflicts(&project).contains(&"f/x".to_owned()));
    // the project itself
    let project = Project::cow("mkdir ../other; for d in . ../other; do echo 1 >$d/f; done");
    project.sh("rm f");
    assert_eq!(conflicts(&project), Vec::<String>::new());
    near(&format!("cd '{}'; mv app away; mv other app", project.base().display()));
    assert_eq!(conflicts(&project), ["f"]);
}

#[test]
fn what_was_moved_or_linked_inside_is_no_conflict() {
    if !only_at(&HERE, "the VM's file system of projects knows no file by a handle") {
        return;
    }
    let project = Project::cow("mkdir d; for f in a b c d/x; do echo $f >$f; done");
    project.sh("mv a moved; mv b c; ln d/x d/y; mv d/x there; mkdir n; mv c n/c; cp -a d copy; mv moved d/moved");
    // the directories have new times by now
    project.outside("touch other d/other");
    assert_eq!(conflicts(&project), Vec::<String>::new());
    assert!(objects(&project, &[]).len() > 5);
    // where the other end of it is not asked for
    let only = text(diff(&project, &["--json"]).arg("d/moved").assert().code(1));
    assert!(only.contains("\"conflict\":false"), "{only}");
}

#[test]
fn what_was_applied_is_no_conflict() {
    let project = Project::cow("mkdir d o; echo 1 >a; echo 1 >d/b; echo 1 >c; echo 1 >o/x; echo 1 >o/y");
    project.sh("echo in >>a; echo in >>d/b; echo in >>c");
    project.outside("for f in a d/b c; do echo 2 >.new; mv .new $f; done");
    assert_eq!(conflicts(&project), ["a", "c", "d/b"]);
    let line = |path: &str| {
        let stat = host(&format!("cd '{}'; stat -c '%i %Z %z' {path}", project.str()));
        let words: Vec<&str> = stat.split_whitespace().collect();
        let nanoseconds = words[3].split_once('.').expect("a fraction").1.trim_start_matches('0');
        let nanoseconds = if nanoseconds.is_empty() { "0" } else { nanoseconds };
        format!("{{\"path\":\"{path}\",\"ino\":{},\"ctime\":[{},{nanoseconds}]}}\n", words[0], words[1])
    };
    let applied = format!("/var/lib/llima-box/envs/{}/project/applied", project.name());
    write(&applied, format!("{}{}", line("a"), line("d/b")).as_bytes());
    assert_eq!(conflicts(&project), ["c"]);
    project.outside("echo out >>a");
    assert_eq!(conflicts(&project), ["a", "c"]);
    // what was hidden as a whole, where something came or went: it may be another's, unless it is known
    project.sh("rm -r o; mkdir o; echo in >o/x");
    assert_eq!(conflicts(&project), ["a", "c"]);
    project.outside("touch o/z");
    assert_eq!(conflicts(&project), ["a", "c", "o/x", "o/y", "o/z"]);
    write(&applied, line("o").as_bytes());
    project.outside("touch o/zz");
    assert_eq!(conflicts(&project), ["a", "c", "d/b", "o/z", "o/zz"]);
}

#[test]
fn without_a_base_everything_is_a_conflict() {
    let project = Project::cow("echo 1 >a");
    project.sh("echo in >>a");
    assert_eq!(conflicts(&project), Vec::<String>::new());
    write(format!("/var/lib/llima-box/envs/{}/project/base.json", project.name()), b"{");
    assert_eq!(conflicts(&project), ["a"]);
}

#[test]
fn a_file_that_the_caller_may_not_read_is_named_and_not_shown() {
    if !only_at(&[Place::Local], "an ordinary user calls") {
        return;
    }
    let ada = User::sudoer();
    let project = Project::owned_by(&ada);
    ada.sh(&format!("cd '{}'; for f in secret same open; do echo $f >$f; done", project.str()));
    ada.tool("lbx-env").args(["create", "--project", "cow"]).arg(project.path()).assert().success();
    let session = "rm secret open; chmod 600 same; chmod 644 same";
    ada.tool("lbx-enter").arg(project.path()).args(["--", "sh", "-euc", session]).assert().success();
    let diff = |user: &User, words: &[&str]| user.tool("lbx-diff").args(words).arg(project.path()).assert();
    diff(&ada, &[]).code(1).stdout("D\topen\nD\tsecret\n").stderr("");
    near(&format!("cd '{}'; chown root:root secret same; chmod 600 secret; chmod 640 same", project.str()));
    near(&format!("chmod 640 /var/lib/llima-box/envs/{}/project/upper/same", project.name()));
    // whether it differs is not to be had
    diff(&ada, &[]).code(2).stdout("D\topen\nM\tsame\nD\tsecret\n").stderr(contains("cannot compare 'same'"));
    let digests =
        diff(&ada, &["--json", "--digest"]).code(2).stderr(contains("cannot compare 'secret': Permission denied"));
    let lines = text(digests);
    let hidden = near("echo secret | sha256sum");
    assert!(lines.contains(&near("echo open | sha256sum")[..64]) && !lines.contains(&hidden[..64]), "{lines}");
    let patch =
        diff(&ada, &["--patch"]).code(2).stderr(contains("cannot show 'secret'").and(contains("cannot show 'same'")));
    let patch = text(patch);
    assert!(patch.contains("-open\n") && !patch.contains("secret") && !patch.contains("same"), "{patch}");
    // root may
    let as_root = text(self::diff(&project, &["--json", "--digest"]).assert().code(1));
    assert!(as_root.contains(&hidden[..64]) && !as_root.contains("same"), "{as_root}");
    let eve = User::sudoer();
    assert!(errors(diff(&eve, &[]).code(2).stdout("")).contains("not to you"));
}

/// What a patch carries of the tree below the current directory.
const CARRIED: &str = "find . -name .git -prune -o \\( -type f -o -type l \\) -printf '%p %y %l\\n' | sort
    find . -name .git -prune -o -type f -perm -100 -printf '%p can be executed\\n' | sort
    find . -name .git -prune -o -type f -print0 | sort -z | xargs -0r sha256sum";

#[test]
fn git_applies_a_patch_in_a_repository_and_elsewhere() {
    if !installed(&["git"]) {
        return;
    }
    let project = Project::cow(
        "mkdir -p src gone/sub; seq 100 >src/text; seq 100 >src/moved; printf 'no end' >noend; echo x >run; chmod 755 run
         head -c 5000 /dev/zero >bin; head -c 300 /dev/urandom >bingone; touch empty emptygone; echo g >gone/g; echo h >gone/sub/h
         ln -s src link; ln -s src linkgone; ln -s src tofile; echo f >tolink; echo f >todir; mkdir fromdir; echo x >fromdir/x
         echo plain >plain; echo 'with blank' >'a b'; printf 'a\nb\n' >\"$(printf 'odd\\n\"\\302\\233')\"",
    );
    let copies = ["elsewhere", "repository"].map(|copy| project.base().join(copy));
    for copy in &copies {
        near(&format!("cp -a '{}' '{}'", project.str(), copy.display()));
    }
    near(&format!("cd '{}'; git init -q; git add .", copies[1].display()));
    project.sh(
        "sed -i 's/^50$/fifty/; 90d; 3a more' src/text; echo end >>noend; mv src/moved src/there; sed -i 1d src/there
         chmod 644 run; chmod 755 plain; printf x | dd of=bin bs=1 seek=2500 conv=notrunc status=none; rm bingone emptygone
         echo now >empty; touch newempty; head -c 100000 /dev/urandom >newbin; rm -r gone; ln -sf nowhere link; rm linkgone
         rm tofile; echo f >tofile; rm tolink; ln -s /etc/passwd tolink; rm todir; mkdir todir; echo t >todir/t
         rm -r fromdir; echo d >fromdir; echo more >>'a b'; printf 'b\nc' >\"$(printf 'odd\\n\"\\302\\233')\"
         printf '#!/bin/sh\n' >script; chmod 755 script; ln -s \"$(printf 'x\\ny')\" newlink; mkdir -p deep/er; echo 1 >deep/er/f
         printf '\\r\\033[2J\\377\\n' >bytes",
    );
    let seen = project.sh(CARRIED);
    let patch = diff(&project, &["--patch"]).assert().code(1).stderr("").get_output().stdout.clone();
    for copy in &copies {
        let apply = |words: &[&str]| {
            let mut git = command("git");
            git.arg("apply").args(words).current_dir(copy).env("GIT_CEILING_DIRECTORIES", project.base());
            git.write_stdin(patch.clone()).assert().success();
        };
        let before = near(&format!("cd '{}'; {CARRIED}", copy.display()));
        apply(&[]);
        assert_eq!(near(&format!("cd '{}'; {CARRIED}", copy.display())), seen, "{}", copy.display());
        apply(&["-R"]);
        assert_eq!(near(&format!("cd '{}'; {CARRIED}", copy.display())), before, "{}", copy.display());
    }
    assert!(!String::from_utf8_lossy(&patch).contains('\u{9b}'), "no name is printed as it is");
}

#[test]
fn a_patch_has_nothing_that_git_cannot_carry() {
    let project = Project::cow("echo a >a; mkdir d; mkfifo p");
    project.sh("mkdir new; mkfifo pipe; chmod 640 a; chmod 700 d; rm p");
    diff(&project, &["--patch"]).assert().code(1).stdout("").stderr("");
    assert_eq!(changes(&project, &[]), "M\ta\nM\td/\nA\tnew/\nD\tp\nA\tpipe\n");
}

#[test]
fn changed_lines_are_counted() {
    let project = Project::cow("seq 5 >a; echo b >b; ln -s a l; printf '\\0' >z");
    project.sh("sed -i '2d; s/4/four/' a; rm b; ln -sf b l; printf '\\0\\0' >z; mkfifo p; mkdir d");
    assert_eq!(
        changes(&project, &["--stat"]),
        " a | 3 +--\n b | 1 -\n l | 2 +-\n p | fifo\n z | Bin 1 -> 2 bytes\n 5 files changed, 2 insertions(+), 4 deletions(-)\n"
    );
}

#[test]
fn on_a_terminal_it_is_coloured_and_paged_and_obeys_nothing() {
    let project = Project::cow("echo a >a");
    project.sh("printf 'b\\033]0;title\\007\\n' >a");
    let words = |words: &[&str]| -> Vec<OsString> {
        let own = words.iter().map(OsString::from);
        own.chain([project.path().into()]).collect()
    };
    let tool = tool_file("lbx-diff").to_string_lossy().into_owned();
    let mut pty = Pty::run(&words(&["env", "PAGER=sed s/^/paged:/", &tool, "--patch"]));
    let seen = pty.expect("title^G");
    assert_eq!(pty.wait().code(), Some(1));
    assert!(seen.contains("paged:\x1b[31m-a") && seen.contains("+b^[]0;title^G"), "{seen:?}");
    assert!(!seen.contains("\x1b]0;"), "{seen:?}");
    let mut pty = Pty::run(&words(&["env", "PAGER=cat", "NO_COLOR=1", &tool]));
    assert_eq!(pty.expect("\r\n"), "M\ta\r\n");
    assert_eq!(pty.wait().code(), Some(1));
}

#[test]
fn what_stands_for_a_whiteout_is_one() {
    if !only_at(&HERE, "the marks are made by hand") {
        return;
    }
    let project = Project::cow("mkdir d; echo x >d/x; echo y >d/y");
    project.sh("echo new >d/new; : >d/empty");
    project.must("stop");
    let upper = format!("/var/lib/llima-box/envs/{}/project/upper/d", project.name());
    // as newer kernels have them in layers of other overlays
    let mark = "import os, sys; os.setxattr(sys.argv[1], 'trusted.overlay.' + sys.argv[2], sys.argv[3].encode())";
    near(&format!(
        "cd {upper}; : >x; python3 -c \"{mark}\" x whiteout ''; python3 -c \"{mark}\" . opaque x; chmod 755 ."
    ));
    assert_eq!(changes(&project, &[]), "A\td/empty\nA\td/new\nD\td/x\n");
    // contents that are elsewhere are not told of
    near(&format!("cd {upper}; python3 -c \"{mark}\" new redirect /y"));
    let told = diff(&project, &[]).assert().code(2).stdout("A\td/empty\nD\td/x\n");
    assert!(errors(told).contains("cannot compare 'd/new': its contents are elsewhere"));
}

#[test]
fn directories_that_are_swapped_for_links_lead_nowhere() {
    if !only_at(&[Place::Local], "the far tool is the same, and a call takes longer") {
        return;
    }
    let project = Project::cow("for n in $(seq 30); do mkdir -p d$n; echo old >d$n/f; done");
    let victim = project.base().join("victim");
    near(&format!("mkdir '{0}'; echo precious >'{0}/f'; echo precious >'{0}/g'", victim.display()));
    project.sh("for n in $(seq 30); do echo new >d$n/f; echo new >d$n/g; done");
    let swap = |at: &str| {
        format!(
            "end=$(($(date +%s) + 6)); cd '{at}'; while [ $(date +%s) -lt $end ]; do for n in $(seq 30); do
             mv d$n x; ln -s '{0}' d$n; rm d$n; ln -s '{0}/f' x/l 2>/dev/null || rm x/l; mv x d$n; done; done",
            victim.display()
        )
    };
    let layer = format!("/var/lib/llima-box/envs/{}/project/upper", project.name());
    let sides = [project.str(), &layer].map(|at| std_command("sh").args(["-c", &swap(at)]).spawn().expect("sh runs"));
    let digest = near("echo precious | sha256sum");
    let mut rounds = 0;
    let start = std::time::Instant::now();
    while start.elapsed().as_secs() < 4 {
        for form in [&["--patch"][..], &["--json", "--digest"], &["--stat"]] {
            let output = diff(&project, form).output().expect("it runs");
            let seen = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(!seen.contains("precious\n") && !seen.contains(&digest[..64]), "{seen}");
            assert!(output.status.code().is_some_and(|code| code <= 2), "{output:?}");
        }
        rounds += 1;
    }
    for mut side in sides {
        let _ = side.wait();
    }
    assert!(rounds > 1, "{rounds} rounds");
}
