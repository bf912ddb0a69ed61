//! Numbers, spans and places as people read them.

use std::time::Duration;

/// `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 row`, `1,234 rows`.
pub fn count(n: u64, one: &str) -> String {
    match n {
        1 => format!("1 {one}"),
        n => format!("{} {one}s", grouped(n)),
    }
}

/// `340ms`, `2.3s`, `2m 05s`, `1h 02m`.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match duration.as_millis() {
        ms @ 0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{:.1}s", (duration.as_millis() / 100) as f64 / 10.0),
        60_000..3_600_000 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
    }
}

/// How many a second, rounded; `None` where the time is too short to tell.
pub fn per_second(n: u64, duration: Duration) -> Option<u64> {
    (duration >= Duration::from_millis(1)).then(|| (n as f64 / duration.as_secs_f64()) as u64)
}

/// `512 B`, `4.1 MB`.
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 999.95 {
            break;
        }
        value /= 1_000.0;
        unit = next;
    }
    match unit {
        "B" => format!("{n} B"),
        unit => format!("{value:.1} {unit}"),
    }
}

/// The text as one argument of a POSIX shell.
pub fn shell(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
        assert_eq!(count(1, "row"), "1 row");
        assert_eq!(count(5_000, "row"), "5,000 rows");
        assert_eq!(per_second(500, Duration::from_millis(250)), Some(2_000));
        assert_eq!(per_second(500, Duration::ZERO), None);
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(4_120_000), "4.1 MB");
        assert_eq!(bytes(999_999), "1.0 MB");
    }

    #[test]
    fn spans() {
        assert_eq!(span(Duration::from_millis(340)), "340ms");
        assert_eq!(span(Duration::from_millis(2_349)), "2.3s");
        assert_eq!(span(Duration::from_millis(59_999)), "59.9s");
        assert_eq!(span(Duration::from_secs(125)), "2m 05s");
        assert_eq!(span(Duration::from_secs(3_725)), "1h 02m");
    }

    #[test]
    fn shell_arguments() {
        assert_eq!(shell("drawoff.db"), "drawoff.db");
        assert_eq!(shell("my data/it's.db"), r"'my data/it'\''s.db'");
        assert_eq!(shell(""), "''");
    }
}
