//! What stands on standard output after a run: a table with a line for each stream, then what
//! somebody should look at, and one thing to try next.

use std::fmt::Write as _;

use super::report;
use super::style::Paint;
use super::table::{Align, Table};
use super::words::{bytes, count, grouped, per_second, shell, span};
use crate::pipeline::report::{Outcome, PUBLISH_LESS, RunReport, Share, StreamReport};
use crate::schema::name::shown;

/// What a line may take.
const WIDTH: usize = 100;

/// The whole summary.
pub fn render(run: &RunReport, paint: Paint) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} → {} in {} {}\n",
        paint.strong(&run.source),
        paint.strong(&run.destination),
        span(run.duration),
        paint.dim(&format!("(run {})", run.run_id))
    );
    text.push_str(&table(run, paint));
    let _ = writeln!(text, "\n{}", paint.dim(&traffic(run)));
    if let Some(others) = others(run) {
        let _ = writeln!(text, "{}", paint.dim(&others));
    }
    text.push_str(&plans(run, paint));
    let changes = changes(run, paint);
    if !changes.is_empty() {
        let _ = write!(text, "\n{changes}");
    }
    let warnings = warnings(run, paint);
    if !warnings.is_empty() {
        let _ = write!(text, "\n{warnings}");
    }
    if let Some(next) = next(run) {
        let _ = writeln!(text, "\n{}: {next}", paint.hint("next"));
    }
    text
}

/// What was left to the tasks that share the run; of what failed nobody knows.
fn others(run: &RunReport) -> Option<String> {
    let ended = |s: &StreamReport| !matches!(s.outcome, Outcome::Failed(_) | Outcome::Interrupted);
    let of = |share: Share| {
        let streams = run.streams.iter();
        let names = streams.filter(|s| s.share == share && ended(s));
        let names: Vec<String> = names.map(|s| format!("`{}`", s.stream)).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let (all, rest) = (of(Share::Nothing), of(Share::Part));
    let said: Vec<String> = [
        all.map(|names| format!("all of {names} (·)")),
        rest.map(|names| format!("the rest of {names}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!said.is_empty()).then(|| format!("read by other tasks, or left to them: {}", said.join("; ")))
}

fn table(run: &RunReport, paint: Paint) -> String {
    let mut table = Table::new([
        ("", Align::Left),
        ("stream", Align::Left),
        ("pages", Align::Right),
        ("rows", Align::Right),
        ("rejected", Align::Right),
        ("duration", Align::Right),
        ("rows/s", Align::Right),
        ("cursor", Align::Left),
    ]);
    let rate = |rows, duration| per_second(rows, duration).map(grouped).unwrap_or_default();
    for s in &run.streams {
        table.row([
            mark(s).to_owned(),
            s.stream.clone(),
            grouped(s.pages),
            grouped(s.rows),
            grouped(s.rejected),
            span(s.duration),
            rate(s.rows, s.duration),
            cursor(s),
        ]);
    }
    let total = |of: fn(&StreamReport) -> u64| run.streams.iter().map(of).sum::<u64>();
    let several = run.streams.len() > 1;
    if several {
        let rows = total(|s| s.rows);
        table.row([
            String::new(),
            "total".to_owned(),
            grouped(total(|s| s.pages)),
            grouped(rows),
            grouped(total(|s| s.rejected)),
            span(run.duration),
            rate(rows, run.duration),
        ]);
    }
    let lines = table.lines(WIDTH);
    let last = lines.len() - 1;
    let mut text = String::new();
    for (i, line) in lines.into_iter().enumerate() {
        let line = match i {
            0 => paint.dim(&line),
            i if several && i == last => paint.strong(&line),
            i => marked(&line, &run.streams[i - 1], paint),
        };
        let _ = writeln!(text, "{line}");
    }
    text
}

fn mark(stream: &StreamReport) -> &'static str {
    match &stream.outcome {
        // Other tasks read it.
        Outcome::Done if stream.share == Share::Nothing => "·",
        Outcome::Done => "✓",
        Outcome::Interrupted => "…",
        Outcome::Failed(_) => "✗",
        Outcome::TooManyRejects { .. } => "!",
    }
}

/// Colours the mark at the start of a line.
fn marked(line: &str, stream: &StreamReport, paint: Paint) -> String {
    let mark = mark(stream);
    let painted = match &stream.outcome {
        Outcome::Done => paint.good(mark),
        Outcome::Interrupted | Outcome::TooManyRejects { .. } => paint.warn(mark),
        Outcome::Failed(_) => paint.bad(mark),
    };
    line.replacen(mark, &painted, 1)
}

/// `before → after`; the day is said once when both are of one.
fn cursor(s: &StreamReport) -> String {
    let short = |text: &String| match text.parse::<jiff::Timestamp>() {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => text.clone(),
    };
    let (before, after) = (
        s.cursor_before.as_ref().map(short),
        s.cursor_after.as_ref().map(short),
    );
    match (before, after) {
        (None, None) => String::new(),
        (None, Some(after)) => format!("– → {after}"),
        (Some(before), None) => format!("{before} → –"),
        (Some(before), Some(after)) if before == after => format!("{before} (unchanged)"),
        (Some(before), Some(after)) => match (before.split_once(' '), after.split_once(' ')) {
            (Some((day, _)), Some((same, time))) if day == same => format!("{before} → {time}"),
            _ => format!("{before} → {after}"),
        },
    }
}

/// `190 requests, 4.1 MB, 2 sent again, 3 waits for the rate limit`.
fn traffic(run: &RunReport) -> String {
    let total = |of: fn(&StreamReport) -> u64| run.streams.iter().map(of).sum::<u64>();
    let mut facts = vec![
        count(total(|s| s.requests), "request"),
        format!("{} received", bytes(total(|s| s.bytes))),
    ];
    let (retries, throttled) = (total(|s| s.retries), total(|s| s.throttled));
    if retries > 0 {
        facts.push(format!("{} sent again", grouped(retries)));
    }
    if throttled > 0 {
        facts.push(format!(
            "{} of “too many requests”",
            count(throttled, "answer")
        ));
    }
    let unpublished = [
        (
            total(|s| if s.keeps_history { 0 } else { s.deduplicated }),
            ("row", "replaced by a newer one"),
        ),
        (
            total(|s| if s.keeps_history { s.deduplicated } else { 0 }),
            ("row", "that made no new version"),
        ),
        (
            total(|s| s.skipped),
            ("record", "left out as no newer than those read before"),
        ),
    ];
    for (number, (what, why)) in unpublished {
        if number > 0 {
            facts.push(format!("{} {why}", count(number, what)));
        }
    }
    let jobs = run.streams.iter().map(|s| s.jobs.len() as u64).sum();
    if jobs > 0 {
        let billed = bytes(total(|s| s.bytes_billed));
        facts.push(format!("{} billed for {billed}", count(jobs, "job")));
    }
    facts.join(", ")
}

/// What is different in the destination's tables now.
fn changes(run: &RunReport, paint: Paint) -> String {
    let mut text = String::new();
    for change in run.streams.iter().flat_map(|s| &s.changes) {
        let _ = writeln!(text, "{}: {change}", paint.dim("changed"));
    }
    text
}

/// In a dry run: what the destination would do. What is made for all streams is said once, and so are
/// the lines that their statements have in common.
fn plans(run: &RunReport, paint: Paint) -> String {
    let mut text = String::new();
    let mut shared: Vec<&String> = Vec::new();
    for one in run.streams.iter().flat_map(|s| &s.plan) {
        for change in &one.shared {
            if !shared.contains(&change) {
                shared.push(change);
            }
        }
    }
    if !shared.is_empty() {
        let _ = writeln!(text, "\n{}", paint.strong("plan for all streams"));
    }
    for change in shared {
        let _ = writeln!(text, "  + {change}");
    }
    let mut said: Vec<&str> = Vec::new();
    for s in &run.streams {
        let Some(plan) = &s.plan else { continue };
        let _ = writeln!(
            text,
            "\n{}",
            paint.strong(&format!("plan for `{}`", s.stream))
        );
        if plan.changes.is_empty() {
            let _ = writeln!(text, "  tables are as they should be");
        }
        for (sign, lines) in [("+", &plan.changes), ("→", &plan.steps)] {
            for line in lines {
                let _ = writeln!(text, "  {sign} {line}");
            }
        }
        let lines: Vec<&str> = plan.sql.iter().flat_map(|sql| sql.lines()).collect();
        for line in unsaid(&lines, &said) {
            let _ = writeln!(text, "    {}", paint.dim(line));
        }
        said.extend(lines);
    }
    text
}

/// The lines, with a word in place of many in a row that were said before.
fn unsaid<'a>(lines: &[&'a str], said: &[&str]) -> Vec<&'a str> {
    const MANY: usize = 3;
    let mut shown = Vec::new();
    for run in lines.chunk_by(|a, b| said.contains(a) == said.contains(b)) {
        match said.contains(&run[0]) && run.len() >= MANY {
            true => shown.push("-- … as above"),
            false => shown.extend(run),
        }
    }
    shown
}

/// What somebody should look at.
fn warnings(run: &RunReport, paint: Paint) -> String {
    let mut said: Vec<(String, Option<String>)> = Vec::new();
    for s in &run.streams {
        let rejects = format!("{}__rejects", s.table);
        let look = || {
            let sql = format!("SELECT reason, path, count(*) FROM {rejects} GROUP BY 1, 2");
            match query(&run.destination, &rejects, &sql) {
                Some(command) => format!("see why: {command}"),
                None => format!("the table `{rejects}` says why"),
            }
        };
        let nothing_new = match s.fits_nothing() {
            true => "; none did, so its rows stay as they were",
            false => "",
        };
        match &s.outcome {
            Outcome::TooManyRejects { limit } => said.push((
                format!(
                    "stream `{}`: {} did not fit the table, more than the {} allowed{nothing_new}",
                    s.stream,
                    count(s.rejected, "record"),
                    grouped(*limit)
                ),
                Some(look()),
            )),
            Outcome::Interrupted => said.push((
                format!(
                    "stream `{}` was stopped; the next run goes on from there",
                    s.stream
                ),
                None,
            )),
            _ if s.rejected > 0 => said.push((
                format!(
                    "stream `{}`: {} did not fit the table, kept in `{rejects}`{nothing_new}",
                    s.stream,
                    count(s.rejected, "record")
                ),
                Some(look()),
            )),
            _ => {}
        }
        if s.is_published_too_often() {
            said.push((s.published_too_often(), Some(PUBLISH_LESS.to_owned())));
        }
    }
    let mut text = String::new();
    for (message, hint) in said {
        let _ = writeln!(text, "{}: {message}", paint.warn("warning"));
        if let Some(hint) = hint {
            let _ = writeln!(text, "  {}: {hint}", paint.hint("hint"));
        }
    }
    // Schemas that leave fields out on purpose are common: all that is said of it is one line.
    let notes = [
        (
            false,
            "are left out of",
            "; `drawoff schema --infer` proposes columns",
        ),
        (true, "are kept in `_extra` of", ""),
    ];
    for (kept, what, then) in notes {
        let streams: Vec<String> = run
            .streams
            .iter()
            .filter(|s| s.keeps_unknown == kept)
            .filter_map(with_unknown)
            .collect();
        if !streams.is_empty() {
            let (note, streams) = (paint.dim("note"), streams.join(", "));
            let _ = writeln!(
                text,
                "{note}: fields without a column {what} {streams}{then}"
            );
        }
    }
    for s in &run.streams {
        if let Outcome::Failed(error) = &s.outcome {
            text.push_str(&report::text(error, paint));
        }
    }
    if let Some(problem) = &run.problem {
        text.push_str(&report::text(problem, paint));
    }
    text
}

/// A stream and its fields that have no column, the first by name.
fn with_unknown(stream: &StreamReport) -> Option<String> {
    let first = stream.unknown_fields.first()?;
    let more = match stream.unknown_fields.len() {
        1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    let first = shown(first);
    Some(format!("`{}` ({first}{more})", stream.stream))
}

/// A command that shows something of what the run brought.
fn next(run: &RunReport) -> Option<String> {
    if run.dry_run {
        return Some("the same without `--dry-run` stores them".to_owned());
    }
    let landed = run.streams.iter().filter(|s| s.rows > 0);
    let largest = landed.max_by_key(|s| s.rows)?;
    let table = &largest.table;
    let sql = match (run.source.as_str(), table.as_str()) {
        ("demo", "tickets") => format!(
            "SELECT status, count(*) AS tickets FROM {table} GROUP BY status ORDER BY tickets DESC"
        ),
        _ => format!("SELECT * FROM {table} LIMIT 5"),
    };
    query(&run.destination, table, &sql)
}

/// Words of SQL that an API may well call a list, and that SQLite wants quoted as a table's name.
const KEYWORDS: [&str; 14] = [
    "case",
    "check",
    "collate",
    "columns",
    "commit",
    "group",
    "groups",
    "index",
    "order",
    "plan",
    "references",
    "table",
    "transaction",
    "values",
];

/// The shell command for a query on a destination; `sql` names `table` bare.
fn query(destination: &str, table: &str, sql: &str) -> Option<String> {
    let (kind, place) = destination.split_once(':')?;
    match kind {
        "sqlite" => {
            let keyword = KEYWORDS.iter().any(|k| k.eq_ignore_ascii_case(table));
            let sql = match keyword {
                true => sql.replacen(&format!("FROM {table}"), &format!("FROM [{table}]"), 1),
                false => sql.to_owned(),
            };
            Some(format!("sqlite3 -box {} \"{sql}\"", shell(place)))
        }
        "bigquery" => {
            let (project, dataset) = place.split_once('.')?;
            let full = format!("`{dataset}`.`{table}`");
            Some(format!(
                "bq query --project_id={} --use_legacy_sql=false '{}'",
                shell(project),
                sql.replacen(&format!("FROM {table}"), &format!("FROM {full}"), 1)
            ))
        }
        "parquet" => {
            let files = format!("FROM '{}/{table}/*.parquet'", place.trim_end_matches('/'));
            let plain = place.chars().all(|c| !"'\"`$\\".contains(c));
            plain.then(|| {
                let sql = sql.replacen(&format!("FROM {table}"), &files, 1);
                format!("duckdb -c \"{sql}\"")
            })
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
