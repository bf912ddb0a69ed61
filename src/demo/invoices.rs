//! `GET /billing/invoices`: what was billed, oldest change first. One invoice each six hours; each
//! is then paid, voided or falls overdue on days of its own.

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::draw::{DAY, Decimal, HOUR, at, between, chance, day, draw, pick};
use super::page::{self, BadParameter, TimeQuery};
use super::words::{ARTICLES, STREETS};
use super::{Demo, companies};

/// How many invoices there are at any time.
const COUNT: i64 = 1_500;
/// Seconds between two invoices.
const EVERY: i64 = 6 * HOUR;
/// Days until an invoice must be paid.
const TERM: i64 = 30;

#[derive(Serialize)]
struct Body {
    invoices: Vec<Invoice>,
    paging: Paging,
}

#[derive(Serialize)]
struct Paging {
    next_cursor: Option<String>,
    has_more: bool,
}

#[derive(Serialize)]
struct Invoice {
    id: String,
    number: String,
    company_id: i64,
    status: &'static str,
    currency: &'static str,
    line_items: Vec<LineItem>,
    subtotal: Decimal,
    tax_rate: Decimal,
    tax: Decimal,
    total: Decimal,
    amount_due: Decimal,
    billing_address: Address,
    issued_on: Date,
    due_on: Date,
    paid_on: Option<Date>,
    voided_on: Option<Date>,
    purchase_order: Option<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[derive(Serialize)]
struct LineItem {
    line: i64,
    sku: &'static str,
    description: &'static str,
    quantity: Decimal,
    unit_price: Decimal,
    amount: Decimal,
}

#[derive(Serialize)]
struct Address {
    name: String,
    street: String,
    city: &'static str,
    postal_code: String,
    country: &'static str,
}

/// `cursor` and `limit`, as sent.
#[derive(Deserialize)]
pub struct CursorQuery {
    cursor: Option<String>,
    limit: Option<String>,
}

/// What a cursor token says: the moment whose data is paged through, and the last record seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    until: i64,
    updated: i64,
    number: i64,
}

/// The handler.
pub async fn list(
    State(demo): State<Demo>,
    Query(paging): Query<CursorQuery>,
    Query(time): Query<TimeQuery>,
) -> Result<Response, BadParameter> {
    let limit = page::size("limit", paging.limit.as_deref())? as usize;
    let bounds = time.bounds(demo.clock.now().as_second())?;
    let after = paging.cursor.as_deref().map(Cursor::read).transpose()?;
    // All pages show one moment: that of the first.
    let until = after.map_or(bounds.until, |c| c.until.min(bounds.until));

    let newest = newest(until);
    let mut all: Vec<(i64, i64)> = (newest - COUNT + 1..=newest)
        .map(|number| (last_change(number, until).0, number))
        .filter(|(updated, _)| *updated >= bounds.since)
        .filter(|key| after.is_none_or(|c| *key > (c.updated, c.number)))
        .collect();
    all.sort_unstable();
    let has_more = all.len() > limit;
    all.truncate(limit);
    let last = all.last().filter(|_| has_more);
    Ok(Json(Body {
        paging: Paging {
            next_cursor: last.map(|&(updated, number)| {
                Cursor {
                    until,
                    updated,
                    number,
                }
                .write()
            }),
            has_more,
        },
        invoices: all
            .into_iter()
            .map(|(_, number)| invoice(number, until))
            .collect(),
    })
    .into_response())
}

impl Cursor {
    fn write(self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{} {} {}", self.until, self.updated, self.number))
    }

    fn read(token: &str) -> Result<Self, BadParameter> {
        let parts: Option<Vec<i64>> = URL_SAFE_NO_PAD
            .decode(token)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|text| text.split(' ').map(|part| part.parse().ok()).collect());
        match parts.as_deref() {
            Some(&[until, updated, number]) => Ok(Self {
                until,
                updated,
                number,
            }),
            _ => Err(BadParameter::new(
                "cursor",
                "a `next_cursor` of an earlier page",
            )),
        }
    }
}

fn newest(now: i64) -> i64 {
    let slot = now.div_euclid(EVERY);
    if created(slot) <= now { slot } else { slot - 1 }
}

fn created(number: i64) -> i64 {
    number * EVERY + between("invoice created", number, 0, EVERY - 1)
}

/// When an invoice last changed, and to what.
fn last_change(number: i64, now: i64) -> (i64, &'static str) {
    let created = created(number);
    let sent = (created + between("sent", number, 10 * 60, 5 * HOUR), "open");
    let due = (created + TERM * DAY, "overdue");
    let voided = chance("voided", number, 4);
    let settled = (
        created + between("settled", number, DAY, 55 * DAY),
        if voided { "void" } else { "paid" },
    );
    [(created, "draft"), sent, due, settled]
        .into_iter()
        // Nothing comes after it is settled.
        .filter(|(when, _)| *when <= now.min(settled.0))
        .max_by_key(|(when, _)| *when)
        .unwrap_or((created, "draft"))
}

fn invoice(number: i64, now: i64) -> Invoice {
    let (updated, status) = last_change(number, now);
    let created = created(number);
    let company = companies::one_of(number);
    let (country, city, _) = companies::place(company);
    let line_items: Vec<LineItem> = (1..=between("lines", number, 1, 5))
        .map(|line| line_item(number, line))
        .collect();
    let subtotal: i64 = line_items.iter().map(|item| item.amount.units()).sum();
    let tax_rate = pick("tax rate", company, &[0, 700, 1_900, 2_000, 2_550]);
    let tax = rounded(subtotal * tax_rate, 10_000);
    let total = subtotal + tax;
    let settled_on = |wanted: &str| (status == wanted).then(|| day(updated));
    Invoice {
        id: format!("inv_{:016x}", draw("invoice id", number)),
        number: format!("INV-{}-{number}", day(created).year()),
        company_id: company,
        status,
        currency: match country {
            "GB" => "GBP",
            "US" | "CA" | "BR" | "JP" => "USD",
            "CZ" | "DK" | "PL" | "SE" => pick("currency", company, &["EUR", "USD"]),
            _ => "EUR",
        },
        line_items,
        subtotal: Decimal::new(subtotal, 2),
        tax_rate: Decimal::new(tax_rate, 4),
        tax: Decimal::new(tax, 2),
        total: Decimal::new(total, 2),
        amount_due: Decimal::new(
            if matches!(status, "paid" | "void") {
                0
            } else {
                total
            },
            2,
        ),
        billing_address: Address {
            name: companies::name(company),
            street: format!(
                "{} {}",
                between("house", company, 1, 180),
                pick("street", company, &STREETS)
            ),
            city,
            postal_code: format!("{:05}", between("postal code", company, 1_000, 99_999)),
            country,
        },
        issued_on: day(created),
        due_on: day(created + TERM * DAY),
        paid_on: settled_on("paid"),
        voided_on: settled_on("void"),
        purchase_order: chance("purchase order", number, 30)
            .then(|| format!("PO-{:06}", between("po number", number, 0, 999_999))),
        created_at: at(created),
        updated_at: at(updated),
    }
}

fn line_item(number: i64, line: i64) -> LineItem {
    let id = number * 8 + line;
    let (sku, description, price) = pick("article", id, &ARTICLES);
    // Cheap things come in thousands, hours in halves; all in thousandths.
    let quantity = match price {
        ..10_000 => between("quantity", id, 1_000, 250_000_000),
        10_000..1_000_000 => 1_000 * between("quantity", id, 1, 400),
        _ => 500 * between("quantity", id, 1, 48),
    };
    LineItem {
        line,
        sku,
        description,
        quantity: Decimal::new(quantity, 3),
        unit_price: Decimal::new(price, 4),
        // Thousandths times ten-thousandths, down to hundredths.
        amount: Decimal::new(rounded(quantity * price, 100_000), 2),
    }
}

/// A division of a positive number, rounded half up.
fn rounded(number: i64, by: i64) -> i64 {
    (number + by / 2) / by
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_219_699;

    #[test]
    fn cursors_come_back_as_they_went_and_nonsense_is_refused() {
        let cursor = Cursor {
            until: 3,
            updated: 2,
            number: -1,
        };
        assert_eq!(Cursor::read(&cursor.write()).unwrap(), cursor);
        assert!(Cursor::read("!").is_err());
        assert!(Cursor::read(&URL_SAFE_NO_PAD.encode("1 2")).is_err());
    }

    #[test]
    fn amounts_add_up() {
        for number in newest(NOW) - 300..newest(NOW) {
            let invoice = invoice(number, NOW);
            let lines: i64 = invoice.line_items.iter().map(|l| l.amount.units()).sum();
            assert_eq!(lines, invoice.subtotal.units());
            assert_eq!(
                invoice.total.units(),
                invoice.subtotal.units() + invoice.tax.units()
            );
            assert!(invoice.line_items.iter().all(|l| l.amount.units() > 0));
        }
    }

    #[test]
    fn a_life_goes_forward_and_ends_settled() {
        let number = newest(NOW);
        let mut before = (0, "");
        for now in (created(number)..created(number) + 60 * DAY).step_by(300) {
            let after = last_change(number, now);
            assert!(after.0 >= before.0 && after.0 <= now);
            before = after;
        }
        assert!(matches!(before.1, "paid" | "void"), "{before:?}");
    }
}
