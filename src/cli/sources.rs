//! `drawoff --all`: several sources, one after the other, and how each of them ended.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::report;
use super::style::Paint;
use super::table::{Align, Table};
use super::words::{count, grouped, span};
use crate::clock::{Clock as _, SystemClock};
use crate::error::{Error, ErrorKind, Result, worst_exit_code};
use crate::pipeline::report::{Outcome, RunReport};
use crate::telemetry::log::{self, Format};

/// What a line may take.
const WIDTH: usize = 100;

/// How a source ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Done,
    /// Stopped at work; the next run goes on from there.
    Interrupted,
    Failed,
    /// The signal or the deadline came before its turn.
    NotBegun,
}

impl Ending {
    const ALL: [Self; 4] = [Self::Done, Self::Interrupted, Self::Failed, Self::NotBegun];

    fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::NotBegun => "not begun",
        }
    }

    fn mark(self) -> &'static str {
        match self {
            Self::Done => "✓",
            Self::Interrupted | Self::NotBegun => "…",
            Self::Failed => "✗",
        }
    }
}

/// A source that has had its turn. Small: there may be hundreds, and rows of none are kept.
#[derive(Debug)]
struct Ended {
    source: String,
    ending: Ending,
    exit_code: u8,
    run_id: Option<String>,
    rows: u64,
    duration: Duration,
}

impl Ended {
    fn of(source: &str, outcome: &Result<RunReport>, duration: Duration) -> Self {
        let (ending, exit_code) = match outcome {
            Ok(report) => (ending(report), report.exit_code()),
            Err(e) if e.kind() == ErrorKind::Interrupted => (Ending::Interrupted, 75),
            Err(e) => (Ending::Failed, e.exit_code()),
        };
        let report = outcome.as_ref().ok();
        Self {
            source: source.to_owned(),
            ending,
            exit_code,
            run_id: report.map(|r| r.run_id.clone()),
            rows: report.map_or(0, |r| r.streams.iter().map(|s| s.rows).sum()),
            duration,
        }
    }

    fn not_begun(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            ending: Ending::NotBegun,
            exit_code: 75,
            run_id: None,
            rows: 0,
            duration: Duration::ZERO,
        }
    }
}

fn ending(report: &RunReport) -> Ending {
    let stopped = |o: &Outcome| matches!(o, Outcome::Done | Outcome::Interrupted);
    match report.exit_code() {
        0 => Ending::Done,
        _ if report.problem.is_none() && report.streams.iter().all(|s| stopped(&s.outcome)) => {
            Ending::Interrupted
        }
        _ => Ending::Failed,
    }
}

/// How the sources of one command ended, in their order.
#[derive(Debug, Default)]
pub struct Endings(Vec<Ended>);

impl Endings {
    /// Runs sources in this order, one at a time, so that memory is that of one. What is wrong with the
    /// configuration of any is said before the first begins; none that fails keeps the others from theirs.
    ///
    /// # Errors
    /// None of the sources': those of `run`'s output.
    pub async fn of(
        names: &[&str],
        wrong: impl Fn(&str) -> Option<Error>,
        format: Format,
        stopped: impl Fn() -> bool,
        run: impl AsyncFn(&str) -> Result<Result<RunReport>>,
    ) -> Result<Self> {
        let fail = |name: &str, error: Error| {
            let error = error.context(format!("could not run source `{name}`"));
            report::print(&error, format);
            Err(error)
        };
        let mut left_out: BTreeMap<&str, Result<RunReport>> = names
            .iter()
            .filter_map(|name| Some((*name, fail(name, wrong(name)?))))
            .collect();
        let mut all = Self::default();
        for name in names {
            if let Some(outcome) = left_out.remove(name) {
                all.0.push(Ended::of(name, &outcome, Duration::ZERO));
                continue;
            }
            if stopped() {
                all.0.push(Ended::not_begun(name));
                continue;
            }
            let begun = SystemClock.instant();
            let outcome = run(name).await?;
            let outcome = outcome.or_else(|error| fail(name, error));
            let took = SystemClock.instant() - begun;
            all.0.push(Ended::of(name, &outcome, took));
        }
        Ok(all)
    }

    /// The worst of the sources'.
    pub fn exit_code(&self) -> u8 {
        worst_exit_code(self.0.iter().map(|e| e.exit_code))
    }

    /// `3 sources: 2 done, 1 failed (`shop`)`.
    fn sentence(&self) -> String {
        let of = |ending: Ending| {
            let these = self.0.iter().filter(move |e| e.ending == ending);
            let names: Vec<String> = these.map(|e| format!("`{}`", e.source)).collect();
            match (names.len(), ending) {
                (0, _) => None,
                (n, Ending::Done) => Some(format!("{n} done")),
                (n, _) => Some(format!("{n} {} ({})", ending.word(), names.join(", "))),
            }
        };
        let parts: Vec<String> = Ending::ALL.into_iter().filter_map(of).collect();
        format!(
            "{}: {}",
            count(self.0.len() as u64, "source"),
            parts.join(", ")
        )
    }

    /// A line for each source, for the end of standard output.
    pub fn render(&self, paint: Paint) -> String {
        let mut table = Table::new([
            ("", Align::Left),
            ("source", Align::Left),
            ("ended", Align::Left),
            ("exit code", Align::Right),
            ("rows", Align::Right),
            ("duration", Align::Right),
        ]);
        for e in &self.0 {
            table.row([
                e.ending.mark().to_owned(),
                e.source.clone(),
                e.ending.word().to_owned(),
                e.exit_code.to_string(),
                grouped(e.rows),
                span(e.duration),
            ]);
        }
        let mut text = String::from("\n");
        for (i, line) in table.lines(WIDTH).into_iter().enumerate() {
            let line = match i.checked_sub(1).map(|i| self.0[i].ending) {
                None => paint.dim(&line),
                Some(Ending::Done) => line.replacen('✓', &paint.good("✓"), 1),
                Some(Ending::Failed) => line.replacen('✗', &paint.bad("✗"), 1),
                Some(_) => line.replacen('…', &paint.warn("…"), 1),
            };
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "\n{}", self.sentence());
        text
    }

    /// The last line of a log that machines read: how each source ended.
    pub fn log(&self, took: Duration) {
        let code = self.exit_code();
        let severity = match code {
            0 => "INFO",
            75 => "WARNING",
            _ => "ERROR",
        };
        let source = |e: &Ended| {
            json!({
                "source": e.source,
                "outcome": e.ending.word().replace(' ', "_"),
                "exit_code": e.exit_code,
                "run_id": e.run_id,
                "rows": e.rows,
                "seconds": e.duration.as_secs_f64(),
            })
        };
        let sources: Vec<Value> = self.0.iter().map(source).collect();
        let fields = Map::from_iter([
            ("exit_code".to_owned(), code.into()),
            ("seconds".to_owned(), took.as_secs_f64().into()),
            ("sources".to_owned(), sources.into()),
        ]);
        log::write_line(&log::json_line(severity, &self.sentence(), fields));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(source: &str, ending: Ending, exit_code: u8) -> Ended {
        Ended {
            ending,
            exit_code,
            rows: 1_200,
            duration: Duration::from_millis(5_300),
            ..Ended::not_begun(source)
        }
    }

    #[test]
    fn the_worst_counts_and_all_are_named() {
        let all = Endings(vec![
            ended("acme", Ending::Done, 0),
            ended("shop", Ending::Failed, 2),
            ended("crm", Ending::Interrupted, 75),
            Ended::not_begun("hub"),
        ]);
        assert_eq!(all.exit_code(), 2);
        assert_eq!(
            all.render(Paint::plain()),
            "
   source  ended        exit code   rows  duration
✓  acme    done                 0  1,200      5.3s
✗  shop    failed               2  1,200      5.3s
…  crm     interrupted         75  1,200      5.3s
…  hub     not begun           75      0       0ms

4 sources: 1 done, 1 interrupted (`crm`), 1 failed (`shop`), 1 not begun (`hub`)
"
        );
        assert_eq!(Endings::default().exit_code(), 0);
    }
}
