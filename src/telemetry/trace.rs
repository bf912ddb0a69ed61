//! Which trace work belongs to: as the platform's request headers say it, and as log lines do.

use std::fmt;

/// The W3C's header, and the variable that hands a trace to a process.
pub const TRACEPARENT: &str = "traceparent";
/// Google's own header of before.
pub const CLOUD_TRACE: &str = "x-cloud-trace-context";

/// A place in a trace: whose child the work is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    span: Option<u64>,
    sampled: Option<bool>,
}

impl TraceContext {
    /// A place in a trace; `None` where the trace has no id.
    pub fn new(trace: u128, span: u64, sampled: bool) -> Option<Self> {
        (trace != 0).then_some(Self {
            trace,
            span: Some(span).filter(|s| *s != 0),
            sampled: Some(sampled),
        })
    }

    /// The trace that a request belongs to. What is malformed is as good as not there: whoever sends a
    /// header must not be able to stop a run with it.
    pub fn of_request<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        header(TRACEPARENT)
            .and_then(Self::of_traceparent)
            .or_else(|| header(CLOUD_TRACE).and_then(Self::of_cloud_trace))
    }

    /// `00-TRACE-SPAN-FLAGS`, as <https://www.w3.org/TR/trace-context/> has it: lower case, no zero ids,
    /// and more fields only in versions to come.
    pub fn of_traceparent(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let known = version == "00" && parts.next().is_none();
        if !known && (version == "00" || version == "ff" || hex(version, 2).is_none()) {
            return None;
        }
        let span = hex(span, 16).and_then(|s| u64::try_from(s).ok())?;
        Self::new(hex(trace, 32)?, span, hex(flags, 2)? & 1 == 1).filter(|at| at.span.is_some())
    }

    /// `TRACE/SPAN;o=OPTIONS`: the trace in hex, the span in decimal, and whether it is sampled; all but
    /// the trace may be left out.
    pub fn of_cloud_trace(text: &str) -> Option<Self> {
        let (ids, options) = match text.trim().split_once(';') {
            Some((ids, options)) => (ids, Some(options)),
            None => (text.trim(), None),
        };
        let (trace, span) = match ids.split_once('/') {
            Some((trace, span)) => (trace, Some(span)),
            None => (ids, None),
        };
        let trace = hex(&trace.to_ascii_lowercase(), 32).filter(|t| *t != 0)?;
        let decimal = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
            true => text.parse::<u64>().ok(),
            false => None,
        };
        let span = span.map(|s| decimal(s).ok_or(())).transpose().ok()?;
        let sampled = options
            .map(|o| o.strip_prefix("o=").and_then(decimal).ok_or(()))
            .transpose()
            .ok()?;
        Some(Self {
            trace,
            span: span.filter(|s| *s != 0),
            sampled: sampled.map(|o| o & 1 == 1),
        })
    }

    /// The trace's id.
    pub fn trace(&self) -> u128 {
        self.trace
    }

    /// The span whose child the work is, where one is known.
    pub fn span(&self) -> Option<u64> {
        self.span
    }

    /// Whether the trace is kept, where that is known.
    pub fn sampled(&self) -> Option<bool> {
        self.sampled
    }

    /// The trace's id as text.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The span's id as text.
    pub fn span_id(&self) -> Option<String> {
        self.span.map(|s| format!("{s:016x}"))
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{:?};{:?}",
            self.trace_id(),
            self.span_id(),
            self.sampled
        )
    }
}

/// A number of exactly so many lower-case hex digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let fits = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    fits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn seen(at: Option<TraceContext>) -> Option<(String, Option<String>, Option<bool>)> {
        at.map(|a| (a.trace_id(), a.span_id(), a.sampled()))
    }

    #[test]
    fn reads_the_w3cs_header() {
        let at = |text: &str| seen(TraceContext::of_traceparent(text));
        let span = Some("00f067aa0ba902b7".to_owned());
        for (flags, sampled) in [("00", false), ("01", true), ("03", true), ("02", false)] {
            assert_eq!(
                at(&format!("00-{TRACE}-00f067aa0ba902b7-{flags}")),
                Some((TRACE.to_owned(), span.clone(), Some(sampled)))
            );
        }
        let later = format!("01-{TRACE}-00f067aa0ba902b7-01-what-comes");
        assert_eq!(at(&later).map(|a| a.0), Some(TRACE.to_owned()));
        for bad in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-00f067aa0ba902b7"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("0-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", &TRACE[1..]),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-zz"),
            format!("00-+{}-00f067aa0ba902b7-01", &TRACE[1..]),
        ] {
            assert_eq!(at(&bad), None, "{bad}");
        }
    }

    #[test]
    fn reads_googles_header() {
        let at = |text: &str| seen(TraceContext::of_cloud_trace(text));
        let trace = || TRACE.to_owned();
        let span = Some("00000000000000ff".to_owned());
        for (rest, expected) in [
            ("", (trace(), None, None)),
            ("/255", (trace(), span.clone(), None)),
            ("/255;o=1", (trace(), span.clone(), Some(true))),
            ("/255;o=0", (trace(), span.clone(), Some(false))),
            ("/0;o=1", (trace(), None, Some(true))),
            (";o=1", (trace(), None, Some(true))),
        ] {
            assert_eq!(at(&format!("{TRACE}{rest}")), Some(expected), "{rest}");
        }
        assert!(at(&TRACE.to_uppercase()).is_some());
        for bad in [
            String::new(),
            "/1".to_owned(),
            format!("{TRACE}/"),
            format!("{TRACE}/ff"),
            format!("{TRACE}/-1"),
            format!("{TRACE}/18446744073709551616"),
            format!("{TRACE}/1;o="),
            format!("{TRACE}/1;x=1"),
            format!("{TRACE}0/1"),
            format!("{}/1;o=1", "0".repeat(32)),
        ] {
            assert_eq!(at(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_malformed_header_leaves_the_other_one_its_say() {
        let both = |w3c: &'static str, google: &'static str| {
            TraceContext::of_request(move |name| match name {
                TRACEPARENT => Some(w3c),
                CLOUD_TRACE => Some(google),
                _ => None,
            })
        };
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let google = "105445aa7843bc8bf206b12000100000/1;o=1";
        assert_eq!(
            both(good, google).map(|a| a.trace_id()).as_deref(),
            Some(TRACE)
        );
        assert_eq!(
            both("nonsense", google).map(|a| a.trace_id()).as_deref(),
            Some("105445aa7843bc8bf206b12000100000")
        );
        assert_eq!(both("nonsense", "too"), None);
    }
}
