//! Man pages: synopsis, verbs and options from the command line, around a hand-written tail.
//!
//! One page a tool, its verbs in it: clap_mangen would make a page of each.

use std::fmt::Write;

use anyhow::{Context, Result};
use clap::{Arg, ArgAction, Command};

use super::{arguments, is_common, value_name, value_range, verbs};
use crate::repository;

/// When the hand-written texts were last gone over.
const DATE: &str = "2026-11-21";

/// The page of `tool`.
///
/// The tail begins with DESCRIPTION; what it has from EXIT STATUS on follows the options.
pub(super) fn page(tool: &Command) -> Result<String> {
    let name = tool.get_name();
    let file = repository().join(format!("man/sections/{name}.roff"));
    let tail = std::fs::read_to_string(&file).with_context(|| format!("cannot read '{}'", file.display()))?;
    let split = tail.find(".SH EXIT STATUS").with_context(|| format!("no EXIT STATUS in '{}'", file.display()))?;
    let (description, rest) = tail.split_at(split);

    let mut page = format!(".\\\" Made by scripts/gen-docs from the command line and man/sections/{name}.roff.\n");
    let version = tool.get_version().unwrap_or_default();
    writeln!(page, ".TH {} 1 {DATE} \"llima\\-box {version}\" llima\\-box", name.to_uppercase())?;
    writeln!(page, ".SH NAME\n{} \\- {}", text(name), text(&uncapitalized(&about(tool))))?;
    page.push_str(".SH SYNOPSIS\n");
    match verbs(tool).next() {
        None => page.push_str(&synopsis(name, tool)),
        Some(_) => {
            for verb in verbs(tool) {
                page.push_str(&synopsis(&format!("{name} {}", verb.get_name()), verb));
            }
        }
    }
    if tool.is_allow_external_subcommands_set() {
        write!(page, ".SY {}\n\\fIVERB\\fR\n[\\fIARG\\fR]...\n.YS\n", text(name))?;
    }
    page.push_str(description);

    if verbs(tool).next().is_some() {
        page.push_str(".SH VERBS\n");
        for verb in verbs(tool) {
            write!(page, ".SS {}\n{}.\n", verb.get_name(), text(&about(verb)))?;
            page.push_str(&definitions(arguments(verb).filter(|arg| !is_common(arg)))?);
        }
    }
    page.push_str(".SH OPTIONS\n");
    let in_verbs = |arg: &Arg| !is_common(arg) && verbs(tool).next().is_some();
    page.push_str(&definitions(common_last(tool).filter(|arg| !in_verbs(arg)))?);
    page.push_str(rest);
    Ok(page)
}

/// A tool's own options first, then those that all share.
///
/// The dispatcher has none of its own: it takes the shared ones behind each verb.
fn common_last(tool: &Command) -> impl Iterator<Item = &Arg> {
    let own = arguments(tool).filter(|arg| !is_common(arg));
    let inherited = verbs(tool).next().filter(|_| !arguments(tool).any(|arg| arg.get_id() == "on"));
    let common = arguments(tool).chain(inherited.into_iter().flat_map(arguments)).filter(|arg| is_common(arg));
    let mut seen = std::collections::BTreeSet::new();
    own.chain(common).filter(move |arg| seen.insert(arg.get_id().clone()))
}

/// How `command` is called, without the options that all tools share.
fn synopsis(name: &str, command: &Command) -> String {
    let mut form = format!(".SY \"{}\"\n", text(name));
    let mut args: Vec<&Arg> = arguments(command).filter(|arg| !is_common(arg)).collect();
    args.sort_by_key(|arg| arg.is_positional());
    for arg in args {
        let (open, close) = if arg.is_required_set() { ("", "") } else { ("[", "]") };
        let spellings = spellings(arg);
        let shortest = spellings.first().map_or("", String::as_str).to_owned() + &value(arg).replace(' ', "\\ ");
        let word = match (repeats(arg), shortest.strip_suffix("|\\-\\fR")) {
            // one operand or more, or a dash alone
            (true, Some(operand)) => format!("{open}{operand}\\fR...|\\-{close}"),
            (true, None) if arg.is_last_set() => format!("{open}{shortest}...{close}"),
            (true, None) => format!("{open}{shortest}{close}..."),
            (false, _) => format!("{open}{shortest}{close}"),
        };
        form.push_str(&format!("{word}\n"));
    }
    form + ".YS\n"
}

/// A list of options, then operands, each with its help.
fn definitions<'a>(args: impl Iterator<Item = &'a Arg>) -> Result<String> {
    let (mut operands, mut options) = (String::new(), String::new());
    for arg in args {
        let list = if arg.is_positional() { &mut operands } else { &mut options };
        let help = arg.get_help().with_context(|| format!("'{}' has no help", arg.get_id()))?;
        let headings: Vec<String> = spellings(arg).iter().map(|word| word.clone() + &value(arg)).collect();
        write!(list, ".TP\n{}\n{}.\n", headings.join(", "), text(&help.to_string()))?;
    }
    Ok(options + &operands)
}

/// The ways to write `arg`, short first; an operand has its name.
fn spellings(arg: &Arg) -> Vec<String> {
    let short = arg.get_short().map(|short| format!("\\fB\\-{short}\\fR"));
    let long = arg.get_long().map(|long| format!("\\fB\\-\\-{}\\fR", text(long)));
    match arg.is_positional() {
        true if arg.is_last_set() => vec![format!("\\fB\\-\\-\\fR \\fI{}\\fR", text(value_name(arg)))],
        true => vec![format!("\\fI{}\\fR", text(value_name(arg)))],
        false => short.into_iter().chain(long).collect(),
    }
}

/// What follows an option: ` WORD`, or `[=WORD]` where it may be left out.
fn value(arg: &Arg) -> String {
    let name = text(value_name(arg));
    match value_range(arg) {
        range if arg.is_positional() || !range.takes_values() => String::new(),
        range if range.min_values() == 0 => format!("[=\\fI{name}\\fR]"),
        _ => format!(" \\fI{name}\\fR"),
    }
}

fn repeats(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn uncapitalized(sentence: &str) -> String {
    let mut chars = sentence.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// `text` as roff shows it, character for character.
fn text(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if escaped.starts_with('.') { format!("\\&{escaped}") } else { escaped }
}
