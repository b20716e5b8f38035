//! What comes from a person's list: devices that are no units of this line, and what speaks against one.

use super::chain::device;
use super::failure::Failure;
use super::sql::word;
use super::{IdentityKind, OutboxState, identity, sql};
use crate::provision::device::{DeviceId, RegistrationId};
use crate::provision::event::{EnrolledIdentity, Listing, Recorded};
use crate::provision::list::OnRecord;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

/// Puts what a list asks for into the outbox.
pub fn apply(db: &Connection, recorded: &Recorded, listing: &Listing) -> Result<(), Failure> {
    for (kind, value) in identities(listing) {
        identity::tie(db, recorded, kind, value)?;
    }
    let found = on_record(db, listing)?;
    let id = &listing.enrollment.registration_id;
    if found.unit
        || found.registered.is_some()
        || (found.enrollment.is_some() && !found.replaceable)
    {
        return Err(Failure::illegal(format!(
            "registration ID {id} or its device is on record, and no list changes that"
        )));
    }
    db.prepare_cached(
        "INSERT INTO outbox
             (registration_id, dps, device, state, tries, next_try_ms, enrollment, content_seq, listed_seq)
         VALUES (?1, ?2, ?3, ?4, 0, 0, ?5, ?6, ?6)
         ON CONFLICT (registration_id) DO UPDATE SET dps = ?2, state = ?4, tries = 0, next_try_ms = 0,
             fault = NULL, enrollment = ?5, content_seq = ?6, listed_seq = ?6, ordered = NULL",
    )?
    .execute(params![
        id.as_str(),
        listing.enrollment.dps,
        device(recorded)?.as_str(),
        word(&OutboxState::Pending)?,
        serde_json::to_string(&listing.enrollment).map_err(Failure::unstorable)?,
        recorded.seq.cast_signed(),
    ])?;
    Ok(())
}

/// What is on record beside a line of a list.
pub fn on_record(db: &Connection, listing: &Listing) -> Result<OnRecord, Failure> {
    let enrollment = &listing.enrollment;
    let id = enrollment.registration_id.as_str();
    let device = enrollment.device_id.as_str();
    let row = db
        .prepare_cached(
            "SELECT enrollment, state, listed_seq FROM outbox WHERE registration_id = ?",
        )?
        .query_row([id], row)
        .optional()?;
    let mut found = OnRecord::default();
    if let Some((enrollment, state, listed)) = row {
        let damaged = |e: serde_json::Error| Failure::Damaged(format!("outbox: {e}"));
        let state: OutboxState = sql::unword(&state)?;
        if state != OutboxState::Deleted {
            found.enrollment = Some(serde_json::from_str(&enrollment).map_err(damaged)?);
        }
        found.replaceable = listed.is_some() && state == OutboxState::Refused;
    }
    found.holder = holder(db, listing)?;
    found.unit = found.enrollment.is_none() && exists(db, device)?;
    found.registered = registered(db, id, device)?;
    Ok(found)
}

/// How many records from lists stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ListedCounts {
    /// Enrolled, and read back.
    pub enrolled: u32,
    /// Wait in the outbox.
    pub pending: u32,
    /// Refused: a person must look.
    pub refused: u32,
    /// Held as disabled.
    pub disabled: u32,
}

impl ListedCounts {
    /// All of them.
    pub fn all(&self) -> u32 {
        self.enrolled + self.pending + self.refused + self.disabled
    }
}

/// How many records from lists stand where, of one DPS instance or of all.
pub fn counts(db: &Connection, dps: Option<&str>) -> Result<ListedCounts, Failure> {
    let sql = "SELECT state, count(*) FROM outbox
         WHERE listed_seq IS NOT NULL AND (?1 IS NULL OR dps = ?1) GROUP BY state";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([dps])?;
    let mut counts = ListedCounts::default();
    while let Some(row) = rows.next()? {
        let (state, count): (String, u32) = (row.get(0)?, row.get(1)?);
        *match sql::unword(&state)? {
            OutboxState::Enrolled | OutboxState::Covered => &mut counts.enrolled,
            OutboxState::Pending | OutboxState::DisablePending | OutboxState::DeletePending => {
                &mut counts.pending
            }
            OutboxState::Deleted => continue,
            OutboxState::Refused => &mut counts.refused,
            OutboxState::Disabled => &mut counts.disabled,
        } += count;
    }
    Ok(counts)
}

fn row(row: &Row<'_>) -> rusqlite::Result<(String, String, Option<i64>)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

/// What no two devices may share.
fn identities(listing: &Listing) -> Vec<(IdentityKind, &[u8])> {
    let id = listing.enrollment.registration_id.as_str();
    let mut identities = vec![(IdentityKind::RegistrationId, id.as_bytes())];
    if let EnrolledIdentity::Tpm {
        endorsement_key, ..
    } = &listing.enrollment.identity
    {
        identities.push((IdentityKind::EndorsementKey, &endorsement_key.0));
    }
    if let Some(key) = &listing.public_key {
        identities.push((IdentityKind::PublicKey, &key.0));
    }
    identities
}

/// Another device that has one of them.
fn holder(db: &Connection, listing: &Listing) -> Result<Option<(IdentityKind, DeviceId)>, Failure> {
    let device = listing.enrollment.device_id.as_str();
    for (kind, value) in identities(listing) {
        let holder: Option<String> = db
            .prepare_cached(
                "SELECT device FROM identity WHERE kind = ? AND value = ? AND device <> ?",
            )?
            .query_row(params![kind.word(), value, device], |row| row.get(0))
            .optional()?;
        if let Some(holder) = holder {
            let other =
                DeviceId::parse(&holder).map_err(|e| Failure::Damaged(format!("identity: {e}")))?;
            return Ok(Some((kind, other)));
        }
    }
    Ok(None)
}

fn exists(db: &Connection, device: &str) -> Result<bool, Failure> {
    Ok(db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM unit WHERE device = ?)")?
        .query_row([device], |row| row.get(0))?)
}

/// Another registration ID under which something is to be held for the device.
fn registered(db: &Connection, id: &str, device: &str) -> Result<Option<RegistrationId>, Failure> {
    let other: Option<String> = db
        .prepare_cached(
            "SELECT registration_id FROM outbox WHERE device = ? AND registration_id <> ?",
        )?
        .query_row([device, id], |row| row.get(0))
        .optional()?;
    let other = other.map(|text| RegistrationId::parse(&text)).transpose();
    other.map_err(|e| Failure::Damaged(format!("outbox: {e}")))
}
