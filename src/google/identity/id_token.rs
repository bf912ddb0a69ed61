//! What gives ID tokens for an audience, by the type of the credentials.

use google_cloud_auth::build_errors::Error as BuildError;
use google_cloud_auth::credentials::Credentials;
use google_cloud_auth::credentials::idtoken::{IDTokenCredentials, impersonated, service_account};
use serde_json::Value;

use super::CLOUD_PLATFORM;
use super::access::{self, unfit};
use super::file::{CredentialFile, Kind};
use super::find::Found;
use super::kept::Kept;
use super::metadata::{Metadata, Wanted};
use crate::error::{Error, ErrorKind, Result};
use crate::google::Google;

/// Credentials that give ID tokens for this audience: the found ones', or those of the account that
/// is to be impersonated with them.
///
/// # Errors
/// [`ErrorKind::Auth`] where the type has no ID tokens for an audience of one's choice.
pub(super) fn credentials(
    google: &Google,
    found: &Found,
    audience: &str,
) -> Result<IDTokenCredentials> {
    let wide = [CLOUD_PLATFORM.to_owned()];
    if let Some(account) = &google.settings().impersonate {
        let source = access::own(google, found, &wide, None)?;
        let names = access::delegates(account).collect();
        return as_account(audience, &account.target, names, source).map_err(|e| unfit(found, &e));
    }
    match found {
        Found::Metadata(endpoint) => {
            let way = Metadata::new(google, endpoint, Wanted::Id(audience.to_owned()));
            Ok(Kept::new(way, None, &google.settings().universe).into())
        }
        Found::File(file) => from_file(google, found, file, audience, &wide),
    }
}

fn from_file(
    google: &Google,
    found: &Found,
    file: &CredentialFile,
    audience: &str,
    wide: &[String],
) -> Result<IDTokenCredentials> {
    let built = match (file.kind, access::account(&file.json)) {
        (Kind::ServiceAccount, _) => {
            service_account::Builder::new(audience, file.json.clone()).build()
        }
        (Kind::ImpersonatedServiceAccount, Some(account)) => {
            let source = &file.json["source_credentials"];
            Kind::of(source)
                .ok_or_else(|| none(found))
                .and_then(|kind| {
                    access::of_type(google, kind, source, wide, None).map_err(|e| unfit(found, &e))
                })
                .map(|source| {
                    let names = access::texts(&file.json["delegates"]);
                    as_account(audience, account, names, source)
                })?
        }
        // The federated identity itself has none; the account that the file goes on to does.
        (Kind::ExternalAccount, Some(account)) => {
            let mut federated = file.json.clone();
            if let Value::Object(fields) = &mut federated {
                fields.remove("service_account_impersonation_url");
            }
            access::of_type(google, file.kind, &federated, wide, None)
                .and_then(|source| as_account(audience, account, Vec::new(), source))
        }
        _ => return Err(none(found)),
    };
    built.map_err(|e| unfit(found, &e))
}

fn as_account(
    audience: &str,
    account: &str,
    delegates: Vec<String>,
    source: Credentials,
) -> std::result::Result<IDTokenCredentials, BuildError> {
    let builder = impersonated::Builder::from_source_credentials(audience, account, source)
        .with_include_email();
    match delegates.is_empty() {
        true => builder,
        false => builder.with_delegates(delegates),
    }
    .build()
}

fn none(found: &Found) -> Error {
    Error::new(
        ErrorKind::Auth,
        format!("{found} give no ID tokens for an audience of one's choice"),
    )
    .hint("name a service account that has access with `--impersonate-service-account`")
}
