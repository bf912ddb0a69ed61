//! Secrets out of this machine: `env://` and `file://`.

use std::io::Read;
use std::path::Path;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};

use super::{SecretRef, SecretStore};
use crate::config::Environment;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::redact;

/// Largest secret, as in Secret Manager.
const MAX_BYTES: u64 = 64 * 1024;

/// Reads `env://` and `file://` references.
#[derive(Clone, Debug)]
pub struct LocalSecrets {
    environment: Environment,
}

impl LocalSecrets {
    /// Reads variables from that environment.
    pub fn new(environment: Environment) -> Self {
        Self { environment }
    }
}

#[async_trait]
impl SecretStore for LocalSecrets {
    async fn get(&self, reference: &SecretRef) -> Result<SecretString> {
        let value = match reference {
            SecretRef::Env(name) => match self.environment.get(name) {
                Some(value) => value,
                None => {
                    return Err(auth(format!(
                        "environment variable `{name}` is not set, or empty"
                    ))
                    .hint(format!("set `{name}` to the secret's value")));
                }
            },
            SecretRef::File(path) => read(path)?,
            SecretRef::Gcp { .. } => {
                return Err(Error::new(
                    ErrorKind::Bug,
                    format!("`{reference}` was asked of this machine"),
                ));
            }
        };
        accept(reference, value)
    }
}

/// The value as it may be used: one trailing newline removed, no control characters, not empty,
/// registered for redaction.
///
/// # Errors
/// [`ErrorKind::Config`] naming the reference, never the value: it is there and cannot be used.
pub fn accept(reference: &SecretRef, mut value: String) -> Result<SecretString> {
    if value.ends_with('\n') {
        value.pop();
        if value.ends_with('\r') {
            value.pop();
        }
    }
    let value = SecretString::from(value);
    // Registered before anything else can go wrong.
    redact::register(value.expose_secret());
    if value.expose_secret().is_empty() {
        return Err(Error::config(format!("secret `{reference}` is empty")));
    }
    if value.expose_secret().chars().any(char::is_control) {
        return Err(Error::config(format!(
            "secret `{reference}` contains control characters"
        ))
        .hint("a credential is one line; store it without line breaks, for example with `printf %s`"));
    }
    Ok(value)
}

fn read(path: &Path) -> Result<String> {
    let name = path.display();
    let file = std::fs::File::open(path).map_err(|e| {
        auth(format!("could not open secret file `{name}`: {e}"))
            .hint("check that the file is mounted and readable")
    })?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| auth(format!("could not read secret file `{name}`: {e}")))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(auth(format!(
            "secret file `{name}` is larger than {MAX_BYTES} bytes"
        )));
    }
    // The error of the conversion would carry the bytes.
    String::from_utf8(bytes).map_err(|_| auth(format!("secret file `{name}` is not UTF-8 text")))
}

fn auth(message: String) -> Error {
    Error::new(ErrorKind::Auth, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> LocalSecrets {
        LocalSecrets::new(Environment::of([
            ("TOKEN", "canary-env-1\n"),
            ("BAD", "canary\r\nX: 1"),
        ]))
    }

    #[tokio::test]
    async fn reads_variables_and_trims_one_newline() {
        let value = store().get(&SecretRef::Env("TOKEN".into())).await.unwrap();
        assert_eq!(value.expose_secret(), "canary-env-1");
        assert_eq!(redact::scrub("x canary-env-1 y"), "x [redacted] y");
        let e = store()
            .get(&SecretRef::Env("NONE".into()))
            .await
            .unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Auth);
        assert!(e.to_string().contains("`NONE`"), "{e}");
    }

    #[tokio::test]
    async fn refuses_control_characters_without_showing_them() {
        let e = store()
            .get(&SecretRef::Env("BAD".into()))
            .await
            .unwrap_err();
        assert!(!format!("{e:?}").contains("canary"), "{e:?}");
        assert!(e.to_string().contains("control characters"), "{e}");
    }

    #[tokio::test]
    async fn reads_files_within_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            SecretRef::File(path)
        };
        let value = store().get(&put("a", b"canary-file-1\r\n")).await.unwrap();
        assert_eq!(value.expose_secret(), "canary-file-1");
        for (name, bytes, says) in [
            ("two", b"canary-2\n\n".to_vec(), "control characters"),
            ("empty", b"\n".to_vec(), "is empty"),
            ("binary", vec![0xff, 0xfe, 0x80], "not UTF-8"),
            ("large", vec![b'x'; 70_000], "larger than"),
        ] {
            let e = store().get(&put(name, &bytes)).await.unwrap_err();
            assert!(e.to_string().contains(says), "{name}: {e}");
            assert!(!format!("{e:?}").contains("canary-2"), "{e:?}");
        }
        let e = store()
            .get(&SecretRef::File("/nonexistent/x".into()))
            .await
            .unwrap_err();
        assert!(e.to_string().contains("could not open"), "{e}");
    }
}
