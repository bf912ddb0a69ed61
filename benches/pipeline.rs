//! The whole pipeline through the binary, against a server in a process of its own that is not the
//! bottleneck: pages are computed before the clock starts, and its CPU time does not count.
//!
//! `cargo bench --bench pipeline [-- ROWS]`

#![allow(clippy::expect_used, clippy::print_stdout)]

#[allow(dead_code)]
mod rows;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;

const PAGE_ROWS: u64 = 1_000;
/// Distinct pages; the server goes round them.
const DISTINCT: u64 = 64;
const TARGET_RATE: f64 = 190_000.0;
const TARGET_MEMORY: f64 = 64.0;
const TARGET_START: f64 = 50.0;

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    match args.next().as_deref() {
        Some("serve") => serve(),
        rows => measure(rows.and_then(|r| r.parse().ok()).unwrap_or(1_000_000)),
    }
}

#[derive(serde::Deserialize)]
struct Asked {
    page: u64,
    rows: u64,
}

fn serve() {
    let pages: Vec<Bytes> = (0..DISTINCT)
        .map(|p| rows::page(p * PAGE_ROWS, PAGE_ROWS).into())
        .collect();
    let one: Bytes = rows::page(0, 1).into();
    let answer = move |State(()): State<()>, Query(asked): Query<Asked>| {
        let body = match asked.rows {
            1 if asked.page == 1 => one.clone(),
            rows if (asked.page - 1) * PAGE_ROWS < rows && rows > 1 => {
                pages[((asked.page - 1) % DISTINCT) as usize].clone()
            }
            _ => Bytes::from_static(b"[]"),
        };
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
        axum::serve(
            listener,
            Router::new().route("/rows", get(answer)).with_state(()),
        )
        .await
        .expect("served");
    });
}

fn measure(count: u64) {
    let mut server = Command::new(std::env::current_exe().expect("this program"))
        .arg("serve")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let mut address = String::new();
    BufReader::new(server.stdout.take().expect("its output"))
        .read_line(&mut address)
        .expect("its address");
    let address = address.trim();
    println!(
        "{:28} {:>9} {:>12} {:>12} {:>9} {:>9}",
        "job", "rows", "CPU s", "rows/CPU-s", "wall s", "peak MB"
    );
    let warm = run(address, 1, "parquet");
    let one = (0..5)
        .map(|_| run(address, 1, "parquet"))
        .fold(warm, |a, b| if b.wall < a.wall { b } else { a });
    one.print("one row to Parquet", 1);
    for (what, kind, n) in [
        ("to Parquet", "parquet", count / 10),
        ("to Parquet", "parquet", count),
        ("to SQLite", "sqlite", count / 10),
    ] {
        run(address, n, kind).print(what, n);
    }
    println!(
        "\ntargets to Parquet: {TARGET_RATE} rows/CPU-s, {TARGET_MEMORY} MB whatever the rows, {TARGET_START} ms for one row ({:.0} ms here)",
        one.wall * 1e3
    );
    server.kill().expect("the server ends");
    server.wait().expect("the server ends");
}

struct Figures {
    cpu: f64,
    wall: f64,
    peak: f64,
}

impl Figures {
    fn print(&self, what: &str, rows: u64) {
        let rate = rows as f64 / self.cpu;
        println!(
            "{what:28} {rows:>9} {:>12.3} {rate:>12.0} {:>9.3} {:>9.1}",
            self.cpu, self.wall, self.peak
        );
    }
}

/// One run of the binary; its own CPU time, wall time and largest resident set.
fn run(address: &str, rows: u64, kind: &str) -> Figures {
    let dir = tempfile::tempdir().expect("a folder");
    write_connector(dir.path(), address, rows);
    let place = match kind {
        "sqlite" => format!("sqlite:{}", dir.path().join("out.db").display()),
        kind => format!("{kind}:{}", dir.path().join("out").display()),
    };
    let (before, _) = rows::usage(true);
    let begun = Instant::now();
    let status = Command::new(env!("CARGO_BIN_EXE_drawoff"))
        .args([
            "--source",
            "bench",
            "-q",
            "--destination",
            &place,
            "--connectors",
        ])
        .arg(dir.path().join("connectors"))
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .status()
        .expect("the binary starts");
    let wall = begun.elapsed().as_secs_f64();
    let (after, peak) = rows::usage(true);
    assert!(status.success(), "the run ends well");
    Figures {
        cpu: after - before,
        wall,
        peak: peak as f64 / 1024.0,
    }
}

fn write_connector(dir: &Path, address: &str, rows: u64) {
    let connectors = dir.join("connectors");
    let schemas = connectors.join("schemas/bench");
    std::fs::create_dir_all(&schemas).expect("a folder");
    std::fs::write(schemas.join("rows.json"), rows::SCHEMA).expect("a schema");
    let text = format!(
        "title: Bench\nbase_url: http://{address}\nauth: none\nrate_limit: {{concurrency: 4}}\n\
         params: {{rows: {rows}}}\n\
         pagination: {{page: {{page_param: page, size_param: per_page, size: {PAGE_ROWS}}}}}\n\
         records: \"\"\nstreams:\n  rows: {{table: {{disposition: append}}}}\n"
    );
    std::fs::write(connectors.join("bench.yaml"), text).expect("a connector");
}
