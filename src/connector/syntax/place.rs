//! Text that becomes a template: parents named in single braces, and which names may stand where.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Lower;
use crate::connector::template::{ConfigValue, Scope, Template};
use crate::error::nearest;
use crate::yaml::{Node, Position};

/// Which names a template may use beside `config`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct May {
    /// `{stream.field}`.
    pub parent: bool,
    /// `since` and `until`.
    pub bounds: bool,
    /// Encode parents' values for a path.
    pub path: bool,
}

impl May {
    /// `config` only.
    pub const CONFIG: Self = Self {
        parent: false,
        bounds: false,
        path: false,
    };
}

/// A parent's field, named in single braces.
#[derive(Clone, Debug)]
pub(super) struct ParentUse {
    pub at: Position,
    pub stream: String,
    pub field: String,
}

impl Lower<'_> {
    /// The template in a scalar, its parents added to `parents`.
    pub(super) fn template(
        &mut self,
        node: &Node,
        what: &str,
        may: May,
        parents: &mut Vec<ParentUse>,
    ) -> Option<Template> {
        let text = self.reader.text(node, what)?;
        self.template_text(node.at, text, what, may, parents)
    }

    /// [`Self::template`] of text that stands at `at`.
    pub(super) fn template_text(
        &mut self,
        at: Position,
        text: &str,
        what: &str,
        may: May,
        parents: &mut Vec<ParentUse>,
    ) -> Option<Template> {
        let text = self.braces(at, text, what, may, parents);
        let template = match Template::parse(text) {
            Ok(template) => template,
            Err(e) => {
                self.reader
                    .findings
                    .error(at, format!("{what}: {}", e.chain()), None);
                return None;
            }
        };
        self.names(at, &template, what, may);
        Some(template)
    }

    /// Turns `{stream.field}` into what the engine fills in; leaves `{{ … }}` and other braces.
    fn braces(
        &mut self,
        at: Position,
        text: &str,
        what: &str,
        may: May,
        parents: &mut Vec<ParentUse>,
    ) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            out.push_str(&rest[..open]);
            rest = &rest[open..];
            let close = match rest.as_bytes().get(1) {
                Some(b'{') => Some("}}"),
                Some(b'%') => Some("%}"),
                Some(b'#') => Some("#}"),
                _ => None,
            };
            if let Some(close) = close {
                let end = rest.find(close).map_or(rest.len(), |i| i + close.len());
                out.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            let inner = rest.find('}').map(|end| &rest[1..end]);
            let named = inner.filter(|name| {
                !name.is_empty()
                    && name
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
            });
            let Some(name) = named else {
                out.push('{');
                rest = &rest[1..];
                if may.path {
                    self.reader.findings.error(
                        at,
                        format!("{what} has a brace that names nothing"),
                        "name a parent's field as `{stream.field}`, a config key as `{{ config.key }}`"
                            .to_owned(),
                    );
                }
                continue;
            };
            rest = &rest[name.len() + 2..];
            match name.split_once('.') {
                Some((stream, field)) if may.parent && !stream.is_empty() && !field.is_empty() => {
                    parents.push(ParentUse {
                        at,
                        stream: stream.to_owned(),
                        field: field.to_owned(),
                    });
                    let filter = if may.path { " | segment" } else { "" };
                    out.push_str(&format!("{{{{ parent[\"{field}\"]{filter} }}}}"));
                }
                Some(_) if !may.parent => self.reader.findings.error(
                    at,
                    format!("{what} cannot name a parent's field, as `{{{name}}}` does"),
                    None,
                ),
                _ => self.reader.findings.error(
                    at,
                    format!("`{{{name}}}` in {what} names no stream's field"),
                    format!(
                        "name a parent's field as `{{stream.{name}}}`, a config key as `{{{{ config.{name} }}}}`"
                    ),
                ),
            }
        }
        out.push_str(rest);
        out
    }

    /// Reports names that are not there, and functions that do not exist.
    fn names(&mut self, at: Position, template: &Template, what: &str, may: May) {
        let mut good = true;
        for name in template.names() {
            let known = match name.as_str() {
                "since" | "until" => may.bounds,
                name if name == "parent" || name.starts_with("parent.") => may.parent,
                name => match name.strip_prefix("config.") {
                    Some(key) => self.config.iter().any(|k| k.name == key),
                    None => false,
                },
            };
            if known {
                continue;
            }
            good = false;
            let (message, hint) = match name.as_str() {
                "config" => (
                    format!("{what} names `config` as a whole"),
                    "name one key: `{{ config.key }}`".to_owned(),
                ),
                "since" | "until" => (
                    format!("`{name}` is not known in {what}"),
                    "it is known in the request of a stream with `incremental`".to_owned(),
                ),
                name if name == "parent" || name.starts_with("parent.") => (
                    format!("`parent` is not known in {what}"),
                    "name a parent's field as `{stream.field}` in a path, parameter, header or added column".to_owned(),
                ),
                name => match name.strip_prefix("config.") {
                    Some(key) => (
                        format!("{what} names the config key `{key}`, which is not declared"),
                        match nearest(key, self.config.iter().map(|k| k.name.as_str())) {
                            Some(near) => format!("did you mean `{near}`?"),
                            None => format!("declare it: `config: {{{key}: {{description: …}}}}`"),
                        },
                    ),
                    None => (
                        format!("{what} names `{name}`, which is not known"),
                        "known are `config.KEY`, `since` and `until`".to_owned(),
                    ),
                },
            };
            self.reader.findings.error(at, message, hint);
        }
        // With a name missing, rendering would stop there and not reach the functions.
        if good && let Some(why) = template.unknown_function(&self.example_scope(template)) {
            self.reader.findings.error(
                at,
                format!("{what}: {why}"),
                "beside minijinja's own there are `segment`, `base64`, `before(mark)` and `after(mark)`"
                    .to_owned(),
            );
        }
    }

    /// A scope with a value for every name, to try a template on.
    fn example_scope(&self, template: &Template) -> Scope {
        let value = "2026-01-02T03:04:05Z".to_owned();
        let parent = template
            .as_str()
            .split("parent[\"")
            .skip(1)
            .filter_map(|rest| rest.split_once('"'))
            .map(|(field, _)| (field.to_owned(), value.clone()))
            .collect();
        Scope {
            config: Arc::new(
                self.config
                    .iter()
                    .map(|k| (k.name.clone(), ConfigValue::Plain(value.clone())))
                    .collect::<BTreeMap<_, _>>(),
            ),
            parent: Some(parent),
            since: Some(value.clone()),
            until: Some(value),
        }
    }

    /// Whether the template fills in a config key that is declared secret.
    pub(super) fn uses_secret(&self, template: &Template) -> bool {
        template
            .config_keys()
            .iter()
            .any(|key| self.config.iter().any(|k| k.secret && k.name == *key))
    }
}
