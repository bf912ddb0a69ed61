//! What becomes of fields and values that a stream's table has no fitting column for.

use crate::connector::{CursorField, Stream};
use crate::destination::TableSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::schema::decode::{Decoder, EXTRA_COLUMN};
use crate::schema::evolution::{adopt, type_of};
use crate::schema::grow::Rules;
use crate::schema::landing::{Contract, column};
use crate::schema::name::{self, Spoken};
use crate::schema::{TableSchema, infer};

/// The stream's contract: by default, columns that somebody has written down stay as they are, and
/// inferred ones evolve.
pub fn of(stream: &Stream) -> Contract {
    stream.table.contract.unwrap_or(match stream.schema {
        Some(_) => Contract::Discard,
        None => Contract::Evolve,
    })
}

/// Whether fields without a column are kept, in [`EXTRA_COLUMN`].
pub fn keeps_unknown(contract: Contract) -> bool {
    matches!(contract, Contract::Evolve | Contract::Json)
}

/// The columns that are known before a record is seen: those that the stream declares, or else its
/// table has; those of an evolving table beside the declared ones. `None` where there is neither.
pub fn columns(stream: &Stream, existing: Option<&TableSchema>) -> Option<TableSchema> {
    let contract = of(stream);
    let nothing = TableSchema::default();
    let mut columns = match (&stream.schema, existing) {
        (Some(declared), None) => declared.clone(),
        (Some(declared), Some(existing)) => adopt(declared, existing, contract == Contract::Evolve),
        (None, Some(existing)) => adopt(&nothing, existing, true),
        (None, None) => return None,
    };
    settle_extra(&mut columns, contract, stream.schema.is_some());
    Some(columns)
}

/// Gives inferred columns an [`EXTRA_COLUMN`], or takes it from them, as the contract wants.
pub fn inferred(mut columns: TableSchema, contract: Contract) -> TableSchema {
    // A field with a name of the engine's is one without a column.
    columns.columns.retain(|c| !column::is_own(&c.name));
    settle_extra(&mut columns, contract, false);
    columns
}

fn settle_extra(columns: &mut TableSchema, contract: Contract, declared: bool) {
    if keeps_unknown(contract) {
        if columns.column(EXTRA_COLUMN).is_none() {
            columns.columns.push(infer::extra());
        }
    } else if !declared {
        columns.columns.retain(|c| c.name != EXTRA_COLUMN);
    }
}

/// Names of columns that the connector has written down: the table must have them, however many fields the
/// records have, and they are those of the fields that are spelled so.
pub fn spoken(stream: &Stream) -> Spoken {
    let declared = stream.schema.iter().flat_map(|s| &s.columns);
    let mut names: Vec<String> = declared.map(|c| c.name.clone()).collect();
    names.extend(stream.primary_key.iter().cloned());
    if let Some(CursorField::Own(cursor)) = stream.incremental.as_ref().map(|i| &i.cursor) {
        names.push(cursor.clone());
    }
    names.extend(stream.table.partition.as_ref().map(|p| p.column.clone()));
    names.extend(stream.table.cluster_by.iter().cloned());
    let given = stream.add_columns.iter().map(|(name, _)| name.clone());
    Spoken::new(names, given.collect())
}

/// What stays as it is in an evolving table: what rows are found, ordered and stored by.
pub fn rules(table: &TableSpec, spoken: &Spoken) -> Rules {
    let mut fixed = table.primary_key.clone();
    fixed.extend(table.cursor.clone());
    fixed.extend(table.partition.as_ref().map(|p| p.column.clone()));
    fixed.extend(column::ALL.map(str::to_owned));
    Rules {
        spoken: spoken.clone(),
        fixed,
        clustered: table.cluster_by.clone(),
        no_wider: table.write_method.is_direct(),
    }
}

/// Whether everything so far fits a table that must not change; the decoder watches.
///
/// # Errors
/// [`ErrorKind::Schema`] naming stream, table and the fields.
pub fn check_frozen(decoder: &Decoder, stream: &str, spec: &TableSpec) -> Result<()> {
    let error = |text: String| Error::new(ErrorKind::Schema, text);
    let table = &spec.name;
    let fields = match decoder.unknown_fields().is_empty() {
        true => Vec::new(),
        false => decoder.news().fields(&spec.schema.columns),
    };
    let instead =
        "or say what is to become of new fields: `table: {contract: evolve}`, `discard` or `json`";
    match &fields[..] {
        [] => {}
        [(field, column)] => {
            let the = if field.is_empty() { "" } else { "the field " };
            return Err(error(format!(
                "a record of stream `{stream}` has {the}{}, which table `{table}` has no column for, and its contract is `freeze`",
                name::shown(field)
            ))
            .hint(format!(
                "add the column to the stream's schema file and to the table (its values look like {}), {instead}",
                type_of(column)
            )));
        }
        fields => {
            let names: Vec<String> = fields.iter().map(|(field, _)| field.clone()).collect();
            return Err(error(format!(
                "records of stream `{stream}` have fields that table `{table}` has no columns for, and its contract is `freeze`: {}",
                name::listed(&names)
            ))
            .hint(format!(
                "add the columns to the stream's schema file and to the table (`drawoff schema --infer` proposes them), {instead}"
            )));
        }
    }
    if let Some((path, reason)) = decoder.first_reject() {
        let place = match path {
            "" => String::new(),
            path => format!(" at `{path}`"),
        };
        return Err(error(format!(
            "a record of stream `{stream}` does not fit table `{table}`{place}: {reason}; and its contract is `freeze`"
        ))
        .hint("correct the column's type in the schema file and the table, or let such records go to the rejects table (`table: {contract: discard}`) or the table change (`evolve`)"));
    }
    Ok(())
}
