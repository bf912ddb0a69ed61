//! `connectors/demo.yaml` and its schemas against what the demo API really serves.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use drawoff::demo::{CLIENT_ID, CLIENT_SECRET, COMPANY_ID, DemoApi, TOKEN};
use drawoff::schema::{Column, ColumnType, Mode, TableSchema};
use serde_json::Value;
use url::form_urlencoded::byte_serialize;

use crate::support::frozen_clock::FrozenClock;
use crate::support::plain_http::send;

fn schema(stream: &str) -> TableSchema {
    let path = format!("{}/schemas/demo/{stream}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    TableSchema::from_json(&text, &path).unwrap()
}

fn each_column(columns: &[Column], path: &str, visit: &mut impl FnMut(&Column, &str)) {
    for column in columns {
        let path = format!("{path}.{}", column.name);
        visit(column, &path);
        each_column(&column.fields, &path, visit);
    }
}

/// Whether a value can be held by a column, names included: nothing more, nothing less.
fn check(value: &Value, columns: &[Column], path: &str) {
    let record = value.as_object().unwrap();
    let fields: BTreeSet<&str> = record.keys().map(String::as_str).collect();
    let names: BTreeSet<&str> = columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(fields, names, "fields of {path}");
    for column in columns {
        let value = &record[&column.name];
        let path = format!("{path}.{}", column.name);
        match (column.mode, value) {
            (Mode::Repeated, Value::Array(items)) => {
                for item in items {
                    check_one(item, column, &path);
                }
            }
            (Mode::Repeated, _) => panic!("{path} is no list"),
            (Mode::Nullable, Value::Null) => {}
            _ => check_one(value, column, &path),
        }
    }
}

fn check_one(value: &Value, column: &Column, path: &str) {
    let fits = match column.kind {
        ColumnType::String => value.is_string(),
        ColumnType::Int64 => value.is_i64(),
        ColumnType::Float64 | ColumnType::Numeric => value.is_number(),
        ColumnType::Bool => value.is_boolean(),
        ColumnType::Timestamp => value
            .as_str()
            .is_some_and(|v| v.parse::<jiff::Timestamp>().is_ok()),
        ColumnType::Date => value
            .as_str()
            .is_some_and(|v| v.parse::<jiff::civil::Date>().is_ok()),
        ColumnType::Record => return check(value, &column.fields, path),
        other => panic!("{path} has the type {other:?}, which the demo does not use"),
    };
    assert!(fits, "{path}: {value} is no {:?}", column.kind);
}

#[tokio::test]
async fn records_have_the_columns_of_their_schema() {
    let api = DemoApi::start(FrozenClock::at(1_795_220_899)).unwrap();
    let client = reqwest::Client::new();
    let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let pair = STANDARD.encode(format!("{}:{}", encode(CLIENT_ID), encode(CLIENT_SECRET)));
    let token = send(
        client
            .post(format!("{}/oauth/token", api.base_url()))
            .header("authorization", format!("Basic {pair}"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body("grant_type=client_credentials"),
    )
    .await
    .json()["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    for (stream, path, records) in [
        ("companies", "/companies?per_page=100", "data"),
        ("contacts", "/companies/1001/contacts?per_page=100", "data"),
        // The last page: tickets that are still open.
        ("tickets", "/tickets?per_page=100&page=50", "data"),
        ("tickets", "/tickets?per_page=100&page=1", "data"),
        ("invoices", "/billing/invoices?limit=100", "invoices"),
    ] {
        let request = client.get(format!("{}{path}", api.base_url()));
        let request = match stream {
            "invoices" => request.bearer_auth(&token),
            _ => request.basic_auth(COMPANY_ID, Some(TOKEN)),
        };
        let body = send(request).await.json();
        let columns = schema(stream).columns;
        let records = body[records].as_array().unwrap();
        assert!(records.len() >= 15, "{stream}: {}", records.len());
        for record in records {
            check(record, &columns, stream);
        }
    }
}

#[test]
fn every_column_is_described_and_every_key_is_required() {
    for stream in ["companies", "contacts", "tickets", "invoices"] {
        let schema = schema(stream);
        each_column(&schema.columns, stream, &mut |column, path| {
            assert!(column.description.ends_with('.'), "{path} is not described");
            assert!(column.description.chars().count() <= 1_024, "{path}");
        });
        for name in ["id", "created_at"] {
            assert_eq!(
                schema.column(name).unwrap().mode,
                Mode::Required,
                "{stream}.{name}"
            );
        }
    }
}
