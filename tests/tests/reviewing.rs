//! Attacks on whoever reviews what an agent changed, by lbx-diff and lbx-apply. That each of them would be
//! seen to succeed is seen with tools that leave the protection out.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lbx_tests::{Command, Place, Project, User, bin_dir, command, near, only_at, scaled, skip};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// How often an attack is tried that must not succeed, and how often at most one that must.
const ROUNDS: usize = 12;
const ROUNDS_TO_LOSE: usize = 150;

/// The tool `name` of the directory `tools`.
fn tool(tools: &Path, name: &str) -> Command {
    let mut command = command(tools.join(name));
    command.timeout(scaled(Duration::from_secs(60)));
    command
}

/// As [`tool`], called by `user`, as sudo says who calls.
fn tool_of(user: &User, tools: &Path, name: &str) -> Command {
    let mut command = tool(tools, name);
    command.env("SUDO_UID", user.uid.to_string()).env("SUDO_GID", user.gid.to_string());
    command
}

/// The tools that `feature` has broken.
fn broken(feature: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("LBX_TEST_BROKEN").map(|dir| Path::new(&dir).join(feature));
    if dir.is_none() {
        skip("LBX_TEST_BROKEN is not set: scripts/test builds what is broken on purpose");
    }
    dir
}

/// Whether this is where the tools that are broken are.
fn is_here() -> bool {
    only_at(&[Place::Local], "the tools that are broken are this machine's")
}

/// Tries `succeeds` with the tools that people have, and with those that `feature` has broken: an attack
/// that fails with these, too, shows nothing.
fn attack(feature: &str, succeeds: impl Fn(&Path) -> bool) {
    assert!(!(0..ROUNDS).any(|_| succeeds(&bin_dir())));
    if let Some(tools) = broken(feature) {
        assert!((0..ROUNDS_TO_LOSE).any(|_| succeeds(&tools)), "{feature} is not found");
    }
}

/// A copy-on-write project with `before` done in it outside, and `session` inside.
fn project(before: &str, session: &str) -> Project {
    let project = Project::cow(before);
    project.sh(session);
    project
}

/// As [`project`], of `user`.
fn project_of(user: &User, before: &str, session: &str) -> Project {
    let project = Project::owned_by(user);
    user.sh(&format!("cd '{}'; {before}", project.str()));
    tool_of(user, &bin_dir(), "lbx-env").args(["create", "--project", "cow"]).arg(project.path()).assert().success();
    project.sh(session);
    project
}

/// Runs `work` while the directory `d` of `project` and the link `link` beside it change places.
fn while_swapped(project: &Project, work: impl FnOnce()) {
    let ended = Arc::new(AtomicBool::new(false));
    let (dir, link, told) = (project.path().join("d"), project.path().join("link"), ended.clone());
    let swapping = std::thread::spawn(move || {
        while !told.load(Ordering::Relaxed) {
            // what is applied may have removed one of them
            let _ = renameat_with(CWD, &dir, CWD, &link, RenameFlags::EXCHANGE);
            std::thread::sleep(Duration::from_micros(150));
        }
    });
    work();
    ended.store(true, Ordering::Relaxed);
    swapping.join().unwrap();
}

#[test]
fn what_is_applied_goes_through_no_link_that_is_put_in_its_way() {
    if !is_here() {
        return;
    }
    let victim = Project::named("victim");
    let laid_out = "rm -rf d link; mkdir d; for n in $(seq 50); do echo $n >d/$n; done";
    let project =
        project(laid_out, "rm d/?; for n in $(seq 10 90); do echo x >d/$n; done; echo x >d/precious; rm d/10");
    let is_lost = |tools: &Path| {
        near(&format!("rm -rf '{0}'; mkdir '{0}'; echo kept >'{0}/precious'", victim.str()));
        project.outside(laid_out);
        symlink(victim.path(), project.path().join("link")).unwrap();
        while_swapped(&project, || {
            let _ = tool(tools, "lbx-apply").args(["-y", "-q", "--force"]).arg(project.path()).output().unwrap();
        });
        near(&format!("ls -A '{0}'; cat '{0}/precious' || :", victim.str())) != "precious\nkept\n"
    };
    // a directory that a link leads to is not the one that it was
    if let Some(tools) = broken("broken-apply-links") {
        assert!(!(0..ROUNDS).any(|_| is_lost(&tools)));
    }
    attack("broken-apply-way", is_lost);
}

#[test]
fn what_is_shown_comes_through_no_link_that_is_put_in_its_way() {
    if !is_here() {
        return;
    }
    let victim = Project::named("victim");
    near(&format!("cd '{}'; for n in $(seq 30); do mkdir s$n; echo precious >s$n/f; done", victim.str()));
    let project = project(
        "for n in $(seq 30); do mkdir -p d/s$n; echo old >d/s$n/f; done",
        "for n in $(seq 30); do echo new >d/s$n/f; done",
    );
    symlink(victim.path(), project.path().join("link")).unwrap();
    attack("broken-diff-links", |tools| {
        let mut shown = Vec::new();
        while_swapped(&project, || {
            shown = tool(tools, "lbx-diff").arg("--patch").arg(project.path()).output().unwrap().stdout;
        });
        String::from_utf8_lossy(&shown).contains("-precious")
    });
}

#[test]
fn nothing_is_applied_where_the_person_may_not_write() {
    if !is_here() {
        return;
    }
    let ada = User::new();
    let project = project_of(&ada, "mkdir d; echo old >d/f", "echo new >d/f; echo new >d/g");
    project.outside("chown -R 0:0 d");
    attack("broken-apply-person", |tools| {
        let _ = tool_of(&ada, tools, "lbx-apply").args(["-y", "-q", "--force"]).arg(project.path()).output().unwrap();
        project.outside("cat d/*") != "old\n"
    });
}

#[test]
fn nothing_is_shown_that_the_person_may_not_read() {
    if !is_here() {
        return;
    }
    let ada = User::new();
    let project = project_of(&ada, "mkdir d; echo secret >d/f; echo secret >f", "rm f; echo new >d/f");
    project.outside("chown 0:0 f d; chmod 600 f; chmod 700 d");
    attack("broken-diff-looks", |tools| {
        let shown = tool_of(&ada, tools, "lbx-diff").arg("--patch").arg(project.path()).output().unwrap().stdout;
        String::from_utf8_lossy(&shown).contains("-secret")
    });
}

#[test]
fn nothing_is_applied_over_what_the_person_wrote() {
    if !is_here() {
        return;
    }
    let project = project("echo 1 >a; echo 1 >b; echo 1 >c", "echo in >a; rm b; echo in >new");
    project.outside("echo mine >a; echo mine >b; echo mine >new");
    let is_lost = |tools: &Path| {
        let _ = tool(tools, "lbx-apply").args(["-y", "-q"]).arg(project.path()).output().unwrap();
        project.outside("cat a b new 2>&1 || :") != "mine\nmine\nmine\n"
    };
    // what lbx-diff does not tell, lbx-apply sees
    if let Some(tools) = broken("broken-diff-conflicts") {
        assert!(!is_lost(&tools));
    }
    attack("broken-apply-conflicts", is_lost);
}

#[test]
fn what_the_person_wrote_is_told() {
    if !is_here() {
        return;
    }
    let project = project("echo 1 >a", "echo in >a");
    project.outside("echo mine >a");
    attack("broken-diff-conflicts", |tools| {
        let told = tool(tools, "lbx-diff").arg("--json").arg(project.path()).output().unwrap().stdout;
        !String::from_utf8_lossy(&told).contains("\"conflict\":true")
    });
}
