//! Templates: text with `{{ config.key }}`, `{{ parent["field"] }}`, `{{ since }}`, `{{ until }}`,
//! minijinja's own filters and `segment`, `base64`, `before(mark)`, `after(mark)`. Undefined names are errors, and a result is always text: nothing
//! re-parses it.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::LazyLock;

use base64::Engine as _;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use secrecy::{ExposeSecret, SecretString};

use crate::error::{Error, Result};

/// Text to be filled in; checked when made.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    /// Without any `{{` or `{%`: rendering is a copy.
    plain: bool,
}

/// A configured value.
#[derive(Clone, Debug)]
pub enum ConfigValue {
    /// May be shown.
    Plain(String),
    /// May not.
    Secret(SecretString),
}

/// What a template can name.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// `config.*`.
    pub config: std::sync::Arc<BTreeMap<String, ConfigValue>>,
    /// `parent[...]`, in a child stream.
    pub parent: Option<BTreeMap<String, String>>,
    /// `since`, in an incremental stream.
    pub since: Option<String>,
    /// `until`, in an incremental stream.
    pub until: Option<String>,
}

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.add_filter("segment", segment);
    env.add_filter("before", |text: String, mark: String| {
        halves(&text, &mark).map(|(before, _)| before)
    });
    env.add_filter("after", |text: String, mark: String| {
        halves(&text, &mark).map(|(_, after)| after)
    });
    env.add_filter("base64", |text: String| {
        base64::engine::general_purpose::STANDARD.encode(text)
    });
    env
});

impl Template {
    /// Checks the text.
    ///
    /// # Errors
    /// What is wrong with the template, without the text around it.
    pub fn parse(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        let plain = !text.contains("{{") && !text.contains("{%") && !text.contains("{#");
        if !plain {
            ENVIRONMENT.template_from_str(&text).map_err(|e| {
                Error::config(format!("the template is not valid: {}", describe(&e)))
            })?;
        }
        Ok(Self { text, plain })
    }

    /// The text as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The `config` keys that the template may use. Over-reports rather than under-reports.
    pub fn config_keys(&self) -> Vec<String> {
        self.names()
            .into_iter()
            .filter_map(|n| n.strip_prefix("config.").map(str::to_owned))
            .collect()
    }

    /// Names used and not set inside: `config.token`, `since`, `parent`.
    pub fn names(&self) -> Vec<String> {
        if self.plain {
            return Vec::new();
        }
        let mut names: Vec<String> = ENVIRONMENT
            .template_from_str(&self.text)
            .map(|t| t.undeclared_variables(true).into_iter().collect())
            .unwrap_or_default();
        names.sort();
        names
    }

    /// A filter, function or test that the template calls and that does not exist, as a clause.
    /// `scope` should have every name that the template uses.
    pub fn unknown_function(&self, scope: &Scope) -> Option<String> {
        use minijinja::ErrorKind::{UnknownFilter, UnknownFunction, UnknownMethod, UnknownTest};
        if self.plain {
            return None;
        }
        let error = ENVIRONMENT
            .render_str(&self.text, Self::context(scope))
            .err()?;
        matches!(
            error.kind(),
            UnknownFilter | UnknownFunction | UnknownMethod | UnknownTest
        )
        .then(|| describe(&error))
    }

    /// The text filled in.
    ///
    /// # Errors
    /// A name that the scope does not have, or a function that refuses its argument.
    pub fn render(&self, scope: &Scope) -> Result<String> {
        if self.plain {
            return Ok(self.text.clone());
        }
        ENVIRONMENT
            .render_str(&self.text, Self::context(scope))
            .map_err(|e| {
                Error::config(format!(
                    "could not fill in the template `{}`: {}",
                    self.text,
                    describe(&e)
                ))
            })
    }

    fn context(scope: &Scope) -> BTreeMap<&'static str, Value> {
        let config: BTreeMap<&str, Value> = scope
            .config
            .iter()
            .map(|(k, v)| {
                let v = match v {
                    ConfigValue::Plain(v) => v.as_str(),
                    ConfigValue::Secret(v) => v.expose_secret(),
                };
                (k.as_str(), Value::from(v))
            })
            .collect();
        let mut context = BTreeMap::from([("config", Value::from(config))]);
        if let Some(parent) = &scope.parent {
            context.insert(
                "parent",
                Value::from(
                    parent
                        .iter()
                        .map(|(k, v)| (k.as_str(), Value::from(v.as_str())))
                        .collect::<BTreeMap<_, _>>(),
                ),
            );
        }
        if let Some(since) = &scope.since {
            context.insert("since", Value::from(since.as_str()));
        }
        if let Some(until) = &scope.until {
            context.insert("until", Value::from(until.as_str()));
        }
        context
    }
}

/// Percent-encodes everything that could leave a path segment. A segment that is empty or made of
/// dots would name another endpoint, so it is refused.
fn segment(text: String) -> Result<String, minijinja::Error> {
    if matches!(text.as_str(), "" | "." | "..") {
        return Err(refused(
            "`segment` got an empty value or dots, which no path can hold",
        ));
    }
    Ok(url::form_urlencoded::byte_serialize(text.as_bytes())
        .collect::<String>()
        .replace('+', "%20"))
}

/// The text before and after the first `mark`.
fn halves(text: &str, mark: &str) -> Result<(String, String), minijinja::Error> {
    text.split_once(mark)
        .map(|(before, after)| (before.to_owned(), after.to_owned()))
        .ok_or_else(|| refused(&format!("the value has no `{mark}` to split it at")))
}

fn refused(why: &str) -> minijinja::Error {
    minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, why.to_owned())
}

/// The error's own words without its source excerpt.
fn describe(e: &minijinja::Error) -> String {
    match e.detail() {
        Some(detail) => format!("{}: {detail}", e.kind()),
        None => e.kind().to_string(),
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl Hash for Template {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope {
            config: std::sync::Arc::new(BTreeMap::from([
                ("id".to_owned(), ConfigValue::Plain("0042".to_owned())),
                (
                    "token".to_owned(),
                    ConfigValue::Secret("s3cr3t".to_owned().into()),
                ),
            ])),
            parent: Some(BTreeMap::from([(
                "owner.login".to_owned(),
                "a/b c".to_owned(),
            )])),
            since: Some("2026-01-01".to_owned()),
            until: None,
        }
    }

    #[test]
    fn renders_text_and_keeps_leading_zeros() {
        let t = Template::parse("{{ config.id }}:{{ config.token }}").unwrap();
        assert_eq!(t.render(&scope()).unwrap(), "0042:s3cr3t");
        assert_eq!(t.config_keys(), ["id", "token"]);
    }

    #[test]
    fn path_segments_are_encoded() {
        let t = Template::parse(r#"/r/{{ parent["owner.login"] | segment }}"#).unwrap();
        assert_eq!(t.render(&scope()).unwrap(), "/r/a%2Fb%20c");
        for bad in ["", ".", ".."] {
            let mut scope = scope();
            scope.parent = Some(BTreeMap::from([("owner.login".into(), bad.into())]));
            assert!(t.render(&scope).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn halves_at_the_first_mark_without_showing_the_value() {
        let t =
            Template::parse(r#"{{ "u:p:q" | before(":") }}|{{ "u:p:q" | after(":") }}"#).unwrap();
        assert_eq!(t.render(&scope()).unwrap(), "u|p:q");
        let t = Template::parse(r#"{{ config.token | after(":") }}"#).unwrap();
        let e = t.render(&scope()).unwrap_err().to_string();
        assert!(e.contains("no `:`") && !e.contains("s3cr3t"), "{e}");
    }

    #[test]
    fn unknown_functions_are_found_before_a_run() {
        let t = Template::parse("{{ config.id | shout }}").unwrap();
        assert!(t.unknown_function(&scope()).unwrap().contains("shout"));
        let t = Template::parse("{{ config.id | upper }}").unwrap();
        assert_eq!(t.unknown_function(&scope()), None);
    }

    #[test]
    fn unknown_names_are_errors_that_show_no_value() {
        let t = Template::parse("{{ config.nope }}{{ config.token }}").unwrap();
        let e = t.render(&scope()).unwrap_err().to_string();
        assert!(e.contains("undefined") && !e.contains("s3cr3t"), "{e}");
        assert!(Template::parse("{{ config.").is_err());
    }
}
