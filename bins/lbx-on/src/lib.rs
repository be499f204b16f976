//! The command line of `lbx-on`, and the frames of its stream.

use std::ffi::OsString;

use clap::Parser;
use lbx::Place;

pub mod frame;

/// Runs one tool at another place
#[derive(Clone, Debug, Parser)]
#[command(
    name = "lbx-on",
    version,
    after_help = "Examples:
  lbx-on lima lbx-ls
  lbx-on ssh:me@host lbx-enter app-1a2b -- make -j4
  lbx-on lima:work lbx-env stop app-1a2b

Every tool comes here by itself when --on or LBX_ON names a place other than
'local'. The exit status is TOOL's own."
)]
pub struct Cli {
    /// Where to run it: lima[:INSTANCE] or ssh:DESTINATION
    #[arg(value_name = "PLACE", value_parser = lbx::cli::place, required_unless_present = "serve")]
    pub place: Option<Place>,
    /// A tool of llima-box: lbx-NAME or llima-box
    #[arg(value_name = "TOOL", required_unless_present = "serve")]
    pub tool: Option<OsString>,
    /// The words behind it
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
    /// Be the far end: answer at the socket that systemd passes, else on standard input and output
    #[arg(long, exclusive = true)]
    pub serve: bool,
}
