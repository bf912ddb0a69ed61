//! `drawoff serve`: runs that others ask for over HTTP, as a Cloud Run service or a function.
//!
//! | request | answer |
//! |---|---|
//! | `POST /run`, `POST /` | runs a source, and says what came of it, or where to look when it takes long |
//! | `GET /runs/ID` | what a run of this process is at, or came to |
//! | `GET /healthz`, `GET /health` | 200 |

mod answer;
mod ask;
mod call;
mod gate;
mod listen;
mod runs;
mod trigger;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Method};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

pub use self::ask::Defaults;
use self::call::Sender;
pub use self::gate::Callers;
use self::gate::Gate;
use self::listen::Unread;
use self::runs::{Begun, Runs};
use crate::app::{App, RunOptions};
use crate::clock::Clock as _;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::log::{self, Whose};
use crate::telemetry::span;
use crate::telemetry::trace::TraceContext;

/// Largest body. An event of Eventarc's has 512 KiB at the most.
const LARGEST_BODY: usize = 1 << 20;

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Port, on all addresses of this machine.
    pub port: u16,
    /// Who may call; `None`: whoever reaches the port.
    pub callers: Option<Callers>,
    /// How long a request waits for its run to end.
    pub answer_within: Duration,
    /// What is run for those who do not say.
    pub defaults: Defaults,
    /// Runs at work at once, at the most.
    pub runs: NonZeroUsize,
    /// Requests a second, at the most.
    pub requests: NonZeroU32,
}

struct Service {
    app: Arc<App>,
    gate: Gate,
    runs: Arc<Runs>,
    answer_within: Duration,
    defaults: Defaults,
    pace: DefaultDirectRateLimiter,
}

/// Serves until `cancel`; runs at work are stopped then, and what they have published stays.
///
/// # Errors
/// [`ErrorKind::Config`] when the port cannot be had, or what is to be run by default is not there.
pub async fn serve(app: Arc<App>, options: ServeOptions, cancel: CancellationToken) -> Result<()> {
    if let Some(source) = &options.defaults.source {
        app.knows(source, &options.defaults.streams)?;
    }
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
    let runs = Runs::new(app.clone(), options.runs.get(), cancel.clone());
    let service = Arc::new(Service {
        app: app.clone(),
        gate: Gate::new(app.google().clone(), options.callers),
        runs: runs.clone(),
        answer_within: options.answer_within,
        defaults: options.defaults,
        pace: RateLimiter::direct(Quota::per_second(options.requests)),
    });
    let router = Router::new()
        .route("/run", post(run))
        // Where Eventarc, Pub/Sub and functions call unless told otherwise.
        .route("/", post(run))
        .route("/runs/{id}", get(look))
        .fallback(|| async { answer::nothing_here() })
        .layer(middleware::from_fn_with_state(service.clone(), pace))
        // Whether it is up costs nothing to say.
        .route("/healthz", get(|| async { answer::healthy() }))
        // Cloud Run lets no path through to a service that ends in z.
        .route("/health", get(|| async { answer::healthy() }))
        .with_state(service);
    listen::serve(listener, router, async move {
        cancel.cancelled().await;
        // Whoever waits for an answer gets one.
        runs.ended().await;
    })
    .await;
    Ok(())
}

/// Turns requests away that come too fast, before anything is done for them.
async fn pace(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    match service.pace.check() {
        Ok(()) => next.run(request).await,
        Err(_) => answer::too_fast(),
    }
}

async fn run(State(service): State<Arc<Service>>, request: Request) -> Response {
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let trace = TraceContext::of_request(header);
    let span = span::request(&Method::POST, request.uri().path(), trace);
    if trace.is_some() || log::in_a_trace() {
        service.app.learn_project().await;
    }
    begin(&service, request).instrument(span).await
}

async fn begin(service: &Service, request: Request) -> Response {
    let (head, body) = request.into_parts();
    if let Err(refusal) = service.gate.pass(&head.headers).await {
        return answer::turned_away(&refusal);
    }
    let body = match listen::body(body, LARGEST_BODY).await {
        Ok(body) => body,
        Err(unread) => {
            let sender = match &unread {
                Unread::TooLarge(start) => call::sender_of(&head.headers, start),
                _ => Sender::Decides,
            };
            match unread {
                Unread::TooLarge(_) => refused(&Error::config(format!(
                    "could not read a request: {unread}"
                ))),
                _ => tracing::warn!("a request was refused: {unread}"),
            }
            return answer::to(sender, answer::unread(&unread, LARGEST_BODY));
        }
    };
    let call = call::read(&head.headers, &body, &service.defaults);
    let asked = match call.asked {
        Ok(asked) => asked,
        Err(error) => {
            refused(&error);
            return answer::to(call.sender, answer::failed(&error));
        }
    };
    answer::to(call.sender, service.answer(asked).await)
}

/// Logs what is asked for in vain: whoever sends it is to mend it.
fn refused(error: &Error) {
    log::failed("request", Whose::default(), error);
}

impl Service {
    /// Runs what was asked for, and answers when it has ended or the time is up.
    async fn answer(&self, asked: RunOptions) -> Response {
        let (id, mut end, again) = match self.runs.begin(asked) {
            Begun::At { id, end, again } => (id, end, again),
            Begun::Busy { source, id } => return answer::busy(&source, &id),
            Begun::Full { most } => return answer::full(most),
            Begun::Stopping => return answer::stopping(),
        };
        let wait = crate::clock::SystemClock.sleep(self.answer_within);
        tokio::select! {
            _ = end.wait_for(|ended| *ended) => {}
            () = wait => {}
        }
        match self.runs.look(&id) {
            Some(seen) => answer::run(&seen, again),
            None => answer::no_such_run(&id),
        }
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
