//! Runs over directories that lie beside each other.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lbx::Result;
use lbx::layer::Base;
use lbx::sys::Looks;
use rustix::fs::{FileType, Mode, RenameFlags, mknodat, openat, renameat_with};

use super::act::Outcome;
use super::applied::{Judge, TICK};
use super::change::{Change, Kind, Status};
use super::content::{attributes, have_same_text};
use super::facts::Facts;
use super::journal::Journal;
use super::plan::{Clash, Conflicts, Request, Why, plan};
use super::sides::{DIRECTORY, Layer, Merge, Sides};

/// An upper layer, a frozen one and a project, which lie in one directory.
struct World {
    dir: tempfile::TempDir,
    base: Base,
    merge: Box<Merge<'static>>,
}

impl World {
    /// `make` makes what the project has before the base.
    fn new(make: impl Fn(&Path)) -> World {
        rustix::process::umask(Mode::empty());
        let dir = tempfile::tempdir().unwrap();
        for side in ["upper", "frozen", "project", "outside"] {
            std::fs::create_dir(dir.path().join(side)).unwrap();
        }
        make(&dir.path().join("project"));
        std::thread::sleep(TICK);
        let world = World { dir, base: base(), merge: Box::new(concat) };
        std::thread::sleep(TICK);
        world
    }

    fn upper(&self, path: &str) -> PathBuf {
        self.dir.path().join("upper").join(path)
    }

    fn project(&self, path: &str) -> PathBuf {
        self.dir.path().join("project").join(path)
    }

    fn sides(&self) -> Sides<'_> {
        let open = |path: &Path| openat(rustix::fs::CWD, path, DIRECTORY, Mode::empty()).unwrap();
        let file = |name: &str| self.dir.path().join(name);
        let mut journal = File::options();
        journal.read(true).append(true).create(true);
        let since = now_pair();
        std::thread::sleep(TICK);
        Sides {
            upper: Layer { dir: open(&file("upper")), uid: 0, gid: 65536 },
            frozen: [("f1".to_owned(), Layer { dir: open(&file("frozen")), uid: 65537, gid: 65537 })].into(),
            project: open(&file("project")),
            path: file("project"),
            person: Looks::of(rustix::process::geteuid().as_raw(), 0, &[]).unwrap(),
            judge: Judge::new(self.base, &std::fs::read(file("applied")).unwrap_or_default()),
            since,
            known: RefCell::default(),
            entered: RefCell::default(),
            way: RefCell::default(),
            group: rustix::process::getegid().as_raw(),
            list: File::options().append(true).create(true).open(file("applied")).unwrap(),
            aside: ".lbx-apply.app-1a2b".to_owned(),
            journal: Journal::of(journal.open(file("journal")).unwrap()),
            merge: &*self.merge,
        }
    }

    /// Applies `changes` as a run does.
    fn apply(&self, changes: &[Change], request: &Request) -> Vec<(String, Result<Outcome>)> {
        self.run(&self.sides(), changes, request)
    }

    fn run(&self, sides: &Sides<'_>, changes: &[Change], request: &Request) -> Vec<(String, Result<Outcome>)> {
        let plan = plan(changes, request, &sides.path);
        let mut applied = Vec::new();
        let mut outcomes = Vec::new();
        for step in &plan.steps {
            let outcome = sides.act(step, request.named.contains(&step.path));
            if let Ok(Outcome::Applied(stamp)) = &outcome {
                applied.push((step.path.clone(), *stamp));
            }
            outcomes.push((step.path.display().to_string(), outcome));
        }
        sides.remember(&sides.settled(&applied).unwrap()).unwrap();
        sides.remember(&sides.settled_directories().unwrap()).unwrap();
        sides.journal.forget().unwrap();
        outcomes
    }
}

fn concat(_: &Path, ours: &[u8], theirs: &[u8]) -> Result<std::result::Result<Vec<u8>, &'static str>> {
    Ok(if ours == b"no" { Err("no") } else { Ok([ours, theirs].concat()) })
}

fn now_pair() -> (i64, i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (now.as_secs() as i64, i64::from(now.subsec_nanos()))
}

fn base() -> Base {
    let (sec, nsec) = now_pair();
    Base { sec, nsec }
}

fn change(status: Status, path: &str, new: Option<Kind>, old: Option<Kind>, mode: u32) -> Change {
    Change { path: path.into(), status, new, old, mode, target: None, layer: None, conflict: false }
}

fn modified(path: &str) -> Change {
    change(Status::Modified, path, Some(Kind::File), Some(Kind::File), 0o644)
}

fn added(path: &str) -> Change {
    change(Status::Added, path, Some(Kind::File), None, 0o644)
}

fn deleted(path: &str) -> Change {
    change(Status::Deleted, path, None, Some(Kind::File), 0)
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn clash() -> Outcome {
    Outcome::Left(Why::Conflict(Clash::Changed))
}

#[test]
fn what_was_changed_inside_is_in_the_project_then() {
    let world = World::new(|project| {
        for file in ["edited", "gone", "turned", "program", "alone", "long"] {
            std::fs::write(project.join(file), "old").unwrap();
            set_mode(&project.join(file), 0o600);
        }
        std::fs::hard_link(project.join("program"), project.join("again")).unwrap();
        std::fs::create_dir_all(project.join("dir/below")).unwrap();
        std::fs::create_dir_all(project.join("shut")).unwrap();
        std::fs::write(project.join("dir/below/x"), "").unwrap();
        symlink("edited", project.join("link")).unwrap();
    });
    std::fs::write(world.upper("edited"), "new").unwrap();
    set_mode(&world.upper("edited"), 0o4751);
    for file in ["program", "alone"] {
        std::fs::write(world.upper(file), "old").unwrap();
        set_mode(&world.upper(file), 0o755);
    }
    let inode = |path: &Path| std::fs::symlink_metadata(path).unwrap().ino();
    let (first, alone) = (inode(&world.project("program")), inode(&world.project("alone")));
    std::fs::create_dir(world.upper("turned")).unwrap();
    std::fs::write(world.upper("turned/in"), "in").unwrap();
    std::fs::write(world.upper("dir"), "was a directory").unwrap();
    symlink("program", world.upper("link")).unwrap();
    std::fs::create_dir(world.upper("new")).unwrap();
    std::fs::write(world.upper("new/a\n\u{1b}[2J"), "odd").unwrap();
    set_mode(&world.upper("new"), 0o555);
    std::fs::create_dir(world.upper("shut")).unwrap();
    set_mode(&world.upper("shut"), 0o500);
    mknodat(
        openat(rustix::fs::CWD, world.upper("").as_path(), DIRECTORY, Mode::empty()).unwrap(),
        "fifo",
        FileType::Fifo,
        Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    let sparse = File::create(world.upper("long")).unwrap();
    sparse.set_len(32 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (16 << 20) + 1).unwrap();
    let has_attributes = rustix::fs::fsetxattr(&sparse, c"user.x", b"y", rustix::fs::XattrFlags::empty()).is_ok();
    let mut changes = vec![
        change(Status::Turned, "dir", Some(Kind::File), Some(Kind::Dir), 0o644),
        change(Status::Deleted, "dir/below", None, Some(Kind::Dir), 0),
        deleted("dir/below/x"),
        modified("edited"),
        modified("alone"),
        change(Status::Added, "fifo", Some(Kind::Fifo), None, 0o640),
        deleted("gone"),
        change(Status::Modified, "link", Some(Kind::Symlink), Some(Kind::Symlink), 0o777),
        modified("long"),
        change(Status::Added, "new", Some(Kind::Dir), None, 0o555),
        added("new/a\n\u{1b}[2J"),
        modified("program"),
        change(Status::Modified, "shut", Some(Kind::Dir), Some(Kind::Dir), 0o500),
        change(Status::Turned, "turned", Some(Kind::Dir), Some(Kind::File), 0o755),
        added("turned/in"),
    ];
    changes.sort_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
    let request = Request { named: ["fifo".into()].into(), ..Request::default() };
    for (path, outcome) in world.apply(&changes, &request) {
        assert!(matches!(outcome, Ok(Outcome::Done | Outcome::Applied(_))), "{path}: {outcome:?}");
    }
    let read = |path: &str| std::fs::read_to_string(world.project(path)).unwrap();
    let own = ["again", "alone", "dir", "edited", "fifo", "link", "long", "new", "program", "shut", "turned"];
    assert_eq!(names(&world.project("")), own);
    assert_eq!((read("edited"), mode(&world.project("edited"))), ("new".to_owned(), 0o751), "no set-id bit");
    assert_eq!(read("dir"), "was a directory");
    assert_eq!(read("turned/in"), "in");
    assert_eq!((read("new/a\n\u{1b}[2J"), mode(&world.project("new"))), ("odd".to_owned(), 0o555));
    assert_eq!(mode(&world.project("shut")), 0o500);
    assert_eq!(mode(&world.project("fifo")), 0o640);
    assert_eq!(std::fs::read_link(world.project("link")).unwrap(), Path::new("program"));
    // only its mode changed, and not that of the other
    let modes = ["program", "again", "alone"].map(|file| mode(&world.project(file)));
    assert_eq!(modes, [0o755, 0o600, 0o755]);
    assert_eq!((inode(&world.project("program")) == first, inode(&world.project("alone")) == alone), (false, true));
    let long = File::open(world.project("long")).unwrap();
    assert!(have_same_text(&sparse, &long).unwrap_or(true));
    let meta = long.metadata().unwrap();
    assert_eq!(meta.len(), 32 << 20);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    if has_attributes {
        assert_eq!(attributes(long.as_fd()).unwrap(), [(c"user.x".to_owned(), b"y".to_vec())]);
    }
    assert_eq!(std::fs::metadata(world.dir.path().join("journal")).unwrap().len(), 0);
}

#[test]
fn what_a_snapshot_froze_is_taken_from_its_layer() {
    let world = World::new(|project| {
        for file in ["old", "both"] {
            std::fs::write(project.join(file), "old").unwrap();
        }
        std::fs::create_dir(project.join("kept")).unwrap();
    });
    let frozen = |path: &str| world.dir.path().join("frozen").join(path);
    for dir in ["d", "kept"] {
        std::fs::create_dir(frozen(dir)).unwrap();
        std::fs::create_dir(world.upper(dir)).unwrap();
    }
    for file in ["old", "both", "d/frozen", "d/both"] {
        std::fs::write(frozen(file), "frozen").unwrap();
    }
    for file in ["both", "d/new", "d/both"] {
        std::fs::write(world.upper(file), "newer").unwrap();
    }
    std::fs::write(world.upper("unknown"), "of another layer").unwrap();
    symlink("d", frozen("link")).unwrap();
    set_mode(&frozen("kept"), 0o700);
    std::os::unix::fs::chown(frozen("d/frozen"), Some(65537), Some(65537)).unwrap();
    let of = |id: &str, change: Change| Change { layer: Some(id.to_owned()), ..change };
    let changes = [
        modified("both"),
        change(Status::Added, "d", Some(Kind::Dir), None, 0o755),
        added("d/both"),
        of("f1", added("d/frozen")),
        added("d/new"),
        of("f1", change(Status::Modified, "kept", Some(Kind::Dir), Some(Kind::Dir), 0o700)),
        of("f1", change(Status::Added, "link", Some(Kind::Symlink), None, 0o777)),
        of("f1", modified("old")),
        // one that was frozen since the layers were opened, or never
        of("f2", added("unknown")),
    ];
    for (path, outcome) in world.apply(&changes, &Request::default()) {
        match path.as_str() {
            "unknown" => assert!(outcome.is_err()),
            _ => assert!(matches!(outcome, Ok(Outcome::Done | Outcome::Applied(_))), "{path}: {outcome:?}"),
        }
    }
    let read = |path: &str| std::fs::read_to_string(world.project(path)).unwrap();
    for (file, text) in [("old", "frozen"), ("d/frozen", "frozen")] {
        assert_eq!(read(file), text, "{file}");
    }
    for file in ["both", "d/both", "d/new"] {
        assert_eq!(read(file), "newer", "{file}");
    }
    assert_eq!(mode(&world.project("kept")), 0o700);
    assert_eq!(std::fs::read_link(world.project("link")).unwrap(), Path::new("d"));
    let gid = std::fs::metadata(world.project("d/frozen")).unwrap().gid();
    assert_eq!(gid, rustix::process::getegid().as_raw(), "the group of that layer's account is no one's outside");
    assert!(!world.project("unknown").exists());
}

#[test]
fn what_the_person_may_not_read_does_not_come_out_by_another_name() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let apply = || {
        let world = World::new(|_| {});
        let frozen = |path: &str| world.dir.path().join("frozen").join(path);
        for (file, mode, owner) in [("secret", 0o600, 12), ("open", 0o644, 12), ("own", 0o600, 65537)] {
            std::fs::write(frozen(file), "text").unwrap();
            set_mode(&frozen(file), mode);
            std::os::unix::fs::chown(frozen(file), Some(owner), Some(owner)).unwrap();
        }
        set_mode(world.dir.path(), 0o755);
        std::os::unix::fs::chown(world.project(""), Some(65534), Some(65534)).unwrap();
        let changes = ["open", "own", "secret"].map(|file| Change { layer: Some("f1".to_owned()), ..added(file) });
        let sides = Sides { person: Looks::of(65534, 65534, &[]).unwrap(), ..world.sides() };
        let outcomes = world.run(&sides, &changes, &Request::default());
        assert_eq!(names(&world.project("")), ["open", "own"], "{outcomes:?}");
        outcomes.iter().map(|(_, outcome)| outcome.is_ok()).collect::<Vec<_>>()
    };
    // a thread of its own: it keeps the groups
    assert_eq!(std::thread::spawn(apply).join().unwrap(), [true, true, false]);
}

#[test]
fn what_the_person_wrote_since_stays() {
    let world = World::new(|project| {
        for file in ["edited", "gone", "removed", "kept"] {
            std::fs::write(project.join(file), "old").unwrap();
        }
        std::fs::create_dir(project.join("dir")).unwrap();
    });
    for file in ["edited", "gone", "new"] {
        std::fs::write(world.upper(file), "agent's").unwrap();
    }
    for file in ["edited", "removed", "new", "dir/new"] {
        std::fs::write(world.project(file), "person's").unwrap();
    }
    std::fs::remove_file(world.project("gone")).unwrap();
    let changes = [
        change(Status::Deleted, "dir", None, Some(Kind::Dir), 0),
        modified("edited"),
        modified("gone"),
        deleted("kept"),
        added("new"),
        deleted("removed"),
    ];
    let outcomes = world.apply(&changes, &Request::default());
    let outcomes: HashMap<_, _> = outcomes.into_iter().map(|(path, outcome)| (path, outcome.unwrap())).collect();
    assert_eq!(outcomes["edited"], clash());
    assert_eq!(outcomes["gone"], Outcome::Left(Why::Conflict(Clash::Gone)));
    assert_eq!(outcomes["new"], clash());
    assert_eq!(outcomes["removed"], clash());
    assert_eq!(outcomes["dir"], Outcome::NotEmpty);
    assert_eq!(outcomes["kept"], Outcome::Done);
    assert_eq!(names(&world.project("")), ["dir", "edited", "new", "removed"]);
    for file in ["edited", "removed", "new", "dir/new"] {
        assert_eq!(std::fs::read_to_string(world.project(file)).unwrap(), "person's", "{file}");
    }
    let conflicting: Vec<Change> = changes.iter().cloned().map(|c| Change { conflict: true, ..c }).collect();
    let force = Request { conflicts: Conflicts::Force, ..Request::default() };
    world.apply(&conflicting, &force);
    assert_eq!(names(&world.project("")), ["dir", "edited", "gone", "new"], "a directory with files is no conflict");
    assert_eq!(std::fs::read_to_string(world.project("edited")).unwrap(), "agent's");
}

#[test]
fn names_of_one_file_are_no_conflict_with_each_other() {
    let world = World::new(|project| {
        for [file, again] in [["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"], ["i", "j"]] {
            std::fs::write(project.join(file), "old").unwrap();
            std::fs::hard_link(project.join(file), project.join(again)).unwrap();
        }
    });
    for file in ["a", "b", "e", "g", "h"] {
        std::fs::write(world.upper(file), "agent's").unwrap();
    }
    let changes = [modified("a"), modified("b"), deleted("c"), deleted("d"), modified("e"), deleted("f")];
    for (path, outcome) in world.apply(&changes, &Request::default()) {
        assert!(matches!(outcome, Ok(Outcome::Done | Outcome::Applied(_))), "{path}: {outcome:?}");
    }
    assert_eq!(names(&world.project("")), ["a", "b", "e", "g", "h", "i", "j"]);
    // what the person wrote by one of them is by all, though one is taken whatever it is
    std::fs::write(world.project("h"), "person's").unwrap();
    let sides = world.sides();
    let force = Request { conflicts: Conflicts::Force, ..Request::default() };
    world.run(&sides, &[Change { conflict: true, ..modified("g") }], &force);
    assert_eq!(world.run(&sides, &[modified("h")], &Request::default()).remove(0).1.unwrap(), clash());
    // as well as what is written between the two
    let sides = world.sides();
    assert_eq!(world.run(&sides, &[deleted("i")], &Request::default()).remove(0).1.unwrap(), Outcome::Done);
    std::fs::write(world.project("j"), "new").unwrap();
    assert_eq!(world.run(&sides, &[deleted("j")], &Request::default()).remove(0).1.unwrap(), clash());
    for (file, text) in [("a", "agent's"), ("b", "agent's"), ("e", "agent's"), ("h", "person's"), ("j", "new")] {
        assert_eq!(std::fs::read_to_string(world.project(file)).unwrap(), text, "{file}");
    }
}

#[test]
fn what_was_applied_is_no_conflict_until_the_person_writes_it() {
    let world = World::new(|project| std::fs::write(project.join("f"), "old").unwrap());
    for text in ["one", "two", "three"] {
        std::fs::write(world.upper("f"), text).unwrap();
        let outcome = world.apply(&[modified("f")], &Request::default()).remove(0).1.unwrap();
        assert!(matches!(outcome, Outcome::Applied(_)), "{text}: {outcome:?}");
        assert_eq!(std::fs::read_to_string(world.project("f")).unwrap(), text);
    }
    std::fs::write(world.project("f"), "mine").unwrap();
    std::fs::write(world.upper("f"), "four").unwrap();
    assert_eq!(world.apply(&[modified("f")], &Request::default()).remove(0).1.unwrap(), clash());
    // what was merged differs from the environment's: that it is there is no leave to overwrite it
    let both = [Change { conflict: true, ..modified("f") }];
    let merge = Request { conflicts: Conflicts::Merge, ..Request::default() };
    assert_eq!(world.apply(&both, &merge).remove(0).1.unwrap(), Outcome::Done);
    assert_eq!(std::fs::read_to_string(world.project("f")).unwrap(), "minefour");
    assert_eq!(world.apply(&[modified("f")], &Request::default()).remove(0).1.unwrap(), clash());
    std::fs::write(world.project("f"), "no").unwrap();
    let why = Why::Conflict(Clash::Unmerged("no"));
    assert_eq!(world.apply(&both, &merge).remove(0).1.unwrap(), Outcome::Left(why));
}

#[test]
fn a_link_in_the_place_of_a_directory_is_not_followed() {
    let world = World::new(|project| std::fs::create_dir(project.join("d")).unwrap());
    let outside = world.dir.path().join("outside");
    std::fs::write(outside.join("precious"), "").unwrap();
    std::fs::create_dir(world.upper("d")).unwrap();
    std::fs::write(world.upper("d/x"), "").unwrap();
    std::fs::remove_dir(world.project("d")).unwrap();
    symlink(&outside, world.project("d")).unwrap();
    let changes = [added("d/x"), deleted("d/precious")];
    assert!(world.apply(&changes, &Request::default()).iter().all(|(_, outcome)| outcome.is_err()));
    // nor on the other side
    std::fs::remove_file(world.project("d")).unwrap();
    std::fs::create_dir(world.project("d")).unwrap();
    std::fs::remove_dir_all(world.upper("d")).unwrap();
    symlink(&outside, world.upper("d")).unwrap();
    assert!(world.apply(&[added("d/precious")], &Request::default())[0].1.is_err());
    std::fs::remove_file(world.upper("d")).unwrap();
    std::fs::create_dir(world.upper("d")).unwrap();
    symlink(outside.join("precious"), world.upper("d/x")).unwrap();
    assert!(world.apply(&[added("d/x")], &Request::default())[0].1.is_err(), "it was a file when it was looked at");
    let link = change(Status::Added, "d/x", Some(Kind::Symlink), None, 0o777);
    assert!(matches!(world.apply(&[link], &Request::default()).remove(0).1.unwrap(), Outcome::Left(Why::LeadsOut(_))));
    assert_eq!((names(&outside), names(&world.project("d"))), (vec!["precious".to_owned()], vec![]));
}

/// Runs `work` again and again in another thread until it is dropped.
struct Busy {
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Busy {
    fn with(mut work: impl FnMut() + Send + 'static) -> Busy {
        let ended = Arc::new(AtomicBool::new(false));
        let told = ended.clone();
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                work();
            }
        });
        Busy { ended, thread: Some(thread) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

#[test]
fn a_directory_that_is_swapped_all_the_while_is_itself_or_nothing() {
    let world = World::new(|project| std::fs::create_dir(project.join("d")).unwrap());
    let (outside, link, dir) = (world.dir.path().join("outside"), world.project("link"), world.project("d"));
    std::fs::write(outside.join("precious"), "kept").unwrap();
    symlink(&outside, &link).unwrap();
    std::fs::create_dir(world.upper("d")).unwrap();
    std::fs::write(world.upper("d/x"), "").unwrap();
    std::fs::write(world.upper("d/precious"), "overwritten").unwrap();
    let swap = Busy::with(move || {
        renameat_with(rustix::fs::CWD, &dir, rustix::fs::CWD, &link, RenameFlags::EXCHANGE).unwrap();
    });
    let changes = [deleted("d/precious"), added("d/x"), added("d/y")];
    let force = Request { conflicts: Conflicts::Force, ..Request::default() };
    let mut done = 0;
    // a directory that is swapped is not the one that it was, which is not what is to be seen here
    let sides = Sides { since: (i64::MAX, 0), ..world.sides() };
    for _ in 0..3000 {
        let outcomes = changes.iter().map(|change| {
            sides.known.borrow_mut().clear();
            let changes = [Change { conflict: true, ..change.clone() }];
            let step = plan(&changes, &force, &sides.path).steps.remove(0);
            sides.act(&step, false)
        });
        done += outcomes.filter(Result::is_ok).count();
    }
    drop(swap);
    assert_eq!(names(&outside), ["precious"]);
    assert_eq!(std::fs::read_to_string(outside.join("precious")).unwrap(), "kept");
    assert!(done > 0, "it was never there when it was looked for");
}

#[test]
fn a_directory_that_is_replaced_by_another_is_not_written() {
    let world = World::new(|project| {
        for dir in ["d/e", "other/e"] {
            std::fs::create_dir_all(project.join(dir)).unwrap();
            std::fs::write(project.join(dir).join("x"), "old").unwrap();
        }
    });
    std::fs::create_dir_all(world.upper("d/e")).unwrap();
    std::fs::write(world.upper("d/e/x"), "new").unwrap();
    let sides = world.sides();
    // after the changes were looked for
    std::fs::rename(world.project("d"), world.project("moved")).unwrap();
    std::fs::rename(world.project("other"), world.project("d")).unwrap();
    assert!(world.run(&sides, &[modified("d/e/x")], &Request::default())[0].1.is_err());
    assert_eq!(std::fs::read_to_string(world.project("d/e/x")).unwrap(), "old");
}

#[test]
fn what_the_person_writes_meanwhile_is_never_lost() {
    let world = World::new(|project| {
        for file in ["edited", "gone", "idle"] {
            std::fs::write(project.join(file), "old").unwrap();
        }
    });
    std::fs::write(world.upper("edited"), "agent's").unwrap();
    std::fs::write(world.upper("new"), "agent's").unwrap();
    let dir = world.project("");
    for round in 0..100u64 {
        let mut sides = Sides { since: (i64::MAX, 0), ..world.sides() };
        for file in ["edited", "gone"] {
            std::fs::write(dir.join(file), "old").unwrap();
        }
        let _ = std::fs::remove_file(dir.join("new"));
        std::thread::sleep(TICK);
        sides.judge = Judge::new(base(), b"");
        std::thread::sleep(TICK);
        let files = dir.clone();
        // as editors do: aside, and renamed; at another instant of the step each time
        let (begun, wait) = (std::time::Instant::now(), Duration::from_micros(round * 37 % 400));
        let person = std::thread::spawn(move || {
            while begun.elapsed() < wait {
                std::hint::spin_loop();
            }
            for count in 0..=round % 3 {
                for file in ["edited", "gone", "new"] {
                    std::fs::write(files.join(".editor"), format!("person's {count}")).unwrap();
                    std::fs::rename(files.join(".editor"), files.join(file)).unwrap();
                }
            }
        });
        let outcomes = [modified("edited"), deleted("gone"), added("new")].map(|change| {
            let step = plan(&[change], &Request::default(), &sides.path).steps.remove(0);
            sides.act(&step, false)
        });
        person.join().unwrap();
        for file in ["edited", "gone", "new"] {
            let text = std::fs::read_to_string(dir.join(file)).unwrap_or_default();
            assert_eq!(text, format!("person's {}", round % 3), "{file}: {outcomes:?}");
        }
        // who writes twice in an instant is told where the first is kept
        for name in names(&dir).iter().filter(|name| name.starts_with(".lbx-apply")) {
            let told = outcomes.iter().any(|outcome| {
                outcome.as_ref().is_err_and(|e| format!("{e:#}").contains(&format!("is kept as '{name}'")))
            });
            assert!(told, "{name}: {outcomes:?}");
            std::fs::remove_file(dir.join(name)).unwrap();
        }
    }
}

#[test]
fn what_a_killed_run_left_is_ended() {
    let world = World::new(|project| {
        std::fs::write(project.join("f"), "old").unwrap();
        std::fs::create_dir(project.join("d")).unwrap();
    });
    let aside = ".lbx-apply.app-1a2b";
    let (f, left) = (world.project("f"), world.project(aside));
    let facts = |path: &Path| Facts::of(&rustix::fs::lstat(path).unwrap());
    let recovered = |note: &dyn Fn(&Journal)| {
        note(&world.sides().journal);
        let kept = world.sides().recover().unwrap();
        let left = names(&world.project(""));
        (kept, left, std::fs::read_to_string(&f).ok())
    };
    let whole = |text: &str| (None, vec!["d".to_owned(), "f".to_owned()], Some(text.to_owned()));
    // half-written
    std::fs::write(&left, "ne").unwrap();
    assert_eq!(recovered(&|journal| journal.note(Path::new("f"), aside, 0, None).unwrap()), whole("old"));
    // whole, and not yet in its place
    std::fs::write(&left, "new").unwrap();
    let (ours, goes) = (facts(&left), facts(&f));
    let exchange = |journal: &Journal| journal.note(Path::new("f"), aside, ours.inode, Some(goes)).unwrap();
    assert_eq!(recovered(&exchange), whole("old"));
    // in its place, and the other not yet gone
    std::fs::write(&left, "new").unwrap();
    let (ours, goes) = (facts(&left), facts(&f));
    renameat_with(rustix::fs::CWD, &left, rustix::fs::CWD, &f, RenameFlags::EXCHANGE).unwrap();
    let exchange = |journal: &Journal| journal.note(Path::new("f"), aside, ours.inode, Some(goes)).unwrap();
    assert_eq!(recovered(&exchange), whole("new"));
    // in its place, in exchange for what the person had just written
    let goes = facts(&f);
    std::fs::write(&left, "newer").unwrap();
    let ours = facts(&left);
    std::fs::write(world.project("editor"), "person's").unwrap();
    std::fs::rename(world.project("editor"), &f).unwrap();
    renameat_with(rustix::fs::CWD, &left, rustix::fs::CWD, &f, RenameFlags::EXCHANGE).unwrap();
    let exchange = |journal: &Journal| journal.note(Path::new("f"), aside, ours.inode, Some(goes)).unwrap();
    assert_eq!(recovered(&exchange), whole("person's"));
    // taken out to be removed: what it was, and what the person had just written
    let goes = facts(&f);
    std::fs::rename(&f, &left).unwrap();
    let removal = |journal: &Journal| journal.note(Path::new("f"), aside, 0, Some(goes)).unwrap();
    assert_eq!(recovered(&removal), (None, vec!["d".to_owned()], None));
    std::fs::write(&left, "person's").unwrap();
    assert_eq!(recovered(&removal), whole("person's"));
    // and written again meanwhile: both stay
    std::fs::write(&left, "person's").unwrap();
    std::fs::write(&f, "and again").unwrap();
    let kept = (Some(aside.into()), vec![aside.to_owned(), "d".to_owned(), "f".to_owned()], Some("and again".into()));
    assert_eq!(recovered(&removal), kept);
    std::fs::remove_file(&left).unwrap();
    // a directory in its place, and not yet in the list of what was applied
    let list = || std::fs::read_to_string(world.dir.path().join("applied")).unwrap();
    assert_eq!(recovered(&|journal| journal.note(Path::new("d"), aside, 1, None).unwrap()), whole("and again"));
    assert_eq!(list(), "", "it is another");
    let ours = facts(&world.project("d")).inode;
    assert_eq!(recovered(&|journal| journal.note(Path::new("d"), aside, ours, None).unwrap()), whole("and again"));
    assert!(list().contains(&format!("\"ino\":{ours}")), "{}", list());
    // a directory that was open; a line that was torn
    set_mode(&world.project("d"), 0o755);
    let opened = |journal: &Journal| {
        journal.opened(Path::new("d"), 0o755, 0o555).unwrap();
        let mut file = File::options().append(true).open(world.dir.path().join("journal")).unwrap();
        file.write_all(b"{\"path\":[\"f\",nu").unwrap();
    };
    assert_eq!(recovered(&opened), whole("and again"));
    assert_eq!(mode(&world.project("d")), 0o555);
}
