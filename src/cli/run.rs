//! `drawoff --source X`: what may be asked of a run.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::args::{SourceOverrides, moment, span};
use crate::config::{self, Environment};
use crate::error::Result;
use crate::pipeline::shard::Shard;

/// What to run.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// The source to run: one of drawoff.yaml, or a connector's name
    #[arg(
        long,
        value_name = "NAME",
        env = "DRAWOFF_SOURCE",
        help_heading = "Source"
    )]
    pub source: Option<String>,
    /// See [`SourceOverrides`].
    #[command(flatten)]
    pub overrides: SourceOverrides,
    /// Run this stream only; may be repeated [default: all]
    #[arg(
        long = "stream",
        value_name = "STREAM",
        value_delimiter = ',',
        env = "DRAWOFF_STREAM",
        help_heading = "Run"
    )]
    pub streams: Vec<String>,
    /// Read incremental streams from this day or time on, whatever the saved cursor says
    #[arg(long, value_name = "DATE", value_parser = moment, env = "DRAWOFF_SINCE", help_heading = "Run")]
    pub since: Option<Timestamp>,
    /// Read incremental streams up to, not including, this day or time
    #[arg(long, value_name = "DATE", value_parser = moment, env = "DRAWOFF_UNTIL", help_heading = "Run")]
    pub until: Option<Timestamp>,
    /// Read everything, as if there were no saved cursor; goes with neither --since nor --until
    #[arg(
        long,
        env = "DRAWOFF_FULL_REFRESH",
        help_heading = "Run",
        conflicts_with_all = ["since", "until"]
    )]
    pub full_refresh: bool,
    /// Where rows land: sqlite:FILE, bigquery:PROJECT.DATASET or parquet:DIR
    /// [default: drawoff.yaml's, else sqlite:drawoff.db]
    #[arg(
        long,
        value_name = "DESTINATION",
        env = config::DESTINATION,
        help_heading = "Run"
    )]
    pub destination: Option<String>,
    /// Read and decode, but store nothing and move no cursor
    #[arg(long, env = "DRAWOFF_DRY_RUN", help_heading = "Run")]
    pub dry_run: bool,
    /// Memory for rows on their way, such as 64MiB [default: drawoff.yaml's, else 64MiB]
    #[arg(long, value_name = "SIZE", env = config::MEMORY, help_heading = "Run")]
    pub memory: Option<String>,
    /// Do the share of task INDEX of COUNT tasks that split the source between them, such as 0/4
    /// [default: by the variables of a Cloud Run job or an indexed Kubernetes job]
    #[arg(long, value_name = "INDEX/COUNT", value_parser = Shard::parse, env = "DRAWOFF_SHARD", help_heading = "Run")]
    pub shard: Option<Shard>,
    /// Stop cleanly after this long, such as 50m; the next run goes on from there
    #[arg(long, value_name = "DURATION", value_parser = span, env = "DRAWOFF_DEADLINE", help_heading = "Run")]
    pub deadline: Option<Duration>,
}

impl RunArgs {
    /// The task that this process is, where several share a run.
    ///
    /// # Errors
    /// An environment that does not say which.
    pub fn shard(&self) -> Result<Option<Shard>> {
        match self.shard {
            Some(shard) => Ok(shard.among_others()),
            None => Shard::of(&Environment::process()),
        }
    }
}
