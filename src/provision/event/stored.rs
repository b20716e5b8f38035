//! The stored form of an event: a JSON body with kind and version beside it, and how bodies of older versions are read.
//!
//! Invariant: what is stored is never rewritten; an older body is lifted, version by version, whenever it is read.

use super::{EnrolledIdentity, Event};
use crate::provision::fault::{Blame, Told};
use serde_json::Value;

/// Each kind of event with the version of its stored form.
///
/// A kind whose body changes gets the next version here and a step in `lift`. The ledger's own version goes up with
/// it, so that an older program refuses the file.
pub const VERSIONS: [(&str, u32); 38] = [
    ("arrived", 1),
    ("identified", 1),
    ("id_checked_out", 1),
    ("id_returned", 2),
    ("link_measured", 1),
    ("interrupted", 2),
    ("accepted", 1),
    ("key_read", 1),
    ("endorsement_read", 2),
    ("registration_id_derived", 1),
    ("serial_reserved", 1),
    ("serial_abandoned", 2),
    ("signed", 1),
    ("written", 1),
    ("restarted", 1),
    ("read_back", 2),
    ("proved", 1),
    ("sealed", 1),
    ("recognised", 1),
    ("passed", 3),
    ("injected", 1),
    ("failed", 3),
    ("errored", 2),
    ("loopback_tested", 1),
    ("shift_opened", 1),
    ("shift_closed", 2),
    ("listed", 1),
    ("charged", 1),
    ("service_busy", 1),
    ("upload_paused", 1),
    ("upload_resumed", 1),
    ("enrolled", 1),
    ("enrollment_refused", 2),
    ("enrollment_disabled", 1),
    ("enrollment_deferred", 2),
    ("enrollment_retried", 2),
    ("enrollment_ordered", 1),
    ("enrollment_deleted", 1),
];

/// The member of a body that is not the event's own: why a person did it. No event has a field of this name.
const BECAUSE: &str = "because";

/// Why a stored body is no event to this program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The kind, or this version of it, is not known here.
    #[error("{kind} of version {version} was written by a newer program")]
    Newer {
        /// The kind.
        kind: String,
        /// Its version.
        version: i64,
    },
    /// No program wrote this.
    #[error("{0}")]
    Damaged(String),
}

/// The version in which events of this kind are stored; none for a kind that is not known here.
pub fn version(kind: &str) -> Option<u32> {
    let known = VERSIONS.iter().find(|(known, _)| *known == kind);
    known.map(|(_, version)| *version)
}

/// The body to store, in the version of its kind.
///
/// # Errors
/// A value in the event that JSON has no form for.
pub fn write(event: &Event, because: Option<&str>) -> serde_json::Result<String> {
    let Some(because) = because else {
        return serde_json::to_string(event);
    };
    let mut body = serde_json::to_value(event)?;
    body[BECAUSE] = because.into();
    Ok(body.to_string())
}

/// The event that a stored body tells of, as the newest version of its kind has it, and why a person did it.
///
/// # Errors
/// [`Unreadable::Newer`] for what a newer program wrote, [`Unreadable::Damaged`] for what none did.
pub fn read(kind: &str, version: i64, body: &str) -> Result<(Event, Option<String>), Unreadable> {
    let newest = self::version(kind).map_or(0, i64::from);
    if version > newest {
        let kind = kind.to_owned();
        return Err(Unreadable::Newer { kind, version });
    }
    let mut body: Value = serde_json::from_str(body).map_err(damaged)?;
    let because = match body.as_object_mut().and_then(|body| body.remove(BECAUSE)) {
        None => None,
        Some(Value::String(reason)) => Some(reason),
        Some(_) => return Err(damaged("its reason is no text")),
    };
    for version in version..newest {
        lift(kind, version, &mut body).map_err(damaged)?;
    }
    let event: Event = serde_json::from_value(body).map_err(damaged)?;
    match event.kind() == kind {
        true => Ok((event, because)),
        false => Err(damaged("its kind is not that of its body")),
    }
}

/// Turns a body of `version` into one of the next version.
///
/// Version 2 of a verdict refers to what identifies the device, which stands whole in version 1. Version 2 of a kind
/// with a fault or a reason in it has that as a code with arguments; the sentences of version 1 are read as they are,
/// and the reason for which an ID was returned becomes the fault that it was the sentence of. Before version 2 of what
/// was read back, each value was read; before that of a shift's balance, nobody had disabled a unit that passed.
fn lift(kind: &str, version: i64, body: &mut Value) -> Result<(), String> {
    match (kind, version) {
        ("passed", 1) => refer(body, "/enrollment/identity"),
        ("failed", 1) => refer(body, "/disable/identity"),
        ("id_returned", 1) => reason(body),
        ("interrupted" | "errored" | "enrollment_refused" | "enrollment_deferred", 1) => Ok(()),
        // An enrollment said nothing then of tags, hubs and policies.
        ("passed" | "failed", 2) | ("enrollment_retried", 1) => Ok(()),
        ("endorsement_read" | "serial_abandoned" | "read_back" | "shift_closed", 1) => Ok(()),
        _ => Err(format!("{kind} has no version {version}")),
    }
}

/// Puts the reference to an identity in its place, if there is one.
fn refer(body: &mut Value, place: &str) -> Result<(), String> {
    let Some(identity) = body.pointer_mut(place) else {
        return Ok(());
    };
    let whole: EnrolledIdentity =
        serde_json::from_value(identity.take()).map_err(|e| e.to_string())?;
    *identity = serde_json::to_value(whole.reference()).map_err(|e| e.to_string())?;
    Ok(())
}

/// Makes a fault of the sentence that says why an ID was returned: a unit failed.
fn reason(body: &mut Value) -> Result<(), String> {
    let Some(Value::String(sentence)) = body.get("reason") else {
        return Err("its reason is no text".to_owned());
    };
    let told = Told {
        code: "failed".to_owned(),
        blame: Blame::Device,
        what: sentence.clone(),
        next: String::new(),
    };
    body["reason"] = serde_json::to_value(told).map_err(|e| e.to_string())?;
    Ok(())
}

fn damaged(what: impl ToString) -> Unreadable {
    Unreadable::Damaged(what.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    use crate::provision::bytes::Digest;
    use crate::provision::event::{EndorsementVerdict, IdentityRef};
    use crate::provision::fault::{Fault, Unsigned};

    fn opened() -> Event {
        Event::ShiftOpened {
            shift: "early".to_owned(),
        }
    }

    #[test]
    fn a_reason_stands_beside_the_event_and_is_no_part_of_it() {
        let plain = write(&opened(), None).unwrap();
        assert_eq!(plain, r#"{"kind":"shift_opened","shift":"early"}"#);
        assert_eq!(read("shift_opened", 1, &plain), Ok((opened(), None)));
        let said = write(&opened(), Some("a new week")).unwrap();
        let read_back = read("shift_opened", 1, &said).unwrap();
        assert_eq!(read_back, (opened(), Some("a new week".to_owned())));
    }

    #[test]
    fn what_a_newer_program_wrote_is_told_from_damage() {
        let body = write(&opened(), None).unwrap();
        for (kind, version) in [("shift_opened", 9), ("shift_moved", 1)] {
            let found = read(kind, version, &body).unwrap_err();
            assert!(matches!(found, Unreadable::Newer { .. }), "{found}");
        }
        let reason_is_a_number = r#"{"kind":"shift_opened","shift":"early","because":7}"#;
        for (kind, version, body) in [
            ("shift_opened", 0, body.as_str()),
            ("shift_closed", 1, body.as_str()),
            ("shift_opened", 1, "early"),
            ("shift_opened", 1, "[]"),
            ("shift_opened", 1, r#"{"kind":"shift_opened"}"#),
            ("shift_opened", 1, reason_is_a_number),
        ] {
            let found = read(kind, version, body).unwrap_err();
            assert!(matches!(found, Unreadable::Damaged(_)), "{body}: {found}");
        }
    }

    #[test]
    fn a_verdict_of_version_1_is_lifted_to_a_reference() {
        let x509 = r#"{"type":"x509","certificate":"AAEC"}"#;
        let tpm = r#"{"type":"tpm","endorsement_key":"AwQF","storage_root_key":"Bg=="}"#;
        for (identity, reference) in [
            (
                x509,
                IdentityRef::X509 {
                    certificate_sha256: Digest::of(&[0, 1, 2]),
                },
            ),
            (
                tpm,
                IdentityRef::Tpm {
                    endorsement_key_sha256: Digest::of(&[3, 4, 5]),
                },
            ),
        ] {
            let enrollment = format!(
                r#"{{"dps":"main","registration_id":"gw-1","device_id":"GW-1","identity":{identity},"initial_desired":{{"a":1.5}}}}"#
            );
            let body = format!(r#"{{"kind":"passed","enrollment":{enrollment}}}"#);
            let (event, because) = read("passed", 1, &body).unwrap();
            let Event::Passed { enrollment: record } = event else {
                panic!("{event:?}");
            };
            assert_eq!((record.identity, because), (reference, None));
            assert_eq!(record.initial_desired, Some(serde_json::json!({"a": 1.5})));
            assert!(
                read("passed", 2, &body).is_err(),
                "no such body is of version 2"
            );
        }
    }

    #[test]
    fn reasons_of_version_1_keep_their_sentence() {
        let serial = "40".repeat(20);
        let body =
            format!(r#"{{"kind":"serial_abandoned","serial":"{serial}","reason":"no answer"}}"#);
        let (event, _) = read("serial_abandoned", 1, &body).unwrap();
        assert!(
            matches!(&event, Event::SerialAbandoned { reason: Unsigned::Told(told), .. } if told == "no answer"),
            "{event:?}"
        );
        let body = r#"{"kind":"id_returned","device_id":"GW-1","uid":"AQ==","reason":"it broke"}"#;
        let (event, _) = read("id_returned", 1, body).unwrap();
        let Event::IdReturned { reason, .. } = event else {
            panic!("{event:?}");
        };
        assert!(matches!(*reason, Fault::Told(told) if told.what == "it broke"));
        let record = r#"{"kind":"endorsement_read","endorsement_key":"AQ==","storage_root_key":"Ag==","verdict":{"verdict":"waived","reason":"a pilot lot; no certificate"}}"#;
        let (event, _) = read("endorsement_read", 1, record).unwrap();
        let Event::EndorsementRead(record) = event else {
            panic!("{event:?}");
        };
        assert!(!record.persisted, "the first form did not have it");
        let verdict = EndorsementVerdict::Waived {
            reason: Some("a pilot lot; no certificate".to_owned()),
            missing: None,
        };
        assert_eq!(record.verdict, verdict);
    }

    #[test]
    fn a_failure_of_version_1_may_have_nothing_to_disable() {
        let fault = r#"{"code":"c","blame":"device","what":"w","next":"n"}"#;
        let body = format!(r#"{{"kind":"failed","fault":{fault}}}"#);
        let (event, _) = read("failed", 1, &body).unwrap();
        assert!(
            matches!(event, Event::Failed { disable: None, .. }),
            "{event:?}"
        );
        for kind in ["interrupted", "errored"] {
            let body = format!(r#"{{"kind":"{kind}","fault":{fault}}}"#);
            assert_eq!(read(kind, 1, &body).unwrap().0.kind(), kind);
        }
    }
}
