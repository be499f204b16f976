//! Many environments at once.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lbx_tests::{Project, tool_file};

use crate::Figure;
use crate::pairs::{apart, median, run, sh, time, times};

/// How many live at last.
const MANY: usize = 1000;
/// How many are started for their memory to be looked at.
const COUNTS: [usize; 3] = [10, 100, MANY];
/// How many of the first and of the last are looked at.
const LOOK: usize = 30;
/// What an unrelated program does.
const OTHERS: [(&str, &str, &str); 3] = [
    ("many-fork", "30 forks of a shell", "for i in 0 1 2 3 4 5 6 7 8 9; do (:); (:); (:); done"),
    ("many-exec", "10 × true", "for i in 0 1 2 3 4 5 6 7 8 9; do /bin/true; done"),
    (
        "many-mount",
        "a mount namespace with 5 mounts and umounts",
        "unshare -m sh -c 'for i in 1 2 3 4 5; do mount -t tmpfs none /mnt && umount /mnt; done'",
    ),
];

pub(crate) fn figures() -> Vec<Figure> {
    let (env, enter) = (tool_file("lbx-env"), tool_file("lbx-enter"));
    let verb = |verb: &str, dir: &Path| run(&[env.as_os_str(), OsStr::new(verb), OsStr::new("--"), dir.as_os_str()]);
    let command = |dir: &Path| run(&[enter.as_os_str(), dir.as_os_str(), OsStr::new("--"), OsStr::new("true")]);
    let base = Project::new();
    let dirs: Vec<_> = (0..MANY).map(|n| base.path().join(format!("p{n}"))).collect();
    dirs.iter().for_each(|dir| std::fs::create_dir(dir).expect("a project"));
    // the first pays for what all share
    verb("create", base.path());
    verb("start", base.path());
    command(base.path());
    let others = || OTHERS.map(|(_, _, work)| times(LOOK, || sh(work)));
    let (mut made, mut entered) = (Vec::new(), Vec::new());
    let mut make = |dir: &Path| {
        made.push(time(&mut || {
            verb("create", dir);
            verb("start", dir);
        }));
        entered.push(time(&mut || command(dir)));
    };
    dirs.iter().for_each(|dir| make(dir));
    // by turns, as far as a thousand can: the machine's mood changes meanwhile
    let all = |verb: &str, dirs: &[PathBuf]| {
        let words = [env.as_os_str(), OsStr::new(verb), OsStr::new("--")];
        run(&words.into_iter().chain(dirs.iter().map(|dir| dir.as_os_str())).collect::<Vec<_>>());
    };
    let (mut alone, mut beside): ([Vec<f64>; 3], [Vec<f64>; 3]) = Default::default();
    let add = |to: &mut [Vec<f64>; 3]| to.iter_mut().zip(others()).for_each(|(to, more)| to.extend(more));
    add(&mut beside);
    let mut memory: [Vec<f64>; 3] = Default::default();
    for _ in 0..2 {
        all("stop", &dirs);
        add(&mut alone);
        let (before, mut from) = (used(), 0);
        for (upto, each) in COUNTS.iter().zip(&mut memory) {
            all("start", &dirs[from..*upto]);
            from = *upto;
            each.push((used() - before) / *upto as f64);
        }
        add(&mut beside);
    }
    let deleted = time(&mut || all("delete", &dirs)) / 1000.0;
    add(&mut alone);
    // the first once more
    dirs[..LOOK].iter().for_each(|dir| make(dir));

    let ratio = |name, about: &str, promise, times: &[f64]| {
        Figure::ratio(name, about, Some(promise), {
            let first = [&times[..LOOK], &times[MANY..]].concat();
            apart(&times[MANY - LOOK..MANY], &first)
        })
    };
    let mut figures = vec![
        ratio("many-create", "create and start, the last 30 of 1,000 | the first 30, before and after", 1.3, &made),
        ratio("many-enter", "a command in each, the last 30 of 1,000 | the first 30, before and after", 1.3, &entered),
    ];
    for ((name, about, _), (beside, alone)) in OTHERS.iter().zip(beside.iter().zip(&alone)) {
        let about = format!("{about}, beside 1,000 environments | beside one, by turns");
        figures.push(Figure::ratio(name, about, Some(1.05), apart(beside, alone)));
    }
    let at = |upto: usize, times: &[f64]| median(times[upto.saturating_sub(LOOK).min(upto / 2)..upto].to_vec());
    for (name, entering, count) in [("many-at-10", "many-enter-at-10", 10), ("many-at-100", "many-enter-at-100", 100)] {
        figures.push(Figure::value(name, format!("create and start, of {count}"), None, at(count, &made), "ms"));
        figures.push(Figure::value(
            entering,
            format!("a command in each, of {count}"),
            None,
            at(count, &entered),
            "ms",
        ));
    }
    for ((count, each), name) in COUNTS.iter().zip(memory).zip(["memory-10", "memory-100", "memory-1000"]) {
        let about = format!("memory of one idle of {count}, the kernel's included");
        let promise = (*count == MANY).then_some(300.0);
        figures.push(Figure::value(name, about, promise, median(each), "KiB"));
    }
    figures.push(Figure::value("many-delete", "delete of 1,000 that live, at once", Some(5.0), deleted, "s"));
    figures
}

/// KiB that are neither free nor copies of what is on a disk.
fn used() -> f64 {
    // what ended is cleared away behind its end
    std::thread::sleep(Duration::from_secs(1));
    let text = std::fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let field = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
    };
    field("MemTotal") - field("MemFree") - field("Buffers") - field("Cached") + field("Shmem")
}
