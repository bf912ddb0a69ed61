//! The share of one task in a run of many: which streams and parts of streams are its own, and how the
//! rate limits are divided. Pure, but for the environment.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::config::{self, Environment};
use crate::error::{Error, Result};
use crate::http::RateLimit;

/// Most tasks that can share a run; as many as a Cloud Run job can have.
pub const MOST_TASKS: u32 = 10_000;

/// One of the tasks that share a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its number, from 0.
    pub index: u32,
    /// How many there are.
    pub count: u32,
}

impl Shard {
    /// Reads `INDEX/COUNT`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let numbers = text
            .split_once('/')
            .and_then(|(i, n)| Some((number(i)?, number(n)?)));
        let Some((index, count)) = numbers else {
            return Err(
                "write INDEX/COUNT, such as 0/4, 1/4, 2/4 and 3/4 for four tasks".to_owned(),
            );
        };
        if count > MOST_TASKS {
            return Err(format!(
                "{count} tasks are more than the {MOST_TASKS} that there may be"
            ));
        }
        if index >= count {
            return Err(format!(
                "of {count} tasks there is no number {index}: they count from 0"
            ));
        }
        Ok(Self { index, count })
    }

    /// The task that this process is by its environment: of Cloud Run, else of an indexed job of
    /// Kubernetes. `None`: it is alone, or nothing says otherwise.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`] for a number without a count, or numbers that cannot be: a task
    /// that does not know its share must not take all.
    pub fn of(environment: &Environment) -> Result<Option<Self>> {
        let sources = [
            (config::CLOUD_RUN_TASK_INDEX, config::CLOUD_RUN_TASK_COUNT),
            (config::JOB_COMPLETION_INDEX, config::TASK_COUNT),
        ];
        for (index_name, count_name) in sources {
            let fail = |what: String| {
                Err(Error::config(format!(
                    "could not tell which part of the work is this task's: {what}"
                ))
                .hint("name it with `--shard INDEX/COUNT`; a task that does not know its share must not do everything"))
            };
            let (index, count) = match (environment.get(index_name), environment.get(count_name)) {
                (None, None) => continue,
                (Some(index), Some(count)) => (index, count),
                (Some(_), None) => {
                    return fail(format!("`{index_name}` is set and `{count_name}` is not"));
                }
                (None, Some(count)) if count == "1" => continue,
                (None, Some(_)) => {
                    return fail(format!("`{count_name}` is set and `{index_name}` is not"));
                }
            };
            return match Self::parse(&format!("{index}/{count}")) {
                Ok(shard) => Ok(shard.among_others()),
                Err(_) => fail(format!(
                    "`{index_name}` is `{index}` and `{count_name}` is `{count}`"
                )),
            };
        }
        Ok(None)
    }

    /// Itself, unless there are no other tasks.
    pub fn among_others(self) -> Option<Self> {
        (self.count > 1).then_some(self)
    }

    /// Whether the part of that number of the stream of that number is this task's. Each part is one
    /// task's, and the first parts of the streams are different tasks'.
    pub fn owns(self, stream: usize, part: usize) -> bool {
        (stream as u64 + part as u64) % u64::from(self.count) == u64::from(self.index)
    }

    /// This task's share of a rate limit: all shares together stay within it, where the tasks start
    /// together.
    pub fn share_of(self, limit: &RateLimit) -> RateLimit {
        let divided = |n: NonZeroU32| NonZeroU32::new(n.get() / self.count);
        let burst = limit.burst.map(|b| divided(b).unwrap_or(NonZeroU32::MIN));
        // Not all of them may send one at once.
        let at_once = limit.burst.unwrap_or(limit.requests).min(limit.requests);
        let turn = match at_once.get() < self.count {
            true => limit.per * self.index / limit.requests.get(),
            false => Duration::ZERO,
        };
        match divided(limit.requests) {
            Some(requests) => RateLimit {
                requests,
                burst,
                turn,
                ..*limit
            },
            // Less than one in a period: one in a longer one.
            None => RateLimit {
                requests: NonZeroU32::MIN,
                per: limit.per * self.count / limit.requests.get(),
                burst,
                turn,
            },
        }
    }

    /// This task's share of the requests that may be on the wire at once; at least one.
    pub fn share_of_concurrency(self, concurrency: usize) -> usize {
        let count = usize::try_from(self.count).unwrap_or(usize::MAX);
        (concurrency / count).max(1)
    }
}

/// `0/4`.
impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

fn number(text: &str) -> Option<u32> {
    // `parse` alone would take `+1`.
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_task_is_named_by_number_and_count() {
        assert_eq!(Shard::parse("3/4").unwrap(), Shard { index: 3, count: 4 });
        for bad in [
            "", "4", "4/4", "5/4", "-1/4", "+1/4", "0/0", "a/b", "0/4/2", " 0/4", "0/",
        ] {
            Shard::parse(bad).unwrap_err();
        }
    }

    #[test]
    fn the_environment_says_which_task_it_is() {
        let of =
            |variables: &[(&str, &str)]| Shard::of(&Environment::of(variables.iter().copied()));
        assert_eq!(of(&[]).unwrap(), None);
        let cloud_run = |i, n| of(&[("CLOUD_RUN_TASK_INDEX", i), ("CLOUD_RUN_TASK_COUNT", n)]);
        assert_eq!(
            cloud_run("1", "3").unwrap(),
            Some(Shard { index: 1, count: 3 })
        );
        assert_eq!(cloud_run("0", "1").unwrap(), None, "alone");
        let kubernetes = [("JOB_COMPLETION_INDEX", "2"), ("DRAWOFF_TASK_COUNT", "8")];
        assert_eq!(of(&kubernetes).unwrap(), Some(Shard { index: 2, count: 8 }));
        for bad in [
            of(&[("CLOUD_RUN_TASK_INDEX", "1")]),
            of(&kubernetes[..1]),
            of(&kubernetes[1..]),
            cloud_run("0", "10001"),
            cloud_run("3", "3"),
            cloud_run("x", "3"),
            cloud_run("0", "0"),
        ] {
            let e = bad.unwrap_err();
            assert_eq!(e.exit_code(), 2);
            assert!(e.to_string().contains("_INDEX`"), "{e}");
        }
    }

    proptest! {
        #[test]
        fn every_part_is_one_tasks(count in 1u32..40, stream in 0usize..20, part in 0usize..200) {
            let owners = (0..count).filter(|&index| Shard { index, count }.owns(stream, part));
            prop_assert_eq!(owners.count(), 1);
        }

        #[test]
        fn shares_of_a_limit_never_exceed_it(
            requests in 1u32..500, seconds in 1u64..4000, burst in prop::option::of(1u32..50), count in 1u32..60,
        ) {
            let limit = RateLimit {
                requests: NonZeroU32::new(requests).unwrap(),
                per: Duration::from_secs(seconds),
                burst: burst.and_then(NonZeroU32::new),
                turn: Duration::ZERO,
            };
            let share = Shard { index: 0, count }.share_of(&limit);
            let rate = |l: &RateLimit| f64::from(l.requests.get()) / l.per.as_secs_f64();
            prop_assert!(rate(&share) * f64::from(count) <= rate(&limit) * 1.000_001);
            prop_assert!(share.per >= limit.per || requests >= count);
        }

        #[test]
        fn tasks_take_turns_where_there_are_fewer_requests(
            requests in 1u32..20, seconds in 1u64..4000, more in 1u32..40, burst in prop::option::of(1u32..80),
        ) {
            let count = requests + more;
            let limit = RateLimit {
                requests: NonZeroU32::new(requests).unwrap(),
                per: Duration::from_secs(seconds),
                burst: burst.and_then(NonZeroU32::new),
                turn: Duration::ZERO,
            };
            let mut sent: Vec<Duration> = (0..count)
                .map(|index| Shard { index, count }.share_of(&limit))
                .flat_map(|share| (0..4).map(move |n| share.turn + share.per * n))
                .collect();
            sent.sort_unstable();
            for span in sent.windows(requests as usize + 1) {
                let took = span[requests as usize] - span[0];
                prop_assert!(took + Duration::from_micros(1) >= limit.per, "{span:?}");
            }
        }
    }
}
