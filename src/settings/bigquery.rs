//! How BigQuery is used: where, in whose name, and how much of it at most.

use crate::config::{self, Environment};
use crate::error::{Error, Result};
use crate::yaml::read::parse_bytes;
use crate::yaml::{Node, Reader};

/// What is said about BigQuery; `None` where nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BigQueryOptions {
    /// Location of a dataset that has to be made.
    pub location: Option<String>,
    /// Project in which jobs run and are paid for.
    pub job_project: Option<String>,
    /// Most bytes that one job may bill.
    pub maximum_bytes_billed: Option<u64>,
    /// Largest Storage Write request, in bytes.
    pub request_bytes: Option<u64>,
}

const KEYS: [&str; 4] = [
    "location",
    "job_project",
    "maximum_bytes_billed",
    "request_bytes",
];

/// Sizes of a request that BigQuery takes: rows of some size must fit, and 20 MB is its limit.
const REQUEST_BYTES: std::ops::RangeInclusive<u64> = (1 << 20)..=(19 << 20);

impl BigQueryOptions {
    /// `bigquery:` of the settings file, or of a source in it.
    pub(super) fn read(reader: &mut Reader, node: &Node) -> Self {
        let Some(fields) = reader.fields(node, "`bigquery`", &KEYS) else {
            return Self::default();
        };
        let text = |reader: &mut Reader, key: &str| {
            let node = fields.get(key)?;
            let text = reader.text(node, &format!("`{key}`"))?.to_owned();
            if let Err(why) = word(&text) {
                reader
                    .findings
                    .error(node.at, format!("`{key}` {why}"), None);
            }
            Some(text)
        };
        let size = |reader: &mut Reader, key: &str, good: fn(u64) -> Result<(), &'static str>| {
            let node = fields.get(key)?;
            match node.as_text().and_then(parse_bytes).map(|n| (n, good(n))) {
                Some((n, Ok(()))) => Some(n),
                bad => {
                    let why = bad.and_then(|(_, good)| good.err()).unwrap_or(NO_SIZE);
                    let hint = "write a whole number and a unit: `10GiB`".to_owned();
                    reader
                        .findings
                        .error(node.at, format!("`{key}` {why}"), hint);
                    None
                }
            }
        };
        Self {
            location: text(reader, KEYS[0]),
            job_project: text(reader, KEYS[1]),
            maximum_bytes_billed: size(reader, KEYS[2], positive),
            request_bytes: size(reader, KEYS[3], request),
        }
    }

    /// What the environment says.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`] naming the variable.
    pub(super) fn of(environment: &Environment) -> Result<Self> {
        let bad = |name: &str, why: &str| Error::config(format!("`{name}` {why}"));
        let text = |name: &str| {
            let Some(text) = environment.get(name) else {
                return Ok(None);
            };
            word(&text).map_err(|why| bad(name, why))?;
            Ok(Some(text))
        };
        let size = |name: &str, good: fn(u64) -> Result<(), &'static str>| {
            let Some(text) = environment.get(name) else {
                return Ok(None);
            };
            let checked = match parse_bytes(&text) {
                None => Err(NO_SIZE),
                Some(bytes) => good(bytes).map(|()| Some(bytes)),
            };
            checked.map_err(|why| {
                bad(name, why).hint("write a whole number and a unit, such as 10GiB")
            })
        };
        Ok(Self {
            location: text(config::BIGQUERY_LOCATION)?,
            job_project: text(config::BIGQUERY_JOB_PROJECT)?,
            maximum_bytes_billed: size(config::BIGQUERY_MAXIMUM_BYTES_BILLED, positive)?,
            request_bytes: size(config::BIGQUERY_REQUEST_BYTES, request)?,
        })
    }

    /// These, and where they say nothing, those.
    pub(super) fn or(self, other: &Self) -> Self {
        Self {
            location: self.location.or_else(|| other.location.clone()),
            job_project: self.job_project.or_else(|| other.job_project.clone()),
            maximum_bytes_billed: self.maximum_bytes_billed.or(other.maximum_bytes_billed),
            request_bytes: self.request_bytes.or(other.request_bytes),
        }
    }
}

const NO_SIZE: &str = "is no size";

/// The name of a location or a project.
fn word(text: &str) -> Result<(), &'static str> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_');
    match !text.is_empty() && text.chars().all(good) {
        true => Ok(()),
        false => Err("may have letters, digits, `-`, `.`, `:` and `_` only"),
    }
}

fn positive(bytes: u64) -> Result<(), &'static str> {
    match bytes {
        0 => Err("must be above zero"),
        _ => Ok(()),
    }
}

fn request(bytes: u64) -> Result<(), &'static str> {
    match REQUEST_BYTES.contains(&bytes) {
        true => Ok(()),
        false => Err("must be between 1MiB and 19MiB"),
    }
}
