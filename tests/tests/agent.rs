//! The caller's ssh agent inside: to list keys and to sign, for one call, and nothing else.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use lbx_tests::machine::exists;
use lbx_tests::{
    Command, Place, Project, User, command, eventually, host, installed, near, only_at, project, text, tool,
};

/// The requests of the agent's protocol (draft-ietf-sshm-ssh-agent) that pass, and their answers.
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
const FAILURE: &str = "05";

/// A real ssh-agent with one key, of root or of `user`. It ends when this is dropped.
struct Agent {
    dir: PathBuf,
    child: Child,
}

impl Agent {
    fn of(user: Option<&User>) -> Agent {
        let dir = tempfile::Builder::new().prefix("agent").tempdir_in(project::root()).expect("a directory").keep();
        if let Some(user) = user {
            std::os::unix::fs::chown(&dir, Some(user.uid), Some(user.gid)).expect("root may chown");
        }
        let (program, words) = Self::words("ssh-agent", user);
        let mut agent = lbx_tests::std_command(program);
        agent.args(words).arg("-D").arg("-a").arg(dir.join("socket")).stdout(Stdio::null());
        let agent = Agent { child: agent.spawn().expect("ssh-agent is installed"), dir };
        eventually("the agent listens", || agent.socket().exists());
        let key = agent.dir.join("key");
        agent
            .run(user, "ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "lbx-test-key", "-f"])
            .arg(&key)
            .assert()
            .success();
        agent.run(user, "ssh-add").arg("-q").arg(&key).assert().success();
        agent
    }

    fn words(program: &str, user: Option<&User>) -> (String, Vec<String>) {
        match user {
            None => (program.to_owned(), Vec::new()),
            Some(user) => {
                let mut words = user.words().to_vec();
                words.push(program.to_owned());
                (words.remove(0), words)
            }
        }
    }

    fn run(&self, user: Option<&User>, program: &str) -> Command {
        let (program, words) = Self::words(program, user);
        let mut command = command(program);
        command.args(words).env("SSH_AUTH_SOCK", self.socket());
        command
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    fn public_key(&self) -> String {
        std::fs::read_to_string(self.dir.join("key.pub")).expect("ssh-keygen writes it")
    }

    /// What the agent itself answers: exactly the key that it was given.
    fn is_untouched(&self) {
        let list = text(self.run(None, "ssh-add").arg("-L").assert().success());
        assert_eq!(list, self.public_key());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// `lbx-enter -A` with the caller's agent at `socket`, and `script`.
fn with_agent(project: &Project, socket: &Path, script: &str) -> Command {
    let mut enter = tool("lbx-enter");
    enter.env("SSH_AUTH_SOCK", socket).arg("-A").arg(project.path()).args(["--", "sh", "-euc", script]);
    enter
}

/// perl that sends to the agent inside each of its arguments, a message in hexadecimal, on a
/// connection of its own, and prints the answer's type in hexadecimal, or `closed`.
const ASK: &str = r#"
    use Socket; $| = 1; alarm 20;
    for my $message (@ARGV) {
        socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die; connect($s, sockaddr_un($ENV{SSH_AUTH_SOCK})) or die "connect: $!";
        $SIG{PIPE} = "IGNORE"; syswrite($s, pack("H*", $message));
        my $head = ""; while (length $head < 5) { last unless sysread($s, $head, 5 - length $head, length $head); }
        print length $head == 5 ? unpack("H2", substr($head, 4)) : "closed", "\n";
    }"#;

#[test]
fn the_callers_key_is_listed_and_signs() {
    let project = Project::new();
    project.create(&[]);
    let agent = Agent::of(None);
    let list = with_agent(&project, &agent.socket(), "ssh-add -L");
    let list = { list }.assert().success();
    assert_eq!(text(list), agent.public_key());

    project.write("key.pub", &agent.public_key());
    project.write("message", "to be signed\n");
    let sign = "ssh-keygen -q -Y sign -f key.pub -n lbx-test message; ssh-keygen -Y check-novalidate -n lbx-test -s message.sig <message";
    with_agent(&project, &agent.socket(), sign).assert().success();
    project.write("signers", &format!("me@example.com {}", agent.public_key()));
    near(&format!(
        "cd {}; ssh-keygen -Y verify -f signers -I me@example.com -n lbx-test -s message.sig <message",
        project.str()
    ));
    agent.is_untouched();
}

#[test]
fn git_signs_inside_with_the_callers_key() {
    let project = Project::new();
    project.create(&["--git", "user.name=A B", "--git", "user.email=ab@example.com"]);
    let agent = Agent::of(None);
    project.write("key.pub", &agent.public_key());
    let script = "git init -q; git -c gpg.format=ssh -c user.signingkey=key.pub commit -q -S --allow-empty -m signed; git cat-file -p HEAD";
    let commit = text(with_agent(&project, &agent.socket(), script).assert().success());
    assert!(commit.contains("BEGIN SSH SIGNATURE") && commit.contains("A B <ab@example.com>"), "{commit}");
}

#[test]
fn keys_can_be_neither_added_nor_removed() {
    let project = Project::new();
    project.create(&[]);
    let agent = Agent::of(None);
    project.write("key.pub", &agent.public_key());
    with_agent(&project, &agent.socket(), "ssh-keygen -q -t ed25519 -N '' -f ~/other").assert().success();
    for forbidden in ["ssh-add -q ~/other", "ssh-add -q -t 60 ~/other", "ssh-add -D", "ssh-add -d key.pub"] {
        let output = with_agent(&project, &agent.socket(), forbidden).output().unwrap();
        assert!(!output.status.success(), "{forbidden}: {output:?}");
        agent.is_untouched();
    }
}

#[test]
fn every_other_request_is_refused() {
    if !installed(&["perl"]) {
        return;
    }
    let project = Project::new();
    project.create(&[]);
    let agent = Agent::of(None);
    project.write("ask", ASK);
    let ask = |messages: &[String]| {
        let script = format!("perl ask {}", messages.join(" "));
        text(with_agent(&project, &agent.socket(), &script).assert().success())
    };
    // a lock with the passphrase `x`, of every other type too: what it means differs, that it is refused does not
    let messages: Vec<String> = (0..=255).map(|kind: u8| format!("00000006{kind:02x}0000000178")).collect();
    let answers = ask(&messages);
    assert_eq!(answers.lines().count(), 256, "{answers}");
    for (kind, answer) in (0..=255).zip(answers.lines()) {
        match kind {
            // the agent itself answers these two, whatever follows
            REQUEST_IDENTITIES => assert!(["0c", FAILURE].contains(&answer), "{answer}"),
            SIGN_REQUEST => assert_eq!(answer, FAILURE),
            _ => assert!([FAILURE, "closed"].contains(&answer), "request {kind}: {answer}"),
        }
    }
    agent.is_untouched();

    // several on one connection: what follows a good one is looked at too
    let pair = format!("00000001{REQUEST_IDENTITIES:02x}00000001130000000613");
    assert_eq!(ask(&[pair]), "0c\n");
    agent.is_untouched();

    // lengths that lie
    let lies = ["ffffffff0b", "000000000b", "7fffffff0d00", "00000000"].map(str::to_owned);
    for answer in ask(&lies).lines() {
        assert!([FAILURE, "closed"].contains(&answer), "{answer}");
    }
    assert_eq!(ask(&[format!("00000001{REQUEST_IDENTITIES:02x}")]), "0c\n");
    agent.is_untouched();
}

#[test]
fn without_the_option_there_is_no_agent_inside() {
    let project = Project::new();
    project.create(&[]);
    let agent = Agent::of(None);
    let look = "echo \"${SSH_AUTH_SOCK-unset}\"; find / -path /proc -prune -o -path /usr -prune -o -type s -print 2>/dev/null || :";
    let mut enter = project.enter(["sh", "-euc", look]);
    enter.env("SSH_AUTH_SOCK", agent.socket()).assert().success().stdout("unset\n");

    // naming the variable passes the name of a socket that is not there
    let mut enter = tool("lbx-enter");
    enter.env("SSH_AUTH_SOCK", agent.socket()).args(["--env", "SSH_AUTH_SOCK"]).arg(project.path());
    enter.args(["--", "ssh-add", "-l"]).assert().code(2);
}

#[test]
fn the_agent_is_one_environments_for_one_call() {
    let project = Project::new();
    project.create(&[]);
    let other = Project::new();
    other.create(&[]);
    let agent = Agent::of(None);
    let script = r#"echo "$SSH_AUTH_SOCK" >socket; stat -c %A "$SSH_AUTH_SOCK" >mode; : >ready
                    while [ ! -e go ]; do sleep 0.02; done; ssh-add -l"#;
    let running = {
        let mut enter = lbx_tests::std_command(lbx_tests::tool_file("lbx-enter"));
        enter.env("SSH_AUTH_SOCK", agent.socket()).arg("-A").arg(project.path()).args(["--", "sh", "-euc", script]);
        enter.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
    };
    eventually("the agent is inside", || project.path().join("ready").exists());
    let socket = project.read("socket").trim().to_owned();
    assert!(socket.starts_with("/run/lbx/agent."), "{socket}");
    let mode = project.read("mode");
    // to write is to connect
    assert!(!mode[5..].contains('w'), "{mode}");
    // neither in another environment nor on the machine
    let look = format!("test ! -e {socket} || exit 9; find /run /tmp /dev/shm -type s");
    assert_eq!(other.sh(&look), "");
    assert!(!exists(&socket));
    // another shell of the same environment is not told of it
    assert_eq!(project.sh("echo \"${SSH_AUTH_SOCK-unset}\""), "unset\n");
    // and two calls do not share one
    let second = text(with_agent(&project, &agent.socket(), "echo $SSH_AUTH_SOCK; ssh-add -l").assert().success());
    assert!(!second.starts_with(&format!("{socket}\n")) && second.contains("lbx-test-key"), "{second}");

    project.write("go", "");
    let output = running.wait_with_output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("lbx-test-key"), "{output:?}");
    assert_eq!(project.sh("find /run/lbx -type s 2>/dev/null || :"), "", "a socket is left");
}

#[test]
fn a_link_to_the_socket_does_not_outlive_the_call() {
    let agent = Agent::of(None);
    let project = Project::new();
    project.create(&[]);
    with_agent(&project, &agent.socket(), "ln $SSH_AUTH_SOCK /run/lbx/keep; ssh-add -l").assert().success();
    project.enter(["env", "SSH_AUTH_SOCK=/run/lbx/keep", "ssh-add", "-l"]).assert().code(2).stdout("");
    let relays = || host(&format!("pgrep -fc '[l]bx-enter.*{}' || :", project.str()));
    eventually("no relay is left", || relays() == "0\n");
}

#[test]
fn many_programs_ask_at_once() {
    let project = Project::new();
    project.create(&[]);
    let agent = Agent::of(None);
    let script = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do ssh-add -l & done; wait";
    let list = text(with_agent(&project, &agent.socket(), script).assert().success());
    assert_eq!(list.matches("lbx-test-key").count(), 20, "{list}");
    // and one that asks nothing keeps nobody waiting
    if installed(&["perl"]) {
        let silent = r#"perl -MSocket -e 'socket(my $s, AF_UNIX, SOCK_STREAM, 0); connect($s, sockaddr_un($ENV{SSH_AUTH_SOCK}));
                        syswrite($s, "\0\0"); system("timeout", "5", "ssh-add", "-l") and exit 1'"#;
        let list = text(with_agent(&project, &agent.socket(), silent).assert().success());
        assert!(list.contains("lbx-test-key"));
    }
}

#[test]
fn no_agent_outside_is_none_inside() {
    let project = Project::new();
    project.create(&[]);
    let script = "ssh-add -l >/dev/null 2>&1 || echo \"status $?\"";
    let mut enter = tool("lbx-enter");
    enter.arg("-A").arg(project.path()).args(["--", "sh", "-c", script]).assert().success().stdout("status 2\n");
    for nowhere in ["", "/srv/no-such-socket", "/etc/passwd"] {
        with_agent(&project, Path::new(nowhere), script).assert().success();
    }
}

#[test]
fn the_agent_of_an_ordinary_user_is_reached_through_sudo() {
    if !only_at(&[Place::Local], "sudo is a step of this machine") {
        return;
    }
    let user = User::sudoer();
    let project = Project::owned_by(&user);
    project.create(&[]);
    let agent = Agent::of(Some(&user));
    let list = |socket: &Path| {
        let mut enter = user.tool("lbx-enter");
        enter.env("SSH_AUTH_SOCK", socket).arg("-A").arg(project.path()).args(["--", "ssh-add", "-L"]);
        enter.output().unwrap()
    };
    let output = list(&agent.socket());
    assert_eq!(String::from_utf8_lossy(&output.stdout), agent.public_key(), "{output:?}");
    agent.is_untouched();

    // it is reached as the caller: another's agent is none
    let roots = Agent::of(None);
    let output = list(&roots.socket());
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn known_hosts_of_the_forges_come_with_it() {
    let project = Project::new();
    project.create(&[]);
    let agent = Agent::of(None);
    for forge in ["github.com", "gitlab.com", "bitbucket.org"] {
        let script = format!(
            "for file in $(ssh -G {forge} | sed -n 's/^[a-z]*knownhostsfile //p'); do \
             ! test -r \"$file\" || ssh-keygen -F {forge} -f \"$file\" || :; done"
        );
        let known = text(with_agent(&project, &agent.socket(), &script).assert().success());
        assert!(known.contains("ssh-ed25519 "), "{forge}: {known}");
    }
}
