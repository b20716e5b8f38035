//! Effects performed: each turns what the job asks for into what was found, within its deadline.

use super::{LineProduct, Signer};
use crate::link::{DeviceLink, LinkError};
use crate::provision::bytes::{Blob, Digest};
use crate::provision::certificate::{Csr, Reserved, draft_leaf};
use crate::provision::device::{Identification, SerialNumber};
use crate::provision::fault::Fault;
use crate::provision::job::{Effect, Fact};
use std::time::Duration;

/// The longest that one step with a device may take. Writing a certificate chain at 9,600 baud takes three seconds;
/// the slowest thing known is a TPM that makes an RSA key, at 7.5 s.
const STEP_DEADLINE: Duration = Duration::from_secs(30);

/// What an attempt works with.
pub(super) struct Work<'a> {
    /// The bay's name.
    pub bay: &'a str,
    /// The device.
    pub link: &'a mut DeviceLink,
    /// What it should become.
    pub made: &'a LineProduct,
    /// Milliseconds since 1970.
    pub clock: fn() -> i64,
    /// What the device last said of itself.
    pub last: Identification,
}

impl Work<'_> {
    /// Performs an effect. A signature is never cut off by the step's deadline, nor is the TPM: both have their own.
    pub async fn perform(&mut self, effect: Effect) -> Fact {
        match effect {
            Effect::Sign(reserved) => self.sign(reserved).await,
            Effect::ReadEndorsement => self.read_endorsement().await,
            Effect::Rehearse {
                endorsement,
                registration_id,
            } => self.rehearse(&endorsement, &registration_id).await,
            Effect::Draft { csr, common_name } => self.draft(&csr, &common_name),
            effect => {
                let step = step_name(&effect);
                match tokio::time::timeout(STEP_DEADLINE, self.ask(effect)).await {
                    Ok(Ok(fact)) => fact,
                    Ok(Err(error)) => link_fact(self.bay, &error),
                    Err(_) => Fact::Fault(too_slow(self.bay, step)),
                }
            }
        }
    }

    /// Effects that are a dialogue with the device.
    async fn ask(&mut self, effect: Effect) -> Result<Fact, LinkError> {
        Ok(match effect {
            Effect::RequestCertificate { common_name } => {
                Fact::Request(self.link.make_key(&common_name).await?)
            }
            Effect::Write { holding, chain } => {
                let chain: Vec<Vec<u8>> = chain.into_iter().map(|der| der.0).collect();
                if !chain.is_empty() {
                    self.link.install(&chain).await?;
                }
                self.link.inject(&holding, &self.made.injection).await?;
                Fact::Written(holding)
            }
            Effect::Restart => {
                self.last = self.link.restart().await?;
                Fact::Restarted(self.last.clone())
            }
            Effect::ReadBack => {
                let read = self.link.read_back(&self.made.injection).await?;
                Fact::Observed(read.holding, read.chain.into_iter().map(Blob).collect())
            }
            Effect::ProveKey => {
                let nonce = random();
                let signature = self.link.sign(nonce).await?;
                Fact::KeyProof {
                    nonce: Digest(nonce),
                    signature,
                    at_ms: (self.clock)(),
                }
            }
            Effect::Seal { holds } => Fact::Sealed(self.link.seal(holds).await?),
            Effect::Sign(_)
            | Effect::Draft { .. }
            | Effect::ReadEndorsement
            | Effect::Rehearse { .. } => unreachable!("performed elsewhere"),
        })
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
            Err(refusal) => Fact::Fault(refusal.fault()),
        }
    }

    async fn sign(&self, reserved: Reserved) -> Fact {
        let Some(Signer { hsm, label, .. }) = &self.made.signer else {
            return Fact::Fault(no_ca(&self.made.product.name));
        };
        Fact::Signature(
            hsm.sign(label, reserved)
                .await
                .map_err(|error| error.to_string()),
        )
    }
}

/// What a fault of the link means.
pub(super) fn link_fact(bay: &str, error: &LinkError) -> Fact {
    let fault = link_fault(bay, error);
    match error {
        LinkError::Gone { .. } | LinkError::Io { .. } | LinkError::Swapped { .. } => {
            Fact::Gone(fault)
        }
        _ => Fact::Fault(fault),
    }
}

/// Whose matter a fault of the link is, and what to do about it.
pub(super) fn link_fault(bay: &str, error: &LinkError) -> Fault {
    let what = format!("bay {bay}: {error}");
    match error {
        LinkError::PortMissing { .. } => Fault::station(
            "port_missing",
            what,
            "plug the adapter in, or correct the bay's port in station.toml",
        ),
        LinkError::PortBusy { .. } => Fault::station("port_busy", what, "close the other program"),
        LinkError::PortDenied { .. } => {
            Fault::station("port_denied", what, "log out and in again after joining it")
        }
        LinkError::Gone { .. } | LinkError::Io { .. } => {
            Fault::device("device_gone", what, "put the unit in again")
        }
        LinkError::Swapped { .. } => Fault::device(
            "swapped",
            what,
            "put one unit in, and leave it until it is done",
        ),
        LinkError::Silent { .. } => Fault::device(
            "device_silent",
            what,
            "check plug and power, then put the unit in again",
        ),
        LinkError::Refused { .. } => Fault::device(
            "device_refused",
            what,
            "set the unit aside and call the process engineer",
        ),
        LinkError::Malformed { .. } => Fault::device(
            "not_a_device_we_know",
            what,
            "set the unit aside and call the process engineer",
        ),
    }
}

fn step_name(effect: &Effect) -> &'static str {
    match effect {
        Effect::RequestCertificate { .. } => "making its key",
        Effect::ReadEndorsement => "reading its endorsement key",
        Effect::Draft { .. } => "drafting its certificate",
        Effect::Sign(_) => "signing its certificate",
        Effect::Write { .. } => "writing to it",
        Effect::Restart => "restarting it",
        Effect::ReadBack => "reading back",
        Effect::ProveKey => "proving its key",
        Effect::Rehearse { .. } => "rehearsing with its TPM",
        Effect::Seal { .. } => "sealing it",
    }
}

fn too_slow(bay: &str, step: &str) -> Fault {
    let what = format!(
        "bay {bay}: {step} took longer than {} s",
        STEP_DEADLINE.as_secs()
    );
    Fault::device(
        "too_slow",
        what,
        "put the unit in again; set it aside if that does not help",
    )
}

fn no_ca(product: &str) -> Fault {
    Fault::station(
        "no_ca",
        format!("product {product} has no CA"),
        "name one in station.toml",
    )
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
