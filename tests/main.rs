//! The integration suite: one binary, a module per behaviour.

mod destinations;
mod support;
