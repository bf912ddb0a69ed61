//! Aligned columns of text. Widths are those on a terminal: accents, wide and combining characters
//! count as they show.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Between two columns.
const GAP: usize = 2;
/// A column that must give way keeps this much.
const NARROWEST: usize = 8;

/// On which side a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Columns with headings, and rows of cells.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows yet.
    pub fn new(columns: impl IntoIterator<Item = (impl Into<String>, Align)>) -> Self {
        Self {
            columns: columns.into_iter().map(|(c, a)| (c.into(), a)).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row. Cells beyond the columns are left out, missing ones are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let mut cells: Vec<String> = cells.into_iter().map(|c| one_line(&c.into())).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// The width below which columns can be cut no further.
    pub fn narrowest(&self) -> usize {
        let widths: Vec<usize> = self.natural().iter().map(|w| (*w).min(NARROWEST)).collect();
        total(&widths)
    }

    /// A line for the headings and one for each row, no wider than `most` as far as possible: the
    /// widest columns are cut first, with `…`. No line ends in spaces.
    pub fn lines(&self, most: usize) -> Vec<String> {
        let mut widths = self.natural();
        let fixed: Vec<bool> = self
            .columns
            .iter()
            .map(|(_, a)| *a == Align::Right)
            .collect();
        while total(&widths) > most {
            let widest = (0..widths.len())
                .filter(|&i| !fixed[i] && widths[i] > NARROWEST)
                .max_by_key(|&i| widths[i]);
            match widest {
                Some(i) => widths[i] -= 1,
                None => break,
            }
        }
        let headings: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        std::iter::once(&headings)
            .chain(&self.rows)
            .map(|cells| self.line(cells, &widths))
            .collect()
    }

    fn natural(&self) -> Vec<usize> {
        (0..self.columns.len())
            .map(|i| {
                let cells = self.rows.iter().map(|row| row[i].width());
                cells.max().unwrap_or(0).max(self.columns[i].0.width())
            })
            .collect()
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, &width), (_, align)) in cells.iter().zip(widths).zip(&self.columns) {
            if !line.is_empty() || width == 0 {
                line.push_str(&" ".repeat(GAP));
            }
            let cell = cut(cell, width);
            let space = " ".repeat(width.saturating_sub(cell.width()));
            match align {
                Align::Left => line.extend([cell.as_str(), space.as_str()]),
                Align::Right => line.extend([space.as_str(), cell.as_str()]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
}

/// The text within a width, cut with `…` where it is longer.
pub fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    let mut used = 0;
    for c in text.chars() {
        let next = c.width().unwrap_or(0);
        // One for the ellipsis.
        if used + next + 1 > width {
            break;
        }
        used += next;
        short.push(c);
    }
    if width > 0 {
        short.push('…');
    }
    short
}

/// The text without characters that move the cursor or end the line.
pub fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' => '⏎',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([
            ("name", Align::Left),
            ("rows", Align::Right),
            ("note", Align::Left),
        ]);
        table.row(["Zoë Nguyễn", "5", "x"]);
        table.row(["山田太郎", "1,234", ""]);
        table
    }

    #[test]
    fn columns_stand_under_each_other_as_shown() {
        assert_eq!(
            table().lines(100),
            [
                "name         rows  note",
                "Zoë Nguyễn      5  x",
                "山田太郎    1,234",
            ]
        );
    }

    #[test]
    fn the_widest_text_gives_way() {
        let lines = table().lines(21);
        assert_eq!(lines[1], "Zoë Ngu…      5  x");
        assert_eq!(lines[2], "山田太郎  1,234");
        // Numbers are never cut.
        assert!(table().lines(1)[2].ends_with("1,234"));
    }

    #[test]
    fn cuts_by_width_and_between_characters() {
        assert_eq!(cut("山田太郎", 8), "山田太郎");
        assert_eq!(cut("山田太郎", 7), "山田太…");
        assert_eq!(cut("山田太郎", 6), "山田…");
        assert_eq!(cut("abc", 1), "…");
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn a_cell_cannot_break_out_of_its_line() {
        let mut table = Table::new([("a", Align::Left)]);
        table.row(["x\ny\u{1b}[2J"]);
        assert_eq!(table.lines(80)[1], "x⏎y [2J");
    }
}
