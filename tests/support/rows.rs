//! Batches from JSON rows and back, for tests of what comes after decoding. A row is written as
//! `schema::render` writes it: decimals and times as strings, times with six decimals.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array,
    Float64Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
    Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow_buffer::{NullBuffer, OffsetBuffer, i256};
use arrow_schema::{DataType, Field};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use drawoff::schema::{Column, ColumnType, Mode, TableSchema, arrow_schema};
use serde_json::{Value, json};

/// A batch of the rows; a missing key is null, or an empty list.
pub fn batch(schema: &TableSchema, rows: &[Value]) -> RecordBatch {
    let arrow = arrow_schema(schema);
    let columns = schema
        .columns
        .iter()
        .zip(arrow.fields())
        .map(|(column, field)| {
            let cells: Vec<&Value> = rows.iter().map(|r| &r[&column.name]).collect();
            array(column, field, &cells)
        })
        .collect();
    RecordBatch::try_new(arrow, columns).unwrap()
}

/// The row with all keys of the schema, as reading it back gives it.
pub fn full(columns: &[Column], row: &Value) -> Value {
    columns
        .iter()
        .map(|c| {
            let cell = &row[&c.name];
            let one = |v: &Value| match c.kind {
                ColumnType::Record if !v.is_null() => full(&c.fields, v),
                _ => v.clone(),
            };
            let cell = match (c.mode, cell) {
                (Mode::Repeated, Value::Null) => json!([]),
                (Mode::Repeated, Value::Array(items)) => items.iter().map(one).collect(),
                _ => one(cell),
            };
            (c.name.clone(), cell)
        })
        .collect()
}

/// Rows in an order of their own, to compare sets of them.
pub fn sorted(mut rows: Vec<Value>) -> Vec<Value> {
    rows.sort_by_cached_key(Value::to_string);
    rows
}

fn array(column: &Column, field: &Field, cells: &[&Value]) -> ArrayRef {
    if column.mode != Mode::Repeated {
        return scalars(column, field.data_type(), cells);
    }
    let DataType::List(item) = field.data_type() else {
        panic!("a repeated column is a list")
    };
    let none = Vec::new();
    let lists: Vec<&Vec<Value>> = cells
        .iter()
        .map(|c| c.as_array().unwrap_or(&none))
        .collect();
    let items: Vec<&Value> = lists.iter().flat_map(|l| l.iter()).collect();
    Arc::new(ListArray::new(
        item.clone(),
        OffsetBuffer::from_lengths(lists.iter().map(|l| l.len())),
        scalars(column, item.data_type(), &items),
        None,
    ))
}

fn scalars(column: &Column, data_type: &DataType, cells: &[&Value]) -> ArrayRef {
    let texts = || cells.iter().map(|c| c.as_str());
    match column.kind {
        ColumnType::String | ColumnType::Geography => Arc::new(texts().collect::<StringArray>()),
        ColumnType::Json => Arc::new(
            cells
                .iter()
                .map(|c| (!c.is_null()).then(|| c.to_string()))
                .collect::<StringArray>(),
        ),
        ColumnType::Bytes => Arc::new(
            texts()
                .map(|t| t.map(|t| STANDARD.decode(t).unwrap()))
                .collect::<BinaryArray>(),
        ),
        ColumnType::Int64 => Arc::new(cells.iter().map(|c| c.as_i64()).collect::<Int64Array>()),
        ColumnType::Float64 => Arc::new(
            cells
                .iter()
                .map(|c| match c.as_str() {
                    Some(name) => Some(name.parse::<f64>().unwrap()),
                    None => c.as_f64(),
                })
                .collect::<Float64Array>(),
        ),
        ColumnType::Bool => Arc::new(cells.iter().map(|c| c.as_bool()).collect::<BooleanArray>()),
        ColumnType::Numeric => Arc::new(
            texts()
                .map(|t| t.map(|t| digits(t, 9).parse::<i128>().unwrap()))
                .collect::<Decimal128Array>()
                .with_precision_and_scale(38, 9)
                .unwrap(),
        ),
        ColumnType::BigNumeric => Arc::new(
            texts()
                .map(|t| t.map(|t| i256::from_string(&digits(t, 38)).unwrap()))
                .collect::<Decimal256Array>()
                .with_precision_and_scale(76, 38)
                .unwrap(),
        ),
        ColumnType::Timestamp => Arc::new(
            texts()
                .map(|t| t.map(|t| micros(t.trim_end_matches('Z'))))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
        ColumnType::DateTime => Arc::new(
            texts()
                .map(|t| t.map(micros))
                .collect::<TimestampMicrosecondArray>(),
        ),
        ColumnType::Date => Arc::new(
            texts()
                .map(|t| {
                    t.map(|t| {
                        let days = micros(&format!("{t}T00:00:00")) / 86_400_000_000;
                        i32::try_from(days).unwrap()
                    })
                })
                .collect::<Date32Array>(),
        ),
        ColumnType::Time => Arc::new(
            texts()
                .map(|t| t.map(|t| micros(&format!("1970-01-01T{t}"))))
                .collect::<Time64MicrosecondArray>(),
        ),
        ColumnType::Record => {
            let DataType::Struct(fields) = data_type else {
                panic!("a record is a struct")
            };
            let members = column
                .fields
                .iter()
                .zip(fields)
                .map(|(c, f)| {
                    let inner: Vec<&Value> = cells.iter().map(|v| &v[&c.name]).collect();
                    array(c, f, &inner)
                })
                .collect();
            let nulls = NullBuffer::from_iter(cells.iter().map(|c| !c.is_null()));
            Arc::new(StructArray::new(fields.clone(), members, Some(nulls)))
        }
    }
}

/// `-1.5` with scale 9 as `-1500000000`.
fn digits(text: &str, scale: usize) -> String {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}{fraction:0<scale$}")
}

/// Microseconds since 1970, by civil arithmetic: jiff's points in time end some hours before the
/// year 9999 does.
pub fn micros(text: &str) -> i64 {
    let at: jiff::civil::DateTime = text.parse().unwrap();
    let since = at.duration_since(jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0));
    i64::try_from(since.as_micros()).unwrap()
}
