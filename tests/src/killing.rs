//! Killing a tool while it works, at instants that fit how long it takes here and now.

use std::process::Command;
use std::time::{Duration, Instant};

/// Ends runs of one tool; the first is left alone, and tells how long a run takes.
#[derive(Debug, Default)]
pub struct Killing {
    whole: Option<Duration>,
    turns: u32,
    /// How many runs were killed.
    pub killed: usize,
}

impl Killing {
    /// Runs `command` and kills it with signal 9 at some instant of a run's time; whether it was still running.
    pub fn kill(&mut self, command: &mut Command) -> bool {
        let mut child = command.spawn().expect("it runs");
        let begun = Instant::now();
        let Some(whole) = self.whole else {
            child.wait().expect("it is a child");
            self.whole = Some(begun.elapsed());
            return false;
        };
        self.turns += 1;
        // the golden ratio: each lies far from those before it
        std::thread::sleep(whole.mul_f64((f64::from(self.turns) * 0.618_034).fract()));
        if child.try_wait().expect("it is a child").is_some() {
            return false;
        }
        child.kill().expect("it is a child");
        child.wait().expect("it is a child");
        self.killed += 1;
        true
    }
}
