//! Reading the ledger: the rows that callers see, and the questions they can ask.

use super::Claim;
use super::chain;
use super::failure::Failure;
use super::outbox::OutboxState;
use super::sql::{column_word, optional_word, rows, word};
use crate::provision::bytes::Digest;
use crate::provision::device::{DeviceId, RegistrationId, SerialNumber};
use crate::provision::event::{Balance, Enrollment, Order, Purpose, Recorded};
use crate::provision::fault::Fault;
use crate::provision::floor::Counts;
use crate::provision::upload::{beyond_ms, is_due};
use crate::provision::verdict::Verdict;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
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
    /// The event that says what DPS is to hold.
    #[serde(skip)]
    pub content_seq: u64,
    /// What a person ordered that is not done yet.
    #[serde(skip)]
    pub ordered: Option<Order>,
    /// Whether it came from a list, and not from a bay.
    #[serde(skip)]
    pub listed: bool,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// How the shift and the outboxes stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The shift that was opened last, if any was.
    pub shift: Option<ShiftStanding>,
    /// The outboxes that ever had a record, by DPS instance.
    pub outboxes: BTreeMap<String, OutboxCounts>,
}

/// How a shift stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShiftStanding {
    /// Its name.
    pub shift: String,
    /// Whether it is open.
    pub open: bool,
    /// Its balance; see [`Ledger::balance`](super::Ledger::balance).
    pub balance: Balance,
    /// What the bays have seen since it began.
    pub counts: Counts,
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
             fault, enrollment, content_seq, ordered, listed_seq IS NOT NULL FROM outbox
         WHERE (?1 IS NULL OR dps = ?1) AND (?2 IS NULL OR state = ?2) AND (?3 IS NULL OR next_try_ms <= ?3)
         ORDER BY next_try_ms, content_seq LIMIT ?4";
    let state = filter.state.as_ref().map(word).transpose()?;
    let limit = filter.limit.map_or(-1, i64::from);
    let params = params![filter.dps, state, filter.due_ms, limit];
    rows(db, sql, params, outbox_row)
}

/// The records of the outbox with these registration IDs, as far as there are any.
pub fn outbox_of(db: &Connection, ids: &[RegistrationId]) -> Result<Vec<OutboxRow>, Failure> {
    let sql = "SELECT registration_id, dps, device, state, charged_seq IS NOT NULL, tries, next_try_ms, etag,
             fault, enrollment, content_seq, ordered, listed_seq IS NOT NULL FROM outbox WHERE registration_id = ?";
    let mut found = Vec::new();
    for id in ids {
        found.extend(rows(db, sql, [id.as_str()], outbox_row)?);
    }
    Ok(found)
}

/// The records of `dps` that are disabled, although their units passed.
pub fn disabled_though_passed(db: &Connection, dps: &str) -> Result<Vec<OutboxRow>, Failure> {
    let sql = "SELECT outbox.registration_id, dps, device, state, charged_seq IS NOT NULL, tries, next_try_ms, etag,
             fault, enrollment, content_seq, ordered, listed_seq IS NOT NULL FROM outbox JOIN unit USING (device)
         WHERE state = 'disabled' AND dps = ? AND verdict = 'passed' ORDER BY content_seq";
    rows(db, sql, [dps], outbox_row)
}

/// The states of a record that waits, those first that cannot wait for all others.
const WAITING: [&str; 3] = ["disable_pending", "delete_pending", "pending"];

/// At most `limit` records that are due, those to disable or delete first, each those due longest first; none of `held`.
pub fn outbox_due(
    db: &Connection,
    dps: &str,
    due_ms: i64,
    limit: usize,
    held: &HashSet<RegistrationId>,
) -> Result<Vec<OutboxRow>, Failure> {
    let sql = "SELECT registration_id, dps, device, state, charged_seq IS NOT NULL, tries, next_try_ms, etag,
             fault, enrollment, content_seq, ordered, listed_seq IS NOT NULL FROM outbox
         WHERE dps = ? AND state = ? AND next_try_ms BETWEEN ? AND ? ORDER BY next_try_ms, content_seq";
    let mut statement = db.prepare(sql)?;
    let mut due = Vec::new();
    for state in WAITING {
        for (from_ms, until_ms) in [(i64::MIN, due_ms), (beyond_ms(due_ms) + 1, i64::MAX)] {
            let mut rows = statement.query(params![dps, state, from_ms, until_ms])?;
            while due.len() < limit
                && let Some(row) = rows.next()?
            {
                if !held.contains(&column_word(row, 0)?) {
                    due.push(outbox_row(row)?);
                }
            }
        }
    }
    Ok(due)
}

/// When the next record that waits for `dps` is due; `now_ms` where one is due at once.
pub fn next_due_ms(db: &Connection, dps: &str, now_ms: i64) -> Result<Option<i64>, Failure> {
    let sql = "SELECT (SELECT min(next_try_ms) FROM outbox WHERE dps = ?1 AND state = ?2),
             (SELECT max(next_try_ms) FROM outbox WHERE dps = ?1 AND state = ?2)";
    let mut first: Option<i64> = None;
    for state in WAITING {
        let ends: [Option<i64>; 2] =
            db.query_row(sql, [dps, state], |row| Ok([row.get(0)?, row.get(1)?]))?;
        let due = ends.into_iter().flatten();
        let due = due.map(|at| match is_due(at, now_ms) {
            true => now_ms,
            false => at,
        });
        first = first.into_iter().chain(due).min();
    }
    Ok(first)
}

/// At most `limit` records that wait, in the order of their registration IDs, after `after`.
pub fn outbox_waiting(
    db: &Connection,
    dps: &str,
    after: Option<&RegistrationId>,
    limit: u32,
) -> Result<Vec<OutboxRow>, Failure> {
    let sql = "SELECT registration_id, dps, device, state, charged_seq IS NOT NULL, tries, next_try_ms, etag,
             fault, enrollment, content_seq, ordered, listed_seq IS NOT NULL FROM outbox WHERE registration_id > ? AND +dps = ?
             AND +state IN ('pending', 'disable_pending', 'delete_pending')
         ORDER BY registration_id LIMIT ?";
    let after = after.map_or("", RegistrationId::as_str);
    rows(db, sql, params![after, dps, limit], outbox_row)
}

fn outbox_row(row: &Row<'_>) -> Result<OutboxRow, Failure> {
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
        content_seq: row.get::<_, i64>(10)?.cast_unsigned(),
        ordered: optional_word(row, 11)?,
        listed: row.get(12)?,
        enrollment: serde_json::from_str(&enrollment).map_err(damaged)?,
    })
}

/// How many records of the outbox for `dps` stand where.
pub fn outbox_counts(db: &Connection, dps: &str) -> Result<OutboxCounts, Failure> {
    let sql = "SELECT waiting, tried, enrolled, refused FROM outbox_tally WHERE dps = ?";
    let counts = db.query_row(sql, [dps], |row| outbox_counts_at(row, 0));
    Ok(counts.optional()?.unwrap_or_default())
}

fn outbox_counts_at(row: &Row<'_>, first: usize) -> rusqlite::Result<OutboxCounts> {
    Ok(OutboxCounts {
        waiting: row.get(first)?,
        tried: row.get(first + 1)?,
        enrolled: row.get(first + 2)?,
        refused: row.get(first + 3)?,
    })
}

/// The shift that is open, if any: the last one, or none.
pub fn current_shift(db: &Connection) -> Result<Option<Shift>, Failure> {
    let sql = "SELECT shift, opened_ms, from_seq FROM
            (SELECT * FROM shift ORDER BY opened_seq DESC LIMIT 1) WHERE closed_seq IS NULL";
    let shift = db
        .query_row(sql, [], |row| {
            Ok(Shift {
                shift: row.get(0)?,
                opened_ms: row.get(1)?,
                from_seq: row.get::<_, i64>(2)?.cast_unsigned(),
            })
        })
        .optional()?;
    Ok(shift)
}

/// How the shift that was opened last and all outboxes stand.
pub fn standing(db: &Connection) -> Result<Standing, Failure> {
    let sql = "SELECT open_before, scanned, passed, failed, injected, enrolled, covered, pending, refused, disabled,
            shift, closed_seq IS NULL, shift.from_seq
        FROM shift JOIN tally ON tally.from_seq = shift.from_seq ORDER BY opened_seq DESC LIMIT 1";
    let shift = db
        .prepare_cached(sql)?
        .query_row([], |row| {
            Ok(ShiftStanding {
                balance: balance_of(row)?,
                shift: row.get(10)?,
                open: row.get(11)?,
                counts: counts_since(db, row.get(12)?)?,
            })
        })
        .optional()?;
    let sql = "SELECT dps, waiting, tried, enrolled, refused FROM outbox_tally";
    let mut statement = db.prepare_cached(sql)?;
    let outboxes = statement.query_map([], |row| Ok((row.get(0)?, outbox_counts_at(row, 1)?)))?;
    Ok(Standing {
        shift,
        outboxes: outboxes.collect::<rusqlite::Result<_>>()?,
    })
}

/// What the bays have seen since a tally began: in it, and, where its shift has closed and none is open, after it.
fn counts_since(db: &Connection, from_seq: i64) -> rusqlite::Result<Counts> {
    db.prepare_cached(
        "SELECT sum(seen_passed), sum(seen_failed), sum(seen_injected), sum(seen_open), sum(errors)
         FROM tally WHERE from_seq >= ?",
    )?
    .query_row([from_seq], |row| {
        Ok(Counts {
            passed: row.get(0)?,
            failed: row.get(1)?,
            injected: row.get(2)?,
            open: row.get(3)?,
            errors: row.get(4)?,
        })
    })
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

/// The balance of a shift; `None`: there is no such shift.
pub fn balance(db: &Connection, shift: &str) -> Result<Option<Balance>, Failure> {
    let sql =
        "SELECT open_before, scanned, passed, failed, injected, enrolled, covered, pending, refused, disabled
        FROM shift JOIN tally ON tally.from_seq = shift.from_seq WHERE shift = ?";
    Ok(db.query_row(sql, [shift], balance_of).optional()?)
}

/// The balance that the first ten columns of a tally give.
fn balance_of(row: &Row<'_>) -> rusqlite::Result<Balance> {
    let count = |index| row.get::<_, u32>(index);
    let (open_before, scanned) = (count(0)?, count(1)?);
    let (passed, failed, injected) = (count(2)?, count(3)?, count(4)?);
    let found = u64::from(open_before) + u64::from(scanned);
    let judged = u64::from(passed) + u64::from(failed) + u64::from(injected);
    Ok(Balance {
        open_before,
        scanned,
        passed,
        failed,
        injected,
        scrapped: 0,
        open_after: u32::try_from(found.saturating_sub(judged)).unwrap_or(u32::MAX),
        enrolled: count(5)?,
        covered: count(6)?,
        pending: count(7)?,
        refused: count(8)?,
        disabled: count(9)?,
    })
}
