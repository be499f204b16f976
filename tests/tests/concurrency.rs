//! Many at once: one environment is made once, and many are made side by side.

use std::collections::{HashMap, HashSet};
use std::process::{Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use lbx_tests::machine::{accounts, group, list, listed, traces};
use lbx_tests::place::host_std_command;
use lbx_tests::{
    Place, Project, eventually, host, installed, near, only_at, place, scaled, std_command, tool, tool_file,
};

/// One at a time: each of these tests takes the whole machine.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// So many at once; an emulated machine, where each holds the locks for long, has fewer to do.
fn many(count: usize) -> usize {
    match place() {
        Place::Lima => count / 10 + 2,
        _ => count,
    }
}

/// Starts all commands at once and waits for them.
fn at_once(commands: impl IntoIterator<Item = std::process::Command>) -> Vec<Output> {
    let children: Vec<_> = commands
        .into_iter()
        .map(|mut c| c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    children.into_iter().map(|child| child.wait_with_output().unwrap()).collect()
}

fn all_succeeded(outputs: &[Output]) {
    let failed: Vec<&Output> = outputs.iter().filter(|o| !o.status.success()).collect();
    assert!(failed.is_empty(), "{} of {} failed, the first: {:?}", failed.len(), outputs.len(), failed[0]);
}

#[test]
fn fifty_first_shells_of_one_project_make_one_environment() {
    let _alone = alone();
    let project = Project::new();
    let before = accounts().len();
    let outputs = at_once((0..many(50)).map(|_| {
        let mut shell = std_command(tool_file("llima-box"));
        shell.arg("shell").arg(project.path()).args(["--", "sh", "-c", "readlink /proc/self/ns/pid; id -u"]);
        shell
    }));
    all_succeeded(&outputs);
    let seen: HashSet<_> = outputs.iter().map(|o| o.stdout.clone()).collect();
    assert_eq!(seen.len(), 1, "all are in one PID namespace, with one uid: {seen:?}");
    let new: Vec<_> = accounts().split_off(before);
    let names: Vec<_> = new.iter().map(|a| a.name.as_str()).filter(|n| *n != "lbx-holder").collect();
    assert_eq!(names, [project.name()]);
    assert_eq!(
        host(&format!("grep -c '^{}:' /etc/shadow /etc/group /etc/gshadow", project.name())),
        "/etc/shadow:1\n/etc/group:1\n/etc/gshadow:1\n"
    );
    project.must("delete");
    assert_eq!(traces(&project.name()), [""; 0]);
}

/// Wherever one of two halts while the other does it all, both print the one name.
#[test]
fn two_creates_overtake_each_other_at_every_call() {
    if !only_at(&[Place::Local], "the calls of the far tool are not strace's to halt") {
        return;
    }
    if !installed(&["strace"]) {
        return;
    }
    let _alone = alone();
    let create = |project: &Project, words: &[&str]| {
        let mut command = std_command(words[0]);
        command.args(&words[1..]).arg(tool_file("lbx-env")).arg("create").arg(project.path());
        command
    };
    let counted = Project::new();
    let log = counted.base().join("calls");
    let traced = create(&counted, &["strace", "-qq", "-o", log.to_str().unwrap()]).output().unwrap();
    assert!(traced.status.success(), "{traced:?}");
    let text = std::fs::read_to_string(&log).unwrap();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut calls = Vec::new();
    for (call, _) in text.lines().filter_map(|line| line.split_once('(')) {
        let count = counts.entry(call).or_default();
        *count += 1;
        calls.push((call, *count));
    }
    assert!(calls.len() > 50, "{calls:?}");
    // several pairs at a time: each mostly waits
    for some in calls.chunks(6) {
        let projects: Vec<Project> = some.iter().map(|_| Project::new()).collect();
        let pairs = some.iter().zip(&projects).flat_map(|((call, nth), project)| {
            let halt = format!("inject={call}:delay_enter=300000:when={nth}");
            let late = create(project, &["strace", "-qq", "-o", "/dev/null", "-e", &halt]);
            // begins when the other has come to its halt
            let early = create(project, &["sh", "-c", "sleep 0.15; exec \"$@\"", "sh"]);
            [late, early]
        });
        let outputs = at_once(pairs);
        all_succeeded(&outputs);
        for (pair, project) in outputs.chunks(2).zip(&projects) {
            let name = format!("{}\n", project.name()).into_bytes();
            assert!(pair.iter().all(|output| output.stdout == name), "halted at one of {some:?}: {pair:?}");
        }
    }
}

#[test]
fn a_hundred_projects_at_once_get_a_hundred_accounts() {
    let _alone = alone();
    // four digits tell a hundred paths apart only most of the time
    let projects: Vec<Project> = (0..many(100)).map(|n| Project::named(format!("app{n}"))).collect();
    let run = |verb: &str| {
        let outputs = at_once(projects.iter().map(|project| {
            let mut env = std_command(tool_file("lbx-env"));
            env.arg(verb).arg(project.path());
            env
        }));
        all_succeeded(&outputs);
    };
    run("create");
    let names: HashSet<String> = projects.iter().map(Project::name).collect();
    let made: Vec<_> = accounts().into_iter().filter(|a| names.contains(&a.name)).collect();
    assert_eq!(made.len(), projects.len());
    let ids = names.iter().map(|name| group(name));
    assert_eq!(ids.collect::<HashSet<_>>().len(), projects.len(), "each has an id of its own");
    assert_eq!(
        list(&["--state", "stopped"]).iter().filter(|o| names.contains(o["name"].as_str().unwrap())).count(),
        projects.len()
    );
    let group = host("grep '^lbx-env:' /etc/group");
    assert!(names.iter().all(|n| group.trim().split([':', ',']).any(|member| member == n)), "{group}");

    run("start");
    let running = list(&["--state", "running"]).iter().filter(|o| names.contains(o["name"].as_str().unwrap())).count();
    assert_eq!(running, projects.len());
    run("stop");
    run("delete");
    let left: Vec<String> = names.iter().flat_map(|name| traces(name)).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Each takes the locks of several before it goes on, and none waits while it has some.
#[test]
fn batches_of_the_same_projects_in_other_orders_end_and_agree() {
    let _alone = alone();
    let projects: Vec<Project> = (0..many(30)).map(|n| Project::named(format!("app{n}"))).collect();
    let names: Vec<String> = projects.iter().map(Project::name).collect();
    let batch = |verb: &[&str], order: &[usize]| {
        let mut env = std_command(tool_file("lbx-env"));
        env.args(verb).args(order.iter().map(|n| projects[*n].path()));
        env
    };
    let forth: Vec<usize> = (0..projects.len()).collect();
    let back: Vec<usize> = forth.iter().rev().copied().collect();
    let middle: Vec<usize> = forth[forth.len() / 2..].iter().chain(&forth).copied().collect();
    let orders = [&forth, &back, &middle];
    for _ in 0..5 {
        let outputs = at_once(orders.map(|order| batch(&["create"], order)));
        all_succeeded(&outputs);
        for (output, order) in outputs.iter().zip(orders) {
            let printed: String = order.iter().map(|n| format!("{}\n", names[*n])).collect();
            assert_eq!(String::from_utf8_lossy(&output.stdout), printed);
        }
        let made = accounts().into_iter().filter(|account| names.contains(&account.name)).count();
        assert_eq!(made, projects.len());
        all_succeeded(&at_once(orders.map(|order| batch(&["delete", "-f"], order))));
        let left: Vec<String> = names.iter().flat_map(|name| traces(name)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn useradd_and_the_tools_do_not_undo_each_other() {
    let _alone = alone();
    let projects: Vec<Project> = (0..many(15)).map(|n| Project::named(format!("app{n}"))).collect();
    let users: Vec<String> = (0..many(15)).map(|n| format!("lbxrace{}n{n}", std::process::id())).collect();
    let creates = projects.iter().map(|project| {
        let mut env = std_command(tool_file("lbx-env"));
        env.arg("create").arg(project.path());
        env
    });
    // useradd gives up after some tries when another holds the lock: it may fail, but not lie
    let adds = users.iter().map(|user| host_std_command(&["useradd", "-M", user]));
    let outputs = at_once(creates.chain(adds));
    all_succeeded(&outputs[..projects.len()]);
    let names: HashSet<String> = accounts().into_iter().map(|a| a.name).collect();
    for project in &projects {
        assert!(names.contains(&project.name()));
    }
    for (user, output) in users.iter().zip(&outputs[projects.len()..]) {
        assert_eq!(names.contains(user), output.status.success(), "{user}: {output:?}");
        let _ = host_std_command(&["userdel", user]).output();
    }
    host("! pwck -rq 2>&1 | grep lbxrace");
}

#[test]
fn enter_stop_and_delete_at_once_leave_one_of_their_ends() {
    let _alone = alone();
    for round in 0..10 {
        let project = Project::new();
        let name = project.create(&[]);
        let commands = (0..12).map(|n| {
            let mut command = match (n + round) % 4 {
                0 => std_command(tool_file("lbx-env")),
                _ => std_command(tool_file("lbx-enter")),
            };
            match (n + round) % 4 {
                0 => command.args([["stop", "start", "repair", "delete"][n / 4 % 4], &name]),
                _ => command.args([&name, "--", "true"]),
            };
            command
        });
        let outputs = at_once(commands);
        // a command ends with its status, with that of a kill, or with the tool's own
        for output in &outputs {
            assert!(matches!(output.status.code(), Some(0 | 1 | 125 | 137 | 129)), "{output:?}");
        }
        project.create(&[]);
        assert_eq!(project.sh("echo fine"), "fine\n");
        project.must("delete");
        assert_eq!(traces(&name), [""; 0]);
    }
}

#[test]
fn a_stopped_lbx_enter_does_not_hang_stop_or_delete() {
    let _alone = alone();
    let project = Project::new();
    let name = project.create(&[]);
    let words = project.enter_words(&["sleep", "5000"]);
    let mut enter = std_command(&words[0]).args(&words[1..]).stdin(Stdio::null()).spawn().unwrap();
    eventually("it runs", || listed(&name).unwrap()["procs"].as_u64().unwrap_or(0) >= 1);
    near(&format!("kill -STOP {}", enter.id()));
    let start = Instant::now();
    project.must("stop");
    project.must("delete");
    assert!(start.elapsed() < scaled(Duration::from_secs(10)), "{:?}", start.elapsed());
    assert_eq!(traces(&name), [""; 0]);
    near(&format!("kill -CONT {}", enter.id()));
    assert!(!enter.wait().unwrap().success());
}

#[test]
fn locks_are_not_held_while_a_command_runs() {
    let _alone = alone();
    let project = Project::new();
    project.create(&[]);
    let words = project.enter_words(&["sh", "-c", "touch ready; exec sleep 6000"]);
    let mut enter = std_command(&words[0]).args(&words[1..]).stdin(Stdio::null()).spawn().unwrap();
    eventually("it runs", || project.path().join("ready").exists());
    assert_eq!(project.sh("echo beside"), "beside\n");
    project.env_tool("set").args(["--label", "a=b"]).arg(project.path()).assert().success();
    tool("lbx-ls").assert().success();
    project.must("stop");
    assert!(!enter.wait().unwrap().success());
}
