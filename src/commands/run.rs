//! `station run`: the line, on the screen or headless.

use super::printer::Printer;
use super::{Context, Exit, Failure, parts, shift};
use crate::bay::Bay;
use crate::config::Config;
use crate::ledger::{self, Ledger};
use crate::provision::floor::{Command, Floor, Report};
use crate::station::{self, COMMANDS_MAX, REPORTS_MAX, Station, Uploader, WATCHED_MAX, Watchers};
use crate::trace::{self, Trace};
use crate::ui;
use clap::Args;
use std::fs::File;
use std::io::{BufRead, Read};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};

/// Options of `station run`.
#[derive(Args)]
pub struct RunArgs {
    /// No screen: every report is a JSON line on stdout, every JSON line on stdin a command.
    #[arg(long)]
    headless: bool,
    /// Write what goes over the links, and to TPM, HSM and DPS, to this file: up to 64 MiB, and as much in FILE.old. Shown
    /// by `station trace show`; holds no secrets.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// How long the screen may take to give the terminal back.
const SCREEN_LIMIT: Duration = Duration::from_secs(2);

/// Runs the line until someone quits.
pub(super) async fn run(context: &Context, args: RunArgs) -> Result<Exit, Failure> {
    let config = context.config()?;
    let trace = start_trace(&config, args.trace)?;
    let ran = drive(context, &config, args.headless).await;
    finish_trace(trace);
    ran
}

/// Has everything traced from now on: to `file` if one is named, and to a file of its own where an attempt fails.
pub(super) fn start_trace(config: &Config, file: Option<PathBuf>) -> Result<Trace, Failure> {
    let folder = ledger::beside(&config.path(&config.station.ledger), "-traces");
    Ok(trace::start(trace::Options { file, folder })?)
}

/// Has written what was traced. What could not be is said, and changes nothing of how the line ended.
pub(super) fn finish_trace(trace: Trace) {
    if let Err(error) = trace.finish() {
        eprintln!("station: {error}");
    }
}

async fn drive(context: &Context, config: &Config, headless: bool) -> Result<Exit, Failure> {
    if config.bays.is_empty() {
        return Err(Failure::usage(format!(
            "{} has no [[bay]]: add one for each place that takes a device; `station check --ports` suggests them",
            context.config.display()
        )));
    }
    let ledger = parts::ledger(config).await?;
    let _lock = lock(config)?;
    open_shift(config, &ledger).await?;
    let (station, _reports) = assemble(config, ledger.clone()).await?;
    let (watchers, watched, floors, commands) = watchers(config);
    let station = tokio::spawn(station.run(watchers));
    let mut printer = headless.then(|| Printer::start(watched));
    let onlooker = async {
        let Some(printer) = &mut printer else {
            let mut screen = pin!(ui::run(floors, commands.clone()));
            return tokio::select! {
                shown = &mut screen => shown.map_err(screen_failed),
                () = commands.closed() => let_go(screen).await,
            };
        };
        let obeyed = commands.clone();
        std::thread::spawn(move || obey_stdin(&obeyed));
        tokio::select! {
            printed = printer.ended() => printed,
            () = commands.closed() => Ok(()), // the station has ended; its last reports may still wait for a reader
        }
    };
    let shown = tokio::select! {
        shown = onlooker => shown,
        failure = quit_on_signal(commands.clone()) => return Err(failure),
    };
    let _ = commands.send(Command::Quit).await;
    let joined = station.await;
    let closed = ledger.close().await;
    let printed = match printer {
        Some(printer) => printer.finish().await,
        None => Ok(()),
    };
    let floor = ended(joined)?;
    closed?;
    shown.and(printed)?;
    Ok(if floor.counts.failed == 0 {
        Exit::Done
    } else {
        Exit::Incomplete
    })
}

/// What a station that has ended leaves.
pub(super) fn ended(
    joined: Result<Result<Floor, crate::bay::StationFault>, tokio::task::JoinError>,
) -> Result<Floor, Failure> {
    match joined {
        Ok(result) => Ok(result?),
        Err(panic) => Err(Failure::station(format!(
            "the station stopped unexpectedly ({panic}): start it again"
        ))),
    }
}

/// Makes sure that this is the ledger's only station: recovery ends the attempts of a station that is no more.
pub(super) fn lock(config: &Config) -> Result<File, Failure> {
    let path = config.path(&config.station.ledger);
    let refused = |why: String| {
        let lock = ledger::station_lock_path(&path);
        Failure::station(format!("{}: {why}", lock.display()))
    };
    ledger::station_lock(&path)
        .map_err(|e| {
            refused(format!(
                "cannot be made ({e}): give the right to its folder"
            ))
        })?
        .ok_or_else(|| refused("another station runs on this ledger: stop it first".to_owned()))
}

/// Refuses to run without an open shift, unless the configuration opens one by itself.
pub(super) async fn open_shift(config: &Config, ledger: &Ledger) -> Result<(), Failure> {
    if ledger.current_shift().await?.is_some() {
        return Ok(());
    }
    if !config.shift.auto {
        return Err(Failure::usage(
            "no shift is open: open one with `station shift open`",
        ));
    }
    shift::open(ledger, None).await.map(|_| ())
}

/// Builds the station that the configuration describes, and ends what an earlier process left open.
/// The sender given back lets a simulated factory speak in the station's own stream.
pub(super) async fn assemble(
    config: &Config,
    ledger: Ledger,
) -> Result<(Station, mpsc::Sender<Report>), Failure> {
    let line = Arc::new(parts::line(config, ledger.clone()).await?);
    station::close_open_attempts(&line).await?;
    let (sender, reports) = mpsc::channel(REPORTS_MAX);
    let bays = config.bays.iter().map(|bay| Bay {
        name: bay.name.clone(),
        port: config.path(&bay.port),
        hotplug: bay.hotplug,
        link: bay.link.clone(),
        limits: config.station.link_amber,
        line: Arc::clone(&line),
        reports: sender.clone(),
        test: Arc::default(),
        scans: Arc::default(),
    });
    let bays = bays.collect();
    let mut clouds = Vec::new();
    for dps in config.enrolling() {
        clouds.push((Arc::new(parts::dps(config, dps)?), dps.share));
    }
    let station = Station {
        id: config.station.id.clone(),
        simulated: config.station.simulated,
        uploader: Uploader::new(ledger, clouds, sender.clone(), parts::clock),
        line,
        bays,
        reports,
    };
    Ok((station, sender))
}

type Ends = (
    Watchers,
    broadcast::Receiver<Arc<Report>>,
    watch::Receiver<Arc<Floor>>,
    mpsc::Sender<Command>,
);

/// The station's end and the onlooker's end of everything that passes between them.
pub(super) fn watchers(config: &Config) -> Ends {
    let (report_sender, reports) = broadcast::channel(WATCHED_MAX);
    let floor = Floor::new(&config.station.id, config.station.simulated, parts::clock());
    let (floor_sender, floors) = watch::channel(Arc::new(floor));
    let (command_sender, commands) = mpsc::channel(COMMANDS_MAX);
    let watchers = Watchers {
        reports: report_sender,
        floors: floor_sender,
        commands,
    };
    (watchers, reports, floors, command_sender)
}

/// Waits until the screen of a station that has ended has given the terminal back: what is said afterwards would be
/// lost with the screen, and the terminal left unusable. Not for ever: a terminal may take no more output.
pub(super) async fn let_go(
    screen: impl Future<Output = Result<(), ui::UiError>>,
) -> Result<(), Failure> {
    let shown = tokio::time::timeout(SCREEN_LIMIT, screen).await;
    shown.unwrap_or(Ok(())).map_err(screen_failed)
}

/// The screen ended by itself.
pub(super) fn screen_failed(error: ui::UiError) -> Failure {
    Failure::station(error.to_string())
}

/// Turns every signal that asks for an end into a Quit; returns only when signals cannot be watched.
pub(super) async fn quit_on_signal(commands: mpsc::Sender<Command>) -> Failure {
    let mut stops = match Stops::watch() {
        Ok(stops) => stops,
        Err(failure) => return failure,
    };
    loop {
        stops.next().await;
        let _ = commands.send(Command::Quit).await;
    }
}

/// The signals that ask this process to end: SIGTERM, SIGINT, and SIGHUP, which a closed terminal sends.
pub(super) struct Stops([Signal; 3]);

impl Stops {
    /// Watches for them from now on: none of them ends the process by itself any more.
    pub(super) fn watch() -> Result<Self, Failure> {
        let kinds = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
        ];
        let [Ok(terminate), Ok(interrupt), Ok(hangup)] = kinds.map(signal) else {
            return Err(Failure::station(
                "signals cannot be watched: start the station again",
            ));
        };
        Ok(Self([terminate, interrupt, hangup]))
    }

    /// Waits for the next.
    pub(super) async fn next(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Reads commands as JSON lines from stdin. A bad line is reported on stderr and skipped. It runs on a detached thread,
/// since a read from stdin cannot be cancelled.
fn obey_stdin(commands: &mpsc::Sender<Command>) {
    /// The longest line that can be a command, in bytes.
    const LINE_MAX: u64 = 4096;
    let mut stdin = std::io::stdin().lock();
    let mut line = Vec::new();
    let mut within_long_line = false;
    loop {
        line.clear();
        match stdin.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let rest_of_long_line = within_long_line;
        within_long_line = !line.ends_with(b"\n");
        if rest_of_long_line || line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(command) => {
                if commands.blocking_send(command).is_err() {
                    return;
                }
            }
            Err(error) => eprintln!(
                "station: a line on stdin is no command ({error}): send one JSON object a line"
            ),
        }
    }
}
