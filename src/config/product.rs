//! The `[[product]]` entries of `station.toml`.

use super::enroll::{self, EnrollConfig};
use super::place::Wrong;
use super::{Config, desired, stock};
use crate::link::Injection;
use crate::provision::bounds::within;
use crate::provision::certificate::Profile;
use crate::provision::device::{Attestation, Holding};
use crate::provision::endorsement::{EmptyHandle, EndorsementPolicy};
use crate::provision::naming::Naming;
use crate::provision::product::UsbId;
use crate::words;
use serde::Deserialize;
use std::path::PathBuf;

/// `[[product]]`: what a device of a model should become.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductConfig {
    /// Its name.
    pub name: String,
    /// The model that its devices say they are.
    pub model: String,
    /// Firmware versions that may be provisioned; empty for any.
    #[serde(default)]
    pub firmware: Vec<String>,
    /// How its devices prove who they are; `none` where they have stock firmware, which can only be injected.
    #[serde(deserialize_with = "stock::attestation")]
    pub attestation: Option<Attestation>,
    /// The USB devices that its devices are behind, as `vendor:product`; empty for any port.
    #[serde(default)]
    pub usb: Vec<UsbId>,
    /// Where the IDs of its devices come from.
    #[serde(default)]
    pub device_id: Naming,
    /// Name of the CA; needed for X.509.
    #[serde(default)]
    pub ca: Option<String>,
    /// Name of the DPS instance.
    pub dps: String,
    /// What each certificate contains.
    #[serde(default)]
    pub certificate: Profile,
    /// What is demanded of an endorsement key.
    #[serde(default)]
    pub endorsement: EndorsementPolicy,
    /// What to do where a TPM has no persistent endorsement key.
    #[serde(default)]
    pub empty_handle: EmptyHandle,
    /// A PEM bundle or folder with the TPM makers' roots; needed for TPM.
    #[serde(default)]
    pub vendor_roots: Option<PathBuf>,
    /// Names of the settings that are injected.
    #[serde(default)]
    pub inject: Injection,
    /// The longest that one step with a device may take, in milliseconds.
    #[serde(
        default = "default_step_deadline",
        deserialize_with = "within::<_, _, 1_000, 3_600_000>"
    )]
    pub step_deadline_ms: u64,
    /// Desired properties of the initial twin: a template.
    #[serde(default)]
    pub initial_desired: Option<serde_json::Value>,
    /// What else the enrollments of its devices say.
    #[serde(default)]
    pub enroll: EnrollConfig,
}

impl ProductConfig {
    /// What is wrong with it.
    pub(super) fn check(&self, config: &Config) -> Result<(), Wrong> {
        let name = &self.name;
        let wrong = |key: &str, what: String| Err(Wrong::at(&[&key], what));
        let Some(dps) = config.dps(&self.dps) else {
            let what = format!("product {name} names dps {:?}, and there is none", self.dps);
            return wrong("dps", what);
        };
        if self.attestation.is_some() && dps.service().is_none() {
            let what = format!(
                "devices of product {name} are enrolled, and dps {} has no service_url and credential for that",
                dps.name
            );
            return wrong("dps", what);
        }
        let holding = Holding {
            id_scope: dps.id_scope.clone(),
            global_endpoint: dps.global_endpoint.clone(),
            registration_id: String::new(), // each device's own
            certificate_sha256: None,
        };
        if let Err(why) = self.inject.fits(&holding) {
            return wrong("inject", format!("product {name}: {}", words::misfit(&why)));
        }
        if let Err(error) = self.device_id.check() {
            return wrong("device_id", format!("product {name}: {error}"));
        }
        if let Some(why) = stock::wrong(self) {
            return wrong("attestation", format!("product {name} {why}"));
        }
        if let Some(values) = &self.initial_desired {
            let checked = enroll::template(values, desired::Collection::Desired);
            checked.map_err(|wrong| wrong.under(&[&"initial_desired"]))?;
        }
        let enroll = self.enroll.check(self.attestation);
        enroll.map_err(|wrong| wrong.under(&[&"enroll"]))?;
        match (&self.ca, self.attestation) {
            (Some(ca), _) if config.ca(ca).is_none() => wrong(
                "ca",
                format!("product {name} names ca {ca:?}, and there is none"),
            ),
            (None, Some(Attestation::X509)) => wrong(
                "attestation",
                format!("product {name} uses X.509 and names no ca"),
            ),
            (_, Some(Attestation::Tpm))
                if self.vendor_roots.is_none()
                    && !matches!(self.endorsement, EndorsementPolicy::Waived { .. }) =>
            {
                let what = format!("product {name} uses a TPM and names no vendor_roots");
                wrong("attestation", what)
            }
            _ => Ok(()),
        }
    }
}

/// Writing a certificate chain at 9,600 baud takes three seconds; the slowest thing known is a TPM that makes an RSA
/// key, at 7.5 s.
fn default_step_deadline() -> u64 {
    30_000
}
