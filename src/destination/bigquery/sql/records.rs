//! RECORDs, put together field by field: BigQuery matches the fields of two RECORDs by their place,
//! whatever their names are, and a table may have others than the stream's schema, in another order.

use super::ident;
use crate::schema::{Column, ColumnType, Mode};

/// A staged column as the column `there` of the table has it: fields by name, null where the stream's
/// schema lacks one, and GEOGRAPHYs read from their text.
pub(super) fn value(column: &Column, there: &Column, staged: &str, text: Text) -> String {
    of(column, there, staged, text, 0)
}

/// What is known of the texts of staged GEOGRAPHYs.
#[derive(Clone, Copy)]
pub(super) enum Text {
    /// All are GEOGRAPHYs.
    Sound,
    /// Some are none, which make nulls: an error in a row that is left out would stop the others.
    Mixed,
}

impl Text {
    /// The GEOGRAPHY of a text.
    pub(super) fn geography(self, text: &str) -> String {
        let safe = match self {
            Self::Sound => "",
            Self::Mixed => "SAFE.",
        };
        format!(
            "IF(STARTS_WITH({text}, '{{'), {safe}ST_GEOGFROMGEOJSON({text}), {safe}ST_GEOGFROMTEXT({text}))"
        )
    }
}

/// Whether a staged column can be taken as it is.
pub(super) fn is_same(column: &Column, there: &Column) -> bool {
    column.kind != ColumnType::Geography
        && column.fields.len() == there.fields.len()
        && column
            .fields
            .iter()
            .zip(&there.fields)
            .all(|(a, b)| a.name.eq_ignore_ascii_case(&b.name) && is_same(a, b))
}

fn of(column: &Column, there: &Column, staged: &str, text: Text, depth: usize) -> String {
    if is_same(column, there) {
        return staged.to_owned();
    }
    if column.mode != Mode::Repeated {
        return single(column, there, staged, text, depth);
    }
    let (item, at) = (
        format!("_drawoff_item{depth}"),
        format!("_drawoff_at{depth}"),
    );
    format!(
        "ARRAY(SELECT {} FROM UNNEST({staged}) AS {item} WITH OFFSET AS {at} ORDER BY {at})",
        single(column, there, &item, text, depth + 1)
    )
}

fn single(column: &Column, there: &Column, staged: &str, text: Text, depth: usize) -> String {
    if column.kind == ColumnType::Geography {
        return text.geography(staged);
    }
    together(staged, there, |field| match find(&column.fields, field) {
        Some(f) => of(
            f,
            field,
            &format!("{staged}.{}", ident(&f.name)),
            text,
            depth,
        ),
        None => format!("CAST(NULL AS {})", type_of(field)),
    })
}

/// What an UPDATE sets the column `there` to, of which `new` is the value and `old` the one before,
/// both as the table has it: fields that the stream's schema lacks keep their values.
pub(super) fn update(column: &Column, there: &Column, new: &str, old: &str) -> String {
    if !lacks(column, there) {
        return new.to_owned();
    }
    together(new, there, |field| {
        let name = ident(&field.name);
        match find(&column.fields, field) {
            Some(f) => update(f, field, &format!("{new}.{name}"), &format!("{old}.{name}")),
            None => format!("{old}.{name}"),
        }
    })
}

/// Whether a column lacks a field that the table's has, outside of lists: items of lists are all new.
fn lacks(column: &Column, there: &Column) -> bool {
    there.mode != Mode::Repeated
        && there
            .fields
            .iter()
            .any(|field| find(&column.fields, field).is_none_or(|f| lacks(f, field)))
}

/// A RECORD with the fields of the table's column, or null where `value` is.
fn together(value: &str, there: &Column, field: impl Fn(&Column) -> String) -> String {
    let fields: Vec<String> = there
        .fields
        .iter()
        .map(|f| format!("{} AS {}", field(f), ident(&f.name)))
        .collect();
    format!("IF({value} IS NULL, NULL, STRUCT({}))", fields.join(", "))
}

/// The column of that name.
pub(super) fn find<'a>(columns: &'a [Column], like: &Column) -> Option<&'a Column> {
    columns
        .iter()
        .find(|c| c.name.eq_ignore_ascii_case(&like.name))
}

/// A column's type in an expression, where types have no limits.
fn type_of(column: &Column) -> String {
    let item = match column.kind {
        ColumnType::Record => {
            let fields: Vec<String> = column
                .fields
                .iter()
                .map(|f| format!("{} {}", ident(&f.name), type_of(f)))
                .collect();
            format!("STRUCT<{}>", fields.join(", "))
        }
        kind => kind.sql().to_owned(),
    };
    match column.mode {
        Mode::Repeated => format!("ARRAY<{item}>"),
        Mode::Nullable | Mode::Required => item,
    }
}
