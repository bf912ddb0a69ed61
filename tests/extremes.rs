//! The ends of every type, from an API's JSON through the program into BigQuery, and read back by `bq`
//! and by Google's Python client. What the emulator cannot hold (the last twenty digits of a BIGNUMERIC,
//! bytes inside of lists and records) is tested where rows are encoded.

use drawoff::schema::ColumnType::{self, *};
use serde_json::{Map, Value, json};

use crate::support::binary::Bench;
use crate::support::emulator::{Emulator, PROJECT};
use crate::support::fake_api::{FakeApi, Received, Reply};
use crate::support::rows::micros;

/// A column, its type, and values: as the API writes them, and what they are, in [`canonical`] form.
type Kind = (
    &'static str,
    ColumnType,
    &'static [(&'static str, &'static str)],
);

const KINDS: [Kind; 13] = [
    (
        "i",
        Int64,
        &[
            ("-9223372036854775808", "-9223372036854775808"),
            ("9223372036854775807", "9223372036854775807"),
            ("9007199254740993", "9007199254740993"),
            (r#""-9007199254740993""#, "-9007199254740993"),
            ("1e3", "1000"),
        ],
    ),
    (
        "f",
        Float64,
        &[
            ("1.7976931348623157e308", "1.7976931348623157e308"),
            ("-1.7976931348623157e308", "-1.7976931348623157e308"),
            ("2.2250738585072014e-308", "2.2250738585072014e-308"),
            ("5e-324", "5e-324"),
            ("-0.0", "-0.0"),
            ("0.1", "0.1"),
            (r#""NaN""#, "NaN"),
            (r#""Infinity""#, "inf"),
            (r#""-Infinity""#, "-inf"),
        ],
    ),
    (
        "n",
        Numeric,
        &[
            (
                "99999999999999999999999999999.999999999",
                "99999999999999999999999999999.999999999",
            ),
            (
                r#""-99999999999999999999999999999.999999999""#,
                "-99999999999999999999999999999.999999999",
            ),
            ("1e-9", "0.000000001"),
            ("-0.1", "-0.1"),
        ],
    ),
    (
        // All that the emulator has: DECIMAL(38, 18).
        "bn",
        BigNumeric,
        &[
            (
                "99999999999999999999.999999999999999999",
                "99999999999999999999.999999999999999999",
            ),
            (
                r#""-99999999999999999999.999999999999999999""#,
                "-99999999999999999999.999999999999999999",
            ),
            ("1e-18", "0.000000000000000001"),
        ],
    ),
    ("b", Bool, &[("true", "true"), ("false", "false")]),
    (
        "s",
        String,
        &[
            (r#""""#, ""),
            (r#""\u0000""#, "\0"),
            (r#""a\u0000b""#, "a\0b"),
            (r#""\ud83d\ude00 ä 中 𝄞 \u2028""#, "😀 ä 中 𝄞 \u{2028}"),
            (
                r#""\" \\ \n\r\t ' ` ; -- %s {{ }}""#,
                "\" \\ \n\r\t ' ` ; -- %s {{ }}",
            ),
            ("18446744073709551616.10", "18446744073709551616.10"),
        ],
    ),
    (
        "y",
        Bytes,
        &[
            (
                r#""AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElKS0xNTk9QUVJTVFVWV1hZWltcXV5fYGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e3x9fn+AgYKDhIWGh4iJiouMjY6PkJGSk5SVlpeYmZqbnJ2en6ChoqOkpaanqKmqq6ytrq+wsbKztLW2t7i5uru8vb6/wMHCw8TFxsfIycrLzM3Oz9DR0tPU1dbX2Nna29zd3t/g4eLj5OXm5+jp6uvs7e7v8PHy8/T19vf4+fr7/P3+/w==""#,
                "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElKS0xNTk9QUVJTVFVWV1hZWltcXV5fYGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e3x9fn+AgYKDhIWGh4iJiouMjY6PkJGSk5SVlpeYmZqbnJ2en6ChoqOkpaanqKmqq6ytrq+wsbKztLW2t7i5uru8vb6/wMHCw8TFxsfIycrLzM3Oz9DR0tPU1dbX2Nna29zd3t/g4eLj5OXm5+jp6uvs7e7v8PHy8/T19vf4+fr7/P3+/w==",
            ),
            (r#""""#, ""),
        ],
    ),
    (
        "ts",
        Timestamp,
        &[
            (r#""0001-01-01T00:00:00Z""#, "-62135596800000000"),
            (r#""9999-12-31T23:59:59.999999Z""#, "253402300799999999"),
            (r#""1969-12-31T23:59:59.999999Z""#, "-1"),
            (r#""2024-02-29T14:00:00.000001+14:00""#, "1709164800000001"),
        ],
    ),
    (
        "dt",
        DateTime,
        &[
            (r#""0001-01-01T00:00:00""#, "0001-01-01T00:00:00"),
            (
                r#""9999-12-31T23:59:59.999999""#,
                "9999-12-31T23:59:59.999999",
            ),
        ],
    ),
    (
        "d",
        Date,
        &[
            (r#""0001-01-01""#, "0001-01-01"),
            (r#""9999-12-31""#, "9999-12-31"),
            (r#""2024-02-29""#, "2024-02-29"),
        ],
    ),
    (
        "t",
        Time,
        &[
            (r#""00:00:00""#, "00:00:00"),
            (r#""23:59:59.999999""#, "23:59:59.999999"),
        ],
    ),
    (
        "j",
        Json,
        &[
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            (
                r#"{"ä":[{},[],null,{"b":"\ud83d\ude00"}]}"#,
                r#"{"ä":[{},[],null,{"b":"😀"}]}"#,
            ),
            (r#""text""#, r#""text""#),
            ("1.5", "1.5"),
            ("false", "false"),
            (DEEP, DEEP),
        ],
    ),
    (
        "g",
        Geography,
        &[
            (r#""POINT(-180 90)""#, "POINT(-180 90)"),
            (r#""POINT EMPTY""#, "POINT EMPTY"),
            (
                r#""POLYGON((0 0, 1 0, 1 1, 0 0))""#,
                "POLYGON((0 0, 1 0, 1 1, 0 0))",
            ),
        ],
    ),
];

/// As deep as the readers' own JSON takes it.
const DEEP: &str = "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]";

/// JSON has no lists of lists of its own; the emulator reads bytes only at the top.
fn listed() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(|k| !matches!(k.1, Json | Bytes))
}

/// The emulator reads bytes only at the top.
fn nested() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(|k| k.1 != Bytes)
}

fn columns() -> Value {
    let column = |name: &str, kind: ColumnType, mode: &str| json!({"name": name, "type": kind.sql(), "mode": mode});
    let mut columns = vec![column("id", Int64, "REQUIRED")];
    columns.extend(
        KINDS
            .iter()
            .map(|(name, kind, _)| column(name, *kind, "NULLABLE")),
    );
    columns.extend(listed().map(|(name, kind, _)| column(&format!("l_{name}"), *kind, "REPEATED")));
    let mut fields: Vec<Value> = nested()
        .map(|(name, kind, _)| column(name, *kind, "NULLABLE"))
        .collect();
    let mut inner = column("inner", Record, "REPEATED");
    let mut deep = column("deep", Record, "NULLABLE");
    deep["fields"] = json!([
        column("n", BigNumeric, "NULLABLE"),
        column("t", Timestamp, "REPEATED")
    ]);
    inner["fields"] = json!([
        column("x", Int64, "NULLABLE"),
        column("s", String, "REPEATED"),
        deep
    ]);
    fields.push(inner);
    let mut record = column("r", Record, "NULLABLE");
    record["fields"] = fields.into();
    columns.push(record);
    columns.into()
}

/// Rows as the API serves them, and as they must be read back, without the columns that are null or
/// empty lists.
fn rows() -> (
    Vec<std::string::String>,
    Vec<Map<std::string::String, Value>>,
) {
    let (mut sent, mut want) = (Vec::new(), Vec::new());
    let mut row = |column: &str, literal: std::string::String, is: Value| {
        let id = sent.len() + 1;
        sent.push(format!(r#"{{"id":{id},"{column}":{literal}}}"#));
        let mut row = Map::from_iter([("id".to_owned(), json!(id.to_string()))]);
        if !is.is_null() {
            row.insert(column.to_owned(), is);
        }
        want.push(row);
    };
    for (name, _, values) in &KINDS {
        for (literal, is) in *values {
            row(name, (*literal).to_owned(), json!(is));
        }
        row(name, "null".into(), Value::Null);
    }
    for (name, _, values) in listed() {
        let literals: Vec<&str> = values.iter().map(|v| v.0).collect();
        let are: Vec<&str> = values.iter().map(|v| v.1).collect();
        row(
            &format!("l_{name}"),
            format!("[{}]", literals.join(",")),
            json!(are),
        );
        row(&format!("l_{name}"), "[]".into(), Value::Null);
        row(&format!("l_{name}"), "null".into(), Value::Null);
    }
    for last in [false, true] {
        let pick = |kind: &Kind| kind.2[if last { kind.2.len() - 1 } else { 0 }];
        let fields: Vec<std::string::String> = nested()
            .map(|kind| format!(r#""{}":{}"#, kind.0, pick(kind).0))
            .collect();
        let mut are: Map<std::string::String, Value> = nested()
            .map(|kind| (kind.0.to_owned(), json!(pick(kind).1)))
            .collect();
        are.insert(
            "inner".into(),
            json!([
                {"x": "1", "s": ["a", ""], "deep": {"n": "-1.5", "t": ["-1", "0"]}},
                {"x": null, "s": [], "deep": {"n": null, "t": []}},
                {"x": null, "s": [], "deep": null},
            ]),
        );
        let inner = r#""inner":[
            {"x":1,"s":["a",""],"deep":{"n":"-1.50","t":["1969-12-31T23:59:59.999999Z","1970-01-01"]}},
            {"deep":{"t":null}},
            {"x":null,"s":null,"deep":null}]"#;
        row(
            "r",
            format!("{{{},{inner}}}", fields.join(",")),
            Value::Object(are),
        );
    }
    let mut nothing: Map<std::string::String, Value> = nested()
        .map(|kind| (kind.0.to_owned(), Value::Null))
        .collect();
    nothing.insert("inner".into(), json!([]));
    row("r", "{}".into(), Value::Object(nothing));
    row("r", "null".into(), Value::Null);
    (sent, want)
}

/// A cell in one form, whoever has read it: text, lists and objects of text, null. Floats are compared
/// by their bits, points in time as microseconds, JSON as values.
fn canonical(column: &Value, cell: &Value) -> Value {
    if cell.is_null() {
        return Value::Null;
    }
    if let ("REPEATED", Some(items)) = (column["mode"].as_str().unwrap(), cell.as_array()) {
        let mut item = column.clone();
        item["mode"] = json!("NULLABLE");
        return items.iter().map(|i| canonical(&item, i)).collect();
    }
    let text = match cell {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match column["type"].as_str().unwrap() {
        "RECORD" => record(&column["fields"], cell),
        "FLOAT64" => json!(format!("{:?}", text.parse::<f64>().unwrap())),
        "TIMESTAMP" if text.contains('T') => {
            json!(micros(text.trim_end_matches("+00:00")).to_string())
        }
        // The one reader gives text, the other a value, which may be text too.
        "JSON" => match cell {
            Value::String(text) if serde_json::from_str::<Value>(text).is_ok() => {
                json!(serde_json::from_str::<Value>(text).unwrap().to_string())
            }
            value => json!(value.to_string()),
        },
        _ => json!(text),
    }
}

fn record(columns: &Value, cells: &Value) -> Value {
    let columns = columns.as_array().unwrap().iter();
    columns
        .map(|c| {
            let name = c["name"].as_str().unwrap();
            (name.to_owned(), canonical(c, &cells[name]))
        })
        .collect()
}

fn compare(reader: &str, read: &Value, without: &str, want: &[Map<std::string::String, Value>]) {
    let columns = columns();
    let read = read.as_array().unwrap();
    assert_eq!(read.len(), want.len(), "{reader}");
    for (read, want) in read.iter().zip(want) {
        let Value::Object(mut found) = record(&columns, read) else {
            panic!("a row is an object");
        };
        found.retain(|_, cell| !cell.is_null() && *cell != json!([]));
        let mut want = want.clone();
        want.remove(without);
        assert_eq!(found, want, "{reader}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ends_of_every_type_arrive() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("extremes");
    let (mut sent, want) = rows();
    // Half of a pair of surrogates is no text: it is kept apart, and takes nothing along.
    sent.push(r#"{"id":1000,"s":"half \ud800"}"#.into());
    sent.push(r#"{"id":1001,"i":9223372036854775808}"#.into());
    sent.push(r#"{"id":1002,"n":100000000000000000000000000000}"#.into());
    let body = format!(r#"{{"data":[{}]}}"#, sent.join(","));
    let api = FakeApi::start(
        move |request: &Received| match request.number_param("page") {
            Some(1) => Reply::json_text(body.clone()),
            _ => Reply::json(&json!({"data": []})),
        },
    )
    .await;
    let yaml = format!(
        "title: Ends\nbase_url: {}\npagination: {{page: {{size_param: per_page, size: 1000}}}}\n\
         records: /data\nprimary_key: [id]\nstreams:\n  things: {{}}\n",
        api.url().as_str().trim_end_matches('/')
    );
    let bench = Bench::with("ends", &yaml).bigquery(emulator.rest(), emulator.grpc());
    bench.write(
        "connectors/schemas/ends/things.json",
        &columns().to_string(),
    );
    let to = format!("bigquery:{PROJECT}.{dataset}");
    bench
        .run(&["--source", "ends", "--destination", &to])
        .await
        .exits(0);

    let read = emulator.query(&format!("SELECT * FROM `{dataset}.things` ORDER BY id"));
    compare("Google's Python client", &read, "", &want);
    let rejects = emulator.query(&format!(
        "SELECT record FROM `{dataset}.things__rejects` ORDER BY record"
    ));
    let rejects = rejects.as_array().unwrap();
    let numbers: Vec<&str> = rejects
        .iter()
        .map(|r| &r["record"].as_str().unwrap()[..10])
        .collect();
    assert_eq!(numbers, [r#"{"id":1000"#, r#"{"id":1001"#, r#"{"id":1002"#]);

    // `bq` shows points in time to the second only, unless they are numbers.
    let shown = emulator.bq(&format!(
        "SELECT * EXCEPT (r, ts, l_ts), UNIX_MICROS(ts) AS ts,
         ARRAY(SELECT UNIX_MICROS(t) FROM UNNEST(l_ts) AS t) AS l_ts
         FROM `{dataset}.things` ORDER BY id"
    ));
    if let Some(shown) = shown {
        compare("bq", &shown, "r", &want);
    }
}
