//! Text of one value → the bits that Arrow holds, exactly or not at all.
//!
//! Every function returns why it refused as a clause without the value itself.

use arrow_buffer::i256;

/// Days from 1970-01-01 to 0001-01-01 and to 9999-12-31: what BigQuery's DATE holds.
const DAYS: std::ops::RangeInclusive<i64> = -719_162..=2_932_896;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Why a value was refused.
pub type Reason = &'static str;

/// A signed 64-bit integer. `1.0` and `1e3` are integers; `1.5` is not.
pub fn int64(text: &[u8]) -> Result<i64, Reason> {
    const OUT: Reason = "the number is outside the range of INT64";
    if let Some(n) = fast_int(text) {
        return Ok(n);
    }
    let text = std::str::from_utf8(text).map_err(|_| "the text is not a whole number")?;
    if let Ok(n) = text.parse::<i64>() {
        return Ok(n);
    }
    let d = Decimal::parse(text).ok_or("the text is not a whole number")?;
    let digits = d.scaled(0).map_err(|e| match e {
        TooWide::Integer => OUT,
        TooWide::Fraction => "the number is not a whole one",
    })?;
    digits.parse().map_err(|_| OUT)
}

fn fast_int(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let mut n: i64 = 0;
    for &b in digits {
        let d = b.wrapping_sub(b'0');
        if d > 9 {
            return None;
        }
        n = n * 10 + i64::from(d);
    }
    Some(if negative { -n } else { n })
}

/// A double; `NaN`, `Infinity` and `-Infinity` as text are taken, a number that overflows is not.
pub fn float64(text: &str) -> Result<f64, Reason> {
    let n: f64 = text.parse().map_err(|_| "the text is not a number")?;
    if n.is_infinite() && !text.trim_start_matches(['-', '+']).starts_with(['i', 'I']) {
        return Err("the number is outside the range of FLOAT64");
    }
    Ok(n)
}

/// A NUMERIC: 29 digits before the point, 9 after. More digits after the point are refused, not
/// rounded.
pub fn numeric(text: &str) -> Result<i128, Reason> {
    const OUT: Reason = "the number is outside the range of NUMERIC";
    let digits = Decimal::parse(text)
        .ok_or("the text is not a decimal number")?
        .scaled(9)
        .map_err(|e| match e {
            TooWide::Integer => OUT,
            TooWide::Fraction => {
                "the number has more than 9 digits after the point, which NUMERIC cannot hold"
            }
        })?;
    if digits.trim_start_matches('-').len() > 38 {
        return Err(OUT);
    }
    digits.parse().map_err(|_| OUT)
}

/// A BIGNUMERIC: a whole number of 256 bits, 38 of whose digits are after the point. So the largest
/// have a 39th digit before it, as BigQuery's have.
pub fn bignumeric(text: &str) -> Result<i256, Reason> {
    const OUT: Reason = "the number is outside the range of BIGNUMERIC";
    let digits = Decimal::parse(text)
        .ok_or("the text is not a decimal number")?
        .scaled(38)
        .map_err(|e| match e {
            TooWide::Integer => OUT,
            TooWide::Fraction => {
                "the number has more than 38 digits after the point, which BIGNUMERIC cannot hold"
            }
        })?;
    i256::from_string(&digits).ok_or(OUT)
}

/// A decimal number in the one way in which all that are equal are written: significant digits and exponent.
pub fn plain(text: &str) -> Option<String> {
    let number = Decimal::parse(text)?;
    let sign = match number.negative && !number.digits.is_empty() {
        true => "-",
        false => "",
    };
    Some(format!("{sign}{}e{}", number.digits, number.exponent))
}

/// `true`/`false`, `t`/`f`, `yes`/`no`, `y`/`n`, `1`/`0`, without regard to case, as BigQuery loads them.
pub fn boolean(text: &str) -> Result<bool, Reason> {
    const TRUE: [&str; 5] = ["true", "t", "yes", "y", "1"];
    const FALSE: [&str; 5] = ["false", "f", "no", "n", "0"];
    if TRUE.iter().any(|t| t.eq_ignore_ascii_case(text)) {
        Ok(true)
    } else if FALSE.iter().any(|t| t.eq_ignore_ascii_case(text)) {
        Ok(false)
    } else {
        Err("the text is not true or false")
    }
}

/// A TIMESTAMP, in microseconds since 1970 UTC. Takes RFC 3339 and its usual relatives (a space for
/// the `T`, no zone = UTC, `+0100`, a date alone) and RFC 2822. Digits beyond microseconds are cut.
pub fn timestamp(text: &str) -> Result<i64, Reason> {
    const BAD: Reason = "the text is not a date and time";
    let micros = match civil(text.as_bytes()) {
        Ok((micros, rest)) => match zone(rest) {
            Some(offset_seconds) => micros - offset_seconds * 1_000_000,
            None => return Err(BAD),
        },
        Err(reason) => match jiff::fmt::rfc2822::parse(text) {
            Ok(zoned) => zoned.timestamp().as_microsecond(),
            Err(_) => return Err(reason),
        },
    };
    in_years(micros)
}

/// A DATETIME, in microseconds since 1970 of an unnamed zone. A `Z` or offset is refused: dropping
/// it would change the value.
pub fn datetime(text: &str) -> Result<i64, Reason> {
    match civil(text.as_bytes())? {
        (micros, []) => in_years(micros),
        _ => Err("the text has a time zone, which DATETIME cannot hold"),
    }
}

/// A DATE, in days since 1970. A date and time is taken when the time is midnight as it is written,
/// whatever its zone: many APIs write their dates like that.
pub fn date(text: &str) -> Result<i32, Reason> {
    match civil(text.as_bytes()) {
        Ok((micros, rest)) if micros % MICROS_PER_DAY == 0 && zone(rest).is_some() => {
            let days = micros.div_euclid(MICROS_PER_DAY);
            if !DAYS.contains(&days) {
                return Err("the date is outside the years 1 to 9999");
            }
            i32::try_from(days).map_err(|_| "the date is outside the years 1 to 9999")
        }
        Ok(_) => Err("the text has a time of day, which DATE cannot hold"),
        Err(_) => Err("the text is not a date"),
    }
}

/// A TIME, in microseconds since midnight.
pub fn time(text: &str) -> Result<i64, Reason> {
    match clock(text.as_bytes()) {
        Some((micros, [])) if micros < MICROS_PER_DAY => Ok(micros),
        _ => Err("the text is not a time of day"),
    }
}

/// A TIMESTAMP from a number: seconds since 1970 below 10^11, milliseconds below 10^14, microseconds
/// below 10^17, else nanoseconds. A fraction is kept down to the microsecond.
pub fn epoch(text: &str) -> Result<i64, Reason> {
    const BAD: Reason = "the number is not a time since 1970";
    let whole = text.split(['.', 'e', 'E']).next().unwrap_or_default();
    let scale = match whole.trim_start_matches('-').len() {
        ..=11 => 6,
        12..=14 => 3,
        15..=17 => 0,
        _ => -3,
    };
    let d = Decimal::parse(text).ok_or(BAD)?;
    let shifted = Decimal {
        exponent: d.exponent + scale,
        ..d
    };
    in_years(shifted.truncated().ok_or(BAD)?)
}

fn in_years(micros: i64) -> Result<i64, Reason> {
    if DAYS.contains(&micros.div_euclid(MICROS_PER_DAY)) {
        Ok(micros)
    } else {
        Err("the time is outside the years 1 to 9999")
    }
}

/// `YYYY-MM-DD[(T| )HH:MM[:SS[.f…]]]` → microseconds, and what follows.
fn civil(text: &[u8]) -> Result<(i64, &[u8]), Reason> {
    const BAD: Reason = "the text is not a date and time";
    let (head, rest) = text.split_at_checked(10).ok_or(BAD)?;
    let separator = head[4];
    if !matches!(separator, b'-' | b'/') || head[7] != separator {
        return Err(BAD);
    }
    let (Some(year), Some(month), Some(day)) =
        (digits(&head[..4]), digits(&head[5..7]), digits(&head[8..]))
    else {
        return Err(BAD);
    };
    if year == 0 || !(1..=12).contains(&month) || day == 0 || day > month_length(year, month) {
        return Err("there is no such date");
    }
    let midnight = days_from_civil(year, month, day) * MICROS_PER_DAY;
    match rest {
        [b'T' | b't' | b' ', rest @ ..] => {
            let (micros, rest) = clock(rest).ok_or(BAD)?;
            Ok((midnight + micros, rest))
        }
        rest => Ok((midnight, rest)),
    }
}

/// `HH:MM[:SS[.f…]]` → microseconds since midnight, and what follows. `24:00:00` is the next
/// midnight, `:60` the next minute, as BigQuery reads them.
fn clock(text: &[u8]) -> Option<(i64, &[u8])> {
    let (head, mut rest) = text.split_at_checked(5)?;
    let (hour, minute) = (digits(&head[..2])?, digits(&head[3..])?);
    if head[2] != b':' || hour > 24 || minute > 59 {
        return None;
    }
    let mut second = 0;
    let mut micros = 0;
    if let [b':', a, b, tail @ ..] = rest {
        second = digits(&[*a, *b])?;
        rest = tail;
        if let [b'.' | b',', tail @ ..] = rest {
            let n = tail.iter().take_while(|b| b.is_ascii_digit()).count();
            if n == 0 {
                return None;
            }
            // Six digits, filled up with zeros; what is finer is cut.
            let padded = tail[..n].iter().copied().chain(std::iter::repeat(b'0'));
            for digit in padded.take(6) {
                micros = micros * 10 + i64::from(digit - b'0');
            }
            rest = &tail[n..];
        }
    }
    if second > 60 || (hour == 24 && (minute, second, micros) != (0, 0, 0)) {
        return None;
    }
    Some((
        ((hour * 60 + minute) * 60 + second) * 1_000_000 + micros,
        rest,
    ))
}

/// Offset in seconds of `Z`, `UTC`, `+HH:MM`, `+HHMM`, `+HH`, or nothing.
fn zone(text: &[u8]) -> Option<i64> {
    let (sign, rest) = match text {
        [] | b"Z" | b"z" | b"UTC" | b" UTC" | b" Z" => return Some(0),
        [b'+', rest @ ..] | [b' ', b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] | [b' ', b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match rest {
        [a, b] => (digits(&[*a, *b])?, 0),
        [a, b, b':', c, d] | [a, b, c, d] => (digits(&[*a, *b])?, digits(&[*c, *d])?),
        _ => return None,
    };
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes) * 60)
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0i64, |n, b| {
        b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0'))
    })
}

fn month_length(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let of_era = y - era * 400;
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    era * 146_097 + day_of_era - 719_468
}

/// A decimal number as digits and a power of ten.
struct Decimal {
    negative: bool,
    /// Without leading zeros; empty for zero.
    digits: String,
    exponent: i32,
}

enum TooWide {
    Integer,
    Fraction,
}

impl Decimal {
    /// Longest number that any column can hold, with room for zeros around it.
    const LONGEST: usize = 400;

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim_ascii();
        if text.len() > Self::LONGEST {
            return None;
        }
        let (negative, text) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((m, e)) => (m, e.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.len() + fraction.len() == 0
            || !whole
                .bytes()
                .chain(fraction.bytes())
                .all(|b| b.is_ascii_digit())
            || exponent.abs() > 1_000
        {
            return None;
        }
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_start_matches('0');
        let trimmed = significant.trim_end_matches('0');
        let dropped = i32::try_from(significant.len() - trimmed.len()).ok()?;
        Some(Self {
            negative,
            exponent: if trimmed.is_empty() {
                0
            } else {
                exponent - i32::try_from(fraction.len()).ok()? + dropped
            },
            digits: trimmed.to_owned(),
        })
    }

    /// The number times 10^`scale` as a whole number's text.
    fn scaled(&self, scale: i32) -> Result<String, TooWide> {
        if self.digits.is_empty() {
            return Ok("0".to_owned());
        }
        let zeros = usize::try_from(self.exponent + scale).map_err(|_| TooWide::Fraction)?;
        if self.digits.len() + zeros > 80 {
            return Err(TooWide::Integer);
        }
        let sign = if self.negative { "-" } else { "" };
        Ok(format!("{sign}{}{}", self.digits, "0".repeat(zeros)))
    }

    /// The whole part.
    fn truncated(&self) -> Option<i64> {
        match self.scaled(0) {
            Ok(text) => text.parse().ok(),
            Err(TooWide::Integer) => None,
            Err(TooWide::Fraction) => {
                let keep = i32::try_from(self.digits.len()).ok()? + self.exponent;
                let n: i64 = match usize::try_from(keep) {
                    Ok(0) | Err(_) => 0,
                    Ok(keep) => self.digits.get(..keep)?.parse().ok()?,
                };
                Some(if self.negative { -n } else { n })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_are_exact() {
        assert_eq!(int64(b"9007199254740993"), Ok(9_007_199_254_740_993));
        assert_eq!(int64(b"-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(int64(b"9223372036854775807"), Ok(i64::MAX));
        assert_eq!(int64(b"1.0"), Ok(1));
        assert_eq!(int64(b"12e2"), Ok(1200));
        for bad in ["18446744073709551615", "1.5", "x", "", "1e400", "-"] {
            assert!(int64(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        assert_eq!(numeric("0.1"), Ok(100_000_000));
        assert_eq!(
            numeric("-12345678901234567890123456789.123456789"),
            Ok(-12345678901234567890123456789123456789)
        );
        assert_eq!(numeric("1.50e1"), Ok(15_000_000_000));
        assert_eq!(numeric("0.000"), Ok(0));
        assert!(numeric("0.1234567891").is_err());
        assert!(numeric("1e29").is_err());
        assert_eq!(
            bignumeric("1.5").unwrap().to_string(),
            format!("15{}", "0".repeat(37))
        );
        let largest =
            "578960446186580977117854925043439539266.34992332820282019728792003956564819967";
        assert_eq!(bignumeric(largest), Ok(i256::MAX));
        let least =
            "-578960446186580977117854925043439539266.34992332820282019728792003956564819968";
        assert_eq!(bignumeric(least), Ok(i256::MIN));
        for beyond in [
            "578960446186580977117854925043439539266.34992332820282019728792003956564819968",
            "-578960446186580977117854925043439539266.34992332820282019728792003956564819969",
            "6e38",
        ] {
            assert_eq!(
                bignumeric(beyond),
                Err("the number is outside the range of BIGNUMERIC")
            );
        }
    }

    #[test]
    fn times() {
        assert_eq!(timestamp("1970-01-01T00:00:01Z"), Ok(1_000_000));
        assert_eq!(timestamp("1970-01-01 01:00:00.1234567+01:00"), Ok(123_456));
        assert_eq!(timestamp("1970-01-02"), Ok(MICROS_PER_DAY));
        assert_eq!(timestamp("1969-12-31T23:59:60Z"), Ok(0));
        assert_eq!(timestamp("1969-12-31T24:00:00Z"), Ok(0));
        assert_eq!(timestamp("Thu, 01 Jan 1970 00:00:01 GMT"), Ok(1_000_000));
        assert!(timestamp("0001-01-01T00:00:00Z").is_ok());
        for bad in [
            "0000-00-00",
            "2026-02-29",
            "2026-01-01T25:00Z",
            "noon",
            "",
            "2026-01-01T00:00:00 Mars",
        ] {
            assert!(timestamp(bad).is_err(), "{bad}");
        }
        assert_eq!(date("2000-03-01"), Ok(11_017));
        assert!(date("2000-03-01T10:00").is_err());
        for midnight in [
            "2000-03-01T00:00:00Z",
            "2000-03-01 00:00",
            "2000-03-01T00:00:00.000+02:00",
        ] {
            assert_eq!(date(midnight), Ok(11_017), "{midnight}");
        }
        assert!(date("2000-03-01T00:00:00 noon").is_err());
        assert_eq!(time("23:59:59.999999"), Ok(MICROS_PER_DAY - 1));
        assert!(time("24:00").is_err());
        assert!(datetime("2026-01-01T00:00:00Z").is_err());
        assert_eq!(datetime("1970-01-01T00:00:00.5"), Ok(500_000));
    }

    #[test]
    fn epochs_by_size() {
        assert_eq!(epoch("1700000000"), Ok(1_700_000_000_000_000));
        assert_eq!(epoch("1700000000123"), Ok(1_700_000_000_123_000));
        assert_eq!(epoch("1700000000.1234567"), Ok(1_700_000_000_123_456));
        assert_eq!(epoch("-1"), Ok(-1_000_000));
        assert_eq!(epoch("0"), Ok(0));
    }

    proptest! {
        #[test]
        fn every_timestamp_reads_back(seconds in -62_135_596_800i64..=253_402_300_799, nanos in 0i32..1_000_000_000) {
            let t = jiff::Timestamp::new(seconds, nanos);
            prop_assume!(t.is_ok());
            let t = t.unwrap();
            prop_assert_eq!(timestamp(&t.to_string()).unwrap(), t.as_nanosecond().div_euclid(1000) as i64);
        }

        #[test]
        fn nothing_panics(text in ".{0,50}") {
            let _ = (int64(text.as_bytes()), float64(&text), numeric(&text), bignumeric(&text), boolean(&text));
            let _ = (timestamp(&text), datetime(&text), date(&text), time(&text), epoch(&text));
        }

        #[test]
        fn numbers_nothing_panics(text in "-?[0-9]{0,45}(\\.[0-9]{0,45})?([eE]-?[0-9]{1,4})?") {
            let _ = (int64(text.as_bytes()), numeric(&text), bignumeric(&text), epoch(&text));
        }

        #[test]
        fn integers_read_back(n in any::<i64>()) {
            prop_assert_eq!(int64(n.to_string().as_bytes()), Ok(n));
            prop_assert_eq!(numeric(&n.to_string()), Ok(i128::from(n) * 1_000_000_000));
        }
    }
}
