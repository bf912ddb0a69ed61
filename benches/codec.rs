//! JSON → batch, and batch → each encoder: CPU time a row, in one thread.
//!
//! `cargo bench --bench codec`

#![allow(clippy::expect_used, clippy::print_stdout)]

#[allow(dead_code)]
mod rows;

use arrow_array::RecordBatch;
use drawoff::destination::files::FilesDestination;
use drawoff::destination::sqlite::SqliteDestination;
use drawoff::destination::{BatchKind, Destination, TableSpec};
use drawoff::schema::decode::Decoder;
use drawoff::schema::render::write_ndjson;
use drawoff::source::records::Layout;
use drawoff::state::{Checkpoint, CheckpointKey, CheckpointUpdate, SliceFacts};

const PAGES: u64 = 200;
const PAGE_ROWS: u64 = 1_000;

fn main() {
    let records: Vec<rows::Record> = (0..PAGES * PAGE_ROWS).map(rows::Record::new).collect();
    let pages: Vec<String> = (0..PAGES)
        .map(|p| rows::page(&records, p * PAGE_ROWS..(p + 1) * PAGE_ROWS))
        .collect();
    let bytes: usize = pages.iter().map(String::len).sum();
    let count = PAGES * PAGE_ROWS;
    println!(
        "{count} rows, {} bytes of JSON a row\n",
        bytes as u64 / count
    );

    let mut batches = Vec::new();
    report("JSON → nothing (jiter skips)", count, bytes, || {
        for page in &pages {
            jiter::Jiter::new(page.as_bytes())
                .next_skip()
                .expect("the page is JSON");
        }
    });
    report("JSON → batch", count, bytes, || batches = decode(&pages));
    report("batch → NDJSON", count, bytes, || {
        let mut out = Vec::with_capacity(1 << 20);
        for batch in &batches {
            out.clear();
            write_ndjson(batch, &mut out).expect("rows are written");
        }
    });
    report(
        "batch → Arrow IPC (Storage Write rows)",
        count,
        bytes,
        || {
            for batch in &batches {
                let mut out = Vec::with_capacity(4 << 20);
                let mut writer =
                    arrow_ipc::writer::StreamWriter::try_new(&mut out, &batch.schema())
                        .expect("a writer");
                writer.write(batch).expect("a batch is written");
            }
        },
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let dir = tempfile::tempdir().expect("a folder");
    let parquet = FilesDestination::open(dir.path().join("files")).expect("a folder");
    report("batch → Parquet, published", count, bytes, || {
        runtime.block_on(land(&parquet, &batches))
    });
    let sqlite = SqliteDestination::open(dir.path().join("rows.db")).expect("a database");
    report("batch → SQLite, published", count, bytes, || {
        runtime.block_on(land(&sqlite, &batches))
    });
}

fn report(what: &str, rows: u64, bytes: usize, mut work: impl FnMut()) {
    let (before, _) = rows::usage(false);
    let begun = std::time::Instant::now();
    work();
    let (wall, (after, _)) = (begun.elapsed().as_secs_f64(), rows::usage(false));
    let cpu = after - before;
    println!(
        "{what:42} {:6.3} µs/row CPU {:6.3} µs/row wall {:10.0} rows/CPU-s {:6.0} MB/s",
        cpu * 1e6 / rows as f64,
        wall * 1e6 / rows as f64,
        rows as f64 / cpu,
        bytes as f64 / 1e6 / cpu
    );
}

fn decode(pages: &[String]) -> Vec<RecordBatch> {
    let mut decoder = Decoder::new(&rows::schema());
    let layout = Layout::new("", [], false);
    let mut batches = Vec::new();
    for page in pages {
        layout
            .walk(page.as_bytes(), &mut decoder)
            .expect("the page is right");
        if decoder.bytes() > 2 << 20 {
            batches.extend(decoder.take().expect("a batch"));
        }
    }
    batches.extend(decoder.take().expect("a batch"));
    assert!(decoder.take_rejects().is_empty(), "all records fit");
    batches
}

async fn land(destination: &dyn Destination, batches: &[RecordBatch]) {
    let table = TableSpec {
        name: "rows".into(),
        schema: rows::schema(),
        ..TableSpec::default()
    };
    destination.prepare(&table).await.expect("a table");
    let mut slice = destination
        .open(&table, "bench", "0001")
        .await
        .expect("a slice");
    for batch in batches {
        slice
            .stage(BatchKind::Rows, batch.clone())
            .await
            .expect("staged");
    }
    let update = CheckpointUpdate {
        key: CheckpointKey {
            source: "bench".into(),
            stream: "rows".into(),
        },
        checkpoint: Checkpoint::default(),
        expected_version: 0,
        run_id: "bench".into(),
        lease: "bench".into(),
        facts: SliceFacts::default(),
    };
    slice.publish(&update).await.expect("published");
}
