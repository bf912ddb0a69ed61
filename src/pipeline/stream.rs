//! One stream, from its first page to its last publish.
//!
//! A slice is published at points where the checkpoint can say exactly what is done: after a span
//! of time, after some partitions, or anywhere in a listing that is sorted by the cursor. A stream
//! without such points is one slice.

mod children;
mod seam;

pub use seam::check_seam;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::cursor::{Cursor, CursorColumn, CursorKind};
use super::plan::{Bounds, Wish};
use super::slice::SliceWriter;
use super::split::Part;
use crate::clock::SharedClock;
use crate::connector::template::Scope;
use crate::connector::{CursorField, Incremental, Step, Stream};
use crate::destination::Disposition;
use crate::error::{Error, ErrorKind, Result};
use crate::source::Endpoint;
use crate::source::pages::{Page, Pages};
use crate::source::parents::Partition;
use crate::source::records::{Layout, Walked};
use crate::state::Checkpoint;

/// A slice is published at the next point where it can be once it is this many seconds old.
const SLICE_SECONDS: u64 = 300;
/// How often a listing is read, when records go away while it is, before it is taken as it is.
const MOST_READINGS: u32 = 3;
/// Time for the publish of a run that must end at once: Cloud Run kills ten seconds after SIGTERM.
const LAST_PUBLISH: Duration = Duration::from_secs(5);

/// A stream at work.
pub struct StreamRun {
    /// The stream's endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Its parent's, and the parent's parent's…, nearest first.
    pub parents: Vec<Arc<Endpoint>>,
    /// Fills and publishes slices.
    pub writer: SliceWriter,
    /// The checkpoint to go on from.
    pub checkpoint: Checkpoint,
    /// Kind of the cursor's values, in an incremental stream.
    pub cursor: Option<CursorKind>,
    /// `--since`.
    pub since: Option<Cursor>,
    /// `--until`.
    pub until: Option<Cursor>,
    /// Rows after which a slice is published at the next point where it can be.
    pub slice_rows: u64,
    /// When the run started.
    pub started: jiff::Timestamp,
    /// Everything is read, whatever was read before.
    pub full_refresh: bool,
    /// Cancelled when the process must end within seconds; a run that is merely stopped may publish.
    pub hurry: CancellationToken,
    /// Tells the time.
    pub clock: SharedClock,
    /// A span is read that does not join what was read before; the checkpoint is its own.
    pub backfill: bool,
    /// The checkpoint as it is stored.
    pub published: Checkpoint,
    /// The part of the stream that is read; all of it where there is none.
    pub part: Option<Part>,
}

impl StreamRun {
    /// Reads and publishes all that is new.
    ///
    /// # Errors
    /// What stopped it. What is published stays, and what could be published when it stopped was.
    pub async fn run(&mut self) -> Result<()> {
        let outcome = if self.parents.is_empty() {
            self.read_spans().await
        } else {
            self.read_partitions().await
        };
        let Err(error) = outcome else { return Ok(()) };
        let failed_before = matches!(
            error.kind(),
            ErrorKind::Destination | ErrorKind::State | ErrorKind::Bug | ErrorKind::Schema
        );
        if !failed_before && self.has_progress() {
            let late = async {
                self.hurry.cancelled().await;
                self.clock.sleep(LAST_PUBLISH).await;
            };
            let stream = self.endpoint.stream.name.as_str();
            tokio::select! {
                kept = self.writer.publish(self.checkpoint.clone()) => if let Err(second) = kept {
                    tracing::warn!(
                        stream,
                        "what was read last was not published and will be read again: {}",
                        second.chain()
                    );
                },
                () = late => tracing::warn!(
                    stream,
                    "there is no time left to see whether what was read last is published; if it is not, it will be read again"
                ),
            }
        }
        self.writer.abandon().await;
        Err(error)
    }

    fn stream(&self) -> &Stream {
        &self.endpoint.stream
    }

    fn incremental(&self) -> Option<&Incremental> {
        self.stream().incremental.as_ref()
    }

    fn disposition(&self) -> Disposition {
        self.writer.disposition()
    }

    /// Whether something read but not published would spare the next run work. The rows that the
    /// checkpoint does not speak of will be read again, which only a merge forgives; and what has to be
    /// whole is never published in part.
    fn has_progress(&self) -> bool {
        self.disposition().is_keyed()
            && !self.writer.is_whole()
            && self.writer.pending() > 0
            && self.checkpoint != self.published
    }

    /// Whether the slice is full enough to be published at a point where it can be.
    fn is_full(&self) -> bool {
        !self.writer.is_whole()
            && (self.writer.pending() >= self.slice_rows || self.writer.age() >= SLICE_SECONDS)
    }

    fn wish<'a>(
        &'a self,
        saved: Option<&'a Cursor>,
        start: Option<&'a Cursor>,
        now: &'a Cursor,
    ) -> Wish<'a> {
        Wish {
            since: self.since.as_ref(),
            until: self.until.as_ref(),
            saved: saved.filter(|_| !self.full_refresh),
            start,
            lookback: self.incremental().map(|i| i.lookback).unwrap_or_default(),
            now: (self.cursor == Some(CursorKind::Time)).then_some(now),
        }
    }

    fn parse(&self, text: &str) -> Option<Cursor> {
        Cursor::parse(self.cursor?, text)
    }

    /// The checkpoint's cursor.
    fn saved(&self) -> Option<Cursor> {
        self.parse(self.checkpoint.cursor.as_deref()?)
    }

    /// The connector's own lower bound.
    fn start(&self, scope: &Scope) -> Result<Option<Cursor>> {
        let Some(template) = self.incremental().and_then(|i| i.start.as_ref()) else {
            return Ok(None);
        };
        let text = template.render(scope)?;
        if text.is_empty() {
            return Ok(None);
        }
        self.parse(&text).map(Some).ok_or_else(|| {
            Error::config(format!(
                "stream `{}` cannot start at `{text}`: that is no value of its cursor",
                self.stream().name
            ))
            .hint("write a date such as `2024-01-01`")
        })
    }

    /// The scope of a listing within bounds.
    fn scope(&self, parent: Option<&Partition>, bounds: &Bounds) -> Scope {
        let mut scope = self.endpoint.scope.clone();
        scope.parent = parent.map(|p| p.fields.clone());
        if let Some(incremental) = self.incremental() {
            (scope.since, scope.until) = bounds.texts(&incremental.format);
        }
        scope
    }

    /// A cursor that may be saved once everything up to it was read. A record that changed behind
    /// the reader's back is newer than the run's start, so nothing newer counts as read, unless
    /// records come in the order of their changes, or could be doubled. Parts are read at different times, whatever
    /// the order.
    fn settled(&self, reached: Option<Cursor>) -> Option<Cursor> {
        let sorted = self.incremental().is_some_and(|i| i.sorted);
        match reached {
            Some(Cursor::Time(t))
                if (!sorted || self.part.is_some())
                    && self.disposition() != Disposition::Append =>
            {
                Some(Cursor::Time(t.min(self.started)))
            }
            reached => reached,
        }
    }

    /// What is to be read of a stream without a parent.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a lower bound in the connector that is none.
    pub fn bounds(&self) -> Result<Bounds> {
        let now = Cursor::Time(self.started);
        let saved = self.saved();
        let mut bounds = match &self.part {
            Some(Part::Span(span)) => span.clone(),
            _ => {
                let start = self.start(&self.endpoint.scope)?;
                self.wish(saved.as_ref(), start.as_ref(), &now).bounds()
            }
        };
        if self.backfill || self.part.is_some() {
            bounds.since = bounds.since.max(saved);
        }
        Ok(bounds)
    }

    /// A stream without a parent: its spans, oldest first.
    async fn read_spans(&mut self) -> Result<()> {
        self.resume_seam("", self.saved());
        let bounds = self.bounds()?;
        let spans = bounds.spans(self.incremental().and_then(|i| i.window));
        let last = spans.len() - 1;
        self.set_floor(self.checkpoint.cursor.clone());
        for (i, span) in spans.iter().enumerate() {
            let found = self.read_span(span).await?;
            self.advance(self.settled(found));
            if i < last {
                // All up to the span's end is read, whether or not anything was there.
                self.advance(span.until.clone());
                if self.is_full() {
                    self.save_seam("");
                    self.publish().await?;
                }
            }
        }
        self.finish().await
    }

    /// See [`SliceWriter::set_floor`]. Who names a lower bound wants what is above it, known or not.
    fn set_floor(&mut self, saved: Option<String>) {
        let saved = saved
            .filter(|_| self.since.is_none())
            .and_then(|c| self.parse(&c));
        self.writer.set_floor(saved.as_ref());
    }

    /// Takes in a page.
    async fn page(&mut self, layout: &Layout, page: &Page, sorted: bool) -> Result<Walked> {
        let walked = self.writer.page(layout, &page.body, sorted).await;
        walked.map_err(|e| match e.kind() {
            ErrorKind::Decode => e.context(format!(
                "could not read stream `{}` from `{}`",
                self.stream().name,
                page.shown()
            )),
            _ => e,
        })
    }

    /// Goes on behind the records at a saved cursor.
    fn resume_seam(&mut self, key: &str, at: Option<Cursor>) {
        let marks = self.checkpoint.seams.get(key).cloned().unwrap_or_default();
        self.writer.resume_seam(at, marks);
    }

    /// Notes in the checkpoint which records are at the highest cursor.
    fn save_seam(&mut self, key: &str) {
        match self.writer.seam() {
            Some(marks) if !marks.is_empty() => {
                self.checkpoint.seams.insert(key.to_owned(), marks);
                self.checkpoint.seamless = false;
            }
            _ => {}
        }
    }

    /// A cursor that may be saved in the middle of a sorted listing: more records may share the
    /// highest value, and an API that leaves its lower bound out would not serve them again.
    fn reached(&self, highest: Option<&Cursor>) -> Option<Cursor> {
        let highest = highest?;
        match self.disposition() {
            // There the seam tells which records of that value are read.
            Disposition::Append => Some(highest.clone()),
            Disposition::Merge | Disposition::Replace | Disposition::Scd2 => {
                highest.just_below().or_else(|| Some(highest.clone()))
            }
        }
    }

    /// Moves the stream's cursor up, never down.
    fn advance(&mut self, to: Option<Cursor>) {
        let before = self.saved();
        if to > before {
            self.checkpoint.cursor = to.map(|c| c.to_string());
            self.checkpoint.seamless = self.keeps_no_seam();
        }
    }

    /// Whether records may be at a cursor of the stream's own without a seam that says which.
    fn keeps_no_seam(&self) -> bool {
        let own = |i: &Incremental| matches!(i.cursor, CursorField::Own(_));
        self.incremental().is_some_and(own)
            && self.stream().table.disposition != Disposition::Append
    }

    /// One span of a stream without a parent; the highest cursor in it.
    async fn read_span(&mut self, span: &Bounds) -> Result<Option<Cursor>> {
        let endpoint = self.endpoint.clone();
        let layout = endpoint.layout();
        let sorted = self.incremental().is_some_and(|i| i.sorted);
        let by_value = sorted && self.pages_by_value();
        let mut from = span.clone();
        let mut highest: Option<Cursor> = None;
        let mut readings = 1;
        'listing: loop {
            self.writer.expect_seam();
            let scope = self.scope(None, &from);
            let mut pages = Pages::new(&endpoint, scope.clone());
            while let Some(page) = pages.next().await? {
                let walked = self.page(&layout, &page, sorted).await?;
                pages.turn(&page, &walked)?;
                highest = self.writer.take_highest().max(highest);
                if sorted {
                    self.advance(self.reached(highest.as_ref()));
                    if self.is_full() {
                        self.save_seam("");
                        self.publish().await?;
                    }
                }
                self.stop_if_asked(&endpoint)?;
                // Records that change while they are read leave their place, and those behind them
                // move up: the next page is asked for by value, so that none slips through.
                if by_value && !pages.at_end() {
                    let reached = highest.as_ref().and_then(Cursor::just_below);
                    let next = Bounds {
                        since: reached.max(from.since.clone()),
                        ..from.clone()
                    };
                    if self.scope(None, &next).since != scope.since {
                        from = next;
                        continue 'listing;
                    }
                }
            }
            if pages.may_have_slipped() && !by_value {
                let stream = self.stream().name.as_str();
                if readings < MOST_READINGS && self.published == self.checkpoint {
                    tracing::warn!(
                        stream,
                        "records went away while pages were counted: reading again"
                    );
                    readings += 1;
                    highest = None;
                    self.writer.abandon().await;
                    let saved = self.saved();
                    self.resume_seam("", saved);
                    continue 'listing;
                }
                tracing::warn!(
                    stream,
                    "records went away while pages were counted: some may be missing"
                );
                self.writer.expect_more();
            }
            if let (read, Some(announced)) = pages.counts()
                && read < announced
                && !by_value
            {
                tracing::warn!(
                    stream = self.stream().name,
                    read,
                    announced,
                    "the API announced more records than it served"
                );
                self.writer.expect_more();
            }
            return Ok(highest);
        }
    }

    /// Whether the next page can be asked for by the last cursor value in place of a page number.
    fn pages_by_value(&self) -> bool {
        let pagination = &self.stream().pagination;
        self.disposition().is_keyed()
            && !pagination.read_ahead
            && matches!(pagination.step, Step::Page { .. } | Step::Offset { .. })
            && self.incremental().is_some_and(|i| i.since_param.is_some())
    }

    fn stop_if_asked(&self, endpoint: &Endpoint) -> Result<()> {
        if endpoint.context.cancel.is_cancelled() {
            let text = format!("stream `{}` was asked to stop", self.stream().name);
            return Err(Error::new(ErrorKind::Interrupted, text));
        }
        Ok(())
    }

    async fn publish(&mut self) -> Result<()> {
        self.writer.publish(self.checkpoint.clone()).await?;
        self.published = self.checkpoint.clone();
        self.writer.evolve(false).await
    }

    /// The last publish of a run: nothing to do where nothing came, and nothing is emptied unasked.
    async fn finish(&mut self) -> Result<()> {
        if self.writer.would_empty() && self.writer.pending() > 0 {
            // Records came, and none of them fits: only the rejects are new. The rows stay, and with them
            // the checkpoint that they were read by.
            self.writer.publish(self.published.clone()).await?;
            return self.writer.evolve(true).await;
        }
        if self.writer.would_empty() && !self.stream().table.allow_empty_replace {
            tracing::warn!(
                stream = self.stream().name,
                "nothing came, so the table stays as it is; set `table: {{allow_empty_replace: true}}` if empty is right"
            );
            self.writer.abandon().await;
            return Ok(());
        }
        if let Some(mark) = &mut self.checkpoint.part {
            mark.read = true;
        } else if self.backfill {
            // Done: the same backfill, asked for again, reads all of it again.
            self.checkpoint = Checkpoint {
                split: self.checkpoint.split.take(),
                ..Checkpoint::default()
            };
        } else if self.parents.is_empty() {
            self.save_seam("");
        }
        let nothing = self.writer.pending() == 0 && self.checkpoint == self.published;
        if nothing && !self.writer.would_empty() {
            return Ok(());
        }
        self.publish().await?;
        self.writer.evolve(true).await
    }
}

/// The cursor's column of a stream, and the kind of its values.
///
/// # Errors
/// [`ErrorKind::Config`] for a column that is not there or cannot be a cursor.
pub fn cursor_of(
    stream: &Stream,
    schema: &crate::schema::TableSchema,
    parent: Option<&Stream>,
) -> Result<(Option<CursorColumn>, Option<CursorKind>)> {
    match stream.incremental.as_ref().map(|i| &i.cursor) {
        None => Ok((None, None)),
        Some(CursorField::Own(name)) => {
            let column = CursorColumn::find(schema, name, &stream.name)?;
            let kind = column.kind;
            Ok((Some(column), Some(kind)))
        }
        Some(CursorField::Parent(name)) => {
            let kind = match parent.and_then(|p| p.schema.as_ref()) {
                Some(schema) => CursorColumn::find(schema, name, &stream.name)?.kind,
                None => CursorKind::Time,
            };
            Ok((None, Some(kind)))
        }
    }
}
