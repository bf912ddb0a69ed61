//! The stand-in for Google, held against Google's own command line: what `gcloud` sends is taken, and
//! what comes back is understood.

use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::binary::Bench;
use crate::support::google::{Google, PROJECT, Proof, Role, SECRETS, VersionState};

/// `gcloud`, with a configuration of its own, on the way to the stand-in.
struct Gcloud {
    configuration: TempDir,
    settings: Vec<(&'static str, String)>,
}

impl Gcloud {
    /// `None` where the machine has none.
    fn to(google: &Google) -> Option<Self> {
        let there = Command::new("gcloud")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !there.is_ok_and(|status| status.success()) {
            eprintln!("not tried: there is no `gcloud` on this machine");
            return None;
        }
        let proxy = google.proxy_url();
        let port = proxy.rsplit(':').next().unwrap().to_owned();
        let authority = google.authority().display().to_string();
        Some(Self {
            configuration: tempfile::tempdir().unwrap(),
            settings: vec![
                ("CLOUDSDK_PROXY_TYPE", "http".into()),
                ("CLOUDSDK_PROXY_ADDRESS", "127.0.0.1".into()),
                ("CLOUDSDK_PROXY_PORT", port),
                ("CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", authority),
                ("CLOUDSDK_CORE_PROJECT", PROJECT.into()),
                ("CLOUDSDK_CORE_DISABLE_PROMPTS", "1".into()),
                ("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "true".into()),
                ("CLOUDSDK_CORE_CHECK_GCE_METADATA", "false".into()),
                (
                    "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK",
                    "true".into(),
                ),
            ],
        })
    }

    /// What it prints; panics with what it complains of unless it ends well.
    async fn run(&self, args: &[&str]) -> String {
        let (code, out, complaint) = self.attempt(args).await;
        assert_eq!(code, Some(0), "gcloud {args:?}: {complaint}");
        out
    }

    async fn attempt(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new("gcloud");
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.configuration.path())
            .env("CLOUDSDK_CONFIG", self.configuration.path())
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = output.await.unwrap().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }
}

#[tokio::test]
async fn gcloud_takes_it_for_google() {
    let google = Google::start().await;
    let Some(gcloud) = Gcloud::to(&google) else {
        return;
    };
    let keeper = google.service_account("keeper");
    google.grant(&keeper, Role::SecretAccessor);
    google.grant(&keeper, Role::SecretVersionManager);
    google.put_secret(PROJECT, "token", "first-value");
    let key = gcloud.configuration.path().join("key.json");
    std::fs::write(&key, google.key_file(&keeper).to_string()).unwrap();
    let key = key.to_str().unwrap().to_owned();

    gcloud
        .run(&["auth", "activate-service-account", "--key-file", &key])
        .await;
    let token = gcloud.run(&["auth", "print-access-token"]).await;
    assert!(token.starts_with("ya29."), "{token}");

    let audience = "https://collector-abc-ew.a.run.app";
    let audiences = format!("--audiences={audience}");
    let identity = gcloud
        .run(&["auth", "print-identity-token", &audiences])
        .await;
    let claims: Value = jsonwebtoken::dangerous::insecure_decode(&identity)
        .unwrap()
        .claims;
    assert_eq!(claims["aud"], audience);
    assert_eq!(claims["email"], keeper.as_str());

    let value = ["secrets", "versions", "access", "latest", "--secret=token"];
    assert_eq!(gcloud.run(&value).await, "first-value");
    let file = gcloud.configuration.path().join("value");
    std::fs::write(&file, "second-value").unwrap();
    let data = format!("--data-file={}", file.display());
    gcloud
        .run(&["secrets", "versions", "add", "token", &data])
        .await;
    assert_eq!(gcloud.run(&value).await, "second-value");
    gcloud
        .run(&["secrets", "versions", "disable", "1", "--secret=token"])
        .await;
    let list = gcloud
        .run(&[
            "secrets",
            "versions",
            "list",
            "token",
            "--format=value(name,state)",
        ])
        .await;
    let lines: Vec<Vec<&str>> = list
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(lines, [["2", "enabled"], ["1", "disabled"]]);
    assert_eq!(
        google.versions(PROJECT, "token"),
        [
            (b"first-value".to_vec(), VersionState::Disabled),
            (b"second-value".to_vec(), VersionState::Enabled),
        ]
    );
    for call in google.calls_to(SECRETS) {
        let who = call.who.unwrap();
        assert_eq!(
            (who.name.as_str(), who.proof),
            (keeper.as_str(), Proof::AccessToken)
        );
    }
    google.nothing_was_wrong();

    let (code, _, complaint) = gcloud
        .attempt(&["secrets", "versions", "access", "latest", "--secret=other"])
        .await;
    assert_eq!(code, Some(1));
    assert!(complaint.contains("NOT_FOUND"), "{complaint}");
}

#[tokio::test]
async fn gcloud_reads_what_the_program_stores() {
    let google = Google::start().await;
    let Some(gcloud) = Gcloud::to(&google) else {
        return;
    };
    let keeper = google.service_account("keeper");
    google.grant(&keeper, Role::SecretAdmin);
    let yaml = "title: Shop\nconfig:\n  token: {description: API token, secret: true}\nbase_url: https://shop.example\n\
         auth: {bearer: {token: \"{{ config.token }}\"}}\nrecords: /data\nstreams:\n  items:\n";
    let bench = google.env(Bench::with("shop", yaml), &google.key_file(&keeper));
    let key = bench.path("credentials.json").display().to_string();
    gcloud
        .run(&["auth", "activate-service-account", "--key-file", &key])
        .await;
    let set = [
        "secrets",
        "set",
        "shop",
        "token",
        "--create",
        "--project",
        PROJECT,
    ];
    bench.feed(&set, "stored+by/us=é\n").await.exits(0);
    let value = ["secrets", "versions", "access", "latest", "--secret=token"];
    assert_eq!(gcloud.run(&value).await, "stored+by/us=é");
    google.nothing_was_wrong();
}
