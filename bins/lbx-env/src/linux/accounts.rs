//! Accounts in `/etc/passwd`, `group`, `shadow` and `gshadow`, edited under the lock that
//! `lckpwdf(3)` takes.
//!
//! On the machine such an account can do nothing: no password, expired, no shell, no home. What
//! it is inside an environment stands in the environment's own passwd.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use lbx::record::{self, IDS};
use lbx::{Failure, Name, Result, holder};
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::XattrFlags;

use super::store;

/// The group of all environments' accounts: `DenyGroups lbx-env` in sshd_config.
pub(crate) const GROUP: &str = "lbx-env";
/// The account of the holders.
pub(crate) const HOLDER: &str = "lbx-holder";
/// What tells our accounts from others: the comment field.
const GECOS: &str = "llima-box";
/// As long as `lckpwdf(3)` waits.
const LOCK_WAIT: Duration = Duration::from_secs(15);
/// Remembers the uid given out last, so that a freed one is reused last. Losing it costs nothing.
const LAST_UID: &str = "trusted.llima-box.last-uid";
const STATE: &str = "/var/lib/llima-box";

/// Numeric user and group ID of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The account files, locked.
#[derive(Debug)]
pub(crate) struct Accounts {
    passwd: Table,
    group: Table,
    shadow: Table,
    gshadow: Table,
    last_uid: Option<u32>,
    _lock: File,
}

impl Accounts {
    /// Locks and reads the account files.
    pub(crate) fn lock() -> Result<Accounts> {
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
        Ok(Accounts {
            passwd: Table::read("/etc/passwd")?,
            group: Table::read("/etc/group")?,
            shadow: Table::read("/etc/shadow")?,
            gshadow: Table::read("/etc/gshadow")?,
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
        self.passwd.set(name.as_str(), &format!("x:{uid}:{gid}:{GECOS}:/nonexistent:/usr/sbin/nologin"));
        // the name stays nobody else's, whichever group the account has
        self.group.set(name.as_str(), &format!("x:{own}:"));
        // no password, and expired since 1970-01-02: neither a key nor a ticket lets anyone in
        self.shadow.set(name.as_str(), "!*:0:0:99999:7::1:");
        self.gshadow.set(name.as_str(), "!::");
        self.group.set_member(GROUP, name.as_str(), true);
        self.gshadow.set_member(GROUP, name.as_str(), true);
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
        self.group.set_member(GROUP, name.as_str(), false);
        self.gshadow.set_member(GROUP, name.as_str(), false);
    }

    /// Writes what has changed. `passwd` comes last when an account is added and first when one
    /// is removed: at no instant is there an account without its lock and its expiry.
    pub(crate) fn write(&mut self, order: Order) -> Result<()> {
        let mut tables = [&mut self.shadow, &mut self.gshadow, &mut self.group, &mut self.passwd];
        write_aside(&tables)
            .and_then(|()| match order {
                Order::PasswdLast => tables.iter_mut().try_for_each(|table| table.replace_file()),
                Order::PasswdFirst => tables.iter_mut().rev().try_for_each(|table| table.replace_file()),
            })
            .inspect_err(|_| {
                tables.iter().for_each(|table| drop(store::remove_file(&aside(&table.path))));
            })?;
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
        let used = self.used_but_by(name);
        let group = self.group.line(name.as_str()).and_then(number);
        let again = if let Wanted::Again(ids) = wanted { Some(ids.gid) } else { None };
        let free = |id: &u32| IDS.contains(id) && !used.contains(id);
        if let Some(id) = again.into_iter().chain(group).find(free) {
            return Ok(id);
        }
        let id = fresh(&used)?;
        self.last_uid = Some(id);
        Ok(id)
    }

    /// Whether there is a group of that name which no environment was given.
    fn has_foreign_group(&self, name: &Name) -> bool {
        self.group.line(name.as_str()).is_some_and(|line| number(line).is_none_or(|gid| !IDS.contains(&gid)))
    }

    /// The group of environments and the account of holders, once for the machine.
    fn add_system(&mut self) -> Result<()> {
        if self.group.line(GROUP).is_none() {
            let gid = self.free_system()?;
            self.group.set(GROUP, &format!("x:{gid}:"));
            self.gshadow.set(GROUP, "!::");
        }
        if self.passwd.line(HOLDER).is_none() {
            let id = self.free_system()?;
            self.passwd.set(HOLDER, &format!("x:{id}:{id}:{GECOS}:/nonexistent:/usr/sbin/nologin"));
            self.group.set(HOLDER, &format!("x:{id}:"));
            self.shadow.set(HOLDER, "!*:0:0:99999:7::1:");
            self.gshadow.set(HOLDER, "!::");
        }
        Ok(())
    }

    fn free_system(&self) -> Result<u32> {
        let used: HashSet<u32> = self.passwd.numbers().chain(self.group.numbers()).collect();
        (100..=999).rev().find(|id| !used.contains(id)).context("no system uid is free (100-999)")
    }

    /// Every uid and gid that another than `name` has.
    fn used_but_by(&self, name: &Name) -> HashSet<u32> {
        let lines = self.passwd.lines().chain(self.group.lines());
        lines.filter(|line| !is_of(line, name.as_str())).filter_map(number).collect()
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

/// An ID that is not among `used`, as late after the one given out last as may be.
fn fresh(used: &HashSet<u32>) -> Result<u32> {
    let last = last_uid().or_else(|| used.iter().copied().filter(|id| IDS.contains(id)).max());
    let from = last.filter(|id| IDS.contains(id)).map_or(*IDS.start(), |id| id + 1);
    let free = (from..=*IDS.end()).chain(*IDS.start()..from).find(|id| !used.contains(id));
    free.with_context(|| format!("no uid is free ({}-{})", IDS.start(), IDS.end()))
}

/// `/etc/passwd`, as far as it is text.
pub(crate) fn passwd() -> Result<String> {
    let bytes = fs::read("/etc/passwd").context("cannot read '/etc/passwd'")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether the account files, or what a killed tool left beside them, may say anything of `name`. This
/// needs no lock: nobody else adds a name like that.
pub(crate) fn mention(name: &Name) -> bool {
    let mentions = |path: &str| {
        let text = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&text).contains(name.as_str()) || aside(Path::new(path)).exists()
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

/// One of the account files.
#[derive(Debug)]
struct Table {
    path: PathBuf,
    /// Bytes: a comment field may hold whatever chfn(1) lets people write.
    text: Vec<u8>,
    /// Whether the file is there: a machine may have no shadow passwords.
    present: bool,
    changed: bool,
}

impl Table {
    fn read(path: &str) -> Result<Table> {
        let path = PathBuf::from(path);
        // what a killed tool left aside
        store::remove_file(&aside(&path)).with_context(|| format!("cannot remove '{}'", aside(&path).display()))?;
        match fs::read(&path) {
            Ok(text) => Ok(Table { path, text, present: true, changed: false }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Ok(Table { path, text: Vec::new(), present: false, changed: false })
            }
            Err(e) => Err(e).with_context(|| format!("cannot read '{}'", path.display())),
        }
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
    }

    fn line(&self, name: &str) -> Option<&[u8]> {
        self.lines().find(|line| is_of(line, name))
    }

    /// Makes the line of `name` say `rest`, in its place or at the end.
    fn set(&mut self, name: &str, rest: &str) {
        let new = format!("{name}:{rest}").into_bytes();
        match self.line(name).map(<[u8]>::to_owned) {
            Some(old) if old == new => return,
            Some(old) => self.replace(&old, Some(&new)),
            None => {
                if !self.text.is_empty() && !self.text.ends_with(b"\n") {
                    self.text.push(b'\n');
                }
                self.text.extend(new);
                self.text.push(b'\n');
            }
        }
        self.changed = true;
    }

    fn remove(&mut self, name: &str) {
        if let Some(old) = self.line(name).map(<[u8]>::to_owned) {
            self.replace(&old, None);
            self.changed = true;
        }
    }

    /// Puts `member` into the last field of `group`'s line, or takes it out.
    fn set_member(&mut self, group: &str, member: &str, wanted: bool) {
        let Some(line) = self.line(group).map(<[u8]>::to_owned) else { return };
        let at = line.iter().rposition(|byte| *byte == b':').map_or(0, |colon| colon + 1);
        let (head, members) = line.split_at(at);
        let member = member.as_bytes();
        let mut members: Vec<&[u8]> = members.split(|byte| *byte == b',').filter(|m| !m.is_empty()).collect();
        if members.contains(&member) == wanted {
            return;
        }
        match wanted {
            true => members.push(member),
            false => members.retain(|m| *m != member),
        }
        self.replace(&line, Some(&[head, &members.join(&b',')].concat()));
        self.changed = true;
    }

    /// Replaces the line `old`, or leaves it out.
    fn replace(&mut self, old: &[u8], new: Option<&[u8]>) {
        let mut text = Vec::with_capacity(self.text.len() + 64);
        for line in self.text.split_inclusive(|byte| *byte == b'\n') {
            match (line.strip_suffix(b"\n").unwrap_or(line) == old, new) {
                (false, _) => text.extend(line),
                (true, Some(new)) => text.extend([new, b"\n"].concat()),
                (true, None) => {}
            }
        }
        self.text = text;
    }

    /// The third field of every line: uids of passwd, gids of group.
    fn numbers(&self) -> impl Iterator<Item = u32> {
        self.lines().filter_map(number)
    }

    /// Whether there is anything to write.
    fn differs(&self) -> bool {
        self.changed && self.present
    }

    fn write_aside(&self) -> Result<()> {
        let write = || -> io::Result<()> {
            let old = fs::metadata(&self.path)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(aside(&self.path))?;
            file.write_all(&self.text)?;
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
            file.sync_all()
        };
        write().with_context(|| format!("cannot write '{}'", self.path.display()))
    }

    /// Puts what was written aside in its place.
    fn replace_file(&mut self) -> Result<()> {
        if self.differs() {
            fs::rename(aside(&self.path), &self.path)
                .with_context(|| format!("cannot write '{}'", self.path.display()))?;
            self.changed = false;
        }
        Ok(())
    }
}

/// Writes the new texts of `tables`, at once: file systems do several syncs in the time of one. The threads
/// have ended when this returns: nothing is forked beside them.
fn write_aside(tables: &[&mut Table; 4]) -> Result<()> {
    std::thread::scope(|scope| {
        let tables: Vec<&Table> = tables.iter().map(|table| &**table).filter(|table| table.differs()).collect();
        let threads: Vec<_> = tables
            .iter()
            .map(|table| std::thread::Builder::new().spawn_scoped(scope, || table.write_aside()))
            .collect();
        // all are waited for before one that failed is told of
        let written: Vec<Result<()>> = tables
            .iter()
            .zip(threads)
            .map(|(table, thread)| match thread {
                Ok(thread) => thread
                    .join()
                    .unwrap_or_else(|_| Err(Failure::new(format!("cannot write '{}'", table.path.display())).into())),
                // out of processes: one after another, then
                Err(_) => table.write_aside(),
            })
            .collect();
        written.into_iter().collect()
    })
}

/// Where the new text of `path` is written before it takes its place: a name of ours alone.
fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.llima-box"))
}

/// Whether `line` is that of `name`.
fn is_of(line: &[u8], name: &str) -> bool {
    line.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b":"))
}

/// The third field of `line`.
fn number(line: &[u8]) -> Option<u32> {
    str::from_utf8(line.split(|byte| *byte == b':').nth(2)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn table(text: &str) -> Table {
        Table { path: "/nowhere".into(), text: text.as_bytes().to_owned(), present: true, changed: false }
    }

    fn name(text: &str) -> Name {
        Name::parse(OsStr::new(text)).unwrap()
    }

    #[test]
    fn a_line_is_added_changed_and_removed_alone() {
        let mut t = table("root:x:0:0::/root:/bin/sh\nab-1234x:x:1:1:::\n");
        t.set("ab-1234", "x:70000:70000:llima-box::");
        assert_eq!(t.line("ab-1234").unwrap(), b"ab-1234:x:70000:70000:llima-box::");
        t.set("ab-1234", "x:70001:70001:llima-box::");
        t.remove("ab-1234");
        assert_eq!(t.text, b"root:x:0:0::/root:/bin/sh\nab-1234x:x:1:1:::\n");
    }

    #[test]
    fn a_file_that_does_not_end_in_a_newline_keeps_its_last_line() {
        let mut t = table("root:x:0:");
        t.set("a-1234", "x:70000:");
        assert_eq!(t.text, b"root:x:0:\na-1234:x:70000:\n");
    }

    #[test]
    fn lines_that_are_not_utf_8_stay_as_they_are() {
        let mut t = table("");
        t.text = b"alice:x:1000:1000:\xff:/home/alice:/bin/sh\n".to_vec();
        t.set("a-1234", "x:70000:");
        t.remove("a-1234");
        assert_eq!(t.text, b"alice:x:1000:1000:\xff:/home/alice:/bin/sh\n");
        assert_eq!(t.numbers().collect::<Vec<_>>(), [1000]);
    }

    #[test]
    fn members_come_and_go() {
        let mut t = table("lbx-env:x:999:\nother:x:5:a-1234\n");
        t.set_member("lbx-env", "a-1234", true);
        t.set_member("lbx-env", "b-1234", true);
        t.set_member("lbx-env", "a-1234", true);
        assert_eq!(t.line("lbx-env").unwrap(), b"lbx-env:x:999:a-1234,b-1234");
        t.set_member("lbx-env", "a-1234", false);
        assert_eq!(t.text, b"lbx-env:x:999:b-1234\nother:x:5:a-1234\n");
    }

    #[test]
    fn anothers_account_is_not_ours() {
        let text = "a-1234:x:1000:1000:Alice:/home/a:/bin/sh\nb-1234:x:70000:70001:llima-box:/nonexistent:/x\n";
        assert_eq!(ours(text, &name("a-1234")), None);
        assert_eq!(ours(text, &name("b-1234")), Some(Ids { uid: 70000, gid: 70001 }));
        assert_eq!(ours(text, &name("c-1234")), None);
    }
}
