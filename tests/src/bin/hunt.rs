//! A hostile program inside, that lies in wait for the others: the tests copy it into a project and
//! run it there. It goes on until its standard input ends, then says what it reached, a line each,
//! and how many processes it met.
//!
//! `hunt watch` tries to look into every new process before that executes something;
//! `hunt freeze` stops each as soon as it may; `hunt replace` tries to write the program of each;
//! `hunt silence SIGNAL WORD` signals the first of them that has WORD on its command line;
//! `hunt signals` signals everybody; `hunt listen NAME` and `hunt connect NAME FILE` meet at an
//! abstract socket, where the listener reaches for the other's descriptors.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::Pid;

const SO_PEERPIDFD: i32 = 77;

/// A system call with arguments as wide as registers.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: what pointers there are live across the call, and the kernel writes to none but ours.
        unsafe { libc::syscall($number $(, $argument as libc::c_long)*) }
    };
}

/// What `pid` runs, where that may be known.
enum Stage {
    /// Nothing of its own yet, or what may not be looked into.
    Before,
    /// It may be looked into, and is still the tool that entered.
    Open,
    After,
    Gone,
}

fn stage(pid: i32) -> Stage {
    match std::fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(exe) if exe.file_name().is_some_and(|name| name == "lbx-enter") => Stage::Open,
        Ok(_) => Stage::After,
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => Stage::Before,
        Err(_) => Stage::Gone,
    }
}

type Attempt = (&'static str, fn(i32) -> bool);

/// Whether each succeeds with a process.
const ATTEMPTS: &[Attempt] = &[
    ("root", |pid| opens(pid, "root", libc::O_PATH)),
    ("cwd", |pid| opens(pid, "cwd", libc::O_PATH)),
    ("fd", |pid| opens(pid, "fd", libc::O_DIRECTORY)),
    ("fd-3", |pid| opens(pid, "fd/3", libc::O_PATH)),
    ("fdinfo", |pid| opens(pid, "fdinfo", libc::O_DIRECTORY)),
    ("map_files", |pid| opens(pid, "map_files", libc::O_DIRECTORY)),
    ("mem", |pid| opens(pid, "mem", libc::O_RDWR)),
    ("mnt", |pid| opens(pid, "ns/mnt", libc::O_RDONLY)),
    ("environ", |pid| reads(pid, "environ")),
    ("maps", |pid| reads(pid, "maps")),
    ("auxv", |pid| reads(pid, "auxv")),
    ("ptrace", |pid| {
        let seized = call!(libc::SYS_ptrace, libc::PTRACE_SEIZE, pid, 0, 0) == 0;
        if seized {
            call!(libc::SYS_ptrace, libc::PTRACE_INTERRUPT, pid, 0, 0);
            let _ = nix::sys::wait::waitpid(Pid::from_raw(pid), Some(nix::sys::wait::WaitPidFlag::__WALL));
            call!(libc::SYS_ptrace, libc::PTRACE_DETACH, pid, 0, 0);
        }
        seized
    }),
    ("pidfd_getfd", |pid| {
        let pidfd = call!(libc::SYS_pidfd_open, pid, 0) as i32;
        let taken = (0..8).any(|fd| close(call!(libc::SYS_pidfd_getfd, pidfd, fd, 0)));
        close(pidfd.into());
        taken
    }),
    ("read-memory", |pid| moves_memory(libc::SYS_process_vm_readv, pid)),
    ("write-memory", |pid| moves_memory(libc::SYS_process_vm_writev, pid)),
    ("kcmp", |pid| call!(libc::SYS_kcmp, pid, std::process::id(), 0, 0, 0) >= 0),
];

fn opens(pid: i32, what: &str, flags: i32) -> bool {
    // O_PATH comes alone
    let mut options = OpenOptions::new();
    options.read(true).write(flags & libc::O_ACCMODE == libc::O_RDWR).custom_flags(flags & !libc::O_ACCMODE);
    options.open(format!("/proc/{pid}/{what}")).is_ok()
}

/// That it is busy is found where it may be written: what has let this in runs as long as this does.
fn may_write(path: &str) -> bool {
    match OpenOptions::new().write(true).open(path) {
        Ok(_) => true,
        Err(e) => e.raw_os_error() == Some(libc::ETXTBSY),
    }
}

fn reads(pid: i32, what: &str) -> bool {
    File::open(format!("/proc/{pid}/{what}")).and_then(|mut file| file.read(&mut [0])).is_ok_and(|length| length > 0)
}

/// A bad address is found where the process may be looked into.
fn moves_memory(number: i64, pid: i32) -> bool {
    let byte = 0u8;
    let (here, there) = ([&raw const byte as usize, 1], [1usize, 1]);
    call!(number, pid, &raw const here, 1, &raw const there, 1, 0) >= 0 || Errno::last() == Errno::EFAULT
}

fn close(fd: i64) -> bool {
    // SAFETY: a descriptor that the kernel has just made, and nobody else knows.
    fd >= 0 && unsafe { libc::close(fd as i32) } == 0
}

/// What there is to say in the end.
#[derive(Default)]
struct Spoils {
    met: usize,
    reached: BTreeSet<String>,
}

impl Spoils {
    fn watch(&mut self, pid: i32, stage: &Stage) -> bool {
        match stage {
            Stage::After | Stage::Gone => return false,
            Stage::Open => drop(self.reached.insert("exe".to_owned())),
            Stage::Before => {}
        }
        for (name, attempt) in ATTEMPTS {
            // it may have executed something meanwhile
            if attempt(pid) && matches!(self::stage(pid), Stage::Before | Stage::Open) {
                self.reached.insert((*name).to_owned());
            }
        }
        true
    }

    /// Whether it is still to be stopped.
    fn freeze(&mut self, pid: i32) -> bool {
        match kill(Pid::from_raw(pid), Signal::SIGSTOP) {
            Ok(()) => {
                let before = matches!(stage(pid), Stage::Before | Stage::Open);
                self.reached.insert(if before { "before" } else { "after" }.to_owned());
                false
            }
            // it is still root's
            Err(e) => e == Errno::EPERM,
        }
    }

    fn replace(&mut self, pid: i32) -> bool {
        let path = format!("/proc/{pid}/exe");
        let name = match std::fs::read_link(&path) {
            Ok(exe) => exe.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            Err(e) => return e.raw_os_error() == Some(libc::EACCES),
        };
        let held = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path);
        let Ok(held) = held else { return true };
        self.reached.insert(format!("saw {name}"));
        // while it runs, and when it has ended
        let again = format!("/proc/self/fd/{}", held.as_raw_fd());
        let mut wrote = may_write(&path) || may_write(&again);
        for _ in 0..200 {
            if matches!(stage(pid), Stage::Gone) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        wrote |= may_write(&again);
        if wrote {
            self.reached.insert(format!("wrote {name}"));
        }
        false
    }
}

fn input_has_ended() -> bool {
    let stdin = std::io::stdin();
    let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&stdin), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        && stdin.lock().read(&mut [0; 64]).is_ok_and(|n| n == 0)
}

/// The number that was given last.
fn newest() -> i32 {
    let load = std::fs::read_to_string("/proc/loadavg").expect("there is /proc");
    load.split_whitespace().last().and_then(|pid| pid.parse().ok()).expect("it ends with a number")
}

fn exists(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}

fn hunt(how: &str) {
    let mut spoils = Spoils::default();
    let mut prey: Vec<i32> = Vec::new();
    let mut last = std::process::id().cast_signed();
    println!("ready");
    let mut round = 0u32;
    while !round.is_multiple_of(256) || !input_has_ended() {
        round = round.wrapping_add(1);
        let newest = newest();
        let before = prey.len();
        prey.extend((last + 1..=newest).filter(|pid| exists(*pid)));
        spoils.met += prey.len() - before;
        last = newest;
        prey.retain(|pid| match how {
            "freeze" => spoils.freeze(*pid),
            "replace" => spoils.replace(*pid),
            _ => {
                let stage = stage(*pid);
                spoils.watch(*pid, &stage)
            }
        });
    }
    spoils.reached.iter().for_each(|what| println!("{what}"));
    println!("met {}", spoils.met);
}

/// Signals the first new process that has `word` on its command line, and is content with it.
fn silence(signal: &str, word: &str) {
    let signal: Signal = signal.parse().expect("the name of a signal");
    let mut prey: Vec<i32> = Vec::new();
    let mut last = std::process::id().cast_signed();
    println!("ready");
    loop {
        let newest = newest();
        prey.extend((last + 1..=newest).filter(|pid| exists(*pid)));
        last = newest;
        for pid in &prey {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if line.split(|byte| *byte == 0).any(|own| own == word.as_bytes())
                && kill(Pid::from_raw(*pid), signal).is_ok()
            {
                return;
            }
        }
        prey.retain(|pid| exists(*pid));
    }
}

/// Signals everybody that has a number, or that could be meant without one.
fn signals() {
    // SAFETY: no handler runs.
    unsafe { signal(Signal::SIGUSR1, SigHandler::SigIgn) }.expect("a signal can be ignored");
    println!("parent {}", nix::unistd::getppid());
    let group = nix::unistd::getpgrp().as_raw();
    for pid in [0, -1, -group].into_iter().chain(2..70_000).chain((2..70_000).map(|pid| -pid)) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGUSR1);
    }
    println!("done");
}

fn name(word: &str) -> SocketAddr {
    SocketAddr::from_abstract_name(word).expect("a name of a socket")
}

/// Reaches for the descriptors of whoever connects.
fn listen(word: &str) {
    let listener = UnixListener::bind_addr(&name(word)).expect("the name is free");
    println!("ready");
    let (peer, _) = listener.accept().expect("somebody connects");
    let mut pidfd: i32 = -1;
    let mut length: libc::socklen_t = 4;
    call!(libc::SYS_getsockopt, peer.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, &raw mut pidfd, &raw mut length);
    println!("process {}", if pidfd < 0 { Errno::last().to_string() } else { "ok".to_owned() });
    for fd in 0..16 {
        let taken = call!(libc::SYS_pidfd_getfd, pidfd, fd, 0);
        if taken >= 0 {
            println!("took {}", std::fs::read_link(format!("/proc/self/fd/{taken}")).unwrap_or_default().display());
        }
    }
    println!("done");
}

fn connect(word: &str, file: &str) {
    let _held = File::open(file).expect("the file can be read");
    let _connected = UnixStream::connect_addr(&name(word)).expect("somebody listens");
    println!("ready");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [how @ ("watch" | "freeze" | "replace")] => hunt(how),
        ["silence", signal, word] => silence(signal, word),
        ["signals"] => signals(),
        ["listen", name] => listen(name),
        ["connect", name, file] => connect(name, file),
        other => panic!("nothing that hunt does: {other:?}"),
    }
}
