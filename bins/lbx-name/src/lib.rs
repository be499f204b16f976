//! The command line of `lbx-name`.

use std::ffi::OsString;

use clap::Parser;
use lbx::cli::Common;

/// Prints the environment name of a path
#[derive(Clone, Debug, Parser)]
#[command(
    name = "lbx-name",
    version,
    after_help = "Examples:
  lbx-name                          the current directory's
  lbx-name ~/src/*/                 one name a line, in the operands' order
  find ~/src -mindepth 1 -maxdepth 1 -type d -print0 | lbx-name -0 -"
)]
pub struct Cli {
    /// Operands on standard input and names on standard output end with NUL, not newline
    #[arg(short = '0', long)]
    pub null: bool,
    /// Use WORD in place of the path's last component
    #[arg(long, value_name = "WORD")]
    pub name: Option<OsString>,
    /// Paths of projects, which need not exist [default: .]; '-' reads them from standard input
    #[arg(value_name = "PATH|-")]
    pub paths: Vec<OsString>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}
