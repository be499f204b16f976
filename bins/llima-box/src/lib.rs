//! The command line of `llima-box`.

use std::ffi::OsString;

use clap::{Parser, Subcommand};
use lbx::cli::Common;

/// The tools that are verbs: `llima-box VERB` runs `lbx-VERB`.
pub const TOOLS: [&str; 11] = ["name", "ls", "env", "enter", "diff", "apply", "discard", "snap", "probe", "vm", "on"];

/// Gives every project directory an environment of its own
#[derive(Clone, Debug, Parser)]
#[command(
    name = "llima-box",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = after_help()
)]
pub struct Cli {
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub verb: Verb,
}

fn after_help() -> String {
    format!(
        "Examples:
  llima-box shell                   a shell, in the project around you
  llima-box shell . -- make test    one command, in this directory
  llima-box shell --from app-1a2b   in a fork of that environment
  llima-box list                    all environments
  llima-box delete .                this one, with its home; the project stays

Every other VERB runs the tool lbx-VERB, or one of your own on PATH:
{}.",
        TOOLS.join(", ")
    )
}

/// What a person does with environments.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Enter the environment of a project, which is created when there is none
    Shell(Box<Shell>),
    /// List environments, as a table
    List {
        /// Print JSON lines, as lbx-ls does
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        #[allow(missing_docs)]
        common: Common,
    },
    /// Delete environments with their homes, after asking; projects stay
    Delete {
        #[command(flatten)]
        #[allow(missing_docs)]
        consent: Consent,
        /// Operands on standard input end with NUL, not newline
        #[arg(short = '0', long)]
        null: bool,
        /// Names, or paths of projects; '-' reads them from standard input
        #[arg(value_name = "ENV|-", required = true)]
        envs: Vec<OsString>,
        #[command(flatten)]
        #[allow(missing_docs)]
        common: Common,
    },
    /// Delete all environments with their homes, after asking; projects stay
    DeleteAll {
        #[command(flatten)]
        #[allow(missing_docs)]
        consent: Consent,
        #[command(flatten)]
        #[allow(missing_docs)]
        common: Common,
    },
    /// Open the man page of a verb
    Help {
        /// A verb, or the name of a tool
        #[arg(value_name = "VERB")]
        verb: Option<OsString>,
    },
    /// Run the tool lbx-VERB
    #[command(external_subcommand)]
    External(Vec<OsString>),
}

/// `llima-box shell`
#[derive(Clone, Debug, clap::Args)]
pub struct Shell {
    /// Name, or directory of the project [default: the project around the current directory]
    #[arg(value_name = "ENV", conflicts_with = "from")]
    pub env: Option<OsString>,
    /// What should have stood behind '--'
    #[arg(hide = true)]
    pub stray: Vec<OsString>,
    /// The command and its arguments, behind '--' [default: the login shell]
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<OsString>,
    /// An option for a new environment, without effect on one that exists: so a caller's config
    /// reaches another place
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub when_new: Vec<OsString>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub create: lbx_env::Create,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub enter: lbx_enter::Enter,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// Whether to ask before something goes for good.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Consent {
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// As --yes, and a missing environment is no failure
    #[arg(short, long)]
    pub force: bool,
}

impl Consent {
    /// Whether nothing is asked.
    pub fn given(self) -> bool {
        self.yes || self.force
    }
}
