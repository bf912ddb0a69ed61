//! SIGTERM, at any moment of a run: it ends with 75 before the platform would kill it, and the next run
//! ends with exactly the rows that there are.

use std::future::Future;
use std::io::Write as _;
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::grants;
use crate::support::binary::{Bench, Ran, Running, STOPS_WITHIN, eventually, moment};
use crate::support::emulator::{Emulator, PROJECT};
use crate::support::fake_api::{FakeApi, Received, Reply};
use crate::support::faults::gate::{self, RestGate};
use crate::support::faults::grpc::{self, GrpcProxy};
use crate::support::shop::{COLUMNS, Shelf, connector, rows};
use crate::support::tables::{content, numbers, sqlite};

const RUN: [&str; 2] = ["--source", "shop"];

const ROWS: i64 = 60;

const SORTED: &str =
    "incremental: {cursor: updated_at, since_param: since, until_param: until, sorted: true}";

/// Sends the signal and waits for the end.
async fn stop(run: Running, what: &str) -> Ran {
    run.signal("TERM");
    let asked = Instant::now();
    let ran = run.end().await;
    let took = asked.elapsed();
    assert!(
        took < STOPS_WITHIN,
        "{what}: {took:?} after the signal: {ran}"
    );
    assert_eq!(ran.code, Some(75), "{what}: {ran}");
    assert!(!ran.stderr.contains("panic"), "{what}: {ran}");
    ran
}

/// An API that answers with rows, unless `twist` knows better while there is trouble.
struct Trouble {
    api: FakeApi,
    shelf: Shelf,
    on: Arc<AtomicBool>,
}

impl Trouble {
    async fn new(twist: impl Fn(&Received, Reply) -> Reply + Send + Sync + 'static) -> Self {
        let (shelf, on) = (Shelf::of(ROWS), Arc::new(AtomicBool::new(true)));
        let (served, still) = (shelf.clone(), on.clone());
        let api = FakeApi::start(move |request| {
            let good = match request.path.as_str() {
                "/token" => {
                    let grant = json!({"access_token": "an-access-token", "token_type": "bearer", "expires_in": 3600, "refresh_token": "the-next-token"});
                    Reply::json(&grant)
                }
                _ => served.serve(request),
            };
            match still.load(Ordering::SeqCst) {
                true => twist(request, good),
                false => good,
            }
        })
        .await;
        Self { api, shelf, on }
    }

    /// Only in answer to lists, from the second request on.
    async fn of_lists(twist: impl Fn(Reply) -> Reply + Send + Sync + 'static) -> Self {
        Self::new(move |request, good| match request.number >= 1 {
            true => twist(good),
            false => good,
        })
        .await
    }

    fn bench(&self, more: &str) -> Bench {
        let bench = Bench::new();
        self.connector(&bench, more);
        bench.schema("shop", "items", &COLUMNS);
        bench
    }

    fn connector(&self, bench: &Bench, more: &str) {
        let text = connector(&self.api.url(), &[&format!("items: {{{SORTED}}}")]);
        bench.connector("shop", &format!("{more}{text}"));
    }

    /// The trouble is over: a run ends with all rows.
    async fn over(&self, bench: &Bench, what: &str) {
        self.on.store(false, Ordering::SeqCst);
        let ran = bench.run(&RUN).await;
        assert_eq!(ran.code, Some(0), "{what}: {ran}");
        let found = content(sqlite(&bench.path("drawoff.db"), "items"));
        assert_eq!(found, rows(&self.shelf.rows()), "{what}");
    }
}

/// Stopped when the API has had two requests, and then run in peace.
async fn in_trouble(what: &str, trouble: Trouble, more: &str) {
    let bench = trouble.bench(more);
    let mut run = bench.spawn(&RUN);
    assert!(run.until(|| trouble.api.count() >= 2).await, "{what}");
    moment(Duration::from_millis(rand::random_range(0..300))).await;
    stop(run, what).await;
    trouble.connector(&bench, "");
    trouble.over(&bench, what).await;
}

/// A server's address at which a connection is never made: its queue is full.
async fn full() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        waiting.push(stream);
    }
    (listener, waiting)
}

async fn while_it_connects() {
    let what = "while it connects";
    let (listener, _waiting) = full().await;
    let trouble = Trouble::of_lists(|good| good).await;
    let bench = trouble.bench("");
    let nowhere = format!("http://{}", listener.local_addr().unwrap());
    let run = bench.spawn(&[&RUN[..], &["--base-url", &nowhere]].concat());
    moment(Duration::from_secs(1)).await;
    stop(run, what).await;
    trouble.over(&bench, what).await;
}

/// Stopped when something else than the API has been asked, and does not answer.
async fn while_nobody_answers(what: &str, more: &str, variables: &[&str]) {
    let silent = FakeApi::start(|_| Reply::silence()).await;
    let trouble = Trouble::of_lists(|good| good).await;
    let yaml = connector(&trouble.api.url(), &[&format!("items: {{{SORTED}}}")]);
    let of = |extra: &str| {
        let bench = Bench::with("shop", &format!("{extra}{yaml}"));
        bench.schema("shop", "items", &COLUMNS);
        bench
    };
    let url = silent.url();
    let host = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let mut bench = of(&more.replace("SILENT", &host));
    for variable in variables {
        let (name, value) = variable.split_once('=').unwrap();
        bench = bench.env(name, &value.replace("SILENT", &host));
    }
    let mut run = bench.spawn(&RUN);
    if !run.until(|| silent.connections() > 0).await {
        panic!("{what}: {}", run.end().await);
    }
    stop(run, what).await;
    trouble.over(&of(""), what).await;
}

async fn while_tokens_are_waited_for() {
    let what = "while another run has the refresh token";
    let trouble = Trouble::new(|request, good| match request.path.as_str() {
        "/token" => Reply::silence(),
        _ => good,
    })
    .await;
    let auth = format!(
        "{{oauth2: {{refresh_token: {{token_url: '{}', client_id: c, client_secret: '{{{{ config.client }}}}', refresh_token: '{{{{ config.refresh }}}}'}}}}}}",
        trouble.api.at("/token")
    );
    let bench = grants::bench(&trouble.api, &["client", "refresh"], &auth)
        .env("DRAWOFF_SHOP_CLIENT", "client-secret");
    bench.write("place/token", "the-first-token");
    bench.write(
        "drawoff.yaml",
        "sources: {shop: {secrets: {refresh: \"file://place/token\"}}}",
    );
    let mut first = bench.spawn(&RUN);
    assert!(first.until(|| trouble.api.count() > 0).await);
    // Of another database, so that only the token is in its way.
    let second = bench.spawn(&[&RUN[..], &["--destination", "sqlite:other.db"]].concat());
    moment(Duration::from_secs(1)).await;
    tokio::join!(stop(second, what), stop(first, "in a token request"));
    trouble.over(&bench, what).await;
}

type Case = Pin<Box<dyn Future<Output = ()>>>;

#[tokio::test(flavor = "multi_thread")]
async fn wherever_it_waits() {
    let slowly = |good: Reply| good.drip(8, Duration::from_secs(1));
    let cases: Vec<Case> = vec![
        Box::pin(while_it_connects()),
        Box::pin(while_tokens_are_waited_for()),
        Box::pin(async {
            in_trouble(
                "no answer",
                Trouble::of_lists(|_| Reply::silence()).await,
                "",
            )
            .await
        }),
        Box::pin(
            async move { in_trouble("a slow body", Trouble::of_lists(slowly).await, "").await },
        ),
        Box::pin(async {
            in_trouble(
                "Retry-After",
                Trouble::of_lists(|_| Reply::too_many("60")).await,
                "",
            )
            .await
        }),
        Box::pin(async {
            in_trouble(
                "back-off",
                Trouble::of_lists(|_| Reply::status(503)).await,
                "",
            )
            .await
        }),
        Box::pin(async {
            let trouble = Trouble::of_lists(|good| good).await;
            in_trouble(
                "the declared rate",
                trouble,
                "rate_limit: {requests: 2, per: 1h}\n",
            )
            .await;
        }),
        Box::pin(while_nobody_answers(
            "in a token request of client credentials",
            "config: {s: {description: S, secret: true}}\nauth: {oauth2: {client_credentials: {token_url: 'http://SILENT/token', client_id: c, client_secret: '{{ config.s }}'}}}\n",
            &["DRAWOFF_SHOP_S=abcdefgh"],
        )),
        Box::pin(while_nobody_answers(
            "while secrets are read",
            "config: {s: {description: S, secret: true}}\nauth: {bearer: {token: '{{ config.s }}'}}\n",
            &[
                "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER=http://SILENT/",
                "GOOGLE_CLOUD_PROJECT=p",
            ],
        )),
        Box::pin(while_nobody_answers(
            "while the destination does not answer",
            "",
            &[
                "BIGQUERY_EMULATOR_HOST=SILENT",
                "BIGQUERY_STORAGE_EMULATOR_HOST=SILENT",
                "DRAWOFF_DESTINATION=bigquery:p.d",
            ],
        )),
    ];
    futures::future::join_all(cases).await;
}

/// How often a run is stopped at a moment that chance chooses, for each destination.
const STOPS: usize = 12;

#[tokio::test]
async fn at_any_moment() {
    for destination in ["sqlite:drawoff.db", "parquet:out"] {
        let trouble = Trouble::of_lists(|good| good.delay(Duration::from_millis(30))).await;
        let args = [&RUN[..], &["--destination", destination]].concat();
        let mut stopped = 0;
        for round in 0..STOPS {
            let bench = trouble.bench("").env("DRAWOFF_SLICE_ROWS", "7");
            let mut run = bench.spawn(&args);
            // The first rounds meet it before it has come to anything.
            let most = if round < 4 { 20 } else { 400 };
            moment(Duration::from_millis(rand::random_range(0..most))).await;
            if run.ended().is_none() {
                run.signal("TERM");
                let asked = Instant::now();
                let ran = run.end().await;
                assert!(
                    asked.elapsed() < STOPS_WITHIN,
                    "{destination} {round}: {ran}"
                );
                // Before it listens, the signal ends it as it ends any program.
                let expected = [Some(75), Some(0), None];
                assert!(expected.contains(&ran.code), "{destination} {round}: {ran}");
                assert!(
                    !ran.stderr.contains("panic"),
                    "{destination} {round}: {ran}"
                );
                stopped += usize::from(ran.code == Some(75));
            }
            bench.run(&args).await.exits(0);
            let found = match destination {
                "parquet:out" => crate::support::tables::parquet(&bench.path("out"), "items"),
                _ => sqlite(&bench.path("drawoff.db"), "items"),
            };
            assert_eq!(
                content(found),
                rows(&trouble.shelf.rows()),
                "{destination} {round}"
            );
        }
        assert!(stopped > 0, "{destination}: none was stopped at work");
    }
}

/// Whether a database that others write to has the table.
fn made(path: &Path, table: &str) -> Option<()> {
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    let query = "SELECT 1 FROM sqlite_master WHERE name = ?1";
    database.query_row(query, [table], |_| Ok(())).ok()
}

/// What a pipe holds.
const PIPE: usize = 64 << 10;

#[tokio::test]
async fn though_nobody_reads_what_it_says() {
    let trouble = Trouble::of_lists(|good| good).await;
    let bench = trouble.bench("");
    let (_reader, mut full) = std::io::pipe().unwrap();
    full.write_all(&[b'.'; PIPE]).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_drawoff"))
        .args(RUN)
        .args(["--log-format", "json", "--connectors"])
        .arg(bench.path("connectors"))
        .current_dir(bench.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(full)
        .spawn()
        .unwrap();
    // Its first line is that it made the table.
    let path = bench.path("drawoff.db");
    eventually("a table in the database", async || made(&path, "items")).await;
    moment(Duration::from_millis(500)).await;
    assert!(child.try_wait().unwrap().is_none(), "it had nothing to say");
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-s", "TERM", &id]).status();
    assert!(sent.unwrap().success());
    let asked = Instant::now();
    let ended = tokio::task::spawn_blocking(move || child.wait());
    let status = ended.await.unwrap().unwrap();
    assert!(asked.elapsed() < STOPS_WITHIN, "{:?}", asked.elapsed());
    assert_eq!(status.code(), Some(75));
    trouble.over(&bench, "nobody reads").await;
}

/// What BigQuery does not answer: a call over REST, or one over gRPC.
type Held = (
    Option<(gate::Call, gate::Fault)>,
    Option<(grpc::Call, grpc::Fault)>,
);

/// Stopped while BigQuery holds an answer, and then run in peace; the dataset.
async fn held(emulator: &Emulator, method: &str, (on_rest, on_grpc): Held) -> (String, String) {
    let what = format!("{method} {on_rest:?} {on_grpc:?}");
    let (gate, proxy) = tokio::join!(
        RestGate::start(emulator.rest()),
        GrpcProxy::start(emulator.grpc())
    );
    let trouble = Trouble::of_lists(|good| good).await;
    let bench = trouble.bench("").bigquery(&gate.url, &proxy.address);
    let table = format!("items: {{{SORTED}, table: {{write_method: {method}}}}}");
    bench.connector("shop", &connector(&trouble.api.url(), &[&table]));
    let dataset = emulator.dataset("held");
    let destination = format!("bigquery:{PROJECT}.{dataset}");
    let args = [&RUN[..], &["--destination", &destination]].concat();
    if let Some((call, fault)) = on_rest {
        gate.on(call, fault);
    }
    if let Some((call, fault)) = on_grpc {
        proxy.on(call, 1, fault);
    }
    let mut run = bench.spawn(&args);
    let held = || gate.held() + proxy.held() > 0;
    assert!(run.until(held).await, "{what}: {}", run.said());
    stop(run, &what).await;
    gate.release();
    proxy.release();
    let ran = bench.run(&args).await;
    assert_eq!(ran.code, Some(0), "{what}: {ran}");
    (what, dataset)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_bigquery_holds_its_answer() {
    use gate::Call::{CreateStaging, Publish, Record, TakeLease, Upload};
    use gate::Fault::{HoldAfter, HoldBefore};
    let emulator = Emulator::get();
    let rest = |call, fault| (Some((call, fault)), None);
    let grpc = |call, fault| (None, Some((call, fault)));
    let cases = [
        ("storage_write", rest(TakeLease, HoldAfter)),
        ("storage_write", rest(CreateStaging, HoldBefore)),
        (
            "storage_write",
            grpc(grpc::Call::Append, grpc::Fault::HoldBefore),
        ),
        (
            "storage_write",
            grpc(grpc::Call::Commit, grpc::Fault::HoldAfter),
        ),
        ("storage_write", rest(Publish, HoldBefore)),
        ("storage_write", rest(Publish, HoldAfter)),
        ("load_job", rest(Upload, HoldBefore)),
        ("storage_write", rest(Record, HoldBefore)),
    ];
    let cases = cases.map(|(method, what)| held(emulator, method, what));
    // A query stops this thread: not while others look at the time.
    for (what, dataset) in futures::future::join_all(cases).await {
        let found = emulator.query(&format!("SELECT id FROM {dataset}.items ORDER BY id"));
        let ids = numbers(&serde_json::from_value::<Vec<_>>(found).unwrap(), "id");
        assert_eq!(ids, (1..=ROWS).collect::<Vec<_>>(), "{what}");
    }
}
