//! `drawoff schema`: a table's columns in BigQuery's JSON format.

use clap::Args;

use super::args::SourceOverrides;
use crate::schema::TableSchema;

/// Which schema to print.
#[derive(Clone, Debug, Args)]
pub struct SchemaArgs {
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
    /// Read real pages and infer the columns from them, whatever is declared
    #[arg(long)]
    pub infer: bool,
    /// Pages to infer from
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        requires = "infer",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub pages: u64,
}

/// The schema as a file of `schemas/` holds it.
pub fn render(schema: &TableSchema) -> String {
    let mut text = schema.to_json();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Column, ColumnType, Mode};

    #[test]
    fn what_is_printed_can_be_read() {
        let schema = TableSchema {
            columns: vec![
                Column::new("id", ColumnType::Int64)
                    .mode(Mode::Required)
                    .describe("Key."),
                Column::new("owner", ColumnType::Record)
                    .fields(vec![Column::new("login", ColumnType::String)]),
            ],
        };
        let text = render(&schema);
        assert!(text.ends_with("]\n"));
        assert_eq!(TableSchema::from_json(&text, "printed").unwrap(), schema);
    }
}
