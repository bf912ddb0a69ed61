//! Shows an error: what failed, why, and what to do. Redacted here, since a cause may quote a server.

use std::error::Error as _;
use std::fmt::Write as _;

use super::style::Paint;
use crate::error::Error;
use crate::telemetry::log::{self, Format};
use crate::telemetry::redact;

/// Writes an error to standard error in the format of the log.
pub fn print(error: &Error, format: Format) {
    match format {
        Format::Text { colour } => {
            log::write_line(text(error, Paint::new(colour)).trim_end());
        }
        Format::Json => log::write_line(&log::last_line(error)),
    }
}

/// `error: …`, a line `  caused by: …` for each cause, `hint: …`.
pub fn text(error: &Error, paint: Paint) -> String {
    let mut text = format!("{}: {}\n", paint.bad("error"), clean(&error.to_string()));
    let mut said = error.to_string();
    let mut at = error.source();
    while let Some(cause) = at {
        let words = cause.to_string();
        // Some libraries' errors repeat their cause.
        if !said.contains(&words) {
            let _ = writeln!(text, "  {}: {}", paint.dim("caused by"), clean(&words));
        }
        said = words;
        at = cause.source();
    }
    if let Some(hint) = error.find_hint() {
        let _ = writeln!(text, "{}: {}", paint.hint("hint"), clean(hint));
    }
    text
}

/// Redacted, and without characters that move the cursor.
fn clean(text: &str) -> String {
    redact::scrub(text)
        .chars()
        .map(|c| match c {
            '\n' => '\n',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn error() -> Error {
        redact::register("report-canary");
        let io = std::io::Error::other("peer said report-canary\u{1b}[2J");
        Error::new(
            ErrorKind::Unavailable,
            "GET https://api.example/tickets got no answer",
        )
        .hint("check the network")
        .source(io)
        .context("could not read page 3 of stream `tickets`")
    }

    #[test]
    fn text_shows_the_chain_and_the_hint() {
        assert_eq!(
            text(&error(), Paint::plain()),
            "\
error: could not read page 3 of stream `tickets`
  caused by: GET https://api.example/tickets got no answer
  caused by: peer said [redacted] [2J
hint: check the network
"
        );
        assert!(text(&error(), Paint::new(true)).starts_with("\u{1b}[1;31merror\u{1b}[0m: could"));
    }

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let e = Error::config("bad file: no such key").source(std::io::Error::other("no such key"));
        assert_eq!(text(&e, Paint::plain()), "error: bad file: no such key\n");
    }
}
