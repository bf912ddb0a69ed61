//! From the start of the process to the first request that it sends, and to the first that it answers.
//!
//! `cargo bench --bench start`

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used
)]

#[allow(dead_code)]
mod discard;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use discard::Discard;

const ROUNDS: usize = 21;

const TARGET: Duration = Duration::from_millis(50);

fn main() {
    println!(
        "{:44} {:>10} {:>10}",
        "from start to", "least ms", "median ms"
    );
    let (address, arrivals) = api();
    let dir = tempfile::tempdir().expect("a folder");
    write_connector(dir.path(), &address);
    let first_request = |destination: &str, environment: &[(&'static str, String)]| {
        while arrivals.try_recv().is_ok() {}
        let begun = Instant::now();
        let mut run = drawoff(dir.path(), environment)
            .args(["--source", "bench", "-q", "--destination", destination])
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let took = arrivals.recv().expect("a request") - begun;
        assert!(run.wait().expect("an end").success());
        took
    };
    let mut number = 0;
    print("the first request, into SQLite", || {
        number += 1;
        first_request(&format!("sqlite:{number}.db"), &[])
    });
    print("the first request, into SQLite, again", || {
        first_request("sqlite:1.db", &[])
    });
    print("the first request, into a BigQuery at once", || {
        first_request("bigquery:p.bench", &Discard::start().environment())
    });
    let known = Discard::start();
    print("the same, where all tables are there", || {
        first_request("bigquery:p.bench", &known.environment())
    });
    print("an answer from /healthz", || healthy(dir.path()));
    println!("\ntarget: {} ms", TARGET.as_millis());
}

fn drawoff(dir: &Path, environment: &[(&'static str, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drawoff"));
    command
        .current_dir(dir)
        .env("DRAWOFF_CONNECTORS", dir.join("connectors"))
        .envs(environment.iter().map(|(k, v)| (k, v)));
    command
}

fn print(what: &str, mut round: impl FnMut() -> Duration) {
    let mut times: Vec<Duration> = (0..ROUNDS).map(|_| round()).collect();
    times.sort();
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    println!(
        "{what:44} {:>10.1} {:>10.1}",
        ms(times[0]),
        ms(times[ROUNDS / 2])
    );
}

/// An API without records; its address, and when each request came.
fn api() -> (String, Receiver<Instant>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (came, arrivals) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, came) = (stream.expect("a client"), came.clone());
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok_and(|n| n > 0) {
                let _ = came.send(Instant::now());
                let _ = stream.write_all(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]",
                );
            }
        }
    });
    (address, arrivals)
}

fn write_connector(dir: &Path, address: &str) {
    let schemas = dir.join("connectors/schemas/bench");
    std::fs::create_dir_all(&schemas).expect("a folder");
    let schema = r#"[{"name": "id", "type": "INT64", "mode": "REQUIRED"}]"#;
    std::fs::write(schemas.join("rows.json"), schema).expect("a schema");
    let text = format!(
        "title: Bench\nbase_url: http://{address}\nrecords: \"\"\nprimary_key: [id]\nstreams: {{rows: }}\n"
    );
    std::fs::write(dir.join("connectors/bench.yaml"), text).expect("a connector");
}

/// Starts the server, and asks it until it answers.
fn healthy(dir: &Path) -> Duration {
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        free.local_addr().expect("an address").port()
    };
    let begun = Instant::now();
    let mut server = drawoff(dir, &[])
        .args(["serve", "-q"])
        .env("PORT", port.to_string())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let took = loop {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let asked = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
            stream.write_all(asked.as_bytes()).expect("a request");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            break begun.elapsed();
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "no server");
    };
    server.kill().expect("the server ends");
    server.wait().expect("an end");
    took
}
