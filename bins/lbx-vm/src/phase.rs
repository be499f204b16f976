//! What a person sees of a long wait: one line on a terminal, with what is going on.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One line on the terminal; nothing elsewhere.
pub(crate) struct Phase(ProgressBar);

/// Words of limactl, and what they mean to a person.
const PHASES: [(&str, &str); 7] = [
    ("download the nerdctl", "downloading"),
    ("download the", "downloading the image"),
    ("Downloaded the initrd", "unpacking the image"),
    ("Converting", "unpacking the image"),
    ("Waiting for the essential requirement", "booting"),
    ("Waiting for the guest agent", "booting"),
    ("Waiting for the final requirement", "setting up"),
];

impl Phase {
    /// `what` in front of the phases; nothing at all when `quiet`.
    pub(crate) fn new(what: String, quiet: bool) -> Phase {
        let target = match !quiet && std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target).with_prefix(what);
        Phase(match ProgressStyle::with_template("{spinner} {prefix}: {msg} {elapsed}") {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        })
    }

    /// For nobody.
    #[cfg(test)]
    pub(crate) fn silent() -> Phase {
        Phase(ProgressBar::hidden())
    }

    pub(crate) fn say(&self, what: &'static str) {
        self.0.set_message(what);
    }

    /// Takes a line of limactl's log.
    pub(crate) fn read(&self, line: &str) {
        if let Some((_, phase)) = PHASES.iter().find(|(words, _)| line.contains(words)) {
            self.say(phase);
        }
    }

    pub(crate) fn tick(&self) {
        self.0.tick();
    }

    /// Gives the line back.
    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        self.end();
    }
}
