//! One bay as a screen sees it: what is in it, how far it got, and what was found.
//!
//! Invariant: a FAIL or ERROR stays in `unacknowledged` until a person acknowledges it, whatever happens in the bay.

use crate::provision::device::{DeviceId, RegistrationId};
use crate::provision::event::{Event, Recorded};
use crate::provision::fault::{Blame, Fault};
use crate::provision::health::LinkHealth;
use crate::provision::verdict::Verdict;
use std::collections::VecDeque;

/// Events kept for an engineer to look at, the latest ones.
pub const RECENT_EVENTS: usize = 8;

/// Longest name, path or scanned text that is kept, in characters.
pub const TEXT_MAX: usize = 256;

/// One bay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloorBay {
    /// Its name, as on its label.
    pub name: String,
    /// Its port's path.
    pub port: String,
    /// What goes on in it.
    pub state: BayState,
    /// The step that the unit is at, or was at when the attempt ended; absent without a unit.
    pub step: Option<Step>,
    /// The unit, once it said who it is.
    pub device: Option<DeviceId>,
    /// The unit's registration ID, once derived.
    pub registration_id: Option<RegistrationId>,
    /// The label scanned for the next unit, or for the one in the bay.
    pub scanned: Option<String>,
    /// A FAIL or ERROR that nobody has acknowledged yet. It outlives the unit's removal and the next arrival.
    pub unacknowledged: Option<Outcome>,
    /// The quality of the link.
    pub health: LinkHealth,
    /// Whether the latest attempts exceeded the limits that the station has for its links.
    pub weak: bool,
    /// When the present state or step began, in milliseconds since 1970.
    pub since_ms: i64,
    /// The latest events: time in milliseconds since 1970, and kind.
    pub recent: VecDeque<(i64, &'static str)>,
}

/// What goes on in a bay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BayState {
    /// Empty and ready.
    Waiting {
        /// Whether a label has to be scanned for it.
        for_scan: bool,
    },
    /// A unit is being provisioned; see [`FloorBay::step`].
    Working,
    /// The attempt ended; the unit is still there.
    Finished(Outcome),
    /// Out of service.
    Out(Fault),
}

/// How an attempt ended, and what is to be told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// The unit, if it said who it is.
    pub device: Option<DeviceId>,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Why, where the verdict is no good one.
    pub fault: Option<Fault>,
    /// How many bytes of the global endpoint an injected unit gave back, where that was not all of it.
    pub endpoint_prefix: Option<usize>,
}

/// The steps of an attempt, in order, as an operator knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The unit is asked who it is.
    Identify,
    /// The product's policy is applied.
    Policy,
    /// The identity key is made or read.
    Key,
    /// A certificate is issued.
    Certificate,
    /// Certificate and configuration are written.
    Write,
    /// The unit starts anew.
    Restart,
    /// What it holds is read back.
    ReadBack,
    /// It uses its identity.
    Prove,
    /// Its provisioning commands are locked.
    Seal,
}

impl FloorBay {
    /// The word for what the bay shows: a verdict, a step, `Waiting` or `OUT OF SERVICE`.
    pub fn word(&self) -> &'static str {
        match &self.state {
            BayState::Waiting { .. } if self.weak => "WEAK LINK",
            BayState::Waiting { .. } => "Waiting",
            BayState::Working => self.step.map_or("Working", Step::word),
            BayState::Finished(outcome) => outcome.verdict.word(),
            BayState::Out(_) => "OUT OF SERVICE",
        }
    }

    /// The same in at most nine characters.
    pub fn short_word(&self) -> &'static str {
        match &self.state {
            BayState::Finished(outcome) => outcome.verdict.short(),
            BayState::Out(_) => "OUT",
            BayState::Working if self.step == Some(Step::Certificate) => "Cert",
            _ => self.word(),
        }
    }

    pub(super) fn new(name: String, at_ms: i64) -> Self {
        Self {
            name,
            port: String::new(),
            state: BayState::Waiting { for_scan: false },
            step: None,
            device: None,
            registration_id: None,
            scanned: None,
            unacknowledged: None,
            health: LinkHealth::default(),
            weak: false,
            since_ms: at_ms,
            recent: VecDeque::new(),
        }
    }

    /// The bay is empty: forgets the unit, not what is unacknowledged.
    pub(super) fn clear(&mut self, at_ms: i64, state: BayState) {
        self.state = state;
        self.step = None;
        self.device = None;
        self.registration_id = None;
        self.since_ms = at_ms;
    }

    pub(super) fn removed(&mut self, at_ms: i64) {
        self.scanned = None;
        if !matches!(self.state, BayState::Out(_)) {
            self.clear(at_ms, BayState::Waiting { for_scan: false });
        }
    }

    pub(super) fn put_out(&mut self, at_ms: i64, fault: &Fault) {
        self.unacknowledged = Some(Outcome::of_fault(Verdict::Errored, None, at_ms, fault));
        self.clear(at_ms, BayState::Out(fault.clone()));
    }

    pub(super) fn apply(&mut self, recorded: &Recorded) {
        let at_ms = recorded.at_ms;
        self.recent.push_back((at_ms, recorded.event.kind()));
        if self.recent.len() > RECENT_EVENTS {
            self.recent.pop_front();
        }
        if let Some(device) = &recorded.device {
            self.device = Some(device.clone());
        }
        let device = || self.device.clone();
        match &recorded.event {
            Event::Arrived { .. } => self.clear(at_ms, BayState::Working),
            Event::Identified { .. } => self.device = recorded.event.identified().cloned(),
            Event::RegistrationIdDerived { registration_id } => {
                self.registration_id = Some(registration_id.clone());
            }
            Event::Passed { enrollment } => {
                self.registration_id = Some(enrollment.registration_id.clone());
                self.finish(Outcome::good(Verdict::Passed, self.device.clone(), at_ms));
            }
            Event::Recognised { .. } => {
                self.finish(Outcome::good(Verdict::Recognised, device(), at_ms));
            }
            Event::Injected {
                endpoint_prefix, ..
            } => {
                self.finish(Outcome {
                    endpoint_prefix: *endpoint_prefix,
                    ..Outcome::good(Verdict::Injected, device(), at_ms)
                });
            }
            Event::Failed { fault, .. } => {
                self.finish(Outcome::of_fault(Verdict::Failed, device(), at_ms, fault));
            }
            Event::Errored { fault } => {
                self.finish(Outcome::of_fault(Verdict::Errored, device(), at_ms, fault));
            }
            Event::Interrupted { fault } => {
                let verdict = match (&recorded.device, fault.blame()) {
                    (Some(_), _) => Verdict::Interrupted,
                    // Nobody there who could come back to be judged: the fault is the verdict.
                    (None, Blame::Device) => Verdict::Failed,
                    (None, Blame::Station | Blame::Cloud) => Verdict::Errored,
                };
                self.finish(Outcome::of_fault(verdict, device(), at_ms, fault));
            }
            _ => {}
        }
        if let Some(step) = Step::after(&recorded.event, self.step) {
            self.state = BayState::Working;
            self.step = Some(step);
            self.since_ms = at_ms;
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        self.since_ms = outcome.at_ms;
        if outcome.verdict.must_acknowledge() {
            self.unacknowledged = Some(outcome.clone());
        }
        self.state = BayState::Finished(outcome);
    }
}

impl Outcome {
    fn good(verdict: Verdict, device: Option<DeviceId>, at_ms: i64) -> Self {
        Self {
            verdict,
            device,
            at_ms,
            fault: None,
            endpoint_prefix: None,
        }
    }

    fn of_fault(verdict: Verdict, device: Option<DeviceId>, at_ms: i64, fault: &Fault) -> Self {
        Self {
            fault: Some(fault.clone()),
            ..Self::good(verdict, device, at_ms)
        }
    }
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 9] = [
        Self::Identify,
        Self::Policy,
        Self::Key,
        Self::Certificate,
        Self::Write,
        Self::Restart,
        Self::ReadBack,
        Self::Prove,
        Self::Seal,
    ];

    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Identify => "Identify",
            Self::Policy => "Policy",
            Self::Key => "Key",
            Self::Certificate => "Certificate",
            Self::Write => "Write",
            Self::Restart => "Restart",
            Self::ReadBack => "Read back",
            Self::Prove => "Prove",
            Self::Seal => "Seal",
        }
    }

    /// Its place among the steps, from 1.
    pub fn number(self) -> usize {
        self as usize + 1
    }

    /// The step that begins with `event`; `None` where the event begins none.
    fn after(event: &Event, present: Option<Self>) -> Option<Self> {
        Some(match event {
            Event::Arrived { .. } => Self::Identify,
            Event::Identified { .. } => Self::Policy,
            Event::Accepted { .. } => Self::Key,
            Event::KeyRead { .. } | Event::SerialReserved { .. } => Self::Certificate,
            Event::EndorsementRead(_) | Event::Signed { .. } => Self::Write,
            // Follows the key of either kind, of which only the TPM's needs no certificate; or there is no key.
            Event::RegistrationIdDerived { .. } => match present? {
                Self::Key => Self::Write,
                present => present.max(Self::Certificate),
            },
            Event::Written { .. } => Self::Restart,
            Event::Restarted { .. } => Self::ReadBack,
            Event::ReadBack { .. } => Self::Prove,
            Event::Proved { .. } => Self::Seal,
            _ => return None,
        })
    }
}
