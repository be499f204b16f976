//! /etc inside: one read-only overlay for all environments, whose top layer hides what is secret,
//! and the files that each environment has of its own.
//!
//! The own files are laid over placeholders of the top layer, never over the machine's: a rename
//! on the machine detaches such a mount, and the real file would show.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lbx::record::RUN;
use lbx::{Record, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, StatxAttributes, StatxFlags, mknodat, statx};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, unmount,
};

use super::accounts::{self, Ids};
use super::project;
use super::store::{self, Lock};

/// What no environment sees, even where its mode would let it.
const SECRET: &[&str] = &[
    ".group.llima-box",
    ".gshadow.llima-box",
    ".passwd.llima-box",
    ".shadow.llima-box",
    "group+",
    "gshadow+",
    "passwd+",
    "shadow+",
    ".pwd.lock",
    "crypttab",
    "docker",
    "gshadow",
    "gshadow-",
    "group-",
    "ipsec.d",
    "ipsec.secrets",
    "kubernetes",
    "krb5.keytab",
    "letsencrypt",
    "machine-id",
    "NetworkManager/system-connections",
    "openvpn",
    "passwd-",
    "ppp",
    "security/opasswd",
    "shadow",
    "shadow-",
    "ssl/private",
    "ssh/sshd_config",
    "ssh/sshd_config.d",
    "ssh/ssh_host_dsa_key",
    "ssh/ssh_host_dsa_key.pub",
    "ssh/ssh_host_ecdsa_key",
    "ssh/ssh_host_ecdsa_key.pub",
    "ssh/ssh_host_ed25519_key",
    "ssh/ssh_host_ed25519_key.pub",
    "ssh/ssh_host_rsa_key",
    "ssh/ssh_host_rsa_key.pub",
    "subgid",
    "subgid-",
    "subuid",
    "subuid-",
    "sudoers",
    "sudoers.d",
    "systemd/system.control",
    "wireguard",
    "wpa_supplicant",
];
/// The files that each environment has of its own.
const OWN: [&str; 6] = ["passwd", "group", "hosts", "hostname", "resolv.conf", "gitconfig"];
/// Host keys of the large forges, as they publish them, so that git does not ask.
const FORGES: &str = "\
bitbucket.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIazEu89wgQZ4bqs3d63QSMzYVa0MuJ2e2gKTKqu+UUO
codeberg.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIVIC02vnjFyL+I4RHfvIGNtOgJMe769VTF1VR4EB3ZB
git.sr.ht ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMZvRd4EtM7R+IHVMWmDkVU3VLQTSwQDSAvW0t2Tkj60
github.com,ssh.github.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl
gitlab.com,altssh.gitlab.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAfuCHKVTjquxvt6CM6tdG4SLp1Btn/nOeHHE5UOzRdf
";

fn overlay() -> PathBuf {
    Path::new(RUN).join("etc")
}

fn lock() -> Result<Lock> {
    store::make_dir(Path::new(RUN), 0o755)?;
    Lock::take(Path::new(RUN).join("etc.lock")).context("cannot lock the shared /etc")
}

/// A copy of the shared overlay, which is made by the first environment that starts.
pub(crate) fn shared() -> Result<OwnedFd> {
    let _lock = lock()?;
    let path = overlay();
    if !is_mounted(&path) {
        make_layer(&path).and_then(|()| mount(&path)).context("cannot make the shared /etc")?;
    }
    let copy = || {
        project::copy(
            rustix::fs::open(&path, rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, Mode::empty())?.as_fd(),
            false,
        )
    };
    copy().context("cannot copy the shared /etc")
}

/// Takes the shared overlay away when no environment has started, or none is left.
pub(crate) fn release() -> Result<()> {
    let lock = lock()?;
    let path = overlay();
    let in_use = fs::read_dir(RUN)
        .with_context(|| format!("cannot read directory: {RUN}"))?
        .filter_map(Result::ok)
        .any(|entry| lbx::Name::parse(&entry.file_name()).is_some());
    if in_use {
        return Ok(());
    }
    let remove = || -> io::Result<()> {
        if is_mounted(&path) {
            unmount(&path, UnmountFlags::DETACH)?;
        }
        match path.exists() {
            true => super::home::remove_tree(CWD, &path, &mut || ()),
            false => Ok(()),
        }
    };
    remove().context("cannot remove the shared /etc")?;
    lock.remove().context("cannot remove the lock of the shared /etc")
}

fn is_mounted(path: &Path) -> bool {
    statx(CWD, path, AtFlags::NO_AUTOMOUNT, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// The top layer: whiteouts of what is secret, placeholders of what is an environment's own.
fn make_layer(layer: &Path) -> io::Result<()> {
    super::home::remove_tree(CWD, layer, &mut || ())?;
    fs::create_dir(layer)?;
    let parent = |path: &Path| path.parent().map_or(Ok(()), fs::create_dir_all);
    for name in SECRET {
        let path = layer.join(name);
        // in a directory that only this layer has, a whiteout would show
        let hides = Path::new("/etc").join(name).parent().is_some_and(Path::is_dir);
        if !hides || cfg!(feature = "broken-secrets") {
            continue;
        }
        parent(&path)?;
        // a whiteout is a character device 0:0 (overlayfs.rst, "whiteouts and opaque directories")
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0)?;
    }
    for name in OWN {
        fs::write(layer.join(name), "")?;
    }
    let known_hosts = layer.join("ssh/ssh_known_hosts");
    parent(&known_hosts)?;
    let known = fs::read_to_string("/etc/ssh/ssh_known_hosts").unwrap_or_default();
    fs::write(known_hosts, format!("{known}{FORGES}"))?;
    // a link to proc, where the machine's own may be a file
    symlink("../proc/self/mounts", layer.join("mtab"))
}

fn mount(layer: &Path) -> io::Result<()> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&overlay, "source", "llima-box")?;
    fsconfig_set_string(&overlay, "lowerdir", format!("{}:/etc", layer.display()))?;
    fsconfig_create(&overlay)?;
    let flags =
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    move_mount(&mount, "", CWD, layer, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    // below a shared mount it has become one
    Ok(mount_change(layer, MountPropagationFlags::PRIVATE)?)
}

/// The files that the environment of `record` has of its own, by name.
pub(crate) fn own_files(record: &Record, passwd: &str) -> Vec<(&'static str, Vec<u8>)> {
    let read = |path: &str| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let ids = Ids { uid: record.uid, gid: record.gid };
    let name = record.name.as_str();
    vec![
        (OWN[0], own_passwd(passwd, record, ids).into_bytes()),
        (OWN[1], own_group(&read("/etc/group"), name, ids).into_bytes()),
        (OWN[2], format!("{}\n127.0.1.1 {name}\n", read("/etc/hosts").trim_end()).into_bytes()),
        (OWN[3], format!("{name}\n").into_bytes()),
        (OWN[4], read("/etc/resolv.conf").into_bytes()),
        (OWN[5], own_gitconfig(&read("/etc/gitconfig"), record).into_bytes()),
    ]
}

fn is_system(id: &str) -> bool {
    cfg!(feature = "broken-names") || id.parse().is_ok_and(|id: u32| id < 1000 || id == 65534)
}

/// The system's accounts, and this one: no other environment's and no person's.
fn own_passwd(passwd: &str, record: &Record, ids: Ids) -> String {
    let mut own: String = passwd
        .lines()
        .filter(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            fields.len() == 7
                && is_system(fields[2])
                && fields[2] != ids.uid.to_string()
                && fields[0] != accounts::HOLDER
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let (home, shell) = (record.home.display(), record.shell.display());
    own.push_str(&format!("{}:x:{}:{}::{home}:{shell}\n", record.name, ids.uid, ids.gid));
    own
}

/// The system's groups without their members, and this one.
fn own_group(group: &str, name: &str, ids: Ids) -> String {
    let mut own: String = group
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let system = fields.len() == 4 && is_system(fields[2]);
            let ours = fields[0] == accounts::GROUP || fields[0] == accounts::HOLDER;
            (system && !ours).then(|| format!("{}:x:{}:\n", fields[0], fields[2]))
        })
        .collect();
    own.push_str(&format!("{name}:x:{}:\n", ids.gid));
    own
}

/// The machine's settings, then the caller's identity: `user.name` as `[user] name = "…"`.
fn own_gitconfig(system: &str, record: &Record) -> String {
    let mut own = system.to_owned();
    if !own.is_empty() && !own.ends_with('\n') {
        own.push('\n');
    }
    for (key, value) in &record.options.git {
        let Some((section, name)) = key.split_once('.') else { continue };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        own.push_str(&format!("[{section}]\n\t{name} = \"{value}\"\n"));
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use lbx::Name;
    use lbx::record::{Options, Origin, Owner, Ownership};

    fn record() -> Record {
        let path = PathBuf::from("/srv/p");
        let origin = Origin {
            name: Name::of(&path).unwrap(),
            path,
            owner: Owner { uid: 1000, gid: 1000, device: 1 },
            ownership: Ownership::Idmap,
            creator: 1000,
        };
        Record::new(origin, 65540, 65541, "/usr/bin/zsh".into(), Options::default())
    }

    #[test]
    fn no_other_account_shows() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000:Alice:/home/alice:/bin/sh\nother-1234:x:65536:65536:llima-box:/nonexistent:/usr/sbin/nologin\nlbx-holder:x:999:999:llima-box:/nonexistent:/x\nnobody:x:65534:65534::/:/x\n";
        let record = record();
        let own = own_passwd(passwd, &record, Ids { uid: 65540, gid: 65541 });
        let name = &record.name;
        assert_eq!(
            own,
            format!(
                "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/x\n{name}:x:65540:65541::/home/{name}:/usr/bin/zsh\n"
            )
        );
    }

    #[test]
    fn groups_have_no_members() {
        let own = own_group(
            "root:x:0:\nsudo:x:27:alice,bob\nlbx-env:x:998:other-1234\nalice:x:1000:\n",
            "p-1234",
            Ids { uid: 1, gid: 70000 },
        );
        assert_eq!(own, "root:x:0:\nsudo:x:27:\np-1234:x:70000:\n");
    }

    #[test]
    fn a_git_value_cannot_leave_its_quotes() {
        let mut record = record();
        record.options.git.insert("user.name".into(), "A \"B\" \\ C".into());
        assert_eq!(
            own_gitconfig("[core]\n\tx = 1", &record),
            "[core]\n\tx = 1\n[user]\n\tname = \"A \\\"B\\\" \\\\ C\"\n"
        );
    }
}
