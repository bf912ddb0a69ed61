//! All streams of a run, some at a time, and the record of what they did.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::Run;
use crate::app::lease::Holding;
use crate::connector::Stream;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::report::{Outcome, PUBLISH_LESS, Phase, RunReport, Share, StreamReport};
use crate::state::RunRecord;
use crate::telemetry::{self, Meter, span};

impl Run {
    /// All wanted streams, some at a time, and the record of what they did.
    pub(super) async fn all(
        mut self,
        wanted: Vec<Stream>,
        lease: Option<&Holding>,
    ) -> Result<RunReport> {
        self.saved = self.stored().await?;
        let run = Arc::new(self);
        let meters: Vec<(Stream, Arc<Meter>)> = wanted
            .into_iter()
            .map(|s| (s, Arc::new(Meter::default())))
            .collect();
        for (stream, meter) in &meters {
            run.observer.set(&stream.name, meter, Phase::Queued);
            telemetry::watch(&run.source.name, &stream.name, meter);
        }
        // Each in a task of its own, so that they share the processors.
        let mut reports: Vec<StreamReport> = futures::stream::iter(meters)
            .map(|(stream, meter)| {
                let run = run.clone();
                let span = span::stream(&stream.name);
                let task = async move {
                    let mut report = run.stream(&stream, &meter).await;
                    if report.is_recorded_at_once() {
                        run.record(&mut [&mut report]).await;
                    }
                    report
                };
                AbortOnDropHandle::new(tokio::spawn(task.instrument(span)))
            })
            .buffered(run.streams)
            .map(|ended| {
                ended.map_err(|e| Error::new(ErrorKind::Bug, "a stream's task ended").source(e))
            })
            .try_collect()
            .await?;
        for report in &mut reports {
            if let (Outcome::Interrupted, Some(lost)) =
                (&report.outcome, lease.and_then(Holding::lost))
            {
                report.outcome = Outcome::Failed(lost);
            }
        }
        if !run.options.dry_run {
            let mut left: Vec<&mut StreamReport> = reports
                .iter_mut()
                .filter(|r| r.share != Share::Nothing && !r.is_recorded_at_once())
                .collect();
            run.record(&mut left).await;
            run.log_end(&reports);
        }
        let problem = run.source.settle().await.err();
        Ok(RunReport {
            problem,
            run_id: run.run_id.clone(),
            source: run.source.name.clone(),
            destination: run.destination.describe(),
            dry_run: run.options.dry_run,
            repeated: false,
            streams: reports,
            duration: Duration::ZERO,
        })
    }

    /// Stores what the streams did; adds to the reports what only the destination knows.
    async fn record(&self, reports: &mut [&mut StreamReport]) {
        let mut records: Vec<RunRecord> = reports
            .iter()
            .map(|report| RunRecord {
                trigger: self.options.trigger.clone(),
                ..report.record(&self.run_id, &self.source.name, self.started)
            })
            .collect();
        if let Err(error) = self.destination.record(&mut records).await {
            tracing::warn!(
                run_id = self.run_id,
                source = self.source.name,
                "what the run did is not in `_drawoff_runs`: {}",
                error.chain()
            );
        }
        for (report, record) in reports.iter_mut().zip(records) {
            report.jobs = record.jobs;
            report.bytes_billed = record.bytes_billed;
            report.publishes_in_a_day = record.publishes_in_a_day;
            if report.is_published_too_often() {
                tracing::warn!(
                    run_id = self.run_id,
                    source = self.source.name,
                    stream = report.stream,
                    table = report.table,
                    publishes = report.publishes_in_a_day,
                    "{}; {}",
                    report.published_too_often(),
                    PUBLISH_LESS
                );
            }
        }
    }

    fn log_end(&self, reports: &[StreamReport]) {
        tracing::info!(
            run_id = self.run_id,
            source = self.source.name,
            rows = reports.iter().map(|r| r.rows).sum::<u64>(),
            jobs = reports.iter().map(|r| r.jobs.len()).sum::<usize>(),
            bytes_billed = reports.iter().map(|r| r.bytes_billed).sum::<u64>(),
            "run ended"
        );
    }
}
