//! Paging through the program: lists that change while they are read, servers that page in odd ways,
//! pages read ahead.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::binary::Bench;
use crate::support::fake_api::{FakeApi, Received, Reply, linked};
use crate::support::shop::{COLUMNS, Shelf, connector, item, page, rows};
use crate::support::tables::{Row, content, numbers, sqlite};

const RUN: [&str; 2] = ["--source", "shop"];

/// The stream `items` alone, with its schema and this pagination.
fn items(api: &FakeApi, pagination: &str, more: &str) -> Bench {
    let stream = format!("items: {{pagination: {pagination}{more}}}");
    let bench = Bench::with("shop", &connector(&api.url(), &[&stream]));
    bench.schema("shop", "items", &COLUMNS);
    bench
}

fn stored(bench: &Bench) -> Vec<Row> {
    content(sqlite(&bench.path("drawoff.db"), "items"))
}

fn ids(bench: &Bench) -> Vec<i64> {
    numbers(&stored(bench), "id")
}

fn up_to(n: i64) -> Vec<i64> {
    (1..=n).collect()
}

fn records(n: i64) -> Vec<Value> {
    (1..=n).map(|id| item(id, id)).collect()
}

const BY_NUMBER: &str = "{page: {size_param: per_page, size: 10}}";

const SORTED: &str = ", incremental: {cursor: updated_at, since_param: since, sorted: true}";

#[tokio::test]
async fn a_sorted_list_that_changes_while_it_is_read_loses_no_key() {
    for seed in 0..4_i64 {
        let shelf = Shelf::of(100);
        let served = shelf.clone();
        let clock = Mutex::new(1_000);
        let changed = Mutex::new(BTreeSet::new());
        let api = FakeApi::start(move |request| {
            let reply = served.serve(request);
            // After each answer for a while, some record that was read moves to the end, one goes, one
            // comes.
            if request.number < 12 {
                let mut now = clock.lock().unwrap();
                *now += 1;
                served.change(|rows| {
                    let at = usize::try_from((seed * 7 + *now * 13) % 10).unwrap();
                    let moved = rows.remove(at);
                    let id = moved["id"].as_i64().unwrap();
                    changed.lock().unwrap().insert(id);
                    rows.push(item(id, *now));
                    rows.push(item(*now, *now));
                    if *now % 3 == seed % 3 {
                        rows.remove(at);
                    }
                });
            }
            reply
        })
        .await;
        let bench = items(&api, BY_NUMBER, SORTED);
        bench.run(&RUN).await.exits(0);
        let found = ids(&bench);
        let unique: BTreeSet<i64> = found.iter().copied().collect();
        assert_eq!(unique.len(), found.len(), "seed {seed}: duplicates");
        // Deletions cannot be seen; everything that is still there was.
        for row in shelf.rows() {
            let id = row["id"].as_i64().unwrap();
            assert!(unique.contains(&id), "seed {seed}: {id} was lost");
        }
        // What was read in its old state is read again.
        bench.run(&RUN).await.exits(0);
        let now: BTreeSet<String> = stored(&bench)
            .iter()
            .map(|r| json!(r).to_string())
            .collect();
        for row in rows(&shelf.rows()) {
            assert!(
                now.contains(&json!(row).to_string()),
                "seed {seed}: {row:?} is stale"
            );
        }
    }
}

/// Newest first, no order in time that the engine could go by: an insertion pushes records to later
/// pages, where they are read twice and stored once; a deletion pulls some to pages that were read,
/// and those wait for the next run.
#[tokio::test]
async fn a_list_newest_first_has_no_duplicates() {
    let shelf = Shelf::of(50);
    let served = shelf.clone();
    let api = FakeApi::start(move |request| {
        let mut all = served.rows();
        all.reverse();
        let reply = page(&all, request);
        let n = i64::try_from(request.number).unwrap();
        if n < 4 {
            served.change(|rows| rows.push(item(100 + n, 100 + n)));
        }
        reply
    })
    .await;
    let bench = items(&api, BY_NUMBER, ", incremental: {cursor: updated_at}");
    bench.run(&RUN).await.exits(0);
    assert_eq!(ids(&bench), up_to(50), "what came while it was read waits");
    bench.run(&RUN).await.exits(0);
    assert_eq!(stored(&bench), rows(&shelf.rows()));
}

#[tokio::test]
async fn pages_are_read_ahead_and_come_in_order() {
    const PAGES: usize = 100;
    let wait = Duration::from_millis(100);
    let all = records(1_000);
    let api = FakeApi::start(move |request| page(&all, request).delay(wait)).await;
    let bench = Bench::with(
        "shop",
        &connector(
            &api.url(),
            &["items: {primary_key: ~, pagination: {page: {size_param: per_page, size: 10, total: /total, total_pages: /total_pages, read_ahead: true}}}"],
        )
        .replace("records:", "rate_limit: {requests: 10000, per: 1s, concurrency: 10}\nrecords:"),
    );
    bench.schema("shop", "items", &COLUMNS);
    let begun = Instant::now();
    bench.run(&RUN).await.exits(0);
    let took = begun.elapsed();
    let serial = wait * u32::try_from(PAGES).unwrap();
    assert!(took < serial.mul_f64(0.6), "{took:?}");
    assert_eq!(api.count(), PAGES);
    let order: Vec<i64> = sqlite(&bench.path("drawoff.db"), "items")
        .iter()
        .map(|r| r["id"].as_i64().unwrap())
        .collect();
    assert_eq!(order, up_to(1_000));
}

#[tokio::test]
async fn a_server_that_repeats_its_last_page_is_found_out() {
    let all = records(25);
    let api = FakeApi::start(move |request| {
        let asked = request.number_param("page").unwrap().min(3);
        Reply::json(&json!({"data": all.chunks(10).nth(asked - 1).unwrap()}))
    })
    .await;
    let bench = items(&api, BY_NUMBER, "");
    bench
        .run(&RUN)
        .await
        .exits(1)
        .says("turns in a circle")
        .says("hint: ");
    assert_eq!(api.count(), 4);
    assert!(stored(&bench).is_empty());
}

#[tokio::test]
async fn a_next_page_on_another_machine_is_refused() {
    for kind in ["link", "body", "redirect"] {
        let stranger = FakeApi::start(|_: &Received| Reply::json(&json!({"data": []}))).await;
        let away = stranger
            .at("/items?page=2&token=canary-in-a-query")
            .to_string();
        let api = FakeApi::start(move |_| {
            let reply = Reply::json(&json!({"data": records(3), "next": away}));
            match kind {
                "link" => reply.header("link", format!("<{away}>; rel=\"next\"")),
                "redirect" => Reply::redirect(302, away.clone()),
                _ => reply,
            }
        })
        .await;
        let pagination = match kind {
            "link" => "{link_header: {}}",
            _ => "{next_url: {next: /next}}",
        };
        let bench = items(&api, pagination, "");
        let ran = bench.run(&RUN).await;
        assert!(matches!(ran.code, Some(1 | 2)), "{kind}: {ran}");
        assert!(
            ran.stdout
                .contains(&stranger.url().port().unwrap().to_string()),
            "{ran}"
        );
        assert!(!ran.all().contains("canary-in-a-query"), "{ran}");
        assert_eq!(stranger.connections(), 0, "{kind}: nothing may reach it");
        assert_eq!(api.count(), 1);
    }
}

#[tokio::test]
async fn every_kind_of_paging_reads_all_of_it() {
    type Serve = fn(&Received) -> Reply;
    fn all() -> Vec<Value> {
        records(25)
    }
    fn start(request: &Received, name: &str) -> usize {
        request.number_param(name).unwrap_or(0)
    }
    fn cut(from: usize, size: usize) -> (Vec<Value>, Option<usize>) {
        let all = all();
        let to = (from + size).min(all.len());
        let next = (to < all.len()).then_some(to);
        (all[from.min(to)..to].to_vec(), next)
    }
    let kinds: [(&str, &str, Serve, usize); 11] = [
        (
            "pages from zero",
            "{page: {size_param: per_page, size: 10, first_page: 0}}",
            |r| {
                let page = r.number_param("page").unwrap();
                Reply::json(&json!({"data": cut((page * 10).min(25), 10).0}))
            },
            4,
        ),
        (
            "a server that caps the size",
            "{page: {size_param: per_page, size: 500}}",
            |r| {
                let page = r.number_param("page").unwrap();
                Reply::json(&json!({"data": cut((page * 7 - 7).min(25), 7).0}))
            },
            5,
        ),
        (
            "a capped size, by total",
            "{page: {size_param: per_page, size: 500, total: /total}}",
            |r| {
                let page = r.number_param("page").unwrap();
                Reply::json(&json!({"data": cut((page * 7 - 7).min(25), 7).0, "total": 25}))
            },
            4,
        ),
        (
            "a short page is the last",
            "{page: {size_param: per_page, size: 10, stop_on_short_page: true}}",
            |r| page(&all(), r),
            3,
        ),
        (
            "has_more",
            "{page: {size_param: per_page, size: 10, has_more: /more}}",
            |r| {
                let page = r.number_param("page").unwrap();
                let (data, next) = cut(page * 10 - 10, 10);
                Reply::json(&json!({"data": data, "more": next.is_some()}))
            },
            3,
        ),
        (
            "offset",
            "{offset: {limit: 10}}",
            |r| {
                assert_eq!(r.param("limit").as_deref(), Some("10"));
                Reply::json(&json!({"data": cut(start(r, "offset").min(25), 10).0}))
            },
            4,
        ),
        (
            "offset with a capped size",
            "{offset: {limit: 100}}",
            |r| Reply::json(&json!({"data": cut(start(r, "offset").min(25), 10).0})),
            4,
        ),
        (
            "cursor token",
            "{cursor: {param: after, next: /meta/next}}",
            |r| {
                let (data, next) = cut(start(r, "after"), 10);
                Reply::json(&json!({"data": data, "meta": {"next": next.map(|n| n.to_string())}}))
            },
            3,
        ),
        (
            "token in a header",
            "{cursor: {param: after, next: \"header:X-Next\"}}",
            |r| {
                let (data, next) = cut(start(r, "after"), 10);
                let reply = Reply::json(&json!({"data": data}));
                match next {
                    Some(next) => reply.header("x-next", next.to_string()),
                    None => reply,
                }
            },
            3,
        ),
        (
            "next URL in the body, relative",
            "{next_url: {next: /next}}",
            |r| {
                let (data, next) = cut(start(r, "from"), 10);
                Reply::json(
                    &json!({"data": data, "next": next.map(|n| format!("/items?from={n}"))}),
                )
            },
            3,
        ),
        (
            "next URL in the body, whole",
            "{next_url: {next: /next}}",
            |r| {
                let (data, next) = cut(start(r, "from"), 10);
                let host = r.header("host").unwrap();
                Reply::json(
                    &json!({"data": data, "next": next.map(|n| format!("http://{host}/items?from={n}"))}),
                )
            },
            3,
        ),
    ];
    for (what, pagination, serve, requests) in kinds {
        let api = FakeApi::start(serve).await;
        let bench = items(&api, pagination, "");
        let ran = bench.run(&RUN).await;
        assert_eq!(ran.code, Some(0), "{what}: {ran}");
        assert_eq!(stored(&bench), rows(&all()), "{what}");
        assert_eq!(api.count(), requests, "{what}");
    }
}

#[tokio::test]
async fn link_header() {
    let api = FakeApi::start(linked(records(25))).await;
    let bench = items(
        &api,
        "{link_header: {size_param: per_page, size: 10}}",
        ", records: \"\", params: {state: all}",
    );
    bench.run(&RUN).await.exits(0);
    assert_eq!(ids(&bench), up_to(25));
    assert_eq!(api.count(), 3);
    for request in api.requests() {
        assert_eq!(request.param("state").as_deref(), Some("all"));
    }
}

#[tokio::test]
async fn a_token_in_the_body_of_a_post() {
    let all = records(25);
    let api = FakeApi::start(move |request: &Received| {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(request.method, "POST");
        assert_eq!(body["filter"], json!({"kind": "all"}));
        assert_eq!(body["page"]["size"], 10);
        let from = body["page"]["after"]
            .as_str()
            .map_or(0, |t| t[1..].parse().unwrap());
        let to = (from + 10).min(all.len());
        let next = (to < all.len()).then(|| format!("t{to}"));
        Reply::json(&json!({"data": all[from..to], "next": next}))
    })
    .await;
    let bench = items(
        &api,
        "{cursor: {param: /page/after, next: /next}}",
        ", method: POST, repeatable: true, body: {filter: {kind: all}, page: {size: 10, after: ~}}",
    );
    bench.run(&RUN).await.exits(0);
    assert_eq!(ids(&bench), up_to(25));
    assert_eq!(api.count(), 3);
}
