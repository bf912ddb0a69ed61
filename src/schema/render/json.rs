//! Cells as JSON, and batches as newline-delimited JSON.

use std::io::Write;

use arrow_array::RecordBatch;

use super::Cells;
use crate::error::{Error, ErrorKind, Result};

/// Up to here a double holds every integer: 2^53 - 1.
const MOST_EXACT_INTEGER: u64 = (1 << 53) - 1;

/// How cells are written as JSON. Readers differ in what they make of JSON's numbers, objects and nulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonStyle {
    /// How integers are written.
    pub integers: Integers,
    /// Whether a JSON column's value is a string that holds it.
    pub json_as_text: bool,
    /// Whether members of objects that are null are left out.
    pub without_nulls: bool,
}

/// How integers are written as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integers {
    /// As numbers.
    Numbers,
    /// Those outside of ±(2^53 - 1) as strings, for readers that keep JSON's numbers as doubles.
    WideAsStrings,
    /// As strings.
    Strings,
}

impl JsonStyle {
    /// As people and most programs expect it.
    pub const PLAIN: Self = Self {
        integers: Integers::Numbers,
        json_as_text: false,
        without_nulls: false,
    };
}

impl Cells<'_> {
    /// Appends the cell as a JSON value on one line.
    pub fn json(&self, row: usize, out: &mut Vec<u8>) {
        self.json_with(row, JsonStyle::PLAIN, out);
    }

    fn json_with(&self, row: usize, style: JsonStyle, out: &mut Vec<u8>) {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return;
        }
        match self {
            Self::Text(a) => string(a.value(row), out),
            Self::Json(a) if style.json_as_text => string(a.value(row), out),
            // Valid JSON has line breaks only between its tokens, where a space says the same.
            Self::Json(a) => out.extend(a.value(row).bytes().map(|b| match b {
                b'\n' | b'\r' => b' ',
                b => b,
            })),
            Self::Int(a) if style.integers.are_strings(a.value(row)) => {
                out.push(b'"');
                self.text(row, out);
                out.push(b'"');
            }
            Self::Int(_) | Self::Bool(_) => self.text(row, out),
            Self::Float(a) if a.value(row).is_finite() => self.text(row, out),
            Self::Record(_, members) => object(members, row, style, out),
            Self::List(a, items) => {
                out.push(b'[');
                let offsets = a.value_offsets();
                // Offsets of a list are never negative.
                let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
                for item in start..end {
                    if item > start {
                        out.push(b',');
                    }
                    items.json_with(item, style, out);
                }
                out.push(b']');
            }
            _ => {
                out.push(b'"');
                self.text(row, out);
                out.push(b'"');
            }
        }
    }
}

impl Integers {
    fn are_strings(self, value: i64) -> bool {
        match self {
            Self::Numbers => false,
            Self::WideAsStrings => value.unsigned_abs() > MOST_EXACT_INTEGER,
            Self::Strings => true,
        }
    }
}

/// Appends an object of these members.
fn object(members: &[(Vec<u8>, Cells<'_>)], row: usize, style: JsonStyle, out: &mut Vec<u8>) {
    out.push(b'{');
    let start = out.len();
    for (key, cells) in members {
        if style.without_nulls && cells.is_null(row) {
            continue;
        }
        if out.len() > start {
            out.push(b',');
        }
        out.extend_from_slice(key);
        cells.json_with(row, style, out);
    }
    out.push(b'}');
}

/// Writes the rows of a batch as JSON objects, keys in the schema's order.
pub struct JsonRows<'a> {
    members: Vec<(Vec<u8>, Cells<'a>)>,
    style: JsonStyle,
}

impl<'a> JsonRows<'a> {
    /// Of this batch.
    ///
    /// # Errors
    /// [`ErrorKind::Bug`] for an array of a type that no column has.
    pub fn new(batch: &'a RecordBatch, style: JsonStyle) -> Result<Self> {
        let fields = batch.schema_ref().fields().iter();
        let keys = fields.map(|f| key(f.name()));
        Ok(Self {
            members: keys.zip(Cells::of_batch(batch)?).collect(),
            style,
        })
    }

    /// Appends the row.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        object(&self.members, row, self.style, out);
    }
}

/// Writes a batch as newline-delimited JSON: an object a row, keys in the schema's order, nulls as
/// `null`.
///
/// # Errors
/// [`ErrorKind::Unavailable`] when `out` cannot be written to.
pub fn write_ndjson(batch: &RecordBatch, out: &mut impl Write) -> Result<()> {
    write_ndjson_with(batch, JsonStyle::PLAIN, out)
}

/// [`write_ndjson`], with a choice.
///
/// # Errors
/// [`ErrorKind::Unavailable`] when `out` cannot be written to.
pub fn write_ndjson_with(
    batch: &RecordBatch,
    style: JsonStyle,
    out: &mut impl Write,
) -> Result<()> {
    const FLUSH: usize = 64 * 1024;
    let rows = JsonRows::new(batch, style)?;
    let mut lines = Vec::with_capacity(FLUSH + 4096);
    let flush = |lines: &mut Vec<u8>, out: &mut dyn Write| {
        out.write_all(lines).map_err(|e| {
            Error::new(ErrorKind::Unavailable, "could not write rows as JSON")
                .transient(false)
                .source(e)
        })?;
        lines.clear();
        Ok::<_, Error>(())
    };
    for row in 0..batch.num_rows() {
        rows.write(row, &mut lines);
        lines.push(b'\n');
        if lines.len() >= FLUSH {
            flush(&mut lines, out)?;
        }
    }
    flush(&mut lines, out)
}

/// An object's key and the colon behind it.
pub(super) fn key(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 3);
    string(name, &mut out);
    out.push(b':');
    out
}

fn string(text: &str, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{
        ArrayRef, BinaryArray, Float64Array, Int64Array, ListArray, StringArray, StructArray,
    };
    use arrow_schema::DataType;

    use super::*;
    use crate::schema::{Column, ColumnType, Mode, TableSchema, arrow_schema};

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn ndjson_keeps_order_and_nulls() {
        let inner = vec![
            Column::new("b", ColumnType::String),
            Column::new("a", ColumnType::Bytes),
        ];
        let schema = TableSchema {
            columns: vec![
                Column::new("z", ColumnType::Int64),
                Column::new("j", ColumnType::Json),
                Column::new("f", ColumnType::Float64),
                Column::new("r", ColumnType::Record).fields(inner.clone()),
                Column::new("l", ColumnType::Int64).mode(Mode::Repeated),
            ],
        };
        let arrow = arrow_schema(&schema);
        let DataType::Struct(fields) = arrow.field(3).data_type() else {
            panic!()
        };
        let record = StructArray::new(
            fields.clone(),
            vec![
                Arc::new(StringArray::from(vec!["q\"\n\u{1F600}", "x"])) as ArrayRef,
                Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\xff\x00"), None])),
            ],
            None,
        );
        let DataType::List(item) = arrow.field(4).data_type() else {
            panic!()
        };
        let list = ListArray::new(
            item.clone(),
            arrow_buffer::OffsetBuffer::new(vec![0, 0, 2].into()),
            Arc::new(Int64Array::from(vec![1, 2])),
            None,
        );
        let batch = RecordBatch::try_new(
            arrow,
            vec![
                Arc::new(Int64Array::from(vec![Some(i64::MIN), None])),
                Arc::new(StringArray::from(vec![Some("{\n\"k\": 1}"), None])),
                Arc::new(Float64Array::from(vec![f64::NAN, 1.0])),
                Arc::new(record),
                Arc::new(list),
            ],
        )
        .unwrap();
        let text = written(|o| write_ndjson(&batch, o).unwrap());
        let want = concat!(
            r#"{"z":-9223372036854775808,"j":{ "k": 1},"f":"NaN","r":{"b":"q\"\n😀","a":"/wA="},"l":[]}"#,
            "\n",
            r#"{"z":null,"j":null,"f":1.0,"r":{"b":"x","a":null},"l":[1,2]}"#,
            "\n"
        );
        assert_eq!(text, want);
        let wide = JsonStyle {
            integers: Integers::WideAsStrings,
            ..JsonStyle::PLAIN
        };
        let text = written(|o| write_ndjson_with(&batch, wide, o).unwrap());
        assert_eq!(
            text,
            want.replace("-9223372036854775808", "\"-9223372036854775808\"")
        );
        // A sliced batch shows its own rows.
        let text = written(|o| write_ndjson(&batch.slice(1, 1), o).unwrap());
        assert!(want.ends_with(&text) && text.lines().count() == 1);
    }
}
