//! Query jobs: inserted under an id of our own, so that a lost answer costs nothing.

use std::time::Duration;

use http::Method;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::job::{failure_of, label_of, labels};
use super::pages::{Row, column_names, rows_of};
use super::{Api, Rest};
use crate::error::Result;
use crate::google::{Failure, Next, RetryPolicy};

/// Longest wait between two looks at a query job.
const LONGEST_POLL: Duration = Duration::from_secs(4);

/// Attempts of a query whose job failed for a passing reason; each has an id of its own.
pub(in super::super) const ATTEMPTS: u32 = 8;

/// Attempts of a transaction that may have been cancelled because of another one, and the waits
/// between them: three quarters of a minute at the most. Others hold a table for a few seconds each.
pub(in super::super) const CLASHES: u32 = 10;
const AFTER_A_CLASH: RetryPolicy = RetryPolicy {
    attempts: CLASHES,
    first_delay: Duration::from_millis(500),
    longest_delay: Duration::from_secs(8),
    attempt_timeout: RetryPolicy::BIGQUERY.attempt_timeout,
};

/// The same of a statement of which BigQuery says that others were in its way, and the waits between them:
/// twenty minutes at the most, since many tasks may take turns.
const TURNS: u32 = 100;
const UNTIL_ITS_TURN: RetryPolicy = RetryPolicy {
    attempts: TURNS,
    first_delay: Duration::from_millis(500),
    longest_delay: Duration::from_secs(16),
    attempt_timeout: RetryPolicy::BIGQUERY.attempt_timeout,
};

/// What BigQuery says then, under reasons that it has for much else: of a transaction, of a statement
/// outside of one, and where already twenty wait for a table.
const IN_THE_WAY: [&str; 3] = [
    "concurrent update",
    "serialize access",
    "DML statements outstanding",
];

/// A query or script, its parameters, and labels for whoever looks at the bill.
pub(in super::super) struct Query<'a> {
    /// What it does, after "could not".
    pub what: String,
    /// The text.
    pub sql: String,
    /// Named parameters: name, type, value.
    pub parameters: Vec<(&'a str, &'a str, String)>,
    /// Labels; made to fit.
    pub labels: Vec<(&'a str, &'a str)>,
    /// It mutates in a transaction, which BigQuery may cancel because of another one.
    pub transaction: bool,
    /// It knows its own job's id, as the parameter [`JOB`].
    pub names_job: bool,
    /// Tells apart runs of the same text and parameters; a repeat with the same mark adopts the job.
    pub mark: String,
}

/// The parameter of a query that knows its job's id.
pub(in super::super) const JOB: &str = "job";

/// How a job ended.
#[derive(Debug)]
pub(in super::super) enum Ended {
    /// Well; the rows of its last SELECT.
    Well(Vec<Row>),
    /// Not well. Its transaction, if it had one, is rolled back, unless it failed after the commit.
    Failed(Failure),
}

impl Query<'_> {
    /// How long to wait before the job is run again under another id, after this many attempts.
    /// `None`: that would change nothing.
    ///
    /// BigQuery has no reason code of its own for transactions that it cancels because of one another:
    /// it says that the query is invalid. A query that is indeed invalid is mostly refused before it
    /// runs; the rest costs a few attempts in vain.
    pub(in super::super) fn again(&self, failure: &Failure, attempts: u32) -> Option<Duration> {
        if failure.is_transient() {
            return (attempts < ATTEMPTS).then(|| RetryPolicy::BIGQUERY.delay(attempts));
        }
        // Nothing hangs on the words but how long it is tried.
        if failure.is_of_job() && IN_THE_WAY.iter().any(|w| failure.message.contains(w)) {
            return (attempts < TURNS).then(|| UNTIL_ITS_TURN.delay(attempts));
        }
        let clash = self.transaction && failure.is_of_job() && failure.reason == "invalidQuery";
        (clash && attempts < CLASHES).then(|| AFTER_A_CLASH.delay(attempts))
    }
}

impl Api {
    /// Runs a query that may be repeated without harm, and answers with its rows.
    pub(in super::super) async fn query(&self, query: &Query<'_>) -> Result<Vec<Row>> {
        let mut attempt = 0;
        loop {
            let ended = self.run(query, attempt).await?;
            attempt += 1;
            match ended {
                Ended::Well(rows) => return Ok(rows),
                Ended::Failed(failure) => match query.again(&failure, attempt) {
                    Some(delay) => self.sleep(delay).await,
                    None => return Err(self.failed(failure).await),
                },
            }
        }
    }

    /// Runs one job to its end. The same query with the same attempt is the same job: where it was
    /// inserted before, it is not run again but adopted.
    pub(in super::super) async fn run(&self, query: &Query<'_>, attempt: u32) -> Result<Ended> {
        let location = self.location().await?;
        let project = &self.0.job_project;
        let id = job_id(query, attempt, &format!("{project}/{:?}", self.target()));
        let own = (JOB, "STRING", id.clone());
        let parameters = query
            .parameters
            .iter()
            .chain(query.names_job.then_some(&own));
        let mut configuration = json!({
            "labels": labels(&query.labels),
            "query": {
                "query": query.sql,
                "useLegacySql": false,
                "useQueryCache": false,
                "parameterMode": "NAMED",
                "queryParameters": parameters.map(|(name, kind, value)| json!({
                    "name": name,
                    "parameterType": {"type": kind},
                    "parameterValue": {"value": value},
                })).collect::<Vec<_>>(),
            },
        });
        if let Some(most) = self.0.maximum_bytes_billed {
            configuration["query"]["maximumBytesBilled"] = json!(most.to_string());
        }
        let body = json!({
            "jobReference": {"projectId": project, "jobId": id, "location": location},
            "configuration": configuration,
        });
        let inserted = self
            .rest(Rest {
                what: query.what.clone(),
                method: Method::POST,
                path: &["projects", project, "jobs"],
                query: &[],
                body: Some(body.to_string().into()),
                if_match: None,
            })
            .await;
        let job = match inserted {
            Ok(job) => job,
            // An id is made of all that the job does: whoever inserted it, it is this job.
            Err(f) if f.next() == Next::Adopt => self.job(&query.what, &id).await?,
            // A job of this id never did anything.
            Err(f) if f.next() == Next::NewJob => return Ok(Ended::Failed(f)),
            // An emulator fails at once what BigQuery fails when it runs.
            Err(f) if f.status == Some(400) && self.0.google.settings().is_emulated() => {
                let error = json!({"reason": f.reason, "message": f.message});
                return Ok(Ended::Failed(Failure::of_job(&query.what, &error)));
            }
            Err(f) if f.status == Some(400) => return Ok(Ended::Failed(f)),
            Err(f) => return Err(self.refused(f)),
        };
        let stream = label_of(&query.labels, "drawoff_stream");
        // Known even where its end will not be.
        self.spent(stream, |spent| spent.add(&id, 0));
        let job = self
            .follow(&query.what, &id, job, LONGEST_POLL, Duration::MAX)
            .await?;
        let billed: u64 = job["statistics"]["query"]["totalBytesBilled"]
            .as_str()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        self.spent(stream, |spent| spent.add(&id, billed));
        if let Some(failure) = failure_of(&query.what, &job) {
            return Ok(Ended::Failed(failure));
        }
        tracing::debug!(
            job = id,
            bytes_billed = billed,
            slot_ms = job["statistics"]["totalSlotMs"].as_str(),
            what = query.what,
            "a query job ended well"
        );
        self.rows(query, &id, location).await.map(Ended::Well)
    }

    async fn rows(&self, query: &Query<'_>, id: &str, location: &str) -> Result<Vec<Row>> {
        let answer = Rest {
            what: format!("read the answer to: {}", query.what),
            method: Method::GET,
            path: &["projects", &self.0.job_project, "queries", id],
            query: &[("location", location), ("maxResults", "10000")],
            body: None,
            if_match: None,
        };
        let mut rows = Vec::new();
        self.pages(answer, "pageToken", |page| {
            rows.extend(rows_of(page, &column_names(page)));
        })
        .await
        .map_err(|f| self.refused(f))?;
        Ok(rows)
    }
}

/// `drawoff_<hash>_<attempt>`: the hash covers the text, the parameters and the mark.
fn job_id(query: &Query<'_>, attempt: u32, place: &str) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    };
    add(place);
    add(&query.mark);
    add(&query.sql);
    for (name, kind, value) in &query.parameters {
        add(name);
        add(kind);
        add(value);
    }
    let digest = hash.finalize();
    let hex: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
    format!("drawoff_{hex}_{attempt}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(mark: &str, value: &str) -> Query<'static> {
        Query {
            what: "test".into(),
            sql: "SELECT @a".into(),
            parameters: vec![("a", "STRING", value.to_owned())],
            labels: vec![],
            transaction: false,
            names_job: false,
            mark: mark.to_owned(),
        }
    }

    #[test]
    fn the_id_names_all_that_the_job_does() {
        let id = job_id(&query("m", "v"), 0, "p");
        assert_eq!(id, job_id(&query("m", "v"), 0, "p"));
        assert!(
            id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'),
            "{id}"
        );
        for other in [
            job_id(&query("m", "w"), 0, "p"),
            job_id(&query("n", "v"), 0, "p"),
            job_id(&query("m", "v"), 1, "p"),
            job_id(&query("m", "v"), 0, "q"),
            job_id(&query("mv", ""), 0, "p"),
        ] {
            assert_ne!(id, other);
        }
    }

    #[test]
    fn reasons_decide_on_another_attempt() {
        let of = |reason: &str| Failure::of_job("x", &json!({"reason": reason, "message": "m"}));
        let plain = query("m", "v");
        let transaction = Query {
            transaction: true,
            ..query("m", "v")
        };
        for query in [&plain, &transaction] {
            assert!(query.again(&of("jobBackendError"), 1).is_some());
            assert!(
                query
                    .again(&of("rateLimitExceeded"), ATTEMPTS - 1)
                    .is_some()
            );
            assert!(query.again(&of("rateLimitExceeded"), ATTEMPTS).is_none());
            assert!(query.again(&of("quotaExceeded"), 1).is_none());
            assert!(query.again(&of("accessDenied"), 1).is_none());
        }
        // What may be another transaction's doing, whatever the words.
        assert!(plain.again(&of("invalidQuery"), 1).is_none());
        assert!(
            transaction
                .again(&of("invalidQuery"), CLASHES - 1)
                .is_some()
        );
        assert!(transaction.again(&of("invalidQuery"), CLASHES).is_none());
        let total: Duration = (1..CLASHES)
            .map(|n| transaction.again(&of("invalidQuery"), n).unwrap())
            .sum();
        assert!(total < Duration::from_secs(48), "{total:?}");
    }

    #[test]
    fn what_others_keep_from_running_waits_for_its_turn() {
        let table = "table p:d.t";
        for (reason, message) in [
            (
                "invalidQuery",
                format!(
                    "Transaction is aborted due to concurrent update against {table}. Transaction ID: 6-1 at [24:9]"
                ),
            ),
            (
                "invalidQuery",
                format!("Could not serialize access to {table} due to concurrent update"),
            ),
            (
                "resourcesExceeded",
                format!(
                    "Resources exceeded during query execution: Too many DML statements outstanding against {table}, limit is 20."
                ),
            ),
        ] {
            let failure = Failure::of_job("x", &json!({"reason": reason, "message": message}));
            let again = |attempts| query("m", "v").again(&failure, attempts);
            assert!(again(TURNS - 1).is_some(), "{message}");
            assert!(again(TURNS).is_none(), "{message}");
            let total: Duration = (1..TURNS).filter_map(again).sum();
            assert!(total < Duration::from_secs(27 * 60), "{total:?}");
        }
        let failure = json!({"reason": "resourcesExceeded", "message": "Not enough memory"});
        let failure = Failure::of_job("x", &failure);
        assert!(query("m", "v").again(&failure, 1).is_none());
    }
}
