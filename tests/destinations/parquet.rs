//! Parquet files: the conformance suite, and what is their own.

use std::fs;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use drawoff::destination::files::FilesDestination;
use drawoff::destination::{BatchKind, Destination, Disposition};
use drawoff::error::ErrorKind;
use drawoff::schema::render::write_ndjson;
use drawoff::schema::{TableSchema, arrow_schema, column_type_of};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::cases::{expect, land, people, person, update, wide};
use super::{Place, conformance};
use crate::support::rows::{batch, full};

/// A folder of its own, and the memory that merges may take there.
pub struct Folder {
    folder: TempDir,
    merge_memory: usize,
}

impl Folder {
    pub fn new() -> Self {
        Self::with_merge_memory(1 << 20)
    }

    fn with_merge_memory(merge_memory: usize) -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            merge_memory,
        }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("rows")
    }

    fn files(&self, table: &str) -> Vec<PathBuf> {
        files(&self.path().join(table))
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

#[async_trait]
impl Place for Folder {
    async fn open(&self) -> Box<dyn Destination> {
        Box::new(
            FilesDestination::open(self.path())
                .unwrap()
                .merge_memory(self.merge_memory),
        )
    }

    async fn read(&self, table: &str, schema: &TableSchema) -> Option<Vec<Value>> {
        read(&self.path(), table, schema)
    }
}

/// What a reader finds who takes every file of the table's folder.
pub fn read(dir: &Path, table: &str, schema: &TableSchema) -> Option<Vec<Value>> {
    let dir = dir.join(table);
    if !dir.exists() {
        return None;
    }
    let mut text = Vec::new();
    for path in files(&dir) {
        assert_eq!(path.extension().unwrap(), "parquet");
        let file = fs::File::open(path).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        for batch in reader.build().unwrap() {
            write_ndjson(&batch.unwrap(), &mut text).unwrap();
        }
    }
    let rows = serde_json::Deserializer::from_slice(&text).into_iter::<Value>();
    Some(
        rows.map(|row| full(&schema.columns, &row.unwrap()))
            .collect(),
    )
}

conformance!(suite, Folder::new());

// With memory for 64 keys at a time, a merge of many rows takes many passes.
conformance!(suite_in_little_memory, Folder::with_merge_memory(1024));

#[tokio::test]
async fn files_keep_bigquery_types() {
    let place = Folder::new();
    let to = place.open().await;
    let table = wide();
    to.prepare(&table).await.unwrap();
    land(&*to, &table, "s", 0, &[&[person(1, "", 1)]])
        .await
        .unwrap();
    let file = fs::File::open(&place.files("wide")[0]).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    assert_eq!(
        reader.schema().fields(),
        arrow_schema(&table.schema).fields()
    );
    let field = reader.schema().field_with_name("n_json").unwrap();
    assert_eq!(
        column_type_of(field),
        Some(drawoff::schema::ColumnType::Json)
    );
}

#[tokio::test]
async fn a_merge_rewrites_only_the_files_it_must() {
    let place = Folder::new();
    let to = place.open().await;
    let table = people(Disposition::Merge);
    to.prepare(&table).await.unwrap();
    for n in 0..3 {
        let rows: Vec<_> = (0..10).map(|i| person(n * 10 + i, "old", 1)).collect();
        land(&*to, &table, &format!("s{n}"), n as u64, &[&rows])
            .await
            .unwrap();
    }
    let before = place.files("people");
    assert_eq!(before.len(), 3);
    land(&*to, &table, "s3", 3, &[&[person(15, "new", 1)]])
        .await
        .unwrap();
    let after = place.files("people");
    let same: Vec<_> = before.iter().filter(|f| after.contains(f)).collect();
    assert_eq!(same.len(), 2);
    // A file of which nothing is left is gone.
    let rows: Vec<_> = (0..30).map(|i| person(i, "newest", 1)).collect();
    land(&*to, &table, "s4", 4, &[&rows]).await.unwrap();
    assert_eq!(place.files("people").len(), 1);
    expect(&place, &table, &rows).await;
    assert_eq!(
        files(&place.path().join("_drawoff/staging")),
        [] as [PathBuf; 0]
    );
}

#[tokio::test]
async fn a_publish_that_broke_off_is_finished() {
    for by_publish in [false, true] {
        let place = Folder::new();
        let to = place.open().await;
        let table = people(Disposition::Merge);
        to.prepare(&table).await.unwrap();
        let (a, b) = (person(1, "a", 1), person(1, "b", 2));
        land(&*to, &table, "s0", 0, &[&[a]]).await.unwrap();
        let old = place.files("people").remove(0);
        let old_bytes = fs::read(&old).unwrap();
        land(&*to, &table, "s1", 1, &[std::slice::from_ref(&b)])
            .await
            .unwrap();

        // Back to the moment in which the manifest was there and nothing moved yet: as a process
        // leaves it that is killed then, its staging folder without an owner.
        let manifest: Value =
            serde_json::from_slice(&fs::read(place.path().join("_drawoff/manifest.json")).unwrap())
                .unwrap();
        let moves = manifest["pending"]["renames"].as_array().unwrap();
        assert_eq!(moves.len(), 1);
        let [from, to_] = [0, 1].map(|i| place.path().join(moves[0][i].as_str().unwrap()));
        fs::create_dir_all(from.parent().unwrap()).unwrap();
        fs::write(from.parent().unwrap().join("owner"), "").unwrap();
        fs::rename(&to_, &from).unwrap();
        fs::write(&old, old_bytes).unwrap();

        let to = place.open().await;
        if by_publish {
            let more = person(2, "c", 1);
            land(&*to, &table, "s2", 2, &[std::slice::from_ref(&more)])
                .await
                .unwrap();
            expect(&place, &table, &[b, more]).await;
        } else {
            to.prepare(&table).await.unwrap();
            expect(&place, &table, &[b]).await;
            assert!(!from.parent().unwrap().exists());
        }
        assert!(!old.exists());
    }
}

#[tokio::test]
async fn what_dead_runs_staged_is_removed_and_what_live_ones_did_is_not() {
    let place = Folder::new();
    let to = place.open().await;
    let table = people(Disposition::Append);
    to.prepare(&table).await.unwrap();
    let mut live = to.open(&table, "run", "live").await.unwrap();
    live.stage(BatchKind::Rows, batch(&table.schema, &[person(1, "a", 1)]))
        .await
        .unwrap();
    let staging = place.path().join("_drawoff/staging");
    let dead = staging.join("dead");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("owner"), "").unwrap();
    fs::write(dead.join("rows-0000.parquet"), "half").unwrap();
    fs::create_dir(staging.join("half-removed")).unwrap();
    place.open().await.prepare(&table).await.unwrap();
    assert_eq!(files(&staging).len(), 1);
    live.publish(&update(0, "run")).await.unwrap();
    assert_eq!(files(&staging).len(), 0);
    expect(&place, &table, &[person(1, "a", 1)]).await;
}

#[tokio::test]
async fn what_is_wrong_with_the_folder_is_said() {
    let place = Folder::new();
    assert_eq!(
        FilesDestination::open("").err().unwrap().kind(),
        ErrorKind::Config
    );
    fs::write(place.path(), "a file").unwrap();
    let error = FilesDestination::open(place.path()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Destination);
    assert!(error.find_hint().unwrap().contains("folder"), "{error:?}");
    fs::remove_file(place.path()).unwrap();

    let to = place.open().await;
    for name in ["", "../up", "a/b", "_drawoff", ".hidden"] {
        let mut table = people(Disposition::Append);
        table.name = name.into();
        let error = to.prepare(&table).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema, "{name}");
    }

    // A live file that somebody removed is missed by the merge that needs it.
    let table = people(Disposition::Merge);
    to.prepare(&table).await.unwrap();
    land(&*to, &table, "s0", 0, &[&[person(1, "a", 1)]])
        .await
        .unwrap();
    fs::remove_file(&place.files("people")[0]).unwrap();
    let error = land(&*to, &table, "s1", 1, &[&[person(1, "b", 1)]])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Destination);
    assert!(error.chain().contains("people/part-"), "{error:?}");
    assert!(error.find_hint().unwrap().contains("put them back"));

    // A manifest of a later format, and one that is broken.
    let manifest = place.path().join("_drawoff/manifest.json");
    fs::write(&manifest, json!({"format": 99, "new": {}}).to_string()).unwrap();
    let error = to.checkpoints("src").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State);
    assert!(error.find_hint().unwrap().contains("newer drawoff"));
    fs::write(&manifest, "{").unwrap();
    assert_eq!(
        to.checkpoints("src").await.unwrap_err().kind(),
        ErrorKind::State
    );
}

#[tokio::test]
async fn history_is_refused_before_anything_is_made() {
    let place = Folder::new();
    let table = super::changes::historic();
    let error = place.open().await.prepare(&table).await.unwrap_err();
    assert_eq!(error.kind(), drawoff::error::ErrorKind::Config);
    assert!(error.to_string().contains("`disposition: scd2`"), "{error}");
    assert!(place.read(&table.name, &table.schema).await.is_none());
}
