//! Log lines on standard error: for people on a terminal, as JSON for Cloud Logging elsewhere.
//!
//! Every line goes through [`redact::scrub`] as the last thing before it is written. While something
//! draws on the terminal, lines are written around it: see [`write_around`].
//!
//! JSON lines have Cloud Logging's `severity`, `message` and `time`, then the fields of the event and
//! of the spans around it, the innermost winning.
//!
//! | module | owns |
//! |---|---|
//! | here | which lines are written, and how people see them |
//! | `entry` | JSON lines, as Cloud Logging and Error Reporting want them |
//! | `failure` | failures: which are reported, and how they are grouped |
//! | `origin` | what all lines of the process say |

mod entry;
mod failure;
mod origin;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::panic::PanicHookInfo;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{FilterExt as _, Targets, filter_fn};
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

pub(super) use self::entry::PLACE;
pub use self::entry::{REPORTED_ERROR, json_line};
pub use self::failure::{FAILURE, Whose, failed, last_line};
pub use self::origin::{Origin, project, set_project, trace_of_process};
use super::otlp::Exporting;
use super::span::TRACES_ONLY;
use super::{otlp, redact};
use crate::error::{Error, ErrorKind, Result};

/// Longest text of one field, in bytes. Cloud Logging takes 256 KiB an entry (2026-11).
const LONGEST: usize = 16 * 1024;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `warn: message key=value`, for people.
    Text {
        /// With ANSI colours.
        colour: bool,
    },
    /// One JSON object a line, for Cloud Logging.
    Json,
}

/// Who writes a line, which ends without a newline.
type Sink = Box<dyn Fn(&str) + Send + Sync>;

/// Runs what it is given while the terminal is free of drawings.
pub type Around = Arc<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

static AROUND: RwLock<Option<Around>> = RwLock::new(None);

/// Starts logging to standard error for the whole process, and makes a panic end the process with
/// one line and exit code 1. Spans go to `exporting`, too.
///
/// `levels` says which lines are written; see [`levels`].
///
/// # Errors
/// [`ErrorKind::Bug`] when the process already logs.
pub fn init(
    format: Format,
    levels: Targets,
    origin: Origin,
    exporting: Option<&Exporting>,
) -> Result<()> {
    origin.settle();
    let lines = Lines::new(format, Box::new(write_line));
    let subscriber = tracing_subscriber::registry()
        .with(lines.with_filter(seen(format, levels)))
        .with(exporting.and_then(Exporting::layer));
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|e| Error::new(ErrorKind::Bug, "could not start logging").source(e))?;
    std::panic::set_hook(Box::new(move |panic| {
        // Not around drawings: the one who panics may be drawing.
        write_stderr(&redact::scrub(&panic_line(format, panic)));
        std::process::exit(1);
    }));
    Ok(())
}

/// What lines are made of: events of these levels, and the spans around them. In JSON those whatever the
/// levels are, since labels and traces come from them.
fn seen(format: Format, levels: Targets) -> impl Filter<Registry> + Send + Sync + 'static {
    let own = filter_fn(move |about| {
        about.is_span()
            && format == Format::Json
            && about.target().starts_with(env!("CARGO_PKG_NAME"))
    });
    levels
        .or(own)
        .and(filter_fn(|about| about.target() != TRACES_ONLY))
}

/// From now on lines are written by `around`, as long as something draws on the terminal; `None`
/// ends it.
pub fn write_around(around: Option<Around>) {
    *AROUND.write().unwrap_or_else(PoisonError::into_inner) = around;
}

/// Writes a finished line to standard error, redacted, around whatever draws there.
pub fn write_line(line: &str) {
    let line = redact::scrub(line);
    let around = AROUND
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    match around {
        Some(around) => around(&mut || write_stderr(&line)),
        None => write_stderr(&line),
    }
}

fn write_stderr(line: &str) {
    // In one call, so that lines of several threads do not mix. Nobody can be told of a failure.
    let _ = std::io::stderr()
        .lock()
        .write_all(format!("{line}\n").as_bytes());
}

fn clean(text: &str) -> String {
    let mut text = redact::scrub(text);
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push('…');
    }
    text
}

/// Which lines are written at a verbosity that counts `-v` up and `-q` down from 0, where people see
/// warnings and Cloud Logging sees what happens.
pub fn levels(format: Format, verbosity: i8) -> Targets {
    let steps = match format {
        Format::Json if verbosity >= 0 => verbosity.saturating_add(1),
        _ => verbosity,
    };
    let (own, others) = match steps {
        ..0 => (LevelFilter::ERROR, LevelFilter::ERROR),
        0 => (LevelFilter::WARN, LevelFilter::WARN),
        1 => (LevelFilter::INFO, LevelFilter::WARN),
        2 => (LevelFilter::DEBUG, LevelFilter::WARN),
        _ => (LevelFilter::TRACE, LevelFilter::INFO),
    };
    Targets::new()
        .with_default(others)
        .with_target(env!("CARGO_PKG_NAME"), own)
}

fn panic_line(format: Format, panic: &PanicHookInfo<'_>) -> String {
    let message = panic.payload_as_str().unwrap_or("panicked");
    let place = panic.location();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed").to_owned();
    match format {
        Format::Text { colour } => {
            let place = place.map(|l| format!(" ({l})")).unwrap_or_default();
            let message = one_line(&clean(message));
            let head = painted("error", Level::ERROR, colour);
            format!("{head}: drawoff has a bug: {message}{place}; please report it")
        }
        Format::Json => {
            let mut fields = Map::from_iter([("thread".to_owned(), thread.into())]);
            if let Some(place) = place {
                fields.extend(failure::reported(place, message));
            }
            json_line(
                "CRITICAL",
                &format!("drawoff has panicked: {message}"),
                fields,
            )
        }
    }
}

/// Control characters, line breaks first, could forge lines or move the cursor.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn painted(word: &str, level: Level, colour: bool) -> String {
    if !colour {
        return word.to_owned();
    }
    let code = match level {
        Level::ERROR => "1;31",
        Level::WARN => "1;33",
        Level::INFO => "1;32",
        Level::DEBUG => "1;34",
        Level::TRACE => "2",
    };
    format!("\u{1b}[{code}m{word}\u{1b}[0m")
}

/// The layer that makes lines of events.
struct Lines {
    format: Format,
    sink: Sink,
}

/// Fields of a span or an event, in the order of their names.
#[derive(Default)]
struct Fields(BTreeMap<&'static str, Value>);

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.0.insert(field.name(), value.to_string().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}").into());
    }
}

impl Lines {
    fn new(format: Format, sink: Sink) -> Self {
        Self { format, sink }
    }

    fn line(&self, level: Level, message: &str, fields: BTreeMap<&'static str, Value>) -> String {
        match self.format {
            Format::Text { colour } => {
                let (dim, plain) = match colour {
                    true => ("\u{1b}[2m", "\u{1b}[0m"),
                    false => ("", ""),
                };
                let name = match level {
                    Level::ERROR => "error",
                    Level::WARN => "warn",
                    Level::INFO => "info",
                    Level::DEBUG => "debug",
                    Level::TRACE => "trace",
                };
                let mut line = painted(name, level, colour);
                let _ = write!(line, ": {}", one_line(&clean(message)));
                for (name, value) in fields {
                    if entry::MACHINES.contains(&name) {
                        continue;
                    }
                    let value = match value {
                        Value::String(text) => match clean(&text) {
                            text if is_word(&text) => text,
                            text => format!("{text:?}"),
                        },
                        other => other.to_string(),
                    };
                    let _ = write!(line, " {dim}{name}={plain}{value}");
                }
                line
            }
            Format::Json => {
                let severity = match level {
                    Level::ERROR => "ERROR",
                    Level::WARN => "WARNING",
                    Level::INFO => "INFO",
                    Level::DEBUG | Level::TRACE => "DEBUG",
                };
                let fields = fields
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect();
                json_line(severity, message, fields)
            }
        }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && c != '"')
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flatten() {
            // From the inside out: what is there already is nearer to the event.
            if let Some(outer) = span.extensions().get::<Fields>() {
                for (name, value) in &outer.0 {
                    fields.0.entry(name).or_insert_with(|| value.clone());
                }
            }
        }
        if let Some(at) = event_span(event, &context).and_then(|id| otlp::place(&id)) {
            fields.0.insert(entry::TRACE_ID, at.trace_id().into());
            fields.0.insert(entry::SPAN_ID, at.span_id().into());
            fields.0.insert(entry::SAMPLED, at.sampled().into());
        }
        event.record(&mut fields);
        let message = match fields.0.remove("message") {
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => event.metadata().name().to_owned(),
        };
        (self.sink)(&self.line(*event.metadata().level(), &message, fields.0));
    }
}

/// Whether the lines of all runs of this process stand in traces.
pub fn in_a_trace() -> bool {
    otlp::exports_traces() || trace_of_process().is_some()
}

/// The innermost span around an event.
fn event_span<S: Subscriber + for<'a> LookupSpan<'a>>(
    event: &Event<'_>,
    context: &Context<'_, S>,
) -> Option<Id> {
    context.event_span(event).map(|span| span.id())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use jiff::Timestamp;

    use super::*;

    /// What `work` logs, a line each.
    fn logged(format: Format, verbosity: i8, work: impl FnOnce()) -> Vec<String> {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = lines.clone();
        let layer = Lines::new(
            format,
            Box::new(move |line| sink.lock().unwrap().push(redact::scrub(line))),
        );
        let subscriber = tracing_subscriber::registry()
            .with(layer.with_filter(seen(format, levels(format, verbosity))));
        tracing::subscriber::with_default(subscriber, work);
        lines.lock().unwrap().clone()
    }

    const PLAIN: Format = Format::Text { colour: false };

    fn speak() {
        tracing::error!("one");
        tracing::warn!("two");
        tracing::info!("three");
        tracing::debug!("four");
        tracing::trace!("five");
        tracing::info!(target: "hyper::client", "six");
    }

    #[test]
    fn people_see_warnings_and_cloud_logging_what_happens() {
        assert_eq!(logged(PLAIN, -1, speak), ["error: one"]);
        assert_eq!(logged(PLAIN, 0, speak), ["error: one", "warn: two"]);
        assert_eq!(logged(PLAIN, 2, speak).len(), 4);
        assert_eq!(logged(PLAIN, 3, speak).len(), 6);
        assert_eq!(logged(Format::Json, -1, speak).len(), 1);
        assert_eq!(logged(Format::Json, 0, speak).len(), 3);
    }

    #[test]
    fn text_lines_are_short() {
        let lines = logged(PLAIN, 1, || {
            let span = tracing::info_span!("run", source = "acme", stream = "all");
            let _in_run = span.enter();
            let span =
                tracing::info_span!("stream", stream = "tickets", rows = tracing::field::Empty);
            let _in_stream = span.enter();
            span.record("rows", 12);
            tracing::info!(reason = "the API said so", "waiting");
        });
        assert_eq!(
            lines,
            [r#"info: waiting reason="the API said so" rows=12 source=acme stream=tickets"#]
        );
        let coloured = logged(Format::Text { colour: true }, 0, || {
            tracing::warn!(n = 1, "x")
        });
        assert_eq!(
            coloured,
            ["\u{1b}[1;33mwarn\u{1b}[0m: x \u{1b}[2mn=\u{1b}[0m1"]
        );
    }

    #[test]
    fn json_lines_are_cloud_loggings() {
        let lines = logged(Format::Json, 0, || {
            let span = tracing::info_span!("run", source = "acme");
            let _in_run = span.enter();
            tracing::warn!(severity = "mine", pages = 3, done = false, "two\nlines");
        });
        let entry: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(entry["severity"], "WARNING");
        assert_eq!(entry["message"], "two\nlines");
        assert_eq!(entry["source"], "acme");
        assert_eq!(entry["pages"], 3);
        assert_eq!(entry["done"], false);
        assert!(entry["time"].as_str().unwrap().parse::<Timestamp>().is_ok());
        assert!(!lines[0].contains('\n'));
    }

    #[test]
    fn no_secret_gets_out_not_even_escaped() {
        redact::register("canary\"with\\quotes");
        for format in [PLAIN, Format::Json] {
            let lines = logged(format, 3, || {
                tracing::error!(
                    key = "canary\"with\\quotes",
                    "got canary\"with\\quotes back"
                );
                tracing::error!(value = ?"canary\"with\\quotes", "debug");
            });
            assert!(lines[0].contains("got [redacted] back"), "{lines:?}");
            assert!(!lines.concat().contains("canary"), "{lines:?}");
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "ü".repeat(LONGEST);
        let entry: Value = serde_json::from_str(&json_line("INFO", &long, Map::new())).unwrap();
        let message = entry["message"].as_str().unwrap();
        assert!(message.len() <= LONGEST + '…'.len_utf8() && message.ends_with("ü…"));
    }

    #[test]
    fn text_cannot_forge_a_line() {
        let lines = logged(PLAIN, 0, || tracing::warn!("a\nerror: b\u{1b}[2J"));
        assert_eq!(lines, ["warn: a error: b [2J"]);
    }
}
