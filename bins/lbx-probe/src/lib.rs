//! The command line of `lbx-probe`.

use std::ffi::OsString;

use clap::Parser;
use lbx::cli::Common;

/// Attacks environments from inside, and tells what the kernel answered
#[derive(Clone, Debug, Parser)]
#[command(
    name = "lbx-probe",
    version,
    after_help = "Examples:
  lbx-probe .                       this directory's environment
  lbx-ls --names | lbx-probe -      all environments
  lbx-probe --json . | jq -r 'select(.verdict != \"held\") | .name'
  lbx-probe --list                  what is tried, and why

The exit status is 0 when every attack was held, 1 when one got through."
)]
pub struct Cli {
    /// Print each attack: its name, what it tries, the CVE or feature of the kernel
    #[arg(long, conflicts_with = "envs")]
    pub list: bool,
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
    /// Operands on standard input end with NUL, not newline
    #[arg(short = '0', long)]
    pub null: bool,
    /// Names or paths of environments; '-' reads them from standard input
    #[arg(value_name = "ENV|-", required_unless_present = "list")]
    pub envs: Vec<OsString>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}
