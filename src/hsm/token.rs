//! Single questions to a token, each asked once: find it, log in, find a key, make a key.

use super::{HsmError, clock};
use crate::provision::bytes::Digest;
use crate::provision::fault::{KeyFlaw, PinAdvice};
use pkcs11::context::Pkcs11;
use pkcs11::error::{Error, RvError};
use pkcs11::mechanism::Mechanism;
use pkcs11::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use pkcs11::session::{Session, SessionState, UserType};
use pkcs11::slot::{Slot, TokenInfo};
use secrecy::SecretString;
use std::path::Path;

/// DER of the object identifier of P-256, as `CKA_EC_PARAMS` holds it (RFC 5480, section 2.1.1.1).
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// DER of a P-256 SubjectPublicKeyInfo up to the point (RFC 5480, section 2).
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Octets of an uncompressed P-256 point.
const POINT: usize = 65;
/// Octets of each half of a P-256 signature.
const HALF: usize = 32;

/// The names that errors carry.
#[derive(Clone)]
pub(super) struct Names {
    pub module: String,
    pub token: String,
}

impl Names {
    fn failed(&self, error: Error) -> HsmError {
        self.failing(Some(said(&error)))
    }

    fn failing(&self, said: Option<String>) -> HsmError {
        HsmError::Token {
            module: self.module.clone(),
            token: self.token.clone(),
            said,
        }
    }

    fn pin(&self, said: Option<String>, advice: PinAdvice) -> HsmError {
        HsmError::Pin {
            token: self.token.clone(),
            said,
            advice,
        }
    }

    fn unfit(&self, label: &str, flaw: KeyFlaw) -> HsmError {
        HsmError::KeyUnfit {
            token: self.token.clone(),
            label: label.to_owned(),
            flaw,
        }
    }

    fn unmade(&self, label: &str, error: &Error) -> HsmError {
        HsmError::KeyUnmade {
            token: self.token.clone(),
            label: label.to_owned(),
            said: said(error),
        }
    }

    pub fn sign(&self, label: &str, said: String) -> HsmError {
        HsmError::Sign {
            token: self.token.clone(),
            label: label.to_owned(),
            said,
        }
    }
}

/// An error in the standard's short words; the crate's own text quotes whole paragraphs of the standard.
pub(super) fn said(error: &Error) -> String {
    match error {
        Error::Pkcs11(value, function) => format!("C_{function:?} returned {value:?}"),
        other => other.to_string(),
    }
}

/// Opens a session on the one token with the label. Refuses where logging in could lock the token.
pub(super) fn open_session(library: &Pkcs11, names: &Names) -> Result<Session, HsmError> {
    /// Labels named when the right one is missing.
    const SHOWN: usize = 8;
    let mut present = Vec::new();
    let mut found = Vec::new();
    let mut unread = None;
    let slots = library.get_slots_with_token();
    for slot in slots.map_err(|error| names.failed(error))? {
        // A slot that cannot be read is not ours to judge: another token of the module may still be the one.
        let info = match token_info(library, names, slot) {
            Ok(info) => info,
            Err(error) => {
                unread = Some(error);
                continue;
            }
        };
        if !info.token_initialized() {
            continue;
        }
        if info.label() == names.token {
            found.push((slot, info));
        } else if present.len() < SHOWN {
            present.push(info.label().to_owned());
        }
    }
    match (found.as_slice(), unread) {
        ([(slot, info)], _) => {
            check_pin_state(info, names)?;
            open_slot(library, *slot).map_err(|error| names.failed(error))
        }
        ([], Some(error)) if present.is_empty() => Err(error),
        ([], _) => Err(HsmError::TokenMissing {
            module: names.module.clone(),
            token: names.token.clone(),
            present,
        }),
        (several, _) => Err(HsmError::TokenAmbiguous {
            module: names.module.clone(),
            token: names.token.clone(),
            count: several.len(),
        }),
    }
}

/// Whether the token says that a wrong PIN was tried, so that few tries are left; no, where it says nothing.
pub(super) fn tries_are_low(library: &Pkcs11, names: &Names) -> bool {
    let slots = library.get_slots_with_token().unwrap_or_default();
    let mut tokens = slots
        .into_iter()
        .filter_map(|slot| token_info(library, names, slot).ok());
    tokens.any(|info| info.label() == names.token && info.user_pin_count_low())
}

/// What a slot's token says of itself, its clock left out where only that cannot be read.
fn token_info(library: &Pkcs11, names: &Names, slot: Slot) -> Result<TokenInfo, HsmError> {
    library.get_token_info(slot).or_else(|error| match error {
        Error::Pkcs11(..) => Err(names.failed(error)),
        _ => clock::without(Path::new(&names.module), slot).ok_or_else(|| names.failed(error)),
    })
}

/// A session that may make keys; on a token that allows none, one that can still find them and sign.
fn open_slot(library: &Pkcs11, slot: Slot) -> Result<Session, Error> {
    use RvError::{SessionCount, TokenWriteProtected};
    match library.open_rw_session(slot) {
        Err(Error::Pkcs11(TokenWriteProtected | SessionCount, _)) => library.open_ro_session(slot),
        opened => opened,
    }
}

fn check_pin_state(info: &TokenInfo, names: &Names) -> Result<(), HsmError> {
    if info.user_pin_locked() {
        return Err(names.pin(None, PinAdvice::Unlock));
    }
    if info.user_pin_final_try() {
        return Err(names.pin(None, PinAdvice::LastTry));
    }
    Ok(())
}

/// Logs in. Another session of this process may have done so already: the login is the token's, not the session's.
///
/// Only where the token or the session had gone away is the PIN known not to have been judged, so that it may be tried
/// again: some modules have words of their own for a wrong one.
pub(super) fn log_in(session: &Session, names: &Names, pin: &SecretString) -> Result<(), HsmError> {
    let error = match session.login(UserType::User, Some(pin)) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => return Ok(()),
        Err(error) => error,
    };
    let Error::Pkcs11(said_of, _) = &error else {
        return Err(names.failed(error));
    };
    let advice = match said_of {
        RvError::DeviceError
        | RvError::DeviceMemory
        | RvError::DeviceRemoved
        | RvError::SessionClosed
        | RvError::SessionHandleInvalid
        | RvError::TokenNotPresent
        | RvError::TokenNotRecognized
        | RvError::CryptokiNotInitialized => return Err(names.failed(error)),
        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange => PinAdvice::Correct,
        RvError::PinLocked => PinAdvice::Unlock,
        RvError::PinExpired | RvError::PinTooWeak | RvError::UserPinNotInitialized => {
            PinAdvice::Set
        }
        RvError::ArgumentsBad => PinAdvice::NoPad,
        RvError::GeneralError | RvError::FunctionFailed | RvError::HostMemory => PinAdvice::Wait,
        _ => PinAdvice::Look,
    };
    Err(names.pin(Some(said(&error)), advice))
}

/// Whether a login failed without a word about the PIN, so that it may be tried once more, later.
pub(super) fn is_unjudged(error: &HsmError) -> bool {
    matches!(
        error,
        HsmError::Pin {
            advice: PinAdvice::Wait,
            ..
        }
    )
}

/// Asks the token whether it still knows the session as logged in.
pub(super) fn check_session(session: &Session, names: &Names) -> Result<(), HsmError> {
    let info = session
        .get_session_info()
        .map_err(|error| names.failed(error))?;
    match info.session_state() {
        SessionState::RoUser | SessionState::RwUser => Ok(()),
        _ => Err(names.failing(None)),
    }
}

/// The only private key with the label.
pub(super) fn private_key(
    session: &Session,
    names: &Names,
    label: &str,
) -> Result<ObjectHandle, HsmError> {
    only_object(session, names, ObjectClass::PRIVATE_KEY, label)
}

/// The public half of the only key with the label, once its private half is found fit: on P-256, able to sign, and
/// unable to leave the token.
pub(super) fn public_key(
    session: &Session,
    names: &Names,
    label: &str,
) -> Result<Vec<u8>, HsmError> {
    let private = private_key(session, names, label)?;
    check_private(session, names, label, private)?;
    let public =
        only_object(session, names, ObjectClass::PUBLIC_KEY, label).map_err(
            |error| match error {
                HsmError::KeyMissing { .. } => names.unfit(label, KeyFlaw::NoPublicHalf),
                other => other,
            },
        )?;
    let wanted = [AttributeType::EcParams, AttributeType::EcPoint];
    let attributes = session
        .get_attributes(public, &wanted)
        .map_err(|error| names.failed(error))?;
    let mut on_p256 = false;
    let mut point = None;
    for attribute in &attributes {
        match attribute {
            Attribute::EcParams(parameters) => on_p256 = *parameters == P256,
            Attribute::EcPoint(octets) => point = bare_point(octets),
            _ => {}
        }
    }
    match point {
        Some(point) if on_p256 => Ok([&P256_SPKI[..], point].concat()),
        _ => Err(names.unfit(label, KeyFlaw::NotP256)),
    }
}

/// Makes a P-256 pair that signs, stays, and cannot be read. Its `CKA_ID` is derived from the label.
pub(super) fn make_key(session: &Session, names: &Names, label: &str) -> Result<(), HsmError> {
    let id = Digest::of(label.as_bytes()).0[..20].to_vec();
    remove_orphans(session, names, label, &id)?;
    let octets = label.as_bytes().to_vec();
    let public = [
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Label(octets.clone()),
        Attribute::Id(id.clone()),
        Attribute::EcParams(P256.to_vec()),
        Attribute::Verify(true),
    ];
    let private = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Label(octets),
        Attribute::Id(id),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        // No CKA_DECRYPT: tpm2-pkcs11 takes "may not decrypt" for "the public half may not verify", and makes no key.
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ];
    session
        .generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)
        .map_err(|error| names.unmade(label, &error))?;
    Ok(())
}

/// Destroys public keys that a process left which was killed while the pair was made: without the private half, which
/// nobody ever had, nothing can have been signed for them. One that does not bear the station's `id` is not its to
/// destroy: somebody made it elsewhere, and the private half may be there under another name.
fn remove_orphans(
    session: &Session,
    names: &Names,
    label: &str,
    id: &[u8],
) -> Result<(), HsmError> {
    let template = [
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::Label(label.as_bytes().to_vec()),
    ];
    let orphans = session
        .find_objects(&template)
        .map_err(|error| names.failed(error))?;
    let own = Attribute::Id(id.to_vec());
    for orphan in &orphans {
        let known = session
            .get_attributes(*orphan, &[AttributeType::Id])
            .map_err(|error| names.failed(error))?;
        if !known.contains(&own) {
            return Err(names.unfit(label, KeyFlaw::NoPrivateHalf));
        }
    }
    for orphan in orphans {
        session
            .destroy_object(orphan)
            .map_err(|error| names.failed(error))?;
    }
    Ok(())
}

/// Turns the two halves that PKCS #11 returns (section 2.3.1 of its mechanisms: r and s, each 32 octets) into the DER
/// of RFC 3279, section 2.2.3.
pub(super) fn signature_to_der(raw: &[u8]) -> Result<Vec<u8>, String> {
    if raw.len() != 2 * HALF {
        return Err(format!("a signature of {} octets", raw.len()));
    }
    let (r, s) = raw.split_at(HALF);
    Ok(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_bigint_bytes(r, true);
            writer.next().write_bigint_bytes(s, true);
        });
    }))
}

fn only_object(
    session: &Session,
    names: &Names,
    class: ObjectClass,
    label: &str,
) -> Result<ObjectHandle, HsmError> {
    let template = [
        Attribute::Class(class),
        Attribute::Label(label.as_bytes().to_vec()),
    ];
    let found = session
        .find_objects(&template)
        .map_err(|error| names.failed(error))?;
    match found.as_slice() {
        [only] => Ok(*only),
        [] => Err(HsmError::KeyMissing {
            token: names.token.clone(),
            label: label.to_owned(),
        }),
        several => Err(HsmError::KeyAmbiguous {
            token: names.token.clone(),
            label: label.to_owned(),
            count: several.len(),
        }),
    }
}

fn check_private(
    session: &Session,
    names: &Names,
    label: &str,
    key: ObjectHandle,
) -> Result<(), HsmError> {
    let required = [
        (Attribute::KeyType(KeyType::EC), KeyFlaw::NotElliptic),
        (Attribute::Sensitive(true), KeyFlaw::Readable),
        (Attribute::Extractable(false), KeyFlaw::Extractable),
        (Attribute::Sign(true), KeyFlaw::MayNotSign),
    ];
    let kinds: Vec<AttributeType> = required
        .iter()
        .map(|(attribute, _)| attribute.attribute_type())
        .collect();
    let found = session
        .get_attributes(key, &kinds)
        .map_err(|error| names.failed(error))?;
    if let Some((_, flaw)) = required.iter().find(|(wanted, _)| !found.contains(wanted)) {
        return Err(names.unfit(label, *flaw));
    }
    // Asked for alone: tokens that know nothing of it may refuse the whole question.
    match session.get_attributes(key, &[AttributeType::AlwaysAuthenticate]) {
        Ok(always) if always.contains(&Attribute::AlwaysAuthenticate(true)) => {
            Err(names.unfit(label, KeyFlaw::AlwaysAuthenticate))
        }
        _ => Ok(()),
    }
}

/// The point in a `CKA_EC_POINT`: wrapped into a DER OCTET STRING, as PKCS #11 wants it, or bare, as some tokens do.
fn bare_point(octets: &[u8]) -> Option<&[u8]> {
    let point = match octets {
        [0x04, length, point @ ..] if usize::from(*length) == POINT && point.len() == POINT => {
            point
        }
        bare => bare,
    };
    (point.len() == POINT && point[0] == 0x04).then_some(point)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn signature_halves_become_positive_minimal_integers() {
        let mut raw = [0u8; 64];
        raw[31] = 0x01; // r = 1: thirty-one leading zeros
        raw[32] = 0x80; // s begins with its top bit set
        let der = signature_to_der(&raw).unwrap();
        assert_eq!(der[..6], [0x30, 2 + 1 + 2 + 33, 0x02, 1, 0x01, 0x02]);
        assert_eq!(der[6..9], [33, 0x00, 0x80]);
        assert!(signature_to_der(&raw[..63]).is_err());
    }

    #[test]
    fn a_point_is_taken_wrapped_and_bare() {
        let mut bare = vec![7; POINT];
        bare[0] = 0x04;
        let mut wrapped = vec![0x04, 65];
        wrapped.extend(&bare);
        assert_eq!(bare_point(&bare), Some(&bare[..]));
        assert_eq!(bare_point(&wrapped), Some(&bare[..]));
        assert_eq!(bare_point(&wrapped[..66]), None);
        assert_eq!(bare_point(&[]), None);
    }
}
