//! The dataset and its tables.

use http::Method;
use serde_json::{Value, json};

use super::pages::{Row, column_names, rows_of};
use super::{Api, Rest, explain};
use crate::error::{Error, ErrorKind, Result};
use crate::google::Failure;

pub(super) const EDITOR: &str = "roles/bigquery.dataEditor";

/// Where a dataset is made when nobody says where.
pub(super) const DEFAULT_LOCATION: &str = "US";

impl Api {
    pub(super) fn dataset_name(&self) -> String {
        let target = self.target();
        format!("`{}.{}`", target.project, target.dataset)
    }

    fn table_name(&self, table: &str) -> String {
        let target = self.target();
        format!("`{}.{}.{table}`", target.project, target.dataset)
    }

    fn explain(&self, failure: Failure) -> Error {
        explain(failure, EDITOR, &format!("dataset {}", self.dataset_name()))
    }

    /// The dataset's resource, or `None` where there is none.
    pub(in super::super) async fn dataset(&self) -> Result<Option<Value>> {
        let target = self.target();
        let answer = self
            .rest(Rest {
                what: format!("read dataset {}", self.dataset_name()),
                method: Method::GET,
                path: &["projects", &target.project, "datasets", &target.dataset],
                query: &[],
                body: None,
                if_match: None,
            })
            .await;
        found(answer).map_err(|f| self.explain(f))
    }

    /// The dataset's location, in which every job must run.
    ///
    /// # Errors
    /// [`ErrorKind::Destination`] where there is no dataset.
    pub(in super::super) async fn location(&self) -> Result<&str> {
        self.0
            .location
            .get_or_try_init(|| async {
                let dataset = self.dataset().await?.ok_or_else(|| {
                    Error::destination(format!("dataset {} does not exist", self.dataset_name()))
                        .hint("a run creates it; check the project and the dataset's name")
                })?;
                self.location_of(&dataset)
            })
            .await
            .map(String::as_str)
    }

    fn location_of(&self, dataset: &Value) -> Result<String> {
        let location = dataset["location"].as_str().ok_or_else(|| {
            Error::destination(format!(
                "dataset {} was read without its location",
                self.dataset_name()
            ))
        })?;
        if let Some(wanted) = &self.0.new_location
            && !wanted.eq_ignore_ascii_case(location)
        {
            tracing::warn!(
                "dataset {} is in `{location}` and stays there: `bigquery: {{location: {wanted}}}` is for one that has to be made",
                self.dataset_name()
            );
        }
        Ok(location.to_owned())
    }

    /// Makes the dataset where there is none, and learns its location.
    pub(in super::super) async fn ensure_dataset(&self) -> Result<()> {
        self.0
            .location
            .get_or_try_init(|| async {
                if let Some(dataset) = self.dataset().await? {
                    return self.location_of(&dataset);
                }
                let location = self.new_location();
                let target = self.target();
                let body = json!({
                    "datasetReference": {"projectId": target.project, "datasetId": target.dataset},
                    "location": location,
                    "description": "Rows that drawoff has drawn off APIs.",
                });
                let answer = self
                    .rest(Rest {
                        what: format!("create dataset {} in `{location}`", self.dataset_name()),
                        method: Method::POST,
                        path: &["projects", &target.project, "datasets"],
                        query: &[],
                        body: Some(body.to_string().into()),
                        if_match: None,
                    })
                    .await;
                match answer {
                    Ok(dataset) => self.location_of(&dataset),
                    // Another run was faster, or our first answer was lost.
                    Err(f) if f.is_duplicate() => match self.dataset().await? {
                        Some(dataset) => self.location_of(&dataset),
                        None => Err(self.explain(f)),
                    },
                    Err(f) => Err(explain(
                        f,
                        "roles/bigquery.user",
                        &format!("project `{}`", target.project),
                    )),
                }
            })
            .await
            .map(|_| ())
    }

    /// A table's resource, or `None` where there is none.
    pub(in super::super) async fn table(&self, table: &str) -> Result<Option<Value>> {
        let target = self.target();
        let answer = self
            .rest(Rest {
                what: format!("read table {}", self.table_name(table)),
                method: Method::GET,
                path: &target.table_path(table),
                query: &[],
                body: None,
                if_match: None,
            })
            .await;
        found(answer).map_err(|f| self.explain(f))
    }

    /// Every row of a table, read without a job; `None` where there is no such table. For small tables
    /// of columns that are not nested.
    pub(in super::super) async fn table_rows(&self, table: &str) -> Result<Option<Vec<Row>>> {
        let Some(resource) = self.table(table).await? else {
            return Ok(None);
        };
        let names = column_names(&resource);
        let mut path = self.target().table_path(table).to_vec();
        path.push("data");
        let data = Rest {
            what: format!("read the rows of table {}", self.table_name(table)),
            method: Method::GET,
            path: &path,
            query: &[("maxResults", "1000")],
            body: None,
            if_match: None,
        };
        let mut rows = Vec::new();
        self.pages(data, "pageToken", |page| rows.extend(rows_of(page, &names)))
            .await
            .map_err(|f| self.explain(f))?;
        Ok(Some(rows))
    }

    /// Makes a table of that resource, whose reference is filled in. `false`: one is there already.
    /// One at a time: BigQuery takes ten a second of a project.
    pub(in super::super) async fn create_table(
        &self,
        table: &str,
        mut body: Value,
    ) -> Result<bool> {
        let _one_at_a_time = self.0.creating.lock().await;
        let target = self.target();
        body["tableReference"] = json!({
            "projectId": target.project,
            "datasetId": target.dataset,
            "tableId": table,
        });
        let answer = self
            .rest(Rest {
                what: format!("create table {}", self.table_name(table)),
                method: Method::POST,
                path: &target.tables_path(),
                query: &[],
                body: Some(body.to_string().into()),
                if_match: None,
            })
            .await;
        match answer {
            Ok(_) => Ok(true),
            Err(f) if f.is_duplicate() => Ok(false),
            Err(f) => Err(self.explain(f)),
        }
    }

    /// Changes what `patch` names in a table that is still as `etag` says. `None`: it is not.
    pub(in super::super) async fn patch_table(
        &self,
        table: &str,
        etag: Option<&str>,
        patch: &Value,
    ) -> Result<Option<Value>> {
        let target = self.target();
        let answer = self
            .rest(Rest {
                what: format!("change table {}", self.table_name(table)),
                method: Method::PATCH,
                path: &target.table_path(table),
                query: &[],
                body: Some(patch.to_string().into()),
                if_match: etag,
            })
            .await;
        match answer {
            Ok(resource) => Ok(Some(resource)),
            Err(f) if f.is_precondition() => Ok(None),
            Err(f) => Err(self.explain(f)),
        }
    }

    /// Removes a table. One that is not there is fine.
    pub(in super::super) async fn drop_table(&self, table: &str) -> Result<()> {
        let target = self.target();
        let answer = self
            .rest(Rest {
                what: format!("drop table {}", self.table_name(table)),
                method: Method::DELETE,
                path: &target.table_path(table),
                query: &[],
                body: None,
                if_match: None,
            })
            .await;
        found(answer).map(|_| ()).map_err(|f| self.explain(f))
    }

    /// Names and creation times (milliseconds since 1970) of the tables whose name starts so.
    pub(in super::super) async fn tables_named(&self, prefix: &str) -> Result<Vec<(String, i64)>> {
        let target = self.target();
        let list = Rest {
            what: format!("list the tables of {}", self.dataset_name()),
            method: Method::GET,
            path: &target.tables_path(),
            query: &[("maxResults", "1000")],
            body: None,
            if_match: None,
        };
        let mut found = Vec::new();
        let ended = self
            .pages(list, "nextPageToken", |page| {
                for table in page["tables"].as_array().map_or(&[][..], Vec::as_slice) {
                    let name = table["tableReference"]["tableId"]
                        .as_str()
                        .unwrap_or_default();
                    let created = table["creationTime"].as_str().and_then(|t| t.parse().ok());
                    if let (true, Some(created)) = (name.starts_with(prefix), created) {
                        found.push((name.to_owned(), created));
                    }
                }
            })
            .await
            .map_err(|f| self.explain(f))?;
        if !ended {
            return Err(Error::new(
                ErrorKind::Destination,
                format!(
                    "the list of tables of {} goes round in circles",
                    self.dataset_name()
                ),
            ));
        }
        Ok(found)
    }
}

fn found(answer: Result<Value, Failure>) -> Result<Option<Value>, Failure> {
    match answer {
        Ok(resource) => Ok(Some(resource)),
        Err(f) if f.is_not_found() => Ok(None),
        Err(f) => Err(f),
    }
}
