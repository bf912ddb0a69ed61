//! Nothing is worked on twice at a time: whoever publishes holds the lease of the source, or of the part of
//! it that is its task's, which ends by itself when it is not renewed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Holder;
use crate::error::{Error, ErrorKind};

/// How long a lease holds when nobody says otherwise; it is renewed three times as often.
pub const DEFAULT_LENGTH: Duration = Duration::from_secs(180);

/// Between the names of a source, a stream and a part of it, in the name of a lease. No source and no stream
/// has it in its name.
pub const WITHIN: char = '#';

/// In the name of the lease under which a stream is split for tasks, and its parts are joined.
pub const SPLITTING: &str = "split";

/// The name of the lease of something within a source: a stream (`acme#tickets`), or a part of one
/// (`acme#tickets#3`), that a task works on by itself. While somebody holds it, nobody can take the lease of
/// what it is in, and the other way round.
pub fn lease_within(whole: &str, part: &str) -> String {
    format!("{whole}{WITHIN}{part}")
}

/// Whether two leases exclude each other: they are one and the same, or one is of something within the
/// other.
fn exclude(one: &str, other: &str) -> bool {
    let within = |part: &str, whole: &str| {
        part.strip_prefix(whole)
            .is_some_and(|rest| rest.starts_with(WITHIN))
    };
    one == other || within(one, other) || within(other, one)
}

/// A lease's name as people are shown it.
fn shown_name(name: &str) -> String {
    let mut names = name.split(WITHIN);
    let source = names.next().unwrap_or_default();
    match (names.next(), names.next()) {
        (Some(stream), Some(SPLITTING)) => {
            format!("the splitting of stream `{stream}` of source `{source}`")
        }
        (Some(stream), Some(part)) => {
            format!("part `{part}` of stream `{stream}` of source `{source}`")
        }
        (Some(stream), None) => format!("stream `{stream}` of source `{source}`"),
        (None, _) => format!("source `{name}`"),
    }
}

/// A run's wish for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What it is on: a source, or a part of one ([`lease_within`]).
    pub name: String,
    /// The run that wants it.
    pub run_id: String,
    /// How long it holds without being renewed.
    pub length: Duration,
    /// Who runs it.
    pub holder: Holder,
    /// Runs that are known to have ended: their leases may be taken at once.
    pub over: Vec<String>,
}

/// A lease as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The run that holds it.
    pub run_id: String,
    /// Since when.
    pub acquired_at: Timestamp,
    /// Until when, unless it is renewed.
    pub expires_at: Timestamp,
    /// Who runs it.
    #[serde(default)]
    pub holder: Holder,
}

/// HeldLeases by name.
pub type HeldLeases = BTreeMap<String, Held>;

/// What came of asking for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It is this run's.
    Ours {
        /// The run that had not let go of it.
        before: Option<Held>,
    },
    /// Another run holds it.
    Theirs(Held),
}

/// Who holds the lease that a run was refused; the source of that error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBy(pub Held);

impl HeldBy {
    /// Who holds the lease, if that is what the error is about.
    pub fn of(error: &Error) -> Option<&Held> {
        let held = std::error::Error::source(error)?.downcast_ref::<Self>()?;
        Some(&held.0)
    }
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "run `{}` holds its lease since {}, and until {} unless it renews it",
            self.0.run_id,
            shown(self.0.acquired_at),
            shown(self.0.expires_at)
        )
    }
}

impl std::error::Error for HeldBy {}

impl Lease {
    /// For stores that decide by themselves, under a lock: what comes of asking, and the leases to be
    /// stored when it is ours. `stored`: at least this lease, and all that it [excludes](lease_within), by name.
    pub fn claim(&self, stored: &HeldLeases, now: Timestamp) -> (Acquired, HeldLeases) {
        let mut acquired_at = now;
        let excluded = |(name, held): &(&String, &Held)| {
            **name != self.name && exclude(name, &self.name) && held.run_id != self.run_id
        };
        let in_the_way = |(_, held): &(&String, &Held)| {
            held.expires_at > now && !self.over.contains(&held.run_id)
        };
        let mut in_its_way = stored.iter().filter(excluded).filter(in_the_way);
        if let Some((_, held)) = in_its_way.next() {
            return (Acquired::Theirs(held.clone()), HeldLeases::new());
        }
        // Those that nobody has let go of: a run that stood still must find that they are not its own.
        let mut changed: HeldLeases = stored
            .iter()
            .filter(excluded)
            .filter(|(_, held)| held.acquired_at < held.expires_at)
            .map(|(name, held)| {
                let theirs = Held {
                    run_id: self.run_id.clone(),
                    expires_at: held.acquired_at,
                    ..held.clone()
                };
                (name.clone(), theirs)
            })
            .collect();
        let stored = stored.get(&self.name).cloned();
        let before = match stored {
            Some(held) if held.run_id == self.run_id => {
                acquired_at = held.acquired_at;
                None
            }
            Some(held) if held.expires_at > now && !self.over.contains(&held.run_id) => {
                return (Acquired::Theirs(held), HeldLeases::new());
            }
            // Let go of, or left behind by a run that did not come to its end.
            stored => stored.filter(|held| held.acquired_at < held.expires_at),
        };
        let held = Held {
            run_id: self.run_id.clone(),
            acquired_at,
            expires_at: self.end(now),
            holder: self.holder.clone(),
        };
        changed.insert(self.name.clone(), held);
        (Acquired::Ours { before }, changed)
    }

    /// The same for renewing: the lease to be stored.
    ///
    /// # Errors
    /// It is no longer this run's.
    pub fn extend(&self, stored: Option<Held>, now: Timestamp, place: &str) -> Result<Held, Error> {
        match stored {
            // Not one that it has let go of: a renewal may come late.
            Some(held) if held.run_id == self.run_id && held.acquired_at < held.expires_at => {
                Ok(Held {
                    expires_at: self.end(now),
                    ..held
                })
            }
            other => Err(self.lost(other.map(|h| h.run_id).as_deref(), place)),
        }
    }

    /// The same for letting go: the lease to be stored. The run's id stays, so that what comes late
    /// of another run is still told apart.
    pub fn give_up(&self, stored: Option<Held>) -> Option<Held> {
        stored
            .filter(|held| held.run_id == self.run_id)
            .map(|held| Held {
                expires_at: held.acquired_at,
                ..held
            })
    }

    fn end(&self, now: Timestamp) -> Timestamp {
        let length = SignedDuration::try_from(self.length).unwrap_or(SignedDuration::MAX);
        now.saturating_add(length).unwrap_or(Timestamp::MAX)
    }

    /// The error of a run whose lease is another's now.
    pub fn lost(&self, by: Option<&str>, place: &str) -> Error {
        lost(&self.name, &self.run_id, by, place)
    }

    /// The error of a run that finds a lease in others' hands.
    pub fn refused(&self, held: &Held, place: &str) -> Error {
        Error::new(
            ErrorKind::State,
            format!("{} is at work in {place}", shown_name(&self.name)),
        )
        .source(HeldBy(held.clone()))
        .transient(true)
        .hint("wait for that run to end and start this one again; if it was killed, its lease ends by itself at the time named")
    }
}

/// The error of a run whose lease is another's now, or nobody's.
pub fn lost(name: &str, run_id: &str, by: Option<&str>, place: &str) -> Error {
    let now = match by {
        Some(by) => format!("run `{by}` has taken it"),
        None => "nobody holds it".to_owned(),
    };
    Error::new(
        ErrorKind::State,
        format!(
            "run `{run_id}` has lost the lease of {} in {place}: {now}",
            shown_name(name)
        ),
    )
    .transient(true)
    .hint("a run that cannot renew its lease in time, because it stood still or could not reach the destination, must not publish: run again to go on from what is published")
}

fn shown(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(run: &str) -> Lease {
        Lease {
            name: "shop".into(),
            run_id: run.into(),
            length: Duration::from_secs(60),
            holder: Holder::default(),
            over: Vec::new(),
        }
    }

    /// Asks when the lease is stored so.
    fn claim(lease: &Lease, stored: Option<Held>, now: Timestamp) -> (Acquired, Option<Held>) {
        let stored = stored.map(|held| (lease.name.clone(), held));
        let (answer, mut changed) = lease.claim(&stored.into_iter().collect(), now);
        (answer, changed.remove(&lease.name))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn one_holds_it_until_its_time_is_up() {
        let (a, b) = (lease("a"), lease("b"));
        let (got, held) = claim(&a, None, at(0));
        assert_eq!(got, Acquired::Ours { before: None });
        let held = held.unwrap();
        assert_eq!(held.expires_at, at(60));
        let (got, none) = claim(&b, Some(held.clone()), at(59));
        assert_eq!((got, none), (Acquired::Theirs(held.clone()), None));
        // Asking again changes nothing but the end.
        let (got, again) = claim(&a, Some(held.clone()), at(30));
        assert_eq!(got, Acquired::Ours { before: None });
        assert_eq!(again.unwrap().acquired_at, at(0));
        let renewed = a.extend(Some(held.clone()), at(50), "x").unwrap();
        assert_eq!(renewed.expires_at, at(110));
        let (got, taken) = claim(&b, Some(held.clone()), at(60));
        assert_eq!(
            got,
            Acquired::Ours {
                before: Some(held.clone())
            }
        );
        let e = a.extend(taken, at(61), "x").unwrap_err();
        assert_eq!((e.kind(), e.exit_code()), (ErrorKind::State, 75));
        assert!(e.to_string().contains("run `b` has taken it"), "{e}");
    }

    #[test]
    fn a_run_that_has_ended_does_not_keep_it() {
        let (a, mut b) = (lease("a"), lease("b"));
        let held = claim(&a, None, at(0)).1;
        b.over = vec!["somebody else".into()];
        assert!(matches!(
            claim(&b, held.clone(), at(1)).0,
            Acquired::Theirs(_)
        ));
        b.over = vec!["somebody else".into(), "a".into()];
        assert!(matches!(
            claim(&b, held.clone(), at(1)).0,
            Acquired::Ours { before: Some(_) }
        ));
        // Let go of: free at once, and nobody's leftover.
        b.over.clear();
        let free = a.give_up(held.clone());
        assert_eq!(claim(&b, free, at(1)).0, Acquired::Ours { before: None });
        assert_eq!(b.give_up(held), None, "not another's to let go of");
    }

    #[test]
    fn a_source_and_its_parts_exclude_each_other() {
        let of = |name: String, run: &str| Lease { name, ..lease(run) };
        let whole = of("shop".into(), "w");
        let (one, two) = (
            of(lease_within("shop", "tickets#1"), "a"),
            of(lease_within("shop", "tickets#2"), "b"),
        );
        let other = of("shop2".into(), "c");
        let mut stored = BTreeMap::new();
        for (lease, second) in [(&one, 0), (&two, 10), (&other, 10)] {
            let (got, held) = lease.claim(&stored, at(second));
            assert!(matches!(got, Acquired::Ours { before: None }), "{got:?}");
            stored.extend(held);
        }
        let (got, none) = whole.claim(&stored, at(59));
        assert_eq!(
            (got, none),
            (
                Acquired::Theirs(stored[&one.name].clone()),
                HeldLeases::new()
            )
        );
        let (got, _) = whole.claim(&stored, at(60));
        assert_eq!(got, Acquired::Theirs(stored[&two.name].clone()));
        let knowing = Lease {
            over: vec!["a".into(), "b".into()],
            ..whole.clone()
        };
        let (got, held) = knowing.claim(&stored, at(1));
        assert_eq!(got, Acquired::Ours { before: None });
        // Whoever was stepped over finds that out, also when it asks for its own.
        assert_eq!(
            held.keys().collect::<Vec<_>>(),
            ["shop", "shop#tickets#1", "shop#tickets#2"]
        );
        let before = stored.clone();
        stored.extend(held);
        let lost = one.extend(stored.get(&one.name).cloned(), at(2), "x");
        assert!(
            lost.unwrap_err()
                .to_string()
                .contains("run `w` has taken it")
        );
        // Not those that were let go of.
        let mut free = before.clone();
        free.extend(before.iter().map(|(name, held)| {
            let free = Held {
                expires_at: held.acquired_at,
                ..held.clone()
            };
            (name.clone(), free)
        }));
        assert_eq!(knowing.claim(&free, at(1)).1.len(), 1);
        let late = of(lease_within("shop", "tickets#3"), "d");
        assert!(matches!(late.claim(&stored, at(2)).0, Acquired::Theirs(h) if h.run_id == "w"));
        let stream = of("shop#tickets".into(), "s");
        stored.remove(&whole.name);
        assert!(matches!(
            stream.claim(&stored, at(2)).0,
            Acquired::Theirs(_)
        ));
        stored.insert(
            whole.name.clone(),
            Held {
                run_id: "w".into(),
                ..stored[&one.name].clone()
            },
        );
        let e = one.refused(&stored[&whole.name], "x").to_string();
        assert!(
            e.starts_with("part `1` of stream `tickets` of source `shop` is at work in x"),
            "{e}"
        );
    }
}
