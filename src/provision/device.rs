//! What a device is, and what it may be called: parsed once here, trusted everywhere else.
//!
//! Invariant: a value of a type of this file obeys the rule in its documentation.

use super::bytes::{Blob, Digest};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The name of a device in the factory and in IoT Hub.
///
/// 1 to 128 characters of ASCII letters, digits and `- . _ :`, the first and the last a letter or digit: a subset
/// of what IoT Hub takes, chosen so that one name is safe in a file name, a certificate and a registration ID.
/// Case matters (IoT Hub compares device IDs case-sensitively).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(String);

/// The name of a device in DPS: lower case, 1 to 128 characters of `a-z 0-9 - . _ :`, first and last a letter or digit.
///
/// Source: DPS documentation "Registration ID", and the service's specification, which forbids a special character
/// at either end. DPS compares registration IDs case-insensitively; keeping them in lower case makes equality plain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegistrationId(String);

/// An X.509 serial number: 16 to 20 octets, positive, first octet neither zero nor with its top bit set.
///
/// Source: RFC 5280, section 4.1.2.2 (at most 20 octets, positive); the first octet's rule makes the DER content
/// octets equal to the octets kept here.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SerialNumber(Vec<u8>);

/// How a device proves to DPS who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attestation {
    /// A certificate for a key that was made on the device.
    X509,
    /// The endorsement key of the device's TPM.
    Tpm,
}

/// What a device says of itself when it is asked: claims, bounded and made harmless, but not yet compared to anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identification {
    /// The device's own ID; a provisional one where it is blank, see [`DeviceId::provisional`].
    pub device_id: DeviceId,
    /// Whether the device has no ID of its own yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blank: bool,
    /// Model name; at most 64 characters, printable.
    pub model: String,
    /// Firmware version; at most 64 characters, printable.
    pub firmware: String,
    /// The microcontroller's unique ID; at most 32 bytes.
    pub uid: Blob,
    /// How often the device has started; grows by one at each start and survives power loss.
    pub boots: u64,
    /// Whether the provisioning commands are locked for good.
    pub sealed: bool,
    /// Whether a TPM can be reached through the device.
    pub tpm: bool,
    /// Digest of what the device holds; see [`Holding::digest`].
    pub holds: Digest,
    /// Whether its firmware is stock: it has no provisioning commands, and only its ID was read, from a setting. The
    /// model is then the product's; firmware and unique ID are empty, the start counter is 0, nothing is sealed, no
    /// TPM can be reached, and the digest is that of no bytes: none of that is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stock: bool,
}

/// What a device holds after provisioning: what is asked of it, what is read back, and what is enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// ID scope of the DPS instance.
    pub id_scope: String,
    /// The global DPS endpoint, a host name with an optional port.
    pub global_endpoint: String,
    /// The device's registration ID.
    pub registration_id: String,
    /// SHA-256 of the leaf certificate's DER; absent on a TPM device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_sha256: Option<Digest>,
}

impl Identification {
    /// Whether the same unit said both: the same microcontroller, and where that has no unique ID, the same name.
    pub fn same_unit(&self, other: &Self) -> bool {
        self.uid == other.uid && (!self.uid.0.is_empty() || self.device_id == other.device_id)
    }

    /// All that is known of a device with stock firmware: its ID, and the product that it is to be.
    pub fn of_stock(device_id: DeviceId, model: &str) -> Self {
        Self {
            device_id,
            blank: false,
            model: model.to_owned(),
            firmware: String::new(),
            uid: Blob::default(),
            boots: 0,
            sealed: false,
            tpm: false,
            holds: Digest::of(b""),
            stock: true,
        }
    }
}

impl Holding {
    /// One digest over everything held: SHA-256 of each of the four values as a 4-byte big-endian length and the
    /// bytes, in the order of the fields; an absent certificate digest has length 0.
    pub fn digest(&self) -> Digest {
        let certificate = self
            .certificate_sha256
            .as_ref()
            .map_or(&[][..], |d| &d.0[..]);
        let mut bytes = Vec::new();
        for part in [
            self.id_scope.as_bytes(),
            self.global_endpoint.as_bytes(),
            self.registration_id.as_bytes(),
            certificate,
        ] {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(part);
        }
        Digest::of(&bytes)
    }
}

/// What stands before the nonce in what a device signs, so that its signature can mean nothing else.
pub const PROOF_PREFIX: &[u8] = b"DPS-STATION-PROOF\0";

/// What a device signs to prove that it can use its key: [`PROOF_PREFIX`] and the station's nonce.
pub fn proof_message(nonce: &[u8; 32]) -> Vec<u8> {
    [PROOF_PREFIX, nonce].concat()
}

/// Why a text is not the name that it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum NameError {
    /// Empty, or too long.
    #[error("must have 1 to {max} characters, not {found}")]
    Length {
        /// The longest that is allowed.
        max: usize,
        /// The length found, in bytes.
        found: usize,
    },
    /// A character that the rule does not allow.
    #[error("must not contain {0:?}")]
    Character(char),
    /// The first or last character is not a letter or digit.
    #[error("must begin and end with a letter or a digit")]
    Ends,
    /// Not hexadecimal, or not a positive number of 16 to 20 octets.
    #[error("must be a positive number of 16 to 20 octets in lower-case hexadecimal")]
    Serial,
}

impl DeviceId {
    /// Parses a device ID; see the type for the rule.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_name(text, |c| c.is_ascii_alphanumeric())?;
        Ok(Self(text.to_owned()))
    }

    /// What a device without an ID is called until it has one: `uid-` and its microcontroller's unique ID in
    /// hexadecimal; none where that is empty too.
    pub fn provisional(uid: &Blob) -> Option<Self> {
        let hex = data_encoding::HEXLOWER.encode(&uid.0);
        Self::parse(&format!("uid-{hex}")).ok()
    }

    /// The ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RegistrationId {
    /// Parses a registration ID that must already be in lower case; see the type for the rule.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_name(text, |c| c.is_ascii_lowercase() || c.is_ascii_digit())?;
        Ok(Self(text.to_owned()))
    }

    /// The customary registration ID of an X.509 device: its device ID in lower case.
    pub fn of_device(device: &DeviceId) -> Self {
        Self(device.0.to_ascii_lowercase())
    }

    /// The customary registration ID of a TPM device: lower-case unpadded base32 of SHA-256 over the endorsement
    /// key as `TPM2B_PUBLIC`, size field included (azure-iot-sdk-c `prov_auth_client.c`, `azure_base32.c`).
    pub fn of_endorsement_key(tpm2b_public: &[u8]) -> Self {
        let text = data_encoding::BASE32_NOPAD.encode(&Digest::of(tpm2b_public).0);
        Self(text.to_ascii_lowercase())
    }

    /// The ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SerialNumber {
    /// Octets in a serial number that the station draws.
    pub const OCTETS: usize = 20;

    /// Makes a serial number from random bytes: clears the top bit and sets the next, so that it is positive, has no
    /// leading zero, and keeps 158 random bits.
    pub fn from_random(mut random: [u8; Self::OCTETS]) -> Self {
        random[0] = (random[0] & 0x7f) | 0x40;
        Self(random.to_vec())
    }

    /// The content octets of the DER INTEGER.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }

    fn parse(text: &str) -> Result<Self, NameError> {
        let octets = data_encoding::HEXLOWER
            .decode(text.as_bytes())
            .map_err(|_| NameError::Serial)?;
        let first = octets.first().copied().unwrap_or(0);
        if !(16..=20).contains(&octets.len()) || first == 0 || first >= 0x80 {
            return Err(NameError::Serial);
        }
        Ok(Self(octets))
    }
}

fn check_name(text: &str, alphanumeric: impl Fn(char) -> bool) -> Result<(), NameError> {
    const MAX: usize = 128;
    if text.is_empty() || text.len() > MAX {
        return Err(NameError::Length {
            max: MAX,
            found: text.len(),
        });
    }
    if let Some(bad) = text
        .chars()
        .find(|&c| !alphanumeric(c) && !"-._:".contains(c))
    {
        return Err(NameError::Character(bad));
    }
    if !text.starts_with(&alphanumeric) || !text.ends_with(&alphanumeric) {
        return Err(NameError::Ends);
    }
    Ok(())
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RegistrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! text_form {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}
text_form!(DeviceId);
text_form!(RegistrationId);
text_form!(SerialNumber);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rules() {
        assert!(DeviceId::parse("GW-0001.a").is_ok());
        assert_eq!(
            DeviceId::parse(""),
            Err(NameError::Length { max: 128, found: 0 })
        );
        assert_eq!(DeviceId::parse("a/b"), Err(NameError::Character('/')));
        assert_eq!(DeviceId::parse("-a"), Err(NameError::Ends));
        assert!(DeviceId::parse(&"a".repeat(129)).is_err());
        assert_eq!(RegistrationId::parse("Abc"), Err(NameError::Character('A')));
        let device = DeviceId::parse("GW-0001").expect("valid");
        assert_eq!(RegistrationId::of_device(&device).as_str(), "gw-0001");
    }

    #[test]
    fn a_serial_number_is_positive_and_minimal_whatever_is_drawn() {
        for byte in 0..=255 {
            let serial = SerialNumber::from_random([byte; 20]);
            assert_eq!(SerialNumber::parse(&serial.to_string()), Ok(serial));
        }
        assert!(SerialNumber::parse("00ff").is_err());
        assert!(SerialNumber::parse(&"ff".repeat(20)).is_err());
    }
}
