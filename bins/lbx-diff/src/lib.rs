//! The command line of `lbx-diff`.

use std::ffi::OsString;

use clap::Parser;
use lbx::cli::Common;

/// Tells what an environment changed of its project
#[derive(Clone, Debug, Parser)]
#[command(
    name = "lbx-diff",
    version,
    after_help = "Examples:
  lbx-diff .                        a letter and a name a line, as git diff --name-status
  lbx-diff --json . src | jq -r 'select(.conflict) | .path'
  lbx-diff -z --name-only . | xargs -0 ls -d --

The exit status is 0 when nothing was changed, 1 when something was, 2 when
lbx-diff could not tell."
)]
pub struct Cli {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub form: Form,
    /// Names end with NUL and are not quoted; operands on standard input end with NUL
    #[arg(short = 'z', long, conflicts_with = "json")]
    pub null: bool,
    /// In JSON, the SHA-256 of files, before and after
    #[arg(long, requires = "json")]
    pub digest: bool,
    /// Name, or path of the project
    #[arg(value_name = "ENV")]
    pub env: OsString,
    /// Only what lies at or below PATH, relative to the project; '-' reads them from standard input
    #[arg(value_name = "PATH|-")]
    pub paths: Vec<OsString>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// In which form changes are printed.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
#[group(multiple = false)]
pub struct Form {
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
    /// Print names without letters
    #[arg(long)]
    pub name_only: bool,
}
