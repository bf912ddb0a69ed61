//! A table into which slices go one after the other, through proxies that play the faults, and what
//! should be in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use drawoff::clock::SharedClock;
use drawoff::destination::bigquery::{BigQuery, Target};
use drawoff::destination::{
    Base, BatchKind, Destination, Disposition, PartitionUnit, Partitioning, Published, TableSpec,
    WriteMethod,
};
use drawoff::error::Result;
use drawoff::google::Google;
use drawoff::schema::landing::column;
use drawoff::schema::{Column, ColumnType, Mode, TableSchema};
use drawoff::state::{Checkpoint, CheckpointKey, CheckpointUpdate, SliceFacts};
use gcloud_sdk::tonic::Code;
use serde_json::{Value, json};

use super::{Fault, Point};
use crate::support::binary::moment;
use crate::support::clock::AheadClock;
use crate::support::emulator::{Emulator, PROJECT};
use crate::support::faults::{gate, grpc};
use crate::support::hasty_clock::HastyClock;
use crate::support::rows::batch;

/// Shows of a version that there is a newer one.
const ENDED: &str = ", ended";

/// Both surfaces of an emulator behind proxies.
pub struct Proxies {
    pub rest: gate::RestGate,
    pub grpc: grpc::GrpcProxy,
}

impl Proxies {
    pub async fn of(emulator: &Emulator) -> Self {
        Self {
            rest: gate::RestGate::start(emulator.rest()).await,
            grpc: grpc::GrpcProxy::start(emulator.grpc()).await,
        }
    }

    /// Sees to it that a slice comes by there.
    pub fn prepare(&self, point: Point) {
        match point {
            // Asked for where the answer to its insertion was lost.
            Point::Rest(gate::Call::Job) => {
                self.rest.on(gate::Call::Publish, gate::Fault::LoseAnswer);
            }
            // The emulator does a load job at once.
            Point::Rest(gate::Call::LoadJob) => {
                self.rest.on(gate::Call::Upload, gate::Fault::AtWork);
            }
            _ => {}
        }
    }

    pub fn arm(&self, point: Point, fault: Fault) {
        match point {
            Point::Rest(call) => self.rest.on(
                call,
                match fault {
                    Fault::Refused => gate::Fault::Refuse,
                    Fault::Cut => gate::Fault::Cut,
                    Fault::AnswerLost => gate::Fault::LoseAnswer,
                },
            ),
            Point::Grpc(call) => {
                let fault = match fault {
                    Fault::Refused => grpc::Fault::Refuse(Code::Unavailable),
                    Fault::Cut => grpc::Fault::Cut,
                    Fault::AnswerLost => grpc::Fault::LoseAnswer,
                };
                self.grpc.on(call, 1, fault);
            }
        }
    }

    /// Lets the next such call come to nothing more, after it has arrived or before.
    pub fn hold(&self, point: Point, arrives: bool) {
        match (point, arrives) {
            (Point::Rest(call), false) => self.rest.on(call, gate::Fault::HoldBefore),
            (Point::Rest(call), true) => self.rest.on(call, gate::Fault::HoldAfter),
            (Point::Grpc(call), false) => drop(self.grpc.on(call, 1, grpc::Fault::HoldBefore)),
            (Point::Grpc(call), true) => drop(self.grpc.on(call, 1, grpc::Fault::HoldAfter)),
        }
    }

    /// Calls held so far.
    pub fn held(&self) -> usize {
        self.rest.held() + self.grpc.held()
    }

    /// Faults that nothing has met.
    pub fn left(&self) -> usize {
        self.rest.left() + self.grpc.left()
    }

    pub fn clear(&self) {
        self.rest.clear();
        self.grpc.clear();
    }
}

fn destination(
    emulator: &Emulator,
    proxies: &Proxies,
    dataset: &str,
    clock: SharedClock,
) -> BigQuery {
    let google = emulator.settings_behind(&proxies.rest.url, &proxies.grpc.address);
    let target = Target {
        project: PROJECT.into(),
        dataset: dataset.to_owned(),
    };
    BigQuery::new(
        Google::new(google, clock).unwrap(),
        target,
        Default::default(),
    )
    .unwrap()
}

fn key() -> CheckpointKey {
    CheckpointKey {
        source: "src".into(),
        stream: "things".into(),
    }
}

/// Tables whose names begin like those of staging tables.
pub fn staging(tables: &Value) -> usize {
    let tables = tables.as_array().unwrap().iter();
    tables
        .filter(|t| t.as_str().unwrap().starts_with("_drawoff_stage_"))
        .count()
}

/// The table, the slices that went into it, and what should be in it now.
pub struct Scene<'a> {
    emulator: &'a Emulator,
    dataset: String,
    pub proxies: Arc<Proxies>,
    to: BigQuery,
    pub table: TableSpec,
    /// Publishes so far.
    version: u64,
    /// Slices so far, whether or not they came through.
    slices: i64,
    rows: Vec<(i64, String)>,
}

impl<'a> Scene<'a> {
    pub async fn new(
        emulator: &'a Emulator,
        disposition: Disposition,
        method: WriteMethod,
    ) -> Self {
        let dataset = emulator.dataset("faults");
        let proxies = Arc::new(Proxies::of(emulator).await);
        let to = destination(emulator, &proxies, &dataset, HastyClock::new());
        let mut columns = vec![
            Column::new("id", ColumnType::Int64).mode(Mode::Required),
            Column::new("text", ColumnType::String),
            Column::new("day", ColumnType::Date),
        ];
        if disposition == Disposition::Scd2 {
            columns.extend([
                Column::new(column::VALID_FROM, ColumnType::Timestamp),
                Column::new(column::VALID_TO, ColumnType::Timestamp),
                Column::new(column::ROW_HASH, ColumnType::String),
            ]);
        }
        if method.is_direct() {
            columns.extend([
                Column::new(column::EXTRACTED_AT, ColumnType::Timestamp),
                Column::new(column::SLICE_ID, ColumnType::String),
            ]);
        }
        let table = TableSpec {
            name: "things".into(),
            stream: "things".into(),
            schema: TableSchema { columns },
            disposition,
            write_method: method,
            primary_key: match disposition.is_keyed() {
                true => vec!["id".into()],
                false => vec![],
            },
            // Rows go from one partition to another.
            partition: disposition.is_keyed().then(|| Partitioning {
                column: "day".into(),
                unit: PartitionUnit::Day,
                fixed: false,
            }),
            ..TableSpec::default()
        };
        to.prepare(&table).await.unwrap();
        Self {
            emulator,
            dataset,
            proxies,
            to,
            table,
            version: 0,
            slices: 0,
            rows: Vec::new(),
        }
    }

    /// The rows of the slice that was begun last: some of them have keys of the slice before.
    fn rows_of_slice(&self) -> Vec<(i64, String)> {
        let n = self.slices;
        (n * 2..n * 2 + 5)
            .map(|id| (id, format!("slice {n}")))
            .collect()
    }

    /// One slice, as a run would land it: first what a dead run left is taken back.
    async fn attempt(&mut self) -> Result<Published> {
        self.slices += 1;
        let run = format!("run{}", self.slices);
        let n = self.slices;
        // Columns of history and of direct slices are only read where the table has them.
        let at = format!("2026-01-01T{:02}:{:02}:00.000000Z", n / 60, n % 60);
        let day = format!("2026-01-{:02}", 1 + n % 28);
        let values: Vec<Value> = self
            .rows_of_slice()
            .iter()
            .map(|(id, text)| {
                json!({
                    "id": id, "text": text, "day": day, column::ROW_HASH: text, column::VALID_FROM: at,
                    column::EXTRACTED_AT: at, column::SLICE_ID: format!("{run}/0001"),
                })
            })
            .collect();
        self.to.take_back(&self.table, &key()).await?;
        let mut slice = self.to.open(&self.table, &run, "0001").await?;
        slice.builds_on(&Base {
            key: key(),
            version: self.version,
            lease: key().source,
        });
        let staged = slice
            .stage(BatchKind::Rows, batch(&self.table.schema, &values))
            .await;
        if let Err(error) = staged {
            // Where this does not work either, the next run does it.
            let _ = slice.abandon().await;
            return Err(error);
        }
        slice
            .publish(&CheckpointUpdate {
                key: key(),
                checkpoint: Checkpoint {
                    cursor: Some(run.clone()),
                    ..Checkpoint::default()
                },
                expected_version: self.version,
                run_id: run,
                lease: key().source,
                facts: SliceFacts::default(),
            })
            .await
    }

    /// Takes note that the slice that was begun last is published.
    fn came_through(&mut self) {
        let rows = self.rows_of_slice();
        self.version += 1;
        match self.table.disposition {
            Disposition::Append => self.rows.extend(rows),
            Disposition::Replace => self.rows = rows,
            // Each is a new version, which ends the one before.
            Disposition::Scd2 => {
                for (id, text) in &mut self.rows {
                    if !text.ends_with(ENDED) && rows.iter().any(|new| new.0 == *id) {
                        text.push_str(ENDED);
                    }
                }
                self.rows.extend(rows);
            }
            Disposition::Merge => {
                let mut all: BTreeMap<i64, String> = self.rows.drain(..).collect();
                all.extend(rows);
                self.rows = all.into_iter().collect();
            }
        }
    }

    /// Lands the next slice.
    pub async fn publish(&mut self) -> Result<Published> {
        let published = self.attempt().await;
        if published.is_ok() {
            self.came_through();
        }
        published
    }

    /// Begins the next slice and lets go of everything as soon as a call is held, as a run that dies
    /// there would; `published` says whether it came through by then. A run of another process goes on.
    pub async fn dies_at(&mut self, point: Point, arrives: bool, published: bool) {
        let proxies = self.proxies.clone();
        proxies.prepare(point);
        proxies.hold(point, arrives);
        let before = proxies.held();
        let held = async {
            while proxies.held() == before {
                moment(Duration::from_millis(2)).await;
            }
        };
        let ended = tokio::select! {
            ended = self.attempt() => Some(ended),
            () = held => None,
        };
        assert!(ended.is_none(), "it did not come by: {ended:?}");
        assert_eq!(proxies.left(), 0);
        let (emulator, dataset) = (self.emulator, &self.dataset);
        self.to = destination(emulator, &proxies, dataset, HastyClock::new());
        self.to.prepare(&self.table).await.unwrap();
        if published {
            self.came_through();
        }
    }

    /// What the next run does first: rows that show and were not published are taken out.
    pub async fn take_back(&self) {
        self.to.take_back(&self.table, &key()).await.unwrap();
    }

    /// Rows and checkpoint are those of the publishes that came through. Answers with the number of
    /// staging tables.
    pub fn check(&self, case: &str) -> usize {
        let dataset = &self.dataset;
        let text = match self.table.disposition {
            Disposition::Scd2 => format!("CONCAT(text, IF(_valid_to IS NULL, '', '{ENDED}'))"),
            _ => "text".to_owned(),
        };
        let answers = tokio::task::block_in_place(|| {
            self.emulator.ask(vec![
                json!({"query": format!(
                    "SELECT 'row' AS kind, id, {text} AS text FROM `{dataset}.things`
                     UNION ALL SELECT 'checkpoint', version, JSON_VALUE(state, '$.cursor')
                     FROM `{dataset}._drawoff_checkpoints` WHERE version > 0"
                )}),
                json!({"tables": dataset}),
            ])
        });
        let (mut found, mut checkpoint) = (Vec::new(), None);
        for row in answers[0].as_array().unwrap() {
            let pair = (
                row["id"].as_i64().unwrap(),
                row["text"].as_str().unwrap().to_owned(),
            );
            match row["kind"] == "row" {
                true => found.push(pair),
                false => assert_eq!(checkpoint.replace(pair), None, "{case}: two checkpoints"),
            }
        }
        found.sort();
        let mut want = self.rows.clone();
        want.sort();
        assert_eq!(found, want, "{case}");
        let version = checkpoint.as_ref().map_or(0, |c| c.0);
        assert_eq!(version, self.version as i64, "{case}");
        staging(&answers[1])
    }

    /// A day and an hour later, what is left staged is cleared away by whoever comes.
    pub async fn swept(&self) {
        let clock = AheadClock::new();
        clock.advance(Duration::from_secs(25 * 3600));
        let later = destination(self.emulator, &self.proxies, &self.dataset, clock);
        later.prepare(&self.table).await.unwrap();
        assert_eq!(self.check("later"), 0);
    }
}
