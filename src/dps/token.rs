//! Shared access signatures: a connection string parsed once, and tokens made from it.

use crate::provision::fault::DpsSetting;
use aws_lc_rs::hmac;
use data_encoding::BASE64;
use secrecy::{ExposeSecret, SecretString};
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use zeroize::Zeroizing;

/// How long a token is good for, in seconds (the DPS service SDKs' default).
const LIFETIME_S: i64 = 3600;

/// Makes tokens for one shared access policy of one DPS instance.
pub(super) struct TokenMaker {
    host: String,
    policy: String,
    key: hmac::Key,
    current: Mutex<Option<Current>>,
}

struct Current {
    token: SecretString,
    made_s: i64,
}

impl TokenMaker {
    /// Parses `HostName=…;SharedAccessKeyName=…;SharedAccessKey=…`. The error says what is wrong with the text and
    /// quotes none of it.
    pub(super) fn parse(connection_string: &SecretString) -> Result<Self, DpsSetting> {
        let lacks = |part: &str| DpsSetting::NoPart(part.to_owned());
        let (mut host, mut policy, mut key) = (None, None, None);
        for part in connection_string.expose_secret().trim().split(';') {
            // Only at the first '=': the key is base64 and ends in some of its own.
            match part.split_once('=') {
                Some(("HostName", value)) => host = Some(value),
                Some(("SharedAccessKeyName", value)) => policy = Some(value),
                Some(("SharedAccessKey", value)) => key = Some(value),
                _ if part.is_empty() => {}
                _ => {
                    return Err(DpsSetting::UnknownPart);
                }
            }
        }
        let host = host.filter(|text| !text.is_empty());
        let policy = policy.filter(|text| !text.is_empty());
        let key = BASE64
            .decode(key.ok_or_else(|| lacks("SharedAccessKey"))?.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| DpsSetting::KeyNotBase64)?;
        if key.is_empty() {
            return Err(lacks("SharedAccessKey"));
        }
        Ok(Self {
            host: host.ok_or_else(|| lacks("HostName"))?.to_ascii_lowercase(),
            policy: policy
                .ok_or_else(|| lacks("SharedAccessKeyName"))?
                .to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            current: Mutex::new(None),
        })
    }

    /// A token that is good at `now_s` (seconds since 1970): the last one until half its life is over, then a new one.
    pub(super) fn token(&self, now_s: i64) -> SecretString {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let age = |current: &Current| now_s - current.made_s;
        if let Some(current) = current
            .as_ref()
            .filter(|current| (0..LIFETIME_S / 2).contains(&age(current)))
        {
            return current.token.clone();
        }
        let resource = encode(&self.host);
        let expiry = now_s + LIFETIME_S;
        let token = SecretString::from(format!(
            "SharedAccessSignature sr={resource}&sig={}&se={expiry}&skn={}",
            encode(&signature(&self.key, &resource, expiry)),
            encode(&self.policy)
        ));
        *current = Some(Current {
            token: token.clone(),
            made_s: now_s,
        });
        token
    }
}

/// Base64 of HMAC-SHA256 over the resource, exactly as it stands in the token, a line feed and the expiry.
fn signature(key: &hmac::Key, resource: &str, expiry_s: i64) -> String {
    let mac = hmac::sign(key, format!("{resource}\n{expiry_s}").as_bytes());
    BASE64.encode(mac.as_ref())
}

/// Percent-encodes all but RFC 3986's unreserved characters, with upper-case digits.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => write!(out, "%{byte:02X}").expect("writing to a String cannot fail"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const EXPIRY: i64 = 1_893_456_000;

    fn signer(text: &str) -> Result<TokenMaker, DpsSetting> {
        TokenMaker::parse(&SecretString::from(text.to_owned()))
    }

    fn connection_string() -> String {
        format!(
            "HostName=My-DPS.azure-devices-provisioning.net;SharedAccessKeyName=provisioningserviceowner;SharedAccessKey={KEY}"
        )
    }

    #[test]
    fn the_token_is_the_published_one() {
        let token = signer(&connection_string())
            .unwrap()
            .token(EXPIRY - LIFETIME_S);
        assert_eq!(
            token.expose_secret(),
            "SharedAccessSignature sr=my-dps.azure-devices-provisioning.net\
             &sig=6W5DahocKfLM8oNRUw8Xg%2F%2FIgD2ID7rThr5fGpszlV4%3D&se=1893456000&skn=provisioningserviceowner"
        );
    }

    #[test]
    fn the_resource_is_signed_as_it_is_spelt() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64.decode(KEY.as_bytes()).unwrap());
        assert_eq!(
            signature(&key, "0ne00AAAAAA%2fregistrations%2fdev-001", EXPIRY),
            "OW2/KGcydhSuPxIHG9lkIANKmo9QC7jjtmaAtvXCG5g="
        );
        assert_eq!(
            signature(&key, "0ne00AAAAAA%2Fregistrations%2Fdev-001", EXPIRY),
            "90TFn/58JS8QBvFjBKeaeZB4Ri9StuFArxp80DQptFE="
        );
    }

    #[test]
    fn a_token_is_kept_for_half_its_life_and_not_across_a_clock_set_back() {
        let signer = signer(&connection_string()).unwrap();
        let at = |now_s| signer.token(now_s).expose_secret().to_owned();
        let first = at(10_000);
        assert_eq!(at(10_000 + LIFETIME_S / 2 - 1), first);
        assert_ne!(at(10_000 + LIFETIME_S / 2), first);
        let later = at(20_000);
        assert_ne!(at(19_999), later);
    }

    #[test]
    fn a_bad_connection_string_is_refused_without_being_quoted() {
        let why = |text: &str| signer(text).map(|_| ()).unwrap_err();
        let lacks = |part: &str| DpsSetting::NoPart(part.to_owned());
        assert_eq!(why(""), lacks("SharedAccessKey"));
        assert_eq!(
            why("HostName=h;SharedAccessKeyName=p;SharedAccessKey=s3cret"),
            DpsSetting::KeyNotBase64
        );
        assert_eq!(
            why("HostName=;SharedAccessKeyName=p;SharedAccessKey=AAAA"),
            lacks("HostName")
        );
        assert_eq!(why("s3cret"), DpsSetting::UnknownPart);
    }
}
