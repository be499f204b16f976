//! Attacks of one environment on another, and on the person whose uid it may have: two of one uid are as
//! far apart as any two.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use lbx_tests::place::HERE;
use lbx_tests::{Project, User, executable, host, installed, only_at, skip, std_command, text, tool_file};

/// Why two environments of one uid are made here alone.
const OVERLAY: &str = "an overlay is mounted for the test";

/// A program that runs until this is dropped, and what it prints.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    fn of(mut command: std::process::Command) -> Running {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut running = Running { child, out };
        assert_eq!(running.line(), "ready");
        running
    }

    fn inside(project: &Project, options: &[&str], words: &[&str]) -> Running {
        let mut enter = std_command(tool_file("lbx-enter"));
        enter.args(options).arg("--").arg(project.path()).args(words);
        Running::of(enter)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// All lines up to `done`.
    fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| Some(self.line()).filter(|line| line != "done" && !line.is_empty())).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// Two projects of one person where no ids can be mapped, so that both environments have the person's uid.
fn of_one_uid(ada: &User) -> Option<[Project; 2]> {
    let projects = [Project::owned_by(ada), Project::owned_by(ada)];
    for project in &projects {
        host(&format!(
            "cd '{}'; mkdir lower upper work; mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay app; \
             chown {}:{} app",
            project.base().display(),
            ada.uid,
            ada.gid
        ));
        project.create(&[]);
        if !project.shares_uid() {
            skip("this kernel maps ids on an overlay");
            return None;
        }
        executable(env!("CARGO_BIN_EXE_hunt"), project.path().join("hunt"));
    }
    Some(projects)
}

fn token(project: &Project) -> String {
    format!("lbx-test-{}-{}", std::process::id(), project.name())
}

#[test]
fn a_socket_gives_nothing_of_the_process_at_its_other_end() {
    if !only_at(&HERE, OVERLAY) {
        return;
    }
    let ada = User::new();
    let Some([a, b]) = of_one_uid(&ada) else { return };
    let (secret, hunt) = (ada.home().join("secret"), ada.home().join("hunt"));
    ada.sh(&format!("umask 077; echo hers >'{}'", secret.display()));
    executable(env!("CARGO_BIN_EXE_hunt"), &hunt);
    b.write("secret", "the other's\n");
    let name = token(&a);
    // a program of the other environment, and one of the person's own, that talk to what they take for another's
    for outside in [false, true] {
        let mut listener = Running::inside(&a, &[], &["./hunt", "listen", &name]);
        let _caught = match outside {
            false => Running::inside(&b, &[], &["./hunt", "connect", &name, "secret"]),
            true => {
                let mut words = std_command(&ada.words()[0]);
                words.args(&ada.words()[1..]).arg(&hunt).args(["connect", &name]).arg(&secret);
                Running::of(words)
            }
        };
        let told = listener.rest();
        assert!(!told.is_empty(), "it has met somebody");
        assert!(!told.iter().any(|line| line.starts_with("took")), "outside: {outside}: {told:?}");
    }
}

#[test]
fn two_environments_of_one_uid_do_not_reach_each_other() {
    if !only_at(&HERE, OVERLAY) || !installed(&["ssh-agent", "ssh-add", "python3"]) {
        return;
    }
    let ada = User::new();
    let Some([a, b]) = of_one_uid(&ada) else { return };
    assert_eq!(a.sh("id -u"), b.sh("id -u"));
    assert_eq!(a.sh("id -u").trim(), ada.uid.to_string());
    // everything of a's that has a name or a number
    let mut agent = std_command("sh");
    let socket = ada.home().join("agent");
    agent.args(["-c", &format!("echo ready; exec ssh-agent -D -a '{}' >/dev/null", socket.display())]);
    let _agent = Running::of(agent);
    lbx_tests::eventually("the agent listens", || socket.exists());
    let lay = "echo secret-of-a >~/marker; echo secret-of-a >/tmp/marker; echo secret-of-a >/dev/shm/marker; \
               echo secret-of-a >marker; ipcmk -M 4096 -p 666 >/dev/null; ipcmk -Q -p 666 >/dev/null; \
               ipcmk -S 1 -p 666 >/dev/null; \
               python3 -c 'import ctypes; c = ctypes.CDLL(None); print(c.mq_open(b\"/lbx-marker\", 0o102, 0o666, None) >= 0 and \"queue\", flush=True)'; \
               echo ready; exec sleep 9753";
    let mut enter = std_command(tool_file("lbx-enter"));
    enter.env("SSH_AUTH_SOCK", &socket).arg("-A").arg(a.path()).args(["--", "sh", "-c", lay]);
    let mut child = enter.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    for expected in ["queue\n", "ready\n"] {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, expected);
    }
    let sleeps = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[s]leep 9753' || :";
    assert_eq!(a.sh(sleeps), "1\n");
    assert_eq!(a.sh("ls /run/lbx/ | grep -c agent || :"), "1\n");

    assert_eq!(b.sh(sleeps), "0\n");
    assert_eq!(b.sh("cat /proc/sysvipc/shm /proc/sysvipc/msg /proc/sysvipc/sem | grep -vc key || :"), "0\n");
    assert_eq!(b.sh("ls -A /dev/shm /tmp | grep -c marker || :; ls -A /run/lbx"), "0\n");
    let queue = "import ctypes; c = ctypes.CDLL(None); print(c.mq_open(b'/lbx-marker', 2))";
    assert_eq!(text(b.enter(["python3", "-c", queue]).assert().success()), "-1\n");
    let look = format!(
        "set +e; cat ~/marker marker /home/{0}/marker '{1}/marker' /proc/[0-9]*/root/home/{0}/marker 2>/dev/null; \
         cat '{2}' /home/{3}/* 2>/dev/null; ls -A /home; :",
        a.name(),
        a.str(),
        socket.display(),
        ada.name
    );
    let seen = b.sh(&look);
    assert!(!seen.contains("secret-of-a") && !seen.contains(&a.name()), "{seen}");
    // signals to every number and to all, by the same uid
    assert_eq!(text(b.enter(["./hunt", "signals"]).assert().success()), "parent 0\ndone\n");
    let _ = b.enter(["sh", "-c", "kill -KILL -1"]).output();
    assert_eq!(a.sh(sleeps), "1\n");
    // nor does the person's own process of that uid get one
    let mut own = std_command(&ada.words()[0]);
    own.args(&ada.words()[1..]).args(["sh", "-c", "echo ready; exec sleep 9754"]);
    let mut own = Running::of(own);
    let _ = b.enter(["sh", "-c", "kill -KILL -1"]).output();
    assert!(own.child.try_wait().unwrap().is_none(), "it lives");
    let _ =
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), nix::sys::signal::Signal::SIGTERM);
    let _ = child.wait();
    for project in [&a, &b] {
        project.must("stop");
    }
}
