//! The command line of `lbx-snap`.

use std::ffi::OsString;
use std::num::NonZeroUsize;

use clap::{Parser, Subcommand, ValueHint};
use lbx::cli::Common;
use lbx::snapshot::Tag;

/// Saves and restores snapshots of an environment
#[derive(Clone, Debug, Parser)]
#[command(
    name = "lbx-snap",
    version,
    disable_help_subcommand = true,
    after_help = "Examples:
  lbx-snap save .                   of a stopped environment; prints the tag
  lbx-snap save --stop --keep 5 . before-upgrade
  lbx-snap list .
  lbx-snap restore --stop . before-upgrade
  lbx-snap list --tags . | grep ^before- | lbx-snap delete . -"
)]
pub struct Cli {
    /// Print the steps, one a line, and do nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub verb: Verb,
}

/// What to do with snapshots.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Make a snapshot of the home and of a copy-on-write project, and print its tag
    Save {
        /// Stop the environment, and start it again
        #[arg(long)]
        stop: bool,
        /// Delete older snapshots, all but N
        #[arg(long, value_name = "N")]
        keep: Option<NonZeroUsize>,
        /// Name, or path of the project
        #[arg(value_name = "ENV")]
        env: OsString,
        /// What to call the snapshot [default: the time, 20261128T031500Z]
        #[arg(value_name = "TAG", value_hint = ValueHint::Other)]
        tag: Option<Tag>,
    },
    /// Print the snapshots, the oldest first
    List {
        /// Print one JSON line per snapshot
        #[arg(long)]
        json: bool,
        /// Print tags alone, one a line
        #[arg(long, conflicts_with = "json")]
        tags: bool,
        /// Name, or path of the project
        #[arg(value_name = "ENV")]
        env: OsString,
    },
    /// Bring a snapshot back; what was there becomes a snapshot as well
    Restore {
        /// Stop the environment, and start it again
        #[arg(long)]
        stop: bool,
        /// Name, or path of the project
        #[arg(value_name = "ENV")]
        env: OsString,
        /// What the snapshot is called
        #[arg(value_name = "TAG")]
        tag: Tag,
    },
    /// Delete snapshots
    Delete {
        /// Name, or path of the project
        #[arg(value_name = "ENV")]
        env: OsString,
        /// What the snapshots are called; '-' reads that from standard input
        #[arg(value_name = "TAG|-", required = true)]
        tags: Vec<OsString>,
    },
}

impl Verb {
    /// The operand that names the environment.
    pub fn env(&self) -> &OsString {
        match self {
            Verb::Save { env, .. } | Verb::List { env, .. } | Verb::Restore { env, .. } | Verb::Delete { env, .. } => {
                env
            }
        }
    }
}
