//! A file with credentials: its type, and whether its secrets may go where it says.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use url::{Host, Url};

use super::LOGIN;
use crate::error::{Error, ErrorKind, Result};
use crate::google::settings::{ALLOW_EXECUTABLES, GoogleSettings};
use crate::telemetry::redact;

/// A file with credentials, checked.
#[derive(Debug)]
pub(in crate::google) struct CredentialFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its type.
    pub kind: Kind,
    /// Its content.
    pub json: Value,
}

/// The types of credentials that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::google) enum Kind {
    ServiceAccount,
    AuthorizedUser,
    ImpersonatedServiceAccount,
    ExternalAccount,
    ExternalAccountAuthorizedUser,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::ServiceAccount,
        Self::AuthorizedUser,
        Self::ImpersonatedServiceAccount,
        Self::ExternalAccount,
        Self::ExternalAccountAuthorizedUser,
    ];

    /// As the file says it.
    fn name(self) -> &'static str {
        match self {
            Self::ServiceAccount => "service_account",
            Self::AuthorizedUser => "authorized_user",
            Self::ImpersonatedServiceAccount => "impersonated_service_account",
            Self::ExternalAccount => "external_account",
            Self::ExternalAccountAuthorizedUser => "external_account_authorized_user",
        }
    }

    /// Texts that the type cannot do without.
    fn needs(self) -> &'static [&'static str] {
        match self {
            Self::ServiceAccount => &[
                "client_email",
                "private_key_id",
                "private_key",
                "project_id",
            ],
            Self::AuthorizedUser => &["client_id", "client_secret", "refresh_token"],
            Self::ImpersonatedServiceAccount => &["service_account_impersonation_url"],
            Self::ExternalAccount => &["audience", "subject_token_type", "token_url"],
            Self::ExternalAccountAuthorizedUser => &["client_id", "client_secret", "refresh_token"],
        }
    }

    /// The type of this content, if it is one of these.
    pub fn of(json: &Value) -> Option<Self> {
        let name = json["type"].as_str()?;
        Self::ALL.into_iter().find(|k| k.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Keys whose values are secrets, at any depth.
const SECRETS: [&str; 3] = ["private_key", "refresh_token", "client_secret"];

/// Keys that name an address to which the secrets of the file go.
const ADDRESSES: [&str; 6] = [
    "token_uri",
    "token_url",
    "token_info_url",
    "revoke_url",
    "service_account_impersonation_url",
    "regional_cred_verification_url",
];

/// Reads and checks the text of the file at `path`.
///
/// # Errors
/// [`ErrorKind::Auth`] naming the file and what is wrong with it; never what it holds.
pub(super) fn parse(path: &Path, text: &str, settings: &GoogleSettings) -> Result<CredentialFile> {
    let hint = match &settings.credentials_file {
        Some(_) => {
            "let `GOOGLE_APPLICATION_CREDENTIALS` name another file, or unset it and run `gcloud auth application-default login`"
        }
        None => LOGIN,
    };
    let bad = |what: String| {
        Error::new(
            ErrorKind::Auth,
            format!("the credentials file `{}` {what}", path.display()),
        )
        .hint(hint)
    };
    // The parser's message could quote the file; only the position is safe to show.
    let json: Value = serde_json::from_str(text).map_err(|e| {
        bad(format!(
            "is no JSON (line {}, column {})",
            e.line(),
            e.column()
        ))
    })?;
    register(&json);
    let kind = kind(&json).map_err(&bad)?;
    check(&json, settings).map_err(&bad)?;
    complete(kind, &json).map_err(&bad)?;
    if kind == Kind::ImpersonatedServiceAccount {
        let inner = &json["source_credentials"];
        let in_source = |what: String| bad(format!("has `source_credentials` whose JSON {what}"));
        let source = self::kind(inner).map_err(in_source)?;
        complete(source, inner).map_err(in_source)?;
        if source == Kind::ImpersonatedServiceAccount {
            return Err(bad(
                "impersonates from an impersonated account: write those in between into `delegates`"
                    .to_owned(),
            ));
        }
    }
    let universe = json["universe_domain"]
        .as_str()
        .filter(|u| !u.is_empty())
        .unwrap_or(GoogleSettings::UNIVERSE);
    if universe != settings.universe {
        return Err(bad(format!(
            "is of the universe `{universe}`, and the universe at hand is `{}`",
            settings.universe
        ))
        .hint(format!(
            "set `GOOGLE_CLOUD_UNIVERSE_DOMAIN={universe}`, or take credentials of the other"
        )));
    }
    Ok(CredentialFile {
        path: path.to_owned(),
        kind,
        json,
    })
}

fn complete(kind: Kind, json: &Value) -> Result<(), String> {
    let there = |key: &str| json[key].as_str().is_some_and(|t| !t.is_empty());
    match kind.needs().iter().find(|key| !there(key)) {
        Some(key) => Err(format!("is of type `{kind}` and has no `{key}`")),
        None => Ok(()),
    }
}

fn kind(json: &Value) -> Result<Kind, String> {
    let known = || {
        let names: Vec<&str> = Kind::ALL.iter().map(|k| k.name()).collect();
        format!("`{}`", names.join("`, `"))
    };
    match (Kind::of(json), json["type"].as_str()) {
        (Some(kind), _) => Ok(kind),
        (None, None | Some("")) if json.get("web").is_some() || json.get("installed").is_some() => Err(
            "holds an OAuth client, not credentials: it says which program asks, not who allows it"
                .to_owned(),
        ),
        (None, None | Some("")) => Err("has no `type`".to_owned()),
        // A type's name is at most this long; anything longer is something else in its place.
        (None, Some(other)) if other.len() > 60 || other.contains(char::is_control) => Err(format!(
            "is of an unknown type; the known ones are {}",
            known()
        )),
        (None, Some(other)) => Err(format!(
            "is of type `{other}`; the known ones are {}",
            known()
        )),
    }
}

fn register(json: &Value) {
    match json {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(secret) if SECRETS.contains(&key.as_str()) => {
                        redact::register(secret);
                    }
                    nested => register(nested),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(register),
        _ => {}
    }
}

/// The addresses to which a file would send its secrets must be Google's, or this machine's: files
/// come from elsewhere, too.
fn check(json: &Value, settings: &GoogleSettings) -> Result<(), String> {
    for key in ADDRESSES {
        if let Some(text) = json[key].as_str()
            && !(is_google(text, &settings.universe)
                || key == "regional_cred_verification_url" && is_aws(text))
        {
            return Err(format!("has a `{key}` that is not Google's"));
        }
    }
    let source = &json["credential_source"];
    if source.get("executable").is_some() && !settings.allow_executables {
        return Err(format!(
            "wants to run a program to get its token; set `{ALLOW_EXECUTABLES}=1` if you trust the file"
        ));
    }
    for key in ["url", "region_url", "imdsv2_session_token_url"] {
        if let Some(text) = source[key].as_str()
            && !may_be_asked(text)
        {
            return Err(format!(
                "has a `credential_source` whose `{key}` is neither https nor on this machine or its metadata address"
            ));
        }
    }
    match &json["source_credentials"] {
        Value::Null => Ok(()),
        nested => check(nested, settings),
    }
}

fn is_google(text: &str, universe: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        let host = url.host_str().unwrap_or_default();
        let within = |domain: &str| {
            host.strip_suffix(domain)
                .is_some_and(|h| h.is_empty() || h.ends_with('.'))
        };
        let google =
            host == "accounts.google.com" || within(GoogleSettings::UNIVERSE) || within(universe);
        is_loopback(&url) || (google && url.scheme() == "https")
    })
}

fn is_aws(text: &str) -> bool {
    // `{region}` stands in it.
    Url::parse(&text.replace("{region}", "r")).is_ok_and(|url| {
        url.scheme() == "https"
            && url
                .host_str()
                .is_some_and(|h| h.ends_with(".amazonaws.com") || h.ends_with(".amazonaws.com.cn"))
    })
}

/// https, this machine, or the link-local address at which clouds serve their metadata.
fn may_be_asked(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        let link_local = match url.host() {
            Some(Host::Ipv4(ip)) => ip.is_link_local(),
            Some(Host::Ipv6(ip)) => ip.is_unique_local() || ip.is_unicast_link_local(),
            _ => false,
        };
        url.scheme() == "https" || link_local || is_loopback(&url)
    })
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}
