//! The place that the suite runs for, by `LBX_ON`, and what differs there for every test.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use crate::{Command, command, limited, std_command, text};

/// Where the environments of this run live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Local,
    /// On this machine too, but the tools reach it by ssh.
    Ssh,
    /// In a virtual machine that has the home of whoever calls, at the same path.
    Lima,
}

/// Everywhere that is this machine: its files, accounts and processes can be looked at.
pub const HERE: [Place; 2] = [Place::Local, Place::Ssh];

/// The place that the suite runs for.
pub fn place() -> Place {
    match std::env::var("LBX_ON").as_deref().map(|on| on.split(':').next().unwrap_or(on)) {
        Ok("local") | Err(_) => Place::Local,
        Ok("ssh") => Place::Ssh,
        Ok("lima") => Place::Lima,
        Ok(other) => panic!("LBX_ON names no place that the suite knows: {other}"),
    }
}

/// The place as options name it.
pub fn on() -> String {
    std::env::var("LBX_ON").unwrap_or_else(|_| "local".to_owned())
}

/// Whether the running test holds at this run's place; where it does not, says `why`. Not a skip: it
/// has run at one of `places`.
pub fn only_at(places: &[Place], why: &str) -> bool {
    let holds = places.contains(&place());
    if !holds {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("a test");
        // past the capture of what a test prints, and in one piece
        let _ = std::io::stderr().write_all(format!("not at {}: {name}: {why}\n", on()).as_bytes());
    }
    holds
}

/// A limit of time, longer where the place is an emulated machine.
pub fn scaled(limit: Duration) -> Duration {
    match place() {
        Place::Lima => limit * 5,
        _ => limit,
    }
}

/// `script` run by sh as root on the machine where the environments live, outside every
/// environment; it must succeed. Returns its output.
pub fn host(script: &str) -> String {
    text(host_command(&["sh", "-euc", script]).assert().success())
}

/// As [`host`], where the suite and the files of projects are.
pub fn near(script: &str) -> String {
    text(command("sh").args(["-euc", script]).assert().success())
}

/// `words` as root's command on the machine where the environments live.
pub fn host_command(words: &[&str]) -> Command {
    limited(host_std_command(words))
}

/// As [`host_command`], for tests that spawn and wait themselves.
pub fn host_std_command(words: &[&str]) -> std::process::Command {
    let Some((program, arguments)) = words.split_first() else { panic!("a command has words") };
    if place() != Place::Lima {
        let mut command = std_command(program);
        command.args(arguments);
        return command;
    }
    let on = on();
    let instance = on.split_once(':').map_or("", |(_, instance)| instance);
    let lima_home = std::env::var_os("LIMA_HOME").map_or_else(|| crate::home().join(".lima"), PathBuf::from);
    let mut ssh = std_command("ssh");
    ssh.arg("-F").arg(lima_home.join(instance).join("ssh.config")).arg(format!("lima-{instance}"));
    ssh.arg(shell_words::join([&["sudo", "-n", "--"], words].concat()));
    ssh
}
