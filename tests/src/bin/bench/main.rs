//! Measures what the tools promise: each figure a ratio of two things that do the same work, taken in
//! turn in one run where both can be had so, or a value. `scripts/bench` runs it in the sandbox, at a place, with
//! the groups that it names; each line is a figure in JSON. With `--show` the lines of stdin become a
//! table, in Markdown.

use std::io::Write;

use lbx_tests::{Place, place};
use serde_json::{Value, json};

mod enter;
mod files;
mod fork;
mod life;
mod list;
mod many;
mod pairs;
mod peers;
mod review;
mod stream;
mod tab;
mod vm;

use pairs::Compared;

/// What is measured, and against what.
struct Figure {
    name: &'static str,
    about: String,
    /// The ratio, or where there is none the value, that is promised at most.
    promise: Option<f64>,
    measured: Measured,
}

enum Measured {
    Ratio(Compared, &'static str),
    Value(f64, &'static str),
    /// Nothing: why.
    Not(String),
}

/// Figures that are taken together.
struct Group {
    name: &'static str,
    places: &'static [Place],
    take: fn() -> Vec<Figure>,
}

const GROUPS: [Group; 11] = [
    Group { name: "enter", places: &[Place::Local], take: enter::figures },
    Group { name: "life", places: &[Place::Local], take: life::figures },
    Group { name: "fork", places: &[Place::Local], take: fork::figures },
    Group { name: "many", places: &[Place::Local], take: many::figures },
    Group { name: "list", places: &[Place::Local], take: list::figures },
    Group { name: "files", places: &[Place::Local], take: files::figures },
    Group { name: "review", places: &[Place::Local], take: review::figures },
    Group { name: "stream", places: &[Place::Local, Place::Ssh], take: stream::figures },
    // apart, that each is told before the next begins, which takes minutes
    Group { name: "vm", places: &[Place::Lima], take: vm::figures },
    Group { name: "vm", places: &[Place::Lima], take: vm::streams },
    Group { name: "vm", places: &[Place::Lima], take: files::in_vm },
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted == ["--show"] {
        let lines = std::io::stdin().lines().map_while(Result::ok);
        say(&lbx_tests::docs::figures::table(lines.filter_map(|line| serde_json::from_str(&line).ok())));
        return;
    }
    for group in GROUPS.iter().filter(|group| group.places.contains(&place())) {
        if wanted.is_empty() || wanted.iter().any(|name| name == group.name) {
            for figure in (group.take)() {
                say(&figure.json(group.name).to_string());
            }
        }
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

impl Figure {
    fn ratio(name: &'static str, about: impl Into<String>, promise: Option<f64>, compared: Compared) -> Figure {
        Figure { name, about: about.into(), promise, measured: Measured::Ratio(compared, "ms") }
    }

    fn value(
        name: &'static str,
        about: impl Into<String>,
        promise: Option<f64>,
        value: f64,
        unit: &'static str,
    ) -> Figure {
        Figure { name, about: about.into(), promise, measured: Measured::Value(value, unit) }
    }

    fn not(name: &'static str, about: impl Into<String>, promise: Option<f64>, why: impl Into<String>) -> Figure {
        Figure { name, about: about.into(), promise, measured: Measured::Not(why.into()) }
    }

    fn json(&self, group: &str) -> Value {
        let mut line = json!({ "group": group, "name": self.name, "about": self.about, "promise": self.promise });
        let measured = match &self.measured {
            Measured::Ratio(compared, unit) => {
                line["ratio"] = json!(compared.ratio);
                if compared.count > 1 {
                    line["interval"] = json!([compared.low, compared.high]);
                }
                line["values"] = json!([compared.ours, compared.peer]);
                line["count"] = json!(compared.count);
                line["unit"] = json!(unit);
                Some(compared.ratio)
            }
            Measured::Value(value, unit) => {
                line["value"] = json!(value);
                line["unit"] = json!(unit);
                Some(*value)
            }
            Measured::Not(why) => {
                line["why"] = json!(why);
                None
            }
        };
        if let (Some(promise), Some(measured)) = (self.promise, measured) {
            line["met"] = json!(measured <= promise);
        }
        line
    }
}
