//! `station enroll --retry`: refused records put back, each on record, before the upload takes them.

use crate::commands::{Context, Exit, Failure};
use crate::config::Config;
use crate::enroller;
use crate::ledger::{Ledger, LedgerError, OutboxFilter, OutboxRow, OutboxState};
use crate::provision::endorsement::VendorRoots;
use crate::provision::event::EnrollmentRecord;
use crate::provision::product::Product;
use serde_json::json;
use std::sync::Arc;

/// Which refused records are to be sent again.
pub(super) enum Which<'a> {
    /// Every one.
    All,
    /// Those with these registration IDs or device IDs.
    Named(&'a [String]),
}

/// Puts the refused records back that `which` says, or with `dry_run` only tells of them; [`Exit::Incomplete`] where an ID
/// is not that of a refused record. One that cannot be taken stops no other.
pub(super) async fn put_back(
    context: &Context,
    config: &Config,
    ledger: &Ledger,
    which: &Which<'_>,
    dry_run: bool,
) -> Result<Exit, Failure> {
    let products = products(config)?;
    let filter = OutboxFilter {
        state: Some(OutboxState::Refused),
        ..OutboxFilter::default()
    };
    let refused = ledger.outbox(filter).await?;
    let (chosen, strangers) = chosen(&refused, which);
    for id in &strangers {
        let why = "no record of this ID is refused: `station enroll` names those that are";
        let object = json!({"id": id, "not_retried": why});
        context.print(&object, &format!("{id}: not retried: {why}"))?;
    }
    let mut all = strangers.is_empty();
    for row in chosen {
        let meant = match dry_run {
            true => enroller::meant(ledger, &products, row).await,
            false => enroller::retry(ledger, &products, row).await,
        };
        match meant {
            Ok((was, now)) => tell(context, &was, &now, dry_run)?,
            // Another process may have put it back by now.
            Err(LedgerError::Illegal(why)) => {
                let object = json!({"id": row.registration_id, "not_retried": why});
                context.print(
                    &object,
                    &format!("{}: not retried: {why}", row.registration_id),
                )?;
                all = false;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(match all {
        true => Exit::Done,
        false => Exit::Incomplete,
    })
}

/// The products as `station.toml` has them today.
fn products(config: &Config) -> Result<Vec<Arc<Product>>, Failure> {
    let no_roots = Arc::new(VendorRoots::read(&[])); // nothing is proved here
    let products = config.products.iter();
    let resolved = products.map(|product| config.resolve(product, Arc::clone(&no_roots)));
    Ok(resolved
        .map(|product| product.map(Arc::new))
        .collect::<Result<_, _>>()?)
}

/// The refused records that are meant, and the IDs that are none of theirs.
fn chosen<'a>(refused: &'a [OutboxRow], which: &Which<'a>) -> (Vec<&'a OutboxRow>, Vec<&'a str>) {
    let ids = match which {
        Which::All => return (refused.iter().collect(), Vec::new()),
        Which::Named(ids) => ids,
    };
    let is = |row: &OutboxRow, id: &str| {
        row.registration_id.as_str().eq_ignore_ascii_case(id) || row.device.as_str() == id
    };
    let named = |row: &&OutboxRow| ids.iter().any(|id| is(row, id));
    let strange = |id: &&str| !refused.iter().any(|row| is(row, id));
    let ids = ids.iter().map(String::as_str);
    (
        refused.iter().filter(named).collect(),
        ids.filter(strange).collect(),
    )
}

fn tell(
    context: &Context,
    was: &EnrollmentRecord,
    now: &EnrollmentRecord,
    dry_run: bool,
) -> Result<(), Failure> {
    let id = &now.registration_id;
    let object = json!({
        "registration_id": id, "retried": !dry_run, "changed": was != now, "was": was, "now": now,
    });
    let when = match dry_run {
        true => "would be sent again",
        false => "is sent again",
    };
    let content = match was == now {
        true => "as it was",
        false => "with what its product means today",
    };
    context.print(&object, &format!("{id}: {when}, {content}"))
}
