//! How much was changed: lines of each file, as `git diff --stat` counts them.

use std::io::{self, Write};

use super::blob::{self, Blob};
use super::layers::Kind;
use super::print::{Paint, shown};
use super::walk::Change;

/// As many signs stand in a row at most.
const SIGNS: u32 = 40;

/// The rows of a table.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<(String, Count)>,
}

/// What is told of one file.
#[derive(Debug, PartialEq, Eq)]
enum Count {
    Lines { added: u32, removed: u32 },
    Bytes { before: u64, after: u64 },
    Other(&'static str),
}

impl Table {
    /// Adds what became of one path, whose two sides are `sides`; directories are not counted.
    pub(crate) fn add(&mut self, change: &Change, sides: &[Option<Blob>; 2]) {
        let kind = change.new.as_ref().or(change.old.as_ref()).map_or(Kind::Dir, |entry| entry.kind);
        let [new, old] = sides;
        let count = match (old, new) {
            (None, None) if kind == Kind::Dir => return,
            (None, None) => Count::Other(kind.as_str()),
            _ => count([old.as_ref(), new.as_ref()]),
        };
        self.rows.push((shown(change), count));
    }

    pub(crate) fn print(&self, paint: Paint, out: &mut impl Write) -> io::Result<()> {
        let width = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let lines = |count: &Count| match count {
            Count::Lines { added, removed } => added + removed,
            _ => 0,
        };
        let most = self.rows.iter().map(|(_, count)| lines(count)).max().unwrap_or(0);
        let digits = most.to_string().len();
        let (mut added_all, mut removed_all) = (0, 0);
        for (name, count) in &self.rows {
            let fill = width - name.chars().count();
            write!(out, " {name}{:fill$} | ", "")?;
            match count {
                Count::Lines { added, removed } => {
                    (added_all, removed_all) = (added_all + added, removed_all + removed);
                    write!(out, "{:>digits$}", added + removed)?;
                    let signs = |lines: &u32| match most {
                        ..=SIGNS => *lines,
                        // none that has any is without a sign
                        _ => (u64::from(*lines) * u64::from(SIGNS)).div_ceil(u64::from(most)) as u32,
                    };
                    let (plus, minus) = ("+".repeat(signs(added) as usize), "-".repeat(signs(removed) as usize));
                    let blank = if plus.is_empty() && minus.is_empty() { "" } else { " " };
                    let (green, red, plain) = (paint.added(), paint.removed(), paint.plain());
                    writeln!(out, "{blank}{green}{plus}{plain}{red}{minus}{plain}")?;
                }
                Count::Bytes { before, after } => writeln!(out, "Bin {before} -> {after} bytes")?,
                Count::Other(kind) => writeln!(out, "{kind}")?,
            }
        }
        if self.rows.is_empty() {
            return Ok(());
        }
        let counted = |number: u32, one: &str, more: &str| format!("{number} {}", if number == 1 { one } else { more });
        let files = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        write!(out, " {}", counted(files, "file changed", "files changed"))?;
        for (number, one, more) in
            [(added_all, "insertion(+)", "insertions(+)"), (removed_all, "deletion(-)", "deletions(-)")]
        {
            if number > 0 {
                write!(out, ", {}", counted(number, one, more))?;
            }
        }
        writeln!(out)
    }
}

fn count([old, new]: [Option<&Blob>; 2]) -> Count {
    let text = |side: Option<&Blob>| side.map_or(Some(Vec::new()), |blob| blob.text().map(<[u8]>::to_vec));
    let size = |side: Option<&Blob>| side.map_or(0, |blob| blob.size);
    let (Some(before), Some(after)) = (text(old), text(new)) else {
        return Count::Bytes { before: size(old), after: size(new) };
    };
    let hunks = blob::hunks(&before, &after);
    Count::Lines {
        added: hunks.iter().map(|hunk| hunk.after.end - hunk.after.start).sum(),
        removed: hunks.iter().map(|hunk| hunk.before.end - hunk.before.start).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_names_and_numbers() {
        let rows = vec![
            ("a".to_owned(), Count::Lines { added: 2, removed: 1 }),
            ("long name".to_owned(), Count::Lines { added: 100, removed: 1 }),
            ("ö".to_owned(), Count::Bytes { before: 0, after: 9 }),
            ("mode".to_owned(), Count::Lines { added: 0, removed: 0 }),
            ("pipe".to_owned(), Count::Other("fifo")),
        ];
        let mut out = Vec::new();
        Table { rows }.print(Paint { is_coloured: false, is_shown: false }, &mut out).unwrap();
        let plus = "+".repeat(40);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!(
                " a         |   3 +-\n long name | 101 {plus}-\n ö         | Bin 0 -> 9 bytes\n mode      |   0\n \
                 pipe      | fifo\n 5 files changed, 102 insertions(+), 2 deletions(-)\n"
            )
        );
    }
}
