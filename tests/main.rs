//! The integration suite: one binary, a module per behaviour.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod architecture;
mod connectors;
mod demo_api;
mod demo_connector;
mod destinations;
mod logging;
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod auth;
mod http;
mod bigquery;
mod google_secrets;
mod support;
