//! The demo API: a small third-party API in the same process, on a loopback port of its own, so
//! that the first run needs no account and no network.
//!
//! | endpoint | credentials | paging |
//! |---|---|---|
//! | `GET /companies` | Basic `companyid:token` | `page`, `per_page`; `updated_since`, `updated_until` |
//! | `GET /companies/{id}/contacts` | Basic | `page`, `per_page` |
//! | `GET /tickets` | Basic | `page`, `per_page`; `updated_since`, `updated_until` |
//! | `POST /oauth/token` | Basic client credentials, form-urlencoded | |
//! | `GET /billing/invoices` | Bearer | `cursor`, `limit`; `updated_since`, `updated_until` |
//!
//! Everything it serves is computed from the clock and from hashes of ids: two answers for the same
//! moment are the same bytes, and nothing is stored. All endpoints share one rate limit of
//! [`RATE_LIMIT`] requests in each second of the clock; past it they answer 429.
//!
//! It behaves as the APIs do that it stands for (strict credentials, capped pages, a limit that
//! bites), so nothing in the engine may know that it is only a demo.

mod auth;
mod companies;
mod contacts;
mod draw;
mod invoices;
mod limit;
mod page;
mod tickets;
mod words;

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::SharedClock;
use crate::error::{Error, ErrorKind, Result};

/// User id for Basic.
pub const COMPANY_ID: &str = "40961";
/// Password for Basic.
pub const TOKEN: &str = "dk_7Qm2vX9cTfW4nLbR8sJz";
/// Client id for the token endpoint.
pub const CLIENT_ID: &str = "billing/reader:eu";
/// Client secret for the token endpoint. Full of characters that form-urlencoding changes: a client
/// that leaves it out (RFC 6749 §2.3.1) is refused.
pub const CLIENT_SECRET: &str = "cs_P+4w%7Kd/9=Zu:Hq tB2";
/// Requests that a second may hold, over all endpoints.
pub const RATE_LIMIT: u32 = 100;
/// Lifetime of an access token, in seconds.
pub const TOKEN_SECONDS: i64 = 60;
/// Most records in a page, whatever was asked for.
pub const MAX_PAGE: u64 = 100;

/// The API at work. Dropping it stops it: no new connections, requests on the wire are answered.
#[derive(Debug)]
pub struct DemoApi {
    base_url: String,
    _stop: DropGuard,
}

#[derive(Clone)]
struct Demo {
    clock: SharedClock,
    limit: Arc<limit::Limit>,
}

impl DemoApi {
    /// Starts the API on a free loopback port. It is there when this returns.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when no loopback port can be had, [`ErrorKind::Bug`] outside an
    /// asynchronous runtime.
    pub fn start(clock: SharedClock) -> Result<Self> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|e| {
            Error::new(
                ErrorKind::Bug,
                "the demo API was started outside an asynchronous runtime",
            )
            .source(e)
        })?;
        let failed = |e: std::io::Error| {
            Error::new(
                ErrorKind::Unavailable,
                "could not start the demo API on a free port of 127.0.0.1",
            )
            .hint("check that this user may listen on the loopback interface")
            .source(e)
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let _in_runtime = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;

        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let server = axum::serve(listener, router(clock))
            .with_graceful_shutdown(async move { stopped.cancelled().await });
        runtime.spawn(async move {
            if let Err(e) = server.await {
                tracing::error!(error = %e, "the demo API ended");
            }
        });
        Ok(Self {
            base_url: format!("http://{address}"),
            _stop: stop.drop_guard(),
        })
    }

    /// Where it listens: `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }
}

fn router(clock: SharedClock) -> Router {
    let demo = Demo {
        clock,
        limit: Arc::default(),
    };
    let support = Router::new()
        .route("/companies", get(companies::list))
        .route("/companies/{id}/contacts", get(contacts::list))
        .route("/tickets", get(tickets::list))
        .layer(from_fn(auth::basic));
    let billing = Router::new()
        .route("/billing/invoices", get(invoices::list))
        .layer(from_fn_with_state(demo.clone(), auth::bearer));
    Router::new()
        .route("/oauth/token", post(auth::token))
        .merge(support)
        .merge(billing)
        .fallback(|| async {
            problem(
                StatusCode::NOT_FOUND,
                "not_found",
                "there is nothing at this path",
            )
        })
        .layer(from_fn_with_state(demo.clone(), limit::enforce))
        .with_state(demo)
}

/// An error body: `{"error": {"code": …, "message": …}}`.
fn problem(status: StatusCode, code: &str, message: impl AsRef<str>) -> Response {
    let body = serde_json::json!({"error": {"code": code, "message": message.as_ref()}});
    (status, axum::Json(body)).into_response()
}
