//! What tells of a file whether it is another, or was changed.

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

/// When it was changed, and when it was written.
#[allow(clippy::unnecessary_cast)] // their types are the architecture's
pub(crate) fn times(stat: &Stat) -> ((i64, i64), (i64, i64)) {
    ((stat.st_ctime as i64, stat.st_ctime_nsec as i64), (stat.st_mtime as i64, stat.st_mtime_nsec as i64))
}

/// What a rename changes nothing of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Facts {
    pub(crate) inode: u64,
    pub(crate) written: (i64, i64),
    pub(crate) size: i64,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
}

impl Facts {
    #[allow(clippy::unnecessary_cast)]
    pub(crate) fn of(stat: &Stat) -> Facts {
        let (size, owner) = (stat.st_size as i64, (stat.st_uid, stat.st_gid));
        Facts { inode: stat.st_ino, written: times(stat).1, size, mode: stat.st_mode, owner }
    }
}

/// Whether nothing happened to it.
pub(crate) fn is_same(a: &Stat, b: &Stat) -> bool {
    a.st_dev == b.st_dev && times(a).0 == times(b).0 && Facts::of(a) == Facts::of(b)
}
