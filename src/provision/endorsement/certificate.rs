//! The EK certificate: read from NV memory as it lies there, and compared with the key it should be for.
//!
//! Invariant: an [`EkCertificate`] is well-formed and says whose TPM it is for; who signed it is not yet checked.

use super::chained::{ChainCertificate, said};
use super::template::EndorsementKey;
use crate::provision::fault::{EkFlaw, Fault, TpmAttribute, harmless};
use x509_parser::prelude::*;
use x509_parser::public_key::RSAPublicKey;

/// Longest TCG attribute kept, in characters.
const ATTRIBUTE_MAX: usize = 64;

/// Extended key usage tcg-kp-EKCertificate (TCG EK Credential Profile, section 3.2.13).
const EK_CERTIFICATE_USAGE: &str = "2.23.133.8.1";
const MANUFACTURER: &str = "2.23.133.2.1";
const MODEL: &str = "2.23.133.2.2";
const VERSION: &str = "2.23.133.2.3";

/// A parsed EK certificate.
pub struct EkCertificate {
    /// For path building.
    pub link: ChainCertificate,
    /// TCG manufacturer attribute, such as `id:49465800`.
    pub manufacturer: String,
    /// TCG model attribute.
    pub model: String,
    /// TCG firmware version attribute.
    pub version: String,
    modulus: Option<Vec<u8>>,
    has_usage: bool,
}

/// How many bytes the DER SEQUENCE that begins with `start` has, header included: what to read of an NV index, which
/// is often larger than the certificate in it. Absent where `start` is no start of a certificate.
pub fn sequence_length(start: &[u8]) -> Option<usize> {
    match *start {
        [0x30, short @ 0..=0x7f, ..] => Some(2 + usize::from(short)),
        [0x30, 0x81, length, ..] => Some(3 + usize::from(length)),
        [0x30, 0x82, high, low, ..] => Some(4 + usize::from(u16::from_be_bytes([high, low]))),
        _ => None,
    }
}

impl EkCertificate {
    /// Parses the content of an NV index: its first DER SEQUENCE; makers pad the index with 00 or ff.
    pub fn parse(nv: &[u8]) -> Result<Self, Fault> {
        let length = sequence_length(nv).ok_or_else(|| broken(EkFlaw::Beginning))?;
        let der = nv.get(..length).ok_or_else(|| broken(EkFlaw::CutShort))?;
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|e| broken(EkFlaw::NotDer(said(&e))))?;
        let link = ChainCertificate::from_certificate(&certificate).map_err(broken)?;
        let [manufacturer, model, version] = attributes(&certificate)?;
        Ok(Self {
            link,
            manufacturer,
            model,
            version,
            modulus: modulus(&certificate.tbs_certificate.subject_pki),
            has_usage: has_usage(&certificate)?,
        })
    }

    /// Checks everything that needs no vendor root.
    pub fn check(&self, key: &EndorsementKey, now: i64) -> Result<(), Fault> {
        if self.modulus.as_deref() != Some(&key.storage().modulus()[..]) {
            return Err(Fault::EkCertificateAnotherKey);
        }
        if !self.has_usage {
            return Err(Fault::EkCertificateNoUsage);
        }
        if let Some(oid) = &self.link.unknown_critical {
            return Err(broken(EkFlaw::UnknownCritical(oid.clone())));
        }
        if self.link.authority.is_some() {
            return Err(broken(EkFlaw::IsCa));
        }
        self.link.check_validity(None, now)
    }
}

/// The RSA modulus, whether the key is marked rsaEncryption or RSAES-OAEP (both stand in EK certificates).
/// Absent for another key type, and for another exponent than the EK's.
fn modulus(spki: &SubjectPublicKeyInfo<'_>) -> Option<Vec<u8>> {
    let kind = spki.algorithm.algorithm.to_id_string();
    if !["1.2.840.113549.1.1.1", "1.2.840.113549.1.1.7"].contains(&kind.as_str()) {
        return None;
    }
    let (_, key) = RSAPublicKey::from_der(&spki.subject_public_key.data).ok()?;
    let unsigned = key.modulus.strip_prefix(&[0]).unwrap_or(key.modulus);
    (key.try_exponent() == Ok(65537)).then(|| unsigned.to_vec())
}

fn has_usage(certificate: &X509Certificate<'_>) -> Result<bool, Fault> {
    let usage = certificate
        .extended_key_usage()
        .map_err(|e| broken(EkFlaw::Extension(said(&e))))?;
    Ok(usage.is_some_and(|usage| {
        let mut others = usage.value.other.iter();
        others.any(|oid| oid.to_id_string() == EK_CERTIFICATE_USAGE)
    }))
}

/// Manufacturer, model and version from the directoryName in the subject alternative name.
fn attributes(certificate: &X509Certificate<'_>) -> Result<[String; 3], Fault> {
    let san = certificate
        .subject_alternative_name()
        .map_err(|e| broken(EkFlaw::Extension(said(&e))))?;
    let names = san.iter().flat_map(|san| &san.value.general_names);
    let attributes: Vec<_> = names
        .filter_map(|name| match name {
            GeneralName::DirectoryName(name) => Some(name),
            _ => None,
        })
        .flat_map(X509Name::iter_attributes)
        .collect();
    let find = |oid: &str, attribute| {
        attributes
            .iter()
            .find(|attribute| attribute.attr_type().to_id_string() == oid)
            .and_then(|attribute| attribute.as_str().ok())
            .map(|text| harmless(text, ATTRIBUTE_MAX))
            .ok_or_else(|| broken(EkFlaw::NotNamed(attribute)))
    };
    Ok([
        find(MANUFACTURER, TpmAttribute::Manufacturer)?,
        find(MODEL, TpmAttribute::Model)?,
        find(VERSION, TpmAttribute::Version)?,
    ])
}

fn broken(flaw: EkFlaw) -> Fault {
    Fault::EkCertificateBroken { flaw }
}
