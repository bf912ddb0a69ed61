//! The integration suite: one binary, a module per behaviour.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod auth;
mod http;
mod support;
