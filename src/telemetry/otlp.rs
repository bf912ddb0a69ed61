//! Traces and metrics for an OpenTelemetry collector, over OTLP (HTTP, protobuf), where the standard
//! variables name one. Else nothing here does anything.
//!
//! Never in the way of a run: what cannot be exported is one warning, and the end waits no longer than
//! `LAST_EXPORT`.
//!
//! | module | owns |
//! |---|---|
//! | here | whether and what to export; the end |
//! | `collector` | the way to the collector |
//! | `guard` | what leaves: no secret; which spans are still open |
//! | `measure` | metrics, read off the meters |
//! | `resource` | who exports |

mod collector;
mod guard;
mod measure;
mod resource;

use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, Protocol, SpanExporter, WithExportConfig as _,
    WithHttpConfig as _,
};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SdkTracerProvider};
use tracing::{Span, Subscriber, span};
use tracing_opentelemetry::{OpenTelemetrySpanExt as _, get_otel_context};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use self::collector::Collector;
pub use self::collector::MakeClient;
use self::guard::{Guarded, Open};
pub(crate) use self::measure::{exchanged, watch};
use super::trace::TraceContext;
use crate::config::{self, Environment};
use crate::error::{Error, Result};

/// How long the end of the process waits for the last export.
const LAST_EXPORT: Duration = Duration::from_secs(2);
/// After a signal the end has come this late, whatever there is left to export: platforms kill after ten
/// seconds, and the run itself may take most of them. A run that ended well says so before the watch over its
/// end would say that it did not.
pub const LAST_MOMENT: Duration = Duration::from_millis(7_300);
/// What the last export is given in any case.
const LEAST_EXPORT: Duration = Duration::from_millis(100);
/// How long it waits for tasks that were told to end, and hold spans open.
const LAST_SPANS: Duration = Duration::from_millis(100);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(2);

/// Whether there are spans that are exported.
static TRACES: OnceLock<()> = OnceLock::new();
/// When the process was asked to stop.
static ASKED: OnceLock<Instant> = OnceLock::new();

/// What is exported, until [`Self::end`].
pub struct Exporting {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

impl Exporting {
    /// Starts exporting what the environment says, with requests on `runtime`; sends nothing yet. `None`
    /// where no collector is named.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`]: the variables cannot be understood.
    pub fn start(
        environment: &Environment,
        runtime: tokio::runtime::Handle,
        make: MakeClient,
    ) -> Result<Option<Self>> {
        let on = |endpoint: &str, exporter: &str| wanted(environment, endpoint, exporter);
        let traces = on(
            config::OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
            config::OTEL_TRACES_EXPORTER,
        )?;
        let metrics = on(
            config::OTEL_EXPORTER_OTLP_METRICS_ENDPOINT,
            config::OTEL_METRICS_EXPORTER,
        )?;
        if !traces && !metrics {
            return Ok(None);
        }
        speaks(environment)?;
        collector::keep_secret(environment);
        let resource = resource::of(environment);
        let traces = traces
            .then(|| {
                let timeout = config::OTEL_EXPORTER_OTLP_TRACES_TIMEOUT;
                let to = Collector::new(environment, timeout, runtime.clone(), make);
                let exporter = SpanExporter::builder()
                    .with_http()
                    .with_http_client(to)
                    .with_protocol(Protocol::HttpBinary)
                    .build()
                    .map_err(|e| unusable(&e))?;
                let batches = BatchSpanProcessor::builder(Guarded(exporter)).build();
                let _ = TRACES.set(());
                Ok::<_, Error>(
                    SdkTracerProvider::builder()
                        .with_span_processor(Open)
                        .with_span_processor(batches)
                        .with_resource(resource.clone())
                        .build(),
                )
            })
            .transpose()?;
        let metrics = metrics
            .then(|| {
                let timeout = config::OTEL_EXPORTER_OTLP_METRICS_TIMEOUT;
                let to = Collector::new(environment, timeout, runtime, make);
                let exporter = MetricExporter::builder()
                    .with_http()
                    .with_http_client(to)
                    .with_protocol(Protocol::HttpBinary)
                    .build()
                    .map_err(|e| unusable(&e))?;
                let provider = SdkMeterProvider::builder()
                    .with_periodic_exporter(exporter)
                    .with_resource(resource)
                    .build();
                measure::start(&provider);
                Ok::<_, Error>(provider)
            })
            .transpose()?;
        Ok(Some(Self { traces, metrics }))
    }

    /// What takes up the program's own spans. Not its events: they are log lines, and hold texts of
    /// others.
    pub(super) fn layer<S>(&self) -> Option<impl Layer<S> + Send + Sync + 'static>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let tracer = self.traces.as_ref()?.tracer(env!("CARGO_PKG_NAME"));
        let own = filter_fn(|about| {
            about.is_span() && about.target().starts_with(env!("CARGO_PKG_NAME"))
        });
        Some(
            tracing_opentelemetry::layer()
                .with_tracer(tracer)
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_tracked_inactivity(false)
                .with_context_activation(false)
                .with_filter(own),
        )
    }

    /// Exports what is left, and waits for that a moment. Not within the runtime, which the export needs.
    pub fn end(self) {
        let limit = ASKED.get().map_or(LAST_EXPORT, |asked| {
            let left = LAST_MOMENT.saturating_sub(asked.elapsed());
            left.clamp(LEAST_EXPORT, LAST_EXPORT)
        });
        let begun = Instant::now();
        while guard::open_spans() > 0 && begun.elapsed() < LAST_SPANS {
            std::thread::sleep(LOOK);
        }
        // Each in a thread that may be left behind: how long they take is not in our hands.
        let (done, ends) = mpsc::channel();
        let mut waits = 0;
        if let Some(traces) = self.traces {
            let done = done.clone();
            waits += 1;
            std::thread::spawn(move || {
                let _ = done.send(traces.shutdown_with_timeout(limit).is_ok());
                // Dropping it would wait again.
                std::mem::forget(traces);
            });
        }
        if let Some(metrics) = self.metrics {
            let done = done.clone();
            waits += 1;
            std::thread::spawn(move || {
                let _ = done.send(metrics.shutdown_with_timeout(limit).is_ok());
                std::mem::forget(metrics);
            });
        }
        for _ in 0..waits {
            let left = limit.saturating_sub(begun.elapsed());
            if ends.recv_timeout(left).is_err() {
                collector::lost("it did not answer in time");
                return;
            }
        }
    }
}

/// Whether there are traces.
pub(super) fn exports_traces() -> bool {
    TRACES.get().is_some()
}

/// The process was asked to stop now, and will not be waited for long.
pub fn hurry() {
    let _ = ASKED.set(Instant::now());
}

/// Makes a span the child of one elsewhere.
pub(super) fn below(span: &Span, parent: TraceContext) {
    if !exports_traces() {
        return;
    }
    // A trace without a span still is the trace that the work belongs to.
    let parent_span = parent
        .span()
        .unwrap_or_else(|| rand::random::<u64>().max(1));
    let flags = match parent.sampled() {
        Some(false) => TraceFlags::default(),
        _ => TraceFlags::SAMPLED,
    };
    let context = SpanContext::new(
        TraceId::from(parent.trace()),
        SpanId::from(parent_span),
        flags,
        true,
        TraceState::default(),
    );
    let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(context));
}

/// Where a span stands in its trace, if it is exported.
pub(super) fn place(span: &span::Id) -> Option<TraceContext> {
    TRACES.get()?;
    tracing::dispatcher::get_default(|dispatch| {
        let context = get_otel_context(span, dispatch)?;
        let at = context.span().span_context().clone();
        TraceContext::new(
            u128::from_be_bytes(at.trace_id().to_bytes()),
            u64::from_be_bytes(at.span_id().to_bytes()),
            at.is_sampled(),
        )
    })
}

/// Whether a signal is exported: a collector is named, and nothing forbids it.
fn wanted(environment: &Environment, endpoint: &str, exporter: &str) -> Result<bool> {
    let disabled = environment
        .get(config::OTEL_SDK_DISABLED)
        .is_some_and(|v| v.trim().eq_ignore_ascii_case("true"));
    let named = [config::OTEL_EXPORTER_OTLP_ENDPOINT, endpoint]
        .iter()
        .any(|name| environment.get(name).is_some());
    match environment.get(exporter).as_deref().map(str::trim) {
        _ if disabled || !named => Ok(false),
        None | Some("otlp") => Ok(true),
        Some("none") => Ok(false),
        Some(other) => Err(Error::config(format!(
            "`{exporter}` says `{other}`, which this program cannot export to"
        ))
        .hint("say `otlp` or `none`")),
    }
}

/// Whether the collector is to be spoken to in the one protocol that there is here.
fn speaks(environment: &Environment) -> Result<()> {
    for name in [
        config::OTEL_EXPORTER_OTLP_PROTOCOL,
        config::OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
        config::OTEL_EXPORTER_OTLP_METRICS_PROTOCOL,
    ] {
        if let Some(other) = environment
            .get(name)
            .filter(|p| p.trim() != "http/protobuf")
        {
            return Err(Error::config(format!(
                "`{name}` says `{other}`, which this program does not speak"
            ))
            .hint("say `http/protobuf`, and name the collector's port for it, 4318 as a rule"));
        }
    }
    Ok(())
}

fn unusable(error: &ExporterBuildError) -> Error {
    Error::config(format!(
        "the `OTEL_EXPORTER_OTLP_…` variables cannot be used: {error}"
    ))
    .hint("name the collector like `http://localhost:4318`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(variables: &[(&str, &str)]) -> Result<bool> {
        let environment = Environment::of(variables.iter().copied());
        let traces = wanted(
            &environment,
            config::OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
            config::OTEL_TRACES_EXPORTER,
        )?;
        speaks(&environment).map(|()| traces)
    }

    #[test]
    fn only_a_named_collector_is_exported_to() {
        let at = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
        let traces = (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "http://localhost:4318/x",
        );
        let metrics = (
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "http://localhost:4318/x",
        );
        assert!(!starts(&[]).unwrap());
        assert!(!starts(&[metrics]).unwrap());
        assert!(starts(&[at]).unwrap());
        assert!(starts(&[traces]).unwrap());
        assert!(starts(&[at, ("OTEL_TRACES_EXPORTER", "otlp")]).unwrap());
        assert!(!starts(&[at, ("OTEL_TRACES_EXPORTER", "none")]).unwrap());
        assert!(!starts(&[at, ("OTEL_SDK_DISABLED", "TRUE")]).unwrap());
        assert!(starts(&[at, ("OTEL_SDK_DISABLED", "no")]).unwrap());
        assert!(starts(&[at, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).unwrap());
        for bad in [
            ("OTEL_TRACES_EXPORTER", "jaeger"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ] {
            let error = starts(&[at, bad]).unwrap_err();
            assert!(error.to_string().contains(bad.0), "{error}");
            assert!(error.to_string().contains(bad.1), "{error}");
        }
    }
}
