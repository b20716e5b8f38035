//! What no upload settles by itself: records that the service refused, and those that somebody disabled there.

use crate::commands::{Context, Exit, Failure};
use crate::ledger::{Ledger, OutboxFilter, OutboxState};
use crate::words;
use serde_json::json;

/// Names each record of `dps` that is left to a person; [`Exit::Incomplete`] while one is refused.
pub(in crate::commands) async fn name_left(
    context: &Context,
    ledger: &Ledger,
    dps: &str,
) -> Result<Exit, Failure> {
    let filter = OutboxFilter {
        dps: Some(dps.to_owned()),
        state: Some(OutboxState::Refused),
        ..OutboxFilter::default()
    };
    let refused = ledger.outbox(filter).await?;
    for row in &refused {
        let id = &row.registration_id;
        let why = row.fault.as_ref().map(words::sentence).unwrap_or_default();
        let object = json!({
            "dps": dps, "registration_id": id, "device_id": row.device, "refused": why,
        });
        context.print(&object, &format!("{id}: refused: {why}"))?;
    }
    for row in ledger.disabled_though_passed(dps).await? {
        let id = &row.registration_id;
        let why = "disabled in the service, although its unit passed: it stays so until it is enabled with `station enrollment enable`";
        let object = json!({
            "dps": dps, "registration_id": id, "device_id": row.device, "disabled": why,
        });
        context.print(&object, &format!("{id}: {why}"))?;
    }
    Ok(match refused.is_empty() {
        true => Exit::Done,
        false => Exit::Incomplete,
    })
}
