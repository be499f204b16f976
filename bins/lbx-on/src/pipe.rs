//! Pipes that much flows through are made to hold more: who reads and who writes take turns less often,
//! which costs more than what they copy.

use std::os::fd::AsFd;

use rustix::pipe::fcntl_setpipe_size;

/// As much as any user may have in one.
const WIDE: usize = 1024 * 1024;

/// Whether a pipe holds more already.
#[derive(Default)]
pub(crate) struct Width {
    is_wide: bool,
}

impl Width {
    /// Makes `pipe` hold more, once. What is no pipe stays as it is, and so does one of a user with many.
    pub(crate) fn widen(&mut self, pipe: impl AsFd) {
        if !std::mem::replace(&mut self.is_wide, true) {
            let _ = fcntl_setpipe_size(pipe, WIDE);
        }
    }
}
