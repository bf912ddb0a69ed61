//! Table shapes: a [`Column`] as BigQuery's REST resource has it, the shape of a staging table, and
//! what must change in a table for it to hold a stream's rows.

use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result};
use crate::schema::evolution::{self, Change};
use crate::schema::landing::column;
use crate::schema::{Column, ColumnType, Mode, TableSchema};

/// Longest descriptions (BigQuery's quota page, 2026-08), in characters.
const LONGEST_DESCRIPTION: (usize, usize) = (1_024, 16_384);

/// The columns with descriptions that BigQuery takes: they are for people, and no reason to stop.
pub(super) fn described(columns: &[Column]) -> Vec<Column> {
    let short = |c: &Column| {
        Column {
            fields: described(&c.fields),
            ..c.clone()
        }
        .describe(cut(&c.description, LONGEST_DESCRIPTION.0))
    };
    columns.iter().map(short).collect()
}

/// A table's description, as long as BigQuery takes.
pub(super) fn table_description(text: &str) -> String {
    cut(text, LONGEST_DESCRIPTION.1)
}

fn cut(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest - 1) {
        Some((at, c)) if at + c.len_utf8() < text.len() => format!("{}…", &text[..at]),
        _ => text.to_owned(),
    }
}

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

/// A table resource's columns that are wanted, as they are there, and those of the engine that a merge
/// empties where they are not.
///
/// # Errors
/// As [`from_resource`].
pub(super) fn wanted(table: &str, resource: &Value, wanted: &[Column]) -> Result<Vec<Column>> {
    let fields = resource["schema"]["fields"].as_array();
    let there: Vec<Value> = fields
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .filter(|f| {
            find(wanted, f).is_some() || f["name"].as_str().is_some_and(column::is_of_last_write)
        })
        .cloned()
        .collect();
    from_fields(table, &there)
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

/// What a table must become to hold rows of `wanted`.
pub(super) struct Evolved {
    /// What is different then.
    pub changes: Vec<Change>,
    /// The `schema.fields` of a patch, when those there are not enough. BigQuery takes no other types
    /// in a patch, so columns that become wider have their old ones.
    pub fields: Option<Vec<Value>>,
    /// All columns that are known, now…
    pub before: TableSchema,
    /// …and then.
    pub schema: TableSchema,
}

/// By the rules of [`evolution`]. Attributes that this program does not know, and columns that
/// `wanted` does not speak of, stay.
///
/// # Errors
/// [`ErrorKind::Schema`] naming the table, the column and both shapes.
pub(super) fn evolve(table: &str, existing: &[Value], wanted: &[Column]) -> Result<Evolved> {
    // A column of a type from the future is no concern of ours unless it is wanted.
    let known: Vec<Value> = existing
        .iter()
        .filter(|f| {
            find(wanted, f).is_some() || from_fields(table, std::slice::from_ref(f)).is_ok()
        })
        .cloned()
        .collect();
    let before = TableSchema {
        columns: from_fields(table, &known)?,
    };
    let wanted = TableSchema {
        columns: wanted.to_vec(),
    };
    let now = evolution::reconcile(table, &before, &wanted)?;
    let fields = patched(existing, &now.schema.columns);
    Ok(Evolved {
        changes: now.changes,
        fields: (fields != existing).then_some(fields),
        before,
        schema: now.schema,
    })
}

/// The fields with the modes and descriptions of the columns, and those that lack at the end.
fn patched(existing: &[Value], columns: &[Column]) -> Vec<Value> {
    let mut fields = existing.to_vec();
    for column in columns {
        let Some(field) = fields
            .iter_mut()
            .find(|f| find(std::slice::from_ref(column), f).is_some())
        else {
            fields.extend(to_fields(std::slice::from_ref(column)));
            continue;
        };
        let required = field["mode"]
            .as_str()
            .is_some_and(|m| m.eq_ignore_ascii_case("REQUIRED"));
        if required && column.mode == Mode::Nullable {
            field["mode"] = json!("NULLABLE");
        }
        if !column.description.is_empty()
            && field["description"].as_str() != Some(&column.description)
        {
            field["description"] = json!(column.description);
        }
        if column.kind == ColumnType::Record {
            let inner = field["fields"].as_array().map_or(&[][..], Vec::as_slice);
            field["fields"] = Value::Array(patched(inner, &column.fields));
        }
    }
    fields
}

fn find<'a>(columns: &'a [Column], field: &Value) -> Option<&'a Column> {
    let name = field["name"].as_str()?;
    columns.iter().find(|c| c.name.eq_ignore_ascii_case(name))
}

/// Whether a resource has every wanted column, nested ones included.
pub(super) fn has_all(resource: &[Value], wanted: &[Column]) -> bool {
    lacking(resource, wanted).is_empty()
}

/// The wanted columns that a resource lacks, nested ones included: `a`, `r.b`.
pub(super) fn lacking(resource: &[Value], wanted: &[Column]) -> Vec<String> {
    let mut paths = Vec::new();
    for column in wanted {
        let is_it = |f: &&Value| {
            let name = f["name"].as_str();
            name.is_some_and(|n| n.eq_ignore_ascii_case(&column.name))
        };
        let Some(field) = resource.iter().find(is_it) else {
            paths.push(column.name.clone());
            continue;
        };
        let inner = field["fields"].as_array().map_or(&[][..], Vec::as_slice);
        let within = lacking(inner, &column.fields);
        paths.extend(within.iter().map(|path| format!("{}.{path}", column.name)));
    }
    paths
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

    fn fields(existing: &[Value], wanted: &[Column]) -> Option<Vec<Value>> {
        evolve("t", existing, wanted).unwrap().fields
    }

    #[test]
    fn the_same_shape_needs_nothing() {
        let same = evolve("t", &existing(), &wanted()).unwrap();
        assert!(same.fields.is_none() && same.changes.is_empty());
    }

    #[test]
    fn columns_are_added_nullable_at_every_level_and_nothing_is_lost() {
        let mut wanted = wanted();
        wanted[1]
            .fields
            .push(Column::new("b", ColumnType::Bool).mode(Mode::Required));
        wanted.push(Column::new("l", ColumnType::Date).mode(Mode::Repeated));
        // The whole schema, as a patch replaces it whole.
        let fields = fields(&existing(), &wanted).unwrap();
        assert_eq!(
            fields,
            [
                existing()[0].clone(),
                json!({"name": "r", "type": "RECORD", "fields": [
                    {"name": "a", "type": "STRING"},
                    {"name": "b", "type": "BOOL", "mode": "NULLABLE"}]}),
                existing()[2].clone(),
                json!({"name": "l", "type": "DATE", "mode": "REPEATED"}),
            ]
        );
        assert!(lacking(&fields, &wanted).is_empty());
        assert_eq!(lacking(&existing(), &wanted), ["r.b", "l"]);
    }

    #[test]
    fn required_is_relaxed_and_descriptions_follow() {
        let wanted = [Column::new("id", ColumnType::Int64).describe("Number.")];
        let fields = fields(&existing(), &wanted).unwrap();
        assert_eq!(fields[0]["mode"], "NULLABLE");
        assert_eq!(fields[0]["description"], "Number.");
        assert_eq!(fields[0]["roundingMode"], "KEPT");
    }

    #[test]
    fn wider_types_are_no_matter_of_a_patch() {
        let wanted = [Column::new("id", ColumnType::Numeric).mode(Mode::Required)];
        let evolved = evolve("t", &existing(), &wanted).unwrap();
        assert_eq!(evolved.fields, None);
        assert_eq!(evolved.changes.len(), 1);
        assert_eq!(evolved.schema.columns[0].kind, ColumnType::Numeric);
    }

    #[test]
    fn columns_from_the_future_stay_unless_they_are_wanted() {
        let mut there = existing();
        there.push(json!({"name": "x", "type": "RANGE"}));
        let mut wanted = wanted();
        assert_eq!(fields(&there, &wanted), None);
        wanted.push(Column::new("x", ColumnType::String));
        assert!(evolve("t", &there, &wanted).is_err());
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let mut typed = wanted();
        typed[1].fields[0].kind = ColumnType::Int64;
        let refused = |wanted: &[Column]| evolve("t", &existing(), wanted).err().unwrap();
        let e = refused(&typed);
        assert_eq!(e.kind(), ErrorKind::Schema);
        assert!(
            e.to_string().contains(
                "table `t` cannot become what the stream wants: column `r.a` is STRING there, and INT64 in the stream's schema"
            ),
            "{e}"
        );
        let mut listed = wanted();
        listed[0].mode = Mode::Repeated;
        let e = refused(&listed);
        assert!(
            e.to_string().contains("REQUIRED there, and REPEATED"),
            "{e}"
        );
        let e = refused(&wanted()[1..]);
        assert!(e.to_string().contains("column `Id` is REQUIRED"), "{e}");
    }

    #[test]
    fn descriptions_are_cut_to_what_bigquery_takes() {
        let column = Column::new("a", ColumnType::Int64).describe("ä".repeat(1_025));
        let cut = described(&[column]).remove(0).description;
        assert_eq!(cut.chars().count(), 1_024);
        assert!(cut.ends_with('…'));
        assert_eq!(table_description("short"), "short");
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
    fn wanted_columns_are_read_as_they_are_there() {
        let mut there = existing();
        there.push(json!({"name": "x", "type": "RANGE"}));
        let resource = json!({"schema": {"fields": there}});
        let found = super::wanted("t", &resource, &wanted()).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].name, "Id");
        assert_eq!(found[1].fields[0].name, "a");
        assert_eq!(super::wanted("t", &Value::Null, &wanted()).unwrap(), []);
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
