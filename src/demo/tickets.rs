//! `GET /tickets`: what customers ask, oldest change first.
//!
//! A ticket's id is the number of the hour in which it came, so that each hour brings one and lets
//! the oldest go. While a ticket is young it is touched again and again: time goes in ticks of
//! [`TICK`] seconds, and tick *k* touches the young ticket whose id is 147·*k* modulo [`YOUNG`].
//! From that, the last touch of a ticket before any moment follows without looking at any other.

use axum::extract::{Query, State};
use axum::response::Response;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;

use super::draw::{DAY, Decimal, HOUR, at, between, chance, day, pick, some};
use super::page::{BadParameter, Bounds, PageQuery, TimeQuery};
use super::words::{
    CHANNELS, FIRST_NAMES, LAST_NAMES, PRIORITIES, PRODUCTS, SENTENCES, TAGS, TEAMS, TROUBLES,
};
use super::{Demo, companies, contacts};

/// How many tickets there are at any time.
const COUNT: i64 = 5_000;
/// Seconds between two ticks. Five ticks in eight find their ticket still open, so that a ticket
/// changes about every 20 s.
const TICK: i64 = 12;
/// Hours after which no ticket is touched any more, and ticks between two touches of one.
const YOUNG: i64 = 400;
/// Fewest hours until a ticket is closed.
const SHORTEST: i64 = 100;
/// The inverse of 147 modulo [`YOUNG`].
const INVERSE: i64 = 283;

#[derive(Serialize)]
struct Ticket {
    id: i64,
    company_id: i64,
    contact_id: i64,
    subject: String,
    description: String,
    status: &'static str,
    priority: &'static str,
    channel: &'static str,
    tags: Vec<&'static str>,
    assignee: Option<Assignee>,
    comments: i64,
    hours_spent: Decimal,
    satisfaction: Option<f64>,
    is_escalated: bool,
    due_on: Option<Date>,
    created_at: Timestamp,
    updated_at: Timestamp,
    solved_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct Assignee {
    id: i64,
    name: String,
    team: &'static str,
}

/// Where a ticket is at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    created: i64,
    updated: i64,
    /// How often it was touched…
    touches: i64,
    /// …and how often it will have been in the end.
    all_touches: i64,
}

/// The handler.
pub async fn list(
    State(demo): State<Demo>,
    Query(page): Query<PageQuery>,
    Query(time): Query<TimeQuery>,
) -> Result<Response, BadParameter> {
    let page = page.page()?;
    let bounds = time.bounds(demo.clock.now().as_second())?;
    let all = changed(bounds);
    Ok(page.respond(&all, |(_, id)| ticket(id, bounds.until)))
}

/// Time of the last change and id of each ticket that there was at `bounds.until` and that had
/// changed since `bounds.since`, in that order.
fn changed(bounds: Bounds) -> Vec<(i64, i64)> {
    let newest = newest(bounds.until);
    let mut all: Vec<(i64, i64)> = (newest - COUNT + 1..=newest)
        .map(|id| (life(id, bounds.until).updated, id))
        .filter(|(updated, _)| *updated >= bounds.since)
        .collect();
    all.sort_unstable();
    all
}

fn newest(now: i64) -> i64 {
    let hour = now.div_euclid(HOUR);
    if created(hour) <= now { hour } else { hour - 1 }
}

fn created(id: i64) -> i64 {
    id * HOUR + between("ticket created", id, 0, HOUR - 1)
}

fn life(id: i64, now: i64) -> Life {
    let created = created(id);
    let end = created + HOUR * between("ticket life", id, SHORTEST, YOUNG - 1);
    let turn = (id * INVERSE).rem_euclid(YOUNG);
    // Ticks up to a moment that are this ticket's: the last of them, and how many since it came.
    let last = |moment: i64| {
        let tick = moment.div_euclid(TICK);
        tick - (tick - turn).rem_euclid(YOUNG)
    };
    let touches = |moment: i64| (last(moment) - last(created)) / YOUNG;
    let moment = now.min(end);
    Life {
        created,
        updated: match touches(moment) {
            0 => created,
            _ => last(moment) * TICK,
        },
        touches: touches(moment),
        all_touches: touches(end),
    }
}

impl Life {
    fn status(self) -> &'static str {
        match self.touches {
            n if n == self.all_touches => "closed",
            n if n == self.all_touches - 1 => "solved",
            0 => "new",
            n if n % 2 == 1 => "open",
            n if n % 4 == 2 => "pending",
            _ => "on_hold",
        }
    }

    fn solved(self) -> Option<i64> {
        match self.all_touches - self.touches {
            0 => Some(self.updated - TICK * YOUNG),
            1 => Some(self.updated),
            _ => None,
        }
    }
}

fn ticket(id: i64, now: i64) -> Ticket {
    let life = life(id, now);
    let company = companies::one_of(id);
    let product = pick("product", id, &PRODUCTS);
    let subject = format!("{product} {}", pick("trouble", id, &TROUBLES));
    let mut description = format!("{}.", capitalized(&subject));
    for n in 0..between("sentences", id, 2, 5) {
        description.push(' ');
        description.push_str(pick("sentence", id * 8 + n, &SENTENCES));
    }
    let agent = between("agent", id, 1, 14);
    let solved = life.solved();
    Ticket {
        id,
        company_id: company,
        contact_id: contacts::one_of(company, id),
        subject: capitalized(&subject),
        description,
        status: life.status(),
        priority: pick("priority", id, &PRIORITIES),
        channel: pick("channel", id, &CHANNELS),
        tags: some("tags", id, &TAGS, 4),
        assignee: (life.touches > 0).then(|| Assignee {
            id: agent,
            name: format!(
                "{} {}",
                pick("agent first", agent, &FIRST_NAMES),
                pick("agent last", agent, &LAST_NAMES)
            ),
            team: pick("team", agent, &TEAMS),
        }),
        comments: life.touches / 12,
        hours_spent: Decimal::new(life.touches * between("pace", id, 1, 9), 2),
        satisfaction: (solved.is_some() && chance("rated", id, 45))
            .then(|| between("rating", id, 2, 10) as f64 / 2.0),
        is_escalated: life.touches > 60 && chance("escalated", id, 12),
        due_on: chance("due", id, 60)
            .then(|| day(life.created + DAY * between("due days", id, 3, 20))),
        created_at: at(life.created),
        updated_at: at(life.updated),
        solved_at: solved.map(at),
    }
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_219_699;

    fn all(now: i64) -> Vec<(i64, i64)> {
        changed(Bounds {
            since: i64::MIN,
            until: now,
        })
    }

    #[test]
    fn always_as_many_and_none_from_the_future() {
        for now in [NOW, NOW + 1, NOW + HOUR, NOW + 30 * DAY] {
            let all = all(now);
            assert_eq!(all.len() as i64, COUNT);
            assert!(all.iter().all(|(updated, _)| *updated <= now));
            assert!(all.is_sorted());
        }
    }

    #[test]
    fn the_turn_of_a_tick_is_its_tickets() {
        assert_eq!(147 * INVERSE % YOUNG, 1);
        // Each change that is seen to happen happens to the ticket whose turn it is.
        for (updated, id) in all(NOW).into_iter().rev().take(100) {
            if updated != created(id) {
                assert_eq!(updated % TICK, 0);
                assert_eq!(
                    (updated / TICK * 147).rem_euclid(YOUNG),
                    id.rem_euclid(YOUNG)
                );
            }
        }
    }

    #[test]
    fn a_few_change_in_a_minute_and_each_change_is_seen_once() {
        let minutes = 24 * 60;
        let mut changes = 0;
        let mut quiet = 0;
        for minute in 0..minutes {
            let (from, to) = (NOW + 60 * minute, NOW + 60 * (minute + 1));
            let seen = changed(Bounds {
                since: from + 1,
                until: to,
            });
            // At one moment each ticket shows its last change only.
            assert!(seen.len() <= 8, "{}", seen.len());
            for (updated, id) in &seen {
                assert!(created(*id) > from || life(*id, from).updated < *updated);
            }
            changes += seen.len();
            quiet += usize::from(seen.is_empty());
        }
        let seconds = 60.0 * minutes as f64 / changes as f64;
        assert!((15.0..25.0).contains(&seconds), "one change in {seconds} s");
        assert!(
            quiet * 50 < minutes as usize,
            "{quiet} minutes without a change"
        );
    }

    #[test]
    fn a_change_is_a_change_of_status() {
        let id = newest(NOW);
        let mut before = life(id, created(id));
        assert_eq!((before.status(), before.touches), ("new", 0));
        for now in (created(id)..created(id) + YOUNG * HOUR).step_by(TICK as usize) {
            let after = life(id, now);
            if after != before {
                assert!(after.updated > before.updated);
                assert_eq!(after.touches, before.touches + 1);
                assert_ne!(after.status(), before.status(), "{after:?}");
                before = after;
            }
        }
        assert_eq!(before.status(), "closed");
        let solved = before.solved().unwrap();
        assert_eq!(life(id, solved).status(), "solved");
        assert_eq!(life(id, solved).solved(), Some(solved));
    }
}
