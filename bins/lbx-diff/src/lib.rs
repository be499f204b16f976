//! The command line of `lbx-diff`.

use std::ffi::OsString;

use clap::{Parser, ValueEnum};
use lbx::cli::Common;

/// Tells what an environment changed of its project
#[derive(Clone, Debug, Parser)]
#[command(
    name = "lbx-diff",
    version,
    after_help = "Examples:
  lbx-diff .                        a letter and a name for each change
  lbx-diff --patch . | git apply    all of it, outside
  lbx-diff --json . src | jq -r 'select(.conflict) | .path'
  lbx-diff --stat . src docs        how many lines, in two directories
  lbx-diff --against app-1a2b .     what it has otherwise than that one

The exit status is 0 when nothing was changed, 1 when something was, 2 when
lbx-diff could not tell."
)]
pub struct Cli {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub form: Form,
    /// Names end with NUL and are not quoted; operands on standard input end with NUL
    #[arg(short = 'z', long, conflicts_with_all = ["json", "patch", "stat"])]
    pub null: bool,
    /// In JSON, the SHA-256 of files, before and after
    #[arg(long, requires = "json")]
    pub digest: bool,
    /// Compare with what environment ENV2 of the same path has, and not with the project
    #[arg(long, value_name = "ENV2")]
    pub against: Option<OsString>,
    /// When to colour: auto, always or never
    #[arg(long, value_name = "WHEN", default_value = "auto", hide_default_value = true, hide_possible_values = true)]
    pub color: When,
    /// Print to the terminal itself, through no pager
    #[arg(long)]
    pub no_pager: bool,
    /// What is printed is shown on a terminal: the near end knows
    #[arg(long, hide = true)]
    pub shown: bool,
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
    /// Print a patch, which git apply takes
    #[arg(short = 'p', long)]
    pub patch: bool,
    /// Print how many lines were changed
    #[arg(long)]
    pub stat: bool,
    /// Print names without letters
    #[arg(long)]
    pub name_only: bool,
}

/// When something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}
