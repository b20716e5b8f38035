//! `station loopback`: the station's own ports tested with a plug in the place of the device.

use super::parts::Actor;
use super::{Context, Exit, Failure, parts, print_line};
use crate::bay::loopback_fault;
use crate::config::Config;
use crate::ledger::Ledger;
use crate::link::LinkOptions;
use crate::link::loopback::{self, LoopbackError};
use crate::provision::event::Event;
use crate::provision::fault::{Fault, Holder};
use crate::words;
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};

/// The name of this program, as the system shows it.
const PROGRAM: &str = "station";

/// Options of `station loopback`.
#[derive(Args)]
pub struct LoopbackArgs {
    /// Bays by name, or ports by path.
    #[arg(required = true, value_name = "PORT | BAY")]
    places: Vec<String>,
    #[command(flatten)]
    actor: Actor,
}

/// What is to be tested.
struct Place {
    bay: Option<String>,
    path: PathBuf,
    link: LinkOptions,
}

/// Tests each place, one after another, and records each result. A place that cannot be tested is named on stderr and
/// keeps none of the others from its test; the exit code is that of the worst.
pub(super) async fn run(context: &Context, args: LoopbackArgs) -> Result<Exit, Failure> {
    let config = context.config()?;
    let places = args
        .places
        .iter()
        .map(|place| find(&config, place))
        .collect::<Result<Vec<_>, _>>()?;
    let ledger = parts::ledger_of(&config, &args.actor).await?;
    let mut exit = Exit::Done;
    for place in &places {
        let ended = match test(context, &config, &ledger, place).await {
            Ok(true) => Exit::Done,
            Ok(false) => Exit::Incomplete,
            Err(failure) => {
                eprintln!("station: {failure}");
                failure.exit
            }
        };
        if ended as u8 > exit as u8 {
            exit = ended;
        }
    }
    ledger.close().await?;
    Ok(exit)
}

/// A bay by its name or its port, else a bare port.
fn find(config: &Config, place: &str) -> Result<Place, Failure> {
    let bay = config.bays.iter().find(|bay| {
        bay.name == place
            || bay.port == Path::new(place)
            || config.path(&bay.port) == Path::new(place)
    });
    match bay {
        Some(bay) => Ok(Place {
            bay: Some(bay.name.clone()),
            path: config.path(&bay.port),
            link: bay.link.clone(),
        }),
        None if place.contains('/') => Ok(Place {
            bay: None,
            path: PathBuf::from(place),
            link: LinkOptions::default(),
        }),
        None => Err(Failure::usage(format!(
            "there is no bay {place}: name one of station.toml, or give the path of a port"
        ))),
    }
}

async fn test(
    context: &Context,
    config: &Config,
    ledger: &Ledger,
    place: &Place,
) -> Result<bool, Failure> {
    let port = place.path.display().to_string();
    let result = loopback::run(&place.path, &place.link, &config.loopback)
        .await
        .map_err(|error| cannot(place, &error))?;
    let passed = result.passed();
    ledger
        .record(&Event::LoopbackTested {
            bay: place.bay.clone(),
            port: port.clone(),
            result: Box::new(result.clone()),
            passed,
        })
        .await?;
    for rate in &result.rates {
        let mut object = serde_json::to_value(rate).expect("a result is made of numbers");
        object["bay"] = json!(place.bay);
        object["port"] = json!(port);
        object["lines"] = json!(result.lines);
        context.print(&object, &format!("{port}: {rate}"))?;
    }
    if !context.json {
        print_line(&format!("{port}: {}", result.lines))?;
    }
    Ok(passed)
}

/// Whether who has the port is a station, or nobody can tell.
fn may_be_a_station(holder: &Option<Holder>) -> bool {
    holder
        .as_ref()
        .is_none_or(|holder| holder.program == PROGRAM)
}

/// Why a place cannot be tested, and what to do about it here, where a person is at the port.
fn cannot(place: &Place, error: &LoopbackError) -> Failure {
    let name = place.bay.as_deref().unwrap_or_default();
    let fault = loopback_fault(name, error);
    let what = words::of(&fault).what;
    match (&fault, &place.bay) {
        (Fault::PortBusy { holder, .. }, Some(bay)) if may_be_a_station(holder) => {
            Failure::station(format!(
                "{what}: take bay {bay} out of service first, or test it from the station's screen"
            ))
        }
        (Fault::PortBusy { .. }, _) => {
            Failure::station(format!("{what}: close that program first"))
        }
        (Fault::PortMissing { .. }, _) => Failure::usage(format!(
            "{what}: plug the adapter in, or give the right port"
        )),
        (Fault::NoPlug { .. } | Fault::PortTalks { .. }, _) => {
            Failure::usage(words::sentence(&fault))
        }
        _ => Failure::from(fault),
    }
}
