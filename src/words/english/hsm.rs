//! What an HSM did not do, in English.

use crate::provision::fault::{HsmError, KeyFlaw, PinAdvice};

pub fn what(error: &HsmError) -> String {
    match error {
        HsmError::Module { module, said } => {
            format!("the PKCS #11 module {module} cannot be loaded and initialized ({said})")
        }
        HsmError::TokenMissing {
            module,
            token,
            present,
        } => match &present[..] {
            [] => format!("no token of {module} is labelled {token:?}, and no other is there"),
            labels => format!(
                "no token of {module} is labelled {token:?}; the labels there are {}",
                labels.join(", ")
            ),
        },
        HsmError::TokenAmbiguous {
            module,
            token,
            count,
        } => format!("{count} tokens of {module} are labelled {token:?}"),
        HsmError::Pin {
            token,
            said,
            advice,
        } => pin_failed(token, said.as_deref(), *advice),
        HsmError::KeyMissing { token, label } => {
            format!("token {token:?} has no key labelled {label:?}")
        }
        HsmError::KeyAmbiguous {
            token,
            label,
            count,
        } => format!("token {token:?} has {count} keys labelled {label:?}"),
        HsmError::KeyUnfit { token, label, flaw } => format!(
            "key {label:?} of token {token:?} is not fit to sign with ({})",
            key_flaw(*flaw)
        ),
        HsmError::KeyUnmade { token, label, said } => {
            format!("token {token:?} made no P-256 key labelled {label:?} ({said})")
        }
        HsmError::Token {
            module,
            token,
            said,
        } => {
            let said = said
                .as_deref()
                .unwrap_or("the session is no longer logged in");
            format!("token {token:?} of {module} fails ({said})")
        }
        HsmError::Sign { token, label, said } => format!(
            "key {label:?} of token {token:?} did not sign ({said}), and its serial number is given up"
        ),
        HsmError::Hung { module } => format!("{module} does not answer"),
        HsmError::Busy { module } => format!("{module} has too many calls waiting"),
        HsmError::AnotherKey { label, ca } => {
            format!("the key {label} in the HSM is not the one in the certificate of CA {ca}")
        }
    }
}

pub fn next(error: &HsmError) -> &'static str {
    match error {
        HsmError::Module { .. } => {
            "install the HSM's software (scripts/setup installs SoftHSM), or correct `module` and its environment"
        }
        HsmError::TokenMissing { .. } => "connect the HSM, or correct `token`",
        HsmError::TokenAmbiguous { .. } => "give each a label of its own",
        HsmError::Pin { advice, .. } => pin(*advice),
        HsmError::KeyMissing { .. } => "make it with `station ca init`, or correct `label`",
        HsmError::KeyAmbiguous { .. } => "relabel all but the one to use",
        HsmError::KeyUnfit { .. } => {
            "relabel it, or give `label` another name, and make one with `station ca init`"
        }
        HsmError::KeyUnmade { .. } => {
            "make the pair under this label with the HSM maker's tool, then `station ca init` adopts it"
        }
        HsmError::Token { .. } => "check the HSM and its connection, then try again",
        HsmError::Sign { .. } => "check the HSM and the key, then try again",
        HsmError::Hung { .. } => "check the HSM; the line goes on by itself once it answers",
        HsmError::Busy { .. } => "try again, or check why the HSM is slow",
        HsmError::AnotherKey { .. } => "correct label, token or issuing in station.toml",
    }
}

fn pin_failed(token: &str, said: Option<&str>, advice: PinAdvice) -> String {
    let why = said.unwrap_or(match advice {
        PinAdvice::LastTry => "one try is left before the token locks",
        _ => "the token is locked",
    });
    match advice {
        PinAdvice::Wait => format!("the login to token {token:?} failed ({why})"),
        _ => format!("the PIN of token {token:?} cannot be used ({why}) and is not tried again"),
    }
}

fn pin(advice: PinAdvice) -> &'static str {
    match advice {
        PinAdvice::Wait => "check the HSM; it is tried again after ten seconds",
        PinAdvice::Correct => "correct `pin` and start the station again",
        PinAdvice::Unlock => {
            "have the HSM's security officer unlock it, then start the station again"
        }
        PinAdvice::Set => {
            "set a user PIN with the HSM maker's tool, correct `pin` and start the station again"
        }
        PinAdvice::LastTry => {
            "correct `pin`, log in once with the HSM maker's tool, which gives the tries back, and start the station again"
        }
        PinAdvice::NoPad => {
            "where the HSM has a PIN pad, use a token that takes its PIN from a program, and start the station again"
        }
        PinAdvice::Look => {
            "log in once with the HSM maker's tool to see what is wrong, then start the station again"
        }
    }
}

fn key_flaw(flaw: KeyFlaw) -> &'static str {
    match flaw {
        KeyFlaw::NotElliptic => "it is not an elliptic curve key",
        KeyFlaw::Readable => "it can be read: CKA_SENSITIVE is not true",
        KeyFlaw::Extractable => "it can leave the token: CKA_EXTRACTABLE is not false",
        KeyFlaw::MayNotSign => "it may not sign: CKA_SIGN is not true",
        KeyFlaw::AlwaysAuthenticate => "it wants the PIN again for each signature",
        KeyFlaw::NoPublicHalf => "its public half is not there",
        KeyFlaw::NotP256 => "its public half does not show a point on P-256",
        KeyFlaw::NoPrivateHalf => "its private half is not there",
    }
}
