//! The integration suite: one binary, a module per behaviour.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod architecture;
mod auth;
mod bigquery;
mod connectors;
mod demo_api;
mod demo_connector;
mod destinations;
mod end_to_end;
mod faults;
mod github_connector;
mod google_secrets;
mod http;
mod lint_cli;
mod logging;
mod oddities;
mod paging;
mod run;
mod secrets;
mod support;
