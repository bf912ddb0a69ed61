//! Secrets out of this machine: `env://` and `file://`, of which files can be written.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};

use super::{SecretRef, SecretStore, SecretWriter, Stored, Version};
use crate::config::Environment;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::redact;

/// Largest secret, as in Secret Manager.
const MAX_BYTES: u64 = 64 * 1024;

/// Reads `env://` and `file://` references, and writes the latter.
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
    async fn put(&self, reference: &SecretRef, value: &SecretString) -> Result<Stored> {
        fit(reference, value)?;
        let path = file_of(reference)?;
        write(path, value)?;
        Ok(Stored {
            place: path.display().to_string(),
            version: None,
        })
    }

    async fn writable(&self, reference: &SecretRef) -> Result<()> {
        let target = Target::of(file_of(reference)?)?;
        let draft = target.draft();
        let tried = create(&draft);
        let _ = fs::remove_file(&draft);
        tried.map(drop).map_err(|e| target.failed(e))
    }

    async fn disable(&self, _: &SecretRef, _: u64) -> Result<()> {
        Ok(())
    }

    async fn remove(&self, reference: &SecretRef) -> Result<()> {
        match reference {
            SecretRef::File(path) => match fs::remove_file(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(auth(format!(
                    "could not remove secret file `{}`: {e}",
                    path.display()
                ))
                .hint("check that this user may write to its folder")),
                _ => Ok(()),
            },
            SecretRef::Env(name) => Err(Error::config(format!(
                "`{reference}` cannot be removed: a variable is set by who starts the program"
            ))
            .hint(format!("unset `{name}` where the program is started"))),
            SecretRef::Gcp { .. } => Err(Error::new(
                ErrorKind::Bug,
                format!("`{reference}` was given to this machine"),
            )),
        }
    }
}

/// Whether a value may be written: what [`accept`] would refuse, or change, is not. Registers it for
/// redaction first.
///
/// # Errors
/// [`ErrorKind::Config`] naming the reference, never the value.
pub fn fit(reference: &SecretRef, value: &SecretString) -> Result<()> {
    let text = value.expose_secret();
    redact::register(text);
    let bad = |what: &str| Error::config(format!("the new value of `{reference}` {what}"));
    if text.is_empty() {
        return Err(bad("is empty").hint("a credential has at least one character"));
    }
    if text.len() as u64 > MAX_BYTES {
        return Err(bad(&format!(
            "has {} bytes; a secret holds {MAX_BYTES} at most",
            text.len()
        ))
        .hint("store what is needed to sign in, and nothing else"));
    }
    if has_odd_characters(text) {
        return Err(bad("contains line breaks or other control characters")
            .hint("a credential is one line; no connector can use another"));
    }
    Ok(())
}

/// Whether there are control characters, other than the line breaks of a PEM file.
fn has_odd_characters(text: &str) -> bool {
    let is_pem = text.starts_with("-----BEGIN ");
    text.chars()
        .any(|c| c.is_control() && !(is_pem && matches!(c, '\n' | '\r')))
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
        return Err(Error::config(format!("secret `{reference}` is empty"))
            .hint("store the credential there: it has at least one character"));
    }
    if has_odd_characters(value.expose_secret()) {
        return Err(Error::config(format!(
            "secret `{reference}` contains control characters"
        ))
        .hint("a credential is one line; store it without line breaks, for example with `printf %s`"));
    }
    Ok(value)
}

fn read(path: &Path) -> Result<String> {
    let name = path.display();
    let file = File::open(path).map_err(|e| {
        auth(format!("could not open secret file `{name}`: {e}"))
            .hint("check that the file is mounted and readable")
    })?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| {
            auth(format!("could not read secret file `{name}`: {e}"))
                .hint("check that it is a file, and readable")
        })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(auth(format!(
            "secret file `{name}` is larger than {MAX_BYTES} bytes"
        )));
    }
    // The error of the conversion would carry the bytes.
    String::from_utf8(bytes).map_err(|_| auth(format!("secret file `{name}` is not UTF-8 text")))
}

/// The file that a new value goes into.
fn file_of(reference: &SecretRef) -> Result<&Path> {
    match reference {
        SecretRef::File(path) => Ok(path),
        SecretRef::Env(name) => Err(Error::config(format!(
            "`{reference}` cannot be written: a variable is set by who starts the program"
        ))
        .hint(format!(
            "set `{name}` where the program is started, or keep the secret elsewhere: `gcp://project/secret` or `file:///path`"
        ))),
        SecretRef::Gcp { .. } => Err(Error::new(
            ErrorKind::Bug,
            format!("`{reference}` was given to this machine"),
        )),
    }
}

/// A secret's file, whose folder is there.
struct Target {
    path: PathBuf,
    folder: PathBuf,
    name: OsString,
}

impl Target {
    /// Makes the folder where it is missing.
    fn of(path: &Path) -> Result<Self> {
        // What a link leads to is replaced, not the link.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if path.is_dir() {
            return Err(auth(format!(
                "could not write secret file `{}`: it is a folder",
                path.display()
            ))
            .hint("name a file in it"));
        }
        let (Some(name), Some(folder)) = (path.file_name(), path.parent()) else {
            return Err(auth(format!("`{}` names no file", path.display())));
        };
        let folder = match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        };
        let target = Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            path,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&target.folder)
            .map_err(|e| target.failed(e))?;
        Ok(target)
    }

    /// A file of its own beside it.
    fn draft(&self) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(format!(".{:08x}", rand::random::<u32>()));
        self.folder.join(name)
    }

    fn failed(&self, e: std::io::Error) -> Error {
        auth(format!(
            "could not write secret file `{}`: {e}",
            self.path.display()
        ))
        .hint("check that this user may write to its folder")
    }
}

/// A new file that nobody but this user can read.
fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Puts the value into the file in one step, so that a reader finds the old one or the new one, whole.
/// Nobody but this user can read it.
fn write(path: &Path, value: &SecretString) -> Result<()> {
    let target = Target::of(path)?;
    let draft = target.draft();
    let written = create(&draft)
        .and_then(|mut file| {
            file.write_all(value.expose_secret().as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&draft, &target.path));
    if let Err(e) = written {
        // What is left of it holds the value, or a part.
        let _ = fs::remove_file(&draft);
        return Err(target.failed(e));
    }
    // The rename itself; some file systems cannot, and then there is nothing to be done.
    let _ = File::open(&target.folder).and_then(|folder| folder.sync_all());
    Ok(())
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
            store().put(&reference, &secret).await.unwrap();
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
        store().put(&linked, &secret).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "canary-three");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

        store().remove(&reference).await.unwrap();
        store().remove(&reference).await.unwrap();
        assert_eq!(files(), 0);
        let env = SecretRef::Env("TOKEN".into());
        let e = store().put(&env, &secret).await.unwrap_err();
        assert!(e.to_string().contains("`env://TOKEN` cannot be written"));
        let beneath = SecretRef::File(dir.path().join("link/x"));
        fs::write(&path, "x").unwrap();
        let e = store().put(&beneath, &secret).await.unwrap_err();
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

    #[tokio::test]
    async fn writes_files_that_nobody_else_can_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/folder/token");
        let reference = SecretRef::File(path.clone());
        for value in ["canary-put-1", "canary-put-2"] {
            let stored = store().put(&reference, &value.to_owned().into()).await;
            assert_eq!(stored.unwrap().to_string(), path.display().to_string());
            assert_eq!(
                store().get(&reference).await.unwrap().expose_secret(),
                value
            );
            assert_eq!(mode(&path), 0o600);
        }
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(mode(&dir.path().join("new")), 0o700);
        // One that others could read before, behind a link that is kept.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let by_link = SecretRef::File(link.clone());
        let value = SecretString::from("canary-put-3".to_owned());
        store().put(&by_link, &value).await.unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "canary-put-3");
        assert_eq!(mode(&path), 0o600);
        let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "something is left beside the file");
    }

    #[tokio::test]
    async fn what_a_reader_would_refuse_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let file = SecretRef::File(path.clone());
        for (value, says) in [
            ("", "is empty"),
            ("canary-line\n", "control characters"),
            ("canary\u{7f}", "control characters"),
            (&"x".repeat(65_537), "65537 bytes"),
        ] {
            let e = store().put(&file, &value.to_owned().into()).await;
            let e = e.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Config);
            assert!(e.to_string().contains(says), "{e}");
            assert!(!format!("{e:?}").contains("canary"), "{e:?}");
            assert!(!path.exists());
        }
        let largest = "x".repeat(65_536).into();
        store().put(&file, &largest).await.unwrap();
        let e = store().put(&SecretRef::Env("TOKEN".into()), &largest).await;
        let e = e.unwrap_err();
        assert!(e.find_hint().unwrap().contains("set `TOKEN`"), "{e:?}");
        let e = store()
            .put(&SecretRef::File("/dev/null/x".into()), &largest)
            .await
            .unwrap_err();
        assert!(e.to_string().contains("could not write secret file"), "{e}");
    }
}
