//! The write stream of `write_method: stream`: committed, so rows show when they are acknowledged, with
//! offsets, so none is written twice.

use gcloud_sdk::google::cloud::bigquery::storage::v1 as proto;
use proto::write_stream::Type;

use super::super::BigQuery;
use super::super::write::{Encoder, StreamWriter};
use crate::destination::TableSpec;
use crate::error::{Error, Result};
use crate::schema::{Column, arrow_schema};

/// How often the write API is asked for a table's columns before it must know all of them: about two
/// minutes.
const MOST_LOOKS: u32 = 12;

/// Opens a stream of the table. Columns that were just added are waited for.
pub(super) async fn open(to: &BigQuery, spec: &TableSpec) -> Result<StreamWriter> {
    let inner = &to.0;
    let target = inner.api.target();
    let table = format!("{target}.{}", spec.name);
    let parent = target.table_path(&spec.name).join("/");
    let mut looks = 1;
    loop {
        let stream = inner.write.create(&parent, &table, Type::Committed).await?;
        let known = stream.table_schema.map(|s| s.fields).unwrap_or_default();
        if known.is_empty() || has_all(&known, &spec.schema.columns) {
            let encoder = Encoder::plain(&arrow_schema(&spec.schema))?;
            return Ok(StreamWriter::of(
                inner.write.clone(),
                table,
                stream.name,
                encoder,
                inner.limits,
            ));
        }
        // Nobody will write to this one.
        inner.write.end(&stream.name, &table).await?;
        if looks == MOST_LOOKS {
            return Err(Error::destination(format!(
                "columns were added to table `{table}`, and the Storage Write API does not know them yet"
            ))
            .transient(true)
            .hint("run again in some minutes"));
        }
        inner.write.pause(looks).await;
        looks += 1;
    }
}

/// Whether the write API knows every column, nested ones included.
fn has_all(known: &[proto::TableFieldSchema], wanted: &[Column]) -> bool {
    wanted.iter().all(|column| {
        known
            .iter()
            .find(|k| k.name.eq_ignore_ascii_case(&column.name))
            .is_some_and(|k| has_all(&k.fields, &column.fields))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::ColumnType;

    #[test]
    fn every_column_must_be_known() {
        let field = |name: &str, fields: Vec<proto::TableFieldSchema>| proto::TableFieldSchema {
            name: name.into(),
            fields,
            ..Default::default()
        };
        let known = [field("A", vec![]), field("r", vec![field("x", vec![])])];
        let a = Column::new("a", ColumnType::Int64);
        let r = |inner: &str| {
            Column::new("r", ColumnType::Record).fields(vec![Column::new(inner, ColumnType::Int64)])
        };
        assert!(has_all(&known, &[a.clone(), r("x")]));
        assert!(!has_all(&known, &[r("y")]));
        assert!(!has_all(&known, &[a, Column::new("b", ColumnType::Int64)]));
    }
}
