//! The one writer thread: takes what is queued, commits it as one transaction, then answers each.

use super::failure::Failure;
use super::migrate;
use super::quota::{Charge, Decision, Room, Windows};
use super::store::{self, Pragmas};
use super::together::{Happened, Refused, Written};
use super::{Claim, LedgerError, Options, Reserved, chain, project};
use crate::provision::device::{DeviceId, RegistrationId};
use crate::provision::event::{Event, Recorded};
use crate::provision::person::Person;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use ulid::Ulid;

/// How many requests may wait for the writer; whoever comes later waits for room.
pub const QUEUE: usize = 256;

/// How many requests are committed as one transaction at most.
const BATCH: usize = 64;

/// What the writer can be asked.
pub enum Request {
    /// Record one event or several.
    Write(Box<Write>, Answer),
    /// Report the settings of the writer's connection.
    Pragmas(oneshot::Sender<Result<Pragmas, LedgerError>>),
    /// Move everything into the ledger's file, close it, and end.
    Close(oneshot::Sender<Result<(), LedgerError>>),
}

/// Where the outcome of a write goes.
type Answer = oneshot::Sender<Result<Written, Refused>>;

/// Events to be recorded together: all of them, or none.
pub struct Write {
    /// On whose behalf; what follows an identification is on behalf of the claim that it took.
    pub subject: Subject,
    /// The person who does it; none where the station acts by itself.
    pub person: Option<Arc<Person>>,
    /// What happened, in order; at least one, unless a charge is asked for.
    pub events: Vec<Happened>,
    /// The charge that is to be made if there is room for it; the station's.
    pub charge: Option<Charge>,
}

/// On whose behalf an event is recorded; it decides which events are possible.
#[derive(Clone)]
pub enum Subject {
    /// An attempt that has no claim: arrival, identification, an end without a verdict.
    Attempt(Ulid),
    /// A job that holds the claim on its device.
    Claim(Claim),
    /// The station: shifts, charges, enrollment, signatures that are for no device.
    Station,
}

/// The writer's side of the ledger.
pub struct Writer {
    db: Connection,
    path: PathBuf,
    station: String,
    clock: fn() -> i64,
    windows: Windows,
}

impl Writer {
    /// Opens the file and takes it over.
    pub fn open(options: &Options) -> Result<Self, LedgerError> {
        Ok(Self {
            db: migrate::open_writer(options)?,
            path: options.path.clone(),
            station: options.station.clone(),
            clock: options.clock,
            windows: Windows::default(),
        })
    }

    /// Serves requests until it is told to close or nobody can ask any more.
    pub fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut next = Some(first);
            let mut batch = Vec::new();
            while let Some(Request::Write(write, answer)) = next {
                batch.push((write, answer));
                next = (batch.len() < BATCH)
                    .then(|| requests.try_recv().ok())
                    .flatten();
            }
            self.commit(batch);
            // An asker that has gone no longer wants its answer.
            match next {
                Some(Request::Pragmas(answer)) => {
                    let pragmas = store::pragmas(&self.db);
                    let _ = answer.send(pragmas.map_err(|e| Failure::from(e).at(&self.path)));
                }
                Some(Request::Close(answer)) => {
                    requests.close();
                    let _ = answer.send(self.close());
                    return;
                }
                Some(Request::Write(..)) | None => {}
            }
        }
    }

    /// Commits `batch` as one transaction, each write in a savepoint of its own, then answers.
    ///
    /// Where the disk is full, the writes are tried once more one by one: one that is too large fails alone.
    fn commit(&mut self, batch: Vec<(Box<Write>, Answer)>) {
        let outcomes = match self.write_all(batch.iter().map(|(write, _)| write.as_ref())) {
            Ok(outcomes) => outcomes,
            Err(LedgerError::Full { .. }) if batch.len() > 1 => batch
                .iter()
                .map(|(write, _)| {
                    let mut alone = self.write_all(std::iter::once(write.as_ref()))?;
                    alone.pop().expect("one outcome for each write")
                })
                .collect(),
            Err(error) => batch.iter().map(|_| Err(error.clone().into())).collect(),
        };
        for ((_, answer), outcome) in batch.into_iter().zip(outcomes) {
            let _ = answer.send(outcome);
        }
    }

    /// One transaction. What the file is at fault for fails all of it; what a write is at fault for is its outcome.
    fn write_all<'a>(
        &mut self,
        writes: impl Iterator<Item = &'a Write>,
    ) -> Result<Vec<Result<Written, Refused>>, LedgerError> {
        let outcomes = self.transact(writes);
        let whole = |outcomes: &Vec<Result<_, _>>| outcomes.iter().all(Result::is_ok);
        if !outcomes.as_ref().is_ok_and(whole) {
            self.windows.clear(); // what was counted may not be on record
        }
        outcomes
    }

    fn transact<'a>(
        &mut self,
        writes: impl Iterator<Item = &'a Write>,
    ) -> Result<Vec<Result<Written, Refused>>, LedgerError> {
        let (station, clock, path) = (&self.station, self.clock, &self.path);
        let windows = &mut self.windows;
        let at = |error: rusqlite::Error| Failure::from(error).at(path);
        let mut transaction = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(at)?;
        store::refuse_newer(&transaction, path).map_err(|e| e.at(path))?;
        let mut outcomes: Vec<Result<Written, _>> = Vec::new();
        for write in writes {
            let savepoint = transaction.savepoint().map_err(at)?;
            match record_all(&savepoint, write, station, clock, windows) {
                Ok(written) => {
                    savepoint.commit().map_err(at)?;
                    outcomes.push(Ok(written));
                }
                Err((_, failure)) if failure.is_of_file() => return Err(failure.at(path)),
                Err((place, failure)) => {
                    savepoint.finish().map_err(at)?;
                    let error = failure.at(path);
                    outcomes.push(Err(Refused { error, place }));
                }
            }
        }
        transaction.commit().map_err(at)?;
        for written in outcomes.iter_mut().flatten() {
            written.reserved = written.recorded.last().and_then(Reserved::committed);
        }
        Ok(outcomes)
    }

    fn close(self) -> Result<(), LedgerError> {
        let path = self.path;
        // With another process still reading, its last reader moves the rest; nothing is lost.
        let moved = self
            .db
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        let closed = self.db.close().map_err(|(_, error)| error);
        moved
            .and(closed)
            .map_err(|error| Failure::from(error).at(&path))
    }
}

/// Records all of a write; else the place of the event that could not be, and why.
fn record_all(
    db: &Connection,
    write: &Write,
    station: &str,
    clock: fn() -> i64,
    windows: &mut Windows,
) -> Result<Written, (usize, Failure)> {
    let person = write.person.as_deref();
    let mut subject = write.subject.clone();
    let mut written = Written::default();
    let mut events = write.events.clone();
    if let Some(charge) = &write.charge {
        let now_ms = clock();
        let decision = windows.decide(db, charge, now_ms);
        let (room, event) = decided(charge, decision.map_err(|failure| (0, failure))?);
        written.room = Some(room);
        events.extend(event.map(|event| Happened {
            at_ms: Some(now_ms),
            product_digest: None,
            event,
        }));
    }
    for (place, happened) in events.iter().enumerate() {
        let blank = Recorded {
            seq: 0,
            at_ms: happened.at_ms.unwrap_or_else(clock),
            station: station.to_owned(),
            operator: person.map(|person| person.name().to_owned()),
            attempt: None,
            device: None,
            product_digest: happened.product_digest,
            because: person.and_then(Person::reason).map(str::to_owned),
            event: happened.event.clone(),
        };
        let recorded = record(db, &subject, blank).map_err(|failure| (place, failure))?;
        if let Some(claim) = claim_of(db, &recorded).map_err(|failure| (place, failure))? {
            subject = Subject::Claim(claim.clone());
            written.claim = Some(claim);
        }
        written.recorded.push(recorded);
    }
    Ok(written)
}

/// What is answered to a charge that was decided on, and what of it goes on record.
fn decided(asked: &Charge, decision: Decision) -> (Room, Option<Event>) {
    let charged = |operations, sending| Event::Charged {
        dps: asked.dps.clone(),
        operations,
        sending,
    };
    match decision {
        Decision::Charge {
            operations,
            sending,
            set_back_ms,
        } => {
            let event = (operations > 0).then(|| charged(operations, sending.clone()));
            let room = Room::Made {
                operations,
                sending,
                set_back_ms,
            };
            (room, event)
        }
        Decision::Wait { room, set_back } => (room, set_back.then(|| charged(0, Vec::new()))),
    }
}

/// Appends one event to the chain and lets it take effect.
fn record(db: &Connection, subject: &Subject, mut event: Recorded) -> Result<Recorded, Failure> {
    match subject {
        Subject::Attempt(attempt) => {
            event.device = device_of_attempt(db, *attempt, &event.event)?;
            event.attempt = Some(*attempt);
        }
        Subject::Claim(claim) => {
            check_claim(db, claim, &event.event)?;
            event.attempt = Some(claim.attempt);
            event.device = Some(claim.device.clone());
        }
        Subject::Station => event.device = device_of_enrollment(db, &event.event)?,
    }
    let recorded = chain::append(db, event)?;
    project::apply(db, &recorded)?;
    Ok(recorded)
}

/// The claim that an event took, if it is an identification.
fn claim_of(db: &Connection, recorded: &Recorded) -> Result<Option<Claim>, Failure> {
    Ok(
        match (&recorded.event, recorded.attempt, &recorded.device) {
            (Event::Identified { .. }, Some(attempt), Some(device)) => Some(Claim {
                attempt,
                device: device.clone(),
                fence: fence(db, device)?.1,
            }),
            _ => None,
        },
    )
}

fn wrong_place(event: &Event) -> Failure {
    Failure::illegal(format!("{} cannot be recorded here", event.kind()))
}

fn device_of_attempt(
    db: &Connection,
    attempt: Ulid,
    event: &Event,
) -> Result<Option<DeviceId>, Failure> {
    match event {
        Event::Arrived { .. } => Ok(None),
        Event::Identified { .. } => Ok(event.identified().cloned()),
        Event::IdCheckedOut { device_id, .. } => Ok(Some(device_id.clone())),
        Event::Interrupted { .. } => {
            let device: Option<Option<String>> = db
                .prepare_cached("SELECT device FROM attempt WHERE attempt = ?")?
                .query_row([attempt.to_string()], |row| row.get(0))
                .optional()?;
            parse_device(device.flatten())
        }
        _ => Err(wrong_place(event)),
    }
}

/// Refuses what is not for a job to record, a claim that was taken over, and an attempt that has ended.
fn check_claim(db: &Connection, claim: &Claim, event: &Event) -> Result<(), Failure> {
    match event {
        Event::Arrived { .. }
        | Event::Identified { .. }
        | Event::IdCheckedOut { .. }
        | Event::IdReturned { .. }
        | Event::LoopbackTested { .. }
        | Event::ShiftOpened { .. }
        | Event::ShiftClosed { .. }
        | Event::Listed(_)
        | Event::Charged { .. }
        | Event::ServiceBusy { .. }
        | Event::UploadPaused { .. }
        | Event::UploadResumed { .. }
        | Event::Enrolled { .. }
        | Event::EnrollmentRefused { .. }
        | Event::EnrollmentDisabled { .. }
        | Event::EnrollmentRetried { .. }
        | Event::EnrollmentOrdered { .. }
        | Event::EnrollmentDeleted { .. }
        | Event::EnrollmentDeferred { .. } => return Err(wrong_place(event)),
        _ => {}
    }
    let attempt = claim.attempt.to_string();
    if fence(db, &claim.device)? != (attempt.clone(), claim.fence) {
        return Err(Failure::Refused(LedgerError::Fenced {
            device: claim.device.clone(),
        }));
    }
    let open: bool = db
        .prepare_cached("SELECT ended_seq IS NULL FROM attempt WHERE attempt = ?")?
        .query_row([&attempt], |row| row.get(0))?;
    if !open {
        return Err(Failure::illegal(format!("attempt {attempt} has ended")));
    }
    Ok(())
}

/// The attempt that holds the claim on `device`, and its fence; an empty name and 0 where nobody ever held it.
fn fence(db: &Connection, device: &DeviceId) -> Result<(String, u32), Failure> {
    let held = db
        .prepare_cached("SELECT attempt, fence FROM claim WHERE device = ?")?
        .query_row(params![device.as_str()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    Ok(held.unwrap_or_default())
}

/// The device whose enrollment a station's event is about; `None` for events that are about no device.
fn device_of_enrollment(db: &Connection, event: &Event) -> Result<Option<DeviceId>, Failure> {
    match event {
        Event::LoopbackTested { .. }
        | Event::ShiftOpened { .. }
        | Event::ShiftClosed { .. }
        | Event::Charged { .. }
        | Event::ServiceBusy { .. }
        | Event::UploadPaused { .. }
        | Event::UploadResumed { .. }
        | Event::SerialReserved { .. }
        | Event::SerialAbandoned { .. }
        | Event::Signed { .. } => Ok(None),
        Event::IdReturned { device_id, .. } => Ok(Some(device_id.clone())),
        Event::Listed(listing) => Ok(Some(listing.enrollment.device_id.clone())),
        Event::Enrolled {
            registration_id, ..
        }
        | Event::EnrollmentRefused {
            registration_id, ..
        }
        | Event::EnrollmentDisabled { registration_id }
        | Event::EnrollmentDeleted { registration_id }
        | Event::EnrollmentOrdered {
            registration_id, ..
        }
        | Event::EnrollmentDeferred {
            registration_id, ..
        } => enrolled_device(db, registration_id).map(Some),
        Event::EnrollmentRetried { now, .. } => enrolled_device(db, &now.registration_id).map(Some),
        _ => Err(wrong_place(event)),
    }
}

/// The device whose record has this registration ID.
fn enrolled_device(db: &Connection, registration_id: &RegistrationId) -> Result<DeviceId, Failure> {
    let device: Option<String> = db
        .prepare_cached("SELECT device FROM outbox WHERE registration_id = ?")?
        .query_row([registration_id.as_str()], |row| row.get(0))
        .optional()?;
    parse_device(device)?.ok_or_else(|| super::outbox::missing(registration_id))
}

fn parse_device(text: Option<String>) -> Result<Option<DeviceId>, Failure> {
    text.as_deref()
        .map(DeviceId::parse)
        .transpose()
        .map_err(|error| Failure::Damaged(error.to_string()))
}
