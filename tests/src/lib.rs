//! What the end-to-end suite is made of: the built tools, projects and accounts that remove
//! themselves, a terminal to drive.
//!
//! `scripts/test` builds the tools, names their directory in `LBX_BIN_DIR`, and runs the suite in
//! `scripts/sandbox`, where accounts, mounts and cgroups are the sandbox's own: as root for the
//! places `local` and `ssh`, as the VM's owner for `lima`. It is one suite: what looks at the
//! machine where the environments live asks [`host`] or [`machine`], and a test that cannot hold
//! at a place says so by [`only_at`].

pub mod docs;
pub mod killing;
pub mod machine;
pub mod place;
pub mod project;
pub mod pty;
pub mod review;
pub mod user;
pub mod vm;

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use assert_cmd::Command;
pub use killing::Killing;
pub use place::{Place, host, near, only_at, place, scaled};
pub use project::Project;
pub use pty::Pty;
pub use user::User;

/// No single run of a tool takes longer: one that hangs fails, and the suite goes on.
const LONGEST: Duration = Duration::from_secs(120);
/// How long [`eventually`] waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// What every tool and every command of a test finds in its environment, beside what names the
/// place, and nothing else.
const ENVIRONMENT: [(&str, &str); 2] = [("TERM", "xterm-256color"), ("LANG", "C.UTF-8")];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What passes from the suite's own environment: how the place is found.
const PASSED: [&str; 3] = ["LBX_ON", "LIMA_HOME", "QEMU_SYSTEM_X86_64"];

/// The directory of the built tools.
///
/// The tests change accounts and delete environments: outside the sandbox they do not begin.
pub fn bin_dir() -> PathBuf {
    assert!(std::env::var_os("LBX_SANDBOX").is_some(), "outside the sandbox: run this test by scripts/test");
    PathBuf::from(std::env::var_os("LBX_BIN_DIR").expect("LBX_BIN_DIR is not set: run this test by scripts/test"))
}

/// The file of tool `name`.
pub fn tool_file(name: &str) -> PathBuf {
    bin_dir().join(name)
}

/// The tool `name`, at the place that the suite runs for.
pub fn tool(name: &str) -> Command {
    command(tool_file(name))
}

/// Any program, with the tests' own environment and a time limit.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    limited(std_command(program))
}

fn limited(command: std::process::Command) -> Command {
    let mut command = Command::from_std(command);
    command.timeout(scaled(LONGEST));
    command
}

/// As [`command`], for tests that spawn and wait themselves.
pub fn std_command(program: impl AsRef<OsStr>) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.env_clear().envs(ENVIRONMENT).env("PATH", path()).env("HOME", home()).current_dir("/");
    command.envs(PASSED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

/// PATH, with limactl where the place needs it.
fn path() -> String {
    match std::env::var("LBX_TEST_PATH") {
        Ok(more) => format!("{more}:{PATH}"),
        Err(_) => PATH.to_owned(),
    }
}

/// The home of whoever calls the tools.
pub fn home() -> PathBuf {
    std::env::var_os("LBX_TEST_HOME").unwrap_or_else(|| "/root".into()).into()
}

/// Makes `to` an executable copy of `from`. By a process of its own: a program that another thread
/// forks while this one writes holds the file open, and nobody can execute it ("Text file busy").
pub fn executable(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    command("install").args(["-D", "-m", "755"]).arg(from.as_ref()).arg(to.as_ref()).assert().success();
}

/// As [`executable`], with `text`.
pub fn script(text: &str, to: impl AsRef<Path>) {
    command("install").args(["-D", "-m", "755", "/dev/stdin"]).arg(to.as_ref()).write_stdin(text).assert().success();
}

/// What a finished command printed on stdout.
pub fn text(assert: assert_cmd::assert::Assert) -> String {
    String::from_utf8_lossy(&assert.get_output().stdout).into_owned()
}

/// What a finished command printed on stderr.
pub fn errors(assert: assert_cmd::assert::Assert) -> String {
    String::from_utf8_lossy(&assert.get_output().stderr).into_owned()
}

/// The repository that the suite belongs to.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent")
}

/// Waits until `condition` holds, at most 20 seconds; `what` is said when it never does.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < scaled(PATIENCE), "never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether all `programs` are installed, here and where the environments live; if not, the test
/// that asks is recorded as skipped.
pub fn installed(programs: &[&str]) -> bool {
    let missing: Vec<&&str> = programs.iter().filter(|p| !on_path(p) || !machine::has(p)).collect();
    if !missing.is_empty() {
        skip(&format!("not installed: {missing:?}"));
    }
    missing.is_empty()
}

fn on_path(program: &str) -> bool {
    PATH.split(':').any(|dir| Path::new(dir).join(program).is_file())
}

/// Records that the running test cannot run here; with `CI=true` `scripts/test` fails for it.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("a test"));
    eprint!("skipped: {line}");
    if let Some(list) = std::env::var_os("LBX_SKIPS") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(list);
        file.and_then(|mut f| f.write_all(line.as_bytes())).expect("the list of skipped tests is writable");
    }
}
