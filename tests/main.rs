//! The integration suite: one binary, a module per behaviour.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod architecture;
mod auth;
mod bigquery;
mod bigquery_direct;
mod bigquery_jobs;
mod bigquery_load;
mod connectors;
mod contracts;
mod demo_api;
mod demo_connector;
mod destinations;
mod docs;
mod end_to_end;
mod extremes;
mod fault_table;
mod faults;
mod github_connector;
mod google_secrets;
mod grants;
mod http;
mod kept_rows;
mod lint_cli;
mod logging;
mod login;
mod oddities;
mod paging;
mod refresh;
mod run;
mod secrets;
mod sessions;
mod state;
mod storage_write;
mod support;
