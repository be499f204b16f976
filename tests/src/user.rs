//! An ordinary account of the machine.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::place::{HERE, host_command};
use crate::{Command, Place, command, host, machine, place, text, tool_file};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A person: an ordinary account with a home, where the environments live. When it is dropped,
/// both go.
#[derive(Debug)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    home: PathBuf,
    /// Whoever runs the suite: not ours to remove.
    is_caller: bool,
}

impl User {
    /// Whose projects these are, and who looks at them from outside: an account of this machine. A
    /// VM has the files of the person that calls, and of nobody else.
    pub fn owner() -> User {
        if HERE.contains(&place()) {
            return User::new();
        }
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        User {
            name: text(command("id").arg("-un").assert()).trim().to_owned(),
            uid,
            gid,
            home: crate::home(),
            is_caller: true,
        }
    }

    /// An account that may not become root.
    #[allow(clippy::new_without_default)]
    pub fn new() -> User {
        let name = format!("lbxt{}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        host(&format!("useradd -m -s /bin/bash {name}"));
        let account = machine::account(&name).expect("useradd makes an account");
        User { home: account.home.into(), name, uid: account.uid, gid: account.gid, is_caller: false }
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

    /// The words in front of a command on their machine that run it as this user, with all their
    /// groups.
    pub fn words(&self) -> [String; 5] {
        [
            "setpriv".into(),
            format!("--reuid={}", self.uid),
            format!("--regid={}", self.gid),
            "--init-groups".into(),
            "--".into(),
        ]
    }

    /// `program` as this user, on this machine.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = if self.is_caller {
            command(program)
        } else {
            assert_ne!(place(), Place::Lima, "this account is the VM's");
            let words = self.words();
            let mut command = command(&words[0]);
            command.args(&words[1..]).arg(program);
            command
        };
        command.env("HOME", &self.home).env("USER", &self.name).env("LOGNAME", &self.name);
        command.current_dir(&self.home);
        command
    }

    /// `words` as this user's command where the environments live.
    pub fn host_command(&self, words: &[&str]) -> Command {
        let (own, home) = (self.words(), format!("HOME={}", self.home.display()));
        let own: Vec<&str> = own.iter().map(String::as_str).chain(["env", "-C", "/", &home]).collect();
        host_command(&[&own[..], words].concat())
    }

    /// The tool `name` as this user.
    pub fn tool(&self, name: &str) -> Command {
        self.command(tool_file(name))
    }

    /// `script` run by sh as this user outside every environment; it must succeed.
    pub fn sh(&self, script: &str) -> String {
        let script = ["sh", "-euc", script];
        let mut command = match self.is_caller || HERE.contains(&place()) {
            true => self.command(script[0]),
            false => return text(self.host_command(&script).assert().success()),
        };
        text(command.args(&script[1..]).assert().success())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if self.is_caller {
            return;
        }
        let script = format!("rm -f {}; userdel -r -f {}", self.sudoers().display(), self.name);
        let _ = host_command(&["sh", "-c", &script]).output();
    }
}
