//! A table of text in columns that are as wide as they look.

use lbx::failure::printable;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// A column of a table.
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// Numbers stand at the right.
    pub(crate) right: bool,
    /// Shortened in the middle where the table is too wide.
    pub(crate) shrinks: bool,
}

/// A cell; `colour` is an SGR parameter.
#[derive(Clone, Default)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) colour: Option<&'static str>,
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell { text, colour: None }
    }
}

/// Narrower than that, a shortened column tells nothing.
const LEAST: usize = 12;
const GAP: &str = "  ";

/// The table of `rows`, at most `width` columns wide where a column can shrink that far.
pub(crate) fn layout<const N: usize>(
    columns: &[Column; N],
    rows: Vec<[Cell; N]>,
    width: Option<usize>,
    colour: bool,
) -> String {
    let titles = columns.each_ref().map(|column| Cell { text: column.title.to_owned(), colour: Some("1") });
    let mut rows: Vec<[Cell; N]> = std::iter::once(titles).chain(rows).collect();
    for cell in rows.iter_mut().flatten() {
        cell.text = printable(&cell.text);
    }
    let widest = |at: usize| rows.iter().map(|row| row[at].text.width()).max().unwrap_or(0);
    let mut widths: [usize; N] = std::array::from_fn(widest);
    if let (Some(width), Some(at)) = (width, columns.iter().position(|column| column.shrinks)) {
        let excess = (widths.iter().sum::<usize>() + GAP.len() * (N - 1)).saturating_sub(width);
        widths[at] = widths[at].saturating_sub(excess).max(LEAST.min(widths[at]));
        for row in &mut rows {
            row[at].text = shortened(&row[at].text, widths[at]);
        }
    }
    let mut text = String::new();
    for row in &rows {
        for (at, cell) in row.iter().enumerate() {
            let padding = " ".repeat(widths[at] - cell.text.width());
            let (before, behind) = match (columns[at].right, at + 1 == N) {
                (true, _) => (padding.as_str(), ""),
                (false, true) => ("", ""),
                (false, false) => ("", padding.as_str()),
            };
            let gap = if at == 0 { "" } else { GAP };
            let word = match cell.colour.filter(|_| colour) {
                Some(colour) => format!("\x1b[{colour}m{}\x1b[0m", cell.text),
                None => cell.text.clone(),
            };
            text.extend([gap, before, &word, behind]);
        }
        text.push('\n');
    }
    text
}

/// `text` without its middle, where it is wider than `width`; the end tells more than the
/// beginning.
fn shortened(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let tail = (width.saturating_sub(1)) * 2 / 3;
    let head = width.saturating_sub(1) - tail;
    let begin: String = fitting(text.chars(), head).into_iter().collect();
    let end: String = fitting(text.chars().rev(), tail).into_iter().rev().collect();
    format!("{begin}…{end}")
}

fn fitting(chars: impl Iterator<Item = char>, width: usize) -> Vec<char> {
    let mut left = width;
    chars
        .take_while(|c| {
            let fits = c.width().unwrap_or(0) <= left;
            left = left.saturating_sub(c.width().unwrap_or(0));
            fits
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column { title: "NAME", right: false, shrinks: false },
        Column { title: "PATH", right: false, shrinks: true },
        Column { title: "SIZE", right: true, shrinks: false },
    ];

    fn row(cells: [&str; 3]) -> [Cell; 3] {
        cells.map(|text| text.to_owned().into())
    }

    #[test]
    fn columns_are_aligned_by_what_is_seen() {
        let rows = vec![row(["a", "/日本", "1"]), row(["bcdef", "/x", "100"]), row(["é", "/a\nb\u{1b}", "-"])];
        let text = layout(&COLUMNS, rows, None, false);
        let expected = "\
NAME   PATH         SIZE
a      /日本           1
bcdef  /x            100
é      /a\\nb\\u{1b}     -
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_path_is_shortened_to_the_terminal_and_in_a_pipe_never() {
        let long = format!("/home/alice/{}/project", "x".repeat(100));
        let rows = || vec![row(["a", &long, "1"])];
        let text = layout(&COLUMNS, rows(), Some(40), false);
        assert!(text.lines().all(|line| line.width() == 40), "{text}");
        assert!(text.contains("/home/") && text.contains('…') && text.contains("/project"), "{text}");
        assert!(layout(&COLUMNS, rows(), None, false).contains(&long));
    }

    #[test]
    fn a_terminal_too_narrow_for_anything_is_borne() {
        for width in 0..12 {
            layout(&COLUMNS, vec![row(["name", "/日本/日本/日本/日本", "1"])], Some(width), true);
        }
        assert_eq!(shortened("日本日本", 4).width(), 3);
    }

    #[test]
    fn colour_does_not_move_columns() {
        let cell = |colour| [Cell { text: "a".into(), colour }, "/".to_owned().into(), "1".to_owned().into()];
        let coloured = layout(&COLUMNS, vec![cell(Some("32"))], None, true);
        let plain = layout(&COLUMNS, vec![cell(None)], None, false);
        assert!(coloured.contains("\x1b[32ma\x1b[0m"));
        let stripped = coloured.replace("\x1b[32m", "").replace("\x1b[1m", "").replace("\x1b[0m", "");
        assert_eq!(stripped, plain);
    }
}
