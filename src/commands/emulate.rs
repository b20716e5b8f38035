//! `station emulate`: the fixtures as processes of their own.
//!
//! A build without fixtures runs a simulated line so: `station emulate line --dir D --devices N --auto` of a build with
//! them lays `D` out and stays; then `station ca init --config D/station.toml` and
//! `station run --config D/station.toml` of the other build. The two share the folder, the ports in `D/rig/`, and
//! nothing else.

mod dps;

use super::demo::{Layout, lay_out};
use super::{Context, Exit, Failure};
use crate::fixtures::rig::{self, Operator};
use clap::Subcommand;
use serde_json::json;
use std::path::PathBuf;

/// What can be emulated.
#[derive(Subcommand)]
pub enum EmulateCommand {
    /// The whole rig of a factory folder: bays, devices, cloud.
    Line {
        /// The folder.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Lay the folder out if it is not, for so many devices; its station.toml is for any build of the station.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9999))]
        devices: Option<u16>,
        /// What goes wrong in the first bay of a folder laid out so, as a scenario file.
        #[arg(long, value_name = "FILE", requires = "devices")]
        scenario: Option<PathBuf>,
        /// In a folder laid out so, units leave the bays by themselves.
        #[arg(long, requires = "devices")]
        auto: bool,
    },
    /// The cloud alone: DPS and its hubs behind one TLS listener.
    Dps(dps::DpsArgs),
}

/// Runs `station emulate …` until it is terminated.
pub(super) async fn run(context: &Context, command: EmulateCommand) -> Result<Exit, Failure> {
    let failed = |what: &str, error: std::io::Error| {
        Failure::station(format!(
            "{what} cannot run ({error}): see its folder, then start it again"
        ))
    };
    match command {
        EmulateCommand::Line {
            dir,
            devices,
            scenario,
            auto,
        } => {
            if let Some(devices) = devices {
                let operator = match auto {
                    true => Operator::Auto,
                    false => Operator::Asked,
                };
                let layout = Layout {
                    devices,
                    flaws: false,
                    scenario: scenario.as_deref(),
                    operator,
                    module: None,
                };
                let path = lay_out(&dir, &layout)?;
                context.print(&json!({ "config": path }), &path.display().to_string())?;
            }
            rig::run(&dir)
                .await
                .map_err(|error| failed("the simulated line", error))?;
        }
        EmulateCommand::Dps(args) => dps::run(context, args).await?,
    }
    Ok(Exit::Done)
}
