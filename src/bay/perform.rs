//! Effects performed: each turns what the job asks for into what was found, within its deadline.

use super::faults::{link_fault, no_ca, no_return, step_of, too_slow};
use super::memory::Memory;
use super::presence::PRESENCE_TIMEOUT;
use super::{Bay, CaKey, LineProduct};
use crate::ledger::Reserved;
use crate::link::{Device, Expected, LinkError, LinkHealth, Observation};
use crate::provision::bytes::{Blob, Digest};
use crate::provision::certificate::{Csr, check_ca, draft_leaf};
use crate::provision::device::{DeviceId, Holding, Identification, SerialNumber};
use crate::provision::dialogue::Grounds;
use crate::provision::event::Event;
use crate::provision::fault::{Doing, Fault, Mismatch, Unsigned};
use crate::provision::job::{Effect, Fact, Job};
use std::time::Duration;
use tokio::time::timeout;

/// What an attempt works with.
pub(super) struct Work<'a> {
    /// The bay.
    pub bay: &'a Bay,
    /// The device.
    pub device: Box<dyn Device + 'a>,
    /// The longest that all TPM commands of one step may take.
    pub tpm_limit: Duration,
    /// What it should become.
    pub made: &'a LineProduct,
    /// What it is to be called.
    pub name: &'a DeviceId,
    /// Milliseconds since 1970.
    pub clock: fn() -> i64,
    /// What the bay remembers.
    pub memory: &'a mut Memory,
    /// The link's counters when the attempt began.
    pub began: LinkHealth,
    /// The right to a signature, where the event recorded last was a reservation.
    pub reserved: Option<Reserved>,
    /// What the device last said of itself.
    pub last: Identification,
    /// Whether it was told to start anew and was not seen to have done so: its start counter may be one ahead.
    pub resetting: bool,
}

impl Work<'_> {
    /// Performs an effect. A signature is never cut off by the step's deadline, nor is the TPM: both have their own.
    pub async fn perform(&mut self, effect: Effect) -> Fact {
        let step = step_of(&effect);
        let limit = self.made.step_deadline;
        let done = match effect {
            Effect::Sign { serial } => return self.sign(&serial).await,
            Effect::Draft { csr, common_name } => return self.draft(&csr, &common_name).await,
            Effect::ReadEndorsement => return self.read_endorsement(step).await,
            Effect::Rehearse {
                endorsement,
                registration_id,
            } => return self.rehearse(step, &endorsement, &registration_id).await,
            Effect::RequestCertificate { common_name } => {
                if let Err(fault) = self.ca_can_finish() {
                    return Fact::Fault(fault);
                }
                timeout(limit, self.request_certificate(&common_name)).await
            }
            Effect::Write {
                holding,
                chain,
                assigned,
            } => timeout(limit, self.write(holding, chain, assigned)).await,
            Effect::Restart => timeout(limit, self.restart()).await,
            Effect::ReadBack { holding, chain } => {
                timeout(limit, self.read_back(&holding, &chain)).await
            }
            Effect::ProveKey => timeout(limit, self.prove_key()).await,
            Effect::Seal { holds } => timeout(limit, self.seal(holds)).await,
        };
        match done {
            Ok(Ok(fact)) => fact,
            Ok(Err(error)) => self.link_fact(&error, step),
            Err(_) => Fact::Fault(too_slow(&self.bay.name, step, limit)),
        }
    }

    /// No unit begins under a CA whose certificate it could not be finished with. This is asked for each unit, because a CA
    /// may end while the line runs.
    fn ca_can_finish(&self) -> Result<(), Fault> {
        let product = &self.made.product;
        match (&self.made.signer, &product.ca) {
            (Some(signer), Some(ca)) => {
                check_ca(&signer.issuer, &ca.root.0, &product.profile, (self.clock)())
            }
            _ => Ok(()),
        }
    }

    async fn request_certificate(&mut self, common_name: &str) -> Result<Fact, LinkError> {
        Ok(Fact::Request(self.device.make_key(common_name).await?))
    }

    /// Nothing is written that the device could not give back.
    async fn write(
        &mut self,
        holding: Holding,
        chain: Vec<Blob>,
        assigned: Option<DeviceId>,
    ) -> Result<Fact, LinkError> {
        if let Err(misfit) = self.device.can_hold(&holding) {
            return Ok(Fact::Fault(Fault::CannotBeReadBack(misfit)));
        }
        let chain: Vec<Vec<u8>> = chain.into_iter().map(|der| der.0).collect();
        if !chain.is_empty() {
            self.device.install(&chain).await?;
        }
        self.device.inject(&holding, assigned.as_ref()).await?;
        Ok(Fact::Written(holding))
    }

    /// Restarts the device that was there before, and no other.
    async fn restart(&mut self) -> Result<Fact, LinkError> {
        // Asked now, because a device that lost power since it was last asked has counted once more.
        let before = self.device.identify().await?;
        if let Some(fault) = self.changed(&before) {
            return Ok(Fact::Gone(fault));
        }
        self.resetting = true;
        self.last = self.device.restart(&before).await?;
        self.resetting = false;
        Ok(Fact::Restarted(self.last.clone()))
    }

    async fn read_back(&mut self, holding: &Holding, chain: &[Blob]) -> Result<Fact, LinkError> {
        let expected = Expected {
            holds: holding.digest(),
            says: self.last.holds,
            chain: chain.iter().flat_map(|der| &der.0).copied().collect(),
        };
        Ok(match self.device.read_back(&expected).await? {
            Observation::Values(held) => {
                let chain = held.chain.into_iter().map(Blob).collect();
                Fact::Observed(held.observed, chain)
            }
            Observation::Digests { holds, chain } => Fact::Confirmed { holds, chain },
        })
    }

    async fn prove_key(&mut self) -> Result<Fact, LinkError> {
        let nonce = random();
        let signature = match self.device.prove(nonce).await {
            Err(error) if error.grounds() == Some(Grounds::NoKey) => {
                return Ok(Fact::Fault(Fault::DoesNotHold {
                    device: self.last.device_id.clone(),
                    how: Mismatch::KeyLost,
                }));
            }
            signed => signed?,
        };
        Ok(Fact::KeyProof {
            nonce: Digest(nonce),
            signature,
            at_ms: (self.clock)(),
        })
    }

    async fn seal(&mut self, holds: Digest) -> Result<Fact, LinkError> {
        Ok(Fact::Sealed(self.device.seal(holds).await?))
    }

    /// What was counted on the link in this attempt.
    pub fn measured(&self) -> LinkHealth {
        self.device.health().since(self.began)
    }

    /// The event, if it is about the unit that is in the bay: a FAIL must not hit one that was swapped, or that lost
    /// power, in the middle of its job, nor one at whose port another program is.
    pub async fn of_the_unit_here(&mut self, event: Event) -> Event {
        let unexplained = matches!(
            &event,
            Event::Errored {
                fault: Fault::BaySilent { .. } | Fault::PortBusy { .. }
            }
        );
        if !unexplained && !matches!(event, Event::Failed { .. }) {
            return event;
        }
        if let Some(held) = self.held().await {
            return held;
        }
        if unexplained {
            return event;
        }
        let now = self.device.look(PRESENCE_TIMEOUT).await;
        match now.ok().and_then(|now| self.changed(&now)) {
            Some(fault) => Event::Interrupted { fault },
            None => event,
        }
    }

    /// The verdict on a unit that keeps starting anew, unless another program is at its port, which may be why it does.
    pub async fn of_a_unit_that_returns(&mut self, job: &Job) -> Event {
        match self.held().await {
            Some(held) => held,
            None => job.verdict(self.memory.returns.verdict(&self.bay.name, self.name)),
        }
    }

    /// The ERROR where another program has the port.
    async fn held(&mut self) -> Option<Event> {
        let fault = self.bay.holder(self.device.shared()).await?;
        self.memory.port_held();
        Some(Event::Errored { fault })
    }

    /// What is to be said when the device is another one than before, or has started anew by itself.
    fn changed(&self, now: &Identification) -> Option<Fault> {
        let before = &self.last;
        let renamed = now.device_id != before.device_id && now.device_id != *self.name;
        if renamed || !now.same_unit(before) {
            return Some(Fault::Swapped {
                found: now.device_id.clone(),
                before: Some(before.device_id.clone()),
            });
        }
        let most = before.boots.saturating_add(u64::from(self.resetting));
        if (before.boots..=most).contains(&now.boots) {
            return None;
        }
        Some(Fault::PowerLost {
            bay: self.bay.name.clone(),
            device: now.device_id.clone(),
        })
    }

    /// What a fault of the link at a step means.
    pub(super) fn link_fact(&mut self, error: &LinkError, step: Doing) -> Fact {
        let fault = link_fault(&self.bay.name, error);
        match error {
            LinkError::Gone { .. } | LinkError::Io { .. } | LinkError::Swapped { .. } => {
                Fact::Gone(fault)
            }
            // The port comes and goes with its unit, which was told to start anew.
            LinkError::PortMissing { port } if self.bay.hotplug => {
                let fault = no_return(&self.bay.name, port);
                let unit = Some(&self.last.device_id);
                let silences = &mut self.memory.silences;
                Fact::Fault(silences.judge(&self.bay.name, step, unit, fault))
            }
            LinkError::Silent { .. } => {
                let unit = Some(&self.last.device_id);
                let silences = &mut self.memory.silences;
                Fact::Fault(silences.judge(&self.bay.name, step, unit, fault))
            }
            _ => Fact::Fault(fault),
        }
    }

    /// Drafts a certificate, unless the HSM is known to be out of order: a serial number would be given up for nothing.
    async fn draft(&self, csr: &Blob, common_name: &str) -> Fact {
        let Some(signer) = &self.made.signer else {
            return Fact::Fault(no_ca(&self.made.product.name));
        };
        if let Err(error) = signer.hsm.ready(&signer.label).await {
            return Fact::Fault(Fault::Hsm(error));
        }
        let profile = &self.made.product.profile;
        let serial = SerialNumber::from_random(random());
        let drafted = Csr::parse(&csr.0, common_name, &profile.keys).and_then(|csr| {
            draft_leaf(
                &signer.issuer,
                &csr,
                common_name,
                serial,
                (self.clock)(),
                profile,
            )
        });
        match drafted {
            Ok(reservation) => Fact::Drafted(reservation),
            Err(fault) => Fact::Fault(fault),
        }
    }

    async fn sign(&mut self, serial: &SerialNumber) -> Fact {
        let Some(CaKey { hsm, label, .. }) = &self.made.signer else {
            return Fact::Fault(no_ca(&self.made.product.name));
        };
        let reserved = self.reserved.take();
        let Some(reserved) = reserved.filter(|right| right.reservation().serial == *serial) else {
            // Only who recorded the reservation has the right to have it signed.
            return Fact::Signature(Err(Unsigned::OutcomeUnknown));
        };
        Fact::Signature(
            hsm.sign(label, reserved)
                .await
                .map_err(|error| Unsigned::Fault(Box::new(Fault::Hsm(error)))),
        )
    }
}

/// Random bytes for nonces and serial numbers.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random numbers do not run out");
    bytes
}

/// Random bits for a ULID.
pub(super) fn random_u128() -> u128 {
    u128::from_be_bytes(random())
}
