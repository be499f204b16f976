//! Signals of the near end: taken by a thread, and told to the relay while something runs far.

use std::sync::Mutex;
use std::sync::mpsc::Sender;

use lbx::failure::Result;
use nix::sys::signal::{SigSet, Signal, raise};

use crate::keyboard;
use crate::link::Event;

/// Who is told; nobody: signals do what they do by default.
static LISTENER: Mutex<Option<Sender<Event>>> = Mutex::new(None);

/// The signals that are told, but for those that the caller wants ignored, as nohup(1) does.
fn taken() -> SigSet {
    use Signal::*;
    let all = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGTSTP, SIGCONT, SIGWINCH];
    all.into_iter().filter(|signal| !is_ignored(*signal)).collect()
}

#[allow(unsafe_code)]
fn is_ignored(signal: Signal) -> bool {
    use nix::libc;
    // SAFETY: zero is a valid sigaction, and the call changes nothing but that.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action the kernel only writes the old one.
    let asked = unsafe { libc::sigaction(signal as libc::c_int, std::ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Takes signals for this process; before any other thread is started, so that all leave them alone.
pub(crate) fn take() -> Result<()> {
    let taken = taken();
    taken.thread_block()?;
    std::thread::spawn(move || {
        while let Ok(signal) = taken.wait() {
            let Ok(listener) = LISTENER.lock().map(|listener| listener.clone()) else { return };
            match listener {
                Some(listener) => drop(listener.send(Event::Signal(signal))),
                None if matches!(signal, Signal::SIGWINCH | Signal::SIGCONT) => {}
                None => obey(signal),
            }
        }
    });
    Ok(())
}

/// From here on `listener` is told of signals; without one they do again what they do by default.
pub(crate) fn tell(listener: Option<Sender<Event>>) {
    if let Ok(mut told) = LISTENER.lock() {
        *told = listener;
    }
}

/// Lets `signal` do to this process what it does by default; a stop comes back when it is over.
pub(crate) fn obey(signal: Signal) {
    keyboard::restore();
    let only: SigSet = [signal].into_iter().collect();
    let _ = raise(signal);
    let _ = only.thread_unblock();
    let _ = only.thread_block();
}
