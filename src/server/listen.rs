//! Connections, and how long each may take to say what it wants.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use futures::StreamExt as _;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;

use crate::clock::{Clock as _, SystemClock};

/// Connections at once; Cloud Run sends a thousand requests at once to an instance at the most.
const MOST_CONNECTIONS: usize = 1_000;

/// A head of a request that has not come whole by then ends the connection, as does one that stands idle
/// for so long.
const HEAD_WITHIN: Duration = Duration::from_secs(15);

/// A body that has not come whole by then is not waited for.
const BODY_WITHIN: Duration = Duration::from_secs(15);

/// A connection on whose other end nobody reads answers for so long is ended.
const READ_WITHIN: Duration = Duration::from_secs(15);

/// Largest head of a request, in bytes.
const LARGEST_HEAD: usize = 64 << 10;

/// How long connections have to end by themselves once everybody has their answer.
const PARTING: Duration = Duration::from_secs(1);

/// Serves until `stop`.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let open = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let next = async {
            let place = room.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!("could not take a connection: {e}");
                // Out of file descriptors, mostly: some come back when others end.
                SystemClock.sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(READ_WITHIN));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(
                TokioIo::new(Box::pin(stream)),
                TowerToHyperService::new(router.clone()),
            );
        let connection = open.watch(connection);
        tokio::spawn(async move {
            let _place = place;
            if let Err(e) = connection.await {
                tracing::debug!("a connection ended: {e}");
            }
        });
    }
    tokio::select! {
        () = open.shutdown() => {}
        () = SystemClock.sleep(PARTING) => {}
    }
}

/// Why a body is not there.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is too large; its start.
    TooLarge(Vec<u8>),
    /// It did not come in time.
    TooSlow,
    /// Its sender has gone.
    BrokenOff,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge(_) => "its body is too large",
            Self::TooSlow => "its body did not come in time",
            Self::BrokenOff => "its body broke off",
        })
    }
}

/// How many times the largest body is read, and thrown away, before a sender is cut off: one that is still
/// sending would not see the answer.
const DRAINED: usize = 8;

/// Reads a body of at most so many bytes.
pub(super) async fn body(body: Body, largest: usize) -> Result<Bytes, Unread> {
    let read = async {
        let mut pieces = body.into_data_stream();
        let mut whole = Vec::new();
        let mut received = 0;
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|_| Unread::BrokenOff)?;
            received += piece.len();
            if whole.len() <= largest {
                whole.extend_from_slice(&piece);
            }
            if received > largest.saturating_mul(DRAINED) {
                break;
            }
        }
        match whole.len() > largest {
            true => Err(Unread::TooLarge(whole)),
            false => Ok(Bytes::from(whole)),
        }
    };
    tokio::select! {
        read = read => read,
        () = SystemClock.sleep(BODY_WITHIN) => Err(Unread::TooSlow),
    }
}
