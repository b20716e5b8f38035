//! Supervises bays and enroller, folds their reports into the floor, takes commands.
//!
//! Data goes one way: bays and enroller report; every report is handed on in order, folded, and shown as a copy.
//! Nobody who looks on can slow or stop a bay: the floor is a `watch`, a reader who falls too far behind the reports
//! misses the oldest of them and is told how many, and a command is one of a closed list.

mod board;
mod recovery;
mod upload;

pub use recovery::close_open_attempts;
pub use upload::Uploader;

use crate::bay::{Bay, Line, Scans, StationFault};
use crate::provision::event::Event;
use crate::provision::fault::{Fault, said};
use crate::provision::floor::{Command, Floor, Report};
use board::Board;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::Instrument;

/// Reports that may wait to be folded; a bay that finds the queue full waits for its turn.
pub const REPORTS_MAX: usize = 256;
/// Reports that are kept for a watcher who has not taken them yet: what 64 bays say in half a minute. Each takes about
/// a kilobyte, and only as long as somebody still has to take it.
pub const WATCHED_MAX: usize = 16_384;
/// Commands that may wait to be obeyed.
pub const COMMANDS_MAX: usize = 16;
/// How often the floor is shown anew at most, where something changed.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// How often the station says that it lives, or how shift and outboxes stand where anybody changed that.
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
    /// Every report, in order. Nobody is waited for: a receiver that is more than [`WATCHED_MAX`] behind loses the
    /// oldest, and is told how many.
    pub reports: broadcast::Sender<Arc<Report>>,
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
        floor.place(self.bays.iter().map(|bay| bay.name.as_str()));
        let lookout = self.line.ledger.lookout();
        let clouds = self.uploader.clouds();
        let mut board = Board::new(floor, watchers.reports, watchers.floors, lookout, clouds);
        let (stop, stopped) = watch::channel(false);
        let mut bays = JoinSet::new();
        let mut doors = Doors::new();
        for bay in self.bays.drain(..) {
            let door = Door {
                test: Arc::clone(&bay.test),
                scans: Arc::clone(&bay.scans),
            };
            doors.insert(bay.name.clone(), door);
            let span = tracing::info_span!(target: "bay", "bay", name = bay.name);
            bays.spawn(bay.run(stopped.clone()).instrument(span));
        }
        let mut opened = Opened {
            out: BTreeSet::new(),
            any: false,
        };
        let mut alive = tokio::time::interval(ALIVE_EVERY);
        let mut show = tokio::time::interval(SHOW_EVERY);
        show.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                    Some(command) => match self.obey(command, &doors, &mut board).await? {
                        Some(report) => report,
                        None => continue,
                    },
                },
                _ = alive.tick() => match board.look(self.now()).await? {
                    true => continue,
                    false => Report::Alive { at_ms: self.now() },
                },
                _ = show.tick(), if board.changed() => {
                    board.show(self.now()).await?;
                    continue;
                }
            };
            if let Some(fault) = opened.note(&report, doors.len()) {
                break Err(fault);
            }
            board.tell(report);
        };
        let _ = stop.send(true);
        while bays.join_next().await.is_some() {}
        result?;
        board.look(self.now()).await?;
        Ok(board.into_floor())
    }

    async fn obey(
        &self,
        command: Command,
        doors: &Doors,
        board: &mut Board,
    ) -> Result<Option<Report>, StationFault> {
        let at_ms = self.now();
        Ok(match command {
            Command::Acknowledge { bay } => {
                if let Some(door) = doors.get(&bay) {
                    door.scans.acknowledge();
                }
                Some(Report::Acknowledged { at_ms, bay })
            }
            Command::Scan { text, bay } => doors.get(&bay).map(|door| {
                door.scans.put(&text);
                Report::Scanned { at_ms, bay, text }
            }),
            Command::CloseShift => {
                self.close_shift().await?;
                board.move_soon();
                None
            }
            Command::Upload => {
                self.uploader.start();
                None
            }
            Command::Retry => {
                let products = self.line.products.iter();
                self.uploader
                    .retry(products.map(|line| Arc::clone(&line.product)).collect());
                None
            }
            Command::Loopback { bay } => {
                if let Some(door) = doors.get(&bay) {
                    door.test.notify_one();
                }
                None
            }
            Command::Quit => None,
        })
    }

    /// Closes the open shift with its balance; does nothing where none is open.
    async fn close_shift(&self) -> Result<(), StationFault> {
        let ledger = &self.line.ledger;
        let Some(open) = ledger.current_shift().await.map_err(StationFault::ledger)? else {
            return Ok(());
        };
        let shift = open.shift;
        let balance = ledger.balance(&shift).await.map_err(StationFault::ledger)?;
        let closed = Event::ShiftClosed { shift, balance };
        ledger.record(&closed).await.map_err(StationFault::ledger)?;
        Ok(())
    }

    fn now(&self) -> i64 {
        (self.line.clock)()
    }
}

/// The way into each bay, by its name.
type Doors = BTreeMap<String, Door>;

/// What people ask of one bay while it runs.
struct Door {
    /// Woken to have its port tested.
    test: Arc<Notify>,
    /// Where labels scanned for it go.
    scans: Arc<Scans>,
}

/// Which bays could not be opened, and whether any ever could.
struct Opened {
    out: BTreeSet<String>,
    any: bool,
}

impl Opened {
    /// Takes note of a report; a fault when none of so many bays could be opened at all. A bay that failed its loopback
    /// test can be tested again from here: that is no reason to end.
    fn note(&mut self, report: &Report, bays: usize) -> Option<StationFault> {
        match report {
            Report::BayOpened { .. } | Report::BayWaiting { .. } => self.any = true,
            Report::BayOut { bay, fault, .. } if !matches!(fault, Fault::LoopbackFailed { .. }) => {
                self.out.insert(bay.clone());
                if !self.any && self.out.len() == bays {
                    return Some(no_bay(fault));
                }
            }
            _ => {}
        }
        None
    }
}

fn no_bay(last: &Fault) -> StationFault {
    let last = Box::new(last.clone());
    StationFault(Fault::NoBay { last })
}

fn lost_bay(panic: &tokio::task::JoinError) -> StationFault {
    StationFault(Fault::BayLost { said: said(panic) })
}
