//! How a table that is there becomes one that takes the wanted rows: by adding columns, or not at all.

use super::{Column, Mode, TableSchema};
use crate::error::{Error, ErrorKind, Result};

/// The table's schema after the columns that it lacks were added: its own columns in their order
/// (descriptions as wanted), then the new ones. Fields of RECORDs likewise.
///
/// # Errors
/// [`ErrorKind::Schema`] naming the table and the first column that cannot be reconciled: another
/// type, a list on one side only, nulls wanted where the table takes none, a required column that
/// one side lacks.
pub fn widen(table: &str, existing: &TableSchema, wanted: &TableSchema) -> Result<TableSchema> {
    let mut columns = existing.columns.clone();
    merge(table, "", &mut columns, &wanted.columns)?;
    Ok(TableSchema { columns })
}

fn merge(table: &str, path: &str, have: &mut Vec<Column>, want: &[Column]) -> Result<()> {
    let full = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    let find = |columns: &[Column], name: &str| {
        columns
            .iter()
            .position(|c| c.name.eq_ignore_ascii_case(name))
    };
    for column in have.iter() {
        if column.mode == Mode::Required && find(want, &column.name).is_none() {
            return Err(misfit(
                table,
                format!(
                    "column `{}` is REQUIRED in the table, and the wanted schema lacks it",
                    full(&column.name)
                ),
            ));
        }
    }
    for column in want {
        let Some(at) = find(have, &column.name) else {
            if column.mode == Mode::Required {
                return Err(misfit(
                    table,
                    format!(
                        "column `{}` is wanted as REQUIRED, and a table that lacks it can only get it as NULLABLE",
                        full(&column.name)
                    ),
                ));
            }
            have.push(column.clone());
            continue;
        };
        let there = &mut have[at];
        let name = full(&there.name);
        if there.kind != column.kind {
            return Err(misfit(
                table,
                format!(
                    "column `{name}` is {} in the table, and {} is wanted",
                    there.kind.sql(),
                    column.kind.sql()
                ),
            ));
        }
        match (there.mode, column.mode) {
            (a, b) if a == b => {}
            (Mode::Nullable, Mode::Required) => {}
            (a, b) => {
                return Err(misfit(
                    table,
                    format!(
                        "column `{name}` is {} in the table, and {} is wanted",
                        mode(a),
                        mode(b)
                    ),
                ));
            }
        }
        there.description.clone_from(&column.description);
        merge(table, &name, &mut there.fields, &column.fields)?;
    }
    Ok(())
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Nullable => "NULLABLE",
        Mode::Required => "REQUIRED",
        Mode::Repeated => "REPEATED",
    }
}

fn misfit(table: &str, what: String) -> Error {
    Error::new(
        ErrorKind::Schema,
        format!("table `{table}` does not fit the wanted schema: {what}"),
    )
    .hint("change the column in the schema file to what the table has, or give the stream another table name, or drop the table and run with `--full-refresh`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::ColumnType;

    fn schema(columns: Vec<Column>) -> TableSchema {
        TableSchema { columns }
    }

    #[test]
    fn new_columns_come_last_and_names_ignore_case() {
        let inner = |names: &[&str]| {
            Column::new("r", ColumnType::Record).fields(
                names
                    .iter()
                    .map(|n| Column::new(*n, ColumnType::Int64))
                    .collect(),
            )
        };
        let have = schema(vec![Column::new("Id", ColumnType::Int64), inner(&["a"])]);
        let want = schema(vec![
            Column::new("new", ColumnType::String),
            inner(&["b", "a"]),
            Column::new("id", ColumnType::Int64).describe("key"),
        ]);
        let got = widen("t", &have, &want).unwrap();
        let names: Vec<_> = got.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["Id", "r", "new"]);
        assert_eq!(got.columns[0].description, "key");
        assert_eq!(got.columns[1].fields[1].name, "b");
        // Going back to fewer columns is no change.
        assert_eq!(widen("t", &got, &have).unwrap().columns.len(), 3);
    }

    #[test]
    fn what_cannot_be_reconciled_names_the_column() {
        let int = Column::new("a", ColumnType::Int64);
        let cases = [
            (
                vec![int.clone()],
                vec![Column::new("a", ColumnType::String)],
                "`a` is INT64",
            ),
            (
                vec![int.clone()],
                vec![int.clone().mode(Mode::Repeated)],
                "NULLABLE",
            ),
            (
                vec![int.clone().mode(Mode::Required)],
                vec![int.clone()],
                "REQUIRED",
            ),
            (vec![int.clone().mode(Mode::Required)], vec![], "lacks it"),
            (
                vec![],
                vec![int.clone().mode(Mode::Required)],
                "only get it",
            ),
            (
                vec![Column::new("r", ColumnType::Record).fields(vec![int])],
                vec![
                    Column::new("r", ColumnType::Record)
                        .fields(vec![Column::new("a", ColumnType::Bool)]),
                ],
                "`r.a`",
            ),
        ];
        for (have, want, part) in cases {
            let e = widen("t", &schema(have), &schema(want)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Schema);
            assert!(e.to_string().contains(part), "{e}");
            assert!(e.find_hint().is_some());
        }
    }
}
