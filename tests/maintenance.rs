//! The machine under a run is looked after: Cloud Run sends SIGTSTP ten seconds before, SIGCONT after, and
//! connections do not survive it. The run goes on, or leaves it to the next; rows are neither lost nor doubled.

use std::time::Duration;

use crate::support::binary::{Bench, Running, moment};
use crate::support::emulator::{Emulator, PROJECT};
use crate::support::fake_api::FakeApi;
use crate::support::faults::Line;
use crate::support::shop::{COLUMNS, Shelf, connector, rows};
use crate::support::tables::{content, numbers, sqlite};

const RUN: [&str; 2] = ["--source", "shop"];

const SORTED: &str = "incremental: {cursor: updated_at, since_param: since, sorted: true}";

const ROWS: i64 = 120;

/// Pages before which a run is stopped.
const STOP_AT: usize = 4;

/// An API that takes its time, behind a line.
async fn slow(shelf: &Shelf) -> (FakeApi, Line) {
    let served = shelf.clone();
    let api =
        FakeApi::start(move |request| served.serve(request).delay(Duration::from_millis(100)))
            .await;
    let url = api.url();
    let address = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let line = Line::to(&address).await;
    (api, line)
}

fn bench(line: &Line, more: &str) -> Bench {
    let url = format!("http://{}", line.address).parse().unwrap();
    let stream = format!("items: {{{SORTED}{more}}}");
    let bench = Bench::with("shop", &connector(&url, &[&stream]));
    bench.schema("shop", "items", &COLUMNS);
    bench
}

/// The kernel's word for what the process does: `T` when it is stopped.
fn state(id: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

async fn stops(run: &mut Running, signal: &str) {
    run.signal(signal);
    let id = run.id();
    let stopped = run.until(|| state(id) == 'T').await;
    assert!(stopped, "it ended: {}", run.said());
}

#[tokio::test]
async fn a_process_that_is_stopped_goes_on() {
    // The second stop is longer than the lease holds.
    for (signal, lease, pause) in [("TSTP", "3m", 1), ("STOP", "2s", 5)] {
        let shelf = Shelf::of(ROWS);
        let (api, line) = slow(&shelf).await;
        let bench = bench(&line, "").env("DRAWOFF_LEASE", lease);
        let mut run = bench.spawn_in_a_group(&RUN);
        assert!(run.until(|| api.count() >= STOP_AT).await);
        stops(&mut run, signal).await;
        // What it has asked for still arrives.
        moment(Duration::from_millis(500)).await;
        let asked = api.count();
        moment(Duration::from_secs(pause)).await;
        assert_eq!(api.count(), asked, "it was not stopped");
        assert!(line.cut() > 0);
        run.signal("CONT");
        let ran = run.end().await;
        // Nobody else took the lease meanwhile, so that it is renewed late.
        assert_eq!(ran.code, Some(0), "{signal}: {ran}");
        assert!(api.count() > asked, "{signal}: {ran}");
        let found = content(sqlite(&bench.path("drawoff.db"), "items"));
        assert_eq!(found, rows(&shelf.rows()), "{signal}: {ran}");
    }
}

#[tokio::test]
async fn one_that_was_overtaken_while_it_was_stopped_publishes_nothing_more() {
    for how in ["", ", primary_key: ~"] {
        let shelf = Shelf::of(ROWS);
        let (api, line) = slow(&shelf).await;
        let bench = bench(&line, how).env("DRAWOFF_LEASE", "2s");
        let mut run = bench.spawn_in_a_group(&RUN);
        assert!(run.until(|| api.count() >= STOP_AT).await);
        stops(&mut run, "STOP").await;
        moment(Duration::from_secs(3)).await;
        bench.run(&RUN).await.exits(0);
        let found = content(sqlite(&bench.path("drawoff.db"), "items"));
        assert_eq!(found, rows(&shelf.rows()));
        run.signal("CONT");
        let ran = run.end().await.exits(75);
        assert!(ran.all().contains("lease"), "{ran}");
        let found = content(sqlite(&bench.path("drawoff.db"), "items"));
        assert_eq!(found, rows(&shelf.rows()), "{ran}");
    }
}

#[tokio::test]
async fn in_a_session_of_its_own_the_request_to_stop_is_not_heard() {
    let shelf = Shelf::of(ROWS);
    let (api, line) = slow(&shelf).await;
    let bench = bench(&line, "");
    // As in a container, there is no terminal, nor a shell that would let it go on.
    let mut run = bench.spawn_in_a_session(&RUN);
    assert!(run.until(|| api.count() >= STOP_AT).await);
    run.signal("TSTP");
    moment(Duration::from_millis(300)).await;
    assert_ne!(state(run.id()), 'T');
    let asked = api.count();
    assert!(run.until(|| api.count() > asked).await, "{}", run.said());
    run.signal("CONT");
    run.end().await.exits(0);
    let found = content(sqlite(&bench.path("drawoff.db"), "items"));
    assert_eq!(found, rows(&shelf.rows()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_is_lost_on_the_way_into_bigquery() {
    let emulator = Emulator::get();
    for (method, key) in [
        ("storage_write", "[id]"),
        ("load_job", "[id]"),
        ("stream", "~"),
        ("insert_all", "~"),
    ] {
        let shelf = Shelf::of(ROWS);
        let (api, line) = slow(&shelf).await;
        let host = emulator.rest().trim_start_matches("http://");
        let (rest, grpc) = tokio::join!(Line::to(host), Line::to(emulator.grpc()));
        let more = format!(", primary_key: {key}, table: {{write_method: {method}}}");
        let bench = bench(&line, &more)
            .bigquery(&rest.address, &grpc.address)
            .env("DRAWOFF_SLICE_ROWS", "50");
        let dataset = emulator.dataset("moved");
        let destination = format!("bigquery:{PROJECT}.{dataset}");
        let args = [&RUN[..], &["--destination", &destination]].concat();
        let mut run = bench.spawn_in_a_group(&args);
        assert!(run.until(|| api.count() >= STOP_AT).await, "{}", run.said());
        stops(&mut run, "TSTP").await;
        moment(Duration::from_secs(1)).await;
        let cut = line.cut() + rest.cut() + grpc.cut();
        assert!(cut > 0, "{method}: nothing was connected");
        run.signal("CONT");
        let ran = run.end().await;
        assert_eq!(ran.code, Some(0), "{method}: {ran}");
        let found = emulator.query(&format!("SELECT id FROM {dataset}.items ORDER BY id"));
        let ids = numbers(&serde_json::from_value::<Vec<_>>(found).unwrap(), "id");
        assert_eq!(ids, (1..=ROWS).collect::<Vec<_>>(), "{method}: {ran}");
    }
}

#[tokio::test]
async fn connections_that_are_lost_again_and_again() {
    let shelf = Shelf::of(ROWS);
    let (_api, line) = slow(&shelf).await;
    let bench = bench(&line, "");
    let mut run = bench.spawn(&RUN);
    while run.ended().is_none() {
        moment(Duration::from_millis(rand::random_range(150..600))).await;
        line.cut();
    }
    run.end().await.exits(0).says("sent again");
    let found = content(sqlite(&bench.path("drawoff.db"), "items"));
    assert_eq!(found, rows(&shelf.rows()));
}
