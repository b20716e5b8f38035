//! What ledgers of the first form told in sentences, and why a reservation came to no certificate.
//!
//! Invariant: a sentence is here only because it was recorded as one; nothing makes a new one.

use super::{Blame, Fault};
use serde::{Deserialize, Serialize};

/// A fault that was recorded as a sentence. It keeps that sentence, in the language in which it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// A stable word for programs, such as `device_silent`.
    pub code: String,
    /// Who must act.
    pub blame: Blame,
    /// What happened, naming the thing; one clause, no full stop.
    pub what: String,
    /// What to do next; one clause, no full stop.
    pub next: String,
}

/// Why a reservation came to no certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unsigned {
    /// The signature was asked for, and its outcome is not known.
    OutcomeUnknown,
    /// An earlier attempt ended before the outcome was on record.
    AttemptEnded,
    /// The station stopped before the outcome was on record.
    StationStopped,
    /// The record lacks the reservation, the key or the CA.
    RecordIncomplete,
    /// The HSM gave no signature, or what it gave did not pass its check.
    Fault(Box<Fault>),
    /// What a ledger of the first form says.
    #[serde(untagged)]
    Told(String),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::provision::fault::Fault;

    #[test]
    fn a_fault_is_a_code_with_arguments_and_an_old_one_keeps_its_sentence() {
        let fault = Fault::NoCa {
            product: "sensor".to_owned(),
        };
        let text = r#"{"code":"no_ca","args":{"product":"sensor"}}"#;
        assert_eq!(serde_json::to_string(&fault).unwrap(), text);
        assert_eq!(serde_json::from_str::<Fault>(text).unwrap(), fault);
        assert_eq!((fault.code(), fault.blame()), ("no_ca", Blame::Station));

        let text = r#"{"code":"no_ca","blame":"station","what":"product sensor has no CA","next":"name one"}"#;
        let told: Fault = serde_json::from_str(text).unwrap();
        assert!(matches!(&told, Fault::Told(told) if told.next == "name one"));
        assert_eq!((told.code(), told.blame()), ("no_ca", Blame::Station));
        assert_eq!(serde_json::to_string(&told).unwrap(), text);
        let wrong = r#"{"code":"no_ca","args":{"products":"sensor"}}"#;
        assert!(serde_json::from_str::<Fault>(wrong).is_err());
    }
}
