//! What can be wrong with a certificate, a request for one, or a key.
//!
//! Invariant: each of these is a finding about bytes that were looked at, never about who is to blame.

use serde::{Deserialize, Serialize};

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

/// The kinds of keys that a product takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyPolicy(pub Vec<KeyKind>);

impl Default for KeyPolicy {
    fn default() -> Self {
        Self(vec![KeyKind::P256])
    }
}

/// What a key turned out to be that is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyFound {
    /// A kind that is known, and that the product does not take.
    Kind(KeyKind),
    /// The same, in another encoding than DER's.
    NotCanonical(KeyKind),
    /// An elliptic curve key of another form, on the curve with this object identifier.
    Curve(String),
    /// An elliptic curve key that names no curve.
    NoCurve,
    /// An RSA key of so many bits.
    RsaBits(usize),
    /// A key for the algorithm with this object identifier.
    Algorithm(String),
}

/// A certificate of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateName {
    /// The device's own.
    Leaf,
    /// A CA's, counted from 1 at the one that signed the device's.
    Authority(usize),
}

/// What is wrong with a certificate, a request, or the bytes that are to become one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flaw {
    /// More bytes than are looked at.
    TooLong {
        /// Its length, in bytes.
        bytes: usize,
        /// The most that are looked at.
        max: usize,
    },
    /// Not in DER.
    NotDer,
    /// It cannot be parsed; the parser's words.
    Unreadable(String),
    /// Other bytes follow it; how many.
    Trailing(usize),
    /// Another version than the only one that is taken.
    Version,
    /// Not exactly one common name.
    NotOneName,
    /// Not the bytes that were reserved.
    NotReservedBytes,
    /// Not the serial number that was reserved.
    NotReservedSerial,
    /// Its two signature algorithms differ.
    TwoAlgorithms,
    /// Its signature does not verify under the key that should have signed.
    BadSignature,
    /// It holds another key than it should.
    AnotherKey,
    /// A public key that is not in DER.
    KeyNotDer,
    /// Its issuer is not the CA's subject, byte for byte.
    AnotherIssuer,
    /// It names another device.
    AnotherName,
    /// Its validity is not within the CA's.
    OutlivesCa,
    /// It does not say that it is no CA's.
    MayBeCa,
    /// It is a CA's, and must not be.
    IsCa,
    /// Its key usage is not digital signature alone.
    KeyUsage,
    /// It does not allow signing.
    NoSigning,
    /// Its extended key usage is not client authentication, or not that alone.
    ExtendedKeyUsage,
    /// Its key identifiers are not those of the two keys.
    KeyIdentifiers,
    /// It cannot be used with what an extension says that cannot be read; the parser's words.
    Extension(String),
    /// So many CA certificates stand above it.
    ChainLength(usize),
    /// It does not allow so long a path below it.
    PathTooLong,
    /// It is not the issuer of the one below it.
    NotIssuer,
    /// It did not sign the one below it.
    DidNotSign,
    /// It has a critical extension that is not known here.
    UnknownCritical,
    /// It is not valid now.
    NotValidNow {
        /// First moment of validity.
        from: String,
        /// Last moment of validity.
        until: String,
    },
    /// It has no basic constraints with the CA flag.
    NotAuthority,
    /// It does not allow signing certificates.
    NoCertificateSigning,
    /// It lacks a key usage, or its basic constraints are not critical.
    AuthorityForm,
    /// It names an attribute twice in its subject.
    NamesTwice,
    /// Its key is not P-256.
    NotP256,
    /// It has no subject key identifier.
    NoKeyIdentifier,
    /// It ends before the validity that was asked for is over.
    EndsBefore {
        /// Its last moment.
        until: String,
        /// The validity asked for, in days.
        days: u32,
    },
    /// A name that is empty, or longer than a certificate takes.
    NameLength {
        /// Its length, in characters.
        found: usize,
        /// The most that a certificate takes.
        max: usize,
    },
    /// A number of milliseconds since 1970 that is no date.
    NoDate(i64),
    /// So many days lead beyond the year 9999.
    Days(u32),
}
