//! A BigQuery emulator that nobody here wrote (`local-bigquery`, GoogleSQL over DuckDB), one for the
//! whole test binary; and its tables read back by Google's own Python client.
//!
//! Its Python environment is made under `target/emulator/` on first use, with the versions below. It
//! ends with the test binary, however that ends. `BIGQUERY_EMULATOR_HOST` and
//! `BIGQUERY_STORAGE_EMULATOR_HOST` name one that runs already; the Python environment is made all
//! the same, for reading back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use drawoff::google::{Endpoint, GoogleSettings};
use serde_json::{Value, json};

/// Project of all test datasets.
pub const PROJECT: &str = "p";

/// What is installed. The DuckDB extensions are wheels so that nothing is downloaded at start.
const PINS: [&str; 7] = [
    "local-bigquery==0.3.2",
    "duckdb==1.5.5",
    "duckdb-extensions==1.5.5",
    "duckdb-extension-icu==1.5.5",
    "duckdb-extension-ducklake==1.5.5",
    "duckdb-extension-spatial==1.5.5",
    "google-cloud-bigquery==3.47.0",
];

/// The emulator at work.
pub struct Emulator {
    rest: String,
    grpc: String,
    python: PathBuf,
    home: PathBuf,
    /// The emulator is killed when this pipe closes, which the end of this process does.
    _leash: Option<ChildStdin>,
}

impl Emulator {
    /// The one of this test binary, started on first use.
    ///
    /// # Panics
    /// With one sentence when it cannot be had.
    pub fn get() -> &'static Self {
        static ONE: OnceLock<Result<Emulator, String>> = OnceLock::new();
        match ONE.get_or_init(Self::start) {
            Ok(emulator) => emulator,
            Err(why) => panic!("the BigQuery emulator cannot be had: {why}"),
        }
    }

    /// Where it is, for the program under test. No credentials, no metadata server.
    pub fn settings(&self) -> GoogleSettings {
        self.settings_at(&self.rest)
    }

    /// The same, with its REST port behind something else.
    pub fn settings_at(&self, rest: &str) -> GoogleSettings {
        GoogleSettings {
            bigquery: Endpoint::parse(rest, "rest").unwrap(),
            bigquery_storage: Endpoint::parse(&self.grpc, "grpc").unwrap(),
            metadata: None,
            ..Default::default()
        }
    }

    /// The root of its REST surface.
    pub fn rest(&self) -> &str {
        &self.rest
    }

    /// `host:port` of its gRPC surface.
    pub fn grpc(&self) -> &str {
        &self.grpc
    }

    /// A dataset name that no other test has.
    pub fn dataset(&self, test: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        format!(
            "{test}_{}_{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        )
    }

    /// Rows of a query, read by Google's Python client.
    pub fn query(&self, sql: &str) -> Value {
        self.ask(vec![json!({"query": sql})]).remove(0)
    }

    /// Description, schema, partitioning and clustering of `dataset.table`.
    pub fn table(&self, table: &str) -> Value {
        self.ask(vec![json!({"table": table})]).remove(0)
    }

    /// Names of a dataset's tables.
    pub fn tables(&self, dataset: &str) -> Vec<String> {
        serde_json::from_value(self.ask(vec![json!({"tables": dataset})]).remove(0)).unwrap()
    }

    /// Several questions to one client: `{"query": …}`, `{"table": …}`, `{"tables": …}`.
    pub fn ask(&self, questions: Vec<Value>) -> Vec<Value> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/read_bigquery.py");
        let mut child = Command::new(&self.python)
            .arg(script)
            .env("HOME", &self.home)
            .env_remove("BIGQUERY_EMULATOR_HOST")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let ask = json!({"endpoint": self.rest, "project": PROJECT, "questions": questions});
        child
            .stdin
            .take()
            .unwrap()
            .write_all(ask.to_string().as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "reading back {ask} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Rows of a query as the `bq` command prints them; `None`, with a line that says so, where the
    /// command is not installed.
    pub fn bq(&self, sql: &str) -> Option<Value> {
        let config = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-gcloud-config");
        std::fs::create_dir_all(&config).unwrap();
        let output = Command::new("bq")
            .args([
                "--api",
                &self.rest,
                "--project_id",
                PROJECT,
                "--format=json",
            ])
            .args(["query", "--use_legacy_sql=false", sql])
            .env("CLOUDSDK_CONFIG", config)
            .env("CLOUDSDK_AUTH_ACCESS_TOKEN", "fake")
            .stdin(Stdio::null())
            .output();
        match output {
            Ok(output) if output.status.success() => {
                Some(serde_json::from_slice(&output.stdout).unwrap())
            }
            Ok(output) => panic!(
                "`bq` failed: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(e) => {
                println!("`bq` is not installed ({e}); read back by the Python client only");
                None
            }
        }
    }

    #[allow(clippy::disallowed_methods)]
    fn start() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .parent()
            .ok_or("cargo names no target folder")?
            .join("emulator");
        let (python, home) = environment(&root)?;
        let running = std::env::var("BIGQUERY_EMULATOR_HOST").unwrap_or_default();
        if !running.is_empty() {
            let grpc = std::env::var("BIGQUERY_STORAGE_EMULATOR_HOST").unwrap_or_default();
            if grpc.is_empty() {
                return Err(
                    "`BIGQUERY_EMULATOR_HOST` is set and `BIGQUERY_STORAGE_EMULATOR_HOST` is not"
                        .into(),
                );
            }
            let rest = Endpoint::parse(&running, "BIGQUERY_EMULATOR_HOST")
                .map_err(|e| e.to_string())?
                .as_str()
                .to_owned();
            return Ok(Self {
                rest,
                grpc,
                python,
                home,
                _leash: None,
            });
        }
        let data =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("emulator-{}", std::process::id()));
        std::fs::create_dir_all(&data).map_err(|e| format!("{}: {e}", data.display()))?;
        let (rest, grpc) = (free_port()?, free_port()?);
        let log = std::fs::File::create(data.join("log")).map_err(|e| e.to_string())?;
        // The shell waits for the end of its standard input, which this process holds open, and then takes
        // the emulator and its data along.
        let mut leash = Command::new("sh")
            .arg("-c")
            .arg(r#"data=$1; shift; "$@" </dev/null & emulator=$!; cat >/dev/null; kill $emulator; wait $emulator; rm -rf "$data""#)
            .arg("emulator")
            .arg(&data)
            .arg(python.with_file_name("local-bigquery"))
            .args(["serve", "--host", "127.0.0.1"])
            .args(["--port", &rest.to_string(), "--grpc-port", &grpc.to_string()])
            .args(["--project", PROJECT, "--dataset", "d", "--data-dir"])
            .arg(data.join("data"))
            .env("HOME", &home)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|e| format!("`sh` did not start: {e}"))?;
        let emulator = Self {
            rest: format!("http://127.0.0.1:{rest}"),
            grpc: format!("127.0.0.1:{grpc}"),
            python,
            home,
            _leash: leash.stdin.take(),
        };
        let deadline = Instant::now() + Duration::from_secs(180);
        while !answers(rest) || TcpStream::connect(("127.0.0.1", grpc)).is_err() {
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(data.join("log")).unwrap_or_default();
                let last = log.lines().rev().take(3).collect::<Vec<_>>().join(" / ");
                return Err(format!("it did not answer within three minutes ({last})"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(emulator)
    }
}

/// The Python environment with everything in it, made where it is missing; and a `HOME` with DuckDB's
/// extensions.
fn environment(root: &Path) -> Result<(PathBuf, PathBuf), String> {
    let io = |e: std::io::Error| format!("{}: {e}", root.display());
    std::fs::create_dir_all(root).map_err(io)?;
    // Test binaries of several checkouts or runs may come at once.
    let lock = std::fs::File::create(root.join("lock")).map_err(io)?;
    lock.lock().map_err(io)?;
    let (venv, home) = (root.join("venv"), root.join("home"));
    let python = venv.join("bin/python");
    let made = root.join("made");
    let recipe = PINS.join("\n");
    if std::fs::read_to_string(&made).is_ok_and(|m| m == recipe) && python.exists() {
        return Ok((python, home));
    }
    let base = find_python()?;
    for stale in [&venv, &home] {
        if stale.exists() {
            std::fs::remove_dir_all(stale).map_err(io)?;
        }
    }
    std::fs::create_dir_all(&home).map_err(io)?;
    run(Command::new(base).arg("-m").arg("venv").arg(&venv))?;
    run(Command::new(&python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(PINS))?;
    run(Command::new(&python).env("HOME", &home).args([
        "-c",
        "from duckdb_extensions import import_extension as i; i('icu'); i('ducklake'); i('spatial')",
    ]))?;
    std::fs::write(&made, recipe).map_err(io)?;
    Ok((python, home))
}

fn find_python() -> Result<PathBuf, String> {
    let mut candidates = vec![PathBuf::from("python3.14"), PathBuf::from("python3.13")];
    if let Some(home) = std::env::var_os("HOME") {
        let versions = Path::new(&home).join(".pyenv/versions");
        let mut found: Vec<PathBuf> = std::fs::read_dir(versions)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .filter(|p| {
                p.file_name()
                    .and_then(|n| n.to_str())
                    .is_some_and(|n| n.starts_with("3.13") || n.starts_with("3.14"))
            })
            .map(|p| p.join("bin/python3"))
            .collect();
        found.sort();
        candidates.extend(found);
    }
    candidates.push("python3".into());
    // A name on the path may be a shim for a version that is not there: ask it.
    candidates
        .into_iter()
        .find(|python| {
            Command::new(python)
                .args(["-c", "import sys, venv; sys.exit(sys.version_info < (3, 13))"])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|s| s.success())
        })
        .ok_or_else(|| {
            "it needs Python 3.13 or newer, and none was found as python3.14, python3.13, python3 or in ~/.pyenv/versions".into()
        })
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.lines().rev().take(3).collect::<Vec<_>>().join(" / ");
    Err(format!("{command:?} failed: {last}"))
}

fn free_port() -> Result<u16, String> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .map(|a| a.port())
        .map_err(|e| e.to_string())
}

/// Whether a query is answered: the database opens on the first one.
fn answers(port: u16) -> bool {
    let body = r#"{"query":"SELECT 1","useLegacySql":false}"#;
    let request = format!(
        "POST /bigquery/v2/projects/{PROJECT}/queries HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut answer = String::new();
    let asked = TcpStream::connect_timeout(&address, Duration::from_secs(2)).and_then(|mut s| {
        s.set_read_timeout(Some(Duration::from_secs(30)))?;
        s.write_all(request.as_bytes())?;
        s.read_to_string(&mut answer)
    });
    asked.is_ok() && answer.starts_with("HTTP/1.1 200")
}
