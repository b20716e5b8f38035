//! The certificate request of a device: proof that it holds its key, and nothing more.
//!
//! Invariant: of a request only the public key is used, and it is one that the product takes.

use super::form::{key_kind, unreadable};
use crate::provision::fault::{Fault, Flaw, KeyFound, KeyPolicy, harmless};
use rcgen::PublicKeyData;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

/// Levels of nesting in a request that are looked at; one with extensions has nine.
const MAX_DEPTH: usize = 16;

/// A certificate request that was checked: signed by its own key, for this device, with a key that the product takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Csr {
    spki: Vec<u8>,
    asks_for_ca: bool,
}

impl Csr {
    /// The longest request that is looked at, in bytes; one with a 4096-bit RSA key has about 1,700.
    pub const MAX_BYTES: usize = 4096;

    /// Checks a request: DER of PKCS #10 version 1 (RFC 2986) with nothing after it, signed by the key in it, a key
    /// that `policy` takes, and exactly one common name, `expected_common_name`. Requested extensions and other
    /// parts of the subject are ignored: the station's profile decides them.
    pub fn parse(
        der: &[u8],
        expected_common_name: &str,
        policy: &KeyPolicy,
    ) -> Result<Self, Fault> {
        let invalid = |flaw| Fault::RequestInvalid { flaw };
        if der.len() > Self::MAX_BYTES {
            return Err(invalid(Flaw::TooLong {
                bytes: der.len(),
                max: Self::MAX_BYTES,
            }));
        }
        if !is_der(der, MAX_DEPTH) {
            return Err(invalid(Flaw::NotDer));
        }
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|error| invalid(unreadable(&error)))?;
        if !rest.is_empty() {
            return Err(invalid(Flaw::Trailing(rest.len())));
        }
        let info = &request.certification_request_info;
        if info.version != X509Version::V1 {
            return Err(invalid(Flaw::Version));
        }
        let refused = |found| Fault::KeyRefused {
            found,
            allowed: policy.clone(),
        };
        let kind = key_kind(&info.subject_pki).map_err(refused)?;
        if !policy.0.contains(&kind) {
            return Err(refused(KeyFound::Kind(kind)));
        }
        let spki = info.subject_pki.raw.to_vec();
        if canonical(&spki).as_ref() != Some(&spki) {
            return Err(refused(KeyFound::NotCanonical(kind)));
        }
        request
            .verify_signature()
            .map_err(|_| Fault::RequestUnsigned)?;
        check_subject(&info.subject, expected_common_name)?;
        Ok(Self {
            spki,
            asks_for_ca: asks_for_ca(&request),
        })
    }

    /// The public key: DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Whether the device asked to be a CA. It will not be one; but someone should look at its firmware.
    pub fn asks_for_ca(&self) -> bool {
        self.asks_for_ca
    }
}

/// Whether these are whole DER elements, one after the other: single-octet tags, definite lengths in as few octets as
/// they need (X.690, section 10.1), down to `depth` levels. x509-parser takes longer lengths too.
fn is_der(mut bytes: &[u8], depth: usize) -> bool {
    const CONSTRUCTED: u8 = 0x20;
    const LONG_TAG: u8 = 0x1f;
    while let [tag, rest @ ..] = bytes {
        let (length, rest) = match rest {
            [length @ ..=0x7f, rest @ ..] => (usize::from(*length), rest),
            [0x81, length @ 0x80..=0xff, rest @ ..] => (usize::from(*length), rest),
            [0x82, high @ 1..=0xff, low, rest @ ..] => {
                (usize::from(u16::from_be_bytes([*high, *low])), rest)
            }
            _ => return false,
        };
        let Some((content, after)) = rest.split_at_checked(length) else {
            return false;
        };
        let nested = tag & CONSTRUCTED != 0;
        if tag & LONG_TAG == LONG_TAG || nested && (depth == 0 || !is_der(content, depth - 1)) {
            return false;
        }
        bytes = after;
    }
    true
}

/// The key as rcgen will write it into a certificate: what differs would fail the check after signing.
fn canonical(spki: &[u8]) -> Option<Vec<u8>> {
    let key = rcgen::SubjectPublicKeyInfo::from_der(spki).ok()?;
    Some(key.subject_public_key_info())
}

fn check_subject(subject: &x509_parser::x509::X509Name<'_>, expected: &str) -> Result<(), Fault> {
    /// Names shown of a request that has many.
    const SHOWN: usize = 3;
    let names: Vec<&str> = subject
        .iter_common_name()
        .map(|name| name.as_str().unwrap_or("(not text)"))
        .collect();
    if names == [expected] {
        return Ok(());
    }
    Err(Fault::RequestSubject {
        found: names
            .iter()
            .take(SHOWN)
            .map(|name| harmless(name, 64))
            .collect(),
        expected: expected.to_owned(),
    })
}

fn asks_for_ca(request: &X509CertificationRequest<'_>) -> bool {
    let Some(mut extensions) = request.requested_extensions() else {
        return false;
    };
    extensions.any(|extension| match extension {
        ParsedExtension::BasicConstraints(constraints) => constraints.ca,
        ParsedExtension::KeyUsage(usage) => usage.key_cert_sign(),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Issuer, read, validate_path, verify_proof};
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn request(key: &KeyPair) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "GW-0001");
        params.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn lengths_are_minimal_and_nothing_is_left_over() {
        assert!(is_der(&[0x30, 3, 0x02, 1, 5], 1));
        assert!(!is_der(&[0x30, 3, 0x02, 1, 5], 0));
        assert!(!is_der(&[0x30, 0x81, 3, 0x02, 1, 5], 1));
        assert!(!is_der(&[0x30, 0x80, 0x02, 1, 5, 0, 0], 1));
        assert!(!is_der(&[0x30, 3, 0x02, 2, 5], 1));
        assert!(!is_der(&[0x30, 4, 0x02, 1, 5], 1));
        assert!(!is_der(&[0x1f, 1, 5], 1));
        assert!(is_der(&[&[0x04, 0x81, 0x80][..], &[0; 128]].concat(), 1));
        assert!(is_der(&[&[0x04, 0x82, 1, 0][..], &[0; 256]].concat(), 1));
        assert!(!is_der(
            &[&[0x04, 0x82, 0, 0x80][..], &[0; 128]].concat(),
            1
        ));
    }

    #[test]
    fn no_changed_octet_changes_what_is_taken() {
        let key = KeyPair::generate().unwrap();
        let der = request(&key);
        let policy = KeyPolicy::default();
        let taken = Csr::parse(&der, "GW-0001", &policy).unwrap();
        for position in 0..der.len() {
            let mut bent = der.clone();
            bent[position] ^= 0x55;
            if let Ok(other) = Csr::parse(&bent, "GW-0001", &policy) {
                assert_eq!(other, taken, "octet {position}");
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_from_a_device_makes_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let policy = KeyPolicy::default();
            prop_assert!(Csr::parse(&bytes, "GW-0001", &policy).is_err());
            prop_assert!(read(&bytes).is_err());
            prop_assert!(Issuer::parse("line", &bytes).is_err());
            prop_assert!(validate_path(&bytes, &[&bytes], 0).is_err());
            prop_assert!(verify_proof(&bytes, &bytes, &bytes).is_err());
        }

        #[test]
        fn no_damaged_request_or_certificate_makes_a_parser_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
            let certificate = params.self_signed(&key).unwrap().der().to_vec();
            for mut der in [request(&key), certificate] {
                for (index, value) in &changes {
                    let position = index.index(der.len());
                    der[position] = *value;
                }
                for bytes in [&der[..], &der[..cut.index(der.len())]] {
                    let _ = Csr::parse(bytes, "GW-0001", &KeyPolicy::default());
                    let _ = read(bytes);
                    let _ = Issuer::parse("line", bytes);
                    let _ = validate_path(bytes, &[bytes], 0);
                }
            }
        }
    }
}
