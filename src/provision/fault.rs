//! A fault: who must act, what happened, what it means, and what to do next.
//!
//! Invariant: every fault that a person sees has all four, and none of them carries a secret or a control character.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Whose matter a fault is. It decides between FAIL (the unit is bad) and ERROR (the station or the cloud is).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The device under test: a FAIL.
    Device,
    /// The station, its ports, its HSM or its configuration: an ERROR, which never counts against a unit.
    Station,
    /// The provisioning service.
    Cloud,
}

/// Something went wrong, said so that a person can act on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// A stable word for programs, such as `device_silent`.
    pub code: String,
    /// Who must act.
    pub blame: Blame,
    /// What happened, naming the thing; one clause, no full stop.
    pub what: String,
    /// What to do next; one clause, no full stop.
    pub next: String,
}

impl Fault {
    /// A FAIL: this unit is bad, or may not be provisioned.
    pub fn device(code: &str, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Blame::Device, code, what.into(), next.into())
    }

    /// An ERROR: the station could not do its part.
    pub fn station(code: &str, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Blame::Station, code, what.into(), next.into())
    }

    /// The cloud refused, or did not answer.
    pub fn cloud(code: &str, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Blame::Cloud, code, what.into(), next.into())
    }

    fn new(blame: Blame, code: &str, what: String, next: String) -> Self {
        Self {
            code: code.to_owned(),
            blame,
            what: harmless(&what, 400),
            next: harmless(&next, 400),
        }
    }

    /// What the fault means for the unit in the bay.
    pub fn meaning(&self) -> &'static str {
        match self.blame {
            Blame::Device => "this unit is not provisioned",
            Blame::Station => "the unit is not judged; the station must be put right",
            Blame::Cloud => "the record is kept; nothing is lost",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.next)
    }
}

/// Makes foreign text safe for a screen, a file or a label: at most `max` characters, control characters and
/// everything that is not printable replaced by `?`.
///
/// Direction marks and zero-width characters go too: they can make one ID look like another.
pub fn harmless(text: &str, max: usize) -> String {
    let bad = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars()
        .take(max)
        .map(|c| if bad(c) { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_bounded_and_has_no_escapes() {
        assert_eq!(harmless("a\x1b[31mb\r\n\u{202e}c", 80), "a?[31mb???c");
        assert_eq!(harmless(&"x".repeat(100), 5), "xxxxx");
    }

    #[test]
    fn a_fault_reads_as_one_sentence() {
        let fault = Fault::device(
            "device_silent",
            "bay 1: no answer for 5 s",
            "check the plug, then put the unit in again",
        );
        assert_eq!(
            fault.to_string(),
            "bay 1: no answer for 5 s: check the plug, then put the unit in again"
        );
    }
}
