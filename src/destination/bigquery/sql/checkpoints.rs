//! The table of checkpoints.

use crate::schema::{Column, ColumnType, Mode};

/// Makes sure that a checkpoint has a row, of version 0, so that a transaction has something to
/// mutate: two that only inserted would not notice each other. Parameters `source`, `stream`.
pub(in super::super) fn seed(checkpoints: &str) -> String {
    format!(
        "INSERT INTO {checkpoints} (source, stream, version, updated_at)\n\
         SELECT @source, @stream, 0, CURRENT_TIMESTAMP()\n\
         FROM (SELECT COUNT(*) AS there FROM {checkpoints} WHERE source = @source AND stream = @stream)\n\
         WHERE there = 0"
    )
}

/// Who published a checkpoint last, and what. Parameters `source`, `stream`.
pub(in super::super) fn last_publish(checkpoints: &str) -> String {
    format!(
        "SELECT version, run_id, slice, published, deduplicated FROM {checkpoints}\n\
         WHERE source = @source AND stream = @stream ORDER BY version DESC LIMIT 1"
    )
}

/// Forgets checkpoints: parameters `source`, and a stream and a version for each, by these names.
pub(in super::super) fn forget(checkpoints: &str, names: &[(String, String)]) -> String {
    let each: Vec<String> = names
        .iter()
        .map(|(stream, version)| format!("stream = @{stream} AND version = @{version}"))
        .collect();
    format!(
        "DELETE FROM {checkpoints} WHERE source = @source AND ({})",
        each.join(" OR ")
    )
}

/// The columns of the table of checkpoints.
pub(in super::super) fn checkpoint_columns() -> Vec<Column> {
    let of = |name: &str, kind, about: &str| Column::new(name, kind).describe(about);
    vec![
        of("source", ColumnType::String, "Source.").mode(Mode::Required),
        of("stream", ColumnType::String, "Stream.").mode(Mode::Required),
        of(
            "version",
            ColumnType::Int64,
            "Number of publishes of the stream; 0 before the first.",
        )
        .mode(Mode::Required),
        of(
            "state",
            ColumnType::String,
            "Where the extraction stands, as JSON.",
        ),
        of("run_id", ColumnType::String, "Run that published last."),
        of(
            "slice",
            ColumnType::String,
            "Slice that was published last.",
        ),
        of(
            "published",
            ColumnType::Int64,
            "Rows that the last publish put into the table.",
        ),
        of(
            "deduplicated",
            ColumnType::Int64,
            "Staged rows of the last publish that a newer one with the same key replaced.",
        ),
        of(
            "updated_at",
            ColumnType::Timestamp,
            "When the row was written.",
        ),
    ]
}
