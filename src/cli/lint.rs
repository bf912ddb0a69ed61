//! `drawoff lint`: what is wrong with connector files, as compilers say it.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::style::Paint;
use super::words::count;

/// Which files to check.
#[derive(Clone, Debug, Args)]
pub struct LintArgs {
    /// Connector files
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `file:line:column`.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The file can be used all the same.
    pub is_warning: bool,
}

/// The problems of so many files, for people and for editors that read `file:line:column: `.
pub fn render(files: usize, problems: &[Problem], paint: Paint) -> String {
    let mut text = String::new();
    for problem in problems {
        let kind = match problem.is_warning {
            true => paint.warn("warning"),
            false => paint.bad("error"),
        };
        let _ = writeln!(text, "{}: {kind}: {}", problem.place, problem.message);
        if let Some(hint) = &problem.hint {
            let _ = writeln!(text, "  {}: {hint}", paint.hint("hint"));
        }
    }
    let errors = problems.iter().filter(|p| !p.is_warning).count();
    let warnings = problems.len() - errors;
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
        let problems = [
            Problem {
                place: "acme.yaml:7:3".into(),
                message: "the connector has no key `pagnation`".into(),
                hint: Some("did you mean `pagination`?".into()),
                is_warning: false,
            },
            Problem {
                place: "acme.yaml:9:1".into(),
                message: "config key `token` is never used".into(),
                hint: None,
                is_warning: true,
            },
        ];
        assert_eq!(
            render(1, &problems, Paint::plain()),
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
