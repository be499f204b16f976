//! Whose files are on shares other than the suite's own: one that shows every caller as the owner, as
//! those of macOS do.

use std::os::unix::fs::MetadataExt;

use lbx_tests::{Place, Project, host, installed, only_at};

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
