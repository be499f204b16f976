//! What this machine has to give to a VM.

use std::path::PathBuf;

use lbx::failure::{Failure, Result, fail};

const GIB: u64 = 1 << 30;

/// The defaults of a new VM.
pub(crate) struct Machine {
    pub(crate) cpus: u32,
    /// In Lima's spelling.
    pub(crate) memory: String,
    /// Lima's driver, and how it shares directories.
    pub(crate) kind: (&'static str, &'static str),
    pub(crate) home: PathBuf,
}

impl Machine {
    /// # Errors
    /// `HOME` is not set.
    pub(crate) fn look() -> Result<Machine> {
        let Some(home) = std::env::var_os("HOME").filter(|home| !home.is_empty()) else {
            return fail(Failure::new("HOME is not set"));
        };
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get().min(4) as u32);
        let kind = if cfg!(target_os = "macos") { ("vz", "virtiofs") } else { ("qemu", "9p") };
        Ok(Machine { cpus, memory: share(memory()), kind, home: home.into() })
    }
}

/// Half of `total` bytes, at most 8 GiB; what Lima itself would take at most where nobody knows.
fn share(total: Option<u64>) -> String {
    let share = total.map_or(4 * GIB, |total| (total / 2).min(8 * GIB));
    format!("{}MiB", share >> 20)
}

#[cfg(target_os = "linux")]
fn memory() -> Option<u64> {
    let info = rustix::system::sysinfo();
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    let total = u64::from(info.totalram).checked_mul(u64::from(info.mem_unit))?;
    Some(total)
}

#[cfg(not(target_os = "linux"))]
fn memory() -> Option<u64> {
    let output = std::process::Command::new("/usr/sbin/sysctl").args(["-n", "hw.memsize"]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_takes_half_of_the_memory_and_never_more_than_eight() {
        assert_eq!(share(Some(64 * GIB)), "8192MiB");
        assert_eq!(share(Some(6 * GIB)), "3072MiB");
        assert_eq!(share(None), "4096MiB");
        assert!(memory().is_some_and(|bytes| bytes > GIB / 4));
    }
}
