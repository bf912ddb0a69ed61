//! The stand-in for Google itself: what it must refuse, so that a test which passes says something.

use jiff::Timestamp;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use url::form_urlencoded::Serializer;

use crate::support::google::{
    Answer, BIGQUERY, CERTS, CLOUD_PLATFORM, Google, IAM, OAUTH, PROJECT, Role, SECRETS, STS,
    Subject, VersionState,
};
use crate::support::plain_http::{Answer as Got, send};

/// A client on the way to the stand-in.
fn client(google: &Google) -> reqwest::Client {
    let authority = std::fs::read(google.authority()).unwrap();
    reqwest::Client::builder()
        .proxy(reqwest::Proxy::https(google.proxy_url()).unwrap())
        .add_root_certificate(reqwest::Certificate::from_pem(&authority).unwrap())
        .build()
        .unwrap()
}

async fn post_form(google: &Google, url: &str, fields: &[(&str, &str)]) -> Got {
    let body = Serializer::new(String::new()).extend_pairs(fields).finish();
    let request = client(google).post(url).body(body);
    send(request.header("content-type", "application/x-www-form-urlencoded")).await
}

async fn post_json(google: &Google, url: &str, token: &str, body: &Value) -> Got {
    let request = client(google).post(url).bearer_auth(token);
    send(
        request
            .header("content-type", "application/json")
            .body(body.to_string()),
    )
    .await
}

async fn get(google: &Google, url: &str, token: Option<&str>) -> Got {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    send(client(google).get(url).headers(headers)).await
}

async fn by_assertion(google: &Google, assertion: &str) -> Got {
    post_form(
        google,
        &format!("https://{OAUTH}/token"),
        &[
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("assertion", assertion),
        ],
    )
    .await
}

#[tokio::test]
async fn assertions_are_judged_by_signature_and_claims() {
    let google = Google::start().await;
    let loader = google.service_account("loader");
    let other = google.service_account("other");
    let now = Timestamp::now().as_second();
    let right = json!({
        "iss": loader, "sub": loader, "scope": CLOUD_PLATFORM,
        "aud": "https://oauth2.googleapis.com/token", "iat": now, "exp": now + 3600,
    });
    let answer = by_assertion(&google, &google.sign_as(&loader, &right)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["token_type"], "Bearer");
    google.nothing_was_wrong();

    let with = |key: &str, value: Value| {
        let mut claims = right.clone();
        claims[key] = value;
        google.sign_as(&loader, &claims)
    };
    let mut spoilt = google.sign_as(&loader, &right);
    spoilt.truncate(spoilt.len() - 8);
    spoilt.push_str("AAAAAAAA");
    for (assertion, error) in [
        (spoilt, "Invalid JWT Signature."),
        (google.sign_as(&other, &right), "Invalid JWT Signature."),
        (with("iss", json!("nobody@x")), "account not found"),
        (
            with("aud", json!("https://example.com/token")),
            "Failed audience check",
        ),
        (with("exp", json!(now + 7200)), "short-lived token"),
        (with("iat", json!(now + 600)), "short-lived token"),
        (with("exp", json!(now - 1)), "short-lived token"),
        (with("scope", Value::Null), "Invalid OAuth scope"),
        (
            with("target_audience", json!("https://x")),
            "Invalid OAuth scope",
        ),
        (
            with("sub", json!("boss@example.com")),
            "Client is unauthorized",
        ),
    ] {
        let answer = by_assertion(&google, &assertion).await;
        assert!((400..=401).contains(&answer.status), "{answer:?}");
        let description = answer.json()["error_description"].to_string();
        assert!(description.contains(error), "{description}, not {error}");
    }
    assert_eq!(google.wrong().len(), 10);
}

#[tokio::test]
async fn tokens_are_good_for_what_they_were_asked_for() {
    let google = Google::start().await;
    let loader = google.service_account("loader");
    for role in [Role::BigQuery, Role::SecretAccessor] {
        google.grant(&loader, role);
    }
    google.put_secret(PROJECT, "token", "value");
    let secret =
        format!("https://{SECRETS}/v1/projects/{PROJECT}/secrets/token/versions/latest:access");
    let projects = format!("https://{BIGQUERY}/bigquery/v2/projects");
    let cloud = google.access_token(&loader, &[CLOUD_PLATFORM]);
    let narrow = google.access_token(&loader, &["https://www.googleapis.com/auth/bigquery"]);
    assert_eq!(get(&google, &secret, Some(&cloud)).await.status, 200);
    assert_eq!(get(&google, &projects, Some(&narrow)).await.status, 200);
    google.nothing_was_wrong();

    for (url, token, status, says) in [
        (
            &secret,
            Some(narrow.as_str()),
            403,
            "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        ),
        (&secret, None, 401, "CREDENTIALS_MISSING"),
        (
            &projects,
            Some("ya29.unknown"),
            401,
            "ACCESS_TOKEN_TYPE_UNSUPPORTED",
        ),
        (
            &projects,
            Some(google.id_token(&loader, "x").as_str()),
            401,
            "ACCESS_TOKEN_TYPE_UNSUPPORTED",
        ),
    ] {
        let answer = get(&google, url, token).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.json()["error"]["details"][0]["reason"], says);
    }
    google.expire_tokens();
    let answer = get(&google, &secret, Some(&cloud)).await;
    assert_eq!(
        answer.json()["error"]["details"][0]["reason"],
        "ACCESS_TOKEN_EXPIRED"
    );
    let answer = get(
        &google,
        &format!("https://{OAUTH}/tokeninfo?access_token={cloud}"),
        None,
    )
    .await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn id_tokens_open_one_service_and_are_signed_by_published_keys() {
    let google = Google::start().await;
    let caller = google.service_account("caller");
    let host = "collector-abc-ew.a.run.app";
    google.run_service(host, &["https://collector.example"], |call| {
        Answer::json(&json!({"who": call.who.as_ref().unwrap().name}))
    });
    let url = format!("https://{host}/rows");
    let token = google.id_token(&caller, &format!("https://{host}"));
    assert_eq!(
        get(&google, &url, Some(&token)).await.status,
        403,
        "nobody has the role yet"
    );
    google.grant(&caller, Role::Invoker(host.to_owned()));
    for audience in [
        format!("https://{host}"),
        "https://collector.example".into(),
    ] {
        let token = google.id_token(&caller, &audience);
        let answer = get(&google, &url, Some(&token)).await;
        assert_eq!(answer.json()["who"], caller.as_str());
    }
    let elsewhere = google.id_token(&caller, "https://elsewhere.example");
    assert_eq!(get(&google, &url, Some(&elsewhere)).await.status, 401);
    let access = google.access_token(&caller, &[CLOUD_PLATFORM]);
    assert_eq!(get(&google, &url, Some(&access)).await.status, 401);
    assert_eq!(get(&google, &url, None).await.status, 403);

    let certs = format!("https://{CERTS}/oauth2/v3/certs");
    for forget in [false, true] {
        let keys: JwkSet = serde_json::from_slice(&get(&google, &certs, None).await.body).unwrap();
        let token = google.id_token(&caller, "https://me");
        let verifies = |keys: &JwkSet| {
            let kid = jsonwebtoken::decode_header(&token).unwrap().kid.unwrap();
            keys.find(&kid).is_some_and(|jwk| {
                let mut validation = Validation::new(Algorithm::RS256);
                validation.set_audience(&["https://me"]);
                validation.set_issuer(&["https://accounts.google.com"]);
                let key = DecodingKey::from_jwk(jwk).unwrap();
                jsonwebtoken::decode::<Value>(&token, &key, &validation).is_ok()
            })
        };
        assert!(verifies(&keys));
        google.rotate_google_keys(forget);
        let keys: JwkSet = serde_json::from_slice(&get(&google, &certs, None).await.body).unwrap();
        assert_eq!(verifies(&keys), !forget);
    }
}

#[tokio::test]
async fn impersonation_and_exchange_need_everything() {
    let google = Google::start().await;
    let (source, target) = (
        google.service_account("source"),
        google.service_account("target"),
    );
    let url = format!("https://{IAM}/v1/projects/-/serviceAccounts/{target}:generateAccessToken");
    let token = google.access_token(&source, &[CLOUD_PLATFORM]);
    let right = json!({"scope": [CLOUD_PLATFORM], "lifetime": "3600s"});
    let answer = post_json(&google, &url, &token, &right).await;
    assert_eq!(answer.status, 403);
    google.grant(&source, Role::TokenCreator(target.clone()));
    let answer = post_json(&google, &url, &token, &right).await;
    assert_eq!(answer.status, 200);
    answer.json()["expireTime"]
        .as_str()
        .unwrap()
        .parse::<Timestamp>()
        .unwrap();
    for body in [
        json!({"lifetime": "3600s"}),
        json!({"scope": [CLOUD_PLATFORM], "lifetime": "7200s"}),
        json!({"scope": [CLOUD_PLATFORM], "delegates": [source]}),
    ] {
        assert_eq!(post_json(&google, &url, &token, &body).await.status, 400);
    }

    let (file, subject) = google.external_file("build", &Subject::File("unused".into()), None);
    let (audience, kind) = (
        file["audience"].as_str().unwrap(),
        file["subject_token_type"].as_str().unwrap(),
    );
    let fields = |audience, token| {
        [
            (
                "grant_type",
                "urn:ietf:params:oauth:grant-type:token-exchange",
            ),
            (
                "requested_token_type",
                "urn:ietf:params:oauth:token-type:access_token",
            ),
            ("audience", audience),
            ("scope", CLOUD_PLATFORM),
            ("subject_token", token),
            ("subject_token_type", kind),
        ]
    };
    let sts = format!("https://{STS}/v1/token");
    for (audience, token, error) in [
        (audience, subject.as_str(), Value::Null),
        (audience, "another", json!("invalid_grant")),
        (
            "//iam.googleapis.com/nowhere",
            &subject,
            json!("invalid_target"),
        ),
        ("nowhere", &subject, json!("invalid_request")),
    ] {
        let answer = post_form(&google, &sts, &fields(audience, token)).await;
        assert_eq!(answer.json()["error"], error);
    }

    // A person of a workforce pool.
    let (file, name) = google.workforce_file("ada");
    let text = |key: &str| file[key].as_str().unwrap().to_owned();
    let body = Serializer::new(String::new())
        .extend_pairs([
            ("grant_type", "refresh_token"),
            ("refresh_token", &text("refresh_token")),
        ])
        .finish();
    let request = || {
        let request = client(&google).post(text("token_url")).body(body.clone());
        request.header("content-type", "application/x-www-form-urlencoded")
    };
    assert_eq!(
        send(request()).await.status,
        401,
        "the client did not authenticate"
    );
    let answer = send(request().basic_auth(text("client_id"), Some(text("client_secret")))).await;
    assert_eq!(answer.status, 200);
    google.revoke(&name);
    let answer = send(request().basic_auth(text("client_id"), Some(text("client_secret")))).await;
    assert_eq!(answer.json()["error"], "invalid_grant");
}

#[tokio::test]
async fn secrets_are_added_with_a_checksum_and_by_who_may() {
    let google = Google::start().await;
    let keeper = google.service_account("keeper");
    google.put_secret(PROJECT, "token", "first");
    let token = google.access_token(&keeper, &[CLOUD_PLATFORM]);
    let root = format!("https://{SECRETS}/v1/projects/{PROJECT}/secrets/token");
    let add = format!("{root}:addVersion");
    let right = json!({"payload": {"data": "c2Vjb25k", "dataCrc32c": crc32c::crc32c(b"second").to_string()}});
    let answer = post_json(&google, &add, &token, &right).await;
    assert_eq!(answer.status, 403);
    assert_eq!(
        answer.json()["error"]["message"],
        "Permission 'secretmanager.versions.add' denied for resource 'projects/test-project/secrets/token' (or it may not exist)."
    );
    google.grant(&keeper, Role::SecretVersionAdder);
    let answer = post_json(&google, &add, &token, &right).await.json();
    assert_eq!(answer["clientSpecifiedPayloadChecksum"], true);
    assert_eq!(
        answer["name"],
        "projects/123456789012/secrets/token/versions/2"
    );
    use base64::Engine as _;
    let large = base64::engine::general_purpose::STANDARD.encode(vec![b'x'; (64 << 10) + 1]);
    for payload in [
        json!({"data": "c2Vjb25k", "dataCrc32c": "1"}),
        json!({"data": large}),
        json!({"data": "not base64!"}),
        json!({}),
    ] {
        let answer = post_json(&google, &add, &token, &json!({"payload": payload})).await;
        assert_eq!(answer.status, 400);
    }
    // The one who adds may not look.
    let access = format!("{root}/versions/latest:access");
    assert_eq!(get(&google, &access, Some(&token)).await.status, 403);
    assert_eq!(google.versions(PROJECT, "token").len(), 2);
    google.grant(&keeper, Role::SecretVersionManager);
    for (method, state) in [
        ("disable", VersionState::Disabled),
        ("enable", VersionState::Enabled),
        ("destroy", VersionState::Destroyed),
    ] {
        let url = format!("{root}/versions/1:{method}");
        assert_eq!(
            post_json(&google, &url, &token, &json!({})).await.status,
            200
        );
        assert_eq!(google.versions(PROJECT, "token")[0].1, state);
    }
    let enable = format!("{root}/versions/1:enable");
    assert_eq!(
        post_json(&google, &enable, &token, &json!({})).await.status,
        400
    );
}

#[tokio::test]
async fn other_hosts_and_plain_http_are_refused() {
    let google = Google::start().await;
    let refused = client(&google).get("https://example.com/").send().await;
    assert!(refused.is_err(), "{refused:?}");
    let plain = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}v1/projects/p/secrets", google.plain_secret_manager());
    assert_eq!(send(plain.get(url).bearer_auth("token")).await.status, 400);
    assert_eq!(google.wrong().len(), 2, "{:?}", google.wrong());
}
