//! A child stream: one partition for each of its parent's records, the first pages of the next few
//! asked for together. What is read of a pass is noted in the checkpoint, so that a run that ends in
//! its middle does not have to begin it again.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::StreamRun;
use crate::connector::CursorField;
use crate::error::Result;
use crate::pipeline::cursor::Cursor;
use crate::pipeline::partitions::{self, Found};
use crate::pipeline::plan::Bounds;
use crate::source::Endpoint;
use crate::source::pages::Pages;
use crate::source::parents::Partition;
use crate::source::records::Layout;
use crate::state::Pass;

impl StreamRun {
    /// A child stream: one partition for each of the parent's records.
    pub(super) async fn read_partitions(&mut self) -> Result<()> {
        let endpoint = self.endpoint.clone();
        let layout = endpoint.layout();
        let now = Cursor::Time(self.started);
        let by_parent = self
            .incremental()
            .is_some_and(|i| matches!(i.cursor, CursorField::Parent(_)));
        if self.writer.is_whole() {
            self.checkpoint.pass = None;
        }
        let started = self.started;
        self.checkpoint.pass.get_or_insert_with(|| Pass {
            started,
            parent_cursor: None,
            done: BTreeSet::new(),
        });
        let start = self.start(&endpoint.scope)?;
        let parent_bounds = if by_parent {
            let saved = self.saved();
            self.wish(saved.as_ref(), start.as_ref(), &now).bounds()
        } else {
            Bounds::open()
        };

        let (found, mut inbox) = mpsc::channel::<Result<Found>>(256);
        let (chain, child) = (self.parents.clone(), endpoint.stream.clone());
        let _lister = AbortOnDropHandle::new(tokio::spawn(
            async move {
                partitions::list(chain, child, parent_bounds, found).await;
            }
            .in_current_span(),
        ));

        // The first pages of the next few partitions are asked for together; they come in order.
        let mut ahead: VecDeque<(Partition, Vec<Bounds>, Pages<'_>)> = VecDeque::new();
        loop {
            while ahead.len() < endpoint.concurrency {
                // Waits for a parent only when there is nothing else to do.
                let next = if ahead.is_empty() {
                    inbox.recv().await
                } else {
                    inbox.try_recv().ok()
                };
                let Some(next) = next else { break };
                let partition = match next? {
                    Found::Partition(partition) => partition,
                    Found::Incomplete { parent } => {
                        tracing::warn!(
                            stream = endpoint.stream.name,
                            "not all of stream `{parent}` was listed (records went away while pages were counted, or the API announced more than it served), so that some of its children may be missing"
                        );
                        self.writer.expect_more();
                        continue;
                    }
                };
                let mine = self.part.as_ref().is_none_or(|p| p.has(&partition));
                if !mine || self.is_done(&partition) {
                    continue;
                }
                let spans = self.partition_spans(&partition, &now, by_parent)?;
                let mut pages = Pages::new(&endpoint, self.scope(Some(&partition), &spans[0]));
                pages.prime()?;
                ahead.push_back((partition, spans, pages));
            }
            let Some((partition, spans, pages)) = ahead.pop_front() else {
                break;
            };
            let reached = self
                .read_partition(&endpoint, &layout, &partition, &spans, pages)
                .await?;
            self.settle_partition(&partition, reached);
            if self.is_full() {
                self.publish().await?;
            }
        }
        let pass = self.checkpoint.pass.take();
        if by_parent {
            let reached = pass
                .and_then(|p| p.parent_cursor)
                .and_then(|c| self.parse(&c));
            self.advance(self.settled(reached));
        }
        self.finish().await
    }

    fn is_done(&self, partition: &Partition) -> bool {
        self.checkpoint
            .pass
            .as_ref()
            .is_some_and(|p| p.done.contains(&pass_key(partition)))
    }

    /// Notes in the checkpoint that a partition was read.
    fn settle_partition(&mut self, partition: &Partition, reached: Option<Cursor>) {
        let key = partition.key();
        let before = self
            .checkpoint
            .partitions
            .get(&key)
            .and_then(|c| self.parse(c));
        let reached = self.settled(reached);
        if reached > before
            && let Some(reached) = reached
        {
            self.checkpoint.partitions.insert(key, reached.to_string());
            self.checkpoint.seamless = self.keeps_no_seam();
        }
        let parent = partition.cursor.as_deref().and_then(|c| self.parse(c));
        let kind = self.cursor;
        if let Some(pass) = &mut self.checkpoint.pass {
            pass.done.insert(pass_key(partition));
            let before = pass
                .parent_cursor
                .as_deref()
                .and_then(|c| Cursor::parse(kind?, c));
            pass.parent_cursor = parent.max(before).map(|c| c.to_string());
        }
    }

    fn partition_spans(
        &self,
        partition: &Partition,
        now: &Cursor,
        by_parent: bool,
    ) -> Result<Vec<Bounds>> {
        if self.incremental().is_none() || by_parent {
            return Ok(vec![Bounds::open()]);
        }
        let saved = self
            .checkpoint
            .partitions
            .get(&partition.key())
            .and_then(|c| self.parse(c));
        let start = self.start(&self.endpoint.scope)?;
        let bounds = self.wish(saved.as_ref(), start.as_ref(), now).bounds();
        Ok(bounds.spans(self.incremental().and_then(|i| i.window)))
    }

    /// All spans of one partition; the highest cursor in it.
    async fn read_partition(
        &mut self,
        endpoint: &Arc<Endpoint>,
        layout: &Layout,
        partition: &Partition,
        spans: &[Bounds],
        first: Pages<'_>,
    ) -> Result<Option<Cursor>> {
        let scope = self.scope(Some(partition), &spans[0]);
        let constants = endpoint
            .stream
            .add_columns
            .iter()
            .map(|(name, template)| Ok((name.clone(), template.render(&scope)?)))
            .collect::<Result<Vec<_>>>()?;
        self.writer.set_constants(&constants)?;
        self.set_floor(self.checkpoint.partitions.get(&partition.key()).cloned());
        let track = self
            .incremental()
            .is_some_and(|i| matches!(i.cursor, CursorField::Own(_)));
        let key = partition.key();
        if track {
            // The cursor is this partition's own.
            self.writer.flush().await?;
            self.writer.take_highest();
            let saved = self.checkpoint.partitions.get(&key);
            let saved = saved.and_then(|c| self.parse(c));
            self.resume_seam(&key, saved);
        }
        let mut first = Some(first);
        for span in spans {
            let mut pages = match first.take() {
                Some(pages) => pages,
                None => Pages::new(endpoint, self.scope(Some(partition), span)),
            };
            self.writer.expect_seam();
            while let Some(page) = pages.next().await? {
                let walked = self.page(layout, &page, false).await?;
                pages.turn(&page, &walked)?;
                self.stop_if_asked(endpoint)?;
            }
            if pages.is_incomplete() {
                self.writer.expect_more();
            }
        }
        if track {
            self.save_seam(&key);
        }
        Ok(self.writer.take_highest())
    }
}

/// A partition in a pass: read again in the same pass when its parent has changed meanwhile.
fn pass_key(partition: &Partition) -> String {
    match &partition.cursor {
        Some(cursor) => format!("{}@{cursor}", partition.key()),
        None => partition.key(),
    }
}
