//! Entries as Cloud Logging and Error Reporting want them.
//!
//! Fields of these names make more of an entry than a payload: `source`, `stream` and `run_id` are labels
//! as well; [`TRACE_ID`], [`SPAN_ID`] and [`SAMPLED`] say where in which trace it stands; [`GROUP`],
//! [`FILE`] and [`LINE`] make an error one for Error Reporting.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::clean;
use super::origin::{self, Origin};

/// Marks an entry that Error Reporting should collect without a stack trace in a language it knows.
pub const REPORTED_ERROR: &str =
    "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent";

/// Field: a trace's id.
pub const TRACE_ID: &str = "trace_id";
/// Field: a span's id.
pub const SPAN_ID: &str = "span_id";
/// Field: whether the trace is kept.
pub const SAMPLED: &str = "trace_sampled";
/// Field: what an error is grouped by, in place of the name of a function.
pub const GROUP: &str = "report_group";
/// Field: the source file where an error was made.
pub const FILE: &str = "report_file";
/// Field: the line there.
pub const LINE: &str = "report_line";

/// Fields that are labels too: they can be filtered by without naming the payload.
const LABELS: [&str; 3] = ["source", "stream", "run_id"];

/// Fields that say where in which trace an entry stands.
pub const PLACE: [&str; 3] = [TRACE_ID, SPAN_ID, SAMPLED];

/// Fields that people at a terminal have no use for.
pub(super) const MACHINES: [&str; 6] = [TRACE_ID, SPAN_ID, SAMPLED, GROUP, FILE, LINE];

/// A JSON line: `severity`, `message` and `time`, then `fields`. All texts are redacted before they are
/// escaped, since an escaped secret would not be recognized.
pub fn json_line(severity: &str, message: &str, mut fields: Map<String, Value>) -> String {
    let here = Origin::here();
    let mut entry = Map::from_iter([
        ("severity".to_owned(), severity.into()),
        ("message".to_owned(), clean(message).into()),
        ("time".to_owned(), Timestamp::now().to_string().into()),
        named("insertId", here.next_id().into()),
    ]);
    entry.extend(trace(here, &mut fields));
    let mut labels: Map<String, Value> = here
        .labels
        .iter()
        .map(|(label, value)| ((*label).to_owned(), value.as_str().into()))
        .collect();
    for label in LABELS {
        if let Some(Value::String(text)) = fields.get(label) {
            labels.insert(label.to_owned(), clean(text).into());
        }
    }
    if !labels.is_empty() {
        entry.extend([named("labels", labels.into())]);
    }
    entry.extend(report(here, severity, &mut fields));
    for (name, value) in fields {
        let value = match value {
            Value::String(text) => clean(&text).into(),
            other => other,
        };
        entry.entry(name).or_insert(value);
    }
    Value::Object(entry).to_string()
}

fn named(name: &str, value: Value) -> (String, Value) {
    (format!("logging.googleapis.com/{name}"), value)
}

/// Where in which trace the entry stands; nothing while the trace's project is unknown.
fn trace(here: &Origin, fields: &mut Map<String, Value>) -> Vec<(String, Value)> {
    let mut taken = PLACE.map(|name| fields.remove(name));
    if taken[0].is_none()
        && let Some(at) = here.trace
    {
        taken = [
            Some(at.trace_id().into()),
            at.span_id().map(Value::from),
            at.sampled().map(Value::from),
        ];
    }
    let [Some(Value::String(id)), span, sampled] = taken else {
        return Vec::new();
    };
    let Some(project) = origin::project() else {
        return Vec::new();
    };
    let trace = format!("projects/{project}/traces/{id}");
    let rest = [("spanId", span), ("trace_sampled", sampled)];
    std::iter::once(named("trace", trace.into()))
        .chain(rest.into_iter().filter_map(|(n, v)| Some(named(n, v?))))
        .collect()
}

/// What makes an error one for Error Reporting.
fn report(here: &Origin, severity: &str, fields: &mut Map<String, Value>) -> Vec<(String, Value)> {
    let [group, file, line] = [GROUP, FILE, LINE].map(|name| fields.remove(name));
    let Some(group) = group.filter(|_| matches!(severity, "ERROR" | "CRITICAL")) else {
        return Vec::new();
    };
    let place =
        json!({"reportLocation": {"filePath": file, "lineNumber": line, "functionName": group}});
    let service = json!({"service": here.service, "version": env!("CARGO_PKG_VERSION")});
    vec![
        ("@type".to_owned(), REPORTED_ERROR.into()),
        ("context".to_owned(), place),
        ("serviceContext".to_owned(), service),
    ]
}
