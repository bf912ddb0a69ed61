//! `drawoff serve`: runs that others ask for over HTTP, as a Cloud Run service or a function.
//!
//! | request | answer |
//! |---|---|
//! | `POST /run` | runs a source, and says what came of it, or where to look when it takes long |
//! | `GET /runs/ID` | what a run of this process is at, or came to |
//! | `GET /healthz` | 200 |

mod answer;
mod ask;
mod gate;
mod runs;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

pub use self::gate::Callers;
use self::gate::Gate;
use self::runs::{Begun, Runs};
use crate::app::App;
use crate::clock::Clock as _;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::trace::TraceContext;
use crate::telemetry::{log, span};

/// Largest body; what may be asked fits a line.
const LARGEST_BODY: usize = 64 << 10;

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Port, on all addresses of this machine.
    pub port: u16,
    /// Who may call; `None`: whoever reaches the port.
    pub callers: Option<Callers>,
    /// How long a request waits for its run to end.
    pub answer_within: Duration,
}

struct Service {
    app: Arc<App>,
    gate: Gate,
    runs: Arc<Runs>,
    answer_within: Duration,
}

/// Serves until `cancel`; runs at work are stopped then, and what they have published stays.
///
/// # Errors
/// [`ErrorKind::Config`] when the port cannot be had.
pub async fn serve(app: Arc<App>, options: ServeOptions, cancel: CancellationToken) -> Result<()> {
    let address = SocketAddr::from(([0, 0, 0, 0], options.port));
    let listener = TcpListener::bind(address).await.map_err(|e| {
        Error::new(
            ErrorKind::Config,
            format!("could not listen on port {}", options.port),
        )
        .hint("another program may have it: name another with `--port` or `PORT`")
        .source(e)
    })?;
    let port = listener.local_addr().map_or(options.port, |a| a.port());
    match &options.callers {
        Some(callers) => tracing::info!(
            port,
            "serving on port {port} for {}",
            callers.allowed.join(", ")
        ),
        None => tracing::warn!(
            port,
            "serving on port {port} for whoever reaches it: let the platform verify callers (Cloud Run: no `--allow-unauthenticated`), or say `--verify-callers`"
        ),
    }
    let runs = Runs::new(app.clone(), cancel.clone());
    let service = Arc::new(Service {
        app: app.clone(),
        gate: Gate::new(app.google().clone(), options.callers),
        runs: runs.clone(),
        answer_within: options.answer_within,
    });
    let router = Router::new()
        .route("/run", post(run))
        .route("/runs/{id}", get(look))
        .route("/healthz", get(|| async { answer::healthy() }))
        .fallback(|| async { answer::nothing_here() })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(service);
    let stop = cancel.clone();
    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            stop.cancelled().await;
            // Whoever waits for an answer gets one.
            runs.ended().await;
        })
        .await
        .map_err(|e| Error::new(ErrorKind::Unavailable, "could not go on serving").source(e))
}

async fn run(State(service): State<Arc<Service>>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let trace = TraceContext::of_request(header);
    let span = span::request(&Method::POST, "/run", trace);
    if trace.is_some() || log::in_a_trace() {
        service.app.learn_project().await;
    }
    begin(&service, &headers, &body).instrument(span).await
}

async fn begin(service: &Service, headers: &HeaderMap, body: &Bytes) -> Response {
    if let Err(refusal) = service.gate.pass(headers).await {
        return answer::turned_away(&refusal);
    }
    let asked = match ask::read(body) {
        Ok(asked) => asked,
        Err(error) => return answer::failed(&error),
    };
    let (id, mut end) = match service.runs.begin(asked) {
        Begun::At { id, end } => (id, end),
        Begun::Busy { source, id } => return answer::busy(&source, &id),
        Begun::Stopping => return answer::stopping(),
    };
    let wait = crate::clock::SystemClock.sleep(service.answer_within);
    tokio::select! {
        _ = end.wait_for(|ended| *ended) => {}
        () = wait => {}
    }
    match service.runs.look(&id) {
        Some(seen) => answer::run(&seen),
        None => answer::nothing_here(),
    }
}

async fn look(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    if let Err(refusal) = service.gate.pass(&headers).await {
        return answer::turned_away(&refusal);
    }
    match service.runs.look(&id) {
        Some(seen) => answer::seen(&seen),
        None => answer::no_such_run(&id),
    }
}
