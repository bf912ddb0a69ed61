//! What was tried before a run, for whoever shows it.

use crate::error::{Error, worst_exit_code};

/// What was tried, in order.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// One for each thing tried.
    pub items: Vec<CheckItem>,
}

/// One thing tried.
#[derive(Debug)]
pub struct CheckItem {
    /// What: "secret `token`", "stream `tickets`", "destination".
    pub what: String,
    /// What came of it.
    pub outcome: CheckOutcome,
}

/// What came of a try.
#[derive(Debug)]
pub enum CheckOutcome {
    /// It works; what was seen, as a clause: `25 records, 3 of them do not fit`.
    Passed(String),
    /// It does not, and how to mend it.
    Failed(Error),
    /// Not tried because of something else, as a clause.
    Skipped(String),
}

impl CheckReport {
    /// 0 when nothing failed, else the worst of the failures'.
    pub fn exit_code(&self) -> u8 {
        worst_exit_code(self.items.iter().map(|item| match &item.outcome {
            CheckOutcome::Failed(e) => e.exit_code(),
            CheckOutcome::Passed(_) | CheckOutcome::Skipped(_) => 0,
        }))
    }
}
