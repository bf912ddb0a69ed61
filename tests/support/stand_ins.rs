//! Programs on the path that only write down how they are called: what a script would do, seen without an
//! account. Each call of `gcloud` and `bq` can then be held against the real program's flags.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Writes its arguments down, and answers like a project in which everything is there, or nothing.
const STAND_IN: &str = r#"#!/usr/bin/env bash
{ printf '%s\0' "${0##*/}" "$@"; printf '\036'; } >> "$CALLS"
case "${0##*/} $*" in
    "gcloud run services describe"*) echo https://drawoff-acme-abc-ew.a.run.app ;;
    "gcloud projects describe"*) echo 123456789012 ;;
    "gcloud builds describe"*) echo SUCCESS ;;
    "gcloud run jobs describe"*--format=*) echo europe-west1-docker.pkg.dev/my-project/drawoff/drawoff-acme:20260101-000000 ;;
    "gcloud storage service-agent"*) echo service-1@gs-project-accounts.iam.gserviceaccount.com ;;
    "gcloud eventarc triggers describe"*) echo projects/my-project/subscriptions/drawoff-1 ;;
    "gcloud beta monitoring channels create"*) echo projects/my-project/notificationChannels/1 ;;
    bq*" ls --transfer_config"*) echo '[{"displayName": "drawoff: freshness", "name": "projects/1/locations/eu/transferConfigs/5f3a-1"}]' ;;
    *" describe "*) [ "$EVERYTHING_IS_THERE" = yes ] ;;
    *" list "* | *" list") if [ "$EVERYTHING_IS_THERE" = yes ]; then echo 1; fi ;;
    bq*" show "*) echo '{"kind": "bigquery#dataset", "location": "EU"}' ;;
    "git clone"*) mkdir -p drawoff ;;
    "git -C"*" rev-parse "*) echo 1a2b3c4 ;;
    "gcloud builds submit"*) cp -R -- "$3" "$CALLS.context.$(date +%s%N)"; echo 5d0f ;;
esac
"#;

const NAMES: [&str; 8] = [
    "gcloud",
    "bq",
    "drawoff",
    "docker",
    "git",
    "cargo",
    "kubectl",
    "terraform",
];

/// A folder to run scripts in, with the stand-ins first on the path.
pub struct StandIns {
    folder: TempDir,
}

/// A call: the program's name, and its arguments.
pub type Call = Vec<String>;

impl StandIns {
    pub fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(folder.path().join("tmp")).unwrap();
        for name in NAMES {
            let path = bin.join(name);
            std::fs::write(&path, STAND_IN).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { folder }
    }

    /// Runs a script of bash's in `folder`, in a project where everything is there already, or nothing;
    /// returns the calls in order. Panics with what it says unless it ends well.
    #[track_caller]
    pub fn run(&self, script: &str, folder: &Path, everything_is_there: bool) -> Vec<Call> {
        let output = self.output(script, folder, everything_is_there);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: {said}\n{script}",
            output.status
        );
        let text = std::fs::read_to_string(self.folder.path().join("calls")).unwrap();
        text.split_terminator('\x1e')
            .map(|call| call.split_terminator('\0').map(str::to_owned).collect())
            .collect()
    }

    /// Runs a script that ends with `code`, in a project where nothing is there; returns what it says.
    #[track_caller]
    pub fn fails(&self, script: &str, folder: &Path, code: i32) -> String {
        let output = self.output(script, folder, false);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}\n{script}");
        said
    }

    fn output(&self, script: &str, folder: &Path, everything_is_there: bool) -> Output {
        let calls = self.folder.path().join("calls");
        let _ = std::fs::remove_file(&calls);
        let path = std::env::var_os("PATH").unwrap();
        let path = path.display();
        Command::new("bash")
            .args(["-c", script, "bash"])
            .current_dir(folder)
            .env_clear()
            .env(
                "PATH",
                format!("{}:{path}", self.folder.path().join("bin").display()),
            )
            .env("HOME", folder)
            .env("TMPDIR", self.folder.path().join("tmp"))
            .env("CALLS", &calls)
            .env(
                "EVERYTHING_IS_THERE",
                if everything_is_there { "yes" } else { "no" },
            )
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What was handed over to be built, in order.
    pub fn contexts(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = std::fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().contains("calls.context."))
            .collect();
        found.sort();
        found
    }

    /// What was left in the folder for temporary files.
    pub fn leftovers(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("tmp"))
            .unwrap()
            .count()
    }
}

/// Whether the machine has the program.
pub fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap();
    let there = std::env::split_paths(&paths).any(|folder| folder.join(program).is_file());
    if !there {
        eprintln!("not tried: there is no `{program}` on this machine");
    }
    there
}

/// Panics with what the real `gcloud` or `bq` says to calls whose flags it does not know. They get as far
/// as where an account or a network is wanted.
pub fn known_to_google(calls: &[Call]) {
    let (gcloud, bq) = (has("gcloud"), has("bq"));
    let mut wanted: Vec<&Call> = calls
        .iter()
        .filter(|call| (call[0] == "gcloud" && gcloud) || (call[0] == "bq" && bq))
        // They ask a person.
        .filter(|call| !call.iter().any(|word| word == "login"))
        .collect();
    // One of those that differ in values only.
    wanted.sort_by_key(|call| grammar(call));
    wanted.dedup_by_key(|call| grammar(call));
    let home = tempfile::tempdir().unwrap();
    // What is to be built is looked for before the account.
    std::fs::write(home.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    // So are files that flags name.
    for file in wanted.iter().flat_map(|call| call.iter()) {
        if let Some(file) = file.strip_prefix("--policy-from-file=") {
            std::fs::write(home.path().join(file), "{}").unwrap();
        }
    }
    let next = std::sync::Mutex::new(wanted.into_iter());
    let wrong = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let Some(call) = next.lock().unwrap().next() else {
                        break;
                    };
                    let said = refusal(call, home.path());
                    let known = [
                        "do not currently have an active account selected",
                        "Connection refused",
                    ];
                    if !known.iter().any(|text| said.contains(text)) {
                        wrong.lock().unwrap().push(format!("{call:?}: {said}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A call without the values of its flags, and without what is no flag but for the command's name.
fn grammar(call: &Call) -> Vec<String> {
    let flags = call.iter().filter(|word| word.starts_with('-'));
    let flags = flags.map(|flag| flag.split('=').next().unwrap_or_default().to_owned());
    let words = call.iter().filter(|word| !word.starts_with('-')).take(4);
    words.cloned().chain(flags).collect()
}

/// What the real program complains of.
fn refusal(call: &Call, home: &Path) -> String {
    let mut command = Command::new(&call[0]);
    if call[0] == "bq" {
        // It would ask for an account before it looks at its flags.
        command
            .args(["--api", "http://127.0.0.1:1"])
            .env("CLOUDSDK_AUTH_ACCESS_TOKEN", "none");
    }
    let mut words = call[1..].to_vec();
    if words.starts_with(&["builds".to_owned(), "submit".to_owned()]) {
        words[2] = ".".to_owned();
    }
    let output = command
        .args(&words)
        .current_dir(home)
        .env("HOME", home)
        .env("CLOUDSDK_CONFIG", home)
        .env("CLOUDSDK_CORE_DISABLE_PROMPTS", "1")
        .env("CLOUDSDK_CORE_CHECK_GCE_METADATA", "false")
        .env("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "true")
        .env("CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK", "true")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// The commands in a page of the docs: its blocks of `sh`, in order.
pub fn commands(page: &str) -> String {
    let mut text = String::new();
    let mut inside = false;
    for line in page.lines() {
        match (inside, line.trim_start()) {
            (false, "```sh") => inside = true,
            (true, "```") => inside = false,
            (true, _) => {
                text.push_str(line);
                text.push('\n');
            }
            _ => {}
        }
    }
    text
}
