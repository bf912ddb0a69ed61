//! A connector's credentials with a source's values in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::{Url, form_urlencoded};

use super::App;
use super::open::base_url;
use super::vault::TokenVault;
use crate::auth::login::LoginConfig;
use crate::auth::{self, AuthConfig, Credential, JwtConfig, OAuthClient, TokenBody};
use crate::connector::template::{ConfigValue, Scope, Template};
use crate::connector::{
    Auth, AuthorizationCode, ClientAuth, Grant, Jwt, KeyPlace, LoginBody, LoginPlace, OAuth,
    Session,
};
use crate::error::{Error, ErrorKind, Result};
use crate::secrets::SecretRef;
use crate::settings::SourceConfig;

/// What it takes to fill in a source's credentials.
pub(super) struct Lowering<'a> {
    pub app: &'a App,
    pub config: &'a SourceConfig,
    pub scope: &'a Scope,
    /// Where each secret was found.
    pub places: &'a BTreeMap<String, SecretRef>,
    /// Those made so far, of refresh tokens.
    pub vaults: Vec<Arc<TokenVault>>,
}

impl Lowering<'_> {
    /// The connector's credentials of that index.
    ///
    /// # Errors
    /// A template that cannot be filled in; a URL that is none.
    pub fn auth(&mut self, index: usize) -> Result<AuthConfig> {
        let Some(declared) = self.config.connector.auths.get(index) else {
            return Ok(AuthConfig::None);
        };
        Ok(match declared {
            // Google's are signed by another.
            Auth::None | Auth::GoogleAccessToken { .. } | Auth::GoogleIdToken { .. } => {
                AuthConfig::None
            }
            Auth::Basic { username, password } => AuthConfig::Basic {
                username: self.credential(username)?,
                password: self.credential(password)?,
            },
            Auth::Bearer { token } => AuthConfig::Bearer {
                token: self.credential(token)?,
            },
            Auth::ApiKey { place, value } => match place {
                KeyPlace::Header(name) => AuthConfig::HeaderKey {
                    name: name.clone(),
                    value: self.credential(value)?,
                },
                KeyPlace::Query(name) => AuthConfig::QueryKey {
                    name: name.clone(),
                    value: self.credential(value)?,
                },
            },
            Auth::OAuth(oauth) => AuthConfig::OAuth(Box::new(auth::OAuth {
                client: self.client(oauth)?,
                grant: self.grant(&oauth.grant)?,
            })),
            Auth::Jwt { jwt, place } => AuthConfig::Jwt(Box::new(self.jwt(jwt)?), place.clone()),
            Auth::Session(session) => {
                let stream = self
                    .config
                    .connector
                    .streams
                    .iter()
                    .find(|s| s.auth == index);
                match stream {
                    // Nobody would use it.
                    None => AuthConfig::None,
                    Some(stream) => {
                        let base = base_url(stream, self.scope)?;
                        AuthConfig::Session(Box::new(self.session(session, &base)?))
                    }
                }
            }
        })
    }

    fn grant(&mut self, grant: &Grant) -> Result<auth::Grant> {
        Ok(match grant {
            Grant::ClientCredentials => auth::Grant::ClientCredentials,
            Grant::Password { username, password } => auth::Grant::Password {
                username: self.credential(username)?,
                password: self.credential(password)?,
            },
            Grant::JwtBearer(jwt) => auth::Grant::JwtBearer(Box::new(self.jwt(jwt)?)),
            Grant::RefreshToken { token, .. } => {
                auth::Grant::RefreshToken(self.vault(token, false)?)
            }
            Grant::AuthorizationCode(login) => {
                auth::Grant::RefreshToken(self.vault(&login.refresh_token, true)?)
            }
        })
    }

    /// The vault of a refresh token, one for all who use it.
    fn vault(&mut self, key: &str, by_login: bool) -> Result<Arc<TokenVault>> {
        if let Some(known) = self.vaults.iter().find(|vault| vault.key() == key) {
            return Ok(known.clone());
        }
        let Some(place) = self.places.get(key) else {
            let error = Error::new(
                ErrorKind::Auth,
                format!("source `{}` has no `{key}`", self.config.name),
            );
            return Err(error.hint("a refresh token cannot be left out: take `optional` away"));
        };
        let vault = Arc::new(TokenVault::new(
            self.app,
            self.config,
            key,
            place.clone(),
            by_login,
        ));
        self.vaults.push(vault.clone());
        Ok(vault)
    }

    /// The client that asks for tokens.
    pub fn client(&self, oauth: &OAuth) -> Result<OAuthClient> {
        Ok(OAuthClient {
            token_url: self.url(&oauth.token_url, "token URL")?,
            client_id: self.credential(&oauth.client_id)?,
            client_secret: self.credential(&oauth.client_secret)?,
            scopes: oauth
                .scopes
                .iter()
                .map(|s| s.render(self.scope))
                .collect::<Result<_>>()?,
            client_auth: match &oauth.client_auth {
                ClientAuth::Basic => auth::ClientAuth::Basic,
                ClientAuth::BasicRaw => auth::ClientAuth::BasicRaw,
                ClientAuth::Post => auth::ClientAuth::Post,
                ClientAuth::PrivateKeyJwt(jwt) => {
                    auth::ClientAuth::PrivateKeyJwt(Box::new(self.jwt(jwt)?))
                }
            },
            body: oauth.body,
            params: self.texts(&oauth.params)?,
            headers: self.texts(&oauth.headers)?,
            default_ttl: oauth.default_ttl,
        })
    }

    /// Where a person logs in.
    pub fn login(&self, oauth: &OAuth, login: &AuthorizationCode) -> Result<LoginConfig> {
        Ok(LoginConfig {
            client: self.client(oauth)?,
            authorization_url: self.url(&login.authorization_url, "authorization URL")?,
            params: self.texts(&login.params)?.into_iter().collect(),
            redirect_host: login.redirect_host.clone(),
            redirect_port: login.redirect_port,
        })
    }

    fn jwt(&self, jwt: &Jwt) -> Result<JwtConfig> {
        let optional = |template: &Option<Template>| -> Result<Option<String>> {
            let text = template
                .as_ref()
                .map(|t| t.render(self.scope))
                .transpose()?;
            Ok(text.filter(|text| !text.is_empty()))
        };
        let claims = match optional(&jwt.claims)? {
            None => serde_json::Map::new(),
            Some(text) => match serde_json::from_str(&text) {
                Ok(Value::Object(claims)) => claims,
                _ => {
                    return Err(Error::config(format!(
                        "the `claims` of source `{}` are not a JSON object",
                        self.config.name
                    )));
                }
            },
        };
        Ok(JwtConfig {
            key: self.credential(&jwt.key)?,
            algorithm: jwt.algorithm,
            key_id: optional(&jwt.key_id)?,
            issuer: optional(&jwt.issuer)?,
            subject: optional(&jwt.subject)?,
            audience: optional(&jwt.audience)?,
            lifetime: jwt.lifetime,
            claims,
        })
    }

    fn session(&self, session: &Session, base: &Url) -> Result<auth::Session> {
        let url = match &session.login {
            LoginPlace::Url(url) => self.url(url, "login URL")?,
            LoginPlace::Path(path) => {
                let text = format!(
                    "{}{}",
                    base.as_str().trim_end_matches('/'),
                    path.render(self.scope)?
                );
                self.parse(&text, "login URL")?
            }
        };
        let mut headers = BTreeMap::new();
        for (name, value) in &session.headers {
            let value = SecretString::from(value.render(self.scope)?);
            headers.insert(name.clone(), value);
        }
        let body = match &session.body {
            None => None,
            Some(LoginBody::Json(text)) => {
                let text = SecretString::from(text.render(self.scope)?);
                Some((TokenBody::Json.media(), text))
            }
            Some(LoginBody::Form(fields)) => {
                let text = form_urlencoded::Serializer::new(String::new())
                    .extend_pairs(self.texts(fields)?)
                    .finish();
                Some((TokenBody::Form.media(), SecretString::from(text)))
            }
        };
        Ok(auth::Session {
            url,
            method: session.method.clone(),
            headers,
            body,
            from: provenance(&session.credentials(), self.scope, &self.config.name),
            token: session.token.clone(),
            place: session.place.clone(),
            ttl: session.ttl,
        })
    }

    fn credential(&self, template: &Template) -> Result<Credential> {
        Ok(Credential::new(
            template.render(self.scope)?,
            provenance(&[template], self.scope, &self.config.name),
        ))
    }

    fn texts(&self, map: &BTreeMap<String, Template>) -> Result<BTreeMap<String, String>> {
        map.iter()
            .map(|(k, t)| Ok((k.clone(), t.render(self.scope)?)))
            .collect()
    }

    /// The URL that a template gives.
    pub fn url(&self, template: &Template, what: &str) -> Result<Url> {
        self.parse(&template.render(self.scope)?, what)
    }

    fn parse(&self, text: &str, what: &str) -> Result<Url> {
        Url::parse(text).map_err(|e| {
            Error::config(format!(
                "the {what} of source `{}` is not a URL",
                self.config.name
            ))
            .source(e)
            .hint("write it with its scheme: `https://login.example.com/oauth/token`")
        })
    }
}

/// Where a credential's value came from, in words.
fn provenance(templates: &[&Template], scope: &Scope, source: &str) -> String {
    let mut keys: Vec<String> = templates.iter().flat_map(|t| t.config_keys()).collect();
    keys.sort();
    keys.dedup();
    let secret = |k: &&String| matches!(scope.config.get(*k), Some(ConfigValue::Secret(s)) if !s.expose_secret().is_empty());
    let secrets: Vec<String> = keys
        .iter()
        .filter(secret)
        .map(|k| format!("`{k}`"))
        .collect();
    match (secrets.len(), keys.first()) {
        (0, Some(key)) => format!("config key `{key}` of source `{source}`"),
        (0, None) => format!("the connector of source `{source}`"),
        (1, _) => format!("secret {} of source `{source}`", secrets[0]),
        (_, _) => format!("secrets {} of source `{source}`", secrets.join(" and ")),
    }
}
