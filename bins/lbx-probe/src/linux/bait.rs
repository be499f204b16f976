//! What is laid outside to be found: it goes when the probe ends, however that comes.
//!
//! What has a name, or a number that outlives its maker, is removed by a keeper, a process of its own
//! that is told of each thing and learns from the end of a pipe that the probe is gone.

use std::fs::OpenOptions;
use std::io::{PipeWriter, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use anyhow::Context;
use lbx::{Result, sys};
use nix::unistd::Pid;

use super::host;
use super::inside::Outside;
use super::raw::call;

/// Where files lie that an environment has its own directories for.
const DIRECTORIES: [&str; 4] = ["/dev/shm", "/tmp", "/var/tmp", "/run"];
const NAMESPACES: [&str; 6] = ["mnt", "pid", "ipc", "uts", "cgroup", "net"];
const KEYCTL_JOIN_SESSION_KEYRING: i64 = 1;
const KEY_SPEC_SESSION_KEYRING: i64 = -3;
const NEW: i32 = libc::IPC_CREAT | libc::IPC_EXCL | 0o666;

/// Everything that is laid; it is taken up when this is dropped.
#[derive(Debug)]
pub(crate) struct Baits {
    pub(crate) outside: Outside,
    _abstract: Option<UnixListener>,
    _socket: Option<UnixListener>,
    _loopback: Option<TcpListener>,
    /// Last, so that everything else is closed before.
    _keeper: Keeper,
}

impl Baits {
    /// Lays what can be laid here; what cannot is not attacked.
    pub(crate) fn lay() -> Result<Baits> {
        let token = format!("lbx-{:08x}", random()? as u32);
        let mut keeper = Keeper::start()?;
        rustix::thread::set_name(c_string(&token).as_c_str()).context("cannot name this process")?;
        let mut outside = Outside { pid: std::process::id().cast_signed(), ..Outside::default() };
        for kind in NAMESPACES {
            let file = std::fs::metadata(Path::new("/proc/self/ns").join(kind));
            outside.namespaces.extend(file.ok().map(|file| (kind.to_owned(), file.ino())));
        }
        outside.terminals = std::fs::metadata("/dev/pts").map_or(0, |dir| dir.dev());
        for dir in DIRECTORIES {
            outside.files.extend(lay_file(&mut keeper, &Path::new(dir).join(&token)));
        }
        let path = Path::new("/run").join(format!("{token}.sock"));
        keeper.told(&format!("file {}", path.display()))?;
        let socket = UnixListener::bind(&path).ok();
        if socket.is_some()
            && std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).is_ok()
        {
            outside.socket = Some(path);
        }
        let abstract_socket = SocketAddr::from_abstract_name(&token).and_then(|name| UnixListener::bind_addr(&name));
        let loopback = TcpListener::bind("127.0.0.1:0").ok();
        outside.port = loopback.as_ref().and_then(|listener| Some(listener.local_addr().ok()?.port()));
        outside.shm = numbered(&mut keeper, "shm", || call!(libc::SYS_shmget, key()?, 4096, NEW));
        outside.sem = numbered(&mut keeper, "sem", || call!(libc::SYS_semget, key()?, 1, NEW));
        outside.msg = numbered(&mut keeper, "msg", || call!(libc::SYS_msgget, key()?, NEW));
        keeper.told(&format!("queue {token}"))?;
        let name = c_string(&token);
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_CLOEXEC;
        outside.queue = call!(libc::SYS_mq_open, name.as_ptr(), flags, 0o666, 0).is_ok();
        outside.host = host::host();
        outside.token = token;
        Ok(Baits { outside, _abstract: abstract_socket.ok(), _socket: socket, _loopback: loopback, _keeper: keeper })
    }

    /// Runs `start` with a session keyring that holds a key.
    pub(crate) fn with_keyring<T>(&mut self, start: impl FnOnce(&Outside) -> Result<T>) -> Result<T> {
        let name = c_string(&self.outside.token);
        if call!(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()).is_ok() {
            let (kind, key) = (c"user".as_ptr(), name.as_ptr());
            self.outside.key = call!(libc::SYS_add_key, kind, key, key, 1, KEY_SPEC_SESSION_KEYRING).ok();
        }
        let started = start(&self.outside);
        if self.outside.key.is_some() {
            call!(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0).context("cannot leave a keyring")?;
        }
        started
    }

    /// Whether a process still has the keyring; the kernel takes some time to forget one.
    pub(crate) fn keyring_is_used(&self) -> bool {
        for _ in 0..50 {
            let keys = std::fs::read_to_string("/proc/keys").unwrap_or_default();
            if !keys.lines().any(|key| key.contains(" keyring ") && key.contains(&self.outside.token)) {
                return false;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        true
    }
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("no random number")?;
    Ok(u64::from_le_bytes(bytes))
}

/// A key of System V, which is no other's.
fn key() -> Result<i32, nix::errno::Errno> {
    random().map(|number| (number as u32 >> 1 | 1).cast_signed()).map_err(|_| nix::errno::Errno::EIO)
}

fn c_string(text: &str) -> std::ffi::CString {
    std::ffi::CString::new(text).unwrap_or_default()
}

fn lay_file(keeper: &mut Keeper, path: &Path) -> Option<PathBuf> {
    keeper.told(&format!("file {}", path.display())).ok()?;
    OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).ok()?;
    Some(path.to_owned())
}

fn numbered(keeper: &mut Keeper, kind: &str, make: impl FnOnce() -> Result<i64, nix::errno::Errno>) -> Option<i64> {
    let number = make().ok()?;
    keeper.told(&format!("{kind} {number}")).ok().map(|()| number)
}

/// A process that removes what it was told of when this ends.
#[derive(Debug)]
struct Keeper {
    pid: Pid,
    pipe: Option<PipeWriter>,
}

impl Keeper {
    fn start() -> Result<Keeper> {
        let (read, write) = std::io::pipe().context("cannot make a pipe")?;
        let Some(pid) = sys::fork().context("cannot start a process")? else {
            drop(write);
            keep(read);
            sys::exit_now(0)
        };
        Ok(Keeper { pid, pipe: Some(write) })
    }

    fn told(&mut self, line: &str) -> Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        writeln!(pipe, "{line}").context("cannot tell the keeper of a bait")
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }
}

/// In the keeper: no ^C reaches it, and nobody waits for a stream that it holds.
fn keep(mut pipe: impl Read + AsRawFd) {
    let _ = rustix::process::setsid();
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        for to in 0..=2 {
            let _ = sys::duplicate(null.as_raw_fd(), to);
        }
    }
    let mut told = String::new();
    let _ = pipe.read_to_string(&mut told);
    for (kind, what) in told.lines().filter_map(|line| line.split_once(' ')) {
        let number = what.parse().unwrap_or(-1i64);
        let _ = match kind {
            "file" => std::fs::remove_file(what).map_err(|_| nix::errno::Errno::EIO).map(|()| 0),
            "shm" => call!(libc::SYS_shmctl, number, libc::IPC_RMID, 0),
            "sem" => call!(libc::SYS_semctl, number, 0, libc::IPC_RMID),
            "msg" => call!(libc::SYS_msgctl, number, libc::IPC_RMID, 0),
            _ => call!(libc::SYS_mq_unlink, c_string(what).as_ptr()),
        };
    }
}
