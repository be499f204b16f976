//! A review in a test: what the project shows on both sides, and the tools that tell and take its changes.

use std::ffi::OsStr;
use std::time::Duration;

use crate::{Command, Place, place, tool};

/// A script that prints all that is to be the same on both sides.
pub const PICTURE: &str =
    "find . -mindepth 1 ! -type d -printf '%P %y %m %s %l\\n' -o -mindepth 1 -printf '%P %y %m\\n' | LC_ALL=C sort
    find . -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum";

/// `TOOL OPTIONS ENV PATHS`, of `lbx-diff`, `lbx-apply` and `lbx-discard`.
pub fn of_changes(name: &str, env: impl AsRef<OsStr>, options: &[&str], paths: &[&str]) -> Command {
    if name == "lbx-apply" && place() == Place::Lima {
        // a VM's clock and that of the files of its host differ a little: what was just done there would look
        // as if it was done meanwhile
        std::thread::sleep(Duration::from_secs(1));
    }
    let mut command = tool(name);
    command.args(options).arg("--").arg(env).args(paths);
    command
}
