//! `station ledger`: show what is on record, and verify that nothing was changed.

use super::{Context, Exit, Failure, parts};
use crate::ledger::verify;
use crate::provision::device::DeviceId;
use crate::provision::event::Event;
use crate::words;
use clap::Subcommand;
use serde_json::json;

/// Events read at a time.
const PAGE: u32 = 500;

/// What `station ledger` can do.
#[derive(Subcommand)]
pub enum LedgerCommand {
    /// Print every event, or those of one device.
    Show {
        /// The device.
        #[arg(long, value_name = "ID")]
        device: Option<String>,
    },
    /// Recompute everything and name all damage.
    Verify,
}

/// Runs `station ledger …`.
pub(super) async fn run(context: &Context, command: LedgerCommand) -> Result<Exit, Failure> {
    let config = context.config()?;
    match command {
        LedgerCommand::Show { device } => {
            let device = device
                .map(|text| {
                    DeviceId::parse(&text)
                        .map_err(|e| Failure::usage(format!("the device ID {e}: correct it")))
                })
                .transpose()?;
            show(context, &config, device).await
        }
        LedgerCommand::Verify => {
            let path = config.path(&config.station.ledger);
            let report = verify(&path)?;
            for damage in &report.damages {
                let told = damage.fault.as_ref().map(|fault| words::of(fault).what);
                let told = told.map_or(String::new(), |told| format!(": {told}"));
                let text = format!("{damage}{told}");
                context.print(&json!({"damage": text}), &format!("DAMAGE {text}"))?;
            }
            let (events, damages) = (report.events, report.damages.len());
            let (version, outdated) = (report.version, report.outdated);
            let old = match outdated {
                true => format!(
                    "; its tables are of version {version} and are made anew when the station opens it next"
                ),
                false => String::new(),
            };
            context.print(
                &json!({"events": events, "damages": damages, "version": version, "outdated": outdated}),
                &format!("{events} events, {damages} damages in {}{old}", path.display()),
            )?;
            Ok(if damages == 0 {
                Exit::Done
            } else {
                Exit::Incomplete
            })
        }
    }
}

async fn show(
    context: &Context,
    config: &crate::config::Config,
    device: Option<DeviceId>,
) -> Result<Exit, Failure> {
    let ledger = parts::ledger(config).await?;
    let mut from = 1;
    loop {
        let events = match &device {
            Some(device) => ledger.events(device).await?,
            None => ledger.all_events(from, PAGE).await?,
        };
        if let Some(device) = device.as_ref().filter(|_| events.is_empty()) {
            return Err(Failure::usage(format!(
                "the ledger has no event of device {device}: correct the device ID"
            )));
        }
        for recorded in &events {
            let who = recorded
                .device
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            let mut object =
                serde_json::to_value(recorded).expect("an event is made of strings and numbers");
            words::tell(&mut object);
            let from = match &recorded.event {
                Event::Listed(listing) => {
                    format!(", from a list: {}, line {}", listing.file, listing.line)
                }
                _ => String::new(),
            };
            let kind = recorded.event.kind();
            context.print(&object, &format!("{:>6} {kind} {who}{from}", recorded.seq))?;
        }
        match events.last() {
            Some(last) if device.is_none() => from = last.seq + 1,
            _ => break,
        }
    }
    ledger.close().await?;
    Ok(Exit::Done)
}
