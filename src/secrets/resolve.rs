//! Finds all secrets of a source: where each was said to be, else where its name says it is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use secrecy::{ExposeSecret, SecretString};

use super::local::{LocalSecrets, accept};
use super::{SecretRef, SecretStore, SecretWriter, Stored, Version};
use crate::config::{Environment, source_variable};
use crate::error::{Error, ErrorKind, Result};

/// Every store behind one: this machine's, and Google's where there is one.
#[derive(Clone)]
pub struct Secrets {
    local: LocalSecrets,
    google: Option<Arc<dyn Vault>>,
}

/// A store that takes new values, too.
pub trait Vault: SecretStore + SecretWriter {}

impl<T: SecretStore + SecretWriter> Vault for T {}

impl Secrets {
    /// `google` has what `gcp://` references mean.
    pub fn new(environment: Environment, google: Option<Arc<dyn Vault>>) -> Self {
        Self {
            local: LocalSecrets::new(environment),
            google,
        }
    }

    /// Who has what the reference means.
    fn vault(&self, reference: &SecretRef) -> Result<&dyn Vault> {
        match (reference, &self.google) {
            (SecretRef::Gcp { .. }, Some(google)) => Ok(&**google),
            (SecretRef::Gcp { .. }, None) => Err(Error::new(
                ErrorKind::Auth,
                format!("`{reference}` is in Secret Manager, and there are no Google credentials"),
            )
            .hint(
                "run `gcloud auth application-default login`, or give the secret as `env://NAME`",
            )),
            _ => Ok(&self.local),
        }
    }
}

#[async_trait]
impl SecretStore for Secrets {
    async fn get(&self, reference: &SecretRef) -> Result<SecretString> {
        let value = self.vault(reference)?.get(reference).await?;
        accept(reference, value.expose_secret().to_owned())
    }

    async fn newest(&self, reference: &SecretRef) -> Result<Version> {
        let read = self.vault(reference)?.newest(reference).await?;
        Ok(Version {
            value: accept(reference, read.value.expose_secret().to_owned())?,
            ..read
        })
    }
}

#[async_trait]
impl SecretWriter for Secrets {
    async fn put(&self, reference: &SecretRef, value: &SecretString) -> Result<Stored> {
        self.vault(reference)?.put(reference, value).await
    }

    async fn writable(&self, reference: &SecretRef) -> Result<()> {
        self.vault(reference)?.writable(reference).await
    }

    async fn disable(&self, reference: &SecretRef, version: u64) -> Result<()> {
        self.vault(reference)?.disable(reference, version).await
    }

    async fn remove(&self, reference: &SecretRef) -> Result<()> {
        self.vault(reference)?.remove(reference).await
    }
}

/// Where one secret of a source is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretLookup {
    /// Places in order; the first that has it wins. One only when a reference was given.
    pub places: Vec<SecretRef>,
    /// May be missing; is then left out.
    pub optional: bool,
    /// The place was named, and is the only one.
    pub named: bool,
    /// A login puts it there: `drawoff auth login`.
    pub by_login: bool,
    /// It is used where a line break cannot be, so not even a PEM file is right.
    pub one_line: bool,
}

impl SecretLookup {
    /// Where the secret `key` of `source` is: where `reference` says, else environment variable
    /// `DRAWOFF_<SOURCE>_<KEY>`, else Secret Manager's secret of that name in `project`.
    pub fn new(
        source: &str,
        key: &str,
        optional: bool,
        reference: Option<SecretRef>,
        project: Option<&str>,
    ) -> Self {
        let named = reference.is_some();
        let places = match reference {
            Some(reference) => vec![reference],
            None => {
                let mut places = vec![SecretRef::Env(source_variable(source, key))];
                places.extend(project.map(|project| SecretRef::Gcp {
                    project: project.to_owned(),
                    location: None,
                    secret: key.to_owned(),
                    version: "latest".to_owned(),
                }));
                places
            }
        };
        Self {
            places,
            optional,
            named,
            by_login: false,
            one_line: false,
        }
    }

    /// The same for a refresh token, which the program replaces by itself: without a reference it may
    /// also be in `file`, which comes after the environment and before Secret Manager.
    #[must_use]
    pub fn replaced(mut self, file: Option<PathBuf>, by_login: bool) -> Self {
        self.by_login = by_login;
        if !self.named
            && let Some(file) = file
        {
            self.places.insert(1, SecretRef::File(file));
        }
        self
    }

    /// The variable that comes before all other places.
    pub fn variable(&self) -> Option<&str> {
        match self.places.first() {
            Some(SecretRef::Env(name)) => Some(name),
            _ => None,
        }
    }
}

/// A secret that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The value.
    pub value: SecretString,
    /// Where it was.
    pub place: SecretRef,
}

/// The values of all secrets of a source.
///
/// # Errors
/// One error for all that are missing: [`ErrorKind::Auth`] naming each key and every place where it
/// was looked for. Transient when a store did not answer as it should.
pub async fn resolve(
    source: &str,
    lookups: &BTreeMap<String, SecretLookup>,
    store: &dyn SecretStore,
) -> Result<BTreeMap<String, Found>> {
    let found = join_all(
        lookups
            .iter()
            .map(|(key, lookup)| async move { (key, lookup, first(lookup, store).await) }),
    )
    .await;
    let mut values = BTreeMap::new();
    let mut missing: Vec<(&str, &SecretLookup, Vec<Error>)> = Vec::new();
    for (key, lookup, outcome) in found {
        match outcome {
            Ok(value) => {
                values.insert(key.clone(), value);
            }
            Err(errors) if lookup.optional && errors.iter().all(is_absent) => {}
            Err(errors) => missing.push((key, lookup, errors)),
        }
    }
    if missing.is_empty() {
        return Ok(values);
    }
    Err(report(source, &missing))
}

/// The first place's value that is there, or why each place has none. A place that holds something
/// unfit to use ends the search: going on would hide the mistake.
async fn first(lookup: &SecretLookup, store: &dyn SecretStore) -> Result<Found, Vec<Error>> {
    let mut errors = Vec::new();
    for place in &lookup.places {
        match store.get(place).await {
            Ok(value) => {
                return Ok(Found {
                    value,
                    place: place.clone(),
                });
            }
            Err(e) => {
                let absent = is_absent(&e) || e.is_transient();
                errors.push(e);
                if !absent {
                    break;
                }
            }
        }
    }
    Err(errors)
}

/// Whether the place does not have the secret, or does not show it. Google tells the two apart for
/// nobody who may not read.
fn is_absent(e: &Error) -> bool {
    e.kind() == ErrorKind::Auth && !e.is_transient()
}

fn report(source: &str, missing: &[(&str, &SecretLookup, Vec<Error>)]) -> Error {
    let keys: Vec<&str> = missing.iter().map(|(key, ..)| *key).collect();
    let plural = if keys.len() == 1 { "secret" } else { "secrets" };
    let mut text = format!(
        "{plural} `{}` of source `{source}` could not be read",
        keys.join("`, `")
    );
    for (key, _, errors) in missing {
        let tried: Vec<String> = errors.iter().map(Error::chain).collect();
        text.push_str(&format!("\n  `{key}`: {}", tried.join("; ")));
    }
    let all: Vec<&Error> = missing.iter().flat_map(|(.., errors)| errors).collect();
    let transient = all.iter().any(|e| e.is_transient());
    let given = missing
        .iter()
        .find(|(_, lookup, _)| lookup.places.len() == 1);
    let login = missing.iter().any(|(_, lookup, _)| lookup.by_login);
    let hint = match (given, missing) {
        _ if login => format!("log in: `drawoff auth login --source {source}`"),
        (Some((_, lookup, errors)), _) if !matches!(lookup.places[0], SecretRef::Env(_)) => errors
            .iter()
            .find_map(|e| e.find_hint())
            .unwrap_or("check the reference in `drawoff.yaml`")
            .to_owned(),
        (_, [(key, lookup, errors), ..]) => match lookup.places.as_slice() {
            [SecretRef::Env(name)] | [SecretRef::Env(name), SecretRef::File(_)] => {
                format!(
                    "set `{name}`, or say where it is: `sources: {{{source}: {{secrets: {{{key}: gcp://project/secret}}}}}}`"
                )
            }
            [SecretRef::Env(name), ..] => match errors.last().and_then(Error::find_hint) {
                // Google's, which says what to grant or create.
                Some(hint) if errors.len() == lookup.places.len() => {
                    format!("set `{name}`, or {hint}")
                }
                _ => format!(
                    "set `{name}`, or store it: `drawoff secrets set {source} {key} --create`"
                ),
            },
            _ => "check the reference in `drawoff.yaml`".to_owned(),
        },
        (_, []) => String::new(),
    };
    Error::new(ErrorKind::Auth, text)
        .transient(transient)
        .hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Secret Manager with these secrets, and one that does not answer.
    struct Google(HashMap<&'static str, &'static str>);

    #[async_trait]
    impl SecretStore for Google {
        async fn get(&self, reference: &SecretRef) -> Result<SecretString> {
            let SecretRef::Gcp { secret, .. } = reference else {
                panic!("{reference}")
            };
            match self.0.get(secret.as_str()) {
                Some(value) => Ok(SecretString::from((*value).to_owned())),
                None if secret == "down" => Err(Error::new(
                    ErrorKind::Unavailable,
                    "Secret Manager answered 503",
                )),
                None => Err(Error::new(
                    ErrorKind::Auth,
                    format!("`{reference}` does not exist, or may not be read"),
                )),
            }
        }

        async fn newest(&self, reference: &SecretRef) -> Result<Version> {
            Ok(Version {
                value: self.get(reference).await?,
                number: None,
            })
        }
    }

    #[async_trait]
    impl SecretWriter for Google {
        async fn put(&self, reference: &SecretRef, _: &SecretString) -> Result<Stored> {
            Ok(Stored {
                place: format!("Google's {reference}"),
                version: Some(2),
            })
        }

        async fn writable(&self, _: &SecretRef) -> Result<()> {
            Ok(())
        }

        async fn disable(&self, _: &SecretRef, _: u64) -> Result<()> {
            Ok(())
        }

        async fn remove(&self, _: &SecretRef) -> Result<()> {
            Ok(())
        }
    }

    fn secrets(environment: &[(&str, &str)]) -> Secrets {
        let google = Google(HashMap::from([
            ("token", "canary-google"),
            ("pair", "canary\nline"),
        ]));
        Secrets::new(
            Environment::of(environment.iter().copied()),
            Some(Arc::new(google)),
        )
    }

    fn lookups(keys: &[(&str, bool)], project: Option<&str>) -> BTreeMap<String, SecretLookup> {
        keys.iter()
            .map(|(key, optional)| {
                let lookup = SecretLookup::new("acme-x", key, *optional, None, project);
                ((*key).to_owned(), lookup)
            })
            .collect()
    }

    #[tokio::test]
    async fn the_environment_comes_before_secret_manager() {
        let lookups = lookups(&[("token", false)], Some("p"));
        let values = resolve("acme-x", &lookups, &secrets(&[])).await.unwrap();
        assert_eq!(values["token"].value.expose_secret(), "canary-google");
        let env = secrets(&[("DRAWOFF_ACME_X_TOKEN", "canary-env-2")]);
        let values = resolve("acme-x", &lookups, &env).await.unwrap();
        assert_eq!(values["token"].value.expose_secret(), "canary-env-2");
    }

    #[tokio::test]
    async fn all_missing_ones_are_told_at_once_with_every_place() {
        let lookups = lookups(
            &[
                ("token", false),
                ("user", false),
                ("id", false),
                ("extra", true),
            ],
            Some("p"),
        );
        let e = resolve("acme-x", &lookups, &secrets(&[]))
            .await
            .unwrap_err();
        assert_eq!(
            e.to_string(),
            "secrets `id`, `user` of source `acme-x` could not be read\n  \
             `id`: environment variable `DRAWOFF_ACME_X_ID` is not set, or empty; `gcp://p/id@latest` does not exist, or may not be read\n  \
             `user`: environment variable `DRAWOFF_ACME_X_USER` is not set, or empty; `gcp://p/user@latest` does not exist, or may not be read"
        );
        assert_eq!(e.kind(), ErrorKind::Auth);
        assert_eq!(e.exit_code(), 1);
        assert!(
            e.find_hint()
                .unwrap()
                .contains("drawoff secrets set acme-x id --create"),
            "{e:?}"
        );
    }

    #[tokio::test]
    async fn a_reference_given_is_the_only_place() {
        let given = SecretRef::Env("ELSEWHERE".into());
        let lookup = SecretLookup::new("acme-x", "token", false, Some(given), Some("p"));
        let lookups = BTreeMap::from([("token".to_owned(), lookup)]);
        let env = secrets(&[("DRAWOFF_ACME_X_TOKEN", "canary-env-3")]);
        let e = resolve("acme-x", &lookups, &env).await.unwrap_err();
        assert!(e.to_string().contains("`ELSEWHERE`"), "{e}");
        assert!(!e.to_string().contains("DRAWOFF"), "{e}");
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_transient_even_for_an_optional_secret() {
        let lookups = lookups(&[("down", true)], Some("p"));
        let e = resolve("acme-x", &lookups, &secrets(&[]))
            .await
            .unwrap_err();
        assert!(e.is_transient());
        assert_eq!(e.exit_code(), 75);
    }

    #[tokio::test]
    async fn control_characters_from_anywhere_are_refused() {
        let lookups = lookups(&[("pair", false)], Some("p"));
        let e = resolve("acme-x", &lookups, &secrets(&[]))
            .await
            .unwrap_err();
        assert!(e.to_string().contains("control characters"), "{e}");
        assert!(!format!("{e:?}").contains("canary"), "{e:?}");
        // Neither the next place nor being optional hides a value that is there and unfit.
        let lookups = self::lookups(&[("token", true)], Some("p"));
        let env = secrets(&[("DRAWOFF_ACME_X_TOKEN", "canary\nline")]);
        let e = resolve("acme-x", &lookups, &env).await.unwrap_err();
        assert!(e.to_string().contains("control characters"), "{e}");
    }

    #[tokio::test]
    async fn each_place_takes_its_own_new_values() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let value = SecretString::from("canary-new-1".to_owned());
        let secrets = secrets(&[]);
        let put = async |text: &str| secrets.put(&text.parse().unwrap(), &value).await;
        let stored = put("gcp://p/t").await.unwrap();
        assert_eq!(stored.to_string(), "Google's gcp://p/t@latest/versions/2");
        put(&format!("file://{}", path.display())).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "canary-new-1");
        assert!(put("env://T").await.is_err());
    }

    #[tokio::test]
    async fn without_google_a_reference_to_it_says_so() {
        let lookup = SecretLookup::new("a", "t", false, Some("gcp://p/t".parse().unwrap()), None);
        let lookups = BTreeMap::from([("t".to_owned(), lookup)]);
        let none = Secrets::new(Environment::of::<&str, &str>([]), None);
        let e = resolve("a", &lookups, &none).await.unwrap_err();
        assert!(e.to_string().contains("no Google credentials"), "{e}");
        assert!(e.find_hint().unwrap().contains("gcloud auth"), "{e:?}");
    }
}
