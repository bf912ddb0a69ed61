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

use std::io::Write;

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
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{ColumnType, column_type_of};
use crate::error::{Error, ErrorKind, Result};

/// Up to here a double holds every integer: 2^53 - 1.
const MOST_EXACT_INTEGER: u64 = (1 << 53) - 1;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

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
                    .map(|(field, column)| Ok((key(field.name()), Self::of(field, column)?)))
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

    /// Appends the cell as a JSON value on one line.
    pub fn json(&self, row: usize, out: &mut Vec<u8>) {
        self.json_with(row, WideIntegers::Numbers, out);
    }

    fn json_with(&self, row: usize, wide: WideIntegers, out: &mut Vec<u8>) {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return;
        }
        match self {
            Self::Text(a) => string(a.value(row), out),
            // Valid JSON has line breaks only between its tokens, where a space says the same.
            Self::Json(a) => out.extend(a.value(row).bytes().map(|b| match b {
                b'\n' | b'\r' => b' ',
                b => b,
            })),
            Self::Int(a)
                if wide == WideIntegers::Strings
                    && a.value(row).unsigned_abs() > MOST_EXACT_INTEGER =>
            {
                out.push(b'"');
                self.text(row, out);
                out.push(b'"');
            }
            Self::Int(_) | Self::Bool(_) => self.text(row, out),
            Self::Float(a) if a.value(row).is_finite() => self.text(row, out),
            Self::Record(_, members) => {
                out.push(b'{');
                for (i, (key, cells)) in members.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(key);
                    cells.json_with(row, wide, out);
                }
                out.push(b'}');
            }
            Self::List(a, items) => {
                out.push(b'[');
                let offsets = a.value_offsets();
                // Offsets of a list are never negative.
                let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
                for item in start..end {
                    if item > start {
                        out.push(b',');
                    }
                    items.json_with(item, wide, out);
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

/// How integers outside of ±(2^53 - 1) are written as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WideIntegers {
    /// As all others.
    Numbers,
    /// As strings, for readers that keep JSON's numbers as doubles.
    Strings,
}

/// Writes a batch as newline-delimited JSON: an object a row, keys in the schema's order, nulls as
/// `null`.
///
/// # Errors
/// [`ErrorKind::Unavailable`] when `out` cannot be written to.
pub fn write_ndjson(batch: &RecordBatch, out: &mut impl Write) -> Result<()> {
    write_ndjson_with(batch, WideIntegers::Numbers, out)
}

/// [`write_ndjson`], with a choice.
///
/// # Errors
/// [`ErrorKind::Unavailable`] when `out` cannot be written to.
pub fn write_ndjson_with(
    batch: &RecordBatch,
    wide: WideIntegers,
    out: &mut impl Write,
) -> Result<()> {
    const FLUSH: usize = 64 * 1024;
    let columns = Cells::of_batch(batch)?;
    let keys: Vec<Vec<u8>> = batch
        .schema_ref()
        .fields()
        .iter()
        .map(|f| key(f.name()))
        .collect();
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
        lines.push(b'{');
        for (i, (key, cells)) in keys.iter().zip(&columns).enumerate() {
            if i > 0 {
                lines.push(b',');
            }
            lines.extend_from_slice(key);
            cells.json_with(row, wide, &mut lines);
        }
        lines.extend_from_slice(b"}\n");
        if lines.len() >= FLUSH {
            flush(&mut lines, out)?;
        }
    }
    flush(&mut lines, out)
}

/// `NaN` and the infinities by the names that BigQuery takes; `None` for a finite number.
pub fn non_finite(value: f64) -> Option<&'static str> {
    match value {
        v if v.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

fn key(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 3);
    string(name, &mut out);
    out.push(b':');
    out
}

fn string(text: &str, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

fn number(value: &impl serde::Serialize, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, value);
}

fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = BASE64.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
}

/// A decimal from its digits without a point.
fn decimal(unscaled: &str, scale: i8, out: &mut Vec<u8>) {
    let digits = match unscaled.strip_prefix('-') {
        Some(digits) => {
            out.push(b'-');
            digits
        }
        None => unscaled,
    };
    let scale = usize::try_from(scale).unwrap_or(0);
    let whole = digits.len().saturating_sub(scale);
    out.extend_from_slice(match whole {
        0 => b"0",
        _ => &digits.as_bytes()[..whole],
    });
    let fraction = digits[whole..].trim_end_matches('0');
    if !fraction.is_empty() {
        out.push(b'.');
        out.resize(out.len() + scale - (digits.len() - whole), b'0');
        out.extend_from_slice(fraction.as_bytes());
    }
}

fn datetime(micros: i64, out: &mut Vec<u8>) {
    date(micros.div_euclid(MICROS_PER_DAY), out);
    out.push(b'T');
    time(micros.rem_euclid(MICROS_PER_DAY), out);
}

/// A date of the proleptic Gregorian calendar from days since 1970-01-01 (Howard Hinnant's
/// `civil_from_days`, <https://howardhinnant.github.io/date_algorithms.html>).
fn date(days: i64, out: &mut Vec<u8>) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    match u64::try_from(year) {
        Ok(year @ 0..=9999) => digits::<4>(year, out),
        // Beyond what BigQuery and RFC 3339 know: ISO 8601's expanded form.
        _ => out.extend_from_slice(format!("{year:+07}").as_bytes()),
    }
    out.push(b'-');
    digits::<2>(month.unsigned_abs(), out);
    out.push(b'-');
    digits::<2>(day.unsigned_abs(), out);
}

fn time(micros: i64, out: &mut Vec<u8>) {
    let micros = micros.unsigned_abs();
    let seconds = micros / 1_000_000;
    digits::<2>(seconds / 3600, out);
    out.push(b':');
    digits::<2>(seconds / 60 % 60, out);
    out.push(b':');
    digits::<2>(seconds % 60, out);
    out.push(b'.');
    digits::<6>(micros % 1_000_000, out);
}

/// The last `N` decimal digits, with leading zeros.
fn digits<const N: usize>(mut value: u64, out: &mut Vec<u8>) {
    let mut text = [b'0'; N];
    for place in text.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&text);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::ArrayRef;
    use arrow_buffer::i256;
    use proptest::prelude::*;

    use super::*;
    use crate::schema::{Column, Mode, TableSchema, arrow_schema};

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn decimals_are_exact() {
        for (unscaled, scale, want) in [
            ("0", 9, "0"),
            ("-1", 9, "-0.000000001"),
            ("1500000000", 9, "1.5"),
            ("-1000000000", 9, "-1"),
            (
                "99999999999999999999999999999999999999",
                9,
                "99999999999999999999999999999.999999999",
            ),
            ("7", 0, "7"),
            ("700", 0, "700"),
            ("-12345", 3, "-12.345"),
        ] {
            assert_eq!(written(|o| decimal(unscaled, scale, o)), want);
        }
        let big = Decimal256Array::from(vec![i256::MAX, i256::MIN])
            .with_precision_and_scale(76, 38)
            .unwrap();
        let cells = Cells::BigNumeric(&big);
        assert_eq!(
            written(|o| cells.text(0, o)),
            "578960446186580977117854925043439539266.34992332820282019728792003956564819967"
        );
        assert_eq!(
            written(|o| cells.text(1, o)),
            "-578960446186580977117854925043439539266.34992332820282019728792003956564819968"
        );
    }

    proptest! {
        #[test]
        fn times_are_as_jiff_writes_them(micros in -62_135_596_800_000_000i64..=253_402_300_799_999_999) {
            // Civil arithmetic: jiff's points in time end some hours before the year 9999 does.
            let at = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0)
                + jiff::SignedDuration::from_micros(micros);
            let want = format!("{at:.6}");
            prop_assert_eq!(written(|o| datetime(micros, o)), want);
        }
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
        let text = written(|o| write_ndjson_with(&batch, WideIntegers::Strings, o).unwrap());
        assert_eq!(
            text,
            want.replace("-9223372036854775808", "\"-9223372036854775808\"")
        );
        // A sliced batch shows its own rows.
        let text = written(|o| write_ndjson(&batch.slice(1, 1), o).unwrap());
        assert!(want.ends_with(&text) && text.lines().count() == 1);
    }
}
