//! Batches as Arrow IPC messages, the sequence column added, none larger than a request may be.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_ipc::writer::{
    DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, write_message,
};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};

use super::super::sql::SEQUENCE;
use crate::error::{Error, ErrorKind, Result};

/// What a request holds beside the rows: names, offset, schema.
const ENVELOPE: usize = 64 << 10;

/// Encodes the batches of one staging table, in the order in which they come.
pub(in super::super) struct Encoder {
    schema: SchemaRef,
    schema_message: Vec<u8>,
    sequence: i64,
}

impl Encoder {
    /// For batches of that schema.
    pub(in super::super) fn new(rows: &Schema) -> Result<Self> {
        let mut fields: Vec<Arc<Field>> = rows.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(SEQUENCE, DataType::Int64, true)));
        let schema = Arc::new(Schema::new(fields));
        let schema_message = schema_message(&schema).map_err(bug)?;
        Ok(Self {
            schema,
            schema_message,
            sequence: 0,
        })
    }

    /// The schema, as a message.
    pub(super) fn schema(&self) -> &[u8] {
        &self.schema_message
    }

    /// The batch as messages of at most `limit` bytes, each with its number of rows.
    ///
    /// # Errors
    /// [`ErrorKind::Schema`] when a single row is larger.
    pub(super) fn encode(
        &mut self,
        batch: &RecordBatch,
        limit: usize,
        table: &str,
    ) -> Result<Vec<(i64, Vec<u8>)>> {
        let rows = batch.num_rows() as i64;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let sequence: ArrayRef = Arc::new(Int64Array::from_iter_values(
            self.sequence..self.sequence + rows,
        ));
        self.sequence += rows;
        let mut columns = batch.columns().to_vec();
        columns.push(sequence);
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(|e| {
            Error::new(
                ErrorKind::Bug,
                format!("a batch for `{table}` is not in the table's schema"),
            )
            .source(e)
        })?;
        let mut messages = Vec::new();
        self.split(&batch, limit.saturating_sub(ENVELOPE), table, &mut messages)?;
        Ok(messages)
    }

    fn split(
        &self,
        batch: &RecordBatch,
        limit: usize,
        table: &str,
        into: &mut Vec<(i64, Vec<u8>)>,
    ) -> Result<()> {
        let rows = batch.num_rows();
        let encoded = batch_message(batch).map_err(bug)?;
        if encoded.len() <= limit {
            into.push((rows as i64, encoded));
            return Ok(());
        }
        if rows == 1 {
            return Err(Error::new(
                ErrorKind::Schema,
                format!(
                    "a row for `{table}` is {} bytes; a request may hold {limit}",
                    encoded.len()
                ),
            )
            .hint("leave large fields out of the schema"));
        }
        // Enough parts for rows of even size; uneven ones are split again.
        let parts = (encoded.len().div_ceil(limit.max(1)) + 1).min(rows);
        drop(encoded);
        let each = rows.div_ceil(parts);
        let mut at = 0;
        while at < rows {
            let length = each.min(rows - at);
            self.split(&batch.slice(at, length), limit, table, into)?;
            at += length;
        }
        Ok(())
    }
}

fn schema_message(schema: &Schema) -> Result<Vec<u8>, ArrowError> {
    let options = IpcWriteOptions::default();
    let mut tracker = DictionaryTracker::new(true);
    let data = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
        schema,
        &mut tracker,
        &options,
    );
    let mut message = Vec::new();
    write_message(&mut message, data, &options)?;
    Ok(message)
}

fn batch_message(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let options = IpcWriteOptions::default();
    let mut tracker = DictionaryTracker::new(true);
    let (_, data) = IpcDataGenerator::default().encode(
        batch,
        &mut tracker,
        &options,
        &mut IpcWriteContext::default(),
    )?;
    let mut message = Vec::new();
    write_message(&mut message, data, &options)?;
    Ok(message)
}

fn bug(error: ArrowError) -> Error {
    Error::new(ErrorKind::Bug, "could not encode rows as Arrow").source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::StringArray;
    use arrow_ipc::reader::StreamReader;

    fn batch(texts: &[&str]) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Utf8, true)]));
        RecordBatch::try_new(schema, vec![Arc::new(StringArray::from(texts.to_vec()))]).unwrap()
    }

    fn read(encoder: &Encoder, messages: &[(i64, Vec<u8>)]) -> Vec<(String, i64)> {
        let mut stream = encoder.schema().to_vec();
        for (_, message) in messages {
            stream.extend_from_slice(message);
        }
        let mut rows = Vec::new();
        for batch in StreamReader::try_new(stream.as_slice(), None).unwrap() {
            let batch = batch.unwrap();
            let text = batch
                .column(0)
                .as_any()
                .downcast_ref::<StringArray>()
                .unwrap();
            let seq = batch
                .column(1)
                .as_any()
                .downcast_ref::<Int64Array>()
                .unwrap();
            for i in 0..batch.num_rows() {
                rows.push((text.value(i).to_owned(), seq.value(i)));
            }
        }
        rows
    }

    #[test]
    fn rows_keep_their_order_and_are_numbered_across_batches() {
        let mut encoder = Encoder::new(batch(&[]).schema_ref()).unwrap();
        let mut messages = encoder.encode(&batch(&["x", "y"]), 1 << 20, "t").unwrap();
        messages.extend(encoder.encode(&batch(&[]), 1 << 20, "t").unwrap());
        messages.extend(encoder.encode(&batch(&["z"]), 1 << 20, "t").unwrap());
        assert_eq!(messages.len(), 2);
        assert_eq!(
            read(&encoder, &messages),
            [("x".into(), 0), ("y".into(), 1), ("z".into(), 2)]
        );
    }

    #[test]
    fn large_batches_are_split_and_large_rows_refused() {
        let long = "l".repeat(9_000);
        let texts: Vec<&str> = (0..40)
            .map(|i| if i % 4 == 0 { "s" } else { &long })
            .collect();
        let mut encoder = Encoder::new(batch(&[]).schema_ref()).unwrap();
        let limit = ENVELOPE + 30_000;
        let messages = encoder.encode(&batch(&texts), limit, "t").unwrap();
        assert!(messages.len() > 8);
        assert!(messages.iter().all(|(_, m)| m.len() <= 30_000));
        assert_eq!(messages.iter().map(|(n, _)| n).sum::<i64>(), 40);
        let rows = read(&encoder, &messages);
        assert_eq!(
            rows.iter().map(|(t, _)| t.as_str()).collect::<Vec<_>>(),
            texts
        );
        assert_eq!(
            rows.iter().map(|(_, n)| *n).collect::<Vec<_>>(),
            (0..40).collect::<Vec<_>>()
        );

        let huge = "h".repeat(100_000);
        let error = encoder
            .encode(&batch(&[&huge]), limit, "p.d.t")
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert!(
            error.to_string().contains("a row for `p.d.t` is"),
            "{error}"
        );
    }
}
