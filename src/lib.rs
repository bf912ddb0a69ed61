//! `drawoff` draws rows off third-party REST APIs and lands them in BigQuery.
//!
//! The flow, and the modules in the order in which they may import each other:
//!
//! | module | owns |
//! |---|---|
//! | [`error`] | the one error, and who must act on it |
//! | [`config`] | environment variables |
//! | [`clock`] [`telemetry`] | time; counters, log lines, traces, redaction |
//! | [`yaml`] | YAML with positions and findings |
//! | [`http`] [`schema`] | the HTTP boundary; BigQuery types, Arrow, JSON → batch |
//! | [`auth`] | putting credentials on requests |
//! | [`google`] | Google's endpoints, credentials and calls |
//! | [`secrets`] [`state`] | secrets by reference; checkpoints |
//! | [`destination`] | where rows land |
//! | [`connector`] | the declaration of an API |
//! | [`settings`] | `drawoff.yaml`: which account, which secrets, which destination |
//! | [`source`] [`demo`] | one stream's reader; an API in the same process, to try everything on |
//! | [`pipeline`] | slices of streams, from page to publish; the run's report |
//! | [`app`] | the one module that knows every implementation, and wires them |
//! | [`server`] | runs that others ask for over HTTP |
//! | [`cli`] | the command line |

pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connector;
pub mod demo;
pub mod destination;
pub mod error;
pub mod google;
pub mod http;
pub mod pipeline;
pub mod schema;
pub mod secrets;
pub mod server;
pub mod settings;
pub mod source;
pub mod state;
pub mod telemetry;
pub mod yaml;
