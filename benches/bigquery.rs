//! The whole pipeline into BigQuery's emulator, by each write method: our own memory and CPU time are the
//! figures, the emulator's pace is not ours.
//!
//! `cargo bench --bench bigquery [-- ROWS [METHOD …]]`

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    dead_code
)]

#[path = "../tests/support/emulator.rs"]
mod emulator;
mod rows;
mod server;

use emulator::{Emulator, PROJECT};

/// Memory of a run, in MB: what the program needs by itself, and the budget of batches in flight.
const TARGET_MEMORY: f64 = 64.0 + 67.1;

/// `table.write_method`.
const METHODS: [&str; 4] = ["storage_write", "load_job", "stream", "insert_all"];

/// Rows of a slice: the emulator keeps what is not published in its memory, some 20 KB a row.
const SLICE_ROWS: &str = "100000";

fn main() {
    if server::is_child() {
        return;
    }
    let (count, named) = server::asked();
    let server = server::Server::start();
    let emulator = Emulator::get();
    server::Figures::head();
    for method in METHODS {
        if !named.is_empty() && !named.iter().any(|n| n == method) {
            continue;
        }
        for rows in [count / 10, count] {
            let dataset = emulator.dataset("bench");
            let figures = server.run(&server::Job {
                rows,
                destination: format!("bigquery:{PROJECT}.{dataset}"),
                stream: format!(
                    "incremental: {{cursor: id, since_param: since, format: epoch, sorted: true}}, \
                     table: {{disposition: append, write_method: {method}}}"
                ),
                environment: vec![
                    ("DRAWOFF_SLICE_ROWS", SLICE_ROWS.to_owned()),
                    ("BIGQUERY_EMULATOR_HOST", emulator.rest().to_owned()),
                    ("BIGQUERY_STORAGE_EMULATOR_HOST", emulator.grpc().to_owned()),
                ],
                ..server::Job::default()
            });
            figures.print(method, rows);
            let counted = emulator.query(&format!(
                "SELECT COUNT(*) AS n FROM `{PROJECT}.{dataset}.rows`"
            ));
            assert_eq!(counted[0]["n"], rows, "every row is there once");
        }
    }
    println!(
        "\ntarget: at most {TARGET_MEMORY:.0} MB (64 MB, and a budget of 64 MiB of batches), whatever the rows"
    );
}
