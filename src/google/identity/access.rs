//! What gives access tokens, by the type of the credentials.

use google_cloud_auth::build_errors::Error as BuildError;
use google_cloud_auth::credentials::{
    Credentials, external_account, impersonated, service_account,
};
use serde_json::Value;

use super::file::Kind;
use super::find::Found;
use super::kept::Kept;
use super::login::Login;
use super::metadata::{Metadata, Wanted};
use super::{CLOUD_PLATFORM, Impersonation, LOGIN};
use crate::error::{Error, ErrorKind, Result};
use crate::google::Google;

/// Credentials that give access tokens of these scopes: the found ones, or those of the account that
/// is to be impersonated with them.
///
/// # Errors
/// [`ErrorKind::Auth`] naming a file that lacks what its type needs.
pub(super) fn credentials(
    google: &Google,
    found: &Found,
    scopes: &[String],
) -> Result<Credentials> {
    let quota = google.settings().quota_project.as_deref();
    let Some(account) = &google.settings().impersonate else {
        return own(google, found, scopes, quota);
    };
    let source = own(google, found, &[CLOUD_PLATFORM.to_owned()], None)?;
    let mut builder = impersonated::Builder::from_source_credentials(source)
        .with_target_principal(&account.target)
        .with_delegates(delegates(account))
        .with_universe_domain(&google.settings().universe)
        .with_scopes(scopes);
    if let Some(project) = quota {
        builder = builder.with_quota_project_id(project);
    }
    builder.build().map_err(|e| unfit(found, &e))
}

/// The names of accounts on the way, as the service wants them.
pub(super) fn delegates(account: &Impersonation) -> impl Iterator<Item = String> {
    let name = |email: &String| format!("projects/-/serviceAccounts/{email}");
    account.delegates.iter().map(name)
}

/// Credentials that give access tokens of these scopes, of what was found itself.
pub(super) fn own(
    google: &Google,
    found: &Found,
    scopes: &[String],
    quota: Option<&str>,
) -> Result<Credentials> {
    match found {
        Found::File(file) => {
            of_type(google, file.kind, &file.json, scopes, quota).map_err(|e| unfit(found, &e))
        }
        Found::Metadata(endpoint) => {
            let way = Metadata::new(google, endpoint, Wanted::Access(scopes.to_vec()));
            Ok(Kept::new(way, quota, &google.settings().universe).into())
        }
    }
}

/// As [`own`], of the JSON inside a file.
pub(super) fn of_type(
    google: &Google,
    kind: Kind,
    json: &Value,
    scopes: &[String],
    quota: Option<&str>,
) -> std::result::Result<Credentials, BuildError> {
    // The builders have the same methods and no trait for them.
    macro_rules! built {
        ($builder:expr) => {{
            let builder = $builder;
            match quota {
                Some(project) => builder.with_quota_project_id(project),
                None => builder,
            }
            .build()
        }};
    }
    match kind {
        Kind::ServiceAccount => built!(
            service_account::Builder::new(json.clone()).with_access_specifier(
                service_account::AccessSpecifier::from_scopes(scopes.iter().cloned())
            )
        ),
        Kind::ExternalAccount => {
            built!(external_account::Builder::new(json.clone()).with_scopes(scopes))
        }
        Kind::AuthorizedUser | Kind::ExternalAccountAuthorizedUser => {
            let quota = quota.or_else(|| json["quota_project_id"].as_str());
            let universe = &google.settings().universe;
            Ok(Kept::new(Login::new(google, kind, json, scopes), quota, universe).into())
        }
        Kind::ImpersonatedServiceAccount => {
            let source = &json["source_credentials"];
            match (Kind::of(source), account(json)) {
                (
                    Some(inner @ (Kind::AuthorizedUser | Kind::ExternalAccountAuthorizedUser)),
                    Some(target),
                ) => {
                    let wide = [CLOUD_PLATFORM.to_owned()];
                    let source = of_type(google, inner, source, &wide, None)?;
                    built!(
                        impersonated::Builder::from_source_credentials(source)
                            .with_target_principal(target)
                            .with_delegates(texts(&json["delegates"]))
                            .with_universe_domain(&google.settings().universe)
                            .with_scopes(scopes)
                    )
                }
                _ => built!(impersonated::Builder::new(json.clone()).with_scopes(scopes)),
            }
        }
    }
}

/// The account that a file impersonates, by the address of the service that does it.
pub(super) fn account(json: &Value) -> Option<&str> {
    let url = json["service_account_impersonation_url"].as_str()?;
    let (_, account) = url.split_once("/serviceAccounts/")?;
    account.split(':').next().filter(|a| !a.is_empty())
}

/// The texts of a list.
pub(super) fn texts(list: &Value) -> Vec<String> {
    let text = |v: &Value| v.as_str().map(str::to_owned);
    list.as_array()
        .map(|all| all.iter().filter_map(text).collect())
        .unwrap_or_default()
}

/// Says which credentials cannot be used; the crate's words could quote them.
pub(super) fn unfit(found: &Found, e: &BuildError) -> Error {
    let what = if e.is_missing_field() {
        "lack a field that their type needs"
    } else if e.is_not_supported() {
        "cannot be used for that"
    } else {
        "cannot be used: a field is missing, or is not what it should be"
    };
    Error::new(ErrorKind::Auth, format!("{found} {what}")).hint(LOGIN)
}
