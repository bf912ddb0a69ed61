//! A table's schema from records, for streams that declare none.
//!
//! Every column is nullable. What the sample shows only as null or as an empty list gets no column
//! of its own yet: such fields go to [`EXTRA_COLUMN`] with all others that come later.

use jiter::{Jiter, JiterError, Peek};

use super::decode::EXTRA_COLUMN;
use super::grow::{MOST_COLUMNS, SEQUENCE};
use super::name::Spoken;
use super::shape::{Fields, Shape, columns_of, shape};
use super::{Column, ColumnType, TableSchema, size};

/// What records look like so far.
#[derive(Debug, Default)]
pub struct Inference {
    root: Fields,
    records: u64,
    others: u64,
}

impl Inference {
    /// Takes the record at the cursor into account.
    ///
    /// # Errors
    /// Broken JSON.
    pub fn record(&mut self, json: &mut Jiter<'_>, peek: Peek) -> Result<(), JiterError> {
        match shape(json, peek, 0)? {
            Shape::Object(fields) => {
                self.root.join(fields);
                self.records += 1;
            }
            _ => self.others += 1,
        }
        Ok(())
    }

    /// Notes a record that cannot be read.
    pub fn unreadable(&mut self) {
        self.others += 1;
    }

    /// Records seen.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// What stood in a record's place and is none.
    pub fn others(&self) -> u64 {
        self.others
    }

    /// The schema: a column for each field as they were met, up to [`MOST_COLUMNS`], then
    /// [`EXTRA_COLUMN`]. Columns of the names `needed` are there in any case, and their fields' own.
    pub fn schema(&self, needed: &Spoken) -> TableSchema {
        // A field with a name of ours goes into the extra column like any other without a column.
        let mut columns = columns_of(&self.root, &[EXTRA_COLUMN, SEQUENCE], needed, 0);
        let is_needed = |c: &Column| needed.has(&c.name);
        let of = |c: &Column| size(std::slice::from_ref(c));
        let reserved: usize = columns.iter().filter(|c| is_needed(c)).map(of).sum();
        let mut room = MOST_COLUMNS.saturating_sub(reserved);
        columns.retain(|column| {
            let fits = of(column) <= room;
            if fits && !is_needed(column) {
                room -= of(column);
            }
            fits || is_needed(column)
        });
        columns.push(extra());
        TableSchema { columns }
    }
}

/// The [`EXTRA_COLUMN`].
pub fn extra() -> Column {
    Column::new(EXTRA_COLUMN, ColumnType::Json)
        .describe("Fields of the record that no other column is for, by dotted name.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Mode, name};

    fn infer(records: &[&str]) -> Inference {
        let mut inference = Inference::default();
        for record in records {
            let mut json = Jiter::new(record.as_bytes());
            let peek = json.peek().unwrap();
            inference.record(&mut json, peek).unwrap();
        }
        inference
    }

    fn types(schema: &TableSchema) -> Vec<String> {
        schema
            .columns
            .iter()
            .map(|c| {
                let repeated = if c.mode == Mode::Repeated { "[]" } else { "" };
                format!("{} {}{repeated}", c.name, c.kind.sql())
            })
            .collect()
    }

    #[test]
    fn narrowest_type_that_holds_all() {
        let schema = infer(&[
            r#"{"i": 1, "f": 1, "big": 18446744073709551615, "s": "x", "d": "2026-01-01", "t": "2026-01-01T00:00:00Z",
                "n": null, "e": [], "o": {"a": 1}, "l": ["a"], "ll": [[1]], "m": 1, "mixed": {"a": 1}, "dt": ""}"#,
            r#"{"i": 2, "f": 1.5, "s": 7, "d": null, "t": "2026-01-01", "o": {"b": true}, "l": [], "m": "x", "mixed": 3,
                "dt": "2026-01-01"}"#,
        ])
        .schema(&Spoken::default());
        assert_eq!(
            types(&schema),
            [
                "i INT64",
                "f FLOAT64",
                "big BIGNUMERIC",
                "s STRING",
                "d DATE",
                "t TIMESTAMP",
                "o RECORD",
                "l STRING[]",
                "ll JSON",
                "m STRING",
                "mixed JSON",
                "dt DATE",
                "_extra JSON"
            ]
        );
        assert_eq!(schema.column("o").unwrap().fields.len(), 2);
    }

    #[test]
    fn what_no_column_holds_becomes_json_or_extra() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        let deep = format!(
            r#"{{"id": 1, "_extra": 9, "l": [null, 1], "deep": {}}}"#,
            nested(100)
        );
        let schema = infer(&[&deep]).schema(&Spoken::default());
        assert_eq!(
            types(&schema),
            ["id INT64", "l JSON", "deep JSON", "_extra JSON"]
        );
        // Deeper than the reader goes: an error, not a stack that runs over.
        let endless = format!(r#"{{"deep": {}}}"#, nested(20_000));
        let mut json = Jiter::new(endless.as_bytes());
        assert!(
            Inference::default()
                .record(&mut json, Peek::Object)
                .is_err()
        );
    }

    #[test]
    fn colliding_keys_get_a_column_each_in_any_order() {
        let one = infer(&[r#"{"o": {"a.b": 1, "a_b": 2}, "ID": 1, "id": "x"}"#])
            .schema(&Spoken::default());
        let two = infer(&[r#"{"id": "x", "ID": 1, "o": {"a_b": 2, "a.b": 1}}"#])
            .schema(&Spoken::default());
        assert_eq!(
            types(&one),
            [
                "o RECORD".to_owned(),
                "ID INT64".to_owned(),
                format!("{} STRING", name::hashed("id")),
                "_extra JSON".to_owned(),
            ]
        );
        let inner = &one.column("o").unwrap().fields;
        assert_eq!(inner[0].name, name::hashed("a.b"));
        assert_eq!(inner[0].description, "Field `a.b`.");
        assert_eq!(inner[1].name, "a_b");
        for column in &one.columns {
            let other = two.column(&column.name).unwrap();
            assert_eq!(column.kind, other.kind);
            assert!(column.fields.iter().all(|f| other.fields.contains(f)));
        }
    }

    #[test]
    fn more_fields_than_a_table_should_have_stay_in_one_column() {
        let fields: Vec<String> = (0..10_001).map(|n| format!("\"f{n}\": {n}")).collect();
        let schema = infer(&[&format!("{{{}}}", fields.join(","))]).schema(&Spoken::default());
        assert_eq!(schema.columns.len(), MOST_COLUMNS + 1);
        assert_eq!(schema.columns[MOST_COLUMNS].name, EXTRA_COLUMN);
        let needed = infer(&[&format!("{{{}}}", fields.join(","))])
            .schema(&Spoken::new(["F10000".to_owned()], Vec::new()));
        assert_eq!(needed.columns.len(), MOST_COLUMNS + 1);
        assert_eq!(needed.columns[MOST_COLUMNS - 1].name, "f10000");
    }
}
