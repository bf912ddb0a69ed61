//! Reads bodies, bounded: the limit holds for what comes out of decompression, so that a small
//! answer cannot unfold into all memory.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

/// Largest buffer reserved because a header says so; beyond it the buffer grows as data comes.
const TRUSTED_LENGTH: usize = 16 * 1024 * 1024;

/// Why a body could not be read.
pub(super) enum BodyError {
    /// The connection failed or the encoding broke after this many bytes.
    Cut(usize, reqwest::Error),
    /// More than the limit.
    TooLarge,
}

/// The whole body, at most `limit` bytes. A body that came in one piece is not copied.
pub(super) async fn read(
    response: &mut reqwest::Response,
    limit: usize,
) -> Result<Bytes, BodyError> {
    let announced = usize::try_from(response.content_length().unwrap_or(0)).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(BodyError::TooLarge);
    }
    let Some(first) = next(response, 0).await? else {
        return Ok(Bytes::new());
    };
    if first.len() > limit {
        return Err(BodyError::TooLarge);
    }
    let Some(second) = next(response, first.len()).await? else {
        return Ok(first);
    };
    let reserve = announced.min(TRUSTED_LENGTH);
    let mut whole = BytesMut::with_capacity(reserve.max(2 * (first.len() + second.len())));
    whole.extend_from_slice(&first);
    drop(first);
    let mut piece = Some(second);
    while let Some(data) = piece {
        if data.len() > limit - whole.len() {
            return Err(BodyError::TooLarge);
        }
        whole.extend_from_slice(&data);
        // Free before the next read, so that the connection can reuse its buffer.
        drop(data);
        piece = next(response, whole.len()).await?;
    }
    Ok(whole.freeze())
}

/// Reads away what is left of an unwanted answer when that is little, so that its connection can
/// be used again. What goes wrong here is of no interest.
pub(super) async fn drain(response: &mut reqwest::Response) {
    const LITTLE: usize = 64 * 1024;
    const SOON: Duration = Duration::from_secs(1);
    let reading = async {
        let mut seen = 0;
        while let Ok(Some(data)) = next(response, seen).await {
            seen += data.len();
            if seen > LITTLE {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(SOON, reading).await;
}

async fn next(response: &mut reqwest::Response, so_far: usize) -> Result<Option<Bytes>, BodyError> {
    response
        .chunk()
        .await
        .map_err(|e| BodyError::Cut(so_far, e))
}
