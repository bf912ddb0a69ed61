//! What the program says about itself: counters, log lines, and the last guard against secrets in
//! either.

pub mod log;
mod meter;
pub mod redact;

pub use meter::Meter;
