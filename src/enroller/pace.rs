//! The station's share of the service's quota: charged durably before each call.

use crate::dps::Dps;
use crate::ledger::Ledger;
use crate::provision::device::RegistrationId;
use crate::provision::event::Event;
use crate::provision::fault::Fault;
use std::time::Duration;

/// The service counts operations by the minute (DPS documentation, "Quotas and limits"), in milliseconds.
const WINDOW_MS: i64 = 60_000;
/// How often is looked whether the share has room again: room comes as old charges leave the window.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Looks before giving up: other processes of this station may use the share too, but not for ten minutes.
const LOOKS_LIMIT: u32 = 2_400;

/// Charges `operations` as soon as all that was charged in the last minute leaves room for them within `share`.
///
/// A bulk call counts as many operations as it has records: whether it does for the service is not documented.
pub(super) async fn charge(
    ledger: &Ledger,
    dps: &Dps,
    share: u32,
    operations: u32,
    sending: &[&RegistrationId],
) -> Result<(), Fault> {
    for _ in 0..LOOKS_LIMIT {
        let since_ms = dps.now_ms() - WINDOW_MS;
        let used = ledger
            .operations_charged_since(dps.name(), since_ms)
            .await?;
        if used.saturating_add(operations) <= share {
            let event = Event::Charged {
                dps: dps.name().to_owned(),
                operations,
                sending: sending.iter().map(|id| (*id).clone()).collect(),
            };
            ledger.record(&event).await?;
            return Ok(());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Err(Fault::DpsShare {
        dps: dps.name().to_owned(),
        share,
    })
}
