//! Killed at any instant, or refused any system call: the same command again finishes, and after
//! delete nothing is left.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use lbx_tests::machine::{self, entries, listed};
use lbx_tests::{Place, Project, command, host, installed, only_at, std_command, tool_file};

/// System calls that change what outlives a process, or make or end one.
const CHANGING: [&str; 44] = [
    "capset",
    "chmod",
    "chown",
    "clone",
    "clone3",
    "close_range",
    "copy_file_range",
    "execve",
    "exit_group",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "fcntl",
    "flock",
    "fork",
    "fsconfig",
    "fsetxattr",
    "fsmount",
    "fsopen",
    "fsync",
    "ftruncate",
    "kill",
    "linkat",
    "mkdir",
    "mkdirat",
    "mknodat",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pidfd_send_signal",
    "pivot_root",
    "rename",
    "renameat",
    "renameat2",
    "setns",
    "symlinkat",
    "syncfs",
    "umount2",
    "unlink",
    "unlinkat",
    "unshare",
    "utimensat",
];

/// Whether what is killed is what changes something: at another place that is another process, and
/// `far.rs` takes away the way to it.
fn is_killed_here() -> bool {
    only_at(&[Place::Local], "the tool that is killed changes nothing by itself")
}

/// One at a time: what is left is looked for on the whole machine.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Everything that an environment could leave behind, but for what delete is to leave: the group,
/// the holder's account and empty directories.
fn picture() -> Vec<String> {
    let mut lines = Vec::new();
    for dir in ["/etc", "/home"] {
        lines.extend(entries(dir).iter().map(|e| format!("{dir}/{e}")));
    }
    let state = "find /var/lib/llima-box /run/llima-box ! -type d -o ! -empty 2>/dev/null | sort || true";
    lines.extend(host(state).lines().map(str::to_owned));
    for file in ["passwd", "group", "shadow", "gshadow", "subuid", "subgid"] {
        let text = std::fs::read_to_string(Path::new("/etc").join(file)).unwrap_or_default();
        lines.extend(text.lines().map(|l| format!("{file}: {l}")));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    lines.extend(mounts.lines().map(|l| l.split(' ').skip(3).take(3).collect::<Vec<_>>().join(" ")));
    for cgroups in ["/sys/fs/cgroup/llima-box", "/sys/fs/cgroup/unified/llima-box"] {
        let below = entries(cgroups).into_iter().filter(|e| Path::new(cgroups).join(e).is_dir());
        lines.extend(below.map(|e| format!("{cgroups}/{e}")));
    }
    lines.extend(processes_elsewhere());
    lines
}

/// Processes in other mount namespaces than this one: of environments, all of them.
fn processes_elsewhere() -> Vec<String> {
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    let is_elsewhere = |pid: &String| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|ns| ns != own);
    let said = |pid: String| {
        let argv = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!("process {}", argv.replace('\0', " "))
    };
    entries("/proc").into_iter().filter(|e| e.parse::<u32>().is_ok()).filter(is_elsewhere).map(said).collect()
}

/// What the machine looks like without environments, once there has been one.
fn untouched() -> &'static [String] {
    static UNTOUCHED: OnceLock<Vec<String>> = OnceLock::new();
    UNTOUCHED.get_or_init(|| {
        let project = Project::new();
        project.create(&[]);
        project.sh("true");
        project.must("delete");
        drop(project);
        picture()
    })
}

/// What is killed: `lbx-env VERB` on an environment that is there as far as VERB needs it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verb {
    Create,
    Start,
    Stop,
    Delete,
}

const VERBS: [Verb; 4] = [Verb::Create, Verb::Start, Verb::Stop, Verb::Delete];

/// Of what is made and removed, all that there is.
const OPTIONS: [&str; 4] = ["--private", "target", "--project", "cow"];

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Delete => "delete",
        }
    }

    /// Makes what the verb finds.
    fn prepare(self, project: &Project) {
        if self == Verb::Create {
            return;
        }
        project.create(&OPTIONS);
        if self == Verb::Stop || self == Verb::Delete {
            project.sh("mkdir -p ~/a/b; echo x >~/a/file; echo y >target/z; (sleep 8000 >/dev/null 2>&1 </dev/null &)");
        }
    }

    fn words(self, project: &Project) -> Vec<String> {
        let mut words = vec![tool_file("lbx-env").display().to_string(), self.word().to_owned()];
        if self == Verb::Create {
            words.extend(OPTIONS.map(str::to_owned));
        }
        words.push(project.str().to_owned());
        words
    }

    /// After an interruption: the command again, or repair first, or delete at once, finish it;
    /// then nothing is left.
    fn finishes(self, project: &Project, name: &str, round: usize, what: &dyn Debug) {
        let again = |words: &[String]| {
            let output = command(&words[0]).args(&words[1..]).output().unwrap();
            assert!(output.status.success(), "{self:?} after {what:?}: {words:?}: {output:?}");
        };
        let env = |verb: &str| again(&[tool_file("lbx-env").display().to_string(), verb.to_owned(), name.to_owned()]);
        if round % 3 == 1 && listed(name).is_some() {
            env("repair");
            let state = listed(name).map(|object| object["state"].clone());
            assert_ne!(state, Some("broken".into()), "{self:?} after {what:?}: repair left it broken");
        }
        if round % 3 != 2 && (self != Verb::Delete || listed(name).is_some()) {
            again(&self.words(project));
            let state = listed(name).map(|object| object["state"].as_str().unwrap().to_owned());
            let expected = match self {
                Verb::Create | Verb::Stop => Some("stopped"),
                Verb::Start => Some("running"),
                Verb::Delete => None,
            };
            assert_eq!(state.as_deref(), expected, "{self:?} after {what:?}");
            if self != Verb::Delete {
                let inside = project.enter(["sh", "-c", "id -un; echo y >target/y"]).output().unwrap();
                assert_eq!(String::from_utf8_lossy(&inside.stdout).trim(), name, "{self:?} after {what:?}: {inside:?}");
            }
        }
        again(&[tool_file("lbx-env").display().to_string(), "delete".into(), "-f".into(), name.to_owned()]);
        // by its path too: a half-made one is found by neither or both
        again(&[tool_file("lbx-env").display().to_string(), "delete".into(), "-f".into(), project.str().to_owned()]);
        host(&format!("rm -rf '{}/target'", project.str()));
        nothing_is_left(&format!("{self:?} after {what:?}"));
    }
}

fn nothing_is_left(what: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let (now, before) = (picture(), untouched());
        if now == before {
            return;
        }
        if Instant::now() > deadline {
            let more: Vec<_> = now.iter().filter(|l| !before.contains(l)).collect();
            let less: Vec<_> = before.iter().filter(|l| !now.contains(l)).collect();
            panic!("{what}: left {more:#?}, missing {less:#?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A system call of the tool: its name, and which of its process's calls of that name it is.
type Call = (String, usize);

fn calls(verb: Verb) -> (BTreeSet<Call>, usize) {
    let project = Project::new();
    verb.prepare(&project);
    calls_of(&project.base().join("strace"), &verb.words(&project))
}

/// The calls of `words` that change something, of all processes of an undisturbed run, and how many calls
/// the busiest process makes.
fn calls_of(log: &Path, words: &[String]) -> (BTreeSet<Call>, usize) {
    let output = traced(log, &[], words);
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(log).unwrap();
    let mut counts: HashMap<(&str, &str), usize> = HashMap::new();
    let mut totals: HashMap<&str, usize> = HashMap::new();
    let mut changing = BTreeSet::new();
    for line in text.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let Some((call, arguments)) = rest.split_once('(') else { continue };
        if !call.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
            continue;
        }
        *totals.entry(pid).or_default() += 1;
        let count = counts.entry((pid, call)).or_default();
        *count += 1;
        let opens = call.starts_with("open") && (arguments.contains("O_CREAT") || arguments.contains("O_TRUNC"));
        let writes = call.contains("write") && !arguments.starts_with("1,") && !arguments.starts_with("2,");
        let locks = call == "fcntl" && arguments.contains("_SETLK");
        if opens || writes || locks || (CHANGING.contains(&call) && call != "fcntl") {
            changing.insert((call.to_owned(), *count));
        }
    }
    assert!(changing.len() > 5, "{words:?} change something: {text}");
    (changing, totals.into_values().max().unwrap_or(0))
}

/// Runs `words` under strace, whose tracer is no parent of it and goes with its last process: the
/// output is in a file, since the end of a pipe would come with the tracer's.
fn traced(log: &Path, options: &[&str], words: &[String]) -> Output {
    let (mut stdout, mut stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let mut strace = std_command("strace");
    strace.args(["-D", "-f", "-qq", "-o"]).arg(log).args(options).arg("--").args(words);
    strace.stdin(Stdio::null()).stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    let mut child = strace.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                panic!("{words:?} with {options:?} never ended");
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    Output { status, stdout: content(&mut stdout), stderr: content(&mut stderr) }
}

fn content(file: &mut std::fs::File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A sweep over the `part`th of `of` parts of all calls that change something.
fn kill_before_each_change(verb: Verb) {
    if !is_killed_here() || !installed(&["strace"]) {
        return;
    }
    let _alone = alone();
    untouched();
    let (changing, longest) = calls(verb);
    let sampled = (1..=longest).step_by(longest.div_ceil(25).max(1)).map(|n| ("all".to_owned(), n));
    let (mut disturbed, mut rounds) = (0, 0);
    for (round, (call, when)) in changing.into_iter().chain(sampled).enumerate() {
        let project = Project::new();
        verb.prepare(&project);
        let inject = format!("inject={call}:signal=KILL:when={when}");
        let output = traced(Path::new("/dev/null"), &["-e", &inject], &verb.words(&project));
        disturbed += usize::from(!output.status.success());
        rounds += 1;
        verb.finishes(&project, &project.name(), round, &inject);
    }
    // a child that is killed may be made up for
    assert!(disturbed > rounds / 2, "only {disturbed} of {rounds} runs of {verb:?} were disturbed");
}

#[test]
fn create_killed_before_any_change_is_finished_by_the_same_command() {
    kill_before_each_change(Verb::Create);
}

#[test]
fn start_killed_before_any_change_is_finished_by_the_same_command() {
    kill_before_each_change(Verb::Start);
}

#[test]
fn stop_killed_before_any_change_is_finished_by_the_same_command() {
    kill_before_each_change(Verb::Stop);
}

#[test]
fn delete_killed_before_any_change_is_finished_by_the_same_command() {
    kill_before_each_change(Verb::Delete);
}

/// Killed before each change while it acts on several: the same command finishes all, or those that it
/// came to are repaired one by one, or deleted.
fn kill_a_batch(verb: &str) {
    if !is_killed_here() || !installed(&["strace"]) {
        return;
    }
    let _alone = alone();
    untouched();
    let some = || [0, 1].map(|n| Project::named(format!("app{n}")));
    let words = |verb: &[&str], projects: &[Project]| -> Vec<String> {
        let words = [tool_file("lbx-env").display().to_string()].into_iter();
        words
            .chain(verb.iter().map(|word| (*word).to_owned()))
            .chain(projects.iter().map(|p| p.str().to_owned()))
            .collect()
    };
    let must = |words: &[String], what: &str| {
        let output = command(&words[0]).args(&words[1..]).output().unwrap();
        assert!(output.status.success(), "{what}: {words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let prepare = |projects: &[Project]| {
        if verb == "delete" {
            must(&words(&["create"], projects), "before");
            projects[1].sh("echo x >~/file; (sleep 8000 >/dev/null 2>&1 </dev/null &)");
        }
    };
    let counted = some();
    prepare(&counted);
    let (changing, _) = calls_of(&counted[0].base().join("strace"), &words(&[verb], &counted));
    drop(counted);
    let (mut disturbed, rounds) = (0, changing.len());
    for (round, (call, when)) in changing.into_iter().enumerate() {
        let projects = some();
        prepare(&projects);
        let inject = format!("inject={call}:signal=KILL:when={when}");
        let output = traced(Path::new("/dev/null"), &["-e", &inject], &words(&[verb], &projects));
        disturbed += usize::from(!output.status.success());
        let names: Vec<String> = projects.iter().map(Project::name).collect();
        let begun = names.iter().filter(|name| listed(name).is_some()).cloned();
        match (round % 3, verb) {
            (0, "create") => {
                let printed: String = names.iter().map(|name| format!("{name}\n")).collect();
                assert_eq!(must(&words(&["create"], &projects), &inject), printed, "{inject}");
                projects.iter().for_each(|project| assert_eq!(project.sh("id -un").trim(), project.name(), "{inject}"));
            }
            (1, _) => {
                let all = words(&["repair"], &[]).into_iter().chain(begun).collect::<Vec<_>>();
                if all.len() > 2 {
                    must(&all, &inject);
                }
                let broken = names.iter().filter_map(|name| listed(name)).find(|object| object["state"] == "broken");
                assert_eq!(broken, None, "{inject}: repair left it broken");
            }
            _ => {}
        }
        must(&words(&["delete", "-f"], &projects), &inject);
        nothing_is_left(&format!("{verb} of several after {inject}"));
    }
    assert!(disturbed > rounds / 2, "only {disturbed} of {rounds} runs of {verb} of several were disturbed");
}

#[test]
fn create_of_several_killed_before_any_change_is_finished_by_the_same_command() {
    kill_a_batch("create");
}

#[test]
fn delete_of_several_killed_before_any_change_is_finished_by_the_same_command() {
    kill_a_batch("delete");
}

/// A stopped environment that has written something, to be forked: its project and its name.
fn parent() -> (Project, String) {
    let project = Project::new();
    project.write("file", "one\n");
    let name = project.create(&OPTIONS);
    project.sh("echo changed >file; echo new >new; mkdir -p ~/a/b; echo home >~/a/file");
    project.must("stop");
    (project, name)
}

fn fork_words(parent: &str, count: usize) -> Vec<String> {
    let tool = tool_file("lbx-env").display().to_string();
    [&tool, "create", "--count", &count.to_string(), "--from", parent].map(str::to_owned).to_vec()
}

/// After an interruption of the command that makes `count` forks of `parent`: the parent has what it had;
/// the command again, or repair first, or delete at once, finish it; then nothing is left.
fn forks_finish(project: &Project, parent: &str, count: usize, round: usize, what: &dyn Debug) {
    let must = |words: &[String]| {
        let output = command(&words[0]).args(&words[1..]).output().unwrap();
        assert!(output.status.success(), "{words:?} after {what:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let env = |verb: &[&str], names: &[String]| {
        let verb = verb.iter().map(|word| (*word).to_owned());
        must(
            &[tool_file("lbx-env").display().to_string()]
                .into_iter()
                .chain(verb)
                .chain(names.to_vec())
                .collect::<Vec<_>>(),
        )
    };
    let seen = |name: &str| {
        let script = "cat file new ~/a/file; echo x >>file; echo x >>~/a/file";
        must(&[&tool_file("lbx-enter").display().to_string(), name, "--", "sh", "-euc", script].map(str::to_owned))
    };
    let digits = &parent[parent.len() - 5..];
    let names: Vec<String> = (1..=count).map(|n| format!("app-{n}{digits}")).collect();
    let begun: Vec<String> = names.iter().filter(|name| listed(name).is_some()).cloned().collect();
    if round % 3 == 1 && !begun.is_empty() {
        env(&["repair"], &begun);
        let broken = begun.iter().filter_map(|name| listed(name)).find(|object| object["state"] == "broken");
        assert_eq!(broken, None, "{what:?}: repair left it broken");
    }
    if round % 3 != 2 {
        let printed: String = names.iter().map(|name| format!("{name}\n")).collect();
        assert_eq!(must(&fork_words(parent, count)), printed, "{what:?}");
        names.iter().take(3).for_each(|name| assert_eq!(seen(name), "changed\nnew\nhome\n", "{name} after {what:?}"));
    }
    assert_eq!(seen(parent), "changed\nnew\nhome\n", "{what:?}");
    // the parent first, by turns
    let all = [vec![parent.to_owned()], names];
    let all = if round.is_multiple_of(2) { all.concat() } else { all.iter().rev().flatten().cloned().collect() };
    env(&["delete", "-f"], &all);
    assert_eq!(project.read("file"), "one\n", "{what:?}");
    host(&format!("rm -rf '{}/target'", project.str()));
    nothing_is_left(&format!("forks after {what:?}"));
}

#[test]
fn forks_killed_before_any_change_are_finished_by_the_same_command() {
    if !is_killed_here() || !installed(&["strace"]) {
        return;
    }
    let _alone = alone();
    untouched();
    let (counted, name) = parent();
    let (changing, _) = calls_of(&counted.base().join("strace"), &fork_words(&name, 2));
    drop(counted);
    let (mut disturbed, rounds) = (0, changing.len());
    for (round, (call, when)) in changing.into_iter().enumerate() {
        let (project, name) = parent();
        let inject = format!("inject={call}:signal=KILL:when={when}");
        let output = traced(Path::new("/dev/null"), &["-e", &inject], &fork_words(&name, 2));
        disturbed += usize::from(!output.status.success());
        forks_finish(&project, &name, 2, round, &inject);
    }
    assert!(disturbed > rounds / 2, "only {disturbed} of {rounds} runs were disturbed");
}

#[test]
fn eight_forks_killed_at_random_instants_leave_nothing() {
    if !is_killed_here() {
        return;
    }
    let _alone = alone();
    untouched();
    for round in 0..30 {
        let (project, name) = parent();
        let words = fork_words(&name, 8);
        let mut tool = std_command(&words[0]);
        tool.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = tool.spawn().unwrap();
        let instant = Duration::from_micros(random(60_000));
        std::thread::sleep(instant);
        child.kill().unwrap();
        child.wait().unwrap();
        forks_finish(&project, &name, 8, round, &instant);
    }
}

/// Numbers that no test run repeats.
fn random(below: u64) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() % below.max(1)
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Tool,
    ToolAndItsChildren,
    Parent,
}

#[test]
fn two_hundred_kills_at_random_instants_leave_nothing() {
    if !is_killed_here() {
        return;
    }
    let _alone = alone();
    untouched();
    for round in 0..200 {
        let verb = VERBS[round % 4];
        let victim = [Victim::Tool, Victim::ToolAndItsChildren, Victim::Parent][round / 4 % 3];
        let project = Project::new();
        verb.prepare(&project);
        let instant = Duration::from_micros(random(match verb {
            Verb::Create => 15_000,
            Verb::Start => 30_000,
            Verb::Stop | Verb::Delete => 30_000,
        }));
        let words = verb.words(&project);
        let mut tool = match victim {
            Victim::Parent => {
                let mut sh = std_command("sh");
                sh.args(["-c", "\"$@\"; :", "sh"]).args(&words);
                sh
            }
            _ => {
                let mut tool = std_command(&words[0]);
                tool.args(&words[1..]);
                tool
            }
        };
        tool.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut child = tool.spawn().unwrap();
        std::thread::sleep(instant);
        let pid = i32::try_from(child.id()).unwrap();
        let target = nix::unistd::Pid::from_raw(if matches!(victim, Victim::ToolAndItsChildren) { -pid } else { pid });
        let _ = nix::sys::signal::kill(target, nix::sys::signal::Signal::SIGKILL);
        child.wait().unwrap();
        verb.finishes(&project, &project.name(), round, &(victim, instant));
    }
}

#[test]
fn first_shells_killed_at_random_instants_leave_nothing() {
    if !is_killed_here() {
        return;
    }
    let _alone = alone();
    untouched();
    for round in 0..40 {
        let project = Project::new();
        let mut shell = std_command(tool_file("llima-box"));
        shell.arg("shell").arg(project.path()).args(["--", "true"]);
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = shell.spawn().unwrap();
        let instant = Duration::from_micros(random(60_000));
        std::thread::sleep(instant);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(
            lbx_tests::text(
                command(tool_file("llima-box"))
                    .arg("shell")
                    .arg(project.path())
                    .args(["--", "echo", "in"])
                    .assert()
                    .success()
            ),
            "in\n"
        );
        project.must("stop");
        Verb::Stop.finishes(&project, &project.name(), round, &instant);
    }
}

/// Every changing call fails once: the tool says so, and nothing is left.
fn fail_each_change(verb: Verb, error: &str) {
    if !is_killed_here() || !installed(&["strace"]) {
        return;
    }
    let _alone = alone();
    untouched();
    // a lock that is refused is waited for; and a process that cannot end is none of these tools'
    let not_failing = ["fcntl", "exit_group", "execve", "close_range", "kill", "pidfd_send_signal"];
    let (changing, _) = calls(verb);
    for (round, (call, when)) in changing.into_iter().filter(|(c, _)| !not_failing.contains(&c.as_str())).enumerate() {
        let project = Project::new();
        verb.prepare(&project);
        let inject = format!("inject={call}:error={error}:when={when}");
        let output = traced(Path::new("/dev/null"), &["-e", &inject], &verb.words(&project));
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{verb:?} with {inject}: {output:?}");
            // the message is a write as well, which may be the one that fails
            let mute = call.contains("write") && told.is_empty();
            assert!(mute || told.starts_with("lbx-env: ") && told.len() > 20, "{verb:?} with {inject}: {told}");
        }
        verb.finishes(&project, &project.name(), round, &inject);
    }
}

#[test]
fn create_on_a_full_disk_says_so_and_leaves_nothing() {
    fail_each_change(Verb::Create, "ENOSPC");
}

#[test]
fn start_without_processes_or_mounts_says_so_and_leaves_nothing() {
    fail_each_change(Verb::Start, "EAGAIN");
}

#[test]
fn the_machine_is_looked_at_where_something_can_be_seen() {
    if !is_killed_here() {
        return;
    }
    let _alone = alone();
    let before = untouched();
    let project = Project::new();
    project.create(&[]);
    project.must("start");
    let now = picture();
    let more: Vec<_> = now.iter().filter(|l| !before.contains(l)).collect();
    for what in ["passwd: ", "shadow: ", "group: ", "/home/", "/var/lib/llima-box/envs/", "/run/llima-box/", "process "]
    {
        assert!(more.iter().any(|l| l.starts_with(what)), "{what} is not among {more:#?}");
    }
    assert!(machine::traces(&project.name()).len() > 5);
}

/// What is disturbed of snapshots.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Snap {
    Save,
    Restore,
    Forget,
}

impl Snap {
    /// What the environment's home and its copy-on-write project show.
    const SEEN: &str = "cat ~/file ~/moved/file file 2>/dev/null || :";
    const FIRST: &str = "home\nin\n";
    const SECOND: &str = "more\nhome\n";

    /// Makes what is disturbed, and returns its words.
    fn prepare(self, project: &Project) -> Vec<String> {
        let env = |words: &[&str]| {
            project.env_tool(words[0]).arg("--").arg(project.path()).args(&words[1..]).assert().success()
        };
        let name = project.create(&["--project", "cow"]);
        project.sh("mkdir ~/dir; echo home | tee ~/file >~/dir/file; echo in >file");
        project.must("stop");
        if self != Snap::Save {
            env(&["save", "one"]);
            project.sh("echo more >~/file; mv ~/dir ~/moved; rm file");
            project.must("stop");
        }
        let tags = match self {
            Snap::Save => vec!["one".to_owned()],
            Snap::Restore => vec!["one".to_owned()],
            Snap::Forget => {
                env(&["save", "two"]);
                env(&["restore", "one"]);
                vec!["two".to_owned()]
            }
        };
        let verb = match self {
            Snap::Save => "save",
            Snap::Restore => "restore",
            Snap::Forget => "forget",
        };
        let words = [tool_file("lbx-env").display().to_string(), verb.to_owned(), "--".to_owned(), name];
        words.into_iter().chain(tags).collect()
    }

    /// After an interruption nothing of what was written is lost, and the command again, or repair, or a
    /// start finishes what was begun; delete leaves nothing.
    fn finishes(self, project: &Project, words: &[String], round: usize, what: &str) {
        let env = |verb: &str, tags: &[&str]| {
            project.must("stop");
            project.env_tool(verb).arg("--").arg(project.path()).args(tags).assert().success();
        };
        let again = round.is_multiple_of(3);
        if again {
            let output = command(&words[0]).args(&words[1..]).output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            let done = told.contains("has a snapshot 'one' already") || told.contains("no such snapshot");
            assert!(output.status.success() || done, "{self:?} after {what}: {output:?}");
        }
        if round % 3 == 1 {
            project.must("repair");
        }
        let seen = project.sh(Snap::SEEN);
        match self {
            Snap::Save => {
                assert_eq!(seen, Snap::FIRST, "{self:?} after {what}");
                env("save", &["later"]);
                project.sh("rm -r ~/file ~/dir file");
                env("restore", &[if again { "one" } else { "later" }]);
                assert_eq!(project.sh(Snap::SEEN), Snap::FIRST, "{self:?} after {what}");
            }
            Snap::Restore => {
                assert!(seen == Snap::FIRST || (!again && seen == Snap::SECOND), "{self:?} after {what}: {seen}");
                env("restore", &["one"]);
                assert_eq!(project.sh(Snap::SEEN), Snap::FIRST, "{self:?} after {what}");
                // what was there is still to be had
                let tags = entries(format!("/var/lib/llima-box/envs/{}/snapshots", project.name()));
                let kept = tags.iter().filter_map(|file| file.strip_suffix(".json")).any(|tag| {
                    tag != "one" && {
                        env("restore", &[tag]);
                        project.sh(Snap::SEEN) == Snap::SECOND
                    }
                });
                assert!(kept, "{self:?} after {what}: {tags:?}");
            }
            Snap::Forget => {
                assert_eq!(seen, Snap::FIRST, "{self:?} after {what}");
                env("restore", &["one"]);
                assert_eq!(project.sh(Snap::SEEN), Snap::FIRST, "{self:?} after {what}");
                let layers = entries("/var/lib/llima-box/layers");
                assert!(!again || layers.len() == 1, "{self:?} after {what}: {layers:?}");
            }
        }
        project.must("delete");
        nothing_is_left(&format!("{self:?} after {what}"));
    }
}

/// Disturbs each change of `snap` once, as `how` says.
fn disturb_each_change(snap: Snap, how: &str) {
    if !is_killed_here() || !installed(&["strace"]) {
        return;
    }
    let _alone = alone();
    untouched();
    let counted = Project::new();
    let words = snap.prepare(&counted);
    let (changing, _) = calls_of(&counted.base().join("strace"), &words);
    drop(counted);
    // what makes a process, or keeps its tracer's, is no change of a snapshot
    let not_failing = ["fcntl", "exit_group", "execve", "close_range"];
    let changing: Vec<_> =
        changing.into_iter().filter(|(c, _)| how.starts_with("signal") || !not_failing.contains(&c.as_str())).collect();
    let (mut disturbed, rounds) = (0, changing.len());
    for (round, (call, when)) in changing.into_iter().enumerate() {
        let project = Project::new();
        let words = snap.prepare(&project);
        let inject = format!("inject={call}:{how}:when={when}");
        let output = traced(Path::new("/dev/null"), &["-e", &inject], &words);
        disturbed += usize::from(!output.status.success());
        if !how.starts_with("signal") && !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{snap:?} with {inject}: {output:?}");
            assert!(told.starts_with("lbx-env: ") && told.len() > 20, "{snap:?} with {inject}: {told}");
        }
        snap.finishes(&project, &words, round, &inject);
    }
    assert!(disturbed > rounds / 3, "only {disturbed} of {rounds} runs of {snap:?} were disturbed");
}

#[test]
fn save_killed_before_any_change_loses_nothing() {
    disturb_each_change(Snap::Save, "signal=KILL");
}

#[test]
fn restore_killed_before_any_change_loses_nothing() {
    disturb_each_change(Snap::Restore, "signal=KILL");
}

#[test]
fn forget_killed_before_any_change_loses_nothing() {
    disturb_each_change(Snap::Forget, "signal=KILL");
}

#[test]
fn save_on_a_full_disk_says_so_and_loses_nothing() {
    disturb_each_change(Snap::Save, "error=ENOSPC");
}

#[test]
fn restore_on_a_full_disk_says_so_and_loses_nothing() {
    disturb_each_change(Snap::Restore, "error=ENOSPC");
}

/// An environment with as many layers as there may be, and with what it has written since.
struct Deep {
    project: Project,
    name: String,
    /// What it shows.
    seen: String,
}

impl Deep {
    const LOOK: &str = "grep -r . ~ . | LC_ALL=C sort; ls -R ~ .; readlink ~/link; stat -c %a ~/shut";

    fn new() -> Deep {
        let project = Project::new();
        let name = project.create(&["--project", "cow"]);
        for number in 0..32 {
            project.sh(&format!("mkdir -p ~/dir{number}; echo {number} | tee ~/dir{number}/file >file{number}"));
            project.must("stop");
            project.env_tool("save").args([&name, &format!("s{number}")]).assert().success();
        }
        let mut deep = Deep { project, name, seen: String::new() };
        deep.write();
        deep
    }

    /// Writes on top of its layers, so that they are merged when that is frozen.
    fn write(&mut self) {
        self.project
            .sh("rm -r ~/dir7 file7; mv ~/dir8 ~/moved; echo last >~/last; ln -sf there ~/link; mkdir -m 700 ~/shut
             rm -r file9; mkdir file9; echo in >file9/in");
        self.seen = self.project.sh(Deep::LOOK);
        self.project.must("stop");
    }

    fn save_words(&self, tag: &str) -> Vec<String> {
        [&tool_file("lbx-env").display().to_string(), "save", &self.name, tag].map(str::to_owned).to_vec()
    }

    /// How many layers its home and its project have.
    fn depths(&self) -> [usize; 2] {
        let record = listed(&self.name).unwrap();
        ["home", "project"].map(|list| record["layers"][list].as_array().unwrap().len())
    }

    fn shows_the_same_after(&self, what: &str) {
        assert_eq!(self.project.sh(Deep::LOOK), self.seen, "{what}");
        self.project.must("stop");
    }

    /// The snapshot `tag` is what was seen, and delete leaves nothing.
    fn ends_with(self, tag: &str) {
        self.project.sh("rm -rf ~/* file*");
        self.project.must("stop");
        self.project.env_tool("restore").args([&self.name, tag]).assert().success();
        self.shows_the_same_after("a restore");
        self.project.must("delete");
        nothing_is_left("a merge");
    }
}

#[test]
fn a_merge_of_frozen_layers_killed_at_any_instant_loses_nothing() {
    if !is_killed_here() || !installed(&["strace"]) {
        return;
    }
    let _alone = alone();
    untouched();
    let deep = Deep::new();
    let kill = |when: usize| {
        let inject = format!("inject=all:signal=KILL:when={when}");
        let output = traced(Path::new("/dev/null"), &["-e", &inject], &deep.save_words("last"));
        deep.shows_the_same_after(&inject);
        // killed behind its last change it has done all, and the next one finds that
        output.status.success() || String::from_utf8_lossy(&output.stderr).contains("already")
    };
    // what it copies is thrown away each time, until it comes as far as the record
    let rounds = (1..).step_by(40).take_while(|when| !kill(*when)).count();
    assert!(rounds > 10, "only {rounds}");
    assert_eq!(deep.depths(), [2, 2]);
    let save = deep.save_words("last");
    let _ = command(&save[0]).args(&save[1..]).output().unwrap();
    deep.ends_with("last");
}

#[test]
fn a_merge_of_frozen_layers_on_a_full_disk_says_so_and_loses_nothing() {
    if !is_killed_here() || !installed(&["strace"]) {
        return;
    }
    let _alone = alone();
    untouched();
    let mut deep = Deep::new();
    // snapshots keep the layers that are merged
    let again = |deep: &mut Deep| {
        deep.project.env_tool("restore").args([&deep.name, "s31"]).assert().success();
        deep.write();
        assert_eq!(deep.depths(), [32, 32]);
    };
    let log = deep.project.base().join("strace");
    let (changing, _) = calls_of(&log, &deep.save_words("whole"));
    let not_failing = ["clone", "clone3", "close_range", "execve", "exit_group", "fcntl"];
    let changing: Vec<Call> = changing.into_iter().filter(|(call, _)| !not_failing.contains(&call.as_str())).collect();
    // those of a name that are first and last, and some of the many between
    let is_last = |n: usize| changing.get(n + 1).is_none_or(|(next, _)| *next != changing[n].0);
    let is_sampled = |n: usize| changing[n].1 <= 2 || is_last(n) || n.is_multiple_of(changing.len().div_ceil(40));
    again(&mut deep);
    let mut failed = 0;
    for (call, when) in (0..changing.len()).filter(|n| is_sampled(*n)).map(|n| &changing[n]) {
        let (inject, tag) = (format!("inject={call}:error=ENOSPC:when={when}"), format!("{call}-{when}"));
        let output = traced(Path::new("/dev/null"), &["-e", &inject], &deep.save_words(&tag));
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        deep.shows_the_same_after(&inject);
        if !output.status.success() {
            failed += 1;
            assert_eq!(output.status.code(), Some(1), "{inject}: {output:?}");
            assert!(told.starts_with("lbx-env: ") && told.contains("space"), "{inject}: {told}");
        }
        if deep.depths() != [32, 32] {
            again(&mut deep);
        }
    }
    assert!(failed > 20, "only {failed} failed");
    deep.project.env_tool("save").args([&deep.name, "last"]).assert().success();
    deep.ends_with("last");
}
