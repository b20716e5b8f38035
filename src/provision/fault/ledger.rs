//! Why the ledger did not do what it was asked.
//!
//! Invariant: `said` is SQLite's or the checking code's own words, for an engineer.

use super::IdentityKind;
use crate::provision::device::DeviceId;
use serde::{Deserialize, Serialize};

/// Why the ledger did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerTrouble {
    /// The file is something else.
    NotALedger,
    /// The file was written by a newer program.
    Newer {
        /// Its version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// Another station began it.
    OtherStation {
        /// The station that began it.
        found: String,
        /// This station.
        ours: String,
    },
    /// An event in it was written by a newer program.
    NewerEvent {
        /// The event's place.
        seq: i64,
        /// Its kind.
        kind: String,
        /// The version of its stored form.
        version: i64,
    },
    /// No space is left for the event; nothing of it is recorded.
    Full,
    /// Another process kept the file locked for too long; nothing is recorded.
    Busy,
    /// Reading or writing the file failed; what was not acknowledged may or may not be recorded.
    Storage {
        /// SQLite's words.
        said: String,
    },
    /// The file holds what it cannot hold.
    Damaged {
        /// What was found.
        said: String,
    },
    /// The writer has not answered in time; the event may or may not be recorded.
    Silent {
        /// How long, in seconds.
        seconds: u64,
    },
    /// The ledger was closed.
    Closed,
    /// Another attempt has taken the claim on the device since.
    Fenced {
        /// The device.
        device: DeviceId,
    },
    /// Another live device has this identity.
    Duplicate {
        /// What is the same.
        identity: IdentityKind,
        /// The other device.
        other: DeviceId,
    },
    /// The device ID is another unit's.
    Taken {
        /// The ID.
        device: DeviceId,
    },
    /// The event contradicts what is on record.
    Illegal {
        /// In what.
        said: String,
    },
}
