//! The spans of a run: what log lines and traces are told apart by. Cheap where nobody looks.

use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Instant;

use http::{Method, StatusCode};
use tracing::Span;
use tracing::field::Empty;
use url::Url;

use super::otlp;
use super::trace::TraceContext;

/// Target of spans that are for traces alone: log lines do not show their fields.
pub const TRACES_ONLY: &str = "drawoff::traces";

/// What a caller asked for over HTTP; `parent` is where its headers say that it belongs.
pub fn request(method: &Method, path: &str, parent: Option<TraceContext>) -> Span {
    let span = tracing::info_span!(
        "request",
        otel.name = format!("{method} {path}"),
        otel.kind = "server",
        trace_id = Empty,
        span_id = Empty,
        trace_sampled = Empty
    );
    if let Some(parent) = parent {
        below(&span, parent);
    }
    span
}

/// A run. Where no request asked for it, it belongs where the process was told that it does.
pub fn run(source: &str, run_id: &str) -> Span {
    let asked = Span::current().is_none();
    let span = tracing::info_span!("run", source, run_id);
    if let Some(parent) = super::log::trace_of_process().filter(|_| asked) {
        otlp::below(&span, parent);
    }
    span
}

/// A stream of a run.
pub fn stream(stream: &str) -> Span {
    tracing::info_span!("stream", stream)
}

/// A slice, from its first batch to its publish.
pub fn slice(table: &str, slice: &str) -> Span {
    tracing::info_span!(target: TRACES_ONLY, "slice", table, slice)
}

/// The publish of a slice.
pub fn publish(slice: &Span) -> Span {
    tracing::info_span!(target: TRACES_ONLY, parent: slice, "publish")
}

fn below(span: &Span, parent: TraceContext) {
    span.record("trace_id", parent.trace_id());
    if let Some(id) = parent.span_id() {
        span.record("span_id", id);
    }
    if let Some(sampled) = parent.sampled() {
        span.record("trace_sampled", sampled);
    }
    otlp::below(span, parent);
}

/// A request to an API, from when it is sent until its answer is read. Only its method, its host and the
/// answer's status are told: paths hold ids, queries and headers secrets.
pub struct Exchange {
    span: Span,
    method: Method,
    host: String,
    begun: Instant,
    /// 0 before there is an answer.
    status: AtomicU16,
}

impl Exchange {
    /// Begins now.
    pub fn begin(method: &Method, url: &Url) -> Self {
        let host = url.host_str().unwrap_or_default();
        Self {
            span: tracing::info_span!(
                target: TRACES_ONLY,
                "exchange",
                otel.name = method.as_str(),
                otel.kind = "client",
                otel.status_code = Empty,
                http.request.method = method.as_str(),
                server.address = host,
                server.port = url.port_or_known_default().map(i64::from),
                http.response.status_code = Empty,
                error.type = Empty,
            ),
            method: method.clone(),
            host: host.to_owned(),
            begun: Instant::now(),
            status: AtomicU16::new(0),
        }
    }

    /// Its span.
    pub fn span(&self) -> Span {
        self.span.clone()
    }

    /// The head of the answer has come.
    pub fn answered(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Relaxed);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let status = self.status.load(Relaxed);
        if status != 0 {
            self.span
                .record("http.response.status_code", i64::from(status));
        }
        if status == 0 || status >= 400 {
            let kind = match status {
                0 => "no_answer".to_owned(),
                _ => status.to_string(),
            };
            self.span.record("error.type", kind);
            self.span.record("otel.status_code", "ERROR");
        }
        otlp::exchanged(&self.method, &self.host, status, self.begun.elapsed());
    }
}
