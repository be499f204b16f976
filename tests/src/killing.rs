//! Killing a tool while it works, at instants that fit how long it takes here and now.

use std::process::Command;
use std::time::{Duration, Instant};

/// Ends runs of one tool. How long they take is learned from them: what runs beside them changes, and of a
/// run that is repeated a part is done already.
#[derive(Debug)]
pub struct Killing {
    /// As long as a run may take that is to be killed.
    longest: Duration,
    turns: u32,
    /// How many runs were killed.
    pub killed: usize,
}

impl Default for Killing {
    fn default() -> Killing {
        Killing { longest: Duration::from_millis(20), turns: 0, killed: 0 }
    }
}

impl Killing {
    /// Runs `command` and kills it with signal 9 at some instant of a run's time; whether it was still running.
    pub fn kill(&mut self, command: &mut Command) -> bool {
        const LOOK: Duration = Duration::from_micros(100);
        self.turns += 1;
        // the golden ratio: each lies far from those before it
        let instant = self.longest.mul_f64((f64::from(self.turns) * 0.618_034).fract());
        let mut child = command.spawn().expect("it runs");
        let begun = Instant::now();
        while begun.elapsed() < instant {
            if child.try_wait().expect("it is a child").is_some() {
                self.longest = (self.longest + begun.elapsed()) / 2;
                return false;
            }
            std::thread::sleep(LOOK.min(instant.saturating_sub(begun.elapsed())));
        }
        child.kill().expect("it is a child");
        let status = child.wait().expect("it is a child");
        let is_killed = status.code().is_none();
        if is_killed {
            self.longest = self.longest.mul_f64(1.2);
            self.killed += 1;
        }
        is_killed
    }
}
