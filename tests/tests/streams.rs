//! What passes between the caller and a command inside: arguments, statuses, streams, variables,
//! signals. And what does not.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use lbx_tests::place::on;
use lbx_tests::{
    Place, Project, User, command, eventually, home, only_at, place, scaled, script, std_command, tool, tool_file,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{CWD, Mode, OFlags, openat};

/// Where nothing keeps a test waiting, a run that takes longer has hung.
const PROMPT: Duration = Duration::from_secs(10);

/// `lbx-enter PATH -- WORDS`, to be spawned.
fn spawn_enter(project: &Project, words: &[&str]) -> std::process::Command {
    let mut command = std_command(tool_file("lbx-enter"));
    command.arg(project.path()).arg("--").args(words);
    command
}

/// `script` run by bash outside, which finds lbx-enter as `$ENTER` and the project as `$P`.
fn outside(project: &Project, script: &str) -> Output {
    let mut bash = command("bash");
    bash.args(["-c", script]).env("ENTER", tool_file("lbx-enter")).env("P", project.path());
    bash.timeout(scaled(PROMPT)).output().expect("bash is installed")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// 200 arguments: those that break shells and option parsers, and random bytes without NUL.
fn hostile() -> Vec<OsString> {
    let text = [
        "",
        " ",
        "-",
        "--",
        "---",
        "-n",
        "-A",
        "-h",
        "--help",
        "--version",
        "--env",
        "--env=A=B",
        "--chdir",
        "--on",
        "--on=moon",
        "-q",
        "=",
        "A=B",
        "'",
        "\"",
        "'\"'\"'",
        "\\",
        "\\'",
        "$(id)",
        "`id`",
        "${HOME}",
        "$HOME",
        "!!",
        "~",
        "*",
        "/*",
        "?",
        "[a-z]",
        "{a,b}",
        ";",
        "&",
        "|",
        "<",
        ">",
        "#",
        "%s",
        "%n",
        "\n",
        "\r",
        "\r\n",
        "\t",
        "a\nb",
        "\x1b[2J",
        "\x7f",
        "..",
        "../../..",
        "/",
        "ä",
        "日本語",
        "\u{feff}",
        " leading",
        "trailing ",
    ];
    let mut all: Vec<OsString> = text.iter().map(Into::into).collect();
    all.push(OsString::from_vec((1..=255).collect()));
    all.push(OsString::from_vec((1..=255).rev().collect()));
    all.push(OsString::from_vec(vec![b'x'; 100_000]));
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    while all.len() < 200 {
        let length = next() % 40;
        all.push(OsString::from_vec((0..length).map(|_| (next() % 255 + 1) as u8).collect()));
    }
    all
}

/// What `printf '%s\0'` prints of `words`.
fn ended_by_nul(words: &[OsString]) -> Vec<u8> {
    words.iter().flat_map(|word| word.as_bytes().iter().copied().chain([0])).collect()
}

#[test]
fn hostile_arguments_arrive_exactly() {
    let project = Project::new();
    project.create(&[]);
    let words = hostile();
    let output = project.enter(["printf", "%s\\0"]).args(&words).output().unwrap();
    assert!(output.stdout == ended_by_nul(&words), "the arguments differ: {}", stderr(&output));

    // each alone, right behind the command
    for word in &words[..60] {
        let output = project.enter(["printf", "%s\\0"]).arg(word).assert().success();
        let got = &output.get_output().stdout;
        assert_eq!(got, &ended_by_nul(std::slice::from_ref(word)), "{word:?}");
    }
}

#[test]
fn options_behind_the_command_are_the_commands_own() {
    let project = Project::new();
    project.create(&[]);
    let words: Vec<OsString> = ["-n", "--", "--env", "A", "--", "-A", "--help"].map(Into::into).into();
    let mut enter = tool("lbx-enter");
    enter.arg(project.path()).args(["printf", "%s\\0"]).args(&words);
    assert_eq!(enter.assert().success().get_output().stdout, ended_by_nul(&words));
}

#[test]
fn hostile_arguments_arrive_exactly_through_sudo() {
    if !only_at(&[Place::Local], "sudo is a step of this machine") {
        return;
    }
    let user = User::sudoer();
    let project = Project::owned_by(&user);
    project.create(&[]);
    let words = hostile();
    let mut enter = user.tool("lbx-enter");
    enter.arg(project.path()).args(["--", "printf", "%s\\0"]).args(&words);
    let output = enter.output().unwrap();
    assert!(output.stdout == ended_by_nul(&words), "the arguments differ: {}", stderr(&output));
    for status in [0, 1, 2, 125, 126, 127, 128, 255] {
        let script = format!("exit {status}");
        user.tool("lbx-enter").arg(project.path()).args(["--", "sh", "-c", &script]).assert().code(status);
    }
    user.tool("lbx-enter").arg(project.path()).args(["--", "sh", "-c", "kill -KILL $$"]).assert().code(137);
}

#[test]
fn statuses_from_0_to_255_pass() {
    let project = Project::new();
    project.create(&[]);
    for status in 0..=255 {
        let script = format!("exit {status}");
        project.enter(["sh", "-c", &script]).assert().code(status).stdout("").stderr("");
    }
}

#[test]
fn a_signal_that_ends_the_command_is_128_and_its_number() {
    let project = Project::new();
    project.create(&[]);
    let harmless = [Signal::SIGCHLD, Signal::SIGCONT, Signal::SIGURG, Signal::SIGWINCH];
    let stopping = [Signal::SIGSTOP, Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];
    for signal in Signal::iterator().filter(|s| !harmless.contains(s) && !stopping.contains(s)) {
        let number = signal as i32;
        project.enter(["sh", "-c", &format!("kill -{number} $$")]).assert().code(128 + number).stdout("");
    }
}

#[test]
fn a_command_that_cannot_be_executed_is_126() {
    let project = Project::new();
    project.create(&[]);
    project.write("plain", "exit 4\n");
    project.write("bin/plain", "exit 4\n");
    for word in ["/usr", "/etc/passwd", "./plain"] {
        let output = project.enter([word]).output().unwrap();
        assert_eq!(output.status.code(), Some(126), "{word}: {output:?}");
        assert!(stderr(&output).starts_with("lbx-enter: ") && stderr(&output).contains(word), "{output:?}");
    }
    // found on PATH, but not executable
    let path = format!("--env=PATH={}/bin", project.str());
    tool("lbx-enter").arg(path).arg(project.path()).args(["--", "plain"]).assert().code(126);
    // a script without an interpreter's line is the shell's, as everywhere
    std::fs::set_permissions(project.path().join("plain"), PermissionsExt::from_mode(0o755)).unwrap();
    project.enter(["./plain"]).assert().code(4);
}

#[test]
fn a_command_that_is_not_found_is_127() {
    let project = Project::new();
    project.create(&[]);
    for word in ["no-such-command", "/no/such/command", "./no-such-command", "--", "", "no such\ncommand"] {
        let output = project.enter([word]).output().unwrap();
        assert_eq!(output.status.code(), Some(127), "{word:?}: {output:?}");
        assert!(stderr(&output).starts_with("lbx-enter: "), "{output:?}");
        assert_eq!(stderr(&output).trim_end().lines().count(), 1, "{output:?}");
    }
}

#[test]
fn failures_of_the_tool_itself_are_125() {
    let project = Project::new();
    project.create(&[]);
    let path = project.str();
    let name = project.name();
    let cases: [(&[&str], &str); 12] = [
        (&[], "ENV"),
        (&["--no-such-option", path, "--", "true"], "--no-such-option"),
        (&["--env"], "--env"),
        (&["--env", "", path, "--", "true"], ""),
        (&["--env", "=x", path, "--", "true"], "=x"),
        (&["--on", "moon", path, "--", "true"], "moon"),
        (&["nobody-0000", "--", "true"], "nobody-0000"),
        (&["/srv/no-such-project", "--", "true"], "/srv/no-such-project"),
        (&["/", "--", "true"], "/"),
        (&["", "--", "true"], ""),
        (&["--chdir", "no-such-directory", path, "--", "true"], "no-such-directory"),
        (&["--quiet", "--verbose", &name, "--", "true"], "--quiet"),
    ];
    for (words, named) in cases {
        let output = tool("lbx-enter").args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{words:?}: {output:?}");
        assert_eq!(stdout(&output), "", "{words:?}");
        assert!(stderr(&output).starts_with("lbx-enter: ") && stderr(&output).contains(named), "{words:?}: {output:?}");
    }
    // an answer, not an error
    for words in ["--help", "--version"] {
        tool("lbx-enter").arg(words).assert().code(0).stderr("");
    }
    let output = outside(&project, "$ENTER --help >/dev/full");
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(stderr(&output).contains("lbx-enter: ") && stderr(&output).contains("stdout"), "{output:?}");
}

#[test]
fn without_sudo_an_ordinary_user_is_told_what_is_needed() {
    if !only_at(&[Place::Local], "sudo is a step of this machine") {
        return;
    }
    let user = User::new();
    let project = Project::owned_by(&user);
    project.create(&[]);
    let output = user.tool("lbx-enter").arg(project.path()).args(["--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(stderr(&output).contains("lbx-enter: must be root"), "{output:?}");
    assert!(stderr(&output).contains("\nhint: "), "{output:?}");
}

/// Writes 1 GiB to `command`'s stdin, compares what comes out of its stdout with it, byte by byte,
/// and returns how long that took.
fn gibibyte_through(mut command: std::process::Command) -> Duration {
    const BLOCKS: u64 = 1024;
    let mut state = 88_172_645_463_325_252_u64;
    let mut block: Vec<u8> = Vec::with_capacity(1 << 20);
    while block.len() < 1 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_ne_bytes());
    }
    let numbered = |block: &mut Vec<u8>, number: u64| block[..8].copy_from_slice(&number.to_ne_bytes());

    let start = Instant::now();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut sent = block.clone();
    let writer = std::thread::spawn(move || {
        for number in 0..BLOCKS {
            numbered(&mut sent, number);
            stdin.write_all(&sent).expect("the command reads");
        }
    });
    let mut stdout = child.stdout.take().unwrap();
    let mut got = vec![0; block.len()];
    for number in 0..BLOCKS {
        numbered(&mut block, number);
        stdout.read_exact(&mut got).expect("the command writes");
        assert!(got == block, "block {number} differs");
    }
    assert_eq!(stdout.read(&mut got).unwrap(), 0, "more came out than went in");
    writer.join().expect("all was read");
    assert!(child.wait().unwrap().success());
    start.elapsed()
}

#[test]
fn a_gibibyte_is_unchanged_and_as_fast_as_a_pipe() {
    if !only_at(&[Place::Local], "far it is as fast as a way there") {
        return;
    }
    let project = Project::new();
    project.create(&[]);
    project.must("start");
    // one pipe less than `cat | cat` has; its time, in the best of some rounds, leaves room for a
    // busy machine
    let mut ratios = Vec::new();
    while ratios.len() < 5 && !ratios.iter().any(|ratio| *ratio <= 1.25) {
        // a session of its own, as inside: the scheduler shares a machine out among sessions
        let mut pipe = std_command("setsid");
        pipe.args(["--wait", "sh", "-c", "cat | cat"]);
        let pipe = gibibyte_through(pipe);
        let inside = gibibyte_through(spawn_enter(&project, &["cat"]));
        ratios.push(inside.as_secs_f64() / pipe.as_secs_f64());
    }
    assert!(ratios.iter().any(|ratio| *ratio <= 1.25), "slower than a pipe: {ratios:?}");
}

#[test]
fn a_closed_pipe_ends_the_command_quietly() {
    let project = Project::new();
    project.create(&[]);
    let output = outside(&project, r#"$ENTER "$P" -- yes | head -n 1; echo "${PIPESTATUS[0]}""#);
    assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("y\n141\n", ""));
}

#[test]
fn a_full_device_is_the_commands_error() {
    let project = Project::new();
    project.create(&[]);
    let output = outside(&project, r#"$ENTER "$P" -- echo x >/dev/full"#);
    // far, it is the tool that writes there
    let status = if place() == Place::Local { 1 } else { 125 };
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    assert!(stderr(&output).contains("No space left on device"), "{output:?}");
}

#[test]
fn a_directory_is_refused_as_a_stream() {
    let project = Project::new();
    project.create(&[]);
    for stream in ["0</", "1</", "2</", "0<.", "0<\"$P\"", "0</proc/self/fd"] {
        // where stderr itself is the directory, nobody can be told
        let output = outside(&project, &format!(r#"cd /; $ENTER "$P" -- touch ran {stream}"#));
        assert_eq!(output.status.code(), Some(125), "{stream}: {output:?}");
        if !stream.starts_with('2') {
            // far, it is the way there that refuses
            let tool = if place() == Place::Local { "lbx-enter: " } else { "lbx-on: " };
            assert!(stderr(&output).starts_with(tool) && stderr(&output).contains("directory"), "{output:?}");
        }
        assert!(!project.path().join("ran").exists(), "{stream}: the command ran");
    }
}

#[test]
fn a_descriptor_without_rights_is_refused_as_a_stream() {
    let project = Project::new();
    project.create(&[]);
    for path in ["/", "/etc/passwd", "/dev/null"] {
        let place = || -> Stdio {
            let fd: OwnedFd = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
            fd.into()
        };
        for stream in 0..3 {
            let mut enter = spawn_enter(&project, &["touch", "ran"]);
            enter.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            match stream {
                0 => enter.stdin(place()),
                1 => enter.stdout(place()),
                _ => enter.stderr(place()),
            };
            let output = enter.output().unwrap();
            assert_eq!(output.status.code(), Some(125), "{path} as {stream}: {output:?}");
            assert!(!project.path().join("ran").exists(), "{path} as {stream}: the command ran");
        }
    }
}

#[test]
fn a_missing_stream_is_no_other_file() {
    let project = Project::new();
    project.create(&[]);
    // the shell's own streams, looked at by a child: the shell itself would save what it redirects
    let script = "(for n in 0 1 2; do readlink /proc/$$/fd/$n >link$n; done; ls /proc/$$/fd >all); exit 7";
    for (closing, missing) in [("<&-", 0..1), (">&-", 1..2), ("2>&-", 2..3), ("<&- >&- 2>&-", 0..3)] {
        let output = outside(&project, &format!(r#"$ENTER "$P" -- sh -c '{script}' {closing}"#));
        assert_eq!(output.status.code(), Some(7), "{closing}: {output:?}");
        for number in 0..3 {
            let link = project.read(&format!("link{number}"));
            if missing.contains(&number) {
                // far, every stream is a pipe of the tools', and this one has ended
                let far = place() != Place::Local && link.starts_with("pipe:");
                assert!(far || ["", "/dev/null\n"].contains(&link.as_str()), "{closing}: {number} is {link}");
            }
        }
        let all: BTreeSet<String> = project.read("all").lines().map(Into::into).collect();
        assert!(all.is_subset(&["0", "1", "2"].map(Into::into).into()), "{closing}: {all:?}");
    }
}

#[test]
fn with_n_stdin_is_the_null_device() {
    let project = Project::new();
    project.create(&[]);
    let mut enter = std_command(tool_file("lbx-enter"));
    enter.arg("-n").arg(project.path()).args(["--", "sh", "-c", "cat; readlink /proc/$$/fd/0; :"]);
    let mut child = enter.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // stays open: cat would wait for it
    let open = child.stdin.take();
    assert_eq!(stdout(&child.wait_with_output().unwrap()), "/dev/null\n");
    drop(open);
    project.enter(["cat"]).write_stdin("").assert().success().stdout("");
    project.enter(["cat"]).write_stdin("all of it").assert().success().stdout("all of it");
}

#[test]
fn what_the_command_leaves_of_stdin_is_the_callers() {
    let project = Project::new();
    project.create(&[]);
    let output = outside(&project, r#"printf abc | { $ENTER "$P" -- dd bs=1 count=1 status=none; echo; cat; }"#);
    match place() {
        Place::Local => assert_eq!(stdout(&output), "a\nbc"),
        // what was sent ahead is not given back
        _ => assert!(stdout(&output).starts_with("a\n"), "{output:?}"),
    }
}

#[test]
fn a_stream_that_the_command_closes_is_closed() {
    let project = Project::new();
    project.create(&[]);
    // the reader has its end of file while the command runs
    let mut enter = spawn_enter(&project, &["sh", "-c", "echo last; exec >&- 2>&-; read go; exit 3"]);
    let mut child = enter.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = out.read_to_string(&mut text);
        let _ = sender.send(text);
    });
    let ended = receiver.recv_timeout(scaled(PROMPT));
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(ended.as_deref(), Ok("last\n"), "stdout stayed open");

    // the writer learns that nobody reads
    let mut enter = spawn_enter(&project, &["sh", "-c", "exec <&-; echo closed; sleep 5"]);
    let mut child = enter.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // lbx-enter lets go of it when the command is on its way, which may be before
    eventually("stdin is closed", || stdin.write_all(b"x").is_err());
    terminate(&mut child);
}

fn terminate(child: &mut Child) {
    let _ = kill(pid(child), Signal::SIGKILL);
    let _ = child.wait();
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

#[test]
fn the_tool_does_not_wait_for_what_the_command_leaves_behind() {
    let project = Project::new();
    project.create(&[]);
    let start = Instant::now();
    let status = spawn_enter(&project, &["sh", "-c", "sleep 30 & exit 4"]).stdin(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(4));
    assert!(start.elapsed() < scaled(PROMPT), "it waited");
    // it may have still to be executed
    project
        .sh("until p=$(cat /proc/[0-9]*/stat | sed -n 's/ (sleep).*//p'); [ -n \"$p\" ]; do sleep 0.1; done; kill $p");
}

#[test]
fn no_descriptor_but_the_streams_gets_in() {
    let project = Project::new();
    project.create(&[]);
    let script = r#"
        for n in {3..20}; do eval "exec $n</etc/passwd"; done
        exec 7</ 9</proc/self/ns/mnt 11<>/dev/null 200</ 255</usr
        $ENTER "$P" -- sh -c 'ls /proc/$$/fd; :'"#;
    let output = outside(&project, script);
    assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("0\n1\n2\n", ""));
}

/// The variables inside, of a command with `options` whose caller has `vars` alone.
fn variables(project: &Project, options: &[&OsStr], vars: &[(&str, &OsStr)]) -> BTreeMap<OsString, OsString> {
    let mut enter = tool("lbx-enter");
    enter.env_clear().envs(vars.iter().copied()).args(["--on", &on()]);
    if place() != Place::Local {
        // the way there is found by these
        enter.env("PATH", "/usr/bin:/bin").env("HOME", home());
        enter.envs(std::env::var_os("LIMA_HOME").map(|dir| ("LIMA_HOME", dir)));
    }
    enter.args(options).arg(project.path()).args(["--", "/usr/bin/env", "-0"]);
    let output = enter.assert().success();
    let text = &output.get_output().stdout;
    text.split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| {
            let at = word.iter().position(|byte| *byte == b'=').unwrap();
            (OsString::from_vec(word[..at].to_vec()), OsString::from_vec(word[at + 1..].to_vec()))
        })
        .collect()
}

#[test]
fn only_the_documented_variables_get_in() {
    let project = Project::new();
    let name = project.create(&["--shell", "/bin/bash"]);
    let passed = ["TERM", "LANG", "LC_ALL", "LC_TIME", "TZ", "COLORTERM", "NO_COLOR"];
    let dropped = [
        "SECRET",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "BASH_ENV",
        "ENV",
        "IFS",
        "PS1",
        "PYTHONPATH",
        "GIT_DIR",
        "XDG_RUNTIME_DIR",
        "DBUS_SESSION_BUS_ADDRESS",
        "SSH_AUTH_SOCK",
        "SSH_CONNECTION",
        "SUDO_UID",
        "SUDO_COMMAND",
        "DISPLAY",
        "WAYLAND_DISPLAY",
        "EDITOR",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "MAIL",
        "CDPATH",
        "LBX_ON",
        "LBX_QUIET",
        "HISTFILE",
        "LANGUAGE_",
        "LCX",
        "lc_all",
        "HOSTNAME",
        "TMPDIR",
        "COLUMNS",
        "LINES",
        "BASH_FUNC_x%%",
    ];
    let value = OsStr::new("local");
    let mut vars: Vec<(&str, &OsStr)> = passed.iter().chain(&dropped).map(|name| (*name, value)).collect();
    // the tools' own must not be the command's, nor the caller's be taken for the tools'
    vars.extend(
        [("HOME", "/evil"), ("USER", "evil"), ("LOGNAME", "evil"), ("SHELL", "/evil"), ("PATH", "/evil")]
            .map(|(name, value)| (name, OsStr::new(value))),
    );
    vars.extend([("LBX_ENV", "evil"), ("LBX_PROJECT", "/evil")].map(|(name, value)| (name, OsStr::new(value))));
    vars.push(("LBX_VAR_SECRET", OsStr::new("evil")));

    let home = format!("/home/{name}");
    let path = format!(
        "{home}/.local/bin:{home}/.cargo/bin:{home}/go/bin:/opt/llima-box/bin:\
         /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    );
    let own = [
        ("HOME", home.as_str()),
        ("USER", &name),
        ("LOGNAME", &name),
        ("SHELL", "/bin/bash"),
        ("PATH", &path),
        ("LBX_ENV", &name),
        ("LBX_PROJECT", project.str()),
    ];
    let mut expected: BTreeMap<OsString, OsString> = own.iter().map(|(k, v)| (k.into(), v.into())).collect();
    expected.extend(passed.iter().map(|name| (name.into(), value.to_owned())));
    assert_eq!(variables(&project, &[], &vars), expected);

    // what the caller does not have is not made up
    let inside = variables(&project, &[], &[]);
    assert_eq!(inside, own.iter().map(|(k, v)| (k.into(), v.into())).collect());
}

#[test]
fn variables_that_are_named_get_in() {
    let project = Project::new();
    let name = project.create(&[]);
    let bytes = OsStr::from_bytes(b"\xff \n'\"=$(id)");
    let mut assigned = OsString::from("D=");
    assigned.push(bytes);
    let options: Vec<OsString> = ["--env=A=1", "--env", "B", "--env", "UNSET", "--env=C=", "--env", "A=2", "--env"]
        .map(Into::into)
        .into_iter()
        .chain([assigned, "--env=E=x=y".into(), "--env".into(), "LD_LIBRARY_PATH".into()])
        .collect();
    let options: Vec<&OsStr> = options.iter().map(|o| o.as_os_str()).collect();
    let caller = [("B", bytes), ("LD_LIBRARY_PATH", OsStr::new("/nowhere")), ("OTHER", OsStr::new("x"))];
    let inside = variables(&project, &options, &caller);
    let get = |name: &str| inside.get(OsStr::new(name)).map(|v| v.as_os_str());
    assert_eq!(get("A"), Some(OsStr::new("2")), "the last one counts");
    assert_eq!(get("B"), Some(bytes));
    assert_eq!(get("C"), Some(OsStr::new("")));
    assert_eq!(get("D"), Some(bytes));
    assert_eq!(get("E"), Some(OsStr::new("x=y")));
    assert_eq!(get("LD_LIBRARY_PATH"), Some(OsStr::new("/nowhere")));
    assert_eq!(get("UNSET"), None);
    assert_eq!(get("OTHER"), None);
    assert_eq!(get("LBX_ENV"), Some(OsStr::new(&name)));
}

#[test]
fn a_command_is_found_on_the_path_inside() {
    let project = Project::new();
    project.create(&[]);
    script("#!/bin/sh\necho hello from inside\n", project.path().join("bin/hello"));
    let path = format!("{}/bin:/usr/bin:/bin", project.str());
    let mut enter = tool("lbx-enter");
    enter.env("PATH", &path).arg(project.path()).args(["--", "hello"]).assert().code(127);
    let mut enter = tool("lbx-enter");
    enter.env("PATH", &path).args(["--env", "PATH"]).arg(project.path()).args(["--", "hello"]);
    enter.assert().success().stdout("hello from inside\n");
    // the home's own directory comes first
    project.sh("mkdir -p ~/.local/bin; ln -s \"$PWD\"/bin/hello ~/.local/bin/ls");
    project.enter(["ls"]).assert().success().stdout("hello from inside\n");
}

#[test]
fn the_value_of_a_variable_is_in_no_further_argv() {
    if !only_at(&[Place::Local], "sudo is a step of this machine") {
        return;
    }
    let user = User::sudoer();
    let project = Project::owned_by(&user);
    project.create(&[]);
    let mut enter = user.tool("lbx-enter");
    enter.env("LBX_TRACE", "1").env("BY_NAME", "named-secret").args([
        "--env",
        "BY_NAME",
        "--env",
        "GIVEN=given-secret",
    ]);
    enter.arg(project.path()).args(["--", "sh", "-c", "echo $BY_NAME $GIVEN"]);
    let output = enter.output().unwrap();
    assert_eq!(stdout(&output), "named-secret given-secret\n", "{output:?}");
    assert!(stderr(&output).contains("sudo") && !stderr(&output).contains("-secret"), "{output:?}");
    assert!(!project.record().to_string().contains("-secret"));
}

#[test]
fn a_command_starts_where_the_caller_stands_in_the_project() {
    let project = Project::named("a b\n$(c)");
    project.create(&[]);
    let path = project.path();
    let odd = OsStr::from_bytes(b"d\xff e");
    std::fs::create_dir_all(path.join("sub/deep")).unwrap();
    std::fs::create_dir_all(path.join(odd)).unwrap();
    project.write("file", "");
    let started_in = |enter: &mut lbx_tests::Command| {
        let output = enter.args(["--", "sh", "-c", "pwd -P; echo"]).assert().success();
        let text = &output.get_output().stdout;
        OsString::from_vec(text[..text.len() - 2].to_vec())
    };
    let from = |dir: &std::path::Path| {
        let mut enter = tool("lbx-enter");
        enter.current_dir(dir).arg(path);
        started_in(&mut enter)
    };
    let to = |dir: &OsStr| {
        let mut enter = tool("lbx-enter");
        enter.current_dir(path.join("sub")).arg("--chdir").arg(dir).arg(path);
        started_in(&mut enter)
    };
    for dir in [path.to_owned(), path.join("sub/deep"), path.join(odd)] {
        // behind ssh the caller stands on another machine
        assert_eq!(from(&dir), if place() == Place::Ssh { path } else { &dir });
    }
    for elsewhere in ["/", "/srv", "/etc", path.parent().unwrap().to_str().unwrap()] {
        assert_eq!(from(elsewhere.as_ref()), path, "from {elsewhere}");
    }
    assert_eq!(to(OsStr::new("sub/deep")), path.join("sub/deep"));
    assert_eq!(to(odd), path.join(odd));
    assert_eq!(to(OsStr::new(".")), path);
    assert_eq!(to(path.join("sub").as_os_str()), path.join("sub"));
    assert_eq!(to(OsStr::new("/usr/bin")), "/usr/bin");
    for wrong in ["no-such", "file", "sub/../no-such"] {
        let output =
            tool("lbx-enter").args(["--chdir", wrong]).arg(path).args(["--", "touch", "ran"]).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{wrong}: {output:?}");
        assert!(stderr(&output).contains(wrong), "{output:?}");
    }
    assert!(!path.join("ran").exists());
}

#[test]
fn a_caller_whose_directory_is_gone_starts_at_the_project() {
    let project = Project::new();
    project.create(&[]);
    for gone in ["${P%/*}/gone", "$P/gone"] {
        let script = format!(r#"mkdir "{gone}"; cd "{gone}"; rmdir "{gone}"; $ENTER "$P" -- pwd -P"#);
        let output = outside(&project, &script);
        assert_eq!(stdout(&output), format!("{}\n", project.str()), "{output:?}");
    }
}

/// A command inside that says what it does, line by line.
struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Running {
    /// `script` run by sh inside; it has printed `ready`.
    fn script(project: &Project, script: &str) -> Running {
        let mut enter = spawn_enter(project, &["sh", "-c", script]);
        let mut child = enter.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut running = Running { child, lines };
        assert_eq!(running.line(), "ready");
        running
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(pid(&self.child), signal).unwrap();
    }

    fn status(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

#[test]
fn a_signal_to_the_tool_reaches_the_command() {
    let project = Project::new();
    project.create(&[]);
    use Signal::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM] {
        let number = signal as i32;
        let mut running = Running::script(
            &project,
            &format!("trap 'echo caught; exit 7' {number}; echo ready; while :; do sleep 0.02; done"),
        );
        running.signal(signal);
        assert_eq!((running.line().as_str(), running.status()), ("caught", Some(7)), "{signal}");

        // one that the command does not catch ends it, and so the tool
        let mut running = Running::script(&project, "echo ready; exec sleep 30");
        running.signal(signal);
        assert_eq!(running.status(), Some(128 + number), "{signal}");

        // and one that it ignores does not
        let mut running = Running::script(&project, &format!("trap '' {number}; echo ready; sleep 0.3; exit 5"));
        running.signal(signal);
        assert_eq!(running.status(), Some(5), "{signal}");
    }
}

#[test]
fn a_tool_that_is_stopped_goes_on() {
    let project = Project::new();
    project.create(&[]);
    let mut running = Running::script(&project, "echo ready; sleep 0.2; echo done; exit 6");
    running.signal(Signal::SIGSTOP);
    if place() == Place::Local {
        assert_eq!(running.line(), "done", "what is inside is another's process: it goes on");
    } else {
        std::thread::sleep(scaled(Duration::from_millis(300)));
    }
    running.signal(Signal::SIGCONT);
    assert_eq!(running.status(), Some(6));

    // a stopped command: the tool waits, and does not take it for ended
    let mut running = Running::script(&project, "echo ready; (sleep 0.3; kill -CONT $$) & kill -STOP $$; exit 8");
    assert_eq!(running.status(), Some(8));
}

#[test]
fn the_tool_that_is_killed_leaves_the_environment_whole() {
    let project = Project::new();
    project.create(&[]);
    let mut running = Running::script(&project, "echo ready; exec sleep 30");
    running.signal(Signal::SIGKILL);
    running.status();
    assert_eq!(project.sh("echo again"), "again\n");
    assert_eq!(project.state(), "running");
}

#[test]
fn signals_are_as_the_caller_has_them() {
    let project = Project::new();
    project.create(&[]);
    let masks = |options: &[&str]| -> BTreeMap<String, u64> {
        let mut env = command("env");
        env.arg("--default-signal").args(options).arg(tool_file("lbx-enter")).arg(project.path());
        let text = lbx_tests::text(env.args(["--", "cat", "/proc/self/status"]).assert().success());
        text.lines()
            .filter_map(|line| line.strip_prefix("Sig")?.split_once(":\t"))
            .filter_map(|(mask, bits)| Some((mask.to_owned(), u64::from_str_radix(bits, 16).ok()?)))
            .collect()
    };
    let usual = masks(&[]);
    // SIGPIPE too: a program written in Rust ignores it
    assert_eq!((usual["Blk"], usual["Ign"], usual["Cgt"]), (0, 0, 0));
    let ignored = masks(&["--ignore-signal=HUP,USR1"]);
    let both = 1 << (Signal::SIGHUP as u32 - 1) | 1 << (Signal::SIGUSR1 as u32 - 1);
    // far, the command's caller is the place
    assert_eq!(ignored["Ign"], if place() == Place::Local { both } else { 0 });

    // nohup: the tool does not end either
    let mut nohup = std_command("env");
    nohup.args(["--ignore-signal=HUP"]).arg(tool_file("lbx-enter")).arg(project.path());
    nohup.args(["--", "sh", "-c", "echo ready; sleep 0.3; exit 9"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = nohup.spawn().unwrap();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    kill(pid(&child), Signal::SIGHUP).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn umask_and_nice_value_are_the_callers() {
    let project = Project::new();
    project.create(&[]);
    project.must("start");
    // they are a process's, and far it is a process of the place
    let is_local = place() == Place::Local;
    for umask in ["0027", "0077", "0022"] {
        let output = outside(&project, &format!(r#"umask {umask}; $ENTER "$P" -- sh -c umask"#));
        assert_eq!(stdout(&output), format!("{}\n", if is_local { umask } else { "0022" }));
    }
    let output = outside(&project, r#"nice -n 5 $ENTER "$P" -- nice"#);
    assert_eq!(stdout(&output), if is_local { "5\n" } else { "0\n" });
    let output = outside(&project, r#"ulimit -n 333; $ENTER "$P" -- sh -c 'ulimit -n'"#);
    assert_eq!(stdout(&output) == "333\n", is_local, "{output:?}");
}

#[test]
fn a_command_may_have_a_file_or_a_socket_as_its_stream() {
    let project = Project::new();
    project.create(&[]);
    project.write("in", "first\nsecond\n");
    let mut enter = spawn_enter(&project, &["cat"]);
    let out = project.path().join("out");
    let status =
        enter.stdin(File::open(project.path().join("in")).unwrap()).stdout(File::create(&out).unwrap()).status();
    assert!(status.unwrap().success());
    assert_eq!(project.read("out"), "first\nsecond\n");

    let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let far: OwnedFd = far.into();
    let mut enter = spawn_enter(&project, &["cat"]);
    let mut child = enter.stdin(far.try_clone().unwrap()).stdout(far).spawn().unwrap();
    drop(enter);
    near.write_all(b"through a socket").unwrap();
    near.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    near.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through a socket");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_pipe_of_the_callers_can_be_opened_by_its_name() {
    let project = Project::new();
    project.create(&[]);
    let script = "cat /dev/stdin; echo out >/dev/stdout; echo err >/dev/stderr";
    let output = outside(&project, &format!(r#"echo in | $ENTER "$P" -- sh -c '{script}' 2>&1 | cat"#));
    assert_eq!(stdout(&output), "in\nout\nerr\n");
}

#[test]
fn two_streams_into_one_pipe_keep_their_order() {
    let project = Project::new();
    project.create(&[]);
    let script = "for i in $(seq 100); do echo out $i; echo err $i >&2; done";
    for _ in 0..3 {
        let output = outside(&project, &format!(r#"$ENTER "$P" -- sh -c '{script}' 2>&1 | cat"#));
        let expected: String = (1..=100).map(|i| format!("out {i}\nerr {i}\n")).collect();
        assert_eq!(stdout(&output), expected);
    }
}

#[test]
fn the_name_that_the_tool_is_called_by_does_not_matter() {
    let project = Project::new();
    project.create(&[]);
    for name in ["", "-lbx-enter", "x"] {
        let mut enter = spawn_enter(&project, &["echo", "here"]);
        let output = enter.arg0(name).stdin(Stdio::null()).output().unwrap();
        assert_eq!(stdout(&output), "here\n", "{name:?}: {output:?}");
    }
}

#[test]
fn many_commands_run_at_once() {
    let project = Project::new();
    project.create(&[]);
    let children: Vec<(u32, Child)> = (0..40)
        .map(|number| {
            let mut enter = spawn_enter(&project, &["sh", "-c", &format!("cat; exit {number}")]);
            (number, enter.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
        })
        .collect();
    for (number, mut child) in children {
        write!(child.stdin.take().unwrap(), "{number}").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((stdout(&output), output.status.code()), (number.to_string(), i32::try_from(number).ok()));
    }
    eventually("no process of them is left", || {
        project.sh("ls -d /proc/[0-9]* | wc -l").trim().parse::<u32>().unwrap() <= 4
    });
}
