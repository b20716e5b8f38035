//! `station emulate dps`: the emulated cloud alone, for tests and for boards on a bench.

use super::super::{Context, Failure, parts};
use crate::fixtures::dps::{Emulator, EmulatorError, EmulatorOptions, Faults};
use crate::fixtures::rig;
use clap::Args;
use rustls::pki_types::ServerName;
use serde_json::json;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What can go wrong in it, as `--help` tells it.
const FAULTS_HELP: &str = r#"Faults:
  A line of --fault is a line of a file of --faults (TOML), and counts instead of what the file says.
  Each of these is the number of next calls that are hit:
    throttle            429, with Retry-After
    timeOut             408
    preconditionFailed  412, of calls with If-Match
    fail                500
    unavailable         503, with Retry-After unless retryAfterSeconds is 0
    dropBeforeCommit    the connection ends, and nothing was done
    dropAfterCommit     the connection ends, and it was done
    cutReply            the reply breaks off in the middle
    slow                the reply is held back for slowMilliseconds
    failBulk            400, of a bulk operation with more than one entry, as a whole
    partialBulk         some entries of a bulk operation are refused
    absent              all connections end, and nobody listens for absentMilliseconds
  chance.NAME = 0.05 lets any call be hit by one of them with that chance, drawn from seed.
  Besides: only ("service", "device" or "hub"), retryAfter ("seconds", "date" or "none"), retryAfterSeconds,
  refuseInBulk (a list of IDs), clockSkewSeconds, and the quota of the service API:
    quota = { operations = 1000, windowMilliseconds = 60000 }
  The same as JSON, with POST to /emulator/faults, sets them anew while it runs; GET says what there still is.

  station emulate dps --fault 'throttle = 3' --fault 'retryAfterSeconds = 7' --fault 'chance.dropAfterCommit = 0.1'"#;

/// Options of `station emulate dps`.
#[derive(Args)]
#[command(after_long_help = FAULTS_HELP)]
pub struct DpsArgs {
    /// Where it listens; port 0 takes a free one, and the line that is printed has it.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where it listens for MQTT; without it, at a free port of the same address.
    #[arg(long, value_name = "ADDR:PORT")]
    mqtt_listen: Option<SocketAddr>,
    /// The name or address that clients reach it by, which its certificate then has beside localhost.
    #[arg(long, value_name = "NAME", value_parser = host)]
    host: Option<String>,
    /// A linked hub, by the name or address that devices reach it by; may be given several times. Without it, what
    /// --host says, or else two by names of Azure's.
    #[arg(long = "hub", value_name = "NAME", value_parser = host)]
    hubs: Vec<String>,
    /// Where its state and its CA lie; without it, in a folder of its own that goes when it ends.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What goes wrong, from a file.
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// What goes wrong, line by line; see below.
    #[arg(long = "fault", value_name = "LINE")]
    lines: Vec<String>,
}

/// Runs the emulated cloud in its folder until it is terminated.
pub(super) async fn run(context: &Context, args: DpsArgs) -> Result<(), Failure> {
    let faults = Faults::read(args.faults.as_deref(), &args.lines).map_err(|error| {
        let what = match &args.faults {
            Some(file) => format!("{} or --fault", file.display()),
            None => "--fault".to_owned(),
        };
        let error = error.to_string().trim().replace('\n', ", ");
        Failure::usage(format!(
            "{what}: {error}: station emulate dps --help has every fault"
        ))
    })?;
    let dir = match &args.dir {
        Some(dir) => std::path::absolute(dir),
        None => passing_folder(),
    };
    let dir = dir.map_err(|error| {
        Failure::station(format!(
            "the emulated DPS cannot run ({error}): see its folder, then start it again"
        ))
    })?;
    let own = args.dir.is_none();
    let ended = serve(context, options(args, faults, &dir)).await;
    if own {
        let _ = std::fs::remove_dir_all(&dir); // what is left is in a folder that the system clears
    }
    ended
}

fn options(args: DpsArgs, faults: Faults, dir: &Path) -> EmulatorOptions {
    let mut options = EmulatorOptions {
        listen: args.listen,
        mqtt_listen: args
            .mqtt_listen
            .unwrap_or_else(|| SocketAddr::new(args.listen.ip(), 0)),
        faults,
        ..EmulatorOptions::new(dir)
    };
    let ip = args.listen.ip();
    if let Some(host) = args.host {
        // One name is all that a bench needs.
        options.hubs = vec![host.clone()];
        options.service_host = host;
    } else if !ip.is_loopback() && !ip.is_unspecified() {
        options.service_host = ip.to_string();
    }
    if !args.hubs.is_empty() {
        options.hubs = args.hubs;
    }
    options
}

/// Serves until it is terminated. The line that it prints has all that a client needs.
async fn serve(context: &Context, options: EmulatorOptions) -> Result<(), Failure> {
    let emulator = Emulator::start(options).await.map_err(not_started)?;
    let options = emulator.options();
    let hubs = options.hubs.iter().map(|host| json!({ "host": host }));
    let (address, ca) = (emulator.address(), emulator.ca_file().display());
    let mqtt = emulator.mqtt_address();
    let object = json!({
        "listen": address.to_string(),
        "mqtt_listen": mqtt.to_string(),
        "host": options.service_host,
        "id_scope": options.id_scope,
        "ca_pem": emulator.ca_file(),
        "connection_string": emulator.connection_string(),
        "linked_hubs": hubs.collect::<Vec<_>>(),
    });
    let text = format!(
        "the emulated DPS {} listens on {address}, for MQTT on {mqtt}\nID scope: {}\nlinked hubs: {}\ntrust: {ca}\nconnection string: {}",
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

fn not_started(error: EmulatorError) -> Failure {
    match &error {
        EmulatorError::Listen {
            source,
            address,
            mqtt,
        } => {
            let flag = match mqtt {
                true => "--mqtt-listen",
                false => "--listen",
            };
            let next = match source.kind() {
                ErrorKind::PermissionDenied => format!(
                    "run it as root, let everybody have that port with \
                     `sysctl net.ipv4.ip_unprivileged_port_start={}`, or give a port from 1024 on with {flag}",
                    address.port()
                ),
                _ => format!("give another address with {flag}"),
            };
            Failure::usage(format!("{error}: {next}"))
        }
        EmulatorError::State { .. } => Failure::station(format!(
            "{error}: end what runs there, or begin anew in another folder with --dir"
        )),
        EmulatorError::Tls(_) => {
            Failure::station(format!("{error}: see its folder, then start it again"))
        }
    }
}

/// A name or an address as a certificate can have it.
fn host(text: &str) -> Result<String, String> {
    match ServerName::try_from(text) {
        Ok(_) => Ok(text.to_ascii_lowercase()),
        Err(_) => Err("this is neither a host's name nor an address".to_owned()),
    }
}

/// A new folder among the system's temporary ones, for this user only.
fn passing_folder() -> std::io::Result<PathBuf> {
    let name = format!("station-dps-{}-{}", std::process::id(), parts::clock());
    let dir = std::env::temp_dir().join(name);
    std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
    Ok(dir)
}
