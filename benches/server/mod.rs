//! A server in a process of its own that is not the bottleneck: records are computed before the clock starts,
//! and its CPU time does not count. And runs of the release binary against it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::Query;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::rows;

const PAGE_ROWS: u64 = 1_000;
/// Pages whose records differ in more than their id; the server goes round them.
const DISTINCT: u64 = 64;

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
        async move { ([(CONTENT_TYPE, "application/json")], body).into_response() }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        axum::serve(listener, Router::new().route("/rows", get(answer)))
            .await
            .expect("served");
    });
}

/// Runs the binary as the only child this process ever has, so that the kernel's figures are its own.
fn watch(args: &[String]) {
    let begun = Instant::now();
    let status = Command::new(env!("CARGO_BIN_EXE_drawoff"))
        .args(args)
        .stdout(Stdio::null())
        .status()
        .expect("the binary starts");
    let wall = begun.elapsed().as_secs_f64();
    let (cpu, peak) = rows::usage(true);
    assert!(status.success(), "the run ends well");
    println!("{cpu} {wall} {}", peak as f64 / 1024.0);
}

/// The server at work.
pub struct Server {
    child: Child,
    address: String,
}

/// What to run.
pub struct Job {
    /// Rows that the server has.
    pub rows: u64,
    /// `--destination`.
    pub destination: String,
    /// What else is to be said of the stream, as YAML's `key: value` with commas.
    pub stream: String,
    /// Environment variables.
    pub environment: Vec<(&'static str, String)>,
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
        let dir = tempfile::tempdir().expect("a folder");
        self.write_connector(dir.path(), job);
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args(["run", "--source", "bench", "-q", "--destination"])
            .args([&job.destination, "--connectors"])
            .arg(dir.path().join("connectors"))
            .current_dir(dir.path())
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
        }
    }

    fn write_connector(&self, dir: &Path, job: &Job) {
        let connectors = dir.join("connectors");
        let schemas = connectors.join("schemas/bench");
        std::fs::create_dir_all(&schemas).expect("a folder");
        std::fs::write(schemas.join("rows.json"), rows::SCHEMA).expect("a schema");
        let text = format!(
            "title: Bench\nbase_url: http://{}\nauth: none\nrate_limit: {{concurrency: 4}}\n\
             params: {{rows: {}}}\n\
             pagination: {{page: {{page_param: page, size_param: per_page, size: {PAGE_ROWS}}}}}\n\
             records: \"\"\nstreams:\n  rows: {{{}}}\n",
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
            "{what:28} {rows:>9} {:>12.3} {rate:>12.0} {:>9.3} {:>9.1}",
            self.cpu, self.wall, self.peak
        );
    }
}
