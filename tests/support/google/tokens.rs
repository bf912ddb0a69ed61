//! Tokens: how they are issued, and what a service makes of one.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::answer::Answer;
use super::calls::{Call, Proof, Who};
use super::identities::Role;
use super::world::State;

/// What every API of Google Cloud takes.
pub const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Longest time between `iat` and `exp`. Google says an hour; its own libraries shift each by ten
/// seconds, and are not refused.
const LONGEST_LIFE: i64 = 3600 + 60;

/// How far another's clock may be ahead.
const SKEW: i64 = 60;

/// An access token.
pub struct Issued {
    pub who: String,
    pub scopes: Vec<String>,
    pub expires: Timestamp,
}

/// Why a token that an account has signed is not taken.
pub enum Unfit {
    Account,
    Signature,
    Time,
}

impl State {
    /// A new access token, and how many seconds it lives.
    pub fn issue(&mut self, who: &str, scopes: Vec<String>, life: Duration) -> (String, u64) {
        let token = format!(
            "ya29.c.{:032x}{:032x}",
            rand::random::<u128>(),
            rand::random::<u128>()
        );
        let expires = Timestamp::now() + life;
        let who = who.to_owned();
        self.tokens.insert(
            token.clone(),
            Issued {
                who,
                scopes,
                expires,
            },
        );
        (token, life.as_secs())
    }

    /// An ID token of Google's for a service account or a person.
    pub fn id_token(&self, who: &str, audience: &str, email: bool) -> String {
        let now = Timestamp::now().as_second();
        let number = match self.accounts.get(who) {
            Some(account) => account.number.clone(),
            None => "100000000000000000000".to_owned(),
        };
        let mut claims = json!({
            "iss": "https://accounts.google.com",
            "aud": audience,
            "azp": number,
            "sub": number,
            "iat": now,
            "exp": now + self.token_life.as_secs() as i64,
        });
        if email {
            claims["email"] = json!(who);
            claims["email_verified"] = json!(true);
        }
        self.google_keys[self.google_keys.len() - 1].sign(&claims)
    }

    /// The claims of a token that a service account has signed with a key that it has now, in time.
    pub fn own_claims(&self, token: &str) -> Result<Value, Unfit> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Unfit::Signature)?;
        let said: Value = jsonwebtoken::dangerous::insecure_decode(token)
            .map_err(|_| Unfit::Signature)?
            .claims;
        let account = said["iss"].as_str().and_then(|iss| self.accounts.get(iss));
        let account = account.filter(|a| !a.disabled).ok_or(Unfit::Account)?;
        let claims = account
            .keys
            .iter()
            .filter(|key| header.kid.as_ref().is_none_or(|kid| *kid == key.id))
            .find_map(|key| key.verified(token))
            .ok_or(Unfit::Signature)?;
        let now = Timestamp::now().as_second();
        match (claims["iat"].as_i64(), claims["exp"].as_i64()) {
            (Some(iat), Some(exp))
                if iat <= now + SKEW && exp > now && exp > iat && exp - iat <= LONGEST_LIFE => {}
            _ => return Err(Unfit::Time),
        }
        Ok(claims)
    }

    /// Who makes a call to an API of Google's, with a token that is good for one of `scopes`.
    pub fn authenticate(&mut self, call: &mut Call, scopes: &[&str]) -> Result<Who, Answer> {
        if call.header("authorization").is_none() {
            return Err(missing(call));
        }
        let token = call
            .bearer()
            .map(str::to_owned)
            .ok_or_else(|| missing(call))?;
        self.seen.insert(token.clone());
        let who = self.owner(&token, call)?;
        call.who = Some(who.clone());
        let enough =
            who.scopes.is_empty() || who.scopes.iter().any(|s| scopes.contains(&s.as_str()));
        if !enough {
            return Err(
                Answer::api(403, "Request had insufficient authentication scopes.")
                    .because(
                        "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
                        "googleapis.com",
                        json!({"service": call.host}),
                    )
                    .listing("insufficientPermissions")
                    .wrong(),
            );
        }
        if let Some(project) = call.header("x-goog-user-project")
            && !self.holds(&who.name, &Role::QuotaUser(project.to_owned()))
        {
            let message = format!(
                "Caller does not have required permission to use project {project}. Grant the caller the roles/serviceusage.serviceUsageConsumer role, or a custom role with the serviceusage.services.use permission, by visiting https://console.developers.google.com/iam-admin/iam/project?project={project} and then retry. Propagation of the new permission may take a few minutes."
            );
            return Err(Answer::api(403, &message)
                .because(
                    "USER_PROJECT_DENIED",
                    "googleapis.com",
                    json!({"consumer": format!("projects/{project}"), "service": call.host}),
                )
                .listing("forbidden")
                .wrong());
        }
        Ok(who)
    }

    fn owner(&self, token: &str, call: &Call) -> Result<Who, Answer> {
        let who = |name: &str, proof, scopes| Who {
            name: name.to_owned(),
            proof,
            scopes,
            token: token.to_owned(),
        };
        if self.over.contains(token) {
            return Err(invalid(call, "ACCESS_TOKEN_EXPIRED"));
        }
        if let Some(issued) = self.tokens.get(token) {
            if issued.expires <= Timestamp::now() {
                return Err(invalid(call, "ACCESS_TOKEN_EXPIRED"));
            }
            return Ok(who(&issued.who, Proof::AccessToken, issued.scopes.clone()));
        }
        let claims = self
            .own_claims(token)
            .map_err(|_| invalid(call, "ACCESS_TOKEN_TYPE_UNSUPPORTED"))?;
        let name = claims["iss"].as_str().unwrap_or_default();
        let scopes: Vec<String> = words(claims["scope"].as_str().unwrap_or_default());
        let for_api = claims["aud"] == format!("https://{}/", call.host);
        // A scope, or else the service as the audience; never somebody else's name.
        let fit = claims["sub"] == name
            && claims["target_audience"].is_null()
            && (scopes.is_empty() == for_api);
        match fit {
            true => Ok(who(name, Proof::SelfSigned, scopes)),
            false => Err(invalid(call, "ACCESS_TOKEN_TYPE_UNSUPPORTED")),
        }
    }

    /// Lets those in who show an ID token of Google's for one of the audiences and may call the host,
    /// as Cloud Run does.
    pub fn admit(&mut self, call: &mut Call, audiences: &[String]) -> Result<(), Answer> {
        let no = |status| {
            let mut answer = Answer::page(
                status,
                match status {
                    401 => {
                        "Your client does not have permission to the requested URL (unauthenticated)."
                    }
                    _ => "Your client does not have permission to get this URL from this server.",
                },
            );
            answer.wrong = Some("not let in".to_owned());
            answer
        };
        let token = call.bearer().ok_or_else(|| no(403))?.to_owned();
        self.seen.insert(token.clone());
        let claims = self.google_keys.iter().find_map(|key| key.verified(&token));
        let claims = claims.ok_or_else(|| no(401))?;
        let in_time = claims["exp"]
            .as_i64()
            .is_some_and(|exp| exp > Timestamp::now().as_second());
        let meant = audiences
            .iter()
            .any(|audience| claims["aud"] == audience.as_str());
        if !in_time || !meant || self.over.contains(&token) {
            return Err(no(401));
        }
        // The service knows accounts by their number: an address need not be in the token.
        let name = match claims["email"].as_str() {
            Some(email) => Some(email.to_owned()),
            None => self
                .accounts
                .iter()
                .find(|(_, account)| claims["sub"] == account.number.as_str())
                .map(|(name, _)| name.clone()),
        };
        let name = name.ok_or_else(|| no(401))?;
        call.who = Some(Who {
            name: name.clone(),
            proof: Proof::IdToken,
            scopes: Vec::new(),
            token,
        });
        match self.holds(&name, &Role::Invoker(call.host.clone())) {
            true => Ok(()),
            false => Err(no(403)),
        }
    }
}

/// Words with blanks between them.
pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn missing(call: &Call) -> Answer {
    Answer::api(401, "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.")
        .because("CREDENTIALS_MISSING", "googleapis.com", json!({"service": call.host}))
        .listing("required")
        .wrong()
}

fn invalid(call: &Call, reason: &str) -> Answer {
    Answer::api(401, "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.")
        .because(reason, "googleapis.com", json!({"service": call.host}))
        .listing("authError")
        .wrong()
}
