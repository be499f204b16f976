//! Paths: their canonical form, and how JSON carries those that are not UTF-8.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::failure::{Failure, Result, fail};

/// As many links as the kernel follows in one path (`path_resolution(7)`).
const LINKS_MAX: u32 = 40;

/// The canonical absolute form of `path`: symlinks resolved as far as the path exists, as
/// `realpath -m` does.
///
/// # Errors
/// A link loop, a directory that may not be searched, a working directory that is gone.
pub fn canonical(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return fail(Failure::new("path is empty: ''"));
    }
    let absolute = std::path::absolute(path).context("cannot tell the current directory")?;
    let absolute = if path.is_absolute() { path.to_owned() } else { absolute };
    resolve(&absolute, LINKS_MAX).with_context(|| format!("cannot resolve path: {}", path.display()))
}

fn resolve(path: &Path, links: u32) -> io::Result<PathBuf> {
    if is_canonical(path) {
        return Ok(path.to_owned());
    }
    match std::fs::canonicalize(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
        resolved => return resolved.map(spelled),
    }
    let parent = match path.parent() {
        Some(parent) => parent,
        None => return Ok(PathBuf::from("/")),
    };
    // A dangling link names what is not there yet.
    if let Ok(target) = std::fs::read_link(path) {
        let links = links.checked_sub(1).ok_or(io::Error::from_raw_os_error(libc_eloop()))?;
        return resolve(&parent.join(target), links);
    }
    let mut resolved = resolve(parent, links)?;
    match path.components().next_back() {
        Some(Component::Normal(name)) => resolved.push(name),
        Some(Component::ParentDir) => {
            resolved.pop();
        }
        _ => {}
    }
    Ok(resolved)
}

/// Whether `path`, which is absolute, is known at one look to be canonical.
#[cfg(target_os = "linux")]
fn is_canonical(path: &Path) -> bool {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
    let plain: PathBuf = path.components().filter(|part| *part != Component::ParentDir).collect();
    plain.as_os_str() == path.as_os_str()
        && openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn is_canonical(_: &Path) -> bool {
    false
}

/// `path`, which exists, as its file system spells it: those of macOS take any case, and one
/// directory would have several names.
#[cfg(target_os = "macos")]
fn spelled(path: PathBuf) -> PathBuf {
    use rustix::fs::{Mode, OFlags, getpath, open};
    let own = open(&path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).and_then(getpath);
    own.map_or(path, |own| OsString::from_vec(own.into_bytes()).into())
}

#[cfg(not(target_os = "macos"))]
fn spelled(path: PathBuf) -> PathBuf {
    path
}

fn libc_eloop() -> i32 {
    rustix::io::Errno::LOOP.raw_os_error()
}

/// `path` as an existing directory in canonical form.
///
/// # Errors
/// `path does not exist: P` and `path is not a directory: P`.
pub fn directory(path: &Path) -> Result<PathBuf> {
    let canonical = canonical(path)?;
    match std::fs::metadata(&canonical) {
        Ok(meta) if meta.is_dir() => Ok(canonical),
        Ok(_) => fail(Failure::new(format!("path is not a directory: {}", canonical.display()))),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            fail(Failure::new(format!("path does not exist: {}", canonical.display())))
        }
        Err(e) => Err(e).with_context(|| format!("cannot read path: {}", canonical.display())),
    }
}

/// A path in JSON: a string where it is UTF-8, else an object with a lossy `path` for people and
/// `path_bytes` (base64) for programs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JsonPath(pub PathBuf);

impl JsonPath {
    /// `path` as text, lossy where it is not UTF-8, and then its bytes in base64.
    pub fn encode(path: &Path) -> (String, Option<String>) {
        match path.to_str() {
            Some(text) => (text.to_owned(), None),
            None => (path.to_string_lossy().into_owned(), Some(BASE64.encode(path.as_os_str().as_bytes()))),
        }
    }

    /// The path that [`JsonPath::encode`] made `path` and `bytes` of.
    ///
    /// # Errors
    /// `bytes` is not base64.
    pub fn decode(path: String, bytes: Option<&str>) -> Result<PathBuf, base64::DecodeError> {
        Ok(match bytes {
            None => PathBuf::from(path),
            Some(bytes) => PathBuf::from(OsString::from_vec(BASE64.decode(bytes)?)),
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Encoded {
    Text(String),
    Bytes { path: String, path_bytes: String },
}

impl Serialize for JsonPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match JsonPath::encode(&self.0) {
            (text, None) => Encoded::Text(text),
            (path, Some(path_bytes)) => Encoded::Bytes { path, path_bytes },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JsonPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = match Encoded::deserialize(deserializer)? {
            Encoded::Text(text) => PathBuf::from(text),
            Encoded::Bytes { path, path_bytes } => {
                JsonPath::decode(path, Some(&path_bytes)).map_err(de::Error::custom)?
            }
        };
        Ok(JsonPath(path))
    }
}

/// A word as a person would have typed it in a shell.
pub fn shell_quoted(word: &OsStr) -> String {
    shell_words::quote(&word.to_string_lossy()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_resolved_as_far_as_the_path_exists() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        symlink("real", root.join("link")).unwrap();
        symlink("real/later", root.join("dangling")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        assert_eq!(canonical(&root.join("link/a/../b")).unwrap(), root.join("real/b"));
        assert_eq!(canonical(&root.join("dangling/x")).unwrap(), root.join("real/later/x"));
        assert_eq!(canonical(&root.join("./real/.")).unwrap(), root.join("real"));
        assert!(canonical(&root.join("loop/x")).is_err());
        assert!(canonical(Path::new("")).is_err());
        assert_eq!(canonical(Path::new("/../..")).unwrap(), Path::new("/"));
    }

    #[test]
    fn json_carries_any_path() {
        for bytes in [&b"/a b"[..], b"/\xff\n", "/ä".as_bytes()] {
            let path = JsonPath(PathBuf::from(OsStr::from_bytes(bytes)));
            let json = serde_json::to_string(&path).unwrap();
            assert_eq!(serde_json::from_str::<JsonPath>(&json).unwrap(), path);
        }
        assert_eq!(serde_json::to_string(&JsonPath("/a".into())).unwrap(), "\"/a\"");
    }
}
