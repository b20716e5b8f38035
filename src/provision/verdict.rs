//! Verdicts: how an attempt ended, in one vocabulary from the job to the ledger and the screen.
//!
//! Invariant: only PASS, INJECTED and FAIL judge a unit; what was not judged is not counted against it.

use serde::{Deserialize, Serialize};

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The unit is good, and on record.
    Passed,
    /// It passed before, and still is what it was; nothing was done.
    Recognised,
    /// It holds what it should, and has no identity: its firmware is stock.
    Injected,
    /// The unit is bad.
    Failed,
    /// The station could not do its part; the unit is not judged.
    Errored,
    /// The device went away, or the station did; the unit is not judged.
    Interrupted,
}

impl Verdict {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "PASS",
            Self::Injected => "INJECTED",
            Self::Failed => "FAIL",
            Self::Errored => "ERROR",
            Self::Recognised => "ALREADY PASSED",
            Self::Interrupted => "INTERRUPTED",
        }
    }

    /// The word where there is room for five characters.
    pub fn short(self) -> &'static str {
        match self {
            Self::Injected => "INJ",
            Self::Recognised => "SEEN",
            Self::Interrupted => "STOP",
            _ => self.word(),
        }
    }

    /// Whether a person has to say that it was seen.
    pub fn must_acknowledge(self) -> bool {
        matches!(self, Self::Failed | Self::Errored)
    }
}
