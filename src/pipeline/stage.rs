//! Takes batches from a stream to a slice without holding more bytes than the run's budget.

use std::sync::Arc;

use arrow_array::RecordBatch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::destination::{BatchKind, Slice};
use crate::error::{Error, ErrorKind, Result};

/// Bytes a permit stands for.
const UNIT: usize = 1024;

/// The bytes of batches that may be on their way in a run, over all its streams.
#[derive(Clone, Debug)]
pub struct Budget {
    free: Arc<Semaphore>,
    units: u32,
}

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT as u64)
            .unwrap_or(u32::MAX)
            .clamp(1, 1 << 28);
        Self {
            free: Arc::new(Semaphore::new(units as usize)),
            units,
        }
    }

    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        self.units as usize * UNIT
    }

    /// Waits until `bytes` fit. One batch larger than the whole budget takes all of it.
    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT))
            .unwrap_or(u32::MAX)
            .clamp(1, self.units);
        let gone = |e| Error::new(ErrorKind::Bug, "the memory budget was closed").source(e);
        self.free
            .clone()
            .acquire_many_owned(units)
            .await
            .map_err(gone)
    }
}

type Parcel = (BatchKind, RecordBatch, OwnedSemaphorePermit);

/// A slice with a task that stages into it, so that reading goes on meanwhile.
pub struct Stager {
    budget: Budget,
    parcels: mpsc::Sender<Parcel>,
    task: AbortOnDropHandle<(Box<dyn Slice>, Result<()>)>,
}

impl Stager {
    /// Starts staging into `slice`.
    pub fn start(mut slice: Box<dyn Slice>, budget: Budget) -> Self {
        let (parcels, mut inbox) = mpsc::channel::<Parcel>(2);
        let task = AbortOnDropHandle::new(tokio::spawn(
            async move {
                while let Some((kind, batch, permit)) = inbox.recv().await {
                    if let Err(error) = slice.stage(kind, batch).await {
                        return (slice, Err(error));
                    }
                    drop(permit);
                }
                (slice, Ok(()))
            }
            .in_current_span(),
        ));
        Self {
            budget,
            parcels,
            task,
        }
    }

    /// Hands a batch over; waits for room.
    ///
    /// # Errors
    /// [`ErrorKind::Destination`] when staging has failed; [`Self::finish`] says why.
    pub async fn send(&self, kind: BatchKind, batch: RecordBatch) -> Result<()> {
        let permit = self.budget.take(batch.get_array_memory_size()).await?;
        self.parcels
            .send((kind, batch, permit))
            .await
            .map_err(|_| Error::new(ErrorKind::Destination, "staging has stopped"))
    }

    /// Waits until all is staged, and gives the slice back.
    ///
    /// # Errors
    /// What staging failed with; the slice is abandoned then.
    pub async fn finish(self) -> Result<Box<dyn Slice>> {
        drop(self.parcels);
        let (slice, outcome) = self
            .task
            .await
            .map_err(|e| Error::new(ErrorKind::Bug, "the staging task ended").source(e))?;
        match outcome {
            Ok(()) => Ok(slice),
            Err(error) => {
                // The first failure is the one to report.
                let _ = slice.abandon().await;
                Err(error)
            }
        }
    }
}
