//! `drawoff auth`, through the program: a person's login at a certified server, played by an HTTP
//! client, and at servers that do what they should not.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::json;
use url::Url;

use crate::support::binary::{Bench, Running};
use crate::support::fake_api::{FakeApi, Received, Reply};
use crate::support::google::{Google, PROJECT, Role};
use crate::support::oidc::{self, OidcProvider, Person};
use crate::support::shop::{COLUMNS, item, page};
use crate::support::tables::sqlite;

const LOGIN: [&str; 5] = ["auth", "login", "--source", "shop", "--no-browser"];
const RUN: [&str; 3] = ["--source", "shop", "-vv"];
const STORED: &str = "home/.config/drawoff/credentials/shop/refresh";

/// A connector whose login is at these places.
fn bench(api: &FakeApi, server: &Places, more: &str) -> Bench {
    let Places {
        authorization,
        token,
        revocation,
        client,
        secret,
    } = server;
    let (key, client_secret) = match secret {
        Some(_) => (
            "  secret: {description: S, secret: true}\n",
            "client_secret: '{{ config.secret }}', ",
        ),
        None => ("", ""),
    };
    let yaml = format!(
        "title: Shop\nconfig:\n{key}  refresh: {{description: R, secret: true}}\nbase_url: {}\n\
         auth: {{oauth2: {{authorization_code: {{authorization_url: '{authorization}', token_url: '{token}', \
         revocation_url: '{revocation}', client_id: '{client}', {client_secret}\
         refresh_token: '{{{{ config.refresh }}}}', scopes: [openid, offline_access, read], \
         authorization_params: {{prompt: consent}}{more}}}}}}}\n\
         records: /data\nprimary_key: [id]\nstreams: {{items: }}\n",
        api.url().as_str().trim_end_matches('/')
    );
    let bench = Bench::with("shop", &yaml);
    bench.schema("shop", "items", &COLUMNS);
    match secret {
        Some(secret) => bench.env("DRAWOFF_SHOP_SECRET", secret),
        None => bench,
    }
}

struct Places {
    authorization: Url,
    token: Url,
    revocation: Url,
    client: String,
    secret: Option<String>,
}

impl Places {
    fn of(server: &OidcProvider, client: &str, secret: Option<&str>) -> Self {
        Self {
            authorization: server.authorization_url(),
            token: server.token_url(),
            revocation: server.revocation_url(),
            client: client.to_owned(),
            secret: secret.map(str::to_owned),
        }
    }

    /// All at one fake API.
    fn at(api: &FakeApi) -> Self {
        Self {
            authorization: api.at("/authorize"),
            token: api.at("/token"),
            revocation: api.at("/revoke"),
            client: "c".to_owned(),
            secret: None,
        }
    }
}

/// The page that the program asks to open.
async fn page_to_open(running: &mut Running) -> Url {
    assert!(
        running.until_says("code_challenge_method").await,
        "{}",
        running.said()
    );
    let said = running.said();
    let line = said
        .lines()
        .find(|l| l.contains("code_challenge_method"))
        .unwrap();
    Url::parse(line.trim()).unwrap()
}

fn param(url: &Url, name: &str) -> String {
    let found = url.query_pairs().find(|(n, _)| n == name);
    found.map(|(_, v)| v.into_owned()).unwrap_or_default()
}

/// Where the browser is to come back, with these parameters and the login's state.
fn back(url: &Url, params: &[(&str, &str)]) -> Url {
    let mut back = Url::parse(&param(url, "redirect_uri")).unwrap();
    back.query_pairs_mut()
        .extend_pairs(params)
        .append_pair("state", &param(url, "state"));
    back
}

async fn get(url: &Url) -> (u16, String) {
    let mut answer = reqwest::get(url.clone()).await.unwrap();
    let policy = answer.headers()["content-security-policy"]
        .to_str()
        .unwrap();
    assert!(policy.contains("default-src 'none'"), "{policy}");
    assert_eq!(answer.headers()["referrer-policy"], "no-referrer");
    let status = answer.status().as_u16();
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.unwrap() {
        body.extend_from_slice(&piece);
    }
    let body = String::from_utf8(body).unwrap();
    assert!(
        !body.contains("<script") && !body.contains("canary"),
        "{body}"
    );
    (status, body)
}

async fn shop() -> FakeApi {
    FakeApi::start(|r: &Received| page(&[item(1, 1), item(2, 2)], r)).await
}

#[tokio::test]
async fn a_person_logs_in_at_a_certified_server_and_out_again() {
    let server = OidcProvider::get().await;
    for (client, secret) in [
        (oidc::PUBLIC, None),
        (oidc::CONFIDENTIAL, Some(oidc::SECRET)),
    ] {
        let api = shop().await;
        let bench = bench(&api, &Places::of(server, client, secret), "");
        bench
            .run(&RUN)
            .await
            .exits(1)
            .complains("hint: log in: `drawoff auth login --source shop`");
        let mut login = bench.spawn(&LOGIN);
        let url = page_to_open(&mut login).await;
        assert_eq!(param(&url, "code_challenge_method"), "S256");
        assert_eq!(param(&url, "prompt"), "consent");
        let came_back = Person::default().logs_in(url).await;
        let (status, body) = get(&came_back).await;
        assert_eq!(status, 200, "{body}");
        assert!(body.contains("You are logged in"), "{body}");
        let ran = login.end().await.exits(0);
        let path = bench.path(STORED);
        assert!(
            ran.stdout
                .contains(&format!("is stored in `file://{}`", path.display())),
            "{ran}"
        );
        assert!(
            ran.stdout.contains("next: drawoff check --source shop"),
            "{ran}"
        );
        let first = std::fs::read_to_string(&path).unwrap();
        assert!(!ran.all().contains(&first), "{ran}");
        let mode = |path: &PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&path.parent().unwrap().to_owned()), 0o700);

        // Each use gives a new one; the server revokes all when an old one comes again.
        let mut tokens = vec![first];
        for args in [
            &RUN[..],
            &["check", "--source", "shop"],
            &["preview", "--source", "shop", "--stream", "items"],
            &RUN[..],
        ] {
            let ran = bench.run(args).await.exits(0);
            let token = std::fs::read_to_string(&path).unwrap();
            assert!(!tokens.contains(&token));
            tokens.push(token);
            for token in &tokens {
                assert!(!ran.all().contains(token), "{ran}");
            }
        }
        assert_eq!(sqlite(&bench.path("drawoff.db"), "items").len(), 2);
        let bearer = api.requests().pop().unwrap();
        let bearer = bearer
            .header("authorization")
            .unwrap()
            .replace("Bearer ", "");
        let known = server.introspect_as(client, secret, &bearer).await;
        assert_eq!(known["active"], json!(true), "{known}");

        let logout = ["auth", "logout", "--source", "shop"];
        bench
            .run(&logout)
            .await
            .exits(0)
            .says("revoked the refresh token at the API")
            .says("removed `file://");
        assert!(!path.exists());
        let last = tokens.last().unwrap();
        let known = server.introspect_as(client, secret, last).await;
        assert_eq!(known["active"], json!(false), "{known}");
        bench
            .run(&logout)
            .await
            .exits(1)
            .complains("could not be read");
        // The token as it was: the server knows it no more.
        bench.write(STORED, last);
        bench
            .run(&RUN)
            .await
            .exits(1)
            .says("log in again: `drawoff auth login --source shop`");
    }
}

#[tokio::test]
async fn the_address_can_be_pasted_where_the_browser_is_elsewhere() {
    let server = OidcProvider::get().await;
    let api = shop().await;
    let bench = bench(&api, &Places::of(server, oidc::PUBLIC, None), "");
    let mut login = bench.spawn_with_input(&LOGIN);
    let url = page_to_open(&mut login).await;
    let came_back = Person::default().logs_in(url).await;
    for wrong in ["", "what?", "http://127.0.0.1/callback?code=x&state=y"] {
        login.write_line(wrong);
    }
    assert!(login.until_says("this is not an address").await);
    login.write_line(came_back.as_str());
    login.end().await.exits(0).says("logged in");
    bench.run(&RUN).await.exits(0);
}

#[tokio::test]
async fn a_browser_is_opened_at_the_page() {
    let api = FakeApi::start(|r: &Received| match r.path.as_str() {
        "/token" => Reply::json(
            &json!({"access_token": "canary-access", "refresh_token": "canary-refresh"}),
        ),
        _ => Reply::status(404),
    })
    .await;
    let bench = bench(&api, &Places::at(&api), "");
    let browser = bench.write(
        "browser",
        "#!/bin/sh\necho hello; printf %s \"$1\" > \"$0.tmp\" && mv \"$0.tmp\" \"$0.url\"\n",
    );
    std::fs::set_permissions(&browser, std::fs::Permissions::from_mode(0o755)).unwrap();
    let bench = bench.env("BROWSER", browser.to_str().unwrap());
    let mut login = bench.spawn(&["auth", "login", "--source", "shop"]);
    let opened = bench.path("browser.url");
    assert!(login.until(|| opened.exists()).await, "{}", login.said());
    let url = Url::parse(&std::fs::read_to_string(&opened).unwrap()).unwrap();
    get(&back(&url, &[("code", "canary-code")])).await;
    let ran = login.end().await.exits(0);
    assert!(ran.stderr.contains("opened a browser"), "{ran}");
    assert!(
        !ran.all().contains("canary") && !ran.all().contains("hello"),
        "{ran}"
    );
    let asked = &api.requests()[0];
    for (name, value) in [
        ("grant_type", "authorization_code"),
        ("code", "canary-code"),
        ("client_id", "c"),
        ("redirect_uri", &param(&url, "redirect_uri")),
    ] {
        assert_eq!(asked.field(name).as_deref(), Some(value), "{name}");
    }
    // The proof fits what the page was told.
    use base64::Engine as _;
    use sha2::Digest as _;
    let proof = sha2::Sha256::digest(asked.field("code_verifier").unwrap().as_bytes());
    let proof = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(proof);
    assert_eq!(proof, param(&url, "code_challenge"));
}

#[tokio::test]
async fn answers_to_other_logins_are_not_taken() {
    let api = FakeApi::start(|_: &Received| {
        Reply::json(&json!({"access_token": "canary-access", "refresh_token": "canary-refresh"}))
    })
    .await;
    let bench = bench(&api, &Places::at(&api), "");
    let mut login = bench.spawn(&LOGIN);
    let url = page_to_open(&mut login).await;
    let good = back(&url, &[("code", "canary-code")]);
    let mut wrong = Url::parse(&param(&url, "redirect_uri")).unwrap();
    for query in [
        "",
        "code=evil",
        "code=evil&state=",
        "code=evil&state=x",
        "error=access_denied&state=x",
    ] {
        wrong.set_query(Some(query));
        let (status, body) = get(&wrong).await;
        assert_eq!(status, 400);
        assert!(body.contains("not the answer to the login"), "{body}");
    }
    assert_eq!(api.count(), 0, "no code of others is exchanged");
    let elsewhere = good.join("/other").unwrap();
    assert_eq!(reqwest::get(elsewhere).await.unwrap().status(), 404);
    assert_eq!(get(&good).await.0, 200);
    login.end().await.exits(0);
}

#[tokio::test]
async fn what_fails_is_said_in_the_browser_and_on_the_terminal() {
    type Case<'a> = (&'a [(&'a str, &'a str)], Reply, i32, &'a str);
    let cases: [Case<'_>; 5] = [
        (
            &[("error", "access_denied")],
            Reply::status(500),
            1,
            "did not allow the login: `access_denied`",
        ),
        (
            &[("error", "<b>canary</b>")],
            Reply::status(500),
            1,
            "did not allow the login",
        ),
        (
            &[("code", "canary-c")],
            Reply::json(&json!({"access_token": "canary-a"})),
            1,
            "gave no refresh token for the login",
        ),
        (
            &[("code", "canary-c")],
            Reply::json(&json!({"error": "invalid_grant"})).with_status(400),
            1,
            "answered 400 `invalid_grant`",
        ),
        (
            &[("code", "canary-c")],
            Reply::json(&json!({"error": "invalid_client"})).with_status(401),
            1,
            "answered 401 `invalid_client`",
        ),
    ];
    for (params, reply, code, says) in cases {
        let api = FakeApi::start(move |_: &Received| reply.clone()).await;
        let bench = bench(&api, &Places::at(&api), "");
        let mut login = bench.spawn(&LOGIN);
        let url = page_to_open(&mut login).await;
        let (status, body) = get(&back(&url, params)).await;
        assert_eq!(status, 400);
        assert!(
            body.contains("The login did not work") && body.contains(says),
            "{body}"
        );
        let ran = login.end().await.exits(code).complains(says);
        assert!(ran.stderr.contains("hint: "), "{ran}");
        assert!(!ran.all().contains("canary"), "{ran}");
        assert!(!bench.path(STORED).exists());
    }
}

#[tokio::test]
async fn a_login_can_be_given_up_and_ends_by_itself() {
    let api = shop().await;
    let bench = bench(&api, &Places::at(&api), "");
    let mut login = bench.spawn(&LOGIN);
    page_to_open(&mut login).await;
    login.signal("INT");
    login
        .end()
        .await
        .exits(75)
        .complains("given up; nothing was stored");
    bench
        .run(&[
            "auth",
            "login",
            "--source",
            "shop",
            "--no-browser",
            "--timeout",
            "1s",
        ])
        .await
        .exits(75)
        .complains("nobody logged in within 1 seconds");
}

#[tokio::test]
async fn a_fixed_port_is_used_and_one_that_is_taken_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let api = shop().await;
    let more = format!(", redirect_port: {port}, redirect_host: localhost");
    let bench = bench(&api, &Places::at(&api), &more);
    let ran = bench.run(&LOGIN).await.exits(2);
    assert!(
        ran.stderr
            .contains(&format!("could not listen on port {port}")),
        "{ran}"
    );
    drop(taken);
    let mut login = bench.spawn(&LOGIN);
    let url = page_to_open(&mut login).await;
    assert_eq!(
        param(&url, "redirect_uri"),
        format!("http://localhost:{port}/callback")
    );
    login.kill().await;
}

#[tokio::test]
async fn where_the_token_goes_is_settled_before_anybody_logs_in() {
    let api = shop().await;
    let server = Places::at(&api);
    let at = |place: &str| format!("sources: {{shop: {{secrets: {{refresh: \"{place}\"}}}}}}");
    let bench = bench(&api, &server, "");
    bench.write("drawoff.yaml", &at("env://TOKEN"));
    bench
        .run(&LOGIN)
        .await
        .exits(2)
        .complains("`refresh` of source `shop` is in environment variable `TOKEN`")
        .complains("hint: name a place that can be written");
    bench.write("drawoff.yaml", "");
    let bench = bench.env("DRAWOFF_SHOP_REFRESH", "canary-old");
    bench
        .run(&LOGIN)
        .await
        .exits(2)
        .complains("environment variable `DRAWOFF_SHOP_REFRESH` is set")
        .complains("hint: unset it");
    // Folders that cannot be made or written, and what is no file.
    bench.write("plain", "");
    std::fs::create_dir(bench.path("folder")).unwrap();
    for (place, says) in [
        ("file://folder", "it is a folder"),
        ("file://plain/token", "could not write secret file"),
        ("file:///proc/token", "could not write secret file"),
    ] {
        bench.write("drawoff.yaml", &at(place));
        let ran = bench.run(&LOGIN).await.exits(1).complains(says);
        assert!(ran.stderr.contains("so nobody is asked to log in"), "{ran}");
        assert!(ran.stderr.contains("hint: "), "{ran}");
        assert!(!ran.stderr.contains("code_challenge"), "{ran}");
    }
    // A place that is named goes before the variable.
    bench.write("drawoff.yaml", &at("file://kept/token"));
    let mut login = bench.spawn(&LOGIN);
    page_to_open(&mut login).await;
    login.kill().await;
    let left = std::fs::read_dir(bench.path("kept")).unwrap().count();
    assert_eq!(left, 0, "the trial is left");

    let plain = Bench::with(
        "shop",
        &format!("title: T\nbase_url: {}\nstreams: {{t: }}\n", api.url()),
    );
    plain
        .run(&LOGIN)
        .await
        .exits(2)
        .complains("there is nothing to log in to or out of for source `shop`");
}

#[tokio::test]
async fn a_place_in_secret_manager_is_looked_at_before_anybody_logs_in() {
    let api = shop().await;
    let google = Google::start().await;
    let refer = |bench: &Bench, place: &str| {
        let text = format!("sources: {{shop: {{secrets: {{refresh: \"{place}\"}}}}}}");
        bench.write("drawoff.yaml", &text);
    };
    let viewer = google.service_account("viewer");
    google.grant(&viewer, Role::SecretViewer);
    let keys = google.key_file(&viewer);
    let bench_of = || bench(&api, &Places::at(&api), "");
    let nobody = bench_of().env("NO_GCE_CHECK", "true");
    let seen = google.env(bench_of(), &keys);
    refer(&nobody, "gcp://test-project/refresh");
    let ran = nobody
        .run(&LOGIN)
        .await
        .exits(1)
        .complains("found no Google credentials")
        .complains("so nobody is asked to log in")
        .complains("hint: ");
    assert!(!ran.stderr.contains("code_challenge"), "{ran}");
    for (place, code, says) in [
        ("gcp://test-project/refresh@3", 2, "names one version"),
        (
            "gcp://test-project/refresh",
            1,
            "secret `projects/test-project/secrets/refresh` does not exist",
        ),
        (
            "gcp://test-project/refresh",
            1,
            "`drawoff secrets set` does it with `--create`",
        ),
    ] {
        refer(&seen, place);
        let ran = seen.run(&LOGIN).await.exits(code).complains(says);
        assert!(!ran.stderr.contains("code_challenge"), "{ran}");
    }
    // One that is there, and one that may not be looked at, which proves nothing.
    google.make_secret(PROJECT, "refresh");
    let mut login = seen.spawn(&LOGIN);
    page_to_open(&mut login).await;
    login.kill().await;
    google.nothing_was_wrong();
    let adder = google.service_account("adder");
    let blind = google.env(bench_of(), &google.key_file(&adder));
    refer(&blind, "gcp://test-project/refresh");
    let mut login = blind.spawn(&LOGIN);
    page_to_open(&mut login).await;
    login.kill().await;
}

#[tokio::test]
async fn a_token_that_the_api_will_not_revoke_can_be_removed_all_the_same() {
    let api = FakeApi::start(|_: &Received| {
        let body = json!({"error": "unsupported_token_type", "error_description": "canary"});
        Reply::json(&body).with_status(400)
    })
    .await;
    let bench = bench(&api, &Places::at(&api), "");
    let stored = bench.write(STORED, "canary-refresh");
    let ran = bench
        .run(&["auth", "logout", "--source", "shop"])
        .await
        .exits(1)
        .complains("could not revoke the refresh token; it stays where it is")
        .complains("answered 400 `unsupported_token_type`")
        .complains("`drawoff auth logout --source shop --no-revoke` removes it here all the same");
    assert!(!ran.all().contains("canary"), "{ran}");
    assert!(stored.exists());
    assert_eq!(api.count(), 1);
    bench
        .run(&["auth", "logout", "--source", "shop", "--no-revoke"])
        .await
        .exits(0)
        .says("did not ask the API to revoke the token")
        .says("removed `file://");
    assert!(!stored.exists());
    assert_eq!(api.count(), 1);
}
