//! `station reconcile`: what the service holds, beside what the ledger says.

use super::devices::Devices;
use super::{also_set, differences, name_left, only_injected, together};
use crate::commands::{Context, Exit, Failure, parts};
use crate::config::{Config, DpsConfig};
use crate::enroller::{self, Discrepancy, DiscrepancyKind, Terms};
use crate::ledger::Ledger;
use crate::provision::batch::Held;
use crate::provision::registration::Registration;
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Options of `station reconcile`.
#[derive(Args)]
pub struct ReconcileArgs {
    /// Write what became of each device to this file: a table where its name ends in .csv, else JSON lines.
    #[arg(long, value_name = "FILE")]
    devices: Option<PathBuf>,
}

/// Lists every difference between the ledger and each DPS instance.
pub(in crate::commands) async fn reconcile(
    context: &Context,
    args: ReconcileArgs,
) -> Result<Exit, Failure> {
    let config = context.config()?;
    let ledger = parts::ledger(&config).await?;
    let mut devices = args.devices.as_deref().map(Devices::begin).transpose()?;
    let mut ends = Vec::new();
    for entry in &config.dps {
        if only_injected(entry, &ledger).await? {
            continue;
        }
        ends.push(compare(context, &config, entry, &ledger, &mut devices).await);
        ends.push(name_left(context, &ledger, &entry.name).await);
    }
    ledger.close().await?;
    let whole = ends.iter().all(Result::is_ok); // else the file would miss devices, and nobody would see it
    if let Some(devices) = devices.filter(|_| whole) {
        ends.push(devices.end().map(|()| Exit::Done));
    }
    together(ends)
}

async fn compare(
    context: &Context,
    config: &Config,
    entry: &DpsConfig,
    ledger: &Ledger,
    devices: &mut Option<Devices>,
) -> Result<Exit, Failure> {
    let dps = parts::dps(config, entry)?;
    let mut statuses: BTreeMap<String, u64> = BTreeMap::new();
    let mut look = |held: &Held| {
        let device = Registration::of(&entry.name, held);
        if let Some(devices) = devices {
            devices.add(&device);
        }
        *statuses.entry(device.status).or_default() += 1;
    };
    let terms = Terms::to_read(entry.share, "station reconcile");
    let found = enroller::survey(ledger, &dps, &terms, &mut look).await?;
    for discrepancy in &found {
        let text = discrepancy_words(discrepancy);
        let id = &discrepancy.registration_id;
        let object = match &discrepancy.kind {
            DiscrepancyKind::AlsoSet(found) => json!({"registration_id": id, "also_set": found}),
            _ => json!({"registration_id": id, "difference": text}),
        };
        context.print(&object, &text)?;
    }
    let differing = found.iter().filter(|found| found.is_difference());
    let (name, count) = (dps.name(), differing.count());
    let mut object = json!({"dps": name, "differences": count, "registrations": statuses});
    let mut text = format!("{name}: {count} differences");
    let statuses = statuses
        .iter()
        .map(|(status, count)| format!("{count} {status}"));
    let statuses = statuses.collect::<Vec<_>>().join(", ");
    if !statuses.is_empty() {
        text += &format!("; registrations: {statuses}");
    }
    let listed = ledger.listed(Some(name)).await?.all();
    if listed > 0 {
        object["listed"] = json!(listed);
        text += &format!("; of the records on record here, {listed} from a list");
    }
    context.print(&object, &text)?;
    match count {
        0 => Ok(Exit::Done),
        _ => Ok(Exit::Incomplete),
    }
}

fn discrepancy_words(discrepancy: &Discrepancy) -> String {
    let id = &discrepancy.registration_id;
    match &discrepancy.kind {
        DiscrepancyKind::Absent => format!("{id}: enrolled here, absent there"),
        DiscrepancyKind::Unknown => format!("{id}: there, and not of this ledger"),
        DiscrepancyKind::Disabled => format!("{id}: enabled here, disabled there"),
        DiscrepancyKind::Different(found) => format!("{id}: differs: {}", differences(found)),
        DiscrepancyKind::AlsoSet(found) => format!("{id}: {}", also_set(found)),
    }
}
