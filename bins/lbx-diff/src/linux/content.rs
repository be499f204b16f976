//! What is in files, in blocks: a file is as long as it was when it was looked at, whatever happens
//! to it meanwhile, and its holes are not read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use sha2::{Digest, Sha256};

/// As much as is read at once.
pub(crate) const BLOCK: usize = 1 << 16;

/// Whether the first `size` bytes of both are the same; a file that has become shorter is another.
pub(crate) fn is_same(one: &File, other: &File, size: u64) -> io::Result<bool> {
    let mut blocks = [vec![0; block(size)], vec![0; block(size)]];
    let mut at = 0;
    while at < size {
        let want = usize::try_from(size - at).unwrap_or(BLOCK).min(BLOCK);
        let [ours, theirs] = &mut blocks;
        let (ours, theirs) = (&mut ours[..want], &mut theirs[..want]);
        if fill(one, ours, at)? < want || fill(other, theirs, at)? < want || ours != theirs {
            return Ok(false);
        }
        at += want as u64;
        // a question each, but not for what has no holes
        if at < size && ours.iter().all(|byte| *byte == 0) {
            at = data(one, at, size).min(data(other, at, size));
        }
    }
    Ok(true)
}

/// The SHA-256 of the first `size` bytes.
pub(crate) fn digest(file: &File, size: u64) -> io::Result<String> {
    let mut hash = Sha256::new();
    for_each_block(file, size, |block| {
        hash.update(block);
        Ok(())
    })?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Hands on the first `size` bytes.
///
/// # Errors
/// The file has become shorter.
pub(crate) fn for_each_block(file: &File, size: u64, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; block(size)];
    let mut at = 0;
    while at < size {
        let want = usize::try_from(size - at).unwrap_or(BLOCK).min(BLOCK);
        if fill(file, &mut buffer[..want], at)? < want {
            return Err(io::Error::other("it became shorter while it was read"));
        }
        each(&buffer[..want])?;
        at += want as u64;
    }
    Ok(())
}

fn block(size: u64) -> usize {
    usize::try_from(size).unwrap_or(BLOCK).min(BLOCK)
}

/// Reads from `at` on until the buffer is full or the file ends.
fn fill(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], at + length as u64) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}

/// Where data begin at or behind `at`, as far as the file system tells; `size` where none do.
fn data(file: &File, at: u64, size: u64) -> u64 {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => data.clamp(at, size),
        Err(rustix::io::Errno::NXIO) => size,
        Err(_) => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn files_are_the_same_when_every_byte_is() {
        let long: Vec<u8> = (0..3 * BLOCK + 7).map(|n| (n % 251) as u8).collect();
        let mut other = long.clone();
        assert!(is_same(&file(&long), &file(&other), long.len() as u64).unwrap());
        *other.last_mut().unwrap() ^= 1;
        assert!(!is_same(&file(&long), &file(&other), long.len() as u64).unwrap());
        assert!(!is_same(&file(&long), &file(&long[1..]), long.len() as u64).unwrap());
        assert!(is_same(&file(b""), &file(b""), 0).unwrap());
    }

    #[test]
    fn a_hole_is_as_good_as_zeros_and_takes_no_time() {
        let size = 1 << 40;
        let (one, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        for file in [&one, &other] {
            if file.set_len(size).is_err() {
                return;
            }
        }
        assert!(is_same(&one, &other, size).unwrap());
        one.write_at(b"x", size / 2).unwrap();
        assert!(!is_same(&one, &other, size).unwrap());
        let zeros = file(&vec![0; 2 * BLOCK]);
        other.set_len(2 * BLOCK as u64).unwrap();
        assert!(is_same(&zeros, &other, 2 * BLOCK as u64).unwrap());
    }

    #[test]
    fn a_file_that_became_shorter_is_no_digest() {
        assert!(digest(&file(b"abc"), 4).is_err());
        assert!(digest(&file(b"abc"), 3).unwrap().starts_with("ba7816bf"));
    }
}
