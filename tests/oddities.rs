//! What APIs do that no documentation says, through the program.

use serde_json::{Value, json};

use crate::support::binary::Bench;
use crate::support::fake_api::{FakeApi, Received, Reply};
use crate::support::tables::sqlite;

const RUN: [&str; 2] = ["--source", "odd"];

fn bench(api: &FakeApi, stream: &str) -> Bench {
    let yaml = format!(
        "title: Odd\nbase_url: {}\nrecords: /data\n\
         pagination: {{page: {{page_param: page, size_param: per_page, size: 10, total: /total}}}}\n\
         streams:\n  items: {stream}\n",
        api.url()
    );
    Bench::with("odd", &yaml)
}

/// The page asked for, out of all records.
fn page(all: &[Value], request: &Received) -> Reply {
    let from = (request.number_param("page").unwrap_or(1) - 1) * 10;
    let data: Vec<&Value> = all.iter().skip(from).take(10).collect();
    Reply::json(&json!({"data": data, "total": all.len()}))
}

fn ids(bench: &Bench) -> Vec<i64> {
    let rows = sqlite(&bench.path("drawoff.db"), "items");
    let mut ids: Vec<i64> = rows.iter().filter_map(|r| r["id"].as_i64()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_first_run_that_finds_nothing_is_no_failure() {
    let api = FakeApi::start(|request| match request.number {
        // A sample, then nothing more to read.
        0 => Reply::json(&json!({"data": []})),
        1 => Reply::json(&json!({"data": null})),
        _ => page(&[json!({"id": 1})], request),
    })
    .await;
    let bench = bench(&api, "{primary_key: id}");
    bench.run(&RUN).await.exits(0);
    bench.run(&RUN).await.exits(0);
    bench.run(&RUN).await.exits(0);
    assert_eq!(ids(&bench), [1]);
}

#[tokio::test]
async fn a_field_with_a_name_of_ours_is_kept() {
    let api = FakeApi::start(|request| {
        page(
            &[json!({"id": 1, "_extra": {"a": [1]}, "_run_id": "theirs", "l": [null, 2]})],
            request,
        )
    })
    .await;
    let bench = bench(&api, "{primary_key: id}");
    bench.run(&RUN).await.exits(0);
    let rows = sqlite(&bench.path("drawoff.db"), "items");
    let extra: Value = serde_json::from_str(rows[0]["_extra"].as_str().unwrap()).unwrap();
    assert_eq!(extra, json!({"_extra": {"a": [1]}, "_run_id": "theirs"}));
    assert_eq!(rows[0]["l"].as_str(), Some("[null,2]"));
}

#[tokio::test]
async fn a_next_page_that_is_an_object_is_an_error() {
    let api =
        FakeApi::start(|_| Reply::json(&json!({"data": [{"id": 1}], "next": {"href": "/2"}})))
            .await;
    let bench = bench(
        &api,
        "{primary_key: id, pagination: {next_url: {next: /next}}}",
    );
    bench
        .run(&RUN)
        .await
        .exits(1)
        .says("the page has an object at `/next`");
    let api = FakeApi::start(|_| Reply::json(&json!({"data": [{"id": 1}], "next": false}))).await;
    let bench = self::bench(
        &api,
        "{primary_key: id, pagination: {next_url: {next: /next}}}",
    );
    bench.run(&RUN).await.exits(0);
}

#[tokio::test]
async fn nesting_without_end_is_rejected_not_a_crash() {
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    let body =
        format!(r#"{{"data": [{{"id": 1}}, {{"id": 2, "d": {deep}}}, {{"id": 3}}], "total": 3}}"#);
    let api = FakeApi::start(move |_| Reply::json_text(body.clone())).await;
    let bench = bench(&api, "{primary_key: id}");
    bench.run(&RUN).await.exits(0);
    assert_eq!(ids(&bench), [1, 3]);
    let rejects = sqlite(&bench.path("drawoff.db"), "items__rejects");
    assert_eq!(rejects.len(), 1);
}

#[tokio::test]
async fn records_below_the_cursor_or_without_one_are_not_appended_again() {
    // The API takes a day, so that each run gets the whole day again; one record has no time.
    let api = FakeApi::start(|request| {
        let mut all: Vec<Value> = (1..=4)
            .map(|n| json!({"id": n, "at": format!("2026-01-02T0{n}:00:00Z")}))
            .collect();
        all.push(json!({"id": 9, "at": null}));
        if request.number >= 3 {
            all.push(json!({"id": 5, "at": "2026-01-02T04:00:00Z"}));
        }
        page(&all, request)
    })
    .await;
    let bench = bench(
        &api,
        "{incremental: {cursor: at, since_param: since, format: date}}",
    );
    bench.run(&RUN).await.exits(0);
    assert_eq!(ids(&bench), [1, 2, 3, 4]);
    bench.run(&RUN).await.exits(0);
    assert_eq!(
        ids(&bench),
        [1, 2, 3, 4, 5],
        "a record at the saved cursor that was not there before comes"
    );
    bench.run(&RUN).await.exits(0);
    assert_eq!(ids(&bench), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn sorted_is_believed_only_as_long_as_it_is_true() {
    let api = FakeApi::start(|request| {
        let all: Vec<Value> = (0..30)
            .map(|n| json!({"id": n, "at": 1_700_000_000 - n}))
            .collect();
        page(&all, request)
    })
    .await;
    let bench = bench(
        &api,
        "{primary_key: id, incremental: {cursor: at, since_param: since, sorted: true}}",
    );
    bench
        .run(&RUN)
        .await
        .exits(1)
        .says("do not come in ascending order");
}

#[tokio::test]
async fn a_counted_list_that_shrinks_is_read_again() {
    let api = FakeApi::start(|request| {
        // The first record goes while the first listing is read, and all others move up by one.
        let first = i64::from(request.number > 1) + 1;
        let all: Vec<Value> = (first..=40).map(|n| json!({"id": n})).collect();
        page(&all, request)
    })
    .await;
    for stream in ["{primary_key: id}", "{}"] {
        let bench = bench(&api, stream);
        let ran = bench.run(&RUN).await.exits(0);
        assert!(
            ids(&bench).ends_with(&(2..=40).collect::<Vec<_>>()),
            "{stream}: {}",
            ran.all()
        );
    }
}
