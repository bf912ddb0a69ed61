//! Rows that the source has no longer: they stay, with the time of the publish in `_deleted_at`.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow_buffer::BooleanBuffer;
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;

use super::conform::conform;
use super::encode::{PartWriter, read};
use super::failure::arrow;
use crate::clock::{Clock, SystemClock};
use crate::error::Result;
use crate::schema::landing::column::DELETED_AT;

/// Whether a file has a row among those to be kept that is not marked as deleted.
pub fn has_unmarked(path: &Path, keep: Option<&BooleanBuffer>) -> Result<bool> {
    let mut first = 0;
    for batch in read(path, Some(&[DELETED_AT]))? {
        let batch = batch?;
        let rows = batch.num_rows();
        let marked = batch.column_by_name(DELETED_AT);
        let unmarked = (0..rows).any(|row| {
            keep.is_none_or(|keep| keep.value(first + row))
                && marked.is_none_or(|marks| marks.is_null(row))
        });
        if unmarked {
            return Ok(true);
        }
        first += rows;
    }
    Ok(false)
}

/// Copies the rows to be kept, all of them when no mask is given, marked as deleted now where they are
/// not yet.
pub fn copy_marked(
    path: &Path,
    keep: Option<&BooleanBuffer>,
    schema: &SchemaRef,
    out: &mut PartWriter,
) -> Result<()> {
    let now = SystemClock.now().as_microsecond();
    let mut first = 0;
    for batch in read(path, None)? {
        let mut batch = batch?;
        let rows = batch.num_rows();
        if let Some(keep) = keep {
            let mask = BooleanArray::new(keep.slice(first, rows), None);
            batch = filter_record_batch(&batch, &mask).map_err(arrow)?;
        }
        first += rows;
        out.write(&mark(&conform(&batch, schema)?, now)?)?;
    }
    Ok(())
}

fn mark(batch: &RecordBatch, now: i64) -> Result<RecordBatch> {
    let at = batch.schema_ref().index_of(DELETED_AT).map_err(arrow)?;
    let marks = batch.column(at).as_primitive::<TimestampMicrosecondType>();
    let filled: TimestampMicrosecondArray =
        marks.iter().map(|mark| Some(mark.unwrap_or(now))).collect();
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    columns[at] = Arc::new(filled.with_timezone("UTC"));
    RecordBatch::try_new(batch.schema(), columns).map_err(arrow)
}
