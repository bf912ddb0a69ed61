//! What became of the records of a slice, and what reading them cost.

use crate::destination::Published;
use crate::telemetry::Meter;

/// Records since the last publish.
#[derive(Default)]
pub(super) struct Tally {
    /// Received.
    pub read: u64,
    /// Of them, left out because the table has them already.
    pub skipped: u64,
    /// Of them, handed over as rows.
    pub staged: u64,
    /// Of them, handed over as rejects.
    pub rejected: u64,
}

impl Tally {
    /// Rows and rejects.
    pub fn handed_over(&self) -> u64 {
        self.staged + self.rejected
    }

    /// Whether the records read are those staged, rejected and left out; if not, what they are.
    pub fn check(&self) -> Result<(), String> {
        let Self {
            read,
            skipped,
            staged,
            rejected,
        } = self;
        match *read == staged + rejected + skipped {
            true => Ok(()),
            false => Err(format!(
                "{read} records were read, and {staged} were staged, {rejected} rejected and {skipped} left out as known; nothing was published"
            )),
        }
    }

    /// Whether the rows staged are those published, removed as duplicates and rejected; if not, what
    /// they are.
    pub fn check_published(&self, published: &Published) -> Result<(), String> {
        let (
            staged,
            Published {
                rows,
                deduplicated,
                rejected,
            },
        ) = (self.staged, published);
        match staged == rows + deduplicated + rejected {
            true => Ok(()),
            false => Err(format!(
                "{staged} rows were staged, and {rows} were published, {deduplicated} removed as duplicates and {rejected} rejected by the destination"
            )),
        }
    }
}

/// The stream's counters as they stood.
#[derive(Default)]
pub(super) struct Cost {
    pub bytes: u64,
    pub requests: u64,
    pub throttled: u64,
}

impl Cost {
    pub fn now(meter: &Meter) -> Self {
        Self {
            bytes: Meter::get(&meter.bytes),
            requests: Meter::get(&meter.requests),
            throttled: Meter::get(&meter.throttled),
        }
    }
}
