//! Batches of fewer columns, or of other column order, as batches of a table's whole schema: what
//! lacks is null, or an empty list.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, ListArray, RecordBatch, RecordBatchOptions, StructArray, new_empty_array,
    new_null_array,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Fields, SchemaRef};

use super::failure::arrow;
use crate::error::Result;

/// The batch in the given schema, whose types are those of the batch's columns of the same name.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if Arc::ptr_eq(batch.schema_ref(), schema) {
        return Ok(batch.clone());
    }
    let columns = members(
        batch.schema_ref().fields(),
        batch.columns(),
        schema.fields(),
        batch.num_rows(),
    )?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(arrow)
}

fn members(
    have: &Fields,
    columns: &[ArrayRef],
    want: &Fields,
    rows: usize,
) -> Result<Vec<ArrayRef>> {
    want.iter()
        .map(|field| {
            let there = have
                .iter()
                .position(|h| h.name().eq_ignore_ascii_case(field.name()));
            match there {
                Some(at) => one(&columns[at], field),
                None => Ok(absent(field, rows)),
            }
        })
        .collect()
}

fn one(array: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    if array.data_type() == field.data_type() {
        return Ok(array.clone());
    }
    match (field.data_type(), array.data_type()) {
        (DataType::Struct(want), DataType::Struct(have)) => {
            let record = array.as_struct();
            let columns = members(have, record.columns(), want, record.len())?;
            StructArray::try_new(want.clone(), columns, record.nulls().cloned())
                .map(|a| Arc::new(a) as ArrayRef)
                .map_err(arrow)
        }
        (DataType::List(item), DataType::List(_)) => {
            let list = array.as_list::<i32>();
            ListArray::try_new(
                item.clone(),
                list.offsets().clone(),
                one(list.values(), item)?,
                list.nulls().cloned(),
            )
            .map(|a| Arc::new(a) as ArrayRef)
            .map_err(arrow)
        }
        // The batch's own constructor says what does not fit.
        _ => Ok(array.clone()),
    }
}

fn absent(field: &Field, rows: usize) -> ArrayRef {
    match field.data_type() {
        DataType::List(item) => Arc::new(ListArray::new(
            item.clone(),
            OffsetBuffer::new_zeroed(rows),
            new_empty_array(item.data_type()),
            None,
        )),
        other => new_null_array(other, rows),
    }
}
