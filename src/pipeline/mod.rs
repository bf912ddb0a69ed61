//! Runs streams: plans slices, draws pages, decodes, stages and publishes.

pub mod check;
pub mod contract;
pub mod cursor;
pub mod partitions;
pub mod plan;
pub mod report;
pub mod seam;
pub mod shard;
pub mod slice;
pub mod split;
pub mod stage;
pub mod stream;
pub mod table;
