//! The simulated operator: watches what the station reports and takes units out of the bays.

use super::{boot_lines, rig_failed};
use crate::commands::{Failure, parts};
use crate::fixtures::rig::control::{Ask, Control};
use crate::provision::event::Event;
use crate::provision::floor::{Activity, Command, Report};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long a result stays in a bay before the unit is taken out, when somebody looks on.
const DWELL: Duration = Duration::from_millis(2500);
/// How often a unit without a verdict is put in again before it is set aside.
const RESEATS_MAX: u32 = 3;

/// The simulated operator.
pub struct Operator<'a> {
    /// The rig, whose bays the operator serves.
    pub rig: &'a mut Control,
    /// Units that have not left yet.
    pub left: usize,
    /// The way to the station: a closed shift is uploaded at once.
    pub commands: mpsc::Sender<Command>,
    /// The station's own stream, for what the factory has to say.
    pub factory_reports: mpsc::Sender<Report>,
}

/// What is to be done at a bay, and when.
struct Plan {
    at: Instant,
    ask: Ask,
}

impl Operator<'_> {
    /// Serves the bays. Unattended, returns when every unit has left; else goes on for as long as reports come. A
    /// report that it missed ends it with a fault.
    pub async fn serve(
        mut self,
        mut watched: broadcast::Receiver<Arc<Report>>,
        unattended: bool,
    ) -> Result<(), Failure> {
        let dwell = if unattended { Duration::ZERO } else { DWELL };
        let mut plans: Vec<Plan> = Vec::new();
        let mut reseats: BTreeMap<String, u32> = BTreeMap::new();
        let mut closed = false;
        while self.left > 0 || !unattended {
            plans.sort_by_key(|plan| plan.at);
            let next = plans
                .first()
                .map_or_else(|| Instant::now() + DWELL, |plan| plan.at);
            tokio::select! {
                report = watched.recv() => {
                    let report = match report {
                        Ok(report) => report,
                        Err(RecvError::Closed) => return Ok(()),
                        Err(RecvError::Lagged(count)) => return Err(missed(count)),
                    };
                    if let Some(ask) = wish(&report, &mut reseats) {
                        plans.push(Plan { at: Instant::now() + dwell, ask });
                    }
                    if let Report::ShiftState { open, .. } = &*report {
                        // Said anew whenever the outbox moves: only the first time is there something to upload.
                        let before = std::mem::replace(&mut closed, !open);
                        if closed && !before {
                            let _ = self.commands.send(Command::Upload).await;
                        }
                    }
                    if uploaded(&report) {
                        self.first_boot().await?;
                    }
                }
                () = tokio::time::sleep_until(next), if !plans.is_empty() => {
                    let now = self.rig.ask(&plans.remove(0).ask).await.map_err(rig_failed)?;
                    self.left = now.waiting + now.in_bays;
                }
            }
        }
        Ok(())
    }

    /// Lets every unit start at its owner's, and says on the station's own stream what became of them.
    async fn first_boot(&mut self) -> Result<(), Failure> {
        let answer = self.rig.ask(&Ask::FirstBoot).await.map_err(rig_failed)?;
        let title = "First boot at the owner's".to_owned();
        let note = Report::Note {
            at_ms: parts::clock(),
            title,
            lines: boot_lines(&answer),
            fault: None,
        };
        let _ = self.factory_reports.send(note).await;
        Ok(())
    }
}

/// A report that was missed may have been one to act on, and the unit would wait for ever.
fn missed(count: u64) -> Failure {
    Failure::station(format!(
        "the simulated operator missed {count} reports: run the same command again, which goes on from there"
    ))
}

/// What the operator does about a report: a unit with a verdict leaves, one without is put in again a few times.
fn wish(report: &Report, reseats: &mut BTreeMap<String, u32>) -> Option<Ask> {
    let Report::Event { bay, recorded } = report else {
        return None;
    };
    let take = Some(Ask::Take { bay: bay.clone() });
    match recorded.event {
        Event::Passed { .. } | Event::Recognised { .. } | Event::Failed { .. } => {
            reseats.remove(bay);
            take
        }
        Event::Errored { .. } | Event::Interrupted { .. } => {
            let count = reseats.entry(bay.clone()).or_default();
            *count += 1;
            if *count > RESEATS_MAX {
                reseats.remove(bay);
                return take;
            }
            Some(Ask::Reseat { bay: bay.clone() })
        }
        _ => None,
    }
}

fn uploaded(report: &Report) -> bool {
    matches!(report, Report::Enroller { outbox, .. } if outbox.note == Some(Activity::Uploaded))
}
