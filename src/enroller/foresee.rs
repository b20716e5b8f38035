//! What a run would do with each record, found out by reading only.

use super::Terms;
use super::call::Caller;
use super::compare::{Comparison, compare};
use super::reconcile::{PAGE_LIMIT, endless};
use super::waiting::{self, row};
use crate::dps::{Dps, Page};
use crate::ledger::Ledger;
use crate::provision::batch::{Difference, Held, Row, Status};
use crate::provision::device::RegistrationId;
use crate::provision::event::Order;
use crate::provision::fault::Fault;
use std::collections::BTreeMap;

/// What a run would do with one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Create it.
    Create,
    /// Create it, or change it, as disabled.
    Disable,
    /// Let it register again.
    Enable,
    /// Delete it.
    Delete,
    /// Note that the service holds it already.
    Confirm,
    /// Note that the service holds it already, and that someone disabled it there: it stays so.
    LeaveDisabled,
    /// Leave it to a person: the service holds something else under its registration ID.
    Refuse(Vec<Difference>),
}

/// What the service's pages show of records that wait: those whose content is ours already, and those of which that must
/// be found out.
type Seen = BTreeMap<RegistrationId, bool>;

/// Gives to `each` what [`drain`](super::drain) would do with each waiting record, due or not, in the order of their
/// registration IDs. Reads from the service (charged), and writes nothing to it.
///
/// Whether the service holds a record shows in pages of a query; a record is read alone only where that decides
/// something: it is there with other content, or a call for it has no answer yet (a query lags behind writes).
///
/// # Errors
/// The fault that a run would end with.
pub async fn dry_run(
    ledger: &Ledger,
    dps: &Dps,
    terms: &Terms,
    mut each: impl FnMut(RegistrationId, Intent),
) -> Result<(), Fault> {
    let caller = Caller::to_read(ledger, dps, terms);
    let waiting = ledger.outbox_counts(dps.name()).await?.waiting;
    let seen = seen(&caller, waiting).await?;
    let mut last = None;
    loop {
        let rows = waiting::after(ledger, dps, last.as_ref()).await?;
        let Some(end) = rows.last() else {
            return Ok(());
        };
        last = Some(end.enrollment.registration_id.clone());
        for row in rows {
            let id = row.enrollment.registration_id.clone();
            let intent = match (&seen, row.unanswered) {
                (Some(seen), false) => match seen.get(&id) {
                    None => absent(&row),
                    Some(true) => Intent::Confirm,
                    Some(false) => asked(&caller, &row).await?,
                },
                _ => asked(&caller, &row).await?,
            };
            each(id, intent);
        }
    }
}

/// Reads the pages of all enrollments; none where that costs more calls than to read the waiting records one by one.
async fn seen(caller: &Caller<'_>, waiting: u32) -> Result<Option<Seen>, Fault> {
    let mut seen = Seen::new();
    let mut from = None;
    for _ in 0..PAGE_LIMIT.min(waiting) {
        let page = caller.read(|| caller.dps.query(from.as_ref())).await?;
        note(caller, &page, &mut seen).await?;
        match page.next {
            None => return Ok(Some(seen)),
            same if same == from => return Err(endless(caller.dps)),
            next => from = next,
        }
    }
    Ok(None)
}

async fn note(caller: &Caller<'_>, page: &Page, seen: &mut Seen) -> Result<(), Fault> {
    let by_id = page.records.iter().filter_map(|held| {
        let id = RegistrationId::parse(&held.registration_id.to_ascii_lowercase());
        Some((id.ok()?, held))
    });
    let by_id: BTreeMap<_, _> = by_id.collect();
    let ids: Vec<_> = by_id.keys().collect();
    let ours = caller.ledger.outbox_of(&ids).await?;
    for ours in ours.into_iter().filter_map(row) {
        let held = by_id[&ours.enrollment.registration_id];
        let same = matches!(intent(&ours, held), Intent::Confirm);
        seen.insert(ours.enrollment.registration_id, same);
    }
    Ok(())
}

async fn asked(caller: &Caller<'_>, row: &Row) -> Result<Intent, Fault> {
    let get = || caller.dps.get(&row.enrollment.registration_id);
    let held = caller.read(get).await?;
    Ok(held.map_or_else(|| absent(row), |held| intent(row, &held)))
}

fn absent(row: &Row) -> Intent {
    match row.wanted {
        _ if row.ordered == Some(Order::Delete) => Intent::Confirm,
        Status::Enabled => Intent::Create,
        Status::Disabled => Intent::Disable,
    }
}

fn intent(row: &Row, held: &Held) -> Intent {
    match compare(&row.enrollment, row.wanted, held) {
        Comparison::Settled | Comparison::ToDisable if row.ordered == Some(Order::Delete) => {
            Intent::Delete
        }
        Comparison::DisabledThere if row.ordered == Some(Order::Enable) => Intent::Enable,
        Comparison::Settled => Intent::Confirm,
        Comparison::DisabledThere => Intent::LeaveDisabled,
        Comparison::ToDisable => Intent::Disable,
        Comparison::Foreign(found) => Intent::Refuse(found),
    }
}
