//! A table's schema from records, for streams that declare none.
//!
//! Every column is nullable. What the sample shows only as null or as an empty list gets no column
//! of its own yet: such fields go to [`EXTRA_COLUMN`] with all others that come later.

use std::collections::BTreeMap;

use jiter::{Jiter, JiterError, Peek};

use super::decode::EXTRA_COLUMN;
use super::{Column, ColumnType, MAX_NESTING, Mode, TableSchema, name, value};

/// What is nested deeper than this becomes JSON, unread.
const DEEPEST: usize = 64;
/// An object with more keys than this is a map, and becomes JSON.
const MOST_FIELDS: usize = 200;

/// What records look like so far.
#[derive(Debug, Default)]
pub struct Inference {
    root: Fields,
    records: u64,
    others: u64,
}

/// Fields of an object, in the order in which they were first met.
#[derive(Clone, Debug, Default, PartialEq)]
struct Fields {
    shapes: BTreeMap<String, Shape>,
    order: Vec<String>,
}

impl Fields {
    /// The fields that get a column of their own, with its name: of several whose names come to the
    /// same, the first by the alphabet, so that the order of records does not decide.
    fn named(&self) -> impl Iterator<Item = (String, &Shape)> {
        self.order.iter().filter_map(|key| {
            let name = name::normalize(key);
            let first = self
                .shapes
                .keys()
                .find(|k| name::normalize(k).eq_ignore_ascii_case(&name));
            (first == Some(key)).then(|| (name, &self.shapes[key]))
        })
    }
}

/// What the values of one field look like.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    /// Only nulls.
    Null,
    /// Only nulls and empty strings.
    Empty,
    Bool,
    Int,
    /// Whole, but beyond INT64.
    BigInt,
    Float,
    Date,
    Timestamp,
    Text,
    List(Box<Shape>),
    Object(Fields),
    /// No one type holds it.
    Any,
}

impl Inference {
    /// Takes the record at the cursor into account.
    ///
    /// # Errors
    /// Broken JSON.
    pub fn record(&mut self, json: &mut Jiter<'_>, peek: Peek) -> Result<(), JiterError> {
        match shape(json, peek, 0)? {
            Shape::Object(fields) => {
                merge_fields(&mut self.root, fields);
                self.records += 1;
            }
            _ => self.others += 1,
        }
        Ok(())
    }

    /// Notes a record that cannot be read.
    pub fn unreadable(&mut self) {
        self.others += 1;
    }

    /// Records seen.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// What stood in a record's place and is none.
    pub fn others(&self) -> u64 {
        self.others
    }

    /// The schema. Columns of `existing` come first and keep their types; fields that it has no
    /// column for follow as they were met, then [`EXTRA_COLUMN`].
    pub fn schema(&self, existing: Option<&TableSchema>) -> TableSchema {
        let mut columns: Vec<Column> = existing.map(|t| t.columns.clone()).unwrap_or_default();
        columns.retain(|c| c.name != EXTRA_COLUMN);
        for column in columns_of(&self.root, 0) {
            let same = |name: &str| name.eq_ignore_ascii_case(&column.name);
            // A field with the extra column's own name goes into it like any other without a column.
            if !same(EXTRA_COLUMN) && !columns.iter().any(|c| same(&c.name)) {
                columns.push(column);
            }
        }
        columns.push(
            Column::new(EXTRA_COLUMN, ColumnType::Json)
                .describe("Fields of the record that no other column is for, by dotted name."),
        );
        TableSchema { columns }
    }
}

fn shape(json: &mut Jiter<'_>, peek: Peek, depth: usize) -> Result<Shape, JiterError> {
    Ok(match peek {
        Peek::Array | Peek::Object if depth > DEEPEST => {
            json.known_skip(peek)?;
            Shape::Any
        }
        Peek::Null => {
            json.known_null()?;
            Shape::Null
        }
        Peek::True | Peek::False => {
            json.known_bool(peek)?;
            Shape::Bool
        }
        Peek::String => text_shape(json.known_str()?),
        Peek::Array => {
            let mut item = Shape::Null;
            let mut next = json.known_array()?;
            while let Some(peek) = next {
                item = match shape(json, peek, depth + 1)? {
                    // A REPEATED column holds no nulls.
                    Shape::Null => Shape::Any,
                    found => merge(item, found),
                };
                next = json.array_step()?;
            }
            Shape::List(Box::new(item))
        }
        Peek::Object => {
            let mut fields = Fields::default();
            let mut key = json.known_object()?.map(str::to_owned);
            while let Some(name) = key {
                let peek = json.peek()?;
                let found = shape(json, peek, depth + 1)?;
                merge_field(&mut fields, name, found);
                key = json.next_key()?.map(str::to_owned);
            }
            Shape::Object(fields)
        }
        peek if peek.is_num() => {
            let raw = json.known_number_bytes(peek)?;
            if raw.iter().any(|b| matches!(b, b'.' | b'e' | b'E')) {
                Shape::Float
            } else if value::int64(raw).is_ok() {
                Shape::Int
            } else {
                Shape::BigInt
            }
        }
        peek => {
            json.known_skip(peek)?;
            Shape::Any
        }
    })
}

fn text_shape(text: &str) -> Shape {
    let dated = text.len() >= 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-';
    if text.is_empty() {
        Shape::Empty
    } else if dated && text.len() == 10 && value::date(text).is_ok() {
        Shape::Date
    } else if dated && text.len() > 10 && value::timestamp(text).is_ok() {
        Shape::Timestamp
    } else {
        Shape::Text
    }
}

fn merge_fields(into: &mut Fields, mut fields: Fields) {
    for name in fields.order {
        if let Some(found) = fields.shapes.remove(&name) {
            merge_field(into, name, found);
        }
    }
}

fn merge_field(into: &mut Fields, name: String, found: Shape) {
    match into.shapes.get_mut(&name) {
        Some(known) => *known = merge(std::mem::replace(known, Shape::Null), found),
        None => {
            into.order.push(name.clone());
            into.shapes.insert(name, found);
        }
    }
}

/// The narrowest shape that holds both.
fn merge(a: Shape, b: Shape) -> Shape {
    use Shape::{Any, BigInt, Date, Empty, Float, Int, List, Null, Object, Text, Timestamp};
    match (a, b) {
        (a, b) if a == b => a,
        (Null, other) | (other, Null) => other,
        // "" stands for a missing date or number as often as for a text.
        (Empty, other @ (Text | Date | Timestamp | Int | Float | BigInt | Shape::Bool))
        | (other @ (Text | Date | Timestamp | Int | Float | BigInt | Shape::Bool), Empty) => other,
        (Int, Float) | (Float, Int) => Float,
        (Int, BigInt) | (BigInt, Int) => BigInt,
        (Date, Timestamp) | (Timestamp, Date) => Timestamp,
        (List(a), List(b)) => List(Box::new(merge(*a, *b))),
        (Object(mut a), Object(b)) => {
            merge_fields(&mut a, b);
            if a.shapes.len() > MOST_FIELDS {
                Any
            } else {
                Object(a)
            }
        }
        // A STRING column takes numbers and flags as their text, exactly.
        (List(_) | Object(_) | Any, _) | (_, List(_) | Object(_) | Any) => Any,
        _ => Text,
    }
}

fn columns_of(fields: &Fields, depth: usize) -> Vec<Column> {
    fields
        .named()
        .filter_map(|(name, shape)| column(shape, depth).map(|c| Column { name, ..c }))
        .collect()
}

fn column(shape: &Shape, depth: usize) -> Option<Column> {
    let scalar = |kind| Some(Column::new("", kind));
    match shape {
        Shape::Null => None,
        Shape::Empty | Shape::Text => scalar(ColumnType::String),
        Shape::Bool => scalar(ColumnType::Bool),
        Shape::Int => scalar(ColumnType::Int64),
        Shape::BigInt => scalar(ColumnType::BigNumeric),
        Shape::Float => scalar(ColumnType::Float64),
        Shape::Date => scalar(ColumnType::Date),
        Shape::Timestamp => scalar(ColumnType::Timestamp),
        Shape::Any => scalar(ColumnType::Json),
        Shape::Object(_) if depth >= MAX_NESTING => scalar(ColumnType::Json),
        Shape::Object(fields) => {
            let columns = columns_of(fields, depth + 1);
            if columns.is_empty() || collides(fields) {
                scalar(ColumnType::Json)
            } else {
                Some(Column::new("", ColumnType::Record).fields(columns))
            }
        }
        Shape::List(item) => match &**item {
            Shape::Null => None,
            Shape::List(_) | Shape::Any => scalar(ColumnType::Json),
            item => match column(item, depth)? {
                // A list of JSON values is itself one JSON value, nulls and all.
                c if c.kind == ColumnType::Json => scalar(ColumnType::Json),
                c => Some(c.mode(Mode::Repeated)),
            },
        },
    }
}

/// Whether two keys would need the same column name, so that only JSON keeps both.
fn collides(fields: &Fields) -> bool {
    fields.named().count() < fields.order.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn infer(records: &[&str]) -> Inference {
        let mut inference = Inference::default();
        for record in records {
            let mut json = Jiter::new(record.as_bytes());
            let peek = json.peek().unwrap();
            inference.record(&mut json, peek).unwrap();
        }
        inference
    }

    fn types(schema: &TableSchema) -> Vec<String> {
        schema
            .columns
            .iter()
            .map(|c| {
                let repeated = if c.mode == Mode::Repeated { "[]" } else { "" };
                format!("{} {}{repeated}", c.name, c.kind.sql())
            })
            .collect()
    }

    #[test]
    fn narrowest_type_that_holds_all() {
        let schema = infer(&[
            r#"{"i": 1, "f": 1, "big": 18446744073709551615, "s": "x", "d": "2026-01-01", "t": "2026-01-01T00:00:00Z",
                "n": null, "e": [], "o": {"a": 1}, "l": ["a"], "ll": [[1]], "m": 1, "mixed": {"a": 1}, "dt": ""}"#,
            r#"{"i": 2, "f": 1.5, "s": 7, "d": null, "t": "2026-01-01", "o": {"b": true}, "l": [], "m": "x", "mixed": 3,
                "dt": "2026-01-01"}"#,
        ])
        .schema(None);
        assert_eq!(
            types(&schema),
            [
                "i INT64",
                "f FLOAT64",
                "big BIGNUMERIC",
                "s STRING",
                "d DATE",
                "t TIMESTAMP",
                "o RECORD",
                "l STRING[]",
                "ll JSON",
                "m STRING",
                "mixed JSON",
                "dt DATE",
                "_extra JSON"
            ]
        );
        assert_eq!(schema.column("o").unwrap().fields.len(), 2);
    }

    #[test]
    fn existing_columns_keep_their_place_and_type() {
        let existing = TableSchema {
            columns: vec![
                Column::new("b", ColumnType::String),
                Column::new(EXTRA_COLUMN, ColumnType::Json),
            ],
        };
        let schema = infer(&[r#"{"a": 1, "b": 2}"#]).schema(Some(&existing));
        assert_eq!(types(&schema), ["b STRING", "a INT64", "_extra JSON"]);
    }

    #[test]
    fn what_no_column_holds_becomes_json_or_extra() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        let deep = format!(
            r#"{{"id": 1, "_extra": 9, "l": [null, 1], "deep": {}}}"#,
            nested(100)
        );
        let schema = infer(&[&deep]).schema(None);
        assert_eq!(
            types(&schema),
            ["id INT64", "l JSON", "deep JSON", "_extra JSON"]
        );
        // Deeper than the reader goes: an error, not a stack that runs over.
        let endless = format!(r#"{{"deep": {}}}"#, nested(20_000));
        let mut json = Jiter::new(endless.as_bytes());
        assert!(
            Inference::default()
                .record(&mut json, Peek::Object)
                .is_err()
        );
    }

    #[test]
    fn colliding_keys_inside_become_json() {
        let schema = infer(&[r#"{"o": {"a.b": 1, "a_b": 2}}"#]).schema(None);
        assert_eq!(types(&schema), ["o JSON", "_extra JSON"]);
    }
}
