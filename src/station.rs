//! Supervises bays and enroller, folds their reports into the floor, takes commands.
//!
//! Data goes one way: bays and enroller report; every report is handed on in order, folded, and shown as a copy.
//! Nobody who looks on can slow or stop a bay: the floor is a `watch`, and a command is one of a closed list.

mod recovery;
mod upload;

pub use recovery::close_open_attempts;
pub use upload::Uploader;

use crate::bay::{Bay, Line, StationFault};
use crate::ledger::Ledger;
use crate::provision::event::Event;
use crate::provision::fault::Fault;
use crate::provision::floor::{Command, Floor, Report};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Reports that may wait to be folded; a bay that finds the queue full waits for its turn.
pub const REPORTS_MAX: usize = 256;
/// Commands that may wait to be obeyed.
pub const COMMANDS_MAX: usize = 16;
/// How often the floor is shown anew where something changed.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// How often the station says that it lives.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// A station, ready to run.
pub struct Station {
    /// Its name.
    pub id: String,
    /// Whether the line is simulated.
    pub simulated: bool,
    /// What the bays share.
    pub line: Arc<Line>,
    /// The bays, not yet running.
    pub bays: Vec<Bay>,
    /// Their reports.
    pub reports: mpsc::Receiver<Report>,
    /// The way to the cloud; it can be asked at any time and never holds up a bay.
    pub uploader: Uploader,
}

/// Who looks on and who gives orders.
pub struct Watchers {
    /// Every report, in order.
    pub reports: mpsc::Sender<Report>,
    /// The floor as it is now.
    pub floors: watch::Sender<Arc<Floor>>,
    /// What people ask.
    pub commands: mpsc::Receiver<Command>,
}

impl Station {
    /// Runs until someone quits, nobody can give commands any more, or the station itself fails.
    ///
    /// # Errors
    /// No bay could be opened, or the ledger failed.
    pub async fn run(mut self, mut watchers: Watchers) -> Result<Floor, StationFault> {
        let mut floor = Floor::new(&self.id, self.simulated, self.now());
        let (stop, stopped) = watch::channel(false);
        let names: BTreeSet<String> = self.bays.iter().map(|bay| bay.name.clone()).collect();
        let mut bays = JoinSet::new();
        for bay in self.bays.drain(..) {
            bays.spawn(bay.run(stopped.clone()));
        }
        let mut out: BTreeSet<String> = BTreeSet::new();
        let mut alive = tokio::time::interval(ALIVE_EVERY);
        let mut show = tokio::time::interval(SHOW_EVERY);
        self.say_shift(&mut floor, &watchers).await?;
        let result = loop {
            let report = tokio::select! {
                Some(report) = self.reports.recv() => report,
                Some(ended) = bays.join_next() => match ended {
                    Ok(Ok(())) => continue,
                    Ok(Err(fault)) => break Err(fault),
                    Err(panic) => break Err(lost_bay(&panic)),
                },
                command = watchers.commands.recv() => match command {
                    Some(Command::Quit) | None => break Ok(()),
                    Some(command) => match self.obey(command, &mut floor, &watchers).await? {
                        Some(report) => report,
                        None => continue,
                    },
                },
                _ = alive.tick() => Report::Alive { at_ms: self.now() },
                _ = show.tick() => {
                    watchers.floors.send_replace(Arc::new(floor.clone()));
                    continue;
                }
            };
            match &report {
                Report::BayOut { bay, fault, .. } if names.contains(bay) => {
                    out.insert(bay.clone());
                    if out == names {
                        break Err(no_bay(fault));
                    }
                }
                Report::BayOpened { bay, .. } => {
                    out.remove(bay);
                }
                _ => {}
            }
            publish(report, &mut floor, &watchers).await;
        };
        let _ = stop.send(true);
        while bays.join_next().await.is_some() {}
        result.map(|()| floor)
    }

    async fn obey(
        &self,
        command: Command,
        floor: &mut Floor,
        watchers: &Watchers,
    ) -> Result<Option<Report>, StationFault> {
        let at_ms = self.now();
        Ok(match command {
            Command::Acknowledge { bay } => Some(Report::Acknowledged { at_ms, bay }),
            Command::Scan { text, bay } => Some(Report::Scanned { at_ms, bay, text }),
            Command::CloseShift => {
                self.close_shift().await?;
                self.say_shift(floor, watchers).await?;
                None
            }
            Command::Upload => {
                self.uploader.start();
                None
            }
            Command::Quit => None,
        })
    }

    async fn close_shift(&self) -> Result<(), StationFault> {
        let ledger = &self.line.ledger;
        let Some(open) = ledger.current_shift().await.map_err(StationFault::ledger)? else {
            return Ok(());
        };
        let shift = open.shift;
        let balance = ledger.balance(&shift).await.map_err(StationFault::ledger)?;
        ledger
            .record(&Event::ShiftClosed { shift, balance })
            .await
            .map_err(StationFault::ledger)?;
        Ok(())
    }

    async fn say_shift(&self, floor: &mut Floor, watchers: &Watchers) -> Result<(), StationFault> {
        let report = shift_state(&self.line.ledger, self.now()).await?;
        publish(report, floor, watchers).await;
        Ok(())
    }

    fn now(&self) -> i64 {
        (self.line.clock)()
    }
}

/// The open shift, or that there is none.
async fn shift_state(ledger: &Ledger, at_ms: i64) -> Result<Report, StationFault> {
    let current = ledger.current_shift().await.map_err(StationFault::ledger)?;
    let open = current.is_some();
    let name = current.map(|open| open.shift).unwrap_or_default();
    let balance = if open {
        Some(ledger.balance(&name).await.map_err(StationFault::ledger)?)
    } else {
        None
    };
    Ok(Report::ShiftState {
        at_ms,
        name,
        open,
        balance,
    })
}

/// Hands a report on and folds it.
async fn publish(report: Report, floor: &mut Floor, watchers: &Watchers) {
    floor.fold(&report);
    let _ = watchers.reports.send(report).await;
}

fn no_bay(last: &Fault) -> StationFault {
    StationFault(Fault::station(
        "no_bay",
        format!("no bay can be opened; the last said: {}", last.what),
        last.next.clone(),
    ))
}

fn lost_bay(panic: &tokio::task::JoinError) -> StationFault {
    StationFault(Fault::station(
        "bay_lost",
        format!("a bay stopped unexpectedly ({panic})"),
        "start the station again",
    ))
}
