//! The environments of this machine, from their records and from what the kernel shows everybody.

mod environment;
mod live;
mod store;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lbx::failure::{Result, status};
use lbx::{Name, Place, operand, path, record};
use lbx_ls::{Cli, State};

use crate::TOOL;
use environment::Environment;
use live::Machine;
use store::{Buffer, Store};

/// Prints the environments that `cli` asks for.
pub(crate) fn list(cli: Cli) -> Result<u8> {
    let filter = Filter::new(&cli)?;
    let mut status = status::DONE;
    let names = match cli.envs.is_empty() {
        true => record::names()?,
        false => {
            let mut names = Vec::new();
            for env in operand::expand(cli.envs, cli.null)? {
                match record::require(&env) {
                    Ok(name) => names.push(name),
                    Err(error) => status = status.max(TOOL.report(&error)),
                }
            }
            names.sort_unstable();
            names.dedup();
            names
        }
    };
    let listing = Listing {
        filter,
        place: Place::called().unwrap_or(Place::Local).to_string(),
        names_end: cli.names.then_some(if cli.null { b'\0' } else { b'\n' }),
    };
    let mut out = std::io::stdout().lock();
    listing.print(&names, &mut out)?;
    out.flush().context(CANNOT_WRITE)?;
    Ok(status)
}

const CANNOT_WRITE: &str = "cannot write to stdout";
/// The length of a line.
const USUAL: usize = 512;
/// As many environments are worth a thread of their own.
const SHARE: usize = 500;

/// What is printed, and how.
struct Listing {
    filter: Filter,
    place: String,
    names_end: Option<u8>,
}

impl Listing {
    fn print(&self, names: &[Name], out: &mut impl Write) -> Result<()> {
        let machine = match (self.names_end, names) {
            (_, []) => return Ok(()),
            (Some(end), _) if self.filter.admits_all() => {
                return out.write_all(&ended(names, end)).context(CANNOT_WRITE);
            }
            _ => Machine::look()?,
        };
        // each record costs system calls and parsing, which processors do side by side
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = names.len().div_ceil(threads).max(SHARE);
        if names.len() <= share {
            return out.write_all(&self.text(names, &machine)?).context(CANNOT_WRITE);
        }
        std::thread::scope(|scope| {
            let machine = &machine;
            let start = |names| std::thread::Builder::new().spawn_scoped(scope, move || self.text(names, machine));
            let shares: Vec<_> = names.chunks(share).map(|names| (names, start(names))).collect();
            for (names, thread) in shares {
                let text = match thread {
                    Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    // no more threads can be had
                    Err(_) => self.text(names, machine),
                };
                out.write_all(&text?).context(CANNOT_WRITE)?;
            }
            Ok(())
        })
    }

    /// What is printed of `names`.
    fn text(&self, names: &[Name], machine: &Machine) -> Result<Vec<u8>> {
        let store = Store::open()?;
        let mut buffer = Buffer::new();
        let mut text = Vec::with_capacity(names.len() * USUAL);
        for name in names {
            // one that is gone by now was deleted since its name was read
            let Some(environment) = Environment::read(name, &store, &mut buffer, machine) else { continue };
            match self.names_end {
                _ if !self.filter.admits(&environment) => {}
                Some(end) => text.extend(ended(std::slice::from_ref(name), end)),
                None => record::add_json_line(&mut text, &environment.line(&store, machine, &self.place))?,
            }
        }
        Ok(text)
    }
}

/// `names`, each with `end` behind it.
fn ended(names: &[Name], end: u8) -> Vec<u8> {
    names.iter().flat_map(|name| name.as_str().bytes().chain([end])).collect()
}

/// Which environments are asked for; every part must agree.
struct Filter {
    states: Vec<State>,
    labels: Vec<(String, Option<String>)>,
    containing: Option<PathBuf>,
}

impl Filter {
    fn new(cli: &Cli) -> Result<Filter> {
        let label = |text: &String| match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (text.clone(), None),
        };
        Ok(Filter {
            states: cli.state.clone(),
            labels: cli.label.iter().map(label).collect(),
            containing: cli.containing.as_deref().map(path::canonical).transpose()?,
        })
    }

    fn admits_all(&self) -> bool {
        self.states.is_empty() && self.labels.is_empty() && self.containing.is_none()
    }

    fn admits(&self, environment: &Environment) -> bool {
        (self.states.is_empty() || self.states.contains(&environment.state))
            && self.labels.iter().all(|(key, value)| has_label(environment, key, value.as_deref()))
            && self.containing.as_deref().is_none_or(|path| holds(environment, path))
    }
}

fn has_label(environment: &Environment, key: &str, value: Option<&str>) -> bool {
    let found = environment.label(key);
    found.is_some() && (value.is_none() || found == value)
}

fn holds(environment: &Environment, path: &Path) -> bool {
    environment.project().is_some_and(|project| path.starts_with(&project))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use environment::tests::{broken, stopped};

    fn filter(words: &[&str]) -> Filter {
        Filter::new(&Cli::try_parse_from([&["lbx-ls"], words].concat()).unwrap()).unwrap()
    }

    #[test]
    fn every_part_of_a_filter_must_agree() {
        let name = Name::of(Path::new("/p/a")).unwrap();
        let environment = stopped(&name, "/p/a", &[("team", "web"), ("empty", "")]);
        for words in [
            &[][..],
            &["--state=stopped"],
            &["--state=running", "--state=stopped"],
            &["--label=team"],
            &["--label=team=web", "--label=empty="],
            &["--containing=/p/a"],
            &["--containing=/p/a/b/c", "--state=stopped", "--label=empty"],
        ] {
            assert!(filter(words).admits(&environment), "{words:?}");
        }
        for words in [
            &["--state=running"][..],
            &["--label=team=we"],
            &["--label=team="],
            &["--label=te"],
            &["--label=team", "--label=other"],
            &["--containing=/p"],
            &["--containing=/p/ab"],
            &["--state=stopped", "--label=x"],
        ] {
            assert!(!filter(words).admits(&environment), "{words:?}");
        }
    }

    #[test]
    fn a_broken_environment_is_found_by_the_path_that_is_left() {
        let name = Name::of(Path::new("/p/a")).unwrap();
        let environment = broken(&name, r#"{"path":"/p/a"}"#);
        assert!(filter(&["--state=broken", "--containing=/p/a/b"]).admits(&environment));
        assert!(!filter(&["--label=a"]).admits(&environment));
        assert!(!filter(&["--containing=/p/a"]).admits(&broken(&name, "")));
    }

    #[test]
    fn names_end_as_asked() {
        let names = ["/p/a", "/p/b"].map(|path| Name::of(Path::new(path)).unwrap());
        assert_eq!(ended(&names, b'\0'), format!("{}\0{}\0", names[0], names[1]).into_bytes());
    }
}
