//! Whether a table as a stream wants it is one that BigQuery can have, before anything is sent.

use crate::destination::key::{self, unique_key};
use crate::destination::{Disposition, PartitionUnit, TableSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::landing::column;
use crate::schema::{Column, ColumnType, MAX_NESTING, Mode, name, size};

/// Most clustering columns (BigQuery's quota page, 2026-08).
const MOST_CLUSTERING: usize = 4;

/// Most columns of a table, those inside RECORDs included: 10,000 (as above), and its staging table has
/// one more.
const MOST_COLUMNS: usize = 9_999;

/// Longest table name that leaves room for the names of its staging tables.
const LONGEST_NAME: usize = 300;

/// Whether a row with a given key is always found in the partition that a newer one with this key is in.
pub(super) fn stays_in_its_partition(spec: &TableSpec) -> bool {
    spec.partition.as_ref().is_some_and(|partition| {
        let in_key = |k: &String| k.eq_ignore_ascii_case(&partition.column);
        partition.fixed || spec.primary_key.iter().any(in_key)
    })
}

/// Checks names, key, cursor, partitioning and clustering.
///
/// # Errors
/// [`ErrorKind::Schema`] naming the table and the column.
pub(super) fn check(spec: &TableSpec) -> Result<()> {
    let name = &spec.name;
    let fail = |text: String| {
        Err(Error::new(
            ErrorKind::Schema,
            format!("table `{name}`: {text}"),
        ))
    };
    if name.is_empty()
        || name.len() > LONGEST_NAME
        || !name
            .chars()
            .all(|c| c == '_' || c == '-' || c.is_ascii_alphanumeric())
    {
        return Err(Error::new(
            ErrorKind::Schema,
            format!("`{name}` cannot be a table's name in BigQuery"),
        )
        .hint("use letters, digits, `_` and `-`, at most 300"));
    }
    if name.starts_with(super::STAGING_PREFIX)
        || [super::CHECKPOINTS, super::OPEN_SLICES].contains(&name.as_str())
    {
        return fail("the name is kept for drawoff's own tables".into());
    }
    if spec.write_method.is_direct() && spec.disposition != Disposition::Append {
        return fail(format!(
            "`write_method: {}` puts rows straight into it, which can only be appended to so",
            spec.write_method.word()
        ));
    }
    if spec.write_method.is_direct() && spec.schema.column(column::SLICE_ID).is_none() {
        return fail(format!(
            "it lacks the column `{}`, by which rows that were never published are known",
            column::SLICE_ID
        ));
    }
    if spec.schema.columns.is_empty() {
        return fail("it has no columns".into());
    }
    key::check_given(spec)?;
    if spec.schema.column(super::sql::SEQUENCE).is_some() {
        return fail(format!(
            "its column `{}` has a name that staging tables need",
            super::sql::SEQUENCE
        ));
    }
    check_columns(name, &spec.schema.columns, "", 0)?;
    let find = |column: &str, role: &str| key::find(spec, column, role).map(|(_, column)| column);
    for column in unique_key(spec).unwrap_or_default() {
        let column = find(column, "primary key column")?;
        if !comparable(column) {
            return fail(format!("`{}` cannot be part of a key", column.name));
        }
        if column.kind == ColumnType::Float64 {
            // Nor does NaN equal NaN, so such a row would be added by every run.
            return fail(format!(
                "`{}` is a FLOAT64, by which BigQuery does not group rows, so it cannot be part of a key",
                column.name
            ))
            .map_err(|e| {
                e.hint("declare the column as INT64, NUMERIC or STRING in the stream's schema")
            });
        }
    }
    if let (Some(_), Some(cursor)) = (unique_key(spec), &spec.cursor) {
        let column = find(cursor, "cursor")?;
        if !comparable(column) {
            return fail(format!("`{}` cannot be a cursor", column.name));
        }
    }
    if let Some(partition) = &spec.partition {
        let column = find(&partition.column, "partitioning column")?;
        let temporal = matches!(
            column.kind,
            ColumnType::Date | ColumnType::DateTime | ColumnType::Timestamp
        );
        if !temporal || column.mode == Mode::Repeated {
            return fail(format!(
                "it cannot be partitioned by `{}`, which is no DATE, DATETIME or TIMESTAMP",
                column.name
            ));
        }
        if column.kind == ColumnType::Date && partition.unit == PartitionUnit::Hour {
            return fail(format!(
                "it cannot be partitioned by HOUR of `{}`, which is a DATE",
                column.name
            ));
        }
    }
    if spec.cluster_by.len() > MOST_CLUSTERING {
        return fail(format!(
            "it has {} clustering columns; BigQuery takes {MOST_CLUSTERING}",
            spec.cluster_by.len()
        ));
    }
    for column in &spec.cluster_by {
        let column = find(column, "clustering column")?;
        let plain = comparable(column)
            && !matches!(
                column.kind,
                ColumnType::Float64 | ColumnType::Bytes | ColumnType::Time
            );
        if !plain && column.kind != ColumnType::Geography {
            return fail(format!(
                "it cannot be clustered by `{}`, which is {} {}",
                column.name,
                if column.mode == Mode::Repeated {
                    "REPEATED"
                } else {
                    "a"
                },
                column.kind.sql()
            ));
        }
    }
    Ok(())
}

/// Whether BigQuery takes so many columns.
///
/// # Errors
/// [`ErrorKind::Schema`] naming the table and both numbers.
pub(super) fn check_size(table: &str, columns: &[Column]) -> Result<()> {
    let n = size(columns);
    if n <= MOST_COLUMNS {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Schema,
        format!("table `{table}` would have {n} columns, those inside RECORDs included, and BigQuery takes {MOST_COLUMNS}"),
    )
    .hint("leave columns out of the stream's schema, or put several into one JSON column"))
}

/// Names and nesting of columns.
fn check_columns(table: &str, columns: &[Column], path: &str, depth: usize) -> Result<()> {
    for column in columns {
        let full = match path {
            "" => column.name.clone(),
            path => format!("{path}.{}", column.name),
        };
        let refuse = |why: String| {
            Err(Error::new(
                ErrorKind::Schema,
                format!("table `{table}`: column `{full}`: {why}"),
            ))
        };
        if let Err(why) = name::check(&column.name) {
            return refuse(why);
        }
        if column.kind == ColumnType::Record && depth == MAX_NESTING {
            return refuse(format!("it is nested deeper than {MAX_NESTING} RECORDs"));
        }
        check_columns(table, &column.fields, &full, depth + 1)?;
    }
    Ok(())
}

fn comparable(column: &Column) -> bool {
    column.mode != Mode::Repeated
        && !matches!(
            column.kind,
            ColumnType::Record | ColumnType::Json | ColumnType::Geography
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Partitioning;
    use crate::schema::TableSchema;

    fn spec(columns: Vec<Column>) -> TableSpec {
        TableSpec {
            name: "t".into(),
            schema: TableSchema { columns },
            ..TableSpec::default()
        }
    }

    #[test]
    fn names_what_does_not_fit() {
        let id = || Column::new("id", ColumnType::Int64);
        let cases: Vec<(TableSpec, &str)> = vec![
            (spec(vec![]), "no columns"),
            (
                TableSpec {
                    name: "a.b".into(),
                    ..spec(vec![id()])
                },
                "`a.b`",
            ),
            (
                TableSpec {
                    disposition: Disposition::Merge,
                    ..spec(vec![id()])
                },
                "no primary key",
            ),
            (
                TableSpec {
                    disposition: Disposition::Replace,
                    primary_key: vec!["nope".into()],
                    ..spec(vec![id()])
                },
                "`nope`",
            ),
            (
                TableSpec {
                    partition: Some(Partitioning {
                        column: "id".into(),
                        unit: PartitionUnit::Day,
                        fixed: false,
                    }),
                    ..spec(vec![id()])
                },
                "cannot be partitioned by `id`",
            ),
            (
                TableSpec {
                    partition: Some(Partitioning {
                        column: "d".into(),
                        unit: PartitionUnit::Hour,
                        fixed: false,
                    }),
                    ..spec(vec![Column::new("d", ColumnType::Date)])
                },
                "by HOUR of `d`",
            ),
            (
                TableSpec {
                    cluster_by: vec!["f".into()],
                    ..spec(vec![Column::new("f", ColumnType::Float64)])
                },
                "cannot be clustered by `f`",
            ),
            (spec(vec![Column::new("_seq", ColumnType::Int64)]), "`_seq`"),
            (
                TableSpec {
                    disposition: Disposition::Merge,
                    primary_key: vec!["F".into()],
                    ..spec(vec![Column::new("f", ColumnType::Float64)])
                },
                "`f` is a FLOAT64",
            ),
        ];
        for (spec, expected) in cases {
            let error = check(&spec).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Schema);
            assert!(error.to_string().contains(expected), "{error}");
        }
        check(&spec(vec![id()])).unwrap();
        // A cursor orders rows, which a FLOAT64 can.
        check(&TableSpec {
            disposition: Disposition::Merge,
            primary_key: vec!["id".into()],
            cursor: Some("f".into()),
            ..spec(vec![id(), Column::new("f", ColumnType::Float64)])
        })
        .unwrap();
    }
}
