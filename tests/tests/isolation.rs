//! What a process inside cannot see, reach or do: the promises of `llima-box(7)`, SECURITY MODEL,
//! probed from inside.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Stdio};

use lbx_tests::machine::{exists, read};
use lbx_tests::place::{HERE, host_command};
use lbx_tests::{
    Place, Project, User, command, eventually, executable, host, installed, machine, only_at, place, project,
    std_command, text, tool, tool_file,
};

/// Everything that a command inside can walk, but what every machine has and /proc.
const EVERYWHERE: &str = "find / \\( -path /proc -o -path /usr -o -path /sys \\) -prune -o -print 2>/dev/null || :";

/// A project with the program `attempt` in it.
fn project_with_attempt(options: &[&str]) -> Project {
    let project = Project::new();
    project.create(options);
    executable(env!("CARGO_BIN_EXE_attempt"), project.path().join("attempt"));
    project
}

/// A command inside that runs until this is dropped.
struct Background(Child);

impl Background {
    fn run(project: &Project, words: &[&str]) -> Background {
        let mut enter = std_command(tool_file("lbx-enter"));
        enter.arg(project.path()).arg("--").args(words).stdin(Stdio::null());
        Background(enter.spawn().unwrap())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.0.id().try_into().unwrap()),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.0.wait();
    }
}

// ---- two environments side by side ------------------------------------------------------------

#[test]
fn two_projects_see_no_files_of_each_other() {
    let (a, b) = (Project::named("alpha"), Project::named("beta"));
    let (name_a, name_b) = (a.create(&[]), b.create(&[]));
    a.must("start");
    b.must("start");
    // beside the project, in its parent
    std::fs::create_dir(a.base().join("sibling")).unwrap();
    std::fs::write(a.base().join("marker-sibling"), "").unwrap();
    for (own, other, own_name, other_name) in [(&a, &b, &name_a, &name_b), (&b, &a, &name_b, &name_a)] {
        for place in ["$PWD", "$HOME", "/tmp", "/var/tmp", "/dev/shm"] {
            own.sh(&format!("echo secret >\"{place}/marker-{own_name}\""));
        }
        let all = other.sh(EVERYWHERE);
        assert!(all.contains(other.str()), "the search finds the project itself");
        for secret in [own_name.as_str(), own.str(), "marker-sibling", "/sibling"] {
            assert!(!all.contains(secret), "{other_name} sees {secret}:\n{all}");
        }
        let parents = other.sh("cd \"$PWD\"; cd ..; ls -A; cd ..; ls -A; ls -A /home");
        let project = other.path().file_name().unwrap().to_str().unwrap();
        let base = other.base().file_name().unwrap().to_str().unwrap();
        let mut homes = vec![other_name.as_str()];
        let root = project::root();
        homes.extend(root.strip_prefix("/home").ok().and_then(Path::to_str));
        homes.sort_unstable();
        assert_eq!(parents, format!("{project}\n{base}\n{}\n", homes.join("\n")));
        other.enter(["ls", own.str()]).assert().code(2);
    }
    // nor does the machine see what is private
    for place in ["/tmp", "/var/tmp", "/dev/shm"] {
        assert!(!exists(Path::new(place).join(format!("marker-{name_a}"))), "{place}");
    }
    // several shells of one project share it all
    for place in ["/tmp", "/var/tmp", "/dev/shm", "$HOME"] {
        assert_eq!(a.sh(&format!("cat \"{place}/marker-{name_a}\"")), "secret\n");
    }
}

#[test]
fn two_projects_see_no_processes_of_each_other() {
    let (a, b) = (Project::new(), Project::new());
    let (name_a, name_b) = (a.create(&[]), b.create(&[]));
    let _running = Background::run(&a, &["sleep", "9876"]);
    let look = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done 2>/dev/null | grep '[s]leep 9876' || :";
    eventually("another shell of the project sees it", || a.sh(look) == "sleep 9876 \n");
    assert_eq!(b.sh(look), "");
    let names = b.sh("cat /proc/[0-9]*/status | sed -n 's/^Name:\t//p' | sort -u");
    assert!(!names.contains("sleep") && !names.contains("systemd"), "{names}");
    // the first process, the shell, cat, sed and sort
    let count: u32 = b.sh("ls -d /proc/[0-9]* | wc -l").trim().parse().unwrap();
    assert!(count <= 5, "{count} processes");
    assert_eq!(a.sh("id -u") == b.sh("id -u"), a.shares_uid());
    assert_eq!((a.sh("id -un").trim(), b.sh("id -un").trim()), (name_a.as_str(), name_b.as_str()));
    // signals to everybody reach nobody else
    let _ = b.enter(["sh", "-c", "kill -KILL -1"]).output();
    assert_eq!(a.sh(look), "sleep 9876 \n");
}

#[test]
fn two_projects_share_no_ipc() {
    let (a, b) = (Project::new(), Project::new());
    a.create(&[]);
    b.create(&[]);
    a.sh("ipcmk -M 4096 >/dev/null; ipcmk -Q >/dev/null; ipcmk -S 1 >/dev/null; echo x >/dev/shm/object");
    let count = "cat /proc/sysvipc/shm /proc/sysvipc/msg /proc/sysvipc/sem | grep -vc key || :";
    assert_eq!(a.sh(count).trim(), "3");
    assert_eq!(b.sh(count).trim(), "0");
    assert_eq!(b.sh("ls -A /dev/shm"), "");
    assert_eq!(host(count).trim(), "0");
}

#[test]
fn two_projects_do_not_know_each_others_names() {
    let (a, b) = (Project::named("alpha"), Project::named("beta"));
    let (name_a, name_b) = (a.create(&["--label", "of=alpha"]), b.create(&[]));
    a.must("start");
    let user = User::new();
    let look = format!(
        "hostname; cat /etc/passwd /etc/group /etc/hosts /etc/hostname /proc/[0-9]*/mountinfo /proc/[0-9]*/cgroup \
         /proc/[0-9]*/cmdline /proc/[0-9]*/status /proc/self/mounts /proc/locks /proc/keys 2>/dev/null | tr '\\0' ' '; env; \
         getent passwd; getent group; {EVERYWHERE}; find /sys/fs /proc/1/ 2>/dev/null || :"
    );
    let all = b.sh(&look);
    assert!(all.starts_with(&format!("{name_b}\n")), "the host's name is the environment's: {all}");
    for secret in [&name_a, a.str(), &user.name, "of=alpha"] {
        assert!(!all.contains(secret), "{secret} is known inside: {:?}", all.lines().find(|l| l.contains(secret)));
    }
    // accounts: those of the system, and its own
    for line in b.sh("cat /etc/passwd").lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let uid: u32 = fields[2].parse().unwrap();
        assert!(uid < 1000 || fields[0] == name_b || fields[0] == "nobody", "{line}");
        if fields[0] == name_b {
            assert_eq!(
                (fields[5], fields[6]),
                (format!("/home/{name_b}").as_str(), b.record()["shell"].as_str().unwrap())
            );
        }
    }
    assert_eq!(b.sh("sed 's/.*://' /proc/self/cgroup | sort -u"), "/\n", "the cgroup's path is not shown");
}

#[test]
fn a_change_of_the_machines_files_is_not_seen_inside() {
    let project = Project::new();
    project.create(&[]);
    project.must("start");
    let before = project.sh("cat /etc/passwd /etc/group /etc/hosts /etc/hostname /etc/resolv.conf");
    // useradd renames new files over the old ones, which detaches what was bound on them
    let user = User::new();
    host(
        "for f in hosts hostname resolv.conf; do cp /etc/$f /etc/$f.new; echo '# lbx-test' >>/etc/$f.new; mv /etc/$f.new /etc/$f; done",
    );
    let after = project.sh("cat /etc/passwd /etc/group /etc/hosts /etc/hostname /etc/resolv.conf");
    assert!(!after.contains(&user.name) && !after.contains("lbx-test"), "{after}");
    assert_eq!(before, after);
    assert_eq!(project.sh("cat /proc/[0-9]*/mountinfo | grep -c deleted || :"), "0\n");
}

#[test]
fn the_machines_secrets_are_absent() {
    let user = User::new();
    host(
        "umask 077; mkdir -p /etc/ssh /etc/sudoers.d /etc/security; echo '# secret' >/etc/sudoers.d/secret; \
         for f in shadow- gshadow- sudoers ssh/ssh_host_rsa_key ssh/ssh_host_ed25519_key \
                  machine-id security/opasswd; do [ -e /etc/$f ] || echo secret >/etc/$f; done; \
         chmod 644 /etc/machine-id",
    );
    let project = Project::new();
    let name = project.create(&[]);
    let absent = [
        "/etc/shadow",
        "/etc/shadow-",
        "/etc/gshadow",
        "/etc/gshadow-",
        "/etc/sudoers",
        "/etc/sudoers.d/secret",
        "/etc/ssh/ssh_host_rsa_key",
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/machine-id",
        "/etc/security/opasswd",
        "/var/lib/llima-box",
        "/run/llima-box",
        "/var/lib/dbus/machine-id",
        "/boot/grub",
        "/var/log/dpkg.log",
        "/var/spool/cron",
        "/run/systemd",
        "/run/dbus",
        "/var/run/docker.sock",
        "/lost+found",
        "/root/.ssh",
        "/root/.cargo",
        user.home().to_str().unwrap(),
    ];
    for path in absent {
        let answer = project.sh(&format!("if [ -e {path} ] || [ -L {path} ]; then ls -ld {path}; fi"));
        assert_eq!(answer, "", "{path}");
    }
    assert_eq!(project.sh("ls -A /root /boot /mnt /media 2>/dev/null | grep -v : || :").trim(), "");
    // what is there is what an ordinary account of the machine could read, and no more
    assert_eq!(project.sh("cat /etc/hostname"), format!("{name}\n"));
    // the home is nobody else's
    user.host_command(&["ls", &format!("/home/{name}")]).assert().code(2);
    user.host_command(&["cat", &format!("/run/llima-box/{name}/holder")]).assert().code(1);
}

// ---- rights -----------------------------------------------------------------------------------

/// `/proc/PID/status` as a map.
fn status(text: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect()
}

#[test]
fn a_process_inside_has_no_rights() {
    let project = Project::new();
    let name = project.create(&[]);
    let account = machine::account(&name).unwrap();
    let own = status(&project.sh("cat /proc/self/status"));
    let all = status(&project.sh("cat /proc/1/status"));
    for (who, status) in [("a command", &own), ("the first process", &all)] {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status[set], "0000000000000000", "{set} of {who}");
        }
    }
    assert_eq!((own["NoNewPrivs"].as_str(), own["Seccomp"].as_str()), ("1", "2"));
    let four = |id: u32| [id.to_string(), id.to_string(), id.to_string(), id.to_string()].join("\t");
    assert_eq!((&own["Uid"], &own["Gid"]), (&four(account.uid), &four(account.gid)));
    let groups: BTreeSet<u32> = own["Groups"].split_whitespace().map(|g| g.parse().unwrap()).collect();
    assert!(groups.is_subset(&[account.gid].into()), "{groups:?}");
    let holder = all["Uid"].split_whitespace().next().unwrap();
    assert!(holder != "0" && holder != account.uid.to_string(), "the first process is {holder}'s");

    let limits = project.sh("cat /proc/self/limits");
    let limit = |what: &str| -> Vec<String> {
        let line = limits.lines().find(|l| l.starts_with(what)).unwrap();
        line[what.len()..].split_whitespace().take(2).map(Into::into).collect()
    };
    assert_eq!(limit("Max core file size"), ["1", "1"]);
    let cgroups = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(|m| Path::new(m).join("llima-box").join(&name).join("pids.max"));
    let by_cgroup = cgroups.iter().map(read).find(|max| !max.is_empty()).filter(|max| max.trim() != "max");
    let processes: u32 = by_cgroup
        .map_or_else(|| limit("Max processes")[1].clone(), |max| max.trim().to_owned())
        .parse()
        .expect("the number of processes is limited");
    assert!(processes <= 1 << 16, "{processes} processes");
}

#[test]
fn a_flood_of_processes_ends_at_the_limit() {
    let (flooded, other) = (Project::new(), Project::new());
    flooded.create(&[]);
    other.create(&[]);
    // perl forks faster than a shell
    if !installed(&["perl"]) {
        return;
    }
    let flood = "my $n = 0; while (1) { my $p = fork; last unless defined $p; if (!$p) { close STDOUT; close STDERR; sleep 100; exit } $n++; last if $n > 70000 } print $n";
    let count: u32 = text(flooded.enter(["perl", "-e", flood]).assert().success()).parse().unwrap();
    assert!(count <= 1 << 16, "{count} processes and no end");
    assert_eq!(other.sh("echo fine"), "fine\n");
    // an emulated machine may need longer than the tool waits
    eventually("it stops", || {
        let stop = flooded.env_tool("stop").arg(flooded.path()).output().unwrap();
        assert!(stop.status.success() || place() == Place::Lima, "{stop:?}");
        stop.status.success()
    });
    assert_eq!(flooded.sh("echo fine again"), "fine again\n");
}

#[test]
fn the_filter_answers_as_documented() {
    let project = project_with_attempt(&[]);
    let expected: &[(&str, &[&str])] = &[
        (
            "EPERM",
            &[
                "unshare-user",
                "unshare-mount",
                "unshare-net",
                "unshare-pid",
                "unshare-ipc",
                "unshare-uts",
                "unshare-cgroup",
                "clone-user",
                "setns",
                "setns-1",
                "mount",
                "bind",
                "umount",
                "pivot_root",
                "chroot",
                "open_tree",
                "move_mount",
                "fsopen",
                "fspick",
                "mount_setattr",
                "bpf",
                "perf_event_open",
                "userfaultfd",
                "keyctl",
                "add_key",
                "request_key",
                "tiocsti",
                "tiocsti-high",
                "tioclinux",
                "tioclinux-high",
                "chmod-setuid",
                "chmod-setgid",
                "chmod-setgid-noexec",
                "chmod-setuid-high",
                "chmod-setuid-wide",
                "fchmod-setuid",
                "fchmodat-setuid",
                "openat-setuid",
                "openat-setgid",
                "tmpfile-setuid",
                "mknodat-setuid",
                "mkdirat-setgid",
                "mknodat-device",
                "file-capability",
                "kill-1",
                "tgkill-1",
                "pidfd-kill-1",
                "pidfd-getfd-1",
                "ptrace-1",
                "read-memory-1",
                "prlimit-1",
                "setuid-0",
                "setgid-0",
                "setgroups",
                "sethostname",
                "syslog",
                "raise-capabilities",
                "open_by_handle_at",
                "socket-raw",
            ],
        ),
        (
            "EPROTONOSUPPORT",
            &["socket-inet-raw", "socket-udplite", "socket-udplite-high", "socket-sctp", "socket-dccp"],
        ),
        ("ENOPROTOOPT", &["socket-peer-process"]),
        ("ENOSYS", &["clone3", "openat2", "io_uring_setup", "io_uring_enter", "io_uring_register"]),
        (
            "ok",
            &[
                "clone-plain",
                "chmod-sticky",
                "mknodat-fifo",
                "socket-unix",
                "socket-inet",
                "socket-inet6",
                "socket-udp",
                "socket-netlink-route",
                "socketpair-unix",
            ],
        ),
    ];
    let mut table: Vec<(&str, &str)> =
        expected.iter().flat_map(|(answer, words)| words.iter().map(move |word| (*word, *answer))).collect();
    if place() == Place::Lima {
        // a share of the host's files has no pipes with names
        table.retain(|(word, _)| *word != "mknodat-fifo");
        table.push(("mknodat-fifo", "ENXIO"));
    }
    if cfg!(target_arch = "x86_64") {
        table.extend(["open-setuid", "creat-setuid", "mknod-setuid", "mkdir-setgid"].map(|word| (word, "EPERM")));
        table.extend(["x32-getpid", "i386-getpid", "i386-unshare"].map(|word| (word, "SIGSYS")));
        table.push(("fork", "ok"));
    }
    let words: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
    let answers = text(project.enter([&["./attempt"], &words[..]].concat()).assert().success());
    let wrong: Vec<String> = table
        .iter()
        .zip(answers.lines())
        .filter(|((word, answer), line)| format!("{word} {answer}") != **line)
        .map(|((_, answer), line)| format!("{line}, not {answer}"))
        .collect();
    assert_eq!(answers.lines().count(), table.len());
    assert!(wrong.is_empty(), "{wrong:#?}");

    // refused, by one error or another
    let refused = [
        "socket-netlink-generic",
        "socket-netlink-uevent",
        "socket-netlink-audit",
        "socket-packet",
        "socket-inet-packet",
        "socket-vsock",
        "socket-vsock-high",
        "socket-alg",
        "fchmodat2-setuid",
        "init_module",
    ];
    let answers = text(project.enter([&["./attempt"], &refused[..]].concat()).assert().success());
    for line in answers.lines() {
        let (_, answer) = line.split_once(' ').unwrap();
        assert!(["EPERM", "EACCES", "EAFNOSUPPORT", "ENOSYS"].contains(&answer), "{line}");
    }

    // none of it has left a file that runs as another
    let all = host(&format!("find {} /home/{} -perm /6000", project.str(), project.name()));
    assert_eq!(all, "");
    assert_eq!(project.state(), "running");
}

#[test]
fn programs_that_give_rights_give_none() {
    let project = Project::new();
    project.create(&[]);
    // where sudo, su or mount are installed set-user-ID, they are not inside
    let output = project.enter(["sh", "-c", "su -c id; sudo -n id; mount -t tmpfs none /tmp; newgrp root </dev/null; ping -c1 -W1 127.0.0.1 >/dev/null 2>&1; id -u"]).output().unwrap();
    let uid = machine::account(&project.name()).unwrap().uid;
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().last(), Some(uid.to_string().as_str()), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("uid=0"), "{output:?}");
}

#[test]
fn the_callers_session_keyring_stays_outside() {
    if !only_at(&[Place::Local], "no keyring of the caller's goes to another place") {
        return;
    }
    let project = project_with_attempt(&[]);
    project.must("start");
    let keyring = format!("lbx-test-{}", std::process::id());
    let listed = || std::fs::read_to_string("/proc/keys").unwrap_or_default().contains(&keyring);
    let attempt = env!("CARGO_BIN_EXE_attempt");
    // the keyring lives as long as a process has it: the shell first, to see that it is listed
    let mut shell = std_command(attempt);
    shell.args(["keyring", &keyring, "sh", "-c", "read go; exec \"$@\"", "sh"]).arg(tool_file("lbx-enter"));
    shell.arg(project.path()).args(["--", "sh", "-c", "setsid sleep 5432 </dev/null >/dev/null 2>&1 & exit 0"]);
    let mut child = shell.stdin(Stdio::piped()).spawn().unwrap();
    eventually("the caller has the keyring", listed);
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    eventually("nobody has the keyring", || !listed());
    assert_eq!(project.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[s]leep 5432'"), "1\n");
}

#[test]
fn the_first_process_cannot_be_touched() {
    let project = project_with_attempt(&[]);
    let before = project.sh("stat -c %Y /proc/1");
    let script = "kill -KILL 1; kill -TERM 1; kill -STOP 1; kill -INT 1; \
        for f in root exe cwd fd ns ns/mnt; do readlink /proc/1/$f; done; ls /proc/1/fd /proc/1/root/ /proc/1/cwd/; \
        cat /proc/1/environ /proc/1/maps /proc/1/mem /proc/1/auxv /proc/1/syscall; cd /proc/1/root && pwd; :";
    let output = project.enter(["sh", "-c", script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{output:?}");
    assert_eq!(project.sh("stat -c %Y /proc/1"), before, "it is another process");
    // nor by the descriptors of whatever else runs there
    let _running = Background::run(&project, &["sleep", "2345"]);
    let look = "for fd in /proc/[0-9]*/fd/*; do stat -Lc '%F' $fd; done 2>/dev/null | sort -u";
    eventually("it runs", || project.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").contains("sleep 2345"));
    assert!(!project.sh(look).contains("directory"), "a directory is open in a process inside");
}

// ---- the view ---------------------------------------------------------------------------------

/// A line of mountinfo.
#[derive(Debug)]
struct Mount {
    root: String,
    point: String,
    options: BTreeSet<String>,
    kind: String,
}

fn mounts(text: &str) -> Vec<Mount> {
    text.lines()
        .map(|line| {
            let (head, tail) = line.split_once(" - ").unwrap();
            let words: Vec<&str> = head.split(' ').collect();
            Mount {
                root: words[3].to_owned(),
                point: words[4].to_owned(),
                options: words[5].split(',').map(Into::into).collect(),
                kind: tail.split(' ').next().unwrap().to_owned(),
            }
        })
        .collect()
}

#[test]
fn every_mount_is_nosuid_and_nodev_and_few_are_writable() {
    let project = Project::new();
    let name = project.create(&["--private", "target"]);
    let mounts = mounts(&project.sh("cat /proc/self/mountinfo"));
    let home = format!("/home/{name}");
    let private = format!("{}/target", project.str());
    let writable = [project.str(), &private, &home, "/tmp", "/var/tmp", "/run", "/dev/shm", "/proc", "/dev/pts"];
    for mount in &mounts {
        let device = mount.point.starts_with("/dev/") && !["/dev/shm", "/dev/mqueue"].contains(&mount.point.as_str());
        assert!(mount.options.contains("nosuid"), "{mount:?}");
        assert!(device || mount.options.contains("nodev"), "{mount:?}");
        let masked = device || mount.root == "/null";
        assert!(mount.options.contains("ro") || masked || writable.contains(&mount.point.as_str()), "{mount:?}");
        assert!(!mount.options.contains("shared"), "{mount:?}");
    }
    let find = |point: &str| mounts.iter().rfind(|m| m.point == point);
    for point in ["/", "/usr", "/etc", "/sys", "/proc/sys"] {
        assert!(find(point).unwrap_or_else(|| panic!("{point} is no mount")).options.contains("ro"), "{point}");
    }
    assert_eq!(find("/").unwrap().kind, "tmpfs");
    assert_eq!(find("/etc").unwrap().kind, "overlay");
    assert_eq!(mounts.iter().filter(|m| m.point == "/").count(), 1, "the old root is gone");
    // propagation: what the machine mounts later does not appear
    let text = project.sh("cat /proc/self/mountinfo");
    assert!(!text.contains(" shared:") && !text.contains(" master:"), "{text}");
}

#[test]
fn what_is_read_only_cannot_be_written() {
    let project = Project::new();
    project.create(&[]);
    for place in [
        "/", "/usr", "/usr/bin", "/etc", "/bin", "/lib", "/sys", "/dev", "/var", "/var/lib", "/home", "/srv", "/proc",
        "/opt",
    ] {
        let answer =
            project.sh(&format!("[ -d {place} ] || exit 0; (: >{place}/lbx-test) 2>/dev/null && echo written || :"));
        assert_eq!(answer, "", "{place}");
    }
    for place in ["$PWD", "$HOME", "/tmp", "/var/tmp", "/dev/shm"] {
        assert_eq!(project.sh(&format!("echo fine >{place}/lbx-test; cat {place}/lbx-test")), "fine\n");
    }
}

#[test]
fn devices_are_those_documented() {
    let project = Project::new();
    project.create(&[]);
    let expected =
        ["fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"];
    assert_eq!(project.sh("ls -1 /dev").lines().collect::<Vec<_>>(), expected);
    assert_eq!(
        project
            .sh("find / -path /proc -prune -o \\( -type b -o -type c \\) -not -path '/dev/*' -print 2>/dev/null || :"),
        ""
    );
    assert_eq!(project.sh("ls -1 /dev/pts"), "ptmx\n");
    project.sh("head -c 3 /dev/zero >/dev/null; head -c 3 /dev/urandom >/dev/null; head -c 3 /dev/random >/dev/null; ! echo x >/dev/full");
    assert_eq!(
        project.sh("echo x | cat /dev/stdin; readlink /dev/stdout; ls -l /dev/null | cut -c1-10"),
        "x\n/proc/self/fd/1\ncrw-rw-rw-\n"
    );
}

#[test]
fn kernel_files_are_masked() {
    let project = Project::new();
    project.create(&[]);
    for file in ["sysrq-trigger", "kcore", "keys", "kmsg"] {
        if !exists(Path::new("/proc").join(file)) {
            continue;
        }
        let answer = project.sh(&format!("timeout 1 head -c 100 /proc/{file} 2>/dev/null || :"));
        assert_eq!(answer, "", "/proc/{file}");
        let mounts = mounts(&project.sh("cat /proc/self/mountinfo"));
        assert!(mounts.iter().any(|m| m.point == format!("/proc/{file}")), "/proc/{file} is not masked");
    }
    for dir in ["firmware", "kernel/security", "kernel/debug"] {
        assert_eq!(project.sh(&format!("ls -A /sys/{dir} 2>/dev/null || :")), "", "/sys/{dir}");
    }
    // its own processes are there
    assert_eq!(project.sh("cat /proc/self/comm"), "cat\n");
    assert_ne!(project.sh("cat /proc/meminfo /proc/cpuinfo"), "");
}

#[test]
fn what_is_private_is_one_small_file_system() {
    let project = Project::new();
    project.create(&[]);
    let places = ["/tmp", "/var/tmp", "/run", "/dev/shm"];
    let devices: BTreeSet<String> = places.iter().map(|place| project.sh(&format!("stat -c %d {place}"))).collect();
    assert_eq!(devices.len(), 1, "one file system, so that the cap is one: {devices:?}");
    let memory: u64 = project.sh("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").trim().parse().unwrap();
    let size: u64 = project.sh("df -k --output=size /tmp | tail -n 1").trim().parse().unwrap();
    assert!(size <= memory / 4 + 1024 && size >= memory / 8, "{size} of {memory} kB");
    let inodes: u64 = project.sh("df --output=itotal /tmp | tail -n 1").trim().parse().unwrap();
    assert!((100_000..=1 << 20).contains(&inodes), "{inodes} inodes");
    assert_eq!(project.sh("stat -c %a /tmp /var/tmp /dev/shm"), "1777\n1777\n1777\n");
    project.sh("echo kept >~/kept; echo gone >/tmp/gone");
    project.must("stop");
    assert_eq!(project.sh("cat ~/kept; ls -A /tmp"), "kept\n");
}

/// Something mounted over a directory of the machine, for one test.
struct Covered(&'static str);

impl Drop for Covered {
    fn drop(&mut self) {
        let _ = command("umount").args(["-l", self.0]).output();
    }
}

#[test]
fn sockets_of_opt_are_masked() {
    if !only_at(&HERE, "the socket is this machine's") {
        return;
    }
    host(
        "mkdir -p /opt; mount -t tmpfs -o mode=755 lbx-test /opt; mkdir -p /opt/vendor/run; echo tool >/opt/vendor/file",
    );
    let _covered = Covered("/opt");
    let _socket = UnixListener::bind("/opt/vendor/run/daemon.sock").unwrap();
    let project = Project::new();
    project.create(&[]);
    assert_eq!(project.sh("cat /opt/vendor/file"), "tool\n");
    // not by find, which trusts the directory's entry
    assert_eq!(project.sh("[ -S /opt/vendor/run/daemon.sock ] || echo masked"), "masked\n");
    assert_eq!(project.sh("(: >/opt/vendor/new) 2>/dev/null || echo refused"), "refused\n");
    project.must("stop");
}

#[test]
fn without_a_network_there_is_loopback_alone() {
    let project = Project::new();
    project.create(&["--net", "none"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // a VM has its own loopback, and sshd there
    let port = if place() == Place::Lima { 22 } else { listener.local_addr().unwrap().port() };
    let connect = format!("(: <>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo connected || echo refused");
    assert_eq!(text(project.enter(["bash", "-c", &connect]).assert().success()), "refused\n");
    assert_eq!(project.sh("sed -n 's/^ *\\(.*\\):.*/\\1/p' /proc/net/dev"), "lo\n");
    assert_eq!(project.sh("awk 'NR > 1 && NF > 7' /proc/net/unix"), "", "no socket has a name");
    // it is up: a connection is refused, not unreachable
    let own = "(: <>/dev/tcp/127.0.0.1/1) 2>&1 | grep -o 'Connection refused' | sort -u";
    assert_eq!(text(project.enter(["bash", "-c", own]).assert().success()), "Connection refused\n");

    let shared = Project::new();
    shared.create(&[]);
    assert_eq!(text(shared.enter(["bash", "-c", &connect]).assert().success()), "connected\n");
}

#[test]
fn nothing_is_mounted_on_the_machine_where_mounts_are_shared() {
    if !only_at(&[Place::Local], "the tools are run among mounts of the test's own") {
        return;
    }
    let shared = Project::named("shared");
    let project = Project::new();
    project.write("target/of-the-machine", "");
    project.create(&["--private", "target", "--ro", shared.str()]);
    // as systemd leaves it: every mount in a peer group
    let script = format!(
        "mount --make-rshared /; mount --make-shared --bind {0} {0}; cp /proc/self/mountinfo /tmp/before; \
         {1} start {0}; {1} stop {0}; {1} start {0}; ls {0}/target; \
         cut -d' ' -f5 /proc/self/mountinfo | sort >/tmp/after; cut -d' ' -f5 /tmp/before | sort | comm -13 - /tmp/after | grep -v '^/run/llima-box/etc$' || :; \
         {1} stop {0}",
        project.str(),
        tool_file("lbx-env").display(),
    );
    let mut private = command("unshare");
    let told = text(private.args(["--mount", "sh", "-ec", &script]).assert().success());
    assert_eq!(told, "of-the-machine\n");
}

#[test]
fn user_namespaces_are_opt_in() {
    if !installed(&["bwrap"]) {
        return;
    }
    let bwrap = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"];
    let plain = Project::new();
    plain.create(&[]);
    plain.enter(["unshare", "--user", "true"]).assert().failure();
    plain.enter(bwrap).assert().failure();

    let nest = project_with_attempt(&["--nest"]);
    nest.enter(["unshare", "--user", "--map-root-user", "true"]).assert().success();
    nest.enter(["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "true"])
        .assert()
        .success();
    nest.enter(bwrap).assert().success();
    // everything else is refused as ever, by root of such a namespace too
    let words = [
        "./attempt",
        "tiocsti",
        "chmod-setuid",
        "openat-setuid",
        "keyctl",
        "add_key",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "file-capability",
        "socket-packet",
        "socket-inet-packet",
        "socket-inet-packet-high",
        "socket-inet-raw",
        "socket-udplite",
        "socket-vsock",
        "socket-netlink-generic",
        "io_uring_setup",
        "kill-1",
        "ptrace-1",
        "pidfd-getfd-1",
    ];
    let root = ["unshare", "--user", "--map-root-user", "--net", "--mount"];
    for words in [words.to_vec(), [&root[..], &words[..]].concat()] {
        for line in text(nest.enter(words).assert().success()).lines() {
            let (_, answer) = line.split_once(' ').unwrap();
            let refusals = ["EPERM", "EACCES", "EAFNOSUPPORT", "ENOSYS", "EOPNOTSUPP", "EPROTONOSUPPORT"];
            assert!(refusals.contains(&answer), "{line}");
        }
    }
    // what covers or is read-only stays so
    for undo in [
        "umount -l /etc/passwd",
        "umount -l /etc",
        "umount -l /usr",
        "umount -l /tmp",
        "umount -l /sys",
        "mount -o remount,rw /usr",
        "mount -o remount,bind,rw /usr",
        "mount -o remount,bind,rw /etc",
        "mount -o remount,rw /sys",
        "mount -o remount,bind,suid /usr",
        "mount -o remount,bind,dev /tmp",
    ] {
        let words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", undo];
        let output = nest.enter(words).output().unwrap();
        assert!(!output.status.success(), "{undo}: {output:?}");
    }
    let raised = nest.enter([
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        "cat /etc/shadow || ls /proc/1/root/ || ls /proc/1/fd",
    ]);
    { raised }.assert().failure().stdout("");
}

// ---- the account on the machine ---------------------------------------------------------------

#[test]
fn the_account_cannot_log_in() {
    let project = Project::new();
    let name = project.create(&[]);
    project.must("start");
    let account = machine::account(&name).unwrap();
    assert_eq!((account.gecos.as_str(), account.home.as_str()), ("llima-box", "/nonexistent"));
    assert_eq!(account.shell, "/usr/sbin/nologin");
    let shadow = host(&format!("getent shadow {name}"));
    let fields: Vec<&str> = shadow.trim().split(':').collect();
    assert!(fields[1].starts_with(['!', '*']), "no password: {shadow}");
    assert!(fields[7].parse::<u32>().is_ok_and(|day| day <= 1), "expired: {shadow}");
    assert!(host(&format!("id -nG {name}")).split_whitespace().any(|group| group == "lbx-env"));
    for file in ["/etc/subuid", "/etc/subgid"] {
        assert!(!read(file).contains(&name), "{file}");
    }
    for words in [["-c", "echo in"], ["--command", "echo in"]] {
        let output = host_command(&["su", "-", &name, words[0], words[1]]).write_stdin("").output().unwrap();
        assert!(!output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("in\n"), "{output:?}");
    }
}

/// A real sshd on a port of loopback, which takes the key of [`Sshd::try_login`] for every account.
struct Sshd {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

impl Sshd {
    fn with(options: &[&str]) -> Sshd {
        let dir = tempfile::Builder::new().prefix("sshd").tempdir_in("/srv").unwrap();
        let at = |file: &str| dir.path().join(file).display().to_string();
        host(&format!(
            "mkdir -p /run/sshd; chmod 755 {0}; cd {0}; ssh-keygen -q -t ed25519 -N '' -f host; \
             ssh-keygen -q -t ed25519 -N '' -f user",
            dir.path().display()
        ));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nStrictModes no\n\
             AuthorizedKeysFile {} /home/%u/.ssh/authorized_keys\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nSubsystem sftp internal-sftp\n{}\n",
            at("host"),
            at("user.pub"),
            options.join("\n")
        );
        std::fs::write(dir.path().join("config"), config).unwrap();
        let mut sshd = std_command("/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-f", &at("config")]).stdin(Stdio::null()).stderr(Stdio::null());
        let sshd = Sshd { child: sshd.spawn().unwrap(), dir, port };
        eventually("sshd listens", || std::net::TcpStream::connect(("127.0.0.1", sshd.port)).is_ok());
        sshd
    }

    /// Whether `name` gets through authentication: for a session, and for none at all.
    fn lets_in(&self, name: &str) -> bool {
        let key = self.dir.path().join("user");
        let login = |words: &[&str]| {
            let mut ssh = command("timeout");
            ssh.args(["10", "ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
            ssh.args([
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-o",
                "IdentitiesOnly=yes",
                "-o",
                "LogLevel=VERBOSE",
                "-i",
            ]);
            ssh.arg(&key).args(["-p", &self.port.to_string(), &format!("{name}@127.0.0.1")]).args(words);
            let output = ssh.output().unwrap();
            String::from_utf8_lossy(&output.stderr).contains("Authenticated to ")
        };
        login(&["true"]) || login(&["-s", "sftp"])
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_account_cannot_come_in_by_ssh() {
    if place() == Place::Lima {
        assert!(host("sshd -T").lines().any(|line| line == "denygroups lbx-env"), "its group is denied");
        return;
    }
    if !installed(&["sshd", "ssh"]) {
        return;
    }
    let project = Project::new();
    let name = project.create(&[]);
    let person = User::new();
    // neither a password nor locked: a key opens
    command("usermod").args(["-p", "*", &person.name]).assert().success();
    for options in [
        &["UsePAM yes"][..],
        &["UsePAM no"],
        &["UsePAM yes", "DenyGroups lbx-env"],
        &["UsePAM no", "DenyGroups lbx-env"],
    ] {
        let sshd = Sshd::with(options);
        let key = std::fs::read_to_string(sshd.dir.path().join("user.pub")).unwrap();
        project.sh(&format!("mkdir -p ~/.ssh; chmod 700 ~/.ssh; echo '{}' >~/.ssh/authorized_keys", key.trim()));
        assert!(sshd.lets_in(&person.name), "{options:?}: a person comes in");
        assert!(!sshd.lets_in(&name), "{options:?}: the environment's account comes in");
    }
    // by its group alone, as in the VM
    host(&format!("chage -E -1 {name}; usermod -p '*' {name}"));
    assert!(!Sshd::with(&["UsePAM no", "DenyGroups lbx-env"]).lets_in(&name), "its group is denied");
    assert!(Sshd::with(&["UsePAM no"]).lets_in(&name), "without both it would come in: the test can fail");
}

#[test]
fn what_an_agent_plants_is_not_followed() {
    let project = Project::new();
    let name = project.create(&["--private", "target"]);
    // a private directory that has become a link
    project.must("stop");
    let _ = std::fs::remove_dir(project.path().join("target"));
    std::os::unix::fs::symlink("/etc", project.path().join("target")).unwrap();
    let output = project.enter(["sh", "-c", "ls -A target/; echo x >target/lbx-planted"]).output().unwrap();
    assert!(!exists("/etc/lbx-planted"), "{output:?}");
    assert!(!output.status.success(), "a link is not laid over: {output:?}");
    std::fs::remove_file(project.path().join("target")).unwrap();
    project.must("repair");

    // a home full of what shells and tools of the machine read
    project.sh("for f in .profile .bashrc .zshenv .gitconfig .ssh/rc .pam_environment .netrc; do \
                mkdir -p ~/$(dirname $f); printf 'touch /srv/lbx-planted-%s\\n' x >~/$f; done");
    // the project's path has become a link
    project.must("stop");
    let moved = project.base().join("moved");
    std::fs::rename(project.path(), &moved).unwrap();
    std::os::unix::fs::symlink("/etc", project.path()).unwrap();
    let output = tool("lbx-enter").arg(&name).args(["--", "cat", "hostname"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0), "{output:?}");
    std::fs::remove_file(project.path()).unwrap();
    std::fs::rename(&moved, project.path()).unwrap();
    assert_eq!(project.sh("pwd"), format!("{}\n", project.str()));
    assert_eq!(host("ls -A /srv | grep planted || :"), "");
}
