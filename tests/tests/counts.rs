//! What takes time whatever the machine's mood: calls, processes, syncs, bytes, memory. What raises a limit here says why.

use std::ffi::OsString;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lbx_tests::machine::read;
use lbx_tests::{Place, Project, command, host, installed, only_at, std_command, tool_file};
use nix::sys::resource::{UsageWho, getrusage};

/// Calls that waiting makes more of, and those that are some machines' only way to the time.
const MOODS: [&str; 5] = ["futex", "nanosleep", "clock_nanosleep", "clock_gettime", "gettimeofday"];

/// One counts at a time: the tools wait for each other's locks. `None`: nothing is counted here.
fn counting() -> Option<MutexGuard<'static, ()>> {
    static COUNTING: Mutex<()> = Mutex::new(());
    let here = only_at(&[Place::Local], "the calls of the far tool are not strace's to count");
    (here && installed(&["strace"])).then(|| COUNTING.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Calls of `words`, each in a line, of all its processes; of what it runs up to the exec.
fn calls(words: &[OsString]) -> Vec<String> {
    let base = Project::new();
    let log = base.base().join("strace");
    // what tells of differences does so by its status
    command("strace").args(["-f", "-qq", "-o"]).arg(&log).arg("--").args(words).assert().code(predicates::ord::le(1));
    let text = read(&log);
    let first = text.split(' ').next().unwrap_or_default();
    let (mut calls, mut begun) = (Vec::new(), Vec::new());
    // "PID call(…", where a second line tells the end of one that was interrupted
    for (pid, call) in text.lines().filter_map(|line| line.split_once(' ')) {
        let call = call.trim_start();
        if call.starts_with(['<', '+', '-']) || begun.contains(&pid) || MOODS.contains(&name(call)) {
            continue;
        }
        if pid != first && name(call) == "execve" {
            begun.push(pid);
        }
        calls.push(call.to_owned());
    }
    calls
}

fn name(call: &str) -> &str {
    call.split('(').next().unwrap_or_default()
}

fn count(calls: &[String], names: &[&str]) -> usize {
    calls.iter().filter(|call| names.contains(&name(call))).count()
}

/// Bytes that `calls` are to write: what they answer may be in another line.
fn written(calls: &[String]) -> usize {
    // the tools use none of those whose count of bytes stands elsewhere
    assert_eq!(count(calls, &["writev", "pwritev", "pwrite64", "sendfile", "splice"]), 0);
    let asked = |call: &String| -> usize {
        let end = call.rfind(" <unfinished").or_else(|| call.rfind(") ")).expect("strace ends a call so");
        let behind = usize::from(name(call) == "copy_file_range");
        let count = call[..end].rsplit(", ").nth(behind).and_then(|count| count.parse().ok());
        count.unwrap_or_else(|| panic!("no count of bytes: {call}"))
    };
    calls.iter().filter(|call| matches!(name(call), "write" | "copy_file_range")).map(asked).sum()
}

/// How often `calls` asked the kernel for memory.
fn allocations(calls: &[String]) -> usize {
    let has_none_yet = |call: &&String| name(call) == "brk" || call.contains("MAP_ANONYMOUS");
    calls.iter().filter(has_none_yet).count()
}

/// Page faults of `words` that needed no disk, its children's included: the least of some times, since
/// what the machine does meanwhile adds to them.
fn faults(before: impl Fn(), words: &[OsString]) -> u64 {
    let mut least = u64::MAX;
    for _ in 0..5 {
        before();
        let counted = getrusage(UsageWho::RUSAGE_CHILDREN).expect("it can be asked for").minor_page_faults();
        assert!(std_command(&words[0]).args(&words[1..]).stdout(Stdio::null()).status().expect("it runs").success());
        let now = getrusage(UsageWho::RUSAGE_CHILDREN).expect("it can be asked for").minor_page_faults();
        least = least.min(u64::try_from(now - counted).expect("they grow"));
    }
    least
}

fn words(verb: &str, project: &Project) -> Vec<OsString> {
    words_of(verb, std::slice::from_ref(project))
}

fn words_of(verb: &str, projects: &[Project]) -> Vec<OsString> {
    let tool = [tool_file("lbx-env").into(), verb.into()];
    tool.into_iter().chain(projects.iter().map(|project| project.path().into())).collect()
}

#[test]
fn a_command_takes_one_process_and_no_look_at_other_environments() {
    let Some(_counting) = counting() else { return };
    let (project, others) = (Project::new(), [Project::new(), Project::new()]);
    project.create(&[]);
    let others = others.each_ref().map(|other| other.create(&[]));
    project.must("start");
    let calls = calls(&project.enter_words(&["true"]));
    assert_eq!(count(&calls, &["clone", "clone3", "fork", "vfork"]), 1);
    assert_eq!(count(&calls, &["execve"]), 2, "the tool and the command");
    assert_eq!(count(&calls, &["getdents64", "fsync", "fdatasync", "sync_file_range", "syncfs"]), 0);
    assert!(!calls.iter().any(|call| others.iter().any(|other| call.contains(other.as_str()))));
    // of prctl as many as the kernel has capabilities
    let dropped = count(&calls, &["prctl"]);
    assert!(calls.len() - dropped <= 155, "{} calls and {dropped} of prctl", calls.len() - dropped);
    // up to the exec: what follows is the command's
    let ours = calls.iter().rposition(|call| name(call) == "execve").expect("it runs the command");
    let allocations = allocations(&calls[..ours]);
    assert!(allocations <= 3, "{allocations} requests for memory");
    let (ours, bare) = (project.enter_words(&["true"]), ["true".into()]);
    let faults = faults(|| (), &ours).saturating_sub(faults(|| (), &bare));
    assert!(faults <= 45, "{faults} page faults more than without");
}

#[test]
fn a_create_syncs_each_file_once() {
    let Some(_counting) = counting() else { return };
    let project = Project::new();
    let calls = calls(&words("create", &project));
    let syncs = count(&calls, &["fsync", "fdatasync"]);
    assert!(syncs <= 5, "{syncs} syncs");
    assert_eq!(count(&calls, &["execve"]), 1, "no other program");
    assert!(calls.len() <= 380, "{} calls", calls.len());
    // the account files are written whole, and the home begins as the machine's /etc/skel
    let whole =
        host("cat /etc/passwd /etc/group /etc/shadow /etc/gshadow; find /etc/skel -type f -exec cat {} +").len();
    let own = written(&calls).saturating_sub(whole);
    assert!(own <= 500, "{own} bytes beside the {whole} of account files and home");
    let allocations = allocations(&calls);
    assert!(allocations <= 18, "{allocations} requests for memory");
    let faults = faults(
        || {
            project.env_tool("delete").args(["-f", "--"]).arg(project.path()).assert().success();
        },
        &words("create", &project),
    );
    assert!(faults <= 96, "{faults} page faults");
}

#[test]
fn a_delete_syncs_each_file_once() {
    let Some(_counting) = counting() else { return };
    let project = Project::new();
    project.create(&[]);
    let calls = calls(&words("delete", &project));
    let syncs = count(&calls, &["fsync", "fdatasync"]);
    assert!(syncs <= 4, "{syncs} syncs");
    assert_eq!(count(&calls, &["execve"]), 1, "no other program");
    assert!(calls.len() <= 310, "{} calls", calls.len());
}

/// Where in `calls` the first is that is `what` and has all of `parts`.
fn find(calls: &[String], what: &str, parts: &[&str]) -> Option<usize> {
    calls.iter().position(|call| name(call).starts_with(what) && parts.iter().all(|part| call.contains(part)))
}

#[test]
fn a_fork_syncs_what_a_create_does_and_the_record_of_its_parent() {
    let Some(_counting) = counting() else { return };
    let project = Project::new();
    let parent = project.create(&["--project", "cow"]);
    project.sh("echo x >~/file; echo x >file");
    project.must("stop");
    let words: [OsString; 4] = [tool_file("lbx-env").into(), "create".into(), "--from".into(), parent.clone().into()];
    let calls = calls(&words);
    let syncs = count(&calls, &["fsync", "fdatasync", "syncfs", "sync"]);
    assert!(syncs <= 6, "{syncs} syncs");
    assert_eq!(count(&calls, &["execve"]), 1, "no other program");
    // whatever is on the disk first, the rest follows in this order
    let records = [format!("{parent}/record.json"), format!("app-1{}/record.json", &parent[3..])];
    let home = format!("\"/home/{parent}\", ");
    let order = [
        find(&calls, "rename", &[&records[0]]),
        find(&calls, "rename", &[&home]),
        find(&calls, "rename", &["project/upper\", "]),
        find(&calls, "rename", &[&records[1]]),
    ];
    assert!(order.is_sorted() && order[0].is_some(), "{order:?} in {calls:#?}");
}

#[test]
fn a_home_on_another_file_system_moves_after_the_record_is_on_the_disk() {
    let Some(_counting) = counting() else { return };
    let project = Project::new();
    let log = project.base().join("strace");
    let (tool, name) = (tool_file("lbx-env").display().to_string(), project.name());
    let script = "mount -t tmpfs none /home && \"$1\" create -q \"$3\" && echo x >\"/home/$2/file\" &&
        strace -f -qq -y -o \"$4\" -- \"$1\" create --from \"$2\" && \"$1\" delete -f \"$2\" \"app-1${2#app}\"";
    let arguments = ["--mount", "--propagation", "private", "sh", "-c", script, "sh"];
    let mut unshare = command("unshare");
    unshare.args(arguments).args([&tool, &name]).arg(project.path()).arg(&log).assert().success();
    let calls: Vec<String> =
        read(&log).lines().filter_map(|line| Some(line.split_once(' ')?.1.trim_start().to_owned())).collect();
    let order = [
        find(&calls, "rename", &[&format!("{name}/record.json")]),
        find(&calls, "fsync", &[&format!("envs/{name}>")]),
        find(&calls, "rename", &[&format!("\"/home/{name}\", ")]),
        find(&calls, "fsync", &["</home>"]),
        find(&calls, "rename", &[&format!("app-1{}/record.json", &name[3..])]),
    ];
    assert!(order.is_sorted() && order[0].is_some(), "{order:?} in {calls:#?}");
}

#[test]
fn a_diff_reads_what_was_changed_and_not_the_tree() {
    let Some(_counting) = counting() else { return };
    let project = Project::new();
    let fill = "for d in $(seq 100); do mkdir $d; (cd $d; seq 1000 | xargs touch); done";
    command("sh").args(["-euc", fill]).current_dir(project.path()).assert().success();
    project.create(&["--project", "cow"]);
    project.sh("for d in 1 2 3 4 5; do echo x >>$d/7; rm $d/9; done");
    let words = vec![tool_file("lbx-diff").into(), project.path().into()];
    let calls = calls(&words);
    assert_eq!(count(&calls, &["execve", "clone", "clone3", "fork", "vfork"]), 1, "no other program");
    assert!(calls.len() <= 270, "{} calls", calls.len());
}

#[test]
fn many_are_created_and_deleted_with_one_rewrite_of_the_account_files() {
    const MANY: usize = 50;
    let Some(_counting) = counting() else { return };
    // four digits tell them apart only most of the time
    let projects: Vec<Project> = (0..MANY).map(|n| Project::named(format!("app{n}"))).collect();
    let written = |calls: &[String], file: &str| {
        calls.iter().filter(|call| name(call) == "rename" && call.contains(&format!(", \"{file}\""))).count()
    };
    let opened = |calls: &[String], file: &str| {
        calls.iter().filter(|call| name(call).starts_with("open") && call.contains(&format!("\"{file}\""))).count()
    };
    for (verb, each) in [("create", 1), ("delete", 0)] {
        let calls = calls(&words_of(verb, &projects));
        let syncs = count(&calls, &["fsync", "fdatasync"]);
        assert!(syncs <= each * MANY + 4, "{verb}: {syncs} syncs, of which {each} for each record");
        for file in ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"] {
            assert_eq!(written(&calls, file), 1, "{verb} writes {file}");
            assert!(opened(&calls, file) <= 3, "{verb} reads {file} {} times", opened(&calls, file));
        }
        assert_eq!(opened(&calls, "/var/lib/llima-box/envs"), 0, "{verb} looks at no others");
    }
}
