//! Refused records put back into the outbox, as a person decided, with the content that their product has today.

use crate::ledger::{Ledger, LedgerError, OutboxRow};
use crate::provision::device::DeviceId;
use crate::provision::event::{Enrollment, EnrollmentRecord, Event};
use crate::provision::product::Product;
use std::sync::Arc;

/// Puts one refused record back, on record under the ledger's person, and gives what was meant and what is meant now.
///
/// # Errors
/// [`LedgerError::Illegal`] for a record that is not refused any more.
pub async fn retry(
    ledger: &Ledger,
    products: &[Arc<Product>],
    refused: &OutboxRow,
) -> Result<(EnrollmentRecord, EnrollmentRecord), LedgerError> {
    let (was, now) = meant(ledger, products, refused).await?;
    let retried = Event::EnrollmentRetried {
        was: Box::new(was.clone()),
        now: Box::new(now.clone()),
    };
    ledger.record(&retried).await?;
    Ok((was, now))
}

/// What was meant for a record, and what its product means for it today: the same where it has none, as a record from a
/// list, or the line has no such product any more. Device, identity and DPS stay: they are what the device holds.
///
/// # Errors
/// What reading the ledger can fail with.
pub async fn meant(
    ledger: &Ledger,
    products: &[Arc<Product>],
    row: &OutboxRow,
) -> Result<(EnrollmentRecord, EnrollmentRecord), LedgerError> {
    let was = row.enrollment.record();
    let name = match row.listed {
        true => None, // what a list says of it is no product's
        false => product_of(ledger, &row.device).await?,
    };
    let product = products
        .iter()
        .find(|product| Some(&product.name) == name.as_ref());
    let now = product.map_or_else(|| was.clone(), |product| today(product, &row.enrollment));
    Ok((was, now))
}

fn today(product: &Product, enrollment: &Enrollment) -> EnrollmentRecord {
    let identity = enrollment.identity.reference();
    let (device_id, registration_id) = (&enrollment.device_id, &enrollment.registration_id);
    let filled = enrollment.content.filled.clone().unwrap_or_default();
    EnrollmentRecord {
        dps: enrollment.dps.clone(),
        ..product.enrollment(device_id, registration_id, identity, &filled)
    }
}

/// The product that the device was accepted as last.
async fn product_of(ledger: &Ledger, device: &DeviceId) -> Result<Option<String>, LedgerError> {
    let events = ledger.events(device).await?;
    let accepted = |event: Event| match event {
        Event::Accepted { product, .. } => Some(product),
        _ => None,
    };
    let newest_first = events.into_iter().rev();
    Ok(newest_first
        .map(|recorded| recorded.event)
        .find_map(accepted))
}
