//! Where two readings of a stream that appends meet. An API that includes its lower bound serves the
//! records at the saved cursor again, and one that was read to its middle may hold more of them: so the
//! ones that are in the table are told apart by their text, and passed over.

use jiter::{Jiter, JiterError, Peek};
use sha2::{Digest, Sha256};

use super::cursor::{Cursor, CursorColumn};
use crate::schema::decode::Decoder;
use crate::source::records::RecordSink;

/// The records at the highest cursor so far.
pub struct Seam {
    column: CursorColumn,
    /// Marks of records that a listing is about to serve again.
    expected: Vec<String>,
    /// The highest cursor…
    at: Option<Cursor>,
    /// …and the records there: those of readings before, by their marks…
    marks: Vec<String>,
    /// …and those of this one, as received. Hashed when asked for, since in a sorted listing every
    /// record is the highest for a moment.
    texts: Vec<Vec<u8>>,
}

impl Seam {
    /// A seam in rows with that cursor.
    pub fn new(column: CursorColumn) -> Self {
        Self {
            column,
            expected: Vec::new(),
            at: None,
            marks: Vec::new(),
            texts: Vec::new(),
        }
    }

    /// Goes on from a saved cursor and the marks of the records there.
    pub fn resume(&mut self, at: Option<Cursor>, marks: Vec<String>) {
        self.at = at;
        self.marks = marks;
        self.texts.clear();
    }

    /// A listing begins: the records at the highest cursor may come again, each once.
    pub fn expect(&mut self) {
        self.expected = self.marks();
    }

    /// Marks of the records at the highest cursor.
    pub fn marks(&self) -> Vec<String> {
        let texts = self.texts.iter().map(|text| mark(text));
        self.marks.iter().cloned().chain(texts).collect()
    }

    fn seen(&mut self, cursor: Option<Cursor>, text: &[u8]) {
        if cursor.is_none() || cursor < self.at {
            return;
        }
        if cursor > self.at {
            self.at = cursor;
            self.marks.clear();
            self.texts.clear();
        }
        self.texts.push(text.to_vec());
    }
}

fn mark(text: &[u8]) -> String {
    let hash = Sha256::digest(text);
    hash.iter().take(12).map(|b| format!("{b:02x}")).collect()
}

/// Hands records to a decoder, but those that are on the other side of the seam.
pub struct Seamed<'a> {
    /// Takes the records.
    pub decoder: &'a mut Decoder,
    /// Knows which to pass over.
    pub seam: &'a mut Seam,
}

impl RecordSink for Seamed<'_> {
    fn record(&mut self, json: &mut Jiter<'_>, peek: Peek) -> Result<(), JiterError> {
        let (start, position) = (json.current_index(), self.decoder.position());
        let text = if self.seam.expected.is_empty() {
            self.decoder.record(json, peek)?;
            json.slice_to_current(start)
        } else {
            json.known_skip(peek)?;
            let text = json.slice_to_current(start);
            let known = mark(text);
            if let Some(i) = self.seam.expected.iter().position(|e| *e == known) {
                self.seam.expected.swap_remove(i);
                self.decoder.pass_over();
                return Ok(());
            }
            let mut json = Jiter::new(text);
            let peek = json.peek()?;
            self.decoder.record(&mut json, peek)?;
            text
        };
        let cursor = self.seam.column.highest(self.decoder, position);
        self.seam.seen(cursor, text);
        Ok(())
    }

    fn broken(&mut self, reason: String, text: &str) {
        self.decoder.broken(reason, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Column, ColumnType, TableSchema};
    use crate::source::records::Layout;

    fn read(seam: &mut Seam, decoder: &mut Decoder, page: &str) -> usize {
        let before = decoder.len();
        let layout = Layout::new("", [], false);
        layout
            .walk(page.as_bytes(), &mut Seamed { decoder, seam })
            .unwrap();
        decoder.len() - before
    }

    #[test]
    fn records_at_the_cursor_come_once() {
        let schema = TableSchema {
            columns: vec![
                Column::new("id", ColumnType::Int64),
                Column::new("at", ColumnType::Int64),
            ],
        };
        let column = CursorColumn::find(&schema, "at", "s").unwrap();
        let mut decoder = Decoder::new(&schema);
        let mut first = Seam::new(column.clone());
        let page = r#"[{"id":1,"at":1}, {"id":2,"at":5}, {"id":2,"at":5}, {"id":0,"at":3}]"#;
        assert_eq!(
            read(&mut first, &mut decoder, page),
            4,
            "equal records are all kept"
        );
        assert_eq!(first.marks().len(), 2);

        let mut next = Seam::new(column);
        next.resume(Some(Cursor::Number(5)), first.marks());
        next.expect();
        let page = r#"[{"id":2,"at":5}, {"id":3,"at":5}, {"id":2,"at":5}, {"id":2,"at":5}]"#;
        assert_eq!(
            read(&mut next, &mut decoder, page),
            2,
            "a new one, and one more of the old"
        );
        assert_eq!(next.marks().len(), 4);
        assert_eq!(read(&mut next, &mut decoder, r#"[{"id":4,"at":6}]"#), 1);
        assert_eq!(next.marks().len(), 1);
        // Broken ones are passed on.
        next.expect();
        assert_eq!(
            read(
                &mut next,
                &mut decoder,
                r#"[{"id":"\ud800","at":6}, {"id":5}]"#
            ),
            1
        );
        assert_eq!(decoder.take_rejects().len(), 1);
    }
}
