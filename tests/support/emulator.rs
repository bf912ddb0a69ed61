//! A BigQuery emulator that nobody here wrote (`local-bigquery`, GoogleSQL over DuckDB), one for a few
//! tests each; and its tables read back by Google's own Python client.
//!
//! Its Python environment is made under `target/emulator/` on first use, with the versions below. It
//! ends with the test binary, however that ends. `BIGQUERY_EMULATOR_HOST` and
//! `BIGQUERY_STORAGE_EMULATOR_HOST` name one that runs already; the Python environment is made all
//! the same, for reading back.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use drawoff::google::{Endpoint, GoogleSettings};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Project of all test datasets.
pub const PROJECT: &str = "p";

/// Emulators at work at once.
const LANES: usize = 2;

/// Tests that an emulator serves.
const TESTS_EACH: usize = 5;

/// Tests that have asked for one.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Those that were started, by round and lane.
static STARTED: Mutex<BTreeMap<(usize, usize), &'static Emulator>> = Mutex::new(BTreeMap::new());

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
    reader: Mutex<Option<Reader>>,
    /// The emulator is killed when this pipe closes, which the end of this process does.
    leash: Mutex<Option<ChildStdin>>,
    /// Tests that it has served.
    served: AtomicUsize,
    /// Datasets of the tests that are on these threads.
    datasets: Mutex<Vec<(ThreadId, String)>>,
}

/// What a test that uses an emulator leaves at its end: its datasets go, and the last of the tests ends
/// the emulator, which holds some hundred megabytes.
struct Tenancy(&'static Emulator, ThreadId);

impl Drop for Tenancy {
    fn drop(&mut self) {
        self.0.delete_datasets(self.1);
        if self.0.served.fetch_add(1, Ordering::Relaxed) + 1 == TESTS_EACH {
            self.0.end();
        }
    }
}

/// Google's Python client at work.
struct Reader {
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    _child: Child,
}

impl Emulator {
    /// The one of the test on whose thread this is asked for, started on first use.
    ///
    /// An emulator grows slower with every table that it has, and keeps the answer to every statement as one,
    /// so each serves a few tests only; and two are at work, one for each of the machine's processors.
    ///
    /// # Panics
    /// With one sentence when it cannot be had.
    pub fn get() -> &'static Self {
        thread_local! {
            static MINE: RefCell<Option<Tenancy>> = const { RefCell::new(None) };
        }
        if let Some(mine) = MINE.with_borrow(|mine| mine.as_ref().map(|tenancy| tenancy.0)) {
            return mine;
        }
        let thread = std::thread::current();
        assert!(
            thread.name().is_none_or(|n| !n.starts_with("tokio")),
            "a test asks for its emulator on its own thread, where it is known which"
        );
        let next = COUNT.fetch_add(1, Ordering::Relaxed) as usize;
        let (round, lane) = (next / (LANES * TESTS_EACH), next % LANES);
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = match started.get(&(round, lane)) {
            Some(there) => *there,
            None => match Self::start() {
                Ok(emulator) => {
                    let emulator: &'static Self = Box::leak(Box::new(emulator));
                    started.insert((round, lane), emulator);
                    emulator
                }
                Err(why) => panic!("the BigQuery emulator cannot be had: {why}"),
            },
        };
        MINE.set(Some(Tenancy(mine, thread.id())));
        mine
    }

    fn end(&self) {
        // The emulator goes with its leash, the reader with its standard input.
        self.leash
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.take();
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

    /// The same, with both of its ports behind something else.
    pub fn settings_behind(&self, rest: &str, grpc: &str) -> GoogleSettings {
        GoogleSettings {
            bigquery_storage: Endpoint::parse(grpc, "grpc").unwrap(),
            ..self.settings_at(rest)
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

    /// A dataset name that no other test has. The dataset goes with the test on whose thread this is asked
    /// for, as every table that is there makes each statement slower.
    pub fn dataset(&self, test: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{test}_{}_{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let mine = (std::thread::current().id(), name.clone());
        self.datasets.lock().unwrap().push(mine);
        name
    }

    /// Deletes the datasets that were asked for on a thread, with all that is in them.
    pub fn delete_datasets(&self, of: ThreadId) {
        let mut datasets = self.datasets.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<_> = datasets
            .extract_if(.., |(thread, _)| *thread == of)
            .collect();
        drop(datasets);
        let address = self.rest.trim_start_matches("http://");
        for (_, name) in gone {
            let path = format!("datasets/{name}?deleteContents=true");
            // Of what cannot be deleted no test knows.
            let _ = request(address, "DELETE", &path, "");
        }
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
        // One at a time: starting Google's client costs more than all it is asked.
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = reader.get_or_insert_with(|| self.start_reader());
        let questions = Value::from(questions);
        writeln!(reader.questions, "{questions}").unwrap();
        let mut line = String::new();
        reader.answers.read_line(&mut line).unwrap();
        let mut said: Value =
            serde_json::from_str(&line).expect("the reader of BigQuery ended without an answer");
        match said["answers"].take() {
            Value::Array(answers) => answers,
            _ => panic!("reading back {questions} failed: {}", said["error"]),
        }
    }

    fn start_reader(&self) -> Reader {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/read_bigquery.py");
        // It ends when its standard input does, which the end of this process does.
        let mut child = Command::new(&self.python)
            .arg(script)
            .args([&self.rest, PROJECT])
            .env("HOME", &self.home)
            .env_remove("BIGQUERY_EMULATOR_HOST")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Reader {
            questions: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            _child: child,
        }
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
            .args(["query", "--use_legacy_sql=false", "--max_rows=10000", sql])
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
                reader: Mutex::default(),
                leash: Mutex::default(),
                served: AtomicUsize::new(0),
                datasets: Mutex::default(),
            });
        }
        let ports = (free_port()?, free_port()?);
        let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "emulator-{}-{}",
            std::process::id(),
            ports.0
        ));
        let mut leash = serve(&python, &home, &data, ports, &data)?;
        Ok(Self {
            rest: format!("http://127.0.0.1:{}", ports.0),
            grpc: format!("127.0.0.1:{}", ports.1),
            python,
            home,
            reader: Mutex::default(),
            leash: Mutex::new(leash.stdin.take()),
            served: AtomicUsize::new(0),
            datasets: Mutex::default(),
        })
    }
}

/// An emulator of a test's own, which can be ended and started again on the same data. What it had
/// only in memory, pending write streams among it, is lost then.
pub struct OwnEmulator {
    /// To be asked.
    pub emulator: Emulator,
    ports: (u16, u16),
    data: TempDir,
    leash: Mutex<Child>,
}

impl OwnEmulator {
    /// Starts one.
    pub fn start() -> Self {
        let shared = Emulator::get();
        let data = tempfile::tempdir().unwrap();
        let ports = (free_port().unwrap(), free_port().unwrap());
        let leash = Self::serve(shared, &data, ports);
        Self {
            emulator: Emulator {
                rest: format!("http://127.0.0.1:{}", ports.0),
                grpc: format!("127.0.0.1:{}", ports.1),
                python: shared.python.clone(),
                home: shared.home.clone(),
                reader: Mutex::default(),
                leash: Mutex::default(),
                served: AtomicUsize::new(0),
                datasets: Mutex::default(),
            },
            ports,
            data,
            leash: Mutex::new(leash),
        }
    }

    /// Ends it, and starts it again.
    pub fn restart(&self) {
        self.end();
        *self.leash.lock().unwrap() = Self::serve(&self.emulator, &self.data, self.ports);
    }

    fn serve(like: &Emulator, data: &TempDir, ports: (u16, u16)) -> Child {
        let nothing = data.path().join("nothing");
        serve(&like.python, &like.home, data.path(), ports, &nothing).unwrap()
    }

    fn end(&self) {
        let mut leash = self.leash.lock().unwrap();
        drop(leash.stdin.take());
        leash.wait().unwrap();
    }
}

impl Drop for OwnEmulator {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts an emulator and waits until it answers. It ends when the standard input of what is returned
/// is closed, and takes the folder `rubbish` along.
fn serve(
    python: &Path,
    home: &Path,
    data: &Path,
    (rest, grpc): (u16, u16),
    rubbish: &Path,
) -> Result<Child, String> {
    std::fs::create_dir_all(data).map_err(|e| format!("{}: {e}", data.display()))?;
    let log = std::fs::File::create(data.join("log")).map_err(|e| e.to_string())?;
    // The shell waits for the end of its standard input, which this process holds open, and then takes
    // the emulator and its data along.
    let leash = Command::new("sh")
        .arg("-c")
        .arg(r#"data=$1; shift; "$@" </dev/null & emulator=$!; cat >/dev/null; kill $emulator; wait $emulator; rm -rf "$data""#)
        .arg("emulator")
        .arg(rubbish)
        .arg(python.with_file_name("local-bigquery"))
        .args(["serve", "--host", "127.0.0.1"])
        .args(["--port", &rest.to_string(), "--grpc-port", &grpc.to_string()])
        .args(["--project", PROJECT, "--dataset", "d", "--data-dir"])
        .arg(data.join("data"))
        .env("HOME", home)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().map_err(|e| e.to_string())?)
        .stderr(log)
        .spawn()
        .map_err(|e| format!("`sh` did not start: {e}"))?;
    let deadline = Instant::now() + Duration::from_secs(180);
    while !answers(rest) || TcpStream::connect(("127.0.0.1", grpc)).is_err() {
        if Instant::now() > deadline {
            let log = std::fs::read_to_string(data.join("log")).unwrap_or_default();
            let last = log.lines().rev().take(3).collect::<Vec<_>>().join(" / ");
            return Err(format!("it did not answer within three minutes ({last})"));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(leash)
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
    let answer = request(&format!("127.0.0.1:{port}"), "POST", "queries", body);
    answer.is_ok_and(|a| a.starts_with("HTTP/1.1 200"))
}

/// What an emulator at `host:port` answers to a call of its project.
fn request(address: &str, method: &str, path: &str, body: &str) -> std::io::Result<String> {
    let request = format!(
        "{method} /bigquery/v2/projects/{PROJECT}/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut answer = String::new();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(request.as_bytes())?;
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
