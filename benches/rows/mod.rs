//! The rows of the benchmarks: most have 20 columns (integers, floats, strings, flags, times, a nested object,
//! an array of objects, nulls), about 600 bytes of JSON each.

use std::fmt::Write as _;
use std::ops::Range;

use drawoff::schema::TableSchema;

/// Columns of the rows.
pub const SCHEMA: &str = r#"[
    {"name": "id", "type": "INT64", "mode": "REQUIRED"},
    {"name": "account_id", "type": "INT64"},
    {"name": "score", "type": "FLOAT64"},
    {"name": "amount", "type": "FLOAT64"},
    {"name": "name", "type": "STRING"},
    {"name": "email", "type": "STRING"},
    {"name": "status", "type": "STRING"},
    {"name": "city", "type": "STRING"},
    {"name": "country", "type": "STRING"},
    {"name": "subject", "type": "STRING"},
    {"name": "active", "type": "BOOL"},
    {"name": "verified", "type": "BOOL"},
    {"name": "created_at", "type": "TIMESTAMP"},
    {"name": "updated_at", "type": "TIMESTAMP"},
    {"name": "closed_at", "type": "TIMESTAMP"},
    {"name": "retries", "type": "INT64"},
    {"name": "note", "type": "STRING"},
    {"name": "phone", "type": "STRING"},
    {"name": "owner", "type": "RECORD", "fields": [
        {"name": "id", "type": "INT64"}, {"name": "login", "type": "STRING"}, {"name": "admin", "type": "BOOL"}]},
    {"name": "lines", "type": "RECORD", "mode": "REPEATED", "fields": [
        {"name": "sku", "type": "STRING"}, {"name": "quantity", "type": "INT64"}, {"name": "price", "type": "FLOAT64"}]}
]"#;

/// The schema.
pub fn schema() -> TableSchema {
    TableSchema::from_json(SCHEMA, "benches/rows").expect("the schema is right")
}

/// One record; the same number always gives the same one.
fn record(n: u64, out: &mut String) {
    let mix = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
    let at = |k: u64| {
        let second = 1_600_000_000 + (mix >> k) % 150_000_000;
        jiff::Timestamp::from_second(second as i64)
            .expect("a time of our days")
            .to_string()
    };
    let pick = |from: &[&'static str], k: u64| from[((mix >> k) % from.len() as u64) as usize];
    let closed = if mix.is_multiple_of(3) {
        format!("\"{}\"", at(5))
    } else {
        "null".to_owned()
    };
    let note = if mix.is_multiple_of(4) {
        "null".to_owned()
    } else {
        format!("\"called back twice, asked for invoice {}\"", mix % 99_991)
    };
    let _ = write!(
        out,
        r#"{{"id":{n},"account_id":{},"score":{}.{:02},"amount":{}.{:04},"name":"{} {}","email":"user{}@mail{}.example","status":"{}","city":"{}","country":"{}","subject":"{} {} does not {} since {}","active":{},"verified":{},"created_at":"{}","updated_at":"{}","closed_at":{closed},"retries":{},"note":{note},"phone":null,"owner":{{"id":{},"login":"agent-{}","admin":{}}},"lines":[{{"sku":"SKU-{:06}","quantity":{},"price":{}.{:02}}},{{"sku":"SKU-{:06}","quantity":{},"price":{}.5}}]}}"#,
        mix % 50_000,
        mix % 100,
        (mix >> 3) % 100,
        mix % 100_000,
        (mix >> 7) % 10_000,
        pick(&["Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald"], 4),
        pick(
            &[
                "Lovelace", "Hopper", "Turing", "Dijkstra", "Liskov", "Knuth"
            ],
            9
        ),
        n,
        mix % 40,
        pick(&["open", "pending", "solved", "closed"], 11),
        pick(&["Berlin", "Lyon", "Porto", "Graz", "Turku", "Zürich"], 13),
        pick(&["DE", "FR", "PT", "AT", "FI", "CH"], 13),
        pick(&["Printer", "Login", "Export", "Invoice", "Mail"], 17),
        mix % 1000,
        pick(&["start", "stop", "sync", "print"], 19),
        pick(&["Monday", "the update", "yesterday"], 21),
        mix.is_multiple_of(2),
        mix.is_multiple_of(5),
        at(2),
        at(7),
        mix % 9,
        mix % 300,
        mix % 300,
        mix.is_multiple_of(50),
        mix % 1_000_000,
        mix % 12 + 1,
        mix % 900,
        mix % 100,
        (mix >> 20) % 1_000_000,
        (mix >> 8) % 12 + 1,
        (mix >> 12) % 400,
    );
}

/// A record but for its id, as JSON.
pub struct Record(String);

impl Record {
    /// Of this number.
    pub fn new(n: u64) -> Self {
        let mut text = String::new();
        record(n, &mut text);
        let id = text.find(',').expect("columns behind the id");
        Self(text.split_off(id))
    }
}

/// A page as a JSON array: these ids, going round the records.
pub fn page(records: &[Record], ids: Range<u64>) -> String {
    let mut text = String::with_capacity(ids.clone().count() * 640 + 2);
    text.push('[');
    for id in ids.clone() {
        let Record(rest) = &records[id as usize % records.len()];
        let comma = if id == ids.start { "" } else { "," };
        let _ = write!(text, "{comma}{{\"id\":{id}{rest}");
    }
    text.push(']');
    text
}

/// CPU seconds of this process, or of its children that have ended, and their largest resident set.
pub fn usage(children: bool) -> (f64, u64) {
    use nix::sys::resource::{UsageWho, getrusage};
    let who = if children {
        UsageWho::RUSAGE_CHILDREN
    } else {
        UsageWho::RUSAGE_SELF
    };
    let usage = getrusage(who).expect("getrusage answers");
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    (
        seconds(usage.user_time()) + seconds(usage.system_time()),
        usage.max_rss() as u64,
    )
}

/// Columns of the small rows.
pub const SMALL: &str = r#"[
    {"name": "id", "type": "INT64", "mode": "REQUIRED"},
    {"name": "name", "type": "STRING"},
    {"name": "amount", "type": "FLOAT64"},
    {"name": "active", "type": "BOOL"},
    {"name": "updated_at", "type": "TIMESTAMP"}
]"#;

/// A page of small rows as a JSON array: these ids.
pub fn small_page(ids: Range<u64>) -> String {
    let mut text = String::with_capacity(ids.clone().count() * 100 + 2);
    text.push('[');
    for id in ids.clone() {
        let comma = if id == ids.start { "" } else { "," };
        let _ = write!(
            text,
            r#"{comma}{{"id":{id},"name":"user {}","amount":{}.25,"active":{},"updated_at":"2026-01-{:02}T{:02}:00:00Z"}}"#,
            id.wrapping_mul(7_919) % 1_000_003,
            id % 10_007,
            id.is_multiple_of(3),
            id % 28 + 1,
            id % 24,
        );
    }
    text.push(']');
    text
}
