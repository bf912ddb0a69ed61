//! Table shapes: a [`Column`] as BigQuery's REST resource has it, the shape of a staging table, and
//! what must change in a table for it to hold a stream's rows.

use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result};
use crate::schema::{Column, ColumnType, Mode, TableSchema};

/// Columns as the `schema.fields` of a table resource.
pub(super) fn to_fields(columns: &[Column]) -> Vec<Value> {
    columns
        .iter()
        .map(|c| serde_json::to_value(c).unwrap_or(Value::Null))
        .collect()
}

/// The columns of a staging table: the target's, none of them REQUIRED, GEOGRAPHY as text, and the
/// sequence.
pub(super) fn staging(columns: &[Column]) -> Vec<Column> {
    let mut staged: Vec<Column> = columns.iter().map(relaxed).collect();
    staged.push(Column::new(super::sql::SEQUENCE, ColumnType::Int64));
    staged
}

fn relaxed(column: &Column) -> Column {
    let kind = match column.kind {
        ColumnType::Geography => ColumnType::String,
        kind => kind,
    };
    let mode = match column.mode {
        Mode::Repeated => Mode::Repeated,
        Mode::Nullable | Mode::Required => Mode::Nullable,
    };
    Column::new(&column.name, kind)
        .mode(mode)
        .fields(column.fields.iter().map(relaxed).collect())
}

/// A table resource's columns.
///
/// # Errors
/// [`ErrorKind::Schema`] naming a column of a type that this program does not know.
pub(super) fn from_resource(table: &str, resource: &Value) -> Result<TableSchema> {
    let fields = resource["schema"]["fields"].as_array();
    Ok(TableSchema {
        columns: from_fields(table, fields.map_or(&[], Vec::as_slice))?,
    })
}

fn from_fields(table: &str, fields: &[Value]) -> Result<Vec<Column>> {
    /// What [`Column`] knows of a field; BigQuery adds attributes over time.
    const KNOWN: [&str; 10] = [
        "name",
        "type",
        "mode",
        "description",
        "fields",
        "maxLength",
        "precision",
        "scale",
        "policyTags",
        "defaultValueExpression",
    ];
    fields
        .iter()
        .map(|field| {
            let inner = field["fields"].as_array().map_or(&[][..], Vec::as_slice);
            let mut known = Map::new();
            for key in KNOWN {
                if let Some(value) = field.get(key).filter(|v| !v.is_null() && key != "fields") {
                    known.insert(key.into(), value.clone());
                }
            }
            let mut column: Column =
                serde_json::from_value(Value::Object(known)).map_err(|_| {
                    Error::new(
                        ErrorKind::Schema,
                        format!(
                            "column `{}` of table `{table}` is of type `{}`, which is not supported",
                            field["name"].as_str().unwrap_or_default(),
                            field["type"].as_str().unwrap_or_default()
                        ),
                    )
                })?;
            column.fields = from_fields(table, inner)?;
            Ok(column)
        })
        .collect()
}

/// The `schema.fields` that a table needs to hold rows of `wanted`, when they are not the ones it has:
/// columns are added at the end as NULLABLE, REQUIRED ones relaxed, descriptions renewed. Attributes
/// and columns that `wanted` does not speak of stay.
///
/// # Errors
/// [`ErrorKind::Schema`] naming the table, the column and both shapes.
pub(super) fn evolve(
    table: &str,
    existing: &[Value],
    wanted: &[Column],
) -> Result<Option<Vec<Value>>> {
    let evolved = merge(table, existing, wanted, "")?;
    Ok((evolved != existing).then_some(evolved))
}

fn merge(table: &str, existing: &[Value], wanted: &[Column], path: &str) -> Result<Vec<Value>> {
    let mut merged = existing.to_vec();
    let refuse = |text: String| {
        Error::new(
            ErrorKind::Schema,
            format!("table `{table}` cannot become what the stream wants: {text}"),
        )
        .hint("correct the stream's schema, give the stream another table, or change the table by hand (BigQuery cannot change a column's type in place)")
    };
    for column in wanted {
        let full = join(path, &column.name);
        let at = merged.iter().position(|f| {
            f["name"]
                .as_str()
                .is_some_and(|n| n.eq_ignore_ascii_case(&column.name))
        });
        let Some(at) = at else {
            let mut added = column.clone();
            relax_added(&mut added);
            merged.extend(to_fields(&[added]));
            continue;
        };
        let field = &mut merged[at];
        let kind = kind_of(field);
        if kind != Some(column.kind) {
            return Err(refuse(format!(
                "column `{full}` is {} there, and {} in the schema",
                kind.map_or_else(
                    || field["type"].as_str().unwrap_or("unknown").to_owned(),
                    |k| k.sql().to_owned()
                ),
                column.kind.sql()
            )));
        }
        let mode = field["mode"].as_str().unwrap_or("NULLABLE").to_uppercase();
        match (mode.as_str(), column.mode) {
            ("REPEATED", Mode::Repeated)
            | ("REQUIRED", Mode::Required)
            | ("NULLABLE", Mode::Nullable | Mode::Required) => {}
            ("REQUIRED", Mode::Nullable) => field["mode"] = json!("NULLABLE"),
            (there, _) => {
                return Err(refuse(format!(
                    "column `{full}` is {there} there, and {} in the schema",
                    match column.mode {
                        Mode::Nullable => "NULLABLE",
                        Mode::Required => "REQUIRED",
                        Mode::Repeated => "REPEATED",
                    }
                )));
            }
        }
        if !column.description.is_empty()
            && field["description"].as_str() != Some(&column.description)
        {
            field["description"] = json!(column.description);
        }
        if column.kind == ColumnType::Record {
            let inner = field["fields"].as_array().cloned().unwrap_or_default();
            field["fields"] = Value::Array(merge(table, &inner, &column.fields, &full)?);
        }
    }
    for field in existing {
        let name = field["name"].as_str().unwrap_or_default();
        let spoken_of = wanted.iter().any(|c| c.name.eq_ignore_ascii_case(name));
        let required = field["mode"]
            .as_str()
            .is_some_and(|m| m.eq_ignore_ascii_case("REQUIRED"));
        if required && !spoken_of && field["defaultValueExpression"].is_null() {
            return Err(refuse(format!(
                "its column `{}` is REQUIRED, and the schema has no such column",
                join(path, name)
            )));
        }
    }
    Ok(merged)
}

/// BigQuery adds no REQUIRED column to a table that is there, and takes no default with an added one
/// for the rows that are there; a RECORD's own fields may stay as they are.
fn relax_added(column: &mut Column) {
    if column.mode == Mode::Required {
        column.mode = Mode::Nullable;
    }
}

fn kind_of(field: &Value) -> Option<ColumnType> {
    let name = field["type"].as_str()?.to_uppercase();
    serde_json::from_value(Value::String(name)).ok()
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Whether a resource has every wanted column, nested ones included.
pub(super) fn has_all(resource: &[Value], wanted: &[Column]) -> bool {
    wanted.iter().all(|column| {
        resource
            .iter()
            .find(|f| {
                f["name"]
                    .as_str()
                    .is_some_and(|n| n.eq_ignore_ascii_case(&column.name))
            })
            .is_some_and(|f| {
                let inner = f["fields"].as_array().map_or(&[][..], Vec::as_slice);
                has_all(inner, &column.fields)
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn existing() -> Vec<Value> {
        vec![
            json!({"name": "Id", "type": "INTEGER", "mode": "REQUIRED", "roundingMode": "KEPT"}),
            json!({"name": "r", "type": "RECORD", "fields": [{"name": "a", "type": "STRING"}]}),
            json!({"name": "other", "type": "FLOAT"}),
        ]
    }

    fn wanted() -> Vec<Column> {
        vec![
            Column::new("id", ColumnType::Int64).mode(Mode::Required),
            Column::new("r", ColumnType::Record).fields(vec![Column::new("a", ColumnType::String)]),
        ]
    }

    #[test]
    fn the_same_shape_needs_nothing() {
        assert_eq!(evolve("t", &existing(), &wanted()).unwrap(), None);
    }

    #[test]
    fn columns_are_added_nullable_at_every_level_and_nothing_is_lost() {
        let mut wanted = wanted();
        wanted[1]
            .fields
            .push(Column::new("b", ColumnType::Bool).mode(Mode::Required));
        wanted.push(Column::new("l", ColumnType::Date).mode(Mode::Repeated));
        let fields = evolve("t", &existing(), &wanted).unwrap().unwrap();
        assert_eq!(fields[0], existing()[0]);
        assert_eq!(
            fields[1]["fields"][1],
            json!({"name": "b", "type": "BOOL", "mode": "NULLABLE"})
        );
        assert_eq!(fields[2], existing()[2]);
        assert_eq!(
            fields[3],
            json!({"name": "l", "type": "DATE", "mode": "REPEATED"})
        );
        assert!(has_all(&fields, &wanted));
        assert!(!has_all(&existing(), &wanted));
    }

    #[test]
    fn required_is_relaxed_and_descriptions_follow() {
        let wanted = [Column::new("id", ColumnType::Int64).describe("Number.")];
        let fields = evolve("t", &existing(), &wanted).unwrap().unwrap();
        assert_eq!(fields[0]["mode"], "NULLABLE");
        assert_eq!(fields[0]["description"], "Number.");
        assert_eq!(fields[0]["roundingMode"], "KEPT");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let mut typed = wanted();
        typed[1].fields[0].kind = ColumnType::Int64;
        let e = evolve("t", &existing(), &typed).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Schema);
        assert!(
            e.to_string().contains(
                "table `t` cannot become what the stream wants: column `r.a` is STRING there, and INT64 in the schema"
            ),
            "{e}"
        );
        let mut listed = wanted();
        listed[0].mode = Mode::Repeated;
        let e = evolve("t", &existing(), &listed).unwrap_err();
        assert!(
            e.to_string().contains("REQUIRED there, and REPEATED"),
            "{e}"
        );
        let e = evolve("t", &existing(), &wanted()[1..]).unwrap_err();
        assert!(e.to_string().contains("its column `Id` is REQUIRED"), "{e}");
    }

    #[test]
    fn staging_has_no_required_columns() {
        let staged = staging(&[
            Column::new("id", ColumnType::Int64).mode(Mode::Required),
            Column::new("g", ColumnType::Geography),
            Column::new("r", ColumnType::Record)
                .mode(Mode::Repeated)
                .fields(vec![
                    Column::new("a", ColumnType::Bool).mode(Mode::Required),
                ]),
        ]);
        assert_eq!(staged[0].mode, Mode::Nullable);
        assert_eq!(staged[1].kind, ColumnType::String);
        assert_eq!(staged[2].mode, Mode::Repeated);
        assert_eq!(staged[2].fields[0].mode, Mode::Nullable);
        assert_eq!(staged[3].name, "_seq");
    }

    #[test]
    fn reads_resources_with_attributes_from_the_future() {
        let resource = json!({"schema": {"fields": existing()}});
        let schema = from_resource("t", &resource).unwrap();
        assert_eq!(schema.columns[0].kind, ColumnType::Int64);
        assert_eq!(schema.columns[1].fields[0].name, "a");
        let resource = json!({"schema": {"fields": [{"name": "x", "type": "RANGE"}]}});
        let e = from_resource("t", &resource).unwrap_err();
        assert!(
            e.to_string()
                .contains("`x` of table `t` is of type `RANGE`"),
            "{e}"
        );
    }
}
