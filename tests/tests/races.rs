//! Directories that are swapped for links all the while that the tools look at them and use them: what
//! a link leads to is never shown, given away or removed. That each of these races can be lost is seen
//! with tools that follow links and leave the time between.

use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lbx_tests::machine::{entries, listed, traces};
use lbx_tests::{Command, Place, Project, User, bin_dir, command, only_at, scaled, skip};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// How often a race is run that must not be lost, and how often at most one that must.
const ROUNDS: usize = 12;
const ROUNDS_TO_LOSE: usize = 150;

/// Exchanges `a` and `b` until it is dropped, and makes them anew where they are gone.
struct Swapping {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Swapping {
    fn of(a: PathBuf, b: PathBuf, make: impl Fn() + Send + 'static) -> Swapping {
        let ended = Arc::new(AtomicBool::new(false));
        let told = ended.clone();
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                if renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).is_err() {
                    make();
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        Swapping { ended, thread: Some(thread) }
    }
}

impl Drop for Swapping {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Calls `is_lost` round by round with each build of the tools: those that follow links lose, those
/// that are only slow and those that people have never do.
fn run_race(is_lost: impl Fn(&dyn Fn(&str) -> Command) -> bool) {
    if !only_at(&[Place::Local], "the tools that are broken are this machine's") {
        return;
    }
    let lose = |dir: &Path, rounds| {
        let tool = |name: &str| {
            let mut command = command(dir.join(name));
            command.timeout(scaled(Duration::from_secs(60)));
            command
        };
        (0..rounds).any(|_| is_lost(&tool))
    };
    assert!(!lose(&bin_dir(), ROUNDS));
    let Some(broken) = std::env::var_os("LBX_TEST_BROKEN").map(PathBuf::from) else {
        skip("LBX_TEST_BROKEN is not set: scripts/test builds what is broken on purpose");
        return;
    };
    assert!(!lose(&broken.join("broken-pace"), ROUNDS));
    assert!(lose(&broken.join("broken-links"), ROUNDS_TO_LOSE), "this race cannot be lost, so that it shows nothing");
}

/// A project and beside it a link to a directory of another, which holds `precious`.
struct Decoy {
    project: Project,
    victim: Project,
}

impl Decoy {
    fn new() -> Decoy {
        let decoy = Decoy { project: Project::new(), victim: Project::named("victim") };
        decoy.victim.write("precious", "");
        symlink(decoy.victim.path(), decoy.project.base().join("decoy")).unwrap();
        decoy
    }

    fn swapping(&self) -> Swapping {
        Swapping::of(self.project.path().to_owned(), self.project.base().join("decoy"), || ())
    }
}

#[test]
fn a_project_that_is_swapped_while_it_starts_is_itself_or_nothing() {
    let decoy = only_at(&[Place::Local], "the race is run here").then(Decoy::new);
    let Some(decoy) = decoy else { return };
    let name = decoy.project.create(&[]);
    run_race(|tool| {
        let swapping = decoy.swapping();
        let started = tool("lbx-env").args(["start", &name]).output().unwrap().status.success();
        drop(swapping);
        let shown = tool("lbx-enter").args([&name, "--chdir", ".", "--", "ls"]).output().unwrap();
        tool("lbx-env").args(["stop", &name]).assert().success();
        started && String::from_utf8_lossy(&shown.stdout).contains("precious")
    });
    restore(&decoy);
}

#[test]
fn a_project_that_is_swapped_while_it_is_repaired_stays_its_owners() {
    let decoy = only_at(&[Place::Local], "the race is run here").then(Decoy::new);
    let Some(decoy) = decoy else { return };
    let name = decoy.project.create(&[]);
    chown(decoy.victim.path(), Some(4321), Some(4321)).unwrap();
    let owner = || listed(&name).unwrap()["owner"]["uid"].as_u64().unwrap();
    let own = owner();
    run_race(|tool| {
        let swapping = decoy.swapping();
        let _ = tool("lbx-env").args(["repair", &name]).output().unwrap();
        drop(swapping);
        owner() != own
    });
    restore(&decoy);
}

#[test]
fn a_project_that_is_swapped_while_it_is_created_is_the_callers_or_none() {
    if !only_at(&[Place::Local], "the race is run here") {
        return;
    }
    let (ada, bob) = (User::new(), User::new());
    let decoy = Decoy::new();
    let own = |project: &Project, user: &User| chown(project.path(), Some(user.uid), Some(user.gid)).unwrap();
    own(&decoy.project, &ada);
    own(&decoy.victim, &bob);
    let victim = decoy.victim.name();
    run_race(|tool| {
        let swapping = decoy.swapping();
        let mut create = tool("lbx-env");
        // as sudo says who calls
        create.env("SUDO_UID", ada.uid.to_string()).env("SUDO_GID", ada.gid.to_string());
        let _ = create.arg("create").arg(decoy.project.path()).output().unwrap();
        drop(swapping);
        restore(&decoy);
        let made = listed(&decoy.project.name());
        let lost = made.is_some_and(|record| record["owner"]["uid"] != ada.uid);
        let of_victim = traces(&victim);
        for project in [&decoy.project, &decoy.victim] {
            project.env_tool("delete").arg("-f").arg(project.path()).assert().success();
        }
        lost || !of_victim.is_empty()
    });
}

/// Puts the project in its place again.
fn restore(decoy: &Decoy) {
    if decoy.project.path().is_symlink() {
        renameat_with(CWD, decoy.project.path(), CWD, decoy.project.base().join("decoy"), RenameFlags::EXCHANGE)
            .unwrap();
    }
}

#[test]
fn a_private_directory_that_is_swapped_covers_nothing_else() {
    if !only_at(&[Place::Local], "the race is run here") {
        return;
    }
    let project = Project::new();
    let name = project.create(&["--private", "target"]);
    let (dir, link) = (project.path().join("target"), project.path().join("link"));
    std::fs::create_dir(&dir).unwrap();
    symlink("/usr/local", &link).unwrap();
    run_race(|tool| {
        let swapping = Swapping::of(dir.clone(), link.clone(), || ());
        let started = tool("lbx-env").args(["start", &name]).output().unwrap().status.success();
        drop(swapping);
        let touched = started
            && tool("lbx-enter").args([&name, "--", "touch", "/usr/local/planted"]).output().unwrap().status.success();
        tool("lbx-env").args(["stop", &name]).assert().success();
        touched
    });
}

#[test]
fn a_directory_that_is_swapped_while_the_home_is_removed_is_not_followed() {
    if !only_at(&[Place::Local], "the race is run here") {
        return;
    }
    let victim = Project::named("victim");
    run_race(|tool| {
        let _ = std::fs::create_dir(victim.path().join("below"));
        victim.write("below/precious", "");
        let project = Project::new();
        let name = project.create(&[]);
        let home = Path::new("/home").join(&name);
        let (dir, link, outside) = (home.join("dir"), home.join("link"), victim.path().to_owned());
        let make = {
            let (dir, link) = (dir.clone(), link.clone());
            move || {
                let is_link = |path: &Path| path.symlink_metadata().ok().map(|meta| meta.is_symlink());
                // none of its parents: the home is to go
                let full =
                    |path: &Path| std::fs::create_dir(path).and_then(|()| std::fs::create_dir(path.join("full")));
                let _ = match (is_link(&dir), is_link(&link)) {
                    (None, Some(true)) => full(&dir),
                    (Some(true), None) => full(&link),
                    (None, _) => symlink(&outside, &dir),
                    _ => symlink(&outside, &link),
                };
            }
        };
        std::fs::create_dir_all(dir.join("full/deep")).unwrap();
        symlink(victim.path(), &link).unwrap();
        let swapping = Swapping::of(dir, link, make);
        let _ = tool("lbx-env").args(["delete", &name]).output().unwrap();
        drop(swapping);
        let lost = entries(victim.path()).is_empty() || !victim.path().join("below/precious").exists();
        project.env_tool("delete").args(["-f", &name]).assert().success();
        assert_eq!(traces(&name), [""; 0]);
        lost
    });
}
