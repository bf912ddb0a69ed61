//! One value's bits in a column: how values of each type are held while a batch is built, and how
//! text becomes one.

use arrow_buffer::{BooleanBufferBuilder, i256};
use base64::Engine as _;

use super::buffer::Buffer;
use super::object::Object;
use crate::schema::ColumnType;
use crate::schema::value::{self, Reason};

/// What a parameterized type allows: `STRING(5)`, `NUMERIC(10, 2)`.
#[derive(Clone, Copy, Default)]
pub(super) struct Limits {
    pub(super) max_length: Option<usize>,
    pub(super) precision: Option<u32>,
    pub(super) scale: Option<u32>,
}

pub(super) enum Values {
    Int64(Vec<i64>),
    Float64(Vec<f64>),
    Bool(BooleanBufferBuilder),
    Numeric(Vec<i128>),
    BigNumeric(Vec<i256>),
    /// TIMESTAMP, DATETIME and TIME.
    Micros(Vec<i64>),
    Days(Vec<i32>),
    /// STRING, JSON, GEOGRAPHY and BYTES.
    Text(Text),
    Record(Box<Object>, usize),
    List(Box<Buffer>, Vec<i32>),
}

pub(super) struct Text {
    pub(super) offsets: Vec<i32>,
    pub(super) data: Vec<u8>,
}

impl Text {
    pub(super) fn new() -> Self {
        Self {
            offsets: vec![0],
            data: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.end();
    }

    pub(super) fn last(&self) -> &[u8] {
        let from = self
            .offsets
            .len()
            .checked_sub(2)
            .and_then(|i| usize::try_from(self.offsets[i]).ok());
        &self.data[from.unwrap_or(0)..]
    }

    /// Ends the cell with what has been added to `data` since the last one.
    pub(super) fn end(&mut self) {
        self.offsets
            .push(i32::try_from(self.data.len()).unwrap_or(i32::MAX));
    }
}

const FINER: Reason = "the number has more digits after the point than the column's `scale`";
const LARGER: Reason = "the number has more digits than the column's `precision`";

impl Limits {
    /// Whether the last value is within them.
    pub(super) fn check(self, values: &Values, kind: ColumnType) -> Result<(), Reason> {
        match values {
            Values::Text(v) => {
                let Some(most) = self.max_length else {
                    return Ok(());
                };
                let last = v.last();
                // STRING counts characters, BYTES octets. Fewer octets are fewer characters too.
                let fits = last.len() <= most
                    || kind == ColumnType::String
                        && std::str::from_utf8(last).is_ok_and(|t| t.chars().count() <= most);
                if fits {
                    Ok(())
                } else {
                    Err("the text is longer than the column's `maxLength`")
                }
            }
            Values::Numeric(v) if self.precision.is_some() => {
                let scale = self.scale.unwrap_or(0);
                let whole = self.precision.unwrap_or(29).saturating_sub(scale);
                let last = v.last().copied().unwrap_or(0).unsigned_abs();
                if last % 10u128.pow(9u32.saturating_sub(scale)) != 0 {
                    return Err(FINER);
                }
                if last >= 10u128.pow((whole + 9).min(38)) {
                    return Err(LARGER);
                }
                Ok(())
            }
            Values::BigNumeric(v) if self.precision.is_some() => {
                let ten = |n: u32| i256::from_i128(10).wrapping_pow(n.min(76));
                let scale = self.scale.unwrap_or(0);
                let whole = self.precision.unwrap_or(38).saturating_sub(scale);
                let last = v.last().copied().unwrap_or(i256::ZERO);
                if last.wrapping_rem(ten(38u32.saturating_sub(scale))) != i256::ZERO {
                    return Err(FINER);
                }
                let most = ten(whole + 38);
                if last >= most || last <= most.wrapping_neg() {
                    return Err(LARGER);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Values {
    /// Drops the cells after the first `cells`, of the types whose last cell may be refused.
    pub(super) fn truncate(&mut self, cells: usize) {
        match self {
            Self::Numeric(v) => v.truncate(cells),
            Self::BigNumeric(v) => v.truncate(cells),
            Self::Text(v) => v.offsets.truncate(cells + 1),
            _ => {}
        }
    }
}

pub(super) fn push_text(values: &mut Values, kind: ColumnType, text: &str) -> Result<(), Reason> {
    match values {
        Values::Int64(v) => v.push(value::int64(text.trim_ascii().as_bytes())?),
        Values::Float64(v) => v.push(value::float64(text.trim_ascii())?),
        Values::Numeric(v) => v.push(value::numeric(text)?),
        Values::BigNumeric(v) => v.push(value::bignumeric(text)?),
        Values::Bool(v) => v.append(value::boolean(text)?),
        Values::Days(v) => v.push(value::date(text)?),
        Values::Micros(v) => v.push(match kind {
            ColumnType::Timestamp => value::timestamp(text)?,
            ColumnType::DateTime => value::datetime(text)?,
            _ => value::time(text)?,
        }),
        Values::Text(v) if kind == ColumnType::Bytes => {
            base64::engine::general_purpose::STANDARD
                .decode_vec(text, &mut v.data)
                .map_err(|_| "the text is not base64")?;
            v.end();
        }
        Values::Text(v) if kind == ColumnType::Json => {
            v.push(
                serde_json::Value::String(text.to_owned())
                    .to_string()
                    .as_bytes(),
            );
        }
        Values::Text(v) => v.push(text.as_bytes()),
        Values::Record(..) | Values::List(..) => return Err("the value is text"),
    }
    Ok(())
}

pub(super) fn text_of(values: &mut Values, bytes: &[u8]) -> Result<(), Reason> {
    match values {
        Values::Text(v) => v.push(bytes),
        _ => return Err("the column does not hold text"),
    }
    Ok(())
}

/// JSON as received, without the white space between its tokens.
pub(super) fn compact(values: &mut Values, raw: &[u8]) -> Result<(), Reason> {
    let Values::Text(text) = values else {
        return Err("the column does not hold text");
    };
    let mut in_string = false;
    let mut escaped = false;
    let mut from = 0;
    for (i, b) in raw.iter().enumerate() {
        if in_string {
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
        } else if *b == b'"' {
            in_string = true;
        } else if matches!(b, b' ' | b'\n' | b'\r' | b'\t') {
            text.data.extend_from_slice(&raw[from..i]);
            from = i + 1;
        }
    }
    text.data.extend_from_slice(&raw[from..]);
    text.end();
    Ok(())
}

/// Offsets of the next batch, with room for as many cells as the last.
pub(super) fn restart(offsets: &[i32]) -> Vec<i32> {
    let mut fresh = Vec::with_capacity(offsets.len());
    fresh.push(0);
    fresh
}
