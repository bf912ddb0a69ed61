//! A source's secrets for whoever keeps them: where each is, and new values. Never shows one.

use std::io;

use futures::future::join_all;
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};

use super::App;
use super::open::DEMO;
use crate::config::source_variable;
use crate::error::{Error, ErrorKind, Result, worst_exit_code};
use crate::secrets::resolve::SecretLookup;
use crate::secrets::{
    Added, SecretRef, SecretStore as _, SecretWriter as _, Seen, SeenState, Stored,
};
use crate::settings::SourceSecrets;

/// Where a new value of a secret goes.
#[derive(Clone, Debug)]
pub struct SecretTarget {
    /// Name of the source.
    pub source: String,
    /// Name of the secret.
    pub key: String,
    /// The place.
    pub reference: SecretRef,
    /// A variable that is set here, and comes before that place.
    pub hidden_by: Option<String>,
}

/// How to store a new value.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetOptions {
    /// Make the secret where it is missing.
    pub create: bool,
    /// Disable the version that was the newest before.
    pub disable_previous: bool,
}

/// What became of a new value.
#[derive(Debug)]
pub struct NewSecret {
    /// Where it is.
    pub stored: Stored,
    /// The secret was made for it.
    pub created: bool,
    /// The version that was disabled; an error where that was asked for and failed.
    pub disabled: Result<Option<u64>>,
}

/// A secret of a source, and what there is of it.
#[derive(Debug)]
pub struct SecretRow {
    /// Its name.
    pub key: String,
    /// The source can do without it.
    pub optional: bool,
    /// Where it is, or would be.
    pub place: SecretRef,
    /// What there is.
    pub seen: Seen,
}

impl SecretRow {
    /// 0 when a run would find the secret, or do without it. One that is there and cannot be used is a
    /// mistake in any case.
    pub fn exit_code(&self) -> u8 {
        match &self.seen.state {
            SeenState::Present => 0,
            SeenState::Unknown(e) => e.exit_code(),
            SeenState::Unusable(_) => 1,
            _ if self.optional => 0,
            _ => 1,
        }
    }

    /// Whether a value can be stored at its place.
    pub fn can_be_set(&self) -> bool {
        !matches!(self.place, SecretRef::Env(_))
    }

    /// The worst of all.
    pub fn exit_code_of(rows: &[Self]) -> u8 {
        worst_exit_code(rows.iter().map(Self::exit_code))
    }
}

impl App {
    /// Where a new value of a source's secret goes: where its reference says, else the secret of its
    /// name in the project's Secret Manager.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: no such source or secret, or a place where nothing can be stored.
    pub fn secret_target(&self, source: &str, key: &str) -> Result<SecretTarget> {
        let secrets = self.secrets_of(source)?;
        let lookup = secrets.lookup(key)?;
        let target = |reference: &SecretRef| SecretTarget {
            source: source.to_owned(),
            key: key.to_owned(),
            reference: reference.clone(),
            hidden_by: lookup.places.iter().find_map(|place| match place {
                SecretRef::Env(name) => self.environment.get(name).map(|_| name.clone()),
                _ => None,
            }),
        };
        let variable = source_variable(source, key);
        let stored = |place: &&SecretRef| !matches!(place, SecretRef::Env(_));
        match (lookup.places.iter().find(stored), lookup.places.first()) {
            (Some(reference), _) => Ok(target(reference)),
            (None, Some(SecretRef::Env(name))) if *name != variable => Err(Error::config(format!(
                "secret `{key}` of source `{source}` is environment variable `{name}`, which is set by who starts the program"
            ))
            .hint(format!(
                "set `{name}` there, or name another place in `drawoff.yaml`: `sources: {{{source}: {{secrets: {{{key}: gcp://project/secret}}}}}}`"
            ))),
            (None, _) => Err(Error::config(format!(
                "nothing says where secret `{key}` of source `{source}` is kept"
            ))
            .hint(format!(
                "name a project with `--project` or in `drawoff.yaml`, or the place: `sources: {{{source}: {{secrets: {{{key}: gcp://project/secret}}}}}}`; or set `{variable}` where the program is started"
            ))),
        }
    }

    /// Stores a new value there.
    ///
    /// # Errors
    /// A value that no reader would take; what to grant or create. Then nothing was stored, unless
    /// the error says that this is not known.
    pub async fn set_secret(
        &self,
        target: &SecretTarget,
        value: &SecretString,
        options: SetOptions,
    ) -> Result<NewSecret> {
        let reference = &target.reference;
        let SecretRef::Gcp { .. } = reference else {
            if options.disable_previous {
                return Err(Error::config(format!(
                    "`--disable-previous`: `{reference}` keeps one value, and no versions"
                )));
            }
            return Ok(NewSecret {
                stored: self.secrets.put(reference, value).await?,
                created: false,
                disabled: Ok(None),
            });
        };
        let previous = match options.disable_previous {
            true => self.manager.newest_number(reference).await?,
            false => None,
        };
        let Added {
            version,
            created,
            place,
        } = self.manager.add(reference, value, options.create).await?;
        // After a lost answer, the one before may hold this very value.
        let disabled = match previous.filter(|previous| *previous != version) {
            None => Ok(None),
            Some(previous) => self
                .manager
                .disable(reference, previous)
                .await
                .map(|()| Some(previous)),
        };
        Ok(NewSecret {
            stored: Stored {
                place,
                version: Some(version),
            },
            created,
            disabled,
        })
    }

    /// What there is of each secret of a source.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: no such source, or one whose settings cannot be used.
    pub async fn list_secrets(&self, source: &str) -> Result<Vec<SecretRow>> {
        let secrets = self.secrets_of(source)?;
        let rows = secrets.lookups.into_iter().map(async |(key, lookup)| {
            let (place, seen) = self.look(&lookup).await;
            SecretRow {
                key,
                optional: lookup.optional,
                place,
                seen,
            }
        });
        Ok(join_all(rows).await)
    }

    /// The first place that has it, else the last one.
    async fn look(&self, lookup: &SecretLookup) -> (SecretRef, Seen) {
        let mut last = None;
        for place in &lookup.places {
            let seen = match place {
                SecretRef::Env(name) => match self.environment.get(name) {
                    Some(_) => self.tried(lookup, place, None).await,
                    None => Seen::only(SeenState::Missing),
                },
                SecretRef::File(path) => match path.metadata() {
                    // Who reads a pipe takes what is in it.
                    Ok(facts) if facts.is_file() || facts.is_dir() => {
                        self.tried(lookup, place, changed(&facts)).await
                    }
                    found => of_file(&path.display().to_string(), found),
                },
                SecretRef::Gcp { .. } => self.manager.look(place).await,
            };
            let missing = matches!(seen.state, SeenState::Missing);
            last = Some((place.clone(), seen));
            if !missing {
                break;
            }
        }
        last.unwrap_or_else(|| {
            (
                SecretRef::Env(String::new()),
                Seen::only(SeenState::Missing),
            )
        })
    }

    /// What there is of a value that is on this machine. Only the value itself says whether a run could
    /// use it; it is dropped.
    async fn tried(
        &self,
        lookup: &SecretLookup,
        place: &SecretRef,
        created: Option<Timestamp>,
    ) -> Seen {
        let state = match self.secrets.get(place).await {
            Ok(value) if lookup.one_line && value.expose_secret().contains(['\n', '\r']) => {
                SeenState::Unusable(
                    Error::config(format!("secret `{place}` has more than one line"))
                        .hint("the connector sends it in a header, or as a name or password: store a credential of one line"),
                )
            }
            Ok(_) => SeenState::Present,
            Err(e) => SeenState::Unusable(e),
        };
        Seen {
            created,
            ..Seen::only(state)
        }
    }

    fn secrets_of(&self, source: &str) -> Result<SourceSecrets> {
        let secrets = self.settings.source_secrets(source)?;
        if secrets.connector == DEMO && !secrets.rebased {
            return Err(Error::config(format!(
                "the API of source `{source}` runs in the program itself, which knows its secrets"
            ))
            .hint("name a source of your own"));
        }
        Ok(secrets)
    }
}

/// When a file was written last.
fn changed(facts: &std::fs::Metadata) -> Option<Timestamp> {
    facts.modified().ok().and_then(|t| t.try_into().ok())
}

fn of_file(path: &str, found: io::Result<std::fs::Metadata>) -> Seen {
    match found {
        Ok(facts) => Seen {
            created: changed(&facts),
            ..Seen::only(SeenState::Present)
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Seen::only(SeenState::Missing),
        Err(e) => Seen::only(SeenState::Unknown(
            Error::new(
                ErrorKind::Auth,
                format!("could not look at secret file `{path}`"),
            )
            .source(e),
        )),
    }
}
