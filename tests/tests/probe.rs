//! `lbx-probe`: nothing gets through, nothing of it is left, and what is broken on purpose is found.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use lbx_tests::place::{HERE, on};
use lbx_tests::{
    Command, Place, Project, command, eventually, executable, host, only_at, place, scaled, skip, std_command, text,
    tool, tool_file,
};
use predicates::str::contains;
use serde_json::Value;

/// Tools that are broken on purpose, by their feature, and attacks that must then get through.
const BROKEN: &[(&str, &[&str])] = &[
    ("broken-capabilities", &["cap-bounding", "cap-effective", "cap-ambient", "become-root", "chown"]),
    ("broken-cgroup", &["namespace-cgroup", "cgroup-path"]),
    ("broken-descriptors", &["descriptors", "descriptors-lead-out"]),
    ("broken-devices", &["dev-contents"]),
    (
        "broken-filter",
        &[
            "seccomp",
            "chmod-setuid",
            "clone3",
            "openat2",
            "clock",
            "socket-netlink",
            "socket-udplite",
            "socket-peer",
            "descriptor-take",
            "key-add",
            "layer-whiteout",
            "layer-whiteout-rename",
        ],
    ),
    ("broken-groups", &["groups"]),
    ("broken-host-name", &["host-name", "namespace-uts"]),
    ("broken-ipc", &["namespace-ipc", "sysv-shm", "sysv-sem", "sysv-msg", "sysv-list", "sysv-by-index", "posix-queue"]),
    ("broken-keyring", &["session-keyring"]),
    ("broken-layers", &["project-closed"]),
    ("broken-limits", &["core-limit", "core-limit-raise"]),
    ("broken-masks", &["proc-keys"]),
    ("broken-mounts", &["files-srv", "files-siblings"]),
    ("broken-names", &["people", "names-in-etc"]),
    ("broken-network", &["namespace-network", "loopback", "abstract-socket", "interfaces"]),
    ("broken-no-new-privs", &["no-new-privs", "setuid-exec"]),
    ("broken-nodev", &["mounts-devices"]),
    ("broken-nosuid", &["mounts-set-id", "setuid-exec"]),
    ("broken-read-only", &["write-usr", "write-opt"]),
    ("broken-scratch", &["files-bait"]),
    ("broken-secrets", &["etc-shadow", "etc-sudoers"]),
    ("broken-sys", &["sys-read-only"]),
    ("broken-terminals", &["terminals-of-others"]),
    (
        "broken-together",
        &[
            "mount-tmpfs",
            "mount-bind",
            "umount",
            "pivot-root",
            "chroot",
            "move-mount",
            "mount-setattr",
            "bpf",
            "unshare-mount",
            "setns-first",
            "reboot",
            "accounting",
            "key-bait",
            "mknod-disk",
        ],
    ),
    (
        "broken-view",
        &[
            "namespace-mount",
            "namespace-pid",
            "files-state",
            "files-bait",
            "write-root",
            "dev-contents",
            "socket-bait",
            "terminals-of-others",
            "outside-visible",
            "outside-kill",
            "outside-ptrace",
            "outside-memory",
            "outside-pidfd",
            "outside-priority",
            "threads-outside",
        ],
    ),
];

/// Who looks for what others have laid holds it alone.
static LAYING: RwLock<()> = RwLock::new(());

fn beside() -> RwLockReadGuard<'static, ()> {
    LAYING.read().unwrap_or_else(PoisonError::into_inner)
}

fn probe(project: &Project) -> Command {
    let mut probe = tool("lbx-probe");
    probe.arg("--").arg(project.path());
    probe
}

/// The names of the points in a report that begin with `start`.
fn points(report: &str, start: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let (_, rest) = line.strip_prefix(start)?.split_once(" - ")?;
        Some(rest.split(':').next()?.to_owned())
    };
    report.lines().filter_map(name).collect()
}

#[test]
fn nothing_gets_through_and_soon() {
    let _beside = beside();
    let project = Project::new();
    project.create(&[]);
    let begun = Instant::now();
    let report = text(probe(&project).assert().success());
    let took = begun.elapsed();
    assert!(took < scaled(Duration::from_secs(5)), "{took:?}");
    let lines: Vec<&str> = report.lines().collect();
    let count = lines.len() - 2;
    assert!(count > 200, "{report}");
    assert_eq!((lines[0], lines[count + 1]), ("TAP version 14", format!("1..{count}").as_str()));
    for (number, line) in lines[1..=count].iter().enumerate() {
        assert!(line.starts_with(&format!("ok {} - ", number + 1)), "{line}");
    }
    let skipped: Vec<&str> = lines.iter().filter_map(|line| Some(line.split_once(" # SKIP ")?.1)).collect();
    let count = |why: &str| skipped.iter().filter(|word| **word == why).count();
    // the process laid outside may have the number of one that attacks just then
    let by_chance = count("the number is a process's inside");
    // the machine itself may be one, of somebody else's
    let not_here = count("not a Lima VM") + count("a Lima VM that lbx-vm has not made");
    // Lima lets everybody in its guests listen on low ports
    let low_port = count("everybody may: the machine's ip_unprivileged_port_start");
    assert!(by_chance <= 1, "{skipped:#?}");
    assert_eq!(not_here, usize::from(place() != Place::Lima), "{skipped:#?}");
    assert!(low_port == 0 || place() == Place::Lima, "{skipped:#?}");
    assert_eq!(skipped.len(), by_chance + not_here + low_port + count("shared as documented"), "{skipped:#?}");
    assert_eq!(project.state(), "running", "it was started");
}

#[test]
fn nothing_gets_through_to_a_project_that_is_not_to_be_changed() {
    let _beside = beside();
    // what is not a plain word is spelt otherwise among the mounts
    for (asked, name) in [("cow", "a b"), ("ro", "app")] {
        let project = Project::named(name);
        project.create(&["--project", asked]);
        // layers of a home, too, and frozen ones
        project.env_tool("save").arg("--").arg(project.path()).arg("first").assert().success();
        let report = text(probe(&project).assert().success());
        assert!(points(&report, "not ok").is_empty(), "{asked}: {report}");
        assert!(report.contains("no layer has a path"), "{report}");
        assert!(points(&report, "ok").contains("project-closed"), "{report}");
        project.sh("true");
        project.must("stop");
        if asked == "cow" {
            // what was tried has left no change
            project.env_tool("set").args(["--project", "rw"]).arg(project.path()).assert().success();
        }
    }
}

#[test]
fn what_an_environment_gives_up_is_said() {
    let _beside = beside();
    // in a directory whose name a terminal, a test point and JSON must be kept from
    let odd = OsStr::from_bytes(if HERE.contains(&place()) { &b"a #b\n\x1b[31m\xff\\"[..] } else { b"a #b" });
    let project = Project::named(odd);
    project.create(&["--net", "none", "--nest"]);
    let report = text(probe(&project).assert().success());
    assert!(!report.contains("shared as documented") && !report.contains('\x1b'), "{report}");
    let given_up: Vec<&str> = report.lines().filter(|line| line.contains("# SKIP given up by --nest")).collect();
    for name in ["unshare-user", "clone-user", "proc-sys-read-only"] {
        assert!(given_up.iter().any(|line| line.contains(&format!(" - {name}: "))), "{name}: {given_up:#?}");
    }
    for held in ["loopback", "abstract-socket", "uncover-in-namespace", "setns-first", "bpf", "tiocsti"] {
        let of = format!(" - {held}: ");
        assert!(report.lines().any(|line| line.contains(&of) && !line.contains("SKIP")), "{held}: {report}");
    }
}

#[test]
fn what_listens_for_the_host_of_a_vm_is_attacked_and_reached_where_nothing_keeps_it_off() {
    if !only_at(&[Place::Ssh], "the network must be the place's own, and no VM's") {
        return;
    }
    let _alone = LAYING.write().unwrap_or_else(PoisonError::into_inner);
    let project = Project::new();
    project.create(&[]);
    let point = || {
        let output = probe(&project).output().unwrap();
        let report = String::from_utf8(output.stdout).unwrap();
        report.lines().find(|line| line.contains(" - host-loopback: ")).map(str::to_owned).unwrap_or_default()
    };
    // what Lima tells a guest, and an address that answers as the host's does
    host(
        "mount -t tmpfs tmpfs /mnt; mkdir /mnt/lima-cidata; cd /mnt/lima-cidata; \
         echo LIMA_CIDATA_SLIRP_GATEWAY=192.168.5.2 >lima.env; echo PARAM_hostLoopback=closed >param.env",
    );
    let unreachable = point();
    host("ip address add 192.168.5.2/32 dev lo");
    let reached = point();
    host("echo PARAM_hostLoopback=open >/mnt/lima-cidata/param.env");
    let open = point();
    host("ip address del 192.168.5.2/32 dev lo; umount /mnt");
    assert!(unreachable.starts_with("ok ") && !unreachable.contains("SKIP"), "{unreachable}");
    assert!(reached.starts_with("not ok ") && reached.contains("192.168.5.2"), "{reached}");
    assert!(open.ends_with("# SKIP given up by vm.host_loopback"), "{open}");
}

#[test]
fn several_environments_are_one_report() {
    let _beside = beside();
    let (a, b) = (Project::named("alpha"), Project::named("beta"));
    let names = [a.create(&[]), b.create(&[])];
    let mut all = tool("lbx-probe");
    all.arg("-").write_stdin(format!("{}\nnone-0000\n{}\n", names[0], names[1]));
    let report = text(all.assert().code(1).stderr(contains("no such environment: none-0000")));
    let count = report.lines().count() - 2;
    assert!(report.ends_with(&format!("\n1..{count}\n")), "{report}");
    for name in &names {
        let own = report.lines().filter(|line| line.contains(&format!(" - {name}: "))).count();
        assert_eq!(own, count / 2, "{name}: {report}");
    }
    assert!(points(&report, "not ok").is_empty(), "{report}");
    // nothing to do is done
    tool("lbx-probe").arg("-").write_stdin("").assert().success().stdout("TAP version 14\n1..0\n");
    tool("lbx-probe").assert().code(2);
}

#[test]
fn json_and_the_list_name_the_same_attacks() {
    let _beside = beside();
    let project = Project::new();
    let name = project.create(&[]);
    let read = |text: &str| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let mut json = tool("lbx-probe");
    let told = read(&text(json.args(["--json", &name]).assert().success()));
    let listed = read(&text(tool("lbx-probe").args(["--list", "--json"]).assert().success()));
    let names = |of: &[Value]| -> Vec<String> { of.iter().map(|o| o["name"].as_str().unwrap().to_owned()).collect() };
    assert_eq!(names(&told), names(&listed));
    for point in &told {
        assert_eq!((&point["env"], &point["place"]), (&Value::from(&*name), &Value::from(on())), "{point}");
        assert!(["held", "skipped"].contains(&point["verdict"].as_str().unwrap()), "{point}");
        for field in ["about", "tried", "answer"] {
            assert!(point[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {point}");
        }
    }
    let table = text(tool("lbx-probe").arg("--list").assert().success());
    let columns: Vec<usize> = table.lines().map(|line| line.split('\t').count()).collect();
    assert_eq!((columns.len(), columns.iter().all(|count| *count == 3)), (listed.len(), true));
    for source in ["CVE-2019-5736", "CVE-2024-21626", "CVE-2022-0492", "CVE-2016-9962", "CVE-2014-3519"] {
        assert!(table.contains(source), "{source}");
    }
    // by its verb as well
    let dispatched = text(tool("llima-box").args(["probe", "--list"]).assert().success());
    assert_eq!(dispatched, table);
}

/// What a probe lays outside.
fn laid() -> String {
    host(
        "cd /; ls -d /tmp/lbx-* /var/tmp/lbx-* /dev/shm/lbx-* /run/lbx-????????* 2>/dev/null || :; ipcs | grep 666 || :",
    )
}

#[test]
fn nothing_is_left_outside_however_it_ends() {
    if !only_at(&[Place::Local], "a probe that is killed is one of this machine") {
        return;
    }
    let _alone = LAYING.write().unwrap_or_else(PoisonError::into_inner);
    let project = Project::new();
    project.create(&[]);
    probe(&project).assert().success();
    assert_eq!(laid(), "");
    assert_eq!(project.sh("ls -A ~ /tmp /dev/shm | grep lbx- || :"), "");
    for pause in [5, 20, 60, 120] {
        let mut probe = std_command(tool_file("lbx-probe"));
        probe.arg(project.path()).stdout(std::process::Stdio::null());
        let mut child = probe.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        let _ = child.kill();
        let _ = child.wait();
        eventually("the baits are gone", || laid().is_empty());
    }
    eventually("the attackers are gone", || {
        !project.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").contains("--inside")
    });
}

#[test]
fn an_agent_learns_nothing_of_others_by_the_attacker() {
    let _beside = beside();
    let (probed, other) = (Project::named("probed"), Project::named("secret"));
    probed.create(&[]);
    let name = other.create(&[]);
    other.must("start");
    let mut spy = std_command(tool_file("lbx-enter"));
    let look = "end=$(($(date +%s) + 8)); while [ $(date +%s) -lt $end ]; do \
                for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; tr '\\0' ' ' <$p/environ; done 2>/dev/null | grep -e '[-]-inside'; done; :";
    spy.arg(probed.path()).args(["--", "sh", "-c", look]).stdout(std::process::Stdio::piped());
    let spy = spy.stdin(std::process::Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        probe(&probed).assert().success();
    }
    let seen = String::from_utf8(spy.wait_with_output().unwrap().stdout).unwrap();
    assert!(seen.contains("--inside"), "the spy sees the attacker");
    assert!(!seen.contains(&name) && !seen.contains(other.str()), "{seen}");
}

#[test]
fn an_agent_that_keeps_the_attacker_from_telling_is_told_of() {
    let _beside = beside();
    let project = Project::new();
    project.create(&[]);
    executable(env!("CARGO_BIN_EXE_hunt"), project.path().join("hunt"));
    for signal in ["SIGKILL", "SIGSTOP"] {
        let start = || {
            let mut agent = std_command(tool_file("lbx-enter"));
            agent.arg(project.path()).args(["--", "./hunt", "silence", signal, "--inside"]);
            let agent = agent.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
            let mut agent = agent.spawn().unwrap();
            let mut ready = [0; 6];
            agent.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
            agent
        };
        let mut agent = start();
        let begun = Instant::now();
        // until the agent is quick enough
        loop {
            let output = probe(&project).output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            match output.status.code() {
                Some(0) => {
                    assert!(begun.elapsed() < scaled(Duration::from_secs(30)), "{output:?}");
                    // what it signalled had told all by then, or had not begun: lbx-enter lets that go on
                    if agent.try_wait().unwrap().is_some() {
                        agent = start();
                    }
                }
                // before the first attack, nothing was tried
                Some(1) => break assert!(told.is_empty() || told.contains("cannot be probed"), "{output:?}"),
                _ => panic!("{output:?}"),
            }
        }
        assert!(agent.wait().unwrap().success());
        project.must("stop");
    }
}

/// The directory of the tools with `feature`.
fn broken(feature: &str) -> Option<PathBuf> {
    std::env::var_os("LBX_TEST_BROKEN").map(|dir| Path::new(&dir).join(feature))
}

#[test]
fn what_is_broken_on_purpose_is_found() {
    if !only_at(&HERE[..1], "the tools that are broken are this machine's") {
        return;
    }
    // nothing else runs: what environments share is made by the first
    let _alone = LAYING.write().unwrap_or_else(PoisonError::into_inner);
    let other = Project::named("other");
    other.create(&[]);
    let mut unnoticed = Vec::new();
    for (feature, attacks) in BROKEN {
        let Some(dir) = broken(feature) else {
            skip("LBX_TEST_BROKEN is not set: scripts/test builds what is broken on purpose");
            return;
        };
        let project = Project::new();
        project.create(match *feature {
            "broken-network" => &["--net", "none"],
            "broken-layers" => &["--project", "cow"],
            _ => &[],
        });
        // not running: lbx-env of the directory starts it
        let output = command(dir.join("lbx-probe")).arg(project.path()).output().unwrap();
        let report = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.code() == Some(1) && !report.contains("no answer"), "{feature}: {report}");
        let through = points(&report, "not ok");
        unnoticed
            .extend(attacks.iter().filter(|name| !through.contains(**name)).map(|name| format!("{feature}: {name}")));
    }
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");
}
