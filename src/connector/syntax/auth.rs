//! `auth`: how requests are authorized. A credential comes out of the configuration, from a key that
//! is declared secret; it never stands in the file.

use std::collections::BTreeMap;

use super::place::May;
use super::{Lower, is_insecure};
use crate::connector::model::{Auth, KeyPlace};
use crate::connector::template::Template;
use crate::yaml::{Node, Position};

const KINDS: [&str; 9] = [
    "none",
    "basic",
    "bearer",
    "api_key",
    "oauth2",
    "client_credentials",
    "jwt",
    "session",
    "google",
];

impl Lower<'_> {
    /// The index of the auth that the node says, in the connector's list.
    pub(super) fn auth(&mut self, node: Option<&Node>) -> usize {
        let auth = node
            .and_then(|node| self.auth_of(node))
            .unwrap_or(Auth::None);
        match self.auths.iter().position(|known| *known == auth) {
            Some(index) => index,
            None => {
                self.auths.push(auth);
                self.auths.len() - 1
            }
        }
    }

    fn auth_of(&mut self, node: &Node) -> Option<Auth> {
        let (kind, inner) = self.reader.tagged(node, "`auth`", &KINDS)?;
        let Some(inner) = inner else {
            if kind != "none" {
                self.reader.findings.error(
                    node.at,
                    format!("`auth` is `{kind}` without its credentials"),
                    format!("write `auth: {{{kind}: {{…}}}}`"),
                );
            }
            return None;
        };
        match kind {
            "basic" => self.basic(inner),
            "bearer" => self.bearer(inner),
            "api_key" => self.api_key(inner),
            "oauth2" => self.oauth2(inner),
            "client_credentials" => self.grant("client_credentials", inner),
            "jwt" => self.self_signed(inner),
            "session" => self.session(inner),
            "google" => self.google(inner),
            _ => {
                self.reader
                    .findings
                    .error(inner.at, "`auth: none` takes nothing more", None);
                None
            }
        }
    }

    fn basic(&mut self, node: &Node) -> Option<Auth> {
        let what = "`auth.basic`";
        let known = ["username", "password", "credentials"];
        let fields = self.reader.fields(node, what, &known)?;
        if let Some(pair) = fields.get("credentials") {
            if let Some(stray) = fields.entries().iter().find(|e| e.key != "credentials") {
                self.reader.findings.error(
                    stray.at,
                    format!("`{}` stands beside `credentials`", stray.key),
                    "`credentials` holds `user:password`; keep the one or the others".to_owned(),
                );
                return None;
            }
            return self.pair(pair);
        }
        if fields.get("username").is_none() && fields.get("password").is_none() {
            self.reader.findings.error(
                fields.at,
                format!("{what} lacks the keys `username` and `password`"),
                "either may be left out when it is empty, not both".to_owned(),
            );
            return None;
        }
        let half = |lower: &mut Self, key: &str| match fields.get(key) {
            Some(node) => lower.template(node, &format!("`{key}`"), May::CONFIG, &mut Vec::new()),
            None => Template::parse("").ok(),
        };
        let username = half(self, "username");
        let password = half(self, "password");
        let (username, password) = (username?, password?);
        if username.config_keys().is_empty()
            && fields.get("username").is_some()
            && username.as_str().contains(':')
        {
            let at = fields.get("username").map_or(fields.at, |n| n.at);
            self.reader.findings.error(
                at,
                "`username` contains `:`, which HTTP Basic cannot carry",
                None,
            );
        }
        self.must_be_secret(fields.at, what, &[&username, &password]);
        Some(Auth::Basic { username, password })
    }

    /// One value that holds `user:password`, split at the first colon.
    fn pair(&mut self, node: &Node) -> Option<Auth> {
        let what = "`credentials`";
        let whole = self.template(node, what, May::CONFIG, &mut Vec::new())?;
        self.must_be_secret(node.at, what, &[&whole]);
        let text = whole.as_str().trim();
        let inner = text
            .strip_prefix("{{")
            .and_then(|t| t.strip_suffix("}}"))
            .filter(|t| !t.contains("{{") && !t.contains("}}"));
        let Some(inner) = inner.map(str::trim) else {
            self.reader.findings.error(
                node.at,
                "`credentials` must be one expression",
                "write `credentials: \"{{ config.pair }}\"`, or `username` and `password`"
                    .to_owned(),
            );
            return None;
        };
        let half = |name: &str| Template::parse(format!("{{{{ ({inner}) | {name}(\":\") }}}}"));
        Some(Auth::Basic {
            username: half("before").ok()?,
            password: half("after").ok()?,
        })
    }

    fn bearer(&mut self, node: &Node) -> Option<Auth> {
        let what = "`auth.bearer`";
        let fields = self.reader.fields(node, what, &["token"])?;
        let node = self.reader.required(&fields, "token", what)?;
        let token = self.credential(node, "`token`")?;
        Some(Auth::Bearer { token })
    }

    fn api_key(&mut self, node: &Node) -> Option<Auth> {
        let what = "`auth.api_key`";
        let fields = self
            .reader
            .fields(node, what, &["header", "query", "value"])?;
        let value = self
            .reader
            .required(&fields, "value", what)
            .and_then(|node| self.credential(node, "`value`"));
        let place = match (fields.get("header"), fields.get("query")) {
            (Some(node), None) => {
                let name = self.reader.text(node, "`header`")?;
                self.header_name(node.at, name)?;
                KeyPlace::Header(name.to_owned())
            }
            (None, Some(node)) => KeyPlace::Query(self.reader.text(node, "`query`")?.to_owned()),
            _ => {
                self.reader.findings.error(
                    fields.at,
                    format!("{what} must say either `header` or `query`"),
                    "write the header's or the parameter's name: `{header: X-Api-Key, value: …}`"
                        .to_owned(),
                );
                return None;
            }
        };
        Some(Auth::ApiKey {
            place,
            value: value?,
        })
    }

    /// A map of texts with config values in them.
    pub(super) fn plain_map(
        &mut self,
        node: Option<&Node>,
        what: &str,
        headers: bool,
    ) -> BTreeMap<String, Template> {
        let Some(entries) = node.and_then(|node| self.reader.entries(node, what)) else {
            return BTreeMap::new();
        };
        let mut map = BTreeMap::new();
        for entry in entries {
            if headers && self.header_name(entry.at, &entry.key).is_none() {
                continue;
            }
            let what = format!("`{}`", entry.key);
            if let Some(value) = self.template(&entry.node, &what, May::CONFIG, &mut Vec::new()) {
                map.insert(entry.key.clone(), value);
            }
        }
        map
    }

    pub(super) fn credential(&mut self, node: &Node, what: &str) -> Option<Template> {
        let template = self.template(node, what, May::CONFIG, &mut Vec::new())?;
        self.must_be_secret(node.at, what, &[&template]);
        Some(template)
    }

    /// At least one of the templates fills in a secret. The value itself is never quoted: it may be
    /// a credential in the wrong place.
    pub(super) fn must_be_secret(&mut self, at: Position, what: &str, templates: &[&Template]) {
        if templates.iter().any(|t| self.uses_secret(t)) {
            return;
        }
        let keys: Vec<String> = templates.iter().flat_map(|t| t.config_keys()).collect();
        let undeclared = keys
            .iter()
            .any(|key| !self.config.iter().any(|k| k.name == *key));
        match keys.first() {
            // Reported already, with the nearest key.
            Some(_) if undeclared => {}
            Some(key) => self.reader.findings.error(
                at,
                format!("{what} is a credential, and config key `{key}` is not declared secret"),
                format!("declare it: `{key}: {{secret: true}}`"),
            ),
            None => self.reader.findings.error(
                at,
                format!("{what} stands in the file as it is"),
                "declare a config key with `secret: true` and name it: `{{ config.token }}`"
                    .to_owned(),
            ),
        }
    }

    /// `base_url`.
    pub(super) fn base_url(&mut self, node: &Node) -> Option<Template> {
        self.url(node, "`base_url`", false)
    }

    /// An absolute http or https URL, perhaps with config values in it.
    pub(super) fn url(&mut self, node: &Node, what: &str, credentials: bool) -> Option<Template> {
        let template = self.template(node, what, May::CONFIG, &mut Vec::new())?;
        let Some(url) = example_url(template.as_str()) else {
            return Some(template);
        };
        let fail = |lower: &mut Self, message: String, hint: &str| {
            lower
                .reader
                .findings
                .error(node.at, message, hint.to_owned());
            None
        };
        let url = match url {
            Ok(url) if url.has_host() && matches!(url.scheme(), "http" | "https") => url,
            _ => {
                return fail(
                    self,
                    format!("{what} is not an absolute http or https URL"),
                    "write scheme and host: `https://api.example.com/v1`",
                );
            }
        };
        if !url.username().is_empty() || url.password().is_some() {
            return fail(
                self,
                format!("{what} holds credentials"),
                "say them in `auth`, out of secret config keys",
            );
        }
        if !credentials && (url.query().is_some() || url.fragment().is_some()) {
            return fail(
                self,
                format!("{what} has a query or a fragment"),
                "say parameters in `params`",
            );
        }
        if credentials && is_insecure(&url) {
            return fail(
                self,
                format!("{what} would send credentials over plain http"),
                "use https; plain http is for this machine only",
            );
        }
        Some(template)
    }

    /// Credentials go over https, or stay on this machine.
    pub(super) fn guard_base_url(&mut self, at: Position, base_url: &Template, auth: usize) {
        let signed = self.auths.get(auth).is_some_and(|a| *a != Auth::None);
        if signed
            && let Some(Ok(url)) = example_url(base_url.as_str())
            && is_insecure(&url)
        {
            self.reader.findings.error(
                at,
                "`base_url` would send credentials over plain http",
                "use https; plain http is for this machine only".to_owned(),
            );
        }
    }
}

/// The URL with an `x` for every template in it; `None` when even the host's beginning is one.
pub(super) fn example_url(text: &str) -> Option<Result<url::Url, url::ParseError>> {
    if text.starts_with("{{") || text.contains("{%") {
        return None;
    }
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        plain.push_str(before);
        plain.push('x');
        rest = after.split_once("}}").map_or("", |(_, rest)| rest);
    }
    plain.push_str(rest);
    Some(url::Url::parse(&plain))
}
