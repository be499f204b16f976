//! The name of an environment: a pure function of its project's path (DESCRIPTION of lbx-name(1)).

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::{Failure, Result, status};

/// Longest word in front of the digits, in bytes: with `-` and four digits an account's 32.
const WORD_MAX: usize = 27;

/// The name of an environment, and of its account: at most 32 bytes, matching
/// `^[a-z][a-z0-9-]*-[0-9a-f]{4}$`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The default name of the project at `path`, which is canonical and absolute.
    ///
    /// # Errors
    /// `/` has no name: a usage error.
    pub fn of(path: &Path) -> Result<Name> {
        let Some(base) = path.file_name() else {
            return Err(Failure::new(format!("'{}' has no name: it is not a project", path.display()))
                .status(status::USAGE)
                .into());
        };
        Ok(Name::with_word(base, path))
    }

    /// The name of the project at `path` with `word` in place of its basename (`--name`).
    pub fn with_word(word: &OsStr, path: &Path) -> Name {
        Name::of_word(slug(word.as_bytes()), path)
    }

    /// `word`, which has the form of one, in front of the digits of `path`.
    fn of_word(word: String, path: &Path) -> Name {
        let mut name = word;
        name.push('-');
        name.extend(digits(path).map(char::from));
        Name(name)
    }

    /// As [`Name::with_word`], with `-` and `number` behind the word, which is cut so that they survive.
    pub fn numbered(word: &OsStr, number: u32, path: &Path) -> Name {
        let (word, number) = (slug(word.as_bytes()), format!("-{number}"));
        let word = word[..word.len().min(WORD_MAX - number.len())].trim_end_matches('-');
        Name::of_word(format!("{word}{number}"), path)
    }

    /// `text` as a name, when it has the form of one.
    pub fn parse(text: &OsStr) -> Option<Name> {
        let text = text.to_str()?;
        let (word, hex) = text.rsplit_once('-')?;
        let valid = text.len() <= WORD_MAX + 5
            && word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && hex.len() == 4
            && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        valid.then(|| Name(text.to_owned()))
    }

    /// Whether this can be the name of the project at `path`: the digits agree.
    pub fn fits(&self, path: &Path) -> bool {
        self.0.as_bytes().ends_with(&digits(path))
    }

    /// The word: all in front of the digits.
    pub fn word(&self) -> &str {
        self.0.rsplit_once('-').map_or(self.as_str(), |(word, _)| word)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The first four hex digits of SHA-256 over the path's bytes.
fn digits(path: &Path) -> [u8; 4] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let hash = Sha256::digest(path.as_os_str().as_bytes());
    [hash[0] >> 4, hash[0] & 0xf, hash[1] >> 4, hash[1] & 0xf].map(|digit| HEX[usize::from(digit)])
}

fn slug(word: &[u8]) -> String {
    let mut slug = String::with_capacity(word.len());
    for byte in word.iter().map(u8::to_ascii_lowercase) {
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() {
            slug.push(char::from(byte));
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    let slug = match slug.bytes().next() {
        None => "env".to_owned(),
        Some(b'a'..=b'z') => slug.to_owned(),
        Some(_) => format!("env-{slug}"),
    };
    slug[..slug.len().min(WORD_MAX)].trim_end_matches('-').to_owned()
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<Path> for Name {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Name, String> {
        Name::parse(OsStr::new(&text)).ok_or_else(|| format!("'{text}' is not an environment's name"))
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &str) -> String {
        Name::of(Path::new(path)).unwrap().to_string()
    }

    #[test]
    fn the_documented_examples_hold() {
        assert_eq!(name("/Users/alice/my-project"), "my-project-8476");
        assert_eq!(name("/Users/alice/My Cool App"), "my-cool-app-dcf1");
        assert_eq!(name("/Users/alice/@@@"), "env-7e2a");
    }

    #[test]
    fn every_name_has_the_form_of_an_account() {
        for path in ["/x/123", "/x/-a-", "/x/ÄÖÜ", "/x/a--b__c", &format!("/x/{}", "y-".repeat(127)), "/x/9"] {
            let name = name(path);
            assert_eq!(Name::parse(OsStr::new(&name)).unwrap().as_str(), name, "{path}");
            assert!(!name.contains("--"), "{name}");
        }
        assert!(name("/x/123").starts_with("env-123-"));
        let bytes = Path::new(OsStr::from_bytes(b"/x/\xff\xfe\n"));
        assert!(Name::of(bytes).unwrap().as_str().starts_with("env-"));
    }

    #[test]
    fn a_cut_word_does_not_end_in_a_dash() {
        // 26 letters, then a dash that the cut at 27 bytes would leave hanging
        let name = name("/x/abcdefghijklmnopqrstuvwxyz-more");
        assert!(name.starts_with("abcdefghijklmnopqrstuvwxyz-"), "{name}");
        assert_eq!(name.len(), 26 + 5);
    }

    #[test]
    fn a_number_survives_the_cut_and_keeps_names_apart() {
        let path = Path::new("/Users/alice/my-project");
        let name = |word: &str, number| Name::numbered(OsStr::new(word), number, path);
        assert_eq!(name("my-project", 8).as_str(), "my-project-8-8476");
        assert_eq!(name("my-project-8", 1).as_str(), "my-project-8-1-8476");
        let long = "abcdefghijklmnopqrstuvwxyz0123";
        for (number, cut) in [(1, 25), (10, 24), (u32::MAX, 16)] {
            let name = name(long, number);
            assert_eq!(name.word(), format!("{}-{number}", &long[..cut]));
            assert_eq!(name.as_str().len(), 32);
            assert_eq!(Name::parse(OsStr::new(name.as_str())), Some(name));
        }
        // a dash that the cut would leave hanging
        assert_eq!(name("abcdefghijklmnopqrstuvwx-yz", 7).word(), "abcdefghijklmnopqrstuvwx-7");
        assert_eq!(name("", 1).word(), "env-1");
    }

    #[test]
    fn the_root_has_no_name() {
        assert!(Name::of(Path::new("/")).is_err());
    }

    #[test]
    fn what_only_resembles_a_name_is_none() {
        for text in
            ["", "a", "-8476", "a-8476x", "A-8476", "a-847G", "a-84767", "1a-8476", "a_b-8476", "a-8476\n", "../a-8476"]
        {
            assert!(Name::parse(OsStr::new(text)).is_none(), "{text:?}");
        }
        assert!(Name::parse(OsStr::new(&format!("{}-8476", "a".repeat(28)))).is_none());
    }

    #[test]
    fn a_name_fits_the_path_that_it_came_from_alone() {
        let name = Name::with_word(OsStr::new("other"), Path::new("/Users/alice/my-project"));
        assert_eq!(name.as_str(), "other-8476");
        assert!(name.fits(Path::new("/Users/alice/my-project")));
        assert!(!name.fits(Path::new("/Users/alice/my-project2")));
    }
}
