//! The integration suite: one binary, a module per behaviour.

// Clippy knows tests by their attribute; all of this is tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod destinations;
mod support;
