//! Jobs and calls of BigQuery that end as the real service's do at times and the emulator's never: what
//! the answers say is changed on the way, and the rows are read back as they are.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use drawoff::destination::bigquery::{BigQuery, BigQuerySettings, Target};
use drawoff::destination::{
    Base, BatchKind, Destination, Disposition, Published, TableSpec, WriteMethod,
};
use drawoff::error::{ErrorKind, Result};
use drawoff::google::{Google, GoogleSettings};
use drawoff::schema::{Column, ColumnType, Mode, TableSchema};
use drawoff::state::{Checkpoint, CheckpointKey, CheckpointUpdate, SliceFacts, StateStore};
use serde_json::{Value, json};

use crate::support::emulator::{Emulator, PROJECT};
use crate::support::faults::{Fault, RestProxy, Rule};
use crate::support::hasty_clock::HastyClock;
use crate::support::meddler::{self, Meddling};
use crate::support::rows::batch;

fn destination(google: GoogleSettings, dataset: &str, settings: BigQuerySettings) -> BigQuery {
    let google = Google::new(google, HastyClock::new()).unwrap();
    let target = Target {
        project: PROJECT.into(),
        dataset: dataset.into(),
    };
    BigQuery::new(google, target, settings).unwrap()
}

fn notes() -> TableSpec {
    TableSpec {
        name: "notes".into(),
        description: "What was said.".into(),
        schema: TableSchema {
            columns: vec![
                Column::new("id", ColumnType::Int64).mode(Mode::Required),
                Column::new("text", ColumnType::String),
            ],
        },
        disposition: Disposition::Append,
        ..TableSpec::default()
    }
}

fn update(version: u64) -> CheckpointUpdate {
    CheckpointUpdate {
        key: CheckpointKey {
            source: "src".into(),
            stream: "notes".into(),
        },
        checkpoint: Checkpoint::default(),
        expected_version: version,
        run_id: format!("run{version}"),
        lease: "src".into(),
        facts: SliceFacts::default(),
    }
}

/// Publishes a row of that id, on that version of the checkpoint.
async fn land(to: &BigQuery, spec: &TableSpec, version: u64, id: i64) -> Result<Published> {
    let update = update(version);
    let mut slice = to.open(spec, &update.run_id, "0001").await?;
    slice.builds_on(&Base {
        key: update.key.clone(),
        version,
        lease: update.lease.clone(),
    });
    let rows = batch(&spec.schema, &[json!({"id": id})]);
    slice.stage(BatchKind::Rows, rows).await?;
    slice.publish(&update).await
}

/// The ids in the table, and the version of the checkpoint.
async fn holds(to: &BigQuery, dataset: &str, ids: &[i64], version: u64) {
    let found = Emulator::get().query(&format!("SELECT id FROM `{dataset}.notes` ORDER BY id"));
    let ids: Vec<Value> = ids.iter().map(|id| json!({"id": id})).collect();
    assert_eq!(found, json!(ids));
    let saved = to.checkpoints("src").await.unwrap();
    let saved = saved.get(&update(0).key).map(|s| s.version);
    assert_eq!(saved.unwrap_or_default(), version);
}

/// How a job that publishes ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// With this reason, and its transaction is rolled back.
    RolledBack(&'static str),
    /// With an error, after its transaction was committed.
    AfterCommit,
    /// Well, and yet with a list of errors, as does every job beside it.
    Warned,
}

/// The jobs that publish: how those to come end, and what is known of those that were.
#[derive(Default)]
struct Jobs {
    /// How all of them end, the others of a slice as well.
    all: Option<End>,
    ends: VecDeque<End>,
    seen: Vec<String>,
    ended: HashMap<String, End>,
}

fn failed(reason: &str) -> Value {
    let error = json!({"reason": reason, "message": "So it ended."});
    json!({"state": "DONE", "errorResult": error, "errors": [error]})
}

impl Jobs {
    fn decide(&mut self, method: &str, path: &str, body: &Value) -> Meddling {
        let last = path.rsplit('/').next().unwrap_or_default();
        let sql = body["configuration"]["query"]["query"].as_str();
        let inserts = method == "POST" && last == "jobs";
        let id = match inserts && sql.is_some_and(|sql| sql.contains("COMMIT TRANSACTION")) {
            true => {
                let id = body["jobReference"]["jobId"].as_str().unwrap().to_owned();
                self.seen.push(id.clone());
                if let Some(end) = self.ends.pop_front() {
                    self.ended.insert(id.clone(), end);
                }
                id
            }
            false if method == "GET" && path.contains("/jobs/") => last.to_owned(),
            false if inserts => String::new(),
            false => return Meddling::Pass,
        };
        let end = self.all.as_ref().or(self.ended.get(&id));
        match end {
            None => Meddling::Pass,
            // It is at work at first, as BigQuery's are.
            Some(End::RolledBack(_)) if inserts => Meddling::Answer(
                200,
                json!({"jobReference": body["jobReference"], "status": {"state": "RUNNING"}}),
            ),
            Some(End::RolledBack(reason)) => {
                Meddling::Answer(200, json!({"status": failed(reason)}))
            }
            Some(End::AfterCommit) => Meddling::Edit(|job| {
                if job["status"]["state"] == "DONE" {
                    job["status"] = failed("jobInternalError");
                }
            }),
            Some(End::Warned) => Meddling::Edit(|job| {
                if job["status"]["state"] == "DONE" {
                    job["status"] = failed("invalid");
                    job["status"].as_object_mut().unwrap().remove("errorResult");
                }
            }),
        }
    }
}

/// BigQuery answers that a job was inserted, and what became of it shows when it is looked at; the
/// emulator refuses to insert what fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_whose_job_ends_with_an_error_is_done_once_or_not_at_all() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("job_ends");
    let jobs = Arc::new(Mutex::new(Jobs::default()));
    let decides = jobs.clone();
    let url = meddler::start(emulator.rest(), move |method, path, body| {
        decides.lock().unwrap().decide(method, path, body)
    })
    .await;
    let to = destination(emulator.settings_at(&url), &dataset, Default::default());
    let spec = notes();
    to.prepare(&spec).await.unwrap();
    let mut ids = Vec::new();
    // How jobs end, and how many are inserted until the slice is published.
    for (ends, attempts) in [
        // The first slice of all has jobs beside the one that publishes.
        (vec![End::Warned], 1),
        // Cancelled because of another transaction, or by a fault of BigQuery's own.
        (vec![End::RolledBack("invalidQuery")], 2),
        (vec![End::RolledBack("jobInternalError"); 2], 3),
        (vec![End::RolledBack("backendError")], 2),
        (vec![End::AfterCommit], 1),
        (
            vec![End::RolledBack("jobBackendError"), End::AfterCommit],
            2,
        ),
    ] {
        let version = ids.len() as u64;
        *jobs.lock().unwrap() = Jobs {
            all: ends.iter().copied().find(|e| matches!(e, End::Warned)),
            ends: ends.clone().into(),
            ..Jobs::default()
        };
        let published = land(&to, &spec, version, version as i64).await;
        let published = published.unwrap_or_else(|e| panic!("{ends:?}: {e:?}"));
        assert_eq!((published.rows, published.deduplicated), (1, 0), "{ends:?}");
        ids.push(version as i64);
        let mut seen = jobs.lock().unwrap().seen.clone();
        assert_eq!(seen.len(), attempts, "{ends:?}");
        seen.dedup();
        assert_eq!(
            seen.len(),
            attempts,
            "an id of a job that failed is used again"
        );
    }
    let version = ids.len() as u64;
    holds(&to, &dataset, &ids, version).await;

    // What does not pass: after one attempt, or after as many as may help.
    for (reason, attempts, kind, hint) in [
        ("quotaExceeded", 1, ErrorKind::RateLimited, "quota"),
        ("accessDenied", 1, ErrorKind::Auth, "roles/bigquery"),
        (
            "bytesBilledLimitExceeded",
            1,
            ErrorKind::Destination,
            "maximum_bytes_billed",
        ),
        ("invalidQuery", 10, ErrorKind::Destination, "run again"),
        ("backendError", 8, ErrorKind::Unavailable, ""),
    ] {
        *jobs.lock().unwrap() = Jobs {
            ends: vec![End::RolledBack(reason); 20].into(),
            ..Jobs::default()
        };
        let error = land(&to, &spec, version, 99).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{reason}: {error:?}");
        assert_eq!(jobs.lock().unwrap().seen.len(), attempts, "{reason}");
        let words = error.to_string();
        assert!(
            words.starts_with("could not publish slice `0001` of `p.job_ends")
                && words.contains(reason),
            "{words}"
        );
        assert!(
            error.find_hint().unwrap_or_default().contains(hint),
            "{error:?}"
        );
    }
    *jobs.lock().unwrap() = Jobs::default();
    holds(&to, &dataset, &ids, version).await;
    assert_eq!(land(&to, &spec, version, 100).await.unwrap().rows, 1);
}

/// The path of uploads.
const UPLOAD: &str = "/upload/bigquery/v2/projects/p/jobs";

/// A job in an answer is still at work.
const AT_WORK: Fault = Fault::Edit(|job| job["status"] = json!({"state": "RUNNING"}));

/// A table that is loaded into, beside that of [`notes`].
fn loaded() -> TableSpec {
    TableSpec {
        name: "loaded".into(),
        write_method: WriteMethod::LoadJob,
        ..notes()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_about_a_job_names_the_datasets_location() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("job_place");
    let rules = vec![
        // The answer to an upload that is opened is no job.
        Rule::ending("POST", UPLOAD, &[Fault::Pass; 9]),
        Rule::ending("POST", "/bigquery/v2/projects/p/jobs", &[AT_WORK]),
        Rule::ending("PUT", UPLOAD, &[AT_WORK]),
    ];
    let proxy = RestProxy::with(emulator.rest(), rules).await;
    let eu = BigQuerySettings {
        location: Some("EU".into()),
        ..BigQuerySettings::default()
    };
    // The second finds the dataset where it is, though it would have made it elsewhere.
    for (run, settings) in [eu, BigQuerySettings::default()].into_iter().enumerate() {
        let to = destination(emulator.settings_at(&proxy.url), &dataset, settings);
        for (version, spec) in [notes(), loaded()].into_iter().enumerate() {
            to.prepare(&spec).await.unwrap();
            let version = (2 * run + version) as u64;
            land(&to, &spec, version, version as i64).await.unwrap();
        }
        to.checkpoints("src").await.unwrap();
        let asked = proxy.seen("GET ");
        let asked = asked
            .iter()
            .filter(|s| s.line.ends_with(&format!("/datasets/{dataset}")));
        assert_eq!(
            asked.count(),
            run + 1,
            "the dataset is asked for once a process"
        );
    }
    let made = proxy.seen("POST /bigquery/v2/projects/p/datasets");
    let made = made.iter().filter(|s| s.line.ends_with("/datasets"));
    let places: Vec<&Value> = made.map(|s| &s.json["location"]).collect();
    assert_eq!(places, [&json!("EU")]);
    let (mut inserted, mut looks, mut results) = (0, 0, 0);
    for seen in proxy.seen("") {
        let about = |part: &str| seen.line.starts_with("GET ") && seen.line.contains(part);
        if seen.line.starts_with("POST ") && seen.line.ends_with("/jobs") {
            inserted += 1;
            assert_eq!(seen.json["jobReference"]["location"], "EU", "{seen:?}");
        } else if about("/jobs/") || about("/queries/") {
            looks += usize::from(about("/jobs/"));
            results += usize::from(about("/queries/"));
            assert!(
                seen.query.split('&').any(|q| q == "location=EU"),
                "{seen:?}"
            );
        } else {
            // Nothing else is about jobs.
            assert!(
                !seen.line.contains("/jobs/") && !seen.line.ends_with("/queries"),
                "{seen:?}"
            );
        }
    }
    assert!(
        inserted > 5 && looks >= 2 && results > 4,
        "{inserted} {looks} {results}"
    );
    assert_eq!(proxy.seen(&format!("POST {UPLOAD}")).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_misses_something_is_told_where_it_ran_and_where_the_dataset_is() {
    const THERE: usize = 0;
    const ELSEWHERE: usize = 1;
    const GONE: usize = 2;
    let emulator = Emulator::get();
    let dataset = emulator.dataset("job_gone");
    let jobs = Arc::new(Mutex::new(Jobs::default()));
    let now = Arc::new(AtomicUsize::new(THERE));
    let (decides, is, path_of_it) = (jobs.clone(), now.clone(), format!("/datasets/{dataset}"));
    let url = meddler::start(emulator.rest(), move |method, path, body| {
        match (path.ends_with(&path_of_it), is.load(Ordering::SeqCst)) {
            (true, ELSEWHERE) => {
                Meddling::Edit(|dataset| dataset["location"] = json!("asia-northeast1"))
            }
            (true, GONE) => Meddling::Answer(
                404,
                json!({"error": {"errors": [{"reason": "notFound"}], "message": "Not found"}}),
            ),
            _ => decides.lock().unwrap().decide(method, path, body),
        }
    })
    .await;
    let eu = BigQuerySettings {
        location: Some("EU".into()),
        ..BigQuerySettings::default()
    };
    let to = destination(emulator.settings_at(&url), &dataset, eu);
    to.prepare(&notes()).await.unwrap();
    for (state, hint) in [
        (THERE, "the job ran in `EU`, where dataset"),
        (
            ELSEWHERE,
            "is in `asia-northeast1`: it was made anew meanwhile, so run again",
        ),
        (GONE, "is gone; the job ran in `EU`"),
    ] {
        now.store(state, Ordering::SeqCst);
        jobs.lock().unwrap().ends = [End::RolledBack("notFound")].into();
        let error = land(&to, &notes(), 0, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Destination, "{error:?}");
        assert!(error.to_string().contains("notFound"), "{error}");
        let said = error.find_hint().unwrap();
        assert!(said.contains(hint) && said.contains(&dataset), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_where_they_are_paid_for_and_within_their_limit() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("job_payer");
    let proxy = RestProxy::with(emulator.rest(), vec![]).await;
    let settings = BigQuerySettings {
        job_project: Some("payer".into()),
        maximum_bytes_billed: Some(5 << 30),
        ..BigQuerySettings::default()
    };
    let to = destination(emulator.settings_at(&proxy.url), &dataset, settings);
    let ways = [
        notes(),
        loaded(),
        TableSpec {
            disposition: Disposition::Merge,
            primary_key: vec!["id".into()],
            ..notes()
        },
    ];
    for (version, spec) in ways.iter().enumerate() {
        to.prepare(spec).await.unwrap();
        land(&to, spec, version as u64, 1).await.unwrap();
    }
    let mut kinds = BTreeSet::new();
    for seen in proxy.seen("/projects/") {
        let about_jobs = ["/jobs", "/jobs/", "/queries/"];
        let about_jobs = about_jobs
            .iter()
            .any(|part| seen.line.contains(part) && !seen.line.contains("/datasets/"));
        let project = if about_jobs { "payer" } else { PROJECT };
        assert!(
            seen.line
                .contains(&format!("/bigquery/v2/projects/{project}/")),
            "{seen:?}"
        );
        if !(seen.line.starts_with("POST ") && seen.line.ends_with("/jobs")) {
            continue;
        }
        let (job, upload) = (&seen.json, seen.line.contains("/upload/"));
        assert_eq!(job["jobReference"]["projectId"], "payer", "{job}");
        let configuration = &job["configuration"];
        let labels = &configuration["labels"];
        for (label, value) in [("drawoff_source", "src"), ("drawoff_stream", "notes")] {
            assert_eq!(labels[label], value, "{job}");
        }
        kinds.insert(labels["drawoff"].as_str().unwrap().to_owned());
        if upload {
            let there = &configuration["load"]["destinationTable"]["projectId"];
            assert_eq!(there, PROJECT, "the rows go where the tables are");
            continue;
        }
        // A job that would bill more fails before it starts.
        let most = &configuration["query"]["maximumBytesBilled"];
        assert_eq!(most, &json!((5u64 << 30).to_string()), "{job}");
        if labels["drawoff"] == "publish" {
            assert!(labels["drawoff_run"].as_str().unwrap().starts_with("run"));
        }
    }
    let expected = ["checkpoints", "load", "publish"];
    assert_eq!(kinds, expected.map(str::to_owned).into());
    holds(&to, &dataset, &[1], 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_others_change_meanwhile_is_read_again() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("job_patch");
    destination(emulator.settings(), &dataset, BigQuerySettings::default())
        .prepare(&notes())
        .await
        .unwrap();
    let faults = [
        // Somebody was faster, twice; then there are too many changes at a time.
        Fault::Reason(412, "conditionNotMet"),
        Fault::Reason(412, "conditionNotMet"),
        Fault::Reason(403, "rateLimitExceeded"),
    ];
    let proxy = RestProxy::start(emulator.rest(), "PATCH", "/tables/notes", &faults).await;
    let to = destination(
        emulator.settings_at(&proxy.url),
        &dataset,
        Default::default(),
    );
    let mut spec = notes();
    spec.schema
        .columns
        .push(Column::new("by", ColumnType::String));
    let said = to.prepare(&spec).await.unwrap();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("`by` STRING"), "{said:?}");
    assert_eq!(proxy.left(), 0);
    let calls: Vec<String> = proxy
        .seen("/tables/notes")
        .into_iter()
        .filter(|s| s.line.ends_with("/tables/notes"))
        .map(|s| {
            assert_eq!(s.if_match.is_empty(), s.line.starts_with("GET "), "{s:?}");
            s.line.split(' ').next().unwrap().to_owned()
        })
        .collect();
    // What was too much is repeated as it is: nothing has changed.
    assert_eq!(
        calls,
        ["GET", "PATCH", "GET", "PATCH", "GET", "PATCH", "PATCH"]
    );
    let table = emulator.table(&format!("{dataset}.notes"));
    assert_eq!(table["schema"][2]["name"], "by");
    assert_eq!(table["schema"].as_array().unwrap().len(), 3);

    // By others all the time: for another run.
    let faults = [Fault::Reason(412, "conditionNotMet"); 20];
    let proxy = RestProxy::start(emulator.rest(), "PATCH", "/tables/notes", &faults).await;
    let to = destination(
        emulator.settings_at(&proxy.url),
        &dataset,
        Default::default(),
    );
    spec.description = "What was said, and by whom.".into();
    let error = to.prepare(&spec).await.unwrap_err();
    assert_eq!(error.exit_code(), 75, "{error:?}");
    assert!(
        error.to_string().contains("changed by others all the time"),
        "{error}"
    );
    assert_eq!(proxy.seen("PATCH ").len(), 10);
}

/// A meddler that has tables made without making them, and a destination before it.
async fn credulous(dataset: &str) -> BigQuery {
    let emulator = Emulator::get();
    let url = meddler::start(emulator.rest(), |method, path, body| {
        let table = &body["tableReference"]["tableId"];
        match method == "POST" && path.ends_with("/tables") && table == "wide" {
            true => Meddling::Answer(200, body.clone()),
            false => Meddling::Pass,
        }
    })
    .await;
    destination(emulator.settings_at(&url), dataset, Default::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_as_wide_and_deep_as_their_staging_tables_can_be() {
    let dataset = Emulator::get().dataset("job_wide");
    let to = credulous(&dataset).await;
    let wide = |columns: Vec<Column>| TableSpec {
        name: "wide".into(),
        schema: TableSchema { columns },
        disposition: Disposition::Append,
        ..TableSpec::default()
    };
    let of = |n: usize| -> Vec<Column> {
        (0..n)
            .map(|n| Column::new(format!("c{n}"), ColumnType::Int64))
            .collect()
    };
    // BigQuery takes 10,000 columns, and a staging table has one more than its table.
    to.prepare(&wide(of(9_999))).await.unwrap();
    let inside = Column::new("r", ColumnType::Record).fields(of(9_000));
    to.prepare(&wide([of(998), vec![inside.clone()]].concat()))
        .await
        .unwrap();
    for columns in [of(10_000), of(10_001), [of(999), vec![inside]].concat()] {
        let error = to.prepare(&wide(columns)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema, "{error:?}");
        assert!(
            error
                .to_string()
                .contains("columns, those inside RECORDs included"),
            "{error}"
        );
    }
    let deep = |levels: usize| {
        let leaf = Column::new("leaf", ColumnType::Int64);
        let column = (0..levels).fold(leaf, |inner, n| {
            Column::new(format!("r{n}"), ColumnType::Record).fields(vec![inner])
        });
        wide(vec![column])
    };
    to.prepare(&deep(15)).await.unwrap();
    let error = to.prepare(&deep(16)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema, "{error:?}");
    assert!(
        error.to_string().contains("nested deeper than 15 RECORDs"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_made_one_at_a_time() {
    static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let emulator = Emulator::get();
    let dataset = emulator.dataset("job_tables");
    let url = meddler::start(emulator.rest(), |method, path, _| {
        if method != "POST" || !path.ends_with("/tables") {
            return Meddling::Pass;
        }
        let now = UNDER_WAY.fetch_add(1, Ordering::SeqCst) + 1;
        MOST.fetch_max(now, Ordering::SeqCst);
        MADE.fetch_add(1, Ordering::SeqCst);
        // Once it is answered.
        Meddling::Edit(|_| {
            UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
        })
    })
    .await;
    let to = destination(emulator.settings_at(&url), &dataset, Default::default());
    to.prepare(&notes()).await.unwrap();
    let before = MADE.load(Ordering::SeqCst);
    // BigQuery takes ten a second of a project, and streams begin side by side.
    let each = (0..6).map(|n| {
        let spec = TableSpec {
            name: format!("notes{n}"),
            ..notes()
        };
        let to = to.clone();
        async move { to.prepare(&spec).await.unwrap() }
    });
    futures::future::join_all(each).await;
    // Each with the table of its rejects.
    assert_eq!(MADE.load(Ordering::SeqCst) - before, 12);
    assert_eq!(MOST.load(Ordering::SeqCst), 1);
}
