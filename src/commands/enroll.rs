//! `station enroll` and `station reconcile`: after the shift.

use super::{Context, Exit, Failure, parts};
use crate::enroller::{self, Discrepancy, DiscrepancyKind, Intent};
use crate::provision::batch::Difference;
use clap::Args;
use serde_json::json;

/// Options of `station enroll`.
#[derive(Args)]
pub struct EnrollArgs {
    /// Only say what would be sent.
    #[arg(long)]
    dry_run: bool,
}

/// Enrolls everything that is pending, in every DPS instance.
pub(super) async fn enroll(context: &Context, args: EnrollArgs) -> Result<Exit, Failure> {
    let config = context.config()?;
    let ledger = parts::ledger(&config).await?;
    let mut exit = Exit::Done;
    for entry in &config.dps {
        let dps = parts::dps(&config, entry)?;
        if args.dry_run {
            for (id, intent) in enroller::dry_run(&ledger, &dps, entry.share).await? {
                let intent = intent_words(&intent);
                let text = format!("{id}: {intent}");
                context.print(&json!({"registration_id": id, "intent": intent}), &text)?;
            }
            continue;
        }
        let summary = enroller::drain(&ledger, &dps, entry.share).await;
        let s = &summary;
        context.print(
            &json!({
                "dps": dps.name(), "enrolled": s.enrolled, "refused": s.refused, "disabled": s.disabled,
                "deferred": s.deferred, "pending": s.pending,
            }),
            &format!(
                "{}: {} enrolled, {} refused, {} disabled, {} deferred, {} pending",
                dps.name(), s.enrolled, s.refused, s.disabled, s.deferred, s.pending
            ),
        )?;
        if let Some(fault) = summary.fault {
            return Err(fault.into());
        }
        if summary.refused + summary.deferred + summary.pending > 0 {
            exit = Exit::Incomplete;
        }
    }
    ledger.close().await?;
    Ok(exit)
}

/// Lists every difference between the ledger and each DPS instance.
pub(super) async fn reconcile(context: &Context) -> Result<Exit, Failure> {
    let config = context.config()?;
    let ledger = parts::ledger(&config).await?;
    let mut exit = Exit::Done;
    for entry in &config.dps {
        let dps = parts::dps(&config, entry)?;
        let found = enroller::reconcile(&ledger, &dps, entry.share).await?;
        for discrepancy in &found {
            let text = discrepancy_words(discrepancy);
            context.print(
                &json!({"registration_id": discrepancy.registration_id, "difference": text}),
                &text,
            )?;
            exit = Exit::Incomplete;
        }
        let (name, count) = (dps.name(), found.len());
        context.print(
            &json!({"dps": name, "differences": count}),
            &format!("{name}: {count} differences"),
        )?;
    }
    ledger.close().await?;
    Ok(exit)
}

fn intent_words(intent: &Intent) -> String {
    match intent {
        Intent::Create => "will be created".to_owned(),
        Intent::Disable => "will be disabled".to_owned(),
        Intent::Confirm => "is there already, with the same content".to_owned(),
        Intent::Refuse(found) => format!("is there with other content: {}", differences(found)),
    }
}

fn discrepancy_words(discrepancy: &Discrepancy) -> String {
    let id = &discrepancy.registration_id;
    match &discrepancy.kind {
        DiscrepancyKind::Absent => format!("{id}: enrolled here, absent there"),
        DiscrepancyKind::Unknown => format!("{id}: there, and not of this ledger"),
        DiscrepancyKind::Disabled => format!("{id}: enabled here, disabled there"),
        DiscrepancyKind::Different(found) => format!("{id}: differs: {}", differences(found)),
    }
}

fn differences(found: &[Difference]) -> String {
    let texts: Vec<_> = found.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
