//! A line for each stream on the terminal while a run is at work: rows, pages, rows a second, and
//! whether it waits for the rate limit. Read from the run's counters, never told by them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use unicode_width::UnicodeWidthStr as _;

use super::style::Paint;
use super::words::{count, grouped, per_second};
use crate::pipeline::report::{Observer, Phase, Watched};
use crate::telemetry::{Meter, log};

/// Between two looks at the counters.
const EVERY: Duration = Duration::from_millis(100);

/// Shows a run at work until it is dropped, then leaves the terminal as it was.
pub struct Progress {
    stop: Option<Sender<()>>,
    drawer: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins to draw on standard error. Log lines are written around the drawing.
    pub fn start(observer: Arc<Observer>, paint: Paint) -> Self {
        Self::on(observer, paint, ProgressDrawTarget::stderr())
    }

    fn on(observer: Arc<Observer>, paint: Paint, target: ProgressDrawTarget) -> Self {
        let bars = MultiProgress::with_draw_target(target);
        let (stop, stopped) = mpsc::channel();
        let around = bars.clone();
        log::write_around(Some(Arc::new(move |write| around.suspend(write))));
        let drawer = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || {
                let mut drawing = Drawing::new(bars, paint);
                while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                    drawing.draw(&observer.streams());
                }
                drawing.clear();
            });
        Self {
            stop: Some(stop),
            // Without a thread there is no progress to see, which is no reason not to run.
            drawer: drawer.ok(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(drawer) = self.drawer.take() {
            let _ = drawer.join();
        }
        log::write_around(None);
    }
}

struct Drawing {
    bars: MultiProgress,
    lines: HashMap<String, (ProgressBar, Instant)>,
    style: ProgressStyle,
    paint: Paint,
}

impl Drawing {
    fn new(bars: MultiProgress, paint: Paint) -> Self {
        Self {
            bars,
            lines: HashMap::new(),
            style: ProgressStyle::with_template("{spinner} {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            paint,
        }
    }

    fn draw(&mut self, streams: &[Watched]) {
        let names = streams.iter().map(|s| s.stream.width()).max().unwrap_or(0);
        for watched in streams {
            let (bar, since) = self.lines.entry(watched.stream.clone()).or_insert_with(|| {
                let bar = self.bars.add(ProgressBar::new_spinner());
                bar.set_style(self.style.clone());
                (bar, Instant::now())
            });
            match watched.phase {
                Phase::Queued => *since = Instant::now(),
                Phase::Reading | Phase::Publishing => bar.tick(),
                Phase::Done | Phase::Failed if bar.is_finished() => continue,
                Phase::Done | Phase::Failed => {}
            }
            let line = line(watched, names, since.elapsed(), self.paint);
            match watched.phase {
                Phase::Done | Phase::Failed => bar.finish_with_message(line),
                _ => bar.set_message(line),
            }
        }
    }

    fn clear(&self) {
        for (bar, _) in self.lines.values() {
            bar.finish_and_clear();
        }
        let _ = self.bars.clear();
    }
}

/// A stream's line: its name padded to `names`, what it has done in `elapsed`, what it is at.
fn line(watched: &Watched, names: usize, elapsed: Duration, paint: Paint) -> String {
    let meter = &watched.meter;
    let space = " ".repeat(names.saturating_sub(watched.stream.width()));
    let name = format!("{}{space}", paint.strong(&watched.stream));
    let rows = Meter::get(&meter.records);
    let mut facts = vec![
        format!("{:>10} rows", grouped(rows)),
        format!("{:>6} pages", grouped(Meter::get(&meter.pages))),
    ];
    let rate = per_second(rows, elapsed).unwrap_or(0);
    let rejected = Meter::get(&meter.rejected);
    let waiting = meter.waiting.load(std::sync::atomic::Ordering::Relaxed);
    match watched.phase {
        Phase::Queued => return format!("{name}  {}", paint.dim("queued")),
        Phase::Reading | Phase::Publishing => facts.push(format!("{:>8} rows/s", grouped(rate))),
        Phase::Done => facts.push(paint.good("done")),
        Phase::Failed => facts.push(paint.bad("failed")),
    }
    if rejected > 0 {
        facts.push(paint.warn(&format!("{} rejected", count(rejected, "record"))));
    }
    match watched.phase {
        Phase::Reading if waiting => facts.push(paint.warn("waiting for the rate limit")),
        Phase::Publishing => facts.push(paint.dim("publishing")),
        _ => {}
    }
    format!("{name}  {}", facts.join("  "))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    fn watched(phase: Phase) -> Watched {
        let meter = Meter::default();
        Meter::add(&meter.records, 2_300);
        Meter::add(&meter.pages, 23);
        Watched {
            stream: "tickets".into(),
            meter: Arc::new(meter),
            phase,
        }
    }

    fn shown(watched: &Watched) -> String {
        line(watched, 9, Duration::from_secs(2), Paint::plain())
    }

    #[test]
    fn a_line_says_what_a_stream_is_at() {
        let mut at = watched(Phase::Reading);
        let reading = "tickets         2,300 rows      23 pages     1,150 rows/s";
        assert_eq!(shown(&at), reading);
        at.meter.waiting.store(true, Relaxed);
        assert_eq!(shown(&at), format!("{reading}  waiting for the rate limit"));
        Meter::add(&at.meter.rejected, 1);
        at.phase = Phase::Publishing;
        assert_eq!(
            shown(&at),
            format!("{reading}  1 record rejected  publishing")
        );
        assert_eq!(shown(&watched(Phase::Queued)), "tickets    queued");
        assert_eq!(
            shown(&watched(Phase::Done)),
            "tickets         2,300 rows      23 pages  done"
        );
    }

    #[test]
    fn drawing_follows_the_run_and_ends() {
        let observer = Arc::new(Observer::default());
        let meter = Arc::new(Meter::default());
        observer.set("tickets", &meter, Phase::Reading);
        let mut drawing = Drawing::new(
            MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            Paint::plain(),
        );
        drawing.draw(&observer.streams());
        Meter::add(&meter.records, 5);
        observer.set("tickets", &meter, Phase::Done);
        observer.set("contacts", &meter, Phase::Queued);
        drawing.draw(&observer.streams());
        let message = |name: &str| drawing.lines[name].0.message();
        assert!(
            message("tickets").contains("5 rows"),
            "{}",
            message("tickets")
        );
        assert!(drawing.lines["tickets"].0.is_finished());
        assert!(message("contacts").ends_with("queued"));
        drawing.clear();
        assert!(drawing.lines.values().all(|(bar, _)| bar.is_finished()));

        // With its thread: dropping it returns.
        drop(Progress::on(
            observer,
            Paint::plain(),
            ProgressDrawTarget::hidden(),
        ));
    }
}
