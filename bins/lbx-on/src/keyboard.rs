//! The caller's terminal while its keys belong to the far side.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use lbx_on::frame::Size;
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr};

use crate::terminal;

/// How the terminal was found, while it is raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);
/// Whether keys are to be read: in the background they are somebody else's.
static RAW: AtomicBool = AtomicBool::new(false);

/// What the far side is to know of the terminal.
pub(crate) fn modes() -> Vec<u8> {
    tcgetattr(stdin()).map(|modes| terminal::encode(&modes)).unwrap_or_default()
}

/// The terminal's size.
pub(crate) fn size() -> Size {
    tcgetwinsize(stdin()).map(|size| Size { rows: size.ws_row, columns: size.ws_col }).unwrap_or_default()
}

/// Every key goes far, whose terminal makes signals of some. In the background nothing happens.
/// Returns whether that changed something.
pub(crate) fn make_raw() -> bool {
    let Ok(mut saved) = SAVED.lock() else { return false };
    if saved.is_some() || !in_foreground() {
        return false;
    }
    let Ok(modes) = tcgetattr(stdin()) else { return false };
    let mut raw = modes.clone();
    raw.make_raw();
    if tcsetattr(stdin(), OptionalActions::Drain, &raw).is_err() {
        return false;
    }
    *saved = Some(modes);
    RAW.store(true, Ordering::SeqCst);
    true
}

/// Leaves the terminal as it was found.
pub(crate) fn restore() {
    RAW.store(false, Ordering::SeqCst);
    let Ok(mut saved) = SAVED.lock() else { return };
    if let Some(modes) = saved.take()
        && in_foreground()
    {
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &modes);
    }
}

/// Whether keys are this job's.
pub(crate) fn is_raw() -> bool {
    RAW.load(Ordering::SeqCst)
}

fn in_foreground() -> bool {
    tcgetpgrp(stdin()).is_ok_and(|group| group == rustix::process::getpgrp())
}
