//! What can be wrong with an endorsement key and with the certificates that vouch for it.
//!
//! Invariant: what a certificate says of itself is quoted harmless and bounded.

use serde::{Deserialize, Serialize};

/// Why bytes are not the public area that they should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateFault {
    /// Another encoding of a key, or no key at all.
    Encoding(Encoding),
    /// The size field does not match.
    Size {
        /// What the size field says.
        said: usize,
        /// Bytes found after the size field.
        found: usize,
    },
    /// A key of another template; its name in the TCG's EK Credential Profile, absent for one that has none.
    OtherTemplate(Option<String>),
    /// A storage root key.
    StorageRootKey,
    /// One field differs.
    Differs {
        /// The field's name in the TPM 2.0 library specification.
        field: String,
        /// What the template says.
        expected: String,
        /// What the key says.
        found: String,
    },
}

/// What bytes turned out to be, or to lack, in place of a `TPM2B_PUBLIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// PEM text.
    Pem,
    /// A DER structure.
    Der,
    /// A `TPMT_PUBLIC`, which has no size.
    WithoutSize,
    /// No RSA or ECC public area.
    OtherAlgorithm,
    /// Shorter than a size field.
    Empty,
    /// It ends within a field.
    CutShort,
    /// It goes on after its last field.
    Trailing,
    /// It has no modulus of 2048 bits.
    Modulus,
}

/// A rule that a vendor's certificate breaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EkFlaw {
    /// It does not begin like a certificate.
    Beginning,
    /// It is cut short.
    CutShort,
    /// It is no DER certificate; the parser's words.
    NotDer(String),
    /// So many bytes follow it.
    Trailing(usize),
    /// It names two different signature algorithms.
    TwoAlgorithms,
    /// What is around its signed part is no strict DER; the parser's words.
    NotStrict(String),
    /// Its signature is no string of octets.
    SignatureBits,
    /// An extension of it cannot be read; the parser's words.
    Extension(String),
    /// It does not say which TPM it is for.
    NotNamed(TpmAttribute),
    /// It has a critical extension that the station does not understand; its object identifier.
    UnknownCritical(String),
    /// It is the certificate of a CA.
    IsCa,
    /// Its key is none of P-256, P-384, P-521 and RSA.
    OtherKey,
    /// It is not signed by ECDSA or RSA with SHA-256, SHA-384 or SHA-512.
    OtherSignature,
    /// It may not issue certificates.
    NoAuthority,
    /// It is not base64; the decoder's words.
    NotBase64(String),
    /// It comes after so many certificates, which are all that are taken.
    TooMany(usize),
}

/// What an EK certificate must say of its TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TpmAttribute {
    /// Its maker.
    Manufacturer,
    /// Its model.
    Model,
    /// Its firmware version.
    Version,
}
