//! Query jobs: inserted under an id of our own, so that a lost answer costs nothing, and followed to
//! their end.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Api, Rest, explain};
use crate::error::{Error, ErrorKind, Result};
use crate::google::{Failure, tidy};

/// Longest label value (BigQuery's page on labels, 2026-08).
const LONGEST_LABEL: usize = 63;

/// First and longest wait between two looks at a job.
const POLL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(4));

/// Attempts of a query whose job failed for a passing reason; each has an id of its own.
const ATTEMPTS: u32 = 8;

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
    /// Tells apart runs of the same text and parameters; a repeat with the same mark adopts the job.
    pub mark: String,
}

/// A row of an answer, by column name.
pub(in super::super) type Row = HashMap<String, Option<String>>;

/// How a job ended.
#[derive(Debug)]
pub(in super::super) enum Ended {
    /// Well; the rows of its last SELECT.
    Well(Vec<Row>),
    /// Not well. Its transaction, if it had one, is rolled back, unless it failed after the commit.
    Failed {
        /// BigQuery's reason code.
        reason: String,
        /// Its words, tidied.
        message: String,
    },
}

impl Ended {
    /// Whether the same statement may succeed in a job of another id.
    pub(in super::super) fn may_pass(&self) -> bool {
        match self {
            Self::Well(_) => false,
            Self::Failed { reason, message } => {
                crate::google::is_transient_reason(reason)
                    // BigQuery has no reason code of its own for transactions and DML that it cancels
                    // because of one another. Trying again is harmless: a publish checks its version.
                    || message.contains("concurrent update")
                    || message.contains("could not serialize")
                    || message.contains("Transaction conflict")
                    || message.contains("Failed to commit")
            }
        }
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
                ended if ended.may_pass() && attempt < ATTEMPTS => self.pause(attempt).await,
                ended => return Err(failed(query, ended)),
            }
        }
    }

    /// Waits before another attempt (from 1).
    pub(in super::super) async fn pause(&self, attempt: u32) {
        let delay = crate::google::RetryPolicy::BIGQUERY.delay(attempt);
        self.sleep(delay).await;
    }

    /// Runs one job to its end. The same query with the same attempt is the same job: where it was
    /// inserted before, it is not run again but adopted.
    pub(in super::super) async fn run(&self, query: &Query<'_>, attempt: u32) -> Result<Ended> {
        let location = self.location().await?;
        let project = &self.0.job_project;
        let id = job_id(query, attempt, &format!("{project}/{:?}", self.target()));
        let mut configuration = json!({
            "labels": labels(&query.labels),
            "query": {
                "query": query.sql,
                "useLegacySql": false,
                "useQueryCache": false,
                "parameterMode": "NAMED",
                "queryParameters": query.parameters.iter().map(|(name, kind, value)| json!({
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
                body: Some(&body),
                if_match: None,
            })
            .await;
        let mut job = match inserted {
            Ok(job) => job,
            // An id is made of all that the job does: whoever inserted it, it is this job.
            Err(f) if f.is_duplicate() => self.job(query, &id, location).await?,
            // Refused at once for a reason that a job would have been failed for.
            Err(f) if f.is_transient() || f.status != Some(400) => return Err(self.refused(f)),
            Err(f) => {
                return Ok(Ended::Failed {
                    reason: f.reason,
                    message: f.message,
                });
            }
        };
        let mut wait = POLL.0;
        while job["status"]["state"] != "DONE" {
            self.sleep(wait).await;
            wait = (wait * 3 / 2).min(POLL.1);
            job = self.job(query, &id, location).await?;
        }
        // `errors` may list what was not fatal; `errorResult` alone says that the job failed.
        if let Some(error) = job["status"].get("errorResult").filter(|e| !e.is_null()) {
            return Ok(Ended::Failed {
                reason: error["reason"].as_str().unwrap_or_default().to_owned(),
                message: tidy(error["message"].as_str().unwrap_or_default()),
            });
        }
        tracing::debug!(
            job = id,
            bytes_billed = job["statistics"]["query"]["totalBytesBilled"].as_str(),
            slot_ms = job["statistics"]["totalSlotMs"].as_str(),
            what = query.what,
            "a query job ended well"
        );
        self.rows(query, &id, location).await.map(Ended::Well)
    }

    async fn job(&self, query: &Query<'_>, id: &str, location: &str) -> Result<Value> {
        self.rest(Rest {
            what: format!("{} (job `{id}`)", query.what),
            method: Method::GET,
            path: &["projects", &self.0.job_project, "jobs", id],
            query: &[("location", location)],
            body: None,
            if_match: None,
        })
        .await
        .map_err(|f| self.refused(f))
    }

    async fn rows(&self, query: &Query<'_>, id: &str, location: &str) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let mut page = String::new();
        loop {
            let parameters = [
                ("location", location),
                ("maxResults", "10000"),
                ("pageToken", page.as_str()),
            ];
            let used = if page.is_empty() {
                &parameters[..2]
            } else {
                &parameters
            };
            let answer = self
                .rest(Rest {
                    what: format!("read the answer to: {}", query.what),
                    method: Method::GET,
                    path: &["projects", &self.0.job_project, "queries", id],
                    query: used,
                    body: None,
                    if_match: None,
                })
                .await
                .map_err(|f| self.refused(f))?;
            let names: Vec<&str> = answer["schema"]["fields"]
                .as_array()
                .map_or(&[][..], Vec::as_slice)
                .iter()
                .map(|f| f["name"].as_str().unwrap_or_default())
                .collect();
            for row in answer["rows"].as_array().map_or(&[][..], Vec::as_slice) {
                let cells = row["f"].as_array().map_or(&[][..], Vec::as_slice);
                rows.push(
                    names
                        .iter()
                        .zip(cells)
                        .map(|(n, c)| ((*n).to_owned(), c["v"].as_str().map(str::to_owned)))
                        .collect(),
                );
            }
            match answer["pageToken"].as_str() {
                Some(next) if !next.is_empty() && next != page => page = next.to_owned(),
                _ => return Ok(rows),
            }
        }
    }

    fn refused(&self, failure: Failure) -> Error {
        explain(
            failure,
            "roles/bigquery.jobUser",
            &format!("project `{}`", self.0.job_project),
        )
    }
}

/// A failed query as the crate's error.
pub(in super::super) fn failed(query: &Query<'_>, ended: Ended) -> Error {
    let may_pass = ended.may_pass();
    let Ended::Failed { reason, message } = ended else {
        return Error::new(ErrorKind::Bug, format!("{}: no failure", query.what));
    };
    let kind = match reason.as_str() {
        "accessDenied" => ErrorKind::Auth,
        "quotaExceeded" => ErrorKind::RateLimited,
        _ if may_pass => ErrorKind::Unavailable,
        _ => ErrorKind::Destination,
    };
    let error = Error::new(
        kind,
        format!("could not {}: {reason}: {message}", query.what),
    )
    .transient(may_pass);
    match reason.as_str() {
        "accessDenied" => error.hint("grant `roles/bigquery.dataEditor` on the dataset and `roles/bigquery.jobUser` on the project to the account in use"),
        "quotaExceeded" => error.hint("a quota is used up: see IAM & Admin > Quotas, or try again tomorrow"),
        "bytesBilledLimitExceeded" => error.hint("raise the limit on bytes billed, or cluster the table by its primary key"),
        _ => error,
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

fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), label(value)))
        .collect()
}

/// Lowercase letters, digits, `_` and `-`, at most 63.
fn label(text: &str) -> String {
    text.chars()
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') => c,
            _ => '_',
        })
        .take(LONGEST_LABEL)
        .collect()
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
    fn labels_are_made_to_fit() {
        assert_eq!(label("My.Stream é"), "my_stream__");
        assert_eq!(label(&"x".repeat(100)).len(), 63);
    }

    #[test]
    fn reasons_decide_on_another_attempt() {
        let failed = |reason: &str, message: &str| {
            Ended::Failed {
                reason: reason.into(),
                message: message.into(),
            }
            .may_pass()
        };
        assert!(failed("jobBackendError", ""));
        assert!(failed("rateLimitExceeded", ""));
        assert!(failed(
            "invalidQuery",
            "Transaction is aborted due to concurrent update against table p.d.t"
        ));
        // An emulator's words for the same.
        assert!(failed(
            "invalidQuery",
            "Failed to commit: Failed to commit DuckLake transaction"
        ));
        assert!(!failed("invalidQuery", "Syntax error"));
        assert!(!failed("quotaExceeded", ""));
        assert!(!Ended::Well(vec![]).may_pass());
    }
}
