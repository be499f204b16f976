//! The files of the machine and of its people.

use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::{Attack, absent, attack, entries, not_writable};
use crate::linux::inside::Inside;
use crate::linux::line::{Answer, name_of};

pub(super) const ATTACKS: &[Attack] = &[
    attack("files-root", "mount_namespaces(7)", "finds files of root", |inside| foreign(inside, "/root")),
    attack("files-homes", "mount_namespaces(7)", "finds homes of other accounts", |inside| foreign(inside, "/home")),
    attack("files-boot", "mount_namespaces(7)", "finds kernels and their secrets", |inside| foreign(inside, "/boot")),
    attack("files-srv", "mount_namespaces(7)", "finds what the machine serves", |inside| foreign(inside, "/srv")),
    attack("files-mnt", "mount_namespaces(7)", "finds further disks", |inside| foreign(inside, "/mnt")),
    attack("files-media", "mount_namespaces(7)", "finds disks that were plugged in", |inside| {
        foreign(inside, "/media")
    }),
    attack("files-siblings", "mount_namespaces(7)", "finds files beside the project", siblings),
    attack("files-top", "pivot_root(2)", "finds what else the machine has at the top", top),
    attack("files-state", "mount_namespaces(7)", "finds llima-box's records and locks", |_| {
        absent(["/var/lib/llima-box", "/run/llima-box", "/run/llima-box.sock"])
    }),
    attack("files-logs", "mount_namespaces(7)", "finds logs, mail and cron tables of the machine", |_| {
        absent(["/var/log/dpkg.log", "/var/log/syslog", "/var/log/journal", "/var/log/auth.log", "/var/spool/cron"])
    }),
    attack("files-containers", "mount_namespaces(7)", "finds state of other containers", |_| {
        absent(["/var/lib/docker", "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/lxc", "/var/lib/lxd"])
    }),
    attack("files-cloud", "mount_namespaces(7)", "finds what the cloud gave the machine", |_| {
        absent(["/var/lib/cloud", "/run/cloud-init", "/mnt/lima-cidata"])
    }),
    attack("files-bait", "mount_namespaces(7)", "finds files laid in directories of the same names", |inside| {
        match inside.told.outside.files.as_slice() {
            [] => Answer::skipped("look for bait", "none could be laid"),
            files => absent(files),
        }
    }),
    attack("etc-shadow", "overlayfs, whiteouts", "finds password hashes", |_| {
        absent(["/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/security/opasswd"])
    }),
    attack("etc-sudoers", "overlayfs, whiteouts", "finds who may become root", |_| {
        absent(["/etc/sudoers", "/etc/sudoers.d"])
    }),
    attack("etc-host-keys", "overlayfs, whiteouts", "finds the machine's ssh keys", |_| {
        absent(["rsa", "ecdsa", "ed25519"].map(|kind| format!("/etc/ssh/ssh_host_{kind}_key")))
    }),
    attack("etc-machine-id", "machine-id(5)", "finds what identifies the machine", |_| {
        absent(["/etc/machine-id", "/var/lib/dbus/machine-id"])
    }),
    attack("etc-keys", "overlayfs, whiteouts", "finds keys of services", |_| {
        absent([
            "/etc/ssl/private",
            "/etc/letsencrypt",
            "/etc/wireguard",
            "/etc/openvpn",
            "/etc/krb5.keytab",
            "/etc/docker",
            "/etc/kubernetes",
            "/etc/NetworkManager/system-connections",
            "/etc/wpa_supplicant",
        ])
    }),
    attack("etc-below-overlay", "overlayfs", "opens for writing through the overlay of /etc", |_| {
        not_writable(["/etc/passwd", "/etc/group", "/etc/hosts", "/etc/resolv.conf", "/etc/ld.so.cache"])
    }),
    attack("people", "passwd(5)", "reads names of the machine's people and environments", people),
    attack("names-in-etc", "passwd(5), hosts(5)", "reads names of other environments in /etc", |_| {
        found(&["/etc/passwd", "/etc/group", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/gitconfig"])
    }),
    attack("host-name", "uts_namespaces(7)", "reads the machine's name", |inside| {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Answer::when(name == inside.told.name, "gethostname", format!("it is '{name}'"))
    }),
    attack("write-usr", "mount(2), MS_RDONLY", "changes programs", |_| read_only(&["/usr", "/usr/bin", "/usr/lib"])),
    attack("write-etc", "mount(2), MS_RDONLY", "changes settings of the machine", |_| {
        read_only(&["/etc", "/etc/ssh", "/etc/ld.so.conf.d"])
    }),
    attack("write-opt", "mount(2), MS_RDONLY", "changes programs of /opt", |_| read_only(&["/opt"])),
    attack("write-root", "mount(2), MS_RDONLY", "makes files at the top", |_| {
        read_only(&["/", "/home", "/var", "/dev"])
    }),
];

/// Whether what lies at `path` is shown on purpose, or on the way to that.
fn is_shown(inside: &Inside, path: &Path) -> bool {
    inside.told.shown.iter().any(|shown| shown.0.starts_with(path) || path.starts_with(&shown.0))
}

/// Held when there is nothing in directory `dir` but what is shown.
fn foreign(inside: &Inside, dir: &str) -> Answer {
    let tried = format!("list {dir}");
    let all = entries(Path::new(dir));
    match all.iter().find(|path| !is_shown(inside, path)) {
        Some(path) => Answer::through(tried, format!("{} is there", path.display())),
        None if all.is_empty() => Answer::held(tried, "nothing is there"),
        None => Answer::held(tried, "nothing but what is shown"),
    }
}

/// The directories on the way to what is shown hold nothing else.
fn siblings(inside: &Inside) -> Answer {
    let own = ["/tmp", "/var/tmp", "/run", "/dev/shm"].map(Path::new);
    let project = inside.project();
    let ways = project.ancestors().skip(1).filter(|dir| dir.components().count() > 1);
    let mut tried = "list".to_owned();
    for dir in ways.filter(|dir| !own.iter().any(|own| dir.starts_with(own))) {
        let covered = inside.told.shown.iter().any(|shown| dir.starts_with(&shown.0));
        let Some(path) = entries(dir).into_iter().find(|path| !covered && !is_shown(inside, path)) else {
            tried.push_str(&format!(" {}", dir.display()));
            continue;
        };
        return Answer::through(format!("list {}", dir.display()), format!("{} is there", path.display()));
    }
    Answer::held(tried, "nothing but what is shown")
}

fn top(inside: &Inside) -> Answer {
    const KNOWN: [&str; 22] = [
        "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "media", "mnt", "nix", "opt", "proc",
        "root", "run", "sbin", "srv", "sys", "tmp", "usr", "var",
    ];
    let is_known = |path: &PathBuf| path.file_name().is_some_and(|name| KNOWN.iter().any(|known| name == *known));
    match entries(Path::new("/")).into_iter().find(|path| !is_known(path) && !is_shown(inside, path)) {
        None => Answer::held("list /", "nothing else is there"),
        Some(path) => Answer::through("list /", format!("{} is there", path.display())),
    }
}

fn people(inside: &Inside) -> Answer {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let is_known =
        |account: &lbx::caller::Account| account.uid < 1000 || account.uid == 65534 || account.name == inside.told.name;
    match lbx::caller::accounts(&text).find(|account| !is_known(account)) {
        Some(account) => Answer::through("read /etc/passwd", format!("'{}' is there", account.name)),
        None => Answer::held("read /etc/passwd", "the system's accounts and its own"),
    }
}

/// The text of `files`, to be judged outside.
pub(super) fn found(files: &[&str]) -> Answer {
    let mut text = String::new();
    for file in files {
        let bytes = std::fs::read(file).unwrap_or_default();
        text.push_str(&String::from_utf8_lossy(&bytes[..bytes.len().min(50_000)]));
    }
    Answer::found(format!("read {}", files.join(" ")), &text)
}

/// Held when those of `dirs` that exist are on mounts that cannot be written, and nothing can be made there.
pub(super) fn read_only(dirs: &[&str]) -> Answer {
    let (mut tried, mut answers) = ("make a file in".to_owned(), Vec::new());
    for dir in dirs {
        let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        tried.push_str(&format!(" {dir}"));
        match open(*dir, flags, Mode::from_bits_retain(0o600)) {
            Ok(_) => return Answer::through(format!("make a file in {dir}"), "made"),
            Err(e) => answers.push(name_of(e)),
        }
        if statvfs(*dir).is_ok_and(|fs| !fs.flags().contains(FsFlags::ST_RDONLY)) {
            return Answer::through(format!("look at the mount of {dir}"), "it is not read-only");
        }
    }
    Answer::held(tried, super::distinct(answers))
}
