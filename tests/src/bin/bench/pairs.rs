//! Two things in turn: hyperfine runs all of one and then all of the other, and between the two the
//! machine has changed its mood.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Two medians, and their ratio with the interval that holds it with 95 %.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) ours: f64,
    pub(crate) peer: f64,
    pub(crate) ratio: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) count: usize,
}

/// What is not counted, so that caches are warm.
const WARM_UP: usize = 3;

/// Runs both `count` times, each first by turns: the median of the pairs' ratios, of milliseconds.
pub(crate) fn pairs(count: usize, mut ours: impl FnMut(), mut peer: impl FnMut()) -> Compared {
    told(count, || time(&mut ours), || time(&mut peer))
}

/// As [`pairs`], of milliseconds that both tell.
pub(crate) fn told(count: usize, mut ours: impl FnMut() -> f64, mut peer: impl FnMut() -> f64) -> Compared {
    let mut times = (Vec::new(), Vec::new());
    for turn in 0..count + WARM_UP {
        let (a, b) = if turn % 2 == 0 {
            let a = ours();
            (a, peer())
        } else {
            let b = peer();
            (ours(), b)
        };
        if turn >= WARM_UP {
            times.0.push(a);
            times.1.push(b);
        }
    }
    let ratios = times.0.iter().zip(&times.1).map(|(a, b)| a / b).collect();
    let (ratio, low, high) = interval(ratios);
    Compared { ours: median(times.0), peer: median(times.1), ratio, low, high, count }
}

/// What could not be taken in turn: the ratio of the medians, and an interval that the least and the
/// most of both give.
pub(crate) fn apart(ours: &[f64], peer: &[f64]) -> Compared {
    let count = ours.len().min(peer.len());
    let (ours, low, high) = interval(ours.to_vec());
    let (peer, least, most) = interval(peer.to_vec());
    Compared { ours, peer, ratio: ours / peer, low: low / most, high: high / least, count }
}

/// What can be taken in turn only with an effort, `peer` once more than `ours`: the median of the ratios
/// of each to the middle of what came before and after it.
pub(crate) fn between(ours: &[f64], peer: &[f64]) -> Compared {
    let around = peer.windows(2).map(|two| (two[0] + two[1]) / 2.0);
    let (ratio, low, high) = interval(ours.iter().zip(around).map(|(ours, peer)| ours / peer).collect());
    Compared { ours: median(ours.to_vec()), peer: median(peer.to_vec()), ratio, low, high, count: ours.len() }
}

/// The median of `values`, and the two between which it lies: order statistics, from a binomial by its
/// normal approximation.
fn interval(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let count = values.len();
    let (half, spread) = (count as f64 / 2.0, 0.98 * (count as f64).sqrt());
    let at = |index: f64| values[(index.round().max(0.0) as usize).min(count - 1)];
    (median(values.clone()), at(half - spread - 1.0), at(half + spread))
}

/// Milliseconds that `work` takes, `count` times.
pub(crate) fn times(count: usize, mut work: impl FnMut()) -> Vec<f64> {
    (0..count).map(|_| time(&mut work)).collect()
}

/// Milliseconds that `work` takes.
pub(crate) fn time(work: &mut impl FnMut()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64() * 1000.0
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// Runs `words`, which must succeed, in silence.
pub(crate) fn run<S: AsRef<OsStr>>(words: &[S]) {
    succeed(words, Stdio::null());
}

/// As [`run`], its output into a pipe.
pub(crate) fn run_piped<S: AsRef<OsStr>>(words: &[S]) {
    succeed(words, Stdio::piped());
}

fn succeed<S: AsRef<OsStr>>(words: &[S], stdout: Stdio) {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null());
    let child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", words[0].as_ref().display()));
    let status = child.wait_with_output().expect("a child can be waited for").status;
    assert!(status.success(), "{:?}: {status}", words.iter().map(AsRef::as_ref).collect::<Vec<_>>());
}

/// As [`run`], by a shell.
pub(crate) fn sh(script: &str) {
    run(&["sh", "-euc", script]);
}

/// What `command`, which must succeed, prints when it is given `input`.
pub(crate) fn asked(command: &mut Command, input: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it can be run");
    let mut stdin = child.stdin.take().expect("a pipe");
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input.as_bytes()).expect("it reads"));
        child.wait_with_output().expect("a child can be waited for")
    });
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}
