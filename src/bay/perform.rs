//! Effects performed: each turns what the job asks for into what was found, within its deadline.

use super::faults::{cannot_be_read_back, link_fault, no_ca, step_name};
use super::memory::Silences;
use super::presence::{PRESENCE_TIMEOUT, find};
use super::{LineProduct, Signer};
use crate::ledger::Reserved;
use crate::link::smp::group::Code;
use crate::link::{DeviceLink, LinkError, LinkHealth};
use crate::provision::bytes::{Blob, Digest};
use crate::provision::certificate::{Csr, draft_leaf};
use crate::provision::device::{DeviceId, Identification, SerialNumber};
use crate::provision::event::Event;
use crate::provision::fault::{Fault, Mismatch, Unsigned};
use crate::provision::injected::Observed;
use crate::provision::job::{Effect, Fact};
use std::time::Duration;

/// What an attempt works with.
pub(super) struct Work<'a> {
    /// The bay's name.
    pub bay: &'a str,
    /// The device.
    pub link: &'a mut DeviceLink,
    /// The longest that all TPM commands of one step may take.
    pub tpm_limit: Duration,
    /// What it should become.
    pub made: &'a LineProduct,
    /// What it is to be called.
    pub device: &'a DeviceId,
    /// Milliseconds since 1970.
    pub clock: fn() -> i64,
    /// The units that fell silent in this bay.
    pub silences: &'a mut Silences,
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
        let step = step_name(&effect);
        match effect {
            Effect::Sign { serial } => self.sign(&serial).await,
            Effect::ReadEndorsement => self.read_endorsement(step).await,
            Effect::Rehearse {
                endorsement,
                registration_id,
            } => self.rehearse(step, &endorsement, &registration_id).await,
            Effect::Draft { csr, common_name } => self.draft(&csr, &common_name),
            effect => match tokio::time::timeout(self.made.step_deadline, self.ask(effect)).await {
                Ok(Ok(fact)) => fact,
                Ok(Err(error)) => self.link_fact(&error, step),
                Err(_) => Fact::Fault(self.too_slow(step)),
            },
        }
    }

    /// Effects that are a dialogue with the device.
    async fn ask(&mut self, effect: Effect) -> Result<Fact, LinkError> {
        Ok(match effect {
            Effect::RequestCertificate { common_name } => {
                Fact::Request(self.link.make_key(&common_name).await?)
            }
            Effect::Write {
                holding,
                chain,
                assigned,
            } => {
                if let Err(why) = self.made.injection.fits(&holding) {
                    return Ok(Fact::Fault(cannot_be_read_back(why)));
                }
                let chain: Vec<Vec<u8>> = chain.into_iter().map(|der| der.0).collect();
                if !chain.is_empty() {
                    self.link.install(&chain).await?;
                }
                if let Some(id) = &assigned {
                    self.link.assign(id, &self.made.injection).await?;
                }
                self.link.inject(&holding, &self.made.injection).await?;
                Fact::Written(holding)
            }
            Effect::Restart => self.restart().await?,
            Effect::ReadBack if self.last.stock => {
                Fact::Observed(self.link.observe(&self.made.injection).await?, Vec::new())
            }
            Effect::ReadBack => {
                let read = self.link.read_back(&self.made.injection).await?;
                let chain = read.chain.into_iter().map(Blob).collect();
                Fact::Observed(Observed::whole(read.holding), chain)
            }
            Effect::ProveKey => {
                let nonce = random();
                let signature = match self.link.sign(nonce).await {
                    Err(error) if error.code() == Some(Code::NoKey) => {
                        return Ok(Fact::Fault(self.key_lost()));
                    }
                    signed => signed?,
                };
                Fact::KeyProof {
                    nonce: Digest(nonce),
                    signature,
                    at_ms: (self.clock)(),
                }
            }
            Effect::Seal { holds } => Fact::Sealed(self.link.seal(holds).await?),
            Effect::Sign { .. }
            | Effect::Draft { .. }
            | Effect::ReadEndorsement
            | Effect::Rehearse { .. } => unreachable!("performed elsewhere"),
        })
    }

    /// Restarts the device that was there before, and no other.
    async fn restart(&mut self) -> Result<Fact, LinkError> {
        let (made, model) = (self.made, &self.made.product.model);
        let stock_key = made.injection.id_key.as_deref();
        let before = match stock_key {
            Some(key) => Identification::of_stock(self.link.stock_id(key).await?, model),
            None => self.link.identify().await?,
        };
        if let Some(fault) = self.changed(&before) {
            return Ok(Fact::Gone(fault));
        }
        self.resetting = true;
        self.last = match stock_key {
            Some(key) => {
                let found = self.link.restart_stock(key, &made.injection).await?;
                Identification::of_stock(found, model)
            }
            None => self.link.restart_from(&before).await?,
        };
        self.resetting = false;
        Ok(Fact::Restarted(self.last.clone()))
    }

    /// What was counted on the link in this attempt.
    pub fn measured(&self) -> LinkHealth {
        self.link.health().since(self.began)
    }

    /// The event, if it is about the unit that is in the bay: a FAIL must not hit one that was swapped, or that lost
    /// power, in the middle of its job.
    pub async fn of_the_unit_here(&mut self, event: Event) -> Event {
        if !matches!(event, Event::Failed { .. }) {
            return event;
        }
        let now = find(self.link, std::slice::from_ref(self.made), PRESENCE_TIMEOUT).await;
        match now.ok().and_then(|now| self.changed(&now)) {
            Some(fault) => Event::Interrupted { fault },
            None => event,
        }
    }

    /// What is to be said when the device is another one than before, or has started anew by itself.
    fn changed(&self, now: &Identification) -> Option<Fault> {
        let (before, bay) = (&self.last, self.bay);
        let renamed = now.device_id != before.device_id && now.device_id != *self.device;
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
        let what = format!(
            "bay {bay}: {} started anew in the middle of its job",
            now.device_id
        );
        let next = "check plug and power, then put the unit in again";
        Some(Fault::device("power_lost", what, next))
    }

    /// What a fault of the link at a step means.
    pub(super) fn link_fact(&mut self, error: &LinkError, step: &'static str) -> Fact {
        let fault = link_fault(self.bay, error);
        match error {
            LinkError::Gone { .. } | LinkError::Io { .. } | LinkError::Swapped { .. } => {
                Fact::Gone(fault)
            }
            LinkError::Silent { .. } => {
                let unit = Some(&self.last.device_id);
                Fact::Fault(self.silences.judge(self.bay, step, unit, fault))
            }
            _ => Fact::Fault(fault),
        }
    }

    fn too_slow(&self, step: &str) -> Fault {
        let what = format!(
            "bay {}: {step} took longer than {} ms",
            self.bay,
            self.made.step_deadline.as_millis()
        );
        Fault::device(
            "too_slow",
            what,
            "put the unit in again; set it aside if that does not help",
        )
    }

    fn key_lost(&self) -> Fault {
        Fault::DoesNotHold {
            device: self.last.device_id.clone(),
            how: Mismatch::KeyLost,
        }
    }

    fn draft(&self, csr: &Blob, common_name: &str) -> Fact {
        let Some(signer) = &self.made.signer else {
            return Fact::Fault(no_ca(&self.made.product.name));
        };
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
        let Some(Signer { hsm, label, .. }) = &self.made.signer else {
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
