//! Every statement sent to BigQuery, as text. Pure: identifiers are quoted here, values never appear
//! (they go as query parameters).
//!
//! | module | owns |
//! |---|---|
//! | `publish` | the frame of the one transaction: checks, rows, rejects, checkpoint |
//! | `merge` `replace` `history` | what becomes of the rows already there |
//! | `positions` | the partitions in which they lie |
//! | `staged` | which staged rows count, and what is selected of them |
//! | `records` | RECORDs as the table has them |
//! | `unfit` | staged rows that the table would refuse |
//! | `checkpoints` | the table of checkpoints |
//! | `lease` | the table of leases |
//! | `audit` | the tables of loads and runs |

pub(super) mod audit;
mod checkpoints;
mod history;
mod lease;
#[cfg(test)]
pub(super) mod lexical;
mod merge;
pub(super) mod positions;
mod publish;
mod records;
mod replace;
mod staged;
#[cfg(test)]
mod tests;
pub(super) mod unfit;

pub(super) use audit::{parameter, record_runs, run_parameter, triggered};
pub(super) use checkpoints::{checkpoint_columns, forget, last_publish, seed};
pub(super) use lease::{acquire, lease_columns, other as other_holder, release, renew, seed_lease};
pub(super) use publish::{Publish, answer, publish};

use crate::schema::Column;

/// Column of a staging table: the order in which rows were staged.
pub(super) const SEQUENCE: &str = "_seq";

/// A quoted identifier.
pub(super) fn ident(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len() + 2);
    quoted.push('`');
    for c in name.chars() {
        if matches!(c, '`' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('`');
    quoted
}

/// Gives a top-level column a wider type, as DDL writes it: a change of the catalogue, no row is touched.
pub(super) fn widen(table: &str, column: &str, to: &str) -> String {
    format!(
        "ALTER TABLE {table} ALTER COLUMN {} SET DATA TYPE {to}",
        ident(column)
    )
}

/// A quoted table name.
pub(super) fn table(project: &str, dataset: &str, name: &str) -> String {
    format!("{}.{}.{}", ident(project), ident(dataset), ident(name))
}

/// Quoted names, separated by commas.
fn list(columns: &[Column]) -> String {
    let names: Vec<String> = columns.iter().map(|c| ident(&c.name)).collect();
    names.join(", ")
}

/// A column set to a value, in an UPDATE.
fn assign(column: &str, value: &str) -> String {
    format!("{} = {value}", ident(column))
}
