//! The device IDs that the station gives out: checked out, then confirmed by a PASS or returned, and whose they are.

use super::failure::Failure;
use super::sql::{column_word, rows};
use super::{IdentityKind, LedgerError};
use crate::provision::bytes::Blob;
use crate::provision::device::DeviceId;
use crate::provision::event::Recorded;
use crate::provision::naming::IdFormat;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

/// A device ID that the station gave out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AllocationRow {
    /// The ID.
    pub device: DeviceId,
    /// The microcontroller that it was given to last.
    pub uid: Blob,
    /// What became of it.
    pub state: AllocationState,
}

/// What became of a device ID that the station gave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllocationState {
    /// Given to a unit that has no PASS yet.
    Out,
    /// The unit passed.
    Confirmed,
    /// Given back; the next unit may get it.
    Returned,
}

/// Gives an ID that nobody has to a microcontroller that has none, within an attempt that waits for a device.
///
/// A unit that is on record under its provisional name goes on under the ID.
pub fn check_out(
    db: &Connection,
    recorded: &Recorded,
    device: &DeviceId,
    format: &IdFormat,
    uid: &Blob,
) -> Result<(), Failure> {
    let number = format
        .number_in(device)
        .ok_or_else(|| Failure::illegal(format!("{device} is no {format}")))?;
    let attempt = recorded.attempt.map(|attempt| attempt.to_string());
    let waits = "SELECT 1 FROM attempt WHERE attempt = ? AND device IS NULL AND ended_seq IS NULL";
    if !exists(db, waits, [attempt])? {
        return Err(Failure::illegal("no attempt waits for the ID of a device"));
    }
    let holder = "SELECT device, since_ms FROM allocation WHERE uid = ? AND state <> 'returned'";
    let other: Option<(String, i64)> = db
        .prepare_cached(holder)?
        .query_row([&uid.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((other, since_ms)) = other {
        let kind = IdentityKind::Uid;
        let other = parse(&other)?;
        return Err(Failure::Refused(LedgerError::Duplicate {
            kind,
            other,
            since_ms,
        }));
    }
    let new = "INSERT INTO allocation (device, format, number, uid, since_ms, state)
         VALUES (?, ?, ?, ?, ?, 'out')
         ON CONFLICT DO UPDATE SET uid = excluded.uid, since_ms = excluded.since_ms, state = 'out'
         WHERE state = 'returned'";
    let id = device.as_str();
    let known = exists(db, "SELECT 1 FROM unit WHERE device = ?", [id])?;
    let row = params![id, format.to_string(), number, uid.0, recorded.at_ms];
    if known || db.prepare_cached(new)?.execute(row)? == 0 {
        return Err(taken(device));
    }
    match DeviceId::provisional(uid) {
        Some(provisional) => rename_unit(db, &provisional, device),
        None => Err(Failure::illegal("a microcontroller without an ID")),
    }
}

/// Takes an ID back that nothing was reserved, signed or enrolled for. What is on record of the unit goes on under
/// its provisional name.
pub fn give_back(db: &Connection, device: &DeviceId, uid: &Blob) -> Result<(), Failure> {
    let id = device.as_str();
    let used = exists(
        db,
        "SELECT 1 FROM reservation WHERE device = ?1 UNION ALL SELECT 1 FROM outbox WHERE device = ?1",
        [id],
    )?;
    let changed = db
        .prepare_cached(
            "UPDATE allocation SET state = 'returned' WHERE device = ? AND uid = ? AND state = 'out'",
        )?
        .execute(params![id, uid.0])?;
    match DeviceId::provisional(uid) {
        Some(provisional) if changed == 1 && !used => rename_unit(db, device, &provisional),
        _ => Err(Failure::illegal(format!(
            "{device} cannot be given back: it is not out to this unit, or was used"
        ))),
    }
}

/// The unit passed: its ID, where the station gave it, is its own for good.
pub fn confirm(db: &Connection, device: &DeviceId) -> Result<(), Failure> {
    db.prepare_cached(
        "UPDATE allocation SET state = 'confirmed' WHERE device = ? AND state = 'out'",
    )?
    .execute([device.as_str()])?;
    Ok(())
}

/// Refuses to name a unit as another one is already named.
pub fn check_assigned(db: &Connection, device: &DeviceId, uid: &Blob) -> Result<(), Failure> {
    let id = device.as_str();
    let own = "SELECT 1 FROM identity WHERE kind = 'uid' AND device = ?1 AND value = ?2
         UNION ALL SELECT 1 FROM allocation WHERE device = ?1 AND uid = ?2 AND state <> 'returned'";
    let others = "SELECT 1 FROM unit WHERE device = ?1
         UNION ALL SELECT 1 FROM allocation WHERE device = ?1 AND state <> 'returned'";
    if !exists(db, own, params![id, uid.0])? && exists(db, others, [id])? {
        return Err(taken(device));
    }
    Ok(())
}

/// The ID that a microcontroller's unit was given, or is known by.
pub fn device_of_uid(db: &Connection, uid: &Blob) -> Result<Option<DeviceId>, Failure> {
    let sql = "SELECT device FROM identity WHERE kind = 'uid' AND value = ?1
         UNION SELECT device FROM allocation WHERE uid = ?1 AND state <> 'returned'";
    let device: Option<String> = db.query_row(sql, [&uid.0], |row| row.get(0)).optional()?;
    device.as_deref().map(parse).transpose()
}

/// The smallest number of a format, `from` or greater, that was returned; else the one after the greatest that was ever
/// given out.
pub fn next_number(db: &Connection, format: &IdFormat, from: u32) -> Result<u32, Failure> {
    let sql = "SELECT coalesce(
            (SELECT min(number) FROM allocation WHERE format = ?1 AND state = 'returned' AND number >= ?2),
            (SELECT max(number) + 1 FROM allocation WHERE format = ?1 AND number >= ?2), ?2)";
    Ok(db.query_row(sql, params![format.to_string(), from], |row| row.get(0))?)
}

/// All IDs that were ever given out.
pub fn allocations(db: &Connection) -> Result<Vec<AllocationRow>, Failure> {
    let sql = "SELECT device, uid, state FROM allocation ORDER BY device";
    rows(db, sql, [], |row| {
        Ok(AllocationRow {
            device: column_word(row, 0)?,
            uid: Blob(row.get(1)?),
            state: column_word(row, 2)?,
        })
    })
}

/// What is on record of a unit goes on under another name; what it was known by is free.
fn rename_unit(db: &Connection, from: &DeviceId, to: &DeviceId) -> Result<(), Failure> {
    let (from, to) = (from.as_str(), to.as_str());
    db.prepare_cached(
        "INSERT INTO unit (device, bay, verdict, first_seq, judged_seq, verdict_seq, seen_seq, last_seq)
         SELECT ?2, bay, verdict, first_seq, judged_seq, verdict_seq, seen_seq, last_seq FROM unit WHERE device = ?1
         ON CONFLICT DO UPDATE SET bay = excluded.bay, verdict = excluded.verdict,
             verdict_seq = excluded.verdict_seq, seen_seq = excluded.seen_seq, last_seq = excluded.last_seq",
    )?
    .execute([from, to])?;
    db.prepare_cached("UPDATE attempt SET device = ?2 WHERE device = ?1")?
        .execute([from, to])?;
    for delete in [
        "DELETE FROM claim WHERE device = ?",
        "DELETE FROM identity WHERE device = ?",
        "DELETE FROM credential WHERE device = ?",
        "DELETE FROM unit WHERE device = ?",
    ] {
        db.prepare_cached(delete)?.execute([from])?;
    }
    Ok(())
}

fn taken(device: &DeviceId) -> Failure {
    let device = device.clone();
    Failure::Refused(LedgerError::Taken { device })
}

fn exists(db: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<bool, Failure> {
    Ok(db.prepare_cached(sql)?.exists(params)?)
}

fn parse(device: &str) -> Result<DeviceId, Failure> {
    DeviceId::parse(device).map_err(|error| Failure::Damaged(error.to_string()))
}
