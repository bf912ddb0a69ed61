//! SQLite's failures as [`Error`]s: who must act, and what to do.

use rusqlite::ErrorCode;

use crate::error::{Error, ErrorKind};

/// Wraps what SQLite said about `what` ("could not …"), which names the database.
pub fn failed(what: String, error: rusqlite::Error) -> Error {
    use ErrorCode::*;
    let code = error.sqlite_error_code();
    let (kind, transient, hint) = match code {
        Some(DatabaseBusy | DatabaseLocked | FileLockingProtocolFailed) => (
            ErrorKind::Destination,
            true,
            Some("another program is writing to the database: close it, or try again later"),
        ),
        Some(DiskFull) => (
            ErrorKind::Destination,
            false,
            Some("the disk is full: free some space, or put the database on another disk"),
        ),
        Some(ReadOnly | PermissionDenied) => (
            ErrorKind::Destination,
            false,
            Some("make the file and its folder writable (SQLite keeps files beside the database)"),
        ),
        Some(CannotOpen) => (
            ErrorKind::Destination,
            false,
            Some("check that the path names a file in a folder that exists and is writable"),
        ),
        Some(NotADatabase) => (
            ErrorKind::Destination,
            false,
            Some("the file is no SQLite database: give another path, or move the file away"),
        ),
        Some(DatabaseCorrupt) => (
            ErrorKind::Destination,
            false,
            Some("restore the database from a backup, or try `sqlite3 FILE .recover`"),
        ),
        Some(SystemIoFailure) => (
            ErrorKind::Destination,
            false,
            Some(
                "check the disk, and that SQLITE_TMPDIR or /tmp is writable; SQLite needs a file system with locks",
            ),
        ),
        Some(ConstraintViolation) => (ErrorKind::Schema, false, None),
        Some(TooBig) => (
            ErrorKind::Schema,
            false,
            Some("SQLite takes at most 1 GB a value and 2,000 columns a table"),
        ),
        _ => (ErrorKind::Destination, false, None),
    };
    let error = Error::new(kind, what).transient(transient).source(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn each_failure_says_who_must_act() {
        let of = |code| {
            failed(
                "could not write".into(),
                rusqlite::Error::SqliteFailure(ffi::Error::new(code), None),
            )
        };
        let full = of(ffi::SQLITE_FULL);
        assert!(full.find_hint().unwrap().contains("disk is full"));
        assert!(!full.is_transient());
        assert!(of(ffi::SQLITE_BUSY).is_transient());
        assert!(
            of(ffi::SQLITE_READONLY)
                .find_hint()
                .unwrap()
                .contains("writable")
        );
        assert_eq!(of(ffi::SQLITE_CONSTRAINT_NOTNULL).kind(), ErrorKind::Schema);
    }
}
