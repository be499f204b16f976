//! What passes through: how much, and how soon.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use lbx_tests::{Place, Project, place};

use crate::Figure;
use crate::pairs::pairs;
use crate::peers::{Words, nsenter};

/// A kept connection, as lbx-on keeps one.
const MASTER: [&str; 6] =
    ["-oControlMaster=auto", "-oControlPath=/srv/near/bench-%C", "-oControlPersist=60", "-T", "lbx-test-host", "--"];

pub(crate) fn figures() -> Vec<Figure> {
    let project = Project::new();
    project.create(&[]);
    project.sh("true");
    let peer: Box<Words> = match place() {
        Place::Local => Box::new(|words| nsenter(&project, words)),
        _ => Box::new(|words| {
            ["ssh"].iter().chain(&MASTER).chain(&[&*shell_words::join(words)]).map(OsString::from).collect()
        }),
    };
    let names = match place() {
        Place::Local => ["stream-in", "stream-out", "stream-echo"],
        _ => ["stream-ssh-in", "stream-ssh-out", "stream-ssh-echo"],
    };
    let to = match place() {
        Place::Local => "nsenter and setpriv",
        _ => "ssh over a kept connection",
    };
    let far = if place() == Place::Local { "" } else { ", to a machine behind ssh" };
    // 0.8 of the throughput
    let promise = (place() != Place::Local).then_some(1.25);
    both(&project, &*peer, Amount { mib: 128, times: 25 }, names, far, to, promise)
}

/// How much flows, and how often.
pub(crate) struct Amount {
    pub(crate) mib: usize,
    pub(crate) times: usize,
}

/// Figures of streams by `project`'s environment, to those by the words that `peer` makes.
pub(crate) fn both(
    project: &Project,
    peer: &Words,
    Amount { mib, times }: Amount,
    names: [&'static str; 3],
    far: &str,
    to: &str,
    promise: Option<f64>,
) -> Vec<Figure> {
    let size = format!("{mib}M");
    let (sink, source, echo) = (["sh", "-c", "cat >/dev/null"], ["head", "-c", &size, "/dev/zero"], ["cat"]);
    let ours = |words: &[&str]| project.enter_words(words);
    let (a, b) = (ours(&sink), peer(&sink));
    let into = pairs(times, || pour(&a, &size), || pour(&b, &size));
    let (a, b) = (ours(&source), peer(&source));
    let out = pairs(times, || draw(&a, mib), || draw(&b, mib));
    let (mut a, mut b) = (Echo::run(&ours(&echo)), Echo::run(&peer(&echo)));
    let rounds = pairs(200, || a.rounds(20), || b.rounds(20));
    vec![
        Figure::ratio(names[0], format!("{mib} MiB into a command{far} | {to}"), promise, into),
        Figure::ratio(names[1], format!("{mib} MiB out of a command{far} | {to}"), promise, out),
        Figure::ratio(names[2], format!("20 bytes there and back, one by one{far} | {to}"), None, rounds),
    ]
}

/// Runs `words` with as much as `size` says as input.
fn pour(words: &[OsString], size: &str) {
    let mut head = Command::new("head").args(["-c", size, "/dev/zero"]).stdout(Stdio::piped()).spawn().expect("head");
    let mut sink = Command::new(&words[0]);
    sink.args(&words[1..]).stdin(head.stdout.take().expect("a pipe")).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(sink.status().expect("it runs").success());
    assert!(head.wait().expect("head").success());
}

/// Runs `words`, whose output must be `mib` MiB, into a pipe.
fn draw(words: &[OsString], mib: usize) {
    let mut source = Command::new(&words[0]);
    source.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = source.spawn().expect("it runs");
    let mut out = child.stdout.take().expect("a pipe");
    let (mut bytes, mut all) = (vec![0; 1 << 16], 0);
    loop {
        match out.read(&mut bytes).expect("a pipe can be read") {
            0 => break,
            count => all += count,
        }
    }
    assert!(child.wait().expect("it ends").success());
    assert_eq!(all, mib << 20);
}

/// A command that gives back what it gets.
struct Echo(Child);

impl Echo {
    fn run(words: &[OsString]) -> Echo {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Echo(command.spawn().expect("it runs"))
    }

    fn rounds(&mut self, count: usize) {
        let (stdin, stdout) = (self.0.stdin.as_mut().expect("a pipe"), self.0.stdout.as_mut().expect("a pipe"));
        for _ in 0..count {
            stdin.write_all(b"x").expect("it reads");
            stdout.read_exact(&mut [0]).expect("it answers");
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
