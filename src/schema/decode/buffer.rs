//! One column's cells while a batch is being built.

use std::sync::Arc;

use arrow_array::types::{
    Date32Type, Decimal128Type, Decimal256Type, Float64Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, ListArray, PrimitiveArray,
    StringArray, StructArray,
};
use arrow_buffer::{
    BooleanBufferBuilder, Buffer as Bytes, NullBuffer, NullBufferBuilder, OffsetBuffer,
    ScalarBuffer, i256,
};
use arrow_schema::{DataType, Field};
use jiter::{Jiter, Peek};

use super::cell::{Limits, Text, Values, compact, push_text, restart, text_of};
use super::object::Object;
use super::{Cell, Highest, Notes, Problem};
use crate::schema::value::{self, Reason};
use crate::schema::{Column, ColumnType, Mode};

pub(super) struct Buffer {
    kind: ColumnType,
    mode: Mode,
    limits: Limits,
    values: Values,
    nulls: NullBufferBuilder,
    /// Of a list or a RECORD: the column.
    nested: Option<Box<Column>>,
}

impl Buffer {
    pub(super) fn new(column: &Column, path: &str) -> Self {
        let values = if column.mode == Mode::Repeated {
            let item = Column {
                mode: Mode::Required,
                ..column.clone()
            };
            Values::List(Box::new(Self::new(&item, path)), vec![0])
        } else {
            match column.kind {
                ColumnType::Int64 => Values::Int64(Vec::new()),
                ColumnType::Float64 => Values::Float64(Vec::new()),
                ColumnType::Bool => Values::Bool(BooleanBufferBuilder::new(0)),
                ColumnType::Numeric => Values::Numeric(Vec::new()),
                ColumnType::BigNumeric => Values::BigNumeric(Vec::new()),
                ColumnType::Timestamp | ColumnType::DateTime | ColumnType::Time => {
                    Values::Micros(Vec::new())
                }
                ColumnType::Date => Values::Days(Vec::new()),
                ColumnType::String
                | ColumnType::Json
                | ColumnType::Geography
                | ColumnType::Bytes => Values::Text(Text::new()),
                ColumnType::Record => {
                    Values::Record(Box::new(Object::new(&column.fields, path)), 0)
                }
            }
        };
        let limits = Limits {
            max_length: column.max_length.map(|n| n.0 as usize),
            precision: column.precision.map(|n| n.0),
            scale: column.scale.map(|n| n.0),
        };
        let nested = column.mode == Mode::Repeated || column.kind == ColumnType::Record;
        Self {
            kind: column.kind,
            mode: column.mode,
            limits,
            values,
            nulls: NullBufferBuilder::new(0),
            nested: nested.then(|| Box::new(column.clone())),
        }
    }

    /// The column of a list or a RECORD.
    pub(super) fn nested(&self) -> Option<&Column> {
        self.nested.as_deref()
    }

    /// Whether it holds single values of that type.
    pub(super) fn is_plain(&self, kind: ColumnType, mode: Mode) -> bool {
        self.kind == kind && self.mode == mode && self.nested.is_none()
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// The object that the column's values are, or its lists' items; and whether it is of lists.
    pub(super) fn object(&self) -> Option<(&Object, bool)> {
        match &self.values {
            Values::Record(object, _) => Some((object, false)),
            Values::List(item, _) => item.object().map(|(object, _)| (object, true)),
            _ => None,
        }
    }

    /// The same, to be told something.
    pub(super) fn object_mut(&mut self) -> Option<&mut Object> {
        match &mut self.values {
            Values::Record(object, _) => Some(object),
            Values::List(item, _) => item.object_mut(),
            _ => None,
        }
    }

    /// See [`super::Decoder::watch`], of RECORDs.
    pub(super) fn watch(&mut self) {
        match &mut self.values {
            Values::Record(object, _) => object.watch(),
            Values::List(item, _) => item.watch(),
            _ => {}
        }
    }

    /// Cells so far.
    pub(super) fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Reads the value at the cursor into the next cell; a placeholder where it does not fit.
    pub(super) fn read(&mut self, json: &mut Jiter<'_>, peek: Peek, notes: &mut Notes) -> Cell {
        if peek == Peek::Null && self.kind == ColumnType::Json && self.mode == Mode::Required {
            json.known_null()?;
            return Ok(self.put(|t| text_of(t, b"null")));
        }
        if peek == Peek::Null {
            json.known_null()?;
            self.push_missing();
            return Ok(match self.mode {
                Mode::Required => Some(Problem::absent("a required value is null")),
                Mode::Nullable | Mode::Repeated => None,
            });
        }
        match &mut self.values {
            Values::List(item, offsets) => {
                let problem = read_list(item, json, peek, notes)?;
                offsets.push(i32::try_from(item.len()).unwrap_or(i32::MAX));
                self.nulls.append_non_null();
                Ok(problem)
            }
            Values::Record(object, rows) => {
                let outcome = object.read(json, peek, notes);
                *rows += 1;
                // Notes belong to the whole record; only the record itself settles them.
                object.complete(*rows, &mut Notes::default());
                self.nulls.append_non_null();
                outcome
            }
            _ if self.kind == ColumnType::Json => {
                let start = json.current_index();
                json.known_skip(peek)?;
                let raw = json.slice_to_current(start);
                if std::str::from_utf8(raw).is_err() {
                    self.push_missing();
                    return Ok(Some(Problem::new("the text is not valid UTF-8")));
                }
                Ok(self.put(|values| compact(values, raw)))
            }
            _ => match peek {
                Peek::String => {
                    let text = json.known_str()?;
                    Ok(self.put_text(text))
                }
                Peek::True | Peek::False => {
                    let flag = json.known_bool(peek)?;
                    Ok(self.put_bool(flag))
                }
                Peek::Array => self.skip(json, peek, "the value is an array"),
                Peek::Object => self.skip(json, peek, "the value is an object"),
                peek if peek.is_num() => {
                    let raw = json.known_number_bytes(peek)?;
                    Ok(self.put_number(raw))
                }
                // Not JSON: the reader says what and where.
                peek => {
                    json.known_skip(peek)?;
                    self.push_missing();
                    Ok(Some(Problem::new("the value is not JSON")))
                }
            },
        }
    }

    fn skip(&mut self, json: &mut Jiter<'_>, peek: Peek, reason: &'static str) -> Cell {
        json.known_skip(peek)?;
        self.push_missing();
        Ok(Some(Problem::new(reason)))
    }

    /// Adds a cell by `f`, or a placeholder and a problem where `f` refuses.
    fn put(&mut self, f: impl FnOnce(&mut Values) -> Result<(), Reason>) -> Option<Box<Problem>> {
        match f(&mut self.values) {
            Ok(()) => {
                self.nulls.append_non_null();
                None
            }
            Err(reason) => {
                self.values.truncate(self.nulls.len());
                self.push_missing();
                Some(Problem::new(reason))
            }
        }
    }

    fn put_text(&mut self, text: &str) -> Option<Box<Problem>> {
        let is_text = matches!(self.kind, ColumnType::String | ColumnType::Bytes);
        // Many APIs write "" for a missing number, date or place.
        if text.is_empty() && !is_text {
            self.push_missing();
            return (self.mode == Mode::Required)
                .then(|| Problem::absent("a required value is empty"));
        }
        let (kind, limits) = (self.kind, self.limits);
        self.put(|values| {
            push_text(values, kind, text)?;
            limits.check(values, kind)
        })
    }

    fn put_number(&mut self, raw: &[u8]) -> Option<Box<Problem>> {
        let (kind, limits) = (self.kind, self.limits);
        self.put(|values| {
            let text = || std::str::from_utf8(raw).map_err(|_| "the text is not valid UTF-8");
            match values {
                Values::Int64(v) => v.push(value::int64(raw)?),
                Values::Float64(v) => v.push(value::float64(text()?)?),
                Values::Numeric(v) => v.push(value::numeric(text()?)?),
                Values::BigNumeric(v) => v.push(value::bignumeric(text()?)?),
                Values::Bool(v) => match raw {
                    b"0" => v.append(false),
                    b"1" => v.append(true),
                    _ => return Err("the number is not 0 or 1"),
                },
                Values::Micros(v) if kind == ColumnType::Timestamp => {
                    v.push(value::epoch(text()?)?)
                }
                Values::Text(v) if kind == ColumnType::String => v.push(raw),
                _ => return Err("the value is a number"),
            }
            limits.check(values, kind)
        })
    }

    fn put_bool(&mut self, flag: bool) -> Option<Box<Problem>> {
        let kind = self.kind;
        self.put(|values| {
            match values {
                Values::Bool(v) => v.append(flag),
                Values::Text(v) if kind == ColumnType::String => {
                    v.push(if flag { b"true" } else { b"false" })
                }
                _ => return Err("the value is true or false"),
            }
            Ok(())
        })
    }

    /// Whether the column can hold the text as a constant.
    pub(super) fn accepts(&self, text: &str) -> Result<(), Reason> {
        let mut scratch = match &self.values {
            Values::Int64(_) => Values::Int64(Vec::new()),
            Values::Float64(_) => Values::Float64(Vec::new()),
            Values::Bool(_) => Values::Bool(BooleanBufferBuilder::new(1)),
            Values::Numeric(_) => Values::Numeric(Vec::new()),
            Values::BigNumeric(_) => Values::BigNumeric(Vec::new()),
            Values::Micros(_) => Values::Micros(Vec::new()),
            Values::Days(_) => Values::Days(Vec::new()),
            Values::Text(_) => Values::Text(Text::new()),
            Values::Record(..) | Values::List(..) => return Err("the column is no single value"),
        };
        push_text(&mut scratch, self.kind, text)
    }

    /// Adds a constant that the column accepts.
    pub(super) fn push_constant(&mut self, text: &str) {
        let kind = self.kind;
        let _ = self.put(|values| push_text(values, kind, text));
    }

    /// Adds a null, an empty list, or where neither may be a zero that stands in a dropped row only.
    pub(super) fn push_missing(&mut self) {
        match &mut self.values {
            Values::Int64(v) | Values::Micros(v) => v.push(0),
            Values::Float64(v) => v.push(0.0),
            Values::Bool(v) => v.append(false),
            Values::Numeric(v) => v.push(0),
            Values::BigNumeric(v) => v.push(i256::ZERO),
            Values::Days(v) => v.push(0),
            Values::Text(v) => {
                v.data.truncate(
                    v.offsets
                        .last()
                        .map_or(0, |o| usize::try_from(*o).unwrap_or(0)),
                );
                v.end();
            }
            Values::Record(object, rows) => {
                *rows += 1;
                object.complete(*rows, &mut Notes::default());
            }
            Values::List(item, offsets) => {
                offsets.push(i32::try_from(item.len()).unwrap_or(i32::MAX))
            }
        }
        match self.mode {
            Mode::Nullable => self.nulls.append_null(),
            Mode::Required | Mode::Repeated => self.nulls.append_non_null(),
        }
    }

    /// The highest value in the cells from `from` on; `None` when all are null or the column has no
    /// order.
    pub(super) fn highest(&self, path: &[String], from: usize) -> Option<Highest> {
        let cells = from..self.len();
        let valid = cells.clone().filter(|i| self.nulls.is_valid(*i));
        match &self.values {
            Values::Record(object, _) => object.highest(path, from),
            _ if !path.is_empty() => None,
            Values::Int64(v) => valid.map(|i| v[i]).max().map(Highest::Number),
            Values::Micros(v) => valid.map(|i| v[i]).max().map(Highest::Micros),
            Values::Days(v) => valid.map(|i| v[i]).max().map(Highest::Days),
            Values::Text(v) if self.kind == ColumnType::String => {
                let at = |i: usize| usize::try_from(v.offsets[i]).unwrap_or(0);
                let text = valid.map(|i| &v.data[at(i)..at(i + 1)]).max()?;
                Some(Highest::Text(String::from_utf8_lossy(text).into_owned()))
            }
            _ => None,
        }
    }

    /// Whether the values of the cells in `cells` come in ascending order, nulls aside.
    pub(super) fn is_ascending(&self, path: &[String], cells: &[usize]) -> bool {
        let valid = || cells.iter().copied().filter(|i| self.nulls.is_valid(*i));
        match &self.values {
            Values::Record(object, _) => object.is_ascending(path, cells),
            Values::Int64(v) | Values::Micros(v) => valid().map(|i| v[i]).is_sorted(),
            Values::Days(v) => valid().map(|i| v[i]).is_sorted(),
            Values::Text(v) => {
                let at = |i: usize| usize::try_from(v.offsets[i]).unwrap_or(0);
                valid().map(|i| &v.data[at(i)..at(i + 1)]).is_sorted()
            }
            _ => true,
        }
    }

    /// Puts `text` in place of the last cell of a text column, a null or an empty one.
    pub(super) fn replace_last(&mut self, text: &str) {
        if let Values::Text(v) = &mut self.values {
            v.offsets.pop();
            v.push(text.as_bytes());
            let all = self.nulls.len();
            self.nulls.truncate(all.saturating_sub(1));
            self.nulls.append_non_null();
        }
    }

    pub(super) fn finish(&mut self, field: &Field) -> ArrayRef {
        let nulls = self.nulls.finish();
        match &mut self.values {
            Values::Int64(v) => primitive::<Int64Type>(v, nulls, field),
            Values::Float64(v) => primitive::<Float64Type>(v, nulls, field),
            Values::Numeric(v) => primitive::<Decimal128Type>(v, nulls, field),
            Values::BigNumeric(v) => primitive::<Decimal256Type>(v, nulls, field),
            Values::Days(v) => primitive::<Date32Type>(v, nulls, field),
            Values::Micros(v) if self.kind == ColumnType::Time => {
                primitive::<Time64MicrosecondType>(v, nulls, field)
            }
            Values::Micros(v) => primitive::<TimestampMicrosecondType>(v, nulls, field),
            Values::Bool(v) => Arc::new(BooleanArray::new(v.finish(), nulls)),
            Values::Text(v) => {
                let text = std::mem::replace(
                    v,
                    Text {
                        offsets: restart(&v.offsets),
                        data: Vec::with_capacity(v.data.len()),
                    },
                );
                let offsets = OffsetBuffer::new(ScalarBuffer::from(text.offsets));
                let data = Bytes::from_vec(text.data);
                if self.kind == ColumnType::Bytes {
                    Arc::new(BinaryArray::new(offsets, data, nulls))
                } else {
                    Arc::new(StringArray::new(offsets, data, nulls))
                }
            }
            Values::Record(object, rows) => {
                let DataType::Struct(fields) = item_type(field) else {
                    return arrow_array::new_empty_array(field.data_type());
                };
                let columns = object.finish(fields);
                let n = std::mem::take(rows);
                match StructArray::try_new_with_length(fields.clone(), columns, nulls, n) {
                    Ok(array) => Arc::new(array),
                    Err(_) => arrow_array::new_empty_array(field.data_type()),
                }
            }
            Values::List(item, offsets) => {
                let DataType::List(item_field) = field.data_type() else {
                    return arrow_array::new_empty_array(field.data_type());
                };
                let fresh = restart(offsets);
                let offsets =
                    OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, fresh)));
                let values = item.finish(item_field);
                Arc::new(ListArray::new(item_field.clone(), offsets, values, nulls))
            }
        }
    }
}

fn item_type(field: &Field) -> &DataType {
    field.data_type()
}

fn primitive<T: ArrowPrimitiveType>(
    values: &mut Vec<T::Native>,
    nulls: Option<NullBuffer>,
    field: &Field,
) -> ArrayRef {
    let next = Vec::with_capacity(values.len());
    let array =
        PrimitiveArray::<T>::new(ScalarBuffer::from(std::mem::replace(values, next)), nulls);
    if array.data_type() == field.data_type() {
        Arc::new(array)
    } else {
        Arc::new(array.with_data_type(field.data_type().clone()))
    }
}

fn read_list(item: &mut Buffer, json: &mut Jiter<'_>, peek: Peek, notes: &mut Notes) -> Cell {
    if peek != Peek::Array {
        json.known_skip(peek)?;
        return Ok(Some(Problem::new("the value is not an array")));
    }
    let mut problem = None;
    let mut next = json.known_array()?;
    let mut index = 0usize;
    while let Some(peek) = next {
        let found = item.read(json, peek, notes)?;
        problem = problem.or_else(|| {
            found.map(|mut p| {
                // An item that is null does not fit the list; no column lacks a value.
                p.absent &= !p.path.is_empty();
                p.within(&index.to_string())
            })
        });
        index += 1;
        next = json.array_step()?;
    }
    Ok(problem)
}
