//! What can go wrong between the station and DPS, and what each case means for a person.

use super::Dps;
use crate::provision::fault::{Fault, harmless};
use serde::Deserialize;
use std::fmt;
use std::time::Duration;

/// Longest piece of the service's text that is kept, in characters.
const TEXT_LIMIT: usize = 200;

/// A call to DPS that did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum DpsError {
    /// The options cannot work; nothing was sent.
    #[error("{0}")]
    Configuration(String),
    /// No connection; nothing was sent.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The service does not take the credential (401, 403).
    #[error("refuses the credential: {0}")]
    Unauthorized(Complaint),
    /// The service is too busy and did nothing (429).
    #[error("is too busy: {complaint}")]
    Throttled {
        /// How long it asks to be left alone, if it says.
        retry_after: Option<Duration>,
        /// Its words.
        complaint: Complaint,
    },
    /// The service did not do it (any other 4xx).
    #[error("refuses: {0}")]
    Refused(Complaint),
    /// The request was sent and may or may not have taken effect: no answer, a broken one, or a 5xx.
    #[error("gave no usable answer: {why}")]
    Unknown {
        /// What came instead.
        why: String,
        /// How long a 5xx asks that the service be left alone, if it says.
        retry_after: Option<Duration>,
    },
    /// The answer is not what the protocol says; the request may have taken effect.
    #[error("answered what the protocol does not know: {0}")]
    Malformed(String),
}

/// The service's error object (`ProvisioningServiceErrorDetails` of the service's specification), bounded and harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// HTTP status.
    pub status: u16,
    /// `errorCode`: the status times 1000 plus a detail; absent if the body is not an error object.
    pub code: Option<i64>,
    /// `message`, verbatim up to 200 characters.
    pub message: String,
    /// `trackingId`, for Microsoft's support.
    pub tracking_id: String,
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
    pub(super) fn silence(why: String) -> Self {
        Self::Unknown {
            why,
            retry_after: None,
        }
    }
}

impl Complaint {
    /// Reads an error body; one that is no error object leaves the status alone.
    pub(super) fn read(status: u16, body: &[u8]) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Body {
            error_code: Option<i64>,
            message: Option<String>,
            tracking_id: Option<String>,
        }
        let body: Body = serde_json::from_slice(body).unwrap_or_default();
        let text = |text: Option<String>| harmless(&text.unwrap_or_default(), TEXT_LIMIT);
        Self {
            status,
            code: body.error_code,
            message: text(body.message),
            tracking_id: text(body.tracking_id),
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{code}")?,
            None => write!(f, "HTTP {}", self.status)?,
        }
        if !self.message.is_empty() {
            write!(f, " \"{}\"", self.message)?;
        }
        if !self.tracking_id.is_empty() {
            write!(f, ", tracking ID {}", self.tracking_id)?;
        }
        Ok(())
    }
}

impl Dps {
    /// What `error` means for a person, naming this instance and its URL.
    pub fn fault(&self, error: &DpsError) -> Fault {
        let name = self.name();
        let what = format!("DPS {name:?} at {} {error}", self.url());
        match error {
            DpsError::Configuration(_) => configuration_fault(name, error),
            DpsError::Unreachable(_) => Fault::cloud(
                "dps_unreachable",
                what,
                "nothing is lost; check the network, service_url and ca_file, then try again",
            ),
            DpsError::Unauthorized(_) => Fault::station(
                "dps_unauthorized",
                what,
                match self.clock_warning() {
                    Some(warning) => format!("{warning}, then try again"),
                    None => format!(
                        "put the credential of [[dps]] {name:?} right, then try again; nothing is lost"
                    ),
                },
            ),
            DpsError::Throttled { .. } => Fault::cloud(
                "dps_throttled",
                what,
                "nothing is lost; try again later, or lower share for all stations of this DPS",
            ),
            DpsError::Refused(_) => Fault::cloud(
                "dps_refused",
                what,
                format!("check service_url of [[dps]] {name:?}, and the service's message"),
            ),
            DpsError::Unknown { .. } => Fault::cloud(
                "dps_no_answer",
                what,
                "nothing is lost; try again later: what was sent is read back first",
            ),
            DpsError::Malformed(_) => Fault::cloud(
                "dps_malformed",
                what,
                format!("check that service_url of [[dps]] {name:?} leads to a DPS"),
            ),
        }
    }
}

/// What a [`DpsError`] of [`Dps::new`] means for a person: there is no instance yet to ask.
pub fn configuration_fault(name: &str, error: &DpsError) -> Fault {
    Fault::station(
        "dps_configuration",
        format!("[[dps]] {name:?}: {error}"),
        "put it right in station.toml",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_words_are_kept_bounded_and_harmless() {
        let body =
            br#"{"errorCode":401002,"trackingId":"8ad0463c","message":"Un\u001b[31mauthorized"}"#;
        assert_eq!(
            Complaint::read(401, body).to_string(),
            "401002 \"Un?[31mauthorized\", tracking ID 8ad0463c"
        );
        let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(10_000));
        assert_eq!(Complaint::read(400, long.as_bytes()).message.len(), 200);
        assert_eq!(Complaint::read(502, b"<html>").to_string(), "HTTP 502");
    }
}
