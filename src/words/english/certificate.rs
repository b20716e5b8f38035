//! Certificates, requests and keys in English.

use super::hsm;
use crate::provision::fault::{CertificateName, Fault, Flaw, KeyFound, KeyKind, KeyPolicy};

const FIRMWARE: &str = "set the unit aside for rework and have its firmware checked";

pub fn what(fault: &Fault) -> Option<String> {
    Some(match fault {
        Fault::RequestInvalid { flaw: found } => {
            format!("the certificate request is not valid: {}", flaw(found))
        }
        Fault::RequestUnsigned => {
            "the certificate request is not signed by the key in it, or in a way that is not supported (RSA-PSS is one)"
                .to_owned()
        }
        Fault::RequestSubject { found, expected } => format!(
            "the certificate request names {} and not this device, {expected}",
            names(found)
        ),
        Fault::KeyRefused { found, allowed } => format!(
            "the device's key is {}, and the product takes {}",
            key_found(found),
            policy(allowed)
        ),
        Fault::ProofFailed => {
            "the device's signature does not verify under the key in its certificate".to_owned()
        }
        Fault::PathInvalid { which, flaw: found } => format!(
            "the certificate path does not validate: {}: {}",
            certificate(*which),
            flaw(found)
        ),
        Fault::CaUnfit {
            ca,
            which,
            flaw: found,
        } => {
            let which = which.map_or("its certificate".to_owned(), certificate);
            format!("CA {ca} cannot issue: {which}: {}", flaw(found))
        }
        Fault::DraftImpossible { flaw: found } => {
            format!("the certificate cannot be drafted: {}", flaw(found))
        }
        Fault::SignedWrongly { flaw: found } => {
            format!("the signed result fails its check: {}", flaw(found))
        }
        Fault::NoCa { product } => format!("product {product} has no CA"),
        Fault::Hsm(error) => hsm::what(error),
        _ => return None,
    })
}

pub fn next(fault: &Fault) -> Option<&'static str> {
    Some(match fault {
        Fault::RequestInvalid { .. }
        | Fault::RequestUnsigned
        | Fault::RequestSubject { .. }
        | Fault::KeyRefused { .. }
        | Fault::ProofFailed
        | Fault::PathInvalid { .. } => FIRMWARE,
        Fault::CaUnfit {
            flaw: Flaw::EndsBefore { .. },
            ..
        } => {
            "have the process engineer ask for fewer days, or give the line a CA that is valid for longer"
        }
        Fault::CaUnfit { .. } => {
            "have the process engineer check the CA's certificate and the station's clock"
        }
        Fault::DraftImpossible { .. } => {
            "have the process engineer correct the product's certificate profile"
        }
        Fault::SignedWrongly { .. } => {
            "stop the line and have the process engineer check the key in the HSM"
        }
        Fault::NoCa { .. } => "name one in station.toml",
        Fault::Hsm(error) => hsm::next(error),
        _ => return None,
    })
}

/// What is wrong with a certificate, a request, or the bytes that are to become one; a clause about "it".
pub fn flaw(flaw: &Flaw) -> String {
    match flaw {
        Flaw::TooLong { bytes, max } => format!("{bytes} bytes are more than {max}"),
        Flaw::Unreadable(said) => format!("it cannot be read ({said})"),
        Flaw::Trailing(bytes) => format!("{bytes} bytes follow it"),
        Flaw::Extension(said) => format!("one of its extensions cannot be read ({said})"),
        Flaw::ChainLength(count) => format!("{count} CA certificates stand above it"),
        Flaw::NotValidNow { from, until } => {
            format!("it is valid from {from} to {until}, not now")
        }
        Flaw::EndsBefore { until, days } => {
            format!("it ends {until}, before the {days} days asked for are over")
        }
        Flaw::NameLength { found, max } => {
            format!("a name in a certificate has 1 to {max} characters, not {found}")
        }
        Flaw::NoDate(ms) => format!("{ms} ms since 1970 is no date"),
        Flaw::Days(days) => format!("{days} days lead beyond the year 9999"),
        plain => plain_flaw(plain).to_owned(),
    }
}

fn plain_flaw(flaw: &Flaw) -> &'static str {
    match flaw {
        Flaw::NotDer => "it is not in DER",
        Flaw::Version => "it has another version than the one that is taken",
        Flaw::NotOneName => "it does not have exactly one name",
        Flaw::NotReservedBytes => "it is not the reserved bytes",
        Flaw::NotReservedSerial => "its serial number is not the reserved serial number",
        Flaw::TwoAlgorithms => "it names two signature algorithms",
        Flaw::BadSignature => "its signature does not verify under the key that should have signed",
        Flaw::AnotherKey => "it holds another key than it should",
        Flaw::KeyNotDer => "its public key is not in DER",
        Flaw::AnotherIssuer => "its issuer is not the CA's subject, byte for byte",
        Flaw::AnotherName => "it names another device",
        Flaw::OutlivesCa => "its validity is not within the CA's",
        Flaw::MayBeCa => "it does not say that it is no CA's",
        Flaw::IsCa => "it is a CA's",
        Flaw::KeyUsage => "its key usage is not digital signature alone",
        Flaw::NoSigning => "it does not allow signing",
        Flaw::ExtendedKeyUsage => "its extended key usage is not client authentication",
        Flaw::KeyIdentifiers => "its key identifiers are not those of the two keys",
        Flaw::PathTooLong => "it does not allow so long a path",
        Flaw::NotIssuer => "it is not the issuer of the one below it",
        Flaw::DidNotSign => "it did not sign the one below it",
        Flaw::UnknownCritical => "it has a critical extension that is not known here",
        Flaw::NotAuthority => "it is not a CA's: it has no basic constraints with the CA flag",
        Flaw::NoCertificateSigning => "it does not allow signing certificates",
        Flaw::AuthorityForm => "it lacks a key usage, or its basic constraints are not critical",
        Flaw::NamesTwice => "it names an attribute twice in its subject",
        Flaw::NotP256 => "its key is not P-256",
        Flaw::NoKeyIdentifier => "it has no subject key identifier",
        // Told with their arguments above.
        Flaw::TooLong { .. }
        | Flaw::Unreadable(_)
        | Flaw::Trailing(_)
        | Flaw::Extension(_)
        | Flaw::ChainLength(_)
        | Flaw::NotValidNow { .. }
        | Flaw::EndsBefore { .. }
        | Flaw::NameLength { .. }
        | Flaw::NoDate(_)
        | Flaw::Days(_) => "it is not as it should be",
    }
}

fn certificate(which: CertificateName) -> String {
    match which {
        CertificateName::Leaf => "the device's certificate".to_owned(),
        CertificateName::Authority(number) => format!("CA certificate {number}"),
    }
}

fn key_found(found: &KeyFound) -> String {
    match found {
        KeyFound::Kind(kind) => key_kind(*kind).to_owned(),
        KeyFound::NotCanonical(kind) => format!("{}, but not in its DER form", key_kind(*kind)),
        KeyFound::Curve(oid) => format!("an elliptic curve key of another form, curve {oid}"),
        KeyFound::NoCurve => "an elliptic curve key without a named curve".to_owned(),
        KeyFound::RsaBits(bits) => format!("RSA of {bits} bits"),
        KeyFound::Algorithm(oid) => format!("of algorithm {oid}"),
    }
}

fn policy(policy: &KeyPolicy) -> String {
    let kinds: Vec<_> = policy.0.iter().map(|kind| key_kind(*kind)).collect();
    kinds.join(", ")
}

/// A kind of key.
pub fn key_kind(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::P256 => "P-256",
        KeyKind::P384 => "P-384",
        KeyKind::Rsa => "RSA of 2048 to 4096 bits",
    }
}

fn names(found: &[String]) -> String {
    match found {
        [] => "nobody".to_owned(),
        found => found.join(" and "),
    }
}
