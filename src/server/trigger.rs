//! What a request was sent for. Schedulers, Eventarc and Pub/Sub deliver at least once, so the same
//! firing, event or message may come again: it is known by what its sender calls it.

use http::HeaderMap;
use sha2::{Digest, Sha256};

use super::call::header;
use crate::error::{Error, Result};

/// Longest name that is kept as it is, in bytes; of longer ones a digest.
const LONGEST: usize = 300;

/// A name for what a request was sent for; the same for each repeat, and for nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trigger(String);

impl Trigger {
    /// An event, by the two attributes that CloudEvents makes its name of.
    pub fn event(source: &str, id: &str) -> Self {
        Self(format!("event {source} {id}"))
    }

    /// A message, by its subscription and the id that Pub/Sub gave it.
    pub fn message(subscription: &str, id: &str) -> Self {
        Self(format!("pubsub {subscription} {id}"))
    }

    /// What the headers name: the caller's own key, or a firing of Cloud Scheduler, whose time stays the
    /// same when it is tried again.
    ///
    /// # Errors
    /// A key that is none.
    pub fn of_headers(headers: &HeaderMap) -> Result<Option<Self>> {
        if let Some(key) = headers.get("idempotency-key") {
            let key = key.to_str().map_or("", str::trim);
            if key.is_empty() || key.len() > LONGEST {
                return Err(Error::config(
                    "the header `Idempotency-Key` is no text of one to 300 characters",
                )
                .hint("name what the request is for, such as a UUID or the id of an execution; or leave the header out"));
            }
            return Ok(Some(Self(format!("key {key}"))));
        }
        let job = header(headers, "x-cloudscheduler-jobname");
        let time = header(headers, "x-cloudscheduler-scheduletime");
        Ok(job
            .zip(time)
            .map(|(job, time)| Self(format!("scheduler {job} {time}"))))
    }

    /// As it is stored. Requests of one name that want different things are not the same: a body that was
    /// changed between two tries never gets the other's result.
    pub fn id(&self, wish: &[u8]) -> String {
        let wish = &digest(wish)[..16];
        match self.0.len() <= LONGEST && !self.0.contains(char::is_control) {
            true => format!("{} {wish}", self.0),
            false => format!("sha256 {} {wish}", digest(self.0.as_bytes())),
        }
    }
}

fn digest(text: &[u8]) -> String {
    let digest = Sha256::digest(text);
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&'static str, &str)]) -> Result<Option<Trigger>> {
        let headers = headers.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, value.parse().unwrap())
        });
        Trigger::of_headers(&headers.collect())
    }

    #[test]
    fn a_firing_is_known_by_its_job_and_its_time() {
        let job = ("x-cloudscheduler-jobname", "nightly");
        let firing = |time| of(&[job, ("x-cloudscheduler-scheduletime", time)]).unwrap();
        let first = firing("2026-01-01T00:00:00Z");
        assert!(first.is_some());
        assert_eq!(first, firing("2026-01-01T00:00:00Z"));
        assert_ne!(first, firing("2026-01-02T00:00:00Z"));
        assert_eq!(of(&[job]).unwrap(), None, "half a name is none");
        assert_eq!(of(&[]).unwrap(), None);
    }

    #[test]
    fn a_key_is_a_short_text() {
        assert!(of(&[("idempotency-key", "a")]).unwrap().is_some());
        let long = "x".repeat(301);
        for key in ["", "  ", &long] {
            let error = of(&[("idempotency-key", key)]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{key}");
        }
    }

    #[test]
    fn what_is_stored_is_short_and_tells_wishes_apart() {
        let event = Trigger::event("//storage", "1");
        assert_eq!(event.id(b"a"), event.id(b"a"));
        assert_ne!(event.id(b"a"), event.id(b"b"));
        assert!(event.id(b"a").starts_with("event //storage 1 "));
        for name in ["x".repeat(100_000), "a\nb".to_owned()] {
            let id = Trigger::event(&name, "1").id(b"a");
            assert!(id.starts_with("sha256 ") && id.len() < LONGEST, "{id}");
            assert_ne!(id, Trigger::event(&name, "2").id(b"a"));
        }
    }
}
