//! Typed reading of a [`Node`] tree. Every mistake becomes a finding, and reading goes on.

use std::collections::HashSet;
use std::time::Duration;

use super::finding::{suggest, suggest_with};
use super::{Entry, Findings, Node, Position, Value};

/// Reads values and gathers what is wrong with them.
#[derive(Debug)]
pub struct Reader {
    /// What was wrong so far.
    pub findings: Findings,
}

/// A map whose keys are known: unknown and repeated ones have been reported.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'n> {
    /// Where the map starts.
    pub at: Position,
    entries: &'n [Entry],
}

impl<'n> Fields<'n> {
    /// The entries of a map that stands at `at`.
    pub fn new(at: Position, entries: &'n [Entry]) -> Self {
        Self { at, entries }
    }

    /// The key's entry, unless it is absent.
    pub fn entry(&self, key: &str) -> Option<&'n Entry> {
        self.entries.iter().find(|e| e.key == key)
    }

    /// The key's value, unless it is absent or null.
    pub fn get(&self, key: &str) -> Option<&'n Node> {
        self.entry(key).map(|e| &e.node).filter(|n| !n.is_null())
    }

    /// All entries, in the file's order.
    pub fn entries(&self) -> &'n [Entry] {
        self.entries
    }
}

impl Reader {
    /// A reader of the file of that name.
    pub fn new(file: impl Into<String>) -> Self {
        Self {
            findings: Findings::new(file),
        }
    }

    /// The entries of a map with any keys. `what` names it in messages: `` `streams` ``.
    pub fn entries<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Entry]> {
        let Value::Map(entries) = &node.value else {
            self.findings.error(
                node.at,
                format!("{what} must be a map, not {}", node.kind()),
                None,
            );
            return None;
        };
        let mut seen = HashSet::new();
        for entry in entries {
            if !seen.insert(entry.key.as_str()) {
                self.findings.error(
                    entry.at,
                    format!("key `{}` stands twice in {what}", entry.key),
                    None,
                );
            }
        }
        Some(entries)
    }

    /// A map with only these keys.
    pub fn fields<'n>(&mut self, node: &'n Node, what: &str, known: &[&str]) -> Option<Fields<'n>> {
        self.fields_with(node, what, known, &[])
    }

    /// A map with only these keys, some of which are maps with known keys of their own: `inner`. A key
    /// that stands beside one of these and belongs inside is told so.
    pub fn fields_with<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        known: &[&str],
        inner: &[(&str, &[&str])],
    ) -> Option<Fields<'n>> {
        let entries = self.entries(node, what)?;
        for entry in entries {
            if !known.contains(&entry.key.as_str()) {
                self.findings.error(
                    entry.at,
                    format!("unknown key `{}` in {what}", entry.key),
                    suggest_with(&entry.key, known, inner),
                );
            }
        }
        Some(Fields {
            at: node.at,
            entries,
        })
    }

    /// The value of a key that must be there.
    pub fn required<'n>(&mut self, fields: &Fields<'n>, key: &str, what: &str) -> Option<&'n Node> {
        let found = fields.get(key);
        if found.is_none() {
            let at = fields.entry(key).map_or(fields.at, |e| e.at);
            self.findings
                .error(at, format!("{what} lacks the key `{key}`"), None);
        }
        found
    }

    /// A scalar of any kind, verbatim.
    pub fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Scalar { text, .. } => Some(text),
            _ => {
                self.findings.error(
                    node.at,
                    format!("{what} must be a single value, not {}", node.kind()),
                    None,
                );
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn flag(&mut self, node: &Node, what: &str) -> Option<bool> {
        match &node.value {
            Value::Scalar { text, plain: true } if text == "true" => Some(true),
            Value::Scalar { text, plain: true } if text == "false" => Some(false),
            _ => {
                self.findings
                    .error(node.at, format!("{what} must be `true` or `false`"), None);
                None
            }
        }
    }

    /// A whole number from `least` up to `most`.
    pub fn number(&mut self, node: &Node, what: &str, least: u64, most: u64) -> Option<u64> {
        let number = node
            .as_text()
            .and_then(|t| t.replace('_', "").parse::<u64>().ok())
            .filter(|n| (least..=most).contains(n));
        if number.is_none() {
            let range = if most == u64::MAX {
                format!("of at least {least}")
            } else {
                format!("from {least} to {most}")
            };
            self.findings.error(
                node.at,
                format!("{what} must be a whole number {range}"),
                None,
            );
        }
        number
    }

    /// A single value or a list of them.
    pub fn texts<'n>(&mut self, node: &'n Node, what: &str) -> Vec<(Position, &'n str)> {
        match &node.value {
            Value::List(items) => items
                .iter()
                .filter_map(|item| Some((item.at, self.text(item, what)?)))
                .collect(),
            Value::Scalar { text, .. } => vec![(node.at, text)],
            _ => {
                self.findings.error(
                    node.at,
                    format!(
                        "{what} must be a single value or a list of them, not {}",
                        node.kind()
                    ),
                    None,
                );
                Vec::new()
            }
        }
    }

    /// A span of time: `250ms`, `30s`, `5m`, `1h`, `7d`.
    pub fn duration(&mut self, node: &Node, what: &str) -> Option<Duration> {
        let parsed = node.as_text().and_then(parse_duration);
        if parsed.is_none() {
            self.findings.error(
                node.at,
                format!("{what} must be a span of time"),
                "write a whole number and a unit: `250ms`, `30s`, `5m`, `1h` or `7d`".to_owned(),
            );
        }
        parsed
    }

    /// A span of time above zero.
    pub fn duration_above_zero(&mut self, node: &Node, what: &str) -> Option<Duration> {
        let parsed = self.duration(node, what)?;
        if parsed.is_zero() {
            self.findings
                .error(node.at, format!("{what} must be longer than nothing"), None);
            return None;
        }
        Some(parsed)
    }

    /// One of several words.
    pub fn choice<T: Copy>(&mut self, node: &Node, what: &str, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let text = node.as_text();
        let found = choices.iter().find(|(word, _)| text == Some(word));
        if found.is_none() {
            self.findings.error(
                node.at,
                format!("{what} must be one of `{}`", words.join("`, `")),
                text.and_then(|t| crate::error::nearest(t, words))
                    .map(|near| format!("did you mean `{near}`?")),
            );
        }
        found.map(|(_, value)| *value)
    }

    /// A map of exactly one key that says which kind the value is: `{page: {…}}`. A bare word is
    /// the kind with nothing said about it.
    pub fn tagged<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        kinds: &[&str],
    ) -> Option<(&'n str, Option<&'n Node>)> {
        let (at, kind, inner) = match &node.value {
            Value::Scalar { text, .. } => (node.at, text.as_str(), None),
            Value::Map(entries) => match entries.as_slice() {
                [only] => (only.at, only.key.as_str(), Some(&only.node)),
                [] => {
                    self.findings.error(
                        node.at,
                        format!("{what} is empty"),
                        format!("write one of `{}`", kinds.join("`, `")),
                    );
                    return None;
                }
                entries => {
                    let stray = entries
                        .iter()
                        .find(|e| !kinds.contains(&e.key.as_str()))
                        .unwrap_or(&entries[1]);
                    let home = entries.iter().find(|e| kinds.contains(&e.key.as_str()));
                    let hint = match home {
                        Some(home)
                            if home.key != stray.key && !kinds.contains(&stray.key.as_str()) =>
                        {
                            format!("if it belongs to `{}`, move it inside", home.key)
                        }
                        _ => format!("keep one of `{}`", kinds.join("`, `")),
                    };
                    self.findings.error(
                        stray.at,
                        format!("{what} takes one kind, and `{}` is beside it", stray.key),
                        hint,
                    );
                    return None;
                }
            },
            _ => {
                self.findings.error(
                    node.at,
                    format!(
                        "{what} must be a word or a map of one key, not {}",
                        node.kind()
                    ),
                    format!("write one of `{}`", kinds.join("`, `")),
                );
                return None;
            }
        };
        if kinds.contains(&kind) {
            return Some((kind, inner.filter(|n| !n.is_null())));
        }
        self.findings.error(
            at,
            format!("{what} is of no known kind"),
            suggest(kind, kinds),
        );
        None
    }
}

/// `250ms`, `30s`, `5m`, `1h`, `7d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
    match &text[digits..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3_600),
        "d" => seconds(86_400),
        _ => None,
    }
}

/// `64MiB`, `1GB`, `500000`: a number of bytes.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let each: u64 = match text[digits..].trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(each)
}
