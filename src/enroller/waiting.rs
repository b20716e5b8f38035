//! What waits in the outbox, as it is to be sent: a page at a time, however much there is.

use super::refusal::is_unanswered;
use crate::dps::Dps;
use crate::ledger::{Ledger, OutboxRow, OutboxState, Sending};
use crate::provision::batch::{Row, Status};
use crate::provision::device::RegistrationId;
use crate::provision::fault::Fault;
use std::collections::HashSet;
use std::sync::Arc;

/// Records that are read at once.
const PAGE: usize = 200;

/// The next page of records that are due for `dps` at `now_ms`, none of which is `held`; empty if there is none.
pub(super) async fn due(
    ledger: &Ledger,
    dps: &Dps,
    held: &Arc<HashSet<RegistrationId>>,
    now_ms: i64,
) -> Result<Vec<Row>, Fault> {
    let held = Arc::clone(held);
    let found = ledger.outbox_due(dps.name(), now_ms, PAGE, held).await?;
    Ok(found.into_iter().filter_map(row).collect())
}

/// The next page of all records that wait for `dps`, due or not, after the one with this registration ID.
pub(super) async fn after(
    ledger: &Ledger,
    dps: &Dps,
    after: Option<&RegistrationId>,
) -> Result<Vec<Row>, Fault> {
    let page = u32::try_from(PAGE).expect("a page is small");
    let found = ledger.outbox_waiting(dps.name(), after, page).await?;
    Ok(found.into_iter().filter_map(row).collect())
}

/// A record as it is to be sent; none that does not wait.
pub(super) fn row(row: OutboxRow) -> Option<Row> {
    let wanted = match row.state {
        OutboxState::Pending => Status::Enabled,
        OutboxState::DisablePending | OutboxState::DeletePending => Status::Disabled,
        _ => return None,
    };
    Some(Row {
        enrollment: row.enrollment,
        wanted,
        ordered: row.ordered,
        content_seq: row.content_seq,
        tries: row.tries,
        next_try_ms: row.next_try_ms,
        unanswered: row.sending || row.fault.as_ref().is_some_and(is_unanswered),
    })
}

/// Records as they are about to be sent.
pub(super) fn sending(rows: &[Row]) -> Vec<Sending> {
    let sending = rows.iter().map(|row| Sending {
        registration_id: row.enrollment.registration_id.clone(),
        content_seq: row.content_seq,
    });
    sending.collect()
}
