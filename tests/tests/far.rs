//! What only a far place can break: the way there, its two ends, and what they promise each other.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lbx_on::frame::{Call, Decoder, Frame, Stream, WINDOW};
use lbx_tests::machine::{entries, exists, list, traces};
use lbx_tests::place::{host_command, on};
use lbx_tests::{
    Command, Place, Project, bin_dir, command, errors, eventually, home, host, near, only_at, place, project, scaled,
    std_command, text, tool, tool_file,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

/// The places that are reached by lbx-on.
const FAR: &[Place] = &[Place::Ssh, Place::Lima];
/// Where its tools lie, at all of them.
const THERE: &str = "/usr/local/libexec/llima-box";
/// As long as anything may take that nothing keeps waiting.
const PROMPT: Duration = Duration::from_secs(20);

/// Held by each test: for reading by those that call the tools there, for writing by those that
/// change which tools are there.
static TOOLS: RwLock<()> = RwLock::new(());

/// Where the running test holds, what it holds meanwhile.
fn beside_others(places: &[Place]) -> Option<RwLockReadGuard<'static, ()>> {
    only_at(places, "there is nothing of it").then(|| TOOLS.read().unwrap_or_else(PoisonError::into_inner))
}

/// As [`beside_others`], while no other test runs.
fn alone(places: &[Place]) -> Option<RwLockWriteGuard<'static, ()>> {
    only_at(places, "there is nothing of it").then(|| TOOLS.write().unwrap_or_else(PoisonError::into_inner))
}

/// Held by tests for which the account behind `lbx-test-sudoer` is not as usual.
fn sudoer() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An environment that runs, with a project.
fn running() -> Project {
    let project = Project::new();
    project.create(&[]);
    project.must("start");
    project
}

/// `lbx-enter PATH -- sh -c SCRIPT`, to be spawned.
fn spawn(project: &Project, script: &str) -> std::process::Command {
    let mut command = std_command(tool_file("lbx-enter"));
    command.arg(project.path()).args(["--", "sh", "-c", script]);
    command
}

/// `script` run by bash near, which finds lbx-enter as `$ENTER` and the project as `$P`.
fn near_bash(project: &Project, script: &str) -> Output {
    let mut bash = command("bash");
    bash.args(["-c", script]).env("ENTER", tool_file("lbx-enter")).env("P", project.path());
    bash.timeout(scaled(Duration::from_secs(400))).output().expect("bash is installed")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether a process inside has `word` among its words.
fn runs_inside(project: &Project, word: &str) -> bool {
    project.sh("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'").lines().any(|line| line == word)
}

/// The programs of the steps that `LBX_TRACE=1` tells of in `text`.
fn traced(text: &str) -> Vec<String> {
    let step = |line: &str| {
        let words = shell_words::split(line.strip_prefix("+ ")?.split_once(' ')?.1).ok()?;
        Some(Path::new(words.first()?).file_name()?.to_string_lossy().into_owned())
    };
    text.lines().filter_map(step).collect()
}

#[test]
fn a_warm_call_into_a_vm_starts_no_other_program() {
    let Some(_others) = beside_others(&[Place::Lima]) else { return };
    if near("command -v strace || :").is_empty() {
        return lbx_tests::skip("strace is not installed");
    }
    let project = running();
    let log = project.base().join("calls");
    let mut strace = command("strace");
    strace.args(["-f", "-qq", "-e", "trace=execve,execveat", "-o"]).arg(&log).args(project.enter_words(&["true"]));
    strace.assert().success();
    let log = std::fs::read_to_string(log).unwrap();
    let started: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("exec") && line.ends_with("= 0"))
        .filter_map(|line| line.split('"').nth(1)?.rsplit('/').next())
        .collect();
    assert_eq!(started, ["lbx-enter", "lbx-on"], "{log}");
}

#[test]
fn a_call_is_one_step_near_and_one_far() {
    let Some(_others) = beside_others(FAR) else { return };
    let project = running();
    let output = project.enter(["sleep", "1"]).env("LBX_TRACE", "1").assert().success();
    let way: &[&str] = match place() {
        Place::Ssh => &["lbx-on", "ssh", "lbx-enter"],
        _ => &["lbx-on", "lbx-enter"],
    };
    let trace = errors(output);
    assert_eq!(traced(&trace), way, "{trace}");
    assert!(trace.contains(&format!("{THERE}/{}/lbx-enter", version())), "{trace}");

    // the far end serves the call itself: it has not become that of another version
    // traced: the words of an lbx-enter that waited for its call came later, and are not shown
    let mut call = spawn(&project, "read go");
    call.env("LBX_TRACE", "1").stdin(Stdio::piped()).stderr(Stdio::null());
    let mut call = call.spawn().unwrap();
    let serving = format!(
        r#"for dir in /proc/[0-9]*; do
            case $(tr '\0' ' ' <$dir/cmdline 2>/dev/null) in "{THERE}"/*/lbx-enter\ *"{}"*) ;; *) continue ;; esac
            parent=$(sed -n 's/^PPid:\t//p' $dir/status)
            case $(tr '\0' ' ' </proc/$parent/cmdline) in *lbx-on\ --serve*) ;; *) continue ;; esac
            tr '\0' '\n' </proc/$parent/environ | sed 's/=.*//' | grep LBX_SERVE || echo itself
        done"#,
        project.str()
    );
    eventually("the call is served", || !host(&serving).is_empty());
    assert_eq!(host(&serving), "itself\n");
    drop(call.stdin.take());
    call.wait().unwrap();
}

#[test]
fn forty_calls_at_once_all_succeed_each_with_its_own_output_and_status() {
    let Some(_others) = beside_others(FAR) else { return };
    let project = running();
    let script = "read n; echo out $n; echo err $n >&2; cat; exit $n";
    let calls: Vec<Child> = (0..40)
        .map(|_| {
            let mut call = spawn(&project, script);
            call.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for (number, mut call) in (100..).zip(calls) {
        call.stdin.take().unwrap().write_all(format!("{number}\nmore of {number}").as_bytes()).unwrap();
        let output = call.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(number), "{output:?}");
        assert_eq!(stdout(&output), format!("out {number}\nmore of {number}"));
        assert_eq!(stderr(&output), format!("err {number}\n"));
    }
}

#[test]
fn a_gibibyte_is_unchanged_each_way() {
    let Some(_others) = beside_others(FAR) else { return };
    let project = running();
    // the emulated machine has a limit of time, too
    let size = if place() == Place::Lima { 96 << 20 } else { 1 << 30 };
    // no two lines are the same
    let data = format!("seq 1000000000 9999999999 2>/dev/null | head -c {size}");
    let script = format!(
        r#"{data} | sha256sum
           {data} | "$ENTER" "$P" -- sha256sum
           "$ENTER" -n "$P" -- sh -c '{data}' | sha256sum
           {data} | "$ENTER" "$P" -- cat | sha256sum"#
    );
    let output = near_bash(&project, &script);
    let sums: BTreeSet<String> = stdout(&output).lines().map(str::to_owned).collect();
    assert!(output.status.success() && sums.len() == 1 && stdout(&output).lines().count() == 4, "{output:?}");
}

#[test]
fn output_goes_on_after_the_end_of_input() {
    let Some(_others) = beside_others(FAR) else { return };
    let project = running();
    let script = "cat; echo the end was seen; sleep 1; echo more; echo other >&2";
    let output = project.enter(["sh", "-c", script]).write_stdin("input\n").assert().success();
    output.stdout("input\nthe end was seen\nmore\n").stderr("other\n");
    // and input after the end of output
    let output = near_bash(
        &project,
        r#"{ sleep 1; echo late; } | "$ENTER" "$P" -- sh -c 'exec >&-; read word; echo "$word" >&2' | cat"#,
    );
    assert_eq!((stdout(&output), stderr(&output)), (String::new(), "late\n".to_owned()));
}

#[test]
fn a_reader_that_dawdles_holds_up_nothing_else() {
    let Some(_others) = beside_others(FAR) else { return };
    let project = running();
    let script = "trap 'echo caught >&2; kill $pid; exit 9' TERM; yes & pid=$!; echo ready >&2; wait";
    let mut call = spawn(&project, script).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(call.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(said.next().as_deref(), Some("ready"));
    // as much is under way as will ever be
    std::thread::sleep(Duration::from_secs(3));
    project.enter(["echo", "another call"]).assert().success().stdout("another call\n");
    kill(Pid::from_raw(call.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(said.next().as_deref(), Some("caught"));
    eventually("the writer ends", || !runs_inside(&project, "yes"));
    let output = call.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(9), "{:?}", stderr(&output));
    let printed = stdout(&output);
    assert!(printed.len() > WINDOW as usize / 2, "what was under way came all the same: {}", printed.len());
    assert!(printed.lines().all(|line| line == "y" || line.is_empty()));
}

#[test]
fn a_pipe_that_ends_ends_its_writer_both_ways() {
    let Some(_others) = beside_others(FAR) else { return };
    let project = running();
    let output = near_bash(&project, r#""$ENTER" "$P" -- yes far | head -n 1; echo "${PIPESTATUS[0]}""#);
    assert_eq!((stdout(&output), stderr(&output)), ("far\n141\n".to_owned(), String::new()));
    eventually("the writer far ends", || !runs_inside(&project, "far"));
    let output = near_bash(
        &project,
        r#"yes | "$ENTER" "$P" -- sh -c 'exec <&-; sleep 2; echo it goes on'; echo "${PIPESTATUS[*]}""#,
    );
    assert_eq!((stdout(&output), stderr(&output)), ("it goes on\n141 0\n".to_owned(), String::new()));
}

#[test]
fn no_end_of_the_near_tool_leaves_its_command_running() {
    let Some(_others) = beside_others(FAR) else { return };
    let project = running();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGKILL] {
        // far longer than the test, and each its own
        let seconds = format!("{}", 40_000 + signal as i32);
        let script = format!("touch begun; sleep {seconds} | sleep {seconds}");
        let mut call = spawn(&project, &script).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("it runs", || runs_inside(&project, &seconds));
        kill(Pid::from_raw(call.id() as i32), signal).unwrap();
        drop(call.stdin.take());
        let output = call.wait_with_output().unwrap();
        assert!(!output.status.success(), "{signal}: {output:?}");
        eventually(&format!("nothing is left after {signal}"), || !runs_inside(&project, &seconds));
    }
}

#[test]
fn an_interrupt_typed_reaches_the_command_as_its_terminal_has_it() {
    let Some(_others) = beside_others(FAR) else { return };
    let project = running();
    let mut pty = lbx_tests::Pty::run(&project.enter_words(&["sh", "-c", "echo ready; sleep 41000 | sleep 41000"]));
    pty.expect("ready");
    eventually("it runs", || runs_inside(&project, "41000"));
    pty.send("\x03");
    assert!(!pty.wait().success());
    eventually("nothing is left", || !runs_inside(&project, "41000"));

    let script = "stty raw -echo; echo ready; dd bs=1 count=1 status=none | od -An -tx1; stty sane; echo on";
    let mut pty = lbx_tests::Pty::run(&project.enter_words(&["sh", "-c", script]));
    pty.expect("ready");
    pty.send("\x03");
    pty.expect("03");
    pty.expect("on");
    assert!(pty.wait().success());
}

/// A real ssh-agent with a key of its own. It ends when this is dropped.
struct Agent {
    dir: tempfile::TempDir,
    child: Child,
}

impl Agent {
    fn new() -> Agent {
        let dir = tempfile::Builder::new().prefix("agent").tempdir_in(project::root()).unwrap();
        let socket = dir.path().join("socket");
        let mut agent = std_command("ssh-agent");
        agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null());
        let agent = Agent { child: agent.spawn().expect("ssh-agent is installed"), dir };
        eventually("the agent listens", || socket.exists());
        near(&format!(
            "cd {}; ssh-keygen -q -t ed25519 -N '' -f key; SSH_AUTH_SOCK={} ssh-add -q key",
            agent.dir.path().display(),
            socket.display()
        ));
        agent
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Its one key, as `ssh-add -L` tells it.
    fn key(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("key.pub")).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn two_agents_at_once_show_each_environment_its_own_key() {
    let Some(_others) = beside_others(FAR) else { return };
    let callers = [(running(), Agent::new()), (running(), Agent::new())];
    for _ in 0..3 {
        let calls: Vec<Child> = callers
            .iter()
            .map(|(project, agent)| {
                let mut enter = std_command(tool_file("lbx-enter"));
                enter.env("SSH_AUTH_SOCK", agent.socket()).arg("-A").arg(project.path());
                enter.args(["--", "sh", "-c", "for n in 1 2 3 4 5; do ssh-add -L; done"]);
                enter.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for (call, (_, agent)) in calls.into_iter().zip(&callers) {
            let output = call.wait_with_output().unwrap();
            assert_eq!(stdout(&output), agent.key().repeat(5), "{output:?}");
        }
    }
    let (project, agent) = &callers[0];
    let mut enter = project.enter(["sh", "-c", "echo ${SSH_AUTH_SOCK-unset}"]);
    enter.env("SSH_AUTH_SOCK", agent.socket()).assert().success().stdout("unset\n");
}

/// perl that sends the message `$ARGV[1]`, in hexadecimal, to the agent at `$ARGV[0]`, and prints the
/// type of the answer.
const ASK: &str = r#"
    use Socket; alarm 60; my ($path, $message) = @ARGV;
    socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die; connect($s, sockaddr_un($path)) or die "connect: $!";
    syswrite($s, pack("H*", $message)); sysread($s, my $head, 5); print unpack("H2", substr($head, 4)), "\n";"#;

#[test]
fn the_far_end_passes_to_an_agent_only_what_lists_and_signs_and_leaves_no_socket() {
    let Some(_others) = beside_others(FAR) else { return };
    let (project, agent) = (running(), Agent::new());
    let sockets = "ls -d /run/llima-box-agents/*/socket 2>/dev/null || :";
    let before: BTreeSet<String> = host(sockets).lines().map(str::to_owned).collect();
    let mut enter = std_command(tool_file("lbx-enter"));
    enter.env("SSH_AUTH_SOCK", agent.socket()).arg("-A").arg(project.path()).args(["--", "sh", "-c", "read go"]);
    let mut call = enter.stdin(Stdio::piped()).spawn().unwrap();
    // past lbx-enter, which has a filter of its own: as root at the very socket; of all that are
    // new, one answers with this key
    let mine = || {
        let new = host(sockets).lines().map(str::to_owned).filter(|path| !before.contains(path)).collect::<Vec<_>>();
        new.into_iter().find(|path| {
            let list = host_command(&["env", &format!("SSH_AUTH_SOCK={path}"), "ssh-add", "-L"]).output().unwrap();
            stdout(&list) == agent.key()
        })
    };
    let mut socket = None;
    eventually("the agent is there", || {
        socket = mine();
        socket.is_some()
    });
    let socket = socket.unwrap();
    let ask = |message: &str| text(host_command(&["perl", "-e", ASK, &socket, message]).assert().success());
    assert_eq!(ask("000000010b"), "0c\n", "the keys");
    for (request, what) in [(17, "add"), (18, "remove"), (19, "remove all"), (22, "lock"), (27, "extension")] {
        assert_eq!(ask(&format!("00000001{request:02x}")), "05\n", "{what}");
    }
    near(&format!("SSH_AUTH_SOCK={} ssh-add -L", agent.socket().display()));
    drop(call.stdin.take());
    call.wait().unwrap();
    eventually("the socket goes", || !exists(&socket));
}

#[test]
fn values_of_variables_are_in_no_words_near_or_far() {
    let Some(_others) = beside_others(FAR) else { return };
    let project = running();
    let (given, taken) = (format!("given-{}", std::process::id()), format!("taken-{}", std::process::id()));
    let mut enter = std_command(tool_file("lbx-enter"));
    enter.env("TAKEN", &taken).args(["--env", "TAKEN", "--env", &format!("GIVEN={given}")]).arg(project.path());
    enter.args(["--", "sh", "-c", "echo \"$GIVEN $TAKEN\"; read go || :"]);
    let mut call = enter.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(call.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, format!("{given} {taken}\n"));
    let words = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '";
    for (side, words) in [("near", near(words)), ("far", host(words)), ("inside", project.sh(words))] {
        assert!(!words.contains(&given) && !words.contains(&taken), "{side}");
    }
    assert!(near(words).contains("GIVEN"), "the call is seen there");
    drop(call.stdin.take());
    assert!(call.wait().unwrap().success());
}

/// The guest tools' architecture.
const ARCH: &str = std::env::consts::ARCH;

/// The version of the guest tools that stand beside the tools.
fn version() -> String {
    std::fs::read_to_string(bin_dir().join("guest").join(ARCH).join("version")).unwrap().trim().to_owned()
}

/// The far end, spoken to by hand.
struct FarEnd {
    write: Option<Box<dyn Write>>,
    read: Receiver<Vec<u8>>,
    got: Vec<u8>,
    decoder: Decoder,
    stream: Option<UnixStream>,
    child: Option<Child>,
}

impl FarEnd {
    /// The place's own: its socket, or the program that ssh would run there.
    fn connect() -> FarEnd {
        // the tools are there
        tool("lbx-ls").assert().success();
        match place() {
            Place::Lima => {
                let on = on();
                let instance = on.split_once(':').unwrap().1;
                let home = std::env::var_os("LIMA_HOME").map_or_else(|| home().join(".lima"), PathBuf::from);
                let stream = UnixStream::connect(home.join(instance).join("sock/llima-box.sock")).unwrap();
                let (read, write) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
                FarEnd::of(read, write, Some(stream), None)
            }
            _ => {
                let mut serve = std_command(format!("{THERE}/lbx-on"));
                let mut child =
                    serve.arg("--serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it is there");
                let (read, write) = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
                FarEnd::of(read, write, None, Some(child))
            }
        }
    }

    fn of(
        mut read: impl Read + Send + 'static,
        write: impl Write + 'static,
        stream: Option<UnixStream>,
        child: Option<Child>,
    ) -> FarEnd {
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let mut bytes = vec![0; 65536];
            while let Ok(length @ 1..) = read.read(&mut bytes) {
                if tell.send(bytes[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        FarEnd { write: Some(Box::new(write)), read: told, got: Vec::new(), decoder: Decoder::default(), stream, child }
    }

    /// Says `bytes`; the other side may have hung up.
    fn say(&mut self, bytes: &[u8]) -> &mut FarEnd {
        if let Some(write) = &mut self.write {
            let _ = write.write_all(bytes).and_then(|()| write.flush());
        }
        self
    }

    /// Says nothing more.
    fn hang_up(&mut self) {
        self.write = None;
        if let Some(stream) = &self.stream {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    /// Whether more came; false: the stream has ended.
    fn more(&mut self) -> bool {
        match self.read.recv_timeout(scaled(PROMPT)) {
            Ok(bytes) => self.got.extend(bytes),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return false,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("the far end hangs"),
        }
        true
    }

    fn line(&mut self) -> String {
        while !self.got.contains(&b'\n') && self.more() {}
        let end = self.got.iter().position(|byte| *byte == b'\n').map_or(self.got.len(), |at| at + 1);
        String::from_utf8(self.got.drain(..end).collect()).unwrap()
    }

    /// The next frame; none when the stream has ended.
    fn frame(&mut self) -> Option<Frame> {
        loop {
            self.decoder.push(&std::mem::take(&mut self.got));
            match self.decoder.next().expect("the far end speaks in frames") {
                Some(frame) => return Some(frame),
                None if self.more() => {}
                None => return None,
            }
        }
    }

    /// A conversation that has got as far as frames.
    fn greet() -> FarEnd {
        let mut far = FarEnd::connect();
        far.say(format!("LBX1 call {ARCH}={}\n", version()).as_bytes());
        assert_eq!(far.line(), "LBX1 ready\n");
        far
    }

    /// Why the far end ends the call; it must end.
    fn refusal(&mut self) -> String {
        let mut why = String::new();
        while let Some(frame) = self.frame() {
            if let Frame::Failed(said) = frame {
                why = said;
            }
        }
        why
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A call of `tool` with `words`, confirmed.
fn call(tool: &str, words: &[&str]) -> Vec<u8> {
    [unconfirmed(tool, words), Frame::Go.bytes()].concat()
}

fn unconfirmed(tool: &str, words: &[&str]) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let words = words.iter().map(Into::into).collect();
    Frame::Call(Box::new(Call { tool: tool.into(), words, stdin: true, now, ..Call::default() })).bytes()
}

#[test]
fn nothing_begins_before_the_near_end_is_known_to_hear_of_it() {
    let Some(_others) = beside_others(FAR) else { return };
    let project = running();
    let name = project.name();
    let there = |file: &str| project.path().join(file).exists();
    let enter = |file: &str| unconfirmed("lbx-enter", &["--on", "local", "--", &name, "touch", file]);
    let shell = |file: &str| unconfirmed("llima-box", &["shell", "--on", "local", project.str(), "--", "touch", file]);
    let stop = unconfirmed("lbx-env", &["--on", "local", "stop", "--", &name]);
    let say = |call: &[u8]| {
        let mut far = FarEnd::greet();
        far.say(call);
        far
    };
    // whatever is ready by then waits
    let mut waiting = [say(&enter("entered")), say(&shell("shelled")), say(&stop)];
    std::thread::sleep(scaled(Duration::from_secs(1)));
    assert!(!there("entered") && !there("shelled") && project.state() == "running");
    // and goes where nobody confirms it
    for far in &mut waiting {
        far.hang_up();
        while far.more() {}
    }
    std::thread::sleep(scaled(Duration::from_millis(500)));
    assert!(!there("entered") && !there("shelled") && project.state() == "running");
    for call in [enter("entered"), shell("shelled"), stop] {
        let mut far = say(&call);
        far.say(&Frame::Go.bytes()).say(&Frame::End(Stream::Stdin).bytes());
        while far.more() {}
    }
    assert!(there("entered") && there("shelled"));
    assert_eq!(project.state(), "stopped");
    // once is enough
    let read = unconfirmed("llima-box", &["shell", "--on", "local", project.str(), "--", "cat"]);
    for call in [unconfirmed("lbx-ls", &["--on", "local", "--", "-"]), read] {
        let mut far = say(&call);
        far.say(&Frame::Go.bytes().repeat(2));
        assert_eq!(far.refusal(), "frame out of order: the call was confirmed already");
    }
}

#[test]
fn the_far_end_answers_no_line_but_its_own() {
    let Some(_others) = beside_others(FAR) else { return };
    for (said, answer) in [
        ("hello\n".to_owned(), "LBX1 failed the first line is not one of llima-box's\n".to_owned()),
        ("LBX1 call\n".to_owned(), "LBX1 failed the first line is not one of llima-box's\n".to_owned()),
        (
            "LBX1 tools ../../../../etc\n".to_owned(),
            "LBX1 failed the first line is not one of llima-box's\n".to_owned(),
        ),
        ("x".repeat(4000), "LBX1 failed line is too long\n".to_owned()),
        (format!("LBX1 call {ARCH}=0123456789abcdef\n"), format!("LBX1 missing {ARCH}\n")),
        ("LBX1 call other=0123456789abcdef\n".to_owned(), format!("LBX1 missing {ARCH}\n")),
    ] {
        let mut far = FarEnd::connect();
        far.say(said.as_bytes());
        assert_eq!(far.line(), answer, "{said:?}");
        assert!(!far.more(), "{said:?}: the conversation goes on");
    }
    // one that says nothing keeps nobody else waiting
    let _silent = FarEnd::connect();
    tool("lbx-ls").assert().success();
}

#[test]
fn a_frame_that_may_not_come_ends_the_call_and_says_why() {
    let Some(_others) = beside_others(FAR) else { return };
    let data = |length| Frame::Data(Stream::Stdin, vec![0; length]).bytes();
    let before: &[(&[u8], &str)] = &[
        (&Frame::Ping.bytes(), "frame out of order: no call came first"),
        (&[99, 0, 0, 0, 0], "frame of unknown kind 99"),
        (&[1, 0x7f, 0xff, 0xff, 0xff], "frame of kind 1 is too long: 2147483647 bytes"),
        (&[1, 0, 0, 0, 1, 0], "frame of kind 1 is malformed"),
        (&call("sh", &["-c", "touch /ran"]), "not a tool of llima-box: 'sh'"),
        (&call("../lbx-env", &[]), "not a tool of llima-box: '../lbx-env'"),
    ];
    for (said, why) in before {
        let mut far = FarEnd::greet();
        far.say(said);
        assert_eq!(far.refusal(), *why);
    }
    assert!(!exists("/ran"));

    let project = running();
    // the command's pipe takes a part of it
    let flood = data(65536).repeat(2 * WINDOW as usize / 65536 + 1);
    let behind_the_end = [Frame::End(Stream::Stdin).bytes(), data(1)].concat();
    let during: &[(&[u8], &str)] = &[
        (&call("lbx-ls", &[]), "frame out of order: a second call"),
        (&[99, 0, 0, 0, 0], "frame of unknown kind 99"),
        (&[3, 0x7f, 0xff, 0xff, 0xff], "frame of kind 3 is too long: 2147483647 bytes"),
        (&[7, 0, 0, 0, 1, 0xff], "frame of kind 7 is malformed"),
        (&Frame::Started.bytes(), "frame out of order: the near end sent what only the far end sends"),
        (
            &Frame::Data(Stream::Stdout, vec![0]).bytes(),
            "frame out of order: the near end sent what only the far end sends",
        ),
        (&Frame::Reply(0, vec![5]).bytes(), "frame out of order: no ssh agent was asked"),
        (&flood, "frame out of order: more than the window lets through"),
        (&behind_the_end, "frame out of order: data behind the end of stdin"),
    ];
    let name = project.name();
    for (number, (said, why)) in (42_000..).zip(during) {
        let seconds = number.to_string();
        let mut far = FarEnd::greet();
        far.say(&call("lbx-enter", &["--on", "local", "--", &name, "sleep", &seconds]));
        assert_eq!(far.frame(), Some(Frame::Started), "{why}");
        eventually("it runs", || runs_inside(&project, &seconds));
        far.say(said);
        assert_eq!(far.refusal(), *why);
        eventually(&format!("it is hung up: {why}"), || !runs_inside(&project, &seconds));
    }

    // a stream that ends within a frame: nobody is there to be told
    let mut far = FarEnd::greet();
    far.say(&call("lbx-enter", &["--on", "local", "--", &name, "sleep", "43000"]));
    assert_eq!(far.frame(), Some(Frame::Started));
    eventually("it runs", || runs_inside(&project, "43000"));
    far.say(&data(100)[..50]).hang_up();
    far.refusal();
    eventually("it is hung up", || !runs_inside(&project, "43000"));
}

/// What `lbx-on` with `words` does where the far end says `answer` and then, if it is to, nothing
/// more; and what it has said to that far end.
fn with_far_end(answer: &[u8], closes: bool, options: &[(&str, &Path)]) -> (Output, Vec<u8>) {
    let dir = tempfile::Builder::new().prefix("lima").tempdir_in(project::root()).unwrap();
    std::fs::create_dir_all(dir.path().join("x/sock")).unwrap();
    let listener = UnixListener::bind(dir.path().join("x/sock/llima-box.sock")).unwrap();
    let answer = answer.to_vec();
    let far = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while stream.read(&mut byte).is_ok_and(|length| length == 1) && byte != *b"\n" {
            request.push(byte[0]);
        }
        // frames come for a call, and not before
        let (line, frames) =
            answer.split_at(answer.iter().position(|byte| *byte == b'\n').map_or(answer.len(), |at| at + 1));
        let _ = stream.write_all(line);
        let mut rest = Vec::new();
        if line == b"LBX1 ready\n" {
            let mut decoder = Decoder::default();
            let mut bytes = [0; 4096];
            while decoder.next().is_ok_and(|frame| frame.is_none()) {
                let Ok(length @ 1..) = stream.read(&mut bytes) else { break };
                decoder.push(&bytes[..length]);
            }
        }
        let _ = stream.write_all(frames);
        if closes {
            // what is unread would make it a reset
            let _ = stream.shutdown(Shutdown::Write);
        }
        let _ = stream.read_to_end(&mut rest);
        rest
    });
    let mut on = command(tool_file("lbx-on"));
    on.env("LIMA_HOME", dir.path()).envs(options.iter().copied());
    let output =
        on.args(["lima:x", "lbx-enter", "--agent", "--on", "local", "--", "app-1a2b", "true"]).output().unwrap();
    (output, far.join().unwrap())
}

#[test]
fn what_a_far_end_may_not_say_ends_the_call_and_says_why() {
    let Some(_others) = beside_others(FAR) else { return };
    let ready = |frames: &[Vec<u8>]| [b"LBX1 ready\n".to_vec(), frames.concat()].concat();
    let started = |frame: &[u8]| ready(&[Frame::Started.bytes(), frame.to_vec()]);
    let data = Frame::Data(Stream::Stdout, b"seen\n".to_vec()).bytes();
    let behind_the_end = [Frame::End(Stream::Stdout).bytes(), data.clone()].concat();
    let out_of_order = "the far end sent what only the near end sends";
    let table: &[(Vec<u8>, bool, &str)] = &[
        (b"Welcome to Debian\n".to_vec(), false, "'lima:x' does not speak as llima-box does: 'Welcome to Debian'"),
        (vec![b'x'; 4000], false, "'lima:x' does not speak as llima-box does: 'xxxx"),
        (b"LBX1 failed for a reason\n".to_vec(), false, "'lima:x' refuses: for a reason"),
        (b"LBX1 done\n".to_vec(), false, "'lima:x' gives an answer that was not asked for"),
        (ready(std::slice::from_ref(&data)), false, "frame out of order: the call has not started"),
        (ready(&[Frame::Failed("it cannot be".to_owned()).bytes()]), false, "lbx-on: it cannot be\n"),
        (ready(&[vec![99, 0, 0, 0, 0]]), false, "frame of unknown kind 99"),
        (started(&[3, 0, 2, 0, 0]), false, "frame of kind 3 is too long: 131072 bytes"),
        (started(&[10, 0, 0, 0, 0]), false, "frame of kind 10 is malformed"),
        (started(&data[..data.len() - 1]), true, "stream ended within a frame"),
        (started(&data), true, "the connection was lost while the command ran"),
        (started(&behind_the_end), false, "frame out of order: data behind the end of stdout"),
        (started(&Frame::Started.bytes()), false, out_of_order),
        (started(&Frame::Signal(lbx_on::frame::Signal::Terminate).bytes()), false, out_of_order),
        (started(&Frame::Ask(1, vec![11]).bytes()), false, "frame out of order: no ssh agent was offered"),
    ];
    for (answer, closes, why) in table {
        let (output, _) = with_far_end(answer, *closes, &[]);
        assert_eq!(output.status.code(), Some(125), "{why}: {output:?}");
        assert!(stderr(&output).contains(why), "{why}: {output:?}");
    }
    let (output, _) = with_far_end(&started(&[data.clone(), Frame::Exit(7).bytes()].concat()), false, &[]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(7), "seen\n"), "{output:?}");
}

#[test]
fn a_far_end_gets_nothing_of_the_agent_but_keys_and_signatures() {
    let Some(_others) = beside_others(FAR) else { return };
    let agent = Agent::new();
    let ask: Vec<u8> =
        [17, 18, 19, 22, 27].iter().flat_map(|kind| Frame::Ask(u32::from(*kind), vec![*kind]).bytes()).collect();
    let keys = Frame::Ask(1, vec![11]).bytes();
    let answer = [b"LBX1 ready\n".to_vec(), Frame::Started.bytes(), keys, ask].concat();
    let socket = agent.socket();
    // it is silent then, and found dead
    let (_, said) = with_far_end(&answer, false, &[("LBX_VAR_SSH_AUTH_SOCK", &socket)]);
    let mut decoder = Decoder::default();
    decoder.push(&said);
    let mut replies = std::collections::BTreeMap::new();
    while let Ok(Some(frame)) = decoder.next() {
        if let Frame::Reply(id, reply) = frame {
            replies.insert(id, reply);
        }
    }
    assert_eq!(replies.remove(&1).map(|keys| keys[0]), Some(12), "the keys");
    assert!(replies.len() == 5 && replies.values().all(|reply| *reply == [5]), "{replies:?}");
    near(&format!("SSH_AUTH_SOCK={} ssh-add -L", agent.socket().display()));
}

#[test]
fn a_far_end_that_is_silent_is_taken_for_dead() {
    let Some(_others) = beside_others(FAR) else { return };
    let ready = [b"LBX1 ready\n".to_vec(), Frame::Started.bytes()].concat();
    for answer in [&b""[..], &ready] {
        let start = Instant::now();
        let (output, said) = with_far_end(answer, false, &[]);
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(stderr(&output).contains("'lima:x' does not answer: nothing came for 12 seconds"), "{output:?}");
        assert!(stderr(&output).contains("lbx-vm --on lima:x restart"), "{output:?}");
        assert!(start.elapsed() < Duration::from_secs(16), "{:?}", start.elapsed());
        // it was asked, where it could have answered
        assert_eq!(said.windows(5).any(|window| window == Frame::Ping.bytes()), !answer.is_empty());
    }
}

/// The tools once more, in `dir`, with guest tools that differ by a byte; and their version.
fn other_tools(dir: &Path) -> String {
    near(&format!(
        "mkdir -p {0}/guest; find {1} -maxdepth 1 -type f -exec cp -t {0} {{}} +; cp -r {1}/guest/{ARCH} {0}/guest
         cd {0}/guest/{ARCH}; printf x >>lbx-name
         export LC_ALL=C; sha256sum lbx-* llima-box | sha256sum | cut -c1-16 >version; cat version",
        dir.display(),
        bin_dir().display()
    ))
    .trim()
    .to_owned()
}

/// As at the beginning: the tools there are those of the suite alone.
fn put_back(other: &str) {
    let version = version();
    host(&format!("cd {THERE}; rm -rf {other}; ln {version}/lbx-on .put-back.0; mv -f .put-back.0 lbx-on"));
    tool("lbx-ls").assert().success();
}

#[test]
fn tools_of_another_version_are_put_beside_and_both_work() {
    let Some(_alone) = alone(FAR) else { return };
    let project = running();
    let dir = tempfile::Builder::new().prefix("other").tempdir_in(project::root()).unwrap();
    let (version, other) = (version(), other_tools(dir.path()));
    assert_ne!(version, other);
    let mut under_way = spawn(&project, "read word; echo $word");
    let mut under_way = under_way.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();

    let (done, stop) = channel::<()>();
    let enter = tool_file("lbx-enter");
    let path = project.path().to_owned();
    let meanwhile = std::thread::spawn(move || {
        let mut count = 0;
        while stop.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            command(&enter).arg(&path).args(["--", "echo", "old"]).assert().success().stdout("old\n");
            count += 1;
        }
        count
    });
    let mut enter = command(dir.path().join("lbx-enter"));
    enter.arg(project.path()).args(["--", "echo", "new"]).env("LBX_TRACE", "1");
    let trace = errors(enter.assert().success().stdout("new\n"));
    assert!(trace.contains(&format!("{THERE}/{other}/lbx-enter")), "{trace}");
    drop(done);
    assert!(meanwhile.join().unwrap() > 0, "calls of the old version go on meanwhile");
    under_way.stdin.take().unwrap().write_all(b"still\n").unwrap();
    assert_eq!(stdout(&under_way.wait_with_output().unwrap()), "still\n");

    let there = entries(THERE);
    let mut wanted = [version.clone(), other.clone(), "lbx-on".to_owned()];
    wanted.sort_unstable();
    assert_eq!(
        there.iter().filter(|name| wanted.contains(name)).collect::<Vec<_>>(),
        wanted.iter().collect::<Vec<_>>()
    );
    let inodes = host(&format!("cd {THERE}; stat -c '%i %a %U' lbx-on {other}/lbx-on"));
    let inodes: Vec<&str> = inodes.lines().collect();
    assert!(inodes[0] == inodes[1] && inodes[0].ends_with(" 755 root"), "the entry is the newest: {inodes:?}");
    // whichever is the entry, each finds its own
    for (tools, word) in [(bin_dir(), &version), (dir.path().to_owned(), &other)] {
        let mut enter = command(tools.join("lbx-enter"));
        enter.arg(project.path()).args(["--", "true"]).env("LBX_TRACE", "1");
        let trace = errors(enter.assert().success());
        assert!(trace.contains(&format!("{THERE}/{word}/lbx-enter")), "{trace}");
    }
    put_back(&other);
}

#[test]
fn tools_that_are_not_their_version_are_refused_and_nothing_of_them_remains() {
    let Some(_alone) = alone(FAR) else { return };
    let dir = tempfile::Builder::new().prefix("other").tempdir_in(project::root()).unwrap();
    other_tools(dir.path());
    let claimed = "0123456789abcdef";
    std::fs::write(dir.path().join("guest").join(ARCH).join("version"), format!("{claimed}\n")).unwrap();
    tool("lbx-ls").assert().success();
    let before: Vec<String> = entries(THERE).into_iter().filter(|name| !name.starts_with('.')).collect();
    let mut ls = command(dir.path().join("lbx-ls"));
    let refused = format!("'{}' refuses: the tools that came are not those of version {claimed}", on());
    ls.assert().code(1).stdout("").stderr(contains(refused));
    assert_eq!(entries(THERE), before);

    // one that is cut, and one that is killed
    let mut far = FarEnd::connect();
    far.say(format!("LBX1 tools {claimed}\n").as_bytes());
    assert_eq!(far.line(), "LBX1 ready\n");
    far.say(b"LBX1 file lbx-env 1000\nhalf").hang_up();
    assert!(far.line().starts_with("LBX1 failed cannot write tool 'lbx-env': the stream ended within a tool"));
    assert_eq!(entries(THERE), before);

    let mut far = FarEnd::connect();
    far.say(format!("LBX1 tools {claimed}\n").as_bytes());
    assert_eq!(far.line(), "LBX1 ready\n");
    far.say(b"LBX1 file lbx-env 1000\nhalf");
    let aside = || entries(THERE).into_iter().find(|name| name.starts_with(&format!(".{claimed}.")));
    eventually("it is written aside", || aside().is_some_and(|name| !entries(format!("{THERE}/{name}")).is_empty()));
    let pid = aside().unwrap().rsplit('.').next().unwrap().to_owned();
    host(&format!("kill -9 {pid}"));
    while far.more() {}
    drop(far);
    eventually("the process is gone", || !exists(format!("/proc/{pid}")));
    assert!(aside().is_some(), "nobody could remove it");
    ls.assert().code(1);
    assert_eq!(entries(THERE), before, "the next one removes what a killed one has left");
}

#[test]
fn connections_that_say_nothing_and_processes_that_are_killed_hold_up_no_call() {
    let Some(_alone) = alone(&[Place::Lima]) else { return };
    let project = running();
    let silent: Vec<FarEnd> = (0..5).map(|_| FarEnd::connect()).collect();
    project.enter(["echo", "hello"]).assert().success().stdout("hello\n");
    drop(silent);
    // the one that waits for the next connection
    let service = host("systemctl show -P MainPID llima-box.service").trim().to_owned();
    for _ in 0..3 {
        host(&format!("pkill -KILL -P {service}"));
        project.enter(["echo", "again"]).assert().success().stdout("again\n");
    }
    assert_eq!(host("systemctl show -P MainPID llima-box.service").trim(), service);
    // it has an lbx-enter ready, which knows nothing of the socket for calls, and goes with it
    let spares = || host("pgrep -fx '/usr/local/libexec/llima-box/.*/lbx-enter' || :");
    eventually("one is ready", || spares().lines().count() == 1);
    let sockets = host(&format!("ls -l /proc/{}/fd | grep -o 'socket:.*' | sort -u", spares().trim()));
    assert_eq!(sockets.lines().count(), 1, "{sockets}");
    // and it does not outlive the service, whose socket it has
    let waits = host(&format!("pgrep -P {service}")).trim().to_owned();
    host("systemctl kill -s KILL --kill-whom=main llima-box.service");
    eventually("who waited is gone", || !exists(format!("/proc/{waits}")) && spares().is_empty());
    project.enter(["echo", "anew"]).assert().success().stdout("anew\n");
}

#[test]
fn a_place_without_any_of_the_tools_gets_them_at_the_first_call() {
    let Some(_alone) = alone(&[Place::Ssh]) else { return };
    let project = running();
    host(&format!("rm -rf {THERE}"));
    project.enter(["echo", "hello"]).assert().success().stdout("hello\n").stderr("");
    assert_eq!(entries(THERE), [version(), "lbx-on".to_owned()]);
    assert_eq!(host(&format!("find {THERE} ! -user root -o -perm /022 ! -type l")), "");
    // as an account that sudo makes root
    host(&format!("rm -rf {THERE}"));
    let _sudoer = sudoer();
    let mut enter = tool("lbx-enter");
    enter.args(["--on", "ssh:lbx-test-sudoer"]).arg(project.path()).args(["--", "true"]);
    let _ = enter.assert().stderr(contains("refuses").not());
    assert_eq!(entries(THERE), [version(), "lbx-on".to_owned()]);
}

#[test]
fn a_place_that_cannot_be_reached_is_named_with_what_ssh_says() {
    let Some(_others) = beside_others(FAR) else { return };
    let fails = |mut command: Command, status: i32, why: &str| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(stderr(&output).contains(why) && output.stdout.is_empty(), "{why}: {output:?}");
        stderr(&output)
    };
    let unknown = "ssh:nosuch.invalid";
    let words = |words: &[&str]| {
        let mut command = tool(words[0]);
        command.args(&words[1..]);
        command
    };
    let why = "lbx-on: cannot reach 'ssh:nosuch.invalid': ssh: Could not resolve hostname nosuch.invalid";
    fails(words(&["lbx-enter", "--on", unknown, "/p", "--", "true"]), 125, why);
    fails(words(&["llima-box", "shell", "--on", unknown, "/p", "--", "true"]), 125, why);
    fails(words(&["lbx-env", "--on", unknown, "stop", "app-1a2b"]), 1, why);
    fails(words(&["lbx-ls", "--on", unknown]), 1, why);
    fails(words(&["lbx-on", unknown, "lbx-ls"]), 1, why);
    if place() != Place::Ssh {
        return;
    }
    let refused = "cannot reach 'ssh:nobody@lbx-test-host': nobody@127.0.0.1: Permission denied (publickey)";
    fails(words(&["lbx-ls", "--on", "ssh:nobody@lbx-test-host"]), 1, refused);

    let _sudoer = sudoer();
    let sudoer = "ssh:lbx-test-sudoer";
    tool("lbx-ls").args(["--on", sudoer]).assert().success();
    near("mv /etc/sudoers.d/lbx-sudoer /srv/lbx-sudoer.rule");
    let said = fails(
        words(&["lbx-enter", "--on", sudoer, "/p", "--", "true"]),
        125,
        "cannot reach 'ssh:lbx-test-sudoer': sudo:",
    );
    near("mv /srv/lbx-sudoer.rule /etc/sudoers.d/lbx-sudoer");
    assert!(said.contains("hint: `sudo -n true` must work there, without a password\n"), "{said}");

    near("echo 'echo Welcome, you' >~lbx-sudoer/.bashrc");
    let said = fails(
        words(&["lbx-ls", "--on", sudoer]),
        1,
        "'ssh:lbx-test-sudoer' does not speak as llima-box does: 'Welcome, you'",
    );
    near("rm ~lbx-sudoer/.bashrc");
    assert!(said.contains("hint: a login script that prints something there is in the way\n"), "{said}");
    tool("lbx-ls").args(["--on", sudoer]).assert().success();
}

#[test]
fn what_is_no_place_or_no_tool_is_not_tried() {
    let Some(_others) = beside_others(FAR) else { return };
    tool("lbx-on").args(["mars", "lbx-ls"]).assert().code(125).stderr(contains("unknown place 'mars'"));
    let on = on();
    for word in ["sh", "lbx-", "../lbx-env", "lbx-env;id", ""] {
        let refused = format!("lbx-on: not a tool of llima-box: '{word}'\n");
        tool("lbx-on").args([&on, word, "-c", "id"]).assert().code(125).stdout("").stderr(refused);
    }
    let far = tool("lbx-on").args([&on, "lbx-nosuch"]).assert().failure().stdout("");
    assert!(errors(far).contains("lbx-nosuch"));
    let name = text(tool("lbx-on").args(["local", "lbx-name", "--on", "local", "/srv/app"]).assert().success());
    assert_eq!(name, text(tool("lbx-name").arg("/srv/app").assert().success()));
}

#[test]
fn a_tool_that_does_not_read_leaves_input_to_the_loop_around_it() {
    let Some(_others) = beside_others(FAR) else { return };
    let project = running();
    let loop_with = |command: &str| {
        let script = format!("printf 'a\\nb\\nc\\n' | while read -r word; do {command} >&2; echo $word; done");
        let mut bash = command_with_tools("bash");
        bash.args(["-c", &script]).env("P", project.path());
        text(bash.assert().success())
    };
    for tool in [r#"lbx-env stop "$P""#, "lbx-ls", r#"lbx-name "$P""#, r#"lbx-enter -n "$P" -- cat"#] {
        assert_eq!(loop_with(tool), "a\nb\nc\n", "{tool}");
    }
    assert_eq!(loop_with(r#"lbx-enter "$P" -- cat"#), "a\n", "one that reads has it all");
}

/// `program`, with the tools on PATH.
fn command_with_tools(program: &str) -> Command {
    let mut command = command(program);
    let path = std::env::var("LBX_TEST_PATH").map_or(String::new(), |path| format!("{path}:"));
    command.env("PATH", format!("{}:{path}/usr/bin:/bin:/usr/sbin:/sbin", bin_dir().display()));
    command
}

#[test]
fn several_places_are_one_list_and_what_fails_is_named() {
    let Some(_others) = beside_others(FAR) else { return };
    let project = running();
    let name = project.name();
    let on = on();
    let both = tool("lbx-ls").args(["--on", "local", "--on", &on]).assert().success();
    let both = text(both);
    let line = both.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let places: Vec<String> =
        line.filter(|line| line["name"] == *name).map(|line| line["place"].as_str().unwrap().to_owned()).collect();
    match place() {
        // the same machine twice
        Place::Ssh => assert_eq!(places, ["local", &on]),
        _ => assert_eq!(places, [on.as_str()]),
    }
    let one = tool("lbx-ls").args(["--on", "ssh:nosuch.invalid", "--on", &on, "--names"]).assert().code(1);
    let one = one.stderr(contains("cannot reach 'ssh:nosuch.invalid'"));
    assert!(text(one).lines().any(|line| line == name));
}

#[test]
fn the_config_file_names_the_place_where_nothing_else_does() {
    let Some(_others) = beside_others(FAR) else { return };
    let project = running();
    let dir = project.base().join("config/llima-box");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("config.yaml"), format!("on: {}\n", on())).unwrap();
    let mut ls = tool("lbx-ls");
    ls.env_remove("LBX_ON").env("XDG_CONFIG_HOME", project.base().join("config"));
    let line: serde_json::Value = serde_json::from_str(&text(ls.arg(project.path()).assert().success())).unwrap();
    assert_eq!(line["place"], on());
    let mut enter = tool("lbx-enter");
    enter.env_remove("LBX_ON").env("XDG_CONFIG_HOME", project.base().join("config"));
    enter.arg(project.path()).args(["--", "sh", "-c", "echo $LBX_ENV"]).assert().success();
    // and the variable comes before it
    let mut ls = tool("lbx-ls");
    ls.env("LBX_ON", "mars").env("XDG_CONFIG_HOME", project.base().join("config"));
    ls.assert().failure().stderr(contains("unknown place 'mars'"));
}

/// From create to delete by pipes alone, everywhere the same but for what is the place's own.
const PIPELINE: &str = r#"
    mask='.uid |= type | .created |= type | .last_used |= type | .memory_bytes |= type | .procs |= type
        | .place |= type | .ownership |= type | .gid |= type | .owner[] |= type | .creator |= type'
    look() { lbx-ls "$name" | jq -c "$mask"; }
    cd "$P"
    lbx-env create --shell /bin/bash --label team=web --label n=1 --private target --net none "$P" >name
    name=$(cat name)
    echo "$name" | sed 's/.*/name &/'
    look
    lbx-ls --label team=web --names "$P" | lbx-env start -
    look
    lbx-ls "$name" | jq -r .path | lbx-env set --label team=ops -
    printf 'b\na\n' | lbx-enter "$name" -- sort | tr '\n' ' '
    echo
    lbx-env stop "$name"
    look
    lbx-ls --label team=ops --names "$P" | lbx-env delete -
    lbx-ls --containing "$P" | wc -l
"#;

#[test]
fn one_pipeline_gives_the_same_everywhere() {
    let project = Project::new();
    let mut bash = command_with_tools("bash");
    bash.args(["-euo", "pipefail", "-c", PIPELINE]).env("P", project.path());
    let output = bash.output().expect("bash is installed");
    let said = stderr(&output);
    let output = stdout(&output).replace(&project.name(), "NAME").replace(project.str(), "/PROJECT");
    assert_eq!((output.as_str(), said.as_str()), (EXPECTED, ""));
    assert_eq!(traces(&project.name()), [""; 0]);
    assert!(list(&[]).iter().all(|line| line["path"] != project.str()));
}

const EXPECTED: &str = r#"name NAME
{"schema":1,"name":"NAME","path":"/PROJECT","uid":"number","gid":"number","home":"/home/NAME","shell":"/bin/bash","created":"string","ownership":"string","owner":{"uid":"number","gid":"number","device":"number"},"creator":"number","options":{"ro":[],"rw":[],"private":["target"],"net":"none","nest":false,"git":{}},"labels":{"n":"1","team":"web"},"state":"stopped","last_used":"string","procs":"number","memory_bytes":"number","place":"string"}
{"schema":1,"name":"NAME","path":"/PROJECT","uid":"number","gid":"number","home":"/home/NAME","shell":"/bin/bash","created":"string","ownership":"string","owner":{"uid":"number","gid":"number","device":"number"},"creator":"number","options":{"ro":[],"rw":[],"private":["target"],"net":"none","nest":false,"git":{}},"labels":{"n":"1","team":"web"},"state":"running","last_used":"string","procs":"number","memory_bytes":"number","place":"string"}
a b 
{"schema":1,"name":"NAME","path":"/PROJECT","uid":"number","gid":"number","home":"/home/NAME","shell":"/bin/bash","created":"string","ownership":"string","owner":{"uid":"number","gid":"number","device":"number"},"creator":"number","options":{"ro":[],"rw":[],"private":["target"],"net":"none","nest":false,"git":{}},"labels":{"team":"ops"},"state":"stopped","last_used":"string","procs":"number","memory_bytes":"number","place":"string"}
0
"#;
