//! Calls to the service: each charged before it is made, held back while the service does not answer, and made again
//! for as long as the run was told to try.

use super::gate::Gate;
use super::meter::{Away, Meter};
use super::waiting::sending;
use super::{Terms, count};
use crate::dps::{Dps, DpsError};
use crate::ledger::{CALL_MARGIN_MS, Charge, Happened, Ledger, Refused, Room, Sending};
use crate::provision::batch::Row;
use crate::provision::device::RegistrationId;
use crate::provision::event::Event;
use crate::provision::fault::{Complaint, Fault, UploadPaused};
use crate::provision::upload::Progress;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Calls in flight at most.
pub(super) const CALLS: usize = 10;
/// How often a wait looks whether it may end.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long a run waits for room in the share at least: charges leave it within about a minute, whoever made them.
const SHARE_LIMIT: Duration = Duration::from_secs(600);
/// How long a call that only reads leaves room for a batch that is to be sent: by then all that was charged before has
/// left the share, and reading has a right to some of it too.
const GIVE_WAY_MS: u64 = 62_000;
/// Longest that the service is left alone because it asked for it; then it is asked again.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(3_600);
/// Shortest such wait that goes on record, for other processes and for the time after a kill.
const RETRY_AFTER_RECORDED: Duration = Duration::from_secs(1);

/// One run's way to the service.
pub(super) struct Caller<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) dps: &'a Dps,
    pub(super) terms: &'a Terms,
    /// One permit for each call in flight.
    pub(super) calls: Semaphore,
    /// Whether it only reads: what a person paused is not that.
    only_reads: bool,
    gate: Mutex<Gate>,
    meter: Mutex<Meter>,
}

/// Calls that were charged and may be made.
#[derive(Clone, Copy)]
pub(super) struct Ticket {
    charged: Instant,
}

impl Ticket {
    /// Whether a call that arrives only now may be in another of the service's minutes than its charge.
    fn is_late(&self) -> bool {
        self.charged.elapsed().as_millis() >= CALL_MARGIN_MS.unsigned_abs().into()
    }
}

impl<'a> Caller<'a> {
    pub(super) fn new(ledger: &'a Ledger, dps: &'a Dps, terms: &'a Terms) -> Self {
        Self {
            ledger,
            dps,
            terms,
            calls: Semaphore::new(CALLS),
            only_reads: false,
            gate: Mutex::default(),
            meter: Mutex::new(Meter::new()),
        }
    }

    /// A way to the service on which nothing is sent that changes anything there.
    pub(super) fn to_read(ledger: &'a Ledger, dps: &'a Dps, terms: &'a Terms) -> Self {
        Self {
            only_reads: true,
            ..Self::new(ledger, dps, terms)
        }
    }

    pub(super) fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the upload stands, with what the ledger says of the outbox.
    pub(super) fn progress(&self, to_go: u32, refused: u32) -> Progress {
        let away = {
            let gate = self.gate();
            let trouble = gate.trouble.as_ref();
            gate.closed_until.map(|until| Away {
                until,
                since_ms: trouble.map_or_else(|| self.dps.now_ms(), |trouble| trouble.since_ms),
                fault: trouble.and_then(|trouble| trouble.fault.clone()),
            })
        };
        self.meter()
            .progress(to_go, refused, self.terms.share, away)
    }

    /// Ends the run: whatever waits comes back with `fault`.
    pub(super) fn end(&self, fault: Fault) -> Fault {
        self.gate().ended.get_or_insert(fault).clone()
    }

    /// Charges operations that send nothing, or as many of them as have room now: at least one.
    pub(super) async fn charge_some(&self, operations: u32) -> Result<(u32, Ticket), Fault> {
        let charge = Charge {
            fewer: true,
            ..self.charge_of(operations, Vec::new())
        };
        let (room, ticket) = self.charge(charge).await?;
        Ok((room.0, ticket))
    }

    /// Charges one operation for each record, on record as being sent from then on, and gives back those whose wanted
    /// content has not changed until then.
    pub(super) async fn charge_sending(&self, rows: Vec<Row>) -> Result<(Vec<Row>, Ticket), Fault> {
        let charge = self.charge_of(0, sending(&rows));
        let ((_, unchanged), ticket) = self.charge(charge).await?;
        let mut rows = rows;
        rows.retain(|row| unchanged.contains(&row.enrollment.registration_id));
        Ok((rows, ticket))
    }

    /// A charge; who only reads leaves room for a batch of an upload, which otherwise never found so much free at once.
    fn charge_of(&self, operations: u32, sending: Vec<Sending>) -> Charge {
        let batch = count(self.terms.most_at_once()).min(self.terms.share.saturating_sub(1));
        let leave = if self.only_reads { batch } else { 0 };
        Charge {
            dps: self.dps.name().to_owned(),
            share: self.terms.share,
            operations,
            only_reads: self.only_reads,
            fewer: false,
            leave,
            sending,
        }
    }

    /// Charges as soon as there is room and nothing holds up all calls; who only reads waits for no room while in trouble.
    async fn charge(
        &self,
        mut charge: Charge,
    ) -> Result<((u32, Vec<RegistrationId>), Ticket), Fault> {
        let limit = SHARE_LIMIT.max(self.terms.patience);
        let mut full_since: Option<(Instant, i64)> = None;
        loop {
            self.pass().await?;
            let ticket = Ticket {
                charged: Instant::now(),
            };
            let room = match self.ledger.charge(charge.clone()).await {
                Ok(room) => room,
                Err(error) => return Err(self.end(error.into())),
            };
            match room {
                Room::Made {
                    operations,
                    sending,
                    set_back_ms,
                } => {
                    self.note_charge(operations, set_back_ms);
                    return Ok(((operations, sending), ticket));
                }
                Room::Full(wait_ms) => {
                    if let Some(trouble) = self.standing_trouble().filter(|_| self.only_reads) {
                        return Err(trouble);
                    }
                    let now_ms = self.dps.now_ms();
                    let (since, since_ms) =
                        *full_since.get_or_insert_with(|| (Instant::now(), now_ms));
                    if since.elapsed() > limit {
                        let (dps, share) = (charge.dps, charge.share);
                        return Err(self.end(Fault::DpsShare { dps, share }));
                    }
                    if now_ms.abs_diff(since_ms) >= GIVE_WAY_MS {
                        charge.leave = 0;
                    }
                    self.wait_for_room(wait_ms).await;
                }
                Room::Busy(wait_ms) => self.leave_alone(wait_ms)?,
                Room::Paused { since_ms, by } => self.wait_for_person(since_ms, by).await?,
            }
        }
    }

    fn note_charge(&self, operations: u32, set_back_ms: Option<i64>) {
        let mut meter = self.meter();
        if meter.paused.is_some() {
            meter.settled = Instant::now(); // a pause costs no patience that comes after it
        }
        meter.charged(operations);
        if let Some(ms) = set_back_ms {
            meter.clock_set_back = Some(ms / 1_000);
        }
    }

    async fn wait_for_room(&self, wait_ms: i64) {
        let wait = Duration::from_millis(wait_ms.unsigned_abs());
        {
            let mut meter = self.meter();
            meter.quota = Some(Instant::now() + wait);
            meter.paused = None;
        }
        tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
    }

    /// The service asked an earlier run to be left alone, or another process.
    fn leave_alone(&self, wait_ms: i64) -> Result<(), Fault> {
        let wait = Duration::from_millis(wait_ms.unsigned_abs());
        if wait > self.terms.patience {
            let complaint = Complaint {
                status: None,
                code: None,
                message: format!("it asked to be left alone for {} s more", wait.as_secs()),
                tracking_id: String::new(),
            };
            return Err(self.end(Fault::DpsThrottled {
                dps: self.dps.name().to_owned(),
                url: self.dps.url().to_owned(),
                complaint: Box::new(complaint),
            }));
        }
        self.gate().close(wait);
        Ok(())
    }

    async fn wait_for_person(&self, since_ms: i64, by: Option<String>) -> Result<(), Fault> {
        let (noticed, begun) = {
            let mut meter = self.meter();
            let known = meter.paused.as_ref().map(|paused| paused.2);
            let noticed = known.unwrap_or_else(Instant::now);
            meter.paused = Some((by.clone(), since_ms, noticed));
            (noticed, meter.begun)
        };
        // Whoever begins while it is paused, and does not want to wait, is told at once.
        let waits = begun || self.terms.follow;
        if !waits || noticed.elapsed() > self.terms.patience {
            let dps = self.dps.name().to_owned();
            return Err(self.end(Fault::UploadPaused(UploadPaused { dps, by })));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        Ok(())
    }

    /// Waits until the service may be asked.
    async fn pass(&self) -> Result<(), Fault> {
        loop {
            let wait = {
                let gate = self.gate();
                if let Some(fault) = &gate.ended {
                    return Err(fault.clone());
                }
                let until = gate.closed_until;
                until.map_or(Duration::ZERO, |until| {
                    until.saturating_duration_since(Instant::now())
                })
            };
            if wait.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
        }
    }

    /// Makes a call that was charged, and again, charged anew, while the service is too busy or cannot be reached: it
    /// has done nothing then.
    ///
    /// What remains is the record's matter ([`DpsError::Refused`]), or says nothing about it ([`DpsError::Unknown`],
    /// [`DpsError::Malformed`]); all else, and trouble for longer than the run was told to try, ends the run.
    pub(super) async fn call<T, F>(
        &self,
        ticket: Ticket,
        operations: u32,
        make: impl Fn() -> F,
    ) -> Result<Result<T, DpsError>, Fault>
    where
        F: Future<Output = Result<T, DpsError>>,
    {
        let again = self.charge_of(operations, Vec::new());
        let answer = self.until_answered(ticket, again, make).await?;
        Ok(answer.expect("what sends nothing cannot change"))
    }

    /// The same for a call that sends `rows`; `None` where one of them changed before it was made (again): nothing came of
    /// it, and they are planned anew.
    pub(super) async fn call_sending<T, F>(
        &self,
        ticket: Ticket,
        rows: &[Row],
        make: impl Fn() -> F,
    ) -> Result<Option<Result<T, DpsError>>, Fault>
    where
        F: Future<Output = Result<T, DpsError>>,
    {
        let again = self.charge_of(count(rows.len()), sending(rows));
        self.until_answered(ticket, again, make).await
    }

    async fn until_answered<T, F>(
        &self,
        mut ticket: Ticket,
        again: Charge,
        make: impl Fn() -> F,
    ) -> Result<Option<Result<T, DpsError>>, Fault>
    where
        F: Future<Output = Result<T, DpsError>>,
    {
        let mut charged = true;
        loop {
            self.pass().await?;
            if !charged || ticket.is_late() {
                let ((_, unchanged), anew) = self.charge(again.clone()).await?;
                if unchanged.len() < again.sending.len() {
                    return Ok(None);
                }
                ticket = anew;
            }
            let began = Instant::now();
            let result = make().await;
            let arrived = !matches!(result, Err(DpsError::Unreachable(_)));
            if arrived && ticket.is_late() {
                self.charge_late(again.operations).await?;
            }
            match &result {
                Ok(_) | Err(DpsError::Refused(_)) => {
                    self.gate().trouble = None;
                    return Ok(Some(result));
                }
                Err(error @ (DpsError::Throttled { .. } | DpsError::Unreachable(_))) => {
                    self.trouble(began, error).await?;
                    charged = !arrived;
                }
                Err(error @ (DpsError::Unknown { .. } | DpsError::Malformed(_))) => {
                    self.trouble(began, error).await?;
                    return Ok(Some(result));
                }
                // The next has a new token.
                Err(DpsError::TokenRefused(_)) => charged = false,
                Err(error) => return Err(self.end(self.dps.fault(error))),
            }
        }
    }

    /// Charges and makes a call that only reads, and again until it has a usable answer.
    pub(super) async fn read<T, F>(&self, make: impl Fn() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, DpsError>>,
    {
        loop {
            let (_, ticket) = self.charge_some(1).await?;
            match self.call(ticket, 1, &make).await? {
                Ok(answer) => return Ok(answer),
                Err(DpsError::Unknown { .. } | DpsError::Malformed(_)) => {}
                Err(error) => return Err(self.dps.fault(&error)),
            }
        }
    }

    /// Charges a call whose answer came so late that it may have arrived long after its charge. There may be no room
    /// for that: it has been made.
    async fn charge_late(&self, operations: u32) -> Result<(), Fault> {
        let event = Event::Charged {
            dps: self.dps.name().to_owned(),
            operations,
            sending: Vec::new(),
        };
        self.meter().charged(operations);
        self.record(vec![event]).await
    }

    /// Puts events on record in one commit; else the run has ended.
    pub(super) async fn record(&self, events: Vec<Event>) -> Result<(), Fault> {
        let recorded = self.try_record(events).await;
        recorded.map_err(|refused| self.end(refused.error.into()))
    }

    /// The same; what speaks against it is told, and the run goes on.
    pub(super) async fn try_record(&self, events: Vec<Event>) -> Result<(), Refused> {
        if events.is_empty() {
            return Ok(());
        }
        let happened = events.into_iter().map(|event| Happened {
            at_ms: None,
            product_digest: None,
            event,
        });
        let recorded = self.ledger.record_all(happened.collect()).await;
        recorded.map(|_| ())
    }

    /// Takes note of a call in vain, and has the service left alone for a while.
    async fn trouble(&self, began: Instant, error: &DpsError) -> Result<(), Fault> {
        let asked = error
            .retry_after()
            .map(|asked| asked.min(RETRY_AFTER_LIMIT));
        let fault = self.dps.fault(error);
        let closed = {
            let mut gate = self.gate();
            gate.trouble(
                began,
                asked,
                fault.clone(),
                self.terms.patience,
                self.dps.now_ms(),
            )
        };
        if let Some(asked) = asked.filter(|asked| *asked >= RETRY_AFTER_RECORDED) {
            let busy = Event::ServiceBusy {
                dps: self.dps.name().to_owned(),
                pause_ms: u64::try_from(asked.as_millis()).unwrap_or(u64::MAX),
            };
            self.record(vec![busy]).await?;
        }
        match closed {
            true => Ok(()),
            false => Err(self.end(fault)),
        }
    }

    /// What has been wrong with the service since its last usable answer, if anything.
    pub(super) fn standing_trouble(&self) -> Option<Fault> {
        let gate = self.gate();
        let fault = gate.trouble.as_ref()?.fault.as_ref()?;
        Some((**fault).clone())
    }
}
