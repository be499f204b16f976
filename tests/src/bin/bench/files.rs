//! Work on the project's files, inside and bare.

use std::ffi::OsString;
use std::process::Command;

use lbx_tests::Project;

use crate::Figure;
use crate::pairs::{asked, run, sh, told};

/// A tree of 8,000 files in 400 directories, under git, and a program in Rust.
const TREE: &str = "mkdir tree; cd tree; for d in $(seq 400); do mkdir d$d; \
    for f in $(seq 20); do seq $f 400 >d$d/f$f.c; done; done; git init -q .; git add .; \
    git -c user.name=n -c user.email=e commit -qm c; cd ..; tar cf tree.tar tree; mkdir -p rust/src; \
    for m in $(seq 40); do echo \"pub fn f(x: u64) -> String { format!(\\\"{x} $m\\\") }\" >rust/src/m$m.rs; done; \
    { for m in $(seq 40); do echo \"mod m$m;\"; done; echo 'fn main() {'; \
    for m in $(seq 40); do echo \"println!(\\\"{}\\\", m$m::f($m));\"; done; echo '}'; } >rust/src/main.rs";
const WORK: [(&str, &str, usize, &str); 6] = [
    ("files-find", "find over 8,000 files", 25, "find tree -type f -newer tree.tar | wc -l"),
    ("files-grep", "grep -r over 8,000 files", 25, "grep -r --exclude-dir=.git 399 tree | wc -l"),
    ("files-git", "git status of 8,000 files", 25, "git -C tree status --porcelain"),
    ("files-untar", "untar and rm of 8,000 files", 15, "mkdir x && tar xf tree.tar -C x && rm -r x"),
    ("files-write", "256 MiB written and read", 15, "head -c 256M /dev/zero >big && cat big >/dev/null && rm big"),
    (
        "files-rust",
        "rustc of 41 modules",
        9,
        "PATH=$RUST:$PATH; mkdir out && rustc --edition 2021 --out-dir out rust/src/main.rs && out/main && rm -r out",
    ),
];

pub(crate) fn figures() -> Vec<Figure> {
    let project = Project::new();
    let rust = rust();
    let create: Vec<String> = rust.iter().map(|dir| format!("--ro={dir}")).collect();
    project.create(&create.iter().map(String::as_str).collect::<Vec<_>>());
    // a directory for each: git's index keeps whose a file is, and that is another's inside
    for dir in ["inside", "bare"] {
        sh(&format!("mkdir {0}/{dir} && cd {0}/{dir} && {TREE}", project.str()));
    }
    // what was just made is still being written
    run(&["sync", "--file-system", project.str()]);
    let bin = rust.as_ref().map(|dir| format!("{dir}/bin")).unwrap_or_default();
    let figure = |(name, about, count, work): &(&'static str, &'static str, usize, &str)| {
        let about = format!("{about}, inside | bare");
        if work.contains("rustc") && rust.is_none() {
            return Figure::not(name, about, Some(1.05), "no rustc that environments can be shown");
        }
        // the work alone, as it tells itself: not the way in
        let work = |dir: &str| {
            format!(
                "RUST={bin}; cd {}/{dir}; before=$EPOCHREALTIME; {{ {work}; }} >/dev/null
                after=$EPOCHREALTIME; echo $((${{after/./}} - ${{before/./}}))",
                project.str()
            )
        };
        let bash = |script: &str| ["bash", "-euc", script].map(OsString::from);
        let mut inside = project.enter_words(&[]);
        inside.extend(bash(&work("inside")));
        let bare = bash(&work("bare"));
        Figure::ratio(name, about, Some(1.05), told(*count, || millis(&inside), || millis(&bare)))
    };
    WORK.iter().map(figure).collect()
}

/// What `words` tell in microseconds.
fn millis(words: &[OsString]) -> f64 {
    let micros = asked(Command::new(&words[0]).args(&words[1..]), "");
    micros.trim().parse::<f64>().expect("bash knows the time") / 1000.0
}

/// A copy of the toolchain that is not in anybody's home.
fn rust() -> Option<String> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    let sysroot = String::from_utf8(sysroot.stdout).ok()?;
    let script = "mkdir /srv/rust && cp -rL \"$0/bin\" /srv/rust && mkdir -p /srv/rust/lib/rustlib && \
        cp -L \"$0\"/lib/*.so* /srv/rust/lib && \
        cp -rL \"$0\"/lib/rustlib/*-linux-gnu /srv/rust/lib/rustlib";
    let copied = Command::new("sh").args(["-euc", script, sysroot.trim()]).status();
    copied.is_ok_and(|status| status.success()).then(|| "/srv/rust".to_owned())
}
