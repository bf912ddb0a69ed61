//! The commands beside a run: `connectors`, `lint`, `check`, `preview`, `schema`; and a connector
//! without a schema.

use serde_json::{Value, json};

use crate::support::binary::Bench;
use crate::support::fake_api::{FakeApi, Received, Reply};
use crate::support::shop::{COLUMNS, Shelf, connector, item, page};
use crate::support::tables::{Row, parquet, sqlite};

async fn shop(count: i64) -> (FakeApi, Bench) {
    let shelf = Shelf::of(count);
    let api = FakeApi::start(move |request| shelf.serve(request)).await;
    let bench = Bench::with("shop", &connector(&api.url(), &["items:"]));
    bench.schema("shop", "items", &COLUMNS);
    (api, bench)
}

#[tokio::test]
async fn connectors_are_listed_and_described() {
    let (api, bench) = shop(1).await;
    bench
        .run(&["connectors", "list"])
        .await
        .exits(0)
        .says("demo")
        .says("github")
        .says("shop");
    bench
        .run(&["connectors", "describe", "shop"])
        .await
        .exits(0)
        .says("items")
        .says("merged by id");
    bench
        .run(&["connectors", "describe", "github"])
        .await
        .exits(0)
        .says("repositories");
    bench
        .run(&["connectors", "describe", "githbu"])
        .await
        .exits(2)
        .complains("github");
    assert!(api.requests().is_empty());
}

#[tokio::test]
async fn lint_finds_mistakes_by_line() {
    let bench = Bench::new();
    let good = bench.write(
        "good.yaml",
        "title: Good\nbase_url: https://a.example\nstreams: {items: }\n",
    );
    let bad = bench.write(
        "bad.yaml",
        "title: Bad\nbase_url: https://a.example\npagnation: {page: {}}\nstreams:\n  items: {pat: /x}\n",
    );
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    bench
        .run(&["lint", good])
        .await
        .exits(0)
        .says("no problems");
    bench
        .run(&["lint", good, bad])
        .await
        .exits(2)
        .says("bad.yaml:3:1: error:")
        .says("did you mean `pagination`?")
        .says("bad.yaml:5:")
        .says("2 errors");
    bench
        .run(&["lint", "missing.yaml"])
        .await
        .exits(2)
        .complains("missing.yaml");
    bench.run(&["lint"]).await.exits(2);
    // The same mistakes keep it from running.
    bench.connector(
        "bad",
        "title: Bad\nbase_url: https://a.example\npagnation: {page: {}}\nstreams: {items: }\n",
    );
    bench
        .run(&["--source", "bad"])
        .await
        .exits(2)
        .complains("bad.yaml:3:1")
        .complains("`pagination`");
}

#[tokio::test]
async fn check_says_what_is_wrong() {
    let (_api, bench) = shop(25).await;
    bench
        .run(&["check", "--source", "shop"])
        .await
        .exits(0)
        .says("✓ stream `items`: 10 records in the first page")
        .says("all is well");
    assert!(
        sqlite(&bench.path("drawoff.db"), "items").is_empty(),
        "it stores nothing"
    );
    bench.run(&["check", "--source", "demo"]).await.exits(0);

    // A schema that the records do not fit, a path that is not there, a place that cannot be.
    bench.schema("shop", "items", &["id INT64 REQUIRED", "name INT64"]);
    bench
        .run(&["check", "--source", "shop"])
        .await
        .exits(1)
        .says("✗ stream `items`")
        .says("10 of the 10 records")
        .says("--infer");
    let broken = FakeApi::start(|_: &Received| Reply::status(404)).await;
    bench.connector(
        "shop",
        &connector(
            &broken.url(),
            &["items:", "parts: {path: \"/items/{items.id}/parts\"}"],
        ),
    );
    bench.schema("shop", "parts", &COLUMNS);
    bench.write("file", "");
    bench
        .run(&[
            "check",
            "--source",
            "shop",
            "--destination",
            "sqlite:file/rows.db",
        ])
        .await
        .exits(1)
        .says("answered 404")
        .says("- stream `parts`: not tried, its parent `items` failed")
        .says("✗ destination `sqlite:file/rows.db`");
    bench
        .run(&["check", "--source", "shop", "--stream", "itms"])
        .await
        .exits(2)
        .complains("`items`");
}

#[tokio::test]
async fn preview_shows_rows_and_stores_none() {
    let (_api, bench) = shop(25).await;
    let preview = ["preview", "--source", "shop", "--stream", "items"];
    let table = bench.run(&preview).await.exits(0);
    assert_eq!(table.stdout.lines().count(), 11, "{table}");
    assert!(table.stdout.contains("item 10"), "{table}");
    let lines = bench
        .run(&[&preview[..], &["--limit", "12", "--format", "ndjson"]].concat())
        .await
        .exits(0);
    let rows: Vec<Value> = lines
        .stdout
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(rows.len(), 12);
    assert_eq!(
        rows[11],
        json!({"id": 12, "name": "item 12", "price": 120, "updated_at": "2026-01-01T00:12:00.000000Z"})
    );
    assert!(!bench.path("drawoff.db").exists());
    bench
        .run(&["preview", "--source", "shop", "--stream", "item"])
        .await
        .exits(2)
        .complains("did you mean `items`?");
    bench
        .run(&[
            "preview", "--source", "demo", "--stream", "contacts", "--limit", "3",
        ])
        .await
        .exits(0);
}

#[tokio::test]
async fn a_schema_is_printed_inferred_and_used() {
    let (_api, bench) = shop(25).await;
    let schema = ["schema", "--source", "shop", "--stream", "items"];
    let declared = bench.run(&schema).await.exits(0);
    let declared: Value = serde_json::from_str(&declared.stdout).unwrap();
    assert_eq!(declared[0]["name"], "id");

    let file = "connectors/schemas/shop/items.json";
    std::fs::remove_file(bench.path(file)).unwrap();
    bench.run(&schema).await.exits(2).complains("--infer");
    let inferred = bench
        .run(&[&schema[..], &["--infer"]].concat())
        .await
        .exits(0);
    bench.write(file, &inferred.stdout);
    let columns: Vec<Value> = serde_json::from_str(&inferred.stdout).unwrap();
    let kind = |name: &str| {
        let column = columns.iter().find(|c| c["name"] == name).unwrap();
        (
            column["type"].as_str().unwrap(),
            column["mode"].as_str().unwrap_or("NULLABLE"),
        )
    };
    assert_eq!(kind("id"), ("INT64", "REQUIRED"));
    assert_eq!(kind("price"), ("INT64", "NULLABLE"));
    assert_eq!(kind("updated_at"), ("TIMESTAMP", "NULLABLE"));
    assert_eq!(columns.len(), 4);

    let again = bench.run(&schema).await.exits(0);
    assert_eq!(
        again.stdout, inferred.stdout,
        "what is printed is what was read"
    );
    bench.run(&["--source", "shop"]).await.exits(0);
    assert_eq!(sqlite(&bench.path("drawoff.db"), "items").len(), 25);
}

#[tokio::test]
async fn a_connector_without_a_schema() {
    let late = |id: i64| {
        let mut item = item(id, id);
        // Past what the columns are inferred from.
        if id > 1_500 {
            item["colour"] = json!("red");
            item["size"] = json!({"width": id});
        }
        item
    };
    for destination in ["sqlite:drawoff.db", "parquet:out"] {
        let all: Vec<Value> = (1..=2_000).map(late).collect();
        let reversed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let turned = reversed.clone();
        let api = FakeApi::start(move |request| {
            let mut all = all.clone();
            if turned.load(std::sync::atomic::Ordering::SeqCst) {
                all.reverse();
            }
            page(&all, request)
        })
        .await;
        let yaml = connector(&api.url(), &["items:"]).replace("size: 10", "size: 200");
        let bench = Bench::with("shop", &yaml);
        let args = ["--source", "shop", "--destination", destination];
        let read = || match destination {
            "parquet:out" => parquet(&bench.path("out"), "items"),
            _ => sqlite(&bench.path("drawoff.db"), "items"),
        };
        let row = |rows: &[Row], id: i64| rows.iter().find(|r| r["id"] == id).unwrap().clone();
        let json_of = |value: &Value| match value {
            Value::String(text) => serde_json::from_str(text).unwrap(),
            other => other.clone(),
        };
        bench.run(&args).await.exits(0).says("colour");
        let first = read();
        assert_eq!(first.len(), 2_000);
        assert_eq!(row(&first, 1)["price"], 10);
        assert_eq!(row(&first, 1)["_extra"], Value::Null);
        // The table has a column by the end of the run, for the next one to fill.
        assert!(
            first
                .iter()
                .all(|r| r.get("colour").is_none_or(Value::is_null))
        );
        assert_eq!(
            json_of(&row(&first, 1_700)["_extra"]),
            json!({"colour": "red", "size": {"width": 1_700}}),
            "{destination}"
        );

        // Seen early, they get columns of their own; what there was stays.
        reversed.store(true, std::sync::atomic::Ordering::SeqCst);
        bench.run(&args).await.exits(0);
        let second = read();
        assert_eq!(second.len(), 2_000);
        assert_eq!(row(&second, 1_700)["colour"], "red", "{destination}");
        assert_eq!(row(&second, 1_700)["_extra"], Value::Null);
        assert_eq!(row(&second, 1)["colour"], Value::Null);
        assert_eq!(row(&second, 1)["price"], 10);
        assert!(sqlite(&bench.path("drawoff.db"), "items__rejects").is_empty());
    }
}
