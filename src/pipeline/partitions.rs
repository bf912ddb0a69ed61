//! Lists the partitions of a child stream by reading its parent through the API, level by level.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::plan::Bounds;
use crate::connector::{CursorField, Stream};
use crate::error::{Error, ErrorKind, Result};
use crate::source::Endpoint;
use crate::source::pages::Pages;
use crate::source::parents::{Partition, PartitionSink};

/// What the parent's listing shows.
#[derive(Debug)]
pub enum Found {
    /// A partition.
    Partition(Partition),
    /// There may be partitions that it has not shown.
    Incomplete {
        /// The stream whose listing was not whole: the parent, or one above it.
        parent: String,
    },
}

/// Sends the partitions of `child` in the order of its parent's listing. `chain` is the parent, the
/// parent's parent…; `bounds` are the parent's own. Ends with the first error.
pub async fn list(
    chain: Vec<Arc<Endpoint>>,
    child: Stream,
    bounds: Bounds,
    found: mpsc::Sender<Result<Found>>,
) {
    if let Err(error) = level(&chain, &child, None, &bounds, &found).await {
        let _ = found.send(Err(error)).await;
    }
}

/// Lists one level: the records of `chain[0]`, once for each of its own partitions.
fn level<'a>(
    chain: &'a [Arc<Endpoint>],
    child: &'a Stream,
    grandparent: Option<&'a Partition>,
    bounds: &'a Bounds,
    found: &'a mpsc::Sender<Result<Found>>,
) -> BoxFuture<'a, Result<()>> {
    Box::pin(async move {
        let Some((endpoint, above)) = chain.split_first() else {
            return Ok(());
        };
        if !above.is_empty() && grandparent.is_none() {
            let (tx, mut rx) = mpsc::channel::<Result<Found>>(64);
            let open = Bounds {
                since: None,
                until: None,
            };
            let lister = async {
                if let Err(error) = level(above, &endpoint.stream, None, &open, &tx).await {
                    let _ = tx.send(Err(error)).await;
                }
                drop(tx);
            };
            let reader = async {
                while let Some(next) = rx.recv().await {
                    match next? {
                        Found::Partition(above) => {
                            level(chain, child, Some(&above), bounds, found).await?;
                        }
                        incomplete @ Found::Incomplete { .. } => {
                            let _ = found.send(Ok(incomplete)).await;
                        }
                    }
                }
                Ok(())
            };
            let ((), outcome) = futures::join!(lister, reader);
            return outcome;
        }
        read(endpoint, child, grandparent, bounds, found).await
    })
}

async fn read(
    endpoint: &Arc<Endpoint>,
    child: &Stream,
    grandparent: Option<&Partition>,
    bounds: &Bounds,
    found: &mpsc::Sender<Result<Found>>,
) -> Result<()> {
    let fields = child
        .parent
        .as_ref()
        .map(|p| p.fields.clone())
        .unwrap_or_default();
    let cursor = match child.incremental.as_ref().map(|i| &i.cursor) {
        Some(CursorField::Parent(name)) => Some(name.as_str()),
        _ => None,
    };
    let mut scope = endpoint.scope.clone();
    scope.parent = grandparent.map(|p| p.fields.clone());
    if let Some(incremental) = &endpoint.stream.incremental {
        (scope.since, scope.until) = bounds.texts(&incremental.format);
    }
    let layout = endpoint.layout();
    let mut pages = Pages::new(endpoint, scope);
    while let Some(page) = pages.next().await? {
        let mut sink = PartitionSink::new(&fields, cursor);
        let walked = layout.walk(&page.body, &mut sink)?;
        pages.turn(&page, &walked)?;
        if sink.lacking > 0 {
            return Err(Error::new(
                ErrorKind::Decode,
                format!(
                    "{} records of stream `{}` lack `{}`, so stream `{}` cannot be read for them",
                    sink.lacking,
                    endpoint.stream.name,
                    fields.join("`, `"),
                    child.name
                ),
            )
            .hint("check the field named in braces in the child's `path`"));
        }
        for partition in sink.partitions {
            if found.send(Ok(Found::Partition(partition))).await.is_err() {
                return Ok(());
            }
        }
    }
    if pages.is_incomplete() {
        let parent = endpoint.stream.name.clone();
        let _ = found.send(Ok(Found::Incomplete { parent })).await;
    }
    Ok(())
}
