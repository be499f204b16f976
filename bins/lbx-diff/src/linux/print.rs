//! Changes as they are asked for: as names, one a line or ended by NUL, as lines of JSON, or as what a
//! person sees of them.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use lbx::Result;
use lbx::failure::{Tool, say};
use lbx::path::JsonPath;
use lbx::record::json_line;
use lbx_diff::{Cli, When};
use serde::Serialize;

use super::blob::Blob;
use super::layers::{Entry, Kind};
use super::patch::Patch;
use super::quote::quoted;
use super::stack::Layers;
use super::stat::Table;
use super::walk::{Change, Status};

/// How what is printed looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    pub(crate) is_coloured: bool,
    /// A person sees it on a terminal, which must obey nothing that is in a file.
    pub(crate) is_shown: bool,
}

impl Paint {
    fn code(self, code: &'static str) -> &'static str {
        if self.is_coloured { code } else { "" }
    }

    pub(crate) fn plain(self) -> &'static str {
        self.code("\x1b[m")
    }

    pub(crate) fn bold(self) -> &'static str {
        self.code("\x1b[1m")
    }

    pub(crate) fn hunk(self) -> &'static str {
        self.code("\x1b[36m")
    }

    pub(crate) fn added(self) -> &'static str {
        self.code("\x1b[32m")
    }

    pub(crate) fn removed(self) -> &'static str {
        self.code("\x1b[31m")
    }

    fn of(self, status: Status) -> &'static str {
        match status {
            Status::Added => self.added(),
            Status::Deleted => self.removed(),
            Status::Modified | Status::Type => self.code("\x1b[33m"),
        }
    }
}

/// What could not be told, reported as it comes.
pub(crate) struct Troubles {
    tool: Tool,
    pub(crate) are_none: bool,
}

impl Troubles {
    pub(crate) fn new(tool: Tool) -> Troubles {
        Troubles { tool, are_none: true }
    }

    /// `verb`: what could not be done with `path`.
    pub(crate) fn cannot(&mut self, verb: &str, path: &[u8], error: impl Into<anyhow::Error>) {
        let path = if path.is_empty() { b"." } else { path };
        self.tool.report(&error.into().context(format!("cannot {verb} '{}'", quoted(path))));
        self.are_none = false;
    }
}

/// Prints `changes` between the sides of `layers` in the form that `cli` asks for.
pub(crate) fn print(
    cli: &Cli,
    changes: &[Change],
    layers: &Layers,
    troubles: &mut Troubles,
    out: &mut impl Write,
) -> Result<()> {
    let paint = Paint { is_coloured: cli.color == When::Always, is_shown: cli.shown };
    if cli.form.patch {
        let mut patch = Patch { out, paint };
        let (of_git, changes): (Vec<&Change>, Vec<&Change>) =
            changes.iter().partition(|change| is_of_git(&change.path));
        if !of_git.is_empty() && !cli.common.quiet {
            let name = troubles.tool.name;
            say(&format!("{name}: left out: what is in .git, of which git applies nothing\n"));
        }
        for change in changes {
            if let Some(sides) = sides(change, layers, troubles) {
                patch.print(change, sides, troubles)?;
            }
        }
        return Ok(());
    }
    if cli.form.stat {
        let mut table = Table::default();
        for change in changes {
            if let Some(sides) = sides(change, layers, troubles) {
                table.add(change, &sides);
            }
        }
        return Ok(table.print(paint, out)?);
    }
    print_names(cli, changes, layers, paint, out)
}

/// Whether git takes `path` for its own, and refuses any patch that has it.
fn is_of_git(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|part| part.eq_ignore_ascii_case(b".git"))
}

/// What git has of both sides, the new one first; `None`: one of them may not be had.
fn sides(change: &Change, layers: &Layers, troubles: &mut Troubles) -> Option<[Option<Blob>; 2]> {
    let read = |entry: &Option<Entry>| match entry {
        Some(entry) => Blob::read(&layers.all[entry.layer], &change.path, entry),
        None => Ok(None),
    };
    match read(&change.new).and_then(|new| Ok([new, read(&change.old)?])) {
        Ok(sides) => Some(sides),
        Err(e) => {
            troubles.cannot("show", &change.path, e);
            None
        }
    }
}

fn print_names(cli: &Cli, changes: &[Change], layers: &Layers, paint: Paint, out: &mut impl Write) -> Result<()> {
    for change in changes {
        let letter = change.status().letter();
        if cli.form.json {
            out.write_all(json_line(&Object::of(change, layers))?.as_bytes())?;
        } else if cli.null {
            if !cli.form.name_only {
                write!(out, "{letter}\0")?;
            }
            out.write_all(&change.path)?;
            out.write_all(b"\0")?;
        } else if cli.form.name_only {
            writeln!(out, "{}", shown(change))?;
        } else {
            writeln!(out, "{}{letter}{}\t{}", paint.of(change.status()), paint.plain(), shown(change))?;
        }
    }
    Ok(())
}

/// The path for a person; a directory's ends with a slash.
pub(crate) fn shown(change: &Change) -> String {
    match change.is_dir() {
        true => quoted(&[&change.path, &b"/"[..]].concat()),
        false => quoted(&change.path),
    }
}

/// A line of a file for a person: what a terminal would obey stands there as `^[`.
pub(crate) fn shown_text(line: &[u8]) -> String {
    let mut text = String::with_capacity(line.len());
    for c in String::from_utf8_lossy(line).chars() {
        match c {
            '\t' => text.push(c),
            '\x7f' => text.push_str("^?"),
            '\0'..='\x1f' => text.extend(['^', char::from(c as u8 + b'@')]),
            c if c.is_control() => text.extend(c.escape_unicode()),
            c => text.push(c),
        }
    }
    text
}

/// A change in JSON.
#[derive(Serialize)]
struct Object<'a> {
    status: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    #[serde(flatten)]
    new: Option<Side<'a>>,
    /// The frozen layer that has it; that of the environment itself has no name.
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<Side<'a>>,
    conflict: bool,
}

/// What there is at the path, or was.
#[derive(Serialize)]
struct Side<'a> {
    kind: &'static str,
    mode: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_bytes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<&'a str>,
}

impl<'a> Object<'a> {
    fn of(change: &'a Change, layers: &'a Layers) -> Object<'a> {
        let (path, path_bytes) = JsonPath::encode(as_path(&change.path));
        let [new, old] = &change.digests;
        Object {
            status: change.status().letter(),
            path,
            path_bytes,
            new: change.new.as_ref().map(|entry| Side::of(entry, new.as_deref())),
            layer: change.new.as_ref().and_then(|entry| layers.all.get(entry.layer)?.id()),
            old: change.old.as_ref().map(|entry| Side::of(entry, old.as_deref())),
            conflict: change.conflict,
        }
    }
}

impl<'a> Side<'a> {
    fn of(entry: &'a Entry, sha256: Option<&'a str>) -> Side<'a> {
        let (target, target_bytes) = match &entry.target {
            Some(target) => {
                let (text, bytes) = JsonPath::encode(as_path(target));
                (Some(text), bytes)
            }
            None => (None, None),
        };
        Side {
            kind: entry.kind.as_str(),
            mode: format!("{:04o}", entry.mode),
            size: (entry.kind == Kind::File).then_some(entry.size),
            target,
            target_bytes,
            sha256,
        }
    }
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn entry(kind: Kind, target: Option<&[u8]>) -> Entry {
        let target = target.map(<[u8]>::to_vec);
        Entry { layer: 0, kind, mode: 0o755, size: 3, target, device: (0, 0), inode: 1, ctime: (0, 0), mtime: (0, 0) }
    }

    fn change(path: &[u8], new: Option<Entry>, old: Option<Entry>) -> Change {
        Change { path: path.to_vec(), new, old, conflict: false, digests: [None, None] }
    }

    fn printed(words: &[&str], changes: &[Change]) -> String {
        let cli = Cli::try_parse_from([&["lbx-diff", "x-1a2b"], words].concat()).unwrap();
        let mut out = Vec::new();
        let paint = Paint { is_coloured: cli.color == When::Always, is_shown: false };
        print_names(&cli, changes, &Layers::default(), paint, &mut out).unwrap();
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn every_change_has_its_letter() {
        let (file, dir) = (entry(Kind::File, None), entry(Kind::Dir, None));
        let changes = [
            change(b"a", Some(file.clone()), None),
            change(b"b", None, Some(dir.clone())),
            change(b"c", Some(dir.clone()), Some(dir.clone())),
            change(b"d\n", Some(dir.clone()), Some(file.clone())),
            change(b"e", Some(file), Some(dir)),
        ];
        assert_eq!(printed(&[], &changes), "A\ta\nD\tb/\nM\tc/\nT\t\"d\\n/\"\nT\te\n");
        assert!(printed(&["--color=always"], &changes).starts_with("\x1b[32mA\x1b[m\ta\n\x1b[31mD\x1b[m\tb/\n"));
        assert_eq!(printed(&["--name-only"], &changes), "a\nb/\nc/\n\"d\\n/\"\ne\n");
        assert_eq!(printed(&["-z"], &changes), "A\0a\0D\0b\0M\0c\0T\0d\n\0T\0e\0");
        assert_eq!(printed(&["-z", "--name-only"], &changes), "a\0b\0c\0d\n\0e\0");
    }

    #[test]
    fn no_line_of_a_file_drives_a_terminal() {
        assert_eq!(shown_text("a\x1b[2J\tb\r\u{9b}\x7f".as_bytes()), "a^[[2J\tb^M\\u{9b}^?");
        assert_eq!(shown_text(b"\xff"), "\u{fffd}");
    }

    #[test]
    fn json_tells_of_both_sides() {
        let link = entry(Kind::Symlink, Some(b"/\xff"));
        let line = printed(&["--json"], &[change(b"a\xff", Some(entry(Kind::File, None)), Some(link))]);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["path_bytes"], "Yf8=");
        assert_eq!((&object["status"], &object["kind"]), (&"T".into(), &"file".into()));
        assert_eq!((&object["mode"], &object["size"], &object["conflict"]), (&"0755".into(), &3.into(), &false.into()));
        assert_eq!(object["old"]["target_bytes"], "L/8=");
        assert!(object.get("target").is_none() && object["old"].get("size").is_none());
        let gone = printed(&["--json"], &[change(b"a", None, Some(entry(Kind::Dir, None)))]);
        assert_eq!(
            gone,
            "{\"status\":\"D\",\"path\":\"a\",\"old\":{\"kind\":\"dir\",\"mode\":\"0755\"},\"conflict\":false}\n"
        );
    }
}
