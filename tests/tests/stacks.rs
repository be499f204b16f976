//! What snapshots froze of a copy-on-write project is told, compared, applied and discarded as if it had
//! been written since.

use std::path::Path;

use lbx_tests::place::HERE;
use lbx_tests::review::{PICTURE, of_changes};
use lbx_tests::{Place, Project, User, errors, near, only_at, text, tool};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;

const LAID_OUT: &str = "mkdir -p src/deep empty gone/sub again/sub; for f in src/a src/b src/deep/c src/run gone/x gone/sub/y same todir again/x again/sub/y kept; do echo $f >$f; done; chmod 750 src/run; ln -s src/a link; mkdir tofile; echo x >tofile/x";
/// Three sessions, each of which changes what the others did.
const SESSIONS: [&str; 3] = [
    "echo more >>src/a; echo new >made; mkdir -p dir/below; echo x >dir/below/file; rm src/deep/c; mv src/b src/moved
     rm -r gone; rm -r tofile; echo f >tofile; rm todir; mkdir todir; echo t >todir/t; chmod 700 src; rm -r again
     echo v1 >twice; ln -s made wire; echo a >\"$(printf 'n\\nl')\"",
    "rm made; echo c >src/deep/c; mkdir gone; echo z >gone/z; rm tofile; mkdir tofile; echo y >tofile/y; rm -r todir
     echo todir >todir; mkdir -p again/sub; echo n >again/sub/n; echo v2 >twice; rm -r dir; echo d >dir; chmod 755 src
     echo b >>\"$(printf 'n\\nl')\"; mv src/moved src/b; chmod 600 same; truncate -s 2M sparse; echo e >>sparse",
    "echo made >made; rm dir; mkdir -p dir/other; rm -r gone; mkdir -p gone/sub; echo y2 >gone/sub/y; rm wire
     echo x >again/x; rm twice; mkdir twice; echo in >twice/in; chmod 644 same; rm -r empty; mv src/a src/aa",
];

fn save(project: &Project, tag: &str) {
    project.must("stop");
    project.env_tool("save").arg("--").arg(project.path()).arg(tag).assert().success().stdout("");
}

/// What `lbx-diff` prints with `options`; nothing fails.
fn diff(project: &Project, options: &[&str]) -> String {
    let output = of_changes("lbx-diff", project.path(), options, &[]).output().expect("it runs");
    assert!(output.status.code().is_some_and(|code| code < 2) && output.stderr.is_empty(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn lines(project: &Project) -> String {
    diff(project, &[]).replace('\t', " ")
}

/// The changes, and the layer of each.
fn objects(project: &Project) -> (Vec<Value>, Vec<Option<String>>) {
    let text = diff(project, &["--json", "--digest"]);
    let mut objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let layer = |object: &mut Value| {
        let layer = object.as_object_mut().expect("an object").remove("layer");
        layer.map(|layer| layer.as_str().expect("a string").to_owned())
    };
    let layers = objects.iter_mut().map(layer).collect();
    (objects, layers)
}

#[test]
fn a_snapshot_changes_nothing_of_what_is_told() {
    let project = Project::cow(LAID_OUT);
    let seen = |project: &Project| (objects(project).0, diff(project, &["-z"]), diff(project, &["--patch"]));
    let mut frozen = 0;
    for (count, session) in SESSIONS.iter().enumerate() {
        project.sh(session);
        let before = seen(&project);
        let inside = project.sh(PICTURE);
        save(&project, &format!("t{count}"));
        assert_eq!(seen(&project), before, "session {count}");
        let (changes, layers) = objects(&project);
        for (change, layer) in changes.iter().zip(&layers) {
            let is_there = change["status"] != "D";
            assert_eq!(layer.is_some(), is_there, "{change}");
            frozen += usize::from(layer.is_some());
        }
        assert_eq!(project.sh(PICTURE), inside);
        assert_eq!(seen(&project), before, "it runs");
        assert!(changes.iter().all(|change| change["conflict"] == false), "{changes:#?}");
    }
    assert!(frozen > 20, "{frozen}");
    // what was put back as it was is no change any more, whatever is frozen of it
    project.sh("rm -r twice made src/aa; echo src/a >src/a; echo more >>src/a; mkdir -p empty");
    assert!(!lines(&project).contains("empty"), "{}", lines(&project));
}

#[test]
fn what_is_applied_after_snapshots_is_what_was_seen_inside() {
    let project = Project::cow(LAID_OUT);
    for (count, session) in SESSIONS.iter().enumerate() {
        project.sh(session);
        if count < 2 {
            save(&project, &format!("t{count}"));
        }
    }
    let seen = project.sh(PICTURE);
    of_changes("lbx-apply", project.path(), &[], &["again", "twice"]).assert().success().stderr("");
    assert_eq!(project.sh(PICTURE), seen);
    of_changes("lbx-apply", project.path(), &["-y"], &[]).assert().success().stdout("").stderr("");
    assert_eq!(project.outside(PICTURE), seen);
    assert_eq!((lines(&project), project.sh(PICTURE)), (String::new(), seen.clone()));
    // and of what comes then, only that
    project.sh("echo later >later; rm kept");
    save(&project, "t3");
    assert_eq!(lines(&project), "D kept\nA later\n");
    of_changes("lbx-apply", project.path(), &["-y"], &[]).assert().success().stderr("");
    assert_eq!(project.outside("cat later; ls kept 2>&1 | wc -l"), "later\n1\n");
    assert_eq!(lines(&project), "");
}

#[test]
fn what_both_sides_changed_is_a_conflict_in_every_layer() {
    let project = Project::cow("mkdir d e; for f in a b c d/x e/x same; do echo $f >$f; done");
    project.sh("echo in >>a; echo in >>b; rm c; echo in >>d/x; echo in >new; echo in >>e/x");
    save(&project, "one");
    project.sh("echo in2 >>b; echo in2 >>new; echo in2 >>same; echo in2 >d/new");
    save(&project, "two");
    project.sh("echo in3 >>b");
    let conflicts = || -> Vec<String> {
        let objects = objects(&project).0;
        let of = |object: &Value| object["path"].as_str().expect("a path").to_owned();
        objects.iter().filter(|object| object["conflict"] == true).map(of).collect()
    };
    assert_eq!(conflicts(), [""; 0]);
    project.outside("for f in a b c new; do echo out >>$f; done");
    assert_eq!(conflicts(), ["a", "b", "c", "new"]);
    let before = project.outside("cat a b c new");
    let said = errors(of_changes("lbx-apply", project.path(), &["-y"], &[]).assert().code(1));
    for path in ["a", "b", "c", "new"] {
        assert!(said.contains(&format!("conflict: '{path}'")), "{said}");
    }
    assert_eq!(project.outside("cat a b c new"), before);
    assert_eq!(project.outside("cat d/x d/new e/x same"), "d/x\nin\nin2\ne/x\nin\nsame\nin2\n");
    of_changes("lbx-apply", project.path(), &["-y", "--force"], &[]).assert().success();
    assert_eq!(project.outside(PICTURE), project.sh(PICTURE));
    assert_eq!(lines(&project), "");
}

#[test]
fn what_was_moved_before_or_after_a_snapshot_is_no_conflict() {
    if !only_at(&HERE, "the VM's file system of projects knows no file by a handle") {
        return;
    }
    let project = Project::cow("mkdir d; for f in a b c e d/x; do echo $f >$f; done");
    project.sh("mv a moved; echo in >>b; echo in >>d/x; echo n >n");
    save(&project, "one");
    project.sh("mv b moved2; mv moved moved3; ln d/x d/y; echo more >>n; mv c there; echo more >>e");
    // the directories have new times by now
    project.outside("touch other d/other");
    let (objects, _) = objects(&project);
    assert!(objects.iter().all(|object| object["conflict"] == false), "{objects:#?}");
    assert!(objects.len() > 7, "{objects:#?}");
    // another file in the place of one that was changed before the snapshot, and since
    project.sh("echo more >>d/x");
    project.outside("echo y >y; mv y d/x; mv other e");
    let told = diff(&project, &["--json"]);
    for path in ["d/x", "e"] {
        let line = told.lines().find(|line| line.contains(&format!("\"path\":\"{path}\""))).expect("a change");
        assert!(line.contains("\"conflict\":true"), "{line}");
    }
}

#[test]
fn what_is_discarded_of_frozen_layers_is_as_the_project_has_it() {
    let project = Project::cow(LAID_OUT);
    let clean = project.sh(PICTURE);
    for (count, session) in SESSIONS.iter().enumerate() {
        project.sh(session);
        save(&project, &format!("t{count}"));
    }
    let inside = project.sh(PICTURE);
    project.must("stop");
    let discard = |paths: &[&str]| of_changes("lbx-discard", project.path(), &["-y"], paths);
    let is_of = |line: &str, path: &str| line[2..].starts_with(&format!("{path}/")) || &line[2..] == path;
    let of = |path: &str| lines(&project).lines().filter(|line| is_of(line, path)).count();
    for path in ["src/a", "src/deep", "gone/sub/y", "again/sub/n", "again", "todir", "tofile", "twice", "link", "made"]
    {
        assert!(of(path) > 0 || ["link", "todir", "src/deep", "src/a"].contains(&path), "{path}: {}", lines(&project));
        let others = lines(&project).lines().filter(|line| !is_of(line, path)).count();
        discard(&[path]).assert().success().stderr("");
        assert_eq!(of(path), 0, "{path}: {}", lines(&project));
        let now = lines(&project);
        // a directory on the way to it may be there again
        assert!(others.abs_diff(now.lines().count()) <= 1, "{path}: {others}: {now}");
    }
    // inside it reads so, too
    let picture = project.sh(PICTURE);
    let of_path = |picture: &str, path: &str| {
        let is_of = |line: &&str| line.split(' ').any(|word| word.trim_start_matches("./").starts_with(path));
        picture.lines().filter(is_of).map(str::to_owned).collect::<Vec<_>>()
    };
    for path in ["again", "tofile", "todir", "made", "twice"] {
        assert_eq!(of_path(&picture, path), of_path(&clean, path), "{path}");
    }
    assert_ne!(picture, clean);
    project.must("stop");
    // a list of all that differs, in the form that tells the most
    discard(&["-"]).write_stdin(diff(&project, &["--json"])).assert().success();
    assert_eq!(lines(&project), "");
    assert_eq!(project.sh(PICTURE), clean);
    // what was frozen is as it was
    project.must("stop");
    project.env_tool("restore").arg("--").arg(project.path()).arg("t2").assert().success();
    assert_eq!(project.sh(PICTURE), inside);
    project.must("stop");
    discard(&[]).assert().success();
    assert_eq!((lines(&project), project.sh(PICTURE)), (String::new(), clean));
    project.outside("echo outside >kept");
    assert_eq!(project.sh("cat kept"), "outside\n");
}

#[test]
fn what_is_told_while_a_snapshot_is_made_is_what_there_is() {
    if !only_at(&[Place::Local], "a call elsewhere takes longer than a snapshot") {
        return;
    }
    let project = Project::cow(LAID_OUT);
    project.sh(SESSIONS[0]);
    let told = diff(&project, &["-z"]);
    let ended = std::sync::atomic::AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let look = || {
            let mut looks = 0;
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(diff(&project, &["-z"]), told);
                looks += 1;
            }
            looks
        };
        let looking = scope.spawn(look);
        for count in 0..6 {
            // which moves what is written to another layer
            project.sh(&format!("echo {count} >~/file; echo new >made; chmod 644 made"));
            save(&project, &format!("t{count}"));
        }
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        looking.join().expect("the same each time")
    });
    assert!(looks > 10, "{looks}");
}

#[test]
fn two_environments_of_a_path_are_compared() {
    let project = Project::new();
    project.outside("mkdir d; for f in a b d/x; do echo $f >$f; done");
    let [one, other] = ["one", "other"].map(|word| project.create(&["--name", word, "--project", "cow"]));
    let enter =
        |name: &str, script: &str| tool("lbx-enter").args([name, "--", "sh", "-euc", script]).assert().success();
    enter(&one, "echo 1 >>a; rm b; echo n >n; echo both >both; echo 1 >\"$(printf 'x\\ny')\"");
    tool("lbx-env").args(["stop", &one]).assert().success();
    tool("lbx-env").args(["save", &one, "t"]).assert().success();
    enter(&one, "rm -r d; mkdir d; echo z >d/z");
    enter(&other, "echo 2 >>a; echo both >both; chmod 700 d; echo 2 >m");
    let against = |new: &str, old: &str, options: &[&str]| {
        of_changes("lbx-diff", new, &[&["--against", old], options].concat(), &[])
    };
    let told = "M\ta\nD\tb\nM\td/\nD\td/x\nA\td/z\nD\tm\nA\tn\nA\t\"x\\ny\"\n";
    against(&one, &other, &[]).assert().code(1).stdout(told).stderr("");
    let back: String = told.replace("\nD", "\n?").replace("\nA", "\nD").replace("\n?", "\nA");
    against(&other, &one, &[]).assert().code(1).stdout(back);
    against(&one, &one, &[]).assert().success().stdout("");
    // a patch from what one has to what the other has
    let patch = text(against(&other, &one, &["--patch"]).assert().code(1));
    assert!(patch.contains("--- a/a\n+++ b/a\n@@ -1,2 +1,2 @@\n a\n-1\n+2\n"), "{patch}");
    let json = text(against(&one, &other, &["--json"]).assert().code(1));
    assert!(json.lines().all(|line| line.contains("\"conflict\":false")), "{json}");
    against(&one, &other, &[]).arg("d").assert().code(1).stdout("M\td/\nD\td/x\nA\td/z\n");
    // one that writes the project itself has what it has
    let plain = project.create(&["--name", "plain"]);
    let own = text(of_changes("lbx-diff", &one, &[], &[]).assert().code(1));
    against(&one, &plain, &[]).assert().code(1).stdout(own);
    let elsewhere = Project::cow("echo x >x");
    against(&one, elsewhere.str(), &[]).assert().code(2).stdout("").stderr(contains("different projects"));
    against(&one, "none-0000", &[]).assert().code(2).stdout("").stderr(contains("no such environment"));
}

#[test]
fn another_persons_environment_is_not_compared() {
    if !only_at(&[Place::Local], "sudo says who calls where it is run") {
        return;
    }
    let (ada, bob) = (User::sudoer(), User::sudoer());
    let project = Project::owned_by(&ada);
    let mine = project.create(&["--name", "ada", "--project", "cow"]);
    let others = project.create(&["--name", "root", "--project", "cow"]);
    tool("lbx-enter").args([others.as_str(), "--", "sh", "-c", "echo secret >s"]).assert().success();
    let as_person = |user: &User, new: &str, old: &str| {
        let mut command = of_changes("lbx-diff", new, &["--against", old], &[]);
        command.env("SUDO_UID", user.uid.to_string()).env("SUDO_GID", user.gid.to_string());
        command
    };
    as_person(&ada, &mine, &others).assert().code(1).stdout("D\ts\n");
    for (new, old) in [(&mine, &others), (&others, &mine)] {
        as_person(&bob, new, old).assert().code(2).stdout("").stderr(contains("not to you"));
    }
    // one of bob's own beside ada's
    let own = Project::owned_by(&bob);
    let bobs = own.create(&["--project", "cow"]);
    for (new, old) in [(&mine, &bobs), (&bobs, &mine)] {
        let told = as_person(&bob, new, old).assert().code(2).stdout("");
        told.stderr(contains("not to you").or(contains("different projects")));
    }
}

#[test]
fn links_that_are_planted_in_layers_lead_nowhere() {
    if !only_at(&HERE, "the layers are this machine's") {
        return;
    }
    let project = Project::cow("mkdir d; echo old >d/f; echo old >f");
    let victim = project.base().join("victim");
    near(&format!("mkdir '{0}'; echo precious >'{0}/f'", victim.display()));
    project.sh("echo in >>d/f; echo in >>f; mkdir n; echo n >n/f");
    save(&project, "one");
    project.sh("echo more >>n/f");
    let id = project.record()["layers"]["project"][0]["id"].as_str().expect("an id").to_owned();
    let layer = format!("/var/lib/llima-box/layers/{id}/upper");
    near(&format!("cd {layer}; rm -r d f; ln -s '{0}' d; ln -s '{0}/f' f", victim.display()));
    for form in [&["--patch"][..], &["--json", "--digest"], &["--stat"], &[]] {
        let output = of_changes("lbx-diff", project.path(), form, &[]).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!told.contains("precious\n"), "{told}");
    }
    of_changes("lbx-apply", project.path(), &["-y"], &[]).assert().code(1).stderr(contains("refused: 'd'"));
    // in place of the directory there is a link now: what was in it is gone
    assert_eq!(project.outside("ls -A d; cat f n/f"), "old\nn\nmore\n");
    project.must("stop");
    of_changes("lbx-discard", project.path(), &["-y"], &["d/f"])
        .assert()
        .code(1)
        .stderr(contains("no directory inside"));
    of_changes("lbx-discard", project.path(), &["-y"], &["d", "f"]).assert().success();
    assert_eq!(lines(&project), "");
    assert_eq!(near(&format!("ls -A '{0}'; cat '{0}/f'", victim.display())), "f\nprecious\n");
    // one that is gone is an error that says what to do
    near(&format!("mv {layer} {layer}.away"));
    let mut told = of_changes("lbx-diff", project.path(), &[], &[]);
    told.assert().code(2).stdout("").stderr(contains(layer.as_str()).and(contains("hint: lbx-env repair")));
    of_changes("lbx-apply", project.path(), &["-y"], &[]).assert().code(1).stderr(contains("lbx-env repair"));
    near(&format!("mv {layer}.away {layer}"));
    assert!(Path::new(&layer).is_dir());
}
