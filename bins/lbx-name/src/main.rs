//! Prints the environment name of each path.

use std::ffi::{OsStr, OsString};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use lbx::failure::{Failure, Result, Tool, fail, status};
use lbx::step::{self, Call};
use lbx::{Name, Place, operand, path};
use lbx_name::Cli;

const TOOL: Tool = Tool::new("lbx-name");

fn main() -> ExitCode {
    TOOL.run(run)
}

fn run() -> Result<u8> {
    let cli: Cli = lbx::cli::parse()?;
    let place = Place::resolve(cli.common.on.as_ref())?;
    // a name is pure, and the paths of a VM are this machine's: only ssh has files of its own
    if let Place::Ssh(_) = place {
        match step::to_place(&place, TOOL.name, far(cli, &place)?)? {}
    }
    let paths = match cli.paths.is_empty() {
        true => vec![OsString::from(".")],
        false => operand::expand(cli.paths, cli.null)?,
    };
    let end = if cli.null { b'\0' } else { b'\n' };
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut status = status::DONE;
    for path in &paths {
        match name(Path::new(path), cli.name.as_deref()) {
            Ok(name) => print(&mut out, &name, end).context("cannot write to stdout")?,
            Err(error) => status = status.max(TOOL.report(&error)),
        }
    }
    out.flush().context("cannot write to stdout")?;
    Ok(status)
}

fn name(path: &Path, word: Option<&OsStr>) -> Result<Name> {
    let path = path::canonical(path)?;
    let name = Name::of(&path)?;
    Ok(word.map_or(name, |word| Name::with_word(word, &path)))
}

fn print(out: &mut impl Write, name: &Name, end: u8) -> std::io::Result<()> {
    out.write_all(name.as_str().as_bytes())?;
    out.write_all(&[end])
}

/// The same call for the machine that has the paths: there they are absolute, and none is meant
/// by leaving it out.
fn far(cli: Cli, place: &Place) -> Result<Call> {
    if cli.paths.is_empty() {
        return fail(Failure::new(format!("no path given: the files of '{place}' are its own")).status(status::USAGE));
    }
    for path in cli.paths.iter().filter(|path| *path != "-") {
        place.path(Path::new(path))?;
    }
    let mut words = cli.common.words(&Place::Local);
    if cli.null {
        words.push("--null".into());
    }
    if let Some(name) = cli.name {
        let mut word = OsString::from("--name=");
        word.push(name);
        words.push(word);
    }
    words.push("--".into());
    words.extend(cli.paths);
    Ok(Call { words, vars: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn words(words: &[&str]) -> Result<Vec<OsString>> {
        let cli = Cli::try_parse_from([&["lbx-name"], words].concat())?;
        Ok(far(cli, &Place::Ssh("host".into()))?.words)
    }

    #[test]
    fn a_call_is_the_same_at_its_place() {
        let expected = ["--on", "local", "--null", "--name=-x", "--", "/a b", "/-"];
        assert_eq!(words(&["-0", "--name=-x", "/a b", "/-"]).unwrap(), expected);
        assert_eq!(words(&["-"]).unwrap(), ["--on", "local", "--", "-"]);
    }

    #[test]
    fn behind_ssh_a_path_is_named_and_absolute() {
        assert!(words(&[]).is_err());
        assert!(words(&["/a", "b"]).is_err());
    }

    #[test]
    fn a_word_replaces_the_last_component_alone() {
        let path = Path::new("/x/app");
        let default = name(path, None).unwrap();
        let named = name(path, Some("My Word".as_ref())).unwrap();
        assert_eq!(named.as_str(), default.as_str().replace("app-", "my-word-"));
        assert!(name(Path::new("/"), Some("word".as_ref())).is_err());
    }
}
