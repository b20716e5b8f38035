//! All that a screen or a report sees, folded from reports, and all it may ask.
//!
//! Invariant: counts are of units, and balance: units = passed + failed + injected + open. Every text in a floor is harmless.

mod bay;
mod report;

pub use super::health::LinkHealth;
pub use bay::{BayState, FloorBay, Outcome, RECENT_EVENTS, Step, TEXT_MAX};
pub use report::{Activity, Command, Outbox, Report};

use super::device::DeviceId;
use super::event::{Balance, Event, Recorded};
use super::fault::{Fault, harmless};
use super::verdict::Verdict;
use std::collections::BTreeMap;

/// Most bays on one floor; reports of more are not shown.
const BAYS_MAX: usize = 256;

/// Most DPS instances on one floor.
const OUTBOXES_MAX: usize = 16;

/// Most units that one shift can count; more are not counted.
const UNITS_MAX: usize = 200_000;

/// Most lines of a note.
pub const NOTE_LINES: usize = 8;

/// Silence of the station, in milliseconds, after which what it said last is marked stale.
pub const STALE_AFTER_MS: i64 = 5_000;

/// The floor as it was last reported.
///
/// A clone costs as much as the units of the shift: publish it a few times a second, not with every report.
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
    /// The units of the shift.
    pub counts: Counts,
    /// The outboxes, by DPS instance.
    pub outboxes: BTreeMap<String, Outbox>,
    /// The latest note.
    pub note: Option<Note>,
    /// The latest time in any report, in milliseconds since 1970.
    pub last_report_ms: i64,
    units: BTreeMap<DeviceId, Option<Verdict>>,
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

/// The units of a shift by their last verdict, and what counts against no unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Units whose last verdict is PASS.
    pub passed: u32,
    /// Units whose last verdict is FAIL.
    pub failed: u32,
    /// Units whose last verdict is INJECTED.
    pub injected: u32,
    /// Units without a verdict.
    pub open: u32,
    /// Attempts, not units, that ended in ERROR.
    pub errors: u32,
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
            units: BTreeMap::new(),
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
                self.count(recorded);
            }
            Report::Earlier { recorded } => self.count(recorded),
            Report::Enroller { dps, outbox, .. } => self.set_outbox(dps, outbox),
            Report::ShiftState {
                name,
                open,
                balance,
                ..
            } => self.set_shift(name, *open, *balance),
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
        let known = self
            .outboxes
            .get(&name)
            .and_then(|known| known.note.clone());
        outbox.note = outbox.note.or(known);
        self.outboxes.insert(name, outbox);
    }

    fn set_shift(&mut self, name: &str, open: bool, balance: Option<Balance>) {
        let name = harmless(name, TEXT_MAX);
        let another = self.shift.as_ref().is_some_and(|shift| shift.name != name);
        if another && open {
            self.counts = Counts::default();
            self.units.clear();
        }
        self.shift = Some(Shift {
            name,
            open,
            balance,
        });
    }

    fn count(&mut self, recorded: &Recorded) {
        let verdict = match &recorded.event {
            Event::Identified { .. } => {
                if let Some(device) = recorded.event.identified()
                    && !self.units.contains_key(device)
                {
                    self.set_verdict(device, None);
                }
                return;
            }
            Event::IdCheckedOut { device_id, uid, .. } => {
                return self.rename(DeviceId::provisional(uid), Some(device_id.clone()));
            }
            Event::IdReturned { device_id, uid, .. } => {
                return self.rename(Some(device_id.clone()), DeviceId::provisional(uid));
            }
            Event::Passed { .. } => Verdict::Passed,
            Event::Failed { .. } => Verdict::Failed,
            Event::Injected { .. } => Verdict::Injected,
            Event::Recognised { .. } => return self.uncount_if_open(recorded.device.as_ref()),
            Event::Errored { .. } => {
                self.counts.errors = self.counts.errors.saturating_add(1);
                return;
            }
            _ => return,
        };
        if let Some(device) = &recorded.device {
            self.set_verdict(device, Some(verdict));
        }
    }

    fn set_verdict(&mut self, device: &DeviceId, verdict: Option<Verdict>) {
        if self.units.len() >= UNITS_MAX && !self.units.contains_key(device) {
            return;
        }
        if let Some(before) = self.units.insert(device.clone(), verdict) {
            *self.counts.of(before) -= 1;
        }
        *self.counts.of(verdict) += 1;
    }

    /// A unit is counted under another name from now on.
    fn rename(&mut self, from: Option<DeviceId>, to: Option<DeviceId>) {
        if let Some((from, to)) = from.zip(to)
            && let Some(verdict) = self.units.remove(&from)
        {
            *self.counts.of(verdict) -= 1;
            self.set_verdict(&to, verdict);
        }
    }

    /// A unit that passed in an earlier shift was identified in this one, but is no unit of it.
    fn uncount_if_open(&mut self, device: Option<&DeviceId>) {
        let Some(device) = device else { return };
        if self.units.get(device) == Some(&None) {
            self.units.remove(device);
            self.counts.open -= 1;
        }
    }
}

impl Counts {
    /// Units of the shift.
    pub fn units(&self) -> u32 {
        self.passed + self.failed + self.injected + self.open
    }

    fn of(&mut self, verdict: Option<Verdict>) -> &mut u32 {
        match verdict {
            Some(Verdict::Passed) => &mut self.passed,
            Some(Verdict::Failed) => &mut self.failed,
            Some(Verdict::Injected) => &mut self.injected,
            _ => &mut self.open,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::bytes::{Blob, Digest};
    use super::super::device::{Holding, Identification, RegistrationId};
    use super::super::event::{EnrollmentRecord, IdentityRef};
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
            8 => Report::Earlier { recorded: event(4) },
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
        fn any_reports_in_any_order_leave_balanced_counts(
            reports in prop::collection::vec((0u8..18, any::<i64>(), 0u16..400, 0u8..8), 0..300)
        ) {
            let mut floor = Floor::new("line-1", true, 0);
            let mut errors = 0;
            for (kind, at_ms, bay, unit) in reports {
                let before = floor.counts;
                floor.fold(&report(kind, at_ms, format!("{}", bay % 300), unit));
                if kind == 6 {
                    errors += 1;
                    prop_assert_eq!(before.units(), floor.counts.units());
                    prop_assert_eq!(before.failed, floor.counts.failed);
                }
                if kind == 14 {
                    errors = floor.counts.errors;
                }
                let count = |verdict| floor.units.values().filter(|&&s| s == verdict).count();
                prop_assert_eq!(floor.counts.passed as usize, count(Some(Verdict::Passed)));
                prop_assert_eq!(floor.counts.failed as usize, count(Some(Verdict::Failed)));
                prop_assert_eq!(floor.counts.injected as usize, count(Some(Verdict::Injected)));
                prop_assert_eq!(floor.counts.open as usize, count(None));
                prop_assert_eq!(floor.counts.errors, errors);
                prop_assert!(floor.bays.len() <= BAYS_MAX && floor.outboxes.len() <= OUTBOXES_MAX);
                prop_assert!(floor.bays.iter().all(|bay| bay.recent.len() <= RECENT_EVENTS));
            }
            let _ = (floor.outbox(), floor.is_stale(i64::MIN), floor.is_stale(i64::MAX));
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
        assert_eq!(
            floor.counts,
            Counts {
                passed: 1,
                failed: 1,
                injected: 0,
                open: 0,
                errors: 0
            }
        );
    }

    #[test]
    fn a_unit_of_an_earlier_shift_is_no_unit_of_this_one() {
        let mut floor = Floor::new("line-1", true, 0);
        for kind in [0, 1, 9] {
            floor.fold(&report(kind, 1, "1".to_owned(), 1));
        }
        assert_eq!(floor.bay("1").unwrap().word(), "ALREADY PASSED");
        assert_eq!(floor.counts.units(), 0);
    }
}
