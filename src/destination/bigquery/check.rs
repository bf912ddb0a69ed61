//! What the account may do in the dataset, tried out: every step does the real thing, on a table of
//! its own that is dropped again.

use serde_json::json;

use super::api::Query;
use super::{BigQuery, STAGING_PREFIX, sql, unique_mark};
use crate::error::{Error, Result};
use crate::schema::{Column, ColumnType};

/// One step of a check, and how it went.
#[derive(Debug)]
pub struct CheckStep {
    /// What was tried: `create a table`.
    pub what: &'static str,
    /// What was found out, or why it cannot be.
    pub result: Result<String>,
}

impl BigQuery {
    /// Tries what a run needs: reach the dataset, create a table, write to it, query it. Stops at the
    /// first step that fails; its error names the role that is missing. Leaves nothing behind, and
    /// does not create the dataset.
    pub async fn check(&self) -> Vec<CheckStep> {
        let mut steps = Vec::new();
        let mut step = |what, result: Result<String>| {
            let well = result.is_ok();
            steps.push(CheckStep { what, result });
            well
        };
        let api = self.api();
        let target = api.target();
        let found = api.dataset().await;
        let there = matches!(found, Ok(Some(_)));
        let reached = step(
            "reach the dataset",
            found.map(|dataset| match dataset {
                Some(d) => format!(
                    "`{target}` is there, in `{}`",
                    d["location"].as_str().unwrap_or("an unknown location")
                ),
                None => format!("`{target}` does not exist; the first run creates it"),
            }),
        );
        if !reached || !there {
            return steps;
        }
        let table = format!("{STAGING_PREFIX}check_{}", unique_mark());
        let went_on = self.try_table(&table, &mut step).await;
        if went_on {
            let query = Query {
                what: format!("query `{target}.{table}`"),
                sql: format!("SELECT COUNT(*) AS n FROM {}", self.quoted(&table)),
                parameters: vec![],
                labels: vec![("drawoff", "check")],
                transaction: false,
                names_job: false,
                mark: unique_mark(),
            };
            step(
                "run a query",
                api.query(&query).await.map(|_| "queries run".to_owned()),
            );
        }
        if let Err(error) = api.drop_table(&table).await {
            step("drop a table", Err(error));
        }
        steps
    }

    async fn try_table(
        &self,
        table: &str,
        step: &mut impl FnMut(&'static str, Result<String>) -> bool,
    ) -> bool {
        let api = self.api();
        let target = api.target();
        let hour = api.google().clock().now().as_millisecond() + 3_600_000;
        let body = json!({
            "schema": {"fields": super::shape::to_fields(&[Column::new(sql::SEQUENCE, ColumnType::Int64)])},
            "expirationTime": hour.to_string(),
        });
        let created = api
            .create_table(table, body)
            .await
            .and_then(|new| match new {
                true => Ok("tables can be created".to_owned()),
                false => Err(Error::destination(format!(
                    "table `{target}.{table}` is there already"
                ))),
            });
        if !step("create a table", created) {
            return false;
        }
        let written = async {
            let full = format!("{target}.{table}");
            let write = &self.0.write;
            let parent = target.table_path(table).join("/");
            let stream = write.create_pending(&parent, &full).await?;
            write.finalize(&stream, &full).await?;
            write.commit(&parent, &[stream], &full).await?;
            Ok("the Storage Write API takes rows".to_owned())
        }
        .await;
        step("write to a table", written)
    }
}
