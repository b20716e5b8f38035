//! A device's certificate as a file has it: PEM or DER, of a leaf, for the registration ID that it is to register with.
//!
//! Invariant: what comes out is the exact DER of one certificate that a device can register with under its name.

use crate::provision::bytes::Blob;
use crate::provision::device::RegistrationId;
use crate::provision::fault::{harmless, said};
use x509_parser::certificate::X509Certificate;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

/// The longest name that is quoted, in characters.
const NAME_MAX: usize = 64;

/// A device's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its DER.
    pub der: Blob,
    /// The key in it: DER SubjectPublicKeyInfo.
    pub public_key: Blob,
}

/// Why a file has no certificate of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeafFlaw {
    /// It is neither PEM nor DER of a certificate; the parser's words.
    NoCertificate(String),
    /// It is a CA's.
    Authority,
    /// Its common name is this, or none, which is not the registration ID.
    OtherName(Option<String>),
}

/// Reads the certificate in a file. Of a chain in PEM, the first is the device's.
///
/// DPS takes a device for the one that its certificate's common name says, whatever the case.
///
/// # Errors
/// What is wrong with it.
pub fn leaf(file: &[u8], id: &RegistrationId) -> Result<Leaf, LeafFlaw> {
    let none = |what: &dyn ToString| LeafFlaw::NoCertificate(said(&what.to_string()));
    let pem = Pem::iter_from_buffer(file).find_map(|pem| {
        let pem = pem.ok()?;
        (pem.label == "CERTIFICATE").then_some(pem.contents)
    });
    let der = pem.unwrap_or_else(|| file.to_vec());
    let (rest, certificate) = X509Certificate::from_der(&der).map_err(|error| none(&error))?;
    if !rest.is_empty() {
        return Err(none(&"something follows it"));
    }
    if certificate.is_ca() {
        return Err(LeafFlaw::Authority);
    }
    let mut names = certificate.subject().iter_common_name();
    let name = names.next().and_then(|name| name.as_str().ok());
    if !name.is_some_and(|name| name.eq_ignore_ascii_case(id.as_str())) {
        let name = name.map(|name| harmless(name, NAME_MAX));
        return Err(LeafFlaw::OtherName(name));
    }
    let public_key = Blob(certificate.public_key().raw.to_vec());
    Ok(Leaf {
        public_key,
        der: Blob(der.clone()),
    })
}
