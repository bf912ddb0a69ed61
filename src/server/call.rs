//! The forms that a call may have: plain JSON, a CloudEvent (binary or structured), a Pub/Sub message
//! (wrapped in JSON, in an event, or bare with its facts in headers).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::ask::{self, Defaults, FIELDS};
use super::trigger::Trigger;
use crate::app::RunOptions;
use crate::error::{Error, Result};

/// The event whose data is a Pub/Sub message.
const MESSAGE_PUBLISHED: &str = "google.cloud.pubsub.topic.v1.messagePublished";

/// The headers that every event in binary mode has.
const ATTRIBUTES: [&str; 4] = ["ce-specversion", "ce-id", "ce-source", "ce-type"];

/// What becomes of a request that is not answered with 2xx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// Its sender decides by the status whether to try again.
    Decides,
    /// It is sent again for days, whatever the status.
    Repeats,
    /// It is sent again some times, and then put where people find it: into a dead-letter topic.
    GivesUp,
}

/// A call that was read.
pub(super) struct Call {
    pub sender: Sender,
    /// What to run, and for what.
    pub asked: Result<RunOptions>,
}

/// A header's text; `None` where it is empty.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let text = headers.get(name)?.to_str().ok()?.trim();
    (!text.is_empty()).then_some(text)
}

/// Reads a call.
pub(super) fn read(headers: &HeaderMap, body: &[u8], defaults: &Defaults) -> Call {
    let mut call = Call {
        sender: Sender::Decides,
        asked: Ok(RunOptions::default()),
    };
    call.asked = read_into(&mut call.sender, headers, body, defaults);
    call
}

/// Who sends such a request, as far as its headers and the start of its body tell; for one whose body is
/// too large to be read.
pub(super) fn sender_of(headers: &HeaderMap, start: &[u8]) -> Sender {
    let first = start.trim_ascii_start();
    let first = first
        .strip_prefix(b"{")
        .unwrap_or_default()
        .trim_ascii_start();
    let pushed = ["\"message\"", "\"subscription\"", "\"deliveryAttempt\""]
        .iter()
        .any(|key| first.starts_with(key.as_bytes()));
    match pushed || Form::of(headers) != Form::Plain {
        true => Sender::Repeats,
        false => Sender::Decides,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// JSON that says what to run; or a message wrapped in JSON, which only the body tells.
    Plain,
    /// A CloudEvent whose attributes are headers.
    Binary,
    /// A CloudEvent that is the body.
    Structured,
    /// A message that is the body.
    Unwrapped,
    /// CloudEvents in a form that is not taken.
    Other,
}

impl Form {
    fn of(headers: &HeaderMap) -> Self {
        let kind = headers.get(CONTENT_TYPE).and_then(|t| t.to_str().ok());
        let kind = kind.unwrap_or_default().split(';').next();
        let kind = kind.unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/cloudevents+json" | "application/cloudevents" => Self::Structured,
            other if other.starts_with("application/cloudevents") => Self::Other,
            _ if ATTRIBUTES.iter().any(|a| headers.contains_key(*a)) => Self::Binary,
            _ if headers.contains_key("x-goog-pubsub-message-id") => Self::Unwrapped,
            _ => Self::Plain,
        }
    }
}

fn read_into(
    sender: &mut Sender,
    headers: &HeaderMap,
    body: &[u8],
    defaults: &Defaults,
) -> Result<RunOptions> {
    match Form::of(headers) {
        Form::Other => Err(Error::config(
            "batched CloudEvents, and CloudEvents in another form than JSON, are not taken",
        )
        .hint("send one event a request: in binary mode (`ce-…` headers), or as `application/cloudevents+json`")),
        Form::Binary => {
            *sender = Sender::Repeats;
            let attribute = |name: &str| header(headers, &format!("ce-{name}"));
            let trigger = Event {
                specversion: attribute("specversion"),
                id: attribute("id"),
                source: attribute("source"),
                kind: attribute("type"),
            };
            of_event(sender, &trigger, body, defaults)
        }
        Form::Structured => {
            *sender = Sender::Repeats;
            let envelope: Envelope = serde_json::from_slice(body).map_err(|e| {
                Error::config(match e.classify() {
                    serde_json::error::Category::Data => format!("the body is no CloudEvent: {e}"),
                    _ => "the body is no CloudEvent: it is no JSON".to_owned(),
                })
            })?;
            let event = Event {
                specversion: envelope.specversion.as_deref(),
                id: envelope.id.as_deref(),
                source: envelope.source.as_deref(),
                kind: envelope.kind.as_deref(),
            };
            of_event(sender, &event, &envelope.data()?, defaults)
        }
        Form::Unwrapped => {
            *sender = Sender::Repeats;
            // Pub/Sub writes each attribute as a header of its name.
            let said = FIELDS.iter().filter_map(|field| {
                Some(((*field).to_owned(), header(headers, field)?.to_owned()))
            });
            let subscription = header(headers, "x-goog-pubsub-subscription-name");
            let id = header(headers, "x-goog-pubsub-message-id");
            let trigger = id.map(|id| Trigger::message(subscription.unwrap_or_default(), id));
            let wish = ask::of_event(body, &said.collect(), defaults)?;
            Ok(wish.because_of(trigger.as_ref()))
        }
        Form::Plain => match Push::of(body) {
            Some(push) => {
                *sender = Sender::Repeats;
                let push = push?;
                *sender = push.sender();
                push.read(None, defaults)
            }
            None => {
                let trigger = Trigger::of_headers(headers)?;
                Ok(ask::read(body, defaults)?.because_of(trigger.as_ref()))
            }
        },
    }
}

/// The attributes of a CloudEvent that every event has.
struct Event<'a> {
    specversion: Option<&'a str>,
    id: Option<&'a str>,
    source: Option<&'a str>,
    kind: Option<&'a str>,
}

fn of_event(
    sender: &mut Sender,
    event: &Event<'_>,
    data: &[u8],
    defaults: &Defaults,
) -> Result<RunOptions> {
    let lacks = |name: &str| Error::config(format!("the CloudEvent has no `{name}`"));
    let needed = |value: Option<&str>, name: &str| match value {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(lacks(name)),
    };
    let version = needed(event.specversion, "specversion")?;
    if version != "1.0" {
        return Err(Error::config(
            "the CloudEvent's `specversion` is not 1.0, the one that is understood here",
        ));
    }
    let (id, source) = (needed(event.id, "id")?, needed(event.source, "source")?);
    let kind = needed(event.kind, "type")?;
    let trigger = Trigger::event(&source, &id);
    if kind == MESSAGE_PUBLISHED {
        let push = Push::of(data)
            .unwrap_or_else(|| Err(Error::config("the event's data is no Pub/Sub message")))?;
        *sender = push.sender();
        return push.read(Some(trigger), defaults);
    }
    Ok(ask::of_event(data, &BTreeMap::new(), defaults)?.because_of(Some(&trigger)))
}

/// A CloudEvent in JSON. Extensions may stand beside.
#[derive(Deserialize)]
struct Envelope<'a> {
    specversion: Option<String>,
    id: Option<String>,
    source: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
}

impl Envelope<'_> {
    fn data(&self) -> Result<Vec<u8>> {
        match (self.data, &self.data_base64) {
            (Some(_), Some(_)) => Err(Error::config(
                "the CloudEvent has both `data` and `data_base64`",
            )),
            (None, Some(text)) => decode(text, "the CloudEvent's `data_base64`"),
            (Some(data), None) => Ok(match serde_json::from_str::<String>(data.get()) {
                // Data that is no JSON itself is a string there.
                Ok(text) => text.into_bytes(),
                Err(_) => data.get().as_bytes().to_vec(),
            }),
            (None, None) => Ok(Vec::new()),
        }
    }
}

fn decode(text: &str, what: &str) -> Result<Vec<u8>> {
    STANDARD
        .decode(text)
        .map_err(|_| Error::config(format!("{what} is no base64")))
}

/// A message as Pub/Sub pushes it. It writes some names twice, in both styles.
#[derive(Deserialize)]
struct Push {
    message: Message,
    subscription: Option<String>,
    /// There where the subscription has a dead-letter topic.
    #[serde(rename = "deliveryAttempt")]
    delivery_attempt: Option<u64>,
}

#[derive(Deserialize)]
struct Message {
    data: Option<String>,
    #[serde(rename = "messageId")]
    id: Option<String>,
    message_id: Option<String>,
    attributes: Option<BTreeMap<String, String>>,
}

impl Push {
    /// The message in a body; `None` where it is something else.
    fn of(body: &[u8]) -> Option<Result<Self>> {
        #[derive(Deserialize)]
        struct Has {
            #[serde(rename = "message")]
            _message: serde::de::IgnoredAny,
        }
        serde_json::from_slice::<Has>(body).ok()?;
        // What it quotes may be data.
        Some(serde_json::from_slice(body).map_err(|_| {
            Error::config("the body is no Pub/Sub message, though it has a `message`")
        }))
    }

    fn sender(&self) -> Sender {
        match self.delivery_attempt {
            Some(_) => Sender::GivesUp,
            None => Sender::Repeats,
        }
    }

    fn read(self, event: Option<Trigger>, defaults: &Defaults) -> Result<RunOptions> {
        let Message {
            data,
            id,
            message_id,
            attributes,
        } = self.message;
        let trigger = event.or_else(|| {
            let id = id.or(message_id).filter(|id| !id.is_empty())?;
            let subscription = self.subscription.unwrap_or_default();
            Some(Trigger::message(&subscription, &id))
        });
        let data = decode(&data.unwrap_or_default(), "the message's `data`")?;
        let wish = ask::of_event(&data, &attributes.unwrap_or_default(), defaults)?;
        Ok(wish.because_of(trigger.as_ref()))
    }
}
