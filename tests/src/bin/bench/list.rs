//! Thousands that are recorded.

use std::path::{Path, PathBuf};
use std::process::Command;

use lbx_tests::{Project, tool_file};
use rustix::fs::{AtFlags, Mode, OFlags, open, openat, statat};

use crate::pairs::{apart, asked, median, run, time, times};
use crate::{Figure, tab};

const RECORDED: usize = 10_000;
const STATE: &str = "/var/lib/llima-box/envs";
/// How many creations and deletions are timed.
const LOOK: usize = 30;
const BATCH: usize = 200;

pub(crate) fn figures() -> Vec<Figure> {
    let base = Project::new();
    let dir = |name: String| -> PathBuf {
        let dir = base.path().join(name);
        std::fs::create_dir(&dir).expect("a project");
        dir
    };
    let env = tool_file("lbx-env");
    let run_env = |verb: &str, dir: &Path| run(&[env.as_os_str(), verb.as_ref(), "--".as_ref(), dir.as_os_str()]);
    let come_and_go = |prefix: &str| -> (Vec<f64>, Vec<f64>) {
        let dirs: Vec<_> = (0..LOOK).map(|n| dir(format!("{prefix}{n}"))).collect();
        let created = dirs.iter().map(|dir| time(&mut || run_env("create", dir))).collect();
        (created, dirs.iter().map(|dir| time(&mut || run_env("delete", dir))).collect())
    };
    let model = Model::of(&base);
    let (first, first_deleted) = come_and_go("first");
    let mut have = 1;
    let listed = [100, 1_000, RECORDED].map(|count| {
        let dirs: Vec<_> = (have..count).map(|n| base.path().join(format!("p{n}"))).collect();
        model.seed(&dirs, have);
        have = count;
        // what was just made is still being written
        run(&["sync", "--file-system", STATE]);
        let listed = list(&[]);
        look();
        [median(listed), median(times(25, look))]
    });
    let names = list(&["--names"]);
    let tabs = tab::figures();
    let (last, last_deleted) = come_and_go("last");
    let batch: String = (0..BATCH).map(|n| format!("{}\n", dir(format!("batch{n}")).display())).collect();
    let created = time(&mut || feed(&["create", "-"], &batch)) / BATCH as f64;
    let deleted = time(&mut || feed(&["delete", "-"], &batch)) / BATCH as f64;
    let [at_100, at_1000, at_10000] = listed.map(|[listed, _]| listed);
    let linear = |[at_100, at_1000, at_10000]: [f64; 3]| {
        let each = |more: f64, less: f64, count: f64| (more - less) * 1000.0 / count;
        crate::Measured::Ratio(apart(&[each(at_10000, at_1000, 9_000.0)], &[each(at_1000, at_100, 900.0)]), "µs")
    };
    let mut figures = vec![
        Figure::value("list-100", "`lbx-ls`, 100 recorded", None, at_100, "ms"),
        Figure::value("list-1000", "`lbx-ls`, 1,000 recorded", None, at_1000, "ms"),
        Figure::value("list", "`lbx-ls`, 10,000 recorded", Some(100.0), at_10000, "ms"),
        Figure {
            name: "list-linear",
            about: "each of the last 9,000 in `lbx-ls` | each of the 900 after the first 100".into(),
            promise: Some(1.25),
            measured: linear([at_100, at_1000, at_10000]),
        },
        Figure {
            name: "list-linear-bare",
            about: "the same of nothing but open, read, close and stat".into(),
            promise: None,
            measured: linear(listed.map(|[_, bare]| bare)),
        },
        Figure::value("list-names", "`lbx-ls --names`, 10,000 recorded", None, median(names), "ms"),
        Figure::ratio("list-create", "create beside 10,000 recorded | beside none", Some(2.0), apart(&last, &first)),
        Figure::ratio(
            "list-delete",
            "delete beside 10,000 recorded | beside none",
            None,
            apart(&last_deleted, &first_deleted),
        ),
        Figure::value("list-create-many", "`lbx-env create -` of 200 beside 10,000, each", None, created, "ms"),
        Figure::value("list-delete-many", "`lbx-env delete -` of 200 beside 10,000, each", None, deleted, "ms"),
    ];
    figures.extend(tabs);
    figures
}

/// An environment that lbx-env made, and of which others are copies: what it has on disk, by files and
/// by lines of the account files. Making each by itself would take minutes.
struct Model {
    record: String,
    lines: Vec<(&'static str, String)>,
    name: String,
    path: String,
    uid: u64,
}

impl Model {
    fn of(base: &Project) -> Model {
        let name = base.create(&[]);
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{file}: {e}"));
        let line = |file: &'static str| {
            let text = read(file);
            let line = text.lines().find(|line| line.starts_with(&format!("{name}:")));
            (file, format!("{}\n", line.unwrap_or_else(|| panic!("{file} has no line of {name}"))))
        };
        let lines = ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"].map(line).into();
        let record = read(&format!("{STATE}/{name}/record.json"));
        let uid = base.record()["uid"].as_u64().expect("a uid");
        Model { record, lines, name, path: base.str().to_owned(), uid }
    }

    /// Makes `dirs` projects with records and accounts, numbered from `number`.
    fn seed(&self, dirs: &[PathBuf], number: usize) {
        let paths: String = dirs.iter().map(|dir| format!("{}\n", dir.display())).collect();
        let names = asked(Command::new(tool_file("lbx-name")).arg("-"), &paths);
        let mut lines: Vec<String> = vec![String::new(); self.lines.len()];
        for (at, (dir, name)) in dirs.iter().zip(names.lines()).enumerate() {
            let uid = (self.uid as usize + number + at).to_string();
            let copy = |text: &str, path: &str| {
                let quoted = |path: &str| format!("\"{path}\"");
                let text = text.replace(&quoted(&self.path), &quoted(path)).replace(&self.name, name);
                text.replace(&self.uid.to_string(), &uid)
            };
            std::fs::create_dir(dir).expect("a project");
            let state = Path::new(STATE).join(name);
            std::fs::create_dir(&state).expect("a directory of records");
            let record = copy(&self.record, dir.to_str().expect("a path of UTF-8"));
            std::fs::write(state.join("record.json"), record).expect("a record");
            for other in
                ["lock", "last_used"].iter().filter(|other| Path::new(STATE).join(&self.name).join(other).exists())
            {
                std::fs::write(state.join(other), "").expect("a file beside a record");
            }
            lines.iter_mut().zip(&self.lines).for_each(|(all, (_, line))| *all += &copy(line, ""));
        }
        let members: String = names.lines().map(|name| format!(",{name}")).collect();
        for (lines, (file, _)) in lines.iter().zip(&self.lines) {
            let text = std::fs::read_to_string(file).expect("an account file");
            let group = |line: &str| match line.starts_with("lbx-env:") {
                true => format!("{line}{members}\n"),
                false => format!("{line}\n"),
            };
            let text: String = text.lines().map(group).collect();
            std::fs::write(file, text + lines).expect("account files can be written");
        }
    }
}

fn list(words: &[&str]) -> Vec<f64> {
    let mut all = vec![tool_file("lbx-ls").display().to_string()];
    all.extend(words.iter().map(|word| (*word).to_owned()));
    run(&all);
    times(25, || run(&all))
}

/// The system calls of a list, and nothing else: by as much as these grow it is the machine that does, which
/// has more to keep in its caches.
fn look() {
    let dir = open(STATE, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("a directory of records");
    let mut text = [0; 4096];
    for entry in std::fs::read_dir(STATE).expect("a directory of records") {
        let state = PathBuf::from(entry.expect("an entry").file_name());
        let file = openat(&dir, state.join("record.json"), OFlags::RDONLY, Mode::empty()).expect("a record");
        rustix::io::read(&file, &mut text).expect("a record can be read");
        drop(file);
        // an environment that was never used has none
        let _ = statat(&dir, state.join("last_used"), AtFlags::empty());
    }
}

fn feed(words: &[&str], input: &str) {
    asked(Command::new(tool_file("lbx-env")).args(words), input);
}
