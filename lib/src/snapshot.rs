//! Snapshots of an environment (`lbx-env(1)`, SNAPSHOTS): a file for each, which names the frozen layers
//! that it is made of.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};
use crate::layer::{Base, Frozen, Stack};
use crate::record::{self, Project, rfc3339};
use crate::{Name, Record};

/// The schema of a snapshot; it grows when a field's meaning changes.
pub const SCHEMA: u32 = 1;
/// Longest tag, in bytes.
pub const TAG_MAX: usize = 64;

/// What a snapshot is called: letters, digits, `.`, `_` and `-`, the first a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

impl Tag {
    /// `text` as a tag, when it has the form of one.
    pub fn parse(text: &str) -> Option<Tag> {
        let valid = text.len() <= TAG_MAX
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        valid.then(|| Tag(text.to_owned()))
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Tag, String> {
        Tag::parse(text).ok_or_else(|| {
            format!("a tag is 1 to {TAG_MAX} letters, digits, '.', '_' and '-', the first a letter or digit")
        })
    }
}

impl TryFrom<String> for Tag {
    type Error = String;

    fn try_from(text: String) -> Result<Tag, String> {
        text.parse()
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> String {
        tag.0
    }
}

/// A snapshot as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// The environment's name.
    pub name: Name,
    /// What it is called.
    pub tag: Tag,
    /// When it was made, RFC 3339 UTC; older tools told it to the second.
    pub created: String,
    /// What it is made of.
    pub layers: Stack,
    /// What the inside might do with the project: without [`Project::Cow`] it holds nothing of that.
    pub project: Project,
    /// Since when what its layers cover counts as changed outside; absent where they cover no project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// Made by a restore, of what it replaced.
    #[serde(default, skip_serializing_if = "is_false")]
    pub safety: bool,
}

// serde wants it by reference
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Snapshot {
    /// A snapshot of what `record` names, made now.
    ///
    /// # Errors
    /// When the layers began cannot be read.
    pub fn new(record: &Record, tag: Tag, safety: bool) -> Result<Snapshot> {
        let base = match record.options.project {
            Project::Cow => Some(Base::load(&record.name)?),
            Project::Rw | Project::Ro => None,
        };
        Ok(Snapshot {
            schema: SCHEMA,
            name: record.name.clone(),
            tag,
            created: precise(std::time::SystemTime::now()),
            layers: record.layers.clone(),
            project: record.options.project,
            base,
            safety,
        })
    }

    /// When it was made, as text that sorts.
    pub fn made(&self) -> &str {
        self.created.trim_end_matches('Z')
    }

    /// Reads the snapshot `tag` of `name`. `Ok(None)`: there is none.
    ///
    /// # Errors
    /// A [`Failure`] that names the file: it cannot be read, or not be relied on.
    pub fn load(name: &Name, tag: &Tag) -> Result<Option<Snapshot>> {
        let file = file(name, tag);
        match std::fs::read(&file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read '{}'", file.display())),
            Ok(text) => Snapshot::parse(&text, name, tag).map(Some).map_err(|why| {
                let message = format!("snapshot '{tag}' of environment '{name}' is damaged: {}: {why}", file.display());
                Failure::new(message).hint(format!("lbx-env forget {name} {tag}")).into()
            }),
        }
    }

    fn parse(text: &[u8], name: &Name, tag: &Tag) -> Result<Snapshot, String> {
        let read: Snapshot = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if read.schema != SCHEMA {
            return Err(format!("it has schema {}, these tools know {SCHEMA}", read.schema));
        }
        if (&read.name, &read.tag) != (name, tag) {
            return Err(format!("it names '{}' of '{}'", read.tag, read.name));
        }
        if !read.layers.iter().all(Frozen::is_valid) {
            return Err("it names a layer that cannot be one".to_owned());
        }
        Ok(read)
    }
}

/// `time`, RFC 3339 UTC, to the nanosecond: several snapshots may be of one second.
fn precise(time: std::time::SystemTime) -> String {
    let nanoseconds = time.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    format!("{}.{nanoseconds:09}Z", rfc3339(time).trim_end_matches('Z'))
}

/// `time` in UTC as tags have it, to the second: `20261128T031500`.
pub fn compact(time: std::time::SystemTime) -> String {
    rfc3339(time).chars().filter(|c| c.is_ascii_digit() || *c == 'T').collect()
}

/// Where the snapshots of `name` are kept, each in a file that everybody may read.
pub fn dir(name: &Name) -> PathBuf {
    record::dir(name).join("snapshots")
}

/// The file of snapshot `tag`.
pub fn file(name: &Name, tag: &Tag) -> PathBuf {
    dir(name).join(format!("{tag}.json"))
}

/// The tags of all snapshots of `name`, sorted, the damaged ones too.
///
/// # Errors
/// The directory cannot be read; that it does not exist is an empty list.
pub fn tags(name: &Name) -> Result<Vec<Tag>> {
    let dir = dir(name);
    let cannot = || format!("cannot read directory: {}", dir.display());
    let entries = match std::fs::read_dir(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(cannot)?,
    };
    let mut tags = Vec::new();
    for entry in entries {
        let file = entry.with_context(cannot)?.file_name();
        let tag = Path::new(&file).extension().filter(|end| *end == "json").and_then(|_| Path::new(&file).file_stem());
        tags.extend(tag.and_then(OsStr::to_str).and_then(Tag::parse));
    }
    tags.sort_unstable();
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let layers = Stack {
            home: vec![Frozen { id: "0123456789abcdef".to_owned(), uid: 65536, gid: 65536 }],
            project: Vec::new(),
        };
        Snapshot {
            schema: SCHEMA,
            name: Name::parse("p-0123".as_ref()).unwrap(),
            tag: Tag::parse("one").unwrap(),
            created: "2026-11-28T03:15:00Z".to_owned(),
            layers,
            project: Project::Cow,
            base: Some(Base { sec: 1, nsec: 2 }),
            safety: false,
        }
    }

    #[test]
    fn a_tag_is_one_name_of_a_file() {
        for tag in ["a", "1.2", "20261128T031500Z", "v1_x-y", &"x".repeat(64)] {
            assert_eq!(Tag::parse(tag).unwrap().as_str(), tag);
        }
        for tag in ["", ".", "..", ".x", "-x", "_x", "a/b", "a b", "a\n", "\u{e4}", "a@b", &"x".repeat(65)] {
            assert_eq!(Tag::parse(tag), None, "{tag}");
        }
    }

    #[test]
    fn a_time_is_a_tag() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        assert_eq!(compact(time), "20010909T014640");
    }

    #[test]
    fn times_of_one_second_sort_as_they_passed() {
        let at = |nanoseconds| std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, nanoseconds);
        assert_eq!(precise(at(7)), "2001-09-09T01:46:40.000000007Z");
        let made = ["2001-09-09T01:46:39Z", "2001-09-09T01:46:40Z", &precise(at(7)), &precise(at(100_000_000))]
            .map(|created| Snapshot { created: created.to_owned(), ..snapshot() });
        assert!(made.is_sorted_by(|a, b| a.made() < b.made()), "{made:?}");
    }

    #[test]
    fn a_snapshot_that_cannot_be_relied_on_is_damaged() {
        let snapshot = snapshot();
        let (name, tag) = (snapshot.name.clone(), snapshot.tag.clone());
        let text = serde_json::to_string(&snapshot).unwrap();
        assert!(!text.contains("safety"), "{text}");
        assert_eq!(Snapshot::parse(text.as_bytes(), &name, &tag).unwrap(), snapshot);
        for (text, why) in [
            (text[..text.len() / 2].to_owned(), "EOF"),
            (text.replace("\"schema\":1", "\"schema\":2"), "schema 2"),
            (text.replace("p-0123", "q-0123"), "it names"),
            (text.replace("\"one\"", "\"two\""), "it names"),
            (text.replace("0123456789abcdef", "../../../../etc/"), "layer"),
        ] {
            let told = Snapshot::parse(text.as_bytes(), &name, &tag).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }
}
