//! How a connector is written down: YAML, lowered into the model and checked. `docs/connector.md`
//! is its reference.
//!
//! Every key of a stream but `path` and `description` can be said once at the top of the file.
//! A stream's own word wins; `headers`, `params`, `add_columns`, `incremental` and `table` are merged
//! key by key, everything else is replaced whole; nothing (`~`) in a stream goes back to the default.

mod auth;
mod check;
mod fit;
mod google;
mod incremental;
mod oauth;
mod pagination;
mod place;
mod request;
mod session;
mod stream;
mod table;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use super::model::{Auth, ConfigKey, Connector};
use super::template::Template;
use crate::http::RateLimit;
use crate::schema::TableSchema;
use crate::yaml::{self, Fields, Findings, Node, Position, Reader, Value};

/// Most requests on the wire at once when the file does not say.
const DEFAULT_CONCURRENCY: usize = 4;

/// Keys at the top of the file that a stream does not have.
const ONLY_TOP: [&str; 8] = [
    "title",
    "description",
    "docs",
    "config",
    "allowed_hosts",
    "rate_limit",
    "streams",
    "base_url",
];

/// Maps that a stream and the top of the file have, with their keys.
const INNER: [(&str, &[&str]); 2] = [("table", &table::KEYS), ("incremental", &incremental::KEYS)];

/// A connector file as read.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The connector.
    pub connector: Connector,
    /// The base URL at the top of the file, which a source may replace.
    pub base_url: Option<Template>,
}

/// The schemas of a connector's streams, by stream, each with the name of its file.
pub type Schemas = BTreeMap<String, (String, TableSchema)>;

/// Reads the connector `name` from the text of the file `file`. `None` when any finding is an error.
pub fn read(name: &str, file: &str, text: &str, schemas: &Schemas) -> (Option<Lowered>, Findings) {
    let mut reader = Reader::new(file);
    let tree = match yaml::parse(text) {
        Ok(tree) => tree,
        Err((at, message)) => {
            reader.findings.error(at, message, None);
            return (None, reader.findings);
        }
    };
    if tree.is_null() {
        reader.findings.error(
            Position::START,
            "the file is empty",
            "a connector has at least `title`, `base_url` and `streams`".to_owned(),
        );
        return (None, reader.findings);
    }
    let known: Vec<&str> = top_keys();
    let Some(top) = reader.fields_with(&tree, "the connector", &known, &INNER) else {
        return (None, reader.findings);
    };
    let mut lower = Lower {
        reader,
        top,
        config: Vec::new(),
        auths: Vec::new(),
        login_urls: Vec::new(),
    };
    let lowered = lower.connector(name, schemas);
    let findings = lower.reader.findings;
    match findings.failed() {
        true => (None, findings),
        false => (lowered, findings),
    }
}

fn top_keys() -> Vec<&'static str> {
    let mut keys = ONLY_TOP.to_vec();
    keys.extend(
        stream::KEYS
            .iter()
            .filter(|k| !["path", "description", "base_url"].contains(k)),
    );
    keys
}

/// The work of lowering one file.
struct Lower<'n> {
    reader: Reader,
    top: Fields<'n>,
    config: Vec<ConfigKey>,
    auths: Vec<Auth>,
    /// URLs of sessions' logins, where they stand.
    login_urls: Vec<(Position, Template)>,
}

impl<'n> Lower<'n> {
    fn connector(&mut self, name: &str, schemas: &Schemas) -> Option<Lowered> {
        let title = match self.reader.required(&self.top, "title", "the connector") {
            Some(node) => self.reader.text(node, "`title`").unwrap_or_default(),
            None => "",
        };
        let description = self.optional_text("description").unwrap_or_default();
        let docs = self.optional_text("docs").map(str::to_owned);
        self.config = self.config_keys();
        let allowed_hosts = self.allowed_hosts();
        let (rate_limits, concurrency) = match self.top.get("rate_limit") {
            Some(node) => rate_limit(&mut self.reader, node),
            None => (Vec::new(), None),
        };
        let base_url = self
            .top
            .get("base_url")
            .and_then(|node| self.base_url(node));
        let entries = match self.reader.required(&self.top, "streams", "the connector") {
            Some(node) => self.reader.entries(node, "`streams`").unwrap_or_default(),
            None => &[],
        };
        if let Some(node) = self.top.get("streams")
            && entries.is_empty()
            && node.value == Value::Map(Vec::new())
        {
            self.reader.findings.error(
                node.at,
                "`streams` is empty",
                "name at least one: `streams: {contacts: }`".to_owned(),
            );
        }
        let names: Vec<&str> = entries.iter().map(|e| e.key.as_str()).collect();
        let drafts: Vec<stream::Draft> = entries
            .iter()
            .filter_map(|entry| self.stream(entry, &names))
            .collect();
        check::streams(&mut self.reader, &drafts);
        check::empty_replace(&mut self.reader, &drafts);
        fit::schemas(&mut self.reader, &drafts, schemas);
        check::sessions(self, &drafts);
        check::google(self, &drafts);
        check::login_hosts(self, &drafts, &allowed_hosts);
        check::config(self, &drafts);
        let streams = check::ordered(&mut self.reader, drafts)
            .into_iter()
            .map(|draft| {
                let mut stream = draft.stream;
                stream.schema = schemas.get(&stream.name).map(|(_, schema)| schema.clone());
                stream
            })
            .collect();
        Some(Lowered {
            connector: Connector {
                name: name.to_owned(),
                title: title.to_owned(),
                description: description.trim_end().to_owned(),
                docs,
                config: self.config.clone(),
                allowed_hosts,
                rate_limits,
                concurrency: concurrency.unwrap_or(DEFAULT_CONCURRENCY),
                auths: std::mem::take(&mut self.auths),
                streams,
            },
            base_url,
        })
    }

    fn optional_text(&mut self, key: &str) -> Option<&'n str> {
        let node = self.top.get(key)?;
        self.reader.text(node, &format!("`{key}`"))
    }

    fn config_keys(&mut self) -> Vec<ConfigKey> {
        let Some(node) = self.top.get("config") else {
            return Vec::new();
        };
        let Some(entries) = self.reader.entries(node, "`config`") else {
            return Vec::new();
        };
        entries
            .iter()
            .map(|entry| {
                if !is_identifier(&entry.key) {
                    self.reader.findings.error(
                        entry.at,
                        format!("config key `{}` cannot be named in a template", entry.key),
                        "use letters, digits and underscores, starting with a letter".to_owned(),
                    );
                }
                self.config_key(&entry.key, entry.at, &entry.node)
            })
            .collect()
    }

    fn config_key(&mut self, name: &str, at: Position, node: &Node) -> ConfigKey {
        let mut key = ConfigKey {
            name: name.to_owned(),
            description: String::new(),
            secret: false,
            default: None,
            optional: false,
        };
        if node.is_null() {
            return key;
        }
        let what = format!("config key `{name}`");
        let known = ["description", "secret", "default", "optional"];
        let Some(fields) = self.reader.fields(node, &what, &known) else {
            return key;
        };
        if let Some(node) = fields.get("description") {
            let text = self.reader.text(node, "`description`").unwrap_or_default();
            key.description = text.to_owned();
        }
        if let Some(node) = fields.get("secret") {
            key.secret = self.reader.flag(node, "`secret`").unwrap_or_default();
        }
        if let Some(node) = fields.get("optional") {
            key.optional = self.reader.flag(node, "`optional`").unwrap_or_default();
        }
        if let Some(node) = fields.get("default") {
            key.default = self.reader.text(node, "`default`").map(str::to_owned);
            if key.secret {
                self.reader.findings.error(
                    node.at,
                    format!("secret config key `{name}` has a default"),
                    "a secret never stands in a file; leave the default out".to_owned(),
                );
            }
        }
        if key.default.is_some() && key.optional {
            self.reader.findings.warning(
                at,
                format!("config key `{name}` has a default, so `optional` says nothing"),
                None,
            );
        }
        key
    }

    fn allowed_hosts(&mut self) -> Vec<String> {
        let Some(node) = self.top.get("allowed_hosts") else {
            return Vec::new();
        };
        let hosts = self.reader.texts(node, "`allowed_hosts`");
        hosts
            .into_iter()
            .filter(|(at, host)| {
                let good = is_host(host);
                if !good {
                    self.reader.findings.error(
                        *at,
                        format!("`{host}` is not a host"),
                        "write `host` or `host:port`, without scheme, path or wildcard".to_owned(),
                    );
                }
                good
            })
            .map(|(_, host)| host.to_owned())
            .collect()
    }
}

/// A `rate_limit`: one limit, a list of them, or `{limits: […], concurrency: N}`.
pub(crate) fn rate_limit(reader: &mut Reader, node: &Node) -> (Vec<RateLimit>, Option<usize>) {
    let what = "`rate_limit`";
    if let Value::List(items) = &node.value {
        let limits = items.iter().filter_map(|item| one_limit(reader, item));
        return (limits.collect(), None);
    }
    let known = ["requests", "per", "burst", "concurrency", "limits"];
    let Some(fields) = reader.fields(node, what, &known) else {
        return (Vec::new(), None);
    };
    let concurrency = fields
        .get("concurrency")
        .and_then(|node| reader.number(node, "`concurrency`", 1, 1_000))
        .and_then(|n| usize::try_from(n).ok());
    if let Some(list) = fields.get("limits") {
        if let Some(stray) = fields
            .entries()
            .iter()
            .find(|e| ["requests", "per", "burst"].contains(&e.key.as_str()))
        {
            reader.findings.error(
                stray.at,
                format!("`{}` stands beside `limits`", stray.key),
                "move it into the list".to_owned(),
            );
        }
        let Value::List(items) = &list.value else {
            reader.findings.error(
                list.at,
                format!("`limits` must be a list, not {}", list.kind()),
                None,
            );
            return (Vec::new(), concurrency);
        };
        let limits = items.iter().filter_map(|item| one_limit(reader, item));
        return (limits.collect(), concurrency);
    }
    if ["requests", "per", "burst"]
        .iter()
        .all(|key| fields.entry(key).is_none())
    {
        return (Vec::new(), concurrency);
    }
    let limit = limit_of(reader, &fields);
    (limit.into_iter().collect(), concurrency)
}

fn one_limit(reader: &mut Reader, node: &Node) -> Option<RateLimit> {
    let fields = reader.fields(node, "a limit", &["requests", "per", "burst"])?;
    limit_of(reader, &fields)
}

fn limit_of(reader: &mut Reader, fields: &Fields<'_>) -> Option<RateLimit> {
    let count = |reader: &mut Reader, node: &Node, what: &str| {
        let n = reader.number(node, what, 1, u64::from(u32::MAX))?;
        u32::try_from(n).ok().and_then(NonZeroU32::new)
    };
    let requests = reader.required(fields, "requests", "the limit");
    let requests = requests.and_then(|node| count(reader, node, "`requests`"));
    let per = reader.required(fields, "per", "the limit");
    let per = per.and_then(|node| reader.duration_above_zero(node, "`per`"));
    let burst = fields
        .get("burst")
        .and_then(|node| count(reader, node, "`burst`"));
    Some(RateLimit {
        requests: requests?,
        per: per?,
        burst,
        turn: Duration::ZERO,
    })
}

/// A name that can stand in a template and be a table's: letters, digits, underscores.
pub(crate) fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
        && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
}

/// `host` or `host:port`.
pub(crate) fn is_host(text: &str) -> bool {
    !text.is_empty()
        && !text.contains(['*', '/', '@', '?', '#', ' ', '\\', '%'])
        && url::Url::parse(&format!("https://{text}/")).is_ok_and(|u| u.has_host())
}

/// Whether credentials may not go to this URL: it is neither https nor on this machine.
pub fn is_insecure(url: &url::Url) -> bool {
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    url.scheme() != "https" && !loopback
}
