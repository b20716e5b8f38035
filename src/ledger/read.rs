//! Reading the ledger: the rows that callers see, and the questions they can ask.

use super::Claim;
use super::chain;
use super::failure::Failure;
use super::outbox::OutboxState;
use super::sql::{column_word, optional_word, rows, word};
use crate::provision::bytes::Digest;
use crate::provision::device::{DeviceId, RegistrationId, SerialNumber};
use crate::provision::event::{Balance, Enrollment, Purpose, Recorded};
use crate::provision::fault::Fault;
use crate::provision::verdict::Verdict;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// An attempt that has begun and not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpenAttempt {
    /// The attempt.
    pub attempt: Ulid,
    /// The bay it is in.
    pub bay: String,
    /// The device, once identified.
    pub device: Option<DeviceId>,
    /// The claim on the device, where no later attempt has taken it over.
    pub claim: Option<Claim>,
    /// When the device arrived, in milliseconds since 1970.
    pub opened_ms: i64,
}

/// A signature that was asked for, or is going to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReservationRow {
    /// The serial number.
    pub serial: SerialNumber,
    /// What the signature is for.
    pub purpose: Purpose,
    /// Name of the CA (or key) that signs.
    pub ca: String,
    /// Digest of the to-be-signed bytes.
    pub tbs_sha256: Digest,
    /// The device; absent for everything but a leaf.
    #[serde(rename = "device_id", skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// What became of it.
    pub state: ReservationState,
}

/// What became of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReservationState {
    /// On record; the HSM may or may not have been asked.
    Reserved,
    /// Signed, and the result is on record.
    Signed,
    /// Given up; will never be used.
    Abandoned,
}

/// A record of the outbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutboxRow {
    /// The registration ID.
    pub registration_id: RegistrationId,
    /// Name of the DPS instance.
    pub dps: String,
    /// The device.
    pub device: DeviceId,
    /// Where it stands.
    pub state: OutboxState,
    /// Whether a call for it was charged and its answer is not on record: read back before sending again.
    pub sending: bool,
    /// How often it was deferred since the last definite answer.
    pub tries: u32,
    /// Not to be tried before this time, in milliseconds since 1970.
    pub next_try_ms: i64,
    /// The service's last entity tag.
    pub etag: Option<String>,
    /// Why it was refused or deferred.
    pub fault: Option<Fault>,
    /// What DPS is to hold.
    pub enrollment: Enrollment,
}

/// Which records of the outbox to read; an absent part restricts nothing.
#[derive(Clone, Debug, Default)]
pub struct OutboxFilter {
    /// Only those of this DPS instance.
    pub dps: Option<String>,
    /// Only those in this state.
    pub state: Option<OutboxState>,
    /// Only those that may be tried at this time, in milliseconds since 1970.
    pub due_ms: Option<i64>,
    /// At most so many, those due longest first.
    pub limit: Option<u32>,
}

/// How many records of an outbox stand where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxCounts {
    /// Wait to be enrolled or disabled.
    pub waiting: u32,
    /// Of these: tried before.
    pub tried: u32,
    /// Enrolled, and read back.
    pub enrolled: u32,
    /// Refused: a person must look.
    pub refused: u32,
}

/// The open shift.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shift {
    /// Its name.
    pub shift: String,
    /// When it was opened, in milliseconds since 1970.
    pub opened_ms: i64,
    /// The place in the chain from where on units count for it; see [`Ledger::balance`](super::Ledger::balance).
    pub from_seq: u64,
}

/// A unit that was identified at least once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnitRow {
    /// The device.
    pub device: DeviceId,
    /// The last verdict; absent while there is none.
    pub verdict: Option<Verdict>,
    /// The bay it was last identified in.
    pub bay: String,
    /// Its registration ID, once derived.
    pub registration_id: Option<RegistrationId>,
    /// The last event about it.
    pub last_seq: u64,
}

/// The events of `device`, in order.
pub fn events(db: &Connection, device: &DeviceId) -> Result<Vec<Recorded>, Failure> {
    let columns = chain::COLUMNS;
    let sql = format!("SELECT {columns} FROM events WHERE device = ? ORDER BY seq");
    rows(db, &sql, [device.as_str()], chain::recorded)
}

/// At most `limit` events from place `from` on, in order.
pub fn all_events(db: &Connection, from: u64, limit: u32) -> Result<Vec<Recorded>, Failure> {
    let columns = chain::COLUMNS;
    let sql = format!("SELECT {columns} FROM events WHERE seq >= ? ORDER BY seq LIMIT ?");
    let from = i64::try_from(from).unwrap_or(i64::MAX);
    rows(db, &sql, params![from, limit], chain::recorded)
}

/// The attempts that have not ended, oldest first.
pub fn open_attempts(db: &Connection) -> Result<Vec<OpenAttempt>, Failure> {
    let sql = "SELECT a.attempt, a.bay, a.device, a.opened_ms, c.fence
         FROM attempt a LEFT JOIN claim c ON c.device = a.device AND c.attempt = a.attempt
         WHERE a.ended_seq IS NULL ORDER BY a.opened_ms, a.attempt";
    rows(db, sql, [], |row| {
        let attempt: String = row.get(0)?;
        let attempt = Ulid::from_string(&attempt).map_err(|e| Failure::Damaged(e.to_string()))?;
        let device: Option<DeviceId> = optional_word(row, 2)?;
        let fence: Option<u32> = row.get(4)?;
        let claim = device.clone().zip(fence);
        Ok(OpenAttempt {
            attempt,
            bay: row.get(1)?,
            device,
            claim: claim.map(|(device, fence)| Claim {
                attempt,
                device,
                fence,
            }),
            opened_ms: row.get(3)?,
        })
    })
}

/// All reservations, by serial number.
pub fn reservations(db: &Connection) -> Result<Vec<ReservationRow>, Failure> {
    let sql =
        "SELECT serial, purpose, ca, tbs_sha256, device, state FROM reservation ORDER BY serial";
    rows(db, sql, [], |row| {
        Ok(ReservationRow {
            serial: column_word(row, 0)?,
            purpose: column_word(row, 1)?,
            ca: row.get(2)?,
            tbs_sha256: Digest(row.get(3)?),
            device: optional_word(row, 4)?,
            state: column_word(row, 5)?,
        })
    })
}

/// The records of the outbox that `filter` lets through, those due longest first.
pub fn outbox(db: &Connection, filter: &OutboxFilter) -> Result<Vec<OutboxRow>, Failure> {
    let sql = "SELECT registration_id, dps, device, state, charged_seq IS NOT NULL, tries, next_try_ms, etag,
             fault, enrollment FROM outbox
         WHERE (?1 IS NULL OR dps = ?1) AND (?2 IS NULL OR state = ?2) AND (?3 IS NULL OR next_try_ms <= ?3)
         ORDER BY next_try_ms, content_seq LIMIT ?4";
    let state = filter.state.as_ref().map(word).transpose()?;
    let limit = filter.limit.map_or(-1, i64::from);
    rows(
        db,
        sql,
        params![filter.dps, state, filter.due_ms, limit],
        |row| {
            let fault: Option<String> = row.get(8)?;
            let enrollment: String = row.get(9)?;
            let damaged = |e: serde_json::Error| Failure::Damaged(format!("outbox: {e}"));
            Ok(OutboxRow {
                registration_id: column_word(row, 0)?,
                dps: row.get(1)?,
                device: column_word(row, 2)?,
                state: column_word(row, 3)?,
                sending: row.get(4)?,
                tries: row.get(5)?,
                next_try_ms: row.get(6)?,
                etag: row.get(7)?,
                fault: fault
                    .map(|text| serde_json::from_str(&text))
                    .transpose()
                    .map_err(damaged)?,
                enrollment: serde_json::from_str(&enrollment).map_err(damaged)?,
            })
        },
    )
}

/// How many records of the outbox for `dps` stand where.
pub fn outbox_counts(db: &Connection, dps: &str) -> Result<OutboxCounts, Failure> {
    let sql = "SELECT count(*) FILTER (WHERE state IN ('pending', 'disable_pending')),
            count(*) FILTER (WHERE state IN ('pending', 'disable_pending') AND tries > 0),
            count(*) FILTER (WHERE state = 'enrolled'), count(*) FILTER (WHERE state = 'refused')
        FROM outbox WHERE dps = ?";
    let counts = db.query_row(sql, [dps], |row| {
        Ok(OutboxCounts {
            waiting: row.get(0)?,
            tried: row.get(1)?,
            enrolled: row.get(2)?,
            refused: row.get(3)?,
        })
    })?;
    Ok(counts)
}

/// Where the one before a shift closed; the beginning for the first.
const COUNTS_FROM: &str = "coalesce(
        (SELECT max(past.closed_seq) FROM shift AS past WHERE past.closed_seq < shift.opened_seq), 0)";

/// The shift that is open, if any.
pub fn current_shift(db: &Connection) -> Result<Option<Shift>, Failure> {
    let sql = format!("SELECT shift, opened_ms, {COUNTS_FROM} FROM shift WHERE closed_seq IS NULL");
    let shift = db
        .query_row(&sql, [], |row| {
            Ok(Shift {
                shift: row.get(0)?,
                opened_ms: row.get(1)?,
                from_seq: row.get::<_, i64>(2)?.cast_unsigned(),
            })
        })
        .optional()?;
    Ok(shift)
}

/// Whether the bay's last loopback test failed.
pub fn out_of_service(db: &Connection, bay: &str) -> Result<bool, Failure> {
    let out = db
        .query_row("SELECT out FROM bay WHERE bay = ?", [bay], |row| row.get(0))
        .optional()?;
    Ok(out.unwrap_or(false))
}

/// All units, by device ID.
pub fn units(db: &Connection) -> Result<Vec<UnitRow>, Failure> {
    let sql = "SELECT device, verdict, bay, registration_id, last_seq FROM unit ORDER BY device";
    rows(db, sql, [], |row| {
        Ok(UnitRow {
            device: column_word(row, 0)?,
            verdict: optional_word(row, 1)?,
            bay: row.get(2)?,
            registration_id: optional_word(row, 3)?,
            last_seq: row.get::<_, i64>(4)?.cast_unsigned(),
        })
    })
}

/// Operations charged to this station's share of `dps` from `since_ms` on.
pub fn operations_charged_since(db: &Connection, dps: &str, since_ms: i64) -> Result<u32, Failure> {
    let sql = "SELECT coalesce(sum(operations), 0) FROM charge WHERE dps = ? AND at_ms >= ?";
    let sum: i64 = db.query_row(sql, params![dps, since_ms], |row| row.get(0))?;
    Ok(u32::try_from(sum).unwrap_or(u32::MAX))
}

/// The balance of a shift, in units: of those that it found without a verdict and those that it saw first.
///
/// What happened while no shift was open belongs to the next one: no unit is in none. A closed shift has the verdicts
/// that were given until it closed, and shows what became of these units since: where
/// their enrollment stands now, and as failed what has failed after it passed. `None`: there is no such shift.
pub fn balance(db: &Connection, shift: &str) -> Result<Option<Balance>, Failure> {
    let sql = format!(
        "SELECT {COUNTS_FROM}, coalesce(closed_seq, 9223372036854775807) FROM shift WHERE shift = ?"
    );
    let span: Option<(i64, i64)> = db
        .query_row(&sql, [shift], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((from, closed)) = span else {
        return Ok(None);
    };
    let sql = "WITH counted AS (
            SELECT first_seq < ?1 AS old, coalesce(judged_seq < ?2, 0) AS judged, verdict, outbox.state
            FROM unit LEFT JOIN outbox ON outbox.registration_id = unit.registration_id
            WHERE first_seq < ?2 AND (judged_seq IS NULL OR judged_seq > ?1)
        )
        SELECT count(*) FILTER (WHERE old), count(*) FILTER (WHERE NOT old),
            count(*) FILTER (WHERE judged AND verdict = 'passed'),
            count(*) FILTER (WHERE judged AND verdict = 'failed'),
            count(*) FILTER (WHERE NOT judged),
            count(*) FILTER (WHERE judged AND verdict = 'passed' AND state = 'enrolled'),
            count(*) FILTER (WHERE judged AND verdict = 'passed' AND state = 'covered'),
            count(*) FILTER (WHERE judged AND verdict = 'passed' AND state = 'pending'),
            count(*) FILTER (WHERE judged AND verdict = 'passed' AND state = 'refused'),
            count(*) FILTER (WHERE judged AND verdict = 'injected')
        FROM counted";
    let balance = db.query_row(sql, params![from, closed], |row| {
        Ok(Balance {
            open_before: row.get(0)?,
            scanned: row.get(1)?,
            passed: row.get(2)?,
            failed: row.get(3)?,
            scrapped: 0,
            open_after: row.get(4)?,
            enrolled: row.get(5)?,
            covered: row.get(6)?,
            pending: row.get(7)?,
            refused: row.get(8)?,
            injected: row.get(9)?,
        })
    })?;
    Ok(Some(balance))
}
