//! What waits in the outbox, as it is to be sent.

use super::refusal::is_unanswered;
use crate::dps::Dps;
use crate::ledger::{Ledger, OutboxFilter, OutboxRow, OutboxState};
use crate::provision::batch::{Row, Status};
use crate::provision::fault::Fault;

/// All records that wait for `dps`: first those to enroll, then those to disable, each oldest first.
pub(super) async fn waiting(ledger: &Ledger, dps: &Dps) -> Result<Vec<Row>, Fault> {
    let mut rows = Vec::new();
    for state in [OutboxState::Pending, OutboxState::DisablePending] {
        let filter = OutboxFilter {
            dps: Some(dps.name().to_owned()),
            state: Some(state),
            ..OutboxFilter::default()
        };
        let found = ledger.outbox(filter).await?;
        rows.extend(found.into_iter().filter_map(row));
    }
    Ok(rows)
}

/// A record as it is to be sent; none that does not wait.
pub(super) fn row(row: OutboxRow) -> Option<Row> {
    let wanted = match row.state {
        OutboxState::Pending => Status::Enabled,
        OutboxState::DisablePending => Status::Disabled,
        _ => return None,
    };
    Some(Row {
        enrollment: row.enrollment,
        wanted,
        tries: row.tries,
        next_try_ms: row.next_try_ms,
        unanswered: row.sending || row.fault.as_ref().is_some_and(is_unanswered),
    })
}
