//! The mounts of this machine, as proc_pid_mountinfo(5) lists them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lbx::{Failure, Place, Result, step};

/// The kinds of file system by which a virtual machine has its host's files.
const SHARED: [&str; 2] = ["9p", "virtiofs"];
/// What user-space file systems are called: sshfs, and others that stand for shared ones.
const USER_SPACE: &str = "fuse";

/// A mounted file system.
struct Mount {
    point: PathBuf,
    kind: String,
}

fn all() -> Result<Vec<Mount>> {
    let text = std::fs::read("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(parse(&text))
}

fn parse(text: &[u8]) -> Vec<Mount> {
    let mount = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let point = unescape(fields.nth(4)?);
        // optional fields end with a dash
        let kind = fields.skip_while(|field| *field != b"-".as_slice()).nth(1)?;
        Some(Mount { point, kind: String::from_utf8_lossy(kind).into_owned() })
    };
    text.split(|byte| *byte == b'\n').filter_map(mount).collect()
}

/// The mount points below `path`, outer ones first.
pub(crate) fn below(path: &Path) -> Result<Vec<PathBuf>> {
    let points = all()?.into_iter().map(|mount| mount.point);
    let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(path) && point != path).collect();
    points.sort();
    points.dedup();
    Ok(points)
}

/// Fails for a `path` that the caller elsewhere does not mean: this machine is a VM that shares some
/// of their files, and `path` lies among its own.
pub(crate) fn require_shared(path: &Path) -> Result<()> {
    let Some(place @ Place::Lima(_)) = Place::called() else { return Ok(()) };
    if is_shared(&all()?, path) { Ok(()) } else { Err(place.outside(path).into()) }
}

fn is_shared(mounts: &[Mount], path: &Path) -> bool {
    // of two mounts at one point the later covers the earlier
    let holds = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    let nearest = holds.max_by_key(|mount| mount.point.components().count());
    nearest.is_some_and(|mount| SHARED.contains(&mount.kind.as_str()) || mount.kind.starts_with(USER_SPACE))
}

/// Fails for the home of a caller elsewhere, and for what holds it: this machine has no account
/// that says so.
pub(crate) fn refuse_callers_home(path: &Path) -> Result<()> {
    let carried = |name: &str| Place::called().and_then(|_| step::carried(name.as_ref())).map(PathBuf::from);
    if let Some(lima) = carried("LIMA_HOME")
        && (path.starts_with(&lima) || lima.starts_with(path))
    {
        return Err(
            Failure::new(format!("path is refused: {}: it is, or holds, what Lima keeps", path.display())).into()
        );
    }
    match carried("HOME") {
        Some(home) if home.starts_with(path) => {
            Err(Failure::new(format!("path is refused: {}: it is your home, or holds it", path.display())).into())
        }
        _ => Ok(()),
    }
}

/// `\040` and its like.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
24 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 24 0:30 / /home/me rw shared:2 master:1 - 9p mount0 rw,trans=virtio
31 24 0:31 / /mnt/a\\040b rw - fuse.sshfs x rw
32 30 0:32 / /home/me/own rw - tmpfs none rw
";

    #[test]
    fn what_lies_on_a_shared_file_system_is_shared() {
        let mounts = parse(TABLE);
        for path in ["/home/me", "/home/me/src/app", "/mnt/a b/c"] {
            assert!(is_shared(&mounts, Path::new(path)), "{path}");
        }
        for path in ["/", "/home", "/home/me2", "/home/me/own/x", "/mnt/a", "/srv"] {
            assert!(!is_shared(&mounts, Path::new(path)), "{path}");
        }
    }

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(br"/a\040b\134c\012"), Path::new("/a b\\c\n"));
        assert_eq!(unescape(b"/plain\\"), Path::new("/plain\\"));
    }
}
