//! A page's body → its records, one by one, and the few values that paging needs, in one pass.

use std::collections::HashMap;

use jiter::{Jiter, JiterError, Peek};

use crate::error::{Error, ErrorKind, Result};
use crate::schema::decode::Decoder;

/// Takes records as they are met.
pub trait RecordSink {
    /// Reads the record at the cursor and leaves the cursor behind it.
    ///
    /// # Errors
    /// Broken JSON.
    fn record(&mut self, json: &mut Jiter<'_>, peek: Peek) -> Result<(), JiterError>;

    /// Is told of a record whose JSON cannot be read, with its text.
    fn broken(&mut self, reason: String, text: &str);
}

impl RecordSink for Decoder {
    fn record(&mut self, json: &mut Jiter<'_>, peek: Peek) -> Result<(), JiterError> {
        Self::record(self, json, peek)
    }

    fn broken(&mut self, reason: String, text: &str) {
        self.reject(reason, String::new(), text.to_owned());
    }
}

/// What a page held beside its records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Records, broken ones included.
    pub records: u64,
    /// Text of the wanted values that are there and not null, by JSON pointer.
    pub values: HashMap<String, String>,
}

/// What to look for in a page.
#[derive(Clone, Debug)]
pub struct Layout {
    records: Vec<String>,
    pointer: String,
    wanted: Vec<(String, Vec<String>)>,
    /// The page may be one record instead of an array of them.
    single: bool,
}

impl Layout {
    /// `records` and `wanted` are JSON pointers; `single` allows one object in place of the array.
    pub fn new<'a>(records: &str, wanted: impl IntoIterator<Item = &'a str>, single: bool) -> Self {
        Self {
            records: steps(records),
            pointer: records.to_owned(),
            wanted: wanted
                .into_iter()
                .map(|p| (p.to_owned(), steps(p)))
                .collect(),
            single,
        }
    }

    /// Reads a page. An empty body (an answer 204) holds no records.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when the body is no JSON, ends in the middle, or has no array where
    /// the records should be.
    pub fn walk(&self, body: &[u8], sink: &mut impl RecordSink) -> Result<Walked> {
        let mut walked = Walked::default();
        if body.trim_ascii().is_empty() {
            return Ok(walked);
        }
        let mut walk = Walk {
            layout: self,
            body,
            json: Jiter::new(body),
            base: 0,
            sink,
            walked: &mut walked,
            found: false,
        };
        let outcome = walk.document();
        let found = walk.found;
        match outcome {
            Ok(()) if found => Ok(walked),
            Ok(()) => Err(self.not_found(body)),
            Err(Stop::Json(at, error)) => Err(Error::new(
                ErrorKind::Decode,
                format!(
                    "the page is not valid JSON at byte {at} of {}: {}",
                    body.len(),
                    error.error_type
                ),
            )
            .hint(
                "the API sent something else than the connector expects, or less than it announced",
            )),
            Err(Stop::Shape(error)) => Err(error),
        }
    }

    fn not_found(&self, body: &[u8]) -> Error {
        let first = body.trim_ascii_start().first().copied();
        let place = if self.pointer.is_empty() {
            "at its top".to_owned()
        } else {
            format!("at `{}`", self.pointer)
        };
        let keys = top_keys(body);
        let what = match first {
            Some(b'{') if !keys.is_empty() => {
                format!("an object with the keys `{}`", keys.join("`, `"))
            }
            Some(b'{') => "an empty object".to_owned(),
            Some(b'[') => "an array".to_owned(),
            _ => "a single value".to_owned(),
        };
        Error::new(ErrorKind::Decode, format!("the page has no array of records {place}: it is {what}"))
            .hint("set `records` to the JSON pointer of the array, such as `/data`; an API may also answer 200 with an error inside")
    }
}

/// The names of the page's own keys, the first few; names, never values.
fn top_keys(body: &[u8]) -> Vec<String> {
    let mut json = Jiter::new(body);
    let mut keys = Vec::new();
    let mut next = json.next_object().ok().flatten().map(str::to_owned);
    while let Some(key) = next {
        keys.push(key.chars().take(40).collect());
        if keys.len() == 8 || json.next_skip().is_err() {
            break;
        }
        next = json.next_key().ok().flatten().map(str::to_owned);
    }
    keys
}

fn steps(pointer: &str) -> Vec<String> {
    pointer
        .split('/')
        .skip(1)
        .map(|s| s.replace("~1", "/").replace("~0", "~"))
        .collect()
}

enum Stop {
    Json(usize, JiterError),
    Shape(Error),
}

struct Walk<'a, S> {
    layout: &'a Layout,
    body: &'a [u8],
    json: Jiter<'a>,
    /// Where in the body the reader's own bytes begin.
    base: usize,
    sink: &'a mut S,
    walked: &'a mut Walked,
    found: bool,
}

impl<S: RecordSink> Walk<'_, S> {
    fn document(&mut self) -> Result<(), Stop> {
        let wanted: Vec<usize> = (0..self.layout.wanted.len()).collect();
        let peek = self.peek()?;
        self.value(peek, 0, true, &wanted)?;
        self.json.finish().map_err(|e| self.stop(e))
    }

    fn stop(&self, error: JiterError) -> Stop {
        Stop::Json(self.base + error.index, error)
    }

    fn peek(&mut self) -> Result<Peek, Stop> {
        self.json
            .peek()
            .map_err(|e| Stop::Json(self.base + e.index, e))
    }

    /// A value `depth` steps down. `on_records`: it is on the way to the records; `wanted`: the
    /// wanted values that it is on the way to.
    fn value(
        &mut self,
        peek: Peek,
        depth: usize,
        on_records: bool,
        wanted: &[usize],
    ) -> Result<(), Stop> {
        if on_records && depth == self.layout.records.len() {
            return self.records(peek);
        }
        let here = wanted
            .iter()
            .find(|w| self.layout.wanted[**w].1.len() == depth);
        if let Some(w) = here {
            return self.scalar(peek, *w);
        }
        match peek {
            Peek::Object if on_records || !wanted.is_empty() => {
                self.object(depth, on_records, wanted)
            }
            Peek::Array if on_records || !wanted.is_empty() => {
                self.array(depth, on_records, wanted)
            }
            peek => self.json.known_skip(peek).map_err(|e| self.stop(e)),
        }
    }

    fn object(&mut self, depth: usize, on_records: bool, wanted: &[usize]) -> Result<(), Stop> {
        let base = self.base;
        let layout = self.layout;
        let narrow = |key: &str| {
            let records = on_records && layout.records.get(depth).is_some_and(|s| s == key);
            let wanted: Vec<usize> = wanted
                .iter()
                .copied()
                .filter(|w| layout.wanted[*w].1.get(depth).is_some_and(|s| s == key))
                .collect();
            (records, wanted)
        };
        let broken = |e: JiterError| Stop::Json(base + e.index, e);
        let mut next = self.json.known_object().map_err(broken)?.map(narrow);
        while let Some((records, wanted)) = next {
            let peek = self.peek()?;
            self.value(peek, depth + 1, records, &wanted)?;
            let base = self.base;
            next = self
                .json
                .next_key()
                .map_err(|e| Stop::Json(base + e.index, e))?
                .map(narrow);
        }
        Ok(())
    }

    /// An array on the way: steps that are numbers go into its items.
    fn array(&mut self, depth: usize, on_records: bool, wanted: &[usize]) -> Result<(), Stop> {
        let mut index = 0usize;
        let mut next = self.json.known_array().map_err(|e| self.stop(e))?;
        while let Some(peek) = next {
            let key = index.to_string();
            let records = on_records && self.layout.records.get(depth) == Some(&key);
            let narrowed: Vec<usize> = wanted
                .iter()
                .copied()
                .filter(|w| self.layout.wanted[*w].1.get(depth) == Some(&key))
                .collect();
            self.value(peek, depth + 1, records, &narrowed)?;
            index += 1;
            next = self.json.array_step().map_err(|e| self.stop(e))?;
        }
        Ok(())
    }

    fn scalar(&mut self, peek: Peek, wanted: usize) -> Result<(), Stop> {
        let base = self.base;
        let broken = |e: JiterError| Stop::Json(base + e.index, e);
        let text = match peek {
            Peek::String => self.json.known_str().map_err(broken)?.to_owned(),
            Peek::True | Peek::False => self.json.known_bool(peek).map_err(broken)?.to_string(),
            peek if peek.is_num() => {
                String::from_utf8_lossy(self.json.known_number_bytes(peek).map_err(broken)?)
                    .into_owned()
            }
            Peek::Array | Peek::Object => {
                let pointer = &self.layout.wanted[wanted].0;
                let what = if peek == Peek::Array {
                    "an array"
                } else {
                    "an object"
                };
                return Err(Stop::Shape(
                    Error::new(
                        ErrorKind::Decode,
                        format!("the page has {what} at `{pointer}`, where paging wants a text, a number or true or false"),
                    )
                    .hint("check the JSON pointers under `pagination`"),
                ));
            }
            peek => return self.json.known_skip(peek).map_err(broken),
        };
        self.walked
            .values
            .insert(self.layout.wanted[wanted].0.clone(), text);
        Ok(())
    }

    fn records(&mut self, peek: Peek) -> Result<(), Stop> {
        match peek {
            Peek::Array => {}
            Peek::Null => {
                self.found = true;
                return self.json.known_null().map_err(|e| self.stop(e));
            }
            Peek::Object if self.layout.single => {
                self.found = true;
                return self.one(peek);
            }
            _ => return Err(Stop::Shape(self.layout.not_found(self.body))),
        }
        self.found = true;
        let mut next = self.json.known_array().map_err(|e| self.stop(e))?;
        while let Some(peek) = next {
            self.one(peek)?;
            next = self.json.array_step().map_err(|e| self.stop(e))?;
        }
        Ok(())
    }

    fn one(&mut self, peek: Peek) -> Result<(), Stop> {
        let start = self.base + self.json.current_index();
        let outcome = self.sink.record(&mut self.json, peek);
        self.walked.records += 1;
        let Err(error) = outcome else { return Ok(()) };
        // The record cannot be read, but where it ends can be seen: its neighbours are whole.
        let body = self.body;
        let Some(length) = extent(&body[start..]) else {
            return Err(self.stop(error));
        };
        let text = String::from_utf8_lossy(&body[start..start + length]);
        self.sink.broken(
            format!("the JSON cannot be read: {}", error.error_type),
            &text,
        );
        self.base = start + length;
        self.json = Jiter::new(&body[self.base..]);
        Ok(())
    }
}

/// Length of the JSON value that `text` begins with, by its brackets and quotes alone.
fn extent(text: &[u8]) -> Option<usize> {
    let mut depth = 0usize;
    let mut in_string = false;
    let mut escaped = false;
    for (i, b) in text.iter().enumerate() {
        if in_string {
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            if !in_string && depth == 0 {
                return Some(i + 1);
            }
            continue;
        }
        match b {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return Some(i),
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(i + 1);
                }
            }
            b',' if depth == 0 => return Some(i),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Texts(Vec<String>, Vec<String>);

    impl RecordSink for Texts {
        fn record(&mut self, json: &mut Jiter<'_>, peek: Peek) -> Result<(), JiterError> {
            let start = json.current_index();
            json.known_value(peek)?;
            self.0
                .push(String::from_utf8_lossy(json.slice_to_current(start)).into_owned());
            Ok(())
        }

        fn broken(&mut self, reason: String, text: &str) {
            self.1.push(format!("{text} {reason}"));
        }
    }

    fn walk(layout: &Layout, body: &str) -> (Result<Walked>, Texts) {
        let mut texts = Texts::default();
        (layout.walk(body.as_bytes(), &mut texts), texts)
    }

    #[test]
    fn records_and_values_anywhere() {
        let layout = Layout::new(
            "/data/items",
            ["/meta/next", "/data/total", "/meta/more", "/links/0/href"],
            false,
        );
        let (walked, texts) = walk(
            &layout,
            r#"{"meta": {"next": null, "more": false}, "data": {"total": 7, "items": [{"a":1}, {"a":2}], "x": []}, "links": [{"href": "/p2"}]}"#,
        );
        let walked = walked.unwrap();
        assert_eq!(texts.0, [r#"{"a":1}"#, r#"{"a":2}"#]);
        assert_eq!(walked.records, 2);
        let mut values: Vec<_> = walked.values.into_iter().collect();
        values.sort();
        let expected = [
            ("/data/total", "7"),
            ("/links/0/href", "/p2"),
            ("/meta/more", "false"),
        ];
        assert_eq!(values, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn a_bare_array_null_and_nothing() {
        let layout = Layout::new("", [], false);
        assert_eq!(walk(&layout, "[1,2,3]").0.unwrap().records, 3);
        assert_eq!(walk(&layout, " ").0.unwrap().records, 0);
        assert_eq!(
            walk(&Layout::new("/data", [], false), r#"{"data":null}"#)
                .0
                .unwrap()
                .records,
            0
        );
        assert_eq!(
            walk(&Layout::new("", [], true), r#"{"a":1}"#)
                .0
                .unwrap()
                .records,
            1
        );
    }

    #[test]
    fn a_missing_array_is_not_an_empty_one() {
        let e = walk(
            &Layout::new("/data", [], false),
            r#"{"error": {"code": 5}}"#,
        )
        .0
        .unwrap_err();
        assert_eq!(
            e.to_string(),
            "the page has no array of records at `/data`: it is an object with the keys `error`"
        );
        assert!(
            walk(&Layout::new("", [], false), r#"{"data": []}"#)
                .0
                .is_err()
        );
    }

    #[test]
    fn a_record_that_cannot_be_read_leaves_its_neighbours() {
        let layout = Layout::new("/d", ["/n"], false);
        let (walked, texts) = walk(
            &layout,
            r#"{"d": [{"a": 1}, {"a": "\ud800", "b": [NaN, "}"]}, {"a": 3}], "n": 5}"#,
        );
        let walked = walked.unwrap();
        assert_eq!((walked.records, walked.values["/n"].as_str()), (3, "5"));
        assert_eq!(texts.0, [r#"{"a": 1}"#, r#"{"a": 3}"#]);
        assert!(
            texts.1[0].starts_with(r#"{"a": "\ud800", "b": [NaN, "}"]} the JSON"#),
            "{:?}",
            texts.1
        );
    }

    #[test]
    fn a_page_that_ends_in_the_middle_is_an_error() {
        for body in [
            r#"{"d": [{"a": 1}, {"a": "#,
            r#"{"d": [{"a": 1}]"#,
            r#"{"d": [{"a": 1}]} x"#,
        ] {
            let e = walk(&Layout::new("/d", [], false), body).0.unwrap_err();
            assert!(
                e.to_string()
                    .starts_with("the page is not valid JSON at byte"),
                "{e}"
            );
        }
    }
}
