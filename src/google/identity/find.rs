//! Where the credentials are: the file that the person named, the one that `gcloud` writes, the
//! metadata server; the first that is there.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::LOGIN;
use super::file::{self, CredentialFile, Kind};
use crate::error::{Error, ErrorKind, Result};
use crate::google::{Endpoint, Google};

/// How long the metadata server may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(3);
/// Files with credentials have a few KB.
const LARGEST_FILE: u64 = 1 << 20;
/// Answers that may pass, of a server that is just starting.
const PASSING: [u16; 5] = [408, 429, 500, 503, 504];
/// Questions to a server that answers so, and the pause before each but the first.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// What was found.
#[derive(Debug)]
pub(in crate::google) enum Found {
    /// A file.
    File(CredentialFile),
    /// The metadata server.
    Metadata(Endpoint),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(
                f,
                "the `{}` credentials of `{}`",
                file.kind,
                file.path.display()
            ),
            Self::Metadata(endpoint) => write!(f, "the metadata server at `{endpoint}`"),
        }
    }
}

impl Found {
    /// The type, where it is a file's.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::File(file) => Some(file.kind),
            Self::Metadata(_) => None,
        }
    }
}

/// The file with credentials that is taken: the one that is named, else the well-known one if it is
/// there.
///
/// # Errors
/// [`ErrorKind::Auth`] when the named one cannot be read, or either cannot be used.
pub(in crate::google) fn file(google: &Google) -> Result<Option<CredentialFile>> {
    let settings = google.settings();
    if let Some(path) = &settings.credentials_file {
        let text = read(path).map_err(|e| {
            Error::new(
                ErrorKind::Auth,
                format!(
                    "could not read the credentials file `{}` that `GOOGLE_APPLICATION_CREDENTIALS` names",
                    path.display()
                ),
            )
            .hint("correct the variable or unset it")
            .source(e)
        })?;
        return file::parse(path, &text, settings).map(Some);
    }
    let Some(path) = &settings.well_known_file else {
        return Ok(None);
    };
    match read(path) {
        Ok(text) => file::parse(path, &text, settings).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::new(
            ErrorKind::Auth,
            format!("could not read the credentials file `{}`", path.display()),
        )
        .hint("let this user read it, or name another with `GOOGLE_APPLICATION_CREDENTIALS`")
        .source(e)),
    }
}

/// The text of a file, if it is one and no larger than such files are. A device or a pipe would be
/// read for ever.
fn read(path: &Path) -> std::io::Result<String> {
    let facts = std::fs::metadata(path)?;
    let other = |what: &str| std::io::Error::other(what.to_owned());
    if !facts.is_file() {
        return Err(other("it is no file"));
    }
    if facts.len() > LARGEST_FILE {
        return Err(other("it is far too large for a file with credentials"));
    }
    let text = std::fs::read_to_string(path)?;
    // Some editors put a mark in front of UTF-8.
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// Looks for credentials.
///
/// # Errors
/// [`ErrorKind::Auth`] saying where it has looked.
pub(super) async fn find(google: &Google) -> Result<Found> {
    if let Some(found) = file(google)? {
        return Ok(Found::File(found));
    }
    let settings = google.settings();
    let well_known = match &settings.well_known_file {
        Some(path) => format!("`{}` is not there", path.display()),
        None => "no home folder is known".to_owned(),
    };
    let nothing = |metadata: String| {
        Error::new(
            ErrorKind::Auth,
            format!(
                "found no Google credentials: `GOOGLE_APPLICATION_CREDENTIALS` is not set, {well_known}, and {metadata}"
            ),
        )
        .hint(LOGIN)
    };
    let Some(metadata) = &settings.metadata else {
        return Err(nothing(
            "`NO_GCE_CHECK` says that there is no metadata server".to_owned(),
        ));
    };
    match probe(google, metadata).await {
        Probe::There => Ok(Found::Metadata(metadata.clone())),
        Probe::Silent => Err(nothing(format!(
            "no metadata server answers at `{metadata}`"
        ))),
        Probe::Stranger => Err(nothing(format!(
            "what answers at `{metadata}` is no metadata server (its answer lacks `Metadata-Flavor: Google`)"
        ))),
        Probe::Passing(status) => Err(Error::new(
            ErrorKind::Unavailable,
            format!("the metadata server at `{metadata}` answered {status}, {ATTEMPTS} times"),
        )
        .transient(true)),
    }
}

enum Probe {
    There,
    Silent,
    Stranger,
    Passing(u16),
}

async fn probe(google: &Google, metadata: &Endpoint) -> Probe {
    let mut last = Probe::Silent;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            google.clock().sleep(PAUSE * 2u32.pow(attempt - 1)).await;
        }
        let answer = google
            .http(metadata)
            .get(metadata.url(&[], &[]))
            .header("Metadata-Flavor", "Google")
            .timeout(PATIENCE)
            .send()
            .await;
        let Ok(answer) = answer else {
            // Where there is none, waiting for it would only keep a person waiting.
            return Probe::Silent;
        };
        let status = answer.status().as_u16();
        let genuine = answer
            .headers()
            .get("metadata-flavor")
            .is_some_and(|v| v == "Google");
        last = match (PASSING.contains(&status), genuine) {
            (true, _) => Probe::Passing(status),
            (false, true) => return Probe::There,
            (false, false) => return Probe::Stranger,
        };
    }
    last
}
