//! What the station is willing to sign: request policy, draft, assembly, self-check, path validation.
//!
//! Invariants: only a public key leaves a certificate request, everything else in a certificate is the station's
//! own profile; and what would fail the check after signing is refused while it is still a draft.
//!
//! # Why so
//!
//! - **rcgen writes certificates, and never reads a request.** Its way from a request to a certificate copies the CA
//!   flag and the right to sign certificates out of the request, and takes the algorithm of the device's key from that
//!   of the request's signature, which gives certificates with a key that nobody can read (rustls/rcgen #448). So
//!   x509-parser reads the request, its public key alone is used, and the profile says the rest.
//! - **Signed is what was drafted.** rcgen has no call for the bytes to be signed, so a key that signs nothing takes
//!   them from it; they are reserved, the HSM signs them, and [`assemble`] puts both together.
//! - **Nothing of rcgen's defaults is used.** It would derive the serial number from the key, so that a second
//!   certificate for a key repeats the number; it loses one of two organizational units of a CA's name, and with it the
//!   chain ([`Issuer`] refuses such a CA); and it gives a leaf no key identifier.
//! - **Checked by others than it was made by:** x509-parser reads what was signed, and aws-lc verifies it.

mod check;
mod draft;
mod form;
mod issuer;
mod request;

pub use check::{
    Contents, check_request, check_signature, read, self_check, validate_authority, validate_path,
    verify_proof,
};
pub use draft::{
    CaProfile, check_ca, draft_issuing, draft_leaf, draft_request, draft_root, draft_self_test,
    draft_verification,
};
pub use form::assemble;
pub use issuer::Issuer;
pub use request::Csr;

use super::bounds::within;
pub use super::fault::{KeyKind, KeyPolicy};
use serde::{Deserialize, Serialize};

/// What a product wants of the certificates that its devices get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// Organization in the subject, at most 64 characters; absent for a subject of the common name alone.
    pub organization: Option<String>,
    /// How long a certificate is valid, in days from the moment of drafting; never beyond its CA's own end, and at most
    /// until about the year 9999, the last that a certificate can name.
    #[serde(deserialize_with = "within::<_, _, 1, 2_900_000>")]
    pub validity_days: u32,
    /// How far before the moment of drafting its validity begins, in minutes: room for a device's slow clock;
    /// a year at most.
    #[serde(deserialize_with = "within::<_, _, 0, 525_600>")]
    pub backdate_minutes: u32,
    /// The keys that a device may ask a certificate for.
    pub keys: KeyPolicy,
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
        assert_eq!(full.keys, KeyPolicy(vec![KeyKind::P384, KeyKind::Rsa]));
        assert!(toml::from_str::<Profile>("validity_years = 3").is_err());
        assert!(toml::from_str::<Profile>("keys = ['ed25519']").is_err());
    }
}
