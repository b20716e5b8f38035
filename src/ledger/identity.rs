//! What only one live device may have: keys, registration IDs, microcontrollers.

use super::chain::device;
use super::failure::Failure;
use super::{IdentityKind, LedgerError};
use crate::provision::device::DeviceId;
use crate::provision::event::Recorded;
use rusqlite::{Connection, params};

/// Ties `value` to the device, unless another device has it.
pub fn tie(
    db: &Connection,
    recorded: &Recorded,
    kind: IdentityKind,
    value: &[u8],
) -> Result<(), Failure> {
    let device = device(recorded)?;
    let (holder, since_ms): (String, i64) = db
        .prepare_cached(
            "INSERT INTO identity (kind, value, device, since_ms) VALUES (?, ?, ?, ?)
             ON CONFLICT DO UPDATE SET kind = kind
             RETURNING device, since_ms",
        )?
        .query_row(
            params![kind.word(), value, device.as_str(), recorded.at_ms],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
    if holder == device.as_str() {
        return Ok(());
    }
    let other = DeviceId::parse(&holder).map_err(|e| Failure::Damaged(format!("identity: {e}")))?;
    Err(Failure::Refused(LedgerError::Duplicate {
        kind,
        other,
        since_ms,
    }))
}
