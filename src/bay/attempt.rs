//! What an attempt puts on record: events wait until something follows that must not be done before they are durable.
//!
//! What waits becomes durable in one commit, and is reported after it. Where the ledger refuses one of the events,
//! because another device has the same identity, none of them is on record; those before it are then recorded with the
//! verdict that the refusal is.

use super::{Bay, StationFault, perform, refusal, unjudged};
use crate::ledger::{Claim, Happened, Refused, Reserved};
use crate::link::LinkHealth;
use crate::provision::bytes::Digest;
use crate::provision::device::DeviceId;
use crate::provision::event::Event;
use crate::provision::fault::Fault;
use crate::provision::job::Job;
use ulid::Ulid;

/// One stay of one device in the bay.
pub(super) struct Attempt {
    /// Its number.
    pub id: Ulid,
    /// The claim on its device, from the moment when its identification is on record.
    pub claim: Option<Claim>,
    waiting: Vec<Happened>,
}

impl Attempt {
    /// An attempt that begins now.
    pub fn new(at_ms: i64) -> Self {
        let moment = u64::try_from(at_ms).unwrap_or_default();
        Self {
            id: Ulid::from_parts(moment, perform::random_u128()),
            claim: None,
            waiting: Vec::new(),
        }
    }

    /// Has an event wait for its commit.
    pub fn push(&mut self, at_ms: i64, product_digest: Option<Digest>, event: Event) {
        self.waiting.push(Happened {
            at_ms: Some(at_ms),
            product_digest,
            event,
        });
    }

    /// Whether anything waits.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The job's part of what waits, in order: all but the arrival, which is of no device yet.
    pub fn waiting(&self) -> impl Iterator<Item = &Event> {
        let events = self.waiting.iter().map(|happened| &happened.event);
        events.filter(|event| !matches!(event, Event::Arrived { .. }))
    }

    /// Whether it has a device: by its claim, or by an identification that waits.
    fn identified(&self) -> bool {
        let identifies = |event: &Event| matches!(event, Event::Identified { .. });
        self.claim.is_some() || self.waiting().any(identifies)
    }
}

impl Bay {
    /// Has an event wait; before one that ends an attempt with a device, how well the link worked in it.
    pub(super) fn queue(
        &self,
        attempt: &mut Attempt,
        job: Option<&Job>,
        event: Event,
        health: LinkHealth,
    ) {
        let digest = job.and_then(Job::product_digest);
        if event.ends_attempt() && attempt.identified() {
            let measured = Event::LinkMeasured { health };
            attempt.push(self.now(), digest, measured);
        }
        attempt.push(self.now(), digest, event);
    }

    /// Puts on record what waits, and moves the job by it; with a reservation comes the right to have it signed.
    pub(super) async fn settle(
        &self,
        attempt: &mut Attempt,
        device: &DeviceId,
        mut job: Option<&mut Job>,
        measured: LinkHealth,
    ) -> Result<Option<Reserved>, StationFault> {
        let refused = match self.commit(attempt, job.as_deref_mut()).await? {
            Ok(reserved) => return Ok(reserved),
            Err(refused) => refused,
        };
        let fault = refusal(device, refused.error)?;
        attempt.waiting.truncate(refused.place);
        let verdict = match &job {
            _ if !attempt.identified() => Event::Interrupted { fault },
            None => unjudged(fault),
            Some(job) => {
                let mut ahead = Job::clone(job);
                for event in attempt.waiting() {
                    ahead.foresee(event).map_err(StationFault::damaged)?;
                }
                ahead.verdict(fault)
            }
        };
        self.queue(attempt, job.as_deref(), verdict, measured);
        self.commit_or_stop(attempt, job).await
    }

    /// Puts on record that something arrived, before it is asked what it is to be called.
    pub(super) async fn begin(&self, attempt: &mut Attempt) -> Result<(), StationFault> {
        self.commit_or_stop(attempt, None).await?;
        Ok(())
    }

    /// Ends an attempt that never got a device of its own.
    pub(super) async fn end(
        &self,
        attempt: &mut Attempt,
        fault: Fault,
    ) -> Result<(), StationFault> {
        attempt.push(self.now(), None, Event::Interrupted { fault });
        self.commit_or_stop(attempt, None).await?;
        Ok(())
    }

    async fn commit_or_stop(
        &self,
        attempt: &mut Attempt,
        job: Option<&mut Job>,
    ) -> Result<Option<Reserved>, StationFault> {
        let done = self.commit(attempt, job).await?;
        done.map_err(|refused| StationFault::ledger(refused.error))
    }

    /// One commit of all that waits; then the job moves, and what was recorded is told. What is refused goes on waiting.
    async fn commit(
        &self,
        attempt: &mut Attempt,
        mut job: Option<&mut Job>,
    ) -> Result<Result<Option<Reserved>, Refused>, StationFault> {
        let ledger = &self.line.ledger;
        let written = match &attempt.claim {
            None => ledger.begin(attempt.id, &attempt.waiting).await,
            Some(claim) => ledger.append_all(claim, &attempt.waiting).await,
        };
        let written = match written {
            Ok(written) => written,
            Err(refused) => return Ok(Err(refused)),
        };
        attempt.waiting.clear();
        attempt.claim = written.claim.or(attempt.claim.take());
        for recorded in written.recorded {
            let mut returned = None;
            if let (Some(job), Some(_)) = (&mut job, &recorded.device) {
                job.apply(&recorded).map_err(StationFault::damaged)?;
                returned = job.returned_id(&recorded.event);
            }
            self.report_event(recorded).await;
            if let Some(returned) = returned {
                let recorded = ledger.record(&returned).await;
                self.report_event(recorded.map_err(StationFault::ledger)?)
                    .await;
            }
        }
        Ok(Ok(written.reserved))
    }
}
