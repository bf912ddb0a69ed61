use super::*;
use crate::clock::SystemClock;
use crate::google::{Endpoint, GoogleSettings};

fn google(settings: GoogleSettings) -> Google {
    Google::new(settings, SystemClock::shared()).unwrap()
}

fn https() -> Endpoint {
    Endpoint::parse("https://bigquery.googleapis.com", "X").unwrap()
}

fn with_file(name: &str, content: &str) -> (tempfile::TempDir, GoogleSettings) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    let settings = GoogleSettings {
        credentials_file: Some(path),
        metadata: None,
        ..Default::default()
    };
    (folder, settings)
}

#[tokio::test]
async fn says_where_it_looked_and_how_to_log_in() {
    let error = google(GoogleSettings {
        metadata: None,
        well_known_file: Some("/nowhere/adc.json".into()),
        ..Default::default()
    })
    .headers(&https())
    .await
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth);
    let text = error.chain();
    assert!(text.contains("GOOGLE_APPLICATION_CREDENTIALS"), "{text}");
    assert!(text.contains("/nowhere/adc.json"), "{text}");
    assert!(
        error
            .find_hint()
            .unwrap()
            .contains("gcloud auth application-default login")
    );
}

#[tokio::test]
async fn a_metadata_server_that_is_not_one_is_not_believed() {
    // A closed port on loopback: refused at once.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = google(GoogleSettings {
        metadata: Some(Endpoint::parse(&address, "X").unwrap()),
        ..Default::default()
    })
    .headers(&https())
    .await
    .unwrap_err();
    assert!(error.chain().contains(&address), "{error:?}");
}

#[tokio::test]
async fn plain_http_gets_no_credentials_and_needs_none() {
    let nothing = google(GoogleSettings {
        metadata: None,
        ..Default::default()
    });
    let emulator = Endpoint::parse("127.0.0.1:9050", "X").unwrap();
    assert!(nothing.headers(&emulator).await.unwrap().is_empty());
}

#[tokio::test]
async fn bad_files_are_named_and_never_quoted() {
    for (content, expected) in [
        ("{\"private_key\": \"canary-secret\"", "is no JSON"),
        ("{\"private_key\": \"canary-secret\"}", "has no `type`"),
        (
            "{\"type\": \"gdch_service_account\", \"private_key\": \"canary-secret\"}",
            "`gdch_service_account`",
        ),
        (
            "{\"type\": \"service_account\", \"private_key\": \"canary-secret\", \"token_uri\": \"https://evil.example/t\"}",
            "`token_uri`",
        ),
        (
            "{\"type\": \"service_account\", \"private_key\": \"canary-secret\"}",
            "service_account",
        ),
    ] {
        let (_folder, settings) = with_file("adc.json", content);
        let error = google(settings).headers(&https()).await.unwrap_err();
        let text = format!("{error:?}");
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("adc.json"), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }
}

#[tokio::test]
async fn a_named_file_that_is_missing_is_an_error() {
    let error = google(GoogleSettings {
        credentials_file: Some("/nowhere/key.json".into()),
        ..Default::default()
    })
    .headers(&https())
    .await
    .unwrap_err();
    assert!(error.chain().contains("/nowhere/key.json"));
}
