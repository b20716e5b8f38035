//! Supervises bays and enroller, folds their reports into the floor, takes commands.
//!
//! Data goes one way: bays and enroller report; every report is handed on in order, folded, and shown as a copy.
//! Nobody who looks on can slow or stop a bay: the floor is a `watch`, a reader who falls too far behind the reports
//! misses the oldest of them and is told how many, and a command is one of a closed list.

mod recovery;
mod upload;

pub use recovery::close_open_attempts;
pub use upload::Uploader;

use crate::bay::{Bay, Line, Scans, StationFault};
use crate::provision::event::Event;
use crate::provision::fault::{Fault, said};
use crate::provision::floor::{Command, Floor, Report};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tracing::Instrument;

/// Reports that may wait to be folded; a bay that finds the queue full waits for its turn.
pub const REPORTS_MAX: usize = 256;
/// Reports that are kept for a watcher who has not taken them yet: what 64 bays say in half a minute. Each takes about
/// a kilobyte, and only as long as somebody still has to take it.
pub const WATCHED_MAX: usize = 16_384;
/// Commands that may wait to be obeyed.
pub const COMMANDS_MAX: usize = 16;
/// How often the floor is shown anew where something changed.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// Events read at a time.
const PAGE: u32 = 500;
/// How often the station says that it lives, or how the shift stands where something moved.
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
        let mut moved = true;
        self.recall(&mut floor).await?;
        let mut shift = None;
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
                    Some(command) => match self.obey(command, &doors).await? {
                        Some(report) => report,
                        None => continue,
                    },
                },
                _ = alive.tick() => {
                    self.pulse(&mut shift, std::mem::take(&mut moved), &mut floor).await?
                }
                _ = show.tick() => {
                    watchers.floors.send_replace(Arc::new(floor.clone()));
                    continue;
                }
            };
            if let Some(fault) = opened.note(&report, doors.len()) {
                break Err(fault);
            }
            moved |= moves(&report);
            floor.fold(&report);
            let _ = watchers.reports.send(Arc::new(report)); // nobody may be looking on
        };
        let _ = stop.send(true);
        while bays.join_next().await.is_some() {}
        result.map(|()| floor)
    }

    async fn obey(&self, command: Command, doors: &Doors) -> Result<Option<Report>, StationFault> {
        let at_ms = self.now();
        Ok(match command {
            Command::Acknowledge { bay } => Some(Report::Acknowledged { at_ms, bay }),
            Command::Scan { text, bay } => doors.get(&bay).map(|door| {
                door.scans.put(&text);
                Report::Scanned { at_ms, bay, text }
            }),
            Command::CloseShift => self.close_shift().await?,
            Command::Upload => {
                self.uploader.start();
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

    /// How the shift stands, where something moved or another process opened or closed one; else, that the station
    /// lives. `shift` is the one last said, and whether it was open.
    async fn pulse(
        &self,
        shift: &mut Option<(String, bool)>,
        moved: bool,
        floor: &mut Floor,
    ) -> Result<Report, StationFault> {
        let ledger = &self.line.ledger;
        let open = ledger.current_shift().await.map_err(StationFault::ledger)?;
        let now = match (open, &*shift) {
            (Some(open), _) => (open.shift, true),
            (None, Some((name, _))) => (name.clone(), false),
            (None, None) => return Ok(Report::Alive { at_ms: self.now() }),
        };
        if !moved && shift.as_ref() == Some(&now) {
            return Ok(Report::Alive { at_ms: self.now() });
        }
        self.uploader.count();
        let (name, open) = &now;
        let balance = ledger.balance(name).await.map_err(StationFault::ledger)?;
        let state = Report::ShiftState {
            at_ms: self.now(),
            name: name.clone(),
            open: *open,
            balance: Some(balance),
        };
        if shift.as_ref().is_some_and(|(said, _)| said != name) {
            floor.fold(&state);
            self.recall(floor).await?;
        }
        *shift = Some(now);
        Ok(state)
    }

    /// Counts what belongs to the open shift and was before this process, so that a restart changes no count.
    async fn recall(&self, floor: &mut Floor) -> Result<(), StationFault> {
        let ledger = &self.line.ledger;
        let Some(open) = ledger.current_shift().await.map_err(StationFault::ledger)? else {
            return Ok(());
        };
        let mut from = open.from_seq;
        loop {
            let page = ledger
                .all_events(from, PAGE)
                .await
                .map_err(StationFault::ledger)?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            from = last.seq + 1;
            for recorded in page {
                floor.fold(&Report::Earlier {
                    recorded: Box::new(recorded),
                });
            }
        }
    }

    /// Closes the open shift with its balance; says nothing where none is open.
    async fn close_shift(&self) -> Result<Option<Report>, StationFault> {
        let ledger = &self.line.ledger;
        let Some(open) = ledger.current_shift().await.map_err(StationFault::ledger)? else {
            return Ok(None);
        };
        let name = open.shift;
        let balance = ledger.balance(&name).await.map_err(StationFault::ledger)?;
        let closed = Event::ShiftClosed {
            shift: name.clone(),
            balance,
        };
        ledger.record(&closed).await.map_err(StationFault::ledger)?;
        let at_ms = self.now();
        Ok(Some(Report::ShiftState {
            at_ms,
            name,
            open: false,
            balance: Some(balance),
        }))
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

/// Whether a report is a reason to report the shift and the outboxes again; those reports themselves are not.
fn moves(report: &Report) -> bool {
    match report {
        Report::Event { .. } => true,
        Report::Enroller { outbox, .. } => outbox.note.is_some(),
        _ => false,
    }
}

fn no_bay(last: &Fault) -> StationFault {
    let last = Box::new(last.clone());
    StationFault(Fault::NoBay { last })
}

fn lost_bay(panic: &tokio::task::JoinError) -> StationFault {
    StationFault(Fault::BayLost { said: said(panic) })
}
