//! The integration suite: one binary, a module per behaviour.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod architecture;
mod auth;
mod bigquery;
mod connectors;
mod demo_api;
mod demo_connector;
// Clippy knows tests by their attribute; all of this is tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod destinations;
mod github_connector;
mod destinations;
mod google_secrets;
mod http;
mod logging;
mod support;
