//! Who there is, and what they may do.

use super::keys::SigningKey;

/// A service account.
pub struct Account {
    /// Its unique number, the `sub` of its ID tokens.
    pub number: String,
    /// Keys that it has now; a key file holds one of them.
    pub keys: Vec<SigningKey>,
    /// The key that Google keeps for it, which `signJwt` uses.
    pub google_key: SigningKey,
    pub disabled: bool,
}

/// A person who has logged in with `gcloud`, or through a workforce pool.
#[derive(Clone)]
pub struct User {
    pub name: String,
    pub client_id: String,
    pub client_secret: String,
    pub refresh_token: String,
    pub scopes: Vec<String>,
    /// Of a workforce pool: its provider's audience.
    pub workforce: Option<String>,
    pub revoked: bool,
}

/// An identity from elsewhere, with what proves it there.
#[derive(Clone)]
pub struct Federated {
    /// `principal://…`.
    pub name: String,
    /// Full name of the provider.
    pub audience: String,
    pub subject_token: String,
    pub subject_token_type: String,
    pub revoked: bool,
}

/// What somebody may do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `roles/secretmanager.secretAccessor`.
    SecretAccessor,
    /// `roles/secretmanager.secretVersionAdder`.
    SecretVersionAdder,
    /// `roles/secretmanager.viewer`.
    SecretViewer,
    /// `roles/secretmanager.secretVersionManager`: add, list, enable, disable, destroy; no access.
    SecretVersionManager,
    /// `roles/secretmanager.admin`.
    SecretAdmin,
    /// `roles/bigquery.admin`.
    BigQuery,
    /// `roles/iam.serviceAccountTokenCreator` on this account.
    TokenCreator(String),
    /// `roles/serviceusage.serviceUsageConsumer` in this project.
    QuotaUser(String),
    /// `roles/run.invoker` on the service of this host.
    Invoker(String),
}
