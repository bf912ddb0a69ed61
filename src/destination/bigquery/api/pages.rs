//! Listings read page by page, and the rows in them.

use std::collections::HashMap;

use serde_json::Value;

use super::{Api, Rest};
use crate::google::Failure;

/// A row of an answer, by column name.
pub(in super::super) type Row = HashMap<String, Option<String>>;

impl Api {
    /// Hands over each page of a listing, whose answers name the following page in the field `next`.
    /// `false`: the listing goes round in circles, and was left.
    pub(super) async fn pages(
        &self,
        listing: Rest<'_>,
        next: &str,
        mut take: impl FnMut(&Value) + Send,
    ) -> Result<bool, Failure> {
        let mut token = String::new();
        loop {
            let mut query = listing.query.to_vec();
            if !token.is_empty() {
                query.push(("pageToken", token.as_str()));
            }
            let page = self
                .rest(Rest {
                    what: listing.what.clone(),
                    method: listing.method.clone(),
                    body: listing.body.clone(),
                    query: &query,
                    ..listing
                })
                .await?;
            take(&page);
            match page[next].as_str() {
                None | Some("") => return Ok(true),
                Some(same) if same == token => return Ok(false),
                Some(further) => token = further.to_owned(),
            }
        }
    }
}

/// Names of the columns of a table's resource, or of an answer.
pub(super) fn column_names(resource: &Value) -> Vec<&str> {
    resource["schema"]["fields"]
        .as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .map(|f| f["name"].as_str().unwrap_or_default())
        .collect()
}

/// The rows of a page of results, whose columns have those names.
pub(super) fn rows_of(answer: &Value, names: &[&str]) -> Vec<Row> {
    let rows = answer["rows"].as_array().map_or(&[][..], Vec::as_slice);
    rows.iter()
        .map(|row| {
            let cells = row["f"].as_array().map_or(&[][..], Vec::as_slice);
            names
                .iter()
                .zip(cells)
                .map(|(n, c)| ((*n).to_owned(), c["v"].as_str().map(str::to_owned)))
                .collect()
        })
        .collect()
}
