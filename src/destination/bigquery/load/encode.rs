//! Batches as the file of a load job, in pieces: Parquet where it can hold every column, else
//! newline-delimited JSON.

use std::sync::{Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::errors::ParquetError;
use serde_json::{Value, json};

use super::super::{sequence::Sequence, shape};
use crate::destination::files::{conform::conform, encode::properties};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::render::{Integers, JsonStyle, write_ndjson_with};
use crate::schema::{Column, ColumnType, TableSchema, arrow_schema};

/// A row group is written out when it takes this much memory. BigQuery likes them twice as large and
/// takes any; a row group is the one thing that must be held whole.
const ROW_GROUP_BYTES: usize = 8 << 20;

/// Rows that are encoded before somebody looks at how much they have become.
const STEP_ROWS: usize = 1024;

/// BigQuery reads JSON's numbers as doubles.
const STYLE: JsonStyle = JsonStyle {
    integers: Integers::WideAsStrings,
    ..JsonStyle::PLAIN
};

/// What a load job reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Typed columns: nothing is written as text and read again.
    Parquet,
    /// Newline-delimited JSON.
    Ndjson,
}

impl Format {
    /// The format for rows of those columns. BigQuery's page on Parquet has no conversion into JSON,
    /// TIME or DATETIME (2026-08); from a file that has them all the same, its load jobs have made
    /// wrong values of times (python-bigquery issues 56 and 382). Parquet's widest decimal here, of 76
    /// digits, is short of BIGNUMERIC's largest values.
    pub(super) fn of(columns: &[Column]) -> Self {
        let fits = |column: &Column| match column.kind {
            ColumnType::Json | ColumnType::Time | ColumnType::DateTime | ColumnType::BigNumeric => {
                false
            }
            ColumnType::Record => Self::of(&column.fields) == Self::Parquet,
            _ => true,
        };
        match columns.iter().all(fits) {
            true => Self::Parquet,
            false => Self::Ndjson,
        }
    }

    /// What a load job's configuration says about the file. Nothing is left to defaults, of which
    /// `CSV` is one.
    pub(super) fn options(self) -> Value {
        match self {
            Self::Parquet => json!({
                "sourceFormat": "PARQUET",
                // A list is a REPEATED column, not a RECORD of `list.element`.
                "parquetOptions": {"enableListInference": true, "enumAsString": true},
                "decimalTargetTypes": ["NUMERIC"],
            }),
            Self::Ndjson => json!({
                "sourceFormat": "NEWLINE_DELIMITED_JSON",
                "encoding": "UTF-8",
            }),
        }
    }
}

/// Encodes the batches of one staging table, in the order in which they come.
pub(super) struct Encoder {
    sequence: Sequence,
    /// None of the file's columns is REQUIRED, as none of the staging table's is.
    schema: SchemaRef,
    file: File,
}

enum File {
    /// The mutex is never locked: it makes a writer, which knows one thread only, a thing that may be
    /// seen by several.
    Parquet(Mutex<Box<ArrowWriter<Vec<u8>>>>),
    Ndjson,
}

impl Encoder {
    /// For rows of that schema.
    pub(super) fn new(rows: &TableSchema, format: Format) -> Result<Self> {
        let staged = TableSchema {
            columns: shape::staging(&rows.columns),
        };
        let schema = arrow_schema(&staged);
        let file = match format {
            Format::Ndjson => File::Ndjson,
            Format::Parquet => {
                let properties = properties(&schema)
                    .map_err(bug)?
                    // Lists as the Parquet specification has them: their items are called `element`.
                    .set_coerce_types(true)
                    .build();
                let options = ArrowWriterOptions::new()
                    .with_properties(properties)
                    .with_skip_arrow_metadata(true);
                let writer = ArrowWriter::try_new_with_options(Vec::new(), schema.clone(), options)
                    .map_err(bug)?;
                File::Parquet(Mutex::new(Box::new(writer)))
            }
        };
        Ok(Self {
            sequence: Sequence::new(&arrow_schema(rows)),
            schema,
            file,
        })
    }

    /// The batch in parts that are small enough to go through [`Self::encode`] one by one.
    pub(super) fn parts(batch: &RecordBatch) -> impl Iterator<Item = RecordBatch> {
        let rows = batch.num_rows();
        (0..rows)
            .step_by(STEP_ROWS)
            .map(move |at| batch.slice(at, STEP_ROWS.min(rows - at)))
    }

    /// Takes rows in; gives the part of the file that is complete with them, perhaps nothing.
    pub(super) fn encode(&mut self, batch: &RecordBatch, table: &str) -> Result<Bytes> {
        let batch = conform(&self.sequence.number(batch, table)?, &self.schema)?;
        match &mut self.file {
            File::Ndjson => {
                let mut lines = Vec::new();
                write_ndjson_with(&batch, STYLE, &mut lines)?;
                Ok(lines.into())
            }
            File::Parquet(writer) => {
                let writer = writer.get_mut().unwrap_or_else(PoisonError::into_inner);
                writer.write(&batch).map_err(bug)?;
                if writer.memory_size() >= ROW_GROUP_BYTES {
                    writer.flush().map_err(bug)?;
                }
                // The writer counts what it has written by itself.
                Ok(std::mem::take(writer.inner_mut()).into())
            }
        }
    }

    /// The rest of the file. No rows can be taken in after it.
    pub(super) fn finish(&mut self) -> Result<Bytes> {
        match &mut self.file {
            File::Ndjson => Ok(Bytes::new()),
            File::Parquet(writer) => {
                let writer = writer.get_mut().unwrap_or_else(PoisonError::into_inner);
                writer.finish().map_err(bug)?;
                Ok(std::mem::take(writer.inner_mut()).into())
            }
        }
    }
}

/// Writing to memory fails for a batch that is not in the schema, and for nothing else.
fn bug(error: ParquetError) -> Error {
    Error::new(ErrorKind::Bug, "could not encode rows as Parquet").source(error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{BinaryArray, Int64Array, ListArray, StringArray};
    use arrow_buffer::OffsetBuffer;
    use arrow_schema::DataType;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::basic::Repetition;

    use super::*;
    use crate::schema::Mode;

    #[test]
    fn parquet_is_for_what_it_can_hold() {
        let of = |kind| Format::of(&[Column::new("c", kind)]);
        for kind in [
            ColumnType::Json,
            ColumnType::Time,
            ColumnType::DateTime,
            ColumnType::BigNumeric,
        ] {
            assert_eq!(of(kind), Format::Ndjson);
            let inside = Column::new("r", ColumnType::Record).fields(vec![Column::new("c", kind)]);
            let list = inside.clone().mode(Mode::Repeated);
            assert_eq!(Format::of(&[inside]), Format::Ndjson);
            assert_eq!(Format::of(&[list]), Format::Ndjson);
        }
        for kind in [
            ColumnType::String,
            ColumnType::Bytes,
            ColumnType::Int64,
            ColumnType::Float64,
            ColumnType::Numeric,
            ColumnType::Bool,
            ColumnType::Timestamp,
            ColumnType::Date,
        ] {
            assert_eq!(of(kind), Format::Parquet);
        }
    }

    fn schema() -> TableSchema {
        TableSchema {
            columns: vec![
                Column::new("id", ColumnType::Int64).mode(Mode::Required),
                Column::new("bytes", ColumnType::Bytes),
                Column::new("list", ColumnType::String).mode(Mode::Repeated),
            ],
        }
    }

    fn batch(ids: std::ops::Range<i64>) -> RecordBatch {
        let schema = arrow_schema(&schema());
        let rows = (ids.end - ids.start) as usize;
        let DataType::List(item) = schema.field(2).data_type().clone() else {
            panic!()
        };
        let list = ListArray::new(
            item,
            OffsetBuffer::from_lengths(vec![1; rows]),
            Arc::new(StringArray::from(vec!["x"; rows])),
            None,
        );
        RecordBatch::try_new(
            schema,
            vec![
                Arc::new(Int64Array::from_iter_values(ids)),
                Arc::new(BinaryArray::from(vec![&b"\xff\x00"[..]; rows])),
                Arc::new(list),
            ],
        )
        .unwrap()
    }

    fn file(format: Format, batches: &[RecordBatch]) -> Vec<u8> {
        let mut encoder = Encoder::new(&schema(), format).unwrap();
        let mut file = Vec::new();
        for batch in batches {
            for part in Encoder::parts(batch) {
                assert!(part.num_rows() <= STEP_ROWS);
                file.extend(encoder.encode(&part, "t").unwrap());
            }
        }
        file.extend(encoder.finish().unwrap());
        file
    }

    #[test]
    fn a_parquet_file_has_the_shape_of_the_staging_table() {
        let file = file(Format::Parquet, &[batch(0..1500), batch(1500..1501)]);
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(file)).unwrap();
        let columns = reader.parquet_schema().root_schema().get_fields().to_vec();
        let names: Vec<&str> = columns.iter().map(|c| c.name()).collect();
        assert_eq!(names, ["id", "bytes", "list", "_seq"]);
        assert_eq!(
            columns[0].get_basic_info().repetition(),
            Repetition::OPTIONAL
        );
        // The names by which readers know a list.
        let leaf = reader.parquet_schema().column(2);
        assert_eq!(leaf.path().string(), "list.list.element");
        let mut next = 0;
        for batch in reader.build().unwrap() {
            let batch = batch.unwrap();
            for row in 0..batch.num_rows() {
                let seq = batch.column(3).as_primitive::<Int64Type>();
                assert_eq!(seq.value(row), next);
                assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(row), next);
                assert_eq!(batch.column(1).as_binary::<i32>().value(row), b"\xff\x00");
                next += 1;
            }
        }
        assert_eq!(next, 1501);
    }

    #[test]
    fn a_parquet_file_is_handed_on_while_it_is_made() {
        let schema = TableSchema {
            columns: vec![Column::new("bytes", ColumnType::Bytes)],
        };
        let mut noise = vec![0; 512 << 10];
        rand::fill(&mut noise[..]);
        let mut encoder = Encoder::new(&schema, Format::Parquet).unwrap();
        let (mut held, mut most, mut size) = (0, 0, 0);
        for _ in 0..60 {
            let column = BinaryArray::from_iter_values(noise.chunks(32 << 10));
            let batch = RecordBatch::try_new(arrow_schema(&schema), vec![Arc::new(column)]);
            held += 1;
            let bytes = encoder.encode(&batch.unwrap(), "t").unwrap();
            if !bytes.is_empty() {
                size += bytes.len();
                held = 0;
            }
            most = most.max(held);
        }
        assert!(size > 20 << 20 && most < 20, "{most} batches are held");
    }

    #[test]
    fn lines_quote_what_a_double_cannot_hold() {
        let text = String::from_utf8(file(
            Format::Ndjson,
            &[batch(i64::MAX - 1..i64::MAX), batch(7..8)],
        ));
        assert_eq!(
            text.unwrap(),
            "{\"id\":\"9223372036854775806\",\"bytes\":\"/wA=\",\"list\":[\"x\"],\"_seq\":0}\n\
             {\"id\":7,\"bytes\":\"/wA=\",\"list\":[\"x\"],\"_seq\":1}\n"
        );
    }
}
