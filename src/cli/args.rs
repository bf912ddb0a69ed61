//! Arguments as typed, parsed into what the commands need. Every flag that can have one has an
//! environment variable; clap reads those, so nothing else in the command line does.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{
    ArgAction, ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    ValueEnum,
};
use jiff::{SignedDuration, Timestamp};
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::{auth, check, connectors, deploy, lint, preview, run, schema, secrets, serve};
use crate::config::{self, Environment};
use crate::settings::Overrides;
use crate::telemetry::log;

const LONG_ABOUT: &str = "\
Draws rows off third-party REST APIs and lands them in BigQuery, exactly once.

A connector (one YAML file) declares an API; a source is a configured use of one: which account, which \
secrets. `drawoff --source X` reads what is new in every stream of X and publishes it. Rows and the \
place to go on from become visible in one transaction: stop it at any moment and run it again, and \
nothing is lost or doubled.";

const AFTER_HELP: &str = "\
Start with `drawoff --source demo`: no account, no configuration, no network. `--help` shows more.";

const AFTER_LONG_HELP: &str = "\
Examples:
  drawoff --source demo                              try it: rows land in ./drawoff.db
  drawoff --source demo --destination parquet:out    the same into Parquet files
  drawoff --source acme --stream tickets             one stream of a source of yours
  drawoff --all                                      every source of drawoff.yaml, in its order
  drawoff --source acme --since 2024-01-01           load again from that day on
  drawoff check --source acme                        are credentials and permissions right?
  drawoff preview --source acme --stream tickets     look at rows, store nothing
  drawoff secrets set acme token                     store a secret, typed unseen
  drawoff auth login --source acme                   log in in a browser, for APIs that want that
  drawoff lint connectors/acme.yaml                  is the connector well written?
  drawoff deploy --print --source acme --region …    the commands that put it on a schedule

Destinations:
  sqlite:FILE                 SQLite database (default: sqlite:drawoff.db)
  bigquery:PROJECT.DATASET    BigQuery
  parquet:DIR                 Parquet files, a folder a table

Exit codes:
  0   done: everything is published
  1   failed: something must be mended first
  2   usage or configuration: a flag, drawoff.yaml or a connector is wrong
  75  try again later: the API or the destination is not available, the run was stopped, or another
      run of the source is at work

Environment:
  DRAWOFF_...                       in place of flags; the variable is named beside each of them
  DRAWOFF_<SOURCE>_<KEY>            a configuration value or secret of a source
  NO_COLOR                          no colours
  HTTPS_PROXY, NO_PROXY             proxies
  GOOGLE_APPLICATION_CREDENTIALS    Google credentials, where the usual places do not do
  BIGQUERY_EMULATOR_HOST            an emulator in place of BigQuery, together with…
  BIGQUERY_STORAGE_EMULATOR_HOST    …its port for the Storage Write API
  K_SERVICE, CLOUD_RUN_JOB          set by Cloud Run: log lines are JSON";

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "drawoff",
    version,
    about = "Draws rows off third-party REST APIs and lands them in BigQuery",
    long_about = LONG_ABOUT,
    after_help = AFTER_HELP,
    after_long_help = AFTER_LONG_HELP,
    override_usage = "drawoff --source NAME [OPTIONS]\n       drawoff --all [OPTIONS]\n       drawoff COMMAND",
    subcommand_help_heading = "Commands",
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// A command other than to run a source.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to run, without a command.
    #[command(flatten)]
    pub run: run::RunArgs,
    /// Flags of all commands.
    #[command(flatten)]
    pub global: GlobalArgs,
}

/// A command other than to run a source.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the connectors there are, or what one of them declares
    #[command(subcommand)]
    Connectors(connectors::ConnectorsCommand),
    /// Log in to a source's API; Google credentials: whose they are, and their tokens
    #[command(subcommand)]
    Auth(auth::AuthCommand),
    /// A source's secrets: where they are, and new values; never shows one
    #[command(subcommand)]
    Secrets(secrets::SecretsCommand),
    /// Try credentials, endpoints and the destination's permissions; store nothing
    Check(check::CheckArgs),
    /// Show the first rows of a stream; store nothing
    Preview(preview::PreviewArgs),
    /// Check connector files without using them
    Lint(lint::LintArgs),
    /// Run sources when asked to over HTTP, as a Cloud Run service or a function
    Serve(serve::ServeArgs),
    /// Print a table's schema in BigQuery's JSON format, or infer it from real pages
    Schema(schema::SchemaArgs),
    /// Print the commands that put a source on a schedule in Cloud Run; runs none of them
    Deploy(deploy::DeployArgs),
}

impl Cli {
    /// Which lines are written: those of `--log`, else by `-v` and `-q`; for [`log::init`]. A server
    /// shows no progress: its lines are all that there is to see.
    pub fn levels(&self, format: log::Format) -> Targets {
        if let Some(levels) = &self.global.levels {
            return levels.clone();
        }
        let serves = matches!(self.command, Some(Command::Serve(_)));
        let verbosity = match (format, self.global.verbosity()) {
            (log::Format::Text { .. }, steps) if serves && steps >= 0 => steps.saturating_add(1),
            (_, steps) => steps,
        };
        let levels = log::levels(format, verbosity);
        match format {
            // The summary shows them.
            log::Format::Text { .. } if !serves => {
                levels.with_target(log::FAILURE, LevelFilter::OFF)
            }
            _ => levels,
        }
    }
}

/// Flags of all commands.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Files and logs")]
pub struct GlobalArgs {
    /// Where sources are configured [default: drawoff.yaml, when it is there]
    #[arg(long, global = true, value_name = "FILE", env = config::CONFIG)]
    pub config: Option<PathBuf>,
    /// Folder with connector files of your own, searched before the built-in ones
    #[arg(long, global = true, value_name = "DIR", env = config::CONNECTORS)]
    pub connectors: Option<PathBuf>,
    /// Act as this service account, with Google credentials that may; accounts on the way to it
    /// come before it, with commas
    #[arg(
        long,
        global = true,
        value_name = "ACCOUNT",
        env = config::IMPERSONATE,
        help_heading = "Google"
    )]
    pub impersonate_service_account: Option<String>,
    /// How log lines look: auto, text or json; auto is text on a terminal, JSON for Cloud Logging
    /// elsewhere
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = config::LOG_FORMAT,
        default_value = "auto",
        hide_possible_values = true
    )]
    pub log_format: LogFormat,
    /// Log these levels only, such as warn,drawoff::http=debug
    #[arg(long = "log", global = true, value_name = "LEVELS", env = config::LOG)]
    pub levels: Option<Targets>,
    /// Log more; twice for even more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Log errors only, and show no progress
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// How log lines look, as typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// By where they go.
    #[default]
    Auto,
    /// For people.
    Text,
    /// For Cloud Logging.
    Json,
}

/// Where the program writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Standard error is a terminal.
    pub terminal: bool,
    /// The terminal shows colours and the person wants them.
    pub colour: bool,
    /// In a Cloud Run job or service.
    pub cloud_run: bool,
}

impl Surroundings {
    /// Looks around.
    pub fn detect() -> Self {
        use std::io::IsTerminal as _;
        let environment = Environment::process();
        let set = |name: &str| environment.get(name).is_some();
        let dumb = environment.get("TERM").is_some_and(|t| t == "dumb");
        let terminal = std::io::stderr().is_terminal();
        Self {
            terminal,
            colour: terminal && !dumb && !set(config::NO_COLOR),
            cloud_run: set(config::K_SERVICE) || set(config::CLOUD_RUN_JOB),
        }
    }
}

impl GlobalArgs {
    /// The format that log lines are to have.
    pub fn format(&self, around: Surroundings) -> log::Format {
        let text = log::Format::Text {
            colour: around.colour,
        };
        match self.log_format {
            LogFormat::Text => text,
            LogFormat::Json => log::Format::Json,
            LogFormat::Auto if around.terminal && !around.cloud_run => text,
            LogFormat::Auto => log::Format::Json,
        }
    }

    fn verbosity(&self) -> i8 {
        match self.quiet {
            true => -1,
            false => i8::try_from(self.verbose).unwrap_or(i8::MAX),
        }
    }
}

/// Which source, and what its configuration says otherwise this time.
#[derive(Clone, Debug, Default, Args)]
pub struct SourceOverrides {
    /// Set a plain value of the source's configuration, never a secret
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value, help_heading = "Source")]
    pub set: Vec<String>,
    /// Send the source's requests here instead of the connector's `base_url`
    #[arg(long, value_name = "URL", value_parser = http_url, env = "DRAWOFF_BASE_URL", help_heading = "Source")]
    pub base_url: Option<url::Url>,
    /// Google Cloud project in which secrets are looked up by name
    #[arg(
        long,
        value_name = "PROJECT",
        env = config::PROJECT,
        help_heading = "Source"
    )]
    pub project: Option<String>,
}

impl SourceOverrides {
    /// What the command line says otherwise than the settings file.
    pub fn settings(
        &self,
        global: &GlobalArgs,
        destination: Option<&str>,
        memory: Option<&str>,
    ) -> Overrides {
        Overrides {
            config: global.config.clone(),
            connectors: global.connectors.clone(),
            project: self.project.clone(),
            destination: destination.map(str::to_owned),
            memory: memory.map(str::to_owned),
            set: self.set.clone(),
            base_url: self.base_url.clone(),
            impersonate: global.impersonate_service_account.clone(),
            source_by_source: false,
        }
    }
}

/// Reads the command line, program name first.
///
/// # Errors
/// A message of clap's, to be shown by its `exit`: usage errors with code 2, help and version with 0.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let args: Vec<OsString> = args.into_iter().collect();
    let mut command = command(args.iter().any(|arg| arg == "-h"));
    let parsed = command.try_get_matches_from_mut(&args);
    // The command may lack the very flag that stands before it.
    let lenient = match &parsed {
        Err(e) if e.kind() == ErrorKind::MissingRequiredArgument => command
            .clone()
            .ignore_errors(true)
            .try_get_matches_from(&args)
            .ok(),
        Err(_) => None,
        Ok(matches) => Some(matches.clone()),
    };
    if let Some((name, flag)) = lenient.and_then(|matches| misplaced(&command, &matches)) {
        let message = format!("`--{flag}` must stand after `{name}`: drawoff {name} --{flag} …");
        return Err(command.error(ErrorKind::ArgumentConflict, message));
    }
    let matches = parsed?;
    let cli = Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut command))?;
    if cli.command.is_none() {
        if cli.run.sources.is_empty() && !cli.run.all {
            return Err(command.error(
                ErrorKind::MissingRequiredArgument,
                "which source? Try `drawoff --source demo`; `drawoff connectors list` shows what else there is, and `--all` runs all of drawoff.yaml",
            ));
        }
        if cli.run.runs_several()
            && let Some(flag) = cli.run.of_one_source()
        {
            return Err(command.error(
                ErrorKind::ArgumentConflict,
                format!("`{flag}` (or its variable) speaks of one source, and several are to run: name the one with `--source`"),
            ));
        }
        if let (Some(since), Some(until)) = (cli.run.since, cli.run.until)
            && since >= until
        {
            return Err(command.error(
                ErrorKind::ValueValidation,
                format!("`--since` ({since}) must lie before `--until` ({until})"),
            ));
        }
    }
    Ok(cli)
}

/// The command line's grammar. Short help leaves out the environment.
fn command(short_help: bool) -> clap::Command {
    // Values of variables may be long, and one may be a secret in the wrong place.
    let quiet = move |arg: clap::Arg| {
        let empty = arg
            .get_env()
            .and_then(std::env::var_os)
            .is_some_and(|v| v.is_empty());
        // A variable that is empty is one that is not set.
        let arg = match empty {
            true => arg.env(None::<&'static str>),
            false => arg,
        };
        arg.hide_env(short_help).hide_env_values(true)
    };
    through(Cli::command(), &quiet)
}

/// Changes every argument of a command, and of those below it.
fn through(command: clap::Command, change: &impl Fn(clap::Arg) -> clap::Arg) -> clap::Command {
    command
        .mut_args(change)
        .mut_subcommands(|sub| through(sub, change))
}

/// The first of a run's flags that stands before a command, where it would have no effect, and that
/// command.
fn misplaced(command: &clap::Command, matches: &ArgMatches) -> Option<(String, String)> {
    let name = matches.subcommand_name()?;
    let typed = |id: &str| {
        matches.try_contains_id(id).is_ok()
            && matches.value_source(id) == Some(ValueSource::CommandLine)
    };
    command
        .get_arguments()
        .filter(|arg| !arg.is_global_set())
        .find(|arg| typed(arg.get_id().as_str()))
        .and_then(|arg| Some((name.to_owned(), arg.get_long()?.to_owned())))
}

/// A date (its first moment in UTC) or an RFC 3339 time.
pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    text.parse()
        .or_else(|_| format!("{text}T00:00:00Z").parse())
        .map_err(|_| "want a date like 2024-01-31 or a time like 2024-01-31T12:00:00Z".to_owned())
}

/// A span of time above zero: `90s`, `10m`, `1h30m`.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    text.parse::<SignedDuration>()
        .ok()
        .and_then(|d| Duration::try_from(d).ok())
        .filter(|d| !d.is_zero())
        .ok_or_else(|| "want a span of time like 90s, 10m or 1h30m".to_owned())
}

fn key_value(text: &str) -> Result<String, String> {
    // The text may hold a secret in the wrong place: say nothing of it.
    match text.split_once('=') {
        Some((key, _)) if !key.is_empty() => Ok(text.to_owned()),
        _ => Err("want KEY=VALUE".to_owned()),
    }
}

fn http_url(text: &str) -> Result<url::Url, String> {
    match url::Url::parse(text) {
        Ok(url) if url.has_host() && matches!(url.scheme(), "http" | "https") => Ok(url),
        _ => Err("want an http or https URL".to_owned()),
    }
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
