//! The columns of `_drawoff_loads` and `_drawoff_runs`, and what goes into them, for destinations that
//! keep them as tables.

use jiff::Timestamp;

use super::{Disposition, TableSpec, WriteMethod};
use crate::schema::{Column, ColumnType, Mode};
use crate::state::{CheckpointUpdate, RunRecord};

/// Table with a row for each published slice, written in the transaction that publishes it.
pub const LOADS: &str = "_drawoff_loads";

/// Table with a row for each stream of each run, written when the run ends.
pub const RUNS: &str = "_drawoff_runs";

/// This program's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Text, where there is any.
    Text(Option<String>),
    /// A count.
    Count(u64),
    /// A time.
    Time(Timestamp),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<&String> for Cell {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<&Option<String>> for Cell {
    fn from(text: &Option<String>) -> Self {
        Self::Text(text.clone())
    }
}

impl From<u64> for Cell {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

/// A time as destinations write it that have no type for times.
pub fn time_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn text(name: &str, about: &str) -> Column {
    Column::new(name, ColumnType::String).describe(about)
}

fn count(name: &str, about: &str) -> Column {
    Column::new(name, ColumnType::Int64).describe(about)
}

fn time(name: &str, about: &str) -> Column {
    Column::new(name, ColumnType::Timestamp).describe(about)
}

/// Columns of [`LOADS`].
pub fn load_columns() -> Vec<Column> {
    vec![
        text("run_id", "Run that published the slice.").mode(Mode::Required),
        text("source", "Source.").mode(Mode::Required),
        text(
            "stream",
            "Stream; of a backfill with its own checkpoint, stream and span.",
        )
        .mode(Mode::Required),
        text("slice", "Slice, in the order of the run.").mode(Mode::Required),
        text("table_name", "Table that it was published to.").mode(Mode::Required),
        text("disposition", "append, merge, replace or scd2."),
        text("write_method", "How the rows came in."),
        count(
            "records",
            "Records received. They are published, rejected, deduplicated or skipped.",
        ),
        count(
            "staged",
            "Rows that the destination took in, without those that it refused.",
        ),
        count(
            "published",
            "Rows that are in the table because of this slice.",
        ),
        count("rejected", "Records that went into the rejects table."),
        count(
            "deduplicated",
            "Staged rows that a newer one with the same key replaced, or that keeping history found unchanged.",
        ),
        count(
            "skipped",
            "Records left out as no newer than those read before.",
        ),
        count(
            "bytes",
            "Bytes of bodies received; of the first slice, those of the sample for columns, too.",
        ),
        count(
            "requests",
            "Requests sent, retries included; of the first slice, those of the sample for columns, too.",
        ),
        count("throttled", "Answers that said \"too many requests\"."),
        text("cursor_before", "Saved cursor before."),
        text("cursor_after", "Saved cursor after."),
        count(
            "version",
            "Version of the checkpoint that was stored with the rows.",
        ),
        text("job", "Id of the job that published, where one did."),
        time("published_at", "When.").mode(Mode::Required),
        text("drawoff_version", "Version of drawoff."),
    ]
}

/// What is known about a slice before it is published: every column of [`LOADS`] but `staged`,
/// `published`, `rejected`, `deduplicated`, `job` and `published_at`.
pub fn load_cells(
    table: &TableSpec,
    slice: &str,
    update: &CheckpointUpdate,
) -> Vec<(&'static str, Cell)> {
    let facts = &update.facts;
    vec![
        ("run_id", (&update.run_id).into()),
        ("source", (&update.key.source).into()),
        ("stream", (&update.key.stream).into()),
        ("slice", slice.into()),
        ("table_name", (&table.name).into()),
        ("disposition", disposition(table.disposition).into()),
        ("write_method", write_method(table.write_method).into()),
        ("records", facts.records.into()),
        ("skipped", facts.skipped.into()),
        ("bytes", facts.bytes.into()),
        ("requests", facts.requests.into()),
        ("throttled", facts.throttled.into()),
        ("cursor_before", (&facts.cursor_before).into()),
        ("cursor_after", (&facts.cursor_after).into()),
        ("version", (update.expected_version + 1).into()),
        ("drawoff_version", VERSION.into()),
    ]
}

/// The columns of [`LOADS`] whose values are known before, for statements that are made before there is
/// a slice. Those of [`load_cells`], in their order, but for `version`.
pub const LOAD_PARAMETERS: [&str; 15] = [
    "run_id",
    "source",
    "stream",
    "slice",
    "table_name",
    "disposition",
    "write_method",
    "records",
    "skipped",
    "bytes",
    "requests",
    "throttled",
    "cursor_before",
    "cursor_after",
    "drawoff_version",
];

/// Columns of [`RUNS`].
pub fn run_columns() -> Vec<Column> {
    vec![
        text("run_id", "Run.").mode(Mode::Required),
        text("source", "Source.").mode(Mode::Required),
        text("stream", "Stream.").mode(Mode::Required),
        text("table_name", "Its table.").mode(Mode::Required),
        time("started_at", "When the run started.").mode(Mode::Required),
        time("ended_at", "When the stream ended.").mode(Mode::Required),
        text("outcome", "done, interrupted, failed or too_many_rejects.").mode(Mode::Required),
        text(
            "error_kind",
            "Who must act, as one word: config, auth, unavailable, …",
        ),
        text("error", "The error and its causes."),
        count("records", "Records received."),
        count("published", "Rows published."),
        count("rejected", "Records that went into the rejects table."),
        count(
            "deduplicated",
            "Left out for a newer one with the same key, as no new version, or as no newer than those read before.",
        ),
        count("slices", "Slices published."),
        count(
            "pages",
            "Pages read, those of the sample that columns are inferred from included.",
        ),
        count(
            "bytes",
            "Bytes of bodies received, those of the sample included.",
        ),
        count(
            "requests",
            "Requests sent, retries and those of the sample included.",
        ),
        count("retries", "Requests sent again."),
        count("throttled", "Answers that said \"too many requests\"."),
        text("cursor_before", "Saved cursor when the run started."),
        text("cursor_after", "Saved cursor when it ended."),
        text(
            "jobs",
            "Ids of the jobs run for the stream, separated by spaces.",
        ),
        count("bytes_billed", "Bytes that those jobs are billed for."),
        text("drawoff_version", "Version of drawoff."),
    ]
}

/// Their names, in the order of [`run_cells`].
pub fn run_column_names() -> Vec<String> {
    run_columns().into_iter().map(|c| c.name).collect()
}

/// The values of [`run_columns`], in their order.
pub fn run_cells(run: &RunRecord) -> Vec<Cell> {
    vec![
        (&run.run_id).into(),
        (&run.source).into(),
        (&run.stream).into(),
        (&run.table).into(),
        Cell::Time(run.started_at),
        Cell::Time(run.ended_at),
        run.outcome.into(),
        (&run.error_kind).into(),
        (&run.error).into(),
        run.records.into(),
        run.published.into(),
        run.rejected.into(),
        run.deduplicated.into(),
        run.slices.into(),
        run.pages.into(),
        run.bytes.into(),
        run.requests.into(),
        run.retries.into(),
        run.throttled.into(),
        (&run.cursor_before).into(),
        (&run.cursor_after).into(),
        Cell::Text((!run.jobs.is_empty()).then(|| run.jobs.join(" "))),
        run.bytes_billed.into(),
        VERSION.into(),
    ]
}

/// A disposition as connectors have it.
pub fn disposition(disposition: Disposition) -> &'static str {
    match disposition {
        Disposition::Append => "append",
        Disposition::Merge => "merge",
        Disposition::Replace => "replace",
        Disposition::Scd2 => "scd2",
    }
}

/// A way in as connectors have it.
pub fn write_method(method: WriteMethod) -> &'static str {
    match method {
        WriteMethod::StorageWrite => "storage_write",
        WriteMethod::LoadJob => "load_job",
        WriteMethod::Stream => "stream",
        WriteMethod::InsertAll => "insert_all",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_sample_adds_to_is_described() {
        let said = |columns: Vec<Column>, name: &str| {
            let mut found = columns.into_iter().filter(|c| c.name == name);
            found.next().unwrap().description.contains("sample")
        };
        for name in ["pages", "bytes", "requests"] {
            assert!(said(run_columns(), name), "{name}");
        }
        for name in ["bytes", "requests"] {
            assert!(said(load_columns(), name), "{name}");
        }
    }

    #[test]
    fn every_column_has_its_value() {
        assert_eq!(run_columns().len(), run_cells(&RunRecord::default()).len());
        let columns = load_columns();
        let update = CheckpointUpdate {
            key: crate::state::CheckpointKey {
                source: "s".into(),
                stream: "t".into(),
            },
            checkpoint: Default::default(),
            expected_version: 0,
            run_id: "r".into(),
            lease: "s".into(),
            facts: Default::default(),
        };
        let cells = load_cells(&TableSpec::default(), "0001", &update);
        assert!(
            cells
                .iter()
                .all(|(n, _)| columns.iter().any(|c| c.name == *n))
        );
        assert_eq!(cells.len() + 6, columns.len());
        let names: Vec<&str> = cells.iter().map(|(n, _)| *n).collect();
        let known: Vec<&str> = names.into_iter().filter(|n| *n != "version").collect();
        assert_eq!(known, LOAD_PARAMETERS);
    }
}
