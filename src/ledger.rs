//! The ledger: append-only, hash-chained events in SQLite, with one writer thread.
//!
//! `events` is the record. All other tables are projections of it, changed in the event's own transaction; [`verify()`]
//! rebuilds and compares them. An event is durable (WAL, `synchronous=FULL`) before its writer is answered. The hash
//! of an event is specified at [`hash`].
//!
//! # Why so
//!
//! - **Events, and nothing else, are the record.** Tables can then be dropped and made anew when their form changes, as
//!   happens to a ledger of an older version when it is opened, and recovery after a kill is the same code as ordinary
//!   work.
//! - **A version for each kind of event, and one for the ledger.** What is stored is never rewritten, since the hash is
//!   over the stored bytes: an older body is lifted when it is read ([`stored`](crate::provision::event::stored)). The
//!   ledger's version (`PRAGMA user_version`) goes up with any of them, so that an older program refuses the file in
//!   one sentence and does not take a newer event for damage.
//! - **SQLite, built in.** The line needs durable commits, unique identities and a file that can be carried; it does
//!   not need a server that can be down. Debian 12's SQLite is too old for rusqlite, and the bundled one is the same on
//!   every station. Migrations need no crate: they are a replay.
//! - **Few commits a device.** A sync costs milliseconds, and a device has fourteen events. Those between which lie only
//!   effects that may safely be done again become durable together ([`Ledger::append_all`]), each with the time at
//!   which it happened: a commit before each signature and each write to the device, and none more. What is on record is
//!   therefore in the order in which it was committed; between two bays, the times need not be.
//! - **One writer thread, which syncs every commit.** What waits in its queue shares a commit. The head of the chain is
//!   read inside each write transaction and never kept, because `enroll` and `shift` may write while `run` does.

mod allocation;
mod chain;
mod claim;
mod credential;
mod error;
mod failure;
mod identity;
mod listed;
mod lookout;
mod migrate;
mod outbox;
mod project;
mod quota;
mod read;
mod reserved;
mod sql;
mod store;
mod tally;
mod together;
mod turn;
mod upload;
mod verify;
mod wal;
mod writer;

pub use allocation::{AllocationRow, AllocationState};
pub use chain::{GENESIS, hash};
pub use claim::Claim;
pub use error::LedgerError;
pub use listed::ListedCounts;
pub use lookout::Lookout;
pub use outbox::OutboxState;
pub use quota::{CALL_MARGIN_MS, Charge, Room, Sending};
pub use read::{
    OpenAttempt, OutboxCounts, OutboxFilter, OutboxRow, ReservationRow, ReservationState, Shift,
    ShiftStanding, Standing, UnitRow,
};
pub use reserved::Reserved;
pub use store::{
    APPLICATION_ID, Migration, Options, Pragmas, beside, station_lock, station_lock_path,
};
pub use together::{Happened, Refused, Written};
pub use turn::Turn;
pub use verify::{Damage, Place, Report, verify};

use crate::provision::bytes::{Blob, Digest};
use crate::provision::device::{DeviceId, RegistrationId};
use crate::provision::event::{Balance, Event, Listing, Recorded};
pub use crate::provision::fault::IdentityKind;
use crate::provision::list::OnRecord;
use crate::provision::naming::IdFormat;
use crate::provision::person::Person;
use failure::Failure;
use rusqlite::Connection;
use rusqlite::backup::Progress;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use ulid::Ulid;
use writer::{Request, Subject, Write, Writer};

/// How long to wait for the writer's answer, its queue included.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A handle on an open ledger; clones share its writer.
#[derive(Clone, Debug)]
pub struct Ledger {
    path: Arc<Path>,
    queue: mpsc::Sender<Request>,
    /// Whose writes these are; none where the station acts by itself.
    person: Option<Arc<Person>>,
}

impl Ledger {
    /// Opens the ledger, makes it where it is not there, and starts its writer.
    ///
    /// The tables of a ledger of an older version are made anew from its events first, which takes about a minute for
    /// 50,000 devices; no other process can write meanwhile.
    ///
    /// # Errors
    /// A file that is no ledger, is another station's or a newer program's, or is damaged is left as it is.
    pub fn open(options: Options) -> Result<Self, LedgerError> {
        let writer = Writer::open(&options)?;
        let (queue, requests) = mpsc::channel(writer::QUEUE);
        std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || writer.run(requests))
            .map_err(|error| LedgerError::Storage {
                path: options.path.clone(),
                reason: error.to_string(),
            })?;
        Ok(Self {
            path: options.path.into(),
            queue,
            person: None,
        })
    }

    /// A handle whose writes are this person's, with their reason.
    #[must_use]
    pub fn by(&self, person: &Person) -> Self {
        Self {
            person: Some(Arc::new(person.clone())),
            ..self.clone()
        }
    }

    /// Moves everything into the ledger's file and closes it, for all handles.
    pub async fn close(self) -> Result<(), LedgerError> {
        self.ask(Request::Close).await
    }

    /// Opens `attempt` with [`Event::Arrived`].
    pub async fn arrive(&self, attempt: Ulid, event: &Event) -> Result<Recorded, LedgerError> {
        self.write_one(Subject::Attempt(attempt), None, event).await
    }

    /// Gives a device ID to the unit that `attempt` waits for, with [`Event::IdCheckedOut`].
    ///
    /// [`LedgerError::Taken`]: another unit has it. [`LedgerError::Duplicate`]: this one has another.
    pub async fn check_out(&self, attempt: Ulid, event: &Event) -> Result<Recorded, LedgerError> {
        self.write_one(Subject::Attempt(attempt), None, event).await
    }

    /// Binds `attempt` to a device with [`Event::Identified`], and takes the claim on it from whoever holds it.
    ///
    /// [`LedgerError::Duplicate`]: the microcontroller was seen as another device. [`LedgerError::Taken`]: the ID that is
    /// assigned to it is another unit's. Nothing is recorded.
    pub async fn identify(
        &self,
        attempt: Ulid,
        event: &Event,
    ) -> Result<(Claim, Recorded), LedgerError> {
        let written = self.write(Subject::Attempt(attempt), None, event).await?;
        let illegal = || LedgerError::Illegal(format!("{} identifies nothing", event.kind()));
        let claim = written.claim.ok_or_else(illegal)?;
        Ok((claim, only(written.recorded)))
    }

    /// Ends `attempt`, whether it has a device or not, with [`Event::Interrupted`].
    pub async fn end_attempt(&self, attempt: Ulid, event: &Event) -> Result<Recorded, LedgerError> {
        self.write_one(Subject::Attempt(attempt), None, event).await
    }

    /// Records what happened to the device of `claim`. A reservation that is to be signed goes through
    /// [`Self::append_all`], as the last of its commit; one that is recorded here can only be given up.
    ///
    /// A verdict, [`Event::Recognised`] and [`Event::Interrupted`] end the attempt. Refused with
    /// [`LedgerError::Fenced`] after the claim was taken over, with [`LedgerError::Duplicate`] where another live
    /// device has the identity, with [`LedgerError::Illegal`] where it contradicts the record.
    pub async fn append(
        &self,
        claim: &Claim,
        product_digest: Option<Digest>,
        event: &Event,
    ) -> Result<Recorded, LedgerError> {
        let subject = Subject::Claim(claim.clone());
        self.write_one(subject, product_digest, event).await
    }

    /// Records the beginning of `attempt`: [`Event::Arrived`], and what follows it, in one commit; or nothing.
    ///
    /// What follows [`Event::Identified`] belongs to the claim that it takes, and is refused as by
    /// [`Ledger::append_all`].
    ///
    /// # Errors
    /// Those of [`Ledger::identify`], with the place of the event.
    pub async fn begin(&self, attempt: Ulid, events: &[Happened]) -> Result<Written, Refused> {
        let subject = Subject::Attempt(attempt);
        self.write_all(subject, events.to_vec()).await
    }

    /// Records what happened to the device of `claim` in one commit; all of it, or nothing.
    ///
    /// # Errors
    /// Those of [`Ledger::append`], with the place of the event.
    pub async fn append_all(&self, claim: &Claim, events: &[Happened]) -> Result<Written, Refused> {
        let subject = Subject::Claim(claim.clone());
        self.write_all(subject, events.to_vec()).await
    }

    /// Records what belongs to no attempt: device IDs that are given back, shifts, loopback tests, charges, enrollment results (their device is looked up), and
    /// signatures that are for no device.
    ///
    /// A definite result for a record that waits needs a charge that names it in `sending`. A result that was charged
    /// before the content changed is recorded, and the record stays to be sent.
    pub async fn record(&self, event: &Event) -> Result<Recorded, LedgerError> {
        self.write_one(Subject::Station, None, event).await
    }

    /// Records in one commit what belongs to no attempt; all of it, or nothing.
    ///
    /// # Errors
    /// Those of [`Ledger::record`], with the place of the event.
    pub async fn record_all(&self, events: Vec<Happened>) -> Result<Written, Refused> {
        self.write_all(Subject::Station, events).await
    }

    /// What is on record beside each line of a list, as of one moment.
    pub async fn on_record(&self, lines: Vec<Listing>) -> Result<Vec<OnRecord>, LedgerError> {
        self.read(move |db| {
            lines
                .iter()
                .map(|line| listed::on_record(db, line))
                .collect()
        })
        .await
    }

    /// How many records from lists stand where, of one DPS instance or of all.
    pub async fn listed(&self, dps: Option<&str>) -> Result<ListedCounts, LedgerError> {
        let dps = dps.map(str::to_owned);
        self.read(move |db| listed::counts(db, dps.as_deref()))
            .await
    }

    /// The settings of the writer's connection.
    pub async fn pragmas(&self) -> Result<Pragmas, LedgerError> {
        self.ask(Request::Pragmas).await
    }

    /// All events of `device`, in order.
    pub async fn events(&self, device: &DeviceId) -> Result<Vec<Recorded>, LedgerError> {
        let device = device.clone();
        self.read(move |db| read::events(db, &device)).await
    }

    /// At most `limit` events from place `from` on, in order.
    pub async fn all_events(&self, from: u64, limit: u32) -> Result<Vec<Recorded>, LedgerError> {
        self.read(move |db| read::all_events(db, from, limit)).await
    }

    /// The attempts that have not ended, oldest first: at start, those that a dead process left.
    pub async fn open_attempts(&self) -> Result<Vec<OpenAttempt>, LedgerError> {
        self.read(read::open_attempts).await
    }

    /// The ID that the unit with this microcontroller was given or is known by, whatever attempt that was in.
    pub async fn device_of_uid(&self, uid: &Blob) -> Result<Option<DeviceId>, LedgerError> {
        let uid = uid.clone();
        self.read(move |db| allocation::device_of_uid(db, &uid))
            .await
    }

    /// The smallest number of a format, `from` or greater, that was given back; else the one after the greatest that was
    /// ever given out.
    pub async fn next_number(&self, format: &IdFormat, from: u32) -> Result<u32, LedgerError> {
        let format = format.clone();
        self.read(move |db| allocation::next_number(db, &format, from))
            .await
    }

    /// All device IDs that were ever given out.
    pub async fn allocations(&self) -> Result<Vec<AllocationRow>, LedgerError> {
        self.read(allocation::allocations).await
    }

    /// All reservations, by serial number.
    pub async fn reservations(&self) -> Result<Vec<ReservationRow>, LedgerError> {
        self.read(read::reservations).await
    }

    /// The records of the outbox that `filter` lets through, those due longest first.
    pub async fn outbox(&self, filter: OutboxFilter) -> Result<Vec<OutboxRow>, LedgerError> {
        self.read(move |db| read::outbox(db, &filter)).await
    }

    /// The records of the outbox with these registration IDs, as far as there are any.
    pub async fn outbox_of(
        &self,
        registration_ids: &[&RegistrationId],
    ) -> Result<Vec<OutboxRow>, LedgerError> {
        let ids: Vec<_> = registration_ids.iter().copied().cloned().collect();
        self.read(move |db| read::outbox_of(db, &ids)).await
    }

    /// The records of `dps` that somebody disabled in the service, although their units passed.
    pub async fn disabled_though_passed(&self, dps: &str) -> Result<Vec<OutboxRow>, LedgerError> {
        let dps = dps.to_owned();
        self.read(move |db| read::disabled_though_passed(db, &dps))
            .await
    }

    /// How many records of the outbox for `dps` stand where.
    pub async fn outbox_counts(&self, dps: &str) -> Result<OutboxCounts, LedgerError> {
        let dps = dps.to_owned();
        self.read(move |db| read::outbox_counts(db, &dps)).await
    }

    /// The shift that is open, if any.
    pub async fn current_shift(&self) -> Result<Option<Shift>, LedgerError> {
        self.read(read::current_shift).await
    }

    /// A lookout for what anybody commits.
    pub fn lookout(&self) -> Lookout {
        Lookout::new(&self.path)
    }

    /// The balance of a shift, in units: of those that it found without a verdict and those that it saw first.
    ///
    /// What happened while no shift was open belongs to the next one. A closed shift has the verdicts given until it
    /// closed, and shows what became of these units since: where their enrollment stands now, and as failed what has
    /// failed after it passed.
    pub async fn balance(&self, shift: &str) -> Result<Balance, LedgerError> {
        let name = shift.to_owned();
        let balance = self.read(move |db| read::balance(db, &name)).await?;
        balance.ok_or_else(|| LedgerError::Illegal(format!("there is no shift {shift}")))
    }

    /// All units that were ever identified, by device ID.
    pub async fn units(&self) -> Result<Vec<UnitRow>, LedgerError> {
        self.read(read::units).await
    }

    /// Whether the bay is out of service because its last loopback test failed.
    pub async fn out_of_service(&self, bay: &str) -> Result<bool, LedgerError> {
        let bay = bay.to_owned();
        self.read(move |db| read::out_of_service(db, &bay)).await
    }

    /// Operations charged to this station's share of `dps` from `since_ms` (milliseconds since 1970) on.
    pub async fn operations_charged_since(
        &self,
        dps: &str,
        since_ms: i64,
    ) -> Result<u32, LedgerError> {
        let dps = dps.to_owned();
        self.read(move |db| read::operations_charged_since(db, &dps, since_ms))
            .await
    }

    /// Copies the ledger as it stands to the file `to`, while it is in use.
    pub async fn backup(&self, to: &Path) -> Result<(), LedgerError> {
        let to = to.to_path_buf();
        self.read(move |db| Ok(db.backup("main", to, None::<fn(Progress)>)?))
            .await
    }

    async fn write_one(
        &self,
        subject: Subject,
        product_digest: Option<Digest>,
        event: &Event,
    ) -> Result<Recorded, LedgerError> {
        let written = self.write(subject, product_digest, event).await?;
        Ok(only(written.recorded))
    }

    async fn write(
        &self,
        subject: Subject,
        product_digest: Option<Digest>,
        event: &Event,
    ) -> Result<Written, LedgerError> {
        let happened = Happened {
            at_ms: None,
            product_digest,
            event: event.clone(),
        };
        let written = self.write_all(subject, vec![happened]).await;
        written.map_err(|refused| refused.error)
    }

    async fn write_all(&self, subject: Subject, events: Vec<Happened>) -> Result<Written, Refused> {
        let write = Write {
            subject,
            person: self.person.clone(),
            events,
            charge: None,
        };
        self.ask(|answer| Request::Write(Box::new(write), answer))
            .await
    }

    async fn ask<T, E: From<LedgerError>>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Request,
    ) -> Result<T, E> {
        let closed = || {
            E::from(LedgerError::Closed {
                path: self.path.to_path_buf(),
            })
        };
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            let sent = self.queue.send(request(answer)).await;
            sent.map_err(|_| closed())?;
            answered.await.map_err(|_| closed())?
        };
        tokio::time::timeout(ANSWER_LIMIT, exchange)
            .await
            .unwrap_or_else(|_| {
                Err(E::from(LedgerError::Silent {
                    path: self.path.to_path_buf(),
                }))
            })
    }

    async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, LedgerError> {
        if self.queue.is_closed() {
            return Err(LedgerError::Closed {
                path: self.path.to_path_buf(),
            });
        }
        let path = Arc::clone(&self.path);
        let answer = tokio::task::spawn_blocking(move || {
            let db = store::open_reader(&path).map_err(Failure::from);
            db.and_then(|db| {
                store::refuse_newer(&db, &path)?;
                question(&db)
            })
            .map_err(|e| e.at(&path))
        });
        answer.await.unwrap_or_else(|error| {
            Err(LedgerError::Storage {
                path: self.path.to_path_buf(),
                reason: error.to_string(),
            })
        })
    }
}

/// The record of the one event that was written.
fn only(mut recorded: Vec<Recorded>) -> Recorded {
    recorded.pop().expect("what is written is recorded")
}
