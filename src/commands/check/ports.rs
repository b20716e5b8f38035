//! The bays' ports in `station check`: opened and locked as `station run` does, all at once, and given back.

use super::Finding;
use crate::bay::link_fault;
use crate::commands::Failure;
use crate::config::{BayConfig, Config};
use crate::link::LinkError;
use crate::link::port::Port;
use crate::provision::fault::Fault;
use crate::words;
use serde_json::{Value, json};
use std::path::PathBuf;

/// What is wrong with the port of each bay. A port that comes and goes with its device may be away.
pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Kept open, so that what cannot be open beside another is found.
    let mut open = Vec::new();
    let mut terminals: Vec<(&str, PathBuf)> = Vec::new();
    for (number, bay) in config.bays.iter().enumerate() {
        let path = config.path(&bay.port);
        let name = &bay.name;
        let terminal = path.canonicalize().ok();
        let other = terminals
            .iter()
            .find(|(_, other)| Some(other) == terminal.as_ref());
        let mut notes = Vec::new();
        let mut details = Value::Null;
        let wrong = match other {
            Some((other, _)) => Some(Failure::usage(format!(
                "{} is the port of bay {other} too: give each bay a port of its own in station.toml",
                path.display()
            ))),
            None => match Port::open_alone(&path, &bay.link).await {
                Ok(port) => {
                    if let Some(ms) = port.latency_ms {
                        notes.push(latency(ms));
                        details = json!({ "latency_ms": ms });
                    }
                    open.push(port);
                    None
                }
                Err(error) => trouble(bay, &error),
            },
        };
        // Whatever it is, with this port in the file the line cannot start as it is meant.
        let place = config.place_of_port(number);
        let wrong = wrong.map(|failure| Failure::usage(format!("{place}: {}", failure.sentence)));
        terminals.extend(terminal.map(|terminal| (name.as_str(), terminal)));
        let what = format!("bay {name} at {}", path.display());
        findings.push(Finding {
            notes,
            details,
            ..Finding::new(what, wrong)
        });
    }
    findings
}

/// What a person should know of an adapter's latency timer that could not be lowered.
fn latency(ms: u32) -> String {
    format!(
        "its adapter holds back what comes in for up to {ms} ms, which slows every unit: lower that by the udev rule \
         SUBSYSTEM==\"usb-serial\", DRIVER==\"ftdi_sio\", ATTR{{latency_timer}}=\"1\""
    )
}

fn trouble(bay: &BayConfig, error: &LinkError) -> Option<Failure> {
    let fault = link_fault(&bay.name, error);
    match &fault {
        Fault::PortMissing { .. } if bay.hotplug => None,
        _ => Some(Failure::usage(words::sentence(&fault))),
    }
}
