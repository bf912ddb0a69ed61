//! A source, opened: its secrets read, its client and signers made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::auth::{self, AuthConfig, Credential};
use crate::clock::SharedClock;
use crate::connector::template::{ConfigValue, Scope, Template};
use crate::connector::{self, Auth, Connector, Stream};
use crate::demo::{self, DemoApi};
use crate::error::{Error, Result};
use crate::google::{Google, GoogleSign, GoogleToken};
use crate::http::{CallContext, HttpClient, HttpOptions, Sign};
use crate::secrets::SecretStore;
use crate::settings::SourceConfig;
use crate::source::Endpoint;
use crate::telemetry::Meter;

/// The connector whose API runs in this process.
pub(super) const DEMO: &str = "demo";

/// A source, ready to be read.
pub struct OpenSource {
    /// Its name.
    pub name: String,
    /// Its connector.
    pub connector: Connector,
    client: Arc<HttpClient>,
    signers: Vec<Arc<dyn Sign>>,
    scope: Scope,
    _demo: Option<DemoApi>,
}

impl OpenSource {
    /// Reads the source's secrets and prepares to send its requests; sends none.
    ///
    /// # Errors
    /// Secrets that are missing; a base URL or credentials that cannot be used.
    pub async fn open(
        config: SourceConfig,
        store: &dyn SecretStore,
        google: &Google,
        clock: SharedClock,
    ) -> Result<Self> {
        let (values, demo) = if config.connector.name == DEMO && config.base_url.is_none() {
            let api = DemoApi::start(clock.clone())?;
            (demo_values(&config, &api), Some(api))
        } else {
            (config.values(store).await?, None)
        };
        let scope = Scope {
            config: values,
            ..Scope::default()
        };
        let mut options = HttpOptions::new(clock);
        options.ca_file = config.ca_file;
        options.allow_private_network = config.allow_private_network;
        options
            .rate_limits
            .clone_from(&config.connector.rate_limits);
        options.concurrency = config.connector.concurrency;
        for stream in &config.connector.streams {
            options.origins.allow_url(&base_url(stream, &scope)?)?;
        }
        for host in &config.connector.allowed_hosts {
            options.origins.allow_host(host)?;
        }
        let signers = config
            .connector
            .auths
            .iter()
            .map(|declared| match googles(declared, &scope)? {
                Some(token) => {
                    Ok(Arc::new(GoogleSign::new(google.clone(), token)) as Arc<dyn Sign>)
                }
                None => auth::build(lower(declared, &scope, &config.name)?, &options),
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            name: config.name,
            connector: config.connector,
            client: Arc::new(HttpClient::new(options)?),
            signers,
            scope,
            _demo: demo,
        })
    }

    /// The stream of that name.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`] listing the known ones.
    pub fn stream(&self, name: &str) -> Result<&Stream> {
        self.connector.stream(name).ok_or_else(|| {
            let known: Vec<&str> = self
                .connector
                .streams
                .iter()
                .map(|s| s.name.as_str())
                .collect();
            let near = crate::error::nearest(name, known.iter().copied())
                .map(|n| format!("did you mean `{n}`? "))
                .unwrap_or_default();
            Error::config(format!("source `{}` has no stream `{name}`", self.name))
                .hint(format!("{near}its streams are `{}`", known.join("`, `")))
        })
    }

    /// A stream's endpoint.
    ///
    /// # Errors
    /// A base URL that is none.
    pub fn endpoint(&self, stream: &Stream, call: &Call) -> Result<Arc<Endpoint>> {
        let signer = self.signers.get(stream.auth).cloned().ok_or_else(|| {
            Error::new(
                crate::error::ErrorKind::Bug,
                format!(
                    "stream `{}` refers to credentials that are not there",
                    stream.name
                ),
            )
        })?;
        Ok(Arc::new(Endpoint {
            stream: stream.clone(),
            base_url: base_url(stream, &self.scope)?.to_string(),
            client: self.client.clone(),
            signer,
            context: CallContext {
                deadline: call.deadline,
                cancel: call.cancel.clone(),
                meter: call.meter.clone(),
            },
            concurrency: self.connector.concurrency.max(1),
            scope: self.scope.clone(),
        }))
    }

    /// The endpoints of a stream's parent, the parent's parent…, nearest first.
    ///
    /// # Errors
    /// As [`Self::endpoint`].
    pub fn parents(&self, stream: &Stream, call: &Call) -> Result<Vec<Arc<Endpoint>>> {
        let mut chain = Vec::new();
        let mut at = stream;
        while let Some(parent) = &at.parent {
            at = self.stream(&parent.stream)?;
            chain.push(self.endpoint(at, call)?);
        }
        Ok(chain)
    }
}

/// Who asks, how long, and who watches.
#[derive(Clone)]
pub struct Call {
    /// Retries and waits end before this.
    pub deadline: Option<Instant>,
    /// Ends waits.
    pub cancel: CancellationToken,
    /// Counters.
    pub meter: Arc<Meter>,
}

fn base_url(stream: &Stream, scope: &Scope) -> Result<Url> {
    let text = stream.base_url.render(scope)?;
    Url::parse(&text).map_err(|e| {
        Error::config(format!(
            "the base URL of stream `{}` is not a URL",
            stream.name
        ))
        .source(e)
        .hint("write it with its scheme: `https://api.example.com/v1`")
    })
}

/// The demo's credentials and place are known here, and nowhere else.
fn demo_values(config: &SourceConfig, api: &DemoApi) -> Arc<BTreeMap<String, ConfigValue>> {
    let mut values: BTreeMap<String, ConfigValue> = config
        .config
        .iter()
        .map(|(k, v)| (k.clone(), ConfigValue::Plain(v.clone())))
        .collect();
    values.insert(
        "base_url".to_owned(),
        ConfigValue::Plain(api.base_url().to_owned()),
    );
    for (key, value) in [
        ("companyid", demo::COMPANY_ID),
        ("token", demo::TOKEN),
        ("client_id", demo::CLIENT_ID),
        ("client_secret", demo::CLIENT_SECRET),
    ] {
        values.insert(key.to_owned(), ConfigValue::Secret(value.to_owned().into()));
    }
    Arc::new(values)
}

/// The token of Google's that the connector wants, if it is one.
fn googles(declared: &Auth, scope: &Scope) -> Result<Option<GoogleToken>> {
    Ok(match declared {
        Auth::GoogleAccessToken { scopes } => Some(GoogleToken::Access {
            scopes: scopes
                .iter()
                .map(|s| s.render(scope))
                .collect::<Result<_>>()?,
        }),
        Auth::GoogleIdToken { audience } => Some(GoogleToken::Id {
            audience: audience.as_ref().map(|a| a.render(scope)).transpose()?,
        }),
        _ => None,
    })
}

/// The connector's credentials with this source's values in them.
fn lower(declared: &Auth, scope: &Scope, source: &str) -> Result<AuthConfig> {
    let credential = |template: &Template| -> Result<Credential> {
        Ok(Credential::new(
            template.render(scope)?,
            provenance(template, scope, source),
        ))
    };
    Ok(match declared {
        // Google's are signed by another.
        Auth::None | Auth::GoogleAccessToken { .. } | Auth::GoogleIdToken { .. } => {
            AuthConfig::None
        }
        Auth::Basic { username, password } => AuthConfig::Basic {
            username: credential(username)?,
            password: credential(password)?,
        },
        Auth::Bearer { token } => AuthConfig::Bearer {
            token: credential(token)?,
        },
        Auth::ApiKey { place, value } => match place {
            connector::KeyPlace::Header(name) => AuthConfig::HeaderKey {
                name: name.clone(),
                value: credential(value)?,
            },
            connector::KeyPlace::Query(name) => AuthConfig::QueryKey {
                name: name.clone(),
                value: credential(value)?,
            },
        },
        Auth::ClientCredentials(grant) => {
            let text = grant.token_url.render(scope)?;
            let token_url = Url::parse(&text).map_err(|e| {
                Error::config(format!("the token URL of source `{source}` is not a URL"))
                    .source(e)
                    .hint("write it with its scheme: `https://login.example.com/oauth/token`")
            })?;
            let texts = |map: &BTreeMap<String, Template>| -> Result<BTreeMap<String, String>> {
                map.iter()
                    .map(|(k, t)| Ok((k.clone(), t.render(scope)?)))
                    .collect()
            };
            AuthConfig::ClientCredentials(Box::new(auth::ClientCredentials {
                token_url,
                client_id: credential(&grant.client_id)?,
                client_secret: credential(&grant.client_secret)?,
                scopes: grant
                    .scopes
                    .iter()
                    .map(|s| s.render(scope))
                    .collect::<Result<_>>()?,
                client_auth: match grant.client_auth {
                    connector::ClientAuth::Basic => auth::ClientAuth::Basic,
                    connector::ClientAuth::BasicRaw => auth::ClientAuth::BasicRaw,
                    connector::ClientAuth::Post => auth::ClientAuth::Post,
                },
                body: match grant.body {
                    connector::TokenBody::Form => auth::TokenBody::Form,
                    connector::TokenBody::Json => auth::TokenBody::Json,
                },
                params: texts(&grant.params)?,
                headers: texts(&grant.headers)?,
                default_ttl: grant.default_ttl,
            }))
        }
    })
}

/// Where a credential's value came from, in words.
fn provenance(template: &Template, scope: &Scope, source: &str) -> String {
    let keys = template.config_keys();
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
