//! `lbx-snap list`: from files that everybody may read.

use std::io::Write;

use anyhow::Context;
use lbx::failure::{Result, status};
use lbx::record::{Project, json_line};
use lbx::snapshot::Snapshot;
use lbx::{Name, Place};
use serde::Serialize;

use super::{TOOL, snapshots};

/// A snapshot as it is kept, and where.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    snapshot: &'a Snapshot,
    place: &'a str,
}

/// Prints the snapshots of `name`: as lines of JSON, their tags alone, or a table.
pub(super) fn list(name: &Name, json: bool, tags: bool) -> Result<u8> {
    let (snapshots, damaged) = snapshots(name)?;
    let place = Place::called().unwrap_or(Place::Local).to_string();
    let text = match (json, tags) {
        (true, _) => {
            snapshots.iter().map(|snapshot| json_line(&Line { snapshot, place: &place })).collect::<Result<_, _>>()?
        }
        (_, true) => snapshots.iter().map(|snapshot| format!("{}\n", snapshot.tag)).collect(),
        _ => table(&snapshots),
    };
    let printed = std::io::stdout().lock().write_all(text.as_bytes());
    let failed = damaged.iter().map(|error| TOOL.report(error)).max();
    printed.context("cannot write to stdout")?;
    Ok(failed.unwrap_or(status::DONE))
}

/// A line for each of `snapshots`; of none, nothing.
fn table(snapshots: &[Snapshot]) -> String {
    let row = |snapshot: &Snapshot| {
        let holds = match snapshot.project {
            Project::Cow => "home, project",
            Project::Rw | Project::Ro => "home",
        };
        let made_by = if snapshot.safety { "restore" } else { "save" };
        // to the second
        let created = format!("{}Z", snapshot.made().split('.').next().unwrap_or_default());
        [snapshot.tag.to_string(), lbx::failure::printable(&created), made_by.into(), holds.into()]
    };
    if snapshots.is_empty() {
        return String::new();
    }
    let titles = ["TAG", "CREATED", "MADE BY", "HOLDS"].map(str::to_owned);
    let rows: Vec<[String; 4]> = std::iter::once(titles).chain(snapshots.iter().map(row)).collect();
    let width = |at: usize| rows.iter().map(|row| row[at].len()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let line = |[tag, created, made_by, holds]: &[String; 4]| {
        let [first, second, third] = widths;
        format!("{tag:first$}  {created:second$}  {made_by:third$}  {holds}\n")
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lbx::layer::Stack;
    use lbx::snapshot::Tag;

    #[test]
    fn a_table_is_of_columns_and_of_nothing_it_is_nothing() {
        let snapshot = |tag: &str, project, safety| Snapshot {
            schema: 1,
            name: Name::parse("p-0123".as_ref()).unwrap(),
            tag: Tag::parse(tag).unwrap(),
            created: "2026-11-28T03:15:00.012345678Z".into(),
            layers: Stack::default(),
            project,
            base: None,
            safety,
        };
        let snapshots = [snapshot("one", Project::Rw, false), snapshot("before-one", Project::Cow, true)];
        let expected = "\
TAG         CREATED               MADE BY  HOLDS
one         2026-11-28T03:15:00Z  save     home
before-one  2026-11-28T03:15:00Z  restore  home, project
";
        assert_eq!(table(&snapshots), expected);
        assert_eq!(table(&[]), "");
        let line = json_line(&Line { snapshot: &snapshots[0], place: "local" }).unwrap();
        assert!(line.starts_with(r#"{"schema":1,"name":"p-0123","tag":"one","#), "{line}");
        assert!(line.ends_with("\"place\":\"local\"}\n") && !line.contains("safety"), "{line}");
    }
}
