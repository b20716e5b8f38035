//! What the station is willing to sign: request policy, draft, assembly, self-check, path validation.
//!
//! Invariants: only a public key leaves a certificate request, everything else in a certificate is the station's
//! own profile; and what would fail the check after signing is refused while it is still a draft.

mod check;
mod draft;
mod issuer;
mod request;

pub use check::{
    Contents, check_request, check_signature, read, self_check, validate_authority, validate_path,
    verify_proof,
};
pub use draft::{
    CaProfile, assemble, draft_issuing, draft_leaf, draft_request, draft_root, draft_self_test,
    draft_verification,
};
pub use issuer::Issuer;
pub use request::Csr;

use super::fault::Fault;
use serde::{Deserialize, Serialize};
use std::fmt;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// What a product wants of the certificates that its devices get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// Organization in the subject, at most 64 characters; absent for a subject of the common name alone.
    pub organization: Option<String>,
    /// How long a certificate is valid, in days from the moment of drafting; never beyond its CA's own end.
    pub validity_days: u32,
    /// How far before the moment of drafting its validity begins, in minutes: room for a device's slow clock.
    pub backdate_minutes: u32,
    /// The keys that a device may ask a certificate for.
    pub keys: KeyPolicy,
}

/// The kinds of keys that a product takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyPolicy(pub Vec<KeyKind>);

/// A kind of public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// Elliptic curve P-256, uncompressed point.
    P256,
    /// Elliptic curve P-384, uncompressed point.
    P384,
    /// RSA of 2048 to 4096 bits.
    Rsa,
}

/// Names for a sentence.
fn names(found: &[String]) -> String {
    match found {
        [] => "nobody".to_owned(),
        found => found.join(" and "),
    }
}

/// Why the station will not sign, or will not believe what was signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The device's request is not a PKCS #10 request in DER.
    #[error("the certificate request is not valid: {0}")]
    Request(String),
    /// The request is not signed by the key in it.
    #[error(
        "the certificate request is not signed by the key in it, or in a way that is not supported (RSA-PSS is one)"
    )]
    RequestSignature,
    /// The request names another device, none, or several.
    #[error(
        "the certificate request names {} and not this device, {expected}",
        names(found)
    )]
    RequestSubject {
        /// The common names in the request.
        found: Vec<String>,
        /// The name that belongs there.
        expected: String,
    },
    /// The device's key is of a kind that the product does not take.
    #[error("the device's key is {found}, and the product takes {allowed}")]
    Key {
        /// The kind found.
        found: String,
        /// The kinds that the product takes.
        allowed: KeyPolicy,
    },
    /// The device could not use the key in its certificate.
    #[error("the device's signature does not verify under the key in its certificate")]
    Proof,
    /// The certificate that the device holds does not lead to the CA.
    #[error("the certificate path does not validate: {0}")]
    Path(String),
    /// The CA cannot issue this.
    #[error("CA {ca} cannot issue: {what}")]
    Issuer {
        /// Name of the CA.
        ca: String,
        /// Why not.
        what: String,
    },
    /// The profile asks for something that a certificate cannot say.
    #[error("the certificate cannot be drafted: {0}")]
    Draft(String),
    /// What was signed is not what was reserved, or was not signed by the key that should have.
    #[error("the signed result fails its check: {0}")]
    Check(String),
}

impl Default for Profile {
    /// P-256 keys, ten years, fifteen minutes of backdating, no organization.
    fn default() -> Self {
        Self {
            organization: None,
            validity_days: 3650,
            backdate_minutes: 15,
            keys: KeyPolicy::default(),
        }
    }
}

impl Default for KeyPolicy {
    fn default() -> Self {
        Self(vec![KeyKind::P256])
    }
}

impl fmt::Display for KeyPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<String> = self.0.iter().map(KeyKind::to_string).collect();
        f.write_str(&kinds.join(", "))
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::Rsa => "RSA of 2048 to 4096 bits",
        })
    }
}

impl Refusal {
    /// The refusal as a fault: the device's where the device said or did something wrong, else the station's.
    pub fn fault(&self) -> Fault {
        let what = self.to_string();
        let renew = "set the unit aside for rework and have its firmware checked";
        match self {
            Self::Request(_) => Fault::device("request_invalid", what, renew),
            Self::RequestSignature => Fault::device("request_unsigned", what, renew),
            Self::RequestSubject { .. } => Fault::device("request_subject", what, renew),
            Self::Key { .. } => Fault::device("key_refused", what, renew),
            Self::Proof => Fault::device("proof_failed", what, renew),
            Self::Path(_) => Fault::device("path_invalid", what, renew),
            Self::Issuer { .. } => Fault::station(
                "ca_unfit",
                what,
                "have the process engineer check the CA with `station ca show` and renew it",
            ),
            Self::Draft(_) => Fault::station(
                "draft_impossible",
                what,
                "have the process engineer correct the product's certificate profile",
            ),
            Self::Check(_) => Fault::station(
                "signed_wrongly",
                what,
                "stop the line and have the process engineer check the key in the HSM",
            ),
        }
    }
}

/// Finds out what kind of key this is; the error names it.
fn key_kind(key: &SubjectPublicKeyInfo<'_>) -> Result<KeyKind, String> {
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
            (Some(c), ..) => Err(format!("an elliptic curve key of another form, curve {c}")),
            (None, ..) => Err("an elliptic curve key without a named curve".to_owned()),
        };
    }
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        let size = match key.parsed() {
            Ok(PublicKey::RSA(rsa)) => rsa.key_size(),
            _ => 0,
        };
        return match size {
            2048..=4096 => Ok(KeyKind::Rsa),
            _ => Err(format!("RSA of {size} bits")),
        };
    }
    Err(format!("of algorithm {algorithm}"))
}

/// The bits that a key identifier keeps of a key: the first 160 of SHA-256 over the key's bit string.
/// Source: RFC 7093, section 2, method 1.
fn key_identifier(key_bits: &[u8]) -> Vec<u8> {
    super::bytes::Digest::of(key_bits).0[..20].to_vec()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_profile_has_sound_defaults_and_knows_its_words() {
        let empty: Profile = toml::from_str("").unwrap();
        assert_eq!(empty, Profile::default());
        assert_eq!(empty.keys, KeyPolicy(vec![KeyKind::P256]));
        let full = "organization = 'Example'\nvalidity_days = 30\nbackdate_minutes = 5\nkeys = ['p384', 'rsa']";
        let full: Profile = toml::from_str(full).unwrap();
        assert_eq!(full.keys.to_string(), "P-384, RSA of 2048 to 4096 bits");
        assert!(toml::from_str::<Profile>("validity_years = 3").is_err());
        assert!(toml::from_str::<Profile>("keys = ['ed25519']").is_err());
    }
}
