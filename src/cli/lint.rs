//! `drawoff lint`: what is wrong with connector files, as compilers say it.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::style::Paint;
use super::words::count;
use crate::telemetry::redact;
use crate::yaml::Finding;
use crate::yaml::finding::Severity;

/// Which files to check.
#[derive(Clone, Debug, Args)]
pub struct LintArgs {
    /// Connector files
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

/// The findings in so many files, for people and for editors that read `file:line:column: `.
pub fn render(files: usize, findings: &[Finding], paint: Paint) -> String {
    let mut text = String::new();
    for finding in findings {
        let kind = match finding.severity {
            Severity::Warning => paint.warn("warning"),
            Severity::Error => paint.bad("error"),
        };
        let Finding {
            file, line, column, ..
        } = finding;
        let message = redact::scrub(&finding.message);
        let _ = writeln!(text, "{file}:{line}:{column}: {kind}: {message}");
        if let Some(hint) = &finding.hint {
            let _ = writeln!(text, "  {}: {hint}", paint.hint("hint"));
        }
    }
    let errors = findings
        .iter()
        .filter(|f| f.severity == Severity::Error)
        .count();
    let warnings = findings.len() - errors;
    let _ = match (errors, warnings) {
        (0, 0) => writeln!(text, "{}: no problems", count(files as u64, "file")),
        _ => writeln!(
            text,
            "{}: {}, {}",
            count(files as u64, "file"),
            count(errors as u64, "error"),
            count(warnings as u64, "warning")
        ),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_first_and_hints_below() {
        let findings = [
            Finding {
                file: "acme.yaml".into(),
                line: 7,
                column: 3,
                severity: Severity::Error,
                message: "the connector has no key `pagnation`".into(),
                hint: Some("did you mean `pagination`?".into()),
            },
            Finding {
                file: "acme.yaml".into(),
                line: 9,
                column: 1,
                severity: Severity::Warning,
                message: "config key `token` is never used".into(),
                hint: None,
            },
        ];
        assert_eq!(
            render(1, &findings, Paint::plain()),
            "\
acme.yaml:7:3: error: the connector has no key `pagnation`
  hint: did you mean `pagination`?
acme.yaml:9:1: warning: config key `token` is never used
1 file: 1 error, 1 warning
"
        );
        assert_eq!(render(2, &[], Paint::plain()), "2 files: no problems\n");
    }
}
