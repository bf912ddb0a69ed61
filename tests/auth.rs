//! Credentials against real sockets: how they look on the wire, how many tokens are asked for, and
//! where neither secret nor token ever goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use drawoff::auth::{
    self, AuthConfig, ClientAuth, Credential, Grant, OAuth, OAuthClient, TokenBody,
};
use drawoff::clock::SystemClock;
use drawoff::error::{Error, ErrorKind, Result};
use drawoff::http::{CallContext, HttpClient, HttpOptions, Request, Response, RetryPolicy, Sign};
use drawoff::telemetry::{Meter, redact};
use futures::future::join_all;
use serde_json::{Value, json};
use url::Url;

use crate::support::clock::AheadClock;
use crate::support::fake_api::{FakeApi, Received, Reply, in_turn};
use crate::support::oidc::{self, OidcProvider};

/// In no error, and never at the API.
const SECRET: &str = "s3cr+t%:/ =canary";

fn options(base: &Url) -> HttpOptions {
    let mut options = HttpOptions::new(SystemClock::shared());
    options.origins.allow_url(base).unwrap();
    options.concurrency = 64;
    options.retry = RetryPolicy {
        attempts: 3,
        throttled_attempts: 3,
        base: Duration::from_millis(20),
        cap: Duration::from_millis(100),
        max_elapsed: Duration::from_secs(60),
    };
    options
}

fn context() -> CallContext {
    CallContext {
        deadline: None,
        cancel: Default::default(),
        meter: Default::default(),
    }
}

fn grant(token_url: Url) -> OAuthClient {
    OAuthClient {
        token_url,
        client_id: Credential::new("client 1", "`client_id` of source `acme`"),
        client_secret: Credential::new(SECRET, "secret `client_secret` of source `acme`"),
        scopes: Vec::new(),
        client_auth: ClientAuth::Basic,
        body: TokenBody::Form,
        params: BTreeMap::new(),
        headers: BTreeMap::new(),
        default_ttl: None,
    }
}

fn client_credentials(client: OAuthClient) -> AuthConfig {
    AuthConfig::OAuth(Box::new(OAuth {
        client,
        grant: Grant::ClientCredentials,
    }))
}

/// An API that wants tokens and the server that gives them.
struct World {
    api: FakeApi,
    tokens: FakeApi,
    client: HttpClient,
    signer: Arc<dyn Sign>,
}

impl World {
    async fn new(
        api: impl Fn(&Received) -> Reply + Send + Sync + 'static,
        tokens: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::with(api, tokens, |_, _| {}).await
    }

    async fn with(
        api: impl Fn(&Received) -> Reply + Send + Sync + 'static,
        tokens: impl Fn(&Received) -> Reply + Send + Sync + 'static,
        change: impl Fn(&mut OAuthClient, &mut HttpOptions),
    ) -> Self {
        let api = FakeApi::start(api).await;
        let tokens = FakeApi::start(tokens).await;
        let mut options = options(&api.url());
        let mut grant = grant(tokens.at("/oauth/token?tenant=hidden"));
        change(&mut grant, &mut options);
        let config = client_credentials(grant);
        Self {
            signer: auth::build(config, &options).unwrap(),
            client: HttpClient::new(options).unwrap(),
            api,
            tokens,
        }
    }

    async fn get(&self) -> Result<Response> {
        self.get_in(&context()).await
    }

    async fn get_in(&self, context: &CallContext) -> Result<Response> {
        let request = Request::get(self.api.at("/v1/rows?page=1"));
        self.client.send(request, &*self.signer, context).await
    }

    /// Of each request to the API.
    fn bearers(&self) -> Vec<String> {
        self.api
            .requests()
            .iter()
            .map(|r| r.header("authorization").unwrap().to_owned())
            .collect()
    }
}

/// Token number n is `token-n`, for an hour.
fn numbered(request: &Received) -> Reply {
    token(&format!("token-{}", request.number), json!(3600))
}

fn token(value: &str, expires_in: Value) -> Reply {
    Reply::json(&json!({
        "access_token": value, "token_type": "bearer", "expires_in": expires_in, "scope": "x",
    }))
}

fn fine(_: &Received) -> Reply {
    Reply::json(&json!([]))
}

fn refusal(status: u16, code: &str) -> Reply {
    Reply::json(&json!({
        "error": code,
        "error_description": format!("{SECRET} is wrong"),
    }))
    .with_status(status)
}

fn text(e: &Error) -> String {
    let text = format!(
        "{} / {:?} / {}",
        e.chain(),
        e,
        e.find_hint().unwrap_or_default()
    );
    assert!(
        !text.contains("canary") && !text.contains("hidden"),
        "{text}"
    );
    text
}

#[tokio::test]
async fn basic_and_keys_look_as_the_api_wants() {
    let api = FakeApi::start(fine).await;
    let options = options(&api.url());
    let client = HttpClient::new(options.clone()).unwrap();
    let credential = |value: &str| Credential::new(value, "secret `x` of source `acme`");
    for (config, name, value) in [
        (
            AuthConfig::Basic {
                username: credential("ACME"),
                password: credential("to:ken"),
            },
            "authorization",
            "Basic QUNNRTp0bzprZW4=",
        ),
        (
            AuthConfig::Bearer {
                token: credential("abc"),
            },
            "authorization",
            "Bearer abc",
        ),
        (
            AuthConfig::HeaderKey {
                name: "X-Api-Key".into(),
                value: credential("k e/y"),
            },
            "x-api-key",
            "k e/y",
        ),
    ] {
        let signer = auth::build(config, &options).unwrap();
        let request = Request::get(api.url());
        client.send(request, &*signer, &context()).await.unwrap();
        assert_eq!(api.requests().last().unwrap().header(name), Some(value));
    }
    let config = AuthConfig::QueryKey {
        name: "api_key".into(),
        value: credential("a+b c"),
    };
    let signer = auth::build(config, &options).unwrap();
    // As a server repeats it in a next link, or not.
    for next in ["/rows?page=2", "/rows?api_key=a%2Bb+c&page=2"] {
        client
            .send(Request::get(api.at(next)), &*signer, &context())
            .await
            .unwrap();
        let last = api.requests().pop().unwrap();
        assert_eq!(last.query, "page=2&api_key=a%2Bb+c");
    }
    let signer = auth::build(AuthConfig::None, &options).unwrap();
    client
        .send(Request::get(api.url()), &*signer, &context())
        .await
        .unwrap();
    assert_eq!(api.requests().last().unwrap().header("authorization"), None);
}

#[tokio::test]
async fn a_refused_password_is_sent_once_and_named() {
    let api = FakeApi::start(in_turn(vec![Reply::status(401)])).await;
    let options = options(&api.url());
    let config = AuthConfig::Basic {
        username: Credential::new("ACME", "secret `companyid` of source `acme`"),
        password: Credential::new("a-canary-token", "secret `token` of source `acme`"),
    };
    let signer = auth::build(config, &options).unwrap();
    let client = HttpClient::new(options).unwrap();
    let request = Request::get(api.at("/v1/tickets?page=hidden"));
    let e = client
        .send(request, &*signer, &context())
        .await
        .unwrap_err();
    assert_eq!((e.kind(), e.exit_code()), (ErrorKind::Auth, 1));
    let text = text(&e);
    assert!(
        text.contains(&format!("`GET {}` answered 401", api.at("/v1/tickets"))),
        "{text}"
    );
    assert!(text.contains("secret `token` of source `acme`"), "{text}");
    assert_eq!(api.requests().len(), 1);
}

#[tokio::test]
async fn fifty_requests_share_one_token() {
    let slow = |r: &Received| numbered(r).delay(Duration::from_millis(100));
    let world = World::new(fine, slow).await;
    let context = context();
    for sent in join_all((0..50).map(|_| world.get_in(&context))).await {
        sent.unwrap();
    }
    assert_eq!(world.tokens.requests().len(), 1);
    assert!(world.bearers().iter().all(|b| b == "Bearer token-0"));
    assert_eq!(world.api.requests().len(), 50);
    assert_eq!(Meter::get(&context.meter.requests), 51);
}

#[tokio::test]
async fn fifty_refusals_renew_one_token_once() {
    let old_is_refused = |r: &Received| match r.header("authorization") {
        Some("Bearer token-0") => Reply::status(401).delay(Duration::from_millis(50)),
        _ => Reply::json(&json!([])),
    };
    let world = World::new(old_is_refused, numbered).await;
    for sent in join_all((0..50).map(|_| world.get())).await {
        sent.unwrap();
    }
    assert_eq!(world.tokens.requests().len(), 2);
    let bearers = world.bearers();
    let replayed = bearers.iter().filter(|b| *b == "Bearer token-1").count();
    assert_eq!(replayed, 50);
}

#[tokio::test]
async fn a_second_401_is_final() {
    let world = World::new(|_| Reply::status(401), numbered).await;
    let e = world.get().await.unwrap_err();
    assert_eq!((e.kind(), e.is_transient()), (ErrorKind::Auth, false));
    let text = text(&e);
    assert!(
        text.contains("secret `client_secret` of source `acme`"),
        "{text}"
    );
    assert!(text.contains("/v1/rows` answered 401"), "{text}");
    assert_eq!(world.bearers(), ["Bearer token-0", "Bearer token-1"]);
    assert_eq!(world.tokens.requests().len(), 2);
}

#[tokio::test]
async fn a_403_renews_nothing() {
    let world = World::new(|_| Reply::status(403), numbered).await;
    let e = world.get().await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Auth);
    text(&e);
    assert_eq!(
        (world.api.requests().len(), world.tokens.requests().len()),
        (1, 1)
    );
}

#[tokio::test]
async fn secret_and_token_keep_to_their_origins() {
    let world = World::new(fine, numbered).await;
    world.get().await.unwrap();
    let (api, tokens) = (&world.api.requests()[0], &world.tokens.requests()[0]);
    assert!(!format!("{:?}{:?}", tokens.headers, tokens.body).contains("token-0"));
    let at_api = format!("{:?}{}{:?}", api.headers, api.query, api.body);
    assert!(
        !at_api.contains("canary") && !at_api.contains("Basic"),
        "{at_api}"
    );

    // With a token in hand, nothing goes to the token endpoint's origin, nor by redirect.
    let request = Request::get(world.tokens.url());
    let e = world
        .client
        .send(request, &*world.signer, &context())
        .await
        .unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Rejected);
    let evil = FakeApi::start(fine).await;
    let to = evil.url().to_string();
    let world = World::new(fine, move |_| Reply::redirect(307, to.clone())).await;
    let e = world.get().await.unwrap_err();
    assert!(text(&e).contains("a redirect from"), "{e:?}");
    assert_eq!((evil.connections(), world.api.connections()), (0, 0));
}

#[tokio::test]
async fn tokens_are_renewed_early_and_no_earlier() {
    for (expires_in, default_ttl, good_for) in [
        (json!(3600), None, Some(3540)),
        (json!("3600"), None, Some(3540)),
        (json!(3600.0), Some(5), Some(3540)),
        (json!(100), None, Some(90)),
        (json!(null), Some(100), Some(90)),
        (json!(null), None, None),
        (json!("never"), None, None),
    ] {
        let clock = AheadClock::new();
        let answer = expires_in.clone();
        let world = World::with(
            fine,
            move |r| token(&format!("token-{}", r.number), answer.clone()),
            |grant, options| {
                grant.default_ttl = default_ttl.map(Duration::from_secs);
                options.clock = clock.clone();
            },
        )
        .await;
        world.get().await.unwrap();
        let most = Duration::from_secs(good_for.unwrap_or(1_000_000));
        // The test itself takes time, too.
        let slack = Duration::from_secs(8);
        clock.advance(most - slack);
        world.get().await.unwrap();
        assert_eq!(world.tokens.requests().len(), 1, "{expires_in}: too early");
        clock.advance(slack);
        world.get().await.unwrap();
        let renewed = world.tokens.requests().len() == 2;
        assert_eq!(renewed, good_for.is_some(), "{expires_in}");
    }
}

#[tokio::test]
async fn the_old_token_is_kept_while_its_renewal_fails() {
    let clock = AheadClock::new();
    let world = World::with(
        fine,
        |r| match r.number {
            0 => numbered(r),
            _ => Reply::status(503),
        },
        |_, options| options.clock = clock.clone(),
    )
    .await;
    world.get().await.unwrap();
    clock.advance(Duration::from_secs(3550));
    world.get().await.unwrap();
    world.get().await.unwrap();
    assert_eq!(world.bearers(), ["Bearer token-0"; 3]);
    assert_eq!(
        world.tokens.requests().len(),
        4,
        "one round of attempts, then a rest"
    );
    clock.advance(Duration::from_secs(60));
    let e = world.get().await.unwrap_err();
    assert_eq!((e.kind(), e.exit_code()), (ErrorKind::Unavailable, 75));
    assert!(text(&e).contains("could not get a token from"), "{e:?}");
}

#[tokio::test]
async fn the_client_shows_itself_in_each_way() {
    let encoded = "Basic Y2xpZW50KzE6czNjciUyQnQlMjUlM0ElMkYrJTNEY2FuYXJ5";
    let raw = "Basic Y2xpZW50IDE6czNjcit0JTovID1jYW5hcnk=";
    for (client_auth, header, in_body) in [
        (ClientAuth::Basic, Some(encoded), None),
        (ClientAuth::BasicRaw, Some(raw), None),
        (ClientAuth::Post, None, Some(SECRET)),
    ] {
        for body in [TokenBody::Form, TokenBody::Json] {
            let world = World::with(fine, numbered, |grant, _| {
                grant.client_auth = client_auth.clone();
                grant.body = body;
                grant.scopes = vec!["read".into(), "a b:c".into()];
                grant.params = BTreeMap::from([("audience".into(), "https://api/&x".into())]);
                grant.headers = BTreeMap::from([("ST-App-Key".into(), "app".into())]);
            })
            .await;
            world.get().await.unwrap();
            let asked = &world.tokens.requests()[0];
            assert_eq!(
                (asked.method.as_str(), asked.path.as_str()),
                ("POST", "/oauth/token")
            );
            assert_eq!(asked.param("tenant").unwrap(), "hidden");
            assert_eq!(asked.header("authorization"), header);
            assert_eq!(asked.header("st-app-key"), Some("app"));
            assert!(asked.header("accept").unwrap().contains("application/json"));
            let field = |name: &str| match body {
                TokenBody::Form => asked.field(name),
                TokenBody::Json => {
                    let body: Value = serde_json::from_slice(&asked.body).unwrap();
                    body[name].as_str().map(str::to_owned)
                }
            };
            let media = match body {
                TokenBody::Form => "application/x-www-form-urlencoded",
                TokenBody::Json => "application/json",
            };
            assert_eq!(asked.header("content-type"), Some(media));
            assert_eq!(field("grant_type").unwrap(), "client_credentials");
            assert_eq!(field("scope").unwrap(), "read a b:c");
            assert_eq!(field("audience").unwrap(), "https://api/&x");
            assert_eq!(field("client_secret").as_deref(), in_body);
            assert_eq!(field("client_id").is_some(), in_body.is_some());
        }
    }
}

#[tokio::test]
async fn a_configured_parameter_stands_in_for_a_standard_one() {
    let world = World::with(fine, numbered, |grant, _| {
        grant.params = BTreeMap::from([("grant_type".into(), "account_credentials".into())]);
    })
    .await;
    world.get().await.unwrap();
    let asked = &world.tokens.requests()[0];
    assert_eq!(&asked.body[..], b"grant_type=account_credentials");
}

#[tokio::test]
async fn odd_but_clear_answers_are_taken() {
    for reply in [
        Reply::json(&json!({"access_token": "token-0"})),
        Reply::json(&json!({"access_token": "token-0", "token_type": "BEARER"})),
        Reply::json(&json!({"access_token": "token-0", "error": null})).with_status(201),
        Reply::status(200)
            .header("content-type", "text/html")
            .body("\u{feff}{\"access_token\": \"token-0\"}"),
    ] {
        let world = World::new(fine, in_turn(vec![reply])).await;
        world.get().await.unwrap();
        assert_eq!(world.bearers(), ["Bearer token-0"]);
    }
}

#[tokio::test]
async fn a_refused_client_is_asked_for_once_and_named() {
    for (reply, kind, said) in [
        (
            refusal(401, "invalid_client"),
            ErrorKind::Auth,
            "answered 401 `invalid_client`",
        ),
        (
            refusal(400, "invalid_scope"),
            ErrorKind::Auth,
            "check `scopes`",
        ),
        (
            refusal(400, "unauthorized_client"),
            ErrorKind::Auth,
            "allow the client-credentials grant",
        ),
        (
            refusal(200, "invalid_client"),
            ErrorKind::Auth,
            "`invalid_client`",
        ),
        (
            refusal(400, &format!("bad {SECRET}")),
            ErrorKind::Rejected,
            "answered 400",
        ),
        (Reply::status(401), ErrorKind::Auth, "refused the client"),
        (
            Reply::html(),
            ErrorKind::Decode,
            "without an `access_token`",
        ),
        (
            Reply::html().with_status(404),
            ErrorKind::Rejected,
            "check `token_url`",
        ),
        (
            Reply::json(&json!({"access_token": 7})),
            ErrorKind::Decode,
            "without an `access_token`",
        ),
        (
            Reply::json(&json!({"access_token": ""})),
            ErrorKind::Decode,
            "gave an `access_token` that is empty",
        ),
        (
            Reply::json(&json!({"access_token": " \t"})),
            ErrorKind::Decode,
            "gave an `access_token` that is empty",
        ),
        (
            Reply::json(&json!({"access_token": "", "error": "invalid_client"})),
            ErrorKind::Auth,
            "`invalid_client`",
        ),
        (
            Reply::json(&json!({"access_token": "a\nb"})),
            ErrorKind::Decode,
            "cannot stand in a header",
        ),
        (
            Reply::json(&json!({"access_token": "abc", "token_type": "DPoP"})),
            ErrorKind::Rejected,
            "not a bearer token",
        ),
    ] {
        let world = World::new(fine, in_turn(vec![reply.delay(Duration::from_millis(20))])).await;
        let mut sent = join_all((0..50).map(|_| world.get())).await;
        sent.push(world.get().await);
        for e in sent.into_iter().map(Result::unwrap_err) {
            assert_eq!((e.kind(), e.is_transient()), (kind, false), "{said}: {e:?}");
            let text = text(&e);
            assert!(text.contains(said), "{text}");
            assert!(text.contains("/oauth/token`"), "{text}");
            assert!(e.find_hint().is_some());
        }
        assert_eq!(world.tokens.requests().len(), 1, "{said}: asked again");
        assert_eq!(world.api.connections(), 0);
    }
}

#[tokio::test]
async fn what_may_pass_at_the_token_endpoint_is_tried_again() {
    for bad in [Reply::status(503), Reply::too_many("0"), Reply::reset()] {
        let good = token("token-0", json!(60));
        let world = World::new(fine, in_turn(vec![bad.clone(), bad, good])).await;
        world.get().await.unwrap();
        assert_eq!(world.tokens.requests().len(), 3);
    }
    let world = World::new(fine, |r| match r.number {
        0 => refusal(400, "temporarily_unavailable"),
        _ => numbered(r),
    })
    .await;
    assert_eq!(
        world.get().await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    world.get().await.unwrap();
}

#[tokio::test]
async fn a_failure_that_may_pass_is_shared_by_those_who_waited_for_it() {
    let slow = Reply::status(503).delay(Duration::from_millis(50));
    let world = World::new(fine, in_turn(vec![slow])).await;
    for sent in join_all((0..20).map(|_| world.get())).await {
        assert_eq!(sent.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert_eq!(
        world.tokens.requests().len(),
        3,
        "one round of attempts for all"
    );
    world.get().await.unwrap_err();
    assert_eq!(
        world.tokens.requests().len(),
        6,
        "another for who comes later"
    );
}

#[tokio::test]
async fn waiting_for_a_token_ends_when_the_run_is_asked_to_stop() {
    let world = World::new(fine, in_turn(vec![Reply::too_many("60")])).await;
    let context = context();
    let stop = async {
        while world.tokens.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        context.cancel.cancel();
    };
    let (a, b, ()) = tokio::join!(world.get_in(&context), world.get_in(&context), stop);
    for sent in [a, b] {
        assert_eq!(sent.unwrap_err().kind(), ErrorKind::Interrupted);
    }
}

#[tokio::test]
async fn what_must_not_be_said_is_known_to_redaction() {
    let world = World::new(fine, |_| token("a-canary-token", json!(60))).await;
    world.get().await.unwrap();
    for r in [&world.api.requests()[0], &world.tokens.requests()[0]] {
        let header = r.header("authorization").unwrap();
        let (scheme, _) = header.split_once(' ').unwrap();
        assert_eq!(redact::scrub(header), format!("{scheme} [redacted]"));
    }
    assert_eq!(redact::scrub(&format!("x{SECRET}y")), "x[redacted]y");
}

#[test]
fn what_cannot_work_is_a_configuration_error() {
    type Change = dyn Fn(&mut OAuthClient);
    let base = Url::parse("https://api.test/").unwrap();
    let token_url = Url::parse("https://login.test/token").unwrap();
    let build = |change: &Change| {
        let mut grant = grant(token_url.clone());
        change(&mut grant);
        auth::build(client_credentials(grant), &options(&base))
    };
    assert!(build(&|_| {}).is_ok());
    let cases: [(&str, &Change); 5] = [
        ("secret `client_secret`", &|g| {
            g.client_secret = Credential::new("canary\n", "secret `client_secret`")
        }),
        ("`basic_raw`", &|g| {
            g.client_id = Credential::new("a:b", "`client_id`");
            g.client_auth = ClientAuth::BasicRaw;
        }),
        ("`a b`", &|g| {
            g.headers = BTreeMap::from([("a b".into(), "x".into())])
        }),
        ("user name", &|g| {
            g.token_url = Url::parse("https://u:canary@login.test/").unwrap()
        }),
        ("scheme `ftp`", &|g| {
            g.token_url = Url::parse("ftp://login.test/").unwrap()
        }),
    ];
    for (said, change) in cases {
        let e = build(change).err().unwrap();
        assert_eq!((e.kind(), e.exit_code()), (ErrorKind::Config, 2), "{said}");
        assert!(text(&e).contains(said), "{e:?}");
    }
}

#[tokio::test]
async fn the_secret_goes_over_plain_http_to_this_machine_only() {
    let world = World::with(fine, numbered, |grant, options| {
        let url = grant.token_url.as_str().replace("127.0.0.1", "login.test");
        grant.token_url = Url::parse(&url).unwrap();
        options
            .hosts
            .insert("login.test".into(), vec![[127, 0, 0, 1].into()]);
        options.allow_private_network = true;
    })
    .await;
    let e = world.get().await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Config);
    assert!(text(&e).contains("plain http"), "{e:?}");
    assert_eq!(world.tokens.connections() + world.api.connections(), 0);
}

#[tokio::test]
async fn a_certified_server_gives_tokens_and_knows_them() {
    let server = OidcProvider::get().await;
    let api = FakeApi::start(fine).await;
    let options = options(&api.url());
    let client = HttpClient::new(options.clone()).unwrap();
    let send = async |id: &str, secret: &str, client_auth| {
        let mut grant = grant(server.token_url());
        grant.client_id = Credential::new(id, "`client_id`");
        grant.client_secret = Credential::new(secret, "secret `client_secret`");
        grant.client_auth = client_auth;
        grant.scopes = vec!["read".into()];
        let config = client_credentials(grant);
        let signer = auth::build(config, &options)?;
        client
            .send(Request::get(api.url()), &*signer, &context())
            .await
    };
    for (id, client_auth) in [
        (oidc::BASIC, ClientAuth::Basic),
        (oidc::POST, ClientAuth::Post),
    ] {
        send(id, oidc::SECRET, client_auth).await.unwrap();
        let sent = api.requests().pop().unwrap();
        let token = sent
            .header("authorization")
            .unwrap()
            .strip_prefix("Bearer ")
            .unwrap();
        let known = server.introspect(token).await;
        assert_eq!(known["active"], json!(true), "{known}");
        assert_eq!(known["client_id"], json!(id));
        assert_eq!(known["scope"], json!("read"));
    }
    let before = api.requests().len();
    // It wants what the standard says: id and secret urlencoded.
    for (id, secret, client_auth, code) in [
        (
            oidc::POST,
            oidc::SECRET,
            ClientAuth::BasicRaw,
            "invalid_request",
        ),
        (oidc::BASIC, "wrong", ClientAuth::Basic, "invalid_client"),
        (oidc::POST, "wrong", ClientAuth::Post, "invalid_client"),
    ] {
        let e = send(id, secret, client_auth).await.unwrap_err();
        assert_eq!((e.kind(), e.is_transient()), (ErrorKind::Auth, false));
        assert!(e.to_string().contains(&format!("`{code}`")), "{e:?}");
        assert!(!e.chain().contains(oidc::SECRET), "{e:?}");
    }
    assert_eq!(api.requests().len(), before);
}
