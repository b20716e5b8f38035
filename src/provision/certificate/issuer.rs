//! A CA that certificates are issued under.
//!
//! Invariant: an `Issuer` has a certificate with which rcgen writes leaves whose issuer name and authority key
//! identifier are the CA's own, byte for byte.

use super::form::{key_kind, unreadable};
use crate::provision::fault::{Fault, Flaw, KeyKind};
use std::collections::HashSet;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

/// A CA certificate, checked to be fit for issuing, and the CA's name in `station.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    pub(super) name: String,
    pub(super) der: Vec<u8>,
    pub(super) subject: Vec<u8>,
    pub(super) spki: Vec<u8>,
    pub(super) key_id: Vec<u8>,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

impl Issuer {
    /// Checks a CA certificate in DER: X.509 version 3, critical basic constraints with the CA flag, the right to
    /// sign certificates, a subject key identifier, a P-256 key, and a subject in which no attribute type occurs
    /// twice (rcgen would lose one of two organizational units, and with it the chain).
    pub fn parse(name: &str, der: &[u8]) -> Result<Self, Fault> {
        let unfit = |flaw| Fault::CaUnfit {
            ca: name.to_owned(),
            which: None,
            flaw,
        };
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|error| unfit(unreadable(&error)))?;
        if !rest.is_empty() {
            return Err(unfit(Flaw::Trailing(rest.len())));
        }
        check_authority(&certificate).map_err(unfit)?;
        check_form(&certificate).map_err(unfit)?;
        if !is_plain(certificate.subject()) {
            return Err(unfit(Flaw::NamesTwice));
        }
        if key_kind(certificate.public_key()) != Ok(KeyKind::P256) {
            return Err(unfit(Flaw::NotP256));
        }
        let key_id = certificate
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            })
            .ok_or_else(|| unfit(Flaw::NoKeyIdentifier))?;
        Ok(Self {
            name: name.to_owned(),
            der: der.to_vec(),
            subject: certificate.subject().as_raw().to_vec(),
            spki: certificate.public_key().raw.to_vec(),
            key_id,
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// The CA's name in `station.toml`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The CA certificate in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The CA's public key: DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The CA's last moment, in milliseconds since 1970.
    pub fn not_after_ms(&self) -> i64 {
        self.not_after.saturating_mul(1000)
    }
}

/// Whether a certificate may be a CA's in a path: the CA flag, and the right to sign certificates unless it says
/// nothing of rights (RFC 5280, section 6.1.4 (k) and (n)).
pub(super) fn check_authority(certificate: &X509Certificate<'_>) -> Result<(), Flaw> {
    match certificate.basic_constraints() {
        Ok(Some(constraints)) if constraints.value.ca => {}
        _ => return Err(Flaw::NotAuthority),
    }
    match certificate.key_usage() {
        Ok(None) => Ok(()),
        Ok(Some(usage)) if usage.value.key_cert_sign() => Ok(()),
        _ => Err(Flaw::NoCertificateSigning),
    }
}

/// Whether a CA certificate says all that one must: critical basic constraints and a key usage (RFC 5280, sections
/// 4.2.1.3 and 4.2.1.9). Strict verifiers refuse a path through one that does not.
fn check_form(certificate: &X509Certificate<'_>) -> Result<(), Flaw> {
    match (certificate.basic_constraints(), certificate.key_usage()) {
        (Ok(Some(constraints)), Ok(Some(_))) if constraints.critical => Ok(()),
        _ => Err(Flaw::AuthorityForm),
    }
}

/// Whether rcgen can write this name: one attribute in each part, and no type twice.
fn is_plain(name: &X509Name<'_>) -> bool {
    let mut seen = HashSet::new();
    name.iter().all(|part| {
        let mut attributes = part.iter();
        match (attributes.next(), attributes.next()) {
            (Some(only), None) => seen.insert(only.attr_type().to_id_string()),
            _ => false,
        }
    })
}
