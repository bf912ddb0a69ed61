//! The HTTP client against real sockets: where requests go, how often, how long they wait, and what
//! is said when they fail.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use drawoff::clock::SystemClock;
use drawoff::error::{Error, ErrorKind, Result};
use drawoff::http::{
    CallContext, HttpClient, HttpOptions, RateLimit, Request, Response, RetryPolicy, Sign,
    expect_json,
};
use drawoff::telemetry::Meter;
use futures::future::join_all;
use http::Method;
use serde_json::json;
use url::Url;

use crate::support::fake_api::{FakeApi, Reply, in_turn, linked, paged, rows};
use crate::support::tls::Authority;

/// In every query and header that is signed; in no error.
const CANARY: &str = "canary-5d41402a";

/// Short waits, so that the suite is quick.
const QUICK: RetryPolicy = RetryPolicy {
    attempts: 3,
    throttled_attempts: 5,
    base: Duration::from_millis(20),
    cap: Duration::from_millis(100),
    max_elapsed: Duration::from_secs(60),
};

/// Puts the canary into a header and the query.
struct Canary;

#[async_trait]
impl Sign for Canary {
    async fn sign(&self, request: &mut Request, _: &CallContext) -> Result<()> {
        request.headers.insert("x-api-key", CANARY.parse().unwrap());
        request.url.query_pairs_mut().append_pair("key", CANARY);
        Ok(())
    }

    async fn refused(&self, _: &Request, _: &CallContext) -> Result<bool> {
        Ok(false)
    }

    fn describe(&self) -> String {
        "secret `key` of source `acme`".to_owned()
    }
}

struct Nobody;

#[async_trait]
impl Sign for Nobody {
    async fn sign(&self, _: &mut Request, _: &CallContext) -> Result<()> {
        Ok(())
    }

    async fn refused(&self, _: &Request, _: &CallContext) -> Result<bool> {
        Ok(false)
    }

    fn sends_credentials(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        "none".to_owned()
    }
}

fn options(base: &Url) -> HttpOptions {
    let mut options = HttpOptions::new(SystemClock::shared());
    options.origins.allow_url(base).unwrap();
    options.retry = QUICK;
    options
}

fn context() -> CallContext {
    CallContext {
        deadline: None,
        cancel: Default::default(),
        meter: Default::default(),
    }
}

fn within(limit: Duration) -> CallContext {
    CallContext {
        deadline: Some(Instant::now() + limit),
        ..context()
    }
}

fn client(api: &FakeApi) -> HttpClient {
    HttpClient::new(options(&api.url())).unwrap()
}

async fn get(client: &HttpClient, url: Url) -> Result<Response> {
    client.send(Request::get(url), &Canary, &context()).await
}

/// The error's whole text, after making sure that it gives nothing away.
fn text(e: &Error) -> String {
    let text = format!(
        "{} / {:?} / {}",
        e.chain(),
        e,
        e.find_hint().unwrap_or_default()
    );
    assert!(!text.contains(CANARY) && !text.contains("key="), "{text}");
    assert!(!text.contains('?'), "a query: {text}");
    text
}

#[tokio::test]
async fn an_answer_comes_whole_and_is_counted() {
    let api = FakeApi::start(paged(rows(250))).await;
    let client = client(&api);
    let context = context();
    let mut seen = 0;
    for page in 1..=3 {
        let request = Request::get(api.at(&format!("/v1/rows?page={page}&filter[a]=b%2Bc")));
        let answer = client.send(request, &Canary, &context).await.unwrap();
        let json = expect_json(&answer).unwrap().unwrap();
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        seen += value["data"].as_array().unwrap().len();
        assert!(
            !answer.url.as_str().contains(CANARY),
            "the URL is the unsigned one"
        );
    }
    assert_eq!(seen, 250);
    let first = &api.requests()[0];
    assert_eq!(first.header("x-api-key"), Some(CANARY));
    assert_eq!(first.param("filter[a]").unwrap(), "b+c");
    assert!(first.header("user-agent").unwrap().starts_with("drawoff/"));
    assert!(
        first
            .header("accept")
            .unwrap()
            .starts_with("application/json")
    );
    assert!(first.header("accept-encoding").unwrap().contains("gzip"));
    assert_eq!(Meter::get(&context.meter.requests), 3);
    assert!(Meter::get(&context.meter.bytes) > 5000);
    assert_eq!(api.connections(), 1, "the connection is used again");
}

#[tokio::test]
async fn links_to_next_pages_are_signed_like_any_request() {
    let api = FakeApi::start(linked(rows(25))).await;
    let client = client(&api);
    let mut next = Some(api.at("/v1/rows?page=1&per_page=10"));
    let mut seen = 0;
    while let Some(url) = next {
        let answer = get(&client, url).await.unwrap();
        let page: Vec<serde_json::Value> = serde_json::from_slice(&answer.body).unwrap();
        seen += page.len();
        let links = answer.headers["link"].to_str().unwrap();
        let link = links.split(", ").find(|l| l.ends_with("rel=\"next\""));
        next = link.map(|l| l[1..l.find('>').unwrap()].parse().unwrap());
    }
    assert_eq!(seen, 25);
    let signed = |r: &crate::support::fake_api::Received| r.header("x-api-key") == Some(CANARY);
    assert!(api.requests().iter().all(signed));
}

#[tokio::test]
async fn bodies_of_every_kind_are_read() {
    let big: String = format!("[{}0]", "1234567,".repeat(200_000));
    for reply in [
        Reply::json_text(big.clone()),
        Reply::json_text(big.clone()).gzip(),
        Reply::json_text(big.clone()).chunked(),
        Reply::json_text(big.clone()).gzip().chunked(),
        Reply::json_text(big.clone()).until_close(big.len()),
        Reply::json_text(big.clone()).drip(400_000, Duration::from_millis(5)),
    ] {
        let api = FakeApi::start(in_turn(vec![reply])).await;
        let answer = get(&client(&api), api.url()).await.unwrap();
        assert_eq!(answer.body, big.as_bytes());
    }
    let api = FakeApi::start(in_turn(vec![Reply::status(204)])).await;
    let answer = get(&client(&api), api.url()).await.unwrap();
    assert_eq!(expect_json(&answer).unwrap(), None);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_by_its_real_size() {
    let bomb = "0".repeat(300_000);
    for reply in [
        Reply::json_text(bomb.clone()).gzip(),
        Reply::json_text(bomb.clone()),
        Reply::json_text(bomb.clone()).chunked(),
    ] {
        let api = FakeApi::start(in_turn(vec![reply])).await;
        let mut options = options(&api.url());
        options.max_body = 100_000;
        let client = HttpClient::new(options).unwrap();
        let e = get(&client, api.at("/x")).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Decode);
        assert!(text(&e).contains("limit of 100000 bytes"), "{e}");
        assert_eq!(api.requests().len(), 1, "it is not asked for again");
    }
}

#[tokio::test]
async fn nothing_leaves_for_another_origin() {
    let evil = FakeApi::start(in_turn(vec![Reply::json(&json!([]))])).await;
    let api = FakeApi::start(in_turn(vec![Reply::json(&json!([]))])).await;
    let client = client(&api);
    let port = evil.url().port().unwrap();
    for link in [
        evil.url().to_string(),
        format!("//127.0.0.1:{port}/v1"),
        format!("\\\\127.0.0.1:{port}/v1"),
        format!("http://127.0.0.1@127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("https://127.0.0.1:{port}/"),
        api.url()
            .as_str()
            .replace("127.0.0.1", "user:pazz42@127.0.0.1"),
        api.url().as_str().replace("http:", "https:"),
        "http://169.254.169.254/computeMetadata/v1/".to_owned(),
    ] {
        let url = api.at("/v1/rows").join(&link).unwrap();
        let e = get(&client, url).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Rejected, "{link}");
        assert!(!text(&e).contains("pazz42"), "{e}");
    }
    assert!(evil.requests().is_empty() && api.requests().is_empty());
    assert_eq!(evil.connections() + api.connections(), 0);

    let mut options = options(&api.url());
    options
        .origins
        .allow_host(&format!("127.0.0.1:{port}"))
        .unwrap();
    get(&HttpClient::new(options).unwrap(), evil.url())
        .await
        .unwrap();
    assert_eq!(
        evil.requests().len(),
        1,
        "an allowed host is another matter"
    );
}

#[tokio::test]
async fn redirects_stay_within_the_origin() {
    let evil = FakeApi::start(in_turn(vec![Reply::json(&json!([]))])).await;
    for to in [
        evil.url().to_string(),
        format!("//{}/x", evil.url().authority()),
    ] {
        let api = FakeApi::start(in_turn(vec![Reply::redirect(302, to)])).await;
        let e = get(&client(&api), api.at("/v1")).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Rejected);
        let text = text(&e);
        for url in [api.url(), evil.url()] {
            assert!(text.contains(&url.origin().ascii_serialization()), "{text}");
        }
    }
    assert_eq!(evil.connections(), 0);

    let api = FakeApi::start(|r| match r.path.as_str() {
        "/v1/old" => Reply::redirect(301, "new?a=b"),
        "/v1/new" => Reply::redirect(308, "/v2/new?a=b"),
        _ => Reply::json(&json!([])),
    })
    .await;
    let answer = get(&client(&api), api.at("/v1/old")).await.unwrap();
    assert_eq!(answer.url, api.at("/v2/new?a=b"));
    let requests = api.requests();
    assert_eq!(requests.len(), 3);
    assert!(
        requests
            .iter()
            .all(|r| r.header("x-api-key") == Some(CANARY))
    );
    assert_eq!(requests[2].query.matches(CANARY).count(), 1);

    let api = FakeApi::start(in_turn(vec![Reply::redirect(302, "/login")])).await;
    let e = get(&client(&api), api.at("/v1")).await.unwrap_err();
    assert!(text(&e).contains("more than 5 redirects"), "{e}");
    assert_eq!(api.requests().len(), 6);
}

#[tokio::test]
async fn a_post_is_never_turned_into_something_else_by_a_redirect() {
    for (status, method, fits) in [
        (301, "POST", false),
        (302, "POST", false),
        (303, "GET", true),
        (307, "POST", true),
        (308, "POST", true),
    ] {
        let api = FakeApi::start(move |r| match r.path.as_str() {
            "/old" => Reply::redirect(status, "/new"),
            _ => Reply::json(&json!([])),
        })
        .await;
        let mut request = Request::get(api.at("/old"));
        request.method = Method::POST;
        request.body = Some(Bytes::from_static(b"{\"a\":1}"));
        let sent = client(&api).send(request, &Canary, &context()).await;
        assert_eq!(sent.is_ok(), fits, "{status}");
        let requests = api.requests();
        assert_eq!(requests[0].header("content-type"), Some("application/json"));
        if fits {
            assert_eq!(requests[1].method, method);
            assert_eq!(requests[1].body.is_empty(), method == "GET");
        }
    }
}

#[tokio::test]
async fn names_that_lead_inside_are_refused_where_connections_are_made() {
    let api = FakeApi::start(in_turn(vec![Reply::json(&json!([]))])).await;
    let base = api.named("api.test");
    let send = async |ip: &str, allow: bool| {
        let mut options = options(&base);
        options
            .hosts
            .insert("api.test".into(), vec![ip.parse().unwrap()]);
        options.allow_private_network = allow;
        let client = HttpClient::new(options).unwrap();
        client
            .send(Request::get(base.clone()), &Nobody, &context())
            .await
    };
    let e = send("127.0.0.1", false).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Rejected);
    assert!(text(&e).contains("resolves to a private address"), "{e}");
    for ip in ["169.254.169.254", "fe80::1", "fd20:ce::254"] {
        let e = send(ip, true).await.unwrap_err();
        assert!(text(&e).contains("metadata"), "{e}");
    }
    assert_eq!(api.connections(), 0);
    send("127.0.0.1", true).await.unwrap();

    let base = api.named("localhost");
    let client = HttpClient::new(options(&base)).unwrap();
    get(&client, base).await.unwrap();
}

#[tokio::test]
async fn credentials_go_over_plain_http_to_this_machine_only() {
    let api = FakeApi::start(in_turn(vec![Reply::json(&json!([]))])).await;
    let base = api.named("api.test");
    let mut options = options(&base);
    options
        .hosts
        .insert("api.test".into(), vec![[127, 0, 0, 1].into()]);
    options.allow_private_network = true;
    let client = HttpClient::new(options).unwrap();
    let e = get(&client, base.clone()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Config);
    assert!(text(&e).contains("plain http"), "{e}");

    // A connector may put a secret into a header by itself.
    drawoff::telemetry::redact::register("header-secret-8861");
    let mut request = Request::get(base.clone());
    request
        .headers
        .insert("x-key", "a header-secret-8861".parse().unwrap());
    let e = client.send(request, &Nobody, &context()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Config);
    assert_eq!(api.connections(), 0);

    client
        .send(Request::get(base), &Nobody, &context())
        .await
        .unwrap();
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let good = Reply::json(&json!({"data": [1, 2, 3], "more": "x".repeat(1000)}));
    let cut = |n: usize| Reply::json_text(format!("[{}1]", "1,".repeat(n)));
    let retry_after = Reply::status(503).header("retry-after", "1");
    for bad in [
        Reply::status(408),
        Reply::status(425),
        Reply::status(429),
        Reply::status(500),
        Reply::status(502),
        Reply::status(503),
        Reply::status(504),
        retry_after,
        Reply::status(420),
        Reply::reset(),
        cut(1000).truncated(500),
        cut(1000).chunked_cut(500),
        cut(1000).until_close(500),
        cut(1000).until_close(0).truncated(0),
        cut(50_000).gzip().truncated(60),
        // Compressed data that ends early in a body that does not.
        Reply::status(200)
            .header("content-encoding", "gzip")
            .body(&b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x8b"[..]),
    ] {
        let name = format!("{bad:?}");
        let api = FakeApi::start(in_turn(vec![bad.clone(), bad, good.clone()])).await;
        let context = context();
        let mut request = Request::get(api.at("/v1/rows"));
        request.retry = vec![420];
        let answer = client(&api).send(request, &Canary, &context).await;
        let answer = answer.unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert!(answer.body.len() > 1000, "{name}");
        assert_eq!(api.requests().len(), 3, "{name}");
        assert_eq!(Meter::get(&context.meter.retries), 2, "{name}");
    }
}

#[tokio::test]
async fn attempts_come_to_an_end() {
    for (bad, said) in [
        (Reply::status(503), "answered 503"),
        (Reply::reset(), "no answer"),
        (
            Reply::json_text("[1,2,3]").truncated(3),
            "cut off after 3 bytes",
        ),
        (
            Reply::json_text("[1,2,3]").until_close(3),
            "stopped after 3 bytes",
        ),
    ] {
        let api = FakeApi::start(in_turn(vec![bad])).await;
        let e = get(&client(&api), api.at("/v1/rows?page=7"))
            .await
            .unwrap_err();
        assert_eq!((e.kind(), e.exit_code()), (ErrorKind::Unavailable, 75));
        let text = text(&e);
        assert!(
            text.contains("after 3 attempts") && text.contains(said),
            "{text}"
        );
        assert!(
            text.contains(&format!("GET {}", api.at("/v1/rows"))),
            "{text}"
        );
        assert_eq!(api.requests().len(), 3);
    }
}

#[tokio::test]
async fn what_may_not_be_repeated_is_sent_once() {
    for bad in [
        Reply::status(503),
        Reply::too_many("0"),
        Reply::reset(),
        Reply::json_text("[1,2,3]").truncated(3),
    ] {
        let api = FakeApi::start(in_turn(vec![bad, Reply::json(&json!([]))])).await;
        let mut request = Request::get(api.url());
        request.method = Method::POST;
        request.repeatable = false;
        let e = client(&api)
            .send(request, &Canary, &context())
            .await
            .unwrap_err();
        assert!(e.is_transient(), "{e:?}");
        assert_eq!(api.requests().len(), 1);
    }

    // Where nobody listens nothing arrives, so that this may be repeated.
    let gone = FakeApi::start(in_turn(vec![Reply::status(200)]))
        .await
        .url();
    let context = context();
    let mut request = Request::get(gone.clone());
    request.repeatable = false;
    let client = HttpClient::new(options(&gone)).unwrap();
    let e = client.send(request, &Canary, &context).await.unwrap_err();
    assert!(text(&e).contains("refused"), "{e:?}");
    assert_eq!(Meter::get(&context.meter.requests), 3);
}

#[tokio::test]
async fn refusals_say_who_must_do_what() {
    for (status, kind, said) in [
        (400, ErrorKind::Rejected, "does not accept the request"),
        (401, ErrorKind::Auth, "secret `key` of source `acme`"),
        (403, ErrorKind::Auth, "secret `key` of source `acme`"),
        (404, ErrorKind::Rejected, "`ignore_status`"),
        (410, ErrorKind::Rejected, "`ignore_status`"),
        (418, ErrorKind::Rejected, "answered 418"),
        (422, ErrorKind::Rejected, "does not accept the request"),
        (304, ErrorKind::Rejected, "answered 304"),
        (501, ErrorKind::Unavailable, "`retry_status`"),
    ] {
        let api = FakeApi::start(in_turn(vec![
            Reply::status(status).body(format!("your key {CANARY} is bad")),
        ]))
        .await;
        let e = get(&client(&api), api.at("/v1/rows?page=7"))
            .await
            .unwrap_err();
        assert_eq!(e.kind(), kind, "{status}");
        let text = text(&e);
        assert!(text.contains(said), "{text}");
        assert!(
            text.contains(&format!("`GET {}` answered {status}", api.at("/v1/rows"))),
            "{text}"
        );
        assert!(e.find_hint().is_some());
        assert_eq!(api.requests().len(), 1, "{status} is not tried again");
    }
}

#[tokio::test]
async fn a_status_that_the_request_accepts_is_an_answer() {
    let api = FakeApi::start(in_turn(vec![
        Reply::json(&json!({"e": 1})).with_status(404),
    ]))
    .await;
    let mut request = Request::get(api.url());
    request.accept = vec![404];
    let answer = client(&api)
        .send(request, &Canary, &context())
        .await
        .unwrap();
    assert_eq!(
        (answer.status.as_u16(), &answer.body[..]),
        (404, &b"{\"e\":1}"[..])
    );
}

#[tokio::test]
async fn a_login_page_is_no_json() {
    let api = FakeApi::start(in_turn(vec![Reply::html()])).await;
    let answer = get(&client(&api), api.at("/v1/rows?page=7")).await.unwrap();
    let e = expect_json(&answer).unwrap_err();
    let text = text(&e);
    let said = "answered 200 with an HTML page, not JSON (content-type text/html)";
    assert!(text.contains(said) && !text.contains("log in\""), "{text}");
}

#[tokio::test]
async fn too_many_requests_pauses_the_whole_source() {
    let clocked = jiff::fmt::rfc2822::DateTimePrinter::new();
    let date = |offset: i64| {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(offset);
        clocked.timestamp_to_rfc9110_string(&at).unwrap()
    };
    for stop in [
        Reply::too_many("1"),
        Reply::status(503).header("retry-after", "1"),
        Reply::status(403).header("retry-after", "1"),
        Reply::status(403)
            .header("x-ratelimit-remaining", "0")
            .header("x-ratelimit-reset", "1"),
        // An hour behind, and still one second.
        Reply::too_many(date(-3599)).header("date", date(-3600)),
    ] {
        let name = format!("{stop:?}");
        let api = FakeApi::start(move |r| match r.number {
            0 => stop.clone(),
            _ => Reply::json(&json!([])),
        })
        .await;
        let client = client(&api);
        let context = context();
        let first = client.send(Request::get(api.at("/a")), &Canary, &context);
        let second = async {
            // Once the first was told to wait, the second must too.
            while Meter::get(&context.meter.throttled) == 0 {
                tokio::task::yield_now().await;
            }
            let sent = Instant::now();
            client
                .send(Request::get(api.at("/b")), &Canary, &context)
                .await
                .unwrap();
            sent
        };
        let (first, _) = tokio::join!(first, second);
        first.unwrap();
        let requests = api.requests();
        assert_eq!(requests.len(), 3, "{name}");
        for late in &requests[1..] {
            let waited = late.at - requests[0].at;
            assert!(waited >= Duration::from_millis(990), "{name}: {waited:?}");
        }
        assert!(!context.meter.waiting.load(Ordering::SeqCst));
    }
}

#[tokio::test]
async fn an_exhausted_quota_is_waited_out_before_the_next_request() {
    let api = FakeApi::start(|r| {
        let reply = Reply::json(&json!([]));
        match r.number {
            0 => reply.header("RateLimit", "\"default\";r=0;t=1"),
            _ => reply,
        }
    })
    .await;
    let client = client(&api);
    let context = context();
    client
        .send(Request::get(api.url()), &Canary, &context)
        .await
        .unwrap();
    let waiting = async {
        while !context.meter.waiting.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    };
    let (next, ()) = tokio::join!(
        client.send(Request::get(api.url()), &Canary, &context),
        waiting
    );
    next.unwrap();
    let requests = api.requests();
    assert!(requests[1].at - requests[0].at >= Duration::from_millis(990));
    assert_eq!(Meter::get(&context.meter.throttled), 0);
}

#[tokio::test]
async fn a_wait_past_the_deadline_ends_at_once() {
    let api = FakeApi::start(in_turn(vec![Reply::too_many("7200")])).await;
    let client = client(&api);
    let started = Instant::now();
    for _ in 0..2 {
        let e = client
            .send(
                Request::get(api.url()),
                &Canary,
                &within(Duration::from_secs(600)),
            )
            .await
            .unwrap_err();
        assert_eq!((e.kind(), e.exit_code()), (ErrorKind::RateLimited, 75));
        let text = text(&e);
        assert!(text.contains("7200 s") || text.contains("7199 s"), "{text}");
    }
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(api.requests().len(), 1, "the second is not even sent");
}

#[tokio::test]
async fn backing_off_does_not_go_past_the_deadline_either() {
    let api = FakeApi::start(in_turn(vec![
        Reply::status(500).header("retry-after", "60"),
    ]))
    .await;
    let started = Instant::now();
    let e = client(&api)
        .send(
            Request::get(api.url()),
            &Canary,
            &within(Duration::from_secs(5)),
        )
        .await
        .unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(api.requests().len(), 1);
}

#[tokio::test]
async fn throttling_without_end_comes_to_one() {
    let api = FakeApi::start(in_turn(vec![Reply::too_many("-1")])).await;
    let e = get(&client(&api), api.url()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::RateLimited);
    assert!(text(&e).contains("answered 429, 5 times"), "{e}");
    assert_eq!(api.requests().len(), 5);
}

#[tokio::test]
async fn waits_end_when_the_run_is_asked_to_stop() {
    for reply in [
        Reply::too_many("60"),
        Reply::status(500).header("retry-after", "60"),
    ] {
        let api = FakeApi::start(in_turn(vec![reply])).await;
        let client = client(&api);
        let context = context();
        let stop = async {
            while api.requests().is_empty() {
                tokio::task::yield_now().await;
            }
            context.cancel.cancel();
        };
        let started = Instant::now();
        let (sent, ()) = tokio::join!(
            client.send(Request::get(api.url()), &Canary, &context),
            stop
        );
        assert_eq!(sent.unwrap_err().kind(), ErrorKind::Interrupted);
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn a_request_on_the_wire_is_finished() {
    let slow = Reply::json(&json!([1])).delay(Duration::from_millis(300));
    let api = FakeApi::start(in_turn(vec![slow])).await;
    let client = client(&api);
    let context = context();
    let stop = async {
        while api.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        context.cancel.cancel();
    };
    let (sent, ()) = tokio::join!(
        client.send(Request::get(api.url()), &Canary, &context),
        stop
    );
    assert_eq!(&sent.unwrap().body[..], b"[1]");
}

#[tokio::test]
async fn declared_limits_hold_for_all_requests_together() {
    let api = FakeApi::start(in_turn(vec![Reply::json(&json!([]))])).await;
    let mut options = options(&api.url());
    let limit = |requests, millis, burst| RateLimit {
        requests: NonZeroU32::new(requests).unwrap(),
        per: Duration::from_millis(millis),
        burst: NonZeroU32::new(burst),
        turn: Duration::ZERO,
    };
    options.concurrency = 16;
    options.rate_limits = vec![limit(10, 500, 4), limit(15, 1500, 15)];
    let client = HttpClient::new(options).unwrap();
    let started = Instant::now();
    for sent in join_all((0..31).map(|_| get(&client, api.url()))).await {
        sent.unwrap();
    }
    let at: Vec<Instant> = api.requests().iter().map(|r| r.at).collect();
    // They are counted when they go out and measured here when they arrive.
    let slack = Duration::from_millis(100);
    assert!(at[4] - at[0] + slack >= Duration::from_millis(50));
    assert!(
        at.windows(11)
            .all(|w| w[10] - w[0] + slack >= Duration::from_millis(500))
    );
    assert!(
        at.windows(16)
            .all(|w| w[15] - w[0] + slack >= Duration::from_millis(1500))
    );
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn no_more_are_on_the_wire_than_allowed() {
    let slow = Reply::json(&json!([])).delay(Duration::from_millis(50));
    let api = FakeApi::start(in_turn(vec![slow])).await;
    let mut options = options(&api.url());
    options.concurrency = 3;
    let client = HttpClient::new(options).unwrap();
    for sent in join_all((0..12).map(|_| get(&client, api.url()))).await {
        sent.unwrap();
    }
    assert_eq!(api.connections(), 3, "HTTP/1.1: one each, and used again");
}

#[tokio::test]
async fn silence_is_not_waited_for_for_ever() {
    for (reply, said) in [
        (Reply::silence(), "did not answer within"),
        (
            Reply::json_text("[1,2,3]").drip(3, Duration::from_secs(600)),
            "stalled after 3 bytes",
        ),
    ] {
        let api = FakeApi::start(in_turn(vec![reply])).await;
        let mut options = options(&api.url());
        options.read_timeout = Duration::from_millis(200);
        let client = HttpClient::new(options).unwrap();
        let e = get(&client, api.url()).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unavailable);
        assert!(text(&e).contains(said), "{e:?}");
        assert_eq!(api.requests().len(), 3);
    }

    let api = FakeApi::start(in_turn(vec![
        Reply::json_text("[1,2,3]").drip(1, Duration::from_millis(100)),
    ]))
    .await;
    let mut options = options(&api.url());
    options.timeout = Duration::from_millis(300);
    let e = get(&HttpClient::new(options).unwrap(), api.url())
        .await
        .unwrap_err();
    assert!(text(&e).contains("stalled"), "{e:?}");
}

#[tokio::test]
async fn connections_that_the_server_closed_are_replaced() {
    let api = FakeApi::start(|_| {
        let body = "[1]";
        Reply::json_text(body).until_close(body.len())
    })
    .await;
    let client = client(&api);
    for _ in 0..5 {
        get(&client, api.url()).await.unwrap();
    }
    assert_eq!(api.requests().len(), 5);
}

#[tokio::test]
async fn a_private_authority_can_be_trusted_and_verification_stays_on() {
    let authority = Authority::new();
    let file = authority.file();
    let serve = |names: &'static [&'static str], authority: &Authority| {
        let tls = authority.acceptor(names);
        FakeApi::start_tls(tls, in_turn(vec![Reply::json(&json!([]))]))
    };
    let send = async |api: &FakeApi, trust: bool| {
        let base = api.named("api.test");
        let mut options = options(&base);
        options
            .hosts
            .insert("api.test".into(), vec![[127, 0, 0, 1].into()]);
        options.allow_private_network = true;
        options.ca_file = trust.then(|| file.path().to_owned());
        get(&HttpClient::new(options).unwrap(), base).await
    };
    let good = serve(&["api.test"], &authority).await;
    send(&good, true).await.unwrap();
    assert_eq!(good.requests()[0].header("x-api-key"), Some(CANARY));

    let unknown = serve(&["api.test"], &Authority::new()).await;
    let other_name = serve(&["other.test"], &authority).await;
    for (api, trust, why) in [
        (&good, false, "UnknownIssuer"),
        (&unknown, true, "UnknownIssuer"),
        (&other_name, true, "not valid for name"),
    ] {
        let before = (api.requests().len(), api.connections());
        let e = send(api, trust).await.unwrap_err();
        let text = text(&e);
        assert!(
            text.contains("certificate of the server is not valid") && text.contains(why),
            "{text}"
        );
        assert!(text.contains("--ca-file"), "{text}");
        assert!(!e.is_transient());
        assert_eq!(api.requests().len(), before.0, "nothing was sent");
        assert_eq!(api.connections(), before.1 + 1, "it is not tried again");
    }
}

#[tokio::test]
async fn the_certificate_of_an_address_is_verified_too() {
    let authority = Authority::new();
    let file = authority.file();
    let tls = authority.acceptor(&["127.0.0.1"]);
    let api = FakeApi::start_tls(tls, paged(rows(3))).await;
    let mut options = options(&api.url());
    options.ca_file = Some(file.path().to_owned());
    let answer = get(&HttpClient::new(options).unwrap(), api.url())
        .await
        .unwrap();
    assert!(expect_json(&answer).unwrap().is_some());
}

#[tokio::test]
async fn an_unknown_host_is_named() {
    let base = Url::parse("https://no-such-host.invalid/").unwrap();
    let client = HttpClient::new(options(&base)).unwrap();
    let e = get(&client, base).await.unwrap_err();
    assert_eq!((e.kind(), e.exit_code()), (ErrorKind::Unavailable, 75));
    assert!(
        text(&e).contains("could not look up the host `no-such-host.invalid`"),
        "{e:?}"
    );
}

/// Signs with what `refused` made of it.
struct Renewing(AtomicUsize);

#[async_trait]
impl Sign for Renewing {
    async fn sign(&self, request: &mut Request, _: &CallContext) -> Result<()> {
        let version = self.0.load(Ordering::SeqCst);
        request.headers.insert("x-version", version.into());
        Ok(())
    }

    async fn refused(&self, request: &Request, _: &CallContext) -> Result<bool> {
        assert!(
            request.headers.contains_key("x-version"),
            "as it was signed"
        );
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(true)
    }

    fn describe(&self) -> String {
        "secret `key` of source `acme`".to_owned()
    }
}

#[tokio::test]
async fn refused_credentials_are_replaced_once() {
    let api = FakeApi::start(|r| match r.header("x-version") {
        Some("1") => Reply::json(&json!([])),
        _ => Reply::status(401),
    })
    .await;
    let client = client(&api);
    let signer = Renewing(AtomicUsize::new(0));
    client
        .send(Request::get(api.url()), &signer, &context())
        .await
        .unwrap();
    assert_eq!(api.requests().len(), 2);

    let signer = Arc::new(Renewing(AtomicUsize::new(1000)));
    let request = Request::get(api.at("/v1/rows?page=7"));
    let e = client
        .send(request, &*signer, &context())
        .await
        .unwrap_err();
    assert_eq!((e.kind(), e.is_transient()), (ErrorKind::Auth, false));
    assert!(text(&e).contains("secret `key` of source `acme`"), "{e}");
    assert_eq!(api.requests().len(), 4, "sent twice, no more");
    assert_eq!(signer.0.load(Ordering::SeqCst), 1001);
}
