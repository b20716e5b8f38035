//! The bytes to be signed, before they are signed, and the finished object after.
//!
//! Invariant: a draft of a leaf passes every check of the finished certificate but the signature's.

use super::Profile;
use super::check::{LeafTerms, check_leaf_terms, validate_authority};
use super::form::{key_identifier, unreadable};
use super::issuer::Issuer;
use super::request::Csr;
use crate::provision::bytes::Blob;
use crate::provision::device::SerialNumber;
use crate::provision::event::{Purpose, Reservation};
use crate::provision::fault::{Fault, Flaw};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyUsagePurpose, PublicKeyData, SignatureAlgorithm, SigningKey,
    SubjectPublicKeyInfo,
};
use std::cell::RefCell;
use time::{Duration, OffsetDateTime};

/// Longest common name and organization in a certificate, in characters (RFC 5280, appendix A.1).
const MAX_NAME: usize = 64;

/// How long a verification certificate is valid: long enough to be carried to DPS by hand.
const VERIFICATION_DAYS: u32 = 30;

/// What a CA certificate, or the request for one, should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaProfile {
    /// Common name, at most 64 characters.
    pub common_name: String,
    /// Organization, at most 64 characters; absent for none.
    pub organization: Option<String>,
    /// How long it is valid, in days from the moment of drafting.
    pub validity_days: u32,
}

/// Drafts a device's certificate: subject of `common_name` and the profile's organization, not a CA, digital
/// signature and client authentication only, key identifiers of both keys. `now_ms` is in milliseconds since 1970.
///
/// Source: DPS documentation "X.509 certificate attestation" (the common name is the registration ID) and RFC 5280.
/// Refused: a validity beyond the CA's own, a name longer than 64 characters, a CA that is not valid now.
pub fn draft_leaf(
    issuer: &Issuer,
    csr: &Csr,
    common_name: &str,
    serial: SerialNumber,
    now_ms: i64,
    profile: &Profile,
) -> Result<Reservation, Fault> {
    let subject = name(common_name, profile.organization.as_deref())?;
    let backdate = Duration::minutes(profile.backdate_minutes.into());
    let mut params = params(csr.spki(), subject, &serial)?;
    (params.not_before, params.not_after) =
        validity_under(issuer, now_ms, backdate, profile.validity_days)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let tbs = tbs_under(issuer, &params, csr.spki())?;
    let terms = LeafTerms {
        issuer,
        spki: csr.spki(),
        common_name,
        serial: &serial,
    };
    check_leaf_terms(&tbs, &terms).map_err(impossible)?;
    Ok(reservation(Purpose::Leaf, &issuer.name, serial, tbs))
}

/// Whether a CA can finish a unit that begins at `now_ms`, in milliseconds since 1970: its path to `root` (DER) holds, and
/// a leaf of the product's validity ends before it does itself.
///
/// # Errors
/// [`Fault::CaUnfit`], which is the station's matter.
pub fn check_ca(issuer: &Issuer, root: &[u8], profile: &Profile, now_ms: i64) -> Result<(), Fault> {
    validate_authority(&issuer.name, &issuer.der, &[root], now_ms)?;
    validity_under(issuer, now_ms, Duration::ZERO, profile.validity_days).map(|_| ())
}

/// Drafts the certificate that proves to DPS the possession of the CA's key: a leaf for the CA's own public key with
/// the service's verification code as common name, valid for thirty days.
///
/// Source: DPS documentation "Verify X.509 CA certificates".
pub fn draft_verification(
    issuer: &Issuer,
    code: &str,
    serial: SerialNumber,
    now_ms: i64,
) -> Result<Reservation, Fault> {
    let mut params = params(&issuer.spki, name(code, None)?, &serial)?;
    (params.not_before, params.not_after) =
        validity_under(issuer, now_ms, Duration::ZERO, VERIFICATION_DAYS)?;
    let tbs = tbs_under(issuer, &params, &issuer.spki)?;
    Ok(reservation(
        Purpose::Verification,
        &issuer.name,
        serial,
        tbs,
    ))
}

/// Drafts a root CA's certificate for the key `spki`, to be signed by that key. `ca` is its name in `station.toml`.
pub fn draft_root(
    ca: &str,
    spki: &[u8],
    profile: &CaProfile,
    serial: SerialNumber,
    now_ms: i64,
) -> Result<Reservation, Fault> {
    let mut params = ca_params(spki, profile, &serial, 1)?;
    params.use_authority_key_identifier_extension = false;
    params.not_before = moment(now_ms)?;
    params.not_after = after(params.not_before, profile.validity_days)?;
    let key = Capture::of(spki)?;
    params.self_signed(&key).map_err(drafting)?;
    Ok(reservation(Purpose::Root, ca, serial, key.taken()))
}

/// Drafts an issuing CA's certificate for the key `spki`, to be signed by `root`; it may issue leaves only.
pub fn draft_issuing(
    root: &Issuer,
    spki: &[u8],
    profile: &CaProfile,
    serial: SerialNumber,
    now_ms: i64,
) -> Result<Reservation, Fault> {
    let mut params = ca_params(spki, profile, &serial, 0)?;
    (params.not_before, params.not_after) =
        validity_under(root, now_ms, Duration::ZERO, profile.validity_days)?;
    let tbs = tbs_under(root, &params, spki)?;
    Ok(reservation(Purpose::Issuing, &root.name, serial, tbs))
}

/// Drafts a request (PKCS #10) that a customer's root makes an issuing CA's certificate from; to be signed by the key
/// `spki` itself. The serial number only names the reservation.
pub fn draft_request(
    ca: &str,
    spki: &[u8],
    profile: &CaProfile,
    serial: SerialNumber,
) -> Result<Reservation, Fault> {
    let mut params = ca_params(spki, profile, &serial, 0)?;
    params.serial_number = None; // a request has none, and rcgen refuses one that does
    params.use_authority_key_identifier_extension = false;
    let key = Capture::of(spki)?;
    params.serialize_request(&key).map_err(drafting)?;
    Ok(reservation(Purpose::Request, ca, serial, key.taken()))
}

/// Drafts the start-up check of a key: a text that can be neither a certificate nor a request.
pub fn draft_self_test(ca: &str, serial: SerialNumber) -> Reservation {
    let text = format!("station self-test of CA {ca}, number {serial}");
    reservation(Purpose::SelfTest, ca, serial, text.into_bytes())
}

/// A signing key that signs nothing: rcgen has no call for the bytes to be signed, so this takes them from it.
struct Capture {
    key: SubjectPublicKeyInfo,
    message: RefCell<Vec<u8>>,
}

impl Capture {
    fn of(spki: &[u8]) -> Result<Self, Fault> {
        Ok(Self {
            key: SubjectPublicKeyInfo::from_der(spki).map_err(drafting)?,
            message: RefCell::default(),
        })
    }

    fn taken(self) -> Vec<u8> {
        self.message.into_inner()
    }
}

impl PublicKeyData for Capture {
    fn der_bytes(&self) -> &[u8] {
        self.key.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.key.algorithm()
    }
}

impl SigningKey for Capture {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        *self.message.borrow_mut() = message.to_vec();
        Ok(vec![0]) // thrown away with everything around it
    }
}

fn reservation(purpose: Purpose, ca: &str, serial: SerialNumber, tbs: Vec<u8>) -> Reservation {
    Reservation {
        purpose,
        ca: ca.to_owned(),
        serial,
        tbs: Blob(tbs),
    }
}

fn tbs_under(issuer: &Issuer, params: &CertificateParams, spki: &[u8]) -> Result<Vec<u8>, Fault> {
    let ca_key = Capture::of(&issuer.spki)?;
    let subject_key = SubjectPublicKeyInfo::from_der(spki).map_err(drafting)?;
    let ca = rcgen::Issuer::from_ca_cert_der(&issuer.der.as_slice().into(), &ca_key)
        .map_err(drafting)?;
    params.signed_by(&subject_key, &ca).map_err(drafting)?;
    Ok(ca_key.taken())
}

/// Everything that rcgen would otherwise fill in with a default of its own.
fn params(
    spki: &[u8],
    subject: DistinguishedName,
    serial: &SerialNumber,
) -> Result<CertificateParams, Fault> {
    let key = SubjectPublicKeyInfo::from_der(spki).map_err(drafting)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.serial_number = Some(serial.octets().to_vec().into());
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_identifier(key.der_bytes()));
    params.use_authority_key_identifier_extension = true;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn ca_params(
    spki: &[u8],
    profile: &CaProfile,
    serial: &SerialNumber,
    path_length: u8,
) -> Result<CertificateParams, Fault> {
    let subject = name(&profile.common_name, profile.organization.as_deref())?;
    let mut params = params(spki, subject, serial)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn name(common_name: &str, organization: Option<&str>) -> Result<DistinguishedName, Fault> {
    let mut name = DistinguishedName::new();
    let parts = [
        (DnType::OrganizationName, organization),
        (DnType::CommonName, Some(common_name)),
    ];
    for (kind, text) in parts {
        let Some(text) = text else { continue };
        let length = text.chars().count();
        if length == 0 || length > MAX_NAME {
            return Err(impossible(Flaw::NameLength {
                found: length,
                max: MAX_NAME,
            }));
        }
        name.push(kind, text);
    }
    Ok(name)
}

fn validity_under(
    issuer: &Issuer,
    now_ms: i64,
    backdate: Duration,
    days: u32,
) -> Result<(OffsetDateTime, OffsetDateTime), Fault> {
    let unfit = |flaw| Fault::CaUnfit {
        ca: issuer.name.clone(),
        which: None,
        flaw,
    };
    let now = moment(now_ms)?;
    let begin = moment(issuer.not_before.saturating_mul(1000))?;
    let end = moment(issuer.not_after_ms())?;
    if now < begin || now > end {
        return Err(unfit(Flaw::NotValidNow {
            from: begin.to_string(),
            until: end.to_string(),
        }));
    }
    let not_after = after(now, days)?;
    if not_after > end {
        return Err(unfit(Flaw::EndsBefore {
            until: end.to_string(),
            days,
        }));
    }
    let not_before = now.checked_sub(backdate).unwrap_or(begin).max(begin);
    Ok((not_before, not_after))
}

fn moment(ms: i64) -> Result<OffsetDateTime, Fault> {
    OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000))
        .map_err(|_| impossible(Flaw::NoDate(ms)))
}

fn after(start: OffsetDateTime, days: u32) -> Result<OffsetDateTime, Fault> {
    start
        .checked_add(Duration::days(days.into()))
        .ok_or_else(|| impossible(Flaw::Days(days)))
}

fn drafting(error: rcgen::Error) -> Fault {
    impossible(unreadable(&error))
}

fn impossible(flaw: Flaw) -> Fault {
    Fault::DraftImpossible { flaw }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{KeyPolicy, assemble, check_signature, read, self_check};
    use super::*;
    use proptest::prelude::*;
    use rcgen::KeyPair;

    const DAY_MS: i64 = 86_400_000;

    fn signed(draft: &Reservation, key: &KeyPair) -> Vec<u8> {
        assemble(&draft.tbs.0, &key.sign(&draft.tbs.0).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_draft_that_is_signed_passes_its_check(
            octets in any::<[u8; 20]>(),
            device in "[A-Za-z0-9][A-Za-z0-9._:-]{0,62}[A-Za-z0-9]",
            organization in proptest::option::of("\\PC{1,64}"),
            days in 1u32..2000,
            backdate_minutes in 0u32..100_000,
            start_days in 0i64..30_000, // until 2052: both forms of time in a certificate
        ) {
            let now_ms = start_days * DAY_MS;
            let ca_key = KeyPair::generate().unwrap();
            let spki = ca_key.subject_public_key_info();
            let profile = CaProfile {
                common_name: "Line".to_owned(),
                organization: organization.clone(),
                validity_days: 2000,
            };
            let serial = SerialNumber::from_random(octets);
            let draft = draft_root("line", &spki, &profile, serial.clone(), now_ms).unwrap();
            let root = signed(&draft, &ca_key);
            check_signature(&root, &draft, &spki).unwrap();
            let ca = Issuer::parse("line", &root).unwrap();

            let key = KeyPair::generate().unwrap();
            let mut request = CertificateParams::default();
            request.distinguished_name = name(&device, None).unwrap();
            let request = request.serialize_request(&key).unwrap();
            let csr = Csr::parse(request.der(), &device, &KeyPolicy::default()).unwrap();
            let profile = Profile { organization, validity_days: days, backdate_minutes, ..Profile::default() };
            let later = now_ms + (2000 - i64::from(days)) * DAY_MS;
            let draft = draft_leaf(&ca, &csr, &device, serial.clone(), later, &profile).unwrap();
            let leaf = signed(&draft, &ca_key);
            self_check(&leaf, &draft, &ca, csr.spki(), &device).unwrap();
            let contents = read(&leaf).unwrap();
            prop_assert_eq!(contents.common_name, device);
            prop_assert_eq!(contents.serial, serial.octets());
            prop_assert_eq!(contents.not_after_ms, later + i64::from(days) * DAY_MS);
        }
    }
}
