//! What a caller asks for.

use jiff::Timestamp;
use serde::Deserialize;

use crate::app::RunOptions;
use crate::error::{Error, Result};

/// The body of `POST /run`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    source: String,
    #[serde(default)]
    streams: Vec<String>,
    since: Option<String>,
    until: Option<String>,
    #[serde(default)]
    full_refresh: bool,
    #[serde(default)]
    dry_run: bool,
}

/// Reads the body of `POST /run`, whatever its content type: schedulers say `octet-stream`.
///
/// # Errors
/// [`crate::error::ErrorKind::Config`] saying what is wrong with it.
pub(super) fn read(body: &[u8]) -> Result<RunOptions> {
    let bad = |what: String| {
        Error::config(what).hint(
            r#"send JSON such as {"source": "acme", "streams": ["tickets"], "since": "2026-01-01"}; all but `source` may be left out"#,
        )
    };
    let asked: Asked = serde_json::from_slice(body).map_err(|e| match e.classify() {
        // What it quotes is a name of the body, never a value.
        serde_json::error::Category::Data => bad(format!("the body does not say what to run: {e}")),
        _ => bad("the body is no JSON".to_owned()),
    })?;
    let moment = |what: &str, text: Option<String>| -> Result<Option<Timestamp>> {
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
    };
    let (since, until) = (moment("since", asked.since)?, moment("until", asked.until)?);
    if let (Some(since), Some(until)) = (since, until)
        && since >= until
    {
        return Err(bad("`since` must lie before `until`".to_owned()));
    }
    Ok(RunOptions {
        source: asked.source,
        streams: asked.streams,
        since,
        until,
        full_refresh: asked.full_refresh,
        dry_run: asked.dry_run,
        ..RunOptions::default()
    })
}
