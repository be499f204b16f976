//! Accounts in `/etc/passwd`, `group`, `shadow` and `gshadow`, edited under the lock that
//! `lckpwdf(3)` takes.
//!
//! On the machine such an account can do nothing: no password, expired, no shell, no home. What
//! it is inside an environment stands in the environment's own passwd.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use lbx::record::{self, IDS};
use lbx::{Failure, Name, Result, holder};
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::XattrFlags;

mod table;

use table::{Table, aside, number};

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
const PASSWD: &str = "/etc/passwd";

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
        let mut take = |line: &[u8]| number(line).into_iter().for_each(|number| taken.add(number));
        Ok(Accounts {
            passwd: Table::read(Path::new(PASSWD), &names, &mut take)?,
            group: Table::read(Path::new("/etc/group"), &names, &mut take)?,
            shadow: Table::read(Path::new("/etc/shadow"), &names, |_| ())?,
            gshadow: Table::read(Path::new("/etc/gshadow"), &names, |_| ())?,
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
        let mut tables = tables.map(|table| &*table);
        if let Order::PasswdFirst = order {
            tables.reverse();
        }
        table::write(&tables)?;
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
    let bytes = fs::read(PASSWD).with_context(|| format!("cannot read '{PASSWD}'"))?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// `/etc/passwd` without the accounts of environments, as far as it is text: of thousands of lines the few
/// that say which directories are whose.
pub(crate) fn others() -> Result<String> {
    let mut text = Vec::new();
    let read = File::open(PASSWD).and_then(|file| {
        table::each_line(&file, |_, line| {
            if !is_nobodys(line) {
                text.extend_from_slice(line);
            }
        })
    });
    read.with_context(|| format!("cannot read '{PASSWD}'"))?;
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
    [PASSWD, "/etc/group", "/etc/shadow", "/etc/gshadow"].into_iter().any(mentions)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn name(text: &str) -> Name {
        Name::parse(OsStr::new(text)).unwrap()
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
    fn anothers_account_is_not_ours() {
        let text = "a-1234:x:1000:1000:Alice:/home/a:/bin/sh\nb-1234:x:70000:70001:llima-box:/nonexistent:/x\n";
        assert_eq!(ours(text, &name("a-1234")), None);
        assert_eq!(ours(text, &name("b-1234")), Some(Ids { uid: 70000, gid: 70001 }));
        assert_eq!(ours(text, &name("c-1234")), None);
    }
}
