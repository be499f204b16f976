//! What else runs a command apart from the machine, in the words that make it do most of what
//! lbx-enter and lbx-env do; each says what it leaves out.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use lbx_tests::Project;
use serde_json::json;

/// Makes of a command the words that run it otherwise.
pub(crate) type Words<'a> = dyn Fn(&[&str]) -> Vec<OsString> + 'a;

/// A program that can be compared.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) words: Vec<OsString>,
    /// What fails where it only seems to do so.
    pub(crate) proof: Option<Vec<OsString>>,
}

/// Why `words` cannot be run here.
pub(crate) fn cannot(words: &[OsString]) -> Option<String> {
    let run = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    match run {
        Err(e) => Some(format!("{}: {e}", words[0].display())),
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            Some(errors.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it fails").trim().to_owned())
        }
    }
}

/// The words of a command that enters as lbx-enter does, by util-linux: the same namespaces, account,
/// capabilities and `no_new_privs`; no filter, limits, keyring or session of its own.
pub(crate) fn nsenter(project: &Project, command: &[&str]) -> Vec<OsString> {
    let record = project.record();
    let number = |field: &str| record[field].as_u64().unwrap_or_else(|| panic!("{field} is a number")).to_string();
    let (uid, gid) = (number("uid"), number("gid"));
    let mut words: Vec<OsString> =
        ["nsenter", "--target", &holder(), "--mount", "--pid", "--ipc", "--uts", "--cgroup"].map(OsString::from).into();
    words.extend(["setpriv", "--reuid", &uid, "--regid", &gid, "--clear-groups"].map(OsString::from));
    words.extend(["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"].map(OsString::from));
    words.extend(command.iter().map(OsString::from));
    words
}

/// The process that holds the one environment that runs.
pub(crate) fn holder() -> String {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let mut holders = processes
        .filter(|p| std::fs::read_to_string(p.path().join("comm")).is_ok_and(|name| name.trim() == "lbx-holder"));
    let holder = holders.next().expect("an environment runs");
    assert!(holders.next().is_none(), "one environment alone");
    holder.file_name().to_string_lossy().into_owned()
}

/// bubblewrap with all that it unshares.
pub(crate) fn bwrap(command: &[&str]) -> Vec<OsString> {
    let words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session"];
    let view = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"];
    words.iter().chain(&view).chain(command).map(OsString::from).collect()
}

/// Those that make a place of its own for each command.
pub(crate) fn makers(project: &Project) -> Vec<Peer> {
    let base = project.base();
    let words = |words: &[&str]| -> Vec<OsString> { words.iter().map(OsString::from).collect() };
    let bundle = bundle(project);
    let container = |runtime: &str| {
        let mut all = words(&[runtime, "--root"]);
        all.extend([base.join(format!("{runtime}.state")).into(), "run".into(), "--bundle".into()]);
        all.extend([bundle.clone().into(), format!("lbx-bench-{runtime}").into()]);
        all
    };
    // in what it takes for a sandbox it makes none, and goes on
    let own = std::fs::read_link("/proc/self/ns/mnt").expect("/proc").display().to_string();
    let apart = format!("[ \"$(readlink /proc/self/ns/mnt)\" != '{own}' ]");
    // it knows a sandbox by its first processes, of which none is called as one of the kernel's: this
    // one has to look like a machine
    let disguise = "echo kthreadd >/run/kthreadd && mount --bind /run/kthreadd /proc/1/comm";
    let _ = cannot(&words(&["sh", "-euc", disguise]));
    let firejail = ["firejail", "--quiet", "--noprofile", "--caps.drop=all", "--nonewprivs", "--seccomp"];
    let firejail = [&firejail[..], &["--ipc-namespace", "--private-dev", "--private-tmp"]].concat();
    let mut podman = words(&["podman", "--cgroup-manager=cgroupfs", "--runtime=crun", "--events-backend=none"]);
    podman.extend(["--root".into(), base.join("podman").into(), "--runroot".into(), base.join("podman.run").into()]);
    podman.extend(words(&["run", "--rm", "--network=host", "--log-driver=none", "--cgroups=disabled", "--read-only"]));
    podman.extend(words(&["--cap-drop=all", "--security-opt=no-new-privileges", "--user=65534:65534"]));
    podman.extend(words(&["--volume=/usr:/usr:ro", "--rootfs"]));
    podman.extend([bundle.join("rootfs").into(), "true".into()]);
    let nspawn = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--volatile=yes", "-D", "/", "true"];
    vec![
        Peer {
            name: "enter-firejail",
            about: "firejail (no account, no own users' view; mount, pid and ipc apart)",
            proof: Some(words(&[&firejail[..], &["sh", "-c", &apart]].concat())),
            words: words(&[&firejail[..], &["true"]].concat()),
        },
        Peer {
            name: "enter-crun",
            about: "crun run (no account, filter, limits)",
            words: container("crun"),
            proof: None,
        },
        Peer {
            name: "enter-runc",
            about: "runc run (no account, filter, limits)",
            words: container("runc"),
            proof: None,
        },
        Peer {
            name: "enter-podman",
            about: "podman run of a directory, by crun (no account, cgroup, limits; the machine's network)",
            words: podman,
            proof: None,
        },
        Peer {
            name: "enter-nspawn",
            about: "systemd-nspawn (no account, no filter of sockets)",
            words: words(&nspawn),
            proof: None,
        },
    ]
}

/// A container of the OCI's runtime specification that shows the machine's /usr, read-only, and runs true.
fn bundle(project: &Project) -> std::path::PathBuf {
    let bundle = project.base().join("bundle");
    let rootfs = bundle.join("rootfs");
    for dir in ["usr", "proc", "dev", "tmp", "sys", "etc"] {
        std::fs::create_dir_all(rootfs.join(dir)).expect("a directory");
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{link}"), rootfs.join(link)).expect("a link");
    }
    let mount = |to: &str, kind: &str, from: &str, options: &[&str]| json!({ "destination": to, "type": kind, "source": from, "options": options });
    let namespaces = ["pid", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({ "type": kind }));
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": { "uid": 65534, "gid": 65534 }, "args": ["true"], "cwd": "/",
            "env": ["PATH=/usr/bin:/bin"], "noNewPrivileges": true,
            "capabilities": { "bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": [] },
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "bench",
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "nodev", "noexec"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "mode=755"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance"]),
            mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev"]),
            mount("/usr", "bind", "/usr", &["rbind", "ro"]),
            mount("/etc", "bind", "/etc", &["rbind", "ro"]),
        ],
        "linux": { "namespaces": namespaces, "maskedPaths": ["/proc/kcore", "/proc/keys"], "readonlyPaths": ["/proc/sys"] },
    });
    std::fs::write(bundle.join("config.json"), spec.to_string()).expect("a bundle");
    bundle
}
