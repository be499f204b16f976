//! Forks: one environment becomes several. `scripts/bench` lays /etc on the disk that has all else, as for
//! `life`.

use std::path::Path;

use lbx_tests::{Project, tool_file};
use nix::sys::statvfs::statvfs;

use crate::Figure;
use crate::pairs::{Compared, median, run, time, told};

const EIGHT: [&str; 2] = ["--count", "8"];
const EIGHT_OF: &str = "eight forks of one with 1 GiB in its home and 50,000 changed files";

pub(crate) fn figures() -> Vec<Figure> {
    // the last environment that goes takes along what all share, and the last that was forked what forks do
    let other = Project::new();
    let name = other.create(&[]);
    other.sh("echo x >~/file");
    other.must("stop");
    env(&["create", "--from", &name, "--name", "other"]);
    other.must("start");
    let mut figures = vec![
        Figure::ratio(
            "fork",
            "`lbx-env create --from` one that has written since it was frozen | `lbx-env create`",
            Some(1.2),
            against_create(&[], true),
        ),
        Figure::ratio("fork-again", "the same of one that has not", Some(1.2), against_create(&[], false)),
        Figure::ratio(
            "fork-cow",
            "as `fork`, both with `--project cow`",
            Some(1.2),
            against_create(&["--project", "cow"], true),
        ),
    ];
    let (times, room) = eight();
    figures.push(Figure::value("fork-eight", EIGHT_OF, Some(100.0), median(times), "ms"));
    figures.push(Figure::value("fork-eight-room", "what they take on the disk", Some(1024.0), median(room), "KiB"));
    figures
}

fn env(words: &[&str]) {
    let tool = tool_file("lbx-env").display().to_string();
    run(&[&[tool.as_str()], words].concat());
}

/// A fork of a stopped environment, which `has_written` what was frozen nowhere yet, and a new environment.
fn against_create(options: &[&str], has_written: bool) -> Compared {
    let (project, fresh) = (Project::new(), Project::new());
    let digits = project.name().rsplit_once('-').expect("a name has digits").1.to_owned();
    let fork = || {
        let parent = project.create(options);
        project.sh("echo x >~/file; echo x >file");
        project.must("stop");
        if !has_written {
            env(&["create", "--from", &parent, "--name", "before"]);
        }
        let taken = time(&mut || env(&["create", "--from", &parent]));
        env(&["delete", "-f", &parent, &format!("app-1-{digits}"), &format!("before-{digits}")]);
        taken
    };
    let create = || {
        let taken = time(&mut || env(&[&["create"], options, &[fresh.str()]].concat()));
        env(&["delete", fresh.str()]);
        taken
    };
    told(40, fork, create)
}

/// How long eight forks take at once, and how many KiB of the disk they keep.
fn eight() -> (Vec<f64>, Vec<f64>) {
    let project = Project::new();
    let parent = project.create(&["--project", "cow"]);
    project.sh(
        "fallocate -l 1G ~/big; mkdir many; cd many; for d in $(seq 50); do mkdir $d; (cd $d; seq 1000 | split -l 1 -a 3); done",
    );
    project.must("stop");
    let digits = parent.rsplit_once('-').expect("a name has digits").1;
    let names: Vec<String> = (1..=8).map(|n| format!("app-{n}-{digits}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (mut times, mut room) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        // one more file, so that there is something to freeze each time
        project.sh("echo x >>~/file; echo x >>file");
        project.must("stop");
        let before = used();
        times.push(time(&mut || env(&[&["create", "--from", &parent], &EIGHT[..]].concat())));
        room.push(used() - before);
        env(&[&["delete"], &names[..]].concat());
    }
    (times, room)
}

/// KiB in use where all that environments have on the disk is.
fn used() -> f64 {
    rustix::fs::sync();
    let stat = statvfs(Path::new("/home")).expect("/home is there");
    ((stat.blocks() - stat.blocks_free()) * stat.fragment_size() / 1024) as f64
}
