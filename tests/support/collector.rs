//! An OpenTelemetry collector that keeps what it is sent over OTLP/HTTP, read by the published messages.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Metric, number_data_point};
use prost::Message as _;

use super::fake_api::{FakeApi, Received, Reply};

/// A collector, and what came to it.
pub struct Collector {
    api: FakeApi,
}

/// A span as exported.
#[derive(Clone, Debug)]
pub struct Span {
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty: none.
    pub parent: String,
    pub kind: i32,
    pub failed: bool,
    pub events: usize,
    pub attributes: BTreeMap<String, String>,
    pub began: u64,
    pub ended: u64,
}

impl Collector {
    /// One that takes all in.
    pub async fn start() -> Self {
        Self::answering(|_| Reply::status(200).header("content-type", "application/x-protobuf"))
            .await
    }

    /// One that answers so.
    pub async fn answering(reply: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self {
            api: FakeApi::start(reply).await,
        }
    }

    /// Its address, as `OTEL_EXPORTER_OTLP_ENDPOINT` has it.
    pub fn url(&self) -> String {
        self.api.url().as_str().trim_end_matches('/').to_owned()
    }

    /// All requests.
    pub fn requests(&self) -> Vec<Received> {
        self.api.requests()
    }

    fn bodies(&self, path: &str) -> Vec<Received> {
        let mut all = self.api.requests();
        for request in &all {
            assert_eq!(
                request.header("content-type"),
                Some("application/x-protobuf")
            );
        }
        all.retain(|r| r.path == path);
        all
    }

    /// All spans.
    pub fn spans(&self) -> Vec<Span> {
        self.bodies("/v1/traces")
            .iter()
            .flat_map(|r| {
                ExportTraceServiceRequest::decode(r.body.clone())
                    .unwrap()
                    .resource_spans
            })
            .flat_map(|r| r.scope_spans)
            .flat_map(|s| s.spans)
            .map(|s| Span {
                name: s.name,
                trace: hex(&s.trace_id),
                id: hex(&s.span_id),
                parent: hex(&s.parent_span_id),
                kind: s.kind,
                failed: s.status.is_some_and(|s| s.code == 2),
                events: s.events.len(),
                attributes: attributes(&s.attributes),
                began: s.start_time_unix_nano,
                ended: s.end_time_unix_nano,
            })
            .collect()
    }

    /// What spans and metrics say of who exports.
    pub fn resources(&self) -> Vec<BTreeMap<String, String>> {
        let spans = self.bodies("/v1/traces").into_iter().flat_map(|r| {
            let sent = ExportTraceServiceRequest::decode(r.body).unwrap();
            sent.resource_spans.into_iter().map(|r| r.resource)
        });
        let metrics = self.bodies("/v1/metrics").into_iter().flat_map(|r| {
            let sent = ExportMetricsServiceRequest::decode(r.body).unwrap();
            sent.resource_metrics.into_iter().map(|r| r.resource)
        });
        spans
            .chain(metrics)
            .map(|resource| attributes(&resource.unwrap().attributes))
            .collect()
    }

    /// All metrics of the last export, by name.
    pub fn metrics(&self) -> BTreeMap<String, Metric> {
        let Some(last) = self.bodies("/v1/metrics").pop() else {
            return BTreeMap::new();
        };
        ExportMetricsServiceRequest::decode(last.body)
            .unwrap()
            .resource_metrics
            .into_iter()
            .flat_map(|r| r.scope_metrics)
            .flat_map(|s| s.metrics)
            .map(|m| (m.name.clone(), m))
            .collect()
    }
}

/// The sum of a counter over the points that say this.
pub fn sum(metric: &Metric, says: &[(&str, &str)]) -> u64 {
    let Some(Data::Sum(sum)) = &metric.data else {
        panic!("`{}` is no sum: {metric:?}", metric.name);
    };
    assert!(sum.is_monotonic);
    let points = sum.data_points.iter().filter(|p| {
        let about = attributes(&p.attributes);
        says.iter()
            .all(|(k, v)| about.get(*k).is_some_and(|a| a == v))
    });
    points
        .map(|p| match p.value {
            Some(number_data_point::Value::AsInt(n)) => u64::try_from(n).unwrap(),
            ref other => panic!("`{}` is no whole number: {other:?}", metric.name),
        })
        .sum()
}

/// Counts of a histogram by what its points say.
pub fn counts(metric: &Metric) -> Vec<(BTreeMap<String, String>, u64, f64)> {
    let Some(Data::Histogram(histogram)) = &metric.data else {
        panic!("`{}` is no histogram: {metric:?}", metric.name);
    };
    let points = histogram.data_points.iter();
    points
        .map(|p| (attributes(&p.attributes), p.count, p.sum.unwrap()))
        .collect()
}

/// A gauge's value.
pub fn gauge(metric: &Metric) -> i64 {
    let Some(Data::Gauge(gauge)) = &metric.data else {
        panic!("`{}` is no gauge: {metric:?}", metric.name);
    };
    match gauge.data_points[0].value {
        Some(number_data_point::Value::AsInt(n)) => n,
        ref other => panic!("`{}` is no whole number: {other:?}", metric.name),
    }
}

fn attributes(all: &[KeyValue]) -> BTreeMap<String, String> {
    all.iter()
        .map(|a| {
            let value = match a.value.as_ref().and_then(|v| v.value.as_ref()) {
                Some(any_value::Value::StringValue(text)) => text.clone(),
                Some(any_value::Value::IntValue(n)) => n.to_string(),
                other => panic!("`{}` is {other:?}", a.key),
            };
            (a.key.clone(), value)
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
