//! Runs streams: plans slices, draws pages, decodes, stages and publishes.

pub mod check;
pub mod report;
