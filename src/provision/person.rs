//! A person who acts, and why: the name and the reason as they go on record.
//!
//! Invariant: a name is not empty, and name and reason are bounded text that is harmless wherever it is shown.

use super::fault::harmless;

/// The longest name of a person, in characters.
pub const NAME_MAX: usize = 64;

/// The longest reason, in characters.
const REASON_MAX: usize = 200;

/// A person who acts, as the ledger records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    name: String,
    reason: Option<String>,
}

/// A text that cannot go on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PersonError {
    /// The name is empty, too long, or has characters that cannot be shown.
    #[error("the name of a person must have 1 to {NAME_MAX} printable characters")]
    Name,
    /// The reason is empty, too long, or has characters that cannot be shown.
    #[error("a reason must have 1 to {REASON_MAX} printable characters, all on one line")]
    Reason,
}

impl Person {
    /// The person of this name, who acts for this reason if there is one; blanks around both are left out.
    pub fn new(name: &str, reason: Option<&str>) -> Result<Self, PersonError> {
        Ok(Self {
            name: fit(name, NAME_MAX).ok_or(PersonError::Name)?,
            reason: reason
                .map(|reason| fit(reason, REASON_MAX).ok_or(PersonError::Reason))
                .transpose()?,
        })
    }

    /// The person's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why they act, where they said.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

/// The text without blanks around it, if something is left, it is short enough, and all of it can be shown.
fn fit(text: &str, max: usize) -> Option<String> {
    let text = text.trim();
    let fits = !text.is_empty() && text.chars().count() <= max && harmless(text, max) == text;
    fits.then(|| text.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn name_and_reason_are_bounded_and_harmless() {
        let longest = ("n".repeat(NAME_MAX), "r".repeat(REASON_MAX));
        let person = Person::new(&format!(" {} ", longest.0), Some(&longest.1)).unwrap();
        assert_eq!(
            (person.name(), person.reason()),
            (&*longest.0, Some(&*longest.1))
        );
        for name in [
            "",
            "  ",
            "a\nb",
            "a\u{202e}b",
            "\u{1b}[31m",
            &(longest.0 + "n"),
        ] {
            assert_eq!(Person::new(name, None), Err(PersonError::Name), "{name:?}");
        }
        for reason in ["", "a\tb", &(longest.1 + "r")] {
            let found = Person::new("Ada", Some(reason));
            assert_eq!(found, Err(PersonError::Reason), "{reason:?}");
        }
    }
}
