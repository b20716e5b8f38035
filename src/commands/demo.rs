//! `station demo`: the whole factory in software, from the first port to the first boot in the cloud.
//!
//! The line is the one that `run` drives; around it stand the rig, which is another process, and an operator who takes
//! units out of the bays. A killed demo is continued by the same command on the same folder.

mod factory;
mod operator;
mod summary;

pub(super) use factory::{Layout, lay_out};

use super::printer::Printer;
use super::run::{self as line, Stops};
use super::{Context, Exit, Failure, ca, parts, shift};
use crate::bay::StationFault;
use crate::config::Config;
use crate::enroller::{Terms, drain};
use crate::fixtures::rig;
use crate::fixtures::rig::control::{Answer, Ask, Control};
use crate::ledger::{Ledger, UnitRow};
use crate::provision::floor::{Command, Floor, Report};
use crate::provision::upload::Progress;
use crate::provision::verdict::Verdict;
use crate::ui;
use clap::{Args, ValueEnum};
use operator::Operator;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;
use summary::Summary;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;

/// Options of `station demo`.
#[derive(Args)]
pub struct DemoArgs {
    /// No screen: every report is a JSON line on stdout, and the shift closes by itself.
    #[arg(long)]
    headless: bool,
    /// How many devices come; only the first run on a folder decides.
    #[arg(long, default_value_t = 12, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9999))]
    devices: u16,
    /// Where the factory lies; a folder of its own when absent.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where to stop; the same command without it goes on from there.
    #[arg(long, value_enum, default_value_t = Until::Booted)]
    until: Until,
    /// What goes wrong in the first bay, as a scenario file; only the first run on a folder decides.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// PKCS#11 module to write into a new station.toml, in place of SoftHSM.
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// Write what goes over the links, and to TPM, HSM and DPS, to this file; as `station run --trace` does.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// How far a headless demo goes.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Until {
    /// Every unit has left its bay.
    Passed,
    /// The shift is closed and uploaded.
    Enrolled,
    /// Every unit has started at its owner's.
    Booted,
}

/// Lays the factory folder out before anything else runs; gives the path of its `station.toml`.
pub(super) fn prepare(args: &DemoArgs) -> Result<PathBuf, Failure> {
    let layout = Layout {
        devices: args.devices,
        flaws: !args.headless,
        scenario: args.scenario.as_deref(),
        operator: rig::Operator::Asked,
        module: args.module.as_deref(),
    };
    lay_out(&folder(args), &layout)
}

/// The folder: the same for this process before and after it starts itself anew.
fn folder(args: &DemoArgs) -> PathBuf {
    let own = || std::env::temp_dir().join(format!("station-demo-{}", std::process::id()));
    args.dir.clone().unwrap_or_else(own)
}

/// Runs the demo.
pub(super) async fn run(context: &Context, mut args: DemoArgs) -> Result<Exit, Failure> {
    let config = context.config()?;
    let trace = line::start_trace(&config, args.trace.take())?;
    let ran = play(context, &config, &args).await;
    line::finish_trace(trace);
    ran
}

async fn play(context: &Context, config: &Config, args: &DemoArgs) -> Result<Exit, Failure> {
    let started = Instant::now();
    let dir = folder(args);
    let mut rig = factory::attach_rig(&dir).await?;
    let ledger = parts::ledger(config).await?;
    let _lock = line::lock(config)?;
    for ca in &config.cas {
        ca::init(config, ca, &ledger).await?;
    }
    if !args.headless {
        let line = start(config, &ledger).await?;
        attended(line, &mut rig).await?;
        ledger.close().await?;
        rig.stop().await.map_err(rig_failed)?;
        return Ok(left_in(&dir, Exit::Done));
    }
    let mut stops = Stops::watch()?;
    let mut printer = None;
    let before = rig.ask(&Ask::Status).await.map_err(rig_failed)?;
    let left = before.waiting + before.in_bays;
    let mut whole = true;
    if left > 0 {
        let line = start(config, &ledger).await?;
        printer = Some(Printer::start(line.watched.resubscribe()));
        whole = unattended(line, &mut rig, left, &mut stops).await?;
    }
    let mut done = None;
    if whole {
        done = tokio::select! {
            done = finish(args, config, &ledger, &mut rig, started) => Some(done?),
            () = stops.next() => None,
        };
    }
    ledger.close().await?;
    let Some(done) = done else {
        eprintln!("station: the demo ends as it was asked to, before it is done");
        return Ok(left_in(&dir, Exit::Incomplete));
    };
    if args.until == Until::Booted {
        rig.stop().await.map_err(rig_failed)?;
    }
    tokio::select! {
        printed = say(context, printer, done.summary) => printed?,
        () = stops.next() => {}
    }
    Ok(left_in(&dir, done.exit))
}

/// Says where everything is that the demo leaves, and how it ended.
fn left_in(dir: &Path, exit: Exit) -> Exit {
    eprintln!("station: the factory is in {}", dir.display());
    exit
}

/// A line under way.
struct Line {
    station: JoinHandle<Result<Floor, StationFault>>,
    watched: broadcast::Receiver<Arc<Report>>,
    floors: watch::Receiver<Arc<Floor>>,
    commands: mpsc::Sender<Command>,
    factory_reports: mpsc::Sender<Report>,
}

async fn start(config: &Config, ledger: &Ledger) -> Result<Line, Failure> {
    line::open_shift(config, ledger).await?;
    let (station, factory_reports) = line::assemble(config, ledger.clone()).await?;
    let (watchers, watched, floors, commands) = line::watchers(config);
    Ok(Line {
        station: tokio::spawn(station.run(watchers)),
        watched,
        floors,
        commands,
        factory_reports,
    })
}

/// The line on the screen, until somebody ends it.
async fn attended(line: Line, rig: &mut Control) -> Result<(), Failure> {
    let commands = line.commands;
    let operator = Operator {
        rig,
        left: 0,
        commands: commands.clone(),
        factory_reports: line.factory_reports,
    };
    let mut screen = pin!(ui::run(line.floors, commands.clone()));
    let served = tokio::select! {
        served = operator.serve(line.watched, false) => {
            // The screen ends with the station, and gives the terminal back before anything else is said.
            let _ = commands.send(Command::Quit).await;
            line::let_go(screen).await.and(served)
        }
        ended = &mut screen => ended.map_err(line::screen_failed),
        failure = line::quit_on_signal(commands.clone()) => Err(failure),
    };
    let _ = commands.send(Command::Quit).await;
    served?;
    line::ended(line.station.await).map(|_| ())
}

/// The line without a screen, until every unit has left; says whether they have, or someone asked it to end before.
async fn unattended(
    line: Line,
    rig: &mut Control,
    left: usize,
    stops: &mut Stops,
) -> Result<bool, Failure> {
    let operator = Operator {
        rig,
        left,
        commands: line.commands.clone(),
        factory_reports: line.factory_reports,
    };
    let served = tokio::select! {
        served = operator.serve(line.watched, true) => served.map(|()| true),
        () = stops.next() => Ok(false),
    };
    let _ = line.commands.send(Command::Quit).await;
    line::ended(line.station.await)?;
    served
}

/// Has everything printed, the sum last. A reader may take its time.
async fn say(
    context: &Context,
    reports: Option<Printer>,
    summary: Option<Summary>,
) -> Result<(), Failure> {
    if let Some(mut reports) = reports {
        let _ = reports.ended().await; // who does not want to read them has the ledger
    }
    match summary {
        Some(summary) if context.json => Printer::say(summary.line()).ended().await,
        Some(summary) => {
            eprintln!("station: {}", summary.sentence());
            Ok(())
        }
        None => Ok(()),
    }
}

/// How a headless demo ended, and what it sums up if it came so far.
struct Finished {
    exit: Exit,
    summary: Option<Summary>,
}

impl From<Exit> for Finished {
    fn from(exit: Exit) -> Self {
        Self {
            exit,
            summary: None,
        }
    }
}

/// What a headless demo does when every unit has left: close the shift, upload, let the units start, sum up.
async fn finish(
    args: &DemoArgs,
    config: &Config,
    ledger: &Ledger,
    rig: &mut Control,
    started: Instant,
) -> Result<Finished, Failure> {
    rig.ask(&Ask::Export).await.map_err(rig_failed)?;
    if args.until == Until::Passed {
        let units = ledger.units().await?;
        let passed = |unit: &&UnitRow| unit.verdict == Some(Verdict::Passed);
        let left = rig.ask(&Ask::Status).await.map_err(rig_failed)?;
        return Ok(match units.iter().filter(passed).count() == left.done {
            true => Exit::Done.into(),
            false => Exit::Incomplete.into(),
        });
    }
    if let Some(open) = ledger.current_shift().await? {
        shift::close(ledger, &open.shift).await?;
    }
    let mut exit = Exit::Done;
    for entry in config.enrolling() {
        let dps = parts::dps(config, entry)?;
        let terms = Terms::new(entry.share, "station demo");
        let (said, _) = watch::channel(Progress::default());
        let summary = drain(ledger, &dps, &terms, &said).await;
        if !summary.all_settled() {
            exit = Exit::Incomplete;
        }
        if let Some(fault) = summary.fault {
            return Err(fault.into());
        }
    }
    if args.until == Until::Enrolled {
        return Ok(exit.into());
    }
    let boots = rig.ask(&Ask::FirstBoot).await.map_err(rig_failed)?;
    let summary = summary::sum_up(&folder(args), ledger, &boots, started).await?;
    Ok(Finished {
        exit: summary.exit(),
        summary: Some(summary),
    })
}

fn rig_failed(error: std::io::Error) -> Failure {
    Failure::station(format!(
        "the rig failed ({error}): see rig/rig.log, then run the same command again"
    ))
}

/// The lines that the screen shows after a first boot.
fn boot_lines(answer: &Answer) -> Vec<String> {
    let assigned = answer
        .boots
        .iter()
        .filter(|boot| boot.assigned_hub.is_some())
        .count();
    let read = answer.boots.iter().filter(|boot| boot.twin_read).count();
    let mut lines = vec![format!(
        "{} started, {assigned} assigned, {read} read their twin",
        answer.boots.len()
    )];
    lines.extend(answer.boots.iter().filter_map(|boot| {
        boot.error
            .as_ref()
            .map(|error| format!("{}: {error}", boot.device_id))
    }));
    lines
}
