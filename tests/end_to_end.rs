//! The main job: the github connector, from a GitHub that nobody here wrote into a BigQuery that
//! nobody here wrote, read back by clients that nobody here wrote.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::binary::{Bench, moment};
use crate::support::emulator::{Emulator, PROJECT};
use crate::support::github::{GitHub, ISSUES, OWNER, REPOSITORIES, TOKEN};
use crate::support::rows::sorted;

/// Rows that each table must have.
const COUNTS: [(&str, usize); 7] = [
    ("commits", 3),
    ("issues", ISSUES + 1),
    ("labels", 1),
    ("milestones", 1),
    ("pull_requests", 1),
    ("releases", 1),
    ("repositories", REPOSITORIES.len()),
];

fn bench(github: &GitHub, emulator: &Emulator) -> Bench {
    let bench = Bench::new()
        .env("DRAWOFF_GITHUB_TOKEN", TOKEN)
        .bigquery(emulator.rest(), emulator.grpc());
    bench.write(
        "drawoff.yaml",
        &format!(
            "sources:\n  github:\n    base_url: {}\n    config: {{owner: {OWNER}, owner_type: users}}\n",
            github.url
        ),
    );
    bench
}

/// What the tables hold, without when and by which run it came.
fn contents(emulator: &Emulator, dataset: &str) -> Vec<Value> {
    let queries = COUNTS.map(|(table, _)| {
        // This server says that a milestone was updated whenever it is asked.
        let also = if table == "milestones" { ", updated_at" } else { "" };
        json!({"query": format!("SELECT * EXCEPT (_extracted_at, _run_id{also}) FROM {dataset}.{table}")})
    });
    let tables = emulator.ask(queries.to_vec());
    let rows = |table: Value| sorted(table.as_array().unwrap().clone());
    tables.into_iter().map(|table| json!(rows(table))).collect()
}

fn lengths(contents: &[Value]) -> Vec<usize> {
    contents
        .iter()
        .map(|t| t.as_array().unwrap().len())
        .collect()
}

/// The same as Google's command line sees it.
fn bq_counts(bq: &Path, emulator: &Emulator, dataset: &str) -> Vec<usize> {
    let empty = tempfile::tempdir().unwrap();
    let counts: Vec<String> = COUNTS
        .iter()
        .map(|(t, _)| format!("(SELECT COUNT(*) FROM {dataset}.{t}) AS {t}"))
        .collect();
    let output = Command::new(bq)
        .env("CLOUDSDK_CONFIG", empty.path())
        .env("CLOUDSDK_AUTH_ACCESS_TOKEN", "fake")
        .env_remove("BIGQUERY_EMULATOR_HOST")
        .args([
            "--api",
            emulator.rest(),
            "--project_id",
            PROJECT,
            "--format=json",
        ])
        .args(["query", "--use_legacy_sql=false"])
        .arg(format!("SELECT {}", counts.join(", ")))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let rows = text
        .lines()
        .find_map(|l| serde_json::from_str::<Value>(l).ok())
        .unwrap_or_else(|| panic!("bq: {text} {}", String::from_utf8_lossy(&output.stderr)));
    COUNTS
        .iter()
        .map(|(t, _)| rows[0][t].as_str().unwrap().parse().unwrap())
        .collect()
}

fn find_bq() -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("bq"))
        .find(|bq| bq.is_file())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn github_into_bigquery() {
    let github = GitHub::start().await;
    let emulator = Emulator::get();
    let bench = bench(&github, emulator);
    let want: Vec<usize> = COUNTS.iter().map(|(_, n)| *n).collect();

    // Killed in the middle, twice, and run again.
    let killed = emulator.dataset("killed");
    let to_killed = format!("bigquery:{PROJECT}.{killed}");
    let args = ["--source", "github", "--destination", &to_killed];
    for millis in [900, 2_500] {
        let mut run = bench.spawn(&args);
        moment(Duration::from_millis(millis)).await;
        assert!(run.ended().is_none(), "over before it was killed");
        run.kill().await;
    }
    let undisturbed = emulator.dataset("undisturbed");
    let to_undisturbed = format!("bigquery:{PROJECT}.{undisturbed}");
    // A publish that was on its way when the run was killed may still come through, and keeps the next
    // run from publishing over it; the one after goes on from there.
    let again = bench.run(&args).await;
    if again.code != Some(0) {
        again.exits(75).says("another run has published meanwhile");
        bench.run(&args).await.exits(0);
    }
    bench
        .run(&["--source", "github", "--destination", &to_undisturbed])
        .await
        .exits(0);
    let (first, second) = (
        contents(emulator, &undisturbed),
        contents(emulator, &killed),
    );
    assert_eq!(lengths(&first), want);
    for (i, (table, _)) in COUNTS.iter().enumerate() {
        assert_eq!(second[i], first[i], "{table}, killed and run again");
    }
    let issue = &first[1][0];
    assert!(
        issue["repository"].as_str().unwrap().starts_with(OWNER),
        "{issue}"
    );
    assert!(
        issue["created_at"].as_str().unwrap().starts_with("20"),
        "{issue}"
    );

    // Again: nothing twice, and what is new.
    bench.run(&args).await.exits(0);
    assert_eq!(contents(emulator, &killed), first);
    github
        .open_issue(REPOSITORIES[1], json!({"title": "One more"}))
        .await;
    bench.run(&args).await.exits(0);
    let after = contents(emulator, &killed);
    assert_eq!(after[1].as_array().unwrap().len(), want[1] + 1);
    let table = emulator.table(&format!("{killed}.issues"));
    assert_eq!(table["partition"], json!(["DAY", "created_at"]));
    assert_eq!(table["clustering"], json!(["repository", "state"]));

    if let Some(bq) = find_bq() {
        assert_eq!(bq_counts(&bq, emulator, &undisturbed), want);
    }
}
