//! Whether a table as a stream wants it is one that BigQuery can have, before anything is sent.

use arrow_array::{Array, RecordBatch};

use crate::destination::{Disposition, TableSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::{Column, ColumnType, Mode};

/// Most clustering columns (BigQuery's quota page, 2026-08).
const MOST_CLUSTERING: usize = 4;

/// Longest table name that leaves room for the names of its staging tables.
const LONGEST_NAME: usize = 300;

/// The key by which the rows of a slice are made unique; `None` where they need not be.
pub(super) fn unique_key(spec: &TableSpec) -> Option<&[String]> {
    match spec.disposition {
        Disposition::Append => None,
        Disposition::Merge | Disposition::Replace if spec.primary_key.is_empty() => None,
        Disposition::Merge | Disposition::Replace => Some(&spec.primary_key),
    }
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
    if name.starts_with(super::STAGING_PREFIX) || name == super::CHECKPOINTS {
        return fail("the name is kept for drawoff's own tables".into());
    }
    if spec.schema.columns.is_empty() {
        return fail("it has no columns".into());
    }
    if spec.disposition == Disposition::Merge && spec.primary_key.is_empty() {
        return Err(Error::new(
            ErrorKind::Schema,
            format!("table `{name}` is to be merged into, and has no primary key"),
        )
        .hint("give the stream a `primary_key`, or append to the table"));
    }
    if spec.schema.column(super::sql::SEQUENCE).is_some() {
        return fail(format!(
            "its column `{}` has a name that staging tables need",
            super::sql::SEQUENCE
        ));
    }
    let find = |column: &str, role: &str| {
        spec.schema.column(column).ok_or_else(|| {
            Error::new(
                ErrorKind::Schema,
                format!("the {role} `{column}` of table `{name}` is none of its columns"),
            )
        })
    };
    for column in unique_key(spec).unwrap_or_default() {
        let column = find(column, "primary key column")?;
        if !comparable(column) {
            return fail(format!("`{}` cannot be part of a key", column.name));
        }
    }
    if let (Some(_), Some(cursor)) = (unique_key(spec), &spec.cursor) {
        let column = find(cursor, "cursor")?;
        if !comparable(column) {
            return fail(format!("`{}` cannot be a cursor", column.name));
        }
    }
    if let Some(partition) = &spec.partition_by {
        let column = find(partition, "partitioning column")?;
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

fn comparable(column: &Column) -> bool {
    column.mode != Mode::Repeated
        && !matches!(
            column.kind,
            ColumnType::Record | ColumnType::Json | ColumnType::Geography
        )
}

/// Whether every row has its key: a null never equals another, so such a row would be inserted again
/// by every run.
///
/// # Errors
/// [`ErrorKind::Schema`] naming the first key column that has a null.
pub(super) fn check_keys(spec: &TableSpec, batch: &RecordBatch) -> Result<()> {
    let Some(key) = unique_key(spec) else {
        return Ok(());
    };
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let part = key.iter().any(|k| k.eq_ignore_ascii_case(field.name()));
        if part && column.null_count() > 0 {
            return Err(Error::new(
                ErrorKind::Schema,
                format!(
                    "a row for table `{}` has no value in the primary key column `{}`",
                    spec.name,
                    field.name()
                ),
            )
            .hint("name columns in `primary_key` that the API always fills, and make them REQUIRED so that records without them are rejected one by one"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::TableSchema;

    fn spec(columns: Vec<Column>) -> TableSpec {
        TableSpec {
            name: "t".into(),
            description: String::new(),
            schema: TableSchema { columns },
            disposition: Disposition::Append,
            primary_key: vec![],
            cursor: None,
            partition_by: None,
            cluster_by: vec![],
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
                    partition_by: Some("id".into()),
                    ..spec(vec![id()])
                },
                "cannot be partitioned by `id`",
            ),
            (
                TableSpec {
                    cluster_by: vec!["f".into()],
                    ..spec(vec![Column::new("f", ColumnType::Float64)])
                },
                "cannot be clustered by `f`",
            ),
            (spec(vec![Column::new("_seq", ColumnType::Int64)]), "`_seq`"),
        ];
        for (spec, expected) in cases {
            let error = check(&spec).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Schema);
            assert!(error.to_string().contains(expected), "{error}");
        }
        check(&spec(vec![id()])).unwrap();
    }
}
