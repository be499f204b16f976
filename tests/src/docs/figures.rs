//! Figures for a person: facts of the machine, and a table. README has those that are promised, from
//! `tests/figures.json`, which `scripts/bench --readme` writes.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::repository;

const FILE: &str = "README.md";
const DATA: &str = "tests/figures.json";
const BEGIN: &str = "<!-- figures: made by scripts/bench --readme -->\n";
const END: &str = "<!-- end of figures -->\n";

/// README.md with the figures as they should be.
pub(super) fn readme() -> Result<(PathBuf, String)> {
    let read =
        |file: &str| std::fs::read_to_string(repository().join(file)).with_context(|| format!("cannot read '{file}'"));
    let (text, data) = (read(FILE)?, read(DATA)?);
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("no figures in '{FILE}'"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("no end of the figures in '{FILE}'"))?;
    let lines = data.lines().map(|line| serde_json::from_str(line).with_context(|| format!("no figure: {line}")));
    let lines = lines.collect::<Result<Vec<Value>>>()?;
    // what nothing is promised of is for those who work on it
    let of_use = lines.into_iter().filter(|line| line["date"].is_string() || line["promise"].is_number());
    let table = table(of_use);
    Ok((FILE.into(), format!("{before}{BEGIN}\n{table}\n\n{END}{after}")))
}

/// Lines of JSON as Markdown; the first with facts of a machine tells of it.
pub fn table(lines: impl Iterator<Item = Value>) -> String {
    let (facts, figures): (Vec<Value>, Vec<Value>) = lines.partition(|line| line["date"].is_string());
    let mut text = facts.first().map(machine).unwrap_or_default();
    text += "| what | to what | | | ratio | goal | |\n|---|---|--:|--:|--:|--:|---|\n";
    figures.iter().for_each(|figure| text += &row(figure));
    text.trim_end().to_owned()
}

fn machine(facts: &Value) -> String {
    let text = |field: &str| facts[field].as_str().unwrap_or("unknown").to_owned();
    let gib = facts["memory_kib"].as_f64().unwrap_or_default() / 1024.0 / 1024.0;
    let busy = facts["load"].as_f64().filter(|load| *load >= 0.5).map_or_else(String::new, |load| {
        format!(" The machine had other work to do (load {load:.1}): what is no ratio is not to be relied on.")
    });
    format!(
        "Taken on {} by `scripts/bench`, commit {}: {} processors ({}), {gib:.0} GiB of memory, Linux {} on {}.{busy}\n\n",
        text("date"),
        text("commit"),
        facts["processors"],
        text("processor"),
        text("kernel"),
        text("machine"),
    )
}

fn row(figure: &Value) -> String {
    let unit = figure["unit"].as_str().unwrap_or_default();
    let amount = |value: &Value| value.as_f64().map_or_else(String::new, |value| format!("{} {unit}", number(value)));
    let about = figure["about"].as_str().unwrap_or_default();
    let (what, peer) = about.split_once(" | ").unwrap_or((about, ""));
    let mut ratio = String::new();
    if let Some(value) = figure["ratio"].as_f64() {
        ratio = format!("{value:.2}");
        if let (Some(low), Some(high)) = (figure["interval"][0].as_f64(), figure["interval"][1].as_f64()) {
            ratio += &format!(" [{low:.2} {high:.2}]");
        }
    }
    let ours = match &figure["value"] {
        Value::Null => amount(&figure["values"][0]),
        value => amount(value),
    };
    let goal = figure["promise"].as_f64().map_or_else(String::new, |promise| match figure["value"].is_null() {
        true => format!("{promise}"),
        false => format!("{promise} {unit}"),
    });
    let met = match (&figure["met"], figure["why"].as_str()) {
        (_, Some(why)) => format!("not measured: {}", why.replace('|', "/")),
        (Value::Bool(true), _) => "met".to_owned(),
        (Value::Bool(false), _) => "**not met**".to_owned(),
        _ => String::new(),
    };
    format!("| {what} | {peer} | {ours} | {} | {ratio} | {goal} | {met} |\n", amount(&figure["values"][1]))
}

fn number(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude >= 100.0 => format!("{value:.0}"),
        magnitude if magnitude >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
