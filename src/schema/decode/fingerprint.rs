//! What tells versions of a row apart in a table with history: a hash over the record as the API serves
//! it, of which only those fields count that the table keeps.
//!
//! It is made of the record and not of the row, so that it stays the same when a field moves from
//! [`super::EXTRA_COLUMN`] into a column of its own, and when a column becomes wider or gets a second one
//! beside it. Fields count by name, whatever their order; numbers by their value; lists in their order.
//! Nulls and empty lists do not count, at any depth.

use jiter::{Jiter, JiterError, Peek};
use sha2::{Digest, Sha256};

use super::object::Object;
use crate::schema::value;

/// Bytes of the SHA-256 that are kept: enough that no two versions are taken for one.
const BYTES: usize = 16;

/// The hash of a record that `object` has just read, and of columns that are the same in all, as
/// hexadecimal digits. `all`: fields without a column are kept, too.
pub(super) fn of(
    record: &[u8],
    object: &Object,
    all: bool,
    constants: &[(String, &str)],
) -> String {
    let mut text = Vec::with_capacity(record.len());
    framed(&mut text, |out| {
        let start = out.len();
        let mut json = Jiter::new(record);
        let object = (!all).then_some(object);
        let read = json
            .peek()
            .and_then(|peek| append(&mut json, peek, object, out));
        if read.is_err() {
            // Bytes that are no text, in a field without a column, which was skipped unread.
            out.truncate(start);
            out.extend_from_slice(record);
        }
    });
    for (name, constant) in constants {
        framed(&mut text, |out| out.extend_from_slice(name.as_bytes()));
        framed(&mut text, |out| out.extend_from_slice(constant.as_bytes()));
    }
    let hash = Sha256::digest(&text);
    hash.iter()
        .take(BYTES)
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Appends the value at the cursor, which is left behind it; whether it counts as the value of a field.
/// `object`: the columns of its fields, or of those of a list's items, where others do not count.
fn append(
    json: &mut Jiter<'_>,
    peek: Peek,
    object: Option<&Object>,
    out: &mut Vec<u8>,
) -> Result<bool, JiterError> {
    match peek {
        Peek::Null => {
            json.known_null()?;
            out.push(b'z');
            return Ok(false);
        }
        Peek::True | Peek::False => out.push(if json.known_bool(peek)? { b't' } else { b'f' }),
        Peek::String => {
            out.push(b's');
            out.extend_from_slice(json.known_str()?.as_bytes());
        }
        Peek::Array => {
            let mut next = json.known_array()?;
            let is_empty = next.is_none();
            out.push(b'l');
            while let Some(peek) = next {
                let at = begin(out);
                append(json, peek, object, out)?;
                end(at, out);
                next = json.array_step()?;
            }
            return Ok(!is_empty);
        }
        Peek::Object => {
            out.push(b'o');
            members(json, object, out)?;
        }
        number => {
            let raw = json.known_number_bytes(number)?;
            out.push(b'n');
            match std::str::from_utf8(raw).ok().and_then(value::plain) {
                Some(plain) => out.extend_from_slice(plain.as_bytes()),
                None => out.extend_from_slice(raw),
            }
        }
    }
    Ok(true)
}

/// Appends the fields that count, sorted by name: name and value of each.
fn members(
    json: &mut Jiter<'_>,
    object: Option<&Object>,
    out: &mut Vec<u8>,
) -> Result<(), JiterError> {
    let mut fields: Vec<(String, Vec<u8>)> = Vec::new();
    let mut key = json.known_object()?.map(str::to_owned);
    while let Some(name) = key {
        let peek = json.peek()?;
        let kept = match object {
            None => Some(None),
            Some(object) => object.column_of(&name),
        };
        match kept {
            None => json.known_skip(peek)?,
            Some(inside) => {
                let mut text = Vec::new();
                if append(json, peek, inside, &mut text)? {
                    fields.push((name, text));
                }
            }
        }
        key = json.next_key()?.map(str::to_owned);
    }
    // Stable: of a name that is there twice, both count, in their order.
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, text) in fields {
        framed(out, |out| out.extend_from_slice(name.as_bytes()));
        framed(out, |out| out.extend_from_slice(&text));
    }
    Ok(())
}

/// Appends what `write` does, led by its length.
fn framed(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = begin(out);
    write(out);
    end(at, out);
}

fn begin(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; 8]);
    at
}

fn end(at: usize, out: &mut [u8]) {
    let length = (out.len() - at - 8) as u64;
    out[at..at + 8].copy_from_slice(&length.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;

    use crate::schema::decode::{Decoder, EXTRA_COLUMN};
    use crate::schema::landing::column;
    use crate::schema::{Column, ColumnType, Mode, TableSchema};
    use jiter::Jiter;

    /// A decoder of these columns, and the engine's.
    fn decoder(columns: &[Column]) -> Decoder {
        let mut columns = columns.to_vec();
        for name in [column::RUN_ID, column::VALID_FROM, column::ROW_HASH] {
            columns.push(Column::new(name, ColumnType::String).mode(Mode::Required));
        }
        let mut decoder = Decoder::new(&TableSchema { columns });
        decoder.set_constant(column::RUN_ID, "one").unwrap();
        decoder.set_constant(column::VALID_FROM, "now").unwrap();
        decoder.fingerprint_into(column::ROW_HASH).unwrap();
        decoder
    }

    fn read(decoder: &mut Decoder, records: &[&str]) -> Vec<String> {
        for record in records {
            let mut json = Jiter::new(record.as_bytes());
            let peek = json.peek().unwrap();
            decoder.record(&mut json, peek).unwrap();
        }
        let batch = decoder.take().unwrap().unwrap();
        assert_eq!(batch.num_rows(), records.len());
        let column = batch
            .column_by_name(column::ROW_HASH)
            .unwrap()
            .as_string::<i32>();
        column.iter().map(|h| h.unwrap().to_owned()).collect()
    }

    fn hashes(columns: &[Column], records: &[&str]) -> Vec<String> {
        read(&mut decoder(columns), records)
    }

    fn text(name: &str) -> Column {
        Column::new(name, ColumnType::String)
    }

    fn extra() -> Column {
        Column::new(EXTRA_COLUMN, ColumnType::Json)
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::new("id", ColumnType::Int64),
            text("a"),
            text("b"),
            text("l").mode(Mode::Repeated),
            Column::new("j", ColumnType::Json),
            Column::new("r", ColumnType::Record).fields(vec![text("x"), text("y")]),
            Column::new("rs", ColumnType::Record)
                .mode(Mode::Repeated)
                .fields(vec![text("x"), text("y")]),
        ]
    }

    #[test]
    fn every_value_counts_and_where_it_is() {
        let records = [
            "{}",
            r#"{"id":1}"#,
            r#"{"id":2}"#,
            r#"{"a":"1"}"#,
            r#"{"b":"1"}"#,
            r#"{"a":"1","b":"2"}"#,
            r#"{"a":"12"}"#,
            r#"{"a":12}"#,
            r#"{"a":-12}"#,
            r#"{"a":1.2}"#,
            r#"{"a":true}"#,
            r#"{"a":false}"#,
            r#"{"a":"2","b":"1"}"#,
            r#"{"a":""}"#,
            r#"{"l":["p","q"]}"#,
            r#"{"l":["q","p"]}"#,
            r#"{"l":["pq"]}"#,
            r#"{"l":[""]}"#,
            r#"{"j":[[]]}"#,
            r#"{"j":[null]}"#,
            r#"{"j":{}}"#,
            r#"{"j":[[1],2]}"#,
            r#"{"j":[[1,2]]}"#,
            r#"{"r":{}}"#,
            r#"{"r":{"x":"1"}}"#,
            r#"{"r":{"y":"1"}}"#,
            r#"{"rs":[{"x":"1"}]}"#,
            r#"{"rs":[{"x":"1"},{}]}"#,
            r#"{"rs":[{"x":"1","y":"1"}]}"#,
        ];
        let all = hashes(&columns(), &records);
        let mut distinct = all.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), all.len(), "{all:?}");
        assert!(all.iter().all(|h| h.len() == 32));
        assert_eq!(hashes(&[columns(), vec![extra()]].concat(), &records), all);
    }

    #[test]
    fn nulls_order_and_how_a_row_came_do_not_count() {
        let record = r#"{"id":1,"a":"é","b":10,"l":[],"r":{"x":"1","y":null},"rs":[{"y":"2"}],"j":{"m":1,"n":[2]}}"#;
        let later = r#" { "rs": [ {"y":"2"} ], "j": {"n":[2.0],"m":1e0}, "r":{"x":"1"},"b":1.0e1, "a":"\u00e9","id":1 } "#;
        let plain = hashes(&columns(), &[record, later.trim()]);
        assert_eq!(plain[0], plain[1]);
        let mut other = decoder(&columns());
        other.set_constant(column::RUN_ID, "two").unwrap();
        other.set_constant(column::VALID_FROM, "later").unwrap();
        assert_eq!(read(&mut other, &[record])[0], plain[0]);
    }

    #[test]
    fn what_changes_in_the_table_alone_is_no_change() {
        let record = r#"{"id":1,"a":"x","n":1.50,"at":"2026-01-01T00:00:00Z","l":["x"],
            "r":{"x":"1","z":2},"rs":[{"x":"1","z":[true]}],"o":{"p":{"q":1}},"A b":""}"#;
        let before = hashes(&[columns(), vec![extra()]].concat(), &[record]);
        // Each field in a column of its own, of any type and in any order, and more of them.
        let mut moved: Vec<Column> = columns();
        moved[1].name = "A".into();
        moved[5]
            .fields
            .insert(0, Column::new("z", ColumnType::Int64));
        moved[6]
            .fields
            .push(Column::new("z", ColumnType::Bool).mode(Mode::Repeated));
        let inner = Column::new("p", ColumnType::Record)
            .fields(vec![Column::new("q", ColumnType::Numeric)]);
        moved.extend([
            Column::new("n", ColumnType::Float64),
            Column::new("at", ColumnType::Timestamp),
            Column::new("o", ColumnType::Record).fields(vec![inner, text("new")]),
            Column::new("A_b", ColumnType::Date),
            Column::new("new", ColumnType::Json),
            Column::new("lists", ColumnType::Int64).mode(Mode::Repeated),
        ]);
        moved.reverse();
        assert_eq!(hashes(&moved, &[record]), before);
        moved.push(extra());
        assert_eq!(hashes(&moved, &[record]), before);
        // Wider, and beside a column of another type.
        moved.iter_mut().find(|c| c.name == "id").unwrap().kind = ColumnType::BigNumeric;
        moved.iter_mut().find(|c| c.name == "n").unwrap().kind = ColumnType::Int64;
        moved.push(text("n__string"));
        let mut watching = decoder(&moved);
        watching.watch();
        assert_eq!(read(&mut watching, &[record]), before);
        // And when the table gets its columns between two batches.
        let mut growing = decoder(&[columns(), vec![extra()]].concat());
        assert_eq!(read(&mut growing, &[record]), before);
        let mut schema = TableSchema { columns: moved };
        for name in [column::RUN_ID, column::VALID_FROM, column::ROW_HASH] {
            schema.columns.push(text(name).mode(Mode::Required));
        }
        let mut grown = growing.with_columns(&schema).unwrap();
        grown.watch();
        assert_eq!(read(&mut grown, &[record]), before);
    }

    #[test]
    fn only_what_the_table_keeps_counts() {
        let plain = r#"{"id":1,"r":{"x":"1"},"rs":[{"x":"1"}]}"#;
        let more = r#"{"id":1,"r":{"x":"1","z":1},"rs":[{"z":[2],"x":"1"}],"new":{"x":"1"},"_valid_to":"x"}"#;
        let without = hashes(&columns(), &[plain, more]);
        assert_eq!(without[0], without[1]);
        let with = hashes(&[columns(), vec![extra()]].concat(), &[plain, more]);
        assert_eq!(with[0], without[0]);
        assert_ne!(with[0], with[1]);
    }

    #[test]
    fn columns_that_are_the_same_for_a_parent_count() {
        let of = |name: &str, value: &str| {
            let mut decoder = decoder(&[text("id"), text(name), text("p")]);
            decoder.set_constant(name, value).unwrap();
            read(&mut decoder, &[r#"{"id":"1"}"#]).remove(0)
        };
        assert_eq!(of("repository", "a"), of("repository", "a"));
        assert_ne!(of("repository", "a"), of("repository", "b"));
        assert_ne!(of("repository", "a"), of("owner", "a"));
    }
}
