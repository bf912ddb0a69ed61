//! Batches of fewer columns, or of other column order, as batches of a table's whole schema: what
//! lacks is null, or an empty list.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, ListArray, RecordBatch, RecordBatchOptions, StructArray, new_empty_array,
    new_null_array,
};
use arrow_buffer::{OffsetBuffer, i256};
use arrow_schema::{DataType, Field, Fields, SchemaRef};

use super::failure::arrow;
use crate::error::Result;

/// The batch in the given schema, whose types are those of the batch's columns of the same name, or
/// wider ones (see [`crate::schema::evolution::wider`]).
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
        (wide, DataType::Int64 | DataType::Decimal128(..)) => Ok(widened(array, wide)),
        // The batch's own constructor says what does not fit.
        _ => Ok(array.clone()),
    }
}

/// Numbers as those of a wider type; unchanged where that is not one.
fn widened(array: &ArrayRef, to: &DataType) -> ArrayRef {
    use arrow_array::types::{Decimal128Type, Decimal256Type, Float64Type, Int64Type};
    const NUMERIC: i128 = 1_000_000_000;
    let bignumeric = |scale: u32| i256::from_i128(10i128.pow(scale));
    match (array.data_type(), to) {
        (DataType::Int64, DataType::Float64) => {
            // As BigQuery does it: the nearest double.
            let wide = array.as_primitive::<Int64Type>().unary(|n| n as f64);
            Arc::new(wide as arrow_array::PrimitiveArray<Float64Type>)
        }
        (DataType::Int64, DataType::Decimal128(..)) => Arc::new(
            array
                .as_primitive::<Int64Type>()
                .unary::<_, Decimal128Type>(|n| i128::from(n) * NUMERIC)
                .with_data_type(to.clone()),
        ),
        (DataType::Int64, DataType::Decimal256(..)) => Arc::new(
            array
                .as_primitive::<Int64Type>()
                .unary::<_, Decimal256Type>(|n| i256::from(n).wrapping_mul(bignumeric(38)))
                .with_data_type(to.clone()),
        ),
        (DataType::Decimal128(..), DataType::Decimal256(..)) => Arc::new(
            array
                .as_primitive::<Decimal128Type>()
                .unary::<_, Decimal256Type>(|n| i256::from_i128(n).wrapping_mul(bignumeric(29)))
                .with_data_type(to.clone()),
        ),
        (DataType::Decimal128(..), DataType::Float64) => {
            // Through the digits: dividing would round twice.
            let text = |n: i128| format!("{n}e-9").parse().unwrap_or(f64::NAN);
            let wide = array.as_primitive::<Decimal128Type>().unary(text);
            Arc::new(wide as arrow_array::PrimitiveArray<Float64Type>)
        }
        _ => array.clone(),
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
