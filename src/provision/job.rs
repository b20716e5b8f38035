//! The job: what comes next for one device, by one transition table for live running and for recovery.
//!
//! Invariant: [`Job::apply`] is the only way for a job to move, it takes nothing but recorded events, and an event that
//! does not fit is an error, never an interpretation. Each attempt walks the whole ladder; what is already on record
//! makes its steps short, and a signature is never asked for twice.
//!
//! A device takes a few commits, not one for each event: a copy of the job ([`Job::ahead`]) runs ahead over events that
//! are not on record yet, as far as there is nothing to do but what may safely be done again.
//! [`Job::must_be_on_record`] says where it has to wait for them.

mod ahead;
mod effect;
mod identity;
mod judge;

pub use effect::{Effect, Fact, Next};

use super::bytes::{Blob, Digest};
use super::content::Filled;
use super::device::{Attestation, DeviceId, Holding, Identification, RegistrationId, SerialNumber};
use super::event::{EnrollmentRecord, Event, Recorded, Reservation};
use super::fault::{Fault, Unsigned};
use super::injected::Observed;
use super::naming::IdSource;
use super::product::Product;
use super::verdict::Verdict;
use identity::{Certificate, DeviceKey, Identity};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One device's provisioning, over all its attempts.
#[derive(Clone)]
pub struct Job {
    device: DeviceId,
    product: Arc<Product>,
    identification: Option<Identification>,
    scanned: Option<String>,
    stage: Stage,
    known: Known,
    /// The shift that is open; empty where none is, or where its product does not ask.
    shift: String,
}

/// Where the present attempt stands.
#[derive(Clone, Debug)]
enum Stage {
    Identified,
    Accepted,
    /// Its key is known, or its firmware is stock and has none.
    KeyKnown {
        /// Whether a certificate for the key is on record, or none is needed.
        certified: bool,
    },
    Named,
    Reserved {
        /// What is to be signed, until it is asked for.
        unasked: Option<SerialNumber>,
    },
    /// Asked for, and spent without a certificate.
    Unsigned(Unsigned),
    Certified,
    Written,
    Restarted,
    ReadBack(Observed),
    Proved,
    Sealed,
    Ended(Verdict),
}

/// What the ledger knows of the device, whatever attempt it comes from.
#[derive(Clone, Debug, Default)]
struct Known {
    /// What identifies the device. The product may have asked for another attestation before than it does now.
    identities: BTreeMap<Attestation, Identity>,
    registration_id: Option<RegistrationId>,
    /// A reservation whose outcome is not on record.
    open: Option<Reservation>,
    /// What was read back and proved last, unless anything but the seal has happened since.
    proved: Option<Holding>,
    passed: bool,
    /// Something was reserved, signed or written under the device's ID.
    used: bool,
}

/// An event that does not fit where the job stands: the record is damaged or the program is wrong.
#[derive(Debug, thiserror::Error)]
#[error("a recorded {kind} does not follow from what stands before it for {device}")]
pub struct IllegalTransition {
    /// The event's kind.
    pub kind: &'static str,
    /// The device.
    pub device: DeviceId,
}

impl Job {
    /// Rebuilds the job of `device` from everything on record for it; the last attempt must have been identified.
    pub fn recover(
        device: DeviceId,
        product: Arc<Product>,
        events: &[Recorded],
    ) -> Result<Self, IllegalTransition> {
        let mut job = Self {
            device,
            product,
            identification: None,
            scanned: None,
            stage: Stage::Ended(Verdict::Interrupted),
            known: Known::default(),
            shift: String::new(),
        };
        for recorded in events {
            job.apply(recorded)?;
        }
        // Whoever recorded it may have had it signed: a reservation that is found is only ever given up.
        if let Stage::Reserved { unasked } = &mut job.stage {
            *unasked = None;
        }
        Ok(job)
    }

    /// The shift that its unit is made in, where its product asks for that.
    pub fn in_shift(&mut self, shift: String) {
        self.shift = shift;
    }

    /// What to do now. A signature is asked for once: asked again what to do, the job gives the reservation up.
    #[allow(clippy::should_implement_trait)] // the word for it; a job is no iterator
    pub fn next(&mut self) -> Next {
        match &mut self.stage {
            Stage::Ended(disposition) => Next::Done(*disposition),
            Stage::Reserved { unasked } => match unasked.take() {
                Some(serial) => Next::Do(Effect::Sign { serial }),
                None => self.abandon(Unsigned::OutcomeUnknown),
            },
            Stage::Unsigned(why) => Next::Record(Event::Errored {
                fault: Fault::NotSigned { why: why.clone() },
            }),
            Stage::Identified => self.after_identification(),
            Stage::Accepted => self.after_acceptance(),
            Stage::KeyKnown { .. } => Next::Record(Event::RegistrationIdDerived {
                registration_id: self.derived_id(),
            }),
            Stage::Named => self.after_naming(),
            Stage::Certified => Next::Do(Effect::Write {
                holding: self.asked(),
                chain: self.chain(),
                assigned: self.product.naming.injects().then(|| self.device.clone()),
            }),
            Stage::Written => Next::Do(Effect::Restart),
            Stage::Restarted => Next::Do(Effect::ReadBack {
                holding: self.asked(),
                chain: self.chain(),
            }),
            Stage::ReadBack(_) => self.after_read_back(),
            Stage::Proved => Next::Do(Effect::Seal {
                holds: self.asked().digest(),
            }),
            Stage::Sealed => Next::Record(match self.enrollment() {
                Some(enrollment) => Event::Passed { enrollment },
                None => Event::Errored {
                    fault: self.incomplete(),
                },
            }),
        }
    }

    /// Moves by a recorded event; the only way to move.
    pub fn apply(&mut self, recorded: &Recorded) -> Result<(), IllegalTransition> {
        self.foresee(&recorded.event)
    }

    /// Moves a copy that runs [ahead](Job::ahead) by an event that is not on record yet.
    pub fn foresee(&mut self, event: &Event) -> Result<(), IllegalTransition> {
        let stage = std::mem::replace(&mut self.stage, Stage::Ended(Verdict::Interrupted));
        let next = self.transition(stage, event);
        self.stage = next.ok_or_else(|| IllegalTransition {
            kind: event.kind(),
            device: self.device.clone(),
        })?;
        Ok(())
    }

    /// What is to be recorded after this event where the device's ID may go to another unit: the station gave it, the
    /// unit failed, and nothing was reserved, signed or written under it.
    pub fn returned_id(&self, event: &Event) -> Option<Event> {
        let Event::Failed { fault, .. } = event else {
            return None;
        };
        let unit = self.identification.as_ref()?;
        let free = self.product.naming.source == IdSource::Allocated && !self.known.used;
        free.then(|| Event::IdReturned {
            device_id: self.device.clone(),
            uid: unit.uid.clone(),
            reason: Box::new(fault.clone()),
        })
    }

    /// Digest of the product's definition that is in force.
    pub fn product_digest(&self) -> Option<Digest> {
        self.product.digest
    }

    /// The transition table: what moves from anywhere, then the ladder, with the reservation's part apart.
    fn transition(&mut self, stage: Stage, event: &Event) -> Option<Stage> {
        match (stage, event) {
            (
                _,
                Event::Identified {
                    identification,
                    scanned,
                    ..
                },
            ) => {
                self.identification = Some(identification.clone());
                self.scanned = scanned.clone();
                Some(Stage::Identified)
            }
            // What stands before it is of a unit that gave the ID back.
            (stage @ Stage::Ended(_), Event::IdCheckedOut { .. }) => {
                self.known = Known::default();
                Some(stage)
            }
            // What became of an ID or an enrollment is recorded whenever it is known, and does not move the job.
            (
                stage,
                Event::IdReturned { .. }
                | Event::Enrolled { .. }
                | Event::EnrollmentRefused { .. }
                | Event::EnrollmentDisabled { .. }
                | Event::EnrollmentRetried { .. }
                | Event::EnrollmentDeferred { .. },
            ) => Some(stage),
            (Stage::Ended(_), _) => None,
            (stage, Event::LinkMeasured { .. }) => Some(stage),
            (_, Event::Interrupted { .. }) => Some(Stage::Ended(Verdict::Interrupted)),
            (_, Event::Failed { .. }) => Some(Stage::Ended(Verdict::Failed)),
            (_, Event::Errored { .. }) => Some(Stage::Ended(Verdict::Errored)),
            (
                stage,
                Event::SerialReserved { .. } | Event::SerialAbandoned { .. } | Event::Signed { .. },
            ) => self.sign(stage, event),
            (stage, event) => self.climb(stage, event),
        }
    }

    /// The ladder.
    fn climb(&mut self, stage: Stage, event: &Event) -> Option<Stage> {
        Some(match (stage, event) {
            (Stage::Identified, Event::Accepted { .. }) => {
                self.known.passed = false;
                self.known.proved = None;
                match self.is_stock() {
                    true => Stage::KeyKnown { certified: true },
                    false => Stage::Accepted,
                }
            }
            (Stage::Identified, Event::Recognised { .. }) if self.known.passed => {
                Stage::Ended(Verdict::Recognised)
            }
            (Stage::Identified, Event::Sealed { .. }) if self.known.proved.is_some() => {
                Stage::Sealed
            }
            (Stage::Accepted, Event::KeyRead { csr, public_key }) => {
                let key = DeviceKey {
                    csr: csr.clone(),
                    public_key: public_key.clone(),
                    certificate: self.known.certificate().cloned(),
                };
                let certified = key
                    .certificate
                    .as_ref()
                    .is_some_and(|c| c.is_for(public_key));
                self.known.learn(Identity::X509(key));
                Stage::KeyKnown { certified }
            }
            (Stage::Accepted, Event::EndorsementRead(record)) => {
                self.known.learn(Identity::Tpm(record.clone()));
                Stage::KeyKnown { certified: true }
            }
            (Stage::KeyKnown { certified }, Event::RegistrationIdDerived { registration_id }) => {
                self.known.registration_id = Some(registration_id.clone());
                match certified {
                    true => Stage::Certified,
                    false => Stage::Named,
                }
            }
            (Stage::Certified, Event::Written { .. }) => {
                self.known.used = true;
                Stage::Written
            }
            (Stage::Written, Event::Restarted { .. }) => Stage::Restarted,
            (Stage::Restarted, event) => Stage::ReadBack(event.observed()?),
            (Stage::ReadBack(_), Event::Injected { .. }) if self.is_stock() => {
                Stage::Ended(Verdict::Injected)
            }
            (Stage::ReadBack(observed), Event::Proved { .. }) if !self.is_stock() => {
                self.known.proved = Some(observed.holding);
                Stage::Proved
            }
            (Stage::Proved, Event::Sealed { .. }) => Stage::Sealed,
            (Stage::Sealed, Event::Passed { .. }) => {
                self.known.passed = true;
                Stage::Ended(Verdict::Passed)
            }
            _ => return None,
        })
    }

    /// The reservation's part of the ladder: reserved, then signed or given up, and never signed again.
    fn sign(&mut self, stage: Stage, event: &Event) -> Option<Stage> {
        Some(match (stage, event) {
            (Stage::Named, Event::SerialReserved { reservation }) if self.known.open.is_none() => {
                self.known.open = Some(reservation.clone());
                self.known.used = true;
                Stage::Reserved {
                    unasked: Some(reservation.serial.clone()),
                }
            }
            (Stage::Named, Event::SerialAbandoned { serial, .. }) => {
                self.known.open.take_if(|open| open.serial == *serial)?;
                Stage::Named
            }
            (Stage::Reserved { .. }, Event::SerialAbandoned { serial, reason }) => {
                self.known.open.take_if(|open| open.serial == *serial)?;
                Stage::Unsigned(reason.clone())
            }
            (Stage::Reserved { .. }, Event::Signed { serial, result }) => {
                self.known.open.take_if(|open| open.serial == *serial)?;
                let key = self.known.key_mut()?;
                key.certificate = Some(Certificate {
                    der: result.clone(),
                    public_key: key.public_key.clone(),
                });
                Stage::Certified
            }
            _ => return None,
        })
    }

    /// The events that end an attempt whose station or device is gone.
    ///
    /// A reservation that is still open was perhaps signed: its serial number is given up first.
    pub fn interrupted(&self, fault: Fault) -> Vec<Event> {
        if matches!(self.stage, Stage::Ended(_)) {
            return Vec::new();
        }
        let abandoned = self.known.open.as_ref().map(|open| Event::SerialAbandoned {
            serial: open.serial.clone(),
            reason: Unsigned::StationStopped,
        });
        abandoned
            .into_iter()
            .chain([Event::Interrupted { fault }])
            .collect()
    }

    fn after_identification(&self) -> Next {
        let Some(device) = &self.identification else {
            return Next::Record(Event::Errored {
                fault: self.incomplete(),
            });
        };
        if let Some(event) = self.judge_label() {
            return Next::Record(event);
        }
        let held = self.known.proved.as_ref().map(Holding::digest);
        Next::Record(if !device.sealed {
            match self.product.accept(&self.device, device) {
                Ok(()) => Event::Accepted {
                    product: self.product.name.clone(),
                    product_digest: self.product.digest.unwrap_or_else(|| Digest::of(b"")),
                },
                Err(fault) => self.verdict(fault),
            }
        } else if held != Some(device.holds) {
            self.verdict(Fault::SealedUnknown {
                device: self.device.clone(),
            })
        } else if self.known.passed {
            Event::Recognised {
                holds: device.holds,
            }
        } else {
            Event::Sealed {
                holds: device.holds,
            }
        })
    }

    fn after_acceptance(&self) -> Next {
        match self.product.attestation {
            Some(Attestation::X509) => Next::Do(Effect::RequestCertificate {
                common_name: self.device.to_string(),
            }),
            Some(Attestation::Tpm) => Next::Do(Effect::ReadEndorsement),
            None => Next::Record(Event::Errored {
                fault: self.incomplete(),
            }),
        }
    }

    fn after_naming(&mut self) -> Next {
        if self.known.open.is_some() {
            return self.abandon(Unsigned::AttemptEnded);
        }
        match self.identity() {
            Some(Identity::X509(key)) => Next::Do(Effect::Draft {
                csr: key.csr.clone(),
                common_name: self.device.to_string(),
            }),
            _ => Next::Record(Event::Errored {
                fault: self.incomplete(),
            }),
        }
    }

    fn abandon(&self, reason: Unsigned) -> Next {
        Next::Record(match &self.known.open {
            Some(open) => Event::SerialAbandoned {
                serial: open.serial.clone(),
                reason,
            },
            None => Event::Errored {
                fault: self.incomplete(),
            },
        })
    }

    /// What identifies the device to the product as it is now, so far as it is on record.
    fn identity(&self) -> Option<&Identity> {
        self.known.identities.get(&self.product.attestation?)
    }

    /// The registration ID that follows from the identity.
    fn derived_id(&self) -> RegistrationId {
        match self.identity() {
            Some(Identity::Tpm(record)) => {
                RegistrationId::of_endorsement_key(&record.endorsement_key.0)
            }
            Some(Identity::X509(_)) | None => RegistrationId::of_device(&self.device),
        }
    }

    /// Whether the device said in this attempt that its firmware is stock. The record decides, not the product: a
    /// device may have had other firmware before.
    fn is_stock(&self) -> bool {
        self.identification
            .as_ref()
            .is_some_and(|device| device.stock)
    }

    /// What the device is asked to hold.
    fn asked(&self) -> Holding {
        let id = self
            .known
            .registration_id
            .clone()
            .unwrap_or_else(|| self.derived_id());
        self.product.holding(&id, self.leaf())
    }

    fn leaf(&self) -> Option<&Blob> {
        match self.identity()? {
            Identity::X509(key) => key.certificate.as_ref().map(|c| &c.der),
            Identity::Tpm(_) => None,
        }
    }

    /// The certificates that the device presents, leaf first; a root is not sent (DPS facts, section 5).
    fn chain(&self) -> Vec<Blob> {
        let issuing = self.product.ca.as_ref().map(|ca| ca.issuing.clone());
        self.leaf()
            .cloned()
            .into_iter()
            .flat_map(|leaf| [Some(leaf), issuing.clone()])
            .flatten()
            .collect()
    }

    /// What is to be enrolled; none while the identity is not complete.
    fn enrollment(&self) -> Option<EnrollmentRecord> {
        let identity = self.identity()?.reference()?;
        let id = self.known.registration_id.as_ref()?;
        let said = self.identification.as_ref();
        let filled = Filled {
            shift: self.shift.clone(),
            firmware: said.map_or(String::new(), |said| said.firmware.clone()),
        };
        let enrollment = self.product.enrollment(&self.device, id, identity, &filled);
        Some(enrollment)
    }

    fn incomplete(&self) -> Fault {
        Fault::RecordIncomplete {
            device: self.device.clone(),
        }
    }
}
