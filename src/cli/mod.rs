//! The command line: arguments as typed, one file a command, and what each shows.
//!
//! Results go to standard output, everything else (progress, log lines, errors) to standard error.

pub mod args;
pub mod auth;
pub mod check;
pub mod connectors;
pub mod deploy;
mod dispatch;
pub mod lint;
pub mod login;
pub mod preview;
pub mod progress;
pub mod report;
pub mod run;
pub mod schema;
pub mod secrets;
pub mod serve;
pub mod sources;
pub mod style;
pub mod summary;
mod table;
mod terminal;
mod words;

pub use dispatch::main;
