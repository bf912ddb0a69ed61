//! Whether what a stream says of columns fits its declared schema.

use super::Schemas;
use super::stream::Draft;
use crate::connector::model::{CursorField, Stream};
use crate::error::nearest;
use crate::schema::landing::{Disposition, PartitionUnit, column};
use crate::schema::{Column, ColumnType, Mode, TableSchema};
use crate::yaml::finding::suggest;
use crate::yaml::{Position, Reader};

/// Columns that the engine adds.
const ENGINE: [(&str, ColumnType); 3] = [
    (column::EXTRACTED_AT, ColumnType::Timestamp),
    (column::RUN_ID, ColumnType::String),
    (column::SLICE_ID, ColumnType::String),
];

/// And to one with history.
const HISTORY: [(&str, ColumnType); 3] = [
    (column::VALID_FROM, ColumnType::Timestamp),
    (column::VALID_TO, ColumnType::Timestamp),
    (column::ROW_HASH, ColumnType::String),
];

/// And to one with soft deletes.
const DELETES: [(&str, ColumnType); 1] = [(column::DELETED_AT, ColumnType::Timestamp)];

/// Those that `audit_columns: false` leaves out.
const AUDIT: [&str; 2] = [column::EXTRACTED_AT, column::RUN_ID];

/// The columns that the engine adds to a stream's table.
fn engine(stream: &Stream) -> impl Iterator<Item = (&'static str, ColumnType)> {
    let history = stream.table.disposition == Disposition::Scd2;
    let more: &[_] = match (history, stream.table.soft_delete) {
        (true, _) => &HISTORY,
        (false, true) => &DELETES,
        (false, false) => &[],
    };
    ENGINE.iter().chain(more).copied()
}

/// Checks every stream against its schema, and every schema for its stream.
pub(super) fn schemas(reader: &mut Reader, drafts: &[Draft], schemas: &Schemas) {
    for (stream, (file, schema)) in schemas {
        let names: Vec<&str> = drafts.iter().map(|d| d.stream.name.as_str()).collect();
        if !names.contains(&stream.as_str()) {
            reader.findings.error_in(
                file,
                format!("the schema is for stream `{stream}`, which does not exist"),
                suggest(stream, &names),
            );
        }
        for column in &schema.columns {
            undescribed(reader, file, "", column);
        }
        let draft = drafts.iter().find(|d| d.stream.name == *stream);
        for (name, _) in draft.into_iter().flat_map(|d| engine(&d.stream)) {
            if schema.column(name).is_some() {
                reader.findings.error_in(
                    file,
                    format!("column `{name}` is the engine's own"),
                    "leave it out; drawoff adds it".to_owned(),
                );
            }
        }
    }
    for draft in drafts {
        let schema = schemas.get(&draft.stream.name).map(|(_, schema)| schema);
        Fit {
            reader,
            draft,
            schema,
        }
        .check();
        parent_fields(reader, draft, schemas);
    }
}

/// Fields named of a parent are usually columns of its table; another name is likely a slip.
fn parent_fields(reader: &mut Reader, draft: &Draft, schemas: &Schemas) {
    let Some(parent) = &draft.stream.parent else {
        return;
    };
    let Some((_, schema)) = schemas.get(&parent.stream) else {
        return;
    };
    for field in &parent.fields {
        let first = field.split('.').next().unwrap_or(field);
        let column = crate::schema::name::normalize(first);
        if schema.column(&column).is_none() {
            let known: Vec<&str> = schema.columns.iter().map(|c| c.name.as_str()).collect();
            reader.findings.warning(
                draft.parent_at,
                format!("`{}` has no column `{first}`", parent.stream),
                nearest(first, known).map(|near| format!("did you mean `{near}`?")),
            );
        }
    }
}

fn undescribed(reader: &mut Reader, file: &str, path: &str, column: &Column) {
    let path = format!("{path}{}", column.name);
    if column.description.trim().is_empty() {
        reader
            .findings
            .warning_in(file, format!("column `{path}` has no description"), None);
    }
    for field in &column.fields {
        undescribed(reader, file, &format!("{path}."), field);
    }
}

struct Fit<'a> {
    reader: &'a mut Reader,
    draft: &'a Draft,
    schema: Option<&'a TableSchema>,
}

/// What is known of a column.
enum Found {
    /// Its type and mode.
    Typed(ColumnType, Mode),
    /// Nothing: there is no schema.
    Unknown,
    /// It does not exist.
    Missing,
    /// It is one of [`AUDIT`], and the stream does without them.
    LeftOut,
}

impl Fit<'_> {
    fn check(&mut self) {
        let stream = &self.draft.stream;
        let places = &self.draft.places;
        for ((name, _), at) in stream.add_columns.iter().zip(&places.add_columns) {
            let taken = self.schema.is_some_and(|s| s.column(name).is_some());
            let engine = engine(stream).any(|(e, _)| e.eq_ignore_ascii_case(name));
            if taken || engine {
                let whose = if engine {
                    "the engine's own"
                } else {
                    "in the schema"
                };
                self.reader.findings.error(
                    *at,
                    format!("added column `{name}` is {whose} already"),
                    "give it another name".to_owned(),
                );
            }
        }
        for (name, at) in stream.primary_key.iter().zip(&places.primary_key) {
            self.column(name, *at, "primary_key", |kind, mode| {
                mode != Mode::Repeated
                    && !matches!(
                        kind,
                        ColumnType::Float64
                            | ColumnType::Json
                            | ColumnType::Geography
                            | ColumnType::Record
                    )
            });
        }
        if let (Some(partition), Some(at)) = (&stream.table.partition, places.partition_by) {
            self.column(&partition.column, at, "partition_by", |kind, mode| {
                let date = kind == ColumnType::Date && partition.unit != PartitionUnit::Hour;
                mode != Mode::Repeated
                    && (date || matches!(kind, ColumnType::DateTime | ColumnType::Timestamp))
            });
            let engine = engine(stream).any(|(e, _)| e.eq_ignore_ascii_case(&partition.column));
            if partition.fixed && engine {
                self.reader.findings.error(
                    at,
                    format!(
                        "`fixed` is not true of `{}`, which changes with each run",
                        partition.column
                    ),
                    "leave `fixed` out, or partition by a column such as `created_at`".to_owned(),
                );
            }
        }
        for (name, at) in stream.table.cluster_by.iter().zip(&places.cluster_by) {
            self.column(name, *at, "cluster_by", |kind, mode| {
                mode != Mode::Repeated
                    && !matches!(
                        kind,
                        ColumnType::Float64
                            | ColumnType::Json
                            | ColumnType::Record
                            | ColumnType::Bytes
                            | ColumnType::Time
                    )
            });
        }
        let own = stream.incremental.as_ref().map(|i| &i.cursor);
        if let (Some(CursorField::Own(name)), Some(at)) = (own, places.cursor) {
            self.column(name, at, "cursor", |kind, mode| {
                mode != Mode::Repeated
                    && matches!(
                        kind,
                        ColumnType::Timestamp
                            | ColumnType::DateTime
                            | ColumnType::Date
                            | ColumnType::Int64
                            | ColumnType::String
                    )
            });
        }
    }

    fn column(
        &mut self,
        name: &str,
        at: Position,
        key: &str,
        fit: impl Fn(ColumnType, Mode) -> bool,
    ) {
        let stream = &self.draft.stream.name;
        match self.find(name, key == "cursor") {
            Found::Unknown => {}
            Found::Typed(kind, mode) if fit(kind, mode) => {}
            Found::Typed(kind, mode) => {
                let hint = match key {
                    "primary_key" if kind == ColumnType::Float64 => {
                        "a FLOAT64 is never sure to equal another: declare it as INT64, NUMERIC or STRING"
                    }
                    "primary_key" => "a key can be compared: no JSON, GEOGRAPHY, RECORD or list",
                    "partition_by" => "tables are partitioned by a DATE, DATETIME or TIMESTAMP",
                    "cluster_by" => {
                        "tables are clustered by BIGNUMERIC, BOOL, DATE, DATETIME, GEOGRAPHY, INT64, NUMERIC, STRING or TIMESTAMP"
                    }
                    _ => "a cursor is a TIMESTAMP, DATETIME, DATE, INT64 or STRING",
                };
                let list = if mode == Mode::Repeated {
                    "REPEATED "
                } else {
                    ""
                };
                self.reader.findings.error(
                    at,
                    format!(
                        "column `{name}` of stream `{stream}` is {list}{}, unfit for `{key}`",
                        kind.sql()
                    ),
                    hint.to_owned(),
                );
            }
            Found::LeftOut => self.reader.findings.error(
                at,
                format!(
                    "`{key}` names `{name}`, which the table of stream `{stream}` lacks because of `audit_columns: false`"
                ),
                "leave `audit_columns` out, or name a column of the records".to_owned(),
            ),
            Found::Missing => {
                let known: Vec<&str> = self.known();
                let hint = match nearest(name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the columns are `{}`", known.join("`, `")),
                };
                self.reader.findings.error(
                    at,
                    format!("`{key}` names `{name}`, which is no column of stream `{stream}`"),
                    hint,
                );
            }
        }
    }

    fn known(&self) -> Vec<&str> {
        let added = self.draft.stream.add_columns.iter();
        self.schema
            .iter()
            .flat_map(|s| s.columns.iter().map(|c| c.name.as_str()))
            .chain(added.map(|(name, _)| name.as_str()))
            .collect()
    }

    /// The column of that name; of a dotted one inside RECORDs when `nested`.
    fn find(&self, name: &str, nested: bool) -> Found {
        let added = &self.draft.stream.add_columns;
        let declared = self.schema.is_some_and(|s| s.column(name).is_some());
        if !declared && added.iter().any(|(a, _)| a.eq_ignore_ascii_case(name)) {
            return Found::Typed(ColumnType::String, Mode::Nullable);
        }
        let is_audit = AUDIT.iter().any(|a| a.eq_ignore_ascii_case(name));
        if self.draft.stream.table.bare && is_audit {
            return Found::LeftOut;
        }
        let mut engine = engine(&self.draft.stream);
        if let Some((_, kind)) = engine.find(|(e, _)| e.eq_ignore_ascii_case(name)) {
            return Found::Typed(kind, Mode::Required);
        }
        let Some(schema) = self.schema else {
            return Found::Unknown;
        };
        let mut columns = &schema.columns;
        let mut parts = name.split('.').peekable();
        while let Some(part) = parts.next() {
            let Some(column) = columns.iter().find(|c| c.name.eq_ignore_ascii_case(part)) else {
                return Found::Missing;
            };
            if parts.peek().is_none() {
                return Found::Typed(column.kind, column.mode);
            }
            if !nested || column.kind != ColumnType::Record || column.mode == Mode::Repeated {
                return Found::Missing;
            }
            columns = &column.fields;
        }
        Found::Missing
    }
}
