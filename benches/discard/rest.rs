//! The REST surface: tables that are there once they are made, statements that succeed, uploads that are
//! counted.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use parquet::file::metadata::ParquetMetaDataReader;
use serde_json::{Value, json};

use super::Taken;

/// Resources of tables and answers of jobs by their names, uploads by theirs.
#[derive(Default)]
pub struct Tables {
    tables: Mutex<HashMap<String, Value>>,
    answers: Mutex<HashMap<String, Value>>,
    uploads: Mutex<HashMap<String, Upload>>,
}

/// An upload so far: its job, its length, and its end, where a Parquet file says how many rows it has.
struct Upload {
    job: Value,
    length: usize,
    end: Vec<u8>,
}

/// A Parquet file's footer is not longer than this.
const FOOTER: usize = 1 << 20;

pub async fn serve(listener: tokio::net::TcpListener, taken: Arc<Taken>) {
    let app = axum::Router::new()
        .fallback(answer)
        .layer(DefaultBodyLimit::disable())
        .with_state(taken);
    axum::serve(listener, app).await.expect("served");
}

async fn answer(
    State(taken): State<Arc<Taken>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path().to_owned();
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let last = parts.last().copied().unwrap_or_default();
    let value = || serde_json::from_slice::<Value>(&body).unwrap_or_default();
    match (method.as_str(), &parts[..]) {
        ("POST", ["upload", ..]) => open_upload(&taken, &headers, value()),
        ("PUT", ["upload", ..]) => upload(&taken, uri.query().unwrap_or_default(), &headers, &body),
        ("GET", [.., "datasets", _]) => good(json!({"location": "US"})),
        ("POST", [.., "tables"]) => {
            let mut table = value();
            table["etag"] = json!("1");
            let name = table["tableReference"]["tableId"]
                .as_str()
                .unwrap_or_default();
            let name = name.to_owned();
            let mut tables = lock(&taken.tables.tables);
            good(tables.entry(name).or_insert(table).clone())
        }
        ("GET", [.., "tables"]) => good(json!({"tables": []})),
        ("GET", [.., "tables", _, "data"]) => good(json!({"rows": []})),
        ("GET", [.., "tables", name]) => match lock(&taken.tables.tables).get(*name) {
            Some(table) => good(table.clone()),
            None => missing(),
        },
        ("PATCH", [.., "tables", name]) => match lock(&taken.tables.tables).get_mut(*name) {
            Some(table) => {
                for (key, news) in value().as_object().into_iter().flatten() {
                    table[key] = news.clone();
                }
                good(table.clone())
            }
            None => missing(),
        },
        ("DELETE", [.., "tables", name]) => {
            lock(&taken.tables.tables).remove(*name);
            StatusCode::NO_CONTENT.into_response()
        }
        ("POST", [.., "insertAll"]) => {
            let rows = value()["rows"].as_array().map_or(0, Vec::len);
            taken.rows.fetch_add(rows as u64, Ordering::SeqCst);
            good(json!({}))
        }
        ("POST", [.., "jobs"]) => {
            taken
                .largest_query
                .fetch_max(body.len() as u64, Ordering::SeqCst);
            let job = value();
            let id = job["jobReference"]["jobId"].as_str().unwrap_or_default();
            let rows = statement(&taken, &job["configuration"]["query"]);
            lock(&taken.tables.answers).insert(id.to_owned(), rows);
            good(done(job))
        }
        ("GET", [.., "queries", _]) => {
            good(lock(&taken.tables.answers).remove(last).unwrap_or_default())
        }
        _ => missing(),
    }
}

/// The rows that a statement of a run answers with, had it done what it says.
fn statement(taken: &Taken, query: &Value) -> Value {
    let sql = query["query"].as_str().unwrap_or_default();
    let parameter = |name: &str| {
        let all = query["queryParameters"].as_array().into_iter().flatten();
        let mut found = all.filter(|p| p["name"] == name);
        found
            .next()
            .map_or(Value::Null, |p| p["parameterValue"]["value"].clone())
    };
    let now = jiff::Timestamp::now().as_microsecond();
    let row = if sql.contains("COMMIT TRANSACTION") && sql.contains("'published'") {
        let rows = match parameter("staged") {
            Value::Null => parameter("sent"),
            staged => staged,
        };
        let count: u64 = rows.as_str().and_then(|n| n.parse().ok()).unwrap_or(0);
        taken.published.fetch_add(count, Ordering::SeqCst);
        json!({
            "outcome": "published", "staged": rows, "kept": rows, "rejected": parameter("rejected"),
            "open": "1", "holder": null, "publishes": "1",
        })
    } else if sql.contains("was_run_id") {
        json!({
            "there": "1", "run_id": parameter("run_id"), "holder": parameter("holder"),
            "acquired": now.to_string(), "expires": (now + 180_000_000).to_string(),
        })
    } else if sql.contains("AS open,") {
        json!({"open": "1", "version": parameter("expected_version"), "holder": null})
    } else if sql.starts_with("SELECT COUNT(*) AS n") {
        // Those of the slice at hand.
        let rows = taken.rows.load(Ordering::SeqCst) - taken.published.load(Ordering::SeqCst);
        json!({"n": rows.to_string(), "last": (now / 1_000_000).to_string()})
    } else if sql.contains("MAX(run_id) AS run_id") {
        json!({"run_id": parameter("run_id")})
    } else {
        return json!({"jobComplete": true, "schema": {"fields": []}, "rows": []});
    };
    let fields = row.as_object().into_iter().flatten();
    let names: Vec<Value> = fields
        .clone()
        .map(|(name, _)| json!({"name": name}))
        .collect();
    let cells: Vec<Value> = fields.map(|(_, value)| json!({"v": value})).collect();
    json!({"jobComplete": true, "schema": {"fields": names}, "rows": [{"f": cells}]})
}

fn done(mut job: Value) -> Value {
    job["status"] = json!({"state": "DONE"});
    job
}

fn open_upload(taken: &Taken, headers: &HeaderMap, job: Value) -> Response {
    let id = job["jobReference"]["jobId"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let host = headers["host"].to_str().expect("a host");
    let place = format!("http://{host}/upload/bigquery/v2/projects/p/jobs?upload_id={id}");
    let upload = Upload {
        job,
        length: 0,
        end: Vec::new(),
    };
    lock(&taken.tables.uploads).insert(id, upload);
    ([(HeaderName::from_static("location"), place)], "{}").into_response()
}

fn upload(taken: &Taken, query: &str, headers: &HeaderMap, body: &Bytes) -> Response {
    let id = query.split('&').find_map(|p| p.strip_prefix("upload_id="));
    let mut uploads = lock(&taken.tables.uploads);
    let Some(upload) = id.and_then(|id| uploads.get_mut(id)) else {
        return missing();
    };
    upload.length += body.len();
    upload.end.extend_from_slice(body);
    let spare = upload.end.len().saturating_sub(FOOTER);
    upload.end.drain(..spare);
    let range = headers["content-range"].to_str().expect("a range");
    if range.ends_with("/*") {
        let range = format!("bytes=0-{}", upload.length - 1);
        let status = StatusCode::PERMANENT_REDIRECT;
        return (status, [(HeaderName::from_static("range"), range)]).into_response();
    }
    let tail: &[u8; 8] = upload.end.last_chunk().expect("the end of a file");
    assert_eq!(&tail[4..], b"PAR1", "small rows are loaded as Parquet");
    let footer = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]) as usize;
    let at = upload.end.len() - 8 - footer;
    let footer = ParquetMetaDataReader::decode_metadata(&upload.end[at..at + footer]);
    let rows = footer.expect("a footer").file_metadata().num_rows();
    taken.rows.fetch_add(rows as u64, Ordering::SeqCst);
    let mut job = done(upload.job.clone());
    job["statistics"] = json!({"load": {"outputRows": rows.to_string()}});
    good(job)
}

fn good(value: Value) -> Response {
    axum::Json(value).into_response()
}

fn missing() -> Response {
    let error = json!({"code": 404, "message": "Not found", "errors": [{"reason": "notFound"}]});
    (StatusCode::NOT_FOUND, axum::Json(json!({"error": error}))).into_response()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("nobody panicked")
}
