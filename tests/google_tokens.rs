//! Tokens for people and for sources that run on Google's cloud: `drawoff auth`, `auth: {google: …}`
//! and `--impersonate-service-account`, with every kind of credentials.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::support::binary::{Bench, Ran};
use crate::support::google::{
    Answer, CLOUD_PLATFORM, Google, IAM, METADATA, OAUTH, Role, STS, Subject, principal,
};
use crate::support::tables;

const SERVICE: &str = "shop-x7-ew.a.run.app";
const SHEETS: &str = "sheets.googleapis.com";
const READ_SHEETS: &str = "https://www.googleapis.com/auth/spreadsheets.readonly";

/// Every kind of credentials that is understood.
const KINDS: [&str; 7] = [
    "service_account",
    "authorized_user",
    "impersonated_service_account",
    "external_account",
    "external_account as an account",
    "external_account_authorized_user",
    "metadata",
];

/// An environment with credentials of this kind, and who they are.
fn with(google: &Google, bench: Bench, kind: &str) -> (Bench, String) {
    let own = google.service_account("loader");
    let subject = bench.path("subject").display().to_string();
    let federated = |target: Option<&str>| {
        let (file, token) = google.external_file("build", &Subject::File(subject.clone()), target);
        bench.write("subject", &token);
        google.grant(&principal("build"), Role::TokenCreator(own.clone()));
        file
    };
    let (file, name) = match kind {
        "service_account" => (google.key_file(&own), own),
        "authorized_user" => (
            google.user_file("ada@example.com"),
            "ada@example.com".into(),
        ),
        "impersonated_service_account" => {
            let source = google.user_file("ada@example.com");
            google.grant("ada@example.com", Role::TokenCreator(own.clone()));
            (google.impersonated_file(&source, &own, &[]), own)
        }
        "external_account" => (federated(None), principal("build")),
        "external_account as an account" => (federated(Some(&own)), own),
        "external_account_authorized_user" => google.workforce_file("ada"),
        "metadata" => {
            google.attach(&own);
            return (google.bare_env(bench), own);
        }
        other => panic!("{other}"),
    };
    (google.env(bench, &file), name)
}

/// Nothing of what the program says, and no file that it leaves, holds a secret of the credentials or a
/// token that was shown to anybody.
#[track_caller]
fn kept_quiet(google: &Google, bench: &Bench, ran: &Ran) {
    fn secrets(json: &Value, found: &mut Vec<String>) {
        match json {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match (key.as_str(), value) {
                        ("private_key" | "refresh_token" | "client_secret", Value::String(s)) => {
                            found.push(s.clone());
                        }
                        (_, nested) => secrets(nested, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|i| secrets(i, found)),
            _ => {}
        }
    }
    let own = ["credentials.json", "subject"].map(|file| bench.path(file));
    let mut hidden = Vec::new();
    if let Ok(text) = std::fs::read_to_string(&own[0]) {
        secrets(&serde_json::from_str(&text).unwrap(), &mut hidden);
    }
    hidden.extend(std::fs::read_to_string(&own[1]).ok());
    hidden.extend(
        google
            .calls()
            .iter()
            .filter_map(|c| c.bearer().map(str::to_owned)),
    );
    let mut texts = vec![ran.all()];
    for file in bench.files().iter().filter(|f| !own.contains(f)) {
        texts.push(String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned());
    }
    for text in texts {
        for secret in hidden.iter().filter(|s| !s.is_empty()) {
            assert!(!text.contains(secret.as_str()), "{secret} is in {text}");
        }
    }
}

/// A source that is one of Google's own APIs, and one that is a service on Cloud Run.
fn sources(google: &Google) -> Bench {
    let rows = |_: &crate::support::google::Call| Answer::json(&json!([{"id": 1}, {"id": 2}]));
    google.api(SHEETS, &[READ_SHEETS, CLOUD_PLATFORM], rows);
    google.run_service(SERVICE, &["orders"], rows);
    let yaml = format!(
        "title: Google\nbase_url: https://{SHEETS}\nstreams:\n  sheet: \n    auth: {{google: {{access_token: {{scopes: [{READ_SHEETS}]}}}}}}\n  \
         orders: {{base_url: 'https://{SERVICE}', auth: {{google: id_token}}}}\n  \
         custom: {{base_url: 'https://{SERVICE}', auth: {{google: {{id_token: {{audience: orders}}}}}}}}\n"
    );
    Bench::with("own", &yaml)
}

#[tokio::test]
async fn sources_on_googles_cloud_are_called_with_every_kind_of_credentials() {
    for kind in KINDS {
        let google = Google::start().await;
        let (bench, name) = with(&google, sources(&google), kind);
        google.grant(&name, Role::Invoker(SERVICE.to_owned()));
        let ran = bench
            .run(&["--source", "own", "--stream", "sheet", "-vv"])
            .await;
        let ran = ran.exits(0);
        let call = google.calls_to(SHEETS).pop().unwrap();
        let who = call.who.unwrap();
        assert_eq!(who.name, name);
        // What a person may is said at the login.
        if !kind.contains("user") {
            assert_eq!(who.scopes, [READ_SHEETS], "{kind}");
        }
        kept_quiet(&google, &bench, &ran);

        // People and federated identities have no ID token for an audience of one's choice.
        let has = !matches!(
            kind,
            "authorized_user" | "external_account" | "external_account_authorized_user"
        );
        for stream in ["orders", "custom"] {
            let ran = bench
                .run(&["--source", "own", "--stream", stream, "-vv"])
                .await;
            match has {
                true => {
                    let ran = ran.exits(0);
                    let who = google.calls_to(SERVICE).pop().unwrap().who.unwrap();
                    assert_eq!(who.name, name, "{kind}");
                    kept_quiet(&google, &bench, &ran);
                    assert_eq!(tables::sqlite(&bench.path("drawoff.db"), stream).len(), 2);
                }
                false => {
                    ran.exits(1)
                        .says("no ID tokens for an audience of one's choice")
                        .says("--impersonate-service-account");
                    assert!(google.calls_to(SERVICE).is_empty());
                }
            }
        }
        google.nothing_was_wrong();
    }
}

#[tokio::test]
async fn every_kind_says_who_it_is_and_prints_tokens_for_those_who_ask() {
    for kind in KINDS {
        let google = Google::start().await;
        let (bench, name) = with(&google, Bench::new(), kind);
        let ran = bench
            .run(&["auth", "whoami", "--json", "-vv"])
            .await
            .exits(0);
        kept_quiet(&google, &bench, &ran);
        let who: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(who["type"], kind.split(' ').next().unwrap(), "{who}");
        if name.contains('@') {
            assert_eq!(who["account"], name, "{kind}: {who}");
        }
        if !kind.starts_with("external_account") {
            let scopes = who["scopes"].as_array().unwrap();
            assert!(scopes.contains(&json!(CLOUD_PLATFORM)), "{kind}: {who}");
            assert!(who["expires_at"].is_string(), "{kind}: {who}");
        }
        let text = bench.run(&["auth", "whoami"]).await.exits(0).stdout;
        assert!(
            text.contains("account") && text.contains("credentials"),
            "{text}"
        );

        let ran = bench
            .run(&[
                "auth",
                "print-access-token",
                "--scopes",
                "spreadsheets.readonly",
                "-vv",
            ])
            .await
            .exits(0);
        let token = ran.stdout.trim();
        assert!(
            token.len() > 20 && !token.contains(char::is_whitespace),
            "{kind}: {ran}"
        );
        assert!(!ran.stderr.contains(token), "{kind}: {ran}");
        // It is a token of who they are, good for what was asked.
        google.api(SHEETS, &[READ_SHEETS, CLOUD_PLATFORM], |_| {
            Answer::json(&json!([]))
        });
        let client = reqwest::Client::builder()
            .proxy(reqwest::Proxy::all(google.proxy_url()).unwrap())
            .tls_certs_only([reqwest::Certificate::from_pem(
                &std::fs::read(google.authority()).unwrap(),
            )
            .unwrap()])
            .build()
            .unwrap();
        let answer = client
            .get(format!("https://{SHEETS}/"))
            .bearer_auth(token)
            .send()
            .await;
        assert_eq!(answer.unwrap().status().as_u16(), 200, "{kind}");
        assert_eq!(google.calls_to(SHEETS)[0].who.as_ref().unwrap().name, name);
        google.nothing_was_wrong();
    }
}

#[tokio::test]
async fn another_account_is_acted_as_with_every_kind_of_credentials() {
    for kind in KINDS {
        let google = Google::start().await;
        let (bench, name) = with(&google, sources(&google), kind);
        let (middle, target) = (
            google.service_account("middle"),
            google.service_account("target"),
        );
        google.grant(&target, Role::Invoker(SERVICE.to_owned()));
        let chain = format!("{middle},{target}");
        let run = ["--source", "own", "--impersonate-service-account", &chain];

        let ran = bench.run(&run).await.exits(1);
        ran.says("403").says(&format!(
            "grant `roles/iam.serviceAccountTokenCreator` on `{target}`"
        ));

        google.grant(&name, Role::TokenCreator(middle.clone()));
        google.grant(&middle, Role::TokenCreator(target.clone()));
        bench.run(&run).await.exits(0);
        for host in [SHEETS, SERVICE] {
            let who = google.calls_to(host).pop().unwrap().who.unwrap();
            assert_eq!(who.name, target, "{kind}");
        }
        let ran = bench
            .run(&["auth", "whoami", "--impersonate-service-account", &chain])
            .await
            .exits(0);
        ran.says(&target).says(&middle);
    }
    // gcloud's own variable does the same.
    let google = Google::start().await;
    let (bench, name) = with(&google, Bench::new(), "service_account");
    let target = google.service_account("target");
    google.grant(&name, Role::TokenCreator(target.clone()));
    let bench = bench.env("CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT", &target);
    bench.run(&["auth", "print-access-token"]).await.exits(0);
    assert_eq!(google.calls_to(IAM).len(), 1);
    let bench = bench.env("DRAWOFF_IMPERSONATE_SERVICE_ACCOUNT", "somebody");
    let ran = bench.run(&["auth", "whoami"]).await.exits(2);
    ran.complains("names no service account");
}

#[tokio::test]
async fn tokens_go_nowhere_else() {
    let google = Google::start().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    for host in ["evil.example", "googleapis.com.evil.example"] {
        let seen = seen.clone();
        google.site(host, move |call| {
            seen.lock()
                .unwrap()
                .push(call.header("authorization").map(str::to_owned));
            Answer::json(&json!([]))
        });
    }
    for (base_url, auth, code, said) in [
        (
            "https://evil.example",
            "access_token",
            1,
            "goes to `*.googleapis.com` only",
        ),
        (
            "https://googleapis.com.evil.example",
            "access_token",
            1,
            "goes to `*.googleapis.com` only",
        ),
        ("http://127.0.0.1:9", "id_token", 1, "over https only"),
    ] {
        let yaml = format!(
            "title: Own\nbase_url: {base_url}\nauth: {{google: {auth}}}\nstreams: {{a: }}\n"
        );
        let (bench, _) = with(&google, Bench::with("own", &yaml), "service_account");
        let ran = bench.run(&["--source", "own"]).await;
        assert!(matches!(ran.code, Some(c) if c == code || c == 2), "{ran}");
        assert!(ran.all().contains(said), "{ran}");
    }
    assert_eq!(*seen.lock().unwrap(), [] as [Option<String>; 0]);
}

#[tokio::test]
async fn a_refused_token_is_replaced_and_no_page_is_lost() {
    let google = Google::start().await;
    let (bench, name) = with(&google, sources(&google), "metadata");
    google.grant(&name, Role::Invoker(SERVICE.to_owned()));
    // One that is over before its time, and ones that live for a moment.
    let world = Arc::new(google);
    let inner = Arc::downgrade(&world);
    let over = AtomicBool::new(false);
    world.api(SHEETS, &[READ_SHEETS], move |call| {
        let page: u64 = call
            .query
            .split('&')
            .find_map(|pair| pair.strip_prefix("page="))
            .map_or(1, |page| page.parse().unwrap());
        if page == 2
            && !over.swap(true, Ordering::SeqCst)
            && let Some(google) = inner.upgrade()
        {
            google.expire_tokens();
        }
        let rows: Vec<Value> = match page {
            1..=4 => (0..2).map(|n| json!({"id": page * 10 + n})).collect(),
            _ => Vec::new(),
        };
        Answer::json(&json!(rows))
    });
    bench.connector("paged", &format!(
        "title: Paged\nbase_url: https://{SHEETS}\nauth: {{google: {{access_token: {{scopes: [{READ_SHEETS}]}}}}}}\n\
         pagination: {{page: {{page_param: page, size_param: per_page, size: 2}}}}\nstreams: {{rows: {{primary_key: id}}}}\n"
    ));
    bench.run(&["--source", "paged"]).await.exits(0);
    let ids = tables::numbers(&tables::sqlite(&bench.path("drawoff.db"), "rows"), "id");
    assert_eq!(ids, [10, 11, 20, 21, 30, 31, 40, 41]);
    let asked = world.calls_to(METADATA);
    let tokens = asked.iter().filter(|c| c.path.ends_with("/token")).count();
    assert_eq!(tokens, 2, "the one that was refused, and its successor");
}

/// A proxy that notes what comes and answers nothing.
async fn spy() -> (String, Arc<Mutex<String>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let heard = Arc::new(Mutex::new(String::new()));
    let note = heard.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; 4096];
            let n = stream.read(&mut bytes).await.unwrap_or(0);
            note.lock()
                .unwrap()
                .push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
    });
    (url, heard)
}

#[tokio::test]
async fn a_redirect_of_a_token_service_is_not_followed() {
    for kind in [
        "authorized_user",
        "impersonated_service_account",
        "external_account_authorized_user",
    ] {
        let google = Google::start().await;
        let (bench, _) = with(&google, Bench::new(), kind);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let note = seen.clone();
        google.site("evil.example", move |call| {
            note.lock().unwrap().push(call.line());
            Answer::json(&json!({}))
        });
        for host in [OAUTH, STS] {
            let elsewhere = Answer::page(307, "").header("location", "https://evil.example/token");
            google.refuse(host, "/", elsewhere);
        }
        let ran = bench.run(&["auth", "print-access-token"]).await.exits(1);
        ran.complains("the token service sends elsewhere");
        assert_eq!(*seen.lock().unwrap(), [] as [String; 0], "{kind}");
    }
}

#[tokio::test]
async fn a_subject_token_is_never_quoted() {
    let google = Google::start().await;
    let bench = Bench::new();
    let subject = bench.path("subject").display().to_string();
    let (mut file, _) = google.external_file("build", &Subject::File(subject.clone()), None);
    file["credential_source"]["format"] =
        json!({"type": "json", "subject_token_field_name": "access_token"});
    bench.write("subject", r#"{"value": "canary-subject-token"}"#);
    let bench = google.env(bench, &file);
    for args in [
        &["auth", "print-access-token", "-vv"][..],
        &["auth", "whoami"],
    ] {
        let ran = bench.run(args).await.exits(1).complains(&subject);
        assert!(!ran.all().contains("canary"), "{ran}");
    }
    std::fs::remove_file(&subject).unwrap();
    let ran = bench.run(&["auth", "whoami"]).await.exits(1);
    ran.complains(&subject).complains("No such file");

    let told = format!("/bin/sh {}", bench.path("says.sh").display());
    let (file, _) = google.external_file("build", &Subject::Executable(told), None);
    bench.write("says.sh", "echo canary-of-a-program >&2; exit 3");
    let bench = google
        .env(bench, &file)
        .env("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1");
    let ran = bench.run(&["auth", "whoami", "-vv"]).await;
    assert!(!ran.all().contains("canary"), "{ran}");
    ran.complains("the program `/bin/sh`");
}

#[tokio::test]
async fn files_that_no_credentials_are_in_are_left_alone() {
    let google = Google::start().await;
    let (bench, name) = with(&google, Bench::new(), "service_account");
    let path = bench.path("credentials.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("\u{feff}{text}")).unwrap();
    bench.run(&["auth", "whoami"]).await.exits(0).says(&name);
    for (path, said) in [("/dev/zero", "it is no file"), ("/", "it is no file")] {
        let bench = google
            .bare_env(Bench::new())
            .env("GOOGLE_APPLICATION_CREDENTIALS", path);
        let ran = bench.run(&["auth", "whoami"]).await.exits(1);
        ran.complains(said)
            .complains("GOOGLE_APPLICATION_CREDENTIALS");
    }
    let ran = bench
        .run(&["auth", "print-identity-token", "--audience", ""])
        .await;
    ran.exits(2);
}

#[tokio::test]
async fn no_proxy_sees_the_machines_own_tokens() {
    let google = Google::start().await;
    let (bench, name) = with(&google, Bench::new(), "metadata");
    let (url, heard) = spy().await;
    let bench = bench.env("HTTP_PROXY", &url).env("http_proxy", &url);
    let ran = bench.run(&["auth", "whoami"]).await.exits(0);
    ran.says(&name);
    bench
        .run(&[
            "auth",
            "print-identity-token",
            "--audience",
            "https://x.example",
        ])
        .await
        .exits(0);
    assert_eq!(*heard.lock().unwrap(), "");
}

#[tokio::test]
async fn files_from_elsewhere_send_nothing_to_strangers() {
    let google = Google::start().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = seen.clone();
    google.site("evil.example", move |call| {
        note.lock().unwrap().push(call.line());
        Answer::json(&json!({}))
    });
    let own = google.service_account("loader");
    let elsewhere = Bench::new();
    let subject = elsewhere.path("subject").display().to_string();
    let (external, token) =
        google.external_file("build", &Subject::File(subject.clone()), Some(&own));
    elsewhere.write("subject", &token);
    let (workforce, _) = google.workforce_file("ada");
    let impersonated = google.impersonated_file(&google.user_file("ada@example.com"), &own, &[]);
    let changed = |file: &Value, pointer: &str, value: Value| {
        let mut file = file.clone();
        match file.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                file.pointer_mut(parent).unwrap()[key] = value;
            }
        }
        file
    };
    let evil = |path: &str| json!(format!("https://evil.example{path}"));
    let runs = google
        .external_file(
            "runner",
            &Subject::Executable(format!("/bin/cat {subject}")),
            None,
        )
        .0;
    for (file, said) in [
        (
            changed(&google.key_file(&own), "/token_uri", evil("/t")),
            "`token_uri` that is not Google's",
        ),
        (
            changed(&external, "/token_url", evil("/t")),
            "`token_url` that is not Google's",
        ),
        (
            changed(
                &external,
                "/token_url",
                json!("https://sts.googleapis.com.evil.example/"),
            ),
            "`token_url` that is not Google's",
        ),
        (
            changed(
                &external,
                "/service_account_impersonation_url",
                evil("/v1/projects/-/serviceAccounts/a@b:generateAccessToken"),
            ),
            "`service_account_impersonation_url` that is not Google's",
        ),
        (
            changed(
                &external,
                "/credential_source",
                json!({"url": "http://evil.example/s"}),
            ),
            "neither https nor on this machine",
        ),
        (
            changed(&workforce, "/token_url", evil("/t")),
            "`token_url` that is not Google's",
        ),
        (
            changed(&impersonated, "/source_credentials/token_uri", evil("/t")),
            "`token_uri` that is not Google's",
        ),
        (
            changed(
                &impersonated,
                "/service_account_impersonation_url",
                evil("/v1/projects/-/serviceAccounts/a@b:generateAccessToken"),
            ),
            "`service_account_impersonation_url` that is not Google's",
        ),
        (runs, "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1"),
        (
            changed(
                &google.key_file(&own),
                "/universe_domain",
                json!("s3nsapis.fr"),
            ),
            "GOOGLE_CLOUD_UNIVERSE_DOMAIN=s3nsapis.fr",
        ),
        (
            changed(&google.key_file(&own), "/private_key_id", json!("")),
            "has no `private_key_id`",
        ),
        (
            changed(
                &google.key_file(&own),
                "/private_key",
                json!("-----BEGIN PRIVATE KEY-----\nspoilt\n-----END PRIVATE KEY-----\n"),
            ),
            "`private_key` cannot be signed with",
        ),
        (
            json!({"installed": {"client_id": "x", "client_secret": "canary"}}),
            "holds an OAuth client, not credentials",
        ),
    ] {
        let bench = google.env(Bench::new(), &file);
        let ran = bench
            .run(&["auth", "whoami", "-vv"])
            .await
            .exits(1)
            .complains(said);
        for key in ["private_key", "refresh_token", "client_secret"] {
            for place in [
                &file[key],
                &file["source_credentials"][key],
                &file["installed"][key],
            ] {
                if let Some(secret) = place.as_str() {
                    assert!(!ran.all().contains(secret), "{ran}");
                }
            }
        }
        assert!(!ran.all().contains(&token), "{ran}");
    }
    assert_eq!(*seen.lock().unwrap(), [] as [String; 0]);
    google.nothing_was_wrong();
}

#[tokio::test]
async fn why_there_is_no_token_is_said_for_each_kind() {
    for (kind, said, hint) in [
        (
            "authorized_user",
            "400 invalid_grant",
            "gcloud auth application-default login",
        ),
        (
            "external_account_authorized_user",
            "400 invalid_grant",
            "gcloud auth application-default login",
        ),
        (
            "external_account",
            "invalid_grant",
            "workload identity pool",
        ),
        (
            "impersonated_service_account",
            "invalid_grant",
            "gcloud auth application-default login",
        ),
    ] {
        let google = Google::start().await;
        let (bench, name) = with(&google, Bench::new(), kind);
        google.revoke(&name);
        google.revoke("ada@example.com");
        let ran = bench
            .run(&["auth", "print-access-token", "-vv"])
            .await
            .exits(1);
        assert_eq!(ran.stdout, "", "{kind}");
        kept_quiet(&google, &bench, &ran);
        ran.complains(said)
            .complains(hint)
            .complains(&format!("the `{kind}` credentials of `"));
    }
}
