//! What files hold, copied with its holes.

use std::fs::File;
use std::io::{self, Read, Seek};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Copies the first `size` bytes of `from` to `to`, which is empty. What is a hole in the one is one in
/// the other; what was cut off `from` meanwhile as well.
///
/// # Errors
/// Reading or writing failed.
pub fn copy(from: &File, to: &File, size: u64) -> io::Result<()> {
    let mut at = 0;
    while at < size {
        let data = match seek(from, SeekFrom::Data(at)) {
            // nothing but a hole
            Err(Errno::NXIO) => break,
            // no file system that tells
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            data => data?,
        };
        let end = match seek(from, SeekFrom::Hole(data)) {
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NXIO) => size,
            end => end?.min(size),
        };
        if data >= end {
            break;
        }
        let (mut from, mut to) = (from, to);
        from.seek(io::SeekFrom::Start(data))?;
        to.seek(io::SeekFrom::Start(data))?;
        if io::copy(&mut from.take(end - data), &mut to)? < end - data {
            break;
        }
        at = end;
    }
    to.set_len(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_copy_has_the_same_bytes_and_no_more_of_them_on_the_disk() {
        let [from, to] = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        let size = 64 << 20;
        from.set_len(size).unwrap();
        from.write_all_at(b"begin", 0).unwrap();
        from.write_all_at(b"end", (32 << 20) + 1).unwrap();
        copy(&from, &to, size).unwrap();
        let mut text = [0; 4];
        to.read_exact_at(&mut text, 32 << 20).unwrap();
        assert_eq!((&text, to.metadata().unwrap().len()), (b"\0end", size));
        assert!(to.metadata().unwrap().blocks() <= from.metadata().unwrap().blocks() + 256);
    }
}
