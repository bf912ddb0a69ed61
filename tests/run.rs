//! `drawoff --source X`: what a run stores, what it leaves alone, and how it ends.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::binary::Bench;
use crate::support::fake_api::{FakeApi, Reply};
use crate::support::shop::{COLUMNS, Shelf, connector, item, rows, time};
use crate::support::tables::{Row, content, numbers, parquet, sqlite};

const DEMO: [&str; 4] = ["companies", "contacts", "tickets", "invoices"];

/// The shop's list `items`, incremental and sorted.
const ITEMS: &str = "items: {incremental: {cursor: updated_at, since_param: since, until_param: until, sorted: true}}";

fn assert_no_duplicates(rows: &[Row], what: &str) {
    let ids: BTreeSet<String> = rows.iter().map(|r| r["id"].to_string()).collect();
    assert_eq!(ids.len(), rows.len(), "{what} has duplicates");
}

/// Rows of a stream in the summary: the third number of its line.
fn rows_of(summary: &str, stream: &str) -> usize {
    let line = summary
        .lines()
        .find(|l| l.split_whitespace().nth(1) == Some(stream))
        .unwrap_or_else(|| panic!("no line for {stream} in\n{summary}"));
    let rows = line.split_whitespace().nth(3).unwrap();
    rows.replace([',', '\u{202f}', ' '], "").parse().unwrap()
}

/// The rows that a run brought.
fn brought(table: &[Row], after: &BTreeSet<String>) -> Vec<Row> {
    let new = |r: &&Row| !after.contains(r["_run_id"].as_str().unwrap());
    table.iter().filter(new).cloned().collect()
}

fn runs(table: &[Row]) -> BTreeSet<String> {
    let ids = table.iter().map(|r| r["_run_id"].as_str().unwrap());
    ids.map(str::to_owned).collect()
}

/// The lower bound of the first request after so many.
fn first_since(api: &FakeApi, before: usize) -> String {
    let first = api.requests().swap_remove(before);
    first.param("since").unwrap_or_default()
}

async fn shop(shelf: &Shelf) -> (FakeApi, Bench) {
    let served = shelf.clone();
    let api = FakeApi::start(move |request| served.serve(request)).await;
    let bench = Bench::with("shop", &connector(&api.url(), &[ITEMS]));
    bench.schema("shop", "items", &COLUMNS);
    (api, bench)
}

#[tokio::test]
async fn the_demo_twice() {
    let bench = Bench::new();
    let first = bench.run(&["--source", "demo"]).await.exits(0);
    let db = bench.path("drawoff.db");
    let before: Vec<Vec<Row>> = DEMO.iter().map(|t| sqlite(&db, t)).collect();
    for (stream, table) in DEMO.iter().zip(&before) {
        assert_no_duplicates(table, stream);
        assert_eq!(rows_of(&first.stdout, stream), table.len(), "{first}");
        assert!(table.len() > 50, "{stream}: {}", table.len());
        assert!(sqlite(&db, &format!("{stream}__rejects")).is_empty());
    }
    assert!(before[2].len() >= 5_000);
    assert!(first.stdout.contains("next: "), "{first}");

    let second = bench.run(&["--source", "demo"]).await.exits(0);
    for (stream, old) in DEMO.iter().zip(&before) {
        let table = sqlite(&db, stream);
        assert_no_duplicates(&table, stream);
        assert!(
            table.len() >= old.len() && table.len() <= old.len() + 5,
            "{stream}"
        );
        let new = brought(&table, &runs(old));
        assert_eq!(new.len(), rows_of(&second.stdout, stream), "{second}");
    }
    // Nothing but what changed in the seconds between.
    for stream in ["tickets", "invoices"] {
        assert!(rows_of(&second.stdout, stream) < 100, "{second}");
    }
}

#[tokio::test]
async fn the_demo_into_files_and_a_database() {
    let bench = Bench::new();
    let (files, database) = tokio::join!(
        bench.run(&["--source", "demo", "--destination", "parquet:out"]),
        bench.run(&[
            "--source",
            "demo",
            "--until",
            "2030-01-01",
            "--destination",
            "sqlite:rows.db"
        ]),
    );
    files.exits(0);
    database.exits(0);
    for stream in DEMO {
        let from_files = content(parquet(&bench.path("out"), stream));
        let from_database = content(sqlite(&bench.path("rows.db"), stream));
        // Some records may have changed between the two runs.
        let plain = |rows: Vec<Row>| -> BTreeSet<String> {
            rows.into_iter()
                .map(|row| {
                    let cells = row.into_iter().map(|(name, value)| match value {
                        Value::Bool(yes) => (name, json!(i64::from(yes))),
                        nested @ (Value::Array(_) | Value::Object(_)) => {
                            (name, json!(nested.to_string()))
                        }
                        Value::String(text) if text.starts_with(['{', '[']) => {
                            let nested: Value = serde_json::from_str(&text).unwrap();
                            (name, json!(nested.to_string()))
                        }
                        other => (name, other),
                    });
                    json!(cells.collect::<Row>()).to_string()
                })
                .collect()
        };
        let (files, database) = (plain(from_files), plain(from_database));
        let apart = files.symmetric_difference(&database).count();
        assert!(
            apart <= 20,
            "{stream}: {apart} rows differ of {}",
            files.len()
        );
        assert!(files.len() > 50);
    }
}

#[tokio::test]
async fn one_stream_only() {
    let bench = Bench::new();
    bench
        .run(&["--source", "demo", "--stream", "invoices"])
        .await
        .exits(0)
        .says("invoices");
    let db = bench.path("drawoff.db");
    assert!(!sqlite(&db, "invoices").is_empty());
    assert!(sqlite(&db, "tickets").is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_named_with_what_is() {
    let bench = Bench::new();
    bench
        .run(&["--source", "demo", "--stream", "tickts"])
        .await
        .exits(2)
        .complains("source `demo` has no stream `tickts`")
        .complains("did you mean `tickets`?")
        .complains("`companies`, `contacts`, `tickets`, `invoices`");
    bench
        .run(&["--source", "dmo"])
        .await
        .exits(2)
        .complains("there is no source `dmo`")
        .complains("did you mean `demo`?");
    bench
        .run(&["--source", "demo", "--destination", "sqlit:x"])
        .await
        .exits(2)
        .complains("did you mean `sqlite:`?");
    bench
        .run(&["--source", "demo", "--strem", "x"])
        .await
        .exits(2)
        .complains("--stream");
    bench
        .run(&[])
        .await
        .exits(2)
        .complains("drawoff --source demo");
    assert!(
        !bench.path("drawoff.db").exists(),
        "nothing was to be stored"
    );
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let shelf = Shelf::of(25);
    let (api, bench) = shop(&shelf).await;
    let dry = bench.run(&["--source", "shop", "--dry-run"]).await.exits(0);
    // The record at the seam of two pages is read twice.
    assert!((25..30).contains(&rows_of(&dry.stdout, "items")), "{dry}");
    assert!(!bench.path("drawoff.db").exists());
    bench
        .run(&[
            "--source",
            "shop",
            "--dry-run",
            "--destination",
            "parquet:out",
        ])
        .await
        .exits(0);
    assert!(!bench.path("out").exists());

    // Neither rows nor cursor where there are some already.
    bench.run(&["--source", "shop"]).await.exits(0);
    shelf.change(|rows| rows.push(item(26, 26)));
    let before = content(sqlite(&bench.path("drawoff.db"), "items"));
    let dry = bench.run(&["--source", "shop", "--dry-run"]).await.exits(0);
    assert!((1..=3).contains(&rows_of(&dry.stdout, "items")), "{dry}");
    assert!(dry.stdout.contains("without `--dry-run`"), "{dry}");
    assert_eq!(content(sqlite(&bench.path("drawoff.db"), "items")), before);
    bench.run(&["--source", "shop"]).await.exits(0);
    assert_eq!(
        numbers(&sqlite(&bench.path("drawoff.db"), "items"), "id").len(),
        26
    );
    assert!(!api.requests().is_empty());
}

#[tokio::test]
async fn a_backfill_leaves_the_cursor_where_it_is() {
    let shelf = Shelf::of(100);
    let (api, bench) = shop(&shelf).await;
    bench.run(&["--source", "shop"]).await.exits(0);
    // A correction in the past, which only a backfill can see.
    shelf.change(|rows| rows[9]["price"] = json!(7));
    let (from, to) = (time(5), time(20));
    let before = api.count();
    bench
        .run(&["--source", "shop", "--since", &from, "--until", &to])
        .await
        .exits(0);
    assert_eq!(first_since(&api, before), from);
    let table = sqlite(&bench.path("drawoff.db"), "items");
    assert_eq!(content(table.clone()), rows(&shelf.rows()));
    let touched = table
        .iter()
        .filter(|r| r["_run_id"] != table[99]["_run_id"])
        .count();
    assert!(
        (10..=20).contains(&touched),
        "{touched} rows were written again"
    );

    shelf.change(|rows| rows.push(item(101, 101)));
    let before = api.count();
    bench.run(&["--source", "shop"]).await.exits(0);
    assert_eq!(
        first_since(&api, before),
        time(100),
        "goes on from where it was"
    );
    assert_eq!(
        content(sqlite(&bench.path("drawoff.db"), "items")),
        rows(&shelf.rows())
    );

    // Asked for again, it reads all of it again.
    shelf.change(|rows| rows[14]["price"] = json!(8));
    bench
        .run(&["--source", "shop", "--since", &from, "--until", &to])
        .await
        .exits(0);
    assert_eq!(
        content(sqlite(&bench.path("drawoff.db"), "items")),
        rows(&shelf.rows())
    );

    // The end comes before the start.
    bench
        .run(&["--source", "shop", "--since", &to, "--until", &from])
        .await
        .exits(2);
}

#[tokio::test]
async fn since_alone_reads_on_to_now() {
    let shelf = Shelf::of(30);
    let (api, bench) = shop(&shelf).await;
    bench
        .run(&["--source", "shop", "--since", &time(11)])
        .await
        .exits(0);
    let db = bench.path("drawoff.db");
    assert_eq!(
        numbers(&sqlite(&db, "items"), "id"),
        (11..=30).collect::<Vec<_>>()
    );
    let before = api.count();
    bench.run(&["--source", "shop"]).await.exits(0);
    assert_eq!(first_since(&api, before), time(30));
    assert_eq!(sqlite(&db, "items").len(), 20);
}

#[tokio::test]
async fn a_full_refresh_is_the_whole_table() {
    let shelf = Shelf::of(45);
    let (_api, bench) = shop(&shelf).await;
    for (destination, new) in [("sqlite:drawoff.db", 101), ("parquet:out", 102)] {
        let args = ["--source", "shop", "--destination", destination];
        bench.run(&args).await.exits(0);
        shelf.change(|rows| {
            rows.remove(3);
            rows[20]["name"] = json!("renamed in silence");
        });
        let table = || match destination {
            "parquet:out" => content(parquet(&bench.path("out"), "items")),
            _ => content(sqlite(&bench.path("drawoff.db"), "items")),
        };
        bench.run(&args).await.exits(0);
        assert_ne!(table(), rows(&shelf.rows()));
        bench
            .run(&[&args[..], &["--full-refresh"]].concat())
            .await
            .exits(0);
        assert_eq!(table(), rows(&shelf.rows()));
        // And a plain run goes on from there.
        shelf.change(|rows| rows.push(item(new, 500 + new)));
        bench.run(&args).await.exits(0);
        assert_eq!(table(), rows(&shelf.rows()));
    }
}

#[tokio::test]
async fn a_table_that_is_gone_or_another_is_filled_from_the_start() {
    let shelf = Shelf::of(30);
    let (_api, bench) = shop(&shelf).await;
    let database = bench.path("drawoff.db");
    bench.run(&["--source", "shop"]).await.exits(0);
    shelf.change(|rows| rows.push(item(31, 31)));
    rusqlite::Connection::open(&database)
        .unwrap()
        .execute_batch("DROP TABLE items")
        .unwrap();
    let ran = bench.run(&["--source", "shop"]).await.exits(0);
    ran.complains("table `items` is not there, so the stream is read from its start");
    let ids = |table: &str| numbers(&sqlite(&database, table), "id");
    assert_eq!(ids("items"), (1..=31).collect::<Vec<_>>());

    let connector = std::fs::read_to_string(bench.path("connectors/shop.yaml")).unwrap();
    bench.connector(
        "shop",
        &connector.replace("items: {", "items: {table: {name: things}, "),
    );
    let ran = bench.run(&["--source", "shop"]).await.exits(0);
    ran.complains("table `things` is not there");
    assert_eq!(ids("things"), (1..=31).collect::<Vec<_>>());
    assert_eq!(ids("items"), ids("things"));
    let ran = bench.run(&["--source", "shop"]).await.exits(0);
    assert!(!ran.stderr.contains("is not there"), "{ran}");
}

#[tokio::test]
async fn a_stream_that_fails_before_it_reads_keeps_its_cursor_in_the_summary() {
    let shelf = Shelf::of(3);
    let (_api, bench) = shop(&shelf).await;
    bench.run(&["--source", "shop"]).await.exits(0);
    let other = COLUMNS.map(|c| c.replace("name STRING", "name BOOL"));
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    assert_ne!(other, COLUMNS);
    bench.schema("shop", "items", &other);
    let ran = bench.run(&["--source", "shop"]).await.exits(1);
    ran.says("(unchanged)").says("name");
    let ran = &sqlite(&bench.path("drawoff.db"), "_drawoff_runs")[1];
    assert_eq!(ran["cursor_before"], ran["cursor_after"]);
    assert!(ran["cursor_after"].is_string());
}

#[tokio::test]
async fn a_full_refresh_up_to_a_day_is_refused_before_anything_is_read() {
    let shelf = Shelf::of(30);
    let (api, bench) = shop(&shelf).await;
    bench.run(&["--source", "shop"]).await.exits(0);
    let requests = api.count();
    let until = time(11);
    let full = ["--source", "shop", "--full-refresh"];
    bench
        .run(&[&full[..], &["--until", &until]].concat())
        .await
        .exits(2)
        .complains("--until");
    // From the environment, too.
    let bench = bench.env("DRAWOFF_UNTIL", &until);
    bench.run(&full).await.exits(2).complains("--until");
    assert_eq!(api.count(), requests);
    let rows = sqlite(&bench.path("drawoff.db"), "items");
    assert_eq!(numbers(&rows, "id"), (1..=30).collect::<Vec<_>>());
}

#[tokio::test]
async fn settings_of_this_time_only() {
    let shelf = Shelf::of(5);
    let served = shelf.clone();
    let api = FakeApi::start(move |request| match request.path.as_str() {
        "/v2/eu/items" => served.serve(request),
        _ => Reply::status(404),
    })
    .await;
    let yaml = "title: Shop\nconfig:\n  region: {description: Where, default: us}\n\
                base_url: https://shop.example/v1\n\
                pagination: {page: {size_param: per_page, size: 10}}\nrecords: /data\n\
                streams: {items: {path: \"/{{ config.region }}/items\"}}\n";
    let bench = Bench::with("shop", yaml);
    bench.schema("shop", "items", &COLUMNS);
    let base = api.at("/v2").to_string();
    let args = ["--source", "shop", "--base-url", &base];
    bench
        .run(&args)
        .await
        .exits(1)
        .says("answered 404")
        .says("/v2/us/items");
    bench
        .run(&[&args[..], &["--set", "region=eu"]].concat())
        .await
        .exits(0);
    assert_eq!(sqlite(&bench.path("drawoff.db"), "items").len(), 5);
    bench
        .run(&[&args[..], &["--set", "regoin=eu"]].concat())
        .await
        .exits(2)
        .complains("regoin");
    let from_environment = Bench::with("shop", yaml)
        .env("DRAWOFF_SHOP_REGION", "eu")
        .env("DRAWOFF_BASE_URL", &base);
    from_environment.schema("shop", "items", &COLUMNS);
    from_environment.run(&["--source", "shop"]).await.exits(0);
}

#[tokio::test]
async fn one_stream_fails_and_the_others_land() {
    let shelf = Shelf::of(25);
    let served = shelf.clone();
    let api = FakeApi::start(move |request| match request.path.as_str() {
        "/broken" => Reply::status(404),
        _ => served.serve(request),
    })
    .await;
    let bench = Bench::with(
        "shop",
        &connector(&api.url(), &["first:", "broken:", "last:"]),
    );
    for stream in ["first", "broken", "last"] {
        bench.schema("shop", stream, &COLUMNS);
    }
    bench
        .run(&["--source", "shop"])
        .await
        .exits(1)
        .says("broken")
        .says("answered 404");
    for stream in ["first", "last"] {
        let table = content(sqlite(&bench.path("drawoff.db"), stream));
        assert_eq!(table, rows(&shelf.rows()), "{stream}");
    }
}

#[tokio::test]
async fn nobody_listens() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = url::Url::parse(&format!("http://{}/", gone.local_addr().unwrap())).unwrap();
    drop(gone);
    let bench = Bench::with("shop", &connector(&url, &["items:"]));
    bench.schema("shop", "items", &COLUMNS);
    // Long enough for some attempts, not for all.
    bench
        .run(&["--source", "shop", "--deadline", "1s"])
        .await
        .exits(75)
        .says("refused")
        .says(url.as_str().trim_end_matches('/'));
}

#[tokio::test]
async fn no_place_for_rows() {
    let bench = Bench::new();
    bench.write("file", "in the way");
    for destination in [
        "sqlite:file/rows.db",
        "parquet:file/rows",
        "parquet:file",
        "sqlite:file",
    ] {
        let ran = bench
            .run(&[
                "--source",
                "demo",
                "--stream",
                "companies",
                "--destination",
                destination,
            ])
            .await;
        assert!(matches!(ran.code, Some(1 | 2)), "{destination}: {ran}");
        assert!(ran.all().contains("file"), "{ran}");
        assert!(ran.all().contains("hint: "), "{destination}: {ran}");
    }
    assert_eq!(
        std::fs::read_to_string(bench.path("file")).unwrap(),
        "in the way"
    );
}
