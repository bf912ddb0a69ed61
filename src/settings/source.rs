//! A configured use of a connector: which account, which secrets, which destination.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use url::Url;

use super::{BigQueryOptions, Settings};
use crate::config::{credentials_file, source_variable};
use crate::connector::load::Loaded;
use crate::connector::syntax::{is_host, is_insecure, rate_limit};
use crate::connector::template::{ConfigValue, Template};
use crate::connector::{Auth, ConfigKey, Connector};
use crate::error::{Error, Result};
use crate::http::RateLimit;
use crate::secrets::resolve::{SecretLookup, resolve};
use crate::secrets::{SecretRef, SecretStore};
use crate::yaml::finding::{Findings, suggest};
use crate::yaml::{Entry, Node, Position, Reader};

/// A source, ready to run but for its secrets' values.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Name; checkpoints and rows are kept by it.
    pub name: String,
    /// Its connector, with this source's base URL, hosts and rate limit in it.
    pub connector: Connector,
    /// Every config key that is no secret. An optional one that nobody gives is empty.
    pub config: BTreeMap<String, String>,
    /// Every secret config key, and where to look for it.
    pub secrets: BTreeMap<String, SecretLookup>,
    /// The base URL that replaces the connector's; already in [`Self::connector`].
    pub base_url: Option<Url>,
    /// Where its rows land, as written.
    pub destination: Option<String>,
    /// How BigQuery is used, where rows land there.
    pub bigquery: BigQueryOptions,
    /// A PEM file of certificate authorities to trust beside the usual ones.
    pub ca_file: Option<PathBuf>,
    /// Requests may go to private addresses.
    pub allow_private_network: bool,
}

impl SourceConfig {
    /// Everything that templates can name as `config.…`: the config keys, and the secrets' values.
    ///
    /// # Errors
    /// As [`resolve`].
    pub async fn values(&self, store: &dyn SecretStore) -> Result<Values> {
        let secrets = resolve(&self.name, &self.secrets, store).await?;
        let mut values: BTreeMap<String, ConfigValue> = self
            .config
            .iter()
            .map(|(key, value)| (key.clone(), ConfigValue::Plain(value.clone())))
            .collect();
        for key in self.secrets.keys() {
            let value = match secrets.get(key) {
                Some(found) => ConfigValue::Secret(found.value.clone()),
                None => ConfigValue::Plain(String::new()),
            };
            values.insert(key.clone(), value);
        }
        Ok(Values {
            config: Arc::new(values),
            places: secrets
                .into_iter()
                .map(|(key, found)| (key, found.place))
                .collect(),
        })
    }
}

/// What a source wants to know of secrets, and what else it wants to know.
#[derive(Clone, Debug)]
pub struct SourceSecrets {
    /// Its name.
    pub source: String,
    /// Its connector's.
    pub connector: String,
    /// Every secret config key, and where to look for it.
    pub lookups: BTreeMap<String, SecretLookup>,
    /// Names of the other config keys.
    pub plain: Vec<String>,
    /// Its requests go elsewhere than the connector says.
    pub rebased: bool,
}

impl SourceSecrets {
    /// Where the secret `key` is looked for.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`] when the connector declares no such secret; names the nearest.
    pub fn lookup(&self, key: &str) -> Result<&SecretLookup> {
        let Self {
            source, connector, ..
        } = self;
        self.lookups.get(key).ok_or_else(|| {
            if self.plain.iter().any(|k| k == key) {
                return Error::config(format!("`{key}` of source `{source}` is no secret")).hint(
                    format!("write its value into `drawoff.yaml` under `sources.{source}.config`"),
                );
            }
            let known: Vec<&str> = self.lookups.keys().map(String::as_str).collect();
            Error::config(format!(
                "connector `{connector}` of source `{source}` has no such secret as `{key}`"
            ))
            .hint(suggest(key, &known))
        })
    }
}

/// What templates can name as `config.…`.
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// The values.
    pub config: Arc<BTreeMap<String, ConfigValue>>,
    /// Where each secret was found.
    pub places: BTreeMap<String, SecretRef>,
}

/// A source as the settings file has it.
#[derive(Clone, Debug)]
pub(super) struct SourceEntry {
    pub name: String,
    /// What keeps it from being used.
    pub wrong: Option<Findings>,
    file: Option<String>,
    connector: String,
    config: Vec<(Position, String, String)>,
    secrets: Vec<(Position, String, SecretRef)>,
    base_url: Option<Url>,
    destination: Option<String>,
    bigquery: BigQueryOptions,
    allowed_hosts: Vec<String>,
    rate_limit: Option<(Vec<RateLimit>, Option<usize>)>,
    ca_file: Option<PathBuf>,
    allow_private_network: bool,
}

const KEYS: [&str; 10] = [
    "connector",
    "config",
    "secrets",
    "base_url",
    "destination",
    "bigquery",
    "allowed_hosts",
    "rate_limit",
    "ca_file",
    "allow_private_network",
];

impl SourceEntry {
    /// The connector of that name with nothing said about it.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            wrong: None,
            file: None,
            connector: name.to_owned(),
            config: Vec::new(),
            secrets: Vec::new(),
            base_url: None,
            destination: None,
            bigquery: BigQueryOptions::default(),
            allowed_hosts: Vec::new(),
            rate_limit: None,
            ca_file: None,
            allow_private_network: false,
        }
    }

    /// The entry of the file at `path`; relative paths in it are relative to that file.
    pub fn read(reader: &mut Reader, entry: &Entry, path: &Path) -> Option<Self> {
        let mut source = Self::named(&entry.key);
        source.file = Some(path.display().to_string());
        let good = entry.key.starts_with(|c: char| c.is_ascii_alphabetic())
            && entry
                .key
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        if !good {
            reader.findings.error(
                entry.at,
                format!("`{}` cannot be a source's name", entry.key),
                "use letters, digits, `-` and `_`, starting with a letter".to_owned(),
            );
        }
        if entry.node.is_null() {
            return Some(source);
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let fields = reader.fields(&entry.node, &format!("source `{}`", entry.key), &KEYS)?;
        if let Some(node) = fields.get("connector") {
            source.connector = reader.text(node, "`connector`")?.to_owned();
        }
        if let Some(node) = fields.get("config") {
            for entry in reader.entries(node, "`config`").unwrap_or_default() {
                let what = format!("config key `{}`", entry.key);
                if let Some(value) = reader.text(&entry.node, &what) {
                    let value = value.to_owned();
                    source.config.push((entry.at, entry.key.clone(), value));
                }
            }
        }
        if let Some(node) = fields.get("secrets") {
            for entry in reader.entries(node, "`secrets`").unwrap_or_default() {
                if let Some(reference) = reference(reader, entry, folder) {
                    source
                        .secrets
                        .push((entry.at, entry.key.clone(), reference));
                }
            }
        }
        source.base_url = fields
            .get("base_url")
            .and_then(|node| base_url(reader, node));
        source.destination = fields
            .get("destination")
            .and_then(|node| reader.text(node, "`destination`"))
            .map(str::to_owned);
        if let Some(node) = fields.get("bigquery") {
            source.bigquery = BigQueryOptions::read(reader, node);
        }
        if let Some(node) = fields.get("allowed_hosts") {
            for (at, host) in reader.texts(node, "`allowed_hosts`") {
                if !is_host(host) {
                    reader.findings.error(
                        at,
                        format!("`{host}` is not a host"),
                        "write `host` or `host:port`, without scheme, path or wildcard".to_owned(),
                    );
                }
                source.allowed_hosts.push(host.to_owned());
            }
        }
        source.rate_limit = fields
            .get("rate_limit")
            .map(|node| rate_limit(reader, node));
        source.ca_file = fields
            .get("ca_file")
            .and_then(|node| reader.text(node, "`ca_file`"))
            .map(|path| folder.join(path));
        if let Some(node) = fields.get("allow_private_network") {
            source.allow_private_network = reader
                .flag(node, "`allow_private_network`")
                .unwrap_or_default();
        }
        Some(source)
    }

    /// `drawoff.yaml:4:7: ` where the entry stands in a file.
    fn place(&self, at: Position) -> String {
        match &self.file {
            Some(file) => format!("{file}:{}:{}: ", at.line, at.column),
            None => String::new(),
        }
    }
}

/// A secret's reference; the text is never quoted, it may be the secret itself.
fn reference(reader: &mut Reader, entry: &Entry, folder: &Path) -> Option<SecretRef> {
    let text = reader.text(&entry.node, &format!("secret `{}`", entry.key))?;
    match text.parse::<SecretRef>() {
        Ok(SecretRef::File(path)) => Some(SecretRef::File(folder.join(path))),
        Ok(reference) => Some(reference),
        Err(e) => {
            reader.findings.error(
                entry.node.at,
                format!("secret `{}`: {e}", entry.key),
                e.find_hint().map(str::to_owned),
            );
            None
        }
    }
}

fn base_url(reader: &mut Reader, node: &Node) -> Option<Url> {
    let text = reader.text(node, "`base_url`")?;
    match checked_url(text) {
        Ok(url) => Some(url),
        Err(why) => {
            reader.findings.error(
                node.at,
                format!("`base_url` {why}"),
                "write scheme and host: `https://api.example.com/v1`".to_owned(),
            );
            None
        }
    }
}

fn checked_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "is not an absolute http or https URL")?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("is not an absolute http or https URL");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds credentials, which belong into `secrets`");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or a fragment");
    }
    Ok(url)
}

/// The source, out of the file's entry, the environment, the flags and the connector.
pub(super) fn build(settings: &Settings, entry: &SourceEntry) -> Result<SourceConfig> {
    let Loaded {
        mut connector,
        base_url: default_base,
        ..
    } = settings.catalog.load(&entry.connector)?;
    let name = entry.name.as_str();
    check_keys(settings, entry, &connector)?;

    let secrets = lookups(settings, entry, &connector);
    let mut config = BTreeMap::new();
    let mut missing = Vec::new();
    for key in connector.config.iter().filter(|key| !key.secret) {
        match value(settings, entry, key) {
            Some(value) => {
                config.insert(key.name.clone(), value);
            }
            None => missing.push(key),
        }
    }
    if !missing.is_empty() {
        return Err(missing_keys(name, &missing));
    }

    let variable = source_variable(name, "base_url");
    let base_url = match settings.environment.get(&variable) {
        _ if settings.base_url.is_some() => settings.base_url.clone(),
        Some(text) => Some(
            checked_url(&text)
                .map_err(|why| Error::config(format!("environment variable `{variable}` {why}")))?,
        ),
        None => entry.base_url.clone(),
    };
    if let Some(url) = &base_url {
        replace_base(&mut connector, default_base.as_ref(), url, name)?;
    }
    connector
        .allowed_hosts
        .extend(entry.allowed_hosts.iter().cloned());
    if let Some((limits, concurrency)) = &entry.rate_limit {
        if !limits.is_empty() {
            connector.rate_limits.clone_from(limits);
        }
        connector.concurrency = concurrency.unwrap_or(connector.concurrency);
    }
    let destination = match settings.destination_forced {
        true => settings.destination.clone(),
        false => entry
            .destination
            .clone()
            .or_else(|| settings.destination.clone()),
    };
    Ok(SourceConfig {
        name: name.to_owned(),
        connector,
        config,
        secrets,
        base_url,
        destination,
        bigquery: settings
            .bigquery_forced
            .clone()
            .or(&entry.bigquery)
            .or(&settings.bigquery),
        ca_file: entry.ca_file.clone(),
        allow_private_network: entry.allow_private_network,
    })
}

/// The source's secrets, whatever else of it is not there yet.
pub(super) fn secrets(settings: &Settings, entry: &SourceEntry) -> Result<SourceSecrets> {
    let connector = settings.catalog.load(&entry.connector)?.connector;
    check_keys(settings, entry, &connector)?;
    let variable = source_variable(&entry.name, "base_url");
    Ok(SourceSecrets {
        source: entry.name.clone(),
        lookups: lookups(settings, entry, &connector),
        plain: connector
            .config
            .iter()
            .filter(|key| !key.secret)
            .map(|key| key.name.clone())
            .collect(),
        rebased: entry.base_url.is_some() || settings.environment.get(&variable).is_some(),
        connector: connector.name,
    })
}

/// Every secret of the connector, and where to look for it.
fn lookups(
    settings: &Settings,
    entry: &SourceEntry,
    connector: &Connector,
) -> BTreeMap<String, SecretLookup> {
    let lookup = |key: &ConfigKey| {
        let reference = entry.secrets.iter().find(|(_, k, _)| *k == key.name);
        let lookup = SecretLookup::new(
            &entry.name,
            &key.name,
            key.optional,
            reference.map(|(_, _, r)| r.clone()),
            settings.project.as_deref(),
        );
        let users = connector
            .auths
            .iter()
            .filter(|auth| auth.refresh_key() == Some(key.name.as_str()));
        let by_login = users
            .map(|auth| auth.login().is_some())
            .reduce(|a, b| a || b);
        let lookup = SecretLookup {
            one_line: connector
                .auths
                .iter()
                .any(|auth| auth.needs_one_line(&key.name)),
            ..lookup
        };
        match by_login {
            Some(by_login) => {
                let file = credentials_file(&settings.environment, &entry.name, &key.name);
                lookup.replaced(file, by_login)
            }
            None => lookup,
        }
    };
    let secret = connector.config.iter().filter(|key| key.secret);
    secret.map(|key| (key.name.clone(), lookup(key))).collect()
}

/// A plain key's value: flag, environment, file, default, in that order.
fn value(settings: &Settings, entry: &SourceEntry, key: &ConfigKey) -> Option<String> {
    let flag = settings.set.iter().rev().find(|(k, _)| *k == key.name);
    let file = entry.config.iter().find(|(_, k, _)| *k == key.name);
    flag.map(|(_, value)| value.clone())
        .or_else(|| {
            settings
                .environment
                .get(&source_variable(&entry.name, &key.name))
        })
        .or_else(|| file.map(|(_, _, value)| value.clone()))
        .or_else(|| key.default.clone())
        .or_else(|| key.optional.then(String::new))
}

/// Every key given is one that the connector declares, and given where it belongs.
fn check_keys(settings: &Settings, entry: &SourceEntry, connector: &Connector) -> Result<()> {
    let names = |secret: bool| -> Vec<&str> {
        let keys = connector.config.iter().filter(|k| k.secret == secret);
        keys.map(|k| k.name.as_str()).collect()
    };
    let (plain, secret) = (names(false), names(true));
    for (at, key, _) in &entry.config {
        let place = entry.place(*at);
        if secret.contains(&key.as_str()) {
            return Err(Error::config(format!(
                "{place}`{key}` of source `{}` is a secret, and stands under `config`",
                entry.name
            ))
            .hint(secret_hint(key)));
        }
        if !plain.contains(&key.as_str()) {
            return Err(unknown_key(&place, key, entry, &plain));
        }
    }
    for (at, key, reference) in &entry.secrets {
        let place = entry.place(*at);
        if plain.contains(&key.as_str()) {
            return Err(Error::config(format!(
                "{place}`{key}` of source `{}` is no secret, and stands under `secrets`",
                entry.name
            ))
            .hint("write its value under `config`"));
        }
        if !secret.contains(&key.as_str()) {
            return Err(unknown_key(&place, key, entry, &secret));
        }
        let is_refresh = |auth: &Auth| auth.refresh_key() == Some(key.as_str());
        if reference.is_pinned() && connector.auths.iter().any(is_refresh) {
            return Err(Error::config(format!(
                "{place}`{key}` of source `{}` is a refresh token, which the API may replace at each use, and `{reference}` names one version",
                entry.name
            ))
            .hint("leave the version out of the reference, so that it means the newest"));
        }
    }
    for (key, _) in &settings.set {
        if secret.contains(&key.as_str()) {
            return Err(Error::config(format!(
                "`--set {key}=…`: `{key}` of source `{}` is a secret, and command lines are seen by others",
                entry.name
            ))
            .hint(format!(
                "set environment variable `{}`, or store it in Secret Manager as `{key}`",
                source_variable(&entry.name, key)
            )));
        }
        if !plain.contains(&key.as_str()) {
            return Err(unknown_key("`--set`: ", key, entry, &plain));
        }
    }
    Ok(())
}

fn secret_hint(key: &str) -> String {
    format!(
        "write a reference under `secrets`: `{key}: gcp://project/secret`, `env://NAME` or `file:///path`"
    )
}

fn unknown_key(place: &str, key: &str, entry: &SourceEntry, known: &[&str]) -> Error {
    Error::config(format!(
        "{place}connector `{}` of source `{}` has no such key as `{key}`",
        entry.connector, entry.name
    ))
    .hint(suggest(key, known))
}

fn missing_keys(source: &str, missing: &[&ConfigKey]) -> Error {
    let plural = if missing.len() == 1 { "key" } else { "keys" };
    let names: Vec<&str> = missing.iter().map(|k| k.name.as_str()).collect();
    let mut text = format!(
        "source `{source}` lacks the config {plural} `{}`",
        names.join("`, `")
    );
    for key in missing.iter().filter(|k| !k.description.is_empty()) {
        text.push_str(&format!("\n  `{}`: {}", key.name, key.description));
    }
    let first = names.first().copied().unwrap_or_default();
    Error::config(text).hint(format!(
        "say `--set {first}=…`, set `{}`, or write it into `drawoff.yaml` under `sources.{source}.config`",
        source_variable(source, first)
    ))
}

/// Puts the source's base URL where the connector's own stands; streams with another keep theirs.
fn replace_base(
    connector: &mut Connector,
    default_base: Option<&Template>,
    url: &Url,
    source: &str,
) -> Result<()> {
    let Some(default_base) = default_base else {
        return Err(Error::config(format!(
            "source `{source}` gives a `base_url`, and its connector has none to replace"
        ))
        .hint("each stream of this connector says its own"));
    };
    let text = url.as_str().trim_end_matches('/');
    // A URL may hold braces; as text they must not become a template.
    let base = Template::parse(text.replace('{', "%7B").replace('}', "%7D"))?;
    for stream in &mut connector.streams {
        if stream.base_url == *default_base {
            let signed = connector.auths.get(stream.auth) != Some(&Auth::None);
            if signed && is_insecure(url) {
                return Err(Error::config(format!(
                    "the `base_url` of source `{source}` would send credentials over plain http"
                ))
                .hint("use https; plain http is for this machine only"));
            }
            stream.base_url = base.clone();
        }
    }
    Ok(())
}
