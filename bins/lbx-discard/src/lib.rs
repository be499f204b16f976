//! The command line of `lbx-discard`.

use clap::Parser;
use lbx::cli::Common;
use lbx::selection::Selection;

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
    #[command(flatten)]
    #[allow(missing_docs)]
    pub selection: Selection,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}
