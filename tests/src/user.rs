//! An ordinary account of the machine.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Command, command, host, machine, tool_file};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A person: an ordinary account with a home. When it is dropped, both go.
#[derive(Debug)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    home: PathBuf,
}

impl User {
    /// An account that may not become root.
    #[allow(clippy::new_without_default)]
    pub fn new() -> User {
        let name = format!("lbxt{}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        command("useradd").args(["-m", "-s", "/bin/bash", &name]).assert().success();
        let account = machine::account(&name).expect("useradd makes an account");
        User { home: account.home.into(), name, uid: account.uid, gid: account.gid }
    }

    /// An account that becomes root by sudo, without a password.
    pub fn sudoer() -> User {
        let user = User::new();
        let rule = format!("{} ALL=(ALL:ALL) NOPASSWD: ALL\n", user.name);
        let file = user.sudoers();
        host(&format!("umask 337; printf '{rule}' >{}", file.display()));
        user
    }

    fn sudoers(&self) -> PathBuf {
        Path::new("/etc/sudoers.d").join(&self.name)
    }

    /// Home directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The words in front of a command that run it as this user, with all their groups.
    pub fn words(&self) -> [String; 5] {
        [
            "setpriv".into(),
            format!("--reuid={}", self.uid),
            format!("--regid={}", self.gid),
            "--init-groups".into(),
            "--".into(),
        ]
    }

    /// `program` as this user.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let words = self.words();
        let mut command = command(&words[0]);
        command.args(&words[1..]).arg(program);
        command.env("HOME", &self.home).env("USER", &self.name).env("LOGNAME", &self.name);
        command.current_dir(&self.home);
        command
    }

    /// The tool `name` as this user.
    pub fn tool(&self, name: &str) -> Command {
        self.command(tool_file(name))
    }

    /// `script` run by sh as this user outside every environment; it must succeed.
    pub fn sh(&self, script: &str) -> String {
        crate::text(self.command("sh").args(["-euc", script]).assert().success())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.sudoers());
        let _ = command("userdel").args(["-r", "-f", &self.name]).output();
    }
}
