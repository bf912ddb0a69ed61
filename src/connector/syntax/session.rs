//! `auth: {session: …}`: a login call, where its token is, and where that goes.

use http::Method;

use super::Lower;
use super::place::May;
use crate::connector::model::{Auth, LoginBody, LoginPlace, Session, TokenPlace, TokenSpot};
use crate::connector::template::Template;
use crate::yaml::Node;

impl Lower<'_> {
    pub(super) fn session(&mut self, node: &Node) -> Option<Auth> {
        let what = "`auth.session`";
        let known = ["login", "token", "send", "ttl"];
        let fields = self.reader.fields(node, what, &known)?;
        let place = self.send(fields.get("send"));
        let token = self
            .reader
            .required(&fields, "token", what)
            .and_then(|node| self.spot(node));
        let ttl = fields
            .get("ttl")
            .map(|node| self.reader.duration_above_zero(node, "`ttl`"));
        let login = self
            .reader
            .required(&fields, "login", what)
            .and_then(|node| self.login(node));
        let (at, method, headers, body) = login?;
        let session = Session {
            login: at,
            method,
            headers,
            body,
            token: token?,
            place: place?,
            ttl: match ttl {
                Some(given) => Some(given?),
                None => None,
            },
        };
        self.must_be_secret(node.at, "`login`", &session.credentials());
        Some(Auth::Session(Box::new(session)))
    }

    #[allow(clippy::type_complexity)]
    fn login(
        &mut self,
        node: &Node,
    ) -> Option<(
        LoginPlace,
        Method,
        std::collections::BTreeMap<String, Template>,
        Option<LoginBody>,
    )> {
        let what = "`login`";
        let known = ["path", "url", "method", "headers", "body", "form"];
        let fields = self.reader.fields(node, what, &known)?;
        let place = match (fields.get("path"), fields.get("url")) {
            (Some(node), None) => self
                .path(node, May::CONFIG, &mut Vec::new())
                .map(LoginPlace::Path),
            (None, Some(node)) => self.url(node, "`url`", true).map(|url| {
                self.login_urls.push((node.at, url.clone()));
                LoginPlace::Url(url)
            }),
            _ => {
                self.reader.findings.error(
                    fields.at,
                    "`login` must say either `path` or `url`",
                    "`path` follows the base URL; `url` is at the API's own hosts, or one of `allowed_hosts`"
                        .to_owned(),
                );
                None
            }
        };
        let method = fields.get("method").map(|node| {
            let methods = [("POST", false), ("GET", true)];
            self.reader.choice(node, "`method`", &methods)
        });
        let method = match method {
            Some(get) if get? => Method::GET,
            _ => Method::POST,
        };
        let headers = self.plain_map(fields.get("headers"), "`headers`", true);
        let body = match (fields.get("body"), fields.get("form")) {
            (Some(_), Some(form)) => {
                self.reader.findings.error(
                    form.at,
                    "`form` stands beside `body`",
                    "keep the one or the other".to_owned(),
                );
                return None;
            }
            (Some(node), None) => {
                let text = self.body(node, May::CONFIG, &mut Vec::new())?;
                Some(LoginBody::Json(text))
            }
            (None, Some(node)) => {
                Some(LoginBody::Form(self.plain_map(Some(node), "`form`", false)))
            }
            (None, None) => None,
        };
        if method == Method::GET
            && let Some(node) = fields.get("body").or(fields.get("form"))
        {
            self.reader
                .findings
                .error(node.at, "a login by GET has no body", None);
            return None;
        }
        Some((place?, method, headers, body))
    }

    /// Where in the answer the token is: `/data/token`, `header:X-Token`, `cookie:SID`.
    fn spot(&mut self, node: &Node) -> Option<TokenSpot> {
        let text = self.reader.text(node, "`token`")?;
        if let Some(name) = text.strip_prefix("header:") {
            let name = name.trim();
            self.header_name(node.at, name)?;
            return Some(TokenSpot::Header(name.to_owned()));
        }
        if let Some(name) = text.strip_prefix("cookie:").map(str::trim) {
            self.cookie_name(node, name)?;
            return Some(TokenSpot::Cookie(name.to_owned()));
        }
        if text.is_empty() || text.starts_with('/') {
            return Some(TokenSpot::Body(text.to_owned()));
        }
        self.reader.findings.error(
            node.at,
            "`token` is no place in an answer",
            "write a JSON pointer (`/data/token`), `header:X-Token` or `cookie:SID`".to_owned(),
        );
        None
    }

    /// Where a token goes on requests; `Authorization: Bearer …` unless said.
    pub(super) fn send(&mut self, node: Option<&Node>) -> Option<TokenPlace> {
        let Some(node) = node else {
            return Some(TokenPlace::bearer());
        };
        let known = ["header", "prefix", "query", "cookie"];
        let fields = self.reader.fields(node, "`send`", &known)?;
        let places: Vec<&str> = ["header", "query", "cookie"]
            .into_iter()
            .filter(|key| fields.get(key).is_some())
            .collect();
        let [key] = places[..] else {
            self.reader.findings.error(
                fields.at,
                "`send` must say one of `header`, `query` and `cookie`",
                "write its name: `{header: X-Session}`".to_owned(),
            );
            return None;
        };
        if key != "header"
            && let Some(entry) = fields.entry("prefix")
        {
            self.reader
                .findings
                .error(entry.at, "`prefix` goes with `header` only", None);
        }
        let at = fields.get(key)?;
        let name = self.reader.text(at, &format!("`{key}`"))?.to_owned();
        match key {
            "header" => {
                self.header_name(at.at, &name)?;
                let mut prefix = match fields.get("prefix") {
                    Some(node) => self.reader.text(node, "`prefix`")?.to_owned(),
                    None => String::new(),
                };
                if prefix.ends_with(|c: char| c.is_ascii_alphanumeric()) {
                    prefix.push(' ');
                }
                Some(TokenPlace::Header { name, prefix })
            }
            "cookie" => {
                self.cookie_name(at, &name)?;
                Some(TokenPlace::Cookie(name))
            }
            _ => Some(TokenPlace::Query(name)),
        }
    }

    fn cookie_name(&mut self, node: &Node, name: &str) -> Option<()> {
        // A cookie's name is a token, as a header's is (RFC 6265 §4.1.1).
        let good = http::HeaderName::from_bytes(name.as_bytes()).is_ok();
        if !good {
            self.reader
                .findings
                .error(node.at, format!("`{name}` is not a cookie's name"), None);
        }
        good.then_some(())
    }
}
