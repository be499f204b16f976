//! One account file: the lines that were asked for, and how they are to change. The others are copied from
//! file to file and never kept: of tens of thousands of lines the memory for them takes longest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::Context;
use lbx::sys::start_writing;
use lbx::{Failure, Result};
use memchr::{memchr_iter, memrchr};

use super::super::store;
use super::GROUP;

/// How much of a file is looked at once, if its lines are not longer.
const PIECE: usize = 64 * 1024;

/// Names that are looked for among thousands of others.
#[derive(Debug)]
pub(super) struct Names<'a> {
    all: BTreeSet<&'a [u8]>,
    /// Whether a name begins so, and whether there is one at each [`Names::place`]: most others are told by
    /// these.
    firsts: [bool; 256],
    places: [bool; 256],
}

impl Names<'_> {
    /// Ends differ most: they are digits of a hash.
    fn place(name: &[u8]) -> usize {
        let end = name.last_chunk().map_or(0, |end| u16::from_le_bytes(*end));
        usize::from(end.wrapping_mul(0x9e37) >> 8)
    }

    /// Whether `line` may be that of one of them.
    fn may_begin(&self, line: &[u8]) -> bool {
        line.first().is_some_and(|first| self.firsts[usize::from(*first)])
    }

    fn contains(&self, name: &[u8]) -> bool {
        self.places[Names::place(name)] && self.all.contains(name)
    }
}

impl<'a> FromIterator<&'a [u8]> for Names<'a> {
    fn from_iter<T: IntoIterator<Item = &'a [u8]>>(names: T) -> Names<'a> {
        let all = BTreeSet::from_iter(names);
        let (mut firsts, mut places) = ([false; 256], [false; 256]);
        for name in &all {
            places[Names::place(name)] = true;
            name.first().into_iter().for_each(|first| firsts[usize::from(*first)] = true);
        }
        Names { all, firsts, places }
    }
}

/// One of the account files, and how lines of it are to change.
#[derive(Debug)]
pub(super) struct Table {
    path: PathBuf,
    /// None where the file is not there: a machine may have no shadow passwords.
    source: Option<Source>,
    /// The lines of the names that were asked for.
    found: BTreeMap<Vec<u8>, Vec<Line>>,
    /// The new lines of names, without a newline; `None` where there is to be none.
    edits: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Who is to be a member of [`GROUP`] and who not, until its line is settled.
    members: BTreeMap<Vec<u8>, bool>,
}

/// A file as it was read.
#[derive(Debug)]
struct Source {
    file: File,
    /// From before it was read.
    stat: Metadata,
    length: u64,
    ends_in_newline: bool,
}

/// A line with its newline, and where in the file it begins. Bytes: a comment field may hold whatever chfn(1)
/// lets people write.
#[derive(Debug)]
struct Line {
    at: u64,
    text: Vec<u8>,
}

impl Line {
    fn range(&self) -> Range<u64> {
        self.at..self.at + self.text.len() as u64
    }
}

impl Table {
    /// Reads `path` for the lines of `names`, and shows `each` every other, too.
    pub(super) fn read(path: &Path, names: &Names<'_>, each: impl FnMut(&[u8])) -> Result<Table> {
        // what a killed tool left aside
        store::remove_file(&aside(path)).with_context(|| format!("cannot remove '{}'", aside(path).display()))?;
        let read = || match File::open(path) {
            Ok(file) => Table::of(path, Some(file), names, each),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Table::of(path, None, names, each),
            Err(e) => Err(e),
        };
        read().with_context(|| format!("cannot read '{}'", path.display()))
    }

    /// Once over the whole file, however many names there are: it may have tens of thousands of lines.
    fn of(path: &Path, file: Option<File>, names: &Names<'_>, mut each: impl FnMut(&[u8])) -> io::Result<Table> {
        let mut found: BTreeMap<Vec<u8>, Vec<Line>> = BTreeMap::new();
        let read = |file: File| -> io::Result<Source> {
            let stat = file.metadata()?;
            let (mut length, mut ends_in_newline) = (0, true);
            each_line(&file, |at, line| {
                length = at + line.len() as u64;
                ends_in_newline = line.ends_with(b"\n");
                each(line);
                let colon = || line.iter().position(|byte| *byte == b':');
                let name = if names.may_begin(line) { colon().map(|colon| &line[..colon]) } else { None };
                if let Some(name) = name.filter(|name| names.contains(name)) {
                    found.entry(name.to_owned()).or_default().push(Line { at, text: line.to_owned() });
                }
            })?;
            Ok(Source { file, stat, length, ends_in_newline })
        };
        let source = file.map(read).transpose()?;
        Ok(Table { path: path.to_owned(), source, found, edits: BTreeMap::new(), members: BTreeMap::new() })
    }

    /// The line of `name`, which was asked for, as it is to be.
    pub(super) fn line(&self, name: &str) -> Option<&[u8]> {
        match self.edits.get(name.as_bytes()) {
            Some(edit) => edit.as_deref(),
            None => self.found.get(name.as_bytes())?.first().map(|line| without_newline(&line.text)),
        }
    }

    /// Makes the line of `name` say `rest`, in its place or at the end.
    pub(super) fn set(&mut self, name: &str, rest: &str) {
        self.set_line(name, format!("{name}:{rest}").into_bytes());
    }

    fn set_line(&mut self, name: &str, line: Vec<u8>) {
        if self.line(name) != Some(&line) {
            self.edits.insert(name.into(), Some(line));
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        if self.line(name).is_some() {
            self.edits.insert(name.into(), None);
        }
    }

    /// Makes `name` a member of [`GROUP`], or none.
    pub(super) fn set_member(&mut self, name: &str, wanted: bool) {
        self.members.insert(name.into(), wanted);
    }

    /// Puts into the line of [`GROUP`] who comes, and takes out who goes.
    pub(super) fn settle_members(&mut self) {
        let mut members = std::mem::take(&mut self.members);
        let Some(line) = self.line(GROUP) else { return };
        let at = memrchr(b':', line).map_or(0, |colon| colon + 1);
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
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        number(self.line(name)?)
    }

    /// The third field of every line that `name` had.
    pub(super) fn numbers_of(&self, name: &str) -> impl Iterator<Item = u32> {
        self.found.get(name.as_bytes()).into_iter().flatten().filter_map(|line| number(&line.text))
    }

    /// Whether there is anything to write.
    fn differs(&self) -> bool {
        self.source.is_some() && !self.edits.is_empty()
    }

    /// Writes the new text of what was read as `source`: what stays in pieces that are as large as may be, and
    /// each edit where the line lies that it is for, or at the end.
    fn write_to(&self, source: &Source, out: &mut impl Write) -> io::Result<()> {
        let (mut places, mut last) = (Vec::new(), Vec::new());
        for (name, line) in &self.edits {
            let mut line = line.as_deref();
            for place in self.found.get(name).into_iter().flatten() {
                places.push((place.range(), line.take()));
            }
            last.extend(line);
        }
        places.sort_unstable_by_key(|(range, _)| range.start);
        let mut at = 0;
        for (range, line) in places {
            source.copy(at..range.start, out)?;
            at = range.end;
            for piece in line.into_iter().flat_map(|line| [line, b"\n"]) {
                out.write_all(piece)?;
            }
        }
        source.copy(at..source.length, out)?;
        if !last.is_empty() && at < source.length && !source.ends_in_newline {
            out.write_all(b"\n")?;
        }
        last.into_iter().flat_map(|line| [line, b"\n"]).try_for_each(|piece| out.write_all(piece))
    }

    /// Writes the new text aside; nothing makes sure yet that it is on the disk.
    fn write_aside(&self, source: &Source) -> Result<File> {
        let write = || -> io::Result<File> {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(aside(&self.path))?;
            let mut out = BufWriter::new(&file);
            self.write_to(source, &mut out)?;
            out.flush()?;
            drop(out);
            fchown(&file, Some(source.stat.uid()), Some(source.stat.gid()))?;
            file.set_permissions(fs::Permissions::from_mode(source.stat.mode() & 0o7777))?;
            start_writing(file.as_fd());
            Ok(file)
        };
        write().with_context(|| format!("cannot write '{}'", self.path.display()))
    }

    /// Waits until what was written aside, as `file`, is on the disk.
    fn sync(&self, file: &File) -> Result<()> {
        file.sync_all().with_context(|| format!("cannot write '{}'", self.path.display()))
    }

    /// Refuses to go on when the file is not the one that was read any more: an editor does not ask for the
    /// lock.
    fn check_unchanged(&self, source: &Source) -> Result<()> {
        let looks = |stat: &Metadata| {
            let times = [stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec()];
            ([stat.dev(), stat.ino(), stat.size()], times)
        };
        match fs::metadata(&self.path) {
            Ok(stat) if looks(&stat) == looks(&source.stat) => Ok(()),
            _ => Err(Failure::new(format!("'{}' was changed meanwhile", self.path.display()))
                .hint("another program edited it without asking for the lock: try again")
                .into()),
        }
    }

    /// Puts what was written aside in its place.
    fn replace_file(&self) -> Result<()> {
        fs::rename(aside(&self.path), &self.path).with_context(|| format!("cannot write '{}'", self.path.display()))
    }
}

impl Source {
    fn copy(&self, range: Range<u64>, out: &mut impl Write) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let (mut file, length) = (&self.file, range.end - range.start);
        file.seek(SeekFrom::Start(range.start))?;
        match io::copy(&mut file.take(length), out)? {
            copied if copied == length => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter meanwhile")),
        }
    }
}

/// Writes what has changed in `tables`, each whole or not at all, in that order.
pub(super) fn write(tables: &[&Table]) -> Result<()> {
    let changed: Vec<(&Table, &Source)> = tables
        .iter()
        .filter(|table| table.differs())
        .filter_map(|table| Some((*table, table.source.as_ref()?)))
        .collect();
    let write = || {
        let aside = |(table, source): &(&Table, &Source)| table.write_aside(source);
        let files = changed.iter().map(aside).collect::<Result<Vec<File>>>()?;
        // files that are all there by then come to the disk in one commit
        let synced: Vec<(&Table, File)> = changed.iter().map(|(table, _)| *table).zip(files).collect();
        store::at_once(&synced, |(table, file)| table.sync(file))?;
        changed.iter().try_for_each(|(table, source)| table.check_unchanged(source))?;
        changed.iter().try_for_each(|(table, _)| table.replace_file())
    };
    write().inspect_err(|_| changed.iter().for_each(|(table, _)| drop(store::remove_file(&aside(&table.path)))))
}

/// Shows `each` every line of `file`, with its newline, and where it begins.
pub(super) fn each_line(mut file: &File, mut each: impl FnMut(u64, &[u8])) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    // where in the file the buffer begins, and how much of it is filled
    let (mut start, mut filled) = (0, 0);
    loop {
        let read = match file.read(&mut buffer[filled..]) {
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        filled += read;
        let whole = if read == 0 { filled } else { memrchr(b'\n', &buffer[..filled]).map_or(0, |end| end + 1) };
        let mut at = 0;
        let ends = memchr_iter(b'\n', &buffer[..whole]).map(|newline| newline + 1);
        for end in ends.chain((read == 0).then_some(whole)) {
            if end > at {
                each(start + at as u64, &buffer[at..end]);
            }
            at = end;
        }
        if read == 0 {
            return Ok(());
        }
        buffer.copy_within(whole..filled, 0);
        start += whole as u64;
        filled -= whole;
        if filled == buffer.len() {
            buffer.resize(2 * filled, 0);
        }
    }
}

fn without_newline(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// Where the new text of `path` is written before it takes its place: a name of ours alone.
pub(super) fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.llima-box"))
}

/// The third field of `line`.
pub(super) fn number(line: &[u8]) -> Option<u32> {
    let field = line.split(|byte| matches!(byte, b':' | b'\n')).nth(2)?;
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

    fn file(text: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        file.rewind().unwrap();
        file
    }

    fn table_of(text: &[u8], each: impl FnMut(&[u8])) -> Table {
        let names = ["lbx-env", "a-1234", "b-1234", "c-1234", "d-1234"].into_iter().map(str::as_bytes).collect();
        Table::of(Path::new("/nowhere"), Some(file(text)), &names, each).unwrap()
    }

    fn table(text: &[u8]) -> Table {
        table_of(text, |_| ())
    }

    /// What `table` would write.
    fn bytes(table: &mut Table) -> Vec<u8> {
        table.settle_members();
        let mut text = Vec::new();
        table.write_to(table.source.as_ref().unwrap(), &mut text).unwrap();
        text
    }

    fn text(table: &mut Table) -> String {
        String::from_utf8(bytes(table)).unwrap()
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
        let mut t = table_of(before, |line| numbers.extend(number(line)));
        t.remove("a-1234");
        assert_eq!(bytes(&mut t), b"alice:x:1000:1000:\xff:/home/alice:/bin/sh\n");
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
            assert_eq!(number(format!("a:{rest}").as_bytes()), told, "{rest:?}");
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
    fn lines_longer_than_what_is_looked_at_once_are_whole() {
        let long = |n: usize| format!("{}\n", "x".repeat(n));
        let mut text: String = [1, PIECE - 3, PIECE, 3 * PIECE, 0, 7].map(long).concat();
        for end in ["", "the last"] {
            text += end;
            let mut lines = Vec::new();
            each_line(&file(text.as_bytes()), |at, line| lines.push((at as usize, line.len()))).unwrap();
            let mut at = 0;
            let wanted = text.split_inclusive('\n').map(|line| {
                at += line.len();
                (at - line.len(), line.len())
            });
            assert_eq!(lines, wanted.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_file_that_an_editor_changes_meanwhile_is_left_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        let names = || [b"a-1234".as_slice()].into_iter().collect::<Names>();
        let before = "root:x:0:0::/root:/bin/sh\n";
        let edits: [fn(&Path); 2] = [
            |path| OpenOptions::new().append(true).open(path).unwrap().write_all(b"b:x:1:1:::\n").unwrap(),
            |path| {
                fs::write(path.with_extension("new"), "c:x:1:1:::\n").unwrap();
                fs::rename(path.with_extension("new"), path).unwrap();
            },
        ];
        for edit in edits {
            fs::write(&path, before).unwrap();
            let mut table = Table::read(&path, &names(), |_| ()).unwrap();
            table.set("a-1234", "x:70000:70000:::");
            edit(&path);
            let edited = fs::read(&path).unwrap();
            let error = write(&[&table]).unwrap_err().to_string();
            assert!(error.contains(&format!("'{}' was changed", path.display())), "{error}");
            assert_eq!(fs::read(&path).unwrap(), edited);
            assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing stays aside");
        }
        fs::write(&path, before).unwrap();
        let mut table = Table::read(&path, &names(), |_| ()).unwrap();
        table.set("a-1234", "x:70000:70000:::");
        write(&[&table]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{before}a-1234:x:70000:70000:::\n"));
    }
}
