//! The outbox: what DPS is to hold for each device, and how far that has got.

use super::chain::device;
use super::credential;
use super::failure::Failure;
use super::sql::{unword, word};
use crate::provision::device::RegistrationId;
use crate::provision::event::{Enrollment, EnrollmentRecord, Event, Order, Recorded};
use crate::provision::fault::Fault;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

/// Where a record of the outbox stands. It is always in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutboxState {
    /// The unit passed; DPS is to hold its enrollment, and is not known to.
    Pending,
    /// DPS holds the enrollment; it was read back.
    Enrolled,
    /// DPS refused it, or holds another content: a person must look.
    Refused,
    /// DPS holds the enrollment as disabled.
    Disabled,
    /// The unit did not pass; DPS is to hold its enrollment as disabled, and is not known to.
    DisablePending,
    /// A named group in DPS covers the device.
    Covered,
    /// A person ordered that DPS is to hold nothing; it may hold it yet.
    DeletePending,
    /// DPS holds nothing, as a person ordered.
    Deleted,
}

/// Lets `recorded` take effect on the outbox.
pub fn apply(db: &Connection, recorded: &Recorded) -> Result<(), Failure> {
    match &recorded.event {
        Event::Passed { enrollment } => want(db, recorded, enrollment, OutboxState::Pending),
        Event::Failed { disable, .. } => match disable {
            Some(enrollment) => want(db, recorded, enrollment, OutboxState::DisablePending),
            None => withdraw(db, recorded, ""),
        },
        // What a list says is not about this line's units, and stays.
        Event::Injected { .. } => withdraw(db, recorded, "AND listed_seq IS NULL"),
        Event::Charged { sending, .. } => sending
            .iter()
            .try_for_each(|registration_id| send(db, recorded, registration_id)),
        Event::Enrolled {
            registration_id,
            etag,
        } => {
            let answer = Answer {
                state: OutboxState::Enrolled,
                verdict: Some("passed"),
                etag: Some(etag),
                fault: None,
            };
            answered(db, registration_id, &answer)
        }
        Event::EnrollmentDisabled { registration_id } => {
            let answer = Answer {
                state: OutboxState::Disabled,
                verdict: None,
                etag: None,
                fault: None,
            };
            answered(db, registration_id, &answer)
        }
        Event::EnrollmentRefused {
            registration_id,
            fault,
        } => {
            let answer = Answer {
                state: OutboxState::Refused,
                verdict: None,
                etag: None,
                fault: Some(fault),
            };
            answered(db, registration_id, &answer)
        }
        Event::EnrollmentDeferred {
            registration_id,
            fault,
            next_try_ms,
        } => defer(db, registration_id, fault, *next_try_ms),
        Event::EnrollmentDeleted { registration_id } => {
            let answer = Answer {
                state: OutboxState::Deleted,
                verdict: None,
                etag: None,
                fault: None,
            };
            answered(db, registration_id, &answer)
        }
        Event::EnrollmentOrdered {
            registration_id,
            order,
        } => self::order(db, recorded, registration_id, *order),
        Event::EnrollmentRetried { was, now } => retry(db, recorded, was, now),
        _ => Ok(()),
    }
}

/// Why nothing can be recorded about `registration_id`.
pub fn missing(registration_id: &RegistrationId) -> Failure {
    Failure::illegal(format!(
        "registration ID {registration_id} is not in the outbox"
    ))
}

/// A definite answer of the service.
struct Answer<'a> {
    /// The state it leads to.
    state: OutboxState,
    /// The verdict on the unit that it fits, or, with a record of a list, what was wanted of it; `None` if it fits any.
    verdict: Option<&'a str>,
    etag: Option<&'a str>,
    fault: Option<&'a Fault>,
}

/// Puts what DPS is to hold into the outbox, in place of what it was to hold before. What was disabled only because the
/// unit had failed is to be enabled when it passes; what a person disabled is not.
fn want(
    db: &Connection,
    recorded: &Recorded,
    enrollment: &EnrollmentRecord,
    state: OutboxState,
) -> Result<(), Failure> {
    let device = device(recorded)?.as_str();
    let registration_id = &enrollment.registration_id;
    let own: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM unit WHERE registration_id = ? AND device = ?)",
        )?
        .query_row([registration_id.as_str(), device], |row| row.get(0))?;
    if !own {
        return Err(Failure::illegal(format!(
            "registration ID {registration_id} was not derived for device {device}"
        )));
    }
    let enrollment = credential::resolve(db, recorded, enrollment)?;
    db.prepare_cached(
        "INSERT INTO outbox
             (registration_id, dps, device, state, tries, next_try_ms, enrollment, content_seq)
         VALUES (?1, ?2, ?3, ?4, 0, 0, ?5, ?6)
         ON CONFLICT (registration_id) DO UPDATE SET dps = ?2, state = ?4, tries = 0, next_try_ms = 0,
             fault = NULL, enrollment = ?5, content_seq = ?6, listed_seq = NULL,
             ordered = CASE WHEN ?4 = 'pending' AND (disabled_here OR (state = 'disable_pending' AND ordered IS NULL))
                 THEN 'enable' END",
    )?
    .execute(params![
        registration_id.as_str(),
        enrollment.dps,
        device,
        word(&state)?,
        serde_json::to_string(&enrollment).map_err(Failure::unstorable)?,
        recorded.seq.cast_signed(),
    ])?;
    Ok(())
}

/// A unit that passed once, and now failed without a new certificate or has stock firmware: what it was enrolled with must
/// be disabled.
fn withdraw(db: &Connection, recorded: &Recorded, which: &str) -> Result<(), Failure> {
    db.prepare_cached(&format!(
        "UPDATE outbox SET state = 'disable_pending', tries = 0, next_try_ms = 0, fault = NULL, ordered = NULL,
             content_seq = ? WHERE device = ? AND state NOT IN ('disable_pending', 'disabled') {which}",
    ))?
    .execute(params![
        recorded.seq.cast_signed(),
        device(recorded)?.as_str()
    ])?;
    Ok(())
}

fn send(
    db: &Connection,
    recorded: &Recorded,
    registration_id: &RegistrationId,
) -> Result<(), Failure> {
    let changed = db
        .prepare_cached("UPDATE outbox SET charged_seq = ? WHERE registration_id = ?")?
        .execute(params![
            recorded.seq.cast_signed(),
            registration_id.as_str()
        ])?;
    match changed {
        1 => Ok(()),
        _ => Err(missing(registration_id)),
    }
}

/// Applies a definite answer.
///
/// An answer to a call that was charged before the wanted content changed says nothing of the content wanted now: it
/// ends that call, and the record stays to be sent.
fn answered(
    db: &Connection,
    registration_id: &RegistrationId,
    answer: &Answer<'_>,
) -> Result<(), Failure> {
    let (state, verdict, content_seq, charged_seq): (String, Option<String>, i64, Option<i64>) = db
        .prepare_cached(
            "SELECT outbox.state, CASE WHEN listed_seq IS NULL THEN unit.verdict
                 WHEN outbox.state IN ('disabled', 'disable_pending') THEN 'failed' ELSE 'passed' END,
                 content_seq, charged_seq
             FROM outbox LEFT JOIN unit USING (device) WHERE outbox.registration_id = ?",
        )?
        .query_row([registration_id.as_str()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .optional()?
        .ok_or_else(|| missing(registration_id))?;
    if charged_seq.is_some_and(|charged| charged < content_seq) {
        db.prepare_cached(
            "UPDATE outbox SET charged_seq = NULL, etag = coalesce(?, etag) WHERE registration_id = ?",
        )?
        .execute(params![answer.etag, registration_id.as_str()])?;
        return Ok(());
    }
    let waits = matches!(
        unword(&state)?,
        OutboxState::Pending | OutboxState::DisablePending | OutboxState::DeletePending
    );
    if waits && charged_seq.is_none() {
        return Err(Failure::illegal(format!(
            "registration ID {registration_id} got an answer, but no call was charged for it"
        )));
    }
    if answer.verdict.is_some() && answer.verdict != verdict.as_deref() {
        return Err(Failure::illegal(format!(
            "registration ID {registration_id} got an answer that does not fit the verdict on its unit"
        )));
    }
    db.prepare_cached(
        "UPDATE outbox SET state = ?1, charged_seq = NULL, tries = 0, next_try_ms = 0, ordered = NULL,
             etag = coalesce(?2, etag), fault = ?3,
             disabled_here = CASE ?1 WHEN 'disabled' THEN state = 'disable_pending' AND ordered IS NULL AND ?5
                 WHEN 'enrolled' THEN 0 ELSE disabled_here END
         WHERE registration_id = ?4",
    )?
    .execute(params![
        word(&answer.state)?,
        answer.etag,
        answer.fault.map(json).transpose()?,
        registration_id.as_str(),
        matches!(verdict.as_deref(), Some("failed" | "injected"))
    ])?;
    Ok(())
}

fn defer(
    db: &Connection,
    registration_id: &RegistrationId,
    fault: &Fault,
    next_try_ms: i64,
) -> Result<(), Failure> {
    let changed = db
        .prepare_cached(
            "UPDATE outbox SET charged_seq = NULL, tries = tries + 1, next_try_ms = ?, fault = ?
             WHERE registration_id = ?",
        )?
        .execute(params![next_try_ms, json(fault)?, registration_id.as_str()])?;
    match changed {
        1 => Ok(()),
        _ => Err(missing(registration_id)),
    }
}

/// Puts a refused record back: DPS is to hold what is meant now, of the same device.
fn retry(
    db: &Connection,
    recorded: &Recorded,
    was: &EnrollmentRecord,
    now: &EnrollmentRecord,
) -> Result<(), Failure> {
    let id = &now.registration_id;
    let illegal = |what: &str| Failure::illegal(format!("registration ID {id}: {what}"));
    let (state, meant, verdict, listed): (String, String, Option<String>, bool) = db
        .prepare_cached(
            "SELECT outbox.state, enrollment, unit.verdict, listed_seq IS NOT NULL
             FROM outbox LEFT JOIN unit USING (device) WHERE outbox.registration_id = ?",
        )?
        .query_row([id.as_str()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .optional()?
        .ok_or_else(|| missing(id))?;
    if unword::<OutboxState>(&state)? != OutboxState::Refused {
        return Err(illegal("only a refused record can be sent again"));
    }
    let meant: Enrollment =
        serde_json::from_str(&meant).map_err(|e| Failure::Damaged(format!("outbox: {e}")))?;
    let same =
        (&now.dps, &now.device_id, &now.identity) == (&was.dps, &was.device_id, &was.identity);
    if meant.record() != *was || !same {
        return Err(illegal("what was meant is not what is on record"));
    }
    // What a list says is changed by a list only.
    let enrollment = match listed {
        true if was == now => meant,
        true => {
            return Err(illegal(
                "it is from a list, and no product says what is meant",
            ));
        }
        false => credential::resolve(db, recorded, now)?,
    };
    let state = match verdict.as_deref() {
        Some("passed") => OutboxState::Pending,
        None if listed => OutboxState::Pending,
        _ => OutboxState::DisablePending,
    };
    db.prepare_cached(
        "UPDATE outbox SET state = ?1, tries = 0, next_try_ms = 0, fault = NULL, enrollment = ?2, content_seq = ?3,
             ordered = CASE WHEN ?1 = 'pending' AND disabled_here THEN 'enable' END
         WHERE registration_id = ?4",
    )?
    .execute(params![
        word(&state)?,
        serde_json::to_string(&enrollment).map_err(Failure::unstorable)?,
        recorded.seq.cast_signed(),
        id.as_str(),
    ])?;
    Ok(())
}

/// What a person orders of a record that is settled, or that waits.
fn order(
    db: &Connection,
    recorded: &Recorded,
    registration_id: &RegistrationId,
    order: Order,
) -> Result<(), Failure> {
    let (state, verdict, listed): (String, Option<String>, bool) = db
        .prepare_cached(
            "SELECT state, verdict, listed_seq IS NOT NULL
             FROM outbox LEFT JOIN unit USING (device) WHERE outbox.registration_id = ?",
        )?
        .query_row([registration_id.as_str()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?
        .ok_or_else(|| missing(registration_id))?;
    // A unit that did not pass cannot register, whoever orders it.
    let may = listed || verdict.as_deref() == Some("passed");
    let wanted = match (order, unword(&state)?) {
        (_, OutboxState::Covered | OutboxState::Deleted) => None,
        (Order::Disable, _) => Some(OutboxState::DisablePending),
        (Order::Enable, _) => Some(OutboxState::Pending).filter(|_| may),
        (Order::Delete, _) => Some(OutboxState::DeletePending).filter(|_| may),
    };
    let wanted = wanted.ok_or_else(|| {
        Failure::illegal(format!(
            "registration ID {registration_id}: its record is {state} and cannot be ordered so"
        ))
    })?;
    db.prepare_cached(
        "UPDATE outbox SET state = ?, tries = 0, next_try_ms = 0, fault = NULL, content_seq = ?, ordered = ?
         WHERE registration_id = ?",
    )?
    .execute(params![
        word(&wanted)?,
        recorded.seq.cast_signed(),
        word(&order)?,
        registration_id.as_str()
    ])?;
    Ok(())
}

fn json(fault: &Fault) -> Result<String, Failure> {
    serde_json::to_string(fault).map_err(Failure::unstorable)
}
