//! What a caller asks for.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::trigger::Trigger;
use crate::app::RunOptions;
use crate::error::{Error, ErrorKind, Result};

/// Largest text that says what to run, which fits a line.
const LARGEST_WISH: usize = 64 << 10;

/// What is run for those who do not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Source.
    pub source: Option<String>,
    /// Streams of it; all when empty.
    pub streams: Vec<String>,
}

/// What may be asked, as the body of `POST /run` or the data of an event says it.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    source: Option<String>,
    #[serde(default)]
    streams: Vec<String>,
    since: Option<String>,
    until: Option<String>,
    #[serde(default)]
    full_refresh: bool,
    #[serde(default)]
    dry_run: bool,
}

/// What a caller asks for.
#[derive(Debug)]
pub(super) struct Wish {
    options: RunOptions,
    /// The same as text: two that differ are not the same wish.
    text: Vec<u8>,
}

impl Wish {
    /// What to run, and for what.
    pub fn because_of(self, trigger: Option<&Trigger>) -> RunOptions {
        RunOptions {
            trigger: trigger.map(|t| t.id(&self.text)),
            ..self.options
        }
    }
}

/// Its fields.
pub(super) const FIELDS: [&str; 6] = [
    "source",
    "streams",
    "since",
    "until",
    "full_refresh",
    "dry_run",
];

/// Reads the body of a request, whatever its content type: schedulers say `octet-stream`. Nothing at all
/// is a wish for what is run by default.
///
/// # Errors
/// [`crate::error::ErrorKind::Config`] saying what is wrong with it.
pub(super) fn read(body: &[u8], defaults: &Defaults) -> Result<Wish> {
    if body.trim_ascii().is_empty() && defaults.source.is_some() {
        return Asked::default().resolve(defaults);
    }
    Asked::parse(body)?.resolve(defaults)
}

/// What an event asks for: what its data says, else its attributes, else what is run by default. Data
/// that has none of [`FIELDS`] is about something else, and the event only a sign that there is work.
///
/// # Errors
/// As [`read`]'s; and where nothing says what to run.
pub(super) fn of_event(
    data: &[u8],
    attributes: &BTreeMap<String, String>,
    defaults: &Defaults,
) -> Result<Wish> {
    let fields: BTreeMap<String, IgnoredAny> = serde_json::from_slice(data).unwrap_or_default();
    if FIELDS.iter().any(|field| fields.contains_key(*field)) {
        return Asked::parse(data)?.resolve(defaults);
    }
    if FIELDS.iter().any(|field| attributes.contains_key(*field)) {
        return Asked::of_attributes(attributes)?.resolve(defaults);
    }
    if defaults.source.is_none() {
        return Err(Error::config("the event does not say what to run").hint(
            r#"put JSON such as {"source": "acme"} into its data or `source` into its attributes, or start the service with `--source acme`, which is run for every event that says nothing"#,
        ));
    }
    Asked::default().resolve(defaults)
}

fn bad(what: String) -> Error {
    Error::config(what).hint(
        r#"send JSON such as {"source": "acme", "streams": ["tickets"], "since": "2026-01-01"}; all but `source` may be left out"#,
    )
}

impl Asked {
    fn parse(text: &[u8]) -> Result<Self> {
        if text.len() > LARGEST_WISH {
            return Err(bad(format!(
                "what to run is said in {} bytes; {LARGEST_WISH} must do",
                text.len()
            )));
        }
        // Serde would take its values for the fields, in their order.
        if text.trim_ascii_start().starts_with(b"[") {
            return Err(bad("the body is a list and no object".to_owned()));
        }
        serde_json::from_slice(text).map_err(|e| match e.classify() {
            // What it quotes is a name of the body, never a value.
            serde_json::error::Category::Data => {
                bad(format!("the body does not say what to run: {e}"))
            }
            _ => bad("the body is no JSON".to_owned()),
        })
    }

    fn of_attributes(attributes: &BTreeMap<String, String>) -> Result<Self> {
        let text = |name: &str| attributes.get(name).cloned();
        let flag = |name: &str| match attributes.get(name).map(String::as_str) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(bad(format!(
                "the attribute `{name}` is neither `true` nor `false`"
            ))),
        };
        let streams = attributes.get("streams").map_or("", String::as_str);
        let streams = streams.split(',').map(str::trim).filter(|s| !s.is_empty());
        Ok(Self {
            source: text("source"),
            streams: streams.map(str::to_owned).collect(),
            since: text("since"),
            until: text("until"),
            full_refresh: flag("full_refresh")?,
            dry_run: flag("dry_run")?,
        })
    }

    fn resolve(mut self, defaults: &Defaults) -> Result<Wish> {
        let source = match (&self.source, &defaults.source) {
            (Some(named), _) => named.clone(),
            (None, Some(default)) => {
                if self.streams.is_empty() {
                    self.streams.clone_from(&defaults.streams);
                }
                default.clone()
            }
            (None, None) => {
                return Err(bad(
                    "the body does not say what to run: missing field `source`".to_owned(),
                ));
            }
        };
        self.source = Some(source.clone());
        let (since, until) = (
            moment("since", self.since.as_deref())?,
            moment("until", self.until.as_deref())?,
        );
        if let (Some(since), Some(until)) = (since, until)
            && since >= until
        {
            return Err(bad("`since` must lie before `until`".to_owned()));
        }
        let text = serde_json::to_vec(&self).map_err(|e| {
            Error::new(ErrorKind::Bug, "could not write down what was asked").source(e)
        })?;
        let options = RunOptions {
            source,
            streams: self.streams,
            since,
            until,
            full_refresh: self.full_refresh,
            dry_run: self.dry_run,
            ..RunOptions::default()
        };
        Ok(Wish { options, text })
    }
}

fn moment(what: &str, text: Option<&str>) -> Result<Option<Timestamp>> {
    text.map(|t| {
        t.parse()
            .or_else(|_| format!("{t}T00:00:00Z").parse())
            .map_err(|_| {
                bad(format!(
                    "`{what}` is no date like 2026-01-31 and no time like 2026-01-31T12:00:00Z"
                ))
            })
    })
    .transpose()
}
