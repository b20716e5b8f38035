//! What the parts of the station say of themselves, and what a screen may ask of the station: two closed lists.
//!
//! Invariant: a report has a time, and every report can be printed as one JSON line.

use crate::provision::event::{Balance, Recorded};
use crate::provision::fault::Fault;
use crate::provision::health::LinkHealth;
use crate::provision::upload::Progress;
use serde::{Deserialize, Serialize};

/// What a bay, the enroller or the station says. Times are milliseconds since 1970 (UTC).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case", deny_unknown_fields)]
pub enum Report {
    /// The station opened a bay's port.
    BayOpened {
        /// When.
        at_ms: i64,
        /// The bay's name.
        bay: String,
        /// The port's path.
        port: String,
    },
    /// The bay is ready for a unit, or for the label of the one that is in it.
    BayWaiting {
        /// When.
        at_ms: i64,
        /// The bay's name.
        bay: String,
        /// Whether a product of the line wants a label scanned.
        for_scan: bool,
    },
    /// The bay is out of service until someone puts it right.
    BayOut {
        /// When.
        at_ms: i64,
        /// The bay's name.
        bay: String,
        /// Why, and what to do.
        fault: Fault,
    },
    /// A scan was bound to a bay.
    Scanned {
        /// When.
        at_ms: i64,
        /// The bay's name.
        bay: String,
        /// The scanned text.
        text: String,
    },
    /// An event of the attempt in a bay became durable.
    Event {
        /// The bay's name.
        bay: String,
        /// The event as it stands in the ledger.
        recorded: Box<Recorded>,
    },
    /// A person acknowledged what a bay showed.
    Acknowledged {
        /// When.
        at_ms: i64,
        /// The bay's name.
        bay: String,
    },
    /// The unit left the bay.
    Removed {
        /// When.
        at_ms: i64,
        /// The bay's name.
        bay: String,
    },
    /// The quality of a bay's link, counted since the port was opened.
    Link {
        /// When.
        at_ms: i64,
        /// The bay's name.
        bay: String,
        /// The counters.
        health: LinkHealth,
        /// Whether the latest attempts exceeded the limits: a cable to look at before it fails units.
        weak: bool,
    },
    /// The state of the outbox for one DPS instance.
    Enroller {
        /// When.
        at_ms: i64,
        /// Name of the DPS instance.
        dps: String,
        /// Its records.
        outbox: Outbox,
    },
    /// A shift opened, closed, or was found open.
    ShiftState {
        /// When.
        at_ms: i64,
        /// The shift's name.
        name: String,
        /// Whether it is open.
        open: bool,
        /// The ledger's balance of units; absent before it was asked.
        balance: Option<Balance>,
        /// What the bays saw in it.
        #[serde(default)]
        counts: Counts,
    },
    /// Something that a person should read once, such as the result of a first boot.
    Note {
        /// When.
        at_ms: i64,
        /// A heading.
        title: String,
        /// The text; see [`super::NOTE_LINES`].
        lines: Vec<String>,
        /// What kept from it, where something did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault: Option<Fault>,
    },
    /// So many reports were not taken in time and are lost to who reads this; the ledger has what became durable. Said
    /// by the reader's own end of the stream, in the place where they are missing.
    Dropped {
        /// When.
        at_ms: i64,
        /// How many.
        count: u64,
    },
    /// The station lives. Said more often than [`super::STALE_AFTER_MS`], so that silence means something.
    Alive {
        /// When.
        at_ms: i64,
    },
}

/// What the bays saw in a shift: its units by their last verdict there, and what counts against no unit.
///
/// A unit that an earlier shift judged and that came again is one of them too, other than in the [`Balance`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Units whose last verdict is PASS.
    pub passed: u32,
    /// Units whose last verdict is FAIL.
    pub failed: u32,
    /// Units whose last verdict is INJECTED.
    pub injected: u32,
    /// Units without a verdict.
    pub open: u32,
    /// Attempts, not units, that ended in ERROR.
    pub errors: u32,
}

impl Counts {
    /// Units of the shift.
    pub fn units(&self) -> u32 {
        let judged = self.passed.saturating_add(self.failed);
        judged
            .saturating_add(self.injected)
            .saturating_add(self.open)
    }
}

/// The records of one DPS instance, each in exactly one of the first three counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbox {
    /// Waiting to be enrolled.
    pub pending: u32,
    /// Enrolled, and read back.
    pub enrolled: u32,
    /// Refused: a person must look.
    pub refused: u32,
    /// Of the pending: tried, and put off to a later time.
    pub deferred: u32,
    /// What the enroller is doing; absent where it has nothing new to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<Activity>,
    /// How the upload that is under way stands; absent where there is nothing new to say of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// What the enroller is doing for one DPS instance, or did last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// It uploads.
    Uploading,
    /// It came to the end of the outbox.
    Uploaded,
    /// It could not go on.
    Stopped(Fault),
}

/// All that a screen may ask of the station.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// A person has seen what the bay shows.
    Acknowledge {
        /// The bay's name.
        bay: String,
    },
    /// A label was scanned.
    Scan {
        /// The text of the label.
        text: String,
        /// The bay it is for.
        bay: String,
    },
    /// Test the bay's port with a loopback plug as soon as the bay is empty.
    Loopback {
        /// The bay's name.
        bay: String,
    },
    /// Close the open shift.
    CloseShift,
    /// Upload what is pending.
    Upload,
    /// Put every refused record back, with what its product means today, and upload.
    Retry,
    /// Stop the station in good order.
    Quit,
}

impl Report {
    /// When it was said or recorded.
    pub fn at_ms(&self) -> i64 {
        match self {
            Self::BayOpened { at_ms, .. }
            | Self::BayWaiting { at_ms, .. }
            | Self::BayOut { at_ms, .. }
            | Self::Scanned { at_ms, .. }
            | Self::Acknowledged { at_ms, .. }
            | Self::Removed { at_ms, .. }
            | Self::Link { at_ms, .. }
            | Self::Enroller { at_ms, .. }
            | Self::ShiftState { at_ms, .. }
            | Self::Note { at_ms, .. }
            | Self::Dropped { at_ms, .. }
            | Self::Alive { at_ms } => *at_ms,
            Self::Event { recorded, .. } => recorded.at_ms,
        }
    }
}
