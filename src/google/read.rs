//! Bodies of answers, with a bound.

/// Most bytes of an answer about credentials; Google's are a few KB.
pub(super) const SMALL: usize = 256 << 10;

/// Why a body is not there.
pub(super) enum ReadError {
    /// The connection.
    Transport(reqwest::Error),
    /// It is larger than the bound.
    TooLarge,
}

/// The whole body, if it has no more than `most` bytes.
pub(super) async fn read(
    answer: &mut reqwest::Response,
    most: usize,
) -> Result<Vec<u8>, ReadError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(ReadError::Transport)? {
        if body.len() + chunk.len() > most {
            return Err(ReadError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The text of a small answer of status 200; `None` when there is none.
pub(super) async fn small_text(sent: reqwest::Result<reqwest::Response>) -> Option<String> {
    let mut answer = sent.ok()?.error_for_status().ok()?;
    let body = read(&mut answer, SMALL).await.ok()?;
    String::from_utf8(body).ok()
}
