use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;

use super::*;

fn schema(json: &str) -> TableSchema {
    TableSchema::from_json(json, "test.json").unwrap()
}

fn decode(decoder: &mut Decoder, records: &str) {
    let mut json = Jiter::new(records.as_bytes());
    let mut next = json.next_array().unwrap();
    while let Some(peek) = next {
        decoder.record(&mut json, peek).unwrap();
        next = json.array_step().unwrap();
    }
}

const ORDERS: &str = r#"[
    {"name": "id", "type": "INTEGER", "mode": "REQUIRED"},
    {"name": "name", "type": "STRING"},
    {"name": "amount", "type": "NUMERIC"},
    {"name": "at", "type": "TIMESTAMP"},
    {"name": "tags", "type": "STRING", "mode": "REPEATED"},
    {"name": "buyer", "type": "RECORD", "fields": [
        {"name": "zip", "type": "STRING"}, {"name": "age", "type": "INTEGER", "mode": "REQUIRED"}]},
    {"name": "lines", "type": "RECORD", "mode": "REPEATED", "fields": [{"name": "sku", "type": "STRING"}]},
    {"name": "raw", "type": "JSON"}
]"#;

#[test]
fn every_kind_of_value() {
    let mut d = Decoder::new(&schema(ORDERS));
    decode(
        &mut d,
        r#"[{"id": 9007199254740993, "name": "a\u00e9", "amount": 0.1, "at": "2026-01-01T00:00:00Z",
            "tags": ["x", "y"], "buyer": {"age": 3, "zip": null}, "lines": [{"sku": "s"}, {}], "raw": {"b": [1, "x y"]}},
           {"raw": null, "id": "2", "amount": "", "name": 7.10, "tags": null, "extra": 1}]"#,
    );
    assert!(d.take_rejects().is_empty());
    let batch = d.take().unwrap().unwrap();
    assert_eq!(batch.num_rows(), 2);
    assert_eq!(
        batch["id"].as_primitive::<Int64Type>().values(),
        &[9_007_199_254_740_993, 2]
    );
    assert_eq!(batch["name"].as_string::<i32>().value(0), "aé");
    assert_eq!(batch["name"].as_string::<i32>().value(1), "7.10");
    assert_eq!(
        batch["amount"].as_primitive::<Decimal128Type>().value(0),
        100_000_000
    );
    assert!(batch["amount"].is_null(1));
    assert_eq!(
        batch["at"]
            .as_primitive::<TimestampMicrosecondType>()
            .value(0),
        1_767_225_600_000_000
    );
    assert_eq!(batch["tags"].as_list::<i32>().value_length(0), 2);
    assert_eq!(batch["tags"].as_list::<i32>().value_length(1), 0);
    assert_eq!(batch["lines"].as_list::<i32>().value(0).len(), 2);
    assert!(batch["buyer"].is_null(1));
    assert_eq!(
        batch["raw"].as_string::<i32>().value(0),
        r#"{"b":[1,"x y"]}"#
    );
    assert!(batch["raw"].is_null(1));
    assert_eq!(d.unknown_fields().iter().collect::<Vec<_>>(), ["extra"]);
}

#[test]
fn a_bad_record_leaves_its_neighbours_alone() {
    let mut d = Decoder::new(&schema(ORDERS));
    decode(
        &mut d,
        r#"[{"id": 1}, {"id": 1.5}, {"name": "no id"}, {"id": 2, "lines": [{"sku": "a"}, {"sku": {}}]},
           {"id": 3, "buyer": {"zip": "1"}}, {"id": 4, "ID": 5}, {"id": 6, "tags": ["a", null]}, 7, {"id": 8}]"#,
    );
    let rejects: Vec<_> = d
        .take_rejects()
        .into_iter()
        .map(|r| (r.path, r.reason))
        .collect();
    let expected = [
        ("/id", "the number is not a whole one"),
        ("/id", "a required field is missing"),
        ("/lines/1/sku", "the value is an object"),
        ("/buyer/age", "a required field is missing"),
        ("/tags/1", "a required value is null"),
        ("", "the value is not an object"),
    ];
    assert_eq!(rejects, expected.map(|(p, r)| (p.to_owned(), r.to_owned())));
    let batch = d.take().unwrap().unwrap();
    // Of `id` and `ID` the one that is spelled like the column has it.
    assert_eq!(batch["id"].as_primitive::<Int64Type>().values(), &[1, 4, 8]);
    assert!(d.take().unwrap().is_none());
    decode(&mut d, r#"[{"id": 9}]"#);
    assert_eq!(
        d.take().unwrap().unwrap()["id"]
            .as_primitive::<Int64Type>()
            .values(),
        &[9]
    );
}

#[test]
fn keys_that_come_to_one_column_in_any_order() {
    for records in [
        r#"[{"a.b": 1}, {"a-b": 2, "a.b": 3}, {"a.b": 4, "a_b": 5, "a-b": 6}, {"a_b": 7, "a_b": 8}]"#,
        r#"[{"a.b": 1}, {"a.b": 3, "a-b": 2}, {"a_b": 5, "a-b": 6, "a.b": 4}, {"a_b": 7, "a_b": 8}]"#,
    ] {
        let mut d = Decoder::new(&schema(
            r#"[{"name": "a_b", "type": "INT64"}, {"name": "_extra", "type": "JSON"}]"#,
        ));
        decode(&mut d, records);
        let batch = d.take().unwrap().unwrap();
        assert_eq!(
            batch["a_b"].as_primitive::<Int64Type>().values(),
            &[1, 2, 5, 7]
        );
        let extra = batch["_extra"].as_string::<i32>();
        assert_eq!(extra.value(1), r#"{"a.b":3}"#);
        let third: serde_json::Value = serde_json::from_str(extra.value(2)).unwrap();
        assert_eq!(third, serde_json::json!({"a.b": 4, "a-b": 6}));
        assert_eq!(extra.value(3), r#"{"a_b":8}"#);
    }
    // Each has its own, by its hash too.
    let mut d = Decoder::new(&schema(
        r#"[{"name": "a_b", "type": "INT64"}, {"name": "a_b_2e7336dc", "type": "INT64"}]"#,
    ));
    decode(&mut d, r#"[{"a.b": 1, "a_b": 2}, {"a.b": 1}]"#);
    let batch = d.take().unwrap().unwrap();
    assert_eq!(
        batch["a_b_2e7336dc"].as_primitive::<Int64Type>().values(),
        &[1, 1]
    );
    assert!(batch["a_b"].is_null(1));
}

#[test]
fn values_that_do_not_fit_go_beside_their_column() {
    let mut d = Decoder::new(&schema(
        r#"[{"name": "n", "type": "INT64"}, {"name": "o", "type": "RECORD", "fields": [{"name": "a", "type": "INT64"}]},
            {"name": "l", "type": "INT64", "mode": "REPEATED"}, {"name": "n__string", "type": "STRING"},
            {"name": "o__json", "type": "JSON"}, {"name": "l__json", "type": "JSON"}]"#,
    ));
    d.watch();
    decode(
        &mut d,
        r#"[{"n": "x", "o": {"a": "x", "b": 1}, "l": [1, "x"]}, {"n": 2, "o": {"a": 2, "b": 1}, "l": [2, 3]},
            {"n": [1]}, {"o": 1}, {"n": true}]"#,
    );
    let rejected: Vec<_> = d.take_rejects().into_iter().map(|r| r.path).collect();
    assert_eq!(rejected, ["/n", "/o"], "there is no column for these");
    let batch = d.take().unwrap().unwrap();
    let text = |name: &str, row| batch[name].as_string::<i32>().value(row).to_owned();
    assert_eq!(text("n__string", 0), "x");
    assert_eq!(text("n__string", 2), "true");
    assert_eq!(text("o__json", 0), r#"{"a":"x","b":1}"#);
    assert_eq!(text("l__json", 0), r#"[1,"x"]"#);
    assert!(batch["n"].is_null(0) && batch["o"].is_null(0));
    let lists = batch["l"].as_list::<i32>();
    assert_eq!((lists.value_length(0), lists.value_length(1)), (0, 2));
    assert_eq!(lists.value(1).as_primitive::<Int64Type>().values(), &[2, 3]);
    assert!(batch["n__string"].is_null(1) && batch["o__json"].is_null(1));
}

#[test]
fn highest_since_a_position() {
    let mut d = Decoder::new(&schema(ORDERS));
    let path = |name: &str| name.split('.').map(str::to_owned).collect::<Vec<_>>();
    decode(
        &mut d,
        r#"[{"id": 9, "name": "z", "buyer": {"age": 5}}, {"id": 1, "name": "b"}, {"id": 2}]"#,
    );
    assert_eq!(d.highest(&path("id"), 0), Some(Highest::Number(9)));
    assert_eq!(d.highest(&path("id"), 1), Some(Highest::Number(2)));
    assert_eq!(d.highest(&path("name"), 1), Some(Highest::Text("b".into())));
    assert_eq!(d.highest(&path("name"), 2), None);
    assert_eq!(d.highest(&path("buyer.age"), 0), Some(Highest::Number(5)));
    assert_eq!(d.highest(&path("at"), 0), None);
    assert!(!d.is_ascending(&path("id"), 0) && d.is_ascending(&path("id"), 1));
    assert!(!d.is_ascending(&path("name"), 0) && d.is_ascending(&path("name"), 1));
    decode(&mut d, r#"[{"id": "x"}, {"id": 3}]"#);
    assert!(
        d.is_ascending(&path("id"), 1),
        "a record that does not fit has no say"
    );
}

#[test]
fn records_below_the_floor_are_left_out() {
    let mut d = Decoder::new(&schema(ORDERS));
    d.set_floor(&["amount".to_owned()], Some(Highest::Number(1)));
    d.set_floor(&["id".to_owned()], Some(Highest::Number(5)));
    decode(
        &mut d,
        r#"[{"id": 4}, {"id": 6}, {"id": 5}, {"id": "x"}, {"id": 7}]"#,
    );
    assert_eq!(
        (d.take_skipped(), d.take_skipped(), d.take_rejects().len()),
        (1, 0, 1)
    );
    let batch = d.take().unwrap().unwrap();
    assert_eq!(batch["id"].as_primitive::<Int64Type>().values(), &[6, 5, 7]);
}

#[test]
fn parameterized_types_hold_no_more_than_they_say() {
    let mut d = Decoder::new(&schema(
        r#"[{"name": "s", "type": "STRING", "maxLength": "3"}, {"name": "n", "type": "NUMERIC", "precision": 5, "scale": 2}]"#,
    ));
    decode(
        &mut d,
        r#"[{"s": "äöü", "n": 123.45}, {"s": "abcd"}, {"n": 1000.5}, {"n": 0.125}, {"s": 1234}, {"s": "x", "n": -1}]"#,
    );
    let reasons: Vec<_> = d.take_rejects().into_iter().map(|r| r.reason).collect();
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    let batch = d.take().unwrap().unwrap();
    assert_eq!(batch["s"].as_string::<i32>().value(1), "x");
    assert_eq!(
        batch["n"].as_primitive::<Decimal128Type>().values(),
        &[123_450_000_000, -1_000_000_000]
    );
}

#[test]
fn the_widest_decimals_have_limits_too() {
    let mut d = Decoder::new(&schema(
        r#"[{"name": "n", "type": "BIGNUMERIC", "precision": 5, "scale": 2}, {"name": "w", "type": "BIGNUMERIC", "precision": 38}]"#,
    ));
    decode(
        &mut d,
        r#"[{"n": -999.99}, {"n": 1000}, {"n": -1000}, {"n": 0.125}, {"w": 1.5},
            {"w": "-99999999999999999999999999999999999999"}, {"w": "100000000000000000000000000000000000000"}]"#,
    );
    assert_eq!(d.take_rejects().len(), 5);
    assert_eq!(d.take().unwrap().unwrap().num_rows(), 2);
}

#[test]
fn an_empty_text_is_no_place() {
    let mut d = Decoder::new(&schema(
        r#"[{"name": "g", "type": "GEOGRAPHY"}, {"name": "s", "type": "STRING"}]"#,
    ));
    decode(&mut d, r#"[{"g": "", "s": ""}, {"g": "POINT(1 2)"}]"#);
    let batch = d.take().unwrap().unwrap();
    assert!(batch["g"].is_null(0) && batch["g"].is_valid(1));
    assert!(batch["s"].is_valid(0));
}

#[test]
fn reject_keeps_the_text_as_received() {
    let mut d = Decoder::new(&schema(r#"[{"name": "id", "type": "INT64"}]"#));
    decode(&mut d, r#"[ {"id":  "x", "n": 1.10} ]"#);
    assert_eq!(d.take_rejects()[0].record, r#"{"id":  "x", "n": 1.10}"#);
    assert!(d.take().unwrap().is_none());
}

#[test]
fn constants_and_the_extra_column() {
    let mut d = Decoder::new(&schema(
        r#"[{"name": "id", "type": "INT64"}, {"name": "repo", "type": "STRING", "mode": "REQUIRED"},
            {"name": "o", "type": "RECORD", "fields": [{"name": "a", "type": "INT64"}]}, {"name": "_extra", "type": "JSON"}]"#,
    ));
    d.set_constant("repo", "a/b").unwrap();
    assert!(d.set_constant("nope", "x").is_err());
    assert!(d.set_constant("id", "x").is_err());
    decode(
        &mut d,
        r#"[{"id": 1, "new": [1], "o": {"a": 1, "b c": "x"}, "repo": "theirs"}, {"id": 2}]"#,
    );
    d.set_constant("repo", "c/d").unwrap();
    decode(&mut d, r#"[{"id": 3}]"#);
    let batch = d.take().unwrap().unwrap();
    let repo = batch["repo"].as_string::<i32>();
    assert_eq!(
        (repo.value(0), repo.value(1), repo.value(2)),
        ("a/b", "a/b", "c/d")
    );
    let extra = batch["_extra"].as_string::<i32>();
    assert_eq!(extra.value(0), r#"{"new":[1],"o.b c":"x","repo":"theirs"}"#);
    assert!(batch["_extra"].is_null(1) && batch["_extra"].is_null(2));
}

#[test]
fn a_table_with_more_columns_is_filled_as_before() {
    let narrow = r#"{"name": "id", "type": "INT64"}, {"name": "repo", "type": "STRING"}, {"name": "end", "type": "TIMESTAMP"}"#;
    let mut d = Decoder::new(&schema(&format!("[{narrow}]")));
    d.watch();
    d.set_constant("repo", "a/b").unwrap();
    d.reserve("end");
    d.set_floor(&["id".to_owned()], Some(Highest::Number(5)));
    let records = r#"[{"id": 4, "new": 1}, {"id": 6, "new": 2, "repo": "x", "end": "2026-01-01"}]"#;
    decode(&mut d, records);
    assert!(d.take().unwrap().unwrap()["end"].is_null(0));
    let wider = format!(r#"[{narrow}, {{"name": "new", "type": "INT64"}}]"#);
    let mut d = d.with_columns(&schema(&wider)).unwrap();
    decode(&mut d, records);
    let batch = d.take().unwrap().unwrap();
    assert_eq!(batch.num_rows(), 1);
    assert_eq!(batch["new"].as_primitive::<Int64Type>().values(), &[2]);
    assert_eq!(batch["repo"].as_string::<i32>().value(0), "a/b");
    assert!(batch["end"].is_null(0));
    assert_eq!(d.take_skipped(), 2);
    assert!(d.unknown_fields().contains("new"));
}

#[test]
fn broken_json_is_an_error_and_leaves_whole_rows() {
    let mut d = Decoder::new(&schema(ORDERS));
    let mut json = Jiter::new(br#"[{"id": 1}, {"id": 2, "name": "\ud800"}]"#);
    let peek = json.next_array().unwrap().unwrap();
    d.record(&mut json, peek).unwrap();
    let peek = json.array_step().unwrap().unwrap();
    assert!(d.record(&mut json, peek).is_err());
    let batch = d.take().unwrap().unwrap();
    assert_eq!(batch["id"].as_primitive::<Int64Type>().values(), &[1]);
}

proptest! {
    /// Whatever the records are, each ends as a row or as a reject.
    #[test]
    fn nothing_is_lost(records in proptest::collection::vec(record(), 0..20)) {
        let mut d = Decoder::new(&schema(ORDERS));
        decode(&mut d, &format!("[{}]", records.join(",")));
        let rejects = d.take_rejects().len();
        let rows = d.take().unwrap().map_or(0, |b| b.num_rows());
        prop_assert_eq!(rows + rejects, records.len());
    }
}

fn record() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just(r#"[{"sku":"x"}]"#.to_owned()),
        Just(r#"{"age":1}"#.to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        "[a-z]{0,8}".prop_map(|s| format!("\"{s}\"")),
    ];
    let key = prop_oneof!["id|name|amount|at|tags|buyer|lines|raw", "[A-Z]{1,3}"];
    proptest::collection::vec((key, value), 0..9).prop_map(|pairs| {
        let fields: Vec<String> = pairs.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
        format!("{{{}}}", fields.join(","))
    })
}
