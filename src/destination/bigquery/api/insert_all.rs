//! The Storage Write API's REST face, `tabledata.insertAll`.

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::{Api, Rest, explain};
use crate::error::Error;
use crate::google::Failure;

impl Api {
    /// Sends rows straight into a table, once; again where the answer was lost, which rows with an
    /// `insertId` mostly forgive. An answer of status 200 may speak of rows that were refused.
    pub(in super::super) async fn insert_all(
        &self,
        table: &str,
        body: Bytes,
    ) -> Result<Value, Failure> {
        let target = self.target();
        let mut path = target.table_path(table).to_vec();
        path.push("insertAll");
        self.rest(Rest {
            what: format!("insert rows into `{target}.{table}`"),
            method: Method::POST,
            path: &path,
            query: &[],
            body: Some(body),
            if_match: None,
        })
        .await
    }

    /// A failed insert as the crate's error.
    pub(in super::super) fn not_inserted(&self, failure: Failure) -> Error {
        let on = format!("dataset `{}`", self.target());
        explain(failure, "roles/bigquery.dataEditor", &on)
    }
}
