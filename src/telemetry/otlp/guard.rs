//! What leaves: spans without secrets. And which of them are still open.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use opentelemetry::{Context, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};

use crate::telemetry::log;
use crate::telemetry::redact;

static OPEN: AtomicI64 = AtomicI64::new(0);

/// Spans that have begun and not ended.
pub(super) fn open_spans() -> i64 {
    OPEN.load(Relaxed)
}

/// Counts open spans.
#[derive(Debug)]
pub(super) struct Open;

impl SpanProcessor for Open {
    fn on_start(&self, _: &mut Span, _: &Context) {
        OPEN.fetch_add(1, Relaxed);
    }

    fn on_end(&self, _: SpanData) {
        OPEN.fetch_sub(1, Relaxed);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// An exporter that removes known secrets from texts first. The spans are made without; this is the last
/// guard.
#[derive(Debug)]
pub(super) struct Guarded<E>(pub E);

impl<E: SpanExporter> SpanExporter for Guarded<E> {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        for span in &mut batch {
            // For log lines: the span says itself where it stands.
            span.attributes
                .retain(|a| !log::PLACE.contains(&a.key.as_str()));
            for attribute in &mut span.attributes {
                if let Value::String(text) = &attribute.value {
                    attribute.value = redact::scrub(text.as_str()).into();
                }
            }
        }
        self.0.export(batch).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::SystemTime;

    use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status};
    use opentelemetry::{InstrumentationScope, KeyValue};
    use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};

    use super::*;

    #[derive(Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    #[tokio::test]
    async fn known_secrets_do_not_leave() {
        redact::register("guard-canary");
        let kept = Kept::default();
        let all = kept.0.clone();
        let span = SpanData {
            span_context: SpanContext::empty_context(),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Client,
            name: "GET".into(),
            start_time: SystemTime::UNIX_EPOCH,
            end_time: SystemTime::UNIX_EPOCH,
            attributes: vec![
                KeyValue::new("server.address", "guard-canary.example"),
                KeyValue::new("server.port", 443),
                KeyValue::new("trace_id", "00"),
            ],
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        };
        Guarded(kept).export(vec![span]).await.unwrap();
        let exported = all.lock().unwrap();
        assert_eq!(
            exported[0].attributes,
            [
                KeyValue::new("server.address", "[redacted].example"),
                KeyValue::new("server.port", 443),
            ]
        );
    }
}
