//! Failures of files as [`Error`]s: who must act, and what to do.

use std::io;
use std::path::Path;

use parquet::errors::ParquetError;

use crate::error::{Error, ErrorKind};

/// Wraps what the operating system said about `what` ("could not …"), which names the file.
pub fn failed(what: impl Into<String>, error: io::Error) -> Error {
    let hint = hint(error.kind());
    let wrapped = Error::destination(what).source(error);
    match hint {
        Some(hint) => wrapped.hint(hint),
        None => wrapped,
    }
}

/// Wraps what went wrong when `path` was read or written as Parquet.
pub fn parquet(doing: &str, path: &Path, error: ParquetError) -> Error {
    let what = format!("could not {doing} the Parquet file {}", path.display());
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(inner) => failed(what, *inner),
            Err(inner) => Error::destination(what).source(inner),
        },
        error => Error::destination(what).source(error),
    }
}

/// Wraps an error of Arrow's, which only a mistake of ours brings about.
pub fn arrow(error: arrow_schema::ArrowError) -> Error {
    Error::new(ErrorKind::Bug, "could not put a batch together").source(error)
}

fn hint(kind: io::ErrorKind) -> Option<&'static str> {
    use io::ErrorKind::*;
    match kind {
        StorageFull | QuotaExceeded => {
            Some("the disk is full: free some space, or write to another disk")
        }
        PermissionDenied | ReadOnlyFilesystem => {
            Some("make the folder writable, or write to another one")
        }
        NotADirectory | AlreadyExists => {
            Some("the path must name a folder, or nothing yet: it is made then")
        }
        NotFound => {
            Some("files here were moved or removed while drawoff counted on them: put them back")
        }
        Unsupported => {
            Some("the file system has no file locks, which keep runs apart: use another")
        }
        InvalidFilename | FileTooLarge => Some("the file system cannot hold such a file"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_also_within_parquet() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let inside = parquet("write", Path::new("x"), ParquetError::from(full()));
        for error in [failed("could not write", full()), inside] {
            assert!(error.find_hint().unwrap().contains("disk is full"));
            assert_eq!(error.kind(), ErrorKind::Destination);
        }
    }
}
