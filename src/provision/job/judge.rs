//! What a found fact means for the job: the event to record for it.
//!
//! Invariant: nothing that a device or the HSM said is recorded as true before it was checked here.

use super::identity::Identity;
use super::{Effect, Fact, Job, Next, Stage};
use crate::provision::bytes::{Blob, Digest};
use crate::provision::certificate::{self, Csr, Issuer};
use crate::provision::device::{Identification, proof_message};
use crate::provision::endorsement;
use crate::provision::endorsement::template::{EndorsementKey, StorageKey};
use crate::provision::event::{EndorsementRecord, Event, Proof};
use crate::provision::fault::{Blame, CertificateName, Fault, LabelTrouble, Mismatch, Unsigned};
use crate::provision::injected::{Agreement, Observed};

/// What was read from a TPM.
struct Found {
    endorsement_key: Box<EndorsementKey>,
    storage_root_key: Box<StorageKey>,
    certificate: Option<Vec<u8>>,
    chain: Vec<u8>,
    persisted: bool,
}

impl Job {
    /// What a fact means: the event to record for it.
    pub fn interpret(&self, fact: Fact) -> Event {
        match fact {
            Fact::Fault(fault) => self.verdict(fault),
            Fact::Gone(fault) => Event::Interrupted { fault },
            Fact::Request(csr) => self.judge_request(csr),
            Fact::Endorsement {
                endorsement_key,
                storage_root_key,
                certificate,
                chain,
                persisted,
                at_ms,
            } => {
                let found = Found {
                    endorsement_key,
                    storage_root_key,
                    certificate,
                    chain,
                    persisted,
                };
                self.judge_endorsement(found, at_ms)
            }
            Fact::Drafted(reservation) => Event::SerialReserved { reservation },
            Fact::Signature(result) => self.judge_signature(result),
            Fact::Written(asked) => Event::Written { asked },
            Fact::Restarted(found) => self.judge_restart(found),
            Fact::Observed(observed, chain) => self.judge_observation(observed, &chain),
            Fact::Confirmed { holds, chain } => self.judge_digests(holds, chain),
            Fact::KeyProof {
                nonce,
                signature,
                at_ms,
            } => self.judge_proof(nonce, signature, at_ms),
            Fact::Rehearsed {
                challenge,
                signed,
                activated,
                hmac,
            } => {
                if challenge.is_met_by(&activated, &signed, &hmac) {
                    Event::Proved {
                        proof: Proof::TpmRehearsal { signed, hmac },
                    }
                } else {
                    self.not_met()
                }
            }
            Fact::Sealed(holds) if holds == self.asked().digest() => Event::Sealed { holds },
            Fact::Sealed(_) => self.does_not_hold(Mismatch::Sealed),
        }
    }

    /// The verdict for a fault: FAIL where the unit is to blame, else ERROR.
    pub fn verdict(&self, fault: Fault) -> Event {
        match fault.blame() {
            Blame::Device => {
                let disable = self.leaf().and_then(|_| self.enrollment()).map(Box::new);
                Event::Failed { fault, disable }
            }
            Blame::Station | Blame::Cloud => Event::Errored { fault },
        }
    }

    pub(super) fn does_not_hold(&self, how: Mismatch) -> Event {
        let device = self.device.clone();
        self.verdict(Fault::DoesNotHold { device, how })
    }

    /// What is wrong with the scanned label, if anything. A wrong label on a unit that passed says nothing of the unit.
    pub(super) fn judge_label(&self) -> Option<Event> {
        let label = self.scanned.as_deref();
        if !self.product.naming.wants_scan() || label == Some(self.device.as_str()) {
            return None;
        }
        let fault = Fault::WrongLabel(LabelTrouble::OfAnother {
            label: self.scanned.clone(),
            device: self.device.clone(),
        });
        Some(match self.known.passed {
            true => Event::Interrupted { fault },
            false => self.verdict(fault),
        })
    }

    fn judge_request(&self, csr: Vec<u8>) -> Event {
        let request = match Csr::parse(&csr, self.device.as_str(), &self.product.profile.keys) {
            Ok(request) => request,
            Err(fault) => return self.verdict(fault),
        };
        let public_key = Blob(request.spki().to_vec());
        let certificate = self.known.certificate();
        if certificate.is_some_and(|certificate| !certificate.is_for(&public_key)) {
            return self.verdict(Fault::NewKey {
                device: self.device.clone(),
            });
        }
        Event::KeyRead {
            csr: Blob(csr),
            public_key,
        }
    }

    fn judge_endorsement(&self, found: Found, at_ms: i64) -> Event {
        let key = found.endorsement_key.tpm2b().clone();
        let other = |known: &Identity| match known {
            Identity::Tpm(record) => record.endorsement_key != key,
            Identity::X509(_) => false,
        };
        if self.identity().is_some_and(other) {
            return self.verdict(Fault::OtherTpm {
                device: self.device.clone(),
            });
        }
        let verdict = endorsement::judge(
            &found.endorsement_key,
            found.certificate.as_deref(),
            &found.chain,
            &self.product.endorsement,
            &self.product.vendor_roots,
            at_ms / 1000,
        );
        match verdict {
            Ok(verdict) => Event::EndorsementRead(Box::new(EndorsementRecord {
                endorsement_key: key,
                storage_root_key: found.storage_root_key.tpm2b().clone(),
                certificate: found.certificate.map(Blob),
                chain: Some(Blob(found.chain)).filter(|chain| !chain.0.is_empty()),
                persisted: found.persisted,
                verdict,
            })),
            Err(fault) => self.verdict(fault),
        }
    }

    fn not_met(&self) -> Event {
        self.verdict(Fault::ChallengeNotMet {
            device: self.device.clone(),
        })
    }

    fn judge_signature(&self, result: Result<Vec<u8>, Unsigned>) -> Event {
        let serial = self.known.open.as_ref().map(|open| open.serial.clone());
        let Some(serial) = serial else {
            return Event::Errored {
                fault: self.incomplete(),
            };
        };
        match result.and_then(|signature| self.finished(&signature)) {
            Ok(certificate) => Event::Signed {
                serial,
                result: Blob(certificate),
            },
            Err(reason) => Event::SerialAbandoned { serial, reason },
        }
    }

    /// The certificate, after its self-check.
    fn finished(&self, signature: &[u8]) -> Result<Vec<u8>, Unsigned> {
        let lacking = || Unsigned::RecordIncomplete;
        let reservation = self.known.open.as_ref().ok_or_else(lacking)?;
        let key = &self.known.key().ok_or_else(lacking)?.public_key;
        let ca = self.product.ca.as_ref().ok_or_else(lacking)?;
        let check = || {
            let issuer = Issuer::parse(&ca.name, &ca.issuing.0)?;
            let der = certificate::assemble(&reservation.tbs.0, signature);
            certificate::self_check(&der, reservation, &issuer, &key.0, self.device.as_str())?;
            Ok(der)
        };
        check().map_err(|fault: Fault| Unsigned::Fault(Box::new(fault)))
    }

    fn judge_restart(&self, found: Identification) -> Event {
        let Some(before) = &self.identification else {
            return Event::Errored {
                fault: self.incomplete(),
            };
        };
        let renamed = found.blank || found.device_id != self.device;
        if renamed && found.same_unit(before) && self.product.naming.injects() {
            let name = Some(found.device_id).filter(|_| !found.blank);
            return self.does_not_hold(Mismatch::Name(name));
        }
        if renamed || !found.same_unit(before) {
            return Event::Interrupted {
                fault: Fault::Swapped {
                    found: found.device_id,
                    before: Some(self.device.clone()),
                },
            };
        }
        // Without a counter it is the link that saw the start.
        if found.boots <= before.boots && !found.stock {
            return self.verdict(Fault::NoRestart {
                device: self.device.clone(),
            });
        }
        Event::Restarted {
            boots_before: before.boots,
            boots_after: found.boots,
        }
    }

    fn judge_observation(&self, observed: Observed, chain: &[Blob]) -> Event {
        let asked = self.chain();
        if asked.first() == chain.first() && asked != chain {
            return self.does_not_hold(Mismatch::Chain);
        }
        Event::ReadBack {
            observed: observed.holding,
            value_limit: observed.value_limit,
            by_digest: false,
        }
    }

    /// A digest that is the one of what was asked stands for the values.
    fn judge_digests(&self, holds: Digest, chain: Digest) -> Event {
        let asked = self.asked();
        let certificates: Vec<u8> = self.chain().into_iter().flat_map(|der| der.0).collect();
        if holds != asked.digest() || chain != Digest::of(&certificates) {
            return self.does_not_hold(Mismatch::Chain);
        }
        Event::ReadBack {
            observed: asked,
            value_limit: None,
            by_digest: true,
        }
    }

    /// What follows from what was read back, which is what was asked or the end of the attempt.
    pub(super) fn after_read_back(&self) -> Next {
        let Stage::ReadBack(observed) = &self.stage else {
            return Next::Record(Event::Errored {
                fault: self.incomplete(),
            });
        };
        let product = &self.product;
        let (policy, limit) = (product.endpoint_readback, product.value_limit);
        let endpoint_prefix = match observed.agreement(&self.asked(), policy, limit) {
            Agreement::Differs(values) => {
                return Next::Record(self.does_not_hold(Mismatch::Values(values)));
            }
            Agreement::EndpointPrefix(length) => Some(length),
            Agreement::Whole => None,
        };
        match (self.product.attestation, self.identity()) {
            (None, _) => Next::Record(Event::Injected {
                observed: observed.holding.clone(),
                endpoint_prefix,
            }),
            (_, Some(Identity::X509(_))) => Next::Do(Effect::ProveKey),
            (_, Some(Identity::Tpm(record))) => self.rehearse(record),
            (_, None) => Next::Record(Event::Errored {
                fault: self.incomplete(),
            }),
        }
    }

    fn rehearse(&self, endorsement: &EndorsementRecord) -> Next {
        match &self.known.registration_id {
            Some(registration_id) => Next::Do(Effect::Rehearse {
                endorsement: Box::new(endorsement.clone()),
                registration_id: registration_id.clone(),
            }),
            None => Next::Record(Event::Errored {
                fault: self.incomplete(),
            }),
        }
    }

    fn judge_proof(&self, nonce: Digest, signature: Vec<u8>, at_ms: i64) -> Event {
        let (Some(leaf), Some(ca)) = (self.known.certificate(), &self.product.ca) else {
            return Event::Errored {
                fault: self.incomplete(),
            };
        };
        let path = [&ca.issuing.0[..], &ca.root.0[..]];
        let verified =
            certificate::verify_proof(&leaf.public_key.0, &proof_message(&nonce.0), &signature)
                .and_then(|()| certificate::validate_path(&leaf.der.0, &path, at_ms));
        match verified {
            Ok(()) => Event::Proved {
                proof: Proof::Signature {
                    nonce,
                    signature: Blob(signature),
                },
            },
            Err(fault) => self.verdict(of_ca(&ca.name, fault)),
        }
    }
}

/// What is wrong with a path above the device's own certificate is the CA's matter: it was replaced since that was signed,
/// or is not valid any more. The device did nothing but install what it was given.
fn of_ca(ca: &str, fault: Fault) -> Fault {
    match fault {
        Fault::PathInvalid {
            which: which @ CertificateName::Authority(_),
            flaw,
        } => Fault::CaUnfit {
            ca: ca.to_owned(),
            which: Some(which),
            flaw,
        },
        other => other,
    }
}
