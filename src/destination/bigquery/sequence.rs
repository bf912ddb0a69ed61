//! What a staging table has beside its table's columns: the order in which rows were staged.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use super::sql::SEQUENCE;
use crate::error::{Error, ErrorKind, Result};

/// Numbers the rows of one staging table, over all its batches.
pub(super) struct Sequence {
    schema: SchemaRef,
    next: i64,
}

impl Sequence {
    /// For batches of that schema.
    pub(super) fn new(rows: &Schema) -> Self {
        let mut fields: Vec<Arc<Field>> = rows.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(SEQUENCE, DataType::Int64, true)));
        Self {
            schema: Arc::new(Schema::new(fields)),
            next: 0,
        }
    }

    /// The schema of numbered batches.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The batch with its rows' numbers as the last column.
    ///
    /// # Errors
    /// [`ErrorKind::Bug`] naming the table, when the batch is of another schema.
    pub(super) fn number(&mut self, batch: &RecordBatch, table: &str) -> Result<RecordBatch> {
        let end = self.next + batch.num_rows() as i64;
        let sequence: ArrayRef = Arc::new(Int64Array::from_iter_values(self.next..end));
        self.next = end;
        let mut columns = batch.columns().to_vec();
        columns.push(sequence);
        RecordBatch::try_new(self.schema.clone(), columns).map_err(|e| {
            Error::new(
                ErrorKind::Bug,
                format!("a batch for `{table}` is not in the table's schema"),
            )
            .source(e)
        })
    }
}
