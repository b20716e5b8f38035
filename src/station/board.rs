//! The board: every report handed on in order and folded into the floor, and the floor shown where it changed.

use crate::bay::StationFault;
use crate::ledger::{Lookout, OutboxCounts, ShiftStanding};
use crate::provision::floor::{Floor, Outbox, Report};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{broadcast, watch};

/// What everybody who looks on is told, and what they were told last.
pub(super) struct Board {
    floor: Floor,
    reports: broadcast::Sender<Arc<Report>>,
    floors: watch::Sender<Arc<Floor>>,
    lookout: Lookout,
    /// Whether the floor is another than the one last shown.
    changed: bool,
    /// Whether something was reported that counts, and how things stand was not looked at since.
    moved: bool,
    shift: Option<ShiftStanding>,
    /// The outboxes that are told of, by DPS instance; nothing yet of those that were not.
    outboxes: BTreeMap<String, Option<OutboxCounts>>,
}

impl Board {
    /// A board that was not shown yet; `clouds` are the DPS instances that it tells of.
    pub(super) fn new(
        floor: Floor,
        reports: broadcast::Sender<Arc<Report>>,
        floors: watch::Sender<Arc<Floor>>,
        lookout: Lookout,
        clouds: impl Iterator<Item = String>,
    ) -> Self {
        Self {
            floor,
            reports,
            floors,
            lookout,
            changed: true,
            moved: false,
            shift: None,
            outboxes: clouds.map(|dps| (dps, None)).collect(),
        }
    }

    /// Hands a report on, and folds it.
    pub(super) fn tell(&mut self, report: Report) {
        self.floor.fold(&report);
        match &report {
            // Who looks at the floor for the time sees that the station lives; nobody is woken for that.
            Report::Alive { at_ms } => {
                self.floors.send_if_modified(|shown| {
                    Arc::make_mut(shown).last_report_ms = *at_ms;
                    false
                });
            }
            Report::Event { recorded, .. } => {
                self.changed = true;
                let event = &recorded.event;
                self.moved |= event.identified().is_some() || event.ends_attempt();
            }
            _ => self.changed = true,
        }
        let _ = self.reports.send(Arc::new(report)); // nobody may be looking on
    }

    /// How things stand is to be looked at soon: somebody here changed it.
    pub(super) fn move_soon(&mut self) {
        (self.moved, self.changed) = (true, true);
    }

    /// Whether there is something to show.
    pub(super) fn changed(&self) -> bool {
        self.changed
    }

    /// Shows the floor as it is now, with how things stand where something that counts was reported.
    pub(super) async fn show(&mut self, at_ms: i64) -> Result<(), StationFault> {
        if self.moved {
            self.look(at_ms).await?;
        }
        self.changed = false;
        self.floors.send_replace(Arc::new(self.floor.clone()));
        Ok(())
    }

    /// Tells how shift and outboxes stand, where that is other than was told last, whoever changed it; says whether it
    /// was.
    pub(super) async fn look(&mut self, at_ms: i64) -> Result<bool, StationFault> {
        self.moved = false;
        let standing = self.lookout.look().await.map_err(StationFault::ledger)?;
        let Some(mut standing) = standing else {
            return Ok(false);
        };
        let mut news = Vec::new();
        if let Some(shift) = standing
            .shift
            .take_if(|now| self.shift.as_ref() != Some(now))
        {
            news.push(Report::ShiftState {
                at_ms,
                name: shift.shift.clone(),
                open: shift.open,
                balance: Some(shift.balance),
                counts: shift.counts,
            });
            let told = self.shift.replace(shift);
            if told.map(|told| told.shift) != self.shift.as_ref().map(|now| now.shift.clone()) {
                // What is pending is of no shift; whoever hears of a new one hears of that too.
                self.outboxes.values_mut().for_each(|told| *told = None);
            }
        }
        for (dps, told) in &mut self.outboxes {
            let now = standing.outboxes.remove(dps).unwrap_or_default();
            if told.replace(now) != Some(now) {
                news.push(Report::Enroller {
                    at_ms,
                    dps: dps.clone(),
                    outbox: outbox(now),
                });
            }
        }
        let any = !news.is_empty();
        news.into_iter().for_each(|report| self.tell(report));
        Ok(any)
    }

    /// The floor as it is in the end.
    pub(super) fn into_floor(self) -> Floor {
        self.floor
    }
}

/// An outbox as it is reported, without what the enroller has to say.
pub(super) fn outbox(counts: OutboxCounts) -> Outbox {
    Outbox {
        pending: counts.waiting,
        enrolled: counts.enrolled,
        refused: counts.refused,
        deferred: counts.tried,
        note: None,
        progress: None,
    }
}
