//! One certificate of a chain, with what path building needs of it, and the check of one signature.
//!
//! Invariant: a [`ChainCertificate`] was parsed whole; nothing in it is trusted until a signature over it was checked.

use crate::provision::fault::{EkFlaw, Fault, harmless};
use aws_lc_rs::signature::{self, VerificationAlgorithm};
use std::fmt;
use x509_parser::asn1_rs::Tag;
use x509_parser::prelude::*;

/// Longest name kept of a certificate, in characters.
const NAME_MAX: usize = 200;

/// A certificate of a chain: the EK certificate, an intermediate or an anchor.
pub struct ChainCertificate {
    /// The subject, made harmless, for people.
    pub name: String,
    /// The issuer, made harmless, for people.
    pub issuer_name: String,
    /// The subject in a form to compare.
    pub subject: Vec<u8>,
    /// The issuer in the same form.
    pub issuer: Vec<u8>,
    /// First second of validity, since 1970.
    pub not_before: i64,
    /// Last second of validity, since 1970.
    pub not_after: i64,
    /// Whether it may issue certificates, and with how many intermediates below it.
    pub authority: Option<Authority>,
    /// A critical extension that the station does not understand, as text; RFC 5280 4.2 forbids to use it.
    pub unknown_critical: Option<String>,
    key: Option<ChainKey>,
    public_key: Vec<u8>,
    tbs: Vec<u8>,
    signed_with: Option<Scheme>,
    signature: Vec<u8>,
}

/// The right to issue certificates (RFC 5280, basicConstraints and keyUsage).
#[derive(Clone, Copy)]
pub struct Authority {
    /// At most this many intermediates may stand below it; absent for no limit.
    pub path_length: Option<u32>,
}

/// Key types that vendor certificates have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ChainKey {
    P256,
    P384,
    P521,
    Rsa,
}

/// Signature algorithms that vendor certificates are signed with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    EcdsaSha256,
    EcdsaSha384,
    EcdsaSha512,
    RsaSha256,
    RsaSha384,
    RsaSha512,
}

impl ChainCertificate {
    /// Parses one DER certificate; the error says where it breaks.
    pub fn parse(der: &[u8]) -> Result<Self, EkFlaw> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|e| EkFlaw::NotDer(said(&e)))?;
        if !rest.is_empty() {
            return Err(EkFlaw::Trailing(rest.len()));
        }
        Self::from_certificate(&certificate)
    }

    /// Takes what is needed from a parsed certificate.
    pub fn from_certificate(certificate: &X509Certificate<'_>) -> Result<Self, EkFlaw> {
        let tbs = &certificate.tbs_certificate;
        if certificate.signature_algorithm != tbs.signature {
            return Err(EkFlaw::TwoAlgorithms);
        }
        check_shell(certificate.as_raw())?;
        Ok(Self {
            name: text(&tbs.subject),
            issuer_name: text(&tbs.issuer),
            subject: comparable(&tbs.subject),
            issuer: comparable(&tbs.issuer),
            not_before: tbs.validity.not_before.timestamp(),
            not_after: tbs.validity.not_after.timestamp(),
            authority: authority(tbs)?,
            unknown_critical: unknown_critical(tbs),
            key: key_kind(&tbs.subject_pki),
            public_key: tbs.subject_pki.subject_public_key.data.to_vec(),
            tbs: tbs.as_ref().to_vec(),
            signed_with: scheme(&certificate.signature_algorithm),
            signature: certificate.signature_value.data.to_vec(),
        })
    }

    /// Whether signatures under its key can be checked: P-256, P-384, P-521, or RSA.
    pub fn has_known_key(&self) -> bool {
        self.key.is_some()
    }

    /// Whether the signature on it can be checked: ECDSA or RSA with SHA-256, SHA-384 or SHA-512.
    pub fn has_known_signature(&self) -> bool {
        self.signed_with.is_some()
    }

    /// Whether `now` (seconds since 1970) is within its validity.
    pub fn is_valid_at(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// Refuses a certificate that is not valid at `now`; `which` is its name, absent for the EK certificate itself.
    pub fn check_validity(&self, which: Option<&str>, now: i64) -> Result<(), Fault> {
        let which = which.map(str::to_owned);
        if now < self.not_before {
            let day = day(self.not_before);
            return Err(Fault::EkCertificateNotYetValid { which, day });
        }
        if now > self.not_after {
            let day = day(self.not_after);
            return Err(Fault::EkCertificateExpired { which, day });
        }
        Ok(())
    }

    /// Whether the key of `issuer` signed this certificate.
    pub fn is_signed_by(&self, issuer: &ChainCertificate) -> bool {
        let (Some(scheme), Some(key)) = (self.signed_with, issuer.key) else {
            return false;
        };
        let Some(algorithm) = algorithm(scheme, key) else {
            return false;
        };
        signature::UnparsedPublicKey::new(algorithm, &issuer.public_key)
            .verify(&self.tbs, &self.signature)
            .is_ok()
    }
}

impl fmt::Debug for ChainCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChainCertificate({})", self.name)
    }
}

/// What is around the signed part must be strict DER: x509-parser takes some changed bytes there for the same
/// certificate, and the signature does not cover them.
fn check_shell(der: &[u8]) -> Result<(), EkFlaw> {
    let bits = yasna::parse_der(der, |reader| {
        reader.read_sequence(|reader| {
            reader.next().read_der()?;
            reader.next().read_sequence(|reader| {
                reader.next().read_oid()?;
                reader.read_optional(|reader| reader.read_null())
            })?;
            reader.next().read_bitvec_bytes()
        })
    });
    match bits.map_err(|e| EkFlaw::NotStrict(said(&e)))? {
        (octets, bits) if octets.len() * 8 == bits => Ok(()),
        _ => Err(EkFlaw::SignatureBits),
    }
}

/// The one way from a signature algorithm and a key type to a check; RSA keys have 2048 to 8192 bits.
fn algorithm(scheme: Scheme, key: ChainKey) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match (key, scheme) {
        (ChainKey::P256, Scheme::EcdsaSha256) => &signature::ECDSA_P256_SHA256_ASN1,
        (ChainKey::P256, Scheme::EcdsaSha384) => &signature::ECDSA_P256_SHA384_ASN1,
        (ChainKey::P256, Scheme::EcdsaSha512) => &signature::ECDSA_P256_SHA512_ASN1,
        (ChainKey::P384, Scheme::EcdsaSha256) => &signature::ECDSA_P384_SHA256_ASN1,
        (ChainKey::P384, Scheme::EcdsaSha384) => &signature::ECDSA_P384_SHA384_ASN1,
        (ChainKey::P384, Scheme::EcdsaSha512) => &signature::ECDSA_P384_SHA512_ASN1,
        (ChainKey::P521, Scheme::EcdsaSha256) => &signature::ECDSA_P521_SHA256_ASN1,
        (ChainKey::P521, Scheme::EcdsaSha384) => &signature::ECDSA_P521_SHA384_ASN1,
        (ChainKey::P521, Scheme::EcdsaSha512) => &signature::ECDSA_P521_SHA512_ASN1,
        (ChainKey::Rsa, Scheme::RsaSha256) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (ChainKey::Rsa, Scheme::RsaSha384) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (ChainKey::Rsa, Scheme::RsaSha512) => &signature::RSA_PKCS1_2048_8192_SHA512,
        _ => return None,
    })
}

/// A name as bytes that are equal where RFC 5280 7.1 calls two names equal, but for letter case: a PrintableString
/// equals a UTF8String of the same text. STMicroelectronics' ECC certificates spell one name both ways.
fn comparable(name: &X509Name<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for set in name.iter() {
        bytes.extend_from_slice(b"set");
        for attribute in set.iter() {
            let kind = match attribute.attr_value().tag() {
                Tag::PrintableString | Tag::Utf8String => "text".to_owned(),
                other => other.0.to_string(),
            };
            let value = attribute.as_slice();
            let head = format!("{} {kind} {} ", attribute.attr_type(), value.len());
            bytes.extend_from_slice(head.as_bytes());
            bytes.extend_from_slice(value);
        }
    }
    bytes
}

/// The date of a second since 1970, as `YYYY-MM-DD`.
fn day(seconds: i64) -> String {
    ::time::OffsetDateTime::from_unix_timestamp(seconds)
        .map_or_else(|_| seconds.to_string(), |t| t.date().to_string())
}

/// What a parser said, bounded.
pub(super) fn said(error: &impl ToString) -> String {
    harmless(&error.to_string(), NAME_MAX)
}

fn text(name: &X509Name<'_>) -> String {
    harmless(&name.to_string(), NAME_MAX)
}

fn key_kind(spki: &SubjectPublicKeyInfo<'_>) -> Option<ChainKey> {
    match spki.algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => Some(ChainKey::Rsa),
        "1.2.840.10045.2.1" => {
            let curve = spki.algorithm.parameters.as_ref()?.as_oid().ok()?;
            match curve.to_id_string().as_str() {
                "1.2.840.10045.3.1.7" => Some(ChainKey::P256),
                "1.3.132.0.34" => Some(ChainKey::P384),
                "1.3.132.0.35" => Some(ChainKey::P521),
                _ => None,
            }
        }
        _ => None,
    }
}

fn scheme(algorithm: &AlgorithmIdentifier<'_>) -> Option<Scheme> {
    match algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.10045.4.3.2" => Some(Scheme::EcdsaSha256),
        "1.2.840.10045.4.3.3" => Some(Scheme::EcdsaSha384),
        "1.2.840.10045.4.3.4" => Some(Scheme::EcdsaSha512),
        "1.2.840.113549.1.1.11" => Some(Scheme::RsaSha256),
        "1.2.840.113549.1.1.12" => Some(Scheme::RsaSha384),
        "1.2.840.113549.1.1.13" => Some(Scheme::RsaSha512),
        _ => None,
    }
}

fn authority(tbs: &TbsCertificate<'_>) -> Result<Option<Authority>, EkFlaw> {
    let broken = |e: X509Error| EkFlaw::Extension(said(&e));
    let constraints = tbs.basic_constraints().map_err(broken)?;
    let usage = tbs.key_usage().map_err(broken)?;
    let may_sign = usage.is_none_or(|usage| usage.value.key_cert_sign());
    Ok(constraints
        .filter(|constraints| constraints.value.ca && may_sign)
        .map(|constraints| Authority {
            path_length: constraints.value.path_len_constraint,
        }))
}

fn unknown_critical(tbs: &TbsCertificate<'_>) -> Option<String> {
    tbs.extensions()
        .iter()
        .filter(|extension| extension.critical)
        .find(|extension| {
            !matches!(
                extension.parsed_extension(),
                ParsedExtension::BasicConstraints(_)
                    | ParsedExtension::KeyUsage(_)
                    | ParsedExtension::ExtendedKeyUsage(_)
                    | ParsedExtension::SubjectAlternativeName(_)
                    | ParsedExtension::CertificatePolicies(_)
            )
        })
        .map(|extension| extension.oid.to_id_string())
}
