//! The provisioning user group: what firmware implements so that a station can give the device its identity.
//!
//! This page is the whole specification. It stands on SMP (Zephyr, `doc/services/device_mgmt/smp_protocol.rst`) over
//! the console framing; *read* and *write* are SMP's operations. The group's number is [`GROUP`] unless the product
//! says otherwise. Every body, both ways, is a CBOR map with text keys, of definite or indefinite length, in any order;
//! the keys and strings themselves are of definite length; unknown keys are ignored. The station has one request in
//! flight.
//!
//! The station's packets have at most 182 bytes, which is two lines, unless the bay's options say otherwise, a setting has
//! a longer value, or the device says that it takes longer ones: by MCUmgr's parameters (os group, command 6), whose
//! `buf_size` has room for packet, length and checksum. A long packet that gets no answer is sent again in shorter ones. The
//! station asks for the size once for each firmware in a bay, and goes up to 1,024 bytes. It reads replies of up to 4,096 bytes, in lines of any length. *Identify* is answered within
//! 0.5 s. Other requests are sent four times at most, a second apart; *make key*, *sign* and *TPM* ever more rarely,
//! for 15 s. What else the console says may stand anywhere but between the marker and the end of a line.
//!
//! `fixtures/firmware/` is this page in portable C, and `fixtures/vectors/group.txt` has the bytes of a whole
//! conversation.
//!
//! # Commands
//!
//! | command | op | request | reply |
//! |---|---|---|---|
//! | 0 [`IDENTIFY`] | read | `{}` | `{v, id, model, fw, uid, boots, sealed, tpm, holds}` |
//! | 1 [`MAKE_KEY`] | write | `{rid, cn}` | `{rid, len, sha}` |
//! | 2 [`READ_OBJECT`] | read | `{obj, off}` | `{off, data}`, with `off` 0 also `{len, sha}` |
//! | 3 [`WRITE_OBJECT`] | write | `{obj, off, data}`, with `off` 0 also `{len, sha}` | `{off}`, when complete also `{sha}` |
//! | 4 [`SIGN`] | write | `{rid, nonce}` | `{rid, sig}` |
//! | 5 [`TPM`] | write | `{rid, off, data}`, with `off` 0 also `{len, sha}` | `{rid, off}`, when complete also `{len, sha, data}` |
//! | 6 [`SEAL`] | write | `{rid, holds}` | `{rid, holds}` |
//!
//! | key | type | meaning |
//! |---|---|---|
//! | `v` | uint | version of this page: [`PAGE_VERSION`] |
//! | `id` | text | device ID, 1 to 128 of `A-Z a-z 0-9 - . _ :`, first and last a letter or digit; empty: none yet, see below |
//! | `model`, `fw` | text | model name and firmware version, at most [`MAX_NAME`] bytes each |
//! | `uid` | bytes | the microcontroller's unique ID, at most [`MAX_UID`] bytes, never that of another device: two with one `uid` are refused; empty where there is none, but not on a device without an `id` |
//! | `boots` | uint | grows by one at each start and survives power loss |
//! | `sealed`, `tpm` | bool | see [`SEAL`]; whether there is a TPM behind [`TPM`] |
//! | `holds` | 32 bytes | digest of what the device holds, see below |
//! | `rid` | uint | request ID, at most 2^32 - 1, see below |
//! | `cn` | text | common name for the certificate request, at most 128 bytes |
//! | `obj` | uint | 0 [`REQUEST`], 1 [`CHAIN`], 2 [`RESPONSE`] |
//! | `off` | uint | in a request: where `data` stands or shall begin; in the reply to a write: how much is there now |
//! | `len` | uint | length of the whole object, command or response |
//! | `sha` | 32 bytes | SHA-256 of the whole object, command or response |
//! | `data` | bytes | a part of it, as much as fits the frame of whoever sends it |
//! | `nonce`, `sig` | 32 bytes, bytes | see [`SIGN`] |
//!
//! **Device ID.** A device that gets its ID from the station has a fourth setting for it, written and saved with the
//! other three. From the next start on, `id` is its value. The ID is not one of the values in `holds`.
//!
//! **Make key.** Makes a P-256 key on the device, saved before the reply, *only if there is none yet*; then builds a
//! DER PKCS#10 request (RFC 2986, signed with ecdsa-with-SHA256) whose subject is the common name alone, and keeps it
//! in RAM as object 0. `len` and `sha` are the request's. The key never leaves the device.
//!
//! **Objects.** 0, the request, and 2, the last TPM response, live in RAM and can be read only. 1, the certificate
//! chain, is DER certificates one after the other, the device's own first; it is read as it is held in flash. An
//! empty object is `len` 0. Reading past the end gives empty `data`. At most [`MAX_OBJECT`] bytes; a device with less
//! room says *too long*.
//!
//! **Writing an object.** Offset 0 begins it and drops what was begun before; each further part must begin where the
//! last one ended (`off` of the last reply), or lie wholly within what has arrived, where it changes nothing: so a
//! part may be sent again. When the last byte is there the device checks `sha`, saves the object, reads it back, and
//! answers with the SHA-256 of what it *now holds*. The last part sent again gets the same answer. Until then the
//! former object stays.
//!
//! **Sign.** `sig` is the DER ECDSA signature, with SHA-256 and the device's key, of the [`PROOF_PREFIX`] and the
//! nonce, one after the other.
//!
//! **Other keys.** A product may take keys of other kinds. The request is then signed as its own signature algorithm
//! says; `sig` is ECDSA with SHA-384 of a P-384 key, RSASSA-PKCS1-v1_5 with SHA-256 of an RSA key of 2048 to 4096 bits.
//!
//! **TPM.** Collects a TPM 2.0 command like an object; all parts bear the same `rid`. When complete and `sha` is
//! right, the device executes it **once** and answers with `len` and `sha` of the response and its first bytes as
//! `data`; the rest is read as object 2. Each way at most [`MAX_TPM`] bytes. While the TPM works, nothing is sent.
//!
//! **Seal.** If `holds` is the digest of what the device holds, everything in the group but *identify*, and *seal*
//! with the same digest, is refused from now on, for good: only fresh firmware clears it. A sealed device also
//! refuses to write or delete these settings, as a Zephyr handler that refuses does: code 3 of the settings group.
//! A save it answers as ever, and saves nothing. Saved before the reply.
//!
//! # What the device holds
//!
//! Four values: ID scope, global endpoint and registration ID, which come in through the standard settings group
//! (write, save; keys as the product names them), and SHA-256 of the first certificate in object 1. `holds` is
//! SHA-256 over each of the four, in this order, as a 4-byte big-endian length and the bytes; a value that is not
//! there has length 0, and so has the last one where object 1 is not DER certificates from end to end. What counts is
//! what is in flash: a setting that was written and not saved is not held yet.
//!
//! The settings group must take and give values of up to 253 bytes whole, the longest host name: in Zephyr,
//! `CONFIG_MCUMGR_GRP_SETTINGS_VALUE_LEN`, which is 32 by default.
//!
//! # Doing things once
//!
//! The station sends a request again when no reply came. So the device keeps its *last* reply to a command with a
//! `rid`, in RAM, with command and `rid`. If command and `rid` are those of the last one, that reply is sent again and
//! nothing is done, whatever else is in the request. The parts of a TPM command before its last are not kept: they
//! are taken again like those of an object. A command that was refused is not kept. The station never uses one `rid`
//! for two requests.
//!
//! # Errors
//!
//! In version 2 of SMP `{"err": {"group": 64, "rc": code}}`, in version 1 `{"rc": 256 + code}`; see [`Code`]. A refused
//! request changes nothing, except that *bad digest* and *TPM failed* drop the parts that arrived. A command that is
//! not in the table, or comes with the other operation, is refused with SMP's own `{"rc": 8}` in either version.

use crate::provision::dialogue::Grounds;

/// The group's number unless the product says otherwise: the first that SMP leaves to users.
pub const GROUP: u16 = 64;
/// Version of this page.
pub const PAGE_VERSION: u64 = 1;

/// Command: who are you.
pub const IDENTIFY: u8 = 0;
/// Command: make a key if there is none, and a certificate request.
pub const MAKE_KEY: u8 = 1;
/// Command: read a part of an object.
pub const READ_OBJECT: u8 = 2;
/// Command: write a part of an object.
pub const WRITE_OBJECT: u8 = 3;
/// Command: sign a nonce.
pub const SIGN: u8 = 4;
/// Command: pass a command to the TPM.
pub const TPM: u8 = 5;
/// Command: refuse everything from now on.
pub const SEAL: u8 = 6;

/// Object: the certificate request.
pub const REQUEST: u64 = 0;
/// Object: the certificate chain.
pub const CHAIN: u64 = 1;
/// Object: the last TPM response.
pub const RESPONSE: u64 = 2;

/// The longest object, in bytes.
pub const MAX_OBJECT: usize = 8192;
/// The longest TPM command and the longest response, in bytes.
pub const MAX_TPM: usize = 4096;
/// The longest model name and firmware version, in bytes.
pub const MAX_NAME: usize = 64;
/// The longest unique ID of a microcontroller, in bytes.
pub const MAX_UID: usize = 32;
/// The longest common name, in bytes.
pub const MAX_COMMON_NAME: usize = 128;
/// What stands before the nonce in what the device signs, so that its signature can mean nothing else.
pub use crate::provision::device::PROOF_PREFIX;

/// The group's own error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Anything that no other code says.
    Unknown = 1,
    /// A field is missing, has the wrong type or breaks its limit.
    Malformed = 2,
    /// The device is sealed.
    Sealed = 3,
    /// There is no such object, or it cannot be written.
    NoObject = 4,
    /// The part does not begin where the last one ended.
    BadOffset = 5,
    /// Longer than the limit, or than its announced length.
    TooLong = 6,
    /// The bytes that arrived do not have the announced SHA-256.
    BadDigest = 7,
    /// Seal: the device holds something else.
    HoldsOther = 8,
    /// There is no key yet.
    NoKey = 9,
    /// There is no TPM.
    NoTpm = 10,
    /// The TPM did not answer.
    TpmFailed = 11,
    /// Flash could not be written, or does not hold what was written.
    StorageFailed = 12,
}

impl Code {
    /// Every code, in order.
    pub const ALL: [Self; 12] = [
        Self::Unknown,
        Self::Malformed,
        Self::Sealed,
        Self::NoObject,
        Self::BadOffset,
        Self::TooLong,
        Self::BadDigest,
        Self::HoldsOther,
        Self::NoKey,
        Self::NoTpm,
        Self::TpmFailed,
        Self::StorageFailed,
    ];

    /// The code with this number.
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|code| *code as u32 == number)
    }

    /// What the code means.
    pub(in crate::link) fn grounds(self) -> Grounds {
        match self {
            Self::Unknown => Grounds::Unknown,
            Self::Malformed => Grounds::Malformed,
            Self::Sealed => Grounds::Sealed,
            Self::NoObject => Grounds::NoObject,
            Self::BadOffset => Grounds::BadOffset,
            Self::TooLong => Grounds::TooLong,
            Self::BadDigest => Grounds::BadDigest,
            Self::HoldsOther => Grounds::HoldsOther,
            Self::NoKey => Grounds::NoKey,
            Self::NoTpm => Grounds::NoTpm,
            Self::TpmFailed => Grounds::TpmFailed,
            Self::StorageFailed => Grounds::StorageFailed,
        }
    }
}

/// The DER certificates in a chain that has them one after the other, or nothing if that is not what it is.
pub fn split_chain(mut chain: &[u8]) -> Option<Vec<&[u8]>> {
    let mut certificates = Vec::new();
    while !chain.is_empty() {
        let (certificate, rest) = chain.split_at_checked(sequence_length(chain)?)?;
        certificates.push(certificate);
        chain = rest;
    }
    Some(certificates)
}

/// Length of the DER SEQUENCE that `der` begins with, tag and length included; at most three length octets, minimal
/// (X.690, 10.1).
fn sequence_length(der: &[u8]) -> Option<usize> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if tag != 0x30 {
        return None;
    }
    if first < 0x80 {
        return Some(2 + usize::from(first));
    }
    let octets = rest.get(..usize::from(first & 0x7f))?;
    if octets.is_empty() || octets.len() > 3 || octets[0] == 0 {
        return None;
    }
    let length = octets.iter().fold(0, |sum, &o| sum << 8 | usize::from(o));
    (length >= 0x80).then_some(2 + octets.len() + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_known_by_number() {
        for (index, code) in (1..).zip(Code::ALL) {
            assert_eq!(code as u32, index);
            assert_eq!(Code::of(index), Some(code));
        }
        assert_eq!(Code::of(0), None);
        assert_eq!(Code::of(13), None);
    }

    #[test]
    fn a_chain_is_split_only_where_der_says() {
        let short = [0x30, 2, 5, 0];
        let long = [&[0x30, 0x81, 0x80][..], &[0; 0x80]].concat();
        let chain = [&short[..], &long].concat();
        assert_eq!(split_chain(&chain), Some(vec![&short[..], &long]));
        assert_eq!(split_chain(&[]), Some(vec![]));
        for bad in [
            &chain[1..],
            &chain[..chain.len() - 1],
            &[0x30][..],
            &[0x30, 0x80][..],
            &[0x30, 0x81, 2, 5, 0][..],
        ] {
            assert_eq!(split_chain(bad), None);
        }
    }
}
