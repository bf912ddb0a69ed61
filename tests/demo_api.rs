//! The demo API over real sockets: credentials, the rate limit, complete pages, the same data for
//! the same moment, and what "changed since" brings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use drawoff::demo::{
    CLIENT_ID, CLIENT_SECRET, COMPANY_ID, DemoApi, RATE_LIMIT, TOKEN, TOKEN_SECONDS,
};
use serde_json::Value;
use url::form_urlencoded::byte_serialize;

use crate::support::frozen_clock::FrozenClock;
use crate::support::plain_http::{Answer, send};

/// 2026-11-21T00:28:19Z.
const NOW: i64 = 1_795_220_899;

struct Api {
    api: DemoApi,
    clock: Arc<FrozenClock>,
    client: reqwest::Client,
}

impl Api {
    fn start() -> Self {
        let clock = FrozenClock::at(NOW);
        Self {
            api: DemoApi::start(clock.clone()).unwrap(),
            clock,
            client: reqwest::Client::new(),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.api.base_url())
    }

    async fn get(&self, path: &str) -> Answer {
        let request = self.client.get(self.url(path));
        send(request.basic_auth(COMPANY_ID, Some(TOKEN))).await
    }

    async fn get_with(&self, path: &str, authorization: &str) -> Answer {
        send(
            self.client
                .get(self.url(path))
                .header("authorization", authorization),
        )
        .await
    }

    async fn post_token(&self, id: &str, secret: &str, body: &str) -> Answer {
        let basic = STANDARD.encode(format!("{id}:{secret}"));
        let request = self
            .client
            .post(self.url("/oauth/token"))
            .header("authorization", format!("Basic {basic}"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.to_owned());
        send(request).await
    }

    async fn access_token(&self) -> String {
        let answer = self
            .post_token(
                &form(CLIENT_ID),
                &form(CLIENT_SECRET),
                "grant_type=client_credentials",
            )
            .await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("cache-control"), "no-store");
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// All records of a numbered endpoint, page by page, with the number of pages.
    async fn all(&self, path: &str, per_page: u64) -> (Vec<Value>, u64) {
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut records = Vec::new();
        for page in 1.. {
            let answer = self
                .get(&format!("{path}{separator}page={page}&per_page={per_page}"))
                .await;
            assert_eq!(answer.status, 200, "page {page} of {path}");
            let body = answer.json();
            let data = body["data"].as_array().unwrap();
            records.extend(data.iter().cloned());
            let total_pages = body["meta"]["total_pages"].as_u64().unwrap();
            assert_eq!(body["meta"]["page"], page);
            if page >= total_pages {
                assert_eq!(body["meta"]["total"], records.len());
                return (records, total_pages);
            }
            assert_eq!(data.len() as u64, per_page.min(100));
        }
        unreachable!()
    }
}

fn form(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect()
}

fn ids(records: &[Value]) -> Vec<i64> {
    records.iter().map(|r| r["id"].as_i64().unwrap()).collect()
}

fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record[field].as_str().unwrap()
}

#[tokio::test]
async fn basic_credentials_are_asked_for_and_checked() {
    let api = Api::start();
    let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
    for (path, authorization) in [
        ("/companies", String::new()),
        ("/tickets", basic(&format!("{COMPANY_ID}:wrong"))),
        ("/companies/1001/contacts", basic(&format!("wrong:{TOKEN}"))),
        ("/companies", basic(COMPANY_ID)),
        ("/companies", format!("Bearer {TOKEN}")),
        ("/companies", "Basic %%%".to_owned()),
    ] {
        let answer = api.get_with(path, &authorization).await;
        assert_eq!(answer.status, 401, "{path} with `{authorization}`");
        assert!(
            answer
                .header("www-authenticate")
                .starts_with("Basic realm=")
        );
        assert_eq!(answer.json()["error"]["code"], "unauthorized");
    }
    assert_eq!(api.get("/companies").await.status, 200);
    assert_eq!(api.get("/companies/7/contacts").await.status, 404);
    assert_eq!(api.get("/nowhere").await.status, 404);
}

#[tokio::test]
async fn a_token_is_given_to_an_encoded_client_only_and_ends() {
    let api = Api::start();
    let grant = "grant_type=client_credentials";

    // As they are, not form-urlencoded: RFC 6749 §2.3.1 is taken by its word.
    let raw = api.post_token(CLIENT_ID, CLIENT_SECRET, grant).await;
    assert_eq!(
        (raw.status, &raw.json()["error"]),
        (401, &"invalid_client".into())
    );
    assert!(raw.header("www-authenticate").starts_with("Basic"));

    let (id, secret) = (form(CLIENT_ID), form(CLIENT_SECRET));
    let other = api.post_token(&id, &secret, "grant_type=password").await;
    assert_eq!(
        (other.status, &other.json()["error"]),
        (400, &"unsupported_grant_type".into())
    );
    let none = api.post_token(&id, &secret, "").await;
    assert_eq!(
        (none.status, &none.json()["error"]),
        (400, &"invalid_request".into())
    );

    let invoices = "/billing/invoices";
    let token = api.access_token().await;
    assert_eq!(
        api.get_with(invoices, &format!("bearer {token}"))
            .await
            .status,
        200
    );
    assert_eq!(api.get(invoices).await.status, 401);
    let refused = api.get_with(invoices, "Bearer 9999999999.x").await;
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").contains("invalid_token"));

    api.clock.advance(TOKEN_SECONDS - 1);
    assert_eq!(
        api.get_with(invoices, &format!("Bearer {token}"))
            .await
            .status,
        200
    );
    api.clock.advance(1);
    assert_eq!(
        api.get_with(invoices, &format!("Bearer {token}"))
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn past_the_limit_it_answers_429_until_the_next_second() {
    let api = Api::start();
    for left in (0..RATE_LIMIT).rev() {
        let answer = api.get("/companies?per_page=1").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-ratelimit-limit"), RATE_LIMIT.to_string());
        assert_eq!(answer.header("x-ratelimit-remaining"), left.to_string());
        assert_eq!(answer.header("x-ratelimit-reset"), (NOW + 1).to_string());
    }
    // Shared by all endpoints, and before credentials are looked at.
    for path in ["/companies", "/billing/invoices", "/nowhere"] {
        let answer = api.get(path).await;
        assert_eq!(answer.status, 429);
        assert_eq!(answer.header("retry-after"), "1");
        assert_eq!(answer.header("x-ratelimit-remaining"), "0");
        assert_eq!(answer.json()["error"]["code"], "too_many_requests");
    }
    api.clock.advance(1);
    assert_eq!(api.get("/companies?per_page=1").await.status, 200);
}

#[tokio::test]
async fn pages_are_complete_whatever_their_size() {
    let api = Api::start();
    let (companies, pages) = api.all("/companies", 100).await;
    assert_eq!((companies.len(), pages), (120, 2));
    assert_eq!(api.all("/companies", 50).await.0, companies);
    // Capped, not refused.
    assert_eq!(api.all("/companies", 5_000).await.1, 2);
    let past = api.get("/companies?page=9&per_page=100").await.json();
    assert_eq!(past["data"].as_array().unwrap().len(), 0);
    assert_eq!(api.get("/companies?page=0").await.status, 400);
    assert_eq!(api.get("/companies?per_page=many").await.status, 400);

    api.clock.advance(1);
    let (tickets, pages) = api.all("/tickets", 100).await;
    assert_eq!((tickets.len(), pages), (5_000, 50));
    assert_eq!(
        ids(&tickets).into_iter().collect::<BTreeSet<_>>().len(),
        5_000
    );
    assert!(tickets.is_sorted_by_key(|t| text(t, "updated_at").to_owned()));
}

#[tokio::test]
async fn contacts_belong_to_their_company_and_tickets_to_both() {
    let api = Api::start();
    let companies = ids(&api.all("/companies", 100).await.0);
    let mut contacts = BTreeMap::new();
    for (n, company) in companies.iter().enumerate() {
        if n % 90 == 0 {
            api.clock.advance(1);
        }
        let (of_one, pages) = api
            .all(&format!("/companies/{company}/contacts"), 100)
            .await;
        assert_eq!(pages, 1);
        assert!(of_one.iter().all(|c| c["company_id"] == *company));
        contacts.extend(ids(&of_one).into_iter().map(|id| (id, *company)));
    }
    assert!(
        (2_700..3_300).contains(&contacts.len()),
        "{}",
        contacts.len()
    );
    api.clock.advance(1);
    for ticket in api.all("/tickets", 100).await.0 {
        let contact = ticket["contact_id"].as_i64().unwrap();
        assert_eq!(
            ticket["company_id"].as_i64(),
            contacts.get(&contact).copied()
        );
    }
}

#[tokio::test]
async fn invoices_come_once_each_by_cursor_and_stay_at_one_moment() {
    let api = Api::start();
    let bearer = format!("Bearer {}", api.access_token().await);
    let mut seen = BTreeSet::new();
    let mut last = String::new();
    let mut path = "/billing/invoices?limit=100".to_owned();
    for page in 1.. {
        let body = api.get_with(&path, &bearer).await.json();
        for invoice in body["invoices"].as_array().unwrap() {
            assert!(seen.insert(text(invoice, "id").to_owned()));
            assert!(text(invoice, "updated_at") >= last.as_str());
            last = text(invoice, "updated_at").to_owned();
        }
        let next = &body["paging"]["next_cursor"];
        assert_eq!(body["paging"]["has_more"], !next.is_null());
        let Some(next) = next.as_str() else {
            assert_eq!(page, 15);
            break;
        };
        path = format!("/billing/invoices?limit=100&cursor={next}");
        // Whatever changes meanwhile must not show, nor shift anything.
        api.clock.advance(3);
    }
    assert_eq!(seen.len(), 1_500);
    let nonsense = api
        .get_with("/billing/invoices?cursor=nonsense", &bearer)
        .await;
    assert_eq!(nonsense.status, 400);
}

#[tokio::test]
async fn amounts_are_numbers_with_all_their_digits() {
    let api = Api::start();
    let bearer = format!("Bearer {}", api.access_token().await);
    let answer = api.get_with("/billing/invoices?limit=100", &bearer).await;
    let body = String::from_utf8(answer.body).unwrap();
    let totals: Vec<&str> = body
        .split("\"total\":")
        .skip(1)
        .map(|rest| rest.split(',').next().unwrap())
        .collect();
    assert_eq!(totals.len(), 100);
    for total in &totals {
        let (_, cents) = total.split_once('.').expect("a decimal point");
        assert_eq!(cents.len(), 2, "{total}");
    }
    // What a float would drop.
    assert!(totals.iter().any(|t| t.ends_with('0')));
}

#[tokio::test]
async fn the_same_moment_is_the_same_bytes() {
    let (one, two) = (Api::start(), Api::start());
    for path in [
        "/companies?page=2&per_page=100",
        "/companies/1050/contacts?per_page=100",
        "/tickets?page=50&per_page=100",
    ] {
        assert_eq!(one.get(path).await.body, two.get(path).await.body, "{path}");
    }
    let bearer = format!("Bearer {}", one.access_token().await);
    let path = "/billing/invoices?limit=100";
    assert_eq!(
        one.get_with(path, &bearer).await.body,
        two.get_with(path, &bearer).await.body
    );

    // A moment that has passed can still be asked for, and looks as it did.
    let then = "/tickets?page=50&per_page=100&updated_until=2026-11-21T00:28:19Z";
    let before = one.get(then).await.body;
    one.clock.advance(600);
    assert_eq!(one.get(then).await.body, before);
    assert_ne!(one.get("/tickets?page=50&per_page=100").await.body, before);
}

#[tokio::test]
async fn changed_since_brings_the_few_that_changed() {
    let api = Api::start();
    let before = api.all("/tickets", 100).await.0;
    let cursor = text(before.last().unwrap(), "updated_at").to_owned();

    // The bound itself is included: who shares its second is not lost.
    let same = api
        .all(&format!("/tickets?updated_since={cursor}"), 100)
        .await
        .0;
    assert_eq!(same[..], before[before.len() - same.len()..]);
    assert!((1..=2).contains(&same.len()));

    api.clock.advance(60);
    let changed = api
        .all(&format!("/tickets?updated_since={cursor}"), 100)
        .await
        .0;
    assert!((2..=9).contains(&changed.len()), "{}", changed.len());
    let old: BTreeMap<i64, &Value> = ids(&before).into_iter().zip(&before).collect();
    let moved = changed
        .iter()
        .filter(|new| text(new, "updated_at") > cursor.as_str())
        .filter_map(|new| Some((old.get(&new["id"].as_i64()?)?, new)))
        .inspect(|(old, new)| assert_ne!(old["status"], new["status"]))
        .count();
    assert!(moved >= 1);

    // Everything that differs from before is among what changed.
    let changed: BTreeSet<i64> = ids(&changed).into_iter().collect();
    for after in api
        .all("/tickets?updated_until=2026-11-21T00:29:19Z", 100)
        .await
        .0
    {
        let id = after["id"].as_i64().unwrap();
        if old.get(&id) != Some(&&after) {
            assert!(changed.contains(&id), "ticket {id} changed unseen");
        }
    }

    let refused = api.get("/tickets?updated_since=yesterday").await;
    assert_eq!(refused.status, 400);
    let message = refused.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.contains("`updated_since`"), "{message}");
}

#[tokio::test]
async fn each_hour_brings_a_ticket_and_lets_the_oldest_go() {
    let api = Api::start();
    let before: BTreeSet<i64> = ids(&api.all("/tickets", 100).await.0).into_iter().collect();
    api.clock.advance(3_600);
    let after: BTreeSet<i64> = ids(&api.all("/tickets", 100).await.0).into_iter().collect();
    assert_eq!(after.len(), 5_000);
    let came: Vec<i64> = after.difference(&before).copied().collect();
    let went: Vec<i64> = before.difference(&after).copied().collect();
    assert!((1..=2).contains(&came.len()), "{came:?}");
    assert_eq!(came.len(), went.len());
    assert!(came.iter().all(|id| id > before.last().unwrap()));
    assert_eq!(went[0], *before.first().unwrap());
}

#[tokio::test]
async fn dropping_it_stops_it() {
    let api = Api::start();
    let url = api.url("/companies");
    assert_eq!(api.get("/companies").await.status, 200);
    drop(api);
    // It stops listening as soon as its task has been told.
    let client = reqwest::Client::new();
    for _ in 0..10_000 {
        if client.get(&url).send().await.is_err_and(|e| e.is_connect()) {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the demo API still listens after it was dropped");
}
