//! `drawoff --all`: every source of drawoff.yaml, one after the other, each for itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::binary::{Bench, Ran};
use crate::support::fake_api::{FakeApi, Reply};
use crate::support::shop::{COLUMNS, Shelf, connector, rows};
use crate::support::tables::{Row, content, sqlite};

const STREAM: &str = "items: {incremental: {cursor: updated_at, since_param: since, until_param: until, sorted: true}}";

/// A bench whose sources are these, each with a connector and a database of its own.
fn bench(sources: &[(&str, &FakeApi)]) -> Bench {
    let bench = Bench::new();
    let mut settings = String::from("sources:\n");
    for (name, api) in sources {
        bench.connector(name, &connector(&api.url(), &[STREAM]));
        bench.schema(name, "items", &COLUMNS);
        settings += &format!("  {name}: {{destination: \"sqlite:{name}.db\"}}\n");
    }
    bench.write("drawoff.yaml", &settings);
    bench
}

async fn serving(shelf: &Shelf) -> FakeApi {
    let served = shelf.clone();
    FakeApi::start(move |request| served.serve(request)).await
}

fn stored(bench: &Bench, source: &str) -> Vec<Row> {
    content(sqlite(&bench.path(&format!("{source}.db")), "items"))
}

/// How the sources ended, by the last line of a log in JSON.
fn endings(ran: &Ran) -> Vec<(String, String, i64)> {
    let last: Value = serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(last["exit_code"], ran.code.unwrap(), "{ran}");
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let source = |s: &Value| {
        assert!(s["seconds"].is_number() && s["rows"].is_number(), "{ran}");
        let code = s["exit_code"].as_i64().unwrap();
        (text(&s["source"]), text(&s["outcome"]), code)
    };
    last["sources"]
        .as_array()
        .unwrap()
        .iter()
        .map(source)
        .collect()
}

fn ended(source: &str, how: &str, code: i64) -> (String, String, i64) {
    (source.to_owned(), how.to_owned(), code)
}

#[tokio::test]
async fn every_source_in_the_order_of_the_file() {
    let shelves = [Shelf::of(25), Shelf::of(12), Shelf::of(3)];
    let (zoo, acme, mill) = (
        serving(&shelves[0]).await,
        serving(&shelves[1]).await,
        serving(&shelves[2]).await,
    );
    let names = ["zoo", "acme", "mill"];
    let bench = bench(&[("zoo", &zoo), ("acme", &acme), ("mill", &mill)]);
    // As an image has it by default.
    let ran = bench
        .run(&["--all"])
        .await
        .exits(0)
        .says("3 sources: 3 done");
    let at = |name: &str| ran.stdout.find(&format!("{name} → ")).unwrap();
    assert!(at("zoo") < at("acme") && at("acme") < at("mill"), "{ran}");
    for (name, shelf) in names.iter().zip(&shelves) {
        assert_eq!(stored(&bench, name), rows(&shelf.rows()), "{name}");
        let runs = sqlite(&bench.path(&format!("{name}.db")), "_drawoff_runs");
        assert_eq!(runs.len(), 1, "{name}");
        assert_eq!(runs[0]["outcome"], "done");
    }

    // By the environment, and as machines read it.
    let bench = bench
        .env("DRAWOFF_ALL", "true")
        .env("DRAWOFF_LOG_FORMAT", "json");
    let ran = bench.run(&[]).await.exits(0);
    let want: Vec<_> = names.iter().map(|name| ended(name, "done", 0)).collect();
    assert_eq!(endings(&ran), want);

    // One that is named goes before what an image does by default.
    let before = [zoo.count(), mill.count()];
    bench
        .run(&["--all", "--source", "acme"])
        .await
        .exits(0)
        .says("acme → ");
    assert_eq!([zoo.count(), mill.count()], before);
    let bench = bench.env("DRAWOFF_SOURCE", "mill,zoo");
    let ran = bench.run(&["--all"]).await.exits(0);
    assert_eq!(
        endings(&ran),
        [ended("mill", "done", 0), ended("zoo", "done", 0)]
    );
    bench
        .run(&["--all", "--stream", "items"])
        .await
        .exits(2)
        .complains("`--stream` (or its variable) speaks of one source");
}

#[tokio::test]
async fn one_that_fails_keeps_no_other_from_running() {
    let shelf = Shelf::of(15);
    let good = serving(&shelf).await;
    let away = FakeApi::start(|_| Reply::status(403)).await;
    let names = ["away", "typo", "lost", "held", "good"];
    let bench = bench(&names.map(|n| (n, if n == "away" { &away } else { &good })))
        .env("DRAWOFF_LOG_FORMAT", "json");
    // A key that no source has, a connector that is not there, and a run that holds the lease.
    let mut settings = std::fs::read_to_string(bench.path("drawoff.yaml")).unwrap();
    settings = settings.replace("  typo: {", "  typo: {conector: good, ");
    settings = settings.replace("  lost: {", "  lost: {connector: nowhere, ");
    bench.write("drawoff.yaml", &settings);
    std::fs::remove_file(bench.path("connectors/lost.yaml")).unwrap();
    let slow = Arc::new(AtomicBool::new(true));
    let (still, served) = (slow.clone(), shelf.clone());
    let holding = FakeApi::start(move |request| match still.load(Ordering::SeqCst) {
        true => Reply::silence(),
        false => served.serve(request),
    })
    .await;
    bench.connector("held", &connector(&holding.url(), &[STREAM]));
    // Who names a source is told of the whole file.
    let ran = bench.run(&["--source", "good"]).await.exits(2);
    ran.complains("unknown key `conector`");
    let alone = Bench::with("held", &connector(&holding.url(), &[STREAM]));
    alone.schema("held", "items", &COLUMNS);
    let place = format!("sqlite:{}", bench.path("held.db").display());
    let mut other = alone.spawn(&["--source", "held", "--destination", &place]);
    assert!(other.until(|| holding.count() > 0).await);

    let ran = bench.run(&["--all"]).await.exits(1);
    assert_eq!(
        endings(&ran),
        [
            ended("away", "failed", 1),
            ended("typo", "failed", 2),
            ended("lost", "failed", 2),
            ended("held", "failed", 75),
            ended("good", "done", 0),
        ]
    );
    assert_eq!(stored(&bench, "good"), rows(&shelf.rows()));
    let line = |what: &str| {
        ran.stderr
            .find(what)
            .unwrap_or_else(|| panic!("{what}: {ran}"))
    };
    // What is wrong with the configuration is said before any source runs.
    assert!(
        line("unknown key `conector`") < line("stream failed"),
        "{ran}"
    );
    assert!(
        line("could not run source `lost`") < line("stream failed"),
        "{ran}"
    );
    assert!(
        line("could not run source `held`") > line("stream failed"),
        "{ran}"
    );

    // Without the worst, the next worse counts.
    slow.store(false, Ordering::SeqCst);
    other.kill().await;
    let settings = settings.replace("  away: {", "  away: {connector: good, ");
    bench.write("drawoff.yaml", &settings);
    let ran = bench.run(&["--all"]).await.exits(2);
    assert_eq!(endings(&ran)[0], ended("away", "done", 0), "{ran}");
    assert_eq!(endings(&ran)[3], ended("held", "done", 0), "{ran}");
}

#[tokio::test]
async fn no_sources_at_all() {
    let bench = Bench::new();
    bench
        .run(&["--all"])
        .await
        .exits(2)
        .complains("no sources are configured: there is no `drawoff.yaml` here")
        .complains("write them into `drawoff.yaml` under `sources`");
    bench.write("drawoff.yaml", "project: p\n");
    bench
        .run(&["--all"])
        .await
        .exits(2)
        .complains("`drawoff.yaml` has none under `sources`");
    bench.write("drawoff.yaml", "sources: [acme\n");
    bench
        .run(&["--all"])
        .await
        .exits(2)
        .complains("drawoff.yaml:");
}

#[tokio::test]
async fn a_signal_or_the_deadline_ends_all_of_them() {
    for how in ["TERM", "the deadline"] {
        let shelf = Shelf::of(30);
        let first = serving(&shelf).await;
        let slow = Arc::new(AtomicBool::new(true));
        let (still, served) = (slow.clone(), shelf.clone());
        // From its third request on it gives no answer.
        let second = FakeApi::start(move |request| {
            match still.load(Ordering::SeqCst) && request.number >= 2 {
                true => Reply::silence(),
                false => served.serve(request),
            }
        })
        .await;
        let bench = bench(&[("first", &first), ("second", &second), ("third", &first)])
            .env("DRAWOFF_LOG_FORMAT", "json");
        let begun = Instant::now();
        let ran = match how {
            "TERM" => {
                let mut run = bench.spawn(&["--all"]);
                assert!(run.until(|| second.count() > 2).await);
                run.signal("TERM");
                run
            }
            _ => bench.spawn(&["--all", "--deadline", "8s"]),
        };
        let ran = ran.end().await.exits(75);
        assert!(begun.elapsed() < Duration::from_secs(30), "{how}: {ran}");
        assert_eq!(
            endings(&ran),
            [
                ended("first", "done", 0),
                ended("second", "interrupted", 75),
                ended("third", "not_begun", 75),
            ],
            "{how}: {ran}"
        );
        let kept = stored(&bench, "second").len();
        assert!(
            (10..=20).contains(&kept),
            "{how}: {kept} rows, 20 were read: {ran}"
        );
        slow.store(false, Ordering::SeqCst);
        bench.run(&["--all"]).await.exits(0);
        for name in ["first", "second", "third"] {
            assert_eq!(stored(&bench, name), rows(&shelf.rows()), "{how}: {name}");
        }
    }
}
