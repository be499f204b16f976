//! Completions: one table of words, made from the command lines, and for each shell the
//! hand-written code that reads it, in `completions/sections/`.
//!
//! clap_complete's static scripts know no names of environments and nothing of `llima-box env`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Arg, Command, ValueHint};

use super::{arguments, value_name, value_range, verbs};
use crate::repository;

/// What the hand-written code has where the table belongs.
const TABLE: &str = "@TABLE@";

/// The script of each shell, for all tools.
pub(super) fn scripts(tools: &[Command]) -> Result<Vec<(PathBuf, String)>> {
    let table = table(tools)?;
    // a word in single quotes: sh ends it, writes a quote, and goes on; fish knows \'
    let scripts = [
        ("bash", "bash/llima-box", table.replace('\'', r"'\''")),
        ("zsh", "zsh/_llima-box", table.replace('\'', r"'\''")),
        ("fish", "fish/llima-box.fish", table.replace('\\', r"\\").replace('\'', r"\'")),
    ];
    let mut files = Vec::new();
    for (shell, path, table) in scripts {
        let file = repository().join(format!("completions/sections/{shell}"));
        let code = std::fs::read_to_string(&file).with_context(|| format!("cannot read '{}'", file.display()))?;
        files.push((PathBuf::from("completions").join(path), code.replace(TABLE, &table)));
    }
    Ok(files)
}

/// Lines of four fields: the words so far (`lbx-env create`), an option, a verb or an operand
/// (`@1` the first, `@*` every further one, `@--` behind `--`), what kind of value it takes, help.
fn table(tools: &[Command]) -> Result<String> {
    let mut rows = Vec::new();
    for tool in tools {
        let name = tool.get_name();
        for verb in verbs(tool) {
            rows.push([name, verb.get_name(), "verb", &about(verb)].join("|"));
            rows.extend(of_arguments(&format!("{name} {}", verb.get_name()), verb)?);
        }
        rows.extend(of_arguments(name, tool)?);
    }
    // the dispatcher's verbs that are tools; others are found on PATH
    for tool in tools.iter().filter(|tool| tool.get_name() != "llima-box") {
        let verb = tool.get_name().trim_start_matches("lbx-");
        rows.push(["llima-box", verb, "tool", &about(tool)].join("|"));
    }
    Ok(rows.join("\n"))
}

fn of_arguments(context: &str, command: &Command) -> Result<Vec<String>> {
    let mut rows = Vec::new();
    let mut position = 0;
    for arg in arguments(command) {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        if help.contains('|') || help.contains('\n') {
            bail!("help of '{}' does not fit into a table: {help}", arg.get_id());
        }
        let kind = kind(arg).with_context(|| format!("completion of '{}' in '{context}'", arg.get_id()))?;
        let mut row = |word: &str| rows.push([context, word, &kind, &help].join("|"));
        if let Some(short) = arg.get_short() {
            row(&format!("-{short}"));
        }
        if let Some(long) = arg.get_long() {
            row(&format!("--{long}"));
        }
        if arg.is_positional() {
            position += 1;
            let many = value_range(arg).max_values() > 1 || matches!(arg.get_action(), clap::ArgAction::Append);
            row(&match (arg.is_last_set(), many) {
                (true, _) => "@--".to_owned(),
                (false, true) => "@*".to_owned(),
                (false, false) => format!("@{position}"),
            });
        }
    }
    Ok(rows)
}

/// What is completed for the value of `arg`; `flag` where it takes none. `?` in front: the value may
/// be left out, and follows `=` alone.
fn kind(arg: &Arg) -> Result<String> {
    if !value_range(arg).takes_values() {
        return Ok("flag".to_owned());
    }
    let values: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let kind = match value_name(arg) {
        _ if !values.is_empty() => values.join(" "),
        // a name that is yet to be given
        _ if arg.get_value_hint() == ValueHint::Other => "@none".to_owned(),
        "yes|no" => "yes no".to_owned(),
        "ENV" | "ENV2" | "ENV|-" | "ENV[@TAG]" => "@env".to_owned(),
        "TAG" | "TAG|-" => "@tag".to_owned(),
        "PATH|-" | "DIR" => "@dir".to_owned(),
        "PATH" | "FILE" => "@file".to_owned(),
        "PLACE" => "@place".to_owned(),
        "NAME[=VALUE]" => "@variable".to_owned(),
        "COMMAND" => "@command".to_owned(),
        "VERB" => "@verb".to_owned(),
        "TOOL" => {
            "lbx-name lbx-ls lbx-env lbx-enter lbx-diff lbx-apply lbx-discard lbx-snap lbx-probe llima-box".to_owned()
        }
        "WHEN" => "auto always never".to_owned(),
        "ARG" | "WORD" | "N" | "SIZE" | "K=V" | "K[=V]" => "@none".to_owned(),
        unknown => bail!("no completion is known for {unknown}"),
    };
    Ok(if value_range(arg).min_values() == 0 && !arg.is_positional() { format!("?{kind}") } else { kind })
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}
