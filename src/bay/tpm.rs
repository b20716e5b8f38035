//! The TPM's part of a job: its commands travel through the device, and what comes back is left to the job to judge.

use super::faults::{tpm_fault, tpm_late, tpm_silent};
use super::perform::{Work, random};
use crate::link::{Device, LinkError};
use crate::provision::device::RegistrationId;
use crate::provision::endorsement;
use crate::provision::endorsement::credential::{
    Challenge, ChallengeItems, ChallengeSeeds, sas_to_sign,
};
use crate::provision::endorsement::template::{EndorsementKey, StorageKey};
use crate::provision::event::EndorsementRecord;
use crate::provision::fault::{Doing, Fault, NoChallenge};
use crate::provision::job::Fact;
use crate::tpm::{self, CommandRecord, Limit, Relay, TpmError, jobs};
use std::sync::Arc;

/// How long the token of a rehearsal would be valid, in seconds; nobody ever gets it.
const REHEARSAL_LIFETIME: i64 = 300;

/// Carries TPM commands through a device, and keeps aside why one did not get through.
struct OverDevice<'a> {
    device: &'a mut dyn Device,
    fault: Option<LinkError>,
}

impl Relay for OverDevice<'_> {
    type Error = String;

    async fn transact(&mut self, command: Vec<u8>) -> Result<Vec<u8>, String> {
        self.device.tpm(&command).await.map_err(|error| {
            let text = format!("{error:?}");
            self.fault = Some(error);
            text
        })
    }
}

impl Work<'_> {
    /// Reads endorsement key, storage root key and EK certificate.
    pub(super) async fn read_endorsement(&mut self, step: Doing) -> Fact {
        self.endorsement(step).await.unwrap_or_else(|fact| fact)
    }

    async fn endorsement(&mut self, step: Doing) -> Result<Fact, Fact> {
        let product = Arc::clone(&self.made.product);
        let empty = product.empty_handle;
        let read = move |context: &mut _| jobs::extract(context, empty);
        let limit = Limit::from_now(self.tpm_limit);
        let found = self.on_tpm(step, limit, read).await?;
        let at_ms = (self.clock)();
        let wants_chain = endorsement::depends_on_chain(
            &found.endorsement_key,
            found.certificate.as_deref(),
            &product.endorsement,
            &product.vendor_roots,
            at_ms / 1000,
        );
        let chain = match wants_chain {
            true => self.on_tpm(step, limit, jobs::read_chain).await?,
            false => Vec::new(),
        };
        Ok(Fact::Endorsement {
            endorsement_key: Box::new(found.endorsement_key),
            storage_root_key: Box::new(found.storage_root_key),
            certificate: found.certificate,
            chain,
            persisted: found.persisted,
            at_ms,
        })
    }

    /// Plays DPS's nonce challenge against the TPM, as the device will meet it at its first boot.
    pub(super) async fn rehearse(
        &mut self,
        step: Doing,
        endorsement: &EndorsementRecord,
        registration_id: &RegistrationId,
    ) -> Fact {
        let expiry = (self.clock)() / 1000 + REHEARSAL_LIFETIME;
        let id_scope = &self.made.product.dps.id_scope;
        let signed = sas_to_sign(id_scope, registration_id, expiry.unsigned_abs());
        let (ek, srk, challenge, items) = match challenge(endorsement) {
            Ok(made) => made,
            Err(why) => {
                return Fact::Fault(Fault::NoChallenge {
                    bay: self.bay.name.clone(),
                    why,
                });
            }
        };
        let text = signed.clone();
        let job = move |context: &mut _| jobs::rehearse(context, &ek, &srk, &items, &text);
        let limit = Limit::from_now(self.tpm_limit);
        match self.on_tpm(step, limit, job).await {
            Ok(done) => Fact::Rehearsed {
                challenge: Box::new(challenge),
                signed,
                activated: done.activated,
                hmac: done.hmac,
            },
            Err(fact) => fact,
        }
    }

    /// Runs a job on the device's TPM.
    async fn on_tpm<T: Send + 'static>(
        &mut self,
        step: Doing,
        limit: Limit,
        job: impl FnOnce(&mut tss_esapi::Context) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, Fact> {
        let mut relay = OverDevice {
            device: self.device.as_mut(),
            fault: None,
        };
        let mut log: Vec<CommandRecord> = Vec::new();
        match tpm::run(&mut relay, &mut log, limit, job).await {
            Ok(done) => Ok(done),
            Err(error) => Err(match relay.fault {
                Some(fault) => match tpm_silent(&self.bay.name, &fault) {
                    Some(stalled) => self.stalled(stalled, step),
                    None => self.link_fact(&fault, step),
                },
                None => match tpm_late(&self.bay.name, &error) {
                    Some(stalled) => self.stalled(stalled, step),
                    None => Fact::Fault(tpm_fault(&self.bay.name, &self.last.device_id, &error)),
                },
            }),
        }
    }

    /// Nothing came back from the TPM, and nothing tells it from a device that went silent just then: several units in
    /// a row make it the bay's matter.
    fn stalled(&mut self, fault: Fault, step: Doing) -> Fact {
        let unit = Some(&self.last.device_id);
        let silences = &mut self.memory.silences;
        Fact::Fault(silences.judge(&self.bay.name, step, unit, fault))
    }
}

type Made = (EndorsementKey, StorageKey, Challenge, ChallengeItems);

fn challenge(endorsement: &EndorsementRecord) -> Result<Made, NoChallenge> {
    let ek = EndorsementKey::parse(&endorsement.endorsement_key.0).map_err(NoChallenge::Key)?;
    let srk = StorageKey::parse(&endorsement.storage_root_key.0).map_err(NoChallenge::Key)?;
    let seeds = ChallengeSeeds {
        inner: random(),
        credential: random(),
        obfuscation: random(),
        wrap: random(),
        key: random(),
    };
    let challenge = Challenge::make(&ek, &srk, &seeds)?;
    let items = ChallengeItems::parse(&challenge.blob)?;
    Ok((ek, srk, challenge, items))
}
