//! `GET /companies`: who buys. Always the same companies; their standing changes with the days.

use axum::extract::{Query, State};
use axum::response::Response;
use jiff::Timestamp;
use serde::Serialize;

use super::Demo;
use super::draw::{DAY, Decimal, at, between, chance, pick, some};
use super::page::{BadParameter, PageQuery, TimeQuery};
use super::words::{
    COMPANY_FIRST, COMPANY_FORM, COMPANY_SECOND, FIRST_NAMES, INDUSTRIES, LABELS, LAST_NAMES,
    PLACES, PLANS,
};

/// Id of the first company.
const FIRST: i64 = 1_001;
/// How many there are.
const COUNT: i64 = 120;
/// When the first ones came: 2019-01-01.
const FOUNDED: i64 = 1_546_300_800;
/// When the last ones came: 2024-12-31.
const SETTLED: i64 = 1_735_603_200;
const WEEK: i64 = 7 * DAY;

#[derive(Serialize)]
struct Company {
    id: i64,
    name: String,
    domain: String,
    industry: &'static str,
    country: &'static str,
    plan: &'static str,
    seats: i64,
    monthly_revenue: Decimal,
    health_score: f64,
    is_active: bool,
    account_manager: Manager,
    labels: Vec<&'static str>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[derive(Serialize)]
struct Manager {
    id: i64,
    name: String,
    email: String,
}

/// The handler.
pub async fn list(
    State(demo): State<Demo>,
    Query(page): Query<PageQuery>,
    Query(time): Query<TimeQuery>,
) -> Result<Response, BadParameter> {
    let page = page.page()?;
    let bounds = time.bounds(demo.clock.now().as_second())?;
    let mut all: Vec<(i64, i64)> = ids()
        .map(|id| (updated(id, bounds.until), id))
        .filter(|(updated, _)| *updated >= bounds.since)
        .collect();
    all.sort_unstable();
    Ok(page.respond(&all, |(_, id)| company(id, bounds.until)))
}

/// When a company's record, and those of its contacts, last changed before `now`: each company is
/// looked over once a week, on its own day and hour.
pub fn updated(id: i64, now: i64) -> i64 {
    let reviewed = now - (now - between("review", id, 0, WEEK)).rem_euclid(WEEK);
    reviewed.max(created(id))
}

/// All companies' ids.
pub fn ids() -> impl Iterator<Item = i64> {
    FIRST..FIRST + COUNT
}

/// A company, chosen by `by`.
pub fn one_of(by: i64) -> i64 {
    between("company", by, FIRST, FIRST + COUNT - 1)
}

/// A company's name. Different for each id: the list of pairs is longer than that of companies.
pub fn name(id: i64) -> String {
    // 41 shares no divisor with the number of pairs, so that no two companies get the same one.
    let pair = (id * 41).rem_euclid((COMPANY_FIRST.len() * COMPANY_SECOND.len()) as i64) as usize;
    format!(
        "{} {} {}",
        COMPANY_FIRST[pair % COMPANY_FIRST.len()],
        COMPANY_SECOND[pair / COMPANY_FIRST.len()],
        pick("form", id, &COMPANY_FORM)
    )
}

/// The host of a company's web site and mail; a name that no one can register.
pub fn domain(id: i64) -> String {
    let name = name(id);
    let words: Vec<&str> = name.split(' ').take(2).collect();
    format!("{}.example", words.join("-").to_ascii_lowercase())
}

/// Country code, city and dialling code of a company.
pub fn place(id: i64) -> (&'static str, &'static str, &'static str) {
    pick("place", id, &PLACES)
}

/// When a company came.
pub fn created(id: i64) -> i64 {
    between("company created", id, FOUNDED, SETTLED)
}

fn company(id: i64, now: i64) -> Company {
    let updated = updated(id, now);
    let plan = pick("plan", id, &PLANS);
    let seats = between("seats", id, 3, 900);
    let cents_a_seat = match plan {
        "free" => 0,
        "team" => 1_200,
        "business" => 2_450,
        _ => 3_900,
    };
    let manager = between("manager", id, 1, 8);
    let first_name = pick("manager first", manager, &FIRST_NAMES);
    let last_name = pick("manager last", manager, &LAST_NAMES);
    Company {
        id,
        name: name(id),
        domain: domain(id),
        industry: pick("industry", id, &INDUSTRIES),
        country: place(id).0,
        plan,
        seats,
        monthly_revenue: Decimal::new(seats * cents_a_seat, 2),
        health_score: between("health", id ^ (updated / WEEK), 0, 1_000) as f64 / 1_000.0,
        is_active: !chance("left", id, 8),
        account_manager: Manager {
            id: manager,
            name: format!("{first_name} {last_name}"),
            email: format!("manager{manager}@demo.example"),
        },
        labels: some("labels", id, &LABELS, 3),
        created_at: at(created(id)),
        updated_at: at(updated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_domains_are_unique() {
        let names: std::collections::HashSet<_> = ids().map(domain).collect();
        assert_eq!(names.len() as i64, COUNT);
    }

    #[test]
    fn reviewed_within_the_last_week() {
        let now = 1_790_000_000;
        for id in ids() {
            let age = now - company(id, now).updated_at.as_second();
            assert!((0..7 * DAY).contains(&age), "company {id}: {age} s");
        }
    }
}
