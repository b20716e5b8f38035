//! All that a screen or a report sees, folded from reports, and all it may ask.
//!
//! Invariant: a floor is as large as its bays and outboxes, however many units the shift has had. Every text in it is
//! harmless.

mod bay;
mod report;

pub use super::health::LinkHealth;
pub use bay::{BayState, FloorBay, Outcome, RECENT_EVENTS, Step, TEXT_MAX};
pub use report::{Activity, Command, Counts, Outbox, Report};

use super::event::Balance;
use super::fault::{Fault, harmless};
use std::collections::BTreeMap;

/// Most bays on one floor; reports of more are not shown.
const BAYS_MAX: usize = 256;

/// Most DPS instances on one floor.
const OUTBOXES_MAX: usize = 16;

/// Most lines of a note.
pub const NOTE_LINES: usize = 8;

/// Silence of the station, in milliseconds, after which what it said last is marked stale.
pub const STALE_AFTER_MS: i64 = 5_000;

/// The floor as it was last reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floor {
    /// The station's ID.
    pub station: String,
    /// Whether the line is declared simulated.
    pub simulated: bool,
    /// The shift last heard of.
    pub shift: Option<Shift>,
    /// The bays, in the order of their places, then in that in which they were first heard of.
    pub bays: Vec<FloorBay>,
    /// What the bays saw in the shift, as the ledger has it.
    pub counts: Counts,
    /// The outboxes, by DPS instance.
    pub outboxes: BTreeMap<String, Outbox>,
    /// The latest note.
    pub note: Option<Note>,
    /// The latest time in any report, in milliseconds since 1970.
    pub last_report_ms: i64,
}

/// A shift.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shift {
    /// Its name.
    pub name: String,
    /// Whether it is open.
    pub open: bool,
    /// The ledger's balance of units, once it was asked.
    pub balance: Option<Balance>,
}

/// Something to read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// When it was said, in milliseconds since 1970.
    pub at_ms: i64,
    /// A heading.
    pub title: String,
    /// At most [`NOTE_LINES`] lines.
    pub lines: Vec<String>,
    /// What kept from it, where something did.
    pub fault: Option<Fault>,
}

impl Floor {
    /// A floor of which nothing is known yet.
    pub fn new(station: &str, simulated: bool, now_ms: i64) -> Self {
        Self {
            station: harmless(station, TEXT_MAX),
            simulated,
            shift: None,
            bays: Vec::new(),
            counts: Counts::default(),
            outboxes: BTreeMap::new(),
            note: None,
            last_report_ms: now_ms,
        }
    }

    /// Gives bays their places before any of them is heard of: where a bay is on the screen must not change from one
    /// start to the next.
    pub fn place<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let at_ms = self.last_report_ms;
        for name in names {
            self.with_bay(name, at_ms, |_| {});
        }
    }

    /// Takes in one report. Total: reports in any order leave a floor that can be shown.
    pub fn fold(&mut self, report: &Report) {
        self.last_report_ms = self.last_report_ms.max(report.at_ms());
        match report {
            Report::Event { bay, recorded } => {
                self.with_bay(bay, recorded.at_ms, |bay| bay.apply(recorded));
            }
            Report::Enroller { dps, outbox, .. } => self.set_outbox(dps, outbox),
            Report::ShiftState {
                name,
                open,
                balance,
                counts,
                ..
            } => {
                self.counts = *counts;
                self.shift = Some(Shift {
                    name: harmless(name, TEXT_MAX),
                    open: *open,
                    balance: *balance,
                });
            }
            Report::Note {
                at_ms,
                title,
                lines,
                fault,
            } => {
                let line = |text: &String| harmless(text, TEXT_MAX);
                self.note = Some(Note {
                    at_ms: *at_ms,
                    title: line(title),
                    lines: lines.iter().take(NOTE_LINES).map(line).collect(),
                    fault: fault.clone(),
                });
            }
            Report::Alive { .. } | Report::Dropped { .. } => {}
            _ => self.fold_bay(report),
        }
    }

    /// Whether the station has been silent for longer than [`STALE_AFTER_MS`].
    pub fn is_stale(&self, now_ms: i64) -> bool {
        self.silent_ms(now_ms) > STALE_AFTER_MS
    }

    /// How long the station has been silent, in milliseconds.
    fn silent_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_sub(self.last_report_ms).max(0)
    }

    /// The bay of that name.
    pub fn bay(&self, name: &str) -> Option<&FloorBay> {
        self.bays.iter().find(|bay| bay.name == name)
    }

    /// All outboxes together.
    pub fn outbox(&self) -> Outbox {
        let mut sum = Outbox::default();
        for outbox in self.outboxes.values() {
            sum.pending = sum.pending.saturating_add(outbox.pending);
            sum.enrolled = sum.enrolled.saturating_add(outbox.enrolled);
            sum.refused = sum.refused.saturating_add(outbox.refused);
            sum.deferred = sum.deferred.saturating_add(outbox.deferred);
        }
        sum
    }

    fn fold_bay(&mut self, report: &Report) {
        let at_ms = report.at_ms();
        match report {
            Report::BayOpened { bay, port, .. } => self.with_bay(bay, at_ms, |bay| {
                bay.port = harmless(port, TEXT_MAX);
                bay.clear(at_ms, BayState::Waiting { for_scan: false });
            }),
            Report::BayWaiting { bay, for_scan, .. } => {
                let for_scan = *for_scan;
                self.with_bay(bay, at_ms, |bay| {
                    bay.clear(at_ms, BayState::Waiting { for_scan });
                });
            }
            Report::BayOut { bay, fault, .. } => {
                self.with_bay(bay, at_ms, |bay| bay.put_out(at_ms, fault));
            }
            Report::Scanned { bay, text, .. } => self.with_bay(bay, at_ms, |bay| {
                bay.scanned = Some(harmless(text, TEXT_MAX));
            }),
            Report::Acknowledged { bay, .. } => {
                self.with_bay(bay, at_ms, |bay| bay.unacknowledged = None);
            }
            Report::Removed { bay, .. } => self.with_bay(bay, at_ms, |bay| bay.removed(at_ms)),
            Report::Link {
                bay, health, weak, ..
            } => self.with_bay(bay, at_ms, |bay| {
                bay.health = *health;
                bay.weak = *weak;
            }),
            _ => {}
        }
    }

    fn with_bay(&mut self, name: &str, at_ms: i64, change: impl FnOnce(&mut FloorBay)) {
        let name = harmless(name, TEXT_MAX);
        if let Some(bay) = self.bays.iter_mut().find(|bay| bay.name == name) {
            return change(bay);
        }
        if self.bays.len() < BAYS_MAX {
            let mut bay = FloorBay::new(name, at_ms);
            change(&mut bay);
            self.bays.push(bay);
        }
    }

    fn set_outbox(&mut self, dps: &str, outbox: &Outbox) {
        let name = harmless(dps, TEXT_MAX);
        if self.outboxes.len() >= OUTBOXES_MAX && !self.outboxes.contains_key(&name) {
            return;
        }
        let mut outbox = outbox.clone();
        if let Some(known) = self.outboxes.get(&name) {
            let ended = matches!(outbox.note, Some(Activity::Uploaded | Activity::Stopped(_)));
            let progress = known.progress.clone().filter(|_| !ended);
            outbox.progress = outbox.progress.or(progress);
            outbox.note = outbox.note.or(known.note.clone());
        }
        self.outboxes.insert(name, outbox);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::bytes::{Blob, Digest};
    use super::super::device::{DeviceId, Holding, Identification, RegistrationId};
    use super::super::event::{EnrollmentRecord, Event, IdentityRef, Recorded};
    use super::super::verdict::Verdict;
    use super::*;
    use proptest::prelude::*;

    fn device(number: u8) -> DeviceId {
        DeviceId::parse(&format!("GW-{number:04}")).unwrap()
    }

    fn recorded(at_ms: i64, unit: u8, event: Event) -> Box<Recorded> {
        Box::new(Recorded {
            seq: 1,
            at_ms,
            station: "line-1".to_owned(),
            operator: None,
            attempt: None,
            device: Some(device(unit)),
            product_digest: None,
            because: None,
            event,
        })
    }

    fn events(unit: u8) -> Vec<Event> {
        let fault = Fault::NoRestart {
            device: device(unit),
        };
        let registration_id = RegistrationId::of_device(&device(unit));
        vec![
            Event::Arrived {
                bay: "1".to_owned(),
                port: "p".to_owned(),
            },
            Event::Identified {
                identification: Identification {
                    device_id: device(unit),
                    blank: false,
                    model: String::new(),
                    firmware: String::new(),
                    uid: Blob::default(),
                    boots: 1,
                    sealed: false,
                    tpm: false,
                    holds: Digest::of(b""),
                    stock: false,
                },
                assigned: None,
                scanned: None,
            },
            Event::RegistrationIdDerived {
                registration_id: registration_id.clone(),
            },
            Event::Restarted {
                boots_before: 1,
                boots_after: 2,
            },
            Event::Passed {
                enrollment: EnrollmentRecord {
                    dps: "d".to_owned(),
                    registration_id,
                    device_id: device(unit),
                    identity: IdentityRef::X509 {
                        certificate_sha256: Digest::of(b""),
                    },
                    initial_desired: None,
                    initial_tags: None,
                    content: Default::default(),
                },
            },
            Event::Failed {
                fault: fault.clone(),
                disable: None,
            },
            Event::Errored {
                fault: fault.clone(),
            },
            Event::Interrupted { fault },
            Event::Recognised {
                holds: Digest::of(b""),
            },
            Event::Injected {
                observed: Holding {
                    id_scope: "0ne00112233".to_owned(),
                    global_endpoint: "global.azure".to_owned(),
                    registration_id: "gw".to_owned(),
                    certificate_sha256: None,
                },
                endpoint_prefix: None,
            },
        ]
    }

    fn report(kind: u8, at_ms: i64, bay: String, unit: u8) -> Report {
        let events = events(unit);
        let event = |index: u8| recorded(at_ms, unit, events[usize::from(index)].clone());
        match kind {
            0..=7 => Report::Event {
                bay,
                recorded: event(kind),
            },
            8 => Report::Alive { at_ms },
            9 => Report::Event {
                bay,
                recorded: event(8),
            },
            10 => Report::BayOpened {
                at_ms,
                bay,
                port: "p".to_owned(),
            },
            11 => Report::BayOut {
                at_ms,
                bay,
                fault: Fault::LoopbackFailed {
                    bay: "1".to_owned(),
                },
            },
            12 => Report::Acknowledged { at_ms, bay },
            13 => Report::Removed { at_ms, bay },
            14 => Report::ShiftState {
                at_ms,
                name: format!("shift {}", unit % 2),
                open: unit > 3,
                balance: None,
                counts: Counts {
                    passed: u32::MAX,
                    open: u32::from(unit),
                    ..Counts::default()
                },
            },
            15 => Report::Enroller {
                at_ms,
                dps: bay,
                outbox: Outbox {
                    pending: u32::MAX,
                    ..Outbox::default()
                },
            },
            16 => Report::Event {
                bay,
                recorded: event(9),
            },
            _ => Report::BayWaiting {
                at_ms,
                bay,
                for_scan: false,
            },
        }
    }

    proptest! {
        #[test]
        fn any_reports_in_any_order_leave_a_bounded_floor(
            reports in prop::collection::vec((0u8..18, any::<i64>(), 0u16..400, 0u8..8), 0..300)
        ) {
            let mut floor = Floor::new("line-1", true, 0);
            for (kind, at_ms, bay, unit) in reports {
                let before = floor.counts;
                floor.fold(&report(kind, at_ms, format!("{}", bay % 300), unit));
                prop_assert!(kind == 14 || before == floor.counts, "only the ledger counts");
                prop_assert!(floor.bays.len() <= BAYS_MAX && floor.outboxes.len() <= OUTBOXES_MAX);
                prop_assert!(floor.bays.iter().all(|bay| bay.recent.len() <= RECENT_EVENTS));
            }
            let _ = (floor.outbox(), floor.counts.units());
            let _ = (floor.is_stale(i64::MIN), floor.is_stale(i64::MAX));
        }

        #[test]
        fn every_report_is_one_json_line(kind in 0u8..18, at_ms: i64, unit in 0u8..8) {
            let report = report(kind, at_ms, "1".to_owned(), unit);
            let line = serde_json::to_string(&report).unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), report);
        }
    }

    #[test]
    fn a_failure_waits_for_a_person_through_removal_and_the_next_pass() {
        let mut floor = Floor::new("line-1", true, 0);
        for (kind, unit) in [(0, 1), (1, 1), (5, 1), (13, 1), (0, 2), (1, 2), (4, 2)] {
            floor.fold(&report(kind, 1, "1".to_owned(), unit));
        }
        let bay = floor.bay("1").unwrap();
        assert_eq!(bay.word(), "PASS");
        let owed = bay.unacknowledged.as_ref().unwrap();
        assert_eq!(
            (owed.verdict, &owed.device),
            (Verdict::Failed, &Some(device(1)))
        );
        floor.fold(&report(12, 2, "1".to_owned(), 0));
        assert_eq!(floor.bay("1").unwrap().unacknowledged, None);
    }

    /// How many bytes a floor takes as text: what its copy takes in memory goes with it.
    fn size(floor: &Floor) -> usize {
        format!("{floor:?}").len()
    }

    #[test]
    fn a_floor_holds_no_name_of_a_unit_that_it_does_not_show() {
        let mut floor = Floor::new("line-1", true, 0);
        let mut sizes = Vec::new();
        for unit in 0..=u8::MAX {
            for kind in [0, 1, 2, 3, 4, 13] {
                floor.fold(&report(kind, 1, "1".to_owned(), unit));
            }
            sizes.push(size(&floor));
        }
        // Once the latest events of the bay fill their list, nothing more is kept.
        assert_eq!(sizes[100], sizes[255]);
        assert!(!format!("{floor:?}").contains("GW-"));
    }
}
