//! Believing what was signed only after reading it again: self-check, path validation, proof of possession.
//!
//! Invariant: what is checked is read by x509-parser and verified by aws-lc, neither of which wrote or signed it.

use super::KeyKind;
use super::form::{PARSER_MAX, assemble, key_identifier, key_kind, unreadable};
use super::issuer::{Issuer, check_authority};
use crate::provision::device::SerialNumber;
use crate::provision::event::Reservation;
use crate::provision::fault::{CertificateName, Fault, Flaw, harmless};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use x509_parser::certificate::{TbsCertificate, X509Certificate};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::error::X509Error;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Version};

/// The longest certificate that is looked at, in bytes.
const MAX_BYTES: usize = 8192;

/// What a certificate says, as far as the station compares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The only common name in the subject.
    pub common_name: String,
    /// The public key: DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// The content octets of the serial number.
    pub serial: Vec<u8>,
    /// First moment of validity, in milliseconds since 1970.
    pub not_before_ms: i64,
    /// Last moment of validity, in milliseconds since 1970.
    pub not_after_ms: i64,
}

/// What a leaf must say.
pub(super) struct LeafTerms<'a> {
    pub issuer: &'a Issuer,
    pub spki: &'a [u8],
    pub common_name: &'a str,
    pub serial: &'a SerialNumber,
}

/// Reads a certificate that a device handed back: at most 8192 bytes of DER, nothing after it, one common name.
pub fn read(der: &[u8]) -> Result<Contents, Fault> {
    let of_leaf = |flaw| in_path(CertificateName::Leaf, flaw);
    let certificate = parse(der).map_err(of_leaf)?;
    let mut names = certificate.subject().iter_common_name();
    let common_name = match (names.next().map(|name| name.as_str()), names.next()) {
        (Some(Ok(name)), None) => name.to_owned(),
        _ => return Err(of_leaf(Flaw::NotOneName)),
    };
    let validity = certificate.validity();
    Ok(Contents {
        common_name,
        spki: certificate.public_key().raw.to_vec(),
        serial: certificate.raw_serial().to_vec(),
        not_before_ms: validity.not_before.timestamp().saturating_mul(1000),
        not_after_ms: validity.not_after.timestamp().saturating_mul(1000),
    })
}

/// Checks a device's certificate before anything leaves the station: it is the reserved bytes and nothing else, says
/// what a leaf must say (issuer byte for byte, key, name, serial number, no CA, usages, key identifiers, validity
/// within the CA's), and its signature verifies under the CA's key.
pub fn self_check(
    der: &[u8],
    reservation: &Reservation,
    issuer: &Issuer,
    spki: &[u8],
    common_name: &str,
) -> Result<(), Fault> {
    let terms = LeafTerms {
        issuer,
        spki,
        common_name,
        serial: &reservation.serial,
    };
    check_leaf_terms(&reservation.tbs.0, &terms).map_err(wrongly)?;
    check_signature(der, reservation, &issuer.spki)
}

/// Checks any signed certificate: exactly the reserved bytes, the reserved serial number, and a signature that
/// verifies under `signer` (DER SubjectPublicKeyInfo). For a CA certificate, follow with [`Issuer::parse`].
pub fn check_signature(der: &[u8], reservation: &Reservation, signer: &[u8]) -> Result<(), Fault> {
    let certificate = parse(der).map_err(wrongly)?;
    let wrong = |flaw| Err(wrongly(flaw));
    let signature = &certificate.signature_value.data;
    if assemble(&reservation.tbs.0, signature) != der {
        return wrong(Flaw::NotReservedBytes);
    }
    if certificate.raw_serial() != reservation.serial.octets() {
        return wrong(Flaw::NotReservedSerial);
    }
    if certificate.signature_algorithm != certificate.tbs_certificate.signature {
        return wrong(Flaw::TwoAlgorithms);
    }
    let signer = parse_key(signer).map_err(wrongly)?;
    certificate
        .verify_signature(Some(&signer))
        .or_else(|_| wrong(Flaw::BadSignature))
}

/// Checks a signed request for a customer's root: exactly the reserved bytes, signed by the key `spki` in it.
pub fn check_request(der: &[u8], reservation: &Reservation, spki: &[u8]) -> Result<(), Fault> {
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|error| wrongly(unreadable(&error)))?;
    let info = &request.certification_request_info;
    let signature = &request.signature_value.data;
    if !rest.is_empty() || assemble(&reservation.tbs.0, signature) != der {
        return Err(wrongly(Flaw::NotReservedBytes));
    }
    if info.subject_pki.raw != spki {
        return Err(wrongly(Flaw::AnotherKey));
    }
    request
        .verify_signature()
        .map_err(|_| wrongly(Flaw::BadSignature))
}

/// Validates the path from a leaf through `chain` (nearest CA first, the trust anchor last) at `now_ms`, in
/// milliseconds since 1970, as DPS does at registration.
///
/// Source: DPS documentation "X.509 certificate attestation"; RFC 5280, section 6.1, without policies, name
/// constraints and revocation, which station CAs do not use: an unknown critical extension is refused.
pub fn validate_path(leaf: &[u8], chain: &[&[u8]], now_ms: i64) -> Result<(), Fault> {
    validate(leaf, chain, now_ms).map_err(|(which, flaw)| in_path(which, flaw))
}

/// Validates a CA certificate that was issued elsewhere, by a customer's root for one, through `above` (nearest CA
/// first, the trust anchor last) at `now_ms`, in milliseconds since 1970. `ca` is its name in `station.toml`.
pub fn validate_authority(ca: &str, der: &[u8], above: &[&[u8]], now_ms: i64) -> Result<(), Fault> {
    let walked = moment(now_ms, CertificateName::Authority(1)).and_then(|now| {
        let certificate = parse_authority(der, now, 0)?;
        walk(certificate, above, now, 1)
    });
    walked.map_err(|(which, flaw)| Fault::CaUnfit {
        ca: ca.to_owned(),
        which: Some(which),
        flaw,
    })
}

/// Verifies a device's signature over `message` with the key in its certificate: ECDSA in DER with SHA-256 (P-256) or
/// SHA-384 (P-384), or RSA PKCS #1 v1.5 with SHA-256.
pub fn verify_proof(spki: &[u8], message: &[u8], signature: &[u8]) -> Result<(), Fault> {
    let key = parse_key(spki).map_err(|_| Fault::ProofFailed)?;
    let algorithm: &'static dyn VerificationAlgorithm = match key_kind(&key) {
        Ok(KeyKind::P256) => &ECDSA_P256_SHA256_ASN1,
        Ok(KeyKind::P384) => &ECDSA_P384_SHA384_ASN1,
        Ok(KeyKind::Rsa) => &RSA_PKCS1_2048_8192_SHA256,
        Err(_) => return Err(Fault::ProofFailed),
    };
    UnparsedPublicKey::new(algorithm, &key.subject_public_key.data)
        .verify(message, signature)
        .map_err(|_| Fault::ProofFailed)
}

/// Checks all that the to-be-signed bytes of a leaf must say.
pub(super) fn check_leaf_terms(tbs: &[u8], terms: &LeafTerms<'_>) -> Result<(), Flaw> {
    let (rest, leaf) = TbsCertificate::from_der(tbs).map_err(|error| unreadable(&error))?;
    let issuer = terms.issuer;
    let validity = leaf.validity();
    let requirements = [
        (rest.is_empty(), Flaw::Trailing(rest.len())),
        (leaf.version() == X509Version::V3, Flaw::Version),
        (
            leaf.raw_serial() == terms.serial.octets(),
            Flaw::NotReservedSerial,
        ),
        (
            leaf.issuer().as_raw() == issuer.subject,
            Flaw::AnotherIssuer,
        ),
        (leaf.subject_pki.raw == terms.spki, Flaw::AnotherKey),
        (
            leaf.subject()
                .iter_common_name()
                .map(|name| name.as_str().ok())
                .eq([Some(terms.common_name)]),
            Flaw::AnotherName,
        ),
        (
            validity.not_before.timestamp() >= issuer.not_before
                && validity.not_after.timestamp() <= issuer.not_after
                && validity.not_before < validity.not_after,
            Flaw::OutlivesCa,
        ),
    ];
    match requirements.into_iter().find(|(met, _)| !met) {
        Some((_, flaw)) => Err(flaw),
        None => check_leaf_extensions(&leaf, issuer),
    }
}

fn check_leaf_extensions(leaf: &TbsCertificate<'_>, issuer: &Issuer) -> Result<(), Flaw> {
    let require = |met: bool, flaw| if met { Ok(()) } else { Err(flaw) };
    let constraints = leaf.basic_constraints().ok().flatten();
    require(
        constraints.is_some_and(|c| c.critical && !c.value.ca),
        Flaw::MayBeCa,
    )?;
    let usage = leaf.key_usage().ok().flatten();
    require(
        usage.is_some_and(|u| u.critical && u.value.flags == 1),
        Flaw::KeyUsage,
    )?;
    let purpose = leaf.extended_key_usage().ok().flatten();
    require(
        purpose.is_some_and(|p| p.value.client_auth && !p.value.any && !p.value.server_auth),
        Flaw::ExtendedKeyUsage,
    )?;
    let own = key_identifier(&leaf.subject_pki.subject_public_key.data);
    let mut identifiers = (false, false);
    for extension in leaf.iter_extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => identifiers.0 = id.0 == own,
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                let id = id.key_identifier.as_ref().map(|id| id.0);
                identifiers.1 = id == Some(issuer.key_id.as_slice());
            }
            _ => {}
        }
    }
    require(identifiers == (true, true), Flaw::KeyIdentifiers)
}

/// A certificate of a path, and what is wrong with it.
type Found = (CertificateName, Flaw);

fn validate(leaf: &[u8], chain: &[&[u8]], now_ms: i64) -> Result<(), Found> {
    let of_leaf = |flaw| (CertificateName::Leaf, flaw);
    let now = moment(now_ms, CertificateName::Leaf)?;
    let leaf = parse(leaf).map_err(of_leaf)?;
    check_end_entity(&leaf).map_err(of_leaf)?;
    check_any(&leaf, now).map_err(of_leaf)?;
    walk(leaf, chain, now, 0)
}

/// Goes up from a certificate that was checked already. `authorities` counts the CA certificates below the chain.
fn walk<'a>(
    mut below: X509Certificate<'a>,
    chain: &[&'a [u8]],
    now: ASN1Time,
    authorities: usize,
) -> Result<(), Found> {
    /// Longest chain that is walked, in CA certificates.
    const MAX_CHAIN: usize = 8;
    if chain.is_empty() || chain.len() > MAX_CHAIN {
        return Err((CertificateName::Leaf, Flaw::ChainLength(chain.len())));
    }
    for (depth, der) in (authorities..).zip(chain) {
        let authority = parse_authority(der, now, depth)?;
        let fails = |flaw| Err((CertificateName::Authority(depth + 1), flaw));
        let limit = authority
            .basic_constraints()
            .ok()
            .flatten()
            .and_then(|c| c.value.path_len_constraint);
        if limit.is_some_and(|limit| usize::try_from(limit).is_ok_and(|limit| limit < depth)) {
            return fails(Flaw::PathTooLong);
        }
        if below.issuer().as_raw() != authority.subject().as_raw() {
            return fails(Flaw::NotIssuer);
        }
        if below
            .verify_signature(Some(authority.public_key()))
            .is_err()
        {
            return fails(Flaw::DidNotSign);
        }
        below = authority;
    }
    Ok(())
}

fn parse_authority(der: &[u8], now: ASN1Time, depth: usize) -> Result<X509Certificate<'_>, Found> {
    let fails = |flaw| (CertificateName::Authority(depth + 1), flaw);
    let authority = parse(der).map_err(fails)?;
    check_any(&authority, now).map_err(fails)?;
    check_authority(&authority).map_err(fails)?;
    Ok(authority)
}

fn moment(now_ms: i64, which: CertificateName) -> Result<ASN1Time, Found> {
    ASN1Time::from_timestamp(now_ms.div_euclid(1000)).map_err(|_| (which, Flaw::NoDate(now_ms)))
}

fn check_end_entity(leaf: &X509Certificate<'_>) -> Result<(), Flaw> {
    let odd = |error: X509Error| Flaw::Extension(harmless(&error.to_string(), PARSER_MAX));
    if leaf.is_ca() {
        return Err(Flaw::IsCa);
    }
    let usage = leaf.key_usage().map_err(odd)?;
    if usage.is_some_and(|usage| !usage.value.digital_signature()) {
        return Err(Flaw::NoSigning);
    }
    let purpose = leaf.extended_key_usage().map_err(odd)?;
    if purpose.is_some_and(|purpose| !purpose.value.client_auth && !purpose.value.any) {
        return Err(Flaw::ExtendedKeyUsage);
    }
    Ok(())
}

/// What holds for every certificate of a path: it is valid now, and says nothing that must be understood and is not.
fn check_any(certificate: &X509Certificate<'_>, now: ASN1Time) -> Result<(), Flaw> {
    let unknown = certificate.iter_extensions().any(|extension| {
        extension.critical
            && !matches!(
                extension.parsed_extension(),
                ParsedExtension::BasicConstraints(_)
                    | ParsedExtension::KeyUsage(_)
                    | ParsedExtension::ExtendedKeyUsage(_)
                    | ParsedExtension::SubjectAlternativeName(_)
            )
    });
    if unknown {
        return Err(Flaw::UnknownCritical);
    }
    if certificate.validity().is_valid_at(now) {
        return Ok(());
    }
    let validity = certificate.validity();
    Err(Flaw::NotValidNow {
        from: validity.not_before.to_string(),
        until: validity.not_after.to_string(),
    })
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Flaw> {
    if der.len() > MAX_BYTES {
        return Err(Flaw::TooLong {
            bytes: der.len(),
            max: MAX_BYTES,
        });
    }
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(Flaw::Trailing(rest.len())),
        Err(error) => Err(unreadable(&error)),
    }
}

fn parse_key(spki: &[u8]) -> Result<SubjectPublicKeyInfo<'_>, Flaw> {
    match SubjectPublicKeyInfo::from_der(spki) {
        Ok(([], key)) => Ok(key),
        _ => Err(Flaw::KeyNotDer),
    }
}

fn in_path(which: CertificateName, flaw: Flaw) -> Fault {
    Fault::PathInvalid { which, flaw }
}

fn wrongly(flaw: Flaw) -> Fault {
    Fault::SignedWrongly { flaw }
}
