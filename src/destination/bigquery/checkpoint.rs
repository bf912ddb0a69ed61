//! A checkpoint as the text of its row's `state`: JSON, which people can read, and above a size deflated, since
//! BigQuery takes requests of 10 MB and a stream may have a million partitions.

use std::io::{Read as _, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::state::Checkpoint;

/// Longest JSON that is stored as it is, in bytes.
const LONGEST_PLAIN: usize = 1 << 20;

/// What is stored of a longer one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deflated {
    /// The newest cursor, for people.
    cursor: Option<String>,
    /// The checkpoint's JSON in zlib's format, in Base64.
    deflated: String,
}

/// The text of a checkpoint.
///
/// # Errors
/// [`ErrorKind::Bug`]: it cannot be written as JSON.
pub(super) fn to_text(checkpoint: &Checkpoint) -> Result<String> {
    let bug = |e| Error::new(ErrorKind::Bug, "could not write a checkpoint as JSON").source(e);
    let plain = serde_json::to_string(checkpoint).map_err(bug)?;
    if plain.len() <= LONGEST_PLAIN {
        return Ok(plain);
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let deflated = encoder
        .write_all(plain.as_bytes())
        .and_then(|()| encoder.finish())
        .map_err(|e| Error::new(ErrorKind::Bug, "could not deflate a checkpoint").source(e))?;
    drop(plain);
    serde_json::to_string(&Deflated {
        cursor: checkpoint.newest(),
        deflated: STANDARD.encode(deflated),
    })
    .map_err(bug)
}

/// The checkpoint of a text; `None` where it is not one.
pub(super) fn of_text(text: &str) -> Option<Checkpoint> {
    match serde_json::from_str::<Deflated>(text) {
        Ok(Deflated { deflated, .. }) => {
            let deflated = STANDARD.decode(deflated).ok()?;
            let mut plain = ZlibDecoder::new(deflated.as_slice());
            let mut text = String::new();
            plain.read_to_string(&mut text).ok()?;
            serde_json::from_str(&text).ok()
        }
        Err(_) => serde_json::from_str(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_partitions(n: usize) -> Checkpoint {
        Checkpoint {
            partitions: (0..n)
                .map(|i| {
                    (
                        format!("[\"{i:07}\"]"),
                        format!("2026-01-01T00:00:00.{i:06}Z"),
                    )
                })
                .collect(),
            ..Checkpoint::default()
        }
    }

    #[test]
    fn a_checkpoint_comes_back_however_large() {
        for n in [0, 1, 1000, 300_000] {
            let checkpoint = of_partitions(n);
            let text = to_text(&checkpoint).unwrap();
            assert_eq!(of_text(&text), Some(checkpoint), "{n}");
        }
    }

    #[test]
    fn a_small_one_can_be_read_by_people_and_a_large_one_is_small() {
        assert!(
            to_text(&of_partitions(1))
                .unwrap()
                .contains("[\\\"0000000\\\"]")
        );
        // As JSON, some 14 MB.
        let text = to_text(&of_partitions(300_000)).unwrap();
        assert!(text.len() < 3_000_000, "{} bytes", text.len());
        assert!(text.starts_with(r#"{"cursor":"2026-01-01T00:00:00.299999Z","#));
    }

    #[test]
    fn what_is_not_one_is_none() {
        for text in [
            "",
            "{",
            r#"{"new": 1}"#,
            r#"{"cursor": null, "deflated": "!"}"#,
            r#"{"cursor": null, "deflated": "AAAA"}"#,
        ] {
            assert_eq!(of_text(text), None, "{text}");
        }
    }
}
