use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::clock::SystemClock;
use crate::destination::{Plan, Published, Slice};
use crate::schema::{Column, ColumnType, TableSchema};
use crate::state::{
    Acquired, Checkpoint, CheckpointKey, CheckpointUpdate, Lease, RunRecord, SavedCheckpoint,
    SliceFacts, StateStore,
};

/// Keeps the facts of what was published, and miscounts by as much as it is told.
#[derive(Clone, Default)]
struct Counter {
    published: Arc<Mutex<Vec<SliceFacts>>>,
    rejects: u64,
    off: u64,
}

struct Counted {
    to: Counter,
    rows: u64,
}

#[async_trait]
impl StateStore for Counter {
    async fn checkpoints(&self, _: &str) -> Result<HashMap<CheckpointKey, SavedCheckpoint>> {
        Ok(HashMap::new())
    }
    async fn forget(&self, _: &str, _: &[(String, u64)]) -> Result<()> {
        Ok(())
    }

    async fn acquire(&self, _: &Lease) -> Result<Acquired> {
        Ok(Acquired::Ours { before: None })
    }
    async fn renew(&self, _: &Lease) -> Result<()> {
        Ok(())
    }
    async fn release(&self, _: &Lease) -> Result<()> {
        Ok(())
    }
    async fn record(&self, _: &mut [RunRecord]) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Destination for Counter {
    fn describe(&self) -> String {
        "counter".into()
    }
    async fn prepare(&self, _: &TableSpec) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    async fn existing(&self, _: &str) -> Result<Option<TableSchema>> {
        Ok(None)
    }
    async fn plan(&self, _: &TableSpec) -> Result<Plan> {
        Ok(Plan::default())
    }
    async fn open(&self, _: &TableSpec, _: &str, _: &str) -> Result<Box<dyn Slice>> {
        Ok(Box::new(Counted {
            to: self.clone(),
            rows: 0,
        }))
    }
}

#[async_trait]
impl Slice for Counted {
    async fn stage(&mut self, kind: BatchKind, batch: RecordBatch) -> Result<()> {
        if kind == BatchKind::Rows {
            self.rows += batch.num_rows() as u64;
        }
        Ok(())
    }
    async fn publish(self: Box<Self>, update: &CheckpointUpdate) -> Result<Published> {
        self.to.published.lock().unwrap().push(update.facts.clone());
        Ok(Published {
            rows: self.rows - self.to.rejects - self.to.off,
            deduplicated: 0,
            rejected: self.to.rejects,
        })
    }
    async fn keep_absent(&mut self) -> Result<()> {
        Ok(())
    }
    async fn abandon(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

fn writer(to: &Counter) -> (SliceWriter, Arc<Meter>) {
    let schema = TableSchema {
        columns: vec![
            Column::new("id", ColumnType::Int64),
            Column::new("at", ColumnType::Int64),
        ],
    };
    let meter = Arc::new(Meter::default());
    let column = CursorColumn::find(&schema, "at", "items").unwrap();
    let writer = SliceWriter::new(SliceContext {
        destination: Arc::new(to.clone()),
        table: TableSpec {
            name: "items".into(),
            schema,
            disposition: Disposition::Append,
            ..TableSpec::default()
        },
        run_id: "r".into(),
        base: Base {
            key: CheckpointKey {
                source: "s".into(),
                stream: "items".into(),
            },
            version: 0,
            lease: "s".into(),
        },
        contract: crate::schema::landing::Contract::Discard,
        saved: Some("5".into()),
        clock: SystemClock::shared(),
        budget: Budget::new(64 << 20),
        meter: meter.clone(),
        spoken: Spoken::default(),
        cursor: Some(column),
        appends: true,
        streams: 1,
    });
    (writer.unwrap(), meter)
}

fn to(cursor: &str) -> Checkpoint {
    Checkpoint {
        cursor: Some(cursor.into()),
        ..Checkpoint::default()
    }
}

const PAGE: &[u8] = br#"[{"id":1,"at":5},{"id":2,"at":6},{"id":"x","at":6},{"id":3,"at":2}]"#;

#[tokio::test]
async fn facts_are_of_the_slice_alone() {
    let counter = Counter::default();
    let (mut writer, meter) = writer(&counter);
    writer.set_floor(Some(&Cursor::Number(5)));
    let layout = Layout::new("", [], false);
    Meter::add(&meter.bytes, 100);
    Meter::add(&meter.requests, 2);
    writer.page(&layout, PAGE, false).await.unwrap();
    writer.publish(to("6")).await.unwrap();
    // Thrown away and read again: counted once.
    writer.page(&layout, PAGE, false).await.unwrap();
    writer.abandon().await;
    Meter::add(&meter.bytes, 11);
    Meter::add(&meter.throttled, 1);
    writer
        .page(&layout, br#"[{"id":4,"at":7}]"#, false)
        .await
        .unwrap();
    // A page that breaks off: what came before may be published.
    let broken = br#"[{"id":5,"at":8},{"id":6,"#;
    writer.page(&layout, broken, false).await.unwrap_err();
    writer.publish(to("8")).await.unwrap();
    let facts = counter.published.lock().unwrap().clone();
    assert_eq!(
        facts[0],
        SliceFacts {
            records: 4,
            skipped: 1,
            rejected: 1,
            bytes: 100,
            requests: 2,
            throttled: 0,
            cursor_before: Some("5".into()),
            cursor_after: Some("6".into()),
        }
    );
    assert_eq!(
        facts[1],
        SliceFacts {
            records: 2,
            bytes: 11,
            throttled: 1,
            cursor_before: Some("6".into()),
            cursor_after: Some("8".into()),
            ..SliceFacts::default()
        }
    );
    assert_eq!(Meter::get(&meter.slices), 2);
}

#[tokio::test]
async fn what_the_destination_rejects_is_counted() {
    let counter = Counter {
        rejects: 1,
        ..Counter::default()
    };
    let (mut writer, meter) = writer(&counter);
    let layout = Layout::new("", [], false);
    writer.page(&layout, PAGE, false).await.unwrap();
    writer.publish(to("6")).await.unwrap();
    assert_eq!(Meter::get(&meter.rejected), 2, "ours and theirs");
    assert_eq!(Meter::get(&meter.published), 2);
}

#[tokio::test]
async fn counts_that_do_not_add_up_are_an_error() {
    let layout = Layout::new("", [], false);
    let counter = Counter {
        off: 1,
        ..Counter::default()
    };
    let (mut off, _) = writer(&counter);
    off.page(&layout, PAGE, false).await.unwrap();
    let error = off.publish(to("6")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Destination);
    let text = error.to_string();
    for part in [
        "`items` in `counter`",
        "3 rows were staged",
        "2 were published",
    ] {
        assert!(text.contains(part), "{text}");
    }

    // Found before anything is published.
    let counter = Counter::default();
    let (mut lossy, _) = writer(&counter);
    lossy.page(&layout, PAGE, false).await.unwrap();
    lossy.tally.read += 1;
    let error = lossy.publish(to("6")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Destination);
    assert!(
        error.to_string().contains("nothing was published"),
        "{error}"
    );
    assert!(counter.published.lock().unwrap().is_empty());
}
