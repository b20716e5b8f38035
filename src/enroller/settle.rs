//! One batch: sent, read back, and what came of each of its records put on record together.

use super::call::{CALLS, Caller, Ticket};
use super::compare::{Comparison, compare};
use super::count;
use super::refusal::{is_about_content, refused_alone};
use super::waiting::row;
use crate::dps::DpsError;
use crate::ledger::LedgerError;
use crate::provision::batch::{Batch, Held, ItemResult, Row, Status, also_set, read_answer};
use crate::provision::device::RegistrationId;
use crate::provision::event::{Event, Order};
use crate::provision::fault::{Fault, RecordTrouble};
use crate::provision::upload::next_try_ms;
use futures_util::future::join_all;
use std::time::Instant;
use tokio::sync::SemaphorePermit;

/// Records of a run that are named with what someone else set in them.
const ALSO_SET_LIMIT: usize = 1_000;
/// Tries to read a record back before it is put off: it may be the record that the service has no answer to.
const READ_TRIES: u32 = 3;

/// Whether it is known what the last call did to a record that is put off.
#[derive(Clone, Copy)]
enum LastCall {
    /// The service does not hold it: it may be sent again.
    Known,
    /// Nobody knows: it is read back first.
    Unknown,
}

/// Settles, refuses or puts off each record of a batch.
pub(super) async fn settle(caller: &Caller<'_>, batch: Batch) -> Result<(), Fault> {
    let mut rows = batch.rows;
    if batch.read_first {
        // The ledger takes no answer without a call on record, and that of a record which was put off ended so. One that
        // a person ordered about had none yet.
        if rows
            .iter()
            .any(|row| row.tries > 0 || row.ordered.is_some())
        {
            rows = caller.charge_sending(rows).await?.0;
        }
        rows = read_back(caller, rows).await?;
    }
    if let [row] = &rows[..]
        && row.ordered == Some(Order::Delete)
    {
        return record(caller, vec![deleted(row)]).await;
    }
    for row in send(caller, rows).await? {
        send(caller, vec![row]).await?; // alone, none comes back
    }
    Ok(())
}

/// Sends records in one call, and settles them. Gives back several that the service refused as a whole, which may be
/// the fault of one of them.
async fn send(caller: &Caller<'_>, rows: Vec<Row>) -> Result<Vec<Row>, Fault> {
    if rows.is_empty() {
        return Ok(rows);
    }
    let (rows, answer) = {
        let _permit = permits(caller, 1).await;
        let (rows, ticket) = caller.charge_sending(rows).await?;
        if rows.is_empty() {
            return Ok(rows);
        }
        let content: Vec<_> = rows.iter().map(|r| (&r.enrollment, r.wanted)).collect();
        let create = || caller.dps.create(&content);
        let Some(answer) = caller.call_sending(ticket, &rows, create).await? else {
            return Ok(Vec::new());
        };
        (rows, answer)
    };
    let outcomes = match answer {
        Ok(answer) => {
            let ids: Vec<_> = rows.iter().map(|r| &r.enrollment.registration_id).collect();
            read_answer(&ids, &answer)
        }
        Err(DpsError::Refused(complaint)) if is_about_content(&complaint) => match rows.len() {
            1 => vec![refused_alone(&complaint)],
            _ => return Ok(rows),
        },
        Err(error @ DpsError::Refused(_)) => return Err(caller.dps.fault(&error)),
        Err(_) => vec![ItemResult::Unknown; rows.len()],
    };
    finish(caller, rows, outcomes).await?;
    Ok(Vec::new())
}

/// Settles records that were sent. None is believed without being read back.
async fn finish(
    caller: &Caller<'_>,
    rows: Vec<Row>,
    outcomes: Vec<ItemResult>,
) -> Result<(), Fault> {
    let mut sent = Vec::new();
    let mut events = Vec::new();
    for (row, outcome) in rows.into_iter().zip(outcomes) {
        match outcome {
            ItemResult::Refused(why) => events.push(refused(caller, &row, why.into())),
            ItemResult::Deferred(why) => {
                events.push(deferred(caller, &row, LastCall::Known, why.into()));
            }
            ItemResult::Accepted | ItemResult::Exists | ItemResult::Unknown => sent.push(row),
        }
    }
    record(caller, events).await?;
    let absent = read_back(caller, sent).await?;
    let put_off = absent
        .iter()
        .map(|row| deferred(caller, row, LastCall::Known, RecordTrouble::NotHeld));
    record(caller, put_off.collect()).await
}

/// What came of reading a record back.
enum Read {
    /// The service does not hold it.
    Absent(Row),
    /// It does, and it must be enabled, disabled or deleted yet.
    ToChange(Row, Held),
    /// It is settled, refused or put off with this event.
    Ended(Event),
}

/// Settles each record by what the service holds; gives back those that it does not hold at all.
async fn read_back(caller: &Caller<'_>, rows: Vec<Row>) -> Result<Vec<Row>, Fault> {
    let mut absent = Vec::new();
    let mut to_change = Vec::new();
    let mut events = Vec::new();
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let wanted = count(rows.len().min(CALLS));
        let _permits = permits(caller, wanted).await;
        let (operations, ticket) = caller.charge_some(wanted).await?;
        let together = rows.by_ref().take(operations as usize);
        for read in join_all(together.map(|row| read(caller, row, ticket))).await {
            match read? {
                Read::Absent(row) => absent.push(row),
                Read::ToChange(row, held) => to_change.push((row, held)),
                Read::Ended(event) => events.push(event),
            }
        }
    }
    record(caller, events).await?;
    for (row, held) in to_change {
        match row.ordered {
            Some(Order::Delete) => delete(caller, &row, &held).await?,
            _ => set_status(caller, &row, &held).await?,
        }
    }
    Ok(absent)
}

/// Reads one record back, charged before.
async fn read(caller: &Caller<'_>, row: Row, ticket: Ticket) -> Result<Read, Fault> {
    let dps = caller.dps;
    let mut ticket = ticket;
    for again in (0..READ_TRIES).rev() {
        let get = || dps.get(&row.enrollment.registration_id);
        let error = match caller.call(ticket, 1, get).await? {
            Ok(None) => return Ok(Read::Absent(row)),
            Ok(Some(held)) => return Ok(judged(caller, row, held)),
            Err(DpsError::Refused(complaint)) if is_about_content(&complaint) => {
                return Ok(Read::Ended(refused(caller, &row, complaint.into())));
            }
            Err(error @ DpsError::Refused(_)) => return Err(dps.fault(&error)),
            Err(error) => error,
        };
        if again == 0 {
            return Ok(Read::Ended(deferred(
                caller,
                &row,
                LastCall::Unknown,
                error.into(),
            )));
        }
        (_, ticket) = caller.charge_some(1).await?;
    }
    unreachable!("the last try ends it")
}

fn judged(caller: &Caller<'_>, row: Row, held: Held) -> Read {
    match compare(&row.enrollment, row.wanted, &held) {
        // Whatever else it says: it is for this key, and a person wants it gone.
        Comparison::Settled | Comparison::ToDisable if row.ordered == Some(Order::Delete) => {
            Read::ToChange(row, held)
        }
        Comparison::DisabledThere if row.ordered == Some(Order::Enable) => {
            Read::ToChange(row, held)
        }
        Comparison::Settled | Comparison::DisabledThere => Read::Ended(settled(caller, &row, held)),
        Comparison::ToDisable => Read::ToChange(row, held),
        Comparison::Foreign(found) => {
            Read::Ended(refused(caller, &row, RecordTrouble::Foreign(found)))
        }
    }
}

/// Disables our own record, or enables it, unless it changes in the meantime, there or here.
async fn set_status(caller: &Caller<'_>, row: &Row, held: &Held) -> Result<(), Fault> {
    let _permit = permits(caller, 1).await;
    let dps = caller.dps;
    let (rows, ticket) = caller.charge_sending(vec![row.clone()]).await?;
    if rows.is_empty() {
        return Ok(());
    }
    let replace = || dps.set_status(&row.enrollment, held, row.wanted);
    let put_off = |why| deferred(caller, row, LastCall::Unknown, why);
    match caller.call_sending(ticket, &rows, replace).await? {
        None => return Ok(()),
        Some(Err(error)) => return record(caller, vec![put_off(error.into())]).await,
        Some(Ok(_)) => {}
    }
    let (_, ticket) = caller.charge_some(1).await?;
    let get = || dps.get(&row.enrollment.registration_id);
    let event = match caller.call(ticket, 1, get).await? {
        Ok(Some(held)) if held.status == row.wanted => settled(caller, row, held),
        Ok(_) => put_off(RecordTrouble::NotDisabled),
        Err(error) => put_off(error.into()),
    };
    record(caller, vec![event]).await
}

/// Deletes our own record, unless it changes in the meantime, there or here.
async fn delete(caller: &Caller<'_>, row: &Row, held: &Held) -> Result<(), Fault> {
    let _permit = permits(caller, 1).await;
    let dps = caller.dps;
    let (rows, ticket) = caller.charge_sending(vec![row.clone()]).await?;
    if rows.is_empty() {
        return Ok(());
    }
    let id = &row.enrollment.registration_id;
    let put_off = |why| deferred(caller, row, LastCall::Unknown, why);
    let delete = || dps.delete(id, held);
    match caller.call_sending(ticket, &rows, delete).await? {
        None => return Ok(()),
        Some(Err(error)) => return record(caller, vec![put_off(error.into())]).await,
        Some(Ok(_)) => {}
    }
    let (_, ticket) = caller.charge_some(1).await?;
    let event = match caller.call(ticket, 1, || dps.get(id)).await? {
        Ok(None) => deleted(row),
        Ok(Some(_)) => put_off(RecordTrouble::NotDeleted),
        Err(error) => put_off(error.into()),
    };
    record(caller, vec![event]).await
}

fn deleted(row: &Row) -> Event {
    Event::EnrollmentDeleted {
        registration_id: row.enrollment.registration_id.clone(),
    }
}

/// The right to so many calls in flight.
async fn permits<'c>(caller: &'c Caller<'_>, calls: u32) -> SemaphorePermit<'c> {
    let permits = caller.calls.acquire_many(calls).await;
    permits.expect("the semaphore lives as long as the run")
}

/// Puts on record in one commit what came of records. What the ledger does not take of one of them puts that one off, and
/// holds up no other.
async fn record(caller: &Caller<'_>, mut events: Vec<Event>) -> Result<(), Fault> {
    while let Err(no) = caller.try_record(events.clone()).await {
        let (LedgerError::Illegal(said), Some(id)) = (&no.error, answered(&events[no.place]))
        else {
            return Err(caller.end(no.error.into()));
        };
        // One that does not wait any more needs no answer either.
        match caller.ledger.outbox_of(&[id]).await?.pop().and_then(row) {
            Some(row) => {
                let why = RecordTrouble::Unrecorded(said.clone());
                events[no.place] = deferred(caller, &row, LastCall::Unknown, why);
            }
            None => drop(events.remove(no.place)),
        }
    }
    let (mut enrolled, mut disabled, mut refused) = (0, 0, 0);
    for event in &events {
        match event {
            Event::Enrolled { .. } => enrolled += 1,
            Event::EnrollmentDisabled { .. } | Event::EnrollmentDeleted { .. } => disabled += 1,
            Event::EnrollmentRefused { .. } => refused += 1,
            _ => {}
        }
    }
    let mut meter = caller.meter();
    meter.summary.enrolled += enrolled;
    meter.summary.disabled += disabled;
    meter.summary.refused += refused;
    if enrolled + disabled + refused > 0 {
        meter.settled = Instant::now();
    }
    Ok(())
}

/// The record that is settled by an event.
fn answered(event: &Event) -> Option<&RegistrationId> {
    match event {
        Event::Enrolled {
            registration_id, ..
        }
        | Event::EnrollmentDisabled { registration_id }
        | Event::EnrollmentDeleted { registration_id }
        | Event::EnrollmentRefused {
            registration_id, ..
        } => Some(registration_id),
        _ => None,
    }
}

/// What the service holds of ours: one that passed may be disabled there all the same.
fn settled(caller: &Caller<'_>, row: &Row, held: Held) -> Event {
    let registration_id = row.enrollment.registration_id.clone();
    let more = also_set(&row.enrollment, &held);
    let known = &mut caller.meter().summary.also_set;
    if !more.is_empty() && known.len() < ALSO_SET_LIMIT {
        known.push((registration_id.clone(), more));
    }
    match held.status {
        Status::Enabled => Event::Enrolled {
            registration_id,
            etag: held.etag,
        },
        Status::Disabled => Event::EnrollmentDisabled { registration_id },
    }
}

fn refused(caller: &Caller<'_>, row: &Row, why: RecordTrouble) -> Event {
    let registration_id = row.enrollment.registration_id.clone();
    Event::EnrollmentRefused {
        registration_id: registration_id.clone(),
        fault: Fault::EnrollmentRefused {
            dps: caller.dps.name().to_owned(),
            registration_id,
            why,
        },
    }
}

/// Puts off a record; the wait doubles with each time.
fn deferred(caller: &Caller<'_>, row: &Row, last_call: LastCall, why: RecordTrouble) -> Event {
    let registration_id = row.enrollment.registration_id.clone();
    let (dps, id) = (caller.dps.name().to_owned(), registration_id.clone());
    let fault = match last_call {
        LastCall::Known => Fault::EnrollmentDeferred {
            dps,
            registration_id: id,
            why,
        },
        LastCall::Unknown => Fault::EnrollmentUnanswered {
            dps,
            registration_id: id,
            why,
        },
    };
    Event::EnrollmentDeferred {
        registration_id,
        fault,
        next_try_ms: next_try_ms(caller.dps.now_ms(), row.tries),
    }
}
