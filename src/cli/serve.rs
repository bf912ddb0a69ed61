//! `drawoff serve`: what may be said of it.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use clap::Args;

use super::args::span;
use crate::config;
use crate::error::{Error, Result};
use crate::server::{Callers, Defaults, ServeOptions};

/// How to serve.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Port to listen on
    #[arg(long, value_name = "PORT", env = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// Source to run for those who do not say, such as events that are about something else
    #[arg(long, value_name = "NAME", env = "DRAWOFF_SOURCE")]
    pub source: Option<String>,
    /// Stream of it to run; may be repeated [default: all]
    #[arg(
        long = "stream",
        id = "streams",
        value_name = "NAME",
        value_delimiter = ',',
        env = "DRAWOFF_STREAM"
    )]
    pub streams: Vec<String>,
    /// Where rows land [default: drawoff.yaml's, else sqlite:drawoff.db]
    #[arg(long, value_name = "DESTINATION", env = config::DESTINATION)]
    pub destination: Option<String>,
    /// Memory for rows on their way, of each run [default: drawoff.yaml's, else 64MiB]
    #[arg(long, value_name = "SIZE", env = config::MEMORY)]
    pub memory: Option<String>,
    /// Google Cloud project in which secrets are looked up by name
    #[arg(long, value_name = "PROJECT", env = config::PROJECT)]
    pub project: Option<String>,
    /// A request whose run takes longer than this is told where to look
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = span,
        env = "DRAWOFF_ANSWER_WITHIN",
        default_value = "25m"
    )]
    pub answer_within: Duration,
    /// Runs at work at once; whoever asks for more is told to come again
    #[arg(long, value_name = "N", env = "DRAWOFF_MAX_RUNS", default_value = "4")]
    pub max_runs: NonZeroUsize,
    /// Requests a second; those beyond are told to come again
    #[arg(
        long,
        value_name = "N",
        env = "DRAWOFF_MAX_REQUESTS",
        default_value = "50"
    )]
    pub max_requests: NonZeroU32,
    /// Take calls only with an ID token of Google's, for --audience, of an --allow-caller. For where
    /// the platform does not verify callers already
    #[arg(long, env = "DRAWOFF_VERIFY_CALLERS", help_heading = "Callers")]
    pub verify_callers: bool,
    /// What tokens must be for: this service's URL; may be repeated
    #[arg(
        long = "audience",
        id = "audiences",
        value_name = "URL",
        value_delimiter = ',',
        env = "DRAWOFF_AUDIENCE",
        help_heading = "Callers"
    )]
    pub audiences: Vec<String>,
    /// E-mail address of an account that may call; may be repeated
    #[arg(
        long = "allow-caller",
        id = "allowed",
        value_name = "ACCOUNT",
        value_delimiter = ',',
        env = "DRAWOFF_ALLOW_CALLER",
        help_heading = "Callers"
    )]
    pub allowed: Vec<String>,
}

impl ServeArgs {
    /// What the server needs.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`] for callers that can be nobody, or whom nobody verifies.
    pub fn options(&self) -> Result<ServeOptions> {
        let said = |all: &[String]| -> Vec<String> {
            let trimmed = all.iter().map(|text| text.trim().to_owned());
            trimmed.filter(|text| !text.is_empty()).collect()
        };
        let (source, streams) = (
            self.source.clone().filter(|name| !name.trim().is_empty()),
            said(&self.streams),
        );
        if source.is_none() && !streams.is_empty() {
            return Err(Error::config("`--stream` has no effect without `--source`")
                .hint("name the source that the streams are of, or leave `--stream` out"));
        }
        let (audiences, allowed) = (said(&self.audiences), said(&self.allowed));
        let named = !audiences.is_empty() || !allowed.is_empty();
        if !self.verify_callers && named {
            return Err(Error::config(
                "`--audience` and `--allow-caller` have no effect without `--verify-callers`",
            )
            .hint(
                "say `--verify-callers`, or leave them out: whoever reaches the port may call then",
            ));
        }
        if self.verify_callers && (audiences.is_empty() || allowed.is_empty()) {
            return Err(Error::config(
                "`--verify-callers` needs `--audience` and `--allow-caller`",
            )
            .hint("`--audience` is this service's URL, `--allow-caller` the e-mail address of an account that may call"));
        }
        if let Some(nobody) = allowed.iter().find(|a| !a.contains('@')) {
            return Err(Error::config(format!(
                "`--allow-caller {nobody}` is no e-mail address of an account"
            ))
            .hint("write it like `name@project.iam.gserviceaccount.com`"));
        }
        Ok(ServeOptions {
            port: self.port,
            callers: self
                .verify_callers
                .then_some(Callers { audiences, allowed }),
            answer_within: self.answer_within,
            defaults: Defaults { source, streams },
            runs: self.max_runs,
            requests: self.max_requests,
        })
    }
}
