//! What the end-to-end suite is made of: the built tools, projects and accounts that remove
//! themselves, a terminal to drive.
//!
//! `scripts/test` builds the tools, names their directory in `LBX_BIN_DIR`, and runs the suite in
//! `scripts/sandbox`, where accounts, mounts and cgroups are the sandbox's own.

pub mod docs;
pub mod machine;
pub mod project;
pub mod pty;
pub mod user;

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use assert_cmd::Command;
pub use project::Project;
pub use pty::Pty;
pub use user::User;

/// No single run of a tool takes longer: one that hangs fails, and the suite goes on.
const LONGEST: Duration = Duration::from_secs(120);

/// What every tool and every command of a test finds in its environment, and nothing else.
pub const ENVIRONMENT: [(&str, &str); 5] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("TERM", "xterm-256color"),
    ("LANG", "C.UTF-8"),
    ("LBX_ON", "local"),
];

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

/// The tool `name`, as root, at the place that the suite runs for.
pub fn tool(name: &str) -> Command {
    command(tool_file(name))
}

/// Any program, with the tests' own environment and a time limit.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::from_std(std_command(program));
    command.timeout(LONGEST);
    command
}

/// As [`command`], for tests that spawn and wait themselves.
pub fn std_command(program: impl AsRef<OsStr>) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.env_clear().envs(ENVIRONMENT).current_dir("/");
    if let Some(place) = std::env::var_os("LBX_ON") {
        command.env("LBX_ON", place);
    }
    command
}

/// `script` run by sh as root outside every environment; it must succeed. Returns its output.
pub fn host(script: &str) -> String {
    let mut sh = command("sh");
    sh.args(["-euc", script]);
    text(sh.assert().success())
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
        assert!(start.elapsed() < Duration::from_secs(20), "never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether all `programs` are installed; if not, the test that asks is recorded as skipped.
pub fn installed(programs: &[&str]) -> bool {
    let missing: Vec<&&str> = programs.iter().filter(|p| !on_path(p)).collect();
    if !missing.is_empty() {
        skip(&format!("not installed: {missing:?}"));
    }
    missing.is_empty()
}

fn on_path(program: &str) -> bool {
    let (_, path) = ENVIRONMENT[0];
    path.split(':').any(|dir| Path::new(dir).join(program).is_file())
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
