//! Rows as `tabledata.insertAll` takes them, in requests within its limits, and what its answers say
//! of them.

use arrow_array::RecordBatch;
use bytes::Bytes;
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::google::Next;
use crate::schema::render::{Integers, JsonRows, JsonStyle};

/// Most rows of a request (BigQuery's quota page advises it, 2026-08).
pub(super) const MOST_ROWS: usize = 500;

/// Bytes after which a request is sent. BigQuery takes 10 MB, and turns a body into a form of its own,
/// which has its own limit.
pub(super) const REQUEST_BYTES: usize = 4 << 20;

/// Largest row: BigQuery takes 10 MB, with what is around it.
pub(super) const LARGEST_ROW: usize = 9 << 20;

/// As the API takes values: whole numbers as strings, since JSON's are doubles, and JSON as its text,
/// since an object would be a RECORD.
const STYLE: JsonStyle = JsonStyle {
    integers: Integers::Strings,
    json_as_text: true,
    without_nulls: true,
};

/// Bytes of a row's place in a request, beside its values and its id.
const AROUND: usize = 32;

/// A row on its way.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    /// By which a row that comes again is told, for a minute or so.
    pub id: String,
    /// Its values as a JSON object; nulls are left out.
    pub values: Vec<u8>,
}

/// The rows of a batch in requests, numbered from `first`.
///
/// # Errors
/// [`ErrorKind::Schema`] for a row that is larger than any request may be.
pub(super) fn requests(
    batch: &RecordBatch,
    slice_id: &str,
    first: u64,
    table: &str,
) -> Result<Vec<Vec<Row>>> {
    let json = JsonRows::new(batch, STYLE)?;
    let mut requests = Vec::new();
    let mut request: Vec<Row> = Vec::new();
    let mut bytes = 0;
    for (number, row) in (first..).zip(0..batch.num_rows()) {
        let mut values = Vec::new();
        json.write(row, &mut values);
        let id = format!("{slice_id}/{number}");
        let size = values.len() + id.len() + AROUND;
        if size > LARGEST_ROW {
            return Err(Error::new(
                ErrorKind::Schema,
                format!("a row for `{table}` is {size} bytes; a request may hold {LARGEST_ROW}"),
            )
            .hint("leave large fields out of the schema"));
        }
        if request.len() == MOST_ROWS || (bytes + size > REQUEST_BYTES && !request.is_empty()) {
            requests.push(std::mem::take(&mut request));
            bytes = 0;
        }
        bytes += size;
        request.push(Row { id, values });
    }
    requests.push(request);
    requests.retain(|r| !r.is_empty());
    Ok(requests)
}

/// The body of a request.
pub(super) fn body(rows: &[Row]) -> Bytes {
    let size: usize = rows
        .iter()
        .map(|r| r.values.len() + r.id.len() + AROUND)
        .sum();
    let mut out = Vec::with_capacity(size + 128);
    out.extend_from_slice(br#"{"skipInvalidRows":false,"ignoreUnknownValues":false,"rows":["#);
    for (i, row) in rows.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        // An id is made of a run's, and of numbers: nothing in it needs an escape.
        out.extend_from_slice(br#"{"insertId":""#);
        out.extend_from_slice(row.id.as_bytes());
        out.extend_from_slice(br#"","json":"#);
        out.extend_from_slice(&row.values);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    out.into()
}

/// What an answer says of the rows of its request, by their place in it. Those that it does not speak
/// of are in the table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Not inserted because of others, or for a passing reason: to be sent again.
    pub again: Vec<usize>,
    /// Refused for good.
    pub refused: Vec<Refusal>,
}

/// Why a row was refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Which.
    pub at: usize,
    /// BigQuery's reason code.
    pub reason: String,
    /// The column, dotted, where BigQuery says.
    pub column: String,
}

/// Reads an answer to a request of `rows` rows.
pub(super) fn verdict(answer: &Value, rows: usize) -> Verdict {
    let mut verdict = Verdict::default();
    let errors = answer["insertErrors"].as_array();
    for error in errors.map_or(&[][..], Vec::as_slice) {
        let Some(at) = error["index"]
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n < rows)
        else {
            continue;
        };
        let why = error["errors"].as_array().map_or(&[][..], Vec::as_slice);
        let reason = |e: &Value| e["reason"].as_str().unwrap_or_default().to_owned();
        match why.iter().find(|e| !passes(&reason(e))) {
            Some(fatal) => verdict.refused.push(Refusal {
                at,
                reason: reason(fatal),
                column: fatal["location"].as_str().unwrap_or_default().to_owned(),
            }),
            None => verdict.again.push(at),
        }
    }
    verdict
}

/// Whether a row that was not inserted for this reason may be, when sent again.
fn passes(reason: &str) -> bool {
    let next = crate::google::next(Some(200), reason, false);
    matches!(reason, "stopped" | "timeout") || matches!(next, Next::Repeat | Next::NewJob)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{
        ArrayRef, BinaryArray, Decimal128Array, Float64Array, Int64Array, ListArray, StringArray,
        StructArray, TimestampMicrosecondArray,
    };
    use arrow_buffer::OffsetBuffer;
    use arrow_schema::DataType;
    use serde_json::json;

    use super::*;
    use crate::schema::{Column, ColumnType, Mode, TableSchema, arrow_schema};

    fn texts(texts: &[&str]) -> RecordBatch {
        let schema = TableSchema {
            columns: vec![Column::new("t", ColumnType::String)],
        };
        RecordBatch::try_new(
            arrow_schema(&schema),
            vec![Arc::new(StringArray::from(texts.to_vec()))],
        )
        .unwrap()
    }

    fn parsed(rows: &[Row]) -> Value {
        serde_json::from_slice(&body(rows)).unwrap()
    }

    #[test]
    fn values_have_the_forms_of_the_api() {
        let of = Column::new;
        let schema = TableSchema {
            columns: vec![
                of("i", ColumnType::Int64),
                of("f", ColumnType::Float64),
                of("n", ColumnType::Numeric),
                of("ts", ColumnType::Timestamp),
                of("y", ColumnType::Bytes),
                of("j", ColumnType::Json),
                of("l", ColumnType::Int64).mode(Mode::Repeated),
                of("r", ColumnType::Record)
                    .fields(vec![of("a", ColumnType::Int64), of("b", ColumnType::Json)]),
            ],
        };
        let arrow = arrow_schema(&schema);
        let (DataType::List(item), DataType::Struct(fields)) =
            (arrow.field(6).data_type(), arrow.field(7).data_type())
        else {
            panic!()
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(i64::MIN), None])),
            Arc::new(Float64Array::from(vec![0.1, f64::NEG_INFINITY])),
            Arc::new(
                Decimal128Array::from(vec![Some(-1_500_000_000), None])
                    .with_precision_and_scale(38, 9)
                    .unwrap(),
            ),
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(1_767_319_445_000_006), None])
                    .with_timezone("UTC"),
            ),
            Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\x00\xff"), None])),
            Arc::new(StringArray::from(vec![Some("{\"a\": [1]}"), None])),
            Arc::new(ListArray::new(
                item.clone(),
                OffsetBuffer::new(vec![0, 2, 2].into()),
                Arc::new(Int64Array::from(vec![1, 2])),
                None,
            )),
            Arc::new(StructArray::new(
                fields.clone(),
                vec![
                    Arc::new(Int64Array::from(vec![Some(5), None])) as ArrayRef,
                    Arc::new(StringArray::from(vec![Some("null"), None])),
                ],
                Some(vec![true, false].into()),
            )),
        ];
        let batch = RecordBatch::try_new(arrow.clone(), columns).unwrap();
        let made = requests(&batch, "r/0001", 7, "t").unwrap();
        assert_eq!(made.len(), 1);
        assert_eq!(
            parsed(&made[0])["rows"],
            json!([
                {"insertId": "r/0001/7", "json": {
                    "i": "-9223372036854775808", "f": 0.1, "n": "-1.5",
                    "ts": "2026-01-02T02:04:05.000006Z", "y": "AP8=", "j": "{\"a\": [1]}",
                    "l": ["1", "2"], "r": {"a": "5", "b": "null"},
                }},
                {"insertId": "r/0001/8", "json": {"f": "-Infinity", "l": []}},
            ])
        );
    }

    #[test]
    fn requests_keep_the_limits() {
        let many = vec!["x"; 1201];
        let made = requests(&texts(&many), "s", 0, "t").unwrap();
        let sizes: Vec<usize> = made.iter().map(Vec::len).collect();
        assert_eq!(sizes, [500, 500, 201]);
        assert_eq!(made[2][200].id, "s/1200");

        // Quotes take two bytes each.
        let large = "\"".repeat(600 << 10);
        let made = requests(&texts(&[large.as_str(); 10]), "s", 0, "t").unwrap();
        assert!(made.len() > 2);
        for request in &made {
            let length = body(request).len();
            assert!(length <= REQUEST_BYTES + 100, "{length}");
        }
        assert_eq!(made.iter().map(Vec::len).sum::<usize>(), 10);

        // One that is larger than a request should be goes alone.
        let huge = "h".repeat(8 << 20);
        let made = requests(&texts(&["a", &huge, "b"]), "s", 0, "t").unwrap();
        let sizes: Vec<usize> = made.iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 1, 1]);
        assert!(body(&made[1]).len() < 10_000_000);
        let error = requests(&texts(&[&"h".repeat(LARGEST_ROW)]), "s", 0, "p.d.t").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert!(
            error.to_string().contains("a row for `p.d.t` is"),
            "{error}"
        );
        assert_eq!(
            requests(&texts(&[]), "s", 0, "t").unwrap(),
            Vec::<Vec<Row>>::new()
        );
    }

    #[test]
    fn ids_fit() {
        let id = format!("{}/{}/{}", "20261121T013450_11fb876f", u32::MAX, u64::MAX);
        assert!(id.len() <= 128);
    }

    #[test]
    fn answers_are_told_by_their_reason_codes() {
        let answer = json!({"insertErrors": [
            {"index": 0, "errors": [{"reason": "stopped", "location": "", "message": "invalid"}]},
            {"index": 2, "errors": [
                {"reason": "stopped"},
                {"reason": "invalid", "location": "a.b", "message": "stopped"},
            ]},
            {"index": 3, "errors": [{"reason": "backendError"}]},
            {"index": 4, "errors": []},
            {"index": 99, "errors": [{"reason": "invalid"}]},
        ]});
        assert_eq!(
            verdict(&answer, 5),
            Verdict {
                again: vec![0, 3, 4],
                refused: vec![Refusal {
                    at: 2,
                    reason: "invalid".into(),
                    column: "a.b".into(),
                }],
            }
        );
        assert_eq!(verdict(&json!({"kind": "…"}), 5), Verdict::default());
    }
}
