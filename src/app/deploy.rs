//! What a source needs of Google Cloud to run there: its secrets, its dataset, its settings. Reads the
//! configuration only; asks nobody.

use std::path::{Path, PathBuf};

use super::App;
use super::open::DEMO;
use crate::config::source_variable;
use crate::destination::bigquery::Target;
use crate::error::{Error, Result};
use crate::secrets::SecretRef;
use crate::secrets::resolve::SecretLookup;
use crate::settings::{FILE, SourceConfig};

/// What a source needs where it is deployed.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Name of the source.
    pub source: String,
    /// Project that everything is in, unless it is said otherwise.
    pub project: String,
    /// Where its rows land.
    pub target: Target,
    /// Location of the dataset, when it has to be made.
    pub location: Option<String>,
    /// Project in which BigQuery's jobs run.
    pub job_project: Option<String>,
    /// Its secrets, by key.
    pub secrets: Vec<KeptSecret>,
    /// Plain settings that only this machine's environment gives, as variables.
    pub variables: Vec<(String, String)>,
    /// Files and folders that it is configured by.
    pub files: Vec<Needed>,
}

/// A file or folder that the source is configured by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    /// Where it is here.
    pub here: PathBuf,
    /// Its name beside the settings file.
    pub there: PathBuf,
}

/// A secret of the source, in Secret Manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSecret {
    /// As the connector calls it.
    pub key: String,
    /// Project that it is in.
    pub project: String,
    /// Location of a regional one.
    pub location: Option<String>,
    /// Its id there.
    pub secret: String,
    /// The source can do without it.
    pub optional: bool,
    /// How new values come.
    pub turnover: Turnover,
}

/// How new values of a secret come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turnover {
    /// Somebody stores one.
    ByHand,
    /// A run may have to store one: a refresh token that somebody stored first.
    ByRuns,
    /// The same, of which a login brings the first.
    ByLogin,
}

impl App {
    /// What the source needs; its rows go to `dataset`, `DATASET` or `PROJECT.DATASET`, when that is given.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`]: what [`crate::settings::Settings::source`] says; a source
    /// that nothing in the cloud could run as it is configured: no project, rows that land in a local
    /// file, secrets or files that are only here, secrets that would be another source's, too.
    pub fn deployment(&self, source: &str, dataset: Option<&str>) -> Result<Deployment> {
        let config = self.settings.source(source)?;
        let project = self.settings.project.clone().ok_or_else(|| {
            Error::config(format!(
                "nothing says which project source `{source}` is to run in"
            ))
            .hint(format!(
                "name it with `--project`, or as `project` in `{FILE}`"
            ))
        })?;
        let demo = config.connector.name == DEMO && config.base_url.is_none();
        let secrets = match demo {
            // It runs in the program itself, which knows them.
            true => Vec::new(),
            false => {
                let kept = secrets(&config)?;
                self.not_shared(&config, &kept)?;
                kept
            }
        };
        Ok(Deployment {
            target: match dataset {
                Some(dataset) if dataset.contains('.') => dataset.parse()?,
                Some(dataset) => format!("{project}.{dataset}").parse()?,
                None => target(&config)?,
            },
            location: config.bigquery.location.clone(),
            job_project: config.bigquery.job_project.clone(),
            variables: self.variables(&config),
            files: self.files(&config)?,
            source: config.name,
            project,
            secrets,
        })
    }

    /// Refuses secrets that are looked for by their key alone, where another source looks for its own
    /// under the same: the value that is stored for the one would be sent to the other's API.
    fn not_shared(&self, config: &SourceConfig, kept: &[KeptSecret]) -> Result<()> {
        for other in self.settings.source_names() {
            if other == config.name {
                continue;
            }
            // What is wrong with another source is not in the way of this one.
            let Ok(theirs) = self.settings.source_secrets(other) else {
                continue;
            };
            let both = |key: &str| {
                let (ours, theirs) = (config.secrets.get(key)?, theirs.lookups.get(key)?);
                (!ours.named && !theirs.named).then(|| in_secret_manager(ours))?
            };
            let shared: Vec<(&str, &str)> = kept
                .iter()
                .filter(|secret| both(&secret.key).is_some())
                .map(|secret| (secret.key.as_str(), secret.project.as_str()))
                .collect();
            let Some((first, project)) = shared.first() else {
                continue;
            };
            let places: Vec<String> = shared
                .iter()
                .map(|(key, project)| format!("{key}: \"gcp://{project}/{}-{key}\"", config.name))
                .collect();
            return Err(Error::config(format!(
                "sources `{}` and `{other}` would share Secret Manager's secret `{first}` of project `{project}`: \
                 nothing says where each has its own",
                config.name
            ))
            .hint(format!(
                "name places in `{FILE}`: `sources: {{{}: {{secrets: {{{}}}}}}}`; if both are to use one, name it for both",
                config.name,
                places.join(", ")
            )));
        }
        Ok(())
    }

    /// What the environment says here, and would not say there.
    fn variables(&self, config: &SourceConfig) -> Vec<(String, String)> {
        let keys = config.config.keys().map(String::as_str);
        keys.chain(["base_url"])
            .filter_map(|key| {
                let name = source_variable(&config.name, key);
                self.environment.get(&name).map(|value| (name, value))
            })
            .collect()
    }

    fn files(&self, config: &SourceConfig) -> Result<Vec<Needed>> {
        let needed = |here: &Path, there: &str| Needed {
            here: here.to_owned(),
            there: there.into(),
        };
        let mut files = Vec::new();
        if let Some(file) = &self.settings.file {
            files.push(needed(file, FILE));
        }
        if let Some(folder) = self.settings.catalog.folder() {
            files.push(needed(folder, "connectors"));
            let schemas = folder.join("..").join("schemas");
            if schemas.is_dir() {
                files.push(needed(&schemas, "schemas"));
            }
        }
        if let Some(ca) = &config.ca_file {
            let beside = self.settings.file.as_deref().and_then(Path::parent);
            let there = beside.and_then(|folder| ca.strip_prefix(folder).ok());
            let there = there.filter(|path| path.is_relative()).ok_or_else(|| {
                Error::config(format!(
                    "`ca_file` of source `{}` is `{}`, which is not beside `{FILE}`",
                    config.name,
                    ca.display()
                ))
                .hint(format!(
                    "keep it in the folder of `{FILE}` or below: that is what goes into the image"
                ))
            })?;
            files.push(Needed {
                here: ca.clone(),
                there: there.to_owned(),
            });
        }
        Ok(files)
    }
}

fn target(config: &SourceConfig) -> Result<Target> {
    let named = config.destination.as_deref().unwrap_or_default();
    match named.split_once(':') {
        Some(("bigquery", target)) => target.parse(),
        _ => Err(Error::config(format!(
            "rows of source `{}` would land {}, which goes with the container",
            config.name,
            match named {
                "" => "in a file".to_owned(),
                named => format!("in `{named}`"),
            }
        ))
        .hint("name a dataset with `--dataset`, or `destination: bigquery:PROJECT.DATASET` in `drawoff.yaml`")),
    }
}

fn secrets(config: &SourceConfig) -> Result<Vec<KeptSecret>> {
    let mut kept = Vec::new();
    for (key, lookup) in &config.secrets {
        match in_secret_manager(lookup) {
            Some((project, location, secret)) => {
                let turnover = turnover(config, key, lookup);
                if turnover != Turnover::ByHand && !lookup.named {
                    return Err(Error::config(format!(
                        "nothing says where refresh token `{key}` of source `{}` is kept: on this machine that is a file",
                        config.name
                    ))
                    .hint(in_its_stead(config, key)));
                }
                kept.push(KeptSecret {
                    key: key.clone(),
                    project,
                    location,
                    secret,
                    optional: lookup.optional,
                    turnover,
                });
            }
            None if lookup.optional => {}
            None => {
                let place = lookup.places.first().map(ToString::to_string);
                return Err(Error::config(format!(
                    "secret `{key}` of source `{}` is `{}`, which is only on this machine",
                    config.name,
                    place.unwrap_or_default()
                ))
                .hint(in_its_stead(config, key)));
            }
        }
    }
    Ok(kept)
}

fn in_its_stead(config: &SourceConfig, key: &str) -> String {
    format!(
        "keep it in Secret Manager: `sources: {{{}: {{secrets: {{{key}: gcp://project/secret}}}}}}` in `{FILE}`",
        config.name
    )
}

fn in_secret_manager(lookup: &SecretLookup) -> Option<(String, Option<String>, String)> {
    lookup.places.iter().find_map(|place| match place {
        SecretRef::Gcp {
            project,
            location,
            secret,
            ..
        } => Some((project.clone(), location.clone(), secret.clone())),
        _ => None,
    })
}

fn turnover(config: &SourceConfig, key: &str, lookup: &SecretLookup) -> Turnover {
    let mut auths = config.connector.auths.iter();
    match auths.any(|auth| auth.refresh_key() == Some(key)) {
        _ if lookup.by_login => Turnover::ByLogin,
        true => Turnover::ByRuns,
        false => Turnover::ByHand,
    }
}
