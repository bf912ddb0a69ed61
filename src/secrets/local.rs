//! Secrets out of this machine: `env://` and `file://`, of which files can be written.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};

use super::{SecretRef, SecretStore, SecretWriter, Version};
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

    async fn newest(&self, reference: &SecretRef) -> Result<Version> {
        Ok(Version {
            value: self.get(reference).await?,
            number: None,
        })
    }
}

#[async_trait]
impl SecretWriter for LocalSecrets {
    async fn add(&self, reference: &SecretRef, value: &SecretString) -> Result<Option<String>> {
        let path = writable(reference)?;
        write(path, value).map_err(|e| unwritable(path, &e))?;
        Ok(None)
    }

    async fn disable(&self, _: &SecretRef, _: &str) -> Result<()> {
        Ok(())
    }

    async fn remove(&self, reference: &SecretRef) -> Result<()> {
        let path = writable(reference)?;
        match fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(unwritable(path, &e)),
            _ => Ok(()),
        }
    }
}

fn writable(reference: &SecretRef) -> Result<&Path> {
    match reference {
        SecretRef::File(path) => Ok(path),
        _ => Err(auth(format!("`{reference}` cannot be written"))
            .hint("keep the token in a file (`file:///path`) or in Secret Manager (`gcp://project/secret`)")),
    }
}

fn unwritable(path: &Path, e: &std::io::Error) -> Error {
    auth(format!(
        "could not write secret file `{}`: {e}",
        path.display()
    ))
    .hint("the file and its folder must be this account's, on a disk that can be written")
}

/// Puts the value in the file's place at once and for good, for this account's eyes only: whoever reads
/// it meanwhile, or after a crash, finds the old value or the new one.
fn write(path: &Path, value: &SecretString) -> std::io::Result<()> {
    // What the name leads to is replaced, not the name.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder.join(format!(".{name}.{:016x}", rand::random::<u64>()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| {
            file.write_all(value.expose_secret().as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&draft, &path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written?;
    File::open(folder)?.sync_all()
}

/// The value as it may be used: one trailing newline removed, no control characters but the line
/// breaks of a PEM file, not empty, registered for redaction.
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
    let is_pem = value.expose_secret().starts_with("-----BEGIN ");
    let odd = |c: char| c.is_control() && !(is_pem && matches!(c, '\n' | '\r'));
    if value.expose_secret().chars().any(odd) {
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
    async fn files_are_replaced_whole_and_for_this_account_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/er/token");
        let reference = SecretRef::File(path.clone());
        for value in ["canary-one", "canary-two"] {
            let secret = SecretString::from(value.to_owned());
            store().add(&reference, &secret).await.unwrap();
            let read = store().newest(&reference).await.unwrap();
            assert_eq!(read.value.expose_secret(), value);
            assert_eq!(mode(&path), 0o600);
        }
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        let files = || fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(files(), 1, "no draft is left");
        // Through a link, as the name is used elsewhere.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let linked = SecretRef::File(link.clone());
        let secret = SecretString::from("canary-three".to_owned());
        store().add(&linked, &secret).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "canary-three");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

        store().remove(&reference).await.unwrap();
        store().remove(&reference).await.unwrap();
        assert_eq!(files(), 0);
        let env = SecretRef::Env("TOKEN".into());
        let e = store().add(&env, &secret).await.unwrap_err();
        assert!(e.to_string().contains("`env://TOKEN` cannot be written"));
        let beneath = SecretRef::File(dir.path().join("link/x"));
        fs::write(&path, "x").unwrap();
        let e = store().add(&beneath, &secret).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Auth);
        assert!(!format!("{e:?}").contains("canary"), "{e:?}");
    }

    #[test]
    fn only_a_pem_has_line_breaks() {
        let reference = SecretRef::Env("X".into());
        let pem = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let kept = accept(&reference, pem.to_owned()).unwrap();
        assert_eq!(kept.expose_secret(), pem.trim_end());
        for bad in ["a\nb", "-----BEGIN \0", " -----BEGIN X\n"] {
            assert!(accept(&reference, format!("{bad}x")).is_err(), "{bad:?}");
        }
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
