//! The tallies: what counts for each shift, and how many records of each outbox stand where.
//!
//! They are kept with the units and records that they count, in the event's own transaction: an event takes what it
//! concerns out of the tallies as it was, and puts it in again as it is. Whoever reads them reads one row.

use super::failure::Failure;
use crate::provision::device::DeviceId;
use crate::provision::event::{Event, Recorded};
use rusqlite::{Connection, OptionalExtension, params};

/// Where what an event concerns stood before it.
pub struct Before(Vec<(DeviceId, Standing)>);

/// Where a device stands: its unit, and its records.
#[derive(PartialEq)]
struct Standing {
    unit: Option<Unit>,
    records: Vec<Record>,
}

/// What of a unit counts.
#[derive(PartialEq)]
struct Unit {
    span: Span,
    judged: Option<Judged>,
    /// Whether it was in a bay as a unit of the present tally; with its verdict of that time, if it has one.
    seen: Option<Option<String>>,
}

/// From where to where a unit had no verdict.
#[derive(PartialEq)]
struct Span {
    first_seq: i64,
    judged_seq: Option<i64>,
}

/// How a unit counts where it was first judged.
#[derive(PartialEq)]
struct Judged {
    seq: i64,
    verdict: String,
    /// Where its record stands, if it passed and has one.
    record: Option<String>,
}

/// What of a record of the outbox counts.
#[derive(PartialEq)]
struct Record {
    dps: String,
    state: String,
    tried: bool,
}

/// Begins the first tally with the first event, and says where what `recorded` concerns stands before it.
pub fn before(db: &Connection, recorded: &Recorded) -> Result<Before, Failure> {
    if recorded.seq == 1 {
        db.prepare_cached("INSERT INTO tally (from_seq) VALUES (0)")?
            .execute([])?;
    }
    let devices = concerned(recorded).into_iter();
    let standings = devices.map(|device| standing(db, &device).map(|standing| (device, standing)));
    Ok(Before(standings.collect::<Result<_, _>>()?))
}

/// Keeps the tallies now that `recorded` has taken effect.
pub fn after(db: &Connection, recorded: &Recorded, before: Before) -> Result<(), Failure> {
    for (device, before) in before.0 {
        let after = standing(db, &device)?;
        move_unit(db, before.unit.as_ref(), after.unit.as_ref())?;
        if before.records != after.records {
            count_records(db, &before.records, -1)?;
            count_records(db, &after.records, 1)?;
        }
    }
    match recorded.event {
        Event::Errored { .. } => {
            let error = "UPDATE tally SET errors = errors + 1
                 WHERE from_seq = (SELECT max(from_seq) FROM tally)";
            db.prepare_cached(error)?.execute([])?;
        }
        Event::ShiftClosed { .. } => begin(db, recorded.seq.cast_signed())?,
        _ => {}
    }
    Ok(())
}

/// Where the present tally begins: the place in the chain where the last shift closed.
pub fn present(db: &Connection) -> Result<i64, Failure> {
    Ok(db
        .prepare_cached("SELECT max(from_seq) FROM tally")?
        .query_row([], |row| row.get(0))?)
}

/// The devices whose standing an event can change.
fn concerned(recorded: &Recorded) -> Vec<DeviceId> {
    let other = match &recorded.event {
        Event::IdCheckedOut { uid, .. } | Event::IdReturned { uid, .. } => {
            DeviceId::provisional(uid)
        }
        Event::Identified { .. }
        | Event::RegistrationIdDerived { .. }
        | Event::Recognised { .. }
        | Event::Passed { .. }
        | Event::Injected { .. }
        | Event::Failed { .. }
        | Event::Listed(_)
        | Event::Enrolled { .. }
        | Event::EnrollmentRefused { .. }
        | Event::EnrollmentDisabled { .. }
        | Event::EnrollmentRetried { .. }
        | Event::EnrollmentOrdered { .. }
        | Event::EnrollmentDeleted { .. }
        | Event::EnrollmentDeferred { .. } => None,
        _ => return Vec::new(),
    };
    let same = other.as_ref() == recorded.device.as_ref();
    let other = other.filter(|_| !same);
    recorded.device.iter().cloned().chain(other).collect()
}

fn standing(db: &Connection, device: &DeviceId) -> Result<Standing, Failure> {
    let present = present(db)?;
    let unit = db
        .prepare_cached(
            "SELECT first_seq, judged_seq, verdict, outbox.state, seen_seq > ?2, verdict_seq > ?2
             FROM unit LEFT JOIN outbox ON outbox.registration_id = unit.registration_id
             WHERE unit.device = ?1",
        )?
        .query_row(params![device.as_str(), present], |row| {
            let judged_seq: Option<i64> = row.get(1)?;
            let verdict: Option<String> = row.get(2)?;
            let record: Option<String> = row.get(3)?;
            let seen = row.get::<_, Option<bool>>(4)? == Some(true);
            let judged_here = row.get::<_, Option<bool>>(5)? == Some(true);
            Ok(Unit {
                span: Span {
                    first_seq: row.get(0)?,
                    judged_seq,
                },
                seen: seen.then(|| verdict.clone().filter(|_| judged_here)),
                judged: judged_seq.zip(verdict).map(|(seq, verdict)| Judged {
                    seq,
                    record: record.filter(|_| verdict == "passed"),
                    verdict,
                }),
            })
        })
        .optional()?;
    let mut statement =
        db.prepare_cached("SELECT dps, state, tries > 0 FROM outbox WHERE device = ?")?;
    let records = statement.query_map([device.as_str()], |row| {
        Ok(Record {
            dps: row.get(0)?,
            state: row.get(1)?,
            tried: row.get(2)?,
        })
    })?;
    Ok(Standing {
        unit,
        records: records.collect::<rusqlite::Result<_>>()?,
    })
}

/// Counts a unit as it is in place of how it was; only what differs is touched.
fn move_unit(db: &Connection, before: Option<&Unit>, after: Option<&Unit>) -> Result<(), Failure> {
    let span = [before, after].map(|unit| unit.map(|unit| &unit.span));
    if span[0] != span[1] {
        for (span, by) in span.into_iter().zip([-1, 1]) {
            span.map_or(Ok(()), |span| count_span(db, span, by))?;
        }
    }
    let judged = [before, after].map(|unit| unit.and_then(|unit| unit.judged.as_ref()));
    if judged[0] != judged[1] {
        for (judged, by) in judged.into_iter().zip([-1, 1]) {
            judged.map_or(Ok(()), |judged| count_judged(db, judged, by))?;
        }
    }
    let seen = [before, after].map(|unit| unit.and_then(|unit| unit.seen.as_ref()));
    if seen[0] != seen[1] {
        for (verdict, by) in seen.into_iter().zip([-1, 1]) {
            verdict.map_or(Ok(()), |verdict| count_seen(db, verdict.as_deref(), by))?;
        }
    }
    Ok(())
}

/// Counts a unit where it was first identified, and in each tally that found it without a verdict.
fn count_span(db: &Connection, span: &Span, by: i64) -> Result<(), Failure> {
    db.prepare_cached(
        "UPDATE tally SET scanned = scanned + ?2
         WHERE from_seq = (SELECT max(from_seq) FROM tally WHERE from_seq < ?1)",
    )?
    .execute(params![span.first_seq, by])?;
    db.prepare_cached(
        "UPDATE tally SET open_before = open_before + ?3 WHERE from_seq > ?1 AND from_seq < ?2",
    )?
    .execute(params![
        span.first_seq,
        span.judged_seq.unwrap_or(i64::MAX),
        by
    ])?;
    Ok(())
}

fn count_judged(db: &Connection, judged: &Judged, by: i64) -> Result<(), Failure> {
    db.prepare_cached(
        "UPDATE tally SET passed = passed + ?2 * (?3 = 'passed'), failed = failed + ?2 * (?3 = 'failed'),
             injected = injected + ?2 * (?3 = 'injected'), enrolled = enrolled + ?2 * (?4 IS 'enrolled'),
             covered = covered + ?2 * (?4 IS 'covered'), pending = pending + ?2 * coalesce(?4 IN ('pending', 'disable_pending', 'delete_pending'), 0),
             refused = refused + ?2 * (?4 IS 'refused'), disabled = disabled + ?2 * coalesce(?4 IN ('disabled', 'deleted'), 0)
         WHERE from_seq = (SELECT max(from_seq) FROM tally WHERE from_seq < ?1)",
    )?
    .execute(params![judged.seq, by, judged.verdict, judged.record])?;
    Ok(())
}

fn count_seen(db: &Connection, verdict: Option<&str>, by: i64) -> Result<(), Failure> {
    db.prepare_cached(
        "UPDATE tally SET seen_passed = seen_passed + ?1 * (?2 IS 'passed'),
             seen_failed = seen_failed + ?1 * (?2 IS 'failed'),
             seen_injected = seen_injected + ?1 * (?2 IS 'injected'), seen_open = seen_open + ?1 * (?2 IS NULL)
         WHERE from_seq = (SELECT max(from_seq) FROM tally)",
    )?
    .execute(params![by, verdict])?;
    Ok(())
}

fn count_records(db: &Connection, records: &[Record], by: i64) -> Result<(), Failure> {
    for record in records {
        db.prepare_cached("INSERT INTO outbox_tally (dps) VALUES (?) ON CONFLICT DO NOTHING")?
            .execute([&record.dps])?;
        db.prepare_cached(
            "UPDATE outbox_tally SET waiting = waiting + ?2 * (?3 IN ('pending', 'disable_pending', 'delete_pending')),
                 tried = tried + ?2 * (?4 AND ?3 IN ('pending', 'disable_pending', 'delete_pending')),
                 enrolled = enrolled + ?2 * (?3 = 'enrolled'), refused = refused + ?2 * (?3 = 'refused')
             WHERE dps = ?1",
        )?
        .execute(params![record.dps, by, record.state, record.tried])?;
    }
    Ok(())
}

/// A shift closed with the event `from_seq`: what comes now counts for the next, which finds open what it left open.
fn begin(db: &Connection, from_seq: i64) -> Result<(), Failure> {
    db.prepare_cached(
        "INSERT INTO tally (from_seq, open_before)
         SELECT ?, open_before + scanned - passed - failed - injected FROM tally
         ORDER BY from_seq DESC LIMIT 1",
    )?
    .execute([from_seq])?;
    Ok(())
}
