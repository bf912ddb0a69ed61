use std::time::Duration;

use unicode_width::UnicodeWidthStr as _;

use super::*;
use crate::error::{Error, ErrorKind};

fn stream(name: &str, rows: u64, millis: u64) -> StreamReport {
    StreamReport {
        stream: name.to_owned(),
        table: name.to_owned(),
        outcome: Outcome::Done,
        pages: rows.div_ceil(100),
        records: rows,
        rows,
        deduplicated: 0,
        skipped: 0,
        keeps_history: false,
        rejected: 0,
        unknown_fields: Vec::new(),
        keeps_unknown: false,
        changes: Vec::new(),
        requests: rows.div_ceil(100),
        retries: 0,
        throttled: 0,
        bytes: rows * 600,
        duration: Duration::from_millis(millis),
        cursor_before: None,
        cursor_after: None,
        ended: jiff::Timestamp::UNIX_EPOCH,
        slices: 1,
        plan: None,
        jobs: Vec::new(),
        bytes_billed: 0,
        publishes_in_a_day: 0,
        share: Share::All(None),
    }
}

fn run() -> RunReport {
    let mut tickets = stream("tickets", 5_000, 1_250);
    tickets.cursor_before = Some("2026-11-20T23:58:12Z".into());
    tickets.cursor_after = Some("2026-11-21T00:28:12.5Z".into());
    RunReport {
        problem: None,
        run_id: "01JD5Q".into(),
        source: "demo".into(),
        destination: "sqlite:drawoff.db".into(),
        dry_run: false,
        repeated: false,
        streams: vec![stream("companies", 120, 90), tickets],
        duration: Duration::from_millis(1_400),
    }
}

#[test]
fn each_change_of_a_table_is_named() {
    let mut run = run();
    run.streams[0].changes = (0..140)
        .map(|n| format!("added column `c{n}` STRING to `tickets`"))
        .collect();
    let text = render(&run, Paint::plain());
    for n in 0..140 {
        let change = format!("changed: added column `c{n}` STRING to `tickets`\n");
        assert!(text.contains(&change), "{change}: {text}");
    }
}

#[test]
fn rows_that_are_not_published_are_told_apart() {
    let mut run = run();
    run.streams[0].deduplicated = 1;
    run.streams[1].skipped = 2_000;
    let mut history = stream("notes", 5, 1);
    (history.deduplicated, history.keeps_history) = (3, true);
    run.streams.push(history);
    let text = render(&run, Paint::plain());
    let said = "3.1 MB received, 1 row replaced by a newer one, 3 rows that made no new version, 2,000 records left out as no newer than those read before\n";
    assert!(text.contains(said), "{text}");
}

#[test]
fn a_good_run() {
    let text = render(&run(), Paint::plain());
    assert_eq!(
        text,
        r#"demo → sqlite:drawoff.db in 1.4s (run 01JD5Q)

   stream     pages   rows  rejected  duration  rows/s  cursor
✓  companies      2    120         0      90ms   1,333
✓  tickets       50  5,000         0      1.2s   4,000  2026-11-20 23:58:12 → 2026-11-21 00:28:12
   total         52  5,120         0      1.4s   3,657

52 requests, 3.1 MB received

next: sqlite3 -box drawoff.db "SELECT status, count(*) AS tickets FROM tickets GROUP BY status ORDER BY tickets DESC"
"#
    );
    assert!(text.lines().skip(2).take(4).all(|l| l.width() <= WIDTH));
}

#[test]
fn the_table_fits_whatever_it_holds() {
    let mut run = run();
    for s in &mut run.streams {
        s.stream = "organization_repository_pull_request_review_comments".into();
        s.rows = 123_456_789;
        s.pages = 1_234_567;
        s.rejected = 1_000_000;
        s.duration = Duration::from_secs(8_000);
    }
    let text = table(&run, Paint::plain());
    assert!(text.lines().all(|l| l.width() <= WIDTH), "{text}");
    assert!(text.contains("123,456,789"), "{text}");
}

#[test]
fn cursors_are_short() {
    let of = |before: Option<&str>, after: Option<&str>| {
        let mut s = stream("s", 1, 1);
        s.cursor_before = before.map(str::to_owned);
        s.cursor_after = after.map(str::to_owned);
        cursor(&s)
    };
    let (one, two) = ("2026-11-21T00:28:12Z", "2026-11-21T01:28:12Z");
    assert_eq!(of(None, None), "");
    assert_eq!(of(None, Some(one)), "– → 2026-11-21 00:28:12");
    assert_eq!(of(Some(one), Some(two)), "2026-11-21 00:28:12 → 01:28:12");
    assert_eq!(of(Some(one), Some(one)), "2026-11-21 00:28:12 (unchanged)");
    assert_eq!(of(Some("41"), Some("97")), "41 → 97");
}

#[test]
fn what_went_wrong_is_said_with_where_to_look() {
    let mut run = run();
    run.streams[0].rejected = 2;
    run.streams[0].unknown_fields = vec!["fax".into(), "telex".into()];
    run.streams[1].unknown_fields = vec!["fax".into(), "telex".into()];
    run.streams[1].retries = 3;
    run.streams[1].throttled = 1;
    run.streams[1].outcome = Outcome::Failed(
        Error::new(
            ErrorKind::Auth,
            "GET https://api.example/tickets answered 401",
        )
        .hint("check secret `token`"),
    );
    run.streams.push(stream("notes", 0, 5));
    run.streams[2].outcome = Outcome::Interrupted;
    let text = render(&run, Paint::plain());
    let (_, after) = text.split_once("\n52 requests").unwrap();
    assert_eq!(
        after,
        r#", 3.1 MB received, 3 sent again, 1 answer of “too many requests”

warning: stream `companies`: 2 records did not fit the table, kept in `companies__rejects`
  hint: see why: sqlite3 -box drawoff.db "SELECT reason, path, count(*) FROM companies__rejects GROUP BY 1, 2"
warning: stream `notes` was stopped; the next run goes on from there
note: fields without a column are left out of `companies` (`fax` and 1 more), `tickets` (`fax` and 1 more); `drawoff schema --infer` proposes columns
error: GET https://api.example/tickets answered 401
hint: check secret `token`

next: sqlite3 -box drawoff.db "SELECT status, count(*) AS tickets FROM tickets GROUP BY status ORDER BY tickets DESC"
"#
    );
    assert!(text.contains("\n✗  tickets "), "{text}");
    assert!(text.contains("\n…  notes "), "{text}");
}

#[test]
fn a_listing_of_which_nothing_fits_is_said_to_have_changed_nothing() {
    let said = |change: fn(&mut StreamReport)| {
        let mut run = run();
        (run.streams[0].rows, run.streams[0].rejected) = (0, 120);
        change(&mut run.streams[0]);
        warnings(&run, Paint::plain())
    };
    let nothing = "; none did, so its rows stay as they were\n";
    assert!(said(|_| {}).contains(&format!("kept in `companies__rejects`{nothing}")));
    let limit = |s: &mut StreamReport| s.outcome = Outcome::TooManyRejects { limit: 100 };
    assert!(said(limit).contains(&format!("more than the 100 allowed{nothing}")));
    // Where some are in the table, or it is not known what would be.
    for change in [
        |s: &mut StreamReport| s.rows = 1,
        |s: &mut StreamReport| s.deduplicated = 1,
        |s: &mut StreamReport| s.skipped = 1,
        |s: &mut StreamReport| s.outcome = Outcome::Failed(Error::config("x")),
    ] {
        assert!(!said(change).contains("none did"));
    }
}

#[test]
fn a_table_called_like_a_word_of_sql_is_quoted() {
    let mut run = run();
    for stream in &mut run.streams {
        stream.table = "order".into();
    }
    assert_eq!(
        next(&run).unwrap(),
        "sqlite3 -box drawoff.db \"SELECT * FROM [order] LIMIT 5\""
    );
}

#[test]
fn each_destination_has_its_next_step() {
    let mut run = run();
    let mut next_at = |destination: &str| {
        run.destination = destination.to_owned();
        next(&run).unwrap_or_default()
    };
    assert!(next_at("sqlite:my data/x.db").starts_with("sqlite3 -box 'my data/x.db' \"SELECT"));
    assert_eq!(
        next_at("bigquery:proj.raw"),
        "bq query --project_id=proj --use_legacy_sql=false 'SELECT status, count(*) AS tickets FROM `raw`.`tickets` GROUP BY status ORDER BY tickets DESC'"
    );
    assert!(next_at("parquet:out/").contains("FROM 'out/tickets/*.parquet' GROUP"));
    assert_eq!(next_at("stdout"), "");
}

#[test]
fn nothing_new_leaves_nothing_to_try() {
    let mut run = run();
    for s in &mut run.streams {
        s.rows = 0;
    }
    assert_eq!(next(&run), None);
    assert_eq!(warnings(&run, Paint::plain()), "");
}

#[test]
fn plans_say_once_what_they_have_in_common() {
    let plan = |table: &str| crate::destination::Plan {
        shared: vec!["create table `_drawoff_runs`".into()],
        changes: vec![format!("create table `{table}`")],
        steps: Vec::new(),
        sql: Some(format!(
            "DECLARE a;\nDECLARE b;\nBEGIN;\nINSERT INTO {table};\nDELETE x;\nCOMMIT;"
        )),
    };
    let mut run = run();
    for s in &mut run.streams {
        s.plan = Some(plan(&s.stream));
    }
    let text = plans(&run, Paint::plain());
    assert_eq!(
        text,
        "
plan for all streams
  + create table `_drawoff_runs`

plan for `companies`
  + create table `companies`
    DECLARE a;
    DECLARE b;
    BEGIN;
    INSERT INTO companies;
    DELETE x;
    COMMIT;

plan for `tickets`
  + create table `tickets`
    -- … as above
    INSERT INTO tickets;
    DELETE x;
    COMMIT;
"
    );
}

#[test]
fn a_dry_run_shows_its_plan_and_a_run_what_it_cost() {
    let mut run = run();
    run.streams[0].plan = Some(crate::destination::Plan {
        shared: Vec::new(),
        changes: vec!["create table `companies` (id INT64)".into()],
        steps: vec!["stage".into(), "publish".into()],
        sql: Some("BEGIN;\nCOMMIT;".into()),
    });
    run.streams[1].plan = Some(crate::destination::Plan::default());
    run.streams[1].jobs = vec!["a".into(), "b".into()];
    run.streams[1].bytes_billed = 20_000_000;
    run.streams[1].publishes_in_a_day = 1_001;
    let text = render(&run, Paint::plain());
    assert!(
        text.contains(
            "\nplan for `companies`\n  + create table `companies` (id INT64)\n  → stage\n  → publish\n    BEGIN;\n    COMMIT;\n\nplan for `tickets`\n  tables are as they should be\n"
        ),
        "{text}"
    );
    assert!(text.contains("2 jobs billed for 20.0 MB"), "{text}");
    assert!(
        text.contains("warning: table `tickets` was published 1001 times within 24 hours"),
        "{text}"
    );
    run.streams[1].publishes_in_a_day = 1_000;
    assert!(!render(&run, Paint::plain()).contains("24 hours"));
}

#[test]
fn what_other_tasks_read_is_not_shown_as_done() {
    let mut run = run();
    run.streams[0].share = Share::Nothing;
    run.streams[1].share = Share::Part;
    let text = render(&run, Paint::plain());
    assert!(text.contains("\n·  companies"), "{text}");
    assert!(text.contains("\n✓  tickets"), "{text}");
    assert!(
        text.contains(
            "read by other tasks, or left to them: all of `companies` (·); the rest of `tickets`"
        ),
        "{text}"
    );
    run.streams[1].outcome = Outcome::Failed(Error::new(ErrorKind::Unavailable, "no answer"));
    let text = render(&run, Paint::plain());
    assert!(
        text.contains("read by other tasks, or left to them: all of `companies` (·)\n"),
        "{text}"
    );
}
