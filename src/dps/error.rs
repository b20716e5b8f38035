//! What can go wrong between the station and DPS, and what each case means for a person.

use super::{Dps, Key};
pub use crate::provision::fault::Complaint;
use crate::provision::fault::{
    DpsSetting, DpsUntrusted, Fault, Malformed, NoAnswer, NoToken, ProxyRefused, ProxyUnreachable,
    RecordTrouble, TokenTrouble, TrustFlaw, harmless,
};
use serde::Deserialize;
use std::time::Duration;

/// Longest piece of the service's text that is kept, in characters.
const TEXT_LIMIT: usize = 200;

/// A call to DPS that did not give what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DpsError {
    /// An option cannot work; nothing was sent.
    Configuration(DpsSetting),
    /// No connection; nothing was sent. It may be there again in a moment.
    Unreachable(NoConnection),
    /// The proxy does not take who the station is to it (407); nothing was sent.
    ProxyRefused {
        /// Whether it was given a user and a password.
        known: bool,
    },
    /// What answers does not prove to be the service; nothing was sent.
    Untrusted(TrustFlaw),
    /// What should give a token cannot; nothing was sent.
    NoToken(TokenTrouble),
    /// The service does not take the token (401), and the next call has a new one: it may be made again, once.
    TokenRefused(Complaint),
    /// The service does not take the credential (401, 403).
    Unauthorized(Complaint),
    /// The service is too busy and did nothing (429).
    Throttled {
        /// How long it asks to be left alone, if it says.
        retry_after: Option<Duration>,
        /// Its words.
        complaint: Complaint,
    },
    /// The service did not do it (any other 4xx).
    Refused(Complaint),
    /// The request was sent and may or may not have taken effect: no answer, a broken one, or a 5xx.
    Unknown {
        /// What came instead.
        why: NoAnswer,
        /// How long a 5xx asks that the service be left alone, if it says.
        retry_after: Option<Duration>,
    },
    /// The answer is not what the protocol says; the request may have taken effect.
    Malformed(Malformed),
}

/// Where the way to the service ended, and what was said there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoConnection {
    /// At the service.
    Service(String),
    /// At the proxy, or behind it.
    Proxy(String),
    /// At the program that gives the tokens, and may give one later.
    Token(TokenTrouble),
}

impl DpsError {
    /// How long the service asks to be left alone, if it says.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after, .. } | Self::Unknown { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The request was sent, and no whole answer came.
    pub(super) fn silence(why: NoAnswer) -> Self {
        Self::Unknown {
            why,
            retry_after: None,
        }
    }
}

/// Reads an error body; one that is no error object leaves the status alone.
pub(super) fn read_complaint(status: u16, body: &[u8]) -> Complaint {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Body {
        error_code: Option<i64>,
        message: Option<String>,
        tracking_id: Option<String>,
    }
    let body: Body = serde_json::from_slice(body).unwrap_or_default();
    let text = |text: Option<String>| harmless(&text.unwrap_or_default(), TEXT_LIMIT);
    Complaint {
        status: Some(status),
        code: body.error_code,
        message: text(body.message),
        tracking_id: text(body.tracking_id),
    }
}

impl Dps {
    /// What `error` means for a person, naming this instance and its URL.
    pub fn fault(&self, error: &DpsError) -> Fault {
        let (dps, url) = (self.name().to_owned(), self.url().to_owned());
        match error.clone() {
            DpsError::Configuration(setting) => Fault::DpsConfiguration { dps, setting },
            DpsError::Unreachable(NoConnection::Service(said)) => {
                Fault::DpsUnreachable { dps, url, said }
            }
            DpsError::Unreachable(NoConnection::Proxy(said)) => {
                let proxy = self.proxy().unwrap_or_default().to_owned();
                Fault::ProxyUnreachable(ProxyUnreachable { dps, proxy, said })
            }
            DpsError::Unreachable(NoConnection::Token(why)) | DpsError::NoToken(why) => {
                let program = match &self.key {
                    Key::Bearer(command) => command.program().to_owned(),
                    Key::Sas(_) => String::new(),
                };
                Fault::NoToken(NoToken { dps, program, why })
            }
            DpsError::ProxyRefused { known } => {
                let proxy = self.proxy().unwrap_or_default().to_owned();
                Fault::ProxyRefused(ProxyRefused { dps, proxy, known })
            }
            DpsError::Untrusted(flaw) => Fault::DpsUntrusted(DpsUntrusted { dps, url, flaw }),
            DpsError::Unauthorized(complaint) | DpsError::TokenRefused(complaint) => {
                Fault::DpsUnauthorized {
                    dps,
                    url,
                    sas: complaint.status == Some(401) && matches!(self.key, Key::Sas(_)),
                    complaint: Box::new(complaint),
                    clock: self.clock_skew(),
                }
            }
            DpsError::Throttled { complaint, .. } => Fault::DpsThrottled {
                dps,
                url,
                complaint: Box::new(complaint),
            },
            DpsError::Refused(complaint) => Fault::DpsRefused {
                dps,
                url,
                complaint: Box::new(complaint),
            },
            DpsError::Unknown { why, .. } => Fault::DpsNoAnswer { dps, url, why },
            DpsError::Malformed(why) => Fault::DpsMalformed { dps, url, why },
        }
    }
}

/// What a [`DpsError`] says of one record.
impl From<DpsError> for RecordTrouble {
    fn from(error: DpsError) -> Self {
        match error {
            DpsError::Unauthorized(words)
            | DpsError::TokenRefused(words)
            | DpsError::Refused(words)
            | DpsError::Throttled {
                complaint: words, ..
            } => Self::Complaint(Box::new(words)),
            DpsError::Unknown { why, .. } => Self::NoAnswer(why),
            DpsError::Unreachable(NoConnection::Service(said) | NoConnection::Proxy(said)) => {
                Self::NoAnswer(NoAnswer::Network(said))
            }
            DpsError::Malformed(why) => Self::Malformed(why),
            // Nothing was sent.
            DpsError::Configuration(_)
            | DpsError::ProxyRefused { .. }
            | DpsError::Untrusted(_)
            | DpsError::NoToken(_)
            | DpsError::Unreachable(NoConnection::Token(_)) => Self::NotHeld,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_words_are_kept_bounded_and_harmless() {
        let body =
            br#"{"errorCode":401002,"trackingId":"8ad0463c","message":"Un\u001b[31mauthorized"}"#;
        let read = read_complaint(401, body);
        assert_eq!((read.status, read.code), (Some(401), Some(401_002)));
        assert_eq!(read.message, "Un?[31mauthorized");
        assert_eq!(read.tracking_id, "8ad0463c");
        let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(10_000));
        assert_eq!(read_complaint(400, long.as_bytes()).message.len(), 200);
        let none = read_complaint(502, b"<html>");
        assert_eq!((none.code, none.message.as_str()), (None, ""));
    }
}
