//! Why the ledger's own code came to nothing, before the file's name is added.

use super::LedgerError;
use rusqlite::{ErrorCode, ffi};
use std::path::Path;

/// Why a statement or a request came to nothing, before the file's name is added.
#[derive(Debug)]
pub enum Failure {
    /// A rule of the ledger forbids it; nothing is wrong with the file.
    Refused(LedgerError),
    /// The file holds what it cannot hold.
    Damaged(String),
    /// A newer program wrote this event.
    Newer {
        /// The event's place.
        seq: i64,
        /// Its kind.
        kind: String,
        /// The version of its stored form.
        version: i64,
    },
    /// SQLite failed.
    Sqlite(rusqlite::Error),
}

impl Failure {
    /// An event that has no stored form.
    pub fn unstorable(error: impl std::fmt::Display) -> Self {
        Self::illegal(format!("the event cannot be stored: {error}"))
    }

    /// A request that contradicts what is on record.
    pub fn illegal(what: impl Into<String>) -> Self {
        Self::Refused(LedgerError::Illegal(what.into()))
    }

    /// Whether the file is at fault, so that nothing else could be written either.
    pub fn is_of_file(&self) -> bool {
        match self {
            Self::Refused(_) => false,
            Self::Damaged(_) | Self::Newer { .. } => true,
            Self::Sqlite(error) => {
                error.sqlite_error_code() != Some(ErrorCode::ConstraintViolation)
            }
        }
    }

    /// The failure of an event that is on record: that it contradicts what stands before it is damage.
    pub fn of_event(self, seq: i64) -> Self {
        match self {
            Self::Refused(error) => Self::Damaged(format!("event {seq}: {:?}", error.fault())),
            Self::Damaged(what) => Self::Damaged(format!("event {seq}: {what}")),
            Self::Sqlite(ref error) if !self.is_of_file() => {
                Self::Damaged(format!("event {seq}: {error}"))
            }
            Self::Newer { .. } | Self::Sqlite(_) => self,
        }
    }

    /// The failure as callers see it.
    pub fn at(self, path: &Path) -> LedgerError {
        let path = path.to_path_buf();
        match self {
            Self::Refused(error) => error,
            Self::Damaged(reason) => LedgerError::Damaged { path, reason },
            Self::Newer { seq, kind, version } => LedgerError::NewerEvent {
                path,
                seq,
                kind,
                version,
            },
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => LedgerError::Full { path },
                // The index of the log did not fit.
                _ if error
                    .sqlite_error()
                    .is_some_and(|e| e.extended_code == ffi::SQLITE_IOERR_SHMSIZE) =>
                {
                    LedgerError::Full { path }
                }
                Some(ErrorCode::NotADatabase) => LedgerError::NotALedger { path },
                Some(ErrorCode::DatabaseBusy) => LedgerError::Busy { path },
                Some(ErrorCode::DatabaseCorrupt) => LedgerError::Damaged {
                    path,
                    reason: error.to_string(),
                },
                _ => LedgerError::Storage {
                    path,
                    reason: error.to_string(),
                },
            },
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}
