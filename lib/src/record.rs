//! The record of an environment (`lbx-record(5)`): what `record.json` keeps and `lbx-ls` prints.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::caller::Caller;
use crate::failure::{Failure, Result};
use crate::layer::{Frozen, Stack};
use crate::path::{JsonPath, canonical};
use crate::snapshot::Tag;
use crate::{Name, path};

/// Where environments are recorded: one directory each, readable by every user.
pub const ENVS: &str = "/var/lib/llima-box/envs";
/// Where environments have a file each that have another name than their path gives, so that whoever
/// looks for one by its path need not look at all of them.
pub const NAMED: &str = "/var/lib/llima-box/named";
/// Where running environments have their locks and shared mounts; empty after a reboot.
pub const RUN: &str = "/run/llima-box";
/// The uids and gids of environments: above login screens, below subordinate uids.
pub const IDS: std::ops::RangeInclusive<u32> = 65536..=99999;

/// Whether an environment that shares the uid of its project's owner shares this group of theirs, too:
/// any but the system's, whose members may do on the machine what others may not (20, staff on a Mac,
/// is dialout there), and other environments'.
#[must_use]
pub fn shares_gid(gid: u32) -> bool {
    gid >= 1000 && gid != 65534 && !IDS.contains(&gid)
}
/// The schema of a record; it grows when a field's meaning changes.
pub const SCHEMA: u32 = 1;
/// That of one whose project is not simply there and writable: tools that only know [`SCHEMA`] would
/// let the inside write the project itself.
const SCHEMA_OF_LAYERS: u32 = 2;
/// That of one with frozen layers: tools that only know the others would show a part of its home for all.
const SCHEMA_OF_FROZEN: u32 = 3;

/// Who owns what an environment makes in its project (`llima-box(7)`, OWNERSHIP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ownership {
    /// An id-mapped mount shows the owner's files as the environment's.
    Idmap,
    /// The file system lets the environment's account write as it is.
    Native,
    /// The environment's account has the owner's uid.
    SharedUid,
}

/// The network that an environment sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Net {
    /// The place's own network, loopback included.
    #[default]
    Shared,
    /// A network namespace with nothing but loopback.
    None,
}

/// What the inside may do with the project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Project {
    /// Write it.
    #[default]
    Rw,
    /// Read it.
    Ro,
    /// Write a layer over it (`lbx::layer`); the project itself stays as it is.
    Cow,
}

impl Project {
    /// The word of `--project` for this.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Project::Rw => "rw",
            Project::Ro => "ro",
            Project::Cow => "cow",
        }
    }

    // serde wants it by reference
    #[allow(clippy::trivially_copy_pass_by_ref)]
    fn is_rw(&self) -> bool {
        *self == Project::Rw
    }
}

/// Whose the project is: every start refuses a changed owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Numeric user ID on the place.
    pub uid: u32,
    /// Numeric group ID on the place.
    pub gid: u32,
    /// Device number of the file system (`st_dev`); it may change at a reboot.
    pub device: u64,
}

/// Where git keeps what belongs to a worktree (`gitrepository-layout(5)`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worktree {
    /// The directory that all worktrees of the repository share.
    pub common: JsonPath,
    /// This worktree's own directory, relative to `common`: `worktrees/ID`.
    pub own: JsonPath,
}

/// The options an environment was created with, or given by `lbx-env set`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Further paths, read-only.
    pub ro: Vec<JsonPath>,
    /// Further paths, read-write.
    pub rw: Vec<JsonPath>,
    /// Directories of the project that are the environment's own, relative to the project.
    pub private: Vec<JsonPath>,
    /// What may be done with the project itself.
    #[serde(skip_serializing_if = "Project::is_rw")]
    pub project: Project,
    /// The network.
    pub net: Net,
    /// Whether user namespaces may be made inside.
    pub nest: bool,
    /// The git identity of the caller: `user.name`, `user.email`, `init.defaultBranch`.
    pub git: BTreeMap<String, String>,
}

/// What an environment was forked from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The environment.
    pub name: Name,
    /// The snapshot of it; none: as it was when it was forked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.name)?;
        self.tag.iter().try_for_each(|tag| write!(f, "@{tag}"))
    }
}

/// The schema of a record with `options` and the frozen layers of `stack`.
fn schema_of(options: &Options, stack: &Stack) -> u32 {
    match (stack.is_empty(), options.project.is_rw()) {
        (false, _) => SCHEMA_OF_FROZEN,
        (true, false) => SCHEMA_OF_LAYERS,
        (true, true) => SCHEMA,
    }
}

/// An environment as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// The environment's name, and its account's.
    pub name: Name,
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    /// The account's uid, and its gid.
    pub uid: u32,
    /// The account's gid; it differs from `uid` where the uid is the project owner's.
    pub gid: u32,
    /// The home inside.
    pub home: PathBuf,
    /// The login shell inside.
    pub shell: PathBuf,
    /// When the environment was created, RFC 3339 UTC.
    pub created: String,
    /// Who owns what is made in the project.
    pub ownership: Ownership,
    /// The project's owner.
    pub owner: Owner,
    /// Numeric user ID of whoever created it: of the further paths, their files alone are mapped.
    pub creator: u32,
    /// The options in force.
    pub options: Options,
    /// Labels, for people and scripts.
    pub labels: BTreeMap<String, String>,
    /// The git directories of a worktree, found once at create.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worktree: Option<Worktree>,
    /// What was frozen of it.
    #[serde(default, skip_serializing_if = "Stack::is_empty")]
    pub layers: Stack,
    /// What it was forked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Source>,
}

/// What a [`Record`] starts from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The environment's name.
    pub name: Name,
    /// The project, canonical.
    pub path: PathBuf,
    /// The project's owner.
    pub owner: Owner,
    /// Who owns what is made in the project.
    pub ownership: Ownership,
    /// Numeric user ID of whoever creates it.
    pub creator: u32,
}

impl Record {
    /// A record of `origin` for the account `uid`, `gid`, created now.
    pub fn new(origin: Origin, uid: u32, gid: u32, shell: PathBuf, options: Options) -> Record {
        let (path, path_bytes) = JsonPath::encode(&origin.path);
        Record {
            schema: schema_of(&options, &Stack::default()),
            home: Path::new("/home").join(&origin.name),
            name: origin.name,
            path,
            path_bytes,
            uid,
            gid,
            shell,
            created: rfc3339(std::time::SystemTime::now()),
            ownership: origin.ownership,
            owner: origin.owner,
            creator: origin.creator,
            options,
            labels: BTreeMap::new(),
            worktree: None,
            layers: Stack::default(),
            from: None,
        }
    }

    /// Gives the record the schema that its options and layers ask for.
    pub fn renew_schema(&mut self) {
        self.schema = schema_of(&self.options, &self.layers);
    }

    /// The project, at the path where it is on the host and inside.
    pub fn project(&self) -> PathBuf {
        // `parse` has checked the encoding; the lossy path stands in where nothing did
        JsonPath::decode(self.path.clone(), self.path_bytes.as_deref()).unwrap_or_else(|_| PathBuf::from(&self.path))
    }

    /// Fails when the environment is another person's: it is its creator's, the project owner's and
    /// root's, who may act on it through sudo.
    ///
    /// # Errors
    /// A [`Failure`] that names whose it is.
    pub fn require_caller(&self, caller: Caller) -> Result<()> {
        if caller.is_root() || [self.creator, self.owner.uid].contains(&caller.uid) {
            return Ok(());
        }
        let message = format!("environment '{}' belongs to uid {}, not to you", self.name, self.creator);
        Err(Failure::new(message).into())
    }

    /// Whether processes inside can write what lies at `path`, which is canonical.
    pub fn exposes(&self, path: &Path) -> bool {
        let project = self.project();
        let private = self.options.private.iter().any(|dir| path.starts_with(project.join(&dir.0)));
        let git = self.worktree.as_ref().is_some_and(|worktree| path.starts_with(&worktree.common.0));
        let written = self.options.project.is_rw();
        (path.starts_with(&project) && !private && written)
            || (git && written)
            || path.starts_with(&self.home)
            || self.options.rw.iter().any(|dir| path.starts_with(&dir.0))
    }

    /// Reads the record of `name`.
    ///
    /// # Errors
    /// [`Unreadable`] says why it cannot be relied on.
    pub fn load(name: &Name) -> Result<Record, Unreadable> {
        match std::fs::read(file(name)) {
            Ok(text) => Record::parse(&text, name),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Unreadable::Missing(match dir(name).exists() {
                true => Gap::HalfMade,
                false => Gap::NeverMade,
            })),
            Err(e) => Err(Unreadable::Broken(format!("record cannot be read: {e}"))),
        }
    }

    /// Reads `text` as the record of `name`.
    ///
    /// # Errors
    /// A damaged record, one of a newer schema, one of another name or path.
    pub fn parse(text: &[u8], name: &Name) -> Result<Record, Unreadable> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let broken = |why: String| Err(Unreadable::Broken(why));
        let read = serde_json::from_slice::<Record>(text);
        // one of another schema need not look like a record of this one
        let schema = match &read {
            Ok(record) => record.schema,
            Err(_) => serde_json::from_slice::<Version>(text).map_or(SCHEMA, |version| version.schema),
        };
        if !known(schema) {
            return broken(format!("record has schema {schema}, these tools know {SCHEMA} to {SCHEMA_OF_FROZEN}"));
        }
        let record = match read {
            Ok(record) => record,
            Err(e) => return broken(format!("record is damaged: {e}")),
        };
        let Ok(path) = JsonPath::decode(record.path.clone(), record.path_bytes.as_deref()) else {
            return broken("record is damaged: path_bytes is not base64".to_owned());
        };
        let claims = Claims {
            name: record.name.as_str(),
            path: &path,
            ids: (record.uid, record.gid),
            home: &record.home,
            ownership: record.ownership,
            owner: record.owner,
            layers: &record.layers,
        };
        claims.check(name).map_err(Unreadable::Broken)?;
        Ok(record)
    }
}

/// A record of which most is borrowed from its text: as reliable as a [`Record`], and read in a fraction of
/// the time.
///
/// The fields are those of [`Record`], in the same order: it is printed alike. A text with others, as with
/// one that [`Record`] has and this has not yet, is not borrowed from.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Borrowed<'a> {
    schema: u32,
    name: &'a str,
    path: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
    created: &'a str,
    ownership: Ownership,
    owner: Owner,
    creator: u32,
    options: Options,
    /// As [`Record::labels`].
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    worktree: Option<Worktree>,
    #[serde(default, skip_serializing_if = "Stack::is_empty")]
    layers: Stack,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<Source>,
}

impl<'a> Borrowed<'a> {
    /// Reads `text` as the record of `name`. `None` where it cannot be borrowed from as it stands or not be
    /// relied on: [`Record::parse`] knows.
    pub fn parse(text: &'a [u8], name: &Name) -> Option<Borrowed<'a>> {
        let record: Borrowed<'a> = serde_json::from_slice(text).ok()?;
        let claims = Claims {
            name: record.name,
            path: record.project(),
            ids: (record.uid, record.gid),
            home: Path::new(record.home),
            ownership: record.ownership,
            owner: record.owner,
            layers: &record.layers,
        };
        (known(record.schema) && claims.check(name).is_ok()).then_some(record)
    }

    /// As [`Record::project`].
    pub fn project(&self) -> &Path {
        Path::new(self.path)
    }
}

/// Whether these tools know records of `schema`.
fn known(schema: u32) -> bool {
    (SCHEMA..=SCHEMA_OF_FROZEN).contains(&schema)
}

/// What a record says that can be wrong.
struct Claims<'a> {
    name: &'a str,
    path: &'a Path,
    ids: (u32, u32),
    home: &'a Path,
    ownership: Ownership,
    owner: Owner,
    layers: &'a Stack,
}

impl Claims<'_> {
    /// Says why a record that claims this cannot be that of `name`.
    fn check(&self, name: &Name) -> Result<(), String> {
        if self.name != name.as_str() {
            return Err(format!("record names another environment: {}", self.name));
        }
        if !self.path.is_absolute() || !name.fits(self.path) {
            return Err(format!("record names another path: {}", self.path.display()));
        }
        let (uid, gid) = self.ids;
        let uid_fits = match self.ownership {
            Ownership::SharedUid => uid != 0 && uid == self.owner.uid,
            Ownership::Idmap | Ownership::Native => IDS.contains(&uid),
        };
        let shares = self.ownership == Ownership::SharedUid && shares_gid(self.owner.gid);
        let gid_fits = IDS.contains(&gid) || (shares && gid == self.owner.gid);
        if !uid_fits || !gid_fits {
            return Err(format!("record names another account: {uid}:{gid}"));
        }
        if !self.layers.home.iter().chain(&self.layers.project).all(Frozen::is_valid) {
            return Err("record is damaged: it names a layer that cannot be one".to_owned());
        }
        if self.home.strip_prefix("/home") != Ok(Path::new(name.as_str())) {
            return Err(format!("record names another home: {}", self.home.display()));
        }
        Ok(())
    }
}

/// Why there is no record to rely on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// There is none.
    Missing(Gap),
    /// There is one, but it is not to be trusted.
    Broken(String),
}

impl Unreadable {
    /// This as the failure of whoever wanted the record of `name`.
    pub fn failure(&self, name: &Name) -> Failure {
        match self {
            Unreadable::Missing(Gap::NeverMade) => Failure::new(format!("no such environment: {name}")),
            why => {
                Failure::new(format!("environment '{name}' is broken: {why}")).hint(format!("lbx-env repair {name}"))
            }
        }
    }
}

/// How there comes to be no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// No such environment.
    NeverMade,
    /// A create or a delete was interrupted.
    HalfMade,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Unreadable::Missing(Gap::NeverMade) => "there is no such environment",
            Unreadable::Missing(Gap::HalfMade) => "a create or delete of it was interrupted",
            Unreadable::Broken(why) => why,
        })
    }
}

/// `value` as one line of JSON, with the control characters that JSON leaves as they are (U+007F to
/// U+009F) spelt out: a terminal would obey them.
///
/// # Errors
/// None for what these tools print.
pub fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    let mut text = serde_json::to_string(value)?;
    if text.contains(char::is_control) {
        text = spelt_out(&text);
    }
    text.push('\n');
    Ok(text)
}

/// Adds the [`json_line`] of `value` to `lines`.
///
/// # Errors
/// As [`json_line`].
pub fn add_json_line(lines: &mut Vec<u8>, value: &impl Serialize) -> serde_json::Result<()> {
    let start = lines.len();
    serde_json::to_writer(Pieces(lines), value)?;
    // 0xc2 begins U+0080 to U+00BF; looked at without a branch for each, thousands of lines are soon through
    let suspicious = lines[start..].iter().fold(false, |any, byte| any | (*byte < 0x20) | matches!(byte, 0x7f | 0xc2));
    if suspicious {
        let line = spelt_out(&String::from_utf8_lossy(&lines[start..]));
        lines.truncate(start);
        lines.extend_from_slice(line.as_bytes());
    }
    lines.push(b'\n');
    Ok(())
}

/// Written to in pieces of a few bytes, as JSON is: musl's memcpy takes longer to begin than they do to copy.
struct Pieces<'a>(&'a mut Vec<u8>);

impl io::Write for Pieces<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let mut rest = piece;
        while let Some((eight, more)) = rest.split_first_chunk::<8>() {
            self.0.extend_from_slice(eight);
            rest = more;
        }
        rest.iter().for_each(|byte| self.0.push(*byte));
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn spelt_out(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() }).collect()
}

/// The directory that keeps what is known of `name`.
pub fn dir(name: &Name) -> PathBuf {
    Path::new(ENVS).join(name)
}

/// The record of `name`.
pub fn file(name: &Name) -> PathBuf {
    dir(name).join("record.json")
}

/// Where the record of `name` is moved when its deletion begins.
pub fn deleted_file(name: &Name) -> PathBuf {
    dir(name).join("deleted.json")
}

/// The file that is locked (`fcntl(2)`) while `name` is being changed; root's, mode 0600.
pub fn lock_file(name: &Name) -> PathBuf {
    dir(name).join("lock")
}

/// The file, empty, that says of `name` that it is not the one that its path gives.
pub fn named_file(name: &Name) -> PathBuf {
    Path::new(NAMED).join(name)
}

/// The file whose mtime is the last use of `name`.
pub fn last_used_file(name: &Name) -> PathBuf {
    dir(name).join("last_used")
}

/// The names of all environments, sorted, the broken ones too.
///
/// # Errors
/// The directory of records cannot be read; that it does not exist is an empty list.
pub fn names() -> Result<Vec<Name>> {
    names_in(ENVS)
}

fn names_in(dir: &str) -> Result<Vec<Name>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read directory: {dir}"))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read directory: {dir}"))?;
        names.extend(Name::parse(&entry.file_name()));
    }
    names.sort_unstable();
    Ok(names)
}

/// The environments of the project at `path`, which is canonical: its default name first.
///
/// # Errors
/// The directory of records cannot be read.
pub fn of_path(path: &Path) -> Result<Vec<Name>> {
    let Ok(default) = Name::of(path) else { return Ok(Vec::new()) };
    if is_of(&default, path) {
        return Ok(vec![default]);
    }
    named_of_path(path)
}

/// The environments of the project at `path`, which is canonical, that have another name than it gives.
///
/// # Errors
/// The directory of their names cannot be read.
pub fn named_of_path(path: &Path) -> Result<Vec<Name>> {
    // all names of one path end alike
    let Ok(default) = Name::of(path) else { return Ok(Vec::new()) };
    let digits = &default.as_str()[default.word().len()..];
    Ok(names_in(NAMED)?.into_iter().filter(|name| name.as_str().ends_with(digits) && is_of(name, path)).collect())
}

/// Whether `name` is, or was until its deletion began, an environment of the project at `path`.
fn is_of(name: &Name, path: &Path) -> bool {
    let deleted = || std::fs::read(deleted_file(name)).ok().and_then(|text| Record::parse(&text, name).ok());
    Record::load(name).ok().or_else(deleted).is_some_and(|record| record.project() == path)
}

/// The environment that an operand means: a name, else the path of a project.
///
/// `Ok(None)`: there is none. A path means the default name if its record matches, else the one
/// environment of that path.
///
/// # Errors
/// Several environments of that path; a path that cannot be resolved.
pub fn find(operand: &OsStr) -> Result<Option<Name>> {
    if let Some(name) = Name::parse(operand) {
        return Ok(dir(&name).exists().then_some(name));
    }
    let path = canonical(Path::new(operand))?;
    let mut names = of_path(&path)?;
    if names.len() > 1 {
        let list: Vec<&str> = names.iter().map(Name::as_str).collect();
        return Err(Failure::new(format!("several environments of path '{}'", path.display()))
            .hint(format!("name one: {}", list.join(" ")))
            .into());
    }
    // one that is half-made or damaged has no record that could name its path
    let unreadable = || {
        let name = Name::of(&path).ok()?;
        match Record::load(&name) {
            Ok(_) | Err(Unreadable::Missing(Gap::NeverMade)) => None,
            Err(_) => Some(name),
        }
    };
    Ok(names.pop().or_else(unreadable))
}

/// As [`find`], where there must be one.
///
/// # Errors
/// As [`find`], and a [`Failure`] that names what is missing.
pub fn require(operand: &OsStr) -> Result<Name> {
    if let Some(name) = find(operand)? {
        return Ok(name);
    }
    if let Some(name) = Name::parse(operand) {
        let missing = Failure::new(format!("no such environment: {name}"));
        return Err(match near(&name)? {
            Some(other) => missing.hint(format!("did you mean '{other}'?")),
            None => missing.hint("lbx-ls --names lists those there are"),
        }
        .into());
    }
    let path = canonical(Path::new(operand))?;
    let words = [OsString::from("lbx-env create"), path::shell_quoted(path.as_os_str()).into()];
    Err(Failure::new(format!("no environment of path '{}'", path.display()))
        .hint(words.join(OsStr::new(" ")).to_string_lossy())
        .into())
}

/// The record of the environment that `operand` means, as for [`require`].
///
/// # Errors
/// As [`require`], and a record that cannot be relied on.
pub fn open(operand: &OsStr) -> Result<Record> {
    if Name::parse(operand).is_none() {
        // mostly the default name's, whose record is read but once
        let path = canonical(Path::new(operand))?;
        let record = Name::of(&path).ok().and_then(|name| Record::load(&name).ok());
        if let Some(record) = record.filter(|record| record.project() == path) {
            return Ok(record);
        }
    }
    let name = require(operand)?;
    Ok(Record::load(&name).map_err(|why| why.failure(&name))?)
}

/// The name that is most like `name`, if one is much like it.
fn near(name: &Name) -> Result<Option<Name>> {
    let likeness = |other: &Name| strsim::jaro_winkler(other.as_str(), name.as_str());
    let best = names()?.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    Ok(best.filter(|other| likeness(other) > 0.9))
}

/// `time` as RFC 3339 in UTC, to the second.
pub fn rfc3339(time: std::time::SystemTime) -> String {
    let second = time.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    jiff::Timestamp::from_second(i64::try_from(second).unwrap_or(0)).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn record(path: &Path) -> Record {
        let origin = Origin {
            name: Name::of(path).unwrap(),
            path: path.to_owned(),
            owner: Owner { uid: 1000, gid: 1000, device: 1 },
            ownership: Ownership::Idmap,
            creator: 1000,
        };
        Record::new(origin, 65536, 65536, "/bin/bash".into(), Options::default())
    }

    #[test]
    fn a_record_survives_json_whatever_its_path() {
        for path in [&b"/home/al ice/p"[..], b"/x/\xff\n\"", b"/x/-rf"] {
            let path = Path::new(OsStr::from_bytes(path));
            let record = record(path);
            let text = serde_json::to_vec(&record).unwrap();
            let read = Record::parse(&text, &record.name).unwrap();
            assert_eq!(read, record);
            assert_eq!(read.project(), path);
        }
    }

    #[test]
    fn a_record_that_cannot_be_relied_on_is_broken() {
        let good = record(Path::new("/home/alice/p"));
        let text = serde_json::to_string(&good).unwrap();
        let other = Name::of(Path::new("/home/bob/p")).unwrap();
        // with the owner's uid, and that gid
        let shared_with = |gid: &str| {
            let text = text.replace("idmap", "shared-uid").replacen("\"uid\":65536", "\"uid\":1000", 1);
            text.replacen("\"gid\":65536", &format!("\"gid\":{gid}"), 1)
        };
        for gid in ["65536", "1000"] {
            Record::parse(shared_with(gid).as_bytes(), &good.name).unwrap();
        }
        let cases = [
            (String::new(), "damaged"),
            (text[..text.len() / 2].to_owned(), "damaged"),
            ("null".to_owned(), "damaged"),
            (text.replace("\"schema\":1", "\"schema\":4"), "schema 4"),
            (text.replace("/home/alice/p", "/home/alice/q"), "another path"),
            (text.replace("/home/alice/p", "relative"), "another path"),
            (text.replace("\"path\":", "\"path_bytes\":\"%\",\"path\":"), "base64"),
            (text.replace(&format!("/home/{}", good.name), "/etc"), "another home"),
            (text.replacen("\"uid\":65536", "\"uid\":0", 1), "another account"),
            (text.replacen("\"gid\":65536", "\"gid\":0", 1), "another account"),
            (text.replace("idmap", "shared-uid"), "another account"),
            (shared_with("4242"), "another account"),
        ];
        for (text, why) in cases {
            match Record::parse(text.as_bytes(), &good.name) {
                Err(Unreadable::Broken(told)) => assert!(told.contains(why), "{told}"),
                unexpected => panic!("{text}: {unexpected:?}"),
            }
        }
        assert!(matches!(Record::parse(text.as_bytes(), &other), Err(Unreadable::Broken(_))));
    }

    #[test]
    fn what_older_tools_would_let_be_written_they_do_not_enter() {
        // the one schema that they know, and all that they know of a project
        let older = |record: &Record| {
            let json = serde_json::to_value(record).unwrap();
            (json["schema"] == 1, json["options"].get("project").cloned())
        };
        let path = Path::new("/home/alice/p");
        assert_eq!(older(&record(path)), (true, None));
        for project in [Project::Ro, Project::Cow] {
            let options = Options { project, ..Options::default() };
            let record = record(path);
            let mut record = Record { options, ..record };
            record.renew_schema();
            assert_eq!(older(&record), (false, Some(project.word().into())));
            let text = serde_json::to_vec(&record).unwrap();
            assert_eq!(Record::parse(&text, &record.name).unwrap(), record);
            // what knows of such projects, but not of frozen layers, would show but a part of them
            record.layers.home.push(Frozen { id: "0123456789abcdef".to_owned(), uid: 65536, gid: 65536 });
            record.renew_schema();
            assert_eq!(record.schema, SCHEMA_OF_FROZEN);
            let text = serde_json::to_string(&record).unwrap();
            assert_eq!(Record::parse(text.as_bytes(), &record.name).unwrap(), record);
            let elsewhere = text.replace("0123456789abcdef", "../../../../etc/");
            assert!(matches!(Record::parse(elsewhere.as_bytes(), &record.name), Err(Unreadable::Broken(_))));
        }
    }

    #[test]
    fn a_fork_tells_what_it_was_made_from() {
        let path = Path::new("/home/alice/p");
        let mut record = record(path);
        assert!(!serde_json::to_string(&record).unwrap().contains("from"));
        for (tag, shown) in [(None, "p-"), (Tag::parse("v1"), "@v1")] {
            record.from = Some(Source { name: Name::of(path).unwrap(), tag });
            let text = serde_json::to_string(&record).unwrap();
            assert_eq!(Record::parse(text.as_bytes(), &record.name).unwrap(), record);
            assert!(record.from.as_ref().unwrap().to_string().contains(shown));
            assert_eq!(text.contains("tag"), shown == "@v1", "{text}");
        }
    }

    #[test]
    fn groups_of_the_system_and_of_environments_are_not_shared() {
        for (gid, shared) in [(0, false), (20, false), (999, false), (1000, true), (65534, false), (70000, false)] {
            assert_eq!(shares_gid(gid), shared, "{gid}");
        }
        assert!(shares_gid(100_000));
    }

    #[test]
    fn an_environment_is_its_creators_its_owners_and_roots() {
        let record = Record { creator: 1001, ..record(Path::new("/home/alice/p")) };
        for (uid, may) in [(0, true), (1000, true), (1001, true), (1002, false), (65536, false)] {
            assert_eq!(record.require_caller(Caller { uid, gid: uid }).is_ok(), may, "{uid}");
        }
    }

    #[test]
    fn what_the_inside_can_write_is_known() {
        let mut record = record(Path::new("/home/alice/p"));
        record.options.private = vec![JsonPath("target".into())];
        record.options.rw = vec![JsonPath("/srv/shared".into())];
        for (path, exposed) in [
            ("/home/alice/p/bin/tool", true),
            ("/home/alice/p/target/release/tool", false),
            ("/home/alice/p2/tool", false),
            ("/srv/shared/x", true),
            ("/usr/local/bin/tool", false),
            (&format!("/home/{}/bin/tool", record.name), true),
        ] {
            assert_eq!(record.exposes(Path::new(path)), exposed, "{path}");
        }
        record.options.project = Project::Cow;
        assert!(!record.exposes(Path::new("/home/alice/p/bin/tool")));
    }

    #[test]
    fn a_line_of_json_cannot_drive_a_terminal() {
        let text = "a\u{1b}\n\u{7f}\u{9b}\u{e4}";
        let line = json_line(&text).unwrap();
        assert_eq!(line, "\"a\\u001b\\n\\u007f\\u009b\u{e4}\"\n");
        let mut lines = b"before\n".to_vec();
        for text in [text, "\u{9b}", "\u{7f}", "\u{a0}", ""] {
            add_json_line(&mut lines, &text).unwrap();
        }
        let all = format!("before\n{line}\"\\u009b\"\n\"\\u007f\"\n\"\u{a0}\"\n\"\"\n");
        assert_eq!(String::from_utf8(lines).unwrap(), all);
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let good = record(Path::new("/home/alice/p"));
        let text = serde_json::to_string(&good).unwrap().replacen('{', "{\"later\":[1],", 1);
        assert_eq!(Record::parse(text.as_bytes(), &good.name).unwrap(), good);
    }

    #[test]
    fn times_are_rfc_3339() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        assert_eq!(rfc3339(time), "2001-09-09T01:46:40Z");
    }
}
