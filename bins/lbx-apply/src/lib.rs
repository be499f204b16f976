//! The command line of `lbx-apply`.

use clap::Parser;
use lbx::cli::Common;
use lbx::selection::Selection;

/// Puts what was changed in an environment into the project
#[derive(Clone, Debug, Parser)]
#[command(
    name = "lbx-apply",
    version,
    after_help = "Examples:
  lbx-apply .                       all changes, after asking
  lbx-apply . src README.md         these alone
  lbx-diff -z . src | lbx-apply . -
  lbx-diff --json . | jq 'select(.size < 1000)' | lbx-apply . -
  lbx-apply --dry-run .             what would be done

The exit status is 1 when a change was left alone: what is in conflict with
the person's own changes, and what could not be applied."
)]
pub struct Cli {
    /// Print what would be done, one step a line, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Take the environment's, where both sides have changed
    #[arg(long, conflicts_with = "merge")]
    pub force: bool,
    /// Merge files that both sides have changed, where git holds what they were
    #[arg(long)]
    pub merge: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub selection: Selection,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}
