//! The tools at this end: a directory for each version, and a program that finds the right one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use lbx::failure::{Failure, Result, fail};
use sha2::{Digest, Sha256};

use crate::greeting::{Request, is_version, read_line};

const ROOT: &str = "/usr/local/libexec/llima-box";
/// Whatever version it is, it leads to every other.
pub(super) const ENTRY: &str = "/usr/local/libexec/llima-box/lbx-on";
/// As large as a tool may be, and as many as there may be.
const TOOL_MAX: u64 = 256 * 1024 * 1024;
const TOOLS_MAX: usize = 64;
/// A version that nobody has asked for in this time goes when the next one comes.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The tool `name` of this very program's version, where it is one of those that are there. Whoever serves
/// many calls looks once.
pub(super) fn beside_own(name: &str) -> Option<PathBuf> {
    static DIR: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let own = own()?;
        let mut dirs = entries(Path::new(ROOT)).into_iter().filter(|(name, _)| is_version(name)).map(|(_, dir)| dir);
        dirs.find(|dir| id(dir.join("lbx-on")) == Some(own))
    };
    DIR.get_or_init(find).as_ref().map(|dir| dir.join(name))
}

/// The tools of one version, which are there.
#[derive(Clone, Debug)]
pub(super) struct Version {
    name: String,
    dir: PathBuf,
    far_end: FileId,
}

/// Device and inode.
type FileId = (u64, u64);

fn id(file: impl AsRef<Path>) -> Option<FileId> {
    fs::metadata(file).ok().filter(fs::Metadata::is_file).map(|meta| (meta.dev(), meta.ino()))
}

/// The program that stands at [`ENTRY`].
pub(super) fn entry() -> Option<FileId> {
    id(ENTRY)
}

/// This very program; whoever serves many calls looks once.
pub(super) fn own() -> Option<FileId> {
    static OWN: OnceLock<Option<FileId>> = OnceLock::new();
    *OWN.get_or_init(|| id("/proc/self/exe"))
}

impl Version {
    /// The version called `name`, when it is there.
    pub(super) fn installed(name: String) -> Option<Version> {
        if !is_version(&name) {
            return None;
        }
        let dir = Path::new(ROOT).join(&name);
        let far_end = id(dir.join("lbx-on"))?;
        Some(Version { name, dir, far_end })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn tool(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether this very program is one of the version's.
    pub(super) fn is_this(&self) -> bool {
        own() == Some(self.far_end)
    }

    /// Remembers that it is in use, once a day.
    pub(super) fn touch(&self) {
        let fresh = |meta: fs::Metadata| meta.modified().is_ok_and(|then| age(then) < DAY);
        if !fs::metadata(&self.dir).is_ok_and(fresh) {
            let _ = fs::File::open(&self.dir).and_then(|dir| dir.set_modified(SystemTime::now()));
        }
    }
}

fn age(then: SystemTime) -> Duration {
    SystemTime::now().duration_since(then).unwrap_or_default()
}

/// Takes the tools of `version` from `stream`: written aside, compared with the version, which is
/// their digest, and renamed.
pub(super) fn receive(version: &str, stream: &mut impl Read) -> Result<()> {
    let root = Path::new(ROOT);
    make_directory(root).with_context(|| format!("cannot make '{ROOT}'"))?;
    remove_abandoned(root);
    let aside = root.join(format!(".{version}.{}", std::process::id()));
    // of a process that was killed when it had this number
    let _ = fs::remove_dir_all(&aside);
    let received = receive_into(&aside, version, stream).and_then(|()| settle(&aside, version));
    if received.is_err() {
        let _ = fs::remove_dir_all(&aside);
    }
    received
}

fn make_directory(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)
}

fn receive_into(aside: &Path, version: &str, stream: &mut impl Read) -> Result<()> {
    fs::DirBuilder::new().mode(0o755).create(aside).with_context(|| format!("cannot make '{}'", aside.display()))?;
    let mut digests = BTreeMap::new();
    loop {
        let line = read_line(stream).context("cannot read the tools")?;
        match line.as_deref().and_then(Request::parse) {
            Some(Request::File(name, size)) if size <= TOOL_MAX && digests.len() < TOOLS_MAX => {
                let digest = receive_file(&aside.join(&name), size, stream)
                    .with_context(|| format!("cannot write tool '{name}'"))?;
                digests.insert(name, digest);
            }
            Some(Request::End) => break,
            _ => return fail(Failure::new("the tools did not come whole")),
        }
    }
    match name_of(&digests) == version {
        true => Ok(()),
        false => fail(Failure::new(format!("the tools that came are not those of version {version}"))),
    }
}

fn receive_file(file: &Path, size: u64, stream: &mut impl Read) -> Result<String> {
    let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(file)?;
    let mut digest = Sha256::new();
    let mut bytes = vec![0; 64 * 1024];
    let mut left = size;
    while left > 0 {
        let most = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let length = match stream.read(&mut bytes[..most]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            length => length?,
        };
        if length == 0 {
            return fail(Failure::new("the stream ended within a tool"));
        }
        digest.update(&bytes[..length]);
        out.write_all(&bytes[..length])?;
        left -= length as u64;
    }
    out.sync_all()?;
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The version of tools with these digests: what `scripts/build-guest` calls them.
fn name_of(digests: &BTreeMap<String, String>) -> String {
    let list: String = digests.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect();
    let digest: String = Sha256::digest(list.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    digest[..16].to_owned()
}

/// Puts what was received where calls find it. Another connection may have been first.
fn settle(aside: &Path, version: &str) -> Result<()> {
    let root = Path::new(ROOT);
    let dir = root.join(version);
    fs::File::open(aside)?.sync_all()?;
    if Version::installed(version.to_owned()).is_none() {
        // what is there is not whole
        let _ = fs::remove_dir_all(&dir);
    }
    match fs::rename(aside, &dir) {
        Err(_) if dir.is_dir() => fs::remove_dir_all(aside)?,
        renamed => renamed.with_context(|| format!("cannot rename to '{}'", dir.display()))?,
    }
    // the same file, so that the far end knows itself without being executed anew
    let new = root.join(format!(".lbx-on.{}", std::process::id()));
    let _ = fs::remove_file(&new);
    fs::hard_link(dir.join("lbx-on"), &new)
        .and_then(|()| fs::rename(&new, ENTRY))
        .with_context(|| format!("cannot replace '{ENTRY}'"))?;
    fs::File::open(root)?.sync_all()?;
    remove_unused(root, version);
    Ok(())
}

/// What was being written when its writer was killed.
fn remove_abandoned(root: &Path) {
    for (name, path) in entries(root) {
        let writer = name.strip_prefix('.').and_then(|name| name.rsplit_once('.'));
        if let Some((_, pid)) = writer
            && pid.bytes().all(|byte| byte.is_ascii_digit())
            && !Path::new("/proc").join(pid).exists()
        {
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
    }
}

fn remove_unused(root: &Path, current: &str) {
    for (name, path) in entries(root) {
        let unused = fs::metadata(&path).and_then(|meta| meta.modified()).is_ok_and(|then| age(then) > UNUSED);
        if is_version(&name) && name != current && unused {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn entries(dir: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = dir.read_dir() else { return Vec::new() };
    entries.flatten().filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive_text(dir: &Path, version: &str, text: &str) -> Result<()> {
        let _ = fs::remove_dir_all(dir);
        receive_into(dir, version, &mut text.as_bytes())
    }

    #[test]
    fn tools_are_taken_whole_and_only_as_what_they_claim_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new");
        let text = "LBX1 file lbx-ls 2\nabLBX1 file lbx-env 1\ncLBX1 end\n";
        // (sha256sum lbx-env lbx-ls) | sha256sum
        let digests = BTreeMap::from([
            ("lbx-ls".to_owned(), "fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603".to_owned()),
            ("lbx-env".to_owned(), "2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6".to_owned()),
        ]);
        let version = name_of(&digests);
        receive_text(&dir, &version, text).unwrap();
        assert_eq!(fs::read(dir.join("lbx-ls")).unwrap(), b"ab");
        assert_eq!(fs::metadata(dir.join("lbx-env")).unwrap().mode() & 0o7777, 0o755);

        assert!(receive_text(&dir, "0123456789abcdef", text).is_err(), "another version's");
        for cut in 0..text.len() {
            assert!(receive_text(&dir, &version, &text[..cut]).is_err(), "cut at {cut}");
        }
        for text in ["LBX1 file ../x 1\na", "LBX1 file lbx-ls 99999999999999\n", "LBX1 file a b 1\n", "nonsense\n"] {
            assert!(receive_text(&dir, &version, text).is_err(), "{text:?}");
        }
        assert!(receive_text(&dir, &version, "LBX1 file lbx-ls 1\naLBX1 file lbx-ls 1\naLBX1 end\n").is_err());
    }

    #[test]
    fn a_version_is_no_path() {
        for name in ["..", "../../../../etc", "", "0123456789abcdef/..", "lbx-on"] {
            assert!(Version::installed(name.to_owned()).is_none(), "{name}");
        }
    }
}
