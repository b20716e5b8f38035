//! `station enrollment`: what the service holds of a record beside what the ledger says, and a person's orders about it.

use super::parts::Actor;
use super::{Context, Exit, Failure, enroll, parts};
use crate::config::Config;
use crate::enroller::{self, Terms};
use crate::ledger::{Ledger, LedgerError, OutboxFilter, OutboxRow, OutboxState};
use crate::provision::batch::{Held, Status, difference};
use crate::provision::event::{Event, Order};
use crate::provision::fault::harmless;
use crate::provision::registration::Registration;
use crate::words;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The longest ID that is quoted, in characters.
const NAME_MAX: usize = 128;

/// What `station enrollment` can do.
#[derive(Subcommand)]
pub enum EnrollmentCommand {
    /// Show what the service holds beside what the ledger says.
    Show {
        /// Registration IDs or device IDs.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Let no device register with these records until they are enabled.
    Disable(Ordered),
    /// Let devices register with these records again, whoever disabled them.
    Enable(Ordered),
    /// Delete these records from the service.
    Delete(Ordered),
}

/// An order about records.
#[derive(Args)]
pub struct Ordered {
    /// Registration IDs or device IDs.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    actor: Actor,
}

/// Runs `station enrollment …`.
pub(super) async fn run(context: &Context, command: EnrollmentCommand) -> Result<Exit, Failure> {
    let config = context.config()?;
    match command {
        EnrollmentCommand::Show { ids } => {
            let ledger = parts::ledger(&config).await?;
            let (rows, mut exit) = find(context, &ledger, &ids).await?;
            for row in rows {
                if !show(context, &config, &ledger, &row).await? {
                    exit = Exit::Incomplete;
                }
            }
            ledger.close().await?;
            Ok(exit)
        }
        EnrollmentCommand::Disable(ordered) => {
            order(context, &config, &ordered, Order::Disable).await
        }
        EnrollmentCommand::Enable(ordered) => {
            order(context, &config, &ordered, Order::Enable).await
        }
        EnrollmentCommand::Delete(ordered) => {
            order(context, &config, &ordered, Order::Delete).await
        }
    }
}

/// The records that are meant; an ID that is none's is named, and stops no other.
async fn find(
    context: &Context,
    ledger: &Ledger,
    ids: &[String],
) -> Result<(Vec<OutboxRow>, Exit), Failure> {
    let all = ledger.outbox(OutboxFilter::default()).await?;
    let is = |row: &OutboxRow, id: &str| {
        row.registration_id.as_str().eq_ignore_ascii_case(id) || row.device.as_str() == id
    };
    let mut exit = Exit::Done;
    for id in ids.iter().filter(|id| !all.iter().any(|row| is(row, id))) {
        let id = harmless(id, NAME_MAX);
        let why = "the ledger has no record with this registration ID or device ID: correct it";
        context.print(&json!({"id": id, "unknown": why}), &format!("{id}: {why}"))?;
        exit = Exit::Incomplete;
    }
    let meant = |row: &OutboxRow| ids.iter().any(|id| is(row, id));
    Ok((all.into_iter().filter(meant).collect(), exit))
}

/// Puts the order on record for each record, has it carried out by the ordinary upload, and says how each stands then.
async fn order(
    context: &Context,
    config: &Config,
    ordered: &Ordered,
    order: Order,
) -> Result<Exit, Failure> {
    let ledger = parts::ledger_of_someone(config, &ordered.actor).await?;
    let (rows, mut exit) = find(context, &ledger, &ordered.ids).await?;
    let mut instances = BTreeSet::new();
    for row in &rows {
        let registration_id = row.registration_id.clone();
        let id = registration_id.to_string();
        match ledger
            .record(&Event::EnrollmentOrdered {
                registration_id,
                order,
            })
            .await
        {
            Ok(_) => {
                instances.insert(row.dps.clone());
            }
            Err(LedgerError::Illegal(why)) => {
                let why =
                    format!("{why}: see what is on record with `station enrollment show {id}`");
                context.print(&json!({"registration_id": id, "not_ordered": why}), &why)?;
                exit = Exit::Incomplete;
            }
            Err(error) => return Err(error.into()),
        }
    }
    for entry in config
        .dps
        .iter()
        .filter(|entry| instances.contains(&entry.name))
    {
        enroll::settle(context, config, entry, &ledger, None).await?;
    }
    let wanted = match order {
        Order::Enable => OutboxState::Enrolled,
        Order::Disable => OutboxState::Disabled,
        Order::Delete => OutboxState::Deleted,
    };
    let ids: Vec<_> = rows.iter().map(|row| &row.registration_id).collect();
    for row in ledger.outbox_of(&ids).await? {
        let (id, state) = (&row.registration_id, word(row.state));
        let object = json!({"registration_id": id, "device_id": row.device, "state": row.state});
        context.print(&object, &format!("{id}: {state}"))?;
        if row.state != wanted {
            exit = Exit::Incomplete;
        }
    }
    ledger.close().await?;
    Ok(exit)
}

/// Shows a record; false where ledger and service contradict one another.
async fn show(
    context: &Context,
    config: &Config,
    ledger: &Ledger,
    row: &OutboxRow,
) -> Result<bool, Failure> {
    let id = &row.registration_id;
    let Some(entry) = config.dps(&row.dps) else {
        return Err(Failure::usage(format!(
            "{id} is on record for dps {}, which is not in station.toml: put it back there",
            row.dps
        )));
    };
    let dps = parts::dps(config, entry)?;
    let terms = Terms::to_read(entry.share, "station enrollment show");
    let held = enroller::look(ledger, &dps, &terms, id).await?;
    let (differences, same) = compared(row, held.as_ref());
    let state = word(row.state);
    let there = match &held {
        None => "nothing".to_owned(),
        Some(held) => {
            let of = Registration::of(&row.dps, held);
            let hub = of
                .assigned_hub
                .map_or(String::new(), |hub| format!(" to {hub}"));
            let contact = of
                .last_contact
                .map_or(String::new(), |at| format!(", last contact {at}"));
            format!(
                "a record that is {}, registration {}{hub}{contact}",
                of.enrollment, of.status
            )
        }
    };
    let but = differences.iter().map(|found| format!("; {found}"));
    let text = format!(
        "{id}: device {}, dps {}: {state} here; {there} there{}",
        row.device,
        row.dps,
        but.collect::<String>()
    );
    let service = held.as_ref().map(|held| service(&row.dps, held));
    let object = json!({
        "registration_id": id, "device_id": row.device, "dps": row.dps, "state": row.state,
        "why": row.fault.as_ref().map(words::sentence), "service": service, "differences": differences,
    });
    context.print(&object, &text)?;
    Ok(same)
}

fn service(dps: &str, held: &Held) -> Value {
    json!({"etag": held.etag, "status": held.status.to_string(), "registration": Registration::of(dps, held)})
}

/// In what the service's record is not ours, and whether all is as the ledger says.
fn compared(row: &OutboxRow, held: Option<&Held>) -> (Vec<String>, bool) {
    let wanted = match row.state {
        OutboxState::Disabled | OutboxState::DisablePending => Status::Disabled,
        _ => Status::Enabled,
    };
    let found = held.map(|held| difference(&row.enrollment, wanted, held));
    let found = found.unwrap_or_default();
    let told: Vec<_> = found.iter().map(words::difference).collect();
    let same = match row.state {
        OutboxState::Enrolled | OutboxState::Disabled => held.is_some() && told.is_empty(),
        OutboxState::Deleted => held.is_none(),
        _ => true,
    };
    (told, same)
}

/// Where a record stands, as a person reads it.
fn word(state: OutboxState) -> &'static str {
    match state {
        OutboxState::Pending => "waiting to be enrolled",
        OutboxState::Enrolled => "enrolled",
        OutboxState::Refused => "refused",
        OutboxState::Disabled => "disabled",
        OutboxState::DisablePending => "waiting to be disabled",
        OutboxState::Covered => "covered by a group",
        OutboxState::DeletePending => "waiting to be deleted",
        OutboxState::Deleted => "deleted",
    }
}
