//! What a device of a product should become: its identity, what is injected, who signs, where it is enrolled.
//!
//! Invariant: a product is complete; every name in it has been resolved, and its digest covers every value.

use super::bytes::{Blob, Digest};
use super::content::{Content, Filled, Particulars, named};
use super::device::{Attestation, DeviceId, Holding, Identification, RegistrationId};
use super::endorsement::{EmptyHandle, EndorsementPolicy, VendorRoots};
use super::event::{EnrollmentRecord, IdentityRef};
use super::fault::Fault;
use super::injected::Readback;
use super::naming::Naming;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// A product, resolved from `station.toml`.
#[derive(Clone, Serialize)]
pub struct Product {
    /// Its name in `station.toml`.
    pub name: String,
    /// The model that its devices say they are.
    pub model: String,
    /// Firmware versions that may be provisioned; empty for any.
    pub firmware: Vec<String>,
    /// The USB devices that it may be behind; empty for any port.
    pub usb: Vec<UsbId>,
    /// Where the IDs of its devices come from.
    pub naming: Naming,
    /// How its devices prove to DPS who they are; none where they have stock firmware, which can only be injected.
    pub attestation: Option<Attestation>,
    /// How much of the global endpoint a device with stock firmware must give back.
    pub endpoint_readback: Readback,
    /// How much a device gives back of a longer value, in bytes; in the digest with how it is injected.
    #[serde(skip)]
    pub value_limit: usize,
    /// The CA that signs its certificates; absent for products without certificates.
    pub ca: Option<SigningCa>,
    /// What each certificate contains.
    pub profile: super::certificate::Profile,
    /// Where it is enrolled, and what is injected for that.
    pub dps: DpsTarget,
    /// Desired properties of the initial twin: a template.
    pub initial_desired: Option<serde_json::Value>,
    /// Tags of the initial twin: a template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_tags: Option<Value>,
    /// What else the enrollments of its devices say.
    #[serde(skip_serializing_if = "Content::is_empty")]
    pub content: Content,
    /// The station's name, for the templates; in no digest, so that a product is the same on every line.
    #[serde(skip)]
    pub line: String,
    /// What is demanded of an endorsement key.
    pub endorsement: EndorsementPolicy,
    /// What to do where a TPM has no persistent endorsement key.
    pub empty_handle: EmptyHandle,
    /// The TPM makers that are trusted; in the digest by their own digest.
    #[serde(serialize_with = "digest_of_roots")]
    pub vendor_roots: Arc<VendorRoots>,
    /// Digest of everything above and of how it is injected, as configured.
    #[serde(skip)]
    pub digest: Option<Digest>,
}

/// Vendor and product ID of a USB device, as four hexadecimal digits each: `2fe3:0004`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UsbId {
    /// Vendor ID.
    pub vendor: u16,
    /// Product ID.
    pub product: u16,
}

/// A text that is no USB ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no USB ID, such as \"2fe3:0004\"")]
pub struct NoUsbId(String);

/// The CA of a product: public parts only; the key stays in the HSM.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SigningCa {
    /// Its name in `station.toml`.
    pub name: String,
    /// DER of the issuing CA's certificate.
    pub issuing: Blob,
    /// DER of the root's certificate.
    pub root: Blob,
}

/// The DPS instance of a product, as the device will see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DpsTarget {
    /// Its name in `station.toml`.
    pub name: String,
    /// ID scope.
    pub id_scope: String,
    /// Global endpoint: a host name, with a port where it is not 443.
    pub global_endpoint: String,
}

impl Product {
    /// Whether a device that says this of itself behind that port may be one of its devices; `usb` is absent where the
    /// port is no USB device. Stock firmware is what an injection-only product needs, and no other can use.
    pub fn fits(&self, device: &Identification, usb: Option<UsbId>) -> bool {
        self.model == device.model
            && self.attestation.is_none() == device.stock
            && (self.usb.is_empty() || usb.is_some_and(|found| self.usb.contains(&found)))
    }

    /// Whether the product's policy accepts a device, to be named `id`, that says this of itself.
    pub fn accept(&self, id: &DeviceId, device: &Identification) -> Result<(), Fault> {
        let unit = || id.clone();
        if device.blank && !self.naming.injects() {
            return Err(Fault::NoId {
                device: unit(),
                product: self.name.clone(),
            });
        }
        if device.model != self.model {
            return Err(Fault::WrongModel {
                device: unit(),
                model: device.model.clone(),
                wanted: self.model.clone(),
            });
        }
        if !self.firmware.is_empty() && !self.firmware.contains(&device.firmware) {
            return Err(Fault::WrongFirmware {
                device: unit(),
                firmware: device.firmware.clone(),
                product: self.name.clone(),
                allowed: self.firmware.clone(),
            });
        }
        if self.attestation == Some(Attestation::Tpm) && !device.tpm {
            return Err(Fault::NoTpm {
                device: unit(),
                product: self.name.clone(),
            });
        }
        if self.attestation == Some(Attestation::X509) && id.as_str().len() > 64 {
            return Err(Fault::IdTooLong { device: unit() });
        }
        Ok(())
    }

    /// What a device with this registration ID and leaf certificate is asked to hold.
    pub fn holding(&self, registration_id: &RegistrationId, leaf: Option<&Blob>) -> Holding {
        Holding {
            id_scope: self.dps.id_scope.clone(),
            global_endpoint: self.dps.global_endpoint.clone(),
            registration_id: registration_id.to_string(),
            certificate_sha256: leaf.map(|der| Digest::of(&der.0)),
        }
    }

    /// Whether a template names the shift, which then has to be found out.
    pub fn names_shift(&self) -> bool {
        self.names("shift")
    }

    fn names(&self, placeholder: &str) -> bool {
        let templates = [&self.initial_desired, &self.initial_tags];
        let mut names = templates.into_iter().flatten().flat_map(named);
        names.any(|name| name == placeholder)
    }

    /// What is to be enrolled for a device, its templates filled in.
    pub fn enrollment(
        &self,
        device_id: &DeviceId,
        registration_id: &RegistrationId,
        identity: IdentityRef,
        filled: &Filled,
    ) -> EnrollmentRecord {
        let particulars = Particulars {
            line: &self.line,
            model: &self.model,
            device_id: device_id.as_str(),
            filled,
        };
        let fill = |template: &Option<Value>| template.as_ref().map(|t| particulars.fill(t));
        let kept = self.names("shift") || self.names("firmware");
        EnrollmentRecord {
            dps: self.dps.name.clone(),
            registration_id: registration_id.clone(),
            device_id: device_id.clone(),
            identity,
            initial_desired: fill(&self.initial_desired),
            initial_tags: fill(&self.initial_tags),
            content: Content {
                filled: kept.then(|| filled.clone()),
                ..self.content.clone()
            },
        }
    }
}

impl UsbId {
    fn parse(text: &str) -> Option<Self> {
        let hex = |part: &str| {
            let digits = part.len() == 4 && part.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u16::from_str_radix(part, 16).ok()).flatten()
        };
        let (vendor, product) = text.split_once(':')?;
        Some(Self {
            vendor: hex(vendor)?,
            product: hex(product)?,
        })
    }
}

impl TryFrom<String> for UsbId {
    type Error = NoUsbId;
    fn try_from(text: String) -> Result<Self, NoUsbId> {
        Self::parse(&text).ok_or(NoUsbId(text))
    }
}

impl From<UsbId> for String {
    fn from(id: UsbId) -> String {
        id.to_string()
    }
}

impl fmt::Display for UsbId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.product)
    }
}

fn digest_of_roots<S: Serializer>(
    roots: &Arc<VendorRoots>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    roots.digest().serialize(serializer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_usb_id_is_two_numbers_of_four_digits() {
        let id = UsbId::try_from("2fE3:0004".to_owned()).unwrap();
        assert_eq!((id.vendor, id.product), (0x2fe3, 4));
        assert_eq!(id.to_string(), "2fe3:0004");
        for wrong in ["", "2fe3", "2fe3:4", "2fe3:+004", "2fe3:0004:1", "2fe30004"] {
            assert!(UsbId::try_from(wrong.to_owned()).is_err(), "{wrong:?}");
        }
    }
}
