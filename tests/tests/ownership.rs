//! Whose the files are: the person's outside, the environment's inside, with nothing chowned.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use lbx_tests::machine::{account, traces};
use lbx_tests::place::HERE;
use lbx_tests::{Place, Project, User, host, near, only_at, place, skip, tool};
use predicates::str::contains;

/// Everything about the tree at `path` that a chown, a chmod or a write would change.
fn picture(path: &Path) -> String {
    near(&format!("cd '{}'; find . -printf '%p %y %m %U %G %s %C@ %T@ %l\\n' | sort", path.display()))
}

/// Why a test does not hold where the VM shares files of one person.
const ONE_PERSON: &str = "all files of a share are one person's";

#[test]
fn a_project_of_closed_files_is_writable_inside_and_nothing_is_chowned() {
    let ada = User::owner();
    let project = Project::owned_by(&ada);
    ada.sh(&format!(
        "cd '{}'; umask 077; mkdir -p src/deep; echo one >secret; echo two >src/deep/file; ln -s secret link",
        project.str()
    ));
    let before = picture(project.path());
    project.create(&[]);
    project.must("start");
    assert_eq!(project.sh("cat secret src/deep/file link"), "one\ntwo\none\n");
    project.must("stop");
    assert_eq!(picture(project.path()), before, "starting and reading change nothing");

    project.sh("echo more >>secret; mkdir made; echo new >made/file; ln -s x made/link; chmod 640 src/deep/file");
    // 9p carries no pipe
    let pipe = project.enter(["mkfifo", "made/pipe"]).output().unwrap();
    assert!(pipe.status.success() || place() == Place::Lima, "{pipe:?}");
    assert_eq!(project.read("secret"), "one\nmore\n");
    assert_eq!(near(&format!("find '{}' ! -user {} -o ! -group {}", project.str(), ada.uid, ada.gid)), "");
    assert_eq!(
        ada.sh(&format!(
            "cd '{}'; echo mine >>made/file; cat made/file; rm -r made; stat -c %a src/deep/file",
            project.str()
        )),
        "new\nmine\n640\n"
    );
    project.must("delete");
    assert_eq!(near(&format!("find '{}' ! -user {} -o ! -group {}", project.str(), ada.uid, ada.gid)), "");
}

#[test]
fn inside_the_project_belongs_to_the_environment() {
    let ada = User::owner();
    let project = Project::owned_by(&ada);
    let name = project.create(&[]);
    ada.sh(&format!("echo x >'{}/file'", project.str()));
    let uid = account(&name).unwrap().uid;
    assert_eq!(project.sh("stat -c '%U %G %u' file; id -un").trim(), format!("{name} {name} {uid}\n{name}"));
    if HERE.contains(&place()) {
        assert_eq!(project.record()["ownership"], "idmap");
    } else {
        assert_eq!((&project.record()["ownership"], uid), (&"shared-uid".into(), ada.uid));
    }
    assert_eq!(project.record()["owner"]["uid"], ada.uid);
}

#[test]
fn a_file_keeps_its_other_group() {
    if !only_at(&HERE, ONE_PERSON) {
        return;
    }
    let ada = User::new();
    let project = Project::owned_by(&ada);
    let group: u32 = host("getent group users | cut -d: -f3").trim().parse().unwrap();
    project.write("shared", "one\n");
    let file = project.path().join("shared");
    chown(&file, Some(ada.uid), Some(group)).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
    project.create(&[]);
    assert_eq!(
        project.sh("stat -c %g shared; echo two >>shared; sed -i s/one/1/ shared; cat shared").trim(),
        format!("{group}\n1\ntwo")
    );
    let meta = file.metadata().unwrap();
    assert_eq!((meta.uid(), project.read("shared").as_str()), (ada.uid, "1\ntwo\n"));
}

#[test]
fn a_file_of_a_third_person_is_not_the_environments() {
    if !only_at(&HERE, ONE_PERSON) {
        return;
    }
    let (ada, bob) = (User::new(), User::new());
    let project = Project::owned_by(&ada);
    project.write("bobs", "secret\n");
    project.write("roots", "secret\n");
    for (file, uid) in [("bobs", bob.uid), ("roots", 0)] {
        let file = project.path().join(file);
        chown(&file, Some(uid), Some(uid)).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    }
    project.create(&[]);
    for file in ["bobs", "roots"] {
        project.enter(["cat", file]).assert().failure().stdout("");
        project.enter(["sh", "-c", &format!("echo x >>{file}")]).assert().failure();
        project.enter(["chmod", "666", file]).assert().failure();
        assert_eq!(project.read(file), "secret\n");
    }
}

#[test]
fn nothing_set_id_is_made_in_the_project() {
    let ada = User::owner();
    let project = Project::owned_by(&ada);
    project.create(&[]);
    let _ = project
        .enter(["sh", "-c", "cp /bin/sh s; chmod u+s s; chmod 6755 s; install -m 4755 /bin/sh t; mkdir -m 2777 d"])
        .output();
    assert_eq!(near(&format!("find '{}' -perm /6000", project.str())), "");
}

#[test]
fn a_project_whose_owner_changed_is_not_started() {
    if !only_at(&HERE, ONE_PERSON) {
        return;
    }
    let (ada, bob) = (User::new(), User::new());
    let project = Project::owned_by(&ada);
    project.create(&[]);
    project.must("start");
    project.must("stop");
    chown(project.path(), Some(bob.uid), Some(bob.gid)).unwrap();
    project.env_tool("start").arg(project.path()).assert().code(1).stderr(contains("owner"));
    project.enter(["true"]).assert().code(125).stdout("").stderr(contains("owner"));
    assert_eq!(project.state(), "stopped");
    chown(project.path(), Some(ada.uid), Some(ada.gid)).unwrap();
    project.sh("true");
}

#[test]
fn a_project_that_became_a_link_is_not_followed() {
    let (ada, bob) = (User::owner(), User::owner());
    let (project, victim) = (Project::owned_by(&ada), Project::owned_by(&bob));
    victim.write("precious", "bob's");
    let name = project.create(&[]);
    let start = || project.env_tool("start").arg(&name).assert();
    std::fs::remove_dir(project.path()).unwrap();
    for target in [victim.path(), Path::new("/etc"), Path::new("/")] {
        std::os::unix::fs::symlink(target, project.path()).unwrap();
        start().code(1).stdout("").stderr(contains(project.str()));
        tool("lbx-enter").args([&name, "--", "ls"]).assert().code(125).stdout("");
        std::fs::remove_file(project.path()).unwrap();
    }
    start().code(1).stderr(contains(project.str()));
    std::fs::write(project.path(), "a file").unwrap();
    start().code(1).stderr(contains(project.str()));
    std::fs::remove_file(project.path()).unwrap();

    // a parent that became a link leads elsewhere as well
    std::fs::rename(project.base(), project.base().with_extension("aside")).unwrap();
    std::os::unix::fs::symlink(victim.base(), project.base()).unwrap();
    start().code(1).stdout("");
    std::fs::remove_file(project.base()).unwrap();
    std::fs::rename(project.base().with_extension("aside"), project.base()).unwrap();
    // by its name: the path leads nowhere now
    project.env_tool("delete").arg(&name).assert().success();
    assert_eq!(traces(&name), [""; 0]);
}

#[test]
fn a_project_on_a_tmpfs_works() {
    if !only_at(&HERE, "the VM does not share what is mounted for a test") {
        return;
    }
    let ada = User::new();
    let project = Project::owned_by(&ada);
    host(&format!("mount -t tmpfs -o uid={},gid={},mode=700 tmpfs '{}'", ada.uid, ada.gid, project.str()));
    project.create(&[]);
    project.sh("echo x >file; mkdir dir");
    assert_eq!(host(&format!("stat -c %u '{}/file'", project.str())).trim(), ada.uid.to_string());
    project.must("delete");
}

#[test]
fn a_project_where_ids_cannot_be_mapped_is_written_all_the_same_or_refused_with_the_reason() {
    let ada = User::owner();
    let project = Project::owned_by(&ada);
    let base = project.base().display();
    // a share of the host's files is such a place by itself
    if HERE.contains(&place()) {
        host(&format!(
            "cd '{base}'; mkdir lower upper work; mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay app; chown {}:{} app",
            ada.uid, ada.gid
        ));
    }
    ada.sh(&format!("umask 077; echo one >'{}/secret'", project.str()));
    let output = project.env_tool("create").arg(project.path()).output().unwrap();
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("writable") || told.contains("overlay"), "the reason is said: {told}");
        return;
    }
    let ownership = project.record()["ownership"].as_str().unwrap().to_owned();
    if ownership == "idmap" {
        skip("this kernel maps ids there");
        return;
    }
    assert_eq!(ownership, "shared-uid");
    let name = project.name();
    assert_eq!(account(&name).unwrap().uid, ada.uid, "the account has the owner's uid");
    project.sh("cat secret; echo two >>secret; echo new >new; echo home >~/kept");
    assert_eq!(project.read("secret"), "one\ntwo\n");
    assert_eq!(near(&format!("stat -c %u '{}/new'", project.str())).trim(), ada.uid.to_string());
    project.must("delete");
    assert_eq!(traces(&name), [""; 0]);
    assert!(account(&ada.name).is_some(), "the person's own account stays");
}

#[test]
fn a_shared_uid_is_not_entered_by_a_tool_that_this_uid_can_write() {
    if !only_at(&[Place::Local], "which tools run at another place is not the caller's to say") {
        return;
    }
    let ada = User::new();
    let project = Project::owned_by(&ada);
    let base = project.base().display();
    host(&format!(
        "cd '{base}'; mkdir lower upper work; mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay app; chown {}:{} app",
        ada.uid, ada.gid
    ));
    project.create(&[]);
    if project.record()["ownership"] != "shared-uid" {
        skip("this kernel maps ids on overlayfs");
        return;
    }
    project.must("start");
    let tools = ada.home().join("tools");
    host(&format!("cp -r '{}' '{1}'; chown -R {2} '{1}'", lbx_tests::bin_dir().display(), tools.display(), ada.uid));
    let enter = || {
        let mut command = lbx_tests::command(tools.join("lbx-enter"));
        command.arg(project.path()).args(["--", "true"]);
        command
    };
    enter().assert().code(125).stdout("").stderr(contains("lbx-enter"));
    // owned by root, but in a directory where it can be replaced
    host(&format!("chown root '{}/lbx-enter'", tools.display()));
    enter().assert().code(125).stdout("");
    // nor by their group, which is shared as well
    let tools = Path::new("/srv/lbx-test.group");
    host(&format!("cp -r '{}' '{1}'; chgrp {2} '{1}'", lbx_tests::bin_dir().display(), tools.display(), ada.gid));
    let enter = |mode: &str| {
        host(&format!("chmod {mode} '{}'", tools.display()));
        let mut command = lbx_tests::command(tools.join("lbx-enter"));
        command.arg(project.path()).args(["--", "true"]).assert()
    };
    enter("775").code(125).stdout("");
    enter("755").success();
    host(&format!("rm -r '{}'", tools.display()));
    project.sh("true");
}

#[test]
fn a_mount_below_the_project_is_shown_too() {
    if !only_at(&HERE, "the VM does not share what is mounted for a test") {
        return;
    }
    let ada = User::new();
    let project = Project::owned_by(&ada);
    host(&format!(
        "mkdir '{0}/sub'; mount -t tmpfs -o uid={1},gid={2},mode=755 tmpfs '{0}/sub'; echo deep >'{0}/sub/file'",
        project.str(),
        ada.uid,
        ada.gid
    ));
    project.create(&[]);
    assert_eq!(project.sh("cat sub/file; echo x >sub/new"), "deep\n");
    assert_eq!(host(&format!("stat -c %u '{}/sub/new'", project.str())).trim(), ada.uid.to_string());
    project.must("delete");
    host(&format!("umount '{}/sub'", project.str()));
}

#[test]
fn a_project_that_cannot_be_written_fails_early_with_the_reason() {
    let ada = User::owner();
    let project = Project::owned_by(&ada);
    // at create, or at the latest when it is entered: never in the middle of the agent's work
    let fails = |why: &[&str]| {
        let output = project.env_tool("create").arg(project.path()).output().unwrap();
        let (told, status) = match output.status.success() {
            false => (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code() == Some(1)),
            true => {
                let output = project.enter(["true"]).output().unwrap();
                (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code() == Some(125))
            }
        };
        assert!(status && told.contains(project.str()) && why.iter().any(|w| told.contains(w)), "{told}");
        project.env_tool("delete").arg("-f").arg(project.path()).assert().success();
        assert_eq!(traces(&project.name()), [""; 0]);
    };
    if HERE.contains(&place()) {
        host(&format!("mount -t tmpfs -o uid={},gid={},ro tmpfs '{}'", ada.uid, ada.gid, project.str()));
        fails(&["writ", "read-only", "Read-only"]);
        host(&format!("umount '{}'", project.str()));
    }
    near(&format!("chmod 500 '{}'", project.str()));
    fails(&["writ", "ermission"]);
}
