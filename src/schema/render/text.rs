//! Values as text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// `NaN` and the infinities by the names that BigQuery takes; `None` for a finite number.
pub fn non_finite(value: f64) -> Option<&'static str> {
    match value {
        v if v.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

pub(super) fn number(value: &impl serde::Serialize, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, value);
}

pub(super) fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = BASE64.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
}

/// A decimal from its digits without a point.
pub(super) fn decimal(unscaled: &str, scale: i8, out: &mut Vec<u8>) {
    let digits = match unscaled.strip_prefix('-') {
        Some(digits) => {
            out.push(b'-');
            digits
        }
        None => unscaled,
    };
    let scale = usize::try_from(scale).unwrap_or(0);
    let whole = digits.len().saturating_sub(scale);
    out.extend_from_slice(match whole {
        0 => b"0",
        _ => &digits.as_bytes()[..whole],
    });
    let fraction = digits[whole..].trim_end_matches('0');
    if !fraction.is_empty() {
        out.push(b'.');
        out.resize(out.len() + scale - (digits.len() - whole), b'0');
        out.extend_from_slice(fraction.as_bytes());
    }
}

pub(super) fn datetime(micros: i64, out: &mut Vec<u8>) {
    date(micros.div_euclid(MICROS_PER_DAY), out);
    out.push(b'T');
    time(micros.rem_euclid(MICROS_PER_DAY), out);
}

/// A date of the proleptic Gregorian calendar from days since 1970-01-01 (Howard Hinnant's
/// `civil_from_days`, <https://howardhinnant.github.io/date_algorithms.html>).
pub(super) fn date(days: i64, out: &mut Vec<u8>) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    match u64::try_from(year) {
        Ok(year @ 0..=9999) => digits::<4>(year, out),
        // Beyond what BigQuery and RFC 3339 know: ISO 8601's expanded form.
        _ => out.extend_from_slice(format!("{year:+07}").as_bytes()),
    }
    out.push(b'-');
    digits::<2>(month.unsigned_abs(), out);
    out.push(b'-');
    digits::<2>(day.unsigned_abs(), out);
}

pub(super) fn time(micros: i64, out: &mut Vec<u8>) {
    let micros = micros.unsigned_abs();
    let seconds = micros / 1_000_000;
    digits::<2>(seconds / 3600, out);
    out.push(b':');
    digits::<2>(seconds / 60 % 60, out);
    out.push(b':');
    digits::<2>(seconds % 60, out);
    out.push(b'.');
    digits::<6>(micros % 1_000_000, out);
}

/// The last `N` decimal digits, with leading zeros.
fn digits<const N: usize>(mut value: u64, out: &mut Vec<u8>) {
    let mut text = [b'0'; N];
    for place in text.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn decimals_are_exact() {
        for (unscaled, scale, want) in [
            ("0", 9, "0"),
            ("-1", 9, "-0.000000001"),
            ("1500000000", 9, "1.5"),
            ("-1000000000", 9, "-1"),
            (
                "99999999999999999999999999999999999999",
                9,
                "99999999999999999999999999999.999999999",
            ),
            ("7", 0, "7"),
            ("700", 0, "700"),
            ("-12345", 3, "-12.345"),
        ] {
            assert_eq!(written(|o| decimal(unscaled, scale, o)), want);
        }
    }

    proptest! {
        #[test]
        fn times_are_as_jiff_writes_them(micros in -62_135_596_800_000_000i64..=253_402_300_799_999_999) {
            // Civil arithmetic: jiff's points in time end some hours before the year 9999 does.
            let at = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0)
                + jiff::SignedDuration::from_micros(micros);
            let want = format!("{at:.6}");
            prop_assert_eq!(written(|o| datetime(micros, o)), want);
        }
    }
}
