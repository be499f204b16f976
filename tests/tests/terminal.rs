//! A command inside on the caller's terminal: it behaves as a command outside would, and the
//! terminal is the caller's alone.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use lbx_tests::place::HERE;
use lbx_tests::pty::line;
use lbx_tests::{
    Place, Project, Pty, User, eventually, executable, installed, only_at, scaled, std_command, tool_file,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::termios::LocalModes;

/// Why a screen is not compared.
const ANOTHER_PROGRAM: &str = "the program outside is another machine's";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_Z: &str = "\x1a";

fn enter(project: &Project, script: &str) -> Vec<OsString> {
    project.enter_words(&["sh", "-c", script])
}

/// An interactive bash outside, whose prompt is `outer> `.
fn shell() -> Pty {
    shell_of(&[])
}

/// As [`shell`], run by `words`.
fn shell_of(words: &[String]) -> Pty {
    let mut all = words.to_vec();
    all.extend(["bash", "--norc", "--noprofile", "-i"].map(Into::into));
    let pty = Pty::sized(&all, 24, 300);
    // two pieces: the echo of this line is no prompt
    pty.send("bind 'set enable-bracketed-paste off'; PS1='out''er> '\n");
    pty.expect("outer> ");
    pty
}

/// Types `words` and what follows them as one line.
fn type_line(pty: &Pty, words: &[OsString], rest: &str) {
    pty.send(format!("{} {rest}\n", line(words)));
}

/// The status that the outer shell shows.
fn expect_status(pty: &Pty, status: i32) {
    pty.expect("outer> ");
    pty.send("echo status $?.\n");
    pty.expect(&format!("status {status}."));
    pty.expect("outer> ");
}

/// Waits until the command goes on and has the keys: before, they are signals of the outer
/// terminal, and the shell's SIGCONT takes back a stop.
fn until_it_has_the_keys(project: &Project, pty: &Pty) {
    eventually("the terminal is raw", || !pty.modes().local_modes.contains(LocalModes::ISIG));
    eventually("the command goes on", || project.sh("cat /proc/[0-9]*/stat | grep -c ') T ' || :") == "0\n");
}

/// `words` run by sh outside, which waits for a line before and lives on after: the terminal can
/// be looked at.
fn watched(words: &[OsString]) -> Pty {
    let script = r#"echo waiting; read go; "$@"; echo "ended $?."; read go"#;
    let mut all: Vec<OsString> = ["sh", "-c", script, "sh"].map(Into::into).into();
    all.extend(words.iter().cloned());
    let pty = Pty::run(&all);
    pty.expect("waiting\r\n");
    pty
}

/// The child of the process that leads the terminal's session.
fn child_of(pty: &Pty) -> Pid {
    let file = format!("/proc/{0}/task/{0}/children", pty.pid());
    let mut child = None;
    eventually("the command is started", || {
        child = std::fs::read_to_string(&file).unwrap().split_whitespace().next().map(|pid| pid.parse().unwrap());
        child.is_some()
    });
    Pid::from_raw(child.unwrap())
}

fn modes(pty: &Pty) -> String {
    format!("{:?}", pty.modes())
}

/// How many processes inside have a command line that starts with `text`.
fn running(project: &Project, text: &str) -> usize {
    let script = format!(
        "for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$file; echo; done 2>/dev/null | grep -c '^{text}' || :"
    );
    project.sh(&script).trim().parse().unwrap()
}

/// Whether a process inside whose name is `name` is in the foreground of its terminal.
fn has_terminal(project: &Project, name: &str) -> bool {
    let stats = project.sh("cat /proc/[0-9]*/stat 2>/dev/null || :");
    stats.lines().filter_map(|stat| stat.split_once(&format!("({name}) "))).any(|(_, rest)| {
        let [_, _, group, _, _, foreground] = rest.split(' ').take(6).collect::<Vec<_>>()[..] else { return false };
        group == foreground
    })
}

/// Interrupts `sleep 1000` when it runs: a shell that is about to start it may miss the key.
fn interrupt_sleep(project: &Project, pty: &Pty) {
    eventually("it sleeps", || running(project, "sleep 1000") > 0);
    pty.send(CTRL_C);
}

#[test]
fn the_size_is_the_callers_and_follows_it() {
    let project = Project::new();
    project.create(&[]);
    let script = "stty size; trap 'stty size' WINCH; echo ready; while :; do sleep 0.02; done";
    let pty = Pty::sized(&enter(&project, script), 33, 101);
    pty.expect("33 101\r\n");
    pty.expect("ready");
    for (rows, cols) in [(40, 120), (5, 20), (200, 500)] {
        pty.resize(rows, cols);
        pty.expect(&format!("{rows} {cols}\r\n"));
    }
}

#[test]
fn control_c_interrupts_the_command_and_the_shell_goes_on() {
    let project = Project::new();
    project.create(&[]);
    let pty = shell();
    type_line(&pty, &project.enter_words(&["sleep", "1000"]), "");
    interrupt_sleep(&project, &pty);
    expect_status(&pty, 130);

    type_line(
        &pty,
        &enter(&project, "trap 'echo cau''ght; exit 5' INT; echo re''ady; while :; do sleep 0.02; done"),
        "",
    );
    pty.expect("ready\r\n");
    pty.send(CTRL_C);
    pty.expect("caught");
    expect_status(&pty, 5);

    // where the command has no terminal, the keyboard still interrupts it
    for stdin in ["</dev/null", "< <(exec sleep 1000 >/dev/null)"] {
        type_line(&pty, &project.enter_words(&["sleep", "1000"]), stdin);
        interrupt_sleep(&project, &pty);
        expect_status(&pty, 130);
    }
}

#[test]
fn control_z_stops_the_command_and_fg_goes_on() {
    let project = Project::new();
    project.create(&[]);
    let pty = shell();
    let before = {
        type_line(&pty, &["stty".into(), "-g".into()], "");
        pty.expect("\r\n");
        pty.expect("\r\n")
    };
    // a program that has the terminal raw: stopping gives it back as it was
    type_line(&pty, &enter(&project, "echo re''ady; read -r line; echo \"got $line\"; exit 9"), "");
    pty.expect("ready\r\n");
    for _ in 0..3 {
        until_it_has_the_keys(&project, &pty);
        pty.send(CTRL_Z);
        pty.expect("Stopped");
        pty.expect("outer> ");
        type_line(&pty, &["stty".into(), "-g".into()], "");
        pty.expect("\r\n");
        assert_eq!(pty.expect("\r\n"), before);
        pty.expect("outer> ");
        pty.send("fg\n");
        pty.expect("lbx-enter");
        pty.expect("\r\n");
    }
    pty.send("hello\n");
    pty.expect("got hello\r\n");
    expect_status(&pty, 9);
}

#[test]
fn a_stop_of_the_tool_stops_the_command() {
    let project = Project::new();
    project.create(&[]);
    let pty = shell();
    type_line(&pty, &enter(&project, "echo re''ady; read -r line; echo \"got $line\""), "");
    pty.expect("ready\r\n");
    kill(child_of(&pty), Signal::SIGTSTP).unwrap();
    pty.expect("Stopped");
    pty.expect("outer> ");
    pty.send("fg\n");
    pty.expect("lbx-enter");
    pty.expect("\r\n");
    until_it_has_the_keys(&project, &pty);
    pty.send("hello\n");
    pty.expect("got hello\r\n");
    expect_status(&pty, 0);
}

#[test]
fn a_stopped_command_is_stopped_and_can_be_ended() {
    let project = Project::new();
    project.create(&[]);
    let pty = shell();
    // it starts nothing: a child of vfork(2) that is stopped before its exec keeps its parent from stopping
    type_line(&pty, &enter(&project, "while :; do echo x >>count; done"), "");
    eventually("it counts", || project.path().join("count").exists());
    until_it_has_the_keys(&project, &pty);
    pty.send(CTRL_Z);
    pty.expect("Stopped");
    std::thread::sleep(scaled(Duration::from_millis(100)));
    let count = project.read("count");
    std::thread::sleep(scaled(Duration::from_millis(200)));
    assert_eq!(project.read("count"), count, "it went on");
    let tool = child_of(&pty);
    pty.send("kill %1\n");
    // bash waits for it at the latest when it looks for something to say
    eventually("it ends", || {
        pty.send("\n");
        kill(tool, None).is_err()
    });
    pty.expect("Exit 143");
    assert_eq!(running(&project, "sh -c while"), 0);
}

#[test]
fn what_is_started_in_the_background_goes_on_in_the_foreground() {
    let project = Project::new();
    project.create(&[]);
    let pty = shell();
    type_line(&pty, &enter(&project, "read -r line; echo \"got $line\""), "&");
    pty.expect("outer> ");
    std::thread::sleep(scaled(Duration::from_millis(300)));
    pty.send("fg\n");
    pty.expect("lbx-enter");
    pty.expect("\r\n");
    pty.send("a line\n");
    pty.expect("got a line\r\n");
    expect_status(&pty, 0);
}

#[test]
fn job_control_works_through_sudo() {
    if !only_at(&[Place::Local], "sudo is a step of this machine") {
        return;
    }
    let user = User::sudoer();
    let project = Project::owned_by(&user);
    project.create(&[]);
    let mut words = user.words().to_vec();
    words.extend(["env".into(), format!("HOME={}", user.home().display())]);
    let pty = shell_of(&words);
    type_line(&pty, &enter(&project, "stty size; echo re''ady; read -r line; echo \"got $line\"; exit 9"), "");
    pty.expect("24 300\r\nready\r\n");
    until_it_has_the_keys(&project, &pty);
    pty.send(CTRL_Z);
    pty.expect("Stopped");
    pty.expect("outer> ");
    pty.send("fg\n");
    pty.expect("lbx-enter");
    pty.expect("\r\n");
    pty.send("hello\n");
    pty.expect("got hello\r\n");
    expect_status(&pty, 9);
    type_line(&pty, &project.enter_words(&["sleep", "1000"]), "");
    interrupt_sleep(&project, &pty);
    expect_status(&pty, 130);
}

/// Runs `script` inside, calls `end` with the pid inside that it prints, and expects the terminal
/// as it was, and `status`.
fn gives_back(script: &str, status: i32, end: impl Fn(&Project, &Pty, &str)) {
    let project = Project::new();
    project.create(&[]);
    let pty = watched(&enter(&project, &format!("stty raw -echo; echo \"pid $$.\"; {script}")));
    let before = modes(&pty);
    pty.send("\n");
    let text = pty.expect(".");
    let pid = text.rsplit_once("pid ").unwrap().1.trim_end_matches('.').to_owned();
    assert_ne!(modes(&pty), before, "the terminal is raw while the command runs");
    end(&project, &pty, &pid);
    let text = pty.expect(&format!("ended {status}."));
    assert_eq!(modes(&pty), before, "{text}");
    assert_eq!(running(&project, "sleep 1234"), 0, "something is left");
}

#[test]
fn the_terminal_is_given_back_when_the_command_ends() {
    gives_back("sleep 0.3; exit 3", 3, |_, _, _| ());
    gives_back("sleep 0.3; kill -TERM $$", 143, |_, _, _| ());
}

#[test]
fn the_terminal_is_given_back_after_kill_9_inside() {
    gives_back("exec sleep 1234", 137, |project, _, pid| {
        project.sh(&format!("kill -KILL {pid}"));
    });
}

#[test]
fn the_terminal_is_given_back_when_every_process_inside_is_killed() {
    gives_back("exec sleep 1234", 137, |project, _, _| {
        let _ = project.enter(["sh", "-c", "kill -KILL -1"]).output();
    });
}

#[test]
fn the_terminal_is_given_back_when_the_environment_is_stopped() {
    gives_back("exec sleep 1234", 137, |project, _, _| project.must("stop"));
}

#[test]
fn the_terminal_is_given_back_when_the_tool_is_told_to_end() {
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        gives_back("exec sleep 1234", 128 + signal as i32, |_, pty, _| kill(child_of(pty), signal).unwrap());
    }
}

#[test]
fn a_pipe_behind_a_command_on_a_terminal_has_no_carriage_returns() {
    let project = Project::new();
    project.create(&[]);
    let pty = shell();
    type_line(&pty, &project.enter_words(&["printf", "a\\nb\\n"]), "| od -An -c");
    pty.expect("\r\n");
    assert_eq!(pty.expect("outer> ").replace("\r\n", "\n"), "   a  \\n   b  \\n\nouter> ");
    // the same the other way: what a pipe brings is not changed by a terminal
    type_line(&pty, &project.enter_words(&["od", "-An", "-c"]), "< <(printf 'a\\nb\\x03\\x04\\r\\n')");
    pty.expect("\r\n");
    assert_eq!(pty.expect("outer> ").replace("\r\n", "\n"), "   a  \\n   b 003 004  \\r  \\n\nouter> ");
}

#[test]
fn what_is_redirected_holds_what_was_written_there_alone() {
    let project = Project::new();
    project.create(&[]);
    let pty = shell();
    let words = enter(&project, "echo warn:$((1 + 1)) >&2; echo direct:$((1 + 2)) >/dev/tty; echo out");
    pty.send(format!("got=$({}); echo \"got [$got].\"\n", line(&words)));
    let screen = pty.expect("got [out].");
    assert!(screen.contains("warn:2") && screen.contains("direct:3"), "{screen:?}");
    pty.expect("outer> ");
    pty.send(format!("got=$({} 2>&1); echo \"got [$got].\"\n", line(&words)));
    let screen = pty.expect("out].");
    assert!(screen.contains("direct:3") && screen.contains("got [warn:2\r\nout]."), "{screen:?}");
}

#[test]
fn a_pipe_that_ends_behind_a_command_on_a_terminal_ends_it_as_a_pipe_does() {
    let project = Project::new();
    project.create(&[]);
    let pty = shell();
    type_line(&pty, &project.enter_words(&["yes"]), "| head -n 1; echo \"pipe ${PIPESTATUS[0]}.\"");
    pty.expect("pipe 141.");
}

#[test]
fn each_stream_is_a_terminal_or_not_as_documented() {
    let project = Project::new();
    project.create(&[]);
    let script = "seen=; for n in 0 1 2; do ! test -t $n || seen=\"$seen tty:$n\"; done; \
                  if (: >/dev/tty) 2>/dev/null; then seen=\"$seen controlling\"; fi; echo \"$seen\" >seen; \
                  readlink /proc/$$/fd/0 >stdin; cat; echo done:$((1 + 1)) >&2";
    // a terminal is passed on as the environment's own where stdin is one, else as a pipe
    let cases = [
        ("", " tty:0 tty:1 tty:2 controlling\n", CTRL_D),
        ("| cat", " tty:0 tty:2 controlling\n", CTRL_D),
        ("2>&1 | cat", " tty:0 controlling\n", CTRL_D),
        ("</dev/null", "\n", ""),
        ("< <(echo typed)", "\n", ""),
        ("< <(echo typed) | cat", "\n", ""),
    ];
    let pty = shell();
    for (streams, seen, end) in cases {
        type_line(&pty, &enter(&project, script), streams);
        if !end.is_empty() {
            // typed before, the key would be the outer terminal's
            eventually("the terminal is raw", || !pty.modes().local_modes.contains(LocalModes::ISIG));
        }
        pty.send(end);
        pty.expect("done:2");
        pty.expect("outer> ");
        assert_eq!(project.read("seen"), seen, "{streams}");
        assert_eq!(project.read("stdin").starts_with("/dev/pts/"), seen.contains("tty:0"), "{streams}");
    }
    let mut words = project.enter_words(&["sh", "-c", script]);
    words.insert(1, "-n".into());
    type_line(&pty, &words, "");
    pty.expect("done:2");
    pty.expect("outer> ");
    assert_eq!((project.read("seen").as_str(), project.read("stdin").as_str()), ("\n", "/dev/null\n"));
}

#[test]
fn a_pipe_to_a_terminal_ends_with_the_command() {
    let project = Project::new();
    project.create(&[]);
    let pty = shell();
    let start = Instant::now();
    // the process that is left behind holds the pipe that the tool relays
    type_line(&pty, &enter(&project, "sleep 300 & echo la''st; exit 4"), "</dev/null");
    pty.expect("last\r\n");
    expect_status(&pty, 4);
    type_line(&pty, &enter(&project, "sleep 300 & echo la''st; exit 4"), "");
    pty.expect("last\r\n");
    expect_status(&pty, 4);
    assert!(start.elapsed() < scaled(Duration::from_secs(15)), "it waited for what was left behind");
}

#[test]
fn nothing_is_lost_on_the_way_to_a_terminal() {
    let project = Project::new();
    project.create(&[]);
    let expected: String = (1..=20_000).map(|number| format!("{number}\r\n")).collect();
    let from_n = |words: &mut Vec<OsString>| words.insert(1, "-n".into());
    for relayed in [false, true] {
        let mut words = project.enter_words(&["seq", "1", "20000"]);
        if relayed {
            from_n(&mut words);
        }
        let mut pty = Pty::run(&words);
        assert!(pty.wait().success());
        eventually("all has come", || pty.raw().len() >= expected.len());
        assert!(pty.raw() == expected.as_bytes(), "relayed: {relayed}: the output differs");

        // the last words of a command that ends at once
        for number in 0..20 {
            let mut words = enter(&project, &format!("echo last words {number}; exit 3"));
            if relayed {
                from_n(&mut words);
            }
            let mut pty = Pty::run(&words);
            assert_eq!(pty.wait().code(), Some(3));
            pty.expect(&format!("last words {number}\r\n"));
        }
    }
}

#[test]
fn nothing_is_lost_on_the_way_from_a_terminal() {
    let project = Project::new();
    project.create(&[]);
    let mut pty = Pty::run(&enter(&project, "stty -echo; echo ready; cat >copy"));
    pty.expect("ready\r\n");
    let text: String = (0..3000).map(|number| format!("line {number} of what is pasted, long enough\n")).collect();
    pty.send(&text);
    pty.send(CTRL_D);
    assert!(pty.wait().success());
    assert!(project.read("copy") == text, "the input differs");
}

#[test]
fn the_login_shell_has_job_control() {
    let project = Project::new();
    let name = project.create(&["--shell", "/bin/bash"]);
    let mut pty = Pty::sized(&[tool_file("lbx-enter").into_os_string(), project.path().into()], 24, 300);
    pty.send("PS1='inn''er> '\n");
    pty.expect("inner> ");
    pty.send("shopt -q login_shell && echo lo''gin; pwd; id -un; echo $0 $-\n");
    pty.expect(&format!("login\r\n{}\r\n{name}\r\n-bash ", project.str()));
    pty.send("sleep 1000\n");
    eventually("it sleeps", || running(&project, "sleep 1000") == 1);
    pty.send(CTRL_Z);
    pty.expect("Stopped");
    pty.send("bg; jobs\n");
    pty.expect("Running");
    pty.send("fg\n");
    pty.expect("sleep 1000\r\n");
    // bash names the command before it gives it the terminal, and misses the key between the two
    eventually("it has the terminal", || has_terminal(&project, "sleep"));
    pty.send(CTRL_C);
    pty.expect("inner> ");
    pty.send("echo status $?.\n");
    pty.expect("status 130.");
    pty.send("exit 6\n");
    assert_eq!(pty.wait().code(), Some(6));
    let text = String::from_utf8_lossy(&pty.raw()).into_owned();
    for complaint in ["no job control", "cannot set terminal", "rror", "not found", "denied", "I have no name"] {
        assert!(!text.contains(complaint), "{text}");
    }
}

#[test]
fn a_first_zsh_greets_with_a_prompt() {
    if !installed(&["zsh"]) {
        return;
    }
    let project = Project::new();
    let name = project.create(&[]);
    assert!(project.record()["shell"].as_str().unwrap().ends_with("/zsh"), "zsh is the shell where it is installed");
    let mut pty = Pty::sized(&[tool_file("lbx-enter").into_os_string(), project.path().into()], 40, 200);
    pty.until("a prompt", |text| text.contains('%') || text.contains('$') || text.contains("zsh-newuser-install"));
    pty.send("[[ -o login && -o monitor ]] && echo lo''gin \"$USERNAME\"\n");
    pty.until("an answer", |text| text.contains(&format!("login {name}")));
    pty.send("exit 6\n");
    assert_eq!(pty.wait().code(), Some(6));
    let text = String::from_utf8_lossy(&pty.raw()).into_owned();
    assert!(!text.contains("newuser") && !text.contains("can't"), "{text}");
}

/// The screen of `words` after `keys`, each followed by the wait for a text: as a person sees it,
/// with colours and the cursor.
fn screen(words: &[OsString], keys: &[(&str, &str)], quit: &str) -> Vec<(String, Vec<u8>, (u16, u16))> {
    let mut pty = Pty::sized(words, 30, 90);
    let mut screens = Vec::new();
    for (key, text) in keys {
        pty.send(key);
        pty.until(text, |screen| screen.contains(text));
        // what is drawn behind that text
        let mut last = (String::new(), Vec::new(), (0, 0));
        eventually("the screen is at rest", || {
            std::thread::sleep(Duration::from_millis(150));
            let screen = pty.screen();
            let now = (screen.contents(), screen.contents_formatted(), screen.cursor_position());
            std::mem::replace(&mut last, now.clone()) == now
        });
        screens.push(last);
    }
    pty.send(quit);
    assert!(pty.wait().success());
    eventually("the screen is given back", || !pty.screen().alternate_screen());
    screens
}

fn draws_the_same(project: &Project, words: &[&str], keys: &[(&str, &str)], quit: &str) {
    // from the same directory: some programs shorten paths by it
    let words = [&["env", "-C", project.str()], words].concat();
    let outside = screen(&words.iter().map(Into::into).collect::<Vec<_>>(), keys, quit);
    let inside = screen(&project.enter_words(&words), keys, quit);
    for ((key, _), (outside, inside)) in keys.iter().zip(outside.iter().zip(&inside)) {
        assert_eq!(outside.0, inside.0, "after {key:?}");
        assert!(outside == inside, "colours or cursor differ after {key:?}");
    }
}

/// A project with a file that is longer and wider than a screen.
fn project_with_text() -> (Project, String) {
    let project = Project::new();
    project.create(&[]);
    let text: String = (1..=300).map(|n| format!("line {n} ä日本 {}\n", "-".repeat(n % 150))).collect();
    project.write("text.txt", &text);
    let file = format!("{}/text.txt", project.str());
    (project, file)
}

#[test]
fn vim_is_drawn_as_outside() {
    if !only_at(&HERE, ANOTHER_PROGRAM) || !installed(&["vim"]) {
        return;
    }
    let (project, file) = project_with_text();
    let keys = [
        ("", "line 1 "),
        ("100Gzt", "line 100 "),
        (":set number hlsearch | syntax on\r/line 123\r", "123 line 123"),
        ("oinserted\x1bu:split\r", "text.txt"),
    ];
    draws_the_same(&project, &["vim", "-u", "NONE", "-i", "NONE", "-N", "-n", &file], &keys, ":qa!\r");
}

#[test]
fn less_is_drawn_as_outside() {
    if !only_at(&HERE, ANOTHER_PROGRAM) || !installed(&["less"]) {
        return;
    }
    let (project, file) = project_with_text();
    let keys = [("", "line 1 "), ("/line 200\r", "line 200"), ("G", "line 300"), ("-N\r", "300 line 300")];
    draws_the_same(&project, &["less", &file], &keys, "q");
}

#[test]
fn htop_is_drawn_as_outside() {
    if !only_at(&HERE, ANOTHER_PROGRAM) || !installed(&["htop"]) {
        return;
    }
    let project = Project::new();
    project.create(&[]);
    // it shows other processes, but the same frame
    let frame = |words: &[OsString]| {
        let screens = screen(words, &[("", "10Quit"), ("\x1b[B", "10Quit")], "q");
        let text = screens[0].0.clone();
        let header = text.lines().find(|line| line.contains("PID")).map(str::to_owned);
        let keys = text.lines().last().map(str::to_owned);
        assert!(text.contains("Load average"), "{text}");
        (header, keys)
    };
    let outside = frame(&["htop".into(), "-d".into(), "100".into()]);
    assert!(outside.0.is_some());
    assert_eq!(frame(&project.enter_words(&["htop", "-d", "100"])), outside);
}

#[test]
fn the_terminal_inside_is_the_environments_own() {
    let project = Project::new();
    let name = project.create(&[]);
    let pty = Pty::sized(
        &enter(&project, "tty; stat -c %U $(tty); ls -1 /dev/pts; stat -Lc %d /dev/pts; exec sleep 1000"),
        24,
        200,
    );
    pty.expect(&format!("/dev/pts/0\r\n{name}\r\n0\r\nptmx\r\n"));
    let inside = pty.expect("\r\n");
    let outside = lbx_tests::host("stat -Lc %d /dev/pts");
    assert_ne!(inside.trim(), outside.trim(), "the file system of the caller's terminals");
    // a second shell has another one
    let second = Pty::run(&enter(&project, "tty"));
    second.expect("/dev/pts/1\r\n");
}

#[test]
fn the_callers_terminal_cannot_be_reached_from_inside() {
    let project = Project::new();
    project.create(&[]);
    // every descriptor of every process that can be looked at: its device, kind and name
    let look = "for fd in /proc/[0-9]*/fd/*; do stat -Lc '%d %F' $fd && readlink $fd; done 2>/dev/null; :";
    let outside = lbx_tests::host("stat -Lc %d /dev/pts").trim().to_owned();
    let shells = [("", "all of its own terminal"), ("</dev/null", "a relayed pipe"), ("| cat", "a pipe")];
    for (streams, what) in shells {
        let pty = shell();
        type_line(&pty, &enter(&project, "echo re''ady; exec sleep 1000"), streams);
        pty.expect("ready");
        // as the same account, and as the command itself would
        let text = project.sh(look);
        assert!(text.contains("character special file"), "{what}: nothing was looked at: {text}");
        for line in text.lines() {
            assert!(!line.starts_with(&format!("{outside} ")), "{what}: the caller's terminal: {text}");
            assert!(!line.contains(" directory") || line.contains("/proc"), "{what}: a directory: {text}");
        }
    }
    let pty = Pty::run(&enter(&project, "ls /dev/console /dev/tty0 /dev/tty1 /dev/ttyS0 /dev/vcs; echo end"));
    assert_eq!(pty.expect("end").matches("No such file").count(), 5);
}

#[test]
fn the_callers_environment_cannot_be_read_from_inside() {
    let project = Project::new();
    project.create(&[]);
    let pty = shell();
    pty.send("export SECRET=lbx-caller''s-secret\n");
    pty.expect("outer> ");
    type_line(&pty, &enter(&project, "echo re''ady; exec sleep 1000"), "");
    pty.expect("ready\r\n");
    // the monitor is a copy of lbx-enter that nothing was executed in
    let text = project.sh("cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; :");
    assert!(text.contains("LBX_ENV=") && !text.contains("lbx-callers-secret"), "{text}");
}

#[test]
fn nothing_can_be_typed_for_the_caller() {
    let project = Project::new();
    project.create(&[]);
    executable(env!("CARGO_BIN_EXE_attempt"), project.path().join("attempt"));
    for option in [None, Some("-n")] {
        let mut words = project.enter_words(&["./attempt", "tiocsti", "tiocsti-high", "tioclinux", "tioclinux-high"]);
        words.splice(1..1, option.map(Into::into));
        let mut pty = Pty::run(&words);
        pty.expect("tiocsti EPERM\r\ntiocsti-high EPERM\r\ntioclinux EPERM\r\ntioclinux-high EPERM\r\n");
        assert!(pty.wait().success());
    }
}

#[test]
fn background_processes_outlive_the_shell_until_stop() {
    let project = Project::new();
    project.create(&["--shell", "/bin/bash"]);
    let mut pty = Pty::run(&[tool_file("lbx-enter").into_os_string(), project.path().into()]);
    pty.send("PS1='inn''er> '\n");
    pty.expect("inner> ");
    pty.send("sleep 4321 &\n");
    pty.expect("inner> ");
    pty.send("exit\n");
    assert!(pty.wait().success());
    drop(pty);
    std::thread::sleep(scaled(Duration::from_millis(300)));
    assert_eq!(running(&project, "sleep 4321"), 1);
    assert_eq!(project.sh("echo still here"), "still here\n");
    project.must("stop");
    assert_eq!(running(&project, "sleep 4321"), 0);
}

#[test]
fn closing_the_terminal_ends_the_foreground() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let project = Project::new();
    project.create(&[]);
    project.must("start");
    for script in ["exec sleep 1234", "trap 'echo hung up >told; exit' HUP; touch ready; while :; do sleep 0.02; done"]
    {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = || std::fs::File::options().read(true).write(true).open(&name).unwrap();
        let mut setsid = std_command("setsid");
        setsid.arg("--ctty").args(enter(&project, script)).stdin(slave()).stdout(slave()).stderr(slave());
        let mut child = setsid.spawn().unwrap();
        drop(setsid);
        let count = || running(&project, "sleep 1234") + usize::from(project.path().join("ready").exists());
        eventually("the command runs", || count() > 0);
        drop(master);
        eventually("the tool ends", || child.try_wait().unwrap().is_some());
        eventually("the command ends", || running(&project, "sleep") == 0);
    }
    assert_eq!(project.read("told"), "hung up\n");
}

#[test]
fn a_tool_that_is_killed_hangs_its_command_up() {
    let project = Project::new();
    project.create(&[]);
    let pty = watched(&enter(&project, "echo ready; exec sleep 1234"));
    pty.send("\n");
    pty.expect("ready");
    kill(child_of(&pty), Signal::SIGKILL).unwrap();
    pty.expect("ended 137.");
    eventually("the command ends", || running(&project, "sleep 1234") == 0);
}

#[test]
fn end_of_file_is_typed() {
    let project = Project::new();
    project.create(&[]);
    let mut pty = Pty::run(&project.enter_words(&["cat"]));
    pty.send("abc\n");
    pty.expect("abc\r\nabc\r\n");
    pty.send(CTRL_D);
    assert!(pty.wait().success());
}

#[test]
fn several_terminals_at_once() {
    let project = Project::new();
    project.create(&[]);
    let terminals: Vec<Pty> =
        (0..10).map(|n| Pty::run(&enter(&project, &format!("read x; echo {n} has $x; exit {n}")))).collect();
    for (number, pty) in terminals.iter().enumerate() {
        pty.send(format!("word-{number}\n"));
    }
    for (number, mut pty) in terminals.into_iter().enumerate() {
        pty.expect(&format!("{number} has word-{number}\r\n"));
        assert_eq!(pty.wait().code(), i32::try_from(number).ok());
    }
}
