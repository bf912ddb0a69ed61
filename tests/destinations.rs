//! What every destination must do, once for all of them: [`cases`], run against each [`Place`].
//!
//! Another destination joins with a [`Place`] and `conformance!(its_name, its_place())`.

pub mod bigquery;
pub mod cases;
pub mod changes;
mod kill;
mod parquet;
mod sqlite;

use async_trait::async_trait;
use drawoff::destination::Destination;
use drawoff::schema::TableSchema;
use serde_json::Value;

/// A place that destinations can be opened on, and that can be read without them.
#[async_trait]
pub trait Place: Send + Sync {
    /// A destination on this place. May be called often; all of them share what is there.
    async fn open(&self) -> Box<dyn Destination>;

    /// Every row of a table, as `schema::render` writes them, in any order; `None` when there is no
    /// such table. Reads by other means than the destination's own.
    async fn read(&self, table: &str, schema: &TableSchema) -> Option<Vec<Value>>;
}

/// Runs all cases against the place that the expression makes, a new one for each case.
macro_rules! conformance {
    ($name:ident, $place:expr) => {
        $crate::destinations::conformance!(@ $name, $place,
            append merge_replaces_by_key merge_keeps_the_newest merge_by_other_cursors
            merge_needs_keys merge_of_columns_that_are_all_key replace replace_removes_doubles
            rows_move_between_partitions rows_no_longer_listed_are_marked every_type rejects
            abandoned_and_dropped_slices_never_show forgotten_slices_never_show
            another_version_is_refused a_lost_answer_is_recognised one_slice_is_not_another
            new_columns_are_added columns_become_wider a_frozen_table_stays_as_it_is
            what_does_not_fit_is_refused checkpoints_come_back a_forgotten_checkpoint_is_none the_schema_comes_back
            two_destinations_on_one_place slices_at_the_same_time many_batches leases);
    };
    (@ $name:ident, $place:expr, $($case:ident)*) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let place = $place;
                    $crate::destinations::cases::$case(&place).await;
                }
            )*
        }
    };
}
pub(crate) use conformance;
