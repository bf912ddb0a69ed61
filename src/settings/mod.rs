//! `drawoff.yaml`: which account, which secrets, which destination. Flags come before environment
//! variables, those before the file, that before the connector's defaults. No file is needed: a
//! source that is not in it is the connector of that name.

mod bigquery;
mod source;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use crate::config::{self, Environment};
use crate::connector::load::Catalog;
use crate::error::{Error, Result, nearest};
use crate::state::DEFAULT_LENGTH;
use crate::yaml::finding::Findings;
use crate::yaml::read::{parse_bytes, parse_duration};
use crate::yaml::{self, Position, Reader};

pub use bigquery::BigQueryOptions;
use source::SourceEntry;
pub use source::{SourceConfig, SourceSecrets, Values};

/// The settings file's name in the working directory.
pub const FILE: &str = "drawoff.yaml";

/// Memory for batches in flight when nobody says otherwise, in bytes.
pub const DEFAULT_MEMORY: u64 = 64 << 20;

/// Rows of a slice when nobody says otherwise.
pub const DEFAULT_SLICE_ROWS: u64 = 250_000;

/// A shorter lease would be renewed all the time.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// Less than this cannot hold a page and the batch made of it.
const LEAST_MEMORY: u64 = 4 << 20;

/// What the command line says; `None` where it says nothing.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--connectors`.
    pub connectors: Option<PathBuf>,
    /// `--project`.
    pub project: Option<String>,
    /// `--destination`.
    pub destination: Option<String>,
    /// `--memory`, as typed: `64MiB`.
    pub memory: Option<String>,
    /// Each `--set`, as typed: `key=value`.
    pub set: Vec<String>,
    /// `--base-url`.
    pub base_url: Option<Url>,
    /// `--impersonate-service-account`.
    pub impersonate: Option<String>,
    /// A mistake in the file that is one source's is left to [`Settings::source`], so that the others can
    /// be run.
    pub source_by_source: bool,
}

/// What is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Google Cloud project of secrets that no reference is given for.
    pub project: Option<String>,
    /// Where rows land, as written, unless a source says otherwise.
    pub destination: Option<String>,
    /// Whether flag or environment said [`Self::destination`]: then it is every source's.
    destination_forced: bool,
    /// Most memory for batches in flight, in bytes.
    pub memory: u64,
    /// Rows after which a slice is published as soon as the checkpoint can say what is done.
    pub slice_rows: u64,
    /// How long a run's lease on its source holds without being renewed.
    pub lease: Duration,
    /// How BigQuery is used by the environment's word, which goes first…
    bigquery_forced: BigQueryOptions,
    /// …and by the file's, unless a source says otherwise.
    bigquery: BigQueryOptions,
    /// The settings file that was read.
    pub file: Option<PathBuf>,
    /// The connectors that can be named.
    pub catalog: Catalog,
    sources: Vec<SourceEntry>,
    set: Vec<(String, String)>,
    base_url: Option<Url>,
    /// Service account to act as, accounts on the way to it before it, with commas.
    pub impersonate: Option<String>,
    environment: Environment,
}

impl Settings {
    /// Reads the settings of this process.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`]: everything that is wrong with the file, each with file,
    /// line and column, or with a flag or variable, by its name.
    pub fn load(overrides: Overrides) -> Result<Self> {
        Self::read(overrides, Environment::process(), Path::new(""))
    }

    /// [`Self::load`] with that environment, in that working directory.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn read(overrides: Overrides, environment: Environment, folder: &Path) -> Result<Self> {
        let file = find_file(overrides.config.as_deref(), &environment, folder)?;
        let written = match &file {
            Some(file) => read_file(file, overrides.source_by_source)?,
            None => File::default(),
        };
        let memory = match (overrides.memory, environment.get(config::MEMORY)) {
            (Some(text), _) => memory(&text, "`--memory`")?,
            (None, Some(text)) => memory(&text, &format!("`{}`", config::MEMORY))?,
            (None, None) => written.memory.unwrap_or(DEFAULT_MEMORY),
        };
        let slice_rows = match environment.get(config::SLICE_ROWS) {
            None => DEFAULT_SLICE_ROWS,
            Some(text) => text.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
                Error::config(format!("`{}` is no number of rows", config::SLICE_ROWS))
                    .hint("write a whole number above zero, such as 250000")
            })?,
        };
        let lease = match environment.get(config::LEASE) {
            None => DEFAULT_LENGTH,
            Some(text) => parse_duration(&text)
                .filter(|length| *length >= SHORTEST_LEASE)
                .ok_or_else(|| {
                    Error::config(format!(
                        "`{}` is no span of time of at least a second",
                        config::LEASE
                    ))
                    .hint("write a number and a unit, such as 3m")
                })?,
        };
        let forced = overrides
            .destination
            .or_else(|| environment.get(config::DESTINATION));
        Ok(Self {
            project: overrides
                .project
                .or_else(|| environment.get(config::PROJECT))
                .or(written.project)
                .or_else(|| environment.get(config::GOOGLE_CLOUD_PROJECT)),
            destination_forced: forced.is_some(),
            destination: forced.or(written.destination),
            memory,
            slice_rows,
            lease,
            bigquery_forced: BigQueryOptions::of(&environment)?,
            bigquery: written.bigquery,
            catalog: Catalog::new(
                overrides
                    .connectors
                    .or_else(|| environment.get(config::CONNECTORS).map(PathBuf::from)),
            ),
            sources: written.sources,
            set: overrides
                .set
                .iter()
                .map(|text| split_set(text))
                .collect::<Result<_>>()?,
            base_url: overrides.base_url,
            impersonate: overrides.impersonate,
            file,
            environment,
        })
    }

    /// Names of the sources in the file, in its order.
    pub fn source_names(&self) -> Vec<&str> {
        self.sources.iter().map(|s| s.name.as_str()).collect()
    }

    /// The source of that name: as the file has it, else the connector of that name with defaults.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`]: no such source or connector (lists the known ones), a
    /// connector with mistakes, config keys that are missing (all of them), unknown or not theirs.
    pub fn source(&self, name: &str) -> Result<SourceConfig> {
        source::build(self, &*self.entry(name)?)
    }

    /// What to do where there is no source to run.
    pub fn no_sources(&self) -> Error {
        let file = match &self.file {
            Some(file) => format!("`{}` has none under `sources`", file.display()),
            None => format!("there is no `{FILE}` here"),
        };
        Error::config(format!("no sources are configured: {file}")).hint(format!(
            "write them into `{FILE}` under `sources`, say with `--config` where it is, or name a connector: `drawoff --source demo`"
        ))
    }

    /// The secrets of the source of that name, though its plain config keys may still be missing.
    ///
    /// # Errors
    /// As [`Self::source`], but for missing keys.
    pub fn source_secrets(&self, name: &str) -> Result<SourceSecrets> {
        source::secrets(self, &*self.entry(name)?)
    }

    fn entry(&self, name: &str) -> Result<Cow<'_, SourceEntry>> {
        if let Some(entry) = self.sources.iter().find(|s| s.name == name) {
            return match entry.wrong.clone().and_then(Findings::into_error) {
                Some(error) => Err(error),
                None => Ok(Cow::Borrowed(entry)),
            };
        }
        let connectors = self.catalog.names()?;
        if !connectors.iter().any(|c| c == name) {
            return Err(self.unknown_source(name, &connectors));
        }
        Ok(Cow::Owned(SourceEntry::named(name)))
    }

    fn unknown_source(&self, name: &str, connectors: &[String]) -> Error {
        let mut known = self.source_names();
        known.extend(connectors.iter().map(String::as_str));
        known.dedup();
        let hint = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!(
                "write it into `{FILE}` under `sources`, or name a connector: `{}`",
                connectors.join("`, `")
            ),
        };
        let file = match &self.file {
            Some(file) => format!("`{}` has none of that name", file.display()),
            None => format!("there is no `{FILE}` here"),
        };
        Error::config(format!(
            "there is no source `{name}`: {file}, and no connector is called so"
        ))
        .hint(hint)
    }
}

/// What the settings file says.
#[derive(Default)]
struct File {
    project: Option<String>,
    destination: Option<String>,
    memory: Option<u64>,
    bigquery: BigQueryOptions,
    sources: Vec<SourceEntry>,
}

fn find_file(
    flag: Option<&Path>,
    environment: &Environment,
    folder: &Path,
) -> Result<Option<PathBuf>> {
    let named = match flag {
        Some(path) => Some((path.to_path_buf(), "`--config`".to_owned())),
        None => environment
            .get(config::CONFIG)
            .map(|path| (PathBuf::from(path), format!("`{}`", config::CONFIG))),
    };
    if let Some((path, by)) = named {
        let path = folder.join(path);
        if !path.is_file() {
            return Err(Error::config(format!(
                "settings file `{}`, named by {by}, does not exist",
                path.display()
            )));
        }
        return Ok(Some(path));
    }
    let path = folder.join(FILE);
    Ok(path.is_file().then_some(path))
}

fn read_file(path: &Path, source_by_source: bool) -> Result<File> {
    let label = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::config(format!("could not read `{label}`: {e}")))?;
    let mut reader = Reader::new(label.clone());
    let mut file = match yaml::parse(&text) {
        Ok(tree) if tree.is_null() => Some(File::default()),
        Ok(tree) => file(&mut reader, &tree, path, &label),
        Err((at, message)) => {
            reader.findings.error(at, message, None);
            None
        }
    };
    if !source_by_source {
        let wrong = file.iter_mut().flat_map(|f| &mut f.sources);
        for findings in wrong.filter_map(|source| source.wrong.take()) {
            reader.findings.extend(findings);
        }
    }
    match (reader.findings.into_error(), file) {
        (Some(error), _) => Err(error),
        (None, file) => Ok(file.unwrap_or_default()),
    }
}

fn file(reader: &mut Reader, tree: &yaml::Node, path: &Path, label: &str) -> Option<File> {
    let known = ["project", "destination", "memory", "bigquery", "sources"];
    let fields = reader.fields(tree, "the settings", &known)?;
    let text = |reader: &mut Reader, key: &str| {
        let node = fields.get(key)?;
        Some(reader.text(node, &format!("`{key}`"))?.to_owned())
    };
    let memory = fields.get("memory").and_then(|node| {
        let bytes = node.as_text().and_then(parse_bytes);
        if bytes.is_none_or(|bytes| bytes < LEAST_MEMORY) {
            bad_memory(reader, node.at);
        }
        bytes
    });
    let entries = fields
        .get("sources")
        .and_then(|node| reader.entries(node, "`sources`"))
        .unwrap_or_default();
    let mut sources = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        // What is wrong with one source need not keep the others from running.
        let mut own = Reader::new(label);
        let source = SourceEntry::read(&mut own, entry, path);
        let variable = |name: &str| config::source_variable(name, "");
        let same = |other: &&yaml::Entry| {
            other.key != entry.key && variable(&other.key) == variable(&entry.key)
        };
        if let Some(other) = entries[..i].iter().find(same) {
            own.findings.error(
                entry.at,
                format!(
                    "sources `{}` and `{}` would share the environment variables `{}…`",
                    other.key,
                    entry.key,
                    variable(&entry.key)
                ),
                "give one of them another name".to_owned(),
            );
        }
        let mut source = source.unwrap_or_else(|| SourceEntry::named(&entry.key));
        source.wrong = own.findings.failed().then_some(own.findings);
        sources.push(source);
    }
    Some(File {
        project: text(reader, "project"),
        destination: text(reader, "destination"),
        memory,
        bigquery: fields
            .get("bigquery")
            .map(|node| BigQueryOptions::read(reader, node))
            .unwrap_or_default(),
        sources,
    })
}

fn bad_memory(reader: &mut Reader, at: Position) {
    reader.findings.error(
        at,
        "`memory` must be a size of at least 4MiB",
        "write a whole number and a unit: `64MiB`".to_owned(),
    );
}

fn memory(text: &str, by: &str) -> Result<u64> {
    parse_bytes(text)
        .filter(|bytes| *bytes >= LEAST_MEMORY)
        .ok_or_else(|| {
            Error::config(format!("{by} must be a size of at least 4MiB"))
                .hint("write a whole number and a unit: `64MiB`")
        })
}

fn split_set(text: &str) -> Result<(String, String)> {
    // The text may hold a secret in the wrong place: never quote it.
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| {
            Error::config("`--set` takes a config key and its value")
                .hint("write `--set start_date=2026-01-01`")
        })
}
