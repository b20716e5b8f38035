//! Drains the outbox into DPS: ten at a time, paced, resumable at any point.
//!
//! Dropping a future of this file is like a kill: what was charged and has no answer is read back first next time.

mod pace;
mod probe;
mod reconcile;
mod refusal;
mod retry;
mod waiting;

pub use probe::{READ_STATES, WRITE, missing_rights};
pub use reconcile::{Discrepancy, DiscrepancyKind, reconcile, survey};
pub use retry::{meant, retry};

use crate::dps::{Dps, DpsError};
use crate::ledger::Ledger;
use crate::provision::batch::{
    Batch, Difference, Held, ItemResult, Row, STATUS, Status, also_set, difference, next_try_ms,
    plan, read_answer, same_identity,
};
use crate::provision::device::RegistrationId;
use crate::provision::event::{Enrollment, Event};
use crate::provision::fault::{Fault, RecordTrouble};
use refusal::{is_about_content, refused_alone};
use std::time::Duration;
use waiting::{row, waiting};

/// Passes over the outbox in one run: with doubling waits, more than [`PATIENCE_MS`] allows.
const PASS_LIMIT: u32 = 20;
/// How long a run waits for a deferred record to be due again, in milliseconds.
const PATIENCE_MS: i64 = 60_000;
/// Calls in a row without a usable answer that end a run.
const SILENCE_LIMIT: u32 = 5;
/// Pause before a call that only reads is made again for want of a usable answer.
const SILENCE_PAUSE: Duration = Duration::from_millis(500);
/// Times that a call is made again because the service was too busy.
const BUSY_LIMIT: u32 = 5;
/// Pause before the first such repetition if the service names none; doubles with each.
const BUSY_PAUSE: Duration = Duration::from_secs(2);
/// Records of a run that are named with what someone else set in them.
const ALSO_SET_LIMIT: usize = 1_000;
/// Longest pause that the service may ask for within a run; beyond it, the run ends.
const BUSY_PAUSE_LIMIT: Duration = Duration::from_secs(600);

/// How a run over the outbox ended, in records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Read back with our content, in this run.
    pub enrolled: u32,
    /// Left to a person, in this run.
    pub refused: u32,
    /// Read back as disabled, in this run.
    pub disabled: u32,
    /// Still waiting, after at least one try.
    pub deferred: u32,
    /// Still waiting, without a try.
    pub pending: u32,
    /// Of those settled: what someone set in them in the cloud, of the first thousand where there is anything.
    pub also_set: Vec<(RegistrationId, Vec<Difference>)>,
    /// What ended the run early.
    pub fault: Option<Fault>,
}

impl Summary {
    /// Whether no record is left to a person or to a later run.
    pub fn all_settled(&self) -> bool {
        self.refused + self.deferred + self.pending == 0
    }
}

/// What a run would do with one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Create it.
    Create,
    /// Create it, or change it, as disabled.
    Disable,
    /// Note that the service holds it already.
    Confirm,
    /// Note that the service holds it already, and that someone disabled it there: it stays so.
    LeaveDisabled,
    /// Leave it to a person: the service holds something else under its registration ID.
    Refuse(Vec<Difference>),
}

/// Settles every record of the outbox that is due for `dps`, charging at most `share` operations in any minute.
///
/// A record that fails is deferred or refused, and the others go on. What stops the service as a whole ends the run
/// with a fault in the summary; nothing is lost then, and the next run resumes.
pub async fn drain(ledger: &Ledger, dps: &Dps, share: u32) -> Summary {
    let mut run = Run::new(ledger, dps, share);
    let ended = run.passes().await;
    run.summary.fault = ended.err();
    match waiting(ledger, dps).await {
        Ok(rows) => {
            let tried = rows.iter().filter(|row| row.tries > 0).count();
            run.summary.deferred = count(tried);
            run.summary.pending = count(rows.len() - tried);
        }
        Err(fault) => run.summary.fault = Some(fault),
    }
    run.summary
}

/// What [`drain`] would do with each waiting record, due or not. Reads from the service (charged), and writes nothing
/// to it.
///
/// # Errors
/// The fault that [`drain`] would end with.
pub async fn dry_run(
    ledger: &Ledger,
    dps: &Dps,
    share: u32,
) -> Result<Vec<(RegistrationId, Intent)>, Fault> {
    let mut run = Run::new(ledger, dps, share);
    let mut intents = Vec::new();
    for row in waiting(ledger, dps).await? {
        let id = &row.enrollment.registration_id;
        let intent = match run.read(|| dps.get(id)).await? {
            None if row.wanted == Status::Disabled => Intent::Disable,
            None => Intent::Create,
            Some(held) => match compare(&row.enrollment, row.wanted, &held) {
                Comparison::Settled => Intent::Confirm,
                Comparison::DisabledThere => Intent::LeaveDisabled,
                Comparison::ToDisable => Intent::Disable,
                Comparison::Foreign(found) => Intent::Refuse(found),
            },
        };
        intents.push((id.clone(), intent));
    }
    Ok(intents)
}

/// What a record that was read back means.
enum Comparison {
    /// The service holds what is wanted.
    Settled,
    /// The same, but that someone disabled it there.
    DisabledThere,
    /// It is our record, and it must be disabled yet.
    ToDisable,
    /// It is not our record.
    Foreign(Vec<Difference>),
}

fn compare(ours: &Enrollment, wanted: Status, held: &Held) -> Comparison {
    let same_key = same_identity(&ours.identity, &held.attestation);
    let found = difference(ours, wanted, held);
    match (wanted, held.status) {
        // Whatever else it says, it is for this key, and the key cannot register with it.
        (Status::Disabled, Status::Disabled) if same_key => Comparison::Settled,
        (Status::Disabled, Status::Enabled) if same_key => Comparison::ToDisable,
        _ => match &found[..] {
            [] => Comparison::Settled,
            [only] if only.field == STATUS => Comparison::DisabledThere,
            _ => Comparison::Foreign(found),
        },
    }
}

/// One run: what it needs, and what came of it so far.
struct Run<'a> {
    ledger: &'a Ledger,
    dps: &'a Dps,
    share: u32,
    summary: Summary,
    /// Calls without a usable answer since the last one with.
    silent: u32,
}

impl<'a> Run<'a> {
    fn new(ledger: &'a Ledger, dps: &'a Dps, share: u32) -> Self {
        Self {
            ledger,
            dps,
            share,
            summary: Summary::default(),
            silent: 0,
        }
    }

    async fn passes(&mut self) -> Result<(), Fault> {
        for _ in 0..PASS_LIMIT {
            let rows = waiting(self.ledger, self.dps).await?;
            let now_ms = self.dps.now_ms();
            let Some(first_ms) = rows.iter().map(|row| row.next_try_ms).min() else {
                return Ok(());
            };
            let wait_ms = first_ms.saturating_sub(now_ms);
            if wait_ms > PATIENCE_MS {
                return Ok(());
            }
            // Negative for what is due already.
            if let Ok(wait_ms @ 1..) = u64::try_from(wait_ms) {
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                continue;
            }
            for batch in plan(&rows, now_ms, self.share) {
                self.settle(&batch).await?;
            }
        }
        Ok(())
    }

    async fn settle(&mut self, batch: &Batch<'_>) -> Result<(), Fault> {
        let rows = match batch.read_first {
            true => {
                let rows = self.reopened(&batch.rows).await?;
                self.read_back(&rows).await?
            }
            false => batch.rows.clone(),
        };
        let rows = self.charge_sending(&rows).await?;
        match self.send(&rows).await? {
            Some(outcomes) => self.finish(&rows, outcomes).await,
            None => {
                for row in rows {
                    let alone = self.charge_sending(&[row]).await?;
                    if let Some(outcomes) = self.send(&alone).await? {
                        self.finish(&alone, outcomes).await?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Rows whose answer may be recorded: the ledger takes none without a call on record, and that of a row which was
    /// deferred ended so.
    async fn reopened<'r>(&mut self, rows: &[&'r Row]) -> Result<Vec<&'r Row>, Fault> {
        match rows.iter().all(|row| row.tries == 0) {
            true => Ok(rows.to_vec()),
            false => self.charge_sending(rows).await,
        }
    }

    /// Charges one operation for each record, on record as being sent from then on, and gives those back whose wanted
    /// content has not changed until then. An answer about the others would be taken for one about the new content.
    async fn charge_sending<'r>(&mut self, rows: &[&'r Row]) -> Result<Vec<&'r Row>, Fault> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = rows.iter().map(|r| &r.enrollment.registration_id).collect();
        self.charge(count(rows.len()), &ids).await?;
        let now = self.ledger.outbox_of(&ids).await?;
        let now: Vec<Row> = now.into_iter().filter_map(row).collect();
        let unchanged = |row: &&Row| {
            now.iter()
                .any(|now| now.wanted == row.wanted && now.enrollment == row.enrollment)
        };
        Ok(rows.iter().copied().filter(unchanged).collect())
    }

    /// Sends records, charged before, in one call and says what became of each; `None` if the service refused several
    /// as a whole, which may be the fault of one of them.
    async fn send(&mut self, rows: &[&Row]) -> Result<Option<Vec<ItemResult>>, Fault> {
        if rows.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let dps = self.dps;
        let ids: Vec<_> = rows.iter().map(|r| &r.enrollment.registration_id).collect();
        let content: Vec<_> = rows.iter().map(|r| (&r.enrollment, r.wanted)).collect();
        let operations = count(rows.len());
        Ok(
            match self.call(operations, || dps.create(&content)).await? {
                Ok(answer) => Some(read_answer(&ids, &answer)),
                Err(DpsError::Refused(complaint)) if is_about_content(&complaint) => {
                    (rows.len() == 1).then(|| vec![refused_alone(&complaint)])
                }
                Err(error @ DpsError::Refused(_)) => return Err(dps.fault(&error)),
                Err(_) => Some(vec![ItemResult::Unknown; rows.len()]),
            },
        )
    }

    /// Settles records that were sent. None is believed without being read back.
    async fn finish(&mut self, rows: &[&Row], outcomes: Vec<ItemResult>) -> Result<(), Fault> {
        let mut sent = Vec::new();
        for (row, outcome) in rows.iter().zip(outcomes) {
            match outcome {
                ItemResult::Refused(why) => self.refuse(row, why.into()).await?,
                ItemResult::Deferred(why) => self.defer(row, LastCall::Known, why.into()).await?,
                ItemResult::Accepted | ItemResult::Exists | ItemResult::Unknown => sent.push(*row),
            }
        }
        for row in self.read_back(&sent).await? {
            self.defer(row, LastCall::Known, RecordTrouble::NotHeld)
                .await?;
        }
        Ok(())
    }

    /// Settles each record by what the service holds; gives back those that it does not hold at all.
    async fn read_back<'r>(&mut self, rows: &[&'r Row]) -> Result<Vec<&'r Row>, Fault> {
        let mut absent = Vec::new();
        if rows.is_empty() {
            return Ok(absent);
        }
        let dps = self.dps;
        self.charge(count(rows.len()), &[]).await?;
        for &row in rows {
            let id = &row.enrollment.registration_id;
            match self.call(1, || dps.get(id)).await? {
                Ok(None) => absent.push(row),
                Ok(Some(held)) => match compare(&row.enrollment, row.wanted, &held) {
                    Comparison::Settled | Comparison::DisabledThere => {
                        self.settled(row, held).await?;
                    }
                    Comparison::ToDisable => self.disable(row, &held).await?,
                    Comparison::Foreign(found) => {
                        self.refuse(row, RecordTrouble::Foreign(found)).await?;
                    }
                },
                Err(DpsError::Refused(complaint)) if is_about_content(&complaint) => {
                    self.refuse(row, complaint.into()).await?;
                }
                Err(error @ DpsError::Refused(_)) => return Err(dps.fault(&error)),
                Err(error) => self.defer(row, LastCall::Unknown, error.into()).await?,
            }
        }
        Ok(absent)
    }

    /// Disables our own record, unless it changes in the meantime, there or here.
    async fn disable(&mut self, row: &Row, held: &Held) -> Result<(), Fault> {
        let dps = self.dps;
        if self.charge_sending(&[row]).await?.is_empty() {
            return Ok(());
        }
        let disable = || dps.set_status(&row.enrollment, held, Status::Disabled);
        if let Err(error) = self.call(1, disable).await? {
            return self.defer(row, LastCall::Unknown, error.into()).await;
        }
        self.charge(1, &[]).await?;
        let read = || dps.get(&row.enrollment.registration_id);
        match self.call(1, read).await? {
            Ok(Some(held)) if held.status == Status::Disabled => self.settled(row, held).await,
            Ok(_) => {
                self.defer(row, LastCall::Unknown, RecordTrouble::NotDisabled)
                    .await
            }
            Err(error) => self.defer(row, LastCall::Unknown, error.into()).await,
        }
    }

    /// Makes a call whose first try the caller has charged, and again while the service is too busy.
    ///
    /// What remains is the record's matter ([`DpsError::Refused`]), or says nothing about it
    /// ([`DpsError::Unknown`], [`DpsError::Malformed`]); all else, and lasting silence, ends the run.
    async fn call<T, F>(
        &mut self,
        operations: u32,
        make: impl Fn() -> F,
    ) -> Result<Result<T, DpsError>, Fault>
    where
        F: Future<Output = Result<T, DpsError>>,
    {
        let mut repetition = 0;
        loop {
            let result = make().await;
            match &result {
                Err(error @ DpsError::Throttled { .. }) => {
                    let pause = error
                        .retry_after()
                        .unwrap_or(BUSY_PAUSE * (1 << repetition));
                    if repetition == BUSY_LIMIT || pause > BUSY_PAUSE_LIMIT {
                        return result.map(Ok).map_err(|error| self.dps.fault(&error));
                    }
                    repetition += 1;
                    tokio::time::sleep(pause).await;
                    self.charge(operations, &[]).await?;
                }
                Err(error @ (DpsError::Unknown { .. } | DpsError::Malformed(_))) => {
                    self.silent += 1;
                    let pause = error.retry_after().unwrap_or_default();
                    if self.silent == SILENCE_LIMIT || pause > BUSY_PAUSE_LIMIT {
                        return Err(self.dps.fault(error));
                    }
                    tokio::time::sleep(pause).await;
                    return Ok(result);
                }
                // The next has a new token.
                Err(DpsError::TokenRefused(_)) => self.charge(operations, &[]).await?,
                Ok(_) | Err(DpsError::Refused(_)) => {
                    self.silent = 0;
                    return Ok(result);
                }
                Err(error) => return Err(self.dps.fault(error)),
            }
        }
    }

    /// Charges and makes a call that only reads, and again after a pause when it has no usable answer:
    /// [`Run::call`] says when that is enough.
    async fn read<T, F>(&mut self, make: impl Fn() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, DpsError>>,
    {
        loop {
            self.charge(1, &[]).await?;
            match self.call(1, &make).await? {
                Ok(answer) => return Ok(answer),
                Err(DpsError::Unknown { .. }) => tokio::time::sleep(SILENCE_PAUSE).await,
                Err(error) => return Err(self.dps.fault(&error)),
            }
        }
    }

    async fn charge(&self, operations: u32, sending: &[&RegistrationId]) -> Result<(), Fault> {
        pace::charge(self.ledger, self.dps, self.share, operations, sending).await
    }

    /// Records what the service holds of ours: one that passed may be disabled there all the same.
    async fn settled(&mut self, row: &Row, held: Held) -> Result<(), Fault> {
        let registration_id = row.enrollment.registration_id.clone();
        let more = also_set(&row.enrollment, &held);
        if !more.is_empty() && self.summary.also_set.len() < ALSO_SET_LIMIT {
            let named = (registration_id.clone(), more);
            self.summary.also_set.push(named);
        }
        let event = match held.status {
            Status::Enabled => {
                self.summary.enrolled += 1;
                Event::Enrolled {
                    registration_id,
                    etag: held.etag,
                }
            }
            Status::Disabled => {
                self.summary.disabled += 1;
                Event::EnrollmentDisabled { registration_id }
            }
        };
        self.record(event).await
    }

    async fn refuse(&mut self, row: &Row, why: RecordTrouble) -> Result<(), Fault> {
        self.summary.refused += 1;
        let registration_id = row.enrollment.registration_id.clone();
        let fault = Fault::EnrollmentRefused {
            dps: self.dps.name().to_owned(),
            registration_id: registration_id.clone(),
            why,
        };
        let event = Event::EnrollmentRefused {
            registration_id,
            fault,
        };
        self.record(event).await
    }

    /// Puts off a record; the wait doubles with each time.
    async fn defer(
        &mut self,
        row: &Row,
        last_call: LastCall,
        why: RecordTrouble,
    ) -> Result<(), Fault> {
        let registration_id = row.enrollment.registration_id.clone();
        let (dps, id) = (self.dps.name().to_owned(), registration_id.clone());
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
        let event = Event::EnrollmentDeferred {
            registration_id,
            fault,
            next_try_ms: next_try_ms(self.dps.now_ms(), row.tries),
        };
        self.record(event).await
    }

    async fn record(&self, event: Event) -> Result<(), Fault> {
        self.ledger.record(&event).await?;
        Ok(())
    }
}

/// Whether it is known what the last call did to a record that is put off.
#[derive(Clone, Copy)]
enum LastCall {
    /// The service does not hold it: it may be sent again.
    Known,
    /// Nobody knows: it is read back first.
    Unknown,
}

fn count(records: usize) -> u32 {
    u32::try_from(records).unwrap_or(u32::MAX)
}
