//! Rows that go straight into a table and are lost on the way in silence, refused, or not known to the
//! service yet.

use std::sync::atomic::{AtomicUsize, Ordering};

use drawoff::destination::{BatchKind, Destination, Published, WriteMethod};
use serde_json::json;

use super::*;
use crate::support::faults::grpc::{Call, Fault as GrpcFault, GrpcProxy};

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_acknowledged_and_lost_are_not_published() {
    let dataset = Emulator::get().dataset("direct_silent");
    let spec = people(WriteMethod::InsertAll);
    destination(&dataset).prepare(&spec).await.unwrap();
    // All rows at first, then one of three: they are said to be in, and are not.
    let lost = Arc::new(AtomicUsize::new(0));
    let round = lost.clone();
    let to = meddled(&dataset, move |_, path, body| {
        if !path.ends_with("/insertAll") {
            return Meddling::Pass;
        }
        match round.fetch_add(1, Ordering::SeqCst) {
            0 => Meddling::Answer(200, json!({})),
            _ => {
                let mut body = body.clone();
                body["rows"].as_array_mut().unwrap().pop();
                Meddling::Send(vec![body])
            }
        }
    })
    .await;
    for (run, there) in [("r0", 0), ("r1", 2)] {
        let slice = sent(&to, &spec, 0, run, up_to(3)).await;
        let error = slice.publish(&update(0, run)).await.unwrap_err();
        assert_eq!(error.exit_code(), 75, "{error:?}");
        let words = error.to_string();
        assert!(
            words.contains(&format!(
                "has {there} rows of slice `{run}/0001`, and 3 were sent"
            )) && words.contains("cannot be read yet, or were lost"),
            "{words}"
        );
        // What did go in is taken back, and the checkpoint has not moved.
        assert_eq!(ids(&dataset, "people").await, [0; 0]);
        assert_eq!(version(&to).await, 0);
    }
    let next = destination(&dataset);
    let slice = sent(&next, &spec, 0, "r2", up_to(3)).await;
    assert_eq!(slice.publish(&update(0, "r2")).await.unwrap().rows, 3);
    assert_eq!(ids(&dataset, "people").await, up_to(3));
}

/// Requests of about a hundred rows. 64 KiB are kept free in each.
const REQUEST: usize = (64 << 10) + 5_000;

/// A destination whose write streams go through a proxy.
async fn proxied(dataset: &str) -> (GrpcProxy, BigQuery) {
    let emulator = Emulator::get();
    let proxy = GrpcProxy::start(emulator.grpc()).await;
    let google = emulator.settings_behind(emulator.rest(), &proxy.address);
    let google = Google::new(google, Arc::new(ImpatientClock)).unwrap();
    let target = Target {
        project: PROJECT.into(),
        dataset: dataset.into(),
    };
    let settings = BigQuerySettings {
        request_bytes: Some(REQUEST),
        ..Default::default()
    };
    (proxy, BigQuery::new(google, target, settings).unwrap())
}

/// Ids of the rows that were kept with the rejects of a run, and their reasons.
async fn kept(dataset: &str, run: &str) -> Vec<Vec<String>> {
    ask(&format!(
        "SELECT JSON_VALUE(record, '$.id') AS id, reason, stream FROM {dataset}.people__rejects \
         WHERE _run_id = '{run}' ORDER BY CAST(JSON_VALUE(record, '$.id') AS INT64)"
    ))
    .await
}

/// Enough rows for several requests.
const MANY: i64 = 600;

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_committed_stream_refuses_are_kept_and_the_others_are_there_once() {
    let dataset = Emulator::get().dataset("direct_refuses");
    let (proxy, to) = proxied(&dataset).await;
    let spec = people(WriteMethod::Stream);
    to.prepare(&spec).await.unwrap();
    let bad = [1, 250, 251, MANY];
    proxy.refuse_rows(bad);
    let good: Vec<i64> = up_to(MANY)
        .into_iter()
        .filter(|id| !bad.contains(id))
        .collect();
    let refused = |of: &[i64]| -> Vec<Vec<String>> {
        of.iter()
            .map(|id| {
                let why = format!(
                    "BigQuery refused the row: FIELDS_ERROR: Field id: value {id} is too odd"
                );
                vec![id.to_string(), why, "people".to_owned()]
            })
            .collect()
    };
    let slice = sent(&to, &spec, 0, "r0", up_to(MANY)).await;
    let published = slice.publish(&update(0, "r0")).await.unwrap();
    assert_eq!(
        published,
        Published {
            rows: good.len() as u64,
            deduplicated: 0,
            rejected: 4
        }
    );
    assert!(proxy.count(Call::Append) > 5, "several requests");
    assert_eq!(ids(&dataset, "people").await, good);
    assert_eq!(kept(&dataset, "r0").await, refused(&bad));

    // A connection that breaks before refused rows are taken out: which rows are in is not known for
    // certain, and a committed stream cannot be left behind. The run is for another time.
    proxy.on(Call::Append, 1, GrpcFault::LoseAnswer);
    let more = MANY + 1..=2 * MANY;
    proxy.refuse_rows([MANY + 250]);
    let mut slice = opened(&to, &spec, 1, "r1").await;
    let rows_of_it = batch(&spec.schema, &rows("r1", more.clone()));
    let error = slice.stage(BatchKind::Rows, rows_of_it).await.unwrap_err();
    assert_eq!(error.exit_code(), 75, "{error:?}");
    assert!(
        error
            .to_string()
            .contains("a connection broke while rows were taken out"),
        "{error}"
    );
    assert_eq!(proxy.left(), 0);
    slice.abandon().await.unwrap();
    assert_eq!(ids(&dataset, "people").await, good, "taken back");
    assert_eq!(version(&to).await, 1);
    let slice = sent(&to, &spec, 1, "r2", more.clone()).await;
    assert_eq!(slice.publish(&update(1, "r2")).await.unwrap().rejected, 1);
    let all: Vec<i64> = good
        .into_iter()
        .chain(more.filter(|id| *id != MANY + 250))
        .collect();
    assert_eq!(ids(&dataset, "people").await, all);
    assert_eq!(kept(&dataset, "r1").await, [[""; 0]; 0]);
    assert_eq!(kept(&dataset, "r2").await, refused(&[MANY + 250]));
    assert_eq!(proxy.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_the_write_api_does_not_know_yet_are_waited_for() {
    let dataset = Emulator::get().dataset("direct_columns");
    let (proxy, to) = proxied(&dataset).await;
    let spec = people(WriteMethod::Stream);
    to.prepare(&spec).await.unwrap();
    // The stream is opened until it has the columns, and those that lack them are ended.
    for nth in [1, 2] {
        proxy.on(Call::Create, nth, GrpcFault::OldSchema);
    }
    // Then servers of an older mind take the rows, twice in a row and once later on.
    for nth in [1, 2, 4] {
        proxy.on(Call::Append, nth, GrpcFault::ExtraFields);
    }
    let slice = sent(&to, &spec, 0, "r0", up_to(MANY)).await;
    assert_eq!((proxy.left(), proxy.count(Call::Create)), (0, 3));
    assert_eq!(proxy.count(Call::Finalize), 2, "nobody writes to those");
    let published = slice.publish(&update(0, "r0")).await.unwrap();
    assert_eq!(
        (published.rows, published.rejected),
        (MANY.unsigned_abs(), 0)
    );
    assert_eq!(ids(&dataset, "people").await, up_to(MANY));

    // For ever: for another run, and nothing has happened.
    for nth in 1..=12 {
        proxy.on(Call::Create, nth, GrpcFault::OldSchema);
    }
    let mut slice = opened(&to, &spec, 1, "r1").await;
    let more = batch(&spec.schema, &rows("r1", [MANY + 1]));
    let error = slice.stage(BatchKind::Rows, more).await.unwrap_err();
    assert_eq!((error.exit_code(), proxy.left()), (75, 0), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("the Storage Write API does not know them yet"),
        "{error}"
    );
    slice.abandon().await.unwrap();
    assert_eq!(ids(&dataset, "people").await, up_to(MANY));
    assert_eq!(open_slices(&dataset).await, [""; 0]);
    assert_eq!(proxy.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_stays_unknown_ends_the_slice() {
    let dataset = Emulator::get().dataset("direct_unknown");
    let spec = people(WriteMethod::InsertAll);
    destination(&dataset).prepare(&spec).await.unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let to = meddled(&dataset, move |_, path, _| {
        if !path.ends_with("/insertAll") {
            return Meddling::Pass;
        }
        counter.fetch_add(1, Ordering::SeqCst);
        let why = json!({"error": {"errors": [{"reason": "notFound"}], "message": "Not found"}});
        Meddling::Answer(404, why)
    })
    .await;
    let slice = sent(&to, &spec, 0, "r0", up_to(3)).await;
    let error = slice.publish(&update(0, "r0")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Destination, "{error:?}");
    assert!(error.to_string().contains("404 notFound"), "{error}");
    assert_eq!(calls.load(Ordering::SeqCst), 10);
    assert_eq!(ids(&dataset, "people").await, [0; 0]);
    assert_eq!(version(&to).await, 0);
}
