//! The projections: what each event changes in the tables that follow from the events.
//!
//! Everything here depends on the event and on earlier projections only, so that they can be rebuilt and compared.

use super::IdentityKind;
use super::allocation;
use super::chain::device;
use super::credential;
use super::failure::Failure;
use super::identity;
use super::listed;
use super::outbox;
use super::sql;
use super::tally;
use crate::provision::bytes::{Blob, Digest};
use crate::provision::device::{DeviceId, SerialNumber};
use crate::provision::event::{
    EndorsementRecord, EnrolledIdentity, Event, Purpose, Recorded, Reservation,
};
use rusqlite::{Connection, OptionalExtension, params};

/// The projections, each with its key columns: what `verify` rebuilds and compares.
pub const TABLES: [(&str, &str); 14] = [
    ("attempt", "attempt"),
    ("unit", "device"),
    ("claim", "device"),
    ("identity", "kind, value"),
    ("credential", "sha256"),
    ("reservation", "serial"),
    ("outbox", "registration_id"),
    ("charge", "seq"),
    ("service", "dps"),
    ("shift", "shift"),
    ("bay", "bay"),
    ("allocation", "device"),
    ("tally", "from_seq"),
    ("outbox_tally", "dps"),
];

/// Lets `recorded` take effect, or says why it contradicts what is on record.
pub fn apply(db: &Connection, recorded: &Recorded) -> Result<(), Failure> {
    let before = tally::before(db, recorded)?;
    change(db, recorded)?;
    outbox::apply(db, recorded)?;
    tally::after(db, recorded, before)
}

fn change(db: &Connection, recorded: &Recorded) -> Result<(), Failure> {
    if let Event::Identified { .. } = recorded.event {
        claim(db, recorded)?;
    }
    touch_unit(db, recorded)?;
    match &recorded.event {
        Event::Arrived { bay, .. } => arrive(db, recorded, bay)?,
        Event::Identified { .. } => tie_uid(db, recorded)?,
        Event::IdCheckedOut {
            device_id,
            format,
            uid,
        } => allocation::check_out(db, recorded, device_id, format, uid)?,
        Event::IdReturned { device_id, uid, .. } => allocation::give_back(db, device_id, uid)?,
        Event::KeyRead { public_key, .. } => {
            identity::tie(db, recorded, IdentityKind::PublicKey, &public_key.0)?;
        }
        Event::EndorsementRead(record) => endorse(db, recorded, record)?,
        Event::RegistrationIdDerived { registration_id } => {
            let value = registration_id.as_str();
            identity::tie(db, recorded, IdentityKind::RegistrationId, value.as_bytes())?;
            db.prepare_cached("UPDATE unit SET registration_id = ? WHERE device = ?")?
                .execute(params![value, device(recorded)?.as_str()])?;
        }
        Event::SerialReserved { reservation } => reserve(db, recorded, reservation)?,
        Event::Signed { serial, result } => sign(db, recorded, serial, result)?,
        Event::SerialAbandoned { serial, .. } => settle(db, recorded, serial, "abandoned")?,
        Event::Passed { .. } => {
            judge(db, recorded)?;
            allocation::confirm(db, device(recorded)?)?;
        }
        Event::Injected { .. } | Event::Failed { .. } => judge(db, recorded)?,
        Event::Recognised { .. } => recognise(db, recorded)?,
        Event::LoopbackTested {
            bay: Some(bay),
            passed,
            ..
        } => test_bay(db, recorded, bay, *passed)?,
        Event::ShiftOpened { shift } => open_shift(db, recorded, shift)?,
        Event::ShiftClosed { shift, .. } => close_shift(db, recorded, shift)?,
        Event::Listed(listing) => listed::apply(db, recorded, listing)?,
        Event::Charged {
            dps, operations, ..
        } => charge(db, recorded, dps, *operations)?,
        Event::ServiceBusy { dps, pause_ms } => busy(db, recorded, dps, *pause_ms)?,
        Event::UploadPaused { dps } => pause(db, recorded, dps, true)?,
        Event::UploadResumed { dps } => pause(db, recorded, dps, false)?,
        Event::LinkMeasured { .. }
        | Event::LoopbackTested { bay: None, .. }
        | Event::Interrupted { .. }
        | Event::Accepted { .. }
        | Event::Written { .. }
        | Event::Restarted { .. }
        | Event::ReadBack { .. }
        | Event::Proved { .. }
        | Event::Sealed { .. }
        | Event::Errored { .. }
        | Event::Enrolled { .. }
        | Event::EnrollmentRefused { .. }
        | Event::EnrollmentDisabled { .. }
        | Event::EnrollmentRetried { .. }
        | Event::EnrollmentOrdered { .. }
        | Event::EnrollmentDeleted { .. }
        | Event::EnrollmentDeferred { .. } => {}
    }
    if recorded.event.ends_attempt() {
        end_attempt(db, recorded)?;
    }
    Ok(())
}

fn attempt(recorded: &Recorded) -> Result<String, Failure> {
    recorded
        .attempt
        .map(|attempt| attempt.to_string())
        .ok_or_else(|| Failure::illegal(format!("{}: names no attempt", recorded.event.kind())))
}

fn seq(recorded: &Recorded) -> i64 {
    recorded.seq.cast_signed()
}

fn arrive(db: &Connection, recorded: &Recorded, bay: &str) -> Result<(), Failure> {
    let attempt = attempt(recorded)?;
    let new = db
        .prepare_cached(
            "INSERT INTO attempt (attempt, bay, opened_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        )?
        .execute(params![attempt, bay, recorded.at_ms])?;
    match new {
        1 => Ok(()),
        _ => Err(Failure::illegal(format!(
            "attempt {attempt} has already begun"
        ))),
    }
}

/// Binds the attempt to the device and takes the claim on it from whoever has it.
fn claim(db: &Connection, recorded: &Recorded) -> Result<(), Failure> {
    if let Event::Identified {
        identification,
        assigned: Some(device),
        ..
    } = &recorded.event
    {
        allocation::check_assigned(db, device, &identification.uid)?;
    }
    let attempt = attempt(recorded)?;
    let device = device(recorded)?.as_str();
    let bay: Option<String> = db
        .prepare_cached(
            "SELECT bay FROM attempt WHERE attempt = ? AND device IS NULL AND ended_seq IS NULL",
        )?
        .query_row([&attempt], |row| row.get(0))
        .optional()?;
    let bay = bay
        .ok_or_else(|| Failure::illegal(format!("attempt {attempt} does not wait for a device")))?;
    db.prepare_cached(
        "INSERT INTO unit (device, bay, first_seq, seen_seq, last_seq) VALUES (?1, ?2, ?3, ?3, ?3)
         ON CONFLICT (device) DO UPDATE SET bay = excluded.bay, seen_seq = excluded.seen_seq",
    )?
    .execute(params![device, bay, seq(recorded)])?;
    let fence: i64 = db
        .prepare_cached(
            "INSERT INTO claim (device, attempt, fence) VALUES (?1, ?2, 1)
             ON CONFLICT (device) DO UPDATE SET attempt = excluded.attempt, fence = fence + 1
             RETURNING fence",
        )?
        .query_row(params![device, attempt], |row| row.get(0))?;
    db.prepare_cached("UPDATE attempt SET device = ?, fence = ? WHERE attempt = ?")?
        .execute(params![device, fence, attempt])?;
    Ok(())
}

/// Ties the microcontroller to the name of its unit, unless that is one for the time being.
fn tie_uid(db: &Connection, recorded: &Recorded) -> Result<(), Failure> {
    let Event::Identified {
        identification: found,
        assigned,
        ..
    } = &recorded.event
    else {
        return Ok(());
    };
    let named = assigned.is_some() || !found.blank;
    if !named || found.uid.0.is_empty() {
        return Ok(());
    }
    identity::tie(db, recorded, IdentityKind::Uid, &found.uid.0)
}

fn touch_unit(db: &Connection, recorded: &Recorded) -> Result<(), Failure> {
    if let Some(device) = &recorded.device {
        db.prepare_cached("UPDATE unit SET last_seq = ? WHERE device = ?")?
            .execute(params![seq(recorded), device.as_str()])?;
    }
    Ok(())
}

fn endorse(
    db: &Connection,
    recorded: &Recorded,
    record: &EndorsementRecord,
) -> Result<(), Failure> {
    let key = &record.endorsement_key;
    identity::tie(db, recorded, IdentityKind::EndorsementKey, &key.0)?;
    let endorsed = EnrolledIdentity::Tpm {
        endorsement_key: key.clone(),
        storage_root_key: record.storage_root_key.clone(),
    };
    credential::keep(db, recorded, &endorsed)
}

/// Ends the reservation; a leaf identifies its device from now on.
fn sign(
    db: &Connection,
    recorded: &Recorded,
    serial: &SerialNumber,
    result: &Blob,
) -> Result<(), Failure> {
    settle(db, recorded, serial, "signed")?;
    if recorded.device.is_none() {
        return Ok(());
    }
    let certificate = result.clone();
    credential::keep(db, recorded, &EnrolledIdentity::X509 { certificate })
}

fn reserve(db: &Connection, recorded: &Recorded, reservation: &Reservation) -> Result<(), Failure> {
    if (reservation.purpose == Purpose::Leaf) != recorded.device.is_some() {
        return Err(Failure::illegal(format!(
            "serial number {}: a leaf is for a device, and nothing else is",
            reservation.serial
        )));
    }
    let new = db
        .prepare_cached(
            "INSERT INTO reservation (serial, purpose, ca, tbs_sha256, device, state)
             VALUES (?, ?, ?, ?, ?, 'reserved') ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            reservation.serial.to_string(),
            sql::word(&reservation.purpose)?,
            reservation.ca,
            Digest::of(&reservation.tbs.0).0,
            recorded.device.as_ref().map(DeviceId::as_str),
        ])?;
    match new {
        1 => Ok(()),
        _ => Err(Failure::illegal(format!(
            "serial number {} is already in use",
            reservation.serial
        ))),
    }
}

/// Ends a reservation, once, and for the device that it was made for only.
fn settle(
    db: &Connection,
    recorded: &Recorded,
    serial: &SerialNumber,
    state: &str,
) -> Result<(), Failure> {
    let changed = db
        .prepare_cached(
            "UPDATE reservation SET state = ? WHERE serial = ? AND device IS ? AND state = 'reserved'",
        )?
        .execute(params![
            state,
            serial.to_string(),
            recorded.device.as_ref().map(DeviceId::as_str)
        ])?;
    match changed {
        1 => Ok(()),
        _ => Err(Failure::illegal(format!(
            "serial number {serial} cannot become {state}: it is not reserved here"
        ))),
    }
}

fn judge(db: &Connection, recorded: &Recorded) -> Result<(), Failure> {
    db.prepare_cached(
        "UPDATE unit SET verdict = ?1, judged_seq = coalesce(judged_seq, ?2), verdict_seq = ?2, seen_seq = ?2
         WHERE device = ?3",
    )?
    .execute(params![
        recorded.event.kind(),
        seq(recorded),
        device(recorded)?.as_str()
    ])?;
    Ok(())
}

/// A unit that passed in an earlier shift and was only recognised in this one is no unit of it.
fn recognise(db: &Connection, recorded: &Recorded) -> Result<(), Failure> {
    db.prepare_cached(
        "UPDATE unit SET seen_seq = NULL WHERE device = ? AND coalesce(verdict_seq, 0) <= ?",
    )?
    .execute(params![device(recorded)?.as_str(), tally::present(db)?])?;
    Ok(())
}

fn end_attempt(db: &Connection, recorded: &Recorded) -> Result<(), Failure> {
    let attempt = attempt(recorded)?;
    let changed = db
        .prepare_cached("UPDATE attempt SET ended_seq = ? WHERE attempt = ? AND ended_seq IS NULL")?
        .execute(params![seq(recorded), attempt])?;
    match changed {
        1 => Ok(()),
        _ => Err(Failure::illegal(format!("attempt {attempt} is not open"))),
    }
}

fn open_shift(db: &Connection, recorded: &Recorded, shift: &str) -> Result<(), Failure> {
    let open: Option<String> = db
        .prepare_cached(
            "SELECT shift FROM (SELECT shift, closed_seq FROM shift ORDER BY opened_seq DESC LIMIT 1)
             WHERE closed_seq IS NULL UNION ALL SELECT shift FROM shift WHERE shift = ?",
        )?
        .query_row([shift], |row| row.get(0))
        .optional()?;
    if let Some(other) = open {
        return Err(Failure::illegal(format!(
            "shift {shift} cannot open: shift {other} is on record and must be closed, or has this name"
        )));
    }
    db.prepare_cached(
        "INSERT INTO shift (shift, opened_seq, opened_ms, from_seq) VALUES (?, ?, ?, ?)",
    )?
    .execute(params![
        shift,
        seq(recorded),
        recorded.at_ms,
        tally::present(db)?
    ])?;
    Ok(())
}

fn close_shift(db: &Connection, recorded: &Recorded, shift: &str) -> Result<(), Failure> {
    let changed = db
        .prepare_cached(
            "UPDATE shift SET closed_seq = ?, closed_ms = ? WHERE shift = ? AND closed_seq IS NULL",
        )?
        .execute(params![seq(recorded), recorded.at_ms, shift])?;
    match changed {
        1 => Ok(()),
        _ => Err(Failure::illegal(format!("shift {shift} is not open"))),
    }
}

fn charge(db: &Connection, recorded: &Recorded, dps: &str, operations: u32) -> Result<(), Failure> {
    db.prepare_cached("INSERT INTO charge (seq, dps, at_ms, operations) VALUES (?, ?, ?, ?)")?
        .execute(params![seq(recorded), dps, recorded.at_ms, operations])?;
    Ok(())
}

fn busy(db: &Connection, recorded: &Recorded, dps: &str, pause_ms: u64) -> Result<(), Failure> {
    db.prepare_cached(
        "INSERT INTO service (dps, busy_ms, busy_from_ms) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET busy_ms = ?2, busy_from_ms = ?3",
    )?
    .execute(params![
        dps,
        i64::try_from(pause_ms).unwrap_or(i64::MAX),
        recorded.at_ms
    ])?;
    Ok(())
}

fn pause(db: &Connection, recorded: &Recorded, dps: &str, paused: bool) -> Result<(), Failure> {
    db.prepare_cached(
        "INSERT INTO service (dps, paused_ms, paused_by) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET paused_ms = ?2, paused_by = ?3",
    )?
    .execute(params![
        dps,
        paused.then_some(recorded.at_ms),
        recorded.operator.as_ref().filter(|_| paused)
    ])?;
    Ok(())
}

fn test_bay(db: &Connection, recorded: &Recorded, bay: &str, passed: bool) -> Result<(), Failure> {
    db.prepare_cached(
        "INSERT INTO bay (bay, out, tested_seq) VALUES (?, ?, ?)
         ON CONFLICT DO UPDATE SET out = excluded.out, tested_seq = excluded.tested_seq",
    )?
    .execute(params![bay, !passed, seq(recorded)])?;
    Ok(())
}
