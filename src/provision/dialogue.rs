//! What is asked of a device, and what can be wrong with its answer: facts, which a fault may carry.
//!
//! Invariant: a fact holds no sentence, and of what a device said only numbers and what was made harmless.

use super::device::NameError;
use serde::{Deserialize, Serialize};

/// What a device is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Say who it is.
    Identify,
    /// Make a key, unless it has one.
    MakeKey,
    /// Show something that it holds.
    Show(Item),
    /// Hold something.
    Take(Item),
    /// Save what it was given, so that it outlives a restart.
    Save,
    /// Sign a nonce with its key.
    Sign,
    /// Refuse all of this from now on.
    Seal,
    /// Pass a command to its TPM.
    AskTpm,
    /// Start anew.
    Restart,
    /// Hold a value that a restart must wipe out.
    TakeMark,
    /// Show whether that value is still there.
    ShowMark,
    /// Say again what it was told; no program asks for that now.
    Echo,
    /// Say how long packets may be.
    Parameters,
    /// Accept bytes at all.
    Listen,
}

/// What a device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// Its device ID.
    DeviceId,
    /// The ID scope.
    IdScope,
    /// The global endpoint.
    GlobalEndpoint,
    /// Its registration ID.
    RegistrationId,
    /// Its certificate, with those that follow it.
    Certificate,
    /// Its request for a certificate.
    CertificateRequest,
}

/// Why a device will not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grounds {
    /// It does not say.
    Unknown,
    /// It cannot read the request.
    Malformed,
    /// It is sealed.
    Sealed,
    /// It has no such object.
    NoObject,
    /// A part of an object came out of order.
    BadOffset,
    /// More data than it has room for.
    TooLong,
    /// The data arrived damaged.
    BadDigest,
    /// It holds something else.
    HoldsOther,
    /// It has no key.
    NoKey,
    /// It has no TPM.
    NoTpm,
    /// Its TPM did not answer.
    TpmFailed,
    /// Its flash failed.
    StorageFailed,
    /// It has no such setting, or will not have this value in it.
    UnknownSetting,
    /// Its firmware does not know the command.
    UnknownCommand,
    /// An error without a number.
    Unnumbered,
    /// An error that means nothing to the station.
    Numbered {
        /// Its number.
        code: u32,
        /// The group of commands whose number it is, where the device names one.
        group: Option<u16>,
    },
}

/// What is wrong with an answer that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nonsense {
    /// Its header announces another length.
    Length,
    /// Its header has an unknown version or operation.
    Header,
    /// Its body cannot be read.
    Body,
    /// A field is missing or has the wrong type.
    Field(String),
    /// A field is longer than it may be, or announces more.
    TooLong {
        /// The field.
        field: String,
        /// Bytes in it.
        found: usize,
        /// The most that it may have.
        max: usize,
    },
    /// None was heard, because the request itself cannot be sent.
    Unsendable {
        /// The length of the request, in bytes.
        found: usize,
        /// The shortest that can be sent, in bytes.
        min: usize,
        /// The longest that can be sent, in bytes.
        max: usize,
    },
    /// It answers another request.
    OtherRequest,
    /// It is about another part of the object.
    OtherPart,
    /// The device took another part of the object than it was sent.
    TookOtherPart,
    /// The parts of the object do not make up the whole.
    Parts,
    /// The object arrived damaged each time.
    Damaged,
    /// The device now holds something else.
    HoldsOther,
    /// The device sealed something else.
    SealedOther,
    /// The device has another value than it was given.
    OtherValue,
    /// What should be certificates is something else.
    NoCertificates,
    /// The signature is longer than any.
    LongSignature,
    /// The device speaks this version of the provisioning group, which the station does not.
    GroupVersion(u64),
    /// It has neither a device ID nor a unique ID of its microcontroller.
    Nameless,
    /// Its device ID is not a valid one.
    DeviceId(NameError),
    /// The value has as many bytes as the device ever gives, and may go on.
    CutOff(usize),
}

/// Why a device of a product cannot hold a value and give it back, so that nothing is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Misfit {
    /// A settings key is empty or too long.
    Key {
        /// The key.
        key: String,
        /// The longest, in bytes.
        max: usize,
    },
    /// Two values have the same settings key.
    SameKey {
        /// The key.
        key: String,
    },
    /// A value is longer than what the device gives back.
    Value {
        /// Which one.
        item: Item,
        /// The value.
        value: String,
        /// The longest that it gives back, in bytes.
        max: usize,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_as_they_were_written() {
        let facts = (
            [Verb::Identify, Verb::Show(Item::IdScope)],
            [
                Grounds::NoKey,
                Grounds::Numbered {
                    code: 9,
                    group: None,
                },
            ],
            [
                Nonsense::Field("len".to_owned()),
                Nonsense::DeviceId(NameError::Character('/')),
                Nonsense::CutOff(32),
            ],
            Misfit::Value {
                item: Item::GlobalEndpoint,
                value: "global.azure".to_owned(),
                max: 4,
            },
        );
        let text = serde_json::to_string(&facts).unwrap();
        assert!(
            text.starts_with(r#"[["identify",{"show":"id_scope"}],["no_key","#),
            "{text}"
        );
        let read: ([Verb; 2], [Grounds; 2], [Nonsense; 3], Misfit) =
            serde_json::from_str(&text).unwrap();
        assert_eq!(read, facts);
    }
}
