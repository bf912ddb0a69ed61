//! The whole pipeline through the binary, into local destinations.
//!
//! `cargo bench --bench pipeline [-- ROWS]`

#![allow(clippy::expect_used, clippy::print_stdout)]

#[allow(dead_code)]
mod rows;
#[allow(dead_code)]
mod server;

use server::{Figures, Job, Server};

const TARGET_RATE: f64 = 190_000.0;
const TARGET_MEMORY: f64 = 64.0;
const TARGET_START: f64 = 50.0;

fn main() {
    if server::is_child() {
        return;
    }
    let (count, _) = server::asked();
    let server = Server::start();
    Figures::head();
    let warm = run(&server, 1, "parquet");
    let one = (0..5)
        .map(|_| run(&server, 1, "parquet"))
        .fold(warm, |a, b| if b.wall < a.wall { b } else { a });
    one.print("one row to Parquet", 1);
    for (what, kind, n) in [
        ("to Parquet", "parquet", count / 10),
        ("to Parquet", "parquet", count),
        ("to SQLite", "sqlite", count / 10),
    ] {
        run(&server, n, kind).print(what, n);
    }
    println!(
        "\ntargets to Parquet: {TARGET_RATE} rows/CPU-s, {TARGET_MEMORY} MB whatever the rows, {TARGET_START} ms for one row ({:.0} ms here)",
        one.wall * 1e3
    );
}

/// One run into a place of its own.
fn run(server: &Server, rows: u64, kind: &str) -> Figures {
    let dir = tempfile::tempdir().expect("a folder");
    server.run(&Job {
        rows,
        destination: format!("{kind}:{}", dir.path().join("out").display()),
        stream: "table: {disposition: append}".into(),
        ..Job::default()
    })
}
