//! Work that blocks (files, SQLite, compression), kept off the threads that drive the network.

use crate::error::{Error, ErrorKind, Result};

/// Runs `work` on a thread that may block. Dropping the future does not stop the work.
pub async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::new(ErrorKind::Bug, "a destination's worker broke off").source(e)),
    }
}
