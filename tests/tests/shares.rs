//! Whose files are on shares other than the suite's own: one that shows every caller as the owner, as
//! those of macOS do.

use std::os::unix::fs::MetadataExt;

use lbx_tests::{Place, Project, host, installed, only_at, tool};

/// A directory of the VM that shows what is in `shown`, to every caller as their own.
struct View {
    project: Project,
}

impl View {
    fn of(shown: &Project) -> View {
        let project = Project::new();
        let owner = std::fs::metadata(shown.path()).unwrap();
        // root, the VM's owner, and the accounts that environments may get
        host(&format!(
            "bindfs -o allow_other --mirror=0:{0}:$(seq -s : 65536 66536) --create-for-user={0} --create-for-group={1} --chown-ignore --chgrp-ignore \
             '{2}' '{3}'",
            owner.uid(),
            owner.gid(),
            shown.str(),
            project.str()
        ));
        View { project }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let _ = self.project.env_tool("delete").arg("-f").arg("--").arg(self.project.path()).output();
        host(&format!("umount -l '{}'", self.project.str()));
    }
}

#[test]
fn where_every_caller_is_the_owner_an_environment_keeps_its_own_uid() {
    if !only_at(&[Place::Lima], "no share is here") || !installed(&["git"]) {
        return;
    }
    let shown = Project::new();
    shown.write("from outside", "one\n");
    let view = View::of(&shown);
    let name = view.project.create(&["--private", "target"]);
    let record = view.project.record();
    assert_eq!(record["ownership"], "native", "{record}");
    assert!(record["uid"].as_u64().unwrap() >= 65536, "{record}");

    assert_eq!(view.project.sh("stat -c %U 'from outside'; cat 'from outside'"), format!("{name}\none\n"));
    view.project.sh("echo two >>'from outside'; mkdir made; umask 077; echo new >made/file; echo x >target/x");
    assert_eq!(shown.read("from outside"), "one\ntwo\n");
    assert_eq!(shown.read("made/file"), "new\n");
    assert!(!shown.path().join("target/x").exists(), "what is private is not shared");
    let me = std::fs::metadata(shown.path()).unwrap().uid();
    assert_eq!(std::fs::metadata(shown.path().join("made/file")).unwrap().uid(), me);

    view.project.sh("git init -q; git add .; git -c user.name=n -c user.email=e commit -qm first");
    assert_eq!(view.project.sh("git status --short"), "");
    view.project.must("stop");
    assert_eq!(view.project.sh("cat made/file"), "new\n", "so after a stop");
}

#[test]
fn a_layer_over_a_share_is_applied_as_its_owners() {
    if !only_at(&[Place::Lima], "no share is here") {
        return;
    }
    let shown = Project::new();
    shown.write("kept", "one\n");
    shown.write("gone", "two\n");
    let view = View::of(&shown);
    let project = &view.project;
    project.create(&["--project", "cow"]);
    assert_eq!(project.record()["ownership"], "native");
    project.sh("echo more >>kept; rm gone; mkdir dir; echo new >dir/made; ln -s made dir/link");
    assert_eq!((shown.read("kept"), shown.read("gone")), ("one\n".into(), "two\n".into()));
    assert!(!shown.path().join("dir").exists());

    let of = |name: &str| {
        let mut command = tool(name);
        command.arg(project.path());
        command
    };
    of("lbx-diff").assert().code(1).stdout("A\tdir/\nA\tdir/link\nA\tdir/made\nD\tgone\nM\tkept\n");
    of("lbx-apply").arg("-y").assert().success();
    assert_eq!((shown.read("kept"), shown.read("dir/link")), ("one\nmore\n".into(), "new\n".into()));
    assert!(!shown.path().join("gone").exists());
    let me = std::fs::metadata(shown.path()).unwrap().uid();
    for path in ["kept", "dir", "dir/made"] {
        assert_eq!(std::fs::metadata(shown.path().join(path)).unwrap().uid(), me, "{path}");
    }
    of("lbx-diff").assert().code(0).stdout("");
}
