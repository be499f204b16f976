//! Devices.

use libc::{AT_FDCWD, S_IFBLK, S_IFCHR};

use super::{Attack, all_refused, attack, not_readable, only};
use crate::linux::inside::Inside;
use crate::linux::line::Answer;
use crate::linux::raw::call;

pub(super) const ATTACKS: &[Attack] = &[
    attack("dev-contents", "mount_namespaces(7)", "finds devices that no program needs", |_| {
        only(
            "/dev",
            &[
                "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
                "zero",
            ],
        )
    }),
    attack("dev-mem", "mem(4)", "opens memory and ports of the machine", |_| {
        not_readable(["/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/core"])
    }),
    attack("dev-disks", "sd(4)", "opens disks below their file systems", |_| {
        not_readable(["/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/mmcblk0", "/dev/dm-0", "/dev/loop-control"])
    }),
    attack("dev-drivers", "mknod(2), kvm, tun, fuse", "opens drivers that make virtual devices", |_| {
        not_readable(["/dev/kvm", "/dev/net/tun", "/dev/fuse", "/dev/uinput", "/dev/vhost-vsock", "/dev/vsock"])
    }),
    attack("dev-input", "input event interface", "opens keyboards, screens and sound", |_| {
        not_readable(["/dev/input/event0", "/dev/fb0", "/dev/dri/card0", "/dev/snd/controlC0", "/dev/hidraw0"])
    }),
    attack("mknod-memory", "mknod(2), CAP_MKNOD", "makes a device file of memory", |inside| {
        nodes(inside, "mem", S_IFCHR, libc::makedev(1, 1))
    }),
    attack("mknod-disk", "mknod(2), CAP_MKNOD", "makes device files of disks", |inside| {
        nodes(inside, "disk", S_IFBLK, libc::makedev(8, 0))
    }),
];

/// Held when a device file can be made nowhere that the environment writes.
pub(super) fn nodes(inside: &Inside, what: &str, kind: u32, device: u64) -> Answer {
    let name = format!(".{}-{what}", inside.told.outside.token);
    let dirs = [inside.project().to_owned(), inside.home(), "/tmp".into(), "/dev/shm".into()];
    let calls = dirs.map(|dir| {
        let path = super::c_path(&dir.join(&name));
        let made = call!(libc::SYS_mknodat, AT_FDCWD, path.as_ptr(), kind | 0o600, device);
        if made.is_ok() {
            let _ = call!(libc::SYS_unlinkat, AT_FDCWD, path.as_ptr(), 0);
        }
        (dir.to_string_lossy().into_owned(), made)
    });
    all_refused(&format!("mknod {what} in the project, the home, /tmp and /dev/shm"), calls)
}
