//! Compares the ledger with all that DPS holds, both ways.

use super::Terms;
use super::call::Caller;
use super::compare::{Comparison, compare};
use crate::dps::Dps;
use crate::ledger::{Ledger, OutboxFilter, OutboxState};
use crate::provision::batch::{Difference, Held, Status, also_set, difference};
use crate::provision::device::RegistrationId;
use crate::provision::event::Enrollment;
use crate::provision::fault::{Fault, Malformed};
use std::collections::{BTreeMap, BTreeSet};

/// Pages read before giving up: more than the service's limit of a million records fills.
pub(super) const PAGE_LIMIT: u32 = 20_000;

/// One registration ID on which ledger and service disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discrepancy {
    /// The registration ID, in lower case.
    pub registration_id: String,
    /// How.
    pub kind: DiscrepancyKind,
}

/// How ledger and service disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscrepancyKind {
    /// Settled here, and the service does not hold it.
    Absent,
    /// The service holds it, and this ledger does not know it; another station may have made it.
    Unknown,
    /// Enabled here and disabled there; all else is the same.
    Disabled,
    /// The service holds other content.
    Different(Vec<Difference>),
    /// No difference: the service holds what we set, and in it what someone set beside that.
    AlsoSet(Vec<Difference>),
}

impl Discrepancy {
    /// Whether ledger and service contradict one another in it.
    pub fn is_difference(&self) -> bool {
        !matches!(self.kind, DiscrepancyKind::AlsoSet(_))
    }
}

/// What the ledger says that the service holds; `None` where it says nothing yet, or a person has it in hand.
type Settled = Option<(Enrollment, Status)>;

/// Every disagreement between the ledger and DPS, in the order of the registration IDs. Changes neither; its calls
/// are charged.
///
/// A query lags behind writes, so each suspicion about a record of ours is checked by reading that record.
///
/// # Errors
/// A fault that names the service and the next step.
pub async fn reconcile(
    ledger: &Ledger,
    dps: &Dps,
    terms: &Terms,
) -> Result<Vec<Discrepancy>, Fault> {
    survey(ledger, dps, terms, &mut |_| ()).await
}

/// [`reconcile`], which shows each record of ours that the query finds to `look`, once: with it comes what became of the
/// device, and no call is made for that.
///
/// # Errors
/// Those of [`reconcile`].
pub async fn survey(
    ledger: &Ledger,
    dps: &Dps,
    terms: &Terms,
    look: &mut dyn FnMut(&Held),
) -> Result<Vec<Discrepancy>, Fault> {
    let ours = known(ledger, dps).await?;
    let caller = Caller::to_read(ledger, dps, terms);
    let seen = query(&caller, &ours, look).await?;
    let mut found = seen.found;
    for (id, settled) in &ours {
        let Some((enrollment, status)) = settled else {
            continue;
        };
        if seen.agreed.contains(id) {
            continue;
        }
        let held = caller.read(|| dps.get(&enrollment.registration_id)).await?;
        if let Some(kind) = disagreement(enrollment, *status, held.as_ref()) {
            found.insert(id.clone(), kind);
        }
    }
    let discrepancy = |(registration_id, kind)| Discrepancy {
        registration_id,
        kind,
    };
    Ok(found.into_iter().map(discrepancy).collect())
}

/// What the service holds under this registration ID. The call is charged.
///
/// # Errors
/// A fault that names the service and the next step.
pub async fn look(
    ledger: &Ledger,
    dps: &Dps,
    terms: &Terms,
    id: &RegistrationId,
) -> Result<Option<Held>, Fault> {
    let caller = Caller::to_read(ledger, dps, terms);
    caller.read(|| dps.get(id)).await
}

/// All registration IDs of the ledger for this service.
async fn known(ledger: &Ledger, dps: &Dps) -> Result<BTreeMap<String, Settled>, Fault> {
    let filter = OutboxFilter {
        dps: Some(dps.name().to_owned()),
        ..OutboxFilter::default()
    };
    let rows = ledger.outbox(filter).await?;
    let settled = |state, enrollment| match state {
        OutboxState::Enrolled => Some((enrollment, Status::Enabled)),
        OutboxState::Disabled => Some((enrollment, Status::Disabled)),
        OutboxState::Pending
        | OutboxState::DeletePending
        | OutboxState::Deleted
        | OutboxState::DisablePending
        | OutboxState::Refused
        | OutboxState::Covered => None,
    };
    // One that was deleted and is there again is nobody's that this ledger knows.
    let held = rows
        .into_iter()
        .filter(|row| row.state != OutboxState::Deleted);
    let by_id = held.map(|row| {
        let id = row.registration_id.to_string();
        (id, settled(row.state, row.enrollment))
    });
    Ok(by_id.collect())
}

/// What a query over all enrollments shows.
#[derive(Default)]
struct Seen {
    /// Those on which service and ledger agree.
    agreed: BTreeSet<String>,
    /// What there is to say without reading the record: of those that agree, and of those that the ledger does not know.
    found: BTreeMap<String, DiscrepancyKind>,
}

async fn query(
    caller: &Caller<'_>,
    ours: &BTreeMap<String, Settled>,
    look: &mut dyn FnMut(&Held),
) -> Result<Seen, Fault> {
    let dps = caller.dps;
    let mut seen = Seen::default();
    let mut from = None;
    for _ in 0..PAGE_LIMIT {
        let page = caller.read(|| dps.query(from.as_ref())).await?;
        for held in page.records {
            let id = held.registration_id.to_ascii_lowercase();
            if ours.contains_key(&id) {
                look(&held);
            }
            match ours.get(&id) {
                Some(Some((enrollment, status))) => {
                    match disagreement(enrollment, *status, Some(&held)) {
                        None => {}
                        Some(more @ DiscrepancyKind::AlsoSet(_)) => {
                            seen.found.insert(id.clone(), more);
                        }
                        Some(_) => continue,
                    }
                    seen.agreed.insert(id);
                }
                Some(None) => {}
                None => {
                    seen.found.insert(id, DiscrepancyKind::Unknown);
                }
            }
        }
        match page.next {
            None => return Ok(seen),
            same if same == from => break,
            next => from = next,
        }
    }
    Err(endless(dps))
}

fn disagreement(ours: &Enrollment, status: Status, held: Option<&Held>) -> Option<DiscrepancyKind> {
    let Some(held) = held else {
        return Some(DiscrepancyKind::Absent);
    };
    match compare(ours, status, held) {
        Comparison::Settled => {
            let more = also_set(ours, held);
            (!more.is_empty()).then_some(DiscrepancyKind::AlsoSet(more))
        }
        Comparison::DisabledThere => Some(DiscrepancyKind::Disabled),
        Comparison::ToDisable => Some(DiscrepancyKind::Different(difference(ours, status, held))),
        Comparison::Foreign(found) => Some(DiscrepancyKind::Different(found)),
    }
}

pub(super) fn endless(dps: &Dps) -> Fault {
    Fault::DpsMalformed {
        dps: dps.name().to_owned(),
        url: dps.url().to_owned(),
        why: Malformed::EndlessQuery,
    }
}
