//! `station demo`: the whole factory in software, from the first port to the first boot in the cloud.
//!
//! The line is the one that `run` drives; around it stand the rig, which is another process, and an operator who takes
//! units out of the bays. A killed demo is continued by the same command on the same folder.

mod factory;
mod operator;
mod summary;

pub(super) use factory::{Layout, lay_out};

use super::{Context, Exit, Failure, ca, parts, run as line, shift};
use crate::fixtures::rig;
use crate::fixtures::rig::control::{Answer, Ask};
use crate::ledger::{UnitRow, Verdict};
use crate::provision::floor::{Command, Report};
use crate::station::REPORTS_MAX;
use crate::ui;
use clap::{Args, ValueEnum};
use operator::Operator;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Instant;
use tokio::sync::mpsc;

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
pub(super) async fn run(context: &Context, args: DemoArgs) -> Result<Exit, Failure> {
    let started = Instant::now();
    let dir = folder(&args);
    let mut rig = factory::attach_rig(&dir).await?;
    let config = context.config()?;
    let ledger = parts::ledger(&config).await?;
    let _lock = line::lock(&config)?;
    for ca in &config.cas {
        ca::init(&config, ca, &ledger).await?;
    }
    let before = rig.ask(&Ask::Status).await.map_err(rig_failed)?;
    let left = before.waiting + before.in_bays;
    if !args.headless || left > 0 {
        line::open_shift(&config, &ledger).await?;
        let (station, factory_reports) = line::assemble(&config, ledger.clone()).await?;
        let (watchers, watched, floors, commands) = line::watchers(&config);
        let station = tokio::spawn(station.run(watchers));
        let (shown, to_show) = mpsc::channel(REPORTS_MAX);
        let operator = Operator {
            rig: &mut rig,
            left,
            commands: commands.clone(),
            factory_reports,
        };
        if args.headless {
            let printer = tokio::spawn(print_all(to_show));
            operator.serve(watched, shown, true).await?;
            let _ = commands.send(Command::Quit).await;
            let _ = printer.await;
        } else {
            tokio::spawn(drop_all(to_show));
            let mut screen = pin!(ui::run(floors, commands.clone()));
            let served = tokio::select! {
                served = operator.serve(watched, shown, false) => {
                    // The screen ends with the station, and gives the terminal back before anything else is said.
                    let _ = commands.send(Command::Quit).await;
                    line::let_go(screen).await.and(served)
                }
                ended = &mut screen => ended.map_err(line::screen_failed),
                failure = line::quit_on_signal(commands.clone()) => Err(failure),
            };
            let _ = commands.send(Command::Quit).await;
            served?;
        }
        line::ended(station.await)?;
    }
    let exit = if args.headless {
        finish(context, &args, &config, &ledger, &mut rig, started).await?
    } else {
        Exit::Done
    };
    ledger.close().await?;
    if !args.headless || args.until == Until::Booted {
        rig.stop().await.map_err(rig_failed)?;
    }
    eprintln!("station: the factory is in {}", dir.display());
    Ok(exit)
}

/// What a headless demo does when every unit has left: close the shift, upload, let the units start, sum up.
async fn finish(
    context: &Context,
    args: &DemoArgs,
    config: &crate::config::Config,
    ledger: &crate::ledger::Ledger,
    rig: &mut crate::fixtures::rig::control::Control,
    started: Instant,
) -> Result<Exit, Failure> {
    rig.ask(&Ask::Export).await.map_err(rig_failed)?;
    if args.until == Until::Passed {
        let units = ledger.units().await?;
        let passed = |unit: &&UnitRow| unit.verdict == Some(Verdict::Passed);
        let left = rig.ask(&Ask::Status).await.map_err(rig_failed)?;
        return Ok(match units.iter().filter(passed).count() == left.done {
            true => Exit::Done,
            false => Exit::Incomplete,
        });
    }
    if let Some(open) = ledger.current_shift().await? {
        shift::close(ledger, &open.shift).await?;
    }
    let mut exit = Exit::Done;
    for entry in &config.dps {
        let dps = parts::dps(config, entry)?;
        let summary = crate::enroller::drain(ledger, &dps, entry.share).await;
        if !summary.all_settled() {
            exit = Exit::Incomplete;
        }
        if let Some(fault) = summary.fault {
            return Err(fault.into());
        }
    }
    if args.until == Until::Enrolled {
        return Ok(exit);
    }
    let boots = rig.ask(&Ask::FirstBoot).await.map_err(rig_failed)?;
    summary::sum_up(context, &folder(args), ledger, &boots, started).await
}

async fn print_all(mut reports: mpsc::Receiver<Report>) {
    while let Some(report) = reports.recv().await {
        if line::print_report(&report).is_err() {
            return; // the ledger has all of it; the line goes on
        }
    }
}

async fn drop_all(mut reports: mpsc::Receiver<Report>) {
    while reports.recv().await.is_some() {}
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
