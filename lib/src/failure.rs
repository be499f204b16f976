//! Exit statuses and the one way in which a tool reports that it failed.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// What every fallible function of the tools returns.
pub type Result<T, E = anyhow::Error> = std::result::Result<T, E>;

/// Exit statuses that all tools share (`llima-box(7)`, EXIT STATUS).
pub mod status {
    /// The tool did what it was asked.
    pub const DONE: u8 = 0;
    /// The tool could not do what it was asked.
    pub const FAILED: u8 = 1;
    /// The command line was not understood.
    pub const USAGE: u8 = 2;
    /// The place is not running, and this tool does not start it.
    pub const NOT_RUNNING: u8 = 3;
    /// A tool that runs a command failed itself, as in env(1) and timeout(1).
    pub const TOOL_FAILED: u8 = 125;
    /// The command was found but could not be executed.
    pub const NOT_EXECUTABLE: u8 = 126;
    /// The command was not found.
    pub const NOT_FOUND: u8 = 127;
}

/// A failure with a message that names its object and, where one helps, a hint or an exit status
/// of its own. It travels inside [`anyhow::Error`].
#[derive(Debug)]
pub struct Failure {
    message: String,
    hint: Option<String>,
    status: Option<u8>,
}

impl Failure {
    /// `message` has no capital, no full stop, and quotes its subject.
    pub fn new(message: impl Into<String>) -> Self {
        Failure { message: message.into(), hint: None, status: None }
    }

    /// Adds a `hint: …` line: what the person can do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Ends the tool with `status` in place of its usual status for failures.
    pub fn status(mut self, status: u8) -> Self {
        self.status = Some(status);
        self
    }

    /// What `error` says, once more: for each of several subjects that it is the failure of.
    pub fn again(error: &anyhow::Error) -> Self {
        let failure = Failure::within(error);
        Failure {
            message: format!("{error:#}"),
            hint: failure.and_then(|failure| failure.hint.clone()),
            status: failure.and_then(|failure| failure.status),
        }
    }

    /// The failure that `error` is, as the outermost context or as a cause.
    fn within(error: &anyhow::Error) -> Option<&Failure> {
        error.downcast_ref().or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<Failure>()))
    }

    /// The message with its hint behind it, for a place that has one line.
    pub fn with_hint(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}: {hint}", self.message),
            None => self.message.clone(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// `Err` of a [`Failure`], for `?`-style code: `return fail(Failure::new(…).hint(…))`.
pub fn fail<T>(failure: Failure) -> Result<T> {
    Err(failure.into())
}

/// Which tool is running, and how it ends when it fails.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// The name that messages start with.
    pub name: &'static str,
    /// The status of a failure: 1, or 125 for a tool that runs a command.
    pub failed: u8,
    /// The status of a usage error: 2, or 125 for a tool that runs a command.
    pub usage: u8,
}

impl Tool {
    /// A tool with the usual statuses 1 and 2.
    pub const fn new(name: &'static str) -> Self {
        Tool { name, failed: status::FAILED, usage: status::USAGE }
    }

    /// A tool that runs a command: 125 is its own failure, whatever it is.
    pub const fn wrapper(name: &'static str) -> Self {
        Tool { name, failed: status::TOOL_FAILED, usage: status::TOOL_FAILED }
    }

    /// Runs `body`, the whole of a tool's `main`, and turns its result into an exit status.
    ///
    /// A closed pipe ends the tool quietly, with status 0: the reader has had enough.
    pub fn run(self, body: impl FnOnce() -> Result<u8>) -> ExitCode {
        match body() {
            Ok(status) => ExitCode::from(status),
            // a tool that runs a command has no data of its own to lose
            Err(error) if self.failed != status::TOOL_FAILED && is_broken_pipe(&error) => ExitCode::SUCCESS,
            Err(error) => ExitCode::from(self.report(&error)),
        }
    }

    /// Prints `error` on stderr, with its hint, and returns the status that it asks for.
    pub fn report(self, error: &anyhow::Error) -> u8 {
        if let Some(usage) = error.downcast_ref::<clap::Error>() {
            return self.report_usage(usage);
        }
        let failure = Failure::within(error);
        let mut text = format!("{}: {}\n", self.name, printable(&without_numbers(&format!("{error:#}"))));
        if let Some(hint) = failure.and_then(|f| f.hint.as_deref()) {
            text.push_str(&format!("hint: {}\n", printable(hint)));
        }
        say(&text);
        match failure.and_then(|f| f.status) {
            // whatever a tool that runs a command cannot do is 125
            Some(status::USAGE) => self.usage,
            Some(status::NOT_RUNNING) if self.failed == status::TOOL_FAILED => self.failed,
            Some(status) => status,
            None => self.failed,
        }
    }

    /// `--help` and `--version` are answers, not errors; all else is a usage error.
    fn report_usage(self, error: &clap::Error) -> u8 {
        if !error.use_stderr() {
            return match write!(io::stdout().lock(), "{}", error.render()) {
                Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                    say(&format!("{}: cannot write to stdout: {e}\n", self.name));
                    self.failed
                }
                _ => status::DONE,
            };
        }
        let text = error.render().to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        say(&format!("{}: {text}", self.name));
        self.usage
    }
}

/// Writes `text` on stderr; when stderr is gone there is nobody left to tell.
pub fn say(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// `text` with every control character, the newline too, made visible, so
/// that a path cannot drive the reader's terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// `No such file or directory (os error 2)` as perror(3) says it.
fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut text, part| {
        match part.split_once(')') {
            Some((number, rest)) if number.bytes().all(|b| b.is_ascii_digit()) => text.push_str(rest),
            _ => text.extend([" (os error ", part]),
        }
        text
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_its_status_under_context() {
        let error = anyhow::Error::from(Failure::new("no such thing 'x'").status(3)).context("cannot look");
        assert_eq!(Tool::new("t").report(&error), 3);
        assert_eq!(format!("{error:#}"), "cannot look: no such thing 'x'");
        let cause = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error =
            anyhow::Error::from(cause).context(Failure::new("home is missing").status(3)).context("cannot start");
        assert_eq!(Tool::new("t").report(&error), 3, "a failure as context counts as well");
    }

    #[test]
    fn a_message_cannot_drive_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{9b}"), "a\\u{1b}[2Jb\\nc\\u{9b}");
    }

    #[test]
    fn numbers_of_errors_are_left_out() {
        assert_eq!(without_numbers("a: b (os error 2): c (os error 13)"), "a: b: c");
        assert_eq!(without_numbers("a (os error x) b"), "a (os error x) b");
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let error = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("cannot write");
        assert_eq!(Tool::new("t").run(|| Err(error)), ExitCode::SUCCESS);
    }
}
