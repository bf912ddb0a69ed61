//! Jobs of any kind: looked at until they are done, and what their failures mean.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::tables::EDITOR;
use super::{Api, Rest, explain};
use crate::error::{Error, ErrorKind, Result};
use crate::google::{Failure, tidy};

/// Longest label value (BigQuery's page on labels, 2026-08).
const LONGEST_LABEL: usize = 63;

/// First wait between two looks at a job.
const FIRST_POLL: Duration = Duration::from_millis(100);

/// After this a job that has not begun is spoken of.
const LONG_PENDING: Duration = Duration::from_secs(60);

/// How a job that is done has failed; `None` where it has not. `errors` may list what was not fatal;
/// `errorResult` alone says that the job failed.
pub(in super::super) fn failure_of(what: &str, job: &Value) -> Option<Failure> {
    let error = job["status"].get("errorResult").filter(|e| !e.is_null())?;
    Some(Failure::of_job(what, error))
}

impl Api {
    /// Looks at a job, of which `job` is the last that is known, until it is done.
    ///
    /// # Errors
    /// A job that cannot be looked at; [`ErrorKind::Unavailable`] when it takes longer than
    /// `patience`.
    pub(in super::super) async fn follow(
        &self,
        what: &str,
        id: &str,
        mut job: Value,
        longest_wait: Duration,
        patience: Duration,
    ) -> Result<Value> {
        let clock = self.google().clock();
        let begun = clock.instant();
        let mut wait = FIRST_POLL;
        let mut told = false;
        while job["status"]["state"] != "DONE" {
            let state = job["status"]["state"].as_str().unwrap_or("unknown");
            let waited = clock.instant().duration_since(begun);
            if waited >= patience {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "could not {what}: job `{id}` is still {state} after {} minutes",
                        waited.as_secs() / 60
                    ),
                )
                .transient(true)
                .hint("run again later"));
            }
            if state == "PENDING" && waited >= LONG_PENDING && !told {
                told = true;
                tracing::info!(
                    job = id,
                    what,
                    "a job waits for its turn in BigQuery, which may take minutes"
                );
            }
            self.sleep(wait).await;
            wait = (wait * 3 / 2).min(longest_wait);
            job = self.job(what, id).await?;
        }
        if failure_of(what, &job).is_none() {
            for error in job["status"]["errors"].as_array().into_iter().flatten() {
                tracing::debug!(
                    job = id,
                    reason = error["reason"].as_str(),
                    message = tidy(error["message"].as_str().unwrap_or_default()),
                    "a job that ended well names an error that was not fatal"
                );
            }
        }
        Ok(job)
    }

    /// A job's resource.
    pub(in super::super) async fn job(&self, what: &str, id: &str) -> Result<Value> {
        self.ask_for_job(what, id)
            .await?
            .map_err(|f| self.refused(f))
    }

    /// A job's resource, or `None` where no job has that id.
    pub(in super::super) async fn find_job(&self, what: &str, id: &str) -> Result<Option<Value>> {
        match self.ask_for_job(what, id).await? {
            Ok(job) => Ok(Some(job)),
            Err(f) if f.is_not_found() => Ok(None),
            Err(f) => Err(self.refused(f)),
        }
    }

    async fn ask_for_job(&self, what: &str, id: &str) -> Result<Result<Value, Failure>> {
        let location = self.location().await?;
        Ok(self
            .rest(Rest {
                what: format!("{what} (job `{id}`)"),
                method: Method::GET,
                path: &["projects", &self.0.job_project, "jobs", id],
                query: &[("location", location)],
                body: None,
                if_match: None,
            })
            .await)
    }

    /// A job that failed, as the crate's error.
    pub(in super::super) async fn failed(&self, failure: Failure) -> Error {
        let missing = failure.reason == "notFound";
        let clash = failure.is_of_job() && failure.reason == "invalidQuery";
        let error = explain(
            failure,
            EDITOR,
            &format!(
                "dataset {} and `roles/bigquery.jobUser` on project `{}`",
                self.dataset_name(),
                self.0.job_project
            ),
        );
        if clash {
            return error.hint("if other runs publish to the dataset right now, they may have got in its way: run again; else report this with the lines of the log");
        }
        if !missing {
            return error;
        }
        // What a job does not find may be in another location than the job.
        let ran = self.0.location.get().map_or("no location", String::as_str);
        match self.dataset().await {
            Ok(Some(dataset)) => {
                let now = dataset["location"].as_str().unwrap_or("an unknown place");
                match now == ran {
                    true => error.hint(format!(
                        "the job ran in `{ran}`, where dataset {} is: a table was dropped while the run was at work, or it is another dataset's",
                        self.dataset_name()
                    )),
                    false => error.hint(format!(
                        "the job ran in `{ran}`, and dataset {} is in `{now}`: it was made anew meanwhile, so run again",
                        self.dataset_name()
                    )),
                }
            }
            Ok(None) => error.hint(format!(
                "dataset {} is gone; the job ran in `{ran}`. A run makes it again",
                self.dataset_name()
            )),
            Err(_) => error,
        }
    }

    /// A call about a job that was refused, with the role that is missing where one is.
    pub(in super::super) fn refused(&self, failure: Failure) -> Error {
        explain(
            failure,
            "roles/bigquery.jobUser",
            &format!("project `{}`", self.0.job_project),
        )
    }
}

/// The value of a label; empty where there is none.
pub(in super::super) fn label_of<'a>(labels: &[(&str, &'a str)], key: &str) -> &'a str {
    let found = labels.iter().find(|(k, _)| *k == key);
    found.map_or("", |(_, value)| value)
}

/// Labels of a job or table, made to fit.
pub(in super::super) fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
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

    #[test]
    fn labels_are_made_to_fit() {
        assert_eq!(label("My.Stream é"), "my_stream__");
        assert_eq!(label(&"x".repeat(100)).len(), 63);
    }
}
