//! Application Default Credentials: found once, on first need, and shared by every Google service.
//!
//! `google-cloud-auth` mints and refreshes the tokens. The search for them is here, so that an empty
//! variable counts as unset, `gcloud`'s configuration folder is honoured, and a failure can say
//! where it has looked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use google_cloud_auth::credentials::{
    CacheableResource, Credentials, external_account, impersonated, mds, service_account,
    user_account,
};
use http::{Extensions, HeaderMap};
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

use super::Google;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::redact;

/// What tokens are asked for; what they may do is decided by roles.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// How long the metadata server may take to say that it is there.
const METADATA_PATIENCE: Duration = Duration::from_secs(3);

/// How long a token may take, retries included.
const TOKEN_PATIENCE: Duration = Duration::from_secs(60);

const LOGIN: &str = "run `gcloud auth application-default login`, or set `GOOGLE_APPLICATION_CREDENTIALS` to a file with credentials";

/// The credentials, once found.
pub(super) struct CredentialSource(Mutex<Option<Credentials>>);

/// A file with credentials, and who named it.
pub(super) struct CredentialFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its content.
    pub json: Value,
}

impl CredentialSource {
    pub(super) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Headers with a token that is valid now.
    pub(super) async fn headers(&self, google: &Google) -> Result<HeaderMap> {
        let credentials = {
            let mut slot = self.0.lock().await;
            match &*slot {
                Some(found) => found.clone(),
                None => slot.insert(find(google).await?).clone(),
            }
        };
        let answer = tokio::time::timeout(TOKEN_PATIENCE, credentials.headers(Extensions::new()))
            .await
            .map_err(|_| {
                Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "no access token for Google came within {} s",
                        TOKEN_PATIENCE.as_secs()
                    ),
                )
            })?
            .map_err(|e| {
                let transient = e.is_transient();
                let kind = if transient {
                    ErrorKind::Unavailable
                } else {
                    ErrorKind::Auth
                };
                Error::new(kind, "could not get an access token for Google")
                    .transient(transient)
                    .hint("the credentials may be expired or revoked: run `gcloud auth application-default login` again, or create a new key")
                    .source(redact::scrub(&e.to_string()))
            })?;
        match answer {
            CacheableResource::New { data, .. } => {
                for value in data.values() {
                    if let Ok(text) = value.to_str()
                        && let Some(token) = text.strip_prefix("Bearer ")
                    {
                        redact::register(token);
                    }
                }
                Ok(data)
            }
            CacheableResource::NotModified => Err(Error::new(
                ErrorKind::Bug,
                "the credentials answered `not modified` to a first question",
            )),
        }
    }

    pub(super) async fn forget(&self) {
        *self.0.lock().await = None;
    }
}

/// The file with credentials that ADC takes: the one that is named, else the well-known one if it
/// is there.
///
/// # Errors
/// [`ErrorKind::Auth`] when the named one cannot be read, or either is no JSON.
pub(super) fn file(google: &Google) -> Result<Option<CredentialFile>> {
    let settings = google.settings();
    if let Some(path) = &settings.credentials_file {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::new(
                ErrorKind::Auth,
                format!(
                    "could not read the credentials file `{}` that `GOOGLE_APPLICATION_CREDENTIALS` names",
                    path.display()
                ),
            )
            .hint("correct the variable or unset it")
            .source(e)
        })?;
        return parse(path, &text).map(Some);
    }
    if let Some(path) = &settings.well_known_file
        && let Ok(text) = std::fs::read_to_string(path)
    {
        return parse(path, &text).map(Some);
    }
    Ok(None)
}

fn parse(path: &Path, text: &str) -> Result<CredentialFile> {
    // The parser's message could quote the file; only the position is safe to show.
    let json = serde_json::from_str(text).map_err(|e| {
        Error::new(
            ErrorKind::Auth,
            format!(
                "the credentials file `{}` is no JSON (line {}, column {})",
                path.display(),
                e.line(),
                e.column()
            ),
        )
        .hint(LOGIN)
    })?;
    Ok(CredentialFile {
        path: path.to_owned(),
        json,
    })
}

async fn find(google: &Google) -> Result<Credentials> {
    match file(google)? {
        Some(found) => from_file(google, found),
        None => from_metadata(google).await,
    }
}

fn from_file(google: &Google, file: CredentialFile) -> Result<Credentials> {
    let CredentialFile { path, json } = file;
    let bad = |what: String| {
        Error::new(
            ErrorKind::Auth,
            format!("the credentials file `{}` {what}", path.display()),
        )
        .hint(LOGIN)
    };
    check_token_uri(&json).map_err(&bad)?;
    for key in ["private_key", "refresh_token", "client_secret"] {
        if let Some(secret) = json[key].as_str() {
            redact::register(secret);
        }
    }
    let kind = json["type"].as_str().unwrap_or_default().to_owned();
    let quota = google.settings().quota_project.clone();
    let built = match kind.as_str() {
        "service_account" => {
            let builder = service_account::Builder::new(json)
                .with_access_specifier(service_account::AccessSpecifier::from_scopes([SCOPE]));
            match quota {
                Some(project) => builder.with_quota_project_id(project),
                None => builder,
            }
            .build()
        }
        "authorized_user" => {
            let builder = user_account::Builder::new(json).with_scopes([SCOPE]);
            match quota {
                Some(project) => builder.with_quota_project_id(project),
                None => builder,
            }
            .build()
        }
        "impersonated_service_account" => {
            let builder = impersonated::Builder::new(json).with_scopes([SCOPE]);
            match quota {
                Some(project) => builder.with_quota_project_id(project),
                None => builder,
            }
            .build()
        }
        "external_account" => {
            let builder = external_account::Builder::new(json).with_scopes([SCOPE]);
            match quota {
                Some(project) => builder.with_quota_project_id(project),
                None => builder,
            }
            .build()
        }
        "" => return Err(bad("has no `type`".into())),
        other => {
            return Err(bad(format!(
                "is of type `{other}`; the known ones are `service_account`, `authorized_user`, `impersonated_service_account` and `external_account`"
            )));
        }
    };
    built.map_err(|e| {
        let what = if e.is_missing_field() {
            "lacks a field that its type needs"
        } else {
            "cannot be used"
        };
        bad(format!("(type `{kind}`) {what}"))
    })
}

/// The address to which a file would send its secret must be Google's, or this machine's.
fn check_token_uri(json: &Value) -> Result<(), String> {
    let Some(text) = json["token_uri"].as_str() else {
        return Ok(());
    };
    let known = Url::parse(text).is_ok_and(|url| {
        let host = url.host_str().unwrap_or_default();
        let loopback = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        let google = host == "accounts.google.com"
            || host == "googleapis.com"
            || host.ends_with(".googleapis.com");
        loopback || (google && url.scheme() == "https")
    });
    if known {
        Ok(())
    } else {
        Err("has a `token_uri` that is not Google's".into())
    }
}

async fn from_metadata(google: &Google) -> Result<Credentials> {
    let settings = google.settings();
    let named = "`GOOGLE_APPLICATION_CREDENTIALS` is not set";
    let well_known = match &settings.well_known_file {
        Some(path) => format!("`{}` is not there", path.display()),
        None => "no home folder is known".to_owned(),
    };
    let Some(metadata) = &settings.metadata else {
        return Err(Error::new(
            ErrorKind::Auth,
            format!(
                "found no Google credentials: {named}, {well_known}, and `NO_GCE_CHECK` says that there is no metadata server"
            ),
        )
        .hint(LOGIN));
    };
    let probe = google
        .http(metadata)
        .get(metadata.url(&[], &[]))
        .header("Metadata-Flavor", "Google")
        .timeout(METADATA_PATIENCE)
        .send()
        .await;
    let there = probe.is_ok_and(|answer| {
        answer
            .headers()
            .get("metadata-flavor")
            .is_some_and(|v| v == "Google")
    });
    if !there {
        return Err(Error::new(
            ErrorKind::Auth,
            format!(
                "found no Google credentials: {named}, {well_known}, and no metadata server answers at `{metadata}`"
            ),
        )
        .hint(LOGIN));
    }
    let builder = mds::Builder::default()
        .with_endpoint(metadata.as_str())
        .with_scopes([SCOPE]);
    match &settings.quota_project {
        Some(project) => builder.with_quota_project_id(project),
        None => builder,
    }
    .build()
    .map_err(|e| {
        Error::new(
            ErrorKind::Auth,
            format!("could not use the credentials of the metadata server at `{metadata}`"),
        )
        .source(e)
    })
}

#[cfg(test)]
mod tests {
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
}
