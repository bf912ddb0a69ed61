//! What a run says of itself: JSON lines for Cloud Logging, failures for Error Reporting, traces and
//! metrics for an OpenTelemetry collector.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::binary::{Bench, Ran, STOPS_WITHIN};
use crate::support::collector::{Collector, Span, counts, gauge, sum};
use crate::support::fake_api::{FakeApi, Received, Reply};
use crate::support::google::{Call, Google};
use crate::support::plain_http::Answer;
use crate::support::served::Served;
use crate::support::shop::page;
use crate::support::tables::sqlite;

const CANARY: &str = "canary-7f3a91c2";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const PROJECT: &str = "traced-project";

const ID: &str = "logging.googleapis.com/insertId";
const LABELS: &str = "logging.googleapis.com/labels";
const SAMPLED: &str = "logging.googleapis.com/trace_sampled";
const SPAN: &str = "logging.googleapis.com/spanId";
const IN_TRACE: &str = "logging.googleapis.com/trace";

/// What an export's timeout, or the wait for one at the end, could cost at the most, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn traceparent(sampled: bool) -> String {
    format!("00-{TRACE}-{PARENT}-0{}", u8::from(sampled))
}

/// A shop whose key goes into the query, with JSON lines from DEBUG up.
fn shop(api: &FakeApi, streams: &[&str]) -> Bench {
    let streams: String = streams.iter().map(|s| format!("  {s}\n")).collect();
    let yaml = format!(
        "title: Shop\n\
         config: {{key: {{description: Key, secret: true}}}}\n\
         base_url: {}\n\
         auth: {{api_key: {{query: key, value: \"{{{{ config.key }}}}\"}}}}\n\
         pagination: {{page: {{page_param: page, size_param: per_page, size: 10, total: /total, read_ahead: true}}}}\n\
         records: /data\n\
         primary_key: [id]\n\
         streams:\n{streams}",
        api.url().as_str().trim_end_matches('/')
    );
    Bench::with("shop", &yaml)
        .env("DRAWOFF_SHOP_KEY", CANARY)
        .env("DRAWOFF_LOG_FORMAT", "json")
        .env("GOOGLE_CLOUD_PROJECT", PROJECT)
}

fn rows(count: u64) -> Vec<Value> {
    (1..=count).map(|id| json!({"id": id})).collect()
}

/// Serves `items` (25) and `orders` (7); the first request of all is told to come back.
async fn api() -> FakeApi {
    let before = AtomicUsize::new(0);
    FakeApi::start(move |request: &Received| {
        if before.fetch_add(1, Ordering::SeqCst) == 0 {
            return Reply::too_many("1");
        }
        page(
            &rows(if request.path.contains("items") {
                25
            } else {
                7
            }),
            request,
        )
    })
    .await
}

fn lines(ran: &Ran) -> Vec<Value> {
    parsed(&ran.stderr)
}

fn parsed(text: &str) -> Vec<Value> {
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
        .collect()
}

fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut found = spans.iter().filter(|s| s.name == name);
    let first = found
        .next()
        .unwrap_or_else(|| panic!("no `{name}` in {spans:#?}"));
    assert!(found.next().is_none(), "more than one `{name}`: {spans:#?}");
    first
}

fn no_canary(collector: &Collector) {
    for request in collector.requests() {
        let all = format!(
            "{} {} {:?} {}",
            request.path,
            request.query,
            request.headers,
            String::from_utf8_lossy(&request.body)
        );
        assert!(!all.contains("canary"), "{all}");
        assert!(!all.contains("per_page"), "{all}");
    }
}

#[tokio::test]
async fn a_run_is_a_trace_and_its_metrics_are_what_it_counted() {
    let (api, collector) = (api().await, Collector::start().await);
    let bench = shop(&api, &["items:", "orders:"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .env(
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        )
        .env("CLOUD_RUN_JOB", "nightly")
        .env("CLOUD_RUN_EXECUTION", "nightly-x7k2")
        .env("CLOUD_RUN_TASK_INDEX", "0")
        .env("CLOUD_RUN_TASK_COUNT", "1")
        .env("CLOUD_RUN_TASK_ATTEMPT", "1");
    let ran = bench.run(&["--source", "shop"]).await.exits(0);
    let runs = sqlite(&bench.path("drawoff.db"), "_drawoff_runs");
    assert_eq!(runs.len(), 2);
    let run_id = runs[0]["run_id"].as_str().unwrap();

    // Spans: run → stream → slice → publish, and requests below their stream.
    let spans = collector.spans();
    let run = one(&spans, "run");
    assert_eq!(run.parent, "", "{run:?}");
    assert_eq!(run.attributes["source"], "shop");
    assert_eq!(run.attributes["run_id"], run_id);
    assert!(spans.iter().all(|s| s.trace == run.trace), "{spans:#?}");
    assert!(spans.iter().all(|s| s.events == 0), "{spans:#?}");
    let ids: BTreeSet<&str> = spans.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids.len(), spans.len());
    for name in ["items", "orders"] {
        let of = |s: &&Span| s.name == "stream" && s.attributes["stream"] == name;
        let stream = spans.iter().find(of).unwrap();
        assert_eq!(stream.parent, run.id);
        assert!(run.began <= stream.began && stream.ended <= run.ended);
        let slices = spans
            .iter()
            .filter(|s| s.name == "slice" && s.parent == stream.id);
        let slices: Vec<&Span> = slices.collect();
        assert_eq!(slices.len(), 1, "{spans:#?}");
        assert_eq!(slices[0].attributes["table"], name);
        let publish = spans
            .iter()
            .filter(|s| s.name == "publish" && s.parent == slices[0].id);
        assert_eq!(publish.count(), 1, "{spans:#?}");
        let requests = spans
            .iter()
            .filter(|s| s.name == "GET" && s.parent == stream.id);
        let counted = runs.iter().find(|r| r["stream"] == name).unwrap();
        assert_eq!(
            Some(requests.count() as i64),
            counted["requests"].as_i64(),
            "{spans:#?}"
        );
    }
    let requests: Vec<&Span> = spans.iter().filter(|s| s.name == "GET").collect();
    assert_eq!(requests.len(), api.count());
    for request in &requests {
        assert_eq!(request.kind, 3, "a client's: {request:?}");
        assert_eq!(request.attributes["http.request.method"], "GET");
        assert_eq!(request.attributes["server.address"], "127.0.0.1");
        assert_eq!(
            request.attributes["server.port"],
            api.url().port().unwrap().to_string()
        );
        let status = &request.attributes["http.response.status_code"];
        assert_eq!(request.failed, status == "429", "{request:?}");
        assert!(
            request.attributes.keys().all(|k| !k.contains("url")),
            "{request:?}"
        );
    }
    assert_eq!(requests.iter().filter(|r| r.failed).count(), 1);

    // Metrics: those of the table of runs.
    let metrics = collector.metrics();
    for (metric, column) in [
        ("drawoff.pages", "pages"),
        ("drawoff.records", "records"),
        ("drawoff.rows", "published"),
        ("drawoff.rejected", "rejected"),
        ("drawoff.slices", "slices"),
        ("drawoff.received", "bytes"),
        ("drawoff.requests", "requests"),
        ("drawoff.retries", "retries"),
        ("drawoff.throttled", "throttled"),
    ] {
        let total = |r: &crate::support::tables::Row| r[column].as_u64().unwrap();
        for run in &runs {
            let stream = run["stream"].as_str().unwrap();
            let says = [("source", "shop"), ("stream", stream)];
            assert_eq!(
                sum(&metrics[metric], &says),
                total(run),
                "{metric} of {stream}"
            );
        }
        let all: u64 = runs.iter().map(total).sum();
        assert_eq!(sum(&metrics[metric], &[]), all, "{metric}");
    }
    assert_eq!(sum(&metrics["drawoff.rows"], &[]), 32);
    assert_eq!(sum(&metrics["drawoff.throttled"], &[]), 1);
    let waited = sum(&metrics["drawoff.rate_limit.wait"], &[]);
    assert!((900..60_000).contains(&waited), "{waited} ms");
    let latency = counts(&metrics["http.client.request.duration"]);
    assert_eq!(
        latency.iter().map(|l| l.1).sum::<u64>(),
        requests.len() as u64
    );
    for (about, count, seconds) in &latency {
        assert_eq!(about["server.address"], "127.0.0.1");
        if about["http.response.status_code"] == "429" {
            assert_eq!(*count, 1);
        }
        assert!((0.0..60.0).contains(seconds), "{about:?}");
    }
    let memory = gauge(&metrics["process.memory.usage"]);
    assert!((4 << 20..2 << 30).contains(&memory), "{memory}");

    for resource in collector.resources() {
        for (name, value) in [
            ("service.name", "drawoff"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("deployment.environment.name", "test"),
            ("cloud.platform", "gcp_cloud_run"),
            ("faas.name", "nightly"),
            ("gcp.cloud_run.job.execution", "nightly-x7k2"),
            ("gcp.cloud_run.job.task_index", "0"),
        ] {
            assert_eq!(resource[name], value);
        }
    }
    no_canary(&collector);

    // Lines stand where the spans do.
    let lines = lines(&ran);
    let done: Vec<&Value> = lines
        .iter()
        .filter(|l| l["message"] == "stream done")
        .collect();
    assert_eq!(done.len(), 2, "{ran}");
    for line in done {
        let of =
            |s: &&Span| s.attributes.get("stream").map(String::as_str) == line["stream"].as_str();
        let stream = spans.iter().find(of).unwrap();
        assert_eq!(
            line[IN_TRACE],
            format!("projects/{PROJECT}/traces/{}", run.trace)
        );
        assert_eq!(line[SPAN], stream.id);
        assert_eq!(line[SAMPLED], true);
        assert_eq!(
            line[LABELS],
            json!({"source": "shop", "stream": line["stream"], "run_id": run_id,
                "execution": "nightly-x7k2", "task_index": "0", "attempt": "1"})
        );
    }
}

#[tokio::test]
async fn without_a_collector_nothing_is_sent_and_lines_stand_in_no_trace() {
    let (api, collector) = (api().await, Collector::start().await);
    let bench = shop(&api, &["items:"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .env("OTEL_SDK_DISABLED", "true");
    let ran = bench.run(&["--source", "shop", "-v"]).await.exits(0);
    assert_eq!(collector.requests().len(), 0);
    let lines = lines(&ran);
    assert!(lines.len() > 2, "{ran}");
    let ids: Vec<&str> = lines.iter().map(|l| l[ID].as_str().unwrap()).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    for line in &lines {
        for name in [IN_TRACE, SPAN, SAMPLED, "trace_id"] {
            assert_eq!(line.get(name), None, "{line}");
        }
    }
    assert!(!ran.all().contains("canary"), "{ran}");

    // Metrics alone.
    let bench = shop(&api, &["items:"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .env("OTEL_TRACES_EXPORTER", "none");
    bench.run(&["--source", "shop"]).await.exits(0);
    assert_eq!(collector.spans().len(), 0);
    assert_eq!(sum(&collector.metrics()["drawoff.rows"], &[]), 25);
}

#[tokio::test]
async fn a_process_may_belong_to_a_trace() {
    let (api, collector) = (api().await, Collector::start().await);
    let bench = shop(&api, &["items:"])
        .env("TRACEPARENT", &traceparent(true))
        .env(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            &format!("{}/v1/traces", collector.url()),
        );
    bench.run(&["--source", "shop"]).await.exits(0);
    let spans = collector.spans();
    let run = one(&spans, "run");
    assert_eq!((run.trace.as_str(), run.parent.as_str()), (TRACE, PARENT));
    assert!(collector.metrics().is_empty());

    let bench = shop(&api, &["items:"]).env("TRACEPARENT", &traceparent(true));
    let ran = bench.run(&["--source", "shop"]).await.exits(0);
    for line in lines(&ran) {
        assert_eq!(line[IN_TRACE], format!("projects/{PROJECT}/traces/{TRACE}"));
        assert_eq!(
            (&line[SPAN], &line[SAMPLED]),
            (&json!(PARENT), &json!(true))
        );
    }
    let bench = shop(&api, &["items:"]).env("TRACEPARENT", "00-nonsense");
    let ran = bench.run(&["--source", "shop"]).await.exits(0);
    assert!(
        lines(&ran).iter().all(|l| l.get(IN_TRACE).is_none()),
        "{ran}"
    );
}

#[tokio::test]
async fn a_collector_that_fails_or_hangs_is_one_warning_and_no_delay() {
    let api = api().await;
    let failing = Collector::answering(|_| Reply::status(500).body(format!("no {CANARY}"))).await;
    let hanging = Collector::answering(|_| Reply::silence()).await;
    let dead = {
        let gone = FakeApi::start(|_| Reply::status(200)).await;
        gone.url().as_str().trim_end_matches('/').to_owned()
    };
    for (url, said) in [
        (failing.url(), "500"),
        (hanging.url(), "did not answer in time"),
        (dead, "error"),
    ] {
        let url = url.trim_end_matches('/');
        let to = |what: &str| format!("{url}/v1/{what}?key=canary-of-address");
        let bench = shop(&api, &["items:", "orders:"])
            .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &to("traces"))
            .env("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &to("metrics"))
            .env(
                "OTEL_EXPORTER_OTLP_HEADERS",
                "authorization=Bearer%20canary-of-collector",
            )
            .env("OTEL_BSP_SCHEDULE_DELAY", "50")
            .env("OTEL_METRIC_EXPORT_INTERVAL", "50");
        let begun = Instant::now();
        let ran = bench.run(&["--source", "shop"]).await.exits(0);
        assert!(begun.elapsed() < PATIENCE, "{:?}: {ran}", begun.elapsed());
        let lines = lines(&ran);
        let warned: Vec<&Value> = lines
            .iter()
            .filter(|l| l["message"].as_str().unwrap().contains("collector"))
            .collect();
        assert_eq!(warned.len(), 1, "{ran}");
        assert_eq!(warned[0]["severity"], "WARNING");
        assert!(
            warned[0]["message"].as_str().unwrap().contains(said),
            "{ran}"
        );
        assert!(!ran.all().contains("canary"), "{ran}");
        let rows = sqlite(&bench.path("drawoff.db"), "items");
        assert_eq!(rows.len(), 25);
    }
    assert!(!failing.requests().is_empty() && !hanging.requests().is_empty());
    let sent = &failing.requests()[0];
    assert_eq!(
        sent.header("authorization"),
        Some("Bearer canary-of-collector")
    );
}

#[tokio::test]
async fn what_cannot_be_exported_to_is_said_and_the_run_goes_on() {
    let api = api().await;
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "not a url"),
    ] {
        let bench = shop(&api, &["items:"])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
            .env(name, value);
        let ran = bench.run(&["--source", "shop"]).await.exits(0);
        let said = "no traces and no metrics are exported";
        let warned = lines(&ran);
        let warned: Vec<&Value> = warned
            .iter()
            .filter(|l| l["message"].as_str().unwrap().contains(said))
            .collect();
        assert_eq!(warned.len(), 1, "{name}={value}: {ran}");
        assert!(warned[0]["hint"].is_string(), "{ran}");
    }
}

#[tokio::test]
async fn a_hanging_collector_does_not_hold_up_a_stop() {
    let collector = Collector::answering(|_| Reply::silence()).await;
    let api = FakeApi::start(|request: &Received| match request.number_param("page") {
        Some(1) => page(&rows(100), request),
        _ => page(&rows(100), request).delay(Duration::from_secs(1)),
    })
    .await;
    let bench = shop(&api, &["items:"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "50");
    let mut running = bench.spawn(&["--source", "shop"]);
    assert!(running.until(|| api.count() > 1).await);
    running.signal("TERM");
    let asked = Instant::now();
    let ran = running.end().await.exits(75);
    assert!(
        asked.elapsed() < STOPS_WITHIN,
        "{:?}: {ran}",
        asked.elapsed()
    );
}

const WISH: &str = r#"{"source": "shop"}"#;

#[tokio::test]
async fn lines_and_spans_of_a_run_that_was_asked_for_are_the_requests() {
    let (api, collector) = (api().await, Collector::start().await);
    let bench = shop(&api, &["items:", "orders:"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .env("K_SERVICE", "puller");
    let served = Served::start(&bench, &["-v"]).await;
    let traced = served
        .run_with(&[("traceparent", &traceparent(true))], WISH)
        .await;
    assert_eq!(traced.status, 200, "{traced:?}");
    let unsampled = traceparent(false).replace(TRACE, "aaaabbbbccccddddeeeeffff00001111");
    let unsampled = served.run_with(&[("traceparent", &unsampled)], WISH).await;
    assert_eq!(unsampled.status, 200);
    let ran = served.end().await.exits(0);

    let spans = collector.spans();
    let asked = one(&spans, "POST /run");
    assert_eq!(
        (asked.trace.as_str(), asked.parent.as_str()),
        (TRACE, PARENT)
    );
    assert_eq!(asked.kind, 2, "a server's: {asked:?}");
    assert_eq!(one(&spans, "run").parent, asked.id);
    assert!(spans.iter().all(|s| s.trace == TRACE), "{spans:#?}");
    let run_id = traced.json()["run_id"].clone();
    let lines = lines(&ran);
    let of_run: Vec<&Value> = lines.iter().filter(|l| l["run_id"] == run_id).collect();
    assert!(of_run.len() >= 4, "{ran}");
    let known: BTreeSet<&str> = spans.iter().map(|s| s.id.as_str()).collect();
    for line in of_run {
        assert_eq!(
            line[IN_TRACE],
            format!("projects/{PROJECT}/traces/{TRACE}"),
            "{line}"
        );
        assert!(known.contains(line[SPAN].as_str().unwrap()), "{line}");
    }
    let run_id = unsampled.json()["run_id"].clone();
    let unsampled: Vec<&Value> = lines.iter().filter(|l| l["run_id"] == run_id).collect();
    assert!(unsampled.len() >= 3, "{ran}");
    for line in unsampled {
        let trace = format!("projects/{PROJECT}/traces/aaaabbbbccccddddeeeeffff00001111");
        assert_eq!(line[IN_TRACE], trace, "{line}");
        assert_eq!(line[SAMPLED], false, "{line}");
    }
    // Both runs count.
    assert_eq!(sum(&collector.metrics()["drawoff.rows"], &[]), 64);
    no_canary(&collector);
}

#[tokio::test]
async fn lines_carry_the_requests_trace_without_a_collector_and_malformed_ones_none() {
    let broken = AtomicUsize::new(0);
    // The total is known: later pages are asked for ahead, by tasks of their own.
    let api = FakeApi::start(move |request: &Received| {
        let last = request.number_param("page") == Some(3);
        match last && broken.fetch_add(1, Ordering::SeqCst) == 0 {
            true => Reply::status(503),
            false => page(&rows(25), request),
        }
    })
    .await;
    let bench = shop(&api, &["items:"]);
    let served = Served::start(&bench, &["-v"]).await;
    let google = format!("{TRACE}/255;o=1");
    let google = served
        .run_with(&[("x-cloud-trace-context", &google)], WISH)
        .await;
    let both = [
        ("traceparent", "00-nonsense-01"),
        ("x-cloud-trace-context", "also/nonsense"),
    ];
    let malformed = served.run_with(&both, WISH).await;
    assert_eq!((google.status, malformed.status), (200, 200));
    let ran = served.end().await.exits(0);
    let lines = lines(&ran);
    let of = |answer: &Answer| -> Vec<&Value> {
        let id = answer.json()["run_id"].clone();
        let all: Vec<&Value> = lines.iter().filter(|l| l["run_id"] == id).collect();
        assert!(all.len() >= 2, "{ran}");
        all
    };
    let traced = of(&google);
    for line in &traced {
        assert_eq!(
            line[IN_TRACE],
            format!("projects/{PROJECT}/traces/{TRACE}"),
            "{line}"
        );
        assert_eq!(line[SPAN], "00000000000000ff", "{line}");
        assert_eq!(line[SAMPLED], true, "{line}");
    }
    // A line of a task that the run spawned.
    let again = |l: &&&Value| l["message"].as_str().unwrap().contains("trying again");
    let again = traced.iter().find(again).unwrap_or_else(|| panic!("{ran}"));
    assert_eq!(again[LABELS]["stream"], "items");
    for line in of(&malformed) {
        assert_eq!(line.get(IN_TRACE), None, "{line}");
        assert_eq!(line.get(SPAN), None, "{line}");
    }
}

/// The failures' lines of a run of these streams, with more flags, against an API that answers so.
async fn failures(
    status: u16,
    source: &str,
    streams: &[&str],
    code: i32,
    more: &[&str],
) -> Vec<Value> {
    let api = FakeApi::start(move |_| Reply::status(status).body("what it says")).await;
    let streams: String = streams.iter().map(|s| format!("  {s}:\n")).collect();
    let yaml = format!(
        "title: X\nbase_url: {}\nrecords: /data\nprimary_key: [id]\nstreams:\n{streams}",
        api.url().as_str().trim_end_matches('/')
    );
    let bench = Bench::with(source, &yaml)
        .env("DRAWOFF_LOG_FORMAT", "json")
        .env("CLOUD_RUN_JOB", "nightly");
    let ran = bench
        .run(&[&["--source", source], more].concat())
        .await
        .exits(code);
    let mut lines = lines(&ran);
    lines.retain(|l| {
        l["message"]
            .as_str()
            .unwrap()
            .starts_with("stream failed: ")
    });
    lines
}

/// What Error Reporting groups by.
fn group(line: &Value) -> (Vec<String>, String) {
    let message = line["message"].as_str().unwrap();
    let first = message.split_whitespace().take(3).map(str::to_owned);
    let function = &line["context"]["reportLocation"]["functionName"];
    (first.collect(), function.as_str().unwrap().to_owned())
}

#[tokio::test]
async fn failures_to_mend_are_grouped_by_kind_and_place() {
    let acme = failures(403, "acme", &["tickets", "contacts"], 1, &[]).await;
    assert_eq!(acme.len(), 2);
    for line in &acme {
        assert_eq!(line["severity"], "ERROR");
        assert_eq!(
            line["@type"],
            "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent"
        );
        assert_eq!(line["serviceContext"]["service"], "nightly");
        assert_eq!(line["serviceContext"]["version"], env!("CARGO_PKG_VERSION"));
        let place = &line["context"]["reportLocation"];
        assert_eq!(place["filePath"], "src/http/classify.rs", "{line}");
        assert!(place["lineNumber"].as_u64().unwrap() > 1);
        assert_eq!(
            (&line["kind"], &line["transient"]),
            (&json!("auth"), &json!(false))
        );
        assert_eq!(line[LABELS]["source"], "acme");
        assert_eq!(line[LABELS]["stream"], line["stream"]);
        assert!(line["hint"].is_string());
    }
    assert_ne!(acme[0]["stream"], acme[1]["stream"]);
    let forbidden = group(&acme[0]);
    assert_eq!(forbidden, group(&acme[1]));
    // Another source, host, stream and day.
    let shop = failures(403, "shop", &["orders"], 1, &[]).await;
    assert_eq!(forbidden, group(&shop[0]));
    // Other kinds, and others of one kind, made in one place.
    let mut groups = BTreeSet::from([forbidden]);
    for (status, code) in [(401, 1), (404, 1), (422, 1), (407, 2)] {
        let line = &failures(status, "acme", &["tickets"], code, &[]).await[0];
        assert!(groups.insert(group(line)), "{status}: {line}");
    }
}

#[tokio::test]
async fn failures_that_pass_are_warnings_and_no_errors_to_mend() {
    let lines = failures(503, "acme", &["tickets"], 75, &["--deadline", "2s"]).await;
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["severity"], "WARNING");
    assert_eq!(lines[0]["transient"], true);
    for name in ["@type", "context", "serviceContext"] {
        assert_eq!(lines[0].get(name), None, "{}", lines[0]);
    }
}

#[tokio::test]
async fn people_are_told_of_a_failure_once() {
    let api = FakeApi::start(|_| Reply::status(403)).await;
    let bench = shop(&api, &["items:"]).env("DRAWOFF_LOG_FORMAT", "text");
    let ran = bench.run(&["--source", "shop"]).await.exits(1);
    assert!(!ran.stderr.contains("stream failed"), "{ran}");
    assert!(ran.stdout.contains("403"), "{ran}");
}

#[tokio::test]
async fn the_project_of_a_trace_is_cloud_runs_own() {
    let google = Google::start().await;
    let account = google.service_account("puller");
    google.attach(&account);
    let api = FakeApi::start(|request| page(&rows(25), request)).await;
    let in_trace = async |bench: Bench| -> BTreeSet<Option<String>> {
        let bench = google
            .bare_env(bench)
            .env("GOOGLE_CLOUD_PROJECT", "")
            .env("DRAWOFF_PROJECT", "project-of-secrets");
        let served = Served::start(&bench, &[]).await;
        let answer = served
            .run_with(&[("traceparent", &traceparent(true))], WISH)
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let id = answer.json()["run_id"].clone();
        let ran = served.end().await.exits(0);
        lines(&ran)
            .iter()
            .filter(|l| l["run_id"] == id)
            .map(|l| l.get(IN_TRACE).map(|t| t.as_str().unwrap().to_owned()))
            .collect()
    };
    let asked = || {
        let calls = google.calls();
        let project = |c: &&Call| c.path.ends_with("/project/project-id");
        calls.iter().filter(project).count()
    };
    let of = |project: &str| BTreeSet::from([Some(format!("projects/{project}/traces/{TRACE}"))]);
    let here = shop(&api, &["items:"]);
    assert_eq!(in_trace(here).await, of("project-of-secrets"));
    assert_eq!(asked(), 0);
    let there = shop(&api, &["items:"]).env("K_SERVICE", "puller");
    assert_eq!(in_trace(there).await, of("test-project"));
    assert_eq!(asked(), 1);
}
