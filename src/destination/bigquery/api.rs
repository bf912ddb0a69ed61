//! BigQuery's REST surface: the dataset, its tables, and jobs run to their end.

mod insert_all;
mod job;
mod pages;
mod query;
mod tables;

pub(super) use job::{failure_of, label_of, labels};
pub(super) use pages::Row;
pub(super) use query::{Ended, Query};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::Target;
use crate::error::{Error, ErrorKind, Result};
use crate::google::{Call, Failure, Google, RetryPolicy};

/// Attempts of a call to an emulator whose writers get into each other's way.
const MOST_CLASHES: u32 = 8;

/// The calls, for one dataset. Cheap to clone.
#[derive(Clone)]
pub(super) struct Api(Arc<Inner>);

struct Inner {
    google: Google,
    target: Target,
    /// Location for a dataset that has to be made, where somebody has said one.
    new_location: Option<String>,
    /// Project whose quota and budget the jobs use.
    job_project: String,
    maximum_bytes_billed: Option<u64>,
    /// The dataset's location, read once.
    location: OnceCell<String>,
    /// Held while a table is created.
    creating: tokio::sync::Mutex<()>,
    /// What was spent, by stream.
    spent: Mutex<HashMap<String, Spent>>,
}

/// Jobs, and what they cost.
#[derive(Clone, Debug, Default)]
pub(super) struct Spent {
    /// Ids of the jobs, and bytes that each was billed for, as far as is known.
    pub jobs: Vec<(String, u64)>,
    /// How often the table was published in the day before the last publish, that one included.
    pub publishes_in_a_day: u64,
}

impl Spent {
    /// Notes what a job was billed, as far as is known by now. One that is adopted, or looked at again, is
    /// the same job.
    pub(super) fn add(&mut self, job: &str, billed: u64) {
        match self.jobs.iter_mut().find(|(id, _)| id == job) {
            Some((_, before)) => *before = billed.max(*before),
            None => self.jobs.push((job.to_owned(), billed)),
        }
    }
}

/// One REST call, before it is tied to the service.
struct Rest<'a> {
    what: String,
    method: Method,
    path: &'a [&'a str],
    query: &'a [(&'a str, &'a str)],
    body: Option<Bytes>,
    if_match: Option<&'a str>,
}

impl Api {
    pub(super) fn new(
        google: Google,
        target: Target,
        new_location: Option<String>,
        job_project: Option<String>,
        maximum_bytes_billed: Option<u64>,
    ) -> Self {
        Self(Arc::new(Inner {
            job_project: job_project.unwrap_or_else(|| target.project.clone()),
            google,
            target,
            new_location,
            maximum_bytes_billed,
            location: OnceCell::new(),
            creating: tokio::sync::Mutex::new(()),
            spent: Mutex::default(),
        }))
    }

    pub(super) fn google(&self) -> &Google {
        &self.0.google
    }

    pub(super) fn target(&self) -> &Target {
        &self.0.target
    }

    /// Project in which jobs run.
    pub(super) fn job_project(&self) -> &str {
        &self.0.job_project
    }

    /// Most bytes that one job may bill.
    pub(super) fn maximum_bytes_billed(&self) -> Option<u64> {
        self.0.maximum_bytes_billed
    }

    /// Where a dataset would be made.
    pub(super) fn new_location(&self) -> &str {
        self.0
            .new_location
            .as_deref()
            .unwrap_or(tables::DEFAULT_LOCATION)
    }

    /// What was spent on a stream or a backfill of it, for whoever changes it.
    pub(super) fn spent<T>(&self, stream: &str, look: impl FnOnce(&mut Spent) -> T) -> T {
        let mut spent = self.0.spent.lock().unwrap_or_else(PoisonError::into_inner);
        look(spent.entry(stream.to_owned()).or_default())
    }

    /// What was spent on a stream so far, on its backfills, too: their checkpoints are named after stream
    /// and span.
    pub(super) fn spent_on(&self, stream: &str) -> Spent {
        let spent = self.0.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Spent::default();
        for (name, one) in spent.iter() {
            let span = name.strip_prefix(stream);
            if span.is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')) {
                all.jobs.extend_from_slice(&one.jobs);
                all.publishes_in_a_day = all.publishes_in_a_day.max(one.publishes_in_a_day);
            }
        }
        all
    }

    /// Waits through the clock.
    pub(super) async fn sleep(&self, duration: Duration) {
        self.0.google.clock().sleep(duration).await;
    }

    async fn rest(&self, rest: Rest<'_>) -> Result<Value, Failure> {
        let mut path = vec!["bigquery", "v2"];
        path.extend(rest.path);
        // Only a job can be an invalid query, says BigQuery. An emulator says it of anything, when two
        // of its writers meet; nothing has happened then.
        let may_clash =
            self.0.google.settings().is_emulated() && rest.path.get(2) == Some(&"datasets");
        let mut attempt = 0;
        loop {
            let answer = self
                .0
                .google
                .call(Call {
                    what: rest.what.clone(),
                    method: rest.method.clone(),
                    endpoint: &self.0.google.settings().bigquery,
                    path: &path,
                    query: rest.query,
                    body: rest.body.clone(),
                    if_match: rest.if_match,
                    retry: RetryPolicy::BIGQUERY,
                })
                .await;
            attempt += 1;
            match answer {
                Err(f) if may_clash && f.reason == "invalidQuery" && attempt < MOST_CLASHES => {
                    self.sleep(RetryPolicy::BIGQUERY.delay(1)).await;
                }
                answer => return answer,
            }
        }
    }
}

/// A failure as the crate's error, with the role that is missing where one is.
fn explain(failure: Failure, role: &str, on: &str) -> Error {
    let error = failure.into_error();
    if error.kind() == ErrorKind::Auth && error.find_hint().is_none() {
        error.hint(format!("grant `{role}` on {on} to the account in use"))
    } else {
        error
    }
}
