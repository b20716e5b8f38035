//! The TPM's part of a job: its commands travel on the bay's own link, and what comes back is left to the job to judge.

use super::perform::{Work, random};
use crate::link::{DeviceLink, LinkError};
use crate::provision::device::RegistrationId;
use crate::provision::endorsement;
use crate::provision::endorsement::credential::{
    Challenge, ChallengeItems, ChallengeSeeds, sas_to_sign,
};
use crate::provision::endorsement::template::{EndorsementKey, StorageKey};
use crate::provision::event::EndorsementRecord;
use crate::provision::fault::Fault;
use crate::provision::job::Fact;
use crate::tpm::{self, CommandRecord, Relay, TpmError, jobs};
use std::fmt::Display;
use std::sync::Arc;

/// How long the token of a rehearsal would be valid, in seconds; nobody ever gets it.
const REHEARSAL_LIFETIME: i64 = 300;

/// Carries TPM commands over a device's link, and keeps the link's own fault aside.
struct OverLink<'a> {
    link: &'a mut DeviceLink,
    fault: Option<LinkError>,
}

impl Relay for OverLink<'_> {
    type Error = String;

    async fn transact(&mut self, command: Vec<u8>) -> Result<Vec<u8>, String> {
        self.link.tpm(&command).await.map_err(|error| {
            let text = error.to_string();
            self.fault = Some(error);
            text
        })
    }
}

impl Work<'_> {
    /// Reads endorsement key, storage root key and EK certificate.
    pub(super) async fn read_endorsement(&mut self, step: &'static str) -> Fact {
        self.endorsement(step).await.unwrap_or_else(|fact| fact)
    }

    async fn endorsement(&mut self, step: &'static str) -> Result<Fact, Fact> {
        let product = Arc::clone(&self.made.product);
        let empty = product.empty_handle;
        let read = move |context: &mut _| jobs::extract(context, empty);
        let found = self.on_tpm(step, read).await?;
        let at_ms = (self.clock)();
        let wants_chain = endorsement::depends_on_chain(
            &found.endorsement_key,
            found.certificate.as_deref(),
            &product.endorsement,
            &product.vendor_roots,
            at_ms / 1000,
        );
        let chain = match wants_chain {
            true => self.on_tpm(step, jobs::read_chain).await?,
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
        step: &'static str,
        endorsement: &EndorsementRecord,
        registration_id: &RegistrationId,
    ) -> Fact {
        let expiry = (self.clock)() / 1000 + REHEARSAL_LIFETIME;
        let id_scope = &self.made.product.dps.id_scope;
        let signed = sas_to_sign(id_scope, registration_id, expiry.unsigned_abs());
        let (ek, srk, challenge, items) = match challenge(endorsement) {
            Ok(made) => made,
            Err(why) => return Fact::Fault(no_challenge(&why)),
        };
        let text = signed.clone();
        let job = move |context: &mut _| jobs::rehearse(context, &ek, &srk, &items, &text);
        match self.on_tpm(step, job).await {
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
        step: &'static str,
        job: impl FnOnce(&mut tss_esapi::Context) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, Fact> {
        let mut relay = OverLink {
            link: self.link,
            fault: None,
        };
        let mut log: Vec<CommandRecord> = Vec::new();
        match tpm::run(&mut relay, &mut log, self.tpm_limit, job).await {
            Ok(done) => Ok(done),
            Err(error) => Err(match relay.fault {
                Some(silent @ LinkError::Silent { .. }) => self.stalled(&silent, step),
                Some(fault) => self.link_fact(&fault, step),
                None if matches!(error, TpmError::Deadline { .. }) => self.stalled(&error, step),
                None => Fact::Fault(tpm_fault(self.bay, &error)),
            }),
        }
    }

    /// Nothing came back from the TPM, and nothing tells it from a device that went silent just then: several units in
    /// a row make it the bay's matter.
    fn stalled(&mut self, how: &impl Display, step: &'static str) -> Fact {
        let what = format!("bay {}: {how}", self.bay);
        let next =
            "check plug and power, then put the unit in again; set it aside if that does not help";
        let fault = Fault::device("tpm_stalled", what, next);
        let unit = Some(&self.last.device_id);
        Fact::Fault(self.silences.judge(self.bay, step, unit, fault))
    }
}

type Made = (EndorsementKey, StorageKey, Challenge, ChallengeItems);

fn challenge(endorsement: &EndorsementRecord) -> Result<Made, String> {
    let ek = EndorsementKey::parse(&endorsement.endorsement_key.0).map_err(|e| format!("{e:?}"))?;
    let srk = StorageKey::parse(&endorsement.storage_root_key.0).map_err(|e| format!("{e:?}"))?;
    let seeds = ChallengeSeeds {
        inner: random(),
        credential: random(),
        obfuscation: random(),
        wrap: random(),
        key: random(),
    };
    let challenge = Challenge::make(&ek, &srk, &seeds).map_err(|e| format!("{e:?}"))?;
    let items = ChallengeItems::parse(&challenge.blob).map_err(|e| format!("{e:?}"))?;
    Ok((ek, srk, challenge, items))
}

fn no_challenge(why: &str) -> Fault {
    let what = format!("no challenge can be made for the TPM ({why})");
    Fault::station("no_challenge", what, "run `station ledger verify`")
}

/// Whose matter a fault of the TPM is.
fn tpm_fault(bay: &str, error: &TpmError) -> Fault {
    let what = format!("bay {bay}: {error}");
    let set_aside = "set the unit aside and call the process engineer";
    match error {
        TpmError::Template { .. } => Fault::device("ek_template", what, set_aside),
        TpmError::AnotherKey { .. } => Fault::device("other_tpm", what, set_aside),
        TpmError::NotActivated(_) => Fault::device("ek_not_proved", what, set_aside),
        TpmError::Name { .. } | TpmError::Malformed { .. } => Fault::device(
            "tpm_garbled",
            what,
            "put the unit in again; set it aside if that does not help",
        ),
        TpmError::Command { .. }
        | TpmError::Raw { .. }
        | TpmError::Link { .. }
        | TpmError::Deadline { .. } => Fault::device("tpm_failed", what, set_aside),
        TpmError::NotAllowed(_)
        | TpmError::TooMany(_)
        | TpmError::TooLong { .. }
        | TpmError::Roots { .. }
        | TpmError::Bridge(_) => Fault::station("tpm_bridge", what, "start the station again"),
    }
}
