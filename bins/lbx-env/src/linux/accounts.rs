//! Accounts in `/etc/passwd`, `group`, `shadow` and `gshadow`, edited under the lock that
//! `lckpwdf(3)` takes.
//!
//! On the machine such an account can do nothing: no password, expired, no shell, no home. What
//! it is inside an environment stands in the environment's own passwd.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use lbx::record::{self, IDS};
use lbx::{Failure, Name, Result, holder};
use memchr::{memchr, memchr_iter};
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::XattrFlags;

use super::store;

/// The group of all environments' accounts: `DenyGroups lbx-env` in sshd_config.
pub(crate) const GROUP: &str = "lbx-env";
/// The account of the holders.
pub(crate) const HOLDER: &str = "lbx-holder";
/// What tells our accounts from others: the comment field.
const GECOS: &str = "llima-box";
/// Comment, home and shell of all that are ours.
const NOBODY: &str = "llima-box:/nonexistent:/usr/sbin/nologin";
/// Those of the group and of the holders' account are among these.
const SYSTEM_IDS: std::ops::RangeInclusive<u32> = 100..=999;
/// As long as `lckpwdf(3)` waits.
const LOCK_WAIT: Duration = Duration::from_secs(15);
/// Remembers the uid given out last, so that a freed one is reused last. Losing it costs nothing.
const LAST_UID: &str = "trusted.llima-box.last-uid";
const STATE: &str = "/var/lib/llima-box";

/// Numeric user and group ID of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ids {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The account files, locked, as far as they concern the names that were asked for.
#[derive(Debug)]
pub(crate) struct Accounts {
    passwd: Table,
    group: Table,
    shadow: Table,
    gshadow: Table,
    /// How many lines of passwd and group have each number.
    taken: Taken,
    last_uid: Option<u32>,
    _lock: File,
}

impl Accounts {
    /// Locks and reads the account files, for what is asked of `names` and done to them.
    pub(crate) fn lock(names: &[&Name]) -> Result<Accounts> {
        let path = "/etc/.pwd.lock";
        let mut options = OpenOptions::new();
        let lock = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("cannot open '{path}'"))?;
        let deadline = Instant::now() + LOCK_WAIT;
        while let Err(e) = fcntl(&lock, FcntlArg::F_SETLK(&holder::lock())) {
            if !matches!(e, nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES | nix::errno::Errno::EINTR) {
                return Err(e).with_context(|| format!("cannot lock '{path}'"));
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!(
                    "account database is locked: another program has held '{path}' for {} s",
                    LOCK_WAIT.as_secs()
                ))
                .hint("useradd, passwd or another lbx-env is running: try again")
                .into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let names = names.iter().map(|name| name.as_str()).chain([GROUP, HOLDER]).map(str::as_bytes).collect();
        let mut taken = Taken::default();
        let mut take = |rest: &[u8]| number(rest).into_iter().for_each(|number| taken.add(number));
        Ok(Accounts {
            passwd: Table::read("/etc/passwd", &names, &mut take)?,
            group: Table::read("/etc/group", &names, &mut take)?,
            shadow: Table::read("/etc/shadow", &names, |_| ())?,
            gshadow: Table::read("/etc/gshadow", &names, |_| ())?,
            taken,
            last_uid: None,
            _lock: lock,
        })
    }

    /// The account of `name`, when it is one of ours.
    pub(crate) fn of(&self, name: &Name) -> Option<Ids> {
        ours(&String::from_utf8_lossy(self.passwd.line(name.as_str())?), name)
    }

    /// Adds the account of `name` with the `wanted` IDs. One that is there already and has them is kept.
    pub(crate) fn add(&mut self, name: &Name, wanted: Wanted) -> Result<Ids> {
        self.add_system()?;
        if self.has_foreign_group(name) {
            return Err(Failure::new(format!("group '{name}' exists and is not llima-box's"))
                .hint("--name WORD makes another name")
                .into());
        }
        let had = self.of(name);
        if had.is_none() && self.passwd.line(name.as_str()).is_some() {
            return Err(Failure::new(format!("account '{name}' exists and is not llima-box's"))
                .hint("--name WORD makes another name")
                .into());
        }
        let had = had.filter(|ids| wanted.allows(*ids));
        let own = self.own_id(name, had, wanted)?;
        let ids = match (had, wanted) {
            (Some(ids), _) => ids,
            (None, Wanted::Shared(owner)) => {
                Ids { uid: owner.uid, gid: if record::shares_gid(owner.gid) { owner.gid } else { own } }
            }
            (None, Wanted::Fresh | Wanted::Again(_)) => Ids { uid: own, gid: own },
        };
        let Ids { uid, gid } = ids;
        if had.is_none() {
            for id in [uid, gid, own] {
                self.taken.add(id);
            }
        }
        self.passwd.set(name.as_str(), &format!("x:{uid}:{gid}:{NOBODY}"));
        // the name stays nobody else's, whichever group the account has
        self.group.set(name.as_str(), &format!("x:{own}:"));
        // no password, and expired since 1970-01-02: neither a key nor a ticket lets anyone in
        self.shadow.set(name.as_str(), "!*:0:0:99999:7::1:");
        self.gshadow.set(name.as_str(), "!::");
        self.group.set_member(name.as_str(), true);
        self.gshadow.set_member(name.as_str(), true);
        Ok(ids)
    }

    /// Removes the account of `name`, when it is one of ours.
    pub(crate) fn remove(&mut self, name: &Name) {
        if (self.passwd.line(name.as_str()).is_some() && self.of(name).is_none()) || self.has_foreign_group(name) {
            return;
        }
        for table in [&mut self.passwd, &mut self.group, &mut self.shadow, &mut self.gshadow] {
            table.remove(name.as_str());
        }
        self.group.set_member(name.as_str(), false);
        self.gshadow.set_member(name.as_str(), false);
    }

    /// Writes what has changed. `passwd` comes last when an account is added and first when one
    /// is removed: at no instant is there an account without its lock and its expiry.
    pub(crate) fn write(mut self, order: Order) -> Result<()> {
        let mut tables = [&mut self.shadow, &mut self.gshadow, &mut self.group, &mut self.passwd];
        tables.iter_mut().for_each(|table| table.settle_members());
        let mut tables: Vec<&Table> = tables.into_iter().map(|table| &*table).filter(|table| table.differs()).collect();
        if let Order::PasswdFirst = order {
            tables.reverse();
        }
        write_aside(&tables).and_then(|()| tables.iter().try_for_each(|table| table.replace_file())).inspect_err(
            |_| {
                tables.iter().for_each(|table| drop(store::remove_file(&aside(&table.path))));
            },
        )?;
        if let Some(uid) = self.last_uid {
            let _ = rustix::fs::setxattr(STATE, LAST_UID, &uid.to_le_bytes(), XattrFlags::empty());
        }
        Ok(())
    }

    /// The number that is `name`'s alone: its group's, and its account's as far as that shares none.
    fn own_id(&mut self, name: &Name, had: Option<Ids>, wanted: Wanted) -> Result<u32> {
        if let Some(ids) = had.filter(|ids| IDS.contains(&ids.gid)) {
            return Ok(ids.gid);
        }
        let again = if let Wanted::Again(ids) = wanted { Some(ids.gid) } else { None };
        if let Some(id) = again.into_iter().chain(self.group.number(name.as_str())).find(|id| self.is_free(*id, name)) {
            return Ok(id);
        }
        let id = self.fresh(name)?;
        self.last_uid = Some(id);
        Ok(id)
    }

    /// A number that nobody has, as late after the one given out last as may be.
    fn fresh(&self, name: &Name) -> Result<u32> {
        let highest = || IDS.rev().find(|id| self.taken.count(*id) > 0);
        let last = self.last_uid.or_else(last_uid).or_else(highest);
        let from = last.filter(|id| IDS.contains(id)).map_or(*IDS.start(), |id| id + 1);
        let free = (from..=*IDS.end()).chain(*IDS.start()..from).find(|id| self.is_free(*id, name));
        free.with_context(|| format!("no uid is free ({}-{})", IDS.start(), IDS.end()))
    }

    /// Whether `id` is one of environments', and no other than `name` has it.
    fn is_free(&self, id: u32, name: &Name) -> bool {
        let own = |table: &Table| table.numbers_of(name.as_str()).filter(|number| *number == id).count();
        IDS.contains(&id) && self.taken.count(id) == own(&self.passwd) + own(&self.group)
    }

    /// Whether there is a group of that name which no environment was given.
    fn has_foreign_group(&self, name: &Name) -> bool {
        let name = name.as_str();
        self.group.line(name).is_some() && self.group.number(name).is_none_or(|gid| !IDS.contains(&gid))
    }

    /// The group of environments and the account of holders, once for the machine.
    fn add_system(&mut self) -> Result<()> {
        if self.group.line(GROUP).is_none() {
            let gid = self.free_system()?;
            self.taken.add(gid);
            self.group.set(GROUP, &format!("x:{gid}:"));
            self.gshadow.set(GROUP, "!::");
        }
        if self.passwd.line(HOLDER).is_none() {
            let id = self.free_system()?;
            self.taken.add(id);
            self.passwd.set(HOLDER, &format!("x:{id}:{id}:{NOBODY}"));
            self.group.set(HOLDER, &format!("x:{id}:"));
            self.shadow.set(HOLDER, "!*:0:0:99999:7::1:");
            self.gshadow.set(HOLDER, "!::");
        }
        Ok(())
    }

    fn free_system(&self) -> Result<u32> {
        let free = SYSTEM_IDS.rev().find(|id| self.taken.count(*id) == 0);
        free.context("no system uid is free (100-999)")
    }
}

/// How often numbers are taken that may be given out, the system's first; no others are counted.
#[derive(Debug, Default)]
struct Taken(Vec<u16>);

impl Taken {
    fn place(id: u32) -> Option<usize> {
        let from = if SYSTEM_IDS.contains(&id) { *SYSTEM_IDS.start() } else { *IDS.start() - SYSTEM_IDS.end() };
        (SYSTEM_IDS.contains(&id) || IDS.contains(&id)).then(|| (id - from) as usize)
    }

    fn add(&mut self, id: u32) {
        let Some(place) = Taken::place(id) else { return };
        if self.0.len() <= place {
            self.0.resize(place + 1, 0);
        }
        self.0[place] = self.0[place].saturating_add(1);
    }

    fn count(&self, id: u32) -> usize {
        Taken::place(id).and_then(|place| self.0.get(place)).map_or(0, |count| usize::from(*count))
    }
}

/// Which IDs an account is to have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    /// Some that nobody has.
    Fresh,
    /// Those it had, if nobody else has them by now.
    Again(Ids),
    /// The uid of the project's owner (shared-uid), and the gid as far as [`record::shares_gid`] lets
    /// it: virtiofs of Linux makes no file of a group that it cannot map.
    Shared(Ids),
}

impl Wanted {
    pub(crate) fn allows(self, ids: Ids) -> bool {
        match self {
            Wanted::Fresh | Wanted::Again(_) => IDS.contains(&ids.uid),
            Wanted::Shared(owner) => {
                let gid_fits =
                    if record::shares_gid(owner.gid) { ids.gid == owner.gid } else { IDS.contains(&ids.gid) };
                ids.uid == owner.uid && gid_fits
            }
        }
    }
}

/// `/etc/passwd`, as far as it is text.
pub(crate) fn passwd() -> Result<String> {
    let bytes = fs::read("/etc/passwd").context("cannot read '/etc/passwd'")?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// `/etc/passwd` without the accounts of environments, as far as it is text: of thousands of lines the few
/// that say which directories are whose.
pub(crate) fn others() -> Result<String> {
    let bytes = fs::read("/etc/passwd").context("cannot read '/etc/passwd'")?;
    let mut text = Vec::new();
    lines(&bytes).map(|range| &bytes[range]).filter(|line| !is_nobodys(line)).for_each(|line| text.extend(line));
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Whether `line` ends as that of an account of ours, with [`NOBODY`]. Of thousands of lines most do, and
/// two arrays of one length are compared without a call for each.
fn is_nobodys(line: &[u8]) -> bool {
    const START: usize = NOBODY.len() + 1;
    let Some((end, b"\n")) = line.last_chunk::<{ START + 1 }>().map(|end| end.split_at(START)) else { return false };
    let other = end.iter().rev().zip(NOBODY.as_bytes().iter().rev()).fold(0, |other, (a, b)| other | (a ^ b));
    other == 0 && end[0] == b':'
}

/// Whether the account files, or what a killed tool left beside them, may say anything of `names`. This
/// needs no lock: nobody else adds names like those.
pub(crate) fn mention(names: &[&Name]) -> bool {
    let mentions = |path: &str| {
        let text = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        names.iter().any(|name| text.contains(name.as_str())) || aside(Path::new(path)).exists()
    };
    ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"].into_iter().any(mentions)
}

/// When `passwd` is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    PasswdFirst,
    PasswdLast,
}

/// The account of `name` in a passwd file's `text`, when it is one of ours.
pub(crate) fn ours(text: &str, name: &Name) -> Option<Ids> {
    let line = text.lines().find_map(|line| line.strip_prefix(name.as_str())?.strip_prefix(':'))?;
    let fields: Vec<&str> = line.split(':').collect();
    match fields[..] {
        [_, uid, gid, GECOS, ..] => Some(Ids { uid: uid.parse().ok()?, gid: gid.parse().ok()? }),
        _ => None,
    }
}

/// The numeric ID of the holders' account, in a passwd file's `text`.
pub(crate) fn holder_id(text: &str) -> Option<u32> {
    lbx::caller::accounts(text).find(|account| account.name == HOLDER).map(|account| account.uid)
}

fn last_uid() -> Option<u32> {
    let mut bytes = [0; 4];
    let length = rustix::fs::getxattr(STATE, LAST_UID, &mut bytes).ok()?;
    (length == 4).then_some(u32::from_le_bytes(bytes))
}

/// Names that are looked for among thousands of others.
#[derive(Debug)]
struct Names<'a> {
    all: BTreeSet<&'a [u8]>,
    /// Whether there is a name at each place: most others are told by that.
    sieve: [bool; 256],
}

impl Names<'_> {
    /// Ends differ most: they are digits of a hash.
    fn place(name: &[u8]) -> u8 {
        let end = name.last_chunk().map_or(0, |end| u16::from_le_bytes(*end));
        (end.wrapping_mul(0x9e37) >> 8) as u8
    }

    fn contains(&self, name: &[u8]) -> bool {
        self.sieve[usize::from(Names::place(name))] && self.all.contains(name)
    }
}

impl<'a> FromIterator<&'a [u8]> for Names<'a> {
    fn from_iter<T: IntoIterator<Item = &'a [u8]>>(names: T) -> Names<'a> {
        let all = BTreeSet::from_iter(names);
        let mut sieve = [false; 256];
        all.iter().for_each(|name| sieve[usize::from(Names::place(name))] = true);
        Names { all, sieve }
    }
}

/// One of the account files: its text as it was read, and how lines of it are to change.
#[derive(Debug)]
struct Table {
    path: PathBuf,
    /// Bytes: a comment field may hold whatever chfn(1) lets people write.
    text: Vec<u8>,
    /// Whether the file is there: a machine may have no shadow passwords.
    present: bool,
    /// Where the lines of the names that were asked for lie, each with its newline.
    found: BTreeMap<Vec<u8>, Vec<Range<usize>>>,
    /// The new lines of names, without a newline; `None` where there is to be none.
    edits: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Who is to be a member of [`GROUP`] and who not, until its line is settled.
    members: BTreeMap<Vec<u8>, bool>,
}

impl Table {
    /// Reads `path` for the lines of `names`, and shows `each` what stands behind every other name, too.
    fn read(path: &str, names: &Names<'_>, each: impl FnMut(&[u8])) -> Result<Table> {
        let path = PathBuf::from(path);
        // what a killed tool left aside
        store::remove_file(&aside(&path)).with_context(|| format!("cannot remove '{}'", aside(&path).display()))?;
        match fs::read(&path) {
            Ok(text) => Ok(Table::of(path, Some(text), names, each)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Table::of(path, None, names, each)),
            Err(e) => Err(e).with_context(|| format!("cannot read '{}'", path.display())),
        }
    }

    /// Once over the whole text, however many names there are: it may have tens of thousands of lines.
    fn of(path: PathBuf, text: Option<Vec<u8>>, names: &Names<'_>, mut each: impl FnMut(&[u8])) -> Table {
        let mut table = Table {
            path,
            present: text.is_some(),
            text: text.unwrap_or_default(),
            found: BTreeMap::new(),
            edits: BTreeMap::new(),
            members: BTreeMap::new(),
        };
        for range in lines(&table.text) {
            let line = &table.text[range.clone()];
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            each(&line[colon + 1..]);
            if names.contains(&line[..colon]) {
                table.found.entry(line[..colon].to_owned()).or_default().push(range);
            }
        }
        table
    }

    /// The line of `name`, which was asked for, as it is to be.
    fn line(&self, name: &str) -> Option<&[u8]> {
        match self.edits.get(name.as_bytes()) {
            Some(edit) => edit.as_deref(),
            None => self.found.get(name.as_bytes())?.first().map(|range| without_newline(&self.text[range.clone()])),
        }
    }

    /// Makes the line of `name` say `rest`, in its place or at the end.
    fn set(&mut self, name: &str, rest: &str) {
        self.set_line(name, format!("{name}:{rest}").into_bytes());
    }

    fn set_line(&mut self, name: &str, line: Vec<u8>) {
        if self.line(name) != Some(&line) {
            self.edits.insert(name.into(), Some(line));
        }
    }

    fn remove(&mut self, name: &str) {
        if self.line(name).is_some() {
            self.edits.insert(name.into(), None);
        }
    }

    /// Makes `name` a member of [`GROUP`], or none.
    fn set_member(&mut self, name: &str, wanted: bool) {
        self.members.insert(name.into(), wanted);
    }

    /// Puts into the line of [`GROUP`] who comes, and takes out who goes.
    fn settle_members(&mut self) {
        let mut members = std::mem::take(&mut self.members);
        let Some(line) = self.line(GROUP) else { return };
        let at = line.iter().rposition(|byte| *byte == b':').map_or(0, |colon| colon + 1);
        let (head, all) = line.split_at(at);
        // most stay: they are copied together
        let (mut copied, mut start) = (0, 0);
        let mut new = Vec::with_capacity(line.len() + members.keys().map(|name| name.len() + 1).sum::<usize>());
        new.extend_from_slice(head);
        let concerned: Vec<Vec<u8>> = members.keys().cloned().collect();
        let concerned: Names = concerned.iter().map(Vec::as_slice).collect();
        for end in memchr_iter(b',', all).chain([all.len()]) {
            let (member, next) = (&all[start..end], (end + 1).min(all.len()));
            if concerned.contains(member) {
                match members.get_mut(member) {
                    Some(false) => {
                        new.extend_from_slice(&all[copied..start]);
                        copied = next;
                    }
                    // there already
                    Some(wanted) => *wanted = false,
                    None => {}
                }
            }
            start = next;
        }
        new.extend_from_slice(&all[copied..]);
        if new.ends_with(b",") {
            new.pop();
        }
        for (member, _) in members.iter().filter(|(_, wanted)| **wanted) {
            if new.len() > at {
                new.push(b',');
            }
            new.extend_from_slice(member);
        }
        self.set_line(GROUP, new);
    }

    /// The third field of `name`'s line, as it is to be: a uid of passwd, a gid of group.
    fn number(&self, name: &str) -> Option<u32> {
        number(&self.line(name)?[name.len() + 1..])
    }

    /// The third field of every line that `name` had.
    fn numbers_of(&self, name: &str) -> impl Iterator<Item = u32> {
        let ranges = self.found.get(name.as_bytes()).into_iter().flatten();
        let start = name.len() + 1;
        ranges.filter_map(move |range| number(&self.text[range.start + start..range.end]))
    }

    /// Whether there is anything to write.
    fn differs(&self) -> bool {
        self.present && !self.edits.is_empty()
    }

    /// Writes the new text: what stays in pieces that are as large as may be, and each edit where the line
    /// lies that it is for, or at the end.
    fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let (mut places, mut last) = (Vec::new(), Vec::new());
        for (name, line) in &self.edits {
            let mut line = line.as_deref();
            for range in self.found.get(name).into_iter().flatten() {
                places.push((range, line.take()));
            }
            last.extend(line);
        }
        places.sort_unstable_by_key(|(range, _)| range.start);
        let mut at = 0;
        for (range, line) in places {
            out.write_all(&self.text[at..range.start])?;
            at = range.end;
            for piece in line.into_iter().flat_map(|line| [line, b"\n"]) {
                out.write_all(piece)?;
            }
        }
        let rest = &self.text[at..];
        out.write_all(rest)?;
        if !last.is_empty() && !rest.is_empty() && !rest.ends_with(b"\n") {
            out.write_all(b"\n")?;
        }
        last.into_iter().flat_map(|line| [line, b"\n"]).try_for_each(|piece| out.write_all(piece))
    }

    /// Writes the new text aside; nothing makes sure yet that it is on the disk.
    fn write_aside(&self) -> Result<File> {
        let write = || -> io::Result<File> {
            let old = fs::metadata(&self.path)?;
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(aside(&self.path))?;
            let mut out = BufWriter::new(&file);
            self.write_to(&mut out)?;
            out.flush()?;
            drop(out);
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
            Ok(file)
        };
        write().with_context(|| format!("cannot write '{}'", self.path.display()))
    }

    /// Waits until what was written aside, as `file`, is on the disk.
    fn sync(&self, file: &File) -> Result<()> {
        file.sync_all().with_context(|| format!("cannot write '{}'", self.path.display()))
    }

    /// Puts what was written aside in its place.
    fn replace_file(&self) -> Result<()> {
        fs::rename(aside(&self.path), &self.path).with_context(|| format!("cannot write '{}'", self.path.display()))
    }
}

/// Writes the new texts of `tables`, and syncs them at once: file systems do several syncs in the time of
/// one, and those of files that are all there by then in one commit. The threads have ended when this
/// returns: nothing is forked beside them.
fn write_aside(tables: &[&Table]) -> Result<()> {
    let files = tables.iter().map(|table| table.write_aside()).collect::<Result<Vec<File>>>()?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = tables
            .iter()
            .zip(&files)
            .map(|(table, file)| std::thread::Builder::new().spawn_scoped(scope, || table.sync(file)))
            .collect();
        // all are waited for before one that failed is told of
        let synced: Vec<Result<()>> = tables
            .iter()
            .zip(&files)
            .zip(threads)
            .map(|((table, file), thread)| match thread {
                Ok(thread) => thread
                    .join()
                    .unwrap_or_else(|_| Err(Failure::new(format!("cannot write '{}'", table.path.display())).into())),
                // out of processes: one after another, then
                Err(_) => table.sync(file),
            })
            .collect();
        synced.into_iter().collect()
    })
}

/// Where each line of `text` lies, with its newline.
fn lines(text: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        at += memchr(b'\n', &text[at..]).map_or(text.len() - at, |newline| newline + 1);
        (at > start).then_some(start..at)
    })
}

fn without_newline(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// Where the new text of `path` is written before it takes its place: a name of ours alone.
fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.llima-box"))
}

/// The second field of `rest`, which stands behind a name and its colon.
fn number(rest: &[u8]) -> Option<u32> {
    let field = rest.split(|byte| matches!(byte, b':' | b'\n')).nth(1)?;
    let digits = field.strip_prefix(b"+").unwrap_or(field);
    let number = |before: u32, byte: &u8| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        before.checked_mul(10)?.checked_add(u32::from(digit))
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, number) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn table(text: &[u8]) -> Table {
        let names = ["lbx-env", "a-1234", "b-1234", "c-1234", "d-1234"].into_iter().map(str::as_bytes).collect();
        Table::of("/nowhere".into(), Some(text.to_owned()), &names, |_| ())
    }

    /// What `table` would write.
    fn text(table: &mut Table) -> String {
        table.settle_members();
        let mut text = Vec::new();
        table.write_to(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn name(text: &str) -> Name {
        Name::parse(OsStr::new(text)).unwrap()
    }

    #[test]
    fn a_line_is_added_changed_and_removed_alone() {
        let before = "root:x:0:0::/root:/bin/sh\na-1234x:x:1:1:::\n";
        let mut t = table(before.as_bytes());
        t.set("a-1234", "x:70000:70000:llima-box::");
        assert_eq!(t.line("a-1234").unwrap(), b"a-1234:x:70000:70000:llima-box::");
        let mut t = table(text(&mut t).as_bytes());
        t.set("a-1234", "x:70001:70001:llima-box::");
        assert_eq!(text(&mut t), format!("{before}a-1234:x:70001:70001:llima-box::\n"));
        t.remove("a-1234");
        assert_eq!(text(&mut t), before);
    }

    #[test]
    fn many_lines_change_at_once_each_in_its_place() {
        let mut t = table(b"c-1234:x:3:\nroot:x:0:\na-1234:x:1:\nother:x:5:\nb-1234:x:2:");
        t.set("b-1234", "x:20:");
        t.remove("c-1234");
        t.set("d-1234", "x:4:");
        t.set("a-1234", "x:1:");
        assert_eq!(text(&mut t), "root:x:0:\na-1234:x:1:\nother:x:5:\nb-1234:x:20:\nd-1234:x:4:\n");
        assert_eq!(t.line("c-1234"), None);
        assert_eq!((t.number("b-1234"), t.numbers_of("b-1234").collect()), (Some(20), vec![2]));
    }

    #[test]
    fn a_line_that_is_there_twice_is_so_no_longer() {
        let doubled = b"a-1234:x:1:\nroot:x:0:\na-1234:x:1:\n";
        let mut t = table(doubled);
        t.remove("a-1234");
        assert_eq!(text(&mut t), "root:x:0:\n");
        let mut t = table(doubled);
        t.set("a-1234", "x:2:");
        assert_eq!(text(&mut t), "a-1234:x:2:\nroot:x:0:\n");
    }

    #[test]
    fn what_is_as_it_should_be_is_not_written() {
        let mut t = table(b"lbx-env:x:999:b-1234,a-1234\na-1234:x:1:\n");
        t.set("a-1234", "x:1:");
        t.set_member("a-1234", true);
        t.set_member("c-1234", false);
        t.remove("d-1234");
        t.settle_members();
        assert!(!t.differs());
    }

    #[test]
    fn a_file_that_does_not_end_in_a_newline_keeps_its_last_line() {
        let mut t = table(b"root:x:0:");
        t.set("a-1234", "x:70000:");
        assert_eq!(text(&mut t), "root:x:0:\na-1234:x:70000:\n");
    }

    #[test]
    fn lines_that_are_not_utf_8_stay_as_they_are() {
        let before = b"alice:x:1000:1000:\xff:/home/alice:/bin/sh\na-1234:x:1:1:::\n";
        let mut numbers = Vec::new();
        let names = [b"a-1234".as_slice()].into_iter().collect();
        let mut t = Table::of("/nowhere".into(), Some(before.to_vec()), &names, |rest| numbers.extend(number(rest)));
        t.remove("a-1234");
        let mut after = Vec::new();
        t.write_to(&mut after).unwrap();
        assert_eq!(after, b"alice:x:1000:1000:\xff:/home/alice:/bin/sh\n");
        assert_eq!(numbers, [1000, 1]);
    }

    #[test]
    fn numbers_are_those_that_fit_and_nothing_else() {
        for (rest, told) in [
            ("x:0:0::", Some(0)),
            ("x:4294967295:", Some(u32::MAX)),
            (":+5\n", Some(5)),
            ("x:12", Some(12)),
            ("x:4294967296:", None),
            ("x::1:", None),
            ("x:+:", None),
            ("x:1a:", None),
            ("x:-1:", None),
            ("x\n", None),
        ] {
            assert_eq!(number(rest.as_bytes()), told, "{rest:?}");
        }
    }

    #[test]
    fn names_are_found_however_many_there_are() {
        let names: Vec<String> = (0..3000).map(|n| format!("p{n}-{:04x}", n * 7)).chain(["a".to_owned()]).collect();
        let some: Names = names.iter().step_by(2).map(String::as_bytes).collect();
        for (at, name) in names.iter().enumerate() {
            assert_eq!(some.contains(name.as_bytes()), at % 2 == 0, "{name}");
        }
    }

    #[test]
    fn accounts_of_environments_are_told_by_their_end() {
        let line = format!("a-1234:x:70000:70000:{NOBODY}\n");
        assert!(is_nobodys(line.as_bytes()));
        for other in [&line.replace("box:", "boy:"), &line.replace(":llima", "-llima"), line.trim_end(), "\n", ""] {
            assert!(!is_nobodys(other.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn members_come_and_go() {
        let mut t = table(b"lbx-env:x:999:\nother:x:5:a-1234\n");
        for member in ["a-1234", "b-1234", "a-1234"] {
            t.set_member(member, true);
        }
        let mut t = table(text(&mut t).as_bytes());
        assert_eq!(t.line("lbx-env").unwrap(), b"lbx-env:x:999:a-1234,b-1234");
        t.set_member("a-1234", false);
        t.set_member("c-1234", true);
        assert_eq!(text(&mut t), "lbx-env:x:999:b-1234,c-1234\nother:x:5:a-1234\n");
    }

    #[test]
    fn anothers_account_is_not_ours() {
        let text = "a-1234:x:1000:1000:Alice:/home/a:/bin/sh\nb-1234:x:70000:70001:llima-box:/nonexistent:/x\n";
        assert_eq!(ours(text, &name("a-1234")), None);
        assert_eq!(ours(text, &name("b-1234")), Some(Ids { uid: 70000, gid: 70001 }));
        assert_eq!(ours(text, &name("c-1234")), None);
    }
}
