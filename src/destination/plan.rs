//! What a destination would do for a table, in words.

use super::{TableSpec, rejects};
use crate::error::Result;
use crate::schema::evolution::{Change, frozen, reconcile};
use crate::schema::{Column, Mode, TableSchema};

/// What a destination would do for a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What would be made for all tables together, one thing each.
    pub shared: Vec<String>,
    /// What would be made or changed for this one, one thing each.
    pub changes: Vec<String>,
    /// How rows would be staged and published: the requests and jobs of a slice, in order.
    pub steps: Vec<String>,
    /// The statements of the publish, where it is made of some.
    pub sql: Option<String>,
}

impl Plan {
    /// The changes for a table and its rejects table that are not there.
    pub fn of_new(table: &TableSpec) -> Vec<String> {
        let mut more = String::new();
        if let Some(partition) = &table.partition {
            more += &format!(
                ", partitioned by {} of `{}`",
                partition.unit.sql().to_ascii_lowercase(),
                partition.column
            );
        }
        if !table.cluster_by.is_empty() {
            more += &format!(", clustered by `{}`", table.cluster_by.join("`, `"));
        }
        vec![
            create(&table.name, &table.schema) + &more,
            create(&rejects::table_name(&table.name), &rejects::schema()),
        ]
    }

    /// The changes that bring a table from the columns that it has, if it is there, to those wanted.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Schema`] where it cannot be brought there, or must not (`fixed`).
    pub fn of_table(
        name: &str,
        existing: Option<&TableSchema>,
        wanted: &TableSchema,
        fixed: bool,
    ) -> Result<Vec<String>> {
        let Some(existing) = existing else {
            return Ok(vec![create(name, wanted)]);
        };
        let changes = reconcile(name, existing, wanted)?.changes;
        if fixed && !changes.is_empty() {
            return Err(frozen(name, &changes));
        }
        let said = |change: &Change| match change {
            Change::Added { path, kind } => match wanted.column(path) {
                // Rows that are there have no value for it.
                Some(column) => {
                    let shown = shown(column);
                    let shown = shown.trim_end_matches(" NOT NULL");
                    format!("add column {shown} to table `{name}`")
                }
                None => format!("add column {path} {kind} to table `{name}`"),
            },
            Change::Relaxed { path } => format!("let column `{path}` of table `{name}` be null"),
            Change::Widened { path, from, to } => {
                format!("widen column `{path}` of table `{name}` from {from} to {to}")
            }
        };
        Ok(changes.iter().map(said).collect())
    }
}

fn create(name: &str, schema: &TableSchema) -> String {
    let columns: Vec<String> = schema.columns.iter().map(shown).collect();
    format!("create table `{name}` ({})", columns.join(", "))
}

/// `name TYPE`, as in DDL.
fn shown(column: &Column) -> String {
    let mode = match column.mode {
        Mode::Required => " NOT NULL",
        Mode::Nullable => "",
        Mode::Repeated => " REPEATED",
    };
    let fields: Vec<String> = column.fields.iter().map(shown).collect();
    let fields = match fields.is_empty() {
        true => String::new(),
        false => format!("<{}>", fields.join(", ")),
    };
    format!("{} {}{fields}{mode}", column.name, column.kind.sql())
}
