//! Batches as Arrow IPC messages, none larger than a request may be; the sequence column added for a
//! staging table.

use std::io::Read;

use arrow_array::{BooleanArray, RecordBatch};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::{
    DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, write_message,
};
use arrow_schema::{ArrowError, Schema};
use arrow_select::filter::filter_record_batch;

use super::super::sequence::Sequence;
use crate::error::{Error, ErrorKind, Result};

/// What a request holds beside the rows and the schema: names and offset.
const ENVELOPE: usize = 64 << 10;

/// Rows as a message, and their number.
type Message = (i64, Vec<u8>);

/// Encodes the batches of one table, in the order in which they come.
pub(in super::super) struct Encoder {
    /// The sequence column, where there is one.
    sequence: Option<Sequence>,
    schema_message: Vec<u8>,
}

impl Encoder {
    /// For batches of that schema into a table of just these columns.
    pub(in super::super) fn plain(rows: &Schema) -> Result<Self> {
        Ok(Self {
            schema_message: schema_message(rows).map_err(bug)?,
            sequence: None,
        })
    }

    /// For batches of that schema into a staging table.
    pub(in super::super) fn new(rows: &Schema) -> Result<Self> {
        let sequence = Sequence::new(rows);
        let schema_message = schema_message(sequence.schema()).map_err(bug)?;
        Ok(Self {
            sequence: Some(sequence),
            schema_message,
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
    ) -> Result<Vec<Message>> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let batch = match &mut self.sequence {
            Some(sequence) => sequence.number(batch, table)?,
            None => batch.clone(),
        };
        let mut messages = Vec::new();
        let room = limit.saturating_sub(ENVELOPE + self.schema_message.len());
        self.split(&batch, room, table, &mut messages)?;
        Ok(messages)
    }

    /// A message without the rows at those places, with the number of rows left, `None` where none
    /// is; and the rows that were taken out, as they came to [`Self::encode`].
    pub(super) fn take_out(
        &self,
        message: &[u8],
        places: &[usize],
    ) -> Result<(Option<Message>, RecordBatch)> {
        let rows = self.decode(message).map_err(bug)?;
        let mut out = vec![false; rows.num_rows()];
        for place in places {
            if let Some(out) = out.get_mut(*place) {
                *out = true;
            }
        }
        let taken = filter_record_batch(&rows, &BooleanArray::from(out.clone())).map_err(bug)?;
        let width = rows.num_columns() - usize::from(self.sequence.is_some());
        let columns: Vec<usize> = (0..width).collect();
        let taken = taken.project(&columns).map_err(bug)?;
        let stay = BooleanArray::from_iter(out.iter().map(|out| Some(!out)));
        let left = filter_record_batch(&rows, &stay).map_err(bug)?;
        drop(rows);
        let kept = match left.num_rows() {
            0 => None,
            n => Some((n as i64, batch_message(&left).map_err(bug)?)),
        };
        Ok((kept, taken))
    }

    fn decode(&self, message: &[u8]) -> Result<RecordBatch, ArrowError> {
        let stream = self.schema_message.as_slice().chain(message);
        StreamReader::try_new(stream, None)?
            .next()
            .unwrap_or_else(|| Err(ArrowError::IpcError("no rows in a message".into())))
    }

    fn split(
        &self,
        batch: &RecordBatch,
        limit: usize,
        table: &str,
        into: &mut Vec<Message>,
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
    Error::new(ErrorKind::Bug, "could not write or read rows as Arrow").source(error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use arrow_array::{
        Array, ArrayRef, BinaryArray, Decimal256Array, Float64Array, Int64Array, ListArray,
        StringArray, StructArray,
    };
    use arrow_buffer::{OffsetBuffer, i256};
    use arrow_schema::{DataType, Field};

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

    /// What no emulator holds: all 77 digits of a BIGNUMERIC, and bytes inside of lists and records.
    #[test]
    fn the_ends_of_every_type_are_sent_as_they_are() {
        let least =
            "-57896044618658097711785492504343953926634992332820282019728792003956564819968";
        let most = "57896044618658097711785492504343953926634992332820282019728792003956564819967";
        let wide: ArrayRef = Arc::new(
            Decimal256Array::from(vec![
                i256::from_string(least),
                i256::from_string(most),
                Some(i256::ONE),
                None,
            ])
            .with_precision_and_scale(76, 38)
            .unwrap(),
        );
        let all: Vec<u8> = (0..=255).collect();
        let bytes: ArrayRef = Arc::new(BinaryArray::from_opt_vec(vec![
            Some(&all),
            Some(b""),
            None,
            Some(b"\xff\0"),
        ]));
        let item = Arc::new(Field::new("item", DataType::Binary, true));
        let items: ArrayRef = Arc::new(BinaryArray::from_vec(vec![&all, b"", b"\0"]));
        let list: ArrayRef = Arc::new(ListArray::new(
            item,
            OffsetBuffer::from_lengths([2, 0, 1, 0]),
            items,
            None,
        ));
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![
            f64::NAN,
            f64::NEG_INFINITY,
            -0.0,
            f64::from_bits(1),
        ]));
        let record: ArrayRef = Arc::new(StructArray::from(vec![
            (
                Arc::new(Field::new("y", DataType::Binary, true)),
                bytes.clone(),
            ),
            (
                Arc::new(Field::new("n", wide.data_type().clone(), true)),
                wide.clone(),
            ),
        ]));
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("n", wide, true),
            ("y", bytes, true),
            ("l", list, false),
            ("f", floats, true),
            ("r", record, true),
        ])
        .unwrap();
        let mut encoder = Encoder::new(batch.schema_ref()).unwrap();
        let message = encoder.encode(&batch, 1 << 20, "t").unwrap().remove(0).1;
        let sent = encoder.decode(&message).unwrap();
        assert_eq!(sent.num_columns(), batch.num_columns() + 1);
        for (i, column) in batch.columns().iter().enumerate() {
            // By their bits, which tell -0.0 from 0.0 and a NaN from none.
            assert_eq!(sent.column(i).to_data(), column.to_data());
            assert_eq!(sent.schema().field(i), batch.schema().field(i));
        }
        // Exactly the table's columns are sent, and the sequence.
        assert_eq!(sent.schema().field(5).name(), "_seq");
    }

    #[test]
    fn rows_can_be_taken_out_of_a_message() {
        let mut encoder = Encoder::new(batch(&[]).schema_ref()).unwrap();
        let before = encoder.encode(&batch(&["-"]), 1 << 20, "t").unwrap();
        let message = encoder
            .encode(&batch(&["a", "b", "c", "d"]), 1 << 20, "t")
            .unwrap()
            .remove(0)
            .1;
        for (places, kept) in [
            (&[0][..], &["b", "c", "d"][..]),
            (&[3], &["a", "b", "c"]),
            (&[1, 2], &["a", "d"]),
            (&[0, 1, 2, 3], &[]),
        ] {
            let (left, taken) = encoder.take_out(&message, places).unwrap();
            let all = ["a", "b", "c", "d"];
            let out: Vec<&str> = places.iter().map(|p| all[*p]).collect();
            assert_eq!(taken, batch(&out));
            let Some(left) = left else {
                assert!(kept.is_empty());
                continue;
            };
            assert_eq!(left.0, kept.len() as i64);
            // They keep their numbers: the order of rows is what it was.
            let number = |text: &str| all.iter().position(|t| *t == text).unwrap() as i64 + 1;
            let want: Vec<(String, i64)> = std::iter::once(("-".to_owned(), 0))
                .chain(kept.iter().map(|t| ((*t).to_owned(), number(t))))
                .collect();
            assert_eq!(read(&encoder, &[before[0].clone(), left]), want);
        }
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
