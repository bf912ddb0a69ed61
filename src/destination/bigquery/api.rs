//! BigQuery's REST surface: the dataset, its tables, and query jobs run to their end.

mod job;
mod tables;

pub(super) use job::{Ended, Query, Row, failed};

use std::sync::Arc;
use std::time::Duration;

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
    /// Location for a dataset that has to be made.
    new_location: String,
    /// Project whose quota and budget the jobs use.
    job_project: String,
    maximum_bytes_billed: Option<u64>,
    /// The dataset's location, read once.
    location: OnceCell<String>,
    /// Held while a table is created.
    creating: tokio::sync::Mutex<()>,
}

/// One REST call, before it is tied to the service.
struct Rest<'a> {
    what: String,
    method: Method,
    path: &'a [&'a str],
    query: &'a [(&'a str, &'a str)],
    body: Option<&'a Value>,
    if_match: Option<&'a str>,
}

impl Api {
    pub(super) fn new(
        google: Google,
        target: Target,
        new_location: String,
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
        }))
    }

    pub(super) fn google(&self) -> &Google {
        &self.0.google
    }

    pub(super) fn target(&self) -> &Target {
        &self.0.target
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
                    body: rest.body,
                    if_match: rest.if_match,
                    retry: RetryPolicy::BIGQUERY,
                })
                .await;
            attempt += 1;
            match answer {
                Err(f) if may_clash && f.reason == "invalidQuery" && attempt < MOST_CLASHES => {
                    self.pause(1).await;
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
