//! Every environment variable that the program reads, and the only place that reads them.
//!
//! Beside the constants there is one pattern: `DRAWOFF_<SOURCE>_<KEY>` gives a source's config key or
//! secret, [`source_variable`].

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The settings file, when it is not `drawoff.yaml` in the working directory.
pub const CONFIG: &str = "DRAWOFF_CONFIG";
/// Folder of connectors beside the embedded ones.
pub const CONNECTORS: &str = "DRAWOFF_CONNECTORS";
/// Google Cloud project whose Secret Manager holds secrets that no reference is given for.
pub const PROJECT: &str = "DRAWOFF_PROJECT";
/// Google Cloud project, as Google's tools name it; [`PROJECT`] comes first.
pub const GOOGLE_CLOUD_PROJECT: &str = "GOOGLE_CLOUD_PROJECT";
/// Service account to act as.
pub const IMPERSONATE: &str = "DRAWOFF_IMPERSONATE_SERVICE_ACCOUNT";
/// Where rows land: `sqlite:FILE`, `bigquery:PROJECT.DATASET`, `parquet:DIR`, …
pub const DESTINATION: &str = "DRAWOFF_DESTINATION";
/// Most memory for batches in flight: `64MiB`.
pub const MEMORY: &str = "DRAWOFF_MEMORY";
/// Rows after which a slice is published as soon as the checkpoint can say what is done: `250000`.
pub const SLICE_ROWS: &str = "DRAWOFF_SLICE_ROWS";
/// How long a run's lease on its source holds without being renewed: `3m`.
pub const LEASE: &str = "DRAWOFF_LEASE";
/// Location of a BigQuery dataset that has to be made: `EU`.
pub const BIGQUERY_LOCATION: &str = "DRAWOFF_BIGQUERY_LOCATION";
/// Project in which BigQuery's jobs run and are paid for.
pub const BIGQUERY_JOB_PROJECT: &str = "DRAWOFF_BIGQUERY_JOB_PROJECT";
/// Most bytes that one BigQuery job may bill: `10GiB`.
pub const BIGQUERY_MAXIMUM_BYTES_BILLED: &str = "DRAWOFF_BIGQUERY_MAXIMUM_BYTES_BILLED";
/// Largest Storage Write request: `9MiB`.
pub const BIGQUERY_REQUEST_BYTES: &str = "DRAWOFF_BIGQUERY_REQUEST_BYTES";
/// Filter of log lines, as `tracing` has it: `info`, `drawoff=debug`.
pub const LOG: &str = "DRAWOFF_LOG";
/// Form of log lines: `text` or `json`. By default `text` on a terminal, else `json`.
pub const LOG_FORMAT: &str = "DRAWOFF_LOG_FORMAT";
/// Not empty: no colours on a terminal.
pub const NO_COLOR: &str = "NO_COLOR";
/// Folder of configuration, where results of logins are kept; `~/.config` when unset.
pub const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
/// The account's folder.
pub const HOME: &str = "HOME";
/// Name of the Cloud Run job that runs this process.
pub const CLOUD_RUN_JOB: &str = "CLOUD_RUN_JOB";
/// Execution of the Cloud Run job that this process is a task of.
pub const CLOUD_RUN_EXECUTION: &str = "CLOUD_RUN_EXECUTION";
/// Number of that task in its execution, from 0.
pub const CLOUD_RUN_TASK_INDEX: &str = "CLOUD_RUN_TASK_INDEX";
/// How many tasks that execution has.
pub const CLOUD_RUN_TASK_COUNT: &str = "CLOUD_RUN_TASK_COUNT";
/// Number of this pod in an indexed job of Kubernetes, from 0.
pub const JOB_COMPLETION_INDEX: &str = "JOB_COMPLETION_INDEX";
/// How many pods that job has, which Kubernetes does not say.
pub const TASK_COUNT: &str = "DRAWOFF_TASK_COUNT";
/// Name of the execution whose tasks share a run, where it is not Cloud Run's.
pub const EXECUTION: &str = "DRAWOFF_EXECUTION";
/// How often that task was started before.
pub const CLOUD_RUN_TASK_ATTEMPT: &str = "CLOUD_RUN_TASK_ATTEMPT";
/// Name of the Cloud Run service that this process serves.
pub const K_SERVICE: &str = "K_SERVICE";
/// Revision of that service.
pub const K_REVISION: &str = "K_REVISION";
/// The trace that this process belongs to, `00-TRACE-SPAN-FLAGS`.
pub const TRACEPARENT: &str = "TRACEPARENT";
/// `true`: no traces and no metrics are exported.
pub const OTEL_SDK_DISABLED: &str = "OTEL_SDK_DISABLED";
/// An OpenTelemetry collector for traces and metrics: `http://localhost:4318`. It, and the others that
/// begin so, are read again by OpenTelemetry's library, which knows the rest of them.
pub const OTEL_EXPORTER_OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// Where traces go.
pub const OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
/// Where metrics go.
pub const OTEL_EXPORTER_OTLP_METRICS_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";
/// Headers for the collector, `name=value,…`; their values are kept secret.
pub const OTEL_EXPORTER_OTLP_HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
/// Headers for traces.
pub const OTEL_EXPORTER_OTLP_TRACES_HEADERS: &str = "OTEL_EXPORTER_OTLP_TRACES_HEADERS";
/// Headers for metrics.
pub const OTEL_EXPORTER_OTLP_METRICS_HEADERS: &str = "OTEL_EXPORTER_OTLP_METRICS_HEADERS";
/// Milliseconds that an export may take.
pub const OTEL_EXPORTER_OTLP_TIMEOUT: &str = "OTEL_EXPORTER_OTLP_TIMEOUT";
/// The same for traces.
pub const OTEL_EXPORTER_OTLP_TRACES_TIMEOUT: &str = "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT";
/// The same for metrics.
pub const OTEL_EXPORTER_OTLP_METRICS_TIMEOUT: &str = "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT";
/// `http/protobuf`, the one protocol there is here.
pub const OTEL_EXPORTER_OTLP_PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
/// The same for traces.
pub const OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: &str = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL";
/// The same for metrics.
pub const OTEL_EXPORTER_OTLP_METRICS_PROTOCOL: &str = "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL";
/// `otlp` or `none`.
pub const OTEL_TRACES_EXPORTER: &str = "OTEL_TRACES_EXPORTER";
/// `otlp` or `none`.
pub const OTEL_METRICS_EXPORTER: &str = "OTEL_METRICS_EXPORTER";
/// `service.name` of traces and metrics; `drawoff` when unset.
pub const OTEL_SERVICE_NAME: &str = "OTEL_SERVICE_NAME";

/// The environment, or what a test gives in its place.
#[derive(Clone, Default)]
pub struct Environment(Option<BTreeMap<String, String>>);

impl Environment {
    /// This process's environment, read when asked.
    pub fn process() -> Self {
        Self(None)
    }

    /// These variables and no others.
    pub fn of<K: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let variables = variables.into_iter();
        Self(Some(variables.map(|(k, v)| (k.into(), v.into())).collect()))
    }

    /// The variable's value; `None` when it is unset, empty or no Unicode.
    pub fn get(&self, name: &str) -> Option<String> {
        match &self.0 {
            Some(variables) => variables.get(name).cloned(),
            #[allow(clippy::disallowed_methods)]
            None => std::env::var(name).ok(),
        }
        .filter(|value| !value.is_empty())
    }
}

/// The file in which a source's refresh token is kept when nobody names another place.
pub fn credentials_file(environment: &Environment, source: &str, key: &str) -> Option<PathBuf> {
    let named = environment.get(XDG_CONFIG_HOME).map(PathBuf::from);
    let folder = named
        // One that is not absolute is to be ignored, the specification says.
        .filter(|folder| folder.is_absolute())
        .or_else(|| Some(PathBuf::from(environment.get(HOME)?).join(".config")))?;
    Some(
        folder
            .join("drawoff")
            .join("credentials")
            .join(source)
            .join(key),
    )
}

/// Prints no values: they may be secrets.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Some(_) => "Environment(given)",
            None => "Environment(process)",
        })
    }
}

/// The variable for a source's config key or secret: `DRAWOFF_ACME_SUPPORT_TOKEN` for `token` of
/// `acme-support`.
pub fn source_variable(source: &str, key: &str) -> String {
    format!("DRAWOFF_{source}_{key}")
        .chars()
        .map(|c| match c.is_ascii_alphanumeric() {
            true => c.to_ascii_uppercase(),
            false => '_',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_variables_after_source_and_key() {
        assert_eq!(
            source_variable("acme-support.eu", "client_id"),
            "DRAWOFF_ACME_SUPPORT_EU_CLIENT_ID"
        );
    }

    #[test]
    fn an_empty_variable_is_an_unset_one() {
        let env = Environment::of([("A", ""), ("B", "x")]);
        assert_eq!(env.get("A"), None);
        assert_eq!(env.get("B").as_deref(), Some("x"));
        assert!(!format!("{env:?}").contains('x'));
    }
}
