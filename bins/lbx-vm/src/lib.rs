//! The command line of `lbx-vm`, and where the way into a VM is.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use lbx::cli::Common;

/// The variable under which `lbx-on` fails where it else would run `lbx-vm`, which is running it.
pub const STARTING_VARIABLE: &str = "LBX_VM_STARTING";

/// Ensures the VM: created, running, guest tools in place
#[derive(Clone, Debug, Parser)]
#[command(
    name = "lbx-vm",
    version,
    disable_help_subcommand = true,
    after_help = "Examples:
  lbx-vm start                      of place 'lima', made where there is none
  lbx-vm start --mount ~/src        it sees that directory alone
  lbx-vm start --dry-run            the template, and what would be run
  lbx-vm --on lima:work status --json"
)]
pub struct Cli {
    /// Print what would be done, and do nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub verb: Verb,
}

/// What to do with the VM.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Start the VM, created where there is none, and put the guest tools there
    Start {
        /// Fail where there is no VM yet
        #[arg(long)]
        existing: bool,
        /// YAML file of Lima that is laid over the built-in template
        #[arg(long, value_name = "FILE", value_parser = OsStringValueParser::new().map(PathBuf::from))]
        template: Option<PathBuf>,
        #[command(flatten)]
        #[allow(missing_docs)]
        options: Options,
    },
    /// Print one word: running, stopped, absent or broken
    Status {
        /// Print what is known of the VM as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Stop the VM; its environments stop with it
    Stop,
    /// Stop the VM, even one that does not answer, and start it
    Restart {
        #[command(flatten)]
        #[allow(missing_docs)]
        options: Options,
    },
    /// Delete the VM with all its environments; projects stay
    Delete {
        /// Confirm it: this tool never asks
        #[arg(long, required = true)]
        yes: bool,
    },
}

/// What a VM is like.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "Options of a VM")]
pub struct Options {
    /// Processors [default: 4, or the machine's if fewer]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cpus: Option<u32>,
    /// Memory, as in 6GiB [default: half of the machine's, at most 8GiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<String>,
    /// Disk, as in 60GiB; it takes no more room than is used [default: 100GiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub disk: Option<String>,
    /// Directory that the VM sees at the same path, writable [default: the home]; may be repeated
    #[arg(long, value_name = "DIR", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub mount: Vec<PathBuf>,
}

/// The socket by which the VM of `instance` is reached while it runs, found without `limactl`.
///
/// None: neither `LIMA_HOME` nor `HOME` is set.
pub fn socket(instance: &str) -> Option<PathBuf> {
    Some(lima_home()?.join(instance).join("sock").join("llima-box.sock"))
}

/// Where Lima keeps its instances.
pub fn lima_home() -> Option<PathBuf> {
    set("LIMA_HOME").or_else(|| set("HOME").map(|home| home.join(".lima")))
}

/// Where logs and locks of this tool lie.
pub fn state_dir() -> Option<PathBuf> {
    let base = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")))?;
    Some(base.join("llima-box"))
}

fn set(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from)
}

fn size(text: &str) -> Result<String, String> {
    match bytes(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("a size is a number and a unit, as in 8GiB".to_owned()),
    }
}

/// The bytes of a size as Lima reads it: a number and `KiB`, `MiB`, `GiB` or `TiB`, or short `8G`;
/// powers of two all.
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit() {
        assert_eq!(bytes("2GiB"), Some(2 << 30));
        assert_eq!(bytes("512m"), Some(512 << 20));
        for text in ["", "GiB", "8", "0GiB", "-1GiB", "1.5GiB", "8 GiB", "99999999999TiB", "8PiB"] {
            assert_eq!(bytes(text), None, "{text:?}");
        }
    }
}
