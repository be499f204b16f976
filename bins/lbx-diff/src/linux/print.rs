//! Changes as names, one a line or ended by NUL, and as lines of JSON.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use lbx::Result;
use lbx::path::JsonPath;
use lbx::record::json_line;
use lbx_diff::Cli;
use serde::Serialize;

use super::layers::{Entry, Kind};
use super::quote::quoted;
use super::walk::Change;

/// Prints `changes` in the form that `cli` asks for.
pub(crate) fn print(cli: &Cli, changes: &[Change], out: &mut impl Write) -> Result<()> {
    for change in changes {
        if cli.form.json {
            out.write_all(json_line(&Object::of(change))?.as_bytes())?;
        } else if cli.null {
            if !cli.form.name_only {
                write!(out, "{}\0", change.status().letter())?;
            }
            out.write_all(&change.path)?;
            out.write_all(b"\0")?;
        } else {
            let name = shown(change);
            match cli.form.name_only {
                true => writeln!(out, "{name}")?,
                false => writeln!(out, "{}\t{name}", change.status().letter())?,
            }
        }
    }
    Ok(())
}

/// The path for a person; a directory's ends with a slash.
fn shown(change: &Change) -> String {
    match change.is_dir() {
        true => quoted(&[&change.path, &b"/"[..]].concat()),
        false => quoted(&change.path),
    }
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
    fn of(change: &'a Change) -> Object<'a> {
        let (path, path_bytes) = JsonPath::encode(as_path(&change.path));
        let [new, old] = &change.digests;
        Object {
            status: change.status().letter(),
            path,
            path_bytes,
            new: change.new.as_ref().map(|entry| Side::of(entry, new.as_deref())),
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
        Entry { kind, mode: 0o755, size: 3, target, device: (0, 0), inode: 1, ctime: (0, 0), mtime: (0, 0) }
    }

    fn change(path: &[u8], new: Option<Entry>, old: Option<Entry>) -> Change {
        Change { path: path.to_vec(), new, old, conflict: false, digests: [None, None] }
    }

    fn printed(words: &[&str], changes: &[Change]) -> String {
        let cli = Cli::try_parse_from([&["lbx-diff", "x-1a2b"], words].concat()).unwrap();
        let mut out = Vec::new();
        print(&cli, changes, &mut out).unwrap();
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
        assert_eq!(printed(&["--name-only"], &changes), "a\nb/\nc/\n\"d\\n/\"\ne\n");
        assert_eq!(printed(&["-z"], &changes), "A\0a\0D\0b\0M\0c\0T\0d\n\0T\0e\0");
        assert_eq!(printed(&["-z", "--name-only"], &changes), "a\0b\0c\0d\n\0e\0");
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
