//! `llima-box list`: the environments as a table.

use std::io::{IsTerminal, Write};

use anyhow::Context;
use lbx::Place;
use lbx::cli::Common;
use lbx::failure::{Result, say, status};
use lbx::step;
use rustix::termios::tcgetwinsize;

use crate::listing::{self, Environment};
use crate::table::{self, Cell, Column};
use crate::{TOOL, human};

const COLUMNS: [Column; 6] = [
    Column { title: "NAME", right: false, shrinks: false },
    Column { title: "STATE", right: false, shrinks: false },
    Column { title: "PATH", right: false, shrinks: true },
    Column { title: "PROCESSES", right: true, shrinks: false },
    Column { title: "MEMORY", right: true, shrinks: false },
    Column { title: "LAST USE", right: false, shrinks: false },
];
/// A further column, where one was made from another.
const FROM: Column = Column { title: "FROM", right: false, shrinks: false };

/// Prints the table; with `json`, what `lbx-ls` prints.
pub(crate) fn run(json: bool, common: &Common) -> Result<u8> {
    let words = common.words(&Place::resolve(common.on.as_ref())?);
    if json {
        let mut command = step::sibling("lbx-ls")?;
        command.args(words);
        match step::replace(command)? {}
    }
    let environments = match listing::environments(words)? {
        Ok(environments) => environments,
        Err(status) => return Ok(status),
    };
    if environments.is_empty() {
        if !common.quiet {
            say(&format!("{0}: no environments\nhint: {0} shell makes one for the project around you\n", TOOL.name));
        }
        return Ok(status::DONE);
    }
    let stdout = std::io::stdout();
    let width = tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
    let colour = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let now = jiff::Timestamp::now();
    let text = match environments.iter().any(|environment| environment.from.is_some()) {
        false => {
            let rows = environments.iter().map(|environment| row(environment, now)).collect();
            table::layout(&COLUMNS, rows, width, colour)
        }
        true => {
            let [name, state, path, processes, memory, last_use] = COLUMNS;
            let columns = [name, state, FROM, path, processes, memory, last_use];
            let row = |environment| {
                let [name, state, path, processes, memory, last_use] = row(environment, now);
                [name, state, origin(environment), path, processes, memory, last_use]
            };
            table::layout(&columns, environments.iter().map(row).collect(), width, colour)
        }
    };
    stdout.lock().write_all(text.as_bytes()).context("cannot write to stdout")?;
    if !common.quiet {
        for Environment { name, error, .. } in &environments {
            if let Some(error) = error {
                say(&format!("{}: {name} is broken: {}\n", TOOL.name, lbx::failure::printable(error)));
            }
        }
    }
    Ok(status::DONE)
}

fn row(environment: &Environment, now: jiff::Timestamp) -> [Cell; 6] {
    let running = environment.state == "running";
    // nobody asks for the zeros of one that is stopped
    let live = |value: Option<String>| value.filter(|_| running).unwrap_or_else(|| "-".to_owned()).into();
    let state = Cell {
        text: environment.state.clone(),
        colour: match environment.state.as_str() {
            "running" => Some("32"),
            "broken" => Some("31"),
            _ => None,
        },
    };
    let last_used = environment.last_used.as_ref().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    let age = last_used.map(|time| u64::try_from(now.as_second() - time.as_second()).unwrap_or(0));
    [
        environment.name.clone().into(),
        state,
        environment.path.clone().unwrap_or_else(|| "-".to_owned()).into(),
        live(environment.procs.map(|procs| procs.to_string())),
        live(environment.memory_bytes.map(human::size)),
        age.map_or_else(|| "never".to_owned(), human::ago).into(),
    ]
}

/// What `environment` was forked from.
fn origin(environment: &Environment) -> Cell {
    environment.from.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_tells_what_it_is_from() {
        let of = |text: &str| origin(&serde_json::from_str(text).unwrap()).text;
        assert_eq!(of(r#"{"name":"a-1a2b","state":"stopped"}"#), "-");
        assert_eq!(of(r#"{"name":"a-1-1a2b","state":"stopped","from":{"name":"a-1a2b"}}"#), "a-1a2b");
        assert_eq!(of(r#"{"name":"a-1-1a2b","state":"stopped","from":{"name":"a-1a2b","tag":"v1"}}"#), "a-1a2b@v1");
    }

    #[test]
    fn a_row_tells_what_is_known() {
        let texts = |environment| row(&environment, jiff::Timestamp::from_second(7200).unwrap()).map(|cell| cell.text);
        let running = Environment {
            name: "a-1a2b".into(),
            state: "running".into(),
            path: Some("/a".into()),
            procs: Some(3),
            memory_bytes: Some(3 << 20),
            last_used: Some("1970-01-01T01:00:00Z".into()),
            ..Environment::default()
        };
        assert_eq!(texts(running.clone()), ["a-1a2b", "running", "/a", "3", "3.0 MiB", "1 hour ago"]);
        let stopped = Environment { state: "stopped".into(), procs: Some(0), ..running };
        assert_eq!(texts(stopped), ["a-1a2b", "stopped", "/a", "-", "-", "1 hour ago"]);
        let broken = Environment { name: "a-1a2b".into(), state: "broken".into(), ..Environment::default() };
        assert_eq!(texts(broken), ["a-1a2b", "broken", "-", "-", "-", "never"]);
    }
}
