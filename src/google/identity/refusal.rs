//! Why no token came, in words that say what to do about it.

use std::error::Error as _;

use google_cloud_auth::errors::CredentialsError;
use serde_json::Value;

use super::LOGIN;
use super::access;
use super::file::Kind;
use super::find::Found;
use crate::error::{Error, ErrorKind};
use crate::google::Google;
use crate::telemetry::redact;

/// What a service said, as far as it can be told from the crate's words.
#[derive(Debug, Default)]
struct Said {
    status: Option<u16>,
    /// `invalid_grant`, `PERMISSION_DENIED`.
    reason: String,
    words: String,
}

/// The failure to get `what` with what was found.
pub(super) fn explain(what: &str, found: &Found, google: &Google, e: &CredentialsError) -> Error {
    let said = Said::of(e);
    let transient = e.is_transient();
    let mut said = said;
    if found.kind() == Some(Kind::ServiceAccount) && said.status.is_none() && !transient {
        // Nobody was asked: it is signed here.
        said.words = "its `private_key` cannot be signed with".to_owned();
    }
    let mut text = format!("could not get {what} for Google with {found}");
    if let Some(subject) = subject(found) {
        text.push_str(&format!(", whose own token is to come from {subject}"));
    }
    let target = google
        .settings()
        .impersonate
        .as_ref()
        .map(|i| i.target.clone());
    if let Some(target) = &target {
        text.push_str(&format!(" as `{target}`"));
    }
    let answer = match (said.status, said.reason.as_str()) {
        (Some(status), "") => format!("{status}"),
        (Some(status), reason) => format!("{status} {reason}"),
        (None, reason) => reason.to_owned(),
    };
    for part in [answer, said.words.clone()] {
        if !part.is_empty() {
            text.push_str(": ");
            text.push_str(&part);
        }
    }
    let kind = match transient {
        true => ErrorKind::Unavailable,
        false => ErrorKind::Auth,
    };
    Error::new(kind, redact::scrub(&text))
        .transient(transient)
        .hint(hint(found, target.as_deref(), &said, transient))
}

/// Where an identity from elsewhere has its token.
fn subject(found: &Found) -> Option<String> {
    let Found::File(file) = found else {
        return None;
    };
    let own = &file.json["credential_source"];
    let nested = &file.json["source_credentials"]["credential_source"];
    let source = if own.is_object() { own } else { nested };
    let place = |key: &str| source[key].as_str().map(|place| format!("`{place}`"));
    place("file").or_else(|| place("url")).or_else(|| {
        let program = source["executable"]["command"].as_str()?;
        let program = program.split_whitespace().next()?;
        Some(format!("the program `{program}`"))
    })
}

fn hint(found: &Found, target: Option<&str>, said: &Said, transient: bool) -> String {
    if transient {
        return "try again later".to_owned();
    }
    let own = match found {
        Found::File(file) => access::account(&file.json),
        Found::Metadata(_) => None,
    };
    if let (Some(account), Some(403)) = (target.or(own), said.status) {
        return format!(
            "grant `roles/iam.serviceAccountTokenCreator` on `{account}` to the account that acts as it, and enable the API `iamcredentials.googleapis.com`"
        );
    }
    if let (Some(account), Some(404)) = (target.or(own), said.status) {
        return format!("is there a service account `{account}`?");
    }
    match found.kind() {
        Some(Kind::AuthorizedUser | Kind::ExternalAccountAuthorizedUser)
            if said.reason.is_empty() =>
        {
            "what answered is not Google's token service as it should be: is there a proxy in between?"
                .to_owned()
        }
        Some(Kind::AuthorizedUser | Kind::ExternalAccountAuthorizedUser) => {
            "the login has expired or was revoked: run `gcloud auth application-default login` again"
                .to_owned()
        }
        Some(Kind::ServiceAccount) => {
            "the key may have been deleted or disabled, or this machine's clock is wrong: look with `gcloud iam service-accounts keys list`"
                .to_owned()
        }
        Some(Kind::ExternalAccount) if said.reason.is_empty() => {
            "look at where its own token is to come from, and at the format that `credential_source` says"
                .to_owned()
        }
        Some(Kind::ExternalAccount) => {
            "check that the workload identity pool and its provider are there, and that the provider takes this token's issuer, audience and attributes"
                .to_owned()
        }
        Some(Kind::ImpersonatedServiceAccount) => LOGIN.to_owned(),
        None => "attach a service account to this machine, job or service, with access to what was asked for"
            .to_owned(),
    }
}

/// The crate's words without what it quotes: a body or a program's output may hold a token, and no
/// list of known secrets has that one.
fn without_quotes(words: &str) -> String {
    let quoted = ["body=<", "stderr=", "stdout=", "output="];
    let end = quoted.iter().filter_map(|q| words.find(q)).min();
    let own = &words[..end.unwrap_or(words.len())];
    let own = own
        .trim_end_matches(" and future attempts will not succeed")
        .trim_end_matches(" but future attempts may succeed");
    own.trim_end_matches([',', ' ', '(', ':']).to_owned()
}

impl Said {
    fn of(e: &CredentialsError) -> Self {
        let mut said = Self::default();
        let mut words = vec![e.to_string()];
        let mut cause = e.source();
        while let Some(inner) = cause {
            if let Some(http) = inner.downcast_ref::<reqwest::Error>() {
                said.status = said.status.or(http.status().map(|s| s.as_u16()));
            }
            words.push(inner.to_string());
            cause = inner.source();
        }
        // The crate puts an answer's body into its messages; the JSON in it is what the service said.
        let body = words.iter().find_map(|w| {
            let json = &w[w.find('{')?..];
            let mut values = serde_json::Deserializer::from_str(json).into_iter::<Value>();
            let body = values.next()?.ok()?;
            body.get("error").is_some().then_some(body)
        });
        match body {
            Some(body) => said.read(&body),
            // The innermost cause says most: a refused connection, a missing file.
            None => said.words = words.pop().map(|w| without_quotes(&w)).unwrap_or_default(),
        }
        said
    }

    /// `{"error": "invalid_grant", "error_description": …}` or Google's
    /// `{"error": {"code", "status", "message"}}`.
    fn read(&mut self, body: &Value) {
        let error = &body["error"];
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        match error {
            Value::Object(_) => {
                self.status = self
                    .status
                    .or(error["code"].as_u64().and_then(|c| u16::try_from(c).ok()));
                self.reason = text(&error["status"]);
                self.words = text(&error["message"]);
            }
            _ => {
                self.reason = text(error);
                self.words = text(&body["error_description"]);
            }
        }
    }
}
