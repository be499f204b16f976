//! The command line of `lbx-enter`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser};
use lbx::cli::Common;

/// Runs one command inside an environment
#[derive(Clone, Debug, Parser)]
#[command(
    name = "lbx-enter",
    version,
    after_help = "Examples:
  lbx-enter .                       a login shell in this directory's
  lbx-enter app-1a2b -- make -j4
  lbx-enter -A --env ANTHROPIC_API_KEY . -- claude
  tar c src | lbx-enter . -- tar t

The exit status is COMMAND's own; 128+N when signal N ended it; 125 when
lbx-enter itself failed; 126 when COMMAND cannot be executed; 127 when it is
not found."
)]
pub struct Cli {
    /// Name, or path of the project
    #[arg(value_name = "ENV")]
    pub env: OsString,
    /// The command and its arguments [default: the login shell]
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub options: Enter,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// What passes without being named: how to talk to a person.
pub const INHERITED: [&str; 18] = [
    "TERM",
    "LANG",
    "TZ",
    "COLORTERM",
    "NO_COLOR",
    "LC_ADDRESS",
    "LC_ALL",
    "LC_COLLATE",
    "LC_CTYPE",
    "LC_IDENTIFICATION",
    "LC_MEASUREMENT",
    "LC_MESSAGES",
    "LC_MONETARY",
    "LC_NAME",
    "LC_NUMERIC",
    "LC_PAPER",
    "LC_TELEPHONE",
    "LC_TIME",
];
/// Where the caller's ssh agent listens.
pub const AGENT: &str = "SSH_AUTH_SOCK";

/// How a command is run inside.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Options of a command")]
pub struct Enter {
    /// Standard input is /dev/null
    #[arg(short = 'n', long)]
    pub no_stdin: bool,
    /// Forward the caller's ssh agent, to list keys and to sign
    #[arg(short = 'A', long)]
    pub agent: bool,
    /// Start in DIR, relative to the project [default: where the caller stands in the project]
    #[arg(long, value_name = "DIR")]
    pub chdir: Option<PathBuf>,
    /// Pass variable NAME with the caller's value, or with VALUE; may be repeated
    #[arg(id = "variable", long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,
}
