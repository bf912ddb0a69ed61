//! Draws that are always the same for the same id: the demo's data has no other randomness.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Serialize, Serializer, ser};
use serde_json::value::RawValue;

/// Seconds of an hour.
pub const HOUR: i64 = 3_600;
/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// A number that depends on what is drawn (`salt`) and for whom (`id`) only.
pub fn draw(salt: &str, id: i64) -> u64 {
    // FNV-1a over the salt, then splitmix64's finalizer, which spreads neighbouring ids.
    let seed = salt.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut x = seed ^ (id.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number from `low` to `high`, both included.
pub fn between(salt: &str, id: i64, low: i64, high: i64) -> i64 {
    let span = high.abs_diff(low).saturating_add(1);
    low.saturating_add_unsigned(draw(salt, id) % span)
}

/// Whether something with so many chances in a hundred is so.
pub fn chance(salt: &str, id: i64, percent: u64) -> bool {
    draw(salt, id) % 100 < percent
}

/// One of a list, which must not be empty.
pub fn pick<T: Copy>(salt: &str, id: i64, from: &[T]) -> T {
    from[(draw(salt, id) % from.len() as u64) as usize]
}

/// Up to `most` different ones of a list, in its order.
pub fn some<T: Copy>(salt: &str, id: i64, from: &[T], most: u64) -> Vec<T> {
    let count = draw(salt, id) % (most + 1);
    let first = draw(salt, id.wrapping_neg());
    let mut chosen: Vec<usize> = (0..count)
        // A stride of one through the ring keeps them different.
        .map(|i| ((first.wrapping_add(i)) % from.len() as u64) as usize)
        .collect();
    chosen.sort_unstable();
    chosen.into_iter().map(|i| from[i]).collect()
}

/// The time so many seconds after 1970.
pub fn at(second: i64) -> Timestamp {
    // Every second here comes from a clock or stands near one: always in range.
    Timestamp::from_second(second).unwrap_or_default()
}

/// The day, in UTC, of a second after 1970.
pub fn day(second: i64) -> Date {
    at(second).to_zoned(TimeZone::UTC).date()
}

/// An exact decimal, written in JSON as a number with all its digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    units: i64,
    scale: u32,
}

impl Decimal {
    /// `units` times ten to the power of minus `scale`.
    pub fn new(units: i64, scale: u32) -> Self {
        Self { units, scale }
    }

    /// The number without its point.
    pub fn units(self) -> i64 {
        self.units
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sign = if self.units < 0 { "-" } else { "" };
        let one = 10_u64.pow(self.scale);
        let (whole, rest) = (
            self.units.unsigned_abs() / one,
            self.units.unsigned_abs() % one,
        );
        let text = match self.scale {
            0 => format!("{sign}{whole}"),
            scale => format!("{sign}{whole}.{rest:0width$}", width = scale as usize),
        };
        RawValue::from_string(text)
            .map_err(ser::Error::custom)?
            .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_stable_and_spread() {
        assert_eq!(draw("name", 7), draw("name", 7));
        assert_ne!(draw("name", 7), draw("name", 8));
        assert_ne!(draw("name", 7), draw("plan", 7));
        let mut hits = [0_u32; 10];
        for id in 0..10_000 {
            hits[(draw("spread", id) % 10) as usize] += 1;
        }
        assert!(hits.iter().all(|h| (800..1_200).contains(h)), "{hits:?}");
    }

    #[test]
    fn between_includes_both_ends() {
        let drawn: std::collections::BTreeSet<i64> =
            (0..200).map(|id| between("die", id, 1, 6)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn some_are_different_and_few() {
        for id in 0..200 {
            let mut chosen = some("tags", id, &["a", "b", "c", "d"], 3);
            assert!(chosen.len() <= 3);
            chosen.dedup();
            assert_eq!(chosen, some("tags", id, &["a", "b", "c", "d"], 3));
        }
    }

    #[test]
    fn decimals_keep_every_digit() {
        let json = |units, scale| serde_json::to_string(&Decimal::new(units, scale)).unwrap();
        assert_eq!(json(1_050, 2), "10.50");
        assert_eq!(json(-5, 3), "-0.005");
        assert_eq!(json(7, 0), "7");
        assert_eq!(json(i64::MAX, 9), "9223372036.854775807");
    }
}
