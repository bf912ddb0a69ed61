//! A made-up shop's API and connector: lists by page number, filtered by when a record changed.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::fake_api::{Received, Reply};
use super::tables::Row;

/// Records of one list, which a test may change while they are served.
#[derive(Clone, Default)]
pub struct Shelf(Arc<Mutex<Vec<Value>>>);

impl Shelf {
    /// Records 1 to `count`, each changed a minute after the one before.
    pub fn of(count: i64) -> Self {
        let shelf = Self::default();
        shelf.change(|rows| rows.extend((1..=count).map(|id| item(id, id))));
        shelf
    }

    /// Changes the records.
    pub fn change(&self, how: impl FnOnce(&mut Vec<Value>)) {
        how(&mut self.0.lock().unwrap());
    }

    /// The records as they are.
    pub fn rows(&self) -> Vec<Value> {
        self.0.lock().unwrap().clone()
    }

    /// The page that is asked for by `page` and `per_page`, of the records whose `updated_at` lies
    /// between `since` and `until`, both included, in the order of `updated_at`.
    pub fn serve(&self, request: &Received) -> Reply {
        let mut rows = self.rows();
        rows.sort_by_key(|row| (text(row, "updated_at"), row["id"].as_i64()));
        let param = |name: &str| request.param(name).filter(|v| !v.is_empty());
        if let Some(since) = param("since") {
            rows.retain(|row| text(row, "updated_at") >= since);
        }
        if let Some(until) = param("until") {
            rows.retain(|row| text(row, "updated_at") <= until);
        }
        page(&rows, request)
    }
}

fn text(row: &Value, field: &str) -> String {
    row[field].as_str().unwrap_or_default().to_owned()
}

/// `{"data": […], "total": N, "total_pages": P}` by `page` (from 1) and `per_page` (default 10).
pub fn page(rows: &[Value], request: &Received) -> Reply {
    let page = request.number_param("page").unwrap_or(1).max(1);
    let size = request.number_param("per_page").unwrap_or(10).max(1);
    Reply::json(&json!({
        "data": rows.chunks(size).nth(page - 1).unwrap_or_default(),
        "total": rows.len(),
        "total_pages": rows.len().div_ceil(size),
    }))
}

/// A record, changed so many minutes into 2026.
pub fn item(id: i64, minute: i64) -> Value {
    json!({
        "id": id,
        "name": format!("item {id}"),
        "price": id * 10,
        "updated_at": time(minute),
    })
}

/// So many minutes into 2026.
pub fn time(minute: i64) -> String {
    let start: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    (start + jiff::SignedDuration::from_mins(minute)).to_string()
}

/// Columns of the records.
pub const COLUMNS: [&str; 4] = [
    "id INT64 REQUIRED",
    "name STRING",
    "price INT64",
    "updated_at TIMESTAMP",
];

/// A connector for a shop at `url` with these streams, each a line of YAML.
pub fn connector(url: &url::Url, streams: &[&str]) -> String {
    let streams: String = streams.iter().map(|s| format!("  {s}\n")).collect();
    format!(
        "title: Shop\n\
         base_url: {}\n\
         pagination: {{page: {{size_param: per_page, size: 10}}}}\n\
         records: /data\n\
         primary_key: [id]\n\
         streams:\n{streams}",
        url.as_str().trim_end_matches('/')
    )
}

/// Records as a table holds them.
pub fn rows(records: &[Value]) -> Vec<Row> {
    let mut rows: Vec<Row> = records
        .iter()
        .map(|record| {
            let mut row: Row = serde_json::from_value(record.clone()).unwrap();
            // Times are written with microseconds.
            if let Some(Value::String(text)) = row.get_mut("updated_at") {
                *text = text.replace('Z', ".000000Z");
            }
            row
        })
        .collect();
    rows.sort_by_cached_key(|row| json!(row).to_string());
    rows
}
