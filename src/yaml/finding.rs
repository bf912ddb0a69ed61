//! What is wrong with a file, and where.

use std::fmt;

use super::Position;
use crate::error::{Error, nearest};

/// Most findings that an error's text spells out.
const SHOWN: usize = 20;

/// Whether a finding keeps a file from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It does.
    Error,
    /// It does not, but somebody should look.
    Warning,
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Whether the file can be used all the same.
    pub severity: Severity,
    /// What is wrong. Lower case, no final period.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            message,
            ..
        } = self;
        write!(f, "{file}:{line}:{column}: ")?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        f.write_str(message)
    }
}

/// The findings of one file, gathered while it is read.
#[derive(Clone, Debug)]
pub struct Findings {
    file: String,
    list: Vec<Finding>,
}

impl Findings {
    /// None yet, for the file of that name.
    pub fn new(file: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            list: Vec::new(),
        }
    }

    /// Adds an error with what to do about it.
    pub fn error(
        &mut self,
        at: Position,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        let file = self.file.clone();
        self.push(file, at, Severity::Error, message.into(), hint.into());
    }

    /// Adds a warning with what to do about it.
    pub fn warning(
        &mut self,
        at: Position,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        let file = self.file.clone();
        self.push(file, at, Severity::Warning, message.into(), hint.into());
    }

    /// Adds an error about another file that belongs to this one.
    pub fn error_in(
        &mut self,
        file: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        self.push(
            file.into(),
            Position::START,
            Severity::Error,
            message.into(),
            hint.into(),
        );
    }

    /// Adds a warning about another file that belongs to this one.
    pub fn warning_in(
        &mut self,
        file: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        self.push(
            file.into(),
            Position::START,
            Severity::Warning,
            message.into(),
            hint.into(),
        );
    }

    fn push(
        &mut self,
        file: String,
        at: Position,
        severity: Severity,
        message: String,
        hint: Option<String>,
    ) {
        let finding = Finding {
            file,
            line: at.line,
            column: at.column,
            severity,
            message,
            hint,
        };
        // What is said once for all streams is checked for each of them.
        if !self.list.contains(&finding) {
            self.list.push(finding);
        }
    }

    /// Takes over what was found elsewhere in the file.
    pub fn extend(&mut self, more: Self) {
        self.list.extend(more.list);
    }

    /// Whether any is an error.
    pub fn failed(&self) -> bool {
        self.list.iter().any(|f| f.severity == Severity::Error)
    }

    /// All, in the file's order; those about other files last.
    pub fn into_sorted(mut self) -> Vec<Finding> {
        let own = self.file.clone();
        self.list.sort_by(|a, b| {
            let key = |f: &Finding| (f.file != own, f.file.clone(), f.line, f.column);
            key(a).cmp(&key(b))
        });
        self.list
    }

    /// One error that tells all error findings, or `None` where there are none. Its hint is the
    /// first one's.
    pub fn into_error(self) -> Option<Error> {
        let errors: Vec<Finding> = self
            .into_sorted()
            .into_iter()
            .filter(|f| f.severity == Severity::Error)
            .collect();
        let (first, rest) = errors.split_first()?;
        let mut text = first.to_string();
        for finding in rest.iter().take(SHOWN - 1) {
            text.push_str(&format!("\n{finding}"));
            if let Some(hint) = &finding.hint {
                text.push_str(&format!(" ({hint})"));
            }
        }
        if errors.len() > SHOWN {
            text.push_str(&format!("\nand {} more", errors.len() - SHOWN));
        }
        let error = Error::config(text);
        Some(match &first.hint {
            Some(hint) => error.hint(hint.clone()),
            None => error,
        })
    }
}

/// What other tools call a key, and what it is called here.
const ELSEWHERE: [(&str, &str); 15] = [
    ("authentication", "auth"),
    ("authenticator", "auth"),
    ("cursor_field", "cursor"),
    ("endpoint", "path"),
    ("name", "title"),
    ("page_size", "size_param"),
    ("paginator", "pagination"),
    ("partition", "partition_by"),
    ("per_page", "size_param"),
    ("query", "params"),
    ("query_params", "params"),
    ("record_selector", "records"),
    ("resources", "streams"),
    ("url", "base_url"),
    ("write_disposition", "disposition"),
];

/// A hint that names the known name nearest to `name`, else all known ones.
pub fn suggest(name: &str, known: &[&str]) -> String {
    suggest_with(name, known, &[])
}

/// As [`suggest`]. A name that is none of the known ones, but a key of one of these maps among them, is told
/// where it belongs.
pub fn suggest_with(name: &str, known: &[&str], inner: &[(&str, &[&str])]) -> String {
    let elsewhere = ELSEWHERE.iter().find(|(other, _)| *other == name);
    let here = elsewhere.map_or(name, |(_, here)| here);
    if known.contains(&here) {
        return format!("did you mean `{here}`?");
    }
    for (map, keys) in inner {
        if let Some(key) = keys.iter().find(|key| **key == here || **key == name) {
            return format!("it belongs inside `{map}`: `{map}: {{{key}: …}}`");
        }
    }
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "none is known here".to_owned(),
        None => format!("known here: `{}`", known.join("`, `")),
    }
}
