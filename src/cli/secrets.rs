//! `drawoff secrets`: where a source's secrets are, and new values for them; never a value.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Read as _};

use clap::{Args, Subcommand};
use secrecy::SecretString;

use super::report;
use super::style::Paint;
use super::table::{Align, Table};
use super::words::shell;
use crate::app::{NewSecret, SecretRow, SecretTarget, SetOptions};
use crate::config;
use crate::error::{Error, ErrorKind, Result};
use crate::secrets::{SecretRef, SeenState};

/// More than this is no secret, whatever it is.
const MOST: u64 = 1 << 20;

/// What to do about secrets.
#[derive(Clone, Debug, Subcommand)]
pub enum SecretsCommand {
    /// Store a new value of a secret, read from standard input or typed unseen
    Set(SetArgs),
    /// Show where a source's secrets are and whether they are there; never a value
    List(ListArgs),
}

/// Which secret, and how.
#[derive(Clone, Debug, Args)]
pub struct SetArgs {
    /// The source
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The secret, as the connector calls it
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Make the secret in Secret Manager where it is missing
    #[arg(long)]
    pub create: bool,
    /// Disable the version that was the newest before
    #[arg(long)]
    pub disable_previous: bool,
    /// Google Cloud project in which secrets are looked up by name
    #[arg(long, value_name = "PROJECT", env = config::PROJECT)]
    pub project: Option<String>,
}

/// Whose secrets.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// The source
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Google Cloud project in which secrets are looked up by name
    #[arg(long, value_name = "PROJECT", env = config::PROJECT)]
    pub project: Option<String>,
}

impl SecretsCommand {
    /// The project that is named.
    pub fn project(&self) -> Option<&str> {
        match self {
            Self::Set(args) => args.project.as_deref(),
            Self::List(args) => args.project.as_deref(),
        }
    }
}

impl SetArgs {
    /// How to store the value.
    pub fn options(&self) -> SetOptions {
        SetOptions {
            create: self.create,
            disable_previous: self.disable_previous,
        }
    }
}

/// A new value, and whether a newline at its end was left out.
pub struct Given {
    /// The value.
    pub value: SecretString,
    /// As `echo` writes it.
    pub trimmed: bool,
}

/// Asks for the value: on the terminal, which does not show it, else from standard input.
///
/// # Errors
/// [`ErrorKind::Config`] for what cannot be a secret's value; [`ErrorKind::Interrupted`] for Ctrl-C.
pub fn ask(target: &SecretTarget) -> Result<Given> {
    let SecretTarget { source, key, .. } = target;
    let bad = |what: &str| Error::config(format!("the new value of secret `{key}` {what}"));
    let stdin = std::io::stdin();
    let mut text = if stdin.is_terminal() {
        rpassword::prompt_password(format!("{key} of {source} (not shown): ")).map_err(
            |e| match e.kind() {
                std::io::ErrorKind::Interrupted => {
                    Error::new(ErrorKind::Interrupted, "asked to stop; nothing was stored")
                }
                _ => bad("could not be read from the terminal").source(e),
            },
        )?
    } else {
        let mut bytes = Vec::new();
        stdin
            .lock()
            .take(MOST + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| bad("could not be read from standard input").source(e))?;
        if bytes.len() as u64 > MOST {
            return Err(bad("is larger than 1 MiB; a secret holds 64 KiB at most"));
        }
        // The error of the conversion would carry the bytes.
        String::from_utf8(bytes)
            .map_err(|_| bad("is not UTF-8 text").hint("store the credential as text"))?
    };
    let trimmed = text.ends_with('\n');
    if trimmed {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(Given {
        value: SecretString::from(text),
        trimmed,
    })
}

/// What was done, for people.
pub fn said(target: &SecretTarget, trimmed: bool, new: &NewSecret, paint: Paint) -> String {
    let SecretTarget { source, key, .. } = target;
    let mut text = String::new();
    let done = paint.good("✓");
    let stored = &new.stored;
    if new.created {
        let _ = writeln!(text, "{done} created `{}`", stored.place);
    }
    let _ = match stored.version {
        Some(version) => writeln!(
            text,
            "{done} stored `{key}` of source `{source}` as version {version} of `{}`",
            stored.place
        ),
        None => writeln!(
            text,
            "{done} stored `{key}` of source `{source}` in `{}`",
            stored.place
        ),
    };
    if trimmed {
        let _ = writeln!(text, "  without the newline at its end");
    }
    if let Ok(Some(version)) = new.disabled {
        let _ = writeln!(text, "{done} disabled version {version}");
    }
    if let (SecretRef::Gcp { version, .. }, Some(new)) = (&target.reference, stored.version)
        && version != "latest"
    {
        let _ = writeln!(
            text,
            "{} `drawoff.yaml` names version `{version}`: it is used until `@{new}` stands there",
            paint.warn("!")
        );
    }
    if let Some(variable) = &target.hidden_by {
        let _ = writeln!(
            text,
            "{} `{variable}` is set here and comes first: unset it",
            paint.warn("!")
        );
    }
    text
}

/// Why the version before could not be disabled, once the new one is there.
///
/// # Errors
/// Just that.
pub fn disabled(new: NewSecret) -> Result<()> {
    new.disabled.map(|_| ()).map_err(|e| {
        e.context("the new version is there, but the one before could not be disabled")
    })
}

/// A line for each secret, and below them why something is not known.
pub fn list(source: &str, rows: &[SecretRow], paint: Paint) -> String {
    if rows.is_empty() {
        return format!("source `{source}` has no secrets\n");
    }
    let mut table = Table::new([
        ("key", Align::Left),
        ("place", Align::Left),
        ("version", Align::Right),
        ("state", Align::Left),
        ("created", Align::Left),
    ]);
    let mut troubles = String::new();
    for row in rows {
        let state = match &row.seen.state {
            SeenState::Present => "present",
            SeenState::Missing => "missing",
            SeenState::Disabled => "disabled",
            SeenState::Destroyed => "destroyed",
            SeenState::Unusable(e) => {
                troubles.push_str(&report::text(e, paint));
                "unusable"
            }
            SeenState::Denied(e) => {
                troubles.push_str(&report::text(e, paint));
                "denied"
            }
            SeenState::Unknown(e) => {
                troubles.push_str(&report::text(e, paint));
                "unknown"
            }
        };
        let version = row.seen.version.map(|v| v.to_string());
        let created = row.seen.created.map(|t| t.strftime("%F %T").to_string());
        table.row([
            row.key.clone(),
            row.place.to_string(),
            version.unwrap_or_default(),
            match row.optional {
                true => format!("{state} (optional)"),
                false => state.to_owned(),
            },
            created.unwrap_or_default(),
        ]);
    }
    let mut text = String::new();
    // A place that is cut is none.
    for (i, line) in table.lines(usize::MAX).iter().enumerate() {
        let _ = match i {
            0 => writeln!(text, "{}", paint.strong(line)),
            _ => writeln!(text, "{line}"),
        };
    }
    if !troubles.is_empty() {
        let _ = write!(text, "\n{troubles}");
    }
    if let Some(missing) = rows.iter().find(|row| {
        !row.optional && matches!(row.seen.state, SeenState::Missing) && row.can_be_set()
    }) {
        let _ = writeln!(
            text,
            "\n{}: drawoff secrets set {} {} --create",
            paint.hint("next"),
            shell(source),
            shell(&missing.key)
        );
    }
    text
}
