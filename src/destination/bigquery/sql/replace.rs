//! Replacing empties the table in the transaction that fills it. The table itself stays, and with it
//! its partitioning, clustering, descriptions, constraints, and policies.

/// Removes all rows. TRUNCATE reads and bills nothing, and needs no partition filter.
pub(super) fn empty(target: &str) -> String {
    format!("TRUNCATE TABLE {target};\n")
}
