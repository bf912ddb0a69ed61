//! From the arguments to the command, and from what came of it to the exit code.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use super::args::{self, Cli, Command, GlobalArgs, SourceOverrides, Surroundings};
use super::auth::{self, AuthCommand};
use super::connectors::ConnectorsCommand;
use super::login::{self, LoginArgs};
use super::preview::PreviewFormat;
use super::progress::Progress;
use super::run::RunArgs;
use super::secrets::{self, SecretsCommand};
use super::sources::Endings;
use super::style::Paint;
use super::terminal::Before;
use super::{check, connectors, deploy, lint, preview, report, schema, summary};
use crate::app::{App, LoginShown, RunOptions, SecretRow};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Environment;
use crate::connector::Connector;
use crate::connector::load::lint_file;
use crate::error::{Error, ErrorKind, Result};
use crate::http::collector_client;
use crate::pipeline::report::Observer;
use crate::schema::render::write_ndjson;
use crate::server;
use crate::settings::{Overrides, Settings};
use crate::telemetry::log::{self, Format, Origin};
use crate::telemetry::otlp::{self, Exporting};
use crate::telemetry::redact;
use crate::yaml::finding::Severity;

/// Widest line of a table.
const WIDTH: usize = 100;
/// A second signal, or this long after the first, ends the process whatever it does.
const PATIENCE: Duration = Duration::from_millis(7_500);
/// For the last words, after that.
const SPARE: Duration = Duration::from_millis(200);
/// What still runs in the background must not hold up the end.
const BACKGROUND: Duration = Duration::from_millis(200);

/// Exit code of a program that SIGINT ends, as shells give it.
const INTERRUPTED: u8 = 130;
/// And SIGTERM.
const TERMINATED: u8 = 143;

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    let cli = match args::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(message) => message.exit(),
    };
    let around = Surroundings::detect();
    let format = cli.global.format(around);
    let outcome = runtime().and_then(|runtime| {
        let exporting = start_telling(&cli, format, runtime.handle())?;
        let code = runtime.block_on(dispatch(cli, around));
        if let Some(exporting) = exporting {
            exporting.end();
        }
        runtime.shutdown_timeout(BACKGROUND);
        code
    });
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report::print(&error, format);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Starts log lines, and traces and metrics where a collector is named and there is something to tell.
fn start_telling(
    cli: &Cli,
    format: log::Format,
    runtime: &tokio::runtime::Handle,
) -> Result<Option<Exporting>> {
    let environment = Environment::process();
    let runs = matches!(cli.command, None | Some(Command::Serve(_)));
    let exporting = match runs {
        true => Exporting::start(&environment, runtime.clone(), collector_client),
        false => Ok(None),
    };
    let (exporting, problem) = match exporting {
        Ok(exporting) => (exporting, None),
        Err(problem) => (None, Some(problem)),
    };
    let levels = cli.levels(format);
    log::init(format, levels, Origin::of(&environment), exporting.as_ref())?;
    if let Some(problem) = problem {
        tracing::warn!(
            hint = problem.find_hint(),
            "no traces and no metrics are exported: {}",
            problem.chain()
        );
    }
    Ok(exporting)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(
            std::thread::available_parallelism()
                .map_or(2, |n| n.get())
                .clamp(2, 4),
        )
        .enable_all()
        .build()
        .map_err(|e| {
            Error::new(ErrorKind::Bug, "could not start the asynchronous runtime").source(e)
        })
}

async fn dispatch(cli: Cli, around: Surroundings) -> Result<u8> {
    let out = Paint::new(around.colour && std::io::stdout().is_terminal());
    let global = &cli.global;
    match &cli.command {
        None => run(&cli.run, global, around, out).await,
        Some(Command::Connectors(command)) => {
            let settings = Settings::load(SourceOverrides::default().settings(global, None, None))?;
            print(&match command {
                ConnectorsCommand::List => connectors::list(&all(&settings)?, WIDTH, out),
                ConnectorsCommand::Describe(args) => {
                    connectors::describe(&settings.catalog.load(&args.name)?.connector, WIDTH, out)
                }
            })
        }
        Some(Command::Auth(AuthCommand::Login(args))) => log_in(args, global, out).await,
        Some(Command::Auth(AuthCommand::Logout(args))) => {
            let destination = args.destination.as_deref();
            let app = app(args.overrides.settings(global, destination, None))?;
            let done = app.logout(&args.options()).await?;
            print(&login::logged_out(&done, out))
        }
        Some(Command::Auth(command)) => {
            let app = app(SourceOverrides::default().settings(global, None, None))?;
            let google = app.google();
            match command {
                // Above.
                AuthCommand::Login(_) | AuthCommand::Logout(_) => Ok(2),
                AuthCommand::Whoami(args) => {
                    let who = google.who(&args.token.scopes()).await?;
                    if args.json {
                        let json = serde_json::to_string_pretty(&who).map_err(|e| {
                            Error::new(ErrorKind::Bug, "could not write JSON").source(e)
                        })?;
                        return print(&format!("{json}\n"));
                    }
                    print(&auth::render(&who, SystemClock.now(), out))
                }
                AuthCommand::PrintAccessToken(args) => {
                    print_secret(&google.access_token(&args.scopes()).await?)
                }
                AuthCommand::PrintIdentityToken(args) => {
                    print_secret(&google.id_token(&args.audience).await?)
                }
            }
        }
        Some(Command::Secrets(command)) => {
            let overrides = SourceOverrides {
                project: command.project().map(str::to_owned),
                ..SourceOverrides::default()
            };
            let app = app(overrides.settings(global, None, None))?;
            match command {
                SecretsCommand::Set(args) => {
                    let target = app.secret_target(&args.source, &args.key)?;
                    if let Some(before) = std::io::stdin().is_terminal().then(Before::now).flatten()
                    {
                        tokio::spawn(give_up(signals_or_bug()?, before));
                    }
                    let given = match secrets::ask(&target) {
                        // Typed as a character, where the terminal makes no signal of it.
                        Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(INTERRUPTED),
                        given => given?,
                    };
                    let new = app
                        .set_secret(&target, &given.value, args.options())
                        .await?;
                    print(&secrets::said(&target, given.trimmed, &new, out))?;
                    secrets::disabled(new).map(|()| 0)
                }
                SecretsCommand::List(args) => {
                    let rows = app.list_secrets(&args.source).await?;
                    print(&secrets::list(&args.source, &rows, out))?;
                    Ok(SecretRow::exit_code_of(&rows))
                }
            }
        }
        Some(Command::Check(args)) => {
            let app = app(args
                .overrides
                .settings(global, args.destination.as_deref(), None))?;
            let report = app.check(&args.source, &args.streams).await?;
            print(&check::render(&report, out))?;
            Ok(report.exit_code())
        }
        Some(Command::Preview(args)) => {
            let app = app(args.overrides.settings(global, None, None))?;
            let found = app.preview(&args.source, &args.stream, args.limit).await?;
            let mut lines = Vec::new();
            for batch in &found.batches {
                write_ndjson(batch, &mut lines).map_err(|e| {
                    Error::new(ErrorKind::Bug, "could not write rows as JSON").source(e)
                })?;
            }
            let text = String::from_utf8_lossy(&lines);
            if args.format == PreviewFormat::Ndjson {
                print(&text)?;
            } else {
                let rows: Vec<serde_json::Value> = text
                    .lines()
                    .filter_map(|l| serde_json::from_str(l).ok())
                    .collect();
                print(&preview::render(
                    args.format,
                    &found.columns,
                    &rows,
                    WIDTH,
                    out,
                ))?;
            }
            for (reason, path) in &found.rejects {
                tracing::warn!(path, "a record does not fit the schema: {reason}");
            }
            Ok(0)
        }
        Some(Command::Lint(args)) => {
            let mut findings = Vec::new();
            for file in &args.files {
                findings.extend(lint_file(file)?);
            }
            print(&lint::render(args.files.len(), &findings, out))?;
            let usable = findings.iter().all(|f| f.severity == Severity::Warning);
            Ok(if usable { 0 } else { 2 })
        }
        Some(Command::Serve(args)) => {
            let serve = args.options()?;
            let overrides = SourceOverrides {
                project: args.project.clone(),
                ..SourceOverrides::default()
            };
            let app = app(overrides.settings(
                global,
                args.destination.as_deref(),
                args.memory.as_deref(),
            ))?;
            let cancel = CancellationToken::new();
            // Whoever ends a server wants it gone.
            let stop = (cancel.clone(), cancel.clone());
            let watch = tokio::spawn(stop_when_asked(signals_or_bug()?, stop.0, stop.1, None));
            let outcome = server::serve(Arc::new(app), serve, cancel).await;
            watch.abort();
            outcome.map(|()| 0)
        }
        Some(Command::Schema(args)) => {
            let app = app(args.overrides.settings(global, None, None))?;
            let pages = args.infer.then_some(args.pages);
            print(&schema::render(
                &app.schema(&args.source, &args.stream, pages).await?,
            ))
        }
        Some(Command::Deploy(args)) => {
            args.must_print()?;
            let app = app(args.overrides(global))?;
            let deployment = app.deployment(&args.source, args.dataset.as_deref())?;
            print(&deploy::script(&deployment, args)?)
        }
    }
}

async fn run(args: &RunArgs, global: &GlobalArgs, around: Surroundings, out: Paint) -> Result<u8> {
    // Before anything else: the first process of a container has no other answer to a signal.
    let signals = signals_or_bug()?;
    let begun = SystemClock.instant();
    let (cancel, hurry) = (CancellationToken::new(), CancellationToken::new());
    let stop = (cancel.clone(), hurry.clone());
    // Until the process ends: also while the summary is written, to a reader that may not read.
    tokio::spawn(stop_when_asked(signals, stop.0, stop.1, args.deadline));
    let overrides =
        args.overrides
            .settings(global, args.destination.as_deref(), args.memory.as_deref());
    let shard = args.shard()?;
    let app = app(Overrides {
        source_by_source: args.runs_several(),
        ..overrides
    })?;
    let one = async |source: &str| {
        // All sources share the time that there is.
        let left = |whole: Duration| whole.saturating_sub(SystemClock.instant() - begun);
        let options = RunOptions {
            shard,
            ..args.options(source, args.deadline.map(left), hurry.clone())
        };
        let observer = Arc::new(Observer::default());
        let shows = around.terminal && !global.quiet;
        let progress = shows.then(|| Progress::start(observer.clone(), Paint::new(around.colour)));
        let outcome = app.run(&options, cancel.clone(), observer).await;
        drop(progress);
        if let (Ok(report), false) = (&outcome, around.cloud_run) {
            print(&summary::render(report, out))?;
        }
        Ok(outcome)
    };
    if log::in_a_trace() {
        app.learn_project().await;
    }
    let names = match args.runs_all() {
        true => app.settings().source_names(),
        false => args.names(),
    };
    if !args.runs_several() {
        let [name] = names[..] else {
            return Err(app.settings().no_sources());
        };
        return Ok(one(name).await??.exit_code());
    }
    if names.is_empty() {
        return Err(app.settings().no_sources());
    }
    let format = global.format(around);
    let wrong = |name: &str| app.settings().source(name).err();
    let stopped = || cancel.is_cancelled();
    let all = Endings::of(&names, wrong, format, stopped, one).await?;
    if !around.cloud_run {
        print(&all.render(out))?;
    }
    if format == Format::Json {
        all.log(SystemClock.instant() - begun);
    }
    Ok(all.exit_code())
}

async fn log_in(args: &LoginArgs, global: &GlobalArgs, out: Paint) -> Result<u8> {
    let app = app(args
        .overrides
        .settings(global, args.destination.as_deref(), None))?;
    let cancel = CancellationToken::new();
    let mut signals = signals_or_bug()?;
    let stop = cancel.clone();
    let watch = tokio::spawn(async move {
        signals.recv().await;
        stop.cancel();
        // A second one does not wait for anything.
        signals.recv().await;
        std::process::exit(75);
    });
    let show = |shown: LoginShown<'_>| login::show(shown, args.no_browser);
    let place = app
        .login(
            &args.options(),
            show,
            login::pasted(args.no_browser),
            cancel,
        )
        .await;
    watch.abort();
    print(&login::logged_in(&args.source, &place?, out))
}

/// Asks the run to stop at its deadline, and to come to its end in its own time; or at the first SIGINT
/// or SIGTERM, at once. A second one, or a run that does not come to its end in time, ends the process:
/// what is not published by then is read again by the next run.
async fn stop_when_asked(
    mut signals: Signals,
    cancel: CancellationToken,
    hurry: CancellationToken,
    deadline: Option<Duration>,
) {
    let clock = SystemClock;
    let late = async {
        match deadline {
            Some(deadline) => clock.sleep(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = signals.recv() => {
            end_in_any_case();
            tracing::warn!("asked to stop: finishing the page at hand");
        }
        () = late => {
            tracing::warn!("the deadline has come: finishing the page at hand");
            cancel.cancel();
            signals.recv().await;
            end_in_any_case();
        }
    }
    cancel.cancel();
    hurry.cancel();
    otlp::hurry();
    tokio::select! {
        () = signals.recv() => {}
        () = clock.sleep(PATIENCE) => {}
    }
    tracing::warn!("stopped before the end; the next run goes on from what is published");
    std::process::exit(75);
}

/// Ends the process though nothing else can any more: who reads its lines may have stopped reading, and a
/// task that writes one waits for that.
fn end_in_any_case() {
    std::thread::spawn(|| {
        std::thread::sleep(PATIENCE + SPARE);
        std::process::exit(75);
    });
}

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

fn signals() -> std::io::Result<Signals> {
    use tokio::signal::unix::{SignalKind, signal};
    Ok(Signals {
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
    })
}

fn signals_or_bug() -> Result<Signals> {
    signals().map_err(|e| Error::new(ErrorKind::Bug, "could not listen for signals").source(e))
}

impl Signals {
    async fn recv(&mut self) {
        self.code().await;
    }

    /// Waits for one; the exit code of a program that it ends.
    async fn code(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => TERMINATED,
        }
    }
}

/// Ends the process at the first signal, with the terminal as it was: while something is typed unseen, it
/// shows nothing.
async fn give_up(mut signals: Signals, mut before: Before) {
    let code = signals.code().await;
    before.restore();
    std::process::exit(code.into());
}

fn app(overrides: Overrides) -> Result<App> {
    App::new(Settings::load(overrides)?, Environment::process())
}

fn all(settings: &Settings) -> Result<Vec<Connector>> {
    let names = settings.catalog.names()?;
    names
        .iter()
        .map(|name| Ok(settings.catalog.load(name)?.connector))
        .collect()
}

/// Writes to standard output, past no secret. A reader that has gone is no failure.
fn print(text: &str) -> Result<u8> {
    write(&redact::scrub(text))
}

/// Writes the token that was asked for to standard output.
fn print_secret(token: &SecretString) -> Result<u8> {
    write(&format!("{}\n", token.expose_secret()))
}

fn write(text: &str) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::new(
            ErrorKind::Unavailable,
            "could not write to standard output",
        )
        .transient(false)
        .source(e)),
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_comes_well_before_the_platform_kills() {
        let most = Duration::from_secs(8); // Cloud Run waits for ten, and the machine may be busy.
        assert!(PATIENCE + SPARE + BACKGROUND < most);
        assert!(otlp::LAST_MOMENT + BACKGROUND < most);
    }
}
