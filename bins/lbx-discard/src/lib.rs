//! The command line of `lbx-discard`.

use std::ffi::OsString;

use clap::Parser;
use lbx::cli::Common;

/// Drops what was changed in an environment
#[derive(Clone, Debug, Parser)]
#[command(
    name = "lbx-discard",
    version,
    after_help = "Examples:
  lbx-discard .                     all changes, after asking
  lbx-discard -y . src README.md    these alone
  lbx-diff --json . | jq 'select(.conflict)' | lbx-discard -y . -

The environment must not run: lbx-env stop."
)]
pub struct Cli {
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Paths on standard input end with NUL, not newline
    #[arg(short = '0', long)]
    pub null: bool,
    /// Name, or path of the project
    #[arg(value_name = "ENV")]
    pub env: OsString,
    /// Changed paths, relative to the project [default: all]; '-' reads them from standard input
    #[arg(value_name = "PATH|-")]
    pub paths: Vec<OsString>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}
