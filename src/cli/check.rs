//! `drawoff check`: what was tried and what came of it, one line each, with what to mend.

use std::fmt::Write as _;

use clap::Args;

use super::args::SourceOverrides;
use super::report;
use super::style::Paint;
use super::words::count;
use crate::pipeline::check::{CheckOutcome, CheckReport};

/// What to check.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The source to check
    #[arg(
        long,
        value_name = "NAME",
        env = "DRAWOFF_SOURCE",
        help_heading = "Source"
    )]
    pub source: String,
    /// See [`SourceOverrides`].
    #[command(flatten)]
    pub overrides: SourceOverrides,
    /// Check this stream only; may be repeated [default: all]
    #[arg(
        long = "stream",
        value_name = "STREAM",
        value_delimiter = ',',
        env = "DRAWOFF_STREAM"
    )]
    pub streams: Vec<String>,
    /// The destination whose permissions to check
    #[arg(long, value_name = "DESTINATION", env = "DRAWOFF_DESTINATION")]
    pub destination: Option<String>,
}

/// The report, for people.
pub fn render(report: &CheckReport, paint: Paint) -> String {
    let mut text = String::new();
    let (mut failed, mut skipped) = (0_u64, 0);
    for item in &report.items {
        let _ = match &item.outcome {
            CheckOutcome::Passed(detail) => {
                writeln!(text, "{} {}: {detail}", paint.good("✓"), item.what)
            }
            CheckOutcome::Failed(error) => {
                failed += 1;
                let details = report::text(error, paint);
                let details = details.trim_end().replace('\n', "\n    ");
                writeln!(text, "{} {}\n    {details}", paint.bad("✗"), item.what)
            }
            CheckOutcome::Skipped(reason) => {
                skipped += 1;
                writeln!(
                    text,
                    "{} {}: not tried, {reason}",
                    paint.dim("-"),
                    item.what
                )
            }
        };
    }
    let passed = report.items.len() - failed as usize - skipped;
    let _ = match failed {
        0 => writeln!(text, "\nall is well: {}", count(passed as u64, "check")),
        n => writeln!(text, "\n{} failed, {passed} passed", count(n, "check")),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::pipeline::check::CheckItem;

    #[test]
    fn says_what_is_wrong_and_how_to_mend_it() {
        let item = |what: &str, outcome| CheckItem {
            what: what.to_owned(),
            outcome,
        };
        let refused = Error::new(
            ErrorKind::Auth,
            "GET https://api.example/tickets answered 401",
        )
        .hint("check secret `token`");
        let mut report = CheckReport {
            items: vec![
                item("secrets", CheckOutcome::Passed("2 found".into())),
                item(
                    "stream `tickets`",
                    CheckOutcome::Failed(refused.context("could not read a page")),
                ),
                item(
                    "stream `comments`",
                    CheckOutcome::Skipped("its parent `tickets` failed".into()),
                ),
            ],
        };
        assert_eq!(
            render(&report, Paint::plain()),
            "\
✓ secrets: 2 found
✗ stream `tickets`
    error: could not read a page
      caused by: GET https://api.example/tickets answered 401
    hint: check secret `token`
- stream `comments`: not tried, its parent `tickets` failed

1 check failed, 1 passed
"
        );
        assert_eq!(report.exit_code(), 1);
        report.items.truncate(1);
        assert!(render(&report, Paint::plain()).ends_with("\nall is well: 1 check\n"));
        assert_eq!(report.exit_code(), 0);
    }
}
