//! The command line of `lbx-ls`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use lbx::Place;

/// Prints one JSON line per environment
#[derive(Clone, Debug, Parser)]
#[command(
    name = "lbx-ls",
    version,
    after_help = "Examples:
  lbx-ls | jq -r 'select(.state == \"running\") | .path'
  lbx-ls --names -0 --label team=web | xargs -0 -r lbx-env stop
  lbx-ls --containing .             those that this directory belongs to"
)]
pub struct Cli {
    /// Print names alone, one a line
    #[arg(long)]
    pub names: bool,
    /// Names, and operands on standard input, end with NUL, not newline
    #[arg(short = '0', long)]
    pub null: bool,
    /// Only environments in this state: running, stopped or broken; may be repeated
    #[arg(long, value_name = "S", hide_possible_values = true)]
    pub state: Vec<State>,
    /// Only environments with this label; may be repeated, all must match
    #[arg(long, value_name = "K[=V]")]
    pub label: Vec<String>,
    /// Only environments whose project is PATH or holds it
    #[arg(long, value_name = "PATH")]
    pub containing: Option<PathBuf>,
    /// Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION; may be repeated
    #[arg(long, value_name = "PLACE", value_parser = lbx::cli::place, help_heading = "Common options")]
    pub on: Vec<Place>,
    /// Print errors only
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Common options")]
    pub quiet: bool,
    /// Say on stderr what is done
    #[arg(short, long, help_heading = "Common options")]
    pub verbose: bool,
    /// Names or paths of environments [default: all]; '-' reads them from standard input
    #[arg(value_name = "ENV|-")]
    pub envs: Vec<OsString>,
}

/// What an environment is doing. Readers treat an unknown state as not running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// Its namespaces exist, with or without processes.
    Running,
    /// It starts when it is entered.
    Stopped,
    /// Its record cannot be relied on; `lbx-env repair` or `delete` mends it.
    Broken,
}

impl State {
    /// The word in the record's `state`.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Stopped => "stopped",
            State::Broken => "broken",
        }
    }
}
