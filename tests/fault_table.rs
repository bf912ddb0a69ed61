//! Every call of a slice into BigQuery under every fault, for every disposition and write method: after
//! each case the table must hold exactly the rows that it should, at the checkpoint that it should, and
//! no staging table may be left.
//!
//! The table is data: [`POINTS`], [`FAULTS`], the list of [`table!`], and [`excluded`], which says which
//! calls a slice of a kind never makes and why; that these are indeed not made is checked as well.
//!
//! Rows come in the same way whatever is done with them then, so those calls are struck where rows are
//! appended, and the later ones for every kind. `FAULT_TABLE=all` strikes every call for every kind, which
//! takes three times as long. The program itself is killed at every call with each write method.

mod scene;

use drawoff::destination::{Disposition, WriteMethod};
use drawoff::error::ErrorKind;
use serde_json::{Value, json};

use self::scene::{Proxies, Scene, staging};
use crate::support::binary::{Bench, Ran, moment};
use crate::support::emulator::{Emulator, OwnEmulator, PROJECT};
use crate::support::fake_api::FakeApi;
use crate::support::faults::{gate, grpc};
use crate::support::shop::{COLUMNS, Shelf, connector, item, time};
use std::time::Duration;

/// Where a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Point {
    Rest(gate::Call),
    Grpc(grpc::Call),
}

/// The calls of slices, in their order.
const POINTS: [Point; 16] = [
    Point::Rest(gate::Call::CreateStaging),
    Point::Grpc(grpc::Call::Create),
    Point::Rest(gate::Call::NoteOpen),
    Point::Grpc(grpc::Call::Append),
    Point::Rest(gate::Call::InsertAll),
    Point::Rest(gate::Call::OpenUpload),
    Point::Rest(gate::Call::Upload),
    Point::Rest(gate::Call::LoadJob),
    Point::Grpc(grpc::Call::Finalize),
    Point::Grpc(grpc::Call::Commit),
    Point::Rest(gate::Call::Count),
    Point::Rest(gate::Call::Positions),
    Point::Rest(gate::Call::Publish),
    Point::Rest(gate::Call::Job),
    Point::Rest(gate::Call::Results),
    Point::Rest(gate::Call::DropStaging),
];

/// What strikes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// 503 with a page for people, UNAVAILABLE.
    Refused,
    /// The connection is cut before the call arrives.
    Cut,
    /// It arrives, and the connection is cut instead of the answer.
    AnswerLost,
}

const FAULTS: [Fault; 3] = [Fault::Refused, Fault::Cut, Fault::AnswerLost];

/// Why a slice of that kind never makes that call; `None` where it does.
fn excluded(disposition: Disposition, method: WriteMethod, point: Point) -> Option<&'static str> {
    use WriteMethod::{InsertAll, LoadJob, StorageWrite, Stream};
    use gate::Call as Rest;
    match (method, point) {
        (LoadJob | InsertAll, Point::Grpc(_)) => Some("rows come in by REST"),
        (
            StorageWrite | Stream | InsertAll,
            Point::Rest(Rest::OpenUpload | Rest::Upload | Rest::LoadJob),
        ) => Some("no job loads a file"),
        (StorageWrite | LoadJob, Point::Rest(Rest::NoteOpen)) => Some("no row shows early"),
        (StorageWrite | LoadJob | Stream, Point::Rest(Rest::InsertAll | Rest::Count)) => {
            Some("another way in, which knows how many rows there are")
        }
        (Stream | InsertAll, Point::Rest(Rest::CreateStaging | Rest::DropStaging)) => {
            Some("rows go straight into the table")
        }
        (_, Point::Rest(Rest::Positions)) if !disposition.is_keyed() => {
            Some("no row of the table changes, or all go")
        }
        (Stream, Point::Grpc(grpc::Call::Commit)) => Some("rows show when they are acknowledged"),
        _ => None,
    }
}

/// The calls of a slice of that kind that are struck.
fn points(disposition: Disposition, method: WriteMethod) -> Vec<Point> {
    use gate::Call::{DropStaging, Job, Positions, Publish, Results};
    let all = std::env::var_os("FAULT_TABLE").is_some_and(|depth| depth == "all");
    let whole = all || disposition == Disposition::Append;
    POINTS
        .into_iter()
        .filter(|point| excluded(disposition, method, *point).is_none())
        .filter(|point| {
            let late = [Positions, Publish, Job, Results, DropStaging].map(Point::Rest);
            whole || late.contains(point)
        })
        .collect()
}

/// Whether a slice is published when that call is held, before it arrives or after.
fn is_published(point: Point, arrives: bool) -> bool {
    match point {
        Point::Rest(gate::Call::Publish) => arrives,
        Point::Rest(gate::Call::Job | gate::Call::Results | gate::Call::DropStaging) => true,
        _ => false,
    }
}

/// A fault that passes is not noticed.
async fn passes(disposition: Disposition, method: WriteMethod) {
    let mut scene = Scene::new(Emulator::get(), disposition, method).await;
    for point in points(disposition, method) {
        for fault in FAULTS {
            let case = format!("{disposition:?} by {method:?}, {fault:?} at {point:?}");
            scene.proxies.prepare(point);
            scene.proxies.arm(point, fault);
            let published = scene.publish().await;
            assert_eq!(published.expect(&case).rows, 5, "{case}");
            assert_eq!(scene.proxies.left(), 0, "{case}: nothing came by");
            assert_eq!(scene.check(&case), 0, "{case}: something is left staged");
        }
    }
    let never = POINTS
        .iter()
        .filter(|p| excluded(disposition, method, **p).is_some());
    let never = never
        .inspect(|p| scene.proxies.arm(**p, Fault::Refused))
        .count();
    scene.publish().await.unwrap();
    assert_eq!(
        scene.proxies.left(),
        never,
        "{method:?}: an excluded call was made"
    );
    assert_eq!(scene.proxies.grpc.complaints(), [""; 0]);
}

/// A fault that lasts ends the slice, or is of no more consequence; another run does it all.
async fn lasts(disposition: Disposition, method: WriteMethod) {
    use gate::Call::{DropStaging, Job, Positions, Publish, Results};
    let mut scene = Scene::new(Emulator::get(), disposition, method).await;
    for point in points(disposition, method) {
        let case = format!("{disposition:?} by {method:?}, always at {point:?}");
        scene.proxies.prepare(point);
        for _ in 0..40 {
            scene.proxies.arm(point, Fault::Refused);
        }
        let published = scene.publish().await;
        assert!(scene.proxies.left() < 40, "{case}: nothing came by");
        scene.proxies.clear();
        match point {
            // The checkpoint says that it went through; the staging table cannot be dropped.
            Point::Rest(Job | Results | DropStaging) => {
                assert_eq!(published.expect(&case).rows, 5, "{case}");
            }
            _ => {
                let error = published.expect_err(&case);
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{case}: {error:?}");
            }
        }
        // Of an unclear end a job may still need the table.
        let staged =
            !method.is_direct() && matches!(point, Point::Rest(Positions | Publish | DropStaging));
        let left = usize::from(staged);
        scene.take_back().await;
        assert_eq!(scene.check(&case), left, "{case}: staging tables");
        assert_eq!(scene.publish().await.expect(&case).rows, 5, "{case}");
        assert_eq!(scene.check(&case), left, "{case}: staging tables");
        scene.swept().await;
    }
}

/// A run dies before and after each call arrives; the next finds what it needs and no more.
async fn dies(disposition: Disposition, method: WriteMethod) {
    let mut scene = Scene::new(Emulator::get(), disposition, method).await;
    for point in points(disposition, method) {
        for arrives in [false, true] {
            let when = if arrives { "after" } else { "before" };
            let case = format!("{disposition:?} by {method:?}, died {when} {point:?}");
            scene
                .dies_at(point, arrives, is_published(point, arrives))
                .await;
            scene.take_back().await;
            scene.check(&case);
            assert_eq!(scene.publish().await.expect(&case).rows, 5, "{case}");
            scene.check(&case);
        }
        scene.swept().await;
    }
}

/// Taking back what a dead run has left meets faults itself.
async fn takes_back(method: WriteMethod) {
    use gate::Call::{Claim, DeleteRows, Forget};
    let mut scene = Scene::new(Emulator::get(), Disposition::Append, method).await;
    let calls = match method {
        // Rows of a dead run may still be on their way, so the slice is kept in mind for a while.
        WriteMethod::InsertAll => &[Claim, DeleteRows][..],
        _ => &[Claim, DeleteRows, Forget][..],
    };
    let last = Point::Rest(gate::Call::Publish);
    for call in calls {
        for fault in FAULTS {
            let case = format!("{method:?}, {fault:?} at {call:?}");
            scene.dies_at(last, false, false).await;
            scene.proxies.arm(Point::Rest(*call), fault);
            assert_eq!(scene.publish().await.expect(&case).rows, 5, "{case}");
            assert_eq!(scene.proxies.left(), 0, "{case}: nothing came by");
            scene.check(&case);
        }
    }
}

mod taking_back {
    use super::{WriteMethod, takes_back};

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_stream() {
        takes_back(WriteMethod::Stream).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_insert_all() {
        takes_back(WriteMethod::InsertAll).await;
    }
}

/// Two runs at once: at most one of them is told to try again, and nothing is there twice.
async fn two_runs(disposition: Disposition, method: WriteMethod) {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("twice");
    let shelf = Shelf::of(20);
    let api = FakeApi::start(move |request| shelf.serve(request)).await;
    let bench = bench(&api, disposition, method, emulator.rest(), emulator.grpc());
    let to = format!("bigquery:{PROJECT}.{dataset}");
    let args = ["--source", "shop", "--destination", &to];
    let (one, two) = tokio::join!(bench.run(&args), bench.run(&args));
    let failed: Vec<Ran> = [one, two]
        .into_iter()
        .filter(|ran| ran.code != Some(0))
        .collect();
    assert!(failed.len() <= 1, "{}\n{}", failed[0], failed[1]);
    for ran in failed {
        assert!(matches!(ran.code, Some(1 | 75)), "{ran}");
        // By the lease, or by the version of the checkpoint.
        let told = ["holds its lease", "another run"];
        assert!(told.iter().any(|t| ran.all().contains(t)), "{ran}");
    }
    let (ids, _, staged) = landed(emulator, &dataset);
    assert_eq!(ids, (1..=20).collect::<Vec<_>>());
    assert_eq!(staged, 0);
}

/// The service is restarted in the middle of a slice, and loses what it had in memory. The slice comes
/// through, or it does not and the next is whole.
async fn restarted(disposition: Disposition, method: WriteMethod) {
    let at = match method {
        WriteMethod::StorageWrite | WriteMethod::Stream => Point::Grpc(grpc::Call::Finalize),
        WriteMethod::LoadJob => Point::Rest(gate::Call::Upload),
        WriteMethod::InsertAll => Point::Rest(gate::Call::Count),
    };
    let own = tokio::task::block_in_place(OwnEmulator::start);
    let mut scene = Scene::new(&own.emulator, disposition, method).await;
    scene.publish().await.unwrap();
    let proxies = scene.proxies.clone();
    proxies.hold(at, false);
    let restart = async {
        while proxies.held() == 0 {
            moment(Duration::from_millis(5)).await;
        }
        tokio::task::block_in_place(|| own.restart());
        proxies.grpc.release();
        proxies.rest.release();
    };
    let (published, ()) = tokio::join!(scene.publish(), restart);
    if let Err(error) = &published {
        let told = ["could not end the write stream"];
        assert!(
            told.iter().any(|t| error.to_string().contains(t)),
            "{error:?}"
        );
    }
    scene.take_back().await;
    assert_eq!(scene.check("restarted"), 0);
    scene.publish().await.unwrap();
    assert_eq!(scene.check("another slice"), 0);
}

/// A test for each kind of fault and each kind of slice that there is: rows that go straight into a
/// table are only appended.
macro_rules! table {
    ($($kind:ident: $disposition:ident by $method:ident;)*) => {
        table!(@ faults_that_pass passes $($kind $disposition $method)*);
        table!(@ faults_that_last lasts $($kind $disposition $method)*);
        table!(@ a_run_that_dies dies $($kind $disposition $method)*);
        table!(@ two_runs_at_once two_runs $($kind $disposition $method)*);
        table!(@ a_service_that_restarts restarted $($kind $disposition $method)*);
    };
    (@ $name:ident $test:ident $($kind:ident $disposition:ident $method:ident)*) => {
        mod $name {
            use super::{Disposition, WriteMethod};
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $kind() {
                    super::$test(Disposition::$disposition, WriteMethod::$method).await;
                }
            )*
        }
    };
}

table! {
    append_by_storage_write: Append by StorageWrite;
    append_by_load_job: Append by LoadJob;
    append_by_stream: Append by Stream;
    append_by_insert_all: Append by InsertAll;
    merge_by_storage_write: Merge by StorageWrite;
    merge_by_load_job: Merge by LoadJob;
    replace_by_storage_write: Replace by StorageWrite;
    replace_by_load_job: Replace by LoadJob;
    scd2_by_storage_write: Scd2 by StorageWrite;
    scd2_by_load_job: Scd2 by LoadJob;
}

/// A connector whose stream `items` has this disposition.
fn bench(
    api: &FakeApi,
    disposition: Disposition,
    method: WriteMethod,
    rest: &str,
    storage: &str,
) -> Bench {
    let word = |value: Value| value.as_str().unwrap().to_owned();
    let disposition_word = word(serde_json::to_value(disposition).unwrap());
    let method = word(serde_json::to_value(method).unwrap());
    let incremental =
        "incremental: {cursor: updated_at, since_param: since, sorted: true}, ".to_owned();
    let more = match disposition {
        Disposition::Append => format!("primary_key: ~, {incremental}"),
        Disposition::Replace => String::new(),
        _ => incremental,
    };
    let stream = format!(
        "items: {{{more}table: {{disposition: {disposition_word}, write_method: {method}}}}}"
    );
    let bench = Bench::with("shop", &connector(&api.url(), &[&stream])).bigquery(rest, storage);
    bench.schema("shop", "items", &COLUMNS);
    bench
}

/// Ids of the rows, ascending; the cursor of the checkpoint; the number of staging tables. Rows and
/// checkpoint are of one moment.
fn landed(emulator: &Emulator, dataset: &str) -> (Vec<i64>, Option<String>, usize) {
    let answers = tokio::task::block_in_place(|| {
        emulator.ask(vec![
            json!({"query": format!(
                "SELECT id, NULL AS cursor FROM `{dataset}.items` UNION ALL
                 SELECT NULL, JSON_VALUE(state, '$.cursor') FROM `{dataset}._drawoff_checkpoints`
                 WHERE version > 0 ORDER BY id"
            )}),
            json!({"tables": dataset}),
        ])
    });
    let rows = answers[0].as_array().unwrap();
    let ids = rows.iter().filter_map(|r| r["id"].as_i64()).collect();
    let mut checkpoints = rows.iter().filter(|r| r["id"].is_null());
    let cursor = checkpoints
        .next()
        .and_then(|r| r["cursor"].as_str().map(str::to_owned));
    assert!(checkpoints.next().is_none(), "two checkpoints");
    (ids, cursor, staging(&answers[1]))
}

/// `kill -9` before and after each call arrives; the next run finds what it needs and no more. Appended,
/// because a row that comes twice is there twice then.
async fn killed(method: WriteMethod) {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("kills");
    let proxies = Proxies::of(emulator).await;
    let shelf = Shelf::of(3);
    let served = shelf.clone();
    let api = FakeApi::start(move |request| served.serve(request)).await;
    let (rest, storage) = (&proxies.rest.url, &proxies.grpc.address);
    let bench = bench(&api, Disposition::Append, method, rest, storage);
    let to = format!("bigquery:{PROJECT}.{dataset}");
    let args = ["--source", "shop", "--destination", &to];
    // The rows are exactly those up to the checkpoint, whenever one looks.
    let consistent = |case: &str| {
        let (ids, cursor, _) = landed(emulator, &dataset);
        let last = *ids.last().unwrap_or(&0);
        assert_eq!(ids, (1..=last).collect::<Vec<_>>(), "{case}");
        let cursor = cursor.map(|c| c.parse().unwrap());
        let want: Option<jiff::Timestamp> = (last > 0).then(|| time(last).parse().unwrap());
        assert_eq!(cursor, want, "{case}");
        last
    };
    let mut all = 3;
    for point in points(Disposition::Append, method) {
        for arrives in [false, true] {
            let when = if arrives { "after" } else { "before" };
            let case = format!("killed {when} {point:?}");
            proxies.prepare(point);
            proxies.hold(point, arrives);
            let before = proxies.held();
            let mut run = bench.spawn(&args);
            let held = run.until(|| proxies.held() > before).await;
            if !held {
                panic!("{case}: it did not come by: {}", run.end().await);
            }
            run.kill().await;
            assert_eq!(proxies.left(), 0, "{case}");
            // Rows that went straight into the table show, until the next run has taken them back.
            if !method.is_direct() {
                consistent(&case);
            }
            bench.run(&args).await.exits(0);
            assert_eq!(consistent(&case), all, "{case}, and run again");
            all += 2;
            shelf.change(|rows| rows.extend([item(all - 1, all - 1), item(all, all)]));
        }
    }
}

mod killed_at_every_call {
    use super::{WriteMethod, killed};

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn storage_write() {
        killed(WriteMethod::StorageWrite).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn load_job() {
        killed(WriteMethod::LoadJob).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn stream() {
        killed(WriteMethod::Stream).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn insert_all() {
        killed(WriteMethod::InsertAll).await;
    }
}
