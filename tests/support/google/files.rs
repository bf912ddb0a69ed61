//! Credential files, of each type that Google knows.

use serde_json::{Value, json};

use super::Google;
use super::identities::{Account, Federated, User};
use super::tokens::CLOUD_PLATFORM;

/// Where the proof of an identity from elsewhere comes from.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A file that a test has written.
    File(String),
    /// `https://identity.example/subject`, with a header that it wants to see.
    Url,
    /// A program that a test has written.
    Executable(String),
}

/// The host that gives away subject tokens.
pub const IDENTITY_HOST: &str = "identity.example";

const AUDIENCE: &str = "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/pool/providers/provider";
const WORKFORCE: &str =
    "//iam.googleapis.com/locations/global/workforcePools/pool/providers/provider";

impl Google {
    /// A new service account; its address.
    pub fn service_account(&self, name: &str) -> String {
        let mut state = self.world.state();
        let email = format!("{name}@{}.iam.gserviceaccount.com", state.project);
        let account = Account {
            number: format!("1{:020}", rand::random_range(0..u64::MAX)),
            keys: vec![state.new_key()],
            google_key: state.new_key(),
            disabled: false,
        };
        state.accounts.insert(email.clone(), account);
        email
    }

    /// `service_account`: a key of this account.
    pub fn key_file(&self, email: &str) -> Value {
        let state = self.world.state();
        let account = &state.accounts[email];
        let key = &account.keys[account.keys.len() - 1];
        json!({
            "type": "service_account",
            "project_id": state.project,
            "private_key_id": key.id,
            "private_key": key.pem(),
            "client_email": email,
            "client_id": account.number,
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": "https://oauth2.googleapis.com/token",
            "auth_provider_x509_cert_url": "https://www.googleapis.com/oauth2/v1/certs",
            "client_x509_cert_url": format!("https://www.googleapis.com/robot/v1/metadata/x509/{}", email.replace('@', "%40")),
            "universe_domain": "googleapis.com",
        })
    }

    /// `authorized_user`: a person who has logged in, with these scopes beside the usual ones.
    pub fn user_file(&self, name: &str) -> Value {
        let user = User {
            name: name.to_owned(),
            client_id: "764086051850-client.apps.googleusercontent.com".into(),
            client_secret: format!("d-{:016x}", rand::random::<u64>()),
            refresh_token: format!("1//0{:032x}", rand::random::<u128>()),
            scopes: [
                "openid",
                "https://www.googleapis.com/auth/userinfo.email",
                CLOUD_PLATFORM,
            ]
            .map(str::to_owned)
            .to_vec(),
            workforce: None,
            revoked: false,
        };
        self.world.state().users.push(user.clone());
        json!({
            "type": "authorized_user",
            "account": "",
            "client_id": user.client_id,
            "client_secret": user.client_secret,
            "refresh_token": user.refresh_token,
            "universe_domain": "googleapis.com",
        })
    }

    /// `impersonated_service_account`: `target`, as the identity of another file.
    pub fn impersonated_file(&self, source: &Value, target: &str, delegates: &[&str]) -> Value {
        let delegates: Vec<String> = delegates
            .iter()
            .map(|d| format!("projects/-/serviceAccounts/{d}"))
            .collect();
        json!({
            "type": "impersonated_service_account",
            "delegates": delegates,
            "service_account_impersonation_url": access_token_url(target),
            "source_credentials": source,
        })
    }

    /// `external_account`: an identity from elsewhere, as itself or as the account it impersonates,
    /// and its subject token, which the test puts where it is looked for.
    pub fn external_file(
        &self,
        name: &str,
        subject: &Subject,
        target: Option<&str>,
    ) -> (Value, String) {
        let token = format!("subject-{:032x}", rand::random::<u128>());
        let kind = match subject {
            Subject::File(_) => "urn:ietf:params:oauth:token-type:jwt",
            Subject::Url | Subject::Executable(_) => "urn:ietf:params:oauth:token-type:id_token",
        };
        self.world.state().federated.push(Federated {
            name: principal(name),
            audience: AUDIENCE.into(),
            subject_token: token.clone(),
            subject_token_type: kind.into(),
            revoked: false,
        });
        let source = match subject {
            Subject::File(path) => json!({"file": path, "format": {"type": "text"}}),
            Subject::Url => {
                self.give_subject(&token);
                json!({
                    "url": format!("https://{IDENTITY_HOST}/subject"),
                    "headers": {"X-Asked-By": "drawoff's tests"},
                    "format": {"type": "json", "subject_token_field_name": "id_token"},
                })
            }
            Subject::Executable(command) => {
                json!({"executable": {"command": command, "timeout_millis": 30_000}})
            }
        };
        let mut file = json!({
            "type": "external_account",
            "audience": AUDIENCE,
            "subject_token_type": kind,
            "token_url": "https://sts.googleapis.com/v1/token",
            "credential_source": source,
            "universe_domain": "googleapis.com",
        });
        if let Some(target) = target {
            file["service_account_impersonation_url"] = json!(access_token_url(target));
        }
        (file, token)
    }

    /// `external_account_authorized_user`: a person of a workforce pool; the file, and the name.
    pub fn workforce_file(&self, name: &str) -> (Value, String) {
        let name = format!(
            "principal://iam.googleapis.com/locations/global/workforcePools/pool/subject/{name}"
        );
        let user = User {
            name: name.clone(),
            client_id: "workforce-client".into(),
            client_secret: format!("w-{:016x}", rand::random::<u64>()),
            refresh_token: format!("workforce-{:032x}", rand::random::<u128>()),
            scopes: vec![CLOUD_PLATFORM.to_owned()],
            workforce: Some(WORKFORCE.to_owned()),
            revoked: false,
        };
        self.world.state().users.push(user.clone());
        let file = json!({
            "type": "external_account_authorized_user",
            "audience": WORKFORCE,
            "client_id": user.client_id,
            "client_secret": user.client_secret,
            "refresh_token": user.refresh_token,
            "token_url": "https://sts.googleapis.com/v1/oauthtoken",
            "token_info_url": "https://sts.googleapis.com/v1/introspect",
        });
        (file, name)
    }

    /// `gdch_service_account`: of Google Distributed Cloud, not of Google's own.
    pub fn gdch_file(&self) -> Value {
        json!({
            "type": "gdch_service_account",
            "format_version": "1",
            "project": "project",
            "name": "loader",
            "private_key_id": "1",
            "private_key": self.world.state().google_keys[0].pem(),
            "token_uri": "https://service-identity.example/authenticate",
        })
    }
}

/// The name under which an identity from elsewhere is known at Google.
pub fn principal(name: &str) -> String {
    format!(
        "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/pool/subject/{name}"
    )
}

fn access_token_url(target: &str) -> String {
    format!(
        "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{target}:generateAccessToken"
    )
}
