//! One command in an environment that runs.

use std::ffi::OsString;
use std::process::{Child, Command, Stdio};

use lbx_tests::{Project, eventually, tool_file};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};

use crate::Figure;
use crate::pairs::{pairs, run, run_piped};
use crate::peers::{bwrap, cannot, holder, makers, nsenter};

/// With the names of two figures, of starting it and of its size.
const TOOLS: [(&str, &str, &str); 7] = [
    ("lbx-enter", "cold-enter", "size-enter"),
    ("lbx-env", "cold-env", "size-env"),
    ("lbx-ls", "cold-ls", "size-ls"),
    ("lbx-name", "cold-name", "size-name"),
    ("lbx-on", "cold-on", "size-on"),
    ("lbx-vm", "cold-vm", "size-vm"),
    ("llima-box", "cold-llima-box", "size-llima-box"),
];

pub(crate) fn figures() -> Vec<Figure> {
    let project = Project::new();
    project.create(&[]);
    project.must("start");
    let ours = project.enter_words(&["true"]);
    let peer = nsenter(&project, &["true"]);
    let mut figures = vec![
        Figure::ratio(
            "enter",
            "`lbx-enter ENV -- true` | nsenter and setpriv (same namespaces; no filter, limits, keyring, session)",
            Some(0.5),
            pairs(200, || run(&ours), || run(&peer)),
        ),
        Figure::ratio(
            "enter-pipe",
            "the same, its output into a pipe | the same",
            Some(0.5),
            pairs(100, || run_piped(&ours), || run_piped(&peer)),
        ),
        on_terminals(&ours, &peer),
        with_agent(&project, &peer),
        Figure::ratio(
            "enter-at-once",
            "200 of them, 4 at a time | as many of nsenter and setpriv",
            None,
            pairs(7, || at_once(&ours), || at_once(&peer)),
        ),
    ];
    let words = bwrap(&["true"]);
    let about =
        "`lbx-enter ENV -- true` | bwrap --unshare-all (makes a network and a view anew; no account, filter, limits)";
    figures.push(match cannot(&words) {
        None => Figure::ratio("enter-bwrap", about, Some(0.45), pairs(200, || run(&ours), || run(&words))),
        Some(why) => Figure::not("enter-bwrap", about, Some(0.45), why),
    });
    for peer in makers(&project) {
        let about = format!("`lbx-enter ENV -- true` | {}", peer.about);
        figures.push(
            match cannot(&peer.words).or_else(|| {
                let why = peer.proof.as_deref().and_then(cannot)?;
                Some(format!("it takes this for a sandbox, and makes none: {why}"))
            }) {
                None => Figure::ratio(peer.name, about, None, pairs(25, || run(&ours), || run(&peer.words))),
                Some(why) => Figure::not(peer.name, about, None, why),
            },
        );
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", holder())).expect("the holder lives");
    let field = |name: &str| -> f64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN)
    };
    let about = "resident memory of an environment's holder, most of it the program's file, which all share";
    figures.push(Figure::value("holder", about, None, field("VmRSS"), "KiB"));
    figures.push(Figure::value("holder-own", "of that what is the one holder's own", None, field("RssAnon"), "KiB"));
    for (tool, cold, size) in TOOLS {
        let file = tool_file(tool);
        let bytes = std::fs::metadata(&file).expect("a tool").len();
        figures.push(Figure::value(size, format!("size of {tool}"), None, bytes as f64 / 1024.0, "KiB"));
        let words: [OsString; 2] = [file.into(), "--version".into()];
        let compared = pairs(60, || run(&words), || run(&["/bin/true"]));
        figures.push(Figure::ratio(cold, format!("`{tool} --version` | true"), None, compared));
    }
    figures
}

fn on_terminals(ours: &[OsString], nsenter: &[OsString]) -> Figure {
    let quoted = shell_words::join(nsenter.iter().map(|word| word.to_string_lossy()));
    let script: Vec<OsString> = ["script", "-qec", &quoted, "/dev/null"].map(OsString::from).into();
    Figure::ratio(
        "enter-terminal",
        "the same, on a terminal | script -qc with nsenter and setpriv, on a terminal",
        Some(1.0),
        pairs(100, || on_terminal(ours), || on_terminal(&script)),
    )
}

/// Not by [`lbx_tests::Pty`], which looks every 10 ms whether the end has come.
fn on_terminal(words: &[OsString]) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    unlockpt(&master).expect("unlockpt");
    let name = ptsname(&master, Vec::new()).expect("ptsname");
    let slave = openat(CWD, name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("its other end");
    let end = || Stdio::from(slave.try_clone().expect("dup"));
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]).args(words).stdin(end()).stdout(end()).stderr(end());
    assert!(command.status().expect("setsid is installed").success());
}

fn with_agent(project: &Project, nsenter: &[OsString]) -> Figure {
    let about = "the same, with the caller's ssh agent relayed | nsenter and setpriv, which relay nothing";
    let socket = project.base().join("agent");
    let mut agent = match Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn() {
        Ok(agent) => Agent(agent),
        Err(e) => return Figure::not("enter-agent", about, None, format!("ssh-agent: {e}")),
    };
    eventually("the agent listens", || socket.exists());
    let mut variable = OsString::from("SSH_AUTH_SOCK=");
    variable.push(&socket);
    let with = |words: &[OsString]| -> Vec<OsString> {
        [OsString::from("env"), variable.clone()].iter().chain(words).cloned().collect()
    };
    let mut ours = project.enter_words(&["true"]);
    ours.insert(1, "-A".into());
    let (ours, peer) = (with(&ours), with(nsenter));
    let compared = pairs(100, || run(&ours), || run(&peer));
    let _ = agent.0.kill();
    Figure::ratio("enter-agent", about, None, compared)
}

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn at_once(words: &[OsString]) {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50).for_each(|_| run(words)));
        }
    });
}
