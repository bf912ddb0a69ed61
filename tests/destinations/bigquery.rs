//! BigQuery: the conformance suite, on an emulator, read back by Google's own client. What is its own
//! is in `crate::bigquery`.

use std::collections::HashMap;

use async_trait::async_trait;
use drawoff::clock::SystemClock;
use drawoff::destination::bigquery::{BigQuery, Target};
use drawoff::destination::{Destination, Plan, Slice, TableSpec, WriteMethod};
use drawoff::error::Result;
use drawoff::google::Google;
use drawoff::schema::{Column, ColumnType, Mode, TableSchema};
use drawoff::state::{Acquired, CheckpointKey, Lease, RunRecord, SavedCheckpoint, StateStore};
use serde_json::{Value, json};

use super::{Place, conformance};
use crate::support::emulator::{Emulator, PROJECT};

/// A dataset of its own.
pub struct Dataset(String);

impl Dataset {
    pub fn new() -> Self {
        Self(Emulator::get().dataset("conformance"))
    }
}

#[async_trait]
impl Place for Dataset {
    async fn open(&self) -> Box<dyn Destination> {
        let google = Google::new(Emulator::get().settings(), SystemClock::shared()).unwrap();
        let target = Target {
            project: PROJECT.into(),
            dataset: self.0.clone(),
        };
        Box::new(BigQuery::new(google, target, Default::default()).unwrap())
    }

    async fn read(&self, table: &str, schema: &TableSchema) -> Option<Vec<Value>> {
        let emulator = Emulator::get();
        let names: Vec<String> = schema
            .columns
            .iter()
            .map(|c| format!("`{}`", c.name))
            .collect();
        let sql = format!(
            "SELECT {} FROM `{PROJECT}.{}.{table}`",
            names.join(", "),
            self.0
        );
        let mut answers = emulator.ask(vec![
            json!({"tables": self.0}),
            json!({"query": sql, "missing": "fine"}),
        ]);
        let there = answers[0]
            .as_array()
            .is_some_and(|t| t.iter().any(|t| t == table));
        let Value::Array(rows) = answers.remove(1) else {
            return None;
        };
        assert!(there);
        Some(rows.iter().map(|r| row(&schema.columns, r)).collect())
    }
}

pub fn row(columns: &[Column], row: &Value) -> Value {
    columns
        .iter()
        .map(|c| {
            let cell = &row[&c.name];
            let shown = match (c.mode, cell) {
                (Mode::Repeated, Value::Array(items)) => items.iter().map(|i| one(c, i)).collect(),
                _ => one(c, cell),
            };
            (c.name.clone(), shown)
        })
        .collect()
}

/// Times with six decimals, as `schema::render` writes them; the client leaves out zeros.
fn one(column: &Column, cell: &Value) -> Value {
    if column.kind == ColumnType::Record && !cell.is_null() {
        return row(&column.fields, cell);
    }
    let Some(text) = cell.as_str() else {
        return cell.clone();
    };
    let six = |text: &str| match text.split_once('.') {
        Some((whole, fraction)) => format!("{whole}.{fraction:0<6}"),
        None => format!("{text}.000000"),
    };
    match column.kind {
        ColumnType::Timestamp => json!(six(text.trim_end_matches("+00:00")) + "Z"),
        ColumnType::DateTime | ColumnType::Time => json!(six(text)),
        _ => cell.clone(),
    }
}

// All but `every_type`, whose BIGNUMERICs have more digits than the emulator keeps.
conformance!(@ suite, Dataset::new(),
    append merge_replaces_by_key merge_keeps_the_newest merge_by_other_cursors
    merge_needs_keys merge_of_columns_that_are_all_key replace replace_removes_doubles
    rows_move_between_partitions rows_no_longer_listed_are_marked history
    rejects
    abandoned_and_dropped_slices_never_show forgotten_slices_never_show
    another_version_is_refused a_lost_answer_is_recognised one_slice_is_not_another
    new_columns_are_added columns_become_wider a_frozen_table_stays_as_it_is
    what_does_not_fit_is_refused checkpoints_come_back a_forgotten_checkpoint_is_none the_schema_comes_back
    two_destinations_on_one_place slices_at_the_same_time many_batches leases);

/// A dataset into whose tables everything is loaded.
pub struct Loaded(Dataset);

/// Has slices opened as the stream says, but for the way in.
struct ByLoadJob(Box<dyn Destination>);

#[async_trait]
impl Place for Loaded {
    async fn open(&self) -> Box<dyn Destination> {
        Box::new(ByLoadJob(self.0.open().await))
    }

    async fn read(&self, table: &str, schema: &TableSchema) -> Option<Vec<Value>> {
        self.0.read(table, schema).await
    }
}

#[async_trait]
impl StateStore for ByLoadJob {
    async fn checkpoints(&self, source: &str) -> Result<HashMap<CheckpointKey, SavedCheckpoint>> {
        self.0.checkpoints(source).await
    }

    async fn forget(&self, source: &str, streams: &[(String, u64)]) -> Result<()> {
        self.0.forget(source, streams).await
    }

    async fn acquire(&self, lease: &Lease) -> Result<Acquired> {
        self.0.acquire(lease).await
    }

    async fn renew(&self, lease: &Lease) -> Result<()> {
        self.0.renew(lease).await
    }

    async fn release(&self, lease: &Lease) -> Result<()> {
        self.0.release(lease).await
    }

    async fn record(&self, runs: &mut [RunRecord]) -> Result<()> {
        self.0.record(runs).await
    }
}

#[async_trait]
impl Destination for ByLoadJob {
    fn describe(&self) -> String {
        self.0.describe()
    }

    async fn prepare(&self, table: &TableSpec) -> Result<Vec<String>> {
        self.0.prepare(table).await
    }

    async fn existing(&self, table: &str) -> Result<Option<TableSchema>> {
        self.0.existing(table).await
    }

    async fn plan(&self, table: &TableSpec) -> Result<Plan> {
        self.0.plan(table).await
    }

    async fn open(&self, table: &TableSpec, run_id: &str, slice: &str) -> Result<Box<dyn Slice>> {
        let table = TableSpec {
            write_method: WriteMethod::LoadJob,
            ..table.clone()
        };
        self.0.open(&table, run_id, slice).await
    }
}

// What the way in could make a difference to.
conformance!(@ loaded, Loaded(Dataset::new()),
    merge_keeps_the_newest replace_removes_doubles rejects
    abandoned_and_dropped_slices_never_show a_lost_answer_is_recognised
    new_columns_are_added slices_at_the_same_time many_batches);
