//! What is written about the tools and made from them, so that it cannot lie: man pages,
//! completions, the map in CONTRIBUTING.md, the figures in README.md. `scripts/gen-docs` writes it; a test compares it with
//! what is committed.

mod completion;
pub mod figures;
mod man;
mod map;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Arg, Command, CommandFactory};

/// The command line of every tool.
pub fn tools() -> Vec<Command> {
    let mut tools = [
        lbx_name::Cli::command(),
        lbx_env::Cli::command(),
        lbx_enter::Cli::command(),
        lbx_ls::Cli::command(),
        lbx_diff::Cli::command(),
        lbx_apply::Cli::command(),
        lbx_discard::Cli::command(),
        lbx_on::Cli::command(),
        lbx_probe::Cli::command(),
        lbx_snap::Cli::command(),
        lbx_vm::Cli::command(),
        llima_box::Cli::command(),
    ];
    tools.iter_mut().for_each(Command::build);
    tools.into()
}

/// Every generated file: its path below [`crate::repository`], and its text.
///
/// # Errors
/// A hand-written tail of a page cannot be read; an option whose value no completion knows.
pub fn generated() -> Result<Vec<(PathBuf, String)>> {
    let tools = tools();
    let mut files = Vec::new();
    for tool in &tools {
        files.push((PathBuf::from(format!("man/{}.1", tool.get_name())), man::page(tool)?));
    }
    files.extend(completion::scripts(&tools)?);
    files.push(map::contributing()?);
    files.push(figures::readme()?);
    Ok(files)
}

/// The verbs of `tool` that its own command line defines.
pub fn verbs(tool: &Command) -> impl Iterator<Item = &Command> {
    tool.get_subcommands().filter(|verb| !verb.is_hide_set())
}

/// The options and operands of `command` that a person sees.
pub fn arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !arg.is_hide_set())
}

/// What stands for the value of `arg`: `PATH`.
fn value_name(arg: &Arg) -> &str {
    arg.get_value_names().and_then(|names| names.first()).map_or(arg.get_id().as_str(), |name| name.as_str())
}

/// Whether `arg` wants a value, and whether it may do without.
fn value_range(arg: &Arg) -> clap::builder::ValueRange {
    arg.get_num_args().unwrap_or_default()
}

/// Whether `arg` is one that all tools share: it is described once in a page.
fn is_common(arg: &Arg) -> bool {
    matches!(arg.get_id().as_str(), "on" | "quiet" | "verbose" | "help" | "version" | "dry_run")
}
