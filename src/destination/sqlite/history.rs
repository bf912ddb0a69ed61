//! Rows that are no longer what they were: versions of a row, and rows that the source has no longer.
//!
//! All that a slice begins and ends in a table with history does so at one moment, when its last page was
//! received: who looks at the table as of any time sees all of a slice or nothing of it.

use rusqlite::{Connection, Transaction};

use super::ddl::{list, quoted};
use super::publish::winners;
use crate::destination::{Disposition, TableSpec};
use crate::schema::landing::column::{DELETED_AT, ROW_HASH, VALID_FROM, VALID_TO};

/// Now, as the other times in the database are written.
const NOW: &str = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')";

/// The condition that `new` and `old` have the same key.
fn same_key(table: &TableSpec) -> String {
    let equal: Vec<String> = table
        .primary_key
        .iter()
        .map(|k| format!("new.{0} = old.{0}", quoted(k)))
        .collect();
    equal.join(" AND ")
}

/// The last moment of the staged rows; null where there are none.
const MOMENT: &str = "(SELECT max(_valid_from) FROM staging.rows)";

/// Has all staged rows begin at one moment.
pub fn date(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(&format!(
        "UPDATE staging.rows SET {} = {MOMENT}",
        quoted(VALID_FROM)
    ))
}

/// Ends current versions that staged rows differ from, and adds the staged rows that have no current
/// version then; their number.
pub fn publish(tx: &Transaction<'_>, table: &TableSpec, losers: u64) -> rusqlite::Result<u64> {
    let target = quoted(&table.name);
    let (key, winners) = (same_key(table), winners(losers));
    let (from, to, hash) = (quoted(VALID_FROM), quoted(VALID_TO), quoted(ROW_HASH));
    tx.execute(
        &format!(
            "UPDATE main.{target} AS old SET {to} = new.{from} FROM staging.rows AS new
             WHERE {winners} AND {key} AND old.{to} IS NULL AND old.{hash} IS NOT new.{hash}"
        ),
        [],
    )?;
    let columns = list(table.schema.columns.iter().map(|c| c.name.as_str()));
    let added = tx.execute(
        &format!(
            "INSERT INTO main.{target} ({columns}) SELECT {columns} FROM staging.rows AS new
             WHERE {winners} AND NOT EXISTS (
               SELECT 1 FROM main.{target} AS old WHERE {key} AND old.{to} IS NULL)"
        ),
        [],
    )?;
    Ok(added as u64)
}

/// How many of the staged rows a publish that went through before has added: versions that begin where
/// they do.
pub fn published(tx: &Transaction<'_>, table: &TableSpec, losers: u64) -> rusqlite::Result<u64> {
    tx.query_row(
        &format!(
            "SELECT count(*) FROM staging.rows AS new WHERE {} AND EXISTS (
               SELECT 1 FROM main.{} AS old WHERE {} AND old.{from} = new.{from} AND old.{hash} = new.{hash})",
            winners(losers),
            quoted(&table.name),
            same_key(table),
            from = quoted(VALID_FROM),
            hash = quoted(ROW_HASH),
        ),
        [],
        |r| r.get(0).map(i64::unsigned_abs),
    )
}

/// Gives the rows without an end whose key is not staged one: in a table with history the moment, where
/// rows were received.
pub fn close_unlisted(tx: &Transaction<'_>, table: &TableSpec) -> rusqlite::Result<()> {
    let (end, at) = match table.disposition {
        Disposition::Scd2 => (quoted(VALID_TO), format!("ifnull({MOMENT}, {NOW})")),
        _ => (quoted(DELETED_AT), NOW.to_owned()),
    };
    tx.execute(
        &format!(
            "UPDATE main.{} AS old SET {end} = {at} WHERE old.{end} IS NULL
             AND NOT EXISTS (SELECT 1 FROM staging.rows AS new WHERE {})",
            quoted(&table.name),
            same_key(table)
        ),
        [],
    )?;
    Ok(())
}
