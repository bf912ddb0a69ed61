//! `soft_delete` and `scd2` through the program itself: what a run that lists everything says of rows that it
//! does not list, and what a run that does not must never say.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::binary::Bench;
use crate::support::emulator::{Emulator, PROJECT};
use crate::support::fake_api::{FakeApi, Received, Reply};
use crate::support::shop::{COLUMNS, Shelf, connector, item};
use crate::support::tables::{Row, numbers, parquet, sqlite};

/// The shop with one stream; from its second page on it may fail.
struct Shop {
    shelf: Shelf,
    fails: Arc<AtomicBool>,
    bench: Bench,
    _api: FakeApi,
}

async fn shop(count: i64, stream: &str) -> Shop {
    let (shelf, fails) = (Shelf::of(count), Arc::new(AtomicBool::new(false)));
    let (served, failing) = (shelf.clone(), fails.clone());
    let api = FakeApi::start(move |request| {
        let page = request.number_param("page").unwrap_or(1);
        match failing.load(Ordering::SeqCst) && page > 1 {
            true => Reply::status(404),
            false => served.serve(request),
        }
    })
    .await;
    let bench = Bench::with("shop", &connector(&api.url(), &[stream]));
    bench.schema("shop", "items", &COLUMNS);
    Shop {
        shelf,
        fails,
        bench,
        _api: api,
    }
}

const RUN: [&str; 2] = ["--source", "shop"];
const FULL: [&str; 3] = ["--source", "shop", "--full-refresh"];

fn items(bench: &Bench) -> Vec<Row> {
    sqlite(&bench.path("drawoff.db"), "items")
}

/// Ids of the rows whose column is set.
fn with(rows: &[Row], column: &str) -> Vec<i64> {
    let set = rows.iter().filter(|r| !r[column].is_null());
    let mut ids: Vec<i64> = set.map(|r| r["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_whole_listing_marks_what_it_lacks() {
    let stream = "items: {table: {soft_delete: true}}";
    let Shop {
        shelf,
        fails,
        bench,
        _api,
    } = shop(25, stream).await;
    // A field of the engine's name is not taken for its mark.
    shelf.change(|rows| rows[4]["_deleted_at"] = json!("2020-01-01T00:00:00Z"));
    bench.run(&RUN).await.exits(0);
    assert_eq!(items(&bench).len(), 25);
    assert!(with(&items(&bench), "_deleted_at").is_empty());

    // A run that fails, and one that reads nothing, mark nothing.
    let all = shelf.rows();
    shelf.change(|rows| rows.retain(|r| r["id"] != 7 && r["id"] != 23));
    fails.store(true, Ordering::SeqCst);
    bench.run(&RUN).await.exits(1);
    assert!(with(&items(&bench), "_deleted_at").is_empty());
    fails.store(false, Ordering::SeqCst);
    shelf.change(Vec::clear);
    bench
        .run(&RUN)
        .await
        .exits(0)
        .complains("allow_empty_replace");
    assert!(with(&items(&bench), "_deleted_at").is_empty());
    // Nor does one with a record that does not fit: it may be one of those that lack.
    shelf.change(|rows| {
        *rows = all.clone();
        rows.retain(|r| r["id"] != 7);
        rows[20]["id"] = json!("no number");
    });
    bench.run(&RUN).await.complains("keep their state");
    assert!(with(&items(&bench), "_deleted_at").is_empty());

    shelf.change(|rows| {
        *rows = all.clone();
        rows.retain(|r| r["id"] != 7 && r["id"] != 23);
        rows[0]["name"] = json!("renamed");
    });
    bench.run(&RUN).await.exits(0);
    let rows = items(&bench);
    assert_eq!(with(&rows, "_deleted_at"), [7, 23]);
    assert_eq!(rows.len(), 25);
    assert!(rows.iter().any(|r| r["name"] == "renamed"));

    // What is listed again is there again.
    shelf.change(|rows| *rows = all);
    bench.run(&RUN).await.exits(0);
    assert!(with(&items(&bench), "_deleted_at").is_empty());
}

#[tokio::test]
async fn without_soft_delete_a_row_that_is_listed_again_has_no_mark() {
    let Shop {
        shelf, bench, _api, ..
    } = shop(4, "items: {table: {soft_delete: true}}").await;
    let folder = format!("parquet:{}", bench.path("lake").display());
    let to_files = [RUN[0], RUN[1], "--destination", &folder];
    let both = async || {
        bench.run(&RUN).await.exits(0);
        bench.run(&to_files).await.exits(0);
    };
    both().await;
    let all = shelf.rows();
    shelf.change(|rows| rows.truncate(2));
    both().await;
    assert_eq!(with(&items(&bench), "_deleted_at"), [3, 4]);

    bench.connector("shop", &connector(&_api.url(), &["items:"]));
    shelf.change(|rows| *rows = all[..3].to_vec());
    both().await;
    assert_eq!(with(&items(&bench), "_deleted_at"), [4]);
    let files = parquet(&bench.path("lake"), "items");
    assert_eq!(with(&files, "_deleted_at"), [4]);
    assert_eq!(files.len(), 4);
}

#[tokio::test]
async fn an_incremental_stream_marks_in_a_full_refresh_only() {
    let stream = "items: {incremental: {cursor: updated_at, since_param: since, sorted: true}, \
                  table: {soft_delete: true, allow_empty_replace: true}}";
    let Shop {
        shelf,
        fails,
        bench,
        _api,
    } = shop(25, stream).await;
    // Small slices: a whole listing is published as one all the same.
    let bench = bench.env("DRAWOFF_SLICE_ROWS", "5");
    bench.run(&RUN).await.exits(0);
    shelf.change(|rows| {
        rows.retain(|r| r["id"] != 3);
        rows.push(item(26, 500));
    });
    bench.run(&RUN).await.exits(0);
    assert!(with(&items(&bench), "_deleted_at").is_empty());
    fails.store(true, Ordering::SeqCst);
    bench.run(&FULL).await.exits(1);
    assert!(with(&items(&bench), "_deleted_at").is_empty());
    fails.store(false, Ordering::SeqCst);
    bench.run(&FULL).await.exits(0);
    assert_eq!(with(&items(&bench), "_deleted_at"), [3]);
    assert_eq!(items(&bench).len(), 26);
    // A plain run goes on from there.
    shelf.change(|rows| rows.push(item(27, 600)));
    bench.run(&RUN).await.exits(0);
    assert_eq!(items(&bench).len(), 27);
    assert_eq!(with(&items(&bench), "_deleted_at"), [3]);
    // Told that empty is right, nothing is what there is.
    shelf.change(Vec::clear);
    bench.run(&FULL).await.exits(0);
    assert_eq!(with(&items(&bench), "_deleted_at").len(), 27);
}

/// `name` of each version of an item, oldest first, and whether it has ended.
fn versions(bench: &Bench, id: i64) -> Vec<(String, bool)> {
    let mut rows = items(bench);
    rows.retain(|r| r["id"] == id);
    rows.sort_by_key(|r| r["_valid_from"].to_string());
    for pair in rows.windows(2) {
        let (end, next) = (&pair[0]["_valid_to"], &pair[1]["_valid_from"]);
        assert!(end.as_str() <= next.as_str() && !end.is_null(), "{rows:?}");
    }
    rows.iter()
        .map(|r| {
            let name = r["name"].as_str().unwrap().to_owned();
            (name, !r["_valid_to"].is_null())
        })
        .collect()
}

fn shown(versions: &[(&str, bool)]) -> Vec<(String, bool)> {
    versions.iter().map(|(n, e)| ((*n).into(), *e)).collect()
}

#[tokio::test]
async fn history_is_kept_by_every_run() {
    let stream = "items: {incremental: {cursor: updated_at, since_param: since, lookback: 1h}, \
                  table: {disposition: scd2}}";
    let Shop {
        shelf,
        fails,
        bench,
        _api,
    } = shop(12, stream).await;
    bench.run(&RUN).await.exits(0);
    let again = bench.run(&RUN).await.exits(0);
    again.says("12 rows that made no new version");
    assert_eq!(items(&bench).len(), 12);

    shelf.change(|rows| {
        rows[1]["name"] = json!("renamed");
        rows[1]["updated_at"] = json!("2026-01-01T00:30:00Z");
        rows[2]["name"] = json!("renamed in silence");
        rows[2]["updated_at"] = json!("2025-01-01T00:00:00Z");
        rows.retain(|r| r["id"] != 5);
    });
    bench.run(&RUN).await.exits(0);
    let renamed = shown(&[("item 2", true), ("renamed", false)]);
    assert_eq!(versions(&bench, 2), renamed);
    assert_eq!(versions(&bench, 3), shown(&[("item 3", false)]));
    assert_eq!(items(&bench).len(), 13);

    // A full refresh that fails says nothing; one that does not finds what changed and what is gone.
    fails.store(true, Ordering::SeqCst);
    bench.run(&FULL).await.exits(1);
    assert_eq!(items(&bench).len(), 13);
    fails.store(false, Ordering::SeqCst);
    bench.run(&FULL).await.exits(0);
    assert_eq!(versions(&bench, 2), renamed);
    assert_eq!(
        versions(&bench, 3),
        shown(&[("item 3", true), ("renamed in silence", false)])
    );
    assert_eq!(versions(&bench, 5), shown(&[("item 5", true)]));
    assert_eq!(items(&bench).len(), 14);
    bench.run(&FULL).await.exits(0);
    assert_eq!(items(&bench).len(), 14);

    // A column that is new and null makes no version, and one that is filled does.
    let mut columns = COLUMNS.to_vec();
    columns.insert(1, "colour STRING");
    bench.schema("shop", "items", &columns);
    shelf.change(|rows| rows[0]["colour"] = json!("red"));
    bench.run(&FULL).await.exits(0);
    assert_eq!(items(&bench).len(), 15);
    assert_eq!(
        versions(&bench, 1),
        shown(&[("item 1", true), ("item 1", false)])
    );
}

#[tokio::test]
async fn history_shows_one_listing_or_the_next_as_of_any_time() {
    let Shop {
        shelf, bench, _api, ..
    } = shop(25, "items: {table: {disposition: scd2}}").await;
    let listed = || -> BTreeSet<String> {
        let rows = shelf.rows();
        rows.iter()
            .map(|r| r["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let mut listings = vec![BTreeSet::new(), listed()];
    bench.run(&RUN).await.exits(0);
    // On each of three pages something changes; something is gone, and something is new at the end.
    shelf.change(|rows| {
        for at in [0, 12, 23] {
            rows[at]["name"] = json!(format!("renamed {at}"));
        }
        rows.retain(|r| r["id"] != 5);
        rows.push(item(26, 500));
    });
    listings.push(listed());
    bench.run(&RUN).await.exits(0);

    let rows = items(&bench);
    let text = |row: &Row, column: &str| row[column].as_str().unwrap_or("~").to_owned();
    let times: BTreeSet<String> = rows
        .iter()
        .flat_map(|r| {
            [
                text(r, "_valid_from"),
                text(r, "_valid_to"),
                text(r, "_extracted_at"),
            ]
        })
        .collect();
    let mut seen: Vec<BTreeSet<String>> = Vec::new();
    for time in times.iter().filter(|t| *t != "~") {
        let holds = |r: &&Row| text(r, "_valid_from") <= *time && *time < text(r, "_valid_to");
        let shown = rows.iter().filter(holds).map(|r| text(r, "name")).collect();
        if seen.last() != Some(&shown) {
            seen.push(shown);
        }
    }
    assert_eq!(seen, listings);
    // It is the time at which the last page was received.
    let last = rows.iter().find(|r| r["id"] == 26).unwrap();
    assert_eq!(last["_valid_from"], last["_extracted_at"]);
    let gone = rows.iter().find(|r| r["id"] == 5).unwrap();
    assert_eq!(gone["_valid_to"], last["_extracted_at"]);
}

#[tokio::test]
async fn a_table_with_history_is_not_merged_into() {
    let stream = "items: {table: {disposition: scd2}}";
    let Shop {
        shelf, bench, _api, ..
    } = shop(3, stream).await;
    bench.run(&RUN).await.exits(0);
    shelf.change(|rows| rows[0]["name"] = json!("renamed"));
    bench.run(&RUN).await.exits(0);
    let before = items(&bench);
    assert_eq!(before.len(), 4);

    shelf.change(|rows| rows[0]["name"] = json!("renamed again"));
    for other in [
        "items:",
        "items: {table: {soft_delete: true}}",
        "items: {primary_key: [], table: {disposition: replace}}",
        "items: {primary_key: [], incremental: {cursor: updated_at, since_param: since}}",
    ] {
        bench.connector("shop", &connector(&_api.url(), &[other]));
        for more in [None, Some("--full-refresh"), Some("--dry-run")] {
            let args: Vec<&str> = RUN.into_iter().chain(more).collect();
            bench
                .run(&args)
                .await
                .exits(1)
                .says("table `items` keeps history")
                .says("disposition: scd2");
        }
        assert_eq!(items(&bench), before, "{other}");
    }
    // History goes on where it was, and so does a stream that has another table.
    bench.connector("shop", &connector(&_api.url(), &[stream]));
    bench.run(&RUN).await.exits(0);
    assert_eq!(
        versions(&bench, 1),
        shown(&[
            ("item 1", true),
            ("renamed", true),
            ("renamed again", false)
        ])
    );
    let other = "items: {table: {name: present}}";
    bench.connector("shop", &connector(&_api.url(), &[other]));
    bench.run(&RUN).await.exits(0);
    assert_eq!(sqlite(&bench.path("drawoff.db"), "present").len(), 3);

    // And who gives the history up as the error says is left with what is current.
    rusqlite::Connection::open(bench.path("drawoff.db"))
        .unwrap()
        .execute_batch(
            "DELETE FROM items WHERE _valid_to IS NOT NULL;
             DROP INDEX items__key;
             ALTER TABLE items DROP COLUMN _valid_from;
             ALTER TABLE items DROP COLUMN _valid_to;
             ALTER TABLE items DROP COLUMN _row_hash;",
        )
        .unwrap();
    shelf.change(|rows| rows[1]["name"] = json!("renamed"));
    bench.connector("shop", &connector(&_api.url(), &["items:"]));
    bench.run(&RUN).await.exits(0);
    let names: Vec<Value> = items(&bench).iter().map(|r| r["name"].clone()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.contains(&json!("renamed")) && names.contains(&json!("renamed again")));
}

/// Streams of which a run lists everything, with what such a run is told beside the source.
const WHOLE: [(&str, &[&str]); 4] = [
    (
        "primary_key: [], table: {disposition: replace, allow_empty_replace: true, max_rejects: 12}",
        &[],
    ),
    (
        "table: {soft_delete: true, allow_empty_replace: true, max_rejects: 12}",
        &[],
    ),
    (
        "table: {disposition: scd2, allow_empty_replace: true, max_rejects: 12}",
        &[],
    ),
    (
        "primary_key: [], incremental: {cursor: updated_at, since_param: since}, \
         table: {allow_empty_replace: true, max_rejects: 12}",
        &["--full-refresh"],
    ),
];

#[tokio::test]
async fn a_listing_of_which_nothing_fits_leaves_the_rows_alone() {
    for (to, (stream, more)) in ["sqlite:drawoff.db", "parquet:out"]
        .into_iter()
        .flat_map(|to| WHOLE.map(|whole| (to, whole)))
        .filter(|(to, (stream, _))| *to != "parquet:out" || !stream.contains("scd2"))
    {
        let Shop {
            shelf, bench, _api, ..
        } = shop(12, &format!("items: {{{stream}}}")).await;
        let plain = ["--source", "shop", "--destination", to];
        let whole = [&plain[..], more].concat();
        let read = |table: &str| match to {
            "parquet:out" => parquet(&bench.path("out"), table),
            _ => sqlite(&bench.path("drawoff.db"), table),
        };
        let last_run = || -> Row {
            if to != "parquet:out" {
                let mut runs = read("_drawoff_runs");
                runs.sort_by_key(|r| r["ended_at"].to_string());
                return runs.pop().unwrap();
            }
            let runs = std::fs::read_to_string(bench.path("out/_drawoff/runs.ndjson")).unwrap();
            serde_json::from_str(runs.lines().last().unwrap()).unwrap()
        };
        let ran = bench.run(&whole).await.exits(0);
        let (all, rows) = (shelf.rows(), read("items"));
        assert_eq!(rows.len(), 12, "{to} {stream}: {ran}");
        let cursor = last_run()["cursor_after"].clone();

        shelf.change(|rows| rows.iter_mut().for_each(|r| r["price"] = json!("a lot")));
        bench
            .run(&whole)
            .await
            .exits(0)
            .complains("none of the records fits table `items`, so its rows stay as they are")
            .says("12 records did not fit the table")
            .says("none did, so its rows stay as they were");
        assert_eq!(read("items"), rows, "{to} {stream}");
        assert_eq!(read("items__rejects").len(), 12, "{to} {stream}");
        let run = last_run();
        assert_eq!(run["outcome"], "done");
        assert_eq!(
            (&run["records"], &run["rejected"]),
            (&json!(12), &json!(12))
        );
        assert_eq!(
            (&run["published"], &run["deduplicated"]),
            (&json!(0), &json!(0))
        );
        assert_eq!(run["cursor_after"], cursor, "{to} {stream}");

        // One more than the stream allows.
        shelf.change(|rows| {
            rows.push(item(13, 13));
            rows[12]["price"] = json!("more");
        });
        bench
            .run(&whole)
            .await
            .exits(1)
            .says("13 records did not fit the table, more than the 12 allowed; none did");
        assert_eq!(read("items"), rows, "{to} {stream}");
        assert_eq!(read("items__rejects").len(), 25, "{to} {stream}");
        assert_eq!(last_run()["outcome"], "too_many_rejects");

        // A run of the usual kind goes on as if the two had not been.
        shelf.change(|rows| *rows = all);
        bench.run(&plain).await.exits(0);
        let kept = read("items");
        let ids = |rows: &[Row]| numbers(rows, "id");
        assert_eq!(ids(&kept), ids(&rows), "{to} {stream}");
    }
}

#[tokio::test]
async fn a_listing_of_which_nothing_fits_leaves_the_rows_alone_in_bigquery() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("nothing_fits");
    let Shop {
        shelf, bench, _api, ..
    } = shop(12, "items:").await;
    let streams = [
        "items: {primary_key: [], table: {disposition: replace, allow_empty_replace: true}}",
        "marked: {path: /items, table: {soft_delete: true, allow_empty_replace: true}}",
    ];
    bench.connector("shop", &connector(&_api.url(), &streams));
    bench.schema("shop", "marked", &COLUMNS);
    let bench = bench.bigquery(emulator.rest(), emulator.grpc());
    let to = format!("bigquery:{PROJECT}.{dataset}");
    let args = ["--source", "shop", "--destination", &to];
    bench.run(&args).await.exits(0);
    shelf.change(|rows| rows.iter_mut().for_each(|r| r["price"] = json!("a lot")));
    bench
        .run(&args)
        .await
        .exits(0)
        .complains("none of the records fits table `items`, so its rows stay as they are")
        .says("none did, so its rows stay as they were");
    let counted = emulator.query(&format!(
        "SELECT (SELECT COUNT(*) FROM {dataset}.items) AS items, \
         (SELECT COUNT(*) FROM {dataset}.items__rejects) AS items_rejected, \
         (SELECT COUNTIF(_deleted_at IS NULL) FROM {dataset}.marked) AS marked, \
         (SELECT COUNT(*) FROM {dataset}.marked__rejects) AS marked_rejected"
    ));
    let all = json!({"items": 12, "items_rejected": 12, "marked": 12, "marked_rejected": 12});
    assert_eq!(counted, json!([all]));
    let loads = emulator.query(&format!(
        "SELECT stream, disposition, records, published, rejected FROM {dataset}._drawoff_loads \
         WHERE version = 2 ORDER BY stream"
    ));
    let load = |stream: &str, disposition: &str| json!({"stream": stream, "disposition": disposition, "records": 12, "published": 0, "rejected": 12});
    assert_eq!(
        loads,
        json!([load("items", "replace"), load("marked", "merge")])
    );
}

/// How the listing of parents goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gap {
    None,
    /// More records are announced than served.
    Announced,
    /// The total shrinks between two pages.
    Slipped,
    /// None: there is one record less.
    Gone,
}

/// Two shops of two shelves of two items, one on a page; in the lists `broken` the second is missing.
fn nested(request: &Received, gap: Gap, broken: &str) -> Reply {
    let path: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    let (list, from) = match path[..] {
        ["shops"] => ("shops", 0),
        ["shops", shop, "shelves"] => ("shelves", shop.parse::<i64>().unwrap() * 10),
        ["shelves", shelf, "items"] => ("items", shelf.parse::<i64>().unwrap() * 10),
        _ => return Reply::status(404),
    };
    let all: Vec<Value> = (1..=2).map(|n| item(from + n, n)).collect();
    let page = request.number_param("page").unwrap_or(1);
    let gap = match list == broken {
        true => gap,
        false => Gap::None,
    };
    let data = match gap {
        Gap::Announced | Gap::Slipped | Gap::Gone if page > 1 => &[],
        _ => all.get(page - 1..page).unwrap_or_default(),
    };
    let total = match gap {
        Gap::Slipped if page > 1 => 1,
        Gap::Gone => 1,
        _ => 2,
    };
    Reply::json(&json!({"data": data, "total": total}))
}

#[tokio::test]
async fn children_of_parents_that_were_not_listed_keep_their_state() {
    let gap = Arc::new(Mutex::new((Gap::None, "")));
    let asked = gap.clone();
    let api = FakeApi::start(move |request| {
        let (gap, broken) = *asked.lock().unwrap();
        nested(request, gap, broken)
    })
    .await;
    for table in ["soft_delete: true", "disposition: scd2"] {
        let mark = match table {
            "soft_delete: true" => "_deleted_at",
            _ => "_valid_to",
        };
        let items =
            format!("items: {{path: \"/shelves/{{shelves.id}}/items\", table: {{{table}}}}}");
        let shelves = "shelves: {path: \"/shops/{shops.id}/shelves\"}";
        let yaml = connector(&api.url(), &["shops:", shelves, &items])
            .replace("size: 10", "size: 1, total: /total");
        let bench = Bench::with("shop", &yaml);
        bench.schema("shop", "items", &COLUMNS);
        let run = ["--source", "shop", "--stream", "items"];
        bench.run(&run).await.exits(0);
        assert_eq!(self::items(&bench).len(), 8);
        for how in [Gap::Announced, Gap::Slipped] {
            for level in ["shops", "shelves", "items"] {
                *gap.lock().unwrap() = (how, level);
                let ran = bench.run(&run).await.exits(0).complains("keep their state");
                assert_eq!(
                    with(&self::items(&bench), mark),
                    [0; 0],
                    "{how:?} {level}: {ran}"
                );
            }
        }
        // In a listing that is whole, parents that are not there are gone, and their rows with them.
        *gap.lock().unwrap() = (Gap::Gone, "shelves");
        bench.run(&run).await.exits(0);
        assert_eq!(with(&self::items(&bench), mark), [121, 122, 221, 222]);
        *gap.lock().unwrap() = (Gap::None, "");
    }
}

#[tokio::test]
async fn a_table_that_gets_columns_makes_no_versions() {
    let Shop {
        shelf, bench, _api, ..
    } = shop(12, "items: {table: {disposition: scd2, contract: evolve}}").await;
    shelf.change(|rows| {
        rows[8]["colour"] = json!("red");
        rows[9]["weight"] = json!(1.50);
        rows[10]["seen"] = json!("2026-01-01T00:00:00Z");
        rows[11]["box"] = json!({"w": 1, "sides": [1, 2]});
    });
    bench
        .run(&FULL)
        .await
        .exits(0)
        .says("added column `colour` STRING to `items`");
    let in_extra = with(&items(&bench), "_extra");
    assert_eq!(in_extra, [9, 10, 11, 12]);
    assert_eq!(items(&bench).len(), 12);

    // Now each has its column, and the others have nulls in them.
    bench.run(&RUN).await.exits(0);
    bench.run(&FULL).await.exits(0);
    assert_eq!(items(&bench).len(), 12);
    assert!(with(&items(&bench), "_valid_to").is_empty());

    shelf.change(|rows| {
        rows[8]["colour"] = json!("blue");
        rows[11]["box"]["sides"] = json!([1, 3]);
    });
    bench.run(&RUN).await.exits(0);
    let rows = items(&bench);
    assert_eq!(rows.len(), 14);
    assert_eq!(with(&rows, "_valid_to"), [9, 12]);
    assert_eq!(with(&rows, "colour"), [9]);
}

#[tokio::test]
async fn parquet_says_that_it_keeps_no_history() {
    let shop = shop(3, "items: {table: {disposition: scd2}}").await;
    let args = ["--source", "shop", "--destination", "parquet:out"];
    let ran = shop.bench.run(&args).await;
    ran.exits(2).says("`disposition: scd2`");
    assert!(!Path::new(&shop.bench.path("out/items")).exists());
}

#[tokio::test]
async fn replacing_keeps_the_table_and_never_empties_it_unasked() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("replaced");
    let stream = |more: &str| {
        format!(
            "items: {{description: \"What there is.\", primary_key: [], table: {{disposition: replace, partition_by: updated_at, cluster_by: [name]{more}}}}}"
        )
    };
    let Shop {
        shelf, bench, _api, ..
    } = shop(12, &stream("")).await;
    let bench = bench.bigquery(emulator.rest(), emulator.grpc());
    let to = format!("bigquery:{PROJECT}.{dataset}");
    let args = ["--source", "shop", "--destination", &to];
    let count = format!("SELECT COUNT(*) AS n, MAX(id) AS last FROM `{PROJECT}.{dataset}.items`");
    bench.run(&args).await.exits(0);
    let made = emulator.table(&format!("{dataset}.items"));
    shelf.change(|rows| *rows = vec![item(1, 1), item(99, 2)]);
    bench.run(&args).await.exits(0);
    assert_eq!(emulator.query(&count), json!([{"n": 2, "last": 99}]));
    let kept = emulator.table(&format!("{dataset}.items"));
    assert_eq!(made, kept);
    assert!(kept.to_string().contains("What there is."), "{kept}");

    shelf.change(Vec::clear);
    bench
        .run(&args)
        .await
        .exits(0)
        .complains("allow_empty_replace");
    assert_eq!(emulator.query(&count), json!([{"n": 2, "last": 99}]));
    bench.connector(
        "shop",
        &connector(&_api.url(), &[&stream(", allow_empty_replace: true")]),
    );
    bench.run(&args).await.exits(0);
    let empty: Value = json!([{"n": 0, "last": null}]);
    assert_eq!(emulator.query(&count), empty);
}
