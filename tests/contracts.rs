//! What becomes of fields and values that a table has no fitting column for, through the program:
//! exact rows, what the summary says, and the run after.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use drawoff::schema::name::hashed;
use serde_json::{Value, json};

use crate::support::binary::Bench;
use crate::support::emulator::{Emulator, PROJECT};
use crate::support::fake_api::{FakeApi, Reply};
use crate::support::tables::{Row, parquet, sqlite};

const RUN: [&str; 2] = ["--source", "shop"];

/// Serves `before`, and `after` once the flag is up, ten a page.
async fn api(before: Vec<Value>, after: Vec<Value>) -> (FakeApi, Arc<AtomicBool>) {
    let turned = Arc::new(AtomicBool::new(false));
    let flag = turned.clone();
    let api = FakeApi::start(move |request| {
        let all = match flag.load(Ordering::SeqCst) {
            true => &after,
            false => &before,
        };
        let from = (request.number_param("page").unwrap_or(1) - 1) * 10;
        let data: Vec<&Value> = all.iter().skip(from).take(10).collect();
        Reply::json(&json!({"data": data, "total": all.len()}))
    })
    .await;
    (api, turned)
}

fn bench(api: &FakeApi, contract: &str) -> Bench {
    let contract = match contract {
        "" => String::new(),
        contract => format!(", table: {{contract: {contract}}}"),
    };
    let yaml = format!(
        "title: Shop\nbase_url: {}\nrecords: /data\n\
         pagination: {{page: {{page_param: page, size_param: per_page, size: 10, total: /total}}}}\n\
         streams:\n  items: {{primary_key: id{contract}}}\n",
        api.url()
    );
    Bench::with("shop", &yaml)
}

/// The named columns of all rows, by id.
fn rows(bench: &Bench, columns: &[&str]) -> Vec<Vec<Value>> {
    let mut rows: Vec<Row> = sqlite(&bench.path("drawoff.db"), "items");
    rows.sort_by_key(|r| r["id"].as_i64());
    rows.iter()
        .map(|r| columns.iter().map(|c| r[*c].clone()).collect())
        .collect()
}

fn rejects(bench: &Bench) -> Vec<Row> {
    sqlite(&bench.path("drawoff.db"), "items__rejects")
}

#[tokio::test]
async fn an_evolving_table_gets_columns_for_what_comes_after_the_sample() {
    let all: Vec<Value> = (1..=60)
        .map(|id| {
            let mut item = json!({"id": id, "amount": id});
            match id {
                ..30 => item["gone"] = json!("here"),
                55 => item["amount"] = json!("N/A"),
                56 => item["colour"] = json!("red"),
                ..50 if id >= 40 => item["o"] = Value::Null,
                57 => item["o"] = json!({"deep": 1}),
                58 => item["l"] = json!([[1], [2]]),
                _ => {}
            }
            item
        })
        .collect();
    let (api, _) = api(all.clone(), all).await;
    let bench = bench(&api, "");
    bench
        .run(&RUN)
        .await
        .exits(0)
        .says("changed: made table `items` with 6 columns")
        .says("changed: added column `amount__string` STRING to `items`")
        .says("changed: added column `colour` STRING to `items`")
        .says("changed: added column `o` RECORD to `items`")
        .says("changed: added column `l` JSON to `items`");
    let columns = [
        "id",
        "amount",
        "amount__string",
        "gone",
        "colour",
        "o",
        "l",
        "_extra",
    ];
    let null = Value::Null;
    let row = |id: i64, cells: [Value; 6]| {
        let mut row = vec![json!(id), json!(id)];
        row.extend(cells);
        row
    };
    let extra = |text: &str| {
        [
            null.clone(),
            null.clone(),
            null.clone(),
            null.clone(),
            null.clone(),
            json!(text),
        ]
    };
    let first = rows(&bench, &columns);
    assert_eq!(first.len(), 59);
    assert_eq!(
        rejects(&bench).len(),
        1,
        "what does not fit is kept meanwhile"
    );
    assert_eq!(first[54], row(56, extra(r#"{"colour":"red"}"#)));
    assert_eq!(first[55], row(57, extra(r#"{"o":{"deep":1}}"#)));

    // The same records again: each in its column.
    let again = bench.run(&RUN).await.exits(0);
    assert!(!again.stdout.contains("changed:"), "{again}");
    let second = rows(&bench, &columns);
    assert_eq!(second.len(), 60);
    assert_eq!(rejects(&bench).len(), 1);
    let n = || Value::Null;
    assert_eq!(second[0], row(1, [n(), json!("here"), n(), n(), n(), n()]));
    assert_eq!(
        second[54],
        vec![json!(55), n(), json!("N/A"), n(), n(), n(), n(), n()]
    );
    assert_eq!(second[55], row(56, [n(), n(), json!("red"), n(), n(), n()]));
    assert_eq!(
        second[56],
        row(57, [n(), n(), n(), json!(r#"{"deep":1}"#), n(), n()])
    );
    assert_eq!(
        second[57],
        row(58, [n(), n(), n(), n(), json!("[[1],[2]]"), n()])
    );
}

fn three(second: Value) -> Vec<Value> {
    vec![
        json!({"id": 1, "amount": 1, "name": "a"}),
        second,
        json!({"id": 3, "amount": 3, "name": "c"}),
    ]
}

const DECLARED: [&str; 3] = ["id INT64 REQUIRED", "amount INT64", "name STRING REQUIRED"];

#[tokio::test]
async fn a_declared_table_may_leave_out_keep_or_grow() {
    let odd = || {
        vec![
            json!({"id": 1, "amount": 1, "name": "a", "colour": "red"}),
            json!({"id": 2, "amount": "x", "name": "b"}),
            json!({"id": 3, "amount": 3}),
            json!({"id": 4, "amount": 1.5, "name": "d"}),
        ]
    };
    for contract in ["", "discard", "json", "evolve"] {
        let (api, _) = api(odd(), odd()).await;
        let bench = bench(&api, contract);
        bench.schema("shop", "items", &DECLARED);
        let ran = bench.run(&RUN).await.exits(0);
        assert_eq!(rejects(&bench).len(), 3, "{contract}");
        let known = ["id", "amount", "name"];
        // One of the numbers is a fraction, so the column becomes wide enough for it.
        let one = if contract == "evolve" {
            json!(1.0)
        } else {
            json!(1)
        };
        assert_eq!(rows(&bench, &known), [[json!(1), one, json!("a")]]);
        let all = sqlite(&bench.path("drawoff.db"), "items");
        match contract {
            "json" => {
                assert_eq!(all[0]["_extra"], r#"{"colour":"red"}"#);
                ran.says("are kept in `_extra` of `items` (`colour`)");
            }
            "evolve" => {
                assert_eq!(all[0]["_extra"], r#"{"colour":"red"}"#);
                ran.says("changed: relaxed `name` of `items` to NULLABLE")
                    .says("changed: widened `amount` of `items` from INT64 to FLOAT64")
                    .says("changed: added column `amount__string` STRING to `items`")
                    .says("changed: added column `colour` STRING to `items`");
                bench.run(&RUN).await.exits(0);
                let columns = ["id", "amount", "amount__string", "name", "colour"];
                let n = Value::Null;
                assert_eq!(
                    rows(&bench, &columns),
                    [
                        [json!(1), json!(1.0), n.clone(), json!("a"), json!("red")],
                        [json!(2), n.clone(), json!("x"), json!("b"), n.clone()],
                        [json!(3), json!(3.0), n.clone(), n.clone(), n.clone()],
                        [json!(4), json!(1.5), n.clone(), json!("d"), n.clone()],
                    ]
                );
                assert_eq!(rejects(&bench).len(), 3, "those of the first run");
            }
            _ => {
                assert!(!all[0].contains_key("_extra") && !all[0].contains_key("colour"));
                ran.says("are left out of `items` (`colour`)");
            }
        }
    }
}

#[tokio::test]
async fn a_field_with_an_empty_name_is_said_in_words() {
    let nameless = || three(json!({"id": 2, "amount": 2, "name": "b", "": 1}));
    let (api, _) = api(nameless(), nameless()).await;
    let bench = bench(&api, "");
    let schema = ["schema", "--source", "shop", "--stream", "items", "--infer"];
    bench
        .run(&schema)
        .await
        .exits(0)
        .says("\"The field with an empty name.\"");
    bench.schema("shop", "items", &DECLARED);
    let said = "are left out of `items` (a field with an empty name)";
    bench.run(&RUN).await.exits(0).says(said);
}

#[tokio::test]
async fn the_sample_counts_among_the_pages_and_not_the_records() {
    let fine = || three(json!({"id": 2, "amount": 2, "name": "b"}));
    let (api, _) = api(fine(), fine()).await;
    let bench = bench(&api, "");
    bench.run(&RUN).await.exits(0);
    let of = |table: &str| sqlite(&bench.path("drawoff.db"), table).remove(0);
    let (run, load) = (of("_drawoff_runs"), of("_drawoff_loads"));
    assert_eq!(
        api.requests().len(),
        2,
        "a page of the sample and one of the rows"
    );
    assert_eq!((&run["pages"], &run["requests"]), (&json!(2), &json!(2)));
    assert_eq!((&run["records"], &load["records"]), (&json!(3), &json!(3)));
    assert_eq!(load["requests"], 2);
}

#[tokio::test]
async fn a_frozen_table_stops_the_stream_and_stays() {
    let cases = [
        (
            json!({"id": 2, "amount": 2, "name": "b", "colour": "red"}),
            "has the field `colour`, which table `items` has no column for",
        ),
        (
            json!({"id": 2, "amount": 2, "name": "b", "": 1}),
            "has a field with an empty name, which table `items` has no column for",
        ),
        (
            json!({"id": 2, "amount": 2, "name": "b", "colour": "red", "": 1, "size": {"x": 1}}),
            "have fields that table `items` has no columns for, and its contract is `freeze`: \
             a field with an empty name, `colour`, `size`",
        ),
        (
            json!({"id": 2, "amount": "x", "name": "b"}),
            "does not fit table `items` at `/amount`: the text is not a whole number",
        ),
        (
            json!({"id": 2, "amount": 2}),
            "does not fit table `items` at `/name`: a required field is missing",
        ),
    ];
    for (odd, words) in cases {
        // A field that is null says nothing.
        let fine = three(json!({"id": 2, "amount": 2, "name": "b", "colour": null}));
        let (api, turned) = api(fine, three(odd)).await;
        let bench = bench(&api, "freeze");
        let file = bench.schema("shop", "items", &DECLARED);
        bench.run(&RUN).await.exits(0);
        let before = sqlite(&bench.path("drawoff.db"), "items");
        assert_eq!(before.len(), 3);
        turned.store(true, Ordering::SeqCst);
        bench.run(&RUN).await.exits(1).says(words).says("`freeze`");
        assert_eq!(sqlite(&bench.path("drawoff.db"), "items"), before);
        assert!(rejects(&bench).is_empty());

        turned.store(false, Ordering::SeqCst);
        let more = [&DECLARED[..], &["more BOOL"]].concat();
        assert_eq!(bench.schema("shop", "items", &more), file);
        bench
            .run(&RUN)
            .await
            .exits(1)
            .says("would have to change, and its contract is `freeze`: add column `more` BOOL");
        assert_eq!(sqlite(&bench.path("drawoff.db"), "items"), before);
    }
}

#[tokio::test]
async fn keys_that_come_to_one_name_have_a_column_each() {
    let one =
        || vec![json!({"id": 1, "a.b": 1, "a_b": 2, "\u{1F600}": 3, "\u{1F389}": 4, "1st": 5})];
    let two =
        || vec![json!({"1st": 5, "\u{1F389}": 4, "\u{1F600}": 3, "a_b": 2, "a.b": 1, "id": 1})];
    let mut tables = Vec::new();
    for (first, then) in [(one(), two()), (two(), one())] {
        let (api, turned) = api(first, then).await;
        let bench = bench(&api, "");
        for _ in 0..2 {
            bench.run(&RUN).await.exits(0);
            let mut row = sqlite(&bench.path("drawoff.db"), "items").remove(0);
            row.retain(|name, _| name != "_run_id" && name != "_extracted_at");
            assert_eq!(row["_extra"], Value::Null);
            assert_eq!((&row["a_b"], &row["a_b_2e7336dc"]), (&json!(2), &json!(1)));
            assert_eq!(row["_1st"], 5);
            tables.push(row);
            turned.store(true, Ordering::SeqCst);
        }
    }
    assert!(tables.windows(2).all(|t| t[0] == t[1]), "{tables:?}");
}

/// A record of two fields for each name that the connector says; `turned` with the other one first.
fn twice(id: i64, turned: bool) -> String {
    let mut fields = vec![
        format!(r#""id": {id}"#),
        r#""ID": "ext-A""#.to_owned(),
        format!(r#""updated_at": "2026-01-0{id}T00:00:00Z""#),
        r#""Updated_At": "n/a""#.to_owned(),
        r#""created_at": "2025-01-01T00:00:00Z""#.to_owned(),
        r#""CREATED_AT": 7"#.to_owned(),
        r#""status": "open""#.to_owned(),
        r#""Status": [1]"#.to_owned(),
        r#""Shop": true"#.to_owned(),
    ];
    if turned {
        fields.reverse();
    }
    format!("{{{}}}", fields.join(", "))
}

#[tokio::test]
async fn names_in_the_connector_are_those_of_the_fields_that_are_spelled_so() {
    const STREAM: &str = "{path: \"/shops/{shops.name}/items\", primary_key: id, incremental: {cursor: updated_at}, \
        table: {partition_by: created_at, cluster_by: [status]}, add_columns: {shop: \"{shops.name}\"}}";
    let other = r#"{"Extra": 1, "Status": [2]}"#;
    // Other fields first, in a record that is none of the table's or in front of their own; or a run later.
    let first = r#"{"ID": "ext-B", "updated_at": "2026-01-01T00:00:00Z"}"#.to_owned();
    let cases: [(&[String], u64); 4] = [
        (&[twice(1, false), twice(2, false)], 0),
        (&[twice(1, true), twice(2, true)], 0),
        (&[other.to_owned(), first, twice(1, true), twice(2, false)], 2),
        (&[r#"{"id": 9, "updated_at": "2026-01-01T00:00:00Z", "status": "x", "created_at": "2025-01-01T00:00:00Z"}"#.to_owned()], 0),
    ];
    for (records, rejected) in cases {
        let records = records.join(", ");
        let turned = Arc::new(AtomicBool::new(false));
        let flag = turned.clone();
        let api = FakeApi::start(move |request| match flag.load(Ordering::SeqCst) {
            _ if request.path == "/shops" => Reply::json_text(r#"[{"name": "north"}]"#),
            false => Reply::json_text(format!("[{records}]")),
            true => Reply::json_text(format!("[{}, {}]", twice(2, true), twice(1, false))),
        })
        .await;
        let yaml = format!(
            "title: Shop\nbase_url: {}\nstreams:\n  shops:\n  items: {STREAM}\n",
            api.url()
        );
        let bench = Bench::with("shop", &yaml);
        let destination = ["sqlite:drawoff.db", "parquet:out"];
        for to in destination {
            turned.store(false, Ordering::SeqCst);
            let args = [RUN[0], RUN[1], "--destination", to];
            bench.run(&args).await.exits(0);
            turned.store(true, Ordering::SeqCst);
            bench.run(&args).await.exits(0);
            let mut rows = match to {
                "parquet:out" => parquet(&bench.path("out"), "items"),
                _ => sqlite(&bench.path("drawoff.db"), "items"),
            };
            rows.retain(|r| r["id"] != 9);
            rows.sort_by_key(|r| r["id"].as_i64());
            assert_eq!(rows.len(), 2, "{to}: {rows:?}");
            for (row, id) in rows.iter().zip(1..) {
                assert_eq!(row["id"], id, "{row:?}");
                let at = format!("2026-01-0{id}T00:00:00.000000Z");
                assert_eq!(row["updated_at"], at, "{row:?}");
                assert_eq!(row["created_at"], "2025-01-01T00:00:00.000000Z");
                assert_eq!(
                    (&row["status"], &row["shop"]),
                    (&json!("open"), &json!("north"))
                );
                for (field, value) in [
                    ("ID", json!("ext-A")),
                    ("Updated_At", json!("n/a")),
                    ("CREATED_AT", json!(7)),
                ] {
                    assert_eq!(row[&hashed(field)], value, "{row:?}");
                }
                assert!(!row[&hashed("Status")].is_null() && !row[&hashed("Shop")].is_null());
            }
        }
        assert_eq!(rejects(&bench).len() as u64, rejected);
        bench
            .run(&["preview", "--source", "shop", "--stream", "items"])
            .await
            .exits(0)
            .says("ID_");
    }
}

#[tokio::test]
async fn ten_thousand_columns_are_too_many() {
    let fields: serde_json::Map<String, Value> =
        (0..10_001).map(|n| (format!("f{n}"), json!(n))).collect();
    let mut record = json!({"id": 1});
    record.as_object_mut().unwrap().extend(fields);
    let (api, _) = api(vec![record.clone()], vec![record]).await;
    // Where nobody has written columns down, a table has so many and the rest stays together.
    let inferred = bench(&api, "");
    inferred.run(&RUN).await.exits(0);
    let row = sqlite(&inferred.path("drawoff.db"), "items").remove(0);
    assert_eq!(row.len(), 1_000 + 3);
    let extra: Row = serde_json::from_str(row["_extra"].as_str().unwrap()).unwrap();
    assert_eq!(extra.len(), 10_002 - 1_000);

    let declared = bench(&api, "");
    let columns: Vec<String> = (0..10_001).map(|n| format!("f{n} INT64")).collect();
    let mut columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    columns.push("id INT64");
    declared.schema("shop", "items", &columns);
    let before = api.count();
    declared
        .run(&RUN)
        .await
        .exits(1)
        .says("table `items` would have 10004 columns, and SQLite takes 2000");
    assert_eq!(api.count(), before, "said before anything is asked for");
}

#[tokio::test]
async fn an_evolving_table_in_bigquery() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("contracts");
    let (api, turned) = api(
        vec![json!({"id": 1, "n": 1, "t": 1})],
        vec![
            json!({"id": 2, "n": 1.5, "t": "x", "new": true}),
            json!({"id": 3, "n": 3, "t": 3}),
        ],
    )
    .await;
    let bench = bench(&api, "").bigquery(emulator.rest(), emulator.grpc());
    let place = format!("bigquery:{PROJECT}.{dataset}");
    let args = ["--source", "shop", "--destination", &place];
    bench
        .run(&args)
        .await
        .exits(0)
        .says("made table `items` with 6 columns");
    turned.store(true, Ordering::SeqCst);
    bench
        .run(&args)
        .await
        .exits(0)
        .says("changed: widened `n` of `items` from INT64 to FLOAT64")
        .says("changed: added column `t__string` STRING to `items`")
        .says("changed: added column `new` BOOL to `items`");
    let again = bench.run(&args).await.exits(0);
    assert!(!again.stdout.contains("changed:"), "{again}");
    let rows = emulator.query(&format!(
        "SELECT id, n, t, t__string, new, _extra FROM {dataset}.items ORDER BY id"
    ));
    assert_eq!(
        rows,
        json!([
            {"id": 1, "n": 1.0, "t": 1, "t__string": null, "new": null, "_extra": null},
            {"id": 2, "n": 1.5, "t": null, "t__string": "x", "new": true, "_extra": null},
            {"id": 3, "n": 3.0, "t": 3, "t__string": null, "new": null, "_extra": null},
        ])
    );
}

#[tokio::test]
async fn columns_of_the_engine_are_no_fields_of_records() {
    for table in ["soft_delete: true", "disposition: scd2"] {
        let fields = || {
            vec![
                json!({"id": 1, "n": 1, "_deleted_at": "theirs", "_valid_to": "theirs", "_row_hash": 1}),
            ]
        };
        let later = || vec![json!({"id": 1, "n": 1, "new": 2})];
        let (api, turned) = api(fields(), later()).await;
        let bench = bench(&api, "");
        let file = bench.path("connectors/shop.yaml");
        let yaml = std::fs::read_to_string(&file).unwrap();
        let yaml = yaml.replace(
            "{primary_key: id}",
            &format!("{{primary_key: id, table: {{{table}}}}}"),
        );
        std::fs::write(&file, yaml).unwrap();
        bench.run(&RUN).await.exits(0);
        let first = sqlite(&bench.path("drawoff.db"), "items").remove(0);
        let extra: Row = serde_json::from_str(first["_extra"].as_str().unwrap()).unwrap();
        assert_eq!(extra["_deleted_at"], "theirs", "{table}");
        turned.store(true, Ordering::SeqCst);
        bench
            .run(&RUN)
            .await
            .exits(0)
            .says("changed: added column `new` INT64 to `items`");
        let rows = sqlite(&bench.path("drawoff.db"), "items");
        assert!(
            rows.iter().any(|r| r["new"] == 2 && r["n"] == 1),
            "{rows:?}"
        );
    }
}
