//! Why an HSM did not do what it was asked.
//!
//! Invariant: module, token or label are named, and no PIN ever is.

use serde::{Deserialize, Serialize};

/// Why the HSM did not do what it was asked. `said` is what the module, its loader or the station's own check said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HsmError {
    /// The module is not there, or is no PKCS #11 module.
    Module {
        /// Path of the module.
        module: String,
        /// What the loader said.
        said: String,
    },
    /// No token has the label.
    TokenMissing {
        /// Path of the module.
        module: String,
        /// The label looked for.
        token: String,
        /// The labels found, at most eight.
        present: Vec<String>,
    },
    /// Several tokens have the label.
    TokenAmbiguous {
        /// Path of the module.
        module: String,
        /// The label.
        token: String,
        /// How many have it.
        count: usize,
    },
    /// The PIN was refused, or trying it could lock the token. Stays so until the station is restarted.
    Pin {
        /// The token's label.
        token: String,
        /// What the token said; absent where it was not asked.
        said: Option<String>,
        /// What a person has to do.
        advice: PinAdvice,
    },
    /// No key has the label.
    KeyMissing {
        /// The token's label.
        token: String,
        /// The key's label.
        label: String,
    },
    /// Several keys have the label.
    KeyAmbiguous {
        /// The token's label.
        token: String,
        /// The key's label.
        label: String,
        /// How many have it.
        count: usize,
    },
    /// The key may not be a CA's: it can leave the token, cannot sign, or is of another kind.
    KeyUnfit {
        /// The token's label.
        token: String,
        /// The key's label.
        label: String,
        /// What is wrong with it.
        flaw: KeyFlaw,
    },
    /// The key could not be made.
    KeyUnmade {
        /// The token's label.
        token: String,
        /// The key's label.
        label: String,
        /// What the module said.
        said: String,
    },
    /// The token failed, on a new session and a newly initialized module too.
    Token {
        /// Path of the module.
        module: String,
        /// The token's label.
        token: String,
        /// What the module said; absent where the session was found to be logged in no longer.
        said: Option<String>,
    },
    /// The signature was asked for and did not come. It is not asked for again: the serial number is lost.
    Sign {
        /// The token's label.
        token: String,
        /// The key's label.
        label: String,
        /// What the module said.
        said: String,
    },
    /// A call did not return in time. Stays so until the station is restarted.
    Hung {
        /// Path of the module.
        module: String,
    },
    /// Too many calls are waiting.
    Busy {
        /// Path of the module.
        module: String,
    },
    /// The key in the HSM is not the one in the CA's certificate.
    AnotherKey {
        /// The key's label.
        label: String,
        /// Name of the CA.
        ca: String,
    },
}

/// What a person has to do about a PIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinAdvice {
    /// Correct it.
    Correct,
    /// Have the token unlocked.
    Unlock,
    /// Give the token a user PIN.
    Set,
    /// Correct it, and have the tries given back: one is left.
    LastTry,
    /// Use a token that takes its PIN from a program.
    NoPad,
    /// Look at it with the maker's tool.
    Look,
    /// Wait: the token failed without a word about the PIN, and is asked again.
    Wait,
}

/// What makes a key unfit to be a CA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyFlaw {
    /// It is no elliptic curve key.
    NotElliptic,
    /// It can be read: `CKA_SENSITIVE` is not true.
    Readable,
    /// It can leave the token: `CKA_EXTRACTABLE` is not false.
    Extractable,
    /// It may not sign: `CKA_SIGN` is not true.
    MayNotSign,
    /// It wants the PIN again for each signature.
    AlwaysAuthenticate,
    /// Its public half is not there.
    NoPublicHalf,
    /// Its public half shows no point on P-256.
    NotP256,
    /// Its private half is not there.
    NoPrivateHalf,
}
