//! Secrets through the program: planted everywhere, and looked for in everything that it wrote.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use url::form_urlencoded::byte_serialize;

use crate::support::binary::{Bench, Ran};
use crate::support::emulator::{Emulator, PROJECT};
use crate::support::fake_api::{FakeApi, Received, Reply};
use crate::support::faults::RestProxy;
use crate::support::shop::{COLUMNS, item};
use crate::support::tables::sqlite;

/// Streams, each with credentials of another kind.
const STREAMS: [&str; 11] = [
    "basic", "bearer", "header", "query", "oauth", "person", "refresh", "signed", "asserted",
    "jwt", "session",
];

/// A distinct secret for each key.
struct Canaries(Vec<(&'static str, String)>);

impl Canaries {
    fn new() -> Self {
        let keys = [
            "companyid",
            "password",
            "token",
            "header_key",
            "query_key",
            "client_id",
            "client_secret",
            "access_token",
            "grant_password",
            "refresh_token",
            "jwt_secret",
            "login_password",
            "session_token",
            "private_key",
        ];
        let secret = |key: &str| {
            let random: u64 = rand::random();
            if key == "private_key" {
                return rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
                    .unwrap()
                    .serialize_pem();
            }
            // Some of what encodings change, and what nobody would write by chance.
            match key {
                "client_secret" | "query_key" | "password" | "grant_password"
                | "login_password" => format!("cnry+{random:016x}/%41&=é"),
                _ => format!("cnry{random:016x}"),
            }
        };
        Self(keys.map(|k| (k, secret(k))).to_vec())
    }

    fn of(&self, key: &str) -> &str {
        &self.0.iter().find(|(k, _)| *k == key).unwrap().1
    }

    /// The secrets in every form in which they travel.
    fn forms(&self) -> Vec<(String, Vec<u8>)> {
        let mut forms = Vec::new();
        let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        for (key, secret) in &self.0 {
            if key == &"private_key" {
                let lines = secret.lines().filter(|l| !l.starts_with("-----"));
                forms.extend(lines.map(|l| ((*key).to_owned(), l.as_bytes().to_vec())));
                continue;
            }
            // The random part is the same however the rest is encoded.
            let random = secret.strip_prefix("cnry").unwrap();
            let random = &random.trim_start_matches('+')[..16];
            forms.push(((*key).to_owned(), random.as_bytes().to_vec()));
        }
        let pairs = [
            format!("{}:{}", self.of("companyid"), self.of("password")),
            format!(
                "{}:{}",
                encode(self.of("client_id")),
                encode(self.of("client_secret"))
            ),
        ];
        for pair in pairs {
            forms.push((
                format!("base64 of {pair}"),
                STANDARD.encode(pair).into_bytes(),
            ));
        }
        forms
    }

    /// Panics when a secret is in what the program said or in a file that it left.
    #[track_caller]
    fn assert_unseen(&self, what: &str, bench: &Bench, ran: &Ran) {
        let mut written = vec![
            (
                "standard output".to_owned(),
                ran.stdout.clone().into_bytes(),
            ),
            ("standard error".to_owned(), ran.stderr.clone().into_bytes()),
        ];
        for file in bench.files() {
            written.push((file.display().to_string(), std::fs::read(&file).unwrap()));
        }
        self.assert_in_none(&format!("{what}: {ran}"), &written);
    }

    /// Panics when a secret is in one of these, each a place and what is there.
    #[track_caller]
    fn assert_in_none(&self, what: &str, written: &[(String, Vec<u8>)]) {
        for (name, form) in self.forms() {
            for (place, bytes) in written {
                assert!(
                    !bytes.windows(form.len()).any(|w| w == form),
                    "{name} is in {place}: {what}"
                );
            }
        }
    }

    fn bench(&self, api: &FakeApi) -> Bench {
        let url = api.url();
        let yaml = format!(
            r#"title: Shop
config:
  companyid: {{description: A, secret: true}}
  password: {{description: B, secret: true}}
  token: {{description: C, secret: true}}
  header_key: {{description: D, secret: true}}
  query_key: {{description: E, secret: true}}
  client_id: {{description: F, secret: true}}
  client_secret: {{description: G, secret: true}}
  grant_password: {{description: H, secret: true}}
  refresh_token: {{description: I, secret: true}}
  jwt_secret: {{description: J, secret: true}}
  login_password: {{description: K, secret: true}}
  private_key: {{description: L, secret: true}}
base_url: {base}
records: /data
primary_key: [id]
pagination: {{next_url: {{next: /next}}}}
streams:
  basic: {{auth: {{basic: {{username: "{{{{ config.companyid }}}}", password: "{{{{ config.password }}}}"}}}}}}
  bearer: {{auth: {{bearer: {{token: "{{{{ config.token }}}}"}}}}}}
  header: {{auth: {{api_key: {{header: X-Api-Key, value: "{{{{ config.header_key }}}}"}}}}}}
  query: {{auth: {{api_key: {{query: api_key, value: "{{{{ config.query_key }}}}"}}}}}}
  oauth:
    auth:
      client_credentials:
        token_url: {base}/oauth/token?tenant=hidden
        client_id: "{{{{ config.client_id }}}}"
        client_secret: "{{{{ config.client_secret }}}}"
  person:
    auth:
      oauth2:
        password:
          token_url: {base}/oauth/token?tenant=hidden
          username: ann
          password: "{{{{ config.grant_password }}}}"
  refresh:
    auth:
      oauth2:
        refresh_token:
          token_url: {base}/oauth/token?tenant=hidden
          client_id: me
          refresh_token: "{{{{ config.refresh_token }}}}"
  signed:
    auth:
      oauth2:
        jwt_bearer:
          token_url: {base}/oauth/token?tenant=hidden
          alg: ES256
          private_key: "{{{{ config.private_key }}}}"
  asserted:
    auth:
      oauth2:
        client_credentials:
          token_url: {base}/oauth/token?tenant=hidden
          client_id: me
          client_auth: {{private_key_jwt: {{alg: ES256, private_key: "{{{{ config.private_key }}}}"}}}}
  jwt: {{auth: {{jwt: {{alg: HS256, secret: "{{{{ config.jwt_secret }}}}", send: {{query: jwt}}}}}}}}
  session:
    auth:
      session:
        login: {{path: /login, body: {{user: ann, password: "{{{{ config.login_password }}}}"}}}}
        token: /token
        send: {{cookie: SID}}
"#,
            base = url.as_str().trim_end_matches('/')
        );
        let mut bench = Bench::with("shop", &yaml);
        for stream in STREAMS {
            bench.schema("shop", stream, &COLUMNS);
        }
        for (key, secret) in &self.0 {
            bench = bench.env(&format!("DRAWOFF_SHOP_{}", key.to_uppercase()), secret);
        }
        bench
    }
}

/// What servers give.
struct Tokens {
    access: String,
    refresh: String,
    session: String,
}

impl Tokens {
    fn of(canaries: &Canaries) -> Self {
        Self {
            access: canaries.of("access_token").to_owned(),
            refresh: canaries.of("refresh_token").to_owned(),
            session: canaries.of("session_token").to_owned(),
        }
    }
}

/// Everything that a request carried, as a server that debugs would show it.
fn echo(request: &Received) -> String {
    let headers: Vec<String> = request
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    format!(
        "{} {}?{}\n{}\n{}",
        request.method,
        request.path,
        request.query,
        headers.join("\n"),
        String::from_utf8_lossy(&request.body)
    )
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Fine,
    Unauthorized,
    Forbidden,
    NotFound,
    BadRequest,
    Down,
    Html,
    Cut,
    Reset,
    NoRecords,
    BrokenJson,
    Redirect,
    NextElsewhere,
    Circle,
    TokenRefused,
    TokenHtml,
    TokenDown,
}

const MOODS: [Mood; 17] = [
    Mood::Fine,
    Mood::Unauthorized,
    Mood::Forbidden,
    Mood::NotFound,
    Mood::BadRequest,
    Mood::Down,
    Mood::Html,
    Mood::Cut,
    Mood::Reset,
    Mood::NoRecords,
    Mood::BrokenJson,
    Mood::Redirect,
    Mood::NextElsewhere,
    Mood::Circle,
    Mood::TokenRefused,
    Mood::TokenHtml,
    Mood::TokenDown,
];

fn answer(mood: Mood, tokens: &Tokens, request: &Received) -> Reply {
    let echoed = echo(request);
    if request.path == "/login" {
        return match mood {
            Mood::TokenRefused => Reply::status(401).body(echoed),
            Mood::TokenHtml => Reply::html().body(format!("<html>{echoed}")),
            Mood::TokenDown => Reply::status(503).body(echoed),
            _ => Reply::json(&json!({"token": tokens.session})),
        };
    }
    if request.path == "/oauth/token" {
        return match mood {
            Mood::TokenRefused => Reply::json(&json!({
                "error": "invalid_client", "error_description": echoed,
            }))
            .with_status(401),
            Mood::TokenHtml => Reply::html().body(format!("<html>{echoed}")),
            Mood::TokenDown => Reply::status(503).body(echoed),
            _ => Reply::json(&json!({
                "access_token": tokens.access, "token_type": "Bearer", "expires_in": 3600,
                // It comes round again, so that each run has one that is good.
                "refresh_token": tokens.refresh,
            })),
        };
    }
    let away = format!("https://elsewhere.example/?{}", request.query);
    match mood {
        Mood::Unauthorized => Reply::status(401)
            .header("www-authenticate", echoed.replace('\n', " "))
            .body(echoed),
        Mood::Forbidden => Reply::status(403).body(echoed),
        Mood::NotFound => Reply::status(404).body(echoed),
        Mood::BadRequest => Reply::status(400).body(echoed),
        Mood::Down => Reply::status(500).body(echoed),
        Mood::Html => Reply::html().body(format!("<html>{echoed}")),
        Mood::Cut => Reply::json_text(format!("[\"{echoed}\"")).truncated(20),
        Mood::Reset => Reply::reset(),
        Mood::NoRecords => Reply::json(&json!({"error": echoed})),
        Mood::BrokenJson => Reply::json_text(format!("{{\"data\": [{{\"id\": 1, {echoed}")),
        Mood::Redirect => Reply::redirect(302, away),
        Mood::NextElsewhere => Reply::json(&json!({"data": [item(1, 1)], "next": away})),
        Mood::Circle => {
            let here = format!("{}?{}", request.path, request.query);
            Reply::json(&json!({"data": [item(1, 1)], "next": here}))
        }
        _ => Reply::json(&json!({"data": [item(1, 1), {"id": "x"}]})),
    }
}

#[tokio::test]
async fn no_secret_is_ever_written() {
    let each = MOODS.map(|mood| async move {
        let canaries = Canaries::new();
        let tokens = Tokens::of(&canaries);
        let api = FakeApi::start(move |request| answer(mood, &tokens, request)).await;
        let hangs = matches!(mood, Mood::Down | Mood::Cut | Mood::Reset | Mood::TokenDown);
        let deadline = if hangs { "1s" } else { "5m" };
        let formats = [("text", "sqlite:drawoff.db"), ("json", "parquet:out")];
        for (format, destination) in formats {
            let bench = canaries.bench(&api);
            let ran = bench
                .run(&[
                    "--source",
                    "shop",
                    "-vv",
                    "--log-format",
                    format,
                    "--deadline",
                    deadline,
                    "--destination",
                    destination,
                ])
                .await;
            let what = format!("{mood:?}, {format}");
            canaries.assert_unseen(&what, &bench, &ran);
            let good = mood == Mood::Fine;
            assert_eq!(ran.code == Some(0), good, "{what}: {ran}");
            assert!(!ran.all().contains("tenant=hidden"), "{what}: {ran}");
            // The log said something, or there was nothing to look through.
            assert!(ran.stderr.len() > 500, "{what}: {ran}");
        }
        for args in [
            vec!["check", "--source", "shop", "-vv"],
            vec!["preview", "--source", "shop", "--stream", "query", "-vv"],
        ] {
            // These have no deadline, and would wait for what does not come.
            if !hangs {
                let bench = canaries.bench(&api);
                let ran = bench.run(&args).await;
                canaries.assert_unseen(&format!("{mood:?}, {}", args[0]), &bench, &ran);
            }
        }
        // They did travel, or this test would prove nothing.
        let sent: String = api.requests().iter().map(echo).collect();
        for key in ["token", "header_key"] {
            assert!(sent.contains(canaries.of(key)), "{key}");
        }
        // The later streams do not get their turn where each waits for what does not come.
        if !hangs {
            for key in ["grant_password", "refresh_token"] {
                let form: String = byte_serialize(canaries.of(key).as_bytes()).collect();
                assert!(sent.contains(&form), "{key}");
            }
            for text in ["assertion=ey", "client_assertion=ey", "jwt=ey"] {
                assert!(sent.contains(text), "{text}");
            }
            let login = canaries.of("login_password").replace('&', r"\u0026");
            assert!(sent.contains(&login));
        }
        let pair = format!("{}:{}", canaries.of("companyid"), canaries.of("password"));
        assert!(sent.contains(&STANDARD.encode(pair)));
        let query = api.requests().into_iter().find_map(|r| r.param("api_key"));
        assert_eq!(query.as_deref(), Some(canaries.of("query_key")));
        if mood == Mood::Fine {
            assert!(sent.contains(&format!("Bearer {}", canaries.of("access_token"))));
            assert!(sent.contains(&format!("SID={}", canaries.of("session_token"))));
        }
    });
    // A few at a time: two processors run all of them.
    use futures::StreamExt as _;
    futures::stream::iter(each)
        .buffer_unordered(4)
        .collect::<Vec<()>>()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_gets_into_bigquery() {
    let emulator = Emulator::get();
    for mood in [
        Mood::Fine,
        Mood::Forbidden,
        Mood::BrokenJson,
        Mood::TokenHtml,
    ] {
        let canaries = Canaries::new();
        let tokens = Tokens::of(&canaries);
        let api = FakeApi::start(move |request| answer(mood, &tokens, request)).await;
        let proxy = RestProxy::with(emulator.rest(), vec![]).await;
        let dataset = emulator.dataset("canaries");
        let bench = canaries.bench(&api).bigquery(&proxy.url, emulator.grpc());
        let destination = format!("bigquery:{PROJECT}.{dataset}");
        let ran = bench
            .run(&["--source", "shop", "-vv", "--destination", &destination])
            .await;
        let what = format!("{mood:?}");
        canaries.assert_unseen(&what, &bench, &ran);
        let good = mood == Mood::Fine;
        assert_eq!(ran.code == Some(0), good, "{ran}");

        // Every request: statements, parameters, labels, descriptions. Then every table.
        let mut written: Vec<(String, Vec<u8>)> = proxy
            .seen("")
            .into_iter()
            .map(|s| {
                let text = format!("{} {} {}", s.line, s.query, s.json);
                (s.line, text.into_bytes())
            })
            .collect();
        assert!(
            written
                .iter()
                .any(|(line, _)| line.starts_with("POST ") && line.ends_with("/jobs"))
        );
        let tables = emulator.tables(&dataset);
        for name in [
            "_drawoff_runs",
            "_drawoff_leases",
            "bearer",
            "bearer__rejects",
        ] {
            assert!(
                tables.iter().any(|t| t == name),
                "{name} is not in {tables:?}"
            );
        }
        for table in tables {
            let rows = emulator.query(&format!("SELECT * FROM {dataset}.{table}"));
            if table == "_drawoff_runs" {
                let runs = rows.as_array().unwrap();
                assert_eq!(runs.len(), STREAMS.len(), "{ran}");
                // The errors that quote what the server said.
                let failed = runs.iter().filter(|r| !r["error"].is_null()).count();
                assert_eq!(failed > 0, !good, "{runs:?}");
            }
            written.push((table, rows.to_string().into_bytes()));
        }
        canaries.assert_in_none(&what, &written);
    }
}

/// A connector with one secret, `token`.
fn one_secret(api: &FakeApi) -> Bench {
    let yaml = format!(
        "title: Shop\nconfig:\n  token: {{description: API token, secret: true}}\nbase_url: {}\n\
         auth: {{bearer: {{token: \"{{{{ config.token }}}}\"}}}}\nparams: {{hidden: in-the-query}}\n\
         records: /data\nstreams:\n  items:\n",
        api.url().as_str().trim_end_matches('/')
    );
    let bench = Bench::with("shop", &yaml);
    bench.schema("shop", "items", &COLUMNS);
    bench
}

fn data(_: &Received) -> Reply {
    Reply::json(&json!({"data": [item(1, 1)]}))
}

#[tokio::test]
async fn a_missing_secret_is_named_with_where_it_was_looked_for() {
    let api = FakeApi::start(data).await;
    let bench = one_secret(&api);
    let run = ["--source", "shop"];
    bench
        .run(&run)
        .await
        .exits(1)
        .complains("secret `token` of source `shop` could not be read")
        .complains("environment variable `DRAWOFF_SHOP_TOKEN` is not set")
        .complains("hint: set `DRAWOFF_SHOP_TOKEN`");
    bench.write(
        "drawoff.yaml",
        "sources: {shop: {secrets: {token: \"file://nowhere/token\"}}}",
    );
    bench.run(&run).await.exits(1).complains("nowhere/token");
    bench.write(
        "drawoff.yaml",
        "sources: {shop: {secrets: {token: \"env://SHOP_TOKEN\"}}}",
    );
    bench
        .run(&run)
        .await
        .exits(1)
        .complains("`SHOP_TOKEN` is not set");
    // The secret itself in the file is not repeated.
    bench.write(
        "drawoff.yaml",
        "sources: {shop: {secrets: {token: canary-literal}}}",
    );
    let ran = bench.run(&run).await.exits(2).complains("drawoff.yaml:1:");
    assert!(!ran.all().contains("canary-literal"), "{ran}");
    let ran = bench
        .run(&["--source", "shop", "--set", "token=canary-literal"])
        .await
        .exits(2);
    assert!(!ran.all().contains("canary-literal"), "{ran}");
    assert!(
        api.requests().is_empty(),
        "nothing is sent without credentials"
    );
}

#[tokio::test]
async fn a_wrong_credential_is_tried_once() {
    let api = FakeApi::start(|_: &Received| Reply::status(401)).await;
    let bench = one_secret(&api).env("DRAWOFF_SHOP_TOKEN", "canary-wrong-token");
    let ran = bench
        .run(&["--source", "shop"])
        .await
        .exits(1)
        .says(&format!("`GET {}` answered 401", api.at("/items")))
        .says("check secret `token` of source `shop`");
    assert!(!ran.all().contains("in-the-query"), "{ran}");
    assert_eq!(api.requests().len(), 1);
}

#[tokio::test]
async fn a_trailing_newline_is_not_part_of_a_secret() {
    let api = FakeApi::start(data).await;
    let bench = one_secret(&api);
    bench.write("token", "canary-token\n");
    bench.write(
        "drawoff.yaml",
        "sources: {shop: {secrets: {token: \"file://token\"}}}",
    );
    bench.run(&["--source", "shop"]).await.exits(0);
    assert_eq!(
        api.requests()[0].header("authorization"),
        Some("Bearer canary-token")
    );
    assert_eq!(sqlite(&bench.path("drawoff.db"), "items").len(), 1);
}
