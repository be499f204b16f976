//! The invoking user: whose files a tool may touch.

use std::path::Path;

use rustix::process::{getegid, geteuid, getgid, getuid};

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
