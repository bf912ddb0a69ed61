//! What the program says about itself: counters, log lines, traces, and the last guard against secrets
//! in any of them.

pub mod log;
mod meter;
pub mod otlp;
pub mod redact;
pub mod span;
pub mod trace;

pub use meter::Meter;
pub(crate) use otlp::watch;
