//! Gives every project directory an environment of its own: runs `lbx-VERB`, and composes the
//! tools for a person.

mod delete;
mod human;
mod list;
mod listing;
mod project;
mod shell;
mod table;
mod verbs;

use std::process::ExitCode;

use clap::CommandFactory;
use lbx::failure::{Result, Tool, say, status};
use llima_box::{Cli, Verb};

const TOOL: Tool = Tool::new("llima-box");
/// `shell` runs a command, whose status is told apart from its own.
const SHELL: Tool = Tool::wrapper("llima-box");

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(verb) if verb == "shell" => SHELL.run(run),
        Some(_) => TOOL.run(run),
        None => {
            say(&Cli::command().render_help().to_string());
            ExitCode::from(status::USAGE)
        }
    }
}

fn run() -> Result<u8> {
    match lbx::cli::parse::<Cli>()?.verb {
        Verb::Shell(shell) => shell::run(*shell),
        Verb::List { json, common } => list::run(json, &common),
        Verb::Delete { consent, null, envs, common } => delete::some(envs, null, consent, &common),
        Verb::DeleteAll { consent, common } => delete::all(consent, &common),
        Verb::Help { verb } => verbs::help(verb),
        Verb::External(words) => verbs::run(&words),
    }
}
