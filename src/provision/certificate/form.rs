//! The outer form of what is signed, and what can be read of a key: what every other file here stands on.
//!
//! Invariant: nothing here decides anything; it writes DER, and says what DER holds.

use crate::provision::bytes::Digest;
use crate::provision::fault::{Flaw, KeyFound, KeyKind, harmless};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The longest text of a parser that is kept, in characters.
pub(super) const PARSER_MAX: usize = 80;

/// DER of the algorithm identifier ecdsa-with-SHA256 (RFC 5758, section 3.2).
const ECDSA_WITH_SHA256: [u8; 12] = [
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];

/// Puts the reserved bytes and the signature over them together: a certificate, or a request, in DER.
/// `signature` is the DER of an ECDSA signature with SHA-256 (RFC 3279, section 2.2.3).
pub fn assemble(tbs: &[u8], signature: &[u8]) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(tbs);
            writer.next().write_der(&ECDSA_WITH_SHA256);
            writer
                .next()
                .write_bitvec_bytes(signature, signature.len() * 8);
        });
    })
}

/// Finds out what kind of key this is; the error names it.
pub(super) fn key_kind(key: &SubjectPublicKeyInfo<'_>) -> Result<KeyKind, KeyFound> {
    const P256_POINT: usize = 65;
    const P384_POINT: usize = 97;
    let algorithm = &key.algorithm.algorithm;
    let bits = &key.subject_public_key.data;
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.algorithm.parameters.as_ref();
        let curve = curve.and_then(|p| p.as_oid().ok());
        return match (&curve, bits.first(), bits.len()) {
            (Some(c), Some(4), P256_POINT) if *c == OID_EC_P256 => Ok(KeyKind::P256),
            (Some(c), Some(4), P384_POINT) if *c == OID_NIST_EC_P384 => Ok(KeyKind::P384),
            (Some(c), ..) => Err(KeyFound::Curve(c.to_id_string())),
            (None, ..) => Err(KeyFound::NoCurve),
        };
    }
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        let size = match key.parsed() {
            Ok(PublicKey::RSA(rsa)) => rsa.key_size(),
            _ => 0,
        };
        return match size {
            2048..=4096 => Ok(KeyKind::Rsa),
            _ => Err(KeyFound::RsaBits(size)),
        };
    }
    Err(KeyFound::Algorithm(algorithm.to_id_string()))
}

/// The bits that a key identifier keeps of a key: the first 160 of SHA-256 over the key's bit string.
/// Source: RFC 7093, section 2, method 1.
pub(super) fn key_identifier(key_bits: &[u8]) -> Vec<u8> {
    Digest::of(key_bits).0[..20].to_vec()
}

/// What a parser that could not read something said of it.
pub(super) fn unreadable(error: &impl ToString) -> Flaw {
    Flaw::Unreadable(harmless(&error.to_string(), PARSER_MAX))
}
