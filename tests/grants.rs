//! Every way to get a token without a person, through the program: what is posted, what goes on the
//! requests after it, and where neither goes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};

use crate::support::binary::Bench;
use crate::support::fake_api::{FakeApi, Received, Reply};
use crate::support::oidc::{self, OidcProvider};
use crate::support::shop::{COLUMNS, item, page};
use crate::support::tables::sqlite;

/// A connector of one stream `items` at the API with this auth, its keys declared secret.
pub fn bench(api: &FakeApi, keys: &[&str], auth: &str) -> Bench {
    let keys: String = keys
        .iter()
        .map(|key| format!("  {key}: {{description: K, secret: true}}\n"))
        .collect();
    let yaml = format!(
        "title: Shop\nconfig:\n{keys}base_url: {}\nauth: {auth}\nrecords: /data\nprimary_key: [id]\n\
         pagination: {{page: {{size_param: per_page, size: 10, total_pages: /total_pages}}}}\nstreams: {{items: }}\n",
        api.url().as_str().trim_end_matches('/')
    );
    let bench = Bench::with("shop", &yaml);
    bench.schema("shop", "items", &COLUMNS);
    bench
}

/// A page of three items for who bears this.
fn for_bearer(token: &str, request: &Received) -> Reply {
    match request.header("authorization") == Some(&format!("Bearer {token}")) {
        true => page(&[item(1, 1), item(2, 2), item(3, 3)], request),
        false => Reply::status(401),
    }
}

fn token(value: &str) -> Reply {
    Reply::json(&json!({"access_token": value, "token_type": "Bearer", "expires_in": 3600}))
}

#[tokio::test]
async fn a_password_is_offered_with_and_without_a_client() {
    for (client, id) in [("", None), ("client_id: c 1, ", Some("c 1"))] {
        let api = FakeApi::start(|r: &Received| match r.path.as_str() {
            "/token" => token("t-1"),
            _ => for_bearer("t-1", r),
        })
        .await;
        let auth = format!(
            "{{oauth2: {{password: {{token_url: '{}', {client}username: ann, password: '{{{{ config.password }}}}', scopes: [a, b]}}}}}}",
            api.at("/token")
        );
        let bench = bench(&api, &["password"], &auth).env("DRAWOFF_SHOP_PASSWORD", "p+w %d&=");
        bench.run(&["--source", "shop"]).await.exits(0);
        let asked = &api.requests()[0];
        assert_eq!(asked.path, "/token");
        for (name, value) in [
            ("grant_type", Some("password")),
            ("username", Some("ann")),
            ("password", Some("p+w %d&=")),
            ("scope", Some("a b")),
            ("client_id", id),
            ("client_secret", None),
        ] {
            assert_eq!(asked.field(name).as_deref(), value, "{name}");
        }
        assert_eq!(asked.header("authorization"), None);
        assert_eq!(sqlite(&bench.path("drawoff.db"), "items").len(), 3);
    }
}

#[tokio::test]
async fn a_wrong_password_is_offered_once_and_named() {
    let api = FakeApi::start(|_: &Received| {
        Reply::json(&json!({"error": "invalid_grant", "error_description": "canary"}))
            .with_status(400)
    })
    .await;
    let auth = format!(
        "{{oauth2: {{password: {{token_url: '{}', username: ann, password: '{{{{ config.password }}}}'}}}}}}",
        api.at("/token")
    );
    let bench = bench(&api, &["password"], &auth).env("DRAWOFF_SHOP_PASSWORD", "canary-password");
    let ran = bench
        .run(&["--source", "shop"])
        .await
        .exits(1)
        .says("answered 400 `invalid_grant`")
        .says("secret `password` of source `shop`")
        .says("hint: check user name and password");
    assert!(!ran.all().contains("canary"), "{ran}");
    assert_eq!(api.count(), 1);
}

/// A key pair as PEM: private, public.
fn rsa() -> (String, String) {
    let pair = oidc::rsa();
    (pair.serialize_pem(), pair.public_key_pem())
}

fn ec() -> (String, String) {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    (pair.serialize_pem(), pair.public_key_pem())
}

fn claims(statement: &str, algorithm: Algorithm, key: &DecodingKey, audience: &str) -> Value {
    let mut rules = Validation::new(algorithm);
    rules.set_audience(&[audience]);
    rules.set_required_spec_claims(&["exp", "aud"]);
    decode::<Value>(statement, key, &rules).unwrap().claims
}

#[tokio::test]
async fn statements_are_signed_by_every_algorithm() {
    let (rsa_private, rsa_public) = rsa();
    let (ec_private, ec_public) = ec();
    let secret = "a-shared-secret-of-32-characters";
    let rsa_key = DecodingKey::from_rsa_pem(rsa_public.as_bytes()).unwrap();
    for (alg, name, key, public) in [
        (
            Algorithm::RS256,
            "private_key",
            rsa_private.clone(),
            rsa_key.clone(),
        ),
        (
            Algorithm::RS384,
            "private_key",
            rsa_private.clone(),
            rsa_key.clone(),
        ),
        // As environments often hold it.
        (
            Algorithm::RS512,
            "private_key",
            rsa_private.replace('\n', "\\n"),
            rsa_key,
        ),
        (
            Algorithm::ES256,
            "private_key",
            ec_private,
            DecodingKey::from_ec_pem(ec_public.as_bytes()).unwrap(),
        ),
        (
            Algorithm::HS256,
            "secret",
            secret.to_owned(),
            DecodingKey::from_secret(secret.as_bytes()),
        ),
    ] {
        let api = FakeApi::start(|r: &Received| match r.path.as_str() {
            "/token" => token("t-1"),
            _ => for_bearer("t-1", r),
        })
        .await;
        let auth = format!(
            "{{oauth2: {{jwt_bearer: {{token_url: '{}?x=y', {name}: '{{{{ config.key }}}}', alg: {alg:?}, kid: key-7, issuer: me, subject: ann, lifetime: 10m, claims: {{tenant: 7, scope: a b}}, scopes: [s]}}}}}}",
            api.at("/token")
        );
        let bench = bench(&api, &["key"], &auth).env("DRAWOFF_SHOP_KEY", &key);
        bench.run(&["--source", "shop"]).await.exits(0);
        let asked = &api.requests()[0];
        let statement = asked.field("assertion").unwrap();
        assert_eq!(
            asked.field("grant_type").as_deref(),
            Some("urn:ietf:params:oauth:grant-type:jwt-bearer")
        );
        assert_eq!(asked.field("scope").as_deref(), Some("s"));
        assert_eq!(asked.field("client_id"), None);
        let header = decode_header(&statement).unwrap();
        assert_eq!((header.alg, header.kid.as_deref()), (alg, Some("key-7")));
        let said = claims(&statement, alg, &public, api.at("/token").as_str());
        assert_eq!((&said["iss"], &said["sub"]), (&json!("me"), &json!("ann")));
        assert_eq!(
            (&said["tenant"], &said["scope"]),
            (&json!(7), &json!("a b"))
        );
        let (from, to) = (said["iat"].as_i64().unwrap(), said["exp"].as_i64().unwrap());
        assert_eq!(to - from, 600);
        assert_eq!(said["jti"].as_str().unwrap().len(), 32);
        assert_eq!(sqlite(&bench.path("drawoff.db"), "items").len(), 3);
    }
}

#[tokio::test]
async fn each_attempt_has_a_statement_of_its_own() {
    let api = FakeApi::start(|r: &Received| match (r.path.as_str(), r.number) {
        ("/token", 0) => Reply::reset(),
        ("/token", 1) => Reply::status(503),
        ("/token", _) => token("t-1"),
        _ => for_bearer("t-1", r),
    })
    .await;
    let (private, _) = ec();
    let auth = format!(
        "{{oauth2: {{client_credentials: {{token_url: '{}', client_id: me, client_auth: {{private_key_jwt: {{private_key: '{{{{ config.key }}}}', alg: ES256}}}}}}}}}}",
        api.at("/token")
    );
    let bench = bench(&api, &["key"], &auth).env("DRAWOFF_SHOP_KEY", &private);
    bench.run(&["--source", "shop"]).await.exits(0);
    let requests = api.requests();
    let asked: Vec<&Received> = requests.iter().filter(|r| r.path == "/token").collect();
    assert_eq!(asked.len(), 3);
    let mut statements: Vec<String> = asked
        .iter()
        .map(|r| {
            assert_eq!(
                r.field("client_assertion_type").as_deref(),
                Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
            );
            assert_eq!(r.field("client_id").as_deref(), Some("me"));
            assert_eq!(r.field("client_secret"), None);
            assert_eq!(r.header("authorization"), None);
            r.field("client_assertion").unwrap()
        })
        .collect();
    statements.sort();
    statements.dedup();
    assert_eq!(statements.len(), 3);
}

#[tokio::test]
async fn a_key_that_does_not_fit_is_said_before_anything_is_sent() {
    let (ec_private, _) = ec();
    for (alg, key, says) in [
        (
            "RS256",
            ec_private.as_str(),
            "is not an RSA private key as PEM",
        ),
        ("RS256", "canary-no-key", "is not an RSA private key as PEM"),
        (
            "ES256",
            "-----BEGIN EC PRIVATE KEY-----\nY2FuYXJ5\n-----END EC PRIVATE KEY-----",
            "openssl pkcs8 -topk8",
        ),
    ] {
        let api = FakeApi::start(|_: &Received| Reply::status(500)).await;
        let auth = format!("{{jwt: {{private_key: '{{{{ config.key }}}}', alg: {alg}}}}}");
        let bench = bench(&api, &["key"], &auth).env("DRAWOFF_SHOP_KEY", key);
        let ran = bench
            .run(&["--source", "shop"])
            .await
            .exits(2)
            .complains(says);
        assert!(
            ran.stderr.contains("secret `key` of source `shop`"),
            "{ran}"
        );
        assert!(
            !ran.all().contains("canary") && !ran.all().contains("Y2FuYXJ5"),
            "{ran}"
        );
        assert_eq!(api.connections(), 0);
    }
}

#[tokio::test]
async fn a_signed_token_is_the_apis_own_and_is_renewed_when_refused() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let refused = seen.clone();
    let api = FakeApi::start(move |r: &Received| {
        let sent = r.header("x-jwt").unwrap_or_default().to_owned();
        let mut seen = refused.lock().unwrap();
        seen.push(sent.clone());
        // The first one is refused for good.
        match seen[0] == sent {
            true => Reply::status(401),
            false => page(&[item(1, 1)], r),
        }
    })
    .await;
    let auth = "{jwt: {secret: '{{ config.key }}', alg: HS256, issuer: me, audience: shop, send: {header: X-Jwt, prefix: JWT}}}";
    let bench = bench(&api, &["key"], auth).env("DRAWOFF_SHOP_KEY", "a-shared-secret");
    bench.run(&["--source", "shop"]).await.exits(0);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2, "{seen:?}");
    let statement = seen[1].strip_prefix("JWT ").unwrap();
    let key = DecodingKey::from_secret(b"a-shared-secret");
    assert_eq!(
        claims(statement, Algorithm::HS256, &key, "shop")["iss"],
        json!("me")
    );
}

#[tokio::test]
async fn a_certified_server_takes_signed_clients() {
    let server = OidcProvider::get().await;
    let api = FakeApi::start(|r: &Received| page(&[item(1, 1)], r)).await;
    let auth = format!(
        "{{oauth2: {{client_credentials: {{token_url: '{}', client_id: '{}', client_auth: {{private_key_jwt: {{private_key: '{{{{ config.key }}}}', kid: rsa-1}}}}, scopes: [read]}}}}}}",
        server.token_url(),
        oidc::SIGNED
    );
    let bench = bench(&api, &["key"], &auth).env("DRAWOFF_SHOP_KEY", &server.private_key);
    bench.run(&["--source", "shop"]).await.exits(0);
    let bearer = api.requests()[0]
        .header("authorization")
        .unwrap()
        .to_owned();
    let known = server
        .introspect(bearer.strip_prefix("Bearer ").unwrap())
        .await;
    assert_eq!(known["active"], json!(true), "{known}");
    assert_eq!(known["client_id"], json!(oidc::SIGNED));

    let wrong = bench.env("DRAWOFF_SHOP_KEY", &rsa().0);
    let ran = wrong.run(&["--source", "shop"]).await.exits(1);
    assert!(ran.stdout.contains("`invalid_client`"), "{ran}");
    assert!(
        ran.stdout.contains("that the server has the public key"),
        "{ran}"
    );
}

#[tokio::test]
async fn a_token_that_ends_in_mid_run_is_renewed_without_a_page_lost_or_doubled() {
    // Each token is good for four pages, then for none.
    let served: Arc<Mutex<std::collections::BTreeMap<String, u32>>> = Arc::default();
    let rows: Vec<Value> = (1..=235).map(|id| item(id, id)).collect();
    let all = rows.clone();
    let count = served.clone();
    let api = FakeApi::start(move |r: &Received| {
        if r.path == "/token" {
            return token(&format!("t-{}", r.number));
        }
        let bearer = r.header("authorization").unwrap_or_default().to_owned();
        let mut served = count.lock().unwrap();
        let pages = served.entry(bearer).or_default();
        *pages += 1;
        match *pages > 4 {
            true => Reply::status(401),
            false => page(&all, r).delay(Duration::from_millis(5)),
        }
    })
    .await;
    let auth = format!(
        "{{oauth2: {{password: {{token_url: '{}', username: ann, password: '{{{{ config.password }}}}'}}}}}}",
        api.at("/token")
    );
    let bench = bench(&api, &["password"], &auth).env("DRAWOFF_SHOP_PASSWORD", "password-1");
    bench.run(&["--source", "shop"]).await.exits(0);
    let mut ids: Vec<i64> = sqlite(&bench.path("drawoff.db"), "items")
        .iter()
        .map(|row| row["id"].as_i64().unwrap())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=235).collect::<Vec<i64>>());
    // Every page came once, whatever was refused on the way.
    let good = |bearer: &u32| (*bearer).min(4);
    let pages: u32 = served.lock().unwrap().values().map(good).sum();
    assert_eq!(pages, 24);
}
