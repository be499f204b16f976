//! Attacks of a process inside on lbx-enter and on what it starts, while it enters: what the joining
//! tool holds of the machine, its descriptors, its memory, its program, its caller's terminal, is out of reach.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use lbx_tests::place::host_std_command;
use lbx_tests::{
    Command, Place, Project, Pty, User, command, eventually, executable, host, installed, only_at, place, scaled, skip,
    std_command, text, tool, tool_file,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Why a test needs this machine.
const INHERITED: &str = "what a caller leaves open goes to no other place";
const BROKEN: &str = "the tools that are broken are this machine's";

/// A project with the program `hunt` in it.
fn project() -> Project {
    let project = Project::new();
    project.create(&[]);
    executable(env!("CARGO_BIN_EXE_hunt"), project.path().join("hunt"));
    project
}

/// A program inside that goes on until it is asked what it has found.
struct Hunter {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Hunter {
    fn begin(project: &Project, words: &[&str]) -> Hunter {
        Hunter::by(&tool_file("lbx-enter"), project, words)
    }

    fn by(enter: &Path, project: &Project, words: &[&str]) -> Hunter {
        let mut enter = std_command(enter);
        enter.arg(project.path()).args(["--", "./hunt"]).args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = enter.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Hunter { child, out }
    }

    /// What it reached, and how many processes it met.
    fn end(mut self) -> (Vec<String>, usize) {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.out.read_to_string(&mut text).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let met = lines.pop().and_then(|line| line.strip_prefix("met ")?.parse().ok());
        (lines, met.unwrap_or_else(|| panic!("it has not ended well: {text}")))
    }
}

impl Drop for Hunter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The tools with `feature`, or a skip.
fn broken(feature: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("LBX_TEST_BROKEN").map(|dir| Path::new(&dir).join(feature));
    if dir.is_none() {
        skip("LBX_TEST_BROKEN is not set: scripts/test builds what is broken on purpose");
    }
    dir
}

fn end(child: &Child, signal: Signal) {
    let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
}

/// Waits for the end of `child`, within `limit`.
fn ends_within(child: &mut Child, limit: Duration) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

// ---- into the process that enters --------------------------------------------------------------

#[test]
fn nothing_is_reached_of_a_process_that_enters() {
    let project = project();
    let hunter = Hunter::begin(&project, &["watch"]);
    let times = if place() == Place::Local { 300 } else { 20 };
    for _ in 0..times {
        let mut enter = project.enter(["true"]);
        enter.env("LBX_TEST_SECRET", "of the caller").assert().success();
    }
    // a monitor goes on as long as its command
    let mut pty = Pty::run(&project.enter_words(&["sh", "-c", "echo re''ady; read line"]));
    pty.expect("ready");
    std::thread::sleep(Duration::from_millis(50));
    pty.send("\n");
    assert!(pty.wait().success());
    let (reached, met) = hunter.end();
    assert!(met > times / 20, "it met {met} processes of {times}");
    assert!(reached.is_empty(), "{reached:?}");
}

#[test]
fn a_process_that_is_broken_open_before_exec_is_caught() {
    if !only_at(&[Place::Local], BROKEN) {
        return;
    }
    let Some(tools) = broken("broken-dumpable") else { return };
    let project = project();
    let hunter = Hunter::begin(&project, &["watch"]);
    for _ in 0..20 {
        command(tools.join("lbx-enter")).arg(project.path()).args(["--", "true"]).assert().success();
    }
    let mut words = project.enter_words(&["sh", "-c", "echo re''ady; read line"]);
    words[0] = tools.join("lbx-enter").into();
    let mut pty = Pty::run(&words);
    pty.expect("ready");
    // it looks at the monitor until it is heard
    std::thread::sleep(scaled(Duration::from_millis(500)));
    pty.send("\n");
    pty.wait();
    let (reached, _) = hunter.end();
    for what in ["exe", "root", "cwd", "fd", "mem", "maps", "environ", "ptrace", "read-memory", "write-memory"] {
        assert!(reached.iter().any(|name| name == what), "{what}: {reached:?}");
    }
}

#[test]
fn a_machine_that_lets_programs_be_looked_into_opens_nothing() {
    if !only_at(&[Place::Local], BROKEN) {
        return;
    }
    // fs.suid_dumpable is the machine's: these tools are as it would make them
    let Some(tools) = broken("broken-window") else { return };
    let project = project();
    let hunter = Hunter::begin(&project, &["watch"]);
    for _ in 0..50 {
        command(tools.join("lbx-enter")).arg(project.path()).args(["--", "true"]).assert().success();
    }
    let (mut reached, met) = hunter.end();
    assert!(met >= 10, "it met {met} processes of 50");
    // these directories open by their mode, and say numbers alone: what is in them does not open
    reached.retain(|what| !["fd", "map_files"].contains(&&**what));
    assert!(reached.is_empty(), "{reached:?}");
}

#[test]
fn a_process_that_is_frozen_while_it_enters_holds_nobody_up() {
    let project = project();
    let hunter = Hunter::begin(&project, &["freeze"]);
    let (rounds, soon) = if place() == Place::Local { (12, 0) } else { (3, 300) };
    for (round, signal) in
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().cycle().take(rounds).enumerate()
    {
        let words = project.enter_words(&["sleep", "5000"]);
        let mut enter = std_command(&words[0]).args(&words[1..]).stdin(Stdio::null()).spawn().unwrap();
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_millis(soon + round as u64 * 5));
        }
        // before it takes signals itself it dies of them, and so does what it has started
        end(&enter, signal);
        let ended = ends_within(&mut enter, scaled(Duration::from_secs(10)));
        end(&enter, Signal::SIGKILL);
        let _ = enter.wait();
        assert!(ended, "round {round}: {signal} does not end it");
    }
    let (stopped, _) = hunter.end();
    assert!(!stopped.is_empty() || place() != Place::Local, "it stopped some");

    // with a terminal: a monitor is not stopped for long, and ^C comes through
    let hunter = Hunter::begin(&project, &["freeze"]);
    for _ in 0..3 {
        let mut pty = Pty::run(&project.enter_words(&["sh", "-c", "echo re''ady; exec sleep 5000"]));
        pty.expect("ready");
        // a key that comes while the command is stopped is the monitor's, as it is a shell's
        let ended = (0..10).find_map(|_| {
            pty.send("\x03");
            pty.wait_for(scaled(Duration::from_secs(1)))
        });
        assert_eq!(ended.and_then(|status| status.code()), Some(130));
    }
    drop(hunter.end());

    // and what is frozen is stopped with the rest
    let hunter = Hunter::begin(&project, &["freeze"]);
    let words = project.enter_words(&["sleep", "5000"]);
    let mut enter = std_command(&words[0]).args(&words[1..]).stdin(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(30));
    let begun = Instant::now();
    project.must("stop");
    assert!(begun.elapsed() < scaled(Duration::from_secs(10)));
    end(&enter, Signal::SIGTERM);
    assert!(ends_within(&mut enter, scaled(Duration::from_secs(10))));
    drop(hunter);
}

/// The tool `enter` as a program inside, for as long as it takes to be refused by sudo.
fn enter_again(enter: Option<&Path>, project: &Project) -> Command {
    let mut words = project.enter_words(&["/proc/self/exe", "--on", "local", "--", project.str(), "id"]);
    if let Some(enter) = enter {
        words[0] = enter.into();
    }
    let mut again = command(&words[0]);
    again.args(&words[1..]);
    again
}

#[test]
fn the_program_that_enters_is_not_written() {
    let project = project();
    project.write("script", "#!/proc/self/exe\n");
    executable(project.path().join("script"), project.path().join("script-x"));
    let hunter = Hunter::begin(&project, &["replace"]);
    let before = host(&format!("cat {} | sha256sum", tool_file("lbx-enter").display()));
    for _ in 0..if place() == Place::Local { 30 } else { 6 } {
        // it becomes the tool itself, as nobody in particular
        let mut own = project.enter(["/proc/self/exe", "--version"]);
        assert!(text(own.assert().success()).starts_with("lbx-enter "));
        let by_script = project.enter(["./script-x"]).output().unwrap();
        assert!(!by_script.status.success() && by_script.stdout.is_empty(), "{by_script:?}");
        let again = enter_again(None, &project).output().unwrap();
        assert!(!again.status.success() && again.stdout.is_empty(), "it enters nothing from inside: {again:?}");
    }
    let (reached, _) = hunter.end();
    assert!(reached.iter().any(|line| line == "saw lbx-enter"), "{reached:?}");
    assert!(!reached.iter().any(|line| line.starts_with("wrote")), "{reached:?}");
    assert_eq!(host(&format!("cat {} | sha256sum", tool_file("lbx-enter").display())), before);
}

#[test]
fn a_program_that_rights_would_write_is_caught() {
    if !only_at(&[Place::Local], BROKEN) {
        return;
    }
    let Some(tools) = broken("broken-capabilities") else { return };
    let project = project();
    // a copy of its own, which nobody else executes
    let enter = tools.join("lbx-enter");
    let hunter = Hunter::by(&enter, &project, &["replace"]);
    for _ in 0..20 {
        enter_again(Some(&enter), &project).assert().failure();
    }
    let (reached, _) = hunter.end();
    assert!(reached.iter().any(|line| line == "wrote lbx-enter"), "{reached:?}");
}

// ---- by descriptors and directories ------------------------------------------------------------

/// Ways into what a process that enters has open, laid in `project` and named at its command line.
fn ways_out(project: &Project, enter: impl Fn() -> Command) -> Vec<String> {
    let mut out = Vec::new();
    let mut tries = |what: String, mut command: Command| {
        let output = command.output().unwrap();
        if output.status.success() {
            out.push(format!("{what}: {}", String::from_utf8_lossy(&output.stdout)));
        }
    };
    // a call to another place takes longer, and has no more descriptors
    let last = if place() == Place::Local { 24 } else { 9 };
    for fd in 3..last {
        let link = project.path().join("link");
        let _ = std::fs::remove_file(&link);
        symlink(format!("/proc/self/fd/{fd}"), &link).unwrap();
        for dir in [format!("/proc/self/fd/{fd}"), "link".into()] {
            let mut by_chdir = enter();
            by_chdir.arg("--chdir").arg(&dir).arg(project.path()).args(["--", "ls", "-A"]);
            tries(dir, by_chdir);
        }
        let program = format!("/proc/self/fd/{fd}/{}usr/bin/true", "../".repeat(10));
        let mut by_command = enter();
        by_command.arg(project.path()).args(["--", &program]);
        tries(program, by_command);
    }
    out
}

#[test]
fn no_descriptor_of_the_tool_is_a_directory_to_start_in_or_a_program() {
    let project = project();
    assert_eq!(ways_out(&project, || tool("lbx-enter")), [""; 0]);
    // in a terminal there are others
    for fd in 3..if place() == Place::Local { 16 } else { 6 } {
        let mut words = project.enter_words(&["ls"]);
        words.splice(1..1, ["--chdir".into(), format!("/proc/self/fd/{fd}").into()]);
        let mut pty = Pty::run(&words);
        assert_eq!(pty.wait().code(), Some(125), "descriptor {fd}");
    }
    // upwards from where it starts is the environment's own root
    let root = project.sh("cd /; ls -A");
    for dir in ["/proc/self/cwd/../../../../..", "/proc/self/root", "/proc/self/root/..", "/.."] {
        let mut enter = tool("lbx-enter");
        enter.arg("--chdir").arg(dir).arg(project.path()).args(["--", "ls", "-A"]);
        assert_eq!(text(enter.assert().success()), root, "{dir}");
    }
    for dir in ["/proc/1/root", "/proc/1/cwd", "/proc/1/fd/3", "/proc/self/ns/mnt"] {
        tool("lbx-enter").arg("--chdir").arg(dir).arg(project.path()).args(["--", "ls"]).assert().code(125).stdout("");
    }
}

/// `lbx-enter` of `tools` with directories, a file and sockets left open at 7 to 11.
fn with_descriptors(tools: &Path) -> Command {
    let open: Vec<String> = [(7, "/"), (8, "/srv"), (9, "/root"), (10, "/usr/bin/true")]
        .iter()
        .map(|(fd, path)| format!("exec {fd}<{path}"))
        .collect();
    let mut bash = command("bash");
    bash.args(["-c", &format!("{}; exec \"$0\" \"$@\"", open.join("; "))]).arg(tools.join("lbx-enter"));
    bash
}

/// Starts the scripts that an agent would lay for its person to run.
fn by_interpreter(project: &Project, enter: impl Fn() -> Command) -> Vec<String> {
    let mut out = Vec::new();
    for (number, line) in ["#!/proc/self/fd/7/usr/bin/echo", "#!/proc/self/fd/10"].iter().enumerate() {
        let file = format!("script-{number}");
        lbx_tests::script(&format!("{line}\n"), project.path().join(&file));
        let output = enter().arg(project.path()).args(["--", &format!("./{file}")]).output().unwrap();
        if output.status.success() {
            out.push((*line).to_owned());
        }
    }
    out
}

#[test]
fn what_the_caller_left_open_is_no_way_out() {
    if !only_at(&[Place::Local], INHERITED) {
        return;
    }
    let project = project();
    let tools = lbx_tests::bin_dir();
    assert_eq!(ways_out(&project, || with_descriptors(&tools)), [""; 0]);
    assert_eq!(by_interpreter(&project, || with_descriptors(&tools)), [""; 0]);
    // nor a socket that carries others, when COMMAND runs
    let listing =
        text(with_descriptors(&tools).arg(project.path()).args(["--", "ls", "/proc/self/fd"]).assert().success());
    assert_eq!(listing, "0\n1\n2\n3\n", "3 is the directory that ls reads");
}

#[test]
fn a_broken_closing_of_descriptors_is_a_way_out() {
    if !only_at(&[Place::Local], BROKEN) {
        return;
    }
    let Some(tools) = broken("broken-closing") else { return };
    let project = project();
    let out = ways_out(&project, || command(tools.join("lbx-enter")));
    assert!(out.iter().any(|way| way.starts_with("/proc/self/fd/")), "the tool's own: {out:?}");
    assert!(out.iter().any(|way| way.starts_with("link: ")), "by a link in the project: {out:?}");
    assert!(!by_interpreter(&project, || with_descriptors(&tools)).is_empty(), "by an interpreter");
}

// ---- environments that are none ------------------------------------------------------------------

#[test]
fn nobody_passes_for_an_environment() {
    if !installed(&["python3"]) {
        return;
    }
    let (project, person) = (Project::new(), User::new());
    project.create(&[]);
    let name = project.name();
    let lock = format!("/run/llima-box/{name}/holder");
    project.must("start");
    host(&format!("test -f {lock}"));
    // a person who is not root makes no environment that runs, and takes no lock
    for script in [
        "mkdir /run/llima-box/forged-0000".to_owned(),
        format!("touch /run/llima-box/{name}/x"),
        format!("exec 3<{lock}"),
        format!("exec 3>>{lock}"),
        // where everybody may write; in the sandbox on the same file system
        format!("mv /run/llima-box/{name} /run/lock/"),
        format!("mv {lock} /run/lock/"),
        format!("touch /var/lib/llima-box/envs/{name}/record.json"),
        "mkdir /var/lib/llima-box/envs/forged-0000".to_owned(),
    ] {
        person.host_command(&["sh", "-c", &script]).assert().failure();
    }
    // nor does a process inside, whatever it makes in its own /run and /tmp
    project.enter(["sh", "-c", &format!("mkdir -p {lock}")]).assert().failure();
    // a lock that is held by what is no holder leads nowhere, be it root's
    project.must("stop");
    let script = "import fcntl, os, sys\n\
                  os.makedirs(os.path.dirname(sys.argv[1]), exist_ok=True)\n\
                  f = open(sys.argv[1], 'w'); os.fchmod(f.fileno(), 0o600)\n\
                  fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()\n";
    let mut pose = host_std_command(&["python3", "-c", script, &lock]);
    let mut poser = pose.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(poser.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let output = project.enter(["id"]).output().unwrap();
    // wherever it runs, that ends it
    drop(poser.stdin.take());
    let _ = poser.wait();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("which is no holder"), "{output:?}");
    // what it left is an environment that stopped
    assert_eq!(project.sh("echo fine"), "fine\n");
}

// ---- terminals and signals -----------------------------------------------------------------------

#[test]
fn a_reader_that_outlives_the_command_gets_no_key_of_the_callers() {
    let project = project();
    // the descriptor first: what runs in the background has another standard input
    let reader = "exec 3<&0; (trap '' HUP; exec 2>/dev/null; echo >>started; cat <&3 >>taken; cat </dev/tty >>taken; sleep 1000) & \
                  while [ ! -e started ]; do sleep 0.02; done; stty raw -echo; kill -KILL $$";
    let mut words: Vec<std::ffi::OsString> = [
        "sh",
        "-c",
        r#"echo waiting; read go; "$@"; echo "ended $?."; sleep 0.3; read key; echo "got $key."; read go"#,
        "sh",
    ]
    .map(Into::into)
    .into();
    words.extend(project.enter_words(&["sh", "-c", reader]));
    let pty = Pty::run(&words);
    pty.expect("waiting\r\n");
    let modes = format!("{:?}", pty.modes());
    pty.send("\n");
    pty.expect("ended 137.");
    assert_eq!(format!("{:?}", pty.modes()), modes, "the modes are the caller's");
    pty.send("secret\n");
    pty.expect("got secret.");
    assert_eq!(project.sh("cat taken 2>/dev/null || :"), "");
}

#[test]
fn no_signal_gets_out() {
    let project = project();
    // the tool, what started it, and a bystander of their process group and session
    let script = r#"trap 'echo signalled' USR1; sh -c 'trap "echo signalled" USR1; while :; do sleep 0.05; done' & "$@"; status=$?; kill $!; exit $status"#;
    let mut words: Vec<std::ffi::OsString> = ["-c", script, "sh"].map(Into::into).into();
    words.extend(project.enter_words(&["./hunt", "signals"]));
    let output = command("sh").args(&words).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "parent 0\ndone\n", "{output:?}");
    assert!(output.status.success(), "{output:?}");
    let mut pty = Pty::run(&[vec!["sh".into()], words].concat());
    let told = pty.expect("done");
    assert!(!told.contains("signalled"), "{told}");
    assert!(pty.wait().success());
}

#[test]
fn a_name_for_terminals_does_nothing_to_one() {
    let project = Project::named("a\x1b]0;owned\x07\x1b[31m\nroot-0000  running\r\u{9b}2J");
    let name = project.create(&[]);
    let mut listed = vec![text(tool("llima-box").arg("list").assert().success()).into_bytes()];
    let mut pty = Pty::sized(&[tool_file("llima-box").into_os_string(), "list".into()], 50, 300);
    assert!(pty.wait().success());
    eventually("it is read", || String::from_utf8_lossy(&pty.raw()).contains(&name));
    listed.push(pty.raw());
    // what refuses it says so as harmlessly
    let output = tool("llima-box").args(["shell"]).arg(project.path().join("none\x1b[2J")).output().unwrap();
    listed.push(output.stderr);
    let output =
        tool("lbx-enter").args(["--chdir", "\x1b[2J\x07"]).arg(project.path()).args(["--", "true"]).output().unwrap();
    listed.push(output.stderr);
    let output = project.enter(["\x1b[2J"]).output().unwrap();
    listed.push(output.stderr);
    for bytes in listed {
        let text = String::from_utf8_lossy(&bytes);
        for bad in ["\x1b]", "\x1b[31m\n", "\x1b[2J", "\u{9b}", "\x07"] {
            assert!(!text.contains(bad), "{bad:?} in {text:?}");
        }
        assert!(!text.lines().any(|line| line.starts_with("root-0000")), "{text:?}");
    }
}
