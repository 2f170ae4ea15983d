//! Tables for people: columns two spaces apart, cut to the terminal's width where a column allows it.

use std::fmt::Write;

use anstyle::Style;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::text::escape;

const GAP: usize = 2;
/// No column is cut to less than this.
const LEAST: usize = 8;
/// Nor to less than this, while an over-long id can be given a line of its own instead.
const COMFORTABLE: usize = 20;
const HEADING: Style = Style::new().bold();

/// What may happen to a column that is too wide.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It is shown whole, for ids are there to be copied: one too long for its column has a line of its own.
    Whole,
    /// Its end is cut.
    CutEnd,
    /// Its beginning is cut: the end of a path says most.
    CutStart,
}

/// One cell. Its text is escaped here, so that no caller can forget it.
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(super) fn new(text: impl AsRef<str>) -> Self {
        Self::styled(text, Style::new())
    }

    pub(super) fn styled(text: impl AsRef<str>, style: Style) -> Self {
        Self { text: escape(text.as_ref()).into_owned(), style }
    }
}

/// The table as text with a line break after each line.
pub(super) fn render<const N: usize>(
    columns: [(&str, Fit); N],
    rows: &[[Cell; N]],
    terminal: usize,
) -> String {
    let mut widths = columns.map(|(title, _)| title.width());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.width());
        }
    }
    shrink(&mut widths, columns.map(|(_, fit)| fit), terminal);

    let mut table = String::new();
    let titles = columns.map(|(title, _)| Cell::styled(title, HEADING));
    for row in std::iter::once(&titles).chain(rows) {
        for (index, cell) in row.iter().enumerate() {
            let text = cut(&cell.text, widths[index], columns[index].1);
            let _ = write!(table, "{}{text}{}", cell.style.render(), cell.style.render_reset());
            // Nothing after the last column, so that no line ends in blanks.
            if row[index + 1..].iter().any(|cell| !cell.text.is_empty()) {
                let mut blanks = widths[index].saturating_sub(text.width()) + GAP;
                if text.width() > widths[index] {
                    table.push('\n');
                    blanks = widths[..=index].iter().map(|width| width + GAP).sum();
                }
                table.extend(std::iter::repeat_n(' ', blanks));
            }
        }
        table.push('\n');
    }
    table
}

/// Takes from the widest column, one by one: from those that may be cut as long as they stay comfortable, then
/// from those that are shown whole, then from the former again; until the line fits or nothing is left to take.
fn shrink<const N: usize>(widths: &mut [usize; N], fits: [Fit; N], terminal: usize) {
    while widths.iter().sum::<usize>() + GAP * (N - 1) > terminal {
        let widest = |whole: bool, least: usize| {
            (0..N)
                .filter(|&i| (fits[i] == Fit::Whole) == whole && widths[i] > least)
                .max_by_key(|&i| widths[i])
        };
        match widest(false, COMFORTABLE).or(widest(true, COMFORTABLE)).or(widest(false, LEAST)) {
            Some(index) => widths[index] -= 1,
            None => return,
        }
    }
}

fn cut(text: &str, width: usize, fit: Fit) -> String {
    if text.width() <= width || fit == Fit::Whole {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    let take = |chars: &mut dyn Iterator<Item = char>| -> Vec<char> {
        let mut used = 0;
        chars
            .take_while(|c| {
                used += c.width().unwrap_or(0);
                used <= room
            })
            .collect()
    };
    match fit {
        Fit::CutStart => {
            let kept = take(&mut text.chars().rev());
            std::iter::once('…').chain(kept.into_iter().rev()).collect()
        }
        Fit::CutEnd | Fit::Whole => {
            let kept = take(&mut text.chars());
            kept.into_iter().chain(std::iter::once('…')).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(table: &str) -> String {
        anstream::adapter::strip_str(table).to_string()
    }

    #[test]
    fn a_wide_column_is_cut_and_an_id_is_not() {
        let long = "a-very-long-id-that-somebody-has-to-copy-from-here-to-somewhere-else-one-day";
        let rows = [
            [
                Cell::new("echo"),
                Cell::new("/opt/plugins/releases/2026/libecho.so"),
                Cell::new("x ".repeat(60)),
            ],
            [Cell::new("日本"), Cell::new("/日本/日本/日本/日本/日本/日本/日本.so"), Cell::new("")],
            [Cell::new(long), Cell::new("/a.so"), Cell::new("esc \u{1b}[2J")],
        ];
        let columns = [("ID", Fit::Whole), ("PATH", Fit::CutStart), ("WHAT", Fit::CutEnd)];
        insta::assert_snapshot!(plain(&render(columns, &rows[..2], 60)), @r#"
        ID    PATH                        WHAT
        echo  …/releases/2026/libecho.so  x x x x x x x x x x x x x…
        日本  …本/日本/日本/日本/日本.so
        "#);
        insta::assert_snapshot!(plain(&render(columns, &rows, 60)), @r"
        ID                    PATH                WHAT
        echo                  …s/2026/libecho.so  x x x x x x x x x…
        日本                  …日本/日本/日本.so
        a-very-long-id-that-somebody-has-to-copy-from-here-to-somewhere-else-one-day
                              /a.so               esc \u{1b}[2J
        ");
        for line in plain(&render(columns, &rows, 60)).lines() {
            assert!(line.width() <= 60 || line == long, "{line}");
        }
    }
}
