//! What a person reads: the words for every fault, made here at the edge and nowhere else.
//!
//! The record and the wire hold codes and arguments ([`crate::provision::fault`]); a language is one module of this room
//! that has a row for each code. There is English.

mod english;

pub use english::{
    certificate_flaw, class, complaint, difference, endorsement_flaw, key_kind, line, misfit,
    progress, step,
};

use crate::provision::fault::{Fault, Told, harmless};
use crate::provision::floor::{Activity, Outcome};
use serde_json::{Value, json};

/// The longest clause that a fault is told in, in characters.
const CLAUSE_MAX: usize = 400;

/// A fault as a person reads it; each part is one clause without a full stop, harmless and bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// What happened, naming the thing.
    pub what: String,
    /// What it means for the unit in the bay.
    pub meaning: &'static str,
    /// What to do next.
    pub next: String,
}

/// The words for a fault.
pub fn of(fault: &Fault) -> Words {
    let (what, next) = match fault {
        Fault::Told(Told { what, next, .. }) => (what.clone(), next.clone()),
        fault => (english::what(fault), english::next(fault)),
    };
    Words {
        what: harmless(&what, CLAUSE_MAX),
        meaning: english::meaning(fault.blame()),
        next: harmless(&next, CLAUSE_MAX),
    }
}

/// The same as one sentence: what happened, and what to do next.
pub fn sentence(fault: &Fault) -> String {
    let Words { what, next, .. } = of(fault);
    format!("{what}: {next}")
}

/// Adds to every fault in a JSON value, wherever it stands, who must act and its words: `blame`, `what` and `next`,
/// beside `code` and `args`. For what is printed; nothing of it is ever stored.
pub fn tell(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(tell),
        Value::Object(members) => {
            members.values_mut().for_each(tell);
            if !members.contains_key("code") || members.contains_key("what") {
                return;
            }
            if let Ok(fault) = serde_json::from_value::<Fault>(Value::Object(members.clone())) {
                let words = of(&fault);
                members.insert("blame".to_owned(), json!(fault.blame()));
                members.insert("what".to_owned(), json!(words.what));
                members.insert("next".to_owned(), json!(words.next));
            }
        }
        _ => {}
    }
}

/// The words for how an attempt ended.
pub fn of_outcome(outcome: &Outcome) -> Words {
    match &outcome.fault {
        Some(fault) => Words {
            meaning: english::meaning_of(outcome.verdict, fault.blame()),
            ..of(fault)
        },
        None => english::good(outcome),
    }
}

/// The lines of a note as a person reads them: those that it has, and the sentence of its fault.
pub fn note_lines(lines: &[String], fault: Option<&Fault>) -> Vec<String> {
    lines.iter().cloned().chain(fault.map(sentence)).collect()
}

/// What the enroller is doing, or did last.
pub fn activity(activity: &Activity) -> String {
    match activity {
        Activity::Uploading => "uploading".to_owned(),
        Activity::Uploaded => "uploaded".to_owned(),
        Activity::Stopped(fault) => sentence(fault),
    }
}
