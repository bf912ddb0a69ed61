//! `drawoff serve`: what may be said of it.

use std::time::Duration;

use clap::Args;

use super::args::span;
use crate::config;
use crate::server::{Callers, ServeOptions};

/// How to serve.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Port to listen on
    #[arg(long, value_name = "PORT", env = "PORT", default_value_t = 8080)]
    pub port: u16,
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
    /// Take calls only with an ID token of Google's, for --audience, of an --allow-caller. For where
    /// the platform does not verify callers already
    #[arg(
        long,
        env = "DRAWOFF_VERIFY_CALLERS",
        requires_all = ["audiences", "allowed"],
        help_heading = "Callers"
    )]
    pub verify_callers: bool,
    /// What tokens must be for: this service's URL; may be repeated
    #[arg(
        long = "audience",
        id = "audiences",
        value_name = "URL",
        value_delimiter = ',',
        env = "DRAWOFF_AUDIENCE",
        requires = "verify_callers",
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
        requires = "verify_callers",
        help_heading = "Callers"
    )]
    pub allowed: Vec<String>,
}

impl ServeArgs {
    /// What the server needs.
    pub fn options(&self) -> ServeOptions {
        ServeOptions {
            port: self.port,
            callers: self.verify_callers.then(|| Callers {
                audiences: self.audiences.clone(),
                allowed: self.allowed.clone(),
            }),
            answer_within: self.answer_within,
        }
    }
}
