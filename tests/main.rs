//! The integration suite: one binary, a module per behaviour.

mod bigquery;
mod google_secrets;
mod support;
