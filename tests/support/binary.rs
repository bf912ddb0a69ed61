//! The program itself, run as people run it: in a folder of its own, with an environment that holds
//! nothing but what the test says.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A process that is told to end has ended by then, counted from when the signal is sent: Cloud Run kills it two
/// seconds later.
pub const STOPS_WITHIN: Duration = Duration::from_secs(8);

/// A working directory, connectors of the test's own in it, and an environment.
pub struct Bench {
    folder: TempDir,
    environment: BTreeMap<String, String>,
}

/// What a run of the program left.
#[derive(Debug)]
pub struct Ran {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Panics, showing everything, unless it ended with this code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Panics, showing everything, unless standard error holds the text.
    #[track_caller]
    pub fn complains(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "`{text}` is not in {self}");
        self
    }

    /// Panics, showing everything, unless standard output holds the text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "`{text}` is not in {self}");
        self
    }

    /// Both outputs.
    pub fn all(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            code,
            stdout,
            stderr,
        } = self;
        write!(
            f,
            "exit {code:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}"
        )
    }
}

impl Bench {
    /// An empty folder.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("connectors")).unwrap();
        std::fs::create_dir_all(folder.path().join("home")).unwrap();
        Self {
            folder,
            environment: BTreeMap::new(),
        }
    }

    /// A folder with this connector in it.
    pub fn with(connector: &str, yaml: &str) -> Self {
        let bench = Self::new();
        bench.connector(connector, yaml);
        bench
    }

    /// Writes a connector file.
    pub fn connector(&self, name: &str, yaml: &str) -> PathBuf {
        self.write(&format!("connectors/{name}.yaml"), yaml)
    }

    /// Writes a stream's schema, one `name TYPE [MODE]` for each column.
    pub fn schema(&self, connector: &str, stream: &str, columns: &[&str]) -> PathBuf {
        let columns: Vec<serde_json::Value> = columns
            .iter()
            .map(|column| {
                let mut words = column.split_whitespace();
                serde_json::json!({
                    "name": words.next().unwrap(),
                    "type": words.next().unwrap(),
                    "mode": words.next().unwrap_or("NULLABLE"),
                })
            })
            .collect();
        self.write(
            &format!("connectors/schemas/{connector}/{stream}.json"),
            &serde_json::Value::from(columns).to_string(),
        )
    }

    /// Writes a file below the folder.
    pub fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Lets it find a BigQuery at these addresses (REST and gRPC), and nobody to get credentials from.
    pub fn bigquery(self, rest: &str, grpc: &str) -> Self {
        self.env("BIGQUERY_EMULATOR_HOST", rest)
            .env("BIGQUERY_STORAGE_EMULATOR_HOST", grpc)
            .env("NO_GCE_CHECK", "true")
    }

    /// A path below the folder.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Runs the program to its end; standard error holds text lines.
    pub async fn run(&self, args: &[&str]) -> Ran {
        self.spawn(args).end().await
    }

    /// Runs the program to its end, with this on standard input.
    pub async fn feed(&self, args: &[&str], input: &str) -> Ran {
        let mut running = self.spawn_with_input(args);
        let mut stdin = running.child.as_mut().unwrap().stdin.take().unwrap();
        let input = input.to_owned();
        let fed = tokio::task::spawn_blocking(move || {
            // A program that has no use for it may have closed it.
            let _ = stdin.write_all(input.as_bytes());
        });
        fed.await.unwrap();
        running.end().await
    }

    /// Starts the program.
    pub fn spawn(&self, args: &[&str]) -> Running {
        self.start(args, &[], Stdio::null())
    }

    /// Starts the program with these variables beside the others.
    pub fn spawn_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Running {
        self.start(args, environment, Stdio::null())
    }

    /// Starts the program as a shell starts a job: in a process group of its own, which can be stopped.
    pub fn spawn_in_a_group(&self, args: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drawoff"));
        command.args(args).process_group(0);
        self.start_command(command, &[], Stdio::null())
    }

    /// Starts the program as a container does: in a session of its own, without a terminal.
    pub fn spawn_in_a_session(&self, args: &[&str]) -> Running {
        let mut command = Command::new("setsid");
        command.arg(env!("CARGO_BIN_EXE_drawoff")).args(args);
        self.start_command(command, &[], Stdio::null())
    }

    /// Starts the program with somebody at its standard input.
    pub fn spawn_with_input(&self, args: &[&str]) -> Running {
        self.start(args, &[], Stdio::piped())
    }

    fn start(&self, args: &[&str], environment: &[(&str, &str)], input: Stdio) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drawoff"));
        command.args(args);
        self.start_command(command, environment, input)
    }

    fn start_command(
        &self,
        mut command: Command,
        environment: &[(&str, &str)],
        input: Stdio,
    ) -> Running {
        command
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("DRAWOFF_CONNECTORS", self.path("connectors"))
            .env("DRAWOFF_LOG_FORMAT", "text")
            .envs(&self.environment)
            .envs(environment.iter().copied())
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (heard, mut pipe) = (said.clone(), child.stderr.take().unwrap());
        let listening = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut piece) {
                heard.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        });
        Running {
            child: Some(child),
            said,
            listening: Some(listening),
        }
    }

    /// Every file below the folder, for what must not be in one.
    pub fn files(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => walk(&path, found),
                    false => found.push(path),
                }
            }
        }
        let mut found = Vec::new();
        walk(self.folder.path(), &mut found);
        found.sort();
        found
    }
}

/// The program at work; killed when dropped.
pub struct Running {
    child: Option<Child>,
    /// Standard error so far.
    said: Arc<Mutex<Vec<u8>>>,
    listening: Option<JoinHandle<()>>,
}

impl Running {
    /// Waits for its end.
    pub async fn end(mut self) -> Ran {
        let child = self.child.take().unwrap();
        let listening = self.listening.take().unwrap();
        let output = tokio::task::spawn_blocking(move || child.wait_with_output())
            .await
            .unwrap()
            .unwrap();
        tokio::task::spawn_blocking(move || listening.join())
            .await
            .unwrap()
            .unwrap();
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: self.said(),
        }
    }

    /// What it has written to standard error so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }

    /// Waits until standard error holds the text and the end of its line, or the program has ended;
    /// whether it does.
    pub async fn until_says(&mut self, text: &str) -> bool {
        let said = self.said.clone();
        self.until(move || {
            let said = String::from_utf8_lossy(&said.lock().unwrap()).into_owned();
            said.split_once(text)
                .is_some_and(|(_, rest)| rest.contains('\n'))
        })
        .await
    }

    /// Waits for a line of standard error that holds the text.
    pub async fn line(&mut self, text: &str) -> String {
        assert!(
            self.until_says(text).await,
            "`{text}` was not said: {}",
            self.said()
        );
        let said = self.said();
        said.lines().find(|l| l.contains(text)).unwrap().to_owned()
    }

    /// Types a line.
    pub fn write_line(&mut self, line: &str) {
        let input = self.child.as_mut().unwrap().stdin.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
        input.flush().unwrap();
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// How it ended, once it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().unwrap().try_wait().unwrap()
    }

    /// `kill -9`.
    pub async fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        let _ = child.kill();
        tokio::task::spawn_blocking(move || child.wait())
            .await
            .unwrap()
            .unwrap();
    }

    /// Sends a signal by name: `TERM`, `INT`.
    pub fn signal(&self, name: &str) {
        let id = self.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits until the condition holds or the program has ended, five minutes at the most; whether it holds.
    pub async fn until(&mut self, mut holds: impl FnMut() -> bool) -> bool {
        let begun = Instant::now();
        loop {
            if holds() {
                return true;
            }
            if self.ended().is_some() {
                return holds();
            }
            assert!(
                begun.elapsed() < Duration::from_secs(300),
                "nothing happened for five minutes: {}",
                self.said()
            );
            moment(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Looks again and again until it finds something, which it returns; panics after a minute.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "not within a minute: {what}"
        );
        moment(Duration::from_millis(20)).await;
    }
}

/// Lets time pass: between two looks at a condition, or for a kill at any moment.
#[allow(clippy::disallowed_methods)]
pub async fn moment(time: Duration) {
    tokio::time::sleep(time).await;
}
