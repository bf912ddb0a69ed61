//! The one error that crosses module borders: who must act, whether it may pass on its own, the
//! facts, and a hint. Nothing here knows where an error is shown; the command line prints the chain.
//!
//! Messages are lower case, without a final period, name things in backticks, and say what was
//! attempted, on what, and what came back. They never hold a secret, a record's value, a whole body
//! or a query string.

use std::error::Error as StdError;
use std::fmt;
use std::panic::Location;

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who must act for the operation to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The person who wrote a connector, `drawoff.yaml` or the command line.
    Config,
    /// The owner of a credential: it is missing, wrong or lacks a permission.
    Auth,
    /// Nobody: the API asks to wait longer than this run may.
    RateLimited,
    /// Nobody, or the operator of the other side: it did not answer as it should.
    Unavailable,
    /// The other side understood and refused; asking again changes nothing.
    Rejected,
    /// The answer is not what the connector says it is.
    Decode,
    /// A table's schema and the rows do not fit.
    Schema,
    /// The place where rows land failed.
    Destination,
    /// Checkpoints or leases are not as this run left them.
    State,
    /// The run was asked to stop.
    Interrupted,
    /// Us.
    Bug,
}

impl ErrorKind {
    /// The kind as one word, for logs and tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Auth => "auth",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Rejected => "rejected",
            Self::Decode => "decode",
            Self::Schema => "schema",
            Self::Destination => "destination",
            Self::State => "state",
            Self::Interrupted => "interrupted",
            Self::Bug => "bug",
        }
    }
}

/// An error with its kind, facts and hint. `Display` prints only this error, not its sources.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    transient: bool,
    message: String,
    place: &'static Location<'static>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error that will not pass on its own.
    #[track_caller]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let transient = matches!(
            kind,
            ErrorKind::RateLimited | ErrorKind::Unavailable | ErrorKind::Interrupted
        );
        Self(Box::new(Inner {
            kind,
            transient,
            message: message.into(),
            place: Location::caller(),
            hint: None,
            source: None,
        }))
    }

    /// Shorthand for [`ErrorKind::Config`].
    #[track_caller]
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// Shorthand for [`ErrorKind::Destination`].
    #[track_caller]
    pub fn destination(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Destination, message)
    }

    /// Sets whether trying again later, unchanged, may succeed.
    #[must_use]
    pub fn transient(mut self, transient: bool) -> Self {
        self.0.transient = transient;
        self
    }

    /// What the person should do. One sentence, no final period.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The cause.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Wraps this error in one that says what was being done; keeps the kind, transience and hint.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind: self.0.kind,
            transient: self.0.transient,
            message: message.into(),
            place: self.0.place,
            hint: None,
            source: Some(Box::new(self)),
        }))
    }

    /// Who must act.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether trying again later, unchanged, may succeed.
    pub fn is_transient(&self) -> bool {
        self.0.transient
    }

    /// The hint of this error, or the first one down its chain.
    pub fn find_hint(&self) -> Option<&str> {
        let mut at: &Error = self;
        loop {
            if let Some(hint) = &at.0.hint {
                return Some(hint);
            }
            at = StdError::source(at)?.downcast_ref::<Error>()?;
        }
    }

    /// Where in the sources the first error of the chain was made.
    pub fn place(&self) -> &'static Location<'static> {
        self.0.place
    }

    /// What the first error of the chain says, without what was being done meanwhile.
    pub fn root(&self) -> &str {
        let mut at = self;
        while let Some(cause) = StdError::source(at).and_then(|e| e.downcast_ref::<Error>()) {
            at = cause;
        }
        &at.0.message
    }

    /// Every message from this error down to its cause, for logs: `a: b: c`.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut at = StdError::source(self);
        while let Some(cause) = at {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            at = cause.source();
        }
        text
    }

    /// The process exit code: 1 failed, 2 usage or configuration, 75 try again later.
    pub fn exit_code(&self) -> u8 {
        match self.0.kind {
            ErrorKind::Config => 2,
            _ if self.0.transient => 75,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.chain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

/// The exit code for several results: 0 when all are. A permanent failure outranks a passing one,
/// since trying again will not mend it.
pub fn worst_exit_code(codes: impl IntoIterator<Item = u8>) -> u8 {
    codes
        .into_iter()
        .max_by_key(|code| match code {
            0 => 0,
            75 => 1,
            2 => 2,
            _ => 3,
        })
        .unwrap_or(0)
}

/// The known name nearest to `name`, when one is near enough to be a likely slip.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(name, k), k))
        .filter(|(d, k)| *d <= 1 + k.len().max(name.len()) / 4)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hint_and_kind_survive_context() {
        let e = Error::config("inner").hint("do this").context("outer");
        assert_eq!(e.find_hint(), Some("do this"));
        assert_eq!(e.chain(), "outer: inner");
        assert_eq!(e.exit_code(), 2);
        assert_eq!(e.root(), "inner");
        assert_eq!(e.place().file(), file!());
    }

    #[test]
    fn nearest_name_only_when_near() {
        assert_eq!(
            nearest("pagnation", ["pagination", "params"]),
            Some("pagination")
        );
        assert_eq!(nearest("zzz", ["pagination", "params"]), None);
    }
}
