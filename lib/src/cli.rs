//! The options that all tools share, and how a command line is read.

use std::ffi::OsString;
use std::io::IsTerminal;

use anyhow::Context;
use clap::{Args, Command, Parser};

use crate::failure::Result;
use crate::place::Place;

/// `--on`, `-q`, `-v`: in every tool, with the same meaning.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
    #[arg(long, value_name = "PLACE", global = true, value_parser = place)]
    pub on: Option<Place>,
    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say on stderr what is done
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// A place on the command line, its hint in the message.
///
/// # Errors
/// An unknown place.
pub fn place(text: &str) -> Result<Place, String> {
    text.parse().map_err(|e: crate::Failure| e.with_hint())
}

impl Common {
    /// These options as words of a command line at `place`.
    pub fn words(&self, place: &Place) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["--on".into(), place.to_string().into()];
        if self.quiet {
            words.push("--quiet".into());
        }
        if self.verbose {
            words.push("--verbose".into());
        }
        words
    }

    /// Says on stderr what is done, when `-v` asked for it.
    pub fn note(&self, tool: crate::failure::Tool, text: impl FnOnce() -> String) {
        if self.verbose {
            crate::failure::say(&format!("{}: {}\n", tool.name, crate::failure::printable(&text())));
        }
    }
}

/// Whether a question would reach somebody.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks `question`; whether the answer is yes.
///
/// # Errors
/// The answer cannot be read.
pub fn agreed(question: &str) -> Result<bool> {
    crate::failure::say(&format!("{question} [y/N] "));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes" | "YES"))
}

/// Reads the command line of this process.
///
/// # Errors
/// A [`clap::Error`], which [`crate::failure::Tool::report`] prints: help, the version, or what
/// was wrong.
pub fn parse<T: Parser>() -> Result<T> {
    parse_words(T::command(), std::env::args_os())
}

/// Reads `words`, the tool's name first, as the command line of `command`, which is `T`'s.
///
/// # Errors
/// As for [`parse`].
pub fn parse_words<T: Parser>(command: Command, words: impl IntoIterator<Item = OsString>) -> Result<T> {
    Ok(T::from_arg_matches_mut(&mut command.try_get_matches_from(words)?)?)
}
