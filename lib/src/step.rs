//! The step to another place or to root, and to a sibling tool: one exec, shell-quoted on stderr
//! when `LBX_TRACE` asks for it.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::caller::{self, Caller};
use crate::failure::{Failure, Result, fail, say};
use crate::path::shell_quoted;
use crate::place::Place;
use crate::record::Record;

/// Prefix of the variables that carry values across a step: they are in no argv, and sudo, which
/// sets `PATH` and drops `LD_*`, leaves them as they are.
const CARRIED: &str = "LBX_VAR_";

/// The variable that names a socket to `lbx-enter`, by which it talks with the far end that runs it: what
/// to run, where it has no words of its own; a byte without which COMMAND does not begin, and which comes
/// when the caller is known to hear how it ends; and back, COMMAND's status.
pub const GATE: &str = "LBX_GATE";

/// A tool's command line: its words without values that are secret, and the variables that
/// carry those.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// The words behind the tool's name.
    pub words: Vec<OsString>,
    /// Variables for the tool on the other side, read there by [`carried`].
    pub vars: Vec<(OsString, OsString)>,
}

/// The value of variable `name` that a step carried here, else this process's own.
pub fn carried(name: &OsStr) -> Option<OsString> {
    let mut long = OsString::from(CARRIED);
    long.push(name);
    std::env::var_os(long).or_else(|| std::env::var_os(name))
}

/// Every variable that a step carried here.
pub fn all_carried() -> Vec<(OsString, OsString)> {
    use std::os::unix::ffi::OsStrExt;
    let short = |(name, value): (OsString, OsString)| {
        Some((OsStr::from_bytes(name.as_bytes().strip_prefix(CARRIED.as_bytes())?).to_owned(), value))
    };
    std::env::vars_os().filter_map(short).collect()
}

/// Takes from `command` the variables that a step carried here: their values are for one tool, not for
/// what outlives it, as a kept connection does, or a VM.
pub fn keep_values_from(command: &mut Command) {
    use std::os::unix::ffi::OsStrExt;
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(CARRIED.as_bytes())) {
        command.env_remove(name);
    }
}

/// Runs `tool` with `call` at `place` in this process's stead, by `lbx-on`.
///
/// # Errors
/// `lbx-on` is not beside this program.
pub fn to_place(place: &Place, tool: &str, call: Call) -> Result<Infallible> {
    let mut command = sibling("lbx-on").map_err(|_| {
        Failure::new(format!("place '{place}' cannot be reached: lbx-on is not installed beside this tool"))
            .hint("only the place 'local' works without it")
    })?;
    command.arg(place.to_string()).arg(tool).args(&call.words);
    carry(&mut command, &call.vars);
    replace(command)
}

/// Goes on when this process is root; else runs this very program again through sudo with `call`, in
/// this process's stead.
///
/// `told_apart`: sudo's own status 1 must not be taken for the command's, so that sudo is asked
/// first whether it will.
///
/// # Errors
/// There is no sudo, or it refuses.
pub fn to_root(call: impl FnOnce() -> Result<Call>, told_apart: bool) -> Result<()> {
    if caller::is_root() {
        return Ok(());
    }
    let call = call()?;
    let Some(sudo) = sudo() else {
        return fail(Failure::new("must be root, and there is no sudo").hint("run it as root, or install sudo"));
    };
    let program = program()?;
    let names: Vec<String> = call.vars.iter().map(|(name, _)| format!("{CARRIED}{}", name.display())).collect();
    let through_sudo = || {
        let mut command = Command::new(&sudo);
        if !std::io::stdin().is_terminal() && !std::io::stderr().is_terminal() {
            command.arg("-n");
        }
        if !names.is_empty() {
            command.arg(format!("--preserve-env={}", names.join(",")));
        }
        command.arg("--").arg(&program);
        carry(&mut command, &call.vars);
        command
    };
    if told_apart {
        let mut ask = through_sudo();
        ask.arg("--version").stdin(Stdio::inherit()).stdout(Stdio::null());
        trace(&ask);
        let answer = ask.status().with_context(|| format!("cannot run '{}'", sudo.display()))?;
        if !answer.success() {
            return fail(Failure::new("must be root, and sudo refused").hint("sudo -v tells why"));
        }
    }
    let mut command = through_sudo();
    command.args(&call.words);
    match replace(command)? {}
}

/// sudo(8) where the system has it; PATH, on which a project's own directory may stand, comes last.
fn sudo() -> Option<PathBuf> {
    let usual = ["/usr/bin/sudo", "/run/wrappers/bin/sudo", "/usr/local/bin/sudo"].map(PathBuf::from);
    usual.into_iter().find(|path| path.exists()).or_else(|| which::which("sudo").ok())
}

/// The tool `name` that stands beside this program, never one on PATH.
///
/// # Errors
/// There is none.
pub fn sibling(name: &str) -> Result<Command> {
    let file = program()?.with_file_name(name);
    if !file.is_file() {
        return fail(
            Failure::new(format!("tool is not installed: {}", file.display()))
                .hint("the tools of llima-box stand in one directory"),
        );
    }
    Ok(Command::new(file))
}

/// Where the tools for other machines may lie, each architecture in a directory by its name: beside
/// this program in a build, and in an installation.
///
/// # Errors
/// Nothing tells where this program lies.
pub fn guest_directories() -> Result<[PathBuf; 2]> {
    let program = program()?;
    Ok(["guest", "../libexec/llima-box/guest"].map(|dir| program.with_file_name(dir)))
}

/// Fails when this program lies where processes inside the environment of `record` could replace
/// it: root would run what an agent has left there.
///
/// # Errors
/// A [`Failure`] that names the program.
pub fn require_program_out_of_reach(record: &Record) -> Result<()> {
    let program = program()?;
    if !record.exposes(&program) {
        return Ok(());
    }
    fail(
        Failure::new(format!("environment '{}' could replace this tool: {}", record.name, program.display()))
            .hint("install the tools elsewhere (scripts/install), or keep their directory --private"),
    )
}

/// This program's own file.
fn program() -> Result<PathBuf> {
    std::env::current_exe().context("cannot tell this program's own path")
}

/// Gives `command` the variables that a [`Call`] carries, for [`carried`] to read there.
pub fn carry(command: &mut Command, vars: &[(OsString, OsString)]) {
    for (name, value) in vars {
        let mut long = OsString::from(CARRIED);
        long.push(name);
        command.env(long, value);
    }
}

/// Replaces this process by `command`.
///
/// # Errors
/// The program cannot be executed.
pub fn replace(mut command: Command) -> Result<Infallible> {
    trace(&command);
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run '{}'", command.get_program().display()))
}

/// Runs `command` and returns what it printed on stdout.
///
/// # Errors
/// It cannot be executed, or it failed: its own message is on stderr already, so that the
/// failure here names the tool alone.
pub fn output(mut command: Command) -> Result<Vec<u8>> {
    trace(&command);
    let program = command.get_program().to_owned();
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run '{}'", program.display()))?;
    if !output.status.success() {
        let tool = std::path::Path::new(&program).file_name().unwrap_or(&program);
        return fail(Failure::new(format!("{} failed", tool.display())));
    }
    Ok(output.stdout)
}

/// With `LBX_TRACE=1` prints `command` on stderr, shell-quoted, with a clock in milliseconds;
/// `LBX_TRACE=/FILE` appends it to that file.
pub fn trace(command: &Command) {
    // what runs for a caller elsewhere is traced when that one asks
    let given = command.get_envs().find(|(name, _)| *name == "LBX_TRACE").and_then(|(_, value)| value);
    let target = given.map(OsStr::to_owned).or_else(|| std::env::var_os("LBX_TRACE"));
    let Some(target) = target.filter(|v| !v.is_empty() && v != "0") else { return };
    let words: Vec<String> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(shell_quoted).collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let words = crate::failure::printable(&words.join(" "));
    let line = format!("+ {}.{:03} {words}\n", now.as_secs(), now.subsec_millis());
    // root writes no file at the word of whoever called sudo
    if caller::is_root() && !Caller::current().is_root() {
        return say(&line);
    }
    if !target.as_encoded_bytes().starts_with(b"/") {
        return say(&line);
    }
    let file = std::fs::OpenOptions::new().append(true).create(true).open(&target);
    if file.and_then(|mut file| file.write_all(line.as_bytes())).is_err() {
        say(&format!("LBX_TRACE: cannot write '{}'\n", target.display()));
    }
}
