//! `station emulate`: the fixtures as processes of their own.
//!
//! A build without fixtures runs a simulated line so: `station emulate line --dir D --devices N --auto` of a build with
//! them lays `D` out and stays; then `station ca init --config D/station.toml` and
//! `station run --config D/station.toml` of the other build. The two share the folder, the ports in `D/rig/`, and
//! nothing else.

use super::demo::{Layout, lay_out};
use super::{Context, Exit, Failure, parts};
use crate::fixtures::dps::{Emulator, EmulatorError, EmulatorOptions};
use crate::fixtures::rig::{self, Operator};
use clap::Subcommand;
use serde_json::json;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

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
    /// The cloud alone: DPS and two hubs behind one TLS listener.
    Dps {
        /// Where it listens; port 0 takes a free one, and the line that is printed has it.
        #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Where its state lies; without it, in a folder of its own that goes when it ends.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
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
        EmulateCommand::Dps { listen, dir } => {
            let own = dir.is_none();
            let dir = match dir {
                Some(dir) => std::path::absolute(dir),
                None => passing_folder(),
            };
            let dir = dir.map_err(|error| failed("the emulated DPS", error))?;
            let ended = serve_dps(context, listen, &dir).await;
            if own {
                let _ = std::fs::remove_dir_all(&dir); // what is left is in a folder that the system clears
            }
            ended?;
        }
    }
    Ok(Exit::Done)
}

/// Runs the emulated cloud until it is terminated. The line that it prints has all that a client needs.
async fn serve_dps(context: &Context, listen: SocketAddr, dir: &Path) -> Result<(), Failure> {
    let mut options = EmulatorOptions {
        listen,
        ..EmulatorOptions::new(dir)
    };
    if !listen.ip().is_loopback() && !listen.ip().is_unspecified() {
        options.service_host = listen.ip().to_string();
    }
    let emulator = Emulator::start(options)
        .await
        .map_err(|error| match error {
            EmulatorError::Listen { .. } => {
                Failure::usage(format!("{error}: give another address with --listen"))
            }
            error => Failure::station(format!("{error}: see its folder, then start it again")),
        })?;
    let options = emulator.options();
    let hubs = options.hubs.iter().map(|host| json!({ "host": host }));
    let (address, ca) = (emulator.address(), emulator.ca_file().display());
    let object = json!({
        "listen": address.to_string(),
        "host": options.service_host,
        "id_scope": options.id_scope,
        "ca_pem": emulator.ca_file(),
        "connection_string": emulator.connection_string(),
        "linked_hubs": hubs.collect::<Vec<_>>(),
    });
    let text = format!(
        "the emulated DPS {} listens on {address}\nID scope: {}\nlinked hubs: {}\ntrust: {ca}\nconnection string: {}",
        options.service_host,
        options.id_scope,
        options.hubs.join(", "),
        emulator.connection_string(),
    );
    context.print(&object, &text)?;
    rig::until_terminated().await.map_err(|error| {
        Failure::station(format!(
            "the emulated DPS cannot wait for its end ({error}): start it again"
        ))
    })?;
    emulator.stop().await;
    Ok(())
}

/// A new folder among the system's temporary ones, for this user only.
fn passing_folder() -> std::io::Result<PathBuf> {
    let name = format!("station-dps-{}-{}", std::process::id(), parts::clock());
    let dir = std::env::temp_dir().join(name);
    std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
    Ok(dir)
}
