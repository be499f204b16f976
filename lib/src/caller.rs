//! The invoking user: whose files a tool may touch, and as whom it looks.

use std::path::Path;

#[cfg(target_os = "linux")]
use anyhow::Context;
use rustix::process::{getegid, geteuid, getgid, getuid};

#[cfg(target_os = "linux")]
use crate::failure::Result;

/// The person on whose behalf a tool runs: `SUDO_UID` where root was reached through sudo, else
/// the real user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Numeric user ID.
    pub uid: u32,
    /// Numeric group ID.
    pub gid: u32,
}

impl Caller {
    /// Who runs this process.
    pub fn current() -> Caller {
        let number = |variable| std::env::var(variable).ok()?.parse::<u32>().ok();
        match (number("SUDO_UID"), number("SUDO_GID")) {
            (Some(uid), Some(gid)) if geteuid().is_root() && getuid().is_root() => Caller { uid, gid },
            _ => Caller { uid: getuid().as_raw(), gid: getgid().as_raw() },
        }
    }

    /// Their groups, as the system's name services know them.
    ///
    /// # Errors
    /// `id(1)` cannot be run, or knows nothing of them.
    #[cfg(target_os = "linux")]
    pub fn groups(self) -> Result<Vec<rustix::process::Gid>> {
        let mut id = std::process::Command::new("id");
        // with nothing of the caller's: this runs as root
        id.args(["-G", "--", &self.uid.to_string()]).env_clear().env("PATH", "/usr/bin:/bin");
        let text = crate::step::output(id).with_context(|| format!("cannot tell the groups of uid {}", self.uid))?;
        let numbers = String::from_utf8_lossy(&text);
        let numbers = numbers.split_whitespace().filter_map(|gid| gid.parse().ok());
        Ok(numbers.map(rustix::process::Gid::from_raw).collect())
    }

    /// Whether that is root itself, who may everything.
    pub fn is_root(self) -> bool {
        self.uid == 0
    }
}

/// Whether this process has root's rights.
pub fn is_root() -> bool {
    geteuid().is_root() && getegid().is_root()
}

/// An account of `/etc/passwd`, which is read without NSS: a static program has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account<'a> {
    /// Login name.
    pub name: &'a str,
    /// Numeric user ID.
    pub uid: u32,
    /// Home directory.
    pub home: &'a Path,
}

/// The accounts of a passwd file's `text`; lines that are none are passed over.
pub fn accounts(text: &str) -> impl Iterator<Item = Account<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let home = Path::new(fields.nth(2)?);
        Some(Account { name, uid, home })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read_and_nonsense_is_passed_over() {
        let text = "root:x:0:0:root:/root:/bin/bash\n+::::::\nbad\na:x:7:8::/home/a:/bin/sh\n";
        let homes: Vec<_> = accounts(text).map(|a| (a.name, a.uid, a.home)).collect();
        assert_eq!(homes, [("root", 0, Path::new("/root")), ("a", 7, Path::new("/home/a"))]);
    }
}
