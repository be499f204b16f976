//! Operands: `-` reads them from standard input.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;

use crate::Name;
use crate::failure::{Failure, Result, fail, status};
use crate::path::JsonPath;
use crate::snapshot::Tag;

/// The operands of a command line; a lone `-` is replaced by what stdin holds, one a line, or
/// each ended by NUL when `null` is set. Empty lines are no operands.
///
/// # Errors
/// Standard input cannot be read; `-` beside other operands.
pub fn expand(operands: Vec<OsString>, null: bool) -> Result<Vec<OsString>> {
    if !operands.iter().any(|operand| operand == "-") {
        return Ok(operands);
    }
    if operands.len() > 1 {
        return fail(
            Failure::new("'-' reads all operands from standard input: no other may stand beside it")
                .status(status::USAGE),
        );
    }
    let mut text = Vec::new();
    std::io::stdin().lock().read_to_end(&mut text).context("cannot read operands from standard input")?;
    Ok(split(&text, null))
}

fn split(text: &[u8], null: bool) -> Vec<OsString> {
    let end = if null { b'\0' } else { b'\n' };
    text.split(|byte| *byte == end)
        .filter(|operand| !operand.is_empty())
        .map(|operand| OsString::from_vec(operand.to_vec()))
        .collect()
}

/// `ENV[@TAG]`: the environment, a name or a path, and the tag of a snapshot of it. What follows the last
/// `@` of a path is a tag where it can be one; with `/` behind it, no path's is.
///
/// # Errors
/// What follows a name is no tag.
pub fn tagged(word: &OsStr) -> Result<(OsString, Option<Tag>)> {
    let bytes = word.as_bytes();
    let Some(at) = bytes.iter().rposition(|byte| *byte == b'@') else { return Ok((word.to_owned(), None)) };
    let (env, tag) = (OsStr::from_bytes(&bytes[..at]), OsStr::from_bytes(&bytes[at + 1..]));
    match tag.to_str().and_then(Tag::parse) {
        Some(tag) if !env.is_empty() => Ok((env.to_owned(), Some(tag))),
        _ if Name::parse(env).is_none() => Ok((word.to_owned(), None)),
        _ => fail(Failure::new(format!("not the tag of a snapshot: '{}'", tag.display())).status(status::USAGE)),
    }
}

/// Which changes of a copy-on-write project are meant by a word, or by a line that names them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// The change of this path, and all below it.
    Below(PathBuf),
    /// The change of this path alone: it came from a list in which those below have lines of their own.
    Alone(PathBuf),
}

impl Wanted {
    /// What `word` of a command line means in `project`.
    ///
    /// # Errors
    /// A path outside the project.
    pub fn word(word: &OsStr, project: &Path) -> Result<Wanted> {
        within(Path::new(word), project).map(Wanted::Below)
    }

    /// What `text` names in `project`: paths, one a line as `lbx-diff --name-only` prints them, or each
    /// ended by NUL; what `lbx-diff` prints, with `-z` or without; its lines of JSON.
    ///
    /// With `null` nothing but paths that end with NUL.
    ///
    /// # Errors
    /// A line that cannot be understood; a path outside the project.
    pub fn list(text: &[u8], null: bool, project: &Path) -> Result<Vec<Wanted>> {
        let within = |bytes: &[u8]| within(Path::new(OsStr::from_bytes(bytes)), project);
        let nuls = text.contains(&0);
        let end = if null || nuls { b'\0' } else { b'\n' };
        let fields: Vec<&[u8]> = text.split(|byte| *byte == end).filter(|field| !field.is_empty()).collect();
        if null {
            return fields.into_iter().map(|field| Ok(Wanted::Below(within(field)?))).collect();
        }
        if nuls {
            let pairs: Vec<_> = fields.chunks(2).collect();
            let with_status = pairs.iter().all(|pair| pair.len() == 2 && is_status(pair[0]));
            return match with_status {
                true => pairs.into_iter().map(|pair| Ok(Wanted::Alone(within(pair[1])?))).collect(),
                false => fields.into_iter().map(|field| Ok(Wanted::Below(within(field)?))).collect(),
            };
        }
        if let Some(objects) = objects(text)? {
            let object = |object: Object| {
                let path = JsonPath::decode(object.path, object.path_bytes.as_deref());
                let path = within(path.context("path_bytes is not base64")?.as_os_str().as_bytes())?;
                Ok(if object.status.is_some() { Wanted::Alone(path) } else { Wanted::Below(path) })
            };
            return objects.into_iter().map(object).collect();
        }
        let line = |line: &[u8]| match line.iter().position(|byte| *byte == b'\t') {
            Some(tab) if is_status(&line[..tab]) => Ok(Wanted::Alone(within(&unquoted(&line[tab + 1..])?)?)),
            _ => Ok(Wanted::Below(within(&unquoted(line)?)?)),
        };
        fields.into_iter().map(line).collect()
    }

    /// The path.
    pub fn path(&self) -> &Path {
        match self {
            Wanted::Below(path) | Wanted::Alone(path) => path,
        }
    }
}

/// A status letter of `lbx-diff`.
fn is_status(word: &[u8]) -> bool {
    matches!(word, b"A" | b"M" | b"D" | b"T")
}

/// `path` relative to `project`, which is empty for the project itself.
fn within(path: &Path, project: &Path) -> Result<PathBuf> {
    let outside = || {
        let message = format!("path is not in the project: '{}'", path.display());
        Failure::new(message).hint(format!("paths are relative to '{}'", project.display())).status(status::USAGE)
    };
    let relative = if path.is_absolute() { path.strip_prefix(project).map_err(|_| outside())? } else { path };
    let mut clean = PathBuf::new();
    for part in relative.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => return Err(outside().into()),
        }
    }
    Ok(clean)
}

/// A change as JSON; with a status as `lbx-diff` prints it.
#[derive(Deserialize)]
struct Object {
    path: String,
    path_bytes: Option<String>,
    status: Option<String>,
}

/// The JSON objects in `text`, on one line each or on several; `None`: it is no JSON, though a name may
/// begin as such.
fn objects(text: &[u8]) -> Result<Option<Vec<Object>>> {
    let text = text.trim_ascii_start();
    if !text.starts_with(b"{") {
        return Ok(None);
    }
    let objects: Result<Vec<Object>, _> = serde_json::Deserializer::from_slice(text).into_iter().collect();
    match objects {
        Ok(objects) => Ok(Some(objects)),
        // a name with a quote would be quoted itself
        Err(e) if text[1..].trim_ascii_start().first() == Some(&b'"') => {
            Err(e).context("cannot understand the changes in JSON")
        }
        Err(_) => Ok(None),
    }
}

/// A name as git prints it: in double quotes, with C's escapes, where it has bytes that a line cannot show.
fn unquoted(text: &[u8]) -> Result<Vec<u8>> {
    let Some(inner) = text.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) else {
        return Ok(text.to_vec());
    };
    let wrong = || {
        let message = format!("cannot understand this name: '{}'", String::from_utf8_lossy(text));
        Failure::new(message)
            .hint("names in double quotes have escapes, as git prints them; -0 takes any name as it is")
    };
    let mut name = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            name.push(byte);
            continue;
        }
        name.push(match bytes.next().ok_or_else(wrong)? {
            b'a' => 7,
            b'b' => 8,
            b't' => b'\t',
            b'n' => b'\n',
            b'v' => 11,
            b'f' => 12,
            b'r' => b'\r',
            quote @ (b'"' | b'\\') => quote,
            first @ b'0'..=b'3' => {
                let digits = [first, bytes.next().ok_or_else(wrong)?, bytes.next().ok_or_else(wrong)?];
                let digits = std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 8).ok());
                digits.ok_or_else(wrong)?
            }
            _ => return fail(wrong()),
        });
    }
    Ok(name)
}

/// `NAME[=VALUE]` as name and value.
pub fn assignment(word: &OsStr) -> (OsString, Option<OsString>) {
    use std::os::unix::ffi::OsStrExt;
    let bytes = word.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        None => (word.to_owned(), None),
        Some(at) => (OsStr::from_bytes(&bytes[..at]).to_owned(), Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_or_nul_ended_words_become_operands() {
        assert_eq!(split(b"a b\n\n-c\n", false), ["a b", "-c"]);
        assert_eq!(split(b"a\nb\0c", true), ["a\nb", "c"]);
        assert!(split(b"", false).is_empty());
    }

    #[test]
    fn a_dash_stands_alone() {
        assert!(expand(vec!["-".into(), "x".into()], false).is_err());
        assert_eq!(expand(vec!["./-".into()], false).unwrap(), ["./-"]);
    }

    fn list(text: &[u8], null: bool) -> Result<Vec<Wanted>> {
        Wanted::list(text, null, Path::new("/home/alice/p"))
    }

    fn below(path: &[u8]) -> Wanted {
        Wanted::Below(OsStr::from_bytes(path).into())
    }

    fn alone(path: &[u8]) -> Wanted {
        Wanted::Alone(OsStr::from_bytes(path).into())
    }

    #[test]
    fn changes_are_named_as_lbx_diff_prints_them() {
        assert_eq!(list(b"src/a\nsrc/d/\n", false).unwrap(), [below(b"src/a"), below(b"src/d")]);
        assert_eq!(list(b"A\0a\0M\0b\nc\0", false).unwrap(), [alone(b"a"), alone(b"b\nc")]);
        assert_eq!(list(b"a\0M\0", false).unwrap(), [below(b"a"), below(b"M")], "no status stands first");
        assert_eq!(list(b"A\0a\0", true).unwrap(), [below(b"A"), below(b"a")]);
        assert_eq!(list(b"{x\0\"y\"\0", true).unwrap(), [below(b"{x"), below(b"\"y\"")]);
        assert_eq!(
            list(b"M\tsrc/a\nD\t\"a\\tb\\n\\303\\244\\\"\"\n", false).unwrap(),
            [alone(b"src/a"), alone("a\tb\nä\"".as_bytes())]
        );
        assert!(list(b"", false).unwrap().is_empty());
        for wrong in [&b"\"a\\\""[..], b"\"\\9\"", b"\"\\77\"", b"{\"path\":1}", b"{ \"x\":1}"] {
            assert!(list(wrong, false).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
    }

    #[test]
    fn a_line_of_json_is_its_path() {
        let text = b"{\"status\":\"M\",\"path\":\"a\\nb\",\"conflict\":false}\n{\"path\":\"\xef\xbf\xbd\",\"path_bytes\":\"/w==\"}\n";
        assert_eq!(list(text, false).unwrap(), [alone(b"a\nb"), below(b"\xff")]);
        // as jq prints it without -c
        assert_eq!(
            list(b"{\n  \"path\": \"a\"\n}\n{\n  \"path\": \"b\"\n}\n", false).unwrap(),
            [below(b"a"), below(b"b")]
        );
        assert_eq!(list(b"{}\n{j}\n", false).unwrap(), [below(b"{}"), below(b"{j}")], "names");
    }

    #[test]
    fn a_path_of_a_change_is_in_the_project() {
        let word = |word: &str| Wanted::word(OsStr::new(word), Path::new("/home/alice/p"));
        assert_eq!(word("./src//a/").unwrap(), below(b"src/a"));
        assert_eq!(word("/home/alice/p/src").unwrap(), below(b"src"));
        assert_eq!(word(".").unwrap(), below(b""));
        for outside in ["..", "src/../../x", "/home/alice/p2", "/"] {
            assert!(word(outside).is_err(), "{outside}");
        }
    }

    #[test]
    fn a_tag_stands_behind_the_last_at_sign() {
        let tagged = |word: &str| tagged(OsStr::new(word));
        let parts = |env: &str, tag: Option<&str>| (OsString::from(env), tag.and_then(Tag::parse));
        assert_eq!(tagged("app-1a2b").unwrap(), parts("app-1a2b", None));
        assert_eq!(tagged("app-1a2b@v1.2_x-y").unwrap(), parts("app-1a2b", Some("v1.2_x-y")));
        assert_eq!(tagged("./a@b@c").unwrap(), parts("./a@b", Some("c")));
        for path in ["/src/a@b/", "/src/a@b/c", "@", "a@", "@a", "a@-b", "a@b c", "a@\u{e4}"] {
            assert_eq!(tagged(path).unwrap(), parts(path, None));
        }
        for wrong in ["app-1a2b@", "app-1a2b@-", "app-1a2b@a/b", &format!("app-1a2b@{}", "a".repeat(65))] {
            assert!(tagged(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_value_may_hold_an_equals_sign() {
        assert_eq!(assignment(OsStr::new("A=b=c")), ("A".into(), Some("b=c".into())));
        assert_eq!(assignment(OsStr::new("A=")), ("A".into(), Some("".into())));
        assert_eq!(assignment(OsStr::new("A")), ("A".into(), None));
    }
}
