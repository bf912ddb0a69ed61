//! BigQuery's types as Arrow's (and back, by a field's metadata), as the Storage Write API's Arrow
//! format and Parquet both take them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::{Column, ColumnType, Mode, TableSchema};

/// Field metadata key that keeps the BigQuery type where Arrow's alone is ambiguous (JSON is Utf8).
const TYPE_KEY: &str = "bigquery.type";

/// The Arrow schema of a table. TIMESTAMP is microseconds in UTC, DATETIME the same without a zone,
/// NUMERIC Decimal128(38, 9), BIGNUMERIC Decimal256(76, 38), JSON and GEOGRAPHY Utf8, REPEATED a
/// list of non-null items.
pub fn arrow_schema(schema: &TableSchema) -> SchemaRef {
    Arc::new(Schema::new(
        schema.columns.iter().map(field).collect::<Vec<_>>(),
    ))
}

/// The BigQuery type of a field that [`arrow_schema()`] made.
pub fn column_type_of(field: &Field) -> Option<ColumnType> {
    let name = field.metadata().get(TYPE_KEY)?;
    serde_json::from_value(serde_json::Value::String(name.clone())).ok()
}

fn field(column: &Column) -> Field {
    let scalar = scalar_type(column);
    let metadata = HashMap::from([(TYPE_KEY.to_owned(), column.kind.sql().to_owned())]);
    match column.mode {
        Mode::Repeated => {
            let item = Field::new("item", scalar, false).with_metadata(metadata.clone());
            Field::new(&column.name, DataType::List(Arc::new(item)), false)
        }
        Mode::Nullable => Field::new(&column.name, scalar, true),
        Mode::Required => Field::new(&column.name, scalar, false),
    }
    .with_metadata(metadata)
}

fn scalar_type(column: &Column) -> DataType {
    match column.kind {
        ColumnType::String | ColumnType::Json | ColumnType::Geography => DataType::Utf8,
        ColumnType::Bytes => DataType::Binary,
        ColumnType::Int64 => DataType::Int64,
        ColumnType::Float64 => DataType::Float64,
        ColumnType::Numeric => DataType::Decimal128(38, 9),
        ColumnType::BigNumeric => DataType::Decimal256(76, 38),
        ColumnType::Bool => DataType::Boolean,
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ColumnType::Date => DataType::Date32,
        ColumnType::DateTime => DataType::Timestamp(TimeUnit::Microsecond, None),
        ColumnType::Time => DataType::Time64(TimeUnit::Microsecond),
        ColumnType::Record => DataType::Struct(column.fields.iter().map(field).collect()),
    }
}
