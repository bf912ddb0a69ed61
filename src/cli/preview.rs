//! `drawoff preview`: the first rows of a stream, as a table or as NDJSON.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use super::args::SourceOverrides;
use super::style::Paint;
use super::table::{Align, Table, cut, one_line};

/// Widest cell of a table; the rest of a long text is left out.
const WIDEST: usize = 40;

/// What to show.
#[derive(Clone, Debug, Args)]
pub struct PreviewArgs {
    /// The source
    #[arg(
        long,
        value_name = "NAME",
        env = "DRAWOFF_SOURCE",
        help_heading = "Source"
    )]
    pub source: String,
    /// See [`SourceOverrides`].
    #[command(flatten)]
    pub overrides: SourceOverrides,
    /// The stream
    #[arg(long, value_name = "STREAM", env = "DRAWOFF_STREAM")]
    pub stream: String,
    /// Rows to show
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub limit: u64,
    /// How to show them
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: PreviewFormat,
}

/// How rows are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PreviewFormat {
    /// Aligned columns, or a column a line where they would not fit.
    #[default]
    Table,
    /// A JSON object a line.
    Ndjson,
}

/// The rows, each an object, in the format; `columns` gives the order and `width` what a line may
/// take.
pub fn render(
    format: PreviewFormat,
    columns: &[String],
    rows: &[Value],
    width: usize,
    paint: Paint,
) -> String {
    match format {
        PreviewFormat::Ndjson => rows.iter().fold(String::new(), |mut text, row| {
            let _ = writeln!(text, "{row}");
            text
        }),
        PreviewFormat::Table if rows.is_empty() => "no rows\n".to_owned(),
        PreviewFormat::Table => {
            let table = table(columns, rows);
            match table.narrowest() <= width {
                true => across(&table, width, paint),
                false => down(columns, rows, width, paint),
            }
        }
    }
}

fn table(columns: &[String], rows: &[Value]) -> Table {
    let align = |column: &str| {
        let mut values = rows.iter().filter_map(|row| row.get(column)).peekable();
        let numbers = values.peek().is_some() && values.all(|v| v.is_number() || v.is_null());
        match numbers {
            true => Align::Right,
            false => Align::Left,
        }
    };
    let mut table = Table::new(columns.iter().map(|c| (c.as_str(), align(c))));
    for row in rows {
        table.row(columns.iter().map(|c| cut(&cell(row.get(c)), WIDEST)));
    }
    table
}

fn across(table: &Table, width: usize, paint: Paint) -> String {
    let mut text = String::new();
    for (i, line) in table.lines(width).into_iter().enumerate() {
        let line = match i {
            0 => paint.strong(&line),
            _ => line,
        };
        let _ = writeln!(text, "{line}");
    }
    text
}

/// A column a line, for tables with more columns than fit side by side.
fn down(columns: &[String], rows: &[Value], width: usize, paint: Paint) -> String {
    let names = columns.iter().map(|c| c.width()).max().unwrap_or(0);
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        if i > 0 {
            text.push('\n');
        }
        let _ = writeln!(text, "{}", paint.strong(&format!("row {}", i + 1)));
        for column in columns {
            let space = " ".repeat(names - column.width());
            let room = width.saturating_sub(names + 4).max(WIDEST);
            let cell = cut(&one_line(&cell(row.get(column))), room);
            let line = format!("  {}{space}  {cell}", paint.dim(column));
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text
}

/// A value as people read it: text without quotes, nothing for null, JSON for what is nested.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn show(format: PreviewFormat, width: usize) -> String {
        let columns = ["id", "name", "tags", "owner"].map(str::to_owned);
        let rows = [
            json!({"id": 7, "name": "Zoë", "tags": ["a", "b"], "owner": null}),
            json!({"id": 1234, "name": "two\nlines", "tags": [], "owner": {"id": 1}}),
        ];
        render(format, &columns, &rows, width, Paint::plain())
    }

    #[test]
    fn a_table_in_the_schemas_order() {
        assert_eq!(
            show(PreviewFormat::Table, 80),
            r#"  id  name       tags       owner
   7  Zoë        ["a","b"]
1234  two⏎lines  []         {"id":1}
"#
        );
    }

    #[test]
    fn too_many_columns_stand_below_each_other() {
        let text = show(PreviewFormat::Table, 20);
        assert!(
            text.starts_with("row 1\n  id     7\n  name   Zoë\n"),
            "{text}"
        );
        assert!(
            text.contains("\n\nrow 2\n  id     1234\n  name   two⏎lines\n"),
            "{text}"
        );
    }

    #[test]
    fn ndjson_is_a_row_a_line() {
        let text = show(PreviewFormat::Ndjson, 80);
        let rows: Vec<Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(rows[1]["name"], "two\nlines");
        assert_eq!(rows.len(), 2);
        assert_eq!(
            render(PreviewFormat::Ndjson, &[], &[], 80, Paint::plain()),
            ""
        );
    }

    #[test]
    fn no_rows_are_said_to_be_none() {
        let columns = ["id".to_owned()];
        assert_eq!(
            render(PreviewFormat::Table, &columns, &[], 80, Paint::plain()),
            "no rows\n"
        );
    }
}
