//! Why the ledger did not do what it was asked, and what that is as a fault.

use super::ANSWER_LIMIT;
use crate::provision::device::DeviceId;
use crate::provision::fault::{Fault, IdentityKind, LedgerTrouble};
use std::path::PathBuf;

/// Why the ledger did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerError {
    /// The file is something else.
    NotALedger {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer program.
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// Another station began this ledger.
    OtherStation {
        /// The file.
        path: PathBuf,
        /// The station that began it.
        found: String,
        /// The station that wanted to open it.
        ours: String,
    },
    /// An event in the file was written by a newer program.
    NewerEvent {
        /// The file.
        path: PathBuf,
        /// The event's place.
        seq: i64,
        /// Its kind.
        kind: String,
        /// The version of its stored form.
        version: i64,
    },
    /// No space is left for the event; nothing of it is recorded.
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Another process kept the file locked for too long; nothing is recorded.
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// Reading or writing the file failed; what was not acknowledged may or may not be recorded.
    Storage {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        reason: String,
    },
    /// The file holds what it cannot hold.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The writer has not answered in time; the event may or may not be recorded.
    Silent {
        /// The file.
        path: PathBuf,
    },
    /// The ledger was closed.
    Closed {
        /// The file.
        path: PathBuf,
    },
    /// Another attempt has taken the claim on the device since.
    Fenced {
        /// The device.
        device: DeviceId,
    },
    /// Another live device has this identity.
    Duplicate {
        /// What is the same.
        kind: IdentityKind,
        /// The other device.
        other: DeviceId,
        /// When it was first seen there, in milliseconds since 1970.
        since_ms: i64,
    },
    /// The device ID is another unit's.
    Taken {
        /// The ID.
        device: DeviceId,
    },
    /// The event contradicts what is on record.
    Illegal(String),
}

impl LedgerError {
    /// The error as a fault of the station.
    pub fn fault(&self) -> Fault {
        let (path, trouble) = match self {
            Self::NotALedger { path } => (Some(path), LedgerTrouble::NotALedger),
            Self::Newer { path, found, known } => {
                let (found, known) = (*found, *known);
                (Some(path), LedgerTrouble::Newer { found, known })
            }
            Self::OtherStation { path, found, ours } => {
                let (found, ours) = (found.clone(), ours.clone());
                (Some(path), LedgerTrouble::OtherStation { found, ours })
            }
            Self::NewerEvent {
                path,
                seq,
                kind,
                version,
            } => {
                let (seq, kind, version) = (*seq, kind.clone(), *version);
                (Some(path), LedgerTrouble::NewerEvent { seq, kind, version })
            }
            Self::Full { path } => (Some(path), LedgerTrouble::Full),
            Self::Busy { path } => (Some(path), LedgerTrouble::Busy),
            Self::Storage { path, reason } => {
                let said = reason.clone();
                (Some(path), LedgerTrouble::Storage { said })
            }
            Self::Damaged { path, reason } => {
                let said = reason.clone();
                (Some(path), LedgerTrouble::Damaged { said })
            }
            Self::Silent { path } => {
                let seconds = ANSWER_LIMIT.as_secs();
                (Some(path), LedgerTrouble::Silent { seconds })
            }
            Self::Closed { path } => (Some(path), LedgerTrouble::Closed),
            Self::Fenced { device } => {
                let device = device.clone();
                (None, LedgerTrouble::Fenced { device })
            }
            Self::Duplicate { kind, other, .. } => {
                let (identity, other) = (*kind, other.clone());
                (None, LedgerTrouble::Duplicate { identity, other })
            }
            Self::Taken { device } => {
                let device = device.clone();
                (None, LedgerTrouble::Taken { device })
            }
            Self::Illegal(said) => {
                let said = said.clone();
                (None, LedgerTrouble::Illegal { said })
            }
        };
        let path = path.map_or_else(String::new, |path| path.display().to_string());
        Fault::Ledger { path, trouble }
    }
}

impl From<LedgerError> for Fault {
    fn from(error: LedgerError) -> Self {
        error.fault()
    }
}
