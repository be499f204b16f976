//! Work on the project's files, inside and bare, on this machine and in a VM.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use lbx_tests::{Project, home};

use crate::Figure;
use crate::pairs::{asked, run, sh, told};
use crate::peers::{Words, cannot};
use crate::vm;

/// DIRS directories of 20 files, under git with an index for each side, and a program in Rust.
const TREE: &str = "mkdir tree; cd tree; for d in $(seq DIRS); do mkdir d$d; \
    for f in $(seq 20); do seq $f 400 >d$d/f$f.c; done; done; git init -q .; git add .; \
    git -c user.name=n -c user.email=e commit -qm c; \
    cp .git/index .git/index-inside; cp .git/index .git/index-bare; cd ..; tar cf tree.tar tree; mkdir -p rust/src; \
    for m in $(seq 40); do echo \"pub fn f(x: u64) -> String { format!(\\\"{x} $m\\\") }\" >rust/src/m$m.rs; done; \
    { for m in $(seq 40); do echo \"mod m$m;\"; done; echo 'fn main() {'; \
    for m in $(seq 40); do echo \"println!(\\\"{}\\\", m$m::f($m));\"; done; echo '}'; } >rust/src/main.rs";

struct Work {
    /// The figure, of this machine and of a VM.
    name: [&'static str; 2],
    about: &'static str,
    times: usize,
    script: &'static str,
}

const WORK: [Work; 6] = [
    Work {
        name: ["files-find", "vm-files-find"],
        about: "find over FILES files",
        times: 75,
        script: "find tree -type f -newer tree.tar | wc -l",
    },
    Work {
        name: ["files-grep", "vm-files-grep"],
        about: "grep -r over FILES files",
        times: 75,
        script: "grep -r --exclude-dir=.git 399 tree | wc -l",
    },
    Work {
        name: ["files-git", "vm-files-git"],
        about: "3 × git status of FILES files",
        times: 75,
        script: "for _ in 1 2 3; do git -C tree status --porcelain; done",
    },
    Work {
        name: ["files-untar", "vm-files-untar"],
        about: "untar and rm of FILES files",
        times: 25,
        script: "mkdir x && tar xf tree.tar -C x && rm -r x",
    },
    Work {
        name: ["files-write", "vm-files-write"],
        about: "SIZE MiB written and read",
        times: 25,
        script: "head -c SIZEM /dev/zero >big && cat big >/dev/null && rm big",
    },
    Work {
        name: ["files-rust", "vm-files-rust"],
        about: "rustc of 41 modules",
        times: 15,
        // what a VM's image has no linker for is not linked
        script: "PATH=$RUST:$PATH; mkdir out && rustc --edition 2021 EMIT --out-dir out rust/src/main.rs && rm -r out",
    },
];

/// How much work, and where.
struct Amount {
    vm: bool,
    dirs: usize,
    mib: usize,
    /// Of [`Work::times`] one in so many.
    part: usize,
    emit: &'static str,
}

pub(crate) fn figures() -> Vec<Figure> {
    let rust = rust(&sysroot().unwrap_or_default(), Path::new("/srv/rust"));
    let bare = |words: &[&str]| words.iter().map(OsString::from).collect();
    of(rust, &bare, &Amount { vm: false, dirs: 400, mib: 256, part: 1, emit: "" })
}

/// In a VM, where all is slower, and slowest what it shares with this machine: less of it.
pub(crate) fn in_vm() -> Vec<Figure> {
    let Some(ssh) = vm::ssh() else { return Vec::new() };
    // scripts/bench lays it where the VM's owner can read it
    let rust = rust("/srv/lima/rust", &home().join("rust"));
    of(rust, &*ssh, &Amount { vm: true, dirs: 40, mib: 32, part: 5, emit: "--emit=obj" })
}

fn of(rust: Option<String>, bare: &Words, amount: &Amount) -> Vec<Figure> {
    let project = Project::new();
    let create: Vec<String> = rust.iter().map(|dir| format!("--ro={dir}")).collect();
    project.create(&create.iter().map(String::as_str).collect::<Vec<_>>());
    // one for both: of two that are alike, the kernel finds its way through one in several percent less time
    sh(&format!("mkdir {0}/both && cd {0}/both && {1}", project.str(), TREE.replace("DIRS", &amount.dirs.to_string())));
    // what was just made is still being written
    run(&["sync", "--file-system", project.str()]);
    let bin = rust.as_ref().map(|dir| format!("{dir}/bin")).unwrap_or_default();
    let amounts = |text: &str| {
        let text = text.replace("FILES", &(amount.dirs * 20).to_string()).replace("SIZE", &amount.mib.to_string());
        text.replace("EMIT", amount.emit)
    };
    let figure = |work: &Work| {
        let name = work.name[usize::from(amount.vm)];
        let about = format!("{}, inside{} | bare", amounts(work.about), if amount.vm { " a VM" } else { "" });
        if work.script.contains("rustc") && rust.is_none() {
            return Figure::not(name, about, Some(1.05), "no rustc that environments can be shown");
        }
        // the work alone, as it tells itself: not the way in
        let script = |side: &str| {
            // git's index keeps whose a file is, and that is another's inside
            format!(
                "RUST={bin}; cd {}/both; export GIT_INDEX_FILE=$PWD/tree/.git/index-{side}; before=$EPOCHREALTIME; {{ {}; }} >/dev/null
                after=$EPOCHREALTIME; echo $((${{after/./}} - ${{before/./}}))",
                project.str(),
                amounts(work.script)
            )
        };
        // behind sshd bash reads its file for terminals, which knows nothing of -u
        let inside = project.enter_words(&["bash", "--norc", "-euc", &script("inside")]);
        let bare = bare(&["bash", "--norc", "-euc", &script("bare")]);
        match cannot(&inside).or_else(|| cannot(&bare)) {
            None => {
                let compared = told(work.times.div_ceil(amount.part), || millis(&inside), || millis(&bare));
                Figure::ratio(name, about, Some(1.05), compared)
            }
            Some(why) => Figure::not(name, about, Some(1.05), why),
        }
    };
    WORK.iter().map(figure).collect()
}

/// What `words` tell in microseconds.
fn millis(words: &[OsString]) -> f64 {
    let micros = asked(Command::new(&words[0]).args(&words[1..]), "");
    micros.trim().parse::<f64>().expect("bash knows the time") / 1000.0
}

fn sysroot() -> Option<String> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    Some(String::from_utf8(sysroot.stdout).ok()?.trim().to_owned())
}

/// A copy at `to` of the toolchain in `sysroot`: of one in somebody's home.
fn rust(sysroot: &str, to: &Path) -> Option<String> {
    let to = to.to_str()?;
    let script = "mkdir -p \"$1/lib/rustlib\" && cp -rL \"$0/bin\" \"$1\" && cp -L \"$0\"/lib/*.so* \"$1/lib\" && \
        cp -rL \"$0\"/lib/rustlib/*-linux-gnu \"$1/lib/rustlib\"";
    let copied = Command::new("sh").args(["-euc", script, sysroot, to]).status();
    copied.is_ok_and(|status| status.success()).then(|| to.to_owned())
}
