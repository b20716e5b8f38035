//! The balance of a shift.
//!
//! Invariant: each unit is counted once, by its last verdict; those that passed again, by where their record stands.

use serde::{Deserialize, Serialize};

/// The balance of a shift, in units, not runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Units still open when the shift began.
    pub open_before: u32,
    /// Units identified for the first time in this shift.
    pub scanned: u32,
    /// Units whose last verdict is PASS.
    pub passed: u32,
    /// Units whose last verdict is FAIL.
    pub failed: u32,
    /// Units whose last verdict is INJECTED.
    #[serde(default)]
    pub injected: u32,
    /// Units retired.
    pub scrapped: u32,
    /// Units without a verdict when the shift ended.
    pub open_after: u32,
    /// Of the passed: enrolled and read back.
    pub enrolled: u32,
    /// Of the passed: covered by a named group.
    pub covered: u32,
    /// Of the passed: waiting in the outbox, whatever for.
    pub pending: u32,
    /// Of the passed: refused by the service.
    pub refused: u32,
    /// Of the passed: disabled in the service by somebody, or deleted there as a person ordered.
    #[serde(default)]
    pub disabled: u32,
}
