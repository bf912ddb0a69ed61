//! Log lines for what failed in a run, for whoever does not see its summary.

use crate::error::{Error, ErrorKind};
use crate::pipeline::report::{Outcome, RunReport, StreamReport};
use crate::telemetry::log::{self, Whose};

/// Logs each failure of a run that has ended.
pub(super) fn tell(report: &RunReport) {
    for stream in &report.streams {
        let whose = Whose {
            stream: Some(&stream.stream),
            ..Whose::default()
        };
        match &stream.outcome {
            Outcome::Failed(error) => log::failed("stream", whose, error),
            Outcome::TooManyRejects { limit } => {
                log::failed("stream", whose, &too_many(stream, *limit));
            }
            Outcome::Done | Outcome::Interrupted => {}
        }
    }
    if let Some(problem) = &report.problem {
        log::failed("run", Whose::default(), problem);
    }
}

fn too_many(stream: &StreamReport, limit: u64) -> Error {
    Error::new(
        ErrorKind::Schema,
        format!(
            "{} records did not fit table `{}`, more than the {limit} that `max_rejects` allows",
            stream.rejected, stream.table
        ),
    )
    .hint("look at the rejects table for the reasons, correct the schema, and load the span again")
}
