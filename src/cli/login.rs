//! `drawoff auth login` and `logout`: a person logs in to a source's API, once, and out.

use std::io::{BufRead as _, Write as _};
use std::time::Duration;

use clap::Args;
use tokio::sync::mpsc;
use url::Url;

use super::args::{SourceOverrides, span};
use super::style::Paint;
use super::words::shell;
use crate::app::{LoginOptions, LoginShown, LogoutOptions};
use crate::config;

/// How to log in.
#[derive(Clone, Debug, Args)]
pub struct LoginArgs {
    /// The source to log in for
    #[arg(
        long,
        value_name = "NAME",
        env = "DRAWOFF_SOURCE",
        help_heading = "Source"
    )]
    pub source: String,
    /// See [`SourceOverrides`].
    #[command(flatten)]
    pub overrides: SourceOverrides,
    /// A stream whose credentials are meant, where the source has more than one login
    #[arg(long, value_name = "STREAM")]
    pub stream: Option<String>,
    /// Print the page's address instead of opening it. Where the browser runs on another machine, paste
    /// the address that it ends at
    #[arg(long)]
    pub no_browser: bool,
    /// Port of this machine that the browser comes back to [default: the connector's, else a free one]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// How long to wait for the login
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "5m")]
    pub timeout: Duration,
    /// The destination, which keeps two processes from using one token in Secret Manager at once
    #[arg(long, value_name = "DESTINATION", env = config::DESTINATION)]
    pub destination: Option<String>,
}

/// What to log out of.
#[derive(Clone, Debug, Args)]
pub struct LogoutArgs {
    /// The source to log out of
    #[arg(
        long,
        value_name = "NAME",
        env = "DRAWOFF_SOURCE",
        help_heading = "Source"
    )]
    pub source: String,
    /// See [`SourceOverrides`].
    #[command(flatten)]
    pub overrides: SourceOverrides,
    /// A stream whose credentials are meant, where the source has more than one login
    #[arg(long, value_name = "STREAM")]
    pub stream: Option<String>,
    /// Only remove the token here; the API takes it until it is revoked there
    #[arg(long)]
    pub no_revoke: bool,
    /// The destination, which keeps two processes from using one token in Secret Manager at once
    #[arg(long, value_name = "DESTINATION", env = config::DESTINATION)]
    pub destination: Option<String>,
}

impl LogoutArgs {
    /// The same without what is only about the terminal.
    pub fn options(&self) -> LogoutOptions {
        LogoutOptions {
            source: self.source.clone(),
            stream: self.stream.clone(),
            revoke: !self.no_revoke,
        }
    }
}

impl LoginArgs {
    /// The same without what is only about the terminal.
    pub fn options(&self) -> LoginOptions {
        LoginOptions {
            source: self.source.clone(),
            stream: self.stream.clone(),
            port: self.port,
            patience: self.timeout,
        }
    }
}

/// Shows what the person has to do, on standard error.
pub fn show(shown: LoginShown<'_>, no_browser: bool) {
    match shown {
        LoginShown::NotIt => {
            say(
                "this is not an address that this login ended at; paste the whole line from the browser's address bar",
            );
        }
        LoginShown::Open(url) if no_browser => say(&format!(
            "open this page in a browser and log in:\n\n{url}\n\nthe browser then comes back to this machine. Where it runs on another one, it ends at a page that cannot be\nreached: paste that page's address here"
        )),
        LoginShown::Open(url) => match open(url) {
            true => say(&format!(
                "opened a browser to log in; if there is none, open this page:\n\n{url}\n"
            )),
            false => say(&format!(
                "no browser could be opened; open this page and log in:\n\n{url}\n"
            )),
        },
    }
}

/// Opens a browser, if there is one.
fn open(url: &Url) -> bool {
    // What the browser says goes nowhere: it would stand between our lines.
    let mut options = webbrowser::BrowserOptions::new();
    options.with_suppress_output(true);
    webbrowser::open_browser_with_options(webbrowser::Browser::Default, url.as_str(), &options)
        .is_ok()
}

/// Past no redaction: the address is the person's to open, and holds nothing secret, but perhaps a
/// client id that was declared to be one.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Lines that are pasted on standard input, where that is asked for.
pub fn pasted(no_browser: bool) -> mpsc::Receiver<String> {
    let (lines, pasted) = mpsc::channel(1);
    if no_browser {
        // A thread of its own: nothing can end the wait for a line but the end of the process.
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if !line.trim().is_empty() && lines.blocking_send(line).is_err() {
                    return;
                }
            }
        });
    }
    pasted
}

/// What a login did, and what comes next.
pub fn logged_in(source: &str, place: &str, paint: Paint) -> String {
    format!(
        "{} logged in: the refresh token of source `{source}` is stored in `{place}`\n\nnext: drawoff check --source {}\n",
        paint.good("✓"),
        shell(source)
    )
}

/// What a logout did, a sentence each.
pub fn logged_out(done: &[String], paint: Paint) -> String {
    done.iter()
        .map(|done| format!("{} {done}\n", paint.good("✓")))
        .collect()
}
