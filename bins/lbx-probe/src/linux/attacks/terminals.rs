//! Terminals: those of the caller, of the machine and of other environments.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use libc::{O_NOCTTY, O_RDWR, TIOCLINUX, TIOCSTI, c_long};
use nix::errno::Errno;

use super::{Attack, Called, attack, not_readable, refused_or};
use crate::linux::line::Answer;
use crate::linux::raw::call;

const HIGH: c_long = 0x5a5a_5a5a_0000_0000;
const TIOCGPTPEER: c_long = 0x5441;
const TIOCSPTLCK: c_long = 0x4004_5431;

pub(super) const ATTACKS: &[Attack] = &[
    attack("tiocsti", "TIOCSTI, CVE-2017-5226", "types into the terminal", |_| {
        on_terminal("ioctl TIOCSTI", |fd| call!(libc::SYS_ioctl, fd, TIOCSTI, c"x".as_ptr()))
    }),
    attack(
        "tiocsti-high-bits",
        "TIOCSTI, CVE-2019-10063",
        "hides that number behind bits that the kernel drops",
        |_| {
            on_terminal("ioctl TIOCSTI, high bits set", |fd| {
                call!(libc::SYS_ioctl, fd, HIGH | TIOCSTI as c_long, c"x".as_ptr())
            })
        },
    ),
    attack("tioclinux", "TIOCLINUX, CVE-2023-1523, CVE-2023-28100", "pastes into the machine's console", |_| {
        // 12: asks for the console in front, and changes nothing
        on_terminal("ioctl TIOCLINUX", |fd| call!(libc::SYS_ioctl, fd, TIOCLINUX, c"\x0c".as_ptr()))
    }),
    attack("tioclinux-high-bits", "TIOCLINUX, CVE-2019-10063", "as tioclinux, with bits that the kernel drops", |_| {
        on_terminal("ioctl TIOCLINUX, high bits set", |fd| {
            call!(libc::SYS_ioctl, fd, HIGH | TIOCLINUX as c_long, c"\x0c".as_ptr())
        })
    }),
    attack("terminal-of-caller", "tty(4)", "opens the caller's terminal", |_| not_readable(["/dev/tty"])),
    attack("terminal-descriptors", "tty(4)", "finds a terminal of the caller's on 0, 1 and 2", |_| {
        match (0..=2).find(|fd| rustix::termios::isatty(lbx::sys::borrow(*fd))) {
            None => Answer::held("isatty 0, 1, 2", "none is a terminal"),
            Some(fd) => Answer::through("isatty 0, 1, 2", format!("{fd} is a terminal")),
        }
    }),
    attack("terminals-of-others", "devpts", "opens terminals of the machine", |inside| {
        let tried = "look at /dev/pts";
        match std::fs::metadata("/dev/pts") {
            Ok(dir) if dir.dev() == inside.told.outside.terminals => Answer::through(tried, "it is the machine's"),
            Ok(_) => Answer::held(tried, "it is its own"),
            Err(e) => Answer::held(tried, super::name_of(super::errno(&e))),
        }
    }),
    attack("console", "console(4), vcs(4)", "opens the machine's consoles", |_| {
        not_readable(["/dev/console", "/dev/tty0", "/dev/tty1", "/dev/vcs", "/dev/vcsa1", "/dev/ttyS0", "/dev/hvc0"])
    }),
];

/// Makes `attack` on a terminal of its own, which controls its session as the caller's would.
fn on_terminal(tried: &str, attack: impl FnOnce(c_long) -> Called) -> Answer {
    let open = |path: &Path, flags: i32| call!(libc::SYS_openat, libc::AT_FDCWD, super::c_path(path).as_ptr(), flags);
    let terminal = || -> Called {
        call!(libc::SYS_setsid)?;
        let master = open(Path::new("/dev/pts/ptmx"), O_RDWR | O_NOCTTY)?;
        let unlocked = 0i32;
        call!(libc::SYS_ioctl, master, TIOCSPTLCK, &raw const unlocked)?;
        // without O_NOCTTY it is this session's
        call!(libc::SYS_ioctl, master, TIOCGPTPEER, O_RDWR)
    };
    match terminal() {
        // EIO: the kernel has it switched off (dev.tty.legacy_tiocsti)
        Ok(fd) => refused_or(&[Errno::EIO], tried, attack(fd)),
        Err(e) => Answer::skipped(tried, format!("no terminal can be had: {}", super::name_of(e))),
    }
}
