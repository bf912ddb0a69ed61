//! A source, opened: its secrets read, its client and signers made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use url::Url;

use super::App;
use super::credentials::Lowering;
use super::vault::TokenVault;
use crate::auth;
use crate::connector::template::{ConfigValue, Scope};
use crate::connector::{Auth, Connector, Stream};
use crate::demo::{self, DemoApi};
use crate::error::{Error, Result};
use crate::google::{GoogleSign, GoogleToken};
use crate::http::{CallContext, HttpClient, HttpOptions, Sign};
use crate::pipeline::shard::Shard;
use crate::settings::{SourceConfig, Values};
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
    vaults: Vec<Arc<TokenVault>>,
    scope: Scope,
    _demo: Option<DemoApi>,
}

impl OpenSource {
    /// Reads the source's secrets and prepares to send its requests; sends none. `shard`: the task that
    /// reads it, where several share the rate limits.
    ///
    /// # Errors
    /// Secrets that are missing; a base URL or credentials that cannot be used.
    pub async fn open(mut config: SourceConfig, app: &App, shard: Option<Shard>) -> Result<Self> {
        let clock = app.clock.clone();
        if let Some(shard) = shard {
            let connector = &mut config.connector;
            for limit in &mut connector.rate_limits {
                *limit = shard.share_of(limit);
            }
            connector.concurrency = shard.share_of_concurrency(connector.concurrency);
        }
        let (values, demo) = if config.connector.name == DEMO && config.base_url.is_none() {
            let api = DemoApi::start(clock)?;
            let config = demo_values(&config, &api);
            let places = BTreeMap::new();
            (Values { config, places }, Some(api))
        } else {
            (config.values(&app.secrets).await?, None)
        };
        let scope = Scope {
            config: values.config,
            ..Scope::default()
        };
        let options = http_options(&config, &scope, app)?;
        let mut lowering = Lowering {
            app,
            config: &config,
            scope: &scope,
            places: &values.places,
            vaults: Vec::new(),
        };
        let mut signers = Vec::new();
        for (index, declared) in config.connector.auths.iter().enumerate() {
            signers.push(match googles(declared, &scope)? {
                Some(token) => {
                    Arc::new(GoogleSign::new(app.google.clone(), token)) as Arc<dyn Sign>
                }
                None => auth::build(lowering.auth(index)?, &options)?,
            });
        }
        let vaults = lowering.vaults;
        Ok(Self {
            name: config.name,
            connector: config.connector,
            client: Arc::new(HttpClient::new(options)?),
            signers,
            vaults,
            scope,
            _demo: demo,
        })
    }

    /// Stores new refresh tokens that could not be stored when they came.
    ///
    /// # Errors
    /// One still cannot be: the next run will need a new login.
    pub async fn settle(&self) -> Result<()> {
        for vault in &self.vaults {
            vault.settle().await?;
        }
        Ok(())
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

/// How the source's requests are sent.
///
/// # Errors
/// A base URL or a host that cannot be used.
pub(super) fn http_options(config: &SourceConfig, scope: &Scope, app: &App) -> Result<HttpOptions> {
    let mut options = HttpOptions::new(app.clock.clone());
    options.ca_file.clone_from(&config.ca_file);
    options.allow_private_network = config.allow_private_network;
    options
        .rate_limits
        .clone_from(&config.connector.rate_limits);
    options.concurrency = config.connector.concurrency;
    for stream in &config.connector.streams {
        options.origins.allow_url(&base_url(stream, scope)?)?;
    }
    for host in &config.connector.allowed_hosts {
        options.origins.allow_host(host)?;
    }
    Ok(options)
}

/// A stream's base URL.
pub(super) fn base_url(stream: &Stream, scope: &Scope) -> Result<Url> {
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
