//! Events that become durable together: what lies between them may safely be done again.

use super::quota::Room;
use super::{Claim, LedgerError, Reserved};
use crate::provision::bytes::Digest;
use crate::provision::event::{Event, Recorded};

/// Something that happened and is to be recorded.
#[derive(Clone, Debug)]
pub struct Happened {
    /// When, in milliseconds since 1970; where it is left out, when it is recorded.
    pub at_ms: Option<i64>,
    /// Digest of the product's definition in force.
    pub product_digest: Option<Digest>,
    /// What.
    pub event: Event,
}

/// What was recorded, and what else its writer needs to know.
#[derive(Debug, Default)]
pub struct Written {
    /// The events as they stand in the ledger, in order.
    pub recorded: Vec<Recorded>,
    /// The claim that was taken, if one of them is an identification.
    pub claim: Option<Claim>,
    /// The right to a signature, if the last of them is a reservation.
    pub reserved: Option<Reserved>,
    /// What became of the charge, if one was asked for.
    pub room: Option<Room>,
}

/// Why nothing was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub error: LedgerError,
    /// The place of the event that is at fault, from 0; 0 where none of them is.
    pub place: usize,
}

impl From<LedgerError> for Refused {
    fn from(error: LedgerError) -> Self {
        Self { error, place: 0 }
    }
}
