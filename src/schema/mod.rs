//! What a table looks like, in BigQuery's own words, and how that is held in Arrow.
//!
//! A [`TableSchema`] is read from BigQuery's JSON schema format (`schemas/<connector>/<stream>.json`),
//! or inferred from records by [`infer`]. [`arrow_schema()`] maps it to Arrow, the only row format
//! inside; [`decode`] turns JSON records into batches of it.

pub mod decode;
pub mod evolution;
pub mod grow;
pub mod infer;
pub mod landing;
pub mod name;
pub mod render;
pub mod value;

mod arrow;
mod shape;

pub use arrow::{arrow_schema, column_type_of};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Deepest nesting of RECORDs that BigQuery takes.
pub const MAX_NESTING: usize = 15;

/// A table's columns, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TableSchema {
    /// The columns, in the table's order.
    pub columns: Vec<Column>,
}

/// One column, as in BigQuery's JSON schema format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Column {
    /// Name; compared without regard to case.
    pub name: String,
    /// Type.
    #[serde(rename = "type")]
    pub kind: ColumnType,
    /// `NULLABLE` when not given.
    #[serde(default)]
    pub mode: Mode,
    /// Shown to analysts; at most 1,024 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Columns of a RECORD.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Column>,
    /// Longest STRING or BYTES.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<Number>,
    /// Digits of a NUMERIC or BIGNUMERIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Number>,
    /// Digits after the point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Number>,
    /// Column-level access policy, passed through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_tags: Option<serde_json::Value>,
    /// Default for rows that leave the column out, passed through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_value_expression: Option<String>,
}

/// A whole number that BigQuery writes as a string and people as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number(pub u32);

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0.to_string())
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u32),
            Text(String),
        }
        match Either::deserialize(d)? {
            Either::Number(n) => Ok(Self(n)),
            Either::Text(t) => t.parse().map(Self).map_err(serde::de::Error::custom),
        }
    }
}

/// A column's type, by its GoogleSQL name; the legacy names are accepted when read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ColumnType {
    /// Unicode text.
    String,
    /// Octets; base64 in JSON.
    Bytes,
    /// Signed 64-bit integer.
    #[serde(alias = "INTEGER")]
    Int64,
    /// IEEE 754 double.
    #[serde(alias = "FLOAT")]
    Float64,
    /// Exact decimal, 38 digits, 9 after the point.
    #[serde(alias = "DECIMAL")]
    Numeric,
    /// Exact decimal: 256 bits, 38 digits after the point.
    #[serde(alias = "BIGDECIMAL")]
    BigNumeric,
    /// True or false.
    #[serde(alias = "BOOLEAN")]
    Bool,
    /// A point in time, in microseconds.
    Timestamp,
    /// A calendar date.
    Date,
    /// A date and time of day without a zone.
    DateTime,
    /// A time of day.
    Time,
    /// Any JSON value, kept as text.
    Json,
    /// WKT or GeoJSON text.
    Geography,
    /// Named fields.
    #[serde(alias = "STRUCT")]
    Record,
}

impl ColumnType {
    /// The GoogleSQL name, as used in DDL and in BigQuery's API.
    pub fn sql(self) -> &'static str {
        match self {
            Self::String => "STRING",
            Self::Bytes => "BYTES",
            Self::Int64 => "INT64",
            Self::Float64 => "FLOAT64",
            Self::Numeric => "NUMERIC",
            Self::BigNumeric => "BIGNUMERIC",
            Self::Bool => "BOOL",
            Self::Timestamp => "TIMESTAMP",
            Self::Date => "DATE",
            Self::DateTime => "DATETIME",
            Self::Time => "TIME",
            Self::Json => "JSON",
            Self::Geography => "GEOGRAPHY",
            Self::Record => "RECORD",
        }
    }
}

/// Whether a column may be missing, must be there, or is a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    /// May be null.
    #[default]
    Nullable,
    /// Never null.
    Required,
    /// A list without nulls.
    Repeated,
}

impl Column {
    /// A nullable column without a description.
    pub fn new(name: impl Into<String>, kind: ColumnType) -> Self {
        Self {
            name: name.into(),
            kind,
            mode: Mode::Nullable,
            description: String::new(),
            fields: Vec::new(),
            max_length: None,
            precision: None,
            scale: None,
            policy_tags: None,
            default_value_expression: None,
        }
    }

    /// Sets the name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the mode.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the description.
    #[must_use]
    pub fn describe(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// Sets a RECORD's fields.
    #[must_use]
    pub fn fields(mut self, fields: Vec<Column>) -> Self {
        self.fields = fields;
        self
    }
}

impl TableSchema {
    /// Reads BigQuery's JSON schema format (a bare array, or `{"fields": [...]}` as `bq show` prints).
    ///
    /// # Errors
    /// [`ErrorKind::Schema`] naming `origin`, the line and the column of the file.
    pub fn from_json(text: &str, origin: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Wrapped {
            fields: TableSchema,
        }
        let parsed = if text.trim_start().starts_with('{') {
            serde_json::from_str::<Wrapped>(text).map(|w| w.fields)
        } else {
            serde_json::from_str::<Self>(text)
        };
        let schema = parsed.map_err(|e| {
            Error::new(
                ErrorKind::Schema,
                format!("could not read the table schema {origin}:{}:{}: {e}", e.line(), e.column()),
            )
            .hint("the file is BigQuery's JSON schema format: [{\"name\": …, \"type\": …, \"mode\": …, \"description\": …}]")
        })?;
        validate(&schema.columns, origin, "", 0)?;
        Ok(schema)
    }

    /// Pretty JSON in BigQuery's format.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The top-level column of that name, without regard to case.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns
            .iter()
            .find(|c| c.name.eq_ignore_ascii_case(name))
    }
}

/// How many columns there are, those inside RECORDs included.
pub fn size(columns: &[Column]) -> usize {
    columns.iter().map(|c| 1 + size(&c.fields)).sum()
}

fn validate(columns: &[Column], origin: &str, path: &str, depth: usize) -> Result<()> {
    let fail = |text: String| Err(Error::new(ErrorKind::Schema, format!("{origin}: {text}")));
    if depth > MAX_NESTING {
        return fail(format!(
            "`{path}` is nested deeper than {MAX_NESTING} RECORDs"
        ));
    }
    for (i, column) in columns.iter().enumerate() {
        let full = if path.is_empty() {
            column.name.clone()
        } else {
            format!("{path}.{}", column.name)
        };
        if let Err(reason) = name::check(&column.name) {
            return fail(format!("column `{full}`: {reason}"));
        }
        if columns[..i]
            .iter()
            .any(|c| c.name.eq_ignore_ascii_case(&column.name))
        {
            return fail(format!(
                "column `{full}` stands twice (names are compared without regard to case)"
            ));
        }
        match (column.kind, column.fields.is_empty()) {
            (ColumnType::Record, true) => {
                return fail(format!("RECORD column `{full}` has no `fields`"));
            }
            (ColumnType::Record, false) => validate(&column.fields, origin, &full, depth + 1)?,
            (_, false) => return fail(format!("column `{full}` has `fields` but is no RECORD")),
            (_, true) => {}
        }
    }
    Ok(())
}
