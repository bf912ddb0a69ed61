//! Refresh tokens in the places where secrets are, one user at a time: of a file by a lock beside it, of
//! Secret Manager by a lease in the source's destination.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::App;
use super::lease::{Holding, Leases};
use super::places::{self, Place};
use crate::auth::{Hold, Kept, Vault};
use crate::clock::SharedClock;
use crate::config::Environment;
use crate::error::{Error, ErrorKind, Result};
use crate::google::Google;
use crate::http::CallContext;
use crate::secrets::resolve::Secrets;
use crate::secrets::{SecretRef, SecretStore as _, SecretWriter as _};
use crate::settings::{BigQueryOptions, SourceConfig};

/// How long one waits until somebody else has done with a token. Longer than the token endpoint is
/// asked at most, and than a lease holds that nobody renews.
const PATIENCE: Duration = Duration::from_secs(150);

/// How long a lease on a token holds without being renewed.
const LEASE: Duration = Duration::from_secs(60);

/// Between two looks at a file's lock.
const LOOK: Duration = Duration::from_millis(50);

/// Between two looks at a lease, each of which may be a query that costs.
const LOOK_AT_LEASE: Duration = Duration::from_secs(2);

/// The refresh token of a source, where it was found.
pub(super) struct TokenVault {
    source: String,
    key: String,
    place: SecretRef,
    by_login: bool,
    secrets: Secrets,
    destination: String,
    bigquery: BigQueryOptions,
    google: Google,
    environment: Environment,
    clock: SharedClock,
    owed: Mutex<Option<Owed>>,
}

/// A token that could not be stored.
struct Owed {
    token: SecretString,
    old: Kept,
}

impl TokenVault {
    pub fn new(
        app: &App,
        config: &SourceConfig,
        key: &str,
        place: SecretRef,
        by_login: bool,
    ) -> Self {
        Self {
            source: config.name.clone(),
            key: key.to_owned(),
            place,
            by_login,
            secrets: app.secrets.clone(),
            destination: config
                .destination
                .clone()
                .unwrap_or_else(|| places::DEFAULT.to_owned()),
            bigquery: config.bigquery.clone(),
            google: app.google.clone(),
            environment: app.environment.clone(),
            clock: app.clock.clone(),
            owed: Mutex::default(),
        }
    }

    /// The config key of the token.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Where it is.
    pub fn place(&self) -> &SecretRef {
        &self.place
    }

    /// Stores what could not be stored when it came.
    ///
    /// # Errors
    /// It still cannot.
    pub async fn settle(&self) -> Result<()> {
        let owed = self
            .owed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(owed) = owed else { return Ok(()) };
        let hold = self.hold(&quiet()).await?;
        let stored = match self.newest().await {
            // Somebody has logged in anew meanwhile: that token stays.
            Ok(now) if now.value.expose_secret() != owed.old.value.expose_secret() => Ok(()),
            _ => self.store(&owed.token, &owed.old).await,
        };
        hold.end().await;
        stored.map_err(|why| self.lost(why))
    }

    /// Removes the token.
    ///
    /// # Errors
    /// The place cannot be written.
    pub async fn remove(&self) -> Result<()> {
        self.secrets.remove(&self.place).await
    }

    /// Stores a token that a login brought.
    ///
    /// # Errors
    /// As [`Vault::store`].
    pub async fn begin(&self, token: &SecretString) -> Result<()> {
        let old = self.secrets.newest(&self.place).await.ok();
        self.put(token, old.and_then(|old| old.number)).await
    }

    async fn put(&self, token: &SecretString, old: Option<u64>) -> Result<()> {
        let number = self.secrets.put(&self.place, token).await?.version;
        let read = self.secrets.newest(&self.numbered(number)).await?;
        if read.value.expose_secret() != token.expose_secret() {
            return Err(Error::new(
                ErrorKind::State,
                format!(
                    "`{}` does not hold what was stored in it: somebody else stored another token",
                    self.place
                ),
            ));
        }
        if let Some(old) = old.filter(|old| number != Some(*old))
            && let Err(e) = self.secrets.disable(&self.place, old).await
        {
            // It is spent: who finds it can do nothing with it.
            tracing::warn!(
                source = self.source,
                "version {old} of `{}`, which is not good any more, could not be disabled: {}",
                self.place,
                e.chain()
            );
        }
        Ok(())
    }

    /// The place, or one version of it. Only a version that is asked for by its number is sure to be
    /// there as soon as it was added; which one is the latest may take Secret Manager a while to say.
    fn numbered(&self, number: Option<u64>) -> SecretRef {
        let mut place = self.place.clone();
        if let (SecretRef::Gcp { version, .. }, Some(number)) = (&mut place, number) {
            *version = number.to_string();
        }
        place
    }

    /// How a place that can be written is named.
    fn elsewhere(&self) -> String {
        format!(
            "a place that can be written, `sources: {{{}: {{secrets: {{{}: gcp://project/secret}}}}}}` or `file:///path`",
            self.source, self.key
        )
    }

    fn lost(&self, why: Error) -> Error {
        let elsewhere = self.elsewhere();
        let hint = match self.by_login {
            true => format!(
                "log in again: `drawoff auth login --source {}`; keep the token in {elsewhere}",
                self.source
            ),
            false => format!("get a new refresh token from the API, and keep it in {elsewhere}"),
        };
        Error::new(
            ErrorKind::Auth,
            format!(
                "the API gave a new refresh token for source `{}`, and it could not be stored: the one in `{}` is spent, and the next run cannot begin: {}",
                self.source,
                self.place,
                why.chain()
            ),
        )
        .hint(hint)
    }

    /// Waits a while for somebody else, who had the token when `begun` was.
    async fn pause(&self, begun: Instant, pause: Duration, context: &CallContext) -> Result<()> {
        if self.clock.instant().saturating_duration_since(begun) >= PATIENCE {
            return Err(Error::new(
                ErrorKind::State,
                format!(
                    "another process uses the refresh token in `{}` for more than {} seconds",
                    self.place,
                    PATIENCE.as_secs()
                ),
            )
            .transient(true)
            .hint("run again when it has come to its end"));
        }
        tokio::select! {
            () = context.cancel.cancelled() => Err(Error::new(
                ErrorKind::Interrupted,
                "the run was asked to stop while it waited for its turn with the refresh token",
            )),
            () = self.clock.sleep(pause) => Ok(()),
        }
    }

    /// The lock of a file; nothing where no such file can be made: where the token cannot be
    /// replaced either.
    async fn lock(&self, path: &Path, context: &CallContext) -> Result<Option<File>> {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(path);
        let file = match file {
            Ok(file) => file,
            Err(e) => {
                tracing::debug!("no lock at `{}`: {e}", path.display());
                return Ok(None);
            }
        };
        let begun = self.clock.instant();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => self.pause(begun, LOOK, context).await?,
                Err(TryLockError::Error(e)) => {
                    return Err(Error::new(
                        ErrorKind::State,
                        format!("could not lock `{}`: {e}", path.display()),
                    ));
                }
            }
        }
    }

    /// The lease on a token in Secret Manager, in the destination.
    async fn lease(&self, context: &CallContext) -> Result<Option<(Holding, Leases)>> {
        if Place::is_new(&self.destination) {
            // Looking must not make it; and where it is not, nobody holds a lease in it.
            return Ok(None);
        }
        let store = Place::open(&self.destination, &self.google, &self.bigquery)?.destination();
        let name = format!("refresh token {}", self.place);
        let id = format!("token_{:016x}", rand::random::<u64>());
        let leases = Leases::new(store, &id, LEASE, &self.environment, self.clock.clone());
        let begun = self.clock.instant();
        loop {
            match leases.take(&name, CancellationToken::new()).await {
                Ok(holding) => return Ok(Some((holding, leases))),
                Err(e) if e.kind() == ErrorKind::State && e.is_transient() => {
                    self.pause(begun, LOOK_AT_LEASE, context).await?;
                }
                Err(e) => {
                    return Err(e.context(format!(
                        "could not take the lease of the refresh token in `{}`",
                        self.place
                    )));
                }
            }
        }
    }
}

/// A lock, a lease, both or neither.
struct Held {
    lease: Option<(Holding, Leases)>,
    /// Goes with the handle.
    _lock: Option<File>,
}

#[async_trait]
impl Hold for Held {
    async fn end(self: Box<Self>) {
        if let Some((lease, _)) = self.lease {
            lease.end().await;
        }
    }
}

#[async_trait]
impl Vault for TokenVault {
    async fn hold(&self, context: &CallContext) -> Result<Box<dyn Hold>> {
        let (lock, lease) = match &self.place {
            // Nobody can replace it, so nobody need wait.
            SecretRef::Env(_) => (None, None),
            SecretRef::File(path) => (self.lock(&beside(path), context).await?, None),
            SecretRef::Gcp { .. } => {
                let name = Sha256::digest(self.place.to_string().as_bytes());
                let name: String = name[..8].iter().map(|b| format!("{b:02x}")).collect();
                let path = std::env::temp_dir().join(format!("drawoff-token-{name}.lock"));
                let lock = self.lock(&path, context).await?;
                (lock, self.lease(context).await?)
            }
        };
        Ok(Box::new(Held { lease, _lock: lock }))
    }

    async fn newest(&self) -> Result<Kept> {
        let mut read = self.secrets.newest(&self.place).await?;
        // One that was added a moment ago may not be the latest yet.
        if matches!(&self.place, SecretRef::Gcp { version, .. } if version == "latest") {
            while let Some(number) = read.number.map(|number| number + 1)
                && let Ok(newer) = self.secrets.newest(&self.numbered(Some(number))).await
            {
                read = newer;
            }
        }
        Ok(Kept {
            value: read.value,
            version: read.number.map(|number| number.to_string()),
        })
    }

    async fn store(&self, token: &SecretString, old: &Kept) -> Result<()> {
        let version = old.version.as_deref().and_then(|v| v.parse().ok());
        self.put(token, version).await?;
        tracing::info!(
            source = self.source,
            "stored the new refresh token in `{}`",
            self.place
        );
        Ok(())
    }

    fn owe(&self, token: &SecretString, old: &Kept, why: Error) {
        let error = self.lost(why);
        tracing::error!(
            source = self.source,
            hint = error.find_hint().unwrap_or_default(),
            "{}; this run goes on with the access token that it has",
            error.chain()
        );
        *self.owed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Owed {
            token: token.clone(),
            old: old.clone(),
        });
    }

    fn describe(&self) -> String {
        format!("secret `{}` of source `{}`", self.key, self.source)
    }

    fn remedy(&self) -> String {
        let Self { source, key, .. } = self;
        let login = format!("log in again: `drawoff auth login --source {source}`");
        let elsewhere = self.elsewhere();
        match (&self.place, self.by_login) {
            (SecretRef::Env(name), true) => format!(
                "environment variable `{name}` cannot keep what a login brings: name {elsewhere} in its stead, and {login}"
            ),
            (_, true) => login,
            (SecretRef::Env(name), false) => format!(
                "get a new one from the API, and set `{name}` to it; if the API replaces it at each use, keep it in {elsewhere}"
            ),
            (place, false) => format!(
                "get a new one from the API, and store it in `{place}`: `drawoff secrets set {source} {key}`"
            ),
        }
    }
}

/// A call that nobody watches or stops.
pub(super) fn quiet() -> CallContext {
    CallContext {
        deadline: None,
        cancel: CancellationToken::new(),
        meter: Arc::default(),
    }
}

/// The lock's file, beside the token's.
fn beside(path: &Path) -> PathBuf {
    // By its real name: two names of one file have one lock.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    path.with_file_name(name)
}
