//! `llima-box delete` and `delete-all`: tell what goes, ask, then `lbx-env delete`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lbx::cli::Common;
use lbx::failure::{Failure, Result, fail, printable, status};
use lbx::step::{self, Call};
use lbx::{Name, Place, cli, operand, path, record};
use llima_box::Consent;

use crate::listing::{self, Environment};
use crate::{TOOL, human};

/// Deletes the environments that `operands` mean.
pub(crate) fn some(operands: Vec<OsString>, null: bool, consent: Consent, common: &Common) -> Result<u8> {
    let place = Place::resolve(common.on.as_ref())?;
    let operands: Vec<OsString> =
        operand::expand(operands, null)?.iter().map(|operand| absolute(operand, &place)).collect();
    if operands.is_empty() {
        return Ok(status::DONE);
    }
    may_ask(consent)?;
    step_over(&place, consent, words("delete", consent, common, &operands))?;
    let mut status = status::DONE;
    let mut names: Vec<Name> = Vec::new();
    for operand in &operands {
        match if consent.force { record::find(operand) } else { record::require(operand).map(Some) } {
            Ok(name) => names.extend(name),
            Err(error) => status = status.max(TOOL.report(&error)),
        }
    }
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Ok(status);
    }
    let names: Vec<OsString> = names.iter().map(|name| name.as_str().into()).collect();
    if !consent.given() {
        let environments = match described(&names)? {
            Ok(environments) => environments,
            Err(status) => return Ok(status),
        };
        let question = match environments.as_slice() {
            [one] => format!("Delete {}?", one.name),
            all => format!("Delete these {}?", human::count(all.len() as u64, "environment")),
        };
        let sizes = home_sizes(&environments);
        let told: String = environments.iter().map(|environment| told(environment, &sizes)).collect();
        if !cli::agreed(&format!("{told}{question}"))? {
            return Ok(status::FAILED);
        }
    }
    Ok(status.max(delete(&names, consent, common)?))
}

/// Deletes all environments.
pub(crate) fn all(consent: Consent, common: &Common) -> Result<u8> {
    let place = Place::resolve(common.on.as_ref())?;
    let environments = match listing::environments(common.words(&place))? {
        Ok(environments) if !environments.is_empty() => environments,
        Ok(_) => return Ok(status::DONE),
        Err(status) => return Ok(status),
    };
    may_ask(consent)?;
    step_over(&place, consent, words("delete-all", consent, common, &[]))?;
    if !consent.given() {
        let sizes = home_sizes(&environments);
        let question = format!("Delete all {}?", human::count(environments.len() as u64, "environment"));
        if !cli::agreed(&format!("{}{question}", told_of_all(&environments, &sizes)))? {
            return Ok(status::FAILED);
        }
    }
    let names: Vec<OsString> = environments.iter().map(|environment| OsString::from(&environment.name)).collect();
    delete(&names, consent, common)
}

/// Fails where the question could reach nobody.
fn may_ask(consent: Consent) -> Result<()> {
    if consent.given() || cli::can_ask() {
        return Ok(());
    }
    fail(Failure::new("will not delete without asking, and this is no terminal").hint("-y"))
}

/// An operand as `place` knows it; one that cannot be resolved is refused there.
fn absolute(operand: &OsStr, place: &Place) -> OsString {
    match place {
        _ if Name::parse(operand).is_some() => operand.to_owned(),
        Place::Ssh(_) => operand.to_owned(),
        _ => path::canonical(Path::new(operand)).map_or_else(|_| operand.to_owned(), PathBuf::into_os_string),
    }
}

/// Goes on where the environments are; as root, when there is a question to ask: homes are their
/// environments' alone.
fn step_over(place: &Place, consent: Consent, words: Vec<OsString>) -> Result<()> {
    match place {
        Place::Local if consent.given() => Ok(()),
        Place::Local => step::to_root(|| Ok(Call { words, vars: Vec::new() }), false),
        _ => match step::to_place(place, TOOL.name, Call { words, vars: Vec::new() })? {},
    }
}

fn words(verb: &str, consent: Consent, common: &Common, operands: &[OsString]) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![verb.into()];
    words.extend(common.words(&Place::Local));
    for (given, word) in [(consent.yes, "--yes"), (consent.force, "--force")] {
        if given {
            words.push(word.into());
        }
    }
    words.push("--".into());
    words.extend(operands.iter().cloned());
    words
}

/// What `lbx-ls` tells of `names`.
fn described(names: &[OsString]) -> Result<listing::Outcome<Vec<Environment>>> {
    let mut words: Vec<OsString> = vec!["--on".into(), "local".into(), "--".into()];
    words.extend(names.iter().cloned());
    listing::environments(words)
}

fn delete(names: &[OsString], consent: Consent, common: &Common) -> Result<u8> {
    let mut command = step::sibling("lbx-env")?;
    command.arg("delete").args(common.words(&Place::Local));
    if consent.force {
        command.arg("--force");
    }
    command.arg("--").args(names);
    listing::run(command)
}

fn told(environment: &Environment, sizes: &HashMap<PathBuf, u64>) -> String {
    let home = home(environment);
    let size = sizes.get(&home).map_or_else(|| "of unknown size".to_owned(), |bytes| human::size(*bytes));
    let procs = environment.procs.map(|procs| format!(", {}", human::count(procs, "process"))).unwrap_or_default();
    let path = environment.path.as_deref().unwrap_or("its project");
    format!(
        "{}\n  goes:  {} ({size}){procs}\n  stays: {}\n",
        printable(&environment.name),
        home.display(),
        printable(path)
    )
}

fn told_of_all(environments: &[Environment], sizes: &HashMap<PathBuf, u64>) -> String {
    let procs = environments.iter().filter_map(|environment| environment.procs).sum();
    format!(
        "goes:  {} ({}), {}\nstays: every project\n",
        human::count(environments.len() as u64, "home"),
        human::size(sizes.values().sum()),
        human::count(procs, "process")
    )
}

fn home(environment: &Environment) -> PathBuf {
    let default = || Path::new("/home").join(&environment.name);
    environment.home.clone().unwrap_or_else(default)
}

/// How much each home holds, as far as that can be told.
fn home_sizes(environments: &[Environment]) -> HashMap<PathBuf, u64> {
    let mut du = Command::new("du");
    du.arg("-skx").arg("--").args(environments.iter().map(home));
    // with nothing of the caller's: this may run as root
    du.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).stderr(Stdio::null());
    step::trace(&du);
    du.output().map(|output| sizes(&output.stdout)).unwrap_or_default()
}

fn sizes(text: &[u8]) -> HashMap<PathBuf, u64> {
    let line = |line: &str| {
        let (size, path) = line.split_once('\t')?;
        Some((PathBuf::from(path), size.parse::<u64>().ok()? * 1024))
    };
    String::from_utf8_lossy(text).lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment {
            name: "app-1a2b".into(),
            path: Some("/src/a\u{1b}pp".into()),
            procs: Some(1),
            ..Environment::default()
        }
    }

    #[test]
    fn the_question_tells_what_goes_and_what_stays() {
        let sizes = sizes(b"2048\t/home/app-1a2b\n");
        let text = told(&environment(), &sizes);
        assert_eq!(text, "app-1a2b\n  goes:  /home/app-1a2b (2.0 MiB), 1 process\n  stays: /src/a\\u{1b}pp\n");
        let two = [environment(), Environment { name: "b-1a2b".into(), procs: None, ..environment() }];
        assert_eq!(told_of_all(&two, &sizes), "goes:  2 homes (2.0 MiB), 1 process\nstays: every project\n");
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let broken = Environment { name: "app-1a2b".into(), ..Environment::default() };
        let text = told(&broken, &HashMap::new());
        assert_eq!(text, "app-1a2b\n  goes:  /home/app-1a2b (of unknown size)\n  stays: its project\n");
    }
}
