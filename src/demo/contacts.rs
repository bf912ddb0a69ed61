//! `GET /companies/{id}/contacts`: the people at a company.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Serialize;

use super::draw::{DAY, at, between, chance, pick};
use super::page::PageQuery;
use super::words::{FIRST_NAMES, JOBS, LANGUAGES, LAST_NAMES};
use super::{Demo, companies, problem};

/// Room for a company's contacts among the ids.
const STRIDE: i64 = 100;

#[derive(Serialize)]
struct Contact {
    id: i64,
    company_id: i64,
    first_name: &'static str,
    last_name: &'static str,
    email: String,
    phone: Option<String>,
    job_title: &'static str,
    language: &'static str,
    is_primary: bool,
    newsletter: bool,
    created_at: Timestamp,
    last_seen_at: Option<Timestamp>,
}

/// The handler. 404 for a company that does not exist.
pub async fn list(
    State(demo): State<Demo>,
    Path(company): Path<String>,
    Query(page): Query<PageQuery>,
) -> Response {
    let known = company
        .parse()
        .ok()
        .filter(|id| companies::ids().any(|known| known == *id));
    let Some(company) = known else {
        return problem(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is no such company",
        );
    };
    // People are looked over together with their company.
    let updated = companies::updated(company, demo.clock.now().as_second());
    let all: Vec<i64> = ids(company).collect();
    match page.page() {
        Ok(page) => page.respond(&all, |id| contact(id, updated)),
        Err(refusal) => refusal.into_response(),
    }
}

/// A company's contacts' ids: 15 to 35 of them.
pub fn ids(company: i64) -> impl Iterator<Item = i64> {
    (1..=between("contacts", company, 15, 35)).map(move |n| company * STRIDE + n)
}

/// A contact of a company, chosen by `by`.
pub fn one_of(company: i64, by: i64) -> i64 {
    company * STRIDE + between("requester", by, 1, between("contacts", company, 15, 35))
}

fn contact(id: i64, now: i64) -> Contact {
    let company = id / STRIDE;
    let first_name = pick("first name", id, &FIRST_NAMES);
    let last_name = pick("last name", id, &LAST_NAMES);
    let created = companies::created(company) + between("contact created", id, 0, 300 * DAY);
    // Seen at most once a day, at an hour of their own.
    let seen = now
        - (now - between("seen at", id, 0, DAY)).rem_euclid(DAY)
        - between("seen ago", id, 0, 60) * DAY;
    Contact {
        id,
        company_id: company,
        first_name,
        last_name,
        // Numbered: two people of one name may work at one company.
        email: format!(
            "{}.{}{}@{}",
            ascii(first_name),
            ascii(last_name),
            id % STRIDE,
            companies::domain(company)
        ),
        phone: chance("phone", id, 70).then(|| {
            let dialling = companies::place(company).2;
            format!(
                "+{dialling} 555 {:06}",
                between("phone number", id, 0, 999_999)
            )
        }),
        job_title: pick("job", id, &JOBS),
        language: pick("language", id, &LANGUAGES),
        is_primary: id % STRIDE == 1,
        newsletter: chance("newsletter", id, 40),
        created_at: at(created),
        last_seen_at: (chance("seen", id, 85) && seen >= created).then(|| at(seen)),
    }
}

/// The letters of a name that a mail address can hold everywhere.
fn ascii(name: &str) -> String {
    name.chars()
        .filter(char::is_ascii_alphabetic)
        .collect::<String>()
        .to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_three_thousand_with_ids_of_their_own() {
        let all: Vec<i64> = companies::ids().flat_map(ids).collect();
        let unique: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(all.len(), unique.len());
        assert!((2_700..3_300).contains(&all.len()), "{}", all.len());
        assert!((0..500).all(|by| ids(1_010).any(|id| id == one_of(1_010, by))));
    }
}
