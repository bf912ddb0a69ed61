//! Failures: those that somebody must mend go to Error Reporting, those that pass on their own do not.
//!
//! Error Reporting groups errors without a stack trace by the first three words of the message and by
//! the name of the function (<https://cloud.google.com/error-reporting/docs/grouping-errors>, 2026-11).
//! So the message begins with what failed and the kind of error, and in place of the function's name
//! stands where in our sources the error was made and the words of its text that are ours: no names,
//! numbers or addresses, which differ from one source or day to the next.

use std::panic::Location;

use serde_json::{Map, Value};

use super::entry::{FILE, GROUP, LINE};
use crate::error::Error;

/// Target of the lines of failures. Where a summary shows failures to people, it is switched off.
pub const FAILURE: &str = "drawoff::failure";

/// Words of a message that a group is told apart by.
const WORDS: usize = 10;

/// Whose failure it is, as far as the spans around do not say it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Whose<'a> {
    /// Source.
    pub source: Option<&'a str>,
    /// Run.
    pub run_id: Option<&'a str>,
    /// Stream.
    pub stream: Option<&'a str>,
}

/// Logs that a stream or a run failed: an error for Error Reporting where somebody must act, else a
/// warning.
pub fn failed(what: &str, whose: Whose<'_>, error: &Error) {
    let Whose {
        source,
        run_id,
        stream,
    } = whose;
    let (message, place) = (message(what, error), error.place());
    let (kind, hint, transient) = (error.kind().word(), error.find_hint(), error.is_transient());
    // The level is part of a macro's call.
    if passes(error) {
        tracing::warn!(target: FAILURE, source, run_id, stream, kind, hint, transient, "{message}");
    } else {
        tracing::error!(
            target: FAILURE,
            source,
            run_id,
            stream,
            kind,
            hint,
            transient,
            report_group = group(place, error.root()),
            report_file = place.file(),
            report_line = place.line(),
            "{message}"
        );
    }
}

/// The line of an error that ends the program.
pub fn last_line(error: &Error) -> String {
    let mut fields = Map::from_iter([
        ("kind".to_owned(), Value::from(error.kind().word())),
        ("transient".to_owned(), error.is_transient().into()),
        ("exit_code".to_owned(), error.exit_code().into()),
    ]);
    if let Some(hint) = error.find_hint() {
        fields.insert("hint".to_owned(), hint.into());
    }
    if !passes(error) {
        fields.extend(reported(error.place(), error.root()));
    }
    let severity = if passes(error) { "WARNING" } else { "ERROR" };
    super::json_line(severity, &message(env!("CARGO_PKG_NAME"), error), fields)
}

/// Fields that make an error one for Error Reporting: made there, of this text.
pub(super) fn reported(place: &Location<'_>, text: &str) -> Map<String, Value> {
    Map::from_iter([
        (GROUP.to_owned(), group(place, text).into()),
        (FILE.to_owned(), place.file().into()),
        (LINE.to_owned(), place.line().into()),
    ])
}

fn passes(error: &Error) -> bool {
    error.exit_code() == 75
}

fn message(what: &str, error: &Error) -> String {
    format!("{what} failed: {}: {}", error.kind().word(), error.chain())
}

/// `http::classify: get answered the api refused the credentials`
fn group(place: &Location<'_>, text: &str) -> String {
    let file = place.file().trim_end_matches(".rs");
    let file = file.rsplit_once("src/").map_or(file, |(_, inside)| inside);
    format!("{}: {}", file.replace('/', "::"), words(text))
}

/// The first words of a text that are nobody's name, number or address.
fn words(text: &str) -> String {
    let text = super::clean(text);
    // Names stand in backticks; what others said, in quotes; credentials, in parentheses.
    let mut bare = String::new();
    let mut inside = None;
    for c in text.chars() {
        match (inside, c) {
            (Some(end), c) if c == end => inside = None,
            (Some(_), _) => {}
            (None, '`') => inside = Some('`'),
            (None, '"') => inside = Some('"'),
            (None, '(') => inside = Some(')'),
            (None, c) => bare.push(c),
        }
    }
    let of_ours = |word: &&str| {
        !word.is_empty()
            && word
                .chars()
                .all(|c| c.is_alphabetic() || c == '-' || c == '\'')
    };
    bare.split_whitespace()
        .map(|word| word.trim_matches(|c: char| ".,:;!?".contains(c)))
        .filter(of_ours)
        .take(WORDS)
        .map(str::to_lowercase)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn refused(source: &str, status: u16) -> Error {
        Error::new(
            ErrorKind::Rejected,
            format!("GET https://{source}.example/v1/items?page=3 answered {status}: there is nothing there (secret `token` of source `{source}`)"),
        )
        .context(format!("could not read page 3 of stream `{source}`"))
    }

    fn seen(error: &Error) -> (String, Vec<String>) {
        let entry: Value = serde_json::from_str(&last_line(error)).unwrap();
        let place = &entry["context"]["reportLocation"];
        let message = entry["message"].as_str().unwrap();
        let first = message.split_whitespace().take(3).map(str::to_owned);
        (
            place["functionName"].as_str().unwrap().to_owned(),
            first.collect(),
        )
    }

    #[test]
    fn one_failure_is_one_group_whatever_the_source_and_the_numbers() {
        let group = seen(&refused("acme", 404));
        assert_eq!(group, seen(&refused("shop", 410)));
        assert_eq!(
            group.0,
            "telemetry::log::failure: get answered there is nothing there"
        );
        assert_eq!(group.1, ["drawoff", "failed:", "rejected:"]);
    }

    #[test]
    fn other_failures_are_other_groups() {
        let of = |kind, text: &str| seen(&Error::new(kind, text));
        let groups = [
            of(
                ErrorKind::Rejected,
                "GET `x` answered 404: there is nothing there",
            ),
            of(
                ErrorKind::Rejected,
                "GET `x` answered 400: the API does not accept the request",
            ),
            of(
                ErrorKind::Auth,
                "GET `x` answered 404: there is nothing there",
            ),
        ];
        for (i, a) in groups.iter().enumerate() {
            assert!(!groups[..i].contains(a), "{a:?}");
        }
        // Where it was made counts too.
        let place = std::panic::Location::caller();
        assert!(super::group(place, "x").starts_with("telemetry::log::failure: "));
    }

    #[test]
    fn what_passes_on_its_own_is_nothing_to_mend() {
        crate::telemetry::redact::register("failure-canary");
        let error = Error::new(ErrorKind::Unavailable, "no answer")
            .hint("check the network")
            .source(std::io::Error::other("peer said failure-canary"));
        let entry: Value = serde_json::from_str(&last_line(&error)).unwrap();
        assert_eq!(entry["severity"], "WARNING");
        assert_eq!(
            entry["message"],
            "drawoff failed: unavailable: no answer: peer said [redacted]"
        );
        assert_eq!(entry["kind"], "unavailable");
        assert_eq!(entry["transient"], true);
        assert_eq!(entry["exit_code"], 75);
        assert_eq!(entry["hint"], "check the network");
        for name in ["@type", "context", GROUP, FILE, LINE] {
            assert_eq!(entry.get(name), None, "{name}");
        }
        let error = Error::new(ErrorKind::Auth, "no");
        let entry: Value = serde_json::from_str(&last_line(&error)).unwrap();
        assert_eq!(entry["severity"], "ERROR");
        assert_eq!(entry["@type"], super::super::REPORTED_ERROR);
        assert_eq!(entry["serviceContext"]["service"], "drawoff");
        assert_eq!(
            entry["serviceContext"]["version"],
            env!("CARGO_PKG_VERSION")
        );
        let place = &entry["context"]["reportLocation"];
        assert_eq!(place["filePath"], "src/telemetry/log/failure.rs");
        assert!(place["lineNumber"].as_u64().unwrap() > 100);
    }
}
