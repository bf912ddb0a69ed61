//! `drawoff --source X` and `drawoff --all`: what may be asked of a run.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::args::{SourceOverrides, moment, span};
use crate::app::RunOptions;
use crate::config::{self, Environment};
use crate::error::Result;
use crate::pipeline::shard::Shard;

/// What to run.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// The source to run, of drawoff.yaml or a connector's name; may be repeated
    #[arg(
        long = "source",
        value_name = "NAME",
        value_delimiter = ',',
        env = "DRAWOFF_SOURCE",
        help_heading = "Source"
    )]
    pub sources: Vec<String>,
    /// Run every source of drawoff.yaml, unless --source names some
    #[arg(long, env = "DRAWOFF_ALL", help_heading = "Source")]
    pub all: bool,
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
    /// Do the share of one of several tasks, such as 0/4
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

    /// Whether every configured source is to run. One that is named goes before: `--all` may be what an
    /// image does by default.
    pub fn runs_all(&self) -> bool {
        self.all && self.sources.is_empty()
    }

    /// Whether several sources are to run, or as many as there are.
    pub fn runs_several(&self) -> bool {
        self.runs_all() || self.names().len() > 1
    }

    /// The sources that are named, each once.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for name in &self.sources {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }

    /// The first flag given that speaks of one source.
    pub fn of_one_source(&self) -> Option<&'static str> {
        let flags = [
            ("--stream", !self.streams.is_empty()),
            ("--set", !self.overrides.set.is_empty()),
            ("--base-url", self.overrides.base_url.is_some()),
        ];
        flags
            .into_iter()
            .find_map(|(flag, given)| given.then_some(flag))
    }

    /// What is asked of the run of a source, which has so much time left.
    pub fn options(
        &self,
        source: &str,
        deadline: Option<Duration>,
        hurry: CancellationToken,
    ) -> RunOptions {
        RunOptions {
            source: source.to_owned(),
            streams: self.streams.clone(),
            since: self.since,
            until: self.until,
            full_refresh: self.full_refresh,
            dry_run: self.dry_run,
            deadline,
            hurry,
            ..RunOptions::default()
        }
    }
}
