//! What hostile names, records and words do to what reads them: nothing. The inputs come from a seed
//! each, which a failure names; LBX_FUZZ_TIMES multiplies their number.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use lbx::Name;
use lbx::record::Record;
use lbx_tests::{Place, docs, only_at, place};

/// xorshift64: the same numbers for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn of(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn one_of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// Calls `check` with each of `count` seeds.
fn with_seeds(count: u64, check: impl Fn(&mut Random, u64)) {
    if !only_at(&[Place::Local], "it is read alike everywhere") {
        return;
    }
    let times = std::env::var("LBX_FUZZ_TIMES").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for seed in 0..count * times {
        check(&mut Random::of(seed), seed);
    }
}

/// Bytes that have been trouble: for shells, terminals, JSON, names, and whoever takes them for UTF-8.
const TROUBLE: [&[u8]; 24] = [
    b"a",
    b"Z",
    b"0",
    b"-",
    b"--",
    b".",
    b"..",
    b" ",
    b"'",
    b"\"",
    b"$(x)",
    b";",
    b"\n",
    b"\r",
    b"\x1b[31m",
    b"\x7f",
    b"\xc3\xa4",
    b"\xc2\x9b",
    b"\xff",
    b"\xed\xa0\x80",
    b"=",
    b":",
    b"%",
    b"env",
];

/// A component of a path: what a file system lets through, up to 255 bytes.
fn component(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    let most = if random.below(50) == 0 { 300 } else { 12 };
    for _ in 0..1 + random.below(most) {
        match random.below(4) {
            0 => bytes.push(b"abcxyz019-_"[random.below(11)]),
            1 => bytes.push(random.below(256) as u8),
            _ => bytes.extend_from_slice(random.one_of(&TROUBLE)),
        }
    }
    bytes.retain(|byte| !matches!(byte, 0 | b'/'));
    bytes.truncate(255);
    if bytes.iter().all(|byte| *byte == b'.') { b"dots".to_vec() } else { bytes }
}

fn path(random: &mut Random) -> PathBuf {
    let mut bytes = Vec::new();
    for _ in 0..1 + random.below(4) {
        bytes.push(b'/');
        bytes.extend(component(random));
    }
    OsString::from_vec(bytes).into()
}

/// The word of a name, as lbx-name(1) says it, step by step over text.
fn word(base: &[u8]) -> String {
    let letters: String = base
        .iter()
        .map(|byte| char::from(byte.to_ascii_lowercase()))
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { ' ' })
        .collect();
    let joined = letters.split_whitespace().collect::<Vec<_>>().join("-");
    let named = match joined.chars().next() {
        None => "env".to_owned(),
        Some(first) if first.is_ascii_digit() => format!("env-{joined}"),
        Some(_) => joined,
    };
    named.chars().take(27).collect::<String>().trim_end_matches('-').to_owned()
}

#[test]
fn every_path_has_the_one_name_that_the_page_says() {
    with_seeds(100_000, |random, seed| {
        let path = path(random);
        let name = Name::of(&path).unwrap();
        let (word_part, digits) = name.as_str().rsplit_once('-').unwrap();
        assert_eq!(word_part, word(path.file_name().unwrap().as_bytes()), "seed {seed}: {path:?}");
        assert!(digits.len() == 4 && name.as_str().len() <= 32 && name.fits(&path), "seed {seed}: {name}");
        assert_eq!(Name::parse(OsStr::new(name.as_str())), Some(name.clone()), "seed {seed}");
        // what is no name never becomes one
        let bytes = component(random);
        if let Some(parsed) = Name::parse(OsStr::from_bytes(&bytes)) {
            assert_eq!(parsed.as_str().as_bytes(), bytes, "seed {seed}");
            assert!(bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-'), "seed {seed}");
        }
    });
}

#[test]
fn a_damaged_record_is_refused_or_says_what_a_record_may_say() {
    let good = |path: &Path, name: &Name| {
        serde_json::json!({
            "schema": 1, "name": name.as_str(), "path": path.to_string_lossy(), "uid": 65536, "gid": 65536,
            "home": format!("/home/{name}"), "shell": "/bin/bash", "created": "2024-01-01T00:00:00Z",
            "ownership": "idmap", "owner": {"uid": 1000, "gid": 1000, "device": 1}, "creator": 1000,
            "options": {"ro": ["/srv"], "rw": [], "private": ["target"], "net": "shared", "nest": false, "git": {}},
            "labels": {"a": "b"},
        })
        .to_string()
    };
    let read = std::cell::Cell::new(0);
    with_seeds(100_000, |random, seed| {
        let path = PathBuf::from(format!("/home/p{}", random.below(5)));
        let name = Name::of(&path).unwrap();
        let mut text = good(&path, &name).into_bytes();
        for _ in 0..random.below(4) {
            let at = random.below(text.len().max(1));
            match random.below(5) {
                0 => text.truncate(at),
                1 => text.insert(at, random.below(256) as u8),
                2 => drop(text.drain(at..(at + random.below(16)).min(text.len()))),
                3 => drop(text.splice(at..at, random.one_of(&TROUBLE).to_vec())),
                _ => text.iter_mut().skip(at).take(1).for_each(|byte| *byte = b"0159\"{}[],:-etn"[random.below(15)]),
            }
        }
        if let Ok(record) = Record::parse(&text, &name) {
            read.set(read.get() + 1);
            let project = record.project();
            assert!(record.name == name && name.fits(&project) && project.is_absolute(), "seed {seed}");
            assert_eq!(record.home, Path::new("/home").join(&name), "seed {seed}");
            assert!(lbx::record::IDS.contains(&record.uid) || record.uid == record.owner.uid, "seed {seed}");
            assert!(record.uid != 0 && record.gid != 0, "seed {seed}");
        }
    });
    assert!(read.get() > 10_000 || place() != Place::Local, "the undamaged ones are read: {}", read.get());
}

#[test]
fn no_words_make_a_command_line_panic() {
    let commands = docs::tools();
    with_seeds(20_000, |random, seed| {
        let command = &commands[random.below(commands.len())];
        let known: Vec<String> = command
            .get_subcommands()
            .map(|verb| verb.get_name().to_owned())
            .chain(command.get_arguments().filter_map(|arg| Some(format!("--{}", arg.get_long()?))))
            .collect();
        let mut words = vec![OsString::from(command.get_name())];
        for _ in 0..random.below(6) {
            words.push(match random.below(3) {
                0 if !known.is_empty() => known[random.below(known.len())].clone().into(),
                1 => OsStr::from_bytes(random.one_of(&TROUBLE)).to_owned(),
                _ => OsString::from_vec(component(random)),
            });
        }
        // help and versions are errors of its kind, too
        if let Err(error) = command.clone().try_get_matches_from(&words) {
            assert!(!error.to_string().is_empty(), "seed {seed}: {words:?}");
        }
    });
}
