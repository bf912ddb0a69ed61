//! Metrics: read off the meters when they are exported, so that nothing is counted twice.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::Method;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter as Instruments, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use crate::telemetry::{Meter, redact};

static MEASURES: OnceLock<Measures> = OnceLock::new();

struct Measures {
    latency: Histogram<f64>,
    meters: Mutex<Meters>,
}

/// Meters by source and stream.
#[derive(Default)]
struct Meters(BTreeMap<(String, String), Counted>);

/// What is counted of a stream.
#[derive(Default)]
struct Counted {
    /// By meters that are gone.
    before: [u64; COUNTERS.len()],
    meters: Vec<Arc<Meter>>,
}

/// A metric that is a counter of a [`Meter`].
struct Counter {
    name: &'static str,
    unit: &'static str,
    says: &'static str,
    of: fn(&Meter) -> &AtomicU64,
}

const fn counter(
    name: &'static str,
    unit: &'static str,
    says: &'static str,
    of: fn(&Meter) -> &AtomicU64,
) -> Counter {
    Counter {
        name,
        unit,
        says,
        of,
    }
}

const COUNTERS: [Counter; 10] = [
    counter("drawoff.pages", "{page}", "Pages read", |m| &m.pages),
    counter("drawoff.records", "{record}", "Records received", |m| {
        &m.records
    }),
    counter("drawoff.rows", "{row}", "Rows published", |m| &m.published),
    counter("drawoff.rejected", "{record}", "Records rejected", |m| {
        &m.rejected
    }),
    counter("drawoff.slices", "{slice}", "Slices published", |m| {
        &m.slices
    }),
    counter(
        "drawoff.received",
        "By",
        "Bytes of bodies received, decompressed",
        |m| &m.bytes,
    ),
    counter(
        "drawoff.requests",
        "{request}",
        "Requests to the API, those sent again included",
        |m| &m.requests,
    ),
    counter("drawoff.retries", "{request}", "Requests sent again", |m| {
        &m.retries
    }),
    counter(
        "drawoff.throttled",
        "{response}",
        "Answers that said \"too many requests\"",
        |m| &m.throttled,
    ),
    counter(
        "drawoff.rate_limit.wait",
        "ms",
        "Time that requests waited for the API's rate limit",
        |m| &m.waited,
    ),
];

/// Buckets of a request's time, in seconds, as OpenTelemetry's conventions have them; and two for slow
/// APIs.
const SECONDS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
];

/// Starts measuring.
pub(super) fn start(provider: &SdkMeterProvider) {
    let instruments = provider.meter(env!("CARGO_PKG_NAME"));
    let latency = instruments
        .f64_histogram("http.client.request.duration")
        .with_unit("s")
        .with_description("Time from a request to the end of its answer")
        .with_boundaries(SECONDS.to_vec())
        .build();
    let _ = MEASURES.set(Measures {
        latency,
        meters: Mutex::default(),
    });
    for (index, counter) in COUNTERS.iter().enumerate() {
        observe(&instruments, index, counter);
    }
    let _ = instruments
        .u64_observable_gauge("process.memory.usage")
        .with_unit("By")
        .with_description("Resident memory")
        .with_callback(|observer| {
            if let Some(bytes) = resident() {
                observer.observe(bytes, &[]);
            }
        })
        .build();
}

fn observe(instruments: &Instruments, index: usize, counter: &Counter) {
    let _ = instruments
        .u64_observable_counter(counter.name)
        .with_unit(counter.unit)
        .with_description(counter.says)
        .with_callback(move |observer| {
            let Some(measures) = MEASURES.get() else {
                return;
            };
            let mut meters = measures
                .meters
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for ((source, stream), counted) in &mut meters.0 {
                let about = [
                    KeyValue::new("source", source.clone()),
                    KeyValue::new("stream", stream.clone()),
                ];
                observer.observe(counted.total(index), &about);
            }
        })
        .build();
}

impl Counted {
    /// Of one counter. Meters that only we hold count no more: they are added up and let go.
    fn total(&mut self, index: usize) -> u64 {
        let before = &mut self.before;
        self.meters.retain(|meter| {
            let alive = Arc::strong_count(meter) > 1;
            if !alive {
                for (sum, counter) in before.iter_mut().zip(&COUNTERS) {
                    *sum += Meter::get((counter.of)(meter));
                }
            }
            alive
        });
        let now = self
            .meters
            .iter()
            .map(|m| Meter::get((COUNTERS[index].of)(m)));
        self.before[index] + now.sum::<u64>()
    }
}

/// Measures what a stream's meter counts, from now on.
pub(crate) fn watch(source: &str, stream: &str, meter: &Arc<Meter>) {
    let Some(measures) = MEASURES.get() else {
        return;
    };
    let name = (redact::scrub(source), redact::scrub(stream));
    let mut meters = measures
        .meters
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    meters.0.entry(name).or_default().meters.push(meter.clone());
}

/// Measures a request; a status of 0: there was no answer.
pub(crate) fn exchanged(method: &Method, host: &str, status: u16, took: Duration) {
    let Some(measures) = MEASURES.get() else {
        return;
    };
    let mut about = vec![
        KeyValue::new("http.request.method", method.as_str().to_owned()),
        KeyValue::new("server.address", redact::scrub(host)),
    ];
    about.push(match status {
        0 => KeyValue::new("error.type", "no_answer"),
        _ => KeyValue::new("http.response.status_code", i64::from(status)),
    });
    measures.latency.record(took.as_secs_f64(), &about);
}

/// Resident memory in bytes, where the kernel says it as Linux does.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_meters_counted_that_are_gone_stays_counted() {
        let mut counted = Counted::default();
        let pages = |n: u64| {
            let meter = Arc::new(Meter::default());
            Meter::add(&meter.pages, n);
            meter
        };
        let (first, second) = (pages(3), pages(4));
        counted.meters = vec![first.clone(), second.clone()];
        assert_eq!(counted.total(0), 7);
        Meter::add(&first.pages, 1);
        drop(first);
        assert_eq!(counted.total(0), 8);
        assert_eq!(counted.meters.len(), 1);
        Meter::add(&second.pages, 1);
        assert_eq!(counted.total(0), 9);
        drop(second);
        assert_eq!((counted.total(0), counted.total(0)), (9, 9));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_says_how_much_memory_is_resident() {
        let bytes = resident().unwrap();
        assert!((1 << 20..1 << 36).contains(&bytes), "{bytes}");
    }
}
