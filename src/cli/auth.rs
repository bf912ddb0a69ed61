//! `drawoff auth`: logins of a source; who this program is to Google, and its tokens.

use std::fmt::Write as _;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

use super::login::{LoginArgs, LogoutArgs};
use super::style::Paint;
use crate::google::{CLOUD_PLATFORM, Who};

/// What to do about credentials.
#[derive(Clone, Debug, Subcommand)]
pub enum AuthCommand {
    /// Log in to a source's API in a browser, once, and store the refresh token that runs use from then on
    Login(LoginArgs),
    /// Revoke a source's refresh token, where the connector says how, and remove it
    Logout(LogoutArgs),
    /// Say which Google credentials are found, where, and whose they are; never a token
    Whoami(WhoamiArgs),
    /// Print an access token for Google's APIs
    PrintAccessToken(AccessTokenArgs),
    /// Print an ID token, for a Cloud Run service, a function or what is behind Identity-Aware Proxy
    PrintIdentityToken(IdentityTokenArgs),
}

/// What the access token is for.
#[derive(Clone, Debug, Args)]
pub struct AccessTokenArgs {
    /// What the token may be used for; with commas
    #[arg(
        long,
        value_parser = NonEmptyStringValueParser::new(),
        value_name = "SCOPE",
        value_delimiter = ',',
        default_value = CLOUD_PLATFORM
    )]
    pub scopes: Vec<String>,
}

/// How to say it.
#[derive(Clone, Debug, Args)]
pub struct WhoamiArgs {
    /// See [`AccessTokenArgs`].
    #[command(flatten)]
    pub token: AccessTokenArgs,
    /// Say it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Whom the ID token is for.
#[derive(Clone, Debug, Args)]
pub struct IdentityTokenArgs {
    /// Whom it is for: the root URL of the service, or the client id of Identity-Aware Proxy
    #[arg(long, value_name = "AUDIENCE", value_parser = NonEmptyStringValueParser::new())]
    pub audience: String,
}

impl AccessTokenArgs {
    /// The scopes; `bigquery` is short for `https://www.googleapis.com/auth/bigquery`.
    pub fn scopes(&self) -> Vec<String> {
        let full = |scope: &String| match scope.contains([':', '/'])
            || scope == "openid"
            || scope == "email"
        {
            true => scope.clone(),
            false => format!("https://www.googleapis.com/auth/{scope}"),
        };
        self.scopes.iter().map(full).collect()
    }
}

/// Who it is, for people.
pub fn render(who: &Who, now: jiff::Timestamp, paint: Paint) -> String {
    let unknown = || "unknown".to_owned();
    let expires = who.expires_at.map_or_else(unknown, |at| {
        let minutes = at.duration_since(now).as_secs() / 60;
        format!("{at} (in {minutes} min; renewed by itself)")
    });
    let scopes = match who.scopes.is_empty() {
        true => unknown(),
        false => who.scopes.join(" "),
    };
    let mut lines = vec![
        ("account", who.account.clone().unwrap_or_else(unknown)),
        ("credentials", who.credentials.clone()),
        ("project", who.project.clone().unwrap_or_else(unknown)),
        ("scopes", scopes),
        ("expires", expires),
    ];
    if !who.delegates.is_empty() {
        lines.insert(1, ("by way of", who.delegates.join(", ")));
    }
    if let Some(quota) = &who.quota_project {
        lines.push(("quota project", quota.clone()));
    }
    if who.universe_domain != crate::google::GoogleSettings::UNIVERSE {
        lines.push(("universe", who.universe_domain.clone()));
    }
    let mut text = String::new();
    for (name, value) in lines {
        let _ = writeln!(text, "{} {value}", paint.dim(&format!("{name:>13}")));
    }
    text
}
