//! Whether rows can be added behind those that a table has.

use crate::connector::Stream;
use crate::destination::Disposition;
use crate::error::{Error, Result};
use crate::pipeline::cursor::CursorKind;
use crate::state::Checkpoint;

/// Whether a stream can go on from a checkpoint.
///
/// # Errors
/// [`ErrorKind::Config`](crate::error::ErrorKind::Config) for one that appends now and did not before: an API that includes its lower bound
/// serves the records at the cursor again, and nothing says which of them the table has.
pub fn check_seam(
    stream: &Stream,
    checkpoint: &Checkpoint,
    kind: Option<CursorKind>,
) -> Result<()> {
    let in_parts = checkpoint.split.as_ref().is_some_and(|s| !s.ended);
    if stream.table.disposition != Disposition::Append || !(checkpoint.seamless || in_parts) {
        return Ok(());
    }
    let cursor = checkpoint.newest().unwrap_or_default();
    let since = match kind {
        Some(CursorKind::Time) => format!(
            "; or, where records that are in the table twice do no harm, run once with `--since {cursor}`"
        ),
        _ => String::new(),
    };
    Err(Error::config(format!(
        "stream `{}` cannot append to table `{}`, which it merged into or replaced before: which of the records at its cursor (`{cursor}`) the table has is not known, so that they could be added again",
        stream.name, stream.table.name
    ))
    .hint(format!(
        "put the `primary_key` (or `disposition: merge`) back; or run once with `--full-refresh`, which makes the table anew{since}"
    )))
}
