//! Runs of any size in an instance of 512 MiB, whose file system is memory: under a limit that the kernel
//! keeps, with working directory and temporary files on a file system in memory, which counts.
//!
//! `cargo bench --bench memory [-- ROWS [JOB …]]`, as root, where a control group can be made.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used
)]

#[allow(dead_code)]
mod discard;
#[allow(dead_code)]
mod rows;
#[allow(dead_code)]
mod server;

use discard::Discard;
use server::{Figures, Job, Server, Shape};

/// Memory of the smallest instance of Cloud Run by default.
const LIMIT: u64 = 512 << 20;

/// `table.write_method`.
const METHODS: [&str; 4] = ["storage_write", "load_job", "stream", "insert_all"];

/// The job that reads the children of very many parents.
const CHILDREN: &str = "children";

fn main() {
    if server::is_child() {
        return;
    }
    let (count, named) = server::asked();
    let server = Server::start();
    Figures::head();
    let wanted = |job: &str| named.is_empty() || named.iter().any(|n| n == job);
    for method in METHODS.into_iter().filter(|m| wanted(m)) {
        let stream = format!(
            "incremental: {{cursor: id, since_param: since, format: epoch, sorted: true}}, \
             table: {{disposition: append, write_method: {method}}}"
        );
        run(&server, method, count, stream, Shape::Small);
    }
    if wanted(CHILDREN) {
        let stream = "table: {disposition: merge}".to_owned();
        run(&server, CHILDREN, count / 10, stream, Shape::Children);
    }
    println!("\nlimit: {} MB, files included", LIMIT / 1_000_000);
}

fn run(server: &Server, what: &str, rows: u64, stream: String, shape: Shape) {
    let bigquery = Discard::start();
    let figures = server.run(&Job {
        rows,
        shape,
        destination: "bigquery:p.bench".into(),
        stream,
        environment: bigquery.environment(),
        memory: Some(LIMIT),
    });
    figures.print(what, rows);
    let (taken, published, largest) = bigquery.counts();
    assert_eq!(
        (taken, published),
        (rows, rows),
        "every row came once, and was published"
    );
    println!("{:28} largest statement {:.1} MB", "", largest as f64 / 1e6);
}
