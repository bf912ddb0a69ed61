//! How a stream's rows land in its table: what connectors declare and destinations carry out.

use serde::{Deserialize, Serialize};

/// What publishing a slice does to the rows already there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// Adds the rows.
    #[default]
    Append,
    /// Replaces the rows with the same primary key, adds the others.
    Merge,
    /// The slice's rows become the whole table.
    Replace,
    /// Keeps history (a slowly changing dimension of type 2): a row that differs from the current
    /// one with its primary key is added, and the current one ends where it begins.
    Scd2,
}

impl Disposition {
    /// Its name in a connector.
    pub fn word(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Merge => "merge",
            Self::Replace => "replace",
            Self::Scd2 => "scd2",
        }
    }

    /// Whether a row takes the place of another by its primary key, so that reading it twice does no
    /// harm and rows need one.
    pub fn is_keyed(self) -> bool {
        matches!(self, Self::Merge | Self::Scd2)
    }
}

/// By which of BigQuery's doors rows come in. Other destinations have one, and take all four alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteMethod {
    /// Storage Write API (gRPC), a pending stream into a staging table.
    #[default]
    StorageWrite,
    /// A load job into a staging table: free, and minutes rather than seconds.
    LoadJob,
    /// Storage Write API (gRPC), a committed stream straight into the table: rows show within seconds.
    Stream,
    /// Storage Write API (REST), `tabledata.insertAll`, straight into the table: where gRPC cannot go.
    InsertAll,
}

impl WriteMethod {
    /// Its name in a connector.
    pub fn word(self) -> &'static str {
        match self {
            Self::StorageWrite => "storage_write",
            Self::LoadJob => "load_job",
            Self::Stream => "stream",
            Self::InsertAll => "insert_all",
        }
    }

    /// Whether rows go straight into the table and show before their slice is published.
    pub fn is_direct(self) -> bool {
        matches!(self, Self::Stream | Self::InsertAll)
    }
}

/// What becomes of a field that the table has no fitting column for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contract {
    /// The table gets a column for it, or a wider one.
    Evolve,
    /// The stream fails, and the table stays as it is.
    Freeze,
    /// It is left out, and named in the report.
    Discard,
    /// It goes into the one JSON column `_extra`.
    Json,
}

/// What becomes of rows in the table whose primary key a slice lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Absent {
    /// They stay as they are: the slice does not hold all that there is.
    #[default]
    Keep,
    /// The slice holds all that there is, so they are gone from the source: they get an end
    /// ([`column::DELETED_AT`], [`column::VALID_TO`]).
    Close,
}

/// Time partitioning of a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Partitioning {
    /// Top-level DATE, DATETIME or TIMESTAMP column.
    pub column: String,
    /// Size of a partition.
    pub unit: PartitionUnit,
    /// The column's value never changes for a primary key (`created_at`), so that a merge need look for
    /// a row in the partition of the new one only.
    pub fixed: bool,
}

/// Size of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PartitionUnit {
    /// An hour; not for DATE columns.
    Hour,
    /// A day.
    #[default]
    Day,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl PartitionUnit {
    /// BigQuery's word for it.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Hour => "HOUR",
            Self::Day => "DAY",
            Self::Month => "MONTH",
            Self::Year => "YEAR",
        }
    }
}

/// Names of the columns that the engine adds.
pub mod column {
    /// When the row's page was received.
    pub const EXTRACTED_AT: &str = "_extracted_at";
    /// The run that received it.
    pub const RUN_ID: &str = "_run_id";
    /// The slice that it came with, where rows go straight into the table: `RUN/SLICE`.
    pub const SLICE_ID: &str = "_slice_id";
    /// When the source no longer had the row, in tables with soft deletes.
    pub const DELETED_AT: &str = "_deleted_at";
    /// Since when a version holds, in tables with history. Staged rows have the time at which their page
    /// was received; in the table it is that of the last page of their slice.
    pub const VALID_FROM: &str = "_valid_from";
    /// Until when (exclusive) a version held; null for the current one.
    pub const VALID_TO: &str = "_valid_to";
    /// Tells versions of a row apart, in tables with history.
    pub const ROW_HASH: &str = "_row_hash";

    /// All of them.
    pub const ALL: [&str; 7] = [
        EXTRACTED_AT,
        RUN_ID,
        SLICE_ID,
        DELETED_AT,
        VALID_FROM,
        VALID_TO,
        ROW_HASH,
    ];

    /// Those that say something of a row as it was last written. A stream may stop to write them; then the
    /// rows that it updates have nulls there, since what they said is no longer so.
    pub const OF_LAST_WRITE: [&str; 4] = [EXTRACTED_AT, RUN_ID, SLICE_ID, DELETED_AT];

    /// Whether the column says so.
    pub fn is_of_last_write(name: &str) -> bool {
        OF_LAST_WRITE
            .iter()
            .any(|own| own.eq_ignore_ascii_case(name))
    }

    /// Whether the name is one of them.
    pub fn is_own(name: &str) -> bool {
        ALL.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}
