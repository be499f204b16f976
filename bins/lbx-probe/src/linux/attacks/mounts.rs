//! Mounts: what they tell, what they allow, and making them.

use std::collections::BTreeSet;
use std::path::Path;

use libc::{AT_FDCWD, MS_BIND, MS_RDONLY, MS_REMOUNT};

use super::{Attack, all_refused, attack, refused};
use crate::linux::inside::Inside;
use crate::linux::line::Answer;
use crate::linux::raw::call;

const OPEN_TREE_CLONE: i32 = 1;
/// `struct file_handle` of inode 2, the root of most file systems: length, type, inode, generation.
static HANDLE_OF_ROOT: [u32; 4] = [8, 1, 2, 0];

/// What can be seen of them.
pub(super) const VIEW: &[Attack] = &[
    attack("mounts-names", "proc_pid_mountinfo(5)", "reads names and paths of other environments", |_| {
        super::files::found(&["/proc/self/mountinfo"])
    }),
    attack("mounts-names-first", "proc_pid_mountinfo(5)", "reads the mounts of the first process", |_| {
        super::files::found(&["/proc/1/mountinfo", "/proc/1/mounts"])
    }),
    attack("mounts-set-id", "mount(2), MS_NOSUID", "finds a mount where set-id programs count", |_| {
        lacking("nosuid", |_| false)
    }),
    attack("mounts-devices", "mount(2), MS_NODEV", "finds a mount where device files count", |_| {
        lacking("nodev", |point| point == "/dev/pts" || point.strip_prefix("/dev/").is_some_and(is_device))
    }),
    attack("mounts-shared", "mount_namespaces(7)", "finds a mount that shows outside what is mounted on it", |_| {
        let shared = mounts().into_iter().find(|mount| mount.shared);
        match shared {
            None => Answer::held("read /proc/self/mountinfo", "none is shared"),
            Some(mount) => Answer::through("read /proc/self/mountinfo", format!("{} is shared", mount.point)),
        }
    }),
    attack("mounts-root", "pivot_root(2)", "finds the machine's root among the mounts", whole_disk),
];

/// What would change them.
pub(super) const ATTACKS: &[Attack] = &[
    attack("mount-tmpfs", "mount(2)", "mounts a file system", |_| {
        // behind the check of privilege: there is no such kind
        refused("mount a kind that is not there", mount(Some(c"none"), c"/tmp", Some(c"lbx-probe"), 0))
    }),
    attack("mount-proc", "mount(2), user_namespaces(7)", "mounts an unmasked /proc", |_| {
        refused("mount proc on /tmp", undone(c"/tmp", mount(Some(c"proc"), c"/tmp", Some(c"proc"), 0)))
    }),
    attack("mount-bind", "mount(2), MS_BIND", "lays one directory over another", |_| {
        refused("mount --bind /usr /tmp", undone(c"/tmp", mount(Some(c"/usr"), c"/tmp", None, MS_BIND)))
    }),
    attack("mount-remount", "mount(2), MS_REMOUNT", "makes writable what is read-only", |_| {
        all_refused("remount /usr /etc /sys", [c"/usr", c"/etc", c"/sys"].map(|at| (at.to_string_lossy(), remount(at))))
    }),
    attack("mount-context", "CVE-2022-0185", "configures a file system", |_| {
        refused("fsopen tmpfs", call!(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0))
    }),
    attack("umount", "umount(2)", "takes off what covers", |_| {
        // the first time a mount is told to expire, it is only marked
        all_refused(
            "umount /etc/passwd /proc /tmp",
            [c"/etc/passwd", c"/proc", c"/tmp"]
                .map(|at| (at.to_string_lossy(), call!(libc::SYS_umount2, at.as_ptr(), libc::MNT_EXPIRE))),
        )
    }),
    attack("pivot-root", "pivot_root(2)", "changes the root", |_| {
        let nowhere = c"/nonexistent/lbx-probe".as_ptr();
        refused("pivot_root to what is not there", call!(libc::SYS_pivot_root, nowhere, nowhere))
    }),
    attack("chroot", "chroot(2)", "makes a root that .. leads out of", |_| {
        refused("chroot /tmp", call!(libc::SYS_chroot, c"/tmp".as_ptr()))
    }),
    attack("open-tree", "open_tree(2)", "copies a tree of mounts", |_| {
        refused("open_tree /", call!(libc::SYS_open_tree, AT_FDCWD, c"/".as_ptr(), OPEN_TREE_CLONE))
    }),
    attack("move-mount", "move_mount(2)", "moves a mount", |_| {
        let (from, to) = (c"/usr".as_ptr(), c"/tmp".as_ptr());
        // behind the check of privilege: no such flag
        refused("move_mount /usr /tmp", call!(libc::SYS_move_mount, AT_FDCWD, from, AT_FDCWD, to, 1 << 30))
    }),
    attack("mount-setattr", "mount_setattr(2)", "clears restrictions of a mount", |_| {
        // behind the check of privilege: no such attribute
        let attributes = [1u64 << 63, libc::MOUNT_ATTR_RDONLY, 0, 0];
        let size = size_of_val(&attributes);
        let called = call!(libc::SYS_mount_setattr, AT_FDCWD, c"/usr".as_ptr(), 0, &raw const attributes, size);
        refused("mount_setattr /usr rw", called)
    }),
    attack("fspick", "fspick(2)", "reconfigures a file system", |_| {
        refused("fspick /tmp", call!(libc::SYS_fspick, AT_FDCWD, c"/tmp".as_ptr(), 0))
    })
    .given_up_by_nest(),
    attack(
        "open-by-handle",
        "CVE-2014-3519, open_by_handle_at(2)",
        "opens by number what has no path here",
        |inside| {
            let home = super::open(&inside.home(), super::OFlag::O_RDONLY, super::Mode::empty());
            let Ok(home) = home else { return Answer::skipped("open_by_handle_at", "the home cannot be opened") };
            let fd = std::os::fd::AsRawFd::as_raw_fd(&home);
            let called = call!(libc::SYS_open_by_handle_at, fd, &raw const HANDLE_OF_ROOT, libc::O_RDONLY);
            refused("open_by_handle_at inode 2", called)
        },
    ),
    attack(
        "uncover-in-namespace",
        "user_namespaces(7), locked mounts",
        "takes off covers as root of a namespace",
        |_| {
            let made = call!(libc::SYS_unshare, libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
            if made.is_err() {
                return refused("unshare, umount /etc/passwd", made);
            }
            let locked = [nix::errno::Errno::EINVAL];
            let off = call!(libc::SYS_umount2, c"/etc/passwd".as_ptr(), libc::MNT_DETACH);
            super::refused_or(&locked, "unshare, umount /etc/passwd", off)
        },
    ),
    attack(
        "rewrite-in-namespace",
        "user_namespaces(7), locked mounts",
        "remounts writable as root of a namespace",
        |_| {
            let made = call!(libc::SYS_unshare, libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
            match made {
                Err(_) => refused("unshare, remount /usr", made),
                Ok(_) => refused("unshare, remount /usr", remount(c"/usr")),
            }
        },
    ),
];

fn mount(
    source: Option<&std::ffi::CStr>,
    at: &std::ffi::CStr,
    kind: Option<&std::ffi::CStr>,
    flags: u64,
) -> super::Called {
    let pointer = |text: Option<&std::ffi::CStr>| text.map_or(std::ptr::null(), std::ffi::CStr::as_ptr);
    call!(libc::SYS_mount, pointer(source), at.as_ptr(), pointer(kind), flags, 0)
}

/// Takes off what was mounted at `at`.
fn undone(at: &std::ffi::CStr, mounted: super::Called) -> super::Called {
    if mounted.is_ok() {
        let _ = call!(libc::SYS_umount2, at.as_ptr(), libc::MNT_DETACH);
    }
    mounted
}

/// Makes the mount at `at` writable, and read-only again.
fn remount(at: &std::ffi::CStr) -> super::Called {
    let flags = MS_REMOUNT | MS_BIND | libc::MS_NOSUID | libc::MS_NODEV;
    let made = mount(None, at, None, flags);
    if made.is_ok() {
        mount(None, at, None, flags | MS_RDONLY)?;
    }
    made
}

fn is_device(name: &str) -> bool {
    ["null", "zero", "full", "random", "urandom", "tty"].contains(&name)
}

struct Mount {
    /// What of its file system it shows.
    root: String,
    point: String,
    options: BTreeSet<String>,
    shared: bool,
    /// The device, as `major:minor`.
    device: String,
    kind: String,
    /// The options of the file system.
    told: String,
}

/// The lines of /proc/self/mountinfo.
fn mounts() -> Vec<Mount> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mount = |line: &str| {
        let (head, tail) = line.split_once(" - ")?;
        let words: Vec<&str> = head.split(' ').collect();
        Some(Mount {
            device: (*words.get(2)?).to_owned(),
            root: (*words.get(3)?).to_owned(),
            point: unescaped(words.get(4)?),
            options: words.get(5)?.split(',').map(str::to_owned).collect(),
            shared: words[6..].iter().any(|word| word.starts_with("shared:")),
            kind: tail.split(' ').next()?.to_owned(),
            told: tail.split(' ').nth(2)?.to_owned(),
        })
    };
    String::from_utf8_lossy(&text).lines().filter_map(mount).collect()
}

/// `\\040` and the like as what they stand for.
fn unescaped(word: &str) -> String {
    let mut text = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let code = more.get(..3).filter(|_| *first == b'\\').and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                text.push(byte);
                rest = &more[3..];
            }
            None => {
                text.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The options of the overlay that is mounted at `path`, if one is.
pub(super) fn overlay_at(path: &Path) -> Option<String> {
    let mount = mounts().into_iter().rfind(|mount| mount.point == path.to_string_lossy())?;
    (mount.kind == "overlay").then_some(mount.told)
}

/// Held when every mount has `option`, but for those whose mount point `may` lack it.
fn lacking(option: &str, may: impl Fn(&str) -> bool) -> Answer {
    let mounts = mounts();
    match mounts.iter().find(|mount| !mount.options.contains(option) && !may(&mount.point)) {
        None if mounts.is_empty() => Answer::through("read /proc/self/mountinfo", "nothing can be read"),
        None => Answer::held("read /proc/self/mountinfo", format!("{} mounts, each {option}", mounts.len())),
        Some(mount) => Answer::through("read /proc/self/mountinfo", format!("{} lacks {option}", mount.point)),
    }
}

/// Held when the whole of a disk is mounted nowhere but where it is shown on purpose.
fn whole_disk(inside: &Inside) -> Answer {
    let is_shown = |point: &str| inside.told.shown.iter().any(|shown| Path::new(point).starts_with(&shown.0));
    let system = ["/usr", "/opt", "/nix", "/bin", "/sbin", "/lib", "/var"];
    // 0: file systems of memory, and of the kernel
    let found = mounts().into_iter().find(|mount| {
        mount.root == "/"
            && !mount.device.starts_with("0:")
            && !is_shown(&mount.point)
            && !system.iter().any(|dir| Path::new(&mount.point).starts_with(dir))
    });
    match found {
        None => Answer::held("read /proc/self/mountinfo", "no disk is there as a whole"),
        Some(mount) => Answer::through("read /proc/self/mountinfo", format!("a {} at {}", mount.kind, mount.point)),
    }
}
