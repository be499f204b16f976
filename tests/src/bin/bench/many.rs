//! Many environments at once, and the machine's other work beside them.
//!
//! Beside a thousand and beside one, by turns: a thousand come and go some times, and before and after
//! each change the same short pieces of work are timed, over and over, by programs that live on through
//! all of it. Of a window counts the time that a tenth of its pieces stay below: what disturbs from
//! elsewhere only ever adds, and meets few of them, while what many environments cost, all pay.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use lbx_tests::{Project, tool_file};
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare};
use nix::unistd::Pid;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::Figure;
use crate::pairs::{asked, between, median, pairs, run, time};

/// How many live at last, the one that always does included.
const MANY: usize = 1000;
/// How many live when time and memory are looked at on the way up.
const COUNTS: [usize; 3] = [10, 100, MANY];
/// How often a thousand come and go.
const TURNS: usize = 6;
/// How often a window goes over all that it times: a little of each, so that a mood of the machine
/// meets all alike.
const SLICES: usize = 10;
/// How many of the first and of the last are entered in turn.
const LOOK: usize = 100;
/// What is timed, how often in a slice, and what it may be beside a thousand, to what it is beside one.
const TIMED: [(&str, &str, usize, f64); 5] = [
    ("many-create", "create and first command of another", 3, 1.3),
    ("many-enter", "a command in the last", 6, 1.3),
    ("many-fork", "10 forks of a shell", 20, 1.05),
    ("many-exec", "5 × true", 20, 1.05),
    ("many-mount", "a mount namespace with 5 mounts and umounts", 20, 1.05),
];
/// How each grows: names of figures by [`COUNTS`], of creating and of entering.
const CLIMB: [(&str, &str); 4] = [
    ("many-create-at-1", "many-enter-at-1"),
    ("many-create-at-10", "many-enter-at-10"),
    ("many-create-at-100", "many-enter-at-100"),
    ("many-create-at-1000", "many-enter-at-1000"),
];

/// Times of what is [`TIMED`].
type Window = [Vec<f64>; TIMED.len()];

pub(crate) fn figures() -> Vec<Figure> {
    let (env, enter) = (tool_file("lbx-env"), tool_file("lbx-enter"));
    let verb = |verb: &str, dir: &Path| run(&[env.as_os_str(), OsStr::new(verb), OsStr::new("--"), dir.as_os_str()]);
    let command = |dir: &Path| run(&[enter.as_os_str(), dir.as_os_str(), OsStr::new("--"), OsStr::new("true")]);
    let all = |verb: &str, dirs: &[PathBuf]| {
        let list: String = dirs.iter().map(|dir| format!("{}\n", dir.display())).collect();
        asked(Command::new(&env).args([verb, "-"]), &list);
        // what was just made is still being written, and who syncs next would wait for it
        run(&["sync", "--file-system", "/srv"]);
        settle();
    };
    let (base, another) = (Project::new(), Project::new());
    let dirs: Vec<_> = (1..MANY).map(|n| base.base().join(format!("p{n}"))).collect();
    dirs.iter().for_each(|dir| std::fs::create_dir(dir).expect("a project"));
    // the first pays for what all share, and the last that goes takes it along
    verb("create", base.path());
    verb("start", base.path());
    let mut forks = Other::run("(:); (:); (:); (:); (:); (:); (:); (:); (:); (:)");
    let mut execs = Other::run("/bin/true; /bin/true; /bin/true; /bin/true; /bin/true");
    let mut window = |last: &Path| -> Window {
        let mut times = Window::default();
        let [create, enter, fork, exec, mount] = TIMED.map(|(_, _, times, _)| times);
        for _ in 0..SLICES {
            for _ in 0..create {
                times[0].push(time(&mut || {
                    verb("create", another.path());
                    command(another.path());
                }));
                verb("delete", another.path());
            }
            times[1].extend((0..enter).map(|_| time(&mut || command(last))));
            times[2].extend((0..fork).map(|_| forks.time()));
            times[3].extend((0..exec).map(|_| execs.time()));
            times[4].extend(mounts(mount));
        }
        times
    };
    // the first of all is slow for reasons of its own
    window(base.path());
    let few = [("memory-1", 1), ("memory-10", 10)];
    let mut figures: Vec<_> = few.map(|(name, count)| memory_of_few(name, &dirs[..count], &all)).into();

    let (mut alone, mut beside) = (vec![window(base.path())], Vec::new());
    let mut climb = alone.clone();
    let mut memory: [Vec<f64>; 2] = Default::default();
    let mut deleted = Vec::new();
    let last = dirs.last().expect("many");
    for turn in 0..TURNS {
        if turn == 0 {
            let mut have = 0;
            for count in COUNTS {
                all("create", &dirs[have..count - 1]);
                all("start", &dirs[have..count - 1]);
                have = count - 1;
                climb.push(window(&dirs[count - 2]));
            }
            let (mut early, mut late) = (dirs.iter(), dirs.iter().rev());
            let enter = |dirs: &mut dyn Iterator<Item = &PathBuf>| command(dirs.next().expect("there are more"));
            figures.push(Figure::ratio(
                "many-position",
                "a command in the last made of 1,000 | in the first made, while all live",
                Some(1.3),
                pairs(LOOK, || enter(&mut late), || enter(&mut early)),
            ));
        } else {
            all("create", &dirs);
            let (before, mut have) = (used(), 0);
            for (count, each) in COUNTS[1..].iter().zip(&mut memory) {
                all("start", &dirs[have..count - 1]);
                have = count - 1;
                each.push((used() - before) / have as f64);
            }
        }
        beside.push(window(last));
        deleted.push(time(&mut || all("delete", &dirs)) / 1000.0);
        alone.push(window(base.path()));
    }

    for (at, (name, about, _, promise)) in TIMED.into_iter().enumerate() {
        let quick = |windows: &[Window]| -> Vec<f64> { windows.iter().map(|times| tenth(&times[at])).collect() };
        let about = format!("{about}, beside 1,000 environments | beside one, by turns");
        figures.push(Figure::ratio(name, about, Some(promise), between(&quick(&beside), &quick(&alone))));
    }
    for ((creating, entering), (times, count)) in CLIMB.into_iter().zip(climb.iter().zip([1, 10, 100, MANY])) {
        let of = |at: usize| median(times[at].clone());
        figures.push(Figure::value(
            creating,
            format!("create and first command of another, beside {count}"),
            None,
            of(0),
            "ms",
        ));
        figures.push(Figure::value(entering, format!("a command in the last of {count}"), None, of(1), "ms"));
    }
    for ((count, each), name) in COUNTS[1..].iter().zip(memory).zip(["memory-100", "memory-1000"]) {
        figures.push(memory_of(name, *count, (*count == MANY).then_some(300.0), each));
    }
    figures.push(Figure::value("many-delete", "delete of 1,000 that live, at once", Some(5.0), median(deleted), "s"));
    figures
}

/// Of few it is little beside what the machine takes and gives meanwhile, so that it is looked at often.
fn memory_of_few(name: &'static str, dirs: &[PathBuf], all: &impl Fn(&str, &[PathBuf])) -> Figure {
    all("create", dirs);
    let once = |_| {
        let before = used();
        all("start", dirs);
        let more = used() - before;
        all("stop", dirs);
        more / dirs.len() as f64
    };
    let each = (0..9).map(once).collect();
    all("delete", dirs);
    memory_of(name, dirs.len(), None, each)
}

fn memory_of(name: &'static str, count: usize, promise: Option<f64>, each: Vec<f64>) -> Figure {
    let about = format!("memory of one idle of {count}, the kernel's included");
    Figure::value(name, about, promise, median(each), "KiB")
}

/// What ended is cleared away behind its end.
fn settle() {
    std::thread::sleep(Duration::from_secs(1));
}

/// What a tenth of `times` stays below.
fn tenth(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 10]
}

/// Times of `count` mount namespaces with mounts in them, in a thread with one for itself.
fn mounts(count: usize) -> Vec<f64> {
    let once = || {
        unshare(CloneFlags::CLONE_NEWNS).expect("root makes namespaces");
        for _ in 0..5 {
            mount("none", "/mnt", "tmpfs", MountFlags::empty(), None).expect("root mounts");
            unmount("/mnt", UnmountFlags::empty()).expect("nobody is there");
        }
    };
    let work = || {
        sched_setaffinity(Pid::from_raw(0), &one_processor()).expect("a thread can stay where it is");
        (0..count).map(|_| time(&mut || once())).collect()
    };
    std::thread::scope(|scope| scope.spawn(work).join().expect("it ends"))
}

/// The last processor that there is for us.
fn one_processor() -> CpuSet {
    let all = sched_getaffinity(Pid::from_raw(0)).expect("our processors");
    let last = (0..CpuSet::count()).rfind(|cpu| all.is_set(*cpu).unwrap_or(false)).expect("a processor");
    let mut one = CpuSet::new();
    one.set(last).expect("a processor");
    one
}

/// An unrelated program: a shell that does the same work again whenever it is asked, and tells how long
/// it took.
struct Other {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Other {
    fn run(work: &str) -> Other {
        let script = format!(
            "while read -r; do before=$EPOCHREALTIME; {work}; after=$EPOCHREALTIME; echo $((${{after/./}} - ${{before/./}})); done"
        );
        let mut bash = Command::new("bash");
        let mut child =
            bash.args(["--norc", "-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash");
        let pid = Pid::from_raw(child.id().try_into().expect("a pid"));
        sched_setaffinity(pid, &one_processor()).expect("a child can be kept on a processor");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Other { child, lines }
    }

    /// Milliseconds.
    fn time(&mut self) -> f64 {
        self.child.stdin.as_mut().expect("a pipe").write_all(b"\n").expect("it listens");
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("it answers");
        line.trim().parse::<f64>().expect("bash knows the time") / 1000.0
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// KiB that are neither free nor copies of what is on a disk.
fn used() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let field = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
    };
    field("MemTotal") - field("MemFree") - field("Buffers") - field("Cached") + field("Shmem")
}
