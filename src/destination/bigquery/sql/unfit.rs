//! Staged rows that the table would refuse: a GEOGRAPHY comes as text that may be none, and a table may
//! have narrower limits than the stream's schema, inside RECORDs and lists for good. A publish that met
//! one would fail as a whole, and so would the next; so they are looked for before it, and go to the rejects.

use super::merge::NEW;
use super::{ident, list, records};
use crate::destination::rejects;
use crate::schema::landing::column::EXTRACTED_AT;
use crate::schema::{Column, ColumnType, Mode, TableSchema, evolution};

/// The column of the answer to [`count`].
pub(in super::super) const COUNT: &str = "unfit";

/// The parameter of a publish that has rows for the rejects: the stream's name.
pub(in super::super) const STREAM: &str = "rejects_of";

/// A place in a row where a value may not fit.
struct Place {
    /// True of a row whose value does not fit; never null.
    unfit: String,
    /// A JSON pointer, down to the first list.
    path: String,
    reason: &'static str,
}

const NO_GEOGRAPHY: &str =
    "BigQuery refused the row: the text is neither WKT nor GeoJSON that it can read";
const BEYOND: &str =
    "BigQuery refused the row: the value is longer than its column in the table allows";

/// Counts the rows, reading no other columns; `None` where all fit.
pub(in super::super) fn count(
    wanted: &TableSchema,
    there: &[Column],
    staged: &str,
) -> Option<String> {
    let columns: Vec<Column> = wanted
        .columns
        .iter()
        .filter(|c| !places(std::slice::from_ref(*c), there).is_empty())
        .cloned()
        .collect();
    (!columns.is_empty()).then(|| {
        format!(
            "SELECT COUNT(*) AS {COUNT} FROM (SELECT {} FROM {staged}) AS {NEW}\nWHERE {}",
            list(&columns),
            any(&places(&columns, there))
        )
    })
}

/// The staging table without them.
pub(super) fn fit(columns: &[Column], there: &[Column], staged: &str) -> String {
    format!(
        "(SELECT * FROM {staged} AS {NEW} WHERE NOT ({}))",
        any(&places(columns, there))
    )
}

/// How many they are, as an expression.
pub(super) fn number(columns: &[Column], there: &[Column], staged: &str) -> String {
    format!(
        "(SELECT COUNT(*) FROM {staged} AS {NEW} WHERE {})",
        any(&places(columns, there))
    )
}

/// Adds them to the rejects: parameters [`STREAM`], `run_id`.
pub(super) fn keep(columns: &[Column], there: &[Column], staged: &str, rejects: &str) -> String {
    let places = places(columns, there);
    let first = |what: fn(&Place) -> &str| -> String {
        let cases: Vec<String> = places
            .iter()
            .map(|p| format!("WHEN {} THEN '{}'", p.unfit, what(p)))
            .collect();
        format!("CASE {} END", cases.join(" "))
    };
    let values: Vec<String> = columns
        .iter()
        .map(|c| format!("{NEW}.{0} AS {0}", ident(&c.name)))
        .collect();
    let dated = columns.iter().any(|c| c.name == EXTRACTED_AT);
    let received = match dated {
        true => format!("IFNULL({NEW}.{}, CURRENT_TIMESTAMP())", ident(EXTRACTED_AT)),
        false => "CURRENT_TIMESTAMP()".to_owned(),
    };
    format!(
        "INSERT INTO {rejects} ({})\nSELECT @{STREAM}, {}, {}, TO_JSON_STRING(STRUCT({})), {received}, @run_id\n\
         FROM {staged} AS {NEW}\nWHERE {};\n",
        list(&rejects::schema().columns),
        first(|p| p.reason),
        first(|p| &p.path),
        values.join(", "),
        any(&places)
    )
}

fn any(places: &[Place]) -> String {
    let all: Vec<&str> = places.iter().map(|p| p.unfit.as_str()).collect();
    all.join(" OR ")
}

fn places(columns: &[Column], there: &[Column]) -> Vec<Place> {
    let mut found = Vec::new();
    for column in columns {
        let there = records::find(there, column).unwrap_or(column);
        let value = format!("{NEW}.{}", ident(&column.name));
        found.extend(of(column, there, &value, &format!("/{}", column.name), 0));
    }
    found
}

fn of(column: &Column, there: &Column, value: &str, path: &str, depth: usize) -> Vec<Place> {
    if column.mode != Mode::Repeated {
        return single(column, there, value, path, depth);
    }
    let item = format!("_drawoff_item{depth}");
    single(column, there, &item, path, depth + 1)
        .into_iter()
        .map(|place| Place {
            unfit: format!(
                "EXISTS (SELECT 1 FROM UNNEST({value}) AS {item} WHERE {})",
                place.unfit
            ),
            path: path.to_owned(),
            ..place
        })
        .collect()
}

fn single(column: &Column, there: &Column, value: &str, path: &str, depth: usize) -> Vec<Place> {
    let place = |unfit: String, reason| {
        vec![Place {
            unfit,
            path: path.to_owned(),
            reason,
        }]
    };
    match column.kind {
        ColumnType::Record => column
            .fields
            .iter()
            .flat_map(|field| {
                let there = records::find(&there.fields, field).unwrap_or(field);
                let value = format!("{value}.{}", ident(&field.name));
                of(
                    field,
                    there,
                    &value,
                    &format!("{path}/{}", field.name),
                    depth,
                )
            })
            .collect(),
        ColumnType::Geography => place(
            format!(
                "({value} IS NOT NULL AND {} IS NULL)",
                records::Text::Mixed.geography(value)
            ),
            NO_GEOGRAPHY,
        ),
        _ if evolution::is_looser(column, there) => Vec::new(),
        kind => match beyond(there, kind, value) {
            Some(beyond) => place(format!("IFNULL({beyond}, FALSE)"), BEYOND),
            None => Vec::new(),
        },
    }
}

/// Whether a value is beyond the column's limits; null where it is null. `None` where the type has none.
fn beyond(there: &Column, kind: ColumnType, value: &str) -> Option<String> {
    let (most, digits) = match kind {
        ColumnType::Numeric => (29, 9),
        ColumnType::BigNumeric => (38, 38),
        ColumnType::String => {
            let longest = there.max_length?.0;
            return Some(format!("CHAR_LENGTH({value}) > {longest}"));
        }
        ColumnType::Bytes => {
            let longest = there.max_length?.0;
            return Some(format!("BYTE_LENGTH({value}) > {longest}"));
        }
        _ => return None,
    };
    let scale = there.scale.map_or(0, |n| n.0);
    let whole = there.precision?.0.saturating_sub(scale);
    if whole >= most {
        return None;
    }
    // BigQuery rounds to the scale first: the least that is too large is half a unit below.
    let (whole, scale) = (whole as usize, scale as usize);
    let least = match (whole, scale < digits) {
        (_, false) => format!("1{}", "0".repeat(whole)),
        (0, true) => format!("0.{}5", "9".repeat(scale)),
        (_, true) => format!("{}.{}5", "9".repeat(whole), "9".repeat(scale)),
    };
    Some(format!("ABS({value}) >= {} '{least}'", kind.sql()))
}
