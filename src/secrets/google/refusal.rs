//! What Secret Manager refused, as something to do: which role, on what, for whom, and the command
//! that grants it.

use super::Name;
use crate::error::{Error, ErrorKind};
use crate::google::{Failure, Google};

/// What was asked of Secret Manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// A version's value.
    Read,
    /// What versions there are, without values.
    Look,
    /// A new version.
    Add,
    /// To disable or enable a version.
    Switch,
    /// A new secret.
    Create,
}

impl Deed {
    /// The narrowest role that allows it.
    fn role(self) -> &'static str {
        match self {
            Self::Read => "roles/secretmanager.secretAccessor",
            Self::Look => "roles/secretmanager.viewer",
            Self::Add => "roles/secretmanager.secretVersionAdder",
            Self::Switch => "roles/secretmanager.secretVersionManager",
            Self::Create => "roles/secretmanager.admin",
        }
    }
}

/// The failure in one message that says what to grant, create or switch on.
pub(super) fn explain(google: &Google, deed: Deed, name: &Name<'_>, failure: Failure) -> Error {
    let (status, reason) = (failure.status, failure.reason.clone());
    if failure.is_transient() {
        let unreachable = status.is_none() && name.location.is_some();
        let error = failure.into_error();
        return match name.location {
            // A location that is none has no host.
            Some(location) if unreachable => error.hint(format!(
                "try again later; if it stays so, see that `{location}` is a location that Secret Manager has: `gcloud secrets locations list`"
            )),
            _ => error,
        };
    }
    if !matches!(status, Some(400 | 403 | 404)) {
        return failure.into_error();
    }
    let (what, message) = (failure.what, failure.message);
    let (secret, full, flags) = (name.parent(), name.full(), name.flags());
    let project = name.project;
    let consumer = failure.info["metadata"]["consumer"]
        .as_str()
        .and_then(|c| c.strip_prefix("projects/"))
        .filter(|c| c.len() < 100)
        .unwrap_or(project);
    let auth = |message: String| Error::new(ErrorKind::Auth, message);
    match (status, failure.info["reason"].as_str().unwrap_or_default()) {
        (Some(403), "SERVICE_DISABLED") => {
            return auth(format!(
                "could not {what}: the Secret Manager API is not enabled in project `{consumer}` ({message})"
            ))
            .hint(format!(
                "enable it and wait a minute: gcloud services enable secretmanager.googleapis.com --project={consumer}"
            ));
        }
        (Some(403), "BILLING_DISABLED") => {
            return auth(format!(
                "could not {what}: project `{consumer}` has no billing account ({message})"
            ))
            .hint(format!(
                "link one: gcloud billing projects link {consumer} --billing-account=ACCOUNT"
            ));
        }
        (Some(403), "USER_PROJECT_DENIED") => {
            return auth(format!(
                "could not {what}: the calls may not be charged to project `{consumer}` ({message})"
            ))
            .hint(grant(
                google,
                "roles/serviceusage.serviceUsageConsumer",
                &format!("project `{consumer}`"),
                &format!("gcloud projects add-iam-policy-binding {consumer}"),
            ));
        }
        (Some(403), "ACCESS_TOKEN_SCOPE_INSUFFICIENT") => {
            return auth(format!(
                "could not {what}: the access token's scopes leave Secret Manager out ({message})"
            ))
            .hint(
                "let the machine's access scopes include `cloud-platform`, or log in again with it",
            );
        }
        _ => {}
    }
    match (status, reason.as_str(), deed) {
        (Some(403), _, Deed::Create) => auth(format!(
            "no permission to create secret `{secret}`, or the project does not exist (403 {reason}: {message})"
        ))
        .hint(grant(
            google,
            deed.role(),
            &format!("project `{project}`"),
            &format!("gcloud projects add-iam-policy-binding {project}"),
        )),
        (Some(403), ..) => auth(format!(
            "no permission to {what}, or it does not exist (403 {reason}: {message})"
        ))
        .hint(format!(
            "create the secret if it is missing, and {}",
            grant(
                google,
                deed.role(),
                "it",
                &format!("gcloud secrets add-iam-policy-binding {flags}"),
            )
        )),
        (Some(404), _, Deed::Create) => auth(format!(
            "could not {what}: its project does not exist ({message})"
        ))
        .hint("check the project's id"),
        (Some(404), ..) => {
            let missing = match deed {
                Deed::Add => &secret,
                _ => &full,
            };
            let error = auth(format!("secret `{missing}` does not exist ({message})"));
            let elsewhere = match name.location {
                None => "; one of a location is `gcp://project/location/secret`",
                Some(_) => "; one of another location, or of none, is another secret",
            };
            if deed == Deed::Add {
                let policy = match name.location {
                    None => " --replication-policy=automatic",
                    Some(_) => "",
                };
                error.hint(format!(
                    "create it: gcloud secrets create {flags}{policy}; `drawoff secrets set` does it with `--create`{elsewhere}"
                ))
            } else if name.version == "latest" {
                error.hint(format!(
                    "create it: printf %s VALUE | gcloud secrets create {flags} --data-file=-{elsewhere}"
                ))
            } else {
                error.hint(format!(
                    "see what there is: gcloud secrets versions list {flags}{elsewhere}"
                ))
            }
        }
        (Some(400), "FAILED_PRECONDITION", _) => auth(format!(
            "version `{}` of secret `{secret}` is disabled or destroyed ({message})",
            name.version
        ))
        .hint(if name.version == "latest" {
            "`latest` is the version created last, even when it is disabled: enable it, add a new version, or name one (`@7`)"
        } else {
            "enable the version, or name another (`@7`)"
        }),
        _ => auth(format!("could not {what}: {message} ({reason})")),
    }
}

/// "grant ROLE on WHAT to WHOM: COMMAND", as far as it is known who asks.
fn grant(google: &Google, role: &str, on: &str, command: &str) -> String {
    let (whom, member) = match google.account() {
        Some(account) if account.ends_with(".gserviceaccount.com") => (
            format!(" to `{account}`"),
            format!("serviceAccount:{account}"),
        ),
        Some(account) => (format!(" to `{account}`"), format!("user:{account}")),
        None => (
            " to the account at work, which `drawoff auth whoami` names".to_owned(),
            "serviceAccount:NAME".to_owned(),
        ),
    };
    format!("grant `{role}` on {on}{whom}: {command} --member={member} --role={role}")
}
