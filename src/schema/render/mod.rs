//! Arrow cells as text and as JSON: the one place that says how a value of each BigQuery type is
//! written down outside of Arrow. Exact: no integer or decimal passes through a float.
//!
//! | type | text | JSON |
//! |---|---|---|
//! | STRING, GEOGRAPHY | as it is | string |
//! | BYTES | standard base64 | string |
//! | INT64 | `-12` | number |
//! | FLOAT64 | `1.5`, `NaN`, `Infinity`, `-Infinity` | number; string when not finite |
//! | NUMERIC, BIGNUMERIC | `12.5`, no trailing zeros, no exponent | string |
//! | BOOL | `true` | boolean |
//! | TIMESTAMP | `2026-01-02T03:04:05.000006Z` | string |
//! | DATETIME | `2026-01-02T03:04:05.000006` | string |
//! | DATE, TIME | `2026-01-02`, `03:04:05.000006` | string |
//! | JSON | as it is | the value itself |
//! | RECORD, REPEATED | JSON text | object, array |
//!
//! Times have a fixed width, so that their text sorts as they do.
//!
//! | module | owns |
//! |---|---|
//! | here | the cells of a column, and their text |
//! | `text` | each kind of value as text |
//! | `json` | cells as JSON, batches as NDJSON |

mod json;
mod text;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Decimal256Type, Float64Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow_array::{
    Array, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array, Float64Array,
    Int64Array, ListArray, RecordBatch, StringArray, StructArray, Time64MicrosecondArray,
    TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, TimeUnit};

use self::text::{base64, date, datetime, decimal, number, time};
use super::{ColumnType, column_type_of};
use crate::error::{Error, ErrorKind, Result};

pub use json::{Integers, JsonRows, JsonStyle, write_ndjson, write_ndjson_with};
pub use text::non_finite;

/// One column of a batch, its type settled once for all its cells.
#[derive(Debug)]
pub enum Cells<'a> {
    /// STRING and GEOGRAPHY.
    Text(&'a StringArray),
    /// JSON.
    Json(&'a StringArray),
    /// BYTES.
    Bytes(&'a BinaryArray),
    /// INT64.
    Int(&'a Int64Array),
    /// FLOAT64.
    Float(&'a Float64Array),
    /// BOOL.
    Bool(&'a BooleanArray),
    /// NUMERIC.
    Numeric(&'a Decimal128Array),
    /// BIGNUMERIC.
    BigNumeric(&'a Decimal256Array),
    /// TIMESTAMP, microseconds since 1970 in UTC.
    Timestamp(&'a TimestampMicrosecondArray),
    /// DATETIME, microseconds since 1970 in no zone.
    DateTime(&'a TimestampMicrosecondArray),
    /// DATE, days since 1970.
    Date(&'a Date32Array),
    /// TIME, microseconds since midnight.
    Time(&'a Time64MicrosecondArray),
    /// RECORD: each field's `"name":` as JSON, and its cells.
    Record(&'a StructArray, Vec<(Vec<u8>, Cells<'a>)>),
    /// REPEATED: the cells of all items.
    List(&'a ListArray, Box<Cells<'a>>),
}

impl<'a> Cells<'a> {
    /// The cells of an array that has the type of `field`.
    ///
    /// # Errors
    /// [`ErrorKind::Bug`] when [`super::arrow_schema()`] makes no such type.
    pub fn of(field: &Field, array: &'a dyn Array) -> Result<Self> {
        Ok(match field.data_type() {
            DataType::Utf8 if column_type_of(field) == Some(ColumnType::Json) => {
                Self::Json(array.as_string())
            }
            DataType::Utf8 => Self::Text(array.as_string()),
            DataType::Binary => Self::Bytes(array.as_binary()),
            DataType::Int64 => Self::Int(array.as_primitive::<Int64Type>()),
            DataType::Float64 => Self::Float(array.as_primitive::<Float64Type>()),
            DataType::Boolean => Self::Bool(array.as_boolean()),
            DataType::Decimal128(..) => Self::Numeric(array.as_primitive::<Decimal128Type>()),
            DataType::Decimal256(..) => Self::BigNumeric(array.as_primitive::<Decimal256Type>()),
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
                Self::Timestamp(array.as_primitive::<TimestampMicrosecondType>())
            }
            DataType::Timestamp(TimeUnit::Microsecond, None) => {
                Self::DateTime(array.as_primitive::<TimestampMicrosecondType>())
            }
            DataType::Date32 => Self::Date(array.as_primitive::<Date32Type>()),
            DataType::Time64(TimeUnit::Microsecond) => {
                Self::Time(array.as_primitive::<Time64MicrosecondType>())
            }
            DataType::Struct(fields) => {
                let record = array.as_struct();
                let members = fields
                    .iter()
                    .zip(record.columns())
                    .map(|(field, column)| Ok((json::key(field.name()), Self::of(field, column)?)))
                    .collect::<Result<_>>()?;
                Self::Record(record, members)
            }
            DataType::List(item) => {
                let list = array.as_list::<i32>();
                Self::List(list, Box::new(Self::of(item, list.values())?))
            }
            other => {
                return Err(Error::new(
                    ErrorKind::Bug,
                    format!(
                        "column `{}` has the Arrow type {other}, which no BigQuery type maps to",
                        field.name()
                    ),
                ));
            }
        })
    }

    /// The cells of each column of a batch.
    ///
    /// # Errors
    /// As [`Cells::of`].
    pub fn of_batch(batch: &'a RecordBatch) -> Result<Vec<Self>> {
        let schema = batch.schema_ref();
        schema
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(field, column)| Self::of(field, column))
            .collect()
    }

    /// Whether the cell is null.
    #[inline]
    pub fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Text(a) | Self::Json(a) => a.is_null(row),
            Self::Bytes(a) => a.is_null(row),
            Self::Int(a) => a.is_null(row),
            Self::Float(a) => a.is_null(row),
            Self::Bool(a) => a.is_null(row),
            Self::Numeric(a) => a.is_null(row),
            Self::BigNumeric(a) => a.is_null(row),
            Self::Timestamp(a) | Self::DateTime(a) => a.is_null(row),
            Self::Date(a) => a.is_null(row),
            Self::Time(a) => a.is_null(row),
            Self::Record(a, _) => a.is_null(row),
            Self::List(a, _) => a.is_null(row),
        }
    }

    /// Appends the cell as text. A null appends nothing.
    pub fn text(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            return;
        }
        match self {
            Self::Text(a) | Self::Json(a) => out.extend_from_slice(a.value(row).as_bytes()),
            Self::Bytes(a) => base64(a.value(row), out),
            Self::Int(a) => number(&a.value(row), out),
            Self::Float(a) => match non_finite(a.value(row)) {
                Some(name) => out.extend_from_slice(name.as_bytes()),
                None => number(&a.value(row), out),
            },
            Self::Bool(a) => {
                out.extend_from_slice(if a.value(row) { b"true" } else { b"false" });
            }
            Self::Numeric(a) => decimal(&a.value(row).to_string(), a.scale(), out),
            Self::BigNumeric(a) => decimal(&a.value(row).to_string(), a.scale(), out),
            Self::Timestamp(a) => {
                datetime(a.value(row), out);
                out.push(b'Z');
            }
            Self::DateTime(a) => datetime(a.value(row), out),
            Self::Date(a) => date(a.value(row).into(), out),
            Self::Time(a) => time(a.value(row), out),
            Self::Record(..) | Self::List(..) => self.json(row, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow_buffer::i256;

    use super::*;

    #[test]
    fn the_widest_decimals_are_exact() {
        let big = Decimal256Array::from(vec![i256::MAX, i256::MIN])
            .with_precision_and_scale(76, 38)
            .unwrap();
        let cells = Cells::BigNumeric(&big);
        let text = |row| {
            let mut out = Vec::new();
            cells.text(row, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            text(0),
            "578960446186580977117854925043439539266.34992332820282019728792003956564819967"
        );
        assert_eq!(
            text(1),
            "-578960446186580977117854925043439539266.34992332820282019728792003956564819968"
        );
    }
}
