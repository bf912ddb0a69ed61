//! A server in a process of its own that is not the bottleneck: records are computed before the clock starts,
//! and its CPU time does not count. And runs of the release binary against it, under a limit of memory where
//! one is asked for.

mod group;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Path as Place, Query};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::rows;
use group::Group;

const PAGE_ROWS: u64 = 1_000;
/// Pages whose records differ in more than their id; the server goes round them.
const DISTINCT: u64 = 64;

/// The rows of a job.
#[derive(Clone, Copy, Default)]
pub enum Shape {
    /// Those of most benchmarks: 20 columns, 576 bytes.
    #[default]
    Wide,
    /// Five columns, some 90 bytes.
    Small,
    /// The same, each the only child of a parent of its own.
    Children,
}

#[derive(serde::Deserialize)]
struct Asked {
    page: u64,
    rows: u64,
    #[serde(default)]
    since: u64,
}

/// What the bench program does when it is started by itself; whether it was.
pub fn is_child() -> bool {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("serve") => serve(),
        Some("run") => watch(&args[1..]),
        _ => return false,
    }
    true
}

/// What the command line asks for: rows, a million where it names none, and the words behind them.
pub fn asked() -> (u64, Vec<String>) {
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    let rows = args
        .next()
        .and_then(|r| r.parse().ok())
        .unwrap_or(1_000_000);
    (rows, args.collect())
}

fn serve() {
    let records: Arc<[rows::Record]> = (0..DISTINCT * PAGE_ROWS).map(rows::Record::new).collect();
    let answer = move |Query(asked): Query<Asked>| {
        let first = asked.since + (asked.page - 1) * PAGE_ROWS;
        let body = rows::page(&records, first..asked.rows.min(first + PAGE_ROWS));
        async move { json(body) }
    };
    let small = |Query(asked): Query<Asked>| {
        let first = asked.since + (asked.page - 1) * PAGE_ROWS;
        let body = rows::small_page(first..asked.rows.min(first + PAGE_ROWS));
        async move { json(body) }
    };
    let child = |Place(id): Place<u64>| async move { json(rows::small_page(id..id + 1)) };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        let routes = Router::new()
            .route("/rows", get(answer))
            .route("/small", get(small))
            .route("/small/{id}/child", get(child));
        axum::serve(listener, routes).await.expect("served");
    });
}

fn json(body: String) -> axum::response::Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

/// Runs the binary as the only child this process ever has, so that the kernel's figures are its own; within
/// the control group that is named first, if one is.
fn watch(args: &[String]) {
    let (group, args) = args.split_first().expect("a group, or an empty one");
    if !group.is_empty() {
        Group::enter(Path::new(group));
    }
    let begun = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_drawoff"))
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .expect("the binary starts");
    let wall = begun.elapsed().as_secs_f64();
    let (cpu, peak) = rows::usage(true);
    let summary = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "the run ends well: {summary}");
    println!("{cpu} {wall} {}", peak as f64 / 1024.0);
}

/// The server at work.
pub struct Server {
    child: Child,
    address: String,
}

/// What to run.
#[derive(Default)]
pub struct Job {
    /// Rows that the server has.
    pub rows: u64,
    /// `--destination`.
    pub destination: String,
    /// What else is to be said of the stream, as YAML's `key: value` with commas.
    pub stream: String,
    /// Environment variables.
    pub environment: Vec<(&'static str, String)>,
    /// What the rows look like.
    pub shape: Shape,
    /// Most memory, in bytes: a control group's limit, with working directory and temporary files in memory.
    pub memory: Option<u64>,
}

impl Server {
    /// Starts it.
    pub fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .arg("serve")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut address = String::new();
        BufReader::new(child.stdout.take().expect("its output"))
            .read_line(&mut address)
            .expect("its address");
        Self {
            child,
            address: address.trim().to_owned(),
        }
    }

    /// One run of the binary; its own CPU time, wall time and largest resident set.
    pub fn run(&self, job: &Job) -> Figures {
        let group = job.memory.map(Group::new);
        let dir = match &group {
            Some(_) => tempfile::tempdir_in("/dev/shm").expect("a folder in memory"),
            None => tempfile::tempdir().expect("a folder"),
        };
        self.write_connector(dir.path(), job);
        let output = Command::new(std::env::current_exe().expect("this program"))
            .arg("run")
            .arg(group.as_ref().map_or(Path::new(""), Group::path))
            .args([
                "--source",
                "bench",
                "--stream",
                "rows",
                "-q",
                "--destination",
            ])
            .args([&job.destination, "--connectors"])
            .arg(dir.path().join("connectors"))
            .current_dir(dir.path())
            .env("TMPDIR", dir.path())
            .envs(job.environment.iter().map(|(k, v)| (k, v)))
            .stderr(Stdio::inherit())
            .output()
            .expect("this program starts");
        assert!(output.status.success(), "the run ends well");
        let text = String::from_utf8(output.stdout).expect("figures");
        let figures: Vec<f64> = text
            .split_whitespace()
            .map(|f| f.parse().expect("a figure"))
            .collect();
        Figures {
            cpu: figures[0],
            wall: figures[1],
            peak: figures[2],
            held: group.map(|g| g.most() as f64 / 1e6),
        }
    }

    fn write_connector(&self, dir: &Path, job: &Job) {
        let connectors = dir.join("connectors");
        let schemas = connectors.join("schemas/bench");
        std::fs::create_dir_all(&schemas).expect("a folder");
        let (schema, streams) = match job.shape {
            Shape::Wide => (rows::SCHEMA, "rows: {".to_owned()),
            Shape::Small => (rows::SMALL, "rows: {path: /small, ".to_owned()),
            Shape::Children => (
                rows::SMALL,
                "small: {}\n  rows: {path: \"/small/{small.id}/child\", primary_key: [id], pagination: none, "
                    .to_owned(),
            ),
        };
        std::fs::write(schemas.join("rows.json"), schema).expect("a schema");
        let text = format!(
            "title: Bench\nbase_url: http://{}\nauth: none\nrate_limit: {{concurrency: 4}}\n\
             params: {{rows: {}}}\n\
             pagination: {{page: {{page_param: page, size_param: per_page, size: {PAGE_ROWS}}}}}\n\
             records: \"\"\nstreams:\n  {streams}{}}}\n",
            self.address, job.rows, job.stream
        );
        std::fs::write(connectors.join("bench.yaml"), text).expect("a connector");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a run took.
pub struct Figures {
    /// Seconds of CPU time.
    pub cpu: f64,
    /// Seconds.
    pub wall: f64,
    /// Largest resident set, in MB.
    pub peak: f64,
    /// Where memory was limited: the most that was held at once, files included, in MB.
    pub held: Option<f64>,
}

impl Figures {
    /// The line above [`Self::print`]'s.
    pub fn head() {
        println!(
            "{:28} {:>9} {:>12} {:>12} {:>9} {:>9}",
            "job", "rows", "CPU s", "rows/CPU-s", "wall s", "peak MB"
        );
    }

    /// One line.
    pub fn print(&self, what: &str, rows: u64) {
        let rate = rows as f64 / self.cpu;
        println!(
            "{what:28} {rows:>9} {:>12.3} {rate:>12.0} {:>9.3} {:>9.1}{}",
            self.cpu,
            self.wall,
            self.peak,
            self.held
                .map_or(String::new(), |held| format!("   held {held:.1} MB"))
        );
    }
}
