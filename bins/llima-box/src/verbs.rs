//! Verbs that are tools: `llima-box VERB` runs `lbx-VERB`, `llima-box help VERB` opens its page.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use clap::CommandFactory;
use lbx::failure::{Failure, Result, fail, status};
use lbx::step;
use llima_box::{Cli, TOOLS};

use crate::TOOL;

/// Where the man pages of an installation are, seen from its programs.
const MAN: [&str; 2] = ["../share/man", "../man"];
const SECTIONS: [u8; 3] = [1, 5, 7];

/// Runs the tool of the verb that `words` begin with, in this process's stead; the other words
/// are the tool's.
pub(crate) fn run(words: &[OsString]) -> Result<u8> {
    let [verb, words @ ..] = words else { return Ok(status::USAGE) };
    let mut command = tool(verb)?;
    command.args(words);
    match step::replace(command)? {}
}

/// The tool of `verb`: beside this program, else on PATH.
fn tool(verb: &OsStr) -> Result<Command> {
    let Some(word) = verb.to_str().filter(|word| !word.is_empty() && !word.contains('/')) else {
        return unknown(verb);
    };
    let name = format!("lbx-{word}");
    match (step::sibling(&name), which::which(&name)) {
        (Ok(command), _) => Ok(command),
        (_, Ok(file)) => Ok(Command::new(file)),
        (Err(missing), _) if TOOLS.contains(&word) => Err(missing),
        _ => unknown(verb),
    }
}

fn unknown<T>(verb: &OsStr) -> Result<T> {
    let word = verb.to_string_lossy();
    let failure = Failure::new(format!("unknown verb '{word}'")).status(status::USAGE);
    let known = own().into_iter().chain(TOOLS.map(str::to_owned)).chain(plug_ins());
    let known: BTreeSet<String> = known.collect();
    fail(match nearest(&word, known.iter().map(String::as_str)) {
        Some(near) => failure.hint(format!("{} {near}", TOOL.name)),
        None => failure.hint(format!("{} --help lists the verbs", TOOL.name)),
    })
}

/// The verbs that are this program's own.
fn own() -> Vec<String> {
    Cli::command().get_subcommands().map(|verb| verb.get_name().to_owned()).collect()
}

/// The verbs of all tools beside this program and on PATH.
fn plug_ins() -> Vec<String> {
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut verbs = Vec::new();
    for dir in beside.into_iter().chain(std::env::split_paths(&path)) {
        let Ok(entries) = dir.read_dir() else { continue };
        for entry in entries.flatten() {
            verbs.extend(entry.file_name().to_str().and_then(|name| name.strip_prefix("lbx-")).map(str::to_owned));
        }
    }
    verbs
}

/// The one of `words` that `word` was probably meant to be.
pub(crate) fn nearest<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |known: &str| match known.starts_with(word) && word.len() > 1 {
        true => 0,
        false => strsim::damerau_levenshtein(word, known),
    };
    words
        .map(|known| (distance(known), known))
        .filter(|(distance, known)| *distance <= 1.max(known.chars().count() / 3) && *distance < word.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Opens the man page of `verb`; without man(1), or without a page, prints the tool's help.
pub(crate) fn help(verb: Option<OsString>) -> Result<u8> {
    let page = match verb.as_deref() {
        None => TOOL.name.to_owned(),
        Some(verb) => page(verb)?,
    };
    if let Ok(man) = which::which("man")
        && let Some(page) = installed(&page).map(PathBuf::into_os_string).or_else(|| known_to_man(&man, &page))
    {
        let mut command = Command::new(man);
        command.arg(page);
        match step::replace(command)? {}
    }
    match print_help(verb.as_deref(), &page)? {}
}

/// The page that tells of `verb`.
fn page(verb: &OsStr) -> Result<String> {
    let Some(word) = verb.to_str().filter(|word| !word.contains('/')) else { return unknown(verb) };
    if word == TOOL.name || own().iter().any(|own| own == word) {
        return Ok(TOOL.name.to_owned());
    }
    let page = format!("lbx-{}", word.strip_prefix("lbx-").unwrap_or(word));
    if installed(&page).is_some() {
        return Ok(page);
    }
    tool(page[4..].as_ref()).map(|_| page)
}

/// The file of `page` in the installation that this program belongs to.
fn installed(page: &str) -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let beside = program.parent()?;
    MAN.iter()
        .flat_map(|man| SECTIONS.map(|section| (beside.join(man), section)))
        .flat_map(|(man, section)| {
            let file = format!("{page}.{section}");
            [man.join(format!("man{section}")).join(&file), man.join(file)]
        })
        .find(|file| file.is_file())
}

/// `page`, when man(1) finds it by its name.
fn known_to_man(man: &Path, page: &str) -> Option<OsString> {
    let mut command = Command::new(man);
    command.args(["-w", page]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().ok()?.success().then(|| page.into())
}

fn print_help(verb: Option<&OsStr>, page: &str) -> Result<Infallible> {
    let mut command = match page.strip_prefix("lbx-") {
        Some(verb) => tool(verb.as_ref())?,
        None => {
            let mut command = Command::new(std::env::current_exe().context("cannot tell this program's own path")?);
            command.args(verb.filter(|verb| *verb != TOOL.name));
            command
        }
    };
    command.arg("--help");
    step::replace(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suggestion(word: &str) -> Option<&str> {
        nearest(word, ["shell", "list", "delete", "delete-all", "help"].into_iter().chain(TOOLS))
    }

    #[test]
    fn a_slip_of_the_finger_is_understood() {
        for (word, verb) in
            [("shel", "shell"), ("lst", "list"), ("delte", "delete"), ("eneter", "enter"), ("del", "delete")]
        {
            assert_eq!(suggestion(word), Some(verb), "{word}");
        }
    }

    #[test]
    fn nothing_is_suggested_for_a_word_that_resembles_no_verb() {
        for word in ["", "x", "frobnicate", "äöü", "reboot"] {
            assert_eq!(suggestion(word), None, "{word}");
        }
    }

    #[test]
    fn a_verb_cannot_lead_out_of_the_directory() {
        assert!(tool(OsStr::new("../sh")).is_err());
        assert!(tool(OsStr::new("")).is_err());
    }
}
