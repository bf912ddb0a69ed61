//! `drawoff connectors`: which connectors there are, and what one declares.

use std::fmt::Write as _;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::style::Paint;
use super::table::{Align, Table};
use super::words::{count, grouped, span};
use crate::connector::{
    Auth, ClientAuth, Connector, CursorField, Grant, KeyPlace, LoginPlace, Pagination, Step, Stream,
};
use crate::http::RateLimit;
use crate::schema::landing::{Disposition, PartitionUnit};

/// What to show.
#[derive(Clone, Debug, Subcommand)]
pub enum ConnectorsCommand {
    /// List the connectors: the built-in ones and those of `--connectors`
    List,
    /// Show what a connector needs, how it asks, and its streams
    Describe(DescribeArgs),
}

/// Which connector to show.
#[derive(Clone, Debug, Args)]
pub struct DescribeArgs {
    /// The connector
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// A line for each connector.
pub fn list(connectors: &[Connector], width: usize, paint: Paint) -> String {
    let mut table = Table::new([
        ("name", Align::Left),
        ("title", Align::Left),
        ("streams", Align::Right),
        ("credentials", Align::Left),
    ]);
    for c in connectors {
        let mut kinds: Vec<&str> = c.auths.iter().map(auth_kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        table.row([
            c.name.clone(),
            c.title.clone(),
            grouped(c.streams.len() as u64),
            kinds.join(", "),
        ]);
    }
    let mut text = headed(&table, width, paint);
    let _ = writeln!(
        text,
        "\n{}",
        paint.dim("`drawoff connectors describe NAME` shows what one needs and gives")
    );
    text
}

/// Everything that somebody who wants to use a connector asks.
pub fn describe(connector: &Connector, width: usize, paint: Paint) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}: {}",
        paint.strong(&connector.name),
        connector.title
    );
    if !connector.description.is_empty() {
        let _ = writeln!(text, "{}", connector.description.trim());
    }
    if let Some(docs) = &connector.docs {
        let _ = writeln!(text, "{docs}");
    }

    if !connector.config.is_empty() {
        let _ = writeln!(text, "\n{}", paint.strong("Configuration"));
        let mut table = Table::new([("", Align::Left), ("", Align::Left), ("", Align::Left)]);
        for key in &connector.config {
            let kind = match (key.secret, &key.default, key.optional) {
                (true, _, false) => "secret".to_owned(),
                (true, _, true) => "secret, optional".to_owned(),
                (false, Some(default), _) => format!("default {default}"),
                (false, None, true) => "optional".to_owned(),
                (false, None, false) => "required".to_owned(),
            };
            table.row([key.name.clone(), kind, key.description.clone()]);
        }
        for line in table.lines(width.saturating_sub(2)).iter().skip(1) {
            let _ = writeln!(text, "  {}", line.trim_start());
        }
    }

    let _ = writeln!(text, "\n{}", paint.strong("Requests"));
    for auth in &connector.auths {
        let _ = writeln!(text, "  credentials: {}", auth_text(auth));
    }
    for limit in &connector.rate_limits {
        let _ = writeln!(text, "  rate limit: {}", limit_text(limit));
    }
    let _ = writeln!(
        text,
        "  at once: {}",
        count(connector.concurrency as u64, "request")
    );

    let _ = writeln!(text, "\n{}", paint.strong("Streams"));
    for stream in &connector.streams {
        let _ = writeln!(
            text,
            "  {}{}",
            paint.strong(&stream.name),
            match stream.description.trim() {
                "" => String::new(),
                about => format!(": {about}"),
            }
        );
        for line in stream_lines(stream) {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}

fn headed(table: &Table, width: usize, paint: Paint) -> String {
    let mut text = String::new();
    for (i, line) in table.lines(width).iter().enumerate() {
        let _ = match i {
            0 => writeln!(text, "{}", paint.strong(line)),
            _ => writeln!(text, "{line}"),
        };
    }
    text
}

fn stream_lines(stream: &Stream) -> Vec<String> {
    let mut lines = vec![format!(
        "{} {}",
        stream.request.method,
        stream.request.path.as_str()
    )];
    if let Some(parent) = &stream.parent {
        lines.push(format!("once for each record of `{}`", parent.stream));
    }
    lines.push(format!("pages: {}", paging_text(&stream.pagination)));
    lines.push(match &stream.incremental {
        None => "reads everything in each run".to_owned(),
        Some(incremental) => {
            let cursor = match &incremental.cursor {
                CursorField::Own(field) => format!("`{field}`"),
                CursorField::Parent(field) => format!("`{field}` of its parent"),
            };
            let lookback = match incremental.lookback {
                Duration::ZERO => String::new(),
                back => format!(", going back {}", span(back)),
            };
            format!("reads what is new by {cursor}{lookback}")
        }
    });
    let table = &stream.table;
    let mut facts = vec![match table.disposition {
        Disposition::Append => "rows are added".to_owned(),
        Disposition::Replace => "replaced in each run".to_owned(),
        Disposition::Merge => format!("merged by {}", stream.primary_key.join(", ")),
        Disposition::Scd2 => format!("history by {}", stream.primary_key.join(", ")),
    }];
    if let Some(partition) = &table.partition {
        let unit = match partition.unit {
            PartitionUnit::Day => String::new(),
            unit => format!(" per {}", unit.sql().to_lowercase()),
        };
        facts.push(format!("partitioned by {}{unit}", partition.column));
    }
    if !table.cluster_by.is_empty() {
        facts.push(format!("clustered by {}", table.cluster_by.join(", ")));
    }
    facts.push(match &stream.schema {
        Some(schema) => count(schema.columns.len() as u64, "column"),
        None => "columns inferred".to_owned(),
    });
    lines.push(format!("table `{}`: {}", table.name, facts.join(", ")));
    lines
}

fn auth_kind(auth: &Auth) -> &'static str {
    match auth {
        Auth::None => "none",
        Auth::Basic { .. } => "Basic",
        Auth::Bearer { .. } => "bearer token",
        Auth::ApiKey { .. } => "API key",
        Auth::OAuth(oauth) => match &oauth.grant {
            Grant::ClientCredentials => "OAuth client",
            Grant::Password { .. } => "OAuth password",
            Grant::RefreshToken { .. } => "OAuth refresh token",
            Grant::JwtBearer(_) => "OAuth signed statement",
            Grant::AuthorizationCode(_) => "OAuth login",
        },
        Auth::Jwt { .. } => "signed token",
        Auth::Session(_) => "session",
        Auth::GoogleAccessToken { .. } => "Google access token",
        Auth::GoogleIdToken { .. } => "Google ID token",
    }
}

fn auth_text(auth: &Auth) -> String {
    match auth {
        Auth::None
        | Auth::Basic { .. }
        | Auth::Bearer { .. }
        | Auth::GoogleAccessToken { .. }
        | Auth::GoogleIdToken { audience: None } => auth_kind(auth).to_owned(),
        Auth::GoogleIdToken {
            audience: Some(audience),
        } => format!("{} for {}", auth_kind(auth), audience.as_str()),
        Auth::ApiKey { place, .. } => match place {
            KeyPlace::Header(name) => format!("API key in header `{name}`"),
            KeyPlace::Query(name) => format!("API key in parameter `{name}`"),
        },
        Auth::OAuth(oauth) => {
            let client = match &oauth.client_auth {
                _ if oauth.client_id.as_str().is_empty() => "no client",
                ClientAuth::PrivateKeyJwt(_) => "signed",
                _ if oauth.client_secret.as_str().is_empty() => "public client",
                ClientAuth::Basic => "Basic",
                ClientAuth::BasicRaw => "Basic, not encoded",
                ClientAuth::Post => "in the body",
            };
            let grant = match &oauth.grant {
                Grant::ClientCredentials => "OAuth client credentials".to_owned(),
                Grant::AuthorizationCode(_) => "OAuth login by `drawoff auth login`".to_owned(),
                _ => auth_kind(auth).to_owned(),
            };
            format!("{grant} ({client}) from {}", oauth.token_url.as_str())
        }
        Auth::Jwt { .. } => auth_kind(auth).to_owned(),
        Auth::Session(session) => match &session.login {
            LoginPlace::Path(at) | LoginPlace::Url(at) => {
                format!("session from {} {}", session.method, at.as_str())
            }
        },
    }
}

fn limit_text(limit: &RateLimit) -> String {
    let per = match limit.per.as_secs() {
        1 => "second".to_owned(),
        60 => "minute".to_owned(),
        3_600 => "hour".to_owned(),
        86_400 => "day".to_owned(),
        _ => span(limit.per),
    };
    let requests = u64::from(limit.requests.get());
    format!("{} a {per}", count(requests, "request"))
}

fn paging_text(pagination: &Pagination) -> String {
    let step = match &pagination.step {
        Step::Single => "one only".to_owned(),
        Step::Page { param, first, .. } => format!("numbered from {first} by `{param}`"),
        Step::Offset { param } => format!("by offset `{param}`"),
        Step::Cursor { param, .. } => format!("by token `{param}`"),
        Step::Link { rel } => format!("by `Link` header `{rel}`"),
        Step::NextUrl { .. } => "by the next page's URL".to_owned(),
    };
    match &pagination.size {
        Some(size) => format!("{step}, {} each", count(size.value, "record")),
        None => step,
    }
}

#[cfg(test)]
#[path = "connectors_tests.rs"]
mod tests;
