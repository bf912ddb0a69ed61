//! The partitions of a child stream: its parent's records, re-read through the API, of which only
//! the fields that the child names are kept.

use std::collections::BTreeMap;

use jiter::{Jiter, JiterError, Peek};

use super::records::RecordSink;

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The parent's fields, by dotted name.
    pub fields: BTreeMap<String, String>,
    /// The parent's cursor, where the child goes by it.
    pub cursor: Option<String>,
}

impl Partition {
    /// Names the partition: the fields' values in the order of their names.
    pub fn key(&self) -> String {
        let mut key = String::new();
        for value in self.fields.values() {
            if !key.is_empty() {
                key.push('/');
            }
            key.push_str(&value.replace('\\', "\\\\").replace('/', "\\/"));
        }
        key
    }
}

/// Collects partitions out of the parent's records.
#[derive(Debug)]
pub struct PartitionSink<'a> {
    fields: &'a [String],
    cursor: Option<&'a str>,
    /// What was found.
    pub partitions: Vec<Partition>,
    /// Parents that lack a field, and so cannot have their children read.
    pub lacking: u64,
}

impl<'a> PartitionSink<'a> {
    /// `fields` and `cursor` are dotted names in the parent's records.
    pub fn new(fields: &'a [String], cursor: Option<&'a str>) -> Self {
        Self {
            fields,
            cursor,
            partitions: Vec::new(),
            lacking: 0,
        }
    }
}

impl RecordSink for PartitionSink<'_> {
    fn record(&mut self, json: &mut Jiter<'_>, peek: Peek) -> Result<(), JiterError> {
        let mut found = BTreeMap::new();
        let wanted: Vec<&str> = self
            .fields
            .iter()
            .map(String::as_str)
            .chain(self.cursor)
            .collect();
        collect(json, peek, "", &wanted, &mut found)?;
        let fields: BTreeMap<String, String> = self
            .fields
            .iter()
            .filter_map(|f| Some((f.clone(), found.get(f)?.clone())))
            .collect();
        if fields.len() == self.fields.len() {
            let cursor = self.cursor.and_then(|c| found.remove(c));
            self.partitions.push(Partition { fields, cursor });
        } else {
            self.lacking += 1;
        }
        Ok(())
    }

    fn broken(&mut self, _: String, _: &str) {
        self.lacking += 1;
    }
}

/// Collects the scalars whose dotted name is wanted; null counts as absent.
fn collect(
    json: &mut Jiter<'_>,
    peek: Peek,
    path: &str,
    wanted: &[&str],
    found: &mut BTreeMap<String, String>,
) -> Result<(), JiterError> {
    let is_wanted = wanted.contains(&path);
    match peek {
        Peek::Object if !is_wanted => {
            let mut key = json.known_object()?.map(str::to_owned);
            while let Some(name) = key {
                let full = if path.is_empty() {
                    name
                } else {
                    format!("{path}.{name}")
                };
                let peek = json.peek()?;
                let on_the_way = wanted.iter().any(|w| {
                    *w == full
                        || w.strip_prefix(full.as_str())
                            .is_some_and(|r| r.starts_with('.'))
                });
                if on_the_way {
                    collect(json, peek, &full, wanted, found)?;
                } else {
                    json.known_skip(peek)?;
                }
                key = json.next_key()?.map(str::to_owned);
            }
        }
        Peek::String if is_wanted => {
            found.insert(path.to_owned(), json.known_str()?.to_owned());
        }
        Peek::True | Peek::False if is_wanted => {
            found.insert(path.to_owned(), json.known_bool(peek)?.to_string());
        }
        peek if is_wanted && peek.is_num() => {
            let raw = json.known_number_bytes(peek)?;
            found.insert(path.to_owned(), String::from_utf8_lossy(raw).into_owned());
        }
        peek => json.known_skip(peek)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_by_dotted_name() {
        let fields = ["owner.login".to_owned(), "id".to_owned()];
        let mut sink = PartitionSink::new(&fields, Some("updated_at"));
        for record in [
            r#"{"id": 12345678901234567890, "owner": {"login": "a/b", "id": 9}, "updated_at": "2026"}"#,
            r#"{"id": 2, "owner": null}"#,
            r#"{"owner": {"login": "c"}, "id": 3}"#,
        ] {
            let mut json = Jiter::new(record.as_bytes());
            let peek = json.peek().unwrap();
            sink.record(&mut json, peek).unwrap();
        }
        assert_eq!(sink.lacking, 1);
        assert_eq!(sink.partitions[0].key(), "12345678901234567890/a\\/b");
        assert_eq!(sink.partitions[0].cursor.as_deref(), Some("2026"));
        assert_eq!(sink.partitions[1].cursor, None);
    }
}
