//! What a bay remembers from one attempt to the next: how well its link works, and which units fell silent.

use super::returns::Returns;
use crate::link::{Frames, LinkHealth};
use crate::provision::device::DeviceId;
use crate::provision::fault::{Doing, Fault};
use crate::provision::health::LinkLimits;
use crate::provision::verdict::Verdict;
use std::collections::VecDeque;

/// Attempts over which a link is judged.
const ATTEMPTS: usize = 10;
/// The silence of so many different units in a row, at the same step, is the bay's.
const SILENT_UNITS: usize = 3;

/// What a bay remembers.
pub(super) struct Memory {
    limits: LinkLimits,
    /// What was counted before the port was opened last.
    before: LinkHealth,
    attempts: VecDeque<LinkHealth>,
    /// Who fell silent.
    pub silences: Silences,
    /// Who comes back by itself.
    pub returns: Returns,
    /// Whether another program had the port when a unit would have been blamed last.
    pub held: bool,
    /// How long packets may be, for each firmware that was here.
    pub frames: Frames,
}

/// The units that fell silent in a row, and at which step.
#[derive(Default)]
pub(super) struct Silences {
    step: Option<Doing>,
    /// One that never said who it is counts as another one each time: nobody can tell.
    units: Vec<Option<DeviceId>>,
}

impl Memory {
    pub fn new(limits: LinkLimits) -> Self {
        Self {
            limits,
            before: LinkHealth::default(),
            attempts: VecDeque::new(),
            silences: Silences::default(),
            returns: Returns::default(),
            held: false,
            frames: Frames::default(),
        }
    }

    /// A job ended.
    pub fn ended(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Passed | Verdict::Recognised | Verdict::Injected => {
                self.silences.clear();
                self.returns.judged(true);
            }
            Verdict::Failed => self.failed(),
            Verdict::Errored => {
                self.returns.excused();
                self.failed();
            }
            Verdict::Interrupted => {}
        }
    }

    /// A unit got a FAIL, or the station its ERROR; but a unit at whose port another program was has its turn yet.
    pub fn failed(&mut self) {
        if !self.held {
            self.returns.judged(false);
        }
    }

    /// Another program had the port: what fell silent meanwhile says nothing.
    pub fn port_held(&mut self) {
        self.held = true;
        self.silences.clear();
        self.returns = Returns::default();
    }

    /// Everything counted, whatever the number of times that the port was opened; `now` is the present session's.
    pub fn total(&self, now: LinkHealth) -> LinkHealth {
        self.before.plus(now)
    }

    /// The port was closed; `last` is what its session counted.
    pub fn port_closed(&mut self, last: LinkHealth) {
        self.before = self.before.plus(last);
    }

    /// An attempt ended.
    pub fn attempt_over(&mut self, measured: LinkHealth) {
        self.attempts.push_back(measured);
        if self.attempts.len() > ATTEMPTS {
            self.attempts.pop_front();
        }
    }

    /// Whether the latest attempts exceeded the limits.
    pub fn weak(&self) -> bool {
        let sum = LinkHealth::default();
        let sum = self.attempts.iter().fold(sum, |sum, one| sum.plus(*one));
        sum.exceeds(&self.limits)
    }
}

impl Silences {
    /// Whose matter the silence of `unit` at `step` is: `fault`, which blames the unit, or the bay's from the third
    /// different unit in a row on.
    pub fn judge(
        &mut self,
        bay: &str,
        step: Doing,
        unit: Option<&DeviceId>,
        fault: Fault,
    ) -> Fault {
        if self.step != Some(step) {
            self.step = Some(step);
            self.units.clear();
        }
        let known = unit.is_some_and(|unit| self.units.iter().flatten().any(|one| one == unit));
        if !known && self.units.len() < SILENT_UNITS {
            self.units.push(unit.cloned());
        }
        if self.units.len() < SILENT_UNITS {
            return fault;
        }
        Fault::BaySilent {
            bay: bay.to_owned(),
            units: SILENT_UNITS,
            step,
        }
    }

    /// A unit got through: the bay can talk.
    pub fn clear(&mut self) {
        self.units.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::provision::device::Identification;
    use crate::provision::dialogue::Verb;

    fn silent() -> Fault {
        Fault::DeviceSilent {
            bay: "1".to_owned(),
            port: "/dev/bay".to_owned(),
            asked: Verb::Identify,
        }
    }

    #[test]
    fn the_third_different_unit_that_falls_silent_makes_it_the_bays_matter() {
        let unit = |n: u8| DeviceId::parse(&format!("GW-{n}")).unwrap();
        let mut silences = Silences::default();
        let mut code = |step, unit: Option<DeviceId>| {
            let fault = silent();
            silences
                .judge("1", step, unit.as_ref(), fault)
                .code()
                .to_owned()
        };
        for (step, unit, wanted) in [
            (Doing::Writing, Some(unit(1)), "device_silent"),
            (Doing::Writing, Some(unit(1)), "device_silent"),
            (Doing::Writing, Some(unit(2)), "device_silent"),
            (Doing::Sealing, Some(unit(3)), "device_silent"),
            (Doing::Sealing, Some(unit(4)), "device_silent"),
            (Doing::Sealing, Some(unit(3)), "device_silent"),
            (Doing::Sealing, None, "bay_silent"),
            (Doing::Sealing, Some(unit(3)), "bay_silent"),
        ] {
            assert_eq!(code(step, unit.clone()), wanted, "{step:?} {unit:?}");
        }
        silences.clear();
        let fault = silent();
        assert_eq!(
            silences.judge("1", Doing::Sealing, None, fault.clone()),
            fault
        );
    }

    #[test]
    fn a_link_is_weak_until_enough_good_attempts_have_followed() {
        let mut memory = Memory::new(LinkLimits::default());
        let attempt = |retries| LinkHealth {
            round_trips: 40,
            retries,
            ..LinkHealth::default()
        };
        memory.attempt_over(attempt(5));
        assert!(memory.weak());
        for _ in 0..ATTEMPTS {
            memory.attempt_over(attempt(0));
        }
        assert!(!memory.weak());
    }

    fn unit() -> Identification {
        Identification::of_stock(DeviceId::parse("GW-0001").unwrap(), "gateway")
    }

    /// So many attempts with the unit, each put in again at once and ended so; whether it is now one that restarts for
    /// ever.
    fn after(attempts: usize, verdict: Verdict) -> bool {
        let mut memory = Memory::new(LinkLimits::default());
        for _ in 0..attempts {
            memory.returns.begins(Some(&unit()));
            memory.ended(verdict);
        }
        memory.returns.begins(Some(&unit()));
        memory.returns.is_often()
    }

    #[test]
    fn errors_of_the_station_are_no_restarts_of_the_unit() {
        assert!(after(3, Verdict::Interrupted));
        assert!(after(3, Verdict::Failed));
        assert!(!after(30, Verdict::Errored));
    }

    #[test]
    fn a_unit_at_whose_port_another_program_was_has_its_turn() {
        let mut memory = Memory::new(LinkLimits::default());
        memory.returns.begins(Some(&unit()));
        memory.port_held();
        memory.ended(Verdict::Errored);
        memory.returns.there(Some(&unit()));
        assert!(!memory.returns.stays_away(Some(&unit())));

        memory.held = false;
        memory.returns.begins(Some(&unit()));
        memory.ended(Verdict::Errored);
        memory.returns.there(Some(&unit()));
        assert!(memory.returns.stays_away(Some(&unit())));
    }
}
