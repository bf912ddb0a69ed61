//! The way to the collector: our HTTP client, driven from the exporters' own threads.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;
use url::Url;

use crate::config::{self, Environment};
use crate::error::Result;
use crate::telemetry::redact;

/// Makes a client for requests to this URL, each of which may take so long.
pub type MakeClient = fn(&Url, Duration) -> Result<reqwest::Client>;

/// Time for one export, as the specification has it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of an answer.
const LONGEST_ANSWER: usize = 64 << 10;

/// Whether it was said that exports fail.
static SAID: AtomicBool = AtomicBool::new(false);

/// A collector. The client is made when it is first needed: a start must not wait for it.
pub(super) struct Collector {
    runtime: Handle,
    make: MakeClient,
    timeout: Duration,
    client: OnceLock<reqwest::Client>,
}

impl Collector {
    /// With the time limit that `variable`, or the one for all signals, gives in milliseconds.
    pub fn new(
        environment: &Environment,
        variable: &str,
        runtime: Handle,
        make: MakeClient,
    ) -> Self {
        let timeout = [variable, config::OTEL_EXPORTER_OTLP_TIMEOUT]
            .iter()
            .find_map(|name| environment.get(name)?.trim().parse().ok())
            .map_or(TIMEOUT, Duration::from_millis);
        Self {
            runtime,
            make,
            timeout,
            client: OnceLock::new(),
        }
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let url: Url = request.uri().to_string().parse()?;
        let client = match self.client.get() {
            Some(client) => client.clone(),
            None => {
                let made = (self.make)(&url, self.timeout)?;
                self.client.get_or_init(|| made).clone()
            }
        };
        // Exporters call from threads of their own, where nothing drives a connection.
        let sent = self.runtime.spawn(async move {
            // Not where it went: an address may hold a key.
            let bare = reqwest::Error::without_url;
            let mut answer = client.execute(request.try_into()?).await.map_err(bare)?;
            let mut body = Vec::new();
            while let Some(chunk) = answer.chunk().await.map_err(bare)? {
                if body.len() + chunk.len() > LONGEST_ANSWER {
                    return Err("its answer is too long".into());
                }
                body.extend_from_slice(&chunk);
            }
            let mut response = Response::new(Bytes::from(body));
            *response.status_mut() = answer.status();
            *response.headers_mut() = std::mem::take(answer.headers_mut());
            Ok::<_, HttpError>(response)
        });
        sent.await?
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let outcome = self.exchange(request).await;
        match &outcome {
            Ok(answer) if answer.status().is_success() => {}
            Ok(answer) => lost(&format!("it answered {}", answer.status().as_u16())),
            Err(error) => lost(&chain(&**error)),
        }
        outcome
    }
}

/// Says, once a process, that something was not exported.
pub(super) fn lost(why: &str) {
    if !SAID.swap(true, Relaxed) {
        tracing::warn!(
            "could not export traces or metrics to the OpenTelemetry collector: {why}; the run goes on without, and this is not said again"
        );
    }
}

/// Headers for the collector are credentials, as a rule.
pub(super) fn keep_secret(environment: &Environment) {
    for name in [
        config::OTEL_EXPORTER_OTLP_HEADERS,
        config::OTEL_EXPORTER_OTLP_TRACES_HEADERS,
        config::OTEL_EXPORTER_OTLP_METRICS_HEADERS,
    ] {
        for pair in environment.get(name).unwrap_or_default().split(',') {
            if let Some((_, value)) = pair.split_once('=') {
                redact::register(value.trim());
                // They are written as in a URL.
                let pair = format!("v={}", value.trim().replace('+', "%2B"));
                let plain = url::form_urlencoded::parse(pair.as_bytes())
                    .map(|(_, value)| value.into_owned())
                    .collect::<String>();
                redact::register(&plain);
            }
        }
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(cause) = at {
        text = format!("{text}: {cause}");
        at = cause.source();
    }
    text
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Collector({:?})", self.timeout)
    }
}
