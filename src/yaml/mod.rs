//! YAML as a tree that knows where everything stands in its file, with scalars kept verbatim
//! (`007` is the text `007`). Connector files and `drawoff.yaml` are read from it.
//!
//! The parser is the one inside `serde-saphyr`. Serde itself stops at the first mistake and forgets
//! positions; a tree lets [`read`] report every mistake of a file in one pass.

pub mod finding;
pub mod read;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};

pub use finding::{Finding, Findings, Severity};
pub use read::{Fields, Reader};

/// Most nodes of one document, aliases written out: far above any real file, far below what a file
/// of nested aliases can grow to.
const MAX_NODES: usize = 200_000;

/// A place in a file, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl Position {
    /// The first character of a file.
    pub const START: Self = Self { line: 1, column: 1 };
}

/// A value with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it starts.
    pub at: Position,
    /// What it is.
    pub value: Value,
}

/// What a [`Node`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Text.
    Scalar {
        /// As written, escapes resolved.
        text: String,
        /// Without quotes, so that in other YAML it might be a number or a boolean.
        plain: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// A map, in the file's order.
    Map(Vec<Entry>),
}

/// One key of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the key starts.
    pub at: Position,
    /// The key.
    pub key: String,
    /// Its value.
    pub node: Node,
}

impl Node {
    /// What people call this kind of value.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// Whether nothing stands here.
    pub fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    /// The text of a scalar.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    fn size(&self) -> usize {
        1 + match &self.value {
            Value::Null | Value::Scalar { .. } => 0,
            Value::List(items) => items.iter().map(Self::size).sum(),
            Value::Map(entries) => entries.iter().map(|e| e.node.size()).sum(),
        }
    }
}

/// Reads one document. An empty file is [`Value::Null`].
///
/// # Errors
/// The first place where the text is no YAML, and why; nothing of the file is quoted.
pub fn parse(text: &str) -> Result<Node, (Position, String)> {
    let mut builder = Builder::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            let at = Position {
                line: e.marker().line(),
                column: e.marker().col() + 1,
            };
            (at, format!("this is not valid YAML: {}", e.kind()))
        })?;
        builder.take(event, span)?;
    }
    Ok(builder.root.unwrap_or(Node {
        at: Position::START,
        value: Value::Null,
    }))
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    documents: usize,
}

struct Open {
    at: Position,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        key: Option<(Position, String)>,
    },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), (Position, String)> {
        let at = Position {
            line: span.start.line(),
            column: span.start.col() + 1,
        };
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err((
                        at,
                        "a file holds one YAML document, this is a second".into(),
                    ));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let value = match &*text {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
                    _ => Value::Scalar {
                        text: text.into_owned(),
                        plain,
                    },
                };
                self.put(anchor, Node { at, value })?;
            }
            Event::SequenceStart(_, anchor, _) => self.open.push(Open {
                at,
                anchor,
                content: Content::List(Vec::new()),
            }),
            Event::MappingStart(_, anchor, _) => self.open.push(Open {
                at,
                anchor,
                content: Content::Map {
                    entries: Vec::new(),
                    key: None,
                },
            }),
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    let value = match open.content {
                        Content::List(items) => Value::List(items),
                        Content::Map { entries, .. } => Value::Map(entries),
                    };
                    self.put(open.anchor, Node { at: open.at, value })?;
                }
            }
            Event::Alias(id) => {
                let Some(mut node) = self.anchors.get(&id).cloned() else {
                    return Err((at, "an alias cannot stand inside what it names".into()));
                };
                self.nodes += node.size();
                node.at = at;
                self.put(0, node)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn put(&mut self, anchor: usize, node: Node) -> Result<(), (Position, String)> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err((node.at, format!("more than {MAX_NODES} values")));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|o| &mut o.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { entries, key }) => match key.take() {
                Some((at, key)) => entries.push(Entry { at, key, node }),
                None => {
                    *key = match node.value {
                        Value::Scalar { text, .. } => Some((node.at, text)),
                        Value::Null => Some((node.at, String::new())),
                        _ => return Err((node.at, "a key must be a single value".into())),
                    }
                }
            },
        }
        Ok(())
    }
}
