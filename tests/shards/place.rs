//! Where the rows of tasks land, and how they are read back.

use serde_json::{Value, json};

use super::{KINDS, bench};
use crate::support::binary::Bench;
use crate::support::emulator::{Emulator, PROJECT};
use crate::support::rows::micros;
use crate::support::tables::{Row, content, parquet, sqlite};

/// Where rows land, and how they are read back.
pub(super) enum Place {
    Sqlite,
    Parquet,
    BigQuery(&'static Emulator, String),
}

impl Place {
    pub fn name(&self) -> String {
        match self {
            Self::Sqlite => "sqlite:drawoff.db".to_owned(),
            Self::Parquet => "parquet:out".to_owned(),
            Self::BigQuery(_, dataset) => format!("bigquery:{PROJECT}.{dataset}"),
        }
    }

    pub fn bench(&self, url: &url::Url) -> Bench {
        match self {
            Self::BigQuery(emulator, _) => bench(url)
                .env("DRAWOFF_STREAM", "spans,children")
                .env("DRAWOFF_SLICE_ROWS", "20")
                .env("BIGQUERY_EMULATOR_HOST", emulator.rest())
                .env("BIGQUERY_STORAGE_EMULATOR_HOST", emulator.grpc())
                .env("NO_GCE_CHECK", "true"),
            _ => bench(url),
        }
    }

    /// The streams that are tried there: BigQuery's emulator takes its time.
    pub fn kinds(&self) -> Vec<&'static str> {
        match self {
            Self::BigQuery(..) => vec!["spans", "children"],
            _ => KINDS.to_vec(),
        }
    }

    /// The rows of the tables, without when and by which run they came.
    pub fn tables(&self, bench: &Bench, kinds: &[&str]) -> Vec<Vec<Row>> {
        let read = |table: &str| match self {
            Self::Sqlite => content(sqlite(&bench.path("drawoff.db"), table)),
            Self::Parquet => content(parquet(&bench.path("out"), table)),
            Self::BigQuery(emulator, dataset) => {
                if !emulator.tables(dataset).iter().any(|t| t == table) {
                    return Vec::new();
                }
                let sql = format!("SELECT * FROM {dataset}.{table}");
                let rows = emulator.query(&sql).as_array().unwrap().clone();
                content(
                    rows.into_iter()
                        .map(|row| serde_json::from_value(row).unwrap())
                        .collect(),
                )
            }
        };
        let same_times = |mut rows: Vec<Row>| {
            for row in &mut rows {
                let text = row["updated_at"].as_str().unwrap();
                let civil = text.trim_end_matches('Z').trim_end_matches("+00:00");
                let at = micros(civil);
                row.insert("updated_at".to_owned(), json!(at));
            }
            rows.sort_by_cached_key(|row| json!(row).to_string());
            rows
        };
        kinds.iter().map(|table| same_times(read(table))).collect()
    }

    /// Streams that have a checkpoint.
    pub fn checkpoints(&self, bench: &Bench) -> Vec<String> {
        let name = |row: &Row, field: &str| row[field].as_str().unwrap().to_owned();
        let mut names: Vec<String> = match self {
            Self::Sqlite => sqlite(&bench.path("drawoff.db"), "_drawoff_checkpoints")
                .iter()
                .map(|row| name(row, "stream"))
                .collect(),
            Self::Parquet => {
                let text = std::fs::read(bench.path("out/_drawoff/manifest.json")).unwrap();
                let manifest: Value = serde_json::from_slice(&text).unwrap();
                let stored = manifest["checkpoints"].as_array().unwrap().clone();
                stored
                    .iter()
                    .map(|s| s["stream"].as_str().unwrap().to_owned())
                    .collect()
            }
            Self::BigQuery(emulator, dataset) => {
                let sql = format!(
                    "SELECT DISTINCT stream FROM {dataset}._drawoff_checkpoints WHERE version > 0"
                );
                let rows = emulator.query(&sql);
                let rows = rows.as_array().unwrap();
                rows.iter()
                    .map(|r| r["stream"].as_str().unwrap().to_owned())
                    .collect()
            }
        };
        names.sort();
        names
    }
}
