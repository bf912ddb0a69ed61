//! A table of the dataset, made or brought to the shape that a stream wants.

use serde_json::{Value, json};

use super::api::Query;
use super::{BigQuery, shape, spec, sql, unique_mark};
use crate::destination::TableSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::schema::evolution::{self, Change};
use crate::schema::{Column, TableSchema, name};

impl BigQuery {
    /// The resource that a table should have, but for its columns.
    pub(super) fn resource_of(table: &TableSpec) -> Value {
        let mut body = json!({
            "description": shape::table_description(&table.description),
            "labels": {"drawoff": "table"},
        });
        if let Some(partition) = &table.partition {
            body["timePartitioning"] =
                json!({"type": partition.unit.sql(), "field": partition.column});
        }
        if !table.cluster_by.is_empty() {
            body["clustering"] = json!({"fields": table.cluster_by});
        }
        body
    }

    /// Makes a table exist with those columns and the rest of its resource, or brings it there; what
    /// changed. `frozen`: one that is there must not change.
    pub(super) async fn ensure_table(
        &self,
        table: &str,
        columns: &[Column],
        body: Value,
        frozen: bool,
    ) -> Result<Vec<String>> {
        let mut said = Vec::new();
        match self.bring(table, columns, body, frozen, &mut said).await {
            Ok(()) => Ok(said),
            Err(e) => {
                // They are done, whatever became of the rest.
                for change in said {
                    tracing::warn!(table, "{change}, before another change of it failed");
                }
                Err(e)
            }
        }
    }

    /// As [`Self::ensure_table`]; `said` are the changes that are done.
    async fn bring(
        &self,
        table: &str,
        columns: &[Column],
        mut body: Value,
        frozen: bool,
        said: &mut Vec<String>,
    ) -> Result<()> {
        let columns = &shape::described(columns)[..];
        let full = format!("{}.{table}", self.api().target());
        // Another run may change the table between reading and patching it; then it is read again.
        for _ in 0..10 {
            let Some(resource) = self.api().table(table).await? else {
                let schema = TableSchema {
                    columns: columns.to_vec(),
                };
                spec::check_size(table, columns)?;
                body["schema"] = json!({"fields": shape::to_fields(columns)});
                if self.api().create_table(table, body.clone()).await? {
                    said.push(evolution::made(table, &schema));
                    return Ok(());
                }
                continue;
            };
            if let Some(kind) = resource["type"].as_str().filter(|k| *k != "TABLE") {
                return Err(Error::new(
                    ErrorKind::Schema,
                    format!("table `{full}` is a {kind}, not a table that takes rows"),
                ));
            }
            let existing = resource["schema"]["fields"].as_array();
            let evolved = shape::evolve(&full, existing.map_or(&[], Vec::as_slice), columns)?;
            let mut patch = self.patch(table, &resource, &body)?;
            if frozen {
                return match evolved.changes.is_empty() {
                    true => Ok(()),
                    false => Err(evolution::frozen(&full, &evolved.changes)),
                };
            }
            spec::check_size(table, &evolved.schema.columns)?;
            let wider = |c: &&Change| matches!(c, Change::Widened { .. });
            let widened = evolved.changes.iter().filter(wider);
            if said.is_empty() && widened.clone().count() > 0 {
                for change in widened {
                    self.widen(table, change).await?;
                    said.push(change.done(table));
                }
                // The table's tag is another now.
                continue;
            }
            if let Some(fields) = evolved.fields {
                patch["schema"] = json!({"fields": fields});
            }
            if patch.as_object().is_none_or(serde_json::Map::is_empty) {
                return Ok(());
            }
            let etag = resource["etag"].as_str();
            let Some(patched) = self.api().patch_table(table, etag, &patch).await? else {
                continue;
            };
            let fields = patched["schema"]["fields"].as_array();
            let lacking = shape::lacking(fields.map_or(&[], Vec::as_slice), columns);
            let others = evolved.changes.iter().filter(|c| !wider(c));
            let done = others.filter(|c| !lacking.iter().any(|l| l == c.path()));
            said.extend(done.map(|c| c.done(table)));
            return match lacking.is_empty() {
                true => Ok(()),
                false => Err(lost(&full, &lacking)),
            };
        }
        Err(
            Error::destination(format!("table `{full}` is changed by others all the time"))
                .transient(true),
        )
    }

    /// Gives a column a wider type, which only a statement can.
    async fn widen(&self, table: &str, change: &Change) -> Result<()> {
        let Change::Widened { path, from, to } = change else {
            return Ok(());
        };
        let query = Query {
            what: format!(
                "widen column `{path}` of table `{}.{table}` from {from} to {to}",
                self.api().target()
            ),
            sql: sql::widen(&self.quoted(table), path, to),
            parameters: Vec::new(),
            labels: vec![("drawoff", "widen")],
            transaction: false,
            names_job: false,
            mark: unique_mark(),
        };
        self.api().query(&query).await.map(|_| ()).map_err(|e| match e.find_hint() {
            Some(_) => e,
            None => e.hint("BigQuery changes no column of a table that rows were streamed into within the last hours: run again later, or change the column by hand"),
        })
    }

    /// What must change in a table's resource, its columns aside; an empty object when nothing.
    pub(super) fn patch(&self, table: &str, resource: &Value, wanted: &Value) -> Result<Value> {
        let refuse = |text: String| {
            Err(Error::new(
                ErrorKind::Schema,
                format!("table `{}.{table}` {text}", self.api().target()),
            ))
        };
        let mut patch = json!({});
        let description = &wanted["description"];
        if description.as_str().is_some_and(|d| !d.is_empty())
            && resource["description"] != *description
        {
            patch["description"] = description.clone();
        }
        let (there, partition) = (&resource["timePartitioning"], &wanted["timePartitioning"]);
        if !partition.is_null() {
            let same = there["field"]
                .as_str()
                .zip(partition["field"].as_str())
                .is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
                && there["type"] == partition["type"];
            if !same {
                let now = match (there["type"].as_str(), there["field"].as_str()) {
                    (Some(kind), Some(field)) => format!("by {kind} of `{field}`"),
                    (Some(kind), None) => format!("by {kind} of arrival"),
                    _ => "not at all".to_owned(),
                };
                return refuse(format!(
                    "is partitioned {now}, and the stream wants it by {} of `{}`",
                    partition["type"].as_str().unwrap_or_default(),
                    partition["field"].as_str().unwrap_or_default()
                ))
                .map_err(|e| e.hint("BigQuery fixes partitioning when a table is made: correct `partition_by`, give the stream another table, or make the table anew"));
            }
        }
        if !wanted["clustering"].is_null()
            && resource["clustering"]["fields"] != wanted["clustering"]["fields"]
        {
            patch["clustering"] = wanted["clustering"].clone();
        }
        Ok(patch)
    }
}

/// The error for columns that a table was given and does not have.
fn lost(table: &str, columns: &[String]) -> Error {
    Error::destination(format!(
        "columns were added to table `{table}`, and it does not have them: {}",
        name::listed(columns)
    ))
    .hint("run again; if the table still lacks them, add them by hand, or leave them out of the stream's schema")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_a_table_did_not_take_are_named() {
        let error = lost("p.d.t", &["a".into(), "r.b".into()]);
        assert_eq!(
            error.to_string(),
            "columns were added to table `p.d.t`, and it does not have them: `a`, `r.b`"
        );
        assert!(error.find_hint().unwrap().starts_with("run again"));
    }
}
