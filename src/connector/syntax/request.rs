//! The request of a stream: path, parameters, headers, body.

use http::HeaderName;

use super::Lower;
use super::place::{May, ParentUse};
use crate::connector::template::Template;
use crate::yaml::{Entry, Node, Position, Value};

/// Headers that the engine writes; a connector that set them would break framing or credentials.
const OWNED_HEADERS: [&str; 7] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "authorization",
    "proxy-authorization",
    "cookie",
];

impl Lower<'_> {
    /// The path after the base URL.
    pub(super) fn path(
        &mut self,
        node: &Node,
        may: May,
        parents: &mut Vec<ParentUse>,
    ) -> Option<Template> {
        let may = May { path: true, ..may };
        let template = self.template(node, "`path`", may, parents)?;
        let text = template.as_str();
        if !text.is_empty() && !text.starts_with('/') && !text.starts_with("{{") {
            self.reader.findings.error(
                node.at,
                "`path` must start with `/`",
                "it follows `base_url`; another host is another `base_url`".to_owned(),
            );
            return None;
        }
        if let Some(mark) = outside_templates(text).find(['?', '#']) {
            let mark = &outside_templates(text)[mark..=mark];
            self.reader.findings.error(
                node.at,
                format!("`path` contains `{mark}`"),
                "say parameters in `params`".to_owned(),
            );
            return None;
        }
        Some(template)
    }

    /// Query parameters: a list as value repeats the parameter.
    pub(super) fn params(
        &mut self,
        entries: &[&Entry],
        may: May,
        parents: &mut Vec<ParentUse>,
    ) -> Vec<(String, Template)> {
        let mut params = Vec::new();
        for entry in entries {
            let what = format!("parameter `{}`", entry.key);
            for (at, text) in self.reader.texts(&entry.node, &what) {
                let Some(value) = self.template_text(at, text, &what, may, parents) else {
                    continue;
                };
                if self.uses_secret(&value) {
                    self.reader.findings.warning(
                        at,
                        format!("{what} carries a secret"),
                        "say it as `auth: {api_key: {query: …, value: …}}`".to_owned(),
                    );
                }
                params.push((entry.key.clone(), value));
            }
        }
        params
    }

    /// Headers, without those that the engine owns.
    pub(super) fn headers(
        &mut self,
        entries: &[&Entry],
        may: May,
        parents: &mut Vec<ParentUse>,
    ) -> Vec<(String, Template)> {
        let mut headers = Vec::new();
        for entry in entries {
            let Some(name) = self.header_name(entry.at, &entry.key) else {
                continue;
            };
            if OWNED_HEADERS.contains(&name.as_str()) {
                self.reader.findings.error(
                    entry.at,
                    format!("header `{}` cannot be set here", entry.key),
                    "credentials are said in `auth`; the rest is the engine's".to_owned(),
                );
                continue;
            }
            let what = format!("header `{}`", entry.key);
            if let Some(value) = self.template(&entry.node, &what, may, parents) {
                if value.as_str().contains(['\r', '\n']) {
                    self.reader.findings.error(
                        entry.node.at,
                        format!("{what} has a line break"),
                        None,
                    );
                }
                headers.push((entry.key.clone(), value));
            }
        }
        headers
    }

    /// The header's name, checked.
    pub(super) fn header_name(&mut self, at: Position, name: &str) -> Option<HeaderName> {
        let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
        if parsed.is_none() {
            self.reader
                .findings
                .error(at, format!("`{name}` is not a header's name"), None);
        }
        parsed
    }

    /// The body of a POST: a tree becomes JSON, a text is JSON as it is.
    pub(super) fn body(
        &mut self,
        node: &Node,
        may: May,
        parents: &mut Vec<ParentUse>,
    ) -> Option<Template> {
        if matches!(node.value, Value::Scalar { .. }) {
            return self.template(node, "`body`", may, parents);
        }
        let mut text = String::new();
        self.json(node, may, parents, &mut text)?;
        Template::parse(text).ok()
    }

    fn json(
        &mut self,
        node: &Node,
        may: May,
        parents: &mut Vec<ParentUse>,
        out: &mut String,
    ) -> Option<()> {
        match &node.value {
            Value::Null => out.push_str("null"),
            Value::Scalar { text, plain } if *plain && is_json_literal(text) => out.push_str(text),
            Value::Scalar { text, .. } => {
                let value = self.template_text(node.at, text, "`body`", may, parents)?;
                if value.names().is_empty() && !value.as_str().contains("{%") {
                    out.push_str(&serde_json::to_string(value.as_str()).ok()?);
                } else {
                    out.push_str("{% set text %}");
                    out.push_str(value.as_str());
                    out.push_str("{% endset %}{{ text | tojson }}");
                }
            }
            Value::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    self.json(item, may, parents, out)?;
                }
                out.push(']');
            }
            Value::Map(_) => {
                let entries = self.reader.entries(node, "`body`")?;
                out.push('{');
                for (i, entry) in entries.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    out.push_str(&serde_json::to_string(&entry.key).ok()?);
                    // The space keeps `{` of a key's map from meeting another brace.
                    out.push_str(": ");
                    self.json(&entry.node, may, parents, out)?;
                }
                out.push('}');
            }
        }
        Some(())
    }
}

/// Whether a plain scalar is a JSON number or boolean, so that a body carries it as one.
fn is_json_literal(text: &str) -> bool {
    matches!(text, "true" | "false")
        || (text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
            && serde_json::from_str::<serde_json::Number>(text).is_ok())
}

/// The text without its `{{ … }}`.
fn outside_templates(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        plain.push_str(before);
        rest = after.split_once("}}").map_or("", |(_, rest)| rest);
    }
    plain.push_str(rest);
    plain
}
