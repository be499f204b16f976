//! Programs that run as another: made here, or found.

use std::ffi::CString;
use std::path::Path;

use libc::{AT_FDCWD, O_CREAT, O_RDWR, O_TMPFILE, O_WRONLY, S_IFREG, c_long};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::{Attack, Called, attack, c_path, refused, status};
use crate::linux::inside::Inside;
use crate::linux::line::{Answer, name_of};
use crate::linux::raw::call;

const SYS_FCHMODAT2: c_long = 452;
/// Bits that the kernel drops from an argument of 32 bits, and a filter must not be blinded by.
const HIGH: c_long = 0x5a5a_5a5a_0000_0000;

pub(super) const ATTACKS: &[Attack] = &[
    attack("chmod-setuid", "chmod(2), S_ISUID", "makes a program run as its owner", |inside| {
        chmod(inside, "chmod 4755", |file| call!(libc::SYS_fchmodat, AT_FDCWD, file, 0o4755))
    }),
    attack("chmod-setgid", "chmod(2), S_ISGID", "makes a program run as its group", |inside| {
        chmod(inside, "chmod 2755", |file| call!(libc::SYS_fchmodat, AT_FDCWD, file, 0o2755))
    }),
    attack("chmod-high-bits", "seccomp(2)", "hides the mode behind bits that the kernel drops", |inside| {
        chmod(inside, "chmod 4755, high bits set", |file| call!(libc::SYS_fchmodat, AT_FDCWD, file, HIGH | 0o4755))
    }),
    attack("fchmod-setuid", "fchmod(2)", "as by chmod, by a descriptor", |inside| {
        chmod(inside, "fchmod 4755", |file| {
            let fd = call!(libc::SYS_openat, AT_FDCWD, file, O_WRONLY)?;
            call!(libc::SYS_fchmod, fd, 0o4755)
        })
    }),
    attack("fchmodat2-setuid", "fchmodat2(2), Linux 6.6", "as by chmod, by a newer call", |inside| {
        chmod(inside, "fchmodat2 4755", |file| call!(SYS_FCHMODAT2, AT_FDCWD, file, 0o4755, 0))
    }),
    attack("open-setuid", "open(2), O_CREAT", "makes a file with such a mode", |inside| {
        made(inside, "open O_CREAT 4755", |file| call!(libc::SYS_openat, AT_FDCWD, file, O_CREAT | O_WRONLY, 0o4755))
    }),
    attack("tmpfile-setuid", "open(2), O_TMPFILE", "makes a file without a name with such a mode", |inside| {
        let home = c_path(&inside.home());
        let called = call!(libc::SYS_openat, AT_FDCWD, home.as_ptr(), O_TMPFILE | O_WRONLY, 0o4755);
        refused("open O_TMPFILE 4755", called)
    }),
    attack("mknod-setuid", "mknod(2)", "makes a file with such a mode", |inside| {
        made(inside, "mknod 4755", |file| call!(libc::SYS_mknodat, AT_FDCWD, file, S_IFREG | 0o4755, 0))
    }),
    attack("mkdir-setgid", "mkdir(2)", "makes a directory that passes on its group", |inside| {
        made(inside, "mkdir 2755", |file| call!(libc::SYS_mkdirat, AT_FDCWD, file, 0o2755))
    }),
    attack("file-capability", "capabilities(7), CVE-2021-3493", "gives a program capabilities", |inside| {
        // version 2, effective: CAP_SETUID
        let value = [0x0200_0001u32, 1 << 7, 0, 0, 0];
        chmod(inside, "setxattr security.capability", |file| {
            let name = c"security.capability".as_ptr();
            call!(libc::SYS_setxattr, file, name, &raw const value, size_of_val(&value), 0)
        })
    }),
    attack("trusted-attribute", "xattr(7), overlayfs", "writes what overlays trust", |inside| {
        chmod(inside, "setxattr trusted.overlay.opaque", |file| {
            call!(libc::SYS_setxattr, file, c"trusted.overlay.opaque".as_ptr(), c"y".as_ptr(), 1, 0)
        })
    }),
    attack("chown", "chown(2), CAP_CHOWN", "gives a file to root", |inside| {
        chmod(inside, "chown 0", |file| call!(libc::SYS_fchownat, AT_FDCWD, file, 0, 0, 0))
    }),
    attack("setuid-exec", "execve(2), CVE-2021-4034, CVE-2021-3156", "runs programs that run as root", |_| {
        let programs = ["/usr/bin", "/usr/sbin", "/usr/lib", "/bin", "/opt"];
        let counts = |dir: &&&str| statvfs(**dir).is_ok_and(|fs| !fs.flags().contains(FsFlags::ST_NOSUID));
        let marked = status("self", "NoNewPrivs").is_some_and(|value| value == "1");
        match (programs.iter().find(counts), marked) {
            (None, true) => Answer::held("look for su, sudo, pkexec", "nosuid, and no_new_privs"),
            (Some(dir), _) => Answer::through("look for su, sudo, pkexec", format!("set-id programs count in {dir}")),
            (None, false) => Answer::through("look for su, sudo, pkexec", "no_new_privs is not set"),
        }
    }),
];

/// A path in the home where nothing is.
fn path(inside: &Inside) -> CString {
    c_path(&inside.home().join(format!(".{}", inside.told.outside.token)))
}

/// Has `attack` change a file of the home, which has no name and goes with this process.
fn chmod(inside: &Inside, tried: &str, attack: impl FnOnce(*const libc::c_char) -> Called) -> Answer {
    let home = c_path(&inside.home());
    match call!(libc::SYS_openat, AT_FDCWD, home.as_ptr(), O_TMPFILE | O_RDWR, 0o600) {
        Ok(fd) => refused(tried, attack(c_path(Path::new(&format!("/proc/self/fd/{fd}"))).as_ptr())),
        Err(e) => Answer::skipped(tried, format!("no file can be made in the home: {}", name_of(e))),
    }
}

/// Has `attack` make a file, and removes it.
fn made(inside: &Inside, tried: &str, attack: impl FnOnce(*const libc::c_char) -> Called) -> Answer {
    let file = path(inside);
    let called = attack(file.as_ptr());
    for flags in [0, libc::AT_REMOVEDIR] {
        let _ = call!(libc::SYS_unlinkat, AT_FDCWD, file.as_ptr(), flags);
    }
    refused(tried, called)
}
