//! Sessions, through the program: a login call, its token on the requests after it, and when there is a
//! new one.

use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::grants::bench;
use crate::support::binary::Bench;
use crate::support::fake_api::{FakeApi, Received, Reply};
use crate::support::shop::{item, page};
use crate::support::tables::sqlite;

const RUN: [&str; 3] = ["--source", "shop", "-vv"];

fn with_password(api: &FakeApi, session: &str) -> Bench {
    bench(api, &["password"], &format!("{{session: {session}}}"))
        .env("DRAWOFF_SHOP_PASSWORD", "canary p\"w&+=")
}

/// Three items for who shows this.
fn rows(shown: Option<&str>, wanted: &str, request: &Received) -> Reply {
    match shown == Some(wanted) {
        true => page(&[item(1, 1), item(2, 2), item(3, 3)], request),
        false => Reply::status(401),
    }
}

#[tokio::test]
async fn a_token_is_found_anywhere_and_sent_anywhere() {
    let json = "login: {path: /login, body: {user: ann, pass: '{{ config.password }}', n: 7}}";
    let form = "login: {path: /login, form: {user: ann, pass: '{{ config.password }}'}}";
    let get = "login: {path: /login, method: GET, headers: {Authorization: \"Basic {{ ('ann:' ~ config.password) | base64 }}\"}}";
    for (login, token, send, shown) in [
        (json, "/data/token", "", "authorization: Bearer canary-7"),
        (
            json,
            "/data/number",
            "{header: X-Session}",
            "x-session: 1234567",
        ),
        (
            form,
            "header:X-Token",
            "{header: Authorization, prefix: Token}",
            "authorization: Token canary-7",
        ),
        (
            form,
            "header:X-Token",
            "{header: Authorization, prefix: 'key='}",
            "authorization: key=canary-7",
        ),
        (get, "cookie:SID", "{cookie: SID}", "cookie: SID=canary-7"),
        (get, "cookie:SID", "{query: session}", "?session=canary-7"),
    ] {
        let api = FakeApi::start(move |r: &Received| {
            if r.path != "/login" {
                let (name, value) = shown.split_once(": ").unwrap_or(("", ""));
                return match shown.strip_prefix("?session=") {
                    Some(value) => rows(r.param("session").as_deref(), value, r),
                    None => rows(r.header(name), value, r),
                };
            }
            match (r.method.as_str(), r.header("content-type")) {
                ("POST", Some("application/json")) => {
                    let body: serde_json::Value = serde_json::from_slice(&r.body).unwrap();
                    assert_eq!(
                        body,
                        json!({"user": "ann", "pass": "canary p\"w&+=", "n": 7})
                    );
                }
                ("POST", Some("application/x-www-form-urlencoded")) => {
                    assert_eq!(r.field("pass").as_deref(), Some("canary p\"w&+="));
                }
                ("GET", None) => {
                    assert_eq!(
                        r.header("authorization"),
                        Some("Basic YW5uOmNhbmFyeSBwIncmKz0=")
                    );
                }
                other => panic!("{other:?}"),
            }
            Reply::json(&json!({"data": {"token": "canary-7", "number": 1_234_567}}))
                .header("x-token", "canary-7")
                .header("set-cookie", "SID=old; Path=/")
                .header("set-cookie", "other=x")
                .header("set-cookie", "SID=canary-7; HttpOnly; Path=/")
        })
        .await;
        let send = match send {
            "" => String::new(),
            send => format!(", send: {send}"),
        };
        let bench = with_password(&api, &format!("{{{login}, token: '{token}'{send}}}"));
        let ran = bench.run(&RUN).await.exits(0);
        assert!(!ran.all().contains("canary"), "{ran}");
        assert_eq!(sqlite(&bench.path("drawoff.db"), "items").len(), 3);
        let paths: Vec<String> = api.requests().into_iter().map(|r| r.path).collect();
        assert_eq!(paths, ["/login", "/items"], "{shown}");
    }
}

#[tokio::test]
async fn one_logs_in_again_when_the_token_is_refused() {
    // Each session is good for two pages.
    let logins: Arc<Mutex<(u32, u32)>> = Arc::default();
    let state = logins.clone();
    let all: Vec<serde_json::Value> = (1..=65).map(|id| item(id, id)).collect();
    let api = FakeApi::start(move |r: &Received| {
        let mut state = state.lock().unwrap();
        if r.path == "/login" {
            *state = (state.0 + 1, 0);
            return Reply::json(&json!({"t": format!("session-{}", state.0)}));
        }
        let current = format!("session-{}", state.0);
        if r.header("x-session") != Some(&current) || state.1 == 2 {
            return Reply::status(401);
        }
        state.1 += 1;
        page(&all, r)
    })
    .await;
    let session = "{login: {path: /login, form: {p: '{{ config.password }}'}}, token: /t, send: {header: X-Session}}";
    let bench = with_password(&api, session);
    bench.run(&RUN).await.exits(0);
    assert_eq!(sqlite(&bench.path("drawoff.db"), "items").len(), 65);
    assert_eq!(logins.lock().unwrap().0, 4, "seven pages, two a session");
}

#[tokio::test]
async fn a_login_that_fails_is_named_and_not_tried_again() {
    for (reply, says) in [
        (
            Reply::status(401),
            "the API refused the credentials (secret `password` of source `shop`)",
        ),
        (
            Reply::json(&json!({"data": "canary"})),
            "without a token in `/t` of its body",
        ),
        (
            Reply::json(&json!({"t": ""})),
            "without a token in `/t` of its body",
        ),
        (
            Reply::json(&json!({"t": "a\nb"})),
            "cannot stand where `send` says",
        ),
        (Reply::html(), "HTML page"),
    ] {
        let api = FakeApi::start(move |_: &Received| reply.clone()).await;
        let session = "{login: {path: '/login', form: {p: '{{ config.password }}'}}, token: /t}";
        let ran = with_password(&api, session).run(&RUN).await.exits(1);
        assert!(ran.stdout.contains(says), "{says}: {ran}");
        assert!(ran.stdout.contains("/login`"), "{ran}");
        assert!(!ran.all().contains("canary"), "{ran}");
        assert_eq!(api.count(), 1, "{says}");
    }
}

#[tokio::test]
async fn the_login_goes_to_the_apis_own_hosts_only() {
    let api = FakeApi::start(|r: &Received| rows(r.header("x-session"), "canary-7", r)).await;
    let other = FakeApi::start(|_: &Received| Reply::json(&json!({"t": "canary-7"}))).await;
    let session = format!(
        "{{login: {{url: '{}', form: {{p: '{{{{ config.password }}}}'}}}}, token: /t, send: {{header: X-Session}}}}",
        other.at("/login")
    );
    let bench = with_password(&api, &session);
    let ran = bench
        .run(&RUN)
        .await
        .exits(2)
        .complains("the login URL cannot be used");
    assert!(ran.stderr.contains("`allowed_hosts`"), "{ran}");
    assert_eq!(other.connections() + api.connections(), 0);
    // When the source says so, it may.
    let host = other.url().authority().to_owned();
    bench.write(
        "drawoff.yaml",
        &format!("sources: {{shop: {{allowed_hosts: ['{host}']}}}}"),
    );
    bench.run(&RUN).await.exits(0);
    assert_eq!((other.count(), api.count()), (1, 1));

    let evil = FakeApi::start(|_: &Received| Reply::status(200)).await;
    let away = evil.at("/stolen").to_string();
    let api = FakeApi::start(move |_: &Received| Reply::redirect(307, away.clone())).await;
    let session = "{login: {path: /login, form: {p: '{{ config.password }}'}}, token: /t}";
    let ran = with_password(&api, session).run(&RUN).await.exits(1);
    assert!(ran.stdout.contains("a redirect from"), "{ran}");
    assert_eq!(evil.connections(), 0);
}
