//! Saves, lists, restores and deletes snapshots: `lbx-env` does it, and stops and starts what runs.

use std::ffi::OsString;
use std::process::ExitCode;

use lbx::failure::{Failure, Result, Tool, fail, status};
use lbx::snapshot::Tag;
use lbx::step::{self, Call};
use lbx::{Place, cli, operand};
use lbx_snap::{Cli, Verb};

#[cfg(target_os = "linux")]
mod local;
#[cfg(not(target_os = "linux"))]
mod local {
    pub(crate) fn run(_: &lbx_snap::Cli) -> lbx::Result<u8> {
        lbx::failure::fail(lbx::Failure::new("place 'local' needs Linux").hint("--on lima works on this system"))
    }
}

const TOOL: Tool = Tool::new("lbx-snap");

fn main() -> ExitCode {
    TOOL.run(|| {
        let mut cli: Cli = cli::parse()?;
        let place = Place::resolve(cli.common.on.as_ref())?;
        if let Verb::Delete { tags, .. } = &mut cli.verb {
            *tags = operand::expand(std::mem::take(tags), false)?;
            tags.iter().try_for_each(|tag| parsed(tag).map(drop))?;
            if tags.is_empty() {
                return Ok(status::DONE);
            }
        }
        if place != Place::Local {
            match step::to_place(&place, TOOL.name, call(&cli, &place)?)? {}
        }
        if !cli.dry_run && !matches!(cli.verb, Verb::List { .. }) {
            step::to_root(|| call(&cli, &place), false)?;
        }
        local::run(&cli)
    })
}

/// `word` as a tag.
fn parsed(word: &OsString) -> Result<Tag> {
    let text = word.to_string_lossy();
    // what is no UTF-8 is no tag, with what stands for it no more than without
    text.parse().or_else(|why| fail(Failure::new(format!("invalid tag '{text}': {why}")).status(status::USAGE)))
}

/// This command line again, for the tool at `place`.
fn call(cli: &Cli, place: &Place) -> Result<Call> {
    let mut words = cli.common.words(&Place::Local);
    words.extend(cli.dry_run.then(|| "--dry-run".into()));
    let (verb, tags): (&str, Vec<OsString>) = match &cli.verb {
        Verb::Save { tag, .. } => ("save", tag.iter().map(|tag| tag.as_str().into()).collect()),
        Verb::List { .. } => ("list", Vec::new()),
        Verb::Restore { tag, .. } => ("restore", vec![tag.as_str().into()]),
        Verb::Delete { tags, .. } => ("delete", tags.clone()),
    };
    words.push(verb.into());
    if let Verb::Save { stop: true, .. } | Verb::Restore { stop: true, .. } = &cli.verb {
        words.push("--stop".into());
    }
    match &cli.verb {
        Verb::Save { keep: Some(count), .. } => words.push(format!("--keep={count}").into()),
        Verb::List { json: true, .. } => words.push("--json".into()),
        Verb::List { tags: true, .. } => words.push("--tags".into()),
        _ => {}
    }
    words.push("--".into());
    words.push(place.env(cli.verb.env())?);
    words.extend(tags);
    Ok(Call { words, vars: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn a_call_is_the_same_at_its_place() {
        let host = Place::Ssh("host".into());
        for (given, there) in [
            (&["--dry-run", "save", "/p"][..], &["--dry-run", "save", "--", "/p"][..]),
            (&["save", "--keep", "3", "--stop", "a-1a2b", "x"], &["save", "--stop", "--keep=3", "--", "a-1a2b", "x"]),
            (&["list", "--json", "a-1a2b"], &["list", "--json", "--", "a-1a2b"]),
            (&["-q", "list", "--tags", "/p"], &["--quiet", "list", "--tags", "--", "/p"]),
            (&["restore", "--stop", "/p", "x"], &["restore", "--stop", "--", "/p", "x"]),
            (&["delete", "/p", "x", "y"], &["delete", "--", "/p", "x", "y"]),
        ] {
            let words = |words: &[OsString]| {
                let words = std::iter::once("lbx-snap".into()).chain(words.iter().cloned());
                call(&Cli::try_parse_from(words).unwrap(), &host).unwrap().words
            };
            let given: Vec<OsString> = given.iter().map(Into::into).collect();
            let far = words(&given);
            assert_eq!(far[..2], ["--on", "local"]);
            assert_eq!(far[2..], *there);
            assert_eq!(words(&far), far);
        }
        assert!(call(&Cli::try_parse_from(["lbx-snap", "list", "p"]).unwrap(), &host).is_err());
    }

    #[test]
    fn what_can_be_no_tag_is_no_operand() {
        for tag in ["", "-x", ".", "..", "../x", "a/b", "a b", "a\n", "\u{1b}[2J", &"x".repeat(65)] {
            for words in [&["save", "/p", "--", tag][..], &["restore", "/p", "--", tag]] {
                assert!(Cli::try_parse_from([&["lbx-snap"], words].concat()).is_err(), "{words:?}");
            }
            assert!(parsed(&tag.into()).is_err(), "{tag:?}");
        }
        use std::os::unix::ffi::OsStringExt;
        assert!(parsed(&OsString::from_vec(b"a\xff".to_vec())).is_err());
        assert_eq!(parsed(&"v1.2_x-y".into()).unwrap().as_str(), "v1.2_x-y");
    }

    #[test]
    fn at_least_the_snapshot_itself_is_kept() {
        let parse = |keep: &str| Cli::try_parse_from(["lbx-snap", "save", "--keep", keep, "."]);
        assert!(parse("1").is_ok());
        for keep in ["0", "-1", "x", ""] {
            assert!(parse(keep).is_err(), "{keep}");
        }
    }
}
