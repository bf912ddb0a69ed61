//! What the values of a field look like, over many records, and the column that holds them all.

use std::collections::BTreeMap;

use jiter::{Jiter, JiterError, Peek};

use super::name::{self, Spoken};
use super::{Column, ColumnType, MAX_NESTING, Mode, value};

/// What is nested deeper than this becomes JSON, unread.
const DEEPEST: usize = 64;
/// An object with more keys than this is a map, and becomes JSON.
const MOST_FIELDS: usize = 200;

/// Fields of an object, in the order in which they were first met.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fields {
    shapes: BTreeMap<String, Shape>,
    order: Vec<String>,
}

/// What the values of one field look like.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    /// Only nulls.
    Null,
    /// Only nulls and empty strings.
    Empty,
    Bool,
    Int,
    /// Whole, but beyond INT64.
    BigInt,
    Float,
    Date,
    Timestamp,
    Text,
    List(Box<Shape>),
    Object(Fields),
    /// No one type holds it.
    Any,
}

impl Fields {
    /// The field of that name.
    pub(super) fn get(&self, key: &str) -> Option<&Shape> {
        self.shapes.get(key)
    }

    /// Names, in the order in which they were first met.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(String::as_str)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Takes what was found of a field into account.
    pub(super) fn add(&mut self, key: &str, found: Shape) {
        match self.shapes.get_mut(key) {
            Some(known) => *known = merge(std::mem::replace(known, Shape::Null), found),
            None => {
                self.order.push(key.to_owned());
                self.shapes.insert(key.to_owned(), found);
            }
        }
    }

    /// Takes what was found of an object into account.
    pub(super) fn join(&mut self, mut found: Self) {
        for name in found.order {
            if let Some(shape) = found.shapes.remove(&name) {
                self.add(&name, shape);
            }
        }
    }
}

/// Reads the value at the cursor for its shape.
///
/// # Errors
/// Broken JSON.
pub(super) fn shape(json: &mut Jiter<'_>, peek: Peek, depth: usize) -> Result<Shape, JiterError> {
    Ok(match peek {
        Peek::Array | Peek::Object if depth > DEEPEST => {
            json.known_skip(peek)?;
            Shape::Any
        }
        Peek::Null => {
            json.known_null()?;
            Shape::Null
        }
        Peek::True | Peek::False => {
            json.known_bool(peek)?;
            Shape::Bool
        }
        Peek::String => text_shape(json.known_str()?),
        Peek::Array => {
            let mut item = Shape::Null;
            let mut next = json.known_array()?;
            while let Some(peek) = next {
                item = match shape(json, peek, depth + 1)? {
                    // A REPEATED column holds no nulls.
                    Shape::Null => Shape::Any,
                    found => merge(item, found),
                };
                next = json.array_step()?;
            }
            Shape::List(Box::new(item))
        }
        Peek::Object => {
            let mut fields = Fields::default();
            let mut key = json.known_object()?.map(str::to_owned);
            while let Some(name) = key {
                let peek = json.peek()?;
                let found = shape(json, peek, depth + 1)?;
                fields.add(&name, found);
                key = json.next_key()?.map(str::to_owned);
            }
            Shape::Object(fields)
        }
        peek if peek.is_num() => {
            let raw = json.known_number_bytes(peek)?;
            if raw.iter().any(|b| matches!(b, b'.' | b'e' | b'E')) {
                Shape::Float
            } else if value::int64(raw).is_ok() {
                Shape::Int
            } else {
                Shape::BigInt
            }
        }
        peek => {
            json.known_skip(peek)?;
            Shape::Any
        }
    })
}

fn text_shape(text: &str) -> Shape {
    let dated = text.len() >= 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-';
    if text.is_empty() {
        Shape::Empty
    } else if dated && text.len() == 10 && value::date(text).is_ok() {
        Shape::Date
    } else if dated && text.len() > 10 && value::timestamp(text).is_ok() {
        Shape::Timestamp
    } else {
        Shape::Text
    }
}

/// The narrowest shape that holds both.
fn merge(a: Shape, b: Shape) -> Shape {
    use Shape::{Any, BigInt, Date, Empty, Float, Int, List, Null, Object, Text, Timestamp};
    match (a, b) {
        (a, b) if a == b => a,
        (Null, other) | (other, Null) => other,
        // "" stands for a missing date or number as often as for a text.
        (Empty, other @ (Text | Date | Timestamp | Int | Float | BigInt | Shape::Bool))
        | (other @ (Text | Date | Timestamp | Int | Float | BigInt | Shape::Bool), Empty) => other,
        (Int, Float) | (Float, Int) => Float,
        (Int, BigInt) | (BigInt, Int) => BigInt,
        (Date, Timestamp) | (Timestamp, Date) => Timestamp,
        (List(a), List(b)) => List(Box::new(merge(*a, *b))),
        (Object(mut a), Object(b)) => {
            a.join(b);
            if a.len() > MOST_FIELDS {
                Any
            } else {
                Object(a)
            }
        }
        // A STRING column takes numbers and flags as their text, exactly.
        (List(_) | Object(_) | Any, _) | (_, List(_) | Object(_) | Any) => Any,
        _ => Text,
    }
}

/// The columns for an object's fields, as they were first met; a field that shows only nulls has none.
/// `there` are names of columns that the object has already, `spoken` those that are written down.
pub(super) fn columns_of(
    fields: &Fields,
    there: &[&str],
    spoken: &Spoken,
    depth: usize,
) -> Vec<Column> {
    let shown = || {
        fields.keys().filter_map(|key| {
            let inside = spoken.within(&name::normalize(key));
            Some((key, column(fields.get(key)?, &inside, depth)?))
        })
    };
    // A column that is there is its own key's; keys that only come to the same name get one beside it.
    let keys = shown().map(|(key, _)| key).chain(spoken.keys_of(there));
    let places = name::assign(keys, there, spoken);
    shown()
        .filter_map(|(key, column)| match places.get(key)? {
            name::Place::There(_) => None,
            name::Place::New(name) => Some(match *name == key {
                true => column.named(name),
                false => column.named(name).describe(match key {
                    "" => "The field with an empty name.".to_owned(),
                    key => format!("Field {}.", name::shown(key)),
                }),
            }),
        })
        .collect()
}

/// The column that holds values of that shape, without a name yet; `None` while only nulls were met.
/// `spoken`: names of columns inside of it that are written down.
pub(super) fn column(shape: &Shape, spoken: &Spoken, depth: usize) -> Option<Column> {
    let scalar = |kind| Some(Column::new("", kind));
    match shape {
        Shape::Null => None,
        Shape::Empty | Shape::Text => scalar(ColumnType::String),
        Shape::Bool => scalar(ColumnType::Bool),
        Shape::Int => scalar(ColumnType::Int64),
        Shape::BigInt => scalar(ColumnType::BigNumeric),
        Shape::Float => scalar(ColumnType::Float64),
        Shape::Date => scalar(ColumnType::Date),
        Shape::Timestamp => scalar(ColumnType::Timestamp),
        Shape::Any => scalar(ColumnType::Json),
        Shape::Object(_) if depth >= MAX_NESTING => scalar(ColumnType::Json),
        Shape::Object(fields) => match columns_of(fields, &[], spoken, depth + 1) {
            columns if columns.is_empty() => scalar(ColumnType::Json),
            columns => Some(Column::new("", ColumnType::Record).fields(columns)),
        },
        Shape::List(item) => match &**item {
            Shape::Null => None,
            Shape::List(_) | Shape::Any => scalar(ColumnType::Json),
            item => match column(item, spoken, depth)? {
                // A list of JSON values is itself one JSON value, nulls and all.
                c if c.kind == ColumnType::Json => scalar(ColumnType::Json),
                c => Some(c.mode(Mode::Repeated)),
            },
        },
    }
}
